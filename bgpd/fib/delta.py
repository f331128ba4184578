"""What is wanted, what is installed, and the difference between them, without doing the work ourselves (sans-IO).

The caller asks ``due(now)`` for a batch, carries it out on a ``Target``, and says with ``batch_done`` how that went.
The newest value of a key wins (house rule 13); puts go before deletes, over the whole queue (rule 11); a failed key
alone is retried, with backoff (``retry``, rule 10); what was there before and is not wanted is kept until ``release``
(``adoption``, rule 5). One of these for each family of the kernel's routes, driven by ``programmer``.

What is installed is stored once, by the target, which learns of it from its own writes, from events and from whole
readings. ``Delta`` only asks, and learns by ``recheck`` which keys somebody else changed. The invariant: a key whose
wanted and installed values differ is queued, in the batch under way, to be rechecked, resting after a failure, or
adopted. So when nothing is pending and nothing is adopted, wanted and installed are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from bgpd.fib.adoption import Adopted
from bgpd.fib.retry import Retries

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
V_co = TypeVar("V_co", covariant=True)

HOLD_BACK_SECONDS, HOLD_BACK_MOST = 1.0, 1 << 13
"""Seconds that deletes wait for puts that are still on their way, and how many of them do."""


class Installed(Protocol[K, V_co]):
    """What a target has of ours, as it knows; live."""

    @property
    def entries(self) -> Mapping[K, Any]:
        """Each key that is there; the values are in the target's own spelling."""

    def get(self, key: K) -> V_co | None:
        """The value at a key; ``None`` where nothing is there."""


class Differences(NamedTuple, Generic[K]):
    """How a whole reading differed from what the target believed to be there."""

    missing: tuple[K, ...] = ()
    extra: tuple[K, ...] = ()
    changed: tuple[K, ...] = ()

    @property
    def keys(self) -> tuple[K, ...]:
        """All of them."""
        return *self.missing, *self.extra, *self.changed


class Target(Protocol[K, V]):
    """An outside thing that is kept equal to what is wanted."""

    @property
    def installed(self) -> Installed[K, V]:
        """What is there of ours. While an ``apply`` is under way, keys of it may be there already or not yet."""

    async def resync(self) -> Differences[K]:
        """Read all that is there, now; ``installed`` is that afterwards. Never runs beside ``apply``."""

    async def apply(self, puts: Mapping[K, V], deletes: Iterable[K]) -> Mapping[K, Exception]:
        """Put (create or replace), then delete. Returns the keys that failed, each with why; never raises for a key.
        Afterwards ``installed`` has the other keys as asked."""


@dataclass(frozen=True, slots=True)
class Batch(Generic[K, V]):
    """What to do next: puts first, then deletes."""

    puts: Mapping[K, V]
    deletes: tuple[K, ...]


