"""Log lines: what they look like on a terminal, in JSON and under the journal."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from bgpd.events import Event, Seconds, event, failure
from bgpd.observe.log import LONGEST, Formatter, configure, to_journal


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, as it was afterwards."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in ("asyncio", "aiohttp", "pyroute2")}
    yield root
    root.handlers[:], root.level = before
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def record(message: object, level: int = logging.INFO) -> logging.LogRecord:
    made = logging.makeLogRecord(
        {"name": "bgpd.bgp.speaker", "levelno": level, "msg": message, "created": 1.5}
    )
    made.levelname = logging.getLevelName(level)
    return made


def failed() -> logging.LogRecord:
    made = record("it broke", logging.ERROR)
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        made.exc_info = sys.exc_info()
    return made


def test_text_has_time_level_logger_and_the_event() -> None:
    up = Event("peer_up", {"peer": "Mesh_10_0_1_30", "asn": 64512})
    line = Formatter("text", journal=False).format(record(up))
    time, rest = line.split(" ", 1)
    assert time.startswith(("1970-01-01T", "1969-12-31T"))
    assert "." in time and time.count(":") == 3
    assert rest == "INFO bgpd.bgp.speaker: event=peer_up peer=Mesh_10_0_1_30 asn=64512"


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("peer", "Mesh_10_0_1_30", "Mesh_10_0_1_30"),
        ("cause", "closed", "'closed'"),  # a phrase, though of one word
        ("cause", 'it\'s "closed"', "'it\\'s \"closed\"'"),
        ("peer", "two words", "'two words'"),
        ("peer", "a=b", "'a=b'"),
        ("peer", "line\nbreak", "'line\\nbreak'"),
        ("peer", "\x1b[31mred", "'\\x1b[31mred'"),
        ("peer", "Zürich", "Zürich"),
        ("families", ["ipv4", "ipv6"], "ipv4,ipv6"),
        ("kept", [], "none"),
        ("asn", 64512, "64512"),
        ("hold_time", 90.0, "90"),
        ("after", Seconds(0.5, 2), "0.50s"),
    ],
)
def test_a_field_misleads_nobody(key: str, value: object, text: str) -> None:
    line = Formatter("text", journal=True).format(record(Event("x", {key: value})))
    assert line == f"<6>bgpd.bgp.speaker: event=x {key}={text}"


def test_json_has_a_key_a_field_with_its_own_type() -> None:
    fields = {
        "peer": "a",
        "asn": 1,
        "families": ["ipv4"],
        "after": Seconds(0.256, 2),
        "up": True,
        "cause": "it's",
    }
    found = json.loads(Formatter("json", journal=False).format(record(Event("x", fields))))
    assert found.pop("time") and found.pop("level") == "info" and found.pop("logger")
    assert found == {"event": "x", **fields, "after": 0.26}


def test_an_event_is_made_only_where_it_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("test")
    with caplog.at_level(logging.INFO, "test"):
        event(log, "quiet", logging.DEBUG, peer="a")
        event(log, "loud", logging.WARNING, peer="a", name="b")
        try:
            raise ValueError("first")
        except ValueError:
            failure(log, "broken", path="/x")
    assert caplog.messages == ["event=loud peer=a name=b", "event=broken path=/x"]
    assert [made.levelname for made in caplog.records] == ["WARNING", "ERROR"]
    assert caplog.records[1].exc_info is not None


def test_what_a_peer_wrote_breaks_no_line_and_drives_no_terminal() -> None:
    line = Formatter("text", journal=False).format(record("shut down: bye\n<0>forged \x1b[2J"))
    assert "\n" not in line and "\x1b" not in line
    assert line.endswith("shut down: bye\\n<0>forged \\x1b[2J")


def test_json_is_one_object_a_line_with_everything_in_it() -> None:
    line = Formatter("json", journal=False).format(record("peer\nup"))
    found = json.loads(line)
    assert "\n" not in line
    assert found["level"] == "info" and found["logger"] == "bgpd.bgp.speaker" and found["msg"] == "peer\nup"
    assert "time" in found
    assert "ValueError: first" in json.loads(Formatter("json", journal=False).format(failed()))["traceback"]


@pytest.mark.parametrize(
    ("level", "priority"),
    [("CRITICAL", 2), ("ERROR", 3), ("WARNING", 4), ("INFO", 6), ("DEBUG", 7)],
)
def test_the_journal_gets_a_priority(level: str, priority: int) -> None:
    made = record("x", logging.getLevelNamesMapping()[level])
    assert Formatter("text", journal=True).format(made) == f"<{priority}>bgpd.bgp.speaker: x"
    assert Formatter("json", journal=True).format(made).startswith(f"<{priority}>{{")


def test_every_line_of_a_traceback_has_the_priority() -> None:
    lines = Formatter("text", journal=True).format(failed()).split("\n")
    assert lines[0] == "<3>bgpd.bgp.speaker: it broke"
    assert lines[-2:] == ["<3>ValueError: first", "<3>second"]
    assert all(line.startswith("<3>") for line in lines)


def test_journal_stream_counts_only_for_the_stream_that_it_names() -> None:
    reader, writer = os.pipe()
    try:
        found = os.fstat(writer)
        with os.fdopen(writer, "w", closefd=False) as stream:
            assert to_journal(stream, {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"})
            assert not to_journal(stream, {"JOURNAL_STREAM": "1:1"})
            assert not to_journal(stream, {})
    finally:
        os.close(reader)
        os.close(writer)
    assert not to_journal(io.StringIO(), {"JOURNAL_STREAM": "1:1"})


def test_configure_again_takes_the_place_of_before(root: logging.Logger) -> None:
    first, second = io.StringIO(), io.StringIO()
    configure("info", "auto", first)
    configure("debug", "json", second)
    logging.getLogger("bgpd.test").debug("hello")
    assert first.getvalue() == ""
    assert json.loads(second.getvalue())["msg"] == "hello"
    configure("error", "auto", first)
    logging.getLogger("bgpd.test").warning("quiet")
    assert first.getvalue() == "" and len(root.handlers) == 1


def test_libraries_do_not_chat(root: logging.Logger) -> None:
    stream = io.StringIO()
    configure("debug", "text", stream)
    logging.getLogger("asyncio").debug("Using selector")
    logging.getLogger("aiohttp.server").warning("odd")
    assert "selector" not in stream.getvalue() and "odd" in stream.getvalue()


@pytest.mark.parametrize("style", ["text", "json"])
@pytest.mark.parametrize("journal", [True, False])
@pytest.mark.parametrize("letter", ["x", "\u00e9", "\n", "\x1b", "\ud800", "\U0001f600"])
def test_no_line_is_longer_than_four_kibibytes(style: Any, journal: bool, letter: str) -> None:
    made = record(Event("x", {f"field{n}": letter * 9000 for n in range(12)}), logging.ERROR)
    made.exc_info = failed().exc_info
    text = Formatter(style, journal=journal).format(made)
    assert all(len(line.encode(errors="backslashreplace")) <= LONGEST for line in text.split("\n"))
    if style == "json":
        found = json.loads(text.removeprefix("<3>"))
        assert (
            found["level"] == "error" and found["logger"] == "bgpd.bgp.speaker" and "cut" in found["field11"]
        )
    else:
        assert "... (cut)" in text


def test_a_log_needs_no_descriptors() -> None:
    """The last of them are gone: lines are written all the same, a traceback too, and none of it is a complaint."""
    code = (
        "import logging, os, resource, sys\n"
        "from bgpd.observe.log import configure\n"
        "configure()\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))\n"
        "try:\n"
        "    while True: os.open('/dev/null', os.O_RDONLY)\n"
        "except OSError as error: logging.getLogger('x').exception('event=first')\n"
        "logging.getLogger('x').info('event=second')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    assert "event=first" in lines[0] and "event=second" in lines[-1]
    assert "Logging error" not in done.stderr and len(lines) < 8
