"""The strict YAML loader that the configuration, resources and topologies share.

YAML 1.2's core schema on libyaml's parser: ``65000:30``, ``yes``, ``on`` and dates are text; ``010`` is ten and
``0o10`` is eight; a merge key (``<<``) is refused, since 1.2 has none. Refused as well: a key given twice, a tag
beyond the core ones, an alias inside what it names, aliases that unfold to a bomb, nesting deeper than ``MAX_DEPTH``.
Values are built from the parser's events, because PyYAML's composer recurses in C and dies of deep nesting. Every
error carries file, line and column.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import yaml

MAX_DEPTH = 64
MAX_ALIASED = 100_000
"""How many values all aliases of one stream may unfold to."""


class YamlError(Exception):
    """Text that is not the YAML we read; ``str()`` is ``file:line:column: what is wrong``. Lines start at 1.

    ``bare`` says the same without a word of the text, which may be a password.
    """

    def __init__(self, source: str, line: int, column: int, message: str, bare: str = "") -> None:
        super().__init__(f"{source}:{line}:{column}: {message}")
        self.source, self.line, self.column, self.message = source, line, column, message
        self.bare = bare or message


class Document(NamedTuple):
    """One document: dict, list, str, int, float, bool or None (or ``Scalar``), and the line it starts at."""

    value: Any
    line: int


_NULL = ("", "~", "null", "Null", "NULL")
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_MAYBE_NUMBER = frozenset("+-.0123456789")
_NOT_TEXT = _MAYBE_NUMBER | {text[:1] for text in (*_NULL, *_BOOL)}
"""What a scalar begins with that may be something else than text."""


def _int(text: str) -> int:
    if not _INT.fullmatch(text):
        raise ValueError(f"{text!r} is not an integer")
    if len(text) > 1000:
        raise ValueError("an integer of more than 1000 digits")
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _float(text: str) -> float:
    if not _FLOAT.fullmatch(text):
        raise ValueError(f"{text!r} is not a number")
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def _bool(text: str) -> bool:
    if text not in _BOOL:
        raise ValueError(f"{text!r} is neither true nor false")
    return _BOOL[text]


def _null(text: str) -> None:
    if text not in _NULL:
        raise ValueError(f"{text!r} is not null")


_CORE = "tag:yaml.org,2002:"
_TAGGED: dict[str, Callable[[str], Any]] = {
    "!": str,
    f"{_CORE}str": str,
    f"{_CORE}int": _int,
    f"{_CORE}float": _float,
    f"{_CORE}bool": _bool,
    f"{_CORE}null": _null,
}


def _plain(text: str) -> Any:
    """The value of an unquoted, untagged scalar (YAML 1.2.2 §10.3.2)."""
    if text[:1] in _MAYBE_NUMBER and text:
        if _INT.fullmatch(text):
            return _int(text)
        if _FLOAT.fullmatch(text):
            return _float(text)
        return text
    if text in _BOOL:
        return _BOOL[text]
    return None if text in _NULL else text


class Scalar(str):
    """An unquoted scalar that YAML takes for something else than text: it is the text that stands there, and ``value``
    is what YAML takes it for (int, float or bool)."""

    __slots__ = ("value",)
    value: int | float | bool

    def __new__(cls, text: str, value: int | float | bool) -> Scalar:
        scalar = super().__new__(cls, text)
        scalar.value = value
        return scalar


def _scalar(text: str) -> Any:
    """As ``_plain``, and what the text was stays known. A number too long to count with is text."""
    if text[:1] not in _NOT_TEXT:
        return text
    try:
        value = _plain(text)
    except ValueError:
        return text
    return value if value is None or isinstance(value, str) else Scalar(text, value)


_cached: dict[Callable[[str], Any], Callable[[str], Any]] = {
    function: lru_cache(maxsize=4096)(function) for function in (_plain, _scalar)
}
"""A stream has the same texts often: ``null``, ``name``, small numbers. What they mean is immutable."""
SHORT = 24
"""Characters of a scalar up to which its value is cached: longer ones are seldom said twice."""


class _Frame:
    """A collection that is being read."""

    __slots__ = ("anchor", "before", "key", "value", "wants_key")

    def __init__(self, value: dict[Any, Any] | list[Any], anchor: str | None, before: int) -> None:
        self.value = value
        self.anchor = anchor
        self.before = before
        """How many values were counted when it began; what came since is its size."""
        self.key: Any = None
        self.wants_key = isinstance(value, dict)


def _line(mark: Any) -> int:
    return int(mark.line) if mark is not None else 0


class _Builder:
    """Events in, documents out."""

    def __init__(self, source: str, first_line: int, plain: Callable[[str], Any]) -> None:
        self.source, self.first_line, self.plain, self.cached = source, first_line, plain, _cached[plain]
        self.documents: list[Document] = []
        self.stack: list[_Frame] = []
        self.anchors: dict[str, tuple[Any, int]] = {}
        self.count = 0
        self.aliased = 0
        self.line = first_line

    def error(self, mark: Any, message: str, bare: str = "") -> YamlError:
        column = mark.column if mark is not None else 0
        return YamlError(self.source, self.first_line + _line(mark), column + 1, message, bare)

    def run(self, next_event: Callable[[], yaml.Event | None]) -> None:
        """All events. Nine in ten are scalars without tag and anchor inside a collection: these go no way round."""
        stack, cached = self.stack, self.cached
        while type(event := next_event()) is not yaml.StreamEndEvent:
            if type(event) is not yaml.ScalarEvent or event.tag is not None or event.anchor or not stack:
                self.take(event)
                continue
            self.count += 1
            value = event.value
            if event.implicit[0]:
                value = cached(value) if len(value) <= SHORT else self.plain_value(event)
            frame = stack[-1]
            inside = frame.value
            if type(inside) is list:
                inside.append(value)
            elif frame.wants_key:
                self.add(value, event)
            else:
                inside[frame.key], frame.wants_key = value, True

    def take(self, event: yaml.Event | None) -> None:
        if type(event) is yaml.ScalarEvent:
            self.scalar(event)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            self.start(event)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            frame = self.stack.pop()
            if frame.anchor:
                self.anchors[frame.anchor] = (frame.value, self.count - frame.before)
            self.add(frame.value, event)
        elif isinstance(event, yaml.AliasEvent):
            self.alias(event)
        elif isinstance(event, yaml.DocumentStartEvent):
            self.anchors = {}
            self.line = self.first_line + _line(event.start_mark)

    def scalar(self, event: yaml.ScalarEvent) -> None:
        self.count += 1
        try:
            if event.tag is None:
                value = self.plain_value(event) if event.implicit[0] else event.value
            elif event.tag in _TAGGED:
                value = _TAGGED[event.tag](event.value)
            else:
                raise ValueError(f"the tag {event.tag} is not one of YAML's core types")
        except ValueError as error:
            raise self.error(event.start_mark, str(error), "a value that is not of its tag's type") from None
        if event.anchor:
            self.anchors[event.anchor] = (value, 1)
        self.add(value, event)

    def plain_value(self, event: yaml.ScalarEvent) -> Any:
        try:
            return self.plain(event.value)
        except ValueError as error:
            raise self.error(event.start_mark, str(error), "a value that is not of its tag's type") from None

    def start(self, event: Any) -> None:
        self.count += 1
        mapping = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in (None, "!", f"{_CORE}map" if mapping else f"{_CORE}seq"):
            message = f"the tag {event.tag} is not one of YAML's core types"
            raise self.error(event.start_mark, message, "a tag that is not one of YAML's core types")
        if len(self.stack) >= MAX_DEPTH:
            raise self.error(event.start_mark, f"nested deeper than {MAX_DEPTH} levels")
        if self.stack and self.stack[-1].wants_key:
            raise self.error(event.start_mark, "a key is a scalar, not a mapping or a list")
        if event.anchor:
            self.anchors.pop(event.anchor, None)
        self.stack.append(_Frame({} if mapping else [], event.anchor, self.count - 1))

    def alias(self, event: yaml.AliasEvent) -> None:
        found = self.anchors.get(event.anchor or "")
        if found is None:
            inside = any(frame.anchor == event.anchor for frame in self.stack)
            what = "is inside what it names" if inside else "names no anchor before it"
            raise self.error(event.start_mark, f"the alias *{event.anchor} {what}", f"an alias that {what}")
        value, size = found
        self.count += size
        self.aliased += size
        if self.aliased > MAX_ALIASED:
            raise self.error(event.start_mark, f"aliases unfold to more than {MAX_ALIASED} values")
        if isinstance(value, dict | list) and self.stack and self.stack[-1].wants_key:
            raise self.error(event.start_mark, "a key is a scalar, not a mapping or a list")
        self.add(value, event)

    def add(self, value: Any, event: yaml.Event) -> None:
        if not self.stack:
            self.documents.append(Document(value, self.line))
            return
        frame = self.stack[-1]
        if type(frame.value) is list:
            frame.value.append(value)
        elif not frame.wants_key:
            frame.value[frame.key], frame.wants_key = value, True
        else:
            if value in frame.value:
                message = f"the key {value!r} is given twice"
                raise self.error(event.start_mark, message, "a key is given twice")
            if (
                value == "<<" and isinstance(event, yaml.ScalarEvent) and event.implicit[0]
            ):  # in quotes it is text
                raise self.error(
                    event.start_mark, "merge keys (<<) are not part of YAML 1.2: write the keys out"
                )
            frame.value[value] = None  # holds its place, so that order is the text's
            frame.key, frame.wants_key = value, False


def load_documents(
    text: str | bytes, source: str, first_line: int = 1, keep_text: bool = False
) -> list[Document]:
    """All documents of a stream; an empty stream has none, an empty document is ``None``.

    ``source`` names the text in errors, ``first_line`` is where it begins in it. With ``keep_text`` numbers and
    booleans that stand there without quotes are a ``Scalar`` each: which of both they are is for the reader to say, who
    knows the field. Raises ``YamlError``.
    """
    builder = _Builder(source, first_line, _scalar if keep_text else _plain)
    if isinstance(text, bytes):
        text = _decode(text, source, first_line)
    try:
        parser = yaml.CSafeLoader(text)
        try:
            builder.run(parser.get_event)
        finally:
            parser.dispose()
    except yaml.MarkedYAMLError as error:
        words = (error.context, error.problem) if error.context else (error.problem,)
        raise builder.error(
            error.problem_mark or error.context_mark, ", ".join(str(w) for w in words)
        ) from None
    except yaml.reader.ReaderError as error:
        line = first_line + text.count("\n", 0, error.position)
        message = f"{error.reason} (character {error.character!r})"
        raise YamlError(source, line, 1, message, str(error.reason)) from None
    except UnicodeError:
        raise YamlError(source, first_line, 1, "characters that are not Unicode text") from None
    return builder.documents


def _decode(octets: bytes, source: str, first_line: int) -> str:
    try:
        return octets.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = first_line + octets.count(b"\n", 0, error.start)
        column = error.start - octets.rfind(b"\n", 0, error.start)
        message = f"not UTF-8: octet 0x{octets[error.start]:02x}"
        raise YamlError(source, line, column, message) from None


def split_documents(text: str) -> list[tuple[str, int]]:
    """A stream cut at its ``---`` lines, each part with its first line: a broken one then spoils no other.

    YAML allows ``---`` at the start of a line as a marker only, inside scalars too (YAML 1.2.2 §9.1.2). Directives
    (lines with ``%``) belong to the marker after them.
    """
    starts: list[int] = []
    at = 0 if text.startswith("---") else text.find("\n---") + 1
    while at or not starts:
        if text.startswith("---", at) and (text[at + 3 : at + 4] or "\n").isspace():
            start = at
            while start and text.startswith("%", above := text.rfind("\n", 0, start - 1) + 1):
                start = above
            starts.append(start)
        found = text.find("\n---", at)
        if found < 0:
            break
        at = found + 1
    parts: list[tuple[str, int]] = []
    line = 1
    for start, end in zip([0, *starts], [*starts, len(text)], strict=True):
        part = text[start:end]
        if part:
            parts.append((part, line))
            line += part.count("\n")
    return parts
