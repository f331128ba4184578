"""The speaker on loopback: real sockets, a few stories. What needs time is in ``test_session``."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from bgpd.bgp.runner import now
from bgpd.bgp.speaker import Speaker
from bgpd.bgp.transport import HIGH_WATER, Dial, dialling_socket, listening_socket
from bgpd.bgp.wire.exa.messages import (
    KEEPALIVE_MESSAGE,
    Notification,
    decode_notification,
    encode_notification,
)
from bgpd.bgp.wire.exa.open import Capabilities, GracefulRestart, OpenMessage, encode_open
from bgpd.bgp.wire.update import Framer, encode_announcements, end_of_rib
from bgpd.model.peer import DialAnswer, Down, DownReason, DynamicRange, Peer, PeerConfig, PeerId, PeerKind
from bgpd.model.prefix import Address, Family, Prefix, address_text, make_prefix, parse_address
from bgpd.model.route import Announce, Attributes, EndOfRib, RibEvent
from bgpd.model.status import SessionState

V4 = Family.IPV4
PORT = 1790
HOP = parse_address("10.0.1.30")
TABLE = [make_prefix((10 << 24 | i << 6).to_bytes(4, "big"), 26) for i in range(100_000)]
MORE = [make_prefix((11 << 24 | i << 6).to_bytes(4, "big"), 26) for i in range(1000)]
_process = os.getpid()


def address(last: int) -> Address:
    """A loopback address of this process alone: tests run side by side."""
    return Address(bytes((127, 1 + _process % 200, _process // 200 % 250, last)))


def config(here: int, there: int, **changes: object) -> PeerConfig:
    base = PeerConfig(
        id=PeerId(f"peer{there}"),
        kind=PeerKind.GLOBAL,
        source=f"BGPPeer peer{there}",
        address=address(there),
        port=PORT,
        asn=65000,
        local_asn=65000,
        router_id=address(here),
        local_address=address(here),
        next_hops={},
        families=frozenset({V4}),
        passive=False,
        add_path=False,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


class Recorder:
    """A handler that remembers."""

    def __init__(self) -> None:
        self.up: dict[PeerId, Peer] = {}
        self.downs: list[Down] = []
        self.table: dict[Prefix, None] = {}
        self.end_of_rib = 0
        self.refreshes: list[Family] = []
        self.drained = 0
        self.listens = 0
        self.attempts: list[DialAnswer] = []

    def session_established(self, peer: Peer) -> None:
        self.up[peer.id] = peer

    def session_ended(self, peer: Peer, down: Down) -> None:
        assert self.up.pop(peer.id) is peer
        self.downs.append(down)

    def routes_received(self, peer: Peer, events: Sequence[RibEvent]) -> None:
        assert self.up[peer.id] is peer
        for event in events:
            if isinstance(event, Announce):
                self.table |= dict.fromkeys(event.prefixes)
            self.end_of_rib += isinstance(event, EndOfRib)

    def refresh_requested(self, peer: Peer, family: Family) -> None:
        self.refreshes.append(family)

    def session_writable(self, peer: Peer) -> None:
        self.drained += 1

    def listening_changed(self) -> None:
        self.listens += 1

    def dial_ended(self, peer_id: PeerId, answer: DialAnswer) -> None:
        self.attempts.append(answer)


async def until(check: Callable[[], object], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not check():  # noqa: ASYNC110  # what is asked has no event
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def speaking(here: int, *peers: PeerConfig) -> AsyncIterator[tuple[Speaker, Recorder]]:
    """A running speaker that listens on one address."""
    handler = Recorder()
    speaker = Speaker(handler, restarted=False)
    speaker.configure({peer.id: peer for peer in peers}, [address(here)], PORT)
    task = asyncio.create_task(speaker.run())
    try:
        yield speaker, handler
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)


class Raw:
    """A peer made of octets."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._framer = Framer()

    @classmethod
    @contextlib.asynccontextmanager
    async def connected(cls, here: int, there: int) -> AsyncIterator[Raw]:
        host = address_text(address(there))
        async with asyncio.timeout(10):
            while True:
                try:
                    streams = await asyncio.open_connection(
                        host, PORT, local_addr=(address_text(address(here)), 0)
                    )
                    break
                except ConnectionRefusedError:
                    await asyncio.sleep(0.01)
        raw = cls(*streams)
        try:
            yield raw
        finally:
            raw.writer.transport.abort()
            with contextlib.suppress(OSError):
                await raw.writer.wait_closed()

    async def open(self, here: int, hold_time: int = 90, **more: Any) -> None:
        """``more``: of the capabilities."""
        capabilities = Capabilities(
            families=frozenset({V4}),
            asn4=65000,
            graceful_restart=GracefulRestart(False, 60, {V4: True}),
            **more,
        )
        opened = OpenMessage(65000, hold_time, address(here), capabilities)
        self.writer.write(encode_open(opened) + KEEPALIVE_MESSAGE)
        assert (await self.message())[0] == 1
        assert (await self.message())[0] == 4

    async def message(self) -> tuple[int, bytes]:
        async with asyncio.timeout(10):
            while (taken := self._framer.take()) is None:
                data = await self.reader.read(65536)
                assert data, "the speaker closed the connection"
                self._framer.feed(data)
        return taken

    async def notification(self) -> Notification:
        """The NOTIFICATION that comes, and the end of the stream after it."""
        while True:
            kind, body = await self.message()
            if kind == 3:
                async with asyncio.timeout(10):
                    assert await self.reader.read() == b""
                return decode_notification(body)


