"""The values of the configuration that have a text of their own: addresses, prefixes, paths, endpoints, each with its
parser (``ValueError`` says what was expected), its JSON Schema and its text. ``config`` puts them together.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from bgpd.config.section import Kind, checked, list_of, text, whole
from bgpd.model.prefix import (
    Address,
    Family,
    Prefix,
    address_text,
    covers,
    parse_address,
    parse_prefix,
    prefix_text,
)
from bgpd.model.resources import ClusterRoutes


class Password:
    """Its octets, which no text of this object shows."""

    __slots__ = ("octets",)

    def __init__(self, octets: bytes) -> None:
        self.octets = octets

    def __repr__(self) -> str:
        return "Password(...)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Password) and other.octets == self.octets

    def __hash__(self) -> int:
        return hash(self.octets)


class Endpoint(NamedTuple):
    """Where a TCP server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Network(NamedTuple):
    """A prefix that shows its family."""

    family: Family
    prefix: Prefix

    def __str__(self) -> str:
        return prefix_text(self.family, self.prefix)


LINK_LOCAL = Network(*parse_prefix("fe80::/10"))
"""Addresses that mean something on one link only (RFC 4291 §2.5.6)."""


def _network(value: object) -> Network:
    if not isinstance(value, str) or "/" not in value:
        raise ValueError(f"{value!r} is not a prefix such as 192.0.2.0/24 or 2001:db8::/64")
    network = Network(*parse_prefix(value))
    if network.family is LINK_LOCAL.family and covers(LINK_LOCAL.prefix, network.prefix):
        raise ValueError(
            f"{value!r} is link-local: such a neighbour needs a BGPPeer that names the interface"
        )
    return network


def _address(value: object) -> Address:
    if isinstance(value, str):
        return parse_address(value)
    raise ValueError(f"{value!r} is not an IPv4 or IPv6 address")


def _endpoint(value: object) -> Endpoint:
    host, colon, port = str(value).rpartition(":")
    if not (isinstance(value, str) and colon and port.isascii() and port.isdigit() and int(port) < 65536):
        raise ValueError(f"{value!r} is not ADDRESS:PORT, such as 127.0.0.1:9179 or [::1]:9179")
    bracketed = host.startswith("[") and host.endswith("]")
    address = parse_address(host[1:-1] if bracketed else host)
    if bracketed != (len(address) == 16):
        raise ValueError(f"{value!r}: an IPv6 address stands in brackets, an IPv4 address does not")
    return Endpoint(address_text(address), int(port))


def _path(value: object) -> Path:
    if isinstance(value, str) and value.startswith("/") and value.isprintable():
        return Path(value)
    raise ValueError(f"{value!r} is not an absolute path")


def _url(value: object) -> str:
    text = value.rstrip("/") if isinstance(value, str) else ""
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good or text != f"{parts.scheme}://{parts.netloc}" or "@" in text:
        raise ValueError(f"{value!r} is not http://HOST:PORT or https://HOST:PORT")
    return text


def _families(value: object) -> frozenset[Family]:
    names = {family.label: family for family in Family}
    given = value if isinstance(value, list) else []
    if not given or not all(isinstance(name, str) and name in names for name in given):
        raise ValueError(f"{value!r} is not a list of ipv4 and ipv6")
    return frozenset(names[name] for name in given)


def _router_id(value: object) -> Literal["auto", "hash"] | Address:
    if value == "auto" or value == "hash":
        return value
    try:
        address = _address(value)
    except ValueError:
        address = Address(b"")
    if len(address) != 4 or not any(address):
        raise ValueError(f"{value!r} is not auto, hash or an IPv4 address")
    return address


def _cluster_routes(value: object) -> ClusterRoutes:
    if isinstance(value, str) and value in {mode.value for mode in ClusterRoutes}:
        return ClusterRoutes(value)
    raise ValueError(f"expected {', '.join(mode.value for mode in ClusterRoutes)}, not {value!r}")


def _hold_time(value: int) -> int:
    if value in (1, 2):
        raise ValueError(f"{value} is not 0 (never expire) or at least 3 seconds (RFC 4271 §4.2)")
    return value


_UNITS = {"us": 1, "ms": 1000, "s": 1_000_000}
INTERVALS = (10_000, 60_000_000)
"""The shortest and the longest interval of BFD that may be asked for, in microseconds."""


