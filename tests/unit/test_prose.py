"""The house's language, as far as a test reads it: short sentences, a subject, the RFCs' verbs."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

TOP = Path(__file__).parents[2]
PART, WHOLE = 30, 45
"""Words up to the next full stop, colon or semicolon, and of a whole sentence: more than CONTRIBUTING asks. Neither
what is in parentheses counts, nor lists of four and more."""


@cache
def strings() -> list[tuple[str, bool, str]]:
    """Every docstring with its place, and whether it is an attribute's."""
    found = []
    for path in sorted((TOP / "bgpd").rglob("*.py")):
        rest: list[Any] = [ast.parse(path.read_text())]
        while rest:
            body = rest.pop().body
            rest += [
                part
                for part in body
                if isinstance(part, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            ]
            for index, part in enumerate(body):
                match part:
                    case ast.Expr(ast.Constant(str() as text)):
                        found.append((f"{path.relative_to(TOP)}:{part.lineno}", index > 0, text))
    return found


def sentences(text: str, ends: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n|\n\s*- ", text):
        if not re.search(r"(?m)^\s*(=====|\d  |GET |POST |DELETE )", paragraph):  # no table
            plain = re.sub(r"\([^()]*\)", "", re.sub(r"``[^`]*``", "X", " ".join(paragraph.split())))
            yield from re.split(rf"(?<=[{ends}])\s+", plain)


def test_sentences_are_short() -> None:
    long = [
        f"{place}: {sentence}"
        for place, _, text in strings()
        for ends, most in ((".!?:;", PART), (".!?", WHOLE))
        for sentence in sentences(text, ends)
        if len(sentence.split()) > most and sentence.count(",") + sentence.count(";") < 3
    ]
    assert long == []


def test_what_is_said_of_an_attribute_has_a_subject() -> None:
    bare = re.compile(r"(Of|Ours|As)\b")
    assert [
        f"{place}: {text}" for place, of_attribute, text in strings() if of_attribute and bare.match(text)
    ] == []


def test_peers_announce_and_are_sent() -> None:
    """The RFCs' words for what happens: nobody is told a route."""
    files = [
        *sorted((TOP / "bgpd").rglob("*.py")),
        *sorted((TOP / "docs").rglob("*.md")),
        *(TOP / name for name in ("README.md", "CHANGELOG.md", "config/bgpd.yaml")),
    ]
    word = re.compile(r"\b(tells?|told|telling)\b", re.IGNORECASE)
    found = [
        f"{path.relative_to(TOP)}:{number}: {line.strip()}"
        for path in files
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if word.search(line)
    ]
    assert found == []