async def test_two_speakers() -> None:
    async with speaking(2, config(2, 3)) as (one, ours), speaking(3, config(3, 2)) as (two, theirs):
        await until(lambda: ours.up and theirs.up)
        peer = ours.up[PeerId("peer3")]
        assert one.sessions.peer(peer.id) is peer
        assert peer.local_address == peer.next_hop(V4) == address(2)
        for octets in encode_announcements(V4, Attributes(local_pref=100), HOP, TABLE, True):
            one.sessions.send(peer, octets)
        one.sessions.send(peer, end_of_rib(V4))
        await until(lambda: theirs.end_of_rib)
        assert list(theirs.table) == TABLE
        assert two.sessions.request_refresh(PeerId("peer2"))
        await until(lambda: ours.refreshes == [V4])

        (status,) = one.sessions.statuses()
        assert (status.id, status.state, status.router_id) == (
            "peer3",
            SessionState.ESTABLISHED,
            address_text(address(3)),
        )
        assert (
            status.messages_sent["UPDATE"]
            == len(encode_announcements(V4, Attributes(local_pref=100), HOP, TABLE, True)) + 1
        )
        assert "route refresh" in status.capabilities_received

        one.sessions.shutdown(peer.id, "night")
        await until(lambda: theirs.downs and ours.downs)
        assert ours.downs[0].reason is DownReason.ADMIN
        assert (
            theirs.downs[0].message
            == "NOTIFICATION received 6/9 Hard Reset: 6/2 Administrative Shutdown: night"
        )
        assert one.sessions.statuses()[0].state is SessionState.DOWN
        assert not one.sessions.send(peer, end_of_rib(V4))
        one.sessions.enable(peer.id)
        await until(lambda: ours.up and theirs.up)


async def test_a_speaker_that_stops_says_nothing() -> None:
    async with speaking(2, config(2, 3, passive=True)) as (_, ours):
        async with speaking(3, config(3, 2)) as (_, theirs):
            await until(lambda: ours.up and theirs.up)
        await until(lambda: ours.downs)
    down = ours.downs[0]
    assert (down.reason, down.keep, down.keep_seconds) == (DownReason.TCP, {V4}, 120.0)


async def test_configuration_leaves_what_is_equal() -> None:
    async with (
        speaking(2, config(2, 3), config(2, 4)) as (speaker, ours),
        speaking(3, config(3, 2)) as (_, three),
        speaking(4, config(4, 2)) as (_, four),
    ):
        await until(lambda: len(ours.up) == 2 and three.up and four.up)
        kept = ours.up[PeerId("peer3")]
        speaker.configure({PeerId("peer3"): config(2, 3)}, [address(2)], PORT)
        await until(lambda: four.downs)
        assert four.downs[0].message == "NOTIFICATION received 6/9 Hard Reset: 6/3 Peer De-configured"
        assert [down.reason for down in ours.downs] == [DownReason.CONFIG]
        speaker.configure({PeerId("peer3"): config(2, 3, source="renamed")}, [address(2), address(5)], PORT)
        assert speaker.sessions.peer(kept.id) is kept
        speaker.configure({PeerId("peer3"): config(2, 3, hold_time=30.0)}, [address(2)], PORT)
        await until(lambda: three.downs and three.up)
        assert three.downs[0].message == "NOTIFICATION received 6/6 Other Configuration Change"
        assert three.up[PeerId("peer2")].hold_time == 30.0


