"""The cluster under faults, a packet every 20 ms between each two pods, and the oracle: what each kernel must hold.

``make chaos MINUTES=n SEED=s``; ``.ci/run`` has a short one. After each fault, within its bound: every kernel holds the
routes that the resources and the other nodes make, no more and no less; every daemon is ready and every session up; of
the packets no more is lost than the fault may cost, none for most. At the end no process has grown.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from random import Random

from testing.namespaces import Net
from tests.chaos.faults import HOLD, Fault, plan
from tests.netns.cluster import Cluster, Ping

PODS = {"control": "10.48.0.130", "worker1": "10.48.0.200", "worker2": "10.48.0.5"}
EVERY = 0.02
"""Seconds between two packets of a pair."""
GROWTH_KIB, GROWTH_DESCRIPTORS, GROWTH_THREADS = 24_000, 12, 4


class Failed(AssertionError):
    """An invariant does not hold."""


class Chaos:
    """One run."""

    def __init__(self, net: Net, seed: int) -> None:
        self.seed = seed
        self.cluster = Cluster(net, config={"bgp": {"defaults": {"hold_time": HOLD}}}).start()
        self.pods = {name: self.cluster.pod(name, address) for name, address in PODS.items()}
        self._sizes: dict[int, tuple[int, int, int]] = {}
        self.sent = self.lost = 0

    def run(self, seconds: float, most: int = sys.maxsize) -> int:
        """Faults for so long; how many. ``Failed`` names the one after which something is wrong."""
        end, done = time.monotonic() + seconds, 0
        for fault, node, random in itertools.islice(plan(self.seed, self.cluster.names), most):
            if time.monotonic() >= end:
                break
            done += 1
            begun = time.monotonic()
            sent, lost = self._one(fault, node, random)
            took = time.monotonic() - begun
            print(f"{done:4} {fault.name:15} {node:8} {took:5.1f} s  {lost} of {sent} lost", flush=True)
        return done

    def _one(self, fault: Fault, node: str, random: Random) -> tuple[int, int]:
        """One fault; packets sent and lost meanwhile."""
        pairs = list(itertools.permutations(PODS, 2))
        pings = [Ping(self.pods[source], PODS[target], EVERY) for source, target in pairs]
        fault.do(self.cluster, node, random)
        begun = time.monotonic()
        try:
            self._settled(fault, begun + fault.settled)
        finally:
            counts = [ping.lost() for ping in pings]
        for (source, target), (sent, lost) in zip(pairs, counts, strict=True):
            most = fault.cut_off / EVERY if node in (source, target) else 0
            if lost > most:
                words = f"{lost} of {sent} lost from {source} to {target}, may be {most:g}"
                raise Failed(f"{fault.name} on {node}: {words}")
        self._grown(fault)
        sent, lost = sum(sent for sent, _ in counts), sum(lost for _, lost in counts)
        self.sent, self.lost = self.sent + sent, self.lost + lost
        return sent, lost

    def _settled(self, fault: Fault, end: float) -> None:
        """Every kernel and every daemon, in the end and still a moment later."""
        for name, bgpd in self.cluster.bgpds.items():
            left = max(1.0, end - time.monotonic())
            bgpd.wait(lambda bgpd=bgpd: bgpd.established(*bgpd.peers()), f"sessions after {fault.name}", left)
            bgpd.wait_in_sync(max(1.0, end - time.monotonic()))
            self.cluster.wait_routes(name, self.cluster.expected(name), max(1.0, end - time.monotonic()))
        time.sleep(0.2)
        for name in self.cluster.names:
            if self.cluster.routes(name) != sorted(self.cluster.expected(name)):
                raise Failed(
                    f"{fault.name}: {name} had its routes, and has others now: {self.cluster.routes(name)}"
                )

    def _grown(self, fault: Fault) -> None:
        """No process is larger than it was when first seen, but for what a table and its caches may take."""
        for name, bgpd in self.cluster.bgpds.items():
            assert bgpd.process is not None
            now = _size(bgpd.process.pid)
            first = self._sizes.setdefault(bgpd.process.pid, now)
            limits = (GROWTH_KIB, GROWTH_DESCRIPTORS, GROWTH_THREADS)
            for what, before, after, most in zip(
                ("KiB", "descriptors", "threads"), first, now, limits, strict=True
            ):
                if after - before > most:
                    raise Failed(f"after {fault.name}: bgpd on {name} has {after} {what}, {before} at first")


def _size(pid: int) -> tuple[int, int, int]:
    """Resident KiB, descriptors, threads."""
    with open(f"/proc/{pid}/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    return int(fields["VmRSS"].split()[0]), len(os.listdir(f"/proc/{pid}/fd")), int(fields["Threads"])


def main() -> None:
    parser = argparse.ArgumentParser(description="bgpd under random faults, the same for the same seed.")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    with Net() as net:
        chaos = Chaos(net, arguments.seed)
        try:
            done = chaos.run(60 * arguments.minutes)
        except Exception:
            for bgpd in chaos.cluster.bgpds.values():
                print(f"--- {bgpd.name}\n{bgpd.log[-4000:]}")
            raise
        print(
            f"{done} faults, {chaos.lost} of {chaos.sent} packets lost, all inside the bounds; seed {arguments.seed}"
        )


if __name__ == "__main__":
    main()
