"""Where this node listens for BGP: one socket a place, each tried again until it is ours.

``speaker`` owns one of these and says where to listen, and with which TCP MD5 keys; what is accepted goes to the link
that it makes. A socket has its keys before it takes a connection.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Mapping
from typing import NoReturn

from bgpd.bgp.protection import Keyring, Net
from bgpd.bgp.transport import BACKLOG, listening_socket
from bgpd.events import event
from bgpd.model.prefix import Address, address_text, family_of

log = logging.getLogger(__name__)
RETRY_SECONDS = 1.0
"""Seconds until a place that is taken is tried again."""
ACCEPTED_AT_ONCE = 16
"""Connections taken at one turn of the loop. asyncio tries on as often, where there are no descriptors."""
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
        self._keys: Mapping[Net, str] = {}
        self._keyrings: dict[Place, Keyring] = {}
        self._inherited: dict[Place, tuple[socket.socket, tuple[Net, ...]]] = {}
        self.ready = asyncio.Event()
        """Set while ``complete``: before, nothing is dialled, since another daemon here may have the sessions."""

    def inherit(self, sockets: Mapping[Place, tuple[socket.socket, tuple[Net, ...]]]) -> None:
        """Sockets that listen already, each with what it has TCP MD5 keys of. Those that ``want`` does not name by the
        next ``follow`` are closed."""
        self._inherited = dict(sockets)

    def sockets(self) -> list[tuple[socket.socket, tuple[Net, ...]]]:
        """The sockets that listen, for another process, each with what it has TCP MD5 keys of."""
        return [(keyring.socket, keyring.nets) for keyring in self._keyrings.values()]

    def want_places(self, places: frozenset[Place], keys: Mapping[Net, str]) -> None:
        """Where to listen from the next ``follow`` on, and the keys of all sockets, from now on."""
        self._wanted, self._keys = places, keys
        for keyring in self._keyrings.values():
            keyring.follow(keys)

    def follow(self, group: asyncio.TaskGroup) -> None:
        """Leave the places that are no longer wanted, take those that are new."""
        for place in self._tasks.keys() - self._wanted:
            self._tasks.pop(place).cancel()
            self._errors.pop(place, None)
            self._taken.discard(place)
        for place in self._inherited.keys() - self._wanted:
            self._inherited.pop(place)[0].close()
        for place in self._wanted - self._tasks.keys():
            self._tasks[place] = group.create_task(self._serve(place))
        self._review()

    @property
    def error(self) -> str | None:
        """Why we do not listen everywhere we should."""
        return "; ".join(sorted(self._errors.values())) or None

    def key_error(self, net: Net) -> str:
        """Why a socket has not the key of an address or a range: then nobody of there may connect. Empty if all do."""
        return next((keyring.errors[net] for keyring in self._keyrings.values() if net in keyring.errors), "")

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
                sock, nets = self._inherited.pop(place, (None, ()))
                if sock is not None:
                    self._lock(place, sock, nets)
                else:
                    sock = listening_socket(*place, lambda sock: self._lock(place, sock))
                server = await loop.create_server(
                    self._make_link, sock=sock, backlog=ACCEPTED_AT_ONCE, start_serving=False
                )
            except OSError as error:
                self._keyrings.pop(place, None)
                cause = error.strerror or str(error)
                if error.errno == errno.EAFNOSUPPORT:
                    event(log, "not_listening", logging.WARNING, address=address, cause=cause)
                    await self._settle(place)
                taken = error.errno == errno.EADDRINUSE
                (self._taken.add if taken else self._taken.discard)(place)
                what = "another daemon has our BGP port" if taken else "cannot listen"
                message = f"{what}: {address} port {port}: {cause}"
                if self._errors.get(place) != message:
                    self._errors[place] = message
                    event(log, "not_listening", logging.ERROR, address=address, port=port, cause=cause)
                    self._review()
                await asyncio.sleep(RETRY_SECONDS)
                continue
            break
        self._errors.pop(place, None)
        self._taken.discard(place)
        try:
            await server.start_serving()
            sock.listen(BACKLOG)
            event(log, "listening", address=address, port=port)
            await self._settle(place)
        finally:
            self._keyrings.pop(place, None)
            server.close()

    def _lock(self, place: Place, sock: socket.socket, nets: tuple[Net, ...] = ()) -> None:
        keyring = self._keyrings[place] = Keyring(sock, family_of(place[0]), nets)
        keyring.follow(self._keys)

    async def _settle(self, place: Place) -> NoReturn:
        """All that is to be done of a place is done, until cancelled."""
        self._settled.add(place)
        self._review()
        try:
            while True:
                await asyncio.get_running_loop().create_future()
        finally:
            self._settled.discard(place)