async def test_a_session_with_an_heir_ends_so_that_routes_may_stay() -> None:
    """Both ends keep them (RFC 8538); without one all go."""
    async with (
        speaking(2, config(2, 3, id=PeerId("old"))) as (speaker, ours),
        speaking(3, config(3, 2)) as (_, three),
    ):
        await until(lambda: ours.up and three.up)
        heir = config(2, 3, id=PeerId("new"))
        speaker.configure({PeerId("new"): heir}, [address(2)], PORT, (), {PeerId("old"): PeerId("new")})
        await until(lambda: three.downs and PeerId("new") in ours.up)
        assert three.downs[0].message == "NOTIFICATION received 6/6 Other Configuration Change"
        assert ours.downs[0].keep == three.downs[0].keep == {V4}
        assert speaker.sessions.statuses()[0].flaps == {"config": 1}, "its history goes on"


async def test_prefix_limit() -> None:
    async with (
        speaking(2, config(2, 3, passive=True, max_prefixes=5)) as (speaker, ours),
        Raw.connected(3, 2) as raw,
    ):
        await raw.open(3)
        await until(lambda: ours.up)
        peer = ours.up[PeerId("peer3")]
        assert speaker.sessions.check_limit(peer, V4, 5)
        assert not speaker.sessions.check_limit(peer, V4, 6)
        assert await raw.notification() == Notification(6, 1, b"\0\1\1\0\0\0\5")
        assert ours.downs[0].reason is DownReason.NOTIFICATION_TX
        assert speaker.sessions.check_limit(peer, V4, 7)  # over already


@pytest.mark.parametrize(
    "octets", [b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 4096, b"\0" * 300_000], ids=["http", "ff", "much"]
)
async def test_garbage_gets_a_notification_and_harms_nobody(octets: bytes) -> None:
    async with (
        speaking(2, config(2, 3, passive=True), config(2, 4)) as (speaker, ours),
        speaking(4, config(4, 2)) as (_, four),
    ):
        await until(lambda: ours.up and four.up)
        good = ours.up[PeerId("peer4")]
        async with Raw.connected(3, 2) as raw:
            raw.writer.write(octets)
            sent = await raw.notification()
            assert sent.code == 1
        async with Raw.connected(3, 2) as raw:
            assert await raw.notification() == Notification(6, 5)
        assert speaker.sessions.peer(good.id) is good


async def test_strangers_are_rejected() -> None:
    async with speaking(2, config(2, 3)) as (_, ours), Raw.connected(9, 2) as raw:
        raw.writer.write(KEEPALIVE_MESSAGE)
        assert await raw.notification() == Notification(6, 5)
        assert not ours.up


async def test_a_neighbour_under_another_name_keeps_its_history_and_its_shutdown() -> None:
    def named(name: str, **changes: object) -> PeerConfig:
        return config(2, 3, id=PeerId(name), **changes)

    async with speaking(2, named("a")) as (speaker, ours), speaking(3, config(3, 2)) as (other, three):
        await until(lambda: ours.up and three.up)
        other.sessions.reset(PeerId("peer2"), "first")
        await until(lambda: len(ours.downs) == 1 and ours.up)
        speaker.configure({PeerId("b"): named("b")}, [address(2)], PORT)
        (status,) = speaker.sessions.statuses()
        assert status.id == "b" and status.flaps == {"notification_rx": 1, "config": 1}
        assert status.notifications["received", 6, 4] == 1
        opens = status.messages_received["OPEN"]
        assert opens >= 2
        assert status.last_down == "NOTIFICATION sent 6/9 Hard Reset: 6/3 Peer De-configured"
        assert status.last_down_at is not None and abs(status.last_down_at - time.time()) < 5
        await until(lambda: "b" in ours.up)
        assert speaker.sessions.statuses()[0].messages_received["OPEN"] > opens
        speaker.sessions.shutdown(PeerId("b"), "rack move")
        speaker.configure({PeerId("c"): named("c")}, [address(2)], PORT)
        assert (
            speaker.sessions.shutdowns == {"c": "rack move"}
            and speaker.sessions.statuses()[0].state is SessionState.DOWN
        )
        speaker.configure({PeerId("d"): named("d", port=PORT + 1)}, [address(2)], PORT)  # not the same end
        assert not speaker.sessions.statuses()[0].flaps and speaker.sessions.shutdowns == {"c": "rack move"}


