"""A running cluster and what comes over it: pools appear, a daemon crashes under traffic, addresses are borrowed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from testing.daemons import Bgpd
from testing.namespaces import Net, steady, wait_until
from testing.resources import affinity, bgp_configuration, node, pool
from tests.netns.cluster import BASE, BLOCK, BLOCK6, BLOCKS, IPV4, IPV6, Cluster, Ping

POD1, POD2 = "10.48.0.193", "10.48.0.3"


def test_a_pool_that_becomes_felixs_loses_nothing(net: Net) -> None:
    """It gets an encapsulation: Felix, played here, writes its routes a second later. Ours stand until then, and fight
    for no key."""
    cluster = Cluster(net, "control", "worker1").start()
    here, bgpd = cluster.nodes["control"], cluster.bgpds["control"]
    cluster.pod("worker1", POD1)
    ping = Ping(here, POD1, 0.01)
    others = [route for route in cluster.routes("control") if not route.startswith("blackhole")]
    pools = [
        pool("default-ipv4", "10.48.0.0/24", vxlanMode="CrossSubnet"),
        pool("default-ipv6", "fd48::/120", vxlanMode="Always"),
    ]
    cluster.write("cluster", *(item for item in BASE if item["kind"] != "IPPool"), *pools)
    cluster.wait_routes("control", others, 3)
    steady(lambda: cluster.routes("control") == others, 1.0, "no route of Felix's is there")
    via = ("dev", "ens5", "proto", "80")
    here.ip("route", "replace", BLOCK["worker1"], "via", IPV4["worker1"], *via)  # in our route's place
    here.ip(
        "-6", "route", "add", BLOCK6["worker1"], "via", IPV6["worker1"], *via, "metric", "2048"
    )  # beside it
    cluster.wait_routes("control", [], 1)
    sent, lost = ping.lost()
    assert sent > 40 and lost == 0, (sent, lost)
    assert "repairs" not in bgpd.log
    fib = bgpd.status()["fib"].values()
    assert not any(family["conflicts"] or any(family["repairs"].values()) for family in fib)


@pytest.mark.parametrize("first", ["worker1", "worker2"])
def test_a_node_that_changes_its_address_loses_nothing(net: Net, first: str) -> None:
    """The resources say it before it is there, to one node before the other; the old address goes last. Each node keeps
    the other's routes until it has announced them over the new session."""
    cluster = Cluster(net, "worker1", "worker2").start()
    here, there = (cluster.pod(name, address) for name, address in (("worker1", POD1), ("worker2", POD2)))
    pings = [Ping(there, POD1, 0.01), Ping(here, POD2, 0.01)]
    moved = [
        node("worker1", "10.0.1.40/24", f"{IPV6['worker1']}/64"),
        node("worker2", f"{IPV4['worker2']}/24", f"{IPV6['worker2']}/64"),
        *(item for item in BASE if item["kind"] != "Node"),
    ]
    for name in (first, *({"worker1", "worker2"} - {first})):
        cluster.bgpds[name].write("cluster", *moved)
        time.sleep(0.2)  # one node after the other
    cluster.nodes["worker1"].address("ens5", "10.0.1.40/24")
    route = f"{BLOCK['worker1']} via 10.0.1.40 dev ens5 proto bird"
    wait_until(lambda: route in cluster.routes("worker2"), 8, "the new next hop", report=net.report)
    cluster.nodes["worker1"].run("sysctl", "-qw", "net.ipv4.conf.all.promote_secondaries=1")
    cluster.nodes["worker1"].ip("address", "delete", "10.0.1.30/24", "dev", "ens5")
    steady(lambda: route in cluster.routes("worker2"), 0.3, "over the new address")
    for ping in pings:
        sent, lost = ping.lost()
        assert sent > 40 and lost == 0, (sent, lost)
    peers = cluster.bgpds["worker2"].peers()
    assert peers["Mesh_10_0_1_40"]["counts"]["ipv4"]["stale"] == 0 and "Mesh_10_0_1_30" not in peers


