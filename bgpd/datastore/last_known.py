"""What a server was last known to hold, kept in the state directory: a node that starts while the server is away goes
on with it. ``cluster`` writes and reads it.

One file, ``datastore.jsonl``, replaced as a whole and only for its owner to read (Secrets of peers are in it): a line
that says whose it is, then one line an object, in the form in which it passed the door. Its time of modification says
until when it was known to be true. A file that is damaged, or of another source, is as none.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bgpd.datastore.reflector import Put
from bgpd.datastore.replacing import replacing
from bgpd.events import event

NAME = "datastore.jsonl"
FORMAT = 1
PACE = 64 << 10
"""Octets a second that are written on average at most: in a cluster of thousands of services something differs at every
look, and the file is written as a whole."""
STAMP_SECONDS = 60.0
"""Seconds between two notes that what is there is still true."""

log = logging.getLogger(__name__)


class Found(NamedTuple):
    as_of: float
    """Unix seconds at which it was known to be true."""
    objects: dict[str, list[Put]]
    """The objects of each collection."""


class LastKnown:
    """The file, and what is to be in it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / NAME
        self._lines: dict[tuple[str, str], bytes] = {}
        self._dirty = True
        self._rest_until = 0.0
        """When it may be written again."""
        self._stamped = 0.0
        self._failed = ""

    def put(self, collection: str, put: Put) -> None:
        """An object as it is now. Its version is not kept: it says nothing of another life of the server."""
        line = json.dumps([collection, put.key, put.document], separators=(",", ":"), default=str).encode()
        if self._lines.get((collection, put.key)) != line:
            self._lines[collection, put.key] = line
            self._dirty = True

    def drop(self, collection: str, key: str) -> None:
        self._dirty |= self._lines.pop((collection, key), None) is not None

    def take(self) -> Sequence[bytes] | None:
        """All lines when one differs from what was taken before; otherwise ``None``, and so until ``PACE`` lets it."""
        now = time.monotonic()
        if not self._dirty or now < self._rest_until:
            return None
        self._dirty = False
        lines = list(self._lines.values())
        self._rest_until = now + sum(map(len, lines)) / PACE
        return lines

    def write(self, identity: str, lines: Sequence[bytes] | None) -> None:
        """Replaces the file, or notes that it still is true. Never raises: without it a start has to wait, no more."""
        now = time.time()
        try:
            if lines is None:
                if not self._dirty and now - self._stamped >= STAMP_SECONDS:
                    os.utime(self.path, (now, now))
                    self._stamped = now
                return
            head = json.dumps({"format": FORMAT, "source": identity, "objects": len(lines)}).encode()
            self.path.parent.mkdir(0o750, parents=True, exist_ok=True)
            with replacing(self.path) as file:
                file.writelines(line + b"\n" for line in (head, *lines))
            self._stamped, self._failed = now, ""
        except OSError as error:
            self._dirty = True
            if self._failed != str(error):
                self._failed = str(error)
                event(log, "last_known_not_kept", logging.WARNING, path=self.path, error=error.strerror)

    def read(self, identity: str) -> Found | None:
        """What the file says of this source; ``None``: nothing."""
        try:
            with self.path.open("rb") as file:
                as_of = os.fstat(file.fileno()).st_mtime
                head, *lines = [json.loads(line) for line in file]
            if head["format"] != FORMAT or head["source"] != identity or head["objects"] != len(lines):
                return None
            objects: dict[str, list[Put]] = {}
            for collection, key, document in lines:
                objects.setdefault(collection, []).append(Put(key, "", document))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError) as error:
            event(log, "last_known_unreadable", logging.WARNING, path=self.path, error=str(error))
            return None
        return Found(as_of, objects)
