"""BGPConfiguration, BGPPeer and Secret, field by field: what is read of each, and each mistake with its path."""

from __future__ import annotations

import base64
import dataclasses
from typing import Any

import pytest

from bgpd.datastore.calico.decode import Verdict
from bgpd.datastore.calico.fields import parse_duration
from bgpd.model.prefix import parse_address, parse_prefix
from bgpd.model.resources import (
    BGPConfiguration,
    BGPPeer,
    ClusterRoutes,
    NextHopMode,
    PrefixAdvertisement,
    Secret,
    SecretKey,
    ServiceRange,
)
from bgpd.rules.communities import parse_community
from tests.unit.test_decode import V1, V3, good, notes, one, thing

REFERENCE = {"secretKeyRef": {"name": "bgp", "key": "tor"}}


def standard(high: int, low: int) -> int:
    return high << 16 | low


# -- words -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120s", 120), ("2m0s", 120), ("1m30s", 90), ("2m", 120), ("1h0m5s", 3605), ("1.5s", 1.5), (".5m", 30),
        ("1500ms", 1.5), ("2000000us", 2), ("3000000µs", 3), ("0", 0), ("0s", 0),
    ],
)  # fmt: skip
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value", ["", "120", "s", "1m 30s", "-5s", "1d", "1e3s", 120, 1.5, None, True, "2m0", "١s"]
)
def test_bad_durations(value: object) -> None:
    with pytest.raises(ValueError, match="expected a duration such as 120s or 2m0s"):
        parse_duration(value)


