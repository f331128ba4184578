"""What becomes of one block: addresses taken, given back, cooled down. Called by ``claim``, ``assign``, ``release``.

Every change returns a new block whose sequence number is one higher, as each write of Calico's is (ipam.md §1.3);
``thawed`` alone does not, since it is part of reading (§1.7). An ordinal counts as free only if both lists say so:
a block that contradicts itself never gives an address out twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace

from bgpd.model.ipam import SECOND, Attribute, Block
from bgpd.model.networks import IPAddress, IPNetwork

WINDOWS_RESERVED = "windows-reserved-ipam-handle"
"""The handle of addresses that Windows nodes keep for themselves; a block with no others is empty."""


def new_block(cidr: IPNetwork, owner: str | None, now: int) -> Block:
    size = cidr.size
    return Block(
        cidr=cidr,
        owner=owner,
        claimed=now if owner else None,
        allocations=(None,) * size,
        unallocated=tuple(range(size)),
        attributes=(),
        sequence=now,
    )


def handle_of(attribute: Attribute) -> str | None:
    """Its handle as one compares it: old migrations left a carriage return and more behind some."""
    return None if attribute.handle is None else attribute.handle.partition("\r")[0]


def free(block: Block, reserved: Collection[int] = ()) -> list[int]:
    """The ordinals that may be given out, in the order in which they are."""
    if block.broken:
        return []
    found = dict.fromkeys(
        o for o in block.unallocated if 0 <= o < len(block.allocations) and block.allocations[o] is None
    )
    return [ordinal for ordinal in found if ordinal not in reserved]


def is_empty(block: Block) -> bool:
    """Whether nobody uses an address of it; one in its cooldown is in use."""
    return not block.broken and all(
        index is None or (handle_of(block.attributes[index]) or "").lower() == WINDOWS_RESERVED
        for index in block.allocations
    )


def users(block: Block) -> Iterator[tuple[int, Attribute]]:
    """Ordinals in use with their attributes, those in cooldown left out."""
    if not block.broken:
        for ordinal, index in enumerate(block.allocations):
            if index is not None and block.attributes[index].released_at is None:
                yield ordinal, block.attributes[index]


def user(block: Block, ordinal: int) -> Attribute | None:
    """Who has an address; ``None`` also while it cools down."""
    index = block.allocations[ordinal]
    found = None if index is None else block.attributes[index]
    return None if found is None or found.released_at is not None else found


def held(block: Block, handle: str, interface: str | None = None) -> list[int]:
    """The ordinals of a handle; with an interface, those of it and those that name none."""
    return [
        ordinal
        for ordinal, attribute in users(block)
        if handle_of(attribute) == handle
        and (interface is None or attribute.secondary.get("interface", interface) == interface)
    ]


def ordinal_of(block: Block, address: IPAddress) -> int:
    return int(address) - int(block.cidr.first)


def bumped(block: Block) -> Block:
    """Nothing changed but the sequence number: whoever read it before cannot write it any more."""
    return replace(block, sequence=block.sequence + 1)


def taken(block: Block, ordinals: Iterable[int], handle: str, secondary: Mapping[str, str]) -> Block:
    """The block with these free ordinals given to a handle."""
    wanted = tuple(ordinals)
    attribute = Attribute(handle, dict(secondary))
    attributes = block.attributes
    if attribute not in attributes:
        attributes = (*attributes, attribute)
    index = attributes.index(attribute)
    allocations = list(block.allocations)
    for ordinal in wanted:
        assert allocations[ordinal] is None, f"{block.cidr}: ordinal {ordinal} is taken"
        allocations[ordinal] = index
    return replace(
        block,
        allocations=tuple(allocations),
        unallocated=tuple(o for o in block.unallocated if o not in wanted),
        attributes=attributes,
        sequence=block.sequence + 1,
        sequences={**block.sequences, **dict.fromkeys(wanted, block.sequence)},
    )


def given_to(block: Block, ordinal: int, handle: str, secondary: Mapping[str, str]) -> Block:
    """The block with an address in use given to another handle."""
    allocations = list(block.allocations)
    allocations[ordinal] = None
    return taken(_tidy(replace(block, allocations=tuple(allocations))), (ordinal,), handle, secondary)


def released(block: Block, ordinals: Iterable[int], now: int, cooldown: int) -> Block:
    """The block with these ordinals given back: free at once without a cooldown (in seconds), else later."""
    marker = Attribute(None, {}, released_at=now)
    attributes = (*block.attributes, marker)
    allocations = list(block.allocations)
    for ordinal in ordinals:
        allocations[ordinal] = len(attributes) - 1
    marked = replace(
        block, allocations=tuple(allocations), attributes=attributes, sequence=block.sequence + 1
    )
    return _tidy(marked) if cooldown else _deallocated(marked, frozenset(ordinals))


def thawed(block: Block, now: int, cooldown: int) -> Block:
    """The block as it reads now: what has cooled down is free. A clock that jumped back delays nothing for ever: a
    release in the future counts as one of now."""
    if block.broken or all(attribute.released_at is None for attribute in block.attributes):
        return block
    cold = frozenset(
        ordinal
        for ordinal, index in enumerate(block.allocations)
        if index is not None
        and (at := block.attributes[index].released_at) is not None
        and (not cooldown or at < now - cooldown * SECOND)
    )
    return _deallocated(block, cold) if cold else block


def _deallocated(block: Block, ordinals: frozenset[int]) -> Block:
    return _tidy(
        replace(
            block,
            allocations=tuple(
                None if ordinal in ordinals else index for ordinal, index in enumerate(block.allocations)
            ),
            unallocated=(*(o for o in block.unallocated if o not in ordinals), *sorted(ordinals)),
            sequences={o: number for o, number in block.sequences.items() if o not in ordinals},
        )
    )


def _tidy(block: Block) -> Block:
    """Without the attributes that nobody points at, the others renumbered in their order."""
    used = sorted({index for index in block.allocations if index is not None})
    places = {old: new for new, old in enumerate(used)}
    return replace(
        block,
        allocations=tuple(None if index is None else places[index] for index in block.allocations),
        attributes=tuple(block.attributes[index] for index in used),
    )


def flaws(block: Block) -> list[str]:
    """What of a block contradicts itself (ipam.md §1.3), in words; empty when it is sound."""
    if block.broken:
        return [block.broken]
    found = []
    size = block.cidr.size
    allocated = {o for o, index in enumerate(block.allocations) if index is not None}
    listed = set(block.unallocated)
    if len(listed) != len(block.unallocated):
        found.append("unallocated names an ordinal twice")
    if any(not 0 <= o < size for o in listed):
        found.append("unallocated names an ordinal that is not in the block")
    if listed & allocated:
        found.append(f"ordinals both allocated and unallocated: {sorted(listed & allocated)}")
    if lost := set(range(size)) - listed - allocated:
        found.append(f"ordinals neither allocated nor unallocated: {sorted(lost)}")
    if unused := set(range(len(block.attributes))) - {i for i in block.allocations if i is not None}:
        found.append(f"attributes of nobody: {sorted(unused)}")
    return found