def _interval(value: object) -> int:
    found = re.fullmatch(r"(\d{1,9})(us|ms|s)", value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"expected a time such as 300ms, not {value!r}")
    interval = int(found[1]) * _UNITS[found[2]]
    if not INTERVALS[0] <= interval <= INTERVALS[1]:
        raise ValueError(f"expected 10ms to 60s, not {value}")
    return interval


def interval_text(microseconds: int) -> str:
    """An interval as the configuration has it: ``300ms``."""
    for unit, size in reversed(_UNITS.items()):
        if microseconds % size == 0:
            return f"{microseconds // size}{unit}"
    raise AssertionError(microseconds)


_SIZES = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
LEAST_MEMORY = 1 << 20


def _memory(value: object) -> Literal["auto"] | int:
    if value == "auto":
        return "auto"
    if value == "off" or (isinstance(value, int) and not isinstance(value, bool) and value == 0):
        return 0
    found = re.fullmatch(r"(\d{1,9})(KiB|MiB|GiB)", value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"expected auto, off or a size such as 512MiB (of KiB, MiB, GiB), not {value!r}")
    octets = int(found[1]) * _SIZES[found[2]]
    if octets < LEAST_MEMORY:
        raise ValueError(f"expected at least 1MiB, or off, not {value}")
    return octets


def _disk(value: object) -> int:
    size = "auto" if value == "auto" else _memory(value)
    if size == "auto":
        raise ValueError("expected off or a size such as 64MiB (of KiB, MiB, GiB), not 'auto'")
    return size


def memory_text(value: Literal["auto"] | int) -> str:
    """A size as the configuration has it: ``512MiB``, ``auto``, ``off``."""
    if not isinstance(value, int):
        return value
    for unit, size in reversed(_SIZES.items()):
        if value and value % size == 0:
            return f"{value // size}{unit}"
    return "off"


def _asns(value: tuple[int, ...]) -> tuple[int, ...]:
    if not value:
        raise ValueError("expected a list of at least one AS number")
    return value


def _node(value: str) -> str:
    if value != value.strip().lower():
        raise ValueError(f"{value!r}: names of Nodes are lower case, without spaces")
    return value


ADDRESS = Kind(_address, {"type": "string", "description": "IPv4 or IPv6"}, address_text)
PATH = Kind(_path, {"type": "string", "pattern": "^/", "format": "path"}, str)
URL = Kind(_url, {"type": "string", "pattern": "^https?://[^/@]+/?$"})
ENDPOINT = Kind(_endpoint, {"type": "string", "pattern": "^.+:[0-9]+$"}, str)
ROUTER_ID: Kind[Literal["auto", "hash"] | Address] = Kind(
    _router_id,
    {"anyOf": [{"enum": ["auto", "hash"]}, {"type": "string", "format": "ipv4"}]},
    lambda value: value if isinstance(value, str) else address_text(value),
)
FAMILIES = Kind(
    _families,
    {"type": "array", "items": {"enum": ["ipv4", "ipv6"]}, "minItems": 1},
    lambda families: sorted(family.label for family in families),
)
NETWORK = Kind(_network, {"type": "string", "description": "IPv4 or IPv6 prefix"}, str)
CLUSTER_ROUTES = Kind(
    _cluster_routes, {"enum": [mode.value for mode in ClusterRoutes]}, lambda mode: mode.value
)
INTERVAL = Kind(_interval, {"type": "string", "pattern": "^[0-9]+(us|ms|s)$"}, interval_text)
_SIZE = {"type": "string", "pattern": "^[0-9]+(KiB|MiB|GiB)$"}
MEMORY_SIZE = Kind(_memory, {"anyOf": [{"enum": ["auto", "off", 0]}, _SIZE]}, memory_text)
DISK_SIZE = Kind(_disk, {"anyOf": [{"enum": ["off", 0]}, _SIZE]}, memory_text)
PORT = whole(1, 65535)
ASN = whole(1, 0xFFFFFFFF)
ASNS = checked(list_of(ASN), _asns)
INTERFACE_PATTERN = text(15)
HOLD_TIME = checked(whole(0, 65535), _hold_time)
NODE_NAME = checked(text(253), _node)
