"""Calico's own objects, as its API server had them, in a directory: read, allocated from, released into."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bgpd.datastore.calico import allocation
from bgpd.datastore.files_store import FilesStore
from bgpd.model.ipam import Kind
from tests import calico_dump
from tests.unit.ipam_ground import Memory, sound

Fields = dict[str, Any]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Each object with fields of a Calico to come, which must outlive our writing."""
    items = calico_dump.kubernetes()
    for item in items:
        item["metadata"].setdefault("annotations", {})["example.com/kept"] = "yes"
        if item["kind"] in ("IPAMBlock", "BlockAffinity", "IPAMHandle"):
            item["spec"]["fromTheFuture"] = {"kept": [1, 2]}
    (tmp_path / "all.json").write_text(json.dumps({"kind": "List", "items": items}))
    return tmp_path


def objects(directory: Path) -> dict[tuple[str, str], Fields]:
    """By kind and name, without the version."""
    found = {}
    for path in sorted(directory.rglob("*.json")):
        whole = json.loads(path.read_text())
        for item in whole.get("items", [whole]):
            item["metadata"].pop("resourceVersion", None)
            found[item["kind"], item["metadata"]["name"]] = item
    return found


def test_every_object_is_read_and_written_as_it_was() -> None:
    for item in calico_dump.kubernetes():
        value = allocation.read(item)
        assert value is not None, item["metadata"]["name"]
        if value.ref.kind in (Kind.BLOCK, Kind.AFFINITY, Kind.HANDLE, Kind.CONFIG):
            written = allocation.write(value, item)
            added = {"type": "host"} if value.ref.kind is Kind.AFFINITY else {}
            if value.ref.kind is Kind.CONFIG:
                added = {"maxBlocksPerHost": 0}
            if value.ref.kind is Kind.BLOCK and "affinity" not in item["spec"]:
                added = {"affinity": None}
            assert written["spec"] == item["spec"] | added
            labels = {} if value.ref.kind is not Kind.AFFINITY else {"labels": written["metadata"]["labels"]}
            assert written["metadata"] == item["metadata"] | labels


def test_it_is_worked_on_as_calico_would(directory: Path) -> None:
    before = objects(directory)
    store = FilesStore(directory)
    sound(Memory(stored.value for kind in Kind for stored in store.list(kind)))
    assert calico_dump.work(store) == ["10.65.0.4"]
    after = objects(directory)
    blocks = {item["spec"]["cidr"]: item["spec"] for (kind, _), item in before.items() if kind == "IPAMBlock"}
    wanted = dict(before)
    for cidr, fields in calico_dump.expected(blocks).items():
        key = ("IPAMBlock", allocation.cidr_name(cidr))
        if fields is None:
            del wanted[key]
        else:
            wanted[key] = before[key] | {"spec": fields}
    for handle in calico_dump.GONE:
        del wanted["IPAMHandle", f"k8s-pod-network.{handle}"]
    new = after.pop(("IPAMHandle", "k8s-pod-network.x1"))
    assert new["spec"] == calico_dump.HANDLE | {"handleID": "k8s-pod-network.x1"}
    assert after == wanted
    assert {item["metadata"]["annotations"]["example.com/kept"] for item in after.values()} == {"yes"}
    sound(Memory(stored.value for kind in Kind for stored in store.list(kind)), settled=True)
