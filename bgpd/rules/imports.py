"""Import: which received paths may be used, and what they are once a peer's filters have had their word.

The protocol forbids loops: our own AS on the AS path more often than the peer may have it (RFC 4271 §9.1.2), and our
own ORIGINATOR_ID (RFC 4456 §8). Our own cluster is a loop on what a client of ours announces. What another reflector of
our cluster announces has our cluster on it by its nature: we take that, as BIRD does, and ORIGINATOR_ID ends the loops;
``strict_cluster_list`` is the RFC's letter. An external path may start with another AS than the peer's: a route
server's does (RFC 7947 §2.2.2.1), and RFC 4271 §6.3 leaves it to us; ``enforce_first_as`` refuses it.

Prefixes of addresses that no host can have are refused as BIRD refuses them (RFC 1812 §5.3.7): in the kernel they
would take a link's own addresses, or multicast, from the node.

Then the peer's filters accept, alter or reject; without a match a path is
accepted as it is (calico.md §2.8). Adj-RIB-In keeps what was received, so that another filter needs no session.

A path with GRACEFUL_SHUTDOWN gets LOCAL_PREF 0, from whichever peer it comes (RFC 8326 §4.2): a node of this cluster
that is drained says it to internal peers. A stale path that outlives its peer's restart time is the last resort
(RFC 9494). Called by ``rib.router``; ``bgpctl why`` prints the refusals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import itemgetter

from bgpd.model.peer import MOST_PATHS, Peer
from bgpd.model.prefix import Address, Family, Prefix, is_link_local, network_address
from bgpd.model.resources import Action, Operation
from bgpd.model.route import Attributes, Path, Reason, RouteSource
from bgpd.rules.communities import GRACEFUL_SHUTDOWN, LLGR_STALE, NO_LLGR
from bgpd.rules.filters import Chain, Subject, Verdict, operated
from bgpd.rules.policy import RoutePolicy
from bgpd.rules.priority import DEFAULT_LOCAL_PREF


@dataclass(frozen=True, slots=True)
class ImportRules:
    """What holds for the paths of one peer, in one family."""

    allow_own_as: int = 0
    cluster_id: Address | None = None
    """The cluster ID of ours that counts as a loop; ``None`` for none."""
    chain: Chain | None = None
    ibgp: bool = True
    client: bool = False
    """The peer is a client of ours, as a route reflector."""
    enforce_first_as: bool = False
    strict_cluster_list: bool = False
    max_paths_per_prefix: int = MOST_PATHS


def import_rules(policy: RoutePolicy, peer: Peer, family: Family) -> ImportRules:
    """The rules for a session."""
    own = policy.of(peer)
    chain = policy.chain(own.filters, "import", family)
    return ImportRules(
        own.allow_own_as,
        own.cluster_id or policy.cluster_id,
        chain,
        peer.ibgp,
        own.client and peer.ibgp,
        own.enforce_first_as,
        own.strict_cluster_list,
        own.max_paths_per_prefix,
    )


def starts_elsewhere(path: Path) -> bool:
    """Whether the AS path of an external peer does not start with the peer's AS: a route server's."""
    return not (path.peer.ibgp or path.attributes.as_path.starts_with(path.peer.config.asn))


def import_refusal(path: Path, rules: ImportRules | None = None) -> Reason | None:
    """Why the protocol forbids the use of a path, whatever its prefix."""
    config, attributes = path.peer.config, path.attributes
    count = attributes.as_path.occurrences(config.local_asn)
    if count and count > (rules.allow_own_as if rules else 0):
        return Reason.AS_LOOP
    if attributes.originator_id is not None and attributes.originator_id == config.router_id:
        return Reason.ORIGINATOR_LOOP
    if rules is None:
        return None
    if (
        attributes.cluster_list
        and (rules.client or rules.strict_cluster_list)
        and rules.cluster_id in attributes.cluster_list
    ):
        return Reason.CLUSTER_LOOP
    if rules.enforce_first_as and starts_elsewhere(path):
        return Reason.FIRST_AS
    return None


def prefix_import_refusal(
    family: Family, prefix: Prefix, path: Path, rules: ImportRules | None
) -> Reason | None:
    """Why a path is not used for a prefix, whatever filters say."""
    return import_refusal(path, rules) or (Reason.MARTIAN if is_martian(family, prefix) else None)


_FIRST_OCTETS = {
    Family.IPV4: frozenset((0, 127, *range(224, 256))),
    Family.IPV6: frozenset((0, 0xFE, 0xFF)),
}
"""What the addresses of a martian begin with, and of IPv6 others too."""
_NO_HOSTS = bytes(10)


def is_martian(family: Family, prefix: Prefix) -> bool:
    """Whether no host can have the address that a prefix begins with: this network, loopback, multicast, reserved (RFC
    6890), or, of IPv6, link-local, or what only stands for IPv4 addresses (RFC 4291 §2.4, §2.5). The default route and
    its lower half are none."""
    if (prefix[0] <= 1 and not any(prefix[1:])) or prefix[1] not in _FIRST_OCTETS[family]:
        return False
    if family is Family.IPV4 or prefix[1] == 0xFF:
        return True
    address = network_address(family, prefix)
    return is_link_local(address) or address.startswith(_NO_HOSTS)


def may_be_martians(family: Family, prefixes: Sequence[Prefix]) -> bool:
    """Whether one of them may be a martian: what a whole table costs 20 ns a prefix to ask."""
    try:
        return not _FIRST_OCTETS[family].isdisjoint(map(itemgetter(1), prefixes))
    except IndexError:  # a default route has no octets
        return any(is_martian(family, prefix) for prefix in prefixes)


def with_local_pref(attributes: Attributes) -> Attributes:
    """As filters see it: LOCAL_PREF is always there."""
    return (
        attributes
        if attributes.local_pref is not None
        else replace(attributes, local_pref=DEFAULT_LOCAL_PREF)
    )


def import_verdict(family: Family, prefix: Prefix, path: Path, rules: ImportRules) -> Verdict | None:
    """What the peer's filters say of a path; ``None`` when they say nothing."""
    if rules.chain is None:
        return None
    subject = Subject(family, prefix, RouteSource.BGP, "", with_local_pref(path.attributes))
    return rules.chain.evaluate(subject, rules.ibgp)


