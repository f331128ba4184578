"""What BIRD 1.6 would say of this node, in its very words and columns (calico.md §7.1): for ``observe.birdctl``.

calicoctl, calico-node's checks, birdc and exporters parse it, so a space more is a defect: codes and formats are those
of BIRD's ``proto.c``, ``proto/bgp/bgp.c`` and ``nest/rt-table.c``, headings and the one word of a time included. Of a
route the time is that of its session or of our start. Orders are refused: ``bgpctl`` takes them.
"""

from __future__ import annotations

import fnmatch
import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from bgpd import __version__
from bgpd.model.doors import Views
from bgpd.model.peer import PeerId
from bgpd.model.prefix import (
    Family,
    address_text,
    make_prefix,
    network_address,
    parse_address,
    parse_prefix,
    prefix_text,
)
from bgpd.model.route import Resolution
from bgpd.model.status import PeerStatus, RouteView, SessionState
from bgpd.views.live import Parts

VERSION = f"v1.6.8+bgpd{__version__}"
"""Whose words these are, and who says them; readers want the ``v``."""
DAY = 20 * 3600.0
"""Seconds after which a time is a date: BIRD's ``iso short``."""
PREFERENCE = 100
"""The preference of BGP's routes."""
OWN_PREFERENCES = {"kernel1": 10, "static1": 200, "direct1": 240}
LONGEST_WORDS = 200
EVERYTHING = {Family.IPV4: "0.0.0.0/0", Family.IPV6: "::/0"}
STATES = {
    SessionState.DOWN: ("down", "Idle"),
    SessionState.IDLE: ("start", "Idle"),
    SessionState.CONNECT: ("start", "Connect"),
    SessionState.ACTIVE: ("start", "Active"),
    SessionState.OPEN_SENT: ("start", "OpenSent"),
    SessionState.OPEN_CONFIRM: ("start", "OpenConfirm"),
    SessionState.ESTABLISHED: ("up", "Established"),
}
"""The state of a session: the protocol's, and BGP's."""
OTHERS = (("static1", "Static"), ("kernel1", "Kernel"), ("device1", "Device"), ("direct1", "Direct"))
ORDERS = frozenset(
    (
        *("configure", "reload", "graceful", "disable", "enable", "restart", "down"),
        *("add", "delete", "debug", "mrtdump", "dump", "echo"),
    )
)
"""What BIRD would do, and is not done here."""


class Ground(NamedTuple):
    """What rows of routes do not say."""

    way: Callable[[str], tuple[str, str]]
    """A next hop -> the gateway and the interface; both empty where it leads nowhere."""
    workload: Callable[[str], str]
    """A prefix -> the interface of the workload that has it here; empty where none has."""
    connected: Callable[[Family], Iterable[tuple[str, str]]]
    """Subnets of this node's links, each with the interface."""
    patience: float
    """Seconds that a start waits for peers at most."""


def ground(parts: Parts, patience: float) -> Ground:
    """Of a running daemon."""

    def way(text: str) -> tuple[str, str]:
        found = parts.kernel.resolve(parse_address(text))
        if not isinstance(found, Resolution):
            return "", ""
        hop = found.via.hops[0]
        gateway = address_text(hop.gateway) if hop.gateway else text
        return gateway, parts.kernel.interface_name(hop.ifindex)

    def workload(text: str) -> str:
        family, prefix = parse_prefix(text)
        routes = parts.kernel.workloads().get(family, frozenset())
        return next((route.interface for route in routes if route.prefix == prefix), "")

    def connected(family: Family) -> list[tuple[str, str]]:
        return [
            (prefix_text(family, prefix), name) for prefix, name in parts.kernel.connected(family).items()
        ]

    return Ground(way, workload, connected, patience)


