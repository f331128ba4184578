"""Taking this node out of service, step by step: by the operator's order, or as its Node is cordoned.

First the addresses of services go, which other nodes have too; ``STEP_SECONDS`` later all else becomes the last
resort (``model.drain``); where the order says so, and its wait is over, that is withdrawn too. An order is kept in the
state directory: after a restart the node is as far as it was ordered to be, at once. A Node with ``spec.unschedulable``
is followed as ``drain.on_cordon`` says. ``daemon`` asks for the level at each change of the intent and each second.
"""

from __future__ import annotations

import logging
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

from bgpd.daemon.state_file import StateFile
from bgpd.events import event
from bgpd.model.drain import Drain, OnCordon

log = logging.getLogger(__name__)

STEP_SECONDS = 1.0
"""Seconds between the withdrawal of services and the rest: peers have other ways to them before anything else moves."""


class _Order(NamedTuple):
    withdraw: bool
    wait: float
    """Seconds between the last resort and the withdrawal."""
    began: float


class Draining:
    """The order, the cordon, and how far they are."""

    def __init__(self, directory: Path) -> None:
        self._file = StateFile(directory, "drain.json")
        self._order = self._read()
        self._cordon: OnCordon = "none"
        self._cordoned_at: float | None = None
        self._looked = False

    def cordoned(self, what: OnCordon, now: float) -> None:
        """What the cordon of this node's Node means at present; ``none`` where it is not cordoned."""
        if what == "none":
            self._cordoned_at = None
        elif self._cordoned_at is None:
            # One that was there before us is no step any more.
            self._cordoned_at = now if self._looked else -inf
        if self._looked and what != self._cordon:
            event(log, "cordon", logging.WARNING, drains=what)
        self._cordon, self._looked = what, True

    def level(self, now: float) -> Drain:
        """How far this node is drained."""
        found = Drain.NONE
        if self._order is not None:
            found = self._step(self._order.began, now)
            if self._order.withdraw and now >= self._order.began + STEP_SECONDS + self._order.wait:
                found = Drain.WITHDRAWN
        if self._cordoned_at is not None:
            by_cordon = self._step(self._cordoned_at, now) if self._cordon == "all" else Drain.SERVICES
            found = max(found, by_cordon)
        return found

    def drain(self, *, withdraw: bool, wait: float, keep: bool, now: float) -> str:
        """By the operator; what was done, in words. ``keep``: over restarts too; otherwise what was to be kept before
        still is. ``Impossible``: done, and not kept over a restart."""
        # An order that stands already is not begun anew: what was withdrawn would come back for a moment.
        before = self._order
        began = now if before is None else before.began
        if before is not None and withdraw and not before.withdraw:
            wait += max(0.0, now - began - STEP_SECONDS)
        self._order = _Order(withdraw, wait, began)
        event(log, "drain", logging.WARNING, withdraw=withdraw, wait=wait)
        if keep:
            self._keep("this node is drained, but only until bgpd restarts")
        end = "then withdrawn" if withdraw else "then advertised as the last resort"
        until = "also over restarts, until bgpctl undrain" if keep else "until bgpd restarts"
        return f"services are withdrawn, all else {end}, {until}"

    def undrain(self) -> str:
        """By the operator: as if it had never been ordered."""
        self._order = None
        event(log, "undrain", logging.WARNING)
        self._keep("this node is not drained, but may be so again after a restart of bgpd")
        if self._cordoned_at is not None:
            return "the order is gone; the Node is still cordoned, and drain.on_cordon says what that means"
        return "this node is in service"

    def _step(self, began: float, now: float) -> Drain:
        return Drain.ALL if now >= began + STEP_SECONDS else Drain.SERVICES

    def _read(self) -> _Order | None:
        # Who was ordered out of service must not come back because of a file.
        out = _Order(False, 0.0, -inf)
        return self._file.read(_decode, absent=None, unreadable=out, counts_as="drained")

    def _keep(self, otherwise: str) -> None:
        order = self._order
        self._file.write(None if order is None else {"withdraw": order.withdraw}, otherwise)


def _decode(found: Any) -> _Order | None:
    return _Order(bool(found["withdraw"]), 0.0, -inf)
