"""The HTTP doors: JSON for ``bgpctl`` on a unix socket (``control_api``), metrics and probes for everybody else on TCP.

The daemon owns the one ``Api`` and hands it the socket that it claimed (``control_socket``); who connected before the
start is answered then. A port for metrics that is taken stops no routing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket

from bgpd.events import event
from bgpd.lean_import import lean_import
from bgpd.model.doors import Actions, Views
from bgpd.observe.answers import Handler
from bgpd.observe.control_api import ControlApi
from bgpd.observe.control_socket import BACKLOG, Claim
from bgpd.observe.gate import Gate
from bgpd.observe.metrics import Metrics
from bgpd.observe.probes import Probes

with lean_import("aiohttp"):
    from aiohttp import web
    from aiohttp.http_exceptions import HttpProcessingError

log = logging.getLogger(__name__)

ACCEPTED_AT_ONCE = 8
"""Connections taken at one turn of the loop. asyncio tries on as often, where there are no descriptors."""


NO_HTTP = (HttpProcessingError, web.RequestPayloadError)
"""What aiohttp finds of octets that are no request, or whose body is not what its head says."""


class _NoRequests(logging.Filter):
    """Passes over what is no HTTP: its sender gets 400, and whoever reaches the port could fill the log with it."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], NO_HTTP))


_server_log = logging.getLogger(f"{__name__}.server")
_server_log.addFilter(_NoRequests())


class Api:
    """Both doors of one daemon. ``metrics_listen`` is (address, port), or ``None`` for no TCP door."""

    def __init__(
        self,
        views: Views,
        actions: Actions,
        metrics: Metrics,
        claim: Claim,
        metrics_listen: tuple[str, int] | None,
    ) -> None:
        self._control, self._probes = ControlApi(views, actions), Probes(views, metrics)
        self._claim, self._listen = claim, metrics_listen
        self._runners: list[web.AppRunner] = []
        self._control_gate: Gate | None = None
        self._control_server: asyncio.Server | None = None
        self._metrics_server: asyncio.Server | None = None
        self.metrics_error = ""
        """Why there is no TCP door though one is wanted."""

    async def start(self) -> None:
        """Opens both doors. A taken metrics port stops no routing: ``metrics_error`` says so then."""
        try:
            control = self._control.application()
            control.router.add_get("/metrics", self._probes.scrape)
            self._control_gate = await self._gate(control)
            self._control_server = await _serve(self._control_gate, self._claim.socket)
            if self._listen is not None:
                host, port = self._listen
                public = await self._gate(self._probes.application())
                try:
                    self._metrics_server = await _serve(public, await asyncio.to_thread(_bound, host, port))
                except OSError as error:
                    why = os.strerror(error.errno) if error.errno else str(error)
                    self.metrics_error = f"metrics are not served on {host} port {port}: {why}"
                    event(log, "no_metrics", logging.ERROR, cause=self.metrics_error)
        except BaseException:
            await self.stop()
            raise

    async def reopen(self) -> None:
        """The control socket's path was made anew: what connects there is served too."""
        if self._control_gate is not None and self._control_server is not None:
            self._control_server.close()
            self._control_server = await _serve(self._control_gate, self._claim.socket)

    async def stop(self) -> None:
        """Closes both, and gives up the claim."""
        runners, self._runners = self._runners, []
        for server in (self._control_server, self._metrics_server):
            if server is not None:
                server.close()
        self._control_server = self._metrics_server = None
        for runner in runners:
            await runner.cleanup()
        self._claim.release()

    @property
    def metrics_address(self) -> tuple[str, int] | None:
        """Where metrics are served, once started: with the port that the kernel chose for port 0."""
        if self._metrics_server is None:
            return None
        address = self._metrics_server.sockets[0].getsockname()
        return address[0], address[1]

    async def _gate(self, app: web.Application) -> Gate:
        """What serves an application, behind a gate."""

        @web.middleware
        async def busy(request: web.Request, handler: Handler) -> web.StreamResponse:
            with gate.request(request.transport):
                return await handler(request)

        app.middlewares.insert(0, busy)
        # A client that is still reading must not hold up the daemon's end.
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, logger=_server_log)
        await runner.setup()
        self._runners.append(runner)
        assert runner.server is not None
        gate = Gate(runner.server)
        return gate


async def _serve(gate: Gate, listening: socket.socket) -> asyncio.Server:
    server = await asyncio.get_running_loop().create_server(gate, sock=listening, backlog=ACCEPTED_AT_ONCE)
    listening.listen(BACKLOG)
    return server


def _bound(host: str, port: int) -> socket.socket:
    """A socket for the metrics. ``OSError`` where the address is not ours or the port is taken."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = found[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except BaseException:
        listening.close()
        raise
    return listening
