"""BFD sessions, two of ours or one against packets, in simulated time."""

from __future__ import annotations

import itertools
from random import Random

import pytest

from bgpd.bfd.packet import Packet, Refused, decode, encode
from bgpd.bfd.session import SLOW, Session
from bgpd.model.bfd import BfdState, BfdTiming, Diagnostic
from tests.unit.bfd_pair import Pair

FAST = BfdTiming(100_000, 100_000, 3)
USUAL = BfdTiming()
ADMIN_DOWN, DOWN, INIT, UP = BfdState


def up(a: BfdTiming = FAST, b: BfdTiming = FAST, **options: float) -> Pair:
    pair = Pair(a, b, **options)  # type: ignore[arg-type]
    pair.run(5.0)
    assert pair.a.state is pair.b.state is UP
    pair.sent.clear()
    pair.changes.clear()
    return pair


def alone(timing: BfdTiming = FAST) -> Session:
    return Session(timing, 17, Random(1), 0.0)


def packet(state: BfdState, **what: object) -> Packet:
    fields = {"my_discriminator": 23, "your_discriminator": 17, "desired_min_tx": 100_000}
    return Packet(**({"state": state, "required_min_rx": 100_000, "multiplier": 3} | fields | what))  # type: ignore[arg-type]


def gaps(pair: Pair, name: str) -> list[float]:
    times = [at for at, sender, packet in pair.sent if sender == name and not packet.final]
    return [later - earlier for earlier, later in itertools.pairwise(times)]


def test_the_first_packet_goes_at_once_and_knows_nobody() -> None:
    session = alone()
    session.tick(0.0)
    (first,) = session.packets_to_send()
    assert (first.state, first.my_discriminator, first.your_discriminator) == (DOWN, 17, 0)
    assert (first.desired_min_tx, first.required_min_rx, first.multiplier) == (SLOW, 100_000, 3)
    assert not (first.poll or first.final or first.demand or first.control_plane_independent)


def test_up_within_the_time_of_the_path() -> None:
    pair = Pair(USUAL, USUAL, delay=0.01)
    pair.run(0.1)
    assert pair.a.state is pair.b.state is UP
    assert [(name, change.up) for _, name, change in pair.changes] in (
        [("a", True), ("b", True)],
        [("b", True), ("a", True)],
    )
    assert pair.a.remote_discr == 23
    assert pair.a.local_diag is Diagnostic.NONE


def test_slow_until_it_is_up() -> None:
    """§6.8.3: no faster than once a second."""
    pair = Pair(FAST, FAST)
    pair.dead.add("b")
    pair.run(60.0)
    assert all(0.75 - 1e-6 <= gap <= 1.0 + 1e-6 for gap in gaps(pair, "a"))
    assert 60 <= len(pair.sent) <= 81
    assert {packet.desired_min_tx for _, _, packet in pair.sent} == {SLOW}


def test_fast_once_it_is_up_and_the_peer_learns_it_by_a_poll() -> None:
    pair = Pair(FAST, FAST)
    pair.run(10.0)
    polled = [packet for _, name, packet in pair.sent if name == "a" and packet.poll]
    assert polled and all(packet.desired_min_tx == 100_000 for packet in polled)
    assert any(packet.final for _, name, packet in pair.sent if name == "b")
    assert not pair.a.polling
    assert pair.a.transmit_interval == 100_000
    assert pair.a.detection_time == 300_000


@pytest.mark.parametrize(("multiplier", "most"), [(3, 1.0), (1, 0.9)])
def test_jitter(multiplier: int, most: float) -> None:
    """§6.8.7: up to a quarter less, and never more than 90 % where one lost packet is the end."""
    pair = up(FAST._replace(multiplier=multiplier), FAST)
    pair.run(60.0)
    found = gaps(pair, "a")
    assert all(0.075 - 1e-6 <= gap <= 0.1 * most + 1e-6 for gap in found)
    assert min(found) < 0.08 and max(found) > 0.1 * most - 0.005


def test_the_slower_of_what_one_wants_and_the_other_takes() -> None:
    pair = up(BfdTiming(50_000, 400_000, 5), BfdTiming(300_000, 200_000, 2))
    assert pair.a.transmit_interval == 200_000
    assert pair.b.transmit_interval == 400_000
    assert pair.a.detection_time == 2 * 400_000
    assert pair.b.detection_time == 5 * 200_000


@pytest.mark.parametrize(
    "timing", [FAST, USUAL, BfdTiming(50_000, 1_000_000, 10), BfdTiming(1_000_000, 50_000, 2)]
)
def test_a_peer_that_dies_is_found_dead_within_the_detection_time(timing: BfdTiming) -> None:
    pair = up(timing, timing)
    detection = pair.a.detection_time * 1e-6
    died = pair.now
    pair.dead.add("b")
    pair.run(detection + 1.0)
    ((at, name, change),) = pair.changes
    assert (name, change.up, change.diagnostic) == ("a", False, Diagnostic.DETECTION_TIME_EXPIRED)
    assert not change.ordered
    assert died + detection * (1 - 1 / timing.multiplier) - 1e-6 <= at <= died + detection + 0.01
    sent = [packet for when, _, packet in pair.sent if when >= at]
    assert sent[0].state is DOWN and sent[0].diagnostic == 1 and sent[0].your_discriminator == 0


