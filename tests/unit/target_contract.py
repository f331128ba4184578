"""What ``fib.delta`` relies on of a Target: a suite for the fake and for the real thing (house rule 15).

Subclass ``TargetContract`` in a test module and say how to make the target and how somebody else changes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

from bgpd.fib.delta import Differences, Target

K = TypeVar("K")
V = TypeVar("V")


class MemoryInstalled(dict[K, V]):
    """What a ``MemoryTarget`` believes to be there."""

    @property
    def entries(self) -> Mapping[K, V]:
        return self


class MemoryTarget(Generic[K, V]):
    """A Target in memory. ``refuse``: keys that fail, with their error. ``log``: each put and delete in order.

    ``state`` is what is there; ``installed`` follows it by its own writes, by ``hear`` and by ``resync``.
    """

    def __init__(self, state: Mapping[K, V] | None = None) -> None:
        self.state: dict[K, V] = dict(state or {})
        self.installed: MemoryInstalled[K, V] = MemoryInstalled(self.state)
        self.refuse: dict[K, Exception] = {}
        self.log: list[tuple[str, K]] = []

    async def resync(self) -> Differences[K]:
        return self.resync_now()

    async def apply(self, puts: Mapping[K, V], deletes: Iterable[K]) -> Mapping[K, Exception]:
        return self.apply_now(puts, deletes)

    def hear(self, changes: Mapping[K, V | None]) -> Iterable[K]:
        """Word of what somebody else did: the value now of each key; ``None`` is "gone". The keys."""
        for key, value in changes.items():
            self.installed.pop(key, None)
            if value is not None:
                self.installed[key] = value
        return changes.keys()

    def resync_now(self) -> Differences[K]:
        """``resync``, for tests that are not asynchronous."""
        before, now = self.installed.copy(), self.state
        self.installed.clear()
        self.installed.update(now)
        return Differences(
            tuple(key for key in before if key not in now),
            tuple(key for key in now if key not in before),
            tuple(key for key in now if key in before and before[key] != now[key]),
        )

    def apply_now(self, puts: Mapping[K, V], deletes: Iterable[K]) -> dict[K, Exception]:
        """``apply``, for tests that are not asynchronous."""
        errors: dict[K, Exception] = {}
        for key, value in puts.items():
            self.log.append(("put", key))
            if key in self.refuse:
                errors[key] = self.refuse[key]
            else:
                self.state[key] = self.installed[key] = value
        for key in deletes:
            self.log.append(("delete", key))
            if key in self.refuse:
                errors[key] = self.refuse[key]
            else:
                self.state.pop(key, None)
                self.installed.pop(key, None)
        return errors


async def contents(target: Target[K, V]) -> dict[K, V]:
    """All that is there, by a whole reading."""
    await target.resync()
    found = {key: target.installed.get(key) for key in target.installed.entries}
    return {key: value for key, value in found.items() if value is not None}


class TargetContract(Generic[K, V]):
    """Values read back equal what was put, puts create and replace, a delete of what is gone is no error, and a key
    that fails fails alone."""

    async def make_target(self) -> Target[K, V]:
        """A target that holds nothing."""
        raise NotImplementedError

    def entries(self) -> dict[K, V]:
        """At least four keys with values it can hold."""
        raise NotImplementedError

    def other_value(self) -> V:
        """A value that is none of ``entries``."""
        raise NotImplementedError

    async def break_key(self, target: Target[K, V], key: K) -> None:
        """Make puts of a key fail from now on."""
        raise NotImplementedError

    async def remove_behind(self, target: Target[K, V], key: K) -> None:
        """Somebody else deletes a key."""
        raise NotImplementedError

    async def test_holds_nothing_at_first(self) -> None:
        target = await self.make_target()
        assert await contents(target) == {}
        assert not await target.apply({}, ())

    async def test_reads_back_what_was_put(self) -> None:
        target, entries = await self.make_target(), self.entries()
        assert not await target.apply(entries, ())
        assert await contents(target) == entries

    async def test_a_reading_says_what_differs(self) -> None:
        target, entries = await self.make_target(), self.entries()
        await target.apply(entries, ())
        assert not (await target.resync()).keys
        key = next(iter(entries))
        await self.remove_behind(target, key)
        heard = key not in target.installed.entries
        assert await target.resync() == Differences(missing=() if heard else (key,))
        assert key not in target.installed.entries

    async def test_puts_replace(self) -> None:
        target, entries = await self.make_target(), self.entries()
        await target.apply(entries, ())
        key = next(iter(entries))
        assert not await target.apply({key: self.other_value()}, ())
        assert await contents(target) == entries | {key: self.other_value()}
        assert not await target.apply(entries, ()), "what is there already is no error"
        assert await contents(target) == entries

    async def test_puts_and_deletes_in_one_call(self) -> None:
        target, entries = await self.make_target(), self.entries()
        first, second, *_ = entries
        await target.apply({first: entries[first]}, ())
        assert not await target.apply({second: entries[second]}, [first])
        assert await contents(target) == {second: entries[second]}

    async def test_deleting_what_is_gone_is_no_error(self) -> None:
        target, entries = await self.make_target(), self.entries()
        await target.apply(entries, ())
        key = next(iter(entries))
        await self.remove_behind(target, key)
        assert not await target.apply({}, entries)
        assert await contents(target) == {}
        assert not await target.apply({}, entries)

    async def test_what_somebody_else_deleted_can_be_put_again(self) -> None:
        target, entries = await self.make_target(), self.entries()
        await target.apply(entries, ())
        key = next(iter(entries))
        await self.remove_behind(target, key)
        assert key not in await contents(target)
        assert not await target.apply({key: entries[key]}, ())
        assert await contents(target) == entries

    async def test_a_key_that_fails_fails_alone(self) -> None:
        target, entries = await self.make_target(), self.entries()
        first, broken, last, *_ = entries
        await target.apply({first: entries[first]}, ())
        await self.break_key(target, broken)
        errors = await target.apply({broken: entries[broken], last: entries[last]}, [first])
        assert set(errors) == {broken}
        assert isinstance(errors[broken], Exception)
        assert await contents(target) == {last: entries[last]}
