"""The single writer: what happened comes in, what must change goes out. Owns every RIB and does no I/O.

``daemon`` calls the event methods as the doors report, then ``work`` until nothing is due (a slice at a time, so that
the event loop is never held), and passes ``take_changes`` on: forwarding to the reconcilers, Adj-RIB-Out to the update
groups. Decisions depend on present state alone (house rule 4): an event may come twice or late.

A prefix of this node's own (announced, or a blackhole) is not up for decision: what peers say of it is kept and hidden.
The same holds for the node's own addresses and connected subnets. Everything else is decided by ``rules.decision``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from bgpd.model.peer import Down, DownReason, Peer, PeerId
from bgpd.model.prefix import Address, Family, Prefix
from bgpd.model.route import (
    BLACKHOLE,
    Announce,
    FibKey,
    Forwarding,
    Origination,
    Out,
    Path,
    Reason,
    Resolution,
    RibEvent,
    Selection,
    Unresolved,
    Withdraw,
    default_metric,
)
from bgpd.rib import AdjRibIn, AdjRibOut, Dirty, LocRib
from bgpd.rules.decision import judge, select
from bgpd.rules.forwarding import forwarding
from bgpd.rules.policy import (
    ExportRefusal,
    Group,
    groups_of,
    import_refusal,
    learned_out,
    local_out,
    prefix_refusal,
)

Resolve = Callable[[Address], Resolution | Unresolved]
FibChanges = dict[FibKey, Forwarding | None]
OutChanges = dict[Prefix, tuple[Out | None, Out | None]]
"""Prefix -> (what the group was told before this batch, what it is told now)."""
STALE_TIME = 360.0
"""Seconds that stale routes wait for End-of-RIB once their peer is back (RFC 4724 §4.2, the upper bound that it leaves
to us): a peer may hold its End-of-RIB until it converged itself, in BIRD 240 s."""
SPARE_DECISIONS = 4096
"""Decisions remembered beyond one a prefix."""


@dataclass(slots=True)
class Changes:
    """What one turn of work decided. ``None`` is "gone"."""

    fib: dict[Family, FibChanges] = field(default_factory=dict)
    adj_rib_out: dict[Group, OutChanges] = field(default_factory=dict)


@dataclass(slots=True)
class _Update:
    """One update group and what it is told."""

    group: Group
    members: int
    table: AdjRibOut
    local: Out


@dataclass(slots=True)
class _Decision:
    """What follows from one set of candidates, whichever prefix has it: made once, shared by all of those."""

    paths: Path | tuple[Path, ...]
    """Held, so that the ids by which this is found are not another's."""
    epoch: object
    """Of the next hops, when this was made: once one of them changed, this is no longer true."""
    selection: Selection | None
    forwarding: Forwarding | None
    updates: tuple[_Update, ...] = ()
    """The update groups that ``outs`` is for."""
    outs: tuple[Out | None, ...] = ()
    """What each of them may be told, as far as the path alone says."""


class _FamilyRib:
    """All tables of one family."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.metric = default_metric(family)
        self.adj_rib_in = AdjRibIn()
        self.loc_rib: LocRib = {}
        self.origination = Origination()
        self.local: Mapping[Prefix, str] = {}
        self.special: frozenset[Prefix] = frozenset()
        """Prefixes that the origination or this node's own addresses and subnets have a word on."""
        self.updates: tuple[_Update, ...] = ()
        self.dirty: Dirty = {}
        self.queue: deque[Prefix] = deque()
        """Taken from ``dirty``, decided next."""
        self.decisions: dict[int | tuple[int, ...], _Decision] = {}
        """By the ids of the candidates."""
        self.epoch = object()
        self.moved: set[Address] = set()
        """Next hops that changed since the last scan for them began."""
        self.scan: tuple[Iterator[Prefix], frozenset[Address]] | None = None

    @property
    def busy(self) -> bool:
        return bool(self.dirty or self.queue or self.moved or self.scan or self.adj_rib_in.sweeping)

    def specials(self) -> None:
        """The origination or the local prefixes are others."""
        origination = self.origination
        self.special = frozenset((*origination.announce, *origination.blackholes, *self.local))

    def decide_all(self) -> None:
        """All that a peer may be told, and all that peers announced."""
        self.dirty.update(self.origination.announce)
        self.dirty.update(self.adj_rib_in.candidates)
        for update in self.updates:
            self.dirty.update(update.table)

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
        """Up to ``limit`` of the oldest go, when more are remembered than can be in use."""
        excess = len(self.decisions) - len(self.adj_rib_in.candidates) - SPARE_DECISIONS
        if excess > 0:
            for key in list(islice(self.decisions, min(excess, limit))):
                del self.decisions[key]


