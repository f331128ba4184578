"""BGPFilters: which routes a peer may announce to us or is sent, and what changes of them (calico.md §2.10).

A peer names filters; ``chain`` compiles their rules for one direction and family, once for each change of the
resources, and ``Chain.evaluate`` is asked for every prefix. The first rule that matches ends the whole chain, whichever
filter it stands in. A chain without a match says nothing (``None``): then import accepts, and export asks the built-in
rules. Called by ``rules.policy`` and ``bgpd policy test``; ``missing`` is for whoever reports problems.

All conditions of a rule must hold; one without conditions matches every route:

- ``cidr``: *In* is contained or equal, *Equal* is that prefix; the others are their opposites. ``prefixLength`` makes
  the pattern a set, the prefixes inside the CIDR of those lengths. In and NotIn ask whether the prefix is in that set;
  so do Equal and NotEqual, since a prefix cannot equal a set (BIRD's answer to that is an error in mid-filter).
- ``interface``: a glob with ``*`` and ``?``. A route without an interface has an empty name, as in BIRD: only ``*``
  matches it.
- ``asPathPrefix``: the numbers that the path begins with, segments of AS_SEQUENCE read as one; nothing is read through
  a set or a confederation segment.
- ``priority``: LOCAL_PREF is INT_MAX minus it (calico.md §2.7); a route without LOCAL_PREF matches none.

Pure; a rule costs a fraction of a microsecond, so a chain needs no index.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from bgpd.model.prefix import Family, Prefix
from bgpd.model.resources import (
    Action,
    AddCommunity,
    BGPFilter,
    Community,
    FilterRule,
    MatchOperator,
    Operation,
    PrependAsPath,
)
from bgpd.model.route import Attributes, RouteSource, SegmentType
from bgpd.rules.priority import local_pref_of

"""LOCAL_PREF is this minus the priority (calico.md §2.7)."""

Direction = Literal["import", "export"]


class Subject(NamedTuple):
    """A route as a filter sees it."""

    family: Family
    prefix: Prefix
    source: RouteSource
    interface: str
    """The outgoing interface's name; empty for none."""
    attributes: Attributes
    """Before the filter; LOCAL_PREF set, as it is on an internal session."""


class Verdict(NamedTuple):
    """What the rule that matched says."""

    action: Action
    rule: str
    """Filter, list and place, as a path of the resource has it: ``to-tor exportV4[0]`` is the first rule."""
    operations: tuple[Operation, ...]
    """To be applied in order by ``operated``; none with Reject."""


_Condition = Callable[[Subject], bool]
_Compiled = tuple[tuple[_Condition, ...], Verdict]


@dataclass(frozen=True, slots=True)
class Chain:
    """The rules of a peer's filters, in order, for one direction and family. Equal chains say the same of any route."""

    rules: tuple[tuple[str, FilterRule], ...]
    """Each with the name that ``Verdict.rule`` gives it: where it stands in the resource, counted from 0 as there."""
    _external: tuple[_Compiled, ...] = field(init=False, repr=False, compare=False)
    _internal: tuple[_Compiled, ...] = field(init=False, repr=False, compare=False)
    """The compiled rules: those that can match on an external, or an internal session."""
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        put = object.__setattr__
        for name, ibgp in (("_external", False), ("_internal", True)):
            fitting = (_compiled(label, rule) for label, rule in self.rules if rule.ibgp in (None, ibgp))
            put(self, name, tuple(fitting))
        put(self, "_hash", hash(self.rules))

    def __hash__(self) -> int:
        return self._hash

    def evaluate(self, subject: Subject, ibgp: bool) -> Verdict | None:
        """The verdict of the first rule that matches; ``None`` when none does and the default applies."""
        for conditions, verdict in self._internal if ibgp else self._external:
            for holds in conditions:
                if not holds(subject):
                    break
            else:
                return verdict
        return None


def chain(
    names: Sequence[str], filters: Mapping[str, BGPFilter], direction: Direction, family: Family
) -> Chain | None:
    """The rules of the filters of these names; ``None`` when there are none. Missing filters are skipped."""
    found = [filters[name] for name in names if name in filters]
    rules = tuple(
        (f"{each.name} {direction}V{4 if family is Family.IPV4 else 6}[{number}]", rule)
        for each in found
        for number, rule in enumerate(
            (each.imports if direction == "import" else each.exports).get(family, ())
        )
    )
    return Chain(rules) if rules else None


