"""Resources and workload routes -> what this node announces, keeps as blackholes, and hides (calico.md §2.7, §3, §12).

Called by the daemon at every snapshot and every change of the workloads' routes; the result is whole and does not
depend on the order of anything. A block that is ours (``rules.blocks``) is announced, and nothing inside it. One of a
single address has no blackhole, which would stand where its workload's route is. It is announced while that route
is there only: packets to it would otherwise leave this node again. One that is being released (``pendingDeletion``) is
not: the addresses in use are announced one by one, and the blackhole stays until another node announces the block. A
workload's host route inside a pool and outside our blocks is a borrowed address. One whose metric is below the normal
priority is announced inside our own block too: its workload is being moved here (calico.md §3.5). The ranges of
services are announced whole, their single addresses as ``rules.services`` says, and neither are the kernel's (§5).

A blackhole goes through the same rule as any route of its pool: where Felix writes those, it is Felix's (§2.9). What is
not announced by itself, others' routes in the kernel among it, is *offered*: a peer's filter may let it out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bgpd.model.interface import matches
from bgpd.model.prefix import (
    Family,
    Prefix,
    covers,
    host_prefix,
    is_host,
    make_prefix,
    prefix_text,
)
from bgpd.model.resources import Allocation, IPAMBlock, IPPool, Snapshot
from bgpd.model.route import (
    ForeignRoute,
    ForeignRoutes,
    LocalBlackhole,
    Originated,
    Origination,
    OriginKind,
    RouteSource,
    WorkloadRoute,
    Workloads,
)
from bgpd.rules.blocks import blocks_by_cidr, own_blocks
from bgpd.rules.policy import FamilyPolicy, RoutePolicy
from bgpd.rules.priority import is_elevated, may_elevate
from bgpd.rules.services import ServiceAddresses, Services, services

NOT_DIRECT = ("cali*", "kube-ipvs*")
"""Interfaces whose addresses are no candidates: workloads' ends, and services'."""
FEW = 512
"""Up to so many blocks of our own, all are looked through for what IPAM has just given to this node; beyond, only those
in which a workload's route is. IPAM lets a node have 20 by default, and thousands would hold the event loop."""


def originate(
    snapshot: Snapshot,
    workloads: Workloads,
    node: str,
    ipam_early: bool = False,
    policy: RoutePolicy | None = None,
    foreign: ForeignRoutes | None = None,
    of_services: Services | None = None,
) -> Mapping[Family, Origination]:
    """What ``node`` says and keeps, of both families. With ``ipam_early`` an address that IPAM gave to this node counts
    as borrowed before the kernel has its route. ``foreign``: others' routes in the kernel, where filters want them.
    ``of_services``: what ``rules.services`` says of the snapshot, where that is known already."""
    policy, foreign = policy or RoutePolicy(), foreign or {}
    of_services = of_services or services(snapshot, node)
    return {
        family: _family(
            snapshot,
            workloads,
            node,
            ipam_early,
            family,
            policy,
            foreign.get(family, frozenset()),
            of_services.families[family],
        )
        for family in Family
    }


_NO_CANDIDATE = (
    WorkloadRoute(Prefix(b""), ""),
    "",
    "a block of a single address, and no workload's route is there",
)


