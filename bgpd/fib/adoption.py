"""What a start finds of ours from before: kept until it is wanted, replaced, or the start is over (house rule 5).

``Adopted`` is part of ``delta``: keys that are installed, that nobody wants, and that nothing spoke against yet.
``WideRoutes`` is part of ``programmer``: a route of before that shares traffic between several hops keeps them until
all are learned again, or the start is over. Otherwise the hop that is learned first had all the traffic for a while.
(RFC 4724 §4.1 would have us wait with every decision; but what is wanted instead of such a route, rather than less of
it, is done at once.) Both are pure.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Generic, TypeVar

from bgpd.model.route import FibKey, Forwarding, Via

K = TypeVar("K", bound=Hashable)


class Adopted(Generic[K]):
    """``group(key)`` names what a key belongs to: once a key of the same group is installed as wanted, the adopted ones
    of that group may go. (A route's group is its prefix: an old route of ours with another metric is replaced, the new
    one first.) Falsy while nothing is adopted."""

    def __init__(self, group: Callable[[K], Hashable]) -> None:
        self._group = group
        self._released = False
        self._keys: dict[Hashable, tuple[K, ...]] = {}
        """The adopted keys of each group."""

    def __bool__(self) -> bool:
        return bool(self._keys)

    def __len__(self) -> int:
        return sum(len(keys) for keys in self._keys.values())

    def __contains__(self, key: K) -> bool:
        return bool(self._keys) and key in self._keys.get(self._group(key), ())

    def adopt(self, key: K) -> None:
        """The key is installed and not wanted."""
        if self._released:
            return
        group = self._group(key)
        known = self._keys.get(group, ())
        if key not in known:
            self._keys[group] = (*known, key)

    def settle(self, key: K, replaced: bool) -> tuple[K, ...]:
        """The key is wanted or gone, so it is adopted no longer. ``replaced``: it is installed as wanted. Returns the
        keys that are adopted no longer because of that."""
        group = self._group(key)
        known = self._keys.get(group)
        if known is None:
            return ()
        rest = tuple(other for other in known if other != key)
        if replaced or not rest:
            del self._keys[group]
            return rest
        self._keys[group] = rest
        return ()

    def release(self) -> list[K]:
        """The start is over: nothing is adopted any more, now or later. What was."""
        self._released = True
        keys = [key for keys in self._keys.values() for key in keys]
        self._keys.clear()
        return keys


class WideRoutes:
    """Falsy once the start is over. Each method returns what is wanted of the programmer's ``Delta`` after it."""

    def __init__(self) -> None:
        self._wide: dict[FibKey, Via] = {}
        """Routes of before with several hops that are not wanted whole yet."""
        self._narrower: dict[FibKey, Via] = {}
        """What is wanted in place of some of them: fewer of their hops."""

    def __bool__(self) -> bool:
        return bool(self._wide)

    def adopt(self, key: FibKey, value: Forwarding | None) -> None:
        """A route of before."""
        if type(value) is Via and len(value.hops) > 1:
            self._wide[key] = value

    def keep(self, changes: Mapping[FibKey, Forwarding | None]) -> Mapping[FibKey, Forwarding | None]:
        """Changes less those that only take hops away from a route of before."""
        known = self._wide.keys() & changes.keys()
        if not known:
            return changes
        passed = dict(changes)
        for key in known:
            value = changes[key]
            if isinstance(value, Via) and set(value.hops) < set(self._wide[key].hops):
                self._narrower[key] = value
                del passed[key]
            else:
                del self._wide[key]
                self._narrower.pop(key, None)
        return passed

    def installed(self, changes: Mapping[FibKey, Forwarding | None]) -> Mapping[FibKey, Forwarding | None]:
        """These are installed now, by somebody else: what is no longer as before is kept wide no longer."""
        known = self._wide.keys() & changes.keys()
        return self._narrow([key for key in known if changes[key] != self._wide[key]])

    def release(self) -> Mapping[FibKey, Forwarding | None]:
        """The start is over: nothing is kept wide."""
        return self._narrow(list(self._wide))

    def _narrow(self, keys: Iterable[FibKey]) -> dict[FibKey, Forwarding | None]:
        wanted: dict[FibKey, Forwarding | None] = {}
        for key in keys:
            self._wide.pop(key, None)
            if (value := self._narrower.pop(key, None)) is not None:
                wanted[key] = value
        return wanted
