"""bgpctl against a served ``FakeViews``: what an operator reads, and what a script can rely on."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from fake_views import NO_CHANGES, NOW, FakeViews
from unwritable import check_unwritable_output

from bgpd.cli import ctl, ctl_commands, ctl_words, peers, screens
from bgpd.cli.client import Client, Unreachable
from bgpd.cli.ctl_words import moment
from bgpd.cli.tables import SAMPLE, Look, Table, ago, cell, lines, short_stamp
from bgpd.model.peer import PeerId
from bgpd.model.resources import Problem
from bgpd.model.status import Check, Difference, RouteTable, RouteView
from bgpd.observe.api import Api
from bgpd.observe.as_json import document
from bgpd.observe.control_socket import Claim
from bgpd.observe.metrics import Metrics

HEAVY = (
    "aiohttp",
    "exabgp",
    "netaddr",
    "pydantic",
    "pyroute2",
    "prometheus_client",
    "rich",
    "asyncio",
    "bgpd.model",
    "http.client",
    "logging",
    "ssl",
    "subprocess",
)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[FakeViews, Path]]:
    """A node that answers on a socket, from a thread with a loop of its own."""
    views = FakeViews()
    ready, end = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve(path: Path) -> None:
        door = Api(views, views, Metrics(), Claim(path), None)
        await door.start()
        ready.set()
        await end.wait()
        await door.stop()

    with tempfile.TemporaryDirectory(prefix="bgpd") as directory:
        path = Path(directory) / "api.sock"
        thread = threading.Thread(target=lambda: loop.run_until_complete(serve(path)))
        thread.start()
        assert ready.wait(10)
        yield views, path
        loop.call_soon_threadsafe(end.set)
        thread.join()
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


@pytest.fixture
def views(served: tuple[FakeViews, Path]) -> FakeViews:
    """The served node, as it is before anything happened to it."""
    vars(served[0]).update(vars(FakeViews()))
    return served[0]


class Result(NamedTuple):
    code: int
    out: str
    err: str


Bgpctl = Callable[..., Result]


@pytest.fixture
def bgpctl(
    views: FakeViews,
    served: tuple[FakeViews, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Bgpctl:
    """Runs the command in this process, on the node's day."""
    monkeypatch.setenv("BGPCTL_SOCKET", str(served[1]))
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    monkeypatch.setattr("bgpd.cli.ctl.time.time", lambda: NOW)

    def run(*argv: str) -> Result:
        try:
            code = ctl.main(argv)
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        return Result(code, *capsys.readouterr())

    return run


def table(text: str) -> list[list[str]]:
    """A piped table as awk's users see it: by columns two spaces apart."""
    return [re.split(r"  +", line.strip()) for line in text.splitlines()]


# Screens.


def test_status(bgpctl: Bgpctl) -> None:
    result = bgpctl("status")
    assert result.code == 0 and result.err == ""
    assert result.out == (
        "bgpd 0.1.0 on worker2: ready, in sync\n"
        "AS 64512, router id 10.0.1.31, up 2h01m since 2025-11-23T12:00:31+00:00\n"
        "\n"
        "✓  config     /etc/bgpd/bgpd.yaml, loaded 2h01m ago\n"
        "✓  datastore  files: 5 BlockAffinity, 2 IPPool, 3 Node; last event 12s ago\n"
        "✓  kernel\n"
        "✓  speaker\n"
        "\n"
        "Peers   2 of 3 established, 2 update groups, 1 shut down\n"
        "Routes  2 announced (1 ipv4 block, 1 ipv4 borrowed)\n"
        "        last change 5m00s ago\n"
        "\n"
        "FAMILY  OWN  LEARNED  PATHS  KERNEL  WANTED  PENDING  DRIFT  REPAIRED  CONFLICTS  COMPARED\n"
        "ipv4      2        3      4       4       5        1      0         2          1  21s ago\n"
        "ipv6      0        0      0       0       0        0      0         0          0  22s ago\n"
        "\n"
        "Problems (2)\n"
        "  pools.yaml: IPPool broken: spec.cidr: '10.48.0.0/240' is not a prefix\n"
        "  kernel ipv4: 10.48.2.0/29: in our way is proto static via 10.0.1.1 dev ens5\n"
    )


def test_status_of_a_node_that_is_not_ready(bgpctl: Bgpctl, views: FakeViews) -> None:
    views.ready_now[1] = Check("datastore", False, "/etc/bgpd/resources is missing")
    result = bgpctl("status")
    assert result.code == 1
    assert result.out.startswith("bgpd 0.1.0 on worker2: not ready")
    assert "✗  datastore  /etc/bgpd/resources is missing (files: " in result.out


def test_status_of_a_node_that_has_just_started(views: FakeViews) -> None:
    early = replace(
        views.status(),
        asn=None,
        router_id="",
        in_sync=False,
        fib={},
        routes_desired={},
        routes_advertised={},
        last_routes_change=None,
        problems=(),
        netlink_overruns=3,
        event_loop_lag=2.5,
    )
    text = "\n".join(lines(screens.status(document(early), Look(NOW)), terminal=False))
    assert "not yet in sync: old routes are kept" in text
    assert "AS unknown, router id unknown" in text
    assert "nothing of our own to announce" in text
    assert "dropped notifications 3 times" in text and "held for 2.5 s" in text


@pytest.mark.parametrize(
    ("advertised", "up", "words"),
    [
        (1, 2, "1 of 2 advertised to every peer"),
        (2, 2, "2 announced"),
        (2, 0, "2 to announce (1 ipv4 block, 1 ipv4 borrowed), and nobody"),
    ],
)
def test_status_says_whether_peers_were_sent_all(
    views: FakeViews, advertised: int, up: int, words: str
) -> None:
    status = replace(views.status(), routes_advertised={("block", "ipv4"): advertised}, peers_up=up)
    assert words in "\n".join(lines(screens.status(document(status), Look(NOW)), terminal=False))


