"""A plan: all that a node would do by its resources and configuration, as one value and as the JSON of ``bgpd plan``.

Nothing is asked here: ``bgpd plan`` brings resources and what it was given of the kernel, the daemon its own of both.
The rules are those of life (``rules.peering``, ``rules.policy``, ``rules.originate``). ``views.changes`` compares two
plans. docs/plan.md says what each key of the document means.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bgpd.config.config import Config, Passwords
from bgpd.model.bfd import BfdOptions
from bgpd.model.peer import PeerConfig, PeerPolicy
from bgpd.model.prefix import (
    Address,
    Family,
    Prefix,
    address_text,
    covers,
    is_link_local,
    network_address,
    prefix_text,
)
from bgpd.model.resources import Action, Community, Problem, Snapshot
from bgpd.model.route import Attributes, ForeignRoutes, Originated, Origination, Workloads
from bgpd.rules.communities import community_text
from bgpd.rules.filters import Subject
from bgpd.rules.originate import originate
from bgpd.rules.peering import Listen, Peering, peers
from bgpd.rules.policy import KernelRule, RoutePolicy, route_policy
from bgpd.rules.priority import are_ranked, own_local_pref
from bgpd.rules.services import services

SCHEMA_VERSION = 1
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class KernelFacts:
    """What is known of the node's kernel."""

    workloads: Workloads = field(default_factory=dict)
    foreign: ForeignRoutes = field(default_factory=dict)
    known: frozenset[Family] = frozenset()
    """Families whose routes are known: in others IPAM alone says which addresses are borrowed."""
    links: Mapping[str, bool] | None = None
    """The interfaces, and whether each is up; ``None`` where that is unknown."""
    addresses: frozenset[Address] = frozenset()
    """Those that lie on the machine."""


class Plan(NamedTuple):
    """See the module."""

    node: str
    peering: Peering
    policy: RoutePolicy
    originations: Mapping[Family, Origination]
    prioritised: bool
    """Whether LOCAL_PREF carries the kernel's metric."""
    problems: tuple[Problem, ...]
    """What is wrong with resources, peers and configuration."""


class Session(NamedTuple):
    """A session that is wanted, or a listen range, whose neighbours all have sessions like it."""

    config: PeerConfig
    policy: PeerPolicy
    place: str
    """Address or prefix, as text."""


def plan(
    snapshot: Snapshot, config: Config, passwords: Passwords, kernel: KernelFacts, encoded: bool = False
) -> Plan:
    """What ``config.node`` would do. ``encoded``: an internal peer is known to send LOCAL_PREF with a metric in it."""
    node = config.node
    peering = peers(snapshot, node, config, passwords, kernel.addresses)
    of_services = services(snapshot, node)
    policy = route_policy(snapshot, node, config, peering, of_services)
    made = {
        early: originate(snapshot, kernel.workloads, node, early, policy, kernel.foreign, of_services)
        for early in {config.originate.ipam_early or family not in kernel.known for family in Family}
    }
    originations = {
        family: made[config.originate.ipam_early or family not in kernel.known][family] for family in Family
    }
    prioritised = policy.prioritised(encoded or are_ranked(kernel.workloads))
    found = (*snapshot.problems, *peering.problems, *_tunnel_problems(policy, kernel))
    return Plan(node, peering, policy, originations, prioritised, tuple(sorted(set(found), key=str)))


def _tunnel_problems(policy: RoutePolicy, kernel: KernelFacts) -> Iterator[Problem]:
    for rule in policy.families[Family.IPV4].kernel_rules:
        if rule.tunnel is not None and kernel.links is not None and not kernel.links.get(rule.tunnel):
            state = "is down" if rule.tunnel in kernel.links else "is not there"
            message = f"{rule.tunnel} {state}: its routes through it are not written"
            yield Problem(rule.reason, "", message)


def sessions(of: Plan) -> dict[str, Session]:
    """By name: the peers, then the listen ranges."""
    found = {
        str(name): Session(config, of.peering.policies[name], peer_address(config))
        for name, config in of.peering.peers.items()
    }
    for each in of.peering.dynamic:
        place = prefix_text(each.family, each.prefix)
        found[str(each.template.id)] = Session(each.template, each.policy, place)
    return found


def peer_address(config: PeerConfig) -> str:
    """A peer's address; a link-local one with its interface."""
    return address_text(config.address) + (f"%{config.interface}" if config.interface else "")


# The document.


def document(of: Plan) -> Json:
    """The plan as ``json`` takes it: the same plan is the same text."""
    return {
        "schema_version": SCHEMA_VERSION,
        "node": of.node,
        "asn": of.peering.asn,
        "router_id": address_text(of.peering.router_id),
        "listen": listen_documents(of.peering.listen),
        "peers": [entry for session in ordered(sessions(of)) for entry in peer_documents(session)],
        "announce": list(announced(of).values()),
        "blackholes": blackholes(of),
        "kernel_rules": [
            rule_document(family, rule) for family in Family for rule in of.policy.families[family].all_rules
        ],
        "problems": [problem_document(problem) for problem in of.problems],
    }


def ordered(found: Mapping[str, Session]) -> list[Session]:
    """By address, IPv4 first."""

    def key(session: Session) -> tuple[object, ...]:
        config = session.config
        return len(config.address), config.address, config.interface or "", config.port, config.id

    return sorted(found.values(), key=key)


