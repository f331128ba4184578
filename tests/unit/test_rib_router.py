"""Stories of the single writer: what happens, and what the kernel and the peers must then have."""

from dataclasses import replace

import pytest

from bgpd.model.peer import PeerId
from bgpd.model.prefix import Family
from bgpd.model.route import BLACKHOLE, EndOfRib, Origination, Reason, Resolution, Unresolved
from bgpd.rib.family import OCTETS_OF_PREFIX, SPARE_OCTETS
from bgpd.rib.stale import HANDED_ON_SECONDS, STALE_SECONDS
from bgpd.rules.communities import NO_EXPORT
from bgpd.rules.exports import ExportRefusal
from tests.unit.builders import (
    BOTH,
    ME,
    OWN_AS,
    V4,
    V6,
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
    sequence,
    via,
    withdraw,
)

A, B = peer("10.0.1.30"), peer("10.0.1.31")
X, Y = peer("10.0.2.1", 65001), peer("10.0.2.2", 65002)
BLOCK, OTHER = "10.48.0.0/26", "10.48.0.64/26"
POOL = "10.48.0.0/16"
UP_A, UP_B = via("10.0.1.30"), via("10.0.1.31")


# Learning.


def test_learned_replaced_withdrawn() -> None:
    core = Core().up(A)
    core.hear(A, announce(path(A), BLOCK, OTHER))
    assert core.routes() == {BLOCK: UP_A, OTHER: UP_A}
    assert set(core.router.rib(V4)) == {pfx(BLOCK), pfx(OTHER)}
    core.hear(A, announce(path(A, next_hop="10.0.1.31"), BLOCK))
    assert core.fib_changes == {BLOCK: UP_B}
    core.hear(A, withdraw(BLOCK))
    assert core.fib_changes == {BLOCK: None}
    assert core.routes() == {OTHER: UP_A}
    assert not core.router.busy


def test_saying_the_same_twice_changes_nothing() -> None:
    core = Core().up(A)
    what = announce(path(A), BLOCK)
    core.hear(A, what).hear(A, what)
    assert core.fib_changes == {}
    core.hear(A, withdraw(BLOCK), what, what)
    assert core.fib_changes == {}
    core.hear(A, withdraw(OTHER))
    assert core.routes() == {BLOCK: UP_A}


def test_metrics_are_the_kernels_own() -> None:
    six = peer("fd00::30", families=[V6])
    core = Core().up(A, six).hear(A, announce(path(A), BLOCK))
    core.hear(six, announce(path(six), "fd00:48::/122", family=V6))
    assert set(core.fib) == {(V4, BLOCK, 0), (V6, "fd00:48::/122", 1024)}


def test_one_session_of_both_families_keeps_them_apart() -> None:
    both = peer("10.0.1.30", families=BOTH)
    core = Core().up(both)
    core.hear(both, announce(path(both), "0.0.0.0/0"))
    core.hear(both, announce(path(both, next_hop="fd00::30"), "::/0", family=V6))
    assert core.routes(V4) == {"0.0.0.0/0": UP_A}
    assert core.routes(V6) == {"::/0": via("fd00::30")}
    core.down(both)
    assert core.fib == {}


def test_a_default_route_is_installed_and_never_passed_on() -> None:
    core = Core().up(A, X).originate(origination(pools=["0.0.0.0/0"]))
    core.hear(X, announce(path(X), "0.0.0.0/0"))
    assert core.routes() == {"0.0.0.0/0": via("10.0.2.1")}
    assert core.to(A) == {}
    assert core.exported(A, "0.0.0.0/0") is ExportRefusal.DEFAULT_ROUTE


def test_ecmp_grows_and_shrinks() -> None:
    core = Core().up(A, B)
    core.hear(A, announce(path(A), BLOCK)).hear(B, announce(path(B), BLOCK))
    assert core.routes() == {BLOCK: via("10.0.1.30", "10.0.1.31")}
    assert len(core.router.rib(V4)[pfx(BLOCK)].multipath) == 2
    core.hear(B, announce(path(B, attributes(7, local_pref=100)), BLOCK))
    assert core.routes() == {BLOCK: UP_A}
    core.hear(B, announce(path(B), BLOCK)).down(A)
    assert core.routes() == {BLOCK: UP_B}


