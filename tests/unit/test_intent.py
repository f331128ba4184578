"""Resources and configuration become sessions, policy and originations; nobody is sent anything false meanwhile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bgpd.config.reading import parse
from bgpd.daemon.admin import Orders
from bgpd.daemon.drain import Draining
from bgpd.daemon.intent import Intent, resource_changes
from bgpd.daemon.startup import Convergence
from bgpd.model.doors import Impossible
from bgpd.model.prefix import Address, Family, Prefix
from bgpd.model.resources import BGPConfiguration, BGPPeer, BlockAffinity, IPPool, Node, Snapshot
from bgpd.rib.router import Router
from tests.unit.builders import addr, pfx

MESH_OFF = BGPConfiguration("default", node_to_node_mesh_enabled=False)
TOR = BGPPeer("tor", peer_ip=addr("10.0.1.1"), as_number=65001)
OTHER = BGPPeer("other", peer_ip=addr("10.0.1.2"), as_number=65001)
NODE = Node("worker1", {}, addr("10.0.1.30"))
RESOURCES = Snapshot(nodes={"worker1": NODE}, peers={"tor": TOR}, bgp_configurations={"default": MESH_OFF})


class Around:
    """The kernel, the speaker and the update groups, as far as ``Intent`` and ``Orders`` ask them; all calls noted."""

    def __init__(self) -> None:
        self.lying: set[Address] = {addr("10.0.1.30")}
        self.subnets: dict[Family, dict[Prefix, str]] = {Family.IPV4: {pfx("10.0.1.0/24"): "ens5"}}
        self.follow_foreign = False
        self.calls: list[Any] = []
        self.shutdowns: dict[Any, str] = {}
        self.up: set[Any] = set()
        self.refreshes = True
        self.sessions = self

    # the kernel

    def addresses(self, family: Family) -> frozenset[Address]:
        return frozenset(address for address in self.lying if len(address) == family.bits // 8)

    def connected(self, family: Family) -> dict[Prefix, str]:
        return self.subnets.get(family, {})

    def workloads(self) -> dict[Any, Any]:
        return {}

    def foreign(self) -> dict[Any, Any]:
        return {}

    # the speaker

    def configure(self, peers: Any, *rest: Any) -> frozenset[Any]:
        self.calls.append(("configure", sorted(peers)))
        self.heirs = rest[-1]
        return frozenset()

    def shutdown(self, peer: Any, message: str) -> None:
        self.shutdowns[peer] = message

    def enable(self, peer: Any) -> None:
        self.shutdowns.pop(peer, None)

    def reset(self, peer: Any, message: str) -> None:
        self.calls.append(("reset", peer, message))

    def peer(self, peer: Any) -> Any:
        return self if peer in self.up else None

    def addresses_came(self, addresses: frozenset[Address]) -> None:
        self.came = addresses

    families = frozenset({Family.IPV4})

    def request_refresh(self, peer: Any) -> bool:
        self.calls.append(("ask", peer))
        return self.refreshes

    # the update groups

    def move_sessions(self, moved: Any) -> None: ...

    def refresh(self, session: Any, family: Family) -> None:
        self.calls.append(("advertise", family))

    # what is remembered

    full = False
    kept: Any = None

    def write(self, shutdowns: Any, otherwise: str) -> None:
        self.kept = dict(shutdowns)
        if self.full:
            raise Impossible(f"{otherwise}: the disk is full")
        self.calls.append(("write", dict(shutdowns)))


@pytest.fixture
def around() -> Around:
    return Around()


@pytest.fixture
def intent(around: Around, tmp_path: Path) -> Intent:
    parts: Any = around
    config = parse("node: worker1", "test")
    made = Intent(
        config,
        parts,
        Router(lambda _: None),
        parts,
        parts,
        Convergence(),
        Draining(tmp_path),  # type: ignore[arg-type,return-value]
    )
    made.reconfigured(config)
    return made


def decided(intent: Intent, snapshot: Snapshot) -> list[str]:
    intent.follow(snapshot, lambda: None)
    assert intent.peering is not None
    return sorted(intent.peering.peers)


def test_sessions_are_engaged_only_when_they_differ(intent: Intent, around: Around) -> None:
    assert decided(intent, RESOURCES) == ["Global_10_0_1_1"]
    assert around.calls == [("configure", ["Global_10_0_1_1"])]
    decided(intent, RESOURCES)
    assert len(around.calls) == 1
    both = replace(RESOURCES, peers={"tor": TOR, "other": OTHER})
    assert decided(intent, both) == ["Global_10_0_1_1", "Global_10_0_1_2"]
    assert around.calls[-1] == ("configure", ["Global_10_0_1_1", "Global_10_0_1_2"])


def test_nothing_is_dialled_before_what_is_announced_is_known(intent: Intent, around: Around) -> None:
    seen: list[Any] = []
    intent.follow(RESOURCES, lambda: seen.append((list(around.calls), set(intent.originations))))
    assert seen == [([], {*Family})] and around.calls == [("configure", ["Global_10_0_1_1"])]


def test_a_configuration_that_was_read_again_finds_the_peers_anew(intent: Intent, around: Around) -> None:
    decided(intent, RESOURCES)
    before = intent.peering
    intent.reconfigured(parse("node: worker1\nbgp: {defaults: {hold_time: 30}}", "test"))
    decided(intent, RESOURCES)
    assert intent.peering is not before and len(around.calls) == 2
    assert intent.peering is not None
    assert {peer.hold_time for peer in intent.peering.peers.values()} == {30.0}


def test_an_address_that_comes_to_this_machine_is_no_peer_while_it_is_here(
    intent: Intent, around: Around
) -> None:
    assert not intent.moved()  # nothing is decided yet
    assert decided(intent, RESOURCES) == ["Global_10_0_1_1"] and not intent.moved()
    around.lying.add(addr("10.0.1.1"))
    assert intent.moved()
    assert decided(intent, RESOURCES) == [] and not intent.moved()
    assert around.came == {addr("10.0.1.1")}
    assert around.calls[-1] == ("configure", [])
    around.lying.discard(addr("10.0.1.1"))
    assert intent.moved() and decided(intent, RESOURCES) == ["Global_10_0_1_1"]


def test_routes_of_a_node_with_another_address_are_handed_on(
    intent: Intent, around: Around, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(intent.router, "hand_on", lambda old, new, now: calls.append((old, new)))
    monkeypatch.setattr(intent.router, "forget_peer", lambda peer: calls.append((peer,)))
    mesh = replace(RESOURCES, peers={}, bgp_configurations={})
    nodes = {name: Node(name, {}, addr(text)) for name, text in (("b", "10.0.1.40"), ("c", "10.0.1.50"))}
    decided(intent, replace(mesh, nodes={"worker1": NODE, **nodes}))
    decided(intent, replace(mesh, nodes={"worker1": NODE, "b": Node("b", {}, addr("10.0.1.41"))}))
    assert sorted(calls) == [("Mesh_10_0_1_40", "Mesh_10_0_1_41"), ("Mesh_10_0_1_50",)]
    assert around.heirs == {"Mesh_10_0_1_40": "Mesh_10_0_1_41"}


def test_the_subnets_of_links_are_the_policys(intent: Intent, around: Around) -> None:
    decided(intent, RESOURCES)
    assert intent.policy.subnets == {Family.IPV4: (pfx("10.0.1.0/24"),), Family.IPV6: ()}
    around.subnets[Family.IPV6] = {pfx("fd00::/64"): "ens5"}
    assert intent.moved()
    decided(intent, RESOURCES)
    assert intent.policy.subnets[Family.IPV6] == (pfx("fd00::/64"),) and not intent.moved()


def test_a_block_leaves_the_policy_as_it_is(intent: Intent) -> None:
    """It is what is announced that differs by it; all else that the policy follows from makes it anew."""
    decided(intent, RESOURCES)
    before = intent.policy
    block = BlockAffinity("b", "worker1", Family.IPV4, pfx("10.48.0.0/26"))
    snapshot = replace(RESOURCES, affinities={"b": block})
    decided(intent, snapshot)
    assert intent.policy is before
    assert pfx("10.48.0.0/26") in intent.originations[Family.IPV4].announce
    hidden = IPPool("p", Family.IPV4, pfx("10.48.0.0/16"), 26, disable_bgp_export=True)
    decided(intent, snapshot := replace(snapshot, pools={"p": hidden}))
    assert intent.policy is not before
    assert pfx("10.48.0.0/26") not in intent.originations[Family.IPV4].announce
    before, cordoned = intent.policy, {"worker1": replace(NODE, unschedulable=True)}
    decided(intent, snapshot := replace(snapshot, nodes=cordoned))
    assert intent.policy is not before
    before = intent.policy
    intent.reconfigured(parse("node: worker1\nbgp: {route_priority: on}", "test"))
    decided(intent, snapshot)
    assert intent.policy is not before


def test_changes_of_resources_in_words() -> None:
    before = {("Node", "add"): 3, ("BGPPeer", "delete"): 0}
    after = {("Node", "add"): 3, ("BGPPeer", "delete"): 2, ("BGPPeer", "change"): 1}
    assert resource_changes(before, after) == "BGPPeer 1 change, BGPPeer 2 delete"
    assert resource_changes(after, after) == ""


# The operator's orders.

PEER: Any = "Global_10_0_1_1"


@pytest.fixture
def orders(intent: Intent, around: Around) -> Orders:
    decided(intent, RESOURCES)
    around.calls.clear()
    parts: Any = around
    return Orders(parts, parts, intent, parts)


def test_a_shutdown_is_not_waited_for_and_remembered(orders: Orders, intent: Intent, around: Around) -> None:
    stated = orders.carry_out("shutdown", PEER, "rack move")
    assert stated.startswith("Global_10_0_1_1 is shut down, also over restarts")
    assert around.calls == [("write", {PEER: "rack move"})] and intent.convergence.waiting(0.0) == []
    assert orders.carry_out("enable", PEER, "") == "Global_10_0_1_1 is enabled"
    assert around.calls[-1] == ("write", {}) and intent.convergence.waiting(0.0) == [PEER]


def test_what_cannot_be_remembered_is_done_and_reported(orders: Orders, around: Around) -> None:
    around.full = True
    with pytest.raises(Impossible, match="only until bgpd restarts: the disk is full"):
        orders.carry_out("shutdown", PEER, "")
    assert PEER in around.shutdowns


def test_a_shutdown_follows_the_name_of_its_peer(orders: Orders, around: Around) -> None:
    orders.carry_out("shutdown", PEER, "rack move")
    orders.follow_names()
    assert len(around.calls) == 1  # nothing has another name
    around.shutdowns = {"Node_10_0_1_1": "rack move"}
    orders.follow_names()
    assert around.calls[1:] == [("write", {"Node_10_0_1_1": "rack move"})]
    around.full, around.shutdowns = True, {}
    orders.follow_names()  # what cannot be kept is logged, and ends nothing


@pytest.mark.parametrize("action", ["reset", "soft-in", "soft-out"])
def test_what_is_shut_down_is_neither_reset_nor_refreshed(
    orders: Orders, around: Around, action: Any
) -> None:
    orders.carry_out("shutdown", PEER, "")
    around.up.add(PEER)
    around.calls.clear()
    with pytest.raises(Impossible, match="is shut down; bgpctl peer enable Global_10_0_1_1"):
        orders.carry_out(action, PEER, "")
    assert around.calls == []


def test_reset_and_refresh(orders: Orders, around: Around) -> None:
    assert orders.carry_out("reset", PEER, "hello") == "Global_10_0_1_1 was reset"
    assert around.calls == [("reset", PEER, "hello")]
    for action in ("soft-in", "soft-out"):
        with pytest.raises(Impossible, match="is not established"):
            orders.carry_out(action, PEER, "")  # type: ignore[arg-type]
    around.up.add(PEER)
    orders.carry_out("soft-in", PEER, "")
    orders.carry_out("soft-out", PEER, "")
    assert around.calls[1:] == [("ask", PEER), ("advertise", Family.IPV4)]
    around.refreshes = False
    with pytest.raises(Impossible, match="RFC 2918"):
        orders.carry_out("soft-in", PEER, "")
