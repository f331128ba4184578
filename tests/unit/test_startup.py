"""The end of a start: every peer has announced all, or its time has passed."""

from dataclasses import replace

import pytest

from bgpd.daemon.startup import (
    DEADLINE_SECONDS,
    EARLY_SECONDS,
    QUIET_SECONDS,
    UNREADY_AFTER_SECONDS,
    UNREADY_AGAIN_SECONDS,
    Convergence,
    Unready,
)
from bgpd.model.peer import DialAnswer, PeerConfig, PeerId
from tests.unit.builders import BOTH, V4, V6, peer_config

A, B = peer_config("10.0.1.1"), peer_config("10.0.1.2", families=BOTH)
BEGUN = 500.0


def begin(*configs: PeerConfig) -> Convergence:
    found = Convergence()
    found.configured({config.id: config for config in configs}, BEGUN)
    return found


def test_unknown_peers_are_waited_for_without_end() -> None:
    assert not Convergence().over(1e9)


def test_no_peers_no_wait() -> None:
    assert begin().over(BEGUN)


def test_end_of_rib_of_every_family_of_every_peer() -> None:
    start = begin(A, B)
    assert start.waiting(BEGUN) == [A.id, B.id]
    start.peer_established(A.id, frozenset({V4}), BEGUN)
    start.family_whole(A.id, V4)
    assert start.waiting(BEGUN) == [B.id]
    start.peer_established(B.id, BOTH, BEGUN)
    start.family_whole(B.id, V4)
    assert not start.over(BEGUN)
    start.family_whole(B.id, V6)
    assert start.over(BEGUN)


def test_a_family_that_the_session_does_not_carry_is_not_waited_for() -> None:
    start = begin(B)
    start.peer_established(B.id, frozenset({V4}), BEGUN)
    assert not start.over(BEGUN)
    start.family_whole(B.id, V4)
    assert start.over(BEGUN)


def test_the_deadline_counts_from_when_the_peers_were_known() -> None:
    """Resources that come a minute after the process do not end the start the moment they are there."""
    start = begin(A)
    assert not start.over(BEGUN + DEADLINE_SECONDS - 0.1)
    assert start.over(BEGUN + DEADLINE_SECONDS)


def test_later_configurations_do_not_move_the_deadline() -> None:
    start = begin(A)
    start.configured({A.id: A, B.id: B}, BEGUN + 40.0)
    assert start.waiting(BEGUN + 41.0) == [A.id, B.id]
    assert start.over(BEGUN + DEADLINE_SECONDS)


@pytest.mark.parametrize("answer", [DialAnswer.REFUSED, DialAnswer.SILENT])
def test_peers_that_cannot_be_dialled_hold_up_no_start(answer: DialAnswer) -> None:
    start = begin(A, B)
    assert start.waiting(BEGUN) == [A.id, B.id]
    start.dial_answered(A.id, answer)
    assert start.waiting(BEGUN) == [B.id], "at once"
    start.dial_answered(B.id, answer)
    assert start.keeping(BEGUN) == [A.id, B.id], "what they announced before is another matter"
    assert start.over(BEGUN)


def test_a_peer_without_graceful_restart_has_told_all_when_it_is_quiet() -> None:
    start = begin(A)
    start.peer_established(A.id, frozenset({V4}), BEGUN + 1.0, end_of_rib=False)
    start.routes_came(A.id, BEGUN + 2.0)
    assert start.waiting(BEGUN + 1.9 + QUIET_SECONDS) == start.keeping(BEGUN + 1.9 + QUIET_SECONDS) == [A.id]
    start.routes_came(A.id, BEGUN + 4.0)
    assert start.waiting(BEGUN + 3.9 + QUIET_SECONDS) == [A.id], "it goes on announcing"
    assert start.keeping(BEGUN + 4.0 + QUIET_SECONDS) == [] and start.over(BEGUN + 4.0 + QUIET_SECONDS)


@pytest.mark.parametrize("other", [DialAnswer.CONNECTED, DialAnswer.NONE])
def test_one_dial_that_ended_otherwise_keeps_the_long_wait(other: DialAnswer) -> None:
    for answers in ((DialAnswer.REFUSED, other), (other, DialAnswer.SILENT)):
        start = begin(A)
        for answer in answers:
            start.dial_answered(A.id, answer)
        assert not start.over(BEGUN + EARLY_SECONDS)
    once_up = begin(A)
    once_up.peer_established(A.id, frozenset({V4}), BEGUN)
    once_up.dial_answered(A.id, DialAnswer.REFUSED)
    assert not once_up.over(BEGUN + EARLY_SECONDS)
    assert not begin(A).over(BEGUN + EARLY_SECONDS), "a peer that dials us was never refused"


