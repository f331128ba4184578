"""Which single addresses of services a node announces, by the rules of calico.md §5; what becomes of them then.

Numbers in names are rows of the feature table of calico.md §11."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bgpd.config.reading import parse
from bgpd.config.yaml import load_documents
from bgpd.datastore.calico.decode import Verdict, decode
from bgpd.model.peer import Peer, PeerPolicy
from bgpd.model.prefix import Family, family_of, parse_address, parse_prefix, prefix_text
from bgpd.model.resources import (
    BGPConfiguration,
    BlockAffinity,
    Endpoint,
    EndpointSlice,
    IPPool,
    Node,
    PrefixAdvertisement,
    Service,
    ServiceRange,
    Snapshot,
)
from bgpd.model.route import Origination, OriginKind, Out, RouteSource, WorkloadRoute
from bgpd.rules.exports import ExportRefusal, prefix_refusal
from bgpd.rules.originate import originate
from bgpd.rules.peering import peers
from bgpd.rules.policy import FORMER_SECONDS, FormerServices, RoutePolicy, route_policy
from bgpd.rules.priority import INT_MAX
from bgpd.rules.services import EXCLUDE_SERVICES, Services, services
from bgpd.views.plan import KernelFacts, document, plan
from tests.unit.builders import ME, V4, V6, Core, addr, announce, attributes, path, peer, pfx, sequence
from tests.unit.ground import Ground

CLUSTER, INNER6 = "10.96.4.2", "fd00:96::2"
EXTERNAL, SINGLE_EXTERNAL, BALANCED, SINGLE_BALANCED = (
    "192.0.2.5",
    "198.51.100.7",
    "203.0.113.7",
    "198.51.100.9",
)
ELSEWHERE = "8.8.8.8"
HERE, THERE, SICK = Endpoint("me", True), Endpoint("other", True), Endpoint("me", False)


def ranges(*texts: str) -> tuple[ServiceRange, ...]:
    return tuple(ServiceRange(*parse_prefix(text)) for text in texts)


RANGES = BGPConfiguration(
    service_cluster_ips=ranges("10.96.0.0/12", "fd00:96::/108"),
    service_external_ips=ranges("192.0.2.0/24", f"{SINGLE_EXTERNAL}/32"),
    service_load_balancer_ips=ranges("203.0.113.0/24", f"{SINGLE_BALANCED}/32"),
)
BY_ITSELF = {"10.96.0.0/12", "192.0.2.0/24", "203.0.113.0/24"}
"""The ranges, which are announced whole."""
ONE_BY_ONE = replace(RANGES, service_load_balancer_aggregation=False)
EXCLUDED = {EXCLUDE_SERVICES: "true"}


def service(
    type_: str = "LoadBalancer",
    cluster: Iterable[str] = (CLUSTER,),
    external: Iterable[str] = (),
    balanced: Iterable[str] = (),
    *,
    local: bool = False,
    name: str = "default/web",
) -> Service:
    found = (tuple(map(parse_address, texts)) for texts in (cluster, external, balanced))
    return Service(name, type_, *found, local=local, cluster=not local)


def slice_of(
    *found: Endpoint, of: str = "default/web", name: str = "default/web-1", family: Family = V4
) -> EndpointSlice:
    return EndpointSlice(name, of, family, frozenset(found))


def snapshot(
    *found: Service | EndpointSlice,
    config: BGPConfiguration | None = RANGES,
    labels: Mapping[str, str] | None = None,
    **more: Any,
) -> Snapshot:
    return Snapshot(
        services={each.name: each for each in found if isinstance(each, Service)},
        endpoint_slices={each.name: each for each in found if isinstance(each, EndpointSlice)},
        bgp_configurations={config.name: config} if config else {},
        nodes={"me": Node("me", labels or {}, ipv4=ME)},
        **more,
    )


def announced(of: Services | Snapshot, family: Family = V4) -> dict[str, str]:
    """Addresses, without their length -> the reason."""
    found = services(of, "me") if isinstance(of, Snapshot) else of
    addresses = found.families[family].announce
    assert all(own.kind is OriginKind.SERVICE and not own.metric for own in addresses.values())
    return {prefix_text(family, prefix).split("/")[0]: own.source for prefix, own in addresses.items()}


def hidden(of: Snapshot, family: Family = V4) -> dict[str, str]:
    addresses = services(of, "me").families[family].hidden
    return {prefix_text(family, prefix).split("/")[0]: words for prefix, words in addresses.items()}


ALL = (CLUSTER, EXTERNAL, BALANCED)
MANY = {"external": (EXTERNAL, ELSEWHERE), "balanced": (BALANCED, "8.8.4.4")}


@pytest.mark.parametrize(
    ("which", "found", "expected"),
    [
        # externalTrafficPolicy Local: where a ready endpoint is.
        (service(**MANY, local=True), [slice_of(HERE, THERE)], ALL),
        (service(**MANY, local=True), [slice_of(THERE)], ()),
        (service(**MANY, local=True), [], ()),
        (service(**MANY, local=True), [slice_of(SICK, THERE)], ()),
        (service(**MANY, local=True), [slice_of(SICK, HERE)], ALL),
        (service(**MANY, local=True), [slice_of(Endpoint(None, True))], ()),
        (service(**MANY, local=True), [slice_of(THERE), slice_of(HERE, name="default/web-2")], ALL),
        (service(**MANY, local=True), [slice_of(HERE, of="shop/web", name="shop/web-1")], ()),
        (service(**MANY, local=True), [slice_of(HERE, family=V6)], ()),
        (service("NodePort", external=(EXTERNAL,), local=True), [slice_of(HERE)], (CLUSTER, EXTERNAL)),
        (service("ClusterIP", external=(EXTERNAL,), local=True), [slice_of(HERE)], (CLUSTER, EXTERNAL)),
        (service(balanced=(SINGLE_BALANCED,), local=True), [slice_of(THERE)], ()),
        (service(balanced=(SINGLE_BALANCED,), local=True), [slice_of(HERE)], (CLUSTER, SINGLE_BALANCED)),
        # externalTrafficPolicy Cluster, or none: by the ranges.
        (service(**MANY), [slice_of(HERE)], ()),
        (service("ClusterIP"), [slice_of(HERE)], ()),
        # An address that is an entry for itself: every node, whatever the endpoints.
        (service(external=(SINGLE_EXTERNAL,)), [], (CLUSTER, SINGLE_EXTERNAL)),
        (service("ClusterIP", external=(SINGLE_EXTERNAL,)), [], (CLUSTER, SINGLE_EXTERNAL)),
        (service(balanced=(SINGLE_BALANCED, BALANCED)), [], (CLUSTER, SINGLE_BALANCED, BALANCED)),
        (service("NodePort", balanced=(SINGLE_BALANCED,)), [], ()),
        (service(external=(SINGLE_BALANCED,)), [], ()),
        (service(balanced=(SINGLE_EXTERNAL,)), [], ()),
        # What is no service to announce.
        (service("ExternalName", external=(SINGLE_EXTERNAL,)), [], ()),
        (service("Other", external=(SINGLE_EXTERNAL,)), [], ()),
        (service(cluster=(), external=(SINGLE_EXTERNAL, EXTERNAL), local=True), [slice_of(HERE)], ()),
    ],
)
def test_43_whether_a_node_announces_a_service(
    which: Service, found: list[EndpointSlice], expected: tuple[str, ...]
) -> None:
    stated = snapshot(which, *found)
    assert sorted(announced(stated)) == sorted(expected)
    addresses = {*which.cluster_ips, *which.external_ips, *which.load_balancer_ips}
    assert {parse_address(text) for text in {*announced(stated), *hidden(stated)}} == addresses, (
        "each has a reason"
    )
    assert announced(snapshot(which, *found, labels=EXCLUDED)) == {}
    assert sorted(announced(snapshot(which, *found, labels={EXCLUDE_SERVICES: "false"}))) == sorted(expected)
    assert announced(snapshot(which, *found, config=None)) == {}


@pytest.mark.parametrize(
    ("which", "found", "expected"),
    [
        (service(**MANY), [slice_of(THERE)], ALL),
        (service("ClusterIP"), [slice_of(THERE)], (CLUSTER,)),
        (service(**MANY), [], ()),
        (service(**MANY), [slice_of(SICK)], ()),
        (service(**MANY), [slice_of(HERE, family=V6)], ()),
        (service(**MANY, local=True), [slice_of(THERE)], ()),
        (service(**MANY, local=True), [slice_of(HERE)], ALL),
        (service(balanced=(SINGLE_BALANCED,)), [], (CLUSTER, SINGLE_BALANCED)),
    ],
)
def test_43_without_aggregation(
    which: Service, found: list[EndpointSlice], expected: tuple[str, ...]
) -> None:
    stated = snapshot(which, *found, config=ONE_BY_ONE)
    assert sorted(announced(stated)) == sorted(expected)
    assert announced(snapshot(which, *found, config=ONE_BY_ONE, labels=EXCLUDED)) == {}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, {CLUSTER, ELSEWHERE, EXTERNAL, BALANCED}),
        ({"service_cluster_ips": ()}, {EXTERNAL, BALANCED}),
        ({"service_cluster_ips": ranges("10.0.0.0/16")}, {CLUSTER, ELSEWHERE, EXTERNAL, BALANCED}),
        ({"service_cluster_ips": ranges("fd00:96::/108")}, {CLUSTER, ELSEWHERE, EXTERNAL, BALANCED}),
        ({"service_external_ips": ()}, {CLUSTER, ELSEWHERE, BALANCED}),
        ({"service_external_ips": ranges("192.0.2.0/30")}, {CLUSTER, ELSEWHERE, BALANCED}),
        ({"service_load_balancer_ips": ()}, {CLUSTER, ELSEWHERE, EXTERNAL}),
        ({"service_load_balancer_ips": ranges("192.0.2.0/24")}, {CLUSTER, ELSEWHERE, EXTERNAL}),
    ],
)
def test_43_which_addresses_of_a_service(change: dict[str, Any], expected: set[str]) -> None:
    """Cluster IPs are not looked up in the ranges, as long as there are any."""
    which = service(cluster=(CLUSTER, ELSEWHERE), external=(EXTERNAL,), balanced=(BALANCED,), local=True)
    stated = snapshot(which, slice_of(HERE), config=replace(RANGES, **change))
    assert set(announced(stated)) == expected


def test_43_endpoints_count_for_their_own_family() -> None:
    both = service(cluster=(CLUSTER, INNER6), local=True)
    four, six = slice_of(HERE), slice_of(HERE, name="default/web-6", family=V6)
    for found, of_four, of_six in (
        ([four], [CLUSTER], []),
        ([six], [], [INNER6]),
        ([four, six], [CLUSTER], [INNER6]),
    ):
        stated = snapshot(both, *found)
        assert (list(announced(stated)), list(announced(stated, V6))) == (of_four, of_six)


@pytest.mark.parametrize(
    ("which", "found", "more", "address", "words"),
    [
        (
            service(local=True),
            [slice_of(HERE)],
            {},
            CLUSTER,
            "+clusterIP of Service default/web: externalTrafficPolicy Local, and a ready endpoint is here",
        ),
        (
            service(local=True),
            [slice_of(SICK, THERE)],
            {},
            CLUSTER,
            "clusterIP of Service default/web: externalTrafficPolicy Local, and no ready endpoint is here",
        ),
        (
            service(local=True),
            [slice_of(THERE)],
            {},
            CLUSTER,
            "clusterIP of Service default/web: externalTrafficPolicy Local, and no endpoint is here",
        ),
        (
            service(external=(SINGLE_EXTERNAL,)),
            [],
            {},
            SINGLE_EXTERNAL,
            "+externalIP of Service default/web: an address of it is an entry of serviceExternalIPs",
        ),
        (
            service(balanced=(SINGLE_BALANCED,)),
            [],
            {},
            SINGLE_BALANCED,
            "+load balancer IP of Service default/web: an address of it is an entry of serviceLoadBalancerIPs",
        ),
        (
            replace(service(balanced=(BALANCED,)), asked_ip=parse_address(SINGLE_BALANCED)),
            [],
            {},
            BALANCED,
            "+load balancer IP of Service default/web: an address of it is an entry of serviceLoadBalancerIPs",
        ),
        (
            replace(service(external=(SINGLE_EXTERNAL,)), cluster=False),
            [],
            {},
            SINGLE_EXTERNAL,
            "externalIP of Service default/web: its externalTrafficPolicy is not Local: only ranges are announced",
        ),
        (
            service(),
            [slice_of(THERE)],
            {"config": ONE_BY_ONE},
            CLUSTER,
            "+clusterIP of Service default/web: serviceLoadBalancerAggregation Disabled, "
            "and it has a ready endpoint",
        ),
        (
            service(),
            [slice_of(SICK)],
            {"config": ONE_BY_ONE},
            CLUSTER,
            "clusterIP of Service default/web: it has no ready endpoint",
        ),
        (
            service(),
            [],
            {},
            CLUSTER,
            "clusterIP of Service default/web: its externalTrafficPolicy is not Local: only ranges are announced",
        ),
        (
            service(local=True),
            [slice_of(HERE)],
            {"labels": EXCLUDED},
            CLUSTER,
            f"clusterIP of Service default/web: this node has the label {EXCLUDE_SERVICES}",
        ),
        (
            service(external=(ELSEWHERE,), local=True),
            [slice_of(HERE)],
            {},
            ELSEWHERE,
            "externalIP of Service default/web: serviceExternalIPs does not hold it",
        ),
        (
            service(local=True),
            [slice_of(HERE)],
            {"config": None},
            CLUSTER,
            "clusterIP of Service default/web: there are no serviceClusterIPs",
        ),
        (
            service("ExternalName", external=(EXTERNAL,)),
            [],
            {},
            EXTERNAL,
            "externalIP of Service default/web: its type is ExternalName",
        ),
        (
            service(cluster=(), external=(EXTERNAL,)),
            [],
            {},
            EXTERNAL,
            "externalIP of Service default/web: it is headless, without a cluster IP",
        ),
    ],
)
def test_the_reason_in_words(
    which: Service, found: list[EndpointSlice], more: dict[str, Any], address: str, words: str
) -> None:
    stated = snapshot(which, *found, **more)
    yes = words.removeprefix("+") if words[0] == "+" else None
    assert announced(stated).get(address) == yes
    assert hidden(stated).get(address) == (None if yes else words)


def test_an_address_of_several_services_is_announced_while_one_of_them_says_so() -> None:
    def shared(name: str, number: int) -> Service:
        cluster = f"10.96.0.{number}"
        return service("ClusterIP", (cluster,), (EXTERNAL,), local=True, name=name)

    web, dns = shared("default/web", 1), shared("default/dns", 2)
    of_web, of_dns = slice_of(HERE), slice_of(HERE, of="default/dns", name="default/dns-1")
    assert EXTERNAL in announced(snapshot(web, dns, of_web, of_dns))
    assert announced(snapshot(web, dns, of_web, of_dns))[EXTERNAL].count("Service default/") == 2
    assert EXTERNAL in announced(snapshot(web, dns, of_web))
    assert EXTERNAL not in hidden(snapshot(web, dns, of_web))
    assert EXTERNAL in announced(snapshot(web, of_web))
    assert hidden(snapshot(web, dns))[EXTERNAL].count("no endpoint is here") == 2
    assert announced(snapshot(dns)) == {}
    many = [shared(f"default/s{number}", number) for number in range(9)]
    assert hidden(snapshot(*many))[EXTERNAL].endswith("; and 6 more")


def test_the_result_before_saves_work_and_changes_nothing() -> None:
    one = snapshot(service(local=True), slice_of(HERE))
    made = services(one, "me")
    assert services(one, "me", made) is made
    moved = replace(one, endpoint_slices={"default/web-1": slice_of(THERE)})
    there = services(moved, "me", made)
    assert announced(there) == {} and services(moved, "other", made).families[V4].announce
    assert announced(services(one, "me", there)) == announced(made)
    # The last slice of a service goes: nothing is left of it.
    assert announced(services(replace(one, endpoint_slices={}), "me", made)) == {}
    for other in (
        replace(one, services={}),
        replace(one, bgp_configurations={}),
        replace(one, nodes={"me": Node("me", EXCLUDED)}),
    ):
        assert announced(services(other, "me", made)) == {}
    relabelled = replace(one, nodes={"me": Node("me", {"a": "b"})})
    assert services(relabelled, "me", made) is made


# What comes of it: originated, advertised, and never the kernel's.

A, X = peer("10.0.1.30"), peer("10.0.2.1", 65001)
ROUTE_REFLECTOR = addr("1.1.1.1")


def policy(stated: Snapshot) -> RoutePolicy:
    config = parse("{node: me, kernel: {program_cluster_routes: Enabled}}", "test")
    return route_policy(stated, "me", config, peers(stated, "me", config))


def origination(stated: Snapshot, family: Family = V4, **more: Any) -> Origination:
    return originate(stated, more.pop("workloads", {}), "me", policy=policy(stated), **more)[family]


def texts(found: Iterable[bytes], family: Family = V4) -> set[str]:
    return {prefix_text(family, prefix) for prefix in found}  # type: ignore[arg-type]


def core(stated: Snapshot, *up: Peer) -> Core:
    of_all = policy(stated)
    made = Core()
    made.router.set_policy(replace(of_all, peers={each.id: PeerPolicy() for each in up}))
    made.up(*up)
    made.router.originated(originate(stated, {}, "me", policy=of_all))
    return made.settle()


def advertised(made: Core, to: Peer, family: Family = V4) -> dict[str, Out]:
    table = made.router.groups_of(to)[family].table
    return {prefix_text(family, prefix): out for prefix, out in table.items()}  # type: ignore[arg-type]


def test_43_an_address_is_advertised_beside_its_range_and_follows_its_endpoint() -> None:
    """And what another node announces is not passed on: traffic to it must not come here. (Calico announces it to
    external peers, with this node as the next hop.)"""
    web = service(balanced=(BALANCED,), local=True)
    made = core(snapshot(web, slice_of(HERE)), A, X)
    own = {f"{CLUSTER}/32", f"{BALANCED}/32"}
    assert advertised(made, X).keys() == BY_ITSELF | own == advertised(made, A).keys()
    assert made.routes() == {}
    out = advertised(made, A)[f"{CLUSTER}/32"]
    assert (out.next_hop, out.attributes.as_path) == (ME, sequence())

    gone = snapshot(web, slice_of(THERE))
    made.router.originated(originate(gone, {}, "me", policy=policy(gone)))
    made.settle()
    assert advertised(made, X).keys() == BY_ITSELF
    made.hear(A, announce(path(A), *own))
    assert advertised(made, X).keys() == BY_ITSELF, "the other node's are its own to announce"
    assert made.routes() == {}, "and never into the kernel"


def test_43_44_nothing_of_services_is_the_kernels() -> None:
    """Cluster IPs outside of all ranges too, whatever the policy: another node may still announce them by an older one;
    on an excluded node as well."""
    outside = "172.30.0.1"
    for labels in ({}, EXCLUDED):
        for local, config, kept_out in (
            (True, RANGES, True),
            (False, RANGES, True),
            (False, ONE_BY_ONE, True),
            (True, replace(RANGES, service_cluster_ips=()), False),
        ):
            stated = snapshot(service(cluster=(outside,), local=local), config=config, labels=labels)
            made = core(stated, A)
            every = (f"{outside}/32", "172.30.0.2/32", f"{SINGLE_EXTERNAL}/32", f"{SINGLE_BALANCED}/32")
            made.hear(A, announce(path(A), *every))
            written = {"172.30.0.2/32"} | (set() if kept_out else {f"{outside}/32"})
            assert made.routes().keys() == written, (labels, local, config)
    rule, _ = made.router.explain.kernel_word(V4, pfx(f"{SINGLE_EXTERNAL}/32"))
    assert rule is not None and rule.reason.startswith("inside serviceExternalIPs")
    stated = snapshot(service(cluster=(outside,), local=True))
    (rule,) = policy(stated).families[V4].service_addresses.values()
    assert rule.reason == "clusterIP of Service default/web: services are the kernel's own"
    assert rule in policy(stated).families[V4].all_rules and not policy(stated).families[V4].plain


def test_43_what_was_of_services_a_moment_ago_is_not_written_either() -> None:
    """The other nodes announce a range until they too have heard that it is gone, and an address its service's end."""
    address, inside = "172.30.0.1/32", "10.96.4.2/32"
    before = policy(snapshot(service(cluster=("172.30.0.1",), local=True)))
    ranges = {prefix_text(V4, rule.cidr) for rule in before.families[V4].kernel_rules}
    assert "10.96.0.0/12" in ranges
    after, former = policy(snapshot(config=BGPConfiguration("default"))), FormerServices()
    assert former.keep(before, 0.0) is before and not former.due(100.0)
    made = core(snapshot(service(cluster=("172.30.0.1",), local=True)), A)
    made.hear(A, announce(path(A), *ranges, address, inside, "172.30.0.2/32"))
    written = {"172.30.0.2/32"}
    for now in (101.0, 101.0 + FORMER_SECONDS - 0.1):
        made.router.set_policy(replace(former.keep(after, now), peers={A.id: PeerPolicy()}))
        made.settle()
        assert made.routes().keys() == written, now
    rule, _ = made.router.explain.kernel_word(V4, pfx(inside))
    assert rule is not None
    assert rule.reason == "inside serviceClusterIPs: services are the kernel's own, until a moment ago"
    assert not former.due(101.0) and former.due(101.0 + FORMER_SECONDS)
    assert former.keep(after, 101.0 + FORMER_SECONDS) is after, "whoever announces it now means it"
    assert former.keep(before, 107.0) is before and former.keep(after, 108.0) is not after
    assert former.keep(before, 109.0) is before, "they are services' again"


