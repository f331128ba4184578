"""Import and export policy: what is refused, and what of a route changes on its way to a peer.

Until filters are configured, import accepts all that the protocol allows (RFC 4271 §9.1.2 loops, RFC 4456 §8), and
export lets out three things only: this node's own blocks, the addresses it borrowed, and BGP-learned routes inside a
pool without ``disableBGPExport``; nothing else, never a default route (RFC 8212 in spirit). An own block hides the
sub-prefixes that *this node* originates (``rules.originate`` leaves them out); what it learned from others inside its
own block passes (Calico's filter drops them too, so that a reflector's clients reach a borrowed address by a hair-pin
through the block's owner: calico.md §3.4).

Each refusal is an enum member, kept as data for ``bgpctl why``. Called by ``decision`` and ``router``.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from typing import NamedTuple

from bgpd.model.peer import Peer
from bgpd.model.prefix import Address, Family, Prefix, covers
from bgpd.model.route import Attributes, Origination, Out, Path, Reason, SegmentType

NO_EXPORT = 0xFFFFFF01
NO_ADVERTISE = 0xFFFFFF02
NO_EXPORT_SUBCONFED = 0xFFFFFF03
NON_TRANSITIVE = 0x40
"""In the first octet of an extended community: it stays inside the AS (RFC 4360 §2)."""
DEFAULT_LOCAL_PREF = 100


class ExportRefusal(Enum):
    """Why a route is not told to a peer; the value is what ``bgpctl why`` prints."""

    INTERNAL = "learned from an internal peer, and internal routes are not passed on to internal peers"
    NO_ADVERTISE = "it carries the community no-advertise"
    NO_EXPORT = "it carries the community no-export, and the peer is external"
    LOOP = "the peer's AS is already on its AS path"
    DEFAULT_ROUTE = "a default route is never passed on"
    POOL_DISABLED = "it is inside a pool with disableBGPExport"
    NOT_IN_POOL = "it is a learned route outside every pool"
    NO_NEXT_HOP = "this node has no address of the family to announce as the next hop"
    SOURCE = "it was learned from that peer"


class Group(NamedTuple):
    """An update group: sessions that are told the same octets."""

    family: Family
    ibgp: bool
    local_asn: int
    peer_asn: int
    """0 on internal sessions, where it changes nothing."""
    next_hop: Address
    asn4: bool


def groups_of(peer: Peer) -> dict[Family, Group]:
    """The update group of a session in each of its families; without one for a family we have no next hop for."""
    found = {}
    for family in peer.families:
        next_hop = peer.next_hop(family)
        if next_hop is not None:
            config = peer.config
            asn = 0 if peer.ibgp else config.asn
            found[family] = Group(family, peer.ibgp, config.local_asn, asn, next_hop, peer.asn4)
    return found


def import_refusal(path: Path) -> Reason | None:
    """Why the protocol forbids the use of a path (RFC 4271 §9.1.2, RFC 4456 §8), whatever its prefix."""
    config, attributes = path.peer.config, path.attributes
    for _, segment in attributes.as_path:
        if config.local_asn in segment:
            return Reason.AS_LOOP
    if attributes.originator_id is not None and attributes.originator_id == config.router_id:
        return Reason.ORIGINATOR_LOOP
    return None


def local_out(group: Group) -> Out:
    """What a group is told of this node's own routes: ORIGIN IGP, next hop self."""
    if group.ibgp:
        return Out(Attributes(local_pref=DEFAULT_LOCAL_PREF), group.next_hop, None)
    as_path = ((SegmentType.AS_SEQUENCE, (group.local_asn,)),)
    return Out(Attributes(as_path=as_path), group.next_hop, None)


def learned_out(path: Path, group: Group) -> Out | ExportRefusal:
    """What a group is told of a learned path, as far as the path alone decides (``prefix_refusal`` is the rest).

    External: our AS in front; no LOCAL_PREF, MED (RFC 4271 §5.1) or community that stays inside an AS. Internal:
    LOCAL_PREF added. Next hop self.
    """
    attributes = path.attributes
    if group.ibgp and path.peer.ibgp:
        return ExportRefusal.INTERNAL
    if NO_ADVERTISE in attributes.communities:
        return ExportRefusal.NO_ADVERTISE
    if not group.ibgp:
        if NO_EXPORT in attributes.communities or NO_EXPORT_SUBCONFED in attributes.communities:
            return ExportRefusal.NO_EXPORT
        if group.peer_asn in attributes.asns():
            return ExportRefusal.LOOP
        sent = replace(
            attributes,
            as_path=prepend(attributes, group.local_asn),
            local_pref=None,
            med=None,
            originator_id=None,
            cluster_list=(),
            extended_communities=tuple(
                c for c in attributes.extended_communities if not c[0] & NON_TRANSITIVE
            ),
        )
    else:
        local_pref = DEFAULT_LOCAL_PREF if attributes.local_pref is None else attributes.local_pref
        sent = replace(attributes, local_pref=local_pref)
    return Out(sent, group.next_hop, path.peer.id)


def prepend(attributes: Attributes, asn: int) -> tuple[tuple[SegmentType, tuple[int, ...]], ...]:
    """The AS path with ``asn`` in front (RFC 4271 §5.1.2 b); a full segment of 255 starts a new one."""
    path = attributes.as_path
    if path and path[0][0] == SegmentType.AS_SEQUENCE and len(path[0][1]) < 255:
        return ((SegmentType.AS_SEQUENCE, (asn, *path[0][1])), *path[1:])
    return ((SegmentType.AS_SEQUENCE, (asn,)), *path)


def prefix_refusal(prefix: Prefix, origination: Origination) -> ExportRefusal | None:
    """Why a learned route of this prefix is not passed on to anybody."""
    if prefix[0] == 0:
        return ExportRefusal.DEFAULT_ROUTE
    for pool in origination.hidden_pools:
        if covers(pool, prefix):
            return ExportRefusal.POOL_DISABLED
    for pool in origination.exported_pools:
        if covers(pool, prefix):
            return None
    return ExportRefusal.NOT_IN_POOL
