"""The decision process: which of the paths of one prefix is best, and which share its traffic (RFC 4271 §9.1.2).

What the RFC asks, in its order: drop paths that are not usable (§9.1.2, §9.1.2.1: next hop resolves, no AS loop), keep
the highest degree of preference (§9.1.1; but first what is not long-lived stale, RFC 9494 §4.2), then §9.1.2.2
a) shortest AS_PATH, b) lowest ORIGIN, c) lowest MED among paths of one neighbouring AS, d) external over internal,
e) lowest interior cost, f) lowest BGP identifier, g) lowest peer address. RFC 4456 §9 puts ORIGINATOR_ID in place of
the identifier and the CLUSTER_LIST's length before g).

How we do it: one list of steps, each of which eliminates; no pairwise comparison, so the order of arrival cannot show
and a MED triangle has one winner. What is left after e) is the multipath set. So AS paths of one length may differ in
content, internal and external never mix, and there is no oldest-route step. A path identifier (RFC 7911) breaks the
last tie. A missing LOCAL_PREF counts 100, a missing MED 0.

Called by ``rib.router`` for prefixes with more than one path, and by ``bgpctl why`` for all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bgpd.model.prefix import Address
from bgpd.model.route import Path, Reason, Resolution, Selection, Unresolved
from bgpd.rules.communities import LLGR_STALE
from bgpd.rules.imports import import_refusal
from bgpd.rules.priority import DEFAULT_LOCAL_PREF

Resolve = Callable[[Address], Resolution | Unresolved]
Refuse = Callable[[Path], Reason | None]


def local_preference(path: Path) -> int:
    """The degree of preference of a path (RFC 4271 §9.1.1)."""
    local_pref = path.attributes.local_pref
    return DEFAULT_LOCAL_PREF if local_pref is None else local_pref


def identifier(path: Path) -> Address:
    """ORIGINATOR_ID, or the peer's BGP identifier without one (RFC 4456 §9)."""
    return path.attributes.originator_id or path.peer.router_id


def _med_group_minimum(paths: Sequence[Path]) -> list[Path]:
    lowest: dict[int, int] = {}
    for path in paths:
        attributes = path.attributes
        med, group = attributes.med or 0, attributes.neighbor_as
        if med < lowest.get(group, 1 << 32):
            lowest[group] = med
    return [p for p in paths if (p.attributes.med or 0) == lowest[p.attributes.neighbor_as]]


def _least(key: Callable[[Path], object]) -> Callable[[Sequence[Path]], Sequence[Path]]:
    def step(paths: Sequence[Path]) -> Sequence[Path]:
        ranks: list[Any] = list(map(key, paths))
        best = min(ranks)
        if ranks.count(best) == len(ranks):
            return paths
        return [path for path, rank in zip(paths, ranks, strict=True) if rank == best]

    return step


Step = tuple[Reason, Callable[[Sequence[Path]], Sequence[Path]]]

UNTIL_COST: tuple[Step, ...] = (
    (Reason.LLGR_STALE, _least(lambda path: LLGR_STALE in path.attributes.communities)),  # RFC 9494 §4.2
    (Reason.LOCAL_PREF, _least(lambda path: -local_preference(path))),  # §9.1.1
    (Reason.AS_PATH_LENGTH, _least(lambda path: path.attributes.as_path_length)),  # §9.1.2.2 a
    (Reason.ORIGIN, _least(lambda path: int(path.attributes.origin))),  # b
    (Reason.MED, _med_group_minimum),  # c
    (Reason.EBGP_OVER_IBGP, _least(lambda path: int(path.peer.ibgp))),  # d
)
TIE_BREAKS: tuple[tuple[Reason, Callable[[Path], Any]], ...] = (
    (Reason.ROUTER_ID, identifier),  # f
    (Reason.CLUSTER_LIST_LENGTH, lambda path: len(path.attributes.cluster_list)),  # RFC 4456 §9
    (Reason.PEER_ADDRESS, lambda path: (path.peer.config.address, path.peer.id)),  # g; two sessions of one
    (Reason.PATH_ID, lambda path: path.path_id),  # RFC 7911
)
"""Each the least of a value, so that what is tied is ranked by sorting it once."""


def _tie_break(path: Path) -> tuple[Any, ...]:
    return tuple(value(path) for _, value in TIE_BREAKS)


def _eliminate(paths: Sequence[Path], steps: Sequence[Step], rejected: dict[Path, Reason]) -> Sequence[Path]:
    for reason, step in steps:
        if len(paths) == 1:
            break
        kept = step(paths)
        if len(kept) < len(paths):
            survivors = set(map(id, kept))
            rejected.update((path, reason) for path in paths if id(path) not in survivors)
            paths = kept
    return paths


def judge(
    paths: Sequence[Path], resolve: Resolve, max_paths: int, refuse: Refuse = import_refusal
) -> tuple[Path | None, tuple[Path, ...], dict[Path, Reason]]:
    """The best path (``None`` when none is usable), the multipath set with it in front, and why each other is not best.

    ``max_paths`` bounds the multipath set; the tie-breaks say which stay. ``refuse`` names what import refuses. The
    order of ``paths`` does not matter.
    """
    rejected: dict[Path, Reason] = {}
    usable: list[Path] = []
    costs: dict[Address, int] = {}
    for path in paths:
        if refusal := refuse(path):
            rejected[path] = refusal
            continue
        resolution = resolve(path.next_hop)
        if isinstance(resolution, Unresolved):
            rejected[path] = Reason.UNRESOLVED
            continue
        costs[path.next_hop] = resolution.cost
        usable.append(path)
    if len(usable) < 2:
        return (usable[0] if usable else None), tuple(usable), rejected
    by_cost: Step = (Reason.IGP_COST, _least(lambda path: costs[path.next_hop]))  # e
    tied = _eliminate(usable, (*UNTIL_COST, by_cost), rejected)

    keys = {id(path): _tie_break(path) for path in tied}
    ranked = sorted(tied, key=lambda path: keys[id(path)])
    best = keys[id(ranked[0])]
    for path in ranked[1:]:
        for (reason, _), mine, lower in zip(TIE_BREAKS, keys[id(path)], best, strict=True):
            if mine != lower:
                rejected[path] = reason
                break
    return ranked[0], tuple(ranked[:max_paths]), rejected


def select(
    paths: Sequence[Path], resolve: Resolve, max_paths: int, refuse: Refuse = import_refusal
) -> Selection | None:
    """``judge`` as the RIB keeps it; ``None`` when no path is usable."""
    best, multipath, rejected = judge(paths, resolve, max_paths, refuse)
    return None if best is None else Selection(best, multipath, rejected)
