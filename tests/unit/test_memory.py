"""What peers hold of memory: the account of paths, the reckoning beside what the kernel says, and who goes."""

import asyncio
import contextlib
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from bgpd.bgp.attempts import MEMORY_IDLE_SECONDS
from bgpd.bgp.speaker import Speaker
from bgpd.bgp.wire.exa.messages import Notification
from bgpd.bgp.wire.update import Decoder
from bgpd.daemon.memory import Memory, machine_memory, memory_limit
from bgpd.model.peer import Down, Peer, PeerConfig, PeerId
from bgpd.model.prefix import Address
from bgpd.model.route import Announce, Hop, Out, Resolution, RibEvent, Via
from bgpd.model.status import SessionState
from bgpd.rib.router import Router
from tests.unit.builders import ME, V4, Line, attributes, lost, peer, pfx
from tests.unit.test_session import accept, make, up
from tests.unit.test_speaker import PORT, Raw, Recorder, address, config, until

MEBI = 1 << 20


def update(
    number: int, *, hop: int = 0, numbers: int = 2, prefixes: int = 1, communities: bytes = b""
) -> bytes:
    """The body of an UPDATE: AS path 65000 and more, ``prefixes`` /24s from the ``number``-th on."""
    path = struct.pack(
        f"!BB{numbers}I", 2, numbers, 65000, *range(number + 70000, number + 70000 + numbers - 1)
    )
    attributes = bytes.fromhex("40010100 400504 00000064 5002") + struct.pack("!H", len(path)) + path
    attributes += bytes.fromhex("400304") + struct.pack("!I", 0x0A000001 + hop)
    attributes += b"\xc0\x08" + bytes((len(communities),)) + communities if communities else b""
    nlri = b"".join(b"\x18" + (0x140000 + number + i).to_bytes(3, "big") for i in range(prefixes))
    return b"\0\0" + struct.pack("!H", len(attributes)) + attributes + nlri


def framed(body: bytes) -> bytes:
    return b"\xff" * 16 + struct.pack("!HB", 19 + len(body), 2) + body


def announced(decoder: Decoder, body: bytes) -> Announce:
    events: list[RibEvent] = []
    decoder.decode(body, events)
    [event] = events
    assert isinstance(event, Announce)
    return event


# The account of paths.


def test_what_nobody_has_is_not_on_the_account() -> None:
    decoder = Decoder(peer("10.0.1.30", 65000))
    held = decoder.cache.held
    first = announced(decoder, update(1, hop=5))
    one = held.octets
    again = announced(decoder, update(1, hop=5, prefixes=9))
    assert again.path is first.path and held.octets == one, "shared by all prefixes"
    other = announced(decoder, update(1, hop=6))
    assert one < held.octets < 2 * one, "another next hop: the set is the same"
    long = announced(decoder, update(2, numbers=200))
    assert held.octets > 2 * one + 800
    kept = first.path._replace(next_hop=Address(b"\x0a\0\0\x09"))  # as import policy makes of it
    del decoder, first, again, other, long
    assert held.octets == one
    del kept
    assert held.octets == 0


def test_paths_are_equal_whatever_account_they_are_on() -> None:
    one, other = (announced(Decoder(flood), update(1)).path for flood in [peer("10.0.1.30", 65000)] * 2)
    bare = one._replace(charge=None)
    assert one == other == bare and bare == one and len({one, other, bare}) == 1
    assert one != one._replace(path_id=1)


def test_what_waits_is_counted_too() -> None:
    session = make()
    connection = accept(session)
    up(session, connection)
    assert session.memory(stale=False) == 0
    session.receive(connection, framed(update(1))[:30], 0.0)
    assert session.memory(stale=False) == 30


def test_what_a_session_does_not_read_is_on_its_account() -> None:
    """The prefixes that it has missed, as octets of a dictionary; a walk over the table is everybody's."""
    line, slow, quick = Line(), peer("10.0.1.30"), peer("10.0.1.31")
    line.join(slow, quick)
    line.settle()
    line.full.add(slow)
    table = {
        pfx(f"10.{n >> 8}.{n & 255}.0/24"): Out(attributes(local_pref=100), ME, None) for n in range(20_000)
    }
    line.change({next(iter(table)): next(iter(table.values()))})  # until its socket is full
    line.change(table)
    line.settle()
    memory = Memory(Speaker(Recorder(), restarted=False), Router(lambda hop: None), 0, line.it.missed)  # type: ignore[arg-type,return-value]
    assert memory.of(quick.id) == 0
    missed = dict.fromkeys(table)
    assert sys.getsizeof(missed) / 2 < memory.of(slow.id) < 3 * sys.getsizeof(missed)


# The reckoning beside the kernel's.

KINDS = {"shared": 60_000, "distinct": 6000, "long": 5000}