async def test_refused_dials_are_reported() -> None:
    async with speaking(2, config(2, 3)) as (speaker, ours):
        await until(lambda: len(ours.attempts) >= 2)
        assert set(ours.attempts) == {DialAnswer.REFUSED}
        assert (
            speaker.sessions.statuses()[0].last_error
            == f"connect: {address_text(address(3))} port {PORT}: Connection refused"
        )


async def test_nothing_is_dialled_while_another_has_the_port() -> None:
    """It may have the sessions too: a second connection from our address would end them."""
    other = listening_socket(address(2), PORT)
    dialled = listening_socket(address(3), PORT)
    dialled.setblocking(False)
    try:
        async with speaking(2, config(2, 3)) as (speaker, _):
            await until(lambda: speaker.port_taken)
            await asyncio.sleep(0)
            with pytest.raises(BlockingIOError):
                dialled.accept()
            other.close()
            accepted, _ = await asyncio.wait_for(asyncio.get_running_loop().sock_accept(dialled), 5)
            accepted.close()
    finally:
        other.close()
        dialled.close()


async def test_an_address_that_is_not_ours_is_no_refusal() -> None:
    stranger = parse_address("192.0.2.1")
    async with speaking(2, config(2, 3, local_address=stranger)) as (speaker, ours):
        await until(lambda: ours.attempts)
        assert ours.attempts[0] is DialAnswer.NONE
        assert "Cannot assign requested address" in speaker.sessions.statuses()[0].last_error


async def test_a_port_that_is_taken_is_reported_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bgpd.bgp.listeners.RETRY_SECONDS", 0.02)
    other = listening_socket(address(2), PORT)
    async with speaking(2, config(2, 3, passive=True)) as (speaker, _):
        await until(lambda: speaker.listen_error)
        place = f"{address_text(address(2))} port {PORT}"
        assert speaker.listen_error == f"another daemon has our BGP port: {place}: Address already in use"
        other.close()
        await until(lambda: speaker.listen_error is None)
        async with Raw.connected(3, 2) as raw:
            await raw.open(3)


async def test_an_address_that_is_not_ours_is_no_other_daemon() -> None:
    async with speaking(2, config(2, 3, passive=True)) as (speaker, _):
        await until(lambda: speaker.listening)
        speaker.configure({}, [parse_address("192.0.2.1")], PORT)
        await until(lambda: speaker.listen_error)
        assert (
            speaker.listen_error == f"cannot listen: 192.0.2.1 port {PORT}: Cannot assign requested address"
        )
        assert speaker.listening and not speaker.port_taken, "it stops nothing"


