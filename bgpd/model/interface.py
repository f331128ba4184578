"""Names of interfaces, and the patterns of Calico and of the configuration that stand for several (``cali*``)."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import lru_cache

REMEMBERED = 4096
"""Names with patterns: a node's interfaces, each looked at whenever a workload comes or goes."""


def matches(interface: str, patterns: Iterable[str]) -> bool:
    """Whether one of some patterns stands for an interface; ``*`` is any characters, upper and lower case differ."""
    return _matches(interface, tuple(patterns))


@lru_cache(REMEMBERED)
def _matches(interface: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(interface, pattern) for pattern in patterns)
