"""Peers that are no neighbours on the LAN: behind a gateway that must be named, in a pod of this node; and those that
know this node by another AS number."""

from __future__ import annotations

import json
from pathlib import Path

from testing.daemons import Bird
from testing.namespaces import Net, wait_until
from testing.resources import bgp_configuration, bgp_filter, bgp_peer, node, pool, resource
from tests.interop.far import FarBird, FarFrr
from tests.interop.suite import ASN, BLOCKS, BORROWED, OWN, Ground, hops
from tests.netns.cluster import pod

TIMERS = "connect delay time 1; connect retry time 1; error wait time 1, 2;"
CHANNEL = "ipv4 { import all; export where source = RTS_STATIC; next hop self; };"
POD, PEERING, POD_ASN = "10.48.0.9", "169.254.254.179", 65100


def static(*prefixes: str) -> str:
    routes = " ".join(f"route {prefix} blackhole;" for prefix in prefixes)
    return f"protocol device {{}} protocol direct {{ ipv4; }} protocol static {{ ipv4; {routes} }}"


def test_behind_a_gateway(net: Net) -> None:
    """``reachableBy``: the host route to the peer is this node's own, also where the peer announces the subnet that it
    is in; what the peer announces leads over it; it goes with the peer."""
    ground = Ground(net, [])
    router, space = net.namespace("router"), net.namespace("bird")
    net.join(ground.switch, router, "port8", ["10.9.0.254/24"])
    net.link(router, "far", space, "ens5")
    router.address("far", "10.9.9.1/24")
    space.address("ens5", "10.9.9.2/24")
    space.ip("route", "add", "10.9.0.0/24", "via", "10.9.9.1")
    bird = Bird(
        space,
        static("192.168.7.0/24") + f" protocol static ways {{ ipv4; route 10.9.0.0/24 via 10.9.9.1; }}"
        f" protocol bgp node {{ local 10.9.9.2 as 65001; neighbor 10.9.0.1 as {ASN}; multihop; {TIMERS}"
        ' ipv4 { import all; export where proto = "static1" || net = 10.9.9.0/24; next hop self; }; }',
        "10.9.9.2",
    ).start()
    ground.bgpd.write("peers", bgp_peer("far", "10.9.9.2", 65001, reachableBy="10.9.0.254"))
    ground.bgpd.start()
    ground.bgpd.wait_established("Global_10_9_9_2")
    ground.wait_kernel("10.9.9.2/32", "192.168.7.0/24", "10.9.9.0/24")
    kernel = ground.kernel()
    for prefix in ("10.9.9.2", "192.168.7.0/24", "10.9.9.0/24"):
        assert hops(kernel[prefix]) == {"10.9.0.254"}, prefix
    assert ground.bgpd.established()
    wait_until(lambda: {BLOCKS["ipv4"], BORROWED["ipv4"]} == bird.heard("node").keys(), report=net.report)
    assert "BGPPeer far reachableBy" in ground.bgpd.bgpctl("why", "10.9.9.2/32").stdout
    ground.bgpd.remove("peers")
    ground.wait_kernel(without=["10.9.9.2/32", "192.168.7.0/24", "10.9.9.0/24"])


