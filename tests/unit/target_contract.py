"""What ``fib.delta`` relies on of a Target: a suite for the fake and for the real thing (house rule 15).

Subclass ``TargetContract`` in a test module and say how to make the target and how somebody else changes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

from bgpd.model.status import Target

K = TypeVar("K")
V = TypeVar("V")


class MemoryTarget(Generic[K, V]):
    """A Target in memory. ``refuse``: keys that fail, with their error. ``log``: each put and delete in order."""

    def __init__(self) -> None:
        self.state: dict[K, V] = {}
        self.refuse: dict[K, Exception] = {}
        self.log: list[tuple[str, K]] = []

    async def read(self) -> dict[K, V]:
        return self.read_now()

    async def apply(self, puts: Mapping[K, V], deletes: Iterable[K]) -> Mapping[K, Exception]:
        return self.apply_now(puts, deletes)

    def read_now(self) -> dict[K, V]:
        """``read``, for tests that are not asynchronous."""
        return dict(self.state)

    def apply_now(self, puts: Mapping[K, V], deletes: Iterable[K]) -> dict[K, Exception]:
        """``apply``, for tests that are not asynchronous."""
        errors: dict[K, Exception] = {}
        for key, value in puts.items():
            self.log.append(("put", key))
            if key in self.refuse:
                errors[key] = self.refuse[key]
            else:
                self.state[key] = value
        for key in deletes:
            self.log.append(("delete", key))
            if key in self.refuse:
                errors[key] = self.refuse[key]
            else:
                self.state.pop(key, None)
        return errors


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
        assert await target.read() == {}
        assert not await target.apply({}, ())

    async def test_reads_back_what_was_put(self) -> None:
        target, entries = await self.make_target(), self.entries()
        assert not await target.apply(entries, ())
        assert await target.read() == entries

    async def test_puts_replace(self) -> None:
        target, entries = await self.make_target(), self.entries()
        await target.apply(entries, ())
        key = next(iter(entries))
        assert not await target.apply({key: self.other_value()}, ())
        assert await target.read() == entries | {key: self.other_value()}
        assert not await target.apply(entries, ()), "what is there already is no error"
        assert await target.read() == entries

    async def test_puts_and_deletes_in_one_call(self) -> None:
        target, entries = await self.make_target(), self.entries()
        first, second, *_ = entries
        await target.apply({first: entries[first]}, ())
        assert not await target.apply({second: entries[second]}, [first])
        assert await target.read() == {second: entries[second]}

    async def test_deleting_what_is_gone_is_no_error(self) -> None:
        target, entries = await self.make_target(), self.entries()
        await target.apply(entries, ())
        key = next(iter(entries))
        await self.remove_behind(target, key)
        assert not await target.apply({}, entries)
        assert await target.read() == {}
        assert not await target.apply({}, entries)

    async def test_what_somebody_else_deleted_can_be_put_again(self) -> None:
        target, entries = await self.make_target(), self.entries()
        await target.apply(entries, ())
        key = next(iter(entries))
        await self.remove_behind(target, key)
        assert key not in await target.read()
        assert not await target.apply({key: entries[key]}, ())
        assert await target.read() == entries

    async def test_a_key_that_fails_fails_alone(self) -> None:
        target, entries = await self.make_target(), self.entries()
        first, broken, last, *_ = entries
        await target.apply({first: entries[first]}, ())
        await self.break_key(target, broken)
        errors = await target.apply({broken: entries[broken], last: entries[last]}, [first])
        assert set(errors) == {broken}
        assert isinstance(errors[broken], Exception)
        assert await target.read() == {last: entries[last]}
