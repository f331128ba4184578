"""OPEN with its capabilities (RFC 4271 §4.2, RFC 5492)."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bgpd.bgp.wire.exa import lean_exabgp
from bgpd.bgp.wire.exa.messages import FAMILIES, FAMILY, ProtocolError, notify_text
from bgpd.model.prefix import Address, Family, address_text

with lean_exabgp():
    from exabgp.bgp.message.direction import Direction
    from exabgp.bgp.message.notification import Notify
    from exabgp.bgp.message.open import Open, RouterID, Version
    from exabgp.bgp.message.open.asn import ASN
    from exabgp.bgp.message.open.capability import Capabilities as ExaCapabilities
    from exabgp.bgp.message.open.capability import Capability
    from exabgp.bgp.message.open.capability.addpath import AddPath
    from exabgp.bgp.message.open.capability.asn4 import ASN4
    from exabgp.bgp.message.open.capability.graceful import Graceful
    from exabgp.bgp.message.open.capability.mp import MultiProtocol
    from exabgp.bgp.message.open.capability.nexthop import NextHop as NextHopCapability
    from exabgp.bgp.message.open.capability.refresh import EnhancedRouteRefresh
    from exabgp.bgp.message.open.capability.refresh import RouteRefresh as RefreshCapability
    from exabgp.bgp.message.open.holdtime import HoldTime
    from exabgp.protocol.family import AFI, SAFI


class GracefulRestart(NamedTuple):
    """RFC 4724 §3."""

    restarted: bool
    time: int
    families: Mapping[Family, bool]
    """Family -> whether forwarding state was kept (the F bit)."""
    notification: bool = False
    """Routes are also kept over a NOTIFICATION and the hold timer (the N bit, RFC 8538 §2)."""


class LongLived(NamedTuple):
    """One family of the capability for long-lived graceful restart (RFC 9494 §3.1)."""

    preserved: bool
    """Whether forwarding state was kept (the F bit)."""
    time: int
    """Seconds for which stale routes are to be kept after the restart time; three octets."""


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
    long_lived: Mapping[Family, LongLived] | None = None
    """Long-lived graceful restart (RFC 9494); without families it says that stale routes of others are understood."""
    add_path: Mapping[Family, int] = field(default_factory=dict)
    """Family -> 1 wants to receive, 2 sends, 3 both (RFC 7911 §4)."""
    extended_next_hop: frozenset[Family] = frozenset()
    """Families that may have an IPv6 next hop without being IPv6 (RFC 8950 §4)."""
    others: tuple[str, ...] = ()
    """All other capabilities, in words."""

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
            flag += ", also after a NOTIFICATION" if restart.notification else ""
            found.append(f"graceful restart {restart.time} s {kept or 'helper only'}{flag}")
        if self.long_lived is not None:
            times = [f"{family.label} {life.time} s" for family, life in sorted(self.long_lived.items())]
            found.append(f"long-lived graceful restart {', '.join(times) or 'understood'}")
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


_LONG_LIVED = 71
_RESTARTED, _NOTIFICATION, _FORWARDING = Graceful.RESTART_STATE, 0x04, Graceful.FORWARDING_STATE


class _LongLivedCapability(Capability):  # type: ignore[misc]
    """Long-lived graceful restart (RFC 9494 §3.1), which ExaBGP does not know."""

    def __init__(self, families: Mapping[Family, LongLived]) -> None:
        self._value = b"".join(
            struct.pack(
                "!HBBBH", family, 1, _FORWARDING * life.preserved, life.time >> 16, life.time & 0xFFFF
            )
            for family, life in sorted(families.items())
        )

    def extract(self) -> list[bytes]:
        return [self._value]


def _long_lived(value: bytes) -> dict[Family, LongLived]:
    """The families of the capability that we know; none of one that is no whole number of them."""
    found: dict[Family, LongLived] = {}
    if len(value) % 7 == 0:
        for afi, safi, flags, high, low in struct.iter_unpack("!HBBBH", value):
            if (family := FAMILY.get((AFI.create(afi), SAFI.create(safi)))) is not None:
                found[family] = LongLived(bool(flags & _FORWARDING), high << 16 | low)
    return found


def encode_open(message: OpenMessage) -> bytes:
    """The whole message."""
    wanted = message.capabilities
    sent = ExaCapabilities()
    families = MultiProtocol()
    families.extend(FAMILIES[family] for family in sorted(wanted.families))
    if families:
        sent[Capability.CODE.MULTIPROTOCOL] = families
    if wanted.route_refresh:
        sent[Capability.CODE.ROUTE_REFRESH] = RefreshCapability()
    if wanted.enhanced_refresh:
        sent[Capability.CODE.ENHANCED_ROUTE_REFRESH] = EnhancedRouteRefresh()
    if wanted.graceful_restart is not None:
        restart = wanted.graceful_restart
        kept = [
            (*FAMILIES[family], _FORWARDING if flag else 0)
            for family, flag in sorted(restart.families.items())
        ]
        flags = _RESTARTED * restart.restarted | _NOTIFICATION * restart.notification
        sent[Capability.CODE.GRACEFUL_RESTART] = Graceful().set(flags, restart.time, kept)
    if wanted.asn4 is not None:
        sent[Capability.CODE.FOUR_BYTES_ASN] = ASN4(wanted.asn4)
    if wanted.add_path:
        paths = AddPath()
        for family, bits in sorted(wanted.add_path.items()):
            paths.add_path(*FAMILIES[family], bits)
        sent[Capability.CODE.ADD_PATH] = paths
    if wanted.extended_next_hop:
        sent[Capability.CODE.NEXTHOP] = NextHopCapability(
            [(*FAMILIES[family], AFI.ipv6) for family in sorted(wanted.extended_next_hop)]
        )
    if wanted.long_lived is not None:
        sent[_LONG_LIVED] = _LongLivedCapability(wanted.long_lived)
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
    used, unused, long_lived = _used_capabilities(body[9:])
    try:
        message = Open.unpack_message(body[:9] + _optional_parameters(used), Direction.IN, None)
        capabilities = _capabilities(message.capabilities, unused, long_lived)
    except Notify as error:
        raise ProtocolError(error.code, error.subcode, notify_text(error)) from error
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
_PRESENT = frozenset((int(Capability.CODE.ROUTE_REFRESH_CISCO),))
"""Capabilities of which we ask only whether they are there."""
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


def _used_capabilities(octets: bytes) -> tuple[list[bytes], list[int], dict[Family, LongLived] | None]:
    """From the octet of the parameters' length on: the capabilities that ExaBGP reads, whole, in order, the codes of
    those that nobody does, and long-lived graceful restart. ``ProtocolError`` 2/4 for a parameter that holds no
    capabilities (RFC 4271 §6.2; type 1 is deprecated since then), 2/0 for a capability that we use and that is
    malformed."""
    used: list[bytes] = []
    unused: list[int] = []
    long_lived: dict[Family, LongLived] | None = None
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
            elif code == _LONG_LIVED and whole:
                long_lived = _long_lived(value[start:after])
            else:
                unused.append(code)
            position = after
    return used, unused, long_lived


def _optional_parameters(capabilities: list[bytes]) -> bytes:
    """Capabilities as optional parameters with their length, in the extended form, which has room for all."""
    parameters = b"".join(
        struct.pack("!BH", _CAPABILITIES, len(capability)) + capability for capability in capabilities
    )
    return struct.pack("!BBH", 255, 255, len(parameters)) + parameters if parameters else b"\0"


def _capabilities(
    received: Any, unused: list[int], long_lived: Mapping[Family, LongLived] | None
) -> Capabilities:
    code = Capability.CODE
    restart = received.get(code.GRACEFUL_RESTART)
    asn4 = received.get(code.FOUR_BYTES_ASN)
    return Capabilities(
        families=frozenset(FAMILY[f] for f in received.get(code.MULTIPROTOCOL, ()) if f in FAMILY),
        multiprotocol=code.MULTIPROTOCOL in received,
        asn4=None if asn4 is None else int(asn4),
        route_refresh=code.ROUTE_REFRESH in received,
        enhanced_refresh=code.ENHANCED_ROUTE_REFRESH in received,
        long_lived=long_lived,
        graceful_restart=None
        if restart is None
        else GracefulRestart(
            restarted=bool(restart.restart_flag & _RESTARTED),
            time=int(restart.restart_time),
            families={FAMILY[f]: bool(flag & _FORWARDING) for f, flag in restart.items() if f in FAMILY},
            notification=bool(restart.restart_flag & _NOTIFICATION),
        ),
        add_path={
            FAMILY[f]: int(bits)
            for f, bits in received.get(code.ADD_PATH, {}).items()
            if f in FAMILY and bits in (1, 2, 3)  # another is passed over (RFC 7911 §4)
        },
        extended_next_hop=frozenset(
            FAMILY[afi, safi]
            for afi, safi, hop in received.get(code.NEXTHOP, ())
            if (afi, safi) in FAMILY and hop == AFI.ipv6
        ),
        others=tuple(
            [
                f"{afi} {safi}"
                for afi, safi in received.get(code.MULTIPROTOCOL, ())
                if (afi, safi) not in FAMILY
            ]
            + [str(code.name(number) or f"capability {number}") for number in dict.fromkeys(unused)]
        ),
    )


def multiprotocol_data(families: frozenset[Family]) -> bytes:
    """The capabilities that a NOTIFICATION 2/7 names as missing (RFC 5492 §5)."""
    return b"".join(struct.pack("!BBHBB", 1, 4, family, 0, 1) for family in sorted(families))
