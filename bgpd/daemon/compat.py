"""What stands where Calico's tools look: started by the daemon once its own doors are open, ended with it. Nothing of
it is imported where the configuration wants none."""

from __future__ import annotations

import asyncio

from bgpd.config.config import CompatOptions
from bgpd.daemon.startup import DEADLINE
from bgpd.model.doors import Views
from bgpd.views.live import Parts


async def serve_compat(options: CompatOptions, views: Views, parts: Parts) -> None:
    """Serves what is wanted until it is cancelled; returns where nothing is."""
    async with asyncio.TaskGroup() as group:
        if options.bird_sockets is not None:
            from bgpd.observe.birdctl import BirdSockets
            from bgpd.views.bird import Bird, ground

            sockets = BirdSockets(options.bird_sockets, Bird(views, ground(parts, DEADLINE)))
            group.create_task(sockets.run(), name="bird-sockets")
        if options.process_names:
            from bgpd.observe import process_names

            group.create_task(process_names.run(), name="process-names")
