"""Export: what a peer is sent of a route, or the name of the rule that keeps it back. calico.md §2.7 and §2.11.

In this order: what the protocol forbids (internal routes between internal peers that are not reflected, RFC 4456 §6;
well-known communities, RFC 1997 and RFC 3765); the peer's filters, whose Accept lets out what the built-in rules would
not, and whose Reject ends; the built-in rules. Those let out this node's own blocks, addresses and services, and
learned routes inside a pool without ``disableBGPExport``; nothing else, never a default route (RFC 8212 in spirit).
What they let out gets the communities of ``prefixAdvertisements``.

Learned routes inside the ranges of services are passed on by a route reflector only. Each node announces these ranges
itself; a single address is announced by the nodes that have an endpoint. Whoever passes it on with itself as the next
hop draws traffic that dies there (Calico does: calico#5235, #6074).

An own block hides the sub-prefixes that *this node* originates (``rules.originate`` leaves them out); what it learned
from others inside its own block passes (Calico's filter drops them too, so that a reflector's clients reach a borrowed
address by a hair-pin through the block's owner: calico.md §3.4). Each refusal is an enum member, kept as data.

Sessions that are sent the same octets have one ``GroupKey``. Called by ``rib.groups``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from enum import Enum
from typing import NamedTuple

from bgpd.model.drain import Drain
from bgpd.model.interface import matches
from bgpd.model.peer import Peer
from bgpd.model.prefix import Address, Family, Prefix, covers, host_prefix, is_link_local
from bgpd.model.resources import Action, AddCommunity, NextHopMode, Operation
from bgpd.model.route import Attributes, Originated, Origination, OriginKind, Out, Path
from bgpd.rules.communities import (
    GRACEFUL_SHUTDOWN,
    LLGR_STALE,
    NO_ADVERTISE,
    NO_PEER,
    NON_TRANSITIVE,
    STAYS_INSIDE,
)
from bgpd.rules.filters import Chain, Subject, operated
from bgpd.rules.policy import FamilyPolicy, RoutePolicy
from bgpd.rules.priority import DEFAULT_LOCAL_PREF

NEVER_ADVERTISED = "bpf*.cali"
"""Interfaces whose routes are advertised to nobody."""


class ExportRefusal(Enum):
    """Why a route is not advertised to a peer; the value is what ``bgpctl why`` prints."""

    INTERNAL = "learned from an internal peer, and internal routes are not passed on to internal peers"
    NO_ADVERTISE = "it carries the community no-advertise"
    NO_EXPORT = "it carries the community no-export, and the peer is external"
    NO_PEER = "it carries the community no-peer, and the peer is external"
    LONG_LIVED = "it is long-lived stale, and the peer does not know long-lived graceful restart (RFC 9494)"
    FILTERED = "an export filter rejects it"
    DEFAULT_ROUTE = "a default route is never passed on"
    POOL_DISABLED = "it is inside a pool with disableBGPExport"
    OF_SERVICES = "it is another node's address of a service, and traffic to it must not come here"
    NOT_IN_POOL = "it is a learned route outside every pool"
    NOT_OURS = "no filter accepts it, and by itself it is not announced"
    INTERFACE = "it leads over an interface that Felix brings to the other nodes by itself"
    NO_NEXT_HOP = "this node has no address of the family to announce as the next hop"
    SOURCE = "it was learned from that peer"
    NEXT_HOP = "that peer is its next hop"
    DRAINED = "this node is drained"


class GroupKey(NamedTuple):
    """What sessions have in common that are sent the same octets (``rib.groups.UpdateGroup``)."""

    family: Family
    ibgp: bool
    local_asn: int
    next_hop: Address
    asn4: bool
    next_hop_mode: NextHopMode = NextHopMode.AUTO
    client: bool = False
    """Whether the peer is a client of ours, as a route reflector."""
    cluster_id: Address | None = None
    """Our own cluster, on internal sessions."""
    filters: tuple[str, ...] = ()
    """Those that have a word on what it is sent."""
    add_path: bool = False
    """It is sent every path of a prefix, with identifiers (RFC 7911)."""
    extended_next_hop: bool = False
    """IPv4 routes may have an IPv6 next hop (RFC 8950)."""
    link_local: Address | None = None
    """Our address on the peer's link, sent beside the global one."""
    subnet: Prefix | None = None
    """The subnet that an external peer shares with us, of the next hop's family. Next hops in it are as near to
    the peer as we are, and stay (RFC 4271 §5.1.3)."""
    knows_long_lived: bool = False
    """Long-lived stale routes may be advertised (RFC 9494 §4.3)."""
    drain: Drain = Drain.NONE
    """How far this node is drained."""


