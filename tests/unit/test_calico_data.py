"""What Calico 3.28 stored, in etcd and in the Kubernetes API, read by every datastore to what calicoctl said of it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from bgpd.datastore.calico.decode import decode
from bgpd.datastore.etcd.layout import Keys, document
from bgpd.datastore.kubernetes import kinds
from bgpd.datastore.objects import Objects
from bgpd.model.resources import Snapshot
from bgpd.views.blocks import blocks
from tests import calico_dump

BORROWED = {
    "node-a": {"10.66.0.0", "10.66.0.1"},
    "node-b": {"10.65.0.9", "10.65.0.81", "10.66.0.3"},
    "node-c.example.com": {"fd00:65::ae85"},
}
"""``calicoctl ipam show --show-borrowed``: by whom."""
OWNED = {
    "node-a": {"10.65.0.0/28", "10.65.0.32/28", "10.66.0.4/30", "fd00:65::ae80/122"},
    "node-b": {"10.65.0.64/28", "10.65.0.144/28", "fd00:65::da40/122"},
    "node-c.example.com": {"10.65.0.128/28", "10.66.0.0/30"},
}
"""``calicoctl ipam check``: blocks by their affinity; 10.65.0.80/28 has none."""


def from_etcd(node: str) -> Iterator[Any]:
    """Documents as the etcd datastore decodes them."""
    keys = Keys("/calico")
    for key, value in calico_dump.etcd().items():
        named = keys.named(key.encode())
        if named is not None and named.node in (None, node):
            yield document(named, value.encode(), "etcd")


def from_kubernetes(node: str, group: str = "crd.projectcalico.org/v1") -> Iterator[Any]:
    """Documents as the Kubernetes datastore cuts them."""
    known = {each.kind: each for each in vars(kinds).values() if isinstance(each, kinds.Kind)}
    for found in calico_dump.kubernetes():
        each = copy.deepcopy(found)
        kind = known.get(each.get("kind", "Node"))
        if kind is None:
            continue
        api = kind.api or group
        if group.endswith("/v3") and each["kind"] == "BlockAffinity":
            each["spec"]["deleted"] = each["spec"].get("deleted") == "true"
        reduced = kinds.reduced(kind, {**each, "apiVersion": api}, node, api)
        if reduced is not None:
            yield reduced


def snapshot(documents: Iterator[Any], node: str) -> Snapshot:
    objects = Objects(node)
    objects.begin()
    for number, each in enumerate(documents):
        objects.put(str(number), tuple(decode(each, "data")))
    return objects.snapshot()


READERS = {
    "etcd": from_etcd,
    "v1": from_kubernetes,
    "v3": lambda node: from_kubernetes(node, "projectcalico.org/v3"),
}


@pytest.mark.parametrize("node", OWNED)
@pytest.mark.parametrize("reader", READERS)
def test_owned_and_borrowed_are_calicoctls(reader: str, node: str) -> None:
    found = snapshot(READERS[reader](node), node)
    assert not [problem for problem in found.problems if "Node" not in problem.source]
    rows = blocks(found, {}, node)
    assert {row.cidr for row in rows if row.affinity == node} == OWNED[node]
    taken = {text.split()[0] for row in rows for text in row.borrowed if " from " in text}
    assert taken == BORROWED[node]
    assert {row.cidr for row in rows if row.affinity == node and row.state == "confirmed"} == OWNED[node]


@pytest.mark.parametrize("node", OWNED)
def test_both_datastores_say_the_same(node: str) -> None:
    one, other = (snapshot(READERS[reader](node), node) for reader in ("etcd", "v1"))
    assert {each.cidr: (each.affinity, each.allocations) for each in one.blocks.values()} == {
        each.cidr: (each.affinity, each.allocations) for each in other.blocks.values()
    }
    assert {each.cidr for each in one.affinities.values()} == {
        each.cidr for each in other.affinities.values()
    }
