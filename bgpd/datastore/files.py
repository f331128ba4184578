"""Resources from a directory of YAML documents, watched by inotify: the embedded datastore. The daemon follows it.

Read are ``*.yaml``, ``*.yml`` and ``*.json`` in the directory itself, hidden names left out; links are followed, so a
mounted ConfigMap works (its ``..data`` link is swapped as a whole). A file is read when its writer closes it, not at
every write. Whatever inotify does not show (the target of a link, a file with another name elsewhere, a network file
system) is found by a look at its stat each ``RESCAN_SECONDS``, and one in ``ROUND`` of all others. What is
parsed once is not parsed again while its text stands in the file. Beside it stands the directory in which Felix says
which workloads of this node speak BGP (``datastore.endpoints``).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from asyncinotify import Mask

from bgpd.config.places import is_resource
from bgpd.datastore.directories import (
    CHANGES,
    Directories,
    Names,
    is_local,
    is_shown,
    open_inotify,
    read_file,
)
from bgpd.datastore.documents import Known, parse
from bgpd.datastore.endpoints import Endpoints
from bgpd.datastore.objects import GRACE_SECONDS, Failure, Objects
from bgpd.datastore.synced import LATE_SECONDS, SYNCED
from bgpd.model.resources import Problem, Snapshot
from bgpd.model.status import DatastoreStatus

RESCAN_SECONDS = 10.0
ROUND = 64
"""Looks in which every file has its turn, though inotify shows what is written to it: a mapping writes unseen."""
POLL_SECONDS = 1.0
"""Seconds between two looks while the directory cannot be watched."""
INLINE = 16_384
"""Octets: more than that is parsed in a thread, since the event loop must not wait for it (about 4 ms)."""

SLICE_SECONDS = 0.004
"""Seconds of reading between two turns of the event loop."""


class _File(NamedTuple):
    """What was read of a file, and by what to know that it is still the same."""

    stamp: tuple[int, ...]
    digest: bytes
    known: Known
    shown: bool
    """Whether inotify shows what is written to it."""


class Files:
    """A ``model.doors.Datastore`` over one directory of resources, and Felix's endpoint-status directory where one is
    given. One ``watch`` at a time."""

    def __init__(self, path: Path, node: str, endpoint_status: Path | None = None) -> None:
        self.path = path.absolute()
        self._endpoints = Endpoints(endpoint_status) if endpoint_status is not None else None
        self._objects = Objects(node)
        self._files: dict[str, _File] = {}
        self._readable = False
        self._resyncs = 0
        self._looks = 0
        self._polled = False
        """The directory is there, and inotify does not report it."""

    def status(self) -> DatastoreStatus:
        status = self._objects.status("files", self._resyncs)
        with suppress(OSError):
            since = (self.path / SYNCED).stat().st_mtime
            if (age := time.time() - since) >= LATE_SECONDS:
                words = f"bgpd sync last confirmed these resources {age:.0f} s ago: what it wrote last stands"
                problem = Problem(str(self.path), "", words)
                status = replace(status, as_of=since, problems=(*status.problems, problem))
        if not self._polled:
            return status
        words = f"not watched, looked at every {POLL_SECONDS:g} s: "
        words += "raise fs.inotify.max_user_instances or max_user_watches"
        return replace(status, problems=(*status.problems, Problem(str(self.path), "", words, harmless=True)))

    async def watch(self) -> AsyncIterator[Snapshot]:
        """The newest whole snapshot at every change, for ever. While the consumer is busy changes add up."""
        paths = {self.path: CHANGES | Mask.CREATE}
        if self._endpoints is not None:
            # Not what was only created: Felix's files are empty then.
            paths.setdefault(self._endpoints.path, CHANGES)
        with open_inotify() as inotify:
            directories = Directories(inotify, paths)
            self._objects.begin()
            news = directories.everything()
            while True:
                if None in news.values():
                    directories.follow()
                if self.path in news:
                    await self._read(news[self.path], directories.quiet and directories.watched(self.path))
                if self._endpoints is not None and self._endpoints.path in news:
                    await self._endpoints.read(news[self._endpoints.path], directories.overflowed)
                    self._objects.workloads(self._endpoints.workloads(), self._endpoints.failures())
                if self._objects.settle(time.monotonic(), self._readable):
                    yield self._objects.snapshot()
                self._polled = self._readable and not directories.watched(self.path)
                news = await directories.news(self._timeout(directories))
                if directories.overflowed:
                    self._resyncs += 1
                    self._files = {name: file._replace(stamp=()) for name, file in self._files.items()}

    async def foresee(self, files: Mapping[str, bytes]) -> Snapshot:
        """What would hold if these were the files of the directory, name -> octets, once they were there for a while.

        As always the last good version of an object stands that is no good there, and the workloads are those of now.
        ``ValueError``: they would not be whole, and nothing would change. Works in a thread.
        """
        return await asyncio.to_thread(_foresee, self._objects.fork(), dict(self._files), files)

    def _timeout(self, directories: Directories) -> float:
        """Seconds until a look at everything is due."""
        timeout = RESCAN_SECONDS if directories.watched(self.path) else POLL_SECONDS
        deadline = self._objects.deadline()
        return timeout if deadline is None else max(0.0, min(timeout, deadline - time.monotonic()))

    # -- what the files say --------------------------------------------------------------------------------------------

    async def _read(self, names: Names, quiet: bool) -> None:
        """Reads the files named, or all whose stat differs, and takes note of those that are gone. ``quiet``: inotify
        watches the directory and has nothing to report."""
        if names is None:
            listed = self._list()
            if listed is None:
                return
            gone = self._objects.places() - listed - {""}
            if quiet and is_local(self.path):
                listed = self._not_shown(listed)
        else:
            listed, gone = {name for name in names if is_resource(name)}, set()
        turn = time.monotonic() + SLICE_SECONDS
        for name in sorted(listed):
            if not await self._read_file(name, force=names is not None):
                gone.add(name)
            if time.monotonic() >= turn:
                await asyncio.sleep(0)
                turn = time.monotonic() + SLICE_SECONDS
        for name in gone:
            self._files.pop(name, None)
            self._objects.drop(name)

    def _not_shown(self, listed: set[str]) -> set[str]:
        """The files that are to be looked at though inotify reported nothing."""
        self._looks += 1
        turn = self._looks % ROUND
        files = self._files
        return {
            name
            for name in listed
            if (file := files.get(name)) is None or not file.shown or hash(name) % ROUND == turn
        }

    def _list(self) -> set[str] | None:
        """Names of the files in the directory; ``None`` when it cannot be read."""
        try:
            names = {name for name in os.listdir(self.path) if is_resource(name)}
        except OSError as error:
            words = (
                "does not exist"
                if isinstance(error, FileNotFoundError)
                else f"cannot be read: {error.strerror}"
            )
            self._readable = False
            self._objects.put("", (), [Failure("io", Problem(str(self.path), "", words))])
            return None
        if not self._readable:
            self._resyncs += bool(self._files)
            self._readable = True
            self._objects.drop("")
        return names

    async def _read_file(self, name: str, force: bool) -> bool:
        """Reads one file unless it is as it was. Returns whether it is there."""
        path = self.path / name
        file = self._files.get(name)
        try:
            stamp, data = read_file(path, file.stamp if file is not None and not force else None)
        except FileNotFoundError:
            return False
        except OSError as error:
            self._files.pop(name, None)
            problem = Problem(name, "", f"cannot be read: {error.strerror}")
            self._objects.put(name, (), [Failure("io", problem)], whole=False)
            return True
        if data is None:
            return True
        digest = _digest(data)
        if file is not None and file.digest == digest:
            self._files[name] = file._replace(stamp=stamp, shown=_shown(path))
            return True
        known = file.known if file is not None else {}
        if len(data) <= INLINE:
            parsed = parse(name, data, known)
        else:
            parsed = await asyncio.to_thread(parse, name, data, known)
        self._files[name] = _File(stamp, digest, parsed.known, _shown(path))
        self._objects.put(name, parsed.objects, parsed.failures, parsed.whole)
        return True


def _foresee(objects: Objects, known: Mapping[str, _File], files: Mapping[str, bytes]) -> Snapshot:
    taken = {name: data for name, data in files.items() if is_resource(name)}
    for name, data in sorted(taken.items()):
        file = known.get(name)
        if file is None or file.digest != _digest(data):
            parsed = parse(name, data, file.known if file is not None else {})
            objects.put(name, parsed.objects, parsed.failures, parsed.whole)
    for name in objects.places() - taken.keys():
        objects.drop(name)
    for now in (0.0, 2 * GRACE_SECONDS):  # what is not there any more goes
        objects.settle(now, True)
    if words := objects.detail():
        raise ValueError(words)
    return objects.snapshot()


def _shown(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return is_shown(path)
    return False


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
