"""What the dead left: counts without addresses, affinities without blocks, blocks of nobody, all that gone nodes had.

A sweep is for a cluster without Calico's controllers, which do the same (ipam.md §6). A thing counts as left only when
it was seen so for ``grace`` with the same revision: whoever works on it writes it within seconds. Each write is guarded
by what was seen, so that a sweep beside the living does nothing worse than nothing.

What a pod left whose node lives is for the node's own runtime to say: ``release_unlisted``, the GC of the CNI spec.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from bgpd.model.ipam import (
    SECOND,
    Affinity,
    Block,
    Handle,
    IPAMConfig,
    Kind,
    Ref,
    State,
    Stored,
)
from bgpd.model.networks import IPAddress, IPNetwork
from bgpd.rules.ipam import blocks as block_rules
from bgpd.rules.ipam.claim import release_affinity
from bgpd.rules.ipam.release import Address, release_address, release_handle
from bgpd.rules.ipam.steps import (
    List,
    Refused,
    Steps,
    create,
    delete,
    get_config,
    list_affinities,
    list_blocks,
    list_handles,
    update,
)

GRACE_SECONDS = 60.0
"""Seconds that something must look abandoned."""


class Seen(NamedTuple):
    """Since when something looks abandoned, unchanged."""

    revision: str
    since: int


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep did, and what the next one must know."""

    suspects: Mapping[Ref, Seen]
    done: tuple[str, ...] = ()
    """What was removed, in words."""


@dataclass(slots=True)
class _Sweep:
    now: int
    grace: float
    before: Mapping[Ref, Seen]
    suspects: dict[Ref, Seen] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)

    def ripe(self, ref: Ref, revision: str) -> bool:
        """Whether this has looked abandoned for long enough. Asking puts it on record."""
        seen = self.before.get(ref)
        if seen is None or seen.revision != revision:
            seen = Seen(revision, self.now)
        self.suspects[ref] = seen
        return self.now - seen.since >= self.grace * SECOND


def real_counts(blocks: Iterable[Block]) -> dict[str, Counter[str]]:
    """By handle, how many addresses it has in which block, by what the blocks say."""
    found: dict[str, Counter[str]] = {}
    for block in blocks:
        for _, attribute in block_rules.users(block):
            handle = block_rules.handle_of(attribute)
            if handle is not None:
                found.setdefault(handle, Counter())[str(block.cidr)] += 1
    return found


def excess(handle: Handle, real: Mapping[str, int]) -> dict[str, int] | None:
    """What a handle should say where it says too much; ``None`` where it does not."""
    right = {cidr: min(number, real.get(cidr, 0)) for cidr, number in handle.blocks.items()}
    right = {cidr: number for cidr, number in right.items() if number}
    return right if right != dict(handle.blocks) else None


def sweep(before: Mapping[Ref, Seen], now: int, grace: float = GRACE_SECONDS) -> Steps[Swept]:
    """Looks at everything and removes what is ripe. ``before``: the suspects of the sweep before."""
    run = _Sweep(now, grace, before)
    config = yield from get_config()
    # Handles first, blocks last: what a handle counts that was read before is in its block, or abandoned.
    handles = yield from list_handles()
    rows = yield from list_affinities()
    blocks = yield from list_blocks()
    nodes = {stored.value.name for stored in (yield List(Kind.NODE))}
    if not nodes:
        return Swept(before)  # no cluster has none: whoever answers so does not know
    gone = _gone_nodes(run, (b.value for b in blocks), (row.value for row in rows), nodes)
    for node in gone:
        yield from _bury(run, node, blocks, rows, config)
    yield from _affinities(run, rows, {stored.value.cidr: stored.value for stored in blocks})
    yield from _blocks(run, blocks, nodes, config)
    yield from _handles(run, handles, real_counts(stored.value for stored in blocks))
    return Swept(run.suspects, tuple(run.done))


def _gone_nodes(
    run: _Sweep, blocks: Iterable[Block], rows: Iterable[Affinity], nodes: Collection[str]
) -> list[str]:
    """Nodes that have blocks or addresses and no Node object, for long enough."""
    named = {row.owner for row in rows}
    for block in blocks:
        named |= {block.owner or ""}
        named |= {f"host:{a.secondary['node']}" for _, a in block_rules.users(block) if "node" in a.secondary}
    found = sorted(owner.removeprefix("host:") for owner in named if owner.startswith("host:"))
    return [node for node in found if node not in nodes and run.ripe(Ref(Kind.NODE, node), "")]