@pytest.mark.parametrize(
    ("text", "community"),
    [
        ("64512:100", standard(64512, 100)),
        ("0:0", 0),
        ("65535:65535", 0xFFFFFFFF),
        ("64512:1:2", (64512, 1, 2)),
        ("4294967295:0:4294967295", (4294967295, 0, 4294967295)),
    ],
)
def test_communities(text: str, community: object) -> None:
    assert parse_community(text) == community


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("65536:1", "at most 65535"), ("1:65536", "at most 65535"), ("1:4294967296:1", "at most 4294967295"),
        ("1", "such as"), ("1:", "such as"), ("1:2:3:4", "such as"), ("a:b", "such as"), ("-1:2", "such as"),
        (100, "such as"), (None, "such as"), (" 1:2", "such as"),
    ],
)  # fmt: skip
def test_bad_communities(value: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_community(value)


# -- BGPConfiguration --------------------------------------------------------------------------------------------------

RANGES = [{"cidr": "10.96.0.0/12"}, {"cidr": "fd00:96::/108"}, {"cidr": "192.0.2.7/32"}]
READ_RANGES = tuple(ServiceRange(*parse_prefix(entry["cidr"])) for entry in RANGES)


def configured(spec: dict[str, Any], name: str = "default", group: str = V3) -> dict[str, Any]:
    return thing("BGPConfiguration", spec, name, group)


@pytest.mark.parametrize(
    ("key", "value", "field", "read"),
    [
        ("asNumber", 65000, "as_number", 65000),
        ("asNumber", "65000", "as_number", 65000),
        ("asNumber", "1.10", "as_number", 65546),
        ("nodeToNodeMeshEnabled", False, "node_to_node_mesh_enabled", False),
        ("listenPort", 1179, "listen_port", 1179),
        ("bindMode", "None", "bind_mode_node_ip", False),
        ("bindMode", "NodeIP", "bind_mode_node_ip", True),
        ("logSeverityScreen", "Debug", "log_severity_screen", "Debug"),
        ("nodeMeshPassword", REFERENCE, "node_mesh_password", SecretKey("bgp", "tor")),
        ("nodeMeshPassword", {}, "node_mesh_password", None),
        ("nodeMeshMaxRestartTime", "2m0s", "node_mesh_max_restart_time", 120.0),
        ("ignoredInterfaces", ["eth*", "bond0"], "ignored_interfaces", ("eth*", "bond0")),
        ("ignoredInterfaces", [], "ignored_interfaces", ()),
        ("localWorkloadPeeringIPV4", "169.254.1.1", "local_workload_peering_ipv4", parse_address("169.254.1.1")),
        ("localWorkloadPeeringIPV4", "", "local_workload_peering_ipv4", None),
        ("localWorkloadPeeringIPV6", "fd00::179", "local_workload_peering_ipv6", parse_address("fd00::179")),
        *(("programClusterRoutes", mode.value, "program_cluster_routes", mode) for mode in ClusterRoutes),
        ("ipv4NormalRoutePriority", 1, "ipv4_normal_route_priority", 1),
        ("ipv6NormalRoutePriority", 2147483646, "ipv6_normal_route_priority", 2147483646),
        ("serviceClusterIPs", RANGES, "service_cluster_ips", READ_RANGES),
        ("serviceExternalIPs", RANGES, "service_external_ips", READ_RANGES),
        ("serviceLoadBalancerIPs", RANGES, "service_load_balancer_ips", READ_RANGES),
        ("serviceLoadBalancerAggregation", "Enabled", "service_load_balancer_aggregation", True),
        ("serviceLoadBalancerAggregation", "Disabled", "service_load_balancer_aggregation", False),
        ("prefixAdvertisements", [], "prefix_advertisements", ()),
    ],
)  # fmt: skip
@pytest.mark.parametrize("group", [V3, V1])
def test_configuration(key: str, value: object, field: str, read: object, group: str) -> None:
    """One field set is one field of the value, the rest "not stated"."""
    expected = dataclasses.replace(BGPConfiguration("default"), **{field: read})
    assert good(configured({key: value}, group=group)) == expected


@pytest.mark.parametrize(
    ("key", "value", "path", "words"),
    [
        ("asNumber", 1.1, "asNumber", "put it in quotes"),
        ("asNumber", 0, "asNumber", "expected an AS number"),
        ("nodeToNodeMeshEnabled", "si", "nodeToNodeMeshEnabled", "expected true or false"),
        ("listenPort", 0, "listenPort", "from 1 to 65535, not 0"),
        ("listenPort", "179", "listenPort", "from 1 to 65535"),
        ("bindMode", "Any", "bindMode", "expected one of None, NodeIP, not 'Any'"),
        ("nodeMeshPassword", 3, "nodeMeshPassword", "expected keys and values"),
        ("nodeMeshPassword", "secret", "nodeMeshPassword", "expected keys and values"),
        ("nodeMeshPassword", {"secretKeyref": {}}, "nodeMeshPassword.secretKeyRef.name", "not there"),
        ("nodeMeshPassword", {"secretKeyRef": {"name": "a"}}, "nodeMeshPassword.secretKeyRef.key", "not there"),
        ("nodeMeshMaxRestartTime", 120, "nodeMeshMaxRestartTime", "a duration such as 120s or 2m0s, not 120"),
        ("nodeMeshMaxRestartTime", "2h", "nodeMeshMaxRestartTime", "expected at most 4095s, not '2h'"),
        ("ignoredInterfaces", "eth*", "ignoredInterfaces", "expected a list"),
        ("localWorkloadPeeringIPV4", "fd00::1", "localWorkloadPeeringIPV4", "is not of ipv4"),
        ("localWorkloadPeeringIPV6", "169.254.1.1", "localWorkloadPeeringIPV6", "is not of ipv6"),
        ("localWorkloadPeeringIPV6", "::ffff:10.0.0.1", "localWorkloadPeeringIPV6", "expected 10.0.0.1?"),
        ("ipv4NormalRoutePriority", 0, "ipv4NormalRoutePriority", "from 1 to 2147483646"),
        ("ipv6NormalRoutePriority", 2147483647, "ipv6NormalRoutePriority", "from 1 to 2147483646"),
        ("serviceClusterIPs", {"cidr": "10.96.0.0/12"}, "serviceClusterIPs", "expected a list"),
        ("serviceLoadBalancerAggregation", True, "serviceLoadBalancerAggregation", "Enabled, Disabled"),
        ("communities", "blue", "communities", "expected a list"),
        ("prefixAdvertisements", {}, "prefixAdvertisements", "expected a list"),
    ],
)  # fmt: skip
def test_bad_configuration(key: str, value: object, path: str, words: str) -> None:
    decoded = one(configured({key: value}))
    (problem,) = decoded.problems
    assert (decoded.verdict, problem.path) == (Verdict.BAD, f"spec.{path}")
    assert words in problem.message


@pytest.mark.parametrize("value", ["Sometimes", True, ["Enabled"]])
def test_unknown_program_cluster_routes_is_as_if_unset(value: object) -> None:
    decoded = one(configured({"programClusterRoutes": value, "asNumber": 65000}))
    assert decoded.resource == BGPConfiguration("default", as_number=65000)
    assert [problem.path for problem in decoded.problems] == ["spec.programClusterRoutes"]
    assert "as if it was unset" in decoded.problems[0].message


COMMUNITIES = [{"name": "blue", "value": "64512:100"}, {"name": "large", "value": "64512:1:2"}]


def advertised(
    *entries: object, communities: list[Any] = COMMUNITIES, name: str = "default"
) -> dict[str, Any]:
    return configured({"communities": communities, "prefixAdvertisements": list(entries)}, name)


@pytest.mark.parametrize("name", ["default", "node.worker1"])
def test_prefix_advertisements(name: str) -> None:
    document = advertised(
        {"cidr": "10.65.0.0/16", "communities": ["blue", "large", "64512:7", "64512:100"]},
        {"cidr": "fd00::/48", "communities": ["64512:1:3"]},
        {"cidr": "10.66.0.0/16"},
        name=name,
    )
    assert good(document).prefix_advertisements == (
        PrefixAdvertisement(
            *parse_prefix("10.65.0.0/16"), (standard(64512, 100), (64512, 1, 2), standard(64512, 7))
        ),
        PrefixAdvertisement(*parse_prefix("fd00::/48"), ((64512, 1, 3),)),
        PrefixAdvertisement(*parse_prefix("10.66.0.0/16"), ()),
    )


@pytest.mark.parametrize(
    ("entry", "path", "words", "rest"),
    [
        ({"communities": ["blue", "green"]}, "0.communities.1", "'green' is no community", 1),
        ({"communities": ["blue", "1:65536"]}, "0.communities.1", "at most 65535", 1),
        ({"communities": ["blue", 7]}, "0.communities.1", "'7' is no community", 1),
        ({"cidr": "10.65.0.1/16"}, "0.cidr", "has host bits: expected 10.65.0.0/16?", None),
        ({"cidr": "10.65.0.0"}, "0.cidr", "has no length", None),
        ({"cidr": None}, "0.cidr", "expected, but not there", None),
        ({"communities": "blue"}, "0.communities", "expected a list", None),
    ],
)
def test_a_wrong_advertisement_costs_itself_only(
    entry: dict[str, Any], path: str, words: str, rest: int | None
) -> None:
    """``rest``: how many of its communities stay; ``None`` when the advertisement is left out."""
    document = advertised({"cidr": "10.65.0.0/16", **entry}, {"cidr": "fd00::/48", "communities": ["blue"]})
    document["spec"]["asNumber"] = 65000
    decoded = one(document)
    assert isinstance(decoded.resource, BGPConfiguration)
    assert decoded.resource.as_number == 65000
    *first, second = decoded.resource.prefix_advertisements or ()
    assert second.communities == (standard(64512, 100),)
    assert [len(each.communities) for each in first] == ([] if rest is None else [rest])
    (problem,) = decoded.problems
    assert problem.path == f"spec.prefixAdvertisements.{path}"
    assert words in problem.message and problem.message.endswith("left out")


def test_entries_that_are_no_mappings_are_left_out() -> None:
    decoded = one(advertised("10.65.0.0/16", None))
    assert isinstance(decoded.resource, BGPConfiguration)
    assert decoded.resource.prefix_advertisements == ()
    paths = [problem.path for problem in decoded.problems]
    assert paths[:2] == ["spec.prefixAdvertisements.0", "spec.prefixAdvertisements.1.cidr"]


@pytest.mark.parametrize(
    ("entry", "path", "words"),
    [
        ({"name": "green", "value": "1:65536"}, "2.value", "at most 65535"),
        ({"name": "green"}, "2.value", "expected, but not there"),
        ({"value": "1:2"}, "2.name", "expected, but not there"),
        ({"name": "blue", "value": "1:2"}, "2.name", "is there more than once"),
    ],
)
def test_a_wrong_name_is_reported_once(entry: dict[str, Any], path: str, words: str) -> None:
    document = advertised(
        {"cidr": "10.65.0.0/16", "communities": ["blue", *([entry["name"]] if "name" in entry else [])]},
        communities=[*COMMUNITIES, entry],
    )
    decoded = one(document)
    assert isinstance(decoded.resource, BGPConfiguration)
    assert decoded.resource.prefix_advertisements == (
        PrefixAdvertisement(*parse_prefix("10.65.0.0/16"), (standard(64512, 100),)),
    )
    (problem,) = decoded.problems
    assert problem.path == f"spec.communities.{path}"
    assert words in problem.message


def test_communities_without_advertisements() -> None:
    words = "has no effect without prefixAdvertisements"
    assert notes(configured({"communities": COMMUNITIES})) == {"spec.communities": words}
    assert notes(advertised()) == {"spec.communities": words}
    assert notes(configured({"communities": []})) == {}


def test_names_are_of_their_own_object() -> None:
    document = configured(
        {"prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": ["blue"]}]}, "node.w1"
    )
    assert "nor a name in communities" in notes(document)["spec.prefixAdvertisements.0.communities.0"]


