"""All that the configuration says on routes, as one value: who is sent what, what goes into the kernel, and how.

``route_policy`` makes it anew from the resources at every change; ``rib.router.Router.set_policy`` compares it with the
one before and decides again what differs, while the sessions stay. ``rules.imports``, ``rules.exports`` and
``rules.forwarding`` apply it; ``rules.originate`` takes from it what this node says and keeps. calico.md §2.7 to §2.9,
§5 and §8.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from bgpd.config.config import Config
from bgpd.model.drain import Drain
from bgpd.model.peer import DynamicRange, Peer, PeerId, PeerKind, PeerPolicy
from bgpd.model.prefix import (
    Address,
    Family,
    Prefix,
    covers,
    family_of,
    host_prefix,
    is_host,
    make_prefix,
)
from bgpd.model.resources import (
    BGPConfiguration,
    BGPFilter,
    ClusterRoutes,
    Community,
    EncapMode,
    IPPool,
    Node,
    Snapshot,
)
from bgpd.model.route import StaticRoute
from bgpd.rules.filters import Chain, Direction, chain
from bgpd.rules.peering import Peering
from bgpd.rules.priority import NORMAL_PRIORITY, Mode, in_use, names_priority
from bgpd.rules.services import CLUSTER_IPS, Services, announced_ranges, is_excluded, ranges, services

TUNNEL = "tunl0"
KEPT_INSIDE: tuple[str, ...] = ("*.cali", "*.calico")
NOBODYS = PeerPolicy()
FORMER_SECONDS = 2.0
"""Seconds for which what was of services is not written: until the other nodes have heard of it too."""


class KernelRule(NamedTuple):
    """Of the routes inside a CIDR: whether and how they are written (calico.md §2.9). The first that holds decides."""

    cidr: Prefix
    program: bool
    reason: str
    """In words: the pool and its mode, or the range of services."""
    tunnel: str | None = None
    """The device through which they lead, straight to the BGP next hop."""
    cross_subnet: bool = False
    """Only to next hops outside this node's own subnet; always otherwise."""
    by_felix: bool = False
    """Felix writes the routes instead. What nobody writes is a service's."""


@dataclass(frozen=True, slots=True)
class FamilyPolicy:
    """What bears on one family."""

    normal_priority: int = NORMAL_PRIORITY
    advertisements: tuple[tuple[Prefix, tuple[Community, ...]], ...] = ()
    """Communities that each route inside a CIDR gets, once the built-in rules let it out."""
    kernel_rules: tuple[KernelRule, ...] = ()
    """The rules of the kernel's routes, in the order in which they are asked."""
    service_addresses: Mapping[Prefix, KernelRule] = field(default_factory=dict)
    """Rules for services' addresses outside the ranges of services: each decides, before all others."""
    own_subnet: Prefix | None = None
    """The subnet of this node's address, where its length is known."""
    encrypted: Mapping[Address, str] = field(default_factory=dict)
    """Next hops that Felix's WireGuard routes lead to -> the node's name."""
    services: Mapping[Prefix, str] = field(default_factory=dict)
    """Ranges of services that this node announces, each with the field that says so."""
    reexported: tuple[Prefix, ...] = ()
    """Ranges of services whose learned routes are passed on: by a route reflector."""
    kept_services: tuple[Prefix, ...] = ()
    """Ranges of services whose learned routes are passed on to nobody: any node's that is no route reflector."""
    reachable: Mapping[Prefix, StaticRoute] = field(default_factory=dict)
    """Host routes to peers, over their ``reachableBy``."""

    @property
    def plain(self) -> bool:
        """Whether every learned route is written as its next hop resolves."""
        return not self.encrypted and all(rule.program and not rule.tunnel for rule in self.all_rules)

    @property
    def all_rules(self) -> tuple[KernelRule, ...]:
        """The kernel rules, in order."""
        return (*self.service_addresses.values(), *self.kernel_rules)

    def kernel_rule(self, prefix: Prefix) -> KernelRule | None:
        """The rule that decides on a prefix; without one it is written as it resolves."""
        if own := self.service_addresses.get(prefix):
            return own
        return next((rule for rule in self.kernel_rules if covers(rule.cidr, prefix)), None)