def listen_documents(listen: Listen) -> list[Json]:
    """Where the node listens."""
    addresses = sorted(set(listen.addresses), key=lambda address: (len(address), address))
    return [{"address": address_text(address), "port": listen.port} for address in addresses]


def peer_documents(session: Session) -> Iterator[Json]:
    """A session; of a listen range one entry for each AS number that its neighbours may have."""
    config = session.config
    for asn in sorted(config.asns) or [config.asn]:
        yield _peer_document(session, asn, internal=asn == config.local_asn)


def _peer_document(session: Session, asn: int, internal: bool) -> Json:
    config, policy = session.config, session.policy
    near = config.ttl_security == 1 or is_link_local(config.address)
    return {
        "name": config.id,
        "address": session.place,
        "port": config.port,
        "asn": asn,
        "local_asn": config.local_asn,
        "type": "ibgp" if internal else "ebgp",
        "families": [family.label for family in sorted(config.families)],
        "passive": config.passive,
        "source_address": None if config.local_address is None else address_text(config.local_address),
        "password": config.password is not None,
        "ttl_security": config.ttl_security,
        "multihop": not near,
        "route_reflector_client": policy.client and internal,
        "cluster_id": address_text(policy.cluster_id) if policy.cluster_id and internal else None,
        "next_hop": policy.next_hop.value,
        "graceful_restart_s": config.restart_time,
        "keepalive_s": number(config.keepalive(config.hold_time)),
        "hold_s": number(config.hold_time),
        "allow_own_as": policy.allow_own_as,
        "filters": list(policy.filters),
        "reachable_by": None if config.reachable_by is None else address_text(config.reachable_by),
        **({"long_lived_stale_s": config.long_lived_stale_time} if config.long_lived_stale_time else {}),
        **({} if config.bfd is None else {"bfd": bfd_document(config.bfd)}),
    }


def bfd_document(options: BfdOptions) -> Json:
    """BFD as a peer asks for it; ``multihop`` of ``None`` is decided by the links of the node."""
    timing = options.timing
    return {
        "min_tx_ms": timing.min_tx / 1000,
        "min_rx_ms": timing.min_rx / 1000,
        "multiplier": timing.multiplier,
        "multihop": options.multihop,
    }


def number(seconds: float) -> int | float:
    """Whole seconds without a point."""
    return int(seconds) if seconds == int(seconds) else round(seconds, 3)


def announced(of: Plan) -> dict[tuple[Family, Prefix], Json]:
    """What the node announces, by the built-in rules or because a peer's filters let it out; in order."""
    found = {}
    for family in Family:
        origination = of.originations[family]
        entries = {
            prefix: _announce_document(family, prefix, own, _communities(of, family, prefix))
            for prefix, own in origination.announce.items()
        }
        for prefix, own in origination.offered.items():
            if prefix not in entries and _let_out(of, family, prefix, own):
                entries[prefix] = _announce_document(family, prefix, own, ())
        for prefix in sorted(entries, key=lambda prefix: _order(family, prefix)):
            found[family, prefix] = entries[prefix]
    return found


def _announce_document(
    family: Family, prefix: Prefix, own: Originated, communities: tuple[Community, ...]
) -> Json:
    return {
        "prefix": prefix_text(family, prefix),
        "kind": own.kind.value,
        "communities": [community_text(community) for community in communities],
        "source": own.source,
    }


def _communities(of: Plan, family: Family, prefix: Prefix) -> tuple[Community, ...]:
    """Those of ``prefixAdvertisements``, each once, the standard ones first."""
    added = (
        community
        for cidr, communities in of.policy.families[family].advertisements
        if covers(cidr, prefix)
        for community in communities
    )
    return tuple(sorted(dict.fromkeys(added), key=lambda community: not isinstance(community, int)))


def _let_out(of: Plan, family: Family, prefix: Prefix, own: Originated) -> bool:
    """Whether the filters of some peer accept what is not announced by itself."""
    local_pref = own_local_pref(own.metric, of.policy.families[family].normal_priority, of.prioritised)
    subject = Subject(family, prefix, own.route_source, own.interface, Attributes(local_pref=local_pref))
    asked = {
        (session.policy.filters, asn == session.config.local_asn)
        for session in sessions(of).values()
        if family in session.config.families
        for asn in session.config.asns or (session.config.asn,)
    }
    for filters, internal in asked:
        chain = of.policy.chain(filters, "export", family)
        verdict = chain.evaluate(subject, internal) if chain is not None else None
        if verdict is not None and verdict.action is Action.ACCEPT:
            return True
    return False


def _order(family: Family, prefix: Prefix) -> tuple[bytes, int]:
    return network_address(family, prefix), prefix[0]


def blackholes(of: Plan) -> list[str]:
    """The blocks that the kernel keeps as blackholes, in order."""
    return [
        prefix_text(family, prefix)
        for family in Family
        for prefix in sorted(of.originations[family].blackholes, key=lambda prefix: _order(family, prefix))
    ]


def rule_document(family: Family, rule: KernelRule) -> Json:
    """Whether and how routes inside a CIDR are written."""
    return {
        "cidr": prefix_text(family, rule.cidr),
        "action": "program" if rule.program else "reject",
        "tunnel": rule.tunnel,
        "when": "cross-subnet" if rule.cross_subnet else "always",
        "reason": rule.reason,
    }


def problem_document(problem: Problem) -> Json:
    """What is wrong, and where."""
    return {"source": problem.source, "path": problem.path, "message": problem.message}
