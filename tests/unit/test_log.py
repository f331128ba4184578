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


def record(message: str, level: int = logging.INFO, **extra: object) -> logging.LogRecord:
    made = logging.makeLogRecord(
        {"name": "bgpd.bgp.speaker", "levelno": level, "msg": message, "created": 1.5}
    )
    made.levelname = logging.getLevelName(level)
    vars(made).update(extra)
    return made


def failed() -> logging.LogRecord:
    made = record("it broke", logging.ERROR)
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        made.exc_info = sys.exc_info()
    return made


def test_text_has_time_level_logger_message_and_fields() -> None:
    line = Formatter("text", journal=False).format(record("peer up", peer="Mesh_10_0_1_30", asn=64512))
    time, rest = line.split(" ", 1)
    assert time.startswith(("1970-01-01T", "1969-12-31T"))
    assert "." in time and time.count(":") == 3
    assert rest == "INFO bgpd.bgp.speaker: peer up peer=Mesh_10_0_1_30 asn=64512"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("two words", '"two words"'),
        ("", '""'),
        (None, ""),
        (True, "true"),
        (0.5, "0.5"),
        ("a=b", '"a=b"'),
        ("back\\slash", '"back\\\\slash"'),
        ("line\nbreak", '"line\\nbreak"'),
        ("\x1b[31mred", '"\\u001b[31mred"'),
        ("\x9b31m", '"\\u009b31m"'),
        ("Zürich", "Zürich"),
    ],
)
def test_a_field_misleads_nobody(value: object, text: str) -> None:
    line = Formatter("text", journal=True).format(record("x", field=value))
    assert line == f"<6>bgpd.bgp.speaker: x field={text}"


def test_what_a_peer_wrote_breaks_no_line_and_drives_no_terminal() -> None:
    line = Formatter("text", journal=False).format(record("shut down: bye\n<0>forged \x1b[2J"))
    assert "\n" not in line and "\x1b" not in line
    assert line.endswith("shut down: bye\\n<0>forged \\x1b[2J")


def test_json_is_one_object_a_line_with_everything_in_it() -> None:
    line = Formatter("json", journal=False).format(record("peer\nup", peer="x", families=("ipv4",)))
    found = json.loads(line)
    assert "\n" not in line
    assert found["level"] == "info" and found["logger"] == "bgpd.bgp.speaker" and found["msg"] == "peer\nup"
    assert found["peer"] == "x" and found["families"] == ["ipv4"] and "time" in found
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
    logging.getLogger("bgpd.test").debug("hello", extra={"n": 1})
    assert first.getvalue() == ""
    assert json.loads(second.getvalue())["n"] == 1
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
    made = record(letter * 9000, level=logging.ERROR, **{f"field{n}": letter * 9000 for n in range(12)})
    made.exc_info = failed().exc_info
    text = Formatter(style, journal=journal).format(made)
    assert all(len(line.encode(errors="backslashreplace")) <= LONGEST for line in text.split("\n"))
    if style == "json":
        found = json.loads(text.removeprefix("<3>"))
        assert found["level"] == "error" and found["logger"] == "bgpd.bgp.speaker" and "cut" in found["msg"]
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
