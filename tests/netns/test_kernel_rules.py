"""Which routes are written, and how (calico.md §2.9): pools over IPIP, VXLAN and neither, WireGuard, services.

Three nodes of which worker2 is looked at, and a ToR (BIRD, external) that peers with it. Every pool has a block on each
node. This kernel has no IPIP, and a veth is called ``tunl0``: what leads through it is written the same. By the Node's
address worker1 is in worker2's subnet, control is not. Every story begins with the same resources and writes others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from bgpd.rules.policy import FORMER_SECONDS
from testing.daemons import Bird
from testing.namespaces import Net, wait_until
from testing.resources import affinity, bgp_configuration, bgp_peer, node, pool
from tests.netns.cluster import BLOCK, BLOCK6, IPV4, IPV6, Cluster

HERE, NEAR, FAR, TOR = "worker2", "worker1", "control", "10.0.1.1"
POOLS: dict[str, tuple[int, dict[str, str]]] = {
    "plain": (48, {}),
    "always": (50, {"ipipMode": "Always"}),
    "cross": (51, {"ipipMode": "CrossSubnet"}),
    "vxlan": (52, {"vxlanMode": "Always"}),
    "vxlan-cross": (53, {"vxlanMode": "CrossSubnet"}),
}
"""Name -> the second octet of its CIDR, and its modes."""
OUTSIDE, OF_SERVICES = "172.16.0.0/24", ("10.96.1.0/24", "192.0.2.128/25")
"""What the ToR announces: the latter are inside ranges of services, where these are set."""
SOON = 2.0


def block(of: str, owner: str) -> str:
    return BLOCK[owner].replace("10.48.", f"10.{POOLS[of][0]}.")


class World:
    """The cluster, the ToR, and what the resources of worker2 are."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.cluster = Cluster(net)
        self.space, self.bgpd = self.cluster.nodes[HERE], self.cluster.bgpds[HERE]
        tor = net.namespace("tor")
        net.join(self.cluster.switch, tor, "port9", [f"{TOR}/24"])
        statics = " ".join(f"route {prefix} blackhole;" for prefix in (OUTSIDE, *OF_SERVICES))
        self.tor = Bird(
            tor,
            f"protocol device {{}} protocol direct {{ ipv4; }} protocol static {{ ipv4; {statics} }}"
            f" protocol bgp node {{ local {TOR} as 65001; neighbor {IPV4[HERE]} as 64512; connect delay time 1;"
            " connect retry time 1; ipv4 { import all; export where source = RTS_STATIC; next hop self; }; }",
            TOR,
        )
        self.cluster.write("blocks", *(affinity(name, cidr) for name, cidr in self.blocks()))
        for name in (NEAR, FAR):
            self.write(name=name)

    @staticmethod
    def blocks() -> list[tuple[str, str]]:
        four = [(owner, block(of, owner)) for of in POOLS for owner in BLOCK]
        return four + list(BLOCK6.items())

    def write(
        self,
        mode: str | None = "Enabled",
        *,
        name: str = HERE,
        encrypted: tuple[str, ...] = (),
        excluded: bool = False,
        **spec: Any,
    ) -> None:
        """The resources as a node sees them: ``programClusterRoutes``, nodes with WireGuard, and more."""
        labels = {"node.kubernetes.io/exclude-from-external-load-balancers": "true"} if excluded else {}
        nodes = []
        for each in IPV4:
            length = 24 if each == FAR else 31
            made = node(
                each, f"{IPV4[each]}/{length}", f"{IPV6[each]}/64", labels=labels if each == HERE else {}
            )
            if each in encrypted:
                made["status"] = {"wireguardPublicKey": "jlkVyQYooZYzI2wFfNhSZez5eWh44yfq1wKVjLvSXgY="}
            nodes.append(made)
        more = {"programClusterRoutes": mode, **spec} if mode else spec
        self.cluster.bgpds[name].write(
            "cluster",
            bgp_configuration(**more),
            *nodes,
            pool("ipv6", "fd48::/120"),
            *(pool(of, f"10.{octet}.0.0/24", **modes) for of, (octet, modes) in POOLS.items()),
        )
        self.cluster.bgpds[name].write("peers", bgp_peer("tor", TOR, 65001, node=HERE))

    def tunnel(self) -> None:
        """The stand-in comes, up."""
        self.space.ip("link", "add", "tunl0", "type", "veth", "peer", "name", "tunl0-end")
        self.space.up("tunl0-end")
        self.space.up("tunl0")

    def start(self) -> None:
        self.tunnel()
        self.write()
        self.tor.start()
        for bgpd in self.cluster.bgpds.values():
            bgpd.start(wait=False)
        for bgpd in self.cluster.bgpds.values():
            bgpd.wait_in_sync()
        self.bgpd.wait_established()

    @staticmethod
    def expected(
        *,
        ours: str = "plain always cross",
        tunnel: bool = True,
        without: str = "",
        from_tor: tuple[str, ...] = (OUTSIDE, *OF_SERVICES),
    ) -> list[str]:
        """worker2's routes: those of the pools that are ours to write; those through the tunnel, while it is there; not
        those of one node."""
        found = []
        if "plain" in ours.split():
            found.append(f"blackhole {BLOCK6[HERE]} dev lo proto bird metric 1024 pref medium")
            for name in (NEAR, FAR):
                found.append(f"{BLOCK6[name]} via {IPV6[name]} dev ens5 proto bird metric 1024 pref medium")
        found += [f"{prefix} via {TOR} dev ens5 proto bird" for prefix in from_tor]
        for of in ours.split():
            found.append(f"blackhole {block(of, HERE)} proto bird")
            for name in (NEAR, FAR):
                if name != without:
                    if of == "always" or (of == "cross" and name == FAR):
                        onlink = f"{block(of, name)} via {IPV4[name]} dev tunl0 proto bird onlink"
                        found += [onlink] if tunnel else []
                    else:
                        found.append(f"{block(of, name)} via {IPV4[name]} dev ens5 proto bird")
        return found

    def soon(self, predicate: Callable[[], object], what: str) -> None:
        wait_until(predicate, SOON, what, report=self.net.report)

    def routes(self, timeout: float = SOON, **which: Any) -> None:
        """Until worker2 has exactly the expected routes."""
        self.cluster.wait_routes(HERE, self.expected(**which), timeout)

    def advertised(self, prefix: str) -> set[str]:
        """The peers to which worker2 advertised a prefix."""
        return {row["peer"] for row in self.bgpd.ctl("routes", table="out", prefix=prefix)["routes"]}

    def why(self, target: str) -> str:
        done = self.bgpd.bgpctl("why", target)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def sessions(self) -> dict[str, object]:
        return {name: peer["since"] for name, peer in self.bgpd.peers().items()}

    def felix(self) -> None:
        """Felix's routes to all blocks of others, beside ours and behind them: what becomes its own to write is left to
        it at once."""
        for of in POOLS:
            for name in (NEAR, FAR):
                route = (block(of, name), "via", IPV4[name], "dev", "ens5", "proto", "80", "metric", "4096")
                self.space.ip("route", "add", *route)
        for name in (NEAR, FAR):
            route = (BLOCK6[name], "via", IPV6[name], "dev", "ens5", "proto", "80", "metric", "4096")
            self.space.ip("-6", "route", "add", *route)

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """What every story begins with. No rule of the kernel is a session's business."""
        self.write()
        self.routes()
        sessions = self.sessions()
        yield
        assert self.sessions() == sessions


