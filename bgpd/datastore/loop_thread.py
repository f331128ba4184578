"""An event loop in a thread of its own, for those who ask a server from threads or have no loop at all."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from bgpd.model.ipam import StoreFailed

T = TypeVar("T")
TIMEOUT = 30.0
"""Seconds for one answer; the clients' own limits are lower."""


class LoopThread:
    """Runs coroutines; ``close`` ends the thread."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Its result, from any other thread. Raises what it raises, and ``StoreFailed`` where it takes too long."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(TIMEOUT)
        except TimeoutError:
            future.cancel()
            raise StoreFailed(f"no answer within {TIMEOUT:g} s") from None
