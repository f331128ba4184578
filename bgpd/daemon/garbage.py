"""What the dead left in IPAM is removed: by one node at a time, the one that holds the lease (``rules.ipam.garbage``).

On where ``ipam.garbage`` says so: in a cluster with Calico's kube-controllers they do it. ``daemon`` runs it as one
task; its work is in a thread, since a store is waited for.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from bgpd.config.config import Config
from bgpd.datastore.store import Executor
from bgpd.events import event
from bgpd.model.ipam import SECOND, Ref, StoreFailed
from bgpd.rules.ipam.garbage import Seen, sweep
from bgpd.rules.ipam.lease import hold
from bgpd.rules.ipam.steps import Refused

log = logging.getLogger(__name__)

LEASE = "bgpd-ipam"
LEASE_SECONDS = 60
RENEW_EVERY_SECONDS = 20.0
"""Seconds between two renewals."""
LOOKS = 3
"""So often is looked at something before it is removed."""


class Collector:
    """The task of one daemon. ``elapsed``: nanoseconds of a clock that never jumps."""

    def __init__(
        self,
        executor: Executor,
        node: str,
        after: float,
        *,
        clock: Callable[[], int] = time.time_ns,
        elapsed: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._executor, self._node, self._after = executor, node, after
        self._clock, self._elapsed = clock, elapsed
        self._seen: Seen | None = None
        self._suspects: Mapping[Ref, Seen] = {}
        self._next_sweep = 0
        self.holds = False
        """Whether this node has the lease."""
        self._complaint = ""

    @classmethod
    def of(cls, config: Config) -> Collector:
        """For a configuration that wants it."""
        from bgpd.datastore.allocator import store_of

        return cls(Executor(store_of(config)), config.node, config.ipam.garbage_after_seconds)

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                for line in await asyncio.to_thread(self.turn):
                    event(log, "ipam_garbage", removed=line)
                await asyncio.sleep(RENEW_EVERY_SECONDS)
        finally:
            self._executor.store.close()

    def turn(self) -> tuple[str, ...]:
        """Renews the lease or waits for it, and looks where it is time to; what was removed. Raises only bugs."""
        try:
            done = self._turn()
        except (Refused, StoreFailed) as error:
            if str(error) != self._complaint:
                event(log, "ipam_garbage_failed", logging.WARNING, error=str(error))
            self._complaint = str(error)
            return ()
        self._complaint = ""
        return done

    def _turn(self) -> tuple[str, ...]:
        held, elapsed = self.holds, self._elapsed()
        self.holds = False
        self._executor.ready()
        self.holds, self._seen = self._executor.run(
            hold(LEASE, self._node, self._clock(), elapsed, LEASE_SECONDS, self._seen)
        )
        if self.holds != held:
            event(log, "ipam_garbage_lease", node=self._node, holds=self.holds)
        if not self.holds:
            self._suspects = {}
            self._next_sweep = 0
            return ()
        if elapsed < self._next_sweep:
            return ()
        swept = self._executor.run(sweep(self._suspects, self._clock(), self._after))
        self._suspects = swept.suspects
        self._next_sweep = elapsed + int(self._after / LOOKS * SECOND)
        return swept.done
