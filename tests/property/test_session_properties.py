"""Sessions that break and come back, refreshes, path identifiers, sockets that are full: the end alone decides.

The same comparison as in ``test_policy_properties``, of a router and its update groups that lived through it all with
ones that are sent the end, here with what sessions do: routes that a peer left behind stay until it has announced all
again or its time is up (RFC 4724 §4.2), a refresh replaces what was sent (RFC 7313), and a slow reader hears the newest
only.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bgpd.bgp import outbound
from bgpd.model.peer import Peer
from bgpd.model.route import (
    Announce,
    BeginRefresh,
    EndOfRib,
    EndRefresh,
    Path,
    RibEvent,
    Unresolved,
    Withdraw,
)
from bgpd.rules.policy import RoutePolicy
from tests.property.test_policy_properties import OFFERED, ORIGINS, PEERS, PREFIXES, Lived, policies
from tests.unit.builders import V4, lost, path, pfx

NAMES = sorted(PEERS)
FAMILY = frozenset({V4})
ENCODED = 1
"""Of ``OFFERED``: with a LOCAL_PREF that carries a metric."""
Announced = dict[tuple[str, int], int]
"""(prefix, path identifier) -> which attributes."""


@st.composite
def any_policies(draw: st.DrawFn) -> RoutePolicy:
    modes: list[Literal["auto", "on", "off"]] = ["on", "off", "auto", "auto"]
    mode = draw(st.sampled_from(modes))
    return replace(draw(policies()), priorities=mode, priorities_set=draw(st.booleans()))


name = st.sampled_from(NAMES)
path_id = st.sampled_from([0, 0, 5])
announce = st.tuples(
    st.just("say"),
    name,
    st.integers(0, len(OFFERED) - 1),
    st.lists(st.sampled_from(PREFIXES), min_size=1, max_size=3, unique=True),
    path_id,
)
EVENT = st.one_of(
    announce,
    announce,
    st.tuples(st.just("take_back"), name, st.sampled_from(PREFIXES), path_id),
    st.tuples(st.just("up"), name),
    st.tuples(st.just("lose"), name, st.booleans()),
    st.tuples(st.just("begin"), name),
    st.tuples(st.just("end"), name),
    st.tuples(st.just("forget"), name),
    st.tuples(st.just("fill"), name),
    st.tuples(st.just("drain"), name),
    st.tuples(st.just("refresh"), name),
    st.tuples(st.just("policy"), any_policies()),
    st.tuples(st.just("originate"), st.integers(0, len(ORIGINS) - 1)),
    st.tuples(st.just("hop"), st.sampled_from(["10.0.1.30", "10.0.2.1"]), st.booleans()),
    st.tuples(st.just("work")),
    st.tuples(st.just("work")),
)


class Longer(Lived):
    """``Lived`` with sessions that are others each time they come up, and what each has announced in the present
    one."""

    def __init__(self) -> None:
        super().__init__()
        self.session: dict[str, Peer] = {}
        self.now: dict[str, Announced] = {each: {} for each in NAMES}
        self.kept: dict[str, Announced] = {each: {} for each in NAMES}
        """What a peer announced before it broke, or before a refresh, and not yet again."""
        self.due: dict[str, RibEvent | None] = dict.fromkeys(NAMES)
        """What ends the announcement that is under way."""
        self.full: set[str] = set()
        self.dead: set[str] = set()
        """Next hops that lead nowhere."""
        self._paths: dict[tuple[str, int, int], Path] = {}
        deliver = self.wire.outbound._send
        self.wire.outbound._send = lambda to, octets: deliver(to, octets) and str(to.id) not in self.full

    def hear(self, name: str, event: RibEvent) -> None:
        self.core.router.learn_routes(self.session[name], [event], 0.0)

    def on_up(self, name: str) -> None:
        if name in self.up:
            return
        self.up.add(name)
        self._paths = {key: found for key, found in self._paths.items() if key[0] != name}
        session = self.session[name] = replace(
            PEERS[name],
            restart_families=FAMILY,
            restart_time=120.0,
            forwarding_preserved=FAMILY,
            sends_end_of_rib=True,
            enhanced_refresh=True,
        )
        self.due[name] = EndOfRib(V4)
        self.core.router.session_up(session, 0.0)
        self.wire.outbound.add_session(session, self.core.router.groups_of(session))

    def on_lose(self, name: str, keep: bool) -> None:
        if name not in self.up:
            return
        self.up.discard(name)
        session = self.session.pop(name)
        self.wire.outbound.remove_session(session)
        self.core.router.session_down(session, lost(*FAMILY) if keep else lost(), 0.0)
        self.kept[name], self.now[name] = (self.now[name] if keep else {}), {}

    def on_forget(self, name: str) -> None:
        if name not in self.up:
            self.core.router.forget_peer(PEERS[name].id)
            self.kept[name] = {}

    def on_say(self, name: str, which: int, prefixes: list[str], path_id: int) -> None:
        if name not in self.up:
            return
        key = name, which, path_id
        if key not in self._paths:  # as the codec does, for a session
            self._paths[key] = path(self.session[name], OFFERED[which], path_id=path_id)
        for text in prefixes:
            self.now[name][text, path_id] = which
            self.kept[name].pop((text, path_id), None)
        self.hear(name, Announce(V4, self._paths[key], [pfx(text) for text in prefixes]))

    def on_take_back(self, name: str, prefix: str, path_id: int) -> None:
        if name in self.up:
            for announced in (self.now[name], self.kept[name]):
                announced.pop((prefix, path_id), None)
            self.hear(name, Withdraw(V4, [pfx(prefix)], path_id))

    def on_begin(self, name: str) -> None:
        if name in self.up and self.due[name] is None:
            self.kept[name], self.now[name] = self.now[name], {}
            self.due[name] = EndRefresh(V4)
            self.hear(name, BeginRefresh(V4))

    def on_end(self, name: str) -> None:
        if name in self.up and (event := self.due[name]):
            self.due[name], self.kept[name] = None, {}
            self.hear(name, event)

    def on_fill(self, name: str) -> None:
        self.full.add(PEERS[name].id)

    def on_drain(self, name: str) -> None:
        self.full.discard(PEERS[name].id)
        if name in self.up:
            self.wire.outbound.resume_sending(self.session[name])

    def on_refresh(self, name: str) -> None:
        if name in self.up:
            self.wire.outbound.refresh(self.session[name], V4)

    def on_hop(self, text: str, alive: bool) -> None:
        (self.dead.discard if alive else self.dead.add)(text)
        changed = self.core.resolver.set(text, None if alive else Unresolved.LINK_DOWN)
        self.core.router.review_next_hops(changed)

    def finish(self) -> None:
        for name in NAMES:
            self.on_drain(name)
            self.on_end(name)
        self.core.router.tick(1e9)
        self.wire.outbound.release_end_of_rib()
        self.settle()

    def fresh(self) -> Longer:
        """One that is given the end of this one."""
        new = Longer()
        if self.core.router.encoded:  # seen once, it stays so
            new.core.router.workloads_ranked(True)
        new.on_policy(self.policy)
        new.on_originate(self.origin)
        for text in self.dead:
            new.on_hop(text, False)
        for name in sorted(self.up, reverse=True):
            new.on_up(name)
            for (text, path_id), which in self.now[name].items():
                new.on_say(name, which, [text], path_id)
        new.finish()
        return new

    def advertised(self, name: str) -> Counter[object]:
        """What a peer heard, but for path identifiers."""
        heard, hops = (table.get(self.session[name], {}) for table in (self.wire.heard, self.wire.hops))
        return Counter((key[0], announced, hops[key]) for key, announced in heard.items())


@given(st.lists(EVENT, min_size=6, max_size=40))
@settings(max_examples=150)
def test_the_end_alone_decides(events: list[tuple[object, ...]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outbound, "CHUNK", 2)
        lived = Longer()
        lived.on_originate(0)
        for name in NAMES:
            lived.on_up(name)
        for event in events:
            lived.event(event)
        lived.finish()
        fresh = lived.fresh()
    router, other = lived.core.router, fresh.core.router
    assert lived.core.prioritised == fresh.core.prioritised
    assert lived.core.fib == fresh.core.fib
    assert router.groups == other.groups
    assert router.adj_rib_in(V4).candidates.keys() == other.adj_rib_in(V4).candidates.keys()
    for name in NAMES:
        peer_id = PEERS[name].id
        assert router.counts(peer_id, V4) == other.counts(peer_id, V4), name
        if name in lived.up:
            assert lived.advertised(name) == fresh.advertised(name), name
            assert lived.wire.outbound.queue_length(peer_id) == 0
