"""What the service manager hears of the daemon, and what the log says while it is not ready.

``housekeeping`` reports once a second; a line goes out where it differs from the last one, and now and then anyway.
"""

from __future__ import annotations

import logging
import time

from bgpd.daemon.startup import Unready
from bgpd.events import Seconds, event
from bgpd.observe.sdnotify import Notifier
from bgpd.views.live import Parts
from bgpd.views.summary import Facts, ready

log = logging.getLogger(__name__)

REPORT_SECONDS = 10.0
"""Seconds between two words to the service manager that say the same."""


class ServiceManager:
    """systemd, or nobody: then only the log is written."""

    def __init__(self, parts: Parts, facts: Facts) -> None:
        self._parts, self._facts = parts, facts
        self.notifier = self._notifier = Notifier.from_environment()
        self._unready = Unready()
        self._began = time.monotonic()
        self._ready_reported = False
        self._reported = ("", 0.0)
        """What the service manager was sent last, and when."""
        self._watchdog_due = 0.0

    def report(self, now: float) -> None:
        """The state of the daemon in a line, and that it lives."""
        self._report_state(now)
        if self._notifier.watchdog_interval is not None and now >= self._watchdog_due:
            self._watchdog_due = now + self._notifier.watchdog_interval
            self._notifier.watchdog()

    def _report_state(self, now: float) -> None:
        wrong = [check for check in ready(self._parts, self._facts) if not check.ok]
        up, sessions = self._parts.speaker.sessions.count()
        held = sum(len(programming.target.installed.entries) for programming in self._parts.fibs.values())
        text = f"{up}/{sessions} peers up, {held} routes in the kernel"
        if wrong:
            text = "not ready: " + "; ".join(f"{check.name}: {check.detail}" for check in wrong)
        if refused := self._facts.config_error:
            text += f"; configuration refused: {refused.splitlines()[0]}"
        if self._unready.due(text if wrong else "", now):
            event(log, "not_ready", logging.WARNING, cause=text)
        if not wrong and not self._ready_reported:
            self._ready_reported = True
            event(log, "ready", after=Seconds(now - self._began, 2))
            self._notifier.ready(text)
        elif text != self._reported[0] or now >= self._reported[1] + REPORT_SECONDS:
            (self._notifier.status if self._ready_reported else self._notifier.starting)(text)
        else:
            return
        self._reported = (text, now)

    def reloading(self) -> None:
        """A reload of the configuration begins; ``reloaded`` must follow."""
        self._notifier.reloading()

    def reloaded(self) -> None:
        """The reload ended, whatever came of it."""
        if self._ready_reported:
            self._notifier.ready(self._reported[0])

    def stopping(self) -> None:
        """The daemon ends."""
        self._notifier.stopping()
