"""What Calico 3.28 left in its datastores (tests/data/calico-3.28: a cluster of three nodes with borrowed addresses, a
tunnel's, a block that lost its node, two addresses that went back), worked on: an address more, four handles released.

``expected`` is what Calico would have written, field by field (ipam.md §2.5, §2.8, §2.9); both stores are held to it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bgpd.datastore.store import Executor, Store
from bgpd.rules.ipam.assign import Request, assign
from bgpd.rules.ipam.release import release_handle

DATA = Path(__file__).with_name("data") / "calico-3.28"
NOW = 1_800_000_000 * 10**9
SECONDARY = {"node": "node-a", "namespace": "default", "pod": "new-0", "timestamp": "now"}
Fields = dict[str, Any]


def etcd() -> dict[str, str]:
    """Key to value."""
    lines = (DATA / "etcd.jsonl").read_text().splitlines()
    return {entry["key"]: entry["value"] for entry in map(json.loads, lines)}


def kubernetes() -> list[Fields]:
    """Objects as the API gave them, without ``managedFields``."""
    found: list[Fields] = json.loads((DATA / "kubernetes.json").read_text())["items"]
    return found


def work(store: Store) -> list[str]:
    """The addresses that were assigned."""
    run = Executor(store).run
    request = Request("node-a", "k8s-pod-network.x1", 1, 0, ("default-ipv4-ippool",), (), SECONDARY)
    found = run(assign(request, NOW))
    for handle, node in (("a1", "node-a"), ("a5", "node-a"), ("b3", "node-b"), ("c2", "node-c.example.com")):
        run(release_handle(f"k8s-pod-network.{handle}", node, NOW))
    return [str(one.address) for one in found]


def expected(before: dict[str, Fields]) -> dict[str, Fields | None]:
    """The blocks by CIDR that are other than ``before``; ``None`` is gone."""
    found: dict[str, Fields | None] = {}

    # x1 takes the head of the queue of node-a's first block with a free address; a1 gives back three.
    old = before["10.65.0.0/28"]
    numbers = {**old["sequenceNumberForAllocation"], "4": old["sequenceNumber"]}
    tunnel, _, borrowed = old["attributes"]
    found["10.65.0.0/28"] = old | {
        "allocations": [None, 0, None, None, 2, None, None, None, None, 1, *[None] * 6],
        "unallocated": [5, 6, 7, 8, 10, 11, 12, 13, 14, 15, 0, 2, 3],
        "attributes": [tunnel, borrowed, {"handle_id": "k8s-pod-network.x1", "secondary": SECONDARY}],
        "sequenceNumber": old["sequenceNumber"] + 2,
        "sequenceNumberForAllocation": {key: numbers[key] for key in ("1", "4", "9")},
    }
    old = before["fd00:65::ae80/122"]
    found["fd00:65::ae80/122"] = old | {
        "allocations": [*[None] * 5, 0, *[None] * 58],
        "unallocated": [*old["unallocated"], 0],
        "attributes": old["attributes"][1:],
        "sequenceNumber": old["sequenceNumber"] + 1,
        "sequenceNumberForAllocation": {"5": old["sequenceNumberForAllocation"]["5"]},
    }
    # a5 had two of node-c's block and all four of its own; c2 had one of node-c's. The blocks stay with their nodes.
    old = before["10.66.0.0/30"]
    found["10.66.0.0/30"] = old | {
        "allocations": [None, None, None, 0],
        "unallocated": [0, 1, 2],
        "attributes": old["attributes"][2:],
        "sequenceNumber": old["sequenceNumber"] + 2,
        "sequenceNumberForAllocation": {"3": old["sequenceNumberForAllocation"]["3"]},
    }
    old = before["10.66.0.4/30"]
    found["10.66.0.4/30"] = old | {
        "allocations": [None] * 4,
        "unallocated": [0, 1, 2, 3],
        "attributes": [],
        "sequenceNumber": old["sequenceNumber"] + 1,
        "sequenceNumberForAllocation": {},
    }
    # b3 had the last address of a block that is no node's: the block goes.
    found["10.65.0.80/28"] = None
    return found


GONE = ("a1", "a5", "b3", "c2")
"""Handles: Calico 3.28 counted six addresses for a5 where it had four, and would keep that one."""
HANDLE = {"block": {"10.65.0.0/28": 1}, "deleted": False}
"""Of x1."""
