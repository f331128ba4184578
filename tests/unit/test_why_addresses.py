"""``bgpctl why`` of addresses: whose they are by IPAM, whose the kernel's route is, and what was there a moment ago."""

from dataclasses import replace

import pytest

from bgpd.model.peer import Down, DownReason
from bgpd.model.resources import AffinityState, Allocation, BlockAffinity, IPAMBlock, IPPool, Snapshot
from bgpd.model.route import Originated, OriginKind, StaticRoute, WorkloadRoute
from bgpd.rules.blocks import holder
from bgpd.rules.originate import originate
from bgpd.views.recent import LONGEST_SECONDS, MOST, MOST_OF_A_SESSION, Recently
from tests.unit.builders import V4, addr, announce, origination, path, peer, pfx, withdraw
from tests.unit.ground import Ground
from tests.unit.test_why import holds

A, B = peer("10.0.1.31"), peer("10.0.1.32")
OWN, FAR = pfx("10.48.0.0/26"), pfx("10.48.0.64/26")
RESOURCES = Snapshot(
    pools={"default": IPPool("default", V4, pfx("10.48.0.0/16"), 26)},
    affinities={
        "own": BlockAffinity("own", "worker1", V4, OWN),
        "far": BlockAffinity("far", "worker2", V4, FAR),
    },
    blocks={
        "own": IPAMBlock(
            "own", V4, OWN, "worker1", (Allocation(addr("10.48.0.5"), "worker1", "default/web"),)
        ),
        "far": IPAMBlock(
            "far",
            V4,
            FAR,
            "worker2",
            (
                Allocation(addr("10.48.0.70"), "worker2", "default/db"),
                Allocation(addr("10.48.0.71"), "worker1", "default/lent"),
            ),
        ),
    },
)


def node(*routes: str, resources: Snapshot = RESOURCES) -> Ground:
    """worker1, decided as the daemon does, with workloads' routes to these addresses."""
    ground = Ground(A, snapshot=resources)
    ground.workloads = {WorkloadRoute(pfx(f"{each}/32"), "cali1") for each in routes}
    ground.others = {pfx(f"{each}/32"): ["proto boot dev cali1 (Felix)"] for each in routes}
    made = originate(resources, {V4: frozenset(ground.workloads)}, "worker1")
    ground.core.originate(made[V4])
    ground.core.hear(A, announce(path(A), "10.48.0.64/26"))
    ground.install()
    return ground


def test_a_healthy_local_pod_has_no_cross_and_borrowed_nothing() -> None:
    pod, block = node("10.48.0.5").all("10.48.0.5")
    holds(
        pod,
        "10.48.0.5/32: default/web on this node, announced by its block 10.48.0.0/26",
        "+ origin: IPAMBlock own gives it to default/web on this node",
        "+ kernel: not ours: proto boot dev cali1",
    )
    assert "\n- " not in pod and "borrowed" not in pod
    assert "\n- " not in block


def test_a_local_pod_whose_route_is_missing_is_dead() -> None:
    ground = node()
    for target in ("10.48.0.5", "default/web", "web", "10.48.0.5/32"):
        holds(
            ground.why(target),
            "10.48.0.5/32: dead: default/web on this node by IPAM, but its host route is missing",
            "- origin: IPAMBlock own gives it to default/web on this node, but no workload's route is there",
        )
    holds(ground.why("lent"), "10.48.0.71/32: dead: default/lent on this node", "borrowed from worker2")


def test_a_borrowed_pod_that_lives() -> None:
    holds(
        node("10.48.0.71").why("lent"), "a borrowed address of this node, announced", "borrowed from worker2"
    )


def test_a_pod_of_a_block_that_is_released_is_not_borrowed() -> None:
    affinities = {"own": replace(RESOURCES.affinities["own"], state=AffinityState.PENDING_DELETION)}
    text = node("10.48.0.5", resources=replace(RESOURCES, affinities=affinities)).why("10.48.0.5")
    holds(text, "an address of an own block of this node, announced")


def test_a_pod_elsewhere() -> None:
    pod, block = node().all("default/db")
    holds(pod, "10.48.0.70/32: default/db on worker2, reached by 10.48.0.64/26")
    assert "\n- " not in pod
    holds(block, "10.48.0.64/26: learned from")


