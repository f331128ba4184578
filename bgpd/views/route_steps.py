"""What became of one route, step by step: heard, filtered, decided, resolved, written, announced.

``why`` puts the steps together. Each asks the code that decided, so that no explanation differs from what is done.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from bgpd.model.peer import Peer
from bgpd.model.prefix import Address, Family, Prefix, address_text, is_default, prefix_text
from bgpd.model.resources import Action
from bgpd.model.route import BLACKHOLE, Out, Path, Reason, Unresolved, Via
from bgpd.model.status import Step
from bgpd.rules.communities import community_texts
from bgpd.rules.exports import ExportRefusal, peer_refusal
from bgpd.rules.forwarding import KernelRefusal, is_tunnelled
from bgpd.views.live import Parts, as_path_text, first_as_word


class Steps:
    """By the parts of one daemon."""

    def __init__(self, parts: Parts, now: float) -> None:
        """``now``: the monotonic clock's."""
        self._parts, self._now = parts, now

    def gone(self, family: Family, prefix: Prefix, paths: Iterable[Path]) -> Iterator[Step]:
        """Who took it back lately, and does not announce it now."""
        heard = {path.peer.id for path in paths}
        for gone in self._parts.recently.find(family, prefix, self._now):
            if gone.peer not in heard:
                ended = f" with its session ({gone.end})" if gone.end is not None else ""
                yield Step("heard", f"{gone.peer}: withdrawn {_ago(self._now - gone.at)}{ended}", False)

    def heard(self, family: Family, prefix: Prefix, path: Path) -> Step:
        """What a peer announced."""
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

    def filtered(self, family: Family, prefix: Prefix, path: Path) -> Iterator[Step]:
        """What the peer's import filters say of a path."""
        made, verdict = self._parts.router.explain.imported(family, prefix, path)
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

    def kernel_rule(self, family: Family, prefix: Prefix) -> Iterator[Step]:
        """The rule that says whether and how a route is written, where it says more than "as it resolves"."""
        router = self._parts.router
        rule, word = router.explain.kernel_word(family, prefix)
        if isinstance(word, KernelRefusal):
            yield Step("kernel", f"not written: {word.value}" + (f" ({rule.reason})" if rule else ""), False)
        elif isinstance(word, Via) and rule is not None and rule.tunnel is not None:
            multipath = router.rib(family)[prefix].multipath
            through = any(
                is_tunnelled(path, rule, router.explain.family_policy(family)) for path in multipath
            )
            how = f"through {rule.tunnel}" if through else "straight, inside the node's own subnet"
            yield Step("kernel", f"written {how}: {rule.reason}")
        elif word is None and rule is not None and not rule.program:
            yield Step("kernel", f"not ours to write: {rule.reason}")

    @staticmethod
    def decided(best: Path, multipath: tuple[Path, ...], rejected: Mapping[Path, Reason]) -> Iterator[Step]:
        """Which path was chosen, and why each other one was not."""
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

    def resolved(self, next_hop: Address) -> Step:
        """Where a next hop leads."""
        resolution = self._parts.router.resolve(next_hop)
        text = address_text(next_hop)
        if isinstance(resolution, Unresolved):
            return Step("next hop", f"{text}: {resolution.value}", False)
        cost = f", metric {resolution.cost}" if resolution.cost else ""
        return Step("next hop", f"{text}: {self._parts.forwarding_text(resolution.via)}{cost}")

    def in_kernel(self, family: Family, prefix: Prefix) -> Step:
        """What the kernel has, and what it should have."""
        delta = self._parts.fibs[family].delta
        key = self._parts.router.explain.fib_key(family, prefix)
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

    def advertised(self, family: Family, prefix: Prefix) -> Iterator[Step]:
        """Who was sent it, who not, and why."""
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
        for path, out, rule in router.explain.export_verdicts(family, prefix, group):
            if isinstance(out, Out):
                out = peer_refusal(out, peer) or out
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
