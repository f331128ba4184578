"""The HTTP doors over real sockets: what bgpctl, Prometheus and a probe get."""

from __future__ import annotations

import asyncio
import fcntl
import io
import json
import logging
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import aiohttp
import pytest
from fake_views import BAD_POOL, FakeViews

from bgpd.model import status
from bgpd.model.status import Check, RouteTable, RouteView, SessionState
from bgpd.observe import gate
from bgpd.observe.api import Api
from bgpd.observe.as_json import COMPOUND_KEYS, document, encode_route
from bgpd.observe.control_socket import AlreadyRunning, Claim, answers
from bgpd.observe.metrics import Metrics


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory with a short name: a unix socket's path has at most 107 octets."""
    with tempfile.TemporaryDirectory(prefix="bgpd") as made:
        yield Path(made)


@pytest.fixture
def views() -> FakeViews:
    return FakeViews()


@pytest.fixture
async def api(views: FakeViews, directory: Path) -> AsyncIterator[Api]:
    door = Api(views, views, Metrics(), Claim(directory / "api.sock"), ("127.0.0.1", 0))
    await door.start()
    yield door
    await door.stop()


@pytest.fixture
async def client(api: Api, directory: Path) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(
        "http://bgpd", connector=aiohttp.UnixConnector(str(directory / "api.sock"))
    ) as session:
        yield session


@pytest.fixture
async def public(api: Api) -> AsyncIterator[aiohttp.ClientSession]:
    assert api.metrics_address is not None
    host, port = api.metrics_address
    async with aiohttp.ClientSession(f"http://{host}:{port}") as session:
        yield session


async def get(client: aiohttp.ClientSession, path: str, expected: int = 200) -> Any:
    async with client.get(path) as response:
        assert response.status == expected, await response.text()
        assert response.content_type == "application/json"
        return await response.json()


# The unix socket.


async def test_status(client: aiohttp.ClientSession) -> None:
    found = await get(client, "/v1/status")
    assert found["schema_version"] == 1
    assert found["node"] == "worker2" and found["ready"] is True and found["peers_wanted"] == 3
    assert {"kind": "block", "family": "ipv4", "count": 1} in found["routes_desired"]
    assert {"operation": "put", "result": "error", "count": 1} in found["fib"]["ipv4"]["operations"]
    assert found["fib"]["ipv4"]["routes"] == {"unicast": 3, "blackhole": 1}
    assert found["fib"]["ipv6"]["operations"] == []
    assert found["problems"][0] == {
        "source": "pools.yaml: IPPool broken",
        "path": "spec.cidr",
        "message": "'10.48.0.0/240' is not a prefix",
        "harmless": False,
    }


async def test_peers(client: aiohttp.ClientSession) -> None:
    found = await get(client, "/v1/peers")
    assert [peer["state"] for peer in found["peers"]] == ["established", "established", "active", "down"]
    assert found["peers"][2]["notifications"] == [
        {"direction": "received", "code": 6, "subcode": 2, "count": 1}
    ]
    assert found["peers"][0]["counts"]["ipv4"] == {"received": 3, "accepted": 2, "advertised": 2, "stale": 0}
    for name in ("Mesh_10_0_1_30", "10.0.1.30"):
        (peer,) = (await get(client, f"/v1/peers?name={name}"))["peers"]
        assert peer["address"] == "10.0.1.30"
    assert "'nobody'" in (await get(client, "/v1/peers?name=nobody", 404))["error"]


async def test_routes(client: aiohttp.ClientSession) -> None:
    async def prefixes(query: str) -> list[str]:
        found = await get(client, f"/v1/routes?{query}")
        return [row["prefix"] for row in found["routes"]]

    assert await prefixes("") == ["10.48.0.0/26", "10.48.0.128/26", "10.48.0.40/32"]
    assert await prefixes("table=in&peer=10.0.1.30") == ["192.0.2.0/24", "fd00:48::/122"]
    assert await prefixes("table=in&prefix=192.0.2.0/24") == ["192.0.2.0/24"]
    assert await prefixes("table=in&prefix=192.0.0.0/16") == []
    assert await prefixes("table=in&prefix=192.0.0.0/16&longer=1") == ["192.0.2.0/24"]
    # An address: what covers it, the longest first.
    assert await prefixes("prefix=10.48.0.40") == ["10.48.0.40/32", "10.48.0.0/26"]
    assert await prefixes("table=in&prefix=fd00:48::1") == ["fd00:48::/122"]
    found = await get(client, "/v1/routes?table=in&prefix=192.0.2.0/24")
    assert found["table"] == "in" and found["schema_version"] == 1
    assert found["routes"][0]["communities"] == ["65000:100", "no-export"]


