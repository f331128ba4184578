"""One node does a job for all: who holds the lease (client-go's leader election, in short).

The clocks of two nodes are never compared: a lease has run out when another node saw it unchanged for as long as it
says, by its own clock. A holder that does not come to renew it in time must stop; what it still writes then is guarded
by what it read, as every write is.
"""

from __future__ import annotations

from bgpd.model.ipam import SECOND, Kind, Lease, Ref, Stored
from bgpd.rules.ipam.garbage import Seen
from bgpd.rules.ipam.steps import Get, Steps, create, update


def hold(
    name: str, node: str, now: int, elapsed: int, seconds: int, seen: Seen | None
) -> Steps[tuple[bool, Seen | None]]:
    """Takes or renews a lease for ``seconds``: whether ``node`` has it, and what the next call must know (``seen``).

    ``now``: nanoseconds of Unix time, for people to read; ``elapsed``: nanoseconds of a clock that never jumps.
    """
    known: Stored[Lease] | None = yield Get(Ref(Kind.LEASE, name))
    mine = Lease(name, node, now, seconds)
    if known is None:
        return isinstance((yield from create(mine)), Stored), None
    if known.value.holder not in ("", node):
        if seen is None or seen.revision != known.revision:
            return False, Seen(known.revision, elapsed)
        if elapsed - seen.since < max(known.value.seconds, 1) * SECOND:
            return False, seen
    return isinstance((yield from update(known, mine)), Stored), None