def test_pools_appear_while_running(net: Net) -> None:
    """A second pool and one of /29 blocks: there at once on all nodes, no session flaps, no other route is touched."""
    cluster = Cluster(net).start()
    sessions = {name: {p["id"]: p["since"] for p in b.peers().values()} for name, b in cluster.bgpds.items()}
    monitors = {name: namespace.monitor() for name, namespace in cluster.nodes.items()}
    new = {"control": "10.48.128.0/26", "worker1": "10.48.128.64/26", "worker2": "10.48.2.8/29"}
    cluster.write("more-pools", pool("second", "10.48.128.0/24"), pool("small", "10.48.2.0/24", 29))
    cluster.write("more-blocks", *(affinity(owner, cidr) for owner, cidr in new.items()))
    for name in cluster.names:
        advertised = [
            f"blackhole {cidr} proto bird"
            if owner == name
            else f"{cidr} via {IPV4[owner]} dev ens5 proto bird"
            for owner, cidr in new.items()
        ]
        cluster.wait_routes(name, [*cluster.expected(name), *advertised], 2)
    for name, monitor in monitors.items():
        lines = monitor.stop()
        assert all(any(cidr in line for cidr in new.values()) for line in lines), lines
        assert len(lines) == len(new), lines
        assert {p["id"]: p["since"] for p in cluster.bgpds[name].peers().values()} == sessions[name]
        assert not any(any(p["flaps"].values()) for p in cluster.bgpds[name].peers().values())

    # A block of another size than the pool's moves, and a pool is not to be exported any more.
    cluster.write(
        "more-blocks", *(affinity(owner, cidr) for owner, cidr in {**new, "worker2": "10.48.2.16/29"}.items())
    )
    cluster.write(
        "more-pools",
        pool("second", "10.48.128.0/24", disableBGPExport=True),
        pool("small", "10.48.2.0/24", 29),
    )
    cluster.wait_routes(
        "worker2",
        [*cluster.expected("worker2"), "blackhole 10.48.2.16/29 proto bird"],
        2,
    )
    cluster.wait_routes(
        "control",
        [
            *cluster.expected("control"),
            "blackhole 10.48.128.0/26 proto bird",
            f"10.48.2.16/29 via {IPV4['worker2']} dev ens5 proto bird",
        ],
        2,
    )


def test_kill_under_traffic(net: Net) -> None:
    """kill -9 and a new one: no route of its goes, no ping is lost; a block that moved away meanwhile is given up."""
    cluster = Cluster(net)
    moving = "10.48.128.0/26"
    cluster.write("more-pools", pool("second", "10.48.128.0/24"))
    cluster.write("more-blocks", affinity("worker2", moving))
    for bgpd in cluster.bgpds.values():
        bgpd.start(wait=False)
    for name in cluster.names:
        mine = f"blackhole {moving} proto bird"
        theirs = f"{moving} via {IPV4['worker2']} dev ens5 proto bird"
        cluster.wait_routes(name, [*cluster.expected(name), mine if name == "worker2" else theirs], 20)
    cluster.bgpds["worker2"].wait_in_sync()
    pods = {"control": cluster.pod("control", "10.48.0.130"), "worker2": cluster.pod("worker2", "10.48.0.5")}
    pings = [Ping(pods["control"], "10.48.0.5"), Ping(pods["worker2"], "10.48.0.130")]
    monitors = {name: namespace.monitor() for name, namespace in cluster.nodes.items()}

    victim = cluster.bgpds["worker2"]
    victim.kill()
    cluster.write("more-blocks", affinity("control", moving))
    cluster.wait_routes("control", [*cluster.expected("control"), f"blackhole {moving} proto bird"])
    victim.start()
    via = f"{moving} via {IPV4['control']} dev ens5 proto bird"
    for name in ("worker1", "worker2"):
        cluster.wait_routes(name, [*cluster.expected(name), via], 20)
    victim.wait_in_sync()
    assert all(peer["graceful_restart_active"] is False for peer in victim.peers().values())

    for ping in pings:
        sent, lost = ping.lost()
        assert sent > 10 and lost == 0
    for monitor in monitors.values():
        lines = monitor.stop()
        assert not monitor.deleted, lines
        assert all(moving in line or "cali" in line for line in lines), lines


