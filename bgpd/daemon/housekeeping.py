"""What time alone brings: the end of stale routes and of the start, the next step of a drain, whole compares, a lost
control socket, the watchdog.

``daemon`` runs it as one task; each turn measures how long the event loop was held.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from bgpd.daemon.liveness import Liveness
from bgpd.daemon.service_manager import ServiceManager
from bgpd.daemon.startup import DEADLINE_SECONDS
from bgpd.daemon.turn import Turn
from bgpd.daemon.writing import Writing
from bgpd.events import event
from bgpd.observe.control_socket import AlreadyRunning, Claim
from bgpd.views.live import Parts
from bgpd.views.summary import Facts

if TYPE_CHECKING:
    from bgpd.observe.api import Api

log = logging.getLogger(__name__)

INTERVAL_SECONDS, INTERVAL_AT_START_SECONDS = 1.0, 0.05
"""Seconds between two turns; at the start it must be seen soon that it is over."""
COMPARE_EVERY_SECONDS = 60.0
"""Seconds between whole compares of the kernel's routes with ours."""
LAG_WINDOW = 15
"""Turns over which the worst event-loop lag is remembered."""


class Housekeeping:
    """The task of one daemon."""

    def __init__(
        self,
        parts: Parts,
        facts: Facts,
        turn: Turn,
        writing: Writing,
        liveness: Liveness,
        manager: ServiceManager,
        intent_changed: Callable[[], None],
    ) -> None:
        self._parts, self._facts, self._turn = parts, facts, turn
        self._writing, self._liveness, self._manager = writing, liveness, manager
        self._intent_changed = intent_changed
        self._began = time.monotonic()
        self._control: tuple[Claim, Api] | None = None
        self._control_error = ""
        """Why the control socket could not be made again; logged once."""

    def watch_control_socket(self, claim: Claim, api: Api) -> None:
        """The doors to the operator are open from now on."""
        self._control = claim, api

    async def run(self) -> None:
        """Until cancelled."""
        router, fibs = self._parts.router, self._parts.fibs
        next_compare, report_due = self._began + COMPARE_EVERY_SECONDS, 0.0
        while True:
            starting = not self._facts.in_sync and time.monotonic() < self._began + DEADLINE_SECONDS
            interval = INTERVAL_AT_START_SECONDS if starting else INTERVAL_SECONDS
            due = time.monotonic() + interval
            await asyncio.sleep(interval)
            now = time.monotonic()
            self._facts.lags = [*self._facts.lags[-LAG_WINDOW:], max(0.0, now - due)]
            deadline = router.next_deadline()
            if deadline is not None and deadline <= now:
                router.tick(now)
                self._turn.kick()
            self._turn.review_backlog()
            self._turn.review_memory()
            self._liveness.review()
            if self._parts.intent.due(now):
                self._intent_changed()
            self._writing.check_alone()
            if self._writing.check_in_sync():
                self._turn.kick()
            await self._check_control_socket()
            if now >= report_due:
                report_due = now + INTERVAL_SECONDS
                for family, programming in fibs.items():
                    programming.report()
                    self._parts.kernel.fibs[family].conflicts.report()
            if now >= next_compare:
                next_compare = now + COMPARE_EVERY_SECONDS
                for programming in fibs.values():
                    programming.suspect("every minute")
            self._manager.report(now)

    async def _check_control_socket(self) -> None:
        """Its directory may have been removed, and made anew: an operator must not be locked out until a restart."""
        if self._control is None:
            return
        claim, api = self._control
        try:
            if claim.renew():
                await api.reopen()
                event(log, "control_socket_renewed", logging.WARNING, path=claim.path)
                self._control_error = ""
        except (AlreadyRunning, OSError) as error:
            if self._control_error != str(error):
                self._control_error = str(error)
                event(log, "control_socket_lost", logging.ERROR, cause=str(error))
