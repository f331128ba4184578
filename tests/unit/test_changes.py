"""What another plan would change: sessions by what resets them, policy that resets none, routes, rules, problems."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any

import pytest
import yaml

from bgpd.bgp.session import Session
from bgpd.config.reading import parse
from bgpd.config.values import Password
from bgpd.datastore.offline import read
from bgpd.model.bfd import BfdOptions
from bgpd.model.peer import PeerConfig, PeerPolicy
from bgpd.model.prefix import Family, parse_prefix
from bgpd.model.route import WorkloadRoute
from bgpd.views.changes import changes
from bgpd.views.plan import KernelFacts, Plan, plan
from testing.resources import affinity, bgp_configuration, bgp_peer, node, pool, resource

OWN = node("worker1", "10.0.1.30/24", labels={"rack": "r1"})
OTHERS = (node("worker0", "10.0.1.29/24"), node("worker2", "10.0.1.31/24"))
SETTINGS = bgp_configuration()
POOL, BLOCK = pool("default", "10.48.0.0/16"), affinity("worker1", "10.48.0.192/26")
CLUSTER = (*OTHERS, POOL, BLOCK)
TOR_NAME = "Global_10_0_1_1"
SECRET = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bgp", "namespace": "x"}}
WITH_PASSWORD = {"password": {"secretKeyRef": {"name": "bgp", "key": "tor"}}}
CONFIG = """\
node: worker1
bgp: {listen_ranges: [{prefix: 192.0.2.0/24, asns: [65010], filters: [out]}]}
"""


@pytest.fixture
def planned(tmp_path: Path) -> Any:
    """The plan of resources."""

    def go(*objects: dict[str, Any], config: str = "node: worker1", encoded: bool = False) -> Plan:
        (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(objects))
        parsed = parse(config, "test")
        route = WorkloadRoute(parse_prefix("10.48.9.9")[1], "cali1")
        kernel = KernelFacts({Family.IPV4: frozenset({route})}, {}, frozenset(Family))
        passwords = MappingProxyType({Path("/tor"): Password(b"from a file")})
        return plan(read(tmp_path, "worker1"), parsed, passwords, kernel, encoded)

    return go


def tor(**spec: Any) -> dict[str, Any]:
    return bgp_peer("tor", "10.0.1.1", spec.pop("asNumber", 65001), **spec)


def settings(**spec: Any) -> dict[str, Any]:
    found = bgp_configuration()
    found["spec"] |= spec
    return found


def secret(text: str) -> dict[str, Any]:
    return {**SECRET, "stringData": {"tor": text}}


def names(entries: list[dict[str, Any]]) -> list[str]:
    return [entry["name"] for entry in entries]


def different(found: dict[str, Any]) -> set[str]:
    """Which parts of the document say something."""
    parts = {
        f"{key}.{name}" if isinstance(value, dict) else key
        for key, value in found.items()
        if isinstance(value, dict | list)
        for name in (value if isinstance(value, dict) else ("",))
        if (value[name] if isinstance(value, dict) else value)
    }
    assert found["changes"] == bool(parts)
    return parts


def test_nothing(planned: Any) -> None:
    of = planned(OWN, *CLUSTER, SETTINGS, tor(filters=["gone"]), config=CONFIG)
    found = changes(of, planned(*CLUSTER, OWN, tor(filters=["gone"]), SETTINGS, config=CONFIG), {TOR_NAME})
    assert (found["schema_version"], found["node"], found["changes"]) == (1, "worker1", False)
    assert different(found) == set()


@pytest.mark.parametrize(
    ("before", "after", "field", "values"),
    [
        ({}, {"asNumber": 65002}, "asn", (65001, 65002)),
        ({}, {"localASNumber": 64600}, "local_asn", (64512, 64600)),
        ({}, {"sourceAddress": "None"}, "source_address", ("10.0.1.30", None)),
        ({}, {"ttlSecurity": 1}, "ttl_security", (None, 1)),
        ({}, {"keepaliveTime": "10s"}, "keepalive_s", (None, 10)),
        ({"maxRestartTime": "30s"}, {}, "graceful_restart_s", (30, 120)),
        ({}, WITH_PASSWORD, "password", (False, True)),
    ],
)
def test_fields_that_reset(
    planned: Any, before: dict[str, Any], after: dict[str, Any], field: str, values: tuple[Any, Any]
) -> None:
    cluster = (OWN, *CLUSTER, SETTINGS, secret("pass-word"))
    found = changes(planned(*cluster, tor(**before)), planned(*cluster, tor(**after)), {TOR_NAME})
    assert different(found) == {"sessions.reset"}
    (entry,) = found["sessions"]["reset"]
    assert (entry["name"], entry["address"], entry["established"]) == (TOR_NAME, "10.0.1.1", True)
    one, other = values
    assert entry["fields"] == [{"field": field, "before": one, "after": other, "resets": True}]
    assert "pass-word" not in json.dumps(found)


@pytest.mark.parametrize(
    ("after", "field", "values"),
    [
        ({"nextHopMode": "Self"}, "next_hop", ("auto", "self")),
        ({"numAllowedLocalASNumbers": 1}, "allow_own_as", (0, 1)),
        ({"filters": ["out"]}, "filters", ([], ["out"])),
    ],
)
def test_fields_that_do_not(planned: Any, after: dict[str, Any], field: str, values: tuple[Any, Any]) -> None:
    cluster = (OWN, *CLUSTER, SETTINGS, resource("BGPFilter", "out", {}))
    found = changes(planned(*cluster, tor()), planned(*cluster, tor(**after)), ())
    assert different(found) == {"sessions.changed"}
    (entry,) = found["sessions"]["changed"]
    assert (entry["name"], entry["established"]) == (TOR_NAME, False)
    one, other = values
    assert entry["fields"] == [{"field": field, "before": one, "after": other, "resets": False}]


def test_a_gateway_is_a_route_and_no_reset(planned: Any) -> None:
    cluster = (OWN, *CLUSTER, SETTINGS)
    far = bgp_peer("far", "10.9.9.9", 65001)
    there = bgp_peer("far", "10.9.9.9", 65001, reachableBy="10.0.1.1")
    found = changes(planned(*cluster, far), planned(*cluster, there), ())
    assert different(found) == {"sessions.changed", "settings"}
    assert found["settings"] == [
        {"setting": "ipv4.host_routes", "before": [], "after": ["10.9.9.9/32 via 10.0.1.1"]}
    ]


def test_another_password_is_reported_without_it(planned: Any) -> None:
    cluster = (OWN, *CLUSTER, SETTINGS, tor(**WITH_PASSWORD))
    found = changes(planned(*cluster, secret("old-one")), planned(*cluster, secret("new-one")), {TOR_NAME})
    (entry,) = found["sessions"]["reset"]
    assert entry["fields"] == [{"field": "password", "before": True, "after": True, "resets": True}]
    assert "old-one" not in json.dumps(found) and "new-one" not in json.dumps(found)


def test_a_password_that_goes_ends_the_session_and_says_so(planned: Any) -> None:
    cluster = (OWN, *CLUSTER, SETTINGS, tor(**WITH_PASSWORD))
    found = changes(planned(*cluster, secret("x")), planned(*cluster), {TOR_NAME})
    assert different(found) == {"sessions.removed", "problems.added"}
    why = "BGPPeer tor: spec.password: Secret bgp is missing: not peered with"
    assert found["sessions"]["removed"] == [
        {"name": TOR_NAME, "address": "10.0.1.1", "established": True, "why": why}
    ]
    mesh = {"nodeMeshPassword": {"secretKeyRef": {"name": "bgp", "key": "tor"}}}
    cluster = (OWN, *CLUSTER, settings(**mesh))
    found = changes(planned(*cluster, secret("x")), planned(*cluster), ())
    assert {entry["why"] for entry in found["sessions"]["removed"]} == {
        "BGPConfiguration default: spec.nodeMeshPassword: Secret bgp is missing: not peered with"
    }


def test_sessions_that_come_and_go(planned: Any) -> None:
    worker0, worker2 = OTHERS
    before = planned(OWN, worker0, worker2, SETTINGS)
    to_worker2 = resource("BGPPeer", "direct", {"node": "worker1", "peerIP": "10.0.1.31"})
    found = changes(before, planned(OWN, worker2, SETTINGS, to_worker2, tor()), {"Mesh_10_0_1_29"})
    assert different(found) == {"sessions.added", "sessions.removed"}
    assert names(found["sessions"]["added"]) == [TOR_NAME, "Node_10_0_1_31"]
    assert found["sessions"]["added"][0]["type"] == "ebgp", "a whole peer"
    assert found["sessions"]["removed"] == [
        {
            "name": "Mesh_10_0_1_29",
            "address": "10.0.1.29",
            "established": True,
            "why": "no resource asks for it any more",
        },
        {
            "name": "Mesh_10_0_1_31",
            "address": "10.0.1.31",
            "established": False,
            "why": "Node_10_0_1_31 takes its place",
        },
    ]


def test_an_as_number_resets_all(planned: Any) -> None:
    before = planned(OWN, *CLUSTER, SETTINGS, tor(), config=CONFIG)
    found = changes(before, planned(OWN, *CLUSTER, settings(asNumber=64600), tor(), config=CONFIG), ())
    assert different(found) == {"settings", "sessions.reset"}
    assert found["settings"] == [{"setting": "asn", "before": 64512, "after": 64600}]
    assert names(found["sessions"]["reset"]) == [
        TOR_NAME,
        "Mesh_10_0_1_29",
        "Mesh_10_0_1_31",
        "Dynamic_192_0_2_0_24",
    ]
    mesh = found["sessions"]["reset"][1]["fields"]
    assert [(entry["field"], entry["resets"]) for entry in mesh] == [("asn", True), ("local_asn", True)]


def test_what_a_filter_says_resets_nobody(planned: Any) -> None:
    def out(**spec: Any) -> dict[str, Any]:
        return resource("BGPFilter", "out", {"importV4": [{"action": "Accept"}], **spec})

    cluster = (OWN, *CLUSTER, SETTINGS, tor(filters=["out"]))
    before = planned(*cluster, out(), resource("BGPFilter", "unused", {}), config=CONFIG)
    reject = {"exportV4": [{"cidr": "10.48.0.0/16", "matchOperator": "In", "action": "Reject"}]}
    found = changes(before, planned(*cluster, out(**reject), config=CONFIG), {TOR_NAME})
    assert different(found) == {"filters"}
    users = [TOR_NAME, "Dynamic_192_0_2_0_24"]
    assert found["filters"] == [{"name": "out", "change": "changed", "lists": ["exportV4"], "peers": users}]
    found = changes(before, planned(*cluster, config=CONFIG), {TOR_NAME})
    assert different(found) == {"filters", "problems.added"}
    assert found["filters"] == [{"name": "out", "change": "removed", "lists": ["importV4"], "peers": users}]
    found = changes(planned(*cluster, config=CONFIG), before, {TOR_NAME})
    assert different(found) == {"filters", "problems.gone"} and found["filters"][0]["change"] == "added"


def test_routes(planned: Any) -> None:
    before = planned(OWN, *CLUSTER, SETTINGS)
    after = planned(
        OWN,
        *(*OTHERS, POOL, affinity("worker1", "10.48.2.0/26")),
        settings(prefixAdvertisements=[{"cidr": "10.48.9.0/24", "communities": ["64512:9"]}]),
    )
    found = changes(before, after, ())
    assert different(found) == {
        *("settings", "announce.added", "announce.removed", "announce.changed"),
        *("blackholes.added", "blackholes.removed"),
    }
    assert [entry["prefix"] for entry in found["announce"]["added"]] == ["10.48.2.0/26"]
    assert [entry["prefix"] for entry in found["announce"]["removed"]] == ["10.48.0.192/26"]
    (changed,) = found["announce"]["changed"]
    assert changed["prefix"] == "10.48.9.9/32"
    assert (changed["before"]["communities"], changed["after"]["communities"]) == ([], ["64512:9"])
    assert found["blackholes"] == {"added": ["10.48.2.0/26"], "removed": ["10.48.0.192/26"]}
    assert [entry["setting"] for entry in found["settings"]] == ["ipv4.prefix_advertisements"]


def test_kernel_rules(planned: Any) -> None:
    def made(**spec: Any) -> tuple[dict[str, Any], ...]:
        return OWN, settings(programClusterRoutes="Enabled"), pool("default", "10.48.0.0/16", **spec)

    before, crossing = planned(*made(ipipMode="Always")), planned(*made(ipipMode="CrossSubnet"))
    found = changes(before, crossing, ())
    assert different(found) == {"kernel_rules.changed", "settings"}
    (changed,) = found["kernel_rules"]["changed"]
    assert (changed["before"]["when"], changed["after"]["when"]) == ("always", "cross-subnet")
    assert found["settings"] == [{"setting": "ipv4.own_subnet", "before": None, "after": "10.0.1.0/24"}]
    services = settings(programClusterRoutes="Enabled", serviceClusterIPs=[{"cidr": "10.96.0.0/12"}])
    found = changes(before, planned(OWN, services, pool("default", "10.48.0.0/16", ipipMode="Always")), ())
    assert different(found) == {"kernel_rules.added", "announce.added", "settings"}
    assert [rule["cidr"] for rule in found["kernel_rules"]["added"]] == ["10.96.0.0/12"]
    found = changes(before, planned(OWN, settings(programClusterRoutes="Enabled")), ())
    assert [rule["cidr"] for rule in found["kernel_rules"]["removed"]] == ["10.48.0.0/16"]


@pytest.mark.parametrize(
    ("spec", "setting", "before", "after"),
    [
        ({"listenPort": 1179}, "listen", 179, 1179),
        ({"ipv4NormalRoutePriority": 512}, "local_pref_carries_metric", False, True),
        ({"ignoredInterfaces": ["eth*"]}, "ignored_interfaces", [], ["eth*"]),
    ],
)
def test_settings(planned: Any, spec: dict[str, Any], setting: str, before: Any, after: Any) -> None:
    found = changes(planned(OWN, SETTINGS), planned(OWN, settings(**spec)), ())
    entry = next(entry for entry in found["settings"] if entry["setting"] == setting)
    if setting == "listen":
        assert (entry["before"][0]["port"], entry["after"][0]["port"]) == (before, after)
    else:
        assert (entry["before"], entry["after"]) == (before, after)


def test_a_peer_shows_that_local_pref_carries_metrics(planned: Any) -> None:
    with_it = settings(ipv4NormalRoutePriority=1024)
    assert (
        different(changes(planned(OWN, SETTINGS, encoded=True), planned(OWN, with_it, encoded=True), ()))
        == set()
    )


def test_a_pool_that_is_hidden(planned: Any) -> None:
    hidden = pool("default", "10.48.0.0/16", disableBGPExport=True)
    found = changes(planned(OWN, *CLUSTER, SETTINGS), planned(OWN, *OTHERS, BLOCK, hidden, SETTINGS), ())
    assert different(found) == {"settings", "announce.removed"}
    assert [entry["setting"] for entry in found["settings"]] == ["ipv4.exported_pools", "ipv4.hidden_pools"]


def test_every_field_is_reported_and_resets_as_the_session_has_it(planned: Any) -> None:
    """Any difference of a configuration shows, and what is called a reset is one."""
    of = planned(OWN, *CLUSTER, SETTINGS, tor())
    known = {str(name): config for name, config in of.peering.peers.items()}[TOR_NAME]
    made: dict[str, Any] = {
        "port": 180, "asn": 1, "local_asn": 2, "router_id": b"\1\1\1\1", "local_address": None, "interface": "x",
        "next_hops": {Family.IPV6: bytes(16)}, "families": frozenset(Family), "passive": True, "hold_time": 9.5,
        "keepalive_time": 3.0, "password": "p", "ttl_security": 3, "add_path": False, "extended_next_hop": True,
        "reachable_by": b"\1\1\1\1", "restart_time": 1, "max_prefixes": 5, "long_lived_stale_time": 60,
        "address": b"\1\1\1\1", "bfd": BfdOptions(),
    }  # fmt: skip
    assert {*made, "id", "kind", "source", "node", "asns"} == {field.name for field in fields(PeerConfig)}
    for name, value in made.items():
        other: PeerConfig = replace(known, **{name: value})
        peering = of.peering._replace(peers={**of.peering.peers, known.id: other})
        found = changes(of, of._replace(peering=peering), {TOR_NAME})
        session = Session(known, restarted=False, random=Random(1), now=0.0)
        session.configure(other, 1.0)
        entries = found["sessions"]["reset" if session.epoch else "changed"]
        assert names(entries) == [TOR_NAME], name
        (field,) = entries[0]["fields"]
        assert field["before"] != field["after"] and field["resets"] == bool(session.epoch), name
        json.dumps(found)
    ranged = planned(OWN, SETTINGS, config=CONFIG)
    other_range = planned(OWN, SETTINGS, config=CONFIG.replace("[65010]", "[65010, 65011]"))
    (entry,) = changes(ranged, other_range, ())["sessions"]["changed"]
    assert [(field["field"], field["after"]) for field in entry["fields"]] == [("asns", [65010, 65011])]
    policy = replace(PeerPolicy(), client=True, cluster_id=b"\1\1\1\1")
    peering = of.peering._replace(policies={**of.peering.policies, known.id: policy})
    (entry,) = changes(of, of._replace(peering=peering), ())["sessions"]["changed"]
    assert [field["field"] for field in entry["fields"]] == ["cluster_id", "route_reflector_client"]
