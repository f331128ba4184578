"""Routes: what a peer announced (Attributes, Path), what we chose (Selection), what we announce, what the kernel must
do.

All of it is frozen and shared: one ``Attributes`` an attribute set, one ``Path`` an attribute set, next hop and
session, one ``Via`` a forwarding, however many prefixes have it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import NamedTuple

from bgpd.model.peer import Peer, PeerId
from bgpd.model.prefix import Address, Family, Prefix


class Origin(IntEnum):
    """RFC 4271 §5.1.1; lower is preferred."""

    IGP = 0
    EGP = 1
    INCOMPLETE = 2


class SegmentType(IntEnum):
    """RFC 4271 §4.3 and RFC 5065 §3."""

    AS_SET = 1
    AS_SEQUENCE = 2
    CONFED_SEQUENCE = 3
    CONFED_SET = 4


Segment = tuple[SegmentType, tuple[int, ...]]
SEGMENT_LIMIT = 255
"""AS numbers in one segment: their count is one octet."""


class AsPath(bytes):
    """An AS path as the wire carries it with four-octet numbers (RFC 4271 §4.3, RFC 6793 §3): of each segment the type,
    the count and the numbers. Kept packed, since a tuple of numbers takes nine times their octets."""

    __slots__ = ()

    @classmethod
    def of(cls, *segments: tuple[SegmentType, Iterable[int]]) -> AsPath:
        """The path of these segments; one of more than 255 numbers becomes several, an empty one none."""
        parts: list[bytes] = []
        for kind, numbers in segments:
            asns = tuple(numbers)
            for start in range(0, len(asns), SEGMENT_LIMIT):
                part = asns[start : start + SEGMENT_LIMIT]
                parts.append(struct.pack(f"!BB{len(part)}I", kind, len(part), *part))
        return cls(b"".join(parts))

    def heads(self) -> Iterator[tuple[int, int, int]]:
        """(type, count, where its numbers begin) of each segment."""
        position, end = 0, len(self)
        while position < end:
            count = self[position + 1]
            yield self[position], count, position + 2
            position += 2 + 4 * count

    def segments(self) -> tuple[Segment, ...]:
        """The segments with their numbers."""
        return tuple(
            (SegmentType(kind), struct.unpack_from(f"!{count}I", self, start))
            for kind, count, start in self.heads()
        )

    def asns(self) -> tuple[int, ...]:
        """Every AS number, sets and confederations included."""
        return tuple(asn for _, segment in self.segments() for asn in segment)

    def occurrences(self, asn: int) -> int:
        """How often an AS number stands on the path: what loop detection asks, of each path that comes in."""
        if self.find(asn.to_bytes(4, "big")) < 0:
            return 0
        return self.asns().count(asn)

    def starts_with(self, asn: int) -> bool:
        """Whether an AS number is the first of the path, and stands in a sequence (RFC 4271 §6.3)."""
        return bool(self) and self[0] == SegmentType.AS_SEQUENCE and self[2:6] == asn.to_bytes(4, "big")

    def prepended(self, *asns: int) -> AsPath:
        """The path with AS numbers in front, in this order. The first segment is filled up before another is begun, as
        when they are prepended one by one (RFC 4271 §5.1.2 b)."""
        rest: bytes = self
        if self and self[0] == SegmentType.AS_SEQUENCE:
            after = 2 + 4 * self[1]
            asns, rest = (*asns, *struct.unpack_from(f"!{self[1]}I", self, 2)), self[after:]
        while asns:
            rest = AsPath.of((SegmentType.AS_SEQUENCE, asns[-SEGMENT_LIMIT:])) + rest
            asns = asns[:-SEGMENT_LIMIT]
        return AsPath(rest)


NO_AS_PATH = AsPath()
_SIZE_OF_ATTRIBUTES, _SIZE_OF_COMMUNITY, _SIZE_OF_LIST_ITEM, _SIZE_OF_LARGE_COMMUNITY = 320, 40, 56, 160


@dataclass(frozen=True, slots=True)
class Attributes:
    """A decoded path attribute set, without NEXT_HOP and MP_* (they belong to ``Path``).

    Interned by the codec: equal octets in one session context are one object, so ``is`` is the fast comparison.
    """

    origin: Origin = Origin.IGP
    as_path: AsPath = NO_AS_PATH
    med: int | None = None
    local_pref: int | None = None
    atomic_aggregate: bool = False
    aggregator: tuple[int, Address] | None = None
    communities: tuple[int, ...] = ()
    extended_communities: tuple[bytes, ...] = ()
    large_communities: tuple[tuple[int, int, int], ...] = ()
    originator_id: Address | None = None
    cluster_list: tuple[Address, ...] = ()
    unknown: tuple[tuple[int, int, bytes], ...] = ()
    """Optional transitive attributes we do not know, as (flags, code, value): passed on with the partial bit."""
    as_path_length: int = field(init=False, compare=False)
    """RFC 4271 §9.1.2.2 a: an AS_SET counts 1, confederation segments 0 (RFC 5065 §5.3)."""
    neighbor_as: int = field(init=False, compare=False)
    """The AS the route came from, for MED (RFC 4271 §9.1.2.2 c); 0 for an empty path or one that starts with a set."""
    size: int = field(init=False, repr=False, compare=False)
    """Octets of memory that it takes, about."""
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        length, neighbor, first = 0, 0, True
        for kind, count, start in self.as_path.heads():
            if kind == SegmentType.AS_SEQUENCE:
                length += count
                if first:
                    neighbor = int.from_bytes(self.as_path[start : start + 4], "big")
            elif kind == SegmentType.AS_SET:
                length += 1
            else:
                continue
            first = False
        put = object.__setattr__
        put(
            self,
            "size",
            _SIZE_OF_ATTRIBUTES
            + len(self.as_path)
            + _SIZE_OF_COMMUNITY * len(self.communities)
            + _SIZE_OF_LIST_ITEM * (len(self.extended_communities) + len(self.cluster_list))
            + _SIZE_OF_LARGE_COMMUNITY * len(self.large_communities)
            + sum(_SIZE_OF_LIST_ITEM + len(value) for _, _, value in self.unknown),
        )
        put(self, "as_path_length", length)
        put(self, "neighbor_as", neighbor)
        put(
            self,
            "_hash",
            hash(
                (
                    self.origin,
                    self.as_path,
                    self.med,
                    self.local_pref,
                    self.communities,
                    self.large_communities,
                )
            ),
        )

    def __hash__(self) -> int:
        return self._hash

    def with_originator(self, originator_id: Address) -> Attributes:
        """The same set with another ORIGINATOR_ID; a reflector's table has one for each node, so this is quick."""
        made, put = object.__new__(Attributes), object.__setattr__
        for name in Attributes.__slots__:
            put(made, name, getattr(self, name))
        put(made, "originator_id", originator_id)
        return made


