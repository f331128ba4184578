"""What a node would make of a route, by its resources alone: taken from a peer, or sent to it, and by which rule.

The domain half of ``bgpd policy test`` (``cli.policy`` reads and prints). The rules are those of the daemon:
``rules.peering`` says which sessions there are, ``rules.imports`` what may be heard, ``rules.originate`` and
``rib.groups`` what a peer is sent. The node's configuration file is not read: its defaults hold. Passwords mean nothing
here, so a pipeline need not have the Secrets.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from bgpd.config.config import Config
from bgpd.model.peer import Peer, PeerConfig, PeerId
from bgpd.model.prefix import Address, Family, Prefix, address_text, covers, family_of
from bgpd.model.resources import IPPool, Snapshot
from bgpd.model.route import (
    Attributes,
    ForeignRoute,
    Originated,
    Origination,
    OriginKind,
    Out,
    RouteSource,
    WorkloadRoute,
)
from bgpd.model.route import (
    Path as Learned,
)
from bgpd.rib.groups import AdjRibsOut, ExportVerdict
from bgpd.rules.exports import ExportRefusal, group_keys, peer_refusal
from bgpd.rules.imports import (
    altered,
    as_taken,
    import_rules,
    import_verdict,
    prefix_import_refusal,
    rejected,
    with_local_pref,
)
from bgpd.rules.originate import originate
from bgpd.rules.peering import Peering, peers
from bgpd.rules.policy import RoutePolicy, route_policy
from bgpd.rules.priority import INT_MAX, are_ranked, metric_of, own_local_pref
from bgpd.rules.workloads import is_workload

BUILT_IN = "built-in: "
Direction = Literal["import", "export"]


class NoSession(Exception):
    """No session of the node, or several, have that name; the text says which there are."""


class BadRoute(Exception):
    """A route that cannot be; (key, message)."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key, self.message = key, message


@dataclass(frozen=True, slots=True)
class Route:
    """A route to be tried."""

    family: Family
    prefix: Prefix
    source: RouteSource | None
    interface: str
    attributes: Attributes
    metric: int
    """The route's metric in the kernel."""
    next_hop: Address | None


def outcome(node: NodeView, peer: Peer, direction: Direction, route: Route) -> Outcome:
    """What becomes of a route. Raises ``BadRoute``."""
    if route.family not in peer.families:
        return Outcome(False, f"{BUILT_IN}the session carries no {route.family.label}", route.attributes)
    return (_imported if direction == "import" else _exported)(node, peer, route)


class NodeView(NamedTuple):
    """What a node would do, by its resources."""

    snapshot: Snapshot
    config: Config
    peering: Peering
    policy: RoutePolicy


def node_view(snapshot: Snapshot, name: str) -> NodeView:
    open_peers = {key: replace(peer, password=None) for key, peer in snapshot.peers.items()}
    open_settings = {
        key: replace(settings, node_mesh_password=None)
        for key, settings in snapshot.bgp_configurations.items()
    }
    snapshot = replace(snapshot, peers=open_peers, bgp_configurations=open_settings)
    config = Config(node=name)
    peering = peers(snapshot, name, config)
    return NodeView(snapshot, config, peering, route_policy(snapshot, name, config, peering))


def find_session(peering: Peering, name: str) -> PeerConfig:
    """The session that an operator means."""
    found = [peer for peer in peering.peers.values() if name in (peer.id, address_text(peer.address))]
    if not found:
        found = [peer for peer in peering.peers.values() if peer.source == f"BGPPeer {name}"]
    if len(found) == 1:
        return found[0]
    names = ", ".join(sorted(peer.id for peer in found or peering.peers.values())) or "none"
    if found:
        raise NoSession(f"--peer: {name} is several sessions: {names}")
    raise NoSession(f"--peer: no session of this node has the name or address {name!r}; there are: {names}")