async def test_a_kernel_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual listen addresses are of both families: the one that there is serves."""

    def listen(
        address: Address, port: int, before: Callable[[socket.socket], None] | None = None
    ) -> socket.socket:
        if len(address) == 16:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        return listening_socket(address, port, before)

    monkeypatch.setattr("bgpd.bgp.listeners.listening_socket", listen)
    async with speaking(2, config(2, 3, passive=True)) as (speaker, _):
        speaker.configure({}, [address(2), Address(bytes(16))], PORT)
        await until(lambda: speaker.listening)
        assert speaker.listen_error is None


async def test_a_peer_that_does_not_read_holds_up_nobody() -> None:
    async with (
        speaking(2, config(2, 3, passive=True), config(2, 4)) as (speaker, ours),
        speaking(4, config(4, 2)) as (_, four),
        Raw.connected(3, 2) as raw,
    ):
        await raw.open(3)
        await until(lambda: len(ours.up) == 2 and four.up)
        slow, quick = ours.up[PeerId("peer3")], ours.up[PeerId("peer4")]
        messages = encode_announcements(V4, Attributes(local_pref=1), HOP, TABLE, True)
        raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
        sent = 0
        while speaker.sessions.send(slow, messages[sent % len(messages)]):
            sent += 1
            if sent % 100 == 0:
                await asyncio.sleep(0)
        assert sent * 4096 > HIGH_WATER // 2
        assert not speaker.sessions.send(slow, end_of_rib(V4))
        for octets in messages:
            speaker.sessions.send(quick, octets)
        await until(lambda: len(four.table) == len(TABLE))
        assert ours.drained == 0
        raw.writer.transport.resume_reading()  # type: ignore[attr-defined]
        async with asyncio.timeout(10):
            while (await raw.message())[1] != bytes(4):
                pass
        await until(lambda: ours.drained == 1)
        assert speaker.sessions.send(slow, end_of_rib(V4))


async def test_a_flood_is_read_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    async with speaking(2, config(2, 3, passive=True)) as (_, ours), Raw.connected(3, 2) as raw:
        await raw.open(3)
        batches = 0
        received = ours.routes_received

        def count(peer: Peer, events: Sequence[RibEvent]) -> None:
            nonlocal batches
            batches += 1
            received(peer, events)

        monkeypatch.setattr(ours, "routes_received", count)
        raw.writer.write(b"".join(encode_announcements(V4, Attributes(local_pref=1), HOP, TABLE, True)))
        raw.writer.write(end_of_rib(V4))
        await until(lambda: ours.end_of_rib)
        assert list(ours.table) == TABLE
        assert batches >= 15


async def test_a_throttled_speaker_reads_no_session_but_makes_them() -> None:
    async with (
        speaking(2, config(2, 3), config(2, 4)) as (slow, ours),
        speaking(3, config(3, 2)) as (one, _),
    ):
        await until(lambda: slow.sessions.count()[0] == 1 and one.sessions.count()[0] == 1)
        slow.throttle(True)
        peer = one.sessions.peer(PeerId("peer2"))
        assert peer is not None
        for octets in encode_announcements(V4, Attributes(local_pref=100), HOP, TABLE, True):
            one.sessions.send(peer, octets)
        one.sessions.send(peer, end_of_rib(V4))
        await until(lambda: len(ours.table) > 0)  # what was asked for before it was heard
        async with speaking(4, config(4, 2)) as (other, _):
            await until(lambda: slow.sessions.count()[0] == 2 and other.sessions.count()[0] == 1)
        for octets in encode_announcements(V4, Attributes(local_pref=100), HOP, MORE, True):
            one.sessions.send(peer, octets)
        await asyncio.sleep(0.1)
        assert not ours.table.keys() & set(MORE)
        slow.throttle(False)
        await until(lambda: ours.table.keys() >= set(MORE))


async def test_a_peer_that_we_do_not_get_to_read_is_not_dead() -> None:
    """The hold timer looks at what waits in the socket, and at what waits for a turn of the loop."""
    async with speaking(2, config(2, 3, passive=True)) as (speaker, ours), Raw.connected(3, 2) as raw:
        await raw.open(3, hold_time=3)
        await until(lambda: ours.up)
        [runner] = speaker.sessions.runners.values()
        [link] = runner.links.values()
        assert not link.unread
        speaker.throttle(True)
        runner.pump()
        raw.writer.write(KEEPALIVE_MESSAGE)
        await until(lambda: link.unread)
        runner.session.tick(now() + 100, runner._unread)
        assert speaker.sessions.count() == (1, 1)
        speaker.throttle(False)
        await until(lambda: not link.unread)
        link.waiting = 1
        runner.session.tick(now() + 200, runner._unread)
        assert speaker.sessions.count() == (1, 1)
        link.waiting = 0
        runner.session.tick(now() + 300, runner._unread)
        assert speaker.sessions.count() == (0, 1)


async def test_a_dial_under_way_to_a_peer_that_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up, and a connection that it still makes is closed unused; nothing dials again."""
    begun, connected, given_up = asyncio.Event(), asyncio.Event(), []

    class Slow(Dial):
        def give_up(self) -> None:
            given_up.append(self)

        async def connect(self) -> socket.socket:
            begun.set()
            await connected.wait()
            return await super().connect()

    monkeypatch.setattr("bgpd.bgp.runner.Dial", Slow)
    async with (
        speaking(2, config(2, 3)) as (speaker, ours),
        speaking(3, config(3, 2, passive=True)) as (other, theirs),
    ):
        await begun.wait()
        speaker.configure({}, [address(2)], PORT)
        assert len(given_up) == 1
        begun.clear()
        connected.set()
        await until(lambda: ours.attempts)
        await asyncio.sleep(0.05)
        assert not (ours.up or theirs.up or begun.is_set()) and other.sessions.count() == (0, 1)