class Path(NamedTuple):
    """A way to reach prefixes that a session announced. Shared by every prefix it was announced for."""

    peer: Peer
    attributes: Attributes
    next_hop: Address
    path_id: int = 0
    link_local: Address | None = None
    """The second address of a 32-octet IPv6 next hop (RFC 2545 §3)."""
    charge: object = None
    """What stands for its memory on its session's account while anybody has it (``bgp.wire.held``)."""


class Announce(NamedTuple):
    """A session announced prefixes."""

    family: Family
    path: Path
    prefixes: Sequence[Prefix]


class Withdraw(NamedTuple):
    """A session withdrew prefixes (or a malformed UPDATE is treated so, RFC 7606 §2)."""

    family: Family
    prefixes: Sequence[Prefix]
    path_id: int = 0


class EndOfRib(NamedTuple):
    """A session has announced all it had (RFC 4724 §2)."""

    family: Family


class BeginRefresh(NamedTuple):
    """A session announces all of a family anew: what it does not name before ``EndRefresh`` is gone (RFC 7313 §4)."""

    family: Family


class EndRefresh(NamedTuple):
    """A session has announced all of a family anew; comes after a ``BeginRefresh`` only."""

    family: Family


RibEvent = Announce | Withdraw | EndOfRib | BeginRefresh | EndRefresh


