"""Octets where an answer of etcd or of the API server is expected: trouble with that server, soon, and never more."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from bgpd.datastore.etcd import client as etcd
from bgpd.datastore.etcd.client import EtcdClient, Range
from bgpd.datastore.kubernetes import client as kubernetes
from bgpd.datastore.kubernetes.client import KubernetesClient
from bgpd.datastore.trouble import Kind, Trouble
from tests.unit.fake_apiserver import FakeApiServer

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
BOMB = gzip.compress(b" " * (8 << 20))
ENDLESS = b"x" * (1 << 16)

ANSWERS: dict[str, tuple[bytes, bool]] = {
    "nothing": (b"", False),
    "no HTTP": (b"\x16\x03\x01\x02\x00garbage\r\n\r\n", False),
    "HTML": (OK + b"Content-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>", False),
    "a list": (OK + b"Content-Length: 2\r\n\r\n[]", False),
    "a number": (OK + b"Content-Length: 1\r\n\r\n7", False),
    "no JSON": (OK + b"Content-Length: 3\r\n\r\n{]}", False),
    "deep": (OK + b"Content-Length: 200000\r\n\r\n" + b"[" * 200_000, False),
    "no UTF-8": (OK + b'Content-Length: 9\r\n\r\n{"\xff\xfe":1}\n', False),
    "less than it says": (OK + b"Content-Length: 999\r\n\r\n{", False),
    "half a chunk": (CHUNKED + b'ff\r\n{"items":[', False),
    "a chunk of no size": (CHUNKED + b"xyz\r\n{}\r\n0\r\n\r\n", False),
    "a chunk of minus one": (CHUNKED + b"-1\r\n{}\r\n0\r\n\r\n", False),
    "two lengths": (OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ", False),
    "a header without an end": (OK + b"X: " + b"y" * (1 << 20), False),
    "packed, and is not": (OK + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}", False),
    "a bomb": (OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB) + BOMB, False),
    "a redirect": (b"HTTP/1.1 307 Go\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n", False),
    "unasked 101": (b"HTTP/1.1 101 Up\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n", False),
    "a refusal without an end": (b"HTTP/1.1 500 No\r\n\r\n", True),
    "an answer without an end": (OK + b"\r\n", True),
    "a line without an end": (OK + b'\r\n{"type":"ADDED","object":{"a":"', True),
    "items without an end": (OK + b'\r\n{"items":[{"a":"', True),
}


class Server:
    """Answers each request with the same octets, then with more of them for ever, or with the end."""

    def __init__(self, octets: bytes, endless: bool) -> None:
        self.octets, self.endless = octets, endless
        self.asked: list[bytes] = []

    async def came(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            self.asked.append((await reader.read(1 << 16)).split(b"\r\n")[0])
            writer.write(self.octets)
            await writer.drain()
            while self.endless:
                writer.write(ENDLESS)
                await writer.drain()
        writer.close()


@pytest.fixture(params=ANSWERS)
async def server(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Server, str]]:
    for module, name in (
        (etcd, "LONGEST_LINE"),
        (kubernetes, "LONGEST_LINE"),
        (kubernetes, "LONGEST_ANSWER"),
    ):
        monkeypatch.setattr(module, name, 1 << 20)
    monkeypatch.setattr(etcd, "ANSWER_TIMEOUT", 2.0)
    made = Server(*ANSWERS[request.param])
    listening = await asyncio.start_server(made.came, "127.0.0.1", 0)
    yield made, f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    listening.close()


async def ends_in_trouble(what: Callable[[], Awaitable[Any]]) -> None:
    async with asyncio.timeout(10):
        with contextlib.suppress(Trouble):
            await what()


async def drain(items: Any) -> None:
    async with contextlib.aclosing(items) as each:
        async for _ in each:
            pass


async def test_of_an_etcd(server: tuple[Server, str]) -> None:
    made, url = server
    client = EtcdClient(etcd.Access((url,)))
    try:
        with pytest.raises(Trouble):
            async with asyncio.timeout(10):
                await client.get(b"/a")
        await ends_in_trouble(lambda: drain(client.watch([(Range(b"/a"), 1)])))
    finally:
        await client.close()
    assert not [each for each in made.asked if b"elsewhere" in each]


async def test_of_an_api_server(server: tuple[Server, str], tmp_path: Path) -> None:
    made, url = server
    fake = FakeApiServer()
    fake.url = url
    client = KubernetesClient(kubernetes.Access(fake.kubeconfig(tmp_path / "kubeconfig")))
    try:
        with pytest.raises(Trouble):
            async with asyncio.timeout(10):
                await client.get("/version")
        await ends_in_trouble(lambda: drain(client.items("/api/v1/nodes", {})))
        await ends_in_trouble(lambda: drain(client.watch("/api/v1/nodes", {}, 1.0)))
    finally:
        await client.close()
    assert not [each for each in made.asked if b"elsewhere" in each]


async def test_an_account_whose_token_is_empty_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Server(b"HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\n{}", False)
    listening = await asyncio.start_server(made.came, "127.0.0.1", 0)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(listening.sockets[0].getsockname()[1]))
    for name in ("token", "namespace", "ca.crt"):
        (tmp_path / name).touch()
    client = KubernetesClient(kubernetes.Access(service_account=tmp_path))
    with pytest.raises(Trouble) as caught:
        await client.get("/version")
    assert caught.value.kind in (Kind.TLS, Kind.UNKNOWN) and str(caught.value)
    await client.close()
    listening.close()
