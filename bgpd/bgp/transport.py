"""TCP for BGP: sockets with the options a session wants, and the asyncio protocol that carries one connection.

``speaker`` makes the sockets here and is told by ``Link`` what happens on them. Every socket has TTL 64 (the default of
some systems is 1 or 255 for BGP, which routed peers or GTSM would refuse), no Nagle delay, and gives up on data that
the peer does not take for eight minutes (the SendHoldTimer of RFC 9687). Here is the place for TCP MD5 and GTSM.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Protocol, cast

from bgpd.bgp.connection import Connection
from bgpd.model.prefix import Address, Family, address_text, family_of, parse_address

TTL = 64
SEND_HOLD_MS = 480_000
BACKLOG = 1024
"""Connections that may wait to be accepted."""
READ_SIZE = 1 << 18
"""Octets read at one wake-up, at most."""
HIGH_WATER, LOW_WATER = 1 << 20, 1 << 18
"""Octets waiting to be sent at which a session takes no more, and at which it does again."""
LINGER = 2.0
"""Seconds a peer has to read our NOTIFICATION before the connection is torn down."""


class Owner(Protocol):
    """What a link tells; exceptions of these are its bugs and are kept from asyncio by the link's caller."""

    def link_made(self, link: Link) -> None: ...

    def link_received(self, link: Link, data: bytes) -> None: ...

    def link_writable(self, link: Link) -> None: ...

    def link_lost(self, link: Link, message: str) -> None: ...

    def failed(self, error: Exception) -> None:
        """A bug: the speaker falls."""


def _stream_socket(family: Family) -> socket.socket:
    sock = socket.socket(family.af, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if family is Family.IPV4:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, TTL)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, TTL)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SEND_HOLD_MS)
    except BaseException:
        sock.close()
        raise
    return sock


def listening_socket(address: Address, port: int) -> socket.socket:
    """A socket that listens, whose connections inherit the options; no SO_REUSEPORT, so that a second daemon is
    noticed (by ``listen`` where ``bind`` still let both through)."""
    sock = _stream_socket(family_of(address))
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address_text(address), port))
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def dialling_socket(remote: Address, local: Address | None) -> socket.socket:
    """A socket to connect with, bound to ``local``."""
    sock = _stream_socket(family_of(remote))
    try:
        if local is not None:
            sock.bind((address_text(local), 0))
    except BaseException:
        sock.close()
        raise
    return sock


class Link(asyncio.BufferedProtocol):
    """One TCP connection. ``connection`` is set by the owner in ``link_made``, or never when it is refused."""

    # All reads are handled before the next begins, so one buffer does for every link.
    _buffer = memoryview(bytearray(READ_SIZE))

    def __init__(self, owner: Owner, *, outgoing: bool) -> None:
        self.outgoing = outgoing
        self.connection: Connection | None = None
        self.full = False
        """More than ``HIGH_WATER`` waits to be sent."""
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._linger: asyncio.TimerHandle | None = None

    # Called by the owner.

    @property
    def local_address(self) -> Address:
        return self._address("sockname")

    @property
    def remote_address(self) -> Address:
        return self._address("peername")

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def pause(self, paused: bool) -> None:
        """Stops or goes on reading; the peer then feels TCP's back-pressure."""
        if self._transport is not None and not self._transport.is_closing():
            if paused:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def finish(self) -> None:
        """Closes after what was written. Closing a socket with unread input would reset the connection and take our
        NOTIFICATION from the peer: so we only say that we are done, and read on until the peer is, for a while."""
        transport = self._transport
        if transport is None or transport.is_closing() or self._linger is not None:
            return
        self._linger = asyncio.get_running_loop().call_later(LINGER, transport.abort)
        try:
            transport.write_eof()
            transport.resume_reading()
        except OSError:
            transport.abort()

    def abort(self) -> None:
        """Closes now. What was written and not sent is lost."""
        if self._transport is not None:
            self._transport.abort()

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER, low=LOW_WATER)
        self._guard(self._owner.link_made, self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._linger is None:
            self._guard(self._owner.link_received, self, bytes(self._buffer[:nbytes]))

    def eof_received(self) -> None:
        """The transport closes itself then."""

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        self._guard(self._owner.link_writable, self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._linger is not None:
            self._linger.cancel()
        message = (
            "the peer closed the connection" if exc is None else getattr(exc, "strerror", None) or str(exc)
        )
        self._guard(self._owner.link_lost, self, message)

    def _guard(self, call: Any, *args: Any) -> None:
        # asyncio would log an exception and close this connection; a bug must be seen.
        try:
            call(*args)
        except Exception as error:
            self._owner.failed(error)

    def _address(self, name: str) -> Address:
        info = None if self._transport is None else self._transport.get_extra_info(name)
        if not info:  # already gone
            return Address(b"")
        return parse_address(info[0].partition("%")[0])
