"""TCP for BGP: sockets with the options a session wants, and the asyncio protocol that carries one connection.

``speaker`` and ``listeners`` make the sockets here, and ``Link`` says what happens on them. Every socket has no Nagle
delay, and gives up on data that the peer does not take for eight minutes (the SendHoldTimer of RFC 9687). A link-local
address means something together with its interface only (RFC 4007). TTL and TCP MD5 are the business of ``protection``.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import socket
import termios
from collections.abc import Callable
from typing import Any, Protocol, cast

from bgpd.bgp.connection import Connection
from bgpd.bgp.frozen import Ends, ends_of
from bgpd.bgp.protection import Socket, guard, prepare_listening
from bgpd.descriptors import scarce
from bgpd.model.peer import DialAnswer, PeerConfig
from bgpd.model.prefix import Address, Family, address_text, family_of, is_link_local, parse_address

SEND_HOLD_MS = 480_000
DIAL_SECONDS = 8.0
"""Seconds for TCP to connect."""
BACKLOG = 1024
"""Connections that may wait to be accepted."""
READ_SIZE = 1 << 18
"""Octets read at one wake-up, at most."""
HIGH_WATER, LOW_WATER = 1 << 20, 1 << 18
"""Octets waiting to be sent at which a session takes no more, and at which it does again."""
LINGER_SECONDS = 2.0
"""Seconds a peer has to read our NOTIFICATION before the connection is torn down."""


class Owner(Protocol):
    """What a link reports; exceptions of these are its bugs and are kept from asyncio by the link's caller."""

    def link_made(self, link: Link) -> None: ...

    def link_refused(self, cause: str) -> None:
        """An incoming connection was closed before anything was asked of it."""

    def link_received(self, link: Link, data: bytes) -> None: ...

    def link_writable(self, link: Link) -> None: ...

    def link_lost(self, link: Link, message: str) -> None: ...

    def failed(self, error: Exception) -> None:
        """A bug: the speaker falls."""


def _stream_socket(family: Family) -> socket.socket:
    sock = socket.socket(family.af, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if family is Family.IPV6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SEND_HOLD_MS)
    except BaseException:
        sock.close()
        raise
    return sock


def listening_socket(
    address: Address, port: int, before: Callable[[socket.socket], None] | None = None
) -> socket.socket:
    """A socket that listens, whose connections inherit the options; no SO_REUSEPORT, so that a second daemon is
    noticed (by ``listen`` where ``bind`` still let both through). ``before`` gets it before anybody can connect."""
    sock = _stream_socket(family_of(address))
    try:
        prepare_listening(sock, family_of(address))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address_text(address), port))
        if before is not None:
            before(sock)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def dialling_socket(config: PeerConfig) -> socket.socket:
    """A socket to connect to a peer with: protected as the peer's configuration asks, and bound to our address."""
    sock = _stream_socket(family_of(config.address))
    try:
        guard(sock, config)
        if config.local_address is not None:
            sock.bind(_place(config.local_address, 0, config.interface))
    except BaseException:
        sock.close()
        raise
    return sock


class DialFailed(Exception):
    """TCP did not connect; the message says why."""

    def __init__(self, message: str, answer: DialAnswer = DialAnswer.NONE) -> None:
        super().__init__(message)
        self.answer = answer


class Dial:
    """One attempt to connect to a peer."""

    def __init__(self, config: PeerConfig) -> None:
        self._config = config
        self._timeout: asyncio.Timeout | None = None

    def give_up(self) -> None:
        """Ends it soon: the peer is wanted otherwise than when it began."""
        if self._timeout is not None and not self._timeout.expired():
            self._timeout.reschedule(0.0)

    async def connect(self) -> socket.socket:
        """A connected socket, or ``DialFailed``."""
        config, sock = self._config, None
        where = f"{address_text(config.address)} port {config.port}"
        try:
            try:
                sock = dialling_socket(config)
                place = _place(config.address, config.port, config.interface)
            except OSError as error:
                raise DialFailed(f"{where}: {error.strerror or error}") from error
            async with asyncio.timeout(DIAL_SECONDS) as self._timeout:
                await asyncio.get_running_loop().sock_connect(sock, place)
            connected, sock = sock, None
            return connected
        except TimeoutError:
            raise DialFailed(f"{where}: timed out{_guesses(config)}", DialAnswer.SILENT) from None
        except OSError as error:
            words = os.strerror(error.errno) if error.errno else str(error)
            answer = _ANSWERS.get(error.errno or 0, DialAnswer.NONE)
            raise DialFailed(f"{where}: {words}", answer) from error
        finally:
            self._timeout = None
            if sock is not None:
                sock.close()


