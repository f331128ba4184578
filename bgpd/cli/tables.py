"""Screens of lines and tables: aligned plain text for a pipe, drawn by rich on a terminal.

``screens`` and ``peers`` make them, ``ctl`` writes them. Rich is imported on a terminal only, and only when something
is drawn.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain, islice
from typing import Any, NamedTuple, TextIO

SAMPLE = 1000
"""A table of more rows is neither drawn by rich nor held: these first ones give the widths, the rest is streamed."""

_GAP = "  "
_STYLES = {"good": "green", "bad": "red", "warn": "yellow"}


class Cell(NamedTuple):
    """A piece of text and how it looks on a terminal: ``good bad warn dim bold`` or as it is."""

    text: str
    style: str = ""


def cell(value: object, style: str = "") -> Cell:
    """A value as a cell; ``None`` is empty. What peers or resources wrote in it cannot drive the terminal."""
    text = "" if value is None else str(value)
    if not text.isprintable():
        text = "".join(c if c.isprintable() else "?" for c in text)
    return Cell(text, style)


Line = Sequence[Cell]
Document = Mapping[str, Any]
"""An answer of the API, or an object in it."""
BLANK: Line = ()
MARKS = ("✓", "✗")
ASCII_MARKS = ("+", "x")


class Table(NamedTuple):
    """Rows under a head, or without one. Columns in ``right`` are set flush right; the last takes what width is left.

    Under a head an empty cell is ``-``, so that a column stays a column for awk; with ``compact`` a column that is
    empty throughout is left out. Without rows it is the one line ``empty``, if that is given.
    """

    head: Sequence[str]
    rows: Iterable[Line]
    right: frozenset[str] = frozenset()
    indent: int = 0
    compact: bool = False
    empty: str = ""


Screen = Iterable[Line | Table]


def on_terminal(stream: TextIO) -> bool:
    """Whether a stream is a terminal that can do more than print lines."""
    return stream.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb")


def can_mark(stream: TextIO) -> bool:
    """Whether ✓ and ✗ come out: a UTF-8 stream, and not the kernel's console, whose font has neither."""
    utf8 = (getattr(stream, "encoding", None) or "").lower().replace("-", "") == "utf8"
    return utf8 and os.environ.get("TERM") != "linux"


def lines(screen: Screen, *, terminal: bool) -> Iterator[str]:
    """The screen's lines, without line ends."""
    drawer = _Drawer() if terminal else None
    for block in screen:
        if not isinstance(block, Table):
            yield drawer.line(block) if drawer else "".join(piece.text for piece in block).rstrip()
            continue
        rows = iter(block.rows)
        first = list(islice(rows, SAMPLE + 1))
        if not first and block.empty:
            yield " " * block.indent + block.empty
        elif len(first) > SAMPLE:
            yield from _plain(block, first, rows)
        elif drawer:
            yield from drawer.table(*_compacted(block, first), block)
        else:
            head, first = _compacted(block, first)
            yield from _plain(block, first, (), head)


def _compacted(table: Table, rows: list[Line]) -> tuple[Sequence[str], list[Line]]:
    if not table.compact:
        return table.head, rows
    used = [i for i in range(len(table.head)) if any(row[i].text for row in rows)]
    return [table.head[i] for i in used], [[row[i] for i in used] for row in rows]


def _plain(
    table: Table, first: list[Line], rest: Iterable[Line], head: Sequence[str] | None = None
) -> Iterator[str]:
    head = table.head if head is None else head
    missing = "-" if head else ""
    widths = [
        max((len(row[i].text) for row in first), default=0)
        for i in range(len(first[0]) if first else len(head))
    ]
    if head:
        widths = [max(width, len(name)) for width, name in zip(widths, head, strict=True)]
    right = [name in table.right for name in head] or [False] * len(widths)
    before = " " * table.indent
    titles = [list(head)] if head else []
    for texts in chain(titles, ([piece.text or missing for piece in row] for row in chain(first, rest))):
        columns = zip(texts, widths, right, strict=True)
        yield (before + _GAP.join(t.rjust(w) if r else t.ljust(w) for t, w, r in columns)).rstrip()


class Look(NamedTuple):
    """What a screen depends on besides the daemon: the time now (Unix seconds), the marks for good and bad, and
    whether a person sees it on a terminal."""

    now: float
    marks: tuple[str, str] = MARKS
    terminal: bool = False

    def mark(self, ok: bool) -> Cell:
        """A check that passed, or one that did not."""
        return Cell(self.marks[0], "good") if ok else Cell(self.marks[1], "bad")


def ago(seconds: float) -> str:
    """A length of time in its two largest units: ``12s 3m12s 1h02m 25h00m 3d04h``."""
    s = max(0, int(seconds))
    if s < 60:
        return f"{s}s"
    if s < 3600:
        return f"{s // 60}m{s % 60:02d}s"
    if s < 48 * 3600:
        return f"{s // 3600}h{s % 3600 // 60:02d}m"
    return f"{s // 86400}d{s % 86400 // 3600:02d}h"


def stamp(time: float) -> str:
    """RFC 3339 in local time, to the second."""
    return datetime.fromtimestamp(time).astimezone().isoformat(timespec="seconds")


def short_stamp(time: float, now: float) -> str:
    """The time of today, or the date and time."""
    then, today = datetime.fromtimestamp(time).astimezone(), datetime.fromtimestamp(now).astimezone()
    return then.strftime("%H:%M:%S" if then.date() == today.date() else "%Y-%m-%d_%H:%M")


def plural(count: int, word: str) -> str:
    """``1 peer``, ``2 peers``."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


class _Drawer:
    """Draws with rich, one block at a time, into lines of text with escapes."""

    def __init__(self) -> None:
        import shutil

        from rich.console import Console

        self._columns = shutil.get_terminal_size().columns
        self._file = io.StringIO()
        self._console = Console(
            file=self._file, force_terminal=True, highlight=False, markup=False, emoji=False
        )

    def line(self, pieces: Line) -> str:
        from rich.text import Text

        text = Text.assemble(*((piece.text, _STYLES.get(piece.style, piece.style)) for piece in pieces))
        self._console.print(text, soft_wrap=True)
        return self._taken()[0]

    def table(self, head: Sequence[str], rows: list[Line], table: Table) -> list[str]:
        from rich.table import Table as Grid
        from rich.text import Text

        if not rows and not head:
            return []
        grid = Grid(
            box=None, show_header=bool(head), header_style="bold", pad_edge=False, padding=(0, 2, 0, 0)
        )
        count = len(head) or len(rows[0])
        for i in range(count):
            last = i == count - 1
            name = head[i] if head else ""
            grid.add_column(
                Text(name),
                no_wrap=not last,
                overflow="fold",
                justify="right" if name in table.right else "left",
            )
        missing = "-" if head else ""
        for row in rows:
            grid.add_row(*(Text(p.text or missing, _STYLES.get(p.style, p.style)) for p in row))
        # Only the last column gives way. Where that would not do, nothing is cut: the terminal breaks the lines.
        room = self._columns - table.indent
        widths = [
            max([len(head[i]) if head else 0, *(len(row[i].text) for row in rows)]) + 2 for i in range(count)
        ]
        self._console.width = room if sum(widths[:-1]) + 20 <= room else sum(widths)
        self._console.print(grid)
        return [" " * table.indent + line for line in self._taken()]

    def _taken(self) -> list[str]:
        text = self._file.getvalue()
        self._file.seek(0)
        self._file.truncate()
        return text.split("\n")[:-1]
