"""What of this node hides a peer's route, and LOCAL_PREF as the kernel's metric: one rule each, asked by all."""

from __future__ import annotations

import pytest

from bgpd.model.route import Originated, Origination, OriginKind, Selection, StaticRoute
from bgpd.rules.own import has_moved, hiding, hiding_text
from bgpd.rules.priority import (
    INT_MAX,
    carries_metric,
    in_use,
    is_elevated,
    local_pref_of,
    metric_of,
    own_local_pref,
    selected_metric,
)
from tests.unit.builders import V4, addr, attributes, origination, path, peer, pfx

BLOCK, HOST, ELSEWHERE = pfx("10.48.0.0/26"), pfx("10.48.0.5/32"), pfx("192.0.2.0/24")
OWN = origination(blocks=["10.48.0.0/26"], borrowed=["10.48.0.5/32"], yielding=["10.48.1.0/26"])


def learned(local_pref: int | None) -> Selection:
    best = path(peer(), attributes(local_pref=local_pref))
    return Selection(best, (best,), {})


@pytest.mark.parametrize(
    ("prefix", "moved", "words"),
    [
        ("10.48.0.0/26", False, "our own block (BlockAffinity 10.48.0.0/26)"),
        ("10.48.0.0/26", True, "our own block (BlockAffinity 10.48.0.0/26)"),  # its blackhole does not yield
        ("10.48.0.5/32", False, "our own borrowed (cali 10.48.0.5/32)"),
        ("10.48.0.5/32", True, None),
        ("10.48.1.0/26", False, None),
        ("10.0.1.20/32", False, "an address of this node"),
        ("192.0.2.0/24", False, None),
    ],
)
def test_what_hides(prefix: str, moved: bool, words: str | None) -> None:
    local = {pfx("10.0.1.20/32"): "an address of this node"}
    found = hiding(pfx(prefix), OWN, local, moved, False)
    assert (found if found is None else hiding_text(found)) == (words and f"it is {words}")


def test_a_static_route_hides() -> None:
    static = StaticRoute(addr("10.0.1.1"), "BGPPeer tor reachableBy")
    found = hiding(ELSEWHERE, Origination(statics={ELSEWHERE: static}), {}, False, False)
    assert found is static
    assert hiding_text(static) == "it is our own static route (BGPPeer tor reachableBy)"


def test_what_ipam_gives_this_node_hides_until_it_moves() -> None:
    given = Origination(assigned={HOST: "b"})
    found = hiding(HOST, given, {}, False, False)
    assert found is not None and hiding_text(found) == "IPAM gives it to this node (IPAMBlock b)"
    assert hiding(HOST, given, {}, False, True) is None


@pytest.mark.parametrize(
    ("kind", "prefix", "own_metric", "learned_metric", "moved"),
    [
        (OriginKind.BORROWED, HOST, 1024, 512, True),
        (OriginKind.BORROWED, HOST, 1024, 1024, False),
        (OriginKind.BORROWED, HOST, 512, 512, False),
        (OriginKind.BORROWED, HOST, 512, 256, True),
        (OriginKind.BORROWED, HOST, 0, 512, True),
        (OriginKind.BLOCK, BLOCK, 0, 512, False),
        (OriginKind.SERVICE, HOST, 0, 512, False),
        (OriginKind.BORROWED, HOST, 0, None, False),
    ],
)
def test_an_address_moves_by_a_lower_metric(
    kind: OriginKind, prefix: bytes, own_metric: int, learned_metric: int | None, moved: bool
) -> None:
    own = Originated(kind, "x", metric=own_metric)
    by = learned(100 if learned_metric is None else local_pref_of(learned_metric))
    assert has_moved(V4, prefix, own, by, 1024) is moved  # type: ignore[arg-type]


def test_metrics_and_local_pref_both_ways() -> None:
    assert metric_of(local_pref_of(512)) == 512
    assert (carries_metric(None), carries_metric(100), carries_metric(INT_MAX - 1024)) == (False, False, True)
    assert selected_metric(learned(100)) == selected_metric(learned(None)) == 1024
    assert (selected_metric(learned(INT_MAX - 7)), selected_metric(learned(INT_MAX))) == (7, 1)
    assert own_local_pref(0, 1024, True) == own_local_pref(1024, 512, True) == INT_MAX - 1024
    assert own_local_pref(512, 1024, False) == 100
    assert [is_elevated(metric, 1024) for metric in (0, 1, 1023, 1024, 1025)] == [
        False,
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("evidence", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_when_local_pref_carries_the_metric(named: bool, evidence: bool) -> None:
    assert in_use("on", named, evidence)
    assert not in_use("off", named, evidence)
    assert in_use("auto", named, evidence) is (named or evidence)
