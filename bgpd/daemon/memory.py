"""What peers hold of this machine's memory, and who goes when it is too much (``bgp.memory_limit``).

A peer's part is reckoned, not measured: its prefixes, and its attribute sets and paths as long as anybody refers to
them (``bgp.wire.held``). What waits of it to be read, and for it to be sent, is part of it too. The sum of these is
what is limited, and not what the kernel says of the whole process (RSS): that does not sink when a peer has gone, since
freed memory is kept for the next use. One peer after another would have to go for the first one's sake.
``tests/unit/test_memory.py`` holds the reckoning beside RSS.

``daemon`` asks after each turn and each second. What an ended peer leaves is taken out of the tables within a second or
two, so it is counted no longer; nobody else has to go for it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from bgpd.bgp.speaker import Speaker
from bgpd.events import Seconds, event
from bgpd.model.peer import PeerId
from bgpd.model.prefix import Family
from bgpd.model.resources import Problem
from bgpd.rib.router import Router

log = logging.getLogger(__name__)

COST_OF_PREFIX, COST_OF_ADVERTISED = 350, 150
"""Octets of a prefix: in Adj-RIB-In, Loc-RIB and what the kernel is kept equal to, and in the table of each update
group that advertises it. Measured (``tests/unit/test_memory.py``)."""
COST_OF_MISSED = 60
"""Octets of a prefix that a session which reads too slowly has yet to be sent."""
SHARE = 4
"""The peers may hold one part in so many of the machine's memory."""
REVIEW_EVERY_SECONDS, MOST_OF_THE_TIME = 0.1, 30.0
"""Seconds between two reviews at least, and how many times what one took."""
SHOWN_FOR_SECONDS = 3600.0
"""Seconds for which it stays a problem that a peer had to go."""
_V1_UNLIMITED = 1 << 60


def machine_memory(root: Path = Path("/")) -> int:
    """Octets that this machine has, or that a cgroup which we are in may have, whichever is less."""
    sizes = [
        int(line.split()[1]) << 10 for line in _lines(root / "proc/meminfo") if line.startswith("MemTotal:")
    ]
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            base, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        place = Path(path.strip("/"))
        for each in (
            place,
            *place.parents,
        ):  # in a container the path may be one of the host's: then its root counts
            sizes += [int(text) for text in _lines(base / each / name) if text.isdigit()]
    return min((size for size in sizes if 0 < size < _V1_UNLIMITED), default=0)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def memory_limit(configured: str | int) -> int:
    """``bgp.memory_limit`` in octets; 0 is no limit."""
    return machine_memory() // SHARE if isinstance(configured, str) else configured


@dataclass(frozen=True, slots=True)
class Eviction:
    """A peer had to go."""

    peer: PeerId
    words: str
    ended: float
    """When its session was ended, Unix time."""
    until: float
    """Until when it stays out, Unix time."""


@dataclass(slots=True)
class Memory:
    """The peers' memory, and its limit in octets; 0 is none."""

    speaker: Speaker
    router: Router
    limit: int
    missed: Callable[[PeerId], int] = lambda peer: 0
    """Prefixes that a session has missed (``Outbound.missed``)."""
    evictions: dict[PeerId, Eviction] = field(default_factory=dict)
    """The last one of each peer, within the last hour."""
    _due: float = 0.0

    def of(self, peer: PeerId) -> int:
        """Octets that a peer holds."""
        return self._of(peer, self._cost_of_prefix())

    def review(self, now: float) -> bool:
        """Ends peers, those that hold most first, until the others hold no more than they may. Whether one went."""
        if not self.limit or now < self._due:
            return False
        began = time.monotonic()
        cost = self._cost_of_prefix()
        held = {peer: self._of(peer, cost) for peer in self.speaker.sessions.ids}
        self._due = now + max(REVIEW_EVERY_SECONDS, MOST_OF_THE_TIME * (time.monotonic() - began))
        total = whole = sum(held.values())
        while total > self.limit:
            largest = max(held, key=held.__getitem__)
            octets = held.pop(largest)
            self._end(largest, octets, total)
            total -= octets
        return total < whole

    def problems(self) -> Iterator[Problem]:
        """Who had to go within the last hour."""
        now = time.time()
        for peer, gone in list(self.evictions.items()):
            if now >= gone.ended + SHOWN_FOR_SECONDS:
                del self.evictions[peer]
                continue
            out = f"; it may return at {_clock(gone.until)}" if now < gone.until else ""
            yield Problem(peer, "bgp.memory_limit", f"ended at {_clock(gone.ended)}: {gone.words}{out}")

    def _cost_of_prefix(self) -> float:
        """Octets of a prefix in all tables; those of the update groups are shared out evenly."""
        advertised, received = self.router.explain.sizes()
        return COST_OF_PREFIX + (COST_OF_ADVERTISED * advertised / received if received else 0.0)

    def _of(self, peer: PeerId, cost: float) -> int:
        counts = [self.router.counts(peer, family) for family in Family]
        prefixes, stale = sum(count[0] for count in counts), any(count[2] for count in counts)
        waiting = COST_OF_MISSED * self.missed(peer)
        return round(prefixes * cost) + waiting + self.speaker.sessions.memory(peer, stale)

    def _end(self, peer: PeerId, octets: int, total: int) -> None:
        words = (
            f"it held {_mebibytes(octets)}, the most of all peers, which held {_mebibytes(total)} "
            f"of the {_mebibytes(self.limit)} that bgp.memory_limit lets them"
        )
        idle = self.speaker.sessions.out_of_memory(peer, words)
        self.router.forget_peer(peer)  # stale routes of a session before
        now = time.time()
        self.evictions[peer] = Eviction(peer, words, now, now + idle)
        event(
            log,
            "peer_ended_for_memory",
            logging.ERROR,
            peer=peer,
            octets=octets,
            total=total,
            limit=self.limit,
            out_for=Seconds(idle, 0),
        )


def _mebibytes(octets: int) -> str:
    return f"{octets / (1 << 20):.1f} MiB"


def _clock(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%dT%H:%M:%SZ}"
