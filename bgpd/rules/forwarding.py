"""From the decision to the kernel: the route wanted for a Selection. Called by ``rib.router``.

Mostly a route leads where its next hops resolve. ``place`` is for families whose policy says more (calico.md §2.9):
which routes Felix writes instead, and which lead through a tunnel device straight to the BGP next hop.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from bgpd.model.prefix import Address, covers, host_prefix
from bgpd.model.route import Hop, Path, Resolution, Selection, Unresolved, Via
from bgpd.rules.policy import FamilyPolicy, KernelRule

Resolve = Callable[[Address], Resolution | Unresolved]


class KernelRefusal(Enum):
    """Why a chosen route is not written; the value is what ``bgpctl why`` prints, behind the rule's own words."""

    LEFT_TO_OTHERS = "not ours to write"
    TUNNEL_DOWN = "the tunnel device is not there, or down: nothing is written unencapsulated"
    ENCRYPTED = "its next hop is a WireGuard node: Felix's routes lead there"
    NO_NEXT_HOP = "its next hop does not resolve"


def forwarding(selection: Selection, resolve: Resolve, max_paths: int) -> Via | None:
    """All hops that the multipath set leads through, at most ``max_paths``, the best path's first among the kept.

    ``None`` when nothing resolves, which a Selection just made cannot show: every path in it resolved.
    """
    if len(selection.multipath) == 1:
        only = resolve(selection.best.next_hop)
        if isinstance(only, Resolution) and len(only.via.hops) <= max_paths:
            return only.via  # shared by all that go this way
    hops: dict[Hop, None] = {}
    for path in selection.multipath:
        resolution = resolve(path.next_hop)
        if isinstance(resolution, Resolution):
            hops.update(dict.fromkeys(resolution.via.hops))
    return Via(tuple(list(hops)[:max_paths])) if hops else None


def place(
    selection: Selection,
    rule: KernelRule | None,
    policy: FamilyPolicy,
    tunnels: Callable[[str], int | None],
    resolve: Resolve,
    max_paths: int,
) -> Via | KernelRefusal:
    """As ``forwarding``, under the kernel rule of the prefix. ``tunnels`` gives the index of a device that is up."""
    if rule is not None and not rule.program:
        return KernelRefusal.LEFT_TO_OTHERS
    hops: dict[Hop, None] = {}
    refusal = KernelRefusal.NO_NEXT_HOP
    for path in selection.multipath:
        if path.next_hop in policy.encrypted:
            refusal = KernelRefusal.ENCRYPTED
        elif rule is not None and rule.tunnel is not None and is_tunnelled(path, rule, policy):
            device = tunnels(rule.tunnel)
            if device is None or len(path.next_hop) != 4:
                refusal = KernelRefusal.TUNNEL_DOWN
            else:
                hops[Hop(path.next_hop, device, onlink=True)] = None
        elif isinstance(resolution := resolve(path.next_hop), Resolution):
            hops.update(dict.fromkeys(resolution.via.hops))
    return Via(tuple(list(hops)[:max_paths])) if hops else refusal


def is_tunnelled(path: Path, rule: KernelRule, policy: FamilyPolicy) -> bool:
    """Whether a tunnel rule bears on a next hop: a subnet of unknown length holds this node alone."""
    if not rule.cross_subnet or policy.own_subnet is None or len(path.next_hop) != 4:
        return True
    return not covers(policy.own_subnet, host_prefix(path.next_hop))
