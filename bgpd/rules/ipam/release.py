"""Addresses come back: by handle, by name, with a node or a pool (ipam.md §2.8, §2.9).

The block is written first, the handle after it: a crash leaves a count too high. A release by handle then puts the
counts right, also those that an earlier crash left. It is guarded by the handle's revision from before its blocks were
read: an assignment for the same handle meanwhile makes that write conflict. A block without owner goes with its last
address.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from bgpd.model.ipam import Affinity, Block, Conflict, IPAMConfig
from bgpd.model.networks import IPAddress, IPNetwork
from bgpd.rules.ipam import blocks as block_rules
from bgpd.rules.ipam import pools as pool_rules
from bgpd.rules.ipam.claim import release_affinity
from bgpd.rules.ipam.steps import (
    TRIES,
    NotAllocated,
    Pause,
    Refused,
    Steps,
    contended,
    delete,
    get_config,
    get_handle,
    list_affinities,
    list_blocks,
    list_pools,
    update,
)
from bgpd.rules.ipam.writes import block_of, count, release_held, write_released


def release_handle(
    handle: str, node: str, now: int, *, interface: str | None = None, exact: bool = True
) -> Steps[tuple[IPAddress, ...]]:
    """Gives back all that a handle has, or has at one interface; nothing there is success.

    ``exact``: the caller knows that nobody assigns to this handle meanwhile (a runtime does not), so counts without
    addresses go too. A block of this node may name the handle though no handle is there (calico#3940): then the blocks
    of this node are searched.
    """
    config = yield from get_config()
    found: list[IPAddress] = []
    searched = False
    for tries in range(TRIES):
        known = yield from get_handle(handle)
        if known is None:
            if searched:
                return tuple(found)
            searched = True
            owner = f"host:{node}"
            for stored in (yield from list_blocks()):
                block = stored.value
                if block_rules.held(block, handle, interface) and (
                    block.owner == owner or _of_node(block, handle, node)
                ):
                    found += (yield from release_held(block.cidr, handle, interface, config, now))[0]
            continue
        searched = True
        left: dict[str, int] = {}
        for text, number in known.value.blocks.items():
            gone, remaining = yield from release_held(IPNetwork(text), handle, interface, config, now)
            found += gone
            kept = remaining if exact else max(0, number - len(gone))
            if kept:
                left[text] = kept
        if left == dict(known.value.blocks):
            return tuple(found)
        outcome: object
        if left:
            outcome = yield from update(known, replace(known.value, blocks=left))
        else:
            outcome = yield from delete(known)
        if not isinstance(outcome, Conflict):
            return tuple(found)
        yield Pause(tries)
    raise contended(f"handle {handle}")


def _of_node(block: Block, handle: str, node: str) -> bool:
    return any(
        block_rules.handle_of(attribute) == handle and attribute.secondary.get("node") == node
        for _, attribute in block_rules.users(block)
    )


@dataclass(frozen=True, slots=True)
class Address:
    """An address to release; with a handle or a sequence number only if it still is that one's, or that one."""

    address: IPAddress
    handle: str | None = None
    sequence: int | None = None


def release_address(wanted: Address, now: int) -> Steps[None]:
    """Gives one address back. Raises ``NotAllocated``, also where it belongs to another by now."""
    config = yield from get_config()
    pool = pool_rules.pool_of((yield from list_pools()), wanted.address)
    for tries in range(TRIES):
        known = yield from block_of(pool, wanted.address)
        if known is None:
            raise NotAllocated(f"IP address {wanted.address} is not assigned")
        block = block_rules.thawed(known.value, now, config.cooldown_seconds)
        ordinal = block_rules.ordinal_of(block, wanted.address)
        user = None if block.broken else block_rules.user(block, ordinal)
        if user is None:
            raise NotAllocated(f"IP address {wanted.address} is not assigned")
        handle = block_rules.handle_of(user)
        if wanted.handle is not None and handle != wanted.handle:
            raise NotAllocated(f"IP address {wanted.address} is in use by {handle}, not by {wanted.handle}")
        if wanted.sequence is not None and block.sequences.get(ordinal, 0) != wanted.sequence:
            raise NotAllocated(f"IP address {wanted.address} was assigned anew meanwhile")
        if (yield from write_released(known, block, [ordinal], config, now)):
            if handle:
                yield from count(handle, block.cidr, -1)
            return
        yield Pause(tries)
    raise contended(wanted.address)


def release_node(node: str, now: int, *, gone: bool = True) -> Steps[tuple[IPNetwork, ...]]:
    """Takes all blocks from a node that is no more: empty ones go, the others lose their owner."""
    owner = f"host:{node}"
    config = yield from get_config()
    rows = [row.value for row in (yield from list_affinities(owner))]
    owned = [stored.value.cidr for stored in (yield from list_blocks()) if stored.value.owner == owner]
    return (
        yield from _release_all(dict.fromkeys([*(r.cidr for r in rows), *owned]), owner, config, now, gone)
    )


def _release_all(
    cidrs: Iterable[IPNetwork], owner: str, config: IPAMConfig, now: int, gone: bool
) -> Steps[tuple[IPNetwork, ...]]:
    found = []
    for cidr in cidrs:
        try:
            yield from release_affinity(cidr, owner, now, config, must_be_empty=False, gone=gone)
            found.append(cidr)
        except Refused:
            pass  # another's by now
    return tuple(found)


def release_pool(cidr: IPNetwork, now: int) -> Steps[tuple[IPNetwork, ...]]:
    """Takes all blocks of a pool from their owners, before the pool goes (ipam.md §3)."""
    config = yield from get_config()
    found: list[IPNetwork] = []
    rows: list[Affinity] = [row.value for row in (yield from list_affinities())]
    for row in rows:
        if row.cidr in cidr:
            found += yield from _release_all((row.cidr,), row.owner, config, now, False)
    return tuple(found)
