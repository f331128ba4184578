"""Files on a real file system: the contract of datastores, and what only a directory can do to us."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from bgpd.datastore import directories, documents, files
from bgpd.datastore.calico.decode import Verdict
from bgpd.datastore.files import Files
from bgpd.model.prefix import parse_prefix
from bgpd.model.resources import Snapshot
from tests.datastore_contract import OWN, Backend, DatastoreContract, node, pool, watching


class Directory(Backend):
    """One file an object, written in place as an editor without finesse does."""

    def __init__(self, path: Path) -> None:
        self.path = path / "resources"
        self.path.mkdir()

    def datastore(self) -> Files:
        return Files(self.path, OWN)

    def write(self, name: str, text: str) -> None:
        (self.path / name).write_text(text)

    def put(self, document: dict[str, Any]) -> None:
        self.write(f"{document['kind']}-{document['metadata']['name']}.yaml", json.dumps(document))

    def delete(self, kind: str, name: str) -> None:
        (self.path / f"{kind}-{name}.yaml").unlink()

    def lose(self) -> None:
        self.path.rename(self.path.with_name("away"))

    def restore(self) -> None:
        self.path.with_name("away").rename(self.path)


@pytest.fixture
def backend(tmp_path: Path) -> Directory:
    return Directory(tmp_path)


class TestContract(DatastoreContract):
    pass


def cidrs(snapshot: Snapshot) -> set[bytes]:
    return {pool.cidr for pool in snapshot.pools.values()}


async def test_a_directory_that_is_not_there_yet(tmp_path: Path) -> None:
    path = tmp_path / "etc" / "bgpd"
    async with watching_path(path) as watch:
        status = await watch.status(lambda s: s.detail.endswith("does not exist"))
        assert (status.up, status.in_sync, status.errors["io"]) == (False, False, 1)
        path.mkdir(parents=True)
        await watch.status(lambda s: s.up, 0.9)  # seen by inotify, before the poll
        assert not watch.datastore.status().in_sync
        (path / "node.yaml").write_text(json.dumps(node()))
        await watch.until(lambda s: True)


def watching_path(path: Path) -> Any:
    backend = Directory.__new__(Directory)
    backend.path = path
    return watching(backend)


async def test_a_removal_waits_for_the_grace(backend: Directory) -> None:
    backend.put(node())
    backend.put(pool())
    async with watching(backend) as watch:
        await watch.until(lambda s: s.pools)
        began = time.monotonic()
        backend.delete("IPPool", "default")
        await watch.until(lambda s: not s.pools)
        assert time.monotonic() - began >= 0.3


async def test_files_that_are_replaced_do_not_flap(backend: Directory) -> None:
    """What git, rsync, editors and a file that moves do: away for a moment, or under another name."""
    backend.put(node())
    backend.put(pool())
    async with watching(backend) as watch:
        await watch.until(lambda s: s.pools)
        before = "IPPool-default.yaml"
        for name in ("x.yaml", "y.yml", "z.json"):
            (backend.path / before).unlink()
            await asyncio.sleep(0.02)
            backend.write(".hidden.yaml", json.dumps(pool()))
            (backend.path / ".hidden.yaml").rename(backend.path / name)
            before = name
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.4)
        assert watch.datastore.status().events == {("Node", "add"): 1, ("IPPool", "add"): 1}
        assert all("default" in snapshot.pools for snapshot in watch.snapshots)


async def test_many_documents_and_a_broken_one_among_them(backend: Directory) -> None:
    backend.put(node())
    good = [json.dumps(pool(f"p{i}", f"10.{i}.0.0/24")) for i in range(3)]
    backend.write("pools.yaml", "\n---\n".join(good))
    async with watching(backend) as watch:
        await watch.until(lambda s: len(s.pools) == 3)
        changed = json.dumps(pool("p2", "10.9.0.0/24"))
        backend.write("pools.yaml", "\n---\n".join([good[0], "kind: [broken", changed]))
        snapshot = await watch.until(lambda s: s.problems)
        assert cidrs(snapshot) == {parse_prefix(f"10.{i}.0.0/24")[1] for i in (0, 1, 9)}
        assert snapshot.problems[0].source.startswith("pools.yaml:")
        await asyncio.sleep(0.4)
        assert len(watch.snapshots[-1].pools) == 3
        assert watch.datastore.status().errors["yaml"] == 1


async def test_a_half_written_file(backend: Directory) -> None:
    backend.put(node())
    backend.put(pool())
    async with watching(backend) as watch:
        await watch.until(lambda s: s.pools)
        text = json.dumps(pool(cidr="10.49.0.0/24"))
        with (backend.path / "IPPool-default.yaml").open("w") as file:
            file.write(text[:30])
            file.flush()
            await asyncio.sleep(0.02)
            assert watch.datastore.status().errors["yaml"] == 0  # its writer is not done
            file.write(text[30:])
        await watch.until(lambda s: cidrs(s) == {parse_prefix("10.49.0.0/24")[1]})
        assert all(snapshot.pools for snapshot in watch.snapshots)
        backend.write("IPPool-default.yaml", text[:30])
        await watch.until(lambda s: s.problems)
        await asyncio.sleep(0.4)
        assert watch.snapshots[-1].pools


async def test_one_object_in_two_files_names_both(backend: Directory) -> None:
    backend.put(node())
    backend.put(pool())
    async with watching(backend) as watch:
        await watch.until(lambda s: s.pools)
        backend.write("copy.yaml", json.dumps(pool(cidr="10.49.0.0/24")))
        snapshot = await watch.until(lambda s: s.problems)
        assert snapshot.problems[0].source == "IPPool-default.yaml and copy.yaml: IPPool default"
        assert cidrs(snapshot) == {parse_prefix("10.48.0.0/24")[1]}
        (backend.path / "copy.yaml").unlink()
        await watch.until(lambda s: not s.problems)


async def test_a_config_map(tmp_path: Path) -> None:
    """A mounted ConfigMap: links to ..data, itself a link that is swapped by a rename."""
    path = tmp_path / "mount"
    path.mkdir()

    def publish(version: str, cidr: str) -> None:
        (path / version).mkdir()
        (path / version / "all.yaml").write_text(json.dumps(node()) + "\n---\n" + json.dumps(pool(cidr=cidr)))
        (path / "..data_tmp").symlink_to(version)
        (path / "..data_tmp").rename(path / "..data")

    publish("..1", "10.48.0.0/24")
    (path / "all.yaml").symlink_to("..data/all.yaml")
    async with watching_path(path) as watch:
        await watch.until(lambda s: cidrs(s) == {parse_prefix("10.48.0.0/24")[1]})
        publish("..2", "10.49.0.0/24")
        await watch.until(lambda s: cidrs(s) == {parse_prefix("10.49.0.0/24")[1]}, 1.0)
        assert all(len(snapshot.pools) == 1 for snapshot in watch.snapshots)


async def test_a_path_that_is_a_link_to_another_directory(tmp_path: Path) -> None:
    for name, cidr in (("one", "10.48.0.0/24"), ("two", "10.49.0.0/24")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "all.yaml").write_text(
            json.dumps(node()) + "\n---\n" + json.dumps(pool(cidr=cidr))
        )
    (tmp_path / "link").symlink_to("one")
    async with watching_path(tmp_path / "link") as watch:
        await watch.until(lambda s: cidrs(s) == {parse_prefix("10.48.0.0/24")[1]})
        (tmp_path / "fresh").symlink_to("two")
        (tmp_path / "fresh").rename(tmp_path / "link")
        await watch.until(lambda s: cidrs(s) == {parse_prefix("10.49.0.0/24")[1]}, 1.0)
        (tmp_path / "two" / "more.yaml").write_text(json.dumps(pool("more", "10.50.0.0/24")))
        await watch.until(lambda s: "more" in s.pools, 1.0)


async def test_a_directory_of_the_same_name_instead(backend: Directory) -> None:
    backend.put(node())
    backend.put(pool())
    async with watching(backend) as watch:
        await watch.until(lambda s: s.pools)
        backend.lose()
        backend.path.mkdir()
        status = await watch.status(lambda s: not s.in_sync)
        assert status.detail == f"there is no Node {OWN!r}, and no other resource either"
        backend.put(node())
        await watch.status(lambda s: s.in_sync)
        await watch.until(lambda s: not s.pools)


async def test_what_is_not_ours_to_read(backend: Directory) -> None:
    backend.put(node())
    backend.put(pool())
    backend.write("README.md", "kind: [")
    backend.write(".swap.yaml", "kind: [")
    backend.write("nothing.yaml", "# to come\n---\n---\n")
    (backend.path / "directory.yaml").mkdir()
    (backend.path / "dangling.yaml").symlink_to("nowhere")
    os.mkfifo(backend.path / "fifo.yaml")
    (backend.path / "null.yaml").symlink_to("/dev/null")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(backend.path / "socket.yaml"))
    async with watching(backend) as watch:
        await watch.until(lambda s: s.pools)
        listener.close()
        assert [str(problem) for problem in watch.datastore.status().problems] == [
            "directory.yaml: cannot be read: a directory, not a file",
            "fifo.yaml: cannot be read: a FIFO, not a file",
            "null.yaml: cannot be read: a device, not a file",
            "socket.yaml: cannot be read: a socket, not a file",
        ]


async def test_not_utf8(backend: Directory) -> None:
    backend.put(node())
    (backend.path / "bad.yaml").write_bytes(b"kind: x\nname: \xff\n")
    async with watching(backend) as watch:
        snapshot = await watch.until(lambda s: True)
        assert str(snapshot.problems[0]) == "bad.yaml:2:7: not UTF-8: octet 0xff"


async def test_a_burst_is_few_snapshots(backend: Directory) -> None:
    backend.put(node())
    async with watching(backend) as watch:
        await watch.until(lambda s: True)
        for number in range(100):
            backend.put(pool(f"p{number}", f"10.{number}.0.0/24"))
        await watch.until(lambda s: len(s.pools) == 100)
        assert len(watch.snapshots) < 30


async def test_a_large_file_is_parsed_beside_the_loop(backend: Directory) -> None:
    backend.put(node())
    text = "\n---\n".join(json.dumps(pool(f"p{i}", f"10.{i // 256}.{i % 256}.0/24")) for i in range(2000))
    assert len(text) > files.INLINE
    backend.write("pools.yaml", text)
    async with watching(backend) as watch:
        await watch.until(lambda s: len(s.pools) == 2000, 10)


async def test_without_inotify_it_polls(backend: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    """fs.inotify.max_user_instances is small on many nodes."""

    def refuse(**_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(directories, "Inotify", refuse)
    monkeypatch.setattr(files, "POLL_SECONDS", 0.01)
    backend.put(node())
    async with watching(backend) as watch:
        await watch.until(lambda s: True)
        backend.put(pool())
        await watch.until(lambda s: s.pools)


def test_a_document_is_decoded_once() -> None:
    first = documents.parse(
        "f", (json.dumps(pool()) + "\n---\n" + json.dumps(pool("q", "10.50.0.0/24"))).encode(), {}
    )
    again = json.dumps(pool()) + "\n---\n" + json.dumps(pool("q", "10.51.0.0/24"))
    second = documents.parse("f", again.encode(), first.known)
    assert second.objects[0] is first.objects[0]
    assert second.objects[1] is not first.objects[1]
    assert [d.verdict for d in second.objects] == [Verdict.GOOD] * 2


@pytest.mark.parametrize(
    "text",
    [
        "stringData: {tor: *hunter2}",
        "stringData: {tor: !hunter2 x}",
        "stringData: {tor: !!int hunter2}",
        "stringData:\n  hunter2: a\n  hunter2: b",
        "stringData: {tor: [hunter2",
    ],
)
def test_broken_text_of_a_secret_is_not_shown(text: str) -> None:
    document = f"apiVersion: v1\nkind: Secret\nmetadata: {{name: bgp}}\n{text}\n"
    parsed = documents.parse("s.yaml", (json.dumps(pool()) + "\n---\n" + document).encode(), {})
    assert [decoded.verdict for decoded in parsed.objects] == [Verdict.GOOD]
    (failure,) = parsed.failures
    assert failure.problem.source.startswith("s.yaml:")
    assert "hunter2" not in str(failure.problem)


async def test_a_look_is_at_what_inotify_does_not_show(
    backend: Directory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The target of a link, and a file that is written by another name; of the others one in a while has its turn."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("link", "hard"):
        (elsewhere / name).write_text(json.dumps(pool(name)))
    (backend.path / "link.yaml").symlink_to(elsewhere / "link")
    (backend.path / "hard.yaml").hardlink_to(elsewhere / "hard")
    backend.put(node())
    for number in range(40):
        backend.put(pool(f"p{number}", f"10.{number}.0.0/24"))
    monkeypatch.setattr(files, "RESCAN_SECONDS", 0.05)
    monkeypatch.setattr(files, "ROUND", 1000)
    local = directories.is_local(backend.path)
    monkeypatch.setattr(files, "is_local", lambda path: True)
    looked: list[str] = []
    real = files.read_file

    def reading(path: Path, known: Any) -> Any:
        looked.append(path.name)
        return real(path, known)

    monkeypatch.setattr(files, "read_file", reading)
    async with watching(backend) as watch:
        await watch.until(lambda s: len(s.pools) == 42)
        looked.clear()
        await asyncio.sleep(0.3)
        assert {"link.yaml", "hard.yaml"} <= set(looked) and len(set(looked)) < 15
        for name, second in (("link", 77), ("hard", 78)):
            (elsewhere / name).write_text(json.dumps(pool(name, f"10.{second}.0.0/24")))
            await watch.until(lambda s, second=second: parse_prefix(f"10.{second}.0.0/24")[1] in cidrs(s))  # type: ignore[misc]
        monkeypatch.setattr(files, "ROUND", 4)
        looked.clear()
        await asyncio.sleep(0.4)
        assert len(set(looked)) == 43, "each in its turn"
        monkeypatch.setattr(files, "ROUND", 1000)
        monkeypatch.setattr(files, "is_local", lambda path: False)
        looked.clear()
        await asyncio.sleep(0.2)
        assert len(set(looked)) == 43, "of a network file system inotify shows what is done here"
    assert local in (True, False)
    assert not directories.is_local(Path("/proc")) and not directories.is_local(tmp_path / "none")


def test_an_export_of_calicoctl_is_named() -> None:
    text = json.dumps(pool()) + '\n---\nkind: NodeList\nitems: []\n===\n{"calicoVersion": "v3.28"}\n'
    parsed = documents.parse("all.yaml", text.encode(), {})
    (failure,) = parsed.failures
    assert failure.problem.source.startswith("all.yaml:")
    assert failure.problem.message.endswith(
        "; of what 'calicoctl datastore migrate export' prints, only what stands before the first === is resources"
    )
    assert [decoded.verdict for decoded in parsed.objects] == [Verdict.GOOD]


async def test_secrets_come_and_are_not_logged(backend: Directory, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "bgp"},
        "stringData": {"tor": "hunter2"},
    }
    backend.put(node())
    backend.put(secret)
    async with watching(backend) as watch:
        snapshot = await watch.until(lambda s: s.secrets)
        assert snapshot.secrets["bgp"].data == {"tor": b"hunter2"}
        backend.put({**secret, "stringData": {"tor": [4711]}})
        bad = await watch.until(lambda s: s.problems)
        assert bad.secrets is snapshot.secrets
        assert "hunter2" not in repr(bad) + repr(watch.datastore.status()) + caplog.text
        assert "4711" not in repr(bad) + repr(watch.datastore.status()) + caplog.text


@pytest.mark.parametrize(
    ("nothing", "words"),
    [
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("\ufeff---\n---\nnull\n", "is empty"),
        ("apiVersion: v1\nkind: List\nitems: []\n", "is empty"),
        ("apiVersion: v1\nkind: List\n", "is empty"),
        ("apiVersion: projectcalico.org/v3\nkind: IPPoolList\nmetadata: {}\nitems:\n", "is empty"),
        ('{"kind":"List","apiVersion":"v1","metadata":{}}', "is empty"),
        (
            '{"kind":"Status","apiVersion":"v1","status":"Failure","message":"no"}',
            "is an answer of the API server (no) and no resource",
        ),
        (
            "kind: Status\napiVersion: v1\nmetadata: {}\ncode: 403\n",
            "is an answer of the API server (without words)",
        ),
        (
            "{kind: List, apiVersion: v1, items: [{kind: Status, apiVersion: v1}]}",
            "items.0: is an answer of the API server",
        ),
        ("Error from server (Forbidden)\n", "expected a resource"),
    ],
)
async def test_an_empty_file_is_not_an_order(backend: Directory, nothing: str, words: str) -> None:
    """`kubectl get > file` empties it first, and fails; curl writes what the server said instead."""
    backend.put(node())
    backend.put(pool())
    async with watching(backend) as watch:
        await watch.until(lambda s: s.pools)
        backend.write("IPPool-default.yaml", nothing)
        snapshot = await watch.until(lambda s: s.problems)
        assert f"IPPool-default.yaml: {words}" in str(snapshot.problems[0])
        await asyncio.sleep(0.4)
        assert watch.snapshots[-1].pools
        backend.delete("IPPool", "default")
        await watch.until(lambda s: not s.pools and not s.problems)


async def test_a_file_without_end_is_named(backend: Directory) -> None:
    backend.put(node())
    backend.put(pool())
    async with watching(backend) as watch:
        await watch.until(lambda s: s.pools)
        with (backend.path / "IPPool-default.yaml").open("r+") as file:
            file.truncate(200 << 30)
        snapshot = await watch.until(lambda s: s.problems)
        assert "more than 128 MiB" in snapshot.problems[0].message
        assert snapshot.pools


async def test_a_file_replaced_by_a_fifo_keeps_what_it_stated(backend: Directory) -> None:
    backend.put(node())
    backend.put(pool())
    async with watching(backend) as watch:
        await watch.until(lambda s: s.pools)
        os.mkfifo(backend.path / "fifo")
        (backend.path / "fifo").rename(backend.path / "IPPool-default.yaml")
        snapshot = await watch.until(lambda s: s.problems)
        assert "a FIFO, not a file" in snapshot.problems[0].message
        await asyncio.sleep(0.4)
        assert watch.snapshots[-1].pools


async def test_reading_yields(backend: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SLICE_SECONDS", 0.0)
    backend.put(node())
    for number in range(50):
        backend.put(pool(f"p{number}", f"10.{number}.0.0/24"))
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    async with watching(backend) as watch:
        await watch.until(lambda s: len(s.pools) == 50)
        counting.cancel()
    assert turns >= 50


def lists(objects: list[dict[str, Any]]) -> dict[str, str]:
    """A List in the ways that tools print it."""
    whole = {"apiVersion": "v1", "items": objects, "kind": "List"}
    items = yaml.safe_dump(objects)
    indented = "".join(f"  {line}\n" for line in items.splitlines())
    return {
        "json": json.dumps(whole),
        "pretty": json.dumps(whole, indent=4),
        "kubectl": f"apiVersion: v1\nitems:\n{items}kind: List\nmetadata:\n  resourceVersion: ''\n",
        "indented": f"# ours\nkind: List\nitems:\n\n{indented}apiVersion: v1\n",
    }


@pytest.mark.parametrize("way", ["json", "pretty", "kubectl", "indented"])
def test_an_item_of_a_list_is_decoded_once(way: str) -> None:
    objects = [pool(f"p{number}", f"10.{number}.0.0/24") for number in range(4)]
    first = documents.parse("f", lists(objects)[way].encode(), {})
    assert [found.verdict for found in first.objects] == [Verdict.GOOD] * 4
    objects[1] = pool("p1", "10.77.0.0/24")
    second = documents.parse("f", lists(objects)[way].encode(), first.known)
    same = [new is old for new, old in zip(second.objects, first.objects, strict=True)]
    assert same == [True, False, True, True]
    assert second.whole


def test_a_broken_item_spoils_no_other() -> None:
    text = lists([pool("p", "10.1.0.0/24"), pool("q", "10.2.0.0/24")])["kubectl"]
    parsed = documents.parse("f", text.replace("name: p", "name: [p").encode(), {})
    assert [str(found.key) for found in parsed.objects] == ["IPPool q"]
    assert parsed.failures[0].problem.source.startswith("f:")
    assert not parsed.whole


def test_kinds_that_nobody_reads_are_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"a": "b"}}
    text = lists([config_map, pool()])["kubectl"] + "---\n" + yaml.safe_dump(config_map)
    seen = []
    real = documents.load_documents

    def load(text: Any, *more: Any, **named: Any) -> Any:
        seen.append(text)
        return real(text, *more, **named)

    monkeypatch.setattr(documents, "load_documents", load)
    parsed = documents.parse("f", text.encode(), {})
    assert [found.verdict for found in parsed.objects] == [Verdict.IGNORED, Verdict.GOOD, Verdict.IGNORED]
    assert not any("ConfigMap" in text for text in seen)


def test_an_anchor_in_another_item_is_found() -> None:
    first, second = yaml.safe_dump([pool("p")]), yaml.safe_dump([pool("q", "10.9.0.0/24")])
    text = "kind: List\napiVersion: v1\nitems:\n" + first.replace("10.48.0.0/24", "&c 10.48.0.0/24")
    text += second.replace("10.9.0.0/24", "*c")
    parsed = documents.parse("f", text.encode(), {})
    assert [found.verdict for found in parsed.objects] == [Verdict.GOOD] * 2


@pytest.mark.parametrize("kind", ['"\\x53ecret"', "!!str Secret", "{}", "[Secret"])
def test_words_never_show_however_a_secret_is_spelled(kind: str) -> None:
    text = f"kind: {kind}\napiVersion: v1\nmetadata: {{name: a}}\nstringData:\n  hunter2: a\n  hunter2: b\n"
    parsed = documents.parse("s.yaml", text.encode(), {})
    assert parsed.failures
    assert "hunter2" not in str(parsed.failures)
