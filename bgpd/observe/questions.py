"""What may be asked of a daemon, whoever asks: answers as JSON, made of the views in the event loop.

``control_api`` answers them on the control socket, beside its orders, and says what each is; ``web`` answers those that
its page asks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from bgpd.lean_import import lean_import
from bgpd.model.doors import Views
from bgpd.model.prefix import family_of, is_address, make_prefix, parse_address, prefix_text
from bgpd.model.status import RouteTable
from bgpd.observe.answers import Handler, answer, stream
from bgpd.observe.as_json import document, encode, encode_route

with lean_import("aiohttp"):
    from aiohttp import web

HISTORY_MOST = 1000
"""Entries of the history in an answer, unless asked otherwise."""


class Questions:
    """Those of one daemon. An answer may have changed a moment later: nothing keeps it."""

    def __init__(self, views: Views) -> None:
        self._views = views

    @property
    def by_name(self) -> Mapping[str, Handler]:
        """Each by the last word of its path."""
        return {
            "status": self._status,
            "peers": self._peers,
            "routes": self._routes,
            "blocks": self._blocks,
            "map": self._map,
            "diff": self._diff,
            "config": self._config,
            "bfd": self._bfd,
            "why": self._why,
            "history": self._history,
            "health": self._health,
        }

    async def _status(self, request: web.Request) -> web.StreamResponse:
        return answer(document(self._views.status()))

    async def _peers(self, request: web.Request) -> web.StreamResponse:
        peers = self._views.peers(request.query.get("name"))
        return await stream(request, {}, "peers", map(encode, peers))

    async def _routes(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        table: Any = query.get("table", "rib")
        if table not in get_args(RouteTable):
            raise web.HTTPBadRequest(text=f"table must be one of {', '.join(get_args(RouteTable))}")
        longer = query.get("longer", "") not in ("", "0", "false")
        rows = self._rows(table, query.get("prefix") or None, query.get("peer") or None, longer)
        return await stream(request, {"table": table}, "routes", rows)

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
        return await stream(request, {}, "blocks", map(encode, self._views.blocks()))

    async def _map(self, request: web.Request) -> web.StreamResponse:
        return await stream(request, {}, "maps", map(encode, self._views.block_maps()))

    async def _diff(self, request: web.Request) -> web.StreamResponse:
        rows = (None if row is None else encode(row) for row in self._views.diff())
        return await stream(request, {}, "differences", rows)

    async def _config(self, request: web.Request) -> web.StreamResponse:
        return answer(dict(await self._views.configuration()))

    async def _bfd(self, request: web.Request) -> web.StreamResponse:
        return answer(document(self._views.bfd()))

    async def _why(self, request: web.Request) -> web.StreamResponse:
        try:
            explanations = self._views.why(request.query.get("target", ""))
        except ValueError as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        return answer({"explanations": document(explanations)})

    async def _history(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        try:
            since, until = float(query.get("since") or 0), float(query.get("until") or math.inf)
            most = int(query.get("most") or HISTORY_MOST)
            if not (since >= 0 and until >= 0 and most > 0):
                raise ValueError
        except ValueError:
            raise web.HTTPBadRequest(
                text="since and until are Unix seconds, most is a number from 1"
            ) from None
        try:
            lines = await self._views.history(
                since, until, query.get("peer", ""), query.get("prefix", ""), most
            )
        except ValueError as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        return await stream(request, {}, "entries", lines)

    async def _health(self, request: web.Request) -> web.StreamResponse:
        name = request.query.get("check", "ready")
        if name not in ("live", "ready"):
            raise web.HTTPBadRequest(text="check must be live or ready")
        checks = self._views.live() if name == "live" else self._views.ready()
        ok = all(check.ok for check in checks)
        return answer({"check": name, "ok": ok, "checks": document(checks)}, 200 if ok else 503)
