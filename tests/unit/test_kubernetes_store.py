"""IPAM in the Kubernetes API, on the stand-in: the contract of stores, and the two steps in which Calico deletes. The
real server passes the same in ``make cluster-test``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from bgpd.datastore.calico import allocation
from bgpd.datastore.kubernetes.client import Access
from bgpd.datastore.kubernetes.store import KubernetesStore
from bgpd.datastore.loop_thread import LoopThread
from bgpd.datastore.store import Executor, Store
from bgpd.model.ipam import Affinity, Conflict, Kind, Ref, State, Stored, StoreUnwritten
from bgpd.model.networks import IPNetwork
from bgpd.rules.ipam.assign import assign
from tests import calico_dump
from tests.unit.fake_apiserver import PLURALS, FakeApiServer, status
from tests.unit.ipam_ground import NOW, Memory, ask, sound
from tests.unit.store_contract import ROW, StoreContract, made


class Server:
    """The stand-in in a thread of its own, since a store waits for its answers."""

    def __init__(self, directory: Path) -> None:
        self.fake = FakeApiServer()
        self.thread = LoopThread("fake-apiserver")
        self.thread.run(self.fake.start())
        self.kubeconfig = self.fake.kubeconfig(directory / "kubeconfig")
        self.opened: list[KubernetesStore] = []

    def open(self) -> KubernetesStore:
        self.opened.append(KubernetesStore(Access(self.kubeconfig)))
        return self.opened[-1]

    def plant(self, document: dict[str, Any]) -> None:
        async def put() -> None:
            self.fake.put(PLURALS[document["kind"]], document)

        self.thread.run(put())

    def stop(self) -> None:
        for store in self.opened:
            store.close()
        self.thread.run(self.fake.stop())
        self.thread.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    yield made
    made.stop()


class TestKubernetes(StoreContract):
    @pytest.fixture(autouse=True)
    def _server(self, server: Server) -> None:
        self.server = server

    def open(self) -> Store:
        return self.server.open()

    def plant(self, document: dict[str, Any]) -> None:
        self.server.plant(document)


def test_what_died_between_the_two_steps_is_gone_and_its_name_is_free(server: Server) -> None:
    """ipam.md §1.6: the list of Calico shows such a block, and its ADD fails on such an affinity."""
    store = server.open()
    for value in (ROW, Affinity("host:node-b", IPNetwork("10.48.0.64/26"), State.CONFIRMED)):
        known = made(store.create(value))
        server.plant({**known.origin, "spec": {**known.origin["spec"], "deleted": "true"}})
        assert store.get(value.ref) is None and store.list(Kind.AFFINITY) == ()
        assert store.update(known, value) is Conflict.CHANGED
        again = made(store.create(value))
        assert store.get(value.ref) == again
        assert store.delete(again) is None


def test_a_delete_is_marked_before_it_is_done(server: Server) -> None:
    """So that a client of Calico's with the object in its hands sees it, and what has the name since stays."""
    store = server.open()
    known = made(store.create(ROW))
    asked: list[str] = []

    def refuse(request: web.Request) -> web.Response | None:
        asked.append(request.method)
        return status(500, "not now") if request.method == "DELETE" else None

    server.fake.refuse = refuse
    assert store.delete(known) is None
    assert asked == ["PUT", "DELETE"]
    (found,) = (one for (plural, _), one in server.fake.objects.items() if plural == "blockaffinities")
    assert found["spec"]["deleted"] == "true"
    assert store.get(ROW.ref) is None and store.list(Kind.AFFINITY) == ()
    server.fake.refuse = lambda request: None
    made(store.create(ROW))


def test_affinities_of_old_calicos_have_no_labels_and_are_found(server: Server) -> None:
    spec = {"cidr": "10.48.0.0/26", "node": "node-a", "state": "confirmed", "deleted": "false"}
    old = {"apiVersion": allocation.CRD, "kind": "BlockAffinity", "metadata": {"name": "node-a-10-48-0-0-26"}}
    server.plant({**old, "spec": spec})
    store = server.open()
    assert [one.value.ref.name for one in store.list(Kind.AFFINITY, "host:node-a")] == ["10.48.0.0/26"]
    assert store.list(Kind.AFFINITY, "host:node-b") == ()
    (known,) = store.list(Kind.AFFINITY)
    assert isinstance(store.update(known, known.value), Stored)
    (found,) = store.list(Kind.AFFINITY, "host:node-a")
    assert found.origin["metadata"]["labels"]["projectcalico.org/affinity-type"] == "host"


def test_what_may_not_be_written_is_named_at_once(server: Server) -> None:
    """Without the rights of the overlay without Calico."""
    for document in calico_dump.kubernetes():
        server.plant(document)
    server.fake.refuse = lambda request: (
        None if request.method == "GET" else status(403, "ipamhandles is forbidden: User bgpd cannot create")
    )
    with pytest.raises(StoreUnwritten, match="forbidden"):
        Executor(server.open()).run(assign(ask("c1", "node-b"), NOW))


def test_a_kind_that_the_server_does_not_have_is_empty(server: Server) -> None:
    server.fake.refuse = lambda request: (
        status(404, "not found") if "ipreservations" in request.path else None
    )
    assert server.open().list(Kind.RESERVATION) == ()


def test_nodes_are_not_ours_to_write(server: Server) -> None:
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "spec": {}}
    with pytest.raises(StoreUnwritten, match="kubectl"):
        server.open().apply(node, None)


def test_a_pool_is_applied_as_calicos_group_has_it(server: Server) -> None:
    store = server.open()
    pool = {
        "apiVersion": allocation.V3,
        "kind": "IPPool",
        "metadata": {"name": "p", "resourceVersion": "5", "uid": "x"},
        "spec": {"cidr": "10.48.0.0/24"},
    }
    first = made(store.apply(pool, None))
    assert store.apply(pool, None) is Conflict.CHANGED, "it is there"
    second = made(store.apply({**pool, "spec": {"cidr": "10.48.0.0/24", "disabled": True}}, first))
    assert store.apply(pool, first) is Conflict.CHANGED
    assert store.document(second)["apiVersion"] == allocation.V3
    assert server.fake.objects["ippools", "p"]["apiVersion"] == allocation.CRD
    assert store.delete(first) is Conflict.CHANGED and store.delete(second) is None
    assert store.get(Ref(Kind.POOL, "p")) is None


def test_calicos_objects_are_worked_on_as_calico_would(server: Server) -> None:
    before = {(one["kind"], one["metadata"]["name"]): one for one in calico_dump.kubernetes()}
    for document in before.values():
        server.plant(document)
    store = server.open()
    assert calico_dump.work(store) == ["10.65.0.4"]
    blocks = {one["spec"]["cidr"]: one["spec"] for (kind, _), one in before.items() if kind == "IPAMBlock"}
    wanted = {key: one.get("spec") for key, one in before.items()}
    for cidr, fields in calico_dump.expected(blocks).items():
        key = ("IPAMBlock", allocation.cidr_name(cidr))
        if fields is None:
            del wanted[key]
        else:
            wanted[key] = fields
    for handle in calico_dump.GONE:
        del wanted["IPAMHandle", f"k8s-pod-network.{handle}"]
    wanted["IPAMHandle", "k8s-pod-network.x1"] = {**calico_dump.HANDLE, "handleID": "k8s-pod-network.x1"}
    assert {(one["kind"], name): one.get("spec") for (_, name), one in server.fake.objects.items()} == wanted
    sound(
        Memory(one.value for kind in Kind if kind is not Kind.LEASE for one in store.list(kind)), settled=True
    )