def group_keys(peer: Peer, policy: RoutePolicy | None = None) -> dict[Family, GroupKey]:
    """The key of a session's update group in each of its families; none for a family we have no next hop for."""
    policy = policy or RoutePolicy()
    own, config = policy.of(peer), peer.config
    found = {}
    for family in peer.families:
        next_hop = peer.next_hop(family)
        if next_hop is not None:
            found[family] = GroupKey(
                family,
                peer.ibgp,
                config.local_asn,
                next_hop,
                peer.asn4,
                own.next_hop,
                own.client and peer.ibgp,
                (own.cluster_id or policy.cluster_id) if peer.ibgp else None,
                policy.exporting(own.filters, family),
                family in peer.add_path_send,
                family in peer.extended_next_hop,
                peer.link_local,
                _subnet(peer, own.next_hop, next_hop, policy),
                peer.knows_long_lived,
                policy.drain,
            )
    return found


def _subnet(peer: Peer, mode: NextHopMode, next_hop: Address, policy: RoutePolicy) -> Prefix | None:
    address = peer.config.address
    if peer.ibgp or mode is not NextHopMode.AUTO or len(address) != len(next_hop):
        return None
    return policy.subnet_of(address)


def peer_refusal(out: Out, peer: Peer) -> ExportRefusal | None:
    """Why one session of a group is not sent what the group is: the peer has it already, or would be made to send to
    itself (RFC 4271 §5.1.3)."""
    if out.source == peer.id:
        return ExportRefusal.SOURCE
    return ExportRefusal.NEXT_HOP if out.next_hop == peer.config.address else None


def protocol_refusal(path: Path, group: GroupKey, from_client: bool = False) -> ExportRefusal | None:
    """What no filter can let out."""
    if group.drain is Drain.WITHDRAWN:
        return ExportRefusal.DRAINED
    communities = path.attributes.communities
    if group.ibgp and path.peer.ibgp and not (from_client or group.client):
        return ExportRefusal.INTERNAL
    if communities and NO_ADVERTISE in communities:
        return ExportRefusal.NO_ADVERTISE
    if communities and LLGR_STALE in communities and not group.knows_long_lived:
        return ExportRefusal.LONG_LIVED
    if not group.ibgp:
        if communities and not STAYS_INSIDE.isdisjoint(communities):
            return ExportRefusal.NO_EXPORT
        if communities and NO_PEER in communities:
            return ExportRefusal.NO_PEER
    return None


def drain_refusal(originated: Originated, drain: Drain) -> ExportRefusal | None:
    """Why a route of this node is not advertised while the node is drained so far; no filter can let it out."""
    gone = drain is Drain.WITHDRAWN or (drain >= Drain.SERVICES and originated.kind is OriginKind.SERVICE)
    return ExportRefusal.DRAINED if gone else None


def learned_out(
    path: Path, group: GroupKey, from_client: bool = False, operations: tuple[Operation, ...] = ()
) -> Out | ExportRefusal:
    """What a group is sent of a learned path, where nothing but the protocol forbids it.

    External: our AS in front (the peer's own may be further back: looking for loops is the receiver's, RFC 4271 §9.1.2,
    and it may allow some); no LOCAL_PREF, MED (RFC 4271 §5.1) or community that stays inside an AS. Internal:
    LOCAL_PREF added; of an internal peer's route, ORIGINATOR_ID and CLUSTER_LIST (RFC 4456 §8). The next hop stays as
    it is to internal peers, and to external ones in whose subnet it is; to others it is ours; unless the peer's
    ``nextHopMode`` says otherwise.
    """
    if refusal := protocol_refusal(path, group, from_client):
        return refusal
    attributes = operated(path.attributes, operations) if operations else path.attributes
    if group.ibgp and path.peer.ibgp:
        cluster_id = group.cluster_id or path.peer.config.router_id
        attributes = replace(
            attributes,
            originator_id=attributes.originator_id or path.peer.router_id,
            cluster_list=(cluster_id, *attributes.cluster_list),
        )
    next_hop = _next_hop(path.next_hop, group)
    return Out(_sent(attributes, group), next_hop, path.peer.id)


