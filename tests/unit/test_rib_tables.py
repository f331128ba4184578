"""Adj-RIB-In: every path by session and by prefix, kept in step through restarts."""

from typing import Any

import pytest

from bgpd.model.route import Path
from bgpd.rib import tables
from bgpd.rib.tables import AdjRibIn, Dirty
from tests.unit.builders import again, attributes, path, peer, pfx

P, Q, R = pfx("10.48.0.0/26"), pfx("10.48.0.64/26"), pfx("10.48.0.128/26")


def drain(rib: AdjRibIn, limit: int = 1) -> set[bytes]:
    """Sweep all; the prefixes that became dirty."""
    dirty: Dirty = {}
    while rib.sweep(limit, dirty):
        pass
    assert not rib.sweeping
    return set(dirty)


def announced(rib: AdjRibIn, what: Path, *prefixes: bytes, refused: bool = False) -> set[bytes]:
    dirty: Dirty = {}
    rib.announce(what, list(prefixes), dirty, refused)  # type: ignore[arg-type]
    return set(dirty)


def test_announce_replace_withdraw() -> None:
    rib, a, b = AdjRibIn(), peer("10.0.1.1"), peer("10.0.1.2")
    first, other = path(a), path(b)
    assert announced(rib, first, P, Q) == {P, Q}
    assert announced(rib, first, P) == set(), "the same again is nothing new"
    assert announced(rib, other, P) == {P}
    assert rib.paths(P) == (first, other)
    better = path(a, attributes(local_pref=200))
    assert announced(rib, better, P) == {P}
    assert set(rib.paths(P)) == {better, other}
    assert rib.paths(Q) == (first,)
    dirty: Dirty = {}
    rib.withdraw(a, [P, R], 0, dirty)
    assert (set(dirty), rib.paths(P)) == ({P}, (other,))
    rib.withdraw(b, [P], 0, dirty)
    assert rib.paths(P) == ()
    assert P not in rib.candidates
    assert rib.counts(a.id) == (1, 1, 0)
    rib.withdraw(peer("10.0.1.3"), [Q], 0, dirty)
    assert rib.paths(Q) == (first,)


def test_a_large_first_announcement_is_as_many_small_ones() -> None:
    prefixes = [pfx(f"10.{n}.0.0/26") for n in range(50)]
    whole, pieces, a = AdjRibIn(), AdjRibIn(), peer()
    what = path(a)
    assert announced(whole, what, *prefixes) == set(prefixes)
    for prefix in prefixes:
        announced(pieces, what, prefix)
    assert whole.candidates == pieces.candidates
    assert list(whole.peer_paths(a.id)) == list(pieces.peer_paths(a.id))
    second = path(peer("10.0.1.9"))
    assert announced(whole, second, *prefixes) == set(prefixes)
    assert whole.paths(prefixes[3]) == (what, second)
    assert announced(whole, path(a, attributes(local_pref=7)), *prefixes) == set(prefixes)
    assert len(whole.paths(prefixes[3])) == 2


def used(rib: AdjRibIn, prefix: bytes = P) -> list[int]:
    return sorted(found.path_id for found in rib.paths(prefix))  # type: ignore[arg-type]


def beyond(rib: AdjRibIn, prefix: bytes = P) -> list[int]:
    return [found.path_id for found in rib.surplus(prefix)]  # type: ignore[arg-type]


@pytest.mark.parametrize("order", [[1, 2, 3, 4, 5], [5, 4, 3, 2, 1], [3, 5, 1, 4, 2], [0, 3, 5, 4, 2]])
@pytest.mark.parametrize("most", [1, 2, 4, 5, 6])
def test_a_peer_has_so_many_paths_of_a_prefix_whatever_the_order(order: list[int], most: int) -> None:
    rib, a, b, dirty = AdjRibIn(), peer(), peer("10.0.1.2"), {}
    others = [path(b, path_id=number) for number in (1, 2)]
    for each in others[:most]:
        rib.announce(each, [P], dirty, most=most)
    for number in order:
        rib.announce(path(a, path_id=number), [P], dirty, most=most)
    ids = sorted(order)

    def of_a() -> tuple[list[int], list[int]]:
        return sorted(p.path_id for p in rib.paths(P) if p.peer is a), beyond(rib)

    assert of_a() == (ids[:most], ids[most:])
    assert sorted(p.path_id for p in rib.paths(P) if p.peer is b) == [1, 2][:most]
    assert rib.counts(a.id) == (5, min(most, 5), 0)
    assert rib.surplus_of(a.id) == len(ids[most:])
    for number in order:
        rib.announce(path(a, attributes(7), path_id=number), [P], dirty, most=most)
    assert of_a() == (ids[:most], ids[most:])
    assert {p.attributes for p in rib.paths(P) if p.peer is a} == {attributes(7)}
    for number in (order[1], order[3], order[0], order[4], order[2]):
        dirty.clear()
        was_used = number in ids[:most]
        rib.withdraw(a, [P], number, dirty)
        ids.remove(number)
        assert of_a() == (ids[:most], ids[most:])
        assert bool(dirty) or not was_used
    assert rib.counts(a.id) == (0, 0, 0)
    assert len(rib.paths(P)) == min(most, 2)


