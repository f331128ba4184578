"""What ``ip -j route`` and ``ip -j address`` print, as the facts of a node's kernel that a plan needs.

``bgpd plan --kernel`` reads files of it: the answers of both commands, of either family, one after another or each in
a file of its own. What counts as a workload, a tunnel's address or another's route is what ``kernel.neighbours`` takes
for it in life. Mistakes are named by file and key.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from bgpd.cli.routes import short
from bgpd.config.config import KernelOptions
from bgpd.config.named_files import read_named
from bgpd.model.prefix import (
    Address,
    Family,
    Prefix,
    family_of,
    make_prefix,
    parse_address,
    parse_prefix,
)
from bgpd.model.route import ForeignRoute, RouteSource, WorkloadRoute
from bgpd.rules.workloads import (
    BIRD,
    KERNEL,
    REDIRECT,
    UNSPECIFIED,
    connected_route,
    is_learned,
    is_workload,
    tunnel_route,
)
from bgpd.views.plan import KernelFacts

_PROTOCOLS = {
    "unspec": UNSPECIFIED,
    "none": UNSPECIFIED,
    "redirect": REDIRECT,
    "kernel": KERNEL,
    "bird": BIRD,
}
"""Those that are named here; ``ip`` prints others by another name or as a number."""
_MAIN = ("main", "254", 254)


MOST_ROUTES = 512 << 20
"""Octets of what ``ip`` printed: a million routes have about 150 MB."""


class KernelFactsError(Exception):
    """Bad input; the text names the file and the key."""


def read_kernel(files: Iterable[Path], options: KernelOptions) -> KernelFacts:
    """The facts in some files. Raises ``KernelFactsError``."""
    reader = _Reader(options)
    for path in files:
        for place, entries in _lists(path):
            reader.take(place, entries)
    return reader.facts()


def _lists(path: Path) -> Iterator[tuple[str, list[Any]]]:
    """The lists in a file, each with its place for messages."""
    try:
        text = read_named(path, MOST_ROUTES, streams=True).decode().strip()
    except OSError as error:
        raise KernelFactsError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise KernelFactsError(f"{path}: not JSON in UTF-8") from None
    if not text:
        raise KernelFactsError(f"{path}: is empty; expected the output of ip -j route or ip -j address")
    decoder, start, number = json.JSONDecoder(), 0, 0
    while start < len(text):
        try:
            found, end = decoder.raw_decode(text, start)
        except json.JSONDecodeError as error:
            raise KernelFactsError(f"{path}:{error.lineno}:{error.colno}: not JSON: {error.msg}") from None
        except RecursionError:
            raise KernelFactsError(f"{path}: not JSON of ip: nested too deep") from None
        if not isinstance(found, list):
            raise KernelFactsError(f"{path}: expected a list, as ip -j prints it, not {short(found)}")
        number += 1
        yield f"{path}: " + (f"list {number}, " if start or end < len(text) else ""), found
        start = end + len(text[end:]) - len(text[end:].lstrip())


class _Reader:
    """Collects what the lists say. Addresses wait for the end, so that the order of files means nothing."""

    def __init__(self, options: KernelOptions) -> None:
        self.options = options
        self.workloads: dict[Family, set[WorkloadRoute]] = {family: set() for family in Family}
        self.foreign: dict[Family, set[ForeignRoute]] = {family: set() for family in Family}
        self.known: set[Family] = set()
        self.links: dict[str, bool] | None = None
        self.addresses: set[Address] = set()

    def facts(self) -> KernelFacts:
        return KernelFacts(
            {family: frozenset(found) for family, found in self.workloads.items()},
            {family: frozenset(found) for family, found in self.foreign.items()},
            frozenset(self.known),
            self.links,
            frozenset(self.addresses),
        )

    def take(self, place: str, entries: list[Any]) -> None:
        """One list, of routes or of interfaces."""
        parsed = []
        for index, entry in enumerate(entries):
            item = _Item(f"{place}[{index}]", entry)
            if "dst" in item.value:
                parsed.append(item)
            elif "ifname" in item.value:
                self.interface(item)
            elif item.value:
                item.bad("", "expected a route (dst) or an interface (ifname), as ip -j prints them")
        of_list = next((family for item in parsed if (family := item.family())), Family.IPV4)
        for item in parsed:
            self.route(item, item.family() or of_list)

    def route(self, item: _Item, family: Family) -> None:
        self.known.add(family)
        if item.value.get("table", "main") not in _MAIN or item.value.get("tos"):
            return
        if item.value.get("type", "unicast") != "unicast":
            return
        prefix, metric = item.destination(family), item.number("metric")
        hops = item.hops()
        protocol = _protocol(str(item.value.get("protocol", "boot")))
        if not hops or protocol == BIRD:
            return
        gateway, device = hops[0]
        if is_workload(family, prefix, device, gateway, len(hops), self.options.workload_interfaces):
            self.workloads[family].add(WorkloadRoute(prefix, device, metric))
        if is_learned(protocol):
            self.foreign[family].add(ForeignRoute(prefix, RouteSource.KERNEL, device, gateway, metric))

    def interface(self, item: _Item) -> None:
        name = item.text("ifname") or item.bad("ifname", "expected a name")
        flags = item.entries("flags")
        if self.links is None:
            self.links = {}
        self.links[name] = "flags" not in item.value or {"UP", "LOWER_UP"} <= set(map(str, flags))
        for index, entry in enumerate(item.entries("addr_info")):
            inner = _Item(f"{item.place}.addr_info[{index}]", entry)
            if inner.value and inner.value.get("family") in ("inet", "inet6"):
                self.address(inner, name)

    def address(self, item: _Item, interface: str) -> None:
        own = item.address("local")
        if own is None:
            item.bad("local", "expected an address, but not there")
        self.addresses.add(own)
        family, length = family_of(own), item.number("prefixlen", len(own) * 8)
        if length > family.bits:
            item.bad("prefixlen", f"expected at most {family.bits}, not {length}")
        subnet = make_prefix(item.address("address") or own, length)
        if tunnel := tunnel_route(own, interface, self.options.tunnel_interfaces):
            self.workloads[family].add(tunnel)
        if connected := connected_route(family, subnet, interface):
            self.foreign[family].add(connected)


def _protocol(text: str) -> int:
    """The number of a protocol that ``ip`` prints; of a name that is none of ours, any that is learned."""
    return int(text) if text.isdecimal() else _PROTOCOLS.get(text, -1)


class _Item:
    """One object of a list."""

    def __init__(self, place: str, value: object) -> None:
        self.place = place
        if not isinstance(value, dict):
            raise KernelFactsError(f"{place}: expected an object, as ip -j prints it, not {short(value)}")
        self.value: dict[str, Any] = value

    def bad(self, key: str, message: str) -> NoReturn:
        raise KernelFactsError(f"{self.place}{'.' if key else ''}{key}: {message}")

    def text(self, key: str) -> str | None:
        value = self.value.get(key)
        if value is not None and not isinstance(value, str):
            self.bad(key, f"expected a text, not {short(value)}")
        return value

    def number(self, key: str, default: int = 0) -> int:
        value = self.value.get(key, default)
        if type(value) is not int or not 0 <= value <= 0xFFFFFFFF:
            self.bad(key, f"expected a number, not {short(value)}")
        return value

    def entries(self, key: str) -> list[Any]:
        value = self.value.get(key, [])
        if not isinstance(value, list):
            self.bad(key, f"expected a list, not {short(value)}")
        return value

    def address(self, key: str) -> Address | None:
        text = self.text(key)
        try:
            return None if text is None else parse_address(text)
        except ValueError as error:
            self.bad(key, str(error))

    def family(self) -> Family | None:
        """As the destination or the gateway shows it; a default route over an interface alone shows none."""
        if self.text("dst") != "default":
            return self._parsed()[0]
        gateway = self.address("gateway")
        return None if gateway is None else family_of(gateway)

    def destination(self, family: Family) -> Prefix:
        return make_prefix(bytes(family.octets), 0) if self.text("dst") == "default" else self._parsed()[1]

    def _parsed(self) -> tuple[Family, Prefix]:
        try:
            return parse_prefix(self.text("dst") or "")
        except ValueError as error:
            self.bad("dst", str(error))

    def hops(self) -> list[tuple[Address | None, str]]:
        """(gateway, interface) of each leg; none that leads nowhere."""
        legs = [_Item(f"{self.place}.nexthops[{i}]", leg) for i, leg in enumerate(self.entries("nexthops"))]
        found = []
        for leg in legs or [self]:
            via = leg.value.get("via")
            other = _Item(f"{leg.place}.via", via).address("host") if via is not None else None
            if device := leg.text("dev"):
                found.append((leg.address("gateway") or other, device))
        return found
