"""``docs/log.md`` lists every event that the code can log, with its level and its fields, and no other."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

TOP = Path(__file__).parents[2]
RESERVED = {"time", "level", "logger", "event", "msg", "traceback"}
"""Keys of a JSON line that no field may have the name of."""
KINDS = {"missing", "extra", "changed"}
"""Fields of ``repairs``: those that were put right, and no other, so they are given as a mapping."""


class Logged(NamedTuple):
    levels: set[str]
    fields: set[str]


def of_the_code() -> dict[str, Logged]:
    """Event -> levels and fields of all its calls."""
    found: dict[str, Logged] = defaultdict(lambda: Logged(set(), set()))
    for path in sorted((TOP / "bgpd").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            if (
                node.func.id not in ("event", "failure")
                or path.name == "events.py"
                or "bgpd/cli" in str(path)
            ):
                continue  # the commands' own ``failure`` prints
            level = "error" if node.func.id == "failure" else "info"
            if len(node.args) > 2:
                assert isinstance(node.args[2], ast.Attribute)
                level = node.args[2].attr.lower()
            names = {
                each.value
                for each in ast.walk(node.args[1])
                if isinstance(each, ast.Constant) and isinstance(each.value, str)
            }
            assert names, f"{path}:{node.lineno}: the name of an event is written out"
            for name in names:
                found[name].levels.add(level)
                found[name].fields.update(keyword.arg for keyword in node.keywords if keyword.arg)
    return found


def of_the_page() -> dict[str, Logged]:
    found = {}
    for line in (TOP / "docs" / "log.md").read_text().splitlines():
        if match := re.match(r"\| `(\w+)` \| ([a-z, ]+) \| (.*?) \|", line):
            fields = set(re.findall(r"`(\w+)`", match[3]))
            found[match[1]] = Logged(set(match[2].split(", ")), fields)
    return found


def test_the_page_has_every_event_and_no_other() -> None:
    code, page = of_the_code(), of_the_page()
    assert code.keys() == page.keys()
    for name, logged in code.items():
        assert logged.levels == page[name].levels, name
        assert logged.fields | (KINDS if name == "repairs" else set()) == page[name].fields, name


def test_no_field_hides_a_key_of_the_line() -> None:
    assert not set().union(*(logged.fields for logged in of_the_code().values())) & RESERVED


def test_nothing_is_logged_past_the_events() -> None:
    """A line without a name is one that nobody can look for."""
    past = [
        f"{path.relative_to(TOP)}:{number}"
        for path in sorted((TOP / "bgpd").rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"\blog\.(debug|info|warning|error|exception|critical)\(", line)
        and path.name != "events.py"
    ]
    assert past == []
