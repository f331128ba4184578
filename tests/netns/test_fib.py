"""Our routes in a real kernel: what is written, how it reads back, and that what is another's is left alone."""

from __future__ import annotations

import asyncio
import contextlib
import errno

import pytest

from bgpd.kernel.writer import OBJECTS_FROM, Conflict
from bgpd.model.prefix import Family, parse_address
from bgpd.model.route import BLACKHOLE, FibKey, Forwarding, Hop, Via
from tests.netns.kernel import IDS, Door, Netns, key, running_door
from tests.unit.target_contract import contents

MODES = ("never", "always")


@pytest.mark.parametrize("mode", MODES)
async def test_every_shape_reads_back_as_it_was_written(netns: Netns, mode: str) -> None:
    v0, v1 = netns.ifindex("v0"), netns.ifindex("v1")
    shapes: dict[Family, dict[FibKey, Forwarding]] = {
        Family.IPV4: {
            key("10.48.0.0/26"): BLACKHOLE,
            key("10.48.0.128/26"): netns.via("10.0.1.20"),
            key("10.48.0.128/26", 1024): netns.via("10.0.1.21"),
            key("10.48.0.40/32"): Via((Hop(None, v0),)),
            key("10.48.1.0/26"): netns.via("10.0.1.20", "10.0.1.30"),
            key("10.48.2.0/26"): Via(
                (Hop(parse_address("192.0.2.1"), v0, True), Hop(parse_address("10.0.2.9"), v1))
            ),
            key("10.48.3.0/26"): Via((Hop(parse_address("192.0.2.1"), v1, True),)),
            key("10.48.4.0/26"): netns.via("fd00:1::20"),
            key("0.0.0.0/0"): netns.via("10.0.1.254"),
        },
        Family.IPV6: {
            key("fd48::/122"): BLACKHOLE,
            key("fd48::80/122"): netns.via("fd00:1::20"),
            key("fd48::80/122", 77): netns.via("fd00:1::21"),
            key("fd48::40/128"): Via((Hop(None, v0),)),
            key("fd48:1::/122"): netns.via("fd00:1::20", "fd00:1::30"),
            key("fd48:2::/122"): Via((Hop(parse_address("2001:db8::1"), v1, True),)),
            key("::/0"): netns.via("fd00:1::fe"),
        },
    }
    async with running_door(nexthop_objects=mode) as door:
        for family, routes in shapes.items():
            fib = door.kernel.fibs[family]
            assert await fib.apply(routes, ()) == {}
            assert await contents(fib) == routes
            # every one turned into every other, in place
            values = list(routes.values())
            turned = dict(zip(routes, [*values[1:], values[0]], strict=True))
            assert await fib.apply(turned, ()) == {}
            await contents(fib)
            assert await contents(fib) == turned
        assert (door.ipv4.nexthop_objects > 0) == (mode == "always")
    async with running_door(nexthop_objects=mode) as door:  # another start adopts all of it
        assert await contents(door.ipv6) == turned
        for family in Family:
            assert await door.kernel.fibs[family].remove_all() == len(shapes[family])
        assert netns.routes("proto bird") == netns.routes("proto bird", 6) == []
        assert netns.ip("nexthop show") == ""


async def test_routes_look_as_an_operator_expects(netns: Netns, door: Door) -> None:
    await door.ipv4.apply({key("10.48.0.0/26"): BLACKHOLE, key("10.48.0.128/26"): netns.via("10.0.1.20")}, ())
    assert netns.routes("proto bird") == ["blackhole 10.48.0.0/26", "10.48.0.128/26 via 10.0.1.20 dev v0"]


