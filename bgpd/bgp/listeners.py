"""Where this node listens for BGP: one socket a place, each tried again until it is ours.

``speaker`` owns one of these and says where to listen; what is accepted goes to the link that it makes.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable
from typing import NoReturn

from bgpd.bgp.transport import BACKLOG, listening_socket
from bgpd.model.prefix import Address, address_text

log = logging.getLogger(__name__)
RETRY = 1.0
"""Seconds until a place that is taken is tried again."""
Place = tuple[Address, int]


class Listeners:
    """``make_link`` makes the protocol of a connection; ``changed`` hears that ``error`` or ``complete`` may differ."""

    def __init__(self, make_link: Callable[[], asyncio.BaseProtocol], changed: Callable[[], None]) -> None:
        self._make_link, self._changed = make_link, changed
        self._wanted: frozenset[Place] = frozenset()
        self._tasks: dict[Place, asyncio.Task[None]] = {}
        self._errors: dict[Place, str] = {}
        self._taken: set[Place] = set()
        self._settled: set[Place] = set()
        self.ready = asyncio.Event()
        """Set while ``complete``: before, nothing is dialled, since another daemon here may have the sessions."""

    def want(self, places: frozenset[Place]) -> None:
        """Where to listen from the next ``follow`` on."""
        self._wanted = places

    def follow(self, group: asyncio.TaskGroup) -> None:
        """Leave the places that are no longer wanted, take those that are new."""
        for place in self._tasks.keys() - self._wanted:
            self._tasks.pop(place).cancel()
            self._errors.pop(place, None)
            self._taken.discard(place)
        for place in self._wanted - self._tasks.keys():
            self._tasks[place] = group.create_task(self._serve(place))
        self._review()

    @property
    def error(self) -> str | None:
        """Why we do not listen everywhere we should."""
        return "; ".join(sorted(self._errors.values())) or None

    @property
    def taken(self) -> bool:
        """Whether a place is another daemon's."""
        return bool(self._taken)

    @property
    def complete(self) -> bool:
        """Whether we listen everywhere we can: not where the machine has no such address, or no IPv6 at all."""
        return self._wanted <= self._settled | (self._errors.keys() - self._taken)

    def _review(self) -> None:
        (self.ready.set if self.complete else self.ready.clear)()
        self._changed()

    async def _serve(self, place: Place) -> None:
        address, port = address_text(place[0]), place[1]
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock = listening_socket(*place)
                server = await loop.create_server(
                    self._make_link, sock=sock, backlog=BACKLOG, start_serving=False
                )
            except OSError as error:
                cause = error.strerror or str(error)
                if error.errno == errno.EAFNOSUPPORT:
                    log.warning("event=not_listening address=%s cause=%r", address, cause)
                    await self._settle(place)
                taken = error.errno == errno.EADDRINUSE
                (self._taken.add if taken else self._taken.discard)(place)
                what = "another daemon has our BGP port" if taken else "cannot listen"
                message = f"{what}: {address} port {port}: {cause}"
                if self._errors.get(place) != message:
                    self._errors[place] = message
                    log.error("event=not_listening address=%s port=%d cause=%r", address, port, cause)
                    self._review()
                await asyncio.sleep(RETRY)
                continue
            break
        self._errors.pop(place, None)
        self._taken.discard(place)
        try:
            await server.start_serving()
            log.info("event=listening address=%s port=%d", address, port)
            await self._settle(place)
        finally:
            server.close()

    async def _settle(self, place: Place) -> NoReturn:
        """All that is to be done of a place is done, until cancelled."""
        self._settled.add(place)
        self._review()
        try:
            while True:
                await asyncio.get_running_loop().create_future()
        finally:
            self._settled.discard(place)
