"""How many descriptors this process may have open, and for whom the last of them are kept.

``daemon`` raises the limit at its start; who opens connections asks ``scarce`` with a new descriptor. The kernel gives
the lowest number that is free, so the number of a new one shows how many are in use: no count is kept anywhere. The
last are for the kernel's sockets, files and the log; the ones before these for BGP sessions, so that no operator's
connection, however many of them there are, keeps a neighbour away.
"""

from __future__ import annotations

import resource

ENOUGH = 65_536
"""More are not asked for: a thousand sessions need a thousand."""
FOR_FILES, FOR_SESSIONS = 16, 128
"""Descriptors kept from all connections, and those further kept from operators' connections."""


def raise_limit() -> int:
    """Raises the soft limit as far as it may be, to ``ENOUGH`` at most. What it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(ENOUGH, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return _limit()


def scarce(descriptor: int, *, session: bool) -> bool:
    """Whether a new connection's descriptor is one of the last, so that the connection must go. ``session``: it is for
    BGP."""
    limit = _limit()
    kept = min(FOR_FILES, limit // 4)
    if not session:
        kept += min(FOR_SESSIONS, limit // 4)
    return descriptor >= limit - kept


def _limit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return ENOUGH if soft == resource.RLIM_INFINITY else soft