def test_stop_and_start_under_traffic(net: Net) -> None:
    """As a restart by the service manager: SIGTERM, and a new one."""
    cluster = Cluster(net, "worker1", "worker2").start()
    ping = (
        Ping(cluster.pod("worker1", "10.48.0.200"), "10.48.0.5")
        if cluster.pod("worker2", "10.48.0.5")
        else None
    )
    assert ping is not None
    monitor = cluster.nodes["worker1"].monitor()
    assert cluster.bgpds["worker2"].stop() == 0
    cluster.bgpds["worker2"].start().wait_in_sync()
    sent, lost = ping.lost()
    assert sent > 10 and lost == 0
    assert monitor.stop() == []


@pytest.mark.long
def test_restart_with_nexthop_objects(net: Net) -> None:
    """Routes over nexthop objects are adopted as they are; ``bgpd cleanup`` takes the objects along."""
    cluster = Cluster(net, "worker1", "worker2", config={"kernel": {"nexthop_objects": "always"}})
    cluster.start_any()
    bgpd, namespace = cluster.bgpds["worker2"], cluster.nodes["worker2"]
    objects = namespace.ip("nexthop", "show")
    assert len(objects.splitlines()) == 2
    monitor = namespace.monitor("route", "nexthop")
    bgpd.restart().wait_in_sync()
    assert monitor.stop() == []
    assert namespace.ip("nexthop", "show") == objects
    bgpd.stop()
    assert bgpd.command("cleanup", "--config", bgpd.config_path).returncode == 0
    assert namespace.ip("nexthop", "show") == "" and cluster.routes("worker2") == []


@pytest.mark.parametrize("family", [4, 6])
def test_one_family_and_another_port(net: Net, family: int) -> None:
    """Nodes with an address of one family only, on the port that BGPConfiguration says."""
    cluster = Cluster(net, "worker1", "worker2")
    addresses, blocks = (IPV4, BLOCK) if family == 4 else (IPV6, BLOCK6)
    nodes = [
        node(name, addresses[name] + "/24") if family == 4 else node(name, ipv6=addresses[name] + "/64")
        for name in cluster.names
    ]
    cluster.write(
        "cluster", bgp_configuration(port=1790), *(x for x in BASE if x["kind"] == "IPPool"), *nodes
    )
    for bgpd in cluster.bgpds.values():
        bgpd.start(wait=False)
    for name, other in (("worker1", "worker2"), ("worker2", "worker1")):
        bgpd = cluster.bgpds[name]
        bgpd.wait_established(f"Mesh_{addresses[other]}".replace(".", "_").replace(":", "_"))
        wait_until(
            partial(_leads, bgpd, family, blocks[other], addresses[other]),
            what="its block",
            report=net.report,
        )
        assert len(bgpd.peers()) == 1
        assert ":1790 " in cluster.nodes[name].run("ss", "-tlnH").stdout


def _leads(bgpd: Bgpd, family: int, block: str, gateway: str) -> bool:
    return bool(bgpd.routes(family)[block]["gateway"] == gateway)


def test_borrowed_address(net: Net) -> None:
    """worker1 borrows an address of worker2's block: everybody goes to worker1 for it, worker2 too, until it ends."""
    cluster = Cluster(net).start()
    borrowed = "10.48.0.40"
    pod = cluster.pod("worker1", borrowed)
    for name in ("control", "worker2"):
        via = f"{borrowed} via {IPV4['worker1']} dev ens5 proto bird"
        cluster.wait_routes(name, [*cluster.expected(name), via], 2)
    for name, address in {"control": "10.48.0.131", "worker2": "10.48.0.6"}.items():
        cluster.pod(name, address).run("ping", "-c1", "-W5", borrowed)
    (row,) = (
        row
        for row in cluster.bgpds["worker1"].ctl("routes", table="out", prefix=f"{borrowed}/32")["routes"][:1]
    )
    assert row["kind"] == "borrowed"
    pod.ip("link", "delete", "eth0")
    for name in cluster.names:
        cluster.wait_routes(name, cluster.expected(name), 2)


