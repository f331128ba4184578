"""Prometheus' text as data, for ``bgpctl metrics -o json``: the client asks for the text that a scrape would get.

Values are numbers; what JSON has no number for (``NaN``, ``+Inf``) stays text, as it is written there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")


def families(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Each family: ``name``, ``type``, ``help`` and ``samples``, each of these with ``name``, ``labels``, ``value``."""
    family: dict[str, Any] = {}
    for line in lines:
        line = line.rstrip("\n")
        if line.startswith("# HELP "):
            if family:
                yield family
            name, _, text = line.removeprefix("# HELP ").partition(" ")
            family = {"name": name, "type": "untyped", "help": _unescaped(text), "samples": []}
        elif line.startswith("# TYPE "):
            family["type"] = line.rpartition(" ")[2]
        elif found := _SAMPLE.fullmatch(line):
            name, labels, value = found.groups()
            pairs = {key: _unescaped(text) for key, text in _LABEL.findall(labels or "")}
            family["samples"].append({"name": name, "labels": pairs, "value": _number(value)})
    if family:
        yield family


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda found: "\n" if found[1] == "n" else found[1], text)


def _number(text: str) -> float | str:
    value = float(text)
    return value if math.isfinite(value) else text
