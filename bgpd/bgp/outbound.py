"""Adj-RIB-Out to the wire: a change of an update group is encoded once, however many sessions are in it.

A session that reads too slowly leaves the common road: the prefixes it missed wait in a set of its own (the newest
value of each wins), are encoded from the group's table when its socket drains, and it joins the others again. A new
session starts that way, with the whole table missed. When it has caught up and the node knows all it will announce
(``release_end_of_rib``), it is told End-of-RIB (RFC 4724 §4.1), once. Nothing is told to the session it was learned
from. ``daemon`` calls this with what ``router`` decided; ``speaker`` carries the octets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice

from bgpd.bgp.wire import encode_announcements, encode_withdrawals, end_of_rib
from bgpd.model.peer import Peer, PeerId
from bgpd.model.prefix import Family, Prefix
from bgpd.model.route import Out

Told = Mapping[Prefix, tuple[Out | None, Out | None]]
"""Prefix -> (told before, told now); ``None`` is "not told"."""
CHUNK = 4096
"""Prefixes encoded at once for a session that catches up."""


@dataclass(slots=True, eq=False)
class _Member:
    """One session in one family."""

    peer: Peer
    family: Family
    table: Mapping[Prefix, Out]
    asn4: bool
    missed: dict[Prefix, None] = field(default_factory=dict)
    """Prefixes it has yet to be told the present state of."""
    blocked: bool = False
    """Its socket is full: nothing more until ``writable``."""
    end_of_rib_due: bool = True


class Outbound:
    """``send`` puts octets on a session and says whether it takes more (``Speaker.send``)."""

    def __init__(self, send: Callable[[Peer, bytes], bool]) -> None:
        self._send = send
        self._members: dict[object, list[_Member]] = {}
        self._by_peer: dict[PeerId, list[_Member]] = {}
        self._behind: dict[_Member, None] = {}
        self._end_of_rib_released = False

    def join(
        self, peer: Peer, groups: Mapping[Family, object], tables: Mapping[Family, Mapping[Prefix, Out]]
    ) -> None:
        """A session is established: it is told the whole table of each of its groups."""
        self.leave(peer.id)
        for family, group in groups.items():
            member = _Member(peer, family, tables[family], peer.asn4, dict.fromkeys(tables[family]))
            self._members.setdefault(group, []).append(member)
            self._by_peer.setdefault(peer.id, []).append(member)
            self._behind[member] = None

    def leave(self, peer: PeerId) -> None:
        """A session ended."""
        gone = self._by_peer.pop(peer, ())
        for member in gone:
            self._behind.pop(member, None)
        for group, members in list(self._members.items()):
            kept = [member for member in members if member not in gone]
            if kept:
                self._members[group] = kept
            else:
                del self._members[group]

    def changed(self, group: object, told: Told) -> None:
        """What a group is told changed: encode once, send to every member that is not behind."""
        members = self._members.get(group, ())
        ready = [m for m in members if not m.missed and not m.blocked]
        for member in members:
            if member.missed or member.blocked:
                member.missed.update(dict.fromkeys(told))
                self._behind[member] = None
        if not ready:
            return
        sources = {
            out.source for pair in told.values() for out in pair if out is not None and out.source is not None
        }
        family, asn4 = ready[0].family, ready[0].asn4
        octets = b"".join(_encode(family, asn4, ((prefix, now) for prefix, (_, now) in told.items())))
        for member in ready:
            if member.peer in sources:
                seen = ((prefix, _seen_by(member.peer, now)) for prefix, (_, now) in told.items())
                self._put(member, b"".join(_encode(family, asn4, seen)))
            else:
                self._put(member, octets)

    def writable(self, peer: Peer) -> None:
        """A session's socket has drained."""
        for member in self._by_peer.get(peer.id, ()):
            member.blocked = False
            if member.missed or member.end_of_rib_due:
                self._behind[member] = None

    def refresh(self, peer: Peer, family: Family) -> bool:
        """Tell a session all of a family again (RFC 2918, or the operator's soft-out). Whether it carries it."""
        for member in self._by_peer.get(peer.id, ()):
            if member.family is family:
                member.missed.update(dict.fromkeys(member.table))
                self._behind[member] = None
                return True
        return False

    def release_end_of_rib(self) -> None:
        """The resources are whole and announced: sessions that have caught up may be told so."""
        if not self._end_of_rib_released:
            self._end_of_rib_released = True
            self._behind.update(dict.fromkeys(m for members in self._by_peer.values() for m in members))

    def work(self, settled: bool) -> bool:
        """Let sessions that are behind catch up, a chunk each. Whether more is due now.

        ``settled``: the router has nothing left to decide, so that the tables are whole.
        """
        for member in list(self._behind):
            if member.blocked:
                del self._behind[member]
                continue
            if member.missed:
                chunk = list(islice(member.missed, CHUNK))
                for prefix in chunk:
                    del member.missed[prefix]
                table = member.table
                state = ((prefix, _seen_by(member.peer, table.get(prefix))) for prefix in chunk)
                self._put(member, b"".join(_encode(member.family, member.asn4, state)))
            if not member.missed:
                if member.end_of_rib_due and not (settled and self._end_of_rib_released):
                    continue
                del self._behind[member]
                if member.end_of_rib_due:
                    member.end_of_rib_due = False
                    self._put(member, end_of_rib(member.family))
        return any(member.missed for member in self._behind)

    def advertised(self, peer: PeerId, family: Family) -> int:
        """Prefixes of a family that a session has been told."""
        return sum(
            sum(out.source is not m.peer and p not in m.missed for p, out in m.table.items())
            for m in self._by_peer.get(peer, ())
            if m.family is family
        )

    def queue_length(self, peer: PeerId) -> int:
        """Prefixes that wait for a session to read."""
        return sum(len(member.missed) for member in self._by_peer.get(peer, ()))

    def has_told(self, peer: PeerId, family: Family, prefix: Prefix) -> bool:
        """Whether a session has been told the present state of a prefix."""
        return any(m.family is family and prefix not in m.missed for m in self._by_peer.get(peer, ()))

    def _put(self, member: _Member, octets: bytes) -> None:
        if octets and not self._send(member.peer, octets):
            member.blocked = True


def _seen_by(peer: Peer, out: Out | None) -> Out | None:
    return None if out is None or out.source is peer else out


def _encode(family: Family, asn4: bool, state: Iterable[tuple[Prefix, Out | None]]) -> list[bytes]:
    """UPDATEs for the state of some prefixes: announcements first, grouped by what is said of them, then withdrawals.

    (House rule 11: a more specific is announced before what covered it goes.)
    """
    announced: dict[Out, list[Prefix]] = {}
    withdrawn: list[Prefix] = []
    for prefix, out in state:
        if out is None:
            withdrawn.append(prefix)
        else:
            announced.setdefault(out, []).append(prefix)
    messages: list[bytes] = []
    for out, prefixes in announced.items():
        messages += encode_announcements(family, out.attributes, out.next_hop, prefixes, asn4)
    if withdrawn:
        messages += encode_withdrawals(family, withdrawn)
    return messages