def missing(names: Iterable[str], filters: Mapping[str, BGPFilter]) -> tuple[str, ...]:
    """The names that no filter has, each once, in order."""
    return tuple(dict.fromkeys(name for name in names if name not in filters))


def operated(attributes: Attributes, operations: Sequence[Operation]) -> Attributes:
    """The attributes after the operations, applied in order; the same object when nothing changes.

    A community is added behind those that are there, once. Prepended AS numbers stand in front in the order listed.
    """
    communities, large = attributes.communities, attributes.large_communities
    as_path, local_pref = attributes.as_path, attributes.local_pref
    for operation in operations:
        if isinstance(operation, AddCommunity):
            value = operation.value
            if isinstance(value, int):
                communities = communities if value in communities else (*communities, value)
            else:
                large = large if value in large else (*large, value)
        elif isinstance(operation, PrependAsPath):
            as_path = as_path.prepended(*operation.asns)
        else:
            local_pref = local_pref_of(operation.value)
    if (communities, large, as_path, local_pref) == (
        attributes.communities,
        attributes.large_communities,
        attributes.as_path,
        attributes.local_pref,
    ):
        return attributes
    return replace(
        attributes,
        communities=communities,
        large_communities=large,
        as_path=as_path,
        local_pref=local_pref,
    )


# -- conditions, the cheap ones first ----------------------------------------------------------------------------------


def _compiled(label: str, rule: FilterRule) -> _Compiled:
    conditions: list[_Condition] = []
    if rule.remote_peers:
        conditions.append(lambda subject: subject.source is RouteSource.BGP)
    if rule.cidr is not None:
        conditions.append(_matches_cidr(rule.cidr, rule.operator, rule.lengths))
    if rule.interface is not None:
        conditions.append(_matches_interface(rule.interface))
    if rule.priority is not None:
        conditions.append(_has_local_pref(local_pref_of(rule.priority)))
    if rule.community is not None:
        conditions.append(_carries(rule.community))
    if rule.as_path_prefix:
        conditions.append(_begins_with(rule.as_path_prefix))
    operations = rule.operations if rule.action is Action.ACCEPT else ()
    return tuple(conditions), Verdict(rule.action, label, operations)


def _matches_cidr(
    cidr: Prefix, operator: MatchOperator | None, lengths: tuple[int, int] | None
) -> _Condition:
    if lengths is None and operator in (MatchOperator.EQUAL, MatchOperator.NOT_EQUAL):
        if operator is MatchOperator.EQUAL:
            return lambda subject: subject.prefix == cidr
        return lambda subject: subject.prefix != cidr
    inside = _inside(cidr, *(lengths or (0, 128)))
    if operator in (MatchOperator.IN, MatchOperator.EQUAL):
        return inside
    return lambda subject: not inside(subject)


def _inside(cidr: Prefix, least: int, most: int) -> _Condition:
    """Whether a prefix lies inside the CIDR, with a length from ``least`` to ``most``."""
    least = max(least, cidr[0])  # nothing shorter is inside; and so the octets compared are always there
    whole, rest = divmod(cidr[0], 8)
    end = whole + 1
    octets = cidr[1:end]
    if not rest:
        return lambda subject: least <= subject.prefix[0] <= most and subject.prefix[1:end] == octets
    shift = 8 - rest
    last = cidr[end] >> shift

    def inside(subject: Subject) -> bool:
        prefix = subject.prefix
        return least <= prefix[0] <= most and prefix[1:end] == octets and prefix[end] >> shift == last

    return inside


def _matches_interface(pattern: str) -> _Condition:
    wildcards = {"*": ".*", "?": "."}
    glob = re.compile("".join(wildcards.get(letter) or re.escape(letter) for letter in pattern), re.DOTALL)
    return lambda subject: glob.fullmatch(subject.interface) is not None


def _has_local_pref(value: int) -> _Condition:
    return lambda subject: subject.attributes.local_pref == value


def _carries(community: Community) -> _Condition:
    if isinstance(community, int):
        return lambda subject: community in subject.attributes.communities
    return lambda subject: community in subject.attributes.large_communities


def _begins_with(asns: tuple[int, ...]) -> _Condition:
    def begins(subject: Subject) -> bool:
        wanted = asns
        for kind, segment in subject.attributes.as_path.segments():
            if kind != SegmentType.AS_SEQUENCE:
                return False
            if len(segment) >= len(wanted):
                return segment[: len(wanted)] == wanted
            if wanted[: len(segment)] != segment:
                return False
            wanted = wanted[len(segment) :]
        return False

    return begins
