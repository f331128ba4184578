"""The route policy: what the resources say of routes, and what the router then does, rule by rule (calico.md §2.7 to
§2.11, §3, §5, §8). Numbers in names are rows of the feature table of calico.md §11."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from netaddr import IPNetwork

from bgpd.config.config import Config
from bgpd.config.reading import parse
from bgpd.model.peer import Peer, PeerId, PeerPolicy
from bgpd.model.prefix import address_text, prefix_text
from bgpd.model.resources import (
    Action,
    AddCommunity,
    BGPConfiguration,
    BGPFilter,
    ClusterRoutes,
    EncapMode,
    FilterRule,
    IPPool,
    MatchOperator,
    NextHopMode,
    Node,
    PrefixAdvertisement,
    PrependAsPath,
    ServiceRange,
    SetPriority,
    Snapshot,
)
from bgpd.model.route import (
    AsPath,
    Attributes,
    BeginRefresh,
    EndOfRib,
    EndRefresh,
    ForeignRoute,
    Hop,
    Out,
    Reason,
    RouteSource,
    SegmentType,
    StaticRoute,
    Unresolved,
    Via,
    WorkloadRoute,
)
from bgpd.rib import groups, remembered
from bgpd.rules.communities import GRACEFUL_SHUTDOWN, NO_PEER
from bgpd.rules.exports import ExportRefusal
from bgpd.rules.forwarding import KernelRefusal
from bgpd.rules.originate import originate
from bgpd.rules.peering import peers
from bgpd.rules.policy import KEPT_INSIDE, FamilyPolicy, KernelRule, RoutePolicy, route_policy
from bgpd.rules.priority import INT_MAX, are_ranked
from tests.unit.builders import (
    ME,
    ME6,
    V4,
    V6,
    Core,
    addr,
    again,
    announce,
    attributes,
    origination,
    path,
    peer,
    pfx,
    via,
    withdraw,
)
from tests.unit.test_originate import affinity, snapshot

A, B, C = peer("10.0.1.30"), peer("10.0.1.31"), peer("10.0.1.32")
X, Y = peer("10.0.2.1", 65001), peer("10.0.2.2", 65002)
POOL, BLOCK, OTHER, HOST = "10.48.0.0/16", "10.48.0.0/26", "10.48.0.64/26", "10.48.0.7/32"
CLUSTER = addr("1.1.1.1")
ENCODED = INT_MAX - 1024


def policy(
    *, advertise: dict[str, tuple[Any, ...]] | None = None, normal: int = 1024, **more: Any
) -> RoutePolicy:
    """A policy in which every peer of these tests is known."""
    of_family = more.pop("family", FamilyPolicy())
    four = replace(
        of_family,
        normal_priority=normal,
        advertisements=tuple((pfx(cidr), values) for cidr, values in (advertise or {}).items()),
    )
    known = {each.id: PeerPolicy() for each in (A, B, C, X, Y)}
    return RoutePolicy(
        peers={**known, **more.pop("peers", {})}, families={V4: four, V6: FamilyPolicy()}, **more
    )


def rules(*found: FilterRule, name: str = "f", direction: str = "export") -> dict[str, BGPFilter]:
    key = "exports" if direction == "export" else "imports"
    return {name: BGPFilter(name, **{key: {V4: found}})}


def accept(cidr: str | None = None, operator: MatchOperator = MatchOperator.IN, **more: Any) -> FilterRule:
    return FilterRule(Action.ACCEPT, pfx(cidr) if cidr else None, operator if cidr else None, **more)


def reject(cidr: str | None = None, operator: MatchOperator = MatchOperator.IN, **more: Any) -> FilterRule:
    return FilterRule(Action.REJECT, pfx(cidr) if cidr else None, operator if cidr else None, **more)


def core(stated: RoutePolicy, *up: Peer, **origin: Any) -> Core:
    made = Core()
    assert made.router.set_policy(stated) == {}
    made.up(*up)
    return made.originate(origination(**{"pools": [POOL], **origin}))


def advertised(made: Core, to: Peer) -> dict[str, Out]:
    group = made.router.groups_of(to)[V4]
    skip = 4 if group.key.add_path else 0
    found = {}
    for nlri, out in group.table.items():
        text = f"{address_text(bytes(nlri[skip + 1 :]).ljust(4, bytes(1)))}/{nlri[skip]}"  # type: ignore[arg-type]
        found[text + (f"#{out.path_id}" if skip else "")] = out
    return found


def named(**peers_: PeerPolicy) -> dict[PeerId, PeerPolicy]:
    by = {"a": A, "b": B, "c": C, "x": X, "y": Y}
    return {by[name].id: stated for name, stated in peers_.items()}


# Export filters (38, 39).


def test_38_an_accept_lets_out_what_the_built_in_rules_would_not_and_a_reject_ends() -> None:
    filters = rules(accept("192.0.2.0/24"), reject(OTHER, MatchOperator.EQUAL))
    made = core(policy(filters=filters, peers=named(x=PeerPolicy(("f",)))), A, X, Y)
    made.hear(A, announce(path(A), "192.0.2.0/25", "198.51.100.0/24", BLOCK, OTHER))
    assert set(advertised(made, X)) == {"192.0.2.0/25", BLOCK}
    assert set(advertised(made, Y)) == {BLOCK, OTHER}, "another peer has no filters"
    (stated,) = made.router.explain.export_verdicts(V4, pfx(OTHER), made.router.groups_of(X)[V4])
    assert (stated.out, stated.rule) == (ExportRefusal.FILTERED, "f exportV4[1]")
    (stated,) = made.router.explain.export_verdicts(V4, pfx("192.0.2.0/25"), made.router.groups_of(X)[V4])
    assert stated.rule == "f exportV4[0]"


def test_38_a_filter_cannot_undo_what_the_protocol_forbids() -> None:
    stated = policy(filters=rules(accept()), peers=named(a=PeerPolicy(("f",)), x=PeerPolicy(("f",))))
    made = core(stated, A, B, X)
    made.hear(B, announce(path(B), BLOCK))
    assert advertised(made, A) == {}, "internal routes are not passed on to internal peers"
    assert set(advertised(made, X)) == {BLOCK}


def test_38_another_rule_in_a_filter_is_applied_to_what_was_advertised_without_the_session() -> None:
    peers_ = named(x=PeerPolicy(("f",)))
    made = core(policy(filters=rules(reject(OTHER)), peers=peers_), A, X, blocks=[BLOCK])
    made.hear(A, announce(path(A), OTHER))
    for rule, left in ((reject(BLOCK), {OTHER}), (reject(), set()), (accept(), {BLOCK, OTHER})):
        assert made.router.set_policy(policy(filters=rules(rule), peers=peers_)) == {}, (
            "the group is the same"
        )
        made.settle()
        assert set(advertised(made, X)) == left


def test_39_operations_change_what_is_advertised_behind_our_own_as() -> None:
    change = accept(POOL, operations=(AddCommunity(7), PrependAsPath((9, 8)), SetPriority(500)))
    stated = policy(filters=rules(change), peers=named(x=PeerPolicy(("f",)), a=PeerPolicy(("f",))))
    made = core(stated, A, X, blocks=[BLOCK])
    made.hear(X, announce(path(X), OTHER))
    assert advertised(made, X)[BLOCK].attributes == attributes(64512, 9, 8, communities=(7,))
    learned = advertised(made, A)[OTHER].attributes
    assert learned == attributes(9, 8, 65001, local_pref=INT_MAX - 500, communities=(7,))


def test_39_what_a_filter_sees_of_a_route() -> None:
    filters = {
        "f": BGPFilter(
            "f", exports={V4: (reject(remote_peers=True), reject(ibgp=True), reject(priority=1024), accept())}
        )
    }
    stated = policy(filters=filters, priorities="on", peers=named(x=PeerPolicy(("f",)), y=PeerPolicy(("f",))))
    made = core(stated, A, X, blocks=[BLOCK])
    made.hear(A, announce(path(A, attributes(local_pref=ENCODED)), OTHER))
    verdicts = {
        text: made.router.explain.export_verdicts(V4, pfx(text), made.router.groups_of(X)[V4])[0].rule
        for text in (BLOCK, OTHER)
    }
    assert verdicts == {BLOCK: "f exportV4[2]", OTHER: "f exportV4[0]"}


def test_39_a_local_route_with_an_interface_is_a_filters_to_let_out() -> None:
    stated = policy(filters=rules(accept(interface="eth*")), peers=named(x=PeerPolicy(("f",))))
    snapshot = Snapshot(pools={"p": IPPool("p", V4, pfx(POOL), 26)})
    foreign = {
        V4: frozenset(
            (
                ForeignRoute(pfx("192.0.2.0/24"), RouteSource.KERNEL, "eth0", addr("10.0.1.1"), 20),
                ForeignRoute(pfx("10.0.1.0/24"), RouteSource.DIRECT, "eth0"),
                ForeignRoute(pfx("10.5.0.0/24"), RouteSource.DIRECT, "br0"),
                ForeignRoute(pfx("10.6.0.0/24"), RouteSource.DIRECT, "eth9"),
            )
        )
    }
    stated = replace(stated, ignored_interfaces=("eth9",))
    made = core(stated, A, X)
    made.router.originated(originate(snapshot, {}, "me", policy=stated, foreign=foreign))
    made.router.local_prefixes(V4, {pfx("10.0.1.0/24"): "a subnet"})
    made.settle()
    assert {text: out.next_hop for text, out in advertised(made, X).items()} == {
        "192.0.2.0/24": ME,
        "10.0.1.0/24": ME,
    }
    assert advertised(made, A) == {}
    assert made.exported(A, "192.0.2.0/24") is ExportRefusal.NOT_OURS
    keep = replace(
        stated, peers={**stated.peers, **named(a=PeerPolicy(("f",)), x=PeerPolicy(("f",), NextHopMode.KEEP))}
    )
    made.router.set_policy(keep)
    made.settle()
    assert advertised(made, A)["192.0.2.0/24"].next_hop == addr("10.0.1.1"), "the gateway, to internal peers"
    assert advertised(made, X)["192.0.2.0/24"].next_hop == addr("10.0.1.1")
    made.hear(A, announce(path(A), "192.0.2.0/24"))
    assert made.routes() == {"192.0.2.0/24": via("10.0.1.30")}, "what BGP says comes before another's route"


def test_8_18_others_routes_inside_a_pool_are_not_advertised_by_themselves() -> None:
    """Felix's to other nodes among them, with or without a tunnel: those nodes announce their own blocks."""
    stated = policy(filters=rules(accept("192.0.2.0/24")), peers=named(x=PeerPolicy(("f",))))
    felix = ForeignRoute(pfx(OTHER), RouteSource.KERNEL, "eth0", addr("10.0.1.30"))
    subnet = ForeignRoute(pfx("10.48.9.0/24"), RouteSource.DIRECT, "br0")
    made = core(stated, A, X)
    snap = Snapshot(pools={"p": IPPool("p", V4, pfx(POOL), 26)})
    made.router.originated(originate(snap, {}, "me", policy=stated, foreign={V4: frozenset((felix, subnet))}))
    made.settle()
    for to in (A, X):
        assert advertised(made, to) == {}
        for prefix in (felix.prefix, subnet.prefix):
            assert made.exported(to, prefix_text(V4, prefix)) is ExportRefusal.NOT_OURS


