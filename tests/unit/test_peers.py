"""Each field of a BGPPeer and each option of the node: what it makes of one session; what is reported where it
cannot."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from bgpd.config.config import Passwords
from bgpd.config.reading import parse
from bgpd.config.values import Password
from bgpd.model.peer import PeerConfig, PeerId, PeerKind, PeerPolicy
from bgpd.model.prefix import Address, Family, parse_address, parse_prefix
from bgpd.model.resources import (
    BGPConfiguration,
    BGPFilter,
    BGPPeer,
    LocalWorkload,
    NextHopMode,
    Node,
    Problem,
    Secret,
    SecretKey,
    Snapshot,
)
from bgpd.rules.peering import NO_PASSWORDS, Peering, peers

TOR = parse_address("10.0.1.1")
OWN, OWN6 = parse_address("10.0.1.30"), parse_address("fd00::30")
WORKER1 = Node("worker1", {"role": "worker"}, OWN, OWN6)
CONTROL = Node("control", {"role": "control"}, parse_address("10.0.1.20"), parse_address("fd00::20"))
MESH_OFF = BGPConfiguration("default", node_to_node_mesh_enabled=False)
SECRET = Secret(
    "bgp", "kube-system", {"tor": b"swordfish\n", "long": b"x" * 81, "empty": b"\n", "raw": b"\xff"}
)
KEY = SecretKey("bgp", "tor")
PEER = BGPPeer("tor", peer_ip=TOR, as_number=65001)


def snapshot(
    *bgp_peers: BGPPeer, configuration: BGPConfiguration = MESH_OFF, nodes: tuple[Node, ...] = (), **more: Any
) -> Snapshot:
    return Snapshot(
        nodes={node.name: node for node in (WORKER1, CONTROL, *nodes)},
        peers={peer.name: peer for peer in bgp_peers},
        bgp_configurations={configuration.name: configuration},
        secrets={"bgp": SECRET},
        **more,
    )


def peering(
    snap: Snapshot, own: str = "worker1", config: str = "", passwords: Passwords = NO_PASSWORDS
) -> Peering:
    return peers(snap, own, parse(f"node: {own}\n{config}", "test"), passwords)


def only(found: Peering) -> tuple[PeerConfig, PeerPolicy]:
    (name,) = found.peers
    assert found.policies.keys() == found.peers.keys()
    return found.peers[name], found.policies[name]


def differences(after: PeerConfig | PeerPolicy, before: PeerConfig | PeerPolicy) -> dict[str, Any]:
    """What differs in the first, by field."""
    pairs = {f.name: (getattr(before, f.name), getattr(after, f.name)) for f in fields(after)}
    return {name: new for name, (old, new) in pairs.items() if old != new}


FIELDS: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    # of the BGPPeer; of the PeerConfig; of the PeerPolicy
    ({"local_as_number": 65010}, {"local_asn": 65010}, {}),
    ({"num_allowed_local_as_numbers": 2}, {}, {"allow_own_as": 2}),
    ({"ttl_security": 1}, {"ttl_security": 1}, {}),
    ({"use_node_ip": False}, {"local_address": None}, {}),
    ({"reachable_by": parse_address("10.0.1.254")}, {"reachable_by": parse_address("10.0.1.254")}, {}),
    ({"password": KEY}, {"password": "swordfish"}, {}),
    ({"max_restart_time": 30.5}, {"restart_time": 31}, {}),
    ({"max_restart_time": 30.4}, {"restart_time": 30}, {}),
    ({"keepalive_time": 5.0}, {"keepalive_time": 5.0}, {}),
    ({"next_hop_mode": NextHopMode.SELF}, {}, {"next_hop": NextHopMode.SELF}),
    ({"next_hop_mode": NextHopMode.KEEP}, {}, {"next_hop": NextHopMode.KEEP}),
    ({"next_hop_mode": NextHopMode.KEEP_EBGP}, {}, {"next_hop": NextHopMode.KEEP_EBGP}),
    ({"filters": ("b", "a")}, {}, {"filters": ("b", "a")}),
    ({"as_number": 65002}, {"asn": 65002}, {}),
    ({"peer_port": 1179}, {"id": "Global_10_0_1_1_port_1179", "port": 1179}, {}),
    ({"node": "worker1"}, {"id": "Node_10_0_1_1", "kind": PeerKind.NODE}, {}),
]


@pytest.mark.parametrize(("fields", "config", "policy"), FIELDS)
def test_a_field_of_a_peer(fields: dict[str, Any], config: dict[str, Any], policy: dict[str, Any]) -> None:
    filters = {name: BGPFilter(name) for name in "ab"}
    before = only(peering(snapshot(PEER)))
    found = peering(snapshot(replace(PEER, **fields), filters=filters))
    after = only(found)
    assert (differences(after[0], before[0]), differences(after[1], before[1])) == (config, policy)
    assert found.problems == ()


def test_the_defaults() -> None:
    config, policy = only(peering(snapshot(PEER)))
    assert config == PeerConfig(
        id=PeerId("Global_10_0_1_1"),
        kind=PeerKind.GLOBAL,
        source="BGPPeer tor",
        address=TOR,
        port=179,
        asn=65001,
        local_asn=64512,
        router_id=OWN,
        local_address=OWN,
        next_hops={},
        families=frozenset({Family.IPV4}),
        passive=False,
        hold_time=90.0,
        restart_time=120,
    )
    assert policy == PeerPolicy()


OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("{hold_time: 9}", {"hold_time": 9.0}),
    ("{max_prefixes: 5}", {"max_prefixes": 5}),
    ("{families: [ipv4, ipv6]}", {"families": frozenset(Family), "next_hops": {Family.IPV6: OWN6}}),
    ("{families: [ipv6]}", {"families": frozenset({Family.IPV6}), "next_hops": {Family.IPV6: OWN6}}),
    ("{add_path: false}", {"add_path": False}),
    ("{extended_next_hop: true}", {"extended_next_hop": True}),
    ("{password_file: /a}", {"password": "of the file"}),
]


@pytest.mark.parametrize("layer", ["defaults: ", "peers: {10.0.1.1: ", "peers: {Global_10_0_1_1: "])
@pytest.mark.parametrize(("options", "config"), OPTIONS)
def test_an_option_of_the_node(options: str, config: dict[str, Any], layer: str) -> None:
    text = f"bgp: {{{layer}{options}{'}' if layer.startswith('peers') else ''}}}"
    files = {Path("/a"): Password(b"of the file\r\n")}
    before = only(peering(snapshot(PEER)))
    after = only(peering(snapshot(PEER), config=text, passwords=files))
    assert (differences(after[0], before[0]), after[1]) == (config, before[1])


def test_keepalives_must_come_before_the_hold_time_is_over() -> None:
    peer = replace(PEER, keepalive_time=9.0)
    found = peering(snapshot(peer), config="bgp: {peers: {10.0.1.1: {hold_time: 9}}}")
    assert only(found)[0].keepalive_time is None
    message = "expected less than the hold time of 9 s, not 9 s: ignored"
    assert found.problems == (Problem("BGPPeer tor", "spec.keepaliveTime", message),)
    assert only(peering(snapshot(peer)))[0].keepalive_time == 9.0
    never = peering(snapshot(peer), config="bgp: {defaults: {hold_time: 0}}")
    assert (only(never)[0].keepalive_time, len(never.problems)) == (None, 1)


# Protection.


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (SecretKey("none", "tor"), "Secret none is missing"),
        (SecretKey("bad", "tor"), "Secret bad cannot be used"),
        (SecretKey("bgp", "spine"), "Secret bgp has no key spine"),
        (SecretKey("bgp", "long"), "Secret bgp, key long: expected a password of 1 to 80 octets"),
        (SecretKey("bgp", "empty"), "Secret bgp, key empty: expected a password of 1 to 80 octets"),
        (SecretKey("bgp", "raw"), "Secret bgp, key raw: expected a password in UTF-8"),
    ],
)
def test_without_its_password_there_is_no_session(key: SecretKey, message: str) -> None:
    unusable = frozenset({("Secret", "bad")})
    found = peering(snapshot(replace(PEER, password=key), unusable=unusable))
    assert (found.peers, found.policies) == ({}, {})
    assert found.problems == (Problem("BGPPeer tor", "spec.password", f"{message}: not peered with"),)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (None, "/a was not read"),
        ("cannot be read: Permission denied", "/a cannot be read: Permission denied"),
        (Password(b""), "/a: expected a password of 1 to 80 octets"),
        (Password(b"x" * 81), "/a: expected a password of 1 to 80 octets"),
    ],
)
@pytest.mark.parametrize("layer", ["defaults", "peers.10.0.1.1", "peers.Global_10_0_1_1"])
def test_a_password_file_comes_first_and_must_be_there(
    file: Password | str | None, message: str, layer: str
) -> None:
    section, _, name = layer.partition(".")
    options = "{password_file: /a}"
    text = f"bgp: {{{section}: {f'{{{name}: {options}}}' if name else options}}}"
    passwords = {} if file is None else {Path("/a"): file}
    found = peering(snapshot(replace(PEER, password=KEY)), config=text, passwords=passwords)
    assert found.peers == {}
    words = f"{message}: Global_10_0_1_1 is not peered with"
    assert found.problems == (Problem("configuration", f"bgp.{layer}.password_file", words),)


def test_a_file_wins_over_a_secret_and_null_gives_the_secret_back() -> None:
    peer, files = replace(PEER, password=KEY), MappingProxyType({Path("/a"): Password(b"file")})
    config = "bgp: {defaults: {password_file: /a}}"
    assert only(peering(snapshot(peer), config=config, passwords=files))[0].password == "file"
    config = "bgp: {defaults: {password_file: /a}, peers: {10.0.1.1: {password_file: null}}}"
    assert only(peering(snapshot(peer), config=config, passwords=files))[0].password == "swordfish"


def test_the_mesh_and_its_password() -> None:
    configuration = BGPConfiguration(
        "default", node_mesh_password=KEY, node_mesh_max_restart_time=45.5, as_number=65000
    )
    found = peering(snapshot(configuration=configuration))
    assert {(p.id, p.password, p.restart_time, p.ttl_security) for p in found.peers.values()} == {
        ("Mesh_10_0_1_20", "swordfish", 46, None),
        ("Mesh_fd00__20", "swordfish", 46, None),
    }
    assert set(found.policies.values()) == {PeerPolicy()}
    without = peering(snapshot(configuration=replace(configuration, node_mesh_password=SecretKey("x", "y"))))
    assert without.peers == {}
    message = "Secret x is missing: not peered with"
    assert without.problems == (Problem("BGPConfiguration default", "spec.nodeMeshPassword", message),)


def test_a_refused_peer_keeps_its_place() -> None:
    """Neither the mesh, nor a second BGPPeer, nor a listen range lets the address in without the password."""
    first = BGPPeer("a", peer_ip=CONTROL.ipv4, password=SecretKey("x", "y"))
    second = BGPPeer("b", node="worker1", peer_ip=CONTROL.ipv4)
    config = """
