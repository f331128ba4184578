"""The store of IPAM's objects in etcd v3, under Calico's keys and in its JSON (ipam.md §1.1, §1.6), by transactions.

A revision is etcd's ``mod_revision``. The client is the one that ``feeds`` watches with; here a thread of its own runs
its event loop, because whoever keeps addresses asks from threads or has no loop at all.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from bgpd.datastore.calico import allocation
from bgpd.datastore.etcd.client import Access, Compare, DeleteOp, EtcdClient, KeyValue, PutOp, Range
from bgpd.datastore.loop_thread import LoopThread
from bgpd.datastore.trouble import Trouble
from bgpd.model.ipam import (
    Affinity,
    Block,
    Conflict,
    Handle,
    IPAMConfig,
    Kind,
    Lease,
    Ref,
    Stored,
    StoreFailed,
    Value,
)

T = TypeVar("T")
_PLURALS = {
    Kind.POOL: "ippools",
    Kind.RESERVATION: "ipreservations",
    Kind.NODE: "nodes",
    Kind.CLUSTER: "clusterinformations",
}


class EtcdStore:
    """A ``Store``. ``close`` ends its thread."""

    def __init__(self, access: Access, prefix: str = "/calico") -> None:
        self._access, self._prefix = access, prefix
        self._ipam = f"{prefix}/ipam/v2/"
        self._client = EtcdClient(access)
        self._thread = LoopThread("ipam-etcd")

    def close(self) -> None:
        self._run(self._client.close())
        self._thread.close()

    def describe(self) -> str:
        return f"etcd at {', '.join(self._access.endpoints)}"

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return self._thread.run(work)
        except Trouble as trouble:
            raise StoreFailed(str(trouble)) from None

    # -- keys ----------------------------------------------------------------------------------------------------------

    def key(self, ref: Ref) -> bytes:
        """Where an object is."""
        version = f"ipv{6 if ':' in ref.name else 4}"
        cidr = ref.name.replace("/", "-")
        if ref.kind is Kind.BLOCK:
            return f"{self._ipam}assignment/{version}/block/{cidr}".encode()
        if ref.kind is Kind.AFFINITY:
            kind, _, owner = ref.owner.partition(":")
            return f"{self._ipam}{kind}/{owner}/{version}/block/{cidr}".encode()
        if ref.kind is Kind.HANDLE:
            return f"{self._ipam}handle/{ref.name}".encode()
        if ref.kind is Kind.CONFIG:
            return f"{self._ipam}config".encode()
        if ref.kind is Kind.LEASE:  # ours: Calico has none in etcd
            return f"{self._prefix}/bgpd/lease/{ref.name}".encode()
        return f"{self._resources(ref.kind)}{ref.name}".encode()

    def _resources(self, kind: Kind) -> str:
        return f"{self._prefix}/resources/v3/projectcalico.org/{_PLURALS[kind]}/"

    def _ranges(self, kind: Kind, owner: str) -> list[Range]:
        if kind is Kind.BLOCK:
            texts = [f"{self._ipam}assignment/"]
        elif kind is Kind.AFFINITY:
            if owner:
                which, _, name = owner.partition(":")
                texts = [f"{self._ipam}{which}/{name}/"]
            else:
                texts = [f"{self._ipam}host/", f"{self._ipam}virtual/"]
        elif kind is Kind.HANDLE:
            texts = [f"{self._ipam}handle/"]
        elif kind is Kind.LEASE:
            texts = [f"{self._prefix}/bgpd/lease/"]
        elif kind is Kind.CONFIG:
            return [Range(f"{self._ipam}config".encode())]
        else:
            texts = [self._resources(kind)]
        return [Range.prefix(text.encode()) for text in texts]

    # -- reading -------------------------------------------------------------------------------------------------------

    def get(self, ref: Ref) -> Stored[Any] | None:
        found = self._run(self._client.get(self.key(ref)))
        return None if found is None else self._stored(ref.kind, found)

    def list(self, kind: Kind, owner: str = "") -> tuple[Stored[Any], ...]:
        async def read() -> tuple[KeyValue, ...]:
            found: tuple[KeyValue, ...] = ()
            async for _, portion in self._client.read(self._ranges(kind, owner)):
                found += tuple(portion)
            return found

        stored = (self._stored(kind, kv) for kv in self._run(read()))
        return tuple(sorted((one for one in stored if one is not None), key=lambda one: one.value.ref))

    def _stored(self, kind: Kind, kv: KeyValue) -> Stored[Any] | None:
        try:
            text = kv.key.decode()
            document = json.loads(kv.value) if kv.value.strip() else {}  # the oldest affinities are empty
        except (ValueError, RecursionError):
            return None
        value = self._value(kind, text, document) if isinstance(document, dict) else None
        return None if value is None else Stored(value, str(kv.modified), document)

    def _value(self, kind: Kind, key: str, document: dict[str, Any]) -> Value | None:
        parts = key.removeprefix(self._ipam).split("/")
        if kind is Kind.BLOCK:
            return allocation.read_block(document)
        if kind is Kind.AFFINITY:
            if len(parts) != 5 or parts[3] != "block":
                return None
            network, _, length = parts[4].rpartition("-")
            return allocation.read_affinity({**document, "cidr": f"{network}/{length}"}, parts[1], parts[0])
        if kind is Kind.HANDLE:
            deleted = document.get("deleted") in (True, "true")
            return None if deleted or len(parts) != 2 else allocation.read_handle(parts[1], document)
        if kind is Kind.CONFIG:
            return allocation.read_config(document, absent=False)
        if kind is Kind.LEASE:
            return allocation.read(document)
        metadata = document.get("metadata")
        named = {**(metadata if isinstance(metadata, dict) else {}), "name": key.rpartition("/")[2]}
        return allocation.read(
            {"apiVersion": allocation.V3, **document, "kind": str(kind), "metadata": named}
        )

    # -- writing -------------------------------------------------------------------------------------------------------

    def create(self, value: Value) -> Stored[Any] | Conflict:
        return self._put(value, {}, 0, Conflict.EXISTS)

    def update(self, known: Stored[Any], value: Value) -> Stored[Any] | Conflict:
        return self._put(value, known.origin, int(known.revision), Conflict.CHANGED)

    def delete(self, known: Stored[Any]) -> Conflict | None:
        key = self.key(known.value.ref)
        guard = Compare(key, int(known.revision))
        done = self._run(self._client.commit([guard], [DeleteOp(key)]))
        return None if done.succeeded else self._why(key)

    def _put(
        self, value: Value, before: Mapping[str, Any], modified: int, conflict: Conflict
    ) -> Stored[Any] | Conflict:
        key = self.key(value.ref)
        document = written(value, before)
        octets = json.dumps(document, separators=(",", ":")).encode()
        done = self._run(self._client.commit([Compare(key, modified)], [PutOp(key, octets)]))
        if done.succeeded:
            return Stored(value, str(done.revision), document)
        return conflict if conflict is Conflict.EXISTS else self._why(key)

    def apply(self, document: dict[str, Any], guard: Stored[Any] | None) -> Stored[Any] | Conflict:
        value = allocation.read(document)
        assert value is not None
        key = self.key(value.ref)
        before = guard.origin.get("metadata") if guard is not None else None
        given = {key: given for key, given in document["metadata"].items() if key != "resourceVersion"}
        made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        metadata = {"uid": str(uuid.uuid4()), "creationTimestamp": made, **(before or {}), **given}
        whole = {**document, "apiVersion": allocation.V3, "metadata": metadata}
        octets = json.dumps(whole, separators=(",", ":")).encode()
        modified = int(guard.revision) if guard is not None else 0
        done = self._run(self._client.commit([Compare(key, modified)], [PutOp(key, octets)]))
        return Stored(value, str(done.revision), whole) if done.succeeded else Conflict.CHANGED

    def document(self, stored: Stored[Any]) -> dict[str, Any]:
        ref = stored.value.ref
        metadata = {**stored.origin.get("metadata", {}), "name": ref.name, "resourceVersion": stored.revision}
        return {"apiVersion": allocation.V3, "kind": str(ref.kind), **stored.origin, "metadata": metadata}

    def _why(self, key: bytes) -> Conflict:
        return Conflict.GONE if self._run(self._client.get(key)) is None else Conflict.CHANGED


def written(value: Value, before: Mapping[str, Any]) -> dict[str, Any]:
    """A value as Calico writes it into etcd, over what was there."""
    match value:
        case Block():
            fields = allocation.block_fields(value)
            if not fields["attributes"] and before.get("attributes") is None:
                fields["attributes"] = None  # Go's way to write a list that was never made
            found = {**before, **fields}
            found.pop("affinity_claim_time", None)
            if value.claimed is not None:
                found["affinity_claim_time"] = allocation.spec_of(value)["affinityClaimTime"]
            return found
        case Affinity():
            return {**before, "state": str(value.state), "deleted": False}
        case Handle():
            return {**before, "block": dict(value.blocks), "deleted": False}
        case IPAMConfig(strict, auto, most, cooldown):
            found = dict(before)
            for key, given in {
                "strict_affinity": strict,
                "auto_allocate_blocks": auto,
                "maxBlocksPerHost": most,
                "ipCooldownSeconds": cooldown,
            }.items():
                found.pop(key, None)
                if given:
                    found[key] = given
            return found
        case Lease():
            return allocation.write(value, before)
        case _:
            raise TypeError(f"{value.ref} is not IPAM's to write")
