"""``bgpctl why`` on what the policy decides: filters and their rules, reflection, the pool's kernel rule, services."""

from dataclasses import replace

from bgpd.model.peer import PeerPolicy
from bgpd.model.resources import AddCommunity, EncapMode, SetPriority
from bgpd.model.route import Hop, Originated, OriginKind, RouteSource, Via
from bgpd.rules.policy import FamilyPolicy, KernelRule
from tests.unit.builders import V4, addr, announce, attributes, origination, path, pfx
from tests.unit.ground import Ground
from tests.unit.test_route_policy import (
    CLUSTER,
    INT_MAX,
    A,
    B,
    X,
    accept,
    named,
    policy,
    pool,
    reach,
    reject,
    rules,
)
from tests.unit.test_why import holds

BLOCK, POOL = "10.48.0.0/26", "10.48.0.0/16"


def test_the_import_filters_rule() -> None:
    ground = Ground(A, B)
    filters = rules(
        reject(BLOCK), accept(operations=(SetPriority(500), AddCommunity(65))), name="in", direction="import"
    )
    ground.core.router.set_policy(policy(filters=filters, peers=named(a=PeerPolicy(("in",)))))
    a, b = A, B
    ground.core.hear(a, announce(path(a), BLOCK, "10.48.0.64/26")).hear(b, announce(path(b), BLOCK))
    ground.install()
    holds(
        ground.why(BLOCK),
        f"learned from {b.id}",
        f"- import: {a.id}: the filter rule in importV4[0] rejects it",
        f"- decision: {a.id} is not best: an import filter rejects it",
    )
    holds(
        ground.why("10.48.0.64/26"),
        f"+ import: {a.id}: the filter rule in importV4[1] accepts it, as AS path (empty), "
        f"local preference {INT_MAX - 500}, communities 0:65",
    )


def test_the_export_filters_rule() -> None:
    ground = Ground(A, X)
    filters = rules(reject(BLOCK), accept("192.0.2.0/24"), name="out")
    ground.core.router.set_policy(policy(filters=filters, peers=named(x=PeerPolicy(("out",)))))
    ground.core.hear(A, announce(path(A), BLOCK, "192.0.2.0/25")).originate(origination(pools=[POOL]))
    ground.outbound.move_sessions({X: ground.core.router.groups_of(X)})
    ground.install()
    holds(
        ground.why(BLOCK),
        f"- export: not advertised to {X.id}: an export filter rejects it (filter rule out exportV4[0])",
    )
    holds(ground.why("192.0.2.0/25"), f"+ advertised: {X.id} (filter rule out exportV4[1])")


def test_reflection() -> None:
    ground = Ground(A, B)
    peers = named(a=PeerPolicy(cluster_id=CLUSTER, client=True), b=PeerPolicy(cluster_id=CLUSTER))
    ground.core.router.set_policy(policy(cluster_id=CLUSTER, peers=peers))
    ground.core.originate(origination(pools=[POOL])).hear(A, announce(path(A), BLOCK))
    ground.core.hear(B, announce(path(B), "10.48.0.64/26"))
    ground.install()
    holds(ground.why(BLOCK), f"+ advertised: {B.id} (reflected from our client {A.id})")
    holds(ground.why("10.48.0.64/26"), f"+ advertised: {A.id} (reflected to our client)")


def test_the_kernel_rule() -> None:
    ground = Ground(A)
    rule = KernelRule(pfx(POOL), True, "IPPool p has ipipMode CrossSubnet", "tunl0", True)
    ground.core.router.set_policy(
        policy(family=FamilyPolicy(kernel_rules=(rule,), own_subnet=pfx("10.0.1.0/24")))
    )
    ground.core.hear(A, announce(path(A), BLOCK), announce(path(A, next_hop="10.0.7.1"), "10.48.0.64/26"))
    ground.install()
    holds(
        ground.why(BLOCK),
        "+ kernel: written straight, inside the node's own subnet: IPPool p has ipipMode CrossSubnet",
    )
    holds(
        ground.why("10.48.0.64/26"),
        "- kernel: not written: the tunnel device is not there, or down: nothing is written unencapsulated "
        "(IPPool p has ipipMode CrossSubnet)",
        "+ kernel: no route of ours, and none is wanted",
    )
    ground.core.router.tunnels_changed({"tunl0": 1})
    ground.core.settle()
    ground.install()
    assert ground.core.routes()["10.48.0.64/26"] == Via((Hop(addr("10.0.7.1"), 1, True),))
    holds(ground.why("10.48.0.64/26"), "+ kernel: written through tunl0: IPPool p has ipipMode CrossSubnet")


def test_what_felix_writes() -> None:
    ground = Ground(A)
    rule = KernelRule(pfx(POOL), False, f"IPPool {pool().name} has vxlanMode {EncapMode.ALWAYS.value}")
    ground.core.router.set_policy(policy(family=FamilyPolicy(kernel_rules=(rule,))))
    ground.core.hear(A, announce(path(A), BLOCK))
    ground.install()
    holds(ground.why(BLOCK), "- kernel: not written: not ours to write (IPPool p has vxlanMode Always)")


def test_services_statics_and_what_is_only_offered() -> None:
    ground = Ground(A, X)
    ground.core.router.set_policy(
        policy(filters=rules(accept("192.0.2.0/24")), peers=named(x=PeerPolicy(("f",))))
    )
    service = Originated(OriginKind.SERVICE, "BGPConfiguration default serviceClusterIPs")
    subnet = Originated(OriginKind.STATIC, "subnet on eth0", RouteSource.DIRECT, "eth0")
    stated = replace(
        origination(),
        announce={pfx("10.96.0.0/12"): service},
        statics={pfx("10.9.9.9/32"): reach("10.0.1.1")},
        offered={pfx("192.0.2.0/24"): subnet, pfx("198.51.100.0/24"): subnet},
    )
    ground.core.originate(stated)
    ground.install()
    holds(
        ground.why("10.96.0.0/12"),
        "10.96.0.0/12: a range of services of this node, announced",
        "+ origin: ours to announce, as a range of services: BGPConfiguration default serviceClusterIPs",
    )
    holds(
        ground.why("10.9.9.9"),
        "10.9.9.9/32: a static route of this node, kept in the kernel",
        "+ kernel: 10.9.9.9/32 via 10.0.1.1 dev ens5 proto bird: installed",
    )
    holds(
        ground.why("198.51.100.0/24"),
        "+ origin: a route in the kernel of this node (subnet on eth0): filters may let it out",
        f"- export: not advertised to {A.id}, {X.id}: no filter accepts it, and by itself it is not announced",
    )
    assert "(filter rule f exportV4[0])" in ground.why("192.0.2.0/24")


def test_a_metric_that_local_pref_carries() -> None:
    ground = Ground(A)
    ground.core.router.set_policy(policy(priorities="on"))
    ground.core.hear(A, announce(path(A, attributes(local_pref=INT_MAX - 512)), BLOCK))
    ground.install()
    assert ground.core.router.explain.fib_key(V4, pfx(BLOCK)) == (
        pfx(BLOCK),
        512,
    )
    holds(ground.why(BLOCK), "dev ens5 proto bird: installed")