def local_out(
    group: GroupKey,
    local_pref: int = DEFAULT_LOCAL_PREF,
    operations: tuple[Operation, ...] = (),
    gateway: Address | None = None,
) -> Out:
    """What a group is sent of this node's own routes: ORIGIN IGP, and next hop self but for another's route in the
    kernel that has a ``gateway``."""
    attributes = _sent(operated(Attributes(local_pref=local_pref), operations), group)
    return Out(attributes, group.next_hop if gateway is None else _next_hop(gateway, group), None)


def _sent(attributes: Attributes, group: GroupKey) -> Attributes:
    """Attributes as they go out; the last resort while the node is drained (RFC 8326 §4.1)."""
    if group.drain is Drain.ALL:
        if group.ibgp:
            return replace(attributes, local_pref=0)
        if GRACEFUL_SHUTDOWN not in attributes.communities:
            attributes = replace(attributes, communities=(*attributes.communities, GRACEFUL_SHUTDOWN))
    if group.ibgp:
        if attributes.local_pref is not None:
            return attributes
        return replace(attributes, local_pref=DEFAULT_LOCAL_PREF)
    return replace(
        attributes,
        as_path=attributes.as_path.prepended(group.local_asn),
        local_pref=None,
        med=None,
        originator_id=None,
        cluster_list=(),
        extended_communities=tuple(c for c in attributes.extended_communities if not c[0] & NON_TRANSITIVE),
    )


def _next_hop(known: Address, group: GroupKey) -> Address:
    """The table of calico.md §2.11 and RFC 4271 §5.1.3; a next hop that the session cannot carry, or that means nothing
    there, is ours."""
    mode = group.next_hop_mode
    keep = mode is not NextHopMode.SELF
    if not group.ibgp and mode is NextHopMode.AUTO:
        near = group.subnet
        keep = near is not None and len(known) == len(group.next_hop) and covers(near, host_prefix(known))
    carried = len(known) == group.family.octets or (group.extended_next_hop and len(known) == 16)
    return known if keep and carried and not is_link_local(known) else group.next_hop


def prefix_refusal(prefix: Prefix, origination: Origination) -> ExportRefusal | None:
    """Why the built-in rules pass a learned route of this prefix on to nobody."""
    if prefix[0] == 0:
        return ExportRefusal.DEFAULT_ROUTE
    for pool in origination.hidden_pools:
        if covers(pool, prefix):
            return ExportRefusal.POOL_DISABLED
    for cidr in origination.kept_services:
        if covers(cidr, prefix):
            return ExportRefusal.OF_SERVICES
    for pool in origination.exported_pools:
        if covers(pool, prefix):
            return None
    for cidr in origination.exported_services:
        if covers(cidr, prefix):
            return None
    return ExportRefusal.NOT_IN_POOL


def interface_refusal(
    originated: Originated, group: GroupKey, kept_inside: Iterable[str]
) -> ExportRefusal | None:
    """Why the built-in rules keep from a group an address or route of this node, by its interface."""
    interface = originated.interface
    if not interface:
        return None
    if matches(interface, (NEVER_ADVERTISED,)):
        return ExportRefusal.INTERFACE
    if group.ibgp and matches(interface, kept_inside):
        return ExportRefusal.INTERFACE
    return None


class Ruling(NamedTuple):
    """What filters and built-in rules say of a route for a group."""

    refusal: ExportRefusal | None
    operations: tuple[Operation, ...] = ()
    rule: str = ""
    """The filter's rule that decided; empty where the built-in rules did."""


def ruling(
    subject: Subject,
    group: GroupKey,
    chain: Chain | None,
    builtin: ExportRefusal | None,
    policy: FamilyPolicy,
) -> Ruling:
    """Filters first; where they say nothing, the built-in rules' word ``builtin`` holds."""
    if chain is not None and (verdict := chain.evaluate(subject, group.ibgp)) is not None:
        if verdict.action is Action.REJECT:
            return Ruling(ExportRefusal.FILTERED, (), verdict.rule)
        return Ruling(None, verdict.operations, verdict.rule)
    if builtin is not None:
        return Ruling(builtin)
    added = tuple(
        AddCommunity(community)
        for cidr, communities in policy.advertisements
        if covers(cidr, subject.prefix)
        for community in communities
    )
    return Ruling(None, added)
