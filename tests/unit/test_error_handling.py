"""What becomes of what is malformed, attribute by attribute (RFC 7606 and each attribute's own RFC), and the codes that
a peer is told for errors in headers, OPENs and states (RFC 4271 §6, as BIRD and FRR send them).
"""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import NamedTuple

import pytest

from bgpd.bgp.wire.exa.messages import KEEPALIVE_MESSAGE, Notification, ProtocolError
from bgpd.bgp.wire.exa.open import encode_open
from bgpd.bgp.wire.update import Decoder, encode_announcements, message
from bgpd.model.peer import Peer
from bgpd.model.prefix import Family
from bgpd.model.route import Announce, RibEvent, Withdraw
from bgpd.model.status import SessionState
from tests.unit.test_session import OPEN, accept, dial, make, notification
from tests.unit.test_wire import LOCAL_PREF, NEXT_HOP, NLRI, NO_PATH, ORIGIN, PATH, make_peer, reach, update

V4 = Family.IPV4
IN, OUT = make_peer(), make_peer(asn=65001)
KEPT, WITHOUT, GONE, CLOSED = "kept", "attribute discard", "treat as withdraw", "session reset"
WT, OT, ON = 0x40, 0xC0, 0x80
"""Well-known, optional transitive, optional."""


class Case(NamedTuple):
    """One attribute in an UPDATE that is right without it."""

    section: str
    code: int
    what: str
    value: bytes
    flags: int
    inside: str
    """From an internal peer."""
    outside: str
    """From an external one."""

    def __str__(self) -> str:
        return f"{self.code} {self.what}"


def each(
    section: str, code: int, flags: int, *cases: tuple[str, bytes, str] | tuple[str, bytes, str, str]
) -> list[Case]:
    return [Case(section, code, case[0], case[1], flags, case[2], case[-1]) for case in cases]


def tlv(kind: int, value: bytes, form: str = "!BB") -> bytes:
    return struct.pack(form, kind, len(value)) + value


def attribute(flags: int, code: int, value: bytes) -> bytes:
    return struct.pack("!BBH", flags | 0x10, code, len(value)) + value


AS1 = struct.pack("!BBI", 2, 1, 65001)
SUB = tlv(6, bytes(10)) + tlv(130, b"x" * 300, "!BH")
TUNNEL = tlv(8, SUB, "!HH")
INNER = attribute(WT, 1, b"\0") + attribute(WT, 2, AS1) + attribute(OT, 8, bytes(4))

