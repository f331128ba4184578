"""The benchmark's own parts: what the injector sends, what the kernel's texts say, what the report makes of figures."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
import struct
import xml.etree.ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import floors, kernel, report
from bench.__main__ import OUT, arguments
from bench.injector import (
    HEADER,
    KEEPALIVE,
    MARKER,
    MAX_MESSAGE,
    OPEN,
    SHAPES,
    UPDATE,
    Family,
    SessionLost,
    Shape,
    Speaker,
    dial,
    message,
    network,
    next_hops,
    open_message,
    table,
)
from bench.nodes import quantile
from bench.probe import Lags
from bench.report import Run
from bench.work import CASES, FLOORS, SIZES, Work, hopeless, plan, subjects
from bgpd.bgp.wire.update import Decoder
from bgpd.model.route import Announce, EndOfRib, RibEvent
from tests.unit.builders import V4, V6, peer

FIRST: dict[Family, bytes] = {
    "ipv4": ipaddress.ip_address("10.1.0.0").packed,
    "ipv6": ipaddress.ip_address("fd0a::1:0:0").packed,
}


def bodies(octets: bytes) -> Iterator[tuple[int, bytes]]:
    """Messages of a stream, each of a legal length and none cut off."""
    position = 0
    while position < len(octets):
        assert octets[position : position + 16] == MARKER
        length = int.from_bytes(octets[position + 16 : position + 18], "big")
        assert HEADER <= length <= MAX_MESSAGE
        yield octets[position + 18], octets[position + HEADER : position + length]
        position += length
    assert position == len(octets)


# The injector, read by bgpd's own decoder.


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_table_is_the_routes_that_its_shape_says(shape: Shape, family: Family) -> None:
    count = 1503
    decoder = Decoder(peer(families=(V4, V6)))
    events: list[RibEvent] = []
    sizes = []
    for kind, body in bodies(table(shape, family, count, FIRST[family], local_pref=200)):
        assert kind == UPDATE
        sizes.append(decoder.decode(body, events))
    assert decoder.withdrawn_by_error == 0
    last = events.pop()
    assert isinstance(last, EndOfRib)
    assert sizes.pop() == 0
    announced = [event for event in events if isinstance(event, Announce)]
    assert len(announced) == len(events) == len(sizes)
    assert {event.family.label for event in announced} == {family}
    prefixes = [prefix for event in announced for prefix in event.prefixes]
    width, length = (4, 26) if family == "ipv4" else (16, 122)
    octets = -(-length // 8)
    wanted = [bytes([length]) + network(family, i).to_bytes(width, "big")[:octets] for i in range(count)]
    assert prefixes == wanted
    hops = [event.path.next_hop for event in announced]
    assert len(set(hops)) == next_hops(shape, count)
    assert hops[0] == FIRST[family]
    assert all(event.path.attributes.local_pref == 200 for event in announced)
    attributes = [event.path.attributes for event in announced]
    if shape == "shared":
        assert max(sizes) == (700 if family == "ipv4" else 233)
        assert len(set(attributes)) == 1
    elif shape == "nodes":
        assert set(sizes[:-1]) == {5}
        assert {a.originator_id for a in attributes} == {hop[-4:] for hop in hops}
        assert all(a.cluster_list for a in attributes)
    else:
        assert set(sizes) == {1}
        assert len({a.communities for a in attributes}) == count


def test_a_million_prefixes_fit_into_ipv4() -> None:
    last = ipaddress.IPv4Network((network("ipv4", 999_999), 26))
    assert last.subnet_of(ipaddress.IPv4Network("64.0.0.0/6"))


def test_open_says_what_the_session_is() -> None:
    plain, restarting = (open_message(64512, b"\n\0\0\2", "ipv6", 90, flag) for flag in (False, True))
    assert plain == message(OPEN, plain[HEADER:])
    assert struct.unpack_from("!BHH", plain, HEADER) == (4, 64512, 90)
    assert plain[HEADER + 5 : HEADER + 9] == b"\n\0\0\2"
    assert b"\x01\x04\x00\x02\x00\x01" in plain  # multiprotocol, IPv6 unicast
    assert b"\x40\x06" not in plain
    assert b"\x40\x06\x00\x78\x00\x02\x01\x80" in restarting


class Daemon(asyncio.Protocol):
    """The other end: opens, keeps alive, remembers."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self.more = asyncio.Event()
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        # In two pieces: a message may come in any.
        hello = open_message(64512, b"\n\0\0\1", "ipv4") + message(KEEPALIVE)
        transport.write(hello[:30])
        asyncio.get_running_loop().call_soon(transport.write, hello[30:] + message(UPDATE, bytes(4)))

    def data_received(self, data: bytes) -> None:
        self.heard += data
        self.more.set()

    async def heard_all(self, octets: bytes) -> None:
        while not self.heard.endswith(octets):
            await self.more.wait()
            self.more.clear()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.set_result(error)


