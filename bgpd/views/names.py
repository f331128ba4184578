"""What an operator may call a peer or an address: its own text, or the name of what has it in the resources.

A pod is ``namespace/name`` or, where only one has it, ``name``; a peer is its session's name, its address, or the name
of the BGPPeer, node or pod behind it. A name that means several things is never guessed at.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bgpd.model.doors import Ambiguous
from bgpd.model.prefix import Address, address_text, parse_address
from bgpd.model.resources import Snapshot
from bgpd.model.status import PeerStatus

CHOICES_SHOWN = 8


def addresses_of(name: str, snapshot: Snapshot | None, sessions: Sequence[PeerStatus]) -> list[Address]:
    """The addresses of the pods, the node, or else the peers of a name; none where nothing has it. ``Ambiguous`` where
    pods of several namespaces do."""
    found = _in_resources(name, snapshot)
    texts = () if found else (session.address for session in _by_name(name, sessions))
    return list(dict.fromkeys((*found, *(parse_address(text.partition("%")[0]) for text in texts))))


def peers_of(name: str, snapshot: Snapshot | None, sessions: Sequence[PeerStatus]) -> list[PeerStatus]:
    """The sessions of a name: the one that is called so or has that address, else all that the resource of that name
    is behind."""
    exact = [session for session in sessions if name in (session.id, session.address)]
    if exact:
        return exact
    texts = {address_text(address) for address in _in_resources(name, snapshot)}
    named = {session.id for session in _by_name(name, sessions)}
    return [session for session in sessions if session.id in named or session.address in texts]


def choices(names: Iterable[str]) -> str:
    """Some names, as many as one reads."""
    listed = sorted(set(names))
    more = f" and {len(listed) - CHOICES_SHOWN} more" if len(listed) > CHOICES_SHOWN else ""
    return ", ".join(listed[:CHOICES_SHOWN]) + more


def _by_name(name: str, sessions: Iterable[PeerStatus]) -> list[PeerStatus]:
    """``tor-1`` or ``BGPPeer tor-1``, or the session's own name."""
    return [s for s in sessions if name in (s.id, s.source, s.source.partition(" ")[2])]


def _in_resources(name: str, snapshot: Snapshot | None) -> list[Address]:
    if snapshot is None or not name:
        return []
    if node := snapshot.nodes.get(name.removeprefix("Node ")):
        return [address for address in (node.ipv4, node.ipv6) if address is not None]
    pods: dict[str, list[Address]] = {}
    for block in snapshot.blocks.values():
        for allocation in block.allocations:
            if allocation.owner == name or allocation.owner.partition("/")[2] == name:
                pods.setdefault(allocation.owner, []).append(allocation.address)
    if name in pods:
        return pods[name]
    if len(pods) > 1:
        raise Ambiguous(f"{name!r} may be any of {choices(pods)}")
    return next(iter(pods.values()), [])
