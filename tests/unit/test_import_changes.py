"""What other import filters would do to what peers announced: ``bgpctl plan`` says it before."""

import asyncio
from typing import Any

import pytest

from bgpd.model.peer import PeerPolicy
from bgpd.model.resources import Action, AddCommunity, BGPFilter, FilterRule, MatchOperator
from bgpd.rules.policy import RoutePolicy
from bgpd.views import import_changes as module
from tests.unit.builders import V4, announce, path, peer, pfx
from tests.unit.ground import Ground

A, B = peer("10.0.1.31"), peer("10.0.1.32")
ONE, TWO = "10.48.0.0/26", "10.48.0.64/26"


def rule(cidr: str, action: Action = Action.REJECT, **more: Any) -> FilterRule:
    return FilterRule(action, pfx(cidr), MatchOperator.EQUAL, (26, 26), **more)


def policy(*of_a: FilterRule, peers: tuple[Any, ...] = (A, B)) -> RoutePolicy:
    filters = {"in": BGPFilter("in", {V4: of_a}, {})}
    return RoutePolicy(
        {each.id: PeerPolicy(filters=("in",) if each is A else ()) for each in peers}, filters=filters
    )


def ground(*of_a: FilterRule) -> Ground:
    made = Ground(A, B)
    made.core.router.set_policy(policy(*of_a))
    made.core.hear(A, announce(path(A), ONE, TWO))
    made.core.hear(B, announce(path(B), TWO))
    made.install()
    return made


def compare(made: Ground, before: RoutePolicy, after: RoutePolicy) -> dict[str, Any]:
    found = asyncio.run(module.import_changes(made.parts, before, after))
    return {key: value for key, value in found.items() if value}


def entry(prefix: str, words: str, installed: bool = True) -> dict[str, Any]:
    return {"prefix": prefix, "peers": [A.id], "rule": words, "installed": installed}


@pytest.mark.parametrize(
    ("rules", "found"),
    [
        ([], {}),
        ([rule("192.0.2.0/26")], {}),  # another filter, and nothing comes of it
        ([rule(ONE, Action.ACCEPT)], {}),
        ([rule(ONE)], {"removed": [entry(ONE, "in importV4[0]")]}),
        ([rule("192.0.2.0/26"), rule(TWO)], {"changed": [entry(TWO, "in importV4[1]")]}),  # B has it too
        (
            [rule(ONE, Action.ACCEPT, operations=(AddCommunity((65000, 1)),))],
            {"changed": [entry(ONE, "in importV4[0]")]},
        ),
    ],
)
def test_what_filters_would_do(rules: list[FilterRule], found: dict[str, Any]) -> None:
    made = ground()
    assert compare(made, policy(), policy(*rules)) == found
    assert made.core.router.adj_rib_in(V4).counts(A.id) == (2, 2, 0), "nothing has changed"


def test_what_a_filter_kept_away_comes() -> None:
    made = ground(rule(ONE))
    found = compare(made, policy(rule(ONE)), policy())
    assert found == {"added": [entry(ONE, "no longer in importV4[0]", installed=False)]}


def test_a_session_that_would_end_takes_its_routes_along_and_is_no_filter() -> None:
    made = ground()
    assert compare(made, policy(), policy(peers=(B,))) == {}
    # What only B would still have, A's filter or not, is no prefix without a path.
    found = compare(made, policy(), policy(rule(TWO), peers=(A,)))
    assert found == {"removed": [entry(TWO, "in importV4[0]")]}


def test_a_large_table_is_judged_in_turns_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    made = ground()
    made.core.hear(A, announce(path(A), *(f"10.50.{n}.0/26" for n in range(200))))
    monkeypatch.setattr(module, "SLICE_SECONDS", 0.0)
    turns = 0

    async def beside() -> dict[str, Any]:
        nonlocal turns
        work = asyncio.create_task(
            module.import_changes(made.parts, policy(), policy(rule("10.50.0.0/26"), rejecting()))
        )
        while not work.done():
            turns += 1
            await asyncio.sleep(0)
        return work.result()

    found = asyncio.run(beside())
    assert len(found["removed"]) == module.MOST_LISTED and found["unlisted"] == 101 and turns > 100
    assert len(found["changed"]) == 1


def rejecting() -> FilterRule:
    return FilterRule(Action.REJECT)
