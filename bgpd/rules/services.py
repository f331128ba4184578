"""Services and their endpoints -> which addresses of services this node announces (calico.md §5). Called by
``daemon.intent`` and by ``originate``; ``policy`` asks for the ranges.

The ranges of BGPConfiguration are announced whole, by every node that is not excluded by its label. Beside them single
addresses are, of a Service of which one of these holds:

- it has an address that is, alone, an entry of ``serviceExternalIPs`` or, of type LoadBalancer,
  ``serviceLoadBalancerIPs``, and not ``externalTrafficPolicy: Local``: by every node;
- it has ``externalTrafficPolicy: Local``: by the nodes that have a ready endpoint of it;
- ``serviceLoadBalancerAggregation`` is Disabled: by every node, while it has a ready endpoint at all.

Then its cluster IPs are announced (where there are ``serviceClusterIPs`` at all; not only those inside), its external
IPs inside ``serviceExternalIPs``, and its load balancer IPs inside ``serviceLoadBalancerIPs``; endpoints count for the
addresses of their own family. Never those of a Service without a cluster IP or of type ExternalName.

The result is whole, made of what is there now: an address that several Services have is announced while one of them
says so, and no EndpointSlice is remembered that is gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from bgpd.model.prefix import Address, Family, Prefix, covers, family_of, host_prefix, is_host
from bgpd.model.resources import BGPConfiguration, Endpoint, EndpointSlice, Node, Service, Snapshot
from bgpd.model.route import Originated, OriginKind

EXCLUDE_SERVICES = "node.kubernetes.io/exclude-from-external-load-balancers"
CLUSTER_IPS, EXTERNAL_IPS, LOAD_BALANCER_IPS = (
    "serviceClusterIPs",
    "serviceExternalIPs",
    "serviceLoadBalancerIPs",
)
_TYPES = ("ClusterIP", "NodePort", "LoadBalancer")
_SHOWN = 3
"""Reasons given for an address that many Services have."""


# The ranges.


def is_excluded(node: Node) -> bool:
    """Whether a node announces nothing of services."""
    return node.labels.get(EXCLUDE_SERVICES) == "true"


def ranges(cluster: BGPConfiguration, family: Family) -> Iterator[tuple[Prefix, str]]:
    """All ranges of services, each with its field."""
    named = (
        (CLUSTER_IPS, cluster.service_cluster_ips),
        (EXTERNAL_IPS, cluster.service_external_ips),
        (LOAD_BALANCER_IPS, cluster.service_load_balancer_ips),
    )
    for name, found in named:
        for each in found:
            if each.family is family:
                yield each.cidr, name


def announced_ranges(cluster: BGPConfiguration, family: Family) -> Iterator[tuple[Prefix, str]]:
    """The ranges that are announced whole: a single address is its service's own business."""
    for cidr, name in ranges(cluster, family):
        single = name != CLUSTER_IPS and is_host(family, cidr)
        aggregated = name != LOAD_BALANCER_IPS or cluster.service_load_balancer_aggregation
        if aggregated and not single:
            yield cidr, f"BGPConfiguration default {name}"


# Single addresses.


class ServiceAddresses(NamedTuple):
    """The single addresses of services, of one family."""

    announce: Mapping[Prefix, Originated] = {}
    hidden: Mapping[Prefix, str] = {}
    """Why the others are not announced here, in words."""
    outside: Mapping[Prefix, str] = {}
    """Those that a node may announce though no range holds them, each with whose it is. Whether one does now is of no
    matter: another node may see the same resources a moment later, and announce them until then."""


class _Use(NamedTuple):
    """An address that a Service has."""

    family: Family
    prefix: Prefix
    words: str
    """``externalIP of Service default/web``."""


class _Waiting(NamedTuple):
    """A Service whose endpoints decide."""

    service: Service
    uses: tuple[_Use, ...]


_Words = dict[Family, dict[Prefix, list[str]]]


@dataclass(frozen=True, slots=True)
class _Judged:
    """What can be decided without a look at endpoints: most Services do not ask for more."""

    announce: _Words = field(default_factory=lambda: {family: {} for family in Family})
    hidden: _Words = field(default_factory=lambda: {family: {} for family in Family})
    outside: dict[Family, dict[Prefix, str]] = field(
        default_factory=lambda: {family: {} for family in Family}
    )
    waiting: list[_Waiting] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Services:
    """What a node says of services' single addresses, and what that was made of."""

    families: Mapping[Family, ServiceAddresses]
    _node: str
    _causes: tuple[object, ...]
    _slices: Mapping[str, EndpointSlice]
    _judged: _Judged


def services(snapshot: Snapshot, node: str, before: Services | None = None) -> Services:
    """The single addresses that ``node`` announces. ``before``, the result for an earlier snapshot, saves the work for
    what is the same object in both; it changes nothing else."""
    cluster = snapshot.settings()
    own = snapshot.nodes.get(node) or Node(node)
    causes = (snapshot.services, cluster, is_excluded(own))
    if before is not None and before._node == node and _same(before._causes, causes):
        if before._slices is snapshot.endpoint_slices or not before._judged.waiting:
            return before
        judged = before._judged
    else:
        judged = _judge(snapshot.services, cluster, is_excluded(own))
    slices = snapshot.endpoint_slices
    return Services(_by_endpoints(judged, slices, node), node, causes, slices, judged)