@pytest.mark.parametrize(
    ("path", "code", "words"),
    [
        ("/v1/routes?table=all", 400, "in, out, rib, fib"),
        ("/v1/routes?prefix=10.0.0.0/33", 400, "'10.0.0.0/33' is not a prefix"),
        ("/v1/routes?prefix=ten", 400, "'ten' is not a prefix, an address or a name"),
        ("/v1/routes?peer=nobody", 404, "'nobody'"),
        ("/v1/why?target=ten", 400, "'ten' is not a prefix"),
        ("/v1/health?check=fine", 400, "live or ready"),
        ("/v1/nothing", 404, "Not Found"),
        ("/v1/reload", 405, "Method Not Allowed"),
    ],
)
async def test_errors(client: aiohttp.ClientSession, path: str, code: int, words: str) -> None:
    assert words in (await get(client, path, code))["error"]


async def test_blocks_and_why(client: aiohttp.ClientSession) -> None:
    found = await get(client, "/v1/blocks")
    assert found["blocks"][0]["borrowed"] == ["10.48.0.40 by worker1 (default/web-9)"]
    found = await get(client, "/v1/why?target=10.48.0.128/26")
    assert found["explanations"][0]["verdict"] == "learned from Mesh_10_0_1_20"
    assert found["explanations"][0]["steps"][-1]["ok"] is False
    assert (await get(client, "/v1/why?target=10.99.0.0/16"))["explanations"] == []


async def test_history(client: aiohttp.ClientSession, views: FakeViews) -> None:
    found = await get(client, "/v1/history?since=5&until=7.5&peer=a&prefix=10.0.0.0/8&most=3")
    assert [each["event"] for each in found["entries"]] == ["peer_up", "route_gone"]
    assert views.asked == [("history", "5.0", "7.5", "a", "10.0.0.0/8", "3")]
    for query in ("since=x", "since=nan", "until=-1", "most=0", "most=x", "prefix=nobody"):
        await get(client, f"/v1/history?{query}", 400)


async def test_health(client: aiohttp.ClientSession, views: FakeViews) -> None:
    assert (await get(client, "/v1/health"))["ok"] is True
    assert (await get(client, "/v1/health?check=live"))["checks"][0]["name"] == "event loop"
    views.ready_now = [Check("datastore", False, "the directory is missing")]
    found = await get(client, "/v1/health?check=ready", 503)
    assert found == {
        "schema_version": 1,
        "check": "ready",
        "ok": False,
        "checks": [{"name": "datastore", "ok": False, "detail": "the directory is missing"}],
    }


async def test_reload(client: aiohttp.ClientSession, views: FakeViews) -> None:
    async with client.post("/v1/reload") as response:
        assert (await response.json())["message"] == "changed: bgp"
    views.refuse_reload = (BAD_POOL,)
    async with client.post("/v1/reload") as response:
        assert response.status == 422
        assert (await response.json())["problems"] == [str(BAD_POOL)]


async def test_peer_action(client: aiohttp.ClientSession, views: FakeViews) -> None:
    async def act(body: object, expected: int) -> dict[str, Any]:
        data = body if isinstance(body, str) else json.dumps(body)
        async with client.post("/v1/peer-action", data=data) as response:
            assert response.status == expected
            found: dict[str, Any] = await response.json()
            return found

    shutdown = {"action": "shutdown", "name": "10.0.1.30", "message": "rack move, back at 14:00"}
    assert (await act(shutdown, 200))["message"] == "Mesh_10_0_1_30: shutdown"
    assert views.asked == [("shutdown", "Mesh_10_0_1_30", "rack move, back at 14:00")]
    await act({"action": "soft-in", "name": "Mesh_10_0_1_30"}, 200)
    await act({"action": "reset", "name": "nobody"}, 404)
    await act({"action": "delete", "name": "10.0.1.30"}, 400)
    await act({"action": "shutdown", "name": "10.0.1.30", "message": "ü" * 128}, 400)
    await act({"action": "shutdown", "name": 7}, 400)
    for body in ("", "[]", "{", '{"action": "reset"}', '"text"'):
        await act(body, 400)
    assert len(views.asked) == 2


