"""BIRD's control sockets: BIRD's words, whoever asks, and as calicoctl, birdc and exporters read them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from bgpd.config.reading import parse
from bgpd.daemon.compat import serve_compat
from bgpd.model.prefix import Family
from bgpd.model.status import RouteView, SessionState, Status
from bgpd.observe import birdctl
from bgpd.observe.birdctl import BirdSockets
from bgpd.views.bird import Bird, Ground
from bgpd.views.summary import Facts
from tests.unit.fake_views import NOW, FakeViews, mesh_peer

GROUND = Ground(
    way=lambda next_hop: ("", "") if next_hop == "10.0.1.99" else (next_hop, "ens5"),
    workload=lambda prefix: "cali0d77" if prefix == "10.48.0.41/32" else "",
    connected=lambda family: [("10.0.1.0/24", "ens5")] if family is Family.IPV4 else [],
    patience=45.0,
)


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import time

    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def bird(views: FakeViews | None = None) -> Bird:
    return Bird(views or FakeViews(), GROUND, lambda: NOW)


def said(command: str, family: Family = Family.IPV4, views: FakeViews | None = None) -> list[str]:
    return list(bird(views).answer(family, command))


def test_show_status() -> None:
    assert said("show status") == [
        "1000-BIRD v1.6.8+bgpd0.1.0",
        "1011-Router ID is 10.0.1.31",
        " Current server time is 2025-11-23 14:02:11",
        " Last reboot on 2025-11-23 12:00:31",
        " Last reconfiguration on 2025-11-23 12:00:31",
        "0013 Daemon is up and running",
    ]


def test_show_status_while_a_start_waits_for_peers() -> None:
    class Starting(FakeViews):
        def status(self) -> Status:
            return replace(super().status(), in_sync=False, started=NOW - 10, peers_up=1, peers_wanted=3)

    assert said("show status", views=Starting())[5:] == [
        "0024-Graceful restart recovery in progress",
        "   Waiting for 2 protocols to recover",
        "   Wait timer is 10/45",
        "0013 Daemon is up and running",
    ]


def test_show_protocols() -> None:
    assert said("show protocols") == [
        "2002-name     proto    table    state  since       info",
        "1002-static1  Static   master   up     12:00:31    ",
        " kernel1  Kernel   master   up     12:00:31    ",
        " device1  Device   master   up     12:00:31    ",
        " direct1  Direct   master   up     12:00:31    ",
        " Mesh_10_0_1_20 BGP      master   up     13:00:06    Established",
        " Mesh_10_0_1_30 BGP      master   up     13:00:06    Established",
        " Mesh_10_0_1_33 BGP      master   start  14:00:36    Active        the peer closed the connection?[31m "
        "(Cease/2: maintenance)",
        "0000 ",
    ]
    assert said("show protocols", Family.IPV6)[5:] == [
        " Global_fd00_1__1_port_1179 BGP      master   down   2025-11-22  Idle          "
        "shut down by the operator: rack move",
        "0000 ",
    ]


def test_show_protocols_of_some() -> None:
    assert said("show protocols Mesh_10_0_1_20")[1:] == [
        "1002-Mesh_10_0_1_20 BGP      master   up     13:00:06    Established",
        "0000 ",
    ]
    assert len(said('show protocols "Mesh_*"')) == 5
    assert said('show protocols "[!M]*"') == ["8003 No protocols match"]
    assert said("show protocols nobody") == ["9001 nobody: Not a protocol"]
    assert said("show protocols a b")[0].startswith("9001 ")


def test_show_protocols_all() -> None:
    lines = said("show protocols all Mesh_10_0_1_20")
    assert lines[:4] == [
        "2002-name     proto    table    state  since       info",
        "1002-Mesh_10_0_1_20 BGP      master   up     13:00:06    Established",
        "1006-  Preference:     100",
        "   Input filter:   (unnamed)",
    ]
    assert "   Routes:         2 imported, 1 filtered, 2 exported, 2 preferred" in lines
    assert "   BGP state:          Established" in lines
    assert "     Neighbor address: 10.0.1.20" in lines
    assert lines[-2:] == [" ", "0000 "]
    states = [line.split()[-1] for line in said("show protocols all") if "BGP state:" in line]
    assert states == ["Established", "Established", "Active"]


def test_show_route() -> None:
    views = FakeViews()
    views.routes_now["rib"] = (
        RouteView("10.48.0.0/26", "ipv4", best=True, kind="block"),
        RouteView("10.48.0.41/32", "ipv4", best=True, kind="borrowed"),
        RouteView("10.48.1.0/26", "ipv4", "Mesh_10_0_1_20", "10.0.1.20", "", "igp", best=True, kind="bgp"),
        RouteView("10.48.1.0/26", "ipv4", "Mesh_10_0_1_30", "10.0.1.30", "", "igp", kind="bgp"),
        RouteView(
            "192.0.2.0/24", "ipv4", "Mesh_10_0_1_30", "10.0.1.99", "65001 65002", "incomplete", best=True
        ),
    )
    assert said("show route", views=views) == [
        "1007-10.0.1.0/24        dev ens5 [direct1 12:00:31] * (240)",
        " 10.48.0.0/26       blackhole [static1 12:00:31] * (200)",
        " 10.48.0.41/32      dev cali0d77 [kernel1 12:00:31] * (10)",
        " 10.48.1.0/26       via 10.0.1.20 on ens5 [Mesh_10_0_1_20 13:00:06] * (100/0) [i]",
        "                    via 10.0.1.30 on ens5 [Mesh_10_0_1_30 13:00:06] (100/0) [i]",
        " 192.0.2.0/24       unreachable [Mesh_10_0_1_30 13:00:06] * (100/-) [AS65002?]",
        "0000 ",
    ]
    assert said("show route count", views=views) == ["0014 6 of 6 routes for 5 networks"]
    assert len(said("show route protocol Mesh_10_0_1_20", views=views)) == 2
    assert "192.0.2.0/24" in said("show route for 192.0.2.77", views=views)[0]
    assert "10.48.1.0/26" in said("show route 10.48.1.0/26 all", views=views)[0]
    assert said("show route 10.48.9.0/26", views=views) == ["8001 Network not in table"]
    assert said("show route", Family.IPV6, views) == ["0000 "]


@pytest.mark.parametrize(
    "command",
    [
        "show",
        "show interfaces",
        "show route for",
        "show route fd00::/64",
        "show route 10.0.0.0/99",
        "show route protocol",
        "quit",
        "\x00\x01",
        "show protocols all all all",
        "show protocols \x1b[31m",
    ],
)
def test_what_is_not_understood(command: str) -> None:
    (line,) = said(command)
    assert line.startswith("9001 ")
    assert line.isprintable()


def test_orders_are_refused() -> None:
    for order in ("configure", "disable Mesh_10_0_1_20", "down", 'debug "*" all'):
        assert said(order) == ["8007 Access denied: orders are bgpctl's"]


def calicoctl(lines: list[str], separator: str) -> list[tuple[str, ...]]:
    """The table that ``calicoctl node status`` makes of an answer to ``show protocols`` (calico.md §7.3)."""
    kinds = {"Mesh": "node-to-node mesh", "Node": "node specific", "Global": "global"}
    rows = []
    for line in lines:
        assert line.startswith(("0000", "0001", "2002", "1002", " ")), line
        if line.startswith("0000"):
            return rows
        words = line[5:].split() if line[0] != " " else line.split()
        if line.startswith("2002"):
            assert words == ["name", "proto", "table", "state", "since", "info"]
        elif (
            len(words) >= 6
            and words[1] == "BGP"
            and (named := re.match("^(Global|Node|Mesh)_(.+)$", words[0]))
        ):
            address = named[2].replace("_", separator)
            rows.append((address, kinds[named[1]], words[3], words[4], " ".join(words[5:])))
    raise AssertionError("no end")


def test_calicoctl_reads_it() -> None:
    assert calicoctl(said("show protocols"), ".") == [
        ("10.0.1.20", "node-to-node mesh", "up", "13:00:06", "Established"),
        ("10.0.1.30", "node-to-node mesh", "up", "13:00:06", "Established"),
        (
            "10.0.1.33",
            "node-to-node mesh",
            "start",
            "14:00:36",
            "Active the peer closed the connection?[31m (Cease/2: maintenance)",
        ),
    ]


@pytest.fixture
async def sockets(tmp_path: Path) -> AsyncIterator[tuple[Path, FakeViews]]:
    views = FakeViews()
    async with serving(tmp_path / "calico", views):
        yield tmp_path / "calico", views


@contextlib.asynccontextmanager
async def serving(directory: Path, views: FakeViews) -> AsyncIterator[BirdSockets]:
    served = BirdSockets(directory, bird(views))
    task = asyncio.create_task(served.run())
    async with asyncio.timeout(5):
        while not (directory / "bird6.ctl").exists() and not served.errors:  # noqa: ASYNC110 - nobody announces it
            await asyncio.sleep(0.01)
    try:
        yield served
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def answer(reader: asyncio.StreamReader) -> list[str]:
    lines = []
    async with asyncio.timeout(5):
        while True:
            line = (await reader.readline()).decode()
            assert line.endswith("\n"), lines
            lines.append(line[:-1])
            if re.match("[0-9]{4} ", line):
                return lines


async def test_commands_that_come_at_once_have_one_answer_each(sockets: tuple[Path, FakeViews]) -> None:
    reader, writer = await asyncio.open_unix_connection(sockets[0] / "bird.ctl")
    writer.write(b"show protocols\nshow status\r\n\nnonsense\n")  # without waiting for the greeting
    assert await answer(reader) == ["0001 BIRD v1.6.8+bgpd0.1.0 ready."]
    assert (await answer(reader))[-1] == "0000 "
    assert (await answer(reader))[-1] == "0013 Daemon is up and running"
    assert (await answer(reader))[0].startswith("9001")
    with pytest.raises(TimeoutError):  # and nothing after it
        async with asyncio.timeout(0.1):
            await reader.read(1)
    writer.close()


async def test_a_line_that_does_not_end_is_refused_and_costs_no_memory(
    sockets: tuple[Path, FakeViews],
) -> None:
    reader, writer = await asyncio.open_unix_connection(sockets[0] / "bird.ctl")
    await answer(reader)
    for _ in range(64):
        writer.write(b"x" * 65536)
        await writer.drain()
    writer.write(b"\nshow status\n")
    assert await answer(reader) == ["9000 Command too long"]
    assert (await answer(reader))[-1] == "0013 Daemon is up and running"
    writer.close()


async def test_who_does_not_read_holds_up_nobody_and_is_let_go(
    sockets: tuple[Path, FakeViews], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(birdctl, "PATIENCE_SECONDS", 0.3)
    directory, views = sockets
    views.peers_now = [mesh_peer(f"n{n}", f"10.{n >> 8}.{n & 255}.1") for n in range(20_000)]
    slow, slow_writer = await asyncio.open_unix_connection(directory / "bird.ctl", limit=1024)
    slow_writer.write(b"show protocols\n" * 4)
    reader, writer = await asyncio.open_unix_connection(directory / "bird.ctl", limit=1 << 24)
    await answer(reader)
    writer.write(b"show protocols\n")
    assert len(await answer(reader)) == 20_000 + 6
    writer.close()
    await asyncio.sleep(3 * birdctl.PATIENCE_SECONDS)
    async with asyncio.timeout(30):
        with contextlib.suppress(OSError):
            await slow.read()  # to its end: what was not read is not sent for ever
    slow_writer.close()


async def test_more_clients_than_may_be_take_the_place_of_the_quietest(
    sockets: tuple[Path, FakeViews], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(birdctl, "MOST_CLIENTS", 3)
    clients = []
    for _ in range(5):
        clients.append(await asyncio.open_unix_connection(sockets[0] / "bird.ctl"))
        await answer(clients[-1][0])
    async with asyncio.timeout(5):
        assert [await reader.read(1) for reader, _ in clients[:2]] == [b"", b""]
    clients[4][1].write(b"show status\n")
    assert (await answer(clients[4][0]))[-1].startswith("0013")
    for _, writer in clients:
        writer.close()


async def test_where_bird_itself_answers_it_is_left_alone(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bird:
        bird.bind(str(tmp_path / "bird.ctl"))
        bird.listen()
        async with serving(tmp_path, FakeViews()) as served:
            (problem,) = served.problems()
            assert (
                problem.source == str(tmp_path / "bird.ctl") and "is not served: another" in problem.message
            )
            assert (problem.path, problem.harmless) == ("compat.bird_sockets", False)
            assert (tmp_path / "bird.ctl").exists()
    assert (tmp_path / "bird.ctl").exists()
    assert not (tmp_path / "bird6.ctl").exists()


async def test_a_socket_that_is_not_ours_is_a_problem_of_the_daemon(tmp_path: Path) -> None:
    directory = tmp_path / "file"
    directory.touch()
    config = parse(f"node: worker1\ncompat: {{bird_sockets: {directory}}}", "bgpd.yaml")
    facts, parts = Facts(tmp_path, 0.0, Mock()), Mock()
    serving = asyncio.create_task(serve_compat(config, FakeViews(), parts, facts, asyncio.Event()))
    try:
        async with asyncio.timeout(5):
            while len(found := [str(each) for each in facts.not_served()]) < 2:  # noqa: ASYNC110 - nobody announces it
                await asyncio.sleep(0.01)
        assert all("compat.bird_sockets" in each and "File exists" in each for each in found)
    finally:
        serving.cancel()
        await asyncio.wait([serving])


async def test_a_directory_that_is_made_anew_has_its_sockets_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(birdctl, "RETRY_SECONDS", 0.05)
    async with serving(tmp_path / "calico", FakeViews()):
        shutil.rmtree(tmp_path / "calico")
        async with asyncio.timeout(5):
            while not (tmp_path / "calico" / "bird.ctl").exists():  # noqa: ASYNC110 - nobody announces it
                await asyncio.sleep(0.01)
        reader, writer = await asyncio.open_unix_connection(tmp_path / "calico" / "bird.ctl")
        await answer(reader)
        writer.close()


@pytest.mark.skipif(shutil.which("birdc") is None, reason="bird2 is missing")
async def test_debians_birdc_prints_our_sessions(sockets: tuple[Path, FakeViews]) -> None:
    async def birdc(*words: str) -> str:
        command = ("birdc", "-s", str(sockets[0] / "bird.ctl"), *words)
        process = await asyncio.create_subprocess_exec(
            *command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
        )
        async with asyncio.timeout(10):
            return (await process.communicate())[0].decode()

    printed = "".join(f"{line.rstrip()}\n" for line in (await birdc("show", "protocols")).splitlines())
    assert printed == textwrap.dedent("""\
        BIRD v1.6.8+bgpd0.1.0 ready.
        name     proto    table    state  since       info
        static1  Static   master   up     12:00:31
        kernel1  Kernel   master   up     12:00:31
        device1  Device   master   up     12:00:31
        direct1  Direct   master   up     12:00:31
        Mesh_10_0_1_20 BGP      master   up     13:00:06    Established
        Mesh_10_0_1_30 BGP      master   up     13:00:06    Established
        Mesh_10_0_1_33 BGP      master   start  14:00:36    Active        the peer closed the connection?[31m (Cease/2: maintenance)
        """)  # noqa: E501 - birdc's own
    assert "Router ID is 10.0.1.31" in await birdc("show", "status")
    assert "via 10.0.1.20 on ens5 [Mesh_10_0_1_20 13:00:06] * (100/0) [?]" in await birdc("show", "route")


def named(name: str, parent: int) -> list[int]:
    """The children of a process that are called so, as calicoctl sees it: argv[0]."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            pid = int(entry.name)
            command = (entry / "cmdline").read_bytes().split(b"\0")
            if command[0] == name.encode() and f"PPid:\t{parent}\n" in (entry / "status").read_text():
                found.append(pid)
    return found


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_processes_of_a_name_end_with_the_daemon(signum: int) -> None:
    script = "import asyncio; from bgpd.observe import process_names; asyncio.run(process_names.run())"
    daemon = subprocess.Popen([sys.executable, "-c", script])
    try:
        wait_for(lambda: named("bird", daemon.pid) and named("bird6", daemon.pid))
        pids = named("bird", daemon.pid) + named("bird6", daemon.pid)
        assert len(pids) == 2
    finally:
        os.kill(daemon.pid, signum)
        daemon.wait()
    wait_for(lambda: not any(alive(pid) for pid in pids))


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def wait_for(holds: object) -> None:
    import time

    deadline = time.monotonic() + 10
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_every_state_of_a_session_has_a_word_that_calico_knows() -> None:
    known = {"Idle", "Connect", "Active", "OpenSent", "OpenConfirm", "Established", "Close"}
    for state in SessionState:
        views = FakeViews()
        views.peers_now = [mesh_peer("a", "10.0.1.20", state=state, last_error="")]
        (line,) = [line for line in said("show protocols all", views=views) if "BGP state:" in line]
        assert line.split()[-1] in known
