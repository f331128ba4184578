"""Adj-RIB-Out to the wire: a change of an update group is encoded once, however many sessions are in it.

A session that reads too slowly leaves the common road: the prefixes it missed wait in a set of its own (the newest
value of each wins), are encoded from the group's table when its socket drains, and it joins the others again. A new
session starts that way, with a walk over the whole table before it. When it has caught up and the node knows all it
will announce (``release_end_of_rib``), it is sent End-of-RIB (RFC 4724 §4.1), once. Nothing is advertised to the
session it was learned from. A session that another policy puts into another group is sent the difference between what
it was sent and the new group's table, once that is whole (``move``). The answer to a refresh is a walk too, with a
begin and an end where the peer knows them (RFC 7313): one at a time, and at most one more after it, however many
refreshes came meanwhile.

Whatever is to be sent, a call of ``work`` and the calls of ``changed`` before it have one budget: of encoding, where
an attribute set costs what many prefixes do, and of time. What is beyond it waits as missed, all sessions in turn.
``daemon`` calls this with what ``rib.router`` decided; ``speaker`` carries the octets.

A table is keyed by NLRI: prefixes, with path identifiers in front in groups that take several paths (RFC 7911).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from bgpd.bgp.wire.exa import RefreshKind, encode_refresh
from bgpd.bgp.wire.update import encode_announcements, encode_withdrawals, end_of_rib
from bgpd.model.peer import Peer, PeerId
from bgpd.model.prefix import Address, Family, Prefix
from bgpd.model.route import Attributes, Out

Advertised = Mapping[Prefix, tuple[Out | None, Out | None]]
"""NLRI -> (advertised before, advertised now); ``None`` is "not advertised"."""
_Encoded = dict[tuple[object, tuple[Prefix, ...], tuple[Prefix, ...]], bytes]
"""Group, prefixes announced, prefixes withdrawn -> octets, while the tables do not change."""
CHUNK = 4096
"""Prefixes encoded at once for a session that catches up: fewer where their attribute sets are many."""
BUDGET = 2 * CHUNK
"""Of a turn: prefixes, and what costs as much as a prefix does."""
MOST_SETS = 3 * CHUNK
"""What the attribute sets of one chunk may cost, in prefixes: a hundred and more. Fewer would be encoded again and
again where sets take turns in a table."""
SESSION_COST, SET_COST, OCTETS_PER_COST = 64, 64, 16
"""What a session that is served costs beside its prefixes, and an attribute set beside its octets, in prefixes."""
TURN_SECONDS = 0.004
"""Seconds of a turn, at most: then other sessions' turn comes with the next."""


@dataclass(slots=True, eq=False)
class _Group:
    """One update group: its table, and its sessions."""

    key: object
    family: Family
    table: Mapping[Prefix, Out]
    members: dict[_Member, None] = field(default_factory=dict)
    sources: Counter[PeerId | None] | None = None
    """Source -> prefixes of the table; counted when asked for, forgotten at a change."""
    listed: Sequence[Prefix] | None = None
    """The prefixes of the table, for walks over it; listed when asked for, forgotten at a change."""

    def from_source(self, peer: PeerId) -> int:
        """How many prefixes of the table were learned from a peer."""
        if self.sources is None:
            self.sources = Counter(out.source for out in self.table.values())
        return self.sources[peer]

    def walk(self) -> Sequence[Prefix]:
        """The prefixes of the table as it is now: one list for all sessions that begin before it changes."""
        if self.listed is None:
            self.listed = tuple(self.table)
        return self.listed

    def forget(self) -> None:
        """The table has changed."""
        self.sources = self.listed = None


