"""BGPFilters: each field of a rule with routes that match and that do not; the order, the ends, the operations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from bgpd.model.prefix import Family
from bgpd.model.resources import (
    Action,
    AddCommunity,
    BGPFilter,
    FilterRule,
    MatchOperator,
    PrependAsPath,
    SetPriority,
)
from bgpd.model.route import AsPath, Attributes, RouteSource, SegmentType
from bgpd.rules.filters import Chain, Subject, Verdict, chain, missing, operated
from bgpd.rules.priority import INT_MAX
from tests.unit.builders import V4, V6, attributes, pfx, sequence

EQUAL, NOT_EQUAL = MatchOperator.EQUAL, MatchOperator.NOT_EQUAL
IN, NOT_IN = MatchOperator.IN, MatchOperator.NOT_IN
ACCEPT, REJECT = FilterRule(Action.ACCEPT), FilterRule(Action.REJECT)
BGP = RouteSource.BGP

FOUR, SIX = "10.48.0.128/26", "fd00:48::40/122"


def subject(prefix: str = FOUR, source: RouteSource = BGP, interface: str = "", **given: Any) -> Subject:
    """A route; the AS numbers of its path are ``path``, the rest of ``given`` are attributes."""
    family = V6 if ":" in prefix else V4
    path: tuple[int, ...] | AsPath = given.pop("path", ())
    as_path = path if isinstance(path, AsPath) else sequence(*path)
    return Subject(family, pfx(prefix), source, interface, Attributes(as_path=as_path, **given))


def rule(cidr: str | None = None, operator: MatchOperator | None = None, **given: Any) -> FilterRule:
    given.setdefault("action", Action.ACCEPT)
    return FilterRule(cidr=pfx(cidr) if cidr else None, operator=operator, **given)


def matches(one: FilterRule, route: Subject, ibgp: bool = False) -> bool:
    return Chain((("f exportV4[0]", one),)).evaluate(route, ibgp) is not None


def a_filter(name: str, *rules: FilterRule, family: Family = V4) -> BGPFilter:
    """A filter with these rules in both directions."""
    return BGPFilter(name, {family: rules}, {family: rules})


def by_name(*filters: BGPFilter) -> Mapping[str, BGPFilter]:
    return {each.name: each for each in filters}


# -- cidr, matchOperator, prefixLength ---------------------------------------------------------------------------------

EVERYTHING4 = (
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.48.0.0/15",
    "10.48.0.0/16",
    "10.48.0.0/24",
    "10.48.9.9/32",
    "10.49.0.0/16",
    "10.50.0.0/16",
)
EVERYTHING6 = (
    "::/0",
    "fd00::/8",
    "fd00:48::/31",
    "fd00:48::/32",
    "fd00:48:1::/48",
    "fd00:48::9/128",
    "fd00:49::/32",
    "fd00:4a::/32",
)


@pytest.mark.parametrize(
    ("cidr", "operator", "lengths", "matching"),
    [
        ("10.48.0.0/16", EQUAL, None, {3}),
        ("10.48.0.0/16", NOT_EQUAL, None, {0, 1, 2, 4, 5, 6, 7}),
        ("10.48.0.0/16", IN, None, {3, 4, 5}),
        ("10.48.0.0/16", NOT_IN, None, {0, 1, 2, 6, 7}),
        ("10.48.0.0/15", IN, None, {2, 3, 4, 5, 6}),  # not at an octet's edge
        ("10.48.0.0/15", NOT_IN, None, {0, 1, 7}),
        ("10.48.0.0/15", IN, (16, 24), {3, 4, 6}),
        ("0.0.0.0/0", EQUAL, None, {0}),
        ("0.0.0.0/0", IN, None, {0, 1, 2, 3, 4, 5, 6, 7}),
        ("0.0.0.0/0", NOT_IN, None, set()),
        ("10.48.9.9/32", IN, None, {5}),
        ("10.48.9.8/32", IN, None, set()),
        ("10.48.0.0/16", IN, (24, 26), {4}),
        ("10.48.0.0/16", IN, (16, 32), {3, 4, 5}),
        ("10.48.0.0/16", IN, (0, 24), {3, 4}),  # a length above the CIDR's own is not inside it
        ("10.48.0.0/16", IN, (17, 23), set()),
        ("10.48.0.0/16", NOT_IN, (24, 26), {0, 1, 2, 3, 5, 6, 7}),
        ("10.48.0.0/16", EQUAL, (24, 26), {4}),  # equal to a set: in it
        ("10.48.0.0/16", NOT_EQUAL, (24, 26), {0, 1, 2, 3, 5, 6, 7}),
        ("0.0.0.0/0", IN, (32, 32), {5}),
        ("0.0.0.0/0", IN, (0, 16), {0, 1, 2, 3, 6, 7}),
    ],
)
def test_cidr(
    cidr: str, operator: MatchOperator, lengths: tuple[int, int] | None, matching: set[int]
) -> None:
    one = rule(cidr, operator, lengths=lengths)
    found = {index for index, prefix in enumerate(EVERYTHING4) if matches(one, subject(prefix))}
    assert found == matching


@pytest.mark.parametrize(
    ("cidr", "operator", "lengths", "matching"),
    [
        ("fd00:48::/32", EQUAL, None, {3}),
        ("fd00:48::/32", NOT_EQUAL, None, {0, 1, 2, 4, 5, 6, 7}),
        ("fd00:48::/32", IN, None, {3, 4, 5}),
        ("fd00:48::/32", NOT_IN, None, {0, 1, 2, 6, 7}),
        ("fd00:48::/31", IN, None, {2, 3, 4, 5, 6}),
        ("fd00:48::/31", IN, (32, 48), {3, 4, 6}),
        ("::/0", EQUAL, None, {0}),
        ("::/0", IN, None, {0, 1, 2, 3, 4, 5, 6, 7}),
        ("fd00:48::9/128", IN, None, {5}),
        ("fd00:48::8/128", IN, None, set()),
        ("fd00:48::/32", IN, (33, 48), {4}),
        ("fd00:48::/32", IN, (48, 128), {4, 5}),
        ("fd00:48::/32", NOT_IN, (48, 128), {0, 1, 2, 3, 6, 7}),
        ("fd00:48::/32", EQUAL, (48, 128), {4, 5}),
        ("fd00:48::/32", NOT_EQUAL, (48, 128), {0, 1, 2, 3, 6, 7}),
        ("::/0", IN, (128, 128), {5}),
    ],
)
def test_cidr_of_ipv6(
    cidr: str, operator: MatchOperator, lengths: tuple[int, int] | None, matching: set[int]
) -> None:
    one = rule(cidr, operator, lengths=lengths)
    found = {index for index, prefix in enumerate(EVERYTHING6) if matches(one, subject(prefix))}
    assert found == matching


# -- the other conditions, for a route of each family ------------------------------------------------------------------

SET = AsPath.of((SegmentType.AS_SET, (65001, 65002)))
CONFEDERATION = AsPath.of((SegmentType.CONFED_SEQUENCE, (65001,)), (SegmentType.AS_SEQUENCE, (65002,)))
SPLIT = AsPath.of((SegmentType.AS_SEQUENCE, (65001,)), (SegmentType.AS_SEQUENCE, (65002, 65003)))
THEN_SET = AsPath.of((SegmentType.AS_SEQUENCE, (65001, 65002)), (SegmentType.AS_SET, (65003,)))


@pytest.mark.parametrize("prefix", [FOUR, SIX])
@pytest.mark.parametrize(
    ("condition", "route", "expected"),
    [
        ({"remote_peers": True}, {"source": BGP}, True),
        ({"remote_peers": True}, {"source": RouteSource.KERNEL}, False),
        ({"remote_peers": True}, {"source": RouteSource.STATIC}, False),
        ({"remote_peers": True}, {"source": RouteSource.DIRECT}, False),
        ({"interface": "eth0"}, {"interface": "eth0"}, True),
        ({"interface": "eth0"}, {"interface": "eth01"}, False),
        ({"interface": "eth0"}, {"interface": "veth0"}, False),
        ({"interface": "eth0"}, {"interface": ""}, False),
        ({"interface": "cali*"}, {"interface": "cali1234567890a"}, True),
        ({"interface": "cali*"}, {"interface": "cali"}, True),
        ({"interface": "cali*"}, {"interface": "xcali1"}, False),
        ({"interface": "*.cali"}, {"interface": "vxlan.cali"}, True),
        ({"interface": "*.cali"}, {"interface": "vxlanXcali"}, False),
        ({"interface": "bpf*.cali"}, {"interface": "bpfin.cali"}, True),
        ({"interface": "eth?"}, {"interface": "eth3"}, True),
        ({"interface": "eth?"}, {"interface": "eth"}, False),
        ({"interface": "eth?"}, {"interface": "eth10"}, False),
        ({"interface": "eth[01]"}, {"interface": "eth0"}, False),
        ({"interface": "ETH0"}, {"interface": "eth0"}, False),
        ({"interface": "*"}, {"interface": "tunl0"}, True),
        ({"interface": "*"}, {"interface": ""}, True),
        ({"interface": "?*"}, {"interface": ""}, False),
        ({"community": 0xFC000064}, {"communities": (1, 0xFC000064)}, True),
        ({"community": 0xFC000064}, {"communities": (0xFC000065,)}, False),
        ({"community": 0xFC000064}, {}, False),
        ({"community": 100}, {"large_communities": ((0, 0, 100),)}, False),
        ({"community": (64512, 1, 2)}, {"large_communities": ((9, 9, 9), (64512, 1, 2))}, True),
        ({"community": (64512, 1, 2)}, {"large_communities": ((64512, 2, 1),)}, False),
        ({"community": (64512, 1, 2)}, {"communities": (64512, 1, 2)}, False),
        ({"as_path_prefix": (65001,)}, {"path": (65001,)}, True),
        ({"as_path_prefix": (65001,)}, {"path": (65001, 65002)}, True),
        ({"as_path_prefix": (65001, 65002)}, {"path": (65001, 65002)}, True),
        ({"as_path_prefix": (65001, 65002)}, {"path": (65001, 65003)}, False),
        ({"as_path_prefix": (65001, 65002)}, {"path": (65001,)}, False),
        ({"as_path_prefix": (65001,)}, {"path": (65002, 65001)}, False),
        ({"as_path_prefix": (65001,)}, {"path": ()}, False),
        ({"as_path_prefix": (65001, 65002)}, {"path": SPLIT}, True),
        ({"as_path_prefix": (65001, 65002, 65003)}, {"path": SPLIT}, True),
        ({"as_path_prefix": (65001, 65003)}, {"path": SPLIT}, False),
        ({"as_path_prefix": (65002,)}, {"path": SPLIT}, False),
        ({"as_path_prefix": (65001, 65002)}, {"path": THEN_SET}, True),
        ({"as_path_prefix": (65001, 65002, 65003)}, {"path": THEN_SET}, False),
        ({"as_path_prefix": (65001,)}, {"path": SET}, False),
        ({"as_path_prefix": (65001,)}, {"path": CONFEDERATION}, False),
        ({"priority": 1024}, {"local_pref": INT_MAX - 1024}, True),
        ({"priority": 1024}, {"local_pref": INT_MAX - 512}, False),
        ({"priority": 1024}, {"local_pref": 1024}, False),
        ({"priority": 1024}, {}, False),
        ({"priority": 2147483646}, {"local_pref": 1}, True),
    ],
)
def test_condition(condition: dict[str, Any], route: dict[str, Any], expected: bool, prefix: str) -> None:
    assert matches(rule(**condition), subject(prefix, **route)) is expected


@pytest.mark.parametrize(
    ("wanted", "ibgp", "expected"),
    [
        (None, True, True),
        (None, False, True),
        (True, True, True),
        (True, False, False),
        (False, False, True),
        (False, True, False),
    ],
)
def test_peer_type(wanted: bool | None, ibgp: bool, expected: bool) -> None:
    assert matches(rule(ibgp=wanted), subject(), ibgp) is expected


def test_a_rule_without_conditions_matches_everything() -> None:
    for prefix in (*EVERYTHING4, *EVERYTHING6):
        assert matches(REJECT, subject(prefix, RouteSource.KERNEL, "cali1"))


ALL = rule(
    "10.48.0.0/16",
    IN,
    lengths=(24, 26),
    remote_peers=True,
    interface="eth*",
    ibgp=False,
    community=5,
    as_path_prefix=(65001,),
    priority=1024,
)
FITTING: dict[str, Any] = {
    "prefix": FOUR,
    "source": BGP,
    "interface": "eth0",
    "communities": (5,),
    "path": (65001, 65002),
    "local_pref": INT_MAX - 1024,
}


@pytest.mark.parametrize(
    "change",
    [
        {"prefix": "10.49.0.0/26"},
        {"prefix": "10.48.0.0/27"},
        {"source": RouteSource.STATIC},
        {"interface": "tunl0"},
        {"communities": (6,)},
        {"path": (65002,)},
        {"local_pref": 100},
    ],
)
def test_all_conditions_must_hold(change: dict[str, Any]) -> None:
    assert matches(ALL, subject(**FITTING))
    assert not matches(ALL, subject(**{**FITTING, **change}))


def test_the_peer_type_is_one_of_all_conditions() -> None:
    assert not matches(ALL, subject(**FITTING), ibgp=True)


# -- order, ends, defaults ---------------------------------------------------------------------------------------------


def test_the_first_rule_that_matches_ends_the_chain() -> None:
    first = a_filter("first", rule("10.48.0.0/24", IN), rule("10.48.0.0/16", IN, action=Action.REJECT))
    second = a_filter("second", rule("10.48.0.0/15", IN), REJECT)
    found = chain(["first", "second"], by_name(first, second), "export", V4)
    assert found is not None
    stated = {
        prefix: found.evaluate(subject(prefix), False)
        for prefix in ("10.48.0.64/26", "10.48.1.0/26", "10.49.0.0/26", "192.0.2.0/24")
    }
    assert stated == {
        "10.48.0.64/26": Verdict(Action.ACCEPT, "first exportV4[0]", ()),
        "10.48.1.0/26": Verdict(Action.REJECT, "first exportV4[1]", ()),
        "10.49.0.0/26": Verdict(Action.ACCEPT, "second exportV4[0]", ()),
        "192.0.2.0/24": Verdict(Action.REJECT, "second exportV4[1]", ()),
    }


def test_filters_are_asked_in_the_peers_order() -> None:
    filters = by_name(a_filter("yes", ACCEPT), a_filter("no", REJECT))
    for names in (["yes", "no"], ["no", "yes"]):
        found = chain(names, filters, "import", V4)
        assert found is not None
        verdict = found.evaluate(subject(), True)
        assert verdict is not None
        assert verdict.rule == f"{names[0]} importV4[0]"


def test_no_match_says_nothing() -> None:
    found = chain(["f"], by_name(a_filter("f", rule("10.0.0.0/8", EQUAL), rule(ibgp=True))), "import", V4)
    assert found is not None
    assert found.evaluate(subject(), False) is None


def test_directions_and_families_are_apart() -> None:
    only = BGPFilter("f", {V4: (ACCEPT,)}, {V6: (REJECT, ACCEPT)})
    filters = by_name(only)
    assert chain(["f"], filters, "import", V4) == Chain((("f importV4[0]", ACCEPT),))
    assert chain(["f"], filters, "export", V6) == Chain(
        (("f exportV6[0]", REJECT), ("f exportV6[1]", ACCEPT))
    )
    assert chain(["f"], filters, "import", V6) is None
    assert chain(["f"], filters, "export", V4) is None


def test_filters_without_rules_and_missing_ones_are_skipped() -> None:
    filters = by_name(BGPFilter("empty"), a_filter("real", REJECT), BGPFilter("none", {V4: ()}))
    assert chain([], filters, "import", V4) is None
    assert chain(["gone", "empty", "none"], filters, "import", V4) is None
    found = chain(["gone", "empty", "real"], filters, "import", V4)
    assert found is not None
    assert found.evaluate(subject(), False) == Verdict(Action.REJECT, "real importV4[0]", ())


def test_missing_are_named_once_and_in_order() -> None:
    filters = by_name(a_filter("here", ACCEPT))
    assert missing(["z", "here", "a", "z"], filters) == ("z", "a")
    assert missing(["here"], filters) == ()


def test_equal_chains_are_equal_and_different_ones_are_not() -> None:
    def made(*rules: FilterRule, name: str = "f") -> Chain:
        found = chain([name], by_name(a_filter(name, *rules)), "export", V4)
        assert found is not None
        return found

    assert made(rule("10.0.0.0/8", IN), REJECT) == made(rule("10.0.0.0/8", IN), REJECT)
    assert hash(made(REJECT)) == hash(made(REJECT))
    assert made(REJECT) != made(ACCEPT)
    assert made(rule(ibgp=True)) != made(rule(ibgp=False))
    assert made(REJECT) != made(REJECT, name="g"), "the verdict names the filter"


# -- operations --------------------------------------------------------------------------------------------------------

TAG, LARGE = 0xFC000064, (64512, 1, 2)


def test_operations_come_with_accept_only() -> None:
    operations = (AddCommunity(TAG), SetPriority(512))
    accept = rule(operations=operations)
    assert Chain((("f", accept),)).evaluate(subject(), False) == Verdict(Action.ACCEPT, "f", operations)
    reject = rule(action=Action.REJECT, operations=operations)
    assert Chain((("f", reject),)).evaluate(subject(), False) == Verdict(Action.REJECT, "f", ())


def test_a_community_is_added_behind_the_others_once() -> None:
    before = attributes(communities=(0xFFFFFF01, 7))
    after = operated(before, (AddCommunity(TAG), AddCommunity(3), AddCommunity(TAG)))
    assert after == attributes(communities=(0xFFFFFF01, 7, TAG, 3))
    assert operated(after, (AddCommunity(TAG),)) is after
    large = operated(before, (AddCommunity(LARGE), AddCommunity(LARGE), AddCommunity((1, 1, 1))))
    assert large.large_communities == (LARGE, (1, 1, 1))
    assert large.communities == before.communities


@pytest.mark.parametrize(
    ("path", "asns", "expected"),
    [
        (sequence(), (65001,), sequence(65001)),
        (sequence(), (65001, 65002), sequence(65001, 65002)),
        (sequence(65009), (65001, 65001, 65002), sequence(65001, 65001, 65002, 65009)),
        (SET, (65001,), AsPath.of((SegmentType.AS_SEQUENCE, (65001,)), *SET.segments())),
        (sequence(*range(254)), (9001,), sequence(9001, *range(254))),
        (
            sequence(*range(254)),
            (9001, 9002),
            AsPath.of((SegmentType.AS_SEQUENCE, (9001,)), (SegmentType.AS_SEQUENCE, (9002, *range(254)))),
        ),
        (
            sequence(*range(255)),
            (9001, 9002),
            AsPath.of((SegmentType.AS_SEQUENCE, (9001, 9002)), (SegmentType.AS_SEQUENCE, tuple(range(255)))),
        ),
    ],
)
def test_prepending_keeps_the_listed_order(path: AsPath, asns: tuple[int, ...], expected: AsPath) -> None:
    assert operated(Attributes(as_path=path), (PrependAsPath(asns),)).as_path == expected


def test_a_later_prepend_stands_in_front() -> None:
    after = operated(attributes(65009), (PrependAsPath((65001, 65002)), PrependAsPath((65003,))))
    assert after == attributes(65003, 65001, 65002, 65009)
    assert (after.as_path_length, after.neighbor_as) == (4, 65003), "what is derived follows"


def test_a_priority_is_a_local_preference_and_the_last_one_stands() -> None:
    assert operated(attributes(local_pref=100), (SetPriority(512),)) == attributes(local_pref=INT_MAX - 512)
    assert operated(attributes(), (SetPriority(1), SetPriority(2147483646))).local_pref == 1


def test_operations_leave_the_rest_alone_and_give_equals_for_equals() -> None:
    operations = (AddCommunity(TAG), PrependAsPath((65001,)), SetPriority(1024), AddCommunity(LARGE))
    first, second = (
        operated(attributes(65009, med=7, local_pref=100, originator_id="1.1.1.1"), operations)
        for _ in range(2)
    )
    assert first == second
    assert hash(first) == hash(second)
    assert first == Attributes(
        as_path=sequence(65001, 65009),
        med=7,
        local_pref=INT_MAX - 1024,
        communities=(TAG,),
        large_communities=(LARGE,),
        originator_id=b"\x01\x01\x01\x01",  # type: ignore[arg-type]
    )


def test_nothing_to_do_gives_the_same_object() -> None:
    same = attributes(65009, local_pref=INT_MAX - 512, communities=(TAG,))
    assert operated(same, ()) is same
    assert operated(same, (AddCommunity(TAG), SetPriority(512))) is same
