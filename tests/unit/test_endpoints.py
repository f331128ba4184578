"""Felix's endpoint-status files: what is read of one, and what a directory of them does to a datastore."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from bgpd.datastore import directories, endpoints, files
from bgpd.datastore.endpoints import Endpoints
from bgpd.datastore.files import Files
from bgpd.model.prefix import parse_address, parse_prefix
from bgpd.model.resources import LocalWorkload
from tests.datastore_contract import OWN, Watching, node, pool, watching
from tests.unit.test_files import Directory

STATUS = {
    "ifaceName": "cali12345",
    "mac": "01:02:03:04:05:06",
    "ipv4Nets": ["10.48.0.5/32", "10.48.0.6/32"],
    "ipv6Nets": ["fd00:48::5/128"],
    "bgpPeerName": "pods",
}
FIRST = LocalWorkload("cali12345", "pods", parse_address("10.48.0.5"), parse_address("fd00:48::5"))


@pytest.mark.parametrize(
    ("change", "read"),
    [
        ({}, FIRST),
        ({"ipv6Nets": []}, LocalWorkload("cali12345", "pods", parse_address("10.48.0.5"))),
        ({"ipv4Nets": None}, LocalWorkload("cali12345", "pods", None, parse_address("fd00:48::5"))),
        ({"ipv4Nets": ["10.48.0.5"]}, FIRST),  # an address without a length
        ({"later": "version"}, FIRST),
        ({"bgpPeerName": None}, None),
        ({"bgpPeerName": ""}, None),
        ({"bgpPeerName": "", "ifaceName": 3, "ipv4Nets": "?"}, None),  # none of our business
        ({"ipv4Nets": [], "ipv6Nets": None}, None),
    ],
)
def test_one_file(change: dict[str, Any], read: LocalWorkload | None) -> None:
    assert endpoints.decode({**STATUS, **change}) == read


@pytest.mark.parametrize(
    ("text", "path", "words"),
    [
        ("", "", "is no JSON, from line 1 column 1"),
        ('{"ifaceName": "cali1", "ipv4N', "", "is no JSON, from line 1 column"),
        ("[" * 100_000, "", "is no JSON"),
        ("\xff", "", "is no JSON"),
        ("[]", "", "expected keys and values"),
        (json.dumps({**STATUS, "bgpPeerName": [3]}), "bgpPeerName", "expected text"),
        (json.dumps({**STATUS, "ifaceName": ""}), "ifaceName", "expected, but not there"),
        (json.dumps({**STATUS, "ipv4Nets": "10.48.0.5/32"}), "ipv4Nets", "expected a list"),
        (json.dumps({**STATUS, "ipv4Nets": ["10.48.0"]}), "ipv4Nets.0", "expected an address, not '10.48.0'"),
        (json.dumps({**STATUS, "ipv4Nets": ["10.48.0.5/33"]}), "ipv4Nets.0", "expected an address"),
        (json.dumps({**STATUS, "ipv4Nets": [5]}), "ipv4Nets.0", "expected an address, not 5"),
        (json.dumps({**STATUS, "ipv4Nets": ["fd00::1/128"]}), "ipv4Nets.0", "is not of ipv4"),
        (json.dumps({**STATUS, "ipv6Nets": ["10.48.0.5/32"]}), "ipv6Nets.0", "is not of ipv6"),
    ],
)
async def test_bad_files_keep_the_last_good_version(tmp_path: Path, text: str, path: str, words: str) -> None:
    file = tmp_path / "k8s default%2fpod"
    file.write_text(json.dumps(STATUS))
    found = Endpoints(tmp_path)
    await found.read(None)
    assert (found.workloads(), found.failures()) == ((FIRST,), ())
    file.write_text(text, "latin-1")
    await found.read(frozenset({file.name}))
    assert found.workloads() == (FIRST,)
    (failure,) = found.failures()
    assert (failure.reason, failure.problem.source, failure.problem.path) == ("invalid", str(file), path)
    assert words in failure.problem.message
    file.write_text(json.dumps({**STATUS, "bgpPeerName": ""}))
    await found.read(None)
    assert (found.workloads(), found.failures()) == ((), ())


async def test_a_directory(tmp_path: Path) -> None:
    path = tmp_path / "status"
    found = Endpoints(path)
    await found.read(None)
    assert (found.workloads(), found.failures()) == ((), ())  # not there: none
    path.mkdir()
    for name, interface in (("b", "cali2"), ("a", "cali1"), (".hidden", "cali3")):
        (path / name).write_text(json.dumps({**STATUS, "ifaceName": interface}))
    (path / "directory").mkdir()
    (path / "dangling").symlink_to("nowhere")
    await found.read(None)
    assert [workload.interface for workload in found.workloads()] == ["cali1", "cali2"]
    assert [failure.problem.message for failure in found.failures()] == [
        "cannot be read: a directory, not a file"
    ]
    (path / "directory").rmdir()
    (path / "a").unlink()
    await found.read(frozenset({"a", "dangling", ".hidden"}))
    assert [workload.interface for workload in found.workloads()] == ["cali2"]
    (path / "b").unlink()
    await found.read(None)
    assert found.workloads() == ()


async def test_what_is_no_file_or_has_no_end_is_named_and_never_read(tmp_path: Path) -> None:
    found = Endpoints(tmp_path)
    (tmp_path / "a").write_text(json.dumps(STATUS))
    await found.read(None)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "fifo").rename(tmp_path / "a")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(200 << 30)
    await found.read(None)
    assert found.workloads() == (FIRST,)  # its last good version
    assert sorted(
        failure.problem.message.partition(" octets, ")[2] or failure.problem.message
        for failure in found.failures()
    ) == [
        "cannot be read: a FIFO, not a file",
        "more than 128 MiB",
    ]


async def test_a_directory_that_is_none(tmp_path: Path) -> None:
    """What was read before stands, and it is reported why nothing new is read."""
    path = tmp_path / "status"
    path.mkdir()
    (path / "a").write_text(json.dumps(STATUS))
    found = Endpoints(path)
    await found.read(None)
    path.rename(tmp_path / "away")
    path.write_text("")
    await found.read(None)
    assert found.workloads() == (FIRST,)
    (failure,) = found.failures()
    assert (failure.reason, failure.problem.message) == ("io", "cannot be read: Not a directory")


async def test_a_file_of_the_same_stamp_is_read_when_it_is_named(tmp_path: Path) -> None:
    """Two writes within one tick of the file system's clock."""
    file = tmp_path / "a"
    file.write_text(json.dumps(STATUS))
    found = Endpoints(tmp_path)
    await found.read(None)
    known = found._files["a"]
    file.write_text(json.dumps({**STATUS, "ifaceName": "cali54321"}))
    seen = file.stat()
    stamp = (seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
    found._files["a"] = known._replace(stamp=stamp)
    await found.read(None)
    assert found.workloads()[0].interface == "cali12345"
    await found.read(frozenset({"a"}))
    assert found.workloads()[0].interface == "cali54321"


# -- beside the resources ----------------------------------------------------------------------------------------------


class WithEndpoints(Directory):
    """A directory of resources, and one of Felix's files that is not there yet."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.status = path / "run" / "calico" / "endpoint-status"
        self.put(node())

    def datastore(self) -> Files:
        return Files(self.path, OWN, self.status)

    def say(self, name: str, **change: object) -> None:
        """As Felix does: created, then written, then closed."""
        (self.status / name).write_text(json.dumps({**STATUS, **change}))


@pytest.fixture
def backend(tmp_path: Path) -> WithEndpoints:
    return WithEndpoints(tmp_path)


def interfaces(watch: Watching) -> list[str]:
    return [workload.interface for workload in watch.snapshots[-1].local_workloads]


async def test_the_whole_does_not_wait_for_it(backend: WithEndpoints) -> None:
    async with watching(backend) as watch:
        snapshot = await watch.until(lambda s: True)
        assert (snapshot.local_workloads, snapshot.problems) == ((), ())
        assert watch.datastore.status().resources["LocalWorkload"] == 0
        backend.status.mkdir(parents=True)
        backend.say("a")
        await watch.until(
            lambda s: s.local_workloads == (FIRST,), 0.9
        )  # seen by inotify, before the next look
        assert watch.datastore.status().resources["LocalWorkload"] == 1


async def test_workloads_come_change_and_go(backend: WithEndpoints) -> None:
    backend.status.mkdir(parents=True)
    backend.say("a")
    async with watching(backend) as watch:
        first = await watch.until(lambda s: s.local_workloads)
        backend.say("b", ifaceName="cali2")
        second = await watch.until(lambda s: len(s.local_workloads) == 2, 1.0)
        assert second.nodes is first.nodes
        backend.say("ours-not", bgpPeerName="")
        backend.say("a", ipv4Nets=["10.48.0.9/32"])
        await watch.until(lambda s: s.local_workloads[0].ipv4 == parse_address("10.48.0.9"), 1.0)
        (backend.status / "a").unlink()
        await watch.until(lambda s: len(s.local_workloads) == 1, 1.0)
        assert interfaces(watch) == ["cali2"]
        backend.put(pool())
        last = await watch.until(lambda s: s.pools, 1.0)
        assert last.local_workloads is watch.snapshots[-2].local_workloads
        assert watch.datastore.status().problems == ()


async def test_a_half_written_file(backend: WithEndpoints) -> None:
    backend.status.mkdir(parents=True)
    backend.say("a")
    async with watching(backend) as watch:
        await watch.until(lambda s: s.local_workloads)
        text = json.dumps({**STATUS, "ifaceName": "cali2"})
        with (backend.status / "a").open("w") as file:
            file.write(text[:30])
            file.flush()
            await asyncio.sleep(0.02)
            assert watch.datastore.status().problems == ()  # its writer is not done
        snapshot = await watch.until(lambda s: s.problems, 1.0)
        assert snapshot.local_workloads == (FIRST,)
        assert snapshot.problems[0].source == str(backend.status / "a")
        assert watch.datastore.status().errors["invalid"] == 1
        (backend.status / "a").write_text(text)
        await watch.until(lambda s: not s.problems, 1.0)
        assert interfaces(watch) == ["cali2"]


async def test_a_new_file_is_no_problem_before_it_is_written(backend: WithEndpoints) -> None:
    backend.status.mkdir(parents=True)
    async with watching(backend) as watch:
        await watch.until(lambda s: True)
        with (backend.status / "a").open("w") as file:
            await asyncio.sleep(0.02)
            file.write(json.dumps(STATUS))
        await watch.until(lambda s: s.local_workloads == (FIRST,), 1.0)
        assert all(snapshot.problems == () for snapshot in watch.snapshots)


async def test_the_directory_goes_and_comes_back(backend: WithEndpoints) -> None:
    backend.status.mkdir(parents=True)
    backend.say("a")
    async with watching(backend) as watch:
        await watch.until(lambda s: s.local_workloads)
        backend.status.rename(backend.path.with_name("away"))
        await watch.until(lambda s: not s.local_workloads, 1.0)
        assert watch.datastore.status().in_sync
        backend.status.mkdir()
        backend.say("b", ifaceName="cali2")
        await watch.until(lambda s: s.local_workloads, 1.0)
        (backend.status / "b").unlink()
        backend.status.rmdir()
        backend.status.parent.rmdir()
        backend.status.parent.parent.rmdir()
        await watch.until(lambda s: not s.local_workloads, 1.0)
        backend.status.mkdir(parents=True)
        backend.say("c", ifaceName="cali3")
        await watch.until(lambda s: s.local_workloads, 1.0)
        assert interfaces(watch) == ["cali3"]


@pytest.mark.parametrize("where", [".", "inside", "deep/inside"])
async def test_both_in_one_tree(tmp_path: Path, where: str) -> None:
    """The two share directories: one watch of an inode serves both."""
    backend = WithEndpoints(tmp_path)
    backend.status = (backend.path / where / "status").resolve()
    async with watching(backend) as watch:
        await watch.until(lambda s: True)
        backend.status.mkdir(parents=True)
        backend.say("a")
        await watch.until(lambda s: s.local_workloads, 1.0)
        backend.put(pool())
        await watch.until(lambda s: s.pools, 1.0)
        backend.say("b", ifaceName="cali2")
        await watch.until(lambda s: len(s.local_workloads) == 2, 1.0)
        backend.delete("IPPool", "default")
        await watch.until(lambda s: not s.pools, 2.0)


async def test_a_directory_that_was_only_above_becomes_one_of_ours(tmp_path: Path) -> None:
    """A link is turned to a directory that was watched already, and for less."""
    backend = WithEndpoints(tmp_path)
    backend.status.mkdir(parents=True)
    backend.path.rename(tmp_path / "one")
    backend.path.symlink_to("one")
    async with watching(backend) as watch:
        await watch.until(lambda s: True)
        (tmp_path / "fresh").symlink_to(backend.status.parent)
        (tmp_path / "fresh").rename(backend.path)
        await watch.status(lambda s: not s.in_sync)
        backend.put(node())
        await watch.status(lambda s: s.in_sync, 1.0)
        backend.put(pool())
        await watch.until(lambda s: s.pools, 1.0)
        backend.put(pool(cidr="10.49.0.0/24"))
        await watch.until(lambda s: s.pools["default"].cidr == parse_prefix("10.49.0.0/24")[1], 1.0)


async def test_without_inotify_it_polls(backend: WithEndpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(directories, "Inotify", refuse)
    monkeypatch.setattr(files, "POLL_SECONDS", 0.01)
    async with watching(backend) as watch:
        await watch.until(lambda s: True)
        backend.status.mkdir(parents=True)
        backend.say("a")
        await watch.until(lambda s: s.local_workloads == (FIRST,), 1.0)


async def test_an_overflowed_queue_reads_all_again(backend: WithEndpoints) -> None:
    with open("/proc/sys/fs/inotify/max_queued_events") as file:  # noqa: ASYNC230 - not a real file
        limit = int(file.read())
    backend.status.mkdir(parents=True)
    backend.say("a")
    backend.put(pool())
    async with watching(backend) as watch:
        await watch.until(lambda s: s.local_workloads and s.pools)
        backend.say(".0")
        for number in range(limit // 2 + 100):  # two events each; nobody reads them meanwhile
            (backend.status / f".{number}").rename(backend.status / f".{number + 1}")
        backend.say("a", ifaceName="cali2")
        backend.put(pool(cidr="10.49.0.0/24"))
        await watch.until(lambda s: s.local_workloads[0].interface == "cali2", 5.0)
        assert watch.datastore.status().resyncs == 1
        assert watch.snapshots[-1].pools["default"].cidr == parse_prefix("10.49.0.0/24")[1]