def grow(kind: str) -> None:
    """In a process of its own: prints the octets reckoned, and those that the process has grown by."""
    count = KINDS[kind]
    router = Router(lambda hop: Resolution(Via((Hop(hop, 2),)), 0))
    flood = peer("10.0.1.30", 65000)
    router.session_up(flood, 0.0)
    decoder = Decoder(flood)
    kernel: dict[object, object] = {}
    step = 500 if kind == "shared" else 1
    before = resident()
    for number in range(0, count, step):
        body = update(number)
        if kind == "shared":  # one attribute set, other prefixes
            nlri = b"".join(b"\x18" + (0x140000 + number + i).to_bytes(3, "big") for i in range(step))
            body = update(0)[:-4] + nlri
        if kind == "long":
            body = update(number, numbers=200)
        events: list[RibEvent] = []
        decoder.decode(body, events)
        router.learn_routes(flood, events, 0.0)
        if number % 1000 == 0 or number + step >= count:
            while router.work():
                pass
            for changes in router.take_changes().fib.values():
                kernel.update(changes)
    speaker = Speaker(Recorder(), restarted=False)
    reckoned = Memory(speaker, router, 0).of(flood.id) + decoder.cache.held.octets
    print(reckoned, resident() - before)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("kind", KINDS)
def test_reckoning_beside_the_kernels(kind: str) -> None:
    code = f"import gc; gc.disable(); from tests.unit.test_memory import grow; grow({kind!r})"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    reckoned, grown = map(int, out.split())
    assert 0.7 * grown < reckoned < 1.6 * grown, (
        f"{reckoned / MEBI:.1f} MiB reckoned, {grown / MEBI:.1f} MiB grown"
    )


# Who goes.


