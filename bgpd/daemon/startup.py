"""When a start is over: until then nothing of ours that was there before is swept (house rule 5).

A start is over when each wanted peer has told all it has (End-of-RIB, RFC 4724 §4.1) in each of its families, or its
time has passed: ``DEADLINE``, or ``REFUSED_DEADLINE`` where every dial was refused or unreachable (BIRD waits 240 s for
any peer that is down, and its users suffer). Time counts from when the peers are known: a node whose resources take a
minute to come must not sweep the moment they are there. Pure; ``daemon`` brings the time.
"""

from __future__ import annotations

from collections.abc import Mapping

from bgpd.model.peer import PeerConfig, PeerId
from bgpd.model.prefix import Family

DEADLINE = 45.0
REFUSED_DEADLINE = 15.0
UNREADY_AFTER, UNREADY_AGAIN = 3.0, 60.0
"""Seconds of being not ready after which the log says so, and after which it says so again."""


class Convergence:
    """``configured`` begins it, once the resources are whole and the peers known."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._wanted: Mapping[PeerId, PeerConfig] = {}
        self._heard: set[tuple[PeerId, Family]] = set()
        self._dials: dict[PeerId, bool] = {}
        """Peer -> whether every dial so far was refused or unreachable."""
        self._over = False

    def configured(self, peers: Mapping[PeerId, PeerConfig], now: float) -> None:
        """The peers that are wanted: those that went are no longer waited for."""
        self._wanted = peers
        if self._began is None:
            self._began = now

    def established(self, peer: PeerId, families: frozenset[Family]) -> None:
        """A session is up: families that it does not carry are not waited for."""
        self._dials[peer] = False
        self._heard.update((peer, family) for family in Family if family not in families)

    def heard(self, peer: PeerId, family: Family) -> None:
        """A peer told all it has."""
        self._heard.add((peer, family))

    def attempted(self, peer: PeerId, refused: bool) -> None:
        """A dial ended: refused or unreachable, or otherwise."""
        self._dials[peer] = refused and self._dials.get(peer, True)

    def waiting(self, now: float) -> list[PeerId]:
        """Peers that are still waited for."""
        if self._began is None or self._over or now >= self._began + DEADLINE:
            return []
        refused_out = now >= self._began + REFUSED_DEADLINE
        return [
            peer
            for peer, config in self._wanted.items()
            if any((peer, family) not in self._heard for family in config.families)
            and not (refused_out and self._dials.get(peer, False))
        ]

    def over(self, now: float) -> bool:
        """Whether the start is over. Once it is, it stays so."""
        if not self._over and self._began is not None and not self.waiting(now):
            self._over = True
        return self._over


class Unready:
    """When the log says that this node is not ready, and why: soon, when it is another reason, and again and again.
    ``systemctl start`` waits meanwhile, and shows nothing of it."""

    def __init__(self) -> None:
        self._said = ""
        self._due: float | None = None

    def due(self, why: str, now: float) -> bool:
        """Whether to say it now; ``why`` is empty while it is ready."""
        if not why:
            self._said, self._due = "", None
            return False
        if self._due is None:
            self._due = now + UNREADY_AFTER
        elif why != self._said and self._said:
            self._due = min(self._due, now)
        if now < self._due:
            return False
        self._said, self._due = why, now + UNREADY_AGAIN
        return True
