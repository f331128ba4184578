"""How long routes of a peer that is away are kept: graceful restart, its long-lived kind, and refreshes with marks.

``router`` owns one of these, says what happened and does what comes out; the routes themselves are in Adj-RIB-In. Keys
are a peer and a family. Sources: RFC 4724 §4.2 (stale until End-of-RIB, or until the time is up), RFC 9494 §4.2 (then
as the last resort), RFC 7313 §4 (what a refresh does not announce again goes).
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

from bgpd.model.peer import PeerId
from bgpd.model.prefix import Family

STALE_SECONDS = 360.0
"""Seconds that stale routes wait for End-of-RIB once their peer is back (RFC 4724 §4.2, the upper bound that it leaves
to us): a peer may hold its End-of-RIB until it converged itself, in BIRD 240 s."""
HANDED_ON_SECONDS = 30.0
"""Seconds that the routes of a peer in whose place another comes wait for the session of that one."""
Key = tuple[PeerId, Family]


class StaleTimes:
    """See the module. Times are seconds of one clock, the caller's."""

    def __init__(self) -> None:
        self._until: dict[Key, float] = {}
        self._lives: dict[Key, float] = {}
        """Seconds for which stale routes live on as long-lived ones, where their peer is not back."""
        self._life_ends: dict[Key, float] = {}
        """When long-lived stale routes go, whatever their peer does meanwhile but announce all anew (RFC 9494 §4.2)."""
        self._refreshing: set[Key] = set()

    def is_long_lived(self, key: Key) -> bool:
        """Whether the routes live on as the last resort."""
        return key in self._life_ends

    def next_deadline(self) -> float | None:
        """When ``due`` has something next; ``None`` for never."""
        return min(self._until.values(), default=None)

    def keep_for(self, key: Key, until: float, life: float) -> None:
        """The routes stay: until then as stale ones, then for ``life`` seconds as long-lived ones."""
        self._until[key] = until
        if life:
            self._lives[key] = life

    def peer_back(self, key: Key, now: float) -> None:
        """The peer is back: what is stale waits for its End-of-RIB."""
        if key in self._until:
            self._lives.pop(key, None)
            self._until[key] = min(now + STALE_SECONDS, self._life_ends.get(key, inf))

    def hand_on(self, before: Key, after: Key, now: float) -> bool:
        """The peer is no longer wanted, and another comes in its place: what is stale of it waits for that one's
        session. Whether anything is."""
        until = self._until.get(before)
        self.keep_no_more(before)
        if until is None:
            return False
        self._until[after] = min(until, now + HANDED_ON_SECONDS)
        return True

    def refresh_begins(self, key: Key, now: float) -> bool:
        """Whether all of the peer's routes become stale; not while its first announcement is still under way."""
        if key in self._until:
            return False
        self._until[key] = now + STALE_SECONDS
        self._refreshing.add(key)
        return True

    def all_announced(self, key: Key, refresh: bool) -> bool:
        """The end of a refresh, or End-of-RIB, has come. Whether it is the one that was waited for: then what is stale
        still goes."""
        if refresh != (key in self._refreshing):
            return False
        self.refresh_over(key)
        self.keep_no_more(key)
        return True

    def refresh_over(self, key: Key) -> None:
        """Nobody waits for the end of a refresh any more."""
        self._refreshing.discard(key)

    def keep_no_more(self, key: Key) -> None:
        """There are no stale routes any more."""
        for times in (self._until, self._lives, self._life_ends):
            times.pop(key, None)

    def due(self, now: float) -> Iterator[tuple[Key, bool]]:
        """Whose stale routes have had their time; with it, whether they live on as long-lived ones or go."""
        for key in [key for key, deadline in self._until.items() if deadline <= now]:
            if life := self._lives.pop(key, 0.0):
                end = self._life_ends.setdefault(key, now + life)
                if end > now:
                    self._until[key] = end
                    yield key, True
                    continue
            self.keep_no_more(key)
            self.refresh_over(key)
            yield key, False