def test_44_an_excluded_node_says_nothing_and_keeps_nothing() -> None:
    stated = snapshot(service(external=(SINGLE_EXTERNAL,), local=False), labels=EXCLUDED)
    made = core(stated, A, X)
    made.hear(A, announce(path(A), f"{SINGLE_EXTERNAL}/32", f"{CLUSTER}/32"))
    assert (advertised(made, X), made.routes()) == ({}, {})


def test_42_43_a_reflector_passes_single_addresses_on() -> None:
    """Those inside the ranges of load balancer and external IPs always, of cluster IPs where it announces these; a node
    that is none passes on nothing of services, not even inside a pool, unless a filter lets it out."""
    balancers = IPPool("balancers", V4, pfx("203.0.113.0/24"), 26)
    for labels, cluster_id, passed in (
        (EXCLUDED, ROUTE_REFLECTOR, {EXTERNAL, BALANCED, SINGLE_EXTERNAL, SINGLE_BALANCED}),
        ({}, ROUTE_REFLECTOR, {EXTERNAL, BALANCED, SINGLE_EXTERNAL, SINGLE_BALANCED, CLUSTER}),
        ({}, None, set()),
        (EXCLUDED, None, set()),
    ):
        stated = snapshot(labels=labels, pools={"balancers": balancers})
        own = replace(stated.nodes["me"], route_reflector_cluster_id=cluster_id)
        made = core(replace(stated, nodes={"me": own}), A, X)
        every = (EXTERNAL, BALANCED, SINGLE_EXTERNAL, SINGLE_BALANCED, CLUSTER)
        made.hear(A, announce(path(A), *(f"{text}/32" for text in every)))
        assert advertised(made, X).keys() - BY_ITSELF == {f"{text}/32" for text in passed}, (
            labels,
            cluster_id,
        )
        assert made.routes() == {}
    found = origination(stated)
    assert prefix_refusal(pfx(f"{BALANCED}/32"), found) is ExportRefusal.OF_SERVICES