def _family(
    snapshot: Snapshot,
    workloads: Workloads,
    node: str,
    ipam_early: bool,
    family: Family,
    policy: RoutePolicy,
    foreign: Iterable[ForeignRoute],
    addresses: ServiceAddresses,
) -> Origination:
    own_policy = policy.families[family]
    pools = sorted((p for p in snapshot.pools.values() if p.family is family), key=lambda p: (p.cidr, p.name))
    concealing = [pool for pool in pools if pool.disable_bgp_export]
    by_cidr = blocks_by_cidr(snapshot, family)
    own = own_blocks(snapshot, node, family, by_cidr)
    owned = [block for block in own.values() if block.owned]
    around = _Around(family, (block.cidr for block in owned))
    announce: dict[Prefix, Originated] = {}
    hidden: dict[Prefix, str] = {}
    offered: dict[Prefix, Originated] = {}
    blackholes: dict[Prefix, LocalBlackhole] = {}
    candidates, assigned = _candidates(
        by_cidr, workloads, node, ipam_early, family, policy.ignored_interfaces
    )

    for cidr, block in own.items():
        source = f"BlockAffinity {block.affinity.name}"
        found = Originated(OriginKind.BLOCK, source)
        single = is_host(family, cidr)
        if single:
            route, _, absent = candidates.get(cidr, _NO_CANDIDATE)
            if absent:
                hidden[cidr] = block.reason or absent
                continue
            found = _originated(OriginKind.BLOCK, source, route)
        if block.kept and not single:
            rule = own_policy.kernel_rule(cidr)
            if rule is None or rule.program:
                blackholes[cidr] = LocalBlackhole(source, yields=not block.owned)
        inside = around.words(cidr, itself=False)
        reason = block.reason or inside or (concealing and _concealed(cidr, concealing))
        if reason:
            hidden[cidr] = reason
            if block.kept:
                offered[cidr] = found
        else:
            announce[cidr] = found

    for prefix, (route, source, absent) in candidates.items():
        if prefix in announce:
            continue  # a block of a single address
        inside = around.words(prefix)
        elevated = may_elevate(policy.priorities) and is_elevated(route.metric, own_policy.normal_priority)
        if inside and elevated:  # its block is announced without a pool too
            where = ""
        else:
            where = inside or _outside(prefix, pools)
        reason = absent or where or _concealed(prefix, concealing)
        found = _originated(OriginKind.BORROWED, source, route)
        if reason:
            hidden.setdefault(prefix, reason)
            if not absent:
                offered.setdefault(prefix, found)
        else:
            announce[prefix] = found
            hidden.pop(prefix, None)
            offered.pop(prefix, None)

    _of_services(
        family,
        own_policy,
        addresses,
        around,
        concealing,
        announce,
        hidden,
        offered,
    )
    if policy.filters_exports(family):
        _offer(foreign, own_policy, policy.ignored_interfaces, announce, offered)

    return Origination(
        announce,
        blackholes,
        exported_pools=tuple(pool.cidr for pool in pools if not pool.disable_bgp_export),
        hidden_pools=tuple(pool.cidr for pool in concealing),
        hidden=hidden,
        offered=offered,
        exported_services=own_policy.reexported,
        kept_services=own_policy.kept_services,
        statics=own_policy.reachable,
        assigned=assigned,
    )


def _of_services(
    family: Family,
    policy: FamilyPolicy,
    addresses: ServiceAddresses,
    around: _Around,
    concealing: Iterable[IPPool],
    announce: dict[Prefix, Originated],
    hidden: dict[Prefix, str],
    offered: dict[Prefix, Originated],
) -> None:
    """Adds what is announced of services; what is announced as a block's or a workload's stays that."""
    ranges = {cidr: Originated(OriginKind.SERVICE, name) for cidr, name in policy.services.items()}
    of_services = {**addresses.announce, **ranges}
    for prefix in of_services.keys() & announce.keys():
        del of_services[prefix]
    for prefix in list(of_services):
        if reason := around.words(prefix) or _concealed(prefix, concealing):
            hidden[prefix], offered[prefix] = reason, of_services.pop(prefix)
    for prefix in of_services.keys() & hidden.keys():
        del hidden[prefix]
        offered.pop(prefix, None)
    announce.update(of_services)
    for prefix, reason in addresses.hidden.items():
        if prefix not in announce:
            hidden.setdefault(prefix, reason)


def _originated(kind: OriginKind, source: str, route: WorkloadRoute) -> Originated:
    route_source = RouteSource.DIRECT if route.direct else RouteSource.KERNEL
    return Originated(kind, source, route_source, route.interface, route.metric)


def _offer(
    foreign: Iterable[ForeignRoute],
    policy: FamilyPolicy,
    ignored: tuple[str, ...],
    announce: Mapping[Prefix, Originated],
    offered: dict[Prefix, Originated],
) -> None:
    """What BIRD learns of the kernel beside the workloads. Of several routes of a prefix a connected subnet is first,
    then our own static, then the least metric."""
    not_direct = (*NOT_DIRECT, *ignored)
    for prefix, static in policy.reachable.items():
        if prefix not in announce:
            offered[prefix] = Originated(OriginKind.STATIC, static.source, gateway=static.gateway)
    order = sorted(
        foreign, key=lambda r: (r.source is not RouteSource.DIRECT, r.metric, r.interface, r.gateway or b"")
    )
    for route in order:
        direct = route.source is RouteSource.DIRECT
        if direct and matches(route.interface, not_direct):
            continue
        if route.prefix not in announce and route.prefix not in offered:
            words = (
                f"{'subnet' if direct else 'route'} on {route.interface}"
                if route.interface
                else "kernel route"
            )
            offered[route.prefix] = Originated(
                OriginKind.STATIC, words, route.source, route.interface, route.metric, route.gateway
            )


