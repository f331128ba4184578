"""Calico's shapes to resources: every kind in every group, and each mistake with its source, path and words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from netaddr import IPNetwork

from bgpd.datastore.decode import Decoded, Key, Verdict, decode
from bgpd.datastore.fields import parse_asn
from bgpd.model.prefix import Family, parse_address, parse_prefix
from bgpd.model.resources import (
    AffinityState,
    Allocation,
    BGPConfiguration,
    BGPPeer,
    BlockAffinity,
    EncapMode,
    IPAMBlock,
    IPPool,
    Node,
)
from bgpd.yamlfile import load_documents

EXAMPLES = Path(__file__).parents[2] / "config" / "resources"
V3, V1 = "projectcalico.org/v3", "crd.projectcalico.org/v1"


def thing(kind: str, spec: object, name: str = "x", group: str = V3, **metadata: object) -> dict[str, Any]:
    return {"apiVersion": group, "kind": kind, "metadata": {"name": name, **metadata}, "spec": spec}


def one(document: object) -> Decoded:
    (decoded,) = decode(document, "f.yaml")
    return decoded


def good(document: object) -> Any:
    decoded = one(document)
    assert (decoded.verdict, decoded.problems) == (Verdict.GOOD, ())
    return decoded.resource


def notes(document: object) -> dict[str, str]:
    return {problem.path: problem.message for problem in one(document).problems}


def cidr(text: str) -> tuple[Family, bytes]:
    return parse_prefix(text)


@pytest.mark.parametrize("group", [V3, V1])
def test_pools(group: str) -> None:
    spec = {"cidr": "10.48.0.0/24", "natOutgoing": True, "nodeSelector": "all()", "allowedUses": ["Workload"]}
    assert good(thing("IPPool", spec, group=group)) == IPPool("x", *cidr("10.48.0.0/24"), 26)
    assert good(thing("IPPool", {"cidr": "fd00::/64"}, group=group)).block_size == 122
    spec |= {"blockSize": 29, "disableBGPExport": True, "disabled": True}
    pool = good(thing("IPPool", spec, group=group))
    assert (pool.block_size, pool.disable_bgp_export, pool.disabled) == (29, True, True)


@pytest.mark.parametrize(
    ("spec", "path", "words"),
    [
        ({}, "spec.cidr", "expected, but not there"),
        ({"cidr": 10}, "spec.cidr", "expected text, not 10"),
        ({"cidr": "10.48.0.0"}, "spec.cidr", "has no length"),
        ({"cidr": "10.48.0.1/24"}, "spec.cidr", "has host bits: expected 10.48.0.0/24?"),
        ({"cidr": "10.48.0.0/33"}, "spec.cidr", "is not a prefix"),
        ({"cidr": "10.48.0.0/24", "blockSize": 19}, "spec.blockSize", "from 20 to 32, not 19"),
        ({"cidr": "10.48.0.0/24", "blockSize": 23}, "spec.blockSize", "do not fit into 10.48.0.0/24"),
        ({"cidr": "fd00::/64", "blockSize": 26}, "spec.blockSize", "from 116 to 128"),
        ({"cidr": "10.48.0.0/24", "disabled": "yes"}, "spec.disabled", "expected true or false, not 'yes'"),
        ({"cidr": "10.48.0.0/24", "ipipMode": "On"}, "spec.ipipMode", "one of Never, CrossSubnet, Always"),
        ([], "spec", "expected keys and values"),
    ],
)
def test_bad_pools(spec: object, path: str, words: str) -> None:
    decoded = one(thing("IPPool", spec))
    (problem,) = decoded.problems
    assert (decoded.verdict, decoded.key, decoded.resource) == (Verdict.BAD, Key("IPPool", "x"), None)
    assert (problem.source, problem.path) == ("f.yaml: IPPool x", path)
    assert words in problem.message


def test_what_is_not_acted_on_is_said() -> None:
    spec = {"cidr": "10.48.0.0/24", "ipipMode": "Always", "disableBgpExport": True}
    decoded = one(thing("IPPool", spec))
    assert isinstance(decoded.resource, IPPool)
    assert decoded.resource.ipip_mode is EncapMode.ALWAYS
    assert notes(thing("IPPool", spec)) == {
        "spec.ipipMode": "not supported yet: ignored",
        "spec.disableBgpExport": "unknown: ignored",
    }


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"state": "confirmed", "deleted": "false"}, AffinityState.CONFIRMED),
        ({"deleted": False}, AffinityState.CONFIRMED),
        ({"state": "", "type": ""}, AffinityState.CONFIRMED),
        ({"state": "pending", "type": "host"}, AffinityState.PENDING),
        ({"state": "pendingDeletion"}, AffinityState.PENDING_DELETION),
        ({"deleted": "true"}, None),
        ({"deleted": True}, None),
        ({"type": "virtual"}, None),
    ],
)
def test_affinities(spec: dict[str, object], expected: AffinityState | None) -> None:
    decoded = one(thing("BlockAffinity", {"cidr": "10.48.0.0/26", "node": "w1", **spec}, group=V1))
    if expected is None:
        assert (decoded.verdict, decoded.key) == (Verdict.GONE, Key("BlockAffinity", "x"))
    else:
        assert decoded.resource == BlockAffinity("x", "w1", *cidr("10.48.0.0/26"), expected)


def test_bad_affinities() -> None:
    assert "spec.state" in notes(
        thing("BlockAffinity", {"cidr": "10.48.0.0/26", "node": "w", "state": "claimed"})
    )
    assert "spec.node" in notes(thing("BlockAffinity", {"cidr": "10.48.0.0/26"}))
    assert "spec.type" in notes(thing("BlockAffinity", {"cidr": "10.48.0.0/26", "node": "w", "type": "x"}))


ATTRIBUTES = [
    {"handle_id": "ipip", "secondary": {"node": "w1", "type": "ipipTunnelAddress"}},
    {"handle_id": "k8s.1", "secondary": {"node": "w1", "namespace": "default", "pod": "web-0"}},
    {"handle_id": "k8s.2", "secondary": {"node": "w2", "namespace": "default", "pod": "web-9"}},
    {"handle_id": "windows-reserved-ipam-handle", "secondary": {"node": "w1", "note": "reserved"}},
    {"handle_id": "k8s.3", "secondary": {"node": "w2"}, "releasedAt": "2026-01-01T00:00:00Z"},
    {"handle_id": "lonely", "secondary": {}},
    {"handle_id": "k8s.4", "secondary": {"node": "w3"}},
    {"handle_id": None},
]


def test_blocks() -> None:
    spec = {
        "cidr": "10.48.0.64/26",
        "affinity": "host:w1",
        "allocations": [0, 1, None, 2, 3, 4, 5, 6, 7],
        "attributes": ATTRIBUTES,
        "unallocated": [2],
        "deleted": False,
    }
    block = good(thing("IPAMBlock", spec, group=V1))
    assert block == IPAMBlock(
        "x",
        *cidr("10.48.0.64/26"),
        "w1",
        (
            Allocation(parse_address("10.48.0.64"), "w1", "ipipTunnelAddress"),
            Allocation(parse_address("10.48.0.65"), "w1", "default/web-0"),
            Allocation(parse_address("10.48.0.67"), "w2", "default/web-9"),
            Allocation(parse_address("10.48.0.71"), "w3", "k8s.4"),
        ),
    )
    assert block.borrowers == {"w2", "w3"}
    assert good(thing("IPAMBlock", spec | {"affinity": None})).affinity is None
    assert good(thing("IPAMBlock", spec | {"affinity": None, "hostAffinity": "w4"})).affinity == "w4"
    virtual = good(thing("IPAMBlock", spec | {"affinity": "virtual:load-balancer"}))
    assert (virtual.affinity, virtual.allocations) == (None, ())
    assert one(thing("IPAMBlock", spec | {"deleted": True})).verdict is Verdict.GONE


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"affinity": "w1"}, "spec.affinity"),
        ({"affinity": "host:"}, "spec.affinity"),
        ({"allocations": [0]}, "spec.allocations.0"),
        ({"allocations": [None, -1], "attributes": ATTRIBUTES}, "spec.allocations.1"),
        ({"allocations": [None] * 65}, "spec.allocations"),
        ({"attributes": ["x"]}, "spec.attributes.0"),
        ({"attributes": {}}, "spec.attributes"),
        ({"attributes": [{"handle_id": 3}]}, "spec.attributes.0.handle_id"),
    ],
)
def test_bad_blocks(spec: dict[str, object], path: str) -> None:
    document = thing("IPAMBlock", {"cidr": "10.48.0.64/26", **spec})
    if spec != {"attributes": {}}:  # an empty one counts as unset
        assert path in notes(document)


def test_v6_block_addresses() -> None:
    spec = {
        "cidr": "fd00:48::40/122",
        "affinity": "host:w1",
        "allocations": [None, 1],
        "attributes": ATTRIBUTES,
    }
    assert good(thing("IPAMBlock", spec)).allocations[0].address == parse_address("fd00:48::41")


@pytest.mark.parametrize(
    ("value", "asn"),
    [(64512, 64512), ("65000", 65000), ("1.10", 65546), ("0.65535", 65535), (4294967295, 4294967295)],
)
def test_as_numbers(value: object, asn: int) -> None:
    assert parse_asn(value) == asn


@pytest.mark.parametrize(
    "value", [0, -1, 4294967296, 1.1, True, "", "x", "1.65536", "65536.1", "1.2.3", " 1", "1."]
)
def test_bad_as_numbers(value: object) -> None:
    with pytest.raises(ValueError, match="expected an AS number"):
        parse_asn(value)


def test_configuration() -> None:
    spec = {"asNumber": "1.10", "nodeToNodeMeshEnabled": False, "listenPort": 1179, "bindMode": "NodeIP"}
    assert good(thing("BGPConfiguration", spec, "default")) == BGPConfiguration(
        "default", 65546, False, 1179, True
    )
    assert good(thing("BGPConfiguration", {"logSeverityScreen": "Info"}, "node.w1")) == BGPConfiguration(
        "node.w1"
    )
    assert notes(thing("BGPConfiguration", {"listenPort": 0, "asNumber": 1}))["spec.listenPort"]
    assert notes(thing("BGPConfiguration", {"bindMode": "Any"}))["spec.bindMode"]
    harmless = {"nodeMeshMaxRestartTime": "2m0s", "programClusterRoutes": "Enabled", "communities": []}
    assert notes(thing("BGPConfiguration", harmless)) == {}
    services = {"serviceClusterIPs": [{"cidr": "10.96.0.0/12"}]}
    assert notes(thing("BGPConfiguration", services)) == {
        "spec.serviceClusterIPs": "not supported yet: ignored"
    }


def test_a_mesh_with_a_password_is_no_mesh() -> None:
    decoded = one(
        thing("BGPConfiguration", {"nodeMeshPassword": {"secretKeyRef": {"name": "a", "key": "b"}}})
    )
    assert isinstance(decoded.resource, BGPConfiguration)
    assert decoded.resource.mesh_unsupported == ("nodeMeshPassword",)
    assert "not peered with" in decoded.problems[0].message


@pytest.mark.parametrize(
    ("text", "address", "port"),
    [
        ("192.0.2.1", "192.0.2.1", None),
        ("192.0.2.1:1179", "192.0.2.1", 1179),
        ("2001:db8::1", "2001:db8::1", None),
        ("[2001:db8::1]:1179", "2001:db8::1", 1179),
        ("[2001:db8::1]", "2001:db8::1", None),
    ],
)
def test_peer_addresses(text: str, address: str, port: int | None) -> None:
    peer = good(thing("BGPPeer", {"peerIP": text, "asNumber": 65001}))
    assert peer == BGPPeer("x", peer_ip=parse_address(address), peer_port=port, as_number=65001)


@pytest.mark.parametrize(
    "text", ["192.0.2", "192.0.2.1:0", "192.0.2.1:65536", "192.0.2.1:", "[::1]:x", "host", "::1:x"]
)
def test_bad_peer_addresses(text: str) -> None:
    assert "is not an address such as" in notes(thing("BGPPeer", {"peerIP": text}))["spec.peerIP"]


def test_peers() -> None:
    spec = {"nodeSelector": "has(a)", "peerSelector": "has(b)", "asNumber": 0, "reversePeering": "Manual"}
    assert good(thing("BGPPeer", spec)) == BGPPeer(
        "x", None, "has(a)", None, None, "has(b)", None, reverse=False
    )
    defaults = {
        "peerIP": "192.0.2.1",
        "nextHopMode": "Auto",
        "keepOriginalNextHop": False,
        "maxRestartTime": "120s",
    }
    assert notes(thing("BGPPeer", defaults)) == {}
    assert notes(thing("BGPPeer", defaults | {"ttlSecurity": 1})) == {
        "spec.ttlSecurity": "not supported yet: ignored"
    }


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("filters", ["a"]),
        ("password", {"secretKeyRef": {"name": "a", "key": "b"}}),
        ("localWorkloadSelector", "all()"),
    ],
)
def test_peers_that_would_be_unsafe(key: str, value: object) -> None:
    document = thing("BGPPeer", {"peerIP": "192.0.2.1", "asNumber": 65001, key: value})
    decoded = one(document)
    assert isinstance(decoded.resource, BGPPeer)
    assert decoded.resource.unsupported == (key,)
    assert notes(document) == {f"spec.{key}": "not supported yet: this peer is not peered with"}


def test_calico_nodes() -> None:
    spec = {
        "bgp": {
            "ipv4Address": "10.0.1.20/24",
            "ipv6Address": "fd00::20",
            "asNumber": 65001,
            "routeReflectorClusterID": "224.0.0.1",
            "ipv4IPIPTunnelAddr": "10.48.0.128",
        },
        "ipv4VXLANTunnelAddr": "10.48.0.129",
        "wireguard": {"interfaceIPv6Address": "fd00:48::1"},
        "orchRefs": [{"nodeName": "control"}],
    }
    assert good(thing("Node", spec, "control", labels={"rack": "r1"})) == Node(
        "control",
        {"rack": "r1"},
        parse_address("10.0.1.20"),
        parse_address("fd00::20"),
        IPNetwork("10.0.1.0/24"),
        None,
        65001,
        parse_address("224.0.0.1"),
        tuple(parse_address(text) for text in ("10.48.0.128", "10.48.0.129", "fd00:48::1")),
    )


def kubernetes_node(labels: dict[str, Any] | None = None, /, **annotations: str) -> dict[str, Any]:
    noted = {f"projectcalico.org/{key}": value for key, value in annotations.items()}
    return thing("Node", {"podCIDRs": ["10.244.0.0/24"]}, "w1", "v1", labels=labels or {}, annotations=noted)


def test_kubernetes_nodes() -> None:
    node = good(
        kubernetes_node(
            {"rack": "r1", "both": "kubernetes"},
            IPv4Address="10.0.1.30/24",
            IPv6Address="fd00::30/64",
            ASNumber="1.10",
            RouteReflectorClusterID="",
            IPv4IPIPTunnelAddr="10.48.0.192",
            IPv6VXLANTunnelAddr="fd00:48::7",
            labels=json.dumps({"both": "calico", "extra": "yes"}),
            metadata=json.dumps({"labels": {"old": "1"}}),
        )
    )
    assert node == Node(
        "w1",
        {"rack": "r1", "both": "kubernetes", "extra": "yes", "old": "1"},
        parse_address("10.0.1.30"),
        parse_address("fd00::30"),
        IPNetwork("10.0.1.0/24"),
        IPNetwork("fd00::/64"),
        65546,
        None,
        (parse_address("10.48.0.192"), parse_address("fd00:48::7")),
    )
    assert good({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "w1"}}) == Node("w1")


@pytest.mark.parametrize(
    ("document", "path", "words"),
    [
        (kubernetes_node(IPv4Address="fd00::1/64"), "IPv4Address", "is not of ipv4"),
        (kubernetes_node(IPv4Address="10.0.1/24"), "IPv4Address", "is not an address such as"),
        (kubernetes_node(ASNumber="0"), "ASNumber", "expected an AS number"),
        (kubernetes_node(labels="[]"), "labels", "expected a JSON object"),
        (kubernetes_node(labels="[" * 100_000), "labels", "expected a JSON object"),
        (kubernetes_node(metadata="{"), "metadata", "expected a JSON object"),
    ],
)
def test_bad_annotations(document: dict[str, Any], path: str, words: str) -> None:
    assert words in notes(document)[f"metadata.annotations.projectcalico.org/{path}"]


def test_labels_are_text() -> None:
    assert "put it in quotes" in notes(kubernetes_node({"rack": 1}))["metadata.labels.rack"]


def test_lists() -> None:
    pools = [thing("IPPool", {"cidr": f"10.{i}.0.0/16"}, f"p{i}") for i in range(2)]
    plain = list(decode({"apiVersion": "v1", "kind": "List", "items": [*pools, "x"]}, "f"))
    assert [d.verdict for d in plain] == [Verdict.GOOD, Verdict.GOOD, Verdict.BAD]
    assert plain[2].problems[0].path == "items.2"
    bare = [{key: pool[key] for key in ("metadata", "spec")} for pool in pools]
    typed = list(decode({"apiVersion": V3, "kind": "IPPoolList", "items": bare}, "f"))
    assert [d.resource for d in typed] == [d.resource for d in plain[:2]]
    assert (
        next(iter(decode({"apiVersion": V3, "kind": "IPPoolList", "items": 3}, "f"))).verdict is Verdict.BAD
    )


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ([], ""),
        ("text", ""),
        ({}, "kind"),
        ({"kind": "IPPool"}, "apiVersion"),
        ({"kind": 3, "apiVersion": V3}, "kind"),
        ({"kind": "IPPool", "apiVersion": V3}, "metadata.name"),
        ({"kind": "IPPool", "apiVersion": V3, "metadata": []}, "metadata.name"),
        ({"kind": "IPPool", "apiVersion": V3, "metadata": {"name": 12}}, "metadata.name"),
        ({"kind": "IPPool", "apiVersion": "projectcalico.org/v4", "metadata": {"name": "x"}}, "apiVersion"),
    ],
)
def test_objects_without_a_name(document: object, path: str) -> None:
    decoded = one(document)
    assert (decoded.verdict, decoded.key, decoded.problems[0].path) == (Verdict.BAD, None, path)


def test_other_kinds() -> None:
    for document in (
        thing("Pod", {}, group="v1"),
        thing("FelixConfiguration", {}),
        thing("Node", {}, group="x/v1"),
    ):
        assert one(document) == Decoded(Verdict.IGNORED)
    decoded = one(thing("BGPFilter", {}))
    assert decoded.verdict is Verdict.IGNORED
    assert decoded.problems[0].message == "not supported yet: ignored"


def test_the_examples_are_good_and_of_every_kind() -> None:
    found = [
        decoded
        for path in sorted(EXAMPLES.glob("*.yaml"))
        for document in load_documents(path.read_bytes(), path.name)
        for decoded in decode(document.value, path.name)
    ]
    assert [d.problems for d in found if d.problems] == []
    assert {d.verdict for d in found} == {Verdict.GOOD}
    assert {d.key.kind for d in found if d.key} == {
        "IPPool", "BlockAffinity", "IPAMBlock", "Node", "BGPConfiguration", "BGPPeer",
    }  # fmt: skip