def test_communities_of_prefix_advertisements_hold_for_addresses_of_services() -> None:
    lit = replace(RANGES, prefix_advertisements=(PrefixAdvertisement(V4, pfx("203.0.113.0/24"), (7,)),))
    made = core(snapshot(service(balanced=(BALANCED,), local=True), slice_of(HERE), config=lit), X)
    found = {text: out.attributes.communities for text, out in advertised(made, X).items()}
    assert (found[f"{BALANCED}/32"], found[f"{CLUSTER}/32"]) == ((7,), ())


def test_our_own_stands_though_another_node_says_it_better() -> None:
    """A metric below the normal one means that a workload moves, and a service is none."""
    made = core(snapshot(service(local=True), slice_of(HERE)), A, X)
    made.hear(A, announce(path(A, attributes(local_pref=INT_MAX - 1)), f"{CLUSTER}/32"))
    assert advertised(made, X)[f"{CLUSTER}/32"].source is None


def test_inside_blocks_and_pools() -> None:
    """What no pool may announce is not sent; a block hides what is inside it; a pod's address stays a pod's."""
    four, inside, moved = "10.48.0.9", "10.48.0.70", "10.48.1.9"
    which = service(cluster=(four, inside, moved, CLUSTER), local=True)
    pools = {
        "dark": IPPool("dark", V4, pfx("10.48.1.0/24"), 26, disable_bgp_export=True),
        "light": IPPool("light", V4, pfx("10.48.0.0/24"), 26),
    }
    affinities = {"b": BlockAffinity("b", "me", V4, pfx("10.48.0.64/26"))}
    stated = snapshot(which, slice_of(HERE), pools=pools, affinities=affinities)
    workloads = {V4: frozenset((WorkloadRoute(pfx(f"{four}/32"), "cali1"),))}
    found = origination(stated, workloads=workloads)
    kinds = {prefix_text(V4, prefix): own.kind.value for prefix, own in found.announce.items()}
    assert kinds == {
        **dict.fromkeys(BY_ITSELF, "service"),
        "10.48.0.64/26": "block",
        f"{four}/32": "borrowed",
        f"{CLUSTER}/32": "service",
    }
    reasons = {prefix_text(V4, prefix): words for prefix, words in found.hidden.items()}
    assert reasons == {
        f"{inside}/32": "inside 10.48.0.64/26, a block of this node",
        f"{moved}/32": "IPPool dark has disableBGPExport",
    }
    assert texts(found.offered) == {f"{inside}/32", f"{moved}/32"}, "a filter may let them out"
    assert {own.route_source for own in found.offered.values()} == {RouteSource.STATIC}
    assert texts(found.blackholes) == {"10.48.0.64/26"}

    # The address of a pod elsewhere, which IPAM gave to nobody here: the service says that it is announced.
    lone = {V4: frozenset((WorkloadRoute(pfx(f"{CLUSTER}/32"), "cali2"),))}
    found = origination(stated, workloads=lone)
    assert found.announce[pfx(f"{CLUSTER}/32")].kind is OriginKind.SERVICE
    assert pfx(f"{CLUSTER}/32") not in {**found.hidden, **found.offered}


