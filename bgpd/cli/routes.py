"""Routes as JSON, for ``bgpd policy test``: read strictly, each mistake named by file and key, and printed again.

A route is an object ``{"prefix", "source", "interface", "as_path", "communities", "large_communities", "local_pref",
"metric", "next_hop"}``; all but the prefix may be left out or null. An AS_SET is a list inside ``as_path``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn

from bgpd.cli.streams import read_input
from bgpd.datastore.calico.fields import parse_asn
from bgpd.model.prefix import Address, Family, Prefix, family_of, parse_address, parse_prefix, prefix_text
from bgpd.model.route import AsPath, Attributes, RouteSource, SegmentType
from bgpd.rules.communities import community_text, parse_community
from bgpd.views.policy_test import Route

KEYS = (
    "prefix",
    "source",
    "interface",
    "as_path",
    "communities",
    "large_communities",
    "local_pref",
    "metric",
    "next_hop",
)
MOST = 0xFFFFFFFF


class RouteError(Exception):
    """Bad input; the text names the file and the key."""


class PlacedRoute(NamedTuple):
    """A route and where it was read."""

    route: Route
    place: str
    """The place at which it was read, for messages: ``routes.json: [2]``."""

    def bad(self, key: str, message: str) -> NoReturn:
        """Raises ``RouteError`` about one of its keys."""
        raise RouteError(_named(self.place, key, message))


def read_routes(name: str) -> Iterator[PlacedRoute]:
    """The routes in a file, or on standard input for ``-``: one object, or a list. Raises ``RouteError``."""
    shown = "standard input" if name == "-" else name
    try:
        text = read_input(name)
        document = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except OSError as error:
        raise RouteError(f"{shown}: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise RouteError(f"{shown}:{error.lineno}:{error.colno}: not JSON: {error.msg}") from None
    except (UnicodeDecodeError, RecursionError):
        raise RouteError(f"{shown}: not JSON in UTF-8") from None
    except ValueError as error:
        raise RouteError(f"{shown}: {error}") from None
    if isinstance(document, list):
        for index, value in enumerate(document):
            yield _Reader(f"{shown}: [{index}]", value).route()
    else:
        yield _Reader(f"{shown}: ", document).route()


def written(family: Family, prefix: Prefix, attributes: Attributes) -> dict[str, Any]:
    """The part of an answer that is the route's."""
    path: list[int | list[int]] = []
    for kind, asns in attributes.as_path.segments():
        path += asns if kind == SegmentType.AS_SEQUENCE else [list(asns)]
    return {
        "prefix": prefix_text(family, prefix),
        "local_pref": attributes.local_pref,
        "as_path": path,
        "communities": [community_text(value) for value in attributes.communities],
        "large_communities": [community_text(value) for value in attributes.large_communities],
    }


def _named(place: str, key: str, message: str) -> str:
    dot = "." if key and place.endswith("]") else ""
    return f"{place}{dot}{key}: {message}" if key else f"{place.rstrip(': ')}: {message}"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    for key, _ in pairs:
        if sum(key == other for other, _ in pairs) > 1:
            raise ValueError(f"{key}: is there more than once")
    return found


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


class _Reader:
    """One object, key by key."""

    def __init__(self, place: str, value: object) -> None:
        self.place = place
        if not isinstance(value, dict):
            self.bad("", f"expected a route, an object with {', '.join(KEYS)}; not {short(value)}")
        self.value: dict[str, Any] = value
        for key in value:
            if key not in KEYS:
                self.bad(key, f"unknown; expected {', '.join(KEYS)}")

    def bad(self, key: str, message: str) -> NoReturn:
        raise RouteError(_named(self.place, key, message))

    def route(self) -> PlacedRoute:
        text = self.text("prefix")
        if text is None:
            self.bad("prefix", "expected, but not there")
        try:
            family, prefix = parse_prefix(text)
        except ValueError as error:
            self.bad("prefix", str(error))
        source = self.text("source")
        sources = [each.value for each in RouteSource]
        if source is not None and source not in sources:
            self.bad("source", f"expected one of {', '.join(sources)}, not {source!r}")
        communities = self.communities("communities")
        attributes = Attributes(
            as_path=self.as_path(),
            local_pref=self.number("local_pref"),
            communities=tuple(value for value in communities if isinstance(value, int)),
            large_communities=tuple(
                value
                for value in (*communities, *self.communities("large_communities", large=True))
                if not isinstance(value, int)
            ),
        )
        route = Route(
            family,
            prefix,
            None if source is None else RouteSource(source),
            self.text("interface") or "",
            attributes,
            self.number("metric") or 0,
            self.next_hop(family),
        )
        return PlacedRoute(route, self.place)

    def text(self, key: str) -> str | None:
        value = self.value.get(key)
        if value is not None and not isinstance(value, str):
            self.bad(key, f"expected a text, not {short(value)}")
        return value

    def number(self, key: str) -> int | None:
        value = self.value.get(key)
        if value is not None and (type(value) is not int or not 0 <= value <= MOST):
            self.bad(key, f"expected a number from 0 to {MOST}, not {short(value)}")
        return value

    def entries(self, key: str) -> list[Any]:
        value = self.value.get(key)
        if value is not None and not isinstance(value, list):
            self.bad(key, f"expected a list, not {short(value)}")
        return value or []

    def communities(self, key: str, large: bool = False) -> list[int | tuple[int, int, int]]:
        found = []
        for index, text in enumerate(self.entries(key)):
            try:
                value = parse_community(text)
                if large and isinstance(value, int):
                    raise ValueError(f"{text!r} is no large community such as 64512:1:2")
            except ValueError as error:
                self.bad(f"{key}[{index}]", str(error))
            found.append(value)
        return found

    def as_path(self) -> AsPath:
        path: list[tuple[SegmentType, tuple[int, ...]]] = []
        sequence: list[int] = []
        for index, entry in enumerate(self.entries("as_path")):
            try:
                if isinstance(entry, list):
                    path.append((SegmentType.AS_SEQUENCE, tuple(sequence)))
                    sequence = []
                    path.append((SegmentType.AS_SET, tuple(parse_asn(each) for each in entry)))
                else:
                    sequence.append(parse_asn(entry))
            except ValueError as error:
                self.bad(f"as_path[{index}]", str(error))
        return AsPath.of(*path, (SegmentType.AS_SEQUENCE, tuple(sequence)))

    def next_hop(self, family: Family) -> Address | None:
        text = self.text("next_hop")
        if text is None:
            return None
        try:
            address = parse_address(text)
        except ValueError as error:
            self.bad("next_hop", str(error))
        if family is Family.IPV6 and family_of(address) is Family.IPV4:
            self.bad("next_hop", f"expected an IPv6 address, as the prefix is, not {text!r}")
        return address


def short(value: object) -> str:
    """A JSON value for messages, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."
