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
