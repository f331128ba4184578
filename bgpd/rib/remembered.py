"""What was worked out and can be worked out again, remembered so that equal results are one object: bounded by octets.

Of paths and attributes, since a peer says how many of those there are and how long: at the bound all is forgotten. The
RIBs do not depend on it, only what they share does. Used by ``family``, ``groups`` and ``router``.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

from bgpd.model.route import Path

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

OCTETS = 8 << 20
"""The most that one table holds."""
ENTRY = 512
"""Octets of an entry beside its attributes: keys, values, and what those hold."""


class Remembered(Generic[K, V]):
    """A table of results."""

    __slots__ = ("_octets", "_table")

    def __init__(self) -> None:
        self._table: dict[K, V] = {}
        self._octets = 0

    def __len__(self) -> int:
        return len(self._table)

    def get(self, key: K) -> V | None:
        """What was worked out, if it is remembered."""
        return self._table.get(key)

    def keep(self, key: K, value: V, path: Path | None) -> V:
        """Remember a new result, made of a path or of this node's own; returns it."""
        octets = ENTRY if path is None else ENTRY + 2 * path.attributes.size
        if self._octets + octets > OCTETS:
            self.clear()
        self._octets += octets
        self._table[key] = value
        return value

    def clear(self) -> None:
        """Forget all."""
        self._table.clear()
        self._octets = 0
