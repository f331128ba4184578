"""Which pools a request may use, and the walk over a pool's blocks (ipam.md §2.1, §2.7, §2.12).

The arithmetic of networks is netaddr's. A pool may hold 2^74 blocks, so a walk never counts them: what is in the way is
kept as ranges of block numbers, and the next free number is found among those. netaddr's sets would hold each network
in the way, and join them anew for each claim: milliseconds for a thousand blocks.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from bgpd.model.ipam import Block, Pool, Reservation
from bgpd.model.networks import AddrFormatError, IPAddress, IPNetwork, cidr_merge
from bgpd.rules import selector
from bgpd.rules.ipam.steps import NoPool, NoSuchPool


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which pools a request asks for, in one IP version."""

    version: int
    pools: tuple[str, ...] = ()
    """Names or CIDRs, in the order of preference; none asks for whatever is there."""
    use: str = "Workload"
    node: str = ""
    node_labels: Mapping[str, str] = field(default_factory=dict)
    namespace_labels: Mapping[str, str] = field(default_factory=dict)


def _selects(text: str, labels: Mapping[str, str]) -> bool:
    """A selector that cannot be read selects nothing: no address is given out by guess."""
    try:
        return selector.parse(text).matches(labels)
    except ValueError:
        return False


def usable(pool: Pool, version: int) -> bool:
    """Whether new addresses may come from a pool at all."""
    return bool(pool.cidr.version == version and not pool.disabled and pool.allocatable)


def selects_node(pool: Pool, labels: Mapping[str, str]) -> bool:
    return _selects(pool.node_selector, labels)


def eligible(pools: Iterable[Pool], wanted: Wanted) -> tuple[Pool, ...]:
    """The pools that a request may use, in order. Raises ``NoSuchPool`` and ``NoPool``.

    Pools that are asked for win over selectors and ``assignmentMode``; ``allowedUses`` holds for them too.
    """
    known = [pool for pool in sorted(pools, key=lambda pool: pool.name) if usable(pool, wanted.version)]
    if wanted.pools:
        chosen = list(dict.fromkeys(_named(known, text, wanted.version) for text in wanted.pools))
    else:
        chosen = [
            pool
            for pool in known
            if pool.automatic
            and selects_node(pool, wanted.node_labels)
            and _selects(pool.namespace_selector, wanted.namespace_labels)
        ]
        if not chosen:
            raise NoPool(
                f"no IPv{wanted.version} pool is for node {wanted.node!r}: "
                f"{len(known)} enabled, none of them automatic with selectors that match"
            )
    allowed = tuple(pool for pool in chosen if wanted.use in pool.allowed_uses)
    if not allowed:
        names = ", ".join(pool.name for pool in chosen)
        raise NoPool(f"no IPv{wanted.version} pool for {wanted.use} among {names}: see their allowedUses")
    return allowed


def _named(known: list[Pool], text: str, version: int) -> Pool:
    found = next((pool for pool in known if pool.name == text), None)
    if found is None:
        try:
            cidr = IPNetwork(text)
        except (AddrFormatError, ValueError):
            cidr = None
        found = next((pool for pool in known if pool.cidr == cidr), None)
    if found is None:
        raise NoSuchPool(f"the given pool ({text}) does not exist, is not enabled or is not of IPv{version}")
    return found


def pool_of(pools: Iterable[Pool], address: IPAddress | IPNetwork) -> Pool | None:
    """The pool that an address or a block lies in: the smallest, where pools overlap."""
    inside = [pool for pool in pools if address in pool.cidr]
    return max(inside, key=lambda pool: pool.cidr.prefixlen, default=None)


def shared(one: IPNetwork, other: IPNetwork) -> IPNetwork | None:
    """What two networks have in common: the smaller one, since networks lie in each other or apart."""
    if one in other:
        return one
    return other if other in one else None


# -- reservations ------------------------------------------------------------------------------------------------------


def merged(reservations: Iterable[Reservation]) -> tuple[IPNetwork, ...]:
    """All that is reserved, as the fewest networks: a block is covered as a whole if one of them covers it."""
    return tuple(cidr_merge([cidr for reservation in reservations for cidr in reservation.cidrs]))


def reserved_in(block: IPNetwork, reserved: Iterable[IPNetwork]) -> frozenset[int]:
    """The ordinals of a block that are reserved."""
    found: set[int] = set()
    for network in reserved:
        if (part := shared(network, block)) is not None:
            found.update(range(part.first - block.first, part.last - block.first + 1))
    return frozenset(found)


# -- the walk ----------------------------------------------------------------------------------------------------------


def start_of(pool: Pool, owner: str, now: int) -> int:
    """The block number at which an owner begins: its own, so that nodes do not meet; the same for all processes of a
    node, so that they do. Pools of single addresses have one that changes, since each block is one allocation."""
    single = _first_block(pool).size == 1
    seed = f"{owner} {now}" if single else owner
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()) % pool.blocks


def _first_block(pool: Pool) -> IPNetwork:
    return IPNetwork((pool.cidr.first, pool.block_size), version=pool.cidr.version)


def numbers(pool: Pool, network: IPNetwork) -> tuple[int, int] | None:
    """The first and last block number of a pool that a network touches; ``None`` outside it."""
    part = shared(network, pool.cidr)
    if part is None:
        return None
    first, size = pool.cidr.first, _first_block(pool).size
    return (part.first - first) // size, (part.last - first) // size


def block_at(pool: Pool, number: int) -> IPNetwork:
    return _first_block(pool).next(number)


def block_around(pool: Pool, address: IPAddress) -> IPNetwork:
    return block_at(pool, numbers(pool, IPNetwork(address))[0])  # type: ignore[index]


def first_free(
    pool: Pool, blocks: Iterable[IPNetwork], reserved: Iterable[IPNetwork], start: int
) -> IPNetwork | None:
    """The first block from ``start`` on, once around, that no listed block touches and that is not reserved as a whole.

    A block of another size is in the way too: pools are made anew with another block size while old blocks live
    (libcalico-go#1377).
    """
    covering = [network for network in reserved if network.prefixlen <= pool.block_size]
    ranges = sorted(filter(None, (numbers(pool, network) for network in (*blocks, *covering))))
    lows: list[int] = []
    highs: list[int] = []
    for low, high in ranges:
        if highs and low <= highs[-1] + 1:
            highs[-1] = max(highs[-1], high)
        else:
            lows.append(low)
            highs.append(high)
    for begin, end in ((start, pool.blocks), (0, start)):
        at = bisect_right(lows, begin) - 1
        number = highs[at] + 1 if at >= 0 and highs[at] >= begin else begin
        if number < end:
            return block_at(pool, number)
    return None


def walk(pool: Pool, blocks: Iterable[Block], start: int) -> Iterator[Block]:
    """The pool's own among some blocks, in the order of the walk."""
    found = [
        (place[0], block)
        for block in blocks
        if block.cidr in pool.cidr and (place := numbers(pool, block.cidr)) is not None
    ]
    found.sort(key=lambda item: ((item[0] - start) % pool.blocks, item[1].cidr.first))
    yield from (block for _, block in found)
