"""The HTTP doors: JSON for ``bgpctl`` on a unix socket, metrics and probes for everybody else on TCP.

The daemon owns the one ``Api``, hands it its ``Views`` and starts it before anything else, since the socket is also
what shows that another daemon is at work here. All answers come from the views, in the event loop; what may be long
(routes, peers) is made and sent in slices of a few milliseconds, and the text of a scrape is made in a thread.

On the unix socket, mode 0660 (``as_json`` says what the values look like; each answer has ``schema_version``):

====  ==================================  ====================================================================
GET   /v1/status                          one ``Status``
GET   /v1/peers?name=                     ``{"peers": [PeerStatus]}``, of one name or address if given
GET   /v1/routes?table=&prefix=&peer=     ``{"table": ..., "routes": [RouteView]}``; ``longer=1`` with all inside
                                          the prefix; a bare address, or a name of one, asks for every prefix that
                                          covers it
GET   /v1/blocks                          ``{"blocks": [BlockView]}``
GET   /v1/bfd                             BfdReport (``model.bfd``)
GET   /v1/why?target=                     ``{"explanations": [Explanation]}``
GET   /v1/health?check=live|ready         ``{"check": ..., "ok": ..., "checks": [Check]}``; 503 when it fails
POST  /v1/plan                            body: a line of JSON a resource file, ``{"name", "text"}``; answers with
                                          what they would change (docs/plan.md); 409 when that cannot be known
POST  /v1/reload                          ``{"message": ...}``; 422 with ``problems`` when refused
POST  /v1/peer-action                     body ``{"action", "name", "message"}``; answers ``{"message": ...}``; 409
                                          when it cannot be done
GET   /metrics                            as on TCP
====  ==================================  ====================================================================

On TCP: ``/metrics``, ``/livez`` and ``/readyz``, the last two with ``?verbose``. An error of the first kind of door is
``{"error": ...}`` with 400, 404, 405, 409, 413, 422 or 500.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator
from itertools import islice
from time import perf_counter
from typing import Any, get_args

from bgpd.config.config import ConfigError
from bgpd.lean_import import lean_import
from bgpd.model.prefix import family_of, is_address, make_prefix, parse_address, prefix_text
from bgpd.model.status import Ambiguous, Check, Impossible, NotFound, PeerAction, RouteTable, Views
from bgpd.observe.as_json import SCHEMA_VERSION, document, encode, encode_route
from bgpd.observe.control_socket import BACKLOG, Claim
from bgpd.observe.gate import Gate
from bgpd.observe.metrics import Metrics, Scrape

with lean_import("aiohttp"):
    from aiohttp import web

log = logging.getLogger(__name__)

SLICE_SECONDS = 0.002
"""Seconds of work between two turns of the event loop while a long answer is made."""
SHUTDOWN_TEXT_MAX = 255
"""Octets of a shutdown communication (RFC 9003 §2)."""

BODY_TIME = 30.0
"""Seconds for the body of a request to come in."""
READER_TIME = 300.0
"""Seconds that a reader of a long answer may pause: whoever pages through it reads on before that."""
ACCEPTED_AT_ONCE = 8
"""Connections taken at one turn of the loop. asyncio tries on as often, where there are no descriptors."""
PLAN_MAX = 64 * 1024 * 1024
"""Octets of resources that are taken to be planned with."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
NOT_AS_ASKED = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What JSON that is none, or not of the shape that was asked for, raises."""


class Api:
    """Both doors of one daemon. ``metrics_listen`` is (address, port), or ``None`` for no TCP door."""

    def __init__(
        self,
        views: Views,
        metrics: Metrics,
        claim: Claim,
        metrics_listen: tuple[str, int] | None,
    ) -> None:
        self._views, self._metrics = views, metrics
        self._claim, self._listen = claim, metrics_listen
        self._runners: list[web.AppRunner] = []
        self._servers: list[asyncio.Server] = []
        self._control_gate: Gate | None = None
        self.metrics_error = ""

    async def start(self) -> None:
        """Opens both doors. A taken metrics port stops no routing: ``metrics_error`` says so then."""
        try:
            self._control_gate = await self._gate(self._control())
            await self._serve(self._control_gate, self._claim.socket)
            if self._listen is not None:
                host, port = self._listen
                public = await self._gate(self._public())
                try:
                    await self._serve(public, await asyncio.to_thread(_bound, host, port))
                except OSError as error:
                    why = os.strerror(error.errno) if error.errno else str(error)
                    self.metrics_error = f"metrics are not served on {host} port {port}: {why}"
                    log.error("event=no_metrics cause=%r", self.metrics_error)
        except BaseException:
            await self.stop()
            raise

    async def reopen(self) -> None:
        """The control socket's path was made anew: what connects there is served too."""
        if self._control_gate is not None:
            self._servers.pop(0).close()
            await self._serve(self._control_gate, self._claim.socket)
            self._servers.insert(0, self._servers.pop())

    async def stop(self) -> None:
        """Closes both, and gives up the claim."""
        runners, self._runners = self._runners, []
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()
        for runner in runners:
            await runner.cleanup()
        self._claim.release()

    @property
    def metrics_address(self) -> tuple[str, int] | None:
        """Where metrics are served, once started: with the port that the kernel chose for port 0."""
        for server in self._servers:
            for each in server.sockets:
                if each.family != socket.AF_UNIX:
                    address = each.getsockname()
                    return address[0], address[1]
        return None

    async def _gate(self, app: web.Application) -> Gate:
        """What serves an application, behind a gate."""

        @web.middleware
        async def busy(request: web.Request, handler: Handler) -> web.StreamResponse:
            with gate.request(request.transport):
                return await handler(request)

        app.middlewares.insert(0, busy)
        # A client that is still reading must not hold up the daemon's end.
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        self._runners.append(runner)
        assert runner.server is not None
        gate = Gate(runner.server)
        return gate

    async def _serve(self, gate: Gate, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(gate, sock=listening, backlog=ACCEPTED_AT_ONCE)
        listening.listen(BACKLOG)
        self._servers.append(server)

    def _control(self) -> web.Application:
        app = web.Application(middlewares=[_errors_as_json], client_max_size=64 * 1024)
        app.add_routes(
            [
                web.get("/v1/status", self._status),
                web.get("/v1/peers", self._peers),
                web.get("/v1/routes", self._routes),
                web.get("/v1/blocks", self._blocks),
                web.get("/v1/bfd", self._bfd),
                web.get("/v1/why", self._why),
                web.get("/v1/health", self._health),
                web.post("/v1/plan", self._plan),
                web.post("/v1/reload", self._reload),
                web.post("/v1/peer-action", self._peer_action),
                web.post("/v1/ipam", self._ipam),
                web.get("/metrics", self._scrape),
            ]
        )
        return app

    def _public(self) -> web.Application:
        app = web.Application(client_max_size=1024)
        app.add_routes(
            [
                web.get("/metrics", self._scrape),
                web.get("/livez", self._livez),
                web.get("/readyz", self._readyz),
            ]
        )
        return app

    # Both doors.

    async def _scrape(self, request: web.Request) -> web.StreamResponse:
        scrape = Scrape.of(self._views)
        body, content_type = await asyncio.to_thread(
            self._metrics.render, request.headers.get("Accept", ""), scrape
        )
        response = web.Response(body=body, headers={"Content-Type": content_type})
        response.enable_compression()  # in a thread too, for what is larger than a kilobyte
        return response

    # TCP.

    async def _livez(self, request: web.Request) -> web.StreamResponse:
        return _probe("livez", self._views.live(), "verbose" in request.query)

    async def _readyz(self, request: web.Request) -> web.StreamResponse:
        return _probe("readyz", self._views.ready(), "verbose" in request.query)

    # The unix socket.

    async def _status(self, request: web.Request) -> web.StreamResponse:
        return _answer(document(self._views.status()))

    async def _peers(self, request: web.Request) -> web.StreamResponse:
        peers = self._views.peers(request.query.get("name"))
        return await _stream(request, {}, "peers", map(encode, peers))

    async def _routes(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        table: Any = query.get("table", "rib")
        if table not in get_args(RouteTable):
            raise web.HTTPBadRequest(text=f"table must be one of {', '.join(get_args(RouteTable))}")
        longer = query.get("longer", "") not in ("", "0", "false")
        rows = self._rows(table, query.get("prefix") or None, query.get("peer") or None, longer)
        return await _stream(request, {"table": table}, "routes", rows)

    def _rows(
        self, table: RouteTable, prefix: str | None, peer: str | None, longer: bool
    ) -> Iterator[str | None]:
        head, slash, _ = (prefix or "").partition("/")
        if prefix is None or longer or (slash and is_address(head)):
            for row in self._views.routes(table, prefix, peer, longer):
                yield encode_route(row)
            return
        for address in (parse_address(prefix),) if is_address(prefix) else self._views.addresses(prefix):
            family = family_of(address)
            for length in range(family.bits, -1, -1):
                covering = prefix_text(family, make_prefix(address, length))
                for row in self._views.routes(table, covering, peer):
                    yield encode_route(row)
                yield None  # a look-up without rows takes its time too

    async def _blocks(self, request: web.Request) -> web.StreamResponse:
        return await _stream(request, {}, "blocks", map(encode, self._views.blocks()))

    async def _bfd(self, request: web.Request) -> web.StreamResponse:
        return _answer(document(self._views.bfd()))

    async def _why(self, request: web.Request) -> web.StreamResponse:
        try:
            explanations = self._views.why(request.query.get("target", ""))
        except ValueError as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        return _answer({"explanations": document(explanations)})

    async def _health(self, request: web.Request) -> web.StreamResponse:
        name = request.query.get("check", "ready")
        if name not in ("live", "ready"):
            raise web.HTTPBadRequest(text="check must be live or ready")
        checks = self._views.live() if name == "live" else self._views.ready()
        ok = all(check.ok for check in checks)
        return _answer({"check": name, "ok": ok, "checks": document(checks)}, 200 if ok else 503)

    async def _plan(self, request: web.Request) -> web.StreamResponse:
        body = bytearray()
        async with asyncio.timeout(BODY_TIME):
            async for part in request.content.iter_any():
                body += part
                if len(body) > PLAN_MAX:
                    raise web.HTTPRequestEntityTooLarge(
                        PLAN_MAX, len(body), text=f"more than {PLAN_MAX >> 20} MiB"
                    )
        try:
            files = await asyncio.to_thread(_files, body)
        except NOT_AS_ASKED:
            raise web.HTTPBadRequest(text="each line must be an object with name and text") from None
        found = await self._views.plan(files)
        return _json(await asyncio.to_thread(json.dumps, found, ensure_ascii=False))

    async def _reload(self, request: web.Request) -> web.StreamResponse:
        return _answer({"message": await self._views.reload()})

    async def _peer_action(self, request: web.Request) -> web.StreamResponse:
        try:
            async with asyncio.timeout(BODY_TIME):
                body = json.loads(await request.text())
            action, name, message = body["action"], body["name"], body.get("message", "")
        except NOT_AS_ASKED:
            raise web.HTTPBadRequest(
                text="the body must be an object with action, name and message"
            ) from None
        if action not in get_args(PeerAction):
            raise web.HTTPBadRequest(text=f"action must be one of {', '.join(get_args(PeerAction))}")
        if not _is_text(name) or not _is_text(message):
            raise web.HTTPBadRequest(text="name and message must be text, in characters that UTF-8 has")
        if len(message.encode()) > SHUTDOWN_TEXT_MAX:
            raise web.HTTPBadRequest(text=f"the message is longer than {SHUTDOWN_TEXT_MAX} octets (RFC 9003)")
        return _answer({"message": await self._views.peer_action(action, name, message)})

    async def _ipam(self, request: web.Request) -> web.StreamResponse:
        """An order of a CNI plugin."""
        try:
            async with asyncio.timeout(BODY_TIME):
                order = json.loads(await request.text())
        except NOT_AS_ASKED:
            order = None
        if not isinstance(order, dict):
            raise web.HTTPBadRequest(text="the body must be an object: verb, and what it asks for")
        return web.json_response(await self._views.ipam(order))


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


def _files(body: bytearray) -> dict[str, bytes]:
    """The files in the body of a plan; octets that are no UTF-8 came as surrogates (PEP 383)."""
    files = {}
    for line in body.splitlines():
        entry = json.loads(line)
        files[str(entry["name"])] = entry["text"].encode("utf-8", "surrogateescape")
    return files


def _answer(content: dict[str, Any], status: int = 200) -> web.Response:
    text = json.dumps(
        {"schema_version": SCHEMA_VERSION, **content}, ensure_ascii=False, separators=(",", ":")
    )
    return _json(text, status)


def _json(text: str, status: int = 200) -> web.Response:
    """An answer. A question may have had half a surrogate pair in it, which no octets of UTF-8 can say."""
    body = (text + "\n").encode(errors="backslashreplace")
    return web.Response(body=body, status=status, content_type="application/json", charset="utf-8")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _slices(rows: Iterable[str | None]) -> Iterator[list[str]]:
    """The rows in lists that took ``SLICE_SECONDS`` to make at most; ``None`` is no row, only a chance to look."""
    part: list[str] = []
    deadline = perf_counter() + SLICE_SECONDS
    for row in rows:
        if row is not None:
            part.append(row)
        if perf_counter() > deadline:
            yield part
            part = []
            deadline = perf_counter() + SLICE_SECONDS
    yield part


async def _stream(
    request: web.Request, head: dict[str, Any], key: str, rows: Iterable[str | None]
) -> web.StreamResponse:
    """An answer with a list of encoded rows, however long: ``{head..., key: [rows]}``, each row a line of its own.

    What is wrong with the question shows in the first slice, when there is still a status to choose.
    """
    slices = _slices(rows)
    try:
        parts = list(islice(slices, 1))
    except ValueError as error:
        raise web.HTTPBadRequest(text=str(error)) from None
    response = web.StreamResponse(headers={"Content-Type": "application/json; charset=utf-8"})
    opening = json.dumps({"schema_version": SCHEMA_VERSION, **head}, separators=(",", ":"))
    await response.prepare(request)
    await response.write(f'{opening[:-1]},"{key}":[\n'.encode())
    try:
        separator = ""
        while parts:
            if part := parts.pop():
                octets = (separator + ",\n".join(part)).encode(errors="backslashreplace")
                async with asyncio.timeout(READER_TIME):
                    await response.write(octets)
                separator = ",\n"
            await asyncio.sleep(0)
            parts.extend(islice(slices, 1))
    except ConnectionError:
        return response  # the reader has seen enough
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        return response
    except Exception:
        # Too late for a status: an answer cut short is what the reader sees.
        log.exception("event=answer_broken path=%s", request.path_qs)
        if request.transport is not None:
            request.transport.abort()
        return response
    await response.write(b"\n]}\n")
    await response.write_eof()
    return response


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except NotFound as error:
        return _answer({"error": str(error)}, 404)
    except Ambiguous as error:
        return _answer({"error": str(error)}, 400)
    except Impossible as error:
        return _answer({"error": str(error)}, 409)
    except ConfigError as error:
        problems = [str(problem) for problem in error.problems]
        return _answer({"error": "the configuration was not taken", "problems": problems}, 422)
    except web.HTTPException as error:
        return _answer({"error": error.text or error.reason}, error.status)
    except ConnectionError:
        raise
    except TimeoutError:
        return _answer({"error": f"the body of the request did not come within {BODY_TIME:.0f} s"}, 408)
    except Exception as error:
        log.exception("event=request_failed method=%s path=%s", request.method, request.path_qs)
        return _answer({"error": f"internal error, see the daemon's log: {type(error).__name__}"}, 500)


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
