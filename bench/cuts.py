"""The case of a path that dies while no link loses its carrier: how soon the kernel leaves it, with BFD.

Called by ``__main__``, as ``tables`` is. A node has two routers, each behind a switch of its own, and one prefix by
both. A port of a switch goes down behind the node's back; the clock stops when the kernel's route has the other gateway
alone. Both routers are BIRD, whoever the node is.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

from bench.ground import holds
from bench.nodes import quantile
from bench.subjects import template
from bench.work import Figures, Work
from testing.daemons import Bgpd, Bird, Frr
from testing.namespaces import Namespace, Net
from testing.resources import bgp_configuration, bgp_peer, node

INTERVAL, MULTIPLIER = 100, 3
"""Milliseconds and packets, of both ends: 300 ms without a packet are the end."""
NODE_AS, ROUTER_AS = 64512, 65001
SHARED = "192.168.7.0/24"
PLACES = (1, 2)
PATIENCE = 20.0
"""Seconds for a state to come."""


async def cut(work: Work, name: str) -> Figures:
    """``work.size`` cuts, of the two paths in turn; milliseconds."""
    with Net() as net:
        host = net.namespace("node")
        switches, routers = {}, {}
        for place in PLACES:
            router = net.namespace(f"r{place}")
            members = {host: [f"10.9.{place}.1/24"], router: [f"10.9.{place}.2/24"]}
            switches[place] = net.lan(members, device=f"ens{place}")
            neighbour = f"protocol bgp node from neighbour {{ neighbor 10.9.{place}.1 as {NODE_AS}; }}"
            config = _bird(ROUTER_AS, f"route {SHARED} blackhole;", neighbour)
            routers[place] = Bird(router, config, f"10.9.{place}.2").start()
        proto = START[name](host)

        def gateways() -> set[str]:
            route = host.routes(4, proto).get(SHARED, {})
            return {str(hop.get("gateway")) for hop in route.get("nexthops") or [route]}

        def up(place: int) -> bool:
            return " Up " in routers[place].birdc("show bfd sessions")

        chance, times = random.Random(1), []
        for sample in range(work.size):
            place = PLACES[sample % 2]
            other = PLACES[1 - sample % 2]
            await holds(
                lambda: len(gateways()) == 2 and all(map(up, PLACES)), "both paths are there", 0.05, PATIENCE
            )
            await asyncio.sleep(1 + chance.uniform(0, INTERVAL / 1000))  # where in an interval the cut comes
            switches[place].down("port1")
            began = time.monotonic()
            left = await holds(
                lambda other=other: gateways() == {f"10.9.{other}.2"}, "the path is left", 0.0, PATIENCE
            )
            times.append((left - began) * 1000)
            switches[place].up("port1")
        return {"cut_p50_ms": quantile(times, 0.5), "cut_p99_ms": quantile(times, 0.99)}


def _bird(asn: int, routes: str, neighbours: str) -> str:
    return template(
        "bird-bfd.conf",
        asn=asn,
        routes=routes,
        neighbours=neighbours,
        interval=INTERVAL,
        multiplier=MULTIPLIER,
    )


def _start_bgpd(host: Namespace) -> str:
    bfd = {"min_tx": f"{INTERVAL}ms", "min_rx": f"{INTERVAL}ms", "multiplier": MULTIPLIER}
    objects = [bgp_configuration(NODE_AS, mesh=False), node("node", "10.9.1.1/24")]
    objects += [bgp_peer(f"r{n}", f"10.9.{n}.2", ROUTER_AS, sourceAddress="None") for n in PLACES]
    Bgpd(host, "node", {"all": objects}, {"bgp": {"defaults": {"bfd": bfd}}}).start()
    return "bird"


def _start_bird(host: Namespace) -> str:
    neighbours = "\n".join(
        f"protocol bgp r{n} from neighbour {{ neighbor 10.9.{n}.2 as {ROUTER_AS}; }}" for n in PLACES
    )
    Bird(host, _bird(NODE_AS, "", neighbours), "10.9.1.1").start()
    return "bird"


def _start_frr(host: Namespace) -> str:
    neighbours = "\n".join(
        f" neighbor 10.9.{n}.2 remote-as {ROUTER_AS}\n neighbor 10.9.{n}.2 timers connect 1\n"
        f" neighbor 10.9.{n}.2 bfd {MULTIPLIER} {INTERVAL} {INTERVAL}"
        for n in PLACES
    )
    config = template("frr-bfd.conf", asn=NODE_AS, router_id="10.9.1.1", neighbours=neighbours)
    Frr(host, config, bfd=True).start()
    return "bgp"


START: dict[str, Callable[[Namespace], str]] = {"bgpd": _start_bgpd, "bird": _start_bird, "frr": _start_frr}
"""Starts the node's daemon; returns the ``proto`` of its kernel routes."""
