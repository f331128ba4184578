"""Sessions depend on what the resources say, not on their order; and the two ends of a session agree about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import TypeVar

from hypothesis import given
from hypothesis import strategies as st

from bgpd.config.config import Config
from bgpd.config.reading import parse
from bgpd.model.peer import PeerConfig
from bgpd.model.prefix import parse_address
from bgpd.model.resources import (
    BGPConfiguration,
    BGPFilter,
    BGPPeer,
    LocalWorkload,
    NextHopMode,
    Node,
    Secret,
    SecretKey,
    Snapshot,
)
from bgpd.rules.peering import peers

V = TypeVar("V")
NAMES = ["a", "b", "c", "d"]
CONFIGS: dict[str, Config] = {
    name: parse(f"{{node: {name}, bgp: {{listen_ranges: [{{prefix: 10.0.0.0/8, asns: [1]}}]}}}}", "test")
    for name in NAMES
}
CLUSTER_IDS = st.sampled_from([None, None, parse_address("1.0.0.1"), parse_address("1.0.0.2")])
SELECTORS = st.sampled_from(["all()", "all()", "has(x)", "!has(x)", "y == '1'", "y ==", "name in {'a', 'c'}"])
LINK_LOCAL = parse_address("fe80::1")
ADDRESSES = st.sampled_from(
    [parse_address(text) for text in ("10.0.0.9", "10.0.0.10", "fd00::1", "fd00::10", "192.0.2.1", "fe80::1")]
)
ASNS = st.sampled_from([None, 64512, 65001])


@st.composite
def nodes(draw: st.DrawFn) -> list[Node]:
    found = []
    for number, name in enumerate(NAMES):
        labels = draw(st.dictionaries(st.sampled_from(["x", "y"]), st.sampled_from(["0", "1"])))
        four, six = draw(st.booleans()), draw(st.booleans())
        found.append(
            Node(
                name,
                labels | {"name": name},
                parse_address(f"10.0.0.{8 + number}") if four else None,
                parse_address(f"fd00::{number + 1}") if six else None,
                asn=draw(ASNS),
                route_reflector_cluster_id=draw(CLUSTER_IDS),
            )
        )
    return found


@st.composite
def bgp_peers(draw: st.DrawFn, name: str = "p") -> BGPPeer:
    """Most of them with fields that fit together."""
    near = draw(st.sampled_from(["", "", "node", "selector"]))
    far = draw(st.sampled_from(["selector", "selector", "ip", "workload", "anything"]))
    wild = far == "anything"
    address = draw(ADDRESSES) if far == "ip" or (wild and draw(st.booleans())) else None
    return BGPPeer(
        name,
        node=draw(st.sampled_from(NAMES)) if near == "node" else None,
        node_selector=draw(SELECTORS) if near == "selector" or wild else None,
        peer_ip=address,
        peer_interface="eth0" if address == LINK_LOCAL or (wild and draw(st.booleans())) else None,
        peer_port=draw(st.sampled_from([None, None, 179, 1179])),
        peer_selector=draw(SELECTORS) if far == "selector" or wild else None,
        local_workload_selector="all()" if far == "workload" else None,
        as_number=draw(ASNS) if far == "ip" or wild else 65100 if far == "workload" else None,
        reverse=draw(st.booleans()),
        local_as_number=draw(ASNS),
        next_hop_mode=draw(st.sampled_from(NextHopMode)),
        password=draw(st.sampled_from([None, SecretKey("s", "k"), SecretKey("s", "none")])),
        filters=draw(st.sampled_from([(), ("f",), ("none",)])),
    )


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    resources = [draw(bgp_peers(f"p{number}")) for number in range(draw(st.integers(0, 5)))]
    addresses = [parse_address(text) for text in ("10.48.0.1", "10.48.0.2", "10.0.0.9")]
    workloads = (
        draw(st.lists(st.tuples(st.sampled_from(resources), st.sampled_from(addresses)))) if resources else []
    )
    cluster = draw(nodes())
    if draw(st.booleans()):  # somebody has another's address
        cluster[-1] = replace(cluster[-1], ipv4=cluster[0].ipv4)
    configuration = BGPConfiguration(node_to_node_mesh_enabled=draw(st.booleans()), as_number=draw(ASNS))
    return Snapshot(
        nodes={node.name: node for node in cluster},
        peers={peer.name: peer for peer in resources},
        bgp_configurations={"default": configuration},
        filters={"f": BGPFilter("f")},
        secrets={"s": Secret("s", "kube-system", {"k": b"secret"})},
        local_workloads=tuple(LocalWorkload("cali", peer.name, address) for peer, address in workloads),
    )


@given(snapshots(), st.sampled_from(NAMES), st.randoms(use_true_random=False))
def test_order_does_not_matter(snapshot: Snapshot, own: str, random: Random) -> None:
    def shuffled(mapping: Mapping[str, V]) -> dict[str, V]:
        items = list(mapping.items())
        random.shuffle(items)
        return dict(items)

    workloads = list(snapshot.local_workloads)
    random.shuffle(workloads)
    other = replace(
        snapshot,
        nodes=shuffled(snapshot.nodes),
        peers=shuffled(snapshot.peers),
        local_workloads=tuple(workloads),
    )
    before, after = peers(snapshot, own, CONFIGS[own]), peers(other, own, CONFIGS[own])
    assert before == after
    assert list(before.peers) == list(after.peers)


@given(snapshots(), st.sampled_from(NAMES))
def test_every_session_is_whole(snapshot: Snapshot, own: str) -> None:
    """One name and one place each, a policy each, never with ourselves, the protection that was asked for."""
    found = peers(snapshot, own, CONFIGS[own])
    places = {(peer.address, peer.interface, peer.port) for peer in found.peers.values()}
    assert len(places) == len(found.peers) == len(found.policies)
    node = snapshot.nodes[own]
    for name, peer in found.peers.items():
        assert peer.id == name
        assert peer.address not in (node.ipv4, node.ipv6)
        if peer.source.startswith("BGPPeer ") and peer.kind.value != "local-workload":
            spec = snapshot.peers[peer.source.removeprefix("BGPPeer ")]
            assert peer.password == (None if spec.password is None else "secret")
            assert spec.password is None or spec.password.key == "k"


def ends(snapshot: Snapshot) -> dict[tuple[str, str, int], PeerConfig]:
    """The sessions between nodes: (own node, the other, octets of the address) -> its end of it."""
    owners = {
        address: name
        for name, node in snapshot.nodes.items()
        for address in (node.ipv4, node.ipv6)
        if address is not None
    }
    return {
        (own, owners[peer.address], len(peer.address)): peer
        for own in snapshot.nodes
        for peer in peers(snapshot, own, CONFIGS[own]).peers.values()
        if peer.address in owners
    }


@given(nodes(), st.none() | bgp_peers(), st.booleans(), ASNS)
def test_both_ends_agree(cluster: list[Node], peer: BGPPeer | None, mesh: bool, asn: int | None) -> None:
    """With one BGPPeer that leaves AS numbers, ports and the way back to us, each session has two ends that match."""
    if peer is not None:
        peer = replace(peer, reverse=True, peer_port=None)
        if peer.peer_ip is not None:
            peer = replace(peer, as_number=None)
    found = ends(
        Snapshot(
            nodes={node.name: node for node in cluster},
            peers={} if peer is None else {peer.name: peer},
            bgp_configurations={"default": BGPConfiguration(as_number=asn, node_to_node_mesh_enabled=mesh)},
            secrets={"s": Secret("s", "kube-system", {"k": b"secret"})},
        )
    )
    for (own, other, octets), here in found.items():
        there = found[other, own, octets]
        assert (here.asn, here.local_asn) == (there.local_asn, there.asn)
        assert (here.password, here.ibgp) == (there.password, there.ibgp)
        assert not (here.passive and there.passive)
