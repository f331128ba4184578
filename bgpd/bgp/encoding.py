"""From what is to be sent of some NLRI to UPDATEs, and what making them costs.

``outbound`` asks. The octets are the same for all sessions of an update group. Costs are in prefixes: what looking up
one prefix takes.
"""

from __future__ import annotations

from collections.abc import Iterable

from bgpd.bgp.wire.update import encode_announcements, encode_withdrawals
from bgpd.model.peer import Peer
from bgpd.model.prefix import Address, Family, Prefix
from bgpd.model.route import Attributes, Out

SET_COST, OCTETS_PER_COST = 64, 16
"""What an attribute set costs: itself, and one more for so many octets of it."""


def cost_of_set(attributes: Attributes) -> int:
    """What it costs to encode an attribute set, in prefixes."""
    return SET_COST + attributes.size // OCTETS_PER_COST


def cost_of(outs: Iterable[Out | None]) -> int:
    """What it costs to encode some NLRI, in prefixes that are looked up too."""
    count = 0
    sets: set[Attributes] = set()
    for out in outs:
        count += 1
        if out is not None:
            sets.add(out.attributes)
    return count // 4 + sum(map(cost_of_set, sets))


def encode(family: Family, peer: Peer, state: Iterable[tuple[Prefix, Out | None]]) -> bytes:
    """UPDATEs for the state of some NLRI: announcements first, grouped by their attributes, then withdrawals. They
    are the same for all sessions of ``peer``'s group.

    (House rule 11: a more specific is announced before what covered it goes.) Attributes too large for one message are
    not announced (RFC 4271 §9.2), and whatever was announced before is withdrawn.
    """
    announced: dict[tuple[Attributes, Address], list[Prefix]] = {}
    withdrawn: list[Prefix] = []
    for prefix, out in state:
        if out is None:
            withdrawn.append(prefix)
        else:
            announced.setdefault((out.attributes, out.next_hop), []).append(prefix)
    messages: list[bytes] = []
    own = peer.next_hop(family) if peer.link_local is not None else None
    for (attributes, next_hop), prefixes in announced.items():
        on_link = peer.link_local if next_hop == own else None
        try:
            messages += encode_announcements(
                family, attributes, next_hop, prefixes, peer.asn4, link_local=on_link
            )
        except ValueError:
            withdrawn += prefixes
    if withdrawn:
        messages += encode_withdrawals(family, withdrawn)
    return b"".join(messages)
