"""Containers of podman, by its CNI backend, on our plugins: run, reached by each other, gone.

podman, crun and a static busybox are Debian's (``make cluster-test`` installs them). No image is fetched, and all that
podman keeps is in the test's directory. Resource control is off: podman 4.3 runs nothing under the mixed hierarchies of
control groups that some machines have, so it sees a fresh one, in a mount namespace of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.namespaces import Net, wait_until
from tests.cluster.servers import missing
from tests.cluster.test_cnitool import RESOURCES, used

BUSYBOX = Path("/bin/busybox")
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(bool(missing("podman", "crun")), reason="podman or crun is missing"),
    pytest.mark.skipif(not BUSYBOX.exists(), reason="busybox-static is missing"),
]
PLUGINS = Path(sys.executable).parent
MOUNTS = """
umount --recursive --lazy /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 none /sys/fs/cgroup
echo ready
exec sleep infinity
"""
LIMITS = ("--cgroups=disabled", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024")


class Podman:
    """podman on a host of its own, with one network, ``pods``."""

    def __init__(self, net: Net) -> None:
        self.host, self.directory = net.namespace("host"), net.directory
        self.host.ip("link", "set", "lo", "up")
        self._mounts = self.host.popen("unshare", "--mount", "sh", "-ec", MOUNTS, name="mounts")
        wait_until(lambda: "ready" in self._mounts.log, 5, "mounts")
        self.resources = self.directory / "resources"
        for name in ("resources", "networks", "rootfs/bin"):
            (self.directory / name).mkdir(parents=True)
        (self.resources / "all.yaml").write_text(RESOURCES)
        ipam = {
            "type": "bgpd-ipam",
            "nodename": "node-a",
            "resources": str(self.resources),
            "socket": "/none",
        }
        plugins = [
            {"type": "bgpd-cni", "capabilities": {"ips": True}, "ipam": ipam},
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ]
        network = {"cniVersion": "1.0.0", "name": "pods", "plugins": plugins}
        (self.directory / "networks/pods.conflist").write_text(json.dumps(network))
        (self.directory / "containers.conf").write_text(
            f'[network]\nnetwork_backend = "cni"\ncni_plugin_dirs = ["{PLUGINS}", "/usr/lib/cni"]\n'
            f'network_config_dir = "{self.directory}/networks"\n'
            '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\n'
        )
        (self.directory / "storage.conf").write_text(
            f'[storage]\ndriver = "vfs"\ngraphroot = "{self.directory}/graph"\nrunroot = "{self.directory}/run"\n'
        )
        self.rootfs = self.directory / "rootfs"
        shutil.copy(BUSYBOX, self.rootfs / "bin")
        for name in ("sh", "sleep", "ping", "nc", "ip"):
            (self.rootfs / "bin" / name).symlink_to("busybox")

    def __call__(self, *words: object) -> str:
        environment = {
            **os.environ,
            "CONTAINERS_CONF": str(self.directory / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(self.directory / "storage.conf"),
        }
        command = [
            *("nsenter", f"--target={self._mounts.pid}", "--mount", "--net", "--", "podman"),
            *("--tmpdir", str(self.directory / "tmp"), *map(str, words)),
        ]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, name: str, *words: str, command: str = "sleep 300") -> str:
        """A container in the background; its address."""
        self(
            *("run", "-d", "--name", name, *LIMITS, "--network", "pods", *words),
            *("--rootfs", self.rootfs, *command.split()),
        )
        return self("inspect", name, "--format", "{{.NetworkSettings.Networks.pods.IPAddress}}").strip()

    def links(self) -> list[str]:
        return [link["ifname"] for link in self.host.ip_json("link") if link["ifname"].startswith("cali")]


@pytest.fixture
def podman() -> Iterator[Podman]:
    with Net() as net:
        made = Podman(net)
        try:
            yield made
        finally:
            made("rm", "--all", "--force", "--time", "0")


def test_containers_come_talk_and_go(podman: Podman) -> None:
    first = podman.start("first", "--publish", "8080:80", command="nc -ll -p 80 -e echo hello")
    second = podman.start("second", "--ip", "10.48.0.9")
    assert second == "10.48.0.9" and first != second
    assert used(podman.resources) == len(podman.links()) == 2
    podman("exec", "second", "ping", "-c1", "-W3", first)
    said = podman("exec", "second", "sh", "-c", f"nc -w 3 {first} 80 </dev/null")
    assert "hello" in said
    podman("rm", "--force", "--time", "0", "second")
    assert used(podman.resources) == len(podman.links()) == 1
    podman("rm", "--force", "--time", "0", "first")
    assert used(podman.resources) == 0 and podman.links() == []
    assert podman.host.main_text() == []
