"""The blocks of this node as the operator sees them: its own, and those of others that it has addresses of."""

from __future__ import annotations

from collections.abc import Mapping

from bgpd.model.prefix import (
    Address,
    Family,
    Prefix,
    address_text,
    covers,
    host_prefix,
    make_prefix,
    network_address,
    prefix_text,
)
from bgpd.model.resources import IPAMBlock, IPPool, Snapshot
from bgpd.model.route import Origination, OriginKind
from bgpd.model.status import BlockMap, BlockView, UsedAddress
from bgpd.rules.blocks import STATE_RANK, OwnBlock, blocks_by_cidr, own_blocks


def blocks(snapshot: Snapshot, originations: Mapping[Family, Origination], node: str) -> list[BlockView]:
    """The blocks that this node owns (or is about to, or was), and those that it borrowed an address of."""
    views: list[BlockView] = []
    for family in Family:
        origination = originations.get(family, Origination())
        pools = sorted(
            (p for p in snapshot.pools.values() if p.family is family), key=lambda p: (p.cidr, p.name)
        )
        by_cidr = blocks_by_cidr(snapshot, family)
        own = own_blocks(snapshot, node, family, by_cidr)
        views += [_own_view(family, own[cidr], by_cidr.get(cidr), origination, pools) for cidr in sorted(own)]
        views += _borrowed_views(snapshot, family, node, own, by_cidr, origination, pools)
    return views


def block_maps(snapshot: Snapshot, node: str) -> list[BlockMap]:
    """The blocks that this node owns or has addresses of, address by address."""
    maps = []
    for family in Family:
        by_cidr = blocks_by_cidr(snapshot, family)
        own = own_blocks(snapshot, node, family, by_cidr)
        borrowed = {cidr for cidr, block in by_cidr.items() if node in block.borrowers}
        for cidr in sorted(own.keys() | borrowed):
            block = by_cidr.get(cidr)
            first = int.from_bytes(network_address(family, cidr), "big")
            ours = cidr in own
            used = tuple(
                UsedAddress(
                    offset=int.from_bytes(each.address, "big") - first,
                    address=address_text(each.address),
                    node=each.node,
                    owner=each.owner,
                    state=("own" if ours else "borrowed")
                    if each.node == node
                    else "lent"
                    if ours
                    else "other",
                )
                for each in (block.allocations if block else ())
            )
            maps.append(
                BlockMap(
                    cidr=prefix_text(family, cidr),
                    family=family.label,
                    owner=node if ours else (block.affinity if block else None) or "",
                    own=ours,
                    size=1 << (family.bits - cidr[0]),
                    used=used,
                )
            )
    return maps


def _own_view(
    family: Family, block: OwnBlock, ipam: IPAMBlock | None, origination: Origination, pools: list[IPPool]
) -> BlockView:
    allocations = ipam.allocations if ipam else ()
    lent = [a for a in allocations if a.node != block.affinity.node]
    return BlockView(
        cidr=prefix_text(family, block.cidr),
        family=family.label,
        pool=_pool_name(block.cidr, pools),
        affinity=(ipam.affinity or "") if ipam else block.affinity.node,
        state=block.affinity.state.value,
        used=len(allocations),
        borrowed=tuple(_line(a.address, f"by {a.node}", a.owner) for a in lent),
        advertised=block.cidr in origination.announce,
        blackhole=block.cidr in origination.blackholes,
        reason=origination.hidden.get(block.cidr, ""),
    )


def _borrowed_views(
    snapshot: Snapshot,
    family: Family,
    node: str,
    own: Mapping[Prefix, OwnBlock],
    by_cidr: Mapping[Prefix, IPAMBlock],
    origination: Origination,
    pools: list[IPPool],
) -> list[BlockView]:
    """Blocks of others, of which this node has addresses by IPAM or by announcing them."""
    affinities = sorted(
        snapshot.affinities.values(), key=lambda a: (STATE_RANK[a.state], a.name), reverse=True
    )
    owners = {a.cidr: a.node for a in affinities if a.family is family}
    users: dict[Prefix, dict[Prefix, str]] = {}
    for cidr, block in by_cidr.items():
        if node in block.borrowers:
            users[cidr] = {host_prefix(a.address): a.owner for a in block.allocations if a.node == node}
    for prefix, originated in origination.announce.items():
        if originated.kind is OriginKind.BORROWED and not any(prefix in known for known in users.values()):
            pool = next((pool for pool in pools if covers(pool.cidr, prefix)), None)
            cidr = make_prefix(prefix[1:], pool.block_size) if pool else prefix
            users.setdefault(cidr, {})[prefix] = originated.source
    views: list[BlockView] = []
    for cidr in sorted(users.keys() - own.keys()):
        ipam = by_cidr.get(cidr)
        owner = (ipam.affinity if ipam else owners.get(cidr)) or ""
        lines = [
            _line(Address(p[1:]), f"from {owner or 'nobody'}", words)
            for p, words in sorted(users[cidr].items())
        ]
        missing = [origination.hidden[p] for p in sorted(users[cidr]) if p in origination.hidden]
        views.append(
            BlockView(
                cidr=prefix_text(family, cidr),
                family=family.label,
                pool=_pool_name(cidr, pools),
                affinity=owner,
                state="",
                used=len(ipam.allocations) if ipam else 0,
                borrowed=tuple(lines),
                advertised=all(p in origination.announce for p in users[cidr]),
                blackhole=False,
                reason=missing[0] if missing else "",
            )
        )
    return views


def _pool_name(cidr: Prefix, pools: list[IPPool]) -> str:
    return next((pool.name for pool in pools if covers(pool.cidr, cidr)), "")


def _line(address: Address, relation: str, owner: str) -> str:
    return f"{address_text(address)} {relation}" + (f" ({owner})" if owner else "")
