"""Which BFD sessions the sessions of BGP ask for (RFC 5882 §10): pure.

``daemon`` asks, with all peers that are wanted. Peers of one address share one session, with the shortest intervals
any of them wants. Single-hop (RFC 5881) where the peer is on a link of this node or its TTL security says one hop,
else multihop (RFC 5883). A peer that was found on a link stays single-hop when the link's subnet has gone: that is
when its session has to fail, not to be replaced by another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from bgpd.model.bfd import BfdOptions, BfdPlace, BfdTiming, BfdWanted
from bgpd.model.peer import PeerConfig
from bgpd.model.prefix import Address, is_link_local


def bfd_sessions(
    peers: Iterable[PeerConfig],
    connected: Callable[[Address], bool],
    before: Mapping[BfdPlace, BfdWanted],
) -> dict[BfdPlace, BfdWanted]:
    """The sessions to have. ``connected``: whether an address is on a link of this node; ``before``: what was wanted
    until now."""
    asking: dict[BfdPlace, list[tuple[PeerConfig, BfdOptions]]] = {}
    for peer in peers:
        if peer.bfd is not None:
            zone = peer.interface if is_link_local(peer.address) else None
            asking.setdefault(BfdPlace(peer.address, zone), []).append((peer, peer.bfd))
    wanted = {}
    for place, clients in asking.items():
        stated = [options.multihop for _, options in clients if options.multihop is not None]
        hops = [peer.ttl_security for peer, _ in clients if peer.ttl_security is not None]
        if stated:
            multihop = all(stated)
        else:
            was_near = place in before and not before[place].multihop
            multihop = not (place.interface is not None or 1 in hops or was_near or connected(place.address))
        timings = [options.timing for _, options in clients]
        wanted[place] = BfdWanted(
            timing=BfdTiming(
                min(timing.min_tx for timing in timings),
                min(timing.min_rx for timing in timings),
                min(timing.multiplier for timing in timings),
            ),
            multihop=multihop,
            local_address=next((p.local_address for p, _ in clients if p.local_address is not None), None),
            min_ttl=256 - min(hops, default=256) if multihop else 255,
            peers=tuple(peer.id for peer, _ in clients),
        )
    return wanted