def test_paths_of_one_peer_by_identifier_share_too() -> None:
    core = Core().up(A)
    core.hear(
        A, announce(path(A, path_id=1), BLOCK), announce(path(A, path_id=2, next_hop="10.0.1.31"), BLOCK)
    )
    assert core.routes() == {BLOCK: via("10.0.1.30", "10.0.1.31")}
    core.hear(A, withdraw(BLOCK, path_id=1))
    assert core.routes() == {BLOCK: UP_B}


def test_loops_are_heard_counted_and_not_used() -> None:
    core = Core().up(X)
    core.hear(X, announce(path(X, attributes(65001, OWN_AS)), BLOCK), announce(path(X), OTHER))
    assert core.routes() == {OTHER: via("10.0.2.1")}
    assert core.router.counts(X.id, V4) == (2, 1, 0)
    best, _, rejected = core.router.explain.judged(V4, pfx(BLOCK))
    assert best is None
    assert list(rejected.values()) == [Reason.AS_LOOP]
    core.hear(X, announce(path(X), BLOCK))
    assert core.router.counts(X.id, V4) == (2, 2, 0)


# Next hops.


@pytest.mark.parametrize(
    "family, martians, others",
    [
        (
            V4,
            [
                "0.0.0.0/2",
                "0.1.0.0/16",
                "127.0.0.1/32",
                "127.128.0.0/9",
                "224.0.0.0/3",
                "239.0.0.1/32",
                "240.0.0.0/4",
            ],
            [
                "0.0.0.0/0",
                "0.0.0.0/1",
                "1.0.0.0/8",
                "126.0.0.0/8",
                "128.0.0.0/1",
                "169.254.0.0/16",
                "223.0.0.0/8",
            ],
        ),
        (
            V6,
            ["::1/128", "::/8", "::ffff:10.48.0.0/112", "fe80::/66", "febf::/16", "ff00::/8", "ff02::1/128"],
            ["::/0", "::/1", "64:ff9b::/96", "2001:db8::/32", "fd00:48::/122", "fe00::/16", "fec0::/16"],
        ),
    ],
)
def test_martians_are_heard_counted_and_not_used(
    family: Family, martians: list[str], others: list[str]
) -> None:
    who = A if family is V4 else peer("fd00::30", families=[V6])
    core = Core().up(who)
    core.hear(who, announce(path(who), *others[1:], family=family))
    for each in (*martians, others[0]):
        core.hear(who, announce(path(who), each, family=family))
    assert core.routes(family).keys() == set(others)
    assert core.router.counts(who.id, family)[:2] == (len(martians) + len(others), len(others))
    assert core.router.explain.refusals(who.id, family) == {Reason.MARTIAN: len(martians)}
    for each in martians:
        assert set(core.router.explain.judged(family, pfx(each))[2].values()) == {Reason.MARTIAN}
    core.hear(who, withdraw(*martians, family=family))
    assert core.router.explain.refusals(who.id, family) == {}


def test_a_next_hop_that_stops_resolving_withdraws_at_once_and_comes_back() -> None:
    core = Core().up(A, B).hear(A, announce(path(A), BLOCK, OTHER)).hear(B, announce(path(B), OTHER))
    core.router.review_next_hops(core.resolver.set("10.0.1.30", Unresolved.LINK_DOWN))
    core.settle()
    assert core.fib_changes == {BLOCK: None, OTHER: UP_B}
    assert pfx(BLOCK) not in core.router.rib(V4)
    core.hear(A, announce(path(A), "10.48.0.128/26"))
    assert "10.48.0.128/26" not in core.routes()
    core.router.review_next_hops(core.resolver.set("10.0.1.30", None))
    core.settle()
    assert core.routes() == {
        BLOCK: UP_A,
        OTHER: via("10.0.1.30", "10.0.1.31"),
        "10.48.0.128/26": UP_A,
    }


