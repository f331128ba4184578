"""What the operator sees of a daemon: frozen values, made by ``views`` and the doors, shown by ``observe``.

Prefixes and addresses are text here: this is the edge. Times are Unix seconds. Who may ask for them: ``model.doors``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

from bgpd.model.peer import PeerId
from bgpd.model.resources import Problem


@dataclass(frozen=True, slots=True)
class DatastoreStatus:
    backend: str
    up: bool
    in_sync: bool
    detail: str
    """In words, why it is not up or not in sync; empty when all is well."""
    problems: tuple[Problem, ...] = ()
    resources: Mapping[str, int] = field(default_factory=dict)
    """How many there are: kind -> count."""
    events: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """(kind, action) -> count; action is ``add``, ``change`` or ``delete``."""
    errors: Mapping[str, int] = field(default_factory=dict)
    """Reason -> count; a small fixed set of words (``datastore.objects.REASONS``): ``yaml``, ``invalid``,
    ``duplicate``, ``io``, ``empty`` (a file that says nothing any more), ``vanished`` (all of a kind at once)."""
    last_event: float | None = None
    resyncs: int = 0
    """How often everything was read anew after the first time: a watch that broke, an overflowed queue."""
    as_of: float | None = None
    """When what is in force was last known to be true, while the store is away; ``None`` while it is there."""


class SessionState(IntEnum):
    """RFC 4271 §8.2.2, numbered as bgpPeerState of RFC 4273; 0 is "no session wanted" (shut down by the operator)."""

    DOWN = 0
    IDLE = 1
    CONNECT = 2
    ACTIVE = 3
    OPEN_SENT = 4
    OPEN_CONFIRM = 5
    ESTABLISHED = 6


@dataclass(frozen=True, slots=True)
class FamilyCounts:
    """Prefixes of one session in one family."""

    received: int = 0
    accepted: int = 0
    advertised: int = 0
    stale: int = 0


@dataclass(frozen=True, slots=True)
class PeerStatus:
    id: PeerId
    kind: str
    source: str
    address: str
    port: int
    asn: int
    local_asn: int
    state: SessionState
    admin_up: bool
    passive: bool
    since: float
    """When ``state`` last entered or left Established."""
    families: tuple[str, ...]
    """Negotiated when established, else configured: ``ipv4``, ``ipv6``."""
    local_address: str = ""
    router_id: str = ""
    hold_time: float = 0.0
    keepalive_time: float = 0.0
    capabilities_sent: tuple[str, ...] = ()
    capabilities_received: tuple[str, ...] = ()
    graceful_restart_active: bool = False
    max_prefixes: int | None = None
    last_down: str = ""
    """Why the last established session ended; stays until the next one ends."""
    last_down_at: float | None = None
    last_error: str = ""
    """Why there is no session: why the last one ended or, later, why none comes up. Also what is wrong beside one."""
    last_error_at: float | None = None
    """The moment at which the last error happened."""
    flaps: Mapping[str, int] = field(default_factory=dict)
    """How often sessions ended: DownReason value -> count."""
    messages_received: Mapping[str, int] = field(default_factory=dict)
    """``OPEN UPDATE NOTIFICATION KEEPALIVE ROUTE-REFRESH`` -> count."""
    messages_sent: Mapping[str, int] = field(default_factory=dict)
    notifications: Mapping[tuple[str, int, int], int] = field(default_factory=dict)
    """(``sent`` or ``received``, code, subcode) -> count."""
    output_queue: int = 0
    """Prefixes waiting for the peer to read."""
    memory: int = 0
    """Octets that the peer holds of this machine's memory, reckoned; filled in by the daemon."""
    update_errors: int = 0
    """UPDATEs treated as withdraw or with a discarded attribute (RFC 7606)."""
    refused: Mapping[str, int] = field(default_factory=dict)
    """Why import does not accept routes of the peer, in words -> how many; filled in by the daemon from the RIBs."""
    first_as: int = 0
    """Routes whose AS path does not start with the peer's AS (a route server's), accepted or not."""
    counts: Mapping[str, FamilyCounts] = field(default_factory=dict)
    """Family label -> counts; filled in by the daemon from the RIBs."""


@dataclass(frozen=True, slots=True)
class RouteView:
    """One row of ``bgpctl routes``; what a table does not know stays empty."""

    prefix: str
    family: str
    peer: str = ""
    next_hop: str = ""
    as_path: str = ""
    origin: str = ""
    local_pref: int | None = None
    med: int | None = None
    communities: tuple[str, ...] = ()
    best: bool = False
    multipath: bool = False
    stale: bool = False
    path_id: int = 0
    kind: str = ""
    """``bgp``, ``block``, ``borrowed``, ``blackhole``, ``unicast``."""
    detail: str = ""
    """The reason it is not used, the source, or the kernel's words for it."""