@dataclass(frozen=True, slots=True)
class RoutePolicy:
    """See the module. The value without arguments is that of a cluster that says nothing."""

    peers: Mapping[PeerId, PeerPolicy] = field(default_factory=dict)
    ranges: tuple[DynamicRange, ...] = ()
    filters: Mapping[str, BGPFilter] = field(default_factory=dict)
    families: Mapping[Family, FamilyPolicy] = field(
        default_factory=lambda: {family: FamilyPolicy() for family in Family}
    )
    cluster_id: Address | None = None
    """Our own cluster, where we are a route reflector (RFC 4456)."""
    priorities: Mode = "auto"
    """Whether LOCAL_PREF carries the kernel's metric."""
    priorities_set: bool = False
    """The resources say so: BGPConfiguration names a normal priority, or a BGPFilter has ``priority`` or
    ``setPriority`` (all of them of Calico 3.32). ``auto`` is then on."""
    kept_inside: tuple[str, ...] = KEPT_INSIDE
    """Interfaces whose addresses and routes are not advertised to internal peers: Felix brings them there."""
    ignored_interfaces: tuple[str, ...] = ()
    """Whose connected subnets are not even offered to filters."""
    drain: Drain = Drain.NONE
    """How far this node is taken out of service."""
    subnets: Mapping[Family, tuple[Prefix, ...]] = field(default_factory=dict)
    """Those that this node's links are in."""
    _chains: dict[tuple[tuple[str, ...], Direction, Family], Chain | None] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """Lists of filters as compiled: peers have few different ones."""

    def of(self, peer: Peer) -> PeerPolicy:
        """What a session may announce and is sent."""
        return self.known(peer) or NOBODYS

    def known(self, peer: Peer) -> PeerPolicy | None:
        """The same; ``None`` for a session that is about to end, since nobody wants it any more."""
        found = self.peers.get(peer.id)
        if found is None and peer.config.kind is PeerKind.DYNAMIC:
            address = peer.config.address
            family, host = family_of(address), host_prefix(address)
            return next(
                (r.policy for r in self.ranges if r.family is family and covers(r.prefix, host)), None
            )
        return found

    def subnet_of(self, address: Address) -> Prefix | None:
        """The smallest subnet of this node's links that an address is in."""
        host = host_prefix(address)
        found = (subnet for subnet in self.subnets.get(family_of(address), ()) if covers(subnet, host))
        return max(found, default=None)

    @property
    def clients(self) -> frozenset[PeerId]:
        """The peers that are clients of ours, as a route reflector."""
        return frozenset(peer for peer, policy in self.peers.items() if policy.client)

    def prioritised(self, evidence: bool) -> bool:
        """Whether LOCAL_PREF carries the metric (``priority.in_use``)."""
        return in_use(self.priorities, self.priorities_set, evidence)

    def chain(self, names: tuple[str, ...], direction: Direction, family: Family) -> Chain | None:
        """The rules of filters, in order; ``None`` without any."""
        if not names:
            return None
        key = names, direction, family
        if key not in self._chains:
            self._chains[key] = chain(names, self.filters, direction, family)
        return self._chains[key]

    def exporting(self, names: Iterable[str], family: Family) -> tuple[str, ...]:
        """Those of some filters that have a word on what a peer is sent."""
        return tuple(
            name for name in names if name in self.filters and self.filters[name].exports.get(family)
        )

    def filters_exports(self, family: Family) -> bool:
        """Whether some peer has export filters with rules: only then others' routes are candidates."""
        policies = (*self.peers.values(), *(each.policy for each in self.ranges))
        return any(self.exporting(policy.filters, family) for policy in policies)


def route_policy(
    snapshot: Snapshot, node: str, config: Config, peering: Peering, of_services: Services | None = None
) -> RoutePolicy:
    """The policy of ``node``; independent of the order of the snapshot's mappings. ``of_services``: what
    ``rules.services`` says of the snapshot, where that is known already."""
    of_services = of_services or services(snapshot, node)
    cluster, mine = snapshot.settings(), snapshot.settings(node)
    own = snapshot.nodes.get(node) or Node(node)
    programmed = cluster.program_cluster_routes or config.kernel.program_cluster_routes
    kept_inside = KEPT_INSIDE
    if programmed not in (ClusterRoutes.ENABLED, ClusterRoutes.IPIP_ONLY):
        kept_inside = (*kept_inside, TUNNEL)
    return RoutePolicy(
        peers=dict(peering.policies),
        ranges=peering.dynamic,
        filters=dict(snapshot.filters),
        families={
            family: _family(
                family,
                snapshot,
                own,
                cluster,
                mine,
                programmed,
                peering,
                of_services.families[family].outside,
            )
            for family in Family
        },
        cluster_id=own.route_reflector_cluster_id,
        priorities=config.bgp.route_priority,
        priorities_set=bool(cluster.ipv4_normal_route_priority or cluster.ipv6_normal_route_priority)
        or any(map(names_priority, snapshot.filters.values())),
        kept_inside=kept_inside,
        ignored_interfaces=cluster.ignored_interfaces or (),
    )


