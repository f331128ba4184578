"""A collection kept equal to a server's: what is news after a gap, where a watch goes on, how long to wait."""

from __future__ import annotations

from bgpd.datastore.reflector import (
    LONGEST_RETRY_SECONDS,
    REFUSED_RETRY_SECONDS,
    Gone,
    Progress,
    Put,
    Reflector,
    Whole,
)
from bgpd.datastore.trouble import Kind


def reflector(chance: float = 1.0) -> Reflector:
    return Reflector(lambda: chance)


def put(key: str, version: str = "1") -> Put:
    return Put(key, version, {"name": key})


def test_a_list_then_a_watch_from_its_version() -> None:
    r = reflector()
    assert r.begin(0) is None
    assert r.take([put("a"), put("b")]) == [put("a"), put("b")]
    assert not r.synced
    assert r.take([Whole("7")]) == []
    assert (r.synced, r.position, r.resyncs) == (True, "7", 0)
    assert r.take([put("a", "8"), Progress("8")]) == [put("a", "8")]
    assert r.broke(None, 100) == 0
    assert r.begin(100) == "8"


def test_after_a_gap_only_what_differs_is_news() -> None:
    r = reflector()
    r.begin(0)
    r.take([put("same"), put("changed"), put("deleted"), Whole("7")])
    assert r.broke(Kind.EXPIRED, 60) == 0
    assert r.begin(60) is None
    assert r.take([put("same"), put("changed", "9"), put("new", "10")]) == [
        put("changed", "9"),
        put("new", "10"),
    ]
    assert r.take([Whole("11")]) == [Gone("deleted")]
    assert (r.position, r.resyncs) == ("11", 1)


def test_a_list_that_broke_off_takes_nothing_away() -> None:
    r = reflector()
    r.begin(0)
    r.take([put("a"), put("b"), Whole("7")])
    r.broke(Kind.EXPIRED, 60)
    r.begin(60)
    assert r.take([put("a")]) == []
    r.broke(Kind.AWAY, 61)
    assert r.begin(62) is None
    assert r.take([put("a"), put("b"), Whole("8")]) == []


def test_what_was_deleted_while_it_was_listed_is_gone_once() -> None:
    r = reflector()
    r.begin(0)
    assert r.take([put("a"), Gone("a"), Whole("7")]) == [put("a"), Gone("a")]


def test_what_was_known_before_a_restart_is_compared_with() -> None:
    r = reflector()
    assert r.recall([put("a", ""), put("b", "")]) == [put("a", ""), put("b", "")]
    assert not r.synced
    assert r.begin(0) is None
    assert r.take([put("a"), Whole("3")]) == [put("a"), Gone("b")]


def test_retries_wait_longer_and_longer_by_chance() -> None:
    waits = []
    r = reflector(0.0)
    for now in range(12):
        r.begin(now)
        waits.append(r.broke(Kind.AWAY, now))
    assert waits[:4] == [0.125, 0.25, 0.5, 1.0]
    assert waits[-1] == LONGEST_RETRY_SECONDS / 2
    r.begin(100)
    r.take([Whole("1")])
    assert r.broke(Kind.AWAY, 100.1) == 0.125


def test_a_watch_that_ends_at_once_is_not_begun_at_once_again() -> None:
    r = reflector()
    r.begin(0)
    r.take([Whole("1")])
    waits = []
    for now in range(1, 5):
        r.begin(now)
        waits.append(r.broke(None, now + 0.01))
    assert waits == sorted(waits)
    assert waits[-1] > 1


def test_a_history_that_expires_again_and_again_is_no_storm_of_lists() -> None:
    r = reflector()
    waits = []
    for now in range(6):
        r.begin(now)
        waits.append(r.broke(Kind.EXPIRED, now + 0.01))
    assert waits[-1] > 4


def test_the_server_says_how_long_to_wait() -> None:
    r = reflector()
    r.begin(0)
    assert r.broke(Kind.BUSY, 0.1, 7.0) == 7.0
    r.begin(8)
    assert r.broke(Kind.BUSY, 8.1, 3600.0) == 2 * LONGEST_RETRY_SECONDS


def test_what_is_forbidden_is_asked_for_seldom() -> None:
    r = reflector(0.0)
    r.begin(0)
    assert r.broke(Kind.FORBIDDEN, 0.1) == REFUSED_RETRY_SECONDS / 2