def through_the_tunnel(world: World) -> None:
    """Without ``tunl0``, or while it is down, nothing of a pool over IPIP is written that should go through it; once it
    is there, all is. The other routes do not move."""
    monitor = world.space.monitor()
    world.space.ip("link", "delete", "tunl0")
    world.routes(tunnel=False)
    text = world.why(block("always", NEAR))
    assert "the tunnel device is not there, or down" in text and "IPPool always has ipipMode Always" in text
    assert "inside the node's own subnet" in world.why(block("cross", NEAR))
    world.tunnel()
    world.routes()
    assert "written through tunl0: IPPool cross has ipipMode CrossSubnet" in world.why(block("cross", FAR))
    world.space.down("tunl0")
    world.routes(tunnel=False)
    world.space.up("tunl0")
    world.routes()
    gone = [line for line in monitor.stop() if "proto bird" in line and "tunl0" not in line]
    assert not gone, gone


def who_writes_what(world: World) -> None:
    """The four values of ``programClusterRoutes``, blackholes as the rest; VXLAN is always left to Felix."""
    address = block("always", NEAR).replace(".192/26", ".200")
    world.space.ip("address", "add", f"{address}/32", "dev", "tunl0")
    all_peers = {"Mesh_10_0_1_20", "Mesh_10_0_1_30", "Node_10_0_1_1"}
    world.soon(
        lambda: world.advertised(f"{address}/32") == all_peers, "tunl0's borrowed address is advertised"
    )
    assert "IPPool vxlan has vxlanMode Always: Felix writes its routes" in world.why(block("vxlan", NEAR))
    monitor = world.space.monitor()

    world.write("EnabledNoEncapOnly")
    world.routes(ours="plain")
    text = world.why(block("always", FAR))
    assert "programClusterRoutes is EnabledNoEncapOnly: Felix writes its routes" in text
    # Felix brings tunnel addresses to the nodes of the cluster then; who is outside must still be sent them.
    world.soon(
        lambda: world.advertised(f"{address}/32") == {"Node_10_0_1_1"},
        "it is advertised to external peers only",
    )
    world.write(None)
    world.routes(ours="plain")
    gone = [line for line in monitor.stop() if "10.48.0." in line or "172.16" in line]
    assert not gone, gone

    world.write("EnabledIPIPOnly")
    world.routes(ours="always cross")
    world.soon(lambda: world.advertised(f"{address}/32") == all_peers, "it is advertised to all again")
    world.write("Disabled")
    world.routes(ours="")
    assert {*world.tor.heard("node")} >= {block(of, name) for of in POOLS for name in BLOCK}, (
        "advertised all the same"
    )
    world.space.ip("address", "delete", f"{address}/32", "dev", "tunl0")


