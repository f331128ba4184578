"""The Kubernetes datastore on a stand-in of its server: the contract, and what a server can do to us."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from bgpd.datastore import reflector
from bgpd.datastore.cluster import Cluster
from bgpd.datastore.kubernetes.client import Access, KubernetesClient
from bgpd.datastore.kubernetes.feeds import Kubernetes
from bgpd.datastore.kubernetes.kinds import NODES, SERVICES, SLICES, reduced
from bgpd.datastore.reflector import Put, Whole
from bgpd.model.resources import Snapshot
from tests.datastore_contract import OWN, Backend, DatastoreContract, node, pool, watching
from tests.unit.fake_apiserver import CALICO, PLURALS, FakeApiServer, status


class Store(Backend):
    def __init__(self, server: FakeApiServer, kubeconfig: Path) -> None:
        self.server = server
        self.kubeconfig = kubeconfig

    def datastore(self) -> Cluster:
        return Cluster(Kubernetes(Access(self.kubeconfig), OWN, False), OWN)

    def put(self, document: dict[str, Any]) -> None:
        kind, name = document["kind"], document["metadata"]["name"]
        if kind == "Node":
            address = {"projectcalico.org/IPv4Address": "10.0.1.30/24"}
            document = {"metadata": {"name": name, "annotations": address}}  # a Node of a list has no kind
        else:
            document = {**document, "apiVersion": CALICO}
        self.server.put(PLURALS[kind], document)

    def delete(self, kind: str, name: str) -> None:
        self.server.delete(PLURALS[kind], name)

    def lose(self) -> None:
        self.server.lose()

    def restore(self) -> None:
        self.server.away = False


@pytest.fixture(params=["lists", "streaming lists"])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    server = FakeApiServer()
    server.streaming = request.param == "streaming lists"
    await server.start()
    yield Store(server, server.kubeconfig(tmp_path / "kubeconfig"))
    await server.stop()


class TestContract(DatastoreContract):
    pass


@pytest.mark.parametrize("selectable", [False, True])
async def test_a_streaming_list_that_is_refused_is_blamed_on_what_was_at_fault(
    backend: Store, selectable: bool
) -> None:
    """A server without one of the two is asked with the other, whichever collection comes first."""
    backend.server.selectable = selectable
    source = Kubernetes(Access(backend.kubeconfig), OWN, False)
    backend.put(node())
    for of in (OWN, "other"):
        spec = {"node": of, "cidr": "10.48.0.0/26", "state": "confirmed", "deleted": "false"}
        backend.put({"kind": "BlockAffinity", "metadata": {"name": f"of-{of}"}, "spec": spec})
    feed = source.feeds(Snapshot())["blockaffinities"]
    keys: set[str] = set()
    async with contextlib.aclosing(feed.follow(None)) as following:
        async for events in following:
            keys |= {each.key for each in events if isinstance(each, Put)}
            if any(isinstance(each, Whole) for each in events):
                break
    await source.close()
    assert len(keys) == 1
    assert (source.streaming, feed._select) == (backend.server.streaming, selectable)  # type: ignore[attr-defined]


async def test_a_broken_watch_goes_on_where_it_was(backend: Store) -> None:
    backend.put(node())
    async with watching(backend) as watch:
        await watch.until(lambda s: True)
        backend.server.requests.clear()
        backend.server.cut()
        backend.put(pool())
        await watch.until(lambda s: s.pools)
        assert not [each for each in backend.server.requests if "watch" not in each]
        assert watch.datastore.status().resyncs == 0


async def test_a_new_block_of_ours_is_read_and_no_other(backend: Store) -> None:
    def claim(number: int) -> None:
        cidr = f"10.48.{number}.0/26"
        spec = {"node": OWN, "cidr": cidr, "state": "confirmed", "deleted": "false"}
        backend.put({"kind": "BlockAffinity", "metadata": {"name": f"a{number}"}, "spec": spec})
        spec = {"cidr": cidr, "affinity": f"host:{OWN}", "allocations": [], "attributes": []}
        backend.put({"kind": "IPAMBlock", "metadata": {"name": f"10-48-{number}-0-26"}, "spec": spec})

    def read() -> list[str]:
        return [each.rpartition("/")[2] for each in backend.server.requests if "/ipamblocks/" in each]

    backend.put(node())
    claim(0)
    claim(1)
    async with watching(backend) as watch:
        await watch.until(lambda s: len(s.blocks) == 2)
        backend.server.requests.clear()
        claim(2)
        await watch.until(lambda s: len(s.blocks) == 3)
        assert read() == ["10-48-2-0-26?"]
        backend.delete("BlockAffinity", "a1")
        await watch.until(lambda s: set(s.blocks) == {"10-48-0-0-26", "10-48-2-0-26"})
        assert len(read()) == 1
        backend.delete("IPAMBlock", "10-48-1-0-26")
        claim(1)
        await watch.until(lambda s: len(s.blocks) == 3)
        assert read()[1:] == ["10-48-1-0-26?"]
        assert watch.datastore.status().resyncs == 0


async def test_an_expired_history_is_a_new_list_and_a_comparison(backend: Store) -> None:
    backend.put(node())
    for name in ("a", "b"):
        backend.put(pool(name))
    async with watching(backend) as watch:
        await watch.until(lambda s: len(s.pools) == 2)
        seen = len(watch.snapshots)
        backend.server.lose()
        backend.delete("IPPool", "a")
        backend.server.compact()
        backend.restore()
        await watch.until(lambda s: set(s.pools) == {"b"}, 10)
        assert all("b" in snapshot.pools for snapshot in watch.snapshots[seen:])
        assert watch.datastore.status().resyncs >= 1


async def test_a_busy_server_says_when_to_come_again(backend: Store) -> None:
    backend.put(node())
    busy = [3]

    def refuse(request: web.Request) -> web.Response | None:
        busy[0] -= 1
        return status(429, "storage is (re)initializing", **{"Retry-After": "0"}) if busy[0] >= 0 else None

    backend.server.refuse = refuse
    async with watching(backend) as watch:
        await watch.until(lambda s: OWN in s.nodes)
        found = watch.datastore.status()
        assert (found.errors["busy"], found.problems) == (3, ())


async def test_a_kind_that_does_not_exist_there_is_none(
    backend: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reflector, "REFUSED_RETRY_SECONDS", 0.1)
    backend.put(node())
    there = [False]

    def refuse(request: web.Request) -> web.Response | None:
        if request.path.endswith("bgpfilters") and not there[0]:
            return web.Response(status=404, text="404 page not found\n")
        return None

    backend.server.refuse = refuse
    async with watching(backend) as watch:
        await watch.until(lambda s: OWN in s.nodes)
        backend.put({"kind": "BGPFilter", "metadata": {"name": "f"}, "spec": {}})
        await asyncio.sleep(0)
        there[0] = True
        await watch.until(lambda s: "f" in s.filters)


async def test_an_answer_that_is_no_api_servers(backend: Store) -> None:
    backend.server.refuse = lambda request: web.Response(text="<html>")
    async with watching(backend) as watch:
        found = await watch.status(lambda s: s.errors["protocol"] and s.detail)
        assert not found.up


def test_only_what_is_used_passes_the_door() -> None:
    found = {
        "metadata": {
            "name": "n",
            "labels": {"rack": "r1"},
            "managedFields": [{}],
            "annotations": {"projectcalico.org/IPv4Address": "10.0.0.1/24", "other": "x" * 9},
        },
        "spec": {"podCIDR": "x"},
        "status": {"images": ["x"]},
    }
    assert reduced(NODES, found, "n", "v1") == {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": "n",
            "labels": {"rack": "r1"},
            "annotations": {"projectcalico.org/IPv4Address": "10.0.0.1/24"},
        },
    }
    service = {"metadata": {"name": "s", "namespace": "d"}, "spec": {"type": "ClusterIP", "ports": [1]}}
    assert (reduced(SERVICES, service, "n", "v1") or {})["spec"] == {"type": "ClusterIP"}
    endpoints = [
        {"addresses": [str(i)], "nodeName": f"n{i % 9}", "conditions": {"ready": i % 2 == 0}}
        for i in range(99)
    ]
    kept = (reduced(SLICES, {"metadata": {}, "endpoints": endpoints}, "n1", "v1") or {})["endpoints"]
    assert sorted((each.get("nodeName", ""), each["conditions"]["ready"]) for each in kept) == [
        ("", False),
        ("", True),
        ("n1", False),
        ("n1", True),
    ]


async def test_nothing_stays_open_of_a_connection_that_nobody_waits_for_any_more(tmp_path: Path) -> None:
    """Cancelled in the middle of a TLS handshake: what came before the first octet of HTTP is closed too."""
    came: asyncio.Queue[asyncio.StreamReader] = asyncio.Queue()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)  # of the ClientHello, which is never answered
        await came.put(reader)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        f"""{{current-context: c, contexts: [{{name: c, context: {{cluster: c}}}}], users: [],
        clusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:{port}', insecure-skip-tls-verify: true}}}}]}}"""
    )
    client = KubernetesClient(Access(kubeconfig))
    asking = asyncio.create_task(client.get("/version"))
    reader = await came.get()
    gc.disable()
    try:
        asking.cancel()
        await asyncio.wait([asking])
        await client.close()
        async with asyncio.timeout(5):
            while not reader.at_eof():  # noqa: ASYNC110 - the server's task reads it
                await asyncio.sleep(0.01)
    finally:
        gc.enable()
        server.close()
