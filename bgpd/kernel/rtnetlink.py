"""Route netlink in octets: routes and nexthop objects <-> values. Pure; used by this room alone.

The layouts are those of the kernel's ``rtnetlink.h`` and ``nexthop.h``, in host byte order, addresses in
network order. Tables have a hundred thousand routes, so routes are packed with one ``struct`` call and parsed by
cutting the destination out. What is left of a message is the same for every route of one forwarding, and is parsed
once (``RouteReader``). Links and addresses are few: ``interfaces`` leaves them to pyroute2.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from bgpd.model.prefix import Address, Family, Prefix, address_text, make_prefix
from bgpd.model.route import Hop, Via

PROTO_BIRD = 12
TABLE_MAIN = 254

NLMSG_ERROR, NLMSG_DONE = 2, 3
NEWLINK, DELLINK, GETLINK = 16, 17, 18
NEWADDR, DELADDR, GETADDR = 20, 21, 22
NEWROUTE, DELROUTE, GETROUTE = 24, 25, 26
NEWNEXTHOP, DELNEXTHOP, GETNEXTHOP = 104, 105, 106

F_REQUEST, F_ACK, F_ECHO, F_DUMP_INTR = 0x1, 0x4, 0x8, 0x10
F_DUMP = 0x300
F_REPLACE, F_EXCL, F_CREATE, F_APPEND = 0x100, 0x200, 0x400, 0x800

ANY_TYPE, UNICAST, BLACKHOLE_TYPE, UNREACHABLE, PROHIBIT = 0, 1, 6, 7, 8
SCOPE_UNIVERSE, SCOPE_LINK, SCOPE_NOWHERE = 0, 253, 255

RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_METRICS, RTA_MULTIPATH = 1, 4, 5, 6, 7, 8, 9
RTA_FLOW, RTA_TABLE, RTA_VIA, RTA_ENCAP_TYPE, RTA_ENCAP, RTA_NH_ID = 11, 15, 18, 21, 22, 30
NHA_ID, NHA_GROUP, NHA_BLACKHOLE, NHA_OIF, NHA_GATEWAY, NHA_ENCAP, NHA_FDB = 1, 2, 4, 5, 6, 8, 11
RTNH_F_ONLINK = 4
RTM_F_CLONED = 0x200

IFLA_EXT_MASK = 29

_HEADER = struct.Struct("=IHHII")
_RTMSG = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_U32_ATTRIBUTE = struct.Struct("=HHI")
_ROUTE_START = struct.Struct("=IHH")
_ROUTE_MIDDLE = struct.Struct("=IB")
_ROUTE_REST = struct.Struct("=BBBBBBIHH")
_ROUTE = {Family.IPV4: struct.Struct("=8sI5sB14s4s"), Family.IPV6: struct.Struct("=8sI5sB14s16s")}
"""A whole request: the parts of a ``Form``, and between them sequence number, prefix length and network."""
_NEXTHOP_LEG = struct.Struct("=HBBi")
_NHMSG = struct.Struct("=BBBBI")
_PLAIN_NEXTHOP = struct.Struct("=BBBBI4sI4si4s4s")
"""Id, device and IPv4 gateway, in the kernel's order."""
_GROUP_MEMBER = struct.Struct("=IBBH")
_LENGTH_OCTET = tuple(bytes((length,)) for length in range(129))
_IPV4 = Family.IPV4
_MOST_BODIES = 32768
_TYPE_MASK = 0x3FFF
_FAMILIES = {family.af: family for family in Family}
_TYPE_NAMES = {1: "", 6: "blackhole", 7: "unreachable", 8: "prohibit", 9: "throw", 10: "nat"}
_PROTOCOL_NAMES = {
    0: "unspec", 1: "redirect", 2: "kernel", 3: "boot", 4: "static", 8: "gated", 9: "ra", 10: "mrt", 11: "zebra",
    12: "bird", 13: "dnrouted", 14: "xorp", 15: "ntk", 16: "dhcp", 17: "mrouted", 18: "keepalived", 42: "babel",
    84: "ovn", 99: "openr", 186: "bgp", 187: "isis", 188: "ospf", 189: "rip", 192: "eigrp",
}  # fmt: skip