def test_an_address_that_moves_here_lets_its_pods_route_in(net: Net) -> None:
    """IPAM gives it to this node while the other still announces it: the CNI plugin's route (created exclusively, at
    our metric) must not find a learned one in its place."""
    cluster = Cluster(net, "worker1", "worker2").start()
    address, here = "10.48.0.40", cluster.nodes["worker2"]
    cluster.pod("worker1", address)
    learned = f"{address} via {IPV4['worker1']} dev ens5 proto bird"
    cluster.wait_routes("worker2", [*cluster.expected("worker2"), learned], 2)
    here.ip("link", "add", "cali77", "type", "veth", "peer", "name", "pod77")
    here.ip("link", "set", "cali77", "up")
    add = ("ip", "route", "add", address, "dev", "cali77", "scope", "link")
    assert "File exists" in here.run(*add, check=False).stderr
    given = {
        "apiVersion": "crd.projectcalico.org/v1",
        "kind": "IPAMBlock",
        "metadata": {"name": "10-48-0-0-26"},
        "spec": {
            "cidr": BLOCK["worker2"],
            "affinity": "host:worker2",
            "allocations": [*[None] * 40, 0, *[None] * 23],
            "attributes": [{"secondary": {"namespace": "default", "pod": "web-9", "node": "worker2"}}],
        },
    }
    cluster.write("ipam", given)
    cluster.wait_routes("worker2", cluster.expected("worker2"), 1)
    assert "IPAM gives it to this node" in cluster.bgpds["worker2"].bgpctl("why", address).stdout
    here.run(*add)
    assert not cluster.bgpds["worker2"].status()["fib"]["ipv4"]["conflicts"]
    assert f"{address} dev cali77 scope link" in here.ip("route", "show", address)


def test_block_is_released(net: Net) -> None:
    """``pendingDeletion``: the block is announced no more but its living addresses are; the blackhole stays until
    another node announces the block, and these addresses still are this node's."""
    cluster = Cluster(net, "worker1", "worker2").start()
    block, address = BLOCK["worker2"], "10.48.0.5"
    cluster.pod("worker2", address)
    without = [item for item in BLOCKS if item["spec"]["cidr"] != block]
    cluster.write("blocks", *without, affinity("worker2", block, "pendingDeletion"))
    far = [route for route in cluster.expected("worker1") if not route.startswith(block)]
    host = f"{address} via {IPV4['worker2']} dev ens5 proto bird"
    cluster.wait_routes("worker1", [*far, host], 2)
    assert cluster.routes("worker2") == cluster.expected("worker2")

    monitor = cluster.nodes["worker2"].monitor()
    cluster.bgpds["worker1"].write("blocks", *without, affinity("worker1", block))
    near = [route for route in cluster.expected("worker2") if block not in route]
    cluster.wait_routes("worker2", [*near, f"{block} via {IPV4['worker1']} dev ens5 proto bird"], 2)
    cluster.wait_routes("worker1", [*far, host, f"blackhole {block} proto bird"], 2)
    monitor.stop()
    assert not monitor.deleted


def test_peers_come_and_go_alone(net: Net) -> None:
    """A node leaves and returns, a hold time changes: no session but its own is touched."""
    cluster = Cluster(net).start()
    bgpd = cluster.bgpds["worker2"]
    since = {name: peer["since"] for name, peer in bgpd.peers().items()}
    kept = {name: since[name] for name in since if name.endswith("20")}
    assert len(kept) == 2

    def others() -> dict[str, float]:
        return {name: peer["since"] for name, peer in bgpd.peers().items() if name in kept}

    bgpd.write("cluster", *(item for item in BASE if item["metadata"]["name"] != "worker1"))
    bgpd.wait(lambda: bgpd.peers().keys() == kept.keys(), "worker1's sessions go")
    gone = [route for route in cluster.expected("worker2") if "::30" in route or "1.30" in route]
    cluster.wait_routes("worker2", [route for route in cluster.expected("worker2") if route not in gone], 2)
    lost = cluster.bgpds["worker1"].peers()["Mesh_10_0_1_31"]
    assert {"direction": "received", "code": 6, "subcode": 9, "count": 1} in lost["notifications"], (
        "a hard reset"
    )
    assert others() == kept
    bgpd.write("cluster", *BASE)
    cluster.wait_routes("worker2", cluster.expected("worker2"), 10)
    assert others() == kept

    bgpd.configure(bgp={"peers": {IPV4["worker1"]: {"hold_time": 30}}})
    assert bgpd.bgpctl("reload").returncode == 0
    bgpd.wait(
        lambda: bgpd.established() and bgpd.peers()["Mesh_10_0_1_30"]["hold_time"] == 30,
        "its new hold time",
        15,
    )
    assert others() == kept