def session_of(node: NodeView, config: PeerConfig) -> Peer:
    """The session as it would be when established."""
    own = config.local_address or node.snapshot.nodes[node.config.node].address(family_of(config.address))
    # The kernel's choice, where none is known: an address of the right family, and nothing of it is printed.
    return Peer(config, config.router_id, own or config.address, config.families, asn4=True)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of a route, and which rule decided."""

    accepted: bool
    rule: str
    attributes: Attributes
    """The attributes as taken in, or as sent to the peer; where it is rejected, as the filters saw them."""


def _imported(node: NodeView, peer: Peer, route: Route) -> Outcome:
    if route.source not in (None, RouteSource.BGP):
        raise BadRoute("source", "expected bgp: that is what a peer announces")
    path = as_taken(Learned(peer, route.attributes, route.next_hop or peer.config.address))
    rules = import_rules(node.policy, peer, route.family)
    seen = with_local_pref(path.attributes)
    if refusal := prefix_import_refusal(route.family, route.prefix, path, rules):
        return Outcome(False, BUILT_IN + refusal.value, seen)
    verdict = import_verdict(route.family, route.prefix, path, rules)
    if verdict is None:
        return Outcome(True, f"{BUILT_IN}import accepts", seen)
    after = altered(path, verdict.operations)
    return Outcome(not rejected(verdict), verdict.rule, with_local_pref(after.attributes))


def _exported(node: NodeView, peer: Peer, route: Route) -> Outcome:
    if route.source is None:
        raise BadRoute("source", f"expected with export: {', '.join(each.value for each in RouteSource)}")
    if route.source is RouteSource.BGP:
        return _export_of_learned(node, peer, route)
    return _export_of_own(node, peer, route, route.source)


def _export_of_learned(node: NodeView, peer: Peer, route: Route) -> Outcome:
    path = Learned(_source_peer(node, peer, route), route.attributes, route.next_hop or peer.config.address)
    origination = _origination(node, route.family)
    verdict = _export_verdict(node, peer, route, origination, None, paths=(path,))
    out = verdict.out
    if isinstance(out, Out):
        out = peer_refusal(out, peer) or out
    if isinstance(out, Out):
        pool = _pool(node, route)
        rule = verdict.rule or BUILT_IN + (f"pool {pool.name}" if pool else "a range of services")
        return Outcome(True, rule, out.attributes)
    words = out.value
    if out is ExportRefusal.POOL_DISABLED and (pool := _pool(node, route, hidden=True)):
        words = f"pool {pool.name} has disableBGPExport"
    return Outcome(False, verdict.rule or BUILT_IN + words, with_local_pref(route.attributes))


def _export_of_own(node: NodeView, peer: Peer, route: Route, source: RouteSource) -> Outcome:
    """Of a route of this node: the kernel has it, or the resources say that it is there."""
    given = route.attributes
    for key, value in (
        ("as_path", given.as_path),
        ("communities", given.communities),
        ("large_communities", given.large_communities),
    ):
        if value:
            raise BadRoute(key, f"only a route learned by BGP has one: source is {source.value}")
    if given.local_pref is not None and not 0 < given.local_pref < INT_MAX:
        raise BadRoute("local_pref", f"expected a number from 1 to {INT_MAX - 1} with source {source.value}")
    # A LOCAL_PREF that is given stands for the metric that makes it.
    metric = route.metric if given.local_pref is None else metric_of(given.local_pref)
    workloads, foreign = _kernel(node, route)
    evidence = given.local_pref is not None or are_ranked({route.family: workloads})
    prioritised = node.policy.prioritised(evidence)
    origination = _origination(node, route.family, workloads, foreign)
    known = origination.announce.get(route.prefix) or origination.offered.get(route.prefix)
    own = Originated(
        known.kind if known else OriginKind.STATIC,
        known.source if known else "",
        source,
        route.interface,
        metric,
        route.next_hop,
    )
    family_policy = node.policy.families[route.family]
    seen = Attributes(local_pref=own_local_pref(own.metric, family_policy.normal_priority, prioritised))
    if known is None and source is RouteSource.DIRECT and node.policy.filters_exports(route.family):
        words = f"addresses of {route.interface or 'no interface'} are not even offered to filters"
        return Outcome(False, BUILT_IN + words, seen)
    verdict = _export_verdict(node, peer, route, origination, own, prioritised)
    out = verdict.out
    if isinstance(out, Out):
        pool = _pool(node, route) if own.kind is OriginKind.BORROWED else None
        rule = verdict.rule or BUILT_IN + (f"pool {pool.name}" if pool else own.source)
        return Outcome(True, rule, out.attributes)
    words = out.value
    if out is ExportRefusal.NOT_OURS:
        words = origination.hidden.get(route.prefix, words)
    return Outcome(False, verdict.rule or BUILT_IN + words, seen)


def _export_verdict(
    node: NodeView,
    peer: Peer,
    route: Route,
    origination: Origination,
    own: Originated | None,
    prioritised: bool = False,
    paths: tuple[Learned, ...] = (),
) -> ExportVerdict:
    """What the daemon would announce, and by which filter's rule."""
    family, policy = route.family, node.policy
    adj_ribs_out = AdjRibsOut(family, lambda path: path.peer.ibgp and policy.of(path.peer).client)
    adj_ribs_out.configure(policy)
    adj_ribs_out.origination, adj_ribs_out.prioritised = origination, prioritised
    key = group_keys(peer, policy).get(family)
    if key is None:
        return ExportVerdict(None, ExportRefusal.NO_NEXT_HOP, "")
    adj_ribs_out.join(peer.id, key, policy.chain(key.filters, "export", family))
    group = adj_ribs_out.of(peer.id)
    assert group is not None
    announced = route.prefix in origination.announce
    return adj_ribs_out.export_verdicts(route.prefix, group, own, announced, paths)[0]


