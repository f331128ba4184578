"""The examples of docs/peers.md are taken by the datastore and the configuration; the sessions are as promised."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from bgpd.config.reading import parse
from bgpd.config.values import Password
from bgpd.config.yaml import load_documents
from bgpd.datastore.calico.decode import decode
from bgpd.model.prefix import Family, parse_address
from bgpd.model.resources import BGPConfiguration, BGPFilter, BGPPeer, LocalWorkload, Node, Secret, Snapshot
from bgpd.rules.peering import peers

PAGE = (Path(__file__).parents[2] / "docs" / "peers.md").read_text()
CLUSTER_ID = parse_address("244.0.0.1")


def reflector(name: str, address: str) -> Node:
    labels = {"route-reflector": ""}
    return Node(name, labels, parse_address(address), route_reflector_cluster_id=CLUSTER_ID)


def example(title: str) -> tuple[Snapshot, str]:
    """The resources of a section, and its configuration."""
    section = PAGE.partition(f"### {title}\n")[2].partition("\n## ")[0].partition("\n### ")[0]
    assert section
    blocks = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    found: dict[type, dict[str, object]] = {BGPPeer: {}, BGPConfiguration: {}}
    for document in load_documents("\n---\n".join(block for block in blocks if "kind:" in block), "peers.md"):
        for decoded in decode(document.value, "peers.md"):
            assert not decoded.problems
            assert decoded.key is not None
            found[type(decoded.resource)][decoded.key.name] = decoded.resource
    snapshot = Snapshot(
        nodes={
            "worker": Node("worker", {"rack": "r1", "spine": ""}, parse_address("10.0.1.30")),
            "rr1": reflector("rr1", "10.0.1.1"),
            "rr2": reflector("rr2", "10.0.1.2"),
        },
        peers=found[BGPPeer],  # type: ignore[arg-type]
        bgp_configurations=found[BGPConfiguration] or {"default": BGPConfiguration()},  # type: ignore[arg-type]
        filters={name: BGPFilter(name) for name in ("to-tor", "from-nested", "from-vms")},
        secrets={"bgp": Secret("bgp", "kube-system", {"tor": b"secret"})},
    )
    return snapshot, next((block for block in blocks if "kind:" not in block), "")


def names(snapshot: Snapshot, own: str) -> set[str]:
    return set(peers(snapshot, own, parse(f"node: {own}", "test")).peers)


def test_the_switch() -> None:
    snapshot, _ = example("A top-of-rack switch, with password and GTSM")
    inline = re.search(r"`(bgp: \{peers: .*?\})`", PAGE)
    assert inline
    found = peers(snapshot, "worker", parse(f"node: worker\n{inline[1]}", "peers.md"))
    tor = {str(name): peer for name, peer in found.peers.items()}["Node_192_0_2_1"]
    assert (tor.password, tor.ttl_security, tor.restart_time, tor.hold_time) == ("secret", 1, 60, 9.0)
    assert found.problems == ()


def test_reflectors() -> None:
    snapshot, _ = example("Route reflectors by selector")
    assert names(snapshot, "worker") == {"Node_10_0_1_1", "Node_10_0_1_2"}
    assert names(snapshot, "rr1") == {"Node_10_0_1_30", "Node_10_0_1_2"}
    policies = peers(snapshot, "rr1", parse("node: rr1", "test")).policies
    assert {str(name): policy.client for name, policy in policies.items()} == {
        "Node_10_0_1_30": True,
        "Node_10_0_1_2": False,
    }


def test_pods() -> None:
    snapshot, _ = example("Pods that speak BGP")
    workloads = (LocalWorkload("cali1", "nested-clusters", parse_address("10.48.0.7")),)
    assert "Local_Workload_10_48_0_7" in names(replace(snapshot, local_workloads=workloads), "worker")


def test_dynamic_neighbours() -> None:
    snapshot, config = example("Dynamic neighbours")
    passwords = MappingProxyType({Path("/etc/bgpd/vms.password"): Password(b"x")})
    found = peers(snapshot, "worker", parse(f"node: worker\n{config}", "peers.md"), passwords)
    (vms,) = found.dynamic
    assert (vms.limit, vms.policy.filters, vms.template.password) == (20, ("from-vms",), "x")


def test_unnumbered() -> None:
    snapshot, config = example("Unnumbered: IPv4 over a link-local session")
    found = peers(snapshot, "worker", parse(f"node: worker\n{config}", "peers.md"))
    spine = {str(name): peer for name, peer in found.peers.items()}["Node_fe80__1%eth0"]
    assert (spine.interface, spine.extended_next_hop, spine.families) == ("eth0", True, frozenset(Family))
    assert found.problems == ()
