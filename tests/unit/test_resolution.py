"""Next-hop resolution, workloads and others' routes, as tables: no kernel, no clock that matters."""

from __future__ import annotations

from typing import Any

import pytest

from bgpd.kernel import rtnetlink as rt
from bgpd.kernel.foreign import Others
from bgpd.kernel.interfaces import InterfaceAddress, Link
from bgpd.kernel.nexthop_objects import NextHops
from bgpd.kernel.nexthop_tracking import Neighbours
from bgpd.model.prefix import Address, Family, parse_address, parse_prefix
from bgpd.model.route import Hop, Resolution, Unresolved, Via, WorkloadRoute

LO, ENS5, ENS6, CALI = 1, 2, 3, 4
NO_COMMANDS: Any = None


class Node:
    """A node with ens5 (10.0.1.20/24, fd00:1::20/64), ens6 (10.0.2.20/24), a workload link and ``lo``."""

    def __init__(self) -> None:
        self.nexthops = NextHops(NO_COMMANDS, range(1000, 1010))
        self.others = {family: Others(family) for family in Family}
        self.neighbours = Neighbours(self.nexthops, self.others, ("cali*", "tap?"), ("tunl0", "vxlan.*"))
        for index, name in ((LO, "lo"), (ENS5, "ens5"), (ENS6, "ens6"), (CALI, "cali1")):
            self.link(index, name)
        self.address(LO, "127.0.0.1/8")
        self.address(LO, "::1/128")
        self.address(ENS5, "10.0.1.20/24")
        self.address(ENS5, "fd00:1::20/64")
        self.address(ENS5, "fe80::20/64")
        self.address(ENS6, "10.0.2.20/24")
        self.route("10.0.1.0/24", Hop(None, ENS5), protocol=2)
        self.route("10.0.2.0/24", Hop(None, ENS6), protocol=2)
        self.route("fd00:1::/64", Hop(None, ENS5), protocol=2, metric=256)

    def link(self, index: int, name: str, *, up: bool = True, admin_up: bool = True) -> None:
        self.neighbours.put_link(Link(index, name, admin_up, up, name == "lo"))

    def address(self, index: int, text: str, *, present: bool = True, prefix_route: bool = True) -> None:
        family, subnet = parse_prefix(text)
        address = parse_address(text.split("/")[0])
        self.neighbours.put_address(InterfaceAddress(index, family, address, subnet, prefix_route), present)

    def route(
        self, text: str, *hops: Hop, metric: int = 0, kind: int = 1, protocol: int = 4, nexthop: int = 0,
        tos: int = 0, flags: int = 0,
    ) -> rt.Body:  # fmt: skip
        family, prefix = parse_prefix(text)
        body = rt.Body(metric, protocol, kind, 254, tos, hops, nexthop, None, True)
        self.others[family].put_route(prefix, body, flags)
        self.neighbours.review(family, [prefix])
        return body

    def remove(self, text: str, body: rt.Body) -> None:
        family, prefix = parse_prefix(text)
        self.others[family].remove(prefix, body)
        self.neighbours.review(family, [prefix])

    def resolve(self, text: str) -> Resolution | Unresolved:
        return self.neighbours.resolve(parse_address(text))


def hop(gateway: str | None, index: int, onlink: bool = False) -> Hop:
    return Hop(None if gateway is None else parse_address(gateway), index, onlink)


def way(*hops: Hop, cost: int = 0) -> Resolution:
    return Resolution(Via(hops), cost)


@pytest.fixture
def node() -> Node:
    return Node()


def test_a_next_hop_in_a_connected_subnet_is_on_its_link(node: Node) -> None:
    assert node.resolve("10.0.1.30") == way(hop("10.0.1.30", ENS5))
    assert node.resolve("fd00:1::30") == way(hop("fd00:1::30", ENS5), cost=256)


def test_it_is_there_or_nowhere(node: Node) -> None:
    node.route("10.0.1.30/32", hop("10.0.2.1", ENS6))  # more specific, and led elsewhere
    node.route("0.0.0.0/0", hop("10.0.2.1", ENS6))
    assert node.resolve("10.0.1.30") == way(hop("10.0.1.30", ENS5))
    node.link(ENS5, "ens5", up=False)
    assert node.resolve("10.0.1.30") is Unresolved.NOT_ON_LINK
    assert node.resolve("10.9.9.9") == way(hop("10.0.2.1", ENS6))