@pytest.mark.parametrize("key", ["serviceClusterIPs", "serviceExternalIPs", "serviceLoadBalancerIPs"])
@pytest.mark.parametrize("cidr", ["10.96.0.1/12", "10.96.0.0", "::ffff:10.96.0.0/108", 3, None])
def test_a_wrong_service_range_is_left_out(key: str, cidr: object) -> None:
    decoded = one(configured({key: [{"cidr": "10.97.0.0/16"}, {"cidr": cidr}], "asNumber": 65000}))
    assert isinstance(decoded.resource, BGPConfiguration)
    ranges = {
        "serviceClusterIPs": decoded.resource.service_cluster_ips,
        "serviceExternalIPs": decoded.resource.service_external_ips,
        "serviceLoadBalancerIPs": decoded.resource.service_load_balancer_ips,
    }
    assert ranges[key] == (ServiceRange(*parse_prefix("10.97.0.0/16")),)
    assert decoded.resource.as_number == 65000
    assert [problem.path for problem in decoded.problems] == [f"spec.{key}.1.cidr"]


def test_a_wrong_interface_pattern_is_left_out() -> None:
    decoded = one(configured({"ignoredInterfaces": ["eth*", [3], ""]}))
    assert decoded.resource == BGPConfiguration("default", ignored_interfaces=("eth*",))
    paths = [problem.path for problem in decoded.problems]
    assert paths == ["spec.ignoredInterfaces.1", "spec.ignoredInterfaces.2"]