def test_56_addresses_of_ignored_interfaces_are_not_advertised() -> None:
    snap = Snapshot(pools={"p": IPPool("p", V4, pfx(POOL), 26)})
    tunnel, workload = WorkloadRoute(pfx(HOST), "tunl0", 0, True), WorkloadRoute(pfx("10.48.0.8/32"), "tunl1")
    for ignored, announced in (((), {HOST, "10.48.0.8/32"}), (("tun*",), {"10.48.0.8/32"})):
        stated = policy(ignored_interfaces=ignored)
        found = originate(snap, {V4: frozenset((tunnel, workload))}, "me", policy=stated)
        assert set(found[V4].announce) == {pfx(text) for text in announced}


def test_a_workload_inside_an_own_block_is_hidden_by_it_and_offered_to_filters() -> None:
    snap = snapshot(pool(), affinity(BLOCK))
    workloads = {
        V4: frozenset((WorkloadRoute(pfx(HOST), "cali1"), WorkloadRoute(pfx("10.48.0.8/32"), "cali2")))
    }
    found = originate(snap, workloads, "me", policy=policy())[V4]
    assert set(found.announce) == {pfx(BLOCK)}
    assert set(found.offered) == {pfx(HOST), pfx("10.48.0.8/32")}
    assert set(found.hidden) == set(found.offered), "why says so"
    lets_out = policy(filters=rules(accept(HOST, MatchOperator.EQUAL)), peers=named(x=PeerPolicy(("f",))))
    made = Core()
    made.router.set_policy(lets_out)
    made.up(X, Y).originate(found)
    assert (set(advertised(made, X)), set(advertised(made, Y))) == ({BLOCK, HOST}, {BLOCK})
    made.router.set_policy(policy())
    assert set(advertised(made.settle(), X)) == {BLOCK}
    made.router.set_policy(lets_out)
    made.settle()
    gone = originate(snap, {V4: frozenset()}, "me", policy=lets_out)[V4]
    assert set(advertised(made.originate(gone), X)) == {BLOCK}


def test_an_import_filter_that_changes_while_a_peer_restarts() -> None:
    by = peer("10.0.2.1", 65001, restart=[V4], preserved=[V4])
    made = core(policy(), by)
    made.hear(by, announce(path(by), BLOCK, OTHER))
    made.down(by, V4)
    assert set(made.routes()) == {BLOCK, OTHER}
    filters = rules(reject(BLOCK), direction="import")
    refuses = policy(filters=filters, peers=named(x=PeerPolicy(("f",))))
    made.router.set_policy(refuses)
    assert set(made.settle().routes()) == {OTHER}, "what is kept of it is judged by the new filter"
    assert made.router.counts(by.id, V4) == (2, 1, 2)
    made.router.set_policy(policy())
    assert set(made.settle().routes()) == {BLOCK, OTHER}
    made.router.set_policy(refuses)
    made.settle()
    back = again(by, preserved=[V4])
    made.up(back)
    made.hear(back, announce(path(back), BLOCK, OTHER))
    assert set(made.routes()) == {OTHER}, "and so is what its next session announces"
    made.hear(back, EndOfRib(V4))
    assert made.router.counts(by.id, V4) == (2, 1, 0)
    assert made.router.explain.refusals(by.id, V4) == {Reason.FILTERED: 1}


def test_without_export_filters_others_routes_are_not_looked_at() -> None:
    stated = policy()
    foreign = {V4: frozenset((ForeignRoute(pfx("192.0.2.0/24"), RouteSource.KERNEL, "eth0"),))}
    found = originate(Snapshot(), {}, "me", policy=stated, foreign=foreign)
    assert found[V4].offered == {}


# Import filters (38, 39, 41).


def test_38_import_filters_refuse_and_alter_and_the_counts_follow() -> None:
    filters = rules(
        reject(OTHER, MatchOperator.EQUAL),
        accept(BLOCK, operations=(SetPriority(600), AddCommunity(5))),
        direction="import",
    )
    made = core(policy(filters=filters, peers=named(a=PeerPolicy(("f",)))), A, B, X)
    made.hear(A, announce(path(A), BLOCK, OTHER, HOST))
    assert made.routes() == {BLOCK: via("10.0.1.30"), HOST: via("10.0.1.30")}
    assert made.router.counts(A.id, V4) == (3, 2, 0)
    assert advertised(made, X)[BLOCK].attributes.communities == (5,)
    best, _, rejected = made.router.explain.judged(V4, pfx(OTHER))
    assert (best, list(rejected.values())) == (None, [Reason.FILTERED])
    received = made.router.adj_rib_in(V4).paths(pfx(OTHER))[0]
    verdict = made.router.explain.imported(V4, pfx(OTHER), received)[1]
    assert verdict is not None
    assert verdict.rule == "f importV4[0]"
    made.hear(B, announce(path(B, attributes(local_pref=300)), BLOCK))
    assert made.routes()[BLOCK] == via("10.0.1.30"), (
        "the priority that the filter sets counts in the decision"
    )


