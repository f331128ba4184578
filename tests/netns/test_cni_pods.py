"""``bgpd-cni`` in the real kernel: a pod's network as Calico lays it, taken away again whatever is left of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bgpd.cni.netlink import Inside, Netlink
from testing.namespaces import Namespace, Net, wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

PLUGIN = str(Path(sys.executable).with_name("bgpd-cni"))
RESOURCES = """\
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: four}
spec: {cidr: 10.48.0.0/24, blockSize: 28}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: six}
spec: {cidr: "fd00:48::/112"}
---
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: node-a}
spec: {}
"""


class Ground:
    """A host, pods, and a runtime that runs the plugin."""

    def __init__(self, net: Net, directory: Path) -> None:
        self.net, self.directory = net, directory
        self.host = net.namespace("host")
        self.config: dict[str, Any] = {
            "cniVersion": "1.1.0",
            "name": "net",
            "type": "bgpd-cni",
            "ipam": {
                "type": "bgpd-ipam",
                "nodename": "node-a",
                "resources": str(directory),
                "socket": str(directory / "none"),
                "assign_ipv6": "true",
            },
        }

    def plugin(
        self,
        verb: str,
        container: str,
        pod: Namespace | None,
        args: str = "",
        commands: str | None = None,
        **config: Any,
    ) -> tuple[int, Any]:
        """``commands`` is the PATH of the plugin."""
        ip = shutil.which("ip")
        assert ip is not None
        environment = {
            **os.environ,
            "PATH": os.environ["PATH"] if commands is None else commands,
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": f"/run/netns/{pod.name}" if pod else "",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": "/nowhere",
            "CNI_ARGS": args,
        }
        done = subprocess.run(
            [ip, "netns", "exec", self.host.name, PLUGIN],
            input=json.dumps({**self.config, **config}),
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            timeout=60,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, json.loads(done.stdout) if done.stdout else None

    def used(self) -> list[str]:
        found = []
        for path in self.directory.glob("ipamblock.*.json"):
            spec = json.loads(path.read_text())["spec"]
            found += [entry["handle_id"] for entry in spec["attributes"]]
        return sorted(found)

    def cali(self) -> list[str]:
        return [link["ifname"] for link in self.host.ip_json("link") if link["ifname"].startswith("cali")]


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    if shutil.which(PLUGIN) is None:
        pytest.skip("bgpd-cni is not installed: make setup")
    (tmp_path / "all.yaml").write_text(RESOURCES)
    with Net() as net:
        yield Ground(net, tmp_path)


def test_two_pods_talk_over_their_host_and_go_without_a_trace(ground: Ground) -> None:
    before = ground.host.main_text()
    pods = [ground.net.namespace("pod1"), ground.net.namespace("pod2")]
    results = []
    for number, pod in enumerate(pods):
        code, result = ground.plugin(
            "ADD", f"c{number}", pod, f"K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-{number}", mtu=1400
        )
        assert code == 0, result
        results.append(result)
    four, six = (ip["address"].partition("/")[0] for ip in results[1]["ips"])
    pods[0].run("ping", "-c1", "-W3", four)
    pods[0].run("ping", "-c1", "-W3", six)

    host_link, pod_link = results[0]["interfaces"]
    assert host_link["mac"] == "ee:ee:ee:ee:ee:ee" and host_link["name"] in ground.cali()
    assert pod_link["mtu"] == 1400 and pod_link["sandbox"].endswith(pods[0].name)
    (eth0,) = (link for link in pods[0].ip_json("link") if link["ifname"] == "eth0")
    assert (eth0["mtu"], eth0["address"]) == (1400, pod_link["mac"])
    routes = {route["dst"]: route for route in pods[0].ip_json("route")}
    assert routes["default"]["gateway"] == "169.254.1.1" and routes["169.254.1.1"]["scope"] == "link"
    (default,) = (route for route in pods[0].ip_json("-6", "route") if route["dst"] == "default")
    assert default["gateway"] == "fe80::ecee:eeff:feee:eeee"
    wanted = {ip["address"] for ip in results[0]["ips"]}
    for address in wanted:
        assert address.endswith("/128" if ":" in address else "/32")
        version = "-6" if ":" in address else "-4"
        (route,) = ground.host.ip_json(version, "route", "show", address)
        assert (route["dev"], route["protocol"]) == (host_link["name"], "boot")
    for path, value in {"proxy_arp": "1", "forwarding": "1"}.items():
        shown = ground.host.run("cat", f"/proc/sys/net/ipv4/conf/{host_link['name']}/{path}").stdout
        assert shown.strip() == value

    args = "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0"
    assert ground.plugin("CHECK", "c0", pods[0], args, prevResult=results[0]) == (0, None)
    ground.host.ip("route", "del", results[0]["ips"][0]["address"])
    code, error = ground.plugin("CHECK", "c0", pods[0], args, prevResult=results[0])
    assert code == 1 and "has no route to" in error["msg"]
    for number, pod in enumerate(pods):
        for _ in range(2):
            done = ground.plugin(
                "DEL", f"c{number}", pod, f"K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-{number}"
            )
            assert done == (0, None)
    assert (ground.cali(), ground.used(), ground.host.main_text()) == ([], [], before)


def test_the_new_sandbox_of_a_pod_outlives_the_end_of_the_old_one(ground: Ground) -> None:
    """calico#1117: ADD(A), ADD(B), DEL(A) of one pod."""
    args = "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=db-0"
    old, new = ground.net.namespace("old"), ground.net.namespace("new")
    assert ground.plugin("ADD", "a", old, args)[0] == 0
    code, result = ground.plugin("ADD", "b", new, args)
    assert code == 0 and len(ground.cali()) == 1
    assert ground.plugin("DEL", "a", old, args) == (0, None)
    assert ground.cali() == [result["interfaces"][0]["name"]] and set(ground.used()) == {"net.b"}
    assert ground.plugin("CHECK", "b", new, args, prevResult=result) == (0, None)


