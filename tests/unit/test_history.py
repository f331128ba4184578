"""The history: what becomes an entry, what is on disk, and what a question finds."""

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bgpd.events import event
from bgpd.model.prefix import Family, parse_prefix
from bgpd.model.route import BLACKHOLE, FibKey, Forwarding
from bgpd.observe import history as module
from bgpd.observe.history import ROUTES_ONE_BY_ONE, History
from bgpd.observe.log import configure

ALWAYS = float("inf")
log = logging.getLogger("bgpd.test")


def words(forwarding: Forwarding) -> str:
    return "blackhole" if forwarding is BLACKHOLE else "via 10.0.1.30 dev ens5"


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    made = History(tmp_path, 1 << 20, words)
    root = logging.getLogger("bgpd")
    before = root.level
    root.setLevel(logging.INFO)
    root.addHandler(made)
    yield made
    root.removeHandler(made)
    root.setLevel(before)


def key(text: str, metric: int = 0) -> FibKey:
    return parse_prefix(text)[1], metric


def write(history: History) -> None:
    history._write(history._take())


def found(
    history: History, *peers: str, target: str = "", since: float = 0, until: float = ALWAYS
) -> list[Any]:
    targets = [parse_prefix(target)] if target else []
    return [json.loads(line) for line in history.find(since, until, peers, targets)]


def names(entries: list[Any]) -> list[str]:
    return [entry["event"] for entry in entries]


def test_events_are_entries_with_their_fields(history: History) -> None:
    event(log, "peer_up", peer="a", families=("ipv4", "ipv6"), hold_time=90.0)
    event(log, "peer_down", logging.WARNING, peer="a", message="it's over")
    event(log, "route_written", logging.DEBUG, prefix="10.0.0.0/8")
    log.info("no event of ours")
    for when in ("waiting", "written"):
        first, second = found(history)
        assert {k: first[k] for k in ("event", "level", "peer", "families", "hold_time")} == {
            "event": "peer_up",
            "level": "info",
            "peer": "a",
            "families": ["ipv4", "ipv6"],
            "hold_time": 90.0,
        }, when
        assert second["message"] == "it's over" and second["level"] == "warning"
        assert first["time"] <= second["time"]
        write(history)


