"""Route netlink in octets: what is packed is parsed back, and what the kernel sends is understood."""

from __future__ import annotations

import errno
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpd.kernel import rtnetlink as rt
from bgpd.kernel.interfaces import IFA_F_NOPREFIXROUTE, InterfaceAddress, Link, read_address, read_link
from bgpd.model.prefix import Address, Family, Prefix, make_prefix, parse_address, parse_prefix
from bgpd.model.route import Hop, Via

A, B = parse_address("10.0.1.20"), parse_address("10.0.1.30")
A6 = parse_address("fd00:1::20")


def header(kind: int, body: bytes, flags: int = 0, seq: int = 0, port: int = 0) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, seq, port) + body


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def single(data: bytes) -> rt.Message:
    (message,) = rt.messages(data)
    return message


def notified(request: bytes) -> bytes:
    """What the kernel would notify of a request: RTA_TABLE comes first."""
    head, body = request[:16], request[16:28]
    rest = u32(rt.RTA_TABLE, body[4]) + request[28:]
    return struct.pack("=I", 28 + len(rest)) + head[4:] + body + rest


ROUTES = [
    (Family.IPV4, "10.48.0.0/26", 0, None),
    (Family.IPV4, "0.0.0.0/0", 0, Via((Hop(A, 3),))),
    (Family.IPV4, "10.48.0.40/32", 1024, Via((Hop(A, 3, True),))),
    (Family.IPV4, "10.48.0.128/25", 7, Via((Hop(A, 3), Hop(B, 3), Hop(B, 4, True)))),
    (Family.IPV4, "10.48.0.128/26", 0, Via((Hop(None, 3),))),
    (Family.IPV4, "10.48.0.128/26", 0, Via((Hop(A6, 3),))),
    (Family.IPV4, "10.48.0.128/26", 0, Via((Hop(A6, 3), Hop(A, 3)))),
    (Family.IPV6, "fd48::/122", 1024, None),
    (Family.IPV6, "::/0", 1024, Via((Hop(A6, 3),))),
    (Family.IPV6, "fd48::40/128", 1, Via((Hop(None, 4),))),
    (Family.IPV6, "fd48::/64", 1024, Via((Hop(A6, 3), Hop(A6, 4)))),
]


@pytest.mark.parametrize(("family", "text", "metric", "via"), ROUTES)
def test_a_packed_route_reads_back(family: Family, text: str, metric: int, via: Via | None) -> None:
    _, prefix = parse_prefix(text)
    tail = rt.route_tail(family, metric, via)
    request = rt.pack_route(family, rt.NEWROUTE, rt.F_REQUEST | rt.F_CREATE, 77, prefix, tail)
    message = single(request)
    assert (message.type, message.flags, message.seq, message.end) == (24, 0x401, 77, len(request))
    hops = via.hops if via is not None else ()
    kind = rt.UNICAST if via is not None else rt.BLACKHOLE_TYPE
    body = rt.Body(metric, rt.PROTO_BIRD, kind, rt.TABLE_MAIN, 0, hops, 0, None, True)
    for data in (request, notified(request)):  # attributes in our order, and in the kernel's
        assert rt.RouteReader().read(data, single(data)) == (family, prefix, body)


def test_a_route_over_an_object_names_only_its_id() -> None:
    tail = rt.route_tail(Family.IPV4, 0, 99)
    data = notified(rt.pack_route(Family.IPV4, rt.NEWROUTE, 0, 1, parse_prefix("10.48.0.0/26")[1], tail))
    parsed = rt.RouteReader().read(data, single(data))
    assert parsed is not None
    assert (parsed[2].nexthop, parsed[2].hops) == (99, ())


@given(st.integers(0, 128), st.binary(min_size=16, max_size=16), st.integers(0, 2**32 - 1))
def test_every_ipv6_prefix_and_metric_survives(length: int, octets: bytes, metric: int) -> None:
    prefix = make_prefix(octets, length)
    data = notified(
        rt.pack_route(
            Family.IPV6, rt.NEWROUTE, 0, 1, prefix, rt.route_tail(Family.IPV6, metric, Via((Hop(A6, 9),)))
        )
    )
    parsed = rt.RouteReader().read(data, single(data))
    assert parsed is not None
    assert (parsed[1], parsed[2].metric) == (prefix, metric)