def wireguard(world: World) -> None:
    """Between two nodes that both have it Felix's routes lead; one of them alone changes nothing."""
    monitor = world.space.monitor()
    world.write(encrypted=(HERE,))
    world.routes()
    world.write(encrypted=(FAR, NEAR))
    world.routes()
    assert not [line for line in monitor.stop() if "proto bird" in line]
    world.write(encrypted=(HERE, FAR))
    world.routes(without=FAR)
    assert "its next hop is a WireGuard node: Felix's routes lead there" in world.why(BLOCK[FAR])
    world.write()
    world.routes()


def service_ranges(world: World) -> None:
    """Their ranges are advertised, by a node that is not excluded from it, and never written: neither as blackholes,
    nor what others say of them."""
    services = {
        "serviceClusterIPs": [{"cidr": "10.96.0.0/12"}],
        "serviceExternalIPs": [{"cidr": "192.0.2.0/24"}, {"cidr": "198.51.100.7/32"}],
        "serviceLoadBalancerIPs": [{"cidr": "203.0.113.0/24"}],
    }
    ranges = {"10.96.0.0/12", "192.0.2.0/24", "203.0.113.0/24"}

    def heard() -> set[str]:
        return ranges & {*world.tor.heard("node")}

    for name in (NEAR, FAR):
        world.write(name=name, **services)
    world.write(**services)
    world.routes(from_tor=(OUTSIDE,))
    world.soon(lambda: heard() == ranges, "the ToR hears them")
    assert "198.51.100.7/32" not in world.tor.heard("node")
    assert "inside serviceClusterIPs: services are the kernel's own" in world.why("10.96.1.0/24")
    world.write(serviceLoadBalancerAggregation="Disabled", **services)
    world.soon(lambda: heard() == ranges - {"203.0.113.0/24"}, "aggregation off: its addresses one by one")
    world.write(excluded=True, **services)
    world.soon(lambda: not heard(), "excluded")
    world.routes(from_tor=(OUTSIDE,))
    for name in (NEAR, FAR, HERE):
        world.write(name=name)
    world.routes(timeout=SOON + FORMER_SECONDS)  # other nodes may have announced them a moment longer


def test_kernel_rules(net: Net) -> None:
    world = World(net)
    world.start()
    world.felix()
    for story in (through_the_tunnel, who_writes_what, wireguard, service_ranges):
        with world.undisturbed():
            story(world)
