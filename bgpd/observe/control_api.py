"""What ``bgpctl`` and the CNI plugin ask on the control socket: questions and orders as HTTP, answers as JSON.

On the unix socket, mode 0660 (``as_json`` says what the values look like; each answer has ``schema_version``):

====  ==================================  ====================================================================
GET   /v1/status                          one ``Status``
GET   /v1/peers?name=                     ``{"peers": [PeerStatus]}``, of one name or address if given
GET   /v1/routes?table=&prefix=&peer=     ``{"table": ..., "routes": [RouteView]}``; ``longer=1`` with all inside
                                          the prefix; a bare address, or a name of one, asks for every prefix that
                                          covers it
GET   /v1/blocks                          ``{"blocks": [BlockView]}``
GET   /v1/map                             ``{"maps": [BlockMap]}``
GET   /v1/diff                            ``{"differences": [Difference]}``
GET   /v1/config                          ``{"file": ..., "error": ..., "keys": [...]}`` (``views.configuration``)
GET   /v1/bfd                             BfdReport (``model.bfd``)
GET   /v1/why?target=                     ``{"explanations": [Explanation]}``
GET   /v1/history?since=&until=&peer=&prefix=&most=
                                          ``{"entries": [...]}``, oldest first; times are Unix seconds
GET   /v1/health?check=live|ready         ``{"check": ..., "ok": ..., "checks": [Check]}``; 503 when it fails
POST  /v1/plan                            body: a line of JSON a resource file, ``{"name", "text"}``; answers with
                                          what they would change (docs/plan.md); 409 when that cannot be known
POST  /v1/reload                          ``{"message": ...}``; 422 with ``problems`` when refused
POST  /v1/upgrade                         ``{"message": ...}`` once the next process has the sessions, or with ``unit``
                                          where systemd restarts it; 409 when it failed, and nothing has changed
POST  /v1/takeover                        101, then the sessions (``daemon.upgrade``); for root and bgpd's own user
POST  /v1/peer-action                     body ``{"action", "name", "message"}``; answers ``{"message": ...}``; 409
                                          when it cannot be done
POST  /v1/drain                           body ``{"withdraw": false, "wait": 0, "keep": true}``, each may be left out;
                                          answers ``{"message": ...}``
POST  /v1/undrain                         answers ``{"message": ...}``
GET   /metrics                            as on TCP
====  ==================================  ====================================================================

Errors: ``answers``. All answers come from the views, in the event loop.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from typing import get_args

from bgpd.lean_import import lean_import
from bgpd.model.doors import Actions, Views
from bgpd.model.status import PeerAction
from bgpd.observe.answers import BODY_SECONDS, answer, errors_as_json, json_text
from bgpd.observe.questions import Questions

with lean_import("aiohttp"):
    from aiohttp import web

SHUTDOWN_TEXT_MAX = 255
"""Octets of a shutdown communication (RFC 9003 §2)."""
PLAN_MAX = 64 * 1024 * 1024
"""Octets of resources that are taken to be planned with."""
LONGEST_WAIT = 3600
"""Seconds between the steps of a drain."""
NOT_AS_ASKED = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What JSON that is none, or not of the shape that was asked for, raises."""


class ControlApi:
    """The questions and orders of one daemon."""

    def __init__(self, views: Views, actions: Actions) -> None:
        self._views, self._actions = views, actions

    def application(self) -> web.Application:
        """All of them, for a server."""
        app = web.Application(middlewares=[errors_as_json], client_max_size=64 * 1024)
        app.add_routes([web.get(f"/v1/{name}", ask) for name, ask in Questions(self._views).by_name.items()])
        app.add_routes(
            [
                web.post("/v1/plan", self._plan),
                web.post("/v1/reload", self._reload),
                web.post("/v1/upgrade", self._upgrade),
                web.post("/v1/takeover", self._takeover),
                web.post("/v1/peer-action", self._peer_action),
                web.post("/v1/drain", self._drain),
                web.post("/v1/undrain", self._undrain),
                web.post("/v1/ipam", self._ipam),
            ]
        )
        return app

    async def _plan(self, request: web.Request) -> web.StreamResponse:
        body = bytearray()
        async with asyncio.timeout(BODY_SECONDS):
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
        return json_text(await asyncio.to_thread(json.dumps, found, ensure_ascii=False))

    async def _reload(self, request: web.Request) -> web.StreamResponse:
        return answer({"message": await self._actions.reload()})

    async def _upgrade(self, request: web.Request) -> web.StreamResponse:
        return answer(dict(await self._actions.upgrade()))

    async def _takeover(self, request: web.Request) -> web.StreamResponse:
        """The next process asks for the sessions. From here on the connection speaks no HTTP."""
        transport = request.transport
        sock = None if transport is None else transport.get_extra_info("socket")
        if transport is None or sock is None:
            raise web.HTTPBadRequest(text="the connection is gone")
        _, user, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if user not in (0, os.geteuid()):
            raise web.HTTPForbidden(text="sessions are handed over to root and to bgpd's own user only")
        self._actions.hand_over(sock.fileno())
        transport.abort()
        return web.Response()

    async def _peer_action(self, request: web.Request) -> web.StreamResponse:
        try:
            async with asyncio.timeout(BODY_SECONDS):
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
        return answer({"message": await self._actions.peer_action(action, name, message)})

    async def _drain(self, request: web.Request) -> web.StreamResponse:
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = json.loads(await request.text() or "{}")
            withdraw, wait, keep = body.get("withdraw", False), body.get("wait", 0), body.get("keep", True)
        except NOT_AS_ASKED:
            withdraw = wait = keep = None
        good = isinstance(withdraw, bool) and isinstance(keep, bool)
        good = good and isinstance(wait, int | float) and not isinstance(wait, bool)
        if not good or not 0 <= wait <= LONGEST_WAIT:
            raise web.HTTPBadRequest(
                text=f"expected an object with withdraw and keep, true or false, and wait, 0 to {LONGEST_WAIT} s"
            )
        return answer({"message": await self._actions.drain(withdraw=withdraw, wait=float(wait), keep=keep)})

    async def _undrain(self, request: web.Request) -> web.StreamResponse:
        return answer({"message": await self._actions.undrain()})

    async def _ipam(self, request: web.Request) -> web.StreamResponse:
        """An order of a CNI plugin."""
        try:
            async with asyncio.timeout(BODY_SECONDS):
                order = json.loads(await request.text())
        except NOT_AS_ASKED:
            order = None
        if not isinstance(order, dict):
            raise web.HTTPBadRequest(text="the body must be an object: verb, and what it asks for")
        return web.json_response(await self._actions.ipam(order))


def _files(body: bytearray) -> dict[str, bytes]:
    """The files in the body of a plan; octets that are no UTF-8 came as surrogates (PEP 383)."""
    files = {}
    for line in body.splitlines():
        entry = json.loads(line)
        files[str(entry["name"])] = entry["text"].encode("utf-8", "surrogateescape")
    return files


def _is_text(value: object) -> bool:
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)
