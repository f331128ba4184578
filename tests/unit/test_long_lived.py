"""Long-lived graceful restart (RFC 9494) in the RIB: what outlives a peer's restart time, its rank, who hears it."""

from dataclasses import replace
from random import Random

import pytest

from bgpd.model.peer import Peer
from bgpd.model.prefix import Family
from bgpd.model.route import EndOfRib, Reason
from bgpd.rules.communities import LLGR_STALE, NO_LLGR
from bgpd.rules.exports import ExportRefusal
from tests.unit.builders import (
    V4,
    Core,
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

POOL, BLOCK, OTHER, THIRD = "10.48.0.0/16", "10.48.0.0/26", "10.48.0.64/26", "10.48.0.128/26"
LIFE = 600.0


def long_living(address: str = "10.0.1.30", asn: int = 65001, life: float = LIFE) -> Peer:
    """A session of graceful restart, long-lived too."""
    made = peer(address, asn, restart=[V4], preserved=[V4])
    return replace(made, long_lived={V4: life}, long_lived_preserved=frozenset({V4}), knows_long_lived=True)


def back(before: Peer, *, preserved: bool = True) -> Peer:
    """Its next session."""
    return replace(
        again(before, preserved=[V4]),
        long_lived=before.long_lived,
        long_lived_preserved=frozenset({V4} if preserved else ()),
        knows_long_lived=True,
    )


def aged(*more: Peer) -> tuple[Core, Peer]:
    """A core whose peer is away for longer than its restart time."""
    gone = long_living()
    core = Core().up(gone, *more).originate(origination(pools=[POOL]))
    core.hear(gone, announce(path(gone), BLOCK, OTHER), EndOfRib(V4)).down(gone, V4)
    tick(core, 120.0)
    return core, gone


def tick(core: Core, seconds: float) -> Core:
    core.now += seconds
    core.router.tick(core.now)
    return core.settle()


def communities(core: Core, prefix: str) -> tuple[int, ...]:
    (found,) = core.router.adj_rib_in(V4).paths(pfx(prefix))
    return found.attributes.communities


def test_after_the_restart_time_routes_live_on_for_their_long_life() -> None:
    core, gone = aged()
    assert set(core.routes()) == {BLOCK, OTHER}
    assert communities(core, BLOCK) == (LLGR_STALE,)
    assert core.router.counts(gone.id, V4) == (2, 2, 2)
    assert core.router.next_deadline() == core.now + LIFE
    assert set(tick(core, LIFE - 0.1).routes()) == {BLOCK, OTHER}
    assert tick(core, 0.1).routes() == {}
    assert core.router.next_deadline() is None


def test_without_a_long_life_they_go() -> None:
    gone = replace(long_living(), long_lived={})
    core = Core().up(gone).hear(gone, announce(path(gone), BLOCK)).down(gone, V4)
    assert tick(core, 120.0).routes() == {}


def test_a_restart_time_of_nought_is_a_long_life_at_once() -> None:
    gone = long_living()
    core = Core().up(gone).hear(gone, announce(path(gone), BLOCK))
    core.router.session_down(gone, replace(lost(V4), keep_seconds=0.0), core.now)
    assert communities(tick(core, 0.0), BLOCK) == (LLGR_STALE,)


def test_a_route_whose_origin_wants_no_long_life_goes() -> None:
    gone = long_living()
    core = Core().up(gone)
    core.hear(gone, announce(path(gone), BLOCK))
    core.hear(gone, announce(path(gone, attributes(65001, communities=(NO_LLGR,))), OTHER)).down(gone, V4)
    assert set(core.routes()) == {BLOCK, OTHER}
    assert set(tick(core, 120.0).routes()) == {BLOCK}
    assert core.router.counts(gone.id, V4) == (1, 1, 1)


def test_it_is_the_last_resort_whatever_its_preference() -> None:
    """Of a live path and a long-lived stale one the live one is best, also over LOCAL_PREF."""
    gone, live = long_living(asn=64512), peer("10.0.1.31", 64512)
    core = Core().up(gone, live)
    core.hear(gone, announce(path(gone, attributes(local_pref=500)), BLOCK))
    core.hear(live, announce(path(live, attributes(local_pref=1)), BLOCK))
    core.down(gone, V4)
    assert core.routes() == {BLOCK: via("10.0.1.30")}, "stale is as good as fresh while it restarts"
    assert tick(core, 120.0).routes() == {BLOCK: via("10.0.1.31")}
    best, _, rejected = core.router.explain.judged(V4, pfx(BLOCK))
    assert best is not None and best.peer is live
    assert list(rejected.values()) == [Reason.LLGR_STALE]
    assert core.hear(live, withdraw(BLOCK)).routes() == {BLOCK: via("10.0.1.30")}


def test_what_others_say_is_long_lived_stale_is_the_last_resort_too() -> None:
    one, two = peer("10.0.1.30", 65001), peer("10.0.1.31", 65002)
    core = Core().up(one, two)
    core.hear(one, announce(path(one, attributes(65001, communities=(LLGR_STALE,))), BLOCK))
    core.hear(two, announce(path(two, attributes(65002, 65003, 65004)), BLOCK))
    assert core.routes() == {BLOCK: via("10.0.1.31")}


def test_it_is_told_to_peers_that_know_what_it_is_and_to_no_other() -> None:
    """RFC 9494 §4.3."""
    knows = replace(peer("192.0.2.1", 65010), knows_long_lived=True)
    plain = peer("192.0.2.2", 65011)
    core, gone = aged(knows, plain)
    assert {prefix: out.attributes.communities for prefix, out in core.to(knows).items()} == {
        BLOCK: (LLGR_STALE,),
        OTHER: (LLGR_STALE,),
    }
    assert core.to(plain) == {}
    group = core.router.groups_of(plain)[V4]
    assert [said.out for said in core.router.explain.export_verdicts(V4, pfx(BLOCK), group)] == [
        ExportRefusal.LONG_LIVED
    ]
    second = back(gone)
    core.up(second).hear(second, announce(path(second), BLOCK), EndOfRib(V4))
    assert set(core.to(plain)) == {BLOCK} and core.to(knows)[BLOCK].attributes.communities == ()


def test_the_peer_that_is_back_says_what_stays() -> None:
    core, gone = aged()
    second = back(gone)
    core.up(second).hear(second, announce(path(second), OTHER))
    assert set(core.routes()) == {BLOCK, OTHER}
    assert communities(core, OTHER) == ()
    core.hear(second, EndOfRib(V4))
    assert set(core.routes()) == {OTHER} and core.router.next_deadline() is None


def test_a_peer_that_is_back_and_did_not_go_on_forwarding_loses_them() -> None:
    core, gone = aged()
    assert core.up(back(gone, preserved=False)).routes() == {}
    assert core.router.next_deadline() is None


def test_another_loss_before_all_is_said_prolongs_no_long_life() -> None:
    """RFC 9494 §4.2: what is stale for long stays, and its time runs on."""
    core, gone = aged()
    end = core.now + LIFE
    second = back(gone)
    core.up(second).hear(second, announce(path(second), OTHER, THIRD))
    core.now += 100.0
    core.down(second, V4)
    assert set(core.routes()) == {BLOCK, OTHER, THIRD}
    tick(core, 120.0)
    assert all(communities(core, prefix) == (LLGR_STALE,) for prefix in (BLOCK, OTHER, THIRD))
    assert core.router.next_deadline() == end
    assert tick(core, end - core.now).routes() == {}


@pytest.mark.parametrize("seed", range(20))
def test_ageing_takes_its_time_and_what_is_said_meanwhile_counts(seed: int) -> None:
    """A large table ages a slice at a time; a peer that is back in the midst of it wins."""
    random, gone = Random(seed), long_living()
    texts = [f"10.48.{n}.0/26" for n in range(60)]
    core = Core().up(gone).hear(gone, announce(path(gone), *texts)).down(gone, V4)
    core.now += 120.0
    core.router.tick(core.now)
    core.router.work(random.randrange(1, 50))
    second = back(gone)
    core.router.session_up(second, core.now)
    said = random.sample(texts, 30)
    core.router.learn_routes(second, [announce(path(second), *said[:15])], core.now)
    core.router.work(random.randrange(1, 50))
    core.router.learn_routes(second, [announce(path(second), *said[15:])], core.now)
    core.settle()
    assert set(core.routes()) == set(texts)
    for text in texts:
        assert communities(core, text) == (() if text in said else (LLGR_STALE,)), text
    assert set(core.hear(second, EndOfRib(V4)).routes()) == set(said)
    core.down(second)
    assert core.routes() == {} and not core.router.busy
    assert core.router.adj_rib_in(Family.IPV4).candidates == {}
