"""A peer: the session this node wants with it, and the session it has.

``PeerConfig`` is what ``rules.peering`` derives from resources and ``bgp.speaker`` keeps alive; ``Peer`` is one
established session as the RIBs know it, a new object each time the session comes up. So identity shows the routes of
this session from those of the one before (RFC 4724 §4.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, NewType

from bgpd.model.bfd import BfdOptions
from bgpd.model.prefix import Address, Family, Prefix, address_text, is_link_local
from bgpd.model.resources import NextHopMode

PeerId = NewType("PeerId", str)
"""Calico's protocol name: ``Mesh_10_0_1_30``, ``Global_192_0_2_1``, ``Node_fd00__1_port_1179``."""


class PeerKind(Enum):
    """Where a session comes from."""

    MESH = "mesh"
    GLOBAL = "global"
    NODE = "node"
    LOCAL_WORKLOAD = "local-workload"
    DYNAMIC = "dynamic"
    """From inside a listen range of the node's configuration."""


_KINDS_IN_NAMES = {
    PeerKind.MESH: "Mesh",
    PeerKind.GLOBAL: "Global",
    PeerKind.NODE: "Node",
    PeerKind.LOCAL_WORKLOAD: "Local_Workload",
    PeerKind.DYNAMIC: "Dynamic",
}
_SPELLED = str.maketrans(".:/", "___")


def peer_id(kind: PeerKind, text: str, rest: str = "") -> PeerId:
    """A peer's name, as Calico spells it: the kind of the peer, and its address or the prefix that it may come from;
    ``rest`` is put behind as it is."""
    return PeerId(f"{_KINDS_IN_NAMES[kind]}_{text.translate(_SPELLED)}{rest}")


def is_dynamic(name: str) -> bool:
    """Whether this is how a dynamic neighbour may be named."""
    return name.startswith(f"{_KINDS_IN_NAMES[PeerKind.DYNAMIC]}_")


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """One session this node must have. Two equal values are one session left alone; times are in seconds."""

    id: PeerId
    kind: PeerKind
    source: str
    """The resource it comes from, ``BGPPeer tor-rack1`` or ``Node worker1``."""
    address: Address
    port: int
    asn: int
    local_asn: int
    router_id: Address
    local_address: Address | None
    """Bound before dialling; ``None`` leaves it to the kernel."""
    next_hops: Mapping[Family, Address]
    """This node's own address of each family, for families other than the transport's; of a link-local session for the
    transport's too, since its own end is no next hop beyond the link (RFC 2545 §3)."""
    families: frozenset[Family]
    passive: bool
    interface: str | None = None
    """The zone that a link-local address is in (RFC 4007)."""
    hold_time: float = 90.0
    keepalive_time: float | None = None
    """``None`` is a third of the negotiated hold time (RFC 4271 §4.4)."""
    password: str | None = field(default=None, repr=False)
    """TCP MD5 (RFC 2385), at most 80 octets."""
    ttl_security: int | None = None
    """GTSM (RFC 5082): the most hops to the peer; 1 is directly connected."""
    add_path: bool = True
    """Announce ADD-PATH, both ways (RFC 7911)."""
    extended_next_hop: bool = False
    """Announce IPv4 routes over IPv6 next hops (RFC 8950)."""
    asns: frozenset[int] = frozenset()
    """The AS numbers that a dynamic neighbour may have; ``asn`` is then known from its OPEN only."""
    reachable_by: Address | None = None
    """A gateway: this node keeps a host route to the peer over it."""
    restart_time: int = 120
    """Graceful restart time that we announce (RFC 4724 §3)."""
    long_lived_stale_time: int = 0
    """How long the peer's stale routes are kept after its restart time, at most, and ours by the peer (RFC 9494); 0 is
    not at all."""
    max_prefixes: int | None = None
    """Per family; ``None`` is no limit."""
    node: str | None = None
    """The cluster's Node that the peer is, where that is why it is a peer."""
    bfd: BfdOptions | None = None
    """The session ends when BFD (RFC 5880) finds the peer dead; ``None`` is without."""

    @property
    def ibgp(self) -> bool:
        """Whether the session is internal (RFC 4271 §1.1)."""
        return self.asn == self.local_asn

    def keepalive(self, hold_time: float) -> float:
        """Seconds between KEEPALIVEs: what is configured where the hold time bears it, else a third of that (RFC 4271
        §4.4); 0 is none."""
        wanted = self.keepalive_time
        return wanted if wanted is not None and 0 < wanted < hold_time else hold_time / 3

    def __str__(self) -> str:
        return f"{self.id} ({address_text(self.address)} port {self.port} AS {self.asn})"


LONGEST_LIFE = (1 << 24) - 1
"""Seconds that long-lived graceful restart can say (RFC 9494 §3.1)."""
MOST_PATHS = 64
"""Paths that a peer may have of one prefix (RFC 7911), unless its configuration says otherwise."""


@dataclass(frozen=True, slots=True)
class PeerPolicy:
    """What a peer may announce and is sent: may change while its session stays."""

    filters: tuple[str, ...] = ()
    """BGPFilters, in order; those that do not exist are skipped."""
    next_hop: NextHopMode = NextHopMode.AUTO
    cluster_id: Address | None = None
    """Our own cluster, where we are a route reflector (RFC 4456)."""
    client: bool = False
    """The peer is a client of ours: internal routes are passed on to it, and its routes to others."""
    allow_own_as: int = 0
    """How often our own AS may stand on the path of its routes."""
    enforce_first_as: bool = False
    """Refuse routes of an external peer whose AS path does not start with its AS, as a route server's (RFC 7947)."""
    strict_cluster_list: bool = False
    """Our own cluster on a CLUSTER_LIST is a loop whoever announces it (RFC 4456 §8), not from our clients only."""
    max_paths_per_prefix: int = MOST_PATHS
    """Paths of one prefix that may be used of those that it announces (RFC 7911): the ones with the lowest
    identifiers."""


