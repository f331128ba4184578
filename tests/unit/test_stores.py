"""The stores of IPAM's objects: the contract for each, and what is the files' own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from netaddr import IPNetwork

from bgpd.datastore.calico import allocation
from bgpd.datastore.files_store import HANDLES, FilesStore
from bgpd.datastore.store import Executor, Store
from bgpd.model.ipam import (
    Affinity,
    Block,
    Conflict,
    Kind,
    Ref,
    State,
    Stored,
    StoreFailed,
    StoreUnwritten,
)
from bgpd.rules.ipam import blocks as block_rules
from bgpd.rules.ipam.assign import assign
from bgpd.rules.ipam.release import release_handle
from bgpd.rules.ipam.steps import NotReady
from tests import ipam_writers
from tests.unit.ipam_ground import NOW, Memory, ask, in_use, node, pool, sound
from tests.unit.store_contract import StoreContract, made


class TestFiles(StoreContract):
    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path: Path) -> None:
        self.directory = tmp_path

    def open(self) -> Store:
        return FilesStore(self.directory)

    def plant(self, document: dict[str, Any]) -> None:
        name = f"{document['kind']}-{document['metadata']['name']}.yaml"
        (self.directory / name).write_text(json.dumps(document))


class TestMemory(StoreContract):
    """The fake is held to the same."""

    @pytest.fixture(autouse=True)
    def _memory(self) -> None:
        import threading

        memory, lock = Memory(), threading.Lock()

        class Locked:
            def __getattr__(self, name: str) -> Any:
                def call(*args: Any) -> Any:
                    with lock:
                        return getattr(memory, name)(*args)

                return call

        self.memory = Locked()

    def open(self) -> Store:
        return self.memory  # type: ignore[return-value]

    def plant(self, document: dict[str, Any]) -> None:
        value = allocation.read(document)
        assert value is not None
        self.memory.create(value)


YAML = """\
# the operator's words
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: p}
spec: {cidr: 10.48.0.0/24}
---
apiVersion: crd.projectcalico.org/v1
kind: IPAMBlock
metadata:
  name: 10-48-0-0-26
  labels: {mine: "1"}
spec:
  cidr: 10.48.0.0/26
  affinity: host:node-a
  allocations: [FREE]
  unallocated: [ORDINALS]
  attributes: []
  future: {a: [1, true]}
