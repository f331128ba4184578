"""What another plan would change for a running node: the difference of two plans as the JSON of ``bgpctl plan``.

Sessions are compared as ``bgp.session`` does when it is configured, so that what is called a reset here is one.
Passwords are compared and never shown. docs/plan.md says what each key of the document means.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import fields

from bgpd.bgp.endings import reset_by
from bgpd.model.bfd import BfdOptions
from bgpd.model.peer import PeerConfig, PeerId, PeerPolicy
from bgpd.model.prefix import Address, Family, address_text, prefix_text
from bgpd.model.resources import BGPFilter
from bgpd.rules.communities import community_text
from bgpd.rules.policy import FamilyPolicy
from bgpd.views.plan import (
    SCHEMA_VERSION,
    Json,
    Plan,
    Session,
    announced,
    bfd_document,
    blackholes,
    listen_documents,
    number,
    ordered,
    peer_documents,
    problem_document,
    rule_document,
    sessions,
)

_NAMES = {
    "local_address": "source_address",
    "hold_time": "hold_s",
    "keepalive_time": "keepalive_s",
    "restart_time": "graceful_restart_s",
    "long_lived_stale_time": "long_lived_stale_s",
    "client": "route_reflector_client",
}
"""Fields of ``PeerConfig`` and ``PeerPolicy`` that the document calls otherwise."""
_UNSEEN = frozenset(("id", "kind", "source", "node"))
"""Fields that make no difference to a session."""


def changes(before: Plan, after: Plan, established: Collection[PeerId]) -> dict[str, object]:
    """What is different ``after``; ``established`` are the sessions that are up."""
    found = {
        "settings": list(_settings(before, after)),
        "filters": list(_filters(before, after)),
        "sessions": _sessions(before, after, established),
        "announce": _announce(before, after),
        "blackholes": _lists(blackholes(before), blackholes(after)),
        "kernel_rules": _rules(before, after),
        "problems": {
            "added": [problem_document(p) for p in after.problems if p not in before.problems],
            "gone": [problem_document(p) for p in before.problems if p not in after.problems],
        },
    }
    differs = any(any(part.values()) if isinstance(part, dict) else part for part in found.values())
    return {"schema_version": SCHEMA_VERSION, "node": after.node, "changes": differs, **found}


def _lists(before: list[str], after: list[str]) -> Json:
    return {
        "added": [text for text in after if text not in before],
        "removed": [text for text in before if text not in after],
    }


# Sessions.


def _sessions(before: Plan, after: Plan, established: Collection[PeerId]) -> Json:
    old, new = sessions(before), sessions(after)
    added = ordered({name: session for name, session in new.items() if name not in old})
    removed = ordered({name: session for name, session in old.items() if name not in new})
    reset: list[Json] = []
    changed: list[Json] = []
    for session in ordered({name: session for name, session in new.items() if name in old}):
        name, was = session.config.id, old[session.config.id]
        differences = [*_differing(was.config, session.config), *_differing(was.policy, session.policy)]
        if not differences:
            continue
        up = name in established
        resetting = reset_by(was.config, session.config, established=up or bool(session.config.asns))
        entry = {
            "name": name,
            "address": session.place,
            "established": up,
            "fields": [
                {
                    "field": _NAMES.get(field, field),
                    "before": one,
                    "after": other,
                    "resets": field in resetting,
                }
                for field, one, other in differences
            ],
        }
        (reset if resetting else changed).append(entry)
    return {
        "added": [entry for session in added for entry in peer_documents(session)],
        "removed": [
            {
                "name": session.config.id,
                "address": session.place,
                "established": session.config.id in established,
                "why": _why_gone(session, added, before, after),
            }
            for session in removed
        ],
        "reset": reset,
        "changed": changed,
    }


def _differing(
    before: PeerConfig | PeerPolicy, after: PeerConfig | PeerPolicy
) -> Iterator[tuple[str, object, object]]:
    for name in (field.name for field in fields(before)):
        one, other = getattr(before, name), getattr(after, name)
        if one != other and name not in _UNSEEN:
            yield name, _value(name, one), _value(name, other)


def _value(name: str, value: object) -> object:
    """A field's value as ``json`` takes it."""
    if name == "password":
        return value is not None
    if isinstance(value, bytes):
        return address_text(Address(value))
    if isinstance(value, Mapping):
        return {family.label: address_text(address) for family, address in sorted(value.items())}
    if isinstance(value, frozenset):
        return [item.label if isinstance(item, Family) else item for item in sorted(value)]
    if isinstance(value, BfdOptions):
        return bfd_document(value)
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, float):
        return number(value)
    return getattr(value, "value", value)


def _why_gone(session: Session, added: Iterable[Session], before: Plan, after: Plan) -> str:
    for other in added:
        if other.place == session.place:
            return f"{other.config.id} takes its place"
    for problem in after.problems:
        named = problem.source.endswith(session.config.source) or session.config.id in problem.message
        of_all = problem.path == "spec.nodeMeshPassword" or problem.message.endswith("no session is made")
        if problem not in before.problems and (named or of_all):
            return str(problem)
    return "no resource asks for it any more"


