"""ExaBGP as the wire codec: the one module that imports it.

OPEN with its capabilities (RFC 4271 §4.2, RFC 5492), path attributes (§4.3), NOTIFICATION (§4.5, RFC 9003) and
ROUTE-REFRESH (RFC 2918, RFC 7313) go in and out as frozen values of ours; nothing of ExaBGP passes this module, and an
error of its parsers leaves it as ``ProtocolError``. ``update`` calls it for attributes that it has checked already,
``session`` for everything else. What ExaBGP costs (45 µs an attribute set) is paid once an attribute set.

Where we do not use it: the three lists of communities are arrays of integers, and ExaBGP sorts them at each insertion
(28 ms for a thousand communities, which is one UPDATE of a hostile peer); of AS paths it makes an object a number
(10 ms for 765); shutdown texts, which it reads up to 128 octets only and writes as ASCII.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple

from bgpd.model.prefix import Address, Family, address_text
from bgpd.model.route import AsPath, Attributes, Origin, Segment, SegmentType

# Read once, at the first import of exabgp: without it, files and variables of an installed ExaBGP would reach us.
os.environ.setdefault("EXABGP_ENVFILE", "/nonexistent")

import exabgp.util.dns

# The capability for host names, which we do not send, asks DNS for ours at its import: seconds where DNS is not there.
vars(exabgp.util.dns).update(__host_name="localhost", __domain_name="localhost")

from exabgp.bgp.message import Notification as ExaNotification
from exabgp.bgp.message.direction import Direction
from exabgp.bgp.message.notification import Notify
from exabgp.bgp.message.open import Open, RouterID, Version
from exabgp.bgp.message.open.asn import ASN
from exabgp.bgp.message.open.capability import Capabilities as ExaCapabilities
from exabgp.bgp.message.open.capability import Capability, Negotiated
from exabgp.bgp.message.open.capability.addpath import AddPath
from exabgp.bgp.message.open.capability.asn4 import ASN4
from exabgp.bgp.message.open.capability.graceful import Graceful
from exabgp.bgp.message.open.capability.mp import MultiProtocol
from exabgp.bgp.message.open.capability.nexthop import NextHop as NextHopCapability
from exabgp.bgp.message.open.capability.refresh import EnhancedRouteRefresh
from exabgp.bgp.message.open.capability.refresh import RouteRefresh as RefreshCapability
from exabgp.bgp.message.open.holdtime import HoldTime
from exabgp.bgp.message.refresh import RouteRefresh
from exabgp.bgp.message.update.attribute import MED as Med
from exabgp.bgp.message.update.attribute import (
    Aggregator,
    AtomicAggregate,
    Attribute,
    ClusterList,
    GenericAttribute,
    LocalPreference,
    OriginatorID,
)
from exabgp.bgp.message.update.attribute import Attributes as ExaAttributes
from exabgp.bgp.message.update.attribute import Origin as ExaOrigin
from exabgp.logger import log as exa_log
from exabgp.protocol.family import AFI, SAFI
from exabgp.protocol.ip import IPv4

exa_log.disable()  # every decoder logs, and fails where the log was not set up

OPEN, UPDATE, NOTIFICATION, KEEPALIVE, ROUTE_REFRESH = 1, 2, 3, 4, 5
MESSAGE_NAMES: Mapping[int, str] = {
    OPEN: "OPEN",
    UPDATE: "UPDATE",
    NOTIFICATION: "NOTIFICATION",
    KEEPALIVE: "KEEPALIVE",
    ROUTE_REFRESH: "ROUTE-REFRESH",
}
KEEPALIVE_MESSAGE = b"\xff" * 16 + b"\x00\x13\x04"
AS_TRANS = 23456
"""Stands for an AS number that does not fit two octets (RFC 6793 §9)."""


class Cease:
    """Subcodes of NOTIFICATION 6 (RFC 4486, RFC 9384)."""

    MAX_PREFIXES = 1
    SHUTDOWN = 2
    DECONFIGURED = 3
    RESET = 4
    REJECTED = 5
    CONFIG_CHANGE = 6
    COLLISION = 7
    OUT_OF_RESOURCES = 8
    BFD_DOWN = 10


@dataclass(frozen=True, slots=True)
class Notification:
    """A NOTIFICATION message (RFC 4271 §4.5)."""

    code: int
    subcode: int
    data: bytes = b""

    @property
    def shutdown_text(self) -> str:
        """The words of the peer's operator (RFC 9003 §2); empty when there are none or they are not UTF-8."""
        if (self.code, self.subcode) not in ((6, Cease.SHUTDOWN), (6, Cease.RESET)) or not self.data:
            return ""
        text = self.data[1 : 1 + self.data[0]]
        try:
            # Control characters would forge log lines.
            return "".join(c if c.isprintable() else " " for c in text.decode()).strip()
        except UnicodeDecodeError:
            return ""

    def __str__(self) -> str:
        code = ExaNotification._str_code.get(self.code) or _MORE_CODES.get(self.code, "unknown error")
        key = (self.code, self.subcode)
        subcode = ExaNotification._str_subcode.get(key) or _MORE_SUBCODES.get(key, "")
        words = f"{self.code}/{self.subcode} {subcode if self.subcode and subcode else code}"
        return f"{words}: {self.shutdown_text}" if self.shutdown_text else words


