"""BFD beside BGP (RFC 5882): which sessions of it the peers need, and what its word means for theirs.

``daemon`` asks for a review when peers or links may have changed, and once a second; what is equal is left alone. A
session of BGP does not wait for BFD: BFD that never came up ends nothing, since a peer may not speak it (yet).
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from bgpd.bfd.speaker import Speaker as Bfd
from bgpd.bgp.speaker import Speaker
from bgpd.events import event
from bgpd.kernel.kernel import Kernel
from bgpd.model.bfd import BfdChange, BfdPlace, BfdReport, BfdWanted
from bgpd.model.prefix import Address, address_text, covers, family_of, host_prefix
from bgpd.rib.router import Router
from bgpd.rules.liveness import bfd_sessions

log = logging.getLogger(__name__)


class Liveness:
    """BFD's wiring. ``acted`` is called when the router has something to decide."""

    def __init__(self, speaker: Speaker, kernel: Kernel, router: Router, acted: Callable[[], None]) -> None:
        self._speaker, self._kernel, self._router, self._acted = speaker, kernel, router, acted
        self.bfd = Bfd(self._changed)
        self._wanted: dict[BfdPlace, BfdWanted] | None = None

    async def run(self) -> None:
        """Until cancelled."""
        await self.bfd.run()

    def review(self) -> None:
        """The peers that are wanted, or the subnets on our links, may differ."""
        wanted = bfd_sessions(self._speaker.sessions.wanted(), self._on_link, self._wanted or {})
        if wanted != self._wanted:
            self._wanted = wanted
            self.bfd.configure(wanted)

    def report(self) -> BfdReport:
        """All sessions."""
        return self.bfd.report()

    def _on_link(self, address: Address) -> bool:
        host = host_prefix(address)
        return any(covers(subnet, host) for subnet in self._kernel.connected(family_of(address)))

    def _changed(self, change: BfdChange) -> None:
        address = address_text(change.place.address)
        if change.up:
            event(log, "bfd_up", address=address, peers=change.peers)
            return
        event(log, "bfd_down", logging.WARNING, address=address, peers=change.peers, cause=change.reason)
        if not change.failed:
            return
        for peer in change.peers:
            if self._speaker.sessions.path_down(
                peer, f"BFD: {change.reason}", change.control_plane_independent
            ):
                event(
                    log, "restart_abandoned", logging.WARNING, peer=peer, cause="its forwarding plane is dead"
                )
                self._router.forget_peer(peer)
        self._acted()