def test_a_range_of_one_address_is_announced_by_its_range() -> None:
    """Of cluster IPs, unlike the others."""
    config = replace(RANGES, service_cluster_ips=ranges(f"{CLUSTER}/32"))
    stated = origination(snapshot(service(local=True), slice_of(HERE), config=config))
    assert stated.announce[pfx(f"{CLUSTER}/32")].source == "BGPConfiguration default serviceClusterIPs"
    stated = origination(snapshot(service(local=True), config=config))
    assert pfx(f"{CLUSTER}/32") in stated.announce and pfx(f"{CLUSTER}/32") not in stated.hidden


def test_ipv6() -> None:
    which = service(cluster=(CLUSTER, INNER6), local=True)
    stated = snapshot(which, slice_of(HERE, family=V6))
    assert texts(origination(stated, V6).announce, V6) == {"fd00:96::/108", f"{INNER6}/128"}
    assert texts(origination(stated).announce) == BY_ITSELF
    assert family_of(which.cluster_ips[1]) is V6 and not origination(stated, V6).blackholes


def test_why_names_the_rule() -> None:
    ground = Ground(A)
    web = service(balanced=(BALANCED,), local=True)

    def why(stated: Snapshot, address: str) -> list[str]:
        ground.core.router.set_policy(replace(policy(stated), peers={A.id: PeerPolicy()}))
        ground.core.router.originated(originate(stated, {}, "me", policy=policy(stated)))
        ground.core.settle()
        ground.install()
        return [line for each in ground.all(address) for line in each.splitlines()]

    lines = why(snapshot(web, slice_of(HERE)), BALANCED)
    words = "load balancer IP of Service default/web: externalTrafficPolicy Local, and"
    assert lines[0] == f"{BALANCED}/32: an address of a service of this node, announced"
    assert (
        f"+ origin: ours to announce, as an address of a service: {words} a ready endpoint is here" in lines
    )
    assert (
        "+ kernel: not ours to write: inside serviceLoadBalancerIPs: services are the kernel's own" in lines
    )
    assert f"+ advertised: {A.id}" in lines
    assert "203.0.113.0/24: a range of services of this node, announced" in lines

    lines = why(snapshot(web, slice_of(THERE)), BALANCED)
    assert lines[0] == f"{BALANCED}/32: known here, but not announced"
    assert f"- origin: not announced: {words} no endpoint is here" in lines
    ground.core.hear(A, announce(path(A), f"{BALANCED}/32"))
    lines = why(snapshot(web, slice_of(THERE)), BALANCED)
    assert lines[0] == f"{BALANCED}/32: learned from {A.id}"
    assert any(line.startswith("- kernel: not written: not ours to write (inside service") for line in lines)


