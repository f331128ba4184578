"""Directories watched by inotify, together on one instance: what happened, name by name. ``datastore.files`` asks.

A directory is watched rather than its files: a file that is replaced by a rename is another inode. The nearest
directory above it that exists is watched too, to see it come and go. Two paths may share a directory, so watches are
kept by inode, with all that is asked of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from asyncinotify import Event, Inotify, Mask, Watch

from bgpd.config.named_files import open_named, read_open
from bgpd.events import event

CHANGES = (
    Mask.CLOSE_WRITE
    | Mask.MOVED_TO
    | Mask.MOVED_FROM
    | Mask.DELETE
    | Mask.ATTRIB
    | Mask.DELETE_SELF
    | Mask.MOVE_SELF
    | Mask.ONLYDIR
)
"""What is to be seen in a directory; a file that is being written is news when its writer closes it."""
_ABOVE = Mask.CREATE | Mask.MOVED_TO | Mask.MOVED_FROM | Mask.DELETE | Mask.ONLYDIR

_AT_A_TIME = 256
"""Events between two turns of the event loop: a full queue is half a second's work."""

Names = frozenset[str] | None
"""Files of a directory at which to look; ``None`` is everything in it."""

log = logging.getLogger(__name__)

_Inode = tuple[int, int]


class _Role(NamedTuple):
    """What a watch is there for."""

    path: Path
    above: Path | None
    """The part of ``path`` that this directory is, where it holds ``path``."""


class _Watched(NamedTuple):
    watch: Watch
    mask: Mask
    roles: tuple[_Role, ...]


@contextlib.contextmanager
def open_inotify() -> Iterator[Inotify | None]:
    """An inotify instance; ``None`` where the node has no more of them (fs.inotify.max_user_instances)."""
    try:
        inotify = Inotify(sync_timeout=0)  # sync_get only drains: it never waits
    except OSError as error:
        event(log, "inotify_failed", logging.WARNING, error=error.strerror)
        yield None
        return
    with inotify:
        yield inotify


class Directories:
    """The directories that some paths name, each with the mask of what is news in it."""

    def __init__(self, inotify: Inotify | None, paths: Mapping[Path, Mask]) -> None:
        self._inotify = inotify
        self._paths = dict(paths)
        self._watched: dict[_Inode, _Watched] = {}
        self.overflowed = False
        """Whether the last news came from a queue that had lost some."""
        self.quiet = False
        """Whether the last news are only that the time is over: nothing was reported, and nothing was lost."""

    def watched(self, path: Path) -> bool:
        """Whether the directory of a path was there to be watched at the last ``follow``."""
        return any(role == (path, None) for held in self._watched.values() for role in held.roles)

    def everything(self) -> dict[Path, Names]:
        """News that ask for a look at all."""
        return dict.fromkeys(self._paths)

    def follow(self) -> None:
        """Watches the directories that the paths name now, and the nearest ones above them."""
        if self._inotify is None:
            return
        wanted: dict[_Inode, tuple[Path, Mask, tuple[_Role, ...]]] = {}
        for path, mask in self._paths.items():
            above = path.parent
            while above != above.parent and not above.is_dir():
                above = above.parent
            for where, what, role in ((path, mask, _Role(path, None)), (above, _ABOVE, _Role(path, above))):
                with contextlib.suppress(OSError):
                    seen = where.stat()
                    inode = seen.st_dev, seen.st_ino
                    _, others, roles = wanted.get(inode, (where, Mask(0), ()))
                    wanted[inode] = where, what | others, (*roles, role)
        alive = self._inotify.watches
        for inode, held in list(self._watched.items()):
            if inode not in wanted or held.watch not in alive:
                del self._watched[inode]
                with contextlib.suppress(OSError):  # the kernel drops it with its directory
                    self._inotify.rm_watch(held.watch)
        for inode, (where, mask, roles) in wanted.items():
            known = self._watched.pop(inode, None)
            if known is not None and known.mask == mask:
                self._watched[inode] = known._replace(roles=roles)
                continue
            with contextlib.suppress(OSError):  # gone again, or not a directory
                self._watched[inode] = _Watched(self._inotify.add_watch(where, mask), mask, roles)

    async def news(self, timeout: float) -> dict[Path, Names]:
        """What happened, when it happens; after ``timeout`` seconds without anything: everything."""
        self.overflowed = self.quiet = False
        if self._inotify is None:
            await asyncio.sleep(timeout)
            return self.everything()
        try:
            async with asyncio.timeout(timeout):
                events = [await self._inotify.get()]
        except TimeoutError:
            self.quiet = True
            return self.everything()
        while len(events) < _AT_A_TIME and (event := self._inotify.sync_get()) is not None:
            events.append(event)
        if len(events) == _AT_A_TIME:  # the rest is there already, and asking for it would not wait
            await asyncio.sleep(0)
        news: dict[Path, Names] = {}
        for event in events:
            if Mask.Q_OVERFLOW in event.mask:
                self.overflowed = True
                return self.everything()
            for path, names in self._reported(event):
                before = news.get(path, frozenset())
                news[path] = None if before is None or names is None else before | names
        return news

    def _reported(self, event: Event) -> Iterator[tuple[Path, Names]]:
        """What one event says of which path."""
        roles = (role for held in self._watched.values() if held.watch is event.watch for role in held.roles)
        for path, above in roles:
            name = None if event.name is None else str(event.name)
            if above is not None:
                if name is None or above / name in (path, *path.parents):
                    yield path, None
            elif name is None or name.startswith(".."):  # the link of a ConfigMap: all files at once
                yield path, None
            else:
                yield path, frozenset((name,))


def stamp_of(seen: os.stat_result) -> tuple[int, ...]:
    """What shows that a file is not the one that was read: it differs with the file, its length or its times."""
    return seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns


LOCAL = frozenset(
    (*("bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"),)
)
"""File systems that nobody but this machine's kernel writes to, so that inotify shows all that is written."""


def is_local(path: Path) -> bool:
    """Whether a directory is on one of these, by /proc/self/mountinfo (proc(5)); no where that is not known."""
    try:
        device = path.stat().st_dev
        wanted = f"{os.major(device)}:{os.minor(device)}"
        lines = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return False
    kinds = {line.rpartition(" - ")[2].split(" ")[0] for line in lines if line.split(" ")[2] == wanted}
    return bool(kinds) and kinds <= LOCAL


def is_shown(path: Path) -> bool:
    """Whether inotify on its directory shows what is written to a file: it is no link, and has no other name."""
    seen = path.lstat()
    return stat.S_ISREG(seen.st_mode) and seen.st_nlink == 1


def read_file(path: Path, known: tuple[int, ...] | None) -> tuple[tuple[int, ...], bytes | None]:
    """The stamp and the octets of a file; no octets where its stamp is the ``known`` one.

    Raises ``OSError`` as ``read_named`` does: of what is no file, and of what is too large to be resources.
    """
    if (stamp := stamp_of(path.stat())) == known:
        return stamp, None
    with open_named(path) as descriptor:
        return stamp_of(os.fstat(descriptor)), read_open(descriptor)
