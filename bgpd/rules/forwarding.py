"""From the decision to the kernel: the route wanted for a Selection. Called by ``router``."""

from __future__ import annotations

from collections.abc import Callable

from bgpd.model.prefix import Address
from bgpd.model.route import Hop, Resolution, Selection, Unresolved, Via


def forwarding(
    selection: Selection, resolve: Callable[[Address], Resolution | Unresolved], max_paths: int
) -> Via | None:
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
