"""What there is, what was decided of a prefix or a peer's paths, and why: for the operator.

Reads what ``router`` keeps and asks the rules that the decision asked; changes nothing, and nothing depends on it.
``Router`` owns it as ``explain``, ``views`` call it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from bgpd.model.peer import PeerId
from bgpd.model.prefix import Family, Prefix
from bgpd.model.route import FibKey, Origination, Path, Reason, Via
from bgpd.rib.family import FamilyRib, Resolve
from bgpd.rib.groups import ExportVerdict, UpdateGroup, usable
from bgpd.rules.decision import judge
from bgpd.rules.filters import Verdict
from bgpd.rules.forwarding import KernelRefusal, place
from bgpd.rules.imports import ImportRules, prefix_import_refusal, starts_elsewhere
from bgpd.rules.own import Hiding
from bgpd.rules.policy import FamilyPolicy, KernelRule


class Explain:
    """See the module. ``resolve`` and ``max_paths`` are the router's."""

    def __init__(self, ribs: Mapping[Family, FamilyRib], resolve: Resolve, max_paths: int) -> None:
        self._ribs, self._resolve, self._max_paths = ribs, resolve, max_paths

    def sizes(self) -> tuple[int, int]:
        """(NLRI in the tables of all update groups, paths in Adj-RIB-In): what memory is reckoned by."""
        advertised = sum(len(group.table) for rib in self._ribs.values() for group in rib.adj_ribs_out.groups)
        return advertised, sum(rib.adj_rib_in.size for rib in self._ribs.values())

    def origination(self, family: Family) -> Origination:
        """What this node announces and keeps."""
        return self._ribs[family].origination

    def local(self, family: Family) -> Mapping[Prefix, str]:
        """Own addresses and connected subnets."""
        return self._ribs[family].local

    def family_policy(self, family: Family) -> FamilyPolicy:
        """What bears on a family."""
        return self._ribs[family].policy

    def refusals(self, peer: PeerId, family: Family) -> Counter[Reason]:
        """Why import does not accept paths of a peer: reason -> how many."""
        rib, found = self._ribs[family], Counter[Reason]()
        for prefix, path in rib.adj_rib_in.refused(peer):
            reason = prefix_import_refusal(family, prefix, path, rib.rules.get(peer))
            found[reason or Reason.FILTERED] += 1
        if surplus := rib.adj_rib_in.surplus_of(peer):
            found[Reason.SURPLUS] = surplus
        return found

    def starting_elsewhere(self, peer: PeerId, family: Family) -> int:
        """Paths of an external peer whose AS path does not start with the peer's AS, accepted or not."""
        paths = self._ribs[family].adj_rib_in.sharing(peer)
        return sum(count for path, count in paths if starts_elsewhere(path))

    def fib_key(self, family: Family, prefix: Prefix) -> FibKey:
        """Where the kernel's route for a prefix is wanted: prefix and metric."""
        rib = self._ribs[family]
        return prefix, rib.placed.get(prefix, rib.metric)

    def hiding(self, family: Family, prefix: Prefix) -> Hiding | None:
        """What of this node hides what peers say of a prefix: what the decision asked."""
        rib = self._ribs[family]
        learned = rib.loc_rib.get(prefix)
        return rib.hiding(prefix, learned, rib.has_moved(prefix, learned))

    def judged(
        self, family: Family, prefix: Prefix
    ) -> tuple[Path | None, tuple[Path, ...], dict[Path, Reason]]:
        """The decision for a prefix in full, of the paths as received: best, multipath, and why each other path is
        not best."""
        rib = self._ribs[family]
        refused: dict[Path, Reason] = dict.fromkeys(rib.adj_rib_in.surplus(prefix), Reason.SURPLUS)
        taken: dict[Path, Path] = {}
        for path in rib.adj_rib_in.paths(prefix):
            made = self.imported(family, prefix, path)[0]
            if isinstance(made, Path):
                taken[made] = path
            else:
                refused[path] = made
        best, multipath, lost = judge(list(taken), self._resolve, self._max_paths, _accept)
        refused.update((taken[path], reason) for path, reason in lost.items())
        return taken[best] if best else None, tuple(taken[path] for path in multipath), refused

    def imported(self, family: Family, prefix: Prefix, path: Path) -> tuple[Path | Reason, Verdict | None]:
        """A received path as import leaves it, or why it does not; and what the peer's filters decided on it."""
        rib = self._ribs[family]
        return rib.import_one(prefix, path, rib.rules.get(path.peer.id) or ImportRules())

    def export_verdicts(self, family: Family, prefix: Prefix, group: UpdateGroup) -> list[ExportVerdict]:
        """What a group is sent of each route of a prefix, and by which rule."""
        rib = self._ribs[family]
        selection = rib.loc_rib.get(prefix)
        own = None if selection else rib.origination.announce.get(prefix)
        offered = None if selection or own else rib.origination.offered.get(prefix)
        paths = () if selection is None else usable(selection) if group.key.add_path else (selection.best,)
        return rib.adj_ribs_out.export_verdicts(prefix, group, own or offered, own is not None, paths)

    def kernel_word(
        self, family: Family, prefix: Prefix
    ) -> tuple[KernelRule | None, Via | KernelRefusal | None]:
        """The kernel rule that bears on a prefix, and what it makes of the chosen route, where there is one."""
        rib = self._ribs[family]
        rule, selection = rib.policy.kernel_rule(prefix), rib.loc_rib.get(prefix)
        if selection is None:
            return rule, None
        return rule, place(selection, rule, rib.policy, rib.tunnels.get, self._resolve, self._max_paths)


def _accept(path: Path) -> None:
    """Import has had its word already."""