@pytest.mark.parametrize("family", Family)
async def test_auto_takes_objects_once_next_hops_are_many(netns: Netns, family: Family) -> None:
    text, gateway = (
        ("10.48.{}.0/26", "10.0.1.{}") if family is Family.IPV4 else ("fd48:{}::/64", "fd00:1::{}")
    )

    def routes(numbers: range) -> dict[FibKey, Forwarding]:
        return {key(text.format(i)): netns.via(gateway.format(i + 10)) for i in numbers}

    async with running_door() as door:
        fib = door.kernel.fibs[family]
        few = routes(range(OBJECTS_FROM))
        assert await fib.apply(few, ()) == {}
        assert (fib.distinct, fib.nexthop_objects) == (OBJECTS_FROM, 0)
        more = routes(range(OBJECTS_FROM, OBJECTS_FROM + 20))
        assert await fib.apply(more, ()) == {}
        assert fib.nexthop_objects == 20
        assert await contents(fib) == few | more
        plain = netns.routes(f"{text.format(3)} proto bird", 4 if family is Family.IPV4 else 6)
        assert len(plain) == 1 and "nhid" not in plain[0], "what is there is not rewritten"
        assert {int(entry["id"]) in IDS for entry in netns.json("nexthop show")} == {True}
        # a next hop's last route gone, its object goes with the next whole reading
        await fib.apply({}, list(more)[:5])
        assert fib.nexthop_objects == 20
        await contents(fib)
        assert fib.nexthop_objects == len(netns.json("nexthop show")) == 15


async def test_ecmp_is_a_group_and_groups_can_be_off(netns: Netns) -> None:
    via = netns.via("10.0.1.20", "10.0.1.30")
    async with running_door(nexthop_objects="always") as door:
        await door.ipv4.apply({key("10.48.0.0/26"): via, key("10.48.1.0/26"): via}, ())
        assert [len(entry.get("group", ())) for entry in netns.json("nexthop show")].count(2) == 1
        assert await door.ipv4.remove_all() == 2
        assert netns.ip("nexthop show") == ""
    async with running_door(nexthop_objects="always", nexthop_groups=False) as door:
        await door.ipv4.apply({key("10.48.0.0/26"): via}, ())
        assert netns.ip("nexthop show") == ""
        assert await contents(door.ipv4) == {key("10.48.0.0/26"): via}


async def test_ids_that_are_taken_and_ids_that_run_out(netns: Netns) -> None:
    first = IDS[0]
    netns.ip(f"nexthop add id {first} via 10.0.1.99 dev v0")  # another's, in our range
    async with running_door(nexthop_objects="always", nexthop_ids=range(first, first + 3)) as door:
        netns.ip(f"nexthop add id {first + 1} via 10.0.1.98 dev v0")  # and one that we have not heard of yet
        routes: dict[FibKey, Forwarding] = {
            key(f"10.48.{i}.0/26"): netns.via(f"10.0.1.{i + 2}") for i in range(3)
        }
        assert await door.ipv4.apply(routes, ()) == {}
        assert await contents(door.ipv4) == routes
        objects = {entry["id"]: entry["gateway"] for entry in netns.json("nexthop show")}
        assert objects.pop(first) == "10.0.1.99" and objects.pop(first + 1) == "10.0.1.98"
        assert list(objects) == [first + 2]
        await door.ipv4.remove_all()
        assert len(netns.json("nexthop show")) == 2, "what is another's stays"


@pytest.mark.parametrize("mode", MODES)
async def test_errors_name_their_keys_and_stop_nothing_else(netns: Netns, mode: str) -> None:
    async with running_door(nexthop_objects=mode) as door:
        good, bad = netns.via("10.0.1.20"), netns.via("203.0.113.1")
        puts: dict[FibKey, Forwarding] = {
            key(f"10.{64 + i // 250}.{i % 250}.0/24"): bad if i % 7 == 3 else good for i in range(3000)
        }
        errors = await door.ipv4.apply(puts, ())
        wrong = {each for each, via in puts.items() if via == bad}
        assert set(errors) == wrong
        error = errors[next(iter(wrong))]
        assert isinstance(error, OSError) and error.errno == errno.ENETUNREACH
        assert str(error) == "Network is unreachable: Nexthop has invalid gateway"
        assert await contents(door.ipv4) == {each: via for each, via in puts.items() if via == good}
        assert door.ipv4.operations["put", "error"] == len(wrong)
        assert door.ipv4.errors == {("put", "ENETUNREACH"): len(wrong)}
        # the last message of a batch failing, alone, and a delete of what is not there
        assert set(await door.ipv4.apply({key("10.1.0.0/24"): bad}, [key("10.2.0.0/24")])) == {
            key("10.1.0.0/24")
        }
        assert await door.ipv4.apply({}, puts) == {}
        assert await contents(door.ipv4) == {}


