"""The UPDATE road against ExaBGP's own parser, against itself, and against noise."""

from __future__ import annotations

import random
import struct

import pytest
from exabgp.bgp.message import Update
from exabgp.bgp.message.action import Action
from exabgp.bgp.message.direction import Direction
from exabgp.bgp.message.open.capability import Negotiated
from hypothesis import given
from hypothesis import strategies as st

from bgpd.bgp.exa import Codec, ProtocolError
from bgpd.bgp.wire import Decoder, Framer, encode_announcements, encode_withdrawals, message
from bgpd.model.peer import Peer, PeerConfig, PeerId, PeerKind
from bgpd.model.prefix import Address, Family, Prefix, make_prefix, parse_address
from bgpd.model.route import Announce, Attributes, Origin, RibEvent, SegmentType, Withdraw

V4, V6 = Family.IPV4, Family.IPV6
BOTH = frozenset(Family)


def make_peer(asn4: bool = True, add_path: frozenset[Family] = frozenset()) -> Peer:
    address = parse_address("10.0.0.2")
    config = PeerConfig(
        PeerId("p"), PeerKind.MESH, "t", address, 179, 65000, 65000, address, None, {}, BOTH, False
    )
    return Peer(config, address, address, BOTH, asn4, add_path)


asns = st.integers(1, 2**32 - 1)
u32 = st.integers(0, 2**32 - 1)
ipv4 = st.tuples(st.integers(1, 126), st.binary(min_size=3, max_size=3)).map(
    lambda p: Address(bytes((p[0],)) + p[1])
)
ipv6 = st.binary(min_size=14, max_size=14).map(lambda tail: Address(b"\xfd\x00" + tail))
segments = st.tuples(st.sampled_from(list(SegmentType)), st.lists(asns, min_size=1, max_size=5).map(tuple))
attributes = st.builds(
    Attributes,
    origin=st.sampled_from(list(Origin)),
    as_path=st.lists(segments, max_size=3).map(tuple),
    med=st.none() | u32,
    local_pref=u32,
    atomic_aggregate=st.booleans(),
    aggregator=st.none() | st.tuples(asns, ipv4),
    communities=st.lists(u32, max_size=4).map(tuple),
    extended_communities=st.lists(st.binary(min_size=8, max_size=8), max_size=3).map(tuple),
    large_communities=st.lists(st.tuples(u32, u32, u32), max_size=3).map(tuple),
    originator_id=st.none() | ipv4,
    cluster_list=st.lists(ipv4, max_size=3).map(tuple),
    unknown=st.lists(
        st.tuples(st.just(0xE0), st.integers(200, 254), st.binary(max_size=300)), max_size=2
    ).map(lambda found: tuple(sorted({code: (flag, code, value) for flag, code, value in found}.values()))),
)


def prefixes(family: Family) -> st.SearchStrategy[Prefix]:
    return st.builds(
        make_prefix, st.binary(min_size=family.octets, max_size=family.octets), st.integers(0, family.bits)
    )


def decode(octets: bytes, peer: Peer) -> list[RibEvent]:
    framer, decoder, events = Framer(), Decoder(peer), []
    framer.feed(octets)
    while (taken := framer.take()) is not None:
        decoder.decode(taken[1], events)
    return events


@given(attributes, ipv4, st.lists(prefixes(V4), min_size=1, max_size=2000), st.booleans())
def test_ipv4_there_and_back(sent: Attributes, hop: Address, table: list[Prefix], asn4: bool) -> None:
    _there_and_back(V4, sent, hop, table, asn4)


@given(attributes, ipv6, st.lists(prefixes(V6), min_size=1, max_size=1000), st.booleans())
def test_ipv6_there_and_back(sent: Attributes, hop: Address, table: list[Prefix], asn4: bool) -> None:
    _there_and_back(V6, sent, hop, table, asn4)


def _there_and_back(family: Family, sent: Attributes, hop: Address, table: list[Prefix], asn4: bool) -> None:
    if not asn4:  # AS4_PATH leaves confederations and sequences cut anew; the plain shape survives
        first = tuple(asn for _, numbers in sent.as_path for asn in numbers)
        path = ((SegmentType.AS_SEQUENCE, first),) if first else ()
        sent = _with_path(sent, path)
    messages = encode_announcements(family, sent, hop, table, asn4)
    assert all(len(octets) <= 4096 for octets in messages)
    events = decode(b"".join(messages), make_peer(asn4))
    assert all(isinstance(event, Announce) and event.family is family for event in events)
    assert [prefix for event in events for prefix in event.prefixes] == table
    assert {(event.path.attributes, event.path.next_hop) for event in events} == {(sent, hop)}
    gone = decode(b"".join(encode_withdrawals(family, table)), make_peer(asn4))
    assert [prefix for event in gone if isinstance(event, Withdraw) for prefix in event.prefixes] == table


def _with_path(sent: Attributes, path: tuple[tuple[SegmentType, tuple[int, ...]], ...]) -> Attributes:
    fields = {name: getattr(sent, name) for name in Attributes.__match_args__ if name != "as_path"}
    return Attributes(as_path=path, **fields)


