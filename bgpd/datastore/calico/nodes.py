"""Node, of projectcalico.org/v3 and of core/v1 with Calico's annotations (calico.md §4.5). For ``decode``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from bgpd.datastore.calico.fields import Fields
from bgpd.model.networks import IPNetwork
from bgpd.model.prefix import Address, Family, family_of, parse_address, parse_prefix, prefix_text
from bgpd.model.resources import Node

_ANNOTATION = "projectcalico.org/"


def calico_node(name: str, fields: Fields) -> Node:
    spec, status = fields.section("spec"), fields.mapping("status")
    bgp, wireguard = spec.section("bgp"), spec.mapping("wireguard")
    # A status does not survive every export of a resource: the interface's address says as much.
    protected = frozenset(
        family
        for family, key, address in (
            (Family.IPV4, "wireguardPublicKey", "interfaceIPv4Address"),
            (Family.IPV6, "wireguardPublicKeyV6", "interfaceIPv6Address"),
        )
        if status.words(key) or wireguard.get(address)
    )
    metadata = fields.mapping("metadata")
    labels = _labels(metadata, _annotations(metadata), "")
    names = ("ipv4Address", "ipv6Address", "asNumber", "routeReflectorClusterID")
    return _node(name, labels, bgp, names, protected)


def kubernetes_node(name: str, fields: Fields) -> Node:
    metadata = fields.section("metadata")
    annotations = _annotations(metadata)
    protected = frozenset(
        family
        for family, key in ((Family.IPV4, "WireguardPublicKey"), (Family.IPV6, "WireguardPublicKeyV6"))
        if annotations.words(_ANNOTATION + key)
    )
    labels = _labels(metadata, annotations, _ANNOTATION + "labels")
    names = ("IPv4Address", "IPv6Address", "ASNumber", "RouteReflectorClusterID")
    node = _node(name, labels, annotations, tuple(_ANNOTATION + key for key in names), protected)
    return replace(node, unschedulable=fields.mapping("spec").words("unschedulable") == "true")


def _node(
    name: str,
    labels: Mapping[str, str],
    bgp: Fields,
    names: tuple[str, ...],
    wireguard: frozenset[Family],
) -> Node:
    ipv4, ipv6, asn, cluster = names
    address4, network4 = bgp.parsed(ipv4, _of(Family.IPV4, _interface)) or (None, None)
    address6, network6 = bgp.parsed(ipv6, _of(Family.IPV6, _interface)) or (None, None)
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
        wireguard=wireguard,
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


def _annotations(metadata: Fields) -> Fields:
    """Annotations, which are all text."""
    found = metadata.mapping("annotations")
    return Fields(found.scalars(), found.path, found.notes)


def _labels(metadata: Fields, annotations: Fields, beneath: str) -> dict[str, str]:
    """Labels of an object: its own, over those that Calico keeps in annotations (``beneath`` names one). What is wrong
    among them is noted and left out: a label never costs its object."""
    of_metadata = _ANNOTATION + "metadata"
    kept = Fields(_json(annotations, of_metadata), annotations.at(of_metadata), annotations.notes)
    own = _json(annotations, beneath) if beneath else {}
    return {
        **kept.mapping("labels").scalars(),
        **Fields(own, annotations.at(beneath), annotations.notes).scalars(),
        **metadata.mapping("labels").scalars(),
    }


def _json(annotations: Fields, key: str) -> dict[str, Any]:
    """An annotation that holds a JSON object; nothing where it does not, which is noted."""
    text = annotations.data.get(key)
    value: object
    try:
        value = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        annotations.note(key, "expected a JSON object: ignored")
        return {}
    return value