_MORE_CODES = {7: "ROUTE-REFRESH message error"}
_MORE_SUBCODES = {(6, 9): "Hard Reset", (6, 10): "BFD Down"}


def shutdown(subcode: int, text: str) -> Notification:
    """A Cease with the operator's words, cut to 255 octets at a character (RFC 9003 §2)."""
    octets = text.encode()[:255].decode(errors="ignore").encode()
    return Notification(6, subcode, bytes((len(octets),)) + octets if octets else b"")


class ProtocolError(Exception):
    """The peer broke the protocol: the session ends with ``notification``; the message says what was wrong."""

    def __init__(self, code: int, subcode: int, message: str, data: bytes = b"") -> None:
        super().__init__(message)
        self.notification = Notification(code, subcode, data)


class GracefulRestart(NamedTuple):
    """RFC 4724 §3."""

    restarted: bool
    time: int
    families: Mapping[Family, bool]
    """Family -> whether forwarding state was kept (the F bit)."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What one side can do. ``families`` is empty for a peer that sent no multiprotocol capability at all."""

    families: frozenset[Family] = frozenset()
    multiprotocol: bool = True
    """Whether any multiprotocol capability was sent, one of a family that we do not know included."""
    asn4: int | None = None
    route_refresh: bool = False
    enhanced_refresh: bool = False
    """A refresh has a begin and an end (RFC 7313)."""
    graceful_restart: GracefulRestart | None = None
    long_lived: bool = False
    """Long-lived graceful restart (RFC 9494): from us, without families, that stale routes of others are understood."""
    add_path: Mapping[Family, int] = field(default_factory=dict)
    """Family -> 1 wants to receive, 2 sends, 3 both (RFC 7911 §4)."""
    extended_next_hop: frozenset[Family] = frozenset()
    """Families that may have an IPv6 next hop without being IPv6 (RFC 8950 §4)."""
    others: tuple[str, ...] = ()
    """The rest, in words."""

    def words(self) -> tuple[str, ...]:
        """Each capability in words, for ``bgpctl``."""
        found = [f"multiprotocol {family.label}" for family in sorted(self.families)]
        if self.asn4 is not None:
            found.append(f"4-octet AS {self.asn4}")
        if self.route_refresh:
            found.append("route refresh")
        if self.enhanced_refresh:
            found.append("enhanced route refresh")
        if self.graceful_restart is not None:
            restart = self.graceful_restart
            kept = ",".join(f.label + ("" if kept else " (not kept)") for f, kept in restart.families.items())
            flag = ", restarted" if restart.restarted else ""
            found.append(f"graceful restart {restart.time} s {kept or 'helper only'}{flag}")
        if self.long_lived:
            found.append("long-lived graceful restart")
        directions = {1: "receive", 2: "send", 3: "send and receive"}
        found += [f"add-path {directions.get(bits, bits)} {f.label}" for f, bits in self.add_path.items()]
        found += [f"IPv6 next hops for {family.label}" for family in sorted(self.extended_next_hop)]
        return (*found, *self.others)


