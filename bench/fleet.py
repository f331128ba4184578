"""The case *fleet*: what the nodes of a cluster cost a real API server, with as many readers as one process carries.

Each reader is the datastore of a bgpd, with connections of its own; sessions and kernels are not there. The server and
its etcd are in one namespace and the readers in another, so that the octets between them are counted by the link.
Called by ``__main__``, as ``nodes`` is.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from bench.ground import holds
from bench.kernel import in_namespace
from bench.subjects import status_kib
from bench.work import Figures, Work
from bgpd.datastore.cluster import Cluster
from bgpd.datastore.kubernetes.client import Access
from bgpd.datastore.kubernetes.feeds import Kubernetes
from bgpd.model.resources import Snapshot
from testing.namespaces import Namespace, Net
from tests.cluster.servers import ApiServer
from tests.cluster.stores import STORE, InKubernetes, inside

OTHERS = 200
"""Nodes that the server knows beside the readers."""
CHANGES = 20
PATIENCE = 120.0
SETTLED = 5.0
T = TypeVar("T")


async def fleet(work: Work, name: str) -> Figures:
    """The start of all readers at once, and then blocks that one of them gets."""
    with Net() as net, tempfile.TemporaryDirectory() as directory:
        place, away = net.namespace("store"), net.namespace("readers")
        net.lan({place: [f"{STORE}/24"], away: ["10.0.1.11/24"]})
        with inside(place):
            store = InKubernetes(Path(directory))
            try:
                for number in range(work.size + OTHERS):
                    store.node(f"n{number}", f"10.1.{number >> 8}.{number & 255}")
                with inside(away):  # the sockets of the readers are made there
                    return await _measure(store, place, away, Path(directory), work.size)
            finally:
                store.server.stop()
                store.server.etcd.stop()


async def _measure(
    store: InKubernetes, place: Namespace, away: Namespace, directory: Path, size: int
) -> Figures:
    server = store.server
    readers = [_Reader(server.kubeconfig(directory / "kubeconfig"), f"n{number}") for number in range(size)]
    before, octets = await _there(place, _counts, server), [_received(away)]
    began = time.monotonic()
    tasks = [asyncio.create_task(each.follow()) for each in readers]
    try:
        await holds(
            lambda: all(each.snapshot is not None for each in readers), "known to all", 0.02, PATIENCE
        )
        started = time.monotonic() - began
        await asyncio.sleep(SETTLED)
        after = await _there(place, _counts, server)
        octets.append(_received(away))
        for number in range(CHANGES):
            await _there(place, store.claim, "n0", f"10.48.{number}.0/26")
        first = readers[0]
        await holds(
            lambda: first.snapshot is not None and len(first.snapshot.affinities) == CHANGES,
            "known to all",
            0.02,
            PATIENCE,
        )
        await asyncio.sleep(SETTLED)
        octets.append(_received(away))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    at_start, of_changes = (later - earlier for earlier, later in itertools.pairwise(octets))
    return {
        "fleet_s": started,
        "watches_count": (after["watches"] - before["watches"]) / size,
        "lists_count": (after["lists"] - before["lists"]) / size,
        "start_kib": at_start / 1024 / size,
        "block_kib": of_changes / 1024 / size / CHANGES,
        "server_kib": (after["kib"] - before["kib"]) / size,
    }


class _Reader:
    """The datastore of one node."""

    def __init__(self, kubeconfig: Path, node: str) -> None:
        self._datastore = Cluster(Kubernetes(Access(kubeconfig), node, False), node)
        self.snapshot: Snapshot | None = None

    async def follow(self) -> None:
        async for snapshot in self._datastore.watch():
            self.snapshot = snapshot


async def _there(place: Namespace, ask: Callable[..., T], *arguments: object) -> T:
    """A function that blocks, in a thread that is in a namespace."""
    return await asyncio.to_thread(in_namespace, place.name, lambda: ask(*arguments))


def _counts(server: ApiServer) -> dict[str, float]:
    """The watches that the API server serves, the lists that it asked etcd for, and its memory in KiB."""
    text = server.request("GET", "/metrics", text=True)

    def total(name: str, word: str) -> float:
        lines = [line for line in text.splitlines() if line.startswith(f"{name}{{") and word in line]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    assert server.running is not None
    return {
        "watches": total("apiserver_longrunning_requests", 'verb="WATCH"'),
        "lists": total("etcd_requests_total", 'operation="list"'),
        "kib": status_kib(server.running.pid, "VmRSS"),
    }


def _received(away: Namespace) -> int:
    """Octets that came over the link of a namespace."""
    return int(away.ip_json("-s", "link", "show", "ens5")[0]["stats64"]["rx"]["bytes"])
