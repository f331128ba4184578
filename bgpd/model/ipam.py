"""What IPAM reads and writes: frozen values of Calico's pools, blocks, affinities, handles and configuration.

Shared by ``rules.ipam``, which decides, and the stores of ``datastore``, which keep. ``resources`` has what BGP needs
of the same objects; here is all that allocating needs. Owners are written as Calico writes them: ``host:<node>``, or
``virtual:load-balancer``. Times are whole nanoseconds of Unix time. What a writer of a newer version put into an
object and we do not know is not here: a store keeps it beside the value (``Stored.origin``) and writes it back; what is
inside an attribute is in ``Attribute.rest``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, NamedTuple, TypeVar

from bgpd.model.networks import IPAddress, IPNetwork

SECOND = 1_000_000_000
"""One second in nanoseconds, in which times are kept."""


class Kind(StrEnum):
    """The kinds of objects that a store keeps for IPAM."""

    POOL = "IPPool"
    RESERVATION = "IPReservation"
    CONFIG = "IPAMConfig"
    BLOCK = "IPAMBlock"
    AFFINITY = "BlockAffinity"
    HANDLE = "IPAMHandle"
    NODE = "Node"
    CLUSTER = "ClusterInformation"
    LEASE = "Lease"


class Ref(NamedTuple):
    """What an object is called, whatever the store calls it."""

    kind: Kind
    name: str
    """The block's CIDR for a block or an affinity, the id for a handle, else ``metadata.name``."""
    owner: str = ""
    """Whose affinity it is."""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" + (f" of {self.owner}" if self.owner else "")


class State(StrEnum):
    """Of an affinity. Who owns a block is stated by the block alone."""

    CONFIRMED = "confirmed"
    PENDING = "pending"
    """A wish: the block may not be there, or be another's."""
    PENDING_DELETION = "pendingDeletion"


@dataclass(frozen=True, slots=True)
class Attribute:
    """Who has some addresses of a block, or since when nobody has."""

    handle: str | None
    secondary: Mapping[str, str] = field(default_factory=dict)
    """Calico's ``pod``, ``namespace``, ``node``, ``type``, ``timestamp`` and others; ours: ``interface``."""
    released_at: int | None = None
    """An address in its cooldown: nobody's, and not free yet."""
    rest: Mapping[str, Any] = field(default_factory=dict)
    """Keys of writers that know more, written back as they are."""


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a pool, with who has which of its addresses. An ordinal is the place of an address in it, from 0."""

    cidr: IPNetwork
    owner: str | None
    claimed: int | None
    """When its owner took it; absent in blocks of Calico before 3.32."""
    allocations: tuple[int | None, ...]
    """An index into ``attributes`` for each ordinal."""
    unallocated: tuple[int, ...]
    """Free ordinals: taken from the front, given back at the end."""
    attributes: tuple[Attribute, ...]
    sequence: int
    """Grows by one with each write."""
    sequences: Mapping[int, int] = field(default_factory=dict)
    """By ordinal, ``sequence`` as it was before the write that allocated it."""
    broken: str = ""
    """What of it contradicts itself: it is then left alone, and stands in the way of others."""

    @property
    def ref(self) -> Ref:
        return Ref(Kind.BLOCK, str(self.cidr))

    def address(self, ordinal: int) -> IPAddress:
        return IPAddress(self.cidr.first + ordinal, self.cidr.version)


@dataclass(frozen=True, slots=True)
class Affinity:
    """That an owner has a block, or wishes or wished to."""

    owner: str
    cidr: IPNetwork
    state: State

    @property
    def ref(self) -> Ref:
        return Ref(Kind.AFFINITY, str(self.cidr), self.owner)


@dataclass(frozen=True, slots=True)
class Handle:
    """How many addresses a user has in which block. Counts may be too high after a crash, never too low."""

    id: str
    blocks: Mapping[str, int]

    @property
    def ref(self) -> Ref:
        return Ref(Kind.HANDLE, self.id)


@dataclass(frozen=True, slots=True)
class IPAMConfig:
    """The cluster's settings (ipam.md §1.4). These defaults hold where no such object is."""

    strict_affinity: bool = False
    """Addresses only from own blocks: no borrowing."""
    auto_allocate_blocks: bool = True
    max_blocks_per_host: int = 0
    """Blocks that a node may have; 0 is ``DEFAULT_BLOCKS``."""
    cooldown_seconds: int = 0
    """How long a released address is not given out."""

    @property
    def ref(self) -> Ref:
        return Ref(Kind.CONFIG, "default")


@dataclass(frozen=True, slots=True)
class Pool:
    """Where addresses come from."""

    name: str
    cidr: IPNetwork
    block_size: int
    """Prefix length of its blocks."""
    disabled: bool = False
    allocatable: bool = True
    """False while it is being deleted, or where its status says so."""
    node_selector: str = "all()"
    namespace_selector: str = ""
    allowed_uses: frozenset[str] = frozenset({"Workload", "Tunnel"})
    automatic: bool = True
    """Used also by those who do not name it."""

    @property
    def ref(self) -> Ref:
        return Ref(Kind.POOL, self.name)

    @property
    def blocks(self) -> int:
        """How many it can be cut into."""
        return 1 << int(max(0, self.block_size - self.cidr.prefixlen))


@dataclass(frozen=True, slots=True)
class Reservation:
    """Addresses that are not given out unless asked for by name."""

    name: str
    cidrs: tuple[IPNetwork, ...]

    @property
    def ref(self) -> Ref:
        return Ref(Kind.RESERVATION, self.name)


@dataclass(frozen=True, slots=True)
class IPAMNode:
    """A node, as far as pools select it."""

    name: str
    labels: Mapping[str, str]

    @property
    def ref(self) -> Ref:
        return Ref(Kind.NODE, self.name)


@dataclass(frozen=True, slots=True)
class Cluster:
    """ClusterInformation ``default``: whether the datastore may be written at all."""

    ready: bool = True

    @property
    def ref(self) -> Ref:
        return Ref(Kind.CLUSTER, "default")


@dataclass(frozen=True, slots=True)
class Lease:
    """Which node does a job for all, until when."""

    name: str
    holder: str
    renewed: int
    seconds: int

    @property
    def ref(self) -> Ref:
        return Ref(Kind.LEASE, self.name)


Value = Block | Affinity | Handle | IPAMConfig | Pool | Reservation | IPAMNode | Cluster | Lease
V_co = TypeVar("V_co", bound=Value, covariant=True)


@dataclass(frozen=True, slots=True)
class Stored(Generic[V_co]):
    """A value as a store has it."""

    value: V_co
    revision: str
    """Changes with every write of the object; never repeats."""
    origin: Any = field(default=None, repr=False, compare=False)
    """The store's own: what it read, so that what we do not know is written back."""


class Conflict(StrEnum):
    """Why a guarded write was not done. Any other outcome of a store is ``StoreFailed``."""

    EXISTS = "exists"
    GONE = "gone"
    CHANGED = "changed"


class StoreFailed(Exception):
    """The store did not do what it was asked: away, full, not readable. The message names it and says what was wrong.
    Whether a write was done is then not known."""


class StoreUnwritten(StoreFailed):
    """The store could not do it, and surely has not: full, read-only, no permission. Trying again does not help."""
