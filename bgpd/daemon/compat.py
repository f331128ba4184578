"""What stands where Calico's tools and Kubernetes look: started by the daemon once its own doors are open, ended with
it. Nothing of it is imported where the configuration wants none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping
from typing import Any

from bgpd.config.config import Config
from bgpd.daemon.startup import DEADLINE_SECONDS
from bgpd.model.doors import Views
from bgpd.model.status import SessionState
from bgpd.views.live import Parts
from bgpd.views.summary import Facts


async def serve_compat(
    config: Config, views: Views, parts: Parts, facts: Facts, in_sync: asyncio.Event
) -> None:
    """Serves what is wanted until it is cancelled; returns where nothing is."""
    options = config.compat
    async with asyncio.TaskGroup() as group:
        if options.bird_sockets is not None:
            from bgpd.observe.birdctl import BirdSockets
            from bgpd.views.bird import Bird, ground

            sockets = BirdSockets(options.bird_sockets, Bird(views, ground(parts, DEADLINE_SECONDS)))
            facts.not_served = sockets.problems
            group.create_task(sockets.run(), name="bird-sockets")
        if options.process_names:
            from bgpd.observe import process_names

            group.create_task(process_names.run(), name="process-names")
        if options.reports:
            group.create_task(_report(config, views, parts, in_sync), name="reports")


async def _report(config: Config, views: Views, parts: Parts, in_sync: asyncio.Event) -> None:
    """Writes into the Kubernetes API, over a connection of its own."""
    from bgpd.datastore.kubernetes import reports
    from bgpd.datastore.kubernetes.client import Access
    from bgpd.datastore.kubernetes.feeds import Kubernetes
    from bgpd.views.bird import ground
    from bgpd.views.node_status import node_status

    store, node, options = config.datastore, config.node, config.compat
    source = Kubernetes(Access(store.kubeconfig, store.context), node, False, store.namespace)
    refusals, around = reports.Refusals(), ground(parts, DEADLINE_SECONDS)

    def status(classes: Collection[str]) -> Mapping[str, Any]:
        return node_status(views, around, classes, time.time())

    def sessions() -> dict[str, tuple[bool, float, str]]:
        found = {}
        for peer in parts.speaker.sessions.statuses():
            words = f": {peer.last_down or peer.last_error}" if peer.last_down or peer.last_error else ""
            found[str(peer.id)] = (peer.state is SessionState.ESTABLISHED, peer.since, words)
        return found

    def states() -> object:
        return {name: (up, since) for name, (up, since, _) in sessions().items()}

    async def say_that_the_network_is_there() -> None:
        await in_sync.wait()
        await reports.clear_network_unavailable(source.client, node, refusals)

    try:
        async with asyncio.TaskGroup() as group:
            if options.node_status:
                statuses = reports.NodeStatuses(source, status, states, refusals)
                group.create_task(statuses.run(), name="node-status")
            if options.network_available:
                group.create_task(say_that_the_network_is_there(), name="network-available")
            if options.session_events:
                events = reports.SessionEvents(source.client, node, refusals)
                group.create_task(events.run(sessions), name="session-events")
    finally:
        await source.close()
