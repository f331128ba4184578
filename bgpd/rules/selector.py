"""Calico's label selector language: text in, a predicate over labels out. Called by ``rules.peering``.

=============================  ==============================================================
``all()``, ``global()``, empty  every object
``has(k)``, ``!has(k)``         the label is there, is not there
``k == 'v'``, ``k != 'v'``      ``!=`` holds for an absent label too
``k in {'a', 'b'}``             also ``not in``, which holds for an absent label too
``k contains 'v'``              also ``starts with``, ``ends with``
``!``, ``&&``, ``||``, ``( )``  ``!`` binds a whole comparison, ``&&`` binds closer than ``||``
=============================  ==============================================================

Strings stand in single or double quotes and know no escapes. Labels are of letters, digits, ``_ . / -``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple, NoReturn

MAX_DEPTH = 100
Labels = Mapping[str, str]
Predicate = Callable[[Labels], bool]


@dataclass(frozen=True, slots=True)
class Selector:
    """A parsed selector. Two are equal when their texts are."""

    text: str
    _predicate: Predicate = field(repr=False, compare=False)

    def matches(self, labels: Labels) -> bool:
        """Whether an object with these labels is selected."""
        return self._predicate(labels)

    def __str__(self) -> str:
        return self.text


@lru_cache(maxsize=256)
def parse(text: str) -> Selector:
    """A selector from its text; ``ValueError`` says at which character what was expected."""
    return Selector(text, _Parser(text).parse())


class _Token(NamedTuple):
    kind: str
    """An operator as itself, or ``label``, ``string``, ``end``."""
    value: str
    position: int
    """The position of its first character, from 1."""


_TOKEN = re.compile(
    r"""\s*(?:
      (?P<operator>==|!=|&&|\|\||[!(){},])
    | '(?P<single>[^']*)' | "(?P<double>[^"]*)"
    | (?P<label>[a-zA-Z0-9_./-]+)
    | (?P<end>\Z)
    )""",
    re.VERBOSE,
)


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    at = 0
    while not tokens or tokens[-1].kind != "end":
        match = _TOKEN.match(text, at)
        if match is None:
            at += len(text[at:]) - len(text[at:].lstrip())
            if text[at] in "'\"":
                raise ValueError(f"character {at + 1}: the string that begins here has no closing {text[at]}")
            raise ValueError(f"character {at + 1}: {text[at]!r} is no part of a selector")
        group = str(match.lastgroup)
        kind = {"operator": match[group], "single": "string", "double": "string"}.get(group, group)
        start = match.start(group) - (kind == "string")
        tokens.append(_Token(kind, match[group], start + 1))
        at = match.end()
    return tokens


_WORDS = {
    "in": ("in", ""),
    "not": ("not in", "in"),
    "notin": ("not in", ""),
    "contains": ("contains", ""),
    "starts": ("starts with", "with"),
    "startswith": ("starts with", ""),
    "ends": ("ends with", "with"),
    "endswith": ("ends with", ""),
}
"""First word of an operator -> the operator, and the word that must follow. Calico takes them run together too."""


class _Parser:
    """Recursive descent: or, and, operand."""

    def __init__(self, text: str) -> None:
        self.tokens = _tokens(text)
        self.index = 0
        self.depth = 0

    @property
    def next(self) -> _Token:
        return self.tokens[self.index]

    def take(self) -> _Token:
        token = self.tokens[self.index]
        self.index += token.kind != "end"
        return token

    def expect(self, kind: str, words: str) -> _Token:
        if self.next.kind != kind:
            self.fail(words)
        return self.take()

    def fail(self, expected: str) -> NoReturn:
        token = self.next
        found = {"end": "the selector ends", "string": f"'{token.value}' stands there"}.get(
            token.kind, f"{token.value!r} stands there"
        )
        raise ValueError(f"character {token.position}: expected {expected}, but {found}")

    def parse(self) -> Predicate:
        if self.next.kind == "end":
            return _everything
        predicate = self.any_of()
        if self.next.kind != "end":
            self.fail("&&, || or the end")
        return predicate

    def any_of(self) -> Predicate:
        terms = [self.all_of()]
        while self.next.kind == "||":
            self.take()
            terms.append(self.all_of())
        return terms[0] if len(terms) == 1 else lambda labels: any(term(labels) for term in terms)

    def all_of(self) -> Predicate:
        terms = [self.operand()]
        while self.next.kind == "&&":
            self.take()
            terms.append(self.operand())
        return terms[0] if len(terms) == 1 else lambda labels: all(term(labels) for term in terms)

    def operand(self) -> Predicate:
        negated = False
        while self.next.kind == "!":
            self.take()
            negated = not negated
        predicate = self.group() if self.next.kind == "(" else self.comparison()
        return (lambda labels: not predicate(labels)) if negated else predicate

    def group(self) -> Predicate:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ValueError(f"character {self.next.position}: nested deeper than {MAX_DEPTH} parentheses")
        self.take()
        predicate = self.any_of()
        self.expect(")", "&&, || or )")
        self.depth -= 1
        return predicate

    def comparison(self) -> Predicate:
        label = self.expect("label", "a label, has(...), all(), global(), ! or (").value
        if self.next.kind == "(":
            if label in ("all", "global"):
                self.take()
                self.expect(")", "a closing )")
                return _everything
            if label == "has":
                self.take()
                name = self.expect("label", "the name of a label").value
                self.expect(")", "a closing )")
                return lambda labels: name in labels
        operator = self.take() if self.next.kind in ("==", "!=") else self.word_operator()
        if operator.kind == "==":
            wanted = self.string()
            return lambda labels: labels.get(label) == wanted
        if operator.kind == "!=":
            wanted = self.string()
            return lambda labels: labels.get(label) != wanted
        if operator.value in ("in", "not in"):
            values = self.strings()
            if operator.value == "in":
                return lambda labels: labels.get(label) in values
            return lambda labels: labels.get(label) not in values
        wanted = self.string()
        if operator.value == "contains":
            return lambda labels: label in labels and wanted in labels[label]
        if operator.value == "starts with":
            return lambda labels: label in labels and labels[label].startswith(wanted)
        return lambda labels: label in labels and labels[label].endswith(wanted)

    def word_operator(self) -> _Token:
        token = self.next
        if token.kind != "label" or token.value not in _WORDS:
            self.fail("==, !=, in, not in, contains, starts with or ends with")
        self.take()
        operator, second = _WORDS[token.value]
        if second:
            if (self.next.kind, self.next.value) != ("label", second):
                self.fail(f"{second!r} after {token.value!r}")
            self.take()
        return token._replace(value=operator)

    def string(self) -> str:
        return self.expect("string", "a value in quotes").value

    def strings(self) -> frozenset[str]:
        self.expect("{", "a set such as {'a', 'b'}")
        values: set[str] = set()
        while self.next.kind == "string":
            values.add(self.take().value)
            if self.next.kind != ",":
                break
            self.take()
        self.expect("}", "a value in quotes, a comma or }")
        return frozenset(values)


def _everything(labels: Labels) -> bool:
    return True
