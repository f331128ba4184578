"""What a node announces, blackholes and hides; what ``bgpctl blocks`` shows of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from ipaddress import ip_network
from random import Random

import pytest

from bgpd.model.prefix import Family, parse_address, parse_prefix, prefix_text
from bgpd.model.resources import (
    AffinityState,
    Allocation,
    BlockAffinity,
    IPAMBlock,
    IPPool,
    Snapshot,
)
from bgpd.model.route import (
    LocalBlackhole,
    Originated,
    Origination,
    OriginKind,
    RouteSource,
    WorkloadRoute,
    Workloads,
)
from bgpd.rules.originate import FEW, originate
from bgpd.views.blocks import blocks

PENDING, CONFIRMED, RELEASING = (
    AffinityState.PENDING,
    AffinityState.CONFIRMED,
    AffinityState.PENDING_DELETION,
)


def pool(cidr: str, block_size: int = 26, *, hidden: bool = False, name: str = "pool") -> IPPool:
    return IPPool(name, *parse_prefix(cidr), block_size, disable_bgp_export=hidden)


def affinity(cidr: str, node: str = "me", state: AffinityState = CONFIRMED, name: str = "") -> BlockAffinity:
    return BlockAffinity(name or f"{node}-{cidr}", node, *parse_prefix(cidr), state)


def block(cidr: str, owner: str | None, **users: str) -> IPAMBlock:
    """An IPAMBlock; ``users`` are address (``_`` for ``.``, with a leading a) -> node."""
    allocations = tuple(
        Allocation(parse_address(text[1:].replace("_", ".")), node, "default/web")
        for text, node in users.items()
    )
    return IPAMBlock(cidr.replace(".", "-"), *parse_prefix(cidr), owner, allocations)


def snapshot(*resources: IPPool | BlockAffinity | IPAMBlock) -> Snapshot:
    return Snapshot(
        pools={r.name: r for r in resources if isinstance(r, IPPool)},
        affinities={r.name: r for r in resources if isinstance(r, BlockAffinity)},
        blocks={r.name: r for r in resources if isinstance(r, IPAMBlock)},
    )


def routes(*prefixes: str) -> Workloads:
    found: dict[Family, set[WorkloadRoute]] = {family: set() for family in Family}
    for number, text in enumerate(prefixes):
        family, prefix = parse_prefix(text)
        found[family].add(WorkloadRoute(prefix, f"cali{number}"))
    return {family: frozenset(rows) for family, rows in found.items()}


def texts(family: Family, prefixes: Iterable[bytes]) -> list[str]:
    return sorted(prefix_text(family, prefix) for prefix in prefixes)  # type: ignore[arg-type]


class Decided:
    """An origination in text."""

    def __init__(self, found: Mapping[Family, Origination], family: Family = Family.IPV4) -> None:
        self.origination = origination = found[family]
        self.announced = texts(family, origination.announce)
        self.blackholes = texts(family, origination.blackholes)
        self.hidden = {prefix_text(family, prefix): why for prefix, why in origination.hidden.items()}


def say(snap: Snapshot, *workloads: str, ipam_early: bool = False) -> Decided:
    return Decided(originate(snap, routes(*workloads), "me", ipam_early))


POOL = pool("10.48.0.0/24")


def test_an_own_block_is_announced_and_kept_as_a_blackhole() -> None:
    decided = say(snapshot(POOL, affinity("10.48.0.0/26"), affinity("10.48.0.64/26", "other")), "10.48.0.5")
    assert (decided.announced, decided.blackholes) == (["10.48.0.0/26"], ["10.48.0.0/26"])
    (originated,) = decided.origination.announce.values()
    assert (originated.kind, originated.source) == (OriginKind.BLOCK, "BlockAffinity me-10.48.0.0/26")
    assert decided.hidden == {"10.48.0.5/32": "inside 10.48.0.0/26, a block of this node"}
    assert decided.origination.exported_pools == (POOL.cidr,)


@pytest.mark.parametrize(
    ("state", "owner", "announced", "kept", "yields"),
    [
        (CONFIRMED, "absent", True, True, False),
        (CONFIRMED, "me", True, True, False),
        (CONFIRMED, "other", False, False, False),
        (CONFIRMED, None, True, True, False),
        (PENDING, "me", False, False, False),
        (RELEASING, "absent", False, True, True),
        (RELEASING, "me", False, True, True),
        (RELEASING, None, False, True, True),
        (RELEASING, "other", False, True, True),
    ],
)
def test_whose_block_it_is(
    state: AffinityState, owner: str | None, announced: bool, kept: bool, yields: bool
) -> None:
    resources: list[IPPool | BlockAffinity | IPAMBlock] = [POOL, affinity("10.48.0.0/26", state=state)]
    if owner != "absent":
        resources.append(block("10.48.0.0/26", owner))
    decided = say(snapshot(*resources), "10.48.0.5")
    assert decided.announced == (["10.48.0.0/26"] if announced else ["10.48.0.5/32"])
    expected = {parse_prefix("10.48.0.0/26")[1]: LocalBlackhole("BlockAffinity me-10.48.0.0/26", yields)}
    assert decided.origination.blackholes == (expected if kept else {})
    assert ("10.48.0.0/26" in decided.hidden) is not announced


def test_two_affinities_for_one_block_are_decided_by_ipam() -> None:
    both = [POOL, affinity("10.48.0.0/26", "me"), affinity("10.48.0.0/26", "other")]
    assert say(snapshot(*both, block("10.48.0.0/26", "me"))).announced == ["10.48.0.0/26"]
    assert say(snapshot(*both, block("10.48.0.0/26", "other"))).announced == []
    assert say(snapshot(*both)).announced == ["10.48.0.0/26"]  # nobody says otherwise


def test_of_two_affinities_of_one_node_the_confirmed_one_counts() -> None:
    decided = say(
        snapshot(POOL, affinity("10.48.0.0/26", state=PENDING, name="a"), affinity("10.48.0.0/26", name="b"))
    )
    assert decided.announced == ["10.48.0.0/26"]


def test_an_ipam_block_of_another_cidr_says_nothing_of_ours() -> None:
    assert say(snapshot(POOL, affinity("10.48.0.0/26"), block("10.48.0.0/27", "other"))).announced == [
        "10.48.0.0/26"
    ]


def test_pools_that_are_not_exported() -> None:
    hidden = pool("10.49.0.0/24", hidden=True, name="inside")
    decided = say(snapshot(POOL, hidden, affinity("10.49.0.0/26")), "10.49.0.99", "10.49.0.5")
    assert (decided.announced, decided.blackholes) == ([], ["10.49.0.0/26"])
    assert decided.hidden["10.49.0.0/26"] == "IPPool inside has disableBGPExport"
    assert decided.hidden["10.49.0.99/32"] == "IPPool inside has disableBGPExport"
    assert (decided.origination.exported_pools, decided.origination.hidden_pools) == (
        (POOL.cidr,),
        (hidden.cidr,),
    )


def test_blocks_of_single_addresses_have_no_blackhole() -> None:
    decided = say(snapshot(pool("10.48.0.0/24", 32), affinity("10.48.0.7/32")), "10.48.0.7")
    assert (decided.announced, decided.blackholes, decided.hidden) == (["10.48.0.7/32"], [], {})


def test_blocks_of_single_addresses_are_announced_while_a_workload_has_them() -> None:
    """Without a blackhole a packet would leave this node again, by the default route."""
    decided = say(
        snapshot(pool("10.48.0.0/24", 32), affinity("10.48.0.7/32"), affinity("10.48.0.8/32")), "10.48.0.8"
    )
    assert decided.announced == ["10.48.0.8/32"]
    assert decided.hidden == {"10.48.0.7/32": "a block of a single address, and no workload's route is there"}
    pending = say(snapshot(pool("10.48.0.0/24", 32), affinity("10.48.0.7/32", state=PENDING)))
    assert "is pending" in pending.hidden["10.48.0.7/32"]
    known = snapshot(
        pool("10.48.0.0/24", 32), affinity("10.48.0.7/32"), block("10.48.0.7/32", "me", a10_48_0_7="me")
    )
    late, early = say(known), say(known, ipam_early=True)
    assert late.announced == [] and "no workload's route is there" in late.hidden["10.48.0.7/32"]
    assert (early.announced, early.hidden) == (["10.48.0.7/32"], {})
    assert next(iter(decided.origination.announce.values())).kind is OriginKind.BLOCK


def test_blocks_of_any_size_and_without_a_pool() -> None:
    decided = say(
        snapshot(
            POOL, pool("10.48.2.0/24", 29, name="b"), affinity("10.48.2.8/29"), affinity("172.16.0.0/26")
        )
    )
    assert decided.announced == decided.blackholes == ["10.48.2.8/29", "172.16.0.0/26"]


def test_nothing_inside_an_own_block_is_announced() -> None:
    decided = say(snapshot(POOL, affinity("10.48.0.0/26"), affinity("10.48.0.8/29")))
    assert decided.announced == ["10.48.0.0/26"]
    assert decided.hidden == {"10.48.0.8/29": "inside 10.48.0.0/26, a block of this node"}


def test_addresses_that_ipam_gives_to_this_node_are_assigned_whether_their_route_is_there_or_not() -> None:
    snap = snapshot(
        POOL,
        affinity("10.48.0.0/26", "me"),
        block("10.48.0.0/26", "me", a10_48_0_1="me", a10_48_0_2="other"),
        block("10.48.0.64/26", "other", a10_48_0_70="me", a10_48_0_71="other"),
        block("10.48.0.128/26", "other", a10_48_0_130="other"),
    )
    for routes in ((), ("10.48.0.1",), ("10.48.0.1", "10.48.0.70", "10.48.0.130")):
        found = say(snap, *routes).origination.assigned
        assert {prefix_text(Family.IPV4, prefix): name for prefix, name in found.items()} == {
            "10.48.0.1/32": "10-48-0-0/26",
            "10.48.0.70/32": "10-48-0-64/26",
        }


def test_of_thousands_of_own_blocks_few_are_looked_through() -> None:
    """Each has its allocations; a look at all of them at every change of a route would hold the event loop."""
    walked = 0

    class Counted(tuple[Allocation, ...]):
        def __iter__(self) -> Iterator[Allocation]:
            nonlocal walked
            walked += 1
            return super().__iter__()

    cidrs = [f"10.{48 + n // 256}.{n % 256}.0/26" for n in range(FEW + 100)]
    many = [
        replace(made, allocations=Counted(made.allocations))
        for made in (block(cidr, "me", a10_48_0_1="me") for cidr in cidrs)
    ]
    walked = 0  # each was once when it was made
    found = say(snapshot(POOL, *map(affinity, cidrs), *many), "10.48.0.1", "10.48.7.9").origination
    assert list(found.assigned) == [parse_prefix("10.48.0.1/32")[1]] and walked <= 2
    say(snapshot(POOL, *map(affinity, cidrs[:FEW]), *many[:FEW]), "10.48.0.1")
    assert walked >= FEW, "of few all"


@pytest.mark.parametrize("seed", range(20))
def test_blocks_in_blocks_are_found_by_length_as_by_a_look_at_each(seed: int) -> None:
    random = Random(seed)
    cidrs = {f"10.48.{random.randrange(4)}.{random.choice((0, 64, 128, 192))}/26" for _ in range(5)}
    cidrs |= {"10.48.0.0/24", "10.48.2.0/23", "10.48.3.7/32"} - ({"10.48.2.0/23"} if seed % 2 else set())
    hosts = [f"10.48.{random.randrange(5)}.{random.randrange(256)}" for _ in range(20)] + ["10.48.3.7"]
    decided = say(snapshot(pool("10.0.0.0/8"), *(affinity(cidr) for cidr in cidrs)), *hosts)
    networks = [ip_network(cidr) for cidr in cidrs]
    for text in (*cidrs, *(f"{host}/32" for host in hosts)):
        one = ip_network(text)
        outer = any(one.subnet_of(other) for other in networks if other != one)  # type: ignore[type-var]
        assert (text in decided.announced) is not outer, text


def test_borrowed_addresses_follow_the_kernels_route() -> None:
    snap = snapshot(POOL, affinity("10.48.0.0/26", "other"), block("10.48.0.0/26", "other", a10_48_0_40="me"))
    decided = say(snap, "10.48.0.40", "10.48.0.41", "192.0.2.1", "10.48.0.128/26")
    assert (decided.announced, decided.blackholes) == (["10.48.0.40/32", "10.48.0.41/32"], [])
    sources = dict(zip(decided.announced, decided.origination.announce.values(), strict=True))
    assert sources["10.48.0.40/32"] == Originated(
        OriginKind.BORROWED,
        "route on cali0 of default/web, borrowed from other",
        RouteSource.KERNEL,
        "cali0",
    )
    assert sources["10.48.0.41/32"][:2] == (OriginKind.BORROWED, "route on cali1")
    assert decided.hidden == {"192.0.2.1/32": "inside no IPPool"}


def test_ipam_alone_announces_only_when_asked() -> None:
    snap = snapshot(POOL, block("10.48.0.0/26", "other", a10_48_0_40="me", a10_48_0_41="third"))
    late = say(snap)
    assert late.announced == []
    assert "no workload's route is there" in late.hidden["10.48.0.40/32"]
    early = say(snap, ipam_early=True)
    assert (early.announced, early.hidden) == (["10.48.0.40/32"], {})
    assert "IPAMBlock 10-48-0-0/26" in next(iter(early.origination.announce.values())).source
    own = snapshot(POOL, affinity("10.48.0.0/26"), block("10.48.0.0/26", "me", a10_48_0_5="me"))
    assert say(own, ipam_early=True).announced == ["10.48.0.0/26"]


def test_of_two_blocks_around_an_address_the_smaller_one_speaks() -> None:
    outer, inner = (block(f"10.48.0.0/{size}", "other", a10_48_0_40="me") for size in (25, 26))
    for order in ((outer, inner), (inner, outer)):
        assert "IPAMBlock 10-48-0-0/26 " in say(snapshot(POOL, *order)).hidden["10.48.0.40/32"]


def test_ipv6() -> None:
    snap = snapshot(pool("fd00:48::/112", 122), affinity("fd00:48::40/122"))
    decided = Decided(originate(snap, routes("fd00:48::1", "fd00:48::41", "10.48.0.1"), "me"), Family.IPV6)
    assert decided.announced == ["fd00:48::1/128", "fd00:48::40/122"]
    assert decided.blackholes == ["fd00:48::40/122"]
    assert Decided(originate(snap, {}, "me")).announced == []


def test_both_families_are_always_there() -> None:
    assert set(originate(Snapshot(), {}, "me")) == set(Family)


def test_what_bgpctl_blocks_shows() -> None:
    snap = snapshot(
        POOL,
        pool("10.49.0.0/24", hidden=True, name="inside"),
        affinity("10.48.0.0/26"),
        affinity("10.49.0.0/26"),
        affinity("10.48.0.64/26", "other"),
        affinity("10.48.0.128/26", "third"),
        block("10.48.0.0/26", "me", a10_48_0_1="me", a10_48_0_40="other"),
        block("10.48.0.64/26", "other", a10_48_0_70="me", a10_48_0_71="other"),
    )
    found = originate(snap, routes("10.48.0.1", "10.48.0.130"), "me")
    views = {view.cidr: view for view in blocks(snap, found, "me")}
    cidrs = ("10.48.0.0/26", "10.48.0.64/26", "10.48.0.128/26", "10.49.0.0/26")
    own, lender, unknown, inside = (views.pop(cidr) for cidr in cidrs)
    assert views == {}
    assert own.cidr == "10.48.0.0/26"
    assert (own.pool, own.affinity, own.state, own.used) == ("pool", "me", "confirmed", 2)
    assert (own.borrowed, own.advertised, own.blackhole) == (
        ("10.48.0.40 by other (default/web)",),
        True,
        True,
    )
    assert (lender.cidr, lender.affinity, lender.used, lender.advertised) == (
        "10.48.0.64/26",
        "other",
        2,
        False,
    )
    assert lender.borrowed == ("10.48.0.70 from other (default/web)",)
    assert "no workload's route is there" in lender.reason
    assert (unknown.cidr, unknown.affinity, unknown.advertised) == ("10.48.0.128/26", "third", True)
    assert unknown.borrowed == ("10.48.0.130 from third (route on cali1)",)
    assert (inside.advertised, inside.blackhole) == (False, True)
    assert inside.reason == "IPPool inside has disableBGPExport"


def test_a_block_that_is_being_released_is_one_row() -> None:
    snap = snapshot(
        POOL, affinity("10.48.0.0/26", state=RELEASING), block("10.48.0.0/26", None, a10_48_0_1="me")
    )
    (view,) = blocks(snap, originate(snap, routes("10.48.0.1"), "me"), "me")
    assert (view.state, view.affinity, view.advertised, view.blackhole) == (
        "pendingDeletion",
        "",
        False,
        True,
    )
    assert "being released" in view.reason
