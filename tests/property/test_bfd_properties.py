"""BFD: any octets, any packets, any path: no crash, the RFC's rules hold all along, and a path that is good ends Up."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from bgpd.bfd.packet import Packet, Refused, decode, encode
from bgpd.bfd.session import SLOW, Session
from bgpd.model.bfd import BfdState, BfdTiming
from tests.unit.bfd_pair import Pair

UP = BfdState.UP
MICRO = 1e-6
word = st.one_of(st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 50_000, 300_000, 1_000_000, 2**32 - 1]))
packets = st.builds(
    Packet,
    state=st.sampled_from(BfdState),
    my_discriminator=st.one_of(st.integers(1, 2**32 - 1), st.just(23)),
    your_discriminator=st.just(17),
    desired_min_tx=word,
    required_min_rx=word,
    multiplier=st.integers(1, 255),
    diagnostic=st.integers(0, 31),
    poll=st.booleans(),
    final=st.booleans(),
    control_plane_independent=st.booleans(),
    demand=st.booleans(),
    required_min_echo_rx=word,
)
timings = st.builds(
    BfdTiming, st.integers(10_000, 1_000_000), st.integers(10_000, 1_000_000), st.integers(1, 10)
)
steps = st.one_of(
    st.tuples(st.just("packet"), packets),
    st.tuples(st.just("wait"), st.floats(0.0, 3.0)),
    st.tuples(st.just("due")),
    st.tuples(st.just("configure"), timings),
    st.tuples(st.just("take_down")),
)


@given(st.binary(max_size=40))
@settings(deadline=None)
def test_any_octets_are_a_packet_or_refused(octets: bytes) -> None:
    try:
        packet = decode(octets)
    except Refused:
        return
    assert decode(encode(packet)) == packet
    assert len(octets) >= 24 and packet.multiplier and packet.my_discriminator


@given(packets)
@settings(deadline=None)
def test_what_is_encoded_is_decoded(packet: Packet) -> None:
    assert decode(encode(packet)) == packet


@given(timings, st.lists(steps, max_size=40), st.integers(0, 5))
@settings(deadline=None)
def test_any_story_keeps_the_rules(timing: BfdTiming, story: list[tuple], seed: int) -> None:  # type: ignore[type-arg]
    """What a hostile peer may say, an operator order and time bring, in any order."""
    session, now = Session(timing, 17, Random(seed), 0.0), 0.0
    asked = 0  # polls, each worth one answer
    down = False
    for kind, *what in story:
        before = session.state
        if kind == "packet":
            try:
                session.receive(what[0], now)
            except Refused:
                assert before is BfdState.ADMIN_DOWN
            else:
                asked += what[0].poll
        elif kind == "wait":
            now += what[0]
            session.tick(now)
        elif kind == "due":
            due = session.next_deadline()
            if due is not None:
                now = max(now, due)
                session.tick(now)
                again = session.next_deadline()
                assert again is None or again > now or session.over(now), "time stands still"
        elif kind == "configure":
            session.configure(what[0], now)
        else:
            session.take_down(now)
            down = True
        for packet in session.packets_to_send():
            assert not (packet.poll and packet.final)
            assert not packet.demand and not packet.control_plane_independent
            assert packet.my_discriminator == 17
            assert packet.desired_min_tx >= (session.timing.min_tx if packet.state is UP else SLOW)
            asked -= packet.final
            decode(encode(packet))
        assert asked == 0, "each poll has its answer, and nothing else has"
        assert not (down and session.state is not BfdState.ADMIN_DOWN)
        if session.state is UP:
            assert session.remote_discr, "up with a peer that is known"
        changes = session.changes()
        if (before is UP) != (session.state is UP):
            assert changes and changes[-1].up == (session.state is UP)


slower = timings.map(lambda timing: timing._replace(min_tx=timing.min_tx * 9, min_rx=timing.min_rx * 9))
"""So that a minute of two sessions is not a hundred thousand packets."""


@given(slower, slower, st.integers(0, 100), st.floats(0.0, 0.05), st.integers(0, 2**16 - 1))
@settings(deadline=None, max_examples=40)
def test_a_good_path_ends_up_and_stays(
    a: BfdTiming, b: BfdTiming, seed: int, delay: float, lost: int
) -> None:
    """Whatever was lost of the first sixteen packets."""
    pair = Pair(a, b, seed=seed, delay=delay)
    count = iter(range(10**9))

    def lossy(sender: str, packet: Packet) -> bool:
        place = next(count)
        return place < 16 and bool(lost >> place & 1)

    pair.lossy = lossy
    pair.run(120.0)
    # A detection time no longer than an interval and its flight is not enough for any path (a multiplier of one).
    if 1 not in (a.multiplier, b.multiplier):
        assert pair.a.state is pair.b.state is UP
        pair.changes.clear()
        pair.run(60.0)
        assert pair.changes == []
        assert not pair.a.polling and not pair.b.polling
        assert pair.a.detection_time == b.multiplier * max(a.min_rx, b.min_tx)


@given(slower, st.integers(0, 100))
@settings(deadline=None, max_examples=30)
def test_silence_is_noticed_in_time(timing: BfdTiming, seed: int) -> None:
    pair = Pair(timing._replace(multiplier=3), timing._replace(multiplier=3), seed=seed)
    pair.run(30.0)
    assert pair.a.state is UP
    detection, died = pair.a.detection_time * MICRO, pair.now
    pair.dead.add("b")
    pair.run(detection + 0.01)
    assert pair.a.state is BfdState.DOWN
    ((at, _, _),) = [each for each in pair.changes if not each[2].up]
    assert at - died <= detection + 0.01