def test_a_next_hop_that_moves_and_a_cost_that_decides() -> None:
    core = Core().up(A, B).hear(A, announce(path(A), BLOCK)).hear(B, announce(path(B), BLOCK))
    core.router.review_next_hops(core.resolver.set("10.0.1.30", Resolution(via("10.0.1.1"), 20)))
    core.settle()
    assert core.routes() == {BLOCK: UP_B}
    core.router.review_next_hops(core.resolver.set("10.0.1.31", Resolution(via("10.0.1.2"), 30)))
    core.settle()
    assert core.routes() == {BLOCK: via("10.0.1.1")}


def test_other_prefixes_are_not_touched_by_a_next_hop() -> None:
    core = Core().up(A, B).hear(A, announce(path(A), BLOCK)).hear(B, announce(path(B), OTHER))
    core.router.review_next_hops(core.resolver.set("10.0.1.31", Resolution(via("10.0.1.2"), 0)))
    core.settle()
    assert core.fib_changes == {OTHER: via("10.0.1.2")}


def test_next_hops_that_change_while_a_scan_is_under_way() -> None:
    """Every prefix is seen by the scan for each change, whatever comes in between."""
    core = Core().up(A, B)
    texts = [f"10.48.{n}.0/24" for n in range(100)]
    core.hear(A, announce(path(A), *texts[:50])).hear(B, announce(path(B), *texts[50:]))
    core.router.review_next_hops(core.resolver.set("10.0.1.30", Unresolved.NO_ROUTE))
    assert core.router.work(1)
    core.router.review_next_hops(core.resolver.set("10.0.1.31", Unresolved.NO_ROUTE))
    core.router.work(1)
    core.router.learn_routes(A, [announce(path(A), "10.49.0.0/24")])
    core.settle(1)
    assert core.routes() == {}
    core.router.review_next_hops(core.resolver.set("10.0.1.30", None) | core.resolver.set("10.0.1.31", None))
    core.settle(3)
    assert set(core.routes()) == {*texts, "10.49.0.0/24"}


# What is our own.


def test_an_own_block_is_announced_blackholed_and_hidden_from_peers() -> None:
    core = Core().up(A, X).originate(origination(blocks=[BLOCK]))
    assert core.routes() == {BLOCK: BLACKHOLE}
    assert core.to(A)[BLOCK].attributes == attributes(local_pref=100)
    assert core.to(X)[BLOCK].attributes.as_path == sequence(OWN_AS)
    core.hear(A, announce(path(A, attributes(local_pref=4_000_000)), BLOCK))
    assert core.fib_changes == {}
    assert core.router.counts(A.id, V4) == (1, 1, 0), "heard, and hidden"
    assert core.router.rib(V4) == {}
    core.originate(Origination())
    assert core.routes() == {BLOCK: UP_A}
    assert core.to(X) == {}


def test_a_hidden_pools_block_is_blackholed_and_not_announced() -> None:
    """The first origination brings pools and blackholes at once, and the last takes both away."""
    core = Core().up(A).originate(origination(hidden_blocks=[BLOCK], hidden_pools=[POOL]))
    assert core.routes() == {BLOCK: BLACKHOLE}
    assert core.to(A) == {}
    core.originate(Origination())
    assert core.routes() == {}


def test_a_released_block_yields_to_another_nodes_announcement() -> None:
    core = Core().up(A).originate(origination(yielding=[BLOCK]))
    assert core.routes() == {BLOCK: BLACKHOLE}
    core.hear(A, announce(path(A), BLOCK))
    assert core.routes() == {BLOCK: UP_A}
    core.router.review_next_hops(core.resolver.set("10.0.1.30", Unresolved.NO_ROUTE))
    core.settle()
    assert core.routes() == {BLOCK: BLACKHOLE}, "what is not usable takes nothing over"
    core.router.review_next_hops(core.resolver.set("10.0.1.30", None))
    core.settle()
    core.originate(origination(blocks=[BLOCK]))
    assert core.routes() == {BLOCK: BLACKHOLE}


def test_a_lent_address_is_installed_beside_the_blackhole() -> None:
    core = Core().up(A).originate(origination(blocks=[BLOCK], pools=[POOL]))
    core.hear(A, announce(path(A), "10.48.0.40/32"))
    assert core.routes() == {BLOCK: BLACKHOLE, "10.48.0.40/32": UP_A}
    core.hear(A, withdraw("10.48.0.40/32"))
    assert core.routes() == {BLOCK: BLACKHOLE}