def test_a_subnet_on_two_links_takes_the_kernels_choice(node: Node) -> None:
    node.address(ENS6, "10.0.1.21/24")
    node.route("10.0.1.0/24", Hop(None, ENS6), metric=100, protocol=2)
    assert node.resolve("10.0.1.30") == way(hop("10.0.1.30", ENS5))
    node.link(ENS5, "ens5", up=False)
    assert node.resolve("10.0.1.30") == way(hop("10.0.1.30", ENS6), cost=100)


def test_the_longest_match_then_the_least_metric(node: Node) -> None:
    assert node.resolve("192.0.2.1") is Unresolved.NO_ROUTE
    node.route("0.0.0.0/0", hop("10.0.1.1", ENS5))
    node.route("192.0.2.0/24", hop("10.0.1.3", ENS5), metric=20)
    node.route("192.0.2.0/24", hop("10.0.1.2", ENS5), metric=10)
    node.route("192.0.2.0/24", hop("10.0.1.4", ENS5), metric=0, tos=16)
    node.route("192.0.2.128/25", hop("10.0.2.1", ENS6), metric=30)
    assert node.resolve("192.0.2.1") == way(hop("10.0.1.2", ENS5), cost=10)
    assert node.resolve("192.0.2.129") == way(hop("10.0.2.1", ENS6), cost=30)
    assert node.resolve("198.51.100.1") == way(hop("10.0.1.1", ENS5))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (6, Unresolved.BLACKHOLE), (7, Unresolved.BLACKHOLE), (8, Unresolved.BLACKHOLE),
        (2, Unresolved.OWN_ADDRESS), (9, Unresolved.NO_ROUTE),
    ],
)  # fmt: skip
def test_routes_that_lead_nowhere(node: Node, kind: int, reason: Unresolved) -> None:
    node.route("0.0.0.0/0", hop("10.0.1.1", ENS5))
    node.route("192.0.2.0/24", kind=kind)
    assert node.resolve("192.0.2.1") is reason


def test_own_addresses(node: Node) -> None:
    node.route("10.0.9.0/24", hop(None, LO))
    for text in ("10.0.1.20", "fd00:1::20", "127.0.0.1", "127.0.0.53", "10.0.9.1", "fe80::20"):
        assert node.resolve(text) is Unresolved.OWN_ADDRESS


def test_a_multipath_route_gives_the_legs_that_live(node: Node) -> None:
    node.route("192.0.2.0/24", hop("10.0.1.1", ENS5), hop("10.0.2.1", ENS6, True))
    assert node.resolve("192.0.2.1") == way(hop("10.0.1.1", ENS5), hop("10.0.2.1", ENS6, True))
    node.link(ENS5, "ens5", up=False)
    assert node.resolve("192.0.2.1") == way(hop("10.0.2.1", ENS6, True))
    node.link(ENS6, "ens6", up=False)
    assert node.resolve("192.0.2.1") is Unresolved.LINK_DOWN
    node.neighbours.drop_link(ENS6)
    assert node.resolve("192.0.2.1") is Unresolved.LINK_DOWN


def test_a_device_route_puts_the_next_hop_on_its_link(node: Node) -> None:
    node.route("192.0.2.0/24", hop(None, CALI), metric=5)
    assert node.resolve("192.0.2.1") == way(hop("192.0.2.1", CALI), cost=5)


def test_routes_over_objects(node: Node) -> None:
    node.nexthops.put_nexthop(rt.NextHop(5, 3, hop("10.0.1.5", ENS5), (), False, True))
    node.nexthops.put_nexthop(rt.NextHop(6, 3, hop("10.0.2.6", ENS6), (), False, True))
    node.nexthops.put_nexthop(rt.NextHop(7, 3, None, (5, 6), False, True))
    node.nexthops.put_nexthop(rt.NextHop(8, 3, None, (), True, True))
    node.route("192.0.2.0/25", nexthop=7)
    node.route("192.0.2.128/26", nexthop=8)
    node.route("192.0.2.192/26", hop("10.0.1.9", ENS5), nexthop=99)  # unknown: as the message spelled it
    assert node.resolve("192.0.2.1") == way(hop("10.0.1.5", ENS5), hop("10.0.2.6", ENS6))
    assert node.resolve("192.0.2.129") is Unresolved.BLACKHOLE
    assert node.resolve("192.0.2.193") == way(hop("10.0.1.9", ENS5))