async def test_a_speaker_opens_sends_and_is_reset() -> None:
    daemons: list[Daemon] = []

    def accept() -> Daemon:
        daemons.append(Daemon())
        return daemons[-1]

    server = await asyncio.get_running_loop().create_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    up: list[Speaker] = []

    def make() -> Speaker:
        return Speaker("ipv4", on_established=up.append, on_update=lambda _, body: heard.put_nowait(body))

    speaker = await dial(socket.socket, "127.0.0.1", "127.0.0.1", make, port=port, timeout=5)
    assert up == [speaker]
    assert speaker.address == "127.0.0.1"
    octets = table("nodes", "ipv4", 10_000, FIRST["ipv4"])
    speaker.send(octets)
    async with asyncio.timeout(5):
        assert await heard.get() == bytes(4)
        await daemons[0].heard_all(octets)
    kinds = [kind for kind, _ in bodies(bytes(daemons[0].heard))][:3]
    assert kinds == [OPEN, KEEPALIVE, KEEPALIVE]
    speaker.reset()
    async with asyncio.timeout(5):
        assert isinstance(await daemons[0].lost, ConnectionResetError)
        await speaker.closed
    with pytest.raises(SessionLost):
        speaker.send(octets)
    server.close()
    await server.wait_closed()


async def test_dialling_a_closed_port_ends_at_its_timeout() -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        port = unheard.getsockname()[1]
        with pytest.raises(TimeoutError):
            await dial(
                socket.socket, "127.0.0.1", "127.0.0.1", lambda: Speaker("ipv4"), port=port, timeout=0.05
            )


# The kernel's texts and messages.


def test_counts() -> None:
    text = b"Main:\n\tAver depth:     1.0\n\tLeaves:         7\n\tPrefixes:       12\nLocal:\n\tPrefixes:       12\n"
    assert kernel.parse_count("ipv4", text) == 12
    assert kernel.parse_count("ipv4", b"Basic info: size of leaf: 48 bytes\n") == 0
    assert kernel.parse_count("ipv6", b"0003 0004 0012 00ff 0000 0021 0000\n") == 255


def test_route_messages_are_read_back_as_written() -> None:
    put = kernel.route_message(24, 0x500, 1, "ipv4", b"\x0a\x30\x00\x80", 26, struct.pack("=HHI", 8, 4, 3))
    gone = kernel.route_message(25, 0, 2, "ipv6", bytes(range(16)), 122, b"", protocol=3)
    assert kernel.events(put + gone) == [
        kernel.RouteEvent(24, 12, 254, (b"\x0a\x30\x00\x80", 26)),
        kernel.RouteEvent(25, 3, 254, (bytes(range(16)), 122)),
    ]
    assert kernel.events((put + gone)[:-40]) != []


@pytest.mark.parametrize("objects", [False, True])
def test_floor_batches_ask_once_each(objects: bool) -> None:
    count = 1000
    puts, deletes = floors.messages(objects, "nodes", "ipv4", count, FIRST["ipv4"], 3)
    assert len(deletes) == count
    assert len(puts) == count + (next_hops("nodes", count) if objects else 0)
    sends = floors.batches(puts)
    asked = 0
    seen = 0
    for send in sends:
        position, flags = 0, 0
        while position < len(send):
            length, _, flags = struct.unpack_from("=IHH", send, position)
            asked += bool(flags & kernel.NLM_F_ACK)
            seen += 1
            position += length
        assert flags & kernel.NLM_F_ACK, "the last one asks"
    assert (seen, asked) == (len(puts), len(sends))
    assert len(kernel.events(b"".join(sends))) == count


# The plan.


def test_the_whole_plan() -> None:
    works = list(plan(list(CASES), list(SIZES)))
    assert len(set(works)) == len(works)
    assert {work.case for work in works} == set(CASES)
    assert [str(work) for work in works if work.size == 1_000_000] == ["cold shared 1M"]
    assert Work("cold", "ipv4", "nodes", 100_000) in works
    assert Work("cold", "ipv6", "nodes", 100_000, once=True) in works
    assert not any(work.family == "ipv6" and work.shape == "distinct" for work in works)
    for work in works:
        assert subjects(work, ["bird", "frr"])[0] == "bgpd"
        assert not hopeless(work, "bgpd")
    assert subjects(Work("cold", "ipv4", "distinct", 100_000), ["bird", "frr"]) == ["bgpd", FLOORS[1]]
    assert subjects(Work("failover", "ipv4", "shared", 100_000), ["frr"]) == ["bgpd", "frr"]


def test_every_target_is_of_a_work_in_the_plan() -> None:
    works = list(plan(list(CASES), list(SIZES)))
    for target in report.TARGETS:
        work = next(work for work in works if target.covers(work))
        who = subjects(work, ["bird", "frr"])
        assert target.against in ("", *who), target
        assert target.metric in report.METRICS