def _kernel(node: NodeView, route: Route) -> tuple[frozenset[WorkloadRoute], frozenset[ForeignRoute]]:
    """What the daemon would find in its kernel if ``route`` was there: workloads' routes, and all of others."""
    if route.source not in (RouteSource.KERNEL, RouteSource.DIRECT):
        return frozenset(), frozenset()
    direct, kernel = route.source is RouteSource.DIRECT, node.config.kernel
    patterns = kernel.tunnel_interfaces if direct else kernel.workload_interfaces
    ours = is_workload(route.family, route.prefix, route.interface, route.next_hop, 1, patterns)
    workload = WorkloadRoute(route.prefix, route.interface, route.metric, direct)
    found = ForeignRoute(route.prefix, route.source, route.interface, route.next_hop, route.metric)
    return frozenset({workload} if ours else ()), frozenset({found})


def _origination(
    node: NodeView,
    family: Family,
    workloads: frozenset[WorkloadRoute] = frozenset(),
    foreign: frozenset[ForeignRoute] = frozenset(),
) -> Origination:
    """What the node says and keeps, with these in its kernel."""
    early, name = node.config.originate.ipam_early, node.config.node
    made = originate(node.snapshot, {family: workloads}, name, early, node.policy, {family: foreign})
    return made[family]


def _pool(node: NodeView, route: Route, hidden: bool = False) -> IPPool | None:
    """The smallest pool that a route is in, of those that export or those that do not."""
    found = [
        pool
        for _, pool in sorted(node.snapshot.pools.items())
        if pool.family is route.family
        and pool.disable_bgp_export == hidden
        and covers(pool.cidr, route.prefix)
    ]
    return max(found, key=lambda pool: pool.cidr[0], default=None)


def _source_peer(node: NodeView, peer: Peer, route: Route) -> Peer:
    """Whom a learned route is from: the peer that is its next hop; else one of the AS that its path begins with, or an
    internal one where it is empty, that this node need not have."""
    sessions = [config for _, config in sorted(node.peering.peers.items())]
    for config in sessions:
        if config.address == route.next_hop:
            return session_of(node, config)
    neighbour = route.attributes.neighbor_as
    for config in sessions:
        if neighbour and config.asn == neighbour and not config.ibgp and config.id != peer.id:
            return session_of(node, config)
    own = node.peering.asn
    stranger = replace(peer.config, id=PeerId(""), asn=neighbour or own, local_asn=own)
    return session_of(node, stranger)