class Hop(NamedTuple):
    """One leg of a kernel route. Sorts by gateway, then device."""

    gateway: Address | None
    ifindex: int
    onlink: bool = False


@dataclass(frozen=True, slots=True)
class Via:
    """Forward through one hop, or share flows over several: sorted, unique, at least one."""

    hops: tuple[Hop, ...]
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        hops = tuple(sorted(set(self.hops), key=lambda hop: (hop.gateway or b"", hop.ifindex, hop.onlink)))
        if not hops:
            raise ValueError("a Via needs at least one hop")
        object.__setattr__(self, "hops", hops)
        object.__setattr__(self, "_hash", hash(hops))

    def __hash__(self) -> int:
        return self._hash


class Blackhole(Enum):
    """Drop silently. There is one: ``BLACKHOLE``."""

    BLACKHOLE = "blackhole"


BLACKHOLE = Blackhole.BLACKHOLE
Forwarding = Via | Blackhole
FibKey = tuple[Prefix, int]
"""Prefix and metric: the kernel's own key of a route in one table (TOS 0)."""


def default_metric(family: Family) -> int:
    """The metric a route has when none is given, as the kernel reads it back: 0 for IPv4, 1024 for IPv6."""
    return 0 if family is Family.IPV4 else 1024


class Unresolved(Enum):
    """Why a BGP next hop leads nowhere. The value is what ``bgpctl why`` prints."""

    NO_ROUTE = "no route in the kernel leads to the next hop"
    BLACKHOLE = "the route to the next hop is a blackhole or an unreachable"
    LINK_DOWN = "the link to the next hop is down"
    OWN_ADDRESS = "the next hop is this node's own address"
    NOT_ON_LINK = "the next hop is inside a subnet of this node, but that subnet's link is not up"


class Resolution(NamedTuple):
    """Where a BGP next hop leads: the hops, and the metric of the route that says so (the IGP cost)."""

    via: Via
    cost: int


class Reason(Enum):
    """Why a path is not the best, or not used: the value is what ``bgpctl why`` prints. RFC 4271 §9.1.2."""

    AS_LOOP = "our own AS is on its AS path"
    ORIGINATOR_LOOP = "its ORIGINATOR_ID is ours"
    CLUSTER_LOOP = "our own cluster is on its CLUSTER_LIST"
    FIRST_AS = "its AS path does not start with the peer's AS, and enforce_first_as is set"
    MARTIAN = "no host can have an address of it: this network, loopback, link-local, multicast or reserved"
    SURPLUS = "its peer announces more paths of this prefix than max_paths_per_prefix, with lower identifiers"
    FILTERED = "an import filter rejects it"
    UNRESOLVED = "its next hop does not resolve"
    LLGR_STALE = "long-lived stale, a last resort (RFC 9494)"
    LOCAL_PREF = "lower local preference"
    AS_PATH_LENGTH = "longer AS path"
    ORIGIN = "worse origin"
    MED = "higher MED from the same neighbouring AS"
    EBGP_OVER_IBGP = "internal, and an external path exists"
    IGP_COST = "greater metric to its next hop"
    ROUTER_ID = "tied, and its router id is greater"
    CLUSTER_LIST_LENGTH = "tied, and its CLUSTER_LIST is longer"
    PEER_ADDRESS = "tied, and its peer's address is greater"
    PATH_ID = "tied, and its path identifier is greater"


UNUSABLE = frozenset(
    (
        Reason.AS_LOOP,
        Reason.ORIGINATOR_LOOP,
        Reason.CLUSTER_LOOP,
        Reason.FIRST_AS,
        Reason.MARTIAN,
        Reason.SURPLUS,
        Reason.FILTERED,
        Reason.UNRESOLVED,
    )
)
"""Why a path could not be used were it the only one."""


class Selection(NamedTuple):
    """The decision for one prefix. ``multipath`` holds ``best`` and is what the kernel gets."""

    best: Path
    multipath: tuple[Path, ...]
    rejected: Mapping[Path, Reason]