def test_one_way_loss_takes_both_down() -> None:
    """The one that hears nothing says so to the other."""
    pair = up()
    pair.lossy = lambda sender, packet: sender == "a"
    pair.run(2.0)
    assert {(name, change.diagnostic) for _, name, change in pair.changes} == {
        ("b", Diagnostic.DETECTION_TIME_EXPIRED),
        ("a", Diagnostic.NEIGHBOR_SIGNALED_DOWN),
    }
    pair.run(20.0)
    assert pair.a.state is INIT and pair.b.state is DOWN
    assert len(pair.changes) == 2
    pair.lossy = lambda sender, packet: False
    pair.run(2.0)
    assert pair.a.state is pair.b.state is UP


def test_two_lost_packets_of_three_are_borne() -> None:
    pair = up()
    count = iter(range(10_000))
    pair.lossy = lambda sender, packet: sender == "a" and next(count) % 3 != 2
    pair.run(60.0)
    assert pair.changes == []


def test_a_thread_that_was_held_up_reads_before_it_judges() -> None:
    """What waited unread counts as life: the packets are given first, then time."""
    session = alone()
    session.receive(packet(INIT), 0.0)
    assert session.state is UP
    session.receive(packet(UP), 5.0)
    session.tick(5.0)
    assert session.state is UP


def test_admin_down_is_no_failure() -> None:
    pair = up()
    pair.a.take_down(pair.now)
    pair.collect("a")
    pair.run(0.5)
    assert [(name, change.up, change.ordered) for _, name, change in pair.changes] == [
        ("a", False, True),
        ("b", False, True),
    ]
    assert pair.b.local_diag is Diagnostic.NEIGHBOR_SIGNALED_DOWN
    assert pair.a.over(pair.now), "the peer has answered that it is down"
    sent = pair.sent[0][2]
    assert (sent.state, sent.diagnostic) == (ADMIN_DOWN, Diagnostic.ADMINISTRATIVELY_DOWN)


def test_admin_down_is_sent_for_a_detection_time() -> None:
    """§6.8.16, where the peer does not answer."""
    pair = up()
    pair.dead.add("b")
    pair.a.take_down(pair.now)
    pair.collect("a")
    pair.run(2.0)
    assert not pair.a.over(pair.now)
    pair.run(1.5)
    assert pair.a.over(pair.now)
    assert len(pair.sent) >= 4
    assert {packet.state for _, _, packet in pair.sent} == {ADMIN_DOWN}


def test_taken_down_it_hears_nothing() -> None:
    session = alone()
    session.take_down(0.0)
    with pytest.raises(Refused):
        session.receive(packet(DOWN, your_discriminator=0), 0.1)
    assert session.state is ADMIN_DOWN
    assert session.over(0.1)


@pytest.mark.parametrize(
    ("before", "heard", "after"),
    [
        (DOWN, ADMIN_DOWN, DOWN),
        (DOWN, DOWN, INIT),
        (DOWN, INIT, UP),
        (DOWN, UP, DOWN),
        (INIT, ADMIN_DOWN, DOWN),
        (INIT, DOWN, INIT),
        (INIT, INIT, UP),
        (INIT, UP, UP),
        (UP, ADMIN_DOWN, DOWN),
        (UP, DOWN, DOWN),
        (UP, INIT, UP),
        (UP, UP, UP),
    ],
)
def test_the_state_machine(before: BfdState, heard: BfdState, after: BfdState) -> None:
    """§6.8.6, all of it."""
    session = alone()
    way = {DOWN: [], INIT: [DOWN], UP: [INIT]}[before]
    for state in way:
        session.receive(packet(state), 0.0)
    assert session.state is before
    session.receive(packet(heard), 0.1)
    assert session.state is after


def test_other_intervals_are_sent_by_a_poll_and_hold_once_it_is_confirmed() -> None:
    """§6.8.3: slower sending and faster detection wait for the peer's Final."""
    pair = up()
    pair.lossy = lambda sender, packet: packet.final
    pair.a.configure(BfdTiming(500_000, 50_000, 3), pair.now)
    pair.collect("a")
    assert pair.a.polling
    assert pair.a.transmit_interval == 100_000
    assert pair.a.detection_time == 3 * 100_000
    assert pair.sent[0][2].poll and pair.sent[0][2].desired_min_tx == 500_000
    pair.run(3.0)
    assert pair.a.polling
    pair.lossy = lambda sender, packet: False
    pair.run(3.0)
    assert not pair.a.polling
    assert pair.a.transmit_interval == 500_000
    assert pair.a.detection_time == 3 * 100_000, "the peer sends no faster than it wants"
    assert pair.b.detection_time == 3 * 500_000
    assert pair.changes == []


