"""The plugins as the CNI project's own runtime library runs them: cnitool of the specification 1.1."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testing.namespaces import Namespace, Net

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bgpd-cluster-test"
CNITOOL = CACHE / "cnitool"
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(not CNITOOL.exists(), reason="no cnitool: tests/cluster/build-cnitool needs Go"),
]
RESOURCES = """\
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: four}
spec: {cidr: 10.48.0.0/24, blockSize: 28}
---
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: node-a}
spec: {}
"""


class Runtime:
    """cnitool on a host, with a network of ours."""

    def __init__(self, net: Net, directory: Path, version: str) -> None:
        self.host, self.directory = net.namespace("host"), directory
        (directory / "resources").mkdir()
        (directory / "resources" / "all.yaml").write_text(RESOURCES)
        options = {
            "type": "bgpd-ipam",
            "nodename": "node-a",
            "resources": str(directory / "resources"),
            "socket": "/none",
        }
        network = {"cniVersion": version, "name": "pods", "plugins": [{"type": "bgpd-cni", "ipam": options}]}
        (directory / "10-pods.conflist").write_text(json.dumps(network))

    def run(self, verb: str, pod: Namespace) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "NETCONFPATH": str(self.directory),
            "CNI_PATH": str(Path(sys.executable).parent),
        }
        words = ["ip", "netns", "exec", self.host.name, str(CNITOOL), verb, "pods", f"/run/netns/{pod.name}"]
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=60)


def used(resources: Path) -> int:
    """How many addresses of all blocks somebody has."""
    blocks = [json.loads(path.read_text()) for path in resources.glob("ipamblock.*.json")]
    return sum(len(block["spec"]["attributes"]) for block in blocks)


@pytest.fixture(params=["0.4.0", "1.0.0", "1.1.0"])
def runtime(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Runtime, Net]]:
    with Net() as net:
        yield Runtime(net, tmp_path, request.param), net


def test_cnitool_adds_checks_and_deletes(runtime: tuple[Runtime, Net]) -> None:
    tool, net = runtime
    pods = [net.namespace("p1"), net.namespace("p2")]
    addresses = []
    for pod in pods:
        done = tool.run("add", pod)
        assert done.returncode == 0, done.stdout + done.stderr
        result: dict[str, Any] = json.loads(done.stdout)
        addresses.append(result["ips"][0]["address"].partition("/")[0])
    assert len(set(addresses)) == 2 and used(tool.directory / "resources") == 2
    pods[0].run("ping", "-c1", "-W3", addresses[1])
    done = tool.run("check", pods[0])
    assert done.returncode == 0, done.stdout + done.stderr
    pods[0].ip("address", "flush", "dev", "eth0")
    done = tool.run("check", pods[0])
    assert done.returncode != 0 and "eth0" in done.stdout + done.stderr
    for pod in pods:
        for _ in range(2):
            done = tool.run("del", pod)
            assert done.returncode == 0, done.stdout + done.stderr
    assert used(tool.directory / "resources") == 0


def test_cnitool_status_names_what_is_wrong(runtime: tuple[Runtime, Net]) -> None:
    tool, net = runtime
    pod = net.namespace("p1")
    assert tool.run("status", pod).returncode == 0
    (tool.directory / "resources" / "all.yaml").unlink()
    done = tool.run("status", pod)
    if '"1.1.0"' in (tool.directory / "10-pods.conflist").read_text():
        assert done.returncode != 0 and "node-a" in done.stdout + done.stderr
