"""Floods beside a healthy peer at hold time 3 s: whatever one of them does, the others' keepalives leave in time.

Over real sockets on the loopback, in process: a speaker with a router behind it, as the daemon has one. What must hold:
the healthy session stays, its routes are taken, what the flood costs is bounded, and only its own session ends, if any.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace

import pytest

from bgpd.bgp.transport import HIGH_WATER, READ_SIZE
from bgpd.bgp.wire.exa.messages import KEEPALIVE_MESSAGE, Notification, encode_refresh
from bgpd.bgp.wire.update import message
from bgpd.model.peer import MOST_PATHS, PeerConfig
from bgpd.model.prefix import address_text
from tests.unit.builders import V4, pfx
from tests.unit.test_memory import Node, framed, node, update
from tests.unit.test_speaker import PORT, Raw, address, config, until

SECONDS = 3.5
"""Of flood: more than the healthy peer's hold time."""
MEBI = 1 << 20


class Healthy:
    """A peer at hold time 3 s that writes down when our keepalives come, and sends its own."""

    def __init__(self, raw: Raw) -> None:
        self.raw = raw
        self.gaps: list[float] = []

    async def live(self) -> None:
        last = time.monotonic()
        while True:
            self.raw.writer.write(KEEPALIVE_MESSAGE)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.7):
                    while True:
                        kind, _ = await self.raw.message()
                        assert kind != 3, "the healthy peer is ended"
                        if kind == 4:
                            self.gaps.append(time.monotonic() - last)
                            last = time.monotonic()


@contextlib.asynccontextmanager
async def beside(*hostile: PeerConfig, limit: int = 64 * MEBI) -> AsyncIterator[Node]:
    """A node with a healthy peer, and others to come."""
    good = config(2, 3, passive=True, hold_time=3.0)
    async with node(limit, good, *hostile) as here, Raw.connected(3, 2) as raw:
        await raw.open(3, hold_time=3)
        healthy = Healthy(raw)
        task = asyncio.create_task(healthy.live())
        await until(lambda: good.id in here.up)
        yield here
        raw.writer.write(framed(update(9, prefixes=100)))
        await until(lambda: here.router.counts(good.id, V4)[0] == 100)
        assert good.id in here.up and not task.done()
        assert max(healthy.gaps, default=0.0) < 3.0, "our keepalives came in time"
        task.cancel()


BAD = config(2, 4, passive=True, hold_time=30.0)


def updates_at_line_rate() -> Iterator[bytes]:
    while True:
        for number in range(0, 5000, 500):
            yield framed(update(number, prefixes=500))


def new_attribute_sets() -> Iterator[bytes]:
    number = 0
    while True:
        number += 1
        yield framed(update(number % 50_000, numbers=200)[:-4] + b"\x18\x14\x00\x01")


def flaps() -> Iterator[bytes]:
    nlri = update(0, prefixes=500)[-2000:]
    while True:
        yield framed(update(0, prefixes=500))
        yield message(2, struct.pack("!H", len(nlri)) + nlri + b"\0\0")


def refreshes() -> Iterator[bytes]:
    while True:
        yield encode_refresh(V4)


def keepalives() -> Iterator[bytes]:
    while True:
        yield KEEPALIVE_MESSAGE


def identifiers_of_one_prefix() -> Iterator[bytes]:
    """20,000 of them, announced again and again; now and then another that is lower than all, or a withdrawal."""
    block = update(0)[:-4]
    while True:
        for first in range(1 << 16, (1 << 16) + 20_000, 400):
            ids = range(first, first + 400)
            yield framed(block + b"".join(struct.pack("!I", number) + b"\x18\x14\0\1" for number in ids))
        for number in range(100):
            gone = struct.pack("!I", number) + b"\x18\x14\0\1"
            yield framed(update(number)[:-4] + gone)
            yield message(2, struct.pack("!H", len(gone)) + gone + b"\0\0")


def identifiers_of_many_prefixes() -> Iterator[bytes]:
    """Each prefix under a new identifier every time, each time with another path."""
    number = 0
    while True:
        number += 1
        block = update(number % 5000)[:-4]
        nlri = (struct.pack("!I", number) + b"\x18\x14" + struct.pack("!H", place) for place in range(200))
        yield framed(block + b"".join(nlri))


