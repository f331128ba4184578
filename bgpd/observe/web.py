"""The looking glass: a page for browsers with what ``bgpctl`` shows, read only, on a port of its own (docs/glass.md).

``api`` opens it where ``web.listen`` is set, behind a gate as its other doors. It has three files (``page/``), the
questions of ``questions`` that the page asks, a stream of what changed (server-sent events), and the same questions
passed on to other nodes (``web.nodes``), each of which answers for itself only. There is GET and nothing else; a
browser loads nothing from elsewhere (Content-Security-Policy). It is answered by names of this node only, so that no
other page can read it by a name that it points here (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import importlib
import json
import socket
import time
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from bgpd.config.config import WebOptions
from bgpd.lean_import import lean_import
from bgpd.model.doors import Views
from bgpd.model.prefix import is_address
from bgpd.observe.answers import Handler, answer, errors_as_json
from bgpd.observe.as_json import SCHEMA_VERSION
from bgpd.observe.questions import Questions

with lean_import("aiohttp"):
    from aiohttp import web

ASKED = ("status", "peers", "routes", "map", "why", "history")
"""Questions that the page asks."""
PAGE = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.svg": ("page.svg", "image/svg+xml"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
PULSE = 2.0
"""Seconds between two looks at what changed, one for all readers."""
QUIET = 20.0
"""Seconds after which a reader of the stream hears that there was nothing."""
MOST_FOLLOWERS = 16
READ_TIME = 10.0
"""Seconds for a follower to take what is written."""
NODE_TIME, NODE_MOST = 5.0, 8 << 20
"""Seconds and octets of another node's answer."""


class Glass:
    """The page of one daemon."""

    def __init__(self, views: Views, options: WebOptions) -> None:
        self._views, self._nodes = views, options.nodes
        self._node = views.status().node
        self._names = {"localhost", self._node, *(name.lower() for name in options.names)}
        self._followers = 0
        self._pulse: tuple[float, str] = (0.0, "")
        """When it was last looked at, and what was seen."""

    def application(self) -> web.Application:
        """All of it, for a server."""
        app = web.Application(middlewares=[errors_as_json, self._known_host], client_max_size=1024)
        app.on_response_prepare.append(_harden)
        for path, (name, kind) in PAGE.items():
            app.router.add_get(path, _file(name, kind), allow_head=False)
        questions = Questions(self._views).by_name
        for name in ASKED:
            app.router.add_get(f"/api/{name}", questions[name], allow_head=False)
            app.router.add_get(f"/api/nodes/{{node}}/{name}", self._elsewhere(name), allow_head=False)
        app.router.add_get("/api/nodes", self._list, allow_head=False)
        app.router.add_get("/api/events", self._events, allow_head=False)
        return app

    @web.middleware
    async def _known_host(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            host = (urlsplit(f"//{request.host}").hostname or "").lower()
        except ValueError:
            host = ""
        if not is_address(host) and host not in self._names and host != socket.gethostname().lower():
            raise web.HTTPForbidden(
                text=f"this node is not known as {host!r}: ask by its address or name, or set web.names"
            )
        return await handler(request)

    async def _list(self, request: web.Request) -> web.StreamResponse:
        return answer({"node": self._node, "nodes": sorted(self._nodes)})

    def _elsewhere(self, name: str) -> Handler:
        """A question, asked of the node that the path names."""

        async def ask(request: web.Request) -> web.StreamResponse:
            node = request.match_info["node"]
            if node not in self._nodes:
                raise web.HTTPNotFound(text=f"web.nodes has no {node!r}")
            return await _ask(f"{self._nodes[node]}/api/{name}", request.rel_url.raw_query_string, node)

        return ask

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """A line whenever something changed that the page shows; which of it, the page asks then."""
        if self._followers >= MOST_FOLLOWERS:
            raise web.HTTPServiceUnavailable(text=f"{MOST_FOLLOWERS} pages follow already")
        self._followers += 1
        try:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
            await response.prepare(request)
            seen, said = "", time.monotonic()
            while request.transport is not None:  # aiohttp lets no handler know that its reader has gone
                now, state = time.monotonic(), self._look()
                if state != seen or now >= said + QUIET:
                    text = f"data: {state}\n\n" if state != seen else ": nothing\n\n"
                    async with asyncio.timeout(READ_TIME):
                        await response.write(text.encode())
                    seen, said = state, now
                await asyncio.sleep(PULSE)
            return response
        except (ConnectionError, TimeoutError):
            if request.transport is not None:
                request.transport.abort()
            return response
        finally:
            self._followers -= 1

    def _look(self) -> str:
        """What the page follows; its text is another one when anything of it changed."""
        at, state = self._pulse
        if (now := time.monotonic()) >= at + PULSE / 2:
            status = self._views.status()
            shown: dict[str, Any] = {
                "schema_version": SCHEMA_VERSION,
                "ready": status.ready,
                "peers_up": status.peers_up,
                "peers_wanted": status.peers_wanted,
                "routes_changed": status.last_routes_change,
                "resources_changed": status.datastore.last_event,
                "problems": len(status.problems),
                "drain": status.drain,
            }
            state = json.dumps(shown)
            self._pulse = now, state
        return state


def _file(name: str, kind: str) -> Handler:
    octets = files("bgpd.observe").joinpath("page", name).read_bytes()

    async def send(request: web.Request) -> web.StreamResponse:
        return web.Response(body=octets, content_type=kind, charset="utf-8")

    return send


async def _harden(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)


async def _ask(url: str, query: str, node: str) -> web.StreamResponse:
    """Another node's answer as it is; that it has none is one too."""
    yarl = importlib.import_module("yarl")
    client = await asyncio.to_thread(
        importlib.import_module, "aiohttp"
    )  # few nodes ask, and no start waits for it
    try:
        async with (
            asyncio.timeout(NODE_TIME),
            client.ClientSession() as session,
            session.get(yarl.URL(f"{url}?{query}", encoded=True), allow_redirects=False) as response,
        ):
            octets = bytearray()
            async for part in response.content.iter_any():
                octets += part
                if len(octets) > NODE_MOST:
                    return answer({"error": f"{node} answered with more than {NODE_MOST >> 20} MiB"}, 502)
            if response.content_type != "application/json":
                return answer({"error": f"{node} does not answer as a bgpd: {response.status}"}, 502)
            return web.Response(
                body=bytes(octets), status=response.status, content_type="application/json", charset="utf-8"
            )
    except TimeoutError:
        return answer({"error": f"{node} does not answer within {NODE_TIME:.0f} s"}, 504)
    except (OSError, client.ClientError) as error:
        return answer({"error": f"{node} does not answer: {error}"}, 502)
