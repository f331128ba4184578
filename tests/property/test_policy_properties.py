"""Whatever the order of policies, routes and sessions: what is wanted and advertised is that of the state they end in.

A router that lived through it all is compared with one that is sent the end alone; and a session's peer, which hears
only what the update groups put on the wire, with the table of the session's group.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from bgpd.bgp.outbound import Outbound
from bgpd.bgp.wire.update import Decoder, Framer
from bgpd.model.peer import Peer, PeerPolicy
from bgpd.model.prefix import Prefix
from bgpd.model.resources import (
    Action,
    AddCommunity,
    BGPFilter,
    FilterRule,
    MatchOperator,
    NextHopMode,
    SetPriority,
)
from bgpd.model.route import Announce, Attributes, Originated, OriginKind, Path, RibEvent, Withdraw
from bgpd.rules.policy import FamilyPolicy, KernelRule, RoutePolicy
from tests.unit.builders import V4, V6, Core, addr, attributes, lost, origination, path, peer, pfx, withdraw

WIDE = frozenset({V4})
PEERS = {
    "a": peer("10.0.1.30"),
    "b": peer("10.0.1.31"),
    "wide": replace(peer("10.0.1.32"), add_path_send=WIDE),
    "x": peer("10.0.2.1", 65001),
    "y": peer("10.0.2.2", 65002),
}
PREFIXES = ["10.48.0.0/26", "10.48.0.7/32", "10.48.1.0/26", "192.0.2.0/24"]
OFFERED = [
    attributes(local_pref=100),
    attributes(local_pref=2147483647 - 512),
    attributes(65009, local_pref=100, communities=(5,)),
    attributes(64512, 65009, local_pref=100),
    attributes(local_pref=100, originator_id="9.9.9.9", cluster_list=("1.1.1.1",)),
]
RULES = [
    FilterRule(Action.REJECT, pfx("10.48.0.0/25"), MatchOperator.IN),
    FilterRule(Action.REJECT, community=5),
    FilterRule(Action.ACCEPT, pfx("192.0.2.0/24"), MatchOperator.EQUAL, operations=(AddCommunity(7),)),
    FilterRule(Action.ACCEPT, remote_peers=True, operations=(SetPriority(700),)),
    FilterRule(Action.REJECT),
]
OFFER = Originated(OriginKind.STATIC, "route on eth0")
ORIGINS = [
    origination(pools=["10.48.0.0/16"]),
    origination(blocks=["10.48.0.0/26"], pools=["10.48.0.0/16"]),
    origination(borrowed=["10.48.0.7/32"], pools=["10.48.0.0/16"]),
    replace(origination(hidden_pools=["10.48.1.0/24"]), offered={pfx("192.0.2.0/24"): OFFER}),
]


@st.composite
def policies(draw: st.DrawFn) -> RoutePolicy:
    """A policy that knows all peers."""
    one = st.lists(st.sampled_from(RULES), max_size=2).map(tuple)
    filters = {}
    for name in ("f", "g"):
        announced = {key: {V4: found} for key in ("imports", "exports") if (found := draw(one))}
        filters[name] = BGPFilter(name, **announced)
    known = st.builds(
        PeerPolicy,
        st.sampled_from([(), ("f",), ("g", "f"), ("missing",)]),
        st.sampled_from(NextHopMode),
        st.none(),
        st.booleans(),
        st.integers(0, 1),
    )
    rule = draw(
        st.sampled_from(
            [
                (),
                (KernelRule(pfx("10.48.0.0/16"), False, "Felix"),),
                (KernelRule(pfx("10.48.0.0/16"), True, "ipip", "tunl0", True),),
            ]
        )
    )
    four = FamilyPolicy(
        advertisements=draw(st.sampled_from([(), ((pfx("10.48.0.0/24"), (9,)),)])),
        kernel_rules=rule,
        own_subnet=pfx("10.0.1.0/24"),
        encrypted=draw(st.sampled_from([{}, {addr("10.0.1.31"): "b"}])),
    )
    return RoutePolicy(
        peers={each.id: draw(known) for each in PEERS.values()},
        filters=filters,
        families={V4: four, V6: FamilyPolicy()},
        cluster_id=draw(st.sampled_from([None, addr("1.1.1.1")])),
        priorities=draw(st.sampled_from(["on", "off"])),
    )


EVENT = st.one_of(
    st.tuples(st.just("policy"), policies()),
    st.tuples(st.just("up"), st.sampled_from(sorted(PEERS))),
    st.tuples(st.just("down"), st.sampled_from(sorted(PEERS))),
    st.tuples(
        st.just("announce"),
        st.sampled_from(sorted(PEERS)),
        st.integers(0, len(OFFERED) - 1),
        st.lists(st.sampled_from(PREFIXES), min_size=1, max_size=3, unique=True),
    ),
    st.tuples(st.just("withdraw"), st.sampled_from(sorted(PEERS)), st.sampled_from(PREFIXES)),
    st.tuples(st.just("originate"), st.integers(0, len(ORIGINS) - 1)),
    st.tuples(st.just("tunnel"), st.booleans()),
    st.tuples(st.just("work")),
)


class Wire:
    """What the peers understood of what they were sent."""

    def __init__(self) -> None:
        self.outbound = Outbound(self.send)
        self.heard: dict[Peer, dict[tuple[Prefix, int], Attributes]] = {}
        self.hops: dict[Peer, dict[tuple[Prefix, int], bytes]] = {}

    def send(self, to: Peer, octets: bytes) -> bool:
        framer = Framer()
        framer.feed(octets)
        decoder = Decoder(replace(to, add_path_receive=to.add_path_send))
        while message := framer.take():
            events: list[RibEvent] = []
            decoder.decode(message[1], events)
            for event in events:
                table, hops = self.heard.setdefault(to, {}), self.hops.setdefault(to, {})
                if isinstance(event, Announce):
                    for prefix in event.prefixes:
                        table[prefix, event.path.path_id] = event.path.attributes
                        hops[prefix, event.path.path_id] = event.path.next_hop
                elif isinstance(event, Withdraw):
                    for prefix in event.prefixes:
                        table.pop((prefix, event.path_id), None)
                        hops.pop((prefix, event.path_id), None)
        return True


@dataclass
class Lived:
    """A router that hears everything as it happens, and the end of it."""

    core: Core = field(default_factory=Core)
    wire: Wire = field(default_factory=Wire)
    policy: RoutePolicy = field(default_factory=RoutePolicy)
    origin: int = 0
    tunnel: bool = False
    up: set[str] = field(default_factory=set)
    announced: dict[str, dict[str, Path]] = field(default_factory=lambda: {name: {} for name in PEERS})

    def event(self, what: tuple[object, ...]) -> None:
        getattr(self, f"on_{what[0]}")(*what[1:])

    def on_policy(self, announced: RoutePolicy) -> None:
        self.carry()
        self.policy = announced
        self.wire.outbound.move_sessions(self.core.router.set_policy(announced))

    def on_up(self, name: str) -> None:
        if name not in self.up:
            self.up.add(name)
            session = PEERS[name]
            self.core.router.session_up(session, 0.0)
            self.wire.outbound.add_session(session, self.core.router.groups_of(session))

    def on_down(self, name: str) -> None:
        self.up.discard(name)
        self.announced[name] = {}
        self.wire.outbound.remove_session(PEERS[name])
        self.wire.heard.pop(PEERS[name], None)
        self.wire.hops.pop(PEERS[name], None)
        self.core.router.session_down(PEERS[name], lost(), 0.0)

    def on_announce(self, name: str, which: int, prefixes: list[str]) -> None:
        if name in self.up:
            what = path(PEERS[name], OFFERED[which])
            self.announced[name].update(dict.fromkeys(prefixes, what))
            self.core.router.learn_routes(PEERS[name], [Announce(V4, what, [pfx(text) for text in prefixes])])

    def on_withdraw(self, name: str, prefix: str) -> None:
        if name in self.up:
            self.announced[name].pop(prefix, None)
            self.core.router.learn_routes(PEERS[name], [withdraw(prefix)])

    def on_originate(self, which: int) -> None:
        self.origin = which
        self.core.router.originated({V4: ORIGINS[which]})

    def on_tunnel(self, there: bool) -> None:
        self.tunnel = there
        self.core.router.tunnels_changed({"tunl0": 9} if there else {})

    def on_work(self) -> None:
        self.core.router.work(2)
        self.carry()
        self.wire.outbound.work(settled=not self.core.router.busy)

    def carry(self) -> None:
        changes = self.core.apply()
        for group, advertised in changes.adj_rib_out.items():
            self.wire.outbound.group_changed(group, advertised)

    def settle(self) -> None:
        while self.core.router.work(3):
            pass
        self.carry()
        while self.wire.outbound.work(settled=True):
            pass

    def fresh(self) -> Lived:
        """One that is given the end of this one."""
        new = Lived()
        if self.core.router.encoded:  # seen once, it stays so
            new.core.router.workloads_ranked(True)
        new.on_policy(self.policy)
        new.on_originate(self.origin)
        new.on_tunnel(self.tunnel)
        for name in sorted(self.up, reverse=True):
            new.on_up(name)
            for text, what in self.announced[name].items():
                new.core.router.learn_routes(PEERS[name], [Announce(V4, what, [pfx(text)])])
        new.settle()
        return new

    def advertised(self, name: str) -> Counter[object]:
        """What a peer heard, but for path identifiers."""
        session = PEERS[name]
        heard, hops = self.wire.heard.get(session, {}), self.wire.hops.get(session, {})
        return Counter((key[0], announced, hops[key]) for key, announced in heard.items())


@given(st.lists(EVENT, min_size=6, max_size=30))
@settings(max_examples=120)
def test_the_end_alone_decides(events: list[tuple[object, ...]]) -> None:
    lived = Lived()
    lived.on_originate(0)
    for name in PEERS:
        lived.on_up(name)
    for event in events:
        lived.event(event)
    lived.settle()
    fresh = lived.fresh()
    assert lived.core.fib == fresh.core.fib
    assert lived.core.router.groups == fresh.core.router.groups
    assert lived.core.prioritised == fresh.core.prioritised
    for name in lived.up:
        assert lived.advertised(name) == fresh.advertised(name), name
        assert lived.core.router.counts(PEERS[name].id, V4) == fresh.core.router.counts(PEERS[name].id, V4)
