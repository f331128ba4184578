"""The decision process: every step decides, names its reason, and does not care for the order of arrival."""

from itertools import permutations

import pytest

from bgpd.model.peer import Peer
from bgpd.model.route import AsPath, Attributes, Origin, Path, Reason, Resolution, SegmentType, Unresolved
from bgpd.rules import decision
from bgpd.rules.decision import judge, select
from bgpd.rules.forwarding import forwarding
from tests.unit.builders import OWN_AS, Resolver, attributes, path, peer, via

RESOLVE = Resolver({"10.0.9.9": Resolution(via("10.0.9.9"), 50)})
A, B = peer("10.0.1.30"), peer("10.0.1.31")
X, Y = peer("10.0.2.1", 65001), peer("10.0.2.2", 65002)


def winner(*paths: Path) -> Path:
    """The best path, which must be the same in every order."""
    found = {judge(order, RESOLVE, 16)[0] for order in permutations(paths)}
    assert len(found) == 1
    best = found.pop()
    assert best is not None
    return best


LADDER: list[tuple[Reason, Path, Path]] = [
    (Reason.LOCAL_PREF, path(A, attributes(1, 2, 3, local_pref=200)), path(B, attributes(local_pref=100))),
    (Reason.LOCAL_PREF, path(A, attributes(local_pref=101)), path(B, attributes())),
    (Reason.AS_PATH_LENGTH, path(Y, attributes(65002), next_hop="10.0.9.9"), path(X, attributes(65001, 7))),
    (Reason.ORIGIN, path(Y, attributes(65002)), path(X, attributes(65001, origin=Origin.EGP))),
    (
        Reason.ORIGIN,
        path(Y, attributes(65002, origin=Origin.EGP)),
        path(X, attributes(65001, origin=Origin.INCOMPLETE)),
    ),
    (
        Reason.MED,
        path(B, attributes(65001, med=5, local_pref=100)),
        path(A, attributes(65001, med=6, local_pref=100)),
    ),
    (Reason.MED, path(B, attributes(65001)), path(A, attributes(65001, med=1))),
    (Reason.EBGP_OVER_IBGP, path(X, attributes(65001)), path(A, attributes(65002, local_pref=100))),
    (Reason.IGP_COST, path(B), path(A, next_hop="10.0.9.9")),
    (Reason.ROUTER_ID, path(A), path(B)),
    (
        Reason.ROUTER_ID,
        path(B, attributes(local_pref=100, originator_id="1.1.1.1", cluster_list=("9.9.9.9",))),
        path(A),
    ),
    (
        Reason.CLUSTER_LIST_LENGTH,
        path(B, attributes(local_pref=100, originator_id="1.1.1.1", cluster_list=("9.9.9.9",))),
        path(A, attributes(local_pref=100, originator_id="1.1.1.1", cluster_list=("9.9.9.9", "8.8.8.8"))),
    ),
    (
        Reason.PEER_ADDRESS,
        path(peer("10.0.1.40", router_id="7.7.7.7")),
        path(peer("10.0.1.41", router_id="7.7.7.7")),
    ),
    (
        Reason.PEER_ADDRESS,
        path(peer("10.0.1.40", name="Node_1", router_id="7.7.7.7")),
        path(peer("10.0.1.40", name="Node_1_port_1179", router_id="7.7.7.7")),
    ),
    (Reason.PATH_ID, path(A, path_id=1), path(A, path_id=2)),
]


@pytest.mark.parametrize(("reason", "better", "worse"), LADDER)
def test_each_step_decides_and_is_named(reason: Reason, better: Path, worse: Path) -> None:
    assert winner(better, worse) is better
    _, multipath, rejected = judge([worse, better], RESOLVE, 16)
    assert rejected == {worse: reason}
    tie_breaks = {Reason.ROUTER_ID, Reason.CLUSTER_LIST_LENGTH, Reason.PEER_ADDRESS, Reason.PATH_ID}
    assert multipath == ((better, worse) if reason in tie_breaks else (better,))


