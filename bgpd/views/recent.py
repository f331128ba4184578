"""What peers took back lately, so that ``why`` can say of a route that it was there until a moment ago.

The daemon reports each withdrawal as it comes (one append an event, however many prefixes) and of each end of a
session; what is oldest is forgotten, by the count of prefixes and by time. Times are the monotonic clock's seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import NamedTuple

from bgpd.model.peer import Down, Peer, PeerId
from bgpd.model.prefix import Family, Prefix
from bgpd.model.route import Withdraw

MOST = 32_768
"""Prefixes that are remembered, of all peers."""
MOST_OF_A_SESSION = 8_192
"""Prefixes that are kept of one session that ends: the first that it announced."""
LONGEST_SECONDS = 3600.0
"""Seconds for which anything is remembered."""


class Gone(NamedTuple):
    """Prefixes that a peer took back at one moment."""

    at: float
    peer: PeerId
    family: Family
    prefixes: Collection[Prefix]
    end: str | None
    """Why the session ended, where they went with it."""


class Recently:
    """The memory of one daemon."""

    def __init__(self) -> None:
        self._gone: deque[Gone] = deque()
        self._held = 0

    def keep_withdrawn(self, peer: Peer, event: Withdraw, now: float) -> None:
        """A session withdrew prefixes."""
        self._add(Gone(now, peer.id, event.family, event.prefixes, None))

    def keep_ended(
        self, peer: Peer, down: Down, announced: Mapping[Family, Iterable[Prefix]], now: float
    ) -> None:
        """A session ended, and what it announced went with it or will, unless it comes back."""
        for family, prefixes in announced.items():
            if first := frozenset(islice(prefixes, MOST_OF_A_SESSION)):
                self._add(Gone(now, peer.id, family, first, down.message or down.reason.value))

    def _add(self, gone: Gone) -> None:
        self._gone.append(gone)
        self._held += len(gone.prefixes)
        while self._held > MOST or self._gone[0].at < gone.at - LONGEST_SECONDS:
            self._held -= len(self._gone.popleft().prefixes)

    def find(self, family: Family, prefix: Prefix, now: float) -> list[Gone]:
        """The last of each peer that took a prefix back, the newest first."""
        found: dict[PeerId, Gone] = {}
        for gone in reversed(self._gone):
            if gone.at < now - LONGEST_SECONDS:
                break
            if gone.family is family and gone.peer not in found and prefix in gone.prefixes:
                found[gone.peer] = gone
        return list(found.values())

    def prefixes(self, family: Family) -> Iterator[Prefix]:
        """All that are remembered."""
        return (prefix for gone in self._gone if gone.family is family for prefix in gone.prefixes)
