"""Reading a file that somebody named: no more of it than it may have, and never waiting for what has no end.

Whoever reads a whole file that is not its own work reads it here. A sparse file of 200 GB, a FIFO or a device in its
place is an error with a name; it neither takes all of the memory nor makes a daemon wait. Light to import.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

MOST = 128 << 20
"""Octets of a file that are read unless less is said: a List of 10,000 blocks has 20 MB."""
SMALL = 16 << 20
"""Octets of a file that people write by hand, and more."""

_KINDS = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}


class NotRead(OSError):
    """A file that is there and is not read; ``strerror`` says why."""


class NoFile(NotRead):
    """It is no regular file."""


class TooLarge(NotRead):
    """It has more than may be read."""


def _check_kind(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise NoFile(0, f"{_KINDS.get(stat.S_IFMT(mode), 'a device')}, not a file")


def read_open(descriptor: int, most: int = MOST) -> bytes:
    """All of an open file. ``TooLarge`` where that is more than ``most`` octets."""
    size = os.fstat(descriptor).st_size
    if size > most:
        raise TooLarge(0, f"{size} octets, more than {most >> 20} MiB")
    with open(descriptor, "rb", closefd=False) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise TooLarge(0, f"more than {most >> 20} MiB")
    return data


@contextmanager
def open_named(path: str | os.PathLike[str], *, streams: bool = False) -> Iterator[int]:
    """A descriptor of a file by its name, to read from, for as long as it is needed. Raises ``OSError``, of it
    ``NoFile``.

    With ``streams`` a FIFO may stand there, as a shell makes one for ``<(ip -j route)``: the reader waits for it.
    """
    if not streams:
        _check_kind(os.stat(path).st_mode)  # before it is opened: that may do something to a device
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (0 if streams else os.O_NONBLOCK))
    try:
        if not streams:
            _check_kind(os.fstat(descriptor).st_mode)
        yield descriptor
    finally:
        os.close(descriptor)


def read_named(path: str | os.PathLike[str], most: int = MOST, *, streams: bool = False) -> bytes:
    """All of a file by its name. Raises ``OSError``, of it ``NoFile`` and ``TooLarge``."""
    with open_named(path, streams=streams) as descriptor:
        return read_open(descriptor, most)