async def test_what_is_anothers_is_never_touched(netns: Netns, door: Door) -> None:
    netns.ip("route add 10.48.0.0/26 via 10.0.1.9 proto static")
    netns.ip("route add throw 10.48.1.0/26 proto bird")  # of our protocol, but of no type of ours
    netns.ip("route add 10.48.2.0/26 via 10.0.1.9 proto bird table 100")
    netns.ip("-6 route add fd48::/64 via fd00:1::9 proto static")
    await door.settle()
    via = netns.via("10.0.1.20")
    errors = await door.ipv4.apply({key("10.48.0.0/26"): via, key("10.48.1.0/26"): BLACKHOLE}, ())
    assert {type(error) for error in errors.values()} == {Conflict}
    assert str(errors[key("10.48.0.0/26")]) == "in our way is proto static via 10.0.1.9 dev v0"
    assert door.ipv4.conflicts == {
        key("10.48.0.0/26"): "proto static via 10.0.1.9 dev v0",
        key("10.48.1.0/26"): "throw proto bird",
    }
    six = netns.via("fd00:1::20")
    assert set(await door.ipv6.apply({key("fd48::/64"): six}, ())) == {key("fd48::/64")}
    await door.ipv4.apply({}, [key("10.48.0.0/26"), key("10.48.1.0/26"), key("10.48.2.0/26")])
    await door.ipv6.apply({}, [key("fd48::/64")])
    assert door.ipv4.conflicts == {} and door.ipv6.conflicts == {}
    assert netns.routes("10.48.0.0/26") == ["10.48.0.0/26 via 10.0.1.9 dev v0 proto static"]
    assert netns.routes("10.48.1.0/26") == ["throw 10.48.1.0/26 proto bird"]
    assert netns.routes("table 100") == ["10.48.2.0/26 via 10.0.1.9 dev v0 proto bird"]
    assert len(netns.routes("fd48::/64", 6)) == 1
    assert await contents(door.ipv4) == {}


@pytest.mark.parametrize("kind", ["unreachable", "prohibit"])
async def test_a_route_of_our_protocol_that_leads_nowhere_is_ours(
    netns: Netns, door: Door, kind: str
) -> None:
    """Ours by protocol (house rule 6), though of a type that we never write: put right, or deleted."""
    for option, fib, block, other in (
        ("", door.ipv4, "10.48.0.0/26", "10.48.0.64/26"),
        ("-6 ", door.ipv6, "fd48::/122", "fd48::40/122"),
    ):
        via = netns.via("10.0.1.20" if fib is door.ipv4 else "fd00:1::20")
        wanted: dict[FibKey, Forwarding] = {key(block): BLACKHOLE}
        await fib.apply({key(other): via}, ())
        netns.ip(f"{option}route add {kind} {block} proto bird")
        netns.ip(f"{option}route replace {kind} {other} proto bird")
        await door.settle()
        found = await contents(fib)
        assert found.keys() == {key(block), key(other)} and found[key(block)] not in (BLACKHOLE, via)
        assert fib.conflicts == {}
        assert await fib.apply(wanted, [key(other)]) == {}
        assert await contents(fib) == wanted


