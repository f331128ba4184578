"""The tables of RFC 4271 §3.2: Adj-RIB-In, Loc-RIB, Adj-RIB-Out. One of each family; owned by ``rib.router`` alone.

Adj-RIB-In holds every path twice: by session, so that a session's end finds its routes, and by prefix, so that the
decision finds its candidates. A prefix with one path (nearly all) holds that path itself, not a list. A session that
ends gives up its table at once; the paths are then taken out of the candidates a slice at a time
(``AdjRibIn.sweep``). Identity distinguishes them from paths of the peer's next session.

Of the paths that a session has of one prefix (RFC 7911), those with the lowest identifiers are candidates, as many as
its peer may have; the others are heard and refused, and take a place that becomes free.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import islice
from random import Random

from bgpd.model.peer import MOST_PATHS, Peer, PeerId
from bgpd.model.prefix import Prefix
from bgpd.model.route import Out, Path, Selection

Dirty = dict[Prefix, object]
"""An ordered set of prefixes whose decision is due; the values mean nothing."""
LocRib = dict[Prefix, Selection]
AdjRibOut = dict[Prefix, Out]
Key = Prefix | tuple[int, Prefix]
RUN, MOST_SCATTERED = 16, 1 << 17
"""Given-up paths that go together, and among how many such runs are scattered: a few milliseconds of work."""


class _Surplus:
    """Identifiers of a session's paths of one prefix that are more than it may have."""

    __slots__ = ("_heap", "ids")

    def __init__(self, ids: Iterable[int]) -> None:
        self.ids = set(ids)
        self._heap = sorted(self.ids)
        """All of them, and some that are gone."""

    def add(self, path_id: int) -> None:
        if path_id not in self.ids:
            self.ids.add(path_id)
            if len(self._heap) > 2 * len(self.ids) + MOST_PATHS:
                self._heap = sorted(self.ids)
            else:
                heappush(self._heap, path_id)

    def take_lowest(self) -> int:
        """The lowest, which is no longer one of them."""
        while (path_id := heappop(self._heap)) not in self.ids:
            pass
        self.ids.remove(path_id)
        return path_id


@dataclass(slots=True)
class _Table:
    """What one peer announced: ``fresh`` in its present session, ``stale`` kept from the one before (RFC 4724 §4.2).

    Keys are prefixes, or (path identifier, prefix) where ADD-PATH gives one other than 0.
    """

    fresh: dict[Key, Path] = field(default_factory=dict)
    stale: dict[Key, Path] = field(default_factory=dict)
    refused: set[Key] = field(default_factory=set)
    """Keys whose path import refuses: heard, counted, never used."""
    surplus: dict[Prefix, _Surplus] = field(default_factory=dict)
    """Paths beyond those that the peer may have of a prefix: fresh and refused, and not among the candidates."""

    def own(self, paths: Iterable[Path], prefix: Prefix) -> list[Path]:
        """Those of some candidates that the present session has announced."""
        return [path for path in paths if self.fresh.get(_key(path.path_id, prefix)) is path]


@dataclass(slots=True)
class _Ageing:
    """Stale routes that are to become others."""

    peer: PeerId
    keys: list[Key]
    aged: Callable[[Path], Path | None]
    made: dict[int, tuple[Path, Path | None]] = field(default_factory=dict)
    """By the path's id: the path, so that it lives, and what it became."""

    def of(self, path: Path) -> Path | None:
        found = self.made.get(id(path))
        if found is None:
            found = self.made[id(path)] = path, self.aged(path)
        return found[1]


def _key(path_id: int, prefix: Prefix) -> Key:
    return (path_id, prefix) if path_id else prefix


def _prefix_of(key: Key) -> Prefix:
    return key[1] if isinstance(key, tuple) else key