def test_peers(bgpctl: Bgpctl) -> None:
    result = bgpctl("peers")
    assert result.code == 0
    rows = table(result.out)
    assert " ".join(rows[0]) == "PEER ADDRESS AS TYPE STATE FOR SINCE FAMILY RX ACC TX FLAPS LAST-ERROR"
    first = "Mesh_10_0_1_20 10.0.1.20 64512 mesh Established 1h02m 13:00:06 ipv4 3 2 2 1 -"
    assert " ".join(rows[1]) == first
    assert rows[3][4:7] == ["Active", "1m35s", "14:00:36"]
    assert rows[3][-1] == "the peer closed the connection?[31m (Cease/2: maintenance)"
    assert rows[4][1] == "[fd00:1::1]:1179" and rows[4][4:7] == ["Shutdown", "25h00m", "2025-11-22_13:02"]
    assert [row[7] for row in rows[4:]] == ["ipv4", "ipv6"]
    assert all(len(row) == len(rows[0]) for row in rows)


def test_one_peer(bgpctl: Bgpctl) -> None:
    assert [row[0] for row in table(bgpctl("peers", "10.0.1.30").out)] == ["PEER", "Mesh_10_0_1_30"]
    assert bgpctl("peers", "Mesh_10_0_1_30").code == 0
    assert [row[0] for row in table(bgpctl("peers", "worker1").out)] == ["PEER", "Mesh_10_0_1_30"]
    assert bgpctl("routes", "in", "default/pod-1").out == bgpctl("routes", "in", "10.48.0.130").out
    assert (
        bgpctl("routes", "in", "--peer", "worker1").out == bgpctl("routes", "in", "--peer", "10.0.1.30").out
    )
    result = bgpctl("peers", "nobody")
    assert result.code == 4 and result.out == "" and "'nobody'" in result.err


def test_peer_in_detail(bgpctl: Bgpctl) -> None:
    text = bgpctl("peers", "10.0.1.33", "--detail").out
    assert text.startswith("Mesh_10_0_1_33  Active for 1m35s, since 2025-11-23T14:00:36+00:00\n")
    facts = {row[0]: row[1] for row in table(text)[1:]}
    assert facts["From"] == "Node worker3 (mesh)"
    assert facts["Local"] == "10.0.1.31 AS 64512, dials"
    assert facts["Capabilities"].startswith("ipv4 unicast, 4-octet AS")
    assert facts["Notifications"] == "received 6/2 Cease: administrative shutdown x1"
    assert "Restart" not in facts
    assert facts["Last down"] == (
        "NOTIFICATION sent 4/0 Hold Timer Expired, 1m35s ago, at 2025-11-23T14:00:36+00:00"
    )
    assert facts["Last error"].endswith("maintenance), 2s ago, at 2025-11-23T14:02:09+00:00")
    text = bgpctl("peers", "--detail").out
    assert text.count("\n\n") == 3
    assert text.count("Restart ") == 1 and "stale routes are kept until the peer is back" in text
    assert "7 prefixes wait for the peer to read" in text
    assert "0 received, at most 1000, 0 accepted" in text


@pytest.mark.parametrize(
    ("code", "subcode", "words"),
    [
        (6, 2, "6/2 Cease: administrative shutdown"),
        (6, 9, "6/9 Cease: hard reset"),
        (4, 0, "4/0 Hold Timer Expired"),
        (2, 5, "2/5 OPEN Message Error"),
        (2, 7, "2/7 OPEN Message Error: unsupported capability"),
        (3, 11, "3/11 UPDATE Message Error: malformed AS_PATH"),
        (99, 1, "99/1 unknown"),
    ],
)
def test_notifications_in_words(code: int, subcode: int, words: str) -> None:
    assert peers.notification_words(code, subcode) == words


def test_routes(bgpctl: Bgpctl) -> None:
    result = bgpctl("routes", "in")
    assert result.code == 0
    rows = table(result.out)
    assert rows[0][:3] == ["PREFIX", "NEXT-HOP", "PEER"]
    assert rows[1][:4] == [">", "10.48.0.128/26", "10.0.1.20", "Mesh_10_0_1_20"]
    assert rows[2][0] == "-" and rows[2][-1] == "hidden: it is the connected subnet of ens5"
    assert rows[3][0] == ">s" and "65001,65002" in rows[3] and "65000:100,no-export" in rows[3]
    # Without a word it is the Loc-RIB; what no row has is no column.
    assert bgpctl("routes").out == (
        "   PREFIX          NEXT-HOP   PEER            KIND   DETAIL\n"
        ">  10.48.0.0/26    -          -               block  BlockAffinity worker2-10-48-0-0-26\n"
        ">  10.48.0.128/26  10.0.1.20  Mesh_10_0_1_20  bgp    -\n"
        ">  10.48.0.40/32   10.0.1.30  Mesh_10_0_1_30  bgp    -\n"
    )
    assert bgpctl("routes", "fib").out == (
        "   PREFIX          TYPE       ROUTE\n"
        "✓  10.48.0.0/26    blackhole  -\n"
        "✓  10.48.0.128/26  unicast    via 10.0.1.20 dev ens5\n"
        "✗  10.48.2.0/29    unicast    not in the kernel: in the way is proto static\n"
    )