def test_the_command_line() -> None:
    whole = arguments([])
    assert (whole.out, whole.json, whole.rounds) == (OUT, OUT.with_suffix(".json"), 3)
    part = arguments(["--only", "cold", "idle", "--sizes", "500", "--rounds", "1", "--peers"])
    assert (part.only, part.sizes, part.peers) == (["cold", "idle"], [500], [])
    assert part.out is None
    assert part.json is None
    for wrong in (["--only", "hot"], ["--rounds", "0"], ["--sizes", "2000000"], ["--peers", "gobgp"]):
        with pytest.raises(SystemExit):
            arguments(wrong)


# The report.

SHARED = Work("cold", "ipv4", "shared", 100_000)


def runs() -> list[Run]:
    figures = {"bgpd": 0.5, "bird": 1.0, FLOORS[1]: 0.25}
    found = [
        Run(SHARED, name, turn, {"converge_s": value * factor})
        for turn, factor in enumerate((1.0, 7.0, 0.5))
        for name, value in figures.items()
    ]
    found[0].figures["hold_ms"] = 61.0
    return [
        *found,
        Run(Work("restart", "ipv4", "shared", 100_000), "bgpd", 0, {"ready_s": 1.0, "writes_count": 0.0}),
        Run(Work("idle"), "bgpd", 0, error="bgpd-rx ended: <boom>"),
    ]


def test_medians_and_verdicts() -> None:
    assert report.medians(runs())[SHARED, "bgpd", "converge_s"] == 0.5
    met = {verdict.target: (verdict.met, verdict.measured) for verdict in report.verdicts(runs())}
    cold = "cold shared 100k: to all routes in the kernel | at most"
    assert met[f"{cold} 0.9 × bird"] == (True, "0.50 × (0.5 s to 1.00 s)")
    assert met[f"{cold} 2.2 × floor nexthop-objects"] == (True, "2.00 × (0.5 s to 0.25 s)")
    assert met["restart: route changes in the kernel | at most 0"] == (True, "0")
    assert met["idle: resident, no peers | at most 75.0 MiB"] == (False, "failed")
    assert met["mesh: processor when idle | at most 2.00 %"] == (None, "not measured")
    assert met["any case: longest hold of the event loop | at most 50 ms"] == (
        False,
        "61.0 ms (cold shared 100k)",
    )


def test_the_report_has_figures_ratios_and_reasons() -> None:
    text = report.markdown(runs(), {"machine": "2 cores"}, ["cold distinct 100k, bird: minutes"], "plot.svg")
    assert "- machine: 2 cores" in text
    assert "![The main figures as bars](plot.svg)" in text
    assert "| to all routes in the kernel | 0.5 s | 1.00 s | 0.25 s | 0.50 | 2.00 |" in text
    assert "- idle, bgpd: bgpd-rx ended: <boom>" in text
    assert "- cold distinct 100k, bird: minutes" in text
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.count("|") >= 3


def test_tables_have_one_row_a_work() -> None:
    small = [
        Run(Work("cold", "ipv4", "shared", size), "bgpd", 0, {"converge_s": 1.0}) for size in (1000, 10_000)
    ]
    text = report.tables(small)
    assert "| cold shared 1k | 1.00 s |" in text
    assert "| cold shared 10k | 1.00 s |" in text


def test_json_comes_back() -> None:
    text = report.as_json(runs(), {"machine": "2 cores"})
    assert json.loads(text)["runs"][0]["figures"]["converge_s"] == 0.5
    assert report.from_json(text) == (runs(), {"machine": "2 cores"})


def test_the_plot_is_xml_with_a_bar_a_subject() -> None:
    root = xml.etree.ElementTree.fromstring(report.svg(runs()))
    bars = [bar for bar in root.iter("{http://www.w3.org/2000/svg}rect") if bar.get("fill") != "white"]
    assert [float(bar.get("width", "")) for bar in bars] == [95.0, 190.0, 47.5]
    words = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert words == [
        "cold, shared 100k",
        "bgpd",
        "0.5 s",
        "bird",
        "1.00 s",
        "floor nexthop-objects",
        "0.25 s",
    ]


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.0123, "0.0123"), (1.234, "1.23"), (56.78, "56.8"), (1234.5, "1234")]
)
def test_numbers(value: float, text: str) -> None:
    assert report.number(value) == text


def test_quantiles() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert quantile(values, 0.5) == 51
    assert quantile(values, 0.99) == 100
    assert quantile([3.0], 0.99) == 3.0


def test_lags(tmp_path: Path) -> None:
    ours, theirs = Lags(tmp_path / "lags"), Lags(tmp_path / "lags")
    try:
        assert not theirs.on
        ours.clear(on=True)
        assert theirs.on
        assert ours.quantile(1.0) is None
        for late in [0.0001] * 999 + [0.0421, 99.0]:
            theirs.count(late)
        assert ours.quantile(0.5) == 1
        assert ours.quantile(0.999) == 43
        assert ours.quantile(1.0) == 5000
        ours.clear(on=False)
        assert not theirs.on
        assert theirs.quantile(1.0) is None
    finally:
        ours.close()
        theirs.close()