def test_the_log_may_be_quieter(history: History, capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        configure("error")
        event(log, "peer_up", peer="a")
        assert names(found(history)) == ["peer_up"]
        assert capsys.readouterr().err == ""
    finally:
        root.handlers[:] = before
        root.setLevel(level)


def test_few_routes_are_entries_of_their_own(history: History) -> None:
    both = {key("10.48.0.0/26"): BLACKHOLE, key("10.48.0.64/26", 512): BLACKHOLE}
    history.routes(Family.IPV4, both, {})
    history.routes(Family.IPV4, {key("10.48.0.0/26"): None}, both)
    write(history)
    entries = found(history)
    assert names(entries) == ["route_gone", "route"]
    assert entries[0]["prefix"] == "10.48.0.0/26" and entries[1]["to"] == "blackhole"
    assert entries[1]["metric"] == 512


def test_many_are_one_with_counts(history: History) -> None:
    many = {key(f"10.{n >> 8}.{n & 255}.0/24"): BLACKHOLE for n in range(5000)}
    history.routes(Family.IPV4, many, {})
    history.routes(Family.IPV4, dict.fromkeys(list(many)[: ROUTES_ONE_BY_ONE + 1]), many)
    history.routes(Family.IPV6, {key("fd00::/64"): BLACKHOLE}, {})
    write(history)
    entries = found(history)
    assert names(entries) == ["route", "routes"]
    assert (entries[1]["changed"], entries[1]["gone"]) == (5000, ROUTES_ONE_BY_ONE + 1)


def test_what_is_decided_again_and_stays_as_it_was_did_not_happen(history: History) -> None:
    """At a start the router looks at the node's own addresses: no route of ours went."""
    there = {key("10.48.0.0/26"): BLACKHOLE}
    history.routes(Family.IPV4, {key("127.0.0.1/32"): None, **there}, there)
    history.routes(Family.IPV6, {key(f"fd00:{n:x}::/32"): None for n in range(ROUTES_ONE_BY_ONE + 1)}, {})
    write(history)
    assert found(history) == []


def test_questions(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(module.time, "time", lambda: now[0])
    for at, text in ((1000.0, "10.48.0.0/16"), (1010.0, "10.48.0.0/26"), (1020.0, "10.48.0.64/26")):
        now[0] = at
        history.routes(Family.IPV4, {key(text): BLACKHOLE}, {})
        write(history)
    history.routes(Family.IPV6, {key("::/0"): BLACKHOLE}, {})
    event(log, "peer_up", peer="Mesh_10_0_1_3")
    event(log, "peer_up", peer="Mesh_10_0_1_30", address="10.0.1.30")
    write(history)
    assert [each["prefix"] for each in found(history, target="10.48.0.1")] == ["10.48.0.0/16", "10.48.0.0/26"]
    assert [each["prefix"] for each in found(history, target="10.48.0.64/26")] == [
        "10.48.0.0/16",
        "10.48.0.64/26",
    ]
    assert [each["prefix"] for each in found(history, target="fd00::1")] == ["::/0"]
    assert [each["time"] for each in found(history, since=1005, until=1015)] == [1010.0]
    assert [each["peer"] for each in found(history, "Mesh_10_0_1_3")] == ["Mesh_10_0_1_3"]
    assert [each["peer"] for each in found(history, "10.0.1.30")] == ["Mesh_10_0_1_30"]
    assert len(history.find(0, ALWAYS, (), (), most=1)) == 1


def test_two_files_of_half_the_size(tmp_path: Path) -> None:
    history = History(tmp_path, 40_000, words)
    for n in range(100):
        history._add(float(n), "filler", {"text": "x" * 1000}, "info")
        write(history)
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(sizes) == {"history.jsonl", "history.1.jsonl"} and max(sizes.values()) < 22_000
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
    times = [entry["time"] for entry in found(history)]
    assert times == sorted(times) and times[-1] == 99.0 and len(times) > 15


def test_it_outlasts_a_restart_and_a_line_that_was_cut(history: History, tmp_path: Path) -> None:
    event(log, "peer_up", peer="a")
    write(history)
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"time": 5.000, "event": "cut')
    again = History(tmp_path, 1 << 20, words)
    again._add(9.0, "started", {}, "info")
    again._write(again._take())
    assert names(found(again)) == ["peer_up", "started"], "what follows a cut line is not lost with it"


@pytest.mark.parametrize(
    "text",
    ["", "nonsense\n", "{}\n", '{"time": x, "event": "a"}\n', '{"time": 1.0, "prefix": "x"}\n', "\x00\xff\n"],
)
def test_a_file_that_is_not_ours_is_passed_over(tmp_path: Path, text: str) -> None:
    (tmp_path / "history.jsonl").write_text(text)
    history = History(tmp_path, 1 << 20, words)
    assert history.find(2.0, ALWAYS, ("a",), ()) == []
    assert history.find(0.0, ALWAYS, (), [parse_prefix("10.0.0.1")]) == []


def test_a_disk_that_fails_is_said_once_and_not_for_ever(history: History, tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").mkdir()
    for _ in range(3):
        event(log, "peer_up", peer="a")
        write(history)
    (tmp_path / "history.jsonl").rmdir()
    write(history)
    assert names(found(history)) == ["peer_up", "history_not_kept", "peer_up", "peer_up"]


def test_a_directory_that_is_not_there_is_made(tmp_path: Path) -> None:
    history = History(tmp_path / "var" / "bgpd", 1 << 20, words)
    history._add(1.0, "started", {}, "info")
    write(history)
    assert names(found(history)) == ["started"]
    assert stat.S_IMODE((tmp_path / "var" / "bgpd").stat().st_mode) & 0o007 == 0


def test_without_a_disk_the_newest_are_in_memory(tmp_path: Path) -> None:
    history = History(tmp_path, 0, words)
    history._add(1.0, "started", {}, "info")
    write(history)
    assert names(found(history)) == ["started"]
    assert os.listdir(tmp_path) == []


def test_what_waits_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 3)
    history = History(tmp_path, 1 << 20, words)
    for n in range(5):
        history._add(float(n), f"e{n}", {}, "info")
    assert names(found(history)) == ["e2", "e3", "e4"]
    write(history)
    assert found(history)[-1]["event"] == "history_dropped" and found(history)[-1]["count"] == 2


def test_a_long_entry_is_cut(tmp_path: Path) -> None:
    history = History(tmp_path, 1 << 20, words)
    history._add(1.0, "peer_down", {"message": "x" * 100_000}, "info")
    (entry,) = found(history)
    assert entry["event"] == "peer_down" and len(json.dumps(entry)) < module.LONGEST