def test_a_change_during_a_poll_has_a_poll_of_its_own() -> None:
    pair = up()
    pair.a.configure(BfdTiming(500_000, 100_000, 3), pair.now)
    pair.a.configure(BfdTiming(700_000, 100_000, 3), pair.now)
    pair.a.receive(packet(UP, final=True), pair.now)
    assert pair.a.polling
    pair.a.receive(packet(UP, final=True), pair.now)
    assert not pair.a.polling
    assert pair.a.transmit_interval == 700_000


def test_equal_options_change_nothing() -> None:
    pair = up()
    pair.a.configure(FAST, pair.now)
    pair.collect("a")
    assert pair.sent == [] and not pair.a.polling


def test_a_poll_is_answered_at_once() -> None:
    pair = up()
    at = pair.now
    pair.a.receive(packet(UP, poll=True), at)
    (answer,) = pair.a.packets_to_send()
    assert answer.final and not answer.poll


def test_final_and_poll_never_stand_together() -> None:
    """§6.5, also where both sides poll."""
    session = alone()
    session.receive(packet(INIT, poll=True), 0.0)
    sent = session.packets_to_send()
    assert session.polling
    assert [(each.poll, each.final) for each in sent] == [(False, True), (True, False)]


def test_a_peer_in_demand_mode_hears_nothing_but_answers_and_polls() -> None:
    """§6.6: both up, no poll under way."""
    session = alone()
    session.receive(packet(INIT), 0.0)
    session.receive(packet(UP, final=True, demand=True), 0.01)
    session.packets_to_send()
    at = 0.01
    for _ in range(50):
        at += 0.1
        session.receive(packet(UP, demand=True), at)
        session.tick(at)
    assert session.packets_to_send() == []
    session.receive(packet(UP, demand=True, poll=True), at)
    assert [each.final for each in session.packets_to_send()] == [True]
    session.configure(USUAL, at)
    assert [each.poll for each in session.packets_to_send()] == [True]
    session.tick(at + 0.901)
    assert session.state is DOWN, "it is still to be heard"


def test_a_peer_that_asks_for_no_packets_gets_none_and_is_not_lost() -> None:
    """§6.8.7, and what the peer asked for is forgotten with it."""
    session = alone()
    session.receive(packet(DOWN, required_min_rx=0), 0.0)
    session.packets_to_send()
    at = 0.0
    for _ in range(20):
        at += 0.1
        session.receive(packet(DOWN, required_min_rx=0), at)
        session.tick(at)
    assert session.packets_to_send() == []
    session.tick(at + 0.4)
    assert [each.your_discriminator for each in session.packets_to_send()] == [0]
    deadline = session.next_deadline()
    assert deadline is not None and deadline <= at + 1.4


def test_a_peer_forgotten_may_come_back_as_another() -> None:
    pair = up()
    pair.dead.add("b")
    pair.run(1.0)
    assert pair.a.remote_discr == 0
    pair.dead.clear()
    pair.sessions["b"] = Session(FAST, 99, Random(5), pair.now)
    pair.run(2.0)
    assert pair.a.state is UP and pair.a.remote_discr == 99


@pytest.mark.parametrize("timing", [FAST, USUAL, BfdTiming(100_000, 1_000_000, 200)])
def test_it_goes_on_in_the_next_process_and_the_peer_sees_nothing(timing: BfdTiming) -> None:
    """The peer is asked for patience, waits for it, and afterwards finds a dead one as soon as before."""
    pair = up(timing, FAST)
    frozen, patience = pair.a.freeze(), pair.a.patience(10)
    assert frozen is not None
    pair.b.receive(decode(encode(patience)), pair.now)
    pair.collect("b")
    before, discriminator = len(pair.changes), pair.a.local_discr
    pair.dead.add("a")
    pair.run(5)
    pair.dead.discard("a")
    pair.sessions["a"] = Session.thaw(frozen, Random(1), pair.now)
    pair.run(20)
    assert pair.changes[before:] == [] and pair.a.local_discr == discriminator
    assert (pair.a.state, pair.b.state) == (UP, UP)
    assert pair.b.remote_multiplier == timing.multiplier, "the patience was taken back"
    pair.dead.add("a")
    detection = pair.b.detection_time / 1e6
    died = pair.now
    pair.run(detection + 0.1)
    ((at, name, change),) = pair.changes[before:]
    assert name == "b" and not change.up and at <= died + detection + pair.delay


def test_patience_reaches_as_far_as_its_octet() -> None:
    quick = BfdTiming(10_000, 10_000, 3)
    assert up(quick, quick).a.patience(10).multiplier == 255
    assert up(FAST, BfdTiming(100_000, 300_000, 3)).a.patience(10).multiplier == 34
    assert up(BfdTiming(10_000_000, 100_000, 3)).a.patience(10).multiplier == 3


def test_what_is_not_up_does_not_go_along() -> None:
    session = alone()
    assert session.freeze() is None
    session.receive(packet(DOWN, my_discriminator=5), 0.0)
    assert session.state is BfdState.INIT and session.freeze() is None


def test_counters() -> None:
    pair = up()
    pair.dead.add("b")
    pair.run(1.0)
    assert pair.a.ups == 1
    assert pair.a.downs == {Diagnostic.DETECTION_TIME_EXPIRED: 1}
    assert pair.a.sent > 50 and pair.a.received > 50
