"""What a node holds of a large cluster is what it uses of it, not what others write into their objects."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

from bench.large import OWN, SERVICES, SLICES, fill
from bench.subjects import status_kib
from bgpd.datastore.cluster import Cluster
from bgpd.datastore.kubernetes.client import Access
from bgpd.datastore.kubernetes.feeds import Kubernetes
from tests.unit.fake_apiserver import FakeApiServer

NODES = 100
FOREIGN = 20_000
"""Octets that others wrote into each object."""
PROJECT = Path(__file__).parents[2]


async def grow(kubeconfig: Path) -> None:
    """In a process of its own: prints the KiB that its peak has grown by once all is known."""
    datastore = Cluster(Kubernetes(Access(kubeconfig), OWN, False), OWN)
    before = status_kib("self", "VmHWM")
    async for snapshot in datastore.watch():
        whole = len(snapshot.nodes), len(snapshot.services), len(snapshot.endpoint_slices)
        if whole == (NODES, NODES * SERVICES, NODES * SLICES):
            break
    print(status_kib("self", "VmHWM") - before)


async def test_a_node_holds_less_than_half_of_what_it_is_sent(tmp_path: Path) -> None:
    server = FakeApiServer()
    octets = fill(server, NODES)
    for found in server.objects.values():
        found["metadata"]["managedFields"] = ["x" * FOREIGN]
    await server.start()
    try:
        code = (
            "import asyncio, pathlib, sys; from tests.unit import test_large_clusters as here; "
            "asyncio.run(here.grow(pathlib.Path(sys.argv[1])))"
        )
        words = (sys.executable, "-c", code, str(server.kubeconfig(tmp_path / "kubeconfig")))
        child = await asyncio.create_subprocess_exec(*words, cwd=PROJECT, stdout=PIPE)
        async with asyncio.timeout(60):
            printed, _ = await child.communicate()
    finally:
        await server.stop()
    read = len(server.objects) - NODES * 4 + 4  # of the blocks of others none
    sent = octets + FOREIGN * read
    assert child.returncode == 0
    assert int(printed) * 1024 < sent / 2, (int(printed) >> 10, sent >> 20)