# What holds for more than one session.


def _filters(before: Plan, after: Plan) -> Iterator[Json]:
    """BGPFilters that some session has and that say something else."""
    users: dict[str, list[str]] = {}
    for of in (before, after):
        for session in ordered(sessions(of)):
            for name in session.policy.filters:
                names = users.setdefault(name, [])
                if session.config.id not in names:
                    names.append(session.config.id)
    for name, peers in sorted(users.items()):
        old, new = before.policy.filters.get(name), after.policy.filters.get(name)
        if old != new:
            change = "added" if old is None else "removed" if new is None else "changed"
            yield {"name": name, "change": change, "lists": _differing_lists(old, new), "peers": peers}


def _differing_lists(before: BGPFilter | None, after: BGPFilter | None) -> list[str]:
    """The lists of rules that differ: ``importV4``."""
    none = BGPFilter("")
    one, other = before or none, after or none
    return [
        f"{direction}V{4 if family is Family.IPV4 else 6}"
        for direction, old, new in (
            ("import", one.imports, other.imports),
            ("export", one.exports, other.exports),
        )
        for family in Family
        if old.get(family, ()) != new.get(family, ())
    ]


def _settings(before: Plan, after: Plan) -> Iterator[Json]:
    """What concerns the node as a whole."""
    one, other = _node_settings(before), _node_settings(after)
    for name in one:
        if one[name] != other[name]:
            yield {"setting": name, "before": one[name], "after": other[name]}


def _node_settings(of: Plan) -> dict[str, object]:
    peering, policy = of.peering, of.policy
    found: dict[str, object] = {
        "asn": peering.asn,
        "router_id": address_text(peering.router_id),
        "listen": listen_documents(peering.listen),
        "cluster_id": address_text(policy.cluster_id) if policy.cluster_id else None,
        "local_pref_carries_metric": of.prioritised,
        "kept_inside": sorted(policy.kept_inside),
        "ignored_interfaces": sorted(policy.ignored_interfaces),
    }
    for family in Family:
        origination = of.originations[family]
        prefixes = {
            "exported_pools": origination.exported_pools,
            "hidden_pools": origination.hidden_pools,
            "exported_services": origination.exported_services,
            "kept_services": origination.kept_services,
        }
        found |= {
            f"{family.label}.{name}": sorted({prefix_text(family, prefix) for prefix in value})
            for name, value in prefixes.items()
        }
        found |= {
            f"{family.label}.{k}": v for k, v in _family_settings(family, of.policy.families[family]).items()
        }
    return found


def _family_settings(family: Family, policy: FamilyPolicy) -> dict[str, object]:
    subnet = policy.own_subnet
    crosses = any(rule.cross_subnet for rule in policy.kernel_rules)
    return {
        "normal_priority": policy.normal_priority,
        "prefix_advertisements": [
            {"cidr": prefix_text(family, cidr), "communities": [community_text(each) for each in communities]}
            for cidr, communities in policy.advertisements
        ],
        "own_subnet": prefix_text(family, subnet) if subnet is not None and crosses else None,
        "wireguard": sorted(address_text(address) for address in policy.encrypted),
        "host_routes": [
            f"{prefix_text(family, prefix)} via {address_text(route.gateway)}"
            for prefix, route in sorted(policy.reachable.items())
        ],
    }


# Routes.


def _announce(before: Plan, after: Plan) -> Json:
    old, new = announced(before), announced(after)
    changed = []
    for key in new:
        if key in old:
            one, other = old[key], new[key]
            if (one["kind"], one["communities"]) != (other["kind"], other["communities"]):
                changed.append({"prefix": other["prefix"], "before": one, "after": other})
    return {
        "added": [entry for key, entry in new.items() if key not in old],
        "removed": [entry for key, entry in old.items() if key not in new],
        "changed": changed,
    }


def _rules(before: Plan, after: Plan) -> Json:
    """By CIDR; of several rules of one CIDR the first holds."""
    old, new = _first_rules(before), _first_rules(after)
    return {
        "added": [rule for cidr, rule in new.items() if cidr not in old],
        "removed": [rule for cidr, rule in old.items() if cidr not in new],
        "changed": [
            {"cidr": cidr, "before": old[cidr], "after": rule}
            for cidr, rule in new.items()
            if cidr in old and any(old[cidr][key] != rule[key] for key in ("action", "tunnel", "when"))
        ],
    }


def _first_rules(of: Plan) -> dict[str, Json]:
    found: dict[str, Json] = {}
    for family in Family:
        for rule in of.policy.families[family].all_rules:
            entry = rule_document(family, rule)
            found.setdefault(entry["cidr"], entry)
    return found