def test_38_another_filter_is_applied_to_what_was_received_without_the_session() -> None:
    peers_ = named(a=PeerPolicy(("f",)))
    made = core(policy(peers=peers_), A, X)
    made.hear(A, announce(path(A), BLOCK, OTHER))
    for filters, left in (
        (rules(reject(OTHER), direction="import"), {BLOCK}),
        (rules(reject(BLOCK), direction="import"), {OTHER}),
        (rules(reject(), direction="import"), set()),
        ({}, {BLOCK, OTHER}),
    ):
        assert made.router.set_policy(policy(filters=filters, peers=peers_)) == {}, "import moves nobody"
        made.settle()
        assert set(made.routes()) == left
        assert set(advertised(made, X)) == left
        assert made.router.counts(A.id, V4) == (2, len(left), 0)


def test_own_as_is_allowed_as_often_as_configured_35() -> None:
    made = core(policy(peers=named(x=PeerPolicy(allow_own_as=2))), X, Y)
    made.hear(X, announce(path(X, attributes(65001, 64512, 7, 64512)), BLOCK))
    made.hear(X, announce(path(X, attributes(65001, 64512, 64512, 64512)), OTHER))
    made.hear(Y, announce(path(Y, attributes(65002, 64512)), HOST))
    assert set(made.routes()) == {BLOCK}
    made.router.set_policy(policy(peers=named(x=PeerPolicy(allow_own_as=3))))
    assert set(made.settle().routes()) == {BLOCK, OTHER}
    assert made.router.counts(X.id, V4) == (2, 2, 0)
    made.router.set_policy(policy())
    assert set(made.settle().routes()) == set()
    assert made.router.counts(X.id, V4) == (2, 0, 0)


def test_41_graceful_shutdown_lowers_the_local_preference_to_0() -> None:
    made = core(policy(), A, B, X)
    leaving = attributes(local_pref=100, communities=(GRACEFUL_SHUTDOWN,))
    made.hear(A, announce(path(A), BLOCK)).hear(B, announce(path(B), BLOCK))
    made.hear(A, announce(path(A, leaving), BLOCK))
    assert made.routes() == {BLOCK: via("10.0.1.31")}
    made.hear(B, withdraw(BLOCK))
    assert made.routes() == {BLOCK: via("10.0.1.30")}, "still used, where nothing else is there"


def test_no_peer_is_not_advertised_to_external_peers() -> None:
    made = core(policy(), A, X, Y)
    made.hear(X, announce(path(X, attributes(65001, communities=(NO_PEER,))), BLOCK))
    assert set(advertised(made, A)) == {BLOCK}
    assert advertised(made, Y) == {}


# Next hops (36), §2.11.


@pytest.mark.parametrize(
    ("mode", "to", "learned_by", "expected"),
    [
        (NextHopMode.AUTO, A, X, "10.0.2.1"),
        (NextHopMode.AUTO, Y, X, "10.0.1.20"),
        (NextHopMode.AUTO, Y, A, "10.0.1.20"),
        (NextHopMode.SELF, A, X, "10.0.1.20"),
        (NextHopMode.SELF, Y, X, "10.0.1.20"),
        (NextHopMode.KEEP, A, X, "10.0.2.1"),
        (NextHopMode.KEEP, Y, X, "10.0.2.1"),
        (NextHopMode.KEEP_EBGP, A, X, "10.0.2.1"),
        (NextHopMode.KEEP_EBGP, Y, A, "10.0.1.30"),
    ],
)
def test_36_the_next_hop(mode: NextHopMode, to: Peer, learned_by: Peer, expected: str) -> None:
    made = core(policy(peers={to.id: PeerPolicy(next_hop=mode)}), A, X, Y, blocks=[BLOCK])
    made.hear(learned_by, announce(path(learned_by), OTHER))
    assert address_text(advertised(made, to)[OTHER].next_hop) == expected
    assert advertised(made, to)[BLOCK].next_hop == ME, "of our own block always ours"


NEAR = peer("10.0.1.40", 65002, name="near")
LAN = {V4: (pfx("10.0.0.0/23"), pfx("10.0.1.0/24")), V6: (pfx("fd00::/64"),)}


@pytest.mark.parametrize(
    ("mode", "to", "next_hop", "expected"),
    [
        (NextHopMode.AUTO, NEAR, "10.0.1.30", "10.0.1.30"),
        (NextHopMode.AUTO, NEAR, "10.0.1.99", "10.0.1.99"),
        (NextHopMode.AUTO, NEAR, "10.0.2.9", "10.0.1.20"),
        (NextHopMode.AUTO, X, "10.0.1.30", "10.0.1.20"),
        (NextHopMode.SELF, NEAR, "10.0.1.30", "10.0.1.20"),
        (NextHopMode.KEEP_EBGP, NEAR, "10.0.2.9", "10.0.2.9"),
        (NextHopMode.AUTO, A, "10.0.1.99", "10.0.1.99"),
        (NextHopMode.SELF, A, "10.0.1.99", "10.0.1.20"),
    ],
)
def test_36_a_next_hop_in_the_subnet_that_an_external_peer_shares_stays(
    mode: NextHopMode, to: Peer, next_hop: str, expected: str
) -> None:
    """RFC 4271 §5.1.3: the peer reaches it as we do. Learned from an external or internal peer alike; of the smallest
    subnet that the peer is in, and to no peer elsewhere."""
    for learned_by in (B, peer("10.0.3.1", 65009, name="c")):
        stated = policy(peers={NEAR.id: PeerPolicy(), to.id: PeerPolicy(next_hop=mode)}, subnets=LAN)
        made = core(stated, B, X, A, NEAR, learned_by, blocks=[BLOCK])
        made.hear(learned_by, announce(path(learned_by, next_hop=next_hop), OTHER))
        if learned_by is B and to is A:
            assert OTHER not in advertised(made, to)
            continue
        assert address_text(advertised(made, to)[OTHER].next_hop) == expected
        assert advertised(made, to)[BLOCK].next_hop == ME, "of our own block always ours"


def test_36_a_shared_subnet_is_of_the_next_hops_family() -> None:
    """Over IPv6 the peer shares an IPv6 subnet: that says nothing on IPv4 next hops, but for those that are IPv6."""
    near6 = peer("fd00::40", 65002, families=(V4, V6), name="near")
    stated = policy(peers={near6.id: PeerPolicy()}, subnets=LAN)
    four = replace(near6, config=replace(near6.config, next_hops={V4: ME}))
    made = core(stated, X, four)
    made.hear(X, announce(path(X, next_hop="10.0.1.30"), BLOCK), announce(path(X, next_hop="fd00::9"), OTHER))
    assert {out.next_hop for out in advertised(made, four).values()} == {ME}
    wide = replace(near6, extended_next_hop=frozenset({V4}))
    made = core(stated, X, wide)
    made.hear(X, announce(path(X, next_hop="10.0.1.30"), BLOCK), announce(path(X, next_hop="fd00::9"), OTHER))
    assert advertised(made, wide)[OTHER].next_hop == addr("fd00::9")
    assert advertised(made, wide)[BLOCK].next_hop == ME6


def test_36_another_subnet_on_a_link_moves_the_external_session_in_it_and_no_other() -> None:
    stated = policy(peers={NEAR.id: PeerPolicy()})
    made = core(stated, A, X, NEAR)
    made.hear(A, announce(path(A), BLOCK))
    assert advertised(made, NEAR)[BLOCK].next_hop == ME
    moved = made.router.set_policy(replace(stated, subnets=LAN))
    assert list(moved) == [NEAR]
    made.settle()
    assert (advertised(made, NEAR)[BLOCK].next_hop, advertised(made, X)[BLOCK].next_hop) == (
        addr("10.0.1.30"),
        ME,
    )


# Communities (40).


