"""The single writer: what happened comes in, what must change goes out. Owns every RIB and does no I/O.

``daemon`` calls the event methods as the doors report, then ``work`` until nothing is due (a slice at a time, so that
the event loop is never held), and passes ``take_changes`` on: forwarding to the reconcilers, Adj-RIB-Out to the update
groups. Decisions depend on present state alone (house rule 4): an event may come twice or late.

A prefix of this node's own (announced, or a blackhole) is not up for decision: what peers say of it is kept and hidden.
The same holds for the node's own addresses and connected subnets. Everything else is decided by ``rules.decision``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from bgpd.model.peer import Down, Peer, PeerId
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


@dataclass(slots=True)
class Changes:
    """What one turn of work decided. ``None`` is "gone"."""

    fib: dict[Family, FibChanges] = field(default_factory=dict)
    adj_rib_out: dict[Group, OutChanges] = field(default_factory=dict)


@dataclass(slots=True)
class _Single:
    """The decision for a prefix whose only path this is: the same for all of them."""

    path: Path
    """Held, so that its id, by which this is found, is not another's."""
    selection: Selection | None
    forwarding: Forwarding | None


@dataclass(slots=True)
class _Update:
    """One update group: its table, and per path what the path alone says of exporting it."""

    group: Group
    members: int
    table: AdjRibOut
    local: Out
    learned: dict[int, tuple[Path, Out | ExportRefusal]]


