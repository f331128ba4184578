"""What anybody may ask: ``/metrics``, and the probes ``/livez`` and ``/readyz``, both with ``?verbose``."""

from __future__ import annotations

import asyncio

from bgpd.lean_import import lean_import
from bgpd.model.doors import Views
from bgpd.model.status import Check
from bgpd.observe.metrics import Metrics, Scrape

with lean_import("aiohttp"):
    from aiohttp import web


class Probes:
    """The probes and the metrics of one daemon."""

    def __init__(self, views: Views, metrics: Metrics) -> None:
        self._views, self._metrics = views, metrics

    def application(self) -> web.Application:
        """All of them, for a server."""
        app = web.Application(client_max_size=1024)
        app.add_routes(
            [
                web.get("/metrics", self.scrape),
                web.get("/livez", self._livez),
                web.get("/readyz", self._readyz),
            ]
        )
        return app

    async def scrape(self, request: web.Request) -> web.StreamResponse:
        """The exposition; its text is made in a thread."""
        scrape = Scrape.of(self._views)
        body, content_type = await asyncio.to_thread(
            self._metrics.render, request.headers.get("Accept", ""), scrape
        )
        response = web.Response(body=body, headers={"Content-Type": content_type})
        response.enable_compression()  # in a thread too, for what is larger than a kilobyte
        return response

    async def _livez(self, request: web.Request) -> web.StreamResponse:
        return _probe("livez", self._views.live(), "verbose" in request.query)

    async def _readyz(self, request: web.Request) -> web.StreamResponse:
        return _probe("readyz", self._views.ready(), "verbose" in request.query)


def _probe(name: str, checks: list[Check], verbose: bool) -> web.Response:
    """As the Kubernetes API server answers: a word, or a line a check; here with the reason."""
    ok = all(check.ok for check in checks)
    if ok and not verbose:
        return web.Response(text="ok")
    lines = [
        (f"[+]{check.name} ok" if check.ok else f"[-]{check.name} failed")
        + (f": {check.detail}" if check.detail else "")
        for check in checks
    ]
    lines.append(f"{name} check {'passed' if ok else 'failed'}")
    return web.Response(text="\n".join(lines) + "\n", status=200 if ok else 503)
