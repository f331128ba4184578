"""Whose an address or a prefix is, as far as this node knows: by the resources, by IPAM, by what the kernel has.

``why`` asks it of what it explains, most of all of what no peer announced.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from bgpd.model.prefix import Address, Family, Prefix, address_text, covers, is_host, prefix_text
from bgpd.model.resources import AffinityState, Allocation, BlockAffinity, IPAMBlock
from bgpd.model.route import Originated, OriginKind
from bgpd.model.status import SessionState, Step
from bgpd.rib.tables import longest_match
from bgpd.rules.blocks import holder
from bgpd.views.live import Parts

_KIND = {
    OriginKind.BLOCK: "a block",
    OriginKind.BORROWED: "a borrowed address",
    OriginKind.SERVICE: "a range of services",
    OriginKind.STATIC: "a route in the kernel",
}


class Holder(NamedTuple):
    """What IPAM says of one address."""

    step: Step
    verdict: str
    block: IPAMBlock | None = None
    allocation: Allocation | None = None


class Ownership:
    """Of one node, by its parts and its newest resources."""

    def __init__(self, parts: Parts) -> None:
        self._parts, self._snapshot = parts, parts.intent.snapshot

    def kind(self, family: Family, prefix: Prefix, own: Originated) -> str:
        """What a route of this node is, in words."""
        if own.kind is OriginKind.SERVICE and is_host(family, prefix):
            return "an address of a service"
        held = self.by_ipam(family, prefix) if own.kind is OriginKind.BORROWED else None
        if held and held.block and held.block.affinity == self._parts.intent.config.node:
            return "an address of an own block"
        return _KIND[own.kind]

    def announced_by(self, family: Family, prefix: Prefix) -> Prefix | None:
        """The block that announces a workload's address of this node, whose route is there: it needs no announcement by
        itself. ``None`` of anything else."""
        origination = self._parts.router.explain.origination(family)
        if (
            not is_host(family, prefix)
            or prefix not in origination.offered
            or not self._is_there(family, prefix)
        ):
            return None
        blocks = (p for p, own in origination.announce.items() if own.kind is OriginKind.BLOCK)
        return next((block for block in blocks if block != prefix and covers(block, prefix)), None)

    def _is_there(self, family: Family, prefix: Prefix) -> bool:
        """Whether the kernel has a way to an address of this node's own: a workload's route, or an interface's."""
        workloads = self._parts.kernel.workloads().get(family, ())
        return (
            any(route.prefix == prefix for route in workloads)
            or prefix in self._parts.kernel.others(family)
            or prefix in self._parts.router.explain.local(family)
        )

    def learned_around(self, family: Family, prefix: Prefix) -> Prefix | None:
        """The longest learned prefix around another."""
        around = longest_match(self._parts.router.rib(family), prefix) if is_host(family, prefix) else []
        return next((outer for outer in around if outer != prefix), None)

    def dead_end(self, family: Family, prefix: Prefix, held: Holder) -> Step | None:
        """Of an address that another node has and does not announce: where packets to it end here. ``None`` where a
        route leads on."""
        if held.allocation is None or held.allocation.node == self._parts.intent.config.node:
            return None
        followed: dict[Prefix, object] = dict.fromkeys(
            key for key, _ in self._parts.fibs[family].delta.wanted
        )
        followed.update(dict.fromkeys(self._parts.kernel.others(family)))
        way = longest_match(followed, prefix)
        silent = f"{held.allocation.node} does not announce it"
        if not way:
            return Step("heard", f"{silent}, and no route leads there", False)
        hole = way[0] in self._parts.router.explain.origination(family).blackholes
        if hole and way[0] not in self._parts.router.rib(family):
            text = f"{silent}, so packets to it end in this node's blackhole {prefix_text(family, way[0])}"
            return Step("heard", text, False)
        return None

    def by_ipam(self, family: Family, prefix: Prefix) -> Holder | None:
        """What IPAM says of an address; ``None`` of what it has no word on: no single address, no data, a block of
        nobody's (virtual ones have addresses that no node has)."""
        snapshot = self._snapshot
        if snapshot is None or not snapshot.blocks or not is_host(family, prefix):
            return None
        block, allocation = holder(snapshot, family, Address(prefix[1:]))
        if block is not None and allocation is not None:
            lender = (
                f", borrowed from {block.affinity}" if block.affinity not in (None, allocation.node) else ""
            )
            here = allocation.node == self._parts.intent.config.node
            who = f"{allocation.owner or 'a workload'} on {'this node' if here else allocation.node}"
            given = f"IPAMBlock {block.name} gives it to {who}{lender}"
            if here and not self._is_there(family, prefix):
                return Holder(
                    Step(
                        "origin",
                        f"{given}, but no workload's route is there",
                        False,
                    ),
                    f"dead: {who} by IPAM, but its host route is missing",
                    block,
                    allocation,
                )
            return Holder(Step("origin", given), who, block, allocation)
        if block is not None and block.affinity is not None:
            text = f"IPAMBlock {block.name} of {block.affinity} gives it to nobody"
            return Holder(Step("origin", text, False), f"nobody has it: {text}", block)
        if block is None and self.owner(family, prefix) is None:
            pools = [p for p in snapshot.pools.values() if p.family is family and covers(p.cidr, prefix)]
            if pools:
                text = f"it is inside IPPool {pools[0].name} and in no block"
                return Holder(Step("origin", text, False), f"nobody has it: {text}")
        return None

    def owner(self, family: Family, prefix: Prefix) -> BlockAffinity | None:
        """The BlockAffinity of the smallest block that a prefix is in."""
        affinities = self._snapshot.affinities.values() if self._snapshot else ()
        found = [a for a in affinities if a.family is family and covers(a.cidr, prefix)]
        return max(found, key=lambda affinity: affinity.cidr[0], default=None)

    def silent(self, owner: BlockAffinity) -> Iterator[Step]:
        """Why a block was not heard of, as far as it shows here: its state, and the sessions with its owner."""
        state = f" ({owner.state.value})" if owner.state is not AffinityState.CONFIRMED else ""
        yield Step(
            "heard", f"nothing, though BlockAffinity {owner.name} gives it to {owner.node}{state}", False
        )
        node = self._snapshot.nodes.get(owner.node) if self._snapshot else None
        if node is None:
            yield Step("heard", f"there is no Node {owner.node!r} in the resources", False)
            return
        addresses = {address_text(address) for address in (node.ipv4, node.ipv6) if address is not None}
        sessions = [
            status for status in self._parts.speaker.sessions.statuses() if status.address in addresses
        ]
        for status in sessions:
            up = status.state is SessionState.ESTABLISHED
            down = status.state.name.lower() if status.admin_up else "shut down by the operator"
            error = f", {status.last_error}" if status.last_error and not up and status.admin_up else ""
            words = f"established, for {', '.join(status.families)}" if up else f"{down}{error}"
            yield Step("heard", f"{status.id} is {words}", up)
        if not sessions:
            yield Step("heard", f"there is no session with {owner.node} itself", False)
