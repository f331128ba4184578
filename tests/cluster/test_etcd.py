"""A real etcd: the contract of datastores, what Calico's own writers stored, and what only a server can do to us."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bgpd.datastore.cluster import Cluster
from bgpd.datastore.etcd import client as etcd
from bgpd.datastore.etcd.client import Access, Compare, DeleteOp, EtcdClient, PutOp
from bgpd.datastore.etcd.feeds import Etcd
from bgpd.datastore.etcd.layout import PLURALS
from bgpd.datastore.last_known import LastKnown
from bgpd.datastore.reflector import Whole
from bgpd.datastore.trouble import Kind, Trouble
from bgpd.model.resources import AffinityState, Snapshot
from testing.namespaces import PROJECT
from tests.cluster.servers import EtcdServer, make_ca, missing
from tests.datastore_contract import OWN, Backend, DatastoreContract, node, pool, watching

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(bool(missing("etcd", "etcdctl")), reason="etcd-server and etcd-client are missing"),
]
PLURAL = {kind: plural for plural, kind in PLURALS.items()}


class Store(Backend):
    """Objects under Calico's keys."""

    def __init__(self, server: EtcdServer, node: str = OWN, **access: Any) -> None:
        self.server = server
        self.node = node
        self.access = Access((server.url,), **access)
        self.memory: LastKnown | None = None

    def datastore(self) -> Cluster:
        return Cluster(Etcd(self.access, "/calico", self.node, False), self.node, last_known=self.memory)

    def write(self, key: str, value: str) -> None:
        self.server.ctl("put", key, value)

    def key(self, kind: str, name: str) -> str:
        return f"/calico/resources/v3/projectcalico.org/{PLURAL[kind]}/{name}"

    def put(self, document: dict[str, Any]) -> None:
        self.write(self.key(document["kind"], document["metadata"]["name"]), json.dumps(document))

    def delete(self, kind: str, name: str) -> None:
        self.server.ctl("del", self.key(kind, name))

    def lose(self) -> None:
        self.server.stop()

    def restore(self) -> None:
        self.server.start()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def backend(server: EtcdServer) -> Store:
    return Store(server)


class TestContract(DatastoreContract):
    pass


AFFINITY = "/calico/ipam/v2/host/worker1/ipv4/block/10.48.0.0-26"
BLOCK = "/calico/ipam/v2/assignment/ipv4/block/10.48.0.0-26"


async def test_affinities_as_calico_writes_them(backend: Store) -> None:
    backend.put(node())
    backend.write("/calico/ipam/v2/host/worker2/ipv4/block/10.48.0.64-26", '{"state":"confirmed"}')
    backend.write(AFFINITY, '{"state":"pending","deleted":false}')
    async with watching(backend) as watch:
        found = await watch.until(lambda s: s.affinities)
        (only,) = found.affinities.values()
        assert (only.name, only.state) == ("worker1-10-48-0-0-26", AffinityState.PENDING)
        backend.write(AFFINITY, "")  # the oldest spelling of confirmed
        await watch.until(lambda s: [a.state for a in s.affinities.values()] == [AffinityState.CONFIRMED])
        backend.write(
            BLOCK, '{"cidr":"10.48.0.0/26","affinity":"host:worker2","attributes":null,"allocations":[]}'
        )
        await watch.until(lambda s: [b.affinity for b in s.blocks.values()] == ["worker2"])
        backend.server.ctl("del", AFFINITY)
        await watch.until(lambda s: not s.affinities and not s.blocks)


async def test_a_value_that_is_no_json_is_named_and_the_rest_goes_on(backend: Store) -> None:
    backend.put(node())
    backend.write(backend.key("IPPool", "broken"), "{")
    async with watching(backend) as watch:
        found = await watch.until(lambda s: s.problems)
        assert [str(problem) for problem in found.problems] == ["etcd: IPPool broken: expected JSON"]
        backend.put(pool())
        await watch.until(lambda s: "default" in s.pools)