async def test_a_bug_of_ours_ends_the_speaker() -> None:
    handler = Recorder()

    def trip(*_: object) -> None:
        raise ZeroDivisionError

    handler.session_established = trip  # type: ignore[method-assign]
    speaker = Speaker(handler, restarted=False)
    speaker.configure({PeerId("peer3"): config(2, 3, passive=True)}, [address(2)], PORT)

    async def connect() -> None:
        async with Raw.connected(3, 2) as raw:
            with contextlib.suppress(AssertionError, OSError):
                await raw.open(3)
                await raw.message()

    peer = asyncio.create_task(connect())
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.timeout(10):
            await speaker.run()
    assert caught.group_contains(ZeroDivisionError)
    await peer


async def test_a_handler_may_end_the_session_it_hears_of() -> None:
    async with speaking(2, config(2, 3, passive=True)) as (speaker, ours), Raw.connected(3, 2) as raw:
        received = ours.routes_received

        def reset(peer: Peer, events: Sequence[RibEvent]) -> None:
            received(peer, events)
            speaker.sessions.reset(peer.id)

        ours.routes_received = reset  # type: ignore[method-assign]
        await raw.open(3)
        raw.writer.write(end_of_rib(V4))
        assert (await raw.notification()).subcode == 4
        await until(lambda: ours.downs)
        assert ours.downs[0].reason is DownReason.ADMIN


async def test_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same on both sides: up. Another on one: only that session ends, and comes back with the right one."""
    monkeypatch.setattr("bgpd.bgp.transport.DIAL_SECONDS", 0.3)
    there = config(3, 2, password="secret")
    with_four = {PeerId("peer4"): config(2, 4, password="four")}
    async with (
        speaking(2, config(2, 3, password="secret"), *with_four.values()) as (speaker, ours),
        speaking(3, there) as (three, theirs),
        speaking(4, config(4, 2, password="four")) as (_, four),
    ):
        await until(lambda: len(ours.up) == 2 and theirs.up and four.up)
        kept = ours.up[PeerId("peer4")]
        speaker.configure({PeerId("peer3"): config(2, 3, password="new"), **with_four}, [address(2)], PORT)
        await until(lambda: theirs.downs)
        assert (
            theirs.downs[0].message == "NOTIFICATION received 6/9 Hard Reset: 6/6 Other Configuration Change"
        )
        await until(lambda: "TCP MD5" in speaker.sessions.statuses()[0].last_error)
        error = f"connect: {address_text(address(3))} port {PORT}: timed out; perhaps it has another TCP MD5 password"
        assert speaker.sessions.statuses()[0].last_error == error
        await until(lambda: "TCP MD5" in three.sessions.statuses()[0].last_error)
        assert PeerId("peer3") not in ours.up and not theirs.up
        three.configure({PeerId("peer2"): replace(there, password="new")}, [address(3)], PORT)
        await until(lambda: PeerId("peer3") in ours.up and theirs.up)
        assert speaker.sessions.statuses()[0].last_error == ""
        assert ours.up[PeerId("peer4")] is kept and not four.downs
        assert not any("secret" in repr(each) or "new" in repr(each) for each in speaker.sessions.statuses())


async def test_a_password_that_is_taken_away() -> None:
    """The listening socket forgets the key too: a peer without one can connect."""
    async with speaking(2, config(2, 3, passive=True, password="secret")) as (speaker, ours):
        await until(lambda: speaker.listening)
        speaker.configure({PeerId("peer3"): config(2, 3, passive=True)}, [address(2)], PORT)
        async with Raw.connected(3, 2) as raw:
            await raw.open(3)
            await until(lambda: ours.up)


async def test_a_listener_that_comes_later_has_all_passwords() -> None:
    async with speaking(2, config(2, 3, passive=True, password="secret")) as (speaker, ours):
        await until(lambda: speaker.listening)
        speaker.configure(
            {PeerId("peer3"): config(2, 3, passive=True, password="secret")}, [address(2), address(5)], PORT
        )
        await until(lambda: speaker.listening)
        for last in (2, 5):
            with socket.socket() as unsigned:
                unsigned.setblocking(False)
                unsigned.bind((address_text(address(3)), 0))
                place = (address_text(address(last)), PORT)
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(asyncio.get_running_loop().sock_connect(unsigned, place), 0.2)
        async with speaking(3, config(3, 5, address=address(5), password="secret")) as (_, theirs):
            await until(lambda: ours.up and theirs.up)


async def test_another_port_to_listen_on_leaves_the_sessions() -> None:
    here, there = config(2, 3, passive=True), config(3, 2)
    async with speaking(2, here) as (speaker, ours), speaking(3, there) as (other, theirs):
        await until(lambda: ours.up and theirs.up)
        kept = ours.up[here.id]
        speaker.configure({here.id: here}, [address(2)], PORT + 1)
        other.configure({there.id: replace(there, port=PORT + 1)}, [address(3)], PORT)
        place = address_text(address(2))
        await until(lambda: speaker.listening)
        async with asyncio.timeout(10):
            _, writer = await asyncio.open_connection(place, PORT + 1)
        writer.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(place, PORT)
        assert ours.up[here.id] is kept and not ours.downs and not theirs.downs
        other.sessions.reset(there.id)
        await until(lambda: ours.downs and ours.up and theirs.up)
        assert ours.up[here.id] is not kept


async def test_two_peers_of_one_address_with_two_passwords() -> None:
    """The kernel has one key an address: the first peer's; the other can only be dialled, and says so."""
    one = config(2, 3, id=PeerId("a"), passive=True, password="first")
    two = config(2, 3, id=PeerId("b"), port=PORT + 1, password="second")
    async with (
        speaking(2, one, two) as (speaker, ours),
        speaking(3, config(3, 2, password="first")) as (_, three),
    ):
        await until(lambda: PeerId("a") in ours.up and three.up)
        status = {status.id: status for status in speaker.sessions.statuses()}
        assert status[PeerId("a")].last_error == ""
        assert status[PeerId("b")].last_error.endswith(
            "connections from it are not taken: another peer of this address has another TCP MD5 password"
        )


