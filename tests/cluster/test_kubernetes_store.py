"""IPAM in a real kube-apiserver, with exactly the account and the definitions of the overlay ``without-calico``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bgpd.datastore.calico import allocation
from bgpd.datastore.kubernetes.client import Access
from bgpd.datastore.kubernetes.store import KubernetesStore
from bgpd.datastore.store import Store
from bgpd.model.ipam import Affinity, Kind, State, StoreUnwritten
from bgpd.model.networks import IPNetwork
from tests import calico_dump, ipam_writers
from tests.cluster.definitions import CALICO
from tests.cluster.manifests import server_without_calico
from tests.cluster.servers import ApiServer, apiserver_binary, missing
from tests.unit.store_contract import StoreContract, made

BINARY = apiserver_binary()
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(1300),
    pytest.mark.skipif(BINARY is None, reason="no kube-apiserver: tests/cluster/build-apiserver needs Go"),
    pytest.mark.skipif(bool(missing("etcd", "openssl")), reason="etcd-server or openssl is missing"),
]
PLURALS = {
    "IPPool": "ippools",
    "IPAMBlock": "ipamblocks",
    "BlockAffinity": "blockaffinities",
    "IPAMHandle": "ipamhandles",
    "IPAMConfig": "ipamconfigs",
    "IPReservation": "ipreservations",
    "ClusterInformation": "clusterinformations",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    assert BINARY is not None
    with server_without_calico(tmp_path_factory.mktemp("apiserver"), BINARY, PLURALS.values()) as made:
        yield made


@pytest.fixture
def kubeconfig(server: ApiServer, tmp_path: Path) -> Path:
    """Of the account of the manifests, on an API without objects."""
    for plural in PLURALS.values():
        server.request("DELETE", f"{CALICO}/{plural}")
    server.request("DELETE", "/api/v1/nodes")
    server.request("DELETE", "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases")
    path = "/api/v1/namespaces/kube-system/serviceaccounts/bgpd/token"
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    token = server.request("POST", path, {**request, "spec": {"expirationSeconds": 3600}})["status"]["token"]
    return server.kubeconfig(tmp_path / "kubeconfig", token)


def plant(server: ApiServer, document: dict[str, Any]) -> None:
    metadata = {key: document["metadata"][key] for key in ("name", "labels") if key in document["metadata"]}
    if document["kind"] == "Node":
        server.request("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": metadata})
        return
    whole = {**document, "apiVersion": allocation.CRD, "metadata": metadata}
    server.request("POST", f"{CALICO}/{PLURALS[document['kind']]}", whole)


class TestKubernetes(StoreContract):
    @pytest.fixture(autouse=True)
    def _server(self, server: ApiServer, kubeconfig: Path) -> Iterator[None]:
        self.server, self.kubeconfig = server, kubeconfig
        self.opened: list[KubernetesStore] = []
        yield
        for store in self.opened:
            store.close()

    def open(self) -> Store:
        self.opened.append(KubernetesStore(Access(self.kubeconfig), "kube-system"))
        return self.opened[-1]

    def plant(self, document: dict[str, Any]) -> None:
        plant(self.server, document)


@pytest.fixture
def store(kubeconfig: Path) -> Iterator[KubernetesStore]:
    made = KubernetesStore(Access(kubeconfig))
    yield made
    made.close()


def test_what_died_between_the_two_steps_is_gone_and_its_name_is_free(
    server: ApiServer, store: KubernetesStore
) -> None:
    row = Affinity("host:node-a", IPNetwork("10.48.0.0/26"), State.PENDING)
    known = made(store.create(row))
    marked = {**known.origin, "spec": {**known.origin["spec"], "deleted": "true"}}
    server.request("PUT", f"{CALICO}/blockaffinities/node-a-10-48-0-0-26", marked)
    assert store.get(row.ref) is None and store.list(Kind.AFFINITY) == ()
    assert made(store.create(row)) == store.get(row.ref)


def test_calicos_objects_are_worked_on_as_calico_would(server: ApiServer, store: KubernetesStore) -> None:
    before = {(one["kind"], one["metadata"]["name"]): one for one in calico_dump.kubernetes()}
    for document in before.values():
        plant(server, document)
    assert calico_dump.work(store) == ["10.65.0.4"]
    blocks = {one["spec"]["cidr"]: one["spec"] for (kind, _), one in before.items() if kind == "IPAMBlock"}
    after = {
        one["spec"]["cidr"]: one["spec"] for one in server.request("GET", f"{CALICO}/ipamblocks")["items"]
    }
    wanted = blocks | calico_dump.expected(blocks)
    assert after == {cidr: fields for cidr, fields in wanted.items() if fields is not None}
    handles = {one["spec"]["handleID"] for one in server.request("GET", f"{CALICO}/ipamhandles")["items"]}
    known = {name for kind, name in before if kind == "IPAMHandle"}
    gone = {f"k8s-pod-network.{handle}" for handle in calico_dump.GONE}
    assert handles == known - gone | {"k8s-pod-network.x1"}


def test_the_account_may_write_no_pool(store: KubernetesStore) -> None:
    pool = {
        "apiVersion": allocation.V3,
        "kind": "IPPool",
        "metadata": {"name": "p"},
        "spec": {"cidr": "10.0.0.0/24"},
    }
    with pytest.raises(StoreUnwritten, match="forbidden"):
        store.apply(pool, None)


def test_writers_that_are_killed_leave_nothing_double_and_nothing_lost(
    server: ApiServer, store: KubernetesStore, kubeconfig: Path, tmp_path: Path
) -> None:
    for document in ipam_writers.resources():
        plant(server, document)
    configuration = f"datastore: {{type: kubernetes, kubeconfig: {kubeconfig}}}"
    size = ipam_writers.WHOLE or ipam_writers.Size(writers=4, allocations=60, kills=4, seconds=300)
    outcome = ipam_writers.work_and_check(store, configuration, tmp_path, size)
    print(f"Kubernetes: {outcome}")