class _Around:
    """Own blocks, asked which of them a prefix is inside: a look for each length that there is, not for each block."""

    def __init__(self, family: Family, blocks: Iterable[Prefix]) -> None:
        self._family, self._blocks = family, frozenset(blocks)
        self._lengths = sorted({cidr[0] for cidr in self._blocks})

    def words(self, prefix: Prefix, itself: bool = True) -> str:
        """Of the largest block around a prefix; ``itself``: a block of exactly that prefix is one."""
        for length in self._lengths:
            if length > prefix[0] or (length == prefix[0] and not itself):
                break
            outer = make_prefix(prefix[1:], length)
            if outer in self._blocks:
                return _inside(self._family, prefix, (outer,))
        return ""


def _inside(family: Family, prefix: Prefix, blocks: Iterable[Prefix]) -> str:
    outer = next((cidr for cidr in blocks if covers(cidr, prefix)), None)
    return f"inside {prefix_text(family, outer)}, a block of this node" if outer is not None else ""


def _outside(prefix: Prefix, pools: Iterable[IPPool]) -> str:
    return "" if any(covers(pool.cidr, prefix) for pool in pools) else "inside no IPPool"


def _concealed(prefix: Prefix, concealing: Iterable[IPPool]) -> str:
    pool = next((pool for pool in concealing if covers(pool.cidr, prefix)), None)
    return f"IPPool {pool.name} has disableBGPExport" if pool is not None else ""


def _candidates(
    by_cidr: Mapping[Prefix, IPAMBlock],
    workloads: Workloads,
    node: str,
    ipam_early: bool,
    family: Family,
    ignored: tuple[str, ...],
) -> tuple[dict[Prefix, tuple[WorkloadRoute, str, str]], dict[Prefix, str]]:
    """Addresses in use on this node -> (its route, where we know it from, why it does not count), but for those of
    ``ignored`` interfaces; and ``Origination.assigned``."""
    routes: dict[Prefix, WorkloadRoute] = {}
    for route in sorted(workloads.get(family, ()), key=lambda route: (route.metric, route.interface)):
        if route.direct and matches(route.interface, ignored):
            continue
        if is_host(family, route.prefix):
            routes.setdefault(route.prefix, route)
    known: dict[Prefix, tuple[IPAMBlock, Allocation]] = {}
    few = len(by_cidr) <= FEW
    lengths = {cidr[0] for cidr in by_cidr}
    occupied = {make_prefix(prefix[1:], length) for length in lengths for prefix in routes}
    for cidr, block in by_cidr.items():
        looked_through = few or cidr in occupied or cidr[0] == family.bits
        if node in block.borrowers or (looked_through and node == block.affinity):
            for allocation in block.allocations:
                host = host_prefix(allocation.address)
                # Of two blocks around an address the smaller one, whatever their order.
                if allocation.node == node and (host not in known or known[host][0].cidr < block.cidr):
                    known[host] = (block, allocation)
    found: dict[Prefix, tuple[WorkloadRoute, str, str]] = {}
    for prefix in sorted(routes.keys() | known.keys()):
        words = _words(*known[prefix], node) if prefix in known else ""
        if prefix in routes:
            found[prefix] = (routes[prefix], f"route on {routes[prefix].interface}{words}", "")
        elif (block := known[prefix][0]).affinity != node or is_host(family, block.cidr):
            absent = f"IPAMBlock {block.name} gives it to this node, but no workload's route is there"
            none = WorkloadRoute(prefix, "")
            found[prefix] = (none, f"IPAMBlock {block.name}{words}", "" if ipam_early else absent)
    return found, {prefix: block.name for prefix, (block, _) in known.items()}


def _words(block: IPAMBlock, allocation: Allocation, node: str) -> str:
    """`` of default/web-9, borrowed from worker2``, as far as IPAM knows."""
    lender = "" if block.affinity == node else f", borrowed from {block.affinity or 'a block without owner'}"
    return f" of {allocation.owner}{lender}" if allocation.owner else lender
