"""The store of IPAM's objects in the Kubernetes API, as Calico keeps them there (ipam.md §1.1, §1.2, §1.6).

A revision is ``metadata.resourceVersion``, and the server's own check of it is the guard. What Calico's clients may
have in their hands is deleted in two steps, as they do it: ``deleted: true`` under the guard, which is when it happens,
then the object itself by its uid. An object that stayed between the two is as good as gone for whoever reads, and is
cleared away by whoever wants its name.

Only ``crd.projectcalico.org/v1`` is written. Nodes are read; they are Kubernetes' own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from bgpd.datastore.calico import allocation
from bgpd.datastore.kubernetes.client import Access, KubernetesClient
from bgpd.datastore.loop_thread import LoopThread
from bgpd.datastore.trouble import Kind as Reason
from bgpd.datastore.trouble import Trouble
from bgpd.model.ipam import Conflict, Kind, Ref, Stored, StoreFailed, StoreUnwritten, Value

CALICO = f"/apis/{allocation.CRD}"
_PATHS = {
    Kind.POOL: f"{CALICO}/ippools",
    Kind.RESERVATION: f"{CALICO}/ipreservations",
    Kind.CONFIG: f"{CALICO}/ipamconfigs",
    Kind.BLOCK: f"{CALICO}/ipamblocks",
    Kind.AFFINITY: f"{CALICO}/blockaffinities",
    Kind.HANDLE: f"{CALICO}/ipamhandles",
    Kind.CLUSTER: f"{CALICO}/clusterinformations",
    Kind.NODE: "/api/v1/nodes",
    Kind.LEASE: "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases",
}
_TWO_STEPS = {Kind.BLOCK: True, Kind.HANDLE: True, Kind.AFFINITY: "true"}
"""What goes in two steps, and how Calico's schema writes that it is gone."""
_PAGE = "500"
_REFUSED = frozenset((Reason.FORBIDDEN, Reason.UNSUPPORTED, Reason.TLS))
"""Answers after which nothing was written for sure, and trying again does not help."""

Document = dict[str, Any]