bgp:
  listen_ranges:
  - {prefix: 10.0.1.0/24, asns: [64512]}
  - {prefix: 10.0.2.0/24, asns: [64512]}
  - {prefix: 32.1.0.0/16, asns: [64512]}  # the octets that 2001::/16 begins with
"""
    fourth = BGPPeer("d", peer_ip=parse_address("2001:db8::1"))
    third = BGPPeer("c", peer_ip=parse_address("10.0.2.9"))  # of no node, and without an AS
    found = peering(snapshot(first, second, third, fourth, configuration=BGPConfiguration()), config=config)
    assert set(found.peers) == {"Mesh_fd00__20"}
    assert [each.refused for each in found.dynamic] == [{CONTROL.ipv4}, {third.peer_ip}, frozenset()]
    assert [str(problem) for problem in found.problems] == [
        "BGPPeer a: spec.password: Secret x is missing: not peered with",
        "BGPPeer c: spec.asNumber: expected, since peerIP is not a node of the cluster: not peered with",
        "BGPPeer d: spec.asNumber: expected, since peerIP is not a node of the cluster: not peered with",
        "BGPPeer b: spec.peerIP: BGPPeer a has the same peer with other settings and comes first: ignored",
    ]


def test_filters_that_are_missing_are_skipped_and_those_that_are_bad_are_not() -> None:
    peer = replace(PEER, filters=("a", "b", "c"))
    found = peering(snapshot(peer, filters={"b": BGPFilter("b")}))
    assert only(found)[1].filters == ("a", "b", "c")
    assert found.problems == (Problem("BGPPeer tor", "spec.filters", "there is no BGPFilter a, c: skipped"),)
    bad = peering(snapshot(peer, filters={}, unusable=frozenset({("BGPFilter", "b")})))
    assert bad.peers == {}
    assert bad.problems == (
        Problem("BGPPeer tor", "spec.filters", "BGPFilter b cannot be used: not peered with"),
    )


def test_without_a_usable_configuration_there_is_no_session() -> None:
    snap = replace(
        snapshot(PEER), bgp_configurations={}, unusable=frozenset({("BGPConfiguration", "default")})
    )
    found = peering(snap, config="bgp: {listen_ranges: [{prefix: 10.0.1.0/24, asns: [1]}]}")
    assert (found.peers, found.dynamic) == ({}, ())
    assert found.problems == (Problem("BGPConfiguration default", "", "cannot be used: no session is made"),)


# Both sides.


def test_the_reverse_has_the_same_settings() -> None:
    """All but those that say how the near side reaches the far one, and as whom it speaks."""
    settings: dict[str, Any] = {
        "num_allowed_local_as_numbers": 2,
        "ttl_security": 3,
        "use_node_ip": False,
        "password": KEY,
        "max_restart_time": 30.0,
        "keepalive_time": 5.0,
        "next_hop_mode": NextHopMode.SELF,
        "filters": ("a",),
    }
    for_both = BGPPeer("p", node="worker1", peer_ip=CONTROL.ipv4, **settings)
    near_only = replace(for_both, local_as_number=65010, reachable_by=parse_address("10.0.1.254"))
    snap = snapshot(near_only, filters={"a": BGPFilter("a")})
    near, far = peering(snap, "worker1"), peering(snap, "control")
    config, policy = only(near)
    assert (config.local_asn, config.asn, config.reachable_by) == (65010, 64512, near_only.reachable_by)
    back, back_policy = only(far)
    assert (back.local_asn, back.asn, back.reachable_by, back.id) == (64512, 65010, None, "Node_10_0_1_30")
    same = ("ttl_security", "local_address", "password", "restart_time", "keepalive_time")
    assert [getattr(back, name) for name in same] == [getattr(config, name) for name in same]
    assert [getattr(back, name) for name in same] == [3, None, "swordfish", 30, 5.0]
    assert back_policy == policy == PeerPolicy(("a",), NextHopMode.SELF, allow_own_as=2)


def test_two_that_name_each_other_are_no_conflict() -> None:
    """Each end goes by the BGPPeer that names the other for it; that the other would peer back is no news."""
    up = BGPPeer("up", node="worker1", peer_ip=CONTROL.ipv4, filters=("a",))
    down = BGPPeer("down", node="control", peer_ip=OWN, filters=("b",))
    snap = snapshot(up, down, filters={name: BGPFilter(name) for name in "ab"})
    for own, source in (("worker1", "up"), ("control", "down")):
        found = peering(snap, own)
        assert (only(found)[0].source, found.problems) == (f"BGPPeer {source}", ())


def test_of_two_nodes_with_one_address_the_first_by_name_is_peered_back_with() -> None:
    address = parse_address("10.0.1.50")
    twins = [Node(name, {"role": "worker"}, address, asn=asn) for name, asn in (("a", 65001), ("b", 65002))]
    up = BGPPeer("up", node_selector="role == 'worker'", peer_selector="role == 'control'")
    for nodes in (twins, twins[::-1]):
        found = peers(
            Snapshot(nodes={n.name: n for n in (*nodes, CONTROL)}, peers={"up": up}),
            "control",
            parse("node: control", "test"),
        )
        assert found.peers[PeerId("Node_10_0_1_50")].asn == 65001


def test_local_as_numbers_count_with_selectors_too() -> None:
    """Calico copies neither; here both ends agree on who speaks as what, also where each is on both sides."""
    workers = BGPPeer(
        "up",
        node_selector="role == 'worker'",
        peer_selector="role == 'control'",
        local_as_number=65010,
        num_allowed_local_as_numbers=1,
    )
    snap = snapshot(workers)
    assert {(p.local_asn, p.asn) for p in peering(snap, "worker1").peers.values()} == {(65010, 64512)}
    assert {p.allow_own_as for p in peering(snap, "worker1").policies.values()} == {1}
    assert {(p.local_asn, p.asn) for p in peering(snap, "control").peers.values()} == {(64512, 65010)}
    everybody = snapshot(BGPPeer("all", peer_selector="all()", local_as_number=65010))
    assert {(p.local_asn, p.asn, p.ibgp) for p in peering(everybody).peers.values()} == {(65010, 65010, True)}


def test_a_local_as_number_says_what_is_internal() -> None:
    internal = replace(PEER, as_number=65001, local_as_number=65001)
    reflector = replace(WORKER1, route_reflector_cluster_id=parse_address("1.0.0.1"))
    config, policy = only(peering(snapshot(internal, nodes=(reflector,))))
    assert (config.ibgp, policy.client, policy.cluster_id) == (True, True, parse_address("1.0.0.1"))
    external = replace(PEER, as_number=64512, local_as_number=65001)
    config, policy = only(peering(snapshot(external, nodes=(reflector,))))
    assert (config.ibgp, policy.client, policy.cluster_id) == (False, False, None)


@pytest.mark.parametrize(
    ("own", "theirs", "asn", "cluster_id", "client"),
    [
        (None, None, 64512, None, False),
        (None, "1.0.0.1", 64512, None, False),
        ("1.0.0.1", None, 64512, "1.0.0.1", True),
        ("1.0.0.1", "1.0.0.1", 64512, "1.0.0.1", False),
        ("1.0.0.1", "1.0.0.2", 64512, "1.0.0.1", True),
        ("1.0.0.1", None, 65001, None, False),
    ],
)
@pytest.mark.parametrize("by_address", [False, True])
def test_reflection(
    own: str | None, theirs: str | None, asn: int, cluster_id: str | None, client: bool, by_address: bool
) -> None:
    def cluster(text: str | None) -> Any:
        return None if text is None else parse_address(text)

    here = replace(WORKER1, route_reflector_cluster_id=cluster(own))
    there = replace(CONTROL, ipv6=None, route_reflector_cluster_id=cluster(theirs), asn=asn)
    peer = BGPPeer("p", peer_selector="role == 'control'", reverse=False)
    if by_address:
        peer = BGPPeer("p", peer_ip=CONTROL.ipv4, reverse=False)
    _, policy = only(peering(snapshot(peer, nodes=(here, there))))
    assert (policy.cluster_id, policy.client) == (cluster(cluster_id), client)


# Pods of this node.

POD, POD6 = parse_address("10.48.0.7"), parse_address("fd00:48::7")
LOCAL = parse_address("169.254.1.1")


def test_local_workloads() -> None:
    """Only the AS numbers and the filters of the BGPPeer count; the pods dial."""
    peer = BGPPeer(
        "vms",
        node_selector="role == 'worker'",
        local_workload_selector="app == 'vm'",
        as_number=65100,
        local_as_number=65000,
        filters=("a",),
        max_restart_time=5.0,
        keepalive_time=5.0,
        num_allowed_local_as_numbers=3,
        next_hop_mode=NextHopMode.SELF,
        use_node_ip=False,
    )
    configuration = replace(MESH_OFF, local_workload_peering_ipv4=LOCAL, bind_mode_node_ip=True)
    workloads = (
        LocalWorkload("cali2", "vms", parse_address("10.48.0.8")),
        LocalWorkload("cali1", "vms", POD, POD6),
        LocalWorkload("cali3", "others", parse_address("10.48.0.9")),
        LocalWorkload("cali4", "vms"),
        LocalWorkload("cali5", "vms", OWN),  # ourselves
    )
    snap = snapshot(
        peer, configuration=configuration, local_workloads=workloads, filters={"a": BGPFilter("a")}
    )
    found = peering(snap)
    assert set(found.peers) == {
        "Local_Workload_10_48_0_7",
        "Local_Workload_10_48_0_8",
        "Local_Workload_fd00_48__7",
    }
    assert found.peers[PeerId("Local_Workload_10_48_0_7")] == PeerConfig(
        id=PeerId("Local_Workload_10_48_0_7"),
        kind=PeerKind.LOCAL_WORKLOAD,
        source="BGPPeer vms",
        address=POD,
        port=179,
        asn=65100,
        local_asn=65000,
        router_id=OWN,
        local_address=LOCAL,
        next_hops={},
        families=frozenset({Family.IPV4}),
        passive=True,
    )
    assert found.peers[PeerId("Local_Workload_fd00_48__7")].local_address is None
    assert set(found.policies.values()) == {PeerPolicy(filters=("a",))}
    itself = "10.0.1.30 is this node's own address: not peered with"
    assert found.problems == (Problem("BGPPeer vms", "", itself, harmless=True),)
    assert found.listen.addresses == (OWN, OWN6, LOCAL)
    assert peering(replace(snap, local_workloads=workloads[::-1])) == found
    assert peering(snap, "control").peers == {}  # not on the near side
    assert peering(replace(snap, local_workloads=())).listen.addresses == (OWN, OWN6)
    only_here = replace(configuration, local_workload_peering_ipv4=OWN)
    here = replace(snap, bgp_configurations={"default": only_here})
    assert peering(here).listen.addresses == (OWN, OWN6)


def test_nobody_listens_on_a_link_local_address() -> None:
    """It takes an interface, and it would be another for each pod."""
    peer = BGPPeer("vms", local_workload_selector="all()", as_number=65100)
    configuration = replace(
        MESH_OFF, local_workload_peering_ipv6=parse_address("fe80::1"), bind_mode_node_ip=True
    )
    workloads = (LocalWorkload("cali1", "vms", None, POD6),)
    found = peering(snapshot(peer, configuration=configuration, local_workloads=workloads))
    assert only(found)[0].local_address == parse_address("fe80::1")
    assert found.listen.addresses == (OWN, OWN6)


def test_what_does_not_protect_local_workloads_is_reported() -> None:
    peer = BGPPeer("vms", local_workload_selector="all()", as_number=65100, password=KEY, ttl_security=1)
    found = peering(snapshot(peer, local_workloads=(LocalWorkload("cali1", "vms", POD),)))
    config, _ = only(found)
    assert (config.password, config.ttl_security) == (None, None)
    assert [problem.path for problem in found.problems] == ["spec.password", "spec.ttlSecurity"]


# A link of two.


def test_link_local_peers() -> None:
    """The same address on two links is two peers; a node needs no address of its own for either."""
    address = parse_address("fe80::1")
    left = BGPPeer("left", peer_ip=address, peer_interface="eth0", as_number=65001)
    right = BGPPeer(
        "right", node="bare", peer_ip=address, peer_interface="eth1", peer_port=1179, as_number=65001
    )
    snap = snapshot(left, right, nodes=(Node("bare"), Node("four", {}, parse_address("10.0.1.40"))))
    found = peering(snap, "bare")
    assert {name: (p.address, p.interface, p.local_address) for name, p in found.peers.items()} == {
        "Global_fe80__1%eth0": (address, "eth0", None),
        "Node_fe80__1%eth1_port_1179": (address, "eth1", None),
    }
    assert all(problem.path == "spec.bgp" for problem in found.problems)
    both = "bgp: {defaults: {families: [ipv4, ipv6], extended_next_hop: true}}"
    unnumbered, _ = only(peering(snap, "four", both))
    assert (unnumbered.extended_next_hop, unnumbered.families) == (True, frozenset(Family))
    assert unnumbered.next_hops == {Family.IPV4: parse_address("10.0.1.40")}
    # a link-local end is no next hop beyond its link: the node's own address is
    assert only(peering(snap, "worker1"))[0].next_hops == {Family.IPV6: OWN6}


# Dynamic neighbours.


def test_dynamic_neighbours() -> None:
    config = """