class AdjRibIn:
    """All paths of one family, by session and by prefix."""

    def __init__(self) -> None:
        self.candidates: dict[Prefix, Path | tuple[Path, ...]] = {}
        self._tables: dict[PeerId, _Table] = {}
        self._doomed: deque[dict[Key, Path]] = deque()
        self._ageing: deque[_Ageing] = deque()
        self._order: list[Key] = []
        """What of the first of them goes, from the end on."""

    def paths(self, prefix: Prefix) -> tuple[Path, ...]:
        """The candidates of a prefix."""
        found = self.candidates.get(prefix)
        return () if found is None else (found,) if isinstance(found, Path) else found

    def surplus(self, prefix: Prefix) -> list[Path]:
        """The paths of a prefix that are no candidates, since their peers may not have so many; by identifier."""
        return [
            table.fresh[_key(path_id, prefix)]
            for table in self._tables.values()
            if prefix in table.surplus
            for path_id in sorted(table.surplus[prefix].ids)
        ]

    def surplus_of(self, peer: PeerId) -> int:
        """How many paths of a peer are more than it may have."""
        table = self._tables.get(peer)
        return 0 if table is None else sum(len(surplus.ids) for surplus in table.surplus.values())

    def counts(self, peer: PeerId) -> tuple[int, int, int]:
        """(received, accepted by import, stale) paths of a peer."""
        table = self._tables.get(peer)
        if table is None:
            return 0, 0, 0
        received = len(table.fresh) + len(table.stale)
        return received, received - len(table.refused), len(table.stale)

    @property
    def size(self) -> int:
        """Paths of all peers."""
        return sum(len(table.fresh) + len(table.stale) for table in self._tables.values())

    def peer_paths(self, peer: PeerId) -> Iterator[tuple[Prefix, Path, bool]]:
        """(prefix, path, stale) of all that a peer announced."""
        if table := self._tables.get(peer):
            for entries, stale in ((table.fresh, False), (table.stale, True)):
                for key, path in entries.items():
                    yield _prefix_of(key), path, stale

    def peers(self) -> dict[PeerId, Peer]:
        """Who is heard: of each peer the session that its first path is of."""
        found = {}
        for peer, table in self._tables.items():
            path = next(iter(table.fresh.values()), None) or next(iter(table.stale.values()), None)
            if path is not None:
                found[peer] = path.peer
        return found

    def sharing(self, peer: PeerId) -> list[tuple[Path, int]]:
        """The paths of a peer, each with how many prefixes share it."""
        if (table := self._tables.get(peer)) is None:
            return []
        each = [*table.fresh.values(), *table.stale.values()]
        paths = {id(path): path for path in each}
        return [(paths[which], count) for which, count in Counter(map(id, each)).items()]

    def refused(self, peer: PeerId) -> Iterator[tuple[Prefix, Path]]:
        """(prefix, path) of those that import refuses as they are."""
        if table := self._tables.get(peer):
            for key in table.refused:
                path = table.fresh.get(key) or table.stale.get(key)
                if path is not None and not (table.surplus and _in_surplus(table, key)):
                    yield _prefix_of(key), path

    def prefixes_of(self, peer: PeerId) -> dict[Prefix, None]:
        """The prefixes that a peer announced."""
        table = self._tables.get(peer)
        return dict.fromkeys(map(_prefix_of, (*table.fresh, *table.stale))) if table else {}

    def refuse(self, prefix: Prefix, path: Path, refused: bool) -> None:
        """Record what import says of a path of a prefix, for the counts."""
        if table := self._tables.get(path.peer.id):
            key: Key = (path.path_id, prefix) if path.path_id else prefix
            if not refused:
                table.refused.discard(key)
            elif table.fresh.get(key) is path or table.stale.get(key) is path:
                table.refused.add(key)

    def is_stale(self, prefix: Prefix, path: Path) -> bool:
        """Whether a path, as received or as import altered it, is kept from a session that ended."""
        table = self._tables.get(path.peer.id)
        return table is not None and ((path.path_id, prefix) if path.path_id else prefix) in table.stale

    def announce(
        self,
        path: Path,
        prefixes: Sequence[Prefix],
        dirty: Dirty,
        refused: bool = False,
        most: int = MOST_PATHS,
    ) -> None:
        """Record that ``path``'s session announced ``prefixes``; those whose path is new become dirty.

        ``refused``: import does not accept the path. ``most``: paths that its peer may have of one prefix.
        """
        table = self._tables.get(path.peer.id)
        if table is None:
            table = self._tables[path.peer.id] = _Table()
        fresh, stale, candidates = table.fresh, table.stale, self.candidates
        path_id = path.path_id
        if refused or table.refused:
            keys: Sequence[Key] = [(path_id, prefix) for prefix in prefixes] if path_id else prefixes
            if refused:
                table.refused.update(keys)
            else:  # what is not new is not decided again, and what filters decided on it holds
                table.refused.difference_update(key for key in keys if fresh.get(key) is not path)
        if len(prefixes) > 8 and not path_id and candidates.keys().isdisjoint(prefixes):
            new = dict.fromkeys(
                prefixes, path
            )  # nobody announced any of them: a third of the time of the loop
            fresh.update(new)  # type: ignore[arg-type]  # a dict's key type is invariant
            candidates.update(new)
            dirty.update(new)
            return
        for prefix in prefixes:
            key: Key = (path_id, prefix) if path_id else prefix
            old = fresh.get(key)
            if old is path:
                continue
            fresh[key] = path
            if old is None and stale:
                old = stale.pop(key, None)
            current = candidates.get(prefix)
            if current is None or current is old:
                candidates[prefix] = path
            elif isinstance(current, Path):
                if most > 1 or current.peer.id != path.peer.id:
                    candidates[prefix] = (current, path)
                elif self._beyond(table, path, prefix, most):
                    continue
                else:
                    self._add(prefix, path, old)
            elif len(current) < most:
                candidates[prefix] = (*_less(current, old), path)
            elif self._beyond(table, path, prefix, most):
                continue
            else:
                self._add(prefix, path, old)
            dirty[prefix] = None

    def withdraw(self, peer: Peer, prefixes: Iterable[Prefix], path_id: int, dirty: Dirty) -> None:
        """Forget what a session announced; a prefix it never announced is no error (RFC 4271 §3.1)."""
        table = self._tables.get(peer.id)
        if table is None:
            return
        for prefix in prefixes:
            key: Key = (path_id, prefix) if path_id else prefix
            path = fresh = table.fresh.pop(key, None)
            if path is None:
                path = table.stale.pop(key, None)
            if path is not None:
                table.refused.discard(key)
                self._remove(prefix, path)
                dirty[prefix] = None
                if table.surplus and fresh is not None and prefix in table.surplus:
                    self._fill(table, prefix, path_id)

    def mark_stale(self, peer: PeerId, *, keep: bool = False) -> None:
        """The session broke, its routes stay in use; those stale from a session before go (RFC 4724 §4.2), unless they
        have a long life of their own (``keep``; RFC 9494 §4.2)."""
        if table := self._tables.get(peer):
            kept = table.stale if keep else {}
            if not keep:
                self.sweep_stale(peer)
            for prefix, surplus in table.surplus.items():
                for path_id in surplus.ids:
                    key = _key(path_id, prefix)
                    del table.fresh[key]
                    table.refused.discard(key)
            table.surplus = {}
            table.stale, table.fresh = {**kept, **table.fresh}, {}

    def age(self, peer: PeerId, aged: Callable[[Path], Path | None]) -> None:
        """The stale routes of a peer become what ``aged`` makes of them; ``None`` is gone. ``sweep`` does it."""
        if (table := self._tables.get(peer)) and table.stale:
            self._ageing.append(_Ageing(peer, list(table.stale), aged))

    def limit(self, peer: PeerId, most: int, dirty: Dirty) -> None:
        """Another number of paths that a peer may have of one prefix."""
        table = self._tables.get(peer)
        if table is None:
            return
        ids: dict[Prefix, list[int]] = {}
        for key in table.fresh:
            if isinstance(key, tuple):
                ids.setdefault(key[1], []).append(key[0])
        for prefix, found in ids.items():
            if prefix in table.fresh:
                found.append(0)
            found.sort()
            before = table.surplus.pop(prefix, None)
            out = before.ids if before else set()
            for path_id in found[:most]:
                if path_id in out:
                    self._let_in(table, prefix, path_id)
                    dirty[prefix] = None
            for path_id in found[most:]:
                if path_id not in out:
                    key = _key(path_id, prefix)
                    self._remove(prefix, table.fresh[key])
                    table.refused.add(key)
                    dirty[prefix] = None
            if found[most:]:
                table.surplus[prefix] = _Surplus(found[most:])

    def sweep_stale(self, peer: PeerId) -> int:
        """The peer announced all it had, or its time ran out: give up what it did not announce again. How many."""
        table = self._tables.get(peer)
        if table is None or not table.stale:
            return 0
        stale, table.stale = table.stale, {}
        if table.refused:
            table.refused.difference_update(stale)
        self._doomed.append(stale)
        return len(stale)

    def flush(self, peer: PeerId) -> None:
        """Give up all that a peer announced."""
        if table := self._tables.pop(peer, None):
            self._doomed.extend(entries for entries in (table.fresh, table.stale) if entries)

    def hand_on(self, before: PeerId, after: PeerId) -> None:
        """The stale routes of a peer are those of another name from now on, that nothing was heard of yet."""
        if table := self._tables.pop(before, None):
            self._tables[after] = table

    def sweep(self, limit: int, dirty: Dirty) -> int:
        """Take up to ``limit`` given-up paths out of the candidates, or put what they have aged to in their place. How
        many; 0 when there are none."""
        candidates, done = self.candidates, 0
        while self._ageing and done < limit:
            ageing = self._ageing[0]
            done += self._age(ageing, limit - done, dirty)
            if not ageing.keys:
                self._ageing.popleft()
        while self._doomed and done < limit:
            entries = self._doomed[0]
            if not self._order:
                self._order = _scattered(entries)
            while self._order and done < limit:
                key = self._order.pop()
                path = entries.pop(key, None)
                if path is None:
                    continue  # announced again meanwhile
                prefix = key if isinstance(key, bytes) else key[1]
                if candidates.get(prefix) is path:
                    del candidates[prefix]
                else:
                    self._remove(prefix, path)
                dirty[prefix] = None
                done += 1
            if not entries:
                self._doomed.popleft()
                self._order = []
        return done

    @property
    def sweeping(self) -> bool:
        """Whether given-up paths are still among the candidates, or paths that have not aged."""
        return bool(self._doomed or self._ageing)

    def _age(self, ageing: _Ageing, limit: int, dirty: Dirty) -> int:
        """How many of up to ``limit`` were looked at."""
        table, keys = self._tables.get(ageing.peer), ageing.keys
        if table is None:
            keys.clear()
        looked = 0
        while keys and looked < limit:
            looked += 1
            key = keys.pop()
            path = table.stale.get(key) if table else None
            if table is None or path is None:
                continue  # said again meanwhile, or swept
            made, prefix = ageing.of(path), _prefix_of(key)
            if made is path:
                continue
            if made is None:
                del table.stale[key]
                table.refused.discard(key)
                self._remove(prefix, path)
            else:
                table.stale[key] = made
                current = self.candidates.get(prefix)
                if isinstance(current, Path):
                    self.candidates[prefix] = made if current is path else current
                elif current is not None:
                    self.candidates[prefix] = tuple(made if each is path else each for each in current)
            dirty[prefix] = None
        return looked

    def _beyond(self, table: _Table, path: Path, prefix: Prefix, most: int) -> bool:
        """Whether a path that a session announces is one more than its peer may have; where another has a greater
        identifier, that is the one."""
        path_id, key = path.path_id, _key(path.path_id, prefix)
        surplus = table.surplus.get(prefix)
        own = [each for each in table.own(self.paths(prefix), prefix) if each.path_id != path_id]
        if len(own) < most:
            return False
        last = max(own, key=_path_id)
        if surplus is None:
            surplus = table.surplus[prefix] = _Surplus(())
        if path_id < last.path_id:
            self._remove(prefix, last)
            path_id, key = last.path_id, _key(last.path_id, prefix)
        surplus.add(path_id)
        table.refused.add(key)
        return path_id == path.path_id

    def _fill(self, table: _Table, prefix: Prefix, path_id: int) -> None:
        """A path with this identifier is gone: one that was too much has its place, or is gone itself."""
        surplus = table.surplus[prefix]
        if path_id in surplus.ids:
            surplus.ids.remove(path_id)
        else:
            self._let_in(table, prefix, surplus.take_lowest())
        if not surplus.ids:
            del table.surplus[prefix]

    def _let_in(self, table: _Table, prefix: Prefix, path_id: int) -> None:
        key = _key(path_id, prefix)
        table.refused.discard(key)
        self._add(prefix, table.fresh[key], None)

    def _add(self, prefix: Prefix, path: Path, old: Path | None) -> None:
        paths = _less(self.paths(prefix), old)
        self.candidates[prefix] = (*paths, path) if paths else path

    def _remove(self, prefix: Prefix, path: Path) -> None:
        current = self.candidates.get(prefix)
        if current is path:
            del self.candidates[prefix]
        elif current is not None and not isinstance(current, Path):
            rest = _less(current, path)
            self.candidates[prefix] = rest[0] if len(rest) == 1 else rest


