"""Why this side ends a connection, and what its peer is sent for it: the Ceases of RFC 4486, RFC 9003 and RFC 9384.

``session`` closes its connections by these. A *hard* ending says that nothing of the session may stay: where a plain
NOTIFICATION would keep routes (RFC 8538), it goes as a Hard Reset.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import fields
from typing import NamedTuple

from bgpd.bgp.frozen import SOFT
from bgpd.bgp.wire.exa.messages import Cease, Notification, shutdown
from bgpd.model.peer import DownReason, Peer, PeerConfig
from bgpd.model.prefix import Family


class Ending(NamedTuple):
    """See the module."""

    notification: Notification | None
    """``None``: TCP closes without a word of BGP, and the peer keeps our routes (RFC 4724)."""
    reason: DownReason
    message: str = ""
    hard: bool = False


CAME_BACK = Ending(None, DownReason.REPLACED, "the peer connected anew")
"""The peer has died and is back on another connection: what it announced stays as stale."""
DECONFIGURED = Ending(Notification(6, Cease.DECONFIGURED), DownReason.CONFIG, hard=True)
"""Nobody wants the peer any more."""


def replaced(message: str) -> Ending:
    """Another connection of the peer stays."""
    return Ending(Notification(6, Cease.COLLISION), DownReason.REPLACED, message)


def shut_down(text: str) -> Ending:
    """By the operator, with their words."""
    return Ending(shutdown(Cease.SHUTDOWN, text), DownReason.ADMIN, hard=True)


def reset(text: str) -> Ending:
    """By the operator, with their words; the session comes again at once."""
    return Ending(shutdown(Cease.RESET, text), DownReason.ADMIN)


def too_many_prefixes(family: Family, limit: int) -> Ending:
    """The peer announced more than it may; the NOTIFICATION says of what and how many (RFC 4486 §4)."""
    notification = Notification(6, Cease.MAX_PREFIXES, struct.pack("!HBI", family, 1, limit))
    text = f"more than {limit} {family.label} prefixes"
    return Ending(notification, DownReason.NOTIFICATION_TX, text, hard=True)


def out_of_resources(text: str) -> Ending:
    """The peer holds more memory than may be."""
    return Ending(Notification(6, Cease.OUT_OF_RESOURCES), DownReason.NOTIFICATION_TX, text, hard=True)


def path_down(text: str) -> Ending:
    """BFD found the peer dead."""
    return Ending(Notification(6, Cease.BFD_DOWN), DownReason.BFD, text, hard=True)


# Another configuration.


_WHO = frozenset(("address", "asn", "asns", "local_asn", "password", "ttl_security", "interface"))
"""What makes a session one with somebody else, or one that is trusted otherwise: nothing of before may stay."""


def reset_by(before: PeerConfig, after: PeerConfig, *, established: bool) -> tuple[str, ...]:
    """The fields that differ between two configurations of a peer and that its session cannot take on as it is."""
    # AS numbers that a dynamic neighbour may have are asked at its OPEN only; ``asn`` is then the one it has.
    soft = (*SOFT, "asns") if established else SOFT
    names = (field.name for field in fields(PeerConfig) if field.name not in soft)
    return tuple(name for name in names if getattr(before, name) != getattr(after, name))


def needs_hard_reset(changed: Iterable[str]) -> bool:
    """Whether nothing of the session may stay after these fields have changed."""
    return not _WHO.isdisjoint(changed)


def config_changed(peer: Peer | None, *, hard: bool) -> Ending:
    """The session cannot take on another configuration; ``peer`` is ``None`` before it was up. One that keeps routes
    when TCP breaks, but not over a NOTIFICATION, is sent none."""
    silent = not hard and peer is not None and peer.sends_end_of_rib and not peer.keeps_on_notification
    cease = None if silent else Notification(6, Cease.CONFIG_CHANGE)
    return Ending(cease, DownReason.CONFIG, "configuration changed", hard=hard)