def test_an_earlier_step_outweighs_all_later_ones() -> None:
    """Each path of the ladder wins one step and loses every later one."""
    base = {"local_pref": 100}
    by_pref = path(
        B, attributes(1, 2, 3, origin=Origin.INCOMPLETE, med=9, local_pref=200), next_hop="10.0.9.9"
    )
    by_length = path(B, attributes(1, origin=Origin.INCOMPLETE, med=9, **base), next_hop="10.0.9.9")
    by_origin = path(B, attributes(1, 2, med=9, **base), next_hop="10.0.9.9")
    by_med = path(B, attributes(1, 2, origin=Origin.EGP, med=1, **base), next_hop="10.0.9.9")
    last = path(A, attributes(1, 2, origin=Origin.EGP, med=9, **base))
    ladder = [by_pref, by_length, by_origin, by_med, last]
    while len(ladder) > 1:
        assert winner(*ladder) is ladder[0]
        ladder.pop(0)


def test_a_med_triangle_has_one_winner() -> None:
    """Pairwise, each of these loses to another: MED ranks two of them only, the cost to the next hop the rest."""
    cheap = Resolver(
        {f"10.0.3.{n}": Resolution(via(f"10.0.3.{n}"), cost) for n, cost in ((1, 10), (2, 5), (3, 7))}
    )
    one = path(A, attributes(65001, med=0, local_pref=100), next_hop="10.0.3.1")
    two = path(B, attributes(65001, med=10, local_pref=100), next_hop="10.0.3.2")
    three = path(peer("10.0.1.32"), attributes(65002, med=0, local_pref=100), next_hop="10.0.3.3")
    outcomes = {judge(order, cheap, 16)[0] for order in permutations((one, two, three))}
    assert outcomes == {three}
    _, _, rejected = judge([one, two, three], cheap, 16)
    assert rejected == {two: Reason.MED, one: Reason.IGP_COST}


def test_med_is_compared_within_one_neighbouring_as_only() -> None:
    high, low = path(A, attributes(65001, med=100)), path(B, attributes(65002, med=1))
    _, multipath, rejected = judge([low, high], RESOLVE, 16)
    assert set(multipath) == {high, low}
    assert Reason.MED not in rejected.values()


def test_sets_and_confederations_in_the_length() -> None:
    one = Attributes(as_path=AsPath.of((SegmentType.AS_SEQUENCE, (65001,)), (SegmentType.AS_SET, (1, 2, 3))))
    assert one.as_path_length == 2
    confed = Attributes(
        as_path=AsPath.of((SegmentType.CONFED_SEQUENCE, (1, 2, 3)), (SegmentType.AS_SEQUENCE, (65001, 9)))
    )
    assert (confed.as_path_length, confed.neighbor_as) == (2, 65001)
    _, multipath, _ = judge([path(X, one), path(Y, attributes(65002, 9))], RESOLVE, 16)
    assert len(multipath) == 2


def test_equal_length_with_other_content_shares_the_traffic() -> None:
    first, second = path(X, attributes(65001, 7)), path(Y, attributes(65002, 8))
    best, multipath, rejected = judge([second, first], RESOLVE, 16)
    assert best is first
    assert multipath == (first, second)
    assert rejected == {second: Reason.ROUTER_ID}


def test_external_and_internal_never_mix() -> None:
    internal, external = path(A, attributes(65001, local_pref=100)), path(X, attributes(65001))
    _, multipath, rejected = judge([internal, external], RESOLVE, 16)
    assert multipath == (external,)
    assert rejected == {internal: Reason.EBGP_OVER_IBGP}


def peers(count: int) -> list[Peer]:
    return [peer(f"10.0.1.{number + 1}") for number in range(count)]


def test_multipath_is_bounded_and_the_bound_does_not_depend_on_order() -> None:
    paths = [path(by) for by in peers(20)]
    best, multipath, rejected = judge(paths, RESOLVE, 16)
    assert best is paths[0]
    assert list(multipath) == paths[:16]
    assert set(rejected) == set(paths[1:])
    assert judge(paths[::-1], RESOLVE, 16)[1] == multipath
    assert judge(paths[7:] + paths[:7], RESOLVE, 16)[1] == multipath
    selection = select(paths, RESOLVE, 16)
    assert selection is not None
    wanted = forwarding(selection, RESOLVE, 16)
    assert wanted is not None
    assert len(wanted.hops) == 16


