"""The cluster of the scenarios: up to three nodes with bgpd on one LAN, a block each, and pods as Calico wires them."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from testing.daemons import Bgpd
from testing.namespaces import Namespace, Net, Process, wait_until
from testing.resources import affinity, bgp_configuration, node, pool

IPV4 = {"control": "10.0.1.20", "worker1": "10.0.1.30", "worker2": "10.0.1.31"}
IPV6 = {"control": "fd00:1::20", "worker1": "fd00:1::30", "worker2": "fd00:1::31"}
BLOCK = {"control": "10.48.0.128/26", "worker1": "10.48.0.192/26", "worker2": "10.48.0.0/26"}
BLOCK6 = {"control": "fd48::80/122", "worker1": "fd48::c0/122", "worker2": "fd48::/122"}
BASE = (
    bgp_configuration(),
    *(node(name, f"{IPV4[name]}/24", f"{IPV6[name]}/64") for name in IPV4),
    pool("default-ipv4", "10.48.0.0/24"),
    pool("default-ipv6", "fd48::/120"),
)
BLOCKS = tuple(affinity(name, blocks[name]) for blocks in (BLOCK, BLOCK6) for name in blocks)


class Cluster:
    """Nodes that run bgpd. All Nodes of ``names`` are in the resources; with ``config`` for each."""

    def __init__(
        self,
        net: Net,
        *names: str,
        config: Mapping[str, Any] | None = None,
        running: Iterable[str] | None = None,
    ) -> None:
        self.net = net
        self.names = names or tuple(IPV4)
        self.nodes, self.switch = net.hosts(
            {name: [f"{IPV4[name]}/24", f"{IPV6[name]}/64"] for name in self.names}
        )
        self.addresses = dict(IPV4)
        cluster = self._resources()
        blocks = [item for item in BLOCKS if item["spec"]["node"] in self.names]
        self.bgpds = {
            name: Bgpd(namespace, name, {"cluster": cluster, "blocks": blocks}, config)
            for name, namespace in self.nodes.items()
            if running is None or name in running
        }
        for namespace in self.nodes.values():
            namespace.ip("route", "add", "default", "via", "10.0.1.1", "dev", "ens5")

    def start(self) -> Cluster:
        """Starts every bgpd, until all is quiet: sessions up, routes there, old ones swept."""
        for bgpd in self.bgpds.values():
            bgpd.start(wait=False)
        for bgpd in self.bgpds.values():
            bgpd.wait_in_sync()
        for name in self.bgpds:
            self.wait_routes(name, self.expected(name))
        return self

    def start_any(self) -> None:
        """``start``, where ``ip route`` prints them otherwise: until every node has as many routes as it should."""
        for bgpd in self.bgpds.values():
            bgpd.start(wait=False)
        for name, bgpd in self.bgpds.items():
            bgpd.wait_in_sync()
            count = len(self.expected(name))
            wait_until(partial(self._has, name, count), 10, f"{count} routes on {name}")

    def _has(self, name: str, count: int) -> bool:
        return len(self.routes(name)) == count

    def shapes(self, name: str) -> dict[str, str]:
        """Where each route of ours leads, whichever nexthop object it goes over."""
        found = {**self.nodes[name].routes(4), **self.nodes[name].routes(6)}
        return {prefix: f"{route['type']} {route.get('gateway', '')}" for prefix, route in found.items()}

    def _resources(self) -> list[dict[str, Any]]:
        """Of all nodes, as they are addressed now."""
        nodes = [node(name, f"{self.addresses[name]}/24", f"{IPV6[name]}/64") for name in self.names]
        return [*(item for item in BASE if item["kind"] != "Node"), *nodes]

    def renumber(self, name: str, address: str) -> str:
        """A node has another IPv4 address beside the one it had, which is returned, and the resources say so."""
        before, self.addresses[name] = self.addresses[name], address
        self.nodes[name].address("ens5", f"{address}/24")
        self.write("cluster", *self._resources())
        return before

    def expected(self, name: str) -> list[str]:
        """The routes of ours that a node has, as ``ip route`` prints them, of both families."""
        found = []
        for other in self.names:
            if other == name:
                found += [f"blackhole {BLOCK[other]} proto bird"]
                found += [f"blackhole {BLOCK6[other]} dev lo proto bird metric 1024 pref medium"]
            elif other in self.bgpds:
                found += [f"{BLOCK[other]} via {self.addresses[other]} dev ens5 proto bird"]
                found += [f"{BLOCK6[other]} via {IPV6[other]} dev ens5 proto bird metric 1024 pref medium"]
        return sorted(found)

    def routes(self, name: str) -> list[str]:
        """The routes of ours that a node has, as ``ip route`` prints them, of both families."""
        return sorted(self.nodes[name].route_text(4) + self.nodes[name].route_text(6))

    def wait_routes(self, name: str, expected: Iterable[str], timeout: float = 10.0) -> None:
        """Until a node has exactly these routes of ours."""
        wanted = sorted(expected)

        def exactly() -> bool:
            found = self.routes(name)
            missing, extra = [x for x in wanted if x not in found], [x for x in found if x not in wanted]
            assert found == wanted, f"missing {missing}, too many {extra}"
            return True

        wait_until(exactly, timeout, f"routes of {name}", interval=0.01)

    def write(self, file: str, *objects: Mapping[str, Any]) -> None:
        """A resource file, on every node."""
        for bgpd in self.bgpds.values():
            bgpd.write(file, *objects)

    def pod(self, name: str, address: str) -> Namespace:
        """A pod on a node."""
        return pod(self.nodes[name], address)


def pod(host: Namespace, address: str) -> Namespace:
    """A pod: ``eth0`` with a /32, default via 169.254.1.1; a ``cali`` end on its node with a host route."""
    net = host.net
    made = net.namespace("pod")
    device = f"cali{len(net.namespaces)}"
    net.link(host, device, made, "eth0")
    host.run(
        *("sysctl", "-qw", f"net.ipv4.conf.{device}.proxy_arp=1"),
        f"net.ipv4.neigh.{device}.proxy_delay=0",  # else an answer waits up to 0.8 s
    )
    host.ip("route", "add", address, "dev", device, "scope", "link")
    made.address("eth0", f"{address}/32")
    made.ip("route", "add", "169.254.1.1", "dev", "eth0", "scope", "link")
    made.ip("route", "add", "default", "via", "169.254.1.1", "dev", "eth0")
    return made


class Ping:
    """``ping`` every so many seconds, from the first answer on."""

    def __init__(self, source: Namespace, target: str, interval: float = 0.02) -> None:
        wait_until(
            lambda: source.run("ping", "-c1", "-W1", target, check=False).returncode == 0,
            5,
            f"{target} answers",
        )
        self._process: Process = source.popen("ping", "-i", interval, target, name=f"ping-{target}")

    def lost(self) -> tuple[int, int]:
        """Ends it; packets sent, and those of them not answered."""
        self._process.signal(signal.SIGINT)
        self._process.wait()
        counts = re.search(r"(\d+) packets transmitted, (\d+) received", self._process.log)
        assert counts, self._process.log[-500:]
        sent, received = map(int, counts.groups())
        return sent, sent - received
