"""Our routes of one family in the kernel: read whole, written in batches, followed by events. A ``fib.delta.Target``.

Ours is what has ``proto bird`` in table main, leads somewhere or nowhere (also ``unreachable``, which we never write),
and has no TOS; its key is prefix and metric
(house rule 6). The kernel's ways that ``fib`` and ``writer`` know:

- ``NLM_F_REPLACE`` takes over the first route of a key, whoever's it is. So a key that we do not hold is made
  exclusively, and one is replaced only where we alone hold it. Where another's route shares an IPv4 key, ours is
  deleted by protocol and old next hop and appended; an IPv6 route would merge with the other into one multipath, so
  there ours stays away until the other is gone.
- A delete of an IPv4 route with metric 0 takes the first of any metric. Where we hold the prefix with another metric
  too, the kernel is asked to say which one it took.
- The same forwarding reads in two spellings, legs in the route or a nexthop object; both become one ``Via``.
- A batch asks for one acknowledgement, at its end; errors come unasked, and name their message.
- An IPv6 route that another appends to ours becomes further legs of it, and only the event shows whose they are.

``fib.programmer`` drives ``resync`` and ``apply``; ``kernel`` brings the events.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Container, Iterable, Mapping
from typing import Protocol, TypeVar

from bgpd.fib.delta import Differences
from bgpd.kernel import rtnetlink as rt
from bgpd.kernel.conflicts import Conflicts
from bgpd.kernel.foreign import Others
from bgpd.kernel.installed import UNRECOGNISED, InstalledRoutes, Object, Spelling, meaning
from bgpd.kernel.nexthop_objects import NextHops
from bgpd.kernel.rtnetlink import Body
from bgpd.kernel.sockets import DUMP_ATTEMPTS, Commands, Interrupted, dump
from bgpd.kernel.writer import ObjectsMode, Writer
from bgpd.model.prefix import Family, Prefix
from bgpd.model.route import FibKey, Forwarding, Via

T = TypeVar("T")

_ATTEMPTS = 3
_OUR_TYPES = frozenset((rt.UNICAST, rt.BLACKHOLE_TYPE, rt.UNREACHABLE, rt.PROHIBIT))
_SLICE = 2048


class Surroundings(Protocol):
    """What a Fib reports, and asks, the door it is part of."""

    def describe(self, body: Body) -> str:
        """Another's route in words."""
        ...

    def ours_changed(self, family: Family, keys: Iterable[FibKey]) -> None:
        """These are installed otherwise than before, by no order of ours; or a conflict there is gone."""
        ...

    def others_changed(self, family: Family, prefixes: set[Prefix]) -> None:
        """A whole reading found others' routes of these prefixes to be different."""
        ...

    def suspect(self, family: Family, cause: str) -> None:
        """What is installed can no longer be followed by events: it must be read."""
        ...

    async def collect(self) -> None:
        """A whole reading is done: unused nexthop objects may go."""
        ...