@pytest.mark.parametrize(
    ("flood", "limit", "lives"),
    [(identifiers_of_one_prefix, 64 * MEBI, True), (identifiers_of_many_prefixes, 4 * MEBI, False)],
    ids=["one_prefix", "many_prefixes"],
)
async def test_a_flood_of_path_identifiers(
    flood: Callable[[], Iterator[bytes]], limit: int, lives: bool
) -> None:
    """RFC 7911: as many paths of a prefix are used as a peer may have; all that it announced is on its account."""
    several = replace(BAD, add_path=True)
    async with beside(several, limit=limit) as here, Raw.connected(4, 2) as raw:
        await raw.open(4, add_path={V4: 3})
        await until(lambda: BAD.id in here.up)
        assert here.up[BAD.id].add_path_receive == {V4}
        end, messages = time.monotonic() + 1.5, flood()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < end or not (lives or here.downs):
                raw.writer.write(b"".join(next(messages) for _ in range(8)))
                await raw.writer.drain()
                await asyncio.sleep(0)
                for prefix in (pfx("20.0.1.0/24"), pfx("20.0.7.0/24")):
                    assert len(here.router.adj_rib_in(V4).paths(prefix)) <= MOST_PATHS
        assert here.highest < limit * 1.5
        assert [BAD.id in here.up, "bgp.memory_limit" in str(here.downs)] == [lives, not lives]


@pytest.mark.parametrize(
    "flood",
    [updates_at_line_rate, new_attribute_sets, flaps, refreshes, keepalives],
    ids=lambda f: f.__name__,
)
async def test_a_flood_of_messages(flood: object) -> None:
    assert callable(flood)
    async with beside(BAD) as here, Raw.connected(4, 2) as raw:
        await raw.open(4)
        end, messages = time.monotonic() + SECONDS, flood()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < end:
                raw.writer.write(b"".join(next(messages) for _ in range(64)))
                await raw.writer.drain()
                await asyncio.sleep(0)
        assert here.highest < 64 * MEBI
        assert BAD.id in here.up, "it broke no rule"


async def test_a_peer_that_drips_octets() -> None:
    """A message that never ends is silence: the hold timer ends that session, and no other."""
    slow = config(2, 4, passive=True, hold_time=3.0)
    async with beside(slow) as here, Raw.connected(4, 2) as raw:
        await raw.open(4, hold_time=3)
        octets = framed(update(1, numbers=200))
        with contextlib.suppress(ConnectionError):
            for place in range(40):
                raw.writer.write(octets[place : place + 1])
                await asyncio.sleep(0.1)
                if slow.id not in here.up:
                    break
        await until(lambda: slow.id not in here.up)
        assert await raw.notification() == Notification(4, 0)


async def test_a_peer_that_never_reads() -> None:
    """What waits for it is bounded, and what it was sent waits with it alone."""
    async with beside(BAD) as here, Raw.connected(4, 2) as raw:
        await raw.open(4)
        raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await until(lambda: BAD.id in here.up)
        peer = here.up[BAD.id]
        octets, sent = framed(update(1, prefixes=900)), 0
        while here.speaker.sessions.send(peer, octets):
            sent += len(octets)
            if sent % 50 == 0:
                await asyncio.sleep(0)
        held = here.speaker.sessions.memory(BAD.id, stale=False)
        assert HIGH_WATER <= held < HIGH_WATER + 2 * READ_SIZE
        assert here.memory.of(BAD.id) >= held, "it is on its account"
        await asyncio.sleep(1.0)


async def test_connections_from_unknown_addresses(caplog: pytest.LogCaptureFixture) -> None:
    """Refused before any state of them is kept; the log has a line now and then, not one each."""
    caplog.set_level(logging.WARNING)
    async with beside() as here:
        before = len(here.speaker.sessions.ids)
        socks = []
        for number in range(300):
            sock = socket.socket()
            sock.setblocking(False)
            sock.bind((address_text(address(10 + number % 200)), 0))
            with contextlib.suppress(BlockingIOError):
                sock.connect((address_text(address(2)), PORT))
            socks.append(sock)
            if number % 20 == 0:
                await asyncio.sleep(0.01)
        await asyncio.sleep(1.0)
        assert len(here.speaker.sessions.ids) == before and len(here.speaker._links) < 320
        for sock in socks:
            sock.close()
        await until(lambda: len(here.speaker._links) == 1)
    assert sum("connection_rejected" in record.getMessage() for record in caplog.records) <= 2
