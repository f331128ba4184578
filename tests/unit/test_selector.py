"""Calico's selector language, operator by operator, and its errors."""

from __future__ import annotations

import pytest

from bgpd.rules.selector import MAX_DEPTH, parse

LABELS = {"rack": "r1", "app": "web-front", "zone/a.b-c": "x", "empty": "", "in": "a", "has": "h"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True),
        ("   ", True),
        ("all()", True),
        ("all( )", True),
        ("global()", True),
        ("has(rack)", True),
        ("has( rack )", True),
        ("!has(rack)", False),
        ("! has(none)", True),
        ("!!has(rack)", True),
        ("rack == 'r1'", True),
        ('rack=="r1"', True),
        ("rack != 'r1'", False),
        ("none == 'r1'", False),
        ("none != 'r1'", True),
        ("empty == ''", True),
        ("rack in {'r1', 'r2'}", True),
        ("rack in {'r1',}", True),
        ("rack in {}", False),
        ("none in {'r1'}", False),
        ("rack not in {'r1'}", False),
        ("rack notin {'r1'}", False),
        ("none not in {'r1'}", True),
        ("app contains 'fro'", True),
        ("none contains ''", False),
        ("app starts with 'web'", True),
        ("app startswith 'front'", False),
        ("app ends with 'front'", True),
        ("none ends with ''", False),
        ("!rack == 'r1'", False),
        ("!(rack == 'r1')", False),
        ("zone/a.b-c == 'x'", True),
        ("rack == 'no' && rack == 'no' || app == 'web-front'", True),
        ("app == 'web-front' || rack == 'no' && rack == 'no'", True),
        ("(app == 'web-front' || rack == 'no') && rack == 'no'", False),
        ("\n rack == 'r1'\t&&\n has(app) ", True),
        ("in in {'a'}", True),
        ("has == 'h'", True),
        ("rack == \"it's\" || rack == 'r1'", True),
    ],
)
def test_matches(text: str, expected: bool) -> None:
    assert parse(text).matches(LABELS) is expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rack ==", "character 8: expected a value in quotes, but the selector ends"),
        ("rack == r1", "character 9: expected a value in quotes, but 'r1' stands there"),
        ("rack = 'r1'", "character 6: '=' is no part of a selector"),
        ("(rack == 'r1'", "character 14: expected &&, || or )"),
        ("rack == 'r1' rack", "character 14: expected &&, || or the end"),
        ("rack == 'r1' &&", "character 16: expected a label"),
        ("has(", "character 5: expected the name of a label"),
        ("has('x')", "character 5: expected the name of a label"),
        ("all(x)", "character 5: expected a closing )"),
        ("rack in 'a'", "character 9: expected a set"),
        ("rack in {a}", "character 10: expected a value in quotes, a comma or }"),
        ("rack not like 'a'", "character 10: expected 'in' after 'not'"),
        ("rack starts 'a'", "character 13: expected 'with' after 'starts'"),
        ("rack like 'a'", "character 6: expected ==, !="),
        ("rack == 'r1", "character 9: the string that begins here has no closing '"),
        ("!", "character 2: expected a label"),
        ("(" * (MAX_DEPTH + 1) + "all()", "nested deeper"),
    ],
)
def test_errors_say_where_and_what(text: str, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(text)
    assert words in str(caught.value)


def test_equal_by_text() -> None:
    assert parse("all()") == parse("all()")
    assert str(parse("has(a)")) == "has(a)"
