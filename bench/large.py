"""The case *large*: one node of a large cluster, which reads it from the Kubernetes API.

The server is the stand-in of the unit tests, in a process of its own, with objects as large as real ones are: what
others write into theirs (managed fields, images, conditions) is three quarters of the octets. Called by ``__main__``;
as a program this module is that server, and says on its standard output where it is.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.kernel import RTM_NEWROUTE, Watch
from bench.nodes import quantile
from bench.subjects import status_kib
from bench.work import Failed, Figures, Work
from testing.daemons import Bgpd
from testing.namespaces import PROJECT, Net
from tests.cluster.stores import inside
from tests.unit.fake_apiserver import CALICO, FakeApiServer

OWN = "node-0"
BLOCKS, SERVICES, SLICES, ADDRESSES = 4, 2, 2, 5
"""Blocks, services and slices a node of the cluster, and addresses a slice."""
CHANGES = 30


def fill(server: FakeApiServer, nodes: int) -> int:
    """A cluster of so many nodes. Returns the octets of its objects as JSON."""
    calico = {"apiVersion": CALICO}
    put = server.put
    spec: dict[str, Any] = {"nodeToNodeMeshEnabled": False, "serviceClusterIPs": [{"cidr": "10.96.0.0/12"}]}
    put(
        "bgpconfigurations",
        {**calico, "kind": "BGPConfiguration", "metadata": {"name": "default"}, "spec": spec},
    )
    pool = {"cidr": "10.0.0.0/8", "blockSize": 26, "ipipMode": "Never"}
    put("ippools", {**calico, "kind": "IPPool", "metadata": {"name": "pool"}, "spec": pool})
    for number in range(nodes):
        name, address = f"node-{number}", f"172.16.{number + 1 >> 8}.{number + 1 & 255}"
        labels = {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": f"zone-{number % 3}"}
        metadata = {
            "name": name,
            "labels": labels,
            "annotations": {"projectcalico.org/IPv4Address": f"{address}/12"},
        }
        images = [{"names": [f"registry/image-{i}@sha256:{i:064x}"], "sizeBytes": i} for i in range(40)]
        put("nodes", {"metadata": metadata, "status": {"images": images, "conditions": [_managed(8)]}})
        for index in range(BLOCKS):
            block = number * BLOCKS + index
            cidr = f"10.{block >> 10}.{block >> 2 & 255}.{(block & 3) << 6}/26"
            dashed = cidr.replace(".", "-").replace("/", "-")
            spec = {"node": name, "cidr": cidr, "state": "confirmed", "deleted": "false"}
            put("blockaffinities", _object("BlockAffinity", f"{name}-{dashed}", spec))
            spec = {"cidr": cidr, "affinity": f"host:{name}", "allocations": [None] * 64, "attributes": []}
            put("ipamblocks", _object("IPAMBlock", dashed, spec))
        for index in range(SERVICES):
            service = number * SERVICES + index
            address = f"10.{96 + (service >> 16)}.{service >> 8 & 255}.{service & 255}"
            spec = {"type": "ClusterIP", "clusterIP": address, "ports": [{"port": 80, "name": "http"}] * 3}
            of = {"name": f"service-{service}", "namespace": "default", "managedFields": [_managed(8)]}
            put("services", {"metadata": of, "spec": spec})
        for index in range(SLICES):
            part = number * SLICES + index
            endpoints = [
                {
                    "addresses": [f"10.{part >> 8 & 255}.{part & 255}.{each}"],
                    "nodeName": f"node-{(part + each) % nodes}",
                    "conditions": {"ready": True, "serving": True, "terminating": False},
                    "targetRef": {
                        "kind": "Pod",
                        "name": f"pod-{part}-{each}",
                        "namespace": "default",
                        "uid": "u" * 36,
                    },
                }
                for each in range(ADDRESSES)
            ]
            of = {
                "name": f"service-{part}-abcde",
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": f"service-{part}"},
                "managedFields": [_managed(8)],
            }
            put("endpointslices", {"metadata": of, "addressType": "IPv4", "endpoints": endpoints})
    server.history.clear()  # whoever comes lists
    return sum(len(json.dumps(each)) for each in server.objects.values())


def _object(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": CALICO,
        "kind": kind,
        "metadata": {"name": name, "managedFields": [_managed(4)]},
        "spec": spec,
    }


def _managed(fields: int) -> dict[str, Any]:
    """What the API server notes of who wrote which field."""
    return {f"f:field-{number}": {".": {}, "f:name": {}, "f:value": {}} for number in range(fields)}


async def large(work: Work, name: str) -> Figures:
    """From the start of a node to all known, its memory then, and what one more block of its own takes."""
    return await asyncio.to_thread(_measure, work.size)


def _measure(nodes: int) -> Figures:
    with Net() as net, tempfile.TemporaryDirectory() as directory:
        node = net.namespace("node")
        node.ip("link", "set", "lo", "up")
        with inside(node):
            words = [sys.executable, "-m", "bench.large", directory, str(nodes)]
            server = subprocess.Popen(words, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
            assert server.stdout is not None
            try:
                where = server.stdout.readline().split()
                if len(where) != 2:
                    raise Failed("no server")
                connection = http.client.HTTPConnection("127.0.0.1", int(where[0]), timeout=60)
                bgpd = Bgpd(node, OWN)
                net.daemons.append(bgpd)
                kubeconfig = str(Path(directory) / "kubeconfig")
                bgpd.configure(datastore={"type": "kubernetes", "kubeconfig": kubeconfig})
                began = time.monotonic()
                with_routes = Watch(node.name, "ipv4")
                bgpd.start(wait=False)
                if with_routes.wait(RTM_NEWROUTE, (socket.inet_aton("10.0.0.0"), 26), 120.0) is None:
                    raise Failed("no route of our own")
                ready = time.monotonic() - began
                assert bgpd.process is not None
                time.sleep(10.0)  # what was last known is written, and rubbish is gone
                pid = bgpd.process.popen.pid
                figures = {
                    "known_s": ready,
                    "peak_mib": status_kib(pid, "VmHWM") / 1024,
                    "large_mib": status_kib(pid, "VmRSS") / 1024,
                    "sent_mib": int(where[1]) / (1 << 20),
                }
                taken = []
                for number in range(CHANGES):
                    time.sleep(random.uniform(0.05, 0.15))
                    cidr = f"10.200.{number}.0/26"
                    spec = {"node": OWN, "cidr": cidr, "state": "confirmed", "deleted": "false"}
                    body = json.dumps(_object("BlockAffinity", f"{OWN}-{number}", spec))
                    before = time.monotonic()
                    connection.request("POST", f"/apis/{CALICO}/blockaffinities", body)
                    connection.getresponse().read()
                    there = with_routes.wait(RTM_NEWROUTE, (socket.inet_aton(f"10.200.{number}.0"), 26))
                    if there is None:
                        raise Failed(f"{cidr} is not in the kernel within 5 s")
                    taken.append(1000 * (there - before))
                with_routes.close()
                return figures | {"change_p50_ms": quantile(taken, 0.5)}
            finally:
                server.terminate()
                server.wait()
                server.stdout.close()


async def _serve(directory: Path, nodes: int) -> None:
    server = FakeApiServer()
    octets = fill(server, nodes)
    await server.start()
    server.kubeconfig(directory / "kubeconfig")
    print(server.url.rpartition(":")[2], octets, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), int(sys.argv[2])))
