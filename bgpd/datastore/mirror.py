"""A server's resources as the files datastore reads them: ``bgpd sync``, for a bgpd that is to have no credentials.

Fed by the same ``cluster.Cluster`` as a daemon: what it lets pass the door for one node is written, a file a kind
(``nodes.json``, a List), replaced as a whole and only where it differs. Nothing is written before all was read once, so
that a directory of before stays as it is while the server is away. The file of a kind that nobody needs any more, or of
which all is gone, goes. ``SYNCED`` in the same directory has the time at which it was last known to be true.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bgpd.config.named_files import NotRead, read_named
from bgpd.datastore.cluster import Cluster, Source
from bgpd.datastore.last_known import Found
from bgpd.datastore.reflector import Put
from bgpd.datastore.replacing import replacing
from bgpd.datastore.synced import SYNCED
from bgpd.events import event

AGAIN_SECONDS = 5.0
"""Seconds before a file that could not be written is tried again."""
KINDS = (
    *("ippools", "bgpconfigurations", "bgpfilters", "secrets", "bgppeers", "blockaffinities", "ipamblocks"),
    *("services", "endpointslices", "nodes"),
)
"""In the order in which they are written: with its own Node a reader begins, and all else is there then."""
PRIVATE = 0o640

log = logging.getLogger(__name__)


class Mirror:
    """The files of one directory, and what is to be in them. A ``cluster.Memory`` that remembers nothing."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._items: dict[str, dict[tuple[str, str], str]] = {kind: {} for kind in KINDS}
        """The objects of each file as JSON, by collection and key."""
        self._dirty = set(KINDS)

    # -- cluster.Memory ------------------------------------------------------------------------------------------------

    def put(self, collection: str, put: Put) -> None:
        """An object as it is now."""
        kind = _kind(collection, put.document)
        text = json.dumps(put.document, separators=(",", ":"), default=str)
        if kind is not None and self._items[kind].get((collection, put.key)) != text:
            self._items[kind][collection, put.key] = text
            self._dirty.add(kind)

    def drop(self, collection: str, key: str) -> None:
        """An object that is not there any more."""
        for kind, items in self._items.items():
            if items.pop((collection, key), None) is not None:
                self._dirty.add(kind)

    def take(self) -> Sequence[bytes] | None:
        """Nothing: ``write_files`` writes."""
        return None

    def read(self, identity: str) -> Found | None:
        """Nothing: the directory is not read back, its reader has it."""
        return None

    def write(self, identity: str, lines: Sequence[bytes] | None) -> None:
        """Notes that what is there is true now; called while it is."""
        if not self._dirty:
            with suppress(OSError):
                (self.directory / SYNCED).touch(PRIVATE)

    # -- the files -----------------------------------------------------------------------------------------------------

    async def write_files(self) -> int:
        """Writes what differs, the disk in a thread. Returns how many files; ``OSError`` of the first that cannot be
        written, which is left to the next call: the others are."""
        written, failed = 0, None
        for kind in [kind for kind in KINDS if kind in self._dirty]:
            self._dirty.discard(kind)
            path, body = self.directory / f"{kind}.json", ",\n".join(self._items[kind].values())
            text = f'{{"apiVersion":"v1","kind":"List","items":[\n{body}\n]}}\n'
            try:
                if body:
                    written += await asyncio.to_thread(_replace, path, text.encode())
                elif path.exists():  # an empty one would be no order to its reader
                    path.unlink()
                    written += 1
            except OSError as error:
                self._dirty.add(kind)
                failed = failed or error
        if failed is not None:
            raise failed
        return written


async def mirror(source: Source, node: str, directory: Path, once: bool = False) -> None:
    """Keeps a directory equal to what ``node`` needs of a server's resources, until it is cancelled.

    With ``once`` until all was written, or ``OSError``; without it what cannot be written is tried again.
    """
    files = Mirror(directory)
    async for _ in Cluster(source, node, last_known=files).watch():
        while True:
            try:
                written = await files.write_files()
                files.write("", None)
            except OSError as error:
                if once:
                    raise
                event(
                    log, "sync_failed", logging.ERROR, path=error.filename or directory, cause=error.strerror
                )
                await asyncio.sleep(AGAIN_SECONDS)
            else:
                break
        if written:
            event(log, "synced", path=directory, files=written)
        if once:
            return


def _kind(collection: str, document: Any) -> str | None:
    """The file of an object: that of its collection, or (of etcd, where a collection has several kinds) its kind's."""
    name = collection.partition("/")[0]
    if name in KINDS:
        return name
    found = document.get("kind") if isinstance(document, dict) else None
    plural = f"{str(found).lower()}s".replace("affinitys", "affinities")
    return plural if plural in KINDS else None


def _replace(path: Path, data: bytes) -> bool:
    """Whether the file was another one; it is never seen half written, nor by others than its group."""
    with suppress(FileNotFoundError, NotRead):
        if read_named(path) == data:
            return False
    with replacing(path) as file:
        file.write(data)
        parent = path.parent.stat()
        if os.fstat(file.fileno()).st_gid != parent.st_gid:
            with suppress(PermissionError):
                os.fchown(file.fileno(), -1, parent.st_gid)
        os.fchmod(file.fileno(), PRIVATE)
    return True