CASES = [
    *each(
        "7606 §7.1",
        1,
        WT,
        ("origin 2", b"\2", KEPT),
        ("origin 3", b"\3", GONE),
        ("empty", b"", GONE),
        ("of 2", b"\0\0", GONE),
    ),
    *each("7606 §3 c", 1, OT, ("optional", b"\0", GONE)),
    *each(
        "7606 §7.2",
        2,
        WT,
        ("one AS", AS1, KEPT),
        ("unknown segment", b"\6" + AS1[1:], GONE),
        ("segment 0", b"\0" + AS1[1:], GONE),
        ("no numbers", AS1 + b"\2\0", GONE),
        ("overrun", b"\2\2" + AS1[2:], GONE),
        ("underrun", AS1 + b"\2", GONE),
        ("set", b"\1" + AS1[1:], KEPT),
    ),
    *each(
        "5065 §5",
        2,
        WT,
        ("confederation", b"\3" + AS1[1:], KEPT, GONE),
        ("confederation set", b"\4" + AS1[1:], KEPT, GONE),
    ),
    *each("7607 §2", 2, WT, ("AS 0", AS1[:2] + bytes(4), GONE)),
    *each(
        "7606 §7.3", 3, WT, ("of 3", b"\x0a\0\1", GONE), ("of 5", b"\x0a\0\1\1\1", GONE), ("empty", b"", GONE)
    ),
    *each(
        "4271 §6.3",
        3,
        WT,
        ("0.0.0.0", bytes(4), GONE),
        ("multicast", b"\xe0\0\0\1", GONE),
        ("class E", b"\xf0\0\0\1", GONE),
    ),
    *each("7606 §7.4", 4, ON, ("of 4", bytes(4), KEPT), ("of 3", bytes(3), GONE), ("of 5", bytes(5), GONE)),
    *each("7606 §3 c", 4, OT, ("transitive", bytes(4), GONE)),
    *each(
        "7606 §7.5",
        5,
        WT,
        ("of 3", bytes(3), GONE, WITHOUT),
        ("of 5", bytes(5), GONE, WITHOUT),
        ("good", bytes(4), KEPT, WITHOUT),
    ),
    *each("7606 §7.6", 6, WT, ("empty", b"", KEPT), ("of 1", b"\0", WITHOUT)),
    *each("7606 §3 c, f", 6, OT, ("optional", b"", WITHOUT)),
    *each(
        "7606 §7.7",
        7,
        OT,
        ("of 8", bytes(8), KEPT),
        ("of 6", bytes(6), WITHOUT),
        ("of 9", bytes(9), WITHOUT),
        ("empty", b"", WITHOUT),
    ),
    *each("7606 §7.8", 8, OT, ("one", bytes(4), KEPT), ("empty", b"", GONE), ("of 6", bytes(6), GONE)),
    *each("7606 §3 c", 8, ON, ("not transitive", bytes(4), GONE)),
    *each(
        "7606 §7.9",
        9,
        ON,
        ("good", b"\1\1\1\1", KEPT, WITHOUT),
        ("of 3", bytes(3), GONE, WITHOUT),
        ("of 5", bytes(5), GONE, WITHOUT),
    ),
    *each(
        "7606 §7.10",
        10,
        ON,
        ("two", bytes(8), KEPT, WITHOUT),
        ("empty", b"", GONE, WITHOUT),
        ("of 6", bytes(6), GONE, WITHOUT),
    ),
    *each(
        "7606 §3 g, §7.11",
        14,
        ON,
        ("empty", b"", CLOSED),
        ("hop too long", b"\0\2\1\xff" + bytes(20), CLOSED),
    ),
    *each("7606 §3 c", 14, OT, ("transitive", reach(bytes(16))[3:], CLOSED)),
    *each("7606 §7.12", 15, ON, ("of 2", b"\0\2", CLOSED), ("bits", b"\0\2\1\x81" + bytes(17), CLOSED)),
    *each("7606 §7.14", 16, OT, ("one", bytes(8), KEPT), ("empty", b"", GONE), ("of 12", bytes(12), GONE)),
    *each("6793 §6", 17, OT, ("between new speakers", AS1, WITHOUT), ("malformed", b"\2", WITHOUT)),
    *each("6793 §6", 18, OT, ("between new speakers", bytes(8), WITHOUT), ("of 6", bytes(6), WITHOUT)),
    *each("6514 §5", 22, OT, ("label alone", bytes(5), KEPT), ("of 4", bytes(4), GONE), ("empty", b"", GONE)),
    *each("7606 §3 c", 22, WT, ("well-known", bytes(5), GONE)),
    *each(
        "9012 §13",
        23,
        OT,
        ("a tunnel", TUNNEL, KEPT),
        ("two tunnels", TUNNEL * 2, KEPT),
        ("half a header", TUNNEL + b"\0\1\0", GONE),
        ("longer than it is", b"\0\x08\0\x09" + SUB[:4], GONE),
        ("sub-TLV overrun", tlv(8, b"\6\x0b" + bytes(10), "!HH"), GONE),
        ("long sub-TLV cut off", tlv(8, b"\x82\0", "!HH"), GONE),
    ),
    *each("7606 §7.13", 24, ON, ("whatever", bytes(7), KEPT)),
    *each("7606 §7.13", 24, OT, ("transitive", bytes(7), WITHOUT)),
    *each(
        "7606 §7.15",
        25,
        OT,
        ("one", bytes(20), KEPT),
        ("empty", b"", GONE),
        ("of 8", bytes(8), GONE),
        ("of 21", bytes(21), GONE),
    ),
    *each("7311 §3", 26, ON, ("where it is not wanted", tlv(1, bytes(8), "!BH"), KEPT)),
    *each("7311 §3", 26, OT, ("transitive", tlv(1, bytes(8), "!BH"), WITHOUT)),
    *each("8205 §2.2", 33, OT, ("transitive, not negotiated", bytes(9), WITHOUT)),
    *each(
        "8092 §5",
        32,
        OT,
        ("one", bytes(12), KEPT),
        ("empty", b"", GONE),
        ("of 8", bytes(8), GONE),
        ("of 13", bytes(13), GONE),
    ),
    *each("9234 §5", 35, OT, ("of 4", bytes(4), KEPT), ("empty", b"", GONE), ("of 5", bytes(5), GONE)),
    *each(
        "9026 §3.1.6",
        38,
        OT,
        ("mode and discriminator", b"\1\0\0\0\1", KEPT),
        ("of 4", bytes(4), WITHOUT),
        ("TLV cut off", b"\1\0\0\0\1\1\4\0", WITHOUT),
    ),
    *each(
        "8669 §5, §6",
        40,
        OT,
        ("label index", tlv(1, bytes(7), "!BH"), KEPT, WITHOUT),
        ("unknown TLV", tlv(200, bytes(3), "!BH"), KEPT, WITHOUT),
        ("label index of 6", tlv(1, bytes(6), "!BH"), WITHOUT),
        ("SRGB of 7", tlv(3, bytes(7), "!BH"), WITHOUT),
        ("cut off", b"\1\0\7\0", WITHOUT),
        ("empty", b"", WITHOUT),
    ),
    *each(
        "7606 §7.16",
        128,
        OT,
        ("AS and attributes", bytes(4) + INNER, KEPT),
        ("AS alone", bytes(4), KEPT),
        ("of 3", bytes(3), GONE),
        ("cut off inside", bytes(4) + INNER[:-1], GONE),
        ("MP_REACH inside", bytes(4) + attribute(ON, 14, reach(bytes(16))[3:]), GONE),
        ("ORIGIN 7 inside", bytes(4) + attribute(WT, 1, b"\7"), GONE),
        ("flags inside", bytes(4) + attribute(OT, 1, b"\0"), GONE),
        ("a tunnel cut off inside", bytes(4) + attribute(OT, 23, b"\0"), GONE),
    ),
    *each("4271 §5", 99, OT, ("nobody knows it", b"ab", KEPT)),
    *each("4271 §5", 99, ON, ("nobody knows it, not transitive", b"ab", KEPT)),
    *each("4271 §6.3", 99, WT, ("well-known", b"ab", CLOSED)),
    *each("7606 §8", 0, OT, ("reserved", b"", WITHOUT)),
]