@dataclass(slots=True, eq=False)
class _Member:
    """One session in one family."""

    peer: Peer
    group: _Group
    walk: Sequence[Prefix] = ()
    """All prefixes of the table when it joined or a refresh began: it is sent them from ``at`` on, where they are there
    still; what changed since is missed."""
    at: int = 0
    missed: dict[Prefix, None] = field(default_factory=dict)
    """Prefixes it has yet to be sent the present state of."""
    gone: dict[Prefix, None] = field(default_factory=dict)
    """Those of them that were found withdrawn: sent once all announcements are (house rule 11)."""
    blocked: bool = False
    """Its socket is full: nothing more until ``writable``."""
    end_of_rib_due: bool = True
    asked: bool = False
    """A refresh is due: it begins once this session has caught up."""
    refreshing: bool = False
    """It was sent the begin of a refresh: it is sent the end of it, once it has caught up."""
    moved: bool = False
    """From another group: it waits until the tables are whole."""
    advertised: Mapping[Prefix, Out] = field(default_factory=dict)
    """Of a moved session: what it was sent before; shared by all that moved with it."""
    since: set[Prefix] = field(default_factory=set)
    """What it was sent since, where that is not the same."""

    @property
    def behind(self) -> bool:
        return bool(self.missed or self.gone or self.walk)

    @property
    def waiting(self) -> dict[Prefix, None]:
        """All that it has yet to be sent, itself as the source not left out."""
        return dict.fromkeys((*self.missed, *self.gone, *self.walk[self.at :]))


