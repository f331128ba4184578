"""Blocks come to a node and go from it: claim, repair, reclaim, release of an affinity (ipam.md §2.3, §2.4, §2.10).

Who owns a block is stated by the block. The affinity is written before it (``pending``: I am about to) and after it
(``confirmed``), each time guarded by its revision. So who gives a block up (``pendingDeletion`` first) and who takes it
see each other: the last write of one of them conflicts. What a process that died left half done is finished by the
node's next call: a pending affinity without a block, with its block, or with somebody else's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from bgpd.model.ipam import SECOND, Affinity, Block, Conflict, IPAMConfig, Pool, State, Stored
from bgpd.model.networks import IPNetwork
from bgpd.rules.ipam import blocks as block_rules
from bgpd.rules.ipam import pools as pool_rules
from bgpd.rules.ipam.steps import (
    TRIES,
    NotEmpty,
    NotOwned,
    Pause,
    Refused,
    Steps,
    contended,
    create,
    delete,
    get_affinity,
    get_block,
    list_blocks,
    update,
)

RECLAIM_AGE = 60 * SECOND
"""An empty block is left to its owner for so long."""


class Taken(Exception):
    """The block is another's, or what we held of it went away meanwhile. Inside this package only."""


def claim(cidr: IPNetwork, owner: str, now: int) -> Steps[Stored[Block]]:
    """Makes a block the owner's, whatever is there of it already. Raises ``Taken`` where it is another's."""
    for tries in range(TRIES):
        row = yield from _pending(cidr, owner)
        if row is None:
            yield Pause(tries)
            continue
        block = yield from get_block(cidr)
        if block is None:
            made = yield from create(block_rules.new_block(cidr, owner, now))
            block = made if isinstance(made, Stored) else (yield from get_block(cidr))
        elif block.value.owner == owner:
            # Whoever is about to give it up read it before: now that write conflicts.
            again = yield from update(block, block_rules.bumped(block.value))
            block = again if isinstance(again, Stored) else None
        if block is None:
            yield Pause(tries)
            continue
        if block.value.owner != owner:
            yield from delete(row)  # a stale wish; if that conflicts the next call finds it
            raise Taken
        confirmed = yield from update(row, replace(row.value, state=State.CONFIRMED))
        if isinstance(confirmed, Conflict):
            row = yield from get_affinity(owner, cidr)
            if row is None or row.value.state is not State.CONFIRMED:
                yield Pause(tries)
                continue
        return block
    raise contended(cidr)


def _pending(cidr: IPNetwork, owner: str) -> Steps[Stored[Affinity] | None]:
    """The affinity as pending, written by us just now; ``None`` when somebody else wrote it."""
    made = yield from create(Affinity(owner, cidr, State.PENDING))
    if isinstance(made, Stored):
        return made
    row = yield from get_affinity(owner, cidr)
    if row is None:
        return None
    made = yield from update(row, replace(row.value, state=State.PENDING))
    return made if isinstance(made, Stored) else None


def own_block(row: Stored[Affinity], now: int) -> Steps[Stored[Block] | None]:
    """The block of an affinity of ours, repaired where that is needed; ``None`` where it is not ours (the affinity,
    stale, goes)."""
    cidr, owner = row.value.cidr, row.value.owner
    block = yield from get_block(cidr)
    if block is not None and block.value.owner == owner and row.value.state is State.CONFIRMED:
        return block
    if block is not None and block.value.owner != owner:
        yield from delete(row)
        return None
    try:
        return (yield from claim(cidr, owner, now))
    except Taken:
        return None


def find_or_claim(
    pools: Iterable[Pool], owner: str, reserved: tuple[IPNetwork, ...], config: IPAMConfig, now: int
) -> Steps[Stored[Block] | None]:
    """A block of ours with a free address, from the first pool that has one for us: one that another process of this
    node has just claimed, one that nobody has, or one that its owner left empty. ``None`` when there is none."""
    for tries in range(TRIES):
        listed = yield from list_blocks()
        candidate = _candidate(pools, owner, reserved, listed, config, now)
        if candidate is None:
            candidate = yield from _reclaim(pools, owner, reserved, listed, config, now)
        if candidate is None:
            return None
        try:
            block = yield from claim(candidate, owner, now)
        except Taken:
            yield Pause(tries)
            continue
        if _free(block.value, reserved, config, now):
            return block
        yield Pause(tries)  # others of this node took all of it meanwhile
    raise contended("blocks")