def _bury(
    run: _Sweep,
    node: str,
    blocks: Iterable[Stored[Block]],
    rows: Iterable[Stored[Affinity]],
    config: IPAMConfig,
) -> Steps[None]:
    """Releases the addresses of a node that is gone, then its blocks. A virtual machine's address may have moved."""
    for stored in blocks:
        block = stored.value
        for ordinal, attribute in block_rules.users(block):
            if attribute.secondary.get("node") != node or "vmi-name" in attribute.secondary:
                continue
            if block_rules.handle_of(attribute) == block_rules.WINDOWS_RESERVED:
                continue
            address = block.address(ordinal)
            wanted = Address(
                address, block_rules.handle_of(attribute), block.sequences.get(ordinal, 0) or None
            )
            try:
                yield from release_address(wanted, run.now)
            except Refused:
                continue
            run.done.append(f"address {address} of node {node}, which is gone")
    owner = f"host:{node}"
    cidrs = [row.value.cidr for row in rows if row.value.owner == owner]
    cidrs += [stored.value.cidr for stored in blocks if stored.value.owner == owner]
    for cidr in dict.fromkeys(cidrs):
        try:
            yield from release_affinity(cidr, owner, run.now, config, must_be_empty=False, gone=True)
        except Refused:
            continue
        run.done.append(f"block {cidr} of node {node}, which is gone")


def _affinities(
    run: _Sweep, rows: Collection[Stored[Affinity]], blocks: Mapping[IPNetwork, Block]
) -> Steps[None]:
    """Each block has one affinity, its owner's and confirmed, and there are no others."""
    known = {row.value.ref for row in rows}
    for row in rows:
        block = blocks.get(row.value.cidr)
        if block is not None and block.owner == row.value.owner:
            if row.value.state is not State.CONFIRMED and run.ripe(row.value.ref, row.revision):
                yield from update(row, replace(row.value, state=State.CONFIRMED))
            continue
        if run.ripe(row.value.ref, row.revision) and (yield from delete(row)) is None:
            why = "without a block" if block is None else f"to a block of {block.owner or 'nobody'}"
            run.done.append(f"affinity of {row.value.owner} {why}: {row.value.cidr}")
    for block in blocks.values():
        if block.owner is not None and not block.broken:
            missing = Affinity(block.owner, block.cidr, State.CONFIRMED)
            if missing.ref not in known and run.ripe(missing.ref, str(block.sequence)):
                yield from create(missing)


def _blocks(
    run: _Sweep, blocks: Iterable[Stored[Block]], nodes: Collection[str], config: IPAMConfig
) -> Steps[None]:
    """Blocks of nobody with nobody in them, cooldowns that are over, and empty blocks that a node has beside others."""
    kept = Counter((stored.value.owner, stored.value.cidr.version) for stored in blocks)
    for stored in blocks:
        block = block_rules.thawed(stored.value, run.now, config.cooldown_seconds)
        owner, empty = block.owner, block_rules.is_empty(block)
        if owner is None and empty:
            if (yield from delete(stored)) is None:
                run.done.append(f"block {block.cidr}, empty and nobody's")
        elif (
            empty
            and owner is not None
            and owner.removeprefix("host:") in nodes
            and kept[owner, block.cidr.version] > 1
            and run.ripe(block.ref, stored.revision)
        ):
            try:
                yield from release_affinity(
                    block.cidr, owner, run.now, config, must_be_empty=True, sequence=block.sequence
                )
            except Refused:
                continue
            kept[owner, block.cidr.version] -= 1
            run.done.append(f"block {block.cidr} of {owner}, empty and not its last")
        elif block != stored.value:
            yield from update(stored, block_rules.bumped(block))


def _handles(
    run: _Sweep, handles: Iterable[Stored[Handle]], real: Mapping[str, Mapping[str, int]]
) -> Steps[None]:
    for stored in handles:
        handle = stored.value
        right = excess(handle, real.get(handle.id, {}))
        if right is None or not run.ripe(handle.ref, stored.revision):
            continue
        outcome: object
        if right:
            outcome = yield from update(stored, replace(handle, blocks=right))
        else:
            outcome = yield from delete(stored)
        if outcome is None or isinstance(outcome, Stored):
            run.done.append(f"handle {handle.id} counted addresses that it has not")