def test_a_pod_elsewhere_that_nobody_announces_is_no_tick() -> None:
    """An address of our own block that another node has borrowed, and one of a block that nobody told us of."""
    lent = Allocation(addr("10.48.0.6"), "worker2", "default/lent-out")
    blocks = {**RESOURCES.blocks, "own": replace(RESOURCES.blocks["own"], allocations=(lent,))}
    ground = node(resources=replace(RESOURCES, blocks=blocks))
    holds(
        ground.why("default/lent-out"),
        "10.48.0.6/32: unreachable from here: default/lent-out on worker2, and nobody announces it",
        "+ origin: IPAMBlock own gives it to default/lent-out on worker2, borrowed from worker1",
        "- heard: worker2 does not announce it, so packets to it end in this node's blackhole 10.48.0.0/26",
    )
    ground.core.hear(A, announce(path(A), "10.48.0.0/16"))
    ground.install()
    holds(ground.why("10.48.0.6"), "unreachable from here")  # our own block is longer
    ground.core.hear(A, announce(path(A), "10.48.0.6/32"))
    ground.install()
    holds(ground.why("10.48.0.6"), "10.48.0.6/32: learned from")

    ground.core.hear(A, withdraw("10.48.0.64/26"))
    ground.install()
    assert "unreachable" not in ground.why("default/db"), "10.48.0.0/16 leads there"
    ground.core.hear(A, withdraw("10.48.0.0/16"))
    ground.install()
    holds(
        ground.why("default/db"),
        "10.48.0.70/32: unreachable from here: default/db on worker2, and nobody announces it",
        "- heard: worker2 does not announce it, and no route leads there",
    )
    ground.others[pfx("10.48.0.64/26")] = ["proto 80 via 10.0.1.31 dev vxlan.calico (Felix)"]
    assert "unreachable" not in ground.why("default/db"), "Felix's route leads there"


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("10.48.0.9", "10.48.0.9/32: nobody has it: IPAMBlock own of worker1 gives it to nobody"),
        ("10.48.0.99", "10.48.0.99/32: nobody has it: IPAMBlock far of worker2 gives it to nobody"),
        ("10.48.9.9", "10.48.9.9/32: nobody has it: it is inside IPPool default and in no block"),
    ],
)
def test_an_address_that_nobody_has(address: str, words: str) -> None:
    holds(node().why(address), words, "- origin: ")


def test_no_word_is_made_up_where_ipam_is_not_known() -> None:
    """Without blocks in the resources, and in a virtual one, whose addresses no node has."""
    assert node(resources=replace(RESOURCES, blocks={})).all("10.48.9.9") == []
    virtual = {"v": IPAMBlock("v", V4, pfx("10.48.9.0/26"), None)}
    assert node(resources=replace(RESOURCES, blocks=virtual)).all("10.48.9.9") == []


def test_routes_of_others_and_the_default_route() -> None:
    ground = node()
    ground.others[pfx("0.0.0.0/0")] = ["proto dhcp via 10.0.1.1 dev ens5 metric 100 (the DHCP client's)"]
    ground.others[pfx("10.48.0.64/30")] = ["proto static via 10.0.1.9 dev ens5 (made by an administrator)"]
    holds(
        ground.why("192.0.2.1"),
        "0.0.0.0/0: a route that is not ours: proto dhcp via 10.0.1.1 dev ens5 metric 100 (the DHCP client's)",
        "+ kernel: not ours: proto dhcp",
    )
    assert ground.why("0.0.0.0/0") == ground.why("192.0.2.1")
    assert [text.split(": ")[0] for text in ground.all("10.48.0.65")] == [
        "10.48.0.65/32",
        "10.48.0.64/30",
        "10.48.0.64/26",
    ]
    assert "0.0.0.0/0" not in "".join(ground.all("10.48.0.70"))  # the kernel follows ours


def test_a_tors_default_beside_the_nodes_own_is_normal_and_reported_once() -> None:
    ground = Ground(A)
    ground.core.hear(A, announce(path(A), "0.0.0.0/0"))
    ground.install()
    key = (pfx("0.0.0.0/0"), 0)
    del ground.fibs[V4].target.installed[key]
    ground.conflicts[key] = "proto static via 10.0.1.1 dev ens5"
    ground.others[key[0]] = ["proto static via 10.0.1.1 dev ens5 (made by an administrator)"]
    text = ground.why("0.0.0.0/0")
    holds(text, "+ kernel: the node's own default route stands, proto static via 10.0.1.1 dev ens5")
    assert text.count("proto static") == 1 and "not in the kernel as wanted" not in text


def test_what_was_heard_until_a_moment_ago() -> None:
    ground = Ground(A, B)
    ground.recently.keep_withdrawn(A, withdraw("10.49.0.0/26"), 990.0)
    ground.recently.keep_ended(
        B, Down(DownReason.TCP, "the peer closed the connection"), {V4: [pfx("10.49.0.0/26")]}, 993.0
    )
    for target in ("10.49.0.1", "10.49.0.0/26"):
        holds(
            ground.why(target),
            "10.49.0.0/26: nobody announces it any more: "
            f"{B.id}: withdrawn 7 s ago with its session (the peer closed the connection)",
            f"- heard: {A.id}: withdrawn 10 s ago",
        )
    ground.core.hear(B, announce(path(B), "10.49.0.0/26"))
    ground.install()
    holds(
        text := ground.why("10.49.0.1"), f"10.49.0.0/26: learned from {B.id}", f"- heard: {A.id}: withdrawn"
    )
    assert "with its session" not in text  # it is back
    ground.now += LONGEST_SECONDS
    assert "withdrawn" not in ground.why("10.49.0.1")


