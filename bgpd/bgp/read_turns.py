"""How much of what peers sent is taken in one turn of the event loop.

A thousand sockets may have octets at once, and each read may bring hundreds of UPDATEs. What is beyond a turn's share
waits here for the next one, and its socket is not read meanwhile. ``speaker`` has one of these for all its links.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from bgpd.bgp.runner import now
from bgpd.bgp.transport import Link

TURN_SECONDS = 0.005
"""Seconds of taking what peers sent, in one turn of the event loop."""


class ReadTurns:
    """``take`` is handed each link's octets in order; ``guarded`` calls what the loop calls (``runner.World``)."""

    def __init__(self, take: Callable[[Link, bytes], None], guarded: Callable[..., Any]) -> None:
        self._take, self._guarded = take, guarded
        self._behind: deque[tuple[Link, bytes]] = deque()
        """Octets that came after a turn had had its share of them."""
        self._turn_ends: float | None = None

    def octets_came(self, link: Link, data: bytes) -> None:
        """Octets of a link: taken now, or in a later turn."""
        if self._turn_ends is None:
            self._turn_ends = now() + TURN_SECONDS
            asyncio.get_running_loop().call_soon(self._guarded, self._next_turn)
        if self._behind or now() >= self._turn_ends:
            link.pause(True)
            link.waiting += 1
            self._behind.append((link, data))
        else:
            self._take(link, data)

    def take_all(self) -> None:
        """Whatever waits, now."""
        while self._behind:
            self._take_next()

    def take_last_of(self, link: Link) -> None:
        """What waits of a link that is lost: a NOTIFICATION may be the last of it."""
        for waiting in [each for each in self._behind if each[0] is link]:
            self._behind.remove(waiting)
            self._take(*waiting)

    def _next_turn(self) -> None:
        self._turn_ends = end = now() + TURN_SECONDS
        while self._behind:
            if now() >= end:
                asyncio.get_running_loop().call_soon(self._guarded, self._next_turn)
                return
            self._take_next()
        self._turn_ends = None

    def _take_next(self) -> None:
        link, data = self._behind.popleft()
        link.waiting -= 1
        self._take(link, data)
