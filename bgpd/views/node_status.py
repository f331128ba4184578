"""The status of a CalicoNodeStatus (calico.md §7.4), made of the daemon's views: what calico-node reports of BIRD."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from bgpd.model.doors import Views
from bgpd.model.prefix import Family
from bgpd.model.status import PeerStatus, RouteView, SessionState
from bgpd.views.bird import EVERYTHING, STATES, VERSION, Ground

MOST_ROUTES = 2000
"""Routes of a family that are reported: an object of the API has at most 1.5 MiB."""
KINDS = {
    "mesh": ("NodeMesh", "NodeMesh"),
    "node": ("NodePeer", "BGPPeer"),
    "global": ("GlobalPeer", "BGPPeer"),
}
"""A session's kind -> its type, and that of the source of its routes."""


def node_status(views: Views, ground: Ground, classes: Collection[str], now: float) -> dict[str, Any]:
    """What is asked for, of ``Agent``, ``BGP`` and ``Routes``. Sessions of pods and of listen ranges have no type
    there: they are left out. ``now`` is Unix seconds."""
    peers = [peer for peer in views.peers() if peer.kind in KINDS]
    found: dict[str, Any] = {"lastUpdated": _time(now)}
    if "Agent" in classes:
        status = views.status()
        agent = {
            "state": "Ready" if status.ready else "NotReady",
            "version": VERSION,
            "routerID": status.router_id,
            "lastBootTime": _time(status.started),
            "lastReconfigurationTime": _time(status.config_loaded),
        }
        found["agent"] = {"birdV4": agent, "birdV6": agent}
    if "BGP" in classes:
        bgp = found["bgp"] = {}
        for family, version in ((Family.IPV4, "V4"), (Family.IPV6, "V6")):
            of = [peer for peer in peers if (":" in peer.address) == (family is Family.IPV6)]
            up = sum(peer.state is SessionState.ESTABLISHED for peer in of)
            bgp[f"numberEstablished{version}"] = up
            bgp[f"numberNotEstablished{version}"] = len(of) - up
            bgp[f"peers{version}"] = [_peer(peer) for peer in of]
    if "Routes" in classes:
        by_id = {peer.id: peer for peer in peers}
        found["routes"] = {
            f"routes{version}": list(islice(_routes(views, ground, by_id, family), MOST_ROUTES))
            for family, version in ((Family.IPV4, "V4"), (Family.IPV6, "V6"))
        }
    return found


def _peer(peer: PeerStatus) -> dict[str, Any]:
    return {
        "peerIP": peer.address,
        "type": KINDS[peer.kind][0],
        "state": STATES[peer.state][1],
        "since": _time(peer.since),
    }


def _routes(
    views: Views, ground: Ground, peers: dict[Any, PeerStatus], family: Family
) -> Iterator[dict[str, Any]]:
    for subnet, interface in ground.connected(family):
        yield _route(subnet, "N/A", interface, {"sourceType": "Direct"}, True)
    for route in views.routes("rib", EVERYTHING[family], None, True):
        if not route.peer:
            interface = ground.workload(route.prefix)
            kind = "Kernel" if interface else "Static"
            yield _route(route.prefix, "N/A", interface or "blackhole", {"sourceType": kind}, route.best)
        elif (peer := peers.get(route.peer)) is not None:
            yield _learned(route, peer, ground)


def _learned(route: RouteView, peer: PeerStatus, ground: Ground) -> dict[str, Any]:
    gateway, interface = ground.way(route.next_hop)
    source = {"sourceType": KINDS[peer.kind][1], "peerIP": peer.address}
    used = bool(interface) and (route.best or route.multipath)
    return _route(route.prefix, gateway or route.next_hop, interface or "unreachable", source, used)


def _route(
    destination: str, gateway: str, interface: str, source: dict[str, str], used: bool
) -> dict[str, Any]:
    return {
        "type": "FIB" if used else "RIB",
        "destination": destination,
        "gateway": gateway,
        "interface": interface,
        "learnedFrom": source,
    }


def _time(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%dT%H:%M:%SZ}"
