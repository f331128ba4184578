"""``bgpd cleanup``: all that is ours goes from the kernel, while no daemon is at work on it.

A stop leaves the routes on purpose; this takes them away. Another daemon that writes routes of our protocol, BIRD say,
would write what we remove again, or stand without it until it looks: it has to be stopped first.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection

from bgpd.config.config import Config
from bgpd.daemon.daemon import make_kernel
from bgpd.kernel.rivals import DAEMON_AFTER_SECONDS, resident
from bgpd.model.prefix import Address, Family
from bgpd.model.route import FibKey

LISTEN = 2 * DAEMON_AFTER_SECONDS
"""Seconds in which whoever writes is heard."""


class Rival(Exception):
    """Another daemon is at work on routes of our protocol; says which."""


class _Listening:
    """Hears who else writes; the rest of what the kernel says (``KernelHandler``) changes nothing here."""

    who: str | None = None

    def rival_changed(self, who: str | None) -> None:
        self.who = who

    def fib_changed(self, family: Family, keys: Collection[FibKey]) -> None: ...

    def fib_suspect(self, family: Family | None, cause: str) -> None: ...

    def next_hops_changed(self, addresses: frozenset[Address]) -> None: ...

    def workloads_changed(self) -> None: ...

    def local_changed(self) -> None: ...


def cleanup(config: Config) -> dict[str, int]:
    """Remove all that is ours from the kernel; how many routes of each family. The daemon must not be running; raises
    ``Rival``, and ``OSError`` where the kernel refuses."""
    return asyncio.run(_cleanup(config))


async def _cleanup(config: Config) -> dict[str, int]:
    if who := resident() or await _writer(config):
        raise Rival(who)
    door = make_kernel(config, None)
    await door.start()
    try:
        return {family.label: await door.fibs[family].remove_all() for family in Family}
    finally:
        await door.close()


async def _writer(config: Config) -> str | None:
    """Who writes routes of our protocol just now."""
    heard = _Listening()
    door = make_kernel(config, heard)
    await door.start()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LISTEN):
            await door.run()
    return heard.who