async def test_a_password_that_the_kernel_does_not_take() -> None:
    """Neither dialled nor let in."""
    async with speaking(2, config(2, 3, password="x" * 81)) as (speaker, ours), Raw.connected(3, 2) as raw:
        assert await raw.notification() == Notification(6, 5)
        await until(lambda: ours.attempts)
        assert not ours.up
        error = speaker.sessions.statuses()[0].last_error
        assert "a TCP MD5 password has 1 to 80 octets" in error and "xx" not in error


async def test_ttl_security(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bgpd.bgp.transport.DIAL_SECONDS", 0.3)
    there = config(3, 2, ttl_security=1)
    async with (
        speaking(2, config(2, 3, ttl_security=1)) as (speaker, ours),
        speaking(3, there) as (three, theirs),
    ):
        await until(lambda: ours.up and theirs.up)
        # Without it, what it sends has TTL 64, as from far away.
        three.configure({PeerId("peer2"): replace(there, ttl_security=None)}, [address(3)], PORT)
        await until(lambda: ours.downs and theirs.downs)
        await until(lambda: "it came with TTL 64" in speaker.sessions.statuses()[0].last_error)
        assert speaker.sessions.statuses()[0].last_error == (
            "connect: its connection is refused: it came with TTL 64, and ttl security asks for at least 255"
        )
        assert not ours.up and not theirs.up


async def test_ttl_security_of_one_who_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bgpd.bgp.transport.DIAL_SECONDS", 0.2)
    with socket.create_server((address_text(address(3)), PORT)) as far:
        far.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 64)
        async with speaking(2, config(2, 3, ttl_security=1)) as (speaker, ours):
            await until(lambda: ours.attempts)
            assert speaker.sessions.statuses()[0].last_error.endswith(
                "timed out; perhaps it is more than 1 hop away or has no ttl security"
            )
            assert ours.attempts[0] is DialAnswer.SILENT


def neighbours(here: int, *, limit: int = 2, length: int = 24, **changes: object) -> DynamicRange:
    template = config(here, 0, id=PeerId("template"), asn=0, asns=frozenset({65000, 65001}), **changes)
    return DynamicRange(V4, make_prefix(address(0), length), template, limit)


