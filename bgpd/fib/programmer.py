"""What is wanted, into the kernel: one ``Delta`` and one task a family, and the whole compares.

``daemon`` hands over what the router decided (``want``) and what the kernel door reports (``changed``, ``suspect``);
the task writes batch after batch and compares all when something may have gone unseen.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from operator import itemgetter
from typing import NamedTuple, Protocol

from bgpd.events import event
from bgpd.fib.adoption import WideRoutes
from bgpd.fib.delta import Delta, Target
from bgpd.fib.leaving import LOOK_EVERY_SECONDS, LeavingRoutes
from bgpd.model.prefix import Family, Prefix, prefix_text
from bgpd.model.route import FibKey, Forwarding

log = logging.getLogger(__name__)
ROUTES_PER_TURN = 4096
"""Adopted routes between two turns of the event loop."""


class Drift(NamedTuple):
    """How many routes a whole compare found to differ from what was believed to be installed."""

    missing: int = 0
    extra: int = 0
    changed: int = 0


class ProgrammingMetrics(Protocol):
    """What a family's way into the kernel measures; ``observe.metrics`` keeps it. Seconds."""

    def observe_reconcile(self, action: str, seconds: float) -> None:
        """An ``apply`` or a whole ``compare`` took this long."""

    def observe_fib_programming(self, seconds: float) -> None:
        """From what a peer sent until the kernel had all of it."""

    def count_reconcile_error(self, action: str) -> None:
        """The kernel refused a batch or a dump."""