def test_a_borrowed_address_is_announced_and_the_kernel_keeps_the_workloads_route() -> None:
    core = Core().up(A).hear(A, announce(path(A), BLOCK, "10.48.0.40/32"))
    core.originate(origination(borrowed=["10.48.0.40/32"]))
    assert core.routes() == {BLOCK: UP_A}
    assert set(core.to(A)) == {"10.48.0.40/32"}
    core.originate(Origination())
    assert core.routes() == {BLOCK: UP_A, "10.48.0.40/32": UP_A}
    assert core.to(A) == {}


def test_an_address_that_ipam_gives_to_this_node_is_not_learned() -> None:
    """The CNI plugin writes the workload's route at the metric at which the learned one would stand."""
    core = Core().up(A)
    host = "10.48.0.40/32"
    core.hear(A, announce(path(A), host, OTHER))
    known = origination(blocks=[BLOCK], pools=[POOL])
    core.originate(known)
    assert core.routes()[host] == UP_A
    core.originate(replace(known, assigned={pfx(host): "IPAMBlock 10-48-0-0-26"}))
    assert core.fib_changes == {host: None}
    core.hear(A, announce(path(A), host))
    assert host not in core.routes() and core.routes()[OTHER] == UP_A
    moving = attributes(local_pref=2**31 - 1 - 512)  # a live migration, whatever IPAM says meanwhile
    core.hear(A, announce(path(A, moving), host))
    assert host in core.routes()
    core.hear(A, announce(path(A), host))
    core.originate(known)  # the block's next word: it is another's again
    assert core.routes()[host] == UP_A


def test_own_addresses_and_connected_subnets_are_never_taken_from_a_peer() -> None:
    core = Core().up(A)
    core.hear(A, announce(path(A), "10.0.1.20/32", "10.0.1.0/24", "10.0.0.0/16", "0.0.0.0/0"))
    assert "10.0.1.20/32" in core.routes()
    local = {pfx("10.0.1.20/32"): "an address of this node", pfx("10.0.1.0/24"): "the subnet of ens5"}
    core.router.local_prefixes(V4, local)
    core.settle()
    assert core.routes() == {"10.0.0.0/16": UP_A, "0.0.0.0/0": UP_A}
    assert core.router.explain.local(V4) == local
    core.router.local_prefixes(V4, {})
    core.settle()
    assert len(core.routes()) == 4


def test_a_block_that_is_also_local_keeps_its_blackhole() -> None:
    core = Core().originate(origination(blocks=[BLOCK], yielding=[OTHER]))
    core.router.local_prefixes(V4, {pfx(BLOCK): "a subnet", pfx(OTHER): "a subnet"})
    core.settle()
    assert core.routes() == {BLOCK: BLACKHOLE, OTHER: BLACKHOLE}
    core.up(A).hear(A, announce(path(A), BLOCK, OTHER))
    assert core.routes() == {BLOCK: BLACKHOLE, OTHER: BLACKHOLE}


# Passing on.


def test_internal_routes_go_to_external_peers_inside_pools_only() -> None:
    core = Core().up(A, B, X).originate(origination(pools=[POOL]))
    core.hear(A, announce(path(A), BLOCK, "192.0.2.0/24", "10.0.0.0/8", "0.0.0.0/0"))
    assert len(core.routes()) == 4
    assert core.to(B) == {}, "internal routes are not passed on to internal peers"
    assert set(core.to(X)) == {BLOCK}
    assert core.to(X)[BLOCK].attributes == attributes(OWN_AS)
    assert core.to(X)[BLOCK].next_hop == ME
    assert core.exported(X, "192.0.2.0/24") is ExportRefusal.NOT_IN_POOL
    assert core.exported(B, BLOCK) is ExportRefusal.INTERNAL