def _free(block: Block, reserved: Iterable[IPNetwork], config: IPAMConfig, now: int) -> list[int]:
    thawed = block_rules.thawed(block, now, config.cooldown_seconds)
    return block_rules.free(thawed, pool_rules.reserved_in(block.cidr, reserved))


def _candidate(
    pools: Iterable[Pool],
    owner: str,
    reserved: tuple[IPNetwork, ...],
    listed: Collection[Stored[Block]],
    config: IPAMConfig,
    now: int,
) -> IPNetwork | None:
    networks = [block.value.cidr for block in listed]
    for pool in pools:
        start = pool_rules.start_of(pool, owner, now)
        for block in pool_rules.walk(pool, (stored.value for stored in listed), start):
            if block.owner == owner and _free(block, reserved, config, now):
                return block.cidr
        if pool.cidr.prefixlen <= pool.block_size:
            found = pool_rules.first_free(pool, networks, reserved, start)
            if found is not None:
                return found
    return None


def _reclaim(
    pools: Iterable[Pool],
    owner: str,
    reserved: tuple[IPNetwork, ...],
    listed: Collection[Stored[Block]],
    config: IPAMConfig,
    now: int,
) -> Steps[IPNetwork | None]:
    """An empty block that another node has had for a while, released; by its sequence number only one gets it."""
    for pool in pools:
        start = pool_rules.start_of(pool, owner, now)
        for block in pool_rules.walk(pool, (stored.value for stored in listed), start):
            if (
                block.owner in (None, owner)
                or not block.owner.startswith("host:")
                or block.cidr.prefixlen != pool.block_size
                or not block_rules.is_empty(block_rules.thawed(block, now, config.cooldown_seconds))
                or (block.claimed is not None and block.claimed > now - RECLAIM_AGE)
                or not _free(block, reserved, config, now)
            ):
                continue
            try:
                yield from release_affinity(
                    block.cidr, block.owner, now, config, must_be_empty=True, sequence=block.sequence
                )
            except Refused:
                continue
            return block.cidr
    return None


def release_affinity(
    cidr: IPNetwork,
    owner: str,
    now: int,
    config: IPAMConfig,
    *,
    must_be_empty: bool,
    sequence: int | None = None,
    gone: bool = False,
) -> Steps[None]:
    """Takes a block from its owner: deletes it if it is empty, else leaves it to those who have addresses there.

    ``sequence``: only if the block was not written since. ``gone``: the owner is no more, so that a wish of its is
    deleted too. Raises ``NotOwned``, ``NotEmpty``, ``Contended``.
    """
    for tries in range(TRIES):
        if tries:
            yield Pause(tries)
        row = yield from get_affinity(owner, cidr)
        block = yield from get_block(cidr)
        if row is None and (block is None or block.value.owner != owner):
            raise NotOwned(f"{cidr} is no block of {owner}")
        if block is not None and block.value.owner == owner:
            if sequence is not None and block.value.sequence != sequence:
                raise NotOwned(f"{cidr} was written meanwhile")
            empty = block_rules.is_empty(block_rules.thawed(block.value, now, config.cooldown_seconds))
            if must_be_empty and not empty:
                raise NotEmpty(f"{cidr} has addresses in use, or in their cooldown")
            if row is not None:
                marked = yield from update(row, replace(row.value, state=State.PENDING_DELETION))
                if isinstance(marked, Conflict):
                    continue
                row = marked
            if empty:
                if (yield from delete(block)) is not None:
                    continue
            else:
                given_up = replace(block_rules.bumped(block.value), owner=None, claimed=None)
                if isinstance((yield from update(block, given_up)), Conflict):
                    continue
        elif row is not None and block is None and row.value.state is State.PENDING and not gone:
            # Its owner may be between writing the wish and making the block: that block must not lose its row.
            raise NotOwned(f"{cidr} is about to be a block of {owner}")
        if row is None or (yield from delete(row)) is None:
            return
    raise contended(cidr)
