"""What of ours is in the kernel, of one family: each route and how it is spelled there, and what those spellings share.

``fib`` fills it from readings and events, ``writer`` from what the kernel accepted. It knows distinct next hops, the
links our routes lead over, and our nexthop objects. So no question of those needs a walk through all routes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter

from bgpd.kernel import rtnetlink as rt
from bgpd.kernel.nexthop_objects import NextHops
from bgpd.model.route import BLACKHOLE, Blackhole, FibKey, Forwarding, Hop, Via

UNRECOGNISED = Via((Hop(None, 0),))
"""A route of ours in a spelling that we never write (weights, metrics, ``unreachable``, two of one key): equal to
nothing wanted."""

_METRIC = itemgetter(1)


class Object:
    """A nexthop object of ours. Compared by identity."""

    __slots__ = ("attempt", "failure", "id", "parts", "stale", "via")

    def __init__(self, number: int, via: Via, parts: tuple[Object, ...] = (), attempt: int = 0) -> None:
        self.id, self.via = number, via
        self.parts = parts
        """The objects that a group consists of; empty for a single hop."""
        self.attempt = attempt
        """The write that made it; 0 for one that was found."""
        self.failure: rt.Refusal | None = None
        """Why the kernel did not make it."""
        self.stale = False
        """It (or a part of it) had gone without notice, or its id was another's: worth another try under a new id."""


Spelling = Via | Blackhole | Object
"""How a route of ours is written: legs in the route, nothing, or over an object."""


def meaning(spelling: Spelling) -> Forwarding:
    """The forwarding, whichever way it is spelled."""
    return spelling.via if isinstance(spelling, Object) else spelling


class _Use:
    """The one object of all equal forwardings, and how many routes have it."""

    __slots__ = ("routes", "via")

    def __init__(self, via: Via) -> None:
        self.via, self.routes = via, 0


def _links(via: Via) -> set[int]:
    return {hop.ifindex for hop in via.hops}


