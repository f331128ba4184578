"""Servers that several nodes read, in a namespace of its own: a real etcd or a real API server, written as Calico does.
For the lab of ``test_lab`` and for ``bench.watch``."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from testing.namespaces import Namespace, wait_until
from tests.cluster.definitions import CALICO, CRDS, PLURAL, definition, serves
from tests.cluster.servers import ApiServer, EtcdServer, apiserver_binary
from tests.netns.kernel import setns

STORE = "10.0.1.2"
"""Where the nodes reach it."""


class Store(ABC):
    """A server that the nodes read, in a namespace of its own."""

    server: EtcdServer | ApiServer

    @abstractmethod
    def datastore(self, directory: Path) -> dict[str, Any]:
        """What a node's configuration says of it."""

    @abstractmethod
    def node(self, name: str, address: str) -> None: ...

    @abstractmethod
    def claim(self, node: str, cidr: str) -> None: ...

    @abstractmethod
    def release(self, node: str, cidr: str) -> None: ...


class InEtcd(Store):
    def __init__(self, directory: Path) -> None:
        self.server: EtcdServer = EtcdServer(directory, listen="0.0.0.0")
        self.server.start()

    def datastore(self, directory: Path) -> dict[str, Any]:
        return {"type": "etcd", "endpoints": [f"http://{STORE}:{self.server.port}"]}

    def node(self, name: str, address: str) -> None:
        document = {
            "apiVersion": "projectcalico.org/v3",
            "kind": "Node",
            "metadata": {"name": name},
            "spec": {"bgp": {"ipv4Address": f"{address}/24"}},
        }
        key = f"/calico/resources/v3/projectcalico.org/nodes/{name}"
        self.server.ctl("put", key, json.dumps(document))

    @staticmethod
    def key(node: str, cidr: str) -> str:
        return f"/calico/ipam/v2/host/{node}/ipv4/block/{cidr.replace('/', '-')}"

    def claim(self, node: str, cidr: str) -> None:
        self.server.ctl("put", self.key(node, cidr), '{"state":"confirmed"}')

    def release(self, node: str, cidr: str) -> None:
        self.server.ctl("del", self.key(node, cidr))


class InKubernetes(Store):
    def __init__(self, directory: Path) -> None:
        binary = apiserver_binary()
        assert binary is not None
        self.server: ApiServer = ApiServer(directory, binary, STORE)
        self.server.start()
        for kind in PLURAL:
            self.server.request("POST", CRDS, definition(kind))
        for plural in PLURAL.values():
            wait_until(partial(serves, self.server, plural), 30, plural)

    def datastore(self, directory: Path) -> dict[str, Any]:
        return {"type": "kubernetes", "kubeconfig": str(self.server.kubeconfig(directory / "kubeconfig"))}

    def node(self, name: str, address: str) -> None:
        metadata = {"name": name, "annotations": {"projectcalico.org/IPv4Address": f"{address}/24"}}
        self.server.apply({"apiVersion": "v1", "kind": "Node", "metadata": metadata}, f"/api/v1/nodes/{name}")

    @staticmethod
    def path(node: str, cidr: str) -> str:
        return f"{CALICO}/blockaffinities/{node}-{cidr.replace('.', '-').replace('/', '-')}"

    def claim(self, node: str, cidr: str) -> None:
        path = self.path(node, cidr)
        document = {
            "apiVersion": "crd.projectcalico.org/v1",
            "kind": "BlockAffinity",
            "metadata": {"name": path.rpartition("/")[2]},
            "spec": {"node": node, "cidr": cidr, "state": "confirmed", "deleted": "false"},
        }
        self.server.apply(document, path)

    def release(self, node: str, cidr: str) -> None:
        self.server.request("DELETE", self.path(node, cidr))


@contextmanager
def inside(namespace: Namespace) -> Iterator[None]:
    """This process, and what it starts, in a namespace: the server's loopback is ours then."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        there = os.open(f"/run/netns/{namespace.name}", os.O_RDONLY)
        setns(there)
        os.close(there)
        yield
    finally:
        setns(before)
        os.close(before)
