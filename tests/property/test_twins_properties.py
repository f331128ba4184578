"""The hot road's bulk twins do what their plain twins do, item by item (docs/architecture.md, the hot road)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from bgpd.bgp.member import seen_by
from bgpd.fib.delta import Batch, Delta
from bgpd.kernel.installed import InstalledRoutes
from bgpd.kernel.nexthop_objects import NextHops
from bgpd.model.peer import Peer
from bgpd.model.prefix import Prefix
from bgpd.model.route import BLACKHOLE, Forwarding, Out
from bgpd.rib.groups import UpdateGroup
from bgpd.rules.exports import group_keys, peer_refusal
from bgpd.rules.policy import RoutePolicy
from tests.unit.builders import (
    V4,
    Core,
    announce,
    attributes,
    origination,
    path,
    peer,
    pfx,
    via,
    withdraw,
)
from tests.unit.target_contract import MemoryTarget

A, B, X = peer("10.0.1.30"), peer("10.0.1.31"), peer("192.0.2.1", 65001)
PREFIXES = [f"10.48.{n}.0/26" for n in range(4)] + ["192.0.2.0/25"]
batches = st.lists(st.sampled_from(PREFIXES), min_size=1, max_size=5, unique=True)


class PlainCore(Core):
    """A core that decides each prefix by itself."""

    def __init__(self) -> None:
        super().__init__()
        for rib in self.router._ribs.values():
            rib._decide_alike = lambda prefixes: False  # type: ignore[method-assign]


steps = st.one_of(
    st.tuples(st.just("announce"), st.sampled_from([A, B, X]), st.integers(1, 2), batches),
    st.tuples(st.just("withdraw"), st.sampled_from([A, B, X]), st.just(0), batches),
    st.tuples(st.just("originate"), st.none(), st.integers(0, 2), st.just([])),
)
ORIGINATIONS = [
    origination(),
    origination(pools=["10.48.0.0/16"]),
    origination(blocks=["10.48.1.0/26"], pools=["0.0.0.0/0"]),
]


@given(st.lists(steps, max_size=12))
@settings(max_examples=40)
def test_prefixes_that_are_alike_are_decided_as_each_by_itself(
    story: list[tuple[str, Peer | None, int, list[str]]],
) -> None:
    bulk, plain = Core(), PlainCore()
    for core in (bulk, plain):
        core.up(A, B, X)
    paths = {(by, number): path(by, attributes(65001, number)) for by in (A, B, X) for number in (1, 2)}
    for kind, by, number, texts in story:
        for core in (bulk, plain):
            if kind == "originate":
                core.originate(ORIGINATIONS[number])
            elif by is not None:
                shared = paths.get((by, number))
                core.hear(by, announce(shared, *texts) if shared else withdraw(*texts))
        assert bulk.fib == plain.fib
        assert dict(bulk.router.rib(V4)) == dict(plain.router.rib(V4))
        assert [bulk.to(each) for each in (A, X)] == [plain.to(each) for each in (A, X)]


keys = st.tuples(st.sampled_from("abcdef"), st.sampled_from([0, 32]))
changes = st.dictionaries(keys, st.one_of(st.none(), st.sampled_from(["1", "2"])), min_size=1, max_size=6)
all_gone = st.dictionaries(keys, st.none(), min_size=1, max_size=6)
deltas = st.one_of(
    st.tuples(st.just("want"), st.one_of(changes, all_gone)), st.tuples(st.just("write"), st.none())
)


@given(st.lists(deltas, max_size=15), st.booleans())
def test_what_is_wanted_at_once_is_wanted_as_key_by_key(
    story: list[tuple[str, Mapping[tuple[str, int], str | None] | None]], slow: bool
) -> None:
    """``slow``: a batch is under way while more is wanted."""
    targets = [MemoryTarget[tuple[str, int], str]({("a", 0): "1", ("b", 0): "2"}) for _ in range(2)]
    bulk, plain = (Delta[tuple[str, int], str](each.installed, group=lambda key: key[0]) for each in targets)
    under_way: list[Batch[tuple[str, int], str]] = []
    for kind, wanted in story:
        if wanted is not None:
            bulk.want(wanted)
            plain._want_each(wanted)
        else:
            if under_way:
                for delta in (bulk, plain):
                    delta.batch_done(under_way[0], {}, 0.0)
                under_way.clear()
            ours, theirs = bulk.due(0.0), plain.due(0.0)
            assert (ours is None) == (theirs is None)
            if ours is not None and theirs is not None:
                assert (dict(ours.puts), set(ours.deletes)) == (dict(theirs.puts), set(theirs.deletes))
                for target in targets:
                    target.apply_now(ours.puts, ours.deletes)
                under_way.append(ours)
                if not slow:
                    for delta in (bulk, plain):
                        delta.batch_done(ours, {}, 0.0)
                    under_way.clear()
        assert bulk.wanted == plain.wanted
        assert bulk._puts == plain._puts
        assert bulk._deletes == plain._deletes, kind


NO_COMMANDS: Any = None
"""These tables ask the kernel nothing."""
SPELLINGS: list[Forwarding] = [via("10.0.1.1"), via("10.0.1.2"), via("10.0.1.1", "10.0.1.2"), BLACKHOLE]
routes = st.dictionaries(
    st.tuples(st.sampled_from([pfx(text) for text in PREFIXES]), st.sampled_from([0, 32])),
    st.sampled_from(SPELLINGS),
    max_size=8,
)


@given(st.lists(st.tuples(st.booleans(), routes), max_size=8))
def test_routes_that_are_installed_at_once_are_as_one_by_one(
    story: list[tuple[bool, Mapping[tuple[Prefix, int], Forwarding]]],
) -> None:
    bulk, plain = (InstalledRoutes(NextHops(NO_COMMANDS, range(1))) for _ in range(2))
    for there, some in story:
        if there:
            bulk.put_all(some)
            for key, spelling in some.items():
                plain.put(key, spelling)
        else:
            bulk.remove_all(list(some))
            for key in some:
                plain.remove(key)
        assert bulk.entries == plain.entries
        assert bulk.metrics == plain.metrics
        assert +bulk._links == +plain._links
        assert {by: use.routes for by, use in bulk.uses.items()} == {
            by: use.routes for by, use in plain.uses.items()
        }


ENDS = [A, B, X]
outs = st.builds(
    Out,
    attributes=st.just(attributes()),
    next_hop=st.sampled_from([each.config.address for each in ENDS]),
    source=st.sampled_from([None, *(each.id for each in ENDS)]),
)


@given(st.lists(outs, max_size=len(PREFIXES)), st.sampled_from(ENDS))
def test_a_session_sees_what_no_rule_keeps_from_it(table: list[Out], who: Peer) -> None:
    """Three ways to ask the same: with the reason, one by one without it, and how many at once."""
    key = group_keys(who, RoutePolicy())[V4]
    group = UpdateGroup(key, table=dict(zip(map(pfx, PREFIXES), table, strict=False)))
    refused = [peer_refusal(out, who) is not None for out in table]
    assert [seen_by(who, out) is None for out in table] == refused
    assert group.kept_back(who) == sum(refused)
    assert seen_by(who, None) is None
