"""Names of interfaces, and the patterns of Calico and of the configuration that stand for several (``cali*``)."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase


def matches(interface: str, patterns: Iterable[str]) -> bool:
    """Whether one of some patterns stands for an interface; ``*`` is any characters, upper and lower case differ."""
    return any(fnmatchcase(interface, pattern) for pattern in patterns)
