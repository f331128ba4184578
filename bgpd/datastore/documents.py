"""What the octets of a file say: cut into units, each decoded once. ``datastore.files`` and ``offline`` call this.

A unit is a document or, where a document is a ``List`` as kubectl and calicoctl print it, an item of it: a broken one
spoils no other, and one that stands as it stood is not parsed again. Units of kinds that nobody reads are known by
their ``kind`` line and passed over. JSON is read by ``json``, all else by the strict loader. No problem has a word of
text that could not be parsed: it may be a Secret's, however it spells its kind.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

from bgpd.config.yaml import MAX_DEPTH, YamlError, load_documents, split_documents
from bgpd.datastore.calico.decode import Decoded, Verdict, decode, passed_over
from bgpd.datastore.objects import Failure
from bgpd.model.resources import Problem

Known = Mapping[bytes, tuple[Decoded, ...]]
"""What units were decoded to, by their digest."""

BY_HAND = 65_536
"""Characters up to which what begins as JSON and is none is tried as YAML: ``{kind: IPPool, ...}``."""


class Parsed(NamedTuple):
    """What a file says."""

    objects: tuple[Decoded, ...]
    failures: tuple[Failure, ...]
    whole: bool
    """Whether all of it could be read."""
    known: Known


class _Unit(NamedTuple):
    text: str
    line: int
    place: int | None = None
    """The index of an item in its List."""
    implied: tuple[str, str] = ("", "")
    """Kind and ``apiVersion`` that its List says of all its items."""
    json: bool = False
    kind: tuple[str, str] = ("", "")
    """Kind and ``apiVersion`` of an object in JSON, where they are texts."""


def parse(name: str, data: bytes, known: Known) -> Parsed:
    """The objects in a file's octets. ``known`` is what was known of the file the last time."""
    objects: list[Decoded] = []
    failures: list[Failure] = []
    kept: dict[bytes, tuple[Decoded, ...]] = {}
    try:
        parts = split_documents(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        parts = []
        try:
            load_documents(data, name)  # it words it: an octet and where it is
        except YamlError as error:
            failures.append(_broken(error))
    for part, line in parts:
        for unit in _units(part, line):
            digest = _digest(unit)
            decoded = known.get(digest) or kept.get(digest)
            if decoded is None:
                try:
                    decoded = _decoded(unit, name)
                except YamlError as error:
                    failures.append(_broken(error, _EXPORTED if _EXPORT.search(part) else ""))
                    continue
            kept[digest] = decoded
            if unit.place is not None:
                decoded = tuple(_placed(found, unit.place) for found in decoded)
            objects += decoded
    nameless = [found for found in objects if found.key is None and found.problems]
    for found in nameless:
        reason = "invalid" if found.verdict is Verdict.BAD else ""
        failures += [Failure(reason, problem) for problem in found.problems]
    whole = all(found.verdict is not Verdict.BAD for found in nameless)
    whole = whole and not any(failure.reason == "yaml" for failure in failures)
    return Parsed(tuple(objects), tuple(failures), whole, kept)


_EXPORT = re.compile(r"^===[ \t\r]*$", re.MULTILINE)
_EXPORTED = "; of what 'calicoctl datastore migrate export' prints, only what stands before the first === is resources"


def _broken(error: YamlError, hint: str = "") -> Failure:
    return Failure("yaml", Problem(f"{error.source}:{error.line}:{error.column}", "", error.bare + hint))


def _digest(unit: _Unit) -> bytes:
    digest = hashlib.blake2b("\0".join(unit.implied).encode("utf-8", "surrogatepass"), digest_size=16)
    digest.update(unit.text.encode("utf-8", "surrogatepass"))
    return digest.digest()


def _placed(found: Decoded, index: int) -> Decoded:
    """What has no name is named by its place in the List, which is not the unit's to know."""
    if found.key is not None or not found.problems:
        return found
    placed = (replace(each, path=f"items.{index}.{each.path}".rstrip(".")) for each in found.problems)
    return replace(found, problems=tuple(placed))


def _decoded(unit: _Unit, name: str) -> tuple[Decoded, ...]:
    """The objects of a unit. Raises ``YamlError``."""
    kind, group = unit.kind if unit.json else _plain_kind(unit)
    if passed_over(kind or unit.implied[0] or "List", group or unit.implied[1]):
        return (Decoded(Verdict.IGNORED),)
    if unit.json:
        values = [_strict_json(unit, name)]
    else:
        documents = load_documents(unit.text, name, unit.line, keep_text=True)
        values = [document.value for document in documents if document.value is not None]
        if unit.place is not None:
            values = [item for value in values for item in value]
    if unit.place is not None and unit.implied[0]:
        implied = dict(zip(("kind", "apiVersion"), unit.implied, strict=True))
        values = [{**implied, **value} if isinstance(value, dict) else value for value in values]
    return tuple(found for value in values for found in decode(value, name))


# -- YAML --------------------------------------------------------------------------------------------------------------

_ANCHOR = re.compile(r"(?:^|[\s\[{,:])&\S")
_HEADER = re.compile(r"\n?items:[ \t]*(?:#[^\n]*)?\r?(?=\n)")
_FIRST = re.compile(r"\n(?:[ \t]*(?:#[^\n]*)?\r?\n)*( *)-(?=\s)")


@lru_cache(maxsize=64)
def _outside(indent: int) -> re.Pattern[str]:
    """The beginning of a line that is not part of a list at this indentation."""
    shallower = rf" {{0,{indent - 1}}}(?=[^\s#])|" if indent else ""
    return re.compile(rf"^(?:{shallower} {{{indent}}}(?:[^\s#-]|-\S))", re.MULTILINE)


@lru_cache(maxsize=64)
def _kind_lines(indent: int) -> re.Pattern[str]:
    """Lines that say kind and apiVersion of a mapping, itself an entry of a list at ``indent`` (-2: of no list)."""
    begins = rf"(?: {{{indent}}}- | {{{indent + 2}}})" if indent >= 0 else ""
    return re.compile(rf"^{begins}(kind|apiVersion):[ \t]+([A-Za-z][\w./-]*)[ \t]*$", re.MULTILINE)


def _plain_kind(unit: _Unit) -> tuple[str, str]:
    """Kind and apiVersion where each is stated in one plain line; else nothing, and the parser has the word."""
    indent = unit.text.index("-") if unit.place is not None else -2
    stated = _kind_lines(indent).findall(unit.text)
    found = dict(stated)
    return (found["kind"], found["apiVersion"]) if len(stated) == len(found) == 2 else ("", "")


def _units(part: str, line: int) -> Iterator[_Unit]:
    """The units of one document, or of text that is none."""
    if (begin := _json_begin(part)) is not None:
        try:
            yield from _json_units(part, line, begin)
            return
        except (ValueError, RecursionError):
            if len(part) > BY_HAND:
                yield _Unit(part[begin:], line, json=True)
                return
    yield from _yaml_items(part, line) or [_Unit(part, line)]


def _yaml_items(part: str, line: int) -> list[_Unit]:
    """The items of a document that is a List in block style; empty where it is something else."""
    at = 0 if part.startswith("items:") else part.find("\nitems:")
    header = _HEADER.match(part, at) if at >= 0 else None
    first = _FIRST.match(part, header.end()) if header else None
    if header is None or first is None or ("&" in part and _ANCHOR.search(part)):
        return []  # an alias may name what is in another item
    indent = len(first[1])
    dash = "\n" + first[1] + "-"
    begins = [first.start(1)]
    found = part.find(dash, first.end())
    end = len(part)
    while found >= 0:
        after = part[found + len(dash) : found + len(dash) + 1]
        if not after or after.isspace():
            begins.append(found + 1)
        found = part.find(dash, found + len(dash))
    outside = _outside(indent)
    spans = []
    for begin, stop in zip(begins, [*begins[1:], end], strict=True):
        if other := outside.search(part, begin, stop):
            spans.append((begin, other.start()))
            end = other.start()
            break
        spans.append((begin, stop))
    rest = part[: begins[0]] + "\n" * part.count("\n", begins[0], end) + part[end:]
    try:
        (document,) = load_documents(rest, "", keep_text=True)
    except (YamlError, ValueError):
        return []  # the whole says it, with its place
    head = document.value
    if not isinstance(head, dict) or head.get("items", "") is not None:
        return []
    kind, group = head.get("kind"), head.get("apiVersion")
    if not isinstance(kind, str) or not kind.endswith("List"):
        return []
    implied = (
        (kind.removesuffix("List"), group if isinstance(group, str) else "") if kind != "List" else ("", "")
    )
    units = []
    line, before = line + part.count("\n", 0, begins[0]), begins[0]
    for index, (begin, stop) in enumerate(spans):
        line, before = line + part.count("\n", before, begin), begin
        units.append(_Unit(part[begin:stop], line, index, implied))
    return units


# -- JSON --------------------------------------------------------------------------------------------------------------

_JSON_BEGIN = re.compile(r"(?:---)?\s*(?=\{)")
_SPACE = re.compile(r"[ \t\n\r]*")
_loose = json.JSONDecoder()


def _json_begin(part: str) -> int | None:
    found = _JSON_BEGIN.match(part)
    return found.end() if found else None


def _json_units(part: str, line: int, begin: int) -> list[_Unit]:
    """The units of an object: its items where it is a List, else itself. ``ValueError``: it is not JSON."""
    head: dict[str, Any] = {}
    items: list[tuple[int, int, tuple[str, str]]] | None = None
    at = _skip(part, begin + 1)
    while part[at : at + 1] != "}":
        if head or items is not None:
            at = _expect(part, at, ",")
        if part[at : at + 1] != '"':
            raise json.JSONDecodeError("Expecting a key", part, at)
        key, at = _loose.raw_decode(part, at)
        at = _expect(part, _skip(part, at), ":")
        if key in head or (key == "items" and items is not None):
            raise json.JSONDecodeError("a key is given twice", part, at)
        if key == "items" and part[at : at + 1] == "[":
            items, at = _json_items(part, at)
        else:
            head[key], at = _loose.raw_decode(part, at)
        at = _skip(part, at)
    if _skip(part, at + 1) != len(part):
        raise json.JSONDecodeError("Extra data", part, at + 1)
    kind, group = _stated(head)
    if items is None or not kind.endswith("List"):
        return [_Unit(part[begin : at + 1], line + part.count("\n", 0, begin), json=True, kind=(kind, group))]
    implied = (kind.removesuffix("List"), group) if kind != "List" else ("", "")
    units = []
    before = 0
    for index, (start, end, of_item) in enumerate(items):
        line, before = line + part.count("\n", before, start), start
        units.append(_Unit(part[start:end], line, index, implied, True, of_item))
    return units


def _json_items(part: str, at: int) -> tuple[list[tuple[int, int, tuple[str, str]]], int]:
    """Where each entry of an array is, and what it says it is."""
    items: list[tuple[int, int, tuple[str, str]]] = []
    at = _skip(part, at + 1)
    while part[at : at + 1] != "]":
        if items:
            at = _expect(part, at, ",")
        value, end = _loose.raw_decode(part, at)
        items.append((at, end, _stated(value)))
        at = _skip(part, end)
    return items, at + 1


def _stated(value: object) -> tuple[str, str]:
    found = value if isinstance(value, dict) else {}
    kind, group = found.get("kind"), found.get("apiVersion")
    return kind if isinstance(kind, str) else "", group if isinstance(group, str) else ""


def _skip(part: str, at: int) -> int:
    found = _SPACE.match(part, at)
    return found.end() if found else at


def _expect(part: str, at: int, mark: str) -> int:
    if part[at : at + 1] != mark:
        raise json.JSONDecodeError(f"Expecting {mark!r}", part, at)
    return _skip(part, at + 1)


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a number")


def _strict_json(unit: _Unit, name: str) -> Any:
    """The value of a unit. Raises ``YamlError``, as the loader would: for a key given twice, deep nesting, and text
    that is not Unicode."""
    twice = False

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal twice
        found = dict(pairs)
        twice = twice or len(found) != len(pairs)
        return found

    try:
        value = json.loads(unit.text, object_pairs_hook=mapping, parse_constant=_no_constant)
        deep = _deeper(value, MAX_DEPTH)
        if not deep and "\\u" in unit.text:
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        line, column = unit.line + error.lineno - 1, error.colno
        raise YamlError(name, line, column, f"not JSON: {error.msg}") from None
    except UnicodeEncodeError:
        raise YamlError(name, unit.line, 1, "characters that are not Unicode text") from None
    except RecursionError:
        raise YamlError(name, unit.line, 1, f"nested deeper than {MAX_DEPTH} levels") from None
    except ValueError:
        raise YamlError(name, unit.line, 1, "a number that is none in JSON, or too long") from None
    if deep:
        raise YamlError(name, unit.line, 1, f"nested deeper than {MAX_DEPTH} levels")
    if twice:
        raise YamlError(name, unit.line, 1, "a key is given twice in this object")
    return value


def _deeper(value: object, levels: int) -> bool:
    """Whether collections stand in each other more than so many levels deep."""
    level = [value]
    while level and levels >= 0:
        collections = [each for each in level if isinstance(each, dict | list)]
        level = [
            inner for each in collections for inner in (each.values() if isinstance(each, dict) else each)
        ]
        levels -= 1
    return any(isinstance(each, dict | list) for each in level)
