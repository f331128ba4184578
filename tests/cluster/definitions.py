"""Definitions of Calico's kinds that take anything, for an API server of the tests."""

from __future__ import annotations

from typing import Any

from tests.cluster.servers import ApiServer

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
CALICO = "/apis/crd.projectcalico.org/v1"
PLURAL = {
    "IPPool": "ippools",
    "BGPConfiguration": "bgpconfigurations",
    "BGPPeer": "bgppeers",
    "BGPFilter": "bgpfilters",
    "BlockAffinity": "blockaffinities",
    "IPAMBlock": "ipamblocks",
}


def definition(kind: str, fields: tuple[str, ...] = ()) -> dict[str, Any]:
    """A CRD that takes anything. ``fields`` may be selected by."""
    plural = PLURAL[kind]
    spec: dict[str, Any] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema = {"type": "object", "properties": {"spec": spec}}
    if fields:
        spec["properties"] = {field: {"type": "string"} for field in fields}
    version: dict[str, Any] = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
    }
    if fields:
        version["selectableFields"] = [{"jsonPath": f".spec.{field}"} for field in fields]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.crd.projectcalico.org"},
        "spec": {
            "group": "crd.projectcalico.org",
            "names": {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()},
            "scope": "Cluster",
            "versions": [version],
        },
    }


def serves(server: ApiServer, plural: str) -> bool:
    found = server.request("GET", f"{CALICO}/{plural}", text=True, accept=(404, 429, 503))
    return '"items"' in found
