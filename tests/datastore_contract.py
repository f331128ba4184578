"""What every datastore must do, whichever store is behind it: subclass ``DatastoreContract`` and give it a ``Backend``.

This is the one place where unit tests wait for real time: a store is on the other side of a system call or a socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from bgpd.model.doors import Datastore
from bgpd.model.prefix import parse_prefix
from bgpd.model.resources import Snapshot

OWN = "worker1"


class Backend(ABC):
    """A store that a test writes to as an operator would."""

    @abstractmethod
    def datastore(self) -> Datastore:
        """A datastore over this store for the node ``OWN``."""

    @abstractmethod
    def put(self, document: dict[str, Any]) -> None:
        """Creates or replaces an object."""

    @abstractmethod
    def delete(self, kind: str, name: str) -> None: ...

    @abstractmethod
    def lose(self) -> None:
        """The store as a whole goes away."""

    @abstractmethod
    def restore(self) -> None:
        """It comes back, with the objects it had."""


def node(name: str = OWN) -> dict[str, Any]:
    spec = {"bgp": {"ipv4Address": "10.0.1.30/24"}}
    return {"apiVersion": "projectcalico.org/v3", "kind": "Node", "metadata": {"name": name}, "spec": spec}


def pool(name: str = "default", cidr: str = "10.48.0.0/24") -> dict[str, Any]:
    return {
        "apiVersion": "projectcalico.org/v3",
        "kind": "IPPool",
        "metadata": {"name": name},
        "spec": {"cidr": cidr},
    }


class Watching:
    """A datastore that is being followed."""

    def __init__(self, datastore: Datastore) -> None:
        self.datastore = datastore
        self.snapshots: list[Snapshot] = []
        self._news = asyncio.Event()

    async def follow(self) -> None:
        async for snapshot in self.datastore.watch():
            self.snapshots.append(snapshot)
            self._news.set()

    async def until(self, holds: Callable[[Snapshot], object], seconds: float = 15.0) -> Snapshot:
        """The first snapshot from the newest on for which something holds."""
        async with asyncio.timeout(seconds):
            while not self.snapshots or not holds(self.snapshots[-1]):
                self._news.clear()
                await self._news.wait()
        return self.snapshots[-1]

    async def status(self, holds: Callable[[Any], object], seconds: float = 15.0) -> Any:
        async with asyncio.timeout(seconds):
            while not holds(status := self.datastore.status()):  # noqa: ASYNC110 - a status announces itself to nobody
                await asyncio.sleep(0.005)
        return status


@asynccontextmanager
async def watching(backend: Backend) -> AsyncIterator[Watching]:
    watch = Watching(backend.datastore())
    task = asyncio.create_task(watch.follow())
    try:
        yield watch
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class DatastoreContract:
    """Fulfilled by each datastore; the subclass has a fixture ``backend``."""

    async def test_the_first_snapshot_is_whole(self, backend: Backend) -> None:
        backend.put(pool())
        backend.put(node())
        async with watching(backend) as watch:
            snapshot = await watch.until(lambda s: True)
            assert set(snapshot.nodes) == {OWN}
            assert snapshot.pools["default"].cidr == parse_prefix("10.48.0.0/24")[1]
            status = watch.datastore.status()
            assert (status.up, status.in_sync, status.detail) == (True, True, "")
            assert status.resources["IPPool"] == 1

    async def test_without_our_own_node_nothing_is_yielded(self, backend: Backend) -> None:
        backend.put(pool())
        backend.put(node("other"))
        async with watching(backend) as watch:
            status = await watch.status(lambda s: s.up and "no Node" in s.detail)
            assert OWN in status.detail
            assert not status.in_sync
            assert watch.snapshots == []
            backend.put(node())
            snapshot = await watch.until(lambda s: True)
            assert set(snapshot.nodes) == {OWN, "other"}

    async def test_what_appears_or_changes_acts_at_once(self, backend: Backend) -> None:
        backend.put(node())
        async with watching(backend) as watch:
            await watch.until(lambda s: True)
            backend.put(pool())
            await watch.until(lambda s: "default" in s.pools)
            backend.put(pool(cidr="10.49.0.0/24"))
            await watch.until(lambda s: s.pools["default"].cidr == parse_prefix("10.49.0.0/24")[1])
            assert watch.datastore.status().events["IPPool", "change"] == 1

    async def test_a_removal_acts(self, backend: Backend) -> None:
        backend.put(node())
        backend.put(pool())
        async with watching(backend) as watch:
            await watch.until(lambda s: "default" in s.pools)
            backend.delete("IPPool", "default")
            await watch.until(lambda s: not s.pools)

    async def test_an_invalid_object_keeps_its_last_good_version(
        self, backend: Backend, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING)
        backend.put(node())
        backend.put(pool())
        async with watching(backend) as watch:
            good = await watch.until(lambda s: "default" in s.pools)
            backend.put(pool(cidr="10.48.0.1/24"))
            snapshot = await watch.until(lambda s: s.problems)
            assert snapshot.pools == good.pools
            (problem,) = watch.datastore.status().problems
            assert "IPPool default" in problem.source
            assert (problem.path, "host bits" in problem.message) == ("spec.cidr", True)
            assert watch.datastore.status().errors["invalid"] == 1
            backend.put(pool("second", "10.50.0.0/24"))
            await watch.until(lambda s: "second" in s.pools)
            assert [r.getMessage().count("host bits") for r in caplog.records] == [1]
            backend.put(pool())
            await watch.until(lambda s: not s.problems)

    async def test_losing_the_store_loses_nothing(self, backend: Backend) -> None:
        backend.put(node())
        backend.put(pool())
        async with watching(backend) as watch:
            await watch.until(lambda s: "default" in s.pools)
            seen = len(watch.snapshots)
            backend.lose()
            status = await watch.status(lambda s: not s.in_sync)
            assert not status.up
            assert status.detail
            backend.restore()
            await watch.status(lambda s: s.in_sync)
            await asyncio.sleep(0.4)
            assert all("default" in snapshot.pools for snapshot in watch.snapshots[seen:])
            backend.put(pool("after", "10.51.0.0/24"))
            await watch.until(lambda s: "after" in s.pools)

    async def test_a_second_watch_begins_with_the_whole(self, backend: Backend) -> None:
        backend.put(node())
        datastore = backend.datastore()
        for _ in range(2):
            watch = datastore.watch()
            async with asyncio.timeout(5):
                assert set((await anext(watch)).nodes) == {OWN}
            await watch.aclose()  # type: ignore[attr-defined]  # an async generator