_OWNERS = {
    2: "the kernel's own", 3: "made by hand or by a program, as CNI plugins and Felix do",
    4: "made by an administrator", 9: "from a router's advertisement", 11: "FRR's",
    16: "the DHCP client's", 18: "keepalived's", 42: "babel's",
}  # fmt: skip


def owner_words(protocol: int) -> str:
    """Whose a route of a protocol is, ``the DHCP client's``."""
    return _OWNERS.get(protocol, "another program's")


class Message(NamedTuple):
    """One message of a datagram: where its body lies, and whose request it answers or reports."""

    type: int
    flags: int
    seq: int
    port: int
    """Who asked: the port id of a socket, 0 for the kernel itself."""
    start: int
    """The position of the body, behind the header."""
    end: int


class Body(NamedTuple):
    """A route without its prefix."""

    metric: int
    protocol: int
    type: int
    table: int
    tos: int
    hops: tuple[Hop, ...]
    """The next hops as the message spells them; over a nexthop object possibly none."""
    nexthop: int
    """Id of the nexthop object, or 0."""
    source: Address | None
    """Preferred source address."""
    plain: bool
    """Nothing beyond what this package would write: no weights, metrics, realms or encapsulation."""


class NextHop(NamedTuple):
    """A nexthop object."""

    id: int
    protocol: int
    hop: Hop | None
    """The hop of a plain object."""
    members: tuple[int, ...]
    """The ids that a group consists of."""
    blackhole: bool
    plain: bool
    """Nothing beyond what this package would write."""


class Refusal(OSError):
    """The kernel's no, in its own words where it has some."""

    def __init__(self, number: int, words: str = "") -> None:
        super().__init__(number, f"{os.strerror(number)}{': ' if words else ''}{words}")

    def __str__(self) -> str:
        return str(self.strerror)


def messages(data: bytes) -> Iterator[Message]:
    """The messages of one datagram."""
    offset, size = 0, len(data)
    unpack = _HEADER.unpack_from
    while offset + 16 <= size:
        length, kind, flags, seq, port = unpack(data, offset)
        if length < 16 or offset + length > size:
            return
        yield Message(kind, flags, seq, port, offset + 16, offset + length)
        offset += (length + 3) & ~3


def refusal(data: bytes, message: Message) -> Refusal | None:
    """What an ``NLMSG_ERROR`` (or the end of a dump) says: ``None`` is an acknowledgement."""
    code = -int.from_bytes(
        data[message.start : message.start + 4], "little" if _LITTLE else "big", signed=True
    )
    if not code:
        return None
    words = ""
    if message.type == NLMSG_ERROR and message.flags & 0x200:  # NLM_F_ACK_TLVS, behind the (capped) request
        skip = 16 if message.flags & 0x100 else (_HEADER.unpack_from(data, message.start + 4)[0] + 3) & ~3
        for kind, start, end in _attributes(data, message.start + 4 + skip, message.end):
            if kind == 1:
                words = data[start:end].rstrip(b"\0").decode(errors="replace")
    return Refusal(code, words)


def request(message_type: int, family: int = 0, flags: int = F_DUMP, seq: int = 1) -> bytes:
    """A request for a dump (strict checking is on: the header filters, everything else is zero)."""
    if message_type == GETROUTE:
        body = _RTMSG.pack(family, 0, 0, 0, TABLE_MAIN, 0, 0, 0, 0)
    elif message_type == GETLINK:
        body = bytes(16) + _U32_ATTRIBUTE.pack(8, IFLA_EXT_MASK, 1 << 3)  # without statistics
    elif message_type == GETADDR:
        body = bytes(8)
    else:
        body = _NHMSG.pack(0, 0, 0, 0, 0)
    return _HEADER.pack(16 + len(body), message_type, F_REQUEST | flags, seq, 0) + body


class Tail(NamedTuple):
    """All of a route message that the prefix does not change."""

    scope: int
    type: int
    flags: int
    attributes: bytes