--- # and the node
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: node-a}
spec: {}
""".replace("FREE", ", ".join(["null"] * 64)).replace("ORDINALS", ", ".join(map(str, range(64))))


def test_an_object_among_others_is_rewritten_in_its_place(tmp_path: Path) -> None:
    file = tmp_path / "all.yaml"
    file.write_text(YAML)
    store = FilesStore(tmp_path)
    Executor(store).run(assign(ask(), NOW))
    text = file.read_text()
    assert text.startswith(YAML[: YAML.index("---")]) and text.endswith(YAML[YAML.index("--- # and") :])
    assert '"future": {"a": [1, true]}' in text and '"mine": "1"' in text
    found = store.get(Ref(Kind.BLOCK, "10.48.0.0/26"))
    assert found is not None
    assert [attribute.handle for attribute in found.value.attributes] == ["net.c1"]
    assert not list(tmp_path.glob("ipamblock.*")), "one home for an object"
    assert store.delete(found) is None
    assert file.read_text() == YAML[: YAML.index("---")] + YAML[YAML.index("--- # and") :]


def test_an_item_of_a_list_is_rewritten_in_it(tmp_path: Path) -> None:
    block = block_rules.new_block(IPNetwork("10.48.0.0/30"), "host:node-a", NOW)
    other = block_rules.new_block(IPNetwork("10.48.0.4/30"), "host:node-b", NOW)
    items = [{k: v for k, v in allocation.write(b).items() if k != "kind"} for b in (block, other)]
    listed = {
        "apiVersion": "crd.projectcalico.org/v1",
        "kind": "IPAMBlockList",
        "items": items,
        "metadata": {},
    }
    (tmp_path / "dump.json").write_text(json.dumps(listed))
    store = FilesStore(tmp_path)
    found = store.get(block.ref)
    assert found is not None
    made(store.update(found, block_rules.taken(block, [0], "h", {})))
    assert {s.value.ref: len(s.value.attributes) for s in store.list(Kind.BLOCK)} == {
        block.ref: 1,
        other.ref: 0,
    }
    for stored in store.list(Kind.BLOCK):
        assert store.delete(stored) is None
    assert not (tmp_path / "dump.json").exists()


def test_a_person_may_change_a_file_between_two_writes(tmp_path: Path) -> None:
    store = FilesStore(tmp_path)
    first = made(store.create(Affinity("host:a", IPNetwork("10.0.0.0/26"), State.PENDING)))
    (path,) = tmp_path.glob("blockaffinity.*.json")
    path.write_text(path.read_text().replace("pending", "confirmed"))
    assert store.update(first, first.value) is Conflict.CHANGED


@pytest.mark.parametrize("harm", ["gone", "full", "read-only"])
def test_a_directory_that_cannot_be_written_is_named_and_nothing_stays(
    tmp_path: Path, harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "resources"
    if harm != "gone":
        directory.mkdir()
        (directory / "all.yaml").write_text(YAML)
    before = sorted(tmp_path.rglob("*"))
    number = {"full": 28, "read-only": 30}.get(harm)
    if number is not None:

        def fail(fd: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreUnwritten, match=str(directory)):
        Executor(FilesStore(directory)).run(assign(ask(), NOW))
    left = {path for path in tmp_path.rglob("*") if path.name not in (".ipam.lock", HANDLES)}
    assert left == set(before)


def test_the_lock_of_a_dead_process_is_nobodys_and_of_a_living_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text(YAML)
    script = (
        "import fcntl,sys,time; f=open(sys.argv[1],'w'); fcntl.flock(f,fcntl.LOCK_EX); "
        "print('x',flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / ".ipam.lock")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(StoreFailed, match=r"another process has held this lock"):
            Executor(FilesStore(tmp_path, lock_timeout=0.05)).run(assign(ask(), NOW))
        process.kill()
    assert Executor(FilesStore(tmp_path)).run(assign(ask(), NOW))


def test_writers_that_are_killed_leave_nothing_double_and_nothing_lost(tmp_path: Path) -> None:
    """The whole, with 20 writers, is in tests/cluster/test_ipam_writers.py."""
    directory = tmp_path / "resources"
    directory.mkdir()
    (directory / "all.json").write_text(json.dumps({"kind": "List", "items": ipam_writers.resources()}))
    configuration = f"datastore: {{path: {directory}}}"
    size = ipam_writers.Size(writers=4, allocations=60, kills=4, seconds=60)
    outcome = ipam_writers.work_and_check(FilesStore(directory), configuration, tmp_path, size)
    assert outcome.killed == 4 and outcome.released > 10


def test_a_store_that_fails_is_asked_again_and_its_late_write_is_seen() -> None:
    memory = Memory([pool(), node()])
    lost: list[str] = []

    class Failing:
        def __getattr__(self, name: str) -> Any:
            def call(*args: Any) -> Any:
                outcome = getattr(memory, name)(*args)
                if name in ("create", "update", "delete") and len(lost) < 5 and name not in lost:
                    lost.append(name)
                    raise StoreFailed(f"{name} timed out")
                return outcome

            return call

    run = Executor(Failing(), sleep=lambda seconds: None).run  # type: ignore[arg-type]
    (found,) = run(assign(ask(), NOW))
    run(release_handle("net.c1", "node-a", NOW))
    sound(memory, settled=True)
    assert in_use(memory) == {} and found and set(lost) == {"create", "update", "delete"}


def test_nothing_is_written_while_the_cluster_is_locked(tmp_path: Path) -> None:
    document = {
        "apiVersion": allocation.V3,
        "kind": "ClusterInformation",
        "metadata": {"name": "default"},
        "spec": {"datastoreReady": False},
    }
    (tmp_path / "c.json").write_text(json.dumps(document))
    with pytest.raises(NotReady, match="datastoreReady"):
        Executor(FilesStore(tmp_path)).ready()
    (tmp_path / "c.json").write_text(json.dumps({**document, "spec": {}}))
    Executor(FilesStore(tmp_path)).ready()


def test_a_broken_file_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text(YAML[: YAML.index("---")] + YAML[YAML.index("--- # and") :])
    for cidr in ("10-48-0-0-26", "10-48-0-64-26", "10-48-0-128-26", "10-48-0-192-26"):
        (tmp_path / f"ipamblock.{cidr}.json").write_text('{"apiVersion"')
    with pytest.raises(StoreUnwritten, match=r"ipamblock\..*mend it"):
        Executor(FilesStore(tmp_path)).run(assign(ask(), NOW))
    assert {path.read_text() for path in tmp_path.glob("ipamblock.*")} == {'{"apiVersion"'}


# -- Calico's spelling -------------------------------------------------------------------------------------------------


def test_names_and_labels_are_calicos() -> None:
    """The vectors of ipam.md §1.2, which come from Calico's code."""
    assert allocation.cidr_name("fd00:65::/122") == "fd00-65---122"
    assert allocation.affinity_name("node-a", "10.65.0.0/26") == "node-a-10-65-0-0-26"
    long = allocation.affinity_name("n" * 250, "10.65.0.0/26")
    assert len(long) < 253 and long.startswith("n" * 200)
    labels = allocation.affinity_labels("host:node-a", 4)
    assert labels["projectcalico.org/hostname-hash"] == "PY3TQE2E3XMTETLM2MJO3UITKPFB27YUJ4T4E5XGPEJON3SM4QAA"
    labels = allocation.affinity_labels("virtual:load-balancer", 6)
    assert labels["projectcalico.org/hostname-hash"] == "TAU2RK2F2FG7MIS72DPZYC6FJ3U3BIWIDZAMUTQY7ZXMSKQZ5GSQ"
    assert (
        labels["projectcalico.org/affinity-type"] == "virtual"
        and labels["projectcalico.org/ip-version"] == "6"
    )


