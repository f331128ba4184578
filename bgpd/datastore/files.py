"""Resources from a directory of YAML documents, watched by inotify: the embedded datastore. The daemon follows it.

Read are ``*.yaml``, ``*.yml`` and ``*.json`` in the directory itself, hidden names left out; links are followed, so a
mounted ConfigMap works (its ``..data`` link is swapped as a whole). The directory, and what holds it, is watched rather
than its files: a file that is replaced by a rename is another inode. A file is read when its writer closes it, not at
every write. Whatever inotify does not show (a link's target elsewhere, a network file system) is found by a look at
every file's stat each ``RESCAN`` seconds. What is parsed once is not parsed again while its text stands in the file.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import stat
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from asyncinotify import Event, Inotify, Mask, Watch

from bgpd.datastore.decode import Decoded, Verdict, decode
from bgpd.datastore.objects import Failure, Objects
from bgpd.model.resources import Problem, Snapshot
from bgpd.model.status import DatastoreStatus
from bgpd.yamlfile import YamlError, load_documents, split_documents

RESCAN = 10.0
POLL = 1.0
"""Seconds between two looks while the directory cannot be watched."""
SUFFIXES = (".yaml", ".yml", ".json")
INLINE = 16_384
"""Octets: more than that is parsed in a thread, since the event loop must not wait for it (about 4 ms)."""

log = logging.getLogger(__name__)

_IN_DIRECTORY = (
    Mask.CLOSE_WRITE
    | Mask.CREATE
    | Mask.MOVED_TO
    | Mask.MOVED_FROM
    | Mask.DELETE
    | Mask.ATTRIB
    | Mask.DELETE_SELF
    | Mask.MOVE_SELF
    | Mask.ONLYDIR
)
_IN_HOLDER = Mask.CREATE | Mask.MOVED_TO | Mask.MOVED_FROM | Mask.DELETE | Mask.ONLYDIR

_Chunks = Mapping[str, tuple[Decoded, ...]]


class _File(NamedTuple):
    """What was read of a file, and by what to tell that it is still the same."""

    stamp: tuple[int, ...]
    digest: bytes
    chunks: _Chunks


class _Parsed(NamedTuple):
    objects: tuple[Decoded, ...]
    failures: tuple[Failure, ...]
    whole: bool
    chunks: _Chunks


class Files:
    """A ``model.status.Datastore`` over one directory. One ``watch`` at a time."""

    def __init__(self, path: Path, node: str) -> None:
        self.path = path.absolute()
        self._objects = Objects(node)
        self._files: dict[str, _File] = {}
        self._readable = False
        self._resyncs = 0
        self._watched: tuple[tuple[int, int], Watch] | None = None
        self._holder: tuple[tuple[int, int], Watch] | None = None
        self._holder_path = self.path

    def status(self) -> DatastoreStatus:
        return self._objects.status("files", self._resyncs)

    async def watch(self) -> AsyncIterator[Snapshot]:
        """The newest whole snapshot at every change, for ever. While the consumer is busy changes add up."""
        with _inotify() as inotify:
            self._watched = self._holder = None
            self._objects.begin()
            names: frozenset[str] | None = None
            while True:
                if names is None:
                    self._follow(inotify)
                await self._read(names)
                if self._objects.settle(time.monotonic(), self._readable):
                    yield self._objects.snapshot()
                names = await self._next(inotify)

    # -- what happens in the directory ---------------------------------------------------------------------------------

    def _follow(self, inotify: Inotify | None) -> None:
        """Watches the directory that the path names now, and the nearest one above it, to see it come and go."""
        if inotify is None:
            return
        self._watched = _moved(inotify, self._watched, self.path, _IN_DIRECTORY)
        holder = self.path.parent
        while holder != holder.parent and not holder.is_dir():
            holder = holder.parent
        self._holder_path = holder
        self._holder = _moved(inotify, self._holder, holder, _IN_HOLDER)

    async def _next(self, inotify: Inotify | None) -> frozenset[str] | None:
        """Waits for the next thing to do. Returns names of files to read; ``None`` asks for a look at everything."""
        now = time.monotonic()
        timeout = RESCAN if self._watched else POLL
        deadline = self._objects.deadline()
        if deadline is not None:
            timeout = max(0.0, min(timeout, deadline - now))
        if inotify is None:
            await asyncio.sleep(timeout)
            return None
        try:
            async with asyncio.timeout(timeout):
                events = [await inotify.get()]
        except TimeoutError:
            return None
        while (event := inotify.sync_get()) is not None:
            events.append(event)
        names: set[str] = set()
        for event in events:
            if Mask.Q_OVERFLOW in event.mask:
                self._resyncs += 1
                self._files = {name: file._replace(stamp=()) for name, file in self._files.items()}
                return None
            if self._concerns_all(event):
                return None
            if event.name is not None and self._watched and event.watch is self._watched[1]:
                names.add(str(event.name))
        return frozenset(names)

    def _concerns_all(self, event: Event) -> bool:
        """Whether an event may concern more than the file that it names."""
        if self._holder is not None and event.watch is self._holder[1]:
            return event.name is not None and self._holder_path / event.name in (
                self.path,
                *self.path.parents,
            )
        if self._watched is None or event.watch is not self._watched[1]:
            return False
        return event.name is None or str(event.name).startswith("..")

    # -- what the files say --------------------------------------------------------------------------------------------

    async def _read(self, names: frozenset[str] | None) -> None:
        """Reads the files named, or all whose stat differs, and takes note of those that are gone."""
        if names is None:
            listed = self._list()
            if listed is None:
                return
            gone = self._objects.places() - listed - {""}
        else:
            listed, gone = {name for name in names if _is_resource(name)}, set()
        for name in sorted(listed):
            if not await self._read_file(name, force=names is not None):
                gone.add(name)
        for name in gone:
            self._files.pop(name, None)
            self._objects.drop(name)

    def _list(self) -> set[str] | None:
        """Names of the files in the directory; ``None`` when it cannot be read."""
        try:
            names = {name for name in os.listdir(self.path) if _is_resource(name)}
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
        known = self._files.get(name)
        try:
            seen = path.stat()
            if not stat.S_ISREG(seen.st_mode):
                return False
            stamp = (seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
            if known is not None and known.stamp == stamp and not force:
                return True
            data = path.read_bytes()
        except FileNotFoundError:
            return False
        except OSError as error:
            self._files.pop(name, None)
            problem = Problem(name, "", f"cannot be read: {error.strerror}")
            self._objects.put(name, (), [Failure("io", problem)], whole=False)
            return True
        digest = hashlib.blake2b(data, digest_size=16).digest()
        if known is not None and known.digest == digest:
            self._files[name] = known._replace(stamp=stamp)
            return True
        chunks = known.chunks if known is not None else {}
        if len(data) <= INLINE:
            parsed = parse(name, data, chunks)
        else:
            parsed = await asyncio.to_thread(parse, name, data, chunks)
        self._files[name] = _File(stamp, digest, parsed.chunks)
        self._objects.put(name, parsed.objects, parsed.failures, parsed.whole)
        return True


def parse(name: str, data: bytes, known: _Chunks) -> _Parsed:
    """The objects in a file's octets. ``known`` holds what its documents were decoded to the last time."""
    objects: list[Decoded] = []
    failures: list[Failure] = []
    chunks: dict[str, tuple[Decoded, ...]] = {}
    try:
        parts: Iterable[tuple[str, int]] = split_documents(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        parts = [("", 0)]  # the loader words it
    for part, line in parts:
        decoded = known.get(part)
        if decoded is None:
            try:
                documents = load_documents(part if line else data, name, line or 1)
            except YamlError as error:
                problem = Problem(f"{name}:{error.line}:{error.column}", "", error.message)
                failures.append(Failure("yaml", problem))
                continue
            values = [document.value for document in documents if document.value is not None]
            decoded = tuple(found for value in values for found in decode(value, name))
        chunks[part] = decoded
        objects += decoded
    nameless = [found for found in objects if found.key is None and found.problems]
    bad = [found for found in nameless if found.verdict is Verdict.BAD]
    for found in nameless:
        reason = "invalid" if found.verdict is Verdict.BAD else ""
        failures += [Failure(reason, problem) for problem in found.problems]
    whole = not bad and not any(failure.reason == "yaml" for failure in failures)
    return _Parsed(tuple(objects), tuple(failures), whole, chunks)


def _is_resource(name: str) -> bool:
    return name.endswith(SUFFIXES) and not name.startswith(".")


@contextlib.contextmanager
def _inotify() -> Iterator[Inotify | None]:
    """An inotify instance; ``None`` where the node has no more of them (fs.inotify.max_user_instances)."""
    try:
        inotify = Inotify(sync_timeout=0)  # sync_get only drains: it never waits
    except OSError as error:
        log.warning("event=inotify_failed error=%s poll=%ss", error.strerror, POLL)
        yield None
        return
    with inotify:
        yield inotify


def _moved(
    inotify: Inotify, watched: tuple[tuple[int, int], Watch] | None, path: Path, mask: Mask
) -> tuple[tuple[int, int], Watch] | None:
    """The watch of the directory that a path names now: the one there is, or a new one in its place."""
    try:
        seen = path.stat()
        identity = (seen.st_dev, seen.st_ino)
        if watched is not None and watched[0] == identity and watched[1] in inotify.watches:
            return watched
        fresh: tuple[tuple[int, int], Watch] | None = identity, inotify.add_watch(path, mask)
    except OSError:
        fresh = None
    if watched is not None and (fresh is None or fresh[1] is not watched[1]):
        with contextlib.suppress(OSError):  # the kernel drops it with its directory
            inotify.rm_watch(watched[1])
    return fresh
