"""Links, addresses, resolution and workloads as a real kernel has them and reports them."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from bgpd.kernel import rtnetlink as rt
from bgpd.model.prefix import Family, parse_address, parse_prefix, prefix_text
from bgpd.model.route import BLACKHOLE, Hop, Resolution, Unresolved, Via, WorkloadRoute
from tests.netns.kernel import Door, Netns, key, running_door
from tests.unit.target_contract import contents


def found(netns: Netns, gateway: str, dev: str, cost: int = 0, *, onlink: bool = False) -> Resolution:
    return Resolution(Via((Hop(parse_address(gateway), netns.ifindex(dev), onlink),)), cost)


def workload(text: str, interface: str, metric: int = 0, direct: bool = False) -> WorkloadRoute:
    return WorkloadRoute(parse_prefix(text)[1], interface, metric, direct)


@pytest.mark.parametrize(
    ("command", "next_hop", "gateway", "dev", "cost"),
    [
        ("", "10.0.1.20", "10.0.1.20", "v0", 0),
        ("", "fd00:1::20", "fd00:1::20", "v0", 256),
        ("route add default via 10.0.1.254", "192.0.2.1", "10.0.1.254", "v0", 0),
        ("route add 192.0.2.0/24 via 10.0.2.254 metric 50", "192.0.2.1", "10.0.2.254", "v1", 50),
        ("route add 192.0.2.0/24 dev v1 scope link", "192.0.2.1", "192.0.2.1", "v1", 0),
        ("-6 route add default via fd00:2::fe", "2001:db8::1", "fd00:2::fe", "v1", 1024),
        ("-6 route add 2001:db8::/64 dev v1 metric 7", "2001:db8::1", "2001:db8::1", "v1", 7),
        ("route add 192.0.2.0/24 via inet6 fe80::9 dev v0", "192.0.2.1", "fe80::9", "v0", 0),
    ],
)
async def test_a_resolution_is_what_the_kernel_then_accepts(
    netns: Netns, command: str, next_hop: str, gateway: str, dev: str, cost: int
) -> None:
    if command:
        netns.ip(command)
    async with running_door() as door:
        resolution = door.kernel.resolve(parse_address(next_hop))
        assert resolution == found(netns, gateway, dev, cost)
        fib, where = (door.ipv6, key("fd48::/64")) if ":" in next_hop else (door.ipv4, key("10.48.0.0/26"))
        assert isinstance(resolution, Resolution)
        assert await fib.apply({where: resolution.via}, ()) == {}
        assert await contents(fib) == {where: resolution.via}


async def test_an_onlink_gateway_stays_onlink(netns: Netns) -> None:
    netns.ip("route add 192.0.2.0/24 via 203.0.113.1 dev v1 onlink")
    async with running_door() as door:
        resolution = door.kernel.resolve(parse_address("192.0.2.1"))
        assert resolution == found(netns, "203.0.113.1", "v1", onlink=True)
        assert await door.ipv4.apply({key("10.48.0.0/26"): resolution.via}, ()) == {}


async def test_foreign_nexthop_objects_resolve(netns: Netns) -> None:
    netns.ip("nexthop add id 5 via 10.0.1.5 dev v0")
    netns.ip("nexthop add id 6 via 10.0.2.6 dev v1")
    netns.ip("nexthop add id 7 group 5/6")
    netns.ip("nexthop add id 8 blackhole")
    netns.ip("route add 192.0.2.0/26 nhid 5")
    netns.ip("route add 192.0.2.64/26 nhid 7")
    netns.ip("route add 192.0.2.128/26 nhid 8")
    async with running_door() as door:
        one, two, three = (parse_address(f"192.0.2.{i}") for i in (1, 65, 129))
        assert door.kernel.resolve(one) == found(netns, "10.0.1.5", "v0")
        both = door.kernel.resolve(two)
        assert isinstance(both, Resolution) and len(both.via.hops) == 2
        assert door.kernel.resolve(three) is Unresolved.BLACKHOLE
        netns.ip("nexthop replace id 5 via 10.0.1.55 dev v0")
        await door.until(lambda: door.kernel.resolve(one) == found(netns, "10.0.1.55", "v0"))
        assert set().union(*door.reported.next_hops) == {one, two}


async def test_our_own_routes_resolve_nothing(netns: Netns, door: Door) -> None:
    await door.ipv4.apply({key("192.0.2.0/24"): netns.via("10.0.1.20"), key("192.0.2.0/25"): BLACKHOLE}, ())
    assert door.kernel.resolve(parse_address("192.0.2.1")) is Unresolved.NO_ROUTE
    netns.ip("route add 198.51.100.0/24 via 10.0.1.20 proto bird")
    await door.settle()
    assert door.kernel.resolve(parse_address("198.51.100.1")) is Unresolved.NO_ROUTE


async def test_changes_are_reported_once_and_only_of_those_that_differ(netns: Netns, door: Door) -> None:
    far, near, other = (parse_address(text) for text in ("192.0.2.1", "10.0.1.20", "198.51.100.1"))
    kernel = door.kernel
    assert kernel.resolve(far) is kernel.resolve(other) is Unresolved.NO_ROUTE
    assert kernel.resolve(near) == found(netns, "10.0.1.20", "v0")
    netns.ip("route add 192.0.2.0/24 via 10.0.2.9")
    await door.until(lambda: door.reported.next_hops)
    assert door.reported.next_hops == [frozenset({far})]
    assert kernel.resolve(far) == found(netns, "10.0.2.9", "v1")
    door.reported.clear()
    netns.ip("route add blackhole 192.0.2.1/32")
    await door.until(lambda: door.reported.next_hops)
    assert kernel.resolve(far) is Unresolved.BLACKHOLE
    netns.ip("route del blackhole 192.0.2.1/32")
    await door.until(lambda: kernel.resolve(far) == found(netns, "10.0.2.9", "v1"))
    await door.settle()
    door.reported.clear()
    netns.ip("link set v1p down")  # the carrier goes, the route stays
    await door.until(lambda: door.reported.next_hops == [frozenset({far})])
    assert kernel.resolve(far) is Unresolved.LINK_DOWN
    netns.ip("link set v1p up")
    await door.until(lambda: kernel.resolve(far) == found(netns, "10.0.2.9", "v1"))
    netns.ip("link set v0 down")
    await door.until(lambda: kernel.resolve(near) is Unresolved.NOT_ON_LINK)
    netns.ip("link set v0 up")
    await door.until(lambda: kernel.resolve(near) == found(netns, "10.0.1.20", "v0"))
    door.reported.clear()
    netns.ip("addr add 192.0.2.1/32 dev lo")
    await door.until(lambda: door.reported.next_hops == [frozenset({far})])
    assert kernel.resolve(far) is Unresolved.OWN_ADDRESS
    assert door.reported.local == 1


async def test_a_default_route_change_reaches_thousands_in_turns(netns: Netns, door: Door) -> None:
    asked = [parse_address(f"192.0.{i >> 8}.{i & 255}") for i in range(5000)]
    assert {door.kernel.resolve(address) for address in asked} == {Unresolved.NO_ROUTE}
    netns.ip("route add default via 10.0.1.254")
    await door.until(lambda: sum(map(len, door.reported.next_hops)) == len(asked))
    assert frozenset().union(*door.reported.next_hops) == frozenset(asked)
    assert len(door.reported.next_hops) > 1, "in turns"


async def test_own_addresses_and_connected_subnets(netns: Netns, door: Door) -> None:
    kernel = door.kernel

    def connected(family: Family) -> dict[str, str]:
        return {prefix_text(family, prefix): name for prefix, name in kernel.connected(family).items()}

    assert connected(Family.IPV4) == {"10.0.1.0/24": "v0", "10.0.2.0/24": "v1", "127.0.0.0/8": "lo"}
    assert connected(Family.IPV6) == {"fd00:1::/64": "v0", "fd00:2::/64": "v1"}
    assert parse_address("10.0.1.1") in kernel.addresses(Family.IPV4)
    assert parse_address("fd00:1::1") in kernel.addresses(Family.IPV6)
    netns.ip("addr add 10.9.0.1/16 dev v1 noprefixroute")
    await door.until(lambda: parse_address("10.9.0.1") in kernel.addresses(Family.IPV4))
    assert "10.9.0.0/16" not in connected(Family.IPV4), "nobody made its route"
    assert kernel.resolve(parse_address("10.9.0.2")) is Unresolved.NO_ROUTE
    netns.ip("route add 10.9.0.0/16 dev v1 proto kernel scope link metric 100")
    await door.until(lambda: "10.9.0.0/16" in connected(Family.IPV4))
    assert kernel.resolve(parse_address("10.9.0.2")) == found(netns, "10.9.0.2", "v1", 100)
    reported = door.reported.local
    netns.ip("addr del 10.9.0.1/16 dev v1")
    await door.until(lambda: door.reported.local > reported)
    assert parse_address("10.9.0.1") not in kernel.addresses(Family.IPV4)


async def test_workloads_are_host_routes_of_workload_interfaces(netns: Netns, door: Door) -> None:
    kernel = door.kernel
    netns.ip("link add cali1 type veth peer name pod1")
    netns.ip("link set cali1 up")
    netns.ip("link set pod1 up")
    for command in (
        "route add 10.48.0.5/32 dev cali1 scope link",
        "route add 10.48.0.6/32 dev v0 scope link",  # no workload interface
        "route add 10.48.0.64/26 dev cali1 scope link",  # no host route
        "route add 10.48.0.7/32 via 10.48.0.5 dev cali1 onlink",  # through a gateway
        "route add 10.48.0.8/32 dev cali1 scope link proto bird",  # ours
        "route add 10.48.0.9/32 dev cali1 scope link table 100",
        "route add 10.48.0.10/32 dev cali1 scope link metric 1024 proto 80",
        "-6 route add fd48::5/128 dev cali1",
    ):
        netns.ip(command)
    expected = {
        Family.IPV4: {workload("10.48.0.5/32", "cali1"), workload("10.48.0.10/32", "cali1", 1024)},
        Family.IPV6: {workload("fd48::5/128", "cali1", 1024)},
    }
    await door.until(lambda: kernel.workloads() == expected)
    async with running_door() as another:
        assert another.kernel.workloads() == expected, "read at start"
    await door.ipv4.apply({}, [key("10.48.0.8/32")])
    netns.ip("link del cali1")  # IPv4 routes go in silence
    await door.until(lambda: kernel.workloads() == {Family.IPV4: set(), Family.IPV6: set()})
    assert kernel.interface_name(999) == "if999"
    assert door.reported.suspects == [], "none of our routes led there: nothing to compare"


async def test_a_workload_is_reported_within_milliseconds(netns: Netns, door: Door) -> None:
    netns.ip("link add cali1 type veth peer name pod1")
    netns.ip("link set cali1 up")
    await door.settle()
    tail = rt.route_tail(Family.IPV4, 0, Via((Hop(None, netns.ifindex("cali1")),)))
    delays = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as writer:
        for i in range(20):
            message = bytearray(
                rt.pack_route(
                    Family.IPV4,
                    rt.NEWROUTE,
                    rt.F_REQUEST | rt.F_CREATE,
                    1,
                    parse_prefix(f"10.48.0.{i}/32")[1],
                    tail,
                )
            )
            message[16 + 5] = 3  # proto boot, as a CNI plugin writes
            reported, started = door.reported.workloads, time.monotonic()
            writer.send(bytes(message))
            while door.reported.workloads == reported:  # noqa: ASYNC110  # a wait would be in the measure
                await asyncio.sleep(0)
            delays.append(time.monotonic() - started)
    assert len(door.kernel.workloads()[Family.IPV4]) == 20
    assert sorted(delays)[10] < 0.005


async def test_tunnel_addresses_are_workloads(netns: Netns) -> None:
    netns.ip("link add tunl-a type veth peer name tunl-b")
    netns.ip("addr add 10.48.0.1/32 dev tunl-a")
    netns.ip("-6 addr add fd48::1/128 dev tunl-a nodad")
    netns.ip("link set tunl-a up")
    async with running_door(tunnel_interfaces=("tunl-a",)) as door:
        assert door.kernel.workloads() == {
            Family.IPV4: {workload("10.48.0.1/32", "tunl-a", direct=True)},
            Family.IPV6: {workload("fd48::1/128", "tunl-a", direct=True)},
        }
        netns.ip("addr del 10.48.0.1/32 dev tunl-a")
        await door.until(lambda: door.reported.workloads)
        assert door.kernel.workloads()[Family.IPV4] == set()


async def test_a_renamed_link_is_another_workload(netns: Netns, door: Door) -> None:
    netns.ip("link add veth9 type veth peer name pod9")
    netns.ip("link set veth9 up")
    netns.ip("route add 10.48.0.5/32 dev veth9 scope link")
    await door.settle()
    assert door.kernel.workloads()[Family.IPV4] == set()
    netns.ip("link set veth9 down")
    netns.ip("link set veth9 name cali9")
    netns.ip("link set cali9 up")
    netns.ip("route replace 10.48.0.5/32 dev cali9 scope link")
    await door.until(lambda: door.kernel.workloads()[Family.IPV4] == {workload("10.48.0.5/32", "cali9")})