class Node(Recorder):
    """A handler with a router behind it, as the daemon is one."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.router = Router(lambda hop: Resolution(Via((Hop(hop, 2),)), 0))
        self.speaker = Speaker(self, restarted=False)
        self.memory = Memory(self.speaker, self.router, limit)
        self.highest = 0
        self.now = 0.0

    def session_established(self, peer: Peer) -> None:
        super().session_established(peer)
        self.router.session_up(peer, 0.0)

    def session_ended(self, peer: Peer, down: Down) -> None:
        super().session_ended(peer, down)
        self.router.session_down(peer, down, 0.0)
        self.turn()

    def routes_received(self, peer: Peer, events: Sequence[RibEvent]) -> None:
        super().routes_received(peer, events)
        self.router.learn_routes(peer, events, 0.0)
        self.turn()

    def turn(self) -> None:
        while self.router.work():
            pass
        self.router.take_changes()
        self.highest = max(self.highest, sum(map(self.memory.of, self.speaker.sessions.ids)))
        self.now += 1.0
        self.memory.review(self.now)


@contextlib.asynccontextmanager
async def node(limit: int, *peers: PeerConfig) -> AsyncIterator[Node]:
    made = Node(limit)
    made.speaker.configure({each.id: each for each in peers}, [address(2)], PORT)
    task = asyncio.create_task(made.speaker.run())
    try:
        yield made
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def one_set_a_prefix() -> Iterator[bytes]:
    for number in range(1 << 20):
        yield framed(update(number, numbers=50))


def many_prefixes() -> Iterator[bytes]:
    for number in range(0, 1 << 20, 500):
        nlri = b"".join(b"\x18" + (0x200000 + number + i).to_bytes(3, "big") for i in range(500))
        yield framed(update(0)[:-4] + nlri)


@pytest.mark.parametrize("flood", [one_set_a_prefix, many_prefixes])
async def test_the_peer_that_holds_most_is_ended_and_the_others_live(flood: object) -> None:
    peers = [config(2, last, passive=True, hold_time=30.0) for last in (3, 4)]
    good, bad = (each.id for each in peers)
    async with (
        node(4 * MEBI, *peers) as here,
        Raw.connected(3, 2) as healthy,
        Raw.connected(4, 2) as hostile,
    ):
        await healthy.open(3)
        healthy.writer.write(framed(update(9, prefixes=100)))
        await until(lambda: here.router.counts(good, V4)[0] == 100)
        await hostile.open(4)
        assert callable(flood)
        sender = asyncio.create_task(send(hostile, flood()))
        assert await hostile.notification() == Notification(6, 8)
        await sender
        await until(lambda: bad not in here.up)
        assert not here.downs[0].keep and here.router.counts(bad, V4) == (0, 0, 0)
        assert here.highest < 8 * MEBI
        assert here.router.counts(good, V4)[0] == 100 and good in here.up
        here.turn()
        assert sum(map(here.memory.of, here.speaker.sessions.ids)) < MEBI, "what it left is counted no longer"
        [problem] = here.memory.problems()
        assert (problem.source, problem.path) == (bad, "bgp.memory_limit")
        assert "it may return at" in problem.message and "of the 4.0 MiB" in problem.message
        states = {status.id: status for status in here.speaker.sessions.statuses()}
        assert states[bad].state is SessionState.IDLE and "it held" in states[bad].last_error
        async with Raw.connected(4, 2) as again:
            assert await again.notification() == Notification(6, 5)
        healthy.writer.write(framed(update(9 + 100, prefixes=100)))
        await until(lambda: here.router.counts(good, V4)[0] == 200)


async def send(raw: Raw, messages: Iterator[bytes]) -> None:
    with contextlib.suppress(ConnectionError):
        while not raw.writer.is_closing() and not raw.reader.at_eof():
            raw.writer.write(b"".join(next(messages) for _ in range(50)))
            await raw.writer.drain()
            await asyncio.sleep(0)


async def test_stale_routes_of_a_peer_that_is_gone_are_given_up_first() -> None:
    here = Node(10 * MEBI)
    gone = replace(peer("10.0.1.30", 65000), restart_families=frozenset({V4}), restart_time=60.0)
    here.speaker.configure({gone.id: gone.config}, [], PORT)
    here.router.session_up(gone, 0.0)
    decoder = Decoder(gone)
    for number in range(0, 40_000, 500):
        events: list[RibEvent] = []
        decoder.decode(update(number, prefixes=500), events)
        here.router.learn_routes(gone, events, 0.0)
    here.router.session_down(gone, lost(V4), 0.0)
    assert here.memory.of(gone.id) > 10 * MEBI
    here.turn()
    assert here.router.counts(gone.id, V4) == (0, 0, 0)
    assert not here.router.adj_rib_in(V4).candidates or here.router.busy


def test_one_after_the_other_until_it_is_enough() -> None:
    class Held:
        def __init__(self) -> None:
            self.octets = {"a": 300, "b": 500, "c": 450, "d": 100}
            self.sessions = self
            self.ids, self.ended = tuple(map(PeerId, self.octets)), list[str]()

        def memory(self, peer_id: str, stale: bool) -> int:
            return self.octets[peer_id]

        def out_of_memory(self, peer_id: str, text: str) -> float:
            self.ended.append(peer_id)
            return 60.0

    made = Held()
    memory = Memory(made, Router(lambda hop: Resolution(Via((Hop(hop, 2),)), 0)), 420)  # type: ignore[arg-type]
    assert memory.review(1.0) and made.ended == ["b", "c"]
    assert not memory.review(1.05), "not at every turn"
    memory.limit = 0
    assert not memory.review(100.0) and made.ended == ["b", "c"]


def test_it_stays_out_longer_each_time() -> None:
    session, now = make(), 0.0
    for idle in (*MEMORY_IDLE_SECONDS, MEMORY_IDLE_SECONDS[-1]):
        assert session.out_of_memory("it held much", now) == idle
        assert session.refusal() == Notification(6, 5)
        session.tick(now + idle - 0.1)
        assert session.refusal() is not None and not session.take_dial(now + idle - 0.1)
        now += idle
        session.tick(now)
        assert session.refusal() is None and session.take_dial(now)
        session.dial_failed("nobody", now)
    assert session.out_of_memory("it held much", now + 3600.0) == MEMORY_IDLE_SECONDS[0], "an hour was good"
    session.reset("", now)
    assert session.refusal() is None, "the operator lets it in"
    assert session.out_of_memory("it held much", now) == MEMORY_IDLE_SECONDS[0]


# The limit.


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal:        8388608 kB\nMemFree: 1 kB\n"}


@pytest.mark.parametrize(
    ("files", "mebibytes"),
    [
        ({}, 8192),
        ({"proc/self/cgroup": "0::/system.slice/bgpd.service\n"}, 8192),
        (
            {
                "proc/self/cgroup": "0::/system.slice/bgpd.service\n",
                "sys/fs/cgroup/system.slice/bgpd.service/memory.max": "max\n",
                "sys/fs/cgroup/system.slice/memory.max": "536870912\n",
            },
            512,
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "268435456\n"}, 256),
        (  # a container of cgroup v1 is told its path on the host
            {
                "proc/self/cgroup": "9:name=systemd:/x\n4:cpu,memory:/kubepods/pod1\n0::/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "134217728\n",
            },
            128,
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{(1 << 63) - 4096}\n",
            },
            8192,
        ),
    ],
)
def test_how_much_there_is(tmp_path: Path, files: dict[str, str], mebibytes: int) -> None:
    assert machine_memory(tree(tmp_path, {**MEMINFO, **files})) == mebibytes * MEBI


def test_the_limit_of_this_machine() -> None:
    assert machine_memory() > 256 * MEBI
    assert memory_limit("auto") == machine_memory() // 4
    assert memory_limit(5) == 5
