"""Resources from a server of the cluster, etcd or the Kubernetes API, live: the ``Datastore`` over a ``Source``.

Each collection of a source is followed by a task and a ``Reflector`` of its own; what is news goes through the same
decoder and the same ``Objects`` as a file's. A collection that we may not read is named and the rest goes on, except
where it would be wrong without (``Feed.essential``). While the server is away everything stands as it was last known,
also over a restart (``last_known``). Whole snapshots only, those of a burst put together.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import random
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import NoReturn, Protocol

from asyncinotify import Mask

from bgpd.datastore.calico.decode import Decoded, Verdict, decode
from bgpd.datastore.directories import CHANGES, Directories, open_inotify
from bgpd.datastore.endpoints import Endpoints
from bgpd.datastore.last_known import Found
from bgpd.datastore.objects import Failure, Objects
from bgpd.datastore.reflector import Event, Gone, Put, Reflector
from bgpd.datastore.trouble import OUTAGE, Kind, Trouble
from bgpd.events import Seconds, event
from bgpd.model.resources import Problem, Snapshot
from bgpd.model.status import DatastoreStatus

PACE_SECONDS = 0.02
"""Seconds between two snapshots; the first change after a quiet time does not wait."""
AT_A_TIME = 64
"""Objects that are decoded between two turns of the event loop."""
PATIENCE_SECONDS = 2.0
"""Seconds at start in which the server may answer before what was last known is taken."""
KEEP_SECONDS = 5.0
"""Seconds between two looks at whether what is kept differs from what is known."""
RESCAN_SECONDS = 10.0

log = logging.getLogger(__name__)


class Feed(Protocol):
    """A collection of objects on a server."""

    @property
    def scope(self) -> str:
        """Which part of the collection. With another one the feed is followed anew, from where it was."""

    @property
    def essential(self) -> bool:
        """Whether nothing is whole without it, not even where we are not allowed to read it."""

    def follow(self, position: str | None) -> AsyncGenerator[list[Event]]:
        """Everything from a position on (``None``: a whole list first, ended by ``Whole``), until the connection ends.
        An empty list says that there is one. Raises ``Trouble``."""


async def follow(
    feed: Feed,
    reflector: Reflector,
    take: Callable[[list[Event]], Awaitable[None]],
    troubled: Callable[[Trouble], None],
) -> NoReturn:
    """Keeps one collection equal to the server's, for ever: ``take`` gets what comes, ``troubled`` why it broke off."""
    while True:
        position = reflector.begin(time.monotonic())
        trouble: Trouble | None = None
        try:
            async with contextlib.aclosing(feed.follow(position)) as feed_events:
                async for events in feed_events:
                    await take(events)
        except Trouble as error:
            trouble = error
        kind, after = (trouble.kind, trouble.retry_after) if trouble else (None, None)
        wait = reflector.broke(kind, time.monotonic(), after)
        if trouble is not None:
            troubled(trouble)
        await asyncio.sleep(wait)


class Source(Protocol):
    """A server, or several that are one."""

    @property
    def backend(self) -> str:
        """``etcd`` or ``kubernetes``."""

    @property
    def server(self) -> str:
        """Where it is, for words."""

    @property
    def identity(self) -> str:
        """What was last known of one source says nothing of one with another identity."""

    def feeds(self, snapshot: Snapshot) -> Mapping[str, Feed]:
        """Collection -> its feed, of all that is needed, given what is known."""

    async def close(self) -> None: ...


class Memory(Protocol):
    """What is kept of a server's objects beside what is in force (``last_known.LastKnown``)."""

    def put(self, collection: str, put: Put) -> None: ...

    def drop(self, collection: str, key: str) -> None: ...

    def take(self) -> Sequence[bytes] | None:
        """What is to be written; called in the event loop."""

    def write(self, identity: str, lines: Sequence[bytes] | None) -> None:
        """Writes it, or notes that what was written is still true; called in a thread, while the server is there."""

    def read(self, identity: str) -> Found | None: ...


class _Following:
    """One collection."""

    def __init__(self, feed: Feed, reflector: Reflector, late: bool) -> None:
        self.feed = feed
        self.scope = feed.scope
        """That of the feed when it was last followed."""
        self.reflector = reflector
        self.late = late
        """Asked for when there was a whole snapshot already: that one goes on without it."""
        self.task: asyncio.Task[None] | None = None
        self.trouble: Trouble | None = None
        self.remembered = False
        """What it says comes from before a restart."""

    @property
    def read(self) -> bool:
        """Whether the whole need not wait for it."""
        if self.reflector.synced or self.remembered or self.late:
            return True
        kind = self.trouble.kind if self.trouble else None
        return kind is Kind.MISSING or (kind is Kind.FORBIDDEN and not self.feed.essential)


