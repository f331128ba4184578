"""Keep an outside thing equal to what we want, without doing the work ourselves (sans-IO).

``Reconciler`` knows what is wanted, what it believes is held, and which keys may differ. The caller asks ``due(now)``
for a batch, carries it out on a ``model.status.Target``, and tells with ``done``. Whatever is learned of the outside
comes in by ``adopt`` (the first reading), ``observe`` (an event) and ``compare`` (a whole reading). The newest value of
a key wins (house rule 13); puts go before deletes, over the whole queue (rule 11); a failed key alone is retried, with
backoff (rule 10); what was adopted and is not wanted is kept until ``release`` (rule 5).

One of these a family of the kernel's routes, driven by ``daemon``.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Generic, NamedTuple, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

RETRY_FIRST, RETRY_MOST = 0.1, 30.0
"""Seconds until a failed key is tried again: doubling from the first to the most."""
HOLD_BACK, HOLD_BACK_MOST = 1.0, 1 << 13
"""Seconds that deletes wait for puts that are still on their way, and how many of them do."""


@dataclass(frozen=True, slots=True)
class Batch(Generic[K, V]):
    """What to do next: puts first, then deletes."""

    puts: Mapping[K, V]
    deletes: tuple[K, ...]


class Drift(NamedTuple):
    """How a whole reading differed from what we believed to be held."""

    missing: int
    extra: int
    changed: int


class Reconciler(Generic[K, V]):
    """``kin(key)`` names what an adopted key belongs to: once a key of the same kin is put, the old one may go.

    (A route's kin is its prefix: an old route of ours with another metric is replaced, the new first.)
    """

    def __init__(self, kin: Callable[[K], Hashable], limit: int = 16384) -> None:
        self.wanted: dict[K, V] = {}
        self.held: dict[K, V] = {}
        self.errors: dict[K, str] = {}
        self.paused = False
        """While set, ``due`` gives nothing: somebody else is at work there."""
        self.unsettled = False
        """While set, more is on its way to ``want``: deletes wait for it, ``HOLD_BACK`` seconds at most."""
        self._held_back_since: float | None = None
        self._kin, self._limit = kin, limit
        self._released = False
        self._unproven: dict[Hashable, tuple[K, ...]] = {}
        """Kin -> keys held and not wanted that nothing spoke against yet: kept until ``release``."""
        self._queue: dict[K, V] = {}
        """What is wanted and differs from what is held, oldest first."""
        self._doubts: dict[K, None] = {}
        """Keys to look at again: what is held of them may have changed."""
        self._deletes: set[K] = set()
        """Keys that may be held and not wanted; they wait for the last put, and go in any order."""
        self._failures: dict[K, int] = {}
        """How often a key failed since it last succeeded or was told anew."""
        self._waiting: dict[K, float] = {}
        """Failed keys, until when they rest."""
        self._timers: dict[float, list[K]] = {}
        """The same by time; a key that no longer waits may still be listed."""
        self._in_flight: Batch[K, V] | None = None
        self._flying_deletes: frozenset[K] | None = None
        """Those of the batch under way, made when first asked for."""
        self._reading = False
        self._touched: set[K] = set()
        """Keys observed since the batch or the reading under way began: its word on them is not the newest."""

    def want(self, changes: Mapping[K, V | None]) -> None:
        """What is wanted from now on; ``None`` is "gone"."""
        gone = sum(value is None for value in changes.values())
        if gone == len(changes):
            self._want_gone(changes)
        elif not gone and self.held.keys().isdisjoint(changes):
            self.wanted.update(changes)  # type: ignore[arg-type]  # none of the values is None
            self._queue.update(changes)  # type: ignore[arg-type]
            self._deletes.difference_update(changes)
        else:
            self._want_each(changes)
        if self._failures:
            for key in changes:
                self._forgive(key)
        if self._unproven:
            for key, value in changes.items():
                if value is not None:
                    self._prove(key, self.held.get(key) == value)

    def _want_each(self, changes: Mapping[K, V | None]) -> None:
        wanted, held, queue, deletes = self.wanted, self.held, self._queue, self._deletes
        flying = self._in_flight.puts if self._in_flight else {}
        leaving = self._leaving()
        for key, value in changes.items():
            if value is None:
                wanted.pop(key, None)
                queue.pop(key, None)
                if key in held or key in flying:
                    deletes.add(key)
            else:
                wanted[key] = value
                deletes.discard(key)
                now = held.get(key)
                if now is None or key in flying or key in leaving or (now is not value and now != value):
                    queue[key] = value
                else:
                    queue.pop(key, None)

    def _want_gone(self, keys: Iterable[K]) -> None:
        """``_want_each`` of nothing but "gone"."""
        for table in (self.wanted, self._queue):
            if table:
                forget = table.pop
                for key in keys:
                    forget(key, None)
        self._deletes.update(filter(self.held.__contains__, keys))
        if self._in_flight:
            self._deletes.update(filter(self._in_flight.puts.__contains__, keys))

    def adopt(self, actual: Mapping[K, V]) -> None:
        """The first reading (in parts, as long as nothing is wanted): all of it is ours from before, and stays until it
        is wanted, replaced or released."""
        self.held.update(actual)
        for key in actual:
            self._keep(key)
        for key in actual.keys() & self.wanted.keys():
            self._prove(key, self.held[key] == self.wanted[key])
            self._doubts[key] = None

    def observe(self, changes: Mapping[K, V | None]) -> None:
        """Somebody else changed these: their value now, ``None`` is "gone"."""
        if self._in_flight or self._reading:
            self._touched.update(changes)
        for key, value in changes.items():
            self._found(key, value)

    def begin_reading(self) -> None:
        """A whole reading starts; no batch is under way, and ``due`` gives none until ``compare``."""
        if self._in_flight:
            raise RuntimeError("a reading that overlaps a batch cannot tell what it saw")
        self._reading = True

    def compare(self, actual: Mapping[K, V]) -> Drift:
        """A whole reading, begun with ``begin_reading``: believe it, and put right what differs."""
        held, touched = self.held, self._touched
        extra: list[K] = []
        changed: list[K] = []
        for key, value in actual.items():
            now = held.get(key)
            if now is not value and key not in touched:
                if now is None:
                    extra.append(key)
                elif now != value:
                    changed.append(key)
                else:
                    held[key] = value  # the reader's own object: the next time it is the same one
        missing: list[K] = []
        if touched or len(held) != len(actual) - len(extra):
            missing = [key for key in held if key not in actual and key not in touched]
        for key in (*missing, *extra, *changed):
            self._found(key, actual.get(key))
        self._reading = False
        touched.clear()
        return Drift(len(missing), len(extra), len(changed))

    def release(self) -> int:
        """What was adopted and is still not wanted may go now. How many."""
        self._released = True
        keys = [key for keys in self._unproven.values() for key in keys]
        self._unproven.clear()
        self._doubts.update(dict.fromkeys(keys))
        return len(keys)

    def due(self, now: float) -> Batch[K, V] | None:
        """The next batch, or ``None``; only one is under way at a time."""
        if self._in_flight or self._reading or self.paused:
            return None
        for at in [at for at in self._timers if at <= now]:
            for key in self._timers.pop(at):
                if self._waiting.get(key) == at:
                    del self._waiting[key]
                    self._doubts[key] = None
        wanted, held, queue = self.wanted, self.held, self._queue
        doubts, self._doubts = self._doubts, {}
        for key in doubts:
            value, before = wanted.get(key), held.get(key)
            if value is None and before is not None:
                queue.pop(key, None)
                self._deletes.add(key)
                continue
            self._deletes.discard(key)
            if value is not None and before is not value and before != value:
                queue[key] = value
                continue
            queue.pop(key, None)
            if self._failures:
                self._forgive(key)
        puts = queue
        if len(queue) <= self._limit:
            self._queue = {}
        else:
            puts = dict(islice(queue.items(), self._limit))
            for key in puts:
                del queue[key]
        deletes: list[K] = []
        # House rule 11: every put goes first.
        while self._deletes and not self._queue and len(deletes) < self._limit and not self._hold_back(now):
            asked = list(islice(self._deletes, self._limit - len(deletes)))
            if len(asked) == len(self._deletes):
                self._deletes = set()
            else:
                self._deletes.difference_update(asked)
            deletes += [key for key in asked if not self._is_unproven(key)] if self._unproven else asked
        if not self._deletes:
            self._held_back_since = None
        if not puts and not deletes:
            return None
        self._in_flight, self._flying_deletes = Batch(puts, tuple(deletes)), None
        return self._in_flight

    def done(self, batch: Batch[K, V], errors: Mapping[K, Exception], now: float) -> None:
        """The outcome of a batch: the keys not in ``errors`` are as asked."""
        self._in_flight = None
        held, touched = self.held, self._touched
        if not errors and not touched:
            held.update(batch.puts)
            for key in batch.deletes:
                held.pop(key, None)
        else:
            for key, value in batch.puts.items():
                if key not in errors and key not in touched:
                    held[key] = value
            for key in batch.deletes:
                if key not in errors and key not in touched:
                    held.pop(key, None)
        if self._failures:
            for key in (*batch.puts, *batch.deletes):
                if key not in errors:
                    self._forgive(key)
        if self._unproven:
            for key in batch.puts:
                if key not in errors:
                    self._prove(key, True)
        for key, error in errors.items():
            if (key in batch.puts) == (key in self.wanted):
                self._fail(key, error, now)
            else:  # meanwhile the contrary is wanted
                self._doubts[key] = None
        self._doubts.update(dict.fromkeys(touched))
        touched.clear()

    def next_deadline(self) -> float | None:
        """When ``due`` is next worth asking without anything new being told: a retry's time, or ``None``."""
        if self._in_flight or self._reading or self.paused:
            return None
        first = min(self._timers, default=None)
        if self._held_back_since is None:
            return first
        until = self._held_back_since + HOLD_BACK
        return until if first is None else min(first, until)

    @property
    def busy(self) -> bool:
        """Whether a batch is under way."""
        return self._in_flight is not None

    @property
    def pending(self) -> int:
        """Keys that wait for a batch, retries included."""
        return len(self._queue) + len(self._doubts) + len(self._deletes) + len(self._waiting)

    @property
    def queued(self) -> int:
        """Keys that wait for their turn to be put."""
        return 0 if self.paused else len(self._queue)

    @property
    def kept(self) -> int:
        """Adopted keys that are not wanted and not yet released."""
        return sum(len(keys) for keys in self._unproven.values())

    def _leaving(self) -> frozenset[K]:
        """What the batch under way deletes."""
        if self._in_flight is None or not self._in_flight.deletes:
            return frozenset()
        if self._flying_deletes is None:
            self._flying_deletes = frozenset(self._in_flight.deletes)
        return self._flying_deletes

    def _hold_back(self, now: float) -> bool:
        """Whether deletes wait, since a put that should go first may still come (rule 11)."""
        if not self.unsettled or len(self._deletes) >= HOLD_BACK_MOST:
            self._held_back_since = None
            return False
        if self._held_back_since is None:
            self._held_back_since = now
        return now < self._held_back_since + HOLD_BACK

    def _found(self, key: K, value: V | None) -> None:
        """The outside has this value of a key, which we did not put there."""
        if value is None:
            self.held.pop(key, None)
            if self._unproven:
                self._prove(key, False)
        else:
            self.held[key] = value
            self._keep(key)
        self._forgive(key)
        self._doubts[key] = None

    def _keep(self, key: K) -> None:
        if not self._released and key not in self.wanted:
            kin = self._kin(key)
            others = self._unproven.get(kin)
            if others is None:
                self._unproven[kin] = (key,)
            elif key not in others:
                self._unproven[kin] = (*others, key)

    def _prove(self, key: K, held: bool) -> None:
        """``key`` is no leftover: it is wanted, or gone. Once it is ``held``, the leftovers of its kin may go."""
        kin = self._kin(key)
        if keys := self._unproven.get(kin):
            rest = tuple(other for other in keys if other != key) if key in keys else keys
            if held or not rest:
                del self._unproven[kin]
                self._doubts.update(dict.fromkeys(rest))
            else:
                self._unproven[kin] = rest

    def _is_unproven(self, key: K) -> bool:
        return bool(self._unproven) and key in self._unproven.get(self._kin(key), ())

    def _fail(self, key: K, error: Exception, now: float) -> None:
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        self.errors[key] = str(error)
        at = now + min(RETRY_MOST, RETRY_FIRST * 2.0 ** min(failures, 16))
        self._waiting[key] = at
        self._timers.setdefault(at, []).append(key)

    def _forgive(self, key: K) -> None:
        if self._failures.pop(key, None):
            self._waiting.pop(key, None)
            self.errors.pop(key, None)
