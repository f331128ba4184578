"""Status values as JSON: the stable form that the API answers with and ``bgpctl -o json`` prints.

Field names are those of ``model.status``. A session state is its name in lower case (``established``). A time is a
number, Unix seconds. A mapping keyed by one word is an object; one keyed by several is a list of objects, each with its
keys by name and ``count`` (``{"kind": "block", "family": "ipv4", "count": 2}``): JSON has no other keys than text.
Whatever changes in a way that a reader could stumble over raises ``SCHEMA_VERSION``; new fields do not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from operator import attrgetter
from typing import Any

from bgpd.model.status import DatastoreStatus, FibStatus, PeerStatus, RouteView, Status

SCHEMA_VERSION = 1

COMPOUND_KEYS: Mapping[type, Mapping[str, tuple[str, ...]]] = {
    DatastoreStatus: {"events": ("kind", "action")},
    FibStatus: {"operations": ("operation", "result"), "errors": ("operation", "errno")},
    PeerStatus: {"notifications": ("direction", "code", "subcode")},
    Status: {
        "routes_desired": ("kind", "family"),
        "routes_advertised": ("kind", "family"),
        "rib_routes": ("family", "source"),
        "rib_paths": ("family", "source"),
        "ipam_blocks": ("pool", "family"),
    },
}
"""Names of the keys of those fields whose mapping has more than one."""


def document(value: Any) -> Any:
    """A status value as what ``json`` takes."""
    if is_dataclass(value):
        named = COMPOUND_KEYS.get(type(value), {})
        return {
            field.name: _compound(getattr(value, field.name), named[field.name])
            if field.name in named
            else document(getattr(value, field.name))
            for field in fields(value)
        }
    if isinstance(value, Mapping):
        return {key: document(item) for key, item in value.items()}
    if isinstance(value, Enum):
        return value.name.lower()
    if isinstance(value, list | tuple):
        return [document(item) for item in value]
    return value


def _compound(values: Mapping[tuple[Any, ...], int], names: tuple[str, ...]) -> list[dict[str, Any]]:
    return [dict(zip(names, key, strict=True)) | {"count": count} for key, count in values.items()]


def encode(value: Any) -> str:
    """A status value as JSON text."""
    return json.dumps(document(value), ensure_ascii=False, separators=(",", ":"))


_ROUTE_FIELDS = tuple(field.name for field in fields(RouteView))
_route_values: Callable[[RouteView], tuple[Any, ...]] = attrgetter(*_ROUTE_FIELDS)
_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode


def encode_route(row: RouteView) -> str:
    """``encode`` for the one kind of value there are a million of."""
    return _to_json(dict(zip(_ROUTE_FIELDS, _route_values(row), strict=True)))