def test_only_answers_that_differ_are_reported(node: Node) -> None:
    asked = {text: node.resolve(text) for text in ("192.0.2.1", "198.51.100.1", "10.0.1.30", "2001:db8::1")}
    node.route("0.0.0.0/0", hop("10.0.1.1", ENS5))
    far = {parse_address("192.0.2.1"), parse_address("198.51.100.1")}
    assert node.neighbours.recheck(1.0) == far
    assert node.neighbours.recheck(1.0) == frozenset()
    body = node.route("192.0.2.0/24", hop("10.0.1.1", ENS5))
    assert node.neighbours.recheck(1.0) == frozenset(), "the same way by another route"
    node.remove("192.0.2.0/24", body)
    node.route("192.0.2.1/32", kind=6)
    assert node.resolve("192.0.2.1") is Unresolved.BLACKHOLE, "right also before the recheck"
    assert node.neighbours.recheck(1.0) == {parse_address("192.0.2.1")}
    node.link(ENS5, "ens5", up=False)
    assert node.neighbours.recheck(1.0) == {parse_address("198.51.100.1"), parse_address("10.0.1.30")}
    node.link(ENS5, "ens5")
    assert node.neighbours.recheck(1.0) == {parse_address("198.51.100.1"), parse_address("10.0.1.30")}
    assert node.resolve("10.0.1.30") == asked["10.0.1.30"]
    node.address(ENS6, "2001:db8::1/128")
    assert node.neighbours.recheck(1.0) == {parse_address("2001:db8::1")}


def test_a_recheck_keeps_to_its_time(node: Node) -> None:
    for i in range(1000):
        node.resolve(f"192.0.{i >> 8}.{i & 255}")
    node.route("0.0.0.0/0", hop("10.0.1.1", ENS5))
    reported = [node.neighbours.recheck(0.0)]
    assert node.neighbours.unfinished and 0 < len(reported[0]) < 1000
    while node.neighbours.unfinished:
        reported.append(node.neighbours.recheck(0.0))
    assert sum(map(len, reported)) == len(frozenset[Address]().union(*reported)) == 1000


def test_link_local_subnets_are_not_connected(node: Node) -> None:
    assert set(node.neighbours.connected(Family.IPV6)) == {parse_prefix("fd00:1::/64")[1]}
    assert node.resolve("fe80::1") is Unresolved.NO_ROUTE


def test_an_address_without_a_prefix_route_needs_somebodys(node: Node) -> None:
    node.address(ENS6, "10.0.3.1/24", prefix_route=False)
    assert parse_prefix("10.0.3.0/24")[1] not in node.neighbours.connected(Family.IPV4)
    assert node.resolve("10.0.3.9") is Unresolved.NO_ROUTE
    node.route("10.0.3.0/24", hop(None, ENS6), metric=101, protocol=2)
    assert node.resolve("10.0.3.9") == way(hop("10.0.3.9", ENS6), cost=101)


def test_workloads(node: Node) -> None:
    node.route("10.48.0.5/32", hop(None, CALI), protocol=3)
    node.route("10.48.0.6/32", hop(None, ENS5), protocol=3)
    node.route("10.48.0.7/32", hop("10.48.0.5", CALI), protocol=3)
    node.route("10.48.0.64/26", hop(None, CALI), protocol=3)
    node.route("10.48.0.8/32", hop(None, CALI), kind=6)
    node.route("10.48.0.9/32", hop(None, 77))
    node.route("fd48::5/128", hop(None, CALI), protocol=3, metric=1024)
    node.link(9, "vxlan.calico")
    node.address(9, "10.48.0.1/32")
    node.address(9, "fe80::9/64")
    assert node.neighbours.workloads() == {
        Family.IPV4: {
            WorkloadRoute(parse_prefix("10.48.0.5/32")[1], "cali1"),
            WorkloadRoute(parse_prefix("10.48.0.1/32")[1], "vxlan.calico", direct=True),
        },
        Family.IPV6: {WorkloadRoute(parse_prefix("fd48::5/128")[1], "cali1", 1024)},
    }


