"""The core decides by its present state alone, whatever happened in which order (house rule 4).

A slow model that keeps plain tables and works everything out from them is the judge.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from bgpd.model.peer import Peer, PeerId
from bgpd.model.prefix import Prefix, covers, prefix_text
from bgpd.model.route import (
    BLACKHOLE,
    EndOfRib,
    Forwarding,
    Origin,
    Origination,
    Out,
    Path,
    Resolution,
    Unresolved,
    Via,
)
from bgpd.rib.stale import STALE_SECONDS
from bgpd.rules.decision import judge
from bgpd.rules.exports import GroupKey, group_keys, learned_out, local_out
from bgpd.rules.imports import import_refusal
from tests.unit.builders import (
    V4,
    Core,
    Resolver,
    addr,
    again,
    announce,
    attributes,
    lost,
    origination,
    path,
    peer,
    pfx,
    via,
    withdraw,
)

# The decision.

PEERS = [
    peer("10.0.1.1", router_id="1.1.1.1"),
    peer("10.0.1.2", router_id="1.1.1.1"),
    peer("10.0.1.3"),
    peer("10.0.2.1", 65001),
    peer("10.0.2.2", 65002),
]
COSTS = Resolver(
    {f"10.0.3.{cost}": Resolution(via(f"10.0.3.{cost}"), cost) for cost in range(3)}
    | {"10.0.3.9": Unresolved.NO_ROUTE}
)


@st.composite
def candidates(draw: st.DrawFn) -> list[Path]:
    """A few paths of one prefix: at most one a peer and path identifier, as Adj-RIB-In keeps them."""
    keys = draw(
        st.lists(st.tuples(st.sampled_from(PEERS), st.integers(0, 1)), min_size=1, max_size=5, unique=True)
    )
    found = []
    for by, path_id in keys:
        attrs = attributes(
            *draw(st.lists(st.sampled_from([65001, 65002, 65003, 64512]), max_size=2)),
            origin=draw(st.sampled_from(Origin)),
            med=draw(st.sampled_from([None, 0, 1, 2])),
            local_pref=draw(st.sampled_from([None, 100, 200])),
            originator_id=draw(st.sampled_from([None, "2.2.2.2", "10.0.1.20"])),
            cluster_list=draw(st.sampled_from([(), ("9.9.9.9",)])),
        )
        found.append(
            path(by, attrs, next_hop=f"10.0.3.{draw(st.sampled_from([0, 0, 1, 2, 9]))}", path_id=path_id)
        )
    return found


@given(candidates(), st.integers(1, 3))
@settings(max_examples=150)
def test_select_ignores_order(paths: list[Path], max_paths: int) -> None:
    best, multipath, rejected = judge(paths, COSTS, max_paths)
    for order in permutations(paths):
        assert judge(order, COSTS, max_paths) == (best, multipath, rejected)
    assert set(rejected) == set(paths) - {best}, "each but the best has a reason"
    if best is None:
        assert not multipath
    else:
        assert multipath[0] is best
        assert len(multipath) <= max_paths
        assert len({member.peer.ibgp for member in multipath}) == 1
        assert len({member.attributes.as_path_length for member in multipath}) == 1


@given(candidates())
@settings(max_examples=100)
def test_what_lost_does_not_matter_unless_med_says_so(paths: list[Path]) -> None:
    """Taking away a path that is not in the multipath set, and that rules out nothing by MED, changes nothing."""
    best, multipath, _ = judge(paths, COSTS, 16)
    if any(candidate.attributes.med for candidate in paths):
        return
    for gone in paths:
        if gone not in multipath:
            assert judge([other for other in paths if other is not gone], COSTS, 16)[:2] == (best, multipath)


# The router.

NAMES = {
    "a": ("10.0.1.30", 64512),
    "b": ("10.0.1.31", 64512),
    "x": ("10.0.2.1", 65001),
    "y": ("10.0.2.2", 65002),
}
PREFIXES = ["10.48.0.0/26", "10.48.0.64/26", "10.48.0.40/32", "10.0.1.20/32", "192.0.2.0/24", "0.0.0.0/0"]
HOPS = ["10.0.1.30", "10.0.1.31", "10.0.2.1"]
RESOLUTIONS: list[Resolution | Unresolved | None] = [
    None,
    Unresolved.NO_ROUTE,
    Resolution(via("10.0.1.99"), 0),
    Resolution(via("10.0.1.98", "10.0.1.99"), 5),
]
ORIGINATIONS = [
    Origination(),
    origination(blocks=["10.48.0.0/26"], pools=["10.48.0.0/16"]),
    origination(blocks=["10.48.0.64/26"], borrowed=["10.48.0.40/32"], pools=["0.0.0.0/0"]),
    origination(yielding=["10.48.0.0/26"], pools=["10.48.0.0/16"], borrowed=["10.48.0.40/32"]),
    origination(hidden_blocks=["10.48.0.64/26"], hidden_pools=["10.48.0.0/25"], pools=["10.48.0.0/16"]),
]
LOCALS: list[dict[Prefix, str]] = [{}, {pfx("10.0.1.20/32"): "own"}, {pfx("10.48.0.0/26"): "a subnet"}]
ATTRIBUTES = [
    attributes(local_pref=100),
    attributes(65001, local_pref=100),
    attributes(65002, 65003, med=3),
    attributes(65001, 64512),
    attributes(65001, communities=(0xFFFFFF01,)),
]


@dataclass
class Session:
    """What the model knows of one peer."""

    peer: Peer | None = None
    last: Peer | None = None
    fresh: dict[tuple[Prefix, int], Path] = field(default_factory=dict)
    stale: dict[tuple[Prefix, int], Path] = field(default_factory=dict)
    until: float | None = None


class Model:
    """Plain tables, and everything worked out from them anew."""

    def __init__(self, resolver: Resolver) -> None:
        self.resolver = resolver
        self.sessions = {name: Session() for name in NAMES}
        self.origination, self.local = ORIGINATIONS[0], LOCALS[0]

    def paths(self, prefix: Prefix) -> list[Path]:
        found = []
        for session in self.sessions.values():
            for table in (session.stale, session.fresh):
                found += [candidate for (of, _), candidate in table.items() if of == prefix]
        return found

    def prefixes(self) -> set[Prefix]:
        own = {*self.origination.announce, *self.origination.blackholes}
        return own.union(*({of for of, _ in (*s.stale, *s.fresh)} for s in self.sessions.values()))

    def chosen(self, prefix: Prefix) -> tuple[Path, tuple[Path, ...]] | None:
        """Best and multipath, unless the prefix is ours in some way."""
        hole = self.origination.blackholes.get(prefix)
        if prefix in self.origination.announce or prefix in self.local or (hole and not hole.yields):
            return None
        best, multipath, _ = judge(self.paths(prefix), self.resolver, 16)
        return (best, multipath) if best else None

    def fib(self) -> dict[str, Forwarding]:
        found: dict[str, Forwarding] = {}
        for prefix in self.prefixes():
            chosen = self.chosen(prefix)
            if chosen:
                resolutions = [self.resolver(member.next_hop) for member in chosen[1]]
                hops = [hop for r in resolutions if isinstance(r, Resolution) for hop in r.via.hops]
                found[prefix_text(V4, prefix)] = Via(tuple(hops))
            elif prefix in self.origination.blackholes:
                found[prefix_text(V4, prefix)] = BLACKHOLE
        return found

    def groups(self) -> set[GroupKey]:
        return {group_keys(s.peer)[V4] for s in self.sessions.values() if s.peer}

    def out(self, group: GroupKey) -> dict[Prefix, Out]:
        found: dict[Prefix, Out] = {}
        for prefix in self.prefixes():
            if prefix in self.origination.announce:
                found[prefix] = local_out(group)
                continue
            chosen = self.chosen(prefix)
            out = learned_out(chosen[0], group) if chosen else None
            inside = any(covers(pool, prefix) for pool in self.origination.exported_pools)
            hidden = any(covers(pool, prefix) for pool in self.origination.hidden_pools)
            if isinstance(out, Out) and inside and not hidden and prefix[0]:
                found[prefix] = out
        return found

    def counts(self, name: str) -> tuple[int, int, int]:
        session = self.sessions[name]
        paths = [*session.fresh.values(), *session.stale.values()]
        return len(paths), sum(import_refusal(p) is None for p in paths), len(session.stale)


class Both:
    """A core and the model, given the same; ``times`` is how often the core hears it."""

    def __init__(self) -> None:
        self.resolver = Resolver()
        self.core, self.model = Core(self.resolver), Model(self.resolver)
        self.paths: dict[tuple[Peer, int, str, int], Path] = {}

    def up(self, name: str, preserved: bool, times: int) -> None:
        session = self.model.sessions[name]
        if session.peer:
            return
        kept = [V4] if preserved else []
        address, asn = NAMES[name]
        session.last = session.peer = (
            again(session.last, preserved=kept)
            if session.last
            else peer(address, asn, restart=[V4], preserved=kept)
        )
        if not preserved:
            session.stale, session.until = {}, None
        elif session.until is not None:
            session.until = self.core.now + STALE_SECONDS
        for _ in range(times):
            self.core.router.session_up(session.peer, self.core.now)

    def down(self, name: str, keep: bool, times: int) -> None:
        session = self.model.sessions[name]
        if session.last is None:
            return
        if session.peer:
            session.stale, session.fresh = (session.fresh, {}) if keep else ({}, {})
            session.until = self.core.now + 120.0 if keep else None
        session.peer = None
        for _ in range(times):
            self.core.router.session_down(session.last, lost(*([V4] if keep else [])), self.core.now)

    def announce(self, name: str, which: int, hop: str, path_id: int, texts: list[str], times: int) -> None:
        session = self.model.sessions[name]
        if session.last is None:
            return
        key = (session.last, which, hop, path_id)
        shared = self.paths.setdefault(
            key, path(session.last, ATTRIBUTES[which], next_hop=hop, path_id=path_id)
        )
        if session.peer:
            for text in texts:
                session.fresh[pfx(text), path_id] = shared
                session.stale.pop((pfx(text), path_id), None)
        for _ in range(times):
            self.core.router.learn_routes(session.last, [announce(shared, *texts)])

    def withdraw(self, name: str, path_id: int, texts: list[str], times: int) -> None:
        session = self.model.sessions[name]
        if session.peer is None:
            return
        for text in texts:
            if session.fresh.pop((pfx(text), path_id), None) is None:
                session.stale.pop((pfx(text), path_id), None)
        for _ in range(times):
            self.core.router.learn_routes(session.peer, [withdraw(*texts, path_id=path_id)])

    def end_of_rib(self, name: str, times: int) -> None:
        session = self.model.sessions[name]
        if session.peer is None:
            return
        session.stale, session.until = {}, None
        for _ in range(times):
            self.core.router.learn_routes(session.peer, [EndOfRib(V4)])

    def forget(self, name: str, times: int) -> None:
        session = self.model.sessions[name]
        session.peer, session.stale, session.fresh, session.until = None, {}, {}, None
        for _ in range(times):
            self.core.router.forget_peer(PeerId(f"Mesh_{NAMES[name][0].replace('.', '_')}"))

    def resolve(self, hop: str, which: int, times: int) -> None:
        self.resolver.set(hop, RESOLUTIONS[which])
        for _ in range(times):
            self.core.router.review_next_hops(frozenset({addr(hop)}))

    def originate(self, which: int, times: int) -> None:
        self.model.origination = ORIGINATIONS[which]
        for _ in range(times):
            self.core.router.originated({V4: ORIGINATIONS[which]})

    def localize(self, which: int, times: int) -> None:
        self.model.local = LOCALS[which]
        for _ in range(times):
            self.core.router.local_prefixes(V4, LOCALS[which])

    def wait(self, seconds: float, times: int) -> None:
        self.core.now += seconds
        for session in self.model.sessions.values():
            if session.until is not None and session.until <= self.core.now:
                session.stale, session.until = {}, None
        for _ in range(times):
            self.core.router.tick(self.core.now)

    def work(self, limit: int, times: int) -> None:
        for _ in range(times):
            self.core.router.work(limit)

    def settle(self, times: int) -> None:
        self.core.settle(3)

    def check(self) -> None:
        core, model = self.core.settle(2), self.model
        router = core.router
        assert core.routes() == model.fib()
        assert router.groups == len(model.groups())
        for group in model.groups():
            assert core.table(group) == model.out(group)
        assert set(router.rib(V4)) == {prefix for prefix in model.prefixes() if model.chosen(prefix)}
        for name, (address, _) in NAMES.items():
            assert router.counts(PeerId(f"Mesh_{address.replace('.', '_')}"), V4) == model.counts(name)
        deadlines = [s.until for s in model.sessions.values() if s.until is not None]
        assert router.next_deadline() == min(deadlines, default=None)
        assert not router.busy


names, texts = st.sampled_from(sorted(NAMES)), st.lists(st.sampled_from(PREFIXES), min_size=1, max_size=3)
announcements = st.tuples(
    st.just("announce"),
    names,
    st.integers(0, len(ATTRIBUTES) - 1),
    st.sampled_from(HOPS),
    st.sampled_from([0, 0, 0, 1]),
    st.one_of(texts, st.just([*PREFIXES, "10.48.1.0/26", "10.48.2.0/26", "10.48.3.0/26"])),
)
events = st.one_of(
    announcements,
    announcements,
    st.tuples(st.just("up"), names, st.booleans()),
    st.tuples(st.just("up"), names, st.just(True)),
    st.tuples(st.just("down"), names, st.booleans()),
    st.tuples(st.just("withdraw"), names, st.sampled_from([0, 0, 1]), texts),
    st.tuples(st.just("end_of_rib"), names),
    st.tuples(st.just("forget"), names),
    st.tuples(st.just("resolve"), st.sampled_from(HOPS), st.integers(0, len(RESOLUTIONS) - 1)),
    st.tuples(st.just("originate"), st.integers(0, len(ORIGINATIONS) - 1)),
    st.tuples(st.just("localize"), st.integers(0, len(LOCALS) - 1)),
    st.tuples(st.just("wait"), st.sampled_from([1.0, 60.0, 120.0, 400.0])),
    st.tuples(st.just("work"), st.integers(1, 4)),
    st.tuples(st.just("settle")),
)


@given(st.lists(st.tuples(events, st.integers(1, 2)), min_size=5, max_size=40))
@settings(max_examples=300)
def test_any_history_wants_what_its_end_wants(history: list[tuple[tuple[object, ...], int]]) -> None:
    both = Both()
    for name in ("a", "x"):
        both.up(name, True, 1)
    for (name, *arguments), times in history:
        getattr(both, str(name))(*arguments, times)
    both.check()


@given(st.lists(announcements, min_size=1, max_size=12), st.randoms(use_true_random=False))
@settings(max_examples=100)
def test_two_orders_of_one_end_state_want_the_same(
    stated: list[tuple[str, str, int, str, int, list[str]]], random: object
) -> None:
    """The last word of each peer on each prefix, announced in two orders, with noise before it in one of them."""
    last: dict[tuple[str, str, int], tuple[int, str]] = {}
    for _, name, which, hop, path_id, prefixes in stated:
        for text in prefixes:
            last[name, text, path_id] = (which, hop)
    quiet, noisy = Both(), Both()
    for both in (quiet, noisy):
        for name in NAMES:
            both.up(name, True, 1)
        both.originate(1, 1)
    for _, *arguments in stated:
        noisy.announce(*arguments, 2)  # type: ignore[arg-type]
        noisy.work(1, 1)
    order = list(last.items())
    random.shuffle(order)  # type: ignore[attr-defined]
    for (name, text, path_id), (which, hop) in order:
        quiet.announce(name, which, hop, path_id, [text], 1)
    assert quiet.core.settle().routes() == noisy.core.settle().routes()
    groups = quiet.model.groups()
    assert list(map(quiet.core.table, groups)) == list(map(noisy.core.table, groups))
    noisy.check()