def route_tail(family: Family, metric: int, forwarding: Via | int | None) -> Tail:
    """``Via``: legs in the route; an ``int``: over that nexthop object; ``None``: a blackhole."""
    attributes = _U32_ATTRIBUTE.pack(8, RTA_PRIORITY, metric) if metric else b""
    if forwarding is None:
        return Tail(SCOPE_UNIVERSE, BLACKHOLE_TYPE, 0, attributes)
    if isinstance(forwarding, int):
        return Tail(SCOPE_UNIVERSE, UNICAST, 0, attributes + _U32_ATTRIBUTE.pack(8, RTA_NH_ID, forwarding))
    hops = forwarding.hops
    if len(hops) == 1:
        hop = hops[0]
        scope = SCOPE_LINK if hop.gateway is None and family is Family.IPV4 else SCOPE_UNIVERSE
        attributes += _gateway(family, hop) + _U32_ATTRIBUTE.pack(8, RTA_OIF, hop.ifindex)
        return Tail(scope, UNICAST, RTNH_F_ONLINK if hop.onlink else 0, attributes)
    legs = b""
    for hop in hops:
        gateway = _gateway(family, hop)
        legs += (
            _NEXTHOP_LEG.pack(8 + len(gateway), RTNH_F_ONLINK if hop.onlink else 0, 0, hop.ifindex) + gateway
        )
    return Tail(SCOPE_UNIVERSE, UNICAST, 0, attributes + _ATTRIBUTE.pack(4 + len(legs), RTA_MULTIPATH) + legs)


class Form(NamedTuple):
    """A request to make or remove a route of ours in table main, but for its prefix and its sequence number.

    ``filler(head, seq, middle, prefix[0], rest, prefix[1:]) + attributes`` is the message: a third of the time of
    packing every field anew, which shows with a hundred thousand routes.
    """

    head: bytes
    middle: bytes
    rest: bytes
    attributes: bytes


Filler = Callable[[bytes, int, bytes, int, bytes, bytes], bytes]


def route_filler(family: Family) -> Filler:
    """Fills in the forms of one family."""
    return _ROUTE[family].pack


def route_form(family: Family, message_type: int, flags: int, tail: Tail) -> Form:
    """The form of all requests of one kind for one forwarding."""
    scope, kind, route_flags, attributes = tail
    size = _ROUTE[family].size
    return Form(
        _ROUTE_START.pack(size + len(attributes), message_type, flags),
        _ROUTE_MIDDLE.pack(0, family.af),
        _ROUTE_REST.pack(0, 0, TABLE_MAIN, PROTO_BIRD, scope, kind, route_flags, size - 28, RTA_DST),
        attributes,
    )


def pack_route(family: Family, message_type: int, flags: int, seq: int, prefix: Prefix, tail: Tail) -> bytes:
    """One request."""
    head, middle, rest, attributes = route_form(family, message_type, flags, tail)
    return _ROUTE[family].pack(head, seq, middle, prefix[0], rest, prefix[1:]) + attributes


def pack_nexthop(flags: int, seq: int, number: int, family: Family, content: Hop | tuple[int, ...]) -> bytes:
    """A request to make a nexthop object of ours: one hop, or a group of objects."""
    identity = _U32_ATTRIBUTE.pack(8, NHA_ID, number)
    if isinstance(content, Hop):
        gateway = content.gateway
        af = family.af if gateway is None else socket.AF_INET if len(gateway) == 4 else socket.AF_INET6
        head = _NHMSG.pack(af, 0, PROTO_BIRD, 0, RTNH_F_ONLINK if content.onlink else 0)
        body = identity + _U32_ATTRIBUTE.pack(8, NHA_OIF, content.ifindex)
        if gateway is not None:
            body += _ATTRIBUTE.pack(4 + len(gateway), NHA_GATEWAY) + gateway
    else:
        head = _NHMSG.pack(0, 0, PROTO_BIRD, 0, 0)
        body = identity + _ATTRIBUTE.pack(4 + 8 * len(content), NHA_GROUP)
        body += b"".join(_GROUP_MEMBER.pack(member, 0, 0, 0) for member in content)
    return _HEADER.pack(24 + len(body), NEWNEXTHOP, flags, seq, 0) + head + body


def pack_nexthop_removal(seq: int, number: int) -> bytes:
    """A request to remove a nexthop object."""
    return _HEADER.pack(32, DELNEXTHOP, F_REQUEST, seq, 0) + bytes(8) + _U32_ATTRIBUTE.pack(8, NHA_ID, number)


