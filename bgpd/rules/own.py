"""What of this node hides a peer's route: its own prefixes are not up for decision.

What this node announces, or keeps as a blackhole or a static route, is its own, whatever peers say of it. So are its
addresses and connected subnets. But a workload that has moved takes its address with it (calico.md §3.5). The
decision asks this (``rib.family``), and so do ``bgpctl why`` and the tables, through the router.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from bgpd.model.prefix import Family, Prefix, is_host
from bgpd.model.route import (
    LocalBlackhole,
    Originated,
    Origination,
    OriginKind,
    Selection,
    StaticRoute,
)
from bgpd.rules.priority import is_elevated, selected_metric


class Assigned(NamedTuple):
    """IPAM gives the address to this node; its workload's route will be there soon."""

    block: str
    """The name of the IPAMBlock."""


Hiding = Originated | LocalBlackhole | StaticRoute | Assigned | str
"""What hides a route; text is an own address or subnet, in words."""


def special(origination: Origination, local: Mapping[Prefix, str], offered: bool) -> frozenset[Prefix]:
    """Prefixes that this node has a word on. ``offered``: what only filters may let out counts too."""
    offers = origination.offered if offered else ()
    return frozenset(
        (
            *origination.announce,
            *origination.blackholes,
            *origination.statics,
            *origination.assigned,
            *offers,
            *local,
        )
    )


def hiding(
    prefix: Prefix, origination: Origination, local: Mapping[Prefix, str], moved: bool, moving: bool
) -> Hiding | None:
    """What hides what peers say of a prefix; ``None`` where it is up for decision. ``moved``: see ``has_moved``;
    ``moving``: ``is_moving``."""
    own = origination.announce.get(prefix)
    if own is not None and not moved:
        return own
    hole = origination.blackholes.get(prefix)
    if hole is not None and not hole.yields:
        return hole
    if found := origination.statics.get(prefix) or local.get(prefix):
        return found
    block = None if moving else origination.assigned.get(prefix)
    return None if block is None else Assigned(block)


def is_moving(learned: Selection, normal: int) -> bool:
    """Whether what was learned of an address is of a workload that is being moved: that goes before IPAM's word."""
    return is_elevated(selected_metric(learned), normal)


def has_moved(family: Family, prefix: Prefix, own: Originated, learned: Selection, normal: int) -> bool:
    """Whether an address that we announce has gone to another node with its workload, or is about to: what was learned
    of it beats our own announcement. ``normal``: the family's normal metric."""
    if own.kind not in (OriginKind.BORROWED, OriginKind.BLOCK) or not is_host(family, prefix):
        return False
    return is_moving(learned, normal) and selected_metric(learned) < (own.metric or normal)


def hiding_text(hiding: Hiding) -> str:
    """In words, for ``bgpctl``."""
    if isinstance(hiding, Assigned):
        return f"IPAM gives it to this node (IPAMBlock {hiding.block})"
    return f"it is {_own_text(hiding)}"


def _own_text(hiding: Originated | LocalBlackhole | StaticRoute | str) -> str:
    if isinstance(hiding, Originated):
        return f"our own {hiding.kind.value} ({hiding.source})"
    if isinstance(hiding, LocalBlackhole):
        return f"our own block ({hiding.source})"
    if isinstance(hiding, StaticRoute):
        return f"our own static route ({hiding.source})"
    return hiding