def test_40_communities_of_prefix_advertisements_and_the_nodes_own_list() -> None:
    stated = policy(advertise={POOL: (100, (1, 2, 3)), "10.48.0.0/26": (200,)})
    made = core(stated, A, X, blocks=[BLOCK])
    made.hear(A, announce(path(A), OTHER))
    both = advertised(made, X)
    assert (both[BLOCK].attributes.communities, both[BLOCK].attributes.large_communities) == (
        (100, 200),
        ((1, 2, 3),),
    )
    assert both[OTHER].attributes.communities == (100,)
    assert advertised(made, A)[BLOCK].attributes.communities == (100, 200)
    filtered = replace(
        stated,
        filters=rules(accept(BLOCK, MatchOperator.EQUAL)),
        peers={**stated.peers, **named(x=PeerPolicy(("f",)))},
    )
    made.router.set_policy(filtered)
    made.settle()
    assert advertised(made, X)[BLOCK].attributes.communities == (), (
        "what a filter accepts, it accepts as it is"
    )
    assert advertised(made, X)[OTHER].attributes.communities == (100,)


# Moving between groups.


def test_another_filter_list_moves_the_session_and_nothing_else() -> None:
    made = core(policy(filters=rules(reject(OTHER))), A, X, Y, blocks=[BLOCK, OTHER])
    before = made.router.groups_of(X)[V4]
    moved = made.router.set_policy(policy(filters=rules(reject(OTHER)), peers=named(x=PeerPolicy(("f",)))))
    assert set(moved) == {X}
    made.settle()
    assert made.router.groups_of(X)[V4] is not before
    assert (set(advertised(made, X)), set(advertised(made, Y))) == ({BLOCK}, {BLOCK, OTHER})
    assert made.router.groups == 3, "the old group had no other member"
    made.down(X)
    assert made.router.groups == 2


def test_a_session_that_nobody_wants_any_more_is_sent_nothing_new() -> None:
    peers_ = named(x=PeerPolicy(("f",)))
    made = core(policy(filters=rules(reject()), peers=peers_), X, blocks=[BLOCK])
    without = RoutePolicy(filters=rules(reject()))
    assert made.router.set_policy(without) == {}
    assert advertised(made.settle(), X) == {}


# Reflection (23).


def reflector(**clients: bool) -> RoutePolicy:
    return policy(
        cluster_id=CLUSTER,
        peers=named(
            **{name: PeerPolicy(cluster_id=CLUSTER, client=is_one) for name, is_one in clients.items()}
        ),
    )


def test_23_who_hears_whom() -> None:
    made = core(reflector(a=True, b=False, c=False), A, B, C, X)
    made.hear(A, announce(path(A), BLOCK)).hear(B, announce(path(B), OTHER)).hear(X, announce(path(X), HOST))
    heard = {
        name: {text for text, out in advertised(made, to).items() if out.source != to.id}
        for name, to in (("a", A), ("b", B), ("c", C), ("x", X))
    }
    assert heard == {
        "a": {OTHER, HOST},
        "b": {BLOCK, HOST},
        "c": {BLOCK, HOST},
        "x": {BLOCK, OTHER},
    }


def test_23_originator_and_cluster_list_are_set_and_the_next_hop_stays() -> None:
    made = core(reflector(a=True, b=True), A, B)
    first = attributes(local_pref=100)
    again_ = attributes(local_pref=100, originator_id="9.9.9.9", cluster_list=("2.2.2.2",))
    made.hear(A, announce(path(A, first), BLOCK), announce(path(A, again_), OTHER))
    assert advertised(made, B)[BLOCK] == Out(
        attributes(local_pref=100, originator_id="10.0.1.30", cluster_list=("1.1.1.1",)),
        addr("10.0.1.30"),
        A.id,
    )
    assert advertised(made, B)[OTHER].attributes == attributes(
        local_pref=100, originator_id="9.9.9.9", cluster_list=("1.1.1.1", "2.2.2.2")
    )


def test_23_loops_by_originator_and_cluster() -> None:
    made = core(reflector(a=True), A)
    mine = attributes(local_pref=100, cluster_list=("2.2.2.2", "1.1.1.1"))
    made.hear(A, announce(path(A, mine), BLOCK))
    made.hear(A, announce(path(A, attributes(local_pref=100, originator_id="10.0.1.20")), OTHER))
    assert made.routes() == {}
    assert made.router.counts(A.id, V4) == (2, 0, 0)
    assert set(made.router.explain.judged(V4, pfx(BLOCK))[2].values()) == {Reason.CLUSTER_LOOP}
    plain = core(policy(), A).hear(A, announce(path(A, mine), BLOCK))
    assert set(plain.routes()) == {BLOCK}, "who is no reflector has no cluster"


def test_23_two_reflectors_of_one_cluster_take_each_others_clients_routes() -> None:
    """As BIRD, where only what a client announces is looked at for our cluster; ``strict_cluster_list`` is RFC 4456
    §8."""
    reflected = attributes(local_pref=100, originator_id="10.0.1.33", cluster_list=("1.1.1.1",))
    own = attributes(local_pref=100, originator_id="10.0.1.20", cluster_list=("1.1.1.1",))
    made = core(reflector(a=False, b=True), A, B)
    made.hear(A, announce(path(A, reflected), BLOCK), announce(path(A, own), OTHER))
    assert set(made.routes()) == {BLOCK}, "ORIGINATOR_ID ends what comes round"
    assert advertised(made, B)[BLOCK].attributes.cluster_list == (CLUSTER, CLUSTER), "passed on to our client"
    strict = named(a=PeerPolicy(cluster_id=CLUSTER, strict_cluster_list=True))
    made.router.set_policy(policy(peers=strict, cluster_id=CLUSTER))
    made.settle()
    assert made.routes() == {}
    assert made.router.explain.refusals(A.id, V4) == {Reason.CLUSTER_LOOP: 1, Reason.ORIGINATOR_LOOP: 1}


@pytest.mark.parametrize(
    "as_path",
    [attributes(65009), attributes(), Attributes(as_path=AsPath.of((SegmentType.AS_SET, (65001,))))],
    ids=["another AS", "empty", "a set"],
)
def test_a_route_servers_routes_are_taken_unless_the_first_as_is_enforced(as_path: Attributes) -> None:
    made = core(policy(peers=named(x=PeerPolicy(), y=PeerPolicy(enforce_first_as=True))), X, Y)
    made.hear(X, announce(path(X, as_path), BLOCK), announce(path(X), OTHER))
    made.hear(Y, announce(path(Y, as_path), HOST))
    assert set(made.routes()) == {BLOCK, OTHER}
    assert made.router.explain.judged(V4, pfx(HOST))[2] == {path(Y, as_path): Reason.FIRST_AS}
    assert (made.router.explain.refusals(X.id, V4), made.router.explain.refusals(Y.id, V4)) == (
        {},
        {Reason.FIRST_AS: 1},
    )
    assert [made.router.explain.starting_elsewhere(each.id, V4) for each in (X, Y)] == [1, 1]
    made.router.set_policy(policy(peers=named(x=PeerPolicy(enforce_first_as=True), y=PeerPolicy())))
    made.settle()
    assert set(made.routes()) == {OTHER, HOST}, "another wish needs no session"
    assert made.router.counts(X.id, V4) == (2, 1, 0)


def test_paths_of_a_prefix_beyond_what_the_peer_may_have_are_refused_by_name() -> None:
    made = core(policy(peers=named(x=PeerPolicy(max_paths_per_prefix=2), y=PeerPolicy())), X, Y)
    for by in (X, Y):
        made.hear(by, *(announce(path(by, path_id=number), HOST) for number in (4, 3, 2, 1)))
    judged = made.router.explain.judged(V4, pfx(HOST))[2]
    assert {path_.path_id for path_, why in judged.items() if why is Reason.SURPLUS} == {3, 4}
    assert (made.router.explain.refusals(X.id, V4), made.router.explain.refusals(Y.id, V4)) == (
        {Reason.SURPLUS: 2},
        {},
    )
    assert made.router.counts(X.id, V4) == (4, 2, 0)
    made.router.set_policy(policy(peers=named(x=PeerPolicy(), y=PeerPolicy(max_paths_per_prefix=1))))
    made.settle()
    assert len(made.router.rib(V4)[pfx(HOST)].multipath) == 4 + 1, "another wish needs no session"
    assert (made.router.explain.refusals(X.id, V4), made.router.explain.refusals(Y.id, V4)) == (
        {},
        {Reason.SURPLUS: 3},
    )


