"""All of one family: what was heard, what of it import leaves, what is chosen, and what follows from that.

Part of ``router``, the single writer, which hears the sessions and hands this what concerns a family; apart from it
because sessions come and go in one, and prefixes are decided in the other. ``decide`` is the hot loop: a decision is
found by its candidates' identities. What follows from it, the kernel's route and what each group is sent, is worked out
once for all prefixes that have those candidates. Import filters, kernel rules and export filters look at the prefix
too; a family that has none of them pays a question a batch for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, repeat

from bgpd.model.peer import Peer, PeerId
from bgpd.model.prefix import Address, Family, Prefix
from bgpd.model.resources import Operation
from bgpd.model.route import (
    BLACKHOLE,
    FibKey,
    Forwarding,
    Origination,
    Path,
    Reason,
    Resolution,
    Selection,
    Unresolved,
    Via,
    default_metric,
)
from bgpd.rib.groups import AdjRibsOut, Advertised, UpdateGroup
from bgpd.rib.remembered import Remembered
from bgpd.rib.tables import AdjRibIn, Dirty, LocRib
from bgpd.rules import own as of_own
from bgpd.rules.decision import select
from bgpd.rules.exports import prefix_refusal
from bgpd.rules.filters import Verdict
from bgpd.rules.forwarding import KernelRefusal, forwarding, place
from bgpd.rules.imports import (
    ImportRules,
    altered,
    import_refusal,
    import_verdict,
    prefix_import_refusal,
    rejected,
)
from bgpd.rules.policy import FamilyPolicy, KernelRule
from bgpd.rules.priority import selected_metric

Resolve = Callable[[Address], Resolution | Unresolved]
FibChanges = dict[FibKey, Forwarding | None]
SPARE_OCTETS, OCTETS_OF_PREFIX = 4 << 20, 1600
"""Octets of decisions that are remembered, and more for each prefix that has paths."""
_SIZE_OF_DECISION, _SIZE_OF_PATH = 768, 128


@dataclass(slots=True)
class _Decision:
    """What follows from one set of candidates, whichever prefix has it: made once, shared by all of those."""

    paths: Path | tuple[Path, ...]
    """Held, so that the ids by which this is found are not another's."""
    epoch: object
    """The next hops' epoch when this was made: once one of them changed, this is no longer true."""
    selection: Selection | None
    forwarding: Forwarding | None
    """The kernel's route, where no kernel rule bears on the prefix."""
    metric: int
    """The metric of that route in the kernel."""
    groups: tuple[UpdateGroup, ...] | None = None
    """The update groups that ``outs`` is for."""
    outs: tuple[Advertised, ...] = ()
    """What each of them may be sent, as far as the paths alone say."""
    placed: dict[KernelRule | None, Via | KernelRefusal] = field(default_factory=dict)
    """The forwarding under each kernel rule that was asked for."""

    @property
    def octets(self) -> int:
        """Of memory, about: itself, its paths, and as much again for what groups are sent of the best."""
        paths = (self.paths,) if isinstance(self.paths, Path) else self.paths
        return _SIZE_OF_DECISION + sum(_SIZE_OF_PATH + 2 * path.attributes.size for path in paths)


