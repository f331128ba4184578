"""Why one prefix is, or is not, where it is: the rules that decided are walked again, and each says its part.

Of a prefix that nobody announced it says whose block it is by the resources, and how the sessions with that node are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from bgpd.model.prefix import (
    Address,
    Family,
    Prefix,
    address_text,
    family_of,
    host_prefix,
    is_address,
    parse_address,
    parse_prefix,
    prefix_text,
)
from bgpd.model.route import Reason
from bgpd.model.status import Explanation, Step
from bgpd.rib.tables import longest_match
from bgpd.views.live import Parts
from bgpd.views.ownership import Ownership
from bgpd.views.route_steps import Steps


class Why:
    """Explains by the parts it is given, and by the newest resources, where there are any."""

    def __init__(self, parts: Parts, now: float) -> None:
        """``now``: the monotonic clock's."""
        self._parts, self._snapshot = parts, parts.intent.snapshot
        self._ownership, self._steps = Ownership(parts), Steps(parts, now)

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
        if host not in found and self._ownership.by_ipam(family, host) is not None:
            found.insert(0, host)
        others = longest_match(self._parts.kernel.others(family), host)[:1]
        ours = [prefix[0] for prefix in found if self._parts.held_keys(family, prefix)]
        if others and others[0] not in found and others[0][0] > max(ours, default=-1):
            found = sorted((*found, others[0]), reverse=True)
        return found

    def _known(self, family: Family) -> Mapping[Prefix, object]:
        origination = self._parts.router.explain.origination(family)
        held = self._parts.fibs[family].delta.installed.entries
        known: dict[Prefix, object] = dict.fromkeys(prefix for prefix, _ in held)
        for table in (
            self._parts.router.adj_rib_in(family).candidates,
            origination.announce,
            origination.blackholes,
            origination.hidden,
            origination.offered,
            origination.statics,
            self._parts.router.explain.local(family),
        ):
            known.update(dict.fromkeys(table))
        known.update(dict.fromkeys(self._parts.recently.prefixes(family)))
        affinities = self._snapshot.affinities.values() if self._snapshot else ()
        known.update((affinity.cidr, None) for affinity in affinities if affinity.family is family)
        return known

    def _explain(self, family: Family, prefix: Prefix) -> Explanation | None:
        """``None`` of a prefix that nobody announced, and no resource and no route of this node is a reason for."""
        origination = self._parts.router.explain.origination(family)
        steps: list[Step] = []
        own, hole = origination.announce.get(prefix), origination.blackholes.get(prefix)
        held = self._ownership.by_ipam(family, prefix)
        outer = self._ownership.announced_by(family, prefix)
        if own:
            steps.append(
                Step(
                    "origin",
                    f"ours to announce, as {self._ownership.kind(family, prefix, own)}: {own.source}",
                )
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
                    f"{self._ownership.kind(family, prefix, offer)} of this node ({offer.source}): "
                    "filters may let it out",
                )
            )
        if static := origination.statics.get(prefix):
            gateway = address_text(static.gateway)
            steps.append(Step("origin", f"kept in the kernel via {gateway}, not announced: {static.source}"))

        paths = self._parts.router.adj_rib_in(family).paths(prefix)
        best, multipath, rejected = self._parts.router.explain.judged(family, prefix)
        local = self._parts.router.explain.local(family).get(prefix)
        known = own or hole or reason or paths or local or offer or static
        inside = self._ownership.learned_around(family, prefix)
        owner = None if known or inside or (held and held.block) else self._ownership.owner(family, prefix)
        if held and (held.allocation or not known):
            steps.insert(0, held.step)
        dead_end = self._ownership.dead_end(family, prefix, held) if held and not known else None
        if dead_end:
            steps.append(dead_end)
        if local and not (own or hole or paths):
            steps.append(Step("origin", f"it is {local}: the kernel's own, never taken from a peer"))
        if owner:
            steps.extend(self._ownership.silent(owner))
        gone = list(self._steps.gone(family, prefix, paths))
        steps.extend(gone)
        for path in paths:
            steps.append(self._steps.heard(family, prefix, path))
            steps.extend(self._steps.filtered(family, prefix, path))
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
            steps.extend(self._steps.decided(best, multipath, lost))
        for next_hop in dict.fromkeys(path.next_hop for path in (multipath or paths)):
            steps.append(self._steps.resolved(next_hop))
        steps.extend(self._steps.kernel_rule(family, prefix))
        kernel_step = self._steps.in_kernel(family, prefix)
        steps.append(kernel_step)
        chosen = self._parts.router.rib(family).get(prefix)
        if own or chosen or hidden or offer:
            advertised = self._steps.advertised(family, prefix)
            steps.extend(step for step in advertised if step.ok or outer is None)

        if own and chosen:
            verdict = f"learned from {chosen.best.peer.id}, where the workload has moved"
        elif own:
            verdict = f"{self._ownership.kind(family, prefix, own)} of this node, announced"
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
            verdict = f"{self._ownership.kind(family, prefix, offer)} of this node, announced where a filter accepts it"
        elif local:
            verdict = local
        elif kernel_step.ok and self._parts.held_keys(family, prefix):
            verdict = (
                "left in the kernel from before; it goes when all peers were heard, unless one announces it"
            )
        elif held and dead_end:
            verdict = f"unreachable from here: {held.verdict}, and nobody announces it"
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
