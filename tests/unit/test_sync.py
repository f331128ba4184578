"""``bgpd sync``: what it writes is what a bgpd with the files datastore makes the same of as one on the API server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bgpd.datastore import mirror as mirrors
from bgpd.datastore.cluster import Cluster
from bgpd.datastore.files import Files
from bgpd.datastore.kubernetes.client import Access
from bgpd.datastore.kubernetes.feeds import Kubernetes
from bgpd.datastore.mirror import mirror
from bgpd.datastore.synced import LATE_SECONDS, SYNCED
from bgpd.model.resources import Snapshot
from tests.datastore_contract import OWN, Watching, pool
from tests.unit.fake_apiserver import CALICO, FakeApiServer


class Ground:
    """A server, and the directory."""

    def __init__(self, server: FakeApiServer, kubeconfig: Path, directory: Path) -> None:
        self.server, self.kubeconfig, self.directory = server, kubeconfig, directory

    def source(self) -> Kubernetes:
        return Kubernetes(Access(self.kubeconfig), OWN, False)

    def put(self, plural: str, kind: str, name: str, **spec: Any) -> None:
        self.server.put(
            plural, {"apiVersion": CALICO, "kind": kind, "metadata": {"name": name}, "spec": spec}
        )

    @contextlib.asynccontextmanager
    async def syncing(self) -> AsyncIterator[None]:
        task = asyncio.create_task(mirror(self.source(), OWN, self.directory))
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def names(self, plural: str) -> set[str]:
        try:
            items = json.loads((self.directory / f"{plural}.json").read_text())["items"]
        except FileNotFoundError:
            return set()
        return {item["metadata"]["name"] for item in items}


@pytest.fixture
async def ground(tmp_path: Path) -> AsyncIterator[Ground]:
    server = FakeApiServer()
    await server.start()
    address = {"projectcalico.org/IPv4Address": "10.0.1.30/24"}
    server.put("nodes", {"metadata": {"name": OWN, "annotations": address}})
    server.put("ippools", {**pool(), "apiVersion": CALICO})
    directory = tmp_path / "resources"
    directory.mkdir()
    made = Ground(server, server.kubeconfig(tmp_path / "kubeconfig"), directory)
    made.put("blockaffinities", "BlockAffinity", "a", node=OWN, cidr="10.48.0.0/26", state="confirmed")
    made.put("blockaffinities", "BlockAffinity", "b", node="other", cidr="10.48.0.64/26", state="confirmed")
    yield made
    await server.stop()


async def eventually(holds: Any, seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - files announce themselves to nobody here
            await asyncio.sleep(0.01)


async def newest(datastore: Cluster | Files) -> Snapshot:
    stories = datastore.watch()
    async with asyncio.timeout(10):
        snapshot = await anext(stories)
    await stories.aclose()  # type: ignore[attr-defined]  # an async generator
    return snapshot


async def test_files_say_what_the_server_says(ground: Ground) -> None:
    ground.put("bgppeers", "BGPPeer", "tor", peerIP="192.0.2.1", asNumber=65001, filters=["f"])
    ground.put(
        "bgpfilters",
        "BGPFilter",
        "f",
        exportV4=[{"action": "Accept", "cidr": "10.0.0.0/8", "matchOperator": "In"}],
    )
    await mirror(ground.source(), OWN, ground.directory, once=True)
    found, expected = await newest(Files(ground.directory, OWN)), await newest(Cluster(ground.source(), OWN))
    assert replace(found, problems=()) == replace(expected, problems=())
    assert set(found.affinities) == {"a"}
    assert not found.problems
    assert {each.stat().st_mode & 0o777 for each in ground.directory.glob("*.json")} == {0o640}


async def test_changes_are_followed_and_what_is_gone_goes(ground: Ground) -> None:
    async with ground.syncing():
        await eventually(lambda: ground.names("ippools") == {"default"})
        files = Watching(Files(ground.directory, OWN))
        task = asyncio.create_task(files.follow())
        await files.until(lambda s: s.pools and s.affinities)
        before = (ground.directory / "nodes.json").stat().st_mtime_ns
        ground.server.put("ippools", {**pool("second", "10.49.0.0/24"), "apiVersion": CALICO})
        await files.until(lambda s: set(s.pools) == {"default", "second"})
        for name in ("default", "second"):
            ground.server.delete("ippools", name)
        await files.until(lambda s: not s.pools and s.affinities)
        assert (ground.directory / "nodes.json").stat().st_mtime_ns == before  # it did not differ
        assert all(each.affinities for each in files.snapshots)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_what_was_deleted_while_nobody_synced_goes(ground: Ground) -> None:
    await mirror(ground.source(), OWN, ground.directory, once=True)
    ground.server.delete("blockaffinities", "a")
    (ground.directory / "services.json").write_text('{"kind": "List", "items": [{"kind": "Service"}]}')
    (ground.directory / "mine.yaml").write_text("kind: IPPool")
    await mirror(ground.source(), OWN, ground.directory, once=True)
    assert ground.names("blockaffinities") == ground.names("services") == set()
    assert (ground.directory / "mine.yaml").read_text() == "kind: IPPool"
    assert not [each for each in os.listdir(ground.directory) if each.endswith("-")]


async def test_nothing_is_touched_while_the_server_is_away(ground: Ground) -> None:
    await mirror(ground.source(), OWN, ground.directory, once=True)
    before = {each.name: each.stat().st_mtime_ns for each in ground.directory.iterdir()}
    ground.server.lose()
    async with ground.syncing():
        await asyncio.sleep(0.5)
    assert {each.name: each.stat().st_mtime_ns for each in ground.directory.iterdir()} == before


async def test_the_mark_is_renewed_and_an_old_one_is_a_problem(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bgpd.datastore.cluster.KEEP_SECONDS", 0.05)
    monkeypatch.setattr("bgpd.datastore.cluster.PATIENCE_SECONDS", 0.05)
    mark, files = ground.directory / SYNCED, Files(ground.directory, OWN)
    assert files.status().as_of is None
    async with ground.syncing():
        await eventually(mark.exists)
        os.utime(mark, (0, 0))
        await eventually(lambda: time.time() - mark.stat().st_mtime < 10)
    assert not files.status().problems
    os.utime(mark, (time.time() - LATE_SECONDS - 5,) * 2)
    (problem,) = files.status().problems
    assert "bgpd sync last confirmed these resources 65 s ago" in problem.message
    assert files.status().as_of == pytest.approx(time.time() - LATE_SECONDS - 5, abs=2)


async def test_a_directory_that_cannot_be_written_is_tried_again(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirrors, "AGAIN_SECONDS", 0.05)
    (ground.directory / "ippools.json").mkdir()
    async with ground.syncing():
        await eventually(lambda: ground.names("nodes") == {OWN})
        (ground.directory / "ippools.json").rmdir()
        await eventually(lambda: ground.names("ippools") == {"default"})
    with pytest.raises(OSError):
        await mirror(ground.source(), OWN, ground.directory / "none", once=True)