class RouteReader:
    """Parses route messages; remembers what it parsed of all but the prefix."""

    def __init__(self) -> None:
        self._bodies: dict[bytes, Body] = {}

    def read(self, data: bytes, message: Message) -> tuple[Family, Prefix, Body] | None:
        """``None`` for what is no route of IPv4 or IPv6, or a cached clone of one."""
        family = _FAMILIES.get(data[message.start])
        found: list[tuple[Prefix, Body]] = []
        if family is not None:
            self._read(data, message.start, message.end, family, found)
        return (family, *found[0]) if family is not None and found else None

    def read_all(self, data: bytes, family: Family, found: list[tuple[Prefix, Body]]) -> Message | None:
        """Adds a dump's routes of one family to ``found``; returns the message that ends the dump, if it is here."""
        offset, size, af = 0, len(data), family.af
        unpack = _HEADER.unpack_from
        while offset + 16 <= size:
            length, kind, flags, seq, port = unpack(data, offset)
            if length < 16 or offset + length > size:
                break
            if kind == NEWROUTE:
                if data[offset + 16] == af:
                    self._read(data, offset + 16, offset + length, family, found)
            elif kind in (NLMSG_DONE, NLMSG_ERROR):
                return Message(kind, flags, seq, port, offset + 16, offset + length)
            offset += (length + 3) & ~3
        return None

    def _read(
        self, data: bytes, start: int, end: int, family: Family, found: list[tuple[Prefix, Body]]
    ) -> None:
        length = data[start + 1]
        cut = start + 20  # behind the header and RTA_TABLE, which comes first
        if end < cut or data[start + 14] != RTA_TABLE:
            self._read_unordered(data, start, end, family, found)
            return
        if length:
            size = 8 if family is _IPV4 else 20
            if data[cut] != size or data[cut + 2] != RTA_DST:
                self._read_unordered(data, start, end, family, found)
                return
            prefix = _LENGTH_OCTET[length] + data[cut + 4 : cut + 4 + ((length + 7) >> 3)]
            cut += size
        else:
            prefix = b"\0"
        rest = data[start : start + 1] + data[start + 2 : start + 20] + data[cut:end]
        body = self._bodies.get(rest)
        if body is None:
            body = _body(data, start, end)
            if body is None:
                return
            if len(self._bodies) >= _MOST_BODIES:
                self._bodies.clear()
            self._bodies[rest] = body
        found.append((Prefix(prefix), body))

    def _read_unordered(
        self, data: bytes, start: int, end: int, family: Family, found: list[tuple[Prefix, Body]]
    ) -> None:
        destination = bytes(family.octets)
        for kind, first, last in _attributes(data, start + 12, end):
            if kind == RTA_DST:
                destination = data[first:last]
        body = _body(data, start, end)
        if body is not None:
            found.append((make_prefix(destination, data[start + 1]), body))


def _body(data: bytes, start: int, end: int) -> Body | None:
    _, _, _, tos, table, protocol, _, kind, flags = _RTMSG.unpack_from(data, start)
    if flags & RTM_F_CLONED:
        return None
    metric = ifindex = nexthop = 0
    gateway: Address | None = None
    source: Address | None = None
    hops: list[Hop] = []
    plain = True
    offset, unpack = start + 12, _ATTRIBUTE.unpack_from
    while offset + 4 <= end:  # as ``_attributes``, without the generator: distinct next hops are many
        length, attribute = unpack(data, offset)
        first, last = offset + 4, offset + length
        if length < 4 or last > end:
            break
        offset += (length + 3) & ~3
        attribute &= _TYPE_MASK
        if attribute == RTA_PRIORITY:
            (metric,) = _U32.unpack_from(data, first)
        elif attribute == RTA_GATEWAY:
            gateway = Address(data[first:last])
        elif attribute == RTA_VIA:
            gateway = Address(data[first + 2 : last])
        elif attribute == RTA_OIF:
            (ifindex,) = _U32.unpack_from(data, first)
        elif attribute == RTA_TABLE:
            (table,) = _U32.unpack_from(data, first)
        elif attribute == RTA_NH_ID:
            (nexthop,) = _U32.unpack_from(data, first)
        elif attribute == RTA_PREFSRC:
            source = Address(data[first:last])
            plain = False
        elif attribute == RTA_MULTIPATH:
            for hop, leg_is_plain in _legs(data, first, last):
                hops.append(hop)
                plain = plain and leg_is_plain
        elif attribute in (RTA_METRICS, RTA_FLOW, RTA_ENCAP, RTA_ENCAP_TYPE):
            plain = False
    if ifindex and not hops:
        hops.append(Hop(gateway, ifindex, bool(flags & RTNH_F_ONLINK)))
    return Body(metric, protocol, kind, table, tos, tuple(hops), nexthop, source, plain)


