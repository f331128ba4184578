"""Mutated HTTP at both doors of the operator: the control socket, and the port for metrics, which anybody reaches.

A bounded number of connections, always the same. Whatever comes, the door answers what the client did wrong (4xx) or
closes; nothing is logged as a failure of ours, a flood of nonsense fills no log, and who asks next is answered.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from bgpd.observe.api import Api
from bgpd.observe.control_socket import Claim
from bgpd.observe.metrics import Metrics
from tests.unit.fake_views import FakeViews

COUNT = 300
"""Connections to each door."""
TOGETHER = 50
"""Connections at a time: a door has room for a few more."""
PATIENCE = 0.15
"""Seconds without an octet after which the door is taken to wait for the rest of a request."""
SLOW = 1.0
"""Seconds that the event loop may be held, on a busy machine."""
FINE = frozenset((200, 503))
"""What a good question is answered: 503 is a check that fails."""

METHODS = (
    b"GET",
    b"GET",
    b"POST",
    b"HEAD",
    b"PUT",
    b"DELETE",
    b"OPTIONS",
    b"TRACE",
    b"CONNECT",
    b"PRI",
    b"get",
    b"G\xe9T",
)
PATHS = (
    b"/metrics",
    b"/livez?verbose",
    b"/readyz",
    b"/v1/status",
    b"/v1/peers?name=10.0.1.30",
    b"/v1/routes?table=in&prefix=10.48.0.0/16&longer=1",
    b"/v1/routes?prefix=10.48.0.40",
    b"/v1/why?target=10.48.0.128/26",
    b"/v1/history?since=5&until=7.5&most=3",
    b"/v1/health?check=live",
    b"/v1/blocks",
    b"/v1/bfd",
    b"/v1/plan",
    b"/v1/peer-action",
    b"/v1/drain",
    b"/v1/ipam",
    b"http://bgpd/v1/status",
    b"http://other.example:99999/metrics",
    b"//metrics",
    b"/../../etc/shadow",
    b"*",
    b"bgpd:443",
    b"",
)
WORDS = (
    b"%",
    b"%zz",
    b"%00",
    b"%ff%fe",
    b"%ED%A0%80",
    b"%0d%0aX:1",
    b"\xff\xfe",
    b"\0",
    b"&&&==",
    b"?" * 40,
    b"#here",
    b"/" * 300,
    b"a" * 9000,
    b"1e400",
    b"nan",
    b"-1",
    b"9" * 5000,
    b"fe80::1%25eth0",
    b"::ffff:10.0.0.1/128",
    b"10.0.0.0/33",
    b";DROP",
    b" ",
    b"\t",
)
HEADERS = (
    b"Host: bgpd",
    b"Host:",
    b"Host: a\r\nHost: b",
    b"Content-Length: 5",
    b"Content-Length: -1",
    b"Content-Length: +5",
    b"Content-Length: 99999999999999999999999",
    b"Content-Length: 5\r\nContent-Length: 7",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: chunked\r\nContent-Length: 3",
    b"Transfer-Encoding: \x0bchunked",
    b"Expect: 100-continue",
    b"Expect: tea",
    b"Upgrade: websocket\r\nConnection: Upgrade",
    b"Connection: close",
    b"Connection: keep-alive, upgrade",
    b"Content-Encoding: gzip",
    b"Content-Encoding: deflate",
    b"Content-Type: application/json; charset=utf-99",
    b"Content-Type: multipart/form-data",
    b"Accept: application/openmetrics-text; q=x",
    b"Accept: " + b"a," * 2000,
    b"Accept-Encoding: gzip;q=, identity;q=0",
    b"If-None-Match: *",
    b"Range: bytes=9-1",
    b": nameless",
    b"No Colon",
    b" folded",
    b"X: \xff\x80",
    b"X: a\0b",
    b"X" * 9000 + b": y",
    b"Cookie: a=b; " + b"c" * 4000,
    b"Authorization: Basic \xff",
)
BODIES = (
    b"",
    b"hello",
    b"{}",
    b'{"action": "soft-in", "name": "10.0.1.30"}',
    b'{"withdraw": "yes", "wait": 1e999}',
    b'{"name": "a.yaml", "text": "kind: Node"}\n{"name": 7}',
    b"[" * 3000,
    b"5\r\nhello\r\n0\r\n\r\n",
    b"ffffffffffffffff\r\nx",
    b"-5\r\nhello\r\n",
    b"5;ext=\xff\r\nhello\r\n0\r\nTrailer: x\r\n\r\n",
    b"zz\r\n",
    b"\x1f\x8b\x08\0\0\0\0\0",
    b"\xff\xfe\0",
)
VERSIONS = (
    b"HTTP/1.1",
    b"HTTP/1.1",
    b"HTTP/1.1",
    b"HTTP/1.0",
    b"HTTP/2.0",
    b"HTTP/9.9",
    b"HTTP/1.",
    b"ICY",
    b"",
)


def request(random: Random) -> bytes:
    """A request that is nearly right."""
    path = random.choice(PATHS)
    if random.random() < 0.4:
        path += random.choice((b"", b"?target=", b"?name=", b"&prefix=", b"/")) + random.choice(WORDS)
    body = random.choice(BODIES)
    headers = random.sample(HEADERS, random.choice((0, 1, 1, 2, 4)))
    if random.random() < 0.5:
        headers = [b"Host: bgpd", b"Content-Length: %d" % len(body), *headers[:1]]
    if random.random() < 0.03:
        headers += [b"X-%d: y" % number for number in range(3000)]
    end = random.choice((b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r"))
    line = b" ".join((random.choice(METHODS), path, random.choice(VERSIONS)))
    return end.join((line, *headers, b"", b"")) + body


def sent(seed: int) -> bytes:
    """What one connection sends: some requests in a row, mutated or not, or something else altogether."""
    random = Random(seed)
    if random.random() < 0.05:
        return random.choice(
            (
                bytes.fromhex("16030100a5010000a10303") + random.randbytes(150),  # TLS
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + random.randbytes(40),
                b"\xff" * 16 + b"\0\x1d\x01\x04",  # BGP
                random.randbytes(3000),
                b"\r\n" * 2000,
                b"GET /" + b"a" * 200_000,
            )
        )
    octets = bytearray(b"".join(request(random) for _ in range(random.choice((1, 1, 1, 2, 30)))))
    for _ in range(random.choice((0, 0, 1, 3))):
        place = random.randrange(len(octets))
        what = random.randrange(4)
        if what == 0:
            octets[place] = random.randrange(256)
        elif what == 1:
            del octets[place : place + random.randint(1, 9)]
        elif what == 2:
            octets[place:place] = random.choice((b"\r", b"\n", b"\0", b" ", b":", b"%", b"\x80"))
        else:
            octets[place:place] = octets[place : place + random.randint(1, 64)]
    return bytes(octets)


@pytest.fixture
async def api() -> AsyncIterator[tuple[Api, Path]]:
    with tempfile.TemporaryDirectory(prefix="bgpd") as made:
        path = Path(made) / "api.sock"
        views = FakeViews()
        door = Api(views, views, Metrics(), Claim(path), ("127.0.0.1", 0))
        await door.start()
        yield door, path
        await door.stop()


async def connected(door: Api, path: Path, name: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if name == "control":
        return await asyncio.open_unix_connection(str(path))
    assert door.metrics_address is not None
    return await asyncio.open_connection(*door.metrics_address)


async def answered(reader: asyncio.StreamReader) -> bytes:
    """What comes until the door closes, or waits."""
    found = b""
    while True:
        try:
            async with asyncio.timeout(PATIENCE):
                part = await reader.read(1 << 20)
        except (TimeoutError, ConnectionError):
            return found
        if not part:
            return found
        found += part


@pytest.mark.parametrize("name", ["control", "metrics"])
async def test_mutated_requests(api: tuple[Api, Path], name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    door, path = api
    lags: list[float] = []

    async def lag() -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            lags.append(time.monotonic() - before - 0.01)

    watching = asyncio.create_task(lag())

    async def story(seed: int) -> None:
        reader, writer = await connected(door, path, name)
        octets = sent(seed)
        try:
            writer.write(octets)
            await writer.drain()
        except ConnectionError:
            pass
        found = await answered(reader)
        statuses = [int(code) for code in re.findall(rb"HTTP/[0-9.]+ ([0-9]{3}) [A-Z]", found)]
        assert found == b"" or statuses, f"seed {seed}: {found[:200]!r}"
        strange = [code for code in statuses if not (code in FINE or code == 100 or 400 <= code < 500)]
        assert not strange, f"seed {seed}: {strange} to {octets[:500]!r}"
        writer.close()

    for first in range(0, COUNT, TOGETHER):
        await asyncio.gather(*(story(seed) for seed in range(first, first + TOGETHER)))
    watching.cancel()
    assert max(lags) < SLOW
    failures = [record for record in caplog.records if record.exc_info or record.levelno > logging.WARNING]
    assert not failures, f"{len(failures)} failures logged, the first: {failures[0].getMessage()}"
    assert len(caplog.records) < 5, "no log is filled"

    reader, writer = await connected(door, path, name)
    question = "/v1/status" if name == "control" else "/livez"
    writer.write(f"GET {question} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert body == b"ok" or json.loads(body)["node"] == "worker2"
    writer.close()
