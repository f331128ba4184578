"""What a node originates depends on what is there, never on its order; and some things are never announced."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bgpd.model.prefix import Address, Family, covers, host_prefix, is_host, make_prefix
from bgpd.model.resources import AffinityState, Allocation, BlockAffinity, IPAMBlock, IPPool, Snapshot
from bgpd.model.route import OriginKind, WorkloadRoute
from bgpd.rules.originate import originate
from bgpd.views.blocks import blocks

NODES = ["me", "a", "b"]
FAMILY = Family.IPV4


def prefixes(low: int, high: int) -> st.SearchStrategy[bytes]:
    return st.builds(
        lambda third, last, length: make_prefix(bytes((10, 48, third, last)), length),
        st.integers(0, 1),
        st.integers(0, 255),
        st.integers(low, high),
    )


ADDRESSES = st.builds(
    lambda third, last: Address(bytes((10, 48, third, last))), st.integers(0, 2), st.integers(0, 255)
)
POOLS = st.builds(
    IPPool, st.sampled_from("xyz"), st.just(FAMILY), prefixes(22, 26), st.just(26), st.booleans()
)
AFFINITIES = st.builds(
    BlockAffinity,
    st.text("abc", min_size=1, max_size=2),
    st.sampled_from(NODES),
    st.just(FAMILY),
    prefixes(25, 32),
    st.sampled_from(AffinityState),
)
BLOCKS = st.builds(
    IPAMBlock,
    st.text("abc", min_size=1, max_size=2),
    st.just(FAMILY),
    prefixes(25, 32),
    st.sampled_from([*NODES, None]),
    st.lists(st.builds(Allocation, ADDRESSES, st.sampled_from(NODES), st.just("pod")), max_size=3).map(tuple),
)


def by_name(strategy: st.SearchStrategy[object]) -> st.SearchStrategy[list[object]]:
    return st.lists(strategy, max_size=6, unique_by=lambda r: r.name)  # type: ignore[attr-defined]


RESOURCES = st.tuples(by_name(POOLS), by_name(AFFINITIES), by_name(BLOCKS))
ROUTES = st.lists(st.tuples(ADDRESSES, st.sampled_from(["cali1", "cali2"])), max_size=6)


def snapshot(resources: tuple[list[object], ...], backwards: bool = False) -> Snapshot:
    step = -1 if backwards else 1
    maps = [{r.name: r for r in some[::step]} for some in resources]  # type: ignore[attr-defined]
    return Snapshot(pools=maps[0], affinities=maps[1], blocks=maps[2])


@given(RESOURCES, ROUTES, st.booleans())
def test_order_does_not_matter(
    resources: tuple[list[object], ...], routes: list[tuple[Address, str]], early: bool
) -> None:
    workloads = {FAMILY: frozenset(WorkloadRoute(host_prefix(a), name) for a, name in routes)}
    forwards, backwards = snapshot(resources), snapshot(resources, backwards=True)
    one, other = originate(forwards, workloads, "me", early), originate(backwards, workloads, "me", early)
    assert one == other
    assert list(one[FAMILY].announce) == list(other[FAMILY].announce)
    assert blocks(forwards, one, "me") == blocks(backwards, other, "me")


@given(RESOURCES, ROUTES, st.booleans())
def test_what_never_is(
    resources: tuple[list[object], ...], routes: list[tuple[Address, str]], early: bool
) -> None:
    workloads = {FAMILY: frozenset(WorkloadRoute(host_prefix(a), name) for a, name in routes)}
    snap = snapshot(resources)
    found = originate(snap, workloads, "me", early)[FAMILY]
    own = {a.cidr for a in snap.affinities.values() if a.node == "me" and a.state is AffinityState.CONFIRMED}
    announced_blocks = {p for p, o in found.announce.items() if o.kind is OriginKind.BLOCK}
    assert announced_blocks <= own
    for prefix, originated in found.announce.items():
        assert prefix not in found.hidden
        assert not any(covers(pool, prefix) for pool in found.hidden_pools)
        assert not any(covers(block, prefix) for block in announced_blocks - {prefix})
        if originated.kind is OriginKind.BORROWED:
            assert is_host(FAMILY, prefix)
            assert any(covers(pool, prefix) for pool in found.exported_pools)
    for prefix, blackhole in found.blackholes.items():
        assert not is_host(FAMILY, prefix)
        assert prefix not in announced_blocks or not blackhole.yields
    live = {route.prefix for route in workloads[FAMILY]}
    for (
        prefix
    ) in live:  # every workload is reachable: by itself, by a block of ours, or there is a reason why not
        assert prefix in found.announce or prefix in found.hidden
