"""What the operator ordered of sessions and must outlast a restart: a file in the state directory, for ``daemon``."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from bgpd.model.peer import PeerId

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
            log.warning("event=state_unreadable file=%s error=%r", self._file, str(error))
            return {}

    def write(self, shutdowns: Mapping[PeerId, str]) -> None:
        """Raises ``OSError`` where they cannot be kept."""
        self.kept = dict(shutdowns)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._file.with_suffix(".new")
        fresh.write_text(json.dumps(dict(shutdowns)))
        fresh.replace(self._file)