def test_hops_are_bounded_over_several_paths_and_doubles_count_once() -> None:
    two_legs = Resolver({"10.0.8.1": Resolution(via("10.0.1.8", "10.0.1.9"), 0)})
    first, second = path(A, next_hop="10.0.8.1"), path(B, next_hop="10.0.1.9")
    selection = select([first, second], two_legs, 16)
    assert selection is not None
    assert forwarding(selection, two_legs, 16) == via("10.0.1.8", "10.0.1.9")
    assert forwarding(selection, two_legs, 1) == via("10.0.1.8")
    alone = select([first], two_legs, 16)
    assert alone is not None
    assert forwarding(alone, two_legs, 16) == via("10.0.1.8", "10.0.1.9")
    assert forwarding(alone, two_legs, 1) == via("10.0.1.8")


@pytest.mark.parametrize("refusal", Unresolved)
def test_unresolved_is_named_and_never_wins(refusal: Unresolved) -> None:
    resolve = Resolver({"10.0.1.30": refusal})
    dead, live = path(A, attributes(local_pref=500)), path(B)
    best, multipath, rejected = judge([dead, live], resolve, 16)
    assert (best, multipath) == (live, (live,))
    assert rejected == {dead: Reason.UNRESOLVED}
    assert select([dead], resolve, 16) is None
    assert judge([dead], resolve, 16) == (None, (), {dead: Reason.UNRESOLVED})


def test_loops_are_named() -> None:
    in_sequence = path(X, attributes(65001, OWN_AS, 7))
    in_set = path(X, Attributes(as_path=AsPath.of((SegmentType.AS_SET, (5, OWN_AS)))))
    in_confederation = path(X, Attributes(as_path=AsPath.of((SegmentType.CONFED_SEQUENCE, (OWN_AS,)))))
    originator = path(A, attributes(local_pref=100, originator_id="10.0.1.20", cluster_list=("9.9.9.9",)))
    for looped, reason in (
        (in_sequence, Reason.AS_LOOP),
        (in_set, Reason.AS_LOOP),
        (in_confederation, Reason.AS_LOOP),
        (originator, Reason.ORIGINATOR_LOOP),
    ):
        assert judge([looped], RESOLVE, 16) == (None, (), {looped: reason})


def test_nothing_selects_nothing() -> None:
    assert judge([], RESOLVE, 16) == (None, (), {})
    assert select([], RESOLVE, 16) is None


def test_every_order_of_a_few_sets_gives_one_selection() -> None:
    third = peer("10.0.1.32")
    sets = [
        [path(A), path(B), path(third), path(X, attributes(65001)), path(Y, attributes(65002, 3))],
        [
            path(by, attributes(as_, med=med, local_pref=100))
            for by, as_, med in ((A, 1, 5), (B, 1, 4), (third, 2, 9))
        ],
        [path(A, path_id=n, next_hop=f"10.0.1.{n}") for n in (3, 1, 2)],
    ]
    for paths in sets:
        assert len({judge(order, RESOLVE, 16)[:2] for order in permutations(paths)}) == 1
        assert len({judge(order, RESOLVE, 2)[:2] for order in permutations(paths)}) == 1


def test_tied_paths_are_ranked_by_one_sort(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ``max_paths`` is: each path's tie-breaks are looked at once, not once a rank."""
    looked = 0
    real = decision.identifier

    def counted(what: Path) -> bytes:
        nonlocal looked
        looked += 1
        return real(what)

    steps = ((decision.TIE_BREAKS[0][0], counted), *decision.TIE_BREAKS[1:])
    monkeypatch.setattr(decision, "TIE_BREAKS", steps)
    by = [peer(f"10.0.1.{n}", 65001) for n in range(10, 30)]
    paths = [path(each, path_id=number) for each in by for number in (1, 2)]
    best, multipath, rejected = judge(paths[::-1], Resolver(), 16)
    assert looked == len(paths)
    assert best is paths[0]
    assert multipath == tuple(paths[:16])
    assert rejected[paths[1]] is Reason.PATH_ID
    assert {rejected[each] for each in paths[2:]} == {Reason.ROUTER_ID}