class Fib:
    """One family."""

    def __init__(
        self,
        family: Family,
        commands: Commands,
        nexthops: NextHops,
        others: Others,
        door: Surroundings,
        objects: ObjectsMode,
        groups: bool,
    ) -> None:
        self.family = family
        self.conflicts = Conflicts(family)
        self.installed = InstalledRoutes(nexthops)
        self.synced = False
        """Whether a whole reading was made."""
        self._nexthops, self._others, self._door = nexthops, others, door
        self._writer = Writer(
            family, commands, nexthops, self.installed, others, self.conflicts, door.describe, objects, groups
        )
        self.operations, self.errors = self._writer.operations, self._writer.errors
        """For ``FibStatus``: (``put`` or ``delete``, ``ok`` or ``error``), and (operation, errno name) -> count."""
        self._writing: tuple[Container[FibKey], Container[FibKey]] = ((), ())
        self._touched: tuple[set[FibKey], set[Prefix]] | None = None
        self._reader = rt.RouteReader()
        self._lock = asyncio.Lock()

    @property
    def distinct(self) -> int:
        """Distinct next hops of our routes."""
        return len(self.installed.uses)

    @property
    def nexthop_objects(self) -> int:
        """Objects of ours in the kernel, for this family."""
        return len(self.installed.by_id)

    # Reading.

    async def resync(self) -> Differences[FibKey]:
        """Reads all; ``installed`` is that. Gives up the loop every few milliseconds; ``OSError`` where the kernel
        refuses."""
        async with self._lock:
            found = await self._sync()
        await self._door.collect()
        return found

    async def _sync(self) -> Differences[FibKey]:
        """Reads table main: ours into ``installed``, the others' into ``Others``; says what of ours that changes, and
        says what of theirs."""
        touched, touched_prefixes = self._touched = set[FibKey](), set[Prefix]()
        installed = self.installed
        ours: dict[FibKey, Spelling] = {}
        others: dict[Prefix, tuple[Body, ...]] = {}
        duplicates: dict[FibKey, int] = {}
        missing: list[FibKey] = []
        extra: list[FibKey] = []
        changed: list[FibKey] = []
        try:
            await self._nexthops.sync()
            async for made in _slices(list(installed.by_id.values())):
                for each in made:
                    if not installed.is_intact(each):
                        installed.forget(each)
            await self._read_table(ours, others, duplicates)
            for key in self.conflicts:
                self._restore_merged(key, ours, others)
            installed.duplicates.clear()
            installed.duplicates.update(duplicates)
            async for part in _slices(list(ours.items())):
                for key, spelling in part:
                    old = installed.entries.get(key)
                    if spelling is not old and key not in touched:
                        if old is None:
                            extra.append(key)
                        elif meaning(old) != meaning(spelling):
                            changed.append(key)
                        installed.put(key, spelling)
            used: set[int] = set()
            async for part in _slices(list(installed.entries.items())):
                for key, spelling in part:
                    if key not in ours and key not in touched:
                        missing.append(key)
                        installed.remove(key)
                    elif isinstance(spelling, Object):
                        used.add(spelling.id)
            installed.used_ids = used
            while ours:  # a large dict is not freed in one step
                for _ in range(min(_SLICE, len(ours))):
                    ours.popitem()
                await asyncio.sleep(0)
        finally:
            self._touched = None
        for prefix in touched_prefixes:
            if routes := self._others.routes(prefix):
                others[prefix] = routes
            else:
                others.pop(prefix, None)
        theirs = self._others.replace(others)
        self.synced, self._writer.unsure = True, False
        self._review_conflicts(theirs)
        if theirs:
            self._door.others_changed(self.family, theirs)
        return Differences(tuple(missing), tuple(extra), tuple(changed))

    async def _read_table(
        self,
        ours: dict[FibKey, Spelling],
        others: dict[Prefix, tuple[Body, ...]],
        duplicates: dict[FibKey, int],
    ) -> None:
        spellings: dict[int, tuple[Spelling, Body]] = {}  # by the body's id, which holds while the body does
        found: list[tuple[Prefix, Body]] = []

        def parse(data: bytes) -> rt.Message | None:
            found.clear()
            end = self._reader.read_all(data, self.family, found)
            for prefix, body in found:
                known = spellings.get(id(body))
                if known is None:
                    if body.table != rt.TABLE_MAIN:
                        continue
                    if not is_ours(body):
                        others[prefix] = (*others.get(prefix, ()), body)
                        continue
                    known = spellings[id(body)] = self.installed.spelling(body), body
                key = (prefix, body.metric)
                if key in ours:
                    duplicates[key] = duplicates.get(key, 0) + 1
                    ours[key] = UNRECOGNISED
                else:
                    ours[key] = known[0]
            return end

        for _ in range(DUMP_ATTEMPTS):
            ours.clear()
            others.clear()
            duplicates.clear()
            try:
                await dump(rt.GETROUTE, self.family.af, parse)
                return
            except Interrupted:
                continue

    def _restore_merged(
        self, key: FibKey, ours: dict[FibKey, Spelling], others: dict[Prefix, tuple[Body, ...]]
    ) -> None:
        """Takes the legs that another appended to an IPv6 route of ours out of it."""
        other, spelling = self._others.at(key), ours.get(key)
        if self.family is Family.IPV4 or other is None or not isinstance(spelling, Via):
            return
        rest = tuple(hop for hop in spelling.hops if hop not in other.hops)
        if rest and len(rest) < len(spelling.hops):
            ours[key] = self.installed.canonical(Via(rest))
            others[key[0]] = (*others.get(key[0], ()), other)

    def _review_conflicts(self, prefixes: set[Prefix]) -> None:
        """After a whole reading: conflicts that are gone are reported, so that their keys are tried again at once."""
        freed = [key for key in self.conflicts if self._others.at(key) is None]
        for key in freed:
            self.conflicts.end(key)
        for prefix in prefixes:
            for body in self._others.routes(prefix):
                if not body.tos and (prefix, body.metric) in self.installed.entries:
                    self.conflicts.begin((prefix, body.metric), self._door.describe(body))
        if freed:
            self._door.ours_changed(self.family, freed)

    # Writing.

    async def apply(
        self, puts: Mapping[FibKey, Forwarding], deletes: Iterable[FibKey]
    ) -> Mapping[FibKey, Exception]:
        """Puts, then deletes. Returns the keys that failed, each with why: a ``Conflict`` or a ``Refusal``."""
        errors: dict[FibKey, Exception] = {}
        deletes = tuple(deletes)
        async with self._lock:
            self._writing = puts, deletes
            try:
                left = puts
                for _ in range(_ATTEMPTS):
                    if self._writer.unsure:
                        self._door.ours_changed(self.family, (await self._sync()).keys)
                    left = await self._writer.put_routes(left, errors)
                    if not left:
                        break
                await self._writer.delete(deletes, errors)
            finally:
                self._writing = (), ()
        return errors

    async def remove_all(self) -> int:
        """Removes all routes and nexthop objects of ours. How many routes; ``OSError`` for the first that stays."""
        await self.resync()
        keys = list(self.installed.entries)
        for error in (await self.apply({}, keys)).values():
            raise error
        self.installed.used_ids = set()
        await self._door.collect()
        return len(keys)

    def is_anothers(self, prefix: Prefix) -> bool:
        """Whether another's route of a prefix stands there, by itself or beside ours."""
        return prefix in self._others.table

    def resign(self, keys: Iterable[FibKey]) -> None:
        """These are wanted no longer: what stands in the place of one that we do not hold is in nobody's way."""
        if self.conflicts:
            for key in keys:
                if key not in self.installed.entries:
                    self.conflicts.end(key)

    # Events, all of other ports than our own.

    def ours_event(self, message_type: int, flags: int, prefix: Prefix, body: Body) -> FibKey | None:
        """Somebody wrote or removed a route of ours. Returns the key that is installed otherwise now."""
        key = (prefix, body.metric)
        self._touch(key)
        installed = self.installed
        old = installed.entries.get(key)
        if message_type == rt.DELROUTE:
            if old is None:
                return None
            if key in installed.duplicates:
                self._door.suspect(self.family, "one of two routes of one key was removed")
            via = meaning(old)
            if self.family is Family.IPV6 and isinstance(via, Via) and body.hops:
                rest = tuple(hop for hop in via.hops if hop not in body.hops)
                if rest and len(rest) < len(via.hops):
                    installed.put(key, installed.canonical(Via(rest)))
                    return key
            installed.remove(key)
            return key
        shared = self._others.at(key) is not None
        if shared or (old is not None and not flags & rt.F_REPLACE):
            self._door.suspect(self.family, "two routes have one key")
            if shared:
                return None
        installed.put(key, installed.spelling(body))
        return key

    def others_event(self, message_type: int, flags: int, prefix: Prefix, body: Body) -> FibKey | None:
        """Another owner's route came or went. Returns the key of ours that is installed otherwise, or free, now."""
        key = (prefix, body.metric)
        others, installed = self._others, self.installed
        if self._touched is not None:
            self._touched[1].add(prefix)
        if message_type == rt.DELROUTE:
            others.remove(prefix, body)
            if key in self.conflicts and others.at(key) is None:
                self.conflicts.end(key)
                return key
            return None
        old = installed.entries.get(key) if not body.tos else None
        if old is None:
            others.put_route(prefix, body, flags)
            if key in self.conflicts:
                self.conflicts.begin(key, self._door.describe(body))
            return None
        if flags & rt.F_REPLACE:
            if others.at(key) is None:  # it took ours over
                self._touch(key)
                installed.remove(key)
                others.put_route(prefix, body, flags)
                self.conflicts.begin(key, self._door.describe(body))
                return key
            self._door.suspect(self.family, "a route of a key that we share was replaced")
        via = meaning(old)
        if self.family is Family.IPV6 and isinstance(via, Via):  # merged with ours: the rest is theirs
            body = body._replace(hops=tuple(hop for hop in body.hops if hop not in via.hops))
        others.put_route(prefix, body, flags)
        self.conflicts.begin(key, self._door.describe(body))
        return None

    def _touch(self, key: FibKey) -> None:
        if self._touched is not None:
            self._touched[0].add(key)
        if any(key in written for written in self._writing):
            self._door.suspect(self.family, "a route was changed while it was written")


def is_ours(body: Body) -> bool:
    """Whether a route of table main is ours."""
    return body.protocol == rt.PROTO_BIRD and body.type in _OUR_TYPES and not body.tos


async def _slices(items: list[T]) -> AsyncIterator[list[T]]:
    """The items in parts; the event loop gets a turn between them."""
    for first in range(0, len(items), _SLICE):
        yield items[first : first + _SLICE]
        await asyncio.sleep(0)
