"""Adj-RIB-Out to the wire: a change of an update group is encoded once, however many sessions are in it.

A session that reads too slowly leaves the common road: the prefixes it missed wait in a set of its own (the newest
value of each wins). They are encoded from the group's table when its socket drains, and it joins the others again. A
new session starts that way, with a walk over the whole table before it. When it has caught up and the node knows all it
will announce (``release_end_of_rib``), it is sent End-of-RIB (RFC 4724 §4.1), once. Nothing is advertised to the
session it was learned from, nor to the peer that is its next hop. A session that another policy puts into another group
is sent the difference: between what it was sent and the new group's table, once that is whole (``move``). The answer to
a refresh is a walk too, with a begin and an end where the peer knows them (RFC 7313): one at a time, and at most one
more after it, however many refreshes came meanwhile.

Whatever is to be sent, a call of ``work`` and the calls of ``group_changed`` before it have one budget: of encoding,
where an attribute set costs what many prefixes do, and of time. What is beyond it waits as missed, all sessions in
turn. ``daemon`` calls this with what ``rib.router`` decided; ``speaker`` carries the octets.

A session that another process had (``freeze``, ``resume``) is sent the difference too. What it was sent then is known
by digests of what goes on the wire. Until all is heard again (``release_resumed``) nothing is withdrawn only because it
is not in the table, and no learned route is advertised (RFC 4724 §4.1); what is this node's own is advertised at once.

The groups, their members and their tables are ``rib.groups``'; what each member has yet to be sent is ``member``'s. A
table is keyed by NLRI: prefixes, with path identifiers in front in groups that take several paths (RFC 7911).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from hashlib import blake2b
from itertools import islice

from bgpd.bgp.encoding import cost_of, cost_of_set, encode
from bgpd.bgp.member import Earlier, Left, Member, Move, Phase, Resumption, seen_by
from bgpd.bgp.wire.exa.messages import RefreshKind, encode_refresh
from bgpd.bgp.wire.update import end_of_rib
from bgpd.model.peer import Peer, PeerId
from bgpd.model.prefix import Address, Family, Prefix, prefix_of
from bgpd.model.route import Attributes, Out
from bgpd.rib.groups import OutChanges, UpdateGroup
from bgpd.rules.exports import peer_refusal

_Encoded = dict[tuple[UpdateGroup | None, tuple[Prefix, ...], tuple[Prefix, ...]], bytes]
"""Group, prefixes announced, prefixes withdrawn -> octets, while the tables do not change."""
MOST_ENCODED = 4
"""So many of them are kept from turn to turn. Sessions that came together go through a table together, and a turn may
have time to encode for one of them only."""
DIGEST_OCTETS = 16
_NO_NLRI = Prefix(b"\0")
CHUNK = 4096
"""Prefixes encoded at once for a session that catches up: fewer where their attribute sets are many."""
BUDGET = 2 * CHUNK
"""What a turn may cost, in prefixes."""
MOST_SETS = 3 * CHUNK
"""What the attribute sets of one chunk may cost, in prefixes: a hundred and more. Fewer would be encoded again and
again where sets take turns in a table."""
SESSION_COST = 64
"""What a session that is served costs beside its prefixes, in prefixes."""
TURN_SECONDS = 0.004
"""Seconds of a turn, at most: then other sessions' turn comes with the next."""


