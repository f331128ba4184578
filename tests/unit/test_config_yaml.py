"""The strict loader: YAML 1.2's core types, and everything that it refuses."""

from __future__ import annotations

import math
import textwrap

import pytest

from bgpd.config.yaml import MAX_DEPTH, Document, YamlError, load_documents, split_documents


def load(text: str | bytes) -> object:
    (document,) = load_documents(text, "file")
    return document.value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("65000:30", "65000:30"),
        ("yes", "yes"),
        ("on", "on"),
        ("2026-01-02", "2026-01-02"),
        ("1_000", "1_000"),
        ("10.48.0.0/26", "10.48.0.0/26"),
        ("0o17", 15),
        ("010", 10),
        ("0x1F", 31),
        ("-7", -7),
        ("+5", 5),
        ("1.10", 1.1),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("-.INF", -math.inf),
        ("true", True),
        ("FALSE", False),
        ("tRue", "tRue"),
        ("null", None),
        ("~", None),
        ("''", ""),
        ("'7'", "7"),
        ("!!str 7", "7"),
        ("! 7", "7"),
        ("!!int '7'", 7),
        ("|\n  a\n  b\n", "a\nb\n"),
        ("[a, {b: c}, []]", ["a", {"b": "c"}, []]),
    ],
)
def test_values(text: str, value: object) -> None:
    loaded = load(f"key: {text}")
    assert loaded == {"key": value}
    assert type(loaded["key"]) is type(value)  # type: ignore[index]


def test_a_merge_key_in_quotes_is_text() -> None:
    assert load("{'<<': 1, \"b\": <<}") == {"<<": 1, "b": "<<"}


def test_nan() -> None:
    assert math.isnan(load(".NaN"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "where", "words"),
    [
        ("a: 1\nb: 2\na: 3", "3:1", "the key 'a' is given twice"),
        ("{a: {b: 1, b: 2}}", "1:12", "the key 'b' is given twice"),
        ("<<: {a: 1}", "1:1", "merge keys"),
        ("{b: {<<: 1}}", "1:6", "merge keys"),
        ("a: *b", "1:4", "names no anchor"),
        ("&a [*a]", "1:5", "inside what it names"),
        ("a: !!python/name:os.system x", "1:4", "not one of YAML's core types"),
        ("a: !!timestamp 2001-01-01", "1:4", "not one of YAML's core types"),
        ("a: !!int x", "1:4", "'x' is not an integer"),
        ("? [a]\n: 1", "1:3", "a key is a scalar"),
        ("a: 1\n  b: 2", "2:4", "mapping values are not allowed"),
        ("a: [1\n\nb: 2", "3:2", "did not find expected"),
        ("a: 1\nb: 'x", "2:6", "unexpected end of stream"),
        ("a: \x01", "1:1", "control characters"),
        (b"a: 1\nb: \xff", "2:4", "not UTF-8: octet 0xff"),
        ("a: " + "9" * 2000, "1:4", "more than 1000 digits"),
        ("[" * 1_000_000, f"1:{MAX_DEPTH + 1}", "nested deeper"),
        ("a: \ud800", "1:1", "not Unicode"),
    ],
)
def test_refused(text: str | bytes, where: str, words: str) -> None:
    with pytest.raises(YamlError) as caught:
        load(text)
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"file:{where}:")


def test_aliases_share_and_bombs_are_bounded() -> None:
    assert load("a: &x [1]\nb: *x\nc: &y 2\nd: *y") == {"a": [1], "b": [1], "c": 2, "d": 2}
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(YamlError, match="aliases unfold to more than"):
        load("\n".join(lines))


def test_documents_and_their_lines() -> None:
    text = "a: 1\n---\n# nothing\n---\nb: |\n  x\n  ---\n"
    assert load_documents(text, "file") == [
        Document({"a": 1}, 1),
        Document(None, 2),
        Document({"b": "x\n---\n"}, 4),
    ]
    assert load_documents("", "file") == []
    assert load_documents("\ufeffa: 1".encode(), "file") == [Document({"a": 1}, 1)]


def test_first_line_moves_errors() -> None:
    with pytest.raises(YamlError) as caught:
        load_documents("a: 1\na: 2", "file", first_line=10)
    assert (caught.value.line, caught.value.column) == (11, 1)


def test_split_keeps_a_broken_document_to_itself() -> None:
    text = textwrap.dedent(
        """\
        a: 1
        ---
        b: 'never closed
        --- # comment
        c: 3
        %YAML 1.2
        ---
        d: ----
        """
    )
    parts = split_documents(text)
    assert "".join(part for part, _ in parts) == text
    assert [line for _, line in parts] == [1, 2, 4, 6]
    assert load_documents(parts[0][0], "file") == [Document({"a": 1}, 1)]
    with pytest.raises(YamlError) as caught:
        load_documents(parts[1][0], "file", parts[1][1])
    assert caught.value.line == 4
    assert load_documents(parts[3][0], "file", parts[3][1]) == [Document({"d": "----"}, 6)]