@dataclass(frozen=True, slots=True)
class OpenMessage:
    """An OPEN (RFC 4271 §4.2). ``asn`` is the real one, of the four-octet capability where there is one."""

    asn: int
    hold_time: int
    router_id: Address
    capabilities: Capabilities


_FAMILIES = {Family.IPV4: (AFI.ipv4, SAFI.unicast), Family.IPV6: (AFI.ipv6, SAFI.unicast)}
_FAMILY = {pair: family for family, pair in _FAMILIES.items()}
_LONG_LIVED = 71
_RESTARTED, _FORWARDING = Graceful.RESTART_STATE, Graceful.FORWARDING_STATE


class _Empty(Capability):  # type: ignore[misc]
    """A capability that ExaBGP does not know, without a value."""

    def extract(self) -> list[bytes]:
        return [b""]


def encode_open(message: OpenMessage) -> bytes:
    """The whole message."""
    wanted = message.capabilities
    sent = ExaCapabilities()
    families = MultiProtocol()
    families.extend(_FAMILIES[family] for family in sorted(wanted.families))
    if families:
        sent[Capability.CODE.MULTIPROTOCOL] = families
    if wanted.route_refresh:
        sent[Capability.CODE.ROUTE_REFRESH] = RefreshCapability()
    if wanted.enhanced_refresh:
        sent[Capability.CODE.ENHANCED_ROUTE_REFRESH] = EnhancedRouteRefresh()
    if wanted.graceful_restart is not None:
        restart = wanted.graceful_restart
        kept = [
            (*_FAMILIES[family], _FORWARDING if flag else 0)
            for family, flag in sorted(restart.families.items())
        ]
        flags = _RESTARTED if restart.restarted else 0
        sent[Capability.CODE.GRACEFUL_RESTART] = Graceful().set(flags, restart.time, kept)
    if wanted.asn4 is not None:
        sent[Capability.CODE.FOUR_BYTES_ASN] = ASN4(wanted.asn4)
    if wanted.add_path:
        paths = AddPath()
        for family, bits in sorted(wanted.add_path.items()):
            paths.add_path(*_FAMILIES[family], bits)
        sent[Capability.CODE.ADD_PATH] = paths
    if wanted.extended_next_hop:
        sent[Capability.CODE.NEXTHOP] = NextHopCapability(
            [(*_FAMILIES[family], AFI.ipv6) for family in sorted(wanted.extended_next_hop)]
        )
    if wanted.long_lived:
        sent[_LONG_LIVED] = _Empty()
    router_id = RouterID(address_text(message.router_id))
    return bytes(Open(Version(4), ASN(message.asn), HoldTime(message.hold_time), router_id, sent).message())


def decode_open(body: bytes) -> OpenMessage:
    """An OPEN from its body; ``ProtocolError`` 2/x.

    A capability that we do not use never refuses the session, whatever is in it (RFC 5492 §3); one that we use and
    cannot read does, with 2/0 (RFC 4271 §6.2).
    """
    if body and body[0] != 4:
        # The data is the newest version we speak (RFC 4271 §6.2).
        raise ProtocolError(2, 1, f"version {body[0]}, expected 4", b"\x00\x04")
    used, unused = _used_capabilities(body[9:])
    try:
        message = Open.unpack_message(body[:9] + _optional_parameters(used), Direction.IN, None)
        capabilities = _capabilities(message.capabilities, unused)
    except Notify as error:
        raise ProtocolError(error.code, error.subcode, _notify_text(error)) from error
    except Exception as error:
        raise ProtocolError(2, 0, f"malformed OPEN ({error!r})") from error
    return OpenMessage(
        asn=int(message.asn) if capabilities.asn4 is None else capabilities.asn4,
        hold_time=int(message.hold_time),
        router_id=Address(bytes(message.router_id.ton())),
        capabilities=capabilities,
    )


