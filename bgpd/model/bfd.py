"""Bidirectional Forwarding Detection (RFC 5880): what is wanted with a peer, and what a session is in.

``config`` and the resources say ``BfdOptions`` of a peer, ``rules.liveness`` which sessions that makes; ``bfd.speaker``
has them, ``views`` shows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from bgpd.model.prefix import Address

if TYPE_CHECKING:
    from bgpd.model.peer import PeerId


class BfdState(IntEnum):
    """RFC 5880 §4.1, by the numbers on the wire."""

    ADMIN_DOWN = 0
    DOWN = 1
    INIT = 2
    UP = 3


class Diagnostic(IntEnum):
    """Why a session left Up (RFC 5880 §4.1)."""

    NONE = 0
    DETECTION_TIME_EXPIRED = 1
    ECHO_FAILED = 2
    NEIGHBOR_SIGNALED_DOWN = 3
    FORWARDING_PLANE_RESET = 4
    PATH_DOWN = 5
    CONCATENATED_PATH_DOWN = 6
    ADMINISTRATIVELY_DOWN = 7
    REVERSE_CONCATENATED_PATH_DOWN = 8

    @property
    def words(self) -> str:
        return self.name.lower().replace("_", " ")


def diagnostic_words(code: int) -> str:
    """A diagnostic code of a peer, which may be one of those that no RFC has given a meaning (9 to 31)."""
    return Diagnostic(code).words if code <= Diagnostic.REVERSE_CONCATENATED_PATH_DOWN else f"code {code}"


class BfdTiming(NamedTuple):
    """What one end wants of a session; intervals are microseconds, as on the wire."""

    min_tx: int = 300_000
    """Between two packets of ours, at least."""
    min_rx: int = 300_000
    """Between two packets of the peer's, at least."""
    multiplier: int = 3
    """Packets of ours that the peer may miss in a row."""


class BfdOptions(NamedTuple):
    """BFD as a peer's configuration asks for it."""

    timing: BfdTiming = BfdTiming()
    multihop: bool | None = None
    """RFC 5883 rather than 5881; ``None`` is where the peer is not on a link of ours."""


class BfdPlace(NamedTuple):
    """The other end of a session; all BGP sessions with it share one (RFC 5882 §2)."""

    address: Address
    interface: str | None = None
    """The link, where the address is link-local."""


class BfdWanted(NamedTuple):
    """A session to have."""

    timing: BfdTiming
    multihop: bool
    local_address: Address | None
    """``None`` leaves it to the kernel."""
    min_ttl: int
    """The least TTL of the peer's packets: 255 on one hop (RFC 5881 §5)."""
    peers: tuple[PeerId, ...]
    """Whose sessions of BGP depend on it."""


class FrozenBfd(NamedTuple):
    """A session that is up, on its way from one process to the next: texts and numbers, as they go into a document."""

    address: str = ""
    interface: str = ""
    local_address: str = ""
    """Empty where it was left to the kernel."""
    multihop: bool = False
    min_ttl: int = 255
    min_tx: int = 0
    min_rx: int = 0
    multiplier: int = 0
    local_discriminator: int = 0
    remote_discriminator: int = 0
    remote_min_tx: int = 0
    remote_min_rx: int = 0
    remote_multiplier: int = 0
    remote_demand: bool = False
    control_plane_independent: bool = False
    tx_in_use: int = 0
    rx_in_use: int = 0
    polling: bool = False
    ups: int = 0
    since: float = 0.0
    """Unix time."""


@dataclass(frozen=True, slots=True, eq=False)
class BfdChange:
    """A session came up, or left Up."""

    place: BfdPlace
    peers: tuple[PeerId, ...]
    up: bool
    failed: bool
    """The path, or the system at its other end, is dead: who depends on it acts. False where either end's operator
    has taken the session down (RFC 5882 §3.2)."""
    reason: str
    """Why it is not up, in words."""
    control_plane_independent: bool
    """The peer's C bit: its end of the session lives while its control plane restarts (RFC 5882 §4.3)."""


@dataclass(frozen=True, slots=True)
class BfdStatus:
    """One session, as the operator sees it. Seconds; times are Unix seconds."""

    peers: tuple[PeerId, ...]
    """Whose sessions of BGP depend on it."""
    address: str
    interface: str
    local_address: str
    multihop: bool
    state: BfdState
    remote_state: BfdState
    since: float
    """When it came up, or left Up, or began."""
    diagnostic: str
    """Why it is not up; empty when it is, or never was."""
    remote_diagnostic: str
    local_discriminator: int
    remote_discriminator: int
    transmit_interval: float
    """Seconds between two packets that we send, before jitter."""
    receive_interval: float
    """Seconds between two packets that the peer may send, at least."""
    detection_time: float
    multiplier: int
    remote_multiplier: int
    remote_min_tx: float
    remote_min_rx: float
    remote_demand: bool
    control_plane_independent: bool
    polling: bool
    last_error: str
    """Why nothing could be sent, or the newest packet of this peer that was refused; empty when all is well."""
    packets_sent: int
    packets_received: int
    ups: int
    """How often it came up."""
    downs: Mapping[str, int] = field(default_factory=dict)
    """Diagnostic -> how often it left Up for it."""


@dataclass(frozen=True, slots=True)
class BfdReport:
    """All of BFD on this node."""

    sessions: tuple[BfdStatus, ...] = ()
    discarded: Mapping[str, int] = field(default_factory=dict)
    """Why packets were discarded -> count."""
    worst_delay: float = 0.0
    """Seconds that the thread came too late for what was due, at worst, within the last minute or so."""
    listen_errors: tuple[str, ...] = ()
    """Ports that are another's."""
