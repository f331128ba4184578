"""IPAM over any interleaving of nodes, with conflicts, crashes and a store that fails between any two steps.

What must hold at every moment: no address is two users', none is outside its pool, blocks agree with themselves and
handles never count too little. When all is quiet and the garbage is out: nobody who lives has lost an address, nobody
else has one, and every handle and affinity is true.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from netaddr import IPAddress, IPNetwork

from bgpd.model.ipam import Affinity, Conflict, IPAMConfig, State, StoreFailed
from bgpd.rules.ipam import blocks as block_rules
from bgpd.rules.ipam import pools as pool_rules
from bgpd.rules.ipam.assign import Assigned, assign, assign_address
from bgpd.rules.ipam.claim import release_affinity
from bgpd.rules.ipam.garbage import release_unlisted, sweep
from bgpd.rules.ipam.release import release_handle
from bgpd.rules.ipam.steps import Create, Delete, Refused, Steps, Update
from tests.unit.ipam_ground import NOW, Memory, ask, in_use, node, pool, sound

NODES = ("node-a", "node-b", "node-c")
MINUTE = 60 * 10**9


@dataclass
class Job:
    """A process at work: at most one for a container, as its runtime sees to."""

    container: str
    node: str
    what: str
    steps: Steps[Any]
    answer: Any = None
    error: StoreFailed | None = None


@dataclass
class World:
    memory: Memory
    now: int = NOW
    jobs: dict[str, Job] = field(default_factory=dict)
    alive: dict[str, tuple[str, list[Assigned]]] = field(default_factory=dict)
    """Containers whose ADD was answered: their node and addresses."""
    dirty: dict[str, str] = field(default_factory=dict)
    """Containers whose ADD or DEL did not end: their node will DEL them."""

    def add(self, name: str, on: str, number: int, wanted: str | None) -> None:
        if name in self.jobs or name in self.alive or name in self.dirty:
            return
        request = ask(name, on, ipv4=number)
        steps: Steps[Any]
        if wanted is None:
            steps = assign(request, self.now)
        else:
            steps = assign_address(request, IPAddress(wanted), self.now)
        self.jobs[name] = Job(name, on, "add", steps)

    def remove(self, name: str) -> None:
        if name in self.jobs:
            return
        on = self.dirty.pop(name, None) or self.alive.pop(name, (None,))[0]
        if on is not None:
            self.jobs[name] = Job(name, on, "del", release_handle(f"net.{name}", on, self.now))

    def give_up(self, cidr: str, on: str, number: int) -> None:
        """An administrator, or another controller, takes a block from a node."""
        steps = release_affinity(
            IPNetwork(cidr), f"host:{on}", self.now, IPAMConfig(), must_be_empty=bool(number % 2)
        )
        self.jobs.setdefault(f"admin-{number}", Job("", on, "admin", steps))

    def step(self, name: str, fault: str) -> None:
        """One step of a job: done, or ``lost`` (not done, and the store failed), or ``late`` (done, and it failed)."""
        job = self.jobs[name]
        try:
            if job.error is not None:
                error, job.error = job.error, None
                step = job.steps.throw(error)
            else:
                step = job.steps.send(job.answer)
        except StopIteration as stop:
            del self.jobs[name]
            if job.what == "add":
                found = [stop.value] if isinstance(stop.value, Assigned) else list(stop.value)
                self.alive[job.container] = (job.node, found)
            return
        except (Refused, StoreFailed) as error:
            del self.jobs[name]
            if job.what != "admin" and isinstance(error, StoreFailed):
                self.dirty[job.container] = job.node
            elif job.what == "add":
                held = [who for who in in_use(self.memory).values() if who == f"net.{job.container}"]
                assert not held, f"{job.container} was refused ({error}) and has {held}"
            return
        if fault == "lost":
            job.error = StoreFailed("lost")
            return
        job.answer = self.memory.answer(step)
        if fault == "late" and isinstance(step, Create | Update | Delete):
            job.error = StoreFailed("late")
        sound(self.memory)

    def crash(self, name: str) -> None:
        job = self.jobs.pop(name)
        job.steps.close()
        if job.what != "admin":
            self.dirty[job.container] = job.node

    def settle(self) -> None:
        while self.jobs:
            self.step(next(iter(self.jobs)), "done")
        for name in list(self.dirty):
            self.remove(name)
        while self.jobs:
            self.step(next(iter(self.jobs)), "done")
        suspects: Any = {}
        for _ in range(4):
            self.now += 2 * MINUTE
            suspects = self.memory.run(sweep(suspects, self.now)).suspects


containers = st.sampled_from([f"c{number}" for number in range(8)])
addresses = st.sampled_from([None, None, None, "10.48.0.1", "10.48.0.5", "10.48.0.14"])
actions = st.one_of(
    st.tuples(
        st.just("add"), containers, st.sampled_from(NODES), st.integers(min_value=1, max_value=3), addresses
    ),
    st.tuples(st.just("del"), containers),
    st.tuples(st.just("step"), st.integers(0, 9), st.sampled_from(["done"] * 8 + ["lost", "late"])),
    st.tuples(st.just("run"), st.integers(0, 9), st.integers(1, 12)),
    st.tuples(st.just("crash"), st.integers(0, 9)),
    st.tuples(
        st.just("admin"),
        st.sampled_from([f"10.48.0.{n}/30" for n in (0, 4, 8, 12)]),
        st.sampled_from(NODES),
        st.integers(0, 3),
    ),
    st.tuples(st.just("time"), st.integers(1, 120)),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(actions, min_size=1, max_size=80),
    st.booleans(),
    st.sampled_from([0, 0, 30]),
)
def test_no_interleaving_gives_an_address_twice_or_loses_one(
    story: list[tuple[Any, ...]], strict: bool, cooldown: int
) -> None:
    pools = [pool(cidr="10.48.0.0/28", size=30)]
    config = IPAMConfig(strict_affinity=strict, cooldown_seconds=cooldown)
    world = World(Memory([config, *pools, *(node(name) for name in NODES)]))
    for what, *more in story:
        jobs = list(world.jobs)
        if what == "add":
            world.add(*more)
        elif what == "del":
            world.remove(*more)
        elif what == "admin":
            world.give_up(*more)
        elif what == "time":
            world.now += more[0] * 10**9
        elif jobs:
            name = jobs[more[0] % len(jobs)]
            if what == "crash":
                world.crash(name)
            elif what == "step":
                world.step(name, more[1])
            else:
                for _ in range(more[1]):
                    if name in world.jobs:
                        world.step(name, "done")
    world.settle()
    sound(world.memory, settled=True)
    used = in_use(world.memory)
    assert all(IPAddress(text) in pools[0].cidr for text in used)
    wanted = {str(one.address): f"net.{name}" for name, (_, found) in world.alive.items() for one in found}
    assert sum(len(found) for _, found in world.alive.values()) == len(wanted), "one address for two"
    assert used == wanted


@given(
    st.integers(0, 40).flatmap(
        lambda n: st.lists(st.tuples(st.integers(0, 63), st.sampled_from([26, 27, 28, 29, 30])), max_size=n)
    ),
    st.lists(st.tuples(st.integers(0, 63), st.sampled_from([27, 28, 29, 32])), max_size=6),
    st.integers(0, 31),
)
def test_the_first_free_block_is_what_looking_at_each_would_find(
    taken: list[tuple[int, int]], reserved: list[tuple[int, int]], start: int
) -> None:
    it = pool(cidr="10.48.0.0/24", size=29)
    blocks = [IPNetwork(f"10.48.0.{number * 4}/{size}").cidr for number, size in taken]
    held = [IPNetwork(f"10.48.0.{number * 4}/{size}").cidr for number, size in reserved]
    merged = pool_rules.merged([_reservation(held)])
    found = pool_rules.first_free(it, blocks, merged, start)

    def is_free(cidr: IPNetwork) -> bool:
        touched = any(cidr in block or block in cidr for block in blocks)
        return not touched and len(pool_rules.reserved_in(cidr, merged)) < cidr.size

    order = [pool_rules.block_at(it, (start + number) % it.blocks) for number in range(it.blocks)]
    assert found == next((cidr for cidr in order if is_free(cidr)), None)


def _reservation(cidrs: list[IPNetwork]) -> Any:
    from bgpd.model.ipam import Reservation

    return Reservation("r", tuple(cidrs))


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 15), st.integers(0, 3)), max_size=60), st.integers(0, 20)
)
def test_a_block_agrees_with_itself_and_gives_out_the_longest_free_first(
    story: list[tuple[bool, int, int]], cooldown: int
) -> None:
    block = block_rules.new_block(IPNetwork("10.48.0.0/28"), "host:node-a", NOW)
    users: dict[int, str] = {}
    given_back: list[int] = list(range(16))
    for tick, (take, ordinal, who) in enumerate(story):
        now = NOW + tick * 10**9
        block = block_rules.thawed(block, now, cooldown)
        if take and (free := block_rules.free(block)):
            assert free[0] == next(o for o in given_back if o in free)
            block = block_rules.taken(block, free[:1], f"h{who}", {"n": str(who)})
            users[free[0]] = f"h{who}"
            given_back.remove(free[0])
        elif not take and ordinal in users:
            del users[ordinal]
            block = block_rules.released(block, [ordinal], now, cooldown)
            given_back.append(ordinal)
        assert block_rules.flaws(block) == []
        assert {o: a.handle for o, a in block_rules.users(block)} == users
        assert block_rules.is_empty(block) == all(index is None for index in block.allocations)
    cold = block_rules.thawed(block, NOW + 1000 * 10**9, cooldown)
    assert len(block_rules.free(cold)) == 16 - len(users)


def test_the_runtimes_list_is_what_stays() -> None:
    memory = Memory([pool(), node(), node("node-b")])
    for name, on in (("a", "node-a"), ("b", "node-a"), ("c", "node-b")):
        memory.run(assign(ask(name, on), NOW))
    assert isinstance(memory.create(Affinity("host:x", IPNetwork("10.0.0.0/26"), State.PENDING)), object)
    gone = memory.run(release_unlisted("net", "node-a", {("a", "eth0")}, NOW))
    assert len(gone) == 1
    assert sorted(in_use(memory).values()) == ["net.a", "net.c"]
    assert memory.create(node()) is Conflict.EXISTS