@dataclass(frozen=True, slots=True)
class BlockView:
    """One row of ``bgpctl blocks``: a block that we own, lend from or borrow of."""

    cidr: str
    family: str
    pool: str
    affinity: str
    state: str
    used: int
    borrowed: tuple[str, ...]
    """``10.48.0.40 by worker1 (default/web-9)`` for lent ones, ``... from worker2 (...)`` for ours of others."""
    advertised: bool
    blackhole: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class UsedAddress:
    """An address of a block that somebody has."""

    offset: int
    """From the block's first address."""
    address: str
    node: str
    owner: str
    """``namespace/pod``, the tunnel's type, or the IPAM handle."""
    state: Literal["own", "lent", "borrowed", "other"]
    """Whose the address is, and whose the block: ours of our block, another's of our block, ours of another's block;
    ``other``: another's of another's block."""


@dataclass(frozen=True, slots=True)
class BlockMap:
    """Address by address, a block that we own, lend from or borrow of."""

    cidr: str
    family: str
    owner: str
    """The node; empty without one."""
    own: bool
    size: int
    used: tuple[UsedAddress, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an explanation."""

    stage: Literal["origin", "heard", "import", "decision", "next hop", "kernel", "export", "advertised"]
    text: str
    ok: bool = True


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why one prefix is, or is not, where it is."""

    prefix: str
    family: str
    verdict: str
    """The outcome, in one line."""
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class FibStatus:
    """The kernel door and its reconciler, one family."""

    routes: Mapping[str, int] = field(default_factory=dict)
    """``unicast`` and ``blackhole`` -> routes of ours in the kernel."""
    wanted: int = 0
    pending: int = 0
    drift: Mapping[str, int] = field(default_factory=dict)
    """``missing extra changed`` -> count at the last full compare."""
    operations: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """(``put`` or ``delete``, ``ok`` or ``error``) -> count."""
    errors: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """(operation, errno name) -> count."""
    repairs: Mapping[str, int] = field(default_factory=dict)
    """``missing extra changed`` -> routes put right after somebody else's change."""
    conflicts: Mapping[str, str] = field(default_factory=dict)
    """Prefix -> whose route stands in our way, in words; the node's own default route is in nobody's."""
    nexthop_objects: int = 0
    last_sync: float | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """One line of ``/readyz?verbose`` and ``/livez?verbose``."""

    name: str
    ok: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Status:
    """``bgpctl status``: one screen."""

    node: str
    version: str
    asn: int | None
    router_id: str
    started: float
    ready: bool
    in_sync: bool
    """The resources are whole and every peer sent End-of-RIB or its deadline passed."""
    checks: tuple[Check, ...]
    datastore: DatastoreStatus
    config_file: str
    config_loaded: float
    config_error: str
    """Why the last reload was refused; empty when it was taken."""
    reloads: Mapping[str, int]
    """``success`` and ``failure`` -> count."""
    peers_up: int
    peers_wanted: int
    routes_desired: Mapping[tuple[str, str], int]
    """(OriginKind value, family label) -> count."""
    routes_advertised: Mapping[tuple[str, str], int]
    """The same routes, those that every established session of the family was sent."""
    rib_routes: Mapping[tuple[str, str], int]
    """(family label, ``bgp`` or ``local``) -> prefixes in the Loc-RIB."""
    rib_paths: Mapping[tuple[str, str], int]
    fib: Mapping[str, FibStatus]
    """Family label -> the kernel's side."""
    netlink_overruns: int
    update_groups: int
    ipam_blocks: Mapping[tuple[str, str], int]
    """(pool, family label) -> blocks of this node."""
    ipam_borrowed: Mapping[str, int]
    """Family label -> addresses this node borrowed."""
    event_loop_lag: float
    last_routes_change: float | None
    peers_shut_down: int = 0
    """Peers that the operator has shut down: these are not among ``peers_wanted``."""
    memory_limit: int = 0
    """Octets that all peers together may hold; 0 is no limit."""
    problems: tuple[Problem, ...] = ()
    """All of them: resources, peers, configuration, kernel conflicts."""
    degraded: tuple[str, ...] = ()
    """Why the node is not as it should be, a sentence each; readiness does not depend on it."""
    config_hash: int = 0
    """The fingerprint of the configuration in force (``views.configuration.fingerprint``)."""
    drain: int = 0
    """How far the node is drained (``model.drain``): 0 not at all, 1 services, 2 all, 3 withdrawn."""
    drain_words: str = ""
    """The same in words; empty for not at all."""


KERNEL = "kernel"


@dataclass(frozen=True, slots=True)
class Difference:
    """One row of ``bgpctl diff``: a route that is not yet where it is wanted, or still where it is not."""

    prefix: str
    family: str
    where: str
    """``KERNEL``, or the peer that is sent the change."""
    wanted: str
    """In words; empty: that it be gone."""
    found: str
    """What is there instead; empty: nothing, or, of a peer, what it was sent before."""
    reason: str


RouteTable = Literal["in", "out", "rib", "fib"]
PeerAction = Literal["shutdown", "enable", "reset", "soft-in", "soft-out"]