_LENGTH_OF_CAPABILITY: Mapping[int, tuple[int, int]] = {
    int(Capability.CODE.MULTIPROTOCOL): (4, 0),  # RFC 4760 §8
    int(Capability.CODE.ROUTE_REFRESH): (0, 0),  # RFC 2918 §2
    int(Capability.CODE.NEXTHOP): (0, 6),  # RFC 8950 §4
    int(Capability.CODE.GRACEFUL_RESTART): (2, 4),  # RFC 4724 §3
    int(Capability.CODE.FOUR_BYTES_ASN): (4, 0),  # RFC 6793 §3
    int(Capability.CODE.ADD_PATH): (0, 4),  # RFC 7911 §4
    int(Capability.CODE.ENHANCED_ROUTE_REFRESH): (0, 0),  # RFC 7313 §3.1
}
"""Capabilities that we use: code -> (octets at least, octets of each entry beyond; 0 where there are none)."""
_PRESENT = frozenset((int(Capability.CODE.ROUTE_REFRESH_CISCO), _LONG_LIVED))
"""Of these we ask only whether they are there."""
_CAPABILITIES = 2
"""The optional parameter that holds capabilities (RFC 5492 §4)."""


def _parameters(octets: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, value) of each optional parameter, from the octet of their length on; ``ProtocolError`` 2/0 where their
    lengths do not agree. Lengths are of two octets in the form of RFC 9072 §2."""
    size = 1
    if len(octets) > 1 and octets[0] and octets[1] == 255:
        size, length, position = 2, int.from_bytes(octets[2:4], "big"), 4
    else:
        length, position = (octets[0], 1) if octets else (0, 0)
    if position + length != len(octets):
        raise ProtocolError(
            2, 0, f"optional parameters of {length} octets, {len(octets) - position} are there"
        )
    while position < len(octets):
        value = position + 1 + size
        after = value + int.from_bytes(octets[position + 1 : value], "big")
        if max(value, after) > len(octets):
            raise ProtocolError(2, 0, "an optional parameter is cut off")
        yield octets[position], octets[value:after]
        position = after


def _used_capabilities(octets: bytes) -> tuple[list[bytes], list[int]]:
    """From the octet of the parameters' length on: the capabilities that we use, whole, in order, and the codes of the
    others. ``ProtocolError`` 2/4 for a parameter that holds no capabilities (RFC 4271 §6.2; type 1 is deprecated
    since then), 2/0 for a capability that we use and that is malformed."""
    used: list[bytes] = []
    unused: list[int] = []
    for kind, value in _parameters(octets):
        if kind != _CAPABILITIES:
            raise ProtocolError(2, 4, f"optional parameter {kind}")
        position = 0
        while position < len(value):
            code, start = value[position], position + 2
            after = start + value[position + 1] if start <= len(value) else len(value) + 1
            least, entry = _LENGTH_OF_CAPABILITY.get(code, (0, 1))
            beyond = after - start - least
            whole = after <= len(value)
            if code in _LENGTH_OF_CAPABILITY and not (
                whole and beyond >= 0 and (beyond % entry if entry else beyond) == 0
            ):
                raise ProtocolError(2, 0, f"malformed capability {code}")
            if code in _LENGTH_OF_CAPABILITY:
                used.append(value[position:after])
            elif code in _PRESENT and whole:
                used.append(bytes((code, 0)))
            else:
                unused.append(code)
            position = after
    return used, unused


def _optional_parameters(capabilities: list[bytes]) -> bytes:
    """Capabilities as optional parameters with their length, in the extended form, which has room for all."""
    parameters = b"".join(
        struct.pack("!BH", _CAPABILITIES, len(capability)) + capability for capability in capabilities
    )
    return struct.pack("!BBH", 255, 255, len(parameters)) + parameters if parameters else b"\0"


def _capabilities(received: Any, unused: list[int]) -> Capabilities:
    code = Capability.CODE
    restart = received.get(code.GRACEFUL_RESTART)
    asn4 = received.get(code.FOUR_BYTES_ASN)
    return Capabilities(
        families=frozenset(_FAMILY[f] for f in received.get(code.MULTIPROTOCOL, ()) if f in _FAMILY),
        multiprotocol=code.MULTIPROTOCOL in received,
        asn4=None if asn4 is None else int(asn4),
        route_refresh=code.ROUTE_REFRESH in received,
        enhanced_refresh=code.ENHANCED_ROUTE_REFRESH in received,
        long_lived=_LONG_LIVED in received,
        graceful_restart=None
        if restart is None
        else GracefulRestart(
            restarted=bool(restart.restart_flag & _RESTARTED),
            time=int(restart.restart_time),
            families={_FAMILY[f]: bool(flag & _FORWARDING) for f, flag in restart.items() if f in _FAMILY},
        ),
        add_path={
            _FAMILY[f]: int(bits)
            for f, bits in received.get(code.ADD_PATH, {}).items()
            if f in _FAMILY and bits in (1, 2, 3)  # another is passed over (RFC 7911 §4)
        },
        extended_next_hop=frozenset(
            _FAMILY[afi, safi]
            for afi, safi, hop in received.get(code.NEXTHOP, ())
            if (afi, safi) in _FAMILY and hop == AFI.ipv6
        ),
        others=tuple(
            [
                f"{afi} {safi}"
                for afi, safi in received.get(code.MULTIPROTOCOL, ())
                if (afi, safi) not in _FAMILY
            ]
            + [str(code.name(number) or f"capability {number}") for number in dict.fromkeys(unused)]
        ),
    )


def multiprotocol_data(families: frozenset[Family]) -> bytes:
    """The capabilities that a NOTIFICATION 2/7 names as missing (RFC 5492 §5)."""
    return b"".join(struct.pack("!BBHBB", 1, 4, family, 0, 1) for family in sorted(families))


def encode_notification(notification: Notification) -> bytes:
    """The whole message; data that does not fit is cut (RFC 4271 §6.1 asks for no more)."""
    return bytes(Notify(notification.code, notification.subcode, notification.data[:4075]).message())


def decode_notification(body: bytes) -> Notification:
    """Never fails: an error in a NOTIFICATION is not answered (RFC 4271 §6.4)."""
    message = ExaNotification(body[0], body[1], body[2:], parse_data=False)
    return Notification(int(message.code), int(message.subcode), bytes(message.data))


class RefreshKind(IntEnum):
    """What a ROUTE-REFRESH says (RFC 7313 §3.2)."""

    REQUEST = 0
    BEGIN = 1
    END = 2


def encode_refresh(family: Family, kind: RefreshKind = RefreshKind.REQUEST) -> bytes:
    """A ROUTE-REFRESH: it asks for all of a family again, or stands before or after the answer."""
    return bytes(RouteRefresh(*_FAMILIES[family], kind).message())


def decode_refresh(body: bytes) -> tuple[Family, RefreshKind] | None:
    """What a ROUTE-REFRESH says, and of which family; ``None`` for what is passed over: a family that we do not know, a
    kind that nobody defined (RFC 7313 §5). ``ProtocolError`` for a wrong length."""
    if len(body) != 4:
        whole = b"\xff" * 16 + struct.pack("!HB", 19 + len(body), ROUTE_REFRESH) + body
        if body[2] in (RefreshKind.BEGIN, RefreshKind.END):
            raise ProtocolError(7, 1, f"ROUTE-REFRESH of {len(whole)} octets", whole)
        raise ProtocolError(1, 2, f"ROUTE-REFRESH of {len(whole)} octets", whole[16:18])
    try:
        message = RouteRefresh.unpack_message(body)
    except Notify:
        return None
    family = _FAMILY.get((message.afi, message.safi))
    return None if family is None else (family, RefreshKind(message.reserved))


_AS_PATH, _AS4_PATH, _AS4_AGGREGATOR = 2, 17, 18
_COMMUNITIES, _EXTENDED_COMMUNITIES, _LARGE_COMMUNITIES = 8, 16, 32
_OPTIONAL_TRANSITIVE = Attribute.Flag.OPTIONAL | Attribute.Flag.TRANSITIVE
LISTS = frozenset((_AS_PATH, _AS4_PATH, _COMMUNITIES, _EXTENDED_COMMUNITIES, _LARGE_COMMUNITIES))
"""Codes of the attributes that ``decode_attributes`` is given by value."""


class Codec:
    """Attributes in and out, as one session has agreed to write AS numbers (RFC 6793)."""

    def __init__(self, *, asn4: bool) -> None:
        self._negotiated = Negotiated({"capability": {"aigp": False}})
        self._negotiated.asn4 = asn4

    def decode(
        self, octets: bytes, lists: Mapping[int, bytes], unknown: tuple[tuple[int, int, bytes], ...]
    ) -> Attributes:
        """Attributes from octets that ``attributes`` has checked: known attributes only, each once, with right flags
        and lengths, without NEXT_HOP, MP_* and the ``LISTS``. AS4_PATH and AS4_AGGREGATOR are merged (RFC 6793 §4.2.3).
        ``ValueError`` for what ExaBGP finds wrong all the same (then treat as withdraw)."""
        code = Attribute.CODE
        try:
            found = ExaAttributes.unpack(octets, Direction.IN, self._negotiated)
        except Notify as error:
            raise ValueError(_notify_text(error)) from error
        if code.INTERNAL_TREAT_AS_WITHDRAW in found:
            raise ValueError("malformed attributes")
        aggregator = found.get(code.AGGREGATOR, found.get(code.AS4_AGGREGATOR))
        med, local_pref = found.get(code.MED), found.get(code.LOCAL_PREF)
        originator, clusters = found.get(code.ORIGINATOR_ID), found.get(code.CLUSTER_LIST)
        # Beside an AGGREGATOR that is not AS_TRANS, both AS4 attributes are older than what they would stand for.
        outdated = _AS4_AGGREGATOR in lists and code.AGGREGATOR in found
        real = b"" if outdated else lists.get(_AS4_PATH, b"")
        communities = lists.get(_COMMUNITIES, b"")
        extended = lists.get(_EXTENDED_COMMUNITIES, b"")
        return Attributes(
            origin=Origin(found[code.ORIGIN].origin) if code.ORIGIN in found else Origin.INCOMPLETE,
            as_path=self._path(lists.get(_AS_PATH, b""), real),
            med=None if med is None else int(med.med),
            local_pref=None if local_pref is None else int(local_pref.localpref),
            atomic_aggregate=code.ATOMIC_AGGREGATE in found,
            aggregator=None
            if aggregator is None
            else (int(aggregator.asn), Address(bytes(aggregator.speaker.ton()))),
            communities=struct.unpack(f"!{len(communities) // 4}I", communities),
            extended_communities=tuple(extended[i : i + 8] for i in range(0, len(extended), 8)),
            large_communities=tuple(struct.iter_unpack("!III", lists.get(_LARGE_COMMUNITIES, b""))),
            originator_id=None if originator is None else Address(bytes(originator.ton())),
            cluster_list=()
            if clusters is None
            else tuple(Address(bytes(c.ton())) for c in clusters.clusters),
            unknown=unknown,
        )

    def _path(self, octets: bytes, real: bytes) -> AsPath:
        """AS_PATH, and AS4_PATH in its place as far as that goes (RFC 6793 §4.2.3)."""
        if self._negotiated.asn4:
            return AsPath(octets)
        path = _widened(octets)
        if not real:
            return path
        merged = AsPath.of(*(each for each in AsPath(real).segments() if each[0] <= SegmentType.AS_SEQUENCE))
        surplus = _length(path) - _length(merged)
        if surplus < 0:
            return path
        front: list[Segment] = []
        for kind, asns in path.segments():
            if kind == SegmentType.AS_SEQUENCE:
                asns = asns[:surplus]
            if surplus <= 0 and kind <= SegmentType.AS_SEQUENCE:
                break
            front.append((kind, asns))
            surplus -= _LENGTH_OF.get(kind, len(asns))
        for kind, asns in reversed(front):
            in_sequence = kind == SegmentType.AS_SEQUENCE
            merged = merged.prepended(*asns) if in_sequence else AsPath(AsPath.of((kind, asns)) + merged)
        return merged

    def encode(self, attributes: Attributes) -> list[tuple[int, bytes]]:
        """(code, whole attribute) in the order of the codes; AS_TRANS, AS4_PATH and AS4_AGGREGATOR where the session
        has two-octet AS numbers. NEXT_HOP and MP_* are the caller's."""
        found: list[tuple[int, Any]] = [(1, ExaOrigin(attributes.origin))]
        path = attributes.as_path
        if self._negotiated.asn4:
            found.append((_AS_PATH, GenericAttribute(_AS_PATH, Attribute.Flag.TRANSITIVE, path)))
        else:
            narrow, fits = _narrowed(path)
            found.append((_AS_PATH, GenericAttribute(_AS_PATH, Attribute.Flag.TRANSITIVE, narrow)))
            if not fits:
                outside = (each for each in path.segments() if each[0] <= SegmentType.AS_SEQUENCE)
                if real := AsPath.of(*outside):
                    found.append((_AS4_PATH, GenericAttribute(_AS4_PATH, _OPTIONAL_TRANSITIVE, real)))
        if attributes.med is not None:
            found.append((4, Med(attributes.med)))
        if attributes.local_pref is not None:
            found.append((5, LocalPreference(attributes.local_pref)))
        if attributes.atomic_aggregate:
            found.append((6, AtomicAggregate()))
        if attributes.aggregator is not None:
            asn, speaker = attributes.aggregator
            found.append((7, Aggregator(ASN(asn), IPv4(address_text(speaker)))))
        if attributes.originator_id is not None:
            found.append((9, OriginatorID(address_text(attributes.originator_id))))
        if attributes.cluster_list:
            clusters = [IPv4(address_text(cluster)) for cluster in attributes.cluster_list]
            found.append((10, ClusterList(clusters)))
        for code, value in (
            (_COMMUNITIES, struct.pack(f"!{len(attributes.communities)}I", *attributes.communities)),
            (_EXTENDED_COMMUNITIES, b"".join(attributes.extended_communities)),
            (_LARGE_COMMUNITIES, b"".join(struct.pack("!III", *c) for c in attributes.large_communities)),
        ):
            if value:
                found.append((code, GenericAttribute(code, _OPTIONAL_TRANSITIVE, value)))
        found += [(code, GenericAttribute(code, flag, value)) for flag, code, value in attributes.unknown]
        found.sort(key=lambda pair: pair[0])
        return [(code, bytes(attribute.pack(self._negotiated))) for code, attribute in found]