@given(st.binary(max_size=200), st.sampled_from([rt.NEWROUTE, rt.NEWLINK, rt.NEWADDR, rt.NEWNEXTHOP]))
def test_attributes_of_any_octets_crash_nothing(octets: bytes, kind: int) -> None:
    family = bytes((socket.AF_INET,))
    data = header(kind, family.ljust(16, b"\0") + octets)
    for message in rt.messages(data):
        try:
            rt.RouteReader().read(data, message)
            rt.read_nexthop(data, message)
        except (
            struct.error
        ):  # a number cut short: the kernel does not send it, and it must not pass as a value
            pass


def test_a_dump_is_read_until_its_end() -> None:
    via = Via((Hop(A, 3),))
    prefixes = [parse_prefix(f"10.48.{i}.0/24")[1] for i in range(5)]
    routes = [
        notified(rt.pack_route(Family.IPV4, rt.NEWROUTE, 2, 1, prefix, rt.route_tail(Family.IPV4, 0, via)))
        for prefix in prefixes
    ]
    other = notified(
        rt.pack_route(
            Family.IPV6, rt.NEWROUTE, 2, 1, parse_prefix("fd00::/64")[1], rt.route_tail(Family.IPV6, 1, None)
        )
    )
    done = header(rt.NLMSG_DONE, struct.pack("=i", 0), 2, 1)
    found: list[tuple[Prefix, rt.Body]] = []
    reader = rt.RouteReader()
    assert reader.read_all(b"".join((*routes[:3], other)), Family.IPV4, found) is None
    end = reader.read_all(b"".join((*routes[3:], done)), Family.IPV4, found)
    assert end is not None and end.type == rt.NLMSG_DONE
    assert [prefix for prefix, _ in found] == prefixes
    assert len({id(body) for _, body in found}) == 1, "one object for all of one forwarding"


def test_what_we_would_not_write_is_not_plain() -> None:
    base = bytes((socket.AF_INET, 0, 0, 0, 254, 12, 0, 1)) + bytes(4) + u32(rt.RTA_TABLE, 254)
    leg = struct.pack("=HBBi", 16, 0, 4, 3) + attribute(rt.RTA_GATEWAY, A)
    for extra in (
        attribute(rt.RTA_MULTIPATH, leg),
        attribute(rt.RTA_METRICS, u32(2, 1300)) + u32(rt.RTA_OIF, 3),
        attribute(rt.RTA_PREFSRC, B) + u32(rt.RTA_OIF, 3),
    ):
        data = header(rt.NEWROUTE, base + extra)
        parsed = rt.RouteReader().read(data, single(data))
        assert parsed is not None and not parsed[2].plain


def test_clones_and_other_families_are_no_routes() -> None:
    for family, flags in ((socket.AF_INET, rt.RTM_F_CLONED), (128, 0)):
        body = bytes((family, 0, 0, 0, 254, 12, 0, 1)) + struct.pack("=I", flags) + u32(rt.RTA_TABLE, 254)
        data = header(rt.NEWROUTE, body)
        assert rt.RouteReader().read(data, single(data)) is None


def test_a_large_table_number_is_not_table_main() -> None:
    body = bytes((socket.AF_INET, 0, 0, 0, 254, 12, 0, 1)) + bytes(4) + u32(rt.RTA_TABLE, 0x1FE)
    data = header(rt.NEWROUTE, body)
    parsed = rt.RouteReader().read(data, single(data))
    assert parsed is not None and parsed[2].table == 0x1FE


def test_refusals_have_the_kernels_words() -> None:
    words = attribute(1, b"Nexthop has invalid gateway\0")
    original = struct.pack("=IHHII", 60, 24, 5, 7, 0)
    body = struct.pack("=i", -errno.ENETUNREACH) + original + words
    data = header(rt.NLMSG_ERROR, body, 0x300, 7)
    refusal = rt.refusal(data, single(data))
    assert refusal is not None and refusal.errno == errno.ENETUNREACH
    assert str(refusal) == "Network is unreachable: Nexthop has invalid gateway"
    plain = header(rt.NLMSG_ERROR, struct.pack("=i", -errno.ESRCH) + original, 0x100, 7)
    assert str(rt.refusal(plain, single(plain))) == "No such process"
    uncapped = header(
        rt.NLMSG_ERROR, struct.pack("=i", -1) + original + bytes(44) + attribute(1, b"no\0"), 0x200, 7
    )
    assert str(rt.refusal(uncapped, single(uncapped))) == "Operation not permitted: no"
    fine = header(rt.NLMSG_ERROR, bytes(4) + original, 0x100, 7)
    assert rt.refusal(fine, single(fine)) is None