class Cluster:
    """A ``model.doors.Datastore`` over one source, and Felix's endpoint-status directory where one is given. One
    ``watch`` at a time."""

    def __init__(
        self,
        source: Source,
        node: str,
        endpoint_status: Path | None = None,
        last_known: Memory | None = None,
    ) -> None:
        self._source = source
        self._objects = Objects(node)
        self._endpoints = Endpoints(endpoint_status) if endpoint_status is not None else None
        self._memory = last_known
        self._following: dict[str, _Following] = {}
        self._news = asyncio.Event()
        self._whole_once = False
        self._errors: Counter[str] = Counter({kind.value: 0 for kind in Kind})
        self._resyncs = 0
        self._as_of: float | None = None
        """When what stands was last known to be true, while it is not known to be so now."""
        self._recalled = False
        """What was known before a restart is to be reported, whatever the server does."""
        self._tasks: set[asyncio.Task[None]] = set()
        """All that run, those among them that were cancelled and are about to end."""
        self._bugs: list[asyncio.Task[None]] = []

    def status(self) -> DatastoreStatus:
        found = self._objects.status(self._source.backend, 0)
        resyncs = self._resyncs + sum(each.reflector.resyncs for each in self._following.values())
        errors = {**found.errors, **self._errors}
        return dataclasses.replace(found, resyncs=resyncs, errors=errors, as_of=self._as_of)

    async def watch(self) -> AsyncIterator[Snapshot]:
        """The newest whole snapshot at every change, for ever. While the consumer is busy changes add up."""
        self._objects.begin()
        if self._endpoints is not None:
            self._task(self._follow_workloads(self._endpoints), "endpoint-status")
        if self._memory is not None:
            self._task(self._remember(self._memory), "last-known")
        yielded_at = 0.0
        try:
            while True:
                self._news.clear()
                self._arrange()
                now = time.monotonic()
                readable, self._recalled = self._readable() or self._recalled, False
                if self._objects.settle(now, readable):
                    self._whole_once = True
                    yielded_at = now
                    yield self._snapshot()
                deadline = self._objects.deadline()
                timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(timeout):
                        await self._news.wait()
                if self._bugs:
                    self._bugs[0].result()
                await asyncio.sleep(max(0.0, yielded_at + PACE_SECONDS - time.monotonic()))
        finally:
            for following in self._following.values():
                following.task = None
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._source.close()

    async def foresee(self, files: Mapping[str, bytes]) -> Snapshot:
        """``ValueError``: what holds here does not come from files."""
        raise ValueError(f"the resources come from {self._source.backend}, not from files")

    def _task(self, what: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(what, name=name)
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and task.exception() is not None:
                self._bugs.append(task)
                self._news.set()

        task.add_done_callback(ended)
        return task

    # -- the collections -----------------------------------------------------------------------------------------------

    def _arrange(self) -> None:
        """Follows what is needed now, and nothing else."""
        wanted = self._source.feeds(self._objects.snapshot())
        for collection in self._following.keys() - wanted.keys():
            following = self._following.pop(collection)
            if following.task is not None:
                following.task.cancel()
            self._resyncs += following.reflector.resyncs
            self._objects.drop(_trouble_place(collection))
            self._apply(collection, following.reflector.forget())
        for collection, feed in wanted.items():
            known = self._following.get(collection)
            if known is None:
                known = self._following[collection] = _Following(
                    feed, Reflector(random.random), self._whole_once
                )
            elif known.scope != feed.scope:
                known.scope = feed.scope
                if known.task is not None:
                    known.task.cancel()
                    known.task = None
            if known.task is None:
                known.task = self._task(self._follow(collection, known), collection)

    async def _follow(self, collection: str, following: _Following) -> None:
        """Keeps one collection equal to the server's, for ever."""

        async def take(events: list[Event]) -> None:
            await self._take(collection, following, events)

        def troubled(trouble: Trouble) -> None:
            self._errors[trouble.kind.value] += 1
            if trouble.kind not in (Kind.EXPIRED, Kind.BUSY):
                self._report(collection, following, trouble)

        await follow(following.feed, following.reflector, take, troubled)

    async def _take(self, collection: str, following: _Following, events: list[Event]) -> None:
        if following.trouble is not None:
            self._report(collection, following, None)
        synced = following.reflector.synced
        for at in range(0, len(events) or 1, AT_A_TIME):
            self._apply(collection, following.reflector.take(events[at : at + AT_A_TIME]))
            if at:
                await asyncio.sleep(0)
        if following.reflector.synced and (not synced or following.remembered):
            following.remembered = False
            self._news.set()

    def _apply(self, collection: str, news: Sequence[Put | Gone]) -> None:
        for each in news:
            place = f"{collection}/{each.key}"
            if isinstance(each, Put):
                found = each.document
                if not isinstance(found, Decoded):
                    if self._memory is not None:
                        self._memory.put(collection, each)
                    found = next(iter(decode(found, self._source.backend)))
                self._objects.put(place, (found,))
            else:
                if self._memory is not None:
                    self._memory.drop(collection, each.key)
                for stated in self._objects.decoded_at(place):
                    if stated.key is not None:
                        self._objects.put(place, (Decoded(Verdict.GONE, stated.key),))
                self._objects.drop(place)
        if news:
            self._news.set()

    def _report(self, collection: str, following: _Following, trouble: Trouble | None) -> None:
        """What is wrong with one collection is a problem of it, until it is well."""
        before, following.trouble = following.trouble, trouble
        if trouble is None:
            self._objects.drop(_trouble_place(collection))
        else:
            words = f"cannot be read ({trouble.kind.value}): {trouble}"
            problem = Problem(f"{self._source.backend}: {collection}", "", words)
            self._objects.put(_trouble_place(collection), (), [Failure("", problem)])
        if str(before) != str(trouble):
            self._news.set()

    def _readable(self) -> bool:
        """Whether what is known is whole and the server there; says so of the place of the whole."""
        following = self._following.values()
        well = [each for each in following if each.trouble is None and each.reflector.synced]
        broken = [each for each in following if each.trouble is not None and each.trouble.kind in OUTAGE]
        missing = [collection for collection, each in self._following.items() if not each.read]
        words = ""
        refused = next((self._following[name].trouble for name in missing), None)
        if broken and not well:
            words = str(broken[0].trouble)
        elif refused is not None:
            words = f"{', '.join(missing)} not read yet: {refused}"
        if words:
            self._objects.put("", (), [Failure("io", Problem(self._source.backend, "", words))])
        else:
            self._objects.drop("")
        live = not words and not missing and not any(each.remembered for each in following)
        if live:
            self._as_of = None
        elif self._as_of is None and self._whole_once:
            self._as_of = time.time()
        return not words and not missing

    def _snapshot(self) -> Snapshot:
        """All that holds. Filters of which nothing can be known are no filters that do not exist."""
        found = self._objects.snapshot()
        filters = self._following.get("bgpfilters")
        if filters is None or filters.reflector.synced or filters.remembered:
            return found
        named = {("BGPFilter", name) for peer in found.peers.values() for name in peer.filters}
        return dataclasses.replace(found, unusable=found.unusable | named)

    # -- beside the server ---------------------------------------------------------------------------------------------

    async def _remember(self, memory: Memory) -> None:
        """Takes what was last known where the server does not answer, and keeps what is known now."""
        if not self._whole_once:
            await asyncio.sleep(PATIENCE_SECONDS)
            if not self._whole_once and (
                found := await asyncio.to_thread(memory.read, self._source.identity)
            ):
                self._recall(found.as_of, found.objects)
        while True:
            live = self._whole_once and self._as_of is None
            if live:
                await asyncio.to_thread(memory.write, self._source.identity, memory.take())
            await asyncio.sleep(KEEP_SECONDS)

    def _recall(self, as_of: float, objects: Mapping[str, list[Put]]) -> None:
        """What was known before a restart stands for collections of which nothing was heard yet."""
        age = max(0.0, time.time() - as_of)
        event(
            log,
            "last_known_state",
            logging.WARNING,
            age=Seconds(age, 0),
            objects=sum(len(puts) for puts in objects.values()),
        )
        self._as_of = as_of
        for _ in range(3):  # what is needed depends on what is known
            self._arrange()
            for collection, following in self._following.items():
                if not following.reflector.synced and not following.remembered:
                    following.remembered = True
                    self._apply(collection, following.reflector.recall(objects.get(collection, [])))
        self._recalled = True
        self._news.set()

    async def _follow_workloads(self, endpoints: Endpoints) -> None:
        with open_inotify() as inotify:
            directories = Directories(inotify, {endpoints.path: CHANGES & ~Mask.CREATE})
            news = directories.everything()
            while True:
                if None in news.values():
                    directories.follow()
                if endpoints.path in news:
                    await endpoints.read(news[endpoints.path], directories.overflowed)
                    self._objects.workloads(endpoints.workloads(), endpoints.failures())
                    self._news.set()
                news = await directories.news(RESCAN_SECONDS)


def _trouble_place(collection: str) -> str:
    return f"{collection} "