def _notify_text(error: Any) -> str:
    data = error.data
    return data.decode("ascii", "replace") if data and data.isascii() else str(error)


_LENGTH_OF = {SegmentType.AS_SET: 1, SegmentType.CONFED_SEQUENCE: 0, SegmentType.CONFED_SET: 0}
"""What a segment counts that is no sequence (RFC 4271 §9.1.2.2 a, RFC 5065 §5.3)."""


def _length(path: AsPath) -> int:
    return sum(_LENGTH_OF.get(SegmentType(kind), count) for kind, count, _ in path.heads())


def _widened(octets: bytes) -> AsPath:
    """AS_PATH with two-octet numbers, as one with four."""
    parts: list[bytes] = []
    position = 0
    while position < len(octets):
        count = octets[position + 1]
        asns = struct.unpack_from(f"!{count}H", octets, position + 2)
        parts.append(octets[position : position + 2] + struct.pack(f"!{count}I", *asns))
        position += 2 + 2 * count
    return AsPath(b"".join(parts))


def _narrowed(path: AsPath) -> tuple[bytes, bool]:
    """AS_PATH with two-octet numbers, AS_TRANS for what does not fit; whether all did."""
    parts: list[bytes] = []
    fits = True
    for kind, asns in path.segments():
        small = tuple(asn if asn < 1 << 16 else AS_TRANS for asn in asns)
        fits = fits and small == asns
        parts.append(struct.pack(f"!BB{len(small)}H", kind, len(small), *small))
    return b"".join(parts), fits
