"""Keep an outside thing equal to what we want, without doing the work ourselves (sans-IO).

``Reconciler`` knows what is wanted, what it believes is held, and which keys may differ. The caller asks ``due(now)``
for a batch, carries it out on a ``model.status.Target``, and tells with ``done``. Whatever is learned of the outside
comes in by ``adopt`` (the first reading), ``observe`` (an event) and ``compare`` (a whole reading). The newest value of
a key wins (house rule 13); puts go before deletes, over the whole queue (rule 11); a failed key alone is retried, with
backoff (rule 10); what was adopted and is not wanted is kept until ``release`` (rule 5).

One of these a family of the kernel's routes, driven by ``daemon``.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

RETRY_FIRST, RETRY_MOST = 0.1, 30.0
"""Seconds until a failed key is tried again: doubling from the first to the most."""


@dataclass(frozen=True, slots=True)
class Batch(Generic[K, V]):
    """What to do next: puts first, then deletes."""

    puts: Mapping[K, V]
    deletes: tuple[K, ...]


class Drift(NamedTuple):
    """How a whole reading differed from what we believed to be held."""

    missing: int
    extra: int
    changed: int


class Reconciler(Generic[K, V]):
    """``kin(key)`` names what an adopted key belongs to: once a key of the same kin is put, the old one may go.

    (A route's kin is its prefix: an old route of ours with another metric is replaced, the new first.)
    """

    def __init__(self, kin: Callable[[K], Hashable], limit: int = 4096) -> None:
        self.wanted: dict[K, V] = {}
        self.held: dict[K, V] = {}
        self.errors: dict[K, str] = {}
        self.paused = False
        """While set, ``due`` gives nothing: somebody else is at work there."""
        self._kin, self._limit = kin, limit
        self._unproven: dict[Hashable, set[K]] = {}
        self._puts: dict[K, None] = {}
        self._deletes: dict[K, None] = {}
        self._retries: dict[K, tuple[int, float]] = {}
        self._in_flight: Batch[K, V] | None = None
        self._reading = False
        self._touched: set[K] = set()
        """Keys observed since the batch or the reading under way began: its word on them is not the newest."""

    def want(self, changes: Mapping[K, V | None]) -> None:
        """What is wanted from now on; ``None`` is "gone"."""
        wanted, held, puts = self.wanted, self.held, self._puts
        for key, value in changes.items():
            if value is None:
                if wanted.pop(key, None) is not None or key in held:
                    self._look(key)
            else:
                wanted[key] = value
                if self._unproven:
                    self._prove(key, held.get(key) == value)
                if held.get(key) != value or self._in_flight:
                    puts[key] = None
                    if self._retries:
                        self._retries.pop(key, None)

    def adopt(self, actual: Mapping[K, V]) -> None:
        """The first reading: all of it is ours from before, and stays until it is wanted, replaced or released."""
        self.held = dict(actual)
        for key in actual:
            if key not in self.wanted:
                self._unproven.setdefault(self._kin(key), set()).add(key)
        for key in self.wanted:
            self._look(key)

    def observe(self, changes: Mapping[K, V | None]) -> None:
        """Somebody else changed these: their value now, ``None`` is "gone"."""
        for key, value in changes.items():
            if value is None:
                self.held.pop(key, None)
            else:
                self.held[key] = value
            if self._in_flight or self._reading:
                self._touched.add(key)
            self._retries.pop(key, None)
            self._look(key)

    def begin_reading(self) -> None:
        """A whole reading starts; no batch is under way, and ``due`` gives none until ``compare``."""
        self._reading = True

    def compare(self, actual: Mapping[K, V]) -> Drift:
        """A whole reading, begun with ``begin_reading``: believe it, and put right what differs."""
        held, touched = self.held, self._touched
        missing = [key for key in held if key not in actual and key not in touched]
        extra = [key for key in actual if key not in held and key not in touched]
        changed = [
            key for key, value in actual.items() if held.get(key, value) != value and key not in touched
        ]
        self._reading = False
        touched.clear()
        for key in missing:
            del held[key]
        for key in (*extra, *changed):
            held[key] = actual[key]
        for key in (*missing, *extra, *changed):
            self._look(key)
        return Drift(len(missing), len(extra), len(changed))

    def release(self) -> int:
        """What was adopted and is still not wanted may go now. How many."""
        keys = [key for keys in self._unproven.values() for key in keys if key not in self.wanted]
        self._unproven.clear()
        for key in keys:
            self._look(key)
        return len(keys)

    def due(self, now: float) -> Batch[K, V] | None:
        """The next batch, or ``None``; only one is under way at a time."""
        if self._in_flight or self._reading or self.paused:
            return None
        if self._retries:
            for key in [key for key, (_, at) in self._retries.items() if at <= now]:
                self._look(key)
        puts: dict[K, V] = {}
        wanted, held, queue = self.wanted, self.held, self._puts
        for key in list(queue) if len(queue) <= self._limit else _first(queue, self._limit):
            del queue[key]
            value = wanted.get(key)
            if value is not None and held.get(key) != value:
                puts[key] = value
        deletes: list[K] = []
        if not queue and not puts and self._deletes:  # rule 11: a delete waits for every put
            for key in _first(self._deletes, self._limit):
                del self._deletes[key]
                if key in held and key not in wanted and not self._is_unproven(key):
                    deletes.append(key)
        if not puts and not deletes:
            return self.due(now) if queue or self._deletes else None
        self._in_flight = Batch(puts, tuple(deletes))
        return self._in_flight

    def done(self, batch: Batch[K, V], errors: Mapping[K, Exception], now: float) -> None:
        """The outcome of a batch: the keys not in ``errors`` are as asked."""
        self._in_flight = None
        held, touched = self.held, self._touched
        for key, value in batch.puts.items():
            if key not in errors and key not in touched:
                held[key] = value
        if self._unproven:
            for key in batch.puts:
                if key not in errors:
                    self._prove(key, True)
        for key in batch.deletes:
            if key not in errors and key not in touched:
                held.pop(key, None)
        if self.errors or self._retries:
            for key in (*batch.puts, *batch.deletes):
                if key not in errors:
                    self.errors.pop(key, None)
                    self._retries.pop(key, None)
        for key, error in errors.items():
            attempts = self._retries.get(key, (0, 0.0))[0]
            self.errors[key] = str(error)
            self._retries[key] = (attempts + 1, now + min(RETRY_MOST, RETRY_FIRST * 2.0 ** min(attempts, 16)))
        for key in touched:
            self._look(key)
        touched.clear()

    def next_deadline(self) -> float | None:
        """When ``due`` is next worth asking without anything new being told: a retry's time, or ``None``."""
        return min((at for _, at in self._retries.values()), default=None)

    @property
    def busy(self) -> bool:
        """Whether a batch is under way."""
        return self._in_flight is not None

    @property
    def pending(self) -> int:
        """Keys that wait for a batch, retries included."""
        return len(self._puts) + len(self._deletes) + len(self._retries)

    @property
    def kept(self) -> int:
        """Adopted keys that are not wanted and not yet released."""
        return sum(len(keys) for keys in self._unproven.values())

    def _prove(self, key: K, held: bool) -> None:
        """``key`` is wanted, so it is no leftover; once it is held, the leftovers of its kin may go."""
        kin = self._kin(key)
        if keys := self._unproven.get(kin):
            keys.discard(key)
            if held or not keys:
                del self._unproven[kin]
                for old in keys:
                    self._look(old)

    def _look(self, key: K) -> None:
        if key in self.wanted:
            self._puts[key] = None
        else:
            self._deletes[key] = None
            self._puts.pop(key, None)
            self.errors.pop(key, None) if key not in self.held else None
            self._retries.pop(key, None)

    def _is_unproven(self, key: K) -> bool:
        return bool(self._unproven) and key in self._unproven.get(self._kin(key), ())


def _first(queue: Iterable[K], limit: int) -> list[K]:
    found: list[K] = []
    for key in queue:
        if len(found) == limit:
            break
        found.append(key)
    return found
