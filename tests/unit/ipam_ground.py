"""For tests of IPAM: a store in memory, values in few words, and what must hold of all that is stored."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable
from typing import Any, TypeVar

from netaddr import IPAddress, IPNetwork

from bgpd.model.ipam import (
    Affinity,
    Block,
    Conflict,
    Handle,
    IPAMNode,
    Kind,
    Pool,
    Ref,
    State,
    Stored,
    Value,
)
from bgpd.rules.ipam import blocks as block_rules
from bgpd.rules.ipam.assign import Request
from bgpd.rules.ipam.garbage import real_counts
from bgpd.rules.ipam.steps import Create, Delete, Get, List, Pause, Step, Steps, Update

T = TypeVar("T")
NOW = 1_800_000_000 * 10**9


class Memory:
    """Objects in memory, with the guards that every store has. ``datastore.store.Store`` has the same words."""

    def __init__(self, values: Iterable[Value] = ()) -> None:
        self._numbers = itertools.count(1)
        self.stored: dict[Ref, Stored[Any]] = {}
        for value in values:
            self.create(value)

    def get(self, ref: Ref) -> Stored[Any] | None:
        return self.stored.get(ref)

    def list(self, kind: Kind, owner: str = "") -> tuple[Stored[Any], ...]:
        return tuple(
            stored
            for ref, stored in sorted(self.stored.items())
            if ref.kind is kind and (not owner or ref.owner == owner)
        )

    def create(self, value: Value) -> Stored[Any] | Conflict:
        if value.ref in self.stored:
            return Conflict.EXISTS
        return self._put(value)

    def update(self, known: Stored[Any], value: Value) -> Stored[Any] | Conflict:
        assert known.value.ref == value.ref
        return self._guard(known) or self._put(value)

    def delete(self, known: Stored[Any]) -> Conflict | None:
        conflict = self._guard(known)
        if conflict is None:
            del self.stored[known.value.ref]
        return conflict

    def _guard(self, known: Stored[Any]) -> Conflict | None:
        found = self.stored.get(known.value.ref)
        if found is None:
            return Conflict.GONE
        return None if found.revision == known.revision else Conflict.CHANGED

    def _put(self, value: Value) -> Stored[Any]:
        stored = Stored(value, str(next(self._numbers)))
        self.stored[value.ref] = stored
        return stored

    def answer(self, step: Step) -> Any:
        match step:
            case Get(ref):
                return self.get(ref)
            case List(kind, owner):
                return self.list(kind, owner)
            case Create(value):
                return self.create(value)
            case Update(known, value):
                return self.update(known, value)
            case Delete(known):
                return self.delete(known)
            case Pause():
                return None

    def run(self, steps: Steps[T]) -> T:
        """All steps of a decision, with nobody else there."""
        answer: Any = None
        try:
            while True:
                answer = self.answer(steps.send(answer))
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    # What is stored, by kind.

    def values(self, kind: Kind) -> list[Any]:
        return [stored.value for stored in self.list(kind)]

    @property
    def blocks(self) -> list[Block]:
        return self.values(Kind.BLOCK)

    def block(self, cidr: str) -> Block:
        stored = self.get(Ref(Kind.BLOCK, cidr))
        assert stored is not None, f"no block {cidr}"
        return stored.value  # type: ignore[no-any-return]

    def writes(self, steps: Steps[T]) -> list[Step]:
        """The writes of a decision, with nobody else there."""
        found: list[Step] = []
        answer: Any = None
        try:
            while True:
                step = steps.send(answer)
                if isinstance(step, Create | Update | Delete):
                    found.append(step)
                answer = self.answer(step)
        except StopIteration:
            return found


def pool(name: str = "pool", cidr: str = "10.48.0.0/24", size: int = 26, **more: Any) -> Pool:
    return Pool(name, IPNetwork(cidr), size, **more)


def node(name: str = "node-a", **labels: str) -> IPAMNode:
    return IPAMNode(name, labels)


def ask(container: str = "c1", node: str = "node-a", ipv4: int = 1, **more: Any) -> Request:
    secondary = {"node": node, "timestamp": "now", "interface": "eth0", **more.pop("secondary", {})}
    return Request(node, f"net.{container}", ipv4=ipv4, secondary=secondary, **more)


def address(text: str) -> IPAddress:
    return IPAddress(text)


def sound(memory: Memory, *, settled: bool = False) -> None:
    """Asserts what must hold at every moment; ``settled``: also what must hold when nobody is at work."""
    blocks = memory.blocks
    for block in blocks:
        assert not block_rules.flaws(block), f"{block.cidr}: {block_rules.flaws(block)}"
    for one, other in itertools.combinations(blocks, 2):
        assert one.cidr not in other.cidr and other.cidr not in one.cidr, f"{one.cidr} overlaps {other.cidr}"
    handles: dict[str, Handle] = {handle.id: handle for handle in memory.values(Kind.HANDLE)}
    real = real_counts(blocks)
    for name, counts in real.items():
        for cidr, number in counts.items():
            stated = handles[name].blocks.get(cidr, 0) if name in handles else 0
            assert stated >= number, f"handle {name} says {stated} of {number} addresses in {cidr}"
    if not settled:
        return
    for handle in handles.values():
        assert dict(handle.blocks) == dict(real.get(handle.id, {})), f"handle {handle.id} is not true"
    owners = {block.cidr: block.owner for block in blocks}
    affinities: list[Affinity] = memory.values(Kind.AFFINITY)
    for row in affinities:
        assert owners.get(row.cidr) == row.owner, f"{row} is stale: the block is {owners.get(row.cidr)}'s"
        assert row.state is State.CONFIRMED, f"{row}"
    for block in blocks:
        if block.owner is not None:
            assert memory.get(Ref(Kind.AFFINITY, str(block.cidr), block.owner)), (
                f"{block.cidr} has no affinity"
            )


def in_use(memory: Memory) -> dict[str, str]:
    """Address to handle, of all that is allocated."""
    return {
        str(block.address(ordinal)): block_rules.handle_of(attribute) or ""
        for block in memory.blocks
        for ordinal, attribute in block_rules.users(block)
    }


def inside(pools: Collection[Pool], addresses: Iterable[str]) -> bool:
    return all(any(IPAddress(text) in pool.cidr for pool in pools) for text in addresses)