def test_routes_of_a_prefix_an_address_and_a_peer(bgpctl: Bgpctl) -> None:
    def prefixes(*argv: str) -> list[str]:
        return [row[1] for row in table(bgpctl("routes", *argv).out)[1:]]

    assert prefixes("10.48.0.128/26") == ["10.48.0.128/26"]
    assert prefixes("10.48.0.40") == ["10.48.0.40/32", "10.48.0.0/26"]
    assert prefixes("rib", "10.48.0.0/24", "--longer") == ["10.48.0.0/26", "10.48.0.128/26", "10.48.0.40/32"]
    assert prefixes("in", "--peer", "10.0.1.30") == ["192.0.2.0/24", "fd00:48::/122"]


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (("routes", "in", "9.9.9.0/24"), 4, "table in has no route for 9.9.9.0/24"),
        (("routes", "--peer", "nobody"), 4, "'nobody'"),
        (("routes", "10.48.0.0/99"), 2, "'10.48.0.0/99' is not a prefix"),
        (
            ("routes", "all"),
            2,
            "'all' is not a prefix, an address or a name, nor one of the tables in, out, rib, fib",
        ),
        (("routes", "in", "10.0.0.0/8", "x"), 2, "one word too many"),
        (("routes", "in", "--longer"), 2, "--longer wants a prefix"),
        (("routes", "10.48.0.1", "--longer"), 2, "--longer wants a prefix"),
        (("why", "ten"), 2, "'ten' is not a prefix"),
        (("why", "203.0.113.1"), 4, "nothing is known of 203.0.113.1"),
        (("health", "fine"), 2, "invalid choice"),
        (("peer", "delete", "x"), 2, "invalid choice"),
        (("peer", "soft-in", "10.0.1.30", "-m", "hello"), 2, "only a shutdown and a reset"),
        (("peer", "reset", "nobody"), 4, "'nobody'"),
        (("peer", "shutdown", "10.0.1.30", "-m", "x" * 256), 2, "longer than 255 octets"),
        (("status", "--watch", "soon"), 2, "'soon' is not a number of seconds"),
        (("status", "-o", "yaml"), 2, "invalid choice"),
        ((), 2, "COMMAND is one of status, peers, routes"),
        (("peer",), 2, "ACTION is one of shutdown, enable, reset, soft-in, soft-out"),
    ],
)
def test_what_cannot_be_answered(bgpctl: Bgpctl, argv: tuple[str, ...], code: int, words: str) -> None:
    result = bgpctl(*argv)
    assert result.code == code
    assert words in result.err and "Traceback" not in result.err


def test_blocks(bgpctl: Bgpctl) -> None:
    rows = table(bgpctl("blocks").out)
    assert rows[1] == [
        *("10.48.0.0/26", "default", "worker2", "confirmed", "10/64", "yes", "yes"),
        *("10.48.0.40 by worker1 (default/web-9)", "-"),
    ]
    assert rows[2][4:] == ["0/8", "no", "no", "-", "its affinity is pending"]


def test_diff(bgpctl: Bgpctl, views: FakeViews) -> None:
    assert (bgpctl("diff").code, bgpctl("diff").out) == (
        0,
        "no differences: peers and the kernel have what is wanted\n",
    )
    views.differences_now = [
        Difference("10.48.2.0/29", "ipv4", "kernel", "blackhole", "", "not yet written"),
        Difference("10.48.0.0/26", "ipv4", "Mesh_10_0_1_20", "", "", "waiting for the peer to read"),
    ]
    shown = bgpctl("diff")
    assert shown.code == 1
    assert table(shown.out)[1:] == [
        ["10.48.2.0/29", "kernel", "blackhole", "nothing", "not yet written"],
        ["10.48.0.0/26", "Mesh_10_0_1_20", "gone", "as before", "waiting for the peer to read"],
    ]
    assert json.loads(bgpctl("diff", "-o", "json").out)["differences"][0]["prefix"] == "10.48.2.0/29"


def test_config_show(bgpctl: Bgpctl, views: FakeViews) -> None:
    shown = bgpctl("config", "show")
    assert shown.code == 0
    head, *rows = shown.out.splitlines()
    assert head == "In force, read from /etc/bgpd/bgpd.yaml."
    assert table("\n".join(rows))[2:] == [
        ["bgp.listen", '["0.0.0.0", "::"]', "-"],
        ["bgp.defaults.hold_time", "90", "30, after a reload"],
        ["metrics.listen", "null", "127.0.0.1:9179, after a restart"],
    ]
    changed = json.loads(bgpctl("config", "show", "--changed", "-o", "json").out)["keys"]
    assert [row["key"] for row in changed] == ["bgp.defaults.hold_time", "metrics.listen"]
    views.configuration_now["error"] = "bgpd.yaml:3: nodde: unknown key"
    broken = bgpctl("config", "show")
    assert broken.code == 1 and "cannot be taken now: bgpd.yaml:3: nodde: unknown key" in broken.out
    assert bgpctl("config").code == 2


def test_history(bgpctl: Bgpctl) -> None:
    first, second = bgpctl("history", "--since", "1h", "10.48.0.0/26").out.splitlines()
    assert first.split()[1:] == ["peer_up", "peer=a", "families=ipv4"]
    assert second.split()[1:] == ["route_gone", "prefix=10.48.0.0/26"]
    lines = bgpctl("history", "-o", "jsonl").out.splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["peer_up", "route_gone"]
    assert len(json.loads(bgpctl("history", "-o", "json").out)["entries"]) == 2
    assert bgpctl("history", "nobody").code == 2
    for wrong in (("--since", "soon"), ("--since", "25:00"), ("-n", "0")):
        found = bgpctl("history", *wrong)
        assert found.code == 2 and "expected" in found.err


