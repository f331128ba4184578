"""Which BFD sessions the peers ask for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bgpd.model.bfd import BfdOptions, BfdPlace, BfdTiming
from bgpd.model.peer import PeerConfig, PeerId
from bgpd.model.prefix import parse_address
from bgpd.rules.liveness import bfd_sessions
from tests.unit.builders import peer_config

ADDRESS = parse_address("192.0.2.1")
TOR = replace(peer_config("192.0.2.1"), bfd=BfdOptions())
LOCAL = replace(peer_config("fe80::1"), interface="eth1", bfd=BfdOptions())


def near(address: bytes) -> bool:
    return address == ADDRESS


def test_no_bfd_no_session() -> None:
    assert bfd_sessions([replace(TOR, bfd=None)], near, {}) == {}


def test_a_peer_on_a_link_is_single_hop_and_its_packets_have_crossed_no_router() -> None:
    ((place, wanted),) = bfd_sessions([TOR], near, {}).items()
    assert place == BfdPlace(ADDRESS, None)
    assert (wanted.multihop, wanted.min_ttl, wanted.peers) == (False, 255, (TOR.id,))


@pytest.mark.parametrize(
    ("peer", "multihop", "min_ttl"),
    [
        (replace(TOR, address=parse_address("198.51.100.1")), True, 0),
        (replace(TOR, address=parse_address("198.51.100.1"), ttl_security=2), True, 254),
        (replace(TOR, address=parse_address("198.51.100.1"), ttl_security=1), False, 255),
        (replace(TOR, bfd=BfdOptions(multihop=True)), True, 0),
        (replace(TOR, address=parse_address("198.51.100.1"), bfd=BfdOptions(multihop=False)), False, 255),
        (LOCAL, False, 255),
    ],
)
def test_how_many_hops(peer: PeerConfig, multihop: bool, min_ttl: int) -> None:
    ((_, wanted),) = bfd_sessions([peer], near, {}).items()
    assert (wanted.multihop, wanted.min_ttl) == (multihop, min_ttl)


def test_the_same_address_on_two_links_is_two_peers() -> None:
    found = bfd_sessions([LOCAL, replace(LOCAL, interface="eth2")], near, {})
    assert {place.interface for place in found} == {"eth1", "eth2"}


def test_peers_of_one_address_share_a_session_with_the_shortest_intervals() -> None:
    other = replace(
        TOR,
        id=PeerId("Global_192_0_2_1_port_1179"),
        port=1179,
        bfd=BfdOptions(BfdTiming(100_000, 900_000, 5)),
        local_address=parse_address("192.0.2.9"),
    )
    ((_, wanted),) = bfd_sessions([TOR, other], near, {}).items()
    assert wanted.timing == BfdTiming(100_000, 300_000, 3)
    assert wanted.peers == (TOR.id, other.id)
    assert wanted.local_address == parse_address("192.0.2.9")


def test_a_link_that_goes_down_takes_its_subnet_along_and_the_session_has_to_fail() -> None:
    before = bfd_sessions([TOR], near, {})
    assert bfd_sessions([TOR], lambda address: False, before) == before


def test_a_link_that_comes_later_makes_it_single_hop() -> None:
    before = bfd_sessions([TOR], lambda address: False, {})
    assert before[BfdPlace(ADDRESS, None)].multihop
    assert not bfd_sessions([TOR], near, before)[BfdPlace(ADDRESS, None)].multihop
