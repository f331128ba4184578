"""When a start is over: until then nothing of ours that was there before is swept (house rule 5).

A start is over when each wanted peer has announced all it has (End-of-RIB, RFC 4724 §4.1) in each of its families, or
``DEADLINE_SECONDS`` has passed. Nobody waits for a peer whose every dial was refused or not answered (BIRD waits 240 s
for any peer that is down, and its users suffer); one without graceful restart, which sends no End-of-RIB, has announced
all when it was quiet for ``QUIET_SECONDS``. Time counts from when the peers are known: a node whose resources
take a minute to come must not sweep the moment they are there.

The routes of before stay longer for a peer whose daemon is down and whose host may well forward: one that refused a
dial, or that never came where we do not dial. Its session counts as ended when we started, and its routes stay for the
restart time that we have with it (RFC 4724 §4.2). One whose host answers nothing is given up after ``EARLY_SECONDS``.
The sweep is one for all peers, since a route does not show who announced it. Pure; ``daemon`` brings the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from bgpd.model.peer import DialAnswer, PeerConfig, PeerId
from bgpd.model.prefix import Family

DEADLINE_SECONDS = 45.0
EARLY_SECONDS = 15.0
QUIET_SECONDS = 3.0
"""Seconds without a word of routes after which a peer that sends no End-of-RIB has announced all."""
UNREADY_AFTER_SECONDS, UNREADY_AGAIN_SECONDS = 3.0, 60.0
"""Seconds of being not ready after which the log says so, and after which it says so again."""
_AWAY = frozenset((DialAnswer.REFUSED, DialAnswer.SILENT))


class Convergence:
    """``configured`` begins it, once the resources are whole and the peers known."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._wanted: Mapping[PeerId, PeerConfig] = {}
        self._heard: set[tuple[PeerId, Family]] = set()
        self._answers: dict[PeerId, set[DialAnswer]] = {}
        """Peer -> what its host answered to dials so far."""
        self._came: set[PeerId] = set()
        """Peers that had a session since."""
        self._last_words: dict[PeerId, float] = {}
        """When routes last came, or the session: of peers that send no End-of-RIB."""
        self._over = False

    def configured(self, peers: Mapping[PeerId, PeerConfig], now: float) -> None:
        """The peers that are wanted: those that went are no longer waited for."""
        self._wanted = peers
        if self._began is None:
            self._began = now

    def peer_established(
        self, peer: PeerId, families: frozenset[Family], now: float, *, end_of_rib: bool = True
    ) -> None:
        """A session is up: families that it does not carry are not waited for. ``end_of_rib``: whether it says one."""
        self._came.add(peer)
        if end_of_rib:
            self._last_words.pop(peer, None)
        else:
            self._last_words[peer] = now
        self._heard.update((peer, family) for family in Family if family not in families)

    def family_whole(self, peer: PeerId, family: Family) -> None:
        """A peer announced all it has."""
        self._heard.add((peer, family))

    def routes_came(self, peer: PeerId, now: float) -> None:
        """Routes of a peer came."""
        if peer in self._last_words:
            self._last_words[peer] = now

    def dial_answered(self, peer: PeerId, answer: DialAnswer) -> None:
        """A dial ended."""
        self._answers.setdefault(peer, set()).add(answer)

    def waiting(self, now: float) -> list[PeerId]:
        """Peers that are still waited for."""
        if self._began is None or self._over or now >= self._began + DEADLINE_SECONDS:
            return []
        return [peer for peer in self._unheard(now) if not self._is_away(peer)]

    def keeping(self, now: float) -> list[PeerId]:
        """Peers for which routes of before the start are kept, whether or not the start is over."""
        if self._began is None:
            return []
        age = now - self._began
        return [peer for peer in self._unheard(now) if age < self._patience(peer)]

    def _unheard(self, now: float) -> list[PeerId]:
        heard, last_words = self._heard, self._last_words
        return [
            peer
            for peer, config in self._wanted.items()
            if any((peer, family) not in heard for family in config.families)
            and now < last_words.get(peer, inf) + QUIET_SECONDS
        ]

    def _is_away(self, peer: PeerId) -> bool:
        """Whether all we know of a peer is that it cannot be dialled."""
        answers = self._answers.get(peer, ())
        return peer not in self._came and bool(answers) and _AWAY.issuperset(answers)

    def _patience(self, peer: PeerId) -> float:
        """Seconds for which the routes of a peer that has not announced all are kept."""
        config, answers = self._wanted[peer], self._answers.get(peer, ())
        if DialAnswer.REFUSED in answers or (config.passive and peer not in self._came):
            return float(config.restart_time)
        return EARLY_SECONDS if self._is_away(peer) else DEADLINE_SECONDS

    def over(self, now: float) -> bool:
        """Whether the start is over. Once it is, it stays so."""
        if not self._over and self._began is not None and not self.waiting(now):
            self._over = True
        return self._over


class Unready:
    """When the log says that this node is not ready, and why: soon, when it is another reason, and again and again.
    ``systemctl start`` waits meanwhile, and shows nothing of it."""

    def __init__(self) -> None:
        self._reported = ""
        self._due: float | None = None

    def due(self, why: str, now: float) -> bool:
        """Whether to say it now; ``why`` is empty while it is ready."""
        if not why:
            self._reported, self._due = "", None
            return False
        if self._due is None:
            self._due = now + UNREADY_AFTER_SECONDS
        elif why != self._reported and self._reported:
            self._due = min(self._due, now)
        if now < self._due:
            return False
        self._reported, self._due = why, now + UNREADY_AGAIN_SECONDS
        return True