def test_what_counts_for_one_node() -> None:
    document = configured(
        {
            "listenPort": 1179,
            "logSeverityScreen": "Info",
            "bindMode": "NodeIP",
            "asNumber": 65000,
            "nodeToNodeMeshEnabled": False,
            "nodeMeshPassword": REFERENCE,
            "programClusterRoutes": "Nonsense",
            "serviceClusterIPs": [],
        },
        "node.worker1",
    )
    decoded = one(document)
    assert decoded.resource == BGPConfiguration(
        "node.worker1", listen_port=1179, bind_mode_node_ip=True, log_severity_screen="Info"
    )
    words = "has effect in BGPConfiguration default only: ignored"
    ignored = ("asNumber", "nodeToNodeMeshEnabled", "nodeMeshPassword", "programClusterRoutes")
    assert notes(document) == {f"spec.{key}": words for key in ignored}


def test_a_configuration_of_another_name() -> None:
    assert notes(configured({}, "cluster")) == {
        "metadata.name": "only default and node.NAME have effect: ignored"
    }


def test_unknown_keys_of_a_configuration() -> None:
    assert notes(configured({"asnumber": 65000})) == {"spec.asnumber": "unknown: ignored"}


# -- BGPPeer -----------------------------------------------------------------------------------------------------------


