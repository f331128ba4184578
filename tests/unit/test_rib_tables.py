"""Adj-RIB-In: every path by session and by prefix, kept in step through restarts."""

from bgpd.model.route import Path
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


def said(rib: AdjRibIn, what: Path, *prefixes: bytes, refused: bool = False) -> set[bytes]:
    dirty: Dirty = {}
    rib.announce(what, list(prefixes), dirty, refused)  # type: ignore[arg-type]
    return set(dirty)


def test_announce_replace_withdraw() -> None:
    rib, a, b = AdjRibIn(), peer("10.0.1.1"), peer("10.0.1.2")
    first, other = path(a), path(b)
    assert said(rib, first, P, Q) == {P, Q}
    assert said(rib, first, P) == set(), "the same again is nothing new"
    assert said(rib, other, P) == {P}
    assert rib.paths(P) == (first, other)
    better = path(a, attributes(local_pref=200))
    assert said(rib, better, P) == {P}
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
    assert said(whole, what, *prefixes) == set(prefixes)
    for prefix in prefixes:
        said(pieces, what, prefix)
    assert whole.candidates == pieces.candidates
    assert list(whole.peer_paths(a.id)) == list(pieces.peer_paths(a.id))
    second = path(peer("10.0.1.9"))
    assert said(whole, second, *prefixes) == set(prefixes)
    assert whole.paths(prefixes[3]) == (what, second)
    assert said(whole, path(a, attributes(local_pref=7)), *prefixes) == set(prefixes)
    assert len(whole.paths(prefixes[3])) == 2


def test_path_identifiers_are_paths_of_their_own() -> None:
    rib, a = AdjRibIn(), peer()
    one, two = path(a, path_id=1), path(a, path_id=2)
    said(rib, one, P)
    said(rib, two, P)
    assert rib.paths(P) == (one, two)
    assert sorted(found.path_id for _, found, _ in rib.peer_paths(a.id)) == [1, 2]
    dirty: Dirty = {}
    rib.withdraw(a, [P], 0, dirty)
    assert not dirty, "identifier 0 was never announced"
    rib.withdraw(a, [P], 1, dirty)
    assert rib.paths(P) == (two,)
    rib.mark_stale(a.id)
    assert rib.is_stale(P, two)
    said(rib, path(again(a), path_id=2), P)
    assert rib.counts(a.id) == (1, 1, 0)
    rib.flush(a.id)
    assert drain(rib) == {P}
    assert rib.paths(P) == ()


def test_stale_then_announced_again_or_swept() -> None:
    rib, before = AdjRibIn(), peer()
    old = path(before)
    said(rib, old, P, Q)
    rib.mark_stale(before.id)
    assert rib.counts(before.id) == (2, 2, 2)
    assert rib.is_stale(P, old)
    after = again(before)
    new = path(after)
    assert said(rib, new, P) == {P}
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
    said(rib, path(before), P)
    rib.mark_stale(before.id)
    dirty: Dirty = {}
    rib.withdraw(again(before), [P], 0, dirty)
    assert (set(dirty), rib.paths(P), rib.counts(before.id)) == ({P}, (), (0, 0, 0))


def test_a_second_loss_gives_up_what_was_stale() -> None:
    rib, first = AdjRibIn(), peer()
    said(rib, path(first), P, Q)
    rib.mark_stale(first.id)
    second = again(first)
    kept = path(second)
    said(rib, kept, P)
    rib.mark_stale(first.id)
    assert drain(rib) == {Q}
    assert rib.paths(P) == (kept,)
    assert rib.is_stale(P, kept)


def test_a_flush_under_way_spares_the_next_session() -> None:
    rib, before = AdjRibIn(), peer()
    prefixes = [pfx(f"10.{n}.0.0/26") for n in range(20)]
    said(rib, path(before), *prefixes)
    rib.flush(before.id)
    assert rib.counts(before.id) == (0, 0, 0)
    dirty: Dirty = {}
    assert rib.sweep(7, dirty) == 7
    assert len(dirty) == 7
    after = path(again(before))
    said(rib, after, *prefixes)
    assert len(drain(rib, 5)) == 13
    assert all(rib.paths(prefix) == (after,) for prefix in prefixes)


def test_what_a_filter_refused_stays_counted_when_the_peer_says_the_same_again() -> None:
    rib, a = AdjRibIn(), peer()
    what = path(a)
    said(rib, what, P, Q)
    rib.refuse(P, what, True)
    assert rib.counts(a.id) == (2, 1, 0)
    assert said(rib, what, P, Q) == set()
    assert rib.counts(a.id) == (2, 1, 0), "nothing is decided again, so nobody would count it anew"
    said(rib, path(a, attributes(local_pref=7)), P)
    assert rib.counts(a.id) == (2, 2, 0)


def test_a_sweep_under_way_spares_what_the_same_session_says_again() -> None:
    """A refresh (RFC 7313) leaves a path out, and then the session announces it: the codec makes it the same object."""
    rib, a, other = AdjRibIn(), peer(), path(peer("10.0.1.9"))
    prefixes = [pfx(f"10.{n}.0.0/26") for n in range(20)]
    same = path(a)
    said(rib, same, *prefixes)
    said(rib, other, prefixes[3])
    rib.mark_stale(a.id)
    assert rib.sweep_stale(a.id) == 20
    said(rib, same, *prefixes)
    drain(rib, 7)
    assert all(rib.paths(prefix) == (same,) for prefix in prefixes if prefix != prefixes[3])
    assert set(rib.paths(prefixes[3])) == {same, other} and len(rib.paths(prefixes[3])) == 2
    assert rib.counts(a.id) == (20, 20, 0)
    said(rib, path(a, attributes(local_pref=7)), *prefixes)
    assert all(same not in rib.paths(prefix) for prefix in prefixes)
    rib.flush(a.id)
    drain(rib, 7)
    assert rib.candidates == {prefixes[3]: other}


def test_refused_paths_are_counted_through_all_changes() -> None:
    rib, a = AdjRibIn(), peer()
    bad, good = path(a, attributes(1)), path(a)
    said(rib, bad, P, Q, refused=True)
    said(rib, good, R)
    assert rib.counts(a.id) == (3, 1, 0)
    said(rib, good, P)
    assert rib.counts(a.id) == (3, 2, 0)
    rib.mark_stale(a.id)
    assert rib.counts(a.id) == (3, 2, 3)
    fresh = again(a)
    said(rib, path(fresh, attributes(1)), Q, R, refused=True)
    assert rib.counts(a.id) == (3, 1, 1)
    said(rib, path(fresh), Q)
    rib.withdraw(fresh, [R], 0, {})
    assert rib.counts(a.id) == (2, 2, 1)
    said(rib, path(fresh, attributes(1)), P, refused=True)
    rib.mark_stale(a.id)
    assert rib.counts(a.id) == (2, 1, 2)
    rib.sweep_stale(a.id)
    assert rib.counts(a.id) == (0, 0, 0)
    rib.flush(a.id)
    drain(rib)
    assert rib.candidates == {}
