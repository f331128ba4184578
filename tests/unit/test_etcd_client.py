"""What etcd's gateway can do to a watch, by a stand-in of it: the real one does it on a busy machine only."""

from __future__ import annotations

import asyncio
import contextlib
import json
from base64 import b64encode
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from bgpd.datastore.etcd import client as etcd
from bgpd.datastore.etcd.client import Access, EtcdClient, Range
from bgpd.datastore.trouble import Kind, Trouble


class Gateway:
    """Makes only the first ``at_once`` watches of each request, as one that began to answer before it had read all."""

    def __init__(self) -> None:
        self.at_once = 1
        self.requests: list[list[str]] = []
        """Of each the numbers that it asked for."""
        self.open = 0

    async def watch(self, request: web.Request) -> web.StreamResponse:
        asked = [json.loads(line)["create_request"] for line in (await request.text()).splitlines()]
        self.requests.append([each["watch_id"] for each in asked])
        answer = web.StreamResponse()
        await answer.prepare(request)
        self.open += 1
        try:
            for each in asked[: self.at_once]:
                made = {"header": {"revision": "9"}, "watch_id": each["watch_id"], "created": True}
                await self.line(answer, made)
            for each in asked[: self.at_once]:
                event = {"kv": {"key": each["key"], "value": b64encode(b"v").decode(), "mod_revision": "10"}}
                said = {"header": {"revision": "10"}, "watch_id": each["watch_id"], "events": [event]}
                await self.line(answer, said)
            await asyncio.sleep(60)
        finally:
            self.open -= 1
        return answer

    @staticmethod
    async def line(answer: web.StreamResponse, result: object) -> None:
        await answer.write(json.dumps({"result": result}).encode() + b"\n")


@pytest.fixture
async def gateway(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Gateway, EtcdClient]]:
    monkeypatch.setattr(etcd, "CREATED_SECONDS", 0.05)
    gateway = Gateway()
    app = web.Application()
    app.router.add_post("/v3/watch", gateway.watch)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    client = EtcdClient(Access((f"http://127.0.0.1:{runner.addresses[0][1]}",)))
    yield gateway, client
    await client.close()
    await runner.cleanup()


RANGES = [(Range(f"/{number}".encode()), 5) for number in range(3)]


async def test_a_watch_that_the_gateway_dropped_is_asked_for_again(
    gateway: tuple[Gateway, EtcdClient],
) -> None:
    server, client = gateway
    heard = set()
    async with asyncio.timeout(5), contextlib.aclosing(client.watch(RANGES)) as lines:
        async for line in lines:
            if line.puts_and_deletes:
                heard.add(line.number)
            if len(heard) == 3:
                break
    assert server.requests == [["1", "2", "3"], ["2", "3"], ["3"]]


async def test_one_connection_is_enough_where_all_are_made(gateway: tuple[Gateway, EtcdClient]) -> None:
    server, client = gateway
    server.at_once = 3
    async with asyncio.timeout(5), contextlib.aclosing(client.watch(RANGES)) as lines:
        heard = {(await anext(lines)).number for _ in range(6)}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await anext(lines)
    assert (heard, len(server.requests)) == ({0, 1, 2}, 1)


async def test_a_server_that_makes_none_is_away(
    gateway: tuple[Gateway, EtcdClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client = gateway
    server.at_once = 0
    monkeypatch.setattr(etcd, "ANSWER_TIMEOUT", 0.1)
    with pytest.raises(Trouble, match="no watch") as caught:
        async with asyncio.timeout(5):
            await anext(client.watch(RANGES))
    assert caught.value.kind is Kind.AWAY