def _same(before: tuple[object, ...], after: tuple[object, ...]) -> bool:
    return before[0] is after[0] and before[1:] == after[1:]


def _judge(found: Mapping[str, Service], cluster: BGPConfiguration, excluded: bool) -> _Judged:
    judged = _Judged()
    held: dict[Family, list[tuple[Prefix, str]]] = {f: list(ranges(cluster, f)) for f in Family}
    for _, service in sorted(found.items()):
        uses = []
        for use, refusal in _uses(service, cluster, held):
            if refusal:
                judged.hidden[use.family].setdefault(use.prefix, []).append(f"{use.words}: {refusal}")
            else:
                uses.append(use)
        if not uses:
            continue
        never = _never(service)
        if not never:
            for use in uses:
                if not any(covers(cidr, use.prefix) for cidr, _ in held[use.family]):
                    judged.outside[use.family].setdefault(use.prefix, use.words)
            never = f"this node has the label {EXCLUDE_SERVICES}" if excluded else ""
        always = "" if never or service.local else _always(service, held)
        if not never and not always and not service.local and cluster.service_load_balancer_aggregation:
            never = "its externalTrafficPolicy is not Local: only ranges are announced"
        if never or always:
            table = judged.hidden if never else judged.announce
            for use in uses:
                table[use.family].setdefault(use.prefix, []).append(f"{use.words}: {never or always}")
        else:
            judged.waiting.append(_Waiting(service, tuple(uses)))
    return judged


def _uses(
    service: Service, cluster: BGPConfiguration, held: Mapping[Family, Iterable[tuple[Prefix, str]]]
) -> Iterator[tuple[_Use, str]]:
    """The addresses of a Service, each with why it is none to announce, wherever its endpoints are."""

    def of(kind: str, addresses: Iterable[Address], name: str) -> Iterator[tuple[_Use, str]]:
        for address in addresses:
            family, prefix = family_of(address), host_prefix(address)
            within = any(field == name and covers(cidr, prefix) for cidr, field in held[family])
            use = _Use(family, prefix, f"{kind} of Service {service.name}")
            yield use, "" if within else f"{name} does not hold it"

    for use, _ in of("clusterIP", service.cluster_ips, CLUSTER_IPS):
        yield use, "" if cluster.service_cluster_ips else f"there are no {CLUSTER_IPS}"
    yield from of("externalIP", service.external_ips, EXTERNAL_IPS)
    yield from of("load balancer IP", service.load_balancer_ips, LOAD_BALANCER_IPS)


def _never(service: Service) -> str:
    if service.type not in _TYPES:
        return f"its type is {service.type}"
    return "" if service.cluster_ips else "it is headless, without a cluster IP"


def _always(service: Service, held: Mapping[Family, Iterable[tuple[Prefix, str]]]) -> str:
    """Why every node announces a Service: it says ``externalTrafficPolicy: Cluster``, and has an address (or asks for
    one) that is an entry of a list for itself."""
    if not service.cluster:
        return ""
    balanced: tuple[Address, ...] = ()
    if service.type == "LoadBalancer":
        balanced = (*service.load_balancer_ips, *((service.asked_ip,) if service.asked_ip else ()))
    for name, addresses in ((EXTERNAL_IPS, service.external_ips), (LOAD_BALANCER_IPS, balanced)):
        for address in addresses:
            if (host_prefix(address), name) in held[family_of(address)]:
                return f"an address of it is an entry of {name}"
    return ""


def _by_endpoints(
    judged: _Judged, slices: Mapping[str, EndpointSlice], node: str
) -> dict[Family, ServiceAddresses]:
    announce = {family: dict(found) for family, found in judged.announce.items()}
    hidden = {family: dict(found) for family, found in judged.hidden.items()}
    asked = {waiting.service.name for waiting in judged.waiting}
    endpoints: dict[tuple[str, Family], set[Endpoint]] = {}
    for each in slices.values() if asked else ():
        if each.service in asked:
            endpoints.setdefault((each.service, each.family), set()).update(each.endpoints)
    for service, uses in judged.waiting:
        for use in uses:
            yes, words = _here(service, endpoints.get((service.name, use.family), set()), node)
            table = (announce if yes else hidden)[use.family]
            table[use.prefix] = [*table.get(use.prefix, ()), f"{use.words}: {words}"]
    return {
        family: ServiceAddresses(
            {
                prefix: Originated(OriginKind.SERVICE, _together(words))
                for prefix, words in sorted(announce[family].items())
            },
            {
                prefix: _together(words)
                for prefix, words in hidden[family].items()
                if prefix not in announce[family]
            },
            judged.outside[family],
        )
        for family in Family
    }


def _here(service: Service, endpoints: set[Endpoint], node: str) -> tuple[bool, str]:
    """Whether a node announces a Service by its endpoints, and why."""
    if service.local:
        if Endpoint(node, True) in endpoints:
            return True, "externalTrafficPolicy Local, and a ready endpoint is here"
        state = "no ready endpoint" if Endpoint(node, False) in endpoints else "no endpoint"
        return False, f"externalTrafficPolicy Local, and {state} is here"
    if any(endpoint.ready for endpoint in endpoints):
        return True, "serviceLoadBalancerAggregation Disabled, and it has a ready endpoint"
    return False, "it has no ready endpoint"


def _together(words: list[str]) -> str:
    more = len(words) - _SHOWN
    return "; ".join(words[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
