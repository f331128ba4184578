"""The kernel's nexthop objects: all that are there, which are ours, and free ids for new ones. Used by ``fib``.

The kernel finds a route's next hop by a hash that leaves the gateway out. So writing a route with the k-th gateway on
one device walks k records. A route over a nexthop object is found by the object's id (Linux 5.3). Ours are those of our
protocol in our range of ids; they are made exclusively, shared by all routes of one forwarding, and removed once a
whole reading has shown that no route uses them. An object that somebody else changed is never changed back, since its
id may be theirs by now: the routes over it move to a new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Set as AbstractSet

from bgpd.kernel import rtnetlink as rt
from bgpd.kernel.sockets import Commands, dump_each
from bgpd.model.route import BLACKHOLE, Forwarding, Hop, Via

_MOST_REMOVALS = 512


class NextHops:
    """``ids`` is our range. One object for both families, since ids are."""

    def __init__(self, commands: Commands, ids: range) -> None:
        self.known: dict[int, rt.NextHop] = {}
        self._commands, self._ids = commands, ids
        self._reserved: set[int] = set()
        self._next = 0
        self._exhausted = False
        self._lock = asyncio.Lock()
        self._touched: set[int] | None = None

    async def sync(self) -> None:
        """Reads all objects."""
        async with self._lock:
            self._touched = touched = set[int]()
            found: dict[int, rt.NextHop] = {}

            def take(data: bytes, message: rt.Message) -> None:
                if message.type == rt.NEWNEXTHOP and (nexthop := rt.read_nexthop(data, message)):
                    known = self.known.get(nexthop.id)
                    found[nexthop.id] = (
                        known if known is not None and known == nexthop else nexthop
                    )  # one object, however often it is read

            await dump_each(rt.GETNEXTHOP, found.clear, take)
            self._touched = None
            for number in touched:
                if number in self.known:
                    found[number] = self.known[number]
                else:
                    found.pop(number, None)
            self.known = found
            self._exhausted = False

    def put_nexthop(self, nexthop: rt.NextHop) -> None:
        """It is there now: by an event, or made by us."""
        self.known[nexthop.id] = nexthop
        self._reserved.discard(nexthop.id)
        if self._touched is not None:
            self._touched.add(nexthop.id)

    def drop(self, number: int) -> None:
        """It is gone."""
        self.known.pop(number, None)
        self._reserved.discard(number)
        self._exhausted = False
        if self._touched is not None:
            self._touched.add(number)

    def is_ours(self, number: int) -> bool:
        """Whether an object is there and is of our protocol and range."""
        nexthop = self.known.get(number)
        return nexthop is not None and nexthop.protocol == rt.PROTO_BIRD and number in self._ids

    def hops(self, number: int) -> tuple[Hop, ...] | None:
        """The hops of an object; ``None`` when it is unknown, empty for a blackhole."""
        nexthop = self.known.get(number)
        if nexthop is None:
            return None
        if nexthop.members:
            members = [self.known.get(member) for member in nexthop.members]
            return tuple(member.hop for member in members if member is not None and member.hop is not None)
        return (nexthop.hop,) if nexthop.hop is not None else ()

    def forwarding(self, number: int) -> Forwarding | None:
        """What a route over an object does; ``None`` when it is unknown, or nothing that we would write."""
        nexthop = self.known.get(number)
        if nexthop is None or not nexthop.plain:
            return None
        if nexthop.blackhole:
            return BLACKHOLE
        hops = self.hops(number)
        return Via(hops) if hops else None

    def reserve(self) -> int | None:
        """A free id of our range, kept from others until ``put`` or ``drop``; ``None`` when all are taken."""
        ids = self._ids
        if self._exhausted:
            return None
        for _ in range(min(len(ids), len(self.known) + len(self._reserved) + 1)):
            number = ids[self._next]
            self._next = (self._next + 1) % len(ids)
            if number not in self.known and number not in self._reserved:
                self._reserved.add(number)
                return number
        self._exhausted = True  # not searched again until one is free
        return None

    def unused(self, used: AbstractSet[int]) -> list[int]:
        """Ours that no route uses and no group holds; groups first, their members the next time."""
        idle = [number for number in self.known.keys() - used if self.is_ours(number)]
        if not idle:
            return idle
        held = {member for nexthop in self.known.values() for member in nexthop.members}
        return [number for number in idle if number not in held]

    async def remove(self, numbers: list[int]) -> None:
        """Removes objects of ours; one that is gone already is no error."""
        for number in numbers:
            self.drop(number)
        for first in range(0, len(numbers), _MOST_REMOVALS):
            base = self._commands.base()
            chunk = numbers[first : first + _MOST_REMOVALS]
            await self._commands.submit(
                base, [rt.pack_nexthop_removal(base + i, number) for i, number in enumerate(chunk)]
            )