@pytest.mark.parametrize(
    "text", ["2026-11-27T03:17:29Z", "2026-11-27T03:17:29.000000001Z", "2026-11-27T03:17:29.5Z"]
)
def test_times_are_gos(text: str) -> None:
    found = allocation.parse_time(text)
    assert found is not None and allocation.time_text(found) == text


@pytest.mark.parametrize("text", ["", "yesterday", 5, None, "2026-13-27T03:17:29Z", "2026-11-27 03:17:29"])
def test_what_is_no_time_is_none(text: object) -> None:
    assert allocation.parse_time(text) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"allocations": [None]}, "1 entries for 4"),
        ({"allocations": [7, None, None, None]}, "7 is not one of 0 to -1"),
        ({"allocations": ["0", None, None, None]}, "'0'"),
        ({"unallocated": [9]}, "9 is not one of 0 to 3"),
        ({"attributes": {"a": 1}}, "attributes is no list"),
        ({"attributes": [None]}, "expected keys"),
        ({"sequenceNumberForAllocation": {"x": 1}}, "invalid literal"),
    ],
)
def test_a_block_that_contradicts_itself_gives_out_nothing_and_stands_in_the_way(
    change: dict[str, Any], words: str
) -> None:
    spec = allocation.block_fields(block_rules.new_block(IPNetwork("10.48.0.0/30"), "host:node-a", NOW))
    block = allocation.read_block({**spec, **change})
    assert isinstance(block, Block) and words in block.broken
    memory = Memory([pool(cidr="10.48.0.0/29", size=30), node(), block])
    (found,) = memory.run(assign(ask(), NOW))
    assert found.block == IPNetwork("10.48.0.4/30")
    assert memory.block("10.48.0.0/30") == block


def test_stored_is_equal_by_value_and_revision() -> None:
    row = Affinity("host:a", IPNetwork("10.0.0.0/26"), State.PENDING)
    assert Stored(row, "1", object()) == Stored(row, "1", object())
