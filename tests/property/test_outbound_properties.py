"""What each session has understood in the end is the table without what it announced itself or is
the next hop of, however slowly it read."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from bgpd.model.peer import Peer
from bgpd.model.prefix import prefix_text
from bgpd.model.route import Out
from tests.unit.builders import ME, V4, Line, again, attributes, peer, pfx

PEERS = [peer(f"10.0.1.{number}") for number in range(1, 4)]
PREFIXES = [pfx(f"10.48.0.{number * 64}/26") for number in range(4)]

outs = st.one_of(
    st.none(),
    st.builds(
        lambda asn, next_hop, source: Out(attributes(asn, local_pref=100), next_hop, source),
        st.sampled_from([1, 2]),
        st.sampled_from([ME, PEERS[0].config.address]),
        st.one_of(st.none(), st.sampled_from([each.id for each in PEERS])),
    ),
)
who = st.integers(0, len(PEERS) - 1)
actions = st.one_of(
    st.tuples(st.just("change"), st.dictionaries(st.sampled_from(PREFIXES), outs, min_size=1)),
    st.tuples(st.just("change"), st.dictionaries(st.sampled_from(PREFIXES), outs, min_size=1)),
    st.tuples(st.just("join"), who),
    st.tuples(st.just("leave"), who),
    st.tuples(st.just("fill"), who),
    st.tuples(st.just("drain"), who),
    st.tuples(st.just("refresh"), who),
    st.tuples(st.just("work"), st.booleans()),
    st.tuples(st.just("release")),
)


class Sessions:
    """A line and what each session has understood so far."""

    def __init__(self) -> None:
        self.line = Line()
        self.now: dict[int, Peer] = {}
        self.before = list(PEERS)
        self.understood: dict[Peer, set[str]] = {}
        self.ends: dict[Peer, int] = {}

    def listen(self) -> None:
        for session in list(self.line.sent):
            known = self.understood.setdefault(session, set())
            for word in self.line.heard(session):
                if word[0] == "+":
                    known.add(word[1:])
                elif word[0] == "-":
                    known.discard(word[1:])
                else:
                    self.ends[session] = self.ends.get(session, 0) + 1

    def change(self, changes: dict[bytes, Out | None]) -> None:
        self.line.change(changes)  # type: ignore[arg-type]

    def join(self, number: int) -> None:
        self.now[number] = self.before[number] = again(self.before[number])
        self.line.join(self.now[number])

    def leave(self, number: int) -> None:
        if session := self.now.pop(number, None):
            self.line.leave(session)

    def fill(self, number: int) -> None:
        if session := self.now.get(number):
            self.line.full.add(session)

    def drain(self, number: int) -> None:
        if session := self.now.get(number):
            self.line.full.discard(session)
            self.line.it.resume_sending(session)

    def refresh(self, number: int) -> None:
        if session := self.now.get(number):
            self.line.it.refresh(session, V4)

    def work(self, settled: bool) -> None:
        self.line.it.work(settled)

    def release(self) -> None:
        self.line.it.release_end_of_rib()


@given(st.lists(actions, max_size=30))
@settings(max_examples=200)
def test_what_is_understood_is_the_table(history: list[tuple[object, ...]]) -> None:
    sessions = Sessions()
    for name, *arguments in history:
        getattr(sessions, str(name))(*arguments)
        sessions.listen()
    sessions.release()
    for number in list(sessions.now):
        sessions.drain(number)
    sessions.line.settle()
    sessions.listen()
    table = sessions.line.tables[V4]
    for session in sessions.now.values():
        expected = {
            prefix_text(V4, prefix)
            for prefix, out in table.items()
            if out.source != session.id and out.next_hop != session.config.address
        }
        assert sessions.understood.get(session, set()) == expected
        assert sessions.line.it.advertised(session.id, V4) == len(expected)
        assert sessions.line.it.queue_length(session.id) == 0
        assert sessions.ends[session] == 1
