"""A real kube-apiserver (``make cluster-test``): the contract of datastores, and what only that server does."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from asyncio.subprocess import DEVNULL
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bgpd.datastore.cluster import Cluster
from bgpd.datastore.files import Files
from bgpd.datastore.kubernetes.client import Access, KubernetesClient
from bgpd.datastore.kubernetes.feeds import Kubernetes
from bgpd.datastore.last_known import LastKnown
from bgpd.datastore.trouble import Kind, Trouble
from bgpd.model.resources import Snapshot
from testing.namespaces import PROJECT
from tests.cluster.definitions import CALICO, CRDS, PLURAL, definition
from tests.cluster.servers import ApiServer, apiserver_binary, make_ca, missing, until
from tests.datastore_contract import OWN, Backend, DatastoreContract, Watching, pool, watching

BINARY = apiserver_binary()
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(BINARY is None, reason="no kube-apiserver: tests/cluster/build-apiserver needs Go"),
    pytest.mark.skipif(bool(missing("etcd", "openssl")), reason="etcd-server or openssl is missing"),
]


class Store(Backend):
    """Objects of one API server."""

    def __init__(
        self, server: ApiServer, directory: Path, token: str = "admin-token", ca: Path | None = None
    ) -> None:
        self.server = server
        self.kubeconfig = server.kubeconfig(directory / f"{token}.kubeconfig", token, ca)
        self.memory: LastKnown | None = None

    def datastore(self) -> Cluster:
        return Cluster(Kubernetes(Access(self.kubeconfig), OWN, False), OWN, last_known=self.memory)

    def path(self, kind: str, name: str) -> str:
        return f"/api/v1/nodes/{name}" if kind == "Node" else f"{CALICO}/{PLURAL[kind]}/{name}"

    def put(self, document: dict[str, Any]) -> None:
        kind, name = document["kind"], document["metadata"]["name"]
        if kind == "Node":
            address = {"projectcalico.org/IPv4Address": "10.0.1.30/24"}
            document = {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": name, "annotations": address},
            }
        else:
            document = {**document, "apiVersion": "crd.projectcalico.org/v1"}
        self.server.apply(document, self.path(kind, name))

    def delete(self, kind: str, name: str) -> None:
        self.server.request("DELETE", self.path(kind, name))

    def lose(self) -> None:
        self.server.stop()

    def restore(self) -> None:
        self.server.start()

    def clear(self) -> None:
        for path in ("/api/v1/nodes", *(f"{CALICO}/{plural}" for plural in PLURAL.values())):
            self.server.request("DELETE", path)


def node(name: str = OWN) -> dict[str, Any]:
    return {"kind": "Node", "metadata": {"name": name}}


def affinity(name: str, of: str, cidr: str) -> dict[str, Any]:
    spec = {"node": of, "cidr": cidr, "state": "confirmed", "deleted": "false"}
    return {"kind": "BlockAffinity", "metadata": {"name": name}, "spec": spec}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    assert BINARY is not None
    server = ApiServer(tmp_path_factory.mktemp("apiserver"), BINARY)
    try:
        server.start()
        for kind in PLURAL:
            server.request("POST", CRDS, definition(kind))
        for plural in PLURAL.values():
            until(
                lambda plural=plural: (
                    "items" in server.request("GET", f"{CALICO}/{plural}", accept=(404, 429, 503))
                ),
                plural,
            )
        yield server
    finally:
        server.stop()
        server.etcd.stop()


@pytest.fixture
def backend(server: ApiServer, tmp_path: Path) -> Iterator[Store]:
    store = Store(server, tmp_path)
    yield store
    if server.running is None:
        server.start()
    store.clear()


class TestContract(DatastoreContract):
    pass


async def test_own_affinities_only_and_the_blocks_that_they_name(backend: Store) -> None:
    backend.put(node())
    backend.put(affinity("a", OWN, "10.48.0.0/26"))
    backend.put(affinity("b", "other", "10.48.0.64/26"))
    spec = {"cidr": "10.48.0.0/26", "affinity": "host:other", "allocations": [], "attributes": []}
    backend.put({"kind": "IPAMBlock", "metadata": {"name": "10-48-0-0-26"}, "spec": spec})
    async with watching(backend) as watch:
        found = await watch.until(lambda s: s.blocks)
        assert set(found.affinities) == {"a"}
        assert found.blocks["10-48-0-0-26"].affinity == "other"
        backend.put(affinity("a", "other", "10.48.0.0/26"))
        await watch.until(lambda s: not s.affinities)


async def test_services_are_read_while_ranges_of_them_are_configured(backend: Store) -> None:
    backend.put(node())
    backend.server.request(
        "POST",
        "/api/v1/namespaces/default/services",
        {"metadata": {"name": "web"}, "spec": {"clusterIP": "10.96.1.1", "ports": [{"port": 80}]}},
    )
    try:
        async with watching(backend) as watch:
            assert not (await watch.until(lambda s: True)).services
            spec = {"serviceClusterIPs": [{"cidr": "10.96.0.0/16"}]}
            backend.put({"kind": "BGPConfiguration", "metadata": {"name": "default"}, "spec": spec})
            await watch.until(lambda s: "default/web" in s.services)
            backend.delete("BGPConfiguration", "default")
            await watch.until(lambda s: not s.services)
    finally:
        backend.server.request("DELETE", "/api/v1/namespaces/default/services/web")


async def test_a_secret_is_read_by_the_name_that_a_peer_says(backend: Store) -> None:
    backend.put(node())
    secret = {"metadata": {"name": "bgp"}, "stringData": {"tor": "word"}}
    backend.server.request("POST", "/api/v1/namespaces/default/secrets", secret)
    reference = {"secretKeyRef": {"name": "bgp", "key": "tor"}}
    spec = {"peerIP": "192.0.2.1", "asNumber": 65001, "password": reference}
    backend.put({"kind": "BGPPeer", "metadata": {"name": "tor"}, "spec": spec})
    try:
        async with watching(backend) as watch:
            found = await watch.until(lambda s: s.secrets)
            assert found.secrets["bgp"].data["tor"] == b"word"
            backend.delete("BGPPeer", "tor")
            await watch.until(lambda s: not s.secrets)
    finally:
        backend.server.request("DELETE", "/api/v1/namespaces/default/secrets/bgp")


def allow(server: ApiServer, resources: list[str]) -> None:
    rules = [
        {
            "apiGroups": ["", "crd.projectcalico.org"],
            "resources": resources,
            "verbs": ["get", "list", "watch"],
        }
    ]
    rbac, root = "rbac.authorization.k8s.io/v1", "/apis/rbac.authorization.k8s.io/v1"
    role = {"apiVersion": rbac, "kind": "ClusterRole", "metadata": {"name": "test"}, "rules": rules}
    server.apply(role, f"{root}/clusterroles/test")
    binding = {
        "apiVersion": rbac,
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "test"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "test"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "nobody"}],
    }
    server.apply(binding, f"{root}/clusterrolebindings/test")


async def test_a_kind_that_we_may_not_read_is_named_and_the_rest_goes_on(
    backend: Store, tmp_path: Path
) -> None:
    backend.put(node())
    backend.put(pool())
    peer = {"peerIP": "192.0.2.1", "asNumber": 65001, "filters": ["hidden"]}
    backend.put({"kind": "BGPPeer", "metadata": {"name": "tor"}, "spec": peer})
    allow(
        backend.server, ["nodes", "ippools", "bgpconfigurations", "bgppeers", "blockaffinities", "ipamblocks"]
    )
    store = Store(backend.server, tmp_path, "nobody-token")
    async with watching(store) as watch:
        found = await watch.until(lambda s: s.pools and s.problems)
        (problem,) = found.problems
        assert problem.source == "kubernetes: bgpfilters"
        assert "forbidden" in problem.message
        assert ("BGPFilter", "hidden") in found.unusable
        assert watch.datastore.status().errors["permission"] == 1
    allow(backend.server, ["nodes", "ippools", "bgppeers", "bgpfilters", "blockaffinities"])
    async with watching(store) as watch:
        status = await watch.status(lambda s: "bgpconfigurations" in s.detail)
        assert watch.snapshots == []
        assert "forbidden" in status.detail


async def test_sync_writes_what_the_server_says(backend: Store, tmp_path: Path) -> None:
    """``bgpd sync`` as docs/migrate.md starts it, as a user who may no more than docs/kubernetes.md lists."""
    backend.put(node())
    backend.put(pool())
    for name, of in (("a", OWN), ("b", "other")):
        backend.put(affinity(name, of, f"10.48.0.{64 * (of != OWN)}/26"))
    spec = {"cidr": "10.48.0.0/26", "affinity": f"host:{OWN}", "allocations": [], "attributes": []}
    backend.put({"kind": "IPAMBlock", "metadata": {"name": "10-48-0-0-26"}, "spec": spec})
    backend.put(
        {"kind": "BGPPeer", "metadata": {"name": "tor"}, "spec": {"peerIP": "192.0.2.1", "asNumber": 65001}}
    )
    kinds = [
        "nodes",
        "ippools",
        "bgpconfigurations",
        "bgppeers",
        "bgpfilters",
        "blockaffinities",
        "ipamblocks",
    ]
    allow(backend.server, kinds)
    reader, directory = Store(backend.server, tmp_path, "nobody-token"), tmp_path / "resources"
    directory.mkdir()
    page = (PROJECT / "docs" / "migrate.md").read_text()
    (line,) = (each.split() for each in page.splitlines() if each.strip().startswith("bgpd sync "))
    given = {"--from": str(reader.kubeconfig), "--to": str(directory), "--node": OWN}
    words = [given.get(before, word) for before, word in zip(["", *line], line, strict=False)]
    words[0] = str(Path(sys.executable).with_name("bgpd"))
    syncing = await asyncio.create_subprocess_exec(*words, stdout=DEVNULL, stderr=DEVNULL)
    try:
        files = Watching(Files(directory, OWN))
        following = asyncio.create_task(files.follow())
        async with watching(reader) as watch:
            expected = await watch.until(lambda s: s.affinities and s.blocks and s.peers)
            await files.until(lambda s: replace(s, problems=()) == replace(expected, problems=()), 30)
            backend.put(pool("second", "10.49.0.0/24"))
            await files.until(lambda s: set(s.pools) == {"default", "second"})
            backend.delete("BlockAffinity", "a")
            found = await files.until(lambda s: not s.affinities and not s.blocks)
            assert not found.problems
        backend.lose()
        await asyncio.to_thread(backend.restore)
        backend.put(pool("third", "10.50.0.0/24"))
        await files.until(lambda s: "third" in s.pools, 40)
        assert all(OWN in each.nodes and "tor" in each.peers for each in files.snapshots)
        following.cancel()
        await asyncio.wait([following])
    finally:
        syncing.terminate()
        assert await syncing.wait() == 0


async def test_a_token_that_is_not_known_and_a_wrong_authority(backend: Store, tmp_path: Path) -> None:
    backend.put(node())
    store = Store(backend.server, tmp_path, "expired-token")
    async with watching(store) as watch:
        status = await watch.status(lambda s: s.errors["credentials"] and s.detail)
        assert (status.up, watch.snapshots) == (False, [])
        store.server.kubeconfig(store.kubeconfig)  # the file is renewed
        await watch.until(lambda s: OWN in s.nodes)
    other = tmp_path / "other"
    other.mkdir()
    store = Store(backend.server, tmp_path, "admin-token", make_ca(other)[0])
    async with watching(store) as watch:
        await watch.status(lambda s: s.errors["tls"] and "certificate" in s.detail)


async def test_a_pods_account_with_a_token_that_is_renewed(
    backend: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.put(node())
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(backend.server.port))
    for name, text in (
        ("token", "expired"),
        ("namespace", "kube-system"),
        ("ca.crt", backend.server.ca.read_text()),
    ):
        (tmp_path / name).write_text(text)
    client = KubernetesClient(Access(service_account=tmp_path))
    with pytest.raises(Trouble) as caught:
        await client.get("/api/v1/nodes")
    assert caught.value.kind is Kind.UNKNOWN
    (tmp_path / "token").write_text("admin-token\n")
    assert (await client.get(f"/api/v1/nodes/{OWN}"))["metadata"]["name"] == OWN
    assert client.namespace == "kube-system"
    await client.close()


async def test_lists_in_pages_and_all_at_once_say_the_same(backend: Store) -> None:
    for number in range(25):
        backend.put(pool(f"p{number:02}"))
    client = KubernetesClient(Access(backend.kubeconfig))
    for params in ({"limit": "7"}, {"resourceVersion": "0"}, {}):
        names, version = [], ""
        async for found, now in client.items(f"{CALICO}/ippools", params):
            names, version = [*names, *(each["metadata"]["name"] for each in found)], now
        assert names == [f"p{number:02}" for number in range(25)]
        assert int(version) > 0
    await client.close()


async def test_guarded_writes(backend: Store) -> None:
    client = KubernetesClient(Access(backend.kubeconfig))
    path = f"{CALICO}/ippools"
    body = {**pool(), "apiVersion": "crd.projectcalico.org/v1"}
    made = await client.send("POST", path, body)
    with pytest.raises(Trouble) as twice:
        await client.send("POST", path, body)
    assert twice.value.kind is Kind.CONFLICT
    changed = {**made, "spec": {"cidr": "10.50.0.0/24"}}
    await client.send("PUT", f"{path}/default", changed)
    with pytest.raises(Trouble) as stale:
        await client.send("PUT", f"{path}/default", changed | {"spec": {"cidr": "10.51.0.0/24"}})
    assert stale.value.kind is Kind.CONFLICT
    await client.send("DELETE", f"{path}/default")
    with pytest.raises(Trouble) as gone:
        await client.get(f"{path}/default")
    assert gone.value.kind is Kind.MISSING
    await client.close()


async def test_a_compacted_history_is_read_anew_and_compared(backend: Store) -> None:
    backend.put(node())
    source = Kubernetes(Access(backend.kubeconfig), OWN, False)
    feed = source.feeds(Snapshot())["ippools"]
    with pytest.raises(Trouble) as caught:
        async for _ in feed.follow("1"):
            pass
    assert caught.value.kind is Kind.EXPIRED
    await source.close()


async def test_the_server_gone_and_what_was_deleted_meanwhile(backend: Store) -> None:
    backend.put(node())
    for name in ("a", "b"):
        backend.put(pool(name))
    async with watching(backend) as watch:
        await watch.until(lambda s: len(s.pools) == 2)
        seen = len(watch.snapshots)
        backend.lose()
        await watch.status(lambda s: not s.up and s.as_of)
        backend.server.etcd.ctl("del", "/registry/crd.projectcalico.org/ippools/a")
        await asyncio.to_thread(backend.restore)
        await watch.until(lambda s: set(s.pools) == {"b"}, 30)
        assert all("b" in snapshot.pools and OWN in snapshot.nodes for snapshot in watch.snapshots[seen:])
        await watch.status(lambda s: s.up and s.in_sync and s.as_of is None, 30)


async def test_a_burst_arrives_whole(backend: Store) -> None:
    backend.put(node())
    async with watching(backend) as watch:
        await watch.until(lambda s: True)
        client = KubernetesClient(Access(backend.kubeconfig))

        async def make(number: int) -> None:
            body = {
                **pool(f"p{number}", f"10.{number >> 8}.{number & 255}.0/24"),
                "apiVersion": "crd.projectcalico.org/v1",
            }
            await client.send("POST", f"{CALICO}/ippools", body)

        started = time.monotonic()
        for at in range(0, 1000, 50):
            await asyncio.gather(*(make(number) for number in range(at, at + 50)))
        assert time.monotonic() - started < 60
        found = await watch.until(lambda s: len(s.pools) == 1000, 30)
        assert not found.problems
        await client.close()


async def test_a_start_while_the_server_is_away(
    backend: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bgpd.datastore.cluster.PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr("bgpd.datastore.cluster.KEEP_SECONDS", 0.1)
    backend.put(node())
    backend.put(affinity("a", OWN, "10.48.0.0/26"))
    backend.memory = LastKnown(tmp_path / "state")
    async with watching(backend) as watch:
        await watch.until(lambda s: s.affinities)
        await asyncio.sleep(0.5)
    objects = [json.loads(line) for line in backend.memory.path.read_text().splitlines()][1:]
    assert "managedFields" not in json.dumps(objects)
    backend.lose()
    backend.memory = LastKnown(tmp_path / "state")
    async with watching(backend) as watch:
        assert set((await watch.until(lambda s: s.affinities)).affinities) == {"a"}
        assert (await watch.status(lambda s: s.as_of is not None and not s.up)).detail
        await asyncio.to_thread(backend.restore)
        await watch.status(lambda s: s.as_of is None and s.in_sync, 30)