@pytest.mark.parametrize("peer", [IN, OUT], ids=["internal", "external"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_attribute(case: Case, peer: Peer) -> None:
    expected = case.inside if peer.ibgp else case.outside
    block = {
        1: ORIGIN,
        2: NO_PATH if peer.ibgp else PATH,
        3: NEXT_HOP,
        **({5: LOCAL_PREF} if peer.ibgp else {}),
    }
    block[case.code] = attribute(case.flags, case.code, case.value)
    decoder, events = Decoder(peer), list[RibEvent]()
    if expected == CLOSED:
        with pytest.raises(ProtocolError) as caught:
            decoder.decode(update(b"".join(block.values()), NLRI), events)
        assert caught.value.notification.code == 3 and not events
        return
    decoder.decode(update(b"".join(block.values()), NLRI), events)
    [event] = [event for event in events if event.family is V4]
    assert isinstance(event, Withdraw) == (expected == GONE), decoder.cache.last_error
    assert decoder.withdrawn_by_error == (expected == GONE)
    assert decoder.cache.discarded == (expected == WITHOUT)
    if isinstance(event, Announce):
        attributes = event.path.attributes
        known = {code for _, code, _ in attributes.unknown}
        assert (case.code in known) == (
            expected == KEPT and case.flags == OT and case.code > 18 and case.code != 32
        )
        again = list[RibEvent]()
        for octets in encode_announcements(
            V4, replace(attributes, local_pref=1), event.path.next_hop, event.prefixes, asn4=True
        ):
            Decoder(IN).decode(octets[19:], again)
        assert all(isinstance(each, Announce) for each in again), "what we pass on is well formed"


def test_the_first_of_two_is_the_one_that_counts() -> None:
    """RFC 7606 §3 g: also of those that we do not decode."""
    good = attribute(OT, 35, bytes(4))
    decoder, events = Decoder(OUT), list[RibEvent]()
    decoder.decode(update(ORIGIN + PATH + NEXT_HOP + good + attribute(OT, 35, b""), NLRI), events)
    assert isinstance(events[0], Announce) and events[0].path.attributes.unknown == ((0xE0, 35, bytes(4)),)
    assert decoder.cache.discarded == 1


# Codes (RFC 4271 §6).

HEADERS = {
    "marker": (b"\0" * 16 + b"\0\x13\4", Notification(1, 1)),
    "length 18": (b"\xff" * 16 + b"\0\x12\4", Notification(1, 2, b"\0\x12")),
    "length 4097": (b"\xff" * 16 + b"\x10\x01\2", Notification(1, 2, b"\x10\x01")),
    "KEEPALIVE of 20": (message(4, b"\0"), Notification(1, 2, b"\0\x14")),
    "UPDATE of 22": (message(2, bytes(3)), Notification(1, 2, b"\0\x16")),
    "NOTIFICATION of 20": (message(3, b"\6"), Notification(1, 2, b"\0\x14")),
    "OPEN of 28": (message(1, bytes(9)), Notification(1, 2, b"\0\x1c")),
    "type 0": (message(0, b""), Notification(1, 3, b"\0")),
    "type 6": (message(6, b""), Notification(1, 3, b"\6")),
}
OPENS = {
    "version 3": (3, 65000, 90, b"\x0a\0\1\x1e", b"\0", Notification(2, 1, b"\0\4")),
    "version 5": (5, 65000, 90, b"\x0a\0\1\x1e", b"\0", Notification(2, 1, b"\0\4")),
    "AS": (4, 65009, 90, b"\x0a\0\1\x1e", b"\0", Notification(2, 2)),
    "identifier 0": (4, 65000, 90, bytes(4), b"\0", Notification(2, 3)),
    "parameter 1": (4, 65000, 90, b"\x0a\0\1\x1e", b"\3\1\1\0", Notification(2, 4)),
    "parameters longer": (4, 65000, 90, b"\x0a\0\1\x1e", b"\4\2\0", Notification(2, 0)),
    "parameter cut off": (4, 65000, 90, b"\x0a\0\1\x1e", b"\2\2\1", Notification(2, 0)),
    "hold time 1": (4, 65000, 1, b"\x0a\0\1\x1e", b"\0", Notification(2, 6)),
    "hold time 2": (4, 65000, 2, b"\x0a\0\1\x1e", b"\0", Notification(2, 6)),
}


def sent_for(octets: bytes) -> Notification:
    """What a session answers; it is over then."""
    session = make()
    connection = dial(session)
    connection.data_to_send()
    session.receive(connection, octets, 0.0)
    assert connection.closure is not None and session.state is SessionState.IDLE
    return notification(connection)


@pytest.mark.parametrize("name", HEADERS)
def test_headers(name: str) -> None:
    octets, expected = HEADERS[name]
    assert sent_for(octets) == expected


@pytest.mark.parametrize("name", OPENS)
def test_opens(name: str) -> None:
    version, asn, hold, identifier, parameters, expected = OPENS[name]
    assert sent_for(message(1, struct.pack("!BHH", version, asn, hold) + identifier + parameters)) == expected


@pytest.mark.parametrize(
    ("before", "octets", "subcode"),
    [
        (b"", KEEPALIVE_MESSAGE, 1),
        (b"", message(2, bytes(4)), 1),
        (encode_open(OPEN), message(2, bytes(4)), 2),
        (encode_open(OPEN), encode_open(OPEN), 2),
        (encode_open(OPEN) + KEEPALIVE_MESSAGE, encode_open(OPEN), 3),
    ],
)
def test_states(before: bytes, octets: bytes, subcode: int) -> None:
    """RFC 6608: which state it was; the data is the type of the message."""
    assert sent_for(before + octets) == Notification(5, subcode, octets[18:19])


def test_an_error_in_a_notification_is_not_answered() -> None:
    """RFC 4271 §6.4."""
    session = make()
    connection = accept(session)
    connection.data_to_send()
    session.receive(connection, message(3, b"\xff\xff" + bytes(100)), 0.0)
    assert connection.closure is not None and connection.data_to_send() == b""