async def test_dynamic_neighbours() -> None:
    """They come, up to the limit; a peer of their address takes their place; the range goes, and they with it."""
    name = {last: PeerId("Dynamic_" + address_text(address(last)).replace(".", "_")) for last in (3, 4, 5)}
    async with speaking(2, config(2, 9, passive=True)) as (speaker, ours):
        peers = {PeerId("peer9"): config(2, 9, passive=True)}
        assert speaker.configure(peers, [address(2)], PORT, [neighbours(2)]) == frozenset()
        async with (
            speaking(3, config(3, 2)) as (_, three),
            speaking(4, config(4, 2, local_asn=65001)) as (_, four),
        ):
            await until(lambda: len(ours.up) == 2 and three.up and four.up)
            assert {peer: (up.config.asn, up.ibgp) for peer, up in ours.up.items()} == {
                name[3]: (65000, True),
                name[4]: (65001, False),
            }
            assert {s.id: s.kind for s in speaker.sessions.statuses()} == {
                "peer9": "global",
                name[3]: "dynamic",
                name[4]: "dynamic",
            }
            async with Raw.connected(5, 2) as raw:
                assert await raw.notification() == Notification(6, 5), "the limit"
            wider = neighbours(2, length=20)
            kept = ours.up[name[3]]
            assert speaker.configure(peers, [address(2)], PORT, [wider]) == frozenset()
            assert ours.up[name[3]] is kept and not ours.downs, "another range, the same session"
            peers[PeerId("peer4")] = config(2, 4, passive=True, asn=65001)
            assert speaker.configure(peers, [address(2)], PORT, [wider]) == {name[4]}
            await until(lambda: PeerId("peer4") in ours.up)
            assert four.downs[0].message == "NOTIFICATION received 6/9 Hard Reset: 6/3 Peer De-configured"
            assert speaker.configure(peers, [address(2)], PORT) == {name[3]}
            await until(lambda: three.downs)
            assert three.downs[0].message == "NOTIFICATION received 6/9 Hard Reset: 6/3 Peer De-configured"
            assert len(speaker.sessions.statuses()) == 2 and PeerId("peer4") in ours.up


async def test_a_dynamic_neighbour_that_goes_is_forgotten() -> None:
    """At once where it keeps nothing; while its routes are kept it has its place, also for itself."""
    async with speaking(2) as (speaker, ours):
        speaker.configure({}, [address(2)], PORT, [neighbours(2, limit=1)])
        async with Raw.connected(3, 2) as raw:
            await raw.open(3)
            await until(lambda: ours.up)
        await until(lambda: ours.downs)
        assert ours.downs[0].keep == {V4}
        (status,) = speaker.sessions.statuses()
        assert status.graceful_restart_active
        async with Raw.connected(4, 2) as raw:
            assert await raw.notification() == Notification(6, 5)
        async with Raw.connected(3, 2) as raw:
            await raw.open(3)
            await until(lambda: ours.up)
            raw.writer.write(encode_notification(Notification(6, 2)))
            await until(lambda: len(ours.downs) == 2)
        await until(lambda: not speaker.sessions.statuses())


async def test_dynamic_neighbours_of_another_as_or_password() -> None:
    async with speaking(2) as (speaker, ours):
        speaker.configure({}, [address(2)], PORT, [neighbours(2, password="range")])
        async with (
            speaking(3, config(3, 2, password="range")) as (_, three),
            speaking(4, config(4, 2, password="range", local_asn=65009)) as (_, four),
            speaking(5, config(5, 2)) as (_, five),
        ):
            await until(lambda: ours.up and three.up and len(four.attempts) > 0)
            await until(
                lambda: [s.last_error for s in speaker.sessions.statuses() if "65009" in s.last_error]
            )
            assert len(ours.up) == 1 and not four.up and not five.up and not five.attempts


def test_socket_options() -> None:
    far = address(3)
    for sock in (
        listening_socket(address(2), 0),
        dialling_socket(config(2, 3)),
        dialling_socket(config(2, 3, ttl_security=2)),
    ):
        with sock:
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
            assert not sock.getblocking()
    with dialling_socket(config(2, 3)) as sock:
        assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_TTL) == 64
    for local in (address(2), parse_address("::1")):
        six = len(local) == 16
        level, name = (socket.IPPROTO_IPV6, 16) if six else (socket.IPPROTO_IP, socket.IP_TTL)
        with listening_socket(local, 0) as sock:
            assert sock.getsockopt(level, name) == 255, "a handshake with GTSM needs it"
            assert not six or sock.getsockopt(level, socket.IPV6_V6ONLY)
        there = local if six else far
        with dialling_socket(config(2, 3, address=there, local_address=local)) as sock:
            assert sock.getsockopt(level, name) == 64
        with dialling_socket(config(2, 3, address=there, local_address=local, ttl_security=2)) as sock:
            assert sock.getsockopt(level, name) == 255
            assert sock.getsockopt(level, 73 if six else 21) == 254
