"""Calico's objects as read from YAML or JSON -> ``model.resources``, each problem named. Shared by the datastores.

Accepted are the shapes of ``projectcalico.org/v3``, of ``crd.projectcalico.org/v1`` and of core/v1 Nodes with Calico's
annotations (calico.md §4), alone or in a ``List``. ``decode`` takes one document and returns one ``Decoded`` an object:
good, gone (a tombstone, or nothing of ours) or bad. What is set but not acted on yet is a problem of a good object.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

from netaddr import IPNetwork

from bgpd.datastore.fields import Bad, Fields
from bgpd.model.prefix import (
    Address,
    Family,
    Prefix,
    family_of,
    network_address,
    parse_address,
    parse_prefix,
    prefix_text,
)
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
    Problem,
)

Resource = IPPool | BlockAffinity | IPAMBlock | Node | BGPConfiguration | BGPPeer
KINDS = ("IPPool", "BlockAffinity", "IPAMBlock", "Node", "BGPConfiguration", "BGPPeer")
CALICO_GROUPS = ("projectcalico.org/v3", "crd.projectcalico.org/v1")
_ANNOTATION = "projectcalico.org/"


class Key(NamedTuple):
    """What an object is called: unique across API groups."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


class Verdict(Enum):
    """What became of an object."""

    GOOD = "good"
    GONE = "gone"
    """It says itself that it counts no more (``deleted``), or it is no node's."""
    BAD = "bad"
    IGNORED = "ignored"
    """Of a kind that does not concern us."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """One object. ``key`` is ``None`` when not even kind and name could be read."""

    verdict: Verdict
    key: Key | None = None
    resource: Resource | None = None
    problems: tuple[Problem, ...] = ()


def decode(document: object, source: str) -> Iterator[Decoded]:
    """The objects of one document, those of a ``List`` one by one. ``source`` names its file in problems."""
    if not isinstance(document, dict):
        yield _nameless(source, "", "expected a resource: apiVersion, kind, metadata and spec")
        return
    kind, group = document.get("kind"), document.get("apiVersion")
    if isinstance(kind, str) and kind.endswith("List") and "items" in document:
        items = document["items"]
        if not isinstance(items, list):
            yield _nameless(source, "items", "expected a list")
            return
        implied = {"kind": kind.removesuffix("List"), "apiVersion": group} if kind != "List" else {}
        for index, item in enumerate(items):
            if isinstance(item, dict):
                yield _object({**implied, **item}, source, f"items.{index}.")
            else:
                yield _nameless(source, f"items.{index}", "expected a resource")
        return
    yield _object(document, source, "")


def _nameless(source: str, path: str, message: str) -> Decoded:
    return Decoded(Verdict.BAD, None, None, (Problem(source, path, message),))


def _object(document: dict[str, Any], source: str, where: str) -> Decoded:
    kind, group = document.get("kind"), document.get("apiVersion")
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    for path, value in (("kind", kind), ("apiVersion", group)):
        if not isinstance(value, str) or not value:
            return _nameless(
                source, where + path, "expected, but not there" if value is None else "expected text"
            )
    decoder = _DECODERS.get(
        (str(kind), "v1" if group == "v1" else "calico" if group in CALICO_GROUPS else "")
    )
    if decoder is None:
        return _other(str(kind), str(group), name, source)
    if not isinstance(name, str) or not name:
        message = (
            "expected, but not there" if name is None else f"expected text, not {name!r}: put it in quotes"
        )
        return _nameless(f"{source}: {kind}", f"{where}metadata.name", message)
    key = Key(str(kind), name)
    notes: list[tuple[str, str]] = []
    resource: Resource | None = None
    try:
        resource = decoder(name, Fields(document, "", notes))
        verdict = Verdict.GONE if resource is None else Verdict.GOOD
    except Bad:
        verdict = Verdict.BAD
    problems = tuple(Problem(f"{source}: {key}", path, message) for path, message in notes)
    return Decoded(verdict, key, resource, problems)


def _other(kind: str, group: str, name: object, source: str) -> Decoded:
    """An object we do not read: silent, except where somebody may rely on it."""
    if group.partition("/")[0] in ("projectcalico.org", "crd.projectcalico.org"):
        if kind in KINDS:
            expected = " or ".join(CALICO_GROUPS)
            message = f"expected {expected}, not {group!r}"
            return _nameless(f"{source}: {kind} {name}", "apiVersion", message)
        if kind == "BGPFilter":
            problem = Problem(f"{source}: {kind} {name}", "", "not supported yet: ignored")
            return Decoded(Verdict.IGNORED, None, None, (problem,))
    return Decoded(Verdict.IGNORED)


# -- the kinds ---------------------------------------------------------------------------------------------------------


def _pool(name: str, fields: Fields) -> IPPool:
    spec = fields.section("spec")
    family, cidr = spec.block()
    low, high, default = (20, 32, 26) if family is Family.IPV4 else (116, 128, 122)
    size = spec.integer("blockSize", low, high) or default
    if size < cidr[0]:
        spec.bad("blockSize", f"blocks of /{size} do not fit into {prefix_text(family, cidr)}")
    pool = IPPool(
        name,
        family,
        cidr,
        size,
        disable_bgp_export=spec.flag("disableBGPExport", False),
        disabled=spec.flag("disabled", False),
        ipip_mode=spec.choice("ipipMode", EncapMode, EncapMode.NEVER),
        vxlan_mode=spec.choice("vxlanMode", EncapMode, EncapMode.NEVER),
    )
    spec.unsupported(
        "cidr blockSize disabled disableBGPExport natOutgoing nodeSelector namespaceSelector allowedUses "
        "assignmentMode",
        {"ipipMode": ("Never",), "vxlanMode": ("Never",), "ipip": ()},
    )
    return pool


def _affinity(name: str, fields: Fields) -> BlockAffinity | None:
    spec = fields.section("spec")
    spec.unsupported("cidr state node type deleted", {})
    if spec.flag("deleted", False) or spec.get("type") == "virtual":
        return None
    if spec.get("type") not in (None, "host"):
        spec.bad("type", f"expected host or virtual, not {spec.get('type')!r}")
    family, cidr = spec.block()
    state = spec.choice("state", AffinityState, AffinityState.CONFIRMED)
    return BlockAffinity(name, spec.required("node"), family, cidr, state)


def _block(name: str, fields: Fields) -> IPAMBlock | None:
    spec = fields.section("spec")
    if spec.flag("deleted", False):
        return None
    family, cidr = spec.block()
    affinity = spec.text("affinity")
    kind, colon, owner = (affinity or "").partition(":")
    if affinity is None:
        owner = spec.text("hostAffinity") or ""  # the oldest spelling
    elif not colon or kind not in ("host", "virtual") or not owner:
        spec.bad("affinity", f"expected host:NODE or virtual:NAME, not {affinity!r}")
    if kind == "virtual":
        return IPAMBlock(name, family, cidr, None)
    return IPAMBlock(name, family, cidr, owner or None, tuple(_allocations(spec, family, cidr)))


def _allocations(spec: Fields, family: Family, cidr: Prefix) -> Iterator[Allocation]:
    """The addresses in use whose node is known (calico.md §4.6)."""
    ordinals, attributes = spec.get("allocations") or [], spec.get("attributes") or []
    if not isinstance(ordinals, list) or len(ordinals) > 1 << (family.bits - cidr[0]):
        spec.bad("allocations", "expected a list of at most one entry an address")
    if not isinstance(attributes, list):
        spec.bad("attributes", "expected a list")
    users = [
        _user(Fields(entry, spec.at(f"attributes.{i}"), spec.notes)) for i, entry in enumerate(attributes)
    ]
    base = int.from_bytes(network_address(family, cidr))
    for ordinal, index in enumerate(ordinals):
        if index is None:
            continue
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(users):
            spec.bad(f"allocations.{ordinal}", f"expected null or an index into attributes, not {index!r}")
        user = users[index]
        if user is not None:
            yield Allocation(Address((base + ordinal).to_bytes(family.octets)), *user)


def _user(attribute: Fields) -> tuple[str, str] | None:
    """(node, owner) of an attribute; ``None`` when nobody is behind the address."""
    handle, secondary = attribute.text("handle_id"), attribute.section("secondary")
    node = secondary.get("node")
    released = attribute.get("releasedAt") or attribute.get("released_at")
    if released or handle == "windows-reserved-ipam-handle" or not isinstance(node, str):
        return None
    namespace, pod, kind = (secondary.get(key) for key in ("namespace", "pod", "type"))
    if pod:
        return node, f"{namespace}/{pod}" if namespace else str(pod)
    return node, str(kind or handle or "")


_RESTART_TIME = ("120s", "2m0s", "2m")


def _configuration(name: str, fields: Fields) -> BGPConfiguration:
    spec = fields.section("spec")
    password = spec.get("nodeMeshPassword")
    mode = spec.get("bindMode")
    if mode not in (None, "None", "NodeIP"):
        spec.bad("bindMode", f"expected None or NodeIP, not {mode!r}")
    configuration = BGPConfiguration(
        name,
        as_number=spec.asn("asNumber"),
        node_to_node_mesh_enabled=spec.flag("nodeToNodeMeshEnabled"),
        listen_port=spec.integer("listenPort", 1, 65535),
        bind_mode_node_ip=None if mode is None else mode == "NodeIP",
    )
    if password not in (None, {}):
        spec.note("nodeMeshPassword", "not supported yet: the mesh is not peered with")
    spec.unsupported(
        "asNumber nodeToNodeMeshEnabled listenPort bindMode logSeverityScreen nodeMeshPassword",
        {
            "nodeMeshMaxRestartTime": _RESTART_TIME,
            "serviceClusterIPs": (),
            "serviceExternalIPs": (),
            "serviceLoadBalancerIPs": (),
            "serviceLoadBalancerAggregation": ("Enabled",),
            "communities": (),
            "prefixAdvertisements": (),
            "ignoredInterfaces": (),
            "localWorkloadPeeringIPV4": (),
            "localWorkloadPeeringIPV6": (),
            "programClusterRoutes": ("Enabled", "EnabledNoEncapOnly"),
            "ipv4NormalRoutePriority": (1024,),
            "ipv6NormalRoutePriority": (1024,),
        },
    )
    return configuration


_PROTECTIVE = ("filters", "password", "localWorkloadSelector")
"""Without these a session would say or take more than its owner allows."""


def _peer(name: str, fields: Fields) -> BGPPeer:
    spec = fields.section("spec")
    address, port = spec.parsed("peerIP", _peer_address) or (None, None)
    refused = tuple(key for key in _PROTECTIVE if spec.get(key) not in (None, [], {}))
    reverse = spec.get("reversePeering")
    if reverse not in (None, "Auto", "Manual"):
        spec.bad("reversePeering", f"expected Auto or Manual, not {reverse!r}")
    peer = BGPPeer(
        name,
        node=spec.text("node"),
        node_selector=spec.text("nodeSelector"),
        peer_ip=address,
        peer_port=port,
        peer_selector=spec.text("peerSelector"),
        as_number=spec.asn("asNumber", zero_is_unset=True),
        reverse=reverse != "Manual",
    )
    for key in refused:
        spec.note(key, "not supported yet: this peer is not peered with")
    spec.unsupported(
        "node nodeSelector peerIP peerSelector asNumber reversePeering filters password localWorkloadSelector",
        {
            "localASNumber": (0,),
            "keepOriginalNextHop": (False,),
            "nextHopMode": ("Auto",),
            "sourceAddress": ("UseNodeIP",),
            "maxRestartTime": _RESTART_TIME,
            "keepaliveTime": (),
            "numAllowedLocalASNumbers": (0,),
            "ttlSecurity": (0,),
            "reachableBy": (),
        },
    )
    return peer


def _peer_address(text: str) -> tuple[Address, int | None]:
    """``ip``, ``ip:port`` or ``[v6]:port``."""
    expected = f"{text!r} is not an address such as 192.0.2.1, 192.0.2.1:179 or [2001:db8::1]:179"
    match = re.fullmatch(r"\[([^]]*)\](?::([0-9]{1,5}))?|([0-9.]+):([0-9]{1,5})", text)
    try:
        if match is None:
            return parse_address(text), None
        address, port = parse_address(match[1] or match[3]), match[2] or match[4]
    except ValueError:
        raise ValueError(expected) from None
    if port is not None and not 1 <= int(port) <= 65535:
        raise ValueError(expected)
    return address, None if port is None else int(port)


def _calico_node(name: str, fields: Fields) -> Node:
    spec = fields.section("spec")
    bgp, wireguard = spec.section("bgp"), spec.section("wireguard")
    tunnels = [
        (bgp, "ipv4IPIPTunnelAddr", Family.IPV4),
        (spec, "ipv4VXLANTunnelAddr", Family.IPV4),
        (spec, "ipv6VXLANTunnelAddr", Family.IPV6),
        (wireguard, "interfaceIPv4Address", Family.IPV4),
        (wireguard, "interfaceIPv6Address", Family.IPV6),
    ]
    labels = _labels(fields.section("metadata"), {})
    names = ("ipv4Address", "ipv6Address", "asNumber", "routeReflectorClusterID")
    return _node(name, labels, bgp, names, tunnels)


def _kubernetes_node(name: str, fields: Fields) -> Node:
    metadata = fields.section("metadata")
    annotations = metadata.section("annotations")
    tunnels = [
        (annotations, _ANNOTATION + key, Family.IPV6 if "IPv6" in key else Family.IPV4)
        for key in (
            "IPv4IPIPTunnelAddr",
            "IPv4VXLANTunnelAddr",
            "IPv6VXLANTunnelAddr",
            "IPv4WireguardInterfaceAddr",
            "IPv6WireguardInterfaceAddr",
        )
    ]
    labels = _labels(metadata, _json(annotations, _ANNOTATION + "labels"))
    names = ("IPv4Address", "IPv6Address", "ASNumber", "RouteReflectorClusterID")
    return _node(name, labels, annotations, tuple(_ANNOTATION + key for key in names), tunnels)


def _node(
    name: str,
    labels: Mapping[str, str],
    bgp: Fields,
    names: tuple[str, ...],
    tunnels: list[tuple[Fields, str, Family]],
) -> Node:
    ipv4, ipv6, asn, cluster = names
    address4, network4 = bgp.parsed(ipv4, _of(Family.IPV4, _interface)) or (None, None)
    address6, network6 = bgp.parsed(ipv6, _of(Family.IPV6, _interface)) or (None, None)
    addresses = [where.parsed(key, _of(family, _interface)) for where, key, family in tunnels]
    cluster_id = bgp.parsed(cluster, _of(Family.IPV4, _interface))
    return Node(
        name,
        labels,
        ipv4=address4,
        ipv6=address6,
        ipv4_network=network4,
        ipv6_network=network6,
        asn=bgp.asn(asn),
        route_reflector_cluster_id=cluster_id[0] if cluster_id else None,
        tunnel_addresses=tuple(found[0] for found in addresses if found),
    )


def _of(
    family: Family, parse: Callable[[str], tuple[Address, IPNetwork | None]]
) -> Callable[[str], tuple[Address, IPNetwork | None]]:
    """``parse``, refusing an address of the other family."""

    def checked(text: str) -> tuple[Address, IPNetwork | None]:
        found = parse(text)
        if family_of(found[0]) is not family:
            raise ValueError(f"{text!r} is not of {family.label}")
        return found

    return checked


def _interface(text: str) -> tuple[Address, IPNetwork | None]:
    """``address`` or ``address/length``, with the subnet when there is a length."""
    try:
        family, prefix = parse_prefix(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an address such as 10.0.1.20/24 or fd00::14/64") from None
    network = IPNetwork(prefix_text(family, prefix)) if "/" in text else None
    return parse_address(text.partition("/")[0]), network


def _labels(metadata: Fields, beneath: Mapping[str, Any]) -> dict[str, str]:
    """Labels of an object: its own, over those that Calico keeps in annotations."""
    annotations = metadata.section("annotations")
    kept = _json(annotations, _ANNOTATION + "metadata").get("labels") or {}
    if not isinstance(kept, dict):
        annotations.bad(_ANNOTATION + "metadata", "expected labels of keys and values")
    labels = {**kept, **beneath, **metadata.section("labels").data}
    for key, value in labels.items():
        if not isinstance(key, str) or not isinstance(value, str):
            metadata.bad(f"labels.{key}", f"expected text, not {value!r}: put it in quotes")
    return labels


def _json(annotations: Fields, key: str) -> dict[str, Any]:
    """An annotation that holds a JSON object."""
    text = annotations.text(key)
    value: object
    try:
        value = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        annotations.bad(key, "expected a JSON object")
    return value if isinstance(value, dict) else {}


_DECODERS: Mapping[tuple[str, str], Callable[[str, Fields], Resource | None]] = {
    ("IPPool", "calico"): _pool,
    ("BlockAffinity", "calico"): _affinity,
    ("IPAMBlock", "calico"): _block,
    ("BGPConfiguration", "calico"): _configuration,
    ("BGPPeer", "calico"): _peer,
    ("Node", "calico"): _calico_node,
    ("Node", "v1"): _kubernetes_node,
}
