"""The injector: simulated BGP peers that send tables encoded beforehand, so that they are never what limits.

Used by ``cases``. A ``Speaker`` opens a session (RFC 4271 §4.2), keeps it alive and writes octets as fast as TCP takes
them; it announces no graceful restart unless asked, so that its end is the end of its routes. It has nothing of bgpd's
own code: the thing measured must not measure itself.

The shapes of a table, each of /26 prefixes of IPv4 or /122 of IPv6:

========  =============================================================================================
shared    one next hop, 700 prefixes an UPDATE (fewer in IPv6: an UPDATE has 4096 octets)
nodes     five blocks a next hop, one UPDATE a node: what a reflector sends a node of a large cluster, so
          with ORIGINATOR_ID and CLUSTER_LIST (RFC 4456 §8)
distinct  one prefix an UPDATE, its own next hop and communities
========  =============================================================================================
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Literal

Shape = Literal["shared", "nodes", "distinct"]
Family = Literal["ipv4", "ipv6"]

SHAPES: tuple[Shape, ...] = ("shared", "nodes", "distinct")
BLOCKS_PER_NODE = 5
SHARED_PER_UPDATE = 700
ASN = 64512
HOLD_TIME = 90

OPEN, UPDATE, NOTIFICATION, KEEPALIVE = 1, 2, 3, 4
MARKER = b"\xff" * 16
MAX_MESSAGE = 4096
HEADER = 19
SEND_BUFFER = 32 << 20
SO_SNDBUFFORCE = 32

_PREFIXES = {"ipv4": 0x40000000, "ipv6": 0xFD640000 << 96}
"""Where tables begin: 64.0.0.0/6 holds a million /26; no test network of this kind is anywhere near it."""
LENGTH = {"ipv4": 26, "ipv6": 122}
BITS = {"ipv4": 32, "ipv6": 128}


def message(kind: int, body: bytes = b"") -> bytes:
    """One BGP message (RFC 4271 §4.1)."""
    return MARKER + struct.pack("!HB", HEADER + len(body), kind) + body


def open_message(
    asn: int, router_id: bytes, family: Family, hold_time: int = HOLD_TIME, graceful_restart: bool = False
) -> bytes:
    """OPEN with multiprotocol (RFC 4760) and four-octet AS (RFC 6793); graceful restart (RFC 4724) if asked."""
    afi = 1 if family == "ipv4" else 2
    capabilities = struct.pack("!BBHBB", 1, 4, afi, 0, 1) + struct.pack("!BBI", 65, 4, asn)
    if graceful_restart:
        capabilities += struct.pack("!BBHHBB", 64, 6, 120, afi, 1, 0x80)
    parameters = struct.pack("!BB", 2, len(capabilities)) + capabilities
    return message(
        OPEN,
        struct.pack("!BHH", 4, asn if asn < 65536 else 23456, hold_time)
        + router_id
        + bytes([len(parameters)])
        + parameters,
    )


def network(family: Family, index: int) -> int:
    """The network address, as a number, of the ``index``-th prefix of every table."""
    return _PREFIXES[family] + (index << (BITS[family] - LENGTH[family]))


def nlri(family: Family, first: int, count: int) -> bytes:
    """``count`` prefixes of the table from the ``first`` on, as NLRI (RFC 4271 §4.3)."""
    octets, length = -(-LENGTH[family] // 8), bytes([LENGTH[family]])
    width = BITS[family] // 8
    return b"".join(
        length + network(family, index).to_bytes(width, "big")[:octets]
        for index in range(first, first + count)
    )


def attribute(flags: int, code: int, value: bytes) -> bytes:
    """One path attribute (RFC 4271 §4.3)."""
    if len(value) > 255:
        return struct.pack("!BBH", flags | 0x10, code, len(value)) + value
    return struct.pack("!BBB", flags, code, len(value)) + value


def update(
    next_hop: bytes,
    reachable: bytes,
    *,
    local_pref: int = 100,
    med: int | None = None,
    communities: bytes = b"",
    originator: bytes = b"",
    as_path: bytes = b"",
) -> bytes:
    """An UPDATE of one set of attributes; the length of ``next_hop`` gives the family.

    MP_REACH_NLRI comes first (RFC 7606 §5.1), the others in order of their codes, as BIRD and FRR send them.
    """
    ipv6 = len(next_hop) == 16
    parts = [attribute(0x40, 1, b"\0"), attribute(0x40, 2, as_path)]
    if ipv6:
        parts.insert(0, attribute(0x80, 14, struct.pack("!HBB", 2, 1, 16) + next_hop + b"\0" + reachable))
    else:
        parts.append(attribute(0x40, 3, next_hop))
    if med is not None:
        parts.append(attribute(0x80, 4, struct.pack("!I", med)))
    parts.append(attribute(0x40, 5, struct.pack("!I", local_pref)))
    if communities:
        parts.append(attribute(0xC0, 8, communities))
    if originator:
        parts += [attribute(0x80, 9, originator), attribute(0x80, 10, b"\x0a\0\0\x02")]
    attributes = b"".join(parts)
    return message(UPDATE, struct.pack("!HH", 0, len(attributes)) + attributes + (b"" if ipv6 else reachable))


def end_of_rib(family: Family) -> bytes:
    """The End-of-RIB marker (RFC 4724 §2)."""
    if family == "ipv4":
        return message(UPDATE, bytes(4))
    return message(UPDATE, struct.pack("!HH", 0, 6) + attribute(0x80, 15, struct.pack("!HB", 2, 1)))


def table(shape: Shape, family: Family, count: int, first_next_hop: bytes, *, local_pref: int = 100) -> bytes:
    """The whole table as UPDATEs and an End-of-RIB. The k-th next hop is ``first_next_hop`` + k."""
    return b"".join(updates(shape, family, count, first_next_hop, local_pref)) + end_of_rib(family)


def updates(
    shape: Shape, family: Family, count: int, first_next_hop: bytes, local_pref: int = 100
) -> Iterator[bytes]:
    """The UPDATEs of a table, in order."""
    base, width = int.from_bytes(first_next_hop, "big"), len(first_next_hop)
    if shape == "shared":
        room = (MAX_MESSAGE - HEADER - 100) // (1 + -(-LENGTH[family] // 8))
        step = min(SHARED_PER_UPDATE, room)
    else:
        step = BLOCKS_PER_NODE if shape == "nodes" else 1
    for turn, first in enumerate(range(0, count, step)):
        next_hop = first_next_hop if shape == "shared" else (base + turn).to_bytes(width, "big")
        yield update(
            next_hop,
            nlri(family, first, min(step, count - first)),
            local_pref=local_pref,
            communities=struct.pack("!HHHH", ASN, turn & 0xFFFF, ASN, turn >> 16)
            if shape == "distinct"
            else b"",
            originator=next_hop[-4:] if shape == "nodes" else b"",
        )


def next_hops(shape: Shape, count: int) -> int:
    """How many distinct next hops a table has."""
    return {"shared": 1, "nodes": -(-count // BLOCKS_PER_NODE), "distinct": count}[shape]


class SessionLost(Exception):
    """The daemon under test closed the session, with its NOTIFICATION if there was one."""


class Speaker(asyncio.Protocol):
    """One simulated peer. ``send`` never waits: what TCP does not take at once, the event loop sends on."""

    def __init__(
        self,
        family: Family,
        *,
        router_id: bytes | None = None,
        graceful_restart: bool = False,
        on_established: Callable[[Speaker], None] | None = None,
        on_update: Callable[[Speaker, bytes], None] | None = None,
    ) -> None:
        """Without ``router_id`` it is the IPv4 address of the session's own end."""
        self._family: Family = family
        self._router_id, self._graceful_restart = router_id, graceful_restart
        self._on_established, self._on_update = on_established, on_update
        self._buffer = bytearray()
        self._timer: asyncio.TimerHandle | None = None
        self.transport: asyncio.Transport | None = None
        loop = asyncio.get_running_loop()
        self.established: asyncio.Future[bool] = loop.create_future()
        """Whether the session came up, once that is known."""
        self.closed: asyncio.Future[None] = loop.create_future()
        self.opened = 0.0
        """When its OPEN came, by the monotonic clock."""
        self.updates = 0
        """UPDATEs received."""
        self.notification = b""
        """Body of the NOTIFICATION received, if any."""

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.address: str = transport.get_extra_info("sockname")[0]
        router_id = self._router_id or socket.inet_aton(self.address)
        transport.write(open_message(ASN, router_id, self._family, HOLD_TIME, self._graceful_restart))

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        position = 0
        while len(buffer) - position >= HEADER:
            length = int.from_bytes(buffer[position + 16 : position + 18], "big")
            if len(buffer) - position < length:
                break
            self._received(buffer[position + 18], buffer, position + HEADER, position + length)
            position += length
        del buffer[:position]

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self.established.done():
            self.established.set_result(False)
        if not self.closed.done():
            self.closed.set_result(None)

    def _received(self, kind: int, buffer: bytearray, start: int, end: int) -> None:
        if kind == OPEN:
            self.opened = time.monotonic()
            self._write(message(KEEPALIVE))
        elif kind == KEEPALIVE:
            if not self.established.done():
                self.established.set_result(True)
                self._keep_alive()
                if self._on_established is not None:
                    self._on_established(self)
        elif kind == UPDATE:
            self.updates += 1
            if self._on_update is not None:
                self._on_update(self, bytes(buffer[start:end]))
        elif kind == NOTIFICATION:
            self.notification = bytes(buffer[start:end])

    def _keep_alive(self) -> None:
        self._write(message(KEEPALIVE))
        self._timer = asyncio.get_running_loop().call_later(HOLD_TIME / 3, self._keep_alive)

    def _write(self, octets: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(octets)

    # What cases ask.

    def send(self, octets: bytes) -> float:
        """Sends encoded messages; the time just before the first octet. ``SessionLost`` if there is no session."""
        if self.transport is None or self.transport.is_closing() or self.closed.done():
            raise SessionLost(f"no session any more (NOTIFICATION {self.notification.hex() or 'none'})")
        before = time.monotonic()
        self.transport.write(octets)
        return before

    def reset(self) -> float:
        """Ends the session with a TCP RST; returns the time just before it."""
        assert self.transport is not None
        sock = self.transport.get_extra_info("socket")
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        before = time.monotonic()
        self.transport.abort()
        return before


async def dial(
    make_socket: Callable[[int, int], socket.socket],
    source: str,
    target: str,
    make_speaker: Callable[[], Speaker],
    *,
    timeout: float = 30.0,
    port: int = 179,
    retry: float = 0.01,
) -> Speaker:
    """A ``Speaker`` with its session established. ``make_socket`` makes a socket in the injector's namespace.

    Tries until ``timeout``, since the daemon may not listen yet or may refuse at first; then ``TimeoutError``.
    """
    async with asyncio.timeout(timeout):
        while True:
            sock = make_socket(socket.AF_INET6 if ":" in target else socket.AF_INET, socket.SOCK_STREAM)
            speaker = make_speaker()
            try:
                await _connect(sock, source, target, port, speaker)
                if await asyncio.shield(speaker.established):
                    return speaker
            except OSError:
                sock.close()
            except BaseException:
                if speaker.transport is not None:
                    speaker.reset()
                sock.close()
                raise
            await asyncio.sleep(retry)


async def _connect(sock: socket.socket, source: str, target: str, port: int, speaker: Speaker) -> None:
    loop = asyncio.get_running_loop()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, SEND_BUFFER)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.bind((source, 0))
    await loop.sock_connect(sock, (target, port))
    await loop.create_connection(lambda: speaker, sock=sock)