def release_unlisted(
    network: str, node: str, valid: Collection[tuple[str, str]], now: int
) -> Steps[tuple[IPAddress, ...]]:
    """Gives back what this node's attachments to a network have that the runtime does not list: pairs of container id
    and interface. Of other nodes, networks and kinds of users nothing is touched."""
    prefix = f"{network}."
    stale: dict[tuple[str, str | None], None] = {}
    for stored in (yield from list_blocks()):
        for _, attribute in block_rules.users(stored.value):
            handle = block_rules.handle_of(attribute) or ""
            if attribute.secondary.get("node") != node or not handle.startswith(prefix):
                continue
            if "type" in attribute.secondary or "vmi-name" in attribute.secondary:
                continue
            container, interface = handle.removeprefix(prefix), attribute.secondary.get("interface")
            listed = any(container == known and interface in (None, name) for known, name in valid)
            if not listed:
                stale[handle, interface] = None
    found: list[IPAddress] = []
    for handle, interface in stale:
        found += yield from release_handle(handle, node, now, interface=interface)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be."""

    kind: str
    """``block``, ``affinity``, ``handle``, ``missing-handle``, ``outside``, ``node``."""
    subject: str
    message: str


def inspect(
    blocks: Collection[Block],
    affinities: Iterable[Affinity],
    handles: Iterable[Handle],
    pools: Iterable[IPNetwork],
    nodes: Collection[str],
) -> tuple[Finding, ...]:
    """All that contradicts itself in one look at everything (``bgpctl ipam check``). In a cluster at work some of it is
    only under way."""
    found: list[Finding] = []
    by_cidr = {block.cidr: block for block in blocks}
    cidrs = sorted(by_cidr, key=lambda cidr: (cidr.version, cidr.first, cidr.prefixlen))
    for small, large in zip(cidrs[1:], cidrs, strict=False):
        if small in large:
            found.append(Finding("block", str(small), f"overlaps block {large}"))
    pool_cidrs = list(pools)
    for block in blocks:
        found += (Finding("block", str(block.cidr), flaw) for flaw in block_rules.flaws(block))
        if not any(block.cidr in cidr for cidr in pool_cidrs):
            found.append(Finding("outside", str(block.cidr), "the block is in no pool"))
        if block.owner is None and block_rules.is_empty(block):
            found.append(Finding("block", str(block.cidr), "empty, and of no node"))
    owners: dict[IPNetwork, set[str]] = {}
    for row in affinities:
        other = by_cidr.get(row.cidr)
        if other is None:
            found.append(
                Finding("affinity", str(row.cidr), f"of {row.owner} ({row.state}): there is no such block")
            )
        elif other.owner != row.owner:
            message = f"of {row.owner} ({row.state}): the block is {other.owner or 'nobody'}'s"
            found.append(Finding("affinity", str(row.cidr), message))
        elif row.state is not State.CONFIRMED:
            found.append(
                Finding("affinity", str(row.cidr), f"of {row.owner} is {row.state} though the block is there")
            )
        owners.setdefault(row.cidr, set()).add(row.owner)
    for block in blocks:
        if block.owner is not None and block.owner not in owners.get(block.cidr, ()):
            found.append(
                Finding("affinity", str(block.cidr), f"the block is {block.owner}'s, without an affinity")
            )
    real = real_counts(blocks)
    known = set()
    for handle in handles:
        known.add(handle.id)
        if excess(handle, real.get(handle.id, {})) is not None:
            found.append(Finding("handle", handle.id, "counts addresses that it has not"))
        for cidr, number in real.get(handle.id, {}).items():
            if number > handle.blocks.get(cidr, 0):
                found.append(
                    Finding("handle", handle.id, f"has {number} addresses of {cidr} that it does not count")
                )
    for missing in sorted(real.keys() - known - {block_rules.WINDOWS_RESERVED}):
        found.append(
            Finding("missing-handle", missing, f"is named by {', '.join(real[missing])}, and is not there")
        )
    used = {
        a.secondary["node"] for block in blocks for _, a in block_rules.users(block) if "node" in a.secondary
    }
    owning = {b.owner.removeprefix("host:") for b in blocks if b.owner and b.owner.startswith("host:")}
    for node in sorted((used | owning) - set(nodes)):
        found.append(Finding("node", node, "has blocks or addresses, and there is no such Node"))
    return tuple(found)
