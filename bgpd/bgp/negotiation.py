"""What our OPEN says, and what session two OPENs make: pure (RFC 4271 §4.2 and §6.2, RFC 5492).

``connection`` asks. Our OPEN always announces graceful restart, with the forwarding bit (the kernel keeps our routes
while we are gone) and the N bit (RFC 8538), and enhanced refresh. ADD-PATH and IPv6 next hops for IPv4 are announced
where configured. Long-lived graceful restart is announced without families, as Calico's BIRD does, unless configured.
Extended messages (RFC 8654) are not announced: none is longer than 4096 octets.
"""

from __future__ import annotations

from dataclasses import replace

from bgpd.bgp.wire.exa.messages import ProtocolError
from bgpd.bgp.wire.exa.open import Capabilities, GracefulRestart, LongLived, OpenMessage, multiprotocol_data
from bgpd.model.peer import Peer, PeerConfig
from bgpd.model.prefix import Address, Family, address_text

_EXTENDED = frozenset((Family.IPV4,))
"""What may have IPv6 next hops (RFC 8950)."""


def our_open(config: PeerConfig, *, restarted: bool) -> OpenMessage:
    """The OPEN for a peer. ``restarted``: it says that we have restarted (RFC 4724 §4.1)."""
    families = sorted(config.families)
    stale_time = config.long_lived_stale_time
    restart = GracefulRestart(restarted, config.restart_time, dict.fromkeys(families, True), True)
    return OpenMessage(
        asn=config.local_asn,
        hold_time=int(config.hold_time),
        router_id=config.router_id,
        capabilities=Capabilities(
            families=config.families,
            asn4=config.local_asn,
            route_refresh=True,
            enhanced_refresh=True,
            graceful_restart=restart,
            long_lived=dict.fromkeys(families, LongLived(True, stale_time)) if stale_time else {},
            add_path=dict.fromkeys(families, 3) if config.add_path else {},
            extended_next_hop=config.families & _EXTENDED if config.extended_next_hop else frozenset(),
        ),
    )


def negotiate(config: PeerConfig, sent: OpenMessage, theirs: OpenMessage, local_address: Address) -> Peer:
    """The session that the OPEN we sent and theirs make (RFC 4271 §6.2); ``ProtocolError`` 2/x.

    The ``config`` of the result has the AS number that a dynamic neighbour turned out to have."""
    ours, capabilities = sent.capabilities, theirs.capabilities
    if config.asns:
        if theirs.asn not in config.asns:
            raise ProtocolError(2, 2, f"{theirs.asn} is not among those of {config.source}")
        config = replace(config, asn=theirs.asn)
    elif theirs.asn != config.asn:
        raise ProtocolError(2, 2, f"expected {config.asn}, got {theirs.asn}")
    if not any(theirs.router_id):
        raise ProtocolError(2, 3, "the identifier is 0.0.0.0")
    if config.ibgp and theirs.router_id == config.router_id:
        raise ProtocolError(2, 3, f"{address_text(theirs.router_id)} is also ours")
    if theirs.hold_time in (1, 2):
        raise ProtocolError(2, 6, f"{theirs.hold_time} s, expected 0 or at least 3")
    spoken = capabilities.families if capabilities.multiprotocol else frozenset((Family.IPV4,))
    families = config.families & spoken
    if not families:
        wanted = ", ".join(family.label for family in sorted(config.families))
        raise ProtocolError(2, 7, f"no common family: we want {wanted}", multiprotocol_data(config.families))
    hold_time = float(min(sent.hold_time, theirs.hold_time))
    restart, long_lived = capabilities.graceful_restart, capabilities.long_lived or {}
    kept = frozenset() if restart is None else families & restart.families.keys()
    return Peer(
        config=config,
        router_id=theirs.router_id,
        local_address=local_address,
        families=families,
        asn4=capabilities.asn4 is not None,
        add_path_receive=frozenset(
            f for f in families if ours.add_path and capabilities.add_path.get(f, 0) & 2
        ),
        add_path_send=frozenset(f for f in families if ours.add_path and capabilities.add_path.get(f, 0) & 1),
        extended_next_hop=families & ours.extended_next_hop & capabilities.extended_next_hop,
        enhanced_refresh=capabilities.enhanced_refresh,
        restart_families=kept,
        restart_time=0.0 if restart is None else float(restart.time),
        forwarding_preserved=frozenset()
        if restart is None
        else frozenset(f for f in families if restart.families.get(f)),
        restarted=restart is not None and restart.restarted,
        sends_end_of_rib=restart is not None,
        hold_time=hold_time,
        keepalive_time=config.keepalive(hold_time),
        keeps_on_notification=restart is not None and restart.notification,
        long_lived={
            family: float(min(long_lived[family].time, config.long_lived_stale_time))
            for family in kept
            if family in long_lived and long_lived[family].time and config.long_lived_stale_time
        },
        long_lived_preserved=frozenset(f for f in kept if f in long_lived and long_lived[f].preserved),
        knows_long_lived=capabilities.long_lived is not None,
    )
