"""What the operator orders of one session: shut it down, enable, reset or refresh it.

``daemon`` brings the orders of the API here. A shutdown is remembered over restarts, in a file in the state
directory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bgpd.bgp.outbound import Outbound
from bgpd.bgp.speaker import Speaker
from bgpd.daemon.intent import Intent
from bgpd.daemon.state_file import StateFile
from bgpd.model.doors import Impossible
from bgpd.model.peer import PeerId
from bgpd.model.status import PeerAction


class Shutdowns:
    """Peers that the operator shut down, each with the words, kept over restarts in the state directory."""

    def __init__(self, directory: Path) -> None:
        self._file = StateFile(directory, "shutdowns.json")
        self.kept: Mapping[PeerId, str] = {}
        """What was read or given to be kept last."""

    def read(self) -> dict[PeerId, str]:
        """All of them; a file that cannot be read counts as empty."""
        self.kept = self._file.read(_decode, absent={}, unreadable={}, counts_as="none")
        return dict(self.kept)

    def write(self, shutdowns: Mapping[PeerId, str], otherwise: str) -> None:
        """``Impossible`` where they cannot be kept; ``otherwise``: what is true then."""
        self.kept = dict(shutdowns)
        self._file.write(self.kept, otherwise)


def _decode(found: Any) -> dict[PeerId, str]:
    return {PeerId(peer): str(words) for peer, words in found.items()}


@dataclass(frozen=True, slots=True)
class Orders:
    """Carries them out, and says in words what was done."""

    speaker: Speaker
    outbound: Outbound
    intent: Intent
    shutdowns: Shutdowns

    def carry_out(self, action: PeerAction, peer: PeerId, message: str) -> str:
        """What was done, in words; ``Impossible`` says why it was not, or not wholly."""
        speaker = self.speaker
        if action == "shutdown":
            speaker.sessions.shutdown(peer, message)
            self.intent.await_peers()
            self._remember(f"{peer} is shut down, but only until bgpd restarts")
            return f"{peer} is shut down, also over restarts, until bgpctl peer enable {peer}"
        if action == "enable":
            speaker.sessions.enable(peer)
            self.intent.await_peers()
            self._remember(f"{peer} is enabled, but only until bgpd restarts")
            return f"{peer} is enabled"
        if peer in speaker.sessions.shutdowns:
            raise Impossible(f"{peer} is shut down; bgpctl peer enable {peer} lets it come back")
        if action == "reset":
            speaker.sessions.reset(peer, message)
            return f"{peer} was reset"
        session = speaker.sessions.peer(peer)
        if session is None:
            raise Impossible(f"{peer} is not established")
        if action == "soft-in":
            if not speaker.sessions.request_refresh(peer):
                raise Impossible(f"{peer} cannot refresh: it did not announce the capability (RFC 2918)")
            return f"{peer} was asked for its routes again"
        for family in session.families:
            self.outbound.refresh(session, family)
        return f"{peer} is sent all routes again"

    def follow_names(self) -> None:
        """Peers may have other names than before: those that are shut down are remembered by the new ones."""
        if self.speaker.sessions.shutdowns != self.shutdowns.kept:
            with contextlib.suppress(Impossible):  # it is logged
                self._remember("")

    def _remember(self, otherwise: str) -> None:
        self.shutdowns.write(self.speaker.sessions.shutdowns, otherwise)
