"""Any sequence of puts and deletes, errors among them, ends with the kernel's table equal to the desired one."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bgpd.model.prefix import Family, Prefix, make_prefix, parse_address, prefix_text
from bgpd.model.route import BLACKHOLE, FibKey, Forwarding, Hop, Via
from tests.netns.kernel import Door, Netns, running_door
from tests.unit.target_contract import contents

GATEWAYS = {
    Family.IPV4: [f"10.0.{link}.{i}" for link, i in itertools.product((1, 2), (20, 30, 40))],
    Family.IPV6: [f"fd00:{link}::{i}" for link, i in itertools.product((1, 2), (20, 30, 40))],
}
UNREACHABLE = {Family.IPV4: "203.0.113.1", Family.IPV6: "2001:db8:ffff::1"}


def prefixes(family: Family) -> st.SearchStrategy[Prefix]:
    base = parse_address("10.48.0.0" if family is Family.IPV4 else "fd48::")
    lengths = (0, 1, 24, 26, 31, 32) if family is Family.IPV4 else (0, 1, 64, 122, 127, 128)
    hosts = st.integers(0, 3).map(lambda last: base[:-1] + bytes((last * 64,)))
    return st.builds(make_prefix, hosts, st.sampled_from(lengths))


def forwardings(family: Family, links: list[int]) -> st.SearchStrategy[Forwarding]:
    """A part of them is bad: an unreachable gateway, alone or as one leg of several."""
    gateways = [
        (text, links[int(text.split(".")[2] if "." in text else text[5]) - 1]) for text in GATEWAYS[family]
    ]
    good = [Hop(parse_address(text), ifindex) for text, ifindex in gateways]
    odd = [Hop(None, links[0]), Hop(parse_address(UNREACHABLE[family]), links[1], True)]
    bad = Hop(parse_address(UNREACHABLE[family]), links[0])
    return st.one_of(
        st.just(BLACKHOLE),
        st.sampled_from(good + odd).map(lambda hop: Via((hop,))),
        st.lists(st.sampled_from(good), min_size=2, max_size=4, unique=True).map(
            lambda hops: Via(tuple(hops))
        ),
        st.lists(st.sampled_from(good), max_size=2).map(lambda hops: Via((*hops, bad))),
    )


def is_bad(forwarding: Forwarding, family: Family, links: list[int]) -> bool:
    """Whether the kernel refuses it, but where a route of the table makes the gateway on-link."""
    bad = Hop(parse_address(UNREACHABLE[family]), links[0])
    return isinstance(forwarding, Via) and bad in forwarding.hops


@pytest.mark.parametrize(
    ("family", "mode"),
    [
        (Family.IPV4, "never"),
        (Family.IPV6, "always"),
        pytest.param(Family.IPV4, "always", marks=pytest.mark.long),
        pytest.param(Family.IPV6, "never", marks=pytest.mark.long),
    ],
)
def test_the_kernel_ends_as_desired(netns: Netns, family: Family, mode: str) -> None:
    links = [netns.ifindex("v0"), netns.ifindex("v1")]
    keys = st.tuples(prefixes(family), st.sampled_from((1024, 7) if family is Family.IPV6 else (0, 1024, 7)))
    steps = st.lists(
        st.tuples(st.dictionaries(keys, forwardings(family, links), max_size=8), st.sets(keys, max_size=4)),
        max_size=6,
    )

    async def play(story: list[tuple[Mapping[FibKey, Forwarding], set[FibKey]]]) -> None:
        async with running_door(nexthop_objects=mode) as door:
            fib = door.kernel.fibs[family]
            await fib.remove_all()
            desired: dict[FibKey, Forwarding] = {}
            for puts, deletes in story:
                deletes = deletes - puts.keys()
                errors = await fib.apply(puts, deletes)
                assert set(errors) <= {key for key, value in puts.items() if is_bad(value, family, links)}
                desired |= {key: value for key, value in puts.items() if key not in errors}
                for key in deletes:
                    desired.pop(key, None)
                assert {key: fib.installed.get(key) for key in fib.installed.entries} == desired
            assert await contents(fib) == desired
            assert shown(netns, family) == sorted((prefix_text(family, key[0]), key[1]) for key in desired)
            assert fib.distinct == len({value for value in desired.values() if isinstance(value, Via)})
            check_objects(netns, door, family, desired, mode)
            assert await fib.remove_all() == len(desired)
            assert shown(netns, family) == [] and netns.json("nexthop show") == []

    @settings(
        max_examples=60,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(steps)
    def stories(story: list[tuple[Mapping[FibKey, Forwarding], set[FibKey]]]) -> None:
        asyncio.run(play(story))

    stories()


def shown(netns: Netns, family: Family) -> list[tuple[str, int]]:
    """What ``ip`` shows: a second opinion."""
    found = []
    for entry in netns.json("-4" if family is Family.IPV4 else "-6", "route show proto bird"):
        text = entry["dst"]
        bits = family.bits
        if text == "default":
            text = "0.0.0.0/0" if family is Family.IPV4 else "::/0"
        found.append((text if "/" in text else f"{text}/{bits}", entry.get("metric", 0)))
    return sorted(found)


def check_objects(
    netns: Netns, door: Door, family: Family, desired: Mapping[FibKey, Forwarding], mode: str
) -> None:
    """No object is left that no route needs."""
    gatewayed = {
        value for value in desired.values() if isinstance(value, Via) and all(h.gateway for h in value.hops)
    }
    needed = gatewayed | {Via((hop,)) for via in gatewayed if len(via.hops) > 1 for hop in via.hops}
    assert len(netns.json("nexthop show")) == (len(needed) if mode == "always" else 0)
    assert door.kernel.fibs[family].nexthop_objects == (len(needed) if mode == "always" else 0)
