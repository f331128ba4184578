"""The case of one node's pods, by CNI: addresses alone and pods with their links, and how soon a pod is reached.

Called by ``__main__``, as ``tables`` is. Beside ``bgpd-ipam`` and ``bgpd-cni`` stand ``host-local`` and ``ptp`` of
Debian's containernetworking-plugins, which do the same for a node that nobody hears of. A figure is the time from
the start of a plugin's process to its end, as a runtime waits for it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.nodes import quantile
from bench.work import HOST_LOCAL, Failed, Figures, Work
from testing.daemons import Bgpd
from testing.namespaces import Namespace, Net, wait_until
from testing.resources import bgp_configuration, node, pool

THEIRS = Path("/usr/lib/cni")
OURS = Path(sys.executable).parent
ADDRESSES = {"node-a": "10.0.1.1", "node-b": "10.0.1.2"}
PODS, REACHED = 100, 12
"""Pods with links, and pods that another node reaches."""
PATIENCE = 5.0
"""Seconds for a pod to be reached."""

Plugin = Callable[[str, str, str], dict[str, Any]]
"""(verb, container id, path of the network namespace) to the result."""


async def cni(work: Work, name: str) -> Figures:
    """``work.size`` addresses that stay, as the pods of a node do; then pods that come and go."""
    if name == HOST_LOCAL and not (THEIRS / HOST_LOCAL).exists():
        raise Failed(f"{THEIRS / HOST_LOCAL}: expected containernetworking-plugins to be installed")
    with Net() as net:
        hosts = {label: net.namespace(label) for label in ADDRESSES}
        host = hosts["node-a"]
        if name == HOST_LOCAL:
            ipam: dict[str, Any] = {
                "type": HOST_LOCAL,
                "ranges": [[{"subnet": "10.50.0.0/16"}]],
                "routes": [{"dst": "0.0.0.0/0"}],
                "dataDir": str(net.directory / HOST_LOCAL),
            }
            return {
                **_addresses(_plugin(THEIRS / HOST_LOCAL, host, "x", ipam), work.size),
                **_pods(_plugin(THEIRS / "ptp", host, "ptp", ipam), net),
            }
        first = _cluster(net, hosts)
        ipam = {
            "type": "bgpd-ipam",
            "nodename": "node-a",
            "socket": str(first.socket),
            "ipv4_pools": ["pods"],
        }
        alone = {**ipam, "socket": "/none", "resources": str(first.resources)}
        found = _addresses(_plugin(OURS / "bgpd-ipam", host, "x", ipam), work.size)
        found |= _pods(_plugin(OURS / "bgpd-cni", host, "bgpd-cni", ipam), net)
        away = _times(_plugin(OURS / "bgpd-ipam", host, "x", alone), work.size // 10, "away")
        found["away_p50_ms"] = quantile(away, 0.5)
        for metric, pools in (("reached_first_p50_ms", "single"), ("reached_p50_ms", "pods")):
            plugin = _plugin(OURS / "bgpd-cni", host, "bgpd-cni", {**ipam, "ipv4_pools": [pools]})
            found[metric] = quantile(_reached(plugin, net, hosts["node-b"], pools), 0.5)
        return found


def _cluster(net: Net, hosts: Mapping[str, Namespace]) -> Bgpd:
    """Two nodes that follow one directory of resources; the daemon of the first."""
    net.lan({host: [f"{ADDRESSES[name]}/24"] for name, host in hosts.items()})
    single = pool("single", "10.49.0.0/24")
    single["spec"] |= {"blockSize": 32, "nodeSelector": "!all()"}  # for who asks, a block an address
    resources = [
        bgp_configuration(),
        *(node(name, f"{address}/24") for name, address in ADDRESSES.items()),
        pool("pods", "10.48.0.0/16"),
        single,
    ]
    first = Bgpd(hosts["node-a"], "node-a", {"cluster": resources})
    second = Bgpd(hosts["node-b"], "node-b", config={"datastore": {"path": str(first.resources)}})
    for bgpd in (first, second):
        bgpd.start(wait=False)
    for bgpd in (first, second):
        bgpd.wait_in_sync()
    return first


def _plugin(program: Path, host: Namespace, kind: str, ipam: Mapping[str, Any]) -> Plugin:
    """One that is run on ``host``."""
    config = json.dumps({"cniVersion": "1.0.0", "name": "bench", "type": kind, "ipam": ipam})

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
        done = subprocess.run(
            words, input=config, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise Failed(f"{program.name} {verb}: {(done.stdout + done.stderr).strip()}")
        result: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
        return result

    return call


def _timed(plugin: Plugin, container: str, netns: str) -> float:
    """Milliseconds of an ADD."""
    began = time.monotonic()
    plugin("ADD", container, netns)
    return (time.monotonic() - began) * 1000


def _times(plugin: Plugin, count: int, prefix: str) -> list[float]:
    return [_timed(plugin, f"{prefix}{number}", "/none") for number in range(max(1, count))]


def _addresses(plugin: Plugin, count: int) -> Figures:
    times = _times(plugin, count, "a")
    return {"address_p50_ms": quantile(times, 0.5), "address_p99_ms": quantile(times, 0.99)}


def _pods(plugin: Plugin, net: Net) -> Figures:
    times = []
    for number in range(PODS):
        pod = net.namespace(f"p{number}")
        times.append(_timed(plugin, f"p{number}", f"/run/netns/{pod.name}"))
        plugin("DEL", f"p{number}", f"/run/netns/{pod.name}")
        net.remove(pod)
    return {"pod_p50_ms": quantile(times, 0.5), "pod_p99_ms": quantile(times, 0.99)}


def _reached(plugin: Plugin, net: Net, other: Namespace, label: str) -> list[float]:
    """Milliseconds from the start of an ADD until the other node has an answer of the pod."""
    times = []
    for number in range(REACHED):
        pod = net.namespace(f"{label}{number}")
        began = time.monotonic()
        result = plugin("ADD", f"{label}{number}", f"/run/netns/{pod.name}")
        address = result["ips"][0]["address"].partition("/")[0]
        wait_until(lambda address=address: _answers(other, address), PATIENCE, address, interval=0.001)
        times.append((time.monotonic() - began) * 1000)
    return times


def _answers(host: Namespace, address: str) -> bool:
    words = ["nsenter", f"--net=/run/netns/{host.name}", "ping", "-q", "-c", "1", "-W", "0.05", address]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0