class Bird:
    """Answers of one node. Fulfils ``observe.birdctl.Words``."""

    def __init__(self, views: Views, ground: Ground, now: Callable[[], float] = time.time) -> None:
        self._views, self._ground, self._now = views, ground, now

    def greeting(self) -> str:
        """The first line of a connection."""
        return f"0001 BIRD {VERSION} ready."

    def answer(self, family: Family, command: str) -> Iterator[str]:
        """The lines of the answer to a command."""
        words = command.split()
        if words[0] in ORDERS:
            yield "8007 Access denied: orders are bgpctl's"
        elif words == ["restrict"]:
            yield "0016 Access restricted"
        elif words == ["show", "status"]:
            yield from self._status()
        elif words[:2] == ["show", "protocols"]:
            yield from self._protocols(family, words[2:])
        elif words[:2] == ["show", "route"]:
            yield from self._routes(family, words[2:])
        else:
            yield "9001 syntax error, expected show status, show protocols [all] or show route"

    # -- show status ---------------------------------------------------------------------------------------------------

    def _status(self) -> Iterator[str]:
        status, now = self._views.status(), self._now()
        yield f"1000-BIRD {VERSION}"
        yield f"1011-Router ID is {status.router_id or '0.0.0.0'}"
        yield f" Current server time is {_long(now)}"
        yield f" Last reboot on {_long(status.started)}"
        yield f" Last reconfiguration on {_long(status.config_loaded)}"
        if not status.in_sync:
            waiting = max(0, status.peers_wanted - status.peers_up)
            limit = int(self._ground.patience)
            age = min(limit, max(0, int(now - status.started)))
            yield "0024-Graceful restart recovery in progress"
            yield f"   Waiting for {waiting} protocols to recover"
            yield f"   Wait timer is {age}/{limit}"
        yield "0013 Daemon is up and running"

    # -- show protocols ------------------------------------------------------------------------------------------------

    def _protocols(self, family: Family, words: list[str]) -> Iterator[str]:
        every = words[:1] == ["all"]
        names = words[1:] if every else words
        if len(names) > 1:
            yield "9001 syntax error, expected one name"
            return
        peers = [peer for peer in self._views.peers() if _of(family, peer)]
        status = self._views.status()
        rows: list[tuple[str, str, PeerStatus | None]] = [(name, kind, None) for name, kind in OTHERS]
        rows += [(peer.id, "BGP", peer) for peer in peers]
        if names:
            pattern = names[0]
            if quoted := re.fullmatch(r'"([^"]*)"', pattern):
                rows = [row for row in rows if fnmatch.fnmatchcase(row[0], quoted[1].replace("[", "[[]"))]
                if not rows:
                    yield "8003 No protocols match"
                    return
            else:
                rows = [row for row in rows if row[0] == pattern]
                if not rows:
                    yield f"9001 {_words(pattern)}: Not a protocol"
                    return
        yield "2002-name     proto    table    state  since       info"
        code = ""
        for name, kind, peer in rows:
            start = "1002-" if code != "1002" else " "
            yield start + self._row(name, kind, peer, status.started)
            code = "1002"
            if every:
                lines = _details(peer, family) if peer is not None else ("  Preference:     0",)
                for number, line in enumerate((*lines, "")):
                    yield f"{'1006-' if not number else ' '}{line}"
                code = "1006"
        yield "0000 "

    def _row(self, name: str, kind: str, peer: PeerStatus | None, started: float) -> str:
        state, since, info = "up", started, ""
        if peer is not None:
            state, bgp = STATES[peer.state]
            since, info = peer.since, bgp
            if peer.state is not SessionState.ESTABLISHED and peer.last_error:
                info = f"{bgp:<14}{_words(peer.last_error)}"
        return f"{name:<8} {kind:<8} {'master':<8} {state:<5}  {self._short(since):<10}  {info}"

    def _short(self, moment: float) -> str:
        """A time in one word."""
        form = "%H:%M:%S" if abs(self._now() - moment) < DAY else "%Y-%m-%d"
        return time.strftime(form, time.localtime(moment))

    # -- show route ----------------------------------------------------------------------------------------------------

    def _routes(self, family: Family, words: list[str]) -> Iterator[str]:
        prefixes, longer, only, count = [EVERYTHING[family]], True, "", False
        rest = list(words)
        try:
            while rest:
                word = rest.pop(0)
                if word == "count":
                    count = True
                elif word == "protocol":
                    only = rest.pop(0)
                elif word == "for":
                    prefixes, longer = _around(family, rest.pop(0)), False
                elif word not in ("all", "primary"):
                    prefixes, longer = _around(family, word)[:1], False
        except (ValueError, IndexError):
            yield "9001 syntax error, expected show route [for] [PREFIX] [protocol NAME] [count]"
            return
        since = {peer.id: self._short(peer.since) for peer in self._views.peers()}
        started = self._short(self._views.status().started)
        last, number, networks, code = "", 0, 0, "1007-"
        for prefix in prefixes:
            for route in self._rows(family, prefix, longer):
                name, way, info = self._told(route)
                if only and name != only:
                    continue
                first = route.prefix != last
                last = route.prefix
                number += 1
                networks += first
                if not count:
                    when, star = since.get(PeerId(route.peer), started), " *" if route.best else ""
                    network = route.prefix if first else ""
                    yield f"{code}{network:<18} {way} [{name} {when}]{star} {info}"
                    code = " "
            if number:
                break
        if count:
            yield f"0014 {number} of {number} routes for {networks} networks"
        elif not number and not longer:
            yield "8001 Network not in table"
        else:
            yield "0000 "

    def _rows(self, family: Family, prefix: str, longer: bool) -> Iterator[RouteView]:
        """Routes, those of one prefix one after another."""
        for subnet, interface in self._ground.connected(family):
            if longer or subnet == prefix:
                yield RouteView(subnet, family.label, best=True, kind="connected", detail=interface)
        yield from self._views.routes("rib", prefix, None, longer)

    def _told(self, route: RouteView) -> tuple[str, str, str]:
        """Of a route: the protocol, where it leads, and what is behind."""
        if route.peer:
            gateway, device = self._ground.way(route.next_hop)
            way = f"via {gateway} on {device}" if device else "unreachable"
            origin = {"igp": "i", "egp": "e"}.get(route.origin, "?")
            path = re.findall(r"[0-9]+", route.as_path)
            cost = "0" if device else "-"
            return route.peer, way, f"({PREFERENCE}/{cost}) [{f'AS{path[-1]}' if path else ''}{origin}]"
        if route.kind == "connected":
            name, way = "direct1", f"dev {route.detail}"
        elif interface := self._ground.workload(route.prefix):
            name, way = "kernel1", f"dev {interface}"
        else:
            name, way = "static1", "blackhole"
        return name, way, f"({OWN_PREFERENCES[name]})"


