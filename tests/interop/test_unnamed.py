"""With BIRD: neighbours that nobody named, from a listen range; and those that have a link-local address only."""

from __future__ import annotations

from testing.daemons import Bird
from testing.namespaces import Net, wait_until
from testing.resources import bgp_peer
from tests.interop.suite import ASN, BLOCKS, BORROWED, Ground, hops

CHANNEL = "{ import all; export where source = RTS_STATIC; next hop self; %s }"
STATICS = """
protocol device {}
protocol direct { ipv4; ipv6; }
protocol static s4 { ipv4; route 192.168.7.0/24 blackhole; }
protocol static s6 { ipv6; route fd07::/64 blackhole; }
"""


def ranges(*each: dict[str, object]) -> dict[str, object]:
    return {"bgp": {"listen_ranges": list(each)}}


def test_a_range(net: Net) -> None:
    """It dials from inside the range, with one of the AS numbers; the range goes, and the session with its routes."""
    ground = Ground(net, [], config=ranges({"prefix": "10.9.0.0/24", "asns": [65001, ASN]}))
    for number, asn in ((2, 65001), (3, ASN), (4, 65009)):
        namespace = net.namespace(f"bird{number}")
        net.join(ground.switch, namespace, f"port{number}", [f"10.9.0.{number}/24"])
        Bird(
            namespace,
            f"{STATICS} protocol bgp node {{ local 10.9.0.{number} as {asn}; neighbor 10.9.0.1 as {ASN};"
            f" connect delay time 1; connect retry time 1; error wait time 1, 1; ipv4 {CHANNEL % ''}; }}",
            f"10.9.0.{number}",
        ).start()
    ground.bgpd.start()
    names = ("Dynamic_10_9_0_2", "Dynamic_10_9_0_3")
    ground.bgpd.wait(lambda: set(names) <= ground.bgpd.peers().keys(), "they came")
    ground.bgpd.wait_established(*names)
    peers = ground.bgpd.peers()
    assert [peers[name]["asn"] for name in names] == [65001, ASN]
    ground.wait_kernel("192.168.7.0/24")
    ground.bgpd.wait(
        lambda: "65009 is not among those" in ground.bgpd.peers()["Dynamic_10_9_0_4"]["last_error"],
        "the AS of another is refused",
    )
    ground.bgpd.configure(bgp={})
    ground.bgpd.bgpctl("reload")
    ground.wait_kernel(without=["192.168.7.0/24"])
    assert not ground.bgpd.peers()


def test_link_local_neighbours_with_ipv6_next_hops(net: Net) -> None:
    """One session over link-local addresses carries both families; the kernel's routes go through them."""
    options = {"families": ["ipv4", "ipv6"], "extended_next_hop": True}
    ground = Ground(net, [], config={"bgp": {"defaults": options}})
    ground.node.address("ens5", "fe80::1/64")
    namespace = net.namespace("bird")
    net.join(ground.switch, namespace, "port2", ["fd09::2/64", "fe80::2/64"])
    bird = Bird(
        namespace,
        f"{STATICS} protocol bgp node {{ local fe80::2 as 65001; neighbor fe80::1%ens5 as {ASN};"
        " connect delay time 1; connect retry time 1; error wait time 1, 1;"
        f" ipv4 {CHANNEL % 'extended next hop on; add paths on;'};"
        f" ipv6 {CHANNEL % 'add paths on;'}; }}",
        "10.9.0.2",
    ).start()
    ground.bgpd.write("peers", bgp_peer("near", "fe80::2%ens5", 65001))
    ground.bgpd.start()
    ground.bgpd.wait_established()
    wanted = {*BLOCKS.values(), *BORROWED.values()}
    heard = wait_until(
        lambda: found if (found := bird.heard("node")).keys() == wanted else None,
        what="all our routes",
        report=net.report,
    )
    assert {route.next_hop for route in heard.values()} == {"fd09::1"}
    ground.wait_kernel("192.168.7.0/24", "fd07::/64")
    kernel = ground.kernel()
    for prefix in ("192.168.7.0/24", "fd07::/64"):
        assert hops(kernel[prefix]) <= {"fd09::2", "fe80::2"} and kernel[prefix]["dev"] == "ens5"