def test_3_the_blocks_owner_reflects_borrowed_addresses() -> None:
    made = core(reflector(a=True, b=True), A, B, X, blocks=[BLOCK])
    made.hear(A, announce(path(A), HOST))
    assert advertised(made, B)[HOST].next_hop == addr("10.0.1.30")
    assert HOST in advertised(made, X)


def test_a_thousand_clients_are_two_groups() -> None:
    many = [peer(f"10.2.{n >> 8}.{n & 255}") for n in range(1000)]
    stated = replace(
        reflector(), peers={each.id: PeerPolicy(cluster_id=CLUSTER, client=True) for each in many}
    )
    made = Core()
    made.router.set_policy(stated)
    for each in many:
        made.router.session_up(each, 0.0)
    assert made.router.groups == 1


# Priorities (46), live migration (§3.5).


def test_46_on_local_pref_is_the_metric_both_ways() -> None:
    made = core(policy(priorities="on"), A, X, blocks=[BLOCK])
    made.hear(A, announce(path(A, attributes(local_pref=INT_MAX - 512)), OTHER), announce(path(A), HOST))
    made.hear(X, announce(path(X), "192.0.2.0/24"))
    assert {(text, at) for _, text, at in made.fib} == {
        (BLOCK, 0),
        (OTHER, 512),
        (HOST, 1024),
        ("192.0.2.0/24", 1024),
    }
    assert advertised(made, A)[BLOCK].attributes.local_pref == ENCODED
    assert advertised(made, X)[BLOCK].attributes.local_pref is None
    made.hear(A, announce(path(A, attributes(local_pref=ENCODED)), OTHER))
    assert {at for _, text, at in made.fib if text == OTHER} == {1024}, "the route at the old metric goes"
    made.hear(A, withdraw(OTHER, HOST))
    assert {text for _, text, _ in made.fib} == {BLOCK, "192.0.2.0/24"}


def test_46_auto_is_on_once_an_internal_peer_encoded() -> None:
    restarting = peer("10.0.1.30", restart=[V4])
    made = core(policy(), restarting, B, X, blocks=[BLOCK])
    assert not made.prioritised
    made.hear(X, announce(path(X, attributes(65001, local_pref=ENCODED)), OTHER))
    assert not made.prioritised, "an external peer's word means nothing"
    made.hear(restarting, announce(path(restarting, attributes(local_pref=ENCODED)), OTHER))
    assert made.prioritised
    assert advertised(made, B)[BLOCK].attributes.local_pref == ENCODED
    made.down(restarting, V4)
    made.now += 1000
    made.router.tick(made.now)
    made.settle()
    assert made.prioritised, "what was true of the cluster once stays so"
    assert advertised(made, B)[BLOCK].attributes.local_pref == ENCODED
    made.router.set_policy(policy(priorities="off"))
    made.settle()
    assert not made.prioritised
    assert {at for _, _, at in made.fib} == {0}


@pytest.mark.parametrize(
    ("field", "mode", "on"),
    [(2000, "auto", True), (None, "auto", False), (None, "on", True), (2000, "off", False)],
)
def test_46_what_switches_it(field: int | None, mode: Any, on: bool) -> None:
    stated = resources(BGPConfiguration(ipv4_normal_route_priority=field), bgp=f"{{route_priority: {mode}}}")
    made = Core()
    made.router.set_policy(stated)
    assert made.prioritised is on
    assert stated.families[V4].normal_priority == (field or 1024)


def test_46_auto_is_on_where_own_workloads_have_metrics() -> None:
    """Known before anybody is sent anything: a peer that encodes would take a LOCAL_PREF of 100 for a metric."""
    plain, ranked = WorkloadRoute(pfx(HOST), "cali1"), WorkloadRoute(pfx(HOST), "cali1", 1024)
    six = WorkloadRoute(pfx("fd00:48::7/128"), "cali1", 1024)
    assert are_ranked({V4: frozenset({plain, ranked}), V6: frozenset()})
    assert not are_ranked({V4: frozenset({plain}), V6: frozenset({six})})
    for mode, on in (("auto", True), ("on", True), ("off", False)):
        made = Core()
        made.router.workloads_ranked(True)
        made.router.set_policy(policy(priorities=mode))
        assert made.prioritised is on
    made = core(policy(), A, blocks=[BLOCK])
    made.router.workloads_ranked(True)
    made.settle()
    assert advertised(made, A)[BLOCK].attributes.local_pref == ENCODED
    made.router.workloads_ranked(False)
    made.settle()
    assert advertised(made, A)[BLOCK].attributes.local_pref == ENCODED, (
        "the last pod that goes changes nothing"
    )


@pytest.mark.parametrize("direction", ["imports", "exports"])
@pytest.mark.parametrize(
    ("rule", "on"),
    [
        (FilterRule(Action.ACCEPT, priority=512), True),
        (FilterRule(Action.ACCEPT, operations=(SetPriority(512),)), True),
        (FilterRule(Action.ACCEPT, community=7), False),
    ],
)
def test_46_a_filter_by_priority_says_that_there_are_priorities(
    direction: str, rule: FilterRule, on: bool
) -> None:
    """Before the first pod has a route: or the filter lets the own block out only while there is one."""
    ranking = BGPFilter("ranks", **{direction: {V6: (FilterRule(Action.REJECT), rule)}})
    made = Core()
    made.router.set_policy(resources(filters=(ranking,)))
    assert made.prioritised is on
    made.router.set_policy(resources())
    assert made.prioritised is on, "it stays so when the filter goes"


def test_46_an_elevated_workload_is_announced_inside_its_own_block() -> None:
    snap = snapshot(pool(), affinity("10.48.0.0/26"))
    routes = {
        V4: frozenset(
            {WorkloadRoute(pfx(HOST), "cali1", 512), WorkloadRoute(pfx("10.48.0.8/32"), "cali2", 1024)}
        )
    }
    for mode, stated in (("auto", {BLOCK, HOST}), ("off", {BLOCK})):
        found = originate(snap, routes, "me", policy=policy(priorities=mode))[V4]
        assert set(found.announce) == {pfx(text) for text in stated}
        found = originate(snapshot(affinity("10.48.0.0/26")), routes, "me", policy=policy(priorities=mode))[
            V4
        ]
        assert set(found.announce) == {pfx(text) for text in stated}, (
            "a block is announced without a pool too"
        )
    made = core(policy(priorities="on"), A)
    made.router.originated({V4: originate(snap, routes, "me", policy=policy(priorities="on"))[V4]})
    made.settle()
    assert advertised(made, A)[HOST].attributes.local_pref == INT_MAX - 512


@pytest.mark.parametrize(
    ("local_pref", "mode", "theirs"),
    [
        (INT_MAX - 512, "auto", True),
        (ENCODED, "auto", False),
        (100, "auto", False),
        (INT_MAX - 512, "off", False),
    ],
)
def test_46_a_moved_workload_takes_its_address_with_it(local_pref: int, mode: Any, theirs: bool) -> None:
    made = core(policy(priorities=mode), A, B, X, borrowed=[HOST])
    made.hear(A, announce(path(A, attributes(local_pref=local_pref)), HOST))
    assert (HOST in made.routes()) is theirs
    assert (advertised(made, X)[HOST].source == A.id) is theirs
    made.hear(A, withdraw(HOST))
    assert advertised(made, X)[HOST].source is None
    assert HOST not in made.routes()


def test_46_off_gives_an_address_back_that_an_import_filter_had_moved() -> None:
    """Nobody sends a metric, so nothing else switches."""
    filters = rules(accept(operations=(SetPriority(512),)), direction="import")
    stated = policy(filters=filters, peers=named(x=PeerPolicy(("f",))))
    made = core(stated, B, X, borrowed=[HOST])
    made.hear(X, announce(path(X), HOST))
    assert not made.prioritised
    assert advertised(made, B)[HOST].source == X.id
    made.router.set_policy(replace(stated, priorities="off"))
    made.settle()
    assert advertised(made, B)[HOST].source is None


