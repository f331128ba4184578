"""Writes that ``assign`` and ``release`` share: a block and the handle beside it, in the order that a crash may cut.

The handle counts an address before its block has it and until after the block has lost it (ipam.md §2.5, §2.8).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import NamedTuple

from bgpd.model.ipam import Block, Conflict, Handle, IPAMConfig, Pool, Stored, StoreFailed
from bgpd.model.networks import IPAddress, IPNetwork
from bgpd.rules.ipam import blocks as block_rules
from bgpd.rules.ipam import pools as pool_rules
from bgpd.rules.ipam.steps import (
    TRIES,
    Pause,
    Steps,
    contended,
    create,
    delete,
    get_block,
    get_config,
    get_handle,
    list_blocks,
    update,
)


class Assigned(NamedTuple):
    """An address with the block that it came from."""

    address: IPAddress
    block: IPNetwork


def write_taken(
    known: Stored[Block], after: Block, handle: str, ordinals: Collection[int]
) -> Steps[Stored[Block] | Conflict]:
    """Writes a block that gives addresses to a handle: the handle first, and back if the block could not be.

    A store that failed may have written the block all the same: it is read again before the handle is taken back, and
    where it cannot be read the handle stays too high (libcalico-go#1329).
    """
    yield from count(handle, after.cidr, len(ordinals))
    try:
        written = yield from update(known, after)
    except StoreFailed:
        fresh = yield from get_block(after.cidr)
        if fresh is not None and set(ordinals) <= set(block_rules.held(fresh.value, handle)):
            return fresh
        yield from count(handle, after.cidr, -len(ordinals))
        raise
    if isinstance(written, Conflict):
        yield from count(handle, after.cidr, -len(ordinals))
    return written


def count(handle: str, cidr: IPNetwork, change: int) -> Steps[None]:
    """Adds to what a handle has in a block. What falls to nothing goes, the last with its handle."""
    text = str(cidr)
    for tries in range(TRIES):
        known = yield from get_handle(handle)
        before = dict(known.value.blocks) if known is not None else {}
        after = {**before, text: max(0, before.get(text, 0) + change)}
        if not after[text]:
            del after[text]
        if after == before:
            return
        outcome: object
        if known is None:
            outcome = yield from create(Handle(handle, after))
        elif after:
            outcome = yield from update(known, replace(known.value, blocks=after))
        else:
            outcome = yield from delete(known)
        if not isinstance(outcome, Conflict):
            return
        yield Pause(tries)
    raise contended(f"handle {handle}")


def block_of(pool: Pool | None, address: IPAddress) -> Steps[Stored[Block] | None]:
    """The block that has an address: where its pool says, or one of another size that is there."""
    if pool is not None:
        found = yield from get_block(pool_rules.block_around(pool, address))
        if found is not None:
            return found
    for stored in (yield from list_blocks()):
        if address in stored.value.cidr:
            return stored
    return None


def release_held(
    cidr: IPNetwork,
    handle: str,
    interface: str | None,
    config: IPAMConfig,
    now: int,
    only: Collection[IPAddress] | None = None,
) -> Steps[tuple[list[IPAddress], int]]:
    """Gives back what a handle has in one block: which addresses, and how many the handle keeps there."""
    for tries in range(TRIES):
        known = yield from get_block(cidr)
        if known is None:
            return [], 0
        block = block_rules.thawed(known.value, now, config.cooldown_seconds)
        ordinals = block_rules.held(block, handle, interface)
        if only is not None:
            ordinals = [ordinal for ordinal in ordinals if block.address(ordinal) in only]
        remaining = len(block_rules.held(block, handle)) - len(ordinals)
        if not ordinals:
            return [], remaining
        if (yield from write_released(known, block, ordinals, config, now)):
            return [block.address(ordinal) for ordinal in ordinals], remaining
        yield Pause(tries)
    raise contended(cidr)


def write_released(
    known: Stored[Block], block: Block, ordinals: list[int], config: IPAMConfig, now: int
) -> Steps[bool]:
    """Writes a block with addresses given back; whether it could be. Nobody's block goes when it is empty."""
    after = block_rules.released(block, ordinals, now, config.cooldown_seconds)
    if after.owner is None and block_rules.is_empty(after):
        return (yield from delete(known)) is None
    return isinstance((yield from update(known, after)), Stored)


def give_back(taken: Iterable[Assigned], handle: str, now: int) -> Steps[None]:
    """Undoes what one request has got so far: these addresses of a handle, and no others of it."""
    config = yield from get_config()
    by_block: dict[IPNetwork, list[IPAddress]] = {}
    for one in taken:
        by_block.setdefault(one.block, []).append(one.address)
    for cidr, addresses in by_block.items():
        yield from release_held(cidr, handle, None, config, now, only=addresses)
        yield from count(handle, cidr, -len(addresses))
