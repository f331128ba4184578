"""The UPDATE road against ExaBGP's own parser, against itself, and against noise."""

from __future__ import annotations

import random
import struct

import pytest
from exabgp.bgp.message import Open, Update
from exabgp.bgp.message.action import Action
from exabgp.bgp.message.direction import Direction
from exabgp.bgp.message.open.capability import Negotiated
from hypothesis import given
from hypothesis import strategies as st

from bgpd.bgp.wire.exa.attributes import Codec
from bgpd.bgp.wire.exa.messages import ProtocolError
from bgpd.bgp.wire.exa.open import Capabilities, OpenMessage, encode_open
from bgpd.bgp.wire.update import Decoder, Framer, encode_announcements, encode_withdrawals, message
from bgpd.model.peer import Peer, PeerConfig, PeerId, PeerKind
from bgpd.model.prefix import Address, Family, Prefix, make_prefix, parse_address
from bgpd.model.route import Announce, AsPath, Attributes, Origin, RibEvent, SegmentType, Withdraw

V4, V6 = Family.IPV4, Family.IPV6
BOTH = frozenset(Family)


def make_peer(
    asn4: bool = True, add_path: frozenset[Family] = frozenset(), *, extended: bool = False
) -> Peer:
    address = parse_address("10.0.0.2")
    config = PeerConfig(
        PeerId("p"), PeerKind.MESH, "t", address, 179, 65000, 65000, address, None, {}, BOTH, False
    )
    over_ipv6 = frozenset({V4}) if extended else frozenset()
    return Peer(config, address, address, BOTH, asn4, add_path, extended_next_hop=over_ipv6)


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
    as_path=st.lists(segments, max_size=3).map(lambda found: AsPath.of(*found)),
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
        sent = _with_path(sent, AsPath.of((SegmentType.AS_SEQUENCE, sent.as_path.asns())))
    messages = encode_announcements(family, sent, hop, table, asn4)
    assert all(len(octets) <= 4096 for octets in messages)
    events = decode(b"".join(messages), make_peer(asn4))
    assert all(isinstance(event, Announce) and event.family is family for event in events)
    assert [prefix for event in events for prefix in event.prefixes] == table
    assert {(event.path.attributes, event.path.next_hop) for event in events} == {(sent, hop)}
    gone = decode(b"".join(encode_withdrawals(family, table)), make_peer(asn4))
    assert [prefix for event in gone if isinstance(event, Withdraw) for prefix in event.prefixes] == table


def _with_path(sent: Attributes, path: AsPath) -> Attributes:
    fields = {name: getattr(sent, name) for name in Attributes.__match_args__ if name != "as_path"}
    return Attributes(as_path=path, **fields)


def agreed(add_path: frozenset[Family], extended: bool) -> Negotiated:
    """A session of ExaBGP's with both families, made as it makes one: of two OPENs."""

    def opened(direction: int) -> Open:
        capabilities = Capabilities(
            families=BOTH,
            asn4=65000,
            add_path=dict.fromkeys(sorted(add_path), direction),
            extended_next_hop=frozenset({V4}) if extended else frozenset(),
        )
        octets = encode_open(OpenMessage(65000, 90, parse_address("10.0.0.1"), capabilities))
        return Open.unpack_message(octets[19:], Direction.IN, None)

    negotiated = Negotiated({"capability": {"aigp": False}})
    negotiated.sent(opened(1))
    negotiated.received(opened(2))
    return negotiated


Nlri = tuple[int, Prefix]


def nlri(family: Family) -> st.SearchStrategy[list[Nlri]]:
    return st.lists(st.tuples(u32, prefixes(family)), max_size=40)


def packed(found: list[Nlri], with_ids: bool) -> bytes:
    return b"".join((path_id.to_bytes(4, "big") if with_ids else b"") + prefix for path_id, prefix in found)


def mp(code: int, family: Family, value: bytes) -> bytes:
    octets = struct.pack("!HB", family, 1) + value
    return struct.pack("!BBH", 0x90, code, len(octets)) + octets


