"""etcd as a source of ``datastore.cluster``: everything that all nodes share as one collection, this node's affinities
in it, and the blocks that those name (with ``ipam_early``: all blocks) as another. Each is one LIST at one revision and
one connection of watches."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence

from bgpd.datastore.etcd.client import Access, EtcdClient, KeyValue, Range
from bgpd.datastore.etcd.layout import Keys, document
from bgpd.datastore.reflector import Event, Gone, Progress, Put, Whole
from bgpd.model.prefix import prefix_text
from bgpd.model.resources import Snapshot


class EtcdFeed:
    """Some ranges of keys. Where each of them was heard of up to is kept here: a position only says that it is.

    A watch begins at the revision up to which all was reported, not after it. Of one that begins at the very
    revision to which the servers compacted, they send no deletion that happened then and do not say so. What comes
    twice is no news."""

    essential = True

    def __init__(self, client: EtcdClient, keys: Keys, ranges: Sequence[Range] = ()) -> None:
        self._client = client
        self._keys = keys
        self._heard: dict[Range, int] = {}
        """Revision up to which all that happened in a range was reported."""
        self.want(ranges)

    def want(self, ranges: Sequence[Range]) -> None:
        """These ranges from now on: only those that were not read before are. One that is not wanted any more is a
        single key."""
        self._ranges = tuple(ranges)
        self.scope = ",".join(each.key.decode() for each in ranges)

    async def follow(self, position: str | None) -> AsyncGenerator[list[Event]]:
        ranges = self._ranges
        if position is None:
            self._heard.clear()
        for dropped in self._heard.keys() - set(ranges):
            del self._heard[dropped]
            yield [Gone(dropped.key.decode())]
        if fresh := [each for each in ranges if each not in self._heard]:
            revision = 0
            async with contextlib.aclosing(self._client.read(fresh)) as portions:
                async for now, found in portions:
                    revision = now
                    yield [put for kv in found if (put := self._event(kv)) is not None]
            self._heard |= dict.fromkeys(fresh, revision)
        yield [Whole(self._position()) if position is None else Progress(self._position())]
        watch = self._client.watch([(each, self._heard[each]) for each in ranges])
        async with contextlib.aclosing(watch) as lines:
            async for line in lines:
                if not 0 <= line.number < len(ranges):
                    continue
                events = [event for each in line.puts_and_deletes if (event := self._event(each)) is not None]
                about = ranges[line.number]
                self._heard[about] = max(self._heard[about], line.revision)
                yield [*events, Progress(self._position())]

    def _position(self) -> str:
        return str(min(self._heard.values(), default=0))

    def _event(self, change: KeyValue | bytes) -> Event | None:
        key = change if isinstance(change, bytes) else change.key
        named = self._keys.named(key)
        if named is None:
            return None
        if isinstance(change, bytes):
            return Gone(key.decode())
        return Put(key.decode(), str(change.modified), document(named, change.value, "etcd"))


class Etcd:
    """The source that ``cluster.Cluster`` follows."""

    backend = "etcd"

    def __init__(self, access: Access, prefix: str, node: str, all_blocks: bool) -> None:
        self._client = EtcdClient(access)
        self._keys = Keys(prefix)
        self._all_blocks = all_blocks
        self._shared = EtcdFeed(
            self._client, self._keys, [*self._keys.resources(), self._keys.affinities(node)]
        )
        self._blocks = EtcdFeed(self._client, self._keys)
        self.identity = f"etcd {','.join(sorted(access.endpoints))} {prefix} {node}"

    @property
    def server(self) -> str:
        return self._client.endpoint

    def feeds(self, snapshot: Snapshot) -> Mapping[str, EtcdFeed]:
        """Collection -> what is to be followed, given what is known."""
        if self._all_blocks:
            blocks = [self._keys.blocks()]
        else:
            owned = sorted({prefix_text(each.family, each.cidr) for each in snapshot.affinities.values()})
            blocks = [Range(self._keys.block(cidr)) for cidr in owned]
        self._blocks.want(blocks)
        return {"resources": self._shared, **({"blocks": self._blocks} if blocks else {})}

    async def close(self) -> None:
        await self._client.close()
