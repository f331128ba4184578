"""What this node writes into the Kubernetes API, where it is asked to: CalicoNodeStatus objects, the condition
NetworkUnavailable of its Node, Events about sessions. ``daemon.compat`` says what there is to write; here is how.

Nothing else depends on it: what the server refuses is logged once and tried again later, and never stops the daemon.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from bgpd.datastore.cluster import follow
from bgpd.datastore.kubernetes import kinds
from bgpd.datastore.kubernetes.client import Document, KubernetesClient
from bgpd.datastore.kubernetes.feeds import KindFeed, Kubernetes
from bgpd.datastore.reflector import Event, Gone, Reflector
from bgpd.datastore.trouble import Kind, Trouble
from bgpd.events import event

TURN_SECONDS = 1.0
"""Seconds between two looks at whether something is due."""
SOONEST_SECONDS = 10.0
"""Seconds between two writes of one object because sessions changed."""
LONGEST_PERIOD = 86400
CONFLICTS = 5
"""Tries of one write while others write the same object."""
BURST, REFILL_SECONDS = 10, 30.0
"""Events that may be written at once, and seconds for one more."""
MOST_WAITING = 200

log = logging.getLogger(__name__)

Clock = Callable[[], float]


class Refusals:
    """Logs why something cannot be written: once, until it can."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}

    def refused(self, what: str, trouble: Trouble) -> None:
        """It was refused."""
        if self._said.get(what) != str(trouble):
            self._said[what] = str(trouble)
            event(log, "not_reported", logging.WARNING, what=what, cause=str(trouble))

    def taken(self, what: str) -> None:
        """It was written."""
        if self._said.pop(what, None) is not None:
            event(log, "reported_again", what=what)


class NodeStatuses:
    """The CalicoNodeStatus objects of this node, filled in: when one of them changes, every ``updatePeriodSeconds``,
    and where that is not 0, when sessions change."""

    def __init__(
        self,
        source: Kubernetes,
        make: Callable[[Collection[str]], Mapping[str, Any]],
        sessions: Callable[[], object],
        refusals: Refusals,
    ) -> None:
        """``make`` makes a status of some classes; ``sessions()`` differs when they changed."""
        self._source, self._make, self._sessions, self._refusals = source, make, sessions, refusals
        self._wanted: dict[str, Document] = {}
        """The objects that are wanted: name -> spec."""
        self._due: dict[str, float] = {}
        self._written: dict[str, tuple[float, object]] = {}

    async def run(self) -> None:
        """Until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._keep())

    async def _follow(self) -> None:
        feed = KindFeed(self._source, kinds.STATUSES, "")
        reflector = Reflector(random.random)

        async def take(events: list[Event]) -> None:
            self._refusals.taken("caliconodestatuses (read)")
            for each in reflector.take(events):
                if isinstance(each, Gone):
                    self._wanted.pop(each.key, None)
                elif self._wanted.get(each.key) != (spec := each.document.get("spec") or {}):
                    self._wanted[each.key] = spec  # not at our own writes
                    self._due[each.key] = 0.0

        def troubled(trouble: Trouble) -> None:
            if trouble.kind is not Kind.EXPIRED:
                self._refusals.refused("caliconodestatuses (read)", trouble)

        await follow(feed, reflector, take, troubled)

    async def _keep(self) -> None:
        while True:
            now, sessions = time.monotonic(), self._sessions()
            for name, spec in list(self._wanted.items()):
                period = _period(spec.get("updatePeriodSeconds"))
                at, seen = self._written.get(name, (0.0, None))
                changed = period > 0 and seen != sessions and now >= at + SOONEST_SECONDS
                if changed or now >= self._due.get(name, 0.0):
                    self._written[name] = (now, sessions)
                    self._due[name] = now + period if period else float("inf")
                    if not await self._write(name, spec):
                        self._due[name] = now + max(SOONEST_SECONDS, period)
            for name in self._written.keys() - self._wanted.keys():
                del self._written[name]
            await asyncio.sleep(TURN_SECONDS)

    async def _write(self, name: str, spec: Document) -> bool:
        """Whether the server took it, or has the object no more."""
        classes = spec.get("classes")
        status = self._make(
            [each for each in classes if isinstance(each, str)] if isinstance(classes, list) else []
        )
        client = self._source.client
        try:
            for attempt in range(CONFLICTS):
                api = await self._source.calico()
                path = f"{kinds.STATUSES.path(api)}/{name}"
                suffix = "/status" if await self._has_subresource(api) else ""
                try:
                    found = await client.get(path)
                    await client.send("PUT", path + suffix, {**found, "status": status})
                except Trouble as trouble:
                    if trouble.kind is not Kind.CONFLICT or attempt == CONFLICTS - 1:
                        raise
                else:
                    break
        except Trouble as trouble:
            if trouble.kind is Kind.MISSING:
                return True
            self._refusals.refused("caliconodestatuses", trouble)
            return False
        self._refusals.taken("caliconodestatuses")
        return True

    async def _has_subresource(self, api: str) -> bool:
        """Whether the status is written apart (from Calico 3.33 on); a write to the object itself then drops it, and
        before that the other path does not exist."""
        found = await self._source.client.get(f"/apis/{api}")
        names = {each.get("name") for each in found.get("resources") or () if isinstance(each, dict)}
        return f"{kinds.STATUSES.plural}/status" in names


def _period(value: object) -> float:
    """Seconds; 0: never by time alone."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        return 0.0
    return float(min(value, LONGEST_PERIOD))