def test_no_other_program_is_needed(ground: Ground) -> None:
    """A process costs milliseconds, and a node may have no iproute2: ADD, DEL and GC order the kernel themselves."""
    pod = ground.net.namespace("pod")
    code, result = ground.plugin("ADD", "c0", pod, commands="/nowhere")
    assert code == 0, result
    code, again = ground.plugin("ADD", "c1", pod, commands="/nowhere")
    assert (code, again["code"]) == (1, 120) and "eth0: File exists" in again["msg"], again
    assert ground.cali() == ["calic0"] and set(ground.used()) == {"net.c0"}
    assert ground.plugin("DEL", "c0", pod, commands="/nowhere")[0] == 0
    assert "eth0" not in [link["ifname"] for link in pod.ip_json("link")]
    assert ground.plugin("ADD", "c1", pod, commands="/nowhere")[0] == 0
    assert ground.plugin("GC", "", None, commands="/nowhere", **{"cni.dev/valid-attachments": []})[0] == 0
    assert ground.cali() == [] and ground.used() == []


def test_a_namespace_that_is_gone_leaves_no_link_and_no_address(ground: Ground) -> None:
    """calico#7554: the path is gone, but something else holds the namespace, so that the pair lives on."""
    pod = ground.net.namespace("pod")
    assert ground.plugin("ADD", "a", pod)[0] == 0
    holder = pod.popen("sh", "-c", "echo inside; exec sleep 60")
    wait_until(lambda: "inside" in holder.log, what="somebody holds the namespace")
    ground.net.remove(pod)
    assert holder.running and len(ground.cali()) == 1
    assert ground.plugin("DEL", "a", None) == (0, None)
    assert (ground.cali(), ground.used()) == ([], [])


def test_another_pods_route_is_not_taken_and_the_next_try_has_another_address(ground: Ground) -> None:
    """calico#13858: IPAM lost what an old sandbox still holds."""
    code, first = ground.plugin("ADD", "a", ground.net.namespace("a"))
    assert code == 0
    for path in [*ground.directory.glob("ipamblock.*"), *ground.directory.glob("ipamhandles/*")]:
        path.unlink()  # IPAM forgets
    new = ground.net.namespace("b")
    code, error = ground.plugin("ADD", "b", new)
    assert code == 1 and error["code"] == 120 and first["interfaces"][0]["name"] in error["msg"]
    assert ground.used() == [] and len(ground.cali()) == 1, "the failed one gave its address back"
    for _ in range(3):
        code, result = ground.plugin("ADD", "b", new)
        if code == 0:
            break
    assert code == 0 and {ip["address"] for ip in result["ips"]}.isdisjoint(
        ip["address"] for ip in first["ips"]
    )


