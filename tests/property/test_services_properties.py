"""Services against a slow, obvious reading of calico.md §5; and whatever was before, the present alone counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bgpd.model.prefix import Family, address_text, family_of, parse_address, parse_prefix, prefix_text
from bgpd.model.resources import (
    BGPConfiguration,
    Endpoint,
    EndpointSlice,
    Node,
    Service,
    ServiceRange,
    Snapshot,
)
from bgpd.rules.services import EXCLUDE_SERVICES, Services, services

ADDRESSES = ["10.96.0.1", "10.96.0.2", "192.0.2.1", "192.0.2.2", "198.51.100.1", "fd00:96::1", "fd00:96::2"]
CIDRS = [
    "10.96.0.0/16",
    "10.96.0.1/32",
    "192.0.2.0/24",
    "192.0.2.1/32",
    "198.51.100.1/32",
    "fd00:96::/64",
    "fd00:96::1/128",
]
NAMES, NODES = ["a/one", "a/two", "b/one"], ["me", "you", None]

addresses = st.lists(st.sampled_from(ADDRESSES), max_size=2, unique=True)
ranges = st.lists(st.sampled_from(CIDRS), max_size=2, unique=True)


def octets(texts: list[str]) -> tuple[Any, ...]:
    return tuple(map(parse_address, texts))


def cidrs(texts: list[str]) -> tuple[ServiceRange, ...]:
    return tuple(ServiceRange(*parse_prefix(text)) for text in texts)


all_services = st.dictionaries(
    st.sampled_from(NAMES),
    st.builds(
        Service,
        st.just("set below"),
        st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer", "LoadBalancer", "ExternalName"]),
        addresses.map(octets),
        addresses.map(octets),
        addresses.map(octets),
        st.booleans(),
        st.booleans(),
        addresses.map(lambda found: next(iter(octets(found)), None)),
    ),
)
all_slices = st.dictionaries(
    st.sampled_from(["w", "x", "y", "z"]),
    st.builds(
        EndpointSlice,
        st.just("any"),
        st.sampled_from(NAMES),
        st.sampled_from(Family),
        st.frozensets(st.builds(Endpoint, st.sampled_from(NODES), st.booleans()), max_size=3),
    ),
)
configurations = st.builds(
    BGPConfiguration,
    service_cluster_ips=ranges.map(cidrs),
    service_external_ips=ranges.map(cidrs),
    service_load_balancer_ips=ranges.map(cidrs),
    service_load_balancer_aggregation=st.booleans(),
)


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    made = draw(all_services)
    labels = draw(st.sampled_from([{}, {}, {}, {EXCLUDE_SERVICES: "true"}]))
    return Snapshot(
        services={
            name: replace(each, name=name, cluster=each.cluster and not each.local)
            for name, each in made.items()
        },
        endpoint_slices=draw(all_slices),
        bgp_configurations={"default": draw(configurations)},
        nodes={"me": Node("me", labels)},
    )


def slow(stated: Snapshot) -> set[str]:
    """The addresses that ``me`` announces, as the page says it."""
    found: set[str] = set()
    cluster = stated.bgp_configurations["default"]
    if stated.nodes["me"].labels:
        return found

    def has(wanted: tuple[ServiceRange, ...], address: bytes) -> bool:
        return any(each.family is family_of(address) and _inside(each, address) for each in wanted)  # type: ignore[arg-type]

    def alone(wanted: tuple[ServiceRange, ...], address: bytes) -> bool:
        return any(each.cidr == bytes([len(address) * 8]) + address for each in wanted)

    for name, service in stated.services.items():
        if service.type == "ExternalName" or not service.cluster_ips:
            continue
        candidates = list(service.cluster_ips) if cluster.service_cluster_ips else []
        candidates += [a for a in service.external_ips if has(cluster.service_external_ips, a)]
        candidates += [a for a in service.load_balancer_ips if has(cluster.service_load_balancer_ips, a)]
        single = any(alone(cluster.service_external_ips, a) for a in service.external_ips)
        if service.type == "LoadBalancer":
            balanced = [*service.load_balancer_ips, *filter(None, [service.asked_ip])]
            single |= any(alone(cluster.service_load_balancer_ips, a) for a in balanced)
        for address in candidates:
            ready = {
                endpoint.node
                for each in stated.endpoint_slices.values()
                if each.service == name and each.family is family_of(address)
                for endpoint in each.endpoints
                if endpoint.ready
            }
            if service.local:
                yes = "me" in ready
            elif single and service.cluster:
                yes = True
            else:
                yes = not cluster.service_load_balancer_aggregation and bool(ready)
            if yes:
                found.add(address_text(address))
    return found


def _inside(each: ServiceRange, address: bytes) -> bool:
    bits = len(address) * 8 - each.cidr[0]
    network = int.from_bytes(each.cidr[1:].ljust(len(address), b"\0"))
    return int.from_bytes(address) >> bits == network >> bits


def announced(found: Services) -> set[str]:
    return {
        prefix_text(family, prefix).split("/")[0]
        for family in Family
        for prefix in found.families[family].announce
    }


@given(snapshots())
def test_what_the_slow_reading_says(stated: Snapshot) -> None:
    found = services(stated, "me")
    assert announced(found) == slow(stated)
    for family in Family:
        of_family = found.families[family]
        assert not of_family.announce.keys() & of_family.hidden.keys()
        everywhere = {*of_family.announce, *of_family.hidden}
        assert everywhere == {
            bytes([len(address) * 8]) + address
            for service in stated.services.values()
            for address in (*service.cluster_ips, *service.external_ips, *service.load_balancer_ips)
            if family_of(address) is family
        }, "each has its reason"


@given(snapshots(), st.lists(snapshots(), min_size=1, max_size=4), st.data())
def test_the_present_alone_counts(first: Snapshot, others: list[Snapshot], data: st.DataObject) -> None:
    """Each snapshot takes some kinds from the one before, as the same object, or with the order turned round."""
    before, made = first, services(first, "me")
    for other in others:
        kept = {
            kind: getattr(before, kind)
            for kind in data.draw(st.sets(st.sampled_from(["services", "endpoint_slices", "nodes"])))
        }
        now = Snapshot(
            **{
                "services": other.services,
                "endpoint_slices": other.endpoint_slices,
                "nodes": other.nodes,
                "bgp_configurations": data.draw(st.sampled_from([before, other])).bgp_configurations,
                **kept,
            }
        )
        before, made = now, services(now, "me", made)
        turned = Snapshot(
            services=dict(reversed(now.services.items())),
            endpoint_slices=dict(reversed(now.endpoint_slices.items())),
            nodes=now.nodes,
            bgp_configurations=now.bgp_configurations,
        )
        assert made.families == services(now, "me").families == services(turned, "me").families
