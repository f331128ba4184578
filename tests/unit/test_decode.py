"""Calico's shapes to resources: every kind in every group, and each mistake with its source, path and words."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from netaddr import IPNetwork

from bgpd.config.yaml import load_documents
from bgpd.datastore.calico.decode import KINDS, Decoded, Key, Verdict, decode
from bgpd.datastore.calico.fields import parse_asn
from bgpd.datastore.files import parse
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
    Secret,
)

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
        ({"cidr": [10]}, "spec.cidr", "expected text, not [10]"),
        ({"cidr": "10.48.0.0"}, "spec.cidr", "has no length"),
        ({"cidr": "10.48.0.1/24"}, "spec.cidr", "has host bits: expected 10.48.0.0/24?"),
        ({"cidr": "10.48.0.0/33"}, "spec.cidr", "is not a prefix"),
        ({"cidr": "::ffff:10.48.0.0/120"}, "spec.cidr", "is IPv4 inside IPv6: expected 10.48.0.0/24?"),
        ({"cidr": "10.48.0.0/24", "blockSize": 19}, "spec.blockSize", "from 20 to 32, not 19"),
        ({"cidr": "10.48.0.0/24", "blockSize": 23}, "spec.blockSize", "do not fit into 10.48.0.0/24"),
        ({"cidr": "fd00::/64", "blockSize": 26}, "spec.blockSize", "from 116 to 128"),
        ({"cidr": "10.48.0.0/24", "disabled": "ja"}, "spec.disabled", "expected true or false, not 'ja'"),
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


def test_what_pools_say_to_others_is_silent() -> None:
    spec = {
        "cidr": "10.48.0.0/24",
        "ipipMode": "Always",
        "vxlanMode": "CrossSubnet",
        "nodeSelector": "all()",
        "namespaceSelector": "all()",
        "allowedUses": ["Workload", "Tunnel"],
        "assignmentMode": "Automatic",
        "natOutgoing": True,
    }
    pool = good(thing("IPPool", spec))
    assert (pool.ipip_mode, pool.vxlan_mode) == (EncapMode.ALWAYS, EncapMode.CROSS_SUBNET)


def test_what_has_no_effect_is_reported() -> None:
    spec = {"cidr": "10.48.0.0/24", "disableBgpExport": True, "ipip": {"enabled": True}}
    assert one(thing("IPPool", spec)).verdict is Verdict.GOOD
    assert notes(thing("IPPool", spec)) == {
        "spec.disableBgpExport": "unknown: ignored",
        "spec.ipip": "of the API before v3, ignored: expected ipipMode",
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
        frozenset({Family.IPV6}),
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
    )
    plain = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "w1"}}
    assert good(plain) == Node("w1")
    for unschedulable, cordoned in ((True, True), (False, False), (None, False), ("true", True), ([], False)):
        document = {**plain, "spec": {"unschedulable": unschedulable, "podCIDR": "10.0.0.0/24"}}
        assert good(document) == Node("w1", unschedulable=cordoned)


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


V4, V6 = Family.IPV4, Family.IPV6


@pytest.mark.parametrize(
    ("spec", "status", "families"),
    [
        ({}, {}, set()),
        ({}, {"wireguardPublicKey": "a2V5"}, {V4}),
        ({}, {"wireguardPublicKeyV6": "a2V5", "wireguardPublicKey": ""}, {V6}),
        ({"wireguard": {"interfaceIPv4Address": "10.48.0.5"}}, {}, {V4}),
        ({"wireguard": {"interfaceIPv6Address": "fd00::5"}}, {"wireguardPublicKey": "a2V5"}, {V4, V6}),
    ],
)
def test_wireguard_of_calico_nodes(spec: object, status: object, families: set[Family]) -> None:
    assert good({**thing("Node", spec), "status": status}).wireguard == families


def test_wireguard_of_kubernetes_nodes() -> None:
    assert good(kubernetes_node(WireguardPublicKey="a2V5")).wireguard == {V4}
    assert good(kubernetes_node(WireguardPublicKeyV6="a2V5", WireguardPublicKey="")).wireguard == {V6}
    # An address without a key: nobody can encrypt to it yet.
    assert good(kubernetes_node(IPv4WireguardInterfaceAddr="10.48.0.5")).wireguard == frozenset()


GO_PRINTS = """\
apiVersion: projectcalico.org/v3
kind: Node
metadata:
  name: 007
  labels: {commit: 12e4567, digest: 0xdeadbeefdeadbeefdeadbeef, on: true, off: yes, version: 1.10, number: 007,
    octal: 0o17, empty: null, none: ~, date: 2026-11-27, float: .5, inf: .inf, large: 1e400, long: %s, 12e9999: x}
  annotations: {built: 2026-11-27, commit: 99e99999, count: 7}
