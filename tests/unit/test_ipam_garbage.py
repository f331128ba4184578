"""Two nodes and one lease: who sweeps, who takes over, and what goes when (simulated time)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bgpd.config.reading import parse
from bgpd.daemon.garbage import LEASE, LEASE_SECONDS, Collector
from bgpd.datastore.files_store import FilesStore
from bgpd.datastore.store import Executor, Store
from bgpd.model.ipam import SECOND, Cluster, Conflict, Handle, Kind, Lease, Ref, Stored, StoreFailed
from bgpd.rules.ipam.assign import assign
from bgpd.rules.ipam.lease import hold
from tests.unit.ipam_ground import NOW, Memory, ask, in_use, node, pool, sound

AFTER = 900.0


@dataclass
class Time:
    """Seconds since ``NOW``; each node's wall clock is off by its own."""

    passed: float = 0.0

    def elapsed(self) -> int:
        return int(self.passed * SECOND)

    def clock(self, off: float = 0.0) -> Callable[[], int]:
        return lambda: NOW + int((self.passed + off) * SECOND)


class Ground:
    def __init__(self, store: Any) -> None:
        self.store, self.time = store, Time()
        self.nodes = {
            name: Collector(
                Executor(store, patience=0.0),
                name,
                AFTER,
                clock=self.time.clock(off),
                elapsed=self.time.elapsed,
            )
            for name, off in (("node-a", 0.0), ("node-b", -86_400.0))
        }

    def run(self, seconds: float, *names: str) -> list[str]:
        """Turns of some nodes, every 20 seconds; what they removed."""
        done: list[str] = []
        for _ in range(int(seconds // 20)):
            self.time.passed += 20
            for name in names or self.nodes:
                done += self.nodes[name].turn()
                assert sum(one.holds for one in self.nodes.values()) <= 1
        return done

    def holder(self) -> str:
        lease: Lease = self.store.get(Ref(Kind.LEASE, LEASE)).value
        return lease.holder


@pytest.fixture
def ground() -> Ground:
    memory = Memory([pool(), node("node-a"), node("node-b"), node("node-c")])
    for name in ("node-a", "node-b", "node-c"):
        memory.run(assign(ask(name, name), NOW))
    return Ground(memory)


def test_one_of_two_holds_the_lease_and_keeps_it(ground: Ground) -> None:
    ground.run(600)
    assert ground.holder() == "node-a"
    assert [one.holds for one in ground.nodes.values()] == [True, False]


def test_the_other_takes_over_when_the_lease_runs_out_by_its_own_clock(ground: Ground) -> None:
    """A day between their clocks changes nothing."""
    ground.run(100)
    ground.nodes["node-a"].holds = False  # it is dead
    ground.run(LEASE_SECONDS - 20, "node-b")
    assert ground.holder() == "node-a"
    ground.run(20, "node-b")
    assert ground.holder() == "node-b"
    ground.run(20, "node-a")
    assert ground.holder() == "node-b" and not ground.nodes["node-a"].holds


def test_two_that_take_it_at_once_are_one(ground: Ground) -> None:
    """The write is guarded: who came second has seen another lease than there is."""

    class Late(Memory):
        def create(self, value: Any) -> Stored[Any] | Conflict:
            super().create(Lease(LEASE, "node-x", NOW, 60))
            return super().create(value)

    held, _ = Late([]).run(hold(LEASE, "node-a", NOW, 0, 60, None))
    assert held is False


def test_what_a_gone_node_had_goes_after_the_grace_and_not_before(ground: Ground) -> None:
    ground.run(60)
    assert ground.store.delete(ground.store.get(Ref(Kind.NODE, "node-c"))) is None
    assert ground.run(AFTER - 60) == [] and len(in_use(ground.store)) == 3
    done = ground.run(AFTER)
    assert len(in_use(ground.store)) == 2 and {block.owner for block in ground.store.blocks} == {
        "host:node-a",
        "host:node-b",
    }
    assert any("node-c, which is gone" in line for line in done)
    sound(ground.store, settled=True)


def test_a_node_that_comes_back_keeps_what_it_had(ground: Ground) -> None:
    gone = ground.store.get(Ref(Kind.NODE, "node-c"))
    ground.store.delete(gone)
    ground.run(AFTER - 100)
    ground.store.create(gone.value)
    assert ground.run(3 * AFTER) == [] and len(in_use(ground.store)) == 3


def test_a_new_holder_begins_to_count_anew(ground: Ground) -> None:
    """What the other had seen is not known to it."""
    ground.run(60)
    ground.store.create(Handle("net.lost", {"10.48.0.0/26": 1}))
    ground.run(AFTER - 100)
    ground.nodes["node-a"].holds = False
    assert ground.run(AFTER - 60, "node-b") == []
    assert any("net.lost" in line for line in ground.run(AFTER, "node-b"))


def test_nothing_is_removed_while_the_cluster_is_locked_or_the_store_is_away(
    ground: Ground, caplog: pytest.LogCaptureFixture
) -> None:
    ground.store.create(Handle("net.lost", {"10.48.0.0/26": 1}))
    ground.store.create(Cluster(ready=False))
    assert ground.run(3 * AFTER) == []
    assert not any(one.holds for one in ground.nodes.values())
    assert len([one for one in caplog.records if "datastoreReady" in one.getMessage()]) == 2, "each node once"

    class Away(Memory):
        def get(self, ref: Ref) -> Stored[Any] | None:
            raise StoreFailed("away")

        def describe(self) -> str:
            return "nowhere"

    collector = Collector(Executor(Away(), patience=0.0), "node-a", AFTER)  # type: ignore[arg-type]
    assert collector.turn() == () and not collector.holds


def test_in_a_directory_the_lease_is_a_file_beside_the_others(tmp_path: Path) -> None:
    store: Store = FilesStore(tmp_path)
    run = Executor(store).run
    assert run(hold(LEASE, "node-a", NOW, 0, 60, None)) == (True, None)
    held, seen = run(hold(LEASE, "node-b", NOW, 0, 60, None))
    assert not held
    assert run(hold(LEASE, "node-b", NOW, 61 * SECOND, 60, seen)) == (True, None)
    found = store.get(Ref(Kind.LEASE, LEASE))
    assert found is not None and found.value == Lease(LEASE, "node-b", NOW, 60)


def test_it_is_off_unless_wanted() -> None:
    assert not parse("", "").ipam.garbage
    assert parse("ipam: {garbage: true}", "").ipam.garbage_after_seconds == AFTER
