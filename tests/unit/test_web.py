"""The looking glass's door: what it answers, to whom, and that it takes no order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fake_views import NOW, FakeViews

from bgpd.config.config import WebOptions
from bgpd.config.reading import ConfigError, parse
from bgpd.config.values import Endpoint
from bgpd.observe import web as door
from bgpd.observe.api import Api
from bgpd.observe.control_socket import Claim
from bgpd.observe.metrics import Metrics
from bgpd.views.blocks import block_maps
from tests.unit.test_originate import affinity, block, snapshot


async def opened(directory: Path, views: FakeViews, **options: Any) -> tuple[Api, str]:
    """A door that is open, and where."""
    listen = Endpoint("127.0.0.1", 0)
    api = Api(
        views, views, Metrics(), Claim(directory / "api.sock"), None, WebOptions(listen=listen, **options)
    )
    await api.start()
    assert api.web_address is not None
    return api, f"http://127.0.0.1:{api.web_address[1]}"


@pytest.fixture
async def glass(tmp_path: Path) -> AsyncIterator[tuple[aiohttp.ClientSession, FakeViews]]:
    views = FakeViews()
    api, url = await opened(
        tmp_path, views, names=("glass.example.org",), nodes={"gone": "http://127.0.0.1:9"}
    )
    async with aiohttp.ClientSession(url) as session:
        yield session, views
    await api.stop()


async def test_the_page_asks_nobody_else(glass: tuple[aiohttp.ClientSession, FakeViews]) -> None:
    session, _ = glass
    for path, kind in (("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")):
        async with session.get(path) as response:
            assert (response.status, response.content_type) == (200, kind)
            policy = response.headers["Content-Security-Policy"]
            assert policy.startswith("default-src 'none';") and "unsafe" not in policy
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            text = await response.text()
            assert "http://" not in text.replace("http://www.w3.org/2000/svg", "") and "https://" not in text
            assert "innerHTML" not in text and "eval(" not in text


async def test_what_is_answered(glass: tuple[aiohttp.ClientSession, FakeViews]) -> None:
    session, _ = glass
    for path, key in (
        ("status", "node"),
        ("peers", "peers"),
        ("routes?table=fib&prefix=10.48.0.130", "routes"),
        ("map", "maps"),
        ("why?target=10.48.0.128/26", "explanations"),
        ("history", "entries"),
        ("nodes", "nodes"),
    ):
        async with session.get(f"/api/{path}") as response:
            assert response.status == 200 and (await response.json())[key], path
    async with session.get("/api/map") as response:
        (shown,) = (await response.json())["maps"]
        assert (shown["cidr"], shown["size"], shown["used"][1]["state"]) == ("10.48.0.0/26", 64, "lent")


@pytest.mark.parametrize("path", ["/", "/api/status", "/v1/reload", "/api/peers"])
async def test_there_is_get_and_nothing_else(
    glass: tuple[aiohttp.ClientSession, FakeViews], path: str
) -> None:
    session, views = glass
    for method in ("POST", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE"):
        async with session.request(method, path, data=b"{}" if method == "POST" else None) as response:
            assert response.status in (404, 405), (method, path)
    assert views.asked == []


async def test_no_order_and_no_configuration_has_a_path(
    glass: tuple[aiohttp.ClientSession, FakeViews],
) -> None:
    session, _ = glass
    for path in (
        "/v1/status",
        "/api/config",
        "/api/plan",
        "/api/drain",
        "/metrics",
        "/../../etc/passwd",
        "/page.py",
    ):
        async with session.get(path) as response:
            assert response.status == 404, path
            assert "error" in await response.json()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:9180", 200),
        ("[fd00::1]:9180", 200),
        ("[fd00::1]", 200),
        ("localhost", 200),
        ("worker2:9180", 200),
        ("Glass.Example.org", 200),
        ("evil.example.org", 403),
        ("127.0.0.1.evil.example.org:9180", 403),
        ("[half", 403),
        ("", 403),
    ],
)
async def test_only_by_names_of_ours(
    glass: tuple[aiohttp.ClientSession, FakeViews], host: str, status: int
) -> None:
    """A page elsewhere that points its own name here cannot read it."""
    session, _ = glass
    url = session._base_url
    assert url is not None and url.port is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", url.port)
    writer.write(f"GET /api/status HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert int(answer.split()[1]) == status


async def test_another_node_is_asked_for_the_page(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    there = FakeViews()
    there.peers_now = there.peers_now[:1]
    far, far_url = await opened(tmp_path / "a", there)
    api, url = await opened(tmp_path / "b", FakeViews(), nodes={"far": far_url, "gone": "http://127.0.0.1:9"})
    async with aiohttp.ClientSession(url) as session:
        async with session.get("/api/nodes/far/peers?name=10.0.1.20") as response:
            assert [peer["address"] for peer in (await response.json())["peers"]] == ["10.0.1.20"]
        async with session.get("/api/nodes/far/why?target=a%26b") as response:
            assert response.status == 400 and "'a&b'" in (await response.json())["error"]
        async with session.get("/api/nodes/gone/status") as response:
            assert response.status == 502 and (await response.json())["error"].startswith(
                "gone does not answer"
            )
        for path in ("/api/nodes/nobody/status", "/api/nodes/far/config", "/api/nodes/far/nodes"):
            async with session.get(path) as response:
                assert response.status == 404, path
    await api.stop()
    await far.stop()


async def test_a_node_that_is_no_bgpd_or_answers_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        kind = "application/json" if b"/api/map" in head else "text/plain"
        body = b"x" * 200
        writer.write(
            f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(other, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    monkeypatch.setattr(door, "NODE_MOST", 100)
    api, url = await opened(tmp_path, FakeViews(), nodes={"x": f"http://127.0.0.1:{port}"})
    async with aiohttp.ClientSession(url) as session, session.get("/api/nodes/x/map") as response:
        assert response.status == 502 and "answered with more than" in (await response.json())["error"]
    monkeypatch.setattr(door, "NODE_MOST", 1000)
    async with aiohttp.ClientSession(url) as session, session.get("/api/nodes/x/status") as response:
        assert (await response.json())["error"] == "x does not answer as a bgpd: 200"
    await api.stop()
    server.close()
    await server.wait_closed()


async def test_what_changes_is_followed(
    glass: tuple[aiohttp.ClientSession, FakeViews], monkeypatch: pytest.MonkeyPatch
) -> None:
    session, views = glass
    monkeypatch.setattr(door, "PULSE", 0.01)
    monkeypatch.setattr(door, "QUIET", 0.05)
    async with session.get("/api/events") as response:
        assert response.content_type == "text/event-stream"
        first = await response.content.readuntil(b"\n\n")
        assert json.loads(first.removeprefix(b"data: "))["peers_up"] == 2
        views.peers_now[2] = replace(views.peers_now[2], state=views.peers_now[0].state, since=NOW)
        while True:
            line = await response.content.readuntil(b"\n\n")
            if line.startswith(b"data: "):
                assert json.loads(line.removeprefix(b"data: "))["peers_up"] == 3
                break
        assert await response.content.readuntil(b"\n\n") == b": nothing\n\n"


async def test_followers_are_bounded_and_those_that_left_make_room(
    glass: tuple[aiohttp.ClientSession, FakeViews], monkeypatch: pytest.MonkeyPatch
) -> None:
    session, _ = glass
    monkeypatch.setattr(door, "PULSE", 0.01)
    monkeypatch.setattr(door, "MOST_FOLLOWERS", 1)
    async with session.get("/api/events") as first:
        await first.content.readuntil(b"\n\n")
        async with session.get("/api/events") as second:
            assert second.status == 503 and "follow already" in (await second.json())["error"]
    async with asyncio.timeout(5):
        while True:
            async with session.get("/api/events") as third:
                if third.status == 200:
                    break
            await asyncio.sleep(0.01)


async def test_a_port_that_is_taken_stops_nothing(tmp_path: Path) -> None:
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    views = FakeViews()
    options = WebOptions(listen=Endpoint("127.0.0.1", port))
    api = Api(views, views, Metrics(), Claim(tmp_path / "api.sock"), None, options)
    await api.start()
    assert api.web_error == f"the page is not served on 127.0.0.1 port {port}: Address already in use"
    assert api.web_address is None
    await api.stop()
    server.close()
    await server.wait_closed()


def test_it_is_off_unless_asked_for() -> None:
    assert parse("node: a", "x").web.listen is None
    found = parse("web: {listen: '[::]:9180', nodes: {b: 'http://10.0.1.30:9180/'}}", "x").web
    assert (found.listen, found.nodes) == (Endpoint("::", 9180), {"b": "http://10.0.1.30:9180"})
    for text in ("web: {nodes: {b: 'ftp://x'}}", "web: {nodes: [b]}", "web: {listen: 9180}"):
        with pytest.raises(ConfigError):
            parse(text, "x")


def test_blocks_address_by_address() -> None:
    found = snapshot(
        affinity("10.48.0.0/26"),
        affinity("10.48.0.64/26", "other"),
        block("10.48.0.0/26", "me", a10_48_0_5="me", a10_48_0_63="other"),
        block("10.48.0.64/26", "other", a10_48_0_64="me", a10_48_0_70="other"),
        block("10.48.0.128/26", "other", a10_48_0_128="other"),
    )
    first, second = block_maps(found, "me")
    assert (first.cidr, first.owner, first.own, first.size) == ("10.48.0.0/26", "me", True, 64)
    assert [(each.offset, each.state) for each in first.used] == [(5, "own"), (63, "lent")]
    assert (second.cidr, second.owner, second.own) == ("10.48.0.64/26", "other", False)
    assert [(each.offset, each.state) for each in second.used] == [(0, "borrowed"), (6, "other")]
