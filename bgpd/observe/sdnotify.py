"""What the service manager is sent: sd_notify(3) over one datagram socket.

``daemon`` owns the one ``Notifier`` and says READY, STATUS, RELOADING, STOPPING and WATCHDOG through it. Without a
service manager every call does nothing. A notification that cannot be delivered is dropped: a daemon does not stop
routing because nobody listens.

Descriptors that are to outlive this process go the same way (``store``), into the manager's store; the next process has
them from its start on (``stored``). The manager keeps them while the unit restarts, and closes them when it stops.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import time
from collections.abc import Mapping, MutableMapping, Sequence

from bgpd.events import event

log = logging.getLogger(__name__)

START_EXTENSION_SECONDS = 60.0
"""Seconds that a start may go on after each ``starting``."""


STORE_NAME = "bgpd"
STORE_AT_ONCE = 200
"""Descriptors in one message; the kernel takes 253 (SCM_MAX_FD)."""
STORE_SECONDS = 2.0
FIRST_STORED = 3
"""The first descriptor that a service manager hands to a process (SD_LISTEN_FDS_START)."""


def stored(environ: MutableMapping[str, str]) -> list[int]:
    """The descriptors that the process before put into the service manager's store; the caller's from now on. The
    variables that say so go, so that no child takes them for its own."""
    pid, count, names = (environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    if pid != str(os.getpid()) or not (count.isascii() and count.isdigit()):
        return []
    found = []
    for descriptor, name in zip(
        range(FIRST_STORED, FIRST_STORED + int(count)), names.split(":"), strict=False
    ):
        os.set_inheritable(descriptor, False)
        if name == STORE_NAME:
            found.append(descriptor)
    return found


class Notifier:
    """One process's line to its service manager.

    ``address`` is the socket's path, or ``@name`` for an abstract one; ``None`` makes every call a no-op.
    ``watchdog_interval`` is how often ``watchdog`` must be called, in seconds: half of what the manager waits;
    ``None`` when it does not wait.
    """

    def __init__(self, address: str | None = None, watchdog_interval: float | None = None) -> None:
        self.watchdog_interval = watchdog_interval if address else None
        self._address = "\0" + address[1:] if address and address[0] == "@" else address
        self._failed = False

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Notifier:
        """The notifier that NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID ask for."""
        environ = os.environ if environ is None else environ
        address = environ.get("NOTIFY_SOCKET", "")
        if address[:1] not in ("/", "@") or len(address) < 2:
            if address:
                event(
                    log,
                    "not_notified",
                    logging.WARNING,
                    cause=f"NOTIFY_SOCKET is neither a path nor abstract: {address}",
                )
            address = ""
        interval = None
        usec = environ.get("WATCHDOG_USEC", "")
        # WATCHDOG_PID guards against an environment inherited from another service.
        if (
            usec.isascii()
            and usec.isdigit()
            and environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        ):
            interval = int(usec) / 2e6 or None
        return cls(address or None, interval)

    @property
    def manages(self) -> bool:
        """Whether there is a service manager."""
        return self._address is not None

    def ready(self, status: str) -> None:
        """Start or reload has finished."""
        self._send(f"READY=1\nSTATUS={_line(status)}")

    def starting(self, text: str) -> None:
        """Not ready yet, and alive: the start may take as long again. Repeat it within ``START_EXTENSION_SECONDS``.

        (Without it a node whose resources are late, or whose BIRD is still there, is ended and begun anew for ever.)
        """
        self._send(f"STATUS={_line(text)}\nEXTEND_TIMEOUT_USEC={int(START_EXTENSION_SECONDS * 1e6)}")

    def status(self, text: str) -> None:
        """One line for ``systemctl status``."""
        self._send(f"STATUS={_line(text)}")

    def reloading(self) -> None:
        """A reload begins; ``ready`` ends it. The monotonic time is what ``Type=notify-reload`` asks for."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """The process ends."""
        self._send("STOPPING=1")

    def watchdog(self) -> None:
        """All that must run does."""
        self._send("WATCHDOG=1")

    def store(self, descriptors: Sequence[int]) -> bool:
        """Keeps descriptors for the next process of this unit, and returns when the manager has them: at once, and in
        ``STORE_SECONDS`` at most. Whether it has; without a store (FileDescriptorStoreMax=0) it closes them."""
        if self._address is None:
            return False
        here, there = os.pipe2(os.O_CLOEXEC)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as s:
                s.settimeout(STORE_SECONDS)
                s.connect(self._address)
                for place in range(0, len(descriptors), STORE_AT_ONCE):
                    some = list(descriptors[place : place + STORE_AT_ONCE])
                    socket.send_fds(s, [f"FDSTORE=1\nFDNAME={STORE_NAME}".encode()], some)
                # The manager closes it once it has read all that came before (sd_notify_barrier(3)).
                socket.send_fds(s, [b"BARRIER=1"], [there])
            os.close(there)
            there = -1
            poll = select.poll()
            poll.register(here, select.POLLHUP)
            return bool(poll.poll(STORE_SECONDS * 1000))
        except OSError as error:
            event(log, "not_stored", logging.WARNING, cause=str(error))
            return False
        finally:
            os.close(here)
            if there >= 0:
                os.close(there)

    def forget_stored(self) -> None:
        """What ``stored`` gave is ours alone from now on."""
        self._send(f"FDSTOREREMOVE=1\nFDNAME={STORE_NAME}")

    def _send(self, message: str) -> None:
        if self._address is None:
            return
        try:
            # A socket a message: they are few, and the manager may have made its own anew since the last one.
            with socket.socket(
                socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            ) as s:
                s.sendto(message.encode(), self._address)
        except OSError as error:
            if not self._failed:  # once: the watchdog would repeat it for ever
                event(log, "not_notified", logging.WARNING, cause=str(error))
            self._failed = True
        else:
            self._failed = False


def _line(text: str) -> str:
    """Newlines separate the assignments of a message, so a value has none."""
    return " ".join(text.split())
