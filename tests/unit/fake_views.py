"""A node as ``Views`` shows it: three mesh peers and a rack switch, a block, a borrowed address, a conflict.

Everything is a plain value that a test may replace; actions are recorded in ``asked``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from bgpd.config.reading import ConfigError
from bgpd.model.bfd import BfdReport, BfdState, BfdStatus
from bgpd.model.doors import Ambiguous, Impossible, NotFound
from bgpd.model.peer import PeerId
from bgpd.model.prefix import Address, covers, parse_address, parse_prefix
from bgpd.model.resources import Problem
from bgpd.model.route import Reason
from bgpd.model.status import (
    BlockMap,
    BlockView,
    Check,
    DatastoreStatus,
    Difference,
    Explanation,
    FamilyCounts,
    FibStatus,
    PeerAction,
    PeerStatus,
    RouteTable,
    RouteView,
    SessionState,
    Status,
    Step,
    UsedAddress,
)
from bgpd.views.names import choices, peers_of

NOW = 1_763_906_531.0
"""When this was: 2025-11-23 14:02:11 UTC."""

NO_CHANGES: Mapping[str, object] = {
    "schema_version": 1,
    "node": "worker2",
    "changes": False,
    "settings": [],
    "filters": [],
    "sessions": {"added": [], "removed": [], "reset": [], "changed": []},
    "announce": {"added": [], "removed": [], "changed": []},
    "blackholes": {"added": [], "removed": []},
    "kernel_rules": {"added": [], "removed": [], "changed": []},
    "problems": {"added": [], "gone": []},
}
"""What ``views.changes`` finds where nothing would change."""
CONFLICT = Problem("kernel ipv4", "", "10.48.2.0/29: in our way is proto static via 10.0.1.1 dev ens5")
BAD_POOL = Problem("pools.yaml: IPPool broken", "spec.cidr", "'10.48.0.0/240' is not a prefix")


BFD = BfdReport(
    sessions=(
        BfdStatus(
            peers=(PeerId("Global_192_0_2_1"),),
            address="192.0.2.1",
            interface="",
            local_address="192.0.2.9",
            multihop=False,
            state=BfdState.UP,
            remote_state=BfdState.UP,
            since=NOW - 60,
            diagnostic="",
            remote_diagnostic="",
            local_discriminator=17,
            remote_discriminator=23,
            transmit_interval=0.3,
            receive_interval=0.3,
            detection_time=0.9,
            multiplier=3,
            remote_multiplier=3,
            remote_min_tx=0.3,
            remote_min_rx=0.1,
            remote_demand=False,
            control_plane_independent=True,
            polling=False,
            last_error="",
            packets_sent=200,
            packets_received=199,
            ups=2,
            downs={"detection time expired": 1},
        ),
    ),
    discarded={"ttl": 2},
    worst_delay=0.012,
)


def mesh_peer(name: str, address: str, **changes: object) -> PeerStatus:
    """An established session of the mesh."""
    peer = PeerStatus(
        id=f"Mesh_{address.replace('.', '_')}",
        kind="mesh",
        source=f"Node {name}",
        address=address,
        port=179,
        asn=64512,
        local_asn=64512,
        state=SessionState.ESTABLISHED,
        admin_up=True,
        passive=False,
        since=NOW - 3725,
        families=("ipv4",),
        local_address="10.0.1.31",
        router_id=address,
        hold_time=90.0,
        keepalive_time=30.0,
        capabilities_sent=("ipv4 unicast", "4-octet AS", "route refresh", "graceful restart 120 s"),
        capabilities_received=("ipv4 unicast", "4-octet AS", "route refresh", "graceful restart 120 s"),
        flaps={"hold_timer": 1},
        messages_received={"OPEN": 2, "UPDATE": 4, "KEEPALIVE": 125},
        messages_sent={"OPEN": 2, "UPDATE": 3, "KEEPALIVE": 126},
        counts={"ipv4": FamilyCounts(received=3, accepted=2, advertised=2, stale=0)},
    )
    return replace(peer, **changes)  # type: ignore[arg-type]


PEERS = (
    mesh_peer("control", "10.0.1.20"),
    mesh_peer(
        "worker1",
        "10.0.1.30",
        graceful_restart_active=True,
        output_queue=7,
        refused={Reason.FILTERED.value: 1, Reason.AS_LOOP.value: 2},
    ),
    mesh_peer(
        "worker3",
        "10.0.1.33",
        state=SessionState.ACTIVE,
        since=NOW - 95,
        router_id="",
        last_down="NOTIFICATION sent 4/0 Hold Timer Expired",
        last_down_at=NOW - 95,
        last_error_at=NOW - 2,
        last_error="the peer closed the connection\x1b[31m (Cease/2: maintenance)",
        counts={},
        notifications={("received", 6, 2): 1},
    ),
    PeerStatus(
        id="Global_fd00_1__1_port_1179",
        kind="global",
        source="BGPPeer tor-rack1",
        address="fd00:1::1",
        port=1179,
        asn=65001,
        local_asn=64512,
        state=SessionState.DOWN,
        admin_up=False,
        passive=True,
        since=NOW - 90_000,
        families=("ipv4", "ipv6"),
        max_prefixes=1000,
        last_error="shut down by the operator: rack move",
    ),
)

ROUTES: dict[str, tuple[RouteView, ...]] = {
    "in": (
        RouteView(
            "10.48.0.128/26",
            "ipv4",
            "Mesh_10_0_1_20",
            "10.0.1.20",
            "",
            "igp",
            100,
            None,
            best=True,
            kind="bgp",
        ),
        RouteView(
            prefix="10.0.1.0/24",
            family="ipv4",
            peer="Mesh_10_0_1_20",
            next_hop="10.0.1.20",
            origin="igp",
            local_pref=100,
            kind="bgp",
            detail="hidden: it is the connected subnet of ens5",
        ),
        RouteView(
            prefix="192.0.2.0/24",
            family="ipv4",
            peer="Mesh_10_0_1_30",
            next_hop="10.0.1.30",
            as_path="65001 65002",
            origin="incomplete",
            local_pref=100,
            med=10,
            communities=("65000:100", "no-export"),
            best=True,
            multipath=True,
            stale=True,
            kind="bgp",
        ),
        RouteView("fd00:48::/122", "ipv6", "Mesh_10_0_1_30", "fd00:1::30", best=True, kind="bgp"),
    ),
    "out": (
        RouteView(
            "10.48.0.0/26", "ipv4", "Mesh_10_0_1_20", "10.0.1.31", "", "igp", 100, best=True, kind="block"
        ),
    ),
    "rib": (
        RouteView(
            "10.48.0.0/26", "ipv4", best=True, kind="block", detail="BlockAffinity worker2-10-48-0-0-26"
        ),
        RouteView("10.48.0.128/26", "ipv4", "Mesh_10_0_1_20", "10.0.1.20", best=True, kind="bgp"),
        RouteView("10.48.0.40/32", "ipv4", "Mesh_10_0_1_30", "10.0.1.30", best=True, kind="bgp"),
    ),
    "fib": (
        RouteView("10.48.0.0/26", "ipv4", best=True, kind="blackhole", detail="blackhole"),
        RouteView(
            "10.48.0.128/26",
            "ipv4",
            next_hop="10.0.1.20",
            best=True,
            kind="unicast",
            detail="via 10.0.1.20 dev ens5",
        ),
        RouteView(
            "10.48.2.0/29", "ipv4", kind="unicast", detail="not in the kernel: in the way is proto static"
        ),
    ),
}

BLOCKS = (
    BlockView(
        cidr="10.48.0.0/26",
        family="ipv4",
        pool="default",
        affinity="worker2",
        state="confirmed",
        used=10,
        borrowed=("10.48.0.40 by worker1 (default/web-9)",),
        advertised=True,
        blackhole=True,
    ),
    BlockView(
        cidr="10.48.2.8/29",
        family="ipv4",
        pool="hidden",
        affinity="worker2",
        state="pending",
        used=0,
        borrowed=(),
        advertised=False,
        blackhole=False,
        reason="its affinity is pending",
    ),
)

BLOCK_MAP = BlockMap(
    cidr="10.48.0.0/26",
    family="ipv4",
    owner="worker2",
    own=True,
    size=64,
    used=(
        UsedAddress(0, "10.48.0.0", "worker2", "default/web-1", "own"),
        UsedAddress(40, "10.48.0.40", "worker1", "default/web-9", "lent"),
    ),
)

WHY = (
    Explanation(
        "10.48.0.128/26",
        "ipv4",
        "learned from Mesh_10_0_1_20",
        (
            Step("heard", "Mesh_10_0_1_20: next hop 10.0.1.20, AS path (empty)"),
            Step("decision", "best: Mesh_10_0_1_20, the only path"),
            Step("next hop", "10.0.1.20: via 10.0.1.20 dev ens5"),
            Step("kernel", "10.48.0.128/26 via 10.0.1.20 dev ens5 proto bird: installed"),
            Step("export", "not advertised to Mesh_10_0_1_30: learned from an internal peer", ok=False),
        ),
    ),
)


CONFIG_KEYS = [
    {"key": "node", "value": "worker2", "default": True},
    {"key": "bgp.listen", "value": ["0.0.0.0", "::"], "default": True},
    {"key": "bgp.defaults.hold_time", "value": 90, "default": True, "file": 30, "after": "reload"},
    {"key": "metrics.listen", "value": None, "default": False, "file": "127.0.0.1:9179", "after": "restart"},
]
"""What ``views.configuration`` makes."""


class FakeViews:
    """Fulfils ``model.doors.Views``."""

    def __init__(self) -> None:
        self.peers_now = list(PEERS)
        self.routes_now = dict(ROUTES)
        self.blocks_now = list(BLOCKS)
        self.refuse_reload: tuple[Problem, ...] = ()
        self.bfd_now = BFD
        self.live_now = [Check("event loop", True, "held for at most 0.002 s lately")]
        self.ready_now = [
            Check("config", True),
            Check("datastore", True),
            Check("kernel", True),
            Check("speaker", True),
        ]
        self.asked: list[tuple[object, ...]] = []
        self.planned: dict[str, bytes] = {}
        """The files of the last plan."""
        self.plan_now: Mapping[str, object] = NO_CHANGES
        self.refuse_plan = ""
        self.drained = 0
        self.differences_now: list[Difference] = []
        self.configuration_now: dict[str, object] = {
            "file": "/etc/bgpd/bgpd.yaml",
            "error": "",
            "keys": CONFIG_KEYS,
        }

    def status(self) -> Status:
        return Status(
            node="worker2",
            drain=self.drained,
            drain_words="services are withdrawn" if self.drained else "",
            version="0.1.0",
            asn=64512,
            router_id="10.0.1.31",
            started=NOW - 7300,
            ready=all(check.ok for check in self.ready_now),
            in_sync=True,
            checks=tuple(self.ready_now),
            datastore=DatastoreStatus(
                backend="files",
                up=True,
                in_sync=True,
                detail="",
                problems=(BAD_POOL,),
                resources={"IPPool": 2, "Node": 3, "BlockAffinity": 5},
                events={("IPPool", "add"): 2, ("BlockAffinity", "delete"): 1},
                errors={"invalid": 1},
                last_event=NOW - 12,
            ),
            config_file="/etc/bgpd/bgpd.yaml",
            config_loaded=NOW - 7300,
            config_hash=2**48 - 1,
            config_error="",
            reloads={"success": 1, "failure": 0},
            peers_up=sum(peer.state is SessionState.ESTABLISHED for peer in self.peers_now),
            peers_wanted=sum(peer.admin_up for peer in self.peers_now),
            peers_shut_down=sum(not peer.admin_up for peer in self.peers_now),
            routes_desired={("block", "ipv4"): 1, ("borrowed", "ipv4"): 1},
            routes_advertised={("block", "ipv4"): 1, ("borrowed", "ipv4"): 1},
            rib_routes={("ipv4", "bgp"): 3, ("ipv4", "local"): 2},
            rib_paths={("ipv4", "bgp"): 4},
            fib={
                "ipv4": FibStatus(
                    routes={"unicast": 3, "blackhole": 1},
                    wanted=5,
                    pending=1,
                    drift={"missing": 0, "extra": 0, "changed": 0},
                    operations={("put", "ok"): 9, ("put", "error"): 1, ("delete", "ok"): 2},
                    errors={("put", "EEXIST"): 1},
                    repairs={"missing": 2},
                    conflicts={"10.48.2.0/29": "proto static via 10.0.1.1 dev ens5"},
                    last_sync=NOW - 21,
                ),
                "ipv6": FibStatus(last_sync=NOW - 22),
            },
            netlink_overruns=0,
            update_groups=2,
            ipam_blocks={("default", "ipv4"): 1},
            ipam_borrowed={"ipv4": 1},
            event_loop_lag=0.002,
            last_routes_change=NOW - 300,
            problems=(BAD_POOL, CONFLICT),
        )

    def peers(self, name: str | None = None) -> list[PeerStatus]:
        return list(self.peers_now) if name is None else [self._peer(name)]

    async def history(self, since: float, until: float, peer: str, target: str, most: int) -> list[str]:
        """Two entries, as they were asked for."""
        if target == "nobody":
            raise ValueError("'nobody' is not a prefix, an address or a name")
        self.asked.append(("history", str(since), str(until), peer, target, str(most)))
        return [
            '{"time": 1763906500.125, "event": "peer_up", "level": "info", "peer": "a", "families": ["ipv4"]}',
            '{"time": 1763906501.000, "event": "route_gone", "level": "info", "prefix": "10.48.0.0/26"}',
        ]

    def addresses(self, name: str) -> list[Address]:
        """``pod-1`` is in the block that ``routes_now`` has."""
        if name == "default/pod-1":
            return [parse_address("10.48.0.130")]
        raise ValueError(f"{name!r} is not a prefix, an address or a name")

    def routes(
        self, table: RouteTable, prefix: str | None, peer: str | None, longer: bool = False
    ) -> Iterator[RouteView]:
        only = parse_prefix(prefix) if prefix else None
        if peer is not None:
            peer = self._peer(peer).id
        for row in self.routes_now[table]:
            family, key = parse_prefix(row.prefix)
            if only and (family is not only[0] or not (covers(only[1], key) if longer else key == only[1])):
                continue
            if peer is None or row.peer == peer:
                yield row

    def bfd(self) -> BfdReport:
        return self.bfd_now

    def blocks(self) -> list[BlockView]:
        return list(self.blocks_now)

    def block_maps(self) -> list[BlockMap]:
        return [BLOCK_MAP]

    def why(self, target: str) -> list[Explanation]:
        parse_prefix(target)
        return [one for one in WHY if one.prefix == target]

    def diff(self) -> Iterator[Difference | None]:
        yield None
        yield from self.differences_now

    async def configuration(self) -> Mapping[str, object]:
        return self.configuration_now

    def live(self) -> list[Check]:
        return self.live_now

    def ready(self) -> list[Check]:
        return self.ready_now

    async def plan(self, files: Mapping[str, bytes]) -> Mapping[str, object]:
        self.planned = dict(files)
        if self.refuse_plan:
            raise Impossible(self.refuse_plan)
        return self.plan_now

    async def reload(self) -> str:
        self.asked.append(("reload",))
        if self.refuse_reload:
            raise ConfigError(self.refuse_reload)
        return "changed: bgp"

    async def ipam(self, order: Mapping[str, object]) -> Mapping[str, object]:
        return {"ips": [{"address": "10.48.0.1", "block": "10.48.0.0/26"}], "asked": order}

    async def drain(self, *, withdraw: bool, wait: float, keep: bool) -> str:
        self.asked.append(("drain", withdraw, wait, keep))
        self.drained = 3 if withdraw else 2
        return "drained"

    async def undrain(self) -> str:
        self.asked.append(("undrain",))
        self.drained = 0
        return "back"

    async def peer_action(self, action: PeerAction, name: str, message: str) -> str:
        peer = self._peer(name)
        self.asked.append((action, peer.id, message))
        return f"{peer.id}: {action}"

    def _peer(self, name: str) -> PeerStatus:
        found = peers_of(name, None, self.peers_now)
        if len(found) > 1:
            raise Ambiguous(f"{name!r} may be any of {choices(peer.id for peer in found)}")
        if not found:
            raise NotFound(f"no peer is named {name!r} and none has that address")
        return found[0]
