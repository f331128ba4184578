"""How far one session is in one family: what it was sent, and what it has yet to be sent.

``outbound`` makes one of these for each family of each session and moves it on; nothing here sends. A session is
*behind* while anything of ``missed``, ``gone`` or ``walk`` is left. Beside that it may be moving from one group to
another (``Move``), or be one that another process had (``Resumption``); its ``phase`` says which mark comes next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from bgpd.model.peer import Peer
from bgpd.model.prefix import Family, Prefix
from bgpd.model.route import Out
from bgpd.rib.groups import UpdateGroup

UNKNOWN = b""
"""The digest of what may have been sent in any state, or not at all."""


class Phase(Enum):
    """How far a session is in one family."""

    INITIAL = "it is sent the whole table for the first time; End-of-RIB follows, once"
    REFRESH = "it was sent the begin of a refresh; the end follows once it has caught up (RFC 7313)"
    STEADY = "it is sent what changes, and the table again when it asks without such marks (RFC 2918)"


@dataclass(slots=True, eq=False)
class Move:
    """From one update group to another, until the session has caught up."""

    before: Mapping[Prefix, Out]
    """What it was sent in the old group; shared by all that moved with it."""
    since: set[Prefix]
    """NLRI for which that is not true: it was behind, or has been sent another state since."""
    whole: bool = False
    """The new group's table is filled; until then nothing is sent, or all would be withdrawn first."""


@dataclass(slots=True, eq=False)
class Resumption:
    """Of a session that another process had, until nothing that it was sent there is unlike the table."""

    before: dict[Prefix, bytes]
    """NLRI -> digest of what it was sent there, or ``UNKNOWN``; as long as nothing else is known of them."""
    has: set[Prefix] = field(default_factory=set)
    """NLRI that it was sent, there or here."""
    deferred: dict[Prefix, None] = field(default_factory=dict)
    """NLRI of learned routes whose present state it was not sent yet."""
    over: bool = False
    """All is heard again: what is not in the table now is gone."""


@dataclass(slots=True, eq=False)
class Member:
    """One session in one family, and what it has yet to be sent."""

    peer: Peer
    family: Family
    group: UpdateGroup | None
    """``None`` where we have no next hop for the family."""
    phase: Phase = Phase.INITIAL
    walk: Sequence[Prefix] = ()
    """All NLRI of the table when it joined or a refresh began: it is sent them from ``at`` on, where they are there
    still; what changed since is missed."""
    at: int = 0
    missed: dict[Prefix, None] = field(default_factory=dict)
    """NLRI of which it has yet to be sent the present state."""
    gone: dict[Prefix, None] = field(default_factory=dict)
    """Those of them that were found withdrawn: sent once all announcements are (house rule 11)."""
    move: Move | None = None
    resumption: Resumption | None = None
    asked: bool = False
    """Another refresh is due: it begins once this session has caught up."""
    blocked: bool = False
    """Its socket is full: nothing more until ``resume_sending``."""

    @property
    def table(self) -> Mapping[Prefix, Out]:
        return self.group.table if self.group else {}

    @property
    def behind(self) -> bool:
        return bool(self.missed or self.gone or self.walk)

    @property
    def waits_for_table(self) -> bool:
        return self.move is not None and not self.move.whole

    @property
    def waiting(self) -> dict[Prefix, None]:
        """All that it has yet to be sent, itself as the source not left out."""
        return dict.fromkeys((*self.missed, *self.gone, *self.walk[self.at :]))

    def begin_walk(self) -> None:
        self.walk, self.at = self.group.walk() if self.group else (), 0


class Earlier(NamedTuple):
    """What a resumed session was sent in one family by the process before."""

    digests: Mapping[Prefix, bytes]
    """NLRI -> digest, or ``UNKNOWN``."""
    end_of_rib_due: bool = False
    refresh_due: bool = False


class Left(NamedTuple):
    """What a session was sent in one family by this process: all of its group's table, but for what is here."""

    group: UpdateGroup | None
    unsure: frozenset[Prefix]
    """NLRI that may have been sent in any state, or not at all."""
    never: frozenset[Prefix]
    """NLRI that were not sent: not for this peer (``peer_refusal``), or not yet."""
    other: Mapping[Prefix, bytes]
    """NLRI -> digest of what the process before this one sent, where nothing else was sent since."""
    end_of_rib_due: bool
    refresh_due: bool


def seen_by(peer: Peer, out: Out | None) -> Out | None:
    """What a session sees of what its group is sent: the bulk twin of ``rules.exports.peer_refusal``, for the hot road,
    where the reason is not asked for."""
    config = peer.config
    return None if out is None or out.source == config.id or out.next_hop == config.address else out
