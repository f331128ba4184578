"""Runs bgpd with a probe of its event loop: ``python -m bench.probe FILE run --config ...``.

The daemon is the same code; only the loop it is given has a timer that fires every 5 ms and counts how late it comes,
in buckets of 1 ms, into a mapped file that the benchmark reads and clears at will. The timer's own cost is under half
a percent of a core; the benchmark switches it off where it measures idleness.
"""

from __future__ import annotations

import asyncio
import mmap
import sys
import time
from pathlib import Path

EVERY = 0.005
OFF_EVERY = 1.0
BUCKETS = 5000
"""Milliseconds; what is later counts in the last."""
SIZE = 4 * (BUCKETS + 1)


class Lags:
    """The mapped file: word 0 is nonzero while the probe is on, word 1 + k counts wake-ups k ms late."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(SIZE))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), SIZE)
        self.words = memoryview(self._map).cast("I")

    @property
    def on(self) -> bool:
        return self.words[0] != 0

    def count(self, seconds: float) -> None:
        """One wake-up that came ``seconds`` late."""
        self.words[1 + min(BUCKETS - 1, int(seconds * 1000))] += 1

    def clear(self, on: bool) -> None:
        """Forgets all; counts from now on, or not."""
        self._map[:] = bytes(SIZE)
        self.words[0] = int(on)

    def quantile(self, fraction: float) -> float | None:
        """Whole milliseconds within which this fraction of the wake-ups came; ``None`` without any."""
        counts = self.words[1:].tolist()
        total, seen = sum(counts), 0
        for bucket, number in enumerate(counts):
            seen += number
            if number and seen >= fraction * total:
                return float(bucket + 1)
        return None

    def close(self) -> None:
        self.words.release()
        self._map.close()


def _loop(lags: Lags) -> asyncio.AbstractEventLoop:
    loop = asyncio.SelectorEventLoop()

    def wake(due: float) -> None:
        now = time.monotonic()
        every = EVERY if lags.on else OFF_EVERY
        if lags.on and due:
            lags.count(max(0.0, now - due))
        loop.call_at(now + every, wake, now + every if lags.on else 0.0)

    loop.call_soon(wake, 0.0)
    return loop


def main() -> None:
    """Gives every event loop of this process the probe, then is ``bgpd`` with the further arguments."""
    lags = Lags(Path(sys.argv[1]))

    class Policy(asyncio.DefaultEventLoopPolicy):
        def new_event_loop(self) -> asyncio.AbstractEventLoop:
            return _loop(lags)

    asyncio.set_event_loop_policy(Policy())
    from bgpd.cli.daemon import main as bgpd  # only now: what the daemon imports is timed with it

    sys.argv[:2] = ["bgpd"]
    sys.exit(bgpd())


if __name__ == "__main__":
    main()