def test_why_at_a_time(bgpctl: Bgpctl, views: FakeViews) -> None:
    async def history(*_: object) -> list[str]:
        entries = [
            {"time": 10.0, "event": "route", "prefix": "10.48.0.0/16", "to": "via 10.0.1.1 dev ens5"},
            {"time": 20.0, "event": "route", "prefix": "10.48.0.0/26", "to": "via 10.0.1.30 dev ens5"},
            {"time": 30.0, "event": "route_gone", "prefix": "10.48.0.0/26"},
            {"time": 40.0, "event": "routes", "family": "ipv4", "changed": 500, "gone": 0},
        ]
        return [json.dumps(entry) for entry in entries]

    views.history = history  # type: ignore[method-assign]
    found = bgpctl("why", "10.48.0.1", "--at", "1970-01-01T00:01:00+00:00").out.splitlines()
    assert [line.split("  since")[0].strip() for line in found[1:]] == [
        "10.48.0.0/26: no route of bgpd's",
        "10.48.0.0/16 via 10.0.1.1 dev ens5",
        found[3].strip(),
    ]
    assert found[3].strip().startswith("Many routes changed together")
    assert bgpctl("why", "10.48.0.1", "--at", "1970-01-01T00:01:00+00:00", "-o", "json").code == 0


@pytest.mark.parametrize(
    ("text", "ago"), [("30s", 30), ("15m", 900), ("2h", 7200), ("1d", 86400), ("99999d", None)]
)
def test_times_are_ages(text: str, ago: int | None) -> None:
    expected = 0.0 if ago is None else time.time() - ago
    assert abs(moment(text) - expected) < 5


def test_times_of_the_clock() -> None:
    assert moment("2026-11-23T14:02:11+00:00") == 1795442531.0
    assert moment("14:02:11") - moment("14:02") == 11.0


def test_why(bgpctl: Bgpctl) -> None:
    assert bgpctl("why", "10.48.0.128/26").out == (
        "10.48.0.128/26: learned from Mesh_10_0_1_20\n"
        "  ✓  heard     Mesh_10_0_1_20: next hop 10.0.1.20, AS path (empty)\n"
        "  ✓  decision  best: Mesh_10_0_1_20, the only path\n"
        "  ✓  next hop  10.0.1.20: via 10.0.1.20 dev ens5\n"
        "  ✓  kernel    10.48.0.128/26 via 10.0.1.20 dev ens5 proto bird: installed\n"
        "  ✗  export    not advertised to Mesh_10_0_1_30: learned from an internal peer\n"
    )


def test_why_says_a_stage_once() -> None:
    steps = [
        {"stage": "decision", "text": "two share", "ok": True},
        {"stage": "decision", "text": "best: a", "ok": True},
        {"stage": "kernel", "text": "installed", "ok": True},
    ]
    found = {"explanations": [{"prefix": "10.0.0.0/8", "verdict": "v", "steps": steps}] * 2}
    text = list(lines(screens.why(found, Look(NOW)), terminal=False))
    assert text[:4] == [
        "10.0.0.0/8: v",
        "  ✓  decision  two share",
        "  ✓            best: a",
        "  ✓  kernel    installed",
    ]
    assert text[4] == "" and len(text) == 9


def test_health(bgpctl: Bgpctl, views: FakeViews) -> None:
    assert bgpctl("health") == (0, "✓ config\n✓ datastore\n✓ kernel\n✓ speaker\nready\n", "")
    assert bgpctl("health", "live").out.endswith("live\n")
    views.ready_now = [Check("datastore", False, "gone")]
    assert bgpctl("health", "ready") == (1, "✗ datastore: gone\nnot ready\n", "")


def test_reload(bgpctl: Bgpctl, views: FakeViews) -> None:
    assert bgpctl("reload") == (0, "changed: bgp\n", "")
    views.refuse_reload = (Problem("bgpd.yaml", "bgp.port", "expected a whole number"),)
    result = bgpctl("reload")
    assert result.code == 1 and result.out == ""
    assert result.err == (
        "bgpctl: the configuration was not taken\n  bgpd.yaml: bgp.port: expected a whole number\n"
    )


def test_peer_actions(bgpctl: Bgpctl, views: FakeViews) -> None:
    for action in ("shutdown", "enable", "reset", "soft-in", "soft-out"):
        assert bgpctl("peer", action, "10.0.1.30") == (0, f"Mesh_10_0_1_30: {action}\n", "")
    assert bgpctl("peer", "shutdown", "10.0.1.30", "-m", "rack move").code == 0
    assert views.asked[-1] == ("shutdown", "Mesh_10_0_1_30", "rack move")
    assert len(views.asked) == 6