class DynamicRange(NamedTuple):
    """Neighbours that may come from inside a prefix without being named one by one."""

    family: Family
    prefix: Prefix
    template: PeerConfig
    """The configuration of every session; ``id`` and ``address`` become the neighbour's own (``Dynamic_192_0_2_7``)."""
    limit: int
    """Sessions that it may have at a time."""
    policy: PeerPolicy = PeerPolicy()
    """The policy of every neighbour; ``client`` concerns those that turn out to be internal."""
    refused: frozenset[Address] = frozenset()
    """Peers that are named but not peered with (a password that is missing): they may not come in here either."""


@dataclass(frozen=True, slots=True, eq=False)
class Peer:
    """One established session. Compared by identity: the next session of the same peer is another."""

    config: PeerConfig
    router_id: Address
    """The peer's BGP identifier."""
    local_address: Address
    """Our end of the TCP connection: the next hop we announce in its family."""
    families: frozenset[Family]
    """Negotiated: those that both sides announced."""
    asn4: bool
    """Whether AS numbers are four octets on this session (RFC 6793)."""
    add_path_receive: frozenset[Family] = frozenset()
    """Families whose NLRI the peer sends with path identifiers (RFC 7911)."""
    restart_families: frozenset[Family] = frozenset()
    """Families whose routes we keep when the session breaks (RFC 4724 §4.2)."""
    restart_time: float = 0.0
    """How long the peer asked us to keep them, in seconds."""
    forwarding_preserved: frozenset[Family] = frozenset()
    """Families for which the peer's OPEN says that it went on forwarding (the F bit, RFC 4724 §3): stale routes of all
    others go as soon as this session is up (§4.2)."""
    restarted: bool = False
    """The peer's OPEN had the restart bit: it waits for nothing of ours and holds End-of-RIB until it converged."""
    sends_end_of_rib: bool = False
    """The peer announced graceful restart, so an End-of-RIB can be waited for."""
    hold_time: float = 90.0
    keepalive_time: float = 30.0
    add_path_send: frozenset[Family] = frozenset()
    """Families whose NLRI we send with path identifiers: the peer takes several paths of a prefix (RFC 7911)."""
    extended_next_hop: frozenset[Family] = frozenset()
    """IPv4, where both sides take it with an IPv6 next hop (RFC 8950)."""
    enhanced_refresh: bool = False
    """A refresh is framed by a begin and an end, both ways (RFC 7313)."""
    keeps_on_notification: bool = False
    """Both sides keep routes over a NOTIFICATION and the hold timer too, but for a Hard Reset (RFC 8538 §2)."""
    long_lived: Mapping[Family, float] = field(default_factory=dict)
    """Families whose stale routes stay after the restart time, and for how many seconds (RFC 9494 §4.2)."""
    long_lived_preserved: frozenset[Family] = frozenset()
    """Families that the peer went on forwarding by its capability for long-lived graceful restart."""
    knows_long_lived: bool = False
    """Long-lived stale routes may be advertised to the peer (RFC 9494 §4.3)."""

    @property
    def id(self) -> PeerId:
        return self.config.id

    @property
    def ibgp(self) -> bool:
        return self.config.ibgp

    @property
    def link_local(self) -> Address | None:
        """Our end of the session where it is a link-local address: it goes beside our global address as a next hop of
        32 octets (RFC 2545 §3), or alone where we have none."""
        return self.local_address if is_link_local(self.local_address) else None

    def next_hop(self, family: Family) -> Address | None:
        """The next hop we announce on this session for a family; ``None`` when this node has no address of it.

        For IPv4 it is an IPv6 address where the session runs over IPv6 and takes that (RFC 8950).
        """
        own = self.local_address
        if len(own) == family.octets or (family in self.extended_next_hop and len(own) == 16):
            return self.config.next_hops.get(Family.IPV6, own) if is_link_local(own) else own
        return self.config.next_hops.get(family)


class DialAnswer(Enum):
    """What a dial showed of the peer's host."""

    CONNECTED = "connected"
    REFUSED = "refused"
    """The host refused: it lives, and forwards for all we know; its daemon is down."""
    SILENT = "silent"
    """Nobody answered: a time-out, no neighbour entry, no route."""
    NONE = "none"
    """Nothing: the dial failed on our side."""


class DownReason(Enum):
    """Why a session left Established; the label of ``bgpd_peer_flaps_total``."""

    HOLD_TIMER = "hold_timer"
    NOTIFICATION_RX = "notification_rx"
    NOTIFICATION_TX = "notification_tx"
    TCP = "tcp"
    CONFIG = "config"
    ADMIN = "admin"
    BFD = "bfd"
    """BFD found the peer, or the path to it, dead (RFC 5882 §10.2)."""
    REPLACED = "replaced"
    """The peer came back on a new connection while this one seemed alive (RFC 4724 §4.2)."""


@dataclass(frozen=True, slots=True)
class Down:
    """The end of an established session."""

    reason: DownReason
    message: str
    """The cause in words, for the log and ``bgpctl``."""
    keep: frozenset[Family] = field(default_factory=frozenset)
    """Families whose routes stay as stale (RFC 4724 §4.2); empty after a NOTIFICATION or the hold timer, unless both
    sides keep them over these (RFC 8538)."""
    keep_seconds: float = 0.0