class _FamilyRib:
    """All tables of one family."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.metric = default_metric(family)
        self.adj_rib_in = AdjRibIn()
        self.loc_rib: LocRib = {}
        self.origination = Origination()
        self.local: Mapping[Prefix, str] = {}
        self.updates: dict[Group, _Update] = {}
        self.dirty: Dirty = {}
        self.rescans: list[tuple[Iterator[Prefix], frozenset[Address]]] = []
        self.singles: dict[int, _Single] = {}


class Router:
    """See the module. ``resolve`` tells where a next hop leads; the kernel door's, or a table in tests."""

    def __init__(self, resolve: Resolve, max_paths: int = 16) -> None:
        self._resolve, self._max_paths = resolve, max_paths
        self._ribs = {family: _FamilyRib(family) for family in Family}
        self._peers: dict[PeerId, Peer] = {}
        self._stale_until: dict[tuple[PeerId, Family], float] = {}
        self._over_limit: dict[PeerId, tuple[Peer, Family, int]] = {}
        self._changes = Changes()
        self._refusing: set[PeerId] = set()
        """Peers that announced something that import refuses: only theirs is counted one by one."""

    # What happened.

    def session_up(self, peer: Peer) -> None:
        """A session is established: its routes will follow, and it joins its update groups.

        Stale routes of a family whose forwarding the peer did not preserve go at once (RFC 4724 §4.2).
        """
        self._peers[peer.id] = peer
        for family, rib in self._ribs.items():
            if family not in peer.forwarding_preserved:
                self._stale_until.pop((peer.id, family), None)
                rib.adj_rib_in.flush(peer.id)
        for family, group in groups_of(peer).items():
            updates = self._ribs[family].updates
            if update := updates.get(group):
                update.members += 1
            else:
                updates[group] = _Update(group, 1, {}, local_out(group), {})
                self._decide_all(family)

    def session_down(self, peer: Peer, down: Down, now: float) -> None:
        """A session ended. Routes of the families in ``down.keep`` stay as stale for ``down.keep_seconds``."""
        if self._peers.get(peer.id) is peer:
            del self._peers[peer.id]
        for family, rib in self._ribs.items():
            if family in down.keep:
                rib.adj_rib_in.mark_stale(peer.id)
                self._stale_until[peer.id, family] = now + down.keep_seconds
            else:
                self._stale_until.pop((peer.id, family), None)
                rib.adj_rib_in.flush(peer.id)
        for family, group in groups_of(peer).items():
            updates = self._ribs[family].updates
            if update := updates.get(group):
                update.members -= 1
                if not update.members:
                    del updates[group]

    def forget(self, peer: PeerId) -> None:
        """The peer is no longer wanted: whatever it left goes."""
        for family, rib in self._ribs.items():
            self._stale_until.pop((peer, family), None)
            rib.adj_rib_in.flush(peer)

    def received(self, peer: Peer, events: Sequence[RibEvent]) -> None:
        """What a session said, in order."""
        limit = peer.config.max_prefixes
        for event in events:
            rib = self._ribs[event.family]
            if isinstance(event, Announce):
                rib.adj_rib_in.announce(event.path, event.prefixes, rib.dirty)
                if import_refusal(event.path):
                    self._refusing.add(peer.id)
                if limit is not None:
                    count = rib.adj_rib_in.counts(peer.id)[0]
                    if count > limit:
                        self._over_limit[peer.id] = (peer, event.family, count)
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
            if (new.exported_pools, new.hidden_pools) != (old.exported_pools, old.hidden_pools):
                self._decide_all(family)
                continue
            for before, after in ((old.announce, new.announce), (old.blackholes, new.blackholes)):
                for prefix in before.keys() | after.keys():
                    if before.get(prefix) != after.get(prefix):
                        rib.dirty[prefix] = None

    def local_prefixes(self, family: Family, local: Mapping[Prefix, str]) -> None:
        """This node's own addresses and connected subnets, each with a word for it: never taken from a peer."""
        rib = self._ribs[family]
        for prefix in rib.local.keys() ^ local.keys():
            rib.dirty[prefix] = None
        rib.local = dict(local)

    def next_hops_changed(self, addresses: frozenset[Address]) -> None:
        """These resolve otherwise than before: every prefix with a path through one is decided again."""
        for rib in self._ribs.values():
            for ident in [i for i, single in rib.singles.items() if single.path.next_hop in addresses]:
                del rib.singles[ident]
            if rib.adj_rib_in.candidates:
                rib.rescans.append((iter(list(rib.adj_rib_in.candidates)), addresses))

    def tick(self, now: float) -> None:
        """Stale routes whose time is up go (RFC 4724 §4.2)."""
        for key in [key for key, deadline in self._stale_until.items() if deadline <= now]:
            del self._stale_until[key]
            self._ribs[key[1]].adj_rib_in.sweep_stale(key[0])

    def next_deadline(self) -> float | None:
        """When ``tick`` is next needed."""
        return min(self._stale_until.values(), default=None)

    # The work, and what comes of it.

    def work(self, limit: int = 2048) -> bool:
        """Decide up to ``limit`` prefixes of each family. Whether more is due."""
        for rib in self._ribs.values():
            if rib.rescans:
                self._rescan(rib, limit * 8)  # looking costs far less than deciding
            rib.adj_rib_in.sweep(limit, rib.dirty)
            dirty = rib.dirty
            if len(dirty) <= limit:
                rib.dirty = {}
            else:
                dirty = dict.fromkeys(islice(dirty, limit))
                for prefix in dirty:
                    del rib.dirty[prefix]
            if dirty:
                self._decide(rib, dirty)
                self._trim(rib)
        return self.busy

    @property
    def busy(self) -> bool:
        """Whether ``work`` has something to do."""
        return any(rib.dirty or rib.rescans or rib.adj_rib_in.sweeping for rib in self._ribs.values())

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
        update = self._ribs[group.family].updates.get(group)
        return update.table if update else {}

    @property
    def groups(self) -> int:
        """How many update groups there are."""
        return sum(len(rib.updates) for rib in self._ribs.values())

    # What is there, for the operator.

    def counts(self, peer: PeerId, family: Family) -> tuple[int, int, int]:
        """(received, accepted, stale) paths of a peer."""
        rib = self._ribs[family]
        received, stale = rib.adj_rib_in.counts(peer)
        if peer in self._refusing:
            paths = rib.adj_rib_in.peer_paths(peer)
            return received, sum(not import_refusal(path) for _, path, _ in paths), stale
        return received, received, stale

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
        rib = self._ribs[family]
        update = rib.updates.get(group)
        if update is None:
            return None
        if prefix in rib.origination.announce:
            return update.local
        selection = rib.loc_rib.get(prefix)
        if selection is None:
            return None
        out = self._learned(update, selection.best)
        return prefix_refusal(prefix, rib.origination) or out if isinstance(out, Out) else out

    # Inside.

    def _decide_all(self, family: Family) -> None:
        rib = self._ribs[family]
        rib.dirty.update(dict.fromkeys(rib.origination.announce))
        rib.dirty.update(dict.fromkeys(rib.adj_rib_in.candidates))
        for update in rib.updates.values():
            rib.dirty.update(dict.fromkeys(update.table))

    @staticmethod
    def _rescan(rib: _FamilyRib, limit: int) -> None:
        done = 0
        candidates = rib.adj_rib_in.candidates
        while rib.rescans and done < limit:
            prefixes, addresses = rib.rescans[0]
            for prefix in prefixes:
                found = candidates.get(prefix)
                if isinstance(found, Path):
                    if found.next_hop in addresses:
                        rib.dirty[prefix] = None
                elif found and any(path.next_hop in addresses for path in found):
                    rib.dirty[prefix] = None
                done += 1
                if done >= limit:
                    break
            else:
                rib.rescans.pop(0)

    def _decide(self, rib: _FamilyRib, prefixes: Iterable[Prefix]) -> None:
        """The hot loop: from candidates to the kernel's route and the update groups' tables."""
        candidates, loc_rib, singles = rib.adj_rib_in.candidates, rib.loc_rib, rib.singles
        origination, local, metric = rib.origination, rib.local, rib.metric
        announce, blackholes = origination.announce, origination.blackholes
        updates = list(rib.updates.values())
        fib = self._changes.fib.setdefault(rib.family, {})
        for prefix in prefixes:
            found = candidates.get(prefix)
            wanted: Forwarding | None
            if found is None:
                selection, wanted = None, None
            elif isinstance(found, Path):
                single = singles.get(id(found)) or self._decide_single(rib, found)
                selection, wanted = single.selection, single.forwarding
            else:
                selection = select(found, self._resolve, self._max_paths)
                wanted = forwarding(selection, self._resolve, self._max_paths) if selection else None
            own = prefix in announce
            if own or prefix in blackholes or prefix in local:
                blackhole = blackholes.get(prefix)
                if blackhole is not None and not (blackhole.yields and selection):
                    selection, wanted = None, BLACKHOLE
                elif own or prefix in local:
                    selection, wanted = None, None
            if selection is None:
                loc_rib.pop(prefix, None)
            else:
                loc_rib[prefix] = selection
            fib[prefix, metric] = wanted
            for update in updates:
                if own:
                    out: Out | None = update.local
                elif selection is None:
                    out = None
                else:
                    learned = self._learned(update, selection.best)
                    passed = type(learned) is Out and prefix_refusal(prefix, origination) is None
                    out = learned if passed else None  # type: ignore[assignment]
                told = update.table.get(prefix)
                if out is not told and out != told:
                    changes = self._changes.adj_rib_out.setdefault(update.group, {})
                    first = changes.get(prefix)
                    changes[prefix] = (first[0] if first else told, out)
                    if out is None:
                        del update.table[prefix]
                    else:
                        update.table[prefix] = out

    def _decide_single(self, rib: _FamilyRib, path: Path) -> _Single:
        selection = select((path,), self._resolve, self._max_paths)
        wanted = forwarding(selection, self._resolve, self._max_paths) if selection else None
        rib.singles[id(path)] = single = _Single(path, selection, wanted)
        return single

    @staticmethod
    def _learned(update: _Update, path: Path) -> Out | ExportRefusal:
        entry = update.learned.get(id(path))
        if entry is None:
            entry = update.learned[id(path)] = (path, learned_out(path, update.group))
        return entry[1]

    def _trim(self, rib: _FamilyRib) -> None:
        """Forget what was derived of paths of sessions that are gone, once nothing of theirs is left to decide."""
        if rib.dirty or rib.adj_rib_in.sweeping or len(rib.singles) < 4096:
            return
        live = {id(peer) for peer in self._peers.values()}
        kept = {i: s for i, s in rib.singles.items() if id(s.path.peer) in live}
        if len(kept) < len(rib.singles) // 2:
            rib.singles = kept
            for update in rib.updates.values():
                update.learned = {i: e for i, e in update.learned.items() if id(e[0].peer) in live}