def _details(peer: PeerStatus, family: Family) -> Iterator[str]:
    """What ``show protocols all`` says of a session under its row."""
    state, bgp = STATES[peer.state]
    label = family.label if family.label in peer.counts else next(iter(peer.counts), "")
    counts = peer.counts.get(label)
    received, accepted, advertised = (
        (counts.received, counts.accepted, counts.advertised) if counts else (0, 0, 0)
    )
    yield f"  Preference:     {PREFERENCE}"
    yield "  Input filter:   (unnamed)"
    yield "  Output filter:  (unnamed)"
    if state == "up":
        refused = received - accepted
        yield f"  Routes:         {accepted} imported, {refused} filtered, {advertised} exported, {accepted} preferred"
    yield f"  BGP state:          {bgp}"
    yield f"    Neighbor address: {peer.address}"
    yield f"    Neighbor AS:      {peer.asn}"
    if peer.graceful_restart_active:
        yield "    Neighbor graceful restart active"
    if state == "up":
        internal = "internal" if peer.asn == peer.local_asn else "external"
        yield f"    Neighbor ID:      {peer.router_id}"
        yield f"    Session:          {internal} AS4"
        yield f"    Source address:   {peer.local_address}"
        if peer.max_prefixes is not None:
            yield f"    Route limit:      {received}/{peer.max_prefixes}"
        yield f"    Hold timer:       {peer.hold_time:.0f}/{peer.hold_time:.0f}"
        yield f"    Keepalive timer:  {peer.keepalive_time:.0f}/{peer.keepalive_time:.0f}"
    if peer.last_error:
        yield f"    Last error:       {_words(peer.last_error)}"


def _of(family: Family, peer: PeerStatus) -> bool:
    return (":" in peer.address) == (family is Family.IPV6)


def _around(family: Family, word: str) -> list[str]:
    """A prefix (an address is its host's) and all that cover it, the longest first; ``ValueError``."""
    of, prefix = parse_prefix(word)
    if of is not family:
        raise ValueError(word)
    network = network_address(family, prefix)
    return [prefix_text(family, make_prefix(network, length)) for length in range(prefix[0], -1, -1)]


def _words(text: str) -> str:
    """Words of others on one line of ours."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:LONGEST_WORDS])


def _long(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
