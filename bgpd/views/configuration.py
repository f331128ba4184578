"""``bgpctl config show``: the configuration in force, key by key, and what of the file is not in force yet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from bgpd.config.config import Config
from bgpd.config.section import Section


def configuration(running: Config, file: Config | None, at_start: Collection[str]) -> list[dict[str, Any]]:
    """A row a key: ``key`` (``bgp.defaults.hold_time``), ``value`` as the file would have it, whether it is the
    ``default``; where the file has another one it is ``file``, and ``after`` says what takes it: a ``reload`` or a
    ``restart``. ``file`` is ``None`` where it cannot be taken. ``at_start``: sections that a start alone reads."""
    values, defaults = (dict(_flat(each)) for each in (running, Config(node=running.node)))
    wanted = values if file is None else dict(_flat(file))
    rows = []
    for key in dict.fromkeys((*values, *wanted)):
        row: dict[str, Any] = {
            "key": key,
            "value": values.get(key),
            "default": values.get(key) == defaults.get(key),
        }
        if values.get(key) != wanted.get(key):
            after = "restart" if key.partition(".")[0] in at_start else "reload"
            row |= {"file": wanted.get(key), "after": after}
        rows.append(row)
    return rows


def fingerprint(config: Config) -> int:
    """A number of 48 bits (a sample of Prometheus has 53), the same for all that have the same configuration but for
    the node's name."""
    keys = sorted((key, value) for key, value in _flat(config) if key != "node")
    text = json.dumps(keys, sort_keys=True).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:6], "big")


def _flat(config: Config) -> Iterator[tuple[str, Any]]:
    yield from _leaves("", _plain(config, whole=True))


def _plain(value: Any, whole: bool = False) -> Any:
    """As the file would have it. Of a section that stands in a list or under a name of the reader's choice only what is
    given: the rest of it is as for all."""
    if isinstance(value, Section):
        names = value.keys if whole else sorted(value.given)
        return {
            name: _plain(
                value.keys[name].kind.text(getattr(value, name)), isinstance(getattr(value, name), Section)
            )
            for name in names
        }
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Every value that has no keys of its own, by its path; lists are values."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(f"{path}.{key}" if path else key, item)
    else:
        yield path, value