class TestOthers:
    """The order of routes of one key follows the kernel's."""

    @staticmethod
    def body(gateway: int, metric: int = 0, protocol: int = 4) -> rt.Body:
        return rt.Body(
            metric, protocol, 1, 254, 0, (Hop(Address(bytes((10, 0, 1, gateway))), ENS5),), 0, None, True
        )

    def test_prepend_append_replace(self) -> None:
        others, prefix = Others(Family.IPV4), parse_prefix("10.48.0.0/26")[1]
        one, two, three, four = (self.body(i) for i in range(1, 5))
        high, low = self.body(9, metric=50), self.body(8, metric=5)
        others.put_route(prefix, high, rt.F_CREATE)
        others.put_route(prefix, one, rt.F_CREATE)
        others.put_route(prefix, two, rt.F_CREATE | rt.F_APPEND)
        others.put_route(prefix, three, rt.F_CREATE)
        others.put_route(prefix, low, rt.F_CREATE)
        assert others.routes(prefix) == (three, one, two, low, high)
        others.put_route(prefix, four, rt.F_REPLACE)
        assert others.routes(prefix) == (four, one, two, low, high)
        assert others.at((prefix, 50)) == high
        assert others.at((prefix, 51)) is None
        others.remove(prefix, one)
        others.remove(prefix, self.body(77))  # unknown in detail: the first of its key and owner
        assert others.routes(prefix) == (two, low, high)
        for body in (two, low, high):
            others.remove(prefix, body)
        assert list(others) == []
        assert others.match(parse_address("10.48.0.1")) is None

    def test_a_link_that_goes_takes_routes_over_it_alone(self) -> None:
        others = Others(Family.IPV4)
        alone, shared, hole = (parse_prefix(f"10.48.{i}.0/24")[1] for i in range(3))
        others.put_route(alone, self.body(1), 0)
        two_legs = self.body(1)._replace(hops=(hop("10.0.1.1", ENS5), hop("10.0.2.1", ENS6)))
        others.put_route(shared, two_legs, 0)
        others.put_route(hole, self.body(1)._replace(type=6, hops=()), 0)
        assert others.drop_link(ENS5) == {alone}
        assert {prefix for prefix, _ in others} == {shared, hole}

    def test_a_whole_reading_says_what_differs(self) -> None:
        others = Others(Family.IPV4)
        a, b, c = (parse_prefix(f"10.48.0.{i}/32")[1] for i in range(3))
        others.put_route(a, self.body(1), 0)
        others.put_route(b, self.body(1), 0)
        assert others.replace({a: (self.body(1),), c: (self.body(1),)}) == {b, c}
        assert others.hosts == {a, c}


def test_ids_are_reserved_until_made_or_dropped() -> None:
    nexthops = NextHops(NO_COMMANDS, range(10, 13))
    nexthops.put_nexthop(rt.NextHop(11, 0, None, (), False, True))
    assert [nexthops.reserve() for _ in range(3)] == [10, 12, None]
    nexthops.drop(10)
    nexthops.put_nexthop(rt.NextHop(12, rt.PROTO_BIRD, None, (), False, True))
    assert [nexthops.reserve() for _ in range(2)] == [10, None]
    assert nexthops.is_ours(12) and not nexthops.is_ours(11) and not nexthops.is_ours(10)


def test_unused_objects_of_ours() -> None:
    nexthops = NextHops(NO_COMMANDS, range(10, 20))
    for number, protocol, members in ((10, 12, ()), (11, 12, ()), (12, 12, (10,)), (13, 3, ()), (99, 12, ())):
        nexthops.put_nexthop(rt.NextHop(number, protocol, hop("10.0.1.1", ENS5), members, False, True))
    assert sorted(nexthops.unused({11})) == [12], "10 is held by the group, 13 and 99 are not ours"
    nexthops.drop(12)
    assert sorted(nexthops.unused({11})) == [10]
