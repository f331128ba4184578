"""Addresses are given out: by number, or one by name (ipam.md §2.2, §2.5, §2.6).

The handle is written before the block and counts what is about to be taken. So a crash leaves a count too high, never
an address that its handle does not know; a block that could not be written takes the count back. A request that cannot
be met as a whole gives back what it had got, and is refused by name.

An ADD that comes again, since its runtime did not hear the answer, gets what its handle and interface have already.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bgpd.model.ipam import Block, IPAMConfig, Pool, Stored, StoreFailed
from bgpd.model.networks import IPAddress, IPNetwork
from bgpd.rules.ipam import blocks as block_rules
from bgpd.rules.ipam import pools as pool_rules
from bgpd.rules.ipam.claim import Taken, claim, find_or_claim, own_block, release_affinity
from bgpd.rules.ipam.pools import Wanted
from bgpd.rules.ipam.steps import (
    TRIES,
    AddressTaken,
    BlockLimit,
    Exhausted,
    Invalid,
    NoNewBlocks,
    NoSuchNode,
    OutsideEveryPool,
    Pause,
    Refused,
    Steps,
    StrictAffinity,
    contended,
    get_block,
    get_config,
    get_handle,
    get_node,
    list_affinities,
    list_blocks,
    list_pools,
    list_reservations,
)
from bgpd.rules.ipam.writes import Assigned, block_of, count, give_back, write_taken

DEFAULT_BLOCKS = 20
"""Blocks a node may have where ``maxBlocksPerHost`` does not say."""


@dataclass(frozen=True, slots=True)
class Request:
    """Who asks for how many addresses of which version."""

    node: str
    handle: str
    ipv4: int = 0
    ipv6: int = 0
    ipv4_pools: tuple[str, ...] = ()
    ipv6_pools: tuple[str, ...] = ()
    secondary: Mapping[str, str] = field(default_factory=dict)
    """What is put on record beside the handle: ``pod``, ``namespace``, ``node``, ``timestamp``, ``interface``."""
    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    use: str = "Workload"
    max_blocks: int = 0
    """A limit of the caller's; the smaller of it and the configuration's holds."""

    @property
    def owner(self) -> str:
        return f"host:{self.node}"

    @property
    def interface(self) -> str | None:
        return self.secondary.get("interface")


def assign(request: Request, now: int) -> Steps[tuple[Assigned, ...]]:
    """As many addresses as asked for, of both versions, or a ``Refused`` and none."""
    found = yield from addresses_of(request.handle, request.interface)
    taken: list[Assigned] = []
    try:
        for version, number, names in (
            (4, request.ipv4, request.ipv4_pools),
            (6, request.ipv6, request.ipv6_pools),
        ):
            have = sum(one.address.version == version for one in found)
            if have < number:
                yield from _assign(request, version, number - have, names, now, taken)
    except (Refused, StoreFailed):
        yield from give_back(taken, request.handle, now)
        raise
    return tuple(sorted((*found, *taken), key=lambda one: (one.address.version, one.address)))


def addresses_of(handle: str, interface: str | None = None) -> Steps[tuple[Assigned, ...]]:
    """What a handle has, by what the handle says and its blocks confirm."""
    stored = yield from get_handle(handle)
    found: list[Assigned] = []
    for text in stored.value.blocks if stored is not None else ():
        block = yield from get_block(IPNetwork(text))
        if block is not None:
            found += (
                Assigned(block.value.address(ordinal), block.value.cidr)
                for ordinal in block_rules.held(block.value, handle, interface)
            )
    return tuple(found)


def _assign(
    request: Request, version: int, number: int, names: tuple[str, ...], now: int, taken: list[Assigned]
) -> Steps[None]:
    """Puts addresses of one version on ``taken``, also the few that were there if it then raises ``Refused``."""
    node = yield from get_node(request.node)
    if node is None:
        raise NoSuchNode(f"there is no Node {request.node!r}: pools cannot be chosen for it")
    config = yield from get_config()
    all_pools = yield from list_pools()
    wanted = Wanted(version, names, request.use, node.name, node.labels, request.namespace_labels)
    pools = pool_rules.eligible(all_pools, wanted)
    reserved = pool_rules.merged((yield from list_reservations()))
    rows = yield from list_affinities(request.owner)

    own = [row for row in rows if any(row.value.cidr in pool.cidr for pool in pools)]
    for row in rows:
        pool = pool_rules.pool_of(all_pools, row.value.cidr) if row not in own else None
        if pool is not None and not pool_rules.selects_node(pool, node.labels):
            try:
                yield from release_affinity(
                    row.value.cidr, row.value.owner, now, config, must_be_empty=True, gone=True
                )
            except Refused:
                pass  # in use, or somebody else is at it: not ours to wait for
    taker = _Taker(request, config, reserved, now, len(taken) + number, taken)
    owned = len(own)
    for row in own:
        if not taker.missing:
            break
        block = yield from own_block(row, now)
        if block is None:
            owned -= 1
        else:
            yield from taker.take(block)
    limit = min(
        (n for n in (request.max_blocks, config.max_blocks_per_host) if n > 0), default=DEFAULT_BLOCKS
    )
    while taker.missing:
        if owned >= limit:
            raise BlockLimit(
                f"node {request.node} has {owned} IPv{version} blocks and may have {limit} (maxBlocksPerHost), "
                f"all of them full: {taker.missing} of {number} addresses are missing"
            )
        if not config.auto_allocate_blocks:
            raise NoNewBlocks("no free address in the node's blocks, and autoAllocateBlocks is off")
        block = yield from find_or_claim(pools, request.owner, reserved, config, now)
        if block is None:
            break
        owned += 1
        yield from taker.take(block)
    if taker.missing and not config.strict_affinity:
        yield from _borrow(pools, taker)
    if taker.missing:
        which = ", ".join(f"{pool.name} ({pool.cidr})" for pool in pools)
        lent = (
            "and strictAffinity lets none be borrowed"
            if config.strict_affinity
            else "and none can be borrowed"
        )
        raise Exhausted(
            f"{number - taker.missing} of {number} IPv{version} addresses: no block is left in {which}, {lent}"
        )


def _borrow(pools: Iterable[Pool], taker: _Taker) -> Steps[None]:
    """Addresses from blocks of others: those stay theirs. The blocks are listed once."""
    listed = {stored.value.cidr: stored for stored in (yield from list_blocks())}
    for pool in pools:
        start = pool_rules.start_of(pool, taker.request.owner, taker.now)
        for block in pool_rules.walk(pool, (stored.value for stored in listed.values()), start):
            if taker.missing and not (block.owner or "").startswith("virtual:"):
                yield from taker.take(listed[block.cidr])


@dataclass(slots=True)
class _Taker:
    """Takes addresses from blocks for one request, until ``wanted`` are ``taken``."""

    request: Request
    config: IPAMConfig
    reserved: tuple[IPNetwork, ...]
    now: int
    wanted: int
    taken: list[Assigned]

    @property
    def missing(self) -> int:
        return self.wanted - len(self.taken)

    def take(self, known: Stored[Block]) -> Steps[None]:
        """As many addresses of a block as are missing and free there; none where it went to another meanwhile and
        ``strictAffinity`` is on."""
        handle = self.request.handle
        for tries in range(TRIES):
            block = block_rules.thawed(known.value, self.now, self.config.cooldown_seconds)
            if self.config.strict_affinity and block.owner != self.request.owner:
                return
            reserved = pool_rules.reserved_in(block.cidr, self.reserved)
            ordinals = block_rules.free(block, reserved)[: self.missing]
            if not ordinals:
                return
            after = block_rules.taken(block, ordinals, handle, self.request.secondary)
            written = yield from write_taken(known, after, handle, ordinals)
            if isinstance(written, Stored):
                self.taken += (Assigned(block.address(ordinal), block.cidr) for ordinal in ordinals)
                return
            yield Pause(tries)
            fresh = yield from get_block(block.cidr)
            if fresh is None:
                return
            known = fresh
        raise contended(known.value.cidr)


def assign_address(request: Request, address: IPAddress, now: int) -> Steps[Assigned]:
    """The address that was asked for by name. Selectors, ``assignmentMode`` and reservations do not stand in its way.

    It may be in use by this handle already, or by an older sandbox of the same pod on this node: then it is handed
    over. Raises ``Refused``.
    """
    config = yield from get_config()
    pools = [pool for pool in (yield from list_pools()) if pool_rules.usable(pool, address.version)]
    pool = pool_rules.pool_of(pools, address)
    if pool is None:
        raise OutsideEveryPool(f"{address} is in no enabled pool")
    if request.use not in pool.allowed_uses:
        raise Invalid(f"{address}: pool {pool.name} is not for {request.use}: see its allowedUses")
    if (yield from get_node(request.node)) is None:
        raise NoSuchNode(f"there is no Node {request.node!r}")
    for tries in range(TRIES):
        known = yield from block_of(pool, address)
        if known is None:
            try:
                known = yield from claim(pool_rules.block_around(pool, address), request.owner, now)
            except Taken:
                yield Pause(tries)
                continue
        block = block_rules.thawed(known.value, now, config.cooldown_seconds)
        ordinal = block_rules.ordinal_of(block, address)
        if block.broken:
            raise AddressTaken(f"{address}: its block {block.cidr} cannot be used: {block.broken}")
        before = block_rules.user(block, ordinal)
        if (
            before is not None
            and before.handle == request.handle
            and before.secondary.get("interface", request.interface) == request.interface
        ):
            return Assigned(address, block.cidr)
        if block.allocations[ordinal] is not None and (
            before is None or not _same_pod(before.secondary, request)
        ):
            raise AddressTaken(
                f"{address} is in use by {before.handle}"
                if before
                else f"{address} was released just now and cools"
            )
        if block.owner != request.owner and config.strict_affinity:
            raise StrictAffinity(
                f"{address} is in a block of {block.owner or 'nobody'}, and strictAffinity is on"
            )
        if before is None:
            wanted = block_rules.taken(block, (ordinal,), request.handle, request.secondary)
        else:
            wanted = block_rules.given_to(block, ordinal, request.handle, request.secondary)
        written = yield from write_taken(known, wanted, request.handle, (ordinal,))
        if isinstance(written, Stored):
            if before is not None and before.handle:
                yield from count(before.handle, block.cidr, -1)
            return Assigned(address, block.cidr)
        yield Pause(tries)
    raise contended(address)


def _same_pod(secondary: Mapping[str, str], request: Request) -> bool:
    """Whether an older sandbox of the same pod has it: one node runs one pod of a name at a time."""
    keys = ("node", "namespace", "pod")
    return all(secondary.get(key) and secondary.get(key) == request.secondary.get(key) for key in keys) and (
        "vmi-name" not in secondary
    )