class InstalledRoutes:
    """Routes of ours by key. A ``fib.delta.Installed``."""

    def __init__(self, nexthops: NextHops) -> None:
        self.entries: dict[FibKey, Spelling] = {}
        self.duplicates: dict[FibKey, int] = {}
        """Keys that several routes of ours have, and how many more than one."""
        self.uses: dict[Via, _Use] = {}
        """The distinct next hops, and how many routes use each."""
        self.metrics: Counter[int] = Counter()
        self.objects: dict[Via, Object] = {}
        """The object that new routes of a forwarding are written over."""
        self.by_id: dict[int, Object] = {}
        self.used_ids: set[int] = set()
        """Objects that routes of ours may be over; exact after a whole reading."""
        self._nexthops = nexthops
        self._links: Counter[int] = Counter()

    def put(self, key: FibKey, spelling: Spelling) -> None:
        """The kernel has this route."""
        old = self.entries.get(key)
        if old is spelling:
            return
        if old is None:
            self.metrics[key[1]] += 1
        self.entries[key] = spelling
        self._use(spelling, 1)
        if old is not None:
            self._unuse(old, 1)

    def put_all(self, routes: Mapping[FibKey, Spelling]) -> None:
        """The kernel has these routes."""
        if not self.entries.keys().isdisjoint(routes):
            for key, spelling in routes.items():
                self.put(key, spelling)
            return
        self.entries.update(routes)
        self.metrics.update(map(_METRIC, routes))
        for spelling, same in groupby(routes.values()):
            self._use(spelling, sum(1 for _ in same))

    def remove_all(self, keys: Sequence[FibKey]) -> None:
        """The kernel does not have these routes."""
        pop = self.entries.pop
        gone = [pop(key, None) for key in keys]
        if len(self.metrics) == 1 and None not in gone:
            (metric,) = self.metrics
            self.metrics[metric] -= len(gone)
        else:
            self.metrics.subtract(
                key[1] for key, spelling in zip(keys, gone, strict=True) if spelling is not None
            )
        self.metrics = +self.metrics
        for spelling, same in groupby(gone):
            if spelling is not None:
                self._unuse(spelling, sum(1 for _ in same))

    def remove(self, key: FibKey) -> None:
        """The kernel does not have this route."""
        old = self.entries.pop(key, None)
        if old is not None:
            self.metrics[key[1]] -= 1
            if not self.metrics[key[1]]:
                del self.metrics[key[1]]
            self._unuse(old, 1)

    def _use(self, spelling: Spelling, count: int) -> None:
        if isinstance(spelling, Blackhole):
            return
        via = spelling.via if isinstance(spelling, Object) else spelling
        use = self.uses.get(via)
        if use is None:
            use = self.uses[via] = _Use(via)
            for ifindex in _links(via):
                self._links[ifindex] += 1
        use.routes += count

    def _unuse(self, spelling: Spelling, count: int) -> None:
        if isinstance(spelling, Blackhole):
            return
        via = spelling.via if isinstance(spelling, Object) else spelling
        use = self.uses[via]
        use.routes -= count
        if not use.routes:
            del self.uses[via]
            for ifindex in _links(via):
                self._links[ifindex] -= 1

    def over(self, ifindex: int) -> bool:
        """Whether a route of ours leads over a link."""
        return self._links[ifindex] > 0

    def get(self, key: FibKey) -> Forwarding | None:
        """What is installed at a key."""
        spelling = self.entries.get(key)
        return None if spelling is None else meaning(spelling)

    def canonical(self, via: Via) -> Via:
        """The one object of all equal forwardings."""
        use = self.uses.get(via)
        return via if use is None else use.via

    def spelling(self, body: rt.Body) -> Spelling:
        """How a route of ours that was read is spelled; an object of ours not yet known is adopted."""
        if body.type == rt.BLACKHOLE_TYPE:
            return BLACKHOLE
        if body.type != rt.UNICAST:
            return UNRECOGNISED
        if not body.nexthop:
            return self.canonical(Via(body.hops)) if body.plain and body.hops else UNRECOGNISED
        if (known := self.by_id.get(body.nexthop)) is not None:
            return known
        forwarding = self._nexthops.forwarding(body.nexthop)
        if forwarding is None:
            return UNRECOGNISED
        if isinstance(forwarding, Blackhole):
            return BLACKHOLE
        if not self._nexthops.is_ours(body.nexthop):
            return self.canonical(forwarding)
        return self._adopt(body.nexthop, self.canonical(forwarding))

    def _adopt(self, number: int, via: Via) -> Object:
        parts = []
        for member in self._nexthops.known[number].members:
            part = self.by_id.get(member)
            if part is None and self._nexthops.is_ours(member):
                forwarding = self._nexthops.forwarding(member)
                if isinstance(forwarding, Via):
                    part = self._adopt(member, forwarding)
            if part is not None:
                parts.append(part)
        return self.register(Object(number, via, tuple(parts)))

    def register(self, made: Object) -> Object:
        """An object of ours that new routes may be written over."""
        self.by_id[made.id] = made
        self.objects.setdefault(made.via, made)
        return made

    def forget(self, gone: Object) -> None:
        """No new route is written over an object."""
        self.by_id.pop(gone.id, None)
        if self.objects.get(gone.via) is gone:
            del self.objects[gone.via]

    def forget_ids(self, numbers: Iterable[int]) -> None:
        """Objects that are about to be removed, or that somebody changed or removed."""
        for number in numbers:
            if (gone := self.by_id.get(number)) is not None:
                self.forget(gone)

    def is_intact(self, made: Object) -> bool:
        """Whether an object is still what we made."""
        nexthop = self._nexthops.known.get(made.id)
        if nexthop is None or not nexthop.plain or not self._nexthops.is_ours(made.id):
            return False
        if made.parts:
            return nexthop.members == tuple(part.id for part in made.parts)
        return not nexthop.members and nexthop.hop == made.via.hops[0]
