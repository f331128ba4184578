"""The control socket's file: of all daemons of a node one has it.

``daemon`` claims it at its start, and ``api`` serves it; who connects in between waits for a moment.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

BACKLOG = 128
"""Connections that may wait to be accepted."""


class AlreadyRunning(Exception):
    """Another daemon answers on the socket."""


class Claim:
    """The listening socket of this daemon at a path, mode 0660; a file left there by a dead one goes.

    ``AlreadyRunning`` when a daemon listens there, ``OSError`` when the path is something else or cannot be bound.
    ``given``: the socket of the process before, which has given it away.
    """

    def __init__(self, path: Path, given: socket.socket | None = None) -> None:
        self.path = path
        self.socket = given or _listen(path)
        self.socket.setblocking(False)
        self._inode = _inode(path)

    def renew(self) -> bool:
        """Makes the socket again where its path (or the directory) was removed. Whether ``socket`` is a new one.

        ``AlreadyRunning`` where another daemon has the path now, ``OSError`` where it cannot be made.
        """
        if self._inode is None or _inode(self.path) == self._inode:
            return False
        fresh = _listen(self.path)
        self.socket, self._inode = fresh, _inode(self.path)
        return True

    def give_away(self) -> None:
        """Another process has the socket: its file stays."""
        self._inode = None

    def release(self) -> None:
        """Closes it; the file goes if it is still the one made here."""
        if self._inode is not None and _inode(self.path) == self._inode:
            self.path.unlink(missing_ok=True)
        self._inode = None
        self.socket.close()


def answers(path: Path) -> bool:
    """Whether a daemon listens on a unix socket. ``PermissionError`` when it cannot be known."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            return False
        except (BlockingIOError, TimeoutError):
            return True  # its queue is full: it is there, if stuck
        except OSError as error:
            if error.errno == errno.ENOTSOCK:
                return False
            raise
    return True


def _listen(path: Path) -> socket.socket:
    """The directory is locked meanwhile, so that of two daemons that start at once one loses."""
    path.parent.mkdir(parents=True, exist_ok=True)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(f"another bgpd is starting on {path}") from None
        if answers(path):
            raise AlreadyRunning(f"another bgpd answers on {path}")
        with suppress(FileNotFoundError):
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise FileExistsError(errno.EEXIST, f"{path} is there and is no socket")
            path.unlink()
        door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            door.bind(str(path))
            path.chmod(0o660)
            door.listen(BACKLOG)  # before the lock goes: from here on it answers
        except OSError as error:
            door.close()
            raise OSError(error.errno, f"cannot listen on {path}: {error.strerror or error}") from None
        return door
    finally:
        os.close(directory)


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
