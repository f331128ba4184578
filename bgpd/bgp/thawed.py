"""A session of another process, made one of ours: what it carried over, read as if its peer had just sent it.

``Session.thaw`` asks. What does not go together is ``Unfit``: then the session falls back to graceful restart.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

from bgpd.bgp.connection import Connection, Counters
from bgpd.bgp.frozen import FrozenSession, Unfit, differences
from bgpd.bgp.wire.exa.messages import ProtocolError
from bgpd.bgp.wire.update import Framer
from bgpd.model.peer import PeerConfig
from bgpd.model.prefix import Address


def thawed_connection(
    frozen: FrozenSession,
    config: PeerConfig,
    salt: bytes,
    local_address: Address,
    *,
    random: Random,
    now: float,
) -> tuple[Connection, Counters]:
    """The established connection, and what it had counted. Its Adj-RIB-In, where it came along, waits to be read.

    ``Unfit`` where the configuration needs a new session, or where what came makes none."""
    if differ := differences(frozen.config, config, salt):
        raise Unfit(f"configured otherwise: {', '.join(differ)}")
    counters = Counters(
        Counter(frozen.received),
        Counter(frozen.sent),
        Counter(frozen.notifications),
        frozen.update_errors,
        frozen.elsewhere,
    )
    received = b"".join(frozen.ribs[family].received for family in sorted(frozen.ribs))
    again = frozenset(family for family, rib in frozen.ribs.items() if rib.received)
    counters.received["UPDATE"] -= _count_messages(received)  # counted when the other process had them
    try:
        connection = Connection(
            config,
            local_address,
            outgoing=frozen.connection.outgoing,
            restarted=False,
            counters=counters,
            random=random,
            now=now,
            frozen=replace(
                frozen.connection,
                unread=received + frozen.connection.unread,
                ended=frozen.connection.ended - again,
            ),
        )
    except ProtocolError as error:
        raise Unfit(f"its OPENs make no session: {error}") from error
    return connection, counters


def _count_messages(octets: bytes) -> int:
    """How many whole messages these are; ``Unfit`` where they are anything else."""
    framer, count = Framer(), 0
    framer.feed(octets)
    try:
        while framer.take() is not None:
            count += 1
    except ProtocolError as error:
        raise Unfit(f"received: {error}") from error
    if framer.rest:
        raise Unfit("received: it ends inside a message")
    return count
