"""What the door says when others change what is ours, and that a Target's caller can put it right at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bgpd.kernel import rtnetlink as rt
from bgpd.kernel.kernel import Kernel, networkd_manages_links
from bgpd.kernel.sockets import Commands
from bgpd.model.prefix import Family, parse_address, parse_prefix, prefix_text
from bgpd.model.route import BLACKHOLE, FibKey, Forwarding, Unresolved, Via
from tests.netns.kernel import IDS, Door, Netns, Recorder, key, running_door
from tests.unit.target_contract import contents

MODES = ("never", "always")


class Repairer:
    """Keeps the kernel as wanted by what the door reports, as the daemon does: changes by key, suspicions by
    reading."""

    def __init__(self, door: Door, family: Family, wanted: dict[FibKey, Forwarding]) -> None:
        self.door, self.fib, self.wanted = door, door.kernel.fibs[family], wanted
        self.task = asyncio.create_task(self.run())
        self.seen = [0, 0]

    async def run(self) -> None:
        reported = self.door.reported
        while True:
            await asyncio.sleep(0.005)
            suspects, changed = reported.suspects[self.seen[0] :], reported.changed[self.seen[1] :]
            self.seen = [len(reported.suspects), len(reported.changed)]
            puts: dict[FibKey, Forwarding] = {}
            deletes: set[FibKey] = set()
            held = await contents(self.fib) if suspects else None
            for each, value in self.wanted.items():
                if held is not None and held.get(each) != value:
                    puts[each] = value
            for _, changes in changed:
                puts |= {k: self.wanted[k] for k, v in changes.items() if self.wanted.get(k, v) != v}
                deletes |= {k for k, v in changes.items() if v is not None and k not in self.wanted}
            if puts or deletes:
                await self.fib.apply(puts, deletes)


@contextlib.asynccontextmanager
async def repaired(door: Door, family: Family, wanted: dict[FibKey, Forwarding]) -> AsyncIterator[Repairer]:
    assert await door.kernel.fibs[family].apply(wanted, ()) == {}
    repairer = Repairer(door, family, wanted)
    try:
        yield repairer
    finally:
        repairer.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await repairer.task


def both(netns: Netns) -> list[tuple[Family, str, dict[FibKey, Forwarding]]]:
    """For each family: its ``ip`` option, and routes of every kind."""
    return [
        (
            Family.IPV4,
            "",
            {
                key("10.48.0.0/26"): BLACKHOLE,
                key("10.48.0.128/26"): netns.via("10.0.1.20"),
                key("10.48.1.0/26"): netns.via("10.0.1.20", "10.0.1.30"),
            },
        ),
        (
            Family.IPV6,
            "-6",
            {
                key("fd48::/122"): BLACKHOLE,
                key("fd48::80/122"): netns.via("fd00:1::20"),
                key("fd48:1::/122"): netns.via("fd00:1::20", "fd00:1::30"),
            },
        ),
    ]


@pytest.mark.parametrize("mode", MODES)
async def test_a_deleted_route_is_reported_at_once(netns: Netns, mode: str) -> None:
    async with running_door(nexthop_objects=mode) as door:
        for family, option, routes in both(netns):
            await door.kernel.fibs[family].apply(routes, ())
            for each in routes:
                door.reported.clear()
                text = netns_text(family, each)
                netns.ip(f"{option} route del {'blackhole ' if routes[each] is BLACKHOLE else ''}{text}")
                await door.until(lambda: door.reported.changed)
                assert door.reported.changed == [(family, {each: None})]
            assert await contents(door.kernel.fibs[family]) == {}
            assert await door.kernel.fibs[family].apply(routes, ()) == {}
        assert door.reported.rivals == []


def netns_text(family: Family, each: FibKey) -> str:
    return prefix_text(family, each[0])


async def test_own_writes_are_not_heard(netns: Netns, door: Door) -> None:
    for family, _, routes in both(netns):
        fib = door.kernel.fibs[family]
        await fib.apply(routes, ())
        await fib.apply(dict.fromkeys(routes, BLACKHOLE), ())
        await fib.apply({}, routes)
    await door.settle()
    assert (door.reported.changed, door.reported.suspects, door.reported.rivals) == ([], [], [])


@pytest.mark.parametrize("family", Family)
async def test_a_command_that_changes_ours_is_repaired_within_a_second(netns: Netns, family: Family) -> None:
    async with running_door() as door:
        _, option, wanted = both(netns)[family - 1]
        first, second, third = (netns_text(family, each) for each in wanted)
        gateway = "10.0.1.99" if family is Family.IPV4 else "fd00:1::99"
        number = 4 if family is Family.IPV4 else 6
        async with repaired(door, family, wanted):
            right = netns.routes("proto bird", number)
            for command in (
                f"route replace {second} via {gateway} proto bird",
                f"route replace {first} via {gateway} proto bird",
                f"route del {second}",
                f"route replace blackhole {third} proto bird",
                f"route append {second} via {gateway} proto bird",
                f"route add {second} via {gateway} proto bird metric 7",
            ):
                netns.ip(f"{option} {command}")
                assert netns.routes("proto bird", number) != right
                await door.until(lambda: netns.routes("proto bird", number) == right, 1.0)
            assert door.reported.rivals == []


async def test_a_replace_by_another_owner_is_a_conflict_until_it_goes(netns: Netns, door: Door) -> None:
    for family, option, wanted in both(netns):
        fib = door.kernel.fibs[family]
        _, each, _ = wanted
        text, gateway = netns_text(family, each), "10.0.1.99" if family is Family.IPV4 else "fd00:1::99"
        assert await fib.apply(wanted, ()) == {}
        door.reported.clear()
        netns.ip(f"{option} route replace {text} via {gateway} proto static")
        await door.until(lambda: door.reported.changed)
        assert door.reported.changed == [(family, {each: None})]
        assert fib.conflicts == {each: f"proto static via {gateway} dev v0"}
        assert set(await fib.apply({each: wanted[each]}, ())) == {each}
        door.reported.clear()
        netns.ip(f"{option} route del {text} proto static")
        await door.until(lambda: door.reported.changed)
        assert door.reported.changed == [(family, {each: None})]
        assert fib.conflicts == {}
        assert await fib.apply({each: wanted[each]}, ()) == {}
        assert await contents(fib) == wanted


async def test_a_prepended_route_is_reported_and_ours_stays(netns: Netns, door: Door) -> None:
    wanted: dict[FibKey, Forwarding] = {key("10.48.0.0/26"): netns.via("10.0.1.20")}
    await door.ipv4.apply(wanted, ())
    netns.ip("route prepend 10.48.0.0/26 via 10.0.1.9 proto static")
    await door.until(lambda: door.ipv4.conflicts)
    assert door.ipv4.conflicts == {key("10.48.0.0/26"): "proto static via 10.0.1.9 dev v0"}
    netns.ip("route del 10.48.0.0/26 proto static")
    await door.until(lambda: door.reported.changed)
    assert door.reported.changed == [(Family.IPV4, wanted)]
    assert door.ipv4.conflicts == {}
    assert await contents(door.ipv4) == wanted


async def test_a_conflict_missed_by_events_is_found_by_reading(netns: Netns, door: Door) -> None:
    where = key("10.48.0.0/26")
    netns.ip("route add 10.48.0.0/26 via 10.0.1.9 proto static metric 0")
    await door.settle()
    await door.ipv4.apply({where: netns.via("10.0.1.20")}, ())
    assert door.ipv4.conflicts
    netns.ip("route del 10.48.0.0/26 proto static")
    await contents(door.ipv4)  # before the event was handled
    assert door.ipv4.conflicts == {}
    await door.until(lambda: door.reported.changed == [(Family.IPV4, {where: None})])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", Family)
async def test_a_link_that_goes_down_and_up(netns: Netns, family: Family, mode: str) -> None:
    async with running_door(nexthop_objects=mode) as door:
        _, _, wanted = both(netns)[family - 1]
        netns.keep_addresses("v0")  # IPv6 ones would go with the link
        async with repaired(door, family, wanted) as repairer:
            netns.ip("link set v0 down")
            await door.until(lambda: door.reported.suspects)
            assert door.reported.suspects[0] == (family, "link v0 went down or away")
            netns.ip("link set v0 up")
            door.reported.suspects.append((family, "the caller retries what failed"))
            started = time.monotonic()
            while await contents(repairer.fib) != wanted:
                assert time.monotonic() - started < 1.0
                await asyncio.sleep(0.02)
                door.reported.suspects.append((family, "the caller retries what failed"))


async def test_a_link_that_is_moved_away_and_one_that_is_deleted(netns: Netns, door: Door) -> None:
    await door.ipv4.apply({key("10.48.0.0/26"): netns.via("10.0.1.20")}, ())
    await door.ipv4.apply({key("10.48.1.0/26"): netns.via("10.0.2.20", dev="v1")}, ())
    index = netns.ifindex("v0")
    away = f"{netns.name}-2"
    subprocess.run(["ip", "netns", "add", away], check=True)  # noqa: ASYNC221
    try:
        netns.ip(f"link set v0 netns {away}")
    finally:
        subprocess.run(["ip", "netns", "del", away], check=True)  # noqa: ASYNC221
    await door.until(lambda: door.reported.suspects)
    assert (Family.IPV4, "link v0 went down or away") in door.reported.suspects
    assert set(await contents(door.ipv4)) == {key("10.48.1.0/26")}
    assert door.kernel.interface_name(index) == "v0"
    netns.ip("link del v1")
    await door.until(lambda: (Family.IPV4, "link v1 went down or away") in door.reported.suspects)
    assert await contents(door.ipv4) == {}


async def test_an_address_that_is_removed(netns: Netns, door: Door) -> None:
    wanted: dict[FibKey, Forwarding] = {key("10.48.0.0/26"): netns.via("10.0.1.20")}
    await door.ipv4.apply(wanted, ())
    netns.ip(
        "addr del 10.0.1.1/24 dev v0"
    )  # the link's last: the kernel drops all routes over it, and says nothing
    await door.until(lambda: door.reported.suspects)
    assert await contents(door.ipv4) == {}
    assert door.kernel.resolve(parse_address("10.0.1.20")) is Unresolved.NO_ROUTE
    netns.ip("addr add 10.0.1.1/24 dev v0")
    await door.until(lambda: door.kernel.resolve(parse_address("10.0.1.20")) is not Unresolved.NO_ROUTE)
    assert await door.ipv4.apply(wanted, ()) == {}


@pytest.mark.parametrize("command", ["del", "replace", "replace-bird"])
async def test_an_object_of_ours_that_somebody_deletes_or_changes(netns: Netns, command: str) -> None:
    async with running_door(nexthop_objects="always") as door:
        via = netns.via("10.0.1.20")
        wanted: dict[FibKey, Forwarding] = {key(f"10.48.{i}.0/26"): via for i in range(50)}
        async with repaired(door, Family.IPV4, wanted):
            (entry,) = netns.json("nexthop show")
            number = entry["id"]
            if command == "del":
                netns.ip(f"nexthop del id {number}")
            else:
                proto = "proto bird" if command == "replace-bird" else ""
                netns.ip(f"nexthop replace id {number} via 10.0.1.99 dev v0 {proto}")
            await door.until(lambda: door.reported.suspects)
            await door.until(
                lambda: len(netns.routes("proto bird")) == 50 and ".99" not in str(netns.routes()), 1.0
            )
            assert await contents(door.ipv4) == wanted
            if command == "replace":
                assert {each["id"] for each in netns.json("nexthop show")} > {number}, (
                    "theirs now: left alone"
                )
                assert str(number) not in netns.ip("route show proto bird")
            else:
                await contents(door.ipv4)
                assert len(netns.json("nexthop show")) == 1


async def test_nothing_moves_at_a_restart(netns: Netns) -> None:
    monitor = subprocess.Popen(  # noqa: ASYNC220
        ["ip", "-n", netns.name, "monitor", "route", "nexthop"], stdout=subprocess.PIPE, text=True
    )
    try:
        tables = []
        async with running_door(nexthop_objects="always") as door:
            for family, _, routes in both(netns):
                await door.kernel.fibs[family].apply(routes, ())
                tables.append(routes)
        before = netns.ip("nexthop show")
        netns.ip("route add 198.18.0.0/15 dev v1")  # a mark in the monitor's output
        async with running_door(nexthop_objects="always") as door:
            for family, routes in zip(Family, tables, strict=True):
                assert await contents(door.kernel.fibs[family]) == routes
        assert netns.ip("nexthop show") == before
        await asyncio.sleep(0.1)
    finally:
        monitor.terminate()
        lines = monitor.communicate()[0]
    assert lines.split("198.18.0.0/15", 1)[1].strip().splitlines()[1:] == []


def write_as_bird(writer: socket.socket, netns: Netns, text: str, via: Via, flags: int) -> None:
    message = rt.pack_route(
        Family.IPV4,
        rt.NEWROUTE,
        rt.F_REQUEST | flags,
        1,
        parse_prefix(text)[1],
        rt.route_tail(Family.IPV4, 0, via),
    )
    writer.send(message)


async def test_a_live_daemon_of_our_protocol_is_a_rival_until_it_ends(netns: Netns, door: Door) -> None:
    where = key("10.48.0.0/26")
    await door.ipv4.apply({where: netns.via("10.0.1.20")}, ())
    theirs = netns.via("10.0.1.99")
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as other:
        write_as_bird(other, netns, "10.48.0.0/26", theirs, rt.F_CREATE | rt.F_REPLACE)
        port = other.getsockname()[0]
        took = await door.until(lambda: door.reported.rivals)
        assert 0.3 < took < 1.0
        (who,) = door.reported.rivals
        assert (
            who is not None
            and who.startswith(f"netlink port {port}, ")
            and who.endswith(f"(pid {os.getpid()})")
        )
        await door.until(lambda: (Family.IPV4, {where: theirs}) in door.reported.changed)
        write_as_bird(other, netns, "10.48.1.0/26", theirs, rt.F_CREATE | rt.F_REPLACE)
        await door.until(lambda: (Family.IPV4, {key("10.48.1.0/26"): theirs}) in door.reported.changed, 0.5)
        assert len(door.reported.rivals) == 1
    await door.until(lambda: door.reported.rivals[1:] == [None])
    await door.until(lambda: (None, "the other daemon is gone") in door.reported.suspects)


async def test_a_batch_command_is_no_rival(netns: Netns, door: Door) -> None:
    where = key("10.48.0.0/26")
    await door.ipv4.apply({where: netns.via("10.0.1.20")}, ())
    netns.ip("route replace 10.48.0.0/26 via 10.0.1.99 proto bird")
    took = await door.until(lambda: door.reported.changed)
    assert took < 0.6
    await asyncio.sleep(0.6)
    assert door.reported.rivals == []


async def test_lost_notifications_are_counted_and_all_is_read_again(netns: Netns, door: Door) -> None:
    netns.ip("link add cali1 type veth peer name pod1")
    netns.ip("link set cali1 up")
    await door.ipv4.apply({key("10.48.0.0/26"): netns.via("10.0.1.20")}, ())
    await door.settle()
    # the loop gets no turn, and the queue is small
    door.kernel._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    for i in range(30):
        netns.ip(f"route add 198.51.100.{i}/32 via 10.0.1.9")
    netns.ip("route add 10.48.0.7/32 dev cali1 scope link")
    netns.ip("addr add 10.0.1.77/32 dev v0")
    netns.ip("route del 10.48.0.0/26")
    await door.until(lambda: door.kernel.overruns)
    await door.until(lambda: (None, "the kernel dropped notifications") in door.reported.suspects)
    assert parse_address("10.0.1.77") in door.kernel.addresses(Family.IPV4)
    assert await contents(door.ipv4) == {}
    await door.until(lambda: door.reported.workloads)
    assert {each.interface for each in door.kernel.workloads()[Family.IPV4]} == {"cali1"}
    door.reported.clear()
    netns.ip("route add 10.48.0.8/32 dev cali1 scope link")
    await door.until(lambda: door.reported.workloads)


async def test_a_flood_of_foreign_routes_leaves_the_loop_free(
    netns: Netns, door: Door, tmp_path: object
) -> None:
    lines = "".join(
        f"route add 100.{64 + i // 250}.{i % 250}.0/24 via 10.0.1.9 proto static\n" for i in range(5000)
    )
    flood = await asyncio.create_subprocess_exec(
        "ip", "-n", netns.name, "-force", "-batch", "-", stdin=asyncio.subprocess.PIPE
    )
    longest = 0.0
    feeding = asyncio.create_task(flood.communicate(lines.encode()))
    while not feeding.done():
        before = time.monotonic()
        await asyncio.sleep(0)
        longest = max(longest, time.monotonic() - before)
        await asyncio.sleep(0.001)
    await door.until(lambda: door.kernel.resolve(parse_address("100.83.249.1")) is not Unresolved.NO_ROUTE)
    assert door.kernel.overruns == 0
    assert longest < 0.1
    assert set(await door.ipv4.apply({key("100.64.0.0/24"): BLACKHOLE}, ())) == {key("100.64.0.0/24")}


async def test_events_during_a_reading_win_over_it(netns: Netns, door: Door) -> None:
    via = netns.via("10.0.1.20")
    wanted: dict[FibKey, Forwarding] = {
        key(f"10.{64 + i // 65536}.{i // 256 % 256}.{i % 256}/32"): via for i in range(20_000)
    }
    assert await door.ipv4.apply(wanted, ()) == {}
    for victim in list(wanted)[::4000]:
        reading = asyncio.create_task(contents(door.ipv4))
        await asyncio.sleep(0.005)
        netns.ip(f"route del {netns_text(Family.IPV4, victim)}")
        await reading
        del wanted[victim]
        await door.until(lambda victim=victim: any(victim in changes for _, changes in door.reported.changed))
        assert door.ipv4.installed.get(victim) is None
    assert await contents(door.ipv4) == wanted


async def test_a_bug_in_the_handler_ends_the_run(netns: Netns) -> None:
    class Broken(Recorder):
        def local_changed(self) -> None:
            raise RuntimeError("a bug")

    kernel = Kernel(
        Broken(), workload_interfaces=(), tunnel_interfaces=(), nexthop_objects="never", nexthop_ids=IDS
    )
    await kernel.start()
    running = asyncio.create_task(kernel.run())
    await asyncio.sleep(0)
    netns.ip("addr add 10.0.1.77/24 dev v0")
    with pytest.raises(ExceptionGroup) as raised:
        async with asyncio.timeout(3):
            await running
    assert raised.group_contains(RuntimeError, match="a bug")


def test_networkd_is_seen_by_the_links_it_manages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bgpd.kernel.kernel.NETWORKD_LINKS", tmp_path / "links")
    assert not networkd_manages_links()
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "1").write_text("# private\nADMIN_STATE=unmanaged\nOPER_STATE=carrier\n")
    assert not networkd_manages_links()
    (tmp_path / "links" / "2").write_text("ADMIN_STATE=configured\n")
    assert networkd_manages_links()


@pytest.mark.parametrize("count", [1, 100])
async def test_a_bug_in_the_worker_is_seen_and_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Where it is carried out: at once, or by the worker, which would die of it unseen."""

    def broken(self: Commands, orders: object) -> None:
        raise ZeroDivisionError

    def answered(self: Commands, orders: list[Any]) -> object:
        return {order.base: [b"yes"] for order in orders}, None

    commands, batch = Commands(), [rt.request(rt.GETLINK)] * count
    try:
        monkeypatch.setattr(Commands, "_exchange", broken)
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(commands.submit(commands.base(), batch), 2)
        monkeypatch.setattr(Commands, "_exchange", answered)
        assert await asyncio.wait_for(commands.submit(commands.base(), batch), 2) == [b"yes"]
    finally:
        commands.close()
