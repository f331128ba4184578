"""The case *watch*: from a BlockAffinity's write to another node's kernel, beside a bare watch client.

Two nodes in namespaces run bgpd over one real etcd, or one real API server (``tests/cluster`` builds it): one owns the
block, the kernel of the other gets the route. A bare client watches the same objects in the same run, so that what
counts is what comes on top of the server's own latency. Called by ``__main__``, as ``nodes`` is.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import socket
import ssl
import tempfile
import threading
import time
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

from bench.kernel import RTM_NEWROUTE, Watch
from bench.nodes import quantile
from bench.work import Failed, Figures, Work
from testing.daemons import Bgpd
from testing.namespaces import Net, wait_until
from tests.cluster.definitions import CALICO
from tests.cluster.servers import ApiServer, EtcdServer
from tests.cluster.stores import STORE, InEtcd, InKubernetes, Store, inside

NODES = {"n1": "10.0.1.11", "n2": "10.0.1.12"}
SAMPLES = 100


class Bare(threading.Thread):
    """A client that does nothing but watch the affinities and note when each one came."""

    def __init__(self, store: Store) -> None:
        super().__init__(daemon=True)
        self._store = store
        self.seen: dict[str, float] = {}
        """Block -> when."""

    def run(self) -> None:
        server = self._store.server
        connection: http.client.HTTPConnection
        if isinstance(server, EtcdServer):
            connection = http.client.HTTPConnection("127.0.0.1", server.port)
            keys = {
                "key": b64encode(b"/calico/ipam/v2/host/").decode(),
                "range_end": b64encode(b"/calico/ipam/v2/host0").decode(),
            }
            connection.request("POST", "/v3/watch", json.dumps({"create_request": keys}))
        else:
            context = ssl.create_default_context(cafile=str(server.ca))
            connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=context)
            headers = {"Authorization": "Bearer admin-token"}
            connection.request("GET", f"{CALICO}/blockaffinities?watch=true", headers=headers)
        answer = connection.getresponse()
        while line := answer.readline():
            now = time.monotonic()
            for cidr in _blocks(json.loads(line)):
                self.seen.setdefault(cidr, now)


def _blocks(line: Any) -> list[str]:
    if "result" in line:
        keys = [b64decode(event["kv"]["key"]).decode() for event in line["result"].get("events", ())]
        return [key.rpartition("/")[2].replace("-", "/") for key in keys]
    return [line["object"]["spec"]["cidr"]] if line.get("type") == "ADDED" else []


class Writer:
    """Writes affinities over one connection."""

    def __init__(self, store: Store) -> None:
        self._store, server = store, store.server
        self._headers = {"Content-Type": "application/json"}
        self._connection: http.client.HTTPConnection
        if isinstance(server, EtcdServer):
            self._connection = http.client.HTTPConnection("127.0.0.1", server.port)
        else:
            context = ssl.create_default_context(cafile=str(server.ca))
            self._connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=context)
            self._headers["Authorization"] = "Bearer admin-token"

    def claim(self, node: str, cidr: str) -> None:
        body: dict[str, Any]
        if isinstance(self._store, InEtcd):
            key = self._store.key(node, cidr).encode()
            path, body = (
                "/v3/kv/put",
                {
                    "key": b64encode(key).decode(),
                    "value": b64encode(b'{"state":"confirmed"}').decode(),
                },
            )
        else:
            path, body = (
                f"{CALICO}/blockaffinities",
                {
                    "apiVersion": "crd.projectcalico.org/v1",
                    "kind": "BlockAffinity",
                    "metadata": {"name": f"{node}-{cidr.replace('.', '-').replace('/', '-')}"},
                    "spec": {"node": node, "cidr": cidr, "state": "confirmed", "deleted": "false"},
                },
            )
        self._connection.request("POST", path, json.dumps(body), self._headers)
        answer = self._connection.getresponse()
        found = answer.read()
        if answer.status >= 300:
            raise Failed(f"{path}: {answer.status} {found[:200]!r}")


async def watch(work: Work, name: str) -> Figures:
    """A block of one node written to the server that the work's shape names, until the other node has it."""
    make: type[Store] = {"etcd": InEtcd, "kubernetes": InKubernetes}[work.shape]
    found = await asyncio.to_thread(_measure, make, SAMPLES)
    return {
        f"{key}_p{percent}_ms": quantile([1000 * value for value in values], percent / 100)
        for key, values in found.items()
        for percent in (50, 99)
    }


def _measure(make: type[Store], samples: int) -> dict[str, list[float]]:
    """Seconds from the write to the bare client, to the other kernel, and what is between the two."""
    found: dict[str, list[float]] = {"bare": [], "written": [], "added": []}
    with Net() as net, tempfile.TemporaryDirectory() as directory:
        nodes = {name: net.namespace(name) for name in NODES}
        place = net.namespace("store")
        net.lan({place: [f"{STORE}/24"], **{nodes[name]: [f"{at}/24"] for name, at in NODES.items()}})
        with inside(place):
            store = make(Path(directory))
            try:
                for name, namespace in nodes.items():
                    store.node(name, NODES[name])
                    bgpd = Bgpd(namespace, name)
                    bgpd.configure(datastore=store.datastore(bgpd.directory))
                    bgpd.start()
                    net.daemons.append(bgpd)
                for name, other in (("n1", "n2"), ("n2", "n1")):
                    bgpd = next(each for each in net.daemons if isinstance(each, Bgpd) and each.node == name)
                    bgpd.wait_established(f"Mesh_{NODES[other].replace('.', '_')}", timeout=30)
                bare, writer = Bare(store), Writer(store)
                bare.start()
                store.claim("n1", "10.48.255.0/26")  # both have one at the beginning
                wait_until(lambda: "10.48.255.0/26" in bare.seen, 10, "the bare client")
                watch = Watch(nodes["n2"].name, "ipv4")
                for number in range(samples):
                    cidr = f"10.48.{number >> 2}.{(number & 3) << 6}/26"
                    time.sleep(random.uniform(0.05, 0.15))
                    began = time.monotonic()
                    writer.claim("n1", cidr)
                    octets = socket.inet_aton(cidr.partition("/")[0])
                    there = watch.wait(RTM_NEWROUTE, (octets, 26))
                    if there is None:
                        raise Failed(f"{cidr} is not in the kernel within 5 s")
                    wait_until(lambda cidr=cidr: cidr in bare.seen, 5, "the bare client")
                    store.release("n1", cidr)  # a node has few
                    found["bare"].append(bare.seen[cidr] - began)
                    found["written"].append(there - began)
                    found["added"].append(there - bare.seen[cidr])
                watch.close()
            finally:
                store.server.stop()
                if isinstance(store.server, ApiServer):
                    store.server.etcd.stop()
    return found
