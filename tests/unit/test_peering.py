"""Which sessions a node must have: mesh, BGPPeers, who waits for whom, and what is wrong with which resource."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from bgpd.config.reading import parse
from bgpd.model.peer import PeerConfig, PeerKind
from bgpd.model.prefix import Address, Family, parse_address
from bgpd.model.resources import BGPConfiguration, BGPPeer, Node, Problem, Snapshot
from bgpd.rules.peering import Peering, hashed_router_id, heirs, peers
from tests.unit.builders import peer_config


def node(
    name: str, ipv4: str | None = None, ipv6: str | None = None, asn: int | None = None, **labels: str
) -> Node:
    addresses = [parse_address(text) if text else None for text in (ipv4, ipv6)]
    return Node(name, labels, addresses[0], addresses[1], asn=asn)


def reflector(name: str, ipv4: str, **labels: str) -> Node:
    return Node(name, labels, parse_address(ipv4), route_reflector_cluster_id=parse_address("224.0.0.1"))


CONTROL = node("control", "10.0.1.20", role="control")
WORKER1 = node("worker1", "10.0.1.30", role="worker", rack="r1")
WORKER2 = node("worker2", "10.0.1.31", role="worker", rack="r2")
CLUSTER = (CONTROL, WORKER1, WORKER2)
TOR = parse_address("10.0.1.1")


def snapshot(
    nodes: Iterable[Node] = CLUSTER, bgp_peers: Iterable[BGPPeer] = (), *configurations: BGPConfiguration
) -> Snapshot:
    return Snapshot(
        nodes={n.name: n for n in nodes},
        peers={p.name: p for p in bgp_peers},
        bgp_configurations={c.name: c for c in configurations},
    )


def peering(snap: Snapshot, own: str = "worker1", config: str = "") -> Peering:
    return peers(snap, own, parse(f"node: {own}\n{config}", "test"))


def names(found: Peering) -> set[str]:
    return set(found.peers)


MESH_OFF = BGPConfiguration("default", node_to_node_mesh_enabled=False)


@pytest.mark.parametrize(
    ("severity", "own", "config", "level"),
    [
        (None, None, "", "info"),
        ("Debug", None, "", "debug"),
        ("Debug", "Warning", "", "warning"),
        ("Fatal", None, "", "error"),
        ("Loud", None, "", "info"),
        ("Debug", None, "log: {level: error}", "error"),
    ],
)
def test_the_level_of_the_log(severity: str | None, own: str | None, config: str, level: str) -> None:
    cluster = BGPConfiguration(log_severity_screen=severity)
    mine = BGPConfiguration("node.worker1", log_severity_screen=own)
    assert peering(snapshot(CLUSTER, (), cluster, mine), config=config).log_level == level


def test_the_mesh() -> None:
    found = peering(snapshot())
    assert found.peers["Mesh_10_0_1_20"] == PeerConfig(  # type: ignore[index]
        id="Mesh_10_0_1_20",  # type: ignore[arg-type]
        kind=PeerKind.MESH,
        source="Node control",
        address=parse_address("10.0.1.20"),
        port=179,
        asn=64512,
        local_asn=64512,
        router_id=parse_address("10.0.1.30"),
        local_address=parse_address("10.0.1.30"),
        next_hops={},
        families=frozenset({Family.IPV4}),
        passive=False,
        node="control",
    )
    assert names(found) == {"Mesh_10_0_1_20", "Mesh_10_0_1_31"}
    assert (found.asn, found.problems) == (64512, ())
    assert found.listen.port == 179


def test_one_of_two_mesh_nodes_waits_by_text_order() -> None:
    nodes = [node("a", "10.0.0.9"), node("b", "10.0.0.10"), node("c", "10.0.0.100")]
    waits = {
        (own.name, peer.source.removeprefix("Node ")): peer.passive
        for own in nodes
        for peer in peering(snapshot(nodes), own.name).peers.values()
    }
    assert waits == {
        ("a", "b"): False,  # "10.0.0.10" < "10.0.0.9"
        ("b", "a"): True,
        ("a", "c"): False,
        ("c", "a"): True,
        ("b", "c"): True,  # "10.0.0.100" > "10.0.0.10"
        ("c", "b"): False,
    }


def test_mesh_sessions_run_over_each_family_of_their_own() -> None:
    nodes = [
        node("a", "10.0.0.1", "fd00::1"),
        node("b", "10.0.0.2", "fd00::2"),
        node("c", None, "fd00::3"),
        node("d"),
    ]
    found = peering(snapshot(nodes), "a")
    assert names(found) == {"Mesh_10_0_0_2", "Mesh_fd00__2", "Mesh_fd00__3"}
    six = found.peers["Mesh_fd00__2"]  # type: ignore[index]
    assert (six.families, six.local_address, six.next_hops) == ({Family.IPV6}, parse_address("fd00::1"), {})
    assert names(peering(snapshot(nodes), "c")) == {"Mesh_fd00__1", "Mesh_fd00__2"}
    assert names(peering(snapshot(nodes), "d")) == set()


def test_both_families_on_one_session() -> None:
    nodes = [node("a", "10.0.0.1", "fd00::1"), node("b", "10.0.0.2")]
    keys = "families: [ipv4, ipv6], hold_time: 9, max_prefixes: 5, max_paths_per_prefix: 7"
    config = f"bgp: {{peers: {{10.0.0.2: {{{keys}}}}}}}"
    found = peering(snapshot(nodes), "a", config)
    peer = found.peers["Mesh_10_0_0_2"]  # type: ignore[index]
    assert {each.max_paths_per_prefix for each in found.policies.values()} == {7}
    assert peer.families == frozenset(Family)
    assert peer.next_hops == {Family.IPV6: parse_address("fd00::1")}
    assert (peer.hold_time, peer.max_prefixes) == (9.0, 5)
    back = peering(snapshot(nodes), "b", "bgp: {defaults: {families: [ipv4, ipv6]}}").peers
    assert next(iter(back.values())).next_hops == {}  # b has no IPv6 address to announce


def test_reflectors_are_outside_the_mesh() -> None:
    nodes = [*CLUSTER, reflector("rr", "10.0.1.5")]
    assert names(peering(snapshot(nodes))) == {"Mesh_10_0_1_20", "Mesh_10_0_1_31"}
    assert names(peering(snapshot(nodes), "rr")) == set()


def test_no_mesh() -> None:
    assert names(peering(snapshot(CLUSTER, (), MESH_OFF))) == set()


def test_as_numbers() -> None:
    nodes = [CONTROL, WORKER1, node("own", "10.0.1.40", asn=65001)]
    snap = snapshot(nodes, (), BGPConfiguration(as_number=65000))
    found = peering(snap)
    assert found.asn == 65000
    assert {peer.source: peer.asn for peer in found.peers.values()} == {
        "Node control": 65000,
        "Node own": 65001,
    }
    theirs = peering(snap, "own")
    assert theirs.asn == 65001
    assert {(peer.local_asn, peer.asn, peer.ibgp) for peer in theirs.peers.values()} == {
        (65001, 65000, False)
    }


def test_ports_and_listening() -> None:
    configurations = (
        BGPConfiguration("default", listen_port=1179, bind_mode_node_ip=True),
        BGPConfiguration("node.worker2", listen_port=2179, bind_mode_node_ip=False),
    )
    found = peering(snapshot(CLUSTER, (), *configurations))
    assert {peer.source: peer.port for peer in found.peers.values()} == {
        "Node control": 1179,
        "Node worker2": 2179,
    }
    assert found.listen == ((parse_address("10.0.1.30"),), 1179)
    assert peering(snapshot(CLUSTER, (), *configurations), "worker2").listen.port == 2179
    plain = peering(snapshot(), config="bgp: {port: 3179, listen: [10.0.1.30]}")
    assert plain.listen == ((parse_address("10.0.1.30"),), 3179)
    assert {peer.port for peer in plain.peers.values()} == {3179}


def test_router_ids() -> None:
    six = snapshot([node("six", None, "fd00::1")])
    octets = hashlib.sha256(b"six").digest()[:4]
    expected = bytes([octets[0] - 32 if octets[0] > 223 else octets[0]]) + octets[1:]
    assert peering(six, "six").router_id == hashed_router_id("six") == expected
    assert peering(snapshot()).router_id == parse_address("10.0.1.30")
    assert peering(snapshot(), config="router_id: hash").router_id == hashed_router_id("worker1")
    assert peering(snapshot(), config="router_id: 1.2.3.4").router_id == parse_address("1.2.3.4")
    assert all(0 <= hashed_router_id(f"node{i}")[0] <= 223 for i in range(200))


def test_a_router_outside_the_cluster() -> None:
    tor = BGPPeer("tor", peer_ip=TOR, as_number=65001)
    found = peering(snapshot(CLUSTER, [tor], MESH_OFF, BGPConfiguration("node.worker1", listen_port=1179)))
    peer = found.peers["Global_10_0_1_1"]  # type: ignore[index]
    assert (peer.kind, peer.source, peer.asn, peer.port) == (PeerKind.GLOBAL, "BGPPeer tor", 65001, 179)
    assert (peer.passive, peer.ibgp, peer.local_address) == (False, False, parse_address("10.0.1.30"))
    # its address is greater than ours as text, but it is no node of the cluster: nobody says that it dials
    high = BGPPeer("high", peer_ip=parse_address("10.0.1.99"), as_number=65001)
    assert not peering(snapshot(CLUSTER, [high])).peers["Global_10_0_1_99"].passive  # type: ignore[index]


@pytest.mark.parametrize(
    ("peer", "local"),
    [
        (BGPPeer("p", node="worker1", peer_ip=TOR, as_number=1), True),
        (BGPPeer("p", node="worker2", peer_ip=TOR, as_number=1), False),
        (BGPPeer("p", node_selector="rack == 'r1'", peer_ip=TOR, as_number=1), True),
        (BGPPeer("p", node_selector="rack == 'r2'", peer_ip=TOR, as_number=1), False),
    ],
)
def test_node_specific_peers(peer: BGPPeer, local: bool) -> None:
    found = peering(snapshot(CLUSTER, [peer], MESH_OFF))
    assert names(found) == ({"Node_10_0_1_1"} if local else set())


def test_ports_in_names() -> None:
    four = BGPPeer("four", peer_ip=TOR, peer_port=1179, as_number=1)
    six = BGPPeer("six", node="a", peer_ip=parse_address("fd00::1"), peer_port=1179, as_number=1)
    found = peering(snapshot([node("a", "10.0.1.30", "fd00::30")], [four, six]), "a")
    assert names(found) == {"Global_10_0_1_1_port_1179", "Node_fd00__1_port_1179"}
    assert {peer.port for peer in found.peers.values()} == {1179}


def test_peer_selectors_and_their_reverse() -> None:
    """Workers name the control node; it peers back without a resource of its own, unless that is turned off."""
    to_control = BGPPeer("up", node_selector="role == 'worker'", peer_selector="role == 'control'")
    snap = snapshot(CLUSTER, [to_control], MESH_OFF, BGPConfiguration("node.control", listen_port=1179))
    up = peering(snap, "worker1").peers["Node_10_0_1_20_port_1179"]  # type: ignore[index]
    assert (up.port, up.asn, up.passive) == (1179, 64512, False)
    assert names(peering(snap, "control")) == {"Node_10_0_1_30", "Node_10_0_1_31"}
    assert not any(peer.passive for peer in peering(snap, "control").peers.values())
    manual = BGPPeer("up", node_selector="role == 'worker'", peer_selector="role == 'control'", reverse=False)
    assert names(peering(snapshot(CLUSTER, [manual], MESH_OFF), "control")) == set()


def test_a_global_peer_that_is_a_cluster_node() -> None:
    """Everybody peers with control by its address; it peers back, and who waits goes by the texts of the addresses."""
    to_control = BGPPeer("control", peer_ip=parse_address("10.0.1.20"))
    snap = snapshot([*CLUSTER, node("early", "10.0.1.10")], [to_control], MESH_OFF)
    assert peering(snap, "worker1").peers["Global_10_0_1_20"].passive is False  # type: ignore[index]
    assert peering(snap, "early").peers["Global_10_0_1_20"].passive is True  # type: ignore[index]
    back = peering(snap, "control")
    assert names(back) == {"Node_10_0_1_10", "Node_10_0_1_30", "Node_10_0_1_31"}
    assert not any(peer.passive for peer in back.peers.values())
    by_node = BGPPeer("control", node="early", peer_ip=parse_address("10.0.1.20"))
    one = peering(snapshot([*CLUSTER, node("early", "10.0.1.10")], [by_node], MESH_OFF), "early")
    assert one.peers["Node_10_0_1_20"].passive is False  # type: ignore[index]


def test_a_peer_with_the_mesh_is_one_session() -> None:
    found = peering(snapshot(CLUSTER, [BGPPeer("all", peer_selector="all()")]))
    assert names(found) == {"Global_10_0_1_20", "Global_10_0_1_31"}


def test_global_comes_before_node_specific_and_names_decide() -> None:
    a = BGPPeer("a", node="worker1", peer_ip=TOR, as_number=1)
    b = BGPPeer("b", peer_ip=TOR, as_number=2)
    c = BGPPeer("c", peer_ip=TOR, as_number=2)
    found = peering(snapshot(CLUSTER, [a, c, b], MESH_OFF))
    assert {peer.source: peer.asn for peer in found.peers.values()} == {"BGPPeer b": 2}
    message = "BGPPeer b has the same peer in AS 2 and comes first: ignored"
    assert found.problems == (Problem("BGPPeer a", "spec.peerIP", message),)
    assert found == peering(snapshot(reversed(CLUSTER), [b, a, c], MESH_OFF))


def test_a_listen_port_of_the_resources_is_part_of_the_name() -> None:
    """As in Calico: the node by its selector, and at 179 somebody in another AS. Not in the mesh."""
    a = BGPPeer("a", peer_selector="role == 'control'")
    b = BGPPeer("b", peer_ip=parse_address("10.0.1.20"), as_number=65001)
    configuration = BGPConfiguration("node.control", listen_port=1179)
    found = peering(snapshot(CLUSTER, [a, b], MESH_OFF, configuration))
    ports = {name: peer.port for name, peer in found.peers.items()}
    assert ports == {"Global_10_0_1_20_port_1179": 1179, "Global_10_0_1_20": 179}
    assert found.problems == ()
    by_address = BGPPeer("a", peer_ip=parse_address("10.0.1.20"))
    assert names(peering(snapshot(CLUSTER, [by_address], MESH_OFF, configuration))) == {
        "Global_10_0_1_20_port_1179"
    }
    everybody = BGPConfiguration("default", listen_port=1179)
    assert names(peering(snapshot(CLUSTER, [], everybody))) == {"Mesh_10_0_1_20", "Mesh_10_0_1_31"}


@pytest.mark.parametrize(
    ("peer", "path", "words"),
    [
        (BGPPeer("p", peer_ip=TOR), "spec.asNumber", "expected, since peerIP is not a node of the cluster"),
        (BGPPeer("p"), "spec.peerIP", "expected one of peerIP and peerSelector"),
        (
            BGPPeer("p", peer_ip=TOR, peer_selector="all()"),
            "spec.peerIP",
            "expected one of peerIP and peerSelector",
        ),
        (BGPPeer("p", peer_selector="all()", as_number=1), "spec.asNumber", "leave it out"),
        (
            BGPPeer("p", node="a", node_selector="all()", peer_ip=TOR),
            "spec.nodeSelector",
            "exclude each other",
        ),
        (BGPPeer("p", node_selector="rack = 'r1'", peer_ip=TOR), "spec.nodeSelector", "character 6"),
        (BGPPeer("p", peer_selector="has("), "spec.peerSelector", "character 5"),
        (
            BGPPeer("p", peer_ip=parse_address("fd00::1"), as_number=1),
            "spec.peerIP",
            "this node has no ipv6 address",
        ),
        (
            BGPPeer("p", peer_ip=parse_address("fe80::1"), as_number=1),
            "spec.peerIP",
            "fe80::1 is link-local: expected its interface too, such as fe80::1%eth0",
        ),
        (
            BGPPeer("p", peer_ip=TOR, peer_interface="eth0", as_number=1),
            "spec.peerIP",
            "only a link-local address has an interface",
        ),
        (
            BGPPeer("p", peer_ip=TOR, as_number=1, reachable_by=parse_address("fd00::1")),
            "spec.reachableBy",
            "expected an address of ipv4, as peerIP is",
        ),
        (
            BGPPeer("p", peer_selector="all()", reachable_by=TOR),
            "spec.reachableBy",
            "expected with peerIP only",
        ),
        (
            BGPPeer(
                "p",
                peer_ip=parse_address("fe80::1"),
                peer_interface="eth0",
                as_number=1,
                reachable_by=parse_address("fe80::2"),
            ),
            "spec.reachableBy",
            "reached over its interface: leave it out",
        ),
        (
            BGPPeer("p", local_workload_selector="all()", as_number=1, peer_ip=TOR),
            "spec.localWorkloadSelector",
            "excludes peerIP and peerSelector",
        ),
        (
            BGPPeer("p", local_workload_selector="all()", as_number=1, peer_selector="all()"),
            "spec.localWorkloadSelector",
            "excludes peerIP and peerSelector",
        ),
        (
            BGPPeer("p", local_workload_selector="all()"),
            "spec.asNumber",
            "expected with localWorkloadSelector",
        ),
    ],
)
def test_a_wrong_peer_is_named_and_harms_no_other(peer: BGPPeer, path: str, words: str) -> None:
    good = BGPPeer("tor", peer_ip=parse_address("10.0.1.2"), as_number=65001)
    found = peering(snapshot(CLUSTER, [peer, good]))
    (problem,) = found.problems
    assert (problem.source, problem.path) == ("BGPPeer p", path)
    assert words in problem.message
    assert problem.message.endswith(": not peered with")
    assert names(found) == {"Global_10_0_1_2", "Mesh_10_0_1_20", "Mesh_10_0_1_31"}


def test_one_resource_more_changes_no_other_session() -> None:
    before = peering(snapshot()).peers
    after = peering(
        snapshot([*CLUSTER, node("new", "10.0.1.40")], [BGPPeer("t", peer_ip=TOR, as_number=1)])
    ).peers
    assert {name: after[name] for name in before} == dict(before)
    assert set(after) - set(before) == {"Global_10_0_1_1", "Mesh_10_0_1_40"}


def test_what_the_operator_should_hear_of() -> None:
    """A node without an address, and options for a session that is not there, are slips more often than plans."""
    alone = peering(
        snapshot([Node("worker1"), WORKER2]), config="bgp: {peers: {Mesh_10_0_1_13: {hold_time: 9}}}"
    )
    assert [(problem.source, problem.path) for problem in alone.problems] == [
        ("configuration", "bgp.peers.Mesh_10_0_1_13"),
        ("Node worker1", "spec.bgp"),
    ]
    twins = peering(snapshot([*CLUSTER, node("other", "10.0.1.31")]))
    assert [str(problem) for problem in twins.problems] == [
        "Node worker2: spec.bgp: Node other has the same address, 10.0.1.31"
    ]
    dynamic = peering(snapshot(), config="bgp: {peers: {Dynamic_10_0_2_7: {}}}")
    assert [str(problem) for problem in dynamic.problems] == [
        "configuration: bgp.peers.Dynamic_10_0_2_7: a dynamic neighbour has what its listen range says: set it there"
    ]
    named = peering(snapshot(), config="bgp: {peers: {Mesh_10_0_1_31: {}, 10.0.1.20: {}}}")
    assert named.problems == ()


def test_without_its_own_node_it_has_no_cluster_peers() -> None:
    found = peering(snapshot(), "stranger")
    assert names(found) == set()
    assert found.router_id == hashed_router_id("stranger")
    assert found.listen.addresses == (Address(bytes(4)), Address(bytes(16)))


# Who comes in whose place.


def test_heirs_are_the_same_neighbour_and_trusted_alike() -> None:
    def of(name: str, address: str, asn: int = 64512, **more: Any) -> PeerConfig:
        return replace(peer_config(address, asn, name=name), **more)

    def found(before: PeerConfig, *after: PeerConfig) -> dict[str, str]:
        return dict(heirs({before.id: before}, {each.id: each for each in after}))

    old = of("old", "10.0.1.1", node="n")
    assert found(old, of("new", "10.0.1.2", node="n")) == {"old": "new"}, "the node has another address"
    assert found(old, of("new", "10.0.1.1")) == {"old": "new"}, "a BGPPeer names it now"
    assert found(of("old", "10.0.1.1"), of("new", "10.0.1.1", kind=PeerKind.NODE)) == {"old": "new"}
    assert found(old, of("new", "10.0.1.2", node="other")) == {}
    assert found(old, of("new", "10.0.1.2")) == {}
    assert found(old, old, of("new", "10.0.1.2", node="n")) == {}, "it stays"
    assert found(old, of("new", "fd00::1", node="n", families=old.families)) == {}, "of the other family"
    for change in (
        {"asn": 65001},
        {"local_asn": 65001},
        {"password": "secret"},
        {"ttl_security": 1},
        {"interface": "eth0"},
        {"families": frozenset(Family)},
    ):
        assert found(old, of("new", "10.0.1.1", node="n", **change)) == {}, change
    assert found(old, of("a", "10.0.1.2", node="n"), of("b", "10.0.1.3", node="n")) == {"old": "a"}, "one"
