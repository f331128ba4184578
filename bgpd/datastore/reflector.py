"""One collection of a server's objects, kept equal to the server's: what is known of it and when to ask again. Sans-IO.

As the Reflector of Kubernetes' client-go does it: a whole LIST, then a WATCH from the version of that list. While
connections break, the WATCH goes on from the last version heard of. Only when the server no longer has it is a new LIST
taken, and compared with what is known. What is listed in the same version is no news, what is not listed any more is
gone. So nothing is lost, reported twice, or taken away for a moment. ``cluster`` moves events between a ``Feed`` and
this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from bgpd.datastore.trouble import Kind

FIRST_RETRY_SECONDS = 0.25
LONGEST_RETRY_SECONDS = 15.0
"""Seconds; each retry waits twice as long as the one before, of that between half and all, by chance: the nodes of a
cluster must not come back in one moment."""
SETTLED_SECONDS = 5.0
"""Seconds after which a watch that breaks counts as one that worked."""
REFUSED_RETRY_SECONDS = 30.0
"""Seconds between two tries of what is forbidden or does not exist: somebody must do something first."""


class Put(NamedTuple):
    """An object is there."""

    key: str
    """What it is called, unique in the collection."""
    version: str
    """Differs with the object's content; the same version is the same content."""
    document: Any
    """The object in the shape that the decoder takes."""


class Gone(NamedTuple):
    """An object is not there any more, or none of our business any more."""

    key: str


class Progress(NamedTuple):
    """Everything up to ``position`` was reported: a WATCH may begin there."""

    position: str


class Whole(NamedTuple):
    """What was put since the attempt began is all there is, as of ``position``."""

    position: str


Event = Put | Gone | Progress | Whole


class Reflector:
    """What is known of one collection. Times are seconds of any clock that does not go back."""

    def __init__(self, chance: Callable[[], float]) -> None:
        """``chance`` returns numbers from 0 to 1."""
        self._chance = chance
        self._known: dict[str, str] = {}
        self._listed: set[str] | None = None
        """Keys put since a LIST began; ``None`` while a WATCH goes on."""
        self._began = 0.0
        self._failures = 0
        self.position: str | None = None
        """Where the next WATCH begins; ``None`` asks for a LIST."""
        self.synced = False
        """Whether all was read at least once."""
        self.resyncs = 0
        """Lists after the first one."""

    def __len__(self) -> int:
        return len(self._known)

    def begin(self, now: float) -> str | None:
        """A new attempt. Returns where to begin: a version to watch from, or ``None``, a LIST."""
        self._began = now
        self._listed = set() if self.position is None else None
        return self.position

    def take(self, events: Iterable[Event]) -> list[Put | Gone]:
        """What the server reported, in order. Returns what of it is news; all of it counts as known then."""
        news: list[Put | Gone] = []
        for event in events:
            if isinstance(event, Put):
                if self._listed is not None:
                    self._listed.add(event.key)
                if self._known.get(event.key) != event.version:
                    self._known[event.key] = event.version
                    news.append(event)
            elif isinstance(event, Gone):
                if self._listed is not None:
                    self._listed.discard(event.key)
                if self._known.pop(event.key, None) is not None:
                    news.append(event)
            elif isinstance(event, Whole):
                if self._listed is not None:
                    for key in [key for key in self._known if key not in self._listed]:
                        del self._known[key]
                        news.append(Gone(key))
                    self._listed = None
                self.resyncs += self.synced
                self.synced = True
                self.position = event.position
                self._failures = 0
            elif self._listed is None:  # of a LIST the parts have no position
                self.position = event.position
        return news

    def recall(self, puts: Iterable[Put]) -> list[Put | Gone]:
        """What was known before a restart, to be compared with the first LIST. Returns it as news."""
        news: list[Put | Gone] = []
        for put in puts:
            if put.key not in self._known:
                self._known[put.key] = ""
                news.append(put)
        return news

    def forget(self) -> list[Gone]:
        """The collection does not concern us any more. Returns that all of it is gone."""
        gone = [Gone(key) for key in self._known]
        self._known.clear()
        self.position, self.synced, self._listed = None, False, None
        return gone

    def broke(self, kind: Kind | None, now: float, retry_after: float | None = None) -> float:
        """An attempt ended, with trouble or (``None``) as the server wished. Returns the seconds until the next one."""
        worked = self.synced and self._listed is None and now - self._began >= SETTLED_SECONDS
        if worked:
            self._failures = 0
        self._listed = None
        if kind is Kind.EXPIRED:
            self.position = None
            if worked:
                return 0.0
        elif kind is None and worked:
            return 0.0
        elif kind in (Kind.FORBIDDEN, Kind.MISSING):
            self._failures = 0
            return self._jittered(REFUSED_RETRY_SECONDS)
        self._failures += 1
        wait = self._jittered(
            min(LONGEST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(self._failures - 1, 16))
        )
        return wait if retry_after is None else max(wait, min(retry_after, 2 * LONGEST_RETRY_SECONDS))

    def _jittered(self, seconds: float) -> float:
        return seconds * (0.5 + self._chance() / 2)
