"""Routes of other owners in table main, one family: what next hops resolve through, and what stands in our way.

``fib`` fills it from whole readings, ``kernel`` from events; ``nexthop_tracking`` looks up in it. They are few: a full
table of another daemon would cost memory here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from bgpd.kernel import rtnetlink as rt
from bgpd.kernel.rtnetlink import Body
from bgpd.model.prefix import Address, Family, Prefix, make_prefix
from bgpd.model.route import FibKey


class Others:
    """By prefix, each prefix's routes in the order in which the kernel takes them."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self.table: dict[Prefix, tuple[Body, ...]] = {}
        """To be read only: ``prefix in table`` is asked for every route that is written."""
        self._lengths: Counter[int] = Counter()
        self.hosts: set[Prefix] = set()
        """Prefixes that are a single address."""

    def __iter__(self) -> Iterator[tuple[Prefix, tuple[Body, ...]]]:
        return iter(self.table.items())

    def routes(self, prefix: Prefix) -> tuple[Body, ...]:
        return self.table.get(prefix, ())

    def at(self, key: FibKey) -> Body | None:
        """The first route of exactly this key."""
        for body in self.table.get(key[0], ()):
            if body.metric == key[1] and not body.tos:
                return body
        return None

    def put_route(self, prefix: Prefix, body: Body, flags: int) -> None:
        """A route was made; ``flags`` are those of the kernel's message, and say which it replaced."""
        routes = list(self.table.get(prefix, ()))
        same = [i for i, other in enumerate(routes) if (other.metric, other.tos) == (body.metric, body.tos)]
        if flags & rt.F_REPLACE and same:
            routes[same[0]] = body
        elif flags & rt.F_APPEND and same:
            routes.insert(same[-1] + 1, body)
        elif same:
            routes.insert(same[0], body)
        else:
            routes.append(body)
            routes.sort(key=_metric)
        self.assign(prefix, tuple(routes))

    def remove(self, prefix: Prefix, body: Body) -> None:
        """A route went: the one that is equal, or else the first of its key and owner."""
        routes = list(self.table.get(prefix, ()))
        if body in routes:
            routes.remove(body)
        else:
            for i, other in enumerate(routes):
                if (other.metric, other.tos, other.protocol) == (body.metric, body.tos, body.protocol):
                    hops = tuple(hop for hop in other.hops if hop not in body.hops)
                    if hops and len(hops) < len(other.hops):  # one leg of several (IPv6)
                        routes[i] = other._replace(hops=hops)
                    else:
                        del routes[i]
                    break
        self.assign(prefix, tuple(routes))

    def assign(self, prefix: Prefix, routes: tuple[Body, ...]) -> None:
        """All routes of a prefix, in their order."""
        if prefix in self.table:
            if not routes:
                del self.table[prefix]
                self._lengths[prefix[0]] -= 1
                if not self._lengths[prefix[0]]:
                    del self._lengths[prefix[0]]
                self.hosts.discard(prefix)
                return
        elif routes:
            self._lengths[prefix[0]] += 1
            if prefix[0] == self._family.bits:
                self.hosts.add(prefix)
        else:
            return
        self.table[prefix] = routes

    def replace(self, routes: Mapping[Prefix, tuple[Body, ...]]) -> set[Prefix]:
        """A whole reading. Returns the prefixes that differ."""
        changed = {prefix for prefix, old in self.table.items() if routes.get(prefix, ()) != old}
        changed.update(prefix for prefix in routes if prefix not in self.table)
        for prefix in changed:
            self.assign(prefix, routes.get(prefix, ()))
        return changed

    def drop_link(self, ifindex: int) -> set[Prefix]:
        """A link went down: the kernel silently drops IPv4 routes that led over it alone. Returns their prefixes."""
        gone = set()
        for prefix, routes in list(self.table.items()):
            kept = tuple(
                body for body in routes if not body.hops or any(hop.ifindex != ifindex for hop in body.hops)
            )
            if len(kept) != len(routes):
                self.assign(prefix, kept)
                gone.add(prefix)
        return gone

    def match(self, address: Address) -> Body | None:
        """The longest, then least-metric route to an address; routes for a TOS are left out."""
        for length in sorted(self._lengths, reverse=True):
            for body in self.table.get(make_prefix(address, length), ()):
                if not body.tos:
                    return body
        return None


def _metric(body: Body) -> int:
    return body.metric
