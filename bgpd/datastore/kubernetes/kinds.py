"""What is read of the Kubernetes API, and what of it passes the door: an object is cut to what ``decode`` reads before
anybody keeps it, so that memory does not depend on what others write into theirs (managedFields, status, images)."""

from __future__ import annotations

from typing import Any, NamedTuple

from bgpd.datastore.calico.services import SERVICE_NAME

Document = dict[str, Any]


class Kind(NamedTuple):
    """A collection of the API."""

    kind: str
    plural: str
    api: str
    """``v1``, ``discovery.k8s.io/v1``, or empty: Calico's group, as the server has it."""
    essential: bool = False
    """What is announced without it would be wrong: a node that may not read it announces nothing."""

    def path(self, calico: str, namespace: str | None = None) -> str:
        api = self.api or calico
        root = f"/apis/{api}" if "/" in api else f"/api/{api}"
        return f"{root}/namespaces/{namespace}/{self.plural}" if namespace else f"{root}/{self.plural}"


NODES = Kind("Node", "nodes", "v1", essential=True)
POOLS = Kind("IPPool", "ippools", "", essential=True)
CONFIGURATIONS = Kind("BGPConfiguration", "bgpconfigurations", "", essential=True)
PEERS = Kind("BGPPeer", "bgppeers", "")
FILTERS = Kind("BGPFilter", "bgpfilters", "")
AFFINITIES = Kind("BlockAffinity", "blockaffinities", "", essential=True)
BLOCKS = Kind("IPAMBlock", "ipamblocks", "")
SERVICES = Kind("Service", "services", "v1")
SLICES = Kind("EndpointSlice", "endpointslices", "discovery.k8s.io/v1")
SECRETS = Kind("Secret", "secrets", "v1")
STATUSES = Kind("CalicoNodeStatus", "caliconodestatuses", "")


def reduced(kind: Kind, found: Document, node: str, api: str) -> Document | None:
    """The part of an object that concerns ``node``; ``None``: nothing. Whatever is no mapping is left to ``decode``."""
    metadata = mapping(found.get("metadata"))
    kept: Document = {"name": metadata.get("name")}
    if "namespace" in metadata:
        kept["namespace"] = metadata["namespace"]
    document: Document = {"apiVersion": api, "kind": kind.kind, "metadata": kept}
    if kind is NODES:
        annotations = mapping(metadata.get("annotations"))
        kept["labels"] = metadata.get("labels")
        kept["annotations"] = {
            key: value for key, value in annotations.items() if key.startswith("projectcalico.org/")
        }
    elif kind is SERVICES:
        spec, status = mapping(found.get("spec")), mapping(found.get("status"))
        wanted = ("type", "clusterIP", "clusterIPs", "externalIPs", "externalTrafficPolicy")
        document["spec"] = {key: spec[key] for key in wanted if key in spec}
        document["status"] = {"loadBalancer": status.get("loadBalancer")}
    elif kind is SLICES:
        labels = mapping(metadata.get("labels"))
        kept["labels"] = {key: labels[key] for key in (SERVICE_NAME,) if key in labels}
        document["addressType"] = found.get("addressType")
        document["endpoints"] = _endpoints(found.get("endpoints"), node)
    elif kind is SECRETS:
        document["data"] = found.get("data")
    else:
        spec = mapping(found.get("spec"))
        if kind in (AFFINITIES, STATUSES) and spec.get("node") != node:
            return None
        document["spec"] = found.get("spec")
    return document


def _endpoints(endpoints: object, node: str) -> object:
    """Those of a slice as far as a node decides by them: its own, ready or not, and whether others are ready."""
    if not isinstance(endpoints, list):
        return endpoints
    kept: dict[tuple[bool, bool], Document] = {}
    for each in endpoints:
        if not isinstance(each, dict):
            return endpoints
        ready = mapping(each.get("conditions")).get("ready")
        if ready not in (None, True, False):
            return endpoints
        own = each.get("nodeName") == node
        entry: Document = {"conditions": {"ready": ready is not False}}
        if own:
            entry["nodeName"] = node
        kept[own, ready is not False] = entry
    return list(kept.values())


def mapping(value: object) -> Document:
    """A value of an object; whatever is no mapping is as good as not there."""
    return value if isinstance(value, dict) else {}
