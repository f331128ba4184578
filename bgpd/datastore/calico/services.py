"""Kubernetes' Services and the EndpointSlices of them (calico.md §5). For ``decode``.

Of either is kept what says whether a node announces its addresses. The rest is kube-proxy's, and of no interest to us.
"""

from __future__ import annotations

from bgpd.datastore.calico.fields import Fields, as_text, plain_address
from bgpd.model.prefix import Address, Family
from bgpd.model.resources import Endpoint, EndpointSlice, Service

SERVICE_NAME = "kubernetes.io/service-name"
"""The label of an EndpointSlice that says whose it is; one without it is no service's."""


def service(name: str, fields: Fields) -> Service:
    spec = fields.section("spec")
    cluster_ips = _addresses(spec, "clusterIPs")
    if not spec.get("clusterIPs") and spec.text("clusterIP") not in (None, "None"):
        cluster_ips = tuple(filter(None, (spec.address("clusterIP"),)))
    balancer = fields.section("status").section("loadBalancer")
    ingress = [entry.address("ip") for entry in balancer.sections("ingress")]
    policy = spec.option("externalTrafficPolicy", {"Cluster": "Cluster", "Local": "Local"})
    return Service(
        name,
        type=spec.text("type") or "ClusterIP",
        cluster_ips=cluster_ips,
        external_ips=_addresses(spec, "externalIPs"),
        load_balancer_ips=tuple(address for address in ingress if address is not None),
        local=policy == "Local",
        cluster=policy == "Cluster",
        asked_ip=spec.lenient("loadBalancerIP", plain_address),
    )


def _addresses(spec: Fields, key: str) -> tuple[Address, ...]:
    """A list of addresses; ``None`` in that of a headless service is none."""
    found = []
    for at, entry in spec.entries(key):
        if entry in ("", "None"):
            continue
        try:
            found.append(plain_address(as_text(entry) or ""))
        except ValueError as error:
            spec.bad(at, str(error))
    return tuple(found)


def endpoint_slice(name: str, fields: Fields) -> EndpointSlice | None:
    namespace = name.partition("/")[0]
    owner = fields.mapping("metadata").mapping("labels").words(SERVICE_NAME)
    families = {"IPv4": Family.IPV4, "IPv6": Family.IPV6, "FQDN": None}
    fields.required("addressType")
    family = fields.option("addressType", families)
    if not owner or family is None:
        return None
    endpoints = frozenset(
        Endpoint(entry.text("nodeName"), bool(entry.section("conditions").flag("ready", True)))
        for entry in fields.sections("endpoints")
    )
    return EndpointSlice(name, f"{namespace}/{owner}", family, endpoints)