def test_the_memory_is_bounded() -> None:
    memory = Recently()
    many = [f"10.{n >> 8}.{n & 255}.0/24" for n in range(1024)]
    for round_ in range(2 * MOST // 1024):
        memory.keep_withdrawn(A, withdraw(*many), float(round_))
    assert sum(1 for _ in memory.prefixes(V4)) == MOST
    memory.keep_ended(
        A, Down(DownReason.TCP, ""), {V4: (pfx(f"10.0.{n >> 8}.{n & 255}/32") for n in range(65536))}, 100.0
    )
    assert memory.find(V4, pfx("10.0.0.9/32"), 100.0)[0].end == DownReason.TCP.value
    assert not memory.find(V4, pfx(f"10.0.{(MOST_OF_A_SESSION + 1) >> 8}.255/32"), 100.0)
    assert sum(1 for _ in memory.prefixes(V4)) <= MOST
    memory.keep_withdrawn(B, withdraw("10.1.0.0/24"), 100.0 + LONGEST_SECONDS + 1)
    assert list(memory.prefixes(V4)) == [pfx("10.1.0.0/24")]


@pytest.mark.parametrize(
    ("kind", "prefix", "words"),
    [
        (OriginKind.BLOCK, "10.48.0.0/26", "a block of this node, announced"),
        (OriginKind.BORROWED, "10.48.0.70/32", "a borrowed address of this node, announced"),
        (OriginKind.SERVICE, "10.96.0.0/12", "a range of services of this node, announced"),
        (OriginKind.SERVICE, "10.96.0.1/32", "an address of a service of this node, announced"),
        (OriginKind.STATIC, "192.0.2.0/24", "a route in the kernel of this node, announced"),
    ],
)
def test_the_words_for_own_routes(kind: OriginKind, prefix: str, words: str) -> None:
    ground = Ground(A)
    ground.core.originate(replace(origination(), announce={pfx(prefix): Originated(kind, "x")}))
    ground.install()
    holds(
        ground.why(prefix), f"{prefix}: {words}", "+ origin: ours to announce, as a", f"+ advertised: {A.id}"
    )


def test_the_words_for_a_static_route_and_an_offered_one() -> None:
    ground = Ground(A)
    statics = {pfx("10.0.9.1/32"): StaticRoute(addr("10.0.1.1"), "BGPPeer tor")}
    offered = {pfx("192.0.2.0/24"): Originated(OriginKind.STATIC, "route on ens5")}
    ground.core.originate(replace(origination(), statics=statics, offered=offered))
    ground.install()
    holds(
        ground.why("10.0.9.1/32"),
        "a static route of this node, kept in the kernel",
        "not announced: BGPPeer tor",
    )
    holds(
        ground.why("192.0.2.0/24"),
        "a route in the kernel of this node, announced where a filter accepts it",
        "+ origin: a route in the kernel of this node (route on ens5): filters may let it out",
    )


def test_of_nested_blocks_the_smallest_is_named() -> None:
    nested = {
        "wide": BlockAffinity("wide", "worker3", V4, pfx("10.48.0.0/24")),
        "narrow": BlockAffinity("narrow", "worker2", V4, pfx("10.48.0.64/26")),
    }
    for affinities in (nested, dict(reversed(nested.items()))):
        ground = Ground(snapshot=Snapshot(affinities=affinities))
        holds(
            ground.why("10.48.0.70/32"),
            "though worker2 has 10.48.0.64/26",
            "BlockAffinity narrow gives it to worker2",
        )
        holds(ground.why("10.48.0.1/32"), "though worker3 has 10.48.0.0/24")


def test_the_holder_is_by_the_smallest_block_that_gives_it_away() -> None:
    wide = IPAMBlock(
        "wide", V4, pfx("10.48.0.0/24"), "worker3", (Allocation(addr("10.48.0.5"), "worker3", "x"),)
    )
    for blocks in (
        {"own": RESOURCES.blocks["own"], "wide": wide},
        {"wide": wide, "own": RESOURCES.blocks["own"]},
    ):
        snapshot = Snapshot(blocks=blocks)
        block, allocation = holder(snapshot, V4, addr("10.48.0.5"))
        assert block and allocation and (block.name, allocation.node) == ("own", "worker1")
        empty, nobody = holder(snapshot, V4, addr("10.48.0.9"))
        assert empty and empty.name == "own" and nobody is None
