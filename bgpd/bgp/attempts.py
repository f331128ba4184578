"""When a peer is dialled, and how long it is left alone: the times of one session between its connections.

``session`` owns one of these and says what happened; time is given with every call. Dialling goes at once, then after
1, 2, 4, 5, 5, ... s, with jitter, until a session has lasted ``STABLE_SECONDS``. An error in the protocol,
theirs or ours, makes the session idle for 1, 2, 4, ... 30 s, in which connections are refused too
(DampPeerOscillations, RFC 4271 §8.1): a peer that sends garbage does not loop fast. Too many prefixes: idle for a
minute.
"""

from __future__ import annotations

from random import Random

from bgpd.bgp.connection import Closure
from bgpd.bgp.wire.exa.messages import Cease
from bgpd.model.peer import DownReason

DIAL_DELAYS_SECONDS = (0.0, 1.0, 2.0, 4.0, 5.0)
IDLE_DELAYS_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Seconds, attempt by attempt; the last one counts for all that follow."""
AFTER_HARD_RESET_SECONDS = 0.5
"""Seconds until a peer is dialled by another AS number than before, after a hard reset. Some see the new connection
before they have read the NOTIFICATION on the old one: they take it for a restart, and keep the paths that must go.
FRR does, for its restart time: ``bgp_accept`` ends an established session so; another thread reads the old socket."""
STABLE_SECONDS = 10.0
"""A session that lasted so many seconds starts the delays anew."""
PREFIX_LIMIT_IDLE_SECONDS = 60.0
MEMORY_IDLE_SECONDS = (60.0, 120.0, 300.0, 900.0)
"""Seconds that a peer which was ended for memory stays out: more each time, until it was good for an hour."""
GOOD_FOR_SECONDS = 3600.0


class Attempts:
    """The times of one session. A dial ends with ``later``, ``at_once``, or a connection (``dial_over``)."""

    def __init__(self, now: float, random: Random) -> None:
        self.dialling = False
        """A dial is under way, or a socket of another process is being taken."""
        self.dial_at: float | None = now
        """When to dial next; ``None`` while nobody has said so."""
        self.idle_until: float | None = None
        """Until then the peer is neither dialled nor let in."""
        self._random = random
        self._attempts = self._errors = 0
        self._ended_for_memory, self._ended_for_memory_at = 0, 0.0

    @property
    def idle(self) -> bool:
        return self.idle_until is not None

    @property
    def had_errors(self) -> bool:
        """Whether there were errors in the protocol since a session was stable."""
        return self._errors > 0

    def tick(self, now: float) -> None:
        """The time of being idle may be over."""
        if self.idle_until is not None and now >= self.idle_until:
            self.idle_until = None

    def take(self, now: float) -> bool:
        """Whether to dial now: then the dial is under way."""
        if self.dial_at is None or now < self.dial_at:
            return False
        self.begin()
        return True

    def begin(self) -> None:
        """A dial is under way."""
        self.dialling, self.dial_at = True, None

    def dial_over(self) -> None:
        """The dial has ended."""
        self.dialling = False

    def at_once(self, now: float) -> None:
        """Dial again now, as if there had been no dial."""
        self.dial_at = now

    def hasten(self, now: float) -> None:
        """A dial that waits since others failed may go well now; one that waits for another reason waits on."""
        if self.dial_at is not None and self.idle_until is None and self._attempts:
            self.dial_at = min(self.dial_at, now)

    def later(self, now: float) -> None:
        """Dial again after the next delay."""
        delay = DIAL_DELAYS_SECONDS[min(self._attempts, len(DIAL_DELAYS_SECONDS) - 1)]
        self._attempts += 1
        self.dial_at = now + self._jitter(delay)

    def restart(self, at: float) -> None:
        """The delays begin anew, and a dial is due then."""
        self._attempts = self._errors = self._ended_for_memory = 0
        self.idle_until = None
        self.dial_at = at

    def session_over(self, lasted: float) -> None:
        """An established session has ended, after some seconds."""
        if lasted >= STABLE_SECONDS:
            self._attempts = self._errors = 0

    def after(self, closure: Closure, now: float) -> None:
        """When to try again after the last connection is over."""
        meant = None if closure.notification is None else closure.notification.meant
        code = None if meant is None else (meant.code, meant.subcode)
        sent = closure.reason is DownReason.NOTIFICATION_TX
        if sent and code == (6, Cease.MAX_PREFIXES):
            self._stay_idle(now + PREFIX_LIMIT_IDLE_SECONDS)
        elif sent or (closure.reason is DownReason.NOTIFICATION_RX and code is not None and code[0] != 6):
            delay = IDLE_DELAYS_SECONDS[min(self._errors, len(IDLE_DELAYS_SECONDS) - 1)]
            self._errors += 1
            self._stay_idle(now + self._jitter(delay))
        else:
            self.later(now)

    def out_of_memory(self, now: float) -> float:
        """The peer was ended for memory. For how many seconds it stays out."""
        if now >= self._ended_for_memory_at + GOOD_FOR_SECONDS:
            self._ended_for_memory = 0
        idle = MEMORY_IDLE_SECONDS[min(self._ended_for_memory, len(MEMORY_IDLE_SECONDS) - 1)]
        self._ended_for_memory, self._ended_for_memory_at = self._ended_for_memory + 1, now
        self._stay_idle(now + idle)
        return idle

    def _stay_idle(self, until: float) -> None:
        self.idle_until = self.dial_at = until

    def _jitter(self, delay: float) -> float:
        return delay * self._random.uniform(0.75, 1.0)