class FamilyRib:
    """All tables of one family."""

    def __init__(
        self, family: Family, resolve: Resolve, max_paths: int, is_client: Callable[[Path], bool]
    ) -> None:
        self.family = family
        self._resolve, self._max_paths = resolve, max_paths
        self.metric = default_metric(family)
        self.adj_rib_in = AdjRibIn()
        self.loc_rib: LocRib = {}
        self.origination = Origination()
        self.local: Mapping[Prefix, str] = {}
        self.special: frozenset[Prefix] = frozenset()
        """Prefixes that the origination or this node's own addresses and subnets have a word on."""
        self.policy = FamilyPolicy()
        self.plain = True
        """Every learned route goes into the kernel as it resolves."""
        self.elevating = True
        """A workload that moves takes its address with it: metrics below the normal one mean that."""
        self.tunnels: Mapping[str, int] = {}
        """Tunnel devices that are up, name -> index."""
        self.fib: FibChanges = {}
        """What was decided for the kernel since it was taken."""
        self.left: set[FibKey] = set()
        """Keys of it that are Felix's to write."""
        self.adj_ribs_out = AdjRibsOut(family, is_client)
        self.rules: dict[PeerId, ImportRules] = {}
        """The import rules of peers that were heard, found when first asked for."""
        self.importing: dict[PeerId, ImportRules] = {}
        """Peers whose paths are looked at prefix by prefix: those with import filters, those that announced martians,
        and those whose rules have changed since they were heard, so that what is refused is counted anew."""
        self.former: dict[PeerId, set[PeerId]] = {}
        """Peers that may have stale paths of others, in whose places they came."""
        self.altered: Remembered[tuple[Path, tuple[Operation, ...]], Path] = Remembered()
        """Paths that import altered, by path and operations."""
        self.placed: dict[Prefix, int] = {}
        """Prefixes whose route in the kernel has another metric than the usual one."""
        self.dirty: Dirty = {}
        self.queue: deque[Prefix] = deque()
        """Taken from ``dirty``, decided next."""
        self.decisions: dict[int | tuple[int, ...], _Decision] = {}
        """By the ids of the candidates, the oldest first."""
        self.decision_octets = 0
        self.epoch = object()
        self.moved: set[Address] = set()
        """Next hops that changed since the last scan for them began."""
        self.scan: tuple[Iterator[Prefix], frozenset[Address]] | None = None

    @property
    def busy(self) -> bool:
        return bool(self.dirty or self.queue or self.moved or self.scan or self.adj_rib_in.sweeping)

    def specials(self) -> None:
        """The origination or the local prefixes are others."""
        self.special = of_own.special(self.origination, self.local, self.adj_ribs_out.filtered)

    def decide_all(self) -> None:
        """All that a peer may be sent, and all that peers announced."""
        for table in (self.special, self.adj_rib_in.candidates, self.placed):
            self.dirty.update(dict.fromkeys(table))
        for group in self.adj_ribs_out.groups:
            self.dirty.update(group.state)

    def revalue(self) -> None:
        """Decisions are made anew, of all prefixes."""
        self.epoch = object()
        self.adj_ribs_out.forget_results()
        self.specials()
        self.decide_all()

    def imported(self, prefix: Prefix) -> Path | tuple[Path, ...] | None:
        """The candidates of a prefix as its peers' import filters leave them; counts what they refuse."""
        found = self.adj_rib_in.candidates.get(prefix)
        if found is None:
            return None
        paths = (found,) if isinstance(found, Path) else found
        if self.importing.keys().isdisjoint(path.peer.id for path in paths):
            return found
        kept: list[Path] = []
        for path in paths:
            rules = self.importing.get(path.peer.id)
            if rules is None:
                kept.append(path)
                continue
            made = self.import_one(prefix, path, rules)[0]
            self.adj_rib_in.refuse(prefix, path, not isinstance(made, Path))
            if isinstance(made, Path):
                kept.append(made)
        return None if not kept else kept[0] if len(kept) == 1 else tuple(kept)

    def import_one(
        self, prefix: Prefix, path: Path, rules: ImportRules
    ) -> tuple[Path | Reason, Verdict | None]:
        """A path as import leaves it, or why it does not; and what the filters decided."""
        if refusal := prefix_import_refusal(self.family, prefix, path, rules):
            return refusal, None
        verdict = import_verdict(self.family, prefix, path, rules)
        if verdict is None or not (verdict.operations or rejected(verdict)):
            return path, verdict
        if rejected(verdict):
            return Reason.FILTERED, verdict
        key = path, verdict.operations
        made = self.altered.get(key)
        if made is None:
            made = self.altered.keep(key, altered(path, verdict.operations), path)
        return made, verdict

    def program(self, fib: FibChanges, prefix: Prefix, at: int, wanted: Forwarding | None) -> None:
        """The kernel's route of a prefix, at a metric; at another metric than before, the old one goes."""
        before = self.placed.pop(prefix, self.metric)
        fib[prefix, at] = wanted
        if before != at:
            fib[prefix, before] = None
        if at != self.metric and wanted is not None:
            self.placed[prefix] = at

    def set_rules(self, peer: Peer, rules: ImportRules) -> None:
        """The import rules of a peer; where they differ from before, what it announced is looked at again."""
        before = self.rules.get(peer.id)
        self.rules[peer.id] = rules
        if before is not None and before != rules:
            if before.max_paths_per_prefix != rules.max_paths_per_prefix:
                self.adj_rib_in.limit(peer.id, rules.max_paths_per_prefix, self.dirty)
            self.epoch = object()
            self.importing[peer.id] = rules
            self.dirty.update(self.adj_rib_in.prefixes_of(peer.id))
        elif rules.chain is not None:
            self.importing[peer.id] = rules

    def drop_paths_of(self, peer: PeerId) -> None:
        """All that a peer announced goes."""
        self.adj_rib_in.flush(peer)
        for name in (peer, *self.former.pop(peer, ())):
            self.rules.pop(name, None)
            self.importing.pop(name, None)

    def hand_on(self, before: PeerId, after: PeerId) -> None:
        """What a peer left stale waits for what another announces. The paths are its own still, and under its rules."""
        self.adj_rib_in.hand_on(before, after)
        self.former.setdefault(after, set()).update({before}, self.former.pop(before, ()))

    def look_for_moved(self, limit: int) -> None:
        """Make the prefixes dirty that have a path through a next hop that changed: look at up to ``limit``."""
        candidates = self.adj_rib_in.candidates
        if self.scan is None:
            self.scan = iter(list(candidates)), frozenset(self.moved)
            self.moved.clear()
        prefixes, addresses = self.scan
        looked = 0
        for prefix in islice(prefixes, limit):
            looked += 1
            found = candidates.get(prefix)
            if isinstance(found, Path):
                if found.next_hop in addresses:
                    self.dirty[prefix] = None
            elif found and any(path.next_hop in addresses for path in found):
                self.dirty[prefix] = None
        if looked < limit:
            self.scan = None

    def forget_decisions(self, limit: int) -> None:
        """Up to ``limit`` of the oldest go, when they are more octets than what is in use can be; one that is asked for
        again is made again."""
        most = SPARE_OCTETS + OCTETS_OF_PREFIX * len(self.adj_rib_in.candidates)
        if self.decision_octets > most:
            for key in list(islice(self.decisions, limit)):
                self.decision_octets -= self.decisions.pop(key).octets
                if self.decision_octets <= most:
                    break
        self.adj_ribs_out.forget_path_ids()

    def decide(self, prefixes: Sequence[Prefix]) -> None:
        """The hot loop: from candidates to the kernel's route and the update groups' tables."""
        if self._decide_alike(prefixes):
            return
        candidates, loc_rib = self.adj_rib_in.candidates, self.loc_rib
        origination, local, special, usual = self.origination, self.local, self.special, self.metric
        adj_ribs_out, plain = self.adj_ribs_out, self.plain
        groups, filtered, placed = adj_ribs_out.groups, adj_ribs_out.filtered, self.placed
        find = self.imported if self.importing else candidates.get
        fib = self.fib
        for prefix in prefixes:
            found = find(prefix)
            if found is None and prefix not in special:
                loc_rib.pop(prefix, None)
                if placed:
                    self.program(fib, prefix, usual, None)
                else:
                    fib[prefix, usual] = None
                for group in groups:
                    if prefix in group.state:
                        adj_ribs_out.advertise(group, prefix, None)
                continue
            selection: Selection | None = None
            wanted: Forwarding | None = None
            outs: Sequence[Advertised] = ()
            at = usual
            if found is not None:
                decision = self._decided(found)
                selection, wanted = decision.selection, decision.forwarding
                outs, at = decision.outs, decision.metric
            if prefix in special:
                own, hole = origination.announce.get(prefix), origination.blackholes.get(prefix)
                static = origination.statics.get(prefix)
                moved = self.has_moved(prefix, selection)
                if self.hiding(prefix, selection, moved):
                    selection = None
                if moved:
                    own = None
                if selection is None:
                    wanted, at = BLACKHOLE if hole else None, usual
                    if static and prefix not in local:
                        resolution = self._resolve(static.gateway)
                        wanted = resolution.via if isinstance(resolution, Resolution) else None
                    offer = own or origination.offered.get(prefix)
                    outs = adj_ribs_out.own(prefix, offer, own is not None) if offer else ()
            if selection is None:
                loc_rib.pop(prefix, None)
                self.program(fib, prefix, at, wanted)
            else:
                if loc_rib.get(prefix) is not selection:
                    loc_rib[prefix] = selection
                    if not plain:
                        assert decision is not None
                        wanted = self._place(prefix, decision, at)
                    if placed or at != usual:
                        self.program(fib, prefix, at, wanted)
                    else:
                        fib[prefix, usual] = wanted
                if outs:
                    if filtered:
                        outs = adj_ribs_out.learned(prefix, selection, outs)
                    elif prefix_refusal(prefix, origination):
                        outs = ()
            if outs:
                for group, out in zip(groups, outs, strict=True):
                    if group.state.get(prefix) != out:
                        adj_ribs_out.advertise(group, prefix, out)
            else:
                for group in groups:
                    if prefix in group.state:
                        adj_ribs_out.advertise(group, prefix, None)

    def _decide_alike(self, prefixes: Sequence[Prefix]) -> bool:
        """The same for prefixes that all have the one same candidate, or none, and that nothing else bears on: a large
        table that one peer announces or takes back. Whether it was done."""
        if self.importing or self.placed or not self.plain or not self.special.isdisjoint(prefixes):
            return False
        all_found = list(map(self.adj_rib_in.candidates.get, prefixes))
        found = all_found[0]
        if isinstance(found, tuple) and not isinstance(found, Path):
            return False
        if all_found.count(found) < len(all_found):
            return False
        if found is None:
            forget = self.loc_rib.pop
            for prefix in prefixes:
                forget(prefix, None)
            self.fib.update(dict.fromkeys(zip(prefixes, repeat(self.metric))))
        else:
            decision = self._decided(found)
            selection = decision.selection
            if selection is None or decision.outs or decision.metric != self.metric:
                return False
            known = self.loc_rib
            new = [prefix for prefix in prefixes if known.get(prefix) is not selection]
            known.update(dict.fromkeys(new, selection))
            self.fib.update(dict.fromkeys(zip(new, repeat(self.metric)), decision.forwarding))
        for group in self.adj_ribs_out.groups:
            if group.state:
                for prefix in prefixes:
                    if prefix in group.state:
                        self.adj_ribs_out.advertise(group, prefix, None)
        return True

    def _decided(self, found: Path | tuple[Path, ...]) -> _Decision:
        """The decision for some candidates, as it is now: made before for other prefixes, or new."""
        key = id(found) if type(found) is Path else tuple(map(id, found))
        decision = self.decisions.get(key)
        if decision is None or decision.epoch is not self.epoch:
            if decision is None:
                decision = self._decision(found)
                self.decision_octets += decision.octets
            else:
                decision = self._decision(found)
            self.decisions[key] = decision
        if decision.groups is not self.adj_ribs_out.groups:
            decision.outs = self.adj_ribs_out.bases(decision.selection) if decision.selection else ()
            decision.groups = self.adj_ribs_out.groups
        return decision

    def _decision(self, found: Path | tuple[Path, ...]) -> _Decision:
        paths = (found,) if isinstance(found, Path) else found
        selection = select(paths, self._resolve, self._max_paths, self._refusal)
        if selection is None:
            return _Decision(found, self.epoch, None, None, self.metric)
        wanted = forwarding(selection, self._resolve, self._max_paths)
        return _Decision(
            found,
            self.epoch,
            selection,
            wanted,
            selected_metric(selection) if self.adj_ribs_out.prioritised else self.metric,
        )

    def _refusal(self, path: Path) -> Reason | None:
        if self.importing and path.peer.id in self.importing:
            return None  # what is refused has been left out
        return import_refusal(path, self.rules.get(path.peer.id))

    def _place(self, prefix: Prefix, decision: _Decision, at: int) -> Via | None:
        """The forwarding under the kernel rule of a prefix; what is Felix's to write instead is noted."""
        rule = self.policy.kernel_rule(prefix)
        made = decision.placed.get(rule)
        if made is None:
            assert decision.selection is not None
            made = decision.placed[rule] = place(
                decision.selection, rule, self.policy, self.tunnels.get, self._resolve, self._max_paths
            )
        if isinstance(made, Via):
            return made
        if made is KernelRefusal.ENCRYPTED or (rule is not None and rule.by_felix):
            self.left.update(((prefix, at), (prefix, self.placed.get(prefix, at))))
        return None

    def has_moved(self, prefix: Prefix, learned: Selection | None) -> bool:
        """Whether an address that we announce has gone to another node with its workload, by what was learned of it."""
        own = self.origination.announce.get(prefix)
        if own is None or learned is None or not self.elevating or prefix in self.local:
            return False
        return of_own.has_moved(self.family, prefix, own, learned, self.policy.normal_priority)

    def hiding(self, prefix: Prefix, learned: Selection | None, moved: bool) -> of_own.Hiding | None:
        """What of this node hides what was learned of a prefix."""
        moving = (
            learned is not None and self.elevating and of_own.is_moving(learned, self.policy.normal_priority)
        )
        return of_own.hiding(prefix, self.origination, self.local, moved, moving)