def _legs(data: bytes, offset: int, end: int) -> Iterator[tuple[Hop, bool]]:
    while offset + 8 <= end:
        length, flags, weight, ifindex = _NEXTHOP_LEG.unpack_from(data, offset)
        if length < 8:
            return
        gateway: Address | None = None
        plain = weight == 0
        for attribute, first, last in _attributes(data, offset + 8, offset + length):
            if attribute == RTA_GATEWAY:
                gateway = Address(data[first:last])
            elif attribute == RTA_VIA:
                gateway = Address(data[first + 2 : last])
            else:
                plain = False
        yield Hop(gateway, ifindex, bool(flags & RTNH_F_ONLINK)), plain
        offset += (length + 3) & ~3


def read_nexthop(data: bytes, message: Message) -> NextHop | None:
    """A nexthop object; ``None`` for a message without an id."""
    start = message.start
    if message.end - start == _PLAIN_NEXTHOP.size:  # there may be as many as nodes, and most are such
        _, _, protocol, _, flags, id_, number, oif, ifindex, gateway_, octets = _PLAIN_NEXTHOP.unpack_from(
            data, start
        )
        if (id_, oif, gateway_) == _PLAIN_NEXTHOP_HEADS:
            plain_hop = Hop(octets, ifindex, bool(flags & RTNH_F_ONLINK))
            return NextHop(number, protocol, plain_hop, (), False, True)
    _, _, protocol, _, flags = _NHMSG.unpack_from(data, start)
    number = ifindex = 0
    gateway: Address | None = None
    members: list[int] = []
    blackhole = False
    plain = True
    for attribute, first, last in _attributes(data, start + 8, message.end):
        if attribute == NHA_ID:
            (number,) = _U32.unpack_from(data, first)
        elif attribute == NHA_OIF:
            (ifindex,) = _U32.unpack_from(data, first)
        elif attribute == NHA_GATEWAY:
            gateway = Address(data[first:last])
        elif attribute == NHA_BLACKHOLE:
            blackhole = True
        elif attribute == NHA_GROUP:
            for member, low, high, _ in _GROUP_MEMBER.iter_unpack(data[first:last]):
                members.append(member)
                plain = plain and not low and not high
        elif attribute in (NHA_ENCAP, NHA_FDB):
            plain = False
    if not number:
        return None
    hop = Hop(gateway, ifindex, bool(flags & RTNH_F_ONLINK)) if ifindex and not blackhole else None
    return NextHop(number, protocol, hop, tuple(members), blackhole, plain)


def route_words(body: Body, hops: tuple[Hop, ...], names: dict[int, str]) -> str:
    """A route as ``ip route`` would say it, without its prefix: ``proto static via 10.0.1.9 dev ens5``."""
    words = [_TYPE_NAMES.get(body.type, f"type {body.type}")] if body.type != UNICAST else []
    words.append(f"proto {_PROTOCOL_NAMES.get(body.protocol, body.protocol)}")
    if body.type == UNICAST:
        for hop in hops:
            if hop.gateway is not None:
                words.append(f"via {address_text(hop.gateway)}")
            words.append(f"dev {names.get(hop.ifindex, hop.ifindex)}")
    return " ".join(words)


def _attributes(data: bytes, offset: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(type, first octet, end) of each attribute; a malformed one ends it."""
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4 or offset + length > end:
            return
        yield kind & _TYPE_MASK, offset + 4, offset + length
        offset += (length + 3) & ~3


def _gateway(family: Family, hop: Hop) -> bytes:
    gateway = hop.gateway
    if gateway is None:
        return b""
    if len(gateway) == family.octets:
        return _ATTRIBUTE.pack(4 + len(gateway), RTA_GATEWAY) + gateway
    return struct.pack("=HHH", 6 + len(gateway), RTA_VIA, socket.AF_INET6) + gateway + b"\0\0"


_PLAIN_NEXTHOP_HEADS = tuple(_ATTRIBUTE.pack(8, kind) for kind in (NHA_ID, NHA_OIF, NHA_GATEWAY))
_U32 = struct.Struct("=I")
_LITTLE = struct.pack("=H", 1) == b"\1\0"