def _path_id(path: Path) -> int:
    return path.path_id


def _in_surplus(table: _Table, key: Key) -> bool:
    surplus = table.surplus.get(_prefix_of(key))
    return surplus is not None and (key[0] if isinstance(key, tuple) else 0) in surplus.ids


def _scattered(entries: Iterable[Key]) -> list[Key]:
    """Keys in small runs, the runs in a random order, the same each time. The kernel's trie gives up scattered routes
    in half the time that neighbours in a row take; in the memory of our own tables neighbours lie side by side."""
    keys = list(islice(entries, MOST_SCATTERED))
    starts = list(range(0, len(keys), RUN))
    Random(len(keys)).shuffle(starts)
    return [key for start in starts for key in keys[start : start + RUN]]


def _less(paths: tuple[Path, ...], path: Path | None) -> tuple[Path, ...]:
    """Paths without one of them: once, since what was given up and is not yet swept may have been announced again."""
    for place, each in enumerate(paths):
        if each is path:
            return (*paths[:place], *paths[place + 1 :])
    return paths


def longest_match(table: Mapping[Prefix, object], host: Prefix) -> list[Prefix]:
    """The keys of ``table`` that cover a host prefix, the longest first: a lookup a possible length."""
    address, found = host[1:], []
    for length in range(host[0], -1, -1):
        octets = (length + 7) >> 3
        network = address[:octets]
        if length & 7:
            network = network[:-1] + bytes((network[-1] & (0xFF00 >> (length & 7)) & 0xFF,))
        key = Prefix(bytes((length,)) + network)
        if key in table:
            found.append(key)
    return found
