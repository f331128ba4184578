"""Prefixes and addresses as octets: the words every table is keyed by.

A ``Prefix`` is exactly what NLRI carries (RFC 4271 §4.3): one length octet, then the fewest network octets that
hold that many bits, host bits zero. A slice of an UPDATE is therefore the key, and netlink wants the same octets
padded. ``10.48.0.128/26`` is ``b"\\x1a\\x0a\\x30\\x00\\x80"``. A prefix does not show its family (a /26 of IPv4 and one
of IPv6 can be the same octets), so every table is of one family. An ``Address`` is 4 or 16 octets in network order
and does show it. Text exists at the edges only: here are the parsers and printers.

Pools and blocks of IPAM are netaddr's networks (``model.networks``). The tables of routes, and what is asked of them
route by route, keep these octets and ``covers``: to make netaddr's objects of them would cost ten times the question.
"""

from __future__ import annotations

import socket
from enum import IntEnum
from typing import NewType

Prefix = NewType("Prefix", bytes)
Address = NewType("Address", bytes)


class Family(IntEnum):
    """An address family, by its AFI (RFC 4760); the SAFI is unicast throughout."""

    IPV4 = 1
    IPV6 = 2

    @property
    def bits(self) -> int:
        """Length of an address in bits: 32 or 128."""
        return 32 if self is Family.IPV4 else 128

    @property
    def octets(self) -> int:
        """Length of an address in octets: 4 or 16."""
        return 4 if self is Family.IPV4 else 16

    @property
    def af(self) -> int:
        """The socket family: ``AF_INET`` or ``AF_INET6``."""
        return socket.AF_INET if self is Family.IPV4 else socket.AF_INET6

    @property
    def label(self) -> str:
        """How it is written: ``ipv4`` or ``ipv6``."""
        return "ipv4" if self is Family.IPV4 else "ipv6"


def family_of(address: Address) -> Family:
    """The family an address belongs to, known by its length."""
    return Family.IPV4 if len(address) == 4 else Family.IPV6


def with_path_id(path_id: int, prefix: Prefix) -> Prefix:
    """The NLRI of a prefix with a path identifier in front (RFC 7911 §3)."""
    return Prefix(path_id.to_bytes(4, "big") + prefix)


def prefix_of(nlri: Prefix, with_path_ids: bool) -> Prefix:
    """The prefix of an NLRI, of a table whose NLRI have path identifiers or not."""
    return Prefix(nlri[4:]) if with_path_ids else nlri


def path_id_of(nlri: Prefix) -> int:
    """The path identifier of an NLRI that has one."""
    return int.from_bytes(nlri[:4], "big")


def is_loopback(address: Address) -> bool:
    """Inside ``127.0.0.0/8``, or ``::1``: of every machine its own."""
    return address[0] == 127 if len(address) == 4 else address == b"\0" * 15 + b"\1"


def is_link_local(address: Address) -> bool:
    """Whether an address is of fe80::/10: it means something on one link only (RFC 4291 §2.5.6)."""
    return len(address) == 16 and address[0] == 0xFE and address[1] & 0xC0 == 0x80


def parse_address(text: str) -> Address:
    """An address from its text; ``ValueError`` names what was expected."""
    try:
        return Address(socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text))
    except (OSError, TypeError):
        raise ValueError(f"{text!r} is not an IPv4 or IPv6 address") from None


def is_address(text: str) -> bool:
    """Whether a text is an address."""
    try:
        parse_address(text)
    except ValueError:
        return False
    return True


def address_text(address: Address) -> str:
    """The canonical text of an address (RFC 5952 for IPv6). Of one with its zone behind the octets, ``fe80::1%eth0``
    (RFC 4007 §11)."""
    if len(address) > 16:
        return f"{socket.inet_ntop(socket.AF_INET6, address[:16])}%{address[16:].decode(errors='replace')}"
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)


def make_prefix(network: bytes, length: int) -> Prefix:
    """A prefix from at least ``length`` bits of network octets; host bits are masked away."""
    octets = (length + 7) >> 3
    if length & 7:
        last = network[octets - 1] & (0xFF00 >> (length & 7)) & 0xFF
        return Prefix(bytes((length,)) + network[: octets - 1] + bytes((last,)))
    return Prefix(bytes((length,)) + network[:octets])


def parse_prefix(text: str) -> tuple[Family, Prefix]:
    """A prefix from ``address/length`` (a bare address is its host prefix), host bits masked; or ``ValueError``."""
    address_part, slash, length_part = text.partition("/")
    try:
        address = parse_address(address_part)
        family = family_of(address)
        if slash and not (length_part.isascii() and length_part.isdigit()):
            raise ValueError
        length = int(length_part) if slash else family.bits
        if length > family.bits:
            raise ValueError
    except ValueError:
        raise ValueError(f"{text!r} is not a prefix such as 10.48.0.0/26 or fd00:48::/122") from None
    return family, make_prefix(address, length)


def prefix_text(family: Family, prefix: Prefix) -> str:
    """The canonical text of a prefix, ``10.48.0.128/26``."""
    return f"{address_text(network_address(family, prefix))}/{prefix[0]}"


def network_address(family: Family, prefix: Prefix) -> Address:
    """The first address of a prefix: its network octets, padded to the family's length."""
    return Address(prefix[1:].ljust(family.octets, b"\0"))


def host_prefix(address: Address) -> Prefix:
    """The /32 or /128 of an address."""
    return Prefix(bytes((len(address) * 8,)) + address)


def is_default(prefix: Prefix) -> bool:
    """Whether a prefix holds every address: ``0.0.0.0/0``, ``::/0``."""
    return not prefix[0]


def is_host(family: Family, prefix: Prefix) -> bool:
    """Whether a prefix is a single address."""
    return prefix[0] == family.bits


def covers(outer: Prefix, inner: Prefix) -> bool:
    """Whether ``inner`` is ``outer`` or lies inside it (both of one family)."""
    length = outer[0]
    if inner[0] < length:
        return False
    whole, rest = length >> 3, length & 7
    if inner[1 : whole + 1] != outer[1 : whole + 1]:
        return False
    return not rest or (inner[whole + 1] ^ outer[whole + 1]) >> (8 - rest) == 0
