"""The story of ``containerlab/workers.clab.yml``, run on a live cluster: ``bgpd lab demo``, ``make demo``.

Each command shown is run in a node and its output is what it printed; each line with a tick is a fact that was tested.
The first fact that does not hold ends the story with exit code 1. The lab is ended however the story ends, and with it
all that was written: the nodes' resources lie in its own directory. No data of IPAM is written here: pods come by CNI,
pools by ``bgpctl apply``; what the routes must then be is worked out of the addresses that the pods got.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from netaddr import IPAddress, IPNetwork

from testing.lab.lab import Lab, LabError, Node

ADDRESSES = {
    "control": "10.0.1.20",
    "worker1": "10.0.1.30",
    "worker2": "10.0.1.31",
    "worker3": "10.0.1.32",
    "worker4": "10.0.1.33",
}
ROUTER = "gw"
PODS = {
    "control": ("dns-1", "dns-2"),
    "worker1": ("api-1", "api-2"),
    "worker2": ("web-1", "web-2", "web-3"),
}
POOLS = {
    "default-ipv4-ippool": ("10.48.0.0/24", 26),
    "pool2-ipv4-ippool": ("10.48.128.0/24", 26),
    "external-pool": ("10.48.2.0/24", 29),
}
"""CIDR and length of a block, as the topology's resources say it."""
LATER = ("pool2-ipv4-ippool", "external-pool")
"""Those that are applied while the cluster runs."""
YAOBANK = {
    "database": ("worker1", "pool2-ipv4-ippool"),
    "summary-1": ("worker1", "pool2-ipv4-ippool"),
    "summary-2": ("worker2", "pool2-ipv4-ippool"),
    "customer": ("worker1", None),
}
"""The training's application: where a pod runs, and which pool its annotation names."""
BORROWER = "batch-1"


class _Untrue(Exception):
    """A fact that did not hold."""


def run_story(topology: Path, name: str | None = None) -> int:
    """Lays, runs, ends; the exit code. ``TopologyError`` and ``LabError`` as ``Lab`` raises them."""
    checked = Lab.load(topology, name)
    if missing := {*ADDRESSES, ROUTER} - checked.nodes.keys():
        raise LabError(f"{topology}: the story needs the nodes {', '.join(sorted(missing))}")
    return _Story(Lab.load(topology, name or f"{checked.name}-demo")).run_story()


class _Pod(NamedTuple):
    """A pod that runs, and what its ADD gave it."""

    node: str
    address: str
    link: str
    """Its end on the node."""