async def test_drain(client: aiohttp.ClientSession, views: FakeViews) -> None:
    async def order(path: str, body: str, expected: int) -> str:
        async with client.post(f"/v1/{path}", data=body) as response:
            assert response.status == expected
            return await response.text()

    assert "drained" in await order("drain", "", 200)
    await order("drain", json.dumps({"withdraw": True, "wait": 30, "keep": False}), 200)
    assert "back" in await order("undrain", "", 200)
    assert views.asked == [("drain", False, 0.0, True), ("drain", True, 30.0, False), ("undrain",)]
    wrong = (
        "[]",
        "{",
        '"text"',
        '{"withdraw": 1}',
        '{"wait": -1}',
        '{"wait": true}',
        '{"wait": 1e9}',
        '{"keep": 0}',
    )
    for body in (*wrong, '{"wait": NaN}'):
        assert "withdraw and keep, true or false" in await order("drain", body, 400)
    assert len(views.asked) == 3


async def test_a_bug_is_an_error_of_ours_and_is_logged(
    client: aiohttp.ClientSession,
    views: FakeViews,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken() -> list[Check]:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(views, "ready", broken)
    with caplog.at_level(logging.ERROR):
        found = await get(client, "/v1/health", 500)
    assert "ZeroDivisionError" in found["error"] and "secret" not in found["error"]
    assert "secret" in caplog.text


def many(count: int) -> Iterator[RouteView]:
    for i in range(count):
        yield RouteView(
            prefix=f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}/32",
            family="ipv4",
            peer="Mesh_10_0_1_30",
            next_hop="10.0.1.30",
            as_path="65001 65002",
            origin="igp",
            local_pref=100,
            best=True,
            kind="bgp",
        )


