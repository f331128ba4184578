"""What the speaker reports, and to whom: ``daemon`` is the one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from bgpd.model.peer import DialAnswer, Down, Peer, PeerId
from bgpd.model.prefix import Family
from bgpd.model.route import RibEvent


class Handler(Protocol):
    """Called in the loop: must not block. For one peer the order is ``session_established``, any of the
    others, ``session_ended``; then nothing more of that ``Peer``."""

    def session_established(self, peer: Peer) -> None: ...

    def session_resumed(self, peer: Peer) -> None:
        """As ``session_established``, of a session that another process had."""

    def session_ended(self, peer: Peer, down: Down) -> None: ...

    def routes_received(self, peer: Peer, events: Sequence[RibEvent]) -> None:
        """In order, batched a wake-up."""

    def refresh_requested(self, peer: Peer, family: Family) -> None:
        """The peer wants all of a family again (RFC 2918)."""

    def session_writable(self, peer: Peer) -> None:
        """What ``send`` refused to take more of has drained."""

    def listening_changed(self) -> None:
        """``listen_error`` or ``listening`` may differ now."""

    def dial_ended(self, peer_id: PeerId, answer: DialAnswer) -> None:
        """A dial ended."""
