"""The last good version of every object, whichever places (files) say what of it. ``datastore.files`` keeps one.

Sans-IO: the owner puts what each place says now and calls ``settle(now)``. What appears or changes is taken at once. An
object that nothing says any more is removed when it is still absent after ``GRACE_SECONDS`` in which the whole
was there: the directory readable and this node's own Node in it. One that became unreadable, invalid or ambiguous keeps
its last good version, and a problem says why. Problems are counted and logged when they begin.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from bgpd.datastore.calico.decode import KINDS, Decoded, Key, Resource, Verdict
from bgpd.events import event
from bgpd.model.resources import LocalWorkload, Problem, Snapshot
from bgpd.model.status import DatastoreStatus

REASONS = ("yaml", "invalid", "duplicate", "io", "empty", "vanished")
GRACE_SECONDS = 0.3
"""Seconds: ``git``, ``rsync`` and ConfigMap swaps take a file away for a moment."""

SHOWN_SECONDS = 3600.0
"""Seconds for which it is reported that all objects of a kind went at once: nobody looks at the moment itself."""

log = logging.getLogger(__name__)
_SILENT = logging.Logger(f"{__name__}.fork", logging.CRITICAL + 1)


class Failure(NamedTuple):
    """Why a place could not be read as it should."""

    reason: str
    """One of ``REASONS``, which are counted; or nothing: what is set has no effect."""
    problem: Problem


class _Place(NamedTuple):
    objects: tuple[Decoded, ...]
    failures: tuple[Failure, ...]
    whole: bool
    ignored: int = 0
    """How many of the objects are none of our business."""


def _by_key(objects: Iterable[Decoded]) -> dict[Key, list[Decoded]]:
    found: dict[Key, list[Decoded]] = {}
    for decoded in objects:
        if decoded.key is not None:
            found.setdefault(decoded.key, []).append(decoded)
    return found


class Objects:
    """All objects that a datastore knows."""

    def __init__(self, node: str) -> None:
        self._own = Key("Node", node)
        self._places: dict[str, _Place] = {}
        self._failing: dict[str, tuple[Failure, ...]] = {}
        """The failures of the places that have any."""
        self._ignored = 0
        """Objects of all places that are none of our business."""
        self._decoded: dict[Key, list[tuple[str, Decoded]]] = {}
        """What the places state of each object now, in the order of the places' names."""
        self._good: dict[str, dict[str, Resource]] = {kind: {} for kind in KINDS}
        self._frozen: dict[str, Mapping[str, Any]] = {}
        """The mappings of the last snapshot, those of changed kinds left out: what did not change stays identical."""
        self._home: dict[Key, str] = {}
        """The place that each good version came from."""
        self._absent: dict[Key, float | None] = {}
        """Good objects that nothing says any more, and when they go; ``None`` while the clock stands still."""
        self._failures: dict[Key, tuple[Failure, ...]] = {}
        self._unusable: frozenset[tuple[str, str]] = frozenset()
        """What is there but never was good."""
        self._local_workloads: tuple[LocalWorkload, ...] | None = None
        self._local_failures: tuple[Failure, ...] = ()
        self._reported: set[Failure] = set()
        self._problems: tuple[Problem, ...] = ()
        self._changed = False
        self._lost_at: float | None = None
        self._was_whole = False
        self._in_sync = False
        self._readable = False
        self._events: Counter[tuple[str, str]] = Counter()
        self._errors: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
        self._counts: dict[str, int] = {}
        """How many good objects of each kind the last whole state had."""
        self._trial = False
        self._vanished: dict[str, tuple[float, Failure]] = {}
        """Kinds of which all went at once, and until when that is reported."""
        self._last_event: float | None = None
        self._log = log

    def fork(self) -> Objects:
        """The same objects for a trial: what is put there is seen, counted and logged nowhere else."""
        twin = Objects(self._own.name)
        twin._places = dict(self._places)
        twin._failing, twin._ignored = dict(self._failing), self._ignored
        twin._decoded = {key: list(found) for key, found in self._decoded.items()}
        twin._good = {kind: dict(good) for kind, good in self._good.items()}
        twin._frozen = dict(self._frozen)
        twin._home = dict(self._home)
        twin._absent = dict.fromkeys(self._absent)
        twin._failures = dict(self._failures)
        twin._unusable = self._unusable
        twin._local_workloads, twin._local_failures = self._local_workloads, self._local_failures
        twin._trial = True
        twin._reported, twin._problems = set(self._reported), self._problems
        twin._log = _SILENT
        return twin

    # -- what places say -----------------------------------------------------------------------------------------------

    def put(
        self, place: str, objects: Iterable[Decoded], failures: Iterable[Failure] = (), whole: bool = True
    ) -> None:
        """All that a place says now. With ``whole`` false a part of it could not be read: what it stated before and
        does not say now is held, not absent."""
        before = self._places.get(place)
        found, failures = tuple(objects), tuple(failures)
        if not found and not failures and whole and place in self._home.values():
            # `kubectl get > file` empties it first, and kubectl may fail then.
            message = "is empty: what it stated last stands; delete the file if nothing is meant"
            failures, whole = (Failure("empty", Problem(place, "", message)),), False
        ignored = sum(decoded.verdict is Verdict.IGNORED for decoded in found)
        self._places[place] = _Place(found, failures, whole, ignored)
        self._count(place, before, self._places[place])
        touched = self._say(place, before.objects if before is not None else (), found)
        if before is not None and whole != before.whole:
            touched |= {key for key, home in self._home.items() if home == place}
        for key in touched:
            self._judge(key)

    def drop(self, place: str) -> None:
        """The place is gone, and with it all that it stated."""
        before = self._places.pop(place, None)
        self._count(place, before, None)
        touched = self._say(place, before.objects if before is not None else (), ())
        if before is not None and not before.whole:
            touched |= {key for key, home in self._home.items() if home == place}
        for key in touched:
            self._judge(key)

    def _count(self, place: str, before: _Place | None, now: _Place | None) -> None:
        """Keeps what would else take a walk over all places at every change: a cluster has tens of thousands."""
        self._ignored += (now.ignored if now else 0) - (before.ignored if before else 0)
        if now is not None and now.failures:
            self._failing[place] = now.failures
        else:
            self._failing.pop(place, None)

    def decoded_at(self, place: str) -> tuple[Decoded, ...]:
        """What a place says now."""
        found = self._places.get(place)
        return found.objects if found is not None else ()

    def places(self) -> set[str]:
        return set(self._places)

    def _say(self, place: str, before: Iterable[Decoded], now: Iterable[Decoded]) -> set[Key]:
        """Takes note of what a place says now. Returns the keys of which it says something else than before: a file of
        5,000 objects in which one changed costs one."""
        was, found = _by_key(before), _by_key(now)
        touched = {key for key in was.keys() | found.keys() if was.get(key) != found.get(key)}
        for key in touched:
            every = [item for item in self._decoded.get(key, ()) if item[0] != place]
            every += [(place, decoded) for decoded in found.get(key, ())]
            every.sort(key=lambda item: item[0])
            self._decoded[key] = every
        return touched

    def _judge(self, key: Key) -> None:
        """What is good of one object, from all that is stated of it."""
        every = self._decoded.get(key, [])
        if not every:
            self._decoded.pop(key, None)
        living = [item for item in every if item[1].verdict is not Verdict.GONE]
        failures = [Failure("", problem) for _, decoded in every for problem in decoded.problems]
        self._absent.pop(key, None)
        if len(living) > 1:
            failures = [Failure("duplicate", self._duplicate(key, [place for place, _ in living]))]
        elif living:
            place, decoded = living[0]
            if decoded.verdict is Verdict.GOOD and decoded.resource is not None:
                self._set(key, decoded.resource, place)
            else:
                failures = [Failure("invalid", problem) for problem in decoded.problems]
        elif every:
            self._remove(key)
        elif key in self._home:
            place_stated = self._places.get(self._home[key])
            if place_stated is None or place_stated.whole:
                self._absent[key] = None
        if failures:
            self._failures[key] = tuple(failures)
        else:
            self._failures.pop(key, None)
        if (key in self._unusable) != (bool(living) and key not in self._home):
            self._unusable ^= {key}
            self._changed = True

    def _duplicate(self, key: Key, places: Sequence[str]) -> Problem:
        stands = "the last good version stands" if key in self._home else "neither is used"
        if len(set(places)) == 1:
            return Problem(f"{places[0]}: {key}", "", f"is there more than once: {stands}")
        return Problem(
            f"{' and '.join(sorted(set(places)))}: {key}", "", f"is in more than one file: {stands}"
        )

    def _set(self, key: Key, resource: Resource, place: str) -> None:
        known = self._good[key.kind].get(key.name)
        self._home[key] = place
        if known != resource:
            self._good[key.kind][key.name] = resource
            self._event(key, "add" if known is None else "change")

    def _remove(self, key: Key) -> None:
        self._absent.pop(key, None)
        if self._home.pop(key, None) is not None:
            del self._good[key.kind][key.name]
            self._event(key, "delete")

    def _event(self, key: Key, action: str) -> None:
        self._frozen.pop(key.kind, None)
        self._events[key.kind, action] += 1
        self._last_event = time.time()
        self._changed = True
        event(self._log, "resource", logging.DEBUG, action=action, kind=key.kind, name=key.name)

    def workloads(self, found: tuple[LocalWorkload, ...], failures: tuple[Failure, ...]) -> None:
        """The workloads of this node that speak BGP, all of them, and what is wrong with their files. They stand beside
        the resources: the whole does not wait for them."""
        if found != (self._local_workloads or ()):
            self._changed = True
            self._local_workloads = found
        elif self._local_workloads is None:
            self._local_workloads = ()
        self._local_failures = failures

    # -- what holds ----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """A new consumer has seen nothing yet: the next whole state is news, changed or not."""
        self._changed = True

    def settle(self, now: float, readable: bool) -> bool:
        """Lets absent objects go whose time has come. Returns whether there is a new whole snapshot to yield.

        ``readable`` says whether the places could be listed at all; ``now`` is in seconds of any clock.
        """
        self._readable = readable
        whole = readable and self._own in self._home and self._own not in self._absent
        if whole:
            self._lost_at = None
            self._expire(now)
            if not self._trial:
                self._look_for_vanished(now)
        else:
            if self._was_whole:
                self._lost_at = now
            self._absent = dict.fromkeys(self._absent)
        self._was_whole = whole
        in_sync = whole or (self._lost_at is not None and now < self._lost_at + GRACE_SECONDS)
        if in_sync != self._in_sync:
            self._in_sync = in_sync
            if in_sync:
                event(self._log, "resources_in_sync")
            else:
                event(self._log, "resources_lost", detail=self.detail())
        self._report()
        changed = whole and self._changed
        if changed:
            self._changed = False
        return changed

    def _expire(self, now: float) -> None:
        for key, deadline in list(self._absent.items()):
            if deadline is None:
                self._absent[key] = now + GRACE_SECONDS
            elif deadline <= now:
                self._remove(key)

    def _look_for_vanished(self, now: float) -> None:
        """A kind of which nothing is left may be meant, and may be a broken pipe: it is done, and reported for an
        hour."""
        for kind, good in self._good.items():
            before, self._counts[kind] = self._counts.get(kind, 0), len(good)
            if good or (kind in self._vanished and now >= self._vanished[kind][0]):
                self._vanished.pop(kind, None)
            elif before > (
                kind != "BGPPeer"
            ):  # one object of a kind goes by itself every day; not the only peer
                message = (
                    f"all gone at once ({before}): put them back if that was not meant; reported for an hour"
                )
                self._vanished[kind] = now + SHOWN_SECONDS, Failure("vanished", Problem(kind, "", message))

    def deadline(self) -> float | None:
        """When ``settle`` must be called again though nothing happens."""
        deadlines = [deadline for deadline in self._absent.values() if deadline is not None]
        deadlines += [until for until, _ in self._vanished.values()]
        if self._lost_at is not None and self._in_sync:
            deadlines.append(self._lost_at + GRACE_SECONDS)
        return min(deadlines, default=None)

    def snapshot(self) -> Snapshot:
        """All that holds. Mappings of kinds in which nothing changed are those of the snapshot before."""
        for kind in KINDS:
            if kind not in self._frozen:
                self._frozen[kind] = MappingProxyType(dict(self._good[kind]))
        return Snapshot(
            pools=self._frozen["IPPool"],
            affinities=self._frozen["BlockAffinity"],
            blocks=self._frozen["IPAMBlock"],
            nodes=self._frozen["Node"],
            bgp_configurations=self._frozen["BGPConfiguration"],
            peers=self._frozen["BGPPeer"],
            filters=self._frozen["BGPFilter"],
            secrets=self._frozen["Secret"],
            services=self._frozen["Service"],
            endpoint_slices=self._frozen["EndpointSlice"],
            local_workloads=self._local_workloads or (),
            problems=self._problems,
            unusable=self._unusable,
        )

    def detail(self) -> str:
        """Why it is not whole, in words; empty when it is."""
        if not self._readable:
            failure = next(iter(self._places.get("", _Place((), (), True)).failures), None)
            return f"{failure.problem.source} {failure.problem.message}" if failure else "not read yet"
        if self._own in self._home and self._own not in self._absent:
            return ""
        bad = self._failures.get(self._own)
        if bad and self._own not in self._home:
            return f"this node's own resource is of no use: {bad[0].problem}"
        count = sum(len(objects) for objects in self._good.values()) - len(self._absent)
        among = f"among the {count} resources there" if count else "and no other resource either"
        return f"there is no Node {self._own.name!r}, {among}"

    def _report(self) -> None:
        """Counts and logs the problems that are new."""
        failures = dict.fromkeys(failure for of_place in self._failing.values() for failure in of_place)
        failures |= dict.fromkeys(failure for of_key in self._failures.values() for failure in of_key)
        failures |= dict.fromkeys(self._local_failures)
        failures |= dict.fromkeys(failure for _, failure in self._vanished.values())
        for failure in failures.keys() - self._reported:
            if failure.reason:
                self._errors[failure.reason] += 1
            event(
                self._log,
                "resource_problem",
                logging.WARNING,
                reason=failure.reason or "ignored",
                source=failure.problem.source,
                path=failure.problem.path or "-",
                message=failure.problem.message,
            )
        if failures.keys() != self._reported:
            self._reported = set(failures)
            self._problems = tuple(sorted({f.problem for f in failures}, key=str))
            self._changed = True

    def status(self, backend: str, resyncs: int) -> DatastoreStatus:
        """What to report to the operator."""
        counts = {kind: len(objects) for kind, objects in self._good.items()}
        if self._local_workloads is not None:
            counts["LocalWorkload"] = len(self._local_workloads)
        return DatastoreStatus(
            backend=backend,
            up=self._readable,
            in_sync=self._in_sync,
            detail=self.detail(),
            problems=self._problems,
            resources={**counts, "other": self._ignored},
            events=dict(self._events),
            errors=dict(self._errors),
            last_event=self._last_event,
            resyncs=resyncs,
        )
