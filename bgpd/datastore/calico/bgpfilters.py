"""BGPFilter (calico.md §2.10): rules that say what a peer may announce and is sent. For ``decode``.

One wrong rule makes the whole filter bad, and its last good version stands: without that rule, or without a condition
of it that we do not know, the others would let through what they should not.
"""

from __future__ import annotations

from bgpd.datastore.calico.fields import Fields
from bgpd.model.prefix import Family, Prefix, prefix_text
from bgpd.model.resources import (
    Action,
    AddCommunity,
    BGPFilter,
    Community,
    FilterRule,
    MatchOperator,
    Operation,
    PrependAsPath,
    SetPriority,
)
from bgpd.rules.communities import parse_community

_HIGHEST_PRIORITY = 2147483646
_OPERATIONS = 10
_INTERFACE_NAME = 15


def bgp_filter(name: str, fields: Fields) -> BGPFilter:
    spec = fields.section("spec")
    spec.only("exportV4 importV4 exportV6 importV6")
    lists = {Family.IPV4: "V4", Family.IPV6: "V6"}
    imports = {family: _rules(spec, f"import{suffix}", family) for family, suffix in lists.items()}
    exports = {family: _rules(spec, f"export{suffix}", family) for family, suffix in lists.items()}
    return BGPFilter(
        name,
        imports={family: rules for family, rules in imports.items() if rules},
        exports={family: rules for family, rules in exports.items() if rules},
    )


def _rules(spec: Fields, key: str, family: Family) -> tuple[FilterRule, ...]:
    return tuple(_rule(rule, family) for rule in spec.sections(key))


def _rule(rule: Fields, family: Family) -> FilterRule:
    rule.only(
        "cidr matchOperator prefixLength source interface peerType communities asPathPrefix priority action operations"
    )
    action = rule.member("action", Action)
    if action is None:
        rule.bad("action", "expected, but not there")
    operator = rule.member("matchOperator", MatchOperator)
    cidr = None if rule.get("cidr") is None else rule.block("cidr", family)[1]
    if (cidr is None) != (operator is None):
        missing, there = ("cidr", "matchOperator") if cidr is None else ("matchOperator", "cidr")
        rule.bad(missing, f"expected, since {there} is there")
    interface = rule.text("interface")
    if interface is not None and len(interface) > _INTERFACE_NAME:
        rule.bad("interface", f"expected at most {_INTERFACE_NAME} characters, not {interface!r}")
    operations = tuple(_operation(entry) for entry in rule.sections("operations"))
    if operations and action is not Action.ACCEPT:
        rule.bad("operations", "expected with action Accept only")
    if len(operations) > _OPERATIONS:
        rule.bad("operations", f"expected at most {_OPERATIONS}, not {len(operations)}")
    return FilterRule(
        action,
        cidr=cidr,
        operator=operator,
        lengths=_lengths(rule, family, cidr),
        remote_peers=rule.option("source", {"RemotePeers": True}) is True,
        interface=interface,
        ibgp=rule.option("peerType", {"eBGP": False, "iBGP": True}),
        community=_community(rule),
        as_path_prefix=rule.asns("asPathPrefix"),
        priority=rule.integer("priority", 1, _HIGHEST_PRIORITY),
        operations=operations,
    )


def _lengths(rule: Fields, family: Family, cidr: Prefix | None) -> tuple[int, int] | None:
    """``prefixLength``, cut to what can be inside the CIDR; ``None`` when it says nothing."""
    section = rule.section("prefixLength")
    section.only("min max")
    low, high = section.integer("min", 0, family.bits), section.integer("max", 0, family.bits)
    if low is None and high is None:
        return None
    if cidr is None:
        rule.bad("prefixLength", "expected with cidr only")
    if low is not None and high is not None and low > high:
        section.bad("min", f"expected at most max, {high}, not {low}")
    most = family.bits if high is None else high
    if most < cidr[0]:
        section.bad("max", f"nothing in {prefix_text(family, cidr)} is as short as /{most}")
    return max(low or 0, cidr[0]), most


def _community(rule: Fields) -> Community | None:
    if rule.get("communities") is None:
        return None
    section = rule.section("communities")
    section.only("values")
    values = section.entries("values")
    if len(values) != 1:
        section.bad("values", f"expected exactly one, not {len(values)}")
    return _one_community(section, *values[0])


def _operation(entry: Fields) -> Operation:
    entry.only("addCommunity prependASPath setPriority")
    present = [key for key, value in entry.data.items() if value is not None]
    if len(present) != 1:
        entry.bad("", "expected exactly one of addCommunity, prependASPath, setPriority")
    section = entry.section(present[0])
    if present[0] == "prependASPath":
        section.only("prefix")
        asns = section.asns("prefix")
        if not asns:
            section.bad("prefix", "expected at least one AS number")
        return PrependAsPath(asns)
    section.only("value")
    if section.get("value") is None:
        section.bad("value", "expected, but not there")
    if present[0] == "addCommunity":
        return AddCommunity(_one_community(section, "value", section.get("value")))
    return SetPriority(section.integer("value", 1, _HIGHEST_PRIORITY) or 0)


def _one_community(section: Fields, at: str, value: object) -> Community:
    try:
        return parse_community(value)
    except ValueError as error:
        section.bad(at, str(error))