def test_another_limit_of_paths_lets_in_and_out() -> None:
    rib, a, dirty = AdjRibIn(), peer(), {}
    for number in range(6):
        rib.announce(path(a, path_id=number), [P, Q][: 1 + (number < 2)], dirty, most=4)
    for most in (2, 5, 1, 6, 3):
        dirty.clear()
        rib.limit(a.id, most, dirty)
        assert (used(rib), beyond(rib)) == (list(range(6))[:most], list(range(6))[most:])
        assert used(rib, Q) == [0, 1][:most]
        assert P in dirty
        assert rib.counts(a.id)[1] == min(most, 6) + min(most, 2)
    rib.limit(peer("10.0.1.9").id, 1, dirty)


def test_paths_that_are_too_many_are_not_kept_through_a_restart() -> None:
    rib, a, dirty = AdjRibIn(), peer(), {}
    for number in range(1, 6):
        rib.announce(path(a, path_id=number), [P], dirty, most=2)
    rib.mark_stale(a.id)
    assert (rib.counts(a.id), used(rib), beyond(rib)) == ((2, 2, 2), [1, 2], [])
    back = again(a)
    for number in (4, 5, 6, 2):
        rib.announce(path(back, path_id=number), [P], dirty, most=2)
    assert beyond(rib) == [5, 6]
    rib.withdraw(back, [P], 1, dirty)
    assert (used(rib), beyond(rib)) == ([2, 4], [5, 6]), "a stale path made room for none"
    rib.sweep_stale(a.id)
    drain(rib)
    assert (used(rib), beyond(rib), rib.counts(a.id)) == ([2, 4], [5, 6], (4, 2, 0))
    rib.flush(a.id)
    drain(rib)
    assert (rib.candidates, rib.surplus(P), rib.surplus_of(a.id)) == ({}, [], 0)


