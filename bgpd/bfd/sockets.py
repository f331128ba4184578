"""UDP for BFD: sockets to hear at, one for each port and family, and one to send from for each session.

RFC 5881 §4 and RFC 5883 §5 have the ports. RFC 5881 §5 has the TTL of 255 that a receiver checks, also of several hops
(RFC 5883 §5 by RFC 5082). Packets leave as what routers treat first (CS6): they are to arrive while a link is full.
"""

from __future__ import annotations

import errno
import socket
import struct
from random import Random
from typing import NamedTuple

from bgpd.bfd.packet import LENGTH
from bgpd.model.bfd import BfdPlace
from bgpd.model.prefix import Address, Family, address_text, family_of, parse_address

SINGLE_HOP, MULTIHOP = 3784, 4784
SOURCE_PORTS = (49152, 65535)
"""The source ports of our packets (RFC 5881 §4)."""
TTL = 255
_CLASS = 0xC0
"""CS6, the class of routing protocols (RFC 4594 §3.1)."""
_PRIORITY = 7
_RECEIVE_BUFFER = 1 << 20
_IP_RECVTTL, _IPV6_RECVHOPLIMIT = 12, 51
_ATTEMPTS = 64
_TOO_LONG = LENGTH + 128
"""More than any packet has."""


class Ear(NamedTuple):
    """A port to hear at."""

    family: Family
    multihop: bool

    @property
    def port(self) -> int:
        return MULTIHOP if self.multihop else SINGLE_HOP

    def __str__(self) -> str:
        return f"UDP port {self.port} ({self.family.label})"


class Datagram(NamedTuple):
    """One that came."""

    data: bytes
    place: BfdPlace
    ttl: int


def _socket(family: Family) -> socket.socket:
    return socket.socket(family.af, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


def listening_socket(ear: Ear) -> socket.socket:
    """A socket that hears all that is sent to a port. ``OSError`` where the port is another's."""
    sock = _socket(ear.family)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        if ear.family is Family.IPV4:
            sock.setsockopt(socket.IPPROTO_IP, _IP_RECVTTL, 1)
            sock.bind(("0.0.0.0", ear.port))
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVHOPLIMIT, 1)
            sock.bind(("::", ear.port))
    except BaseException:
        sock.close()
        raise
    return sock


def receive(sock: socket.socket) -> Datagram | None:
    """The next datagram; ``None`` when none waits."""
    try:
        data, ancillary, _, source = sock.recvmsg(_TOO_LONG, 64)
    except BlockingIOError:
        return None
    ttl = -1
    for level, kind, value in ancillary:
        if (level, kind) in (
            (socket.IPPROTO_IP, socket.IP_TTL),
            (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT),
        ):
            (ttl,) = struct.unpack("i", value[:4])
    interface = None
    if len(source) == 4 and source[3]:
        try:
            interface = socket.if_indextoname(source[3])
        except OSError:  # it is just being removed
            interface = ""
    return Datagram(data, BfdPlace(parse_address(source[0].partition("%")[0]), interface), ttl)


def sending_socket(
    place: BfdPlace, *, multihop: bool, local_address: Address | None, random: Random
) -> socket.socket:
    """A socket that is connected to the other end of a session, from a port of its own. ``OSError`` says why not."""
    family = family_of(place.address)
    sock = _socket(family)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, _PRIORITY)
        if family is Family.IPV4:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, TTL)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, _CLASS)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, TTL)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, _CLASS)
        host = "" if local_address is None else address_text(local_address)
        zone = (0, socket.if_nametoindex(place.interface)) if place.interface else ()
        _bind(sock, host, zone, random)
        port = MULTIHOP if multihop else SINGLE_HOP
        sock.connect((address_text(place.address), port, *zone))
    except BaseException:
        sock.close()
        raise
    return sock


def _bind(sock: socket.socket, host: str, zone: tuple[int, ...], random: Random) -> None:
    for attempt in range(_ATTEMPTS):
        try:
            sock.bind((host, random.randint(*SOURCE_PORTS), *zone))
            return
        except OSError as error:
            if error.errno != errno.EADDRINUSE or attempt == _ATTEMPTS - 1:
                raise