@dataclass(slots=True, eq=False)
class Programming:
    """One family's way into the kernel."""

    family: Family
    target: Target[FibKey, Forwarding]
    metrics: ProgrammingMetrics
    delta: Delta[FibKey, Forwarding] = field(init=False)
    progressed: Callable[[], None] = lambda: None
    """Called after each batch."""
    resigned: Callable[[Iterable[FibKey]], None] = lambda keys: None
    """Called with keys that are not wanted, or not any more: a conflict there is over."""
    stands: Callable[[Prefix], bool] = lambda prefix: False
    """Whether a route of another is there for a prefix."""
    drift: Drift = field(default_factory=Drift)
    """What the last whole compare found."""
    repairs: Counter[str] = field(default_factory=Counter)
    """What others changed and we put right: ``missing extra changed`` -> count."""
    last_sync: float | None = None
    """Unix time of the last write or compare."""
    _unreported: Counter[str] = field(default_factory=Counter)
    """The ``repairs`` that were not logged yet."""
    _leaving: LeavingRoutes = field(init=False)
    _wide: WideRoutes = field(default_factory=WideRoutes)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _compare_cause: str = ""
    _measured_from: float | None = None

    def __post_init__(self) -> None:
        self.delta = Delta(self.target.installed, group=itemgetter(0))
        self._leaving = LeavingRoutes(self.stands)

    async def adopt(self) -> None:
        """What the target has of ours is from before. Nothing is written until ``pause(False)``."""
        self.delta.paused = True
        installed = self.target.installed
        keys = iter(list(installed.entries))
        while part := list(islice(keys, ROUTES_PER_TURN)):
            self.delta.adopt(part)
            for key in part:
                self._wide.adopt(key, installed.get(key))
            await asyncio.sleep(0)

    def measure_from(self, now: float) -> None:
        """A session reported something that may end here: its time to the kernel is measured from now."""
        if self._measured_from is None:
            self._measured_from = now

    def want_routes(self, changes: Mapping[FibKey, Forwarding | None], left: Collection[FibKey] = ()) -> None:
        """What the router decided. ``left``: those that another writes from now on."""
        if left or self._leaving:
            changes = self._leaving.keep(changes, left, self.delta.wanted, time.monotonic())
        self.delta.want(self._wide.keep(changes) if self._wide else changes)
        self._resign(changes)
        self._wake.set()

    def settled(self, settled: bool) -> None:
        """Whether the router has decided all that it knows of."""
        if self.delta.unsettled == settled:
            self.delta.unsettled = not settled
            self._wake.set()

    def pause(self, paused: bool) -> None:
        """Write nothing, or write again."""
        self.delta.paused = paused
        self._wake.set()

    def release(self) -> int:
        """The start is over: what was adopted and is not wanted goes. How many."""
        self.delta.want(self._wide.release())
        self._wake.set()
        return self.delta.release()

    def kernel_changed(self, keys: Collection[FibKey]) -> None:
        """Somebody else changed what is ours at these keys."""
        if self._leaving:
            self.delta.want(self._leaving.changed(keys))
        installed, wanted = self.target.installed.get, self.delta.wanted.get
        kinds: Counter[str] = Counter()
        for key in keys:
            value, ours = installed(key), wanted(key)
            if ours != value:
                kinds["missing" if value is None else "extra" if ours is None else "changed"] += 1
        self._count_repairs(kinds)
        self._recheck(keys)
        self._resign(keys)
        self._wake.set()

    def _resign(self, keys: Iterable[FibKey]) -> None:
        wanted = self.delta.wanted
        self.resigned(key for key in keys if key not in wanted)

    def _recheck(self, keys: Collection[FibKey]) -> None:
        self.delta.recheck(keys)
        if self._wide:
            installed = self.target.installed.get
            self.delta.want(self._wide.installed({key: installed(key) for key in keys}))

    def suspect(self, cause: str) -> None:
        """Routes may have gone without notice: compare all, now."""
        self._compare_cause = cause
        self._wake.set()

    async def run(self) -> None:
        """Write what is due, until cancelled."""
        delta = self.delta
        while True:
            deadline = delta.next_deadline()
            timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
            if self._leaving:
                timeout = LOOK_EVERY_SECONDS if timeout is None else min(timeout, LOOK_EVERY_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._wake.wait()
            self._wake.clear()
            if self._leaving and (gone := self._leaving.due(time.monotonic())):
                self.delta.want(gone)
                self._resign(gone)
            if self._compare_cause:
                await self._compare()
            while not self._compare_cause and (batch := delta.due(time.monotonic())):
                started = time.monotonic()
                errors = await self.target.apply(batch.puts, batch.deletes)
                now = time.monotonic()
                if errors:
                    self._refused(errors)
                delta.batch_done(batch, errors, now)
                self._resign(errors)
                self.progressed()
                self.metrics.observe_reconcile("apply", now - started)
                self.last_sync = time.time()
            if self._compare_cause:
                self._wake.set()
            elif self._measured_from is not None and not delta.pending:
                self.metrics.observe_fib_programming(time.monotonic() - self._measured_from)
                self._measured_from = None

    def _refused(self, errors: Mapping[FibKey, Exception]) -> None:
        """One line for a batch with refusals of keys that did not fail already; all are tried again."""
        self.metrics.count_reconcile_error("apply")
        for key, error in errors.items():
            event(
                log, "route_failed", logging.DEBUG, prefix=prefix_text(self.family, key[0]), error=str(error)
            )
        fresh = [key for key in errors if key not in self.delta.errors]
        if fresh:
            first = prefix_text(self.family, fresh[0][0])
            event(
                log,
                "routes_refused",
                logging.WARNING,
                family=self.family.label,
                count=len(fresh),
                first=first,
                cause=str(errors[fresh[0]]),
            )

    async def _compare(self) -> None:
        cause, self._compare_cause = self._compare_cause, ""
        started = time.monotonic()
        found = await self.target.resync()
        self.drift = Drift(*map(len, found))
        self._recheck(found.keys)
        self.metrics.observe_reconcile("compare", time.monotonic() - started)
        self.last_sync = time.time()
        self._count_repairs(Counter(self.drift._asdict()))
        if any(self.drift):
            missing, extra, changed = self.drift
            event(
                log,
                "compared",
                family=self.family.label,
                cause=cause,
                missing=missing,
                extra=extra,
                changed=changed,
            )

    def _count_repairs(self, kinds: Counter[str]) -> None:
        if not self.delta.paused:
            self.repairs.update(+kinds)
            self._unreported.update(+kinds)

    def report(self) -> None:
        """Logs what was put right since the last time, in one line."""
        if self._unreported:
            event(log, "repairs", family=self.family.label, **dict(sorted(self._unreported.items())))
            self._unreported.clear()