def test_many_paths_of_a_prefix_come_and_go_in_linear_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in paths looked at, for a number and its double."""
    looks = 0
    real = tables._Table.own

    def counted(self: Any, paths: Any, prefix: Any) -> list[Path]:
        nonlocal looks
        looks += len(paths)
        return real(self, paths, prefix)

    monkeypatch.setattr(tables._Table, "own", counted)
    spent = []
    for count in (1000, 2000):
        looks = 0
        rib, a, dirty = AdjRibIn(), peer(), {}
        for number in range(count, 0, -1):
            rib.announce(path(a, path_id=number), [P], dirty)
            dirty.clear()
            rib.announce(path(a, path_id=number + count), [P], dirty)
            assert not dirty or count - number < 64, "what is too much is not decided about"
            assert len(rib.paths(P)) <= 64
        for number in range(1, count + 1):
            rib.withdraw(a, [P], number, dirty)
            rib.withdraw(a, [P], number + count, dirty)
        assert rib.candidates == {}
        spent.append(looks)
    assert spent[1] < 2.2 * spent[0]


def test_a_surplus_path_that_comes_and_goes_leaves_nothing() -> None:
    rib, a, dirty = AdjRibIn(), peer(), {}
    for number in (1, 2):
        rib.announce(path(a, path_id=number), [P], dirty, most=1)
    for number in range(3, 3000):
        rib.announce(path(a, path_id=number), [P], dirty, most=1)
        rib.withdraw(a, [P], number, dirty)
    assert len(rib._tables[a.id].surplus[P]._heap) < 200
    rib.withdraw(a, [P], 1, dirty)
    assert used(rib) == [2]


def test_path_identifiers_are_paths_of_their_own() -> None:
    rib, a = AdjRibIn(), peer()
    one, two = path(a, path_id=1), path(a, path_id=2)
    announced(rib, one, P)
    announced(rib, two, P)
    assert rib.paths(P) == (one, two)
    assert sorted(found.path_id for _, found, _ in rib.peer_paths(a.id)) == [1, 2]
    dirty: Dirty = {}
    rib.withdraw(a, [P], 0, dirty)
    assert not dirty, "identifier 0 was never announced"
    rib.withdraw(a, [P], 1, dirty)
    assert rib.paths(P) == (two,)
    rib.mark_stale(a.id)
    assert rib.is_stale(P, two)
    announced(rib, path(again(a), path_id=2), P)
    assert rib.counts(a.id) == (1, 1, 0)
    rib.flush(a.id)
    assert drain(rib) == {P}
    assert rib.paths(P) == ()


def test_stale_then_announced_again_or_swept() -> None:
    rib, before = AdjRibIn(), peer()
    old = path(before)
    announced(rib, old, P, Q)
    rib.mark_stale(before.id)
    assert rib.counts(before.id) == (2, 2, 2)
    assert rib.is_stale(P, old)
    after = again(before)
    new = path(after)
    assert announced(rib, new, P) == {P}
    assert rib.paths(P) == (new,)
    assert not rib.is_stale(P, new)
    assert [(prefix, stale) for prefix, _, stale in rib.peer_paths(before.id)] == [(P, False), (Q, True)]
    assert rib.sweep_stale(before.id) == 1
    assert rib.sweep_stale(before.id) == 0
    assert drain(rib) == {Q}
    assert rib.counts(before.id) == (1, 1, 0)
    assert rib.paths(Q) == ()


def test_stale_can_be_withdrawn() -> None:
    rib, before = AdjRibIn(), peer()
    announced(rib, path(before), P)
    rib.mark_stale(before.id)
    dirty: Dirty = {}
    rib.withdraw(again(before), [P], 0, dirty)
    assert (set(dirty), rib.paths(P), rib.counts(before.id)) == ({P}, (), (0, 0, 0))


def test_a_second_loss_gives_up_what_was_stale() -> None:
    rib, first = AdjRibIn(), peer()
    announced(rib, path(first), P, Q)
    rib.mark_stale(first.id)
    second = again(first)
    kept = path(second)
    announced(rib, kept, P)
    rib.mark_stale(first.id)
    assert drain(rib) == {Q}
    assert rib.paths(P) == (kept,)
    assert rib.is_stale(P, kept)


def test_a_flush_under_way_spares_the_next_session() -> None:
    rib, before = AdjRibIn(), peer()
    prefixes = [pfx(f"10.{n}.0.0/26") for n in range(20)]
    announced(rib, path(before), *prefixes)
    rib.flush(before.id)
    assert rib.counts(before.id) == (0, 0, 0)
    dirty: Dirty = {}
    assert rib.sweep(7, dirty) == 7
    assert len(dirty) == 7
    after = path(again(before))
    announced(rib, after, *prefixes)
    assert len(drain(rib, 5)) == 13
    assert all(rib.paths(prefix) == (after,) for prefix in prefixes)


def test_what_a_filter_refused_stays_counted_when_the_peer_says_the_same_again() -> None:
    rib, a = AdjRibIn(), peer()
    what = path(a)
    announced(rib, what, P, Q)
    rib.refuse(P, what, True)
    assert rib.counts(a.id) == (2, 1, 0)
    assert announced(rib, what, P, Q) == set()
    assert rib.counts(a.id) == (2, 1, 0), "nothing is decided again, so nobody would count it anew"
    announced(rib, path(a, attributes(local_pref=7)), P)
    assert rib.counts(a.id) == (2, 2, 0)


def test_a_sweep_under_way_spares_what_the_same_session_says_again() -> None:
    """A refresh (RFC 7313) leaves a path out, and then the session announces it: the codec makes it the same object."""
    rib, a, other = AdjRibIn(), peer(), path(peer("10.0.1.9"))
    prefixes = [pfx(f"10.{n}.0.0/26") for n in range(20)]
    same = path(a)
    announced(rib, same, *prefixes)
    announced(rib, other, prefixes[3])
    rib.mark_stale(a.id)
    assert rib.sweep_stale(a.id) == 20
    announced(rib, same, *prefixes)
    drain(rib, 7)
    assert all(rib.paths(prefix) == (same,) for prefix in prefixes if prefix != prefixes[3])
    assert set(rib.paths(prefixes[3])) == {same, other} and len(rib.paths(prefixes[3])) == 2
    assert rib.counts(a.id) == (20, 20, 0)
    announced(rib, path(a, attributes(local_pref=7)), *prefixes)
    assert all(same not in rib.paths(prefix) for prefix in prefixes)
    rib.flush(a.id)
    drain(rib, 7)
    assert rib.candidates == {prefixes[3]: other}


def test_refused_paths_are_counted_through_all_changes() -> None:
    rib, a = AdjRibIn(), peer()
    bad, good = path(a, attributes(1)), path(a)
    announced(rib, bad, P, Q, refused=True)
    announced(rib, good, R)
    assert rib.counts(a.id) == (3, 1, 0)
    announced(rib, good, P)
    assert rib.counts(a.id) == (3, 2, 0)
    rib.mark_stale(a.id)
    assert rib.counts(a.id) == (3, 2, 3)
    fresh = again(a)
    announced(rib, path(fresh, attributes(1)), Q, R, refused=True)
    assert rib.counts(a.id) == (3, 1, 1)
    announced(rib, path(fresh), Q)
    rib.withdraw(fresh, [R], 0, {})
    assert rib.counts(a.id) == (2, 2, 1)
    announced(rib, path(fresh, attributes(1)), P, refused=True)
    rib.mark_stale(a.id)
    assert rib.counts(a.id) == (2, 1, 2)
    rib.sweep_stale(a.id)
    assert rib.counts(a.id) == (0, 0, 0)
    rib.flush(a.id)
    drain(rib)
    assert rib.candidates == {}