class Outbound:
    """``send`` puts octets on a session and says whether it takes more (``Sessions.send``)."""

    def __init__(
        self, send: Callable[[Peer, bytes], bool], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._send, self._clock = send, clock
        self._budget = BUDGET
        """What is left of this turn's, in prefixes."""
        self._by_peer: dict[PeerId, dict[Family, Member]] = {}
        self._due: dict[Member, None] = {}
        """Sessions to serve, in turn: those that are behind, and those that wait for the time of End-of-RIB."""
        self._end_of_rib_released = False
        self._encoded: _Encoded = {}
        """What was made last for sessions that catch up."""
        self._digests: dict[tuple[UpdateGroup, Attributes, Address], bytes] = {}
        """While sessions are compared with what another process sent them."""

    def add_session(self, peer: Peer, groups: Mapping[Family, UpdateGroup]) -> None:
        """A session is established: it is sent the whole table of each of its groups.

        Of a family without a group (this node has no next hop for it) it is sent End-of-RIB alone, and waits for that.
        """
        for earlier in self._by_peer.pop(peer.id, {}).values():
            self._due.pop(earlier, None)
        members = {family: Member(peer, family, groups.get(family)) for family in sorted(peer.families)}
        for member in members.values():
            member.begin_walk()
            self._due[member] = None
        self._by_peer[peer.id] = members

    def resume(
        self, peer: Peer, groups: Mapping[Family, UpdateGroup], earlier: Mapping[Family, Earlier]
    ) -> None:
        """A session of another process goes on: it is sent what differs from what it was sent there."""
        self.add_session(peer, groups)
        for member in self._of(peer):
            was = earlier.get(member.family)
            if was is not None:
                member.walk, member.missed = (), dict.fromkeys(member.table)
                member.resumption = Resumption(dict(was.digests), set(was.digests))
                member.phase = Phase.INITIAL if was.end_of_rib_due else Phase.STEADY
                member.asked = was.refresh_due

    def release_resumed(self) -> None:
        """All is heard again: what resumed sessions were sent and is not in the tables is withdrawn."""
        for members in self._by_peer.values():
            for member in members.values():
                if (resumption := member.resumption) is not None and not resumption.over:
                    resumption.over = True
                    member.missed.update(dict.fromkeys((*resumption.before, *resumption.deferred)))
                    self._due[member] = None

    def freeze(self, peer: Peer) -> dict[Family, Left]:
        """What another process must know to go on with a session, by family. Changes nothing."""
        found = {}
        for member in self._of(peer):
            group, resumption = member.group, member.resumption or Resumption({})
            before, never = resumption.before, resumption.deferred.keys() - resumption.has
            other = {nlri: digest for nlri, digest in before.items() if digest}
            table = group.table.items() if group is not None and group.kept_back(peer) else ()
            found[member.family] = Left(
                group=group,
                unsure=frozenset((*member.waiting, *before, *resumption.deferred)) - other.keys() - never,
                never=frozenset((*never, *(nlri for nlri, out in table if peer_refusal(out, peer)))),
                other=other,
                end_of_rib_due=member.phase is Phase.INITIAL,
                refresh_due=member.asked or member.phase is Phase.REFRESH,
            )
        return found

    def digests(self, peer: Peer, group: UpdateGroup) -> dict[Prefix, bytes]:
        """What a group is sent, one of whose sessions is ``peer``: NLRI -> digest. Changes nothing."""
        return {nlri: self._digest(peer, group, out) for nlri, out in group.table.items()}

    def remove_session(self, peer: Peer) -> None:
        """A session ended; nothing happens where the peer's next one has joined already."""
        for member in self._of(peer):
            self._by_peer.pop(peer.id, None)
            self._due.pop(member, None)

    def move_sessions(self, moved: Mapping[Peer, Mapping[Family, UpdateGroup]]) -> None:
        """Sessions belong to these groups from now on.

        All that was decided before must have been handed over by ``group_changed``: what these sessions were sent is
        what the tables of their old groups hold now.
        """
        copies: dict[UpdateGroup | None, dict[Prefix, Out]] = {}
        for peer, groups in moved.items():
            for member in self._of(peer):
                new = groups.get(member.family)
                if new is member.group:
                    continue
                before = copies.get(member.group)
                if before is None:
                    before = copies[member.group] = dict(member.table)
                unsure = set(member.waiting)
                if member.resumption is not None:
                    unsure.update(member.resumption.before)
                member.move = Move(before, since=unsure)
                member.group = new
                member.missed = dict.fromkeys((*before, *member.move.since, *member.table))
                member.gone = {}
                member.walk, member.at = (), 0
                self._due[member] = None

    def group_changed(self, group: UpdateGroup, changes: OutChanges) -> None:
        """What a group is sent changed: encode once, send to every member that is not behind. Where that is more than
        is left of the turn's budget, all of them are behind now."""
        self._encoded.clear()  # the table is another
        self._budget -= cost_of(now for _, now in changes.values())
        later = self._budget <= 0
        outs = () if later else [out for pair in changes.values() for out in pair if out is not None]
        sources, next_hops = {out.source for out in outs}, {out.next_hop for out in outs}
        family = group.key.family
        octets: bytes | None = None
        for peer_id in group.members:
            member = self._by_peer[peer_id][family]
            if member.resumption is not None:
                # What was heard again and is withdrawn since is no longer as another process left it.
                before = member.resumption.before
                for nlri in before.keys() & changes.keys():
                    was, now = changes[nlri]
                    if was is not None and now is None:
                        del before[nlri]
            if later or member.behind or member.blocked or member.waits_for_table or member.resumption:
                member.missed.update(dict.fromkeys(changes))
                self._due[member] = None
            elif (peer := member.peer).id in sources or peer.config.address in next_hops:
                pairs = (
                    (p, seen_by(peer, before), seen_by(peer, now)) for p, (before, now) in changes.items()
                )
                seen = ((p, now) for p, before, now in pairs if before is not None or now is not None)
                self._put(member, encode(family, peer, seen))
            else:
                if octets is None:
                    state = ((prefix, now) for prefix, (_, now) in changes.items())
                    octets = encode(family, peer, state)
                self._put(member, octets)

    def resume_sending(self, peer: Peer) -> None:
        """A session's socket has drained."""
        for member in self._of(peer):
            member.blocked = False
            if member.behind or member.asked or member.phase is not Phase.STEADY:
                self._due[member] = None

    def refresh(self, peer: Peer, family: Family) -> bool:
        """Send a session all of a family again (RFC 2918, or the operator's soft-out). Whether it carries it."""
        for member in self._of(peer):
            if member.family is family:
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
        finish = settled and self._end_of_rib_released
        budget, self._budget = self._budget, BUDGET
        end = self._clock() + TURN_SECONDS
        for member in list(self._due):
            if member.blocked:
                del self._due[member]
            elif member.waits_for_table and not settled:
                continue
            elif member.behind or member.asked or member.phase is not Phase.INITIAL or finish:
                if budget <= 0 or self._clock() >= end:
                    return True
                if member.move:
                    member.move.whole = True
                if member.asked and not member.behind:
                    self._begin_refresh(member)
                budget -= SESSION_COST + (self._catch_up(member) if member.behind else 0)
                if not member.behind:
                    member.move = None
                    if member.resumption is not None and member.resumption.over:
                        member.resumption = None
                    if member.phase is Phase.REFRESH:
                        member.phase = Phase.STEADY
                        self._put(member, encode_refresh(member.family, RefreshKind.END))
                if member.behind or member.asked:
                    self._due[member] = self._due.pop(member)  # after the others
                elif finish or member.phase is not Phase.INITIAL:
                    del self._due[member]
                    if member.phase is Phase.INITIAL:
                        member.phase = Phase.STEADY
                        self._put(member, end_of_rib(member.family))
        if not self._due:
            self._digests.clear()
        more = any(
            (member.behind or member.asked) and not member.blocked and not member.waits_for_table
            for member in self._due
        )
        if not more:
            self._encoded.clear()
        return more

    def advertised(self, peer: PeerId, family: Family) -> int:
        """Prefixes of a family that a session has been sent."""
        member = self._by_peer.get(peer, {}).get(family)
        if member is None or member.group is None:
            return 0
        waiting = sum(out is not None for _, out in self.waiting(peer, family))
        return len(member.table) - member.group.kept_back(member.peer) - waiting

    def queue_length(self, peer: PeerId) -> int:
        """Prefixes that wait for a session to read."""
        return sum(
            len(member.missed) + len(member.gone) + len(member.walk) - member.at
            for member in self._by_peer.get(peer, {}).values()
        )

    def waiting(self, peer: PeerId, family: Family) -> list[tuple[Prefix, Out | None]]:
        """What a session has yet to be sent: NLRI and what is to be announced of it, ``None`` a withdrawal."""
        member = self._by_peer.get(peer, {}).get(family)
        if member is None:
            return []
        return [(nlri, seen_by(member.peer, member.table.get(nlri))) for nlri in member.waiting]

    def missed(self, peer: PeerId) -> int:
        """NLRI that a session has missed: each is held for it alone, as long as it does not read."""
        return sum(len(member.missed) + len(member.gone) for member in self._by_peer.get(peer, {}).values())

    def has_advertised(self, peer: PeerId, family: Family, prefix: Prefix) -> bool:
        """Whether a session has been sent the present state of a prefix (or NLRI), where there is one."""
        member = self._by_peer.get(peer, {}).get(family)
        if member is None:
            return False
        waiting = member.waiting
        several = family in member.peer.add_path_send
        return prefix not in waiting and not (
            several and any(prefix_of(nlri, several) == prefix for nlri in waiting)
        )

    def _of(self, peer: Peer) -> list[Member]:
        return [member for member in self._by_peer.get(peer.id, {}).values() if member.peer is peer]

    def _begin_refresh(self, member: Member) -> None:
        member.asked = False
        if member.peer.enhanced_refresh and member.phase is not Phase.INITIAL:
            member.phase = Phase.REFRESH
            self._put(member, encode_refresh(member.family, RefreshKind.BEGIN))
        member.begin_walk()

    def _catch_up(self, member: Member) -> int:
        """Send a session some of what it missed. What it cost, in prefixes."""
        peer, missed, gone, table, move = member.peer, member.missed, member.gone, member.table, member.move
        announced: list[Prefix] = []
        sets: set[Attributes] = set()
        known: set[int] = set()  # by identity, which is quicker to ask
        looked = cost = 0
        peer_id, address = peer.id, peer.config.address

        def announce(prefix: Prefix, attributes: Attributes) -> None:
            nonlocal cost
            announced.append(prefix)
            if (which := id(attributes)) not in known:
                known.add(which)
                if attributes not in sets:
                    sets.add(attributes)
                    cost += cost_of_set(attributes)

        for prefix in list(islice(missed, CHUNK)):
            if cost >= MOST_SETS:
                break
            looked += 1
            del missed[prefix]
            now = seen_by(peer, table.get(prefix))
            if member.resumption is not None and self._is_as_before(member, member.resumption, prefix, now):
                continue
            if (
                move
                and prefix in move.before
                and prefix not in move.since
                and now == seen_by(peer, move.before[prefix])
            ):
                continue
            if now is None:
                gone[prefix] = None
                continue
            announce(prefix, now.attributes)
        for prefix in () if missed else member.walk[member.at : member.at + CHUNK - looked]:
            if cost >= MOST_SETS:
                break
            looked += 1
            member.at += 1
            now = table.get(prefix)
            if now is None or now.source == peer_id or now.next_hop == address:
                continue
            announce(prefix, now.attributes)
        if member.at >= len(member.walk):
            member.walk, member.at = (), 0
        withdrawn: list[Prefix] = []
        if not missed and not member.walk:
            for prefix in list(islice(gone, CHUNK)):
                looked += 1
                del gone[prefix]
                if seen_by(peer, table.get(prefix)) is None:
                    withdrawn.append(prefix)
        if move:
            move.since.update(announced, withdrawn)
        key = (member.group, tuple(announced), tuple(withdrawn))
        octets = self._encoded.get(key)
        if octets is not None:
            cost = 0
        else:
            state = (*((p, table[p]) for p in announced), *((p, None) for p in withdrawn))
            octets = self._encoded[key] = encode(member.family, peer, state)
            if len(self._encoded) > MOST_ENCODED:
                del self._encoded[next(iter(self._encoded))]
        self._put(member, octets)
        return looked + cost

    def _is_as_before(self, member: Member, resumption: Resumption, nlri: Prefix, now: Out | None) -> bool:
        """Whether a resumed session is not sent the present state of an NLRI: it has it, or that state may only last
        until all is heard again."""
        digest = resumption.before.get(nlri)
        resumption.deferred.pop(nlri, None)
        if now is None or member.group is None:
            if nlri not in resumption.has:
                return True
            waits = digest is not None and not resumption.over
        elif digest and self._digest(member.peer, member.group, now) == digest:
            del resumption.before[nlri]
            return True
        else:
            waits = now.source is not None and not resumption.over
            if waits and digest is None:
                resumption.deferred[nlri] = None
        if not waits:
            resumption.before.pop(nlri, None)
            (resumption.has.discard if now is None else resumption.has.add)(nlri)
        return waits

    def _digest(self, peer: Peer, group: UpdateGroup, out: Out) -> bytes:
        """Of what goes on the wire for an NLRI, the NLRI left out: the same in every process that encodes alike."""
        key = group, out.attributes, out.next_hop
        found = self._digests.get(key)
        if found is None:
            octets = encode(group.key.family, peer, ((_NO_NLRI, out),))
            found = self._digests[key] = blake2b(octets, digest_size=DIGEST_OCTETS).digest()
        return found

    def _put(self, member: Member, octets: bytes) -> None:
        if octets and not self._send(member.peer, octets):
            member.blocked = True