def test_nexthop_objects_read_back() -> None:
    for hop in (Hop(A, 3), Hop(A, 3, True), Hop(A6, 4)):
        data = rt.pack_nexthop(rt.F_CREATE, 5, 1000, Family.IPV4, hop)
        assert rt.read_nexthop(data, single(data)) == rt.NextHop(1000, 12, hop, (), False, True)
    data = rt.pack_nexthop(rt.F_CREATE, 5, 1001, Family.IPV4, (1000, 7))
    assert rt.read_nexthop(data, single(data)) == rt.NextHop(1001, 12, None, (1000, 7), False, True)
    weighted = bytearray(data)
    weighted[-4] = 2
    read = rt.read_nexthop(bytes(weighted), single(bytes(weighted)))
    assert read is not None and not read.plain
    hole = header(
        rt.NEWNEXTHOP, bytes((2, 0, 0, 0)) + bytes(4) + u32(rt.NHA_ID, 9) + attribute(rt.NHA_BLACKHOLE, b"")
    )
    assert rt.read_nexthop(hole, single(hole)) == rt.NextHop(9, 0, None, (), True, True)
    removal = rt.pack_nexthop_removal(6, 1000)
    assert single(removal).type == rt.DELNEXTHOP
    assert len(removal) == 32


@pytest.mark.parametrize(
    ("flags", "oper", "admin_up", "up"),
    [
        (0x11043, 6, True, True),  # up, running, lower up
        (0x11043, 0, True, True),  # a tunnel does not know its state
        (0x10003, 2, True, True),  # carrier is there, the state follows in a moment
        (0x1003, 7, True, False),  # no carrier
        (0x11043, 5, True, False),  # dormant
        (0x1002, 2, False, False),
    ],
)
def test_links(flags: int, oper: int, admin_up: bool, up: bool) -> None:
    body = struct.pack("=BBHiII", 0, 0, 1, 7, flags, 0) + attribute(3, b"ens5\0")
    data = header(rt.NEWLINK, body + attribute(16, bytes((oper,))))
    assert read_link(data, single(data)) == Link(7, "ens5", admin_up, up, False)
    port = header(rt.NEWLINK, b"\x07" + body[1:])
    assert read_link(port, single(port)) is None, "a bridge's view of its port"


def test_addresses() -> None:
    def read(*parts: bytes, length: int = 24, family: int = socket.AF_INET) -> InterfaceAddress | None:
        data = header(rt.NEWADDR, struct.pack("=BBBBi", family, length, 0, 0, 7) + b"".join(parts))
        return read_address(data, single(data))

    subnet = parse_prefix("10.0.1.0/24")[1]
    plain = read(attribute(1, A), attribute(2, A))
    assert plain == InterfaceAddress(7, Family.IPV4, A, subnet, True)
    without_route = read(attribute(2, A), u32(8, IFA_F_NOPREFIXROUTE))
    assert without_route is not None and not without_route.prefix_route
    peer = read(attribute(1, B), attribute(2, A), length=32)
    assert peer is not None and (peer.address, peer.subnet) == (A, Prefix(b"\x20" + B))
    six = read(attribute(1, A6), length=64, family=socket.AF_INET6)
    assert six == InterfaceAddress(7, Family.IPV6, Address(A6), parse_prefix("fd00:1::/64")[1], True)
    assert read(family=socket.AF_INET) is None


def test_routes_in_words() -> None:
    body = rt.Body(0, 4, rt.UNICAST, 254, 0, (Hop(A, 3),), 0, None, True)
    assert rt.route_words(body, body.hops, {3: "ens5"}) == "proto static via 10.0.1.20 dev ens5"
    assert rt.route_words(body._replace(type=7, protocol=80), (), {}) == "unreachable proto 80"
    both = rt.route_words(body, (Hop(None, 3), Hop(B, 4)), {3: "ens5"})
    assert both == "proto static dev ens5 via 10.0.1.30 dev 4"