async def test_a_conflict_ends_with_the_wish(netns: Netns, door: Door) -> None:
    """What is in the way of a route that nobody wants any more is in nobody's way; one that we hold is reviewed."""
    where, shared = key("10.48.0.0/26"), key("10.48.0.64/26")
    netns.ip("route add 10.48.0.0/26 via 10.0.1.9 proto static")
    await door.ipv4.apply({shared: netns.via("10.0.1.20")}, ())
    netns.ip("route prepend 10.48.0.64/26 via 10.0.1.9 proto static")
    await door.until(lambda: door.ipv4.conflicts)
    await door.ipv4.apply({where: netns.via("10.0.1.20")}, ())
    assert set(door.ipv4.conflicts) == {where, shared}
    door.ipv4.resign([where, shared])
    assert set(door.ipv4.conflicts) == {shared}


async def test_a_route_of_ours_that_is_not_known_is_adopted_and_replaced(netns: Netns) -> None:
    async with running_door() as door:
        # written between the reading and the write: the event is not yet heard
        netns.ip("route add 10.48.0.0/26 via 10.0.1.9 proto bird")
        via = netns.via("10.0.1.20")
        assert await door.ipv4.apply({key("10.48.0.0/26"): via}, ()) == {}
        assert netns.routes("10.48.0.0/26") == ["10.48.0.0/26 via 10.0.1.20 dev v0 proto bird"]


async def test_a_shared_ipv4_key_keeps_both_owners_routes(netns: Netns, door: Door) -> None:
    where = key("10.48.0.0/26")
    await door.ipv4.apply({where: netns.via("10.0.1.20")}, ())
    netns.ip("route prepend 10.48.0.0/26 via 10.0.1.9 proto static")
    await door.until(lambda: door.ipv4.conflicts)
    assert door.reported.changed == [], "ours is still there"
    assert await door.ipv4.apply({where: netns.via("10.0.1.30")}, ()) == {}
    assert netns.routes("10.48.0.0/26") == [
        "10.48.0.0/26 via 10.0.1.9 dev v0 proto static",
        "10.48.0.0/26 via 10.0.1.30 dev v0 proto bird",
    ]
    assert await contents(door.ipv4) == {where: netns.via("10.0.1.30")}
    assert where in door.ipv4.conflicts
    await door.ipv4.apply({}, [where])
    assert netns.routes("10.48.0.0/26") == ["10.48.0.0/26 via 10.0.1.9 dev v0 proto static"]


async def test_a_shared_ipv6_key_yields_and_never_takes_the_other_along(netns: Netns, door: Door) -> None:
    where = key("fd48::/64")
    await door.ipv6.apply({where: netns.via("fd00:1::20", "fd00:1::21")}, ())
    netns.ip("-6 route append fd48::/64 via fd00:1::9 proto static")  # the kernel makes it a leg of ours
    await door.until(lambda: door.ipv6.conflicts)
    assert await contents(door.ipv6) == {where: netns.via("fd00:1::20", "fd00:1::21")}, "its leg is not ours"
    errors = await door.ipv6.apply({where: netns.via("fd00:1::30")}, ())
    assert isinstance(errors[where], Conflict)
    assert netns.routes("fd48::/64", 6) == ["fd48::/64 via fd00:1::9 dev v0 proto static metric 1024"]
    netns.ip("-6 route del fd48::/64 proto static")
    await door.until(lambda: door.reported.changed == [(Family.IPV6, {where: None})])
    assert await door.ipv6.apply({where: netns.via("fd00:1::30")}, ()) == {}


async def test_two_routes_of_ours_with_one_key_become_one(netns: Netns) -> None:
    netns.ip("route add 10.48.0.0/26 via 10.0.1.9 proto bird")
    netns.ip("route append 10.48.0.0/26 via 10.0.1.10 proto bird")
    netns.ip("route append 10.48.0.0/26 via 10.0.1.11 proto bird")
    netns.ip("route add 10.48.1.0/26 via 10.0.1.9 proto bird")
    netns.ip("route append 10.48.1.0/26 via 10.0.1.10 proto bird")
    async with running_door() as door:
        wanted = netns.via("10.0.1.9")
        assert (await contents(door.ipv4))[key("10.48.0.0/26")] != wanted
        assert await door.ipv4.apply({key("10.48.0.0/26"): wanted}, [key("10.48.1.0/26")]) == {}
        assert netns.routes("proto bird") == ["10.48.0.0/26 via 10.0.1.9 dev v0"]
        assert await contents(door.ipv4) == {key("10.48.0.0/26"): wanted}


