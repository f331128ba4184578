"""Routes that another will write instead of us (Felix: a pool gets an encapsulation): they stay until its own stand.

Part of ``programmer``. We know at once that such a route is no longer ours to write, and Felix writes it a second or
two later: nothing would be there meanwhile. So what is installed stays wanted, for ``LEAVING_SECONDS`` at most; it goes
as soon as a route of another stands beside it, and is let go where another's took its place. Pure: time is an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from bgpd.model.prefix import Prefix
from bgpd.model.route import FibKey, Forwarding

LEAVING_SECONDS = 5.0
LOOK_EVERY_SECONDS = 0.05
"""Seconds between two looks at whether another's routes stand."""
MOST_LOOKS = 4096
"""Routes that are looked at at once."""


class LeavingRoutes:
    """Falsy while there are none. ``stands(prefix)``: whether a route of another is there. Each method returns what is
    wanted of the programmer's ``Delta`` after it."""

    def __init__(self, stands: Callable[[Prefix], bool]) -> None:
        self._stands = stands
        self._until: dict[FibKey, float] = {}
        """Key -> when it goes in any case; the key looked at longest ago first."""

    def __bool__(self) -> bool:
        return bool(self._until)

    def keep(
        self,
        changes: Mapping[FibKey, Forwarding | None],
        left: Collection[FibKey],
        wanted: Collection[FibKey],
        now: float,
    ) -> Mapping[FibKey, Forwarding | None]:
        """Changes less the ends of wanted routes that are left to another and do not stand there yet. What is decided
        on a route that leaves is done, whatever it is."""
        kept = {
            key: self._until.get(key, now + LEAVING_SECONDS)
            for key in left
            if key in changes and changes[key] is None and key in wanted and not self._stands(key[0])
        }
        for key in self._until.keys() & changes.keys():
            del self._until[key]
        self._until.update(kept)
        return {key: value for key, value in changes.items() if key not in kept} if kept else changes

    def changed(self, keys: Iterable[FibKey]) -> Mapping[FibKey, None]:
        """Another changed what is installed at these keys: a route that leaves has left."""
        return self._go(key for key in keys if key in self._until)

    def due(self, now: float) -> Mapping[FibKey, None]:
        """Some are looked at: those go in whose place another's stand, and those whose time is up."""
        looked = [key for key, _ in zip(self._until, range(MOST_LOOKS), strict=False)]
        gone = self._go(key for key in looked if self._until[key] <= now or self._stands(key[0]))
        for key in looked:
            if key not in gone:
                self._until[key] = self._until.pop(key)
        return gone

    def _go(self, keys: Iterable[FibKey]) -> dict[FibKey, None]:
        gone: dict[FibKey, None] = dict.fromkeys(list(keys))
        for key in gone:
            del self._until[key]
        return gone
