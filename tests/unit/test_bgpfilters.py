"""BGPFilter: every field of a rule as it is read, and each wrong one with the path that names it."""

from __future__ import annotations

from typing import Any

import pytest

from bgpd.datastore.calico.decode import Verdict
from bgpd.model.prefix import Family, parse_prefix
from bgpd.model.resources import (
    Action,
    AddCommunity,
    BGPFilter,
    FilterRule,
    MatchOperator,
    PrependAsPath,
    SetPriority,
)
from tests.unit.test_decode import V1, V3, good, one, thing

ACCEPT, REJECT = Action.ACCEPT, Action.REJECT
TEN = parse_prefix("10.65.0.0/16")[1]
IN_TEN = {"cidr": "10.65.0.0/16", "matchOperator": "In"}


def read(rule: dict[str, Any], key: str = "exportV4") -> FilterRule:
    """The one rule of a filter."""
    found = good(thing("BGPFilter", {key: [rule]}))
    (rules,) = (*found.exports.values(), *found.imports.values())
    return rules[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("group", [V3, V1])
def test_lists_and_order(group: str) -> None:
    spec = {
        "exportV4": [{**IN_TEN, "action": "Accept"}, {"action": "Reject"}],
        "importV4": [{"action": "Accept"}],
        "exportV6": [],
        "importV6": [{"action": "Reject", "source": "RemotePeers"}],
    }
    assert good(thing("BGPFilter", spec, "to-tor", group)) == BGPFilter(
        "to-tor",
        imports={
            Family.IPV4: (FilterRule(ACCEPT),),
            Family.IPV6: (FilterRule(REJECT, remote_peers=True),),
        },
        exports={
            Family.IPV4: (FilterRule(ACCEPT, cidr=TEN, operator=MatchOperator.IN), FilterRule(REJECT)),
        },
    )
    assert good(thing("BGPFilter", {}, "to-tor", group)) == BGPFilter("to-tor")
    assert good(thing("BGPFilter", None, "to-tor", group)) == BGPFilter("to-tor")


@pytest.mark.parametrize(
    ("rule", "fields"),
    [
        *(
            ({"cidr": "10.65.0.0/16", "matchOperator": word.value}, {"cidr": TEN, "operator": word})
            for word in MatchOperator
        ),
        ({"cidr": "", "matchOperator": None}, {}),
        ({"source": "RemotePeers"}, {"remote_peers": True}),
        ({"source": ""}, {}),
        ({"interface": "cali*"}, {"interface": "cali*"}),
        ({"interface": "fifteen-letters"}, {"interface": "fifteen-letters"}),
        ({"peerType": "eBGP"}, {"ibgp": False}),
        ({"peerType": "iBGP"}, {"ibgp": True}),
        ({"communities": {"values": ["64512:100"]}}, {"community": 64512 << 16 | 100}),
        ({"communities": {"values": ["64512:1:2"]}}, {"community": (64512, 1, 2)}),
        ({"communities": None}, {}),
        ({"asPathPrefix": [65000, "65001", "1.10"]}, {"as_path_prefix": (65000, 65001, 65546)}),
        ({"asPathPrefix": []}, {}),
        ({"priority": 512}, {"priority": 512}),
        ({"priority": 2147483646}, {"priority": 2147483646}),
        ({"operations": []}, {}),
    ],
)
def test_conditions(rule: dict[str, Any], fields: dict[str, Any]) -> None:
    for action in Action:
        assert read({**rule, "action": action.value}) == FilterRule(action, **fields)


@pytest.mark.parametrize(
    ("lengths", "cut"),
    [
        ({"min": 24, "max": 26}, (24, 26)),
        ({"min": 8, "max": 24}, (16, 24)),  # nothing inside a /16 is shorter
        ({"min": 20}, (20, 32)),
        ({"max": 16}, (16, 16)),
        ({"max": 28, "min": None}, (16, 28)),
        ({"min": 0, "max": 32}, (16, 32)),
        ({}, None),
        (None, None),
        ({"min": None, "max": None}, None),
    ],
)
def test_prefix_lengths(lengths: object, cut: tuple[int, int] | None) -> None:
    rule = read({**IN_TEN, "prefixLength": lengths, "action": "Accept"})
    assert rule == FilterRule(ACCEPT, cidr=TEN, operator=MatchOperator.IN, lengths=cut)


def test_prefix_lengths_of_ipv6() -> None:
    rule = {
        "cidr": "fd00:48::/64",
        "matchOperator": "NotIn",
        "prefixLength": {"min": 122},
        "action": "Reject",
    }
    for key in ("exportV6", "importV6"):
        assert read(rule, key).lengths == (122, 128)


def test_operations_in_order() -> None:
    operations = [
        {"addCommunity": {"value": "64512:100"}},
        {"prependASPath": {"prefix": [65000, "1.10"]}},
        {"setPriority": {"value": 512}, "addCommunity": None},
        {"addCommunity": {"value": "64512:1:2"}},
    ]
    assert read({"action": "Accept", "operations": operations}).operations == (
        AddCommunity(64512 << 16 | 100),
        PrependAsPath((65000, 65546)),
        SetPriority(512),
        AddCommunity((64512, 1, 2)),
    )
    ten = [{"setPriority": {"value": number}} for number in range(1, 11)]
    assert len(read({"action": "Accept", "operations": ten}).operations) == 10


@pytest.mark.parametrize(
    ("rule", "path", "words"),
    [
        ({"action": None}, "action", "expected, but not there"),
        ({"action": "accept"}, "action", "expected one of Accept, Reject, not 'accept'"),
        ({"cidr": "10.0.0.0/8"}, "matchOperator", "expected, since cidr is there"),
        ({"matchOperator": "In"}, "cidr", "expected, since matchOperator is there"),
        ({**IN_TEN, "matchOperator": "in"}, "matchOperator", "expected one of Equal, NotEqual, In, NotIn"),
        ({**IN_TEN, "cidr": "10.65.0.1/16"}, "cidr", "has host bits: expected 10.65.0.0/16?"),
        ({**IN_TEN, "cidr": "10.65.0.0"}, "cidr", "has no length"),
        ({**IN_TEN, "cidr": "10.65.0.0/33"}, "cidr", "is not a prefix"),
        ({**IN_TEN, "cidr": "fd00::/64"}, "cidr", "'fd00::/64' is not of ipv4"),
        ({**IN_TEN, "cidr": "::ffff:10.65.0.0/112"}, "cidr", "is IPv4 inside IPv6: expected 10.65.0.0/16?"),
        ({"prefixLength": {"min": 8}}, "prefixLength", "expected with cidr only"),
        ({**IN_TEN, "prefixLength": {"min": -1}}, "prefixLength.min", "from 0 to 32"),
        ({**IN_TEN, "prefixLength": {"max": 33}}, "prefixLength.max", "from 0 to 32"),
        ({**IN_TEN, "prefixLength": {"min": 26, "max": 24}}, "prefixLength.min", "at most max, 24, not 26"),
        ({**IN_TEN, "prefixLength": {"max": 8}}, "prefixLength.max", "nothing in 10.65.0.0/16 is as short as /8"),
        ({**IN_TEN, "prefixLength": {"least": 8}}, "prefixLength.least", "unknown: expected min, max"),
        ({**IN_TEN, "prefixLength": 24}, "prefixLength", "expected keys and values"),
        ({"source": "Local"}, "source", "expected RemotePeers, not 'Local'"),
        ({"interface": "sixteen-letters-"}, "interface", "expected at most 15 characters"),
        ({"interface": [3]}, "interface", "expected text"),
        ({"peerType": "ebgp"}, "peerType", "expected one of eBGP, iBGP"),
        ({"communities": {"values": []}}, "communities.values", "expected exactly one, not 0"),
        ({"communities": {"values": ["1:2", "1:3"]}}, "communities.values", "expected exactly one, not 2"),
        ({"communities": {}}, "communities.values", "expected exactly one, not 0"),
        ({"communities": {"values": "1:2"}}, "communities.values", "expected a list"),
        ({"communities": {"values": ["1:65536"]}}, "communities.values.0", "at most 65535"),
        ({"communities": {"values": ["blue"]}}, "communities.values.0", "is no community"),
        ({"communities": ["1:2"]}, "communities", "expected keys and values"),
        ({"asPathPrefix": 65000}, "asPathPrefix", "expected a list"),
        ({"asPathPrefix": [65000, 0]}, "asPathPrefix.1", "expected an AS number"),
        ({"priority": 0}, "priority", "from 1 to 2147483646"),
        ({"priority": 2147483647}, "priority", "from 1 to 2147483646"),
        ({"operations": {}}, "operations", "expected a list"),
        ({"operations": [{"setPriority": {"value": 1}}] * 11}, "operations", "expected at most 10, not 11"),
        ({"operations": [{}]}, "operations.0", "expected exactly one of addCommunity"),
        (
            {"operations": [{"setPriority": {"value": 1}, "addCommunity": {"value": "1:2"}}]},
            "operations.0",
            "expected exactly one of addCommunity",
        ),
        ({"operations": [{"setMED": {"value": 1}}]}, "operations.0.setMED", "unknown"),
        ({"operations": [{"addCommunity": {}}]}, "operations.0.addCommunity.value", "not there"),
        ({"operations": [{"addCommunity": "1:2"}]}, "operations.0.addCommunity", "expected keys and values"),
        ({"operations": [{"addCommunity": {"value": "1"}}]}, "operations.0.addCommunity.value", "is no community"),
        ({"operations": [{"prependASPath": {}}]}, "operations.0.prependASPath.prefix", "at least one"),
        (
            {"operations": [{"setPriority": {"value": 1}}, {"prependASPath": {"prefix": [1, "x"]}}]},
            "operations.1.prependASPath.prefix.1",
            "expected an AS number",
        ),
        ({"operations": [{"setPriority": {"value": 0}}]}, "operations.0.setPriority.value", "from 1 to"),
        ({"operations": [{"setPriority": {"value": None}}]}, "operations.0.setPriority.value", "not there"),
        ({"cidrs": ["10.0.0.0/8"]}, "cidrs", "unknown: expected cidr, matchOperator"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("key", ["importV4", "exportV4"])
def test_a_wrong_rule_is_named_and_makes_the_filter_bad(
    rule: dict[str, Any], path: str, words: str, key: str
) -> None:
    rules = [{"action": "Accept"}, {**IN_TEN, "action": "Accept"}, {"action": "Accept", **rule}]
    decoded = one(thing("BGPFilter", {key: rules}))
    (problem,) = decoded.problems
    assert (decoded.verdict, problem.path) == (Verdict.BAD, f"spec.{key}.2.{path}")
    assert problem.source == "f.yaml: BGPFilter x"
    assert words in problem.message


def test_operations_of_a_refusal() -> None:
    rule = {"action": "Reject", "operations": [{"setPriority": {"value": 1}}]}
    (problem,) = one(thing("BGPFilter", {"exportV4": [rule]})).problems
    assert (problem.path, problem.message) == (
        "spec.exportV4.0.operations",
        "expected with action Accept only",
    )


@pytest.mark.parametrize(
    ("spec", "path", "words"),
    [
        ({"exportV6": [{**IN_TEN, "action": "Accept"}]}, "spec.exportV6.0.cidr", "is not of ipv6"),
        (
            {"importV6": [{**IN_TEN, "cidr": "::ffff:10.0.0.0/104", "action": "Accept"}]},
            "spec.importV6.0.cidr",
            "is IPv4 inside IPv6: expected 10.0.0.0/8?",
        ),
        ({"exportv4": []}, "spec.exportv4", "unknown: expected exportV4, importV4, exportV6, importV6"),
        ({"exportV4": {}}, "spec.exportV4", "expected a list"),
        ({"exportV4": ["Accept"]}, "spec.exportV4.0", "expected keys and values"),
        ({"exportV4": [None]}, "spec.exportV4.0.action", "expected, but not there"),
        ([], "spec", "expected keys and values"),
    ],
)
def test_bad_filters(spec: object, path: str, words: str) -> None:
    decoded = one(thing("BGPFilter", spec))
    (problem,) = decoded.problems
    assert (decoded.verdict, problem.path) == (Verdict.BAD, path)
    assert words in problem.message
