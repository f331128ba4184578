"""The BFD control packet (RFC 5880 §4.1): 24 octets, to and from a frozen value.

``decode`` makes those checks of §6.8.6 that need no session, in the RFC's order; why a packet is discarded is data
(house rule: every refusal has a name). Authentication (§6.7) is not spoken: such packets are discarded, as §6.8.6
has it for a session without authentication. Intervals are whole microseconds.
"""

from __future__ import annotations

import struct
from enum import Enum
from typing import NamedTuple

from bgpd.model.bfd import BfdState

VERSION = 1
LENGTH = 24
_FORMAT = struct.Struct("!BBBBIIIII")
_POLL, _FINAL, _INDEPENDENT, _AUTHENTICATED, _DEMAND, _MULTIPOINT = 0x20, 0x10, 0x08, 0x04, 0x02, 0x01


class Discard(Enum):
    """Why a packet is not for any session; the label of ``bgpd_bfd_packets_discarded_total``."""

    SHORT = "short"
    """Fewer octets than the shortest packet has, or than its length says."""
    VERSION = "version"
    LENGTH = "length"
    """A length that no packet has."""
    MULTIPLIER = "multiplier"
    """A multiplier of zero: the packet is discarded (RFC 5880 §6.8.6)."""
    MULTIPOINT = "multipoint"
    DISCRIMINATOR = "discriminator"
    """Its sender's is zero, or there is none for us in a state that needs one."""
    AUTHENTICATED = "authenticated"
    TTL = "ttl"
    """It crossed a router and must not have (RFC 5881 §5), or more of them than the peer's ttlSecurity allows."""
    UNKNOWN = "unknown"
    """No session is with this address, or with this discriminator."""
    OTHER_PORT = "other port"
    """The peer takes the session for single-hop and we for multihop, or the other way round."""
    ADMIN_DOWN = "admin down"
    """Our end has been taken down."""


class Refused(Exception):
    """A packet is discarded."""

    def __init__(self, reason: Discard) -> None:
        super().__init__(reason.value)
        self.reason = reason


class Packet(NamedTuple):
    """One control packet."""

    state: BfdState
    my_discriminator: int
    your_discriminator: int
    desired_min_tx: int
    required_min_rx: int
    multiplier: int
    diagnostic: int = 0
    poll: bool = False
    final: bool = False
    control_plane_independent: bool = False
    demand: bool = False
    required_min_echo_rx: int = 0


def encode(packet: Packet) -> bytes:
    """The octets of a packet."""
    flags = (
        packet.state << 6
        | (_POLL if packet.poll else 0)
        | (_FINAL if packet.final else 0)
        | (_INDEPENDENT if packet.control_plane_independent else 0)
        | (_DEMAND if packet.demand else 0)
    )
    return _FORMAT.pack(
        VERSION << 5 | packet.diagnostic,
        flags,
        packet.multiplier,
        LENGTH,
        packet.my_discriminator,
        packet.your_discriminator,
        packet.desired_min_tx,
        packet.required_min_rx,
        packet.required_min_echo_rx,
    )


def decode(data: bytes) -> Packet:
    """A packet of its octets; ``Refused`` where §6.8.6 discards it. What comes after its length does not count."""
    if len(data) < LENGTH:
        raise Refused(Discard.SHORT)
    first, flags, multiplier, length, mine, yours, tx, rx, echo = _FORMAT.unpack_from(data)
    if first >> 5 != VERSION:
        raise Refused(Discard.VERSION)
    if length < LENGTH or (flags & _AUTHENTICATED and length < LENGTH + 2):
        raise Refused(Discard.LENGTH)
    if length > len(data):
        raise Refused(Discard.SHORT)
    if multiplier == 0:
        raise Refused(Discard.MULTIPLIER)
    if flags & _MULTIPOINT:
        raise Refused(Discard.MULTIPOINT)
    state = BfdState(flags >> 6)
    if mine == 0 or (yours == 0 and state > BfdState.DOWN):
        raise Refused(Discard.DISCRIMINATOR)
    if flags & _AUTHENTICATED:
        raise Refused(Discard.AUTHENTICATED)
    return Packet(
        state,
        mine,
        yours,
        tx,
        rx,
        multiplier,
        first & 0x1F,
        bool(flags & _POLL),
        bool(flags & _FINAL),
        bool(flags & _INDEPENDENT),
        bool(flags & _DEMAND),
        echo,
    )