bgp:
  defaults: {max_prefixes: 7, add_path: false}
  listen_ranges:
  - prefix: 192.0.2.0/24
    asns: [65010, 65011]
    max_sessions: 3
    hold_time: 9
    families: [ipv4, ipv6]
    password_file: /a
    filters: [a, b]
    ttl_security: 1
    extended_next_hop: true
  - {prefix: "2001:db8::/64", asns: [64512]}
"""
    reflector = replace(WORKER1, route_reflector_cluster_id=parse_address("1.0.0.1"))
    files = {Path("/a"): Password(b"file")}
    snap = snapshot(nodes=(reflector,), filters={"a": BGPFilter("a")})
    found = peering(snap, config=config, passwords=files)
    four, six = found.dynamic
    assert four.template == PeerConfig(
        id=PeerId("Dynamic_192_0_2_0_24"),
        kind=PeerKind.DYNAMIC,
        source="listen range 192.0.2.0/24",
        address=parse_address("192.0.2.0"),
        port=179,
        asn=0,
        local_asn=64512,
        router_id=OWN,
        local_address=None,
        next_hops={Family.IPV6: OWN6},
        families=frozenset(Family),
        passive=True,
        hold_time=9.0,
        password="file",
        ttl_security=1,
        add_path=False,
        extended_next_hop=True,
        asns=frozenset({65010, 65011}),
        max_prefixes=7,
    )
    assert (four.family, four.prefix) == parse_prefix("192.0.2.0/24")
    assert (four.limit, four.policy) == (3, PeerPolicy(("a", "b")))
    assert (six.limit, six.template.hold_time) == (100, 90.0)
    assert six.template.families == {Family.IPV6}
    assert six.policy == PeerPolicy(cluster_id=parse_address("1.0.0.1"), client=True)
    assert found.problems == (
        Problem("configuration", "bgp.listen_ranges.0.filters", "there is no BGPFilter b: skipped"),
    )
    assert found.peers == {}


@pytest.mark.parametrize(
    ("options", "path", "message"),
    [
        ("password_file: /a", "bgp.listen_ranges.0.password_file", "/a was not read"),
        ("hold_time: 9", "bgp.defaults.password_file", "/b was not read"),
        (
            "password_file: null, filters: [bad]",
            "bgp.listen_ranges.0.filters",
            "BGPFilter bad cannot be used",
        ),
    ],
)
def test_a_range_that_cannot_be_protected_lets_nobody_in(options: str, path: str, message: str) -> None:
    config = (
        f"bgp: {{defaults: {{password_file: /b}}, listen_ranges: "
        f"[{{prefix: 192.0.2.0/24, asns: [1], {options}}}]}}"
    )
    found = peering(snapshot(unusable=frozenset({("BGPFilter", "bad")})), config=config)
    assert found.dynamic == ()
    assert found.problems == (
        Problem("configuration", path, f"{message}: nobody may come in from 192.0.2.0/24"),
    )


def test_passwords_are_shown_nowhere() -> None:
    files = {Path("/a"): Password(b"of the file")}
    config = "bgp: {listen_ranges: [{prefix: 192.0.2.0/24, asns: [1], password_file: /a}]}"
    snap = snapshot(replace(PEER, password=KEY))
    found = peering(snap, config=config, passwords=files)
    assert (only(found)[0].password, found.dynamic[0].template.password) == ("swordfish", "of the file")
    shown = f"{found!r} {snap!r} {files!r}"
    assert "swordfish" not in shown
    assert "of the file" not in shown


REFLECTOR = replace(WORKER1, route_reflector_cluster_id=parse_address("1.0.0.1"))


@pytest.mark.parametrize("port", [None, 179, 1790])
@pytest.mark.parametrize(
    ("own", "naming", "harmless"),
    [
        (WORKER1, {"node": "worker1"}, False),
        (WORKER1, {}, False),
        (REFLECTOR, {}, True),
        (REFLECTOR, {"node_selector": "all()"}, True),
        (REFLECTOR, {"node": "worker1"}, False),
    ],
)
@pytest.mark.parametrize("address", [OWN, OWN6])
def test_a_peer_that_is_this_node(
    own: Node, naming: dict[str, Any], harmless: bool, port: int | None, address: Address
) -> None:
    """Named, whatever the port; harmless where a reflector reads what makes all others to peer with it."""
    spec = BGPPeer("self", peer_ip=address, peer_port=port, as_number=65001, reverse=False, **naming)
    found = peering(snapshot(spec, nodes=(own,)))
    words = "it is this node's own address: not peered with"
    assert found.problems == (Problem("BGPPeer self", "spec.peerIP", words, harmless),)
    assert not found.peers


def test_an_address_that_lies_on_this_machine_today() -> None:
    """An address that moves (a VIP) is peered with while it is another's."""
    here = frozenset({TOR, OWN})
    away, today = (
        peers(snapshot(PEER), "worker1", parse("node: worker1", "test"), here=h)
        for h in (frozenset[Address](), here)
    )
    assert len(away.peers) == 1 and not away.problems
    assert not today.peers
    words = "10.0.1.1 is an address of this machine: not peered with"
    assert today.problems == (Problem("BGPPeer tor", "", words),)


@pytest.mark.parametrize("text", ["127.0.0.1", "127.0.0.5", "127.255.255.254", "::1"])
def test_the_loopback_is_this_machine(text: str) -> None:
    """All of 127.0.0.0/8 is, though no interface lists it: a dial would reach our own listener."""
    own = Node("worker1", {}, OWN, parse_address("fd00::30"))
    found = peering(snapshot(BGPPeer("lo", peer_ip=parse_address(text), as_number=65001), nodes=(own,)))
    assert not found.peers
    assert found.problems == (
        Problem("BGPPeer lo", "", f"{text} is an address of this machine: not peered with"),
    )


def test_another_node_with_an_address_of_this_one() -> None:
    twin = Node("twin", {}, OWN)
    found = peering(snapshot(configuration=BGPConfiguration("default"), nodes=(twin,)))
    assert {peer.source for peer in found.peers.values()} == {"Node control"}
    words = "10.0.1.30 is this node's own address: not peered with"
    assert Problem("Node twin", "", words) in found.problems