def test_external_routes_go_to_internal_and_other_external_peers() -> None:
    core = Core().up(A, X, Y).originate(origination(pools=[POOL]))
    core.hear(X, announce(path(X), BLOCK))
    assert core.to(A)[BLOCK].attributes == attributes(65001, local_pref=100)
    assert core.to(Y)[BLOCK].attributes == attributes(OWN_AS, 65001)
    assert {out.source for out in core.to(X).values()} == {X.id}, "the update group's; X is not sent its own"
    core.hear(X, announce(path(X, attributes(65001, communities=(NO_EXPORT,))), BLOCK))
    assert core.to(Y) == {}
    assert set(core.to(A)) == {BLOCK}
    core.hear(X, withdraw(BLOCK))
    assert core.to(A) == {}


def test_the_best_path_alone_is_passed_on() -> None:
    core = Core().up(A, X, Y).originate(origination(pools=[POOL]))
    core.hear(X, announce(path(X), BLOCK)).hear(Y, announce(path(Y), BLOCK))
    assert core.to(A)[BLOCK].source == X.id
    assert core.to(Y)[BLOCK].source == X.id
    assert core.to(X)[BLOCK].source == X.id, "the best is its own, and the second best is not sent instead"
    core.down(X)
    assert core.to(A)[BLOCK].source == Y.id


def test_pools_that_change_are_applied_to_what_was_learned() -> None:
    core = Core().up(A, X).hear(A, announce(path(A), BLOCK, "10.50.0.0/26"))
    assert core.to(X) == {}
    core.originate(origination(pools=[POOL]))
    assert set(core.to(X)) == {BLOCK}
    assert core.fib_changes == {}
    core.originate(origination(pools=[POOL, "10.50.0.0/16"]))
    assert set(core.to(X)) == {BLOCK, "10.50.0.0/26"}
    core.originate(origination(pools=["10.50.0.0/16"], hidden_pools=[POOL]))
    assert set(core.to(X)) == {"10.50.0.0/26"}
    assert core.exported(X, BLOCK) is ExportRefusal.POOL_DISABLED


# Update groups.


def test_groups_come_and_go_with_their_sessions() -> None:
    core = Core().originate(origination(blocks=[BLOCK])).up(A)
    assert core.router.groups == 1
    core.up(B)
    assert core.router.groups == 1
    assert core.out_changes == {}, "the table of the group was there"
    core.up(X)
    assert core.router.groups == 2
    assert set(core.to(X)) == {BLOCK}
    core.down(A)
    assert set(core.to(B)) == {BLOCK}
    core.down(B)
    assert core.router.groups == 1
    assert core.to(A) == {}
    assert core.exported(A, BLOCK) is None
    core.up(A)
    assert set(core.to(A)) == {BLOCK}


def test_a_group_that_left_in_between_leaves_no_word_behind() -> None:
    """What was decided for the old members is not advertised to the first new one."""
    core = Core().up(A).originate(origination(blocks=[BLOCK]))
    core.router.originated({V4: origination(blocks=[OTHER])})
    while core.router.work():
        pass
    core.router.session_down(A, lost(), core.now)
    core.router.originated({V4: Origination()})
    core.router.session_up(again(A), core.now)
    core.settle()
    assert core.out_changes == {}


def test_several_turns_before_the_changes_are_taken_are_one_change() -> None:
    core = Core().up(A).originate(origination(blocks=[BLOCK]))
    for what in (
        origination(blocks=[OTHER]),
        origination(blocks=[BLOCK, OTHER]),
        origination(blocks=[BLOCK]),
    ):
        core.router.originated({V4: what})
        while core.router.work():
            pass
    core.settle()
    assert core.fib_changes == {}
    assert not any(core.out_changes.values())


# Graceful restart (RFC 4724).


def restarting() -> tuple[Core, object]:
    first = peer("10.0.1.30", restart=[V4])
    core = Core().up(first).hear(first, announce(path(first), BLOCK, OTHER), EndOfRib(V4))
    return core, first


def test_a_restart_that_says_the_same_changes_nothing() -> None:
    core, first = restarting()
    before = core.routes()
    core.down(first, V4)
    assert core.fib_changes == {}
    assert core.router.counts(first.id, V4) == (2, 2, 2)
    second = again(first, preserved=[V4])
    core.up(second)
    assert core.fib_changes == {}
    core.hear(second, announce(path(second), BLOCK, OTHER))
    assert core.fib_changes == {}
    assert core.router.counts(first.id, V4) == (2, 2, 0)
    core.hear(second, EndOfRib(V4))
    assert core.fib_changes == {}
    assert core.routes() == before
    assert core.router.next_deadline() is None


