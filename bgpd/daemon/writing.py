"""When the kernel is ours to write, and when what was left over from before goes.

Nothing is written or swept while another routing daemon is at work here, or while the BGP port is not ours; nothing old
is swept before the start is over (house rule 5, ``daemon.startup``). ``daemon`` asks after what may change the answer.
"""

from __future__ import annotations

import asyncio
import logging
import time

from bgpd.daemon.startup import Convergence
from bgpd.daemon.upgrade import HEARING, Upgrade
from bgpd.events import Seconds, event
from bgpd.views.live import Parts
from bgpd.views.summary import Facts

log = logging.getLogger(__name__)

NOT_YET_LISTENING = "the BGP port is not yet ours"


class Writing:
    """Pauses and resumes the programmers, and sweeps once. What it finds stands in ``Facts``."""

    def __init__(self, parts: Parts, facts: Facts, convergence: Convergence, upgrade: Upgrade) -> None:
        self._outbound, self._upgrade = parts.outbound, upgrade
        self._router, self._speaker, self._fibs = parts.router, parts.speaker, parts.fibs
        self._intent, self._convergence, self._facts = parts.intent, convergence, facts
        facts.in_the_way = NOT_YET_LISTENING
        self._began = time.monotonic()
        self._rival: str | None = None
        """Another daemon that writes routes of our protocol, in words."""
        self._released = False
        """Sessions that were taken over are sent what is different now."""
        self._swept = False
        """What was left over from before the start is gone."""
        self.in_sync = asyncio.Event()
        """Set once the start is over."""

    def follow_rival(self, who: str | None) -> None:
        """Another daemon writes routes of our protocol; ``None``: it is gone."""
        self._rival = f"another daemon writes `proto bird` routes: {who}" if who else None
        self.check_alone()

    def check_alone(self) -> None:
        """While another routing daemon is at work here, nothing is written or swept."""
        before, now = self._facts.in_the_way, self._in_the_way()
        if now == before:
            return
        self._facts.in_the_way = now
        for programming in self._fibs.values():
            programming.pause(now is not None)
            if now is None and before != NOT_YET_LISTENING:
                programming.suspect("another process was at work here")
        if now is None:
            event(log, "writing", cause="nobody else writes here")
        elif now not in (NOT_YET_LISTENING, HEARING):
            event(log, "not_writing", logging.WARNING, cause=now)

    def _in_the_way(self) -> str | None:
        if self._rival is not None:
            return self._rival
        if self._speaker.port_taken:
            return self._speaker.listen_error
        if self._intent.peering is None or not self._speaker.listening:
            return NOT_YET_LISTENING
        return self._upgrade.hearing(time.monotonic())

    def check_in_sync(self) -> bool:
        """Whether the start is over, and what it left can go. Returns whether there is something to send now."""
        facts, now = self._facts, time.monotonic()
        if self._swept or self._router.busy or facts.in_the_way is not None:
            return False
        if not facts.in_sync and self._convergence.over(now):
            facts.in_sync = True
            self.in_sync.set()
            kept_for = self._convergence.keeping(now)
            event(log, "in_sync", after=Seconds(now - self._began, 1), routes_kept_for=kept_for)
        if facts.in_sync and not self._convergence.keeping(now):
            self._swept = True
            swept = sum(programming.release() for programming in self._fibs.values())
            event(log, "swept", after=Seconds(now - self._began, 1), count=swept)
        if not self._released and (facts.in_sync or self._upgrade.whole):
            self._released = True
            self._outbound.release_resumed()
            return True
        return False
