"""A family's way into the kernel: what a start keeps of the routes of before. ``Delta`` has tests of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Container
from contextlib import asynccontextmanager
from typing import Any

import pytest

from bgpd.fib.leaving import LEAVING_SECONDS, LOOK_EVERY_SECONDS, MOST_LOOKS, LeavingRoutes
from bgpd.fib.programmer import Programming
from bgpd.model.prefix import Family, Prefix
from bgpd.model.route import BLACKHOLE, FibKey, Forwarding, Via
from tests.unit.builders import pfx, via
from tests.unit.target_contract import MemoryTarget

KEY: FibKey = (pfx("10.48.200.9/32"), 0)
OTHER: FibKey = (pfx("10.48.0.64/26"), 0)
THIRD: FibKey = (pfx("10.48.0.128/26"), 0)
ONE, TWO, THREE = via("10.0.1.1"), via("10.0.1.1", "10.0.1.2"), via("10.0.1.1", "10.0.1.2", "10.0.1.3")
ELSEWHERE = via("10.0.1.4")


class Quiet:
    """Metrics that nobody reads."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args: None


@asynccontextmanager
async def started(
    standing: Container[Prefix] = (),
    **routes: Forwarding,
) -> AsyncIterator[tuple[Programming, MemoryTarget[FibKey, Forwarding]]]:
    """One that found ``key`` and ``other`` in the kernel, and runs; another has routes of ``standing``."""
    keys = {"key": KEY, "other": OTHER}
    target: MemoryTarget[FibKey, Forwarding] = MemoryTarget(
        {keys[name]: value for name, value in routes.items()}
    )
    quiet: Any = Quiet()
    made = Programming(Family.IPV4, target, quiet, stands=standing.__contains__)
    await made.adopt()
    made.pause(False)
    task = asyncio.create_task(made.run())
    try:
        yield made, target
    finally:
        task.cancel()


async def rest() -> None:
    """Until the task has done all it can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_start_takes_no_hop_from_a_route_of_before() -> None:
    """The peers come one after the other: the first one heard does not get all traffic."""
    async with started(key=THREE, other=ONE) as (made, target):
        made.want_routes({KEY: ONE, OTHER: ONE})
        await rest()
        made.want_routes({KEY: TWO})
        await rest()
        assert not target.log
        made.want_routes({KEY: THREE})
        await rest()
        assert not target.log
        made.want_routes({KEY: TWO})
        await rest()
        assert target.state == {KEY: TWO, OTHER: ONE}, "its state is whole: what is less now is less"


async def test_the_end_of_the_start_takes_what_nobody_announced() -> None:
    async with started(key=TWO, other=TWO) as (made, target):
        made.want_routes({KEY: ONE})
        await rest()
        assert not target.log
        assert made.release() == 1
        await rest()
        assert target.state == {KEY: ONE}


@pytest.mark.parametrize("value", [ELSEWHERE, via("10.0.1.1", "10.0.1.4"), THREE, BLACKHOLE])
async def test_what_is_not_less_of_a_route_of_before_is_done_at_once(value: Forwarding) -> None:
    async with started(key=TWO) as (made, target):
        made.want_routes({KEY: ONE})
        made.want_routes({KEY: value})
        await rest()
        assert target.state == {KEY: value}
        made.want_routes({KEY: ONE})
        await rest()
        assert target.state == {KEY: ONE}


async def test_a_route_of_before_that_is_withdrawn_goes() -> None:
    async with started(key=TWO) as (made, target):
        made.want_routes({KEY: ONE})
        made.want_routes({KEY: None})
        made.release()
        await rest()
        assert target.state == {}


@pytest.mark.parametrize("left", [None, via("10.0.1.2")])
async def test_a_route_of_before_that_others_change_is_put_right(left: Via | None) -> None:
    """A link went down: what is wanted meanwhile is written, not waited with."""
    async with started(key=TWO) as (made, target):
        made.want_routes({KEY: ONE})
        await rest()
        if left is None:
            del target.state[KEY]
        else:
            target.state[KEY] = left
        made.kernel_changed(list(target.hear({KEY: left})))
        await rest()
        assert target.state == {KEY: ONE}


async def test_a_whole_compare_keeps_what_is_as_before() -> None:
    async with started(key=TWO, other=TWO) as (made, target):
        made.want_routes({KEY: ONE, OTHER: ONE})
        await rest()
        del target.state[OTHER]
        made.suspect("the test")
        await rest()
        assert target.state == {KEY: TWO, OTHER: ONE}


# Routes that another will write (``leaving``).


async def test_what_felix_will_write_stays_until_its_own_stands() -> None:
    """A pool gets an encapsulation: at once, and for nothing else."""
    standing: set[Prefix] = set()
    async with started(standing) as (made, target):
        made.want_routes({KEY: ONE, OTHER: ONE, THIRD: ONE})
        await rest()
        made.want_routes({KEY: None, OTHER: None, THIRD: None}, {KEY, OTHER})
        await rest()
        assert target.state == {KEY: ONE, OTHER: ONE}, "the third is nobody's"
        made.want_routes({KEY: None}, {KEY})
        del target.state[KEY]
        made.kernel_changed(list(target.hear({KEY: None})))
        assert not made.repairs, "another's took its place: that is as it should be"
        standing.add(OTHER[0])
        await asyncio.sleep(2 * LOOK_EVERY_SECONDS)
        await rest()
        assert target.state == {} and not made.delta.wanted
        made.want_routes({KEY: ONE})
        await rest()
        made.want_routes({KEY: None}, {KEY, OTHER})
        await rest()
        assert target.state == {KEY: ONE}, "again"
        made.want_routes({KEY: None})
        await rest()
        assert target.state == {}, "its peer withdraws it"
        standing.add(KEY[0])
        made.want_routes({KEY: ONE})
        made.want_routes({KEY: None}, {KEY})
        await rest()
        assert target.state == {}, "another's stands already"


def test_a_route_that_leaves_stays_five_seconds_at_most_and_as_what_is_decided_meanwhile() -> None:
    leaving = LeavingRoutes(lambda prefix: False)
    wanted: dict[FibKey, Forwarding] = {KEY: ONE, OTHER: ONE}
    assert leaving.keep({KEY: None, OTHER: None, THIRD: None}, {KEY, OTHER, THIRD}, wanted, 0.0) == {
        THIRD: None
    }
    assert leaving.keep({KEY: None}, {KEY}, wanted, 3.0) == {}, "no longer for being decided again"
    assert leaving.keep({OTHER: TWO}, (), wanted, 3.0) == {OTHER: TWO}, "it is ours again"
    assert leaving.due(LEAVING_SECONDS - 0.1) == {} and leaving
    assert leaving.due(LEAVING_SECONDS) == {KEY: None} and not leaving
    assert leaving.changed([KEY]) == leaving.due(99.0) == {}


def test_looking_at_many_routes_is_done_in_parts() -> None:
    keys: list[FibKey] = [(pfx(f"10.{n >> 8}.{n & 255}.0/24"), 0) for n in range(MOST_LOOKS + 10)]
    asked: list[Prefix] = []
    leaving = LeavingRoutes(lambda prefix: bool(asked.append(prefix)))
    leaving.keep(dict.fromkeys(keys), keys, set(keys), 0.0)
    asked.clear()
    assert leaving.due(1.0) == {} and len(asked) == MOST_LOOKS
    leaving.due(1.0)
    assert {*asked} == {key[0] for key in keys}, "those not looked at yet come first"