def test_a_restart_that_announces_the_same_sends_others_nothing() -> None:
    first = peer("10.0.1.30", restart=[V4])
    core = Core().up(first, X).originate(origination(pools=[POOL]))
    core.hear(first, announce(path(first), BLOCK))
    assert set(core.to(X)) == {BLOCK}
    core.down(first, V4)
    second = again(first, preserved=[V4])
    core.up(second)
    core.hear(second, announce(path(second), BLOCK), EndOfRib(V4))
    assert core.out_changes == {}


def test_end_of_rib_sweeps_what_was_not_announced_again() -> None:
    core, first = restarting()
    core.down(first, V4)
    second = again(first, preserved=[V4])
    core.up(second).hear(second, announce(path(second), BLOCK))
    assert set(core.routes()) == {BLOCK, OTHER}
    core.hear(second, EndOfRib(V4))
    assert core.fib_changes == {OTHER: None}


def test_a_peer_that_does_not_come_back_in_its_time_is_swept() -> None:
    core, first = restarting()
    core.down(first, V4)
    assert core.router.next_deadline() == core.now + 120.0
    core.router.tick(core.now + 119.9)
    assert set(core.settle().routes()) == {BLOCK, OTHER}
    core.router.tick(core.now + 120.0)
    assert core.settle().routes() == {}
    assert core.router.next_deadline() is None


def test_the_peers_time_ends_when_it_is_back_and_a_longer_one_begins() -> None:
    core, first = restarting()
    core.down(first, V4)
    core.now += 119.0
    second = again(first, preserved=[V4])
    core.up(second)
    core.router.tick(core.now + 10.0)
    assert set(core.settle().routes()) == {BLOCK, OTHER}, "it is back and about to say all again"
    assert core.router.next_deadline() == core.now + STALE_SECONDS
    core.hear(second, announce(path(second), OTHER))
    core.router.tick(core.now + STALE_SECONDS)
    assert set(core.settle().routes()) == {OTHER}


def test_without_the_forwarding_bit_stale_routes_go_at_once() -> None:
    core, first = restarting()
    core.down(first, V4)
    core.up(again(first))
    assert core.routes() == {}
    assert core.router.next_deadline() is None


def test_a_family_that_the_new_session_does_not_carry_goes_at_once() -> None:
    first = peer("10.0.1.30", families=BOTH, restart=BOTH)
    core = Core().up(first).hear(first, announce(path(first), BLOCK))
    core.hear(first, announce(path(first, next_hop="fd00::30"), "fd00:48::/122", family=V6))
    core.down(first, *BOTH)
    second = peer("10.0.1.30", families=[V4], restart=[V4], preserved=BOTH)
    core.up(second)
    assert (set(core.routes(V4)), core.routes(V6)) == ({BLOCK}, {})


def test_a_second_loss_gives_up_what_the_first_left() -> None:
    core, first = restarting()
    core.down(first, V4)
    second = again(first, preserved=[V4])
    core.up(second).hear(second, announce(path(second), BLOCK))
    core.down(second, V4)
    assert core.fib_changes == {OTHER: None}
    assert core.routes() == {BLOCK: UP_A}


def test_a_loss_that_keeps_nothing_ends_an_earlier_stale_time() -> None:
    core, first = restarting()
    core.down(first, V4)
    second = again(first, preserved=[V4])
    core.up(second).down(second)
    assert core.routes() == {}
    assert core.router.next_deadline() is None