class Delta(Generic[K, V]):
    """``group``: see ``adoption.Adopted``. ``limit``: the most puts, and the most deletes, of a batch."""

    def __init__(
        self, installed: Installed[K, V], group: Callable[[K], Hashable], limit: int = 16384
    ) -> None:
        self.wanted: dict[K, V] = {}
        self.installed = installed
        self.paused = False
        """While set, ``due`` gives nothing: somebody else is at work there."""
        self.unsettled = False
        """While set, more is on its way to ``want``: deletes wait for it, ``HOLD_BACK_SECONDS`` at most."""
        self._limit = limit
        self._entries = installed.entries
        self._adopted: Adopted[K] = Adopted(group)
        self._retries: Retries[K] = Retries()
        self._held_back_since: float | None = None
        self._puts: dict[K, V] = {}
        """What is wanted and differs from what is installed, oldest first."""
        self._recheck: dict[K, None] = {}
        """Keys of which wanted and installed are to be compared again."""
        self._deletes: set[K] = set()
        """Keys that may be installed and are not wanted; they wait for the last put, and go in any order."""
        self._in_flight: Batch[K, V] | None = None
        self._deletes_in_flight: frozenset[K] | None = None
        """Those of the batch under way, made when first asked for."""

    def want(self, changes: Mapping[K, V | None]) -> None:
        """What is wanted from now on; ``None`` is "gone"."""
        gone = sum(value is None for value in changes.values())
        if gone == len(changes):
            self._want_gone(changes)
        elif not gone and self._entries.keys().isdisjoint(changes):
            self.wanted.update(changes)  # type: ignore[arg-type]  # none of the values is None
            self._puts.update(changes)  # type: ignore[arg-type]
            self._deletes.difference_update(changes)
        else:
            self._want_each(changes)
        if self._retries:
            for key in changes:
                self._retries.clear_failure(key)
        if self._adopted:
            for key, value in changes.items():
                if value is not None:
                    self._settle(key, self.installed.get(key) == value)

    def _want_each(self, changes: Mapping[K, V | None]) -> None:
        wanted, entries, puts, deletes = self.wanted, self._entries, self._puts, self._deletes
        installed = self.installed.get
        puts_in_flight = self._in_flight.puts if self._in_flight else {}
        leaving = self._leaving()
        for key, value in changes.items():
            if value is None:
                wanted.pop(key, None)
                puts.pop(key, None)
                if key in entries or key in puts_in_flight:
                    deletes.add(key)
            else:
                wanted[key] = value
                deletes.discard(key)
                now = installed(key)
                if (
                    now is None
                    or key in puts_in_flight
                    or key in leaving
                    or (now is not value and now != value)
                ):
                    puts[key] = value
                else:
                    puts.pop(key, None)

    def _want_gone(self, keys: Iterable[K]) -> None:
        """``_want_each`` of nothing but "gone"."""
        for table in (self.wanted, self._puts):
            if table:
                forget = table.pop
                for key in keys:
                    forget(key, None)
        self._deletes.update(filter(self._entries.__contains__, keys))
        if self._in_flight:
            self._deletes.update(filter(self._in_flight.puts.__contains__, keys))

    def adopt(self, keys: Iterable[K]) -> None:
        """These were installed before anything was wanted: they are ours from before, and stay until they are wanted,
        replaced or released."""
        for key in keys:
            self._adopted.adopt(key)

    def recheck(self, keys: Iterable[K]) -> None:
        """Somebody else changed what is installed at these keys, or a reading found them to be different."""
        for key in keys:
            if key not in self._entries:
                self._settle(key, False)
            elif key not in self.wanted:
                self._adopted.adopt(key)
            self._retries.clear_failure(key)
            self._recheck[key] = None

    def release(self) -> int:
        """What was adopted and is still not wanted may go now. How many."""
        keys = self._adopted.release()
        self._recheck.update(dict.fromkeys(keys))
        return len(keys)

    def due(self, now: float) -> Batch[K, V] | None:
        """The next batch, or ``None``; only one is under way at a time."""
        if self._in_flight or self.paused:
            return None
        self._compare(now)
        puts = self._puts
        if len(puts) <= self._limit:
            self._puts = {}
        else:
            puts = dict(islice(puts.items(), self._limit))
            for key in puts:
                del self._puts[key]
        deletes = self._due_deletes(now)
        if not puts and not deletes:
            return None
        self._in_flight, self._deletes_in_flight = Batch(puts, deletes), None
        return self._in_flight

    def _compare(self, now: float) -> None:
        """Keys to be rechecked, and those that rest no longer, go where they belong."""
        self._recheck.update(dict.fromkeys(self._retries.take_due(now)))
        keys, self._recheck = self._recheck, {}
        for key in keys:
            value, installed = self.wanted.get(key), self.installed.get(key)
            if value is None and installed is not None:
                self._puts.pop(key, None)
                self._deletes.add(key)
                continue
            self._deletes.discard(key)
            if value is not None and installed is not value and installed != value:
                self._puts[key] = value
                continue
            self._puts.pop(key, None)
            self._retries.clear_failure(key)

    def _due_deletes(self, now: float) -> tuple[K, ...]:
        deletes: list[K] = []
        # House rule 11: every put goes first.
        while self._deletes and not self._puts and len(deletes) < self._limit and not self._hold_back(now):
            asked = list(islice(self._deletes, self._limit - len(deletes)))
            if len(asked) == len(self._deletes):
                self._deletes = set()
            else:
                self._deletes.difference_update(asked)
            deletes += [key for key in asked if key not in self._adopted] if self._adopted else asked
        if not self._deletes:
            self._held_back_since = None
        return tuple(deletes)

    def batch_done(self, batch: Batch[K, V], errors: Mapping[K, Exception], now: float) -> None:
        """The outcome of a batch: the keys not in ``errors`` are as asked."""
        self._in_flight = None
        if self._retries:
            for key in (*batch.puts, *batch.deletes):
                if key not in errors:
                    self._retries.clear_failure(key)
        if self._adopted:
            for key in batch.puts:
                if key not in errors:
                    self._settle(key, True)
        for key, error in errors.items():
            if (key in batch.puts) == (key in self.wanted):
                self._retries.failed(key, error, now)
            else:  # meanwhile the contrary is wanted
                self._recheck[key] = None

    def next_deadline(self) -> float | None:
        """When ``due`` is next worth asking without anything new: a retry's time, or ``None``."""
        if self._in_flight or self.paused:
            return None
        first = self._retries.next_deadline()
        if self._held_back_since is None:
            return first
        until = self._held_back_since + HOLD_BACK_SECONDS
        return until if first is None else min(first, until)

    @property
    def errors(self) -> Mapping[K, str]:
        """Keys that failed, each with why the last time."""
        return self._retries.errors

    @property
    def pending(self) -> int:
        """Keys that wait for a batch, retries included."""
        return len(self._puts) + len(self._recheck) + len(self._deletes) + self._retries.resting

    @property
    def queued(self) -> int:
        """Keys that wait for their turn to be put."""
        return 0 if self.paused else len(self._puts)

    @property
    def adopted(self) -> int:
        """Keys that are installed from before, not wanted and not yet released."""
        return len(self._adopted)

    def _leaving(self) -> frozenset[K]:
        """What the batch under way deletes."""
        if self._in_flight is None or not self._in_flight.deletes:
            return frozenset()
        if self._deletes_in_flight is None:
            self._deletes_in_flight = frozenset(self._in_flight.deletes)
        return self._deletes_in_flight

    def _hold_back(self, now: float) -> bool:
        """Whether deletes wait, since a put that should go first may still come (rule 11)."""
        if not self.unsettled or len(self._deletes) >= HOLD_BACK_MOST:
            self._held_back_since = None
            return False
        if self._held_back_since is None:
            self._held_back_since = now
        return now < self._held_back_since + HOLD_BACK_SECONDS

    def _settle(self, key: K, replaced: bool) -> None:
        """The key is wanted, or gone; what was adopted beside it may go once it is installed."""
        if self._adopted:
            self._recheck.update(dict.fromkeys(self._adopted.settle(key, replaced)))
