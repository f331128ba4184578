"""Who may connect to a door of the operator's, and for how long without asking anything.

``api`` puts a ``Gate`` in front of each of its doors. A gate has a limit of connections and never runs out of
descriptors that sessions need (``descriptors``). Where it is full, the connection that has been idle longest makes
room; where none is idle, the new one is closed. Where descriptors are scarce, the control socket takes those of the
doors that strangers reach. A connection that has not sent a whole request in time is closed, as is
one that does not read its answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

from bgpd.descriptors import scarce

MOST = 64
"""Connections that one door may have."""
FIRST_REQUEST_SECONDS = 10.0
"""Seconds from connecting until the head of the first request is whole."""
IDLE_SECONDS = 75.0
"""Seconds between the end of a request and the whole head of the next: longer than usual scrape intervals."""


class Gate:
    """Called for each connection, as asyncio calls a protocol factory. ``serve`` makes the protocol behind it."""

    def __init__(self, serve: Callable[[], asyncio.BaseProtocol], most: int = MOST) -> None:
        self._serve, self._most = serve, most
        self._open: dict[asyncio.BaseTransport, _Gated] = {}
        """The one that was idle longest is first among the idle ones."""
        self.before: list[Gate] = []
        """Doors that give up a connection of theirs first, where descriptors are scarce."""

    def __call__(self) -> asyncio.Protocol:
        return _Gated(self, cast(asyncio.Protocol, self._serve()))

    @contextmanager
    def request(self, transport: asyncio.BaseTransport | None) -> Iterator[None]:
        """While a request is answered, its connection is not idle."""
        gated = None if transport is None else self._open.get(transport)
        if gated is None or transport is None:
            yield
            return
        gated.wait(None)
        try:
            yield
        finally:
            if self._open.pop(transport, None) is gated:
                self._open[transport] = gated
                gated.wait(IDLE_SECONDS)

    def admit(self, transport: asyncio.Transport, gated: _Gated) -> bool:
        """Whether a new connection may stay; makes room where it can."""
        if len(self._open) >= self._most:
            doors = [self]
        elif scarce(transport.get_extra_info("socket").fileno(), session=False):
            doors = [*self.before, self]
        else:
            doors = []
        if doors and not any(door.make_room() for door in doors):
            return False
        self._open[transport] = gated
        return True

    def make_room(self) -> bool:
        """Closes the connection that has been idle longest; whether there is one."""
        idle = next((each for each, open_ in self._open.items() if open_.idle), None)
        if idle is None:
            return False
        cast(asyncio.Transport, idle).abort()
        del self._open[idle]
        return True

    def lost(self, transport: asyncio.BaseTransport) -> None:
        """A connection is gone."""
        self._open.pop(transport, None)


class _Gated(asyncio.Protocol):
    """One connection: what comes is passed on to the protocol behind."""

    def __init__(self, gate: Gate, behind: asyncio.Protocol) -> None:
        self._gate, self._behind = gate, behind
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._admitted = False

    @property
    def idle(self) -> bool:
        """Whether a time is running for its next request."""
        return self._timer is not None

    def wait(self, seconds: float | None) -> None:
        """It is closed after this time; ``None``: it may stay."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds is not None and self._transport is not None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._transport.abort)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._admitted = self._gate.admit(self._transport, self)
        if not self._admitted:
            self._transport.abort()
            return
        self.wait(FIRST_REQUEST_SECONDS)
        self._behind.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._admitted:
            self._behind.data_received(data)

    def eof_received(self) -> bool | None:
        return self._behind.eof_received() if self._admitted else None

    def pause_writing(self) -> None:
        if self._admitted:
            self._behind.pause_writing()

    def resume_writing(self) -> None:
        if self._admitted:
            self._behind.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self.wait(None)
        if self._transport is not None:
            self._gate.lost(self._transport)
        if self._admitted:
            self._behind.connection_lost(exc)
        self._transport = None
