"""Communities: the values that bgpd knows, their names, and their text both ways (docs/communities.md).

Used by ``imports`` and ``exports``, which act on them, by ``datastore.calico``, which reads them, and by the views.
"""

from __future__ import annotations

import re

from bgpd.model.resources import Community
from bgpd.model.route import Attributes

GRACEFUL_SHUTDOWN = 0xFFFF0000
"""GRACEFUL_SHUTDOWN of RFC 8326."""
LLGR_STALE, NO_LLGR = 0xFFFF0006, 0xFFFF0007
"""RFC 9494 §4.6 and §4.7."""
NO_EXPORT = 0xFFFFFF01
NO_ADVERTISE = 0xFFFFFF02
NO_EXPORT_SUBCONFED = 0xFFFFFF03
"""The last of the three of RFC 1997."""
NO_PEER = 0xFFFFFF04
"""NOPEER of RFC 3765."""
STAYS_INSIDE = frozenset((NO_EXPORT, NO_EXPORT_SUBCONFED))
"""What has one of these leaves the AS no more."""
NON_TRANSITIVE = 0x40
"""In the first octet of an extended community: it stays inside the AS (RFC 4360 §2)."""

_NAMES = {
    GRACEFUL_SHUTDOWN: "graceful-shutdown",
    LLGR_STALE: "llgr-stale",
    NO_LLGR: "no-llgr",
    NO_EXPORT: "no-export",
    NO_ADVERTISE: "no-advertise",
    NO_PEER: "no-peer",
}


def community_text(community: Community) -> str:
    """``64512:100``, or ``64512:1:2`` of a large one."""
    if isinstance(community, int):
        return f"{community >> 16}:{community & 0xFFFF}"
    return ":".join(map(str, community))


def community_texts(attributes: Attributes) -> tuple[str, ...]:
    """Standard and large communities of a route, the well-known ones by name."""
    standard = (_NAMES.get(c) or community_text(c) for c in attributes.communities)
    return (*standard, *map(community_text, attributes.large_communities))


def parse_community(value: object) -> Community:
    """``aa:nn`` (RFC 1997) or ``aa:nn:mm`` (RFC 8092); ``ValueError`` says what was expected."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,10}(:[0-9]{1,10}){1,2}", value):
        parts = [int(part) for part in value.split(":")]
        if len(parts) == 2 and max(parts) < 1 << 16:
            return parts[0] << 16 | parts[1]
        if len(parts) == 3 and max(parts) < 1 << 32:
            return parts[0], parts[1], parts[2]
        most = 65535 if len(parts) == 2 else 4294967295
        raise ValueError(f"{value!r} is no community: each number is at most {most}")
    raise ValueError(f"{value!r} is no community such as 64512:100 or 64512:1:2")