def test_what_is_kept_of_a_peer_waits_for_the_one_that_comes_in_its_place() -> None:
    """The same neighbour under another name, a node with another address: what it announces anew replaces what was
    kept, prefix by prefix, and the rest goes with its End-of-RIB."""
    core, first = restarting()
    core.down(first, V4)
    second = peer("10.0.1.40", restart=[V4], preserved=[V4])
    core.router.hand_on(first.id, second.id, core.now)
    assert core.settle().routes() == {BLOCK: UP_A, OTHER: UP_A}
    assert core.router.next_deadline() == core.now + HANDED_ON_SECONDS
    core.up(second)
    assert core.router.next_deadline() == core.now + STALE_SECONDS
    core.hear(second, announce(path(second), BLOCK))
    assert core.routes() == {BLOCK: via("10.0.1.40"), OTHER: UP_A}, "not both"
    core.hear(second, EndOfRib(V4))
    assert core.routes() == {BLOCK: via("10.0.1.40")}
    assert core.router.next_deadline() is None
    assert list(core.router.adj_rib_in(V4).peers()) == [second.id]


def test_what_is_kept_for_one_that_never_comes_goes() -> None:
    core, first = restarting()
    core.down(first, V4)
    core.router.hand_on(first.id, PeerId("b"), core.now)
    core.router.hand_on(PeerId("b"), PeerId("c"), core.now + 10.0)  # and on
    core.router.tick(core.now + HANDED_ON_SECONDS - 1.0)
    assert set(core.settle().routes()) == {BLOCK, OTHER}
    core.router.tick(core.now + HANDED_ON_SECONDS)
    assert core.settle().routes() == {} and core.router.next_deadline() is None


def test_nothing_is_handed_on_of_a_session_that_keeps_nothing() -> None:
    for down in (lost(), None):
        core, first = restarting()
        if down is not None:
            core.router.session_down(first, down, core.now)
        core.router.hand_on(first.id, PeerId("b"), core.now)
        assert core.settle().routes() == {} and core.router.next_deadline() is None


def test_a_forgotten_peer_leaves_nothing() -> None:
    core, first = restarting()
    core.down(first, V4)
    core.router.forget_peer(first.id)
    assert core.settle().routes() == {}
    assert core.router.next_deadline() is None


def test_a_forgotten_peer_whose_session_is_still_up() -> None:
    core = Core().up(A).hear(A, announce(path(A), BLOCK))
    shared = path(A)
    core.router.learn_routes(A, [announce(shared, OTHER)])
    core.router.forget_peer(A.id)
    core.hear(A, announce(shared, OTHER))
    assert core.routes() == {}
    assert core.router.groups == 0
    core.down(A)
    assert core.up(again(A)).routes() == {}


# Sessions that come, go and overlap.


def test_a_session_down_mid_flush_and_up_again() -> None:
    core = Core().up(A)
    texts = [f"10.48.{n}.0/24" for n in range(60)]
    core.hear(A, announce(path(A), *texts))
    core.router.session_down(A, lost(), core.now)
    core.router.work(7)
    second = again(A)
    core.router.session_up(second, core.now)
    core.router.learn_routes(second, [announce(path(second), *texts[:30])])
    core.settle(5)
    assert set(core.routes()) == set(texts[:30])
    assert core.router.counts(A.id, V4) == (30, 30, 0)
    assert all(selection.best.peer is second for selection in core.router.rib(V4).values())


def test_a_session_that_replaces_another_whose_end_comes_late() -> None:
    first = peer("10.0.1.30", restart=[V4])
    core = Core().originate(origination(blocks=["10.48.9.0/26"]))
    core.up(first).hear(first, announce(path(first), BLOCK, OTHER))
    second = again(first, preserved=[V4])
    core.up(second)
    assert set(core.routes()) == {BLOCK, OTHER, "10.48.9.0/26"}
    core.hear(second, announce(path(second), BLOCK))
    core.router.session_down(first, lost(), core.now)
    core.router.learn_routes(first, [announce(path(first), "10.48.7.0/26")])
    core.settle()
    assert set(core.routes()) == {BLOCK, OTHER, "10.48.9.0/26"}, "word of the old session means nothing now"
    core.hear(second, EndOfRib(V4))
    assert set(core.routes()) == {BLOCK, "10.48.9.0/26"}
    assert core.router.groups == 1
    core.up(second)
    core.down(second)
    assert core.router.groups == 0


