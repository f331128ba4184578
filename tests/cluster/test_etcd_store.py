"""IPAM in a real etcd: the contract of stores, and what Calico 3.28 wrote, allocated from and released into."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from netaddr import IPAddress, IPNetwork

from bgpd.cli import ctl
from bgpd.datastore.etcd.client import Access
from bgpd.datastore.etcd.store import EtcdStore
from bgpd.datastore.store import Executor, Store
from bgpd.model.ipam import Affinity, Kind, Ref, State, StoreFailed
from bgpd.rules.ipam.assign import assign
from bgpd.rules.ipam.release import release_handle
from tests import calico_dump, ipam_writers
from tests.cluster.servers import EtcdServer, missing
from tests.unit.ipam_ground import NOW, ask
from tests.unit.store_contract import StoreContract

pytestmark = [
    pytest.mark.timeout(1300 if ipam_writers.WHOLE else 120),
    pytest.mark.skipif(bool(missing("etcd", "etcdctl")), reason="etcd-server and etcd-client are missing"),
]
PLURAL = {"IPPool": "ippools", "Node": "nodes"}
RESOURCES = "/calico/resources/v3/projectcalico.org"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    made = EtcdServer(tmp_path_factory.mktemp("etcd"))
    made.start()
    yield made
    made.stop()


@pytest.fixture
def etcd(server: EtcdServer) -> Iterator[EtcdServer]:
    server.ctl("del", "", "--prefix")
    yield server


class TestEtcd(StoreContract):
    @pytest.fixture(autouse=True)
    def _etcd(self, etcd: EtcdServer) -> Iterator[None]:
        self.server = etcd
        self.opened: list[EtcdStore] = []
        yield
        for store in self.opened:
            store.close()

    def open(self) -> Store:
        self.opened.append(EtcdStore(Access((self.server.url,))))
        return self.opened[-1]

    def plant(self, document: dict[str, Any]) -> None:
        key = f"{RESOURCES}/{PLURAL[document['kind']]}/{document['metadata']['name']}"
        self.server.ctl("put", key, json.dumps(document))


BLOCK = (
    '{"cidr":"10.65.0.0/28","affinity":"host:node-a","allocations":[1,0,1,1,null,null,null,null,null,2,null,null,null,'
    'null,null,null],"unallocated":[4,5,6,7,8,10,11,12,13,14,15],"attributes":[{"handle_id":"ipip-tunnel-addr-node-a",'
    '"secondary":{"node":"node-a","type":"ipipTunnelAddress"}},{"handle_id":"k8s-pod-network.a1","secondary":'
    '{"namespace":"default","node":"node-a","pod":"web-0"}},{"handle_id":"k8s-pod-network.b2","secondary":'
    '{"namespace":"default","node":"node-b","pod":"web-9"}}],"sequenceNumber":1795749184311762109,'
    '"sequenceNumberForAllocation":{"0":1795749184311762107,"1":1795749184311762106,"2":1795749184311762107,'
    '"3":1795749184311762107,"9":1795749184311762108},"deleted":false}'
)
"""As Calico 3.28 wrote it."""
KEYS = {
    "/calico/ipam/v2/assignment/ipv4/block/10.65.0.0-28": BLOCK,
    "/calico/ipam/v2/host/node-a/ipv4/block/10.65.0.0-28": '{"state":"confirmed","deleted":false}',
    "/calico/ipam/v2/handle/k8s-pod-network.a1": '{"block":{"10.65.0.0/28":3},"deleted":false}',
    "/calico/ipam/v2/handle/k8s-pod-network.b2": '{"block":{"10.65.0.0/28":1},"deleted":false}',
    "/calico/ipam/v2/config": '{"auto_allocate_blocks":true}',
    f"{RESOURCES}/nodes/node-a": '{"kind":"Node","apiVersion":"projectcalico.org/v3","metadata":{"name":"node-a"}}',
    f"{RESOURCES}/ippools/p": (
        '{"kind":"IPPool","apiVersion":"projectcalico.org/v3","metadata":{"name":"p"},'
        '"spec":{"cidr":"10.65.0.0/24","blockSize":28,"nodeSelector":"all()"}}'
    ),
}


@pytest.fixture
def store(etcd: EtcdServer) -> Iterator[EtcdStore]:
    for key, value in KEYS.items():
        etcd.ctl("put", key, value)
    made = EtcdStore(Access((etcd.url,)))
    yield made
    made.close()


def raw(etcd: EtcdServer, key: str) -> Any:
    text = etcd.ctl("get", key, "--print-value-only")
    return json.loads(text) if text.strip() else None


def test_calicos_block_is_allocated_from_as_calico_would(etcd: EtcdServer, store: EtcdStore) -> None:
    run = Executor(store).run
    (found,) = run(assign(ask("x1", "node-a"), NOW))
    assert found.address == IPAddress("10.65.0.4")
    block = raw(etcd, "/calico/ipam/v2/assignment/ipv4/block/10.65.0.0-28")
    before = json.loads(BLOCK)
    assert list(block) == list(before), "the same keys in the same order"
    assert block["allocations"] == [1, 0, 1, 1, 3, *before["allocations"][5:]]
    assert block["unallocated"] == before["unallocated"][1:]
    assert block["sequenceNumber"] == before["sequenceNumber"] + 1
    numbers = {**before["sequenceNumberForAllocation"], "4": before["sequenceNumber"]}
    assert block["sequenceNumberForAllocation"] == numbers
    assert block["attributes"][:3] == before["attributes"] and block["attributes"][3]["handle_id"] == "net.x1"
    assert raw(etcd, "/calico/ipam/v2/handle/net.x1") == {"block": {"10.65.0.0/28": 1}, "deleted": False}

    released = run(release_handle("k8s-pod-network.a1", "node-a", NOW))
    assert [str(address) for address in released] == ["10.65.0.0", "10.65.0.2", "10.65.0.3"]
    block = raw(etcd, "/calico/ipam/v2/assignment/ipv4/block/10.65.0.0-28")
    assert block["allocations"][:10] == [None, 0, None, None, 2, None, None, None, None, 1]
    assert block["unallocated"] == [*before["unallocated"][1:], 0, 2, 3]
    assert [entry["handle_id"] for entry in block["attributes"]] == [
        "ipip-tunnel-addr-node-a",
        "k8s-pod-network.b2",
        "net.x1",
    ]
    assert raw(etcd, "/calico/ipam/v2/handle/k8s-pod-network.a1") is None
    run(release_handle("net.x1", "node-a", NOW))
    assert raw(etcd, "/calico/ipam/v2/handle/net.x1") is None


def test_calicos_dump_is_worked_on_as_calico_would(etcd: EtcdServer) -> None:
    """Every key that is not concerned stays octet by octet; a block is written with Calico's fields in their order."""
    before = calico_dump.etcd()
    for key, value in before.items():
        etcd.ctl("put", key, value)
    store = EtcdStore(Access((etcd.url,)))
    try:
        assert calico_dump.work(store) == ["10.65.0.4"]
    finally:
        store.close()
    prefix = "/calico/ipam/v2/assignment"
    blocks = {
        fields["cidr"]: (key, fields)
        for key, fields in ((key, json.loads(v)) for key, v in before.items() if key.startswith(prefix))
    }
    wanted = dict(before)
    for cidr, fields in calico_dump.expected({cidr: fields for cidr, (_, fields) in blocks.items()}).items():
        key = blocks[cidr][0]
        if fields is None:
            del wanted[key]
        else:
            wanted[key] = json.dumps(fields, separators=(",", ":"))
    for handle in calico_dump.GONE:
        del wanted[f"/calico/ipam/v2/handle/k8s-pod-network.{handle}"]
    wanted["/calico/ipam/v2/handle/k8s-pod-network.x1"] = json.dumps(
        calico_dump.HANDLE, separators=(",", ":")
    )
    kvs = json.loads(etcd.ctl("get", "", "--prefix", "--write-out=json"))["kvs"]
    after = {b64decode(kv["key"]).decode(): b64decode(kv["value"]).decode() for kv in kvs}
    assert after == wanted