def peering(**spec: object) -> dict[str, Any]:
    return thing("BGPPeer", spec)


@pytest.mark.parametrize(
    ("key", "value", "fields"),
    [
        ("node", "worker1", {"node": "worker1"}),
        ("node", "", {}),
        ("nodeSelector", "has(rack)", {"node_selector": "has(rack)"}),
        ("peerSelector", "all()", {"peer_selector": "all()"}),
        ("localWorkloadSelector", "color == 'red'", {"local_workload_selector": "color == 'red'"}),
        ("asNumber", "1.10", {"as_number": 65546}),
        ("asNumber", 0, {}),
        ("localASNumber", "64999", {"local_as_number": 64999}),
        ("localASNumber", "0", {}),
        ("keepOriginalNextHop", True, {"next_hop_mode": NextHopMode.KEEP_EBGP}),
        ("keepOriginalNextHop", False, {}),
        ("nextHopMode", "Auto", {}),
        ("nextHopMode", "Self", {"next_hop_mode": NextHopMode.SELF}),
        ("nextHopMode", "Keep", {"next_hop_mode": NextHopMode.KEEP}),
        ("password", REFERENCE, {"password": SecretKey("bgp", "tor")}),
        ("password", {"secretKeyRef": {"name": "a", "key": "b", "optional": True}}, {"password": SecretKey("a", "b")}),
        ("password", None, {}),
        ("sourceAddress", "UseNodeIP", {}),
        ("sourceAddress", "None", {"use_node_ip": False}),
        ("maxRestartTime", "60s", {"max_restart_time": 60.0}),
        ("maxRestartTime", "0s", {"max_restart_time": 0.0}),
        ("keepaliveTime", "1m30s", {"keepalive_time": 90.0}),
        ("keepaliveTime", "0s", {}),
        ("numAllowedLocalASNumbers", 3, {"num_allowed_local_as_numbers": 3}),
        ("ttlSecurity", 1, {"ttl_security": 1}),
        ("ttlSecurity", 255, {"ttl_security": 255}),
        ("ttlSecurity", 0, {}),
        ("reachableBy", "10.0.0.1", {"reachable_by": parse_address("10.0.0.1")}),
        ("filters", ["to-tor", "no-default"], {"filters": ("to-tor", "no-default")}),
        ("filters", None, {}),
        ("reversePeering", "Auto", {}),
        ("reversePeering", "Manual", {"reverse": False}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("group", [V3, V1])
def test_peers(key: str, value: object, fields: dict[str, Any], group: str) -> None:
    assert good(thing("BGPPeer", {key: value}, group=group)) == BGPPeer("x", **fields)


@pytest.mark.parametrize(
    ("key", "value", "path", "words"),
    [
        ("node", [3], "node", "expected text"),
        ("nodeSelector", ["all()"], "nodeSelector", "expected text"),
        ("peerSelector", {}, "peerSelector", "expected text"),
        ("localWorkloadSelector", {}, "localWorkloadSelector", "expected text"),
        ("asNumber", "x", "asNumber", "expected an AS number"),
        ("asNumber", False, "asNumber", "expected an AS number"),
        ("localASNumber", 1.1, "localASNumber", "put it in quotes"),
        ("keepOriginalNextHop", 1, "keepOriginalNextHop", "expected true or false"),
        ("nextHopMode", "self", "nextHopMode", "expected one of Auto, Self, Keep, not 'self'"),
        ("password", "hunter2", "password", "expected keys and values"),
        ("password", {"secretKeyRef": "hunter2"}, "password.secretKeyRef", "expected keys and values"),
        ("password", {"secretKeyRef": {"key": "tor"}}, "password.secretKeyRef.name", "not there"),
        ("sourceAddress", "10.0.0.1", "sourceAddress", "expected one of UseNodeIP, None"),
        ("maxRestartTime", "4096s", "maxRestartTime", "expected at most 4095s"),
        ("maxRestartTime", 60, "maxRestartTime", "a duration such as"),
        ("keepaliveTime", "-1s", "keepaliveTime", "a duration such as"),
        ("keepaliveTime", "65536s", "keepaliveTime", "expected at most 65535s"),
        ("numAllowedLocalASNumbers", -1, "numAllowedLocalASNumbers", "from 0 to 2147483647"),
        ("ttlSecurity", 256, "ttlSecurity", "from 0 to 255"),
        ("reachableBy", "gateway", "reachableBy", "is not an IPv4 or IPv6 address"),
        ("reachableBy", "10.0.0.1/32", "reachableBy", "is not an IPv4 or IPv6 address"),
        ("filters", "to-tor", "filters", "expected a list"),
        ("filters", ["to-tor", []], "filters.1", "expected text, not []"),
        ("reversePeering", "Never", "reversePeering", "expected one of Auto, Manual"),
    ],
)  # fmt: skip
def test_bad_peers(key: str, value: object, path: str, words: str) -> None:
    decoded = one(peering(**{key: value}))
    (problem,) = decoded.problems
    assert (decoded.verdict, problem.path) == (Verdict.BAD, f"spec.{path}")
    assert words in problem.message
    assert "hunter2" not in problem.message


def test_next_hop_mode_goes_before_the_old_field() -> None:
    for mode, expected in (("Auto", NextHopMode.AUTO), ("Self", NextHopMode.SELF)):
        decoded = one(peering(nextHopMode=mode, keepOriginalNextHop=True))
        assert decoded.resource == BGPPeer("x", next_hop_mode=expected)
        assert notes(peering(nextHopMode=mode, keepOriginalNextHop=True)) == {
            "spec.keepOriginalNextHop": "nextHopMode is set: ignored"
        }
    assert notes(peering(nextHopMode="Keep", keepOriginalNextHop=False)) == {}


@pytest.mark.parametrize(
    ("peer_ip", "gateway"),
    [("192.0.2.1", "fd00::1"), ("[2001:db8::1]:179", "10.0.0.1"), ("fe80::1%eth0", "10.0.0.1")],
)
def test_reachable_by_is_of_the_same_family(peer_ip: str, gateway: str) -> None:
    assert "as peerIP is" in notes(peering(peerIP=peer_ip, reachableBy=gateway))["spec.reachableBy"]


def test_unknown_keys_of_a_peer() -> None:
    assert notes(peering(peerIP="192.0.2.1", filter=["a"])) == {"spec.filter": "unknown: ignored"}


@pytest.mark.parametrize(
    ("text", "address", "zone", "port"),
    [
        ("192.0.2.1", "192.0.2.1", None, None),
        ("192.0.2.1:1179", "192.0.2.1", None, 1179),
        ("2001:db8::1", "2001:db8::1", None, None),
        ("[2001:db8::1]:1179", "2001:db8::1", None, 1179),
        ("[2001:db8::1]", "2001:db8::1", None, None),
        ("fe80::1%eth0", "fe80::1", "eth0", None),
        ("[fe80::1%eth0]:179", "fe80::1", "eth0", 179),
        ("[febf::1%bond0.100]", "febf::1", "bond0.100", None),
        ("169.254.0.1", "169.254.0.1", None, None),
    ],
)
def test_peer_addresses(text: str, address: str, zone: str | None, port: int | None) -> None:
    peer = good(peering(peerIP=text, asNumber=65001))
    assert peer == BGPPeer(
        "x", peer_ip=parse_address(address), peer_interface=zone, peer_port=port, as_number=65001
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        *(
            (text, "is not an address such as")
            for text in ("192.0.2", "192.0.2.1:0", "192.0.2.1:65536", "192.0.2.1:", "[::1]:x", "host", "::1:x", "%eth0")
        ),
        ("fe80::1", "a link-local address needs its interface, as in fe80::1%eth0"),
        ("[fe80::1]:179", "a link-local address needs its interface"),
        ("2001:db8::1%eth0", "only a link-local address has an interface"),
        ("192.0.2.1%eth0", "only a link-local address has an interface"),
        ("fe80::1%", "'' is no interface's name"),
        ("fe80::1%a/b", "'a/b' is no interface's name"),
        ("fe80::1%sixteen-letters-", "is no interface's name"),
        ("::ffff:192.0.2.1", "is IPv4 inside IPv6: expected 192.0.2.1?"),
        ("0.0.0.0", "is nobody's address"),
        ("::", "is nobody's address"),
        ("224.0.0.5", "is nobody's address"),
        ("255.255.255.255", "is nobody's address"),
        ("ff02::5", "is nobody's address"),
    ],
)  # fmt: skip
def test_bad_peer_addresses(text: str, words: str) -> None:
    assert words in notes(peering(peerIP=text))["spec.peerIP"]


# -- Secret ------------------------------------------------------------------------------------------------------------


def secret(**content: object) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bgp"}, "type": "Opaque", **content}


def test_secrets() -> None:
    encoded = base64.b64encode(b"hunter2").decode()
    document = secret(data={"tor": encoded, "wrapped": f"{encoded[:4]}\n{encoded[4:]}\n", "empty": None})
    document["metadata"]["namespace"] = "kube-system"
    data = {"tor": b"hunter2", "wrapped": b"hunter2", "empty": b""}
    assert good(document) == Secret("bgp", "kube-system", data)
    assert good(secret(stringData={"tor": "grüße"})) == Secret("bgp", "default", {"tor": "grüße".encode()})
    assert good(secret()) == Secret("bgp", "default", {})


def test_string_data_goes_before_data() -> None:
    assert good(secret(data={"tor": "b2xk"}, stringData={"tor": "new"})).data == {"tor": b"new"}


@pytest.mark.parametrize(
    ("content", "path", "words"),
    [
        ({"data": {"tor": "hunter2!"}}, "data.tor", "expected base64"),
        ({"data": {"tor": "aHVudGVyMg"}}, "data.tor", "expected base64"),  # its padding is missing
        ({"data": {"tor": "grüße"}}, "data.tor", "expected base64"),
        ({"data": {"tor": 4711}}, "data.tor", "expected base64"),
        ({"data": "aHVudGVyMg=="}, "data", "expected keys and values"),
        ({"stringData": {"tor": ["hunter2"]}}, "stringData.tor", "expected text"),
        ({"stringData": ["hunter2"]}, "stringData", "expected keys and values"),
    ],
)
def test_bad_secrets_show_nothing(content: dict[str, Any], path: str, words: str) -> None:
    decoded = one(secret(**content))
    (problem,) = decoded.problems
    assert (decoded.verdict, problem.path, problem.message) == (Verdict.BAD, path, words)


def test_secrets_are_not_printed() -> None:
    decoded = one(secret(stringData={"tor": "hunter2"}))
    assert "hunter2" not in repr(decoded) + str(decoded.resource)
