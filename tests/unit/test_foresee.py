"""``Files.foresee``: what would hold with other files, as the datastore itself would come to it; nothing is touched."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
import yaml

from bgpd.datastore.files import Files
from bgpd.model.resources import Snapshot
from bgpd.model.status import DatastoreStatus
from testing.resources import bgp_peer, node, pool, resource

OWN = node("worker1", "10.0.1.30/24")
TOR, BROKEN = bgp_peer("tor", "10.0.1.1", 65001), bgp_peer("tor", "10.0.1", 65001)


def text(*objects: Mapping[str, object]) -> bytes:
    return yaml.safe_dump_all(list(objects)).encode()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[tuple[Files, Snapshot]]:
    """A datastore that has read its directory, and what it stated."""
    (tmp_path / "own.yaml").write_bytes(text(OWN))
    (tmp_path / "peers.yaml").write_bytes(text(TOR, pool("p", "10.48.0.0/16")))
    files = Files(tmp_path, "worker1")
    watch = files.watch()
    yield files, await anext(watch)
    await watch.aclose()  # type: ignore[attr-defined]


async def files_now(store: tuple[Files, Snapshot]) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store[0].path.iterdir()}


async def test_the_same_files(store: tuple[Files, Snapshot]) -> None:
    files, snapshot = store
    found = await files.foresee(await files_now(store))
    assert found == snapshot and found.peers is snapshot.peers


async def test_other_files_and_nothing_is_touched(
    store: tuple[Files, Snapshot], caplog: pytest.LogCaptureFixture
) -> None:
    files, snapshot = store

    def seen() -> tuple[DatastoreStatus, float | None]:
        return files.status(), files._objects.deadline()

    before = seen()
    caplog.set_level(logging.DEBUG, "bgpd")
    caplog.clear()
    found = await files.foresee(
        {
            "own.yaml": text(OWN, node("worker2", "10.0.1.31/24")),
            "moved.json": b'{"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": "p"},'
            b' "spec": {"cidr": "10.48.0.0/16"}}',
            "bad.yaml": b"\xff",
            ".hidden.yaml": text(TOR),
            "notes.txt": text(TOR),
        }
    )
    assert (set(found.nodes), set(found.peers), set(found.pools)) == ({"worker1", "worker2"}, set(), {"p"})
    assert [problem.source.partition(":")[0] for problem in found.problems] == ["bad.yaml"]
    assert seen() == before and not caplog.records
    assert set(snapshot.peers) == {"tor"}


async def test_the_last_good_version_stands_there_too(store: tuple[Files, Snapshot]) -> None:
    files, snapshot = store
    found = await files.foresee({"own.yaml": text(OWN), "peers.yaml": text(BROKEN)})
    assert found.peers == snapshot.peers and not found.pools
    assert [problem.path for problem in found.problems] == ["spec.peerIP"]
    broken = await files.foresee({"own.yaml": text(OWN), "peers.yaml": b"a: [\n"})
    assert (broken.peers, broken.pools) == (snapshot.peers, snapshot.pools), "a file that cannot be read"
    absent = await files.foresee(
        {"own.yaml": text(OWN), "new.yaml": text(resource("BGPPeer", "new", {"peerIP": "x"}))}
    )
    assert absent.unusable == {("BGPPeer", "new")}


async def test_without_our_own_node_nothing_is_foreseen(store: tuple[Files, Snapshot]) -> None:
    files, _ = store
    with pytest.raises(ValueError, match="there is no Node 'worker1'"):
        await files.foresee({"peers.yaml": text(TOR)})
    with pytest.raises(ValueError, match="no other resource either"):
        await files.foresee({})


async def test_it_is_what_the_datastore_comes_to(store: tuple[Files, Snapshot]) -> None:
    files, _ = store
    target = {"own.yaml": text(OWN, TOR), "more.yaml": text(pool("q", "10.49.0.0/16"), BROKEN)}
    found = await files.foresee(target)
    watch = files.watch()
    for path in files.path.iterdir():
        path.unlink()
    for name, data in target.items():
        (files.path / name).write_bytes(data)
    async with asyncio.timeout(5):
        async for snapshot in watch:
            if "p" not in snapshot.pools and snapshot.problems:
                break
    await watch.aclose()  # type: ignore[attr-defined]
    assert snapshot == found and found.problems