def test_a_route_that_somebody_faster_made_is_known_by_its_link(ground: Ground) -> None:
    """Felix writes the same one; one over another link is another pod's."""
    host, other_host = ground.host, ground.net.namespace("other")
    for name in ("d0", "d1"):
        ground.net.link(host, name, other_host, name)
    with open(f"/run/netns/{host.name}") as netns, Inside(netns.fileno()):
        kernel = Netlink()
    first, second = (kernel.link(name).ifindex for name in ("d0", "d1"))
    for address, other in (("10.9.9.9/32", "10.9.9.9/31"), ("fd09::9/128", "fd09::9/127")):
        kernel.add_route(first, address)
        with pytest.raises(OSError, match="File exists"):
            kernel.add_route(first if ":" in address else second, address)
        assert kernel.has_route(first, address)
        assert not kernel.has_route(second, address) and not kernel.has_route(first, other)
    with pytest.raises(OSError, match="No such device"):
        kernel.link("d2")
    assert kernel.delete("d1") and not kernel.delete("d1")
    kernel.close()


def test_garbage_is_what_the_runtime_does_not_list(ground: Ground) -> None:
    for name in ("a", "b"):
        assert ground.plugin("ADD", name, ground.net.namespace(name))[0] == 0
    listed = [{"containerID": "b", "ifname": "eth0"}]
    assert ground.plugin("GC", "", None, **{"cni.dev/valid-attachments": listed}) == (0, None)
    assert len(ground.cali()) == 1 and set(ground.used()) == {"net.b"}


def test_a_full_disk_is_named_and_nothing_leaks(tmp_path: Path) -> None:
    """Where there is no room for one more write, an ADD is refused and a DEL says that it could not; with room again
    the DEL is done, and neither address nor half a file is left."""
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], check=True)
    try:
        (small / "all.yaml").write_text(RESOURCES)
        filler = small / "filler"
        filler.write_bytes(b"x" * 36_000)
        options = {"type": "bgpd-ipam", "nodename": "node-a", "resources": str(small), "socket": "/none"}
        config = {"cniVersion": "1.1.0", "name": "net", "type": "x", "ipam": options}

        def plugin(verb: str, container: str) -> tuple[int, Any]:
            done = subprocess.run(
                [str(Path(PLUGIN).with_name("bgpd-ipam"))],
                input=json.dumps(config),
                capture_output=True,
                text=True,
                check=False,
                env={
                    **os.environ,
                    "CNI_COMMAND": verb,
                    "CNI_CONTAINERID": container,
                    "CNI_NETNS": "/none",
                    "CNI_IFNAME": "eth0",
                    "CNI_PATH": "/nowhere",
                },
            )
            assert "Traceback" not in done.stderr, done.stderr
            return done.returncode, json.loads(done.stdout) if done.stdout else None

        def used() -> list[str]:
            spec = json.loads(next(small.glob("ipamblock.*.json")).read_text())["spec"]
            return sorted(entry["handle_id"] for entry in spec["attributes"])

        given = []
        for number in range(16):
            code, answer = plugin("ADD", f"c{number}")
            if code != 0:
                break
            given.append(f"net.c{number}")
        assert given and (code, answer["code"], answer["details"]) == (1, 11, "unwritable"), answer
        assert "No space left on device" in answer["msg"] and used() == sorted(given)
        with (small / "rest").open("wb", buffering=0) as rest:  # not a page is left
            try:
                while True:
                    rest.write(b"x" * 512)
            except OSError:
                pass
        code, answer = plugin("DEL", "c0")
        assert (code, answer["code"], answer["details"]) == (1, 11, "unwritable"), answer
        assert used() == sorted(given)
        filler.unlink()
        (small / "rest").unlink()
        for handle in (*given, f"net.c{len(given)}"):
            assert plugin("DEL", handle.removeprefix("net.")) == (0, None)
        assert used() == []
        assert not list(small.glob("**/.*.tmp")) and not list(small.glob("ipamhandles/*"))
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_the_hosts_lock_of_a_dead_process_is_nobodys(ground: Ground) -> None:
    """Who holds it while it is killed does not stop the pods of the node."""
    script = (
        "import fcntl, time; from bgpd.datastore.allocator import HOST_LOCK; "
        "HOST_LOCK.parent.mkdir(parents=True, exist_ok=True); file = HOST_LOCK.open('a'); "
        "fcntl.flock(file, fcntl.LOCK_EX); print('held', flush=True); time.sleep(60)"
    )
    pod = ground.net.namespace("pod1")
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        holder.kill()
    code, result = ground.plugin("ADD", "c1", pod)
    assert code == 0, result