class _Story:
    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.nodes = {name: lab.nodes[name] for name in ADDRESSES}
        self.router = lab.nodes[ROUTER]
        self.pods: dict[str, _Pod] = {}
        self.blocks: dict[str, set[str]] = {name: set() for name in ADDRESSES}
        """What each node must have claimed, by the addresses of the pods that it had."""
        self.borrowed: dict[str, str] = {}
        """Addresses out of another node's block, and who has them."""
        self.started = time.monotonic()
        self.facts = 0
        self.chapters = 0
        self.live = sys.stdout.isatty()
        self.colour = self.live and not os.environ.get("NO_COLOR")
        self.tick, self.cross = (
            ("✓", "✗") if "utf" in (sys.stdout.encoding or "").lower() else ("ok:", "NOT:")
        )

    def run_story(self) -> int:
        try:
            self.title("A cluster: five nodes on one subnet, a router outside, and nobody has an address yet")
            self.progress("laying the namespaces")
            before = time.monotonic()
            with self.lab:
                self.fact(True, f"{len(self.lab.nodes)} machines in {time.monotonic() - before:.1f} s")
                try:
                    self.sessions()
                    self.first_pods()
                    self.routes()
                    self.views()
                    self.reach()
                    self.unused()
                    self.apply_pools()
                    self.yaobank()
                    self.external()
                    self.run_out()
                    self.kill()
                    self.release()
                except _Untrue:
                    self.logs()
                    raise
        except _Untrue as untrue:
            print(f"\n{self.paint(31, self.cross)} {untrue}: the demo failed", file=sys.stderr)
            return 1
        seconds = time.monotonic() - self.started
        print(f"\n{self.paint(32, self.tick)} {self.facts} facts held in {seconds:.0f} s; the lab is gone")
        return 0

    # Chapters.

    def sessions(self) -> None:
        self.title("bgpd on every node: full mesh from the Node resources, the router by a BGPPeer")
        everyone = [*self.nodes.values(), self.router]
        self.wait("every bgpd is ready", lambda: all(map(self.ready, everyone)), 30)
        self.wait("every session is up", lambda: all(map(self.meshed, self.nodes.values())), 20)
        self.show(self.nodes["worker2"], "bgpctl peers")
        self.fact(not any(map(self.bird_routes, everyone)), "and there is nothing to announce yet")

    def first_pods(self) -> None:
        self.title("Pods by CNI: a node claims a block of 10.48.0.0/24 when its first pod needs an address")
        for name, pods in PODS.items():
            for pod in pods:
                self.add(name, pod)
        self.show(self.nodes["control"], "bgpctl ipam show --show-blocks")
        self.fact(
            all(len(self.blocks[name]) == 1 for name in PODS)
            and self.stored_blocks() == {block for name in PODS for block in self.blocks[name]},
            "three nodes have pods, so three blocks are claimed; each pod's address is of its node's block",
        )

    def routes(self) -> None:
        self.title("The kernel: an own block is a blackhole, the others' lead to their nodes")
        self.settled("every node has exactly its routes")
        for name in PODS:
            self.show(self.nodes[name], "ip route" if name == "worker2" else "ip route show proto bird")

    def views(self) -> None:
        self.title("A pod sees a /32 and a gateway that is nobody's; its node a cali* link and a route to it")
        node, pod = self.nodes["worker2"], self.pods["web-1"]
        address = self.show(node, "pod exec web-1 ip addr show dev eth0").stdout
        self.fact(f"inet {pod.address}/32 scope global eth0" in address, "eth0 has the address and no subnet")
        link = self.show(node, f"ip link show dev {pod.link}").stdout
        self.fact("link/ether ee:ee:ee:ee:ee:ee" in link, f"its other end is {pod.link}")
        inside = self.show(node, "pod exec web-1 ip route").stdout
        self.fact(
            [" ".join(line.split()) for line in inside.splitlines()]
            == ["default via 169.254.1.1 dev eth0", "169.254.1.1 dev eth0 scope link"],
            "all goes by 169.254.1.1, for which the node answers",
        )
        outside = self.show(node, f"ip route show {pod.address}").stdout
        self.fact(
            outside.split() == f"{pod.address} dev {pod.link} scope link".split(), "and back by its link"
        )

    def reach(self) -> None:
        self.title("Pods of all nodes reach each other")
        for name in PODS:
            self.reaches(PODS[name][0], [pod for pod, what in self.pods.items() if what.node != name])

    def unused(self) -> None:
        (block,) = self.blocks["worker2"]
        address = str(IPNetwork(block)[50])
        self.title(f"{address} is nobody's: a packet to it dies at the owner of its block")
        outcome = self.show(self.nodes["control"], f"pod exec dns-1 ping -c 3 -i 0.2 -W 0.5 {address}")
        self.fact("100% packet loss" in outcome.stdout, "no answer")
        self.fact("exceeded" not in outcome.stdout, "and no packet went round until its TTL ended")
        outcome = self.nodes["worker2"].run(f"ip route show match {address} proto bird")
        self.fact(f"blackhole {block}" in outcome.stdout, "on worker2 it meets the blackhole")

    def apply_pools(self) -> None:
        self.title("Two more pools, applied while the cluster runs")
        control = self.nodes["control"]
        for pool in LATER:
            outcome = self.show(control, f"bgpctl apply -f /etc/bgpd/pools/{pool}.yaml")
            self.fact(outcome.returncode == 0, f"{pool} is {POOLS[pool][0]}, blocks of /{POOLS[pool][1]}")
        outcome = self.show(control, "bgpctl get ippools -o wide")
        rows = {line.split()[0]: line.split()[1] for line in outcome.stdout.splitlines()[1:]}
        self.fact(rows == {name: cidr for name, (cidr, _) in POOLS.items()}, "bgpctl shows all three")

    def yaobank(self) -> None:
        self.title("yaobank is deployed: its annotations say of which pool the addresses are")
        for pod, (node, pool) in YAOBANK.items():
            self.add(node, pod, namespace="yaobank", pool=pool)
        inside = IPNetwork(POOLS["pool2-ipv4-ippool"][0])
        backs = ["database", "summary-1", "summary-2"]
        self.fact(
            all(IPAddress(self.pods[pod].address) in inside for pod in backs)
            and len({self.pods[pod].node for pod in backs}) == 2,
            f"database and both summaries have addresses of {inside}, on two nodes",
        )
        customer = IPAddress(self.pods["customer"].address)
        self.fact(
            any(customer in IPNetwork(POOLS[pool][0]) for pool in POOLS if pool != "external-pool"),
            "customer named none, and has one of a pool that is for any pod",
        )
        self.settled("their blocks are routed by every node")
        self.show(self.nodes["control"], "ip route show proto bird")
        self.reaches("customer", backs)
        self.reaches("summary-2", ["database"])

    def external(self) -> None:
        self.title("The router outside gets the blocks of the external pool, and no others")
        self.add("worker1", "shop-1", namespace="yaobank", pool="external-pool")
        self.add("worker2", "shop-2", namespace="yaobank", pool="external-pool")
        self.settled("every node has their blocks")
        self.wait(
            "the router has two routes of /29",
            lambda: self.bird_routes(self.router) == self.expected_at_router(),
            5,
        )
        self.show(self.router, "ip route show proto bird")
        for pod in ("shop-1", "shop-2"):
            answer = self.router.run(f"ping -q -c 1 -W 1 {self.pods[pod].address}").returncode
            self.fact(answer == 0, f"{pod} answers the router")
        hidden = self.pods["customer"].address
        outcome = self.show(self.router, f"ip route get {hidden}")
        self.fact(outcome.returncode != 0, "to a pod of an internal pool it has no way")
        outcome = self.nodes["worker1"].run(
            f"pod exec customer ping -q -c 1 -W 1 {self.pods['shop-2'].address}"
        )
        self.fact(outcome.returncode == 0, "inside the cluster all reach all")

    def run_out(self) -> None:
        self.title("The fourth node takes the last block of the default pool; the fifth borrows an address")
        default = "default-ipv4-ippool"
        self.add("worker3", "job-1", pool=default)
        self.settled("each of four nodes has a block, all of 10.48.0.0/24 is routed")
        before = time.monotonic()
        pod = self.add("worker4", BORROWER, pool=default, borrowed=True)
        owner = next(
            name
            for name, blocks in self.blocks.items()
            if any(IPAddress(pod.address) in IPNetwork(block) for block in blocks)
        )
        self.settled(f"{pod.address} is of {owner}'s block: every node has its /32", since=before)
        self.show(self.nodes["control"], "bgpctl ipam show --show-borrowed")
        self.show(self.nodes[owner], "ip route show proto bird")
        for one in ("dns-1", "api-1", "web-1", "job-1"):
            self.reaches(one, [BORROWER])
        why = self.show(self.nodes[owner], f"bgpctl why {pod.address}")
        self.fact(
            why.returncode == 0 and ADDRESSES["worker4"] in why.stdout, "bgpctl why shows the way it came"
        )
        blocks = self.show(self.nodes[owner], "bgpctl blocks")
        self.fact(
            pod.address in blocks.stdout and "worker4" in blocks.stdout, "bgpctl blocks says who has it"
        )

    def kill(self) -> None:
        self.title("kill -9 of worker2's bgpd while pods talk")
        worker2, control = self.nodes["worker2"], self.nodes["control"]
        before = self.bird_routes(worker2)
        with (
            worker2.popen("ip monitor route", stdout=subprocess.PIPE, text=True) as there,
            control.popen("ip monitor route", stdout=subprocess.PIPE, text=True) as here,
            control.popen(
                f"pod exec dns-1 ping -q -i 0.01 -w 60 {self.pods['web-1'].address}",
                stdout=subprocess.PIPE,
                text=True,
            ) as ping,
        ):
            try:
                time.sleep(0.3)
                self.print_command(worker2, f"kill -9 {worker2.cmd_pid}    # bgpd")
                worker2.kill()
                self.fact(not worker2.running, "bgpd is gone")
                time.sleep(0.5)
                self.fact(self.bird_routes(worker2) == before, "its routes are still in the kernel")
                worker2.start()
                self.wait("a new bgpd is ready", lambda: self.ready(worker2), 30)
                self.wait("its sessions are up", lambda: self.meshed(worker2), 20)
                time.sleep(0.3)
            finally:
                ping.send_signal(signal.SIGINT)  # at which it sums up
                output = ping.communicate(timeout=5)[0]
                there.kill()
                here.kill()
                gone = [
                    f"{name}: {line.strip()}"
                    for name, monitor in (("worker2", there), ("control", here))
                    for line in monitor.communicate()[0].splitlines()
                    if line.startswith("Deleted") and "proto bird" in line
                ]
        summary = re.search(r"(\d+) packets transmitted, (\d+) received", output)
        self.fact(
            summary is not None and summary[1] == summary[2], f"ping: {summary[0] if summary else output}"
        )
        self.fact(not gone, "; ".join(gone) or "not one route of bgpd's went away, on worker2 or control")
        self.fact(self.bird_routes(worker2) == before, "and worker2's routes are the same")

    def release(self) -> None:
        self.title("The pod ends: its address is gone everywhere, and is nobody's again")
        address = self.pods[BORROWER].address
        before = time.monotonic()
        self.delete(BORROWER)
        self.settled(f"no node routes {address} any more", since=before)
        shown = self.show(self.nodes["control"], f"bgpctl ipam show --ip {address}")
        self.fact(shown.stdout.strip() == f"{address} is not assigned", "IPAM has it back")
        gone = self.nodes["worker4"].run("sh -c 'ip netns list; ls /sys/class/net'").stdout.split()
        self.fact(
            BORROWER not in gone and not [name for name in gone if name.startswith("cali")],
            "and neither link nor namespace is left",
        )
        self.delete_all()
        rows = json.loads(self.nodes["control"].run("bgpctl ipam show -o json", check=True).stdout)["rows"]
        self.fact(
            len(rows) == 3 and not any(row["in_use"] for row in rows), "all pods ended: no address is in use"
        )
        outcome = self.show(self.nodes["control"], "bgpctl ipam check")
        self.fact(outcome.returncode == 0, "and nothing contradicts itself")

    # Pods.

    def add(
        self,
        node: str,
        pod: str,
        *,
        namespace: str = "default",
        pool: str | None = None,
        borrowed: bool = False,
    ) -> _Pod:
        """A CNI ADD; keeps what it gave. One that is refused ends the story."""
        words = ["pod", "add", *(["-n", namespace] if namespace != "default" else [])]
        if pool is not None:
            words += ["--annotation", f'cni.projectcalico.org/ipv4pools=["{pool}"]']
        outcome = self.show(self.nodes[node], shlex.join([*words, pod]))
        found = re.search(r"^\S+ +([0-9.]+)/32 +(cali\S+)$", outcome.stdout, re.MULTILINE)
        if outcome.returncode != 0 or found is None:
            raise _Untrue(f"{pod} got no address on {node}")
        self.pods[pod] = _Pod(node, found[1], found[2])
        address = IPAddress(found[1])
        size = next(size for cidr, size in POOLS.values() if address in IPNetwork(cidr))
        if borrowed:
            self.borrowed[found[1]] = node
        else:
            self.blocks[node].add(str(IPNetwork(f"{address}/{size}").cidr))
        return self.pods[pod]

    def delete(self, pod: str) -> None:
        """A CNI DEL. The node keeps its blocks."""
        if self.show(self.nodes[self.pods[pod].node], f"pod del {pod}").returncode != 0:
            raise _Untrue(f"{pod} could not be ended")
        self.borrowed.pop(self.pods.pop(pod).address, None)

    def delete_all(self) -> None:
        """All nodes at once, a pod after the other on each."""
        script = 'for pod in "$@"; do pod del "$pod" || exit 1; done'
        running = {}
        for name, node in self.nodes.items():
            pods = [pod for pod, what in self.pods.items() if what.node == name]
            running[name] = node.popen(["sh", "-c", script, "sh", *pods], stdout=subprocess.DEVNULL)
        for name, process in running.items():
            if process.wait(timeout=30) != 0:
                raise _Untrue(f"the pods of {name} could not be ended")
        self.pods.clear()

    def reaches(self, pod: str, others: Iterable[str]) -> None:
        wanted = [self.pods[other].address for other in others]
        node = self.pods[pod].node
        heard = self.heard(self.nodes[node], pod, wanted)
        self.fact(heard == wanted, f"{pod} on {node}: {len(heard)} of {len(wanted)} pods answer")

    # Facts.

    def expected_routes(self, name: str) -> set[str]:
        """What ``proto bird`` must be on a node, in the words of ``ip route``."""
        found = {f"blackhole {block}" for block in self.blocks[name]}
        for other, address in ADDRESSES.items():
            if other != name:
                found |= {f"{block} via {address} dev ens5" for block in self.blocks[other]}
        for address, other in self.borrowed.items():
            if other != name:
                found.add(f"{address} via {ADDRESSES[other]} dev ens5")
        return found

    def expected_at_router(self) -> set[str]:
        external = IPNetwork(POOLS["external-pool"][0])
        return {
            f"{block} via {ADDRESSES[name]} dev eth1"
            for name, blocks in self.blocks.items()
            for block in blocks
            if IPNetwork(block) in external
        }

    def settled(self, text: str, since: float | None = None) -> None:
        """Every node has its routes and no others."""
        self.wait(
            text,
            lambda: all(
                self.bird_routes(node) == self.expected_routes(name) for name, node in self.nodes.items()
            ),
            10,
            since=since,
        )

    def stored_blocks(self) -> set[str]:
        outcome = self.nodes["control"].run("bgpctl ipam show --show-blocks -o json", check=True)
        return {row["cidr"] for row in json.loads(outcome.stdout)["rows"] if row["grouping"] == "Block"}

    def bird_routes(self, node: Node) -> set[str]:
        lines = node.run("ip route show proto bird", check=True).stdout.splitlines()
        return {" ".join(line.split()) for line in lines}

    def ready(self, node: Node) -> bool:
        if not node.running:
            self.fact(False, f"bgpd runs on {node.name}")
        return node.run("bgpctl health ready").returncode == 0

    def meshed(self, node: Node) -> bool:
        """Whether a node's sessions with all others and the router are established."""
        outcome = node.run("bgpctl peers -o json")
        if outcome.returncode != 0:
            return False
        states = {peer["address"]: peer["state"] for peer in json.loads(outcome.stdout)["peers"]}
        others = {address for name, address in ADDRESSES.items() if name != node.name} | {"10.0.1.1"}
        return states.keys() == others and set(states.values()) == {"established"}

    def heard(self, node: Node, pod: str, addresses: Iterable[str]) -> list[str]:
        """Which of the addresses answer a ping out of a pod."""
        script = 'for address in "$@"; do ping -q -c 1 -W 1 "$address" >/dev/null && echo "$address"; done'
        outcome = node.run(["pod", "exec", pod, "sh", "-c", script, "sh", *addresses])
        return outcome.stdout.split()

    # Reporting.

    def title(self, text: str) -> None:
        self.chapters += 1
        print(f"\n{self.paint(1, f'{self.chapters}. {text}')}", flush=True)

    def print_command(self, node: Node, command: str) -> None:
        print(f"  {self.paint(36, f'{node.name}#')} {command}")

    def show(self, node: Node, command: str) -> subprocess.CompletedProcess[str]:
        self.print_command(node, command)
        outcome = node.run(command)
        for line in (outcome.stdout + outcome.stderr).splitlines():
            if line.strip():
                print(f"    {line}")
        sys.stdout.flush()
        return outcome

    def fact(self, holds: bool, text: str) -> None:
        self.clear()
        if not holds:
            raise _Untrue(text)
        self.facts += 1
        print(f"  {self.paint(32, self.tick)} {text}", flush=True)

    def wait(self, text: str, holds: Callable[[], bool], seconds: float, since: float | None = None) -> None:
        """A fact that may take a moment; how long it took is reported, from ``since`` if given."""
        began = time.monotonic()
        while not holds():
            passed = time.monotonic() - began
            if passed > seconds:
                self.fact(False, f"{text} (not within {seconds:.0f} s)")
            self.progress(f"{text}: {passed:.1f} s")
            time.sleep(0.02)
        took = time.monotonic() - (since or began)
        self.fact(True, f"{text} ({took:.2f} s)")

    def progress(self, text: str) -> None:
        """A line that the next one replaces; on a terminal only."""
        if self.live:
            print(f"\r\x1b[K  ... {text}", end="", flush=True)

    def clear(self) -> None:
        if self.live:
            print("\r\x1b[K", end="")

    def logs(self) -> None:
        """What was there instead, for whoever must find out."""
        for node in (*self.nodes.values(), self.router):
            for command in ("bgpctl status", "ip route show proto bird"):
                print(f"\n--- {node.name}# {command}", file=sys.stderr)
                outcome = node.run(command)
                print((outcome.stdout + outcome.stderr).rstrip(), file=sys.stderr)
            text = node.log.read_text(errors="replace") if node.log.exists() else ""
            print(f"\n--- the end of {node.name}'s log", file=sys.stderr)
            print("\n".join(text.splitlines()[-15:]), file=sys.stderr)

    def paint(self, code: int, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour else text