@pytest.mark.cluster
def test_writers_that_are_killed_leave_nothing_double_and_nothing_lost(
    etcd: EtcdServer, tmp_path: Path
) -> None:
    for document in ipam_writers.resources():
        key = f"{RESOURCES}/{PLURAL[document['kind']]}/{document['metadata']['name']}"
        etcd.ctl("put", key, json.dumps(document))
    store = EtcdStore(Access((etcd.url,)))
    try:
        configuration = f"datastore: {{type: etcd, endpoints: ['{etcd.url}']}}"
        size = ipam_writers.WHOLE or ipam_writers.Size(writers=4, allocations=60, kills=4, seconds=60)
        outcome = ipam_writers.work_and_check(store, configuration, tmp_path, size)
        print(f"etcd: {outcome}")
    finally:
        store.close()
    assert outcome.killed == size.kills and outcome.released > 10


def test_an_affinity_without_a_value_is_confirmed_and_of_node1_only(
    etcd: EtcdServer, store: EtcdStore
) -> None:
    """calico#1956; and the prefix of node1 is not that of node10."""
    for node in ("node1", "node10"):
        etcd.ctl("put", f"/calico/ipam/v2/host/{node}/ipv4/block/10.65.0.16-28", "", data=None)
    (row,) = store.list(Kind.AFFINITY, "host:node1")
    assert row.value == Affinity("host:node1", IPNetwork("10.65.0.16/28"), State.CONFIRMED)


def test_bgpctl_works_on_etcd_by_the_daemons_configuration(
    etcd: EtcdServer, store: EtcdStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "bgpd.yaml"
    config.write_text(f"datastore: {{type: etcd, endpoints: ['{etcd.url}']}}\n")
    new = tmp_path / "pool.yaml"
    new.write_text(
        "{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: q}, spec: {cidr: 10.66.0.0/24}}"
    )
    for words in (
        ["apply", "-f", str(new)],
        ["apply", "-f", str(new)],
        ["get", "ippools"],
        ["ipam", "show", "--show-borrowed"],
        ["delete", "ippool", "q"],
        ["ipam", "configure", "--ip-cooldown-seconds", "30"],
    ):
        assert ctl.main([*words, "--config", str(config)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "IPPool q: created" in out and "IPPool q: configured" in out and "10.66.0.0/24" in out
    assert "| 10.65.0.9 | node-b         | 10.65.0.0/28 | node-a      | pod  | default/web-9 |" in out
    assert raw(etcd, "/calico/ipam/v2/config") == {"auto_allocate_blocks": True, "ipCooldownSeconds": 30}
    assert raw(etcd, f"{RESOURCES}/ippools/q") is None


def test_a_server_that_is_away_is_named(tmp_path: Path) -> None:
    store = EtcdStore(Access(("http://127.0.0.1:1",)))
    try:
        with pytest.raises(StoreFailed, match=r"127\.0\.0\.1:1"):
            store.get(Ref(Kind.POOL, "p"))
    finally:
        store.close()