class Router:
    """See the module. ``resolve`` tells where a next hop leads; the kernel door's, or a table in tests."""

    def __init__(self, resolve: Resolve, max_paths: int = 16) -> None:
        self._resolve, self._max_paths = resolve, max_paths
        self._ribs = {family: _FamilyRib(family) for family in Family}
        self._peers: dict[PeerId, Peer] = {}
        self._stale_until: dict[tuple[PeerId, Family], float] = {}
        self._over_limit: dict[PeerId, tuple[Peer, Family, int]] = {}
        self._changes = Changes()

    # What happened.

    def session_up(self, peer: Peer, now: float) -> None:
        """A session is established: its routes will follow, and it joins its update groups.

        Stale routes wait for its End-of-RIB, ``STALE_TIME`` at most; those of a family whose forwarding the peer did
        not preserve, or that this session does not carry, go at once (RFC 4724 §4.2).
        """
        before = self._peers.get(peer.id)
        if before is peer:
            return
        if before is not None:  # its end comes late, or never
            replaced = Down(DownReason.REPLACED, "", before.restart_families, before.restart_time)
            self.session_down(before, replaced, now)
        self._peers[peer.id] = peer
        kept = peer.families & peer.forwarding_preserved
        for family, rib in self._ribs.items():
            key = peer.id, family
            if family not in kept:
                self._stale_until.pop(key, None)
                rib.adj_rib_in.flush(peer.id)
            elif key in self._stale_until:
                self._stale_until[key] = now + STALE_TIME
        for family, group in groups_of(peer).items():
            rib = self._ribs[family]
            if update := self._update(group):
                update.members += 1
            else:
                rib.updates = (*rib.updates, _Update(group, 1, {}, local_out(group)))
                rib.decide_all()

    def session_down(self, peer: Peer, down: Down, now: float) -> None:
        """A session ended. Routes of the families in ``down.keep`` stay as stale for ``down.keep_seconds``.

        Word of a session that another has replaced comes too late to mean anything.
        """
        if self._peers.get(peer.id) is not peer:
            return
        del self._peers[peer.id]
        self._over_limit.pop(peer.id, None)
        for family, rib in self._ribs.items():
            if family in down.keep:
                rib.adj_rib_in.mark_stale(peer.id)
                self._stale_until[peer.id, family] = now + down.keep_seconds
            else:
                self._stale_until.pop((peer.id, family), None)
                rib.adj_rib_in.flush(peer.id)
        for family, group in groups_of(peer).items():
            if update := self._update(group):
                update.members -= 1
                if not update.members:
                    rib = self._ribs[family]
                    rib.updates = tuple(other for other in rib.updates if other is not update)
                    self._changes.adj_rib_out.pop(group, None)

    def forget(self, peer: PeerId) -> None:
        """The peer is no longer wanted: its session, if its end was not told, and whatever it left go."""
        if session := self._peers.get(peer):
            self.session_down(session, Down(DownReason.CONFIG, ""), 0.0)
        for family, rib in self._ribs.items():
            self._stale_until.pop((peer, family), None)
            rib.adj_rib_in.flush(peer)

    def received(self, peer: Peer, events: Sequence[RibEvent]) -> None:
        """What a session said, in order."""
        if self._peers.get(peer.id) is not peer:
            return
        limit = peer.config.max_prefixes
        for event in events:
            rib = self._ribs[event.family]
            if isinstance(event, Announce):
                refused = import_refusal(event.path) is not None
                rib.adj_rib_in.announce(event.path, event.prefixes, rib.dirty, refused)
                if limit is not None:
                    received, _, stale = rib.adj_rib_in.counts(peer.id)
                    if received - stale > limit:
                        self._over_limit[peer.id] = (peer, event.family, received - stale)
            elif isinstance(event, Withdraw):
                rib.adj_rib_in.withdraw(peer, event.prefixes, event.path_id, rib.dirty)
            else:
                self._stale_until.pop((peer.id, event.family), None)
                rib.adj_rib_in.sweep_stale(peer.id)

    def originated(self, originations: Mapping[Family, Origination]) -> None:
        """What this node announces and keeps, whole; only what differs from before is decided again."""
        for family, new in originations.items():
            rib, old = self._ribs[family], self._ribs[family].origination
            rib.origination = new
            rib.specials()
            for before, after in ((old.announce, new.announce), (old.blackholes, new.blackholes)):
                for prefix in before.keys() | after.keys():
                    if before.get(prefix) != after.get(prefix):
                        rib.dirty[prefix] = None
            if (new.exported_pools, new.hidden_pools) != (old.exported_pools, old.hidden_pools):
                rib.decide_all()

    def local_prefixes(self, family: Family, local: Mapping[Prefix, str]) -> None:
        """This node's own addresses and connected subnets, each with a word for it: never taken from a peer."""
        rib = self._ribs[family]
        rib.dirty.update(dict.fromkeys(rib.local.keys() ^ local.keys()))
        rib.local = dict(local)
        rib.specials()

    def next_hops_changed(self, addresses: frozenset[Address]) -> None:
        """These resolve otherwise than before: every prefix with a path through one is decided again."""
        for rib in self._ribs.values():
            rib.epoch = object()
            if rib.adj_rib_in.candidates:
                rib.moved |= addresses

    def tick(self, now: float) -> None:
        """Stale routes whose time is up go (RFC 4724 §4.2)."""
        for key in [key for key, deadline in self._stale_until.items() if deadline <= now]:
            del self._stale_until[key]
            self._ribs[key[1]].adj_rib_in.sweep_stale(key[0])

    def next_deadline(self) -> float | None:
        """When ``tick`` is next needed."""
        return min(self._stale_until.values(), default=None)

    # The work, and what comes of it.

    def work(self, limit: int = 128) -> bool:
        """Decide up to ``limit`` prefixes of each family. Whether more is due.

        A prefix costs half a microsecond where others have its paths, twenty where it has two paths of its own.
        """
        for rib in self._ribs.values():
            if rib.moved or rib.scan:
                rib.look_for_moved(limit * 8)  # looking costs far less than deciding
            rib.adj_rib_in.sweep(limit, rib.dirty)
            queue = rib.queue
            if not queue and rib.dirty:
                queue.extend(rib.dirty)
                rib.dirty = {}
            if queue:
                self._decide(rib, [queue.popleft() for _ in range(min(limit, len(queue)))])
                rib.forget_decisions(limit)
        return self.busy

    @property
    def busy(self) -> bool:
        """Whether ``work`` has something to do."""
        return any(rib.busy for rib in self._ribs.values())

    def take_changes(self) -> Changes:
        """What was decided since the last call."""
        changes, self._changes = self._changes, Changes()
        return changes

    def take_over_limit(self) -> list[tuple[Peer, Family, int]]:
        """Sessions that announced more than their ``max_prefixes``, with the family and the count."""
        found, self._over_limit = list(self._over_limit.values()), {}
        return found

    def adj_rib_out(self, group: Group) -> AdjRibOut:
        """The table of an update group; live, to be read only."""
        update = self._update(group)
        return update.table if update else {}

    @property
    def groups(self) -> int:
        """How many update groups there are."""
        return sum(len(rib.updates) for rib in self._ribs.values())

    # What is there, for the operator.

    def counts(self, peer: PeerId, family: Family) -> tuple[int, int, int]:
        """(received, accepted, stale) paths of a peer."""
        return self._ribs[family].adj_rib_in.counts(peer)

    def rib(self, family: Family) -> LocRib:
        """The Loc-RIB: prefix -> Selection of what was learned; live, to be read only."""
        return self._ribs[family].loc_rib

    def adj_rib_in(self, family: Family) -> AdjRibIn:
        """The Adj-RIB-In; live, to be read only."""
        return self._ribs[family].adj_rib_in

    def origination(self, family: Family) -> Origination:
        """What this node announces and keeps."""
        return self._ribs[family].origination

    def local(self, family: Family) -> Mapping[Prefix, str]:
        """Own addresses and connected subnets."""
        return self._ribs[family].local

    def judged(
        self, family: Family, prefix: Prefix
    ) -> tuple[Path | None, tuple[Path, ...], dict[Path, Reason]]:
        """The decision for a prefix told in full: best, multipath, and why each other path is not best."""
        return judge(self._ribs[family].adj_rib_in.paths(prefix), self._resolve, self._max_paths)

    def exported(self, family: Family, prefix: Prefix, group: Group) -> Out | ExportRefusal | None:
        """What a group is told of a prefix, or why not; ``None`` where there is nothing to tell."""
        rib, update = self._ribs[family], self._update(group)
        if update is None:
            return None
        if prefix in rib.origination.announce:
            return update.local
        selection = rib.loc_rib.get(prefix)
        if selection is None:
            return None
        out = learned_out(selection.best, group)
        return out if isinstance(out, ExportRefusal) else prefix_refusal(prefix, rib.origination) or out

    # Inside.

    def _update(self, group: Group) -> _Update | None:
        return next((update for update in self._ribs[group.family].updates if update.group == group), None)

    def _decide(self, rib: _FamilyRib, prefixes: Iterable[Prefix]) -> None:
        """The hot loop: from candidates to the kernel's route and the update groups' tables."""
        candidates, loc_rib, decisions = rib.adj_rib_in.candidates, rib.loc_rib, rib.decisions
        origination, local, special, metric = rib.origination, rib.local, rib.special, rib.metric
        epoch, updates = rib.epoch, rib.updates
        fib = self._changes.fib.setdefault(rib.family, {})
        for prefix in prefixes:
            found = candidates.get(prefix)
            if found is None and prefix not in special:
                loc_rib.pop(prefix, None)
                fib[prefix, metric] = None
                for update in updates:
                    if prefix in update.table:
                        self._tell(update, prefix, None)
                continue
            selection: Selection | None = None
            wanted: Forwarding | None = None
            outs: Sequence[Out | None] = ()
            if found is not None:
                key = id(found) if type(found) is Path else tuple(map(id, found))
                decision = decisions.get(key)
                if decision is None or decision.epoch is not epoch:
                    decision = decisions[key] = self._decision(found, epoch)
                if decision.updates is not updates:
                    self._export(decision, updates)
                selection, wanted, outs = decision.selection, decision.forwarding, decision.outs
            if prefix in special:
                own, hole = prefix in origination.announce, origination.blackholes.get(prefix)
                if own or prefix in local or (hole and not hole.yields):
                    selection = None
                if selection is None:
                    wanted = BLACKHOLE if hole else None
                    outs = [update.local for update in updates] if own else ()
            if selection is None:
                loc_rib.pop(prefix, None)
                fib[prefix, metric] = wanted
            else:
                if loc_rib.get(prefix) is not selection:
                    loc_rib[prefix] = selection
                    fib[prefix, metric] = wanted
                if outs and prefix_refusal(prefix, origination):
                    outs = ()
            if outs:
                for update, out in zip(updates, outs, strict=True):
                    if update.table.get(prefix) != out:
                        self._tell(update, prefix, out)
            else:
                for update in updates:
                    if prefix in update.table:
                        self._tell(update, prefix, None)

    def _decision(self, found: Path | tuple[Path, ...], epoch: object) -> _Decision:
        selection = select((found,) if isinstance(found, Path) else found, self._resolve, self._max_paths)
        wanted = forwarding(selection, self._resolve, self._max_paths) if selection else None
        return _Decision(found, epoch, selection, wanted)

    @staticmethod
    def _export(decision: _Decision, updates: tuple[_Update, ...]) -> None:
        """Fill in ``decision.outs``; empty when nobody may be told."""
        best = decision.selection.best if decision.selection else None
        found = [learned_out(best, update.group) for update in updates] if best else []
        outs = tuple(out if isinstance(out, Out) else None for out in found)
        decision.outs = outs if any(outs) else ()
        decision.updates = updates

    def _tell(self, update: _Update, prefix: Prefix, out: Out | None) -> None:
        """An update group is told something else of a prefix than before."""
        changes = self._changes.adj_rib_out.setdefault(update.group, {})
        pair = changes.get(prefix)
        before = pair[0] if pair else update.table.get(prefix)
        if pair and before == out:
            del changes[prefix]
        else:
            changes[prefix] = (before, out)
        if out is None:
            del update.table[prefix]
        else:
            update.table[prefix] = out