def test_46_a_moved_workload_takes_its_block_of_a_single_address_with_it() -> None:
    snap = snapshot(pool(), affinity(HOST))

    def core_with(*metrics: int) -> Core:
        made = core(policy(priorities="on"), A)
        routes = {V4: frozenset(WorkloadRoute(pfx(HOST), "cali1", metric) for metric in metrics)}
        made.router.originated({V4: originate(snap, routes, "me", policy=policy(priorities="on"))[V4]})
        return made.settle()

    assert advertised(core_with(512), A)[HOST].attributes.local_pref == INT_MAX - 512, "it comes"
    made = core_with(1024)
    made.hear(A, announce(path(A, attributes(local_pref=ENCODED)), HOST))
    assert HOST not in made.routes(), "ours comes first"
    made.hear(A, announce(path(A, attributes(local_pref=INT_MAX - 512)), HOST))
    assert {at for _, text, at in made.fib if text == HOST} == {512}, "it goes"
    assert HOST not in advertised(core_with(), A)


# The kernel (14 to 17), services (42).


def resources(
    default: BGPConfiguration | None = None,
    *,
    pools: tuple[IPPool, ...] = (),
    nodes: tuple[Node, ...] = (),
    own: Node | None = None,
    mine: BGPConfiguration | None = None,
    filters: tuple[BGPFilter, ...] = (),
    bgp: str = "{}",
    kernel: str = "{}",
) -> RoutePolicy:
    """The policy of node ``me`` by resources."""
    own = own or Node("me", ipv4=ME, ipv4_network=IPNetwork("10.0.1.20/24"))
    found = Snapshot(
        pools={pool.name: pool for pool in pools},
        filters={each.name: each for each in filters},
        nodes={node.name: node for node in (own, *nodes)},
        bgp_configurations={each.name: each for each in (default, mine) if each},
    )
    config: Config = parse(f"{{node: me, bgp: {bgp}, kernel: {kernel}}}", "test")
    return route_policy(found, "me", config, peers(found, "me", config))


def pool(name: str = "p", cidr: str = POOL, **modes: Any) -> IPPool:
    return IPPool(name, V4, pfx(cidr), 26, **modes)


IPIP, CROSS = {"ipip_mode": EncapMode.ALWAYS}, {"ipip_mode": EncapMode.CROSS_SUBNET}
VXLAN = {"vxlan_mode": EncapMode.CROSS_SUBNET}


@pytest.mark.parametrize(
    ("mode", "written"),
    [
        (ClusterRoutes.ENABLED, {"plain", "ipip"}),
        (ClusterRoutes.DISABLED, set()),
        (ClusterRoutes.IPIP_ONLY, {"ipip"}),
        (ClusterRoutes.NO_ENCAP_ONLY, {"plain"}),
        (None, {"plain"}),
    ],
)
def test_14_15_16_whose_routes_are_ours_to_write(mode: ClusterRoutes | None, written: set[str]) -> None:
    pools = (pool("plain"), pool("ipip", "10.49.0.0/16", **IPIP), pool("vxlan", "10.50.0.0/16", **VXLAN))
    stated = resources(BGPConfiguration(program_cluster_routes=mode), pools=pools)
    names = {pool.cidr: pool.name for pool in pools}
    found = {names[rule.cidr]: rule for rule in stated.families[V4].kernel_rules}
    assert {name for name, rule in found.items() if rule.program} == written
    assert found["ipip"].tunnel == ("tunl0" if "ipip" in written else None)
    assert ("tunl0" in stated.kept_inside) is ("ipip" not in written)
    assert stated.families[V4].plain is False
    assert "Felix" in found["vxlan"].reason


def test_16_the_nodes_configuration_says_what_an_unset_field_means() -> None:
    stated = resources(pools=(pool(**IPIP),), kernel="{program_cluster_routes: Enabled}")
    assert stated.families[V4].kernel_rules == (
        KernelRule(pfx(POOL), True, "IPPool p has ipipMode Always", "tunl0", False),
    )
    assert stated.kept_inside == KEPT_INSIDE


def test_a_cluster_without_encapsulation_asks_nothing_of_the_hot_road() -> None:
    assert resources(pools=(pool(),)).families[V4].plain


def kernel_core(stated: RoutePolicy, *up: Peer, tunnel: int | None = 9) -> Core:
    made = core(stated, *up)
    made.router.tunnels_changed({} if tunnel is None else {"tunl0": tunnel})
    return made.settle()


def onlink(*gateways: str) -> Via:
    return Via(tuple(Hop(addr(gateway), 9, True) for gateway in gateways))


@pytest.mark.parametrize(
    ("modes", "own", "expected"),
    [
        (IPIP, "10.0.1.20/24", {"near": onlink("10.0.1.30"), "far": onlink("10.0.2.1")}),
        (CROSS, "10.0.1.20/24", {"near": via("10.0.1.30"), "far": onlink("10.0.2.1")}),
        (CROSS, None, {"near": onlink("10.0.1.30"), "far": onlink("10.0.2.1")}),
    ],
)
def test_14_ipip_always_and_cross_subnet(modes: Any, own: str | None, expected: dict[str, Via]) -> None:
    node = Node("me", ipv4=ME, ipv4_network=IPNetwork(own) if own else None)
    stated = resources(
        BGPConfiguration(program_cluster_routes=ClusterRoutes.ENABLED), pools=(pool(**modes),), own=node
    )
    made = kernel_core(stated, A, X)
    made.hear(A, announce(path(A), BLOCK)).hear(X, announce(path(X), OTHER, "192.0.2.0/24"))
    assert made.routes() == {BLOCK: expected["near"], OTHER: expected["far"], "192.0.2.0/24": via("10.0.2.1")}


def test_14_multipath_through_the_tunnel_and_beside_it() -> None:
    far = peer("10.0.3.1")
    stated = resources(BGPConfiguration(program_cluster_routes=ClusterRoutes.ENABLED), pools=(pool(**CROSS),))
    made = kernel_core(stated, A, far)
    made.hear(A, announce(path(A), BLOCK)).hear(far, announce(path(far), BLOCK))
    assert made.routes() == {BLOCK: Via((Hop(addr("10.0.1.30"), 2), Hop(addr("10.0.3.1"), 9, True)))}


def test_14_without_the_tunnel_nothing_is_written_unencapsulated() -> None:
    stated = resources(BGPConfiguration(program_cluster_routes=ClusterRoutes.ENABLED), pools=(pool(**IPIP),))
    made = kernel_core(stated, A, tunnel=None)
    made.hear(A, announce(path(A), BLOCK))
    assert made.routes() == {}
    assert made.router.explain.kernel_word(V4, pfx(BLOCK))[1] is KernelRefusal.TUNNEL_DOWN
    made.router.tunnels_changed({"tunl0": 9})
    assert made.settle().routes() == {BLOCK: onlink("10.0.1.30")}
    made.router.tunnels_changed({})
    assert made.settle().routes() == {}


def test_15_16_what_felix_writes_is_decided_and_advertised_but_not_written() -> None:
    made = kernel_core(resources(pools=(pool(**VXLAN),)), A, X)
    made.hear(A, announce(path(A), BLOCK, "192.0.2.0/24"))
    assert made.routes() == {"192.0.2.0/24": via("10.0.1.30")}
    assert set(made.router.rib(V4)) == {pfx(BLOCK), pfx("192.0.2.0/24")}
    assert set(advertised(made, X)) == {BLOCK}
    rule, word = made.router.explain.kernel_word(V4, pfx(BLOCK))
    assert (word, rule and rule.reason) == (
        KernelRefusal.LEFT_TO_OTHERS,
        "IPPool p has vxlanMode CrossSubnet: Felix writes its routes",
    )
    made.router.set_policy(resources(pools=(pool(),)))
    assert set(made.settle().routes()) == {BLOCK, "192.0.2.0/24"}, "the pool is another now"