class KubernetesStore:
    """A ``Store``. ``close`` ends its thread."""

    def __init__(self, access: Access, namespace: str | None = None) -> None:
        self._access, self._namespace = access, namespace
        self._client = KubernetesClient(access)
        self._thread = LoopThread("ipam-kubernetes")

    def close(self) -> None:
        self._thread.run(self._client.close())
        self._thread.close()

    def describe(self) -> str:
        return (
            f"Kubernetes at {self._client.server or self._access.kubeconfig or 'the API server of this pod'}"
        )

    # -- reading -------------------------------------------------------------------------------------------------------

    def get(self, ref: Ref) -> Stored[Any] | None:
        document = self._document(ref)
        return None if document is None else self._stored(ref, document)

    def _document(self, ref: Ref) -> Document | None:
        """The object of a name, also one that says itself that it is gone."""
        try:
            found = self._send("GET", self._path(ref))
        except Trouble as trouble:
            if trouble.kind is Reason.MISSING:
                return None
            raise _failure(trouble) from None
        return found

    def _stored(self, ref: Ref, document: Document) -> Stored[Any] | None:
        found = _stored(ref.kind, document)
        return found if found is not None and found.value.ref == ref else None

    def list(self, kind: Kind, owner: str = "") -> tuple[Stored[Any], ...]:
        selectors = [""]
        if kind is Kind.AFFINITY and owner:
            which = owner.partition(":")[0]
            digest = allocation.affinity_labels(owner, 4)["projectcalico.org/hostname-hash"]
            selectors = [
                f"projectcalico.org/hostname-hash={digest},projectcalico.org/affinity-type={which}",
                "!projectcalico.org/affinity-type",  # of Calico before 3.31
            ]
        found: dict[Ref, Stored[Any]] = {}
        for selector in selectors:
            params = {"limit": _PAGE, **({"labelSelector": selector} if selector else {})}
            for document in self._thread.run(self._listed(self._collection(kind), params)):
                one = _stored(kind, document)
                if one is not None and (not owner or one.value.ref.owner == owner):
                    found[one.value.ref] = one
        return tuple(found[ref] for ref in sorted(found))

    async def _listed(self, path: str, params: Mapping[str, str]) -> tuple[Document, ...]:
        found: tuple[Document, ...] = ()
        try:
            async for items, _ in self._client.items(path, params):
                found += tuple(items)
        except Trouble as trouble:
            if trouble.kind is Reason.MISSING:  # the kind is not defined there, so there is none
                return ()
            raise _failure(trouble) from None
        return found

    # -- writing -------------------------------------------------------------------------------------------------------

    def create(self, value: Value) -> Stored[Any] | Conflict:
        document = allocation.write(value)
        for _ in range(2):
            try:
                return self._written(value.ref.kind, "POST", self._collection(value.ref.kind), document)
            except Trouble as trouble:
                if trouble.kind is not Reason.CONFLICT:
                    raise _failure(trouble) from None
            there = self._document(value.ref)
            if there is not None and not _is_gone(there):
                return Conflict.EXISTS
            if there is not None:
                self._clear_away(value.ref, there)
        return Conflict.EXISTS

    def update(self, known: Stored[Any], value: Value) -> Stored[Any] | Conflict:
        document = allocation.write(value, known.origin)
        return self._put(known, document)

    def delete(self, known: Stored[Any]) -> Conflict | None:
        kind = known.value.ref.kind
        if (gone := _TWO_STEPS.get(kind)) is None:
            return self._remove(known.value.ref, known.origin, known.revision)
        marked = {**known.origin, "spec": {**known.origin["spec"], "deleted": gone}}
        try:
            after = self._send("PUT", self._path(known.value.ref, known.origin), marked)
        except Trouble as trouble:
            return _conflict(trouble)
        self._clear_away(known.value.ref, after)
        return None

    def _clear_away(self, ref: Ref, document: Document) -> None:
        """Removes what says that it is gone; somebody else may do it too, and somebody may have the name again."""
        with contextlib.suppress(StoreFailed):
            self._remove(ref, document, None)

    def _remove(self, ref: Ref, document: Document, revision: str | None) -> Conflict | None:
        conditions = {"uid": document["metadata"].get("uid")}
        if revision is not None:
            conditions["resourceVersion"] = revision
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": conditions}
        try:
            self._send("DELETE", self._path(ref, document), body)
        except Trouble as trouble:
            return _conflict(trouble)
        return None

    def _put(self, known: Stored[Any], document: Document) -> Stored[Any] | Conflict:
        """``document`` has the ``resourceVersion`` that it depends on."""
        ref = known.value.ref
        try:
            return self._written(ref.kind, "PUT", self._path(ref, known.origin), document)
        except Trouble as trouble:
            return _conflict(trouble)

    def apply(self, document: dict[str, Any], guard: Stored[Any] | None) -> Stored[Any] | Conflict:
        value = allocation.read(document)
        assert value is not None
        if value.ref.kind is Kind.NODE:
            raise StoreUnwritten("Nodes are Kubernetes' own: kubectl label and kubectl annotate write them")
        given = {key: one for key, one in document["metadata"].items() if key not in _SERVERS}
        whole = {**document, "apiVersion": allocation.CRD, "metadata": given}
        if guard is not None:
            whole["metadata"] = {**guard.origin["metadata"], **given}
            return self._put(guard, whole)
        try:
            return self._written(value.ref.kind, "POST", self._collection(value.ref.kind), whole)
        except Trouble as trouble:
            return _conflict(trouble)

    def document(self, stored: Stored[Any]) -> dict[str, Any]:
        metadata = {key: one for key, one in stored.origin["metadata"].items() if key != "managedFields"}
        return {**stored.origin, "apiVersion": allocation.V3, "metadata": metadata}

    def _written(self, kind: Kind, method: str, path: str, document: Document) -> Stored[Any]:
        found = _stored(kind, self._send(method, path, document))
        if found is None:
            raise StoreFailed(f"{path}: the server answered with another object than it was given")
        return found

    # -- asking --------------------------------------------------------------------------------------------------------

    def _collection(self, kind: Kind) -> str:
        if kind is Kind.LEASE and self._namespace is None and not self._client.server:
            # The namespace is that of the account, which is known once there was a connection.
            try:
                self._send("GET", "/version")
            except Trouble as trouble:
                raise _failure(trouble) from None
        return _PATHS[kind].format(namespace=self._namespace or self._client.namespace)

    def _path(self, ref: Ref, document: Document | None = None) -> str:
        """Where an object is: by the name it has, where it was read."""
        name = document["metadata"]["name"] if document is not None else allocation.name_of(ref)
        return f"{self._collection(ref.kind)}/{name}"

    def _send(self, method: str, path: str, body: object = None) -> Document:
        return self._thread.run(self._client.send(method, path, body))


_SERVERS = frozenset(("resourceVersion", "uid", "creationTimestamp", "generation", "managedFields"))
"""What of ``metadata`` is the server's to say."""


def _stored(kind: Kind, document: Document) -> Stored[Any] | None:
    api = (
        "v1" if kind is Kind.NODE else allocation.CRD if kind is not Kind.LEASE else "coordination.k8s.io/v1"
    )
    whole = {**document, "apiVersion": api, "kind": str(kind)}  # items of a list do not say it
    value = allocation.read(whole)
    return None if value is None else Stored(value, str(whole["metadata"].get("resourceVersion")), whole)


def _is_gone(document: Document) -> bool:
    spec = document.get("spec")
    return isinstance(spec, dict) and spec.get("deleted") in (True, "true")


def _conflict(trouble: Trouble) -> Conflict:
    """The server's refusal of a guarded write; anything else is raised."""
    if trouble.kind is Reason.CONFLICT:
        return Conflict.CHANGED
    if trouble.kind is Reason.MISSING:
        return Conflict.GONE
    raise _failure(trouble)


def _failure(trouble: Trouble) -> StoreFailed:
    return (StoreUnwritten if trouble.kind in _REFUSED else StoreFailed)(str(trouble))
