"""Whose block it is, by IPAM: the BlockAffinities of a node, and what the IPAMBlocks say of them.

A block is a node's when its BlockAffinity is confirmed and no IPAMBlock of exactly its CIDR names another owner
(calico.md §3). ``originate`` announces by it, ``views.blocks`` and ``bgpctl why`` show it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from bgpd.model.prefix import Address, Family, Prefix, covers, host_prefix
from bgpd.model.resources import AffinityState, Allocation, BlockAffinity, IPAMBlock, Snapshot

STATE_RANK = {AffinityState.CONFIRMED: 0, AffinityState.PENDING_DELETION: 1, AffinityState.PENDING: 2}
"""The rank of a BlockAffinity among those of one CIDR: the one that says more comes first."""


class OwnBlock(NamedTuple):
    """A block that has a BlockAffinity of this node."""

    cidr: Prefix
    affinity: BlockAffinity
    owned: bool
    """Announced, so that nothing inside it is."""
    kept: bool
    """Kept as a blackhole, were it only until another node announces it."""
    reason: str
    """Why it is not owned."""


def own_blocks(
    snapshot: Snapshot, node: str, family: Family, by_cidr: Mapping[Prefix, IPAMBlock]
) -> dict[Prefix, OwnBlock]:
    """The blocks that have a BlockAffinity of a node, owned or not, in order. ``by_cidr`` is ``blocks_by_cidr``."""
    mine: dict[Prefix, BlockAffinity] = {}
    for affinity in snapshot.affinities.values():
        if affinity.node == node and affinity.family is family:
            other = mine.setdefault(affinity.cidr, affinity)
            if other is not affinity:
                mine[affinity.cidr] = min(affinity, other, key=lambda a: (STATE_RANK[a.state], a.name))
    return {cidr: _judge(mine[cidr], by_cidr.get(cidr), node) for cidr in sorted(mine)}


def blocks_by_cidr(snapshot: Snapshot, family: Family) -> dict[Prefix, IPAMBlock]:
    """IPAM's word on each block; of two objects for one CIDR the one whose name sorts first."""
    found: dict[Prefix, IPAMBlock] = {}
    for block in snapshot.blocks.values():
        if block.family is family:
            other = found.get(block.cidr)
            if other is None or block.name < other.name:
                found[block.cidr] = block
    return found


def holder(
    snapshot: Snapshot, family: Family, address: Address
) -> tuple[IPAMBlock | None, Allocation | None]:
    """Who has an address by IPAM, and in which block: the smallest around it that gives it to somebody, or else the
    smallest around it."""
    host = host_prefix(address)
    around = [block for cidr, block in blocks_by_cidr(snapshot, family).items() if covers(cidr, host)]
    around.sort(key=lambda block: block.cidr[0], reverse=True)
    for block in around:
        for allocation in block.allocations:
            if allocation.address == address:
                return block, allocation
    return (around[0] if around else None), None


def _judge(affinity: BlockAffinity, block: IPAMBlock | None, node: str) -> OwnBlock:
    """Whether the block of an affinity is ours."""
    if affinity.state is AffinityState.CONFIRMED and (block is None or block.affinity in (None, node)):
        return OwnBlock(affinity.cidr, affinity, True, True, "")
    source = f"BlockAffinity {affinity.name}"
    if affinity.state is AffinityState.PENDING:
        return OwnBlock(affinity.cidr, affinity, False, False, f"{source} is pending")
    if affinity.state is AffinityState.PENDING_DELETION:
        return OwnBlock(affinity.cidr, affinity, False, True, f"{source} is being released (pendingDeletion)")
    assert block is not None
    reason = f"IPAMBlock {block.name} says that {block.affinity} owns it"
    return OwnBlock(affinity.cidr, affinity, False, False, reason)