def _family(
    family: Family,
    snapshot: Snapshot,
    own: Node,
    cluster: BGPConfiguration,
    mine: BGPConfiguration,
    programmed: ClusterRoutes,
    peering: Peering,
    outside: Mapping[Prefix, str],
) -> FamilyPolicy:
    four = family is Family.IPV4
    normal = cluster.ipv4_normal_route_priority if four else cluster.ipv6_normal_route_priority
    advertisements = mine.prefix_advertisements  # the node's own list replaces the other
    if advertisements is None:
        advertisements = cluster.prefix_advertisements or ()
    network = own.ipv4_network if four else own.ipv6_network
    of_services = list(ranges(cluster, family))
    announced = {} if is_excluded(own) else dict(announced_ranges(cluster, family))
    reflects = own.route_reflector_cluster_id is not None
    pools = sorted(
        (pool for pool in snapshot.pools.values() if pool.family is family),
        key=lambda pool: (-pool.cidr[0], pool.cidr, pool.name),
    )
    service_rules = (
        KernelRule(cidr, False, f"inside {name}: services are the kernel's own") for cidr, name in of_services
    )
    encrypted = {}
    if family in own.wireguard:
        for name, other in sorted(snapshot.nodes.items()):
            address = other.address(family)
            if name != own.name and family in other.wireguard and address is not None:
                encrypted[address] = name
    return FamilyPolicy(
        normal_priority=NORMAL_PRIORITY if normal is None else normal,
        advertisements=tuple(
            (each.cidr, each.communities) for each in advertisements if each.family is family
        ),
        kernel_rules=(*service_rules, *(_pool_rule(pool, programmed) for pool in pools)),
        service_addresses={
            prefix: KernelRule(prefix, False, f"{words}: services are the kernel's own")
            for prefix, words in outside.items()
        },
        own_subnet=None if network is None else make_prefix(network.network.packed, network.prefixlen),
        encrypted=encrypted,
        services=announced,
        reexported=(*announced, *(cidr for cidr, name in of_services if name != CLUSTER_IPS))
        if reflects
        else (),
        kept_services=() if reflects else tuple(cidr for cidr, _ in of_services),
        reachable={
            host_prefix(peer.address): StaticRoute(peer.reachable_by, f"{peer.source} reachableBy")
            for _, peer in sorted(peering.peers.items())
            if peer.reachable_by is not None and family_of(peer.address) is family
        },
    )


def _pool_rule(pool: IPPool, programmed: ClusterRoutes) -> KernelRule:
    """VXLAN is Felix's always; the rest is whose ``programClusterRoutes`` says (calico.md §8)."""
    name = f"IPPool {pool.name}"
    if pool.vxlan_mode is not EncapMode.NEVER:
        words = f"{name} has vxlanMode {pool.vxlan_mode.value}: Felix writes its routes"
        return KernelRule(pool.cidr, False, words, by_felix=True)
    tunnelled = pool.ipip_mode is not EncapMode.NEVER and pool.family is Family.IPV4
    kind = f"ipipMode {pool.ipip_mode.value}" if tunnelled else "no encapsulation"
    ours = ClusterRoutes.IPIP_ONLY if tunnelled else ClusterRoutes.NO_ENCAP_ONLY
    if programmed not in (ClusterRoutes.ENABLED, ours):
        words = f"{name} has {kind}, and programClusterRoutes is {programmed.value}: Felix writes its routes"
        return KernelRule(pool.cidr, False, words, by_felix=True)
    if not tunnelled:
        return KernelRule(pool.cidr, True, f"{name} has {kind}")
    return KernelRule(pool.cidr, True, f"{name} has {kind}", TUNNEL, pool.ipip_mode is EncapMode.CROSS_SUBNET)


class FormerServices:
    """Ranges and addresses that were of services until a moment ago. Other nodes announce them until they too have read
    the resources: meanwhile they are written no more than before. Time is an argument, in seconds."""

    def __init__(self) -> None:
        self._known: dict[tuple[Family, Prefix], KernelRule] = {}
        """The rules of services, as the resources have them."""
        self._former: dict[tuple[Family, Prefix], tuple[KernelRule, float]] = {}
        """Those that are gone, each with when it is forgotten."""

    def due(self, now: float) -> bool:
        """Whether one is to be forgotten."""
        return any(until <= now for _, until in self._former.values())

    def keep(self, policy: RoutePolicy, now: float) -> RoutePolicy:
        """A policy as the resources make it, and in it the rules of what was of services until a moment ago."""
        known = {
            (family, rule.cidr): rule
            for family, of_family in policy.families.items()
            for rule in of_family.all_rules
            if not rule.program and not rule.by_felix
        }
        for key in self._known.keys() - known.keys():
            rule = self._known[key]
            self._former[key] = (
                rule._replace(reason=f"{rule.reason}, until a moment ago"),
                now + FORMER_SECONDS,
            )
        self._known = known
        self._former = {
            key: (rule, until)
            for key, (rule, until) in self._former.items()
            if key not in known and now < until
        }
        if not self._former:
            return policy
        families = {}
        for family, of_family in policy.families.items():
            found = {prefix: rule for (of, prefix), (rule, _) in self._former.items() if of is family}
            ranges_ = sorted(
                (rule for rule in found.values() if not is_host(family, rule.cidr)), reverse=True
            )
            addresses = {prefix: rule for prefix, rule in found.items() if is_host(family, prefix)}
            families[family] = replace(
                of_family,
                kernel_rules=(*ranges_, *of_family.kernel_rules),
                service_addresses={**of_family.service_addresses, **addresses},
            )
        return replace(policy, families=families)