def test_more_prefixes_than_the_limit() -> None:
    few = peer("10.0.1.30", max_prefixes=2, restart=[V4])
    core = Core().up(few).hear(few, announce(path(few), BLOCK, OTHER))
    assert core.router.take_over_limit() == []
    core.hear(few, announce(path(few), "10.48.1.0/26"))
    assert core.router.take_over_limit() == [(few, V4, 3)]
    assert core.router.take_over_limit() == []
    core.hear(few, announce(path(few), "10.48.2.0/26")).down(few)
    assert core.router.take_over_limit() == [], "the session is over"


def test_stale_routes_do_not_count_against_the_limit() -> None:
    few = peer("10.0.1.30", max_prefixes=2, restart=[V4])
    core = Core().up(few).hear(few, announce(path(few), BLOCK, OTHER)).down(few, V4)
    second = again(few, preserved=[V4])
    core.up(second).hear(second, announce(path(second), "10.48.1.0/26", "10.48.2.0/26"))
    assert core.router.counts(few.id, V4) == (4, 4, 2)
    assert core.router.take_over_limit() == []


# How it works.


def test_work_is_bounded_and_one_decision_serves_all_prefixes_of_a_path() -> None:
    core = Core().up(A)
    texts = [f"10.{48 + n // 256}.{n % 256}.0/24" for n in range(1000)]
    core.router.learn_routes(A, [announce(path(A), *texts)])
    core.resolver.calls = 0
    turns = 0
    while core.router.work(100):
        turns += 1
    assert turns == 9
    assert core.resolver.calls <= 3
    core.settle()
    assert len({id(selection) for selection in core.router.rib(V4).values()}) == 1
    assert len({id(value) for value in core.routes().values()}) == 1


def test_two_peers_with_one_table_are_decided_once() -> None:
    core = Core().up(A, B)
    texts = [f"10.48.{n}.0/24" for n in range(200)]
    core.hear(A, announce(path(A), *texts))
    core.resolver.calls = 0
    core.hear(B, announce(path(B), *texts))
    assert core.resolver.calls <= 6
    assert set(core.routes().values()) == {via("10.0.1.30", "10.0.1.31")}


@pytest.mark.parametrize("long", [0, 765])
def test_attributes_that_change_without_end_do_not_fill_the_memory(long: int) -> None:
    """By their octets: long AS paths are remembered for fewer decisions."""
    core = Core().up(A)
    rib, rounds = core.router._ribs[V4], 4000
    for number in range(rounds):
        asns = range(1, 1 + long)
        core.router.learn_routes(A, [announce(path(A, attributes(*asns, local_pref=number)), BLOCK)])
        core.router.work()
    octets = [decision.octets for decision in rib.decisions.values()]
    assert rib.decision_octets == sum(octets)
    assert sum(octets) <= SPARE_OCTETS + OCTETS_OF_PREFIX + max(octets)
    assert len(octets) > (400 if long else 2000), "and not for none"
    assert core.settle().routes() == {BLOCK: UP_A}
    assert core.router.rib(V4)[pfx(BLOCK)].best.attributes.local_pref == rounds - 1


def test_decisions_of_a_large_table_are_remembered() -> None:
    """The bound grows with the table: what is in use is not worked out again and again."""
    core = Core().up(A, B)
    for number in range(12_000):
        prefix = f"10.{number >> 8}.{number & 255}.0/24"
        core.router.learn_routes(A, [announce(path(A, attributes(local_pref=number)), prefix)])
    core.settle()
    rib = core.router._ribs[V4]
    assert len(rib.decisions) > 11_900
    core.down(A)
    core.hear(B, announce(path(B), BLOCK))
    for number in range(40):
        core.hear(B, announce(path(B, attributes(local_pref=number)), BLOCK))
    assert rib.decision_octets <= SPARE_OCTETS + 2 * OCTETS_OF_PREFIX


def test_the_resolver_is_asked_again_after_a_change_only() -> None:
    resolver = Resolver()
    core = Core(resolver).up(A)
    shared = path(A)
    core.hear(A, announce(shared, BLOCK))
    resolver.set("10.0.1.30", Unresolved.NO_ROUTE)
    core.hear(A, announce(shared, OTHER))
    assert set(core.routes()) == {BLOCK, OTHER}, "nobody has reported yet that it changed"
    core.router.review_next_hops(frozenset({addr("10.0.1.30")}))
    assert core.settle().routes() == {}
