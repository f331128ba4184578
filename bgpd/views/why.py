"""Why one prefix is, or is not, where it is: the rules that decided are walked again, and each says its part.

Of a prefix that nobody announced it says whose block it is by the resources, and how the sessions with that node are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from bgpd.model.peer import Peer
from bgpd.model.prefix import (
    Address,
    Family,
    Prefix,
    address_text,
    covers,
    family_of,
    host_prefix,
    is_address,
    is_default,
    is_host,
    parse_address,
    parse_prefix,
    prefix_text,
)
from bgpd.model.resources import Action, AffinityState, Allocation, BlockAffinity, IPAMBlock
from bgpd.model.route import BLACKHOLE, Originated, OriginKind, Out, Path, Reason, Unresolved, Via
from bgpd.model.status import Explanation, SessionState, Step
from bgpd.rib.tables import longest_match
from bgpd.rules.exports import ExportRefusal
from bgpd.rules.forwarding import KernelRefusal, is_tunnelled
from bgpd.rules.originate import holder
from bgpd.views.live import Parts, as_path_text, community_texts, first_as_word

_KIND = {
    OriginKind.BLOCK: "a block",
    OriginKind.BORROWED: "a borrowed address",
    OriginKind.SERVICE: "a range of services",
    OriginKind.STATIC: "a route in the kernel",
}


class _Holder(NamedTuple):
    """What IPAM says of one address."""

    step: Step
    verdict: str
    block: IPAMBlock | None = None
    allocation: Allocation | None = None


class Why:
    """Explains by the parts it is given, and by the newest resources, where there are any."""

    def __init__(self, parts: Parts, now: float) -> None:
        """``now``: the monotonic clock's."""
        self._parts, self._snapshot, self._now = parts, parts.intent.snapshot, now

    def why(self, target: str) -> list[Explanation]:
        """See ``model.doors.Views.why``."""
        head, slash, _ = target.partition("/")
        if slash and is_address(head):
            found = [parse_prefix(target)]
        else:
            named = [parse_address(target)] if is_address(target) else self._parts.addresses(target)
            found = [(family_of(address), prefix) for address in named for prefix in self._around(address)]
        explained = (self._explain(family, prefix) for family, prefix in dict.fromkeys(found))
        return [explanation for explanation in explained if explanation is not None]

    def _around(self, address: Address) -> list[Prefix]:
        """What bears on an address, the longest first: itself where IPAM has a word on it, every prefix known, and
        another's route where the kernel follows that and not one of ours."""
        family, host = family_of(address), host_prefix(address)
        found = longest_match(self._known(family), host)
        if host not in found and self._by_ipam(family, host) is not None:
            found.insert(0, host)
        others = longest_match(self._parts.kernel.others(family), host)[:1]
        ours = [prefix[0] for prefix in found if self._parts.held_keys(family, prefix)]
        if others and others[0] not in found and others[0][0] > max(ours, default=-1):
            found = sorted((*found, others[0]), reverse=True)
        return found

    def _known(self, family: Family) -> Mapping[Prefix, object]:
        origination = self._parts.router.origination(family)
        held = self._parts.fibs[family].delta.installed.entries
        known: dict[Prefix, object] = dict.fromkeys(prefix for prefix, _ in held)
        for table in (
            self._parts.router.adj_rib_in(family).candidates,
            origination.announce,
            origination.blackholes,
            origination.hidden,
            origination.offered,
            origination.statics,
            self._parts.router.local(family),
        ):
            known.update(dict.fromkeys(table))
        known.update(dict.fromkeys(self._parts.recently.prefixes(family)))
        affinities = self._snapshot.affinities.values() if self._snapshot else ()
        known.update((affinity.cidr, None) for affinity in affinities if affinity.family is family)
        return known

    def _explain(self, family: Family, prefix: Prefix) -> Explanation | None:
        """``None`` of a prefix that nobody announced, and no resource and no route of this node is a reason for."""
        origination = self._parts.router.origination(family)
        steps: list[Step] = []
        own, hole = origination.announce.get(prefix), origination.blackholes.get(prefix)
        held = self._by_ipam(family, prefix)
        outer = self._announced_by(family, prefix)
        if own:
            steps.append(
                Step("origin", f"ours to announce, as {self._kind(family, prefix, own)}: {own.source}")
            )
        if hole:
            released = " (until another node announces it)" if hole.yields else ""
            steps.append(Step("origin", f"ours to keep as a blackhole{released}: {hole.source}"))
        reason, offer = origination.hidden.get(prefix), origination.offered.get(prefix)
        if reason and outer is not None:
            steps.append(Step("origin", f"not announced by itself, and need not be: it is {reason}"))
        elif reason:
            steps.append(Step("origin", f"not announced: {reason}", False))
        if offer and outer is None:
            steps.append(
                Step(
                    "origin",
                    f"{self._kind(family, prefix, offer)} of this node ({offer.source}): filters may let it out",
                )
            )
        if static := origination.statics.get(prefix):
            gateway = address_text(static.gateway)
            steps.append(Step("origin", f"kept in the kernel via {gateway}, not announced: {static.source}"))

        paths = self._parts.router.adj_rib_in(family).paths(prefix)
        best, multipath, rejected = self._parts.router.judged(family, prefix)
        local = self._parts.router.local(family).get(prefix)
        known = own or hole or reason or paths or local or offer or static
        inside = self._learned_around(family, prefix)
        owner = None if known or inside or (held and held.block) else self._owner(family, prefix)
        if held and (held.allocation or not known):
            steps.insert(0, held.step)
        if local and not (own or hole or paths):
            steps.append(Step("origin", f"it is {local}: the kernel's own, never taken from a peer"))
        if owner:
            steps.extend(self._silent(owner))
        gone = list(self._gone(family, prefix, paths))
        steps.extend(gone)
        for path in paths:
            steps.append(self._heard(family, prefix, path))
            steps.extend(self._filtered(family, prefix, path))
            refusal = rejected.get(path)
            if best is None and refusal:
                steps.append(Step("import", f"not used: {refusal.value}", False))
        surplus = Counter(path.peer.id for path, why in rejected.items() if why is Reason.SURPLUS)
        for peer_id, count in surplus.items():
            text = f"{count} more from {peer_id} not used: {Reason.SURPLUS.value}"
            steps.append(Step("import", text, best is not None))
        hidden = self._parts.hidden(family, prefix)
        if paths and hidden:
            steps.append(Step("import", hidden, False))
        if best is not None:
            lost = {path: why for path, why in rejected.items() if why is not Reason.SURPLUS}
            steps.extend(self._decided(best, multipath, lost))
        for next_hop in dict.fromkeys(path.next_hop for path in (multipath or paths)):
            steps.append(self._resolved(next_hop))
        steps.extend(self._kernel_rule(family, prefix))
        kernel_step = self._in_kernel(family, prefix)
        steps.append(kernel_step)
        chosen = self._parts.router.rib(family).get(prefix)
        if own or chosen or hidden or offer:
            advertised = self._advertised(family, prefix)
            steps.extend(step for step in advertised if step.ok or outer is None)

        if own and chosen:
            verdict = f"learned from {chosen.best.peer.id}, where the workload has moved"
        elif own:
            verdict = f"{self._kind(family, prefix, own)} of this node, announced"
        elif static:
            verdict = "a static route of this node, kept in the kernel"
        elif hole and not chosen:
            verdict = "this node's own block, kept as a blackhole and not announced"
        elif chosen:
            verdict = f"learned from {chosen.best.peer.id}" + (
                f" and {len(chosen.multipath) - 1} more" if len(chosen.multipath) > 1 else ""
            )
            if not kernel_step.ok:
                verdict += ", but not in the kernel as wanted"
        elif paths:
            verdict = f"heard from {', '.join(dict.fromkeys(p.peer.id for p in paths))}, but not used"
        elif outer is not None:
            who = (
                held.verdict
                if held
                else f"an address of this node ({offer.source})"
                if offer
                else "of this node"
            )
            verdict = f"{who}, announced by its block {prefix_text(family, outer)}"
        elif reason:
            dead = held is not None and held.allocation is not None and not held.step.ok
            verdict = held.verdict if held and dead else "known here, but not announced"
        elif offer:
            verdict = f"{self._kind(family, prefix, offer)} of this node, announced where a filter accepts it"
        elif local:
            verdict = local
        elif kernel_step.ok and self._parts.held_keys(family, prefix):
            verdict = (
                "left in the kernel from before; it goes when all peers were heard, unless one announces it"
            )
        elif held:
            verdict = held.verdict
            if held.allocation and inside is not None:
                verdict += f", reached by {prefix_text(family, inside)}"
        elif others := self._parts.kernel.others_words(family, prefix):
            verdict = f"a route that is not ours: {others[0]}"
        elif gone:
            verdict = f"nobody announces it any more: {gone[0].text}"
        elif owner:
            block = prefix_text(family, owner.cidr)
            verdict = (
                f"no peer announced it, though {owner.node} has {'it' if owner.cidr == prefix else block}"
            )
        else:
            return None
        return Explanation(prefix_text(family, prefix), family.label, verdict, tuple(steps))

    def _kind(self, family: Family, prefix: Prefix, own: Originated) -> str:
        """What a route of this node is, in words."""
        if own.kind is OriginKind.SERVICE and is_host(family, prefix):
            return "an address of a service"
        held = self._by_ipam(family, prefix) if own.kind is OriginKind.BORROWED else None
        if held and held.block and held.block.affinity == self._parts.intent.config.node:
            return "an address of an own block"
        return _KIND[own.kind]

    def _announced_by(self, family: Family, prefix: Prefix) -> Prefix | None:
        """The block that announces a workload's address of this node, whose route is there: it needs no announcement by
        itself. ``None`` of anything else."""
        origination = self._parts.router.origination(family)
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
            or prefix in self._parts.router.local(family)
        )

    def _learned_around(self, family: Family, prefix: Prefix) -> Prefix | None:
        """The longest learned prefix around another."""
        around = longest_match(self._parts.router.rib(family), prefix) if is_host(family, prefix) else []
        return next((outer for outer in around if outer != prefix), None)

    def _by_ipam(self, family: Family, prefix: Prefix) -> _Holder | None:
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
                return _Holder(
                    Step(
                        "origin",
                        f"{given}, but no workload's route is there",
                        False,
                    ),
                    f"dead: {who} by IPAM, but its host route is missing",
                    block,
                    allocation,
                )
            return _Holder(Step("origin", given), who, block, allocation)
        if block is not None and block.affinity is not None:
            text = f"IPAMBlock {block.name} of {block.affinity} gives it to nobody"
            return _Holder(Step("origin", text, False), f"nobody has it: {text}", block)
        if block is None and self._owner(family, prefix) is None:
            pools = [p for p in snapshot.pools.values() if p.family is family and covers(p.cidr, prefix)]
            if pools:
                text = f"it is inside IPPool {pools[0].name} and in no block"
                return _Holder(Step("origin", text, False), f"nobody has it: {text}")
        return None

    def _gone(self, family: Family, prefix: Prefix, paths: Iterable[Path]) -> Iterator[Step]:
        """Who took it back lately, and does not announce it now."""
        heard = {path.peer.id for path in paths}
        for gone in self._parts.recently.find(family, prefix, self._now):
            if gone.peer not in heard:
                ended = f" with its session ({gone.end})" if gone.end is not None else ""
                yield Step("heard", f"{gone.peer}: withdrawn {_ago(self._now - gone.at)}{ended}", False)

    def _owner(self, family: Family, prefix: Prefix) -> BlockAffinity | None:
        """The BlockAffinity of the smallest block that a prefix is in."""
        affinities = self._snapshot.affinities.values() if self._snapshot else ()
        found = [a for a in affinities if a.family is family and covers(a.cidr, prefix)]
        return max(found, key=lambda affinity: affinity.cidr[0], default=None)

    def _silent(self, owner: BlockAffinity) -> Iterator[Step]:
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
        sessions = [status for status in self._parts.speaker.statuses() if status.address in addresses]
        for status in sessions:
            up = status.state is SessionState.ESTABLISHED
            down = status.state.name.lower() if status.admin_up else "shut down by the operator"
            error = f", {status.last_error}" if status.last_error and not up and status.admin_up else ""
            words = f"established, for {', '.join(status.families)}" if up else f"{down}{error}"
            yield Step("heard", f"{status.id} is {words}", up)
        if not sessions:
            yield Step("heard", f"there is no session with {owner.node} itself", False)

    def _heard(self, family: Family, prefix: Prefix, path: Path) -> Step:
        attributes = path.attributes
        words = [f"{path.peer.id}: next hop {address_text(path.next_hop)}"]
        words.append(f"AS path {as_path_text(attributes) or '(empty)'}")
        if attributes.local_pref is not None:
            words.append(f"local preference {attributes.local_pref}")
        if attributes.med is not None:
            words.append(f"MED {attributes.med}")
        if communities := community_texts(attributes):
            words.append(f"communities {' '.join(communities)}")
        if self._parts.router.adj_rib_in(family).is_stale(prefix, path):
            words.append("stale: its session is down and in graceful restart")
        if elsewhere := first_as_word(path):
            words.append(elsewhere)
        return Step("heard", ", ".join(words))

    def _filtered(self, family: Family, prefix: Prefix, path: Path) -> Iterator[Step]:
        """What the peer's import filters say of a path."""
        made, verdict = self._parts.router.imported(family, prefix, path)
        if verdict is None:
            return
        if verdict.action is Action.REJECT:
            yield Step("import", f"{path.peer.id}: the filter rule {verdict.rule} rejects it", False)
            return
        words = f"{path.peer.id}: the filter rule {verdict.rule} accepts it"
        if isinstance(made, Path) and made is not path:
            attributes = made.attributes
            words += f", as AS path {as_path_text(attributes) or '(empty)'}"
            if attributes.local_pref is not None:
                words += f", local preference {attributes.local_pref}"
            if communities := community_texts(attributes):
                words += f", communities {' '.join(communities)}"
        yield Step("import", words)

    def _kernel_rule(self, family: Family, prefix: Prefix) -> Iterator[Step]:
        """The rule that says whether and how a route is written, where it says more than "as it resolves"."""
        router = self._parts.router
        rule, word = router.kernel_word(family, prefix)
        if isinstance(word, KernelRefusal):
            yield Step("kernel", f"not written: {word.value}" + (f" ({rule.reason})" if rule else ""), False)
        elif isinstance(word, Via) and rule is not None and rule.tunnel is not None:
            multipath = router.rib(family)[prefix].multipath
            through = any(is_tunnelled(path, rule, router.family_policy(family)) for path in multipath)
            how = f"through {rule.tunnel}" if through else "straight, inside the node's own subnet"
            yield Step("kernel", f"written {how}: {rule.reason}")
        elif word is None and rule is not None and not rule.program:
            yield Step("kernel", f"not ours to write: {rule.reason}")

    @staticmethod
    def _decided(best: Path, multipath: tuple[Path, ...], rejected: Mapping[Path, Reason]) -> Iterator[Step]:
        if len(multipath) > 1:
            yield Step(
                "decision",
                f"{len(multipath)} paths share the traffic, tied through the metric to the next hop",
            )
        others = len(rejected)
        yield Step("decision", f"best: {best.peer.id}" + ("" if others else ", the only path"))
        for path, reason in rejected.items():
            yield Step(
                "decision",
                f"{path.peer.id} is not best: {reason.value}",
                path in multipath,
            )

    def _resolved(self, next_hop: Address) -> Step:
        resolution = self._parts.router.resolve(next_hop)
        text = address_text(next_hop)
        if isinstance(resolution, Unresolved):
            return Step("next hop", f"{text}: {resolution.value}", False)
        cost = f", metric {resolution.cost}" if resolution.cost else ""
        return Step("next hop", f"{text}: {self._parts.forwarding_text(resolution.via)}{cost}")

    def _in_kernel(self, family: Family, prefix: Prefix) -> Step:
        delta = self._parts.fibs[family].delta
        key = self._parts.router.fib_key(family, prefix)
        wanted, held = delta.wanted.get(key), delta.installed.get(key)
        if held is None and (others := self._parts.held_keys(family, prefix)):
            held = delta.installed.get(others[0])
        conflict = self._parts.kernel.fibs[family].conflicts.get(key)
        if held is not None:
            text = f"{prefix_text(family, prefix)} {self._parts.forwarding_text(held)} proto bird"
            if held is BLACKHOLE:
                text = f"blackhole {prefix_text(family, prefix)} proto bird"
            if wanted is None:
                return Step("kernel", f"{text}: left from before, kept until in sync")
            if wanted == held:
                shadow = f"; in front of it is {conflict}" if conflict else ""
                return Step("kernel", f"{text}: installed{shadow}", not conflict or is_default(prefix))
            why = conflict or delta.errors.get(key) or "a write is under way"
            return Step(
                "kernel", f"{text}, but {self._parts.forwarding_text(wanted)} is wanted: {why}", False
            )
        if wanted is not None and conflict and is_default(prefix):
            text = f"the node's own default route stands, {conflict}; ours is not written beside it"
            return Step("kernel", text)
        if wanted is not None:
            why = (
                (conflict and f"in its place is {conflict}")
                or delta.errors.get(key)
                or "a write is under way"
            )
            if delta.paused:
                why = "another routing daemon is at work here, so bgpd writes nothing"
            return Step(
                "kernel", f"not there, though {self._parts.forwarding_text(wanted)} is wanted: {why}", False
            )
        if words := self._parts.kernel.others_words(family, prefix):
            return Step("kernel", f"not ours: {'; behind it '.join(words)}")
        return Step("kernel", "no route of ours, and none is wanted")

    def _advertised(self, family: Family, prefix: Prefix) -> Iterator[Step]:
        advertised: dict[str, list[str]] = {}
        waiting: list[str] = []
        refused: dict[str, list[str]] = {}
        sessions = self._parts.established(family)
        for peer in sessions:
            words = self._export_of(family, prefix, peer)
            if words is None:
                continue
            out, how = words
            if isinstance(out, ExportRefusal):
                refused.setdefault(f"{out.value}{how}", []).append(peer.id)
            elif self._parts.outbound.has_advertised(peer.id, family, prefix):
                advertised.setdefault(how, []).append(peer.id)
            else:
                waiting.append(peer.id)
        for how, names in advertised.items():
            yield Step("advertised", f"{_names(names)}{how}")
        if waiting:
            yield Step("advertised", f"not yet, they read slowly: {_names(waiting)}", False)
        for reason, names in refused.items():
            yield Step("export", f"not advertised to {_names(names)}: {reason}", False)
        if not sessions:
            yield Step("advertised", "nobody: no session of this family is established", False)

    def _export_of(
        self, family: Family, prefix: Prefix, peer: Peer
    ) -> tuple[Out | ExportRefusal, str] | None:
        """What a session is sent of a prefix, and by which rule in words; of several routes the first that it is sent,
        or the first refusal."""
        router = self._parts.router
        group = router.groups_of(peer).get(family)
        if group is None:
            return ExportRefusal.NO_NEXT_HOP, ""
        first: tuple[Out | ExportRefusal, str] | None = None
        for path, out, rule in router.export_verdicts(family, prefix, group):
            if isinstance(out, Out) and path is not None and path.peer.id == peer.id:
                out = ExportRefusal.SOURCE
            how = f" (filter rule {rule})" if rule else ""
            if isinstance(out, Out):
                if path is not None and path.peer.ibgp and peer.ibgp:
                    whose = "to our client" if group.key.client else f"from our client {path.peer.id}"
                    how += f" (reflected {whose})"
                return out, how
            first = first or (out, how)
        return first


def _ago(seconds: float) -> str:
    """``7 s ago``, ``12 min ago``."""
    return f"{seconds:.0f} s ago" if seconds < 120 else f"{seconds / 60:.0f} min ago"


def _names(names: Iterable[str]) -> str:
    listed = sorted(names)
    shown = ", ".join(listed[:12])
    return shown if len(listed) <= 12 else f"{shown} and {len(listed) - 12} more"
