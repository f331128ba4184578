"""Calico's resources as dictionaries, as a test writes them into files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def resource(kind: str, name: str, spec: Mapping[str, Any], **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "projectcalico.org/v3",
        "kind": kind,
        "metadata": {"name": name, **metadata},
        "spec": dict(spec),
    }


def node(
    name: str,
    ipv4: str | None = None,
    ipv6: str | None = None,
    asn: int | None = None,
    labels: Mapping[str, str] | None = None,
    cluster_id: str | None = None,
) -> dict[str, Any]:
    """A Node; addresses with their prefix length. A route reflector with ``cluster_id``."""
    bgp: dict[str, Any] = {}
    if ipv4:
        bgp["ipv4Address"] = ipv4
    if ipv6:
        bgp["ipv6Address"] = ipv6
    if asn:
        bgp["asNumber"] = asn
    if cluster_id:
        bgp["routeReflectorClusterID"] = cluster_id
    return resource("Node", name, {"bgp": bgp}, labels=dict(labels or {}))


def pool(name: str, cidr: str, block_size: int | None = None, **spec: Any) -> dict[str, Any]:
    size = block_size or (122 if ":" in cidr else 26)
    modes = {"ipipMode": "Never", "vxlanMode": "Never"}
    return resource(
        "IPPool", name, {"cidr": cidr, "blockSize": size, **modes, "nodeSelector": "all()", **spec}
    )


def affinity(owner: str, cidr: str, state: str = "confirmed") -> dict[str, Any]:
    name = f"{owner}-{cidr.translate(str.maketrans('.:/', '---'))}"
    return resource("BlockAffinity", name, {"cidr": cidr, "node": owner, "state": state, "deleted": "false"})


def bgp_configuration(
    asn: int = 64512, mesh: bool = True, port: int | None = None, **more: Any
) -> dict[str, Any]:
    spec: dict[str, Any] = {"asNumber": asn, "nodeToNodeMeshEnabled": mesh, **more}
    if port:
        spec["listenPort"] = port
    return resource("BGPConfiguration", "default", spec)


def bgp_peer(name: str, peer_ip: str, asn: int, **spec: Any) -> dict[str, Any]:
    return resource("BGPPeer", name, {"peerIP": peer_ip, "asNumber": asn, **spec})


def bgp_filter(name: str, **lists: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """A BGPFilter of lists of rules: ``exportV4=[...]``."""
    return resource("BGPFilter", name, {key: [dict(rule) for rule in rules] for key, rules in lists.items()})