def test_drain(bgpctl: Bgpctl, views: FakeViews, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("bgpd.cli.ctl_commands.DRAIN_STEP_SECONDS", 0.0)
    monkeypatch.setattr("bgpd.cli.ctl_commands.time.sleep", slept.append)
    assert bgpctl("drain") == (0, "drained\n", "")
    assert slept == [], "it is as far as it will be"
    assert bgpctl("status").out.splitlines()[2] == "Drained: services are withdrawn"
    assert bgpctl("drain", "--withdraw", "--until-restart", "--wait", "0.01s").code == 0
    assert slept, "what follows may stop the node"
    assert bgpctl("undrain") == (0, "back\n", "")
    assert "Drained" not in bgpctl("status").out
    assert views.asked == [("drain", False, 0.0, True), ("drain", True, 0.01, False), ("undrain",)]
    for wrong in ("", "-1", "5h", "nan", "3601s"):
        assert bgpctl("drain", f"--wait={wrong}").code == 2


def test_version_and_metrics(bgpctl: Bgpctl) -> None:
    assert bgpctl("version").out.splitlines()[1] == "bgpd   0.1.0 on worker2"
    assert bgpctl("--version").out.startswith("bgpctl ")
    result = bgpctl("metrics")
    assert result.code == 0 and "bgpd_ready 1.0\n" in result.out
    assert "bgpd_ready 1.0\n" in bgpctl("metrics", "-o", "table").out


# JSON.


@pytest.mark.parametrize(
    ("argv", "key"),
    [
        (("status",), "node"),
        (("peers",), "peers"),
        (("routes", "in"), "routes"),
        (("routes", "in", "9.9.9.0/24"), "routes"),
        (("blocks",), "blocks"),
        (("why", "10.48.0.128/26"), "explanations"),
        (("health",), "checks"),
        (("reload",), "message"),
        (("peer", "soft-in", "10.0.1.30"), "message"),
        (("version",), "bgpd"),
    ],
)
def test_json_everywhere(bgpctl: Bgpctl, argv: tuple[str, ...], key: str) -> None:
    after, before = bgpctl(*argv, "-o", "json"), bgpctl("-o", "json", *argv)
    assert after.out == before.out and after.code == before.code
    found = json.loads(after.out)
    assert found["schema_version"] == 1 and key in found
    if "9.9.9.0/24" in argv:
        assert found["routes"] == [] and after.code == 4


def test_metrics_as_json_are_those_of_the_text(bgpctl: Bgpctl, views: FakeViews) -> None:
    views.peers_now = [replace(views.peers_now[0], id=PeerId('a "b" \\ c'))]
    families = {
        family["name"]: family for family in json.loads(bgpctl("metrics", "-o", "json").out)["families"]
    }
    assert families["bgpd_ready"] == {
        "name": "bgpd_ready",
        "type": "gauge",
        "help": "Whether the daemon is ready: its readiness probe passes.",
        "samples": [{"name": "bgpd_ready", "labels": {}, "value": 1.0}],
    }
    (up,) = families["bgpd_peer_up"]["samples"]
    assert up["labels"]["peer_name"] == 'a "b" \\ c' and up["value"] == 1.0
    text = bgpctl("metrics").out.splitlines()
    samples = sum(len(family["samples"]) for family in families.values())
    assert samples == sum(not line.startswith("#") for line in text)


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (("peer", "reset", "nobody"), 4, "'nobody'"),
        (("routes", "10.48.0.0/99"), 2, "'10.48.0.0/99' is not a prefix"),
        (("why", "ten"), 2, "'ten' is not a prefix"),
        (("plan", "-f", "/nowhere"), 1, "/nowhere: No such file or directory"),
        (("--socket", "/nowhere", "status"), 3, "bgpd does not run here"),
        (("--socket", "/nowhere", "metrics"), 3, "bgpd does not run here"),
    ],
)
def test_errors_as_json(bgpctl: Bgpctl, argv: tuple[str, ...], code: int, words: str) -> None:
    result = bgpctl(*argv, "-o", "json")
    found = json.loads(result.out)
    assert found.keys() == {"schema_version", "error", "problems", "exit_code"}
    assert words in found["error"] and found["exit_code"] == result.code == code
    assert f"bgpctl: {found['error']}" in result.err  # for who does not read JSON


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("-o", "json", "health", "fine"), "invalid choice: 'fine'"),
        (("health", "fine", "--output=json"), "invalid choice: 'fine'"),
        (("-ojson", "peer"), "ACTION is one of shutdown"),
        (("routes", "in", "a", "b", "-o", "json"), "'b' is one word too many"),
        (("-o", "json", "nonsense"), "invalid choice: 'nonsense'"),
    ],
)
def test_wrong_usage_as_json(bgpctl: Bgpctl, argv: tuple[str, ...], words: str) -> None:
    result = bgpctl(*argv)
    found = json.loads(result.out)
    assert words in found["error"] and found["exit_code"] == result.code == 2
    assert found["error"] in result.err


@pytest.mark.parametrize(
    "argv",
    [
        ("peers", ""),
        ("routes", ""),
        ("routes", "in", " "),
        ("routes", "--peer", ""),
        ("why", ""),
        ("history", ""),
        ("history", "--peer", ""),
        ("peer", "reset", ""),
    ],
)
def test_a_variable_that_is_not_set_names_nothing(
    bgpctl: Bgpctl, views: FakeViews, argv: tuple[str, ...]
) -> None:
    result = bgpctl(*argv)
    assert (result.code, result.out) == (2, "") and "expected a name, an address or a prefix" in result.err
    assert not views.asked


def test_times_to_wait() -> None:
    assert [ctl_words._wait(text) for text in ("30s", "30", "5m", "60m", "0", "1.5s")] == [
        30,
        30,
        300,
        3600,
        0,
        1.5,
    ]
    for bad in ("61m", "-1", "nan", "inf", "5h", "sm", "", "ms", "5ms"):
        with pytest.raises(argparse.ArgumentTypeError):
            ctl_words._wait(bad)
    with pytest.raises(argparse.ArgumentTypeError, match="not ''"):
        ctl_words.moment("")


def test_every_output_of_a_command_may_stand_in_front_of_it_and_no_other(bgpctl: Bgpctl) -> None:
    assert bgpctl("-o", "jsonl", "history").out == bgpctl("history", "-o", "jsonl").out != ""
    wrong = bgpctl("-o", "jsonl", "status")
    assert (wrong.code, wrong.out) == (2, "") and "'jsonl' is none of table, json" in wrong.err


