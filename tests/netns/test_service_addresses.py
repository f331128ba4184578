"""Addresses of services as a ToR hears them (calico.md §5): they follow the endpoints, and no kernel has any.

Two nodes of one mesh, each peering with the ToR (BIRD, external). The files of Services and EndpointSlices are edited
as a controller would. One cluster IP is outside of all ranges: it is announced all the same, and written nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from testing.daemons import Bird
from testing.namespaces import Net, wait_until
from testing.resources import bgp_configuration, bgp_peer, node
from tests.netns.cluster import BASE, IPV4, IPV6, Cluster

TOR, NODES = "10.0.1.1", ("worker1", "worker2")
CLUSTER_IP, OUTSIDE, BALANCED, SINGLE = "10.96.4.2/32", "172.30.0.1/32", "203.0.113.7/32", "198.51.100.7/32"
RANGES = {
    "serviceClusterIPs": [{"cidr": "10.96.0.0/12"}],
    "serviceExternalIPs": [{"cidr": SINGLE}],
    "serviceLoadBalancerIPs": [{"cidr": "203.0.113.0/24"}],
}
WHOLE, OF_WEB = {"10.96.0.0/12", "203.0.113.0/24"}, {CLUSTER_IP, OUTSIDE, BALANCED}
EXCLUDED = {"node.kubernetes.io/exclude-from-external-load-balancers": "true"}


def web(policy: str = "Local", external: tuple[str, ...] = ()) -> dict[str, Any]:
    addresses = [text.split("/")[0] for text in (CLUSTER_IP, OUTSIDE)]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {
            "type": "LoadBalancer",
            "clusterIPs": addresses,
            "externalTrafficPolicy": policy,
            "externalIPs": [text.split("/")[0] for text in external],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": BALANCED.split("/")[0]}]}},
    }


def endpoints(*found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "web-x7k2p",
            "namespace": "shop",
            "labels": {"kubernetes.io/service-name": "web"},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.48.0.5"], **each} for each in found],
    }


def on(name: str, ready: bool | None = True) -> dict[str, Any]:
    return {"nodeName": name, "conditions": {"ready": ready}}


class World:
    """The cluster and its ToR."""

    def __init__(self, net: Net) -> None:
        self.net, self.cluster = net, Cluster(net, *NODES)
        space = net.namespace("tor")
        net.join(self.cluster.switch, space, "port9", [f"{TOR}/24"])
        protocols = " ".join(
            f"protocol bgp {name} {{ local {TOR} as 65001; neighbor {IPV4[name]} as 64512; connect delay time 1;"
            " connect retry time 1; ipv4 { import all; export none; }; }"
            for name in NODES
        )
        self.tor = Bird(space, f"protocol device {{}} {protocols}", TOR)
        self.cluster.write("peers", bgp_peer("tor", TOR, 65001))

    def write(self, excluded: str = "", only: str = "", **spec: Any) -> None:
        """The resources of the cluster, as all nodes see them, or one."""
        nodes = [
            node(each, f"{IPV4[each]}/24", f"{IPV6[each]}/64", labels=EXCLUDED if each == excluded else {})
            for each in NODES
        ]
        pools = [item for item in BASE if item["kind"] == "IPPool"]
        settings = bgp_configuration(**{**RANGES, "programClusterRoutes": "Enabled", **spec})
        for name, bgpd in self.cluster.bgpds.items():
            if name == (only or name):
                bgpd.write("cluster", settings, *nodes, *pools)

    def start(self) -> None:
        self.tor.start()
        self.cluster.start()
        for bgpd in self.cluster.bgpds.values():
            bgpd.wait_established()

    def heard(self, name: str) -> set[str]:
        """What the ToR hears of services from a node."""
        services = ("10.96.", "172.30.", "203.0.", "198.51.")
        return {prefix for prefix in self.tor.heard(name) if prefix.startswith(services)}

    def soon(self, worker1: set[str], worker2: set[str], what: str) -> None:
        """Until the ToR hears just this from the two nodes; nobody has written any of it."""
        wait_until(
            lambda: (self.heard("worker1"), self.heard("worker2")) == (worker1, worker2),
            5,
            what,
            report=lambda: f"{[self.heard(name) for name in NODES]}\n{self.net.report()}",
        )
        for name in NODES:
            assert self.cluster.routes(name) == self.cluster.expected(name)

    def why(self, name: str, target: str) -> str:
        done = self.cluster.bgpds[name].bgpctl("why", target)
        assert done.returncode == 0, done.stderr
        return done.stdout


def test_addresses_follow_their_endpoints(net: Net) -> None:
    world = World(net)
    cluster = world.cluster
    world.write()
    cluster.write("services", web())
    cluster.write("endpoints", endpoints(on("worker2")))
    world.start()
    world.soon(WHOLE, WHOLE | OF_WEB, "worker2 has the endpoint")
    monitors = [namespace.monitor() for namespace in cluster.nodes.values()]
    since = {name: {p["id"]: p["since"] for p in b.peers().values()} for name, b in cluster.bgpds.items()}
    assert "externalTrafficPolicy Local, and a ready endpoint is here" in world.why("worker2", BALANCED)
    text = world.why("worker1", OUTSIDE)
    assert "no endpoint is here" in text and "learned from Mesh_10_0_1_31" in text
    assert "not advertised to Global_10_0_1_1: it is another node's address of a service" in world.why(
        "worker1", BALANCED
    )
    assert "clusterIP of Service shop/web: services are the kernel's own" in text

    cluster.write("endpoints", endpoints(on("worker1"), on("worker2", False)))
    world.soon(WHOLE | OF_WEB, WHOLE, "the endpoint moves to worker1")
    cluster.write("endpoints", endpoints(on("worker1"), on("worker2", None)))
    world.soon(WHOLE | OF_WEB, WHOLE | OF_WEB, "both have one")
    cluster.write("endpoints", endpoints(on("worker1", False), on("worker2")))
    world.soon(WHOLE, WHOLE | OF_WEB, "that of worker1 is not ready any more")
    for bgpd in cluster.bgpds.values():
        bgpd.remove("endpoints")
    world.soon(WHOLE, WHOLE, "the last slice is deleted")

    cluster.write("services", web("Cluster", (SINGLE,)))
    world.soon(WHOLE | OF_WEB | {SINGLE}, WHOLE | OF_WEB | {SINGLE}, "an entry for itself")
    world.write(excluded="worker1")
    world.soon(set(), WHOLE | OF_WEB | {SINGLE}, "worker1 is excluded")
    cluster.write("services", web("Cluster"))
    cluster.write("endpoints", endpoints(on("worker1")))
    world.soon(set(), WHOLE, "the ranges alone")
    world.write(serviceLoadBalancerAggregation="Disabled")
    one_by_one = (WHOLE | OF_WEB) - {"203.0.113.0/24"}
    world.soon(one_by_one, one_by_one, "one by one, by every node")
    # Worker1 hears first of what is gone: what worker2 announces until it hears too is no route either.
    ranges_left = WHOLE - {"203.0.113.0/24"}
    cluster.bgpds["worker1"].remove("services")
    world.soon(ranges_left, one_by_one, "worker1 has heard that the service is deleted")
    cluster.bgpds["worker2"].remove("services")
    world.soon(ranges_left, ranges_left, "the service is deleted")
    none: dict[str, Any] = {key: [] for key in RANGES}
    world.write(only="worker1", **none)
    world.soon(set(), ranges_left, "worker1 has heard that there are no ranges")
    assert "inside serviceClusterIPs: services are the kernel's own, until a moment ago" in world.why(
        "worker1", "10.96.0.0/12"
    )
    world.write(**none)
    world.soon(set(), set(), "there are no ranges")
    for monitor in monitors:
        assert monitor.stop() == [], "no route of any kernel was touched"
    for name, bgpd in cluster.bgpds.items():
        assert {p["id"]: p["since"] for p in bgpd.peers().values()} == since[name], "nor any session"