class Outbound:
    """``send`` puts octets on a session and says whether it takes more (``Speaker.send``)."""

    def __init__(
        self, send: Callable[[Peer, bytes], bool], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._send, self._clock = send, clock
        self._budget = BUDGET
        """What is left of this turn's, in prefixes."""
        self._groups: dict[object, _Group] = {}
        self._by_peer: dict[PeerId, list[_Member]] = {}
        self._due: dict[_Member, None] = {}
        """Sessions to serve, in turn: those that are behind, and those that wait for the time of End-of-RIB."""
        self._end_of_rib_released = False

    def join(
        self, peer: Peer, groups: Mapping[Family, object], tables: Mapping[Family, Mapping[Prefix, Out]]
    ) -> None:
        """A session is established: it is sent the whole table of each of its groups.

        Of a family without a group (this node has no next hop for it) it is sent End-of-RIB alone, and waits for that.
        """
        for earlier in self._by_peer.get(peer.id, ())[:1]:
            self.leave(earlier.peer)
        for family in sorted(peer.families):
            key, table = groups.get(family, family), tables.get(family, {})
            group = self._groups.get(key)
            if group is None:
                group = self._groups[key] = _Group(key, family, table)
            member = _Member(peer, group, group.walk())
            group.members[member] = None
            self._by_peer.setdefault(peer.id, []).append(member)
            self._due[member] = None

    def leave(self, peer: Peer) -> None:
        """A session ended; nothing happens where the peer's next one has joined already."""
        members = self._by_peer.get(peer.id, ())
        if not members or members[0].peer is not peer:
            return
        del self._by_peer[peer.id]
        for member in members:
            self._due.pop(member, None)
            del member.group.members[member]
            if not member.group.members:
                del self._groups[member.group.key]

    def move(
        self, moved: Mapping[Peer, Mapping[Family, object]], tables: Mapping[object, Mapping[Prefix, Out]]
    ) -> None:
        """Sessions belong to other groups from now on; ``tables`` has those of the groups that they move to.

        All that was decided before must have been handed over by ``changed``: what these sessions were sent is what the
        tables of their old groups hold now.
        """
        copies: dict[object, dict[Prefix, Out]] = {}
        for peer, groups in moved.items():
            for member in self._of(peer):
                old, key = member.group, groups.get(member.group.family, member.group.family)
                if old.key == key:
                    continue
                before = copies.get(old.key)
                if before is None:
                    before = copies[old.key] = dict(old.table)
                unsure = set(member.waiting)
                new = self._groups.get(key)
                if new is None:
                    new = self._groups[key] = _Group(key, old.family, tables.get(key, {}))
                del old.members[member]
                if not old.members:
                    del self._groups[old.key]
                new.members[member] = None
                member.group, member.moved = new, True
                member.missed = dict.fromkeys((*before, *unsure, *new.table))
                member.gone = {}
                member.walk, member.at = (), 0
                member.advertised, member.since = before, unsure
                self._due[member] = None

    def changed(self, group: object, advertised: Advertised) -> None:
        """What a group is sent changed: encode once, send to every member that is not behind. Where that is more than
        is left of the turn's budget, all of them are behind now."""
        found = self._groups.get(group)
        if found is None:
            return
        found.forget()
        self._budget -= _cost(now for _, now in advertised.values())
        later = self._budget <= 0
        sources = {out.source for pair in advertised.values() for out in pair if out is not None}
        octets: bytes | None = None
        for member in found.members:
            if later or member.behind or member.blocked or member.moved:
                member.missed.update(dict.fromkeys(advertised))
                self._due[member] = None
            elif (peer := member.peer).id in sources:
                pairs = (
                    (p, _seen_by(peer, before), _seen_by(peer, now))
                    for p, (before, now) in advertised.items()
                )
                seen = ((p, now) for p, before, now in pairs if before is not None or now is not None)
                self._put(member, _encode(found.family, peer, seen))
            else:
                if octets is None:
                    state = ((prefix, now) for prefix, (_, now) in advertised.items())
                    octets = _encode(found.family, peer, state)
                self._put(member, octets)

    def writable(self, peer: Peer) -> None:
        """A session's socket has drained."""
        for member in self._of(peer):
            member.blocked = False
            if member.behind or member.end_of_rib_due or member.refreshing or member.asked:
                self._due[member] = None

    def refresh(self, peer: Peer, family: Family) -> bool:
        """Send a session all of a family again (RFC 2918, or the operator's soft-out). Whether it carries it."""
        for member in self._of(peer):
            if member.group.family is family:
                member.asked = True
                self._due[member] = None
                return True
        return False

    def release_end_of_rib(self) -> None:
        """The resources are whole and announced: sessions that have caught up may be informed of it."""
        self._end_of_rib_released = True

    def work(self, settled: bool) -> bool:
        """Let sessions that are behind catch up, a chunk each, some sessions a call. Whether more is due now.

        ``settled``: the router has nothing left to decide, so that the tables are whole.
        """
        encoded: _Encoded = {}
        finish = settled and self._end_of_rib_released
        budget, self._budget = self._budget, BUDGET
        end = self._clock() + TURN_SECONDS
        for member in list(self._due):
            if member.blocked:
                del self._due[member]
            elif member.moved and not settled:
                continue
            elif member.behind or member.asked or not member.end_of_rib_due or finish:
                if budget <= 0 or self._clock() >= end:
                    return True
                member.moved = False
                if member.asked and not member.behind:
                    self._begin_refresh(member)
                budget -= SESSION_COST + (self._catch_up(member, encoded) if member.behind else 0)
                if not member.behind:
                    member.advertised, member.since = {}, set()
                    if member.refreshing:
                        member.refreshing = False
                        self._put(member, encode_refresh(member.group.family, RefreshKind.END))
                if member.behind or member.asked:
                    self._due[member] = self._due.pop(member)  # after the others
                elif finish or not member.end_of_rib_due:
                    del self._due[member]
                    if member.end_of_rib_due:
                        member.end_of_rib_due = False
                        self._put(member, end_of_rib(member.group.family))
        return any(
            (member.behind or member.asked) and not member.blocked and not member.moved
            for member in self._due
        )

    def advertised(self, peer: PeerId, family: Family) -> int:
        """Prefixes of a family that a session has been sent."""
        total = 0
        for member in self._by_peer.get(peer, ()):
            if member.group.family is family:
                table = member.group.table
                waiting = sum(
                    _seen_by(member.peer, table.get(prefix)) is not None for prefix in member.waiting
                )
                total += len(table) - member.group.from_source(peer) - waiting
        return total

    def queue_length(self, peer: PeerId) -> int:
        """Prefixes that wait for a session to read."""
        return sum(
            len(member.missed) + len(member.gone) + len(member.walk) - member.at
            for member in self._by_peer.get(peer, ())
        )

    def has_advertised(self, peer: PeerId, family: Family, prefix: Prefix) -> bool:
        """Whether a session has been sent the present state of a prefix (or NLRI), where there is one."""
        for member in self._by_peer.get(peer, ()):
            if member.group.family is family:
                waiting = member.waiting
                several = family in member.peer.add_path_send
                return prefix not in waiting and not (several and any(nlri[4:] == prefix for nlri in waiting))
        return False

    def _of(self, peer: Peer) -> list[_Member]:
        return [member for member in self._by_peer.get(peer.id, ()) if member.peer is peer]

    def _begin_refresh(self, member: _Member) -> None:
        member.asked = False
        if member.peer.enhanced_refresh and not member.end_of_rib_due:
            member.refreshing = True
            self._put(member, encode_refresh(member.group.family, RefreshKind.BEGIN))
        member.walk = member.group.walk()

    def _catch_up(self, member: _Member, encoded: _Encoded) -> int:
        """Send a session some of what it missed. What it cost, in prefixes. ``encoded``: what was made for others."""
        peer, group, missed, gone = member.peer, member.group, member.missed, member.gone
        table, advertised = group.table, member.advertised
        announced: list[Prefix] = []
        sets: set[Attributes] = set()
        known: set[int] = set()  # by identity, which is quicker to ask
        looked = cost = 0
        for prefix in list(islice(missed, CHUNK)):
            if cost >= MOST_SETS:
                break
            looked += 1
            del missed[prefix]
            now = _seen_by(peer, table.get(prefix))
            if (
                prefix in advertised
                and prefix not in member.since
                and now == _seen_by(peer, advertised[prefix])
            ):
                continue
            if now is None:
                gone[prefix] = None
                continue
            announced.append(prefix)
            if (which := id(now.attributes)) not in known:
                known.add(which)
                if now.attributes not in sets:
                    sets.add(now.attributes)
                    cost += _cost_of_set(now.attributes)
        for prefix in () if missed else member.walk[member.at : member.at + CHUNK - looked]:
            if cost >= MOST_SETS:
                break
            looked += 1
            member.at += 1
            now = table.get(prefix)
            if now is None or now.source == peer.id:
                continue
            announced.append(prefix)
            if (which := id(now.attributes)) not in known:
                known.add(which)
                if now.attributes not in sets:
                    sets.add(now.attributes)
                    cost += _cost_of_set(now.attributes)
        if member.at >= len(member.walk):
            member.walk, member.at = (), 0
        withdrawn: list[Prefix] = []
        if not missed and not member.walk:
            for prefix in list(islice(gone, CHUNK)):
                looked += 1
                del gone[prefix]
                if _seen_by(peer, table.get(prefix)) is None:
                    withdrawn.append(prefix)
        if advertised:
            member.since.update(announced, withdrawn)
        key = (group.key, tuple(announced), tuple(withdrawn))
        octets = encoded.get(key)
        if octets is None:
            state = (*((p, table[p]) for p in announced), *((p, None) for p in withdrawn))
            octets = encoded[key] = _encode(group.family, peer, state)
        self._put(member, octets)
        return looked + cost

    def _put(self, member: _Member, octets: bytes) -> None:
        if octets and not self._send(member.peer, octets):
            member.blocked = True


def _seen_by(peer: Peer, out: Out | None) -> Out | None:
    return None if out is None or out.source == peer.id else out


def _cost_of_set(attributes: Attributes) -> int:
    """What it costs to encode an attribute set, in prefixes."""
    return SET_COST + attributes.size // OCTETS_PER_COST


def _cost(outs: Iterable[Out | None]) -> int:
    """What it costs to encode some NLRI, in prefixes that are looked up too."""
    count = 0
    sets: set[Attributes] = set()
    for out in outs:
        count += 1
        if out is not None:
            sets.add(out.attributes)
    return count // 4 + sum(map(_cost_of_set, sets))


def _encode(family: Family, peer: Peer, state: Iterable[tuple[Prefix, Out | None]]) -> bytes:
    """UPDATEs for the state of some NLRI: announcements first, grouped by their attributes, then withdrawals. They
    are the same for all sessions of ``peer``'s group.

    (House rule 11: a more specific is announced before what covered it goes.) Attributes too large for one message are
    not announced (RFC 4271 §9.2), and whatever was announced before is withdrawn.
    """
    announced: dict[tuple[Attributes, Address], list[Prefix]] = {}
    withdrawn: list[Prefix] = []
    for prefix, out in state:
        if out is None:
            withdrawn.append(prefix)
        else:
            announced.setdefault((out.attributes, out.next_hop), []).append(prefix)
    messages: list[bytes] = []
    own = peer.next_hop(family) if peer.link_local is not None else None
    for (attributes, next_hop), prefixes in announced.items():
        on_link = peer.link_local if next_hop == own else None
        try:
            messages += encode_announcements(
                family, attributes, next_hop, prefixes, peer.asn4, link_local=on_link
            )
        except ValueError:
            withdrawn += prefixes
    if withdrawn:
        messages += encode_withdrawals(family, withdrawn)
    return b"".join(messages)