@pytest.mark.parametrize("before", [{}, {"ipip_mode": EncapMode.CROSS_SUBNET}])
def test_15_16_what_felix_writes_from_now_on_is_said_to_be_left_to_it(before: dict[str, Any]) -> None:
    """The route that is there stays until Felix's stands (``fib.leaving``); one that goes for another reason does not,
    nor what a service's range takes from the kernel."""
    clear = BGPConfiguration(
        "default", ipv4_normal_route_priority=1024, program_cluster_routes=ClusterRoutes.ENABLED
    )
    made = kernel_core(resources(clear, pools=(pool(**before),)), A, X)
    made.hear(A, announce(path(A, attributes(local_pref=ENCODED)), BLOCK, OTHER, "192.0.2.0/24"))
    assert not made.left and (V4, BLOCK, 1024) in made.fib
    made.router.set_policy(resources(clear, pools=(pool(**VXLAN),)))
    assert set(made.settle().routes()) == {"192.0.2.0/24"}
    assert made.left == {(pfx(BLOCK), 1024), (pfx(OTHER), 1024)}
    made.router.set_policy(resources(clear, pools=(pool(),)))
    assert made.settle().left == set() and set(made.routes()) == {BLOCK, OTHER, "192.0.2.0/24"}
    taken = replace(clear, service_cluster_ips=(ServiceRange(V4, pfx(BLOCK)),))
    made.router.set_policy(resources(taken, pools=(pool(),)))
    assert made.settle().left == set() and set(made.routes()) == {OTHER, "192.0.2.0/24"}


def test_4_a_blackhole_only_where_the_pools_routes_are_ours() -> None:
    for modes, holes in (({}, {pfx(BLOCK)}), (VXLAN, set()), (IPIP, set())):
        snap = snapshot(pool(**modes), affinity(BLOCK))
        found = originate(snap, {}, "me", policy=resources(pools=(pool(**modes),)))[V4]
        assert (set(found.announce), set(found.blackholes)) == ({pfx(BLOCK)}, holes)


def test_17_wireguard_nodes_are_felixs() -> None:
    own = Node("me", ipv4=ME, wireguard=frozenset({V4}))
    nodes = (Node("a", ipv4=addr("10.0.1.30"), wireguard=frozenset({V4})), Node("b", ipv4=addr("10.0.1.31")))
    made = kernel_core(resources(pools=(pool(),), own=own, nodes=nodes), A, B)
    made.hear(A, announce(path(A), BLOCK, HOST)).hear(B, announce(path(B), OTHER, HOST))
    assert made.routes() == {OTHER: via("10.0.1.31"), HOST: via("10.0.1.31")}
    assert made.router.explain.kernel_word(V4, pfx(BLOCK))[1] is KernelRefusal.ENCRYPTED
    assert resources(nodes=nodes).families[V4].encrypted == {}, "we have none ourselves"


SERVICES = BGPConfiguration(
    service_cluster_ips=(ServiceRange(V4, pfx("10.96.0.0/12")),),
    service_external_ips=(ServiceRange(V4, pfx("192.0.2.0/28")), ServiceRange(V4, pfx("192.0.2.99/32"))),
    service_load_balancer_ips=(
        ServiceRange(V4, pfx("198.51.100.0/24")),
        ServiceRange(V4, pfx("198.51.100.9/32")),
    ),
)


@pytest.mark.parametrize(
    ("change", "labels", "announced"),
    [
        ({}, {}, {"10.96.0.0/12", "192.0.2.0/28", "198.51.100.0/24"}),
        ({"service_load_balancer_aggregation": False}, {}, {"10.96.0.0/12", "192.0.2.0/28"}),
        ({}, {"node.kubernetes.io/exclude-from-external-load-balancers": "true"}, set()),
        (
            {},
            {"node.kubernetes.io/exclude-from-external-load-balancers": "false"},
            {"10.96.0.0/12", "192.0.2.0/28", "198.51.100.0/24"},
        ),
    ],
)
def test_42_44_services_are_announced_whole_and_never_the_kernels(
    change: Any, labels: dict[str, str], announced: set[str]
) -> None:
    stated = resources(replace(SERVICES, **change), own=Node("me", labels, ipv4=ME))
    found = originate(Snapshot(), {}, "me", policy=stated)
    assert set(found[V4].announce) == {pfx(text) for text in announced}
    assert {each.kind.value for each in found[V4].announce.values()} <= {"service"}
    made = kernel_core(stated, A, X)
    made.router.originated(found)
    made.settle()
    made.hear(A, announce(path(A), "10.96.0.1/32", "192.0.2.99/32", "198.51.100.9/32"))
    assert made.routes() == {}, "neither the ranges nor what is inside"
    if labels.get("node.kubernetes.io/exclude-from-external-load-balancers") == "true":
        assert advertised(made, X) == {}


def test_42_a_reflector_passes_on_addresses_of_services() -> None:
    own = Node("me", {"node.kubernetes.io/exclude-from-external-load-balancers": "true"}, ipv4=ME)
    for each, passed in (
        (own, set()),
        (replace(own, route_reflector_cluster_id=CLUSTER), {"192.0.2.1/32", "198.51.100.9/32"}),
    ):
        stated = resources(SERVICES, own=each)
        made = core(stated, A, X)
        made.router.originated(originate(Snapshot(), {}, "me", policy=stated))
        made.hear(A, announce(path(A), "10.96.0.1/32", "192.0.2.1/32", "198.51.100.9/32"))
        assert set(advertised(made, X)) == passed


def test_18_addresses_that_felix_brings_are_not_advertised_inside() -> None:
    def routes(*names: str) -> Any:
        return {
            V4: frozenset(
                WorkloadRoute(pfx(f"10.48.0.{n}/32"), name, 0, True) for n, name in enumerate(names)
            )
        }

    snap = Snapshot(pools={"p": pool()})
    workloads = routes("vxlan.calico", "wireguard.cali", "tunl0", "bpfin.cali", "cali1")
    for mode, inside in (("Enabled", {2, 4}), ("EnabledNoEncapOnly", {4})):
        stated = resources(pools=(pool(),), kernel=f"{{program_cluster_routes: {mode}}}")
        made = core(stated, A, X)
        made.router.originated(originate(snap, workloads, "me", policy=stated))
        made.settle()
        assert set(advertised(made, A)) == {f"10.48.0.{n}/32" for n in inside}
        assert set(advertised(made, X)) == {f"10.48.0.{n}/32" for n in (0, 1, 2, 4)}
        assert made.exported(A, "10.48.0.0/32") is ExportRefusal.INTERFACE


def test_40_the_nodes_own_list_replaces_the_default_one() -> None:
    default = BGPConfiguration(prefix_advertisements=(PrefixAdvertisement(V4, pfx(POOL), (1,)),))
    mine = BGPConfiguration("node.me", prefix_advertisements=())
    assert resources(default).families[V4].advertisements == ((pfx(POOL), (1,)),)
    assert resources(default, mine=mine).families[V4].advertisements == ()


def test_37_reachable_by_is_a_host_route_in_the_kernel_that_is_advertised_to_nobody() -> None:
    static = {pfx("192.0.2.9/32"): reach("10.0.1.1")}
    stated = policy(family=FamilyPolicy(reachable=static))
    made = core(stated, A, X)
    made.router.originated(originate(Snapshot(), {}, "me", policy=stated))
    made.settle()
    made.hear(A, announce(path(A), "192.0.2.9/32"))
    assert made.routes() == {"192.0.2.9/32": via("10.0.1.1")}
    assert (advertised(made, A), advertised(made, X)) == ({}, {})
    made.router.review_next_hops(made.resolver.set("10.0.1.1", Unresolved.LINK_DOWN))
    assert made.settle().routes() == {}
    made.router.review_next_hops(made.resolver.set("10.0.1.1", None))
    assert made.settle().routes() == {"192.0.2.9/32": via("10.0.1.1")}


def test_37_what_the_peer_announces_leads_over_its_reachable_by() -> None:
    far = peer("192.0.2.9", 65009)
    made = core(policy(), far)
    made.resolver.set("192.0.2.9", Unresolved.NO_ROUTE)
    made.hear(far, announce(path(far), "172.16.0.0/24", "192.0.2.0/24"))
    assert made.routes() == {}

    def reachable(gateway: str) -> None:
        stated = policy(family=FamilyPolicy(reachable={pfx("192.0.2.9/32"): reach(gateway)}))
        made.router.originated(originate(Snapshot(), {}, "me", policy=stated))
        made.settle()

    for gateway in ("10.0.1.1", "10.0.1.2"):
        reachable(gateway)
        assert made.routes() == dict.fromkeys(("172.16.0.0/24", "192.0.2.0/24", "192.0.2.9/32"), via(gateway))
    made.router.review_next_hops(made.resolver.set("10.0.1.2", Unresolved.LINK_DOWN))
    assert made.settle().routes() == {}
    made.router.review_next_hops(made.resolver.set("10.0.1.2", None))
    assert set(made.settle().routes()) == {"172.16.0.0/24", "192.0.2.0/24", "192.0.2.9/32"}
    made.router.originated(originate(Snapshot(), {}, "me", policy=policy()))
    assert made.settle().routes() == {}