_ANSWERS = {
    errno.ECONNREFUSED: DialAnswer.REFUSED,
    errno.ECONNRESET: DialAnswer.REFUSED,
    **dict.fromkeys(
        (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ETIMEDOUT), DialAnswer.SILENT
    ),
}


def _guesses(config: PeerConfig) -> str:
    """What may be wrong when a peer does not answer: the kernel drops what is not protected as it should be, and does
    not say so."""
    guesses = []
    if config.password is not None:
        guesses.append("it has another TCP MD5 password")
    if config.ttl_security is not None:
        hops = "1 hop" if config.ttl_security == 1 else f"{config.ttl_security} hops"
        guesses.append(f"it is more than {hops} away or has no ttl security")
    return f"; perhaps {', or '.join(guesses)}" if guesses else ""


def _place(address: Address, port: int, interface: str | None) -> tuple[str, int] | tuple[str, int, int, int]:
    """An address as sockets want it. ``OSError`` for a link-local one without an interface."""
    if not is_link_local(address):
        return address_text(address), port
    if interface is None:
        raise OSError(errno.EINVAL, f"{address_text(address)} is a link-local address: of which interface?")
    try:
        return address_text(address), port, 0, socket.if_nametoindex(interface)
    except OSError:
        raise OSError(errno.ENODEV, f"there is no interface {interface}") from None


class Link(asyncio.BufferedProtocol):
    """One TCP connection. ``connection`` is set by the owner in ``link_made``, or never when it is refused."""

    # All reads are handled before the next begins, so one buffer does for every link.
    _buffer = memoryview(bytearray(READ_SIZE))

    def __init__(self, owner: Owner, *, outgoing: bool) -> None:
        self.outgoing = outgoing
        self.epoch = 0
        """The epoch of the session's configuration that a dialled connection was made for."""
        self.connection: Connection | None = None
        self.full = False
        """More than ``HIGH_WATER`` waits to be sent."""
        self.waiting = 0
        """Reads that the owner has put off."""
        self._unsent = bytearray()
        """The end of what was written, while TCP does not take all."""
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

    @property
    def zone(self) -> str | None:
        """The interface that a link-local peer is on; ``None`` for any other."""
        info = None if self._transport is None else self._transport.get_extra_info("peername")
        if not info or len(info) < 4 or not info[3]:
            return None
        try:
            return socket.if_indextoname(info[3])
        except OSError:  # it is just being removed
            return ""

    @property
    def socket(self) -> Socket:
        """To set options of; only while it is open."""
        assert self._transport is not None
        return cast(Socket, self._transport.get_extra_info("socket"))

    @property
    def ends(self) -> Ends:
        """``OSError`` where it is connected no longer."""
        return ends_of(self.socket)

    @property
    def unread(self) -> bool:
        """Whether octets of the peer wait, in the kernel or with the owner."""
        if self.waiting:
            return True
        if self._transport is None or self._transport.is_closing():
            return False
        count = bytearray(4)
        fcntl.ioctl(self.socket.fileno(), termios.FIONREAD, count)
        return any(count)

    @property
    def unsent(self) -> int:
        """Octets that wait for the peer to read."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)
            if self._unsent or self._transport.get_write_buffer_size():
                self._unsent += data
                self._trim()

    @property
    def unsent_data(self) -> bytes:
        """What was written and TCP has not taken yet; it may begin inside a message."""
        self._trim()
        return bytes(self._unsent)

    def _trim(self) -> None:
        left = 0 if self._transport is None else self._transport.get_write_buffer_size()
        del self._unsent[: len(self._unsent) - left]

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
        self._linger = asyncio.get_running_loop().call_later(LINGER_SECONDS, transport.abort)
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
        if not self.outgoing and scarce(self.socket.fileno(), session=True):
            self._transport.abort()
            self._owner.link_refused("too few descriptors are left (LimitNOFILE)")
            return
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
