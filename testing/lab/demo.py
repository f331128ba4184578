"""The story of ``containerlab/workers.clab.yml``, run on a live cluster: ``bgpd lab demo``, ``make demo``.

Each command shown is run in a node and its output is what it printed; each line with a tick is a fact that was tested.
The first fact that does not hold ends the story with exit code 1. The cluster is laid from a copy of the topology's
directory, so that the story may edit the resources, and is ended however the story ends.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import yaml

from bgpd.config.yaml import load_documents
from testing.lab.lab import Lab, LabError, Node

ADDRESSES = {"control": "10.0.1.20", "worker1": "10.0.1.30", "worker2": "10.0.1.31"}
BLOCKS = {"control": "10.48.0.128/26", "worker1": "10.48.0.192/26", "worker2": "10.48.0.0/26"}
PODS = {
    "control": {"dns-1": "10.48.0.129", "dns-2": "10.48.0.130"},
    "worker1": {"api-1": "10.48.0.193", "api-2": "10.48.0.194", "api-3": "10.48.0.195"},
    "worker2": {f"web-{number}": f"10.48.0.{number}" for number in range(1, 11)},
}
UNUSED = "10.48.0.50"
BORROWED, BORROWED_ORDINAL = "10.48.0.40", 40
BORROWER = "batch-1"


class _Untrue(Exception):
    """A fact that did not hold."""


def run_story(topology: Path, name: str | None = None) -> int:
    """Lays, runs, ends; the exit code. ``TopologyError`` and ``LabError`` as ``Lab`` raises them."""
    checked = Lab.load(topology, name)
    if missing := ADDRESSES.keys() - checked.nodes.keys():
        raise LabError(f"{topology}: the story needs the nodes {', '.join(sorted(missing))}")
    directory = Path(tempfile.mkdtemp(prefix="bgpd-demo-"))
    try:
        copy = shutil.copytree(topology.absolute().parent, directory / "lab", ignore_dangling_symlinks=True)
        lab = Lab.load(copy / topology.name, name or f"{checked.name}-demo")
        return _Story(lab, copy / "resources").run_story()
    finally:
        shutil.rmtree(directory)


class _Story:
    def __init__(self, lab: Lab, resources: Path) -> None:
        self.lab = lab
        self.nodes = {name: lab.nodes[name] for name in ADDRESSES}
        self.block_file = resources / "ipamblock-worker2.yaml"
        self.block_text = self.block_file.read_text()
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
            self.title("A cluster: three nodes on one subnet, a block of addresses each, a pod an address")
            self.progress("laying the namespaces")
            before = time.monotonic()
            with self.lab:
                self.fact(True, f"{len(self.lab.nodes)} nodes, 15 pods in {time.monotonic() - before:.1f} s")
                try:
                    self.sessions()
                    self.routes()
                    self.reach()
                    self.unused()
                    self.borrow()
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
        self.title("bgpd on every node: full mesh, from the Node resources alone")
        self.wait("every bgpd is ready", lambda: all(self.ready(node) for node in self.nodes.values()), 30)
        self.wait("every session is up", lambda: all(map(self.meshed, self.nodes.values())), 20)
        self.show(self.nodes["worker2"], "bgpctl peers")

    def routes(self) -> None:
        self.title("The kernel: an own block is a blackhole, the others' lead to their nodes")
        for name, node in self.nodes.items():
            expected = self.expected_routes(name)
            self.wait(
                f"{name} has exactly its routes",
                lambda node=node, expected=expected: self.bird_routes(node) == expected,  # type: ignore[misc]
                10,
            )
            self.show(node, "ip route" if name == "worker2" else "ip route show proto bird")

    def reach(self) -> None:
        self.title("Pods of all nodes reach each other")
        for name, pods in PODS.items():
            pod = next(iter(pods))
            others = [address for other, them in PODS.items() if other != name for address in them.values()]
            heard = self.heard(self.nodes[name], pod, others)
            self.fact(
                heard == others,
                f"{pod} on {name}: {len(heard)} of {len(others)} pods of the other nodes answer",
            )

    def unused(self) -> None:
        self.title(f"{UNUSED} is nobody's: a packet to it dies at the owner of its block")
        outcome = self.show(self.nodes["control"], f"pod exec dns-1 ping -c 3 -i 0.2 -W 0.5 {UNUSED}")
        self.fact("100% packet loss" in outcome.stdout, "no answer")
        self.fact("exceeded" not in outcome.stdout, "and no packet went round until its TTL ended")
        outcome = self.nodes["worker2"].run(f"ip route show match {UNUSED} proto bird")
        self.fact("blackhole 10.48.0.0/26" in outcome.stdout, "on worker2 it meets the blackhole")

    def borrow(self) -> None:
        self.title(f"worker1 borrows {BORROWED} of worker2's block for a pod")
        self.allocate()
        before = time.monotonic()
        self.show(self.nodes["worker1"], f"pod add {BORROWER} {BORROWED}")
        route = f"{BORROWED} via {ADDRESSES['worker1']} dev ens5"
        others = [self.nodes["control"], self.nodes["worker2"]]
        self.wait(
            "the other nodes have its /32",
            lambda: all(route in self.bird_routes(node) for node in others),
            5,
            since=before,
        )
        self.show(self.nodes["worker2"], "ip route show proto bird")
        for name, pod in (("control", "dns-1"), ("worker2", "web-1")):
            self.fact(
                self.heard(self.nodes[name], pod, [BORROWED]) == [BORROWED], f"{pod} on {name} reaches it"
            )
        why = self.show(self.nodes["worker2"], f"bgpctl why {BORROWED}")
        self.fact(
            why.returncode == 0 and ADDRESSES["worker1"] in why.stdout, "bgpctl why shows the way it came"
        )
        blocks = self.show(self.nodes["worker2"], "bgpctl blocks")
        self.fact(BORROWED in blocks.stdout and "worker1" in blocks.stdout, "bgpctl blocks says who has it")

    def kill(self) -> None:
        self.title("kill -9 of worker2's bgpd while pods talk")
        worker2, control = self.nodes["worker2"], self.nodes["control"]
        before = self.bird_routes(worker2)
        with (
            worker2.popen("ip monitor route", stdout=subprocess.PIPE, text=True) as there,
            control.popen("ip monitor route", stdout=subprocess.PIPE, text=True) as here,
            control.popen(
                "pod exec dns-1 ping -q -i 0.01 -w 60 10.48.0.1", stdout=subprocess.PIPE, text=True
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
        self.title("The pod ends, the address goes back")
        before = time.monotonic()
        self.show(self.nodes["worker1"], f"pod del {BORROWER}")
        self.write_block(self.block_text)
        print(f"  {self.block_file.name}: address {BORROWED_ORDINAL} is nobody's again")
        self.wait(
            f"{BORROWED} is gone from every node",
            lambda: all(
                self.bird_routes(node) == self.expected_routes(name) for name, node in self.nodes.items()
            ),
            5,
            since=before,
        )

    # Facts.

    def expected_routes(self, name: str) -> set[str]:
        """What ``proto bird`` must be on a node, in the words of ``ip route``."""
        others = {
            f"{block} via {ADDRESSES[other]} dev ens5" for other, block in BLOCKS.items() if other != name
        }
        return {f"blackhole {BLOCKS[name]}"} | others

    def bird_routes(self, node: Node) -> set[str]:
        lines = node.run("ip route show proto bird", check=True).stdout.splitlines()
        return {" ".join(line.split()) for line in lines}

    def ready(self, node: Node) -> bool:
        if not node.running:
            self.fact(False, f"bgpd runs on {node.name}")
        return node.run("bgpctl health ready").returncode == 0

    def meshed(self, node: Node) -> bool:
        """Whether a node's sessions with all others are established."""
        outcome = node.run("bgpctl peers -o json")
        if outcome.returncode != 0:
            return False
        states = {peer["address"]: peer["state"] for peer in json.loads(outcome.stdout)["peers"]}
        others = {address for name, address in ADDRESSES.items() if name != node.name}
        return states.keys() == others and set(states.values()) == {"established"}

    def heard(self, node: Node, pod: str, addresses: Iterable[str]) -> list[str]:
        """Which of the addresses answer a ping out of a pod."""
        script = 'for address in "$@"; do ping -q -c 1 -W 1 "$address" >/dev/null && echo "$address"; done'
        outcome = node.run(["pod", "exec", pod, "sh", "-c", script, "sh", *addresses])
        return outcome.stdout.split()

    def allocate(self) -> None:
        """Writes into worker2's IPAMBlock what Calico's IPAM on worker1 would."""
        block = load_documents(self.block_text, str(self.block_file))[0].value
        spec = block["spec"]
        spec["attributes"].append(
            {
                "handle_id": f"k8s-pod-network.{BORROWER}",
                "secondary": {"namespace": "default", "node": "worker1", "pod": BORROWER},
            }
        )
        spec["allocations"][BORROWED_ORDINAL] = len(spec["attributes"]) - 1
        spec["unallocated"].remove(BORROWED_ORDINAL)
        self.write_block(yaml.safe_dump(block, sort_keys=False, default_flow_style=None))
        print(
            f"  {self.block_file.name}: address {BORROWED_ORDINAL} of 10.48.0.0/26 is worker1's, for {BORROWER}"
        )

    def write_block(self, text: str) -> None:
        draft = self.block_file.with_suffix(".draft")
        draft.write_text(text)
        draft.replace(self.block_file)

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
        for node in self.nodes.values():
            for command in ("bgpctl status", "ip route show proto bird"):
                print(f"\n--- {node.name}# {command}", file=sys.stderr)
                outcome = node.run(command)
                print((outcome.stdout + outcome.stderr).rstrip(), file=sys.stderr)
            text = node.log.read_text(errors="replace") if node.log.exists() else ""
            print(f"\n--- the end of {node.name}'s log", file=sys.stderr)
            print("\n".join(text.splitlines()[-15:]), file=sys.stderr)

    def paint(self, code: int, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour else text