def altered(path: Path, operations: tuple[Operation, ...]) -> Path:
    """A path after the operations of a rule; itself when they change nothing."""
    attributes = operated(path.attributes, operations)
    return path if attributes is path.attributes else path._replace(attributes=attributes)


def rejected(verdict: Verdict | None) -> bool:
    """Whether a filter's verdict is no."""
    return verdict is not None and verdict.action is Action.REJECT


def long_lived(path: Path) -> Path | None:
    """A stale path as it is used after its peer's restart time: with LLGR_STALE, by which all know it; ``None`` for one
    that its origin wants to go then, by NO_LLGR (RFC 9494 §4.2)."""
    communities = path.attributes.communities
    if NO_LLGR in communities:
        return None
    if LLGR_STALE in communities:
        return path
    return path._replace(attributes=replace(path.attributes, communities=(*communities, LLGR_STALE)))


def as_taken(path: Path) -> Path:
    """A path as it is taken into Adj-RIB-In: LOCAL_PREF is 0 where the peer says that it goes away. A link-local
    next hop has the interface that it is on, ``fe80::1%eth0`` (RFC 4007 §11), which ``kernel`` resolves there. The
    caller asks where either may be."""
    attributes = path.attributes
    if GRACEFUL_SHUTDOWN in attributes.communities and attributes.local_pref != 0:
        path = path._replace(attributes=replace(attributes, local_pref=0))
    interface = path.peer.config.interface
    if interface:
        on_link = path.link_local if path.link_local is not None else path.next_hop
        if is_link_local(on_link):
            path = path._replace(next_hop=Address(on_link + interface.encode()))
    return path