def test_a_plan_lists_them() -> None:
    stated = snapshot(service(cluster=("172.30.0.1",), balanced=(BALANCED,), local=True), slice_of(HERE))
    made = document(plan(stated, parse("{node: me}", "test"), {}, KernelFacts()))
    kinds = {each["prefix"]: (each["kind"], each["source"].split(":")[0]) for each in made["announce"]}
    assert kinds["172.30.0.1/32"] == ("service", "clusterIP of Service default/web")
    assert kinds[f"{BALANCED}/32"] == ("service", "load balancer IP of Service default/web")
    assert made["blackholes"] == []
    rules = {each["cidr"]: each["action"] for each in made["kernel_rules"]}
    assert rules["172.30.0.1/32"] == "reject" == rules["203.0.113.0/24"]


def test_the_examples() -> None:
    """docs/services.md, and what is switched off in config/resources: the lines of which ``#`` has no space behind."""
    root = Path(__file__).parents[2]
    page = (root / "docs" / "services.md").read_text()
    text = (root / "config" / "resources" / "services.yaml").read_text()
    texts = [*re.findall(r"```yaml\n(.*?)```", page, re.DOTALL), re.sub(r"(?m)^( *)#(?=\S)", r"\1", text)]
    values = [document.value for text in texts for document in load_documents(text, "example")]
    found = [each for value in values for each in decode(value, "example")]
    assert [(each.verdict, each.problems) for each in found] == [(Verdict.GOOD, ())] * 3
    config, web, endpoints = (each.resource for each in found)
    assert isinstance(config, BGPConfiguration)
    assert isinstance(web, Service) and isinstance(endpoints, EndpointSlice)
    stated = snapshot(web, endpoints, config=config)
    assert announced(stated) == {} and set(announced(services(stated, "worker2"))) == {
        "10.96.4.2",
        "203.0.113.7",
    }
