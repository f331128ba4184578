"""Keys whose write failed: why, how often, and when each is tried again (house rule 10). Pure; part of ``delta``."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

FIRST_SECONDS, MOST_SECONDS = 0.1, 30.0
"""Seconds until a failed key is tried again: doubling from the first to the most."""


class Retries(Generic[K]):
    """Falsy while no key has failed."""

    def __init__(self) -> None:
        self.errors: dict[K, str] = {}
        """Why each key failed the last time."""
        self._failures: dict[K, int] = {}
        """How often each key failed since it last succeeded or was changed."""
        self._resting: dict[K, float] = {}
        """Keys that are not yet tried again, and until when."""
        self._timers: dict[float, list[K]] = {}
        """The same by time; a key that no longer rests may still be listed."""

    def __bool__(self) -> bool:
        return bool(self._failures)

    @property
    def resting(self) -> int:
        """How many keys are not yet tried again."""
        return len(self._resting)

    def failed(self, key: K, error: Exception, now: float) -> None:
        """A write of the key failed at ``now``, in seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        self.errors[key] = str(error)
        at = now + min(MOST_SECONDS, FIRST_SECONDS * 2.0 ** min(failures, 16))
        self._resting[key] = at
        self._timers.setdefault(at, []).append(key)

    def clear_failure(self, key: K) -> None:
        """The key succeeded, or something else is wanted or installed of it: the next failure is the first."""
        if self._failures.pop(key, None):
            self._resting.pop(key, None)
            self.errors.pop(key, None)

    def take_due(self, now: float) -> list[K]:
        """Keys that rest no longer."""
        due: list[K] = []
        for at in [at for at in self._timers if at <= now]:
            for key in self._timers.pop(at):
                if self._resting.get(key) == at:
                    del self._resting[key]
                    due.append(key)
        return due

    def next_deadline(self) -> float | None:
        """When ``take_due`` is next worth asking."""
        return min(self._timers, default=None)