async def test_deleting_metric_0_that_is_gone_spares_the_other_metric(netns: Netns, door: Door) -> None:
    old, new = key("10.48.0.0/26"), key("10.48.0.0/26", 1024)
    via = netns.via("10.0.1.20")
    assert await door.ipv4.apply({old: via, new: via}, ()) == {}
    # gone unheard: the loop has no turn between this and the delete
    netns.ip("route del 10.48.0.0/26 via 10.0.1.20 proto bird metric 0")
    assert await door.ipv4.apply({}, [old]) == {}
    assert netns.routes("proto bird") == ["10.48.0.0/26 via 10.0.1.20 dev v0 metric 1024"]
    assert await contents(door.ipv4) == {new: via}


async def test_spellings_that_we_never_write_are_put_right(netns: Netns) -> None:
    netns.ip("route add 10.48.0.0/26 proto bird nexthop via 10.0.1.20 weight 3 nexthop via 10.0.1.30")
    netns.ip("route add 10.48.1.0/26 via 10.0.1.20 proto bird mtu 1300")
    netns.ip("route add 10.48.2.0/26 via 10.0.1.20 proto bird src 10.0.2.1")
    netns.ip("nexthop add id 9 via 10.0.1.20 dev v0")
    netns.ip("route add 10.48.3.0/26 nhid 9 proto bird")  # another's object: equal in effect, left so
    async with running_door() as door:
        one, two = netns.via("10.0.1.20"), netns.via("10.0.1.20", "10.0.1.30")
        wanted = {key(f"10.48.{i}.0/26"): one for i in range(4)} | {key("10.48.0.0/26"): two}
        held = await contents(door.ipv4)
        assert [each for each in wanted if held[each] == wanted[each]] == [key("10.48.3.0/26")]
        assert await door.ipv4.apply({k: v for k, v in wanted.items() if held[k] != v}, ()) == {}
        assert await contents(door.ipv4) == wanted
        assert "mtu" not in netns.ip("route show proto bird")


async def test_objects_that_vanished_in_silence_are_made_anew(netns: Netns) -> None:
    async with running_door(nexthop_objects="always") as door:
        via, pair = netns.via("10.0.1.20"), netns.via("10.0.1.20", "10.0.1.30")
        assert await door.ipv4.apply({key("10.48.0.0/26"): via, key("10.48.1.0/26"): pair}, ()) == {}
        netns.ip("link set v0 down")
        netns.ip("link set v0 up")
        # no turn of the loop: the writer believes that its objects are there
        assert await door.ipv4.apply({key("10.48.2.0/26"): via, key("10.48.3.0/26"): pair}, ()) == {}
        assert await contents(door.ipv4) == {key("10.48.2.0/26"): via, key("10.48.3.0/26"): pair}


async def test_large_tables_leave_the_loop_free(netns: Netns, door: Door) -> None:
    vias = [netns.via(f"10.0.1.{i}") for i in range(2, 200)]
    puts: dict[FibKey, Forwarding] = {
        key(f"10.{64 + i // 65536}.{i // 256 % 256}.{i % 256}/32"): vias[i % len(vias)] for i in range(20_000)
    }
    turns: list[float] = []

    async def beat() -> None:
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            await asyncio.sleep(0)
            turns.append(loop.time() - before)
            await asyncio.sleep(0.001)

    beating = asyncio.create_task(beat())
    try:
        assert await door.ipv4.apply(puts, ()) == {}
        assert await contents(door.ipv4) == puts
        assert await door.ipv4.apply({}, puts) == {}
    finally:
        beating.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await beating
    turns.sort()
    assert len(turns) > 20, "the loop had turns"
    assert turns[int(len(turns) * 0.9)] < 0.02