def reach(gateway: str) -> StaticRoute:
    return StaticRoute(addr(gateway), "BGPPeer tor reachableBy")


# ADD-PATH (53), refresh (54), IPv6 next hops (49, 50).


def several(address: str = "10.0.2.2", asn: int = 65002) -> Peer:
    return replace(peer(address, asn), add_path_send=frozenset({V4}))


def test_53_every_path_is_advertised_with_an_identifier_of_its_source() -> None:
    wide = several()
    made = core(policy(), A, B, wide, blocks=[BLOCK])
    made.hear(A, announce(path(A), OTHER, HOST)).hear(
        B, announce(path(B, attributes(7, local_pref=100)), OTHER)
    )
    heard = advertised(made, wide)
    by = {out.source: out.path_id for out in heard.values()}
    assert set(heard) == {
        f"{OTHER}#{by[A.id]}",
        f"{OTHER}#{by[B.id]}",
        f"{HOST}#{by[A.id]}",
        f"{BLOCK}#{by[None]}",
    }
    assert len(set(by.values())) == 3
    made.hear(A, withdraw(OTHER))
    assert set(advertised(made, wide)) == {f"{OTHER}#{by[B.id]}", f"{HOST}#{by[A.id]}", f"{BLOCK}#{by[None]}"}
    made.hear(A, announce(path(A), OTHER))
    assert f"{OTHER}#{by[A.id]}" in advertised(made, wide), "the same identifier as before"
    made.hear(A, announce(path(A, attributes(local_pref=100, communities=(0xFFFFFF01,))), OTHER))
    assert f"{OTHER}#{by[A.id]}" not in advertised(made, wide), "what may not leave the AS is not sent"


def test_53_filters_look_at_each_path() -> None:
    wide = several()
    stated = policy(filters=rules(reject(community=5)), peers={wide.id: PeerPolicy(("f",))})
    made = core(stated, A, B, wide)
    made.hear(A, announce(path(A), OTHER))
    made.hear(B, announce(path(B, attributes(local_pref=100, communities=(5,))), OTHER))
    assert [out.source for out in advertised(made, wide).values()] == [A.id]


def test_53_identifiers_that_no_group_has_any_more_are_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer may use another identifier in each UPDATE: what was given for them must not stay for ever."""
    monkeypatch.setattr(groups, "MOST_PATH_IDS", 20)
    wide = several()
    made = core(policy(), A, B, wide, blocks=[BLOCK])
    adj_ribs_out = made.router._ribs[V4].adj_ribs_out
    adj_ribs_out._most_path_ids, adj_ribs_out._last_path_id = 20, groups.LAST_PATH_ID - 5
    adj_ribs_out._path_ids.clear()
    made.hear(B, announce(path(B), OTHER))
    stays = set(advertised(made, wide))
    for number in range(1, 300):
        made.hear(A, announce(path(A, path_id=number), HOST, OTHER))
        assert {f"{HOST}#", f"{OTHER}#"} <= {text.partition("#")[0] + "#" for text in advertised(made, wide)}
        assert stays <= set(advertised(made, wide))
        assert len(set(advertised(made, wide))) == len(stays) + 2, "no two sources have one identifier"
        made.hear(A, withdraw(HOST, OTHER, path_id=number))
    assert set(advertised(made, wide)) == stays
    assert len(adj_ribs_out._path_ids) <= 30
    assert adj_ribs_out._path_ids_given == set(adj_ribs_out._path_ids.values())


@pytest.mark.parametrize("direction", ["import", "export"])
def test_what_filters_made_of_long_paths_is_forgotten_by_its_octets(
    direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "OCTETS", 1 << 16)
    filters = rules(accept(operations=(SetPriority(512),)), direction=direction)
    made = core(policy(filters=filters, peers={each.id: PeerPolicy(("f",)) for each in (A, X)}), A, X)
    rib = made.router._ribs[V4]
    for number in range(100):
        long = attributes(*range(1, 500), local_pref=100, med=number)
        made.hear(A, announce(path(A, long), OTHER))
        if direction == "import":
            assert made.router.rib(V4)[pfx(OTHER)].best.attributes.med == number
    tables = [rib.altered] if direction == "import" else [group.made for group in rib.adj_ribs_out.groups]
    assert 0 < max(map(len, tables)) <= (1 << 16) // 4000


def test_what_was_taken_in_otherwise_is_forgotten_by_its_octets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "OCTETS", 1 << 16)
    made = core(policy(), A)
    for number in range(100):
        leaving = attributes(*range(1, 500), local_pref=100, med=number, communities=(GRACEFUL_SHUTDOWN,))
        made.hear(A, announce(path(A, leaving), OTHER))
        assert made.router.rib(V4)[pfx(OTHER)].best.attributes.local_pref == 0
    assert 0 < len(made.router._altered) <= (1 << 16) // 4000


def test_54_a_refresh_sweeps_what_was_not_advertised_again() -> None:
    made = core(policy(), A)
    what = path(A)
    made.hear(A, announce(what, BLOCK, OTHER))
    made.hear(A, BeginRefresh(V4), announce(what, BLOCK))
    assert set(made.routes()) == {BLOCK, OTHER}, "nothing goes before the end"
    assert made.router.counts(A.id, V4) == (2, 2, 1)
    made.hear(A, EndRefresh(V4))
    assert set(made.routes()) == {BLOCK}
    made.hear(A, EndRefresh(V4))
    assert set(made.routes()) == {BLOCK}
    made.router.learn_routes(A, [BeginRefresh(V4)], made.now)
    made.router.tick(made.now + 400)
    assert made.settle().routes() == {}, (
        "an end that never comes is not waited for longer than for End-of-RIB"
    )


def test_54_a_refresh_in_the_first_announcement_does_not_shorten_it() -> None:
    first = peer("10.0.1.30", restart=[V4], preserved=[V4])
    made = core(policy(), first).hear(first, announce(path(first), BLOCK)).down(first, V4)
    second = again(first, preserved=[V4])
    made.up(second).hear(second, BeginRefresh(V4), EndRefresh(V4))
    assert set(made.routes()) == {BLOCK}


def test_50_a_link_local_next_hop_is_looked_up_on_the_peers_link() -> None:
    base = peer("fe80::30", families=[V6])
    there = replace(base, config=replace(base.config, interface="eth7"))
    made = core(policy(), there)
    both = path(there, next_hop="fd00::30")._replace(link_local=addr("fe80::30"))
    made.hear(there, announce(both, "fd00:48::/122", family=V6))
    (gateway,) = {hop.gateway for value in made.routes(V6).values() for hop in value.hops}  # type: ignore[union-attr]
    assert gateway is not None
    assert address_text(gateway) == "fe80::30%eth7"


def test_49_an_ipv4_route_over_ipv6_goes_on_only_where_it_is_understood() -> None:
    over6 = path(X, next_hop="fd00::99")
    plain, wide = A, replace(B, extended_next_hop=frozenset({V4}))
    made = core(policy(), X, plain, wide)
    made.hear(X, announce(over6, BLOCK))
    assert advertised(made, plain)[BLOCK].next_hop == ME
    assert advertised(made, wide)[BLOCK].next_hop == addr("fd00::99")


def test_the_policy_does_not_depend_on_the_order_of_resources() -> None:
    pools = (pool("b", "10.49.0.0/16", **IPIP), pool("a", **VXLAN), pool("c", "10.49.1.0/24"))
    assert resources(SERVICES, pools=pools) == resources(SERVICES, pools=pools[::-1])
    assert [
        address_text(rule.cidr[1:].ljust(4, bytes(1)))
        for rule in resources(pools=pools).families[V4].kernel_rules
    ] == [  # type: ignore[arg-type]
        "10.49.1.0",
        "10.48.0.0",
        "10.49.0.0",
    ]
