"""Who else writes routes of our protocol: a command that ran and ended, or a daemon that lives. Used by ``kernel``.

The kernel's notification carries the port id of the socket that asked. What ``ip route replace ... proto bird`` wrote
is put right; against another daemon, BIRD say, we would write for ever. They are distinguished by whether the port
still lives a moment later, as ``/proc/net/netlink`` lists it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from bgpd.model.prefix import Family
from bgpd.model.route import FibKey

LOOK_AFTER_SECONDS = 0.1
"""Seconds until the first look, and between looks while it is not known what a writer is."""
DAEMON_AFTER_SECONDS = 0.5
"""Seconds that a command's port is given to end."""
LOOK_AGAIN_SECONDS = 1.0
"""Seconds between looks at a known daemon."""

DAEMONS = ("bird", "bird6")
"""What the daemons that write our protocol are called."""

_PORTS = Path("/proc/thread-self/net/netlink")


class _Writer:
    def __init__(self, now: float) -> None:
        self.since = now
        self.keys: dict[Family, set[FibKey]] = {family: set() for family in Family}
        self.words: str | None = None
        """Once it is known to be a daemon."""


class Rivals:
    """``ended``: a writer is gone, or known, so these keys may be reported. ``rival``: who lives; ``None``: nobody
    now."""

    def __init__(
        self,
        ended: Callable[[Family, set[FibKey]], None],
        rival: Callable[[str | None], None],
    ) -> None:
        self._ended, self._rival = ended, rival
        self._writers: dict[int, _Writer] = {}
        self._wake = asyncio.Event()

    def wrote(self, port: int, family: Family, key: FibKey) -> bool:
        """A port made or changed a route of ours. Whether the change is held back until it is known who that is."""
        writer = self._writers.get(port)
        if writer is None:
            writer = self._writers[port] = _Writer(time.monotonic())
            self._wake.set()
        return self.holds(port, family, key)

    def holds(self, port: int, family: Family, key: FibKey) -> bool:
        """Whether a change by a port is held back: it made routes before, and what it is is not yet known."""
        writer = self._writers.get(port)
        if writer is None or writer.words is not None:
            return False
        writer.keys[family].add(key)
        return True

    async def run(self) -> None:
        """Watches those who wrote, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._writers:
                if any(writer.words is None for writer in self._writers.values()):
                    await asyncio.sleep(LOOK_AFTER_SECONDS)
                else:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(LOOK_AGAIN_SECONDS):
                            await self._wake.wait()
                        self._wake.clear()
                        continue
                await self._look()

    async def _look(self) -> None:
        alive = _ports()
        now = time.monotonic()
        for port, writer in list(self._writers.items()):
            if port not in alive:
                del self._writers[port]
                self._report(writer)
                if writer.words is not None and not any(other.words for other in self._writers.values()):
                    self._rival(None)
            elif writer.words is None and now - writer.since >= DAEMON_AFTER_SECONDS:
                name = await asyncio.to_thread(process_of, alive[port])
                writer.words = f"netlink port {port}" + (f", {name}" if name else "")
                self._rival(writer.words)
                self._report(writer)

    def _report(self, writer: _Writer) -> None:
        for family, keys in writer.keys.items():
            if keys:
                self._ended(family, keys)


def _ports() -> dict[int, int]:
    """Route netlink ports that live in this network namespace, each with its socket's inode."""
    ports = {}
    for line in _PORTS.read_text().splitlines()[1:]:
        columns = line.split()
        if columns[1] == "0":
            ports[int(columns[2])] = int(columns[9])
    return ports


def resident() -> str | None:
    """A routing daemon that is known to write our protocol, by its name, in this network namespace, idle or not."""
    for inode in _ports().values():
        name = process_of(inode)
        if name is not None and name.partition(" ")[0] in DAEMONS:
            return name
    return None


def process_of(inode: int) -> str | None:
    """Which process has a socket, ``bird (pid 812)``; ``None`` where that cannot be seen."""
    target = f"socket:[{inode}]"
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            if any(os.readlink(entry) == target for entry in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
        except OSError:  # it ended, or is not ours to see
            continue
    return None