class RouteSource(Enum):
    """Where a route comes from, as filters see it: BIRD's protocols."""

    BGP = "bgp"
    KERNEL = "kernel"
    """Another's route in the kernel, a workload's among them."""
    STATIC = "static"
    """A block of our own, a service's prefix."""
    DIRECT = "direct"
    """An interface's address or subnet."""


class OriginKind(Enum):
    """What a route of our own is; the ``kind`` label of ``bgpd_routes_desired``."""

    BLOCK = "block"
    BORROWED = "borrowed"
    SERVICE = "service"
    STATIC = "static"
    """Not ours to announce by itself: a filter lets it out."""


class Originated(NamedTuple):
    """A route this node announces as its own."""

    kind: OriginKind
    source: str
    """The resource or the interface that is the reason, ``BlockAffinity worker2-10-48-0-0-26``."""
    route_source: RouteSource = RouteSource.STATIC
    interface: str = ""
    """That it leads over, where the kernel has it."""
    metric: int = 0
    """In the kernel; 0 is the family's normal priority."""
    gateway: Address | None = None
    """The gateway of another's route in the kernel."""


class StaticRoute(NamedTuple):
    """A route that this node keeps in the kernel and does not announce."""

    gateway: Address
    source: str


class LocalBlackhole(NamedTuple):
    """A block of our own, kept as a blackhole."""

    source: str
    yields: bool = False
    """True while the affinity is being released: a route that another node announces for exactly it takes over."""


@dataclass(frozen=True, slots=True)
class Origination:
    """What this node says and keeps of one family, whole: ``rules.originate`` makes it anew at every change."""

    announce: Mapping[Prefix, Originated] = field(default_factory=dict)
    blackholes: Mapping[Prefix, LocalBlackhole] = field(default_factory=dict)
    exported_pools: tuple[Prefix, ...] = ()
    """Pools whose learned routes may be passed on."""
    hidden_pools: tuple[Prefix, ...] = ()
    """Pools with disableBGPExport: nothing inside is passed on."""
    hidden: Mapping[Prefix, str] = field(default_factory=dict)
    """Candidates that are not announced, each with the reason in words, for ``bgpctl why``."""
    offered: Mapping[Prefix, Originated] = field(default_factory=dict)
    """Routes of this node that are advertised to a peer only where a filter accepts them."""
    exported_services: tuple[Prefix, ...] = ()
    """Ranges of services whose learned routes may be passed on: a route reflector's."""
    kept_services: tuple[Prefix, ...] = ()
    """Ranges of services whose learned routes are not: traffic would come here, where no endpoint may be."""
    statics: Mapping[Prefix, StaticRoute] = field(default_factory=dict)
    assigned: Mapping[Prefix, str] = field(default_factory=dict)
    """Addresses that IPAM gives to this node, each with the name of the IPAMBlock: no learned route may stand where the
    CNI plugin writes the workload's, unless it is elevated."""


class WorkloadRoute(NamedTuple):
    """A host route in the kernel that a workload or a tunnel of this node is behind."""

    prefix: Prefix
    interface: str
    metric: int = 0
    direct: bool = False
    """An address of the interface itself, no route over it."""


Workloads = Mapping[Family, frozenset[WorkloadRoute]]


class ForeignRoute(NamedTuple):
    """A route of another owner in the kernel, or a connected subnet (``RouteSource.DIRECT``)."""

    prefix: Prefix
    source: RouteSource
    interface: str
    gateway: Address | None = None
    metric: int = 0


ForeignRoutes = Mapping[Family, frozenset[ForeignRoute]]


class Out(NamedTuple):
    """What an update group advertises to its members of one prefix."""

    attributes: Attributes
    next_hop: Address
    source: PeerId | None
    """The peer it was learned from, to which it is not advertised; ``None`` for our own. (Not its session: a peer that
    comes back and says the same changes nothing for others.)"""
    path_id: int = 0
    """The source's path identifier, the same for all prefixes, in a group that is sent several paths (RFC 7911)."""
