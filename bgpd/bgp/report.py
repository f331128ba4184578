"""What the operator sees of a session: ``speaker`` asks for it when they do."""

from __future__ import annotations

from bgpd.bgp.session import Session, Trouble
from bgpd.model.prefix import address_text
from bgpd.model.status import PeerStatus, SessionState


def status(session: Session, since: float, hindrance: str, now: float, unix: float) -> PeerStatus:
    """One session. Prefix counts and the output queue are others' to fill in.

    ``since``: Unix time of its last way into or out of Established; ``hindrance``: why the peer's own connections
    cannot be taken; ``now`` and ``unix``: the time on the session's clock and on the wall.
    """

    def wall(trouble: Trouble) -> float | None:
        return unix - (now - trouble.at) if trouble.text else None

    config = session.config
    peer = session.peer
    connection = session.established or next(iter(session.connections), None)
    received = None if connection is None else connection.received_open
    counters = session.counters
    return PeerStatus(
        id=config.id,
        kind=config.kind.value,
        source=config.source,
        address=address_text(config.address),
        port=config.port,
        asn=config.asn,
        local_asn=config.local_asn,
        state=session.state,
        admin_up=session.admin_up,
        passive=config.passive,
        since=since,
        families=tuple(f.label for f in sorted(peer.families if peer is not None else config.families)),
        local_address=address_text(peer.local_address) if peer is not None else "",
        router_id=address_text(peer.router_id) if peer is not None else "",
        hold_time=peer.hold_time if peer is not None else config.hold_time,
        keepalive_time=peer.keepalive_time if peer is not None else config.keepalive(config.hold_time),
        capabilities_sent=() if connection is None else connection.sent_open.capabilities.words(),
        capabilities_received=() if received is None else received.capabilities.words(),
        graceful_restart_active=session.state is not SessionState.ESTABLISHED and now < session.stale_until,
        max_prefixes=config.max_prefixes,
        last_down=session.fall.text,
        last_down_at=wall(session.fall),
        last_error="; ".join(filter(None, (session.last_error, hindrance))),
        last_error_at=wall(session.trouble),
        flaps=dict(session.flaps),
        messages_received=dict(counters.received),
        messages_sent=dict(counters.sent),
        notifications=dict(counters.notifications),
        update_errors=counters.update_errors,
        first_as=counters.elsewhere,
    )
