"""The end of a start: every peer has told all, or its time has passed."""

from bgpd.daemon.startup import DEADLINE, REFUSED_DEADLINE, UNREADY_AFTER, UNREADY_AGAIN, Convergence, Unready
from bgpd.model.peer import PeerConfig, PeerId
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
    start.established(A.id, frozenset({V4}))
    start.heard(A.id, V4)
    assert start.waiting(BEGUN) == [B.id]
    start.established(B.id, BOTH)
    start.heard(B.id, V4)
    assert not start.over(BEGUN)
    start.heard(B.id, V6)
    assert start.over(BEGUN)


def test_a_family_that_the_session_does_not_carry_is_not_waited_for() -> None:
    start = begin(B)
    start.established(B.id, frozenset({V4}))
    assert not start.over(BEGUN)
    start.heard(B.id, V4)
    assert start.over(BEGUN)


def test_the_deadline_counts_from_when_the_peers_were_known() -> None:
    """Resources that come a minute after the process do not end the start the moment they are there."""
    start = begin(A)
    assert not start.over(BEGUN + DEADLINE - 0.1)
    assert start.over(BEGUN + DEADLINE)


def test_later_configurations_do_not_move_the_deadline() -> None:
    start = begin(A)
    start.configured({A.id: A, B.id: B}, BEGUN + 40.0)
    assert start.waiting(BEGUN + 41.0) == [A.id, B.id]
    assert start.over(BEGUN + DEADLINE)


def test_refused_peers_are_given_up_early() -> None:
    start = begin(A)
    start.attempted(A.id, True)
    start.attempted(A.id, True)
    assert not start.over(BEGUN + REFUSED_DEADLINE - 0.1)
    assert start.over(BEGUN + REFUSED_DEADLINE)


def test_one_dial_that_was_not_refused_keeps_the_long_wait() -> None:
    for answers in ((True, False), (False, True)):
        start = begin(A)
        for refused in answers:
            start.attempted(A.id, refused)
        assert not start.over(BEGUN + REFUSED_DEADLINE)
    once_up = begin(A)
    once_up.established(A.id, frozenset({V4}))
    once_up.attempted(A.id, True)
    assert not once_up.over(BEGUN + REFUSED_DEADLINE)
    assert not begin(A).over(BEGUN + REFUSED_DEADLINE), "a peer that dials us was never refused"


def test_a_peer_that_is_no_longer_wanted_is_not_waited_for() -> None:
    start = begin(A, B)
    start.established(A.id, frozenset({V4}))
    start.heard(A.id, V4)
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
    assert not unready.due(no_node, 20.0 + UNREADY_AFTER - 0.1)
    assert unready.due(no_node, 20.0 + UNREADY_AFTER)
    assert not unready.due(no_node, 24.0)
    assert unready.due("not ready: kernel", 25.0)  # another reason
    assert not unready.due("not ready: kernel", 25.0 + UNREADY_AGAIN - 0.1)
    assert unready.due("not ready: kernel", 25.0 + UNREADY_AGAIN)
