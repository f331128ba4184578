"""The fast road of UPDATE, and RFC 7606 case by case."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Iterable, Mapping
from dataclasses import replace

import pytest

from bgpd.bgp.wire import attributes as attributes_module
from bgpd.bgp.wire.exa.messages import KEEPALIVE_MESSAGE, ProtocolError
from bgpd.bgp.wire.update import (
    Decoder,
    Framer,
    encode_announcements,
    encode_withdrawals,
    end_of_rib,
    message,
    message_types,
)
from bgpd.model.peer import Peer, PeerConfig, PeerId, PeerKind
from bgpd.model.prefix import Address, Family, Prefix, make_prefix, parse_address, parse_prefix
from bgpd.model.route import Announce, AsPath, Attributes, EndOfRib, RibEvent, SegmentType, Withdraw

BOTH = frozenset(Family)
V4, V6 = Family.IPV4, Family.IPV6


def make_peer(
    *,
    asn: int = 65000,
    families: frozenset[Family] = BOTH,
    asn4: bool = True,
    add_path: frozenset[Family] = frozenset(),
) -> Peer:
    """A session of AS 65000: internal unless ``asn`` says otherwise."""
    config = PeerConfig(
        id=PeerId("Mesh_10_0_1_30"),
        kind=PeerKind.MESH,
        source="Node worker1",
        address=parse_address("10.0.1.30"),
        port=179,
        asn=asn,
        local_asn=65000,
        router_id=parse_address("10.0.1.31"),
        local_address=None,
        next_hops={},
        families=families,
        passive=False,
    )
    return Peer(config, parse_address("10.0.1.30"), parse_address("10.0.1.31"), families, asn4, add_path)


def prefix(text: str) -> Prefix:
    return parse_prefix(text)[1]


ORIGIN = b"\x40\x01\x01\x00"
NO_PATH = b"\x40\x02\x00"
PATH = b"\x40\x02\x06\x02\x01" + struct.pack("!I", 65001)
NEXT_HOP = b"\x40\x03\x04\x0a\x00\x01\x1e"
LOCAL_PREF = b"\x40\x05\x04\x00\x00\x00\x64"
IBGP = ORIGIN + NO_PATH + NEXT_HOP + LOCAL_PREF
EBGP = ORIGIN + PATH + NEXT_HOP
NLRI = b"\x1a\x0a\x30\x00\x80"
HOP6 = parse_address("fd00::30")
LINK_LOCAL = parse_address("fe80::30")
NLRI6 = b"\x40\xfd\x00\x00\x48\x00\x00\x00\x01"


def update(block: bytes = b"", nlri: bytes = b"", withdrawn: bytes = b"") -> bytes:
    return struct.pack("!H", len(withdrawn)) + withdrawn + struct.pack("!H", len(block)) + block + nlri


def reach(hop: bytes, nlri: bytes = NLRI6, family: int = 2, safi: int = 1, flags: int = 0x80) -> bytes:
    value = struct.pack("!HBB", family, safi, len(hop)) + hop + b"\0" + nlri
    return bytes((flags, 14, len(value))) + value


def unreach(nlri: bytes, family: int = 2, safi: int = 1) -> bytes:
    return bytes((0x80, 15, 3 + len(nlri))) + struct.pack("!HB", family, safi) + nlri


def decode(body: bytes, peer: Peer | None = None) -> list[RibEvent]:
    events: list[RibEvent] = []
    Decoder(peer or make_peer()).decode(body, events)
    return events


def one(body: bytes, peer: Peer | None = None) -> Announce:
    (event,) = decode(body, peer)
    assert isinstance(event, Announce), event
    return event


# Framing (RFC 4271 §4.1, §6.1).


def test_messages_are_cut_wherever_tcp_cuts_them() -> None:
    stream = KEEPALIVE_MESSAGE + message(2, update()) + KEEPALIVE_MESSAGE
    for size in range(1, len(stream) + 1):
        framer, found = Framer(), []
        for start in range(0, len(stream), size):
            framer.feed(stream[start : start + size])
            while (taken := framer.take()) is not None:
                found.append(taken)
        assert found == [(4, b""), (2, update()), (4, b"")]


@pytest.mark.parametrize(
    ("octets", "code", "data"),
    [
        (b"GET / HTTP/1.1\r\n", (1, 1), b""),
        (b"\xff" * 15 + b"\x00\x00\x13\x04", (1, 1), b""),
        (message(9, b""), (1, 3), b"\x09"),
        (message(0, b""), (1, 3), b"\x00"),
        (message(4, b"x"), (1, 2), b"\x00\x14"),
        (message(1, bytes(9)), (1, 2), b"\x00\x1c"),
        (message(2, bytes(3)), (1, 2), b"\x00\x16"),
        (message(3, b"\x06"), (1, 2), b"\x00\x14"),
        (message(5, bytes(3)), (1, 2), b"\x00\x16"),
        (b"\xff" * 16 + b"\x10\x01\x02", (1, 2), b"\x10\x01"),
        (b"\xff" * 16 + b"\x00\x12\x04", (1, 2), b"\x00\x12"),
    ],
)
def test_bad_header(octets: bytes, code: tuple[int, int], data: bytes) -> None:
    framer = Framer()
    framer.feed(octets)
    with pytest.raises(ProtocolError) as caught:
        framer.take()
    notification = caught.value.notification
    assert (notification.code, notification.subcode, notification.data) == (*code, data)


def test_no_bgp_is_refused_before_a_header_is_full() -> None:
    framer = Framer()
    framer.feed(b"\xff" * 10)
    assert framer.take() is None
    framer.feed(b"\x00")
    with pytest.raises(ProtocolError):
        framer.take()


# What UPDATEs say.


def test_announcement_of_ipv4() -> None:
    event = one(update(IBGP, NLRI + b"\x18\x0a\x01\x02"))
    assert event.family is V4
    assert event.prefixes == [prefix("10.48.0.128/26"), prefix("10.1.2.0/24")]
    assert event.path.next_hop == parse_address("10.0.1.30")
    assert event.path.attributes == Attributes(local_pref=100)
    assert (event.path.path_id, event.path.link_local) == (0, None)


@pytest.mark.parametrize("flags", [0x80, 0x90])
@pytest.mark.parametrize("first", [True, False])
def test_announcement_of_ipv6(flags: int, first: bool) -> None:
    mp = reach(HOP6)
    if flags == 0x90:
        mp = b"\x90\x0e\x00" + mp[2:]
    rest = ORIGIN + NO_PATH + LOCAL_PREF
    peer = make_peer()
    decoder, events = Decoder(peer), []
    for _ in range(2):  # once the slow way, once the fast one
        decoder.decode(update(mp + rest if first else rest + mp), events)
    assert decoder.cache.decoded == 1
    assert events[0] == events[1] == Announce(V6, events[0].path, [prefix("fd00:48:0:1::/64")])
    assert events[0].path is events[1].path
    assert events[0].path.next_hop == HOP6


@pytest.mark.parametrize(
    ("hop", "next_hop", "link_local"),
    [
        (HOP6 + LINK_LOCAL, HOP6, LINK_LOCAL),
        (bytes(16) + LINK_LOCAL, LINK_LOCAL, LINK_LOCAL),
        (LINK_LOCAL, LINK_LOCAL, LINK_LOCAL),
        (HOP6 + bytes(16), HOP6, None),
    ],
)
def test_link_local_next_hops(hop: bytes, next_hop: Address, link_local: Address | None) -> None:
    event = one(update(ORIGIN + NO_PATH + LOCAL_PREF + reach(hop)))
    assert event.prefixes == [prefix("fd00:48:0:1::/64")]
    assert (event.path.next_hop, event.path.link_local) == (next_hop, link_local)


def test_ipv4_in_mp_attributes() -> None:
    block = ORIGIN + NO_PATH + LOCAL_PREF + reach(parse_address("10.0.1.30"), NLRI, family=1)
    assert one(update(block)).family is V4
    assert decode(update(unreach(NLRI, family=1))) == [Withdraw(V4, [prefix("10.48.0.128/26")])]


def test_withdrawals() -> None:
    assert decode(update(withdrawn=NLRI)) == [Withdraw(V4, [prefix("10.48.0.128/26")])]
    assert decode(update(unreach(NLRI6))) == [Withdraw(V6, [prefix("fd00:48:0:1::/64")])]


def test_withdrawals_come_before_announcements() -> None:
    events = decode(update(IBGP + unreach(NLRI6), NLRI, withdrawn=NLRI))
    assert [type(event) for event in events] == [Withdraw, Withdraw, Announce]


@pytest.mark.parametrize("family", list(Family))
def test_end_of_rib(family: Family) -> None:
    assert decode(end_of_rib(family)[19:]) == [EndOfRib(family)]


def test_end_of_rib_of_others() -> None:
    assert decode(update(unreach(b"", family=1, safi=128))) == []
    assert decode(end_of_rib(V6)[19:], make_peer(families=frozenset({V4}))) == []
    assert decode(update(unreach(b"", family=1))) == [EndOfRib(V4)]


def test_host_bits_are_masked() -> None:
    assert one(update(IBGP, b"\x1a\x0a\x30\x00\xff\x00\x20\x0a\x00\x00\x01")).prefixes == [
        prefix("10.48.0.192/26"),
        prefix("0.0.0.0/0"),
        prefix("10.0.0.1/32"),
    ]


def test_families_that_were_not_negotiated_are_passed_over() -> None:
    only6, only4 = make_peer(families=frozenset({V6})), make_peer(families=frozenset({V4}))
    assert decode(update(IBGP, NLRI, withdrawn=NLRI), only6) == []
    assert decode(update(IBGP + reach(HOP6)), only4) == []
    assert decode(update(IBGP + reach(HOP6, b"\x99", safi=128)), only4) == []
    assert decode(update(unreach(NLRI6)), only4) == []


def test_add_path() -> None:
    peer = make_peer(add_path=BOTH)
    nlri = b"\0\0\0\1" + NLRI + b"\0\0\0\2" + NLRI + b"\0\0\0\1\x18\x0a\x01\x02"
    first, second = decode(update(IBGP, nlri), peer)
    assert isinstance(first, Announce) and isinstance(second, Announce)
    assert (first.path.path_id, first.prefixes) == (1, [prefix("10.48.0.128/26"), prefix("10.1.2.0/24")])
    assert (second.path.path_id, second.prefixes) == (2, [prefix("10.48.0.128/26")])
    assert decode(update(withdrawn=b"\0\0\0\2" + NLRI), peer) == [Withdraw(V4, second.prefixes, 2)]
    six = one(update(ORIGIN + NO_PATH + LOCAL_PREF + reach(HOP6, b"\0\0\0\7" + NLRI6)), peer)
    assert six.path.path_id == 7
    with pytest.raises(ProtocolError):
        decode(update(IBGP, b"\0\0\0\1\x21" + bytes(5)), peer)
    with pytest.raises(ProtocolError):
        decode(update(IBGP, b"\0\0\0"), peer)


@pytest.mark.parametrize("add_path", [False, True])
def test_the_second_update_with_the_same_attributes_says_what_the_first_did(add_path: bool) -> None:
    """It takes the fast road, where the NLRI has no identifiers, and is masked there too."""
    decoder = Decoder(make_peer(add_path=BOTH if add_path else frozenset()))
    stated = []
    for number, address in ((1, b"\x0a\x30\x00\xbf"), (2, b"\x0a\x30\x00\xff"), (1, b"\x0a\x30\x00\x81")):
        identifier = struct.pack("!I", number) if add_path else b""
        events: list[RibEvent] = []
        nlri = identifier + b"\x1a" + address + identifier + b"\x20\x0a\x01\x02\x03"
        assert decoder.decode(update(IBGP, nlri), events) == 2
        [event] = events
        assert isinstance(event, Announce)
        assert event.path.path_id == (number if add_path else 0)
        stated.append(event.prefixes)
    host = prefix("10.1.2.3/32")
    assert stated == [
        [prefix("10.48.0.128/26"), host], [prefix("10.48.0.192/26"), host], [prefix("10.48.0.128/26"), host]
    ]  # fmt: skip
    assert decoder.cache.decoded == 1


# The cache.


def test_one_path_for_a_table_and_one_attribute_set_for_all_next_hops() -> None:
    decoder, events = Decoder(make_peer()), []
    for index in range(1000):
        hop = b"\x40\x03\x04\x0a\x00\x02" + bytes((index % 4,))
        block = ORIGIN + NO_PATH + hop + LOCAL_PREF
        decoder.decode(update(block, b"\x18\x0a" + struct.pack("!H", index)), events)
    assert decoder.cache.decoded == 1
    assert len({id(event.path) for event in events}) == 4
    assert len({id(event.path.attributes) for event in events}) == 1


def test_place_of_next_hop_does_not_matter() -> None:
    decoder, events = Decoder(make_peer()), []
    for block in (
        IBGP,
        NEXT_HOP + ORIGIN + NO_PATH + LOCAL_PREF,
        ORIGIN + NO_PATH + LOCAL_PREF + NEXT_HOP,
    ) * 3:
        decoder.decode(update(block, NLRI), events)
    assert decoder.cache.decoded == 1
    assert len({id(event.path) for event in events}) == 1


def test_octets_that_look_like_next_hop_inside_another_attribute() -> None:
    disguised = b"\xc0\x08\x08\x40\x03\x04\x0a\x40\x03\x04\x0b"
    decoder, events = Decoder(make_peer()), []
    for _ in range(3):
        decoder.decode(update(ORIGIN + NO_PATH + disguised + NEXT_HOP + LOCAL_PREF, NLRI), events)
        decoder.decode(update(ORIGIN + NO_PATH + NEXT_HOP + disguised + LOCAL_PREF, NLRI), events)
    assert {event.path.next_hop for event in events} == {parse_address("10.0.1.30")}
    assert {event.path.attributes.communities for event in events} == {(0x4003040A, 0x4003040B)}


def test_next_hop_cut_off_is_not_read_from_the_nlri() -> None:
    decoder, events = Decoder(make_peer()), []
    block = ORIGIN + NO_PATH + LOCAL_PREF + NEXT_HOP
    decoder.decode(update(block, NLRI), events)
    decoder.decode(update(block[:-2], NLRI), events)
    assert isinstance(events[1], Withdraw)


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attributes_module, "GENERATION", 8)
    decoder, events = Decoder(make_peer()), []

    def announce(community: int) -> None:
        block = IBGP + b"\xc0\x08\x04" + struct.pack("!I", community)
        decoder.decode(update(block, NLRI), events)

    for community in range(100):
        announce(community)
        announce(0)
    assert len(decoder.cache.young) + len(decoder.cache._old) <= 20
    assert decoder.cache.decoded == 100  # what is used is kept
    announce(1)
    assert decoder.cache.decoded == 101  # what is not is dropped


# Errors (RFC 7606). Each with its reason, so that the right check is seen to act.

EXTERNAL = make_peer(asn=65001)
WITHDRAWN: Mapping[str, tuple[bytes, str]] = {
    "no ORIGIN": (PATH + NEXT_HOP, "ORIGIN is missing"),
    "no AS_PATH": (ORIGIN + NEXT_HOP, "AS_PATH is missing"),
    "no NEXT_HOP": (ORIGIN + PATH, "NEXT_HOP is missing"),
    "ORIGIN 3": (b"\x40\x01\x01\x03" + PATH + NEXT_HOP, "malformed ORIGIN"),
    "ORIGIN of 2 octets": (b"\x40\x01\x02\x00\x00" + PATH + NEXT_HOP, "malformed ORIGIN"),
    "ORIGIN optional": (b"\xc0\x01\x01\x00" + PATH + NEXT_HOP, "flags of ORIGIN"),
    "NEXT_HOP flags": (ORIGIN + PATH + b"\xc0" + NEXT_HOP[1:], "flags of NEXT_HOP"),
    "NEXT_HOP of 3": (ORIGIN + PATH + b"\x40\x03\x03\x0a\x00\x01", "malformed NEXT_HOP"),
    "NEXT_HOP of 16": (ORIGIN + PATH + b"\x40\x03\x10" + HOP6, "malformed NEXT_HOP"),
    "NEXT_HOP 0.0.0.0": (ORIGIN + PATH + b"\x40\x03\x04" + bytes(4), "next hop 00:00:00:00 is"),
    "NEXT_HOP 224.0.0.1": (ORIGIN + PATH + b"\x40\x03\x04\xe0\0\0\1", "next hop e0:00:00:01 is"),
    "NEXT_HOP 255.255.255.255": (ORIGIN + PATH + b"\x40\x03\x04" + b"\xff" * 4, "next hop ff:ff:ff:ff is"),
    "NEXT_HOP 127.0.0.1": (ORIGIN + PATH + b"\x40\x03\x04\x7f\0\0\1", "next hop 7f:00:00:01 is"),
    "AS_PATH segment 5": (ORIGIN + b"\x40\x02\x06\x05\x01\0\0\xfd\xe9" + NEXT_HOP, "malformed AS_PATH"),
    "AS_PATH overrun": (ORIGIN + b"\x40\x02\x06\x02\x02\0\0\xfd\xe9" + NEXT_HOP, "malformed AS_PATH"),
    "AS_PATH odd": (ORIGIN + b"\x40\x02\x07\x02\x01\0\0\xfd\xe9\x02" + NEXT_HOP, "malformed AS_PATH"),
    "AS_PATH empty segment": (
        ORIGIN + b"\x40\x02\x08\x02\x01\0\0\xfd\xe9\x02\0" + NEXT_HOP,
        "malformed AS_PATH",
    ),
    "AS 0": (ORIGIN + b"\x40\x02\x0a\x02\x02\0\0\xfd\xe9\0\0\0\0" + NEXT_HOP, "AS 0"),
    "confederation": (ORIGIN + b"\x40\x02\x06\x03\x01\0\0\xfd\xe9" + NEXT_HOP, "confederation"),
    "MED of 3": (EBGP + b"\x80\x04\x03\0\0\1", "malformed MULTI_EXIT_DISC"),
    "COMMUNITIES of 0": (EBGP + b"\xc0\x08\x00", "malformed COMMUNITIES"),
    "COMMUNITIES of 5": (EBGP + b"\xc0\x08\x05" + bytes(5), "malformed COMMUNITIES"),
    "EXTENDED_COMMUNITIES of 7": (EBGP + b"\xc0\x10\x07" + bytes(7), "malformed EXTENDED"),
    "LARGE_COMMUNITIES of 11": (EBGP + b"\xc0\x20\x0b" + bytes(11), "malformed LARGE"),
    "cut off after the code": (EBGP + b"\xc0\x08", "cut off"),
    "cut off in a long length": (EBGP + b"\xd0\x08\x00", "cut off"),
    "longer than the rest": (EBGP + b"\xc0\x08\x08" + bytes(4), "longer than"),
}


@pytest.mark.parametrize("name", WITHDRAWN)
def test_treat_as_withdraw(name: str) -> None:
    block, reason = WITHDRAWN[name]
    decoder = Decoder(EXTERNAL)
    for count in (1, 2):  # again from the cache
        events: list[RibEvent] = []
        decoder.decode(update(block, NLRI), events)
        assert events == [Withdraw(V4, [prefix("10.48.0.128/26")])]
        assert decoder.withdrawn_by_error == count
    assert reason in decoder.cache.last_error


INTERNAL_WITHDRAWN = {
    "no LOCAL_PREF": (ORIGIN + NO_PATH + NEXT_HOP, "LOCAL_PREF is missing"),
    "LOCAL_PREF of 3": (ORIGIN + NO_PATH + NEXT_HOP + b"\x40\x05\x03\0\0\1", "malformed LOCAL_PREF"),
    "ORIGINATOR_ID of 5": (IBGP + b"\x80\x09\x05" + bytes(5), "malformed ORIGINATOR_ID"),
    "CLUSTER_LIST of 0": (IBGP + b"\x80\x0a\x00", "malformed CLUSTER_LIST"),
}


@pytest.mark.parametrize("name", INTERNAL_WITHDRAWN)
def test_treat_as_withdraw_from_inside(name: str) -> None:
    block, reason = INTERNAL_WITHDRAWN[name]
    decoder, events = Decoder(make_peer()), []
    decoder.decode(update(block, NLRI), events)
    assert events == [Withdraw(V4, [prefix("10.48.0.128/26")])]
    assert reason in decoder.cache.last_error


@pytest.mark.parametrize("hop", ["::", "::1", "ff02::1", "::ffff:10.0.0.1"])
def test_ipv6_next_hops_that_are_no_hosts(hop: str) -> None:
    block = ORIGIN + NO_PATH + LOCAL_PREF + reach(parse_address(hop))
    assert decode(update(block)) == [Withdraw(V6, [prefix("fd00:48:0:1::/64")])]


def test_a_bad_next_hop_of_one_family_leaves_the_other() -> None:
    events = decode(update(IBGP + reach(bytes(16)), NLRI))
    assert [type(event) for event in events] == [Announce, Withdraw]


def test_good_again_after_an_error() -> None:
    decoder, events = Decoder(EXTERNAL), []
    decoder.decode(update(ORIGIN + PATH, NLRI), events)
    decoder.decode(update(EBGP, NLRI), events)
    assert isinstance(events[0], Withdraw) and isinstance(events[1], Announce)


DISCARDED: Mapping[str, tuple[bytes, Attributes]] = {
    "LOCAL_PREF": (LOCAL_PREF, Attributes()),
    "malformed LOCAL_PREF": (b"\x40\x05\x01\x00", Attributes()),
    "ORIGINATOR_ID": (b"\x80\x09\x04\1\1\1\1", Attributes()),
    "CLUSTER_LIST": (b"\x80\x0a\x04\1\1\1\1", Attributes()),
    "ATOMIC_AGGREGATE with a value": (b"\x40\x06\x01\x00", Attributes()),
    "AGGREGATOR of 6 octets": (b"\xc0\x07\x06" + bytes(6), Attributes()),
    "AGGREGATOR flags": (b"\x40\x07\x08" + bytes(8), Attributes()),
    "AS4_PATH": (b"\xc0\x11\x06\x02\x01\0\0\0\1", Attributes()),
    "AS4_AGGREGATOR": (b"\xc0\x12\x08" + bytes(8), Attributes()),
    "a second MED": (b"\x80\x04\x04\0\0\0\5\x80\x04\x04\0\0\0\6", Attributes(med=5)),
    "a second unknown": (b"\xc0\x63\x01a\xc0\x63\x01b", Attributes(unknown=((0xE0, 99, b"a"),))),
}


@pytest.mark.parametrize("name", DISCARDED)
def test_attribute_discard(name: str) -> None:
    extra, expected = DISCARDED[name]
    decoder, events = Decoder(EXTERNAL), []
    decoder.decode(update(EBGP + extra, NLRI), events)
    (event,) = events
    assert isinstance(event, Announce)
    path = AsPath.of((SegmentType.AS_SEQUENCE, (65001,)))
    assert event.path.attributes == Attributes(as_path=path, med=expected.med, unknown=expected.unknown)
    assert decoder.cache.discarded == 1


def test_unknown_attributes() -> None:
    event = one(update(IBGP + b"\xd0\x63\x00\x02ab" + b"\x80\x64\x01c" + b"\xe0\x65\x00", NLRI))
    assert event.path.attributes.unknown == ((0xE0, 99, b"ab"), (0xE0, 101, b""))


RESET: Mapping[str, tuple[bytes, tuple[int, int]]] = {
    "withdrawn length": (b"\x00\x09\x00\x00", (3, 1)),
    "no room for the attributes' length": (b"\x00\x02\x00\x00", (3, 1)),
    "attributes' length": (b"\x00\x00\x00\x09\x00", (3, 1)),
    "prefix of 33 bits": (update(IBGP, b"\x21" + bytes(5)), (3, 10)),
    "prefix cut off": (update(IBGP, NLRI[:-1]), (3, 10)),
    "withdrawn prefix of 33 bits": (update(withdrawn=b"\x21" + bytes(5)), (3, 10)),
    "IPv6 prefix of 129 bits": (update(IBGP + reach(HOP6, b"\x81" + bytes(17))), (3, 9)),
    "IPv6 prefix cut off": (update(IBGP + reach(HOP6, NLRI6[:-1])), (3, 9)),
    "withdrawn IPv6 prefix cut off": (update(unreach(NLRI6[:-1])), (3, 9)),
    "MP_REACH of nothing": (update(IBGP + b"\x80\x0e\x00"), (3, 9)),
    "MP_REACH of 4 octets": (update(IBGP + b"\x80\x0e\x04\x00\x02\x01\x10"), (3, 9)),
    "MP_UNREACH of 2 octets": (update(b"\x80\x0f\x02\x00\x02"), (3, 9)),
    "next hop of 24 octets": (update(IBGP + reach(bytes(24))), (3, 9)),
    "next hop of 4 octets": (update(IBGP + reach(bytes(4))), (3, 9)),
    "MP_REACH twice": (update(IBGP + reach(HOP6) * 2), (3, 1)),
    "MP_UNREACH twice": (update(unreach(NLRI6) * 2), (3, 1)),
    "MP_REACH transitive": (update(IBGP + reach(HOP6, flags=0xC0)), (3, 4)),
    "unknown well-known": (update(IBGP + b"\x40\x63\x00", NLRI), (3, 2)),
    "error in what reaches nothing": (update(b"\x40\x01\x01\x09"), (3, 1)),
}


@pytest.mark.parametrize("name", RESET)
def test_session_reset(name: str) -> None:
    body, code = RESET[name]
    events: list[RibEvent] = []
    decoder = Decoder(make_peer())
    with pytest.raises(ProtocolError) as caught:
        decoder.decode(body, events)
    assert (caught.value.notification.code, caught.value.notification.subcode) == code
    assert events == []


def test_prefix_errors_on_the_fast_road() -> None:
    decoder, events = Decoder(make_peer()), []
    decoder.decode(update(IBGP, NLRI), events)
    with pytest.raises(ProtocolError):
        decoder.decode(update(IBGP, b"\x21" + bytes(5)), events)
    decoder.decode(update(reach(HOP6) + ORIGIN + NO_PATH + LOCAL_PREF), events)
    with pytest.raises(ProtocolError):
        decoder.decode(update(reach(HOP6, b"\x81" + bytes(17)) + ORIGIN + NO_PATH + LOCAL_PREF), events)


def test_four_octet_path_is_merged_on_a_two_octet_session() -> None:
    peer = make_peer(asn=65001, asn4=False)
    path = b"\x40\x02\x08\x02\x03" + struct.pack("!HHH", 65001, 23456, 23456)
    as4 = b"\xc0\x11\x0a\x02\x02" + struct.pack("!II", 4200000001, 4200000002)
    event = one(update(ORIGIN + path + NEXT_HOP + as4, NLRI), peer)
    assert event.path.attributes.as_path.asns() == (65001, 4200000001, 4200000002)
    malformed = b"\xc0\x11\x03\x02\x02\x00"
    event = one(update(ORIGIN + path + NEXT_HOP + malformed, NLRI), peer)
    assert event.path.attributes.as_path.asns() == (65001, 23456, 23456)


# What we announce.


def _decode_all(messages: Iterable[bytes], peer: Peer) -> list[RibEvent]:
    framer, decoder, events = Framer(), Decoder(peer), []
    framer.feed(b"".join(messages))
    while (taken := framer.take()) is not None:
        decoder.decode(taken[1], events)
    assert decoder.withdrawn_by_error == decoder.cache.discarded == 0
    return events


TABLES = {
    V4: [make_prefix(struct.pack("!I", 10 << 24 | i << 6), 26) for i in range(2000)],
    V6: [make_prefix(struct.pack("!QQ", 0xFD00 << 48 | i, 0), 64) for i in range(2000)],
}
HOPS = {V4: parse_address("10.0.1.31"), V6: parse_address("fd00::31")}


@pytest.mark.parametrize("asn4", [True, False])
@pytest.mark.parametrize("family", list(Family))
def test_announcements_there_and_back(family: Family, asn4: bool) -> None:
    attributes = Attributes(
        as_path=AsPath.of((SegmentType.AS_SEQUENCE, (4200000001, 2))), local_pref=100, communities=(1, 2, 3)
    )
    messages = encode_announcements(family, attributes, HOPS[family], TABLES[family], asn4)
    assert all(len(m) <= 4096 for m in messages)
    assert all(len(m) > 4080 for m in messages[:-1])
    assert list(message_types(b"".join(messages))) == [2] * len(messages)
    events = _decode_all(messages, make_peer(asn4=asn4))
    assert [p for event in events if isinstance(event, Announce) for p in event.prefixes] == TABLES[family]
    assert {id(event.path) for event in events if isinstance(event, Announce)} == {id(events[0].path)}
    assert events[0].path.attributes == attributes
    assert events[0].path.next_hop == HOPS[family]


@pytest.mark.parametrize("family", list(Family))
def test_withdrawals_there_and_back(family: Family) -> None:
    messages = encode_withdrawals(family, TABLES[family])
    assert all(4080 < len(m) <= 4096 for m in messages[:-1])
    events = _decode_all(messages, make_peer())
    assert [p for event in events if isinstance(event, Withdraw) for p in event.prefixes] == TABLES[family]


@pytest.mark.parametrize("family", list(Family))
def test_nothing_to_say_is_no_message(family: Family) -> None:
    assert encode_announcements(family, Attributes(), HOPS[family], [], True) == []
    assert encode_withdrawals(family, []) == []


def test_mp_reach_is_the_first_attribute() -> None:
    (octets,) = encode_announcements(V6, Attributes(), HOPS[V6], TABLES[V6][:1], True)
    assert octets[23:25] == b"\x90\x0e"


def test_attributes_that_fill_a_message() -> None:
    attributes = Attributes(communities=tuple(range(1100)))
    for family in Family:
        with pytest.raises(ValueError, match="no room"):
            encode_announcements(family, attributes, HOPS[family], TABLES[family], True)
    with pytest.raises(ValueError, match="next hop of 4 octets"):
        encode_announcements(V6, Attributes(), HOPS[V4], TABLES[V6], True)


def test_ipv6_next_hops_of_ipv4() -> None:
    """RFC 8950 §3: in MP_REACH_NLRI, with 16 or 32 octets, where both sides announced it."""
    peer = replace(make_peer(), extended_next_hop=frozenset({V4}))
    for link_local, length in ((None, 16), (LINK_LOCAL, 32), (HOP6, 16)):
        (octets,) = encode_announcements(
            V4, Attributes(local_pref=1), HOP6, [prefix("10.48.0.128/26")], True, link_local=link_local
        )
        assert octets[27:32] == bytes((0, 1, 1, length)) + HOP6[:1]
        events: list[RibEvent] = []
        Decoder(peer).decode(octets[19:], events)
        (event,) = events
        assert isinstance(event, Announce) and event.family is V4
        assert event.prefixes == [prefix("10.48.0.128/26")]
        assert event.path.next_hop == HOP6
        assert event.path.link_local == (LINK_LOCAL if length == 32 else None)
        with pytest.raises(ProtocolError) as caught:
            Decoder(make_peer()).decode(octets[19:], [])
        assert caught.value.notification.code == 3
    events = []
    Decoder(peer).decode(update(reach(NEXT_HOP[3:], NLRI, family=1) + ORIGIN + NO_PATH + LOCAL_PREF), events)
    (event,) = events
    assert isinstance(event, Announce) and event.path.next_hop == NEXT_HOP[3:], "and an IPv4 one as before"


def test_a_link_local_next_hop_alone() -> None:
    (octets,) = encode_announcements(
        V6, Attributes(local_pref=1), LINK_LOCAL, [prefix("fd48::/122")], True, link_local=LINK_LOCAL
    )
    events: list[RibEvent] = []
    Decoder(make_peer()).decode(octets[19:], events)
    (event,) = events
    assert isinstance(event, Announce)
    assert event.path.next_hop == event.path.link_local == LINK_LOCAL


# What a peer says is bounded in octets and in time, however long its attributes are.


def long_path(number: int, length: int = 765) -> bytes:
    """An AS_PATH of so many numbers, another for each ``number``."""
    path = AsPath.of((SegmentType.AS_SEQUENCE, (65001, *range(number, number + length - 1))))
    return b"\x50\x02" + struct.pack("!H", len(path)) + path


def test_long_attributes_are_kept_packed_and_forgotten_by_their_octets() -> None:
    decoder = Decoder(EXTERNAL)
    events: list[RibEvent] = []
    tracemalloc.start()
    try:
        for number in range(1, 2001):
            decoder.decode(update(ORIGIN + long_path(number * 1000) + NEXT_HOP, NLRI), events)
            del events[:-1]
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert decoder.cache.decoded == 2000
    assert held < 12 << 20, "three kilobytes each, two copies, two generations of a megabyte"
    assert len(events[-1].path.attributes.as_path.asns()) == 765  # type: ignore[union-attr]


def test_malformed_attribute_sets_are_forgotten_too() -> None:
    decoder = Decoder(EXTERNAL)
    for number in range(3000):
        bad = b"\xc0\x08\x00" + b"\xd0\x63" + struct.pack("!HI", 3004, number) + bytes(3000)
        decoder.decode(update(EBGP + bad, NLRI), [])
    assert decoder.withdrawn_by_error == 3000
    assert sum(map(len, (*decoder.cache.young, *decoder.cache._old))) < 3 << 20


def test_the_time_of_a_set_follows_its_size() -> None:
    decoder = Decoder(EXTERNAL)
    decoder.decode(update(ORIGIN + long_path(1000, 2) + NEXT_HOP, NLRI), [])
    short = decoder.cache.spent
    decoder.decode(update(ORIGIN + long_path(1000) + NEXT_HOP, NLRI), [])
    assert decoder.cache.spent - short > 5 * short
    known = decoder.cache.spent
    decoder.decode(update(ORIGIN + long_path(1000) + NEXT_HOP, NLRI), [])
    assert decoder.cache.spent == known


@pytest.mark.parametrize(
    ("aggregator", "expected"),
    [
        (b"", (65001, 4200000001)),
        (struct.pack("!HI", 23456, 1), (65001, 4200000001)),
        (struct.pack("!HI", 7, 1), (65001, 23456)),
    ],
)
def test_an_aggregator_of_two_octets_outdates_as4_path(aggregator: bytes, expected: tuple[int, ...]) -> None:
    """RFC 6793 §4.2.3."""
    path = b"\x40\x02\x06\x02\x02" + struct.pack("!HH", 65001, 23456)
    as4 = b"\xc0\x11\x06\x02\x01" + struct.pack("!I", 4200000001)
    if aggregator:
        as4 = b"\xc0\x07\x06" + aggregator + as4 + b"\xc0\x12\x08" + struct.pack("!II", 4200000001, 1)
    event = one(update(ORIGIN + path + NEXT_HOP + as4, NLRI), make_peer(asn=65001, asn4=False))
    assert event.path.attributes.as_path.asns() == expected