def test_unused_address_dies_at_its_owner(net: Net) -> None:
    cluster = Cluster(net, "worker1", "worker2").start()
    pod = cluster.pod("worker1", "10.48.0.200")
    done = pod.run("ping", "-c1", "-W1", "10.48.0.33", check=False)
    assert done.returncode == 1 and "exceeded" not in done.stdout, done.stdout


def test_metrics_are_clean(net: Net) -> None:
    """What a scrape of a working node says passes promtool, and is the truth."""
    cluster = Cluster(net, "worker1", "worker2").start()
    text = cluster.bgpds["worker1"].scrape()
    linted = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=20, check=False
    )
    assert (linted.returncode, linted.stderr) == (0, "")
    for sample in (
        "bgpd_ready 1.0",
        'bgpd_routes_desired{afi="ipv4",kind="block"} 1.0',
        'bgpd_peer_up{peer="10.0.1.31",peer_asn="64512",peer_name="Mesh_10_0_1_31"} 1.0',
    ):
        assert sample in text
    assert cluster.bgpds["worker1"].scrape("/livez").strip() == "ok"
    assert cluster.bgpds["worker1"].scrape("/readyz").strip() == "ok"


def test_cleanup(net: Net) -> None:
    """``bgpd cleanup`` refuses while the daemon answers; after it, all that is ours goes and nothing else."""
    cluster = Cluster(net, "worker1", "worker2").start()
    bgpd, namespace = cluster.bgpds["worker1"], cluster.nodes["worker1"]
    namespace.ip("route", "add", "172.16.0.0/24", "via", IPV4["worker2"], "proto", "static")
    everything = namespace.routes(proto=None)
    refused = bgpd.command("cleanup", "--config", bgpd.config_path)
    assert refused.returncode == 1 and str(bgpd.socket) in refused.stderr
    assert namespace.routes(proto=None) == everything
    bgpd.stop()
    assert cluster.routes("worker1") == cluster.expected("worker1")
    done = bgpd.command("cleanup", "--config", bgpd.config_path)
    assert done.returncode == 0, done.stderr
    assert cluster.routes("worker1") == []
    left = namespace.routes(proto=None)
    assert left.keys() == everything.keys() - {BLOCK["worker1"], BLOCK["worker2"]}


IDLE = (
    "import socket, time\n"
    "s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)\n"
    "s.bind((0, 0))\n"
    "print('at work', flush=True)\n"
    "time.sleep(60)\n"
)
WRITER = (
    "import time\n"
    "from pyroute2 import IPRoute\n"
    "with IPRoute() as ip:\n"
    "    print('at work', flush=True)\n"
    "    for number in range(600):\n"
    "        ip.route('replace', dst=f'10.99.{number % 250}.{number // 250}/32', type='blackhole', proto=12)\n"
    "        time.sleep(0.05)\n"
)


@pytest.mark.long
def test_cleanup_refuses_while_another_daemon_is_at_work(net: Net, tmp_path: Path) -> None:
    """BIRD by its name, though it writes nothing just now; anybody else by what it writes."""
    cluster = Cluster(net, "worker1").start()
    bgpd, namespace = cluster.bgpds["worker1"], cluster.nodes["worker1"]
    bgpd.stop()
    ours = cluster.routes("worker1")
    assert ours
    bird = tmp_path / "bird"
    bird.symlink_to(os.path.realpath(sys.executable))
    for words, name in (((bird, "-c", IDLE), "bird (pid"), ((sys.executable, "-c", WRITER), "netlink port")):
        other = namespace.popen(*words)
        try:
            wait_until(lambda other=other: "at work" in other.log, 10, "somebody else at work")
            refused = bgpd.command("cleanup", "--config", bgpd.config_path)
            assert refused.returncode == 1 and name in refused.stderr, refused
            assert {*ours} <= {*cluster.routes("worker1")}
        finally:
            other.kill()
    done = bgpd.command("cleanup", "--config", bgpd.config_path)
    assert done.returncode == 0, done.stderr
    assert cluster.routes("worker1") == []
