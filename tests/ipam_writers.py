"""Processes that allocate and release at once, over any store, and are killed at any moment: what they had printed as
theirs stays theirs, once; nothing is lost that the next call or the sweep does not find."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from bgpd.datastore.store import Executor, Store
from bgpd.model.ipam import Kind
from bgpd.rules.ipam.garbage import sweep
from bgpd.rules.ipam.release import release_handle
from tests.unit.ipam_ground import Memory, in_use, sound

WRITER = """
import sys, time
from bgpd.config.reading import parse
from bgpd.datastore.allocator import store_of
from bgpd.datastore.store import Executor
from bgpd.model.ipam import StoreFailed
from bgpd.rules.ipam.assign import Request, assign
from bgpd.rules.ipam.release import release_handle
configuration, name, node, turns, keep = sys.argv[1:]
run = Executor(store_of(parse(configuration, "test"))).run
for turn in range(int(turns)):
    request = Request(node, f"net.{name}-{turn}", ipv4=1, secondary={"node": node, "interface": "eth0"})
    try:
        found = run(assign(request, time.time_ns()))
        print("+", request.handle, found[0].address, flush=True)
        if turn % int(keep):
            print("-", request.handle, flush=True)
            run(release_handle(request.handle, node, time.time_ns()))
    except StoreFailed as error:  # a busy server: the pod has no address, and its runtime's DEL comes later
        print("?", error, flush=True)
"""
NODES = [f"node-{letter}" for letter in "abcde"]
POOL = "10.48.0.0/20"
KINDS = (Kind.POOL, Kind.NODE, Kind.BLOCK, Kind.AFFINITY, Kind.HANDLE)


class Size(NamedTuple):
    """Of one run: processes at a time, allocations in all, how many of the processes are killed, and its end."""

    writers: int
    allocations: int
    kills: int
    seconds: float


WHOLE = Size(20, int(os.environ["ALLOCATIONS"]), 40, 1200.0) if "ALLOCATIONS" in os.environ else None
"""The size that was asked for (``make cluster-test ALLOCATIONS=10000``); otherwise each test has a small one."""


def resources(block_size: int = 26 if WHOLE else 27) -> list[dict[str, Any]]:
    """What the store must have before: a pool and the writers' nodes."""
    v3 = "projectcalico.org/v3"
    pool = {"cidr": POOL, "blockSize": block_size}
    return [
        {"apiVersion": v3, "kind": "IPPool", "metadata": {"name": "p"}, "spec": pool},
        *({"apiVersion": v3, "kind": "Node", "metadata": {"name": name}, "spec": {}} for name in NODES),
    ]


class Outcome(NamedTuple):
    """What was done, and how long it took."""

    allocated: int
    released: int
    killed: int
    failed: int
    """Where the store did not answer in time."""
    seconds: float

    def __str__(self) -> str:
        rate = (self.allocated + self.released) / self.seconds
        return (
            f"{self.allocated} allocations and {self.released} releases, {self.killed} writers killed, "
            f"{self.failed} times no answer of the store, "
            f"in {self.seconds:.0f} s ({rate:.0f}/s)"
        )


def work_and_check(store: Store, configuration: str, directory: Path, size: Size) -> Outcome:
    """Lets processes allocate until so many allocations were printed, and kills some of them on the way; then checks
    what the store has. Two of three are released, of many nine of ten."""
    writers, allocations, kills, seconds = size
    keep = 3 if allocations < 1000 else 10
    draw = random.Random(7)
    running: dict[int, subprocess.Popen[bytes]] = {}
    outputs: list[Path] = []
    killed = 0
    began = time.monotonic()

    def start(place: int) -> None:
        outputs.append(directory / f"writer-{len(outputs)}.out")
        with outputs[-1].open("wb") as out:
            words = [configuration, outputs[-1].stem, NODES[place % len(NODES)], str(allocations), str(keep)]
            running[place] = subprocess.Popen([sys.executable, "-c", WRITER, *words], stdout=out)

    def printed(sign: bytes) -> int:
        return sum(path.read_bytes().count(sign) for path in outputs)

    try:
        for place in range(writers):
            start(place)
        while (done := printed(b"+ ")) < allocations:
            assert time.monotonic() - began < seconds, f"{done} allocations in {seconds} s"
            for place, process in running.items():
                assert process.poll() is None, f"a writer of {NODES[place % len(NODES)]} ended by itself"
            if killed < kills and done >= allocations * (killed + 1) / (kills + 1):
                place = draw.randrange(writers)
                _kill(running.pop(place))
                killed += 1
                start(place)
            time.sleep(0.02)
    finally:
        took = time.monotonic() - began
        for process in running.values():
            _kill(process)
    words = [
        line.split()
        for path in outputs
        for line in path.read_text().splitlines(keepends=True)
        if line.endswith("\n")
    ]
    failed = sum(word[0] == "?" for word in words)
    given_back = {word[1] for word in words if word[0] == "-"}
    kept = {word[2]: word[1] for word in words if word[0] == "+" and word[1] not in given_back}
    still = Counter(word[2] for word in words if word[0] == "+" and word[1] not in given_back)
    assert max(still.values()) == 1, "an address was given out twice"
    _check(store, kept)
    return Outcome(sum(word[0] == "+" for word in words), len(given_back), killed, failed, took)


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def _memory(store: Store) -> Memory:
    return Memory(stored.value for kind in KINDS for stored in store.list(kind))


def _check(store: Store, kept: dict[str, str]) -> None:
    """``kept``: the handle that each address is of, by what was printed."""
    before = _memory(store)
    sound(before)
    used = in_use(before)
    assert {text: used.get(text) for text in kept} == kept, "what was given out is on record"
    # The runtimes of the dead give back what was under way, and the sweep does the rest.
    run: Callable[..., Any] = Executor(store).run
    for handle in set(used.values()) - set(kept.values()):
        run(release_handle(handle, NODES[0], time.time_ns()))
    suspects: Any = {}
    for turn in range(3):
        suspects = run(sweep(suspects, time.time_ns() + turn * 10**12)).suspects
    after = _memory(store)
    sound(after, settled=True)
    assert in_use(after) == kept, "and nothing else is"