def kept_until(start: Convergence) -> float:
    """Seconds from the begin until the routes of before are swept, to a tenth."""
    return next(tenth / 10 for tenth in range(2000) if not start.keeping(BEGUN + tenth / 10))


@pytest.mark.parametrize(
    ("answers", "seconds"),
    [
        ((DialAnswer.REFUSED,), 120.0),
        ((DialAnswer.SILENT, DialAnswer.REFUSED), 120.0),
        ((DialAnswer.REFUSED, DialAnswer.SILENT), 120.0),
        ((DialAnswer.REFUSED, DialAnswer.CONNECTED), 120.0),
        ((DialAnswer.SILENT, DialAnswer.SILENT), EARLY_SECONDS),
        ((DialAnswer.SILENT, DialAnswer.CONNECTED), DEADLINE_SECONDS),
        ((DialAnswer.NONE,), DEADLINE_SECONDS),
        ((), DEADLINE_SECONDS),
    ],
    ids=str,
)
def test_a_neighbour_whose_daemon_is_down_is_not_gone(
    answers: tuple[DialAnswer, ...], seconds: float
) -> None:
    """Who refuses lives, and forwards: its routes stay as if its session had ended when we started."""
    start = begin(A)
    for answer in answers:
        start.dial_answered(A.id, answer)
    assert kept_until(start) == seconds
    assert start.over(BEGUN + DEADLINE_SECONDS), "nobody else waits for that"
    assert kept_until(start) == seconds


def test_the_restart_time_of_the_session_says_how_long() -> None:
    start = begin(replace(A, restart_time=60))
    start.dial_answered(A.id, DialAnswer.REFUSED)
    assert kept_until(start) == 60.0


def test_a_neighbour_that_dials_us_and_did_not_come_is_not_gone_either() -> None:
    start = begin(replace(A, passive=True))
    assert start.over(BEGUN + DEADLINE_SECONDS)
    assert kept_until(start) == 120.0
    start.peer_established(A.id, frozenset({V4}), BEGUN)
    assert kept_until(start) == DEADLINE_SECONDS, "it has come, and has not announced all"


def test_what_the_peer_announces_ends_the_keeping() -> None:
    start = begin(A, B)
    for each in (A, B):
        start.dial_answered(each.id, DialAnswer.REFUSED)
    start.peer_established(A.id, frozenset({V4}), BEGUN)
    start.family_whole(A.id, V4)
    assert start.keeping(BEGUN + 60.0) == [B.id]
    start.configured({A.id: A}, BEGUN + 60.0)
    assert start.keeping(BEGUN + 60.0) == []


def test_a_peer_that_is_no_longer_wanted_is_not_waited_for() -> None:
    start = begin(A, B)
    start.peer_established(A.id, frozenset({V4}), BEGUN)
    start.family_whole(A.id, V4)
    start.configured({A.id: A}, BEGUN + 1)
    assert start.over(BEGUN + 1)


def test_over_is_for_good() -> None:
    start = begin()
    assert start.over(BEGUN)
    start.configured({PeerId("new"): A}, BEGUN + 1)
    assert start.over(BEGUN + 1)
    assert start.waiting(BEGUN + 1) == []


def test_a_start_that_waits_says_so_and_again() -> None:
    unready = Unready()
    no_node = "not ready: datastore: there is no Node 'worker1'; waited for in /etc/bgpd/resources"
    assert not unready.due(no_node, 10.0)  # a start of its usual length says nothing
    assert not unready.due("", 10.5)
    assert not unready.due(no_node, 20.0)
    assert not unready.due(no_node, 20.0 + UNREADY_AFTER_SECONDS - 0.1)
    assert unready.due(no_node, 20.0 + UNREADY_AFTER_SECONDS)
    assert not unready.due(no_node, 24.0)
    assert unready.due("not ready: kernel", 25.0)  # another reason
    assert not unready.due("not ready: kernel", 25.0 + UNREADY_AGAIN_SECONDS - 0.1)
    assert unready.due("not ready: kernel", 25.0 + UNREADY_AGAIN_SECONDS)