async def clear_network_unavailable(client: KubernetesClient, node: str, refusals: Refusals) -> None:
    """Says once that the node's network is there, as calico-node does at its start: what a cloud's controller set keeps
    pods away from a node without routes. Tried until the server takes it."""
    wait = TURN_SECONDS
    while True:
        now = _now()
        condition = {
            "type": "NetworkUnavailable",
            "status": "False",
            "reason": "BgpdIsUp",
            "message": "bgpd is running on this node",
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }
        try:
            await client.send(
                "PATCH",
                f"/api/v1/nodes/{node}/status",
                {"status": {"conditions": [condition]}},
                content="application/strategic-merge-patch+json",
            )
        except Trouble as trouble:
            refusals.refused("nodes/status", trouble)
            wait = min(60.0, wait * 2) * random.uniform(0.75, 1.25)
            await asyncio.sleep(wait)
        else:
            refusals.taken("nodes/status")
            event(log, "network_available", node=node)
            return


class SessionEvents:
    """Events on the Node when sessions go down and up. At most ``BURST`` at once and one more each
    ``REFILL_SECONDS``; the next one says how many there were meanwhile."""

    def __init__(
        self, client: KubernetesClient, node: str, refusals: Refusals, clock: Clock = time.monotonic
    ) -> None:
        self._client, self._node, self._refusals, self._clock = client, node, refusals, clock
        self._known: dict[str, tuple[bool, float]] | None = None
        self._tokens, self._at = float(BURST), clock()
        self.left_out = 0

    def news(self, sessions: Mapping[str, tuple[bool, float, str]]) -> list[Document]:
        """The Events that are due. ``sessions``: name -> (established, since when, why not in words). What was so when
        we began is no news."""
        now = self._clock()
        self._tokens = min(float(BURST), self._tokens + (now - self._at) / REFILL_SECONDS)
        self._at = now
        before, self._known = self._known, {name: (up, since) for name, (up, since, _) in sessions.items()}
        found: list[Document] = []
        if before is None:
            return found
        for name, (up, since, words) in sessions.items():
            was = before.get(name, (False, since))
            if was == (up, since) or not (up or was[0]):
                continue
            if self._tokens < 1:
                self.left_out += 1
                continue
            self._tokens -= 1
            more = f"; {self.left_out} more changes of sessions were not reported" if self.left_out else ""
            self.left_out = 0
            text = f"BGP session {name} is established" if up else f"BGP session {name} went down{words}"
            if up and was[0]:
                text = f"BGP session {name} went down and was established again"
            found.append(self._event("BGPSessionUp" if up else "BGPSessionDown", text + more, not up))
        return found

    def _event(self, reason: str, text: str, warning: bool) -> Document:
        now = _now()
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{self._node}.bgpd-", "namespace": "default"},
            "involvedObject": {"kind": "Node", "apiVersion": "v1", "name": self._node, "uid": self._node},
            "reason": reason,
            "message": text[:1000],
            "type": "Warning" if warning else "Normal",
            "source": {"component": "bgpd", "host": self._node},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }

    async def run(self, sessions: Callable[[], Mapping[str, tuple[bool, float, str]]]) -> None:
        """Until it is cancelled. What the server does not take waits for it, the newest of it."""
        waiting: list[Document] = []
        while True:
            waiting = [*waiting, *self.news(sessions())][-MOST_WAITING:]
            try:
                while waiting:
                    await self._client.send("POST", "/api/v1/namespaces/default/events", waiting[0])
                    self._refusals.taken("events")
                    waiting.pop(0)
            except Trouble as trouble:
                self._refusals.refused("events", trouble)
                if trouble.kind in (Kind.FORBIDDEN, Kind.UNSUPPORTED):
                    waiting.clear()
            await asyncio.sleep(TURN_SECONDS)


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
