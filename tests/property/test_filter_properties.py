"""Filters against a slow, obvious evaluator: netaddr and plain text, one condition after the other."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import translate
from re import fullmatch
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from netaddr import IPAddress, IPNetwork

from bgpd.model.prefix import Family, parse_prefix
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
from bgpd.model.route import AsPath, Attributes, RouteSource, SegmentType
from bgpd.rules.filters import Chain, Subject, chain, operated

# -- rules and routes as people write them -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """As in the resource: text."""

    action: str
    cidr: str = ""
    operator: str = ""
    lengths: tuple[int, int] | None = None
    source: str = ""
    interface: str = ""
    peer_type: str = ""
    community: str = ""
    as_path_prefix: str = ""
    priority: int = 0
    operations: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Route:
    prefix: str
    source: str
    interface: str
    path: tuple[tuple[str, str], ...]
    """Segments: ``seq`` or ``set``, and its numbers."""
    communities: tuple[str, ...]
    local_pref: int | None


# -- the slow, obvious way ---------------------------------------------------------------------------------------------


def slow_match(rule: Rule, route: Route, ibgp: bool) -> bool:
    net = IPNetwork(route.prefix)
    if rule.cidr:
        cidr = IPNetwork(rule.cidr)
        if rule.lengths:
            hit = net in cidr and rule.lengths[0] <= net.prefixlen <= rule.lengths[1]
        elif rule.operator.endswith("Equal"):
            hit = net == cidr
        else:
            hit = net in cidr
        if hit == rule.operator.startswith("Not"):
            return False
    if rule.source and route.source != "bgp":
        return False
    if rule.interface and not fullmatch(translate(rule.interface), route.interface):
        return False
    if rule.peer_type and rule.peer_type != ("iBGP" if ibgp else "eBGP"):
        return False
    if rule.community and rule.community not in route.communities:
        return False
    if rule.as_path_prefix:
        flat = ""
        for kind, numbers in route.path:
            if kind == "set":
                break
            flat += numbers + " "
        if not flat.startswith(rule.as_path_prefix + " "):
            return False
    return not (rule.priority and route.local_pref != 2**31 - 1 - rule.priority)


def slow_verdict(filters: list[tuple[str, list[Rule]]], route: Route, ibgp: bool) -> tuple[str, str] | None:
    for name, rules in filters:
        for number, rule in enumerate(rules):
            if slow_match(rule, route, ibgp):
                return rule.action, f"{name} importV{IPNetwork(route.prefix).version}[{number}]"
    return None


def slow_operations(
    operations: tuple[tuple[str, str], ...], route: Route
) -> tuple[str, list[str], int | None]:
    """The path as text (a set in braces), the communities (of one kind in order, as a list), LOCAL_PREF."""
    path = " ".join(f"{{{numbers}}}" if kind == "set" else numbers for kind, numbers in route.path)
    communities, local_pref = list(route.communities), route.local_pref
    for what, value in operations:
        if what == "addCommunity" and value not in communities:
            communities.append(value)
        elif what == "prependASPath":
            path = f"{value} {path}".strip()
        elif what == "setPriority":
            local_pref = 2**31 - 1 - int(value)
    return path, communities, local_pref


# -- from text to the model --------------------------------------------------------------------------------------------


def community(text: str) -> Community:
    parts = [int(part) for part in text.split(":")]
    return parts[0] << 16 | parts[1] if len(parts) == 2 else (parts[0], parts[1], parts[2])


def community_text(value: Community) -> str:
    return f"{value >> 16}:{value & 65535}" if isinstance(value, int) else ":".join(map(str, value))


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split())


def operation(what: str, value: str) -> Operation:
    if what == "addCommunity":
        return AddCommunity(community(value))
    return PrependAsPath(numbers(value)) if what == "prependASPath" else SetPriority(int(value))


def modelled_rule(rule: Rule) -> FilterRule:
    return FilterRule(
        action=Action(rule.action),
        cidr=parse_prefix(rule.cidr)[1] if rule.cidr else None,
        operator=MatchOperator(rule.operator) if rule.cidr else None,
        lengths=rule.lengths if rule.cidr else None,
        remote_peers=bool(rule.source),
        interface=rule.interface or None,
        ibgp={"": None, "iBGP": True, "eBGP": False}[rule.peer_type],
        community=community(rule.community) if rule.community else None,
        as_path_prefix=numbers(rule.as_path_prefix),
        priority=rule.priority or None,
        operations=tuple(operation(*each) for each in rule.operations),
    )


def modelled_route(route: Route) -> Subject:
    family, prefix = parse_prefix(route.prefix)
    kinds = {"seq": SegmentType.AS_SEQUENCE, "set": SegmentType.AS_SET}
    values = [community(text) for text in route.communities]
    return Subject(
        family,
        prefix,
        RouteSource(route.source),
        route.interface,
        Attributes(
            as_path=AsPath.of(*((kinds[kind], numbers(text)) for kind, text in route.path)),
            communities=tuple(value for value in values if isinstance(value, int)),
            large_communities=tuple(value for value in values if not isinstance(value, int)),
            local_pref=route.local_pref,
        ),
    )


def path_text(found: Attributes) -> str:
    words = (
        "{" + " ".join(map(str, asns)) + "}" if kind == SegmentType.AS_SET else " ".join(map(str, asns))
        for kind, asns in found.as_path.segments()
    )
    return " ".join(words)


# -- small worlds, so that things meet ---------------------------------------------------------------------------------

V4_BASES = ("10.48.0.0", "10.48.0.128", "10.49.255.1", "11.0.0.0")
V6_BASES = ("fd00:48::", "fd00:48::80", "fd00:49:ffff::1", "fe00::")
V4_LENGTHS = (0, 7, 8, 9, 15, 16, 24, 25, 32)
V6_LENGTHS = (0, 8, 31, 32, 33, 48, 121, 128)
COMMUNITIES = ("64512:100", "64512:101", "0:100", "64512:1:2", "64512:2:1", "0:0:100")
INTERFACES = ("", "eth0", "eth1", "eth10", "cali12ab", "tunl0", "vxlan.calico", "bpfin.cali", "a[0]")
GLOBS = ("*", "?*", "eth*", "eth?", "eth0", "*.cali*", "bpf*.cali", "t*0", "**1", "*?l*")
ASNS = st.integers(65001, 65002)
METRICS = (1, 512, 1024, 2147483646)


def words(minimum: int, maximum: int) -> st.SearchStrategy[str]:
    return st.lists(ASNS, min_size=minimum, max_size=maximum).map(lambda asns: " ".join(map(str, asns)))


def prefixes(version: int) -> st.SearchStrategy[str]:
    bases, usual, bits = (V4_BASES, V4_LENGTHS, 32) if version == 4 else (V6_BASES, V6_LENGTHS, 128)
    lengths = st.one_of(st.sampled_from(usual), st.sampled_from(usual), st.integers(0, bits))
    return st.tuples(st.sampled_from(bases), lengths).map(lambda p: str(IPNetwork(f"{p[0]}/{p[1]}").cidr))


OPERATIONS = st.one_of(
    st.tuples(st.just("addCommunity"), st.sampled_from(COMMUNITIES)),
    st.tuples(st.just("prependASPath"), words(1, 3)),
    st.tuples(st.just("setPriority"), st.sampled_from(METRICS).map(str)),
)
CONDITIONS: dict[str, st.SearchStrategy[Any]] = {
    "source": st.just("RemotePeers"),
    "interface": st.sampled_from(GLOBS),
    "peer_type": st.sampled_from(("iBGP", "eBGP")),
    "community": st.sampled_from(COMMUNITIES),
    "as_path_prefix": words(1, 3),
    "priority": st.sampled_from(METRICS),
}


@st.composite
def rules(draw: st.DrawFn, version: int) -> Rule:
    """A rule with few conditions: one with many matches nothing, one with none is a case of its own."""
    drawn = st.lists(st.sampled_from(("cidr", "cidr", "as_path_prefix", *CONDITIONS)), min_size=1, max_size=2)
    names = set(draw(drawn))
    found: dict[str, Any] = {name: draw(CONDITIONS[name]) for name in sorted(names - {"cidr"})}
    if "cidr" in names:
        cidr = found["cidr"] = draw(prefixes(version))
        found["operator"] = draw(st.sampled_from(("Equal", "NotEqual", "In", "NotIn")))
        if draw(st.integers(0, 2)):
            length = st.integers(IPNetwork(cidr).prefixlen, 32 if version == 4 else 128)
            found["lengths"] = draw(length), draw(length)  # the wrong way round they match nothing
    if draw(st.booleans()):
        return Rule("Accept", operations=tuple(draw(st.lists(OPERATIONS, max_size=4))), **found)
    return Rule("Reject", **found)


@st.composite
def routes(draw: st.DrawFn, version: int) -> Route:
    segments = st.tuples(st.sampled_from(("seq", "seq", "set")), words(1, 3))
    metrics = st.sampled_from(METRICS).map(lambda metric: 2**31 - 1 - metric)
    return Route(
        prefix=draw(prefixes(version)),
        source=draw(st.sampled_from(("bgp", "kernel", "static", "direct"))),
        interface=draw(st.sampled_from(INTERFACES)),
        path=tuple(draw(st.lists(segments, max_size=3))),
        communities=tuple(draw(st.lists(st.sampled_from(COMMUNITIES), unique=True, max_size=4))),
        local_pref=draw(st.one_of(st.none(), st.just(100), metrics)),
    )


def by_name(resources: dict[str, tuple[FilterRule, ...]], family: Family) -> dict[str, BGPFilter]:
    """Filters with these rules on import; on the other side, and of the other family, they are the other way round."""
    other = Family.IPV6 if family is Family.IPV4 else Family.IPV4
    return {
        name: BGPFilter(name, {family: made, other: made[::-1]}, {family: made[::-1]})
        for name, made in resources.items()
    }


@settings(max_examples=40)
@given(st.data(), st.sampled_from((4, 6)), st.booleans())
def test_a_rule_matches_what_the_slow_evaluator_matches(
    data: st.DataObject, version: int, ibgp: bool
) -> None:
    rule = data.draw(rules(version))
    given_routes = data.draw(st.lists(routes(version), min_size=10, max_size=10))
    family = modelled_route(given_routes[0]).family
    found = chain(["f"], by_name({"f": (modelled_rule(rule),)}, family), "import", family)
    assert found is not None
    for route in given_routes:
        assert (found.evaluate(modelled_route(route), ibgp) is not None) == slow_match(rule, route, ibgp)


@given(st.data(), st.sampled_from((4, 6)))
def test_a_cidr_is_distinguished_from_its_neighbours(data: st.DataObject, version: int) -> None:
    """Prefixes that differ from the CIDR in one bit, or in none."""
    bits = 32 if version == 4 else 128
    number, length = data.draw(st.integers(0, 2**bits - 1)), data.draw(st.integers(0, bits))
    cidr = str(IPNetwork(f"{IPAddress(number, version)}/{length}").cidr)
    lengths = data.draw(st.one_of(st.none(), st.tuples(st.integers(0, bits), st.integers(0, bits))))
    for _ in range(4):
        flipped = number ^ (1 << bits >> data.draw(st.integers(1, bits + 1)))
        other = data.draw(st.one_of(st.just(length), st.integers(0, bits)))
        prefix = str(IPNetwork(f"{IPAddress(flipped, version)}/{other}").cidr)
        route = Route(prefix, "bgp", "", (), (), None)
        for operator in MatchOperator:
            rule = Rule("Accept", cidr=cidr, operator=operator.value, lengths=lengths)
            found = Chain((("f", modelled_rule(rule)),)).evaluate(modelled_route(route), True)
            assert (found is not None) == slow_match(rule, route, True)


@settings(max_examples=30)
@given(st.data(), st.sampled_from((4, 6)), st.booleans())
def test_a_chain_says_what_the_slow_evaluator_says(data: st.DataObject, version: int, ibgp: bool) -> None:
    everything = st.builds(Rule, st.sampled_from(("Accept", "Reject")))
    some = st.lists(st.one_of(rules(version), rules(version), everything), max_size=4)
    filters = [(name, data.draw(some)) for name in ("filter-a", "filter-b", "filter-c")]
    given_routes = data.draw(st.lists(routes(version), min_size=3, max_size=3))
    resources = {name: tuple(modelled_rule(rule) for rule in listed) for name, listed in filters}
    family = modelled_route(given_routes[0]).family
    names = ["not-there", *resources]
    found = chain(names, by_name(resources, family), "import", family)
    assert (found is None) == (not any(resources.values()))
    for route in given_routes:
        verdict = found.evaluate(modelled_route(route), ibgp) if found else None
        assert (verdict and (verdict.action.value, verdict.rule)) == slow_verdict(filters, route, ibgp)


@given(st.data())
def test_operations_do_what_the_slow_ones_do(data: st.DataObject) -> None:
    route = data.draw(routes(4))
    rule = data.draw(rules(4).filter(lambda rule: rule.action == "Accept"))
    subject = modelled_route(route)
    made = modelled_rule(rule)
    after = operated(subject.attributes, made.operations)
    path, communities, local_pref = slow_operations(rule.operations, route)
    assert path_text(after) == path
    assert [community_text(value) for value in after.communities] == [
        c for c in communities if c.count(":") == 1
    ]
    assert [community_text(value) for value in after.large_communities] == [
        c for c in communities if c.count(":") == 2
    ]
    assert after.local_pref == local_pref
    assert after == operated(subject.attributes, made.operations)
    assert (after is subject.attributes) == (after == subject.attributes)
