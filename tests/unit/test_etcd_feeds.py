"""What of etcd is read, and from where on it is followed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from bgpd.datastore.etcd.client import KeyValue, Range, WatchEvents
from bgpd.datastore.etcd.feeds import EtcdFeed
from bgpd.datastore.etcd.layout import Keys
from bgpd.datastore.reflector import Event, Gone, Progress, Put, Reflector, Whole

KEYS = Keys("/calico")


class Servers:
    """Keys at one revision, and all that was asked."""

    def __init__(self) -> None:
        self.revision = 7
        self.missing: set[bytes] = set()
        self.asked: list[list[bytes]] = []
        self.watched: list[list[tuple[bytes, int]]] = []
        self.said: list[WatchEvents] = []

    async def read(self, ranges: Sequence[Range]) -> AsyncGenerator[tuple[int, list[KeyValue]]]:
        self.asked.append([each.key for each in ranges])
        for each in ranges:
            found = KeyValue(each.key, b"{}", 1, 1)
            yield self.revision, [] if each.key in self.missing else [found]

    async def watch(self, ranges: Sequence[tuple[Range, int]]) -> AsyncGenerator[WatchEvents]:
        self.watched.append([(each.key, revision) for each, revision in ranges])
        while self.said:
            yield self.said.pop(0)
        await asyncio.sleep(0)


def block(number: int) -> Range:
    return Range(KEYS.block(f"10.48.{number}.0/26"))


async def follow(feed: EtcdFeed, reflector: Reflector) -> list[Event]:
    """All events of one attempt, which the reflector takes."""
    found: list[Event] = []
    async for events in feed.follow(reflector.begin(0.0)):
        reflector.take(events)
        found += events
    return found


async def test_with_another_block_only_that_one_is_read() -> None:
    servers, reflector = Servers(), Reflector(lambda: 1.0)
    feed = EtcdFeed(servers, KEYS, [block(0), block(1)])  # type: ignore[arg-type]  # as far as it is asked
    servers.said = [WatchEvents(1, 12, ())]
    await follow(feed, reflector)
    assert servers.asked == [[block(0).key, block(1).key]] and len(reflector) == 2
    servers.revision = 20
    before = feed.scope
    feed.want([block(1), block(2)])
    assert feed.scope != before
    events = await follow(feed, reflector)
    assert servers.asked[1:] == [[block(2).key]]
    assert servers.watched == [
        [(block(0).key, 7), (block(1).key, 7)],
        [(block(1).key, 12), (block(2).key, 20)],
    ]
    assert [type(each) for each in events] == [Gone, Put, Progress]
    assert len(reflector) == 2 and reflector.resyncs == 0


async def test_a_whole_list_is_one_of_all() -> None:
    servers, reflector = Servers(), Reflector(lambda: 1.0)
    feed = EtcdFeed(servers, KEYS, [block(0), block(1)])  # type: ignore[arg-type]  # as far as it is asked
    await follow(feed, reflector)
    servers.missing.add(block(0).key)
    reflector.position = None  # the history is gone
    events = await follow(feed, reflector)
    assert servers.asked == [[block(0).key, block(1).key]] * 2
    assert isinstance(events[-1], Whole) and len(reflector) == 1 and reflector.resyncs == 1
