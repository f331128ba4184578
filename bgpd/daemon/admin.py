"""What the operator orders of one session: shut it down, enable, reset or refresh it.

``daemon`` brings the orders of the API here. A shutdown is remembered over restarts, in a file in the state
directory.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bgpd.bgp.outbound import Outbound
from bgpd.bgp.speaker import Speaker
from bgpd.daemon.intent import Intent
from bgpd.events import event
from bgpd.model.doors import Impossible
from bgpd.model.peer import PeerId
from bgpd.model.status import PeerAction

log = logging.getLogger(__name__)


class Shutdowns:
    """Peers that the operator shut down, each with the words, kept over restarts in the state directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._file = directory / "shutdowns.json"
        self.kept: Mapping[PeerId, str] = {}
        """What was read or given to be kept last."""

    def read(self) -> dict[PeerId, str]:
        """All of them; a file that cannot be read is logged and counts as empty."""
        try:
            found = json.loads(self._file.read_text())
            self.kept = {PeerId(peer): str(words) for peer, words in found.items()}
            return dict(self.kept)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError) as error:
            event(log, "state_unreadable", logging.WARNING, file=self._file, error=str(error))
            return {}

    def write(self, shutdowns: Mapping[PeerId, str]) -> None:
        """Raises ``OSError`` where they cannot be kept."""
        self.kept = dict(shutdowns)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._file.with_suffix(".new")
        fresh.write_text(json.dumps(dict(shutdowns)))
        fresh.replace(self._file)


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
        try:
            self.shutdowns.write(self.speaker.sessions.shutdowns)
        except OSError as error:
            why = f"{error.filename or self.shutdowns.directory}: {error.strerror}"
            event(log, "state_not_kept", logging.WARNING, cause=why)
            raise Impossible(f"{otherwise}: {why}") from None
