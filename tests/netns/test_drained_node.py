"""A node is drained under traffic: two racks' switches (BIRD, external), a service on two nodes, a pod on one.

A client behind both switches sends 1,000 packets a second to the service and to a pod of the drained node. The service
moves to the other node; the pod, which has no other way, is reached all along.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testing.daemons import Bird
from testing.namespaces import Namespace, Net, wait_until
from testing.resources import bgp_configuration, bgp_peer
from tests.netns.cluster import BASE, BLOCK, IPV4, IPV6, Cluster, Ping
from tests.netns.test_service_addresses import CLUSTER_IP, endpoints, on, web

TORS = {"tor1": "10.0.1.1", "tor2": "10.0.1.2"}
NODES = ("worker1", "worker2")
SERVICE, POD, OWN = CLUSTER_IP.split("/")[0], "10.48.0.200", BLOCK["worker1"]


class Fabric:
    """The cluster, the switches and the client."""

    def __init__(self, net: Net) -> None:
        self.net, self.cluster = net, Cluster(net, *NODES)
        self.client = net.namespace("client")
        self.tors: dict[str, Bird] = {}
        for number, (name, address) in enumerate(TORS.items(), 1):
            space = net.namespace(name)
            net.join(self.cluster.switch, space, f"port9{number}", [f"{address}/24"])
            net.link(space, "client0", self.client, f"eth{number}")
            space.address("client0", f"192.0.2.{number * 4 + 1}/30")
            self.client.address(f"eth{number}", f"192.0.2.{number * 4 + 2}/30")
            self.tors[name] = self._tor(space, number, address)
        hops = [word for n in (1, 2) for word in ("nexthop", "via", f"192.0.2.{n * 4 + 1}")]
        self.client.ip("address", "add", "198.51.100.9/32", "dev", "lo")
        self.client.ip("route", "add", "10.0.0.0/8", "src", "198.51.100.9", *hops)
        self.client.run("sysctl", "-qw", "net.ipv4.fib_multipath_hash_policy=0")
        for name in NODES:
            # What kube-proxy does: the service is answered here, wherever its pods are.
            self.cluster.nodes[name].ip("address", "add", CLUSTER_IP, "dev", "lo")
        self.cluster.write("peers", *(bgp_peer(name, address, 65001) for name, address in TORS.items()))
        self.write()

    def _tor(self, space: Namespace, number: int, address: str) -> Bird:
        sessions = " ".join(
            f"protocol bgp {name} {{ local {address} as 65001; neighbor {IPV4[name]} as 64512;"
            " connect delay time 1; connect retry time 1; graceful restart on;"
            " ipv4 { import filter { if (65535, 0) ~ bgp_community then bgp_local_pref = 0; accept; };"
            " export where source = RTS_STATIC; }; }"
            for name in NODES
        )
        client = f"route 198.51.100.9/32 via 192.0.2.{number * 4 + 2};"
        return Bird(
            space,
            "protocol device {} protocol kernel { ipv4 { export all; }; merge paths on; }"
            f" protocol static {{ ipv4; {client} }} {sessions}",
            address,
        )

    def write(self, cordoned: str = "") -> None:
        nodes = []
        for name in NODES:
            nodes.append(
                {
                    "apiVersion": "v1",
                    "kind": "Node",
                    "metadata": {
                        "name": name,
                        "annotations": {
                            "projectcalico.org/IPv4Address": f"{IPV4[name]}/24",
                            "projectcalico.org/IPv6Address": f"{IPV6[name]}/64",
                        },
                    },
                    "spec": {"unschedulable": True} if name == cordoned else {},
                }
            )
        pools = [item for item in BASE if item["kind"] == "IPPool"]
        self.cluster.write(
            "cluster", bgp_configuration(serviceClusterIPs=[{"cidr": "10.96.0.0/12"}]), *nodes, *pools
        )
        self.cluster.write("services", web("Local"), endpoints(on("worker1"), on("worker2")))

    def start(self) -> None:
        for tor in self.tors.values():
            tor.start()
        for bgpd in self.cluster.bgpds.values():
            bgpd.start(wait=False)
        for bgpd in self.cluster.bgpds.values():
            bgpd.wait_in_sync()
        self.soon(NODES, last_resort=False)

    def ways(self, tor: Bird) -> set[str]:
        """The nodes over which a switch reaches the service."""
        route = tor.namespace.routes(4, None).get(SERVICE, {})
        gateways = {leg.get("gateway") for leg in route.get("nexthops", [route])}
        return {name for name in NODES if IPV4[name] in gateways}

    def soon(
        self, nodes: Iterator[str] | tuple[str, ...], *, last_resort: bool, timeout: float = 10.0
    ) -> None:
        """Until both switches reach the service over these nodes alone, and have worker1's block as such."""

        def there() -> bool:
            for tor in self.tors.values():
                assert self.ways(tor) == set(nodes), self.ways(tor)
                said = tor.birdc(f"show route all {OWN}")
                assert ("(65535,0)" in said) is last_resort and IPV4["worker1"] in said, said
            return True

        wait_until(there, timeout, f"service over {nodes}", report=self.net.report)


@pytest.fixture
def fabric(net: Net) -> Fabric:
    made = Fabric(net)
    made.start()
    return made


def test_a_node_is_drained_and_comes_back_and_no_packet_is_lost(fabric: Fabric) -> None:
    cluster, bgpd = fabric.cluster, fabric.cluster.bgpds["worker1"]
    cluster.pod("worker1", POD)
    pings = [Ping(fabric.client, SERVICE, 0.001), Ping(fabric.client, POD, 0.001)]
    done = bgpd.bgpctl("drain", "--wait", "1s")
    assert done.returncode == 0, done.stderr
    assert "services are withdrawn" in done.stdout
    fabric.soon(("worker2",), last_resort=True, timeout=1.0)
    status = bgpd.status()
    assert status["drain"] == 2 and "bgpd_draining 2.0" in bgpd.scrape()

    bgpd.restart().wait_in_sync()
    fabric.soon(("worker2",), last_resort=True)
    assert bgpd.status()["drain"] == 2, "it is kept over restarts"

    assert bgpd.bgpctl("undrain").returncode == 0
    fabric.soon(NODES, last_resort=False)
    for ping in pings:
        sent, lost = ping.lost()
        assert sent > 1000 and lost == 0, (sent, lost)

    # In the end all goes, also what has no other way; the kernel keeps its routes.
    assert bgpd.bgpctl("drain", "--withdraw").returncode == 0
    for tor in fabric.tors.values():
        wait_until(
            lambda tor=tor: "worker1" not in fabric.ways(tor) and not tor.heard("worker1"),
            what="all withdrawn",
        )
    assert f"blackhole {OWN} proto bird" in cluster.routes("worker1")


def test_a_cordon_is_followed(net: Net) -> None:
    fabric = Fabric(net)
    for bgpd in fabric.cluster.bgpds.values():
        bgpd.configure(drain={"on_cordon": "all"})
    fabric.start()
    fabric.write(cordoned="worker1")
    fabric.soon(("worker2",), last_resort=True)
    fabric.write()
    fabric.soon(NODES, last_resort=False)
