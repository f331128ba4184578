"""One turn of the daemon: decide a slice, carry on what was decided, and read no further than that is done.

``daemon`` asks for a turn when something came in (``kick``); the router decides for a few milliseconds, and the
programmers and the update groups get what it decided. Where there is more, the event loop runs before the next turn.
While too much is read and not yet in the kernel, sessions are not read (back-pressure): TCP makes the peers wait.
"""

from __future__ import annotations

import asyncio
import time

from bgpd.daemon.intent import Intent
from bgpd.daemon.memory import Memory
from bgpd.observe.history import History
from bgpd.observe.metrics import Metrics
from bgpd.views.live import Parts
from bgpd.views.summary import Facts

SLICE_SECONDS = 0.004
"""Seconds of deciding before the event loop gets a turn."""
MOST_BEHIND = 16384
"""Prefixes that are read and not yet in the kernel, about, beyond which sessions are not read."""
MOST_THROTTLED_SECONDS = 1.0
"""Seconds without reading, at most: hold timers run on."""


class Turn:
    """The turns of one daemon. All of it is called in the event loop's thread."""

    def __init__(
        self,
        parts: Parts,
        facts: Facts,
        intent: Intent,
        metrics: Metrics,
        memory: Memory,
        history: History,
    ) -> None:
        self._router, self._speaker, self._outbound = parts.router, parts.speaker, parts.outbound
        self._fibs, self._intent, self._facts, self._metrics = parts.fibs, intent, facts, metrics
        self._memory, self._history = memory, history
        for programming in self._fibs.values():
            programming.progressed = self.review_backlog
        self._scheduled = False
        self._workloads_dirty = False
        self._cause_at: float | None = None
        """When the oldest change of resources or workloads came that peers have not yet heard of."""
        self._throttled_at = 0.0

    def kick(self) -> None:
        """There is something to do: a turn soon."""
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self.run)

    def originate_soon(self) -> None:
        """A workload came or went: what we announce is found anew with the next turn, once for all of them."""
        self._workloads_dirty = True
        self._cause_at = self._cause_at or time.monotonic()
        self.kick()

    def intent_decided(self, began: float) -> None:
        """What we announce was found anew, from a change that came at ``began``: a turn at once."""
        self._cause_at, self._workloads_dirty = began, False
        self.run()

    def run(self) -> None:
        """One turn."""
        self._scheduled = False
        if self._workloads_dirty:
            self._workloads_dirty = False
            self._intent.originate()
        end = time.monotonic() + SLICE_SECONDS
        more = self._router.work()
        while more and time.monotonic() < end:
            more = self._router.work()
        changes = self._router.take_changes()
        for family, fib in changes.fib.items():
            if fib:
                self._history.routes(family, fib, self._fibs[family].delta.wanted)
                self._fibs[family].want_routes(fib, changes.left.get(family, ()))
        for programming in self._fibs.values():
            programming.settled(not more)
        for group, advertised in changes.adj_rib_out.items():
            self._outbound.group_changed(group, advertised)
        if changes.fib or changes.adj_rib_out:
            self._facts.last_routes_change = time.time()
        if changes.adj_rib_out and self._cause_at is not None:
            self._metrics.observe_propagation("origination", time.monotonic() - self._cause_at)
        if not more:
            self._cause_at = None
        behind = self._outbound.work(settled=not more)
        for peer, family, count in self._router.take_over_limit():
            self._speaker.sessions.check_limit(peer, family, count)
        self.review_backlog()
        if self._memory.review(time.monotonic()) or more or behind:
            self.kick()

    def review_memory(self) -> None:
        """Where nothing comes in a turn does not ask: a peer that does not read holds memory all the same."""
        if self._memory.review(time.monotonic()):
            self.kick()

    def review_backlog(self) -> None:
        """Reads no further than what was read is decided and written, or memory would hold a large table twice."""
        backlog = self._router.backlog
        backlog += sum(programming.delta.queued for programming in self._fibs.values())
        now = time.monotonic()
        if not self._speaker.throttled:
            if backlog > MOST_BEHIND:
                self._throttled_at = now
                self._speaker.throttle(True)
        elif backlog < MOST_BEHIND // 2 or now >= self._throttled_at + MOST_THROTTLED_SECONDS:
            self._speaker.throttle(False)