async def test_what_was_deleted_while_we_were_away_is_gone_and_nothing_else_flaps(backend: Store) -> None:
    backend.put(node())
    for name in ("a", "b"):
        backend.put(pool(name))
    async with watching(backend) as watch:
        await watch.until(lambda s: len(s.pools) == 2)
        seen = len(watch.snapshots)
        backend.lose()
        await watch.status(lambda s: not s.up)
        backend.restore()
        backend.delete("IPPool", "a")
        revision = json.loads(backend.server.ctl("get", "x", "-w", "json"))["header"]["revision"]
        backend.server.ctl("compact", str(revision))
        await watch.until(lambda s: set(s.pools) == {"b"}, 20)
        assert all("b" in snapshot.pools for snapshot in watch.snapshots[seen:])
        await watch.status(lambda s: s.up and s.in_sync)


async def test_a_compacted_history_is_read_anew_and_compared(
    backend: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.put(node())
    backend.put(pool())
    source = Etcd(backend.access, "/calico", OWN, False)
    feed = source.feeds(Snapshot())["resources"]
    position = ""
    async with contextlib.aclosing(feed.follow(None)) as following:
        async for events in following:
            if events and isinstance(events[-1], Whole):
                position = events[-1].position
                break
    for number in range(5):
        backend.put(pool(f"p{number}"))
    backend.server.ctl("compact", str(int(position) + 4))
    with pytest.raises(Trouble) as caught:
        async for _ in feed.follow(position):
            pass
    assert caught.value.kind is Kind.EXPIRED
    await source.close()


async def test_a_burst_of_thousands_arrives_whole(backend: Store) -> None:
    backend.put(node())
    async with watching(backend) as watch:
        await watch.until(lambda s: True)
        client = EtcdClient(backend.access)
        for at in range(0, 10_000, 100):
            writes = [
                PutOp(
                    backend.key("IPPool", f"p{number}").encode(),
                    json.dumps(pool(f"p{number}", f"10.{number >> 8}.{number & 255}.0/24")).encode(),
                )
                for number in range(at, at + 100)
            ]
            assert (await client.commit((), writes)).succeeded
        await client.close()
        found = await watch.until(lambda s: len(s.pools) == 10_000, 30)
        assert not found.problems
        assert len(watch.snapshots) < 2_000


async def test_guarded_writes(backend: Store) -> None:
    client = EtcdClient(backend.access)
    made = await client.commit([Compare(b"/k", 0)], [PutOp(b"/k", b"\x00\xff")])
    assert made.succeeded
    assert not (await client.commit([Compare(b"/k", 0)], [PutOp(b"/k", b"2")])).succeeded
    found = await client.get(b"/k")
    assert found is not None
    assert (found.value, found.modified) == (b"\x00\xff", made.revision)
    assert (await client.commit([Compare(b"/k", made.revision)], [DeleteOp(b"/k")])).succeeded
    assert await client.get(b"/k") is None
    await client.close()


async def test_another_server_is_asked_when_one_is_gone(backend: Store) -> None:
    backend.put(node())
    dead = "http://127.0.0.1:9"
    for _ in range(4):
        client = EtcdClient(Access((dead, backend.server.url)))
        assert await client.get(b"/nothing") is None
        assert client.endpoint == backend.server.url
        await client.close()


async def test_users_and_permissions(backend: Store, tmp_path: Path) -> None:
    backend.put(node())
    ctl = backend.server.ctl
    page = (PROJECT / "docs" / "etcd.md").read_text()
    of_page = [line.split()[1:] for line in page.splitlines() if line.startswith("etcdctl ")]
    assert len(of_page) == 4
    for words in ("user add root:rootpw", "role add root", "user grant-role root root"):
        ctl(*words.split())
    for line in of_page:
        if line[:2] == ["user", "add"]:  # which asks for the password twice; here it comes from a pipe
            ctl(*line, "--interactive=false", data=b"secret\n")
        else:
            ctl(*line)
    ctl("auth", "enable")
    password = tmp_path / "password"
    password.write_text("secret\n")
    store = Store(backend.server, username="bgpd", password_file=password)
    async with watching(store) as watch:
        await watch.until(lambda s: OWN in s.nodes)
        client = watch.datastore._source._client  # type: ignore[attr-defined]
        client._token = "of.another.life"  # expired: it is renewed where it is asked for
        assert await client.get(b"/calico/x") is None
        with pytest.raises(Trouble) as refused:
            await client.commit((), [PutOp(b"/calico/x", b"")])
        assert refused.value.kind is Kind.FORBIDDEN
    password.write_text("wrong")
    async with watching(store) as watch:
        status = await watch.status(lambda s: s.detail and "not read yet" not in s.detail.split(":")[0])
        assert "authentication failed" in status.detail
        assert status.errors["credentials"] >= 1
        password.write_text("secret")
        await watch.until(lambda s: OWN in s.nodes)
    nobody = Store(backend.server)
    async with watching(nobody) as watch:
        status = await watch.status(lambda s: s.errors["credentials"])
        assert not status.up


async def test_tls_with_our_certificate_and_a_wrong_authority(tmp_path: Path) -> None:
    ca, cert, key = make_ca(tmp_path)
    options = [f"--cert-file={cert}", f"--key-file={key}", f"--trusted-ca-file={ca}", "--client-cert-auth"]
    server = EtcdServer(tmp_path, options, "https")
    server.start()
    try:
        client = EtcdClient(Access((server.url,), ca, cert, key))
        assert (await client.commit((), [PutOp(b"/a", b"1")])).succeeded
        await client.close()
        client = EtcdClient(Access((server.url,), ca))
        with pytest.raises(Trouble):
            await client.get(b"/a")
        await client.close()
        other = tmp_path / "other"
        other.mkdir()
        client = EtcdClient(Access((server.url,), make_ca(other)[0], cert, key))
        with pytest.raises(Trouble) as caught:
            await client.get(b"/a")
        assert caught.value.kind is Kind.TLS
        assert "certificate" in str(caught.value)
        await client.close()
        client = EtcdClient(Access((server.url,), tmp_path / "none.crt"))
        with pytest.raises(Trouble, match=r"none\.crt"):
            await client.get(b"/a")
    finally:
        server.stop()


async def test_a_start_while_the_server_is_away_goes_on_with_what_was_known(
    backend: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bgpd.datastore.cluster.PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr("bgpd.datastore.cluster.KEEP_SECONDS", 0.1)
    backend.put(node())
    backend.put(pool())
    backend.write(AFFINITY, '{"state":"confirmed"}')
    backend.memory = LastKnown(tmp_path / "state")
    async with watching(backend) as watch:
        await watch.until(lambda s: s.pools and s.affinities)
        async with asyncio.timeout(5):
            while not kept(backend.memory.path):  # noqa: ASYNC110 - a file announces itself to nobody
                await asyncio.sleep(0.05)
    assert backend.memory.path.stat().st_mode & 0o777 == 0o600
    backend.lose()
    backend.memory = LastKnown(tmp_path / "state")
    async with watching(backend) as watch:
        found = await watch.until(lambda s: s.affinities)
        assert set(found.pools) == {"default"}
        status = await watch.status(lambda s: s.as_of is not None and not s.up)
        assert status.detail
        backend.restore()
        backend.delete("IPPool", "default")
        await watch.until(lambda s: not s.pools, 20)
        await watch.status(lambda s: s.as_of is None and s.in_sync)
        assert watch.snapshots[-1].affinities == found.affinities


async def test_a_server_that_hangs_is_distinguished_from_one_that_is_silent(
    backend: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    import signal

    monkeypatch.setattr(etcd, "SILENCE_SECONDS", 0.2)
    monkeypatch.setattr(etcd, "ANSWER_TIMEOUT", 0.5)
    backend.put(node())
    async with watching(backend) as watch:
        await watch.until(lambda s: True)
        await asyncio.sleep(0.5)
        assert watch.datastore.status().up
        assert backend.server.running is not None
        backend.server.running.send_signal(signal.SIGSTOP)
        try:
            await watch.status(lambda s: not s.up)
        finally:
            backend.server.running.send_signal(signal.SIGCONT)
        backend.put(pool())
        await watch.until(lambda s: s.pools, 10)


def test_the_version_is_one_that_serves_the_gateway() -> None:
    stated = subprocess.run(["etcd", "--version"], capture_output=True, text=True, check=True).stdout
    assert tuple(map(int, stated.split()[2].split("."))) >= (3, 4)


def kept(path: Path) -> bool:
    return path.exists() and b"10.48.0.0/26" in path.read_bytes()
