"""What is wanted, into the kernel: one reconciler and one task a family, and the whole compares.

``daemon`` hands over what the router decided (``want``) and what the kernel door tells (``changed``, ``suspect``); the
task writes batch after batch and compares all when something may have gone unseen.

A route of before the start that shares traffic between several hops keeps them until all are told of again, or the
start is over: otherwise the hop that is told of first had all the traffic for a while. (RFC 4724 §4.1 would have us
wait with every decision; but what is told instead of such a route, rather than less of it, is done at once.)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

from bgpd.fib.delta import Drift, Reconciler
from bgpd.model.prefix import Family, prefix_text
from bgpd.model.route import FibKey, Forwarding, Via
from bgpd.model.status import Target

log = logging.getLogger(__name__)
SLICE = 4096
"""Adopted routes between two turns of the event loop."""
NO_DRIFT = Drift(0, 0, 0)


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
    reconciler: Reconciler[FibKey, Forwarding] = field(
        default_factory=lambda: Reconciler(kin=lambda key: key[0])
    )
    progressed: Callable[[], None] = lambda: None
    """Called after each batch."""
    drift: Drift = NO_DRIFT
    """Of the last whole compare."""
    repairs: Counter[str] = field(default_factory=Counter)
    """What others changed and we put right: ``missing extra changed`` -> count."""
    last_sync: float | None = None
    """Unix time of the last write or compare."""
    _wide: dict[FibKey, Via] = field(default_factory=dict)
    """Routes of before with several hops that are not told of whole yet; empty once the start is over."""
    _narrower: dict[FibKey, Via] = field(default_factory=dict)
    """What is wanted in place of some of them: fewer of their hops."""
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _compare_cause: str = ""
    _heard_at: float | None = None

    async def adopt(self) -> None:
        """Read what is there of ours from before. Nothing is written until ``paused`` is lifted."""
        self.reconciler.paused = True
        found = await self.target.read()
        keys = iter(found)
        while part := {key: found[key] for key in islice(keys, SLICE)}:
            self.reconciler.adopt(part)
            several = {
                key: value for key, value in part.items() if type(value) is Via and len(value.hops) > 1
            }
            self._wide.update(several)
            await asyncio.sleep(0)

    def heard(self, now: float) -> None:
        """A session said something that may end here: its time to the kernel is measured from now."""
        if self._heard_at is None:
            self._heard_at = now

    def want(self, changes: Mapping[FibKey, Forwarding | None]) -> None:
        """What the router decided."""
        self.reconciler.want(self._kept_wide(changes) if self._wide else changes)
        self._wake.set()

    def _kept_wide(self, changes: Mapping[FibKey, Forwarding | None]) -> Mapping[FibKey, Forwarding | None]:
        """Changes less those that only take hops away from a route of before."""
        told = self._wide.keys() & changes.keys()
        if not told:
            return changes
        passed = dict(changes)
        for key in told:
            value = changes[key]
            if isinstance(value, Via) and set(value.hops) < set(self._wide[key].hops):
                self._narrower[key] = value
                del passed[key]
            else:
                del self._wide[key]
                self._narrower.pop(key, None)
        return passed

    def _narrow(self, keys: Iterable[FibKey]) -> None:
        """Routes of before are kept wide no longer."""
        kept: dict[FibKey, Forwarding | None] = {}
        for key in keys:
            self._wide.pop(key, None)
            if (value := self._narrower.pop(key, None)) is not None:
                kept[key] = value
        self.reconciler.want(kept)

    def settled(self, settled: bool) -> None:
        """Whether the router has decided all that it knows of."""
        if self.reconciler.unsettled == settled:
            self.reconciler.unsettled = not settled
            self._wake.set()

    def pause(self, paused: bool) -> None:
        """Write nothing, or write again."""
        self.reconciler.paused = paused
        self._wake.set()

    def release(self) -> int:
        """The start is over: what was adopted and is not wanted goes. How many."""
        self._narrow(list(self._wide))
        self._wake.set()
        return self.reconciler.release()

    def changed(self, changes: Mapping[FibKey, Forwarding | None]) -> None:
        """Somebody else changed what is ours: its value now."""
        kinds: Counter[str] = Counter()
        for key, value in changes.items():
            wanted = self.reconciler.wanted.get(key)
            if wanted != value:
                kinds["missing" if value is None else "extra" if wanted is None else "changed"] += 1
        self._count_repairs(kinds)
        self.reconciler.observe(changes)
        if self._wide:
            known = self._wide.keys() & changes.keys()
            self._narrow([key for key in known if changes[key] != self._wide[key]])
        self._wake.set()

    def suspect(self, cause: str) -> None:
        """Routes may have gone without notice: compare all, now."""
        self._compare_cause = cause
        self._wake.set()

    async def run(self) -> None:
        """Write what is due, until cancelled."""
        reconciler = self.reconciler
        while True:
            deadline = reconciler.next_deadline()
            timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._wake.wait()
            self._wake.clear()
            if self._compare_cause:
                await self._compare()
            while not self._compare_cause and (batch := reconciler.due(time.monotonic())):
                started = time.monotonic()
                errors = await self.target.apply(batch.puts, batch.deletes)
                now = time.monotonic()
                if errors:
                    self._refused(errors)
                reconciler.done(batch, errors, now)
                self.progressed()
                self.metrics.observe_reconcile("apply", now - started)
                self.last_sync = time.time()
            if self._compare_cause:
                self._wake.set()
            elif self._heard_at is not None and not reconciler.pending:
                self.metrics.observe_fib_programming(time.monotonic() - self._heard_at)
                self._heard_at = None

    def _refused(self, errors: Mapping[FibKey, Exception]) -> None:
        """One line for a batch with refusals of keys that did not fail already; all are tried again."""
        self.metrics.count_reconcile_error("apply")
        for key, error in errors.items():
            log.debug("event=route_failed prefix=%s error=%s", prefix_text(self.family, key[0]), error)
        fresh = [key for key in errors if key not in self.reconciler.errors]
        if fresh:
            first = prefix_text(self.family, fresh[0][0])
            log.warning(
                "event=routes_refused family=%s count=%d first=%s cause=%r",
                self.family.label,
                len(fresh),
                first,
                str(errors[fresh[0]]),
            )

    async def _compare(self) -> None:
        cause, self._compare_cause = self._compare_cause, ""
        started = time.monotonic()
        self.reconciler.begin_reading()
        found = await self.target.read()
        self.drift = self.reconciler.compare(found)
        self._narrow([key for key, wide in self._wide.items() if found.get(key) != wide])
        self.metrics.observe_reconcile("compare", time.monotonic() - started)
        self.last_sync = time.time()
        self._count_repairs(Counter(self.drift._asdict()))
        if any(self.drift):
            log.info(
                "event=compared family=%s cause=%r missing=%d extra=%d changed=%d",
                self.family.label,
                cause,
                *self.drift,
            )

    def _count_repairs(self, kinds: Counter[str]) -> None:
        if not self.reconciler.paused:
            self.repairs.update(+kinds)