spec: {bgp: {ipv4Address: 10.0.1.20/24}}
""" % ("9" * 1001)


def test_text_that_go_prints_without_quotes_is_text() -> None:
    (decoded,) = parse("f.yaml", GO_PRINTS.encode(), {}).objects
    assert (decoded.verdict, decoded.problems) == (Verdict.GOOD, ())
    node: Any = decoded.resource
    assert node.name == "007"
    assert node.labels == {
        "commit": "12e4567",
        "digest": "0xdeadbeefdeadbeefdeadbeef",
        "on": "true",
        "off": "yes",
        "version": "1.10",
        "number": "007",
        "octal": "0o17",
        "empty": "",
        "none": "",
        "date": "2026-11-27",
        "float": ".5",
        "inf": ".inf",
        "large": "1e400",
        "long": "9" * 1001,
        "12e9999": "x",
    }
    assert {type(text) for pair in (("", node.name), *node.labels.items()) for text in pair} == {str}


@pytest.mark.parametrize(
    "scalar", ["12e4567", "0x" + "f" * 30, "true", "yes", "1.10", "007", "2026-11-27", ".5"]
)
@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("kind: BlockAffinity, spec: {cidr: 10.48.0.0/26, node: %s}", lambda r: r.node),
        ("kind: BGPPeer, spec: {node: %s, peerIP: 10.0.1.1, asNumber: 64512}", lambda r: r.node),
        ("kind: BGPPeer, spec: {peerIP: 10.0.1.1, filters: [%s]}", lambda r: r.filters[0]),
        ("kind: BGPPeer, spec: {peerIP: 10.0.1.1, nodeSelector: %s}", lambda r: r.node_selector),
        ("kind: BGPConfiguration, spec: {ignoredInterfaces: [%s]}", lambda r: r.ignored_interfaces[0]),
        ("kind: BGPConfiguration, spec: {logSeverityScreen: %s}", lambda r: r.log_severity_screen),
        ("kind: BGPPeer, spec: {password: {secretKeyRef: {name: s, key: %s}}}", lambda r: r.password.key),
    ],
)
def test_every_field_of_text_takes_scalars(text: str, read: Callable[[Any], str], scalar: str) -> None:
    source = f"{{apiVersion: projectcalico.org/v3, metadata: {{name: default}}, {text % scalar}}}"
    (document,) = load_documents(source, "f.yaml", keep_text=True)
    assert read(one(document.value).resource) == scalar


def in_flow(kind: str, spec: str) -> str:
    return f"{{apiVersion: {V3}, kind: {kind}, metadata: {{name: default}}, spec: {{{spec}}}}}"


@pytest.mark.parametrize(
    ("scalar", "number"),
    [
        ("29", 29),
        ("0x1d", 29),
        ("035", 29),
        ("0o35", 29),
        ("0b11101", 29),
        ("2_9", 29),
        ("+29", 29),
        ("29.0", None),
        ("'29'", None),
        ("09", None),
        ("1e1", None),
        (".inf", None),
        ("true", None),
        ("0x" + "1" * 90, None),
    ],
)
def test_numbers_are_read_as_go_reads_them(scalar: str, number: int | None) -> None:
    text = in_flow("IPPool", f"cidr: 10.48.0.0/16, blockSize: {scalar}")
    (decoded,) = parse("f.yaml", text.encode(), {}).objects
    assert (decoded.verdict is Verdict.GOOD) == (number is not None)
    if number is None:
        assert "expected a whole number" in decoded.problems[0].message
    else:
        pool: Any = decoded.resource
        assert pool.block_size == number


@pytest.mark.parametrize("scalar", ["64512", "'64512'", "64_512", "0xfc00", "+64512", "0.64512", "'0.64512'"])
def test_as_numbers_are_read_as_go_reads_them(scalar: str) -> None:
    text = in_flow("BGPConfiguration", f"asNumber: {scalar}")
    (decoded,) = parse("f.yaml", text.encode(), {}).objects
    if scalar == "0.64512":  # YAML takes it for a fraction, and calicoctl refuses it
        assert "put it in quotes" in decoded.problems[0].message
    else:
        assert decoded.resource == BGPConfiguration("default", as_number=64512)


@pytest.mark.parametrize("word", ["true", "True", "yes", "on", "On", "y", "'true'"])
@pytest.mark.parametrize("negative", [False, True])
def test_booleans_are_spelled_as_go_takes_them(word: str, negative: bool) -> None:
    """``natOutgoing: yes`` is good YAML for kubectl and calicoctl, which is of 1.1 there."""
    opposite = {"true": "false", "True": "False", "yes": "no", "on": "off", "On": "Off", "y": "n"}
    said = opposite.get(word, "'false'") if negative else word
    text = in_flow("IPPool", f"cidr: 10.48.0.0/16, disabled: {said}")
    (decoded,) = parse("f.yaml", text.encode(), {}).objects
    pool: Any = decoded.resource
    assert (decoded.verdict, pool.disabled) == (Verdict.GOOD, not negative)


def test_fields_that_are_no_text_stay_what_they_are() -> None:
    text = """{apiVersion: projectcalico.org/v3, kind: IPAMBlock, metadata: {name: x}, spec: {deleted: false,
      cidr: 10.48.0.0/30, affinity: host:12e1, allocations: [null, 0], attributes: [{handle_id: 5e77, secondary:
      {node: 12e1, namespace: 1.10, pod: 0x1F}}]}}"""
    (document,) = load_documents(text, "f.yaml", keep_text=True)
    block = good(document.value)
    assert (block.affinity, block.allocations) == (
        "12e1",
        (Allocation(parse_address("10.48.0.1"), "12e1", "1.10/0x1F"),),
    )
    peer = "{apiVersion: projectcalico.org/v3, kind: BGPPeer, metadata: {name: x}, spec: {asNumber: 1.10}}"
    (document,) = load_documents(peer, "f.yaml", keep_text=True)
    assert "put it in quotes" in notes(document.value)["spec.asNumber"]


def test_json_has_scalars_too() -> None:
    """Where a document was read as JSON the numbers come as numbers."""
    labels = {"a": True, "b": 7, "c": 1.5, "d": None}
    assert good(kubernetes_node(labels)).labels == {"a": "true", "b": "7", "c": "1.5", "d": ""}


@pytest.mark.parametrize(
    "metadata",
    [
        {"labels": {"rack": ["r1"], "zone": "a"}},
        {"labels": {"rack": {"r": 1}, "zone": "a"}},
        {"labels": {"zone": "a"}, "annotations": {"projectcalico.org/labels": '["a"]'}},
        {"labels": {"zone": "a"}, "annotations": {"projectcalico.org/labels": "12e4567"}},
        {"labels": {"zone": "a"}, "annotations": {"projectcalico.org/labels": "{"}},
        {"labels": {"zone": "a"}, "annotations": {"projectcalico.org/labels": '{"rack": ["a"]}'}},
        {"labels": {"zone": "a"}, "annotations": {"projectcalico.org/metadata": '{"labels": ["a"]}'}},
        {"labels": {"zone": "a"}, "annotations": {"projectcalico.org/metadata": ["a"]}},
        {"labels": {"zone": "a"}, "annotations": {"other": {"a": 1}}},
        {"labels": {"zone": "a"}, "annotations": ["a"]},
    ],
)
@pytest.mark.parametrize("group", ["v1", V3])
def test_a_label_or_annotation_never_costs_its_object(group: str, metadata: dict[str, object]) -> None:
    decoded = one(thing("Node", {"bgp": {"ipv4Address": "10.0.1.20/24"}}, "w1", group, **metadata))
    assert (decoded.verdict, decoded.resource.labels) == (Verdict.GOOD, {"zone": "a"})  # type: ignore[union-attr]
    heeded = group == "v1" or "projectcalico.org/labels" not in str(metadata)
    assert bool(decoded.problems) == heeded, "what is left out is named"


@pytest.mark.parametrize("labels", [["a"], "a", 7])
def test_labels_that_are_no_labels_are_named(labels: object) -> None:
    decoded = one(thing("Node", {}, "w1", labels=labels))
    assert decoded.verdict is Verdict.GOOD
    assert [problem.path for problem in decoded.problems] == ["metadata.labels"]


@pytest.mark.parametrize(
    "document",
    [
        thing("Node", {"orchRefs": 3, "wireguard": ["x"], "bgp": {"ipv4IPIPTunnelAddr": ["x"]}}),
        kubernetes_node(IPv4IPIPTunnelAddr="x"),
        thing("Node", {"ipv4VXLANTunnelAddr": "nonsense", "vxlanTunnelMACAddr": 3}),
        {**thing("Node", {}), "status": ["x"]},
        {**thing("Node", {}), "status": {"wireguardPublicKey": {}}},
        thing("BGPConfiguration", {"logSeverityScreen": ["x"]}, "default"),
        thing("IPAMBlock", {"cidr": "10.48.0.0/26", "attributes": [{"handle_id": ["x"]}], "unallocated": 3}),
        thing("IPAMBlock", {"cidr": "10.48.0.0/26", "attributes": [{"secondary": "x"}], "allocations": [0]}),
        thing("IPPool", {"cidr": "10.48.0.0/16", "nodeSelector": 3, "natOutgoing": "x", "allowedUses": 3}),
    ],
)
def test_a_field_that_does_not_concern_us_never_costs_its_object(document: object) -> None:
    assert one(document).verdict is Verdict.GOOD


@pytest.mark.parametrize("kind", ["List", "IPPoolList"])
def test_a_list_of_nothing(kind: str) -> None:
    """What Go prints of a list without items."""
    assert list(decode({"apiVersion": "v1", "kind": kind, "items": None}, "f")) == []


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
        ({"kind": "IPPool", "apiVersion": V3, "metadata": {"name": [12]}}, "metadata.name"),
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
        thing("Service", {}, group="serving.knative.dev/v1"),
    ):
        assert one(document) == Decoded(Verdict.IGNORED)


@pytest.mark.parametrize(
    ("kind", "group", "expected"),
    [
        ("BGPFilter", "projectcalico.org/v2", f"{V3} or {V1}"),
        ("Secret", V3, "v1"),
        ("Service", V3, "v1"),
        ("EndpointSlice", V1, "discovery.k8s.io/v1"),
        ("EndpointSlice", "discovery.k8s.io/v1beta1", "discovery.k8s.io/v1"),
    ],
)
def test_kinds_of_another_group(kind: str, group: str, expected: str) -> None:
    decoded = one(thing(kind, {}, group=group))
    assert decoded.verdict is Verdict.BAD
    assert (decoded.problems[0].path, decoded.problems[0].message) == (
        "apiVersion",
        f"expected {expected}, not {group!r}",
    )


@pytest.mark.parametrize("all_of_it", [False, True])
def test_the_examples_are_good_and_of_every_kind(all_of_it: bool) -> None:
    """Also what is switched off in them: lines of which the ``#`` has no space behind it."""
    found: list[Decoded] = []
    for path in sorted(EXAMPLES.glob("*.yaml")):
        text = path.read_text()
        if all_of_it:
            text = re.sub(r"^( *)#(?=\S)", r"\1", text, flags=re.MULTILINE)
        values = [document.value for document in load_documents(text, path.name)]
        found += [each for value in values if value is not None for each in decode(value, path.name)]
    assert [d.problems for d in found if d.problems] == []
    assert {d.verdict for d in found} == {Verdict.GOOD}
    kinds = {d.key.kind for d in found if d.key}
    assert kinds == set(KINDS) - (set() if all_of_it else {"Secret", "Service", "EndpointSlice"})
    if all_of_it:
        resources = {d.key: d.resource for d in found}
        tor, secret = resources[Key("BGPPeer", "tor-rack1")], resources[Key("Secret", "bgp-passwords")]
        assert isinstance(tor, BGPPeer) and isinstance(secret, Secret) and tor.password is not None
        assert (tor.password.name, tor.password.key in secret.data) == (secret.name, True)
        assert [Key("BGPFilter", name) in resources for name in tor.filters] == [True]


@pytest.mark.parametrize("text", ['["rack"]', '"rack"', "3", "null", "[" * 3000])
@pytest.mark.parametrize("key", ["labels", "metadata"])
def test_an_annotation_of_labels_that_is_no_object_costs_only_itself(key: str, text: str) -> None:
    document = kubernetes_node({"zone": "a"}, IPv4Address="10.0.0.1/24", **{key: text})
    (found,) = decode(document, "f")
    assert isinstance(found.resource, Node)
    assert found.resource.labels == {"zone": "a"}
    (problem,) = found.problems
    assert (problem.path, problem.message) == (
        f"metadata.annotations.projectcalico.org/{key}",
        "expected a JSON object: ignored",
    )