async def test_a_large_table_leaves_the_loop_its_turns(
    client: aiohttp.ClientSession, views: FakeViews, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100,000 rows are made and sent in many turns of the loop, not in one: seen by counting them."""

    def routes(
        table: RouteTable, prefix: str | None, peer: str | None, longer: bool = False
    ) -> Iterator[RouteView]:
        return many(100_000)

    monkeypatch.setattr(views, "routes", routes)
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0)
            beats += 1

    heart = asyncio.create_task(beat())
    size = 0
    async with client.get("/v1/routes") as response:
        async for chunk in response.content.iter_any():
            size += len(chunk)
    heart.cancel()
    assert size > 20_000_000
    assert beats > 200


async def test_an_answer_that_breaks_off_is_not_taken_for_whole(
    client: aiohttp.ClientSession,
    views: FakeViews,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def routes(
        table: RouteTable, prefix: str | None, peer: str | None, longer: bool = False
    ) -> Iterator[RouteView]:
        yield from many(5_000)
        raise RuntimeError("dictionary changed size during iteration")

    monkeypatch.setattr(views, "routes", routes)
    with caplog.at_level(logging.ERROR), pytest.raises(aiohttp.ClientError):
        async with client.get("/v1/routes") as response:
            await response.read()
    assert "answer_broken" in caplog.text


async def test_a_reader_that_leaves_is_no_error(
    directory: Path,
    api: Api,
    views: FakeViews,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    left = asyncio.Event()

    def routes(
        table: RouteTable, prefix: str | None, peer: str | None, longer: bool = False
    ) -> Iterator[RouteView]:
        try:
            yield from many(1_000_000)
        finally:
            left.set()

    monkeypatch.setattr(views, "routes", routes)
    reader, writer = await asyncio.open_unix_connection(str(directory / "api.sock"))
    writer.write(b"GET /v1/routes HTTP/1.1\r\nHost: bgpd\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    with caplog.at_level(logging.WARNING):
        writer.transport.abort()
        await asyncio.wait_for(left.wait(), 10)
    assert not caplog.records


# TCP.


async def test_metrics(public: aiohttp.ClientSession, client: aiohttp.ClientSession) -> None:
    async with public.get("/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain; version=")
        assert response.headers["Content-Encoding"] in ("gzip", "deflate")
        assert "bgpd_ready 1.0" in await response.text()
    async with public.get("/metrics", headers={"Accept": "application/openmetrics-text"}) as response:
        assert response.headers["Content-Type"].startswith("application/openmetrics-text")
    async with client.get("/metrics") as response:
        assert "bgpd_ready 1.0" in await response.text()


async def test_probes(public: aiohttp.ClientSession, views: FakeViews) -> None:
    async def probe(path: str) -> tuple[int, str]:
        async with public.get(path) as response:
            return response.status, await response.text()

    assert await probe("/livez") == (200, "ok")
    assert await probe("/readyz") == (200, "ok")
    code, text = await probe("/readyz?verbose")
    assert code == 200
    assert text.splitlines() == [
        "[+]config ok",
        "[+]datastore ok",
        "[+]kernel ok",
        "[+]speaker ok",
        "readyz check passed",
    ]
    views.ready_now[1] = Check("datastore", False, "the directory is missing")
    code, text = await probe("/readyz")
    assert code == 503
    assert "[-]datastore failed: the directory is missing" in text.splitlines()
    assert text.splitlines()[-1] == "readyz check failed"


async def test_tcp_has_no_commands(public: aiohttp.ClientSession) -> None:
    for path in ("/v1/status", "/v1/peers", "/"):
        async with public.get(path) as response:
            assert response.status == 404
    async with public.post("/v1/reload") as response:
        assert response.status == 404


# The socket's file.


async def test_the_socket_is_for_the_group_and_goes_with_the_daemon(
    views: FakeViews, directory: Path
) -> None:
    path = directory / "made" / "api.sock"
    door = Api(views, views, Metrics(), Claim(path), None)
    await door.start()
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert answers(path) and door.metrics_address is None
    await door.stop()
    assert not path.exists()


async def test_a_second_daemon_is_refused_and_the_first_stays(api: Api, directory: Path) -> None:
    with pytest.raises(AlreadyRunning, match=r"api\.sock"):
        Claim(directory / "api.sock")
    assert answers(directory / "api.sock")


def test_a_stuck_daemon_is_there_all_the_same(directory: Path) -> None:
    path = directory / "api.sock"
    with socket.socket(socket.AF_UNIX) as stuck, socket.socket(socket.AF_UNIX) as waiting:
        stuck.bind(str(path))
        stuck.listen(0)
        waiting.connect(str(path))  # the queue is full now
        assert answers(path)
        with pytest.raises(AlreadyRunning):
            Claim(path)


def test_the_file_of_a_dead_daemon_is_replaced(directory: Path) -> None:
    path = directory / "api.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert path.exists() and not answers(path)
    claim = Claim(path)
    assert answers(path)
    claim.release()
    assert not path.exists()


def test_a_file_that_is_no_socket_is_left_alone(directory: Path) -> None:
    path = directory / "api.sock"
    path.write_text("precious")
    with pytest.raises(FileExistsError):
        Claim(path)
    assert path.read_text() == "precious"


def test_two_that_start_at_once(directory: Path) -> None:
    held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(AlreadyRunning):
            Claim(directory / "api.sock")
    finally:
        os.close(held)


async def test_a_daemon_leaves_the_socket_of_the_next(views: FakeViews, directory: Path) -> None:
    path = directory / "api.sock"
    first = Api(views, views, Metrics(), Claim(path), None)
    await first.start()
    path.unlink()
    second = Claim(path)
    await first.stop()
    assert answers(path)
    second.release()


async def test_a_taken_metrics_port_is_named_and_stops_nothing_else(
    views: FakeViews, directory: Path
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        door = Api(views, views, Metrics(), Claim(directory / "api.sock"), ("127.0.0.1", port))
        await door.start()
        try:
            assert (
                door.metrics_error
                == f"metrics are not served on 127.0.0.1 port {port}: Address already in use"
            )
            assert answers(directory / "api.sock")
        finally:
            await door.stop()
    assert not (directory / "api.sock").exists()


# Plans.


async def plan(client: aiohttp.ClientSession, body: str | bytes | io.BytesIO, expected: int = 200) -> Any:
    async with client.post("/v1/plan", data=body) as response:
        assert response.status == expected, await response.text()
        return await response.json()


async def test_a_plan_of_files(views: FakeViews, client: aiohttp.ClientSession) -> None:
    large = "x" * 200_000  # more than any other question may have
    lines = [
        {"name": "a.yaml", "text": "kind: Ü\r\n---\n"},
        {"name": "b.yaml", "text": b"\xff\xfe".decode("utf-8", "surrogateescape")},
        {"name": "c.json", "text": large},
    ]
    found = await plan(client, "\n".join(map(json.dumps, lines)))
    assert found == views.plan_now
    assert views.planned == {
        "a.yaml": "kind: Ü\r\n---\n".encode(),
        "b.yaml": b"\xff\xfe",
        "c.json": large.encode(),
    }
    assert await plan(client, b"") == views.plan_now and views.planned == {}


async def test_a_plan_that_cannot_be_made(
    views: FakeViews, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    for body in (
        b"{",
        b"[]",
        b"{}",
        b'{"name": "a"}',
        b'{"name": "a", "text": 1}',
        b'{"name":"a","text":"\\ud800"}',
    ):
        assert "an object with name and text" in (await plan(client, body, 400))["error"]
    views.refuse_plan = "nothing would change: there is no Node"
    assert await plan(client, b"", 409) == {"schema_version": 1, "error": views.refuse_plan}
    monkeypatch.setattr("bgpd.observe.control_api.PLAN_MAX", 1 << 20)
    assert "more than 1 MiB" in (await plan(client, io.BytesIO(bytes(3 << 20)), 413))["error"]


# JSON.


def test_every_mapping_with_compound_keys_has_names() -> None:
    for found in vars(status).values():
        if not (isinstance(found, type) and is_dataclass(found)):
            continue
        hints = get_type_hints(found)
        compound = {
            field.name: len(get_args(get_args(hints[field.name])[0]))
            for field in fields(found)
            if get_origin(hints[field.name]) is Mapping
            and get_origin(get_args(hints[field.name])[0]) is tuple
        }
        named = {name: len(keys) for name, keys in COMPOUND_KEYS.get(found, {}).items()}
        assert named == compound, found


def test_document_leaves_only_what_json_has() -> None:
    views = FakeViews()
    for value in (views.status(), *views.peers(), *views.blocks(), *views.why("10.48.0.128/26")):
        json.dumps(document(value), allow_nan=False)
    assert document(SessionState.OPEN_CONFIRM) == "open_confirm"
    for row in views.routes("in", None, None):
        assert json.loads(encode_route(row)) == document(row)


# Who may connect, and for how long.


class Raw:
    """A connection to the metrics, as a socket."""

    def __init__(self) -> None:
        self.socket = socket.socket()
        self.socket.setblocking(False)

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.socket, data)

    async def ended(self, seconds: float = 5.0) -> bool:
        """Whether the other end closes it within this time."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(seconds):
                while await loop.sock_recv(self.socket, 65536):
                    pass
        except TimeoutError:
            return False
        except ConnectionError:
            return True
        return True


Connect = Callable[[], Awaitable[Raw]]


@pytest.fixture
def connect(api: Api) -> Iterator[Connect]:
    """Makes connections, which end with the test."""
    made: list[Raw] = []

    async def one() -> Raw:
        made.append(Raw())
        assert api.metrics_address is not None
        await asyncio.get_running_loop().sock_connect(made[-1].socket, api.metrics_address)
        return made[-1]

    yield one
    for each in made:
        each.socket.close()


async def scrapes(api: Api) -> bool:
    """Whether a scrape is answered."""
    assert api.metrics_address is not None
    async with aiohttp.ClientSession() as session:
        host, port = api.metrics_address
        async with session.get(f"http://{host}:{port}/metrics") as response:
            return response.status == 200


async def test_half_requests_lock_nobody_out(api: Api, connect: Connect) -> None:
    """They give way to whoever comes later: a scrape, and `bgpctl` on the other door."""
    half = [await connect() for _ in range(200)]
    for each in half:
        with suppress(OSError):
            await each.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Slow: ")
    assert await scrapes(api)
    assert await half[0].ended(), "the ones that were there first are closed"
    gone = await asyncio.gather(*(each.ended(0.5) for each in half))
    assert gone.count(False) <= gate.MOST


async def test_a_connection_without_a_request_is_closed(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "FIRST_REQUEST_SECONDS", 0.1)
    silent, dripping = await connect(), await connect()

    async def drip() -> None:
        with suppress(OSError):
            for letter in b"GET /metrics HTTP/1.1\r\nHost: somewhere.example\r\n" * 9:
                await dripping.send(bytes((letter,)))
                await asyncio.sleep(0.02)

    dripped = asyncio.create_task(drip())
    assert await silent.ended(2.0) and await dripping.ended(2.0)
    dripped.cancel()


async def test_a_connection_that_is_kept_alive_ends_when_it_is_idle(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "IDLE_SECONDS", 0.2)
    one = await connect()
    await one.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    assert not await one.ended(0.1)
    assert await one.ended(2.0)


async def test_a_request_that_is_answered_is_not_idle(
    api: Api, views: FakeViews, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan may take longer than the time for a request."""
    monkeypatch.setattr(gate, "FIRST_REQUEST_SECONDS", 0.1)

    async def slow(files: Mapping[str, bytes]) -> Mapping[str, object]:
        await asyncio.sleep(0.4)
        return {"slow": True}

    monkeypatch.setattr(views, "plan", slow)
    async with client.post("/v1/plan", data=b'{"name": "a.yaml", "text": ""}') as response:
        assert (await response.json()) == {"slow": True}


async def test_a_body_that_does_not_come_is_refused(
    directory: Path, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bgpd.observe.control_api.BODY_SECONDS", 0.1)
    for path in ("/v1/plan", "/v1/peer-action"):
        reader, writer = await asyncio.open_unix_connection(str(directory / "api.sock"))
        writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{{".encode())
        async with asyncio.timeout(5):
            assert b"408" in await reader.readline()
        writer.close()


async def test_no_descriptors_are_taken_from_sessions(
    api: Api, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    scarcity = [True]
    monkeypatch.setattr(gate, "scarce", lambda descriptor, *, session: not session and scarcity[0])
    assert await (await connect()).ended(2.0)
    scarcity[0] = False
    assert await scrapes(api)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 60000,
        b'{"action": ' + b"[" * 60000,
        b'{"action": "reset", "name": "\\ud800", "message": ""}',
        b'{"action": "reset", "name": "a", "message": "\\udfff"}',
        b'{"action": "reset", "name": 7}',
        b'{"action": ["reset"], "name": "a"}',
        b"\xff\xfe",
        b"",
        b"null",
    ],
)
async def test_a_body_that_is_not_as_asked_is_400(client: aiohttp.ClientSession, body: bytes) -> None:
    async with client.post("/v1/peer-action", data=body) as response:
        assert response.status == 400, await response.text()
        assert (await response.json())["error"]


@pytest.mark.parametrize(
    ("head", "body"),
    [
        ("Content-Length: 3\r\nContent-Encoding: deflate", b"\x1f\x8b\x08"),
        ("Transfer-Encoding: chunked", b"zz\r\n"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 3", b"abc"),
        ("Content-Length: three", b"abc"),
        ("no colon", b""),
    ],
)
async def test_what_is_no_http_is_the_askers_mistake_and_fills_no_log(
    directory: Path, api: Api, head: str, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for path in ("/v1/peer-action", "/v1/plan", "/metrics"):
        reader, writer = await asyncio.open_unix_connection(str(directory / "api.sock"))
        writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode() + body)
        async with asyncio.timeout(5):
            assert (await reader.readline()).split()[1] in (b"400", b"405")
        writer.close()
    assert not caplog.records


@pytest.mark.parametrize("body", [b"[" * 60000, b'{"name": "\\ud800", "text": "\\ud800"}', b"[]", b"7"])
async def test_a_plan_that_is_not_as_asked_is_400(client: aiohttp.ClientSession, body: bytes) -> None:
    async with client.post("/v1/plan", data=body) as response:
        assert response.status == 400, await response.text()


@pytest.mark.parametrize(
    "path", ["/v1/why?target=%ED%A0%80", "/v1/peers?name=%ED%A0%80", "/v1/routes?table=%ED%A0%80"]
)
async def test_half_a_surrogate_pair_in_a_question_is_the_askers_mistake(
    client: aiohttp.ClientSession, path: str
) -> None:
    async with client.get(path) as response:
        assert response.status in (400, 404), await response.text()


# A socket whose path is removed.


async def test_the_control_socket_comes_back(views: FakeViews, directory: Path) -> None:
    path = directory / "run" / "api.sock"
    claim = Claim(path)
    door = Api(views, views, Metrics(), claim, None)
    await door.start()
    assert not claim.renew(), "nothing to do"
    for removed in (path.unlink, lambda: shutil.rmtree(path.parent)):
        removed()
        assert claim.renew()
        await door.reopen()
        async with aiohttp.ClientSession(
            "http://bgpd", connector=aiohttp.UnixConnector(str(path))
        ) as session:
            assert (await get(session, "/v1/status"))["node"] == "worker2"
    path.unlink()
    other = Claim(path)
    with pytest.raises(AlreadyRunning):
        claim.renew()
    other.release()
    await door.stop()