def test_in_a_pod(net: Net) -> None:
    """Felix's file reports a pod that speaks BGP: it dials, its routes lead to it and are passed on, filters hold;
    the file goes, and with it the session."""
    frr = FarFrr(net, 3, asn=65003, node_asn=ASN)
    status: Path = net.directory / "endpoint-status"
    ground = Ground(net, [frr])
    ground.bgpd.configure(datastore={"path": str(ground.bgpd.resources), "endpoint_status": str(status)})
    ground.node.ip("route", "add", "default", "via", "10.9.0.254", "dev", "ens5")
    made = pod(ground.node, POD)
    device = ground.node.routes(proto="boot")[POD]["dev"]
    ground.node.address(device, f"{PEERING}/32")
    made.address("lo", "10.48.7.1/32")
    bird = Bird(
        made,
        static("10.48.7.0/26", "192.168.77.0/24", "172.16.0.0/24")
        + f' protocol static ways {{ ipv4; route 169.254.1.1/32 via "eth0"; route 0.0.0.0/0 via 169.254.1.1; }}'
        f" protocol bgp node {{ local {POD} as {POD_ASN}; neighbor {PEERING} as {ASN}; multihop; {TIMERS}"
        ' ipv4 { import all; export where proto = "static1"; next hop self; }; }',
        POD,
    ).start()
    ground.bgpd.write(
        "cluster",
        bgp_configuration(ASN, localWorkloadPeeringIPV4=PEERING),
        node("worker1", "10.9.0.1/24", "fd09::1/64"),
        pool("ipv4", "10.48.0.0/16"),
        pool("ipv6", "fd48::/48"),
    )
    spec = {"localWorkloadSelector": "color == 'red'", "asNumber": POD_ASN, "filters": ["of-pods"]}
    refused = {"cidr": "172.16.0.0/12", "matchOperator": "In", "action": "Reject"}
    ground.bgpd.write("pods", resource("BGPPeer", "pods", spec), bgp_filter("of-pods", importV4=[refused]))
    ground.start()
    assert "Local_Workload_10_48_0_9" not in ground.bgpd.peers()

    status.mkdir()
    file = status / "default-pod-eth0"
    words = {"ifaceName": device, "mac": "", "ipv4Nets": [f"{POD}/32"], "ipv6Nets": [], "bgpPeerName": "pods"}
    fresh = status / ".new"
    fresh.write_text(json.dumps(words))
    fresh.rename(file)
    ground.bgpd.wait_established("Local_Workload_10_48_0_9")
    peer = ground.bgpd.peers()["Local_Workload_10_48_0_9"]
    assert peer["passive"] and peer["local_address"] == PEERING
    ground.wait_kernel("10.48.7.0/26", "192.168.77.0/24", without=["172.16.0.0/24"])
    route = ground.kernel()["192.168.77.0/24"]
    assert (route["gateway"], route["dev"]) == (POD, device)
    ground.wait_heard(frr, OWN | {"10.48.7.0/26"})
    assert frr.heard()["10.48.7.0/26"].as_path == f"{ASN} {POD_ASN}"
    frr.namespace.run("ping", "-c1", "-W5", "10.48.7.1")
    wait_until(
        lambda: BLOCKS["ipv4"] in bird.heard("node"), what="the pod is sent our blocks", report=net.report
    )
    assert bird.heard("node")[BLOCKS["ipv4"]].next_hop == PEERING

    file.unlink()
    ground.wait_kernel(without=["10.48.7.0/26", "192.168.77.0/24"])
    ground.wait_heard(frr, OWN)
    assert "Local_Workload_10_48_0_9" not in ground.bgpd.peers()


def test_another_as(net: Net) -> None:
    """``localASNumber``: on the path of what FRR is sent there is that one alone; and a peer in that AS is internal."""
    frr = FarFrr(net, 3, asn=65003, node_asn=64999, announced=["10.48.3.0/26"])
    bird = FarBird(net, 2, asn=64777, node_asn=64777, announced=["192.168.7.0/24"])
    ground = Ground(net, [frr, bird])
    asns = {frr: 64999, bird: 64777}
    ground.bgpd.write(
        "peers",
        *(
            bgp_peer(f"{far.kind}-{family}", far.address(family), far.asn, localASNumber=asn)
            for far, asn in asns.items()
            for family in ("ipv4", "ipv6")
        ),
    )
    ground.start()
    ground.wait_kernel("10.48.3.0/26", "192.168.7.0/24")
    heard = ground.wait_heard(frr, OWN)
    assert {route.as_path for route in heard.values()} == {"64999"}
    inside = ground.wait_heard(bird, OWN | {"10.48.3.0/26"})
    assert {(route.as_path, route.local_pref) for prefix, route in inside.items() if prefix in OWN} == {
        ("", 100)
    }
    assert inside["10.48.3.0/26"].as_path == "65003"
    assert {peer["local_asn"] for peer in ground.bgpd.peers().values()} == {64999, 64777}
    assert ground.bgpd.status()["asn"] == ASN