@given(
    attributes,
    st.sampled_from([frozenset(), frozenset({V4}), frozenset({V6}), BOTH]),
    st.booleans(),
    nlri(V4),
    nlri(V4),
    st.none() | st.tuples(st.sampled_from([V4, V6]), nlri(V4), nlri(V6), ipv6, st.booleans()),
    ipv4,
)
def test_the_splitter_finds_what_exabgp_finds(
    sent: Attributes,
    add_path: frozenset[Family],
    extended: bool,
    announced: list[Nlri],
    withdrawn: list[Nlri],
    multiprotocol: tuple[Family, list[Nlri], list[Nlri], Address, bool] | None,
    hop: Address,
) -> None:
    """With path identifiers (RFC 7911) or without, in plain NLRI and MP_*, IPv4 with IPv6 next hops too (RFC 8950)."""
    block = b"".join(octets for _, octets in Codec(asn4=True).encode(sent)) + b"\x40\x03\x04" + hop
    mp_hop = b""
    if multiprotocol is not None:
        family, of_ipv4, of_ipv6, mp_hop, link_local = multiprotocol
        found = of_ipv4 if family is V4 else of_ipv6
        if family is V4 and not extended:
            mp_hop = hop
        reach = mp_hop + (parse_address("fe80::1") if link_local and len(mp_hop) == 16 else b"")
        if found:
            octets = packed(found, family in add_path)
            block += mp(14, family, bytes((len(reach),)) + reach + b"\0" + octets)
            block += mp(15, family, packed(found[:3], family in add_path))
    gone, new = packed(withdrawn, V4 in add_path), packed(announced, V4 in add_path)
    body = struct.pack("!H", len(gone)) + gone + struct.pack("!H", len(block)) + block + new
    negotiated = agreed(add_path, extended)
    theirs = Update.unpack_message(body, Direction.IN, negotiated)
    expected: set[object] = set()
    for each in theirs.nlris:
        announces = each.action == Action.ANNOUNCE
        octets = bytes(each.pack_nlri(agreed_to_send(negotiated)))
        next_hop = bytes(each.nexthop.ton()) if announces else b""
        if next_hop[:2] != b"\xfe\x80":  # it gives each NLRI twice where there is a second next hop
            expected.add((announces, int(each.afi), octets, next_hop))
    events: list[RibEvent] = []
    Decoder(make_peer(add_path=add_path, extended=extended)).decode(body, events)
    ours: set[object] = set()
    for event in events:
        assert isinstance(event, Announce | Withdraw)
        announces = isinstance(event, Announce)
        path_id = event.path.path_id if isinstance(event, Announce) else event.path_id
        next_hop = event.path.next_hop if isinstance(event, Announce) else b""
        if isinstance(event, Announce):
            assert event.path.attributes == sent
        for prefix in event.prefixes:
            octets = packed([(path_id, prefix)], event.family in add_path)
            ours.add((announces, int(event.family), octets, bytes(next_hop)))
    assert ours == expected


def agreed_to_send(negotiated: Negotiated) -> Negotiated:
    """The same session for packing: ExaBGP then asks what it may send, which here is what it was sent."""
    negotiated.addpath._send = negotiated.addpath._receive
    return negotiated


@given(
    attributes,
    st.sampled_from(list(Family)),
    st.booleans(),
    st.sampled_from(["own", "ipv6", "both"]),
    st.lists(st.tuples(u32, prefixes(V4)), min_size=1, max_size=900),
)
def test_path_identifiers_and_ipv6_next_hops_there_and_back(
    sent: Attributes, family: Family, with_ids: bool, kind: str, found: list[Nlri]
) -> None:
    link_local = parse_address("fe80::1") if kind == "both" else None
    hop = parse_address("10.0.0.1" if family is V4 and kind == "own" else "fd00::1")
    table = [Prefix(packed([each], with_ids)) for each in found]
    messages = encode_announcements(family, sent, hop, table, True, link_local=link_local)
    assert all(len(octets) <= 4096 for octets in messages)
    peer = make_peer(add_path=BOTH if with_ids else frozenset(), extended=True)
    events = decode(b"".join(messages), peer)
    assert {(e.path.attributes, e.path.next_hop, e.path.link_local) for e in events} == {
        (sent, hop, link_local)
    }
    advertised = [(e.path.path_id if with_ids else 0, prefix) for e in events for prefix in e.prefixes]
    assert sorted(advertised) == sorted((path_id if with_ids else 0, prefix) for path_id, prefix in found)
    gone = decode(b"".join(encode_withdrawals(family, table)), peer)
    assert sorted((e.path_id, prefix) for e in gone for prefix in e.prefixes) == sorted(advertised)


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
        as_path=AsPath.of((SegmentType.AS_SEQUENCE, (1, 2)), (SegmentType.AS_SET, (3,))),
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
