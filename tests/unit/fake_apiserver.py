"""A stand-in of the Kubernetes API server for ``make test``: lists, watches with a history, guarded writes, errors on
request. The real one passes the same contract in ``make cluster-test``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web

CALICO = "crd.projectcalico.org/v1"
PLURALS = {
    "Node": "nodes",
    "IPPool": "ippools",
    "BGPConfiguration": "bgpconfigurations",
    "BGPPeer": "bgppeers",
    "BGPFilter": "bgpfilters",
    "BlockAffinity": "blockaffinities",
    "IPAMBlock": "ipamblocks",
    "IPAMHandle": "ipamhandles",
    "IPAMConfig": "ipamconfigs",
    "IPReservation": "ipreservations",
    "ClusterInformation": "clusterinformations",
    "Lease": "leases",
}


class FakeApiServer:
    """Objects by (plural, name), and all that happened to them."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.history: list[tuple[int, str, str, dict[str, Any]]] = []
        """(version, plural, type, object)."""
        self.version = 10
        self.compacted = 0
        self.streaming = False
        """Whether there are streaming lists."""
        self.selectable = False
        """Whether objects may be selected by ``spec.node``; a watch shows all the same what changes of others."""
        self.away = False
        self.refuse: Callable[[web.Request], web.Response | None] = lambda request: None
        self.requests: list[str] = []
        self._news = asyncio.Event()
        self._open: dict[int, web.Request] = {}
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        self.lose()
        assert self._runner is not None
        await self._runner.cleanup()

    def kubeconfig(self, path: Path) -> Path:
        found = {
            "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": self.url}}],
            "users": [],
            "contexts": [{"name": "c", "context": {"cluster": "c"}}],
        }
        path.write_text(json.dumps(found))
        return path

    def put(self, plural: str, document: dict[str, Any]) -> None:
        self.version += 1
        name = document["metadata"]["name"]
        known = (plural, name) in self.objects
        uid = self.objects[plural, name]["metadata"]["uid"] if known else f"uid-{self.version}"
        metadata = {
            "managedFields": ["x" * 100],
            **document["metadata"],
            "uid": uid,
            "resourceVersion": str(self.version),
        }
        found = self.objects[plural, name] = {**document, "metadata": metadata}
        self._event(plural, "MODIFIED" if known else "ADDED", found)

    def delete(self, plural: str, name: str) -> None:
        self.version += 1
        found = self.objects.pop((plural, name))
        found = {**found, "metadata": {**found["metadata"], "resourceVersion": str(self.version)}}
        self._event(plural, "DELETED", found)

    def _event(self, plural: str, kind: str, found: dict[str, Any]) -> None:
        self.history.append((self.version, plural, kind, found))
        self._news.set()
        self._news = asyncio.Event()

    def lose(self) -> None:
        """Nobody answers, and who is connected is cut off."""
        self.away = True
        self.cut()

    def cut(self) -> None:
        """Every watch breaks."""
        for request in list(self._open.values()):
            if request.transport is not None:
                request.transport.abort()

    def compact(self) -> None:
        self.compacted = self.version

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if self.away:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        self.requests.append(f"{request.path}?{request.query_string}")
        if (refused := self.refuse(request)) is not None:
            return refused
        if request.path == "/apis":
            return web.json_response({"groups": [{"name": "crd.projectcalico.org"}]})
        if request.path == "/version":
            return web.json_response({"major": "1", "minor": "33"})
        parts = request.path.strip("/").split("/")
        if request.method != "GET":
            return await self._write(request, parts)
        if parts[-2] in PLURALS.values():
            found = self.objects.get((parts[-2], parts[-1]))
            return status(404, "not found") if found is None else web.json_response(found)
        if "fieldSelector" in request.query and not self.selectable:
            return status(400, "field label not supported: spec.node")
        if "watch" in request.query:
            return await self._watch(request, parts[-1])
        selector = request.query.get("labelSelector", "")
        items = [
            found
            for (plural, _), found in self.objects.items()
            if plural == parts[-1] and _selected(found, selector) and _of_node(found, request)
        ]
        return web.json_response({"metadata": {"resourceVersion": str(self.version)}, "items": items})

    async def _write(self, request: web.Request, parts: list[str]) -> web.Response:
        """POST, PUT under ``resourceVersion`` and DELETE under preconditions, as the real one does them."""
        body = await request.json()
        if request.method == "POST":
            plural, name = parts[-1], body["metadata"]["name"]
            if (plural, name) in self.objects:
                return status(409, f'{plural} "{name}" already exists')
            self.put(plural, body)
            return web.json_response(self.objects[plural, name], status=201)
        plural, name = parts[-2], parts[-1]
        found = self.objects.get((plural, name))
        if found is None:
            return status(404, f'{plural} "{name}" not found')
        metadata = found["metadata"]
        wanted = body["metadata"] if request.method == "PUT" else body.get("preconditions", {})
        for key in ("uid", "resourceVersion"):
            if wanted.get(key) not in (None, metadata[key]):
                return status(409, f"the {key} in the precondition is not {metadata[key]}")
        if request.method == "PUT":
            self.put(plural, body)
            return web.json_response(self.objects[plural, name])
        self.delete(plural, name)
        return web.json_response({"kind": "Status", "status": "Success"})

    async def _watch(self, request: web.Request, plural: str) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        self._open[id(request)] = request
        try:
            at = int(request.query["resourceVersion"])
            if "sendInitialEvents" in request.query:
                if not self.streaming:
                    words = "the required storage feature RequestWatchProgress is disabled"
                    await self._line(answer, "ERROR", {"kind": "Status", "code": 500, "message": words})
                    return answer
                for (of, _), found in list(self.objects.items()):
                    if of == plural and _of_node(found, request):
                        await self._line(answer, "ADDED", found)
                at = self.version
                metadata = {"resourceVersion": str(at), "annotations": {"k8s.io/initial-events-end": "true"}}
                await self._line(answer, "BOOKMARK", {"metadata": metadata})
            elif at < self.compacted:
                expired = {"kind": "Status", "code": 410, "message": "too old resource version"}
                await self._line(answer, "ERROR", expired)
                return answer
            while True:
                news = self._news
                for version, of, kind, found in list(self.history):
                    if version > at and of == plural:
                        await self._line(answer, kind, found)
                at = self.version
                await news.wait()
        finally:
            del self._open[id(request)]

    @staticmethod
    async def _line(answer: web.StreamResponse, kind: str, found: dict[str, Any]) -> None:
        await answer.write(json.dumps({"type": kind, "object": found}).encode() + b"\n")


def status(code: int, message: str, **headers: str) -> web.Response:
    return web.json_response(
        {"kind": "Status", "code": code, "message": message}, status=code, headers=headers
    )


def _of_node(found: dict[str, Any], request: web.Request) -> bool:
    wanted = request.query.get("fieldSelector", "").removeprefix("spec.node=")
    return not wanted or found["spec"]["node"] == wanted


def _selected(found: dict[str, Any], selector: str) -> bool:
    labels = found["metadata"].get("labels") or {}
    for term in filter(None, selector.split(",")):
        key, equals, value = term.partition("=")
        if (labels.get(key) != value) if equals else (key.removeprefix("!") in labels):
            return False
    return True