@given(attributes, st.lists(prefixes(V4), max_size=40), st.lists(prefixes(V4), max_size=40), ipv4)
def test_the_splitter_finds_what_exabgp_finds(
    sent: Attributes, announced: list[Prefix], withdrawn: list[Prefix], hop: Address
) -> None:
    block = b"".join(octets for _, octets in Codec(asn4=True).encode(sent)) + b"\x40\x03\x04" + hop
    gone, new = b"".join(withdrawn), b"".join(announced)
    body = struct.pack("!H", len(gone)) + gone + struct.pack("!H", len(block)) + block + new
    negotiated = Negotiated({"capability": {"aigp": False}})
    negotiated.asn4 = True
    theirs = Update.unpack_message(body, Direction.IN, negotiated)
    expected = {
        action: sorted(bytes(nlri.pack_nlri(negotiated)) for nlri in theirs.nlris if nlri.action == action)
        for action in (Action.ANNOUNCE, Action.WITHDRAW)
    }
    events: list[RibEvent] = []
    Decoder(make_peer()).decode(body, events)
    found = {Action.ANNOUNCE: [], Action.WITHDRAW: []}
    for event in events:
        assert isinstance(event, Announce | Withdraw)
        found[Action.ANNOUNCE if isinstance(event, Announce) else Action.WITHDRAW] += event.prefixes
        if isinstance(event, Announce):
            assert event.path.next_hop == hop
            assert event.path.attributes == sent
    assert {action: sorted(octets) for action, octets in found.items()} == expected


@given(st.binary(max_size=200), st.binary(max_size=100), st.binary(max_size=100), st.booleans())
def test_noise_never_crashes(block: bytes, nlri: bytes, withdrawn: bytes, add_path: bool) -> None:
    body = struct.pack("!H", len(withdrawn)) + withdrawn + struct.pack("!H", len(block)) + block + nlri
    decoder = Decoder(make_peer(add_path=BOTH if add_path else frozenset()))
    try:
        decoder.decode(body, [])
    except ProtocolError as error:
        assert error.notification.code == 3


@given(st.binary(max_size=100))
def test_noise_is_no_stream(octets: bytes) -> None:
    framer = Framer()
    try:
        framer.feed(octets)
        while framer.take() is not None:
            pass
    except ProtocolError as error:
        assert error.notification.code == 1


@pytest.mark.parametrize("seed", range(4))
def test_mutated_updates_never_crash_and_the_fast_road_agrees_with_the_slow(seed: int) -> None:
    """One decoder remembers what it saw, one is new for each UPDATE: they must say the same."""
    rng = random.Random(seed)
    rich = Attributes(
        as_path=((SegmentType.AS_SEQUENCE, (1, 2)), (SegmentType.AS_SET, (3,))),
        med=1,
        local_pref=100,
        aggregator=(1, parse_address("1.1.1.1")),
        communities=(0x4003040A, 2),
        extended_communities=(b"12345678",),
        large_communities=((1, 2, 3),),
        originator_id=parse_address("1.1.1.1"),
        cluster_list=(parse_address("2.2.2.2"),),
        unknown=((0xE0, 99, b"\x40\x03\x04"),),
    )
    tables = {V4: [make_prefix(bytes((10, i, 0, 0)), 26) for i in range(3)]}
    tables[V6] = [make_prefix(bytes((0xFD, 0, i)) + bytes(13), 64) for i in range(3)]
    hops = {V4: parse_address("10.0.0.1"), V6: parse_address("fd00::1")}
    seeds = [encode_announcements(f, rich, hops[f], tables[f], True)[0][19:] for f in Family]
    seeds += [
        encode_announcements(f, Attributes(local_pref=1), hops[f], tables[f], True)[0][19:] for f in Family
    ]
    seeds += [encode_withdrawals(f, tables[f])[0][19:] for f in Family]
    peer = make_peer(asn4=seed % 2 == 0)
    lasting = Decoder(peer)
    for body in seeds:
        lasting.decode(body, [])
    for _ in range(5000):
        body = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(body))
            kind = rng.random()
            if kind < 0.7:
                body[at] = rng.choice((rng.randrange(256), body[at] ^ 1 << rng.randrange(8), 3, 14, 15, 0x40))
            elif kind < 0.85:
                del body[at]
            else:
                body.insert(at, rng.randrange(256))
        if len(body) >= 4:
            assert _outcome(lasting, bytes(body)) == _outcome(Decoder(peer), bytes(body))


def _outcome(decoder: Decoder, body: bytes) -> object:
    events: list[RibEvent] = []
    try:
        decoder.decode(body, events)
    except ProtocolError as error:
        return str(error.notification)
    return events


def test_a_message_of_every_length_is_framed() -> None:
    for length in (0, 1, 4077):
        framer = Framer()
        framer.feed(message(2, bytes(4 + length)))
        if length <= 4073:
            assert framer.take() == (2, bytes(4 + length))
        else:
            with pytest.raises(ProtocolError):
                framer.take()