def test_an_empty_table_says_so(bgpctl: Bgpctl, views: FakeViews, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(*asked: object) -> list[str]:
        return []

    monkeypatch.setattr(views, "history", nothing)
    assert bgpctl("history").out == "no entries: nothing of this kind is in the history\n"
    assert json.loads(bgpctl("history", "-o", "json").out)["entries"] == []
    views.peers_now, views.blocks_now = [], []
    views.routes_now = dict.fromkeys(views.routes_now, ())
    assert bgpctl("peers").out == "no peers: no resource asks for a session of this node\n"
    assert bgpctl("peers", "--detail").out == bgpctl("peers").out
    assert bgpctl("blocks").out == "no blocks: none is ours, lent or borrowed of\n"
    for name in ctl_commands.TABLES:
        assert bgpctl("routes", name).out.startswith("no routes: ")


# Without a daemon.


@pytest.mark.parametrize("argv", [("status",), ("routes",), ("reload",), ("version",), ("metrics",)])
def test_no_daemon(bgpctl: Bgpctl, tmp_path: Path, argv: tuple[str, ...]) -> None:
    result = bgpctl("--socket", str(tmp_path / "none"), *argv)
    assert result.code == 3
    assert "bgpd does not run here" in result.err and str(tmp_path) in result.err
    assert result.out == ("bgpctl 0.1.0\n" if argv == ("version",) else "")


def test_no_permission(bgpctl: Bgpctl, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("bgpd.cli.client.socket.socket.connect", denied)
    result = bgpctl("status")
    assert result.code == 5 and "no permission" in result.err


def test_a_daemon_that_does_not_answer() -> None:
    with tempfile.TemporaryDirectory(prefix="bgpd") as directory, socket.socket(socket.AF_UNIX) as stuck:
        stuck.bind(f"{directory}/s")
        stuck.listen()
        with pytest.raises(Unreachable, match=r"does not answer within 0\.05 s"):
            Client(f"{directory}/s", timeout=0.05).get("/v1/status")


@pytest.mark.parametrize(
    ("answer", "lines"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\na\nb\n", [b"a\n", b"b\n"]),
        (b"HTTP/1.0 200 OK\r\n\r\na\nb", [b"a\n", b"b"]),
        (
            b"HTTP/1.1 200 OK\r\nTRANSFER-ENCODING: Chunked\r\n\r\n3;x=y\r\na\nb\r\nA\r\nbbbb\nccccc\r\n0\r\n\r\n",
            [b"a\n", b"bbbbb\n", b"ccccc"],
        ),
        (b"", "in the middle"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "in the middle"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\na\n", "in the middle"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na", "in the middle"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\na\n\r\n", "in the middle"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", "it speaks no HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: four\r\n\r\n", "it speaks no HTTP"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "it speaks no HTTP"),
        (b"HTTP/1.1 OK\r\n\r\n", "it speaks no HTTP"),
        (
            b"HTTP/1.1 200 OK\r\n" + b"".join(b"X%d: y\r\n" % i for i in range(200)),
            "it has no end of headers",
        ),
        (b"x" * 100_000, "in the middle"),
    ],
)
def test_answers_as_they_come(answer: bytes, lines: list[bytes] | str) -> None:
    def serve(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(1 << 16)
            with contextlib.suppress(OSError):
                connection.sendall(answer)

    with tempfile.TemporaryDirectory(prefix="bgpd") as directory, socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{directory}/s")
        listening.listen()
        server = threading.Thread(target=serve, args=(listening,))
        server.start()
        asked = Client(f"{directory}/s").lines("/v1/routes")
        if isinstance(lines, str):
            with pytest.raises(Unreachable, match=rf"broke off its answer \({lines}\)"):
                list(asked)
        else:
            assert list(asked) == lines
        server.join()


@pytest.mark.parametrize("output", ["table", "json"])
def test_an_answer_cut_short_is_reported(
    bgpctl: Bgpctl, views: FakeViews, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    def routes(
        table: RouteTable, prefix: str | None, peer: str | None, longer: bool = False
    ) -> Iterator[RouteView]:
        for i in range(20_000):
            yield RouteView(f"10.0.{i >> 8}.{i & 255}/32", "ipv4", kind="bgp")
        raise RuntimeError("a bug")

    monkeypatch.setattr(views, "routes", routes)
    result = bgpctl("routes", "-o", output)
    assert result.code == 3 and "broke off" in result.err


def test_a_long_table_is_streamed(bgpctl: Bgpctl, views: FakeViews) -> None:
    row = views.routes_now["rib"][1]
    count = SAMPLE + 500
    views.routes_now["rib"] = tuple(replace(row, prefix=f"10.1.{i >> 8}.{i & 255}/32") for i in range(count))
    text = bgpctl("routes").out.splitlines()
    assert len(text) == count + 1
    assert text[0].split()[:2] == ["PREFIX", "NEXT-HOP"]
    assert len({line.index("10.0.1.20") for line in text[1:]}) == 1


# A process of its own.


def environment(served: tuple[FakeViews, Path], **more: str) -> dict[str, str]:
    root = str(Path(ctl.__file__).parents[2])
    return {**os.environ, "PYTHONPATH": root, "BGPCTL_SOCKET": str(served[1]), **more}


def test_starts_without_the_daemons_libraries() -> None:
    code = (
        "import sys; from bgpd.cli.ctl import main; main(['--socket', '/nowhere', 'health']);"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    root = str(Path(ctl.__file__).parents[2])
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert run.stdout == "[]\n"


def test_a_broken_pipe_is_no_traceback(views: FakeViews, served: tuple[FakeViews, Path]) -> None:
    row = views.routes_now["rib"][1]
    views.routes_now["rib"] = tuple(replace(row, prefix=f"10.1.{i >> 8}.{i & 255}/32") for i in range(20_000))
    run = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m bgpd.cli.ctl routes | head -n 2; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        env=environment(served),
        check=False,
    )
    assert run.stderr == "" and len(run.stdout.splitlines()) == 2
    assert run.returncode == 141


INTERRUPTIBLE = ("env", "--default-signal=INT")
"""Who runs the tests in the background has SIGINT ignored, and every child inherits that."""


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "argv", [("status",), ("peers",), ("routes", "in", "-o", "json"), ("metrics",), ("--help",)]
)
def test_output_that_cannot_be_written(
    views: FakeViews, served: tuple[FakeViews, Path], argv: tuple[str, ...], unbuffered: str
) -> None:
    """A full disk under the output: one line says so, whether it shows at the first write or at the last."""
    command = [sys.executable, "-m", "bgpd.cli.ctl", *argv]
    known = environment(served, PYTHONUNBUFFERED=unbuffered)
    check_unwritable_output("bgpctl", command, known)


def test_complaints_that_nobody_hears(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bgpd.cli.ctl", "--socket", str(tmp_path / "none"), "status"]
    root = str(Path(ctl.__file__).parents[2])
    with open("/dev/full", "w") as full:
        assert subprocess.run(command, stderr=full, cwd=root, check=False).returncode == 3
    for closed in ("2>&-", ">&-"):
        line = f'"$@" {closed}'
        run = subprocess.run(["sh", "-c", line, "sh", *command], capture_output=True, cwd=root, check=False)
        assert run.returncode == 3 and b"Traceback" not in run.stderr


def on_a_terminal(
    argv: list[str], env: dict[str, str], until: bytes = b"", columns: int = 120
) -> tuple[int, str]:
    """Runs bgpctl on a terminal of its own; with ``until``, interrupts it once that was shown."""
    import fcntl
    import struct
    import termios

    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 20, columns, 0, 0))
    process = subprocess.Popen(
        [*INTERRUPTIBLE, sys.executable, "-m", "bgpd.cli.ctl", *argv],
        stdin=side,
        stdout=side,
        stderr=side,
        env=env,
    )
    os.close(side)
    shown, deadline, asked = b"", time.monotonic() + 20, False
    while time.monotonic() < deadline:
        if select.select([main], [], [], 0.1)[0]:
            try:
                shown += os.read(main, 65536)
            except OSError:
                break
        if until and not asked and until in shown:
            process.send_signal(signal.SIGINT)
            asked = True
    os.close(main)
    return process.wait(10), shown.decode()


def test_a_terminal_has_colours_and_nothing_of_a_key_is_cut(
    views: FakeViews, served: tuple[FakeViews, Path]
) -> None:
    for columns in (60, 200):
        code, text = on_a_terminal(
            ["peers"], environment(served, TERM="xterm-256color", NO_COLOR=""), columns=columns
        )
        assert code == 0
        assert "\x1b[32mEstablished" in text and "Global_fd00_1__1_port_1179" in text
        assert "[fd00:1::1]:1179" in text
        assert "\x1b[31m (Cease" not in text


def test_no_color_and_dumb_terminals(views: FakeViews, served: tuple[FakeViews, Path]) -> None:
    _, text = on_a_terminal(["status"], environment(served, TERM="xterm-256color", NO_COLOR="1"))
    assert "ready" in text and "\x1b[3" not in text
    _, text = on_a_terminal(["status"], environment(served, TERM="dumb"))
    assert "ready" in text and "\x1b" not in text


def test_marks_of_a_terminal_that_has_none(views: FakeViews, served: tuple[FakeViews, Path]) -> None:
    _, text = on_a_terminal(["health"], environment(served, TERM="dumb", PYTHONIOENCODING="latin-1"))
    assert text.splitlines()[0] == "+ config"
    _, text = on_a_terminal(["health"], environment(served, TERM="linux", NO_COLOR="1"))
    assert "+ config" in re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_watch_on_a_terminal(views: FakeViews, served: tuple[FakeViews, Path]) -> None:
    code, text = on_a_terminal(
        ["status", "--watch=0.1"],
        environment(served, TERM="xterm-256color"),
        until=b"Every 0.1s: bgpctl status",
    )
    assert code == 0 and "Traceback" not in text
    assert text.startswith("\x1b[?1049h") and text.endswith("\x1b[?1049l")


def test_watch_into_a_pipe_outlives_the_daemon(served: tuple[FakeViews, Path], tmp_path: Path) -> None:
    def watched(path: Path) -> tuple[list[str], str, int]:
        process = subprocess.Popen(
            [*INTERRUPTIBLE, sys.executable, "-m", "bgpd.cli.ctl", "status", "--watch", "0.1", "-o", "json"],
            env=environment(served) | {"BGPCTL_SOCKET": str(path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None and process.stderr is not None
        with process:
            if path.exists():
                got = [process.stdout.readline() for _ in range(3)], ""
            else:
                got = [], "".join(process.stderr.readline() for _ in range(3))
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=10)
        return *got, process.returncode

    documents, _, code = watched(served[1])
    assert [json.loads(line)["node"] for line in documents] == ["worker2"] * 3 and code == 0
    _, complaints, code = watched(tmp_path / "none")
    assert complaints.count("bgpd does not run here") == 3 and code == 0


# Words.


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0s"),
        (0.9, "0s"),
        (59, "59s"),
        (192, "3m12s"),
        (3725, "1h02m"),
        (90_000, "25h00m"),
        (273_600, "3d04h"),
    ],
)
def test_ago(seconds: float, text: str) -> None:
    assert ago(seconds) == text


def test_short_stamp_has_the_date_only_when_it_is_another() -> None:
    assert re.fullmatch(r"\d\d:\d\d:\d\d", short_stamp(NOW, NOW))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d:\d\d", short_stamp(NOW - 200_000, NOW))


def test_tables_without_rows() -> None:
    assert list(lines([Table(("A", "B"), [])], terminal=False)) == ["A  B"]
    assert list(lines([Table((), [])], terminal=False)) == []
    assert len(list(lines([Table(("A", "B"), []), Table((), [])], terminal=True))) == 1


def test_cells_cannot_drive_the_terminal() -> None:
    assert cell("a\x1b[2Jb\nc\x9bd").text == "a?[2Jb?c?d"
    assert cell(None).text == "" and cell(0).text == "0"


def test_help_has_examples_and_exit_codes(bgpctl: Bgpctl) -> None:
    text = bgpctl("--help").out
    assert "bgpctl why 10.48.0.40" in text and "3 the daemon does not answer" in text
    assert "in: what peers announce" in bgpctl("routes", "--help").out


def test_output_that_cannot_be_encoded_does_not_fail(
    bgpctl: Bgpctl, views: FakeViews, monkeypatch: pytest.MonkeyPatch
) -> None:
    views.peers_now = [replace(views.peers_now[0], last_error="Gerät entfernt")]
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert ctl.main(["peers"]) == 0
    stream.flush()
    assert b"Ger?t entfernt" in stream.buffer.getvalue()  # type: ignore[attr-defined]


# Plans.

PLANNED_PEER = {"name": "Global_10_0_1_1", "address": "10.0.1.1", "asn": 65001}
ROUTE = {"prefix": "10.48.2.0/26", "kind": "block", "communities": [], "source": "BlockAffinity x"}
RULE = {
    "cidr": "10.48.0.0/16",
    "action": "program",
    "tunnel": "tunl0",
    "when": "cross-subnet",
    "reason": "IPPool p",
}
CHANGES = {
    **NO_CHANGES,
    "changes": True,
    "settings": [{"setting": "ipv4.host_routes", "before": [], "after": ["10.9.9.9/32 via 10.0.1.1"]}],
    "filters": [{"name": "out", "change": "changed", "lists": ["exportV4", "exportV6"], "peers": ["a", "b"]}],
    "sessions": {
        "added": [PLANNED_PEER],
        "removed": [{"name": "Mesh_1", "address": "1.1.1.1", "established": True, "why": "gone\x1b[2J"}],
        "reset": [
            {
                "name": "Mesh_2",
                "address": "1.1.1.2",
                "established": False,
                "fields": [
                    {"field": "filters", "before": [], "after": ["a", "b"], "resets": False},
                    {"field": "keepalive_s", "before": None, "after": 10, "resets": True},
                    {"field": "password", "before": True, "after": True, "resets": True},
                ],
            }
        ],
        "changed": [
            {
                "name": "Mesh_3",
                "address": "1.1.1.3",
                "established": True,
                "fields": [{"field": "passive", "before": True, "after": False, "resets": False}],
            }
        ],
    },
    "announce": {
        "added": [ROUTE],
        "removed": [ROUTE],
        "changed": [{"prefix": "10.48.2.0/26", "before": ROUTE, "after": {**ROUTE, "communities": ["1:2"]}}],
    },
    "blackholes": {"added": ["10.48.2.0/26"], "removed": ["10.48.3.0/26"]},
    "kernel_rules": {
        "added": [RULE],
        "removed": [RULE],
        "changed": [
            {"cidr": "10.48.0.0/16", "before": RULE, "after": {**RULE, "action": "reject", "tunnel": None}}
        ],
    },
    "problems": {
        "added": [{"source": "BGPPeer x", "path": "spec.peerIP", "message": "bad"}],
        "gone": [{"source": "y", "path": "", "message": "worse"}],
    },
}


@pytest.fixture
def resources(tmp_path: Path) -> Path:
    """A directory of resources, and what is none."""
    (tmp_path / "a.yaml").write_bytes(b"kind: \xc3\x9c\r\n")
    (tmp_path / "b.json").write_bytes(b"\xff")
    (tmp_path / "c.yml").symlink_to(tmp_path / "a.yaml")
    (tmp_path / "d.yaml").mkdir()
    (tmp_path / ".e.yaml").write_text("hidden")
    (tmp_path / "f.txt").write_text("text")
    return tmp_path


def test_a_plan_sends_the_files(bgpctl: Bgpctl, views: FakeViews, resources: Path) -> None:
    assert bgpctl("plan", "-f", str(resources)) == (0, "Nothing would change on worker2.\n", "")
    kind = b"kind: \xc3\x9c\r\n"
    assert views.planned == {"a.yaml": kind, "b.json": b"\xff", "c.yml": kind}


def test_a_plan_with_changes(bgpctl: Bgpctl, views: FakeViews, resources: Path) -> None:
    views.plan_now = CHANGES
    result = bgpctl("plan", "-f", str(resources))
    assert (result.code, result.err) == (2, "")
    assert (
        result.out
        == """\
On worker2 would change:

The node
  ~ ipv4.host_routes [] -> [10.9.9.9/32 via 10.0.1.1]

Sessions
  ! Mesh_2 (not established) is reset: keepalive_s none -> 10; another password; and without that: \
filters [] -> [a, b]
  - Mesh_1 ends: gone?[2J
  + Global_10_0_1_1 10.0.1.1 AS 65001
  ~ Mesh_3 stays: passive true -> false

Filters
  ~ out exportV4 exportV6, of a, b

Announced routes
  + 10.48.2.0/26 block (BlockAffinity x)
  - 10.48.2.0/26 block (BlockAffinity x)
  ~ 10.48.2.0/26 communities [] -> [1:2]

Blackholes
  + 10.48.2.0/26
  - 10.48.3.0/26

Kernel rules
  + 10.48.0.0/16 program over tunl0 across subnets (IPPool p)
  - 10.48.0.0/16 program over tunl0 across subnets (IPPool p)
  ~ 10.48.0.0/16 program over tunl0 across subnets (IPPool p) -> reject across subnets (IPPool p)

Problems
  + BGPPeer x: spec.peerIP: bad
  - y: worse
"""
    )
    result = bgpctl("plan", "-f", str(resources), "-o", "json")
    assert result.code == 2 and json.loads(result.out) == CHANGES


def test_a_plan_fails_with_one(bgpctl: Bgpctl, views: FakeViews, resources: Path, tmp_path: Path) -> None:
    def failing(words: str, *argv: str) -> None:
        result = bgpctl("plan", *argv)
        assert (result.code, result.out) == (1, "") and words in result.err, result

    failing("required: -f")
    failing("unrecognized arguments: x", "-f", str(resources), "x")
    failing("/nowhere: No such file", "-f", "/nowhere")
    failing("a.yaml: Not a directory", "-f", str(resources / "a.yaml"))
    views.refuse_plan = "nothing would change: there is no Node 'worker2'"
    failing(views.refuse_plan, "-f", str(resources))
    failing("bgpd does not run here", "-f", str(tmp_path), "--socket", str(tmp_path / "none"))
    (resources / "g.yaml").symlink_to("/proc/self/mem")
    failing("g.yaml: Input/output error", "-f", str(resources))
