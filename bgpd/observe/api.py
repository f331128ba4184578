"""The HTTP doors: JSON for ``bgpctl`` on a unix socket (``control_api``), metrics and probes for everybody else on TCP,
and, where it is wanted, a page for browsers on another port (``web``).

The daemon owns the one ``Api`` and hands it the socket that it claimed (``control_socket``); who connected before the
start is answered then. A port for metrics that is taken stops no routing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket

from bgpd.config.config import WebOptions
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
    """The doors of one daemon. ``metrics_listen`` is (address, port), or ``None`` for no such door; ``glass`` says
    whether there is a page, and for whom."""

    def __init__(
        self,
        views: Views,
        actions: Actions,
        metrics: Metrics,
        claim: Claim,
        metrics_listen: tuple[str, int] | None,
        glass: WebOptions | None = None,
    ) -> None:
        self._control, self._probes = ControlApi(views, actions), Probes(views, metrics)
        self._claim, self._listen = claim, metrics_listen
        self._views, self._glass = views, glass or WebOptions()
        self._runners: list[web.AppRunner] = []
        self._control_gate: Gate | None = None
        self._control_server: asyncio.Server | None = None
        self._metrics_server: asyncio.Server | None = None
        self._web_server: asyncio.Server | None = None
        self.metrics_error = self.web_error = ""
        """Why there is no such door though one is wanted."""

    async def start(self) -> None:
        """Opens the doors. A taken port stops no routing: ``metrics_error`` and ``web_error`` say so then."""
        try:
            control = self._control.application()
            control.router.add_get("/metrics", self._probes.scrape)
            self._control_gate = await self._gate(control)
            self._control_server = await _serve(self._control_gate, self._claim.socket)
            if self._listen is not None:
                self._metrics_server, self.metrics_error = await self._open(
                    self._probes.application(), self._listen, "metrics are"
                )
                if self.metrics_error:
                    event(log, "no_metrics", logging.ERROR, cause=self.metrics_error)
            if self._glass.listen is not None:
                from bgpd.observe.web import Glass  # few nodes have one

                self._web_server, self.web_error = await self._open(
                    Glass(self._views, self._glass).application(), self._glass.listen, "the page is"
                )
                if self.web_error:
                    event(log, "no_web", logging.ERROR, cause=self.web_error)
        except BaseException:
            await self.stop()
            raise

    async def _open(
        self, app: web.Application, listen: tuple[str, int], what: str
    ) -> tuple[asyncio.Server | None, str]:
        """A door that strangers reach, or why there is none."""
        assert self._control_gate is not None
        gate, (host, port) = await self._gate(app), listen
        self._control_gate.before.append(gate)
        try:
            return await _serve(gate, await asyncio.to_thread(_bound, host, port)), ""
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else str(error)
            return None, f"{what} not served on {host} port {port}: {why}"

    async def reopen(self) -> None:
        """The control socket's path was made anew: what connects there is served too."""
        if self._control_gate is not None and self._control_server is not None:
            self._control_server.close()
            self._control_server = await _serve(self._control_gate, self._claim.socket)

    async def stop(self) -> None:
        """Closes them, and gives up the claim."""
        runners, self._runners = self._runners, []
        for server in (self._control_server, self._metrics_server, self._web_server):
            if server is not None:
                server.close()
        self._control_server = self._metrics_server = self._web_server = None
        for runner in runners:
            await runner.cleanup()
        self._claim.release()

    @property
    def metrics_address(self) -> tuple[str, int] | None:
        """Where metrics are served, once started: with the port that the kernel chose for port 0."""
        return _address(self._metrics_server)

    @property
    def web_address(self) -> tuple[str, int] | None:
        """Where the page is served; as ``metrics_address``."""
        return _address(self._web_server)

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


def _address(server: asyncio.Server | None) -> tuple[str, int] | None:
    if server is None:
        return None
    address = server.sockets[0].getsockname()
    return address[0], address[1]


async def _serve(gate: Gate, listening: socket.socket) -> asyncio.Server:
    server = await asyncio.get_running_loop().create_server(gate, sock=listening, backlog=ACCEPTED_AT_ONCE)
    listening.listen(BACKLOG)
    return server


def _bound(host: str, port: int) -> socket.socket:
    """A socket for a door. ``OSError`` where the address is not ours or the port is taken."""
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
