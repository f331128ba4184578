"""IPAM's decisions, situation by situation: many of them from Calico's users (ipam.md §7, the number in the name)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from netaddr import IPNetwork

from bgpd.model.ipam import (
    SECOND,
    Affinity,
    Attribute,
    Block,
    Handle,
    IPAMConfig,
    Kind,
    Pool,
    Ref,
    Reservation,
    State,
)
from bgpd.rules.ipam import blocks as block_rules
from bgpd.rules.ipam.assign import assign, assign_address
from bgpd.rules.ipam.claim import RECLAIM_AGE, Taken, claim, find_or_claim, release_affinity
from bgpd.rules.ipam.garbage import GRACE_SECONDS, inspect, sweep
from bgpd.rules.ipam.release import Address, release_address, release_handle, release_node
from bgpd.rules.ipam.steps import (
    AddressTaken,
    BlockLimit,
    Create,
    Delete,
    Exhausted,
    Get,
    List,
    NoNewBlocks,
    NoPool,
    NoSuchNode,
    NoSuchPool,
    NotAllocated,
    NotEmpty,
    NotOwned,
    OutsideEveryPool,
    StrictAffinity,
    Update,
)
from tests.unit.ipam_ground import NOW, Memory, address, ask, in_use, node, pool, sound

B0 = IPNetwork("10.48.0.0/30")
B4 = IPNetwork("10.48.0.4/30")
SMALL = pool(cidr="10.48.0.0/29", size=30)
STRICT = IPAMConfig(strict_affinity=True)
OLD = NOW - 2 * RECLAIM_AGE


def owned(
    cidr: IPNetwork, owner: str | None = "host:node-a", used: int = 0, claimed: int | None = NOW
) -> Block:
    block = replace(block_rules.new_block(cidr, owner, NOW), claimed=claimed)
    return block_rules.taken(block, range(used), "net.old", {"node": "node-z"}) if used else block


def row(cidr: IPNetwork, owner: str = "host:node-a", state: State = State.CONFIRMED) -> Affinity:
    return Affinity(owner, cidr, state)


def ground(*values: Any, config: IPAMConfig | None = None) -> Memory:
    return Memory([*([config] if config else []), node("node-a"), node("node-b"), *values])


def got(memory: Memory, **more: Any) -> list[str]:
    return [str(one.address) for one in memory.run(assign(ask(**more), NOW))]


# -- pools -------------------------------------------------------------------------------------------------------------


def chosen(pools: list[Pool], **more: Any) -> str:
    memory = ground(*pools)
    (found,) = got(memory, **more)
    return next(pool.name for pool in pools if address(found) in pool.cidr)


A, B = pool("a", "10.1.0.0/24"), pool("b", "10.2.0.0/24")


@pytest.mark.parametrize(
    ("pools", "asked", "wanted"),
    [
        ([B, A], {}, "a"),
        ([replace(A, disabled=True), B], {}, "b"),
        ([replace(A, allocatable=False), B], {}, "b"),
        ([replace(A, automatic=False), B], {}, "b"),
        ([replace(A, node_selector="rack == 'r1'"), B], {}, "b"),
        ([replace(A, node_selector="nonsense ("), B], {}, "b"),
        ([replace(A, namespace_selector="team == 'x'"), B], {}, "b"),
        ([replace(A, namespace_selector="team == 'x'"), B], {"namespace_labels": {"team": "x"}}, "a"),
        ([replace(A, allowed_uses=frozenset({"Tunnel"})), B], {}, "b"),
        ([A, B], {"ipv4_pools": ("b", "a")}, "b"),
        ([A, B], {"ipv4_pools": ("10.2.0.0/24",)}, "b"),
        ([A, replace(B, node_selector="!all()", automatic=False)], {"ipv4_pools": ("b",)}, "b"),
    ],
)
def test_which_pool_an_address_is_of(pools: list[Pool], asked: dict[str, Any], wanted: str) -> None:
    assert chosen(pools, **asked) == wanted


@pytest.mark.parametrize(
    ("values", "asked", "refusal", "words"),
    [
        ([A], {"ipv4_pools": ("x",)}, NoSuchPool, "the given pool (x) does not exist"),
        ([A], {"ipv4_pools": ("10.1.0.0/25",)}, NoSuchPool, "10.1.0.0/25"),
        ([replace(A, disabled=True)], {"ipv4_pools": ("a",)}, NoSuchPool, "is not enabled"),
        ([], {}, NoPool, "no IPv4 pool is for node 'node-a'"),
        ([replace(A, node_selector="has(x)")], {}, NoPool, "1 enabled"),
        ([replace(A, allowed_uses=frozenset({"Tunnel"}))], {}, NoPool, "allowedUses"),
        ([A], {"node": "nobody"}, NoSuchNode, "'nobody'"),
        ([A], {"ipv4": 0, "ipv6": 1}, NoPool, "IPv6"),
        ([A, IPAMConfig(auto_allocate_blocks=False)], {}, NoNewBlocks, "autoAllocateBlocks"),
        ([pool(cidr="10.1.0.0/30", size=32)], {"ipv4": 5}, Exhausted, "4 of 5"),
        ([pool(cidr="10.1.0.0/30", size=32), STRICT], {"ipv4": 5}, Exhausted, "strictAffinity"),
    ],
)
def test_each_refusal_is_named_and_nothing_stays(
    values: list[Any], asked: dict[str, Any], refusal: type[Exception], words: str
) -> None:
    memory = ground(*values)
    with pytest.raises(refusal) as caught:
        memory.run(assign(ask(**asked), NOW))
    assert words in str(caught.value)
    assert in_use(memory) == {} and memory.values(Kind.HANDLE) == []
    sound(memory, settled=True)


def test_14_an_address_of_the_other_version_goes_back() -> None:
    memory = ground(A, pool("six", "fd00::/126", 128))
    for name in "wxyz":
        memory.run(assign(ask(name, ipv4=0, ipv6=1), NOW))
    before = in_use(memory)
    with pytest.raises(Exhausted, match="IPv6"):
        memory.run(assign(ask("c", ipv4=1, ipv6=1), NOW))
    assert in_use(memory) == before
    sound(memory)


def test_21_the_limit_is_named() -> None:
    memory = ground(pool(cidr="10.48.0.0/24", size=32))
    for number in range(20):
        got(memory, container=f"c{number}")
    with pytest.raises(BlockLimit, match=r"20 IPv4 blocks and may have 20 \(maxBlocksPerHost\)"):
        got(memory, container="c20")


def test_20_a_full_pool_of_many_blocks_is_listed_once() -> None:
    full = [
        owned(IPNetwork((10 << 24 | number << 6, 26), version=4), "host:node-z", 64) for number in range(1024)
    ]
    memory = ground(pool("a", "10.0.0.0/16"), pool("b", "10.1.0.0/16"), *full)
    steps = assign(ask(), NOW)
    answer: Any = None
    asked = []
    try:
        while True:
            asked.append(steps.send(answer))
            answer = memory.answer(asked[-1])
    except StopIteration as stop:
        (found,) = stop.value
    assert found.address in IPNetwork("10.1.0.0/16")
    assert sum(step == List(Kind.BLOCK) for step in asked) == 1
    assert sum(isinstance(step, Get) for step in asked) < 10


def test_15_no_block_overlaps_one_of_another_size() -> None:
    memory = ground(pool(cidr="10.48.0.0/28", size=30), owned(IPNetwork("10.48.0.0/29"), "host:node-z", 8))
    memory.create(Handle("net.old", {"10.48.0.0/29": 8}))
    for number in range(8):
        got(memory, container=f"c{number}")
    sound(memory)
    with pytest.raises(Exhausted):
        got(memory, container="c9")
    memory.run(release_address(Address(address("10.48.0.1")), NOW))
    assert got(memory, container="c10") == ["10.48.0.1"], "borrowed from the block of the old size"


# -- blocks ------------------------------------------------------------------------------------------------------------


def test_the_writes_of_a_first_address_are_calicos_and_in_its_order() -> None:
    memory = ground(SMALL)
    writes = memory.writes(assign(ask(), NOW))
    shape = [
        (type(step), (step.value if not isinstance(step, Delete) else step.known.value).ref.kind)
        for step in writes
    ]
    assert shape == [
        (Create, Kind.AFFINITY),
        (Create, Kind.BLOCK),
        (Update, Kind.AFFINITY),
        (Create, Kind.HANDLE),
        (Update, Kind.BLOCK),
    ]
    assert [step.value.state for step in (writes[0], writes[2])] == [State.PENDING, State.CONFIRMED]  # type: ignore
    first, last = writes[1].value, writes[4].value  # type: ignore[union-attr]
    assert (first.sequence, last.sequence, dict(last.sequences)) == (NOW, NOW + 1, {0: NOW})


@pytest.mark.parametrize("state", list(State))
def test_half_a_claim_of_ours_is_finished_by_the_next_address(state: State) -> None:
    for blocks in ([], [owned(B0)]):
        memory = ground(SMALL, row(B0, state=state), *blocks)
        assert got(memory) == ["10.48.0.0"]
        sound(memory, settled=True)


def test_1_2_3_a_block_says_whose_it_is_whatever_affinities_say() -> None:
    memory = ground(SMALL, owned(B0, "host:node-b"), row(B0), row(B0, "host:node-b"))
    assert got(memory) == ["10.48.0.4"]
    sound(memory, settled=True)


def test_5_a_claim_during_a_release_and_the_mirror_end_with_one_truth() -> None:
    for cut in range(1, 12):
        memory = ground(SMALL, owned(B0), row(B0))
        steps = release_affinity(B0, "host:node-a", NOW, IPAMConfig(), must_be_empty=True)
        answer: Any = None
        ended = False
        for _ in range(cut):
            try:
                answer = memory.answer(steps.send(answer))
            except StopIteration:
                ended = True
                break
        memory.run(claim(B0, "host:node-a", NOW))
        memory.run(assign(ask(), NOW))
        try:
            while not ended:
                answer = memory.answer(steps.send(answer))
        except (StopIteration, NotEmpty):
            pass
        assert in_use(memory) == {"10.48.0.0": "net.c1"}
        sound(memory, settled=True)


def test_a_claim_of_anothers_block_takes_its_wish_back() -> None:
    memory = ground(SMALL, owned(B0, "host:node-b"), row(B0, "host:node-b"))
    with pytest.raises(Taken):
        memory.run(claim(B0, "host:node-a", NOW))
    sound(memory, settled=True)


def test_6_an_empty_block_is_taken_over_after_a_minute_and_not_before() -> None:
    full = owned(B4, "host:node-z", 4)
    for claimed, wanted in ((OLD, "host:node-a"), (None, "host:node-a"), (NOW - SECOND, "host:node-b")):
        memory = ground(SMALL, owned(B0, "host:node-b", claimed=claimed), row(B0, "host:node-b"), full)
        assert got(memory)
        assert memory.block(str(B0)).owner == wanted
        assert (memory.get(row(B0, "host:node-b").ref) is None) == (wanted == "host:node-a")


def test_7_two_processes_of_a_node_take_one_new_block() -> None:
    memory = ground(pool())
    run = [find_or_claim([pool()], "host:node-a", (), IPAMConfig(), NOW) for _ in range(2)]
    answers: list[Any] = [None, None]
    while run:
        for steps in list(run):
            place = run.index(steps)
            try:
                answers[place] = memory.answer(steps.send(answers[place]))
            except StopIteration:
                run.pop(place)
                answers.pop(place)
    assert len(memory.blocks) == 1


def test_24_the_longest_free_is_next_and_none_before_its_cooldown() -> None:
    config = IPAMConfig(strict_affinity=True, cooldown_seconds=30)
    memory = ground(replace(SMALL, cidr=B0), config=config)
    first = [got(memory, container=f"c{number}")[0] for number in range(4)]
    memory.run(release_handle("net.c2", "node-a", NOW))
    memory.run(release_handle("net.c0", "node-a", NOW + SECOND))
    with pytest.raises(Exhausted):
        memory.run(assign(ask("d"), NOW + 30 * SECOND))
    assert not block_rules.is_empty(memory.block(str(B0)))
    later = [memory.run(assign(ask(f"e{n}"), NOW + (31 + n) * SECOND))[0].address for n in range(2)]
    assert [str(found) for found in later] == [first[2], first[0]]
    sound(memory)


def test_24_a_block_in_which_all_cool_down_is_not_empty() -> None:
    memory = ground(replace(SMALL, cidr=B0), config=IPAMConfig(cooldown_seconds=30))
    got(memory)
    memory.run(release_handle("net.c1", "node-a", NOW))
    with pytest.raises(NotEmpty):
        memory.run(
            release_affinity(B0, "host:node-a", NOW, IPAMConfig(cooldown_seconds=30), must_be_empty=True)
        )


def test_25_borrowing_stops_with_strict_affinity_and_what_is_borrowed_stays() -> None:
    memory = ground(SMALL, owned(B0, "host:node-b", 1), row(B0, "host:node-b"), owned(B4, "host:node-b", 4))
    borrowed = got(memory)
    assert borrowed == ["10.48.0.1"] and memory.block(str(B0)).owner == "host:node-b"
    assert memory.list(Kind.AFFINITY, "host:node-a") == ()
    memory.create(IPAMConfig(strict_affinity=True))
    with pytest.raises(Exhausted):
        got(memory, container="c2")
    assert in_use(memory)["10.48.0.1"] == "net.c1"
    assert memory.run(release_handle("net.c1", "node-a", NOW)) == (address("10.48.0.1"),)
    stored = memory.get(Ref(Kind.CONFIG, "default"))
    assert stored is not None
    memory.update(stored, IPAMConfig())
    assert got(memory, container="c3") == ["10.48.0.2"]


def test_the_blocks_of_a_pool_that_selects_the_node_no_more_are_given_up_when_empty() -> None:
    away = pool("away", "10.9.0.0/29", 30, node_selector="has(x)")
    empty, busy = IPNetwork("10.9.0.0/30"), IPNetwork("10.9.0.4/30")
    memory = ground(SMALL, away, owned(empty), row(empty), owned(busy, used=1), row(busy))
    got(memory)
    assert {str(block.cidr) for block in memory.blocks if block.cidr in away.cidr} == {str(busy)}


def test_reserved_addresses_are_skipped_and_given_by_name() -> None:
    reserved = Reservation(
        "r", (IPNetwork("10.48.0.0/30"), IPNetwork("10.48.0.4/32"), IPNetwork("10.48.0.6/32"))
    )
    memory = ground(SMALL, reserved)
    assert sorted(got(memory, container="a") + got(memory, container="b")) == ["10.48.0.5", "10.48.0.7"]
    with pytest.raises(Exhausted):
        got(memory, container="c")
    assert memory.run(assign_address(ask("d"), address("10.48.0.6"), NOW)).block == B4


# -- by name -----------------------------------------------------------------------------------------------------------


def test_18_the_pods_next_sandbox_has_its_address() -> None:
    pod = {"namespace": "shop", "pod": "db-0"}
    memory = ground(SMALL)
    for _ in range(2):
        memory.run(assign_address(ask("old", secondary=pod), address("10.48.0.2"), NOW))
    with pytest.raises(AddressTaken, match=r"net\.old"):
        memory.run(
            assign_address(
                ask("x", secondary={"namespace": "shop", "pod": "db-1"}), address("10.48.0.2"), NOW
            )
        )
    with pytest.raises(AddressTaken):
        memory.run(assign_address(ask("x", "node-b", secondary=pod), address("10.48.0.2"), NOW))
    memory.run(assign_address(ask("new", secondary=pod), address("10.48.0.2"), NOW))
    sound(memory, settled=True)
    assert memory.run(release_handle("net.old", "node-a", NOW)) == ()
    assert in_use(memory) == {"10.48.0.2": "net.new"}


def test_by_name_each_refusal_is_named() -> None:
    memory = ground(
        SMALL,
        pool("t", "10.7.0.0/29", 30, allowed_uses=frozenset({"Tunnel"})),
        owned(B0, "host:node-b"),
        config=IPAMConfig(strict_affinity=True),
    )
    for text, refusal in (("10.6.0.1", OutsideEveryPool), ("10.48.0.1", StrictAffinity)):
        with pytest.raises(refusal, match=text):
            memory.run(assign_address(ask(), address(text), NOW))
    with pytest.raises(Exception, match="not for Workload"):
        memory.run(assign_address(ask(), address("10.7.0.1"), NOW))
    assert memory.values(Kind.HANDLE) == []


# -- release -----------------------------------------------------------------------------------------------------------


def test_9_17_what_a_crash_left_of_a_handle_goes_with_its_release() -> None:
    memory = ground(SMALL)
    got(memory, ipv4=2)
    handle = memory.get(Ref(Kind.HANDLE, "net.c1"))
    assert handle is not None
    memory.update(handle, Handle("net.c1", {**handle.value.blocks, "10.48.0.4/30": 3, "10.9.0.0/26": 1}))
    assert len(memory.run(release_handle("net.c1", "node-a", NOW))) == 2
    sound(memory, settled=True)
    got(memory)
    stored = memory.get(Ref(Kind.HANDLE, "net.c1"))
    assert stored is not None
    memory.delete(stored)
    assert len(memory.run(release_handle("net.c1", "node-a", NOW))) == 1, "calico#3940"
    assert in_use(memory) == {}


def test_17_an_id_with_a_carriage_return_is_released_by_its_first_part() -> None:
    odd = Attribute("net.c1\r\neth0", {"node": "node-a"})
    block = replace(owned(B0), attributes=(odd,), allocations=(0, None, None, None), unallocated=(1, 2, 3))
    memory = ground(SMALL, block, row(B0), Handle("net.c1", {str(B0): 1}))
    assert memory.run(release_handle("net.c1", "node-a", NOW)) == (address("10.48.0.0"),)


def test_11_a_release_by_what_was_seen_spares_what_was_assigned_anew() -> None:
    memory = ground(replace(SMALL, cidr=B0))
    got(memory, ipv4=4)
    seen = memory.block(str(B0)).sequences[1]
    memory.run(release_handle("net.c1", "node-a", NOW))
    got(memory, ipv4=4)
    for wanted in (
        Address(address("10.48.0.1"), "net.c1", seen),
        Address(address("10.48.0.1"), "net.other"),
        Address(address("10.48.0.9")),
        Address(address("192.0.2.1")),
    ):
        with pytest.raises(NotAllocated):
            memory.run(release_address(wanted, NOW))
    assert len(in_use(memory)) == 4


def test_a_block_that_lost_its_node_goes_with_its_last_address() -> None:
    memory = ground(SMALL)
    (text,) = got(memory)
    (cidr,) = memory.run(release_node("node-a", NOW))
    assert memory.block(str(cidr)).owner is None and in_use(memory) == {text: "net.c1"}
    memory.run(release_address(Address(address(text)), NOW))
    assert memory.blocks == []
    sound(memory, settled=True)


def test_4_a_release_that_was_cut_off_can_be_finished_by_anybody() -> None:
    memory = ground(SMALL, row(B0, "host:gone", State.PENDING_DELETION), row(B4, "host:gone", State.PENDING))
    memory.run(release_affinity(B0, "host:gone", NOW, IPAMConfig(), must_be_empty=True))
    with pytest.raises(NotOwned, match="about to be"):
        memory.run(release_affinity(B4, "host:gone", NOW, IPAMConfig(), must_be_empty=True))
    memory.run(release_affinity(B4, "host:gone", NOW, IPAMConfig(), must_be_empty=True, gone=True))
    assert memory.values(Kind.AFFINITY) == []


# -- garbage -----------------------------------------------------------------------------------------------------------


def swept(memory: Memory, wait: float = GRACE_SECONDS) -> list[str]:
    first = memory.run(sweep({}, NOW))
    return [*first.done, *memory.run(sweep(first.suspects, NOW + int(wait * SECOND))).done]


def test_27_nodes_that_come_and_go_leave_nothing() -> None:
    memory = Memory([pool(), node("stays")])
    for number in range(30):
        memory.create(node(f"n{number}"))
        got(memory, container=f"c{number}", node=f"n{number}")
        stored = memory.get(Ref(Kind.NODE, f"n{number}"))
        assert stored is not None
        if number < 29:
            memory.delete(stored)
        swept(memory)
    assert len(memory.blocks) == len(memory.values(Kind.AFFINITY)) == len(memory.values(Kind.HANDLE)) == 1


def test_a_sweep_waits_and_spares_what_lives() -> None:
    memory = ground(SMALL, owned(B4), row(B4))
    got(memory)
    memory.create(Handle("net.ghost", {str(B0): 1}))
    assert swept(memory, wait=GRACE_SECONDS - 1) == []
    done = swept(memory)
    assert any("net.ghost" in text for text in done)
    assert len(memory.blocks) == 1 and in_use(memory)
    sound(memory, settled=True)


def test_12_a_virtual_machine_may_have_moved() -> None:
    vm = Attribute("vm", {"node": "gone", "vmi-name": "x"}, None, {"alternateOwnerAttrs": {}})
    block = replace(owned(B0), attributes=(vm,), allocations=(0, None, None, None), unallocated=(1, 2, 3))
    memory = ground(SMALL, block, row(B0), Handle("vm", {str(B0): 1}))
    swept(memory)
    assert in_use(memory) == {"10.48.0.0": "vm"}


def test_a_cluster_that_shows_no_node_is_not_swept() -> None:
    memory = Memory([SMALL, owned(B0), row(B0)])
    assert swept(memory) == [] and len(memory.blocks) == 1


def test_inspection_names_each_thing_that_is_wrong() -> None:
    broken = replace(owned(IPNetwork("10.9.0.0/30")), broken="odd")
    found = inspect(
        [owned(B0), owned(IPNetwork("10.48.0.0/31"), None), broken],
        [row(B0, "host:node-b"), row(B4)],
        [Handle("h", {str(B0): 1})],
        [SMALL.cidr],
        ["node-b"],
    )
    kinds = {(finding.kind, finding.subject) for finding in found}
    assert kinds == {
        ("block", "10.48.0.0/31"),
        ("block", "10.9.0.0/30"),
        ("outside", "10.9.0.0/30"),
        ("affinity", "10.48.0.0/30"),
        ("affinity", "10.48.0.4/30"),
        ("affinity", "10.9.0.0/30"),
        ("handle", "h"),
        ("node", "node-a"),
    }
