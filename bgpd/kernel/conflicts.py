"""Whose routes have a key that we hold or want, one family: reported to the operator when one begins, and when it is
over.

``fib`` and ``writer`` keep it; ``views`` reads it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

from bgpd.events import event
from bgpd.model.prefix import Family, prefix_text
from bgpd.model.route import FibKey

log = logging.getLogger(__name__)


class Conflicts(Mapping[FibKey, str]):
    """Key -> the other's route, in words."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._words: dict[FibKey, str] = {}
        self._begun: list[FibKey] = []
        self._over: list[FibKey] = []
        """The keys whose conflict ended since the last report."""

    def __getitem__(self, key: FibKey) -> str:
        return self._words[key]

    def __iter__(self) -> Iterator[FibKey]:
        return iter(self._words)

    def __len__(self) -> int:
        return len(self._words)

    def begin(self, key: FibKey, words: str) -> None:
        """Another's route has this key; again, in other words, where it changed."""
        if key not in self._words:
            self._begun.append(key)
        self._words[key] = words

    def end(self, key: FibKey) -> None:
        """None has, or the key is no longer our concern. Nothing where there was none."""
        if self._words.pop(key, None) is not None:
            self._over.append(key)

    def report(self) -> None:
        """Logs what began and what is over since the last time, each in one line."""
        family = self._family.label
        if begun := self._begun:
            event(log, "conflicts", family=family, count=len(begun), first=self._text(begun[0]))
            begun.clear()
        if over := self._over:
            event(log, "conflicts_over", family=family, count=len(over), first=self._text(over[0]))
            over.clear()

    def _text(self, key: FibKey) -> str:
        return prefix_text(self._family, key[0])
