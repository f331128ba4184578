"""``python -m bench.pods``: pods of one node by CNI, beside Debian's ``host-local`` and ``ptp`` in the same run; and
how soon a pod is reached from another node.

bgpd and the other take turns, so that a busy moment of the machine is nobody's alone. Each figure is the time from the
start of the plugin's process to its end, as a runtime waits for it. Needs root, and containernetworking-plugins.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from testing.daemons import Bgpd
from testing.namespaces import Namespace, Net, wait_until
from testing.resources import bgp_configuration, node, pool

THEIRS = Path("/usr/lib/cni")
OURS = Path(sys.executable).parent
ADDRESSES = {"node-a": "10.0.1.1", "node-b": "10.0.1.2"}
PATIENCE = 5.0
"""Seconds for a pod to be reached."""

Plugin = Callable[[str, str, str], dict[str, Any]]
"""(verb, container id, path of the network namespace) to the result."""


def plugin(program: Path, host: Namespace, config: Mapping[str, Any]) -> Plugin:
    """One that is run on ``host``."""
    text = json.dumps(config)

    def call(verb: str, container: str, netns: str) -> dict[str, Any]:
        environment = {
            **os.environ,
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": netns,
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(THEIRS),
        }
        words = ["nsenter", f"--net=/run/netns/{host.name}", str(program)]
        done = subprocess.run(words, input=text, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{program.name} {verb}: {done.stdout}{done.stderr}")
        found: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
        return found

    return call


def percentiles(name: str, seconds: list[float]) -> str:
    ordered = sorted(seconds)
    p50, p99 = statistics.median(ordered), ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return f"{name:42} {len(ordered):5}  p50 {p50 * 1000:7.1f} ms  p99 {p99 * 1000:7.1f} ms"


def timed(call: Plugin, container: str, netns: str) -> float:
    began = time.monotonic()
    call("ADD", container, netns)
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.pods", description=__doc__.split("\n\n")[0])
    parser.add_argument("--adds", type=int, default=1000, help="of addresses alone (default 1000)")
    parser.add_argument("--pods", type=int, default=100, help="with their links (default 100)")
    arguments = parser.parse_args()
    if not (THEIRS / "host-local").exists():
        raise SystemExit(f"{THEIRS}/host-local: expected containernetworking-plugins to be installed")
    with Net() as net:
        run(net, arguments.adds, arguments.pods)


def run(net: Net, adds: int, pods: int) -> None:
    hosts = {name: net.namespace(name) for name in ADDRESSES}
    net.lan({host: [f"{ADDRESSES[name]}/24"] for name, host in hosts.items()})
    resources = [
        bgp_configuration(),
        *(node(name, f"{address}/24") for name, address in ADDRESSES.items()),
        pool("pods", "10.48.0.0/16"),
        {
            **pool("single", "10.49.0.0/24"),
            "spec": {"cidr": "10.49.0.0/24", "blockSize": 32, "nodeSelector": "!all()"},
        },
    ]
    first = Bgpd(hosts["node-a"], "node-a", {"cluster": resources})
    second = Bgpd(hosts["node-b"], "node-b", config={"datastore": {"path": str(first.resources)}})
    for bgpd in (first, second):
        bgpd.start(wait=False)
    for bgpd in (first, second):
        bgpd.wait_in_sync()
    host = hosts["node-a"]
    shared = {"cniVersion": "1.0.0", "name": "bench"}
    ours = {"type": "bgpd-ipam", "nodename": "node-a", "socket": str(first.socket), "ipv4_pools": ["pods"]}
    theirs = {
        "type": "host-local",
        "ranges": [[{"subnet": "10.50.0.0/16"}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": str(first.directory / "host-local"),
    }
    without = {**ours, "socket": "/none", "resources": str(first.resources)}

    addresses = {
        "bgpd-ipam, by the daemon": plugin(OURS / "bgpd-ipam", host, {**shared, "type": "x", "ipam": ours}),
        "host-local": plugin(THEIRS / "host-local", host, {**shared, "type": "x", "ipam": theirs}),
    }
    taken: dict[str, list[float]] = {name: [] for name in addresses}
    for number in range(adds):
        for name, call in addresses.items():
            taken[name].append(timed(call, f"a{number}", "/none"))
    for name, seconds in taken.items():
        print(percentiles(f"address: {name}", seconds), flush=True)
    direct = plugin(OURS / "bgpd-ipam", host, {**shared, "name": "direct", "type": "x", "ipam": without})
    few = [timed(direct, f"d{number}", "/none") for number in range(max(1, adds // 10))]
    print(percentiles("address: bgpd-ipam, its daemon away", few), flush=True)

    links = {
        "bgpd-cni": plugin(
            OURS / "bgpd-cni", host, {**shared, "name": "pods", "type": "bgpd-cni", "ipam": ours}
        ),
        "ptp and host-local": plugin(
            THEIRS / "ptp", host, {**shared, "name": "pods", "type": "ptp", "ipam": theirs}
        ),
    }
    taken = {name: [] for name in links}
    for number in range(pods):
        for name, call in links.items():
            pod = net.namespace(f"p{number}{name[0]}")
            taken[name].append(timed(call, f"p{number}", f"/run/netns/{pod.name}"))
            call("DEL", f"p{number}", f"/run/netns/{pod.name}")
            net.remove(pod)
    for name, seconds in taken.items():
        print(percentiles(f"pod: {name}", seconds), flush=True)

    config = {**shared, "name": "reach", "type": "bgpd-cni"}
    for title, pool_name in (("first of its block", "single"), ("in a block that is known", "pods")):
        call = plugin(OURS / "bgpd-cni", host, {**config, "ipam": {**ours, "ipv4_pools": [pool_name]}})
        whole, after = [], []
        for number in range(12):
            pod = net.namespace(f"r{number}{pool_name[0]}")
            began = time.monotonic()
            result = call("ADD", f"r{number}{pool_name}", f"/run/netns/{pod.name}")
            given = time.monotonic()
            address = result["ips"][0]["address"].partition("/")[0]
            wait_until(
                lambda address=address: reached(hosts["node-b"], address), PATIENCE, address, interval=0.001
            )
            whole.append(time.monotonic() - began)
            after.append(time.monotonic() - given)
        print(percentiles(f"reached, from ADD: {title}", whole), flush=True)
        print(percentiles(f"reached, after ADD: {title}", after), flush=True)


def reached(host: Namespace, address: str) -> bool:
    words = ["nsenter", f"--net=/run/netns/{host.name}", "ping", "-q", "-c", "1", "-W", "0.05", address]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


if __name__ == "__main__":
    main()
