"""Where IPAM's objects are kept: what a store must do, and decisions carried out on one.

A ``Store`` is asked from any thread and answers when it is done: the daemon asks from a worker thread, the CNI plugins
and ``bgpctl`` have no event loop. ``files_store`` is one; all pass ``tests/unit/store_contract``.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from bgpd.model.ipam import Conflict, Kind, Ref, Stored, StoreFailed, StoreUnwritten, Value
from bgpd.rules.ipam.steps import Create, Delete, Get, List, NotReady, Pause, Step, Steps, Update

T = TypeVar("T")
PATIENCE_SECONDS = 5.0
"""Seconds in which a store that failed is asked again, a step."""


class Store(Protocol):
    """Objects, each with a revision. Every method raises ``StoreFailed`` where the store does not do it."""

    def get(self, ref: Ref) -> Stored[Any] | None: ...

    def list(self, kind: Kind, owner: str = "") -> tuple[Stored[Any], ...]:
        """All of a kind, of affinities those of an owner where one is given, in a fixed order."""

    def create(self, value: Value) -> Stored[Any] | Conflict:
        """``Conflict.EXISTS`` where the object is there."""

    def update(self, known: Stored[Any], value: Value) -> Stored[Any] | Conflict:
        """``Conflict.CHANGED`` or ``GONE`` where it is not as it was read. What was read beside the value stays."""

    def delete(self, known: Stored[Any]) -> Conflict | None:
        """As ``update``."""

    def apply(self, document: dict[str, Any], guard: Stored[Any] | None) -> Stored[Any] | Conflict:
        """Creates a resource that somebody wrote, or puts it in the place of the one that was read (``guard``)."""

    def document(self, stored: Stored[Any]) -> dict[str, Any]:
        """The resource as it is stored, whole."""

    def close(self) -> None:
        """Ends what it holds open."""

    def describe(self) -> str:
        """What and where it is, in words for an error."""


class Executor:
    """Carries decisions out on a store."""

    def __init__(
        self,
        store: Store,
        *,
        patience: float = PATIENCE_SECONDS,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = store
        self._patience, self._sleep, self._clock = patience, sleep, clock

    def ready(self) -> None:
        """Raises ``NotReady`` while the cluster's datastore is locked."""
        cluster = self.store.get(Ref(Kind.CLUSTER, "default"))
        if cluster is not None and not cluster.value.ready:
            raise NotReady(
                "ClusterInformation default has datastoreReady: false, so nothing may be written: an upgrade or "
                "a migration is under way"
            )

    def run(self, steps: Steps[T]) -> T:
        """All steps of a decision. Raises its ``Refused``, or ``StoreFailed`` after it has undone what it could."""
        answer: Any = None
        failure: StoreFailed | None = None
        try:
            while True:
                step = steps.throw(failure) if failure is not None else steps.send(answer)
                answer, failure = None, None
                try:
                    answer = self._patiently(step)
                except StoreFailed as error:
                    failure = error
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        finally:
            steps.close()

    def _patiently(self, step: Step) -> Any:
        """One step. A store that failed may have done it: before it is asked again it is looked at."""
        deadline, tries = self._clock() + self._patience, 0
        uncertain = False
        while True:
            try:
                return self._resolved(step) if uncertain else self._answer(step)
            except StoreUnwritten:
                raise
            except StoreFailed:
                uncertain = isinstance(step, Create | Update | Delete)
                if self._clock() >= deadline:
                    raise
                self._pause(tries := tries + 1)

    def _answer(self, step: Step) -> Any:
        match step:
            case Get(ref):
                return self.store.get(ref)
            case List(kind, owner):
                return self.store.list(kind, owner)
            case Create(value):
                return self.store.create(value)
            case Update(known, value):
                return self.store.update(known, value)
            case Delete(known):
                return self.store.delete(known)
            case Pause(tries):
                self._pause(tries)
                return None

    def _resolved(self, step: Step) -> Any:
        """A write whose outcome is not known: done if its result is there, else tried again with the same guard."""
        if isinstance(step, Create):
            found = self.store.get(step.value.ref)
            if found is not None:
                return found if found.value == step.value else Conflict.EXISTS
        elif isinstance(step, Update):
            found = self.store.get(step.value.ref)
            if found is None:
                return Conflict.GONE
            if found.revision != step.known.revision:
                return found if found.value == step.value else Conflict.CHANGED
        elif isinstance(step, Delete):
            found = self.store.get(step.known.value.ref)
            if found is None:
                return None
            if found.revision != step.known.revision:
                return Conflict.CHANGED
        return self._answer(step)

    def _pause(self, tries: int) -> None:
        self._sleep(random.uniform(0.3, 1.0) * min(0.001 * 2 ** min(tries, 10), 0.1))
