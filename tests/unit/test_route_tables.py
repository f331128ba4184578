"""The rows of ``bgpctl routes``: each table, what is asked of it, what a row says, tables that change meanwhile."""

from dataclasses import replace

import pytest

from bgpd.model.doors import Ambiguous, NotFound
from bgpd.model.resources import Node, Snapshot
from bgpd.model.route import Hop, Originated, OriginKind, Reason, Unresolved, Via
from bgpd.model.status import RouteTable, RouteView, SessionState
from bgpd.views.live import local_words
from bgpd.views.tables import Tables
from tests.unit.builders import (
    V4,
    V6,
    addr,
    announce,
    attributes,
    origination,
    path,
    peer,
    pfx,
    withdraw,
)
from tests.unit.ground import Ground

A, B = peer("10.0.1.31"), peer("10.0.1.32")
TOR = peer("10.0.2.1", 65001, name="Global_10_0_2_1")
TABLES: tuple[RouteTable, ...] = ("in", "out", "rib", "fib")


def rows(
    ground: Ground,
    table: RouteTable,
    prefix: str | None = None,
    peer: str | None = None,
    longer: bool = False,
) -> list[RouteView]:
    return list(Tables(ground.parts).routes(table, prefix, peer, longer))


def brief(found: list[RouteView]) -> list[str]:
    """Prefix, peer, and the marks as ``bgpctl`` has them."""
    return [
        f"{row.prefix} {row.peer or row.kind}"
        + ("" if not row.best else " best")
        + (" multipath" if row.multipath else "")
        + (" stale" if row.stale else "")
        for row in found
    ]


@pytest.fixture
def ground() -> Ground:
    """Two nodes and a switch: a block of each, one prefix that two announce, one that nothing is made of."""
    ground = Ground(A, B, TOR)
    ground.core.originate(origination(blocks=["10.48.0.64/26"], borrowed=["10.48.0.5/32"]))
    ground.core.hear(A, announce(path(A), "10.48.0.0/26"))
    ground.core.hear(B, announce(path(B), "10.48.0.128/26", "10.48.0.0/26"))
    ground.core.hear(TOR, announce(path(TOR, attributes(65001, 64512)), "192.0.2.0/24"))
    default = attributes(65001, 65002, med=7, communities=(65000 << 16 | 30,))
    ground.core.hear(TOR, announce(path(TOR, default), "0.0.0.0/0"))
    ground.install()
    return ground


@pytest.mark.parametrize("table", TABLES)
def test_without_anything_there_are_no_rows(table: RouteTable) -> None:
    for empty in (Ground(), Ground(A)):
        assert (
            rows(empty, table)
            == rows(empty, table, "10.48.0.0/26")
            == rows(empty, table, "::/0", None, True)
            == []
        )


def test_what_peers_announce(ground: Ground) -> None:
    assert brief(rows(ground, "in")) == [
        "10.48.0.0/26 Mesh_10_0_1_31 best multipath",
        "10.48.0.0/26 Mesh_10_0_1_32 multipath",
        "10.48.0.128/26 Mesh_10_0_1_32 best",
        "192.0.2.0/24 Global_10_0_2_1",
        "0.0.0.0/0 Global_10_0_2_1 best",
    ]
    *_, loop, default = rows(ground, "in")
    assert (loop.best, loop.detail) == (False, Reason.AS_LOOP.value)
    assert default == RouteView(
        prefix="0.0.0.0/0",
        family="ipv4",
        peer="Global_10_0_2_1",
        next_hop="10.0.2.1",
        as_path="65001 65002",
        origin="igp",
        med=7,
        communities=("65000:30",),
        best=True,
        kind="bgp",
    )


def test_of_one_peer_only_its_own_rows(ground: Ground) -> None:
    assert sorted(brief(rows(ground, "in", peer="10.0.1.32"))) == [
        "10.48.0.0/26 Mesh_10_0_1_32 multipath",
        "10.48.0.128/26 Mesh_10_0_1_32 best",
    ]
    assert brief(rows(ground, "rib", peer="Mesh_10_0_1_31")) == ["10.48.0.0/26 Mesh_10_0_1_31 best multipath"]
    assert {row.peer for row in rows(ground, "out", peer="10.0.2.1")} == {"Global_10_0_2_1"}


def test_exactly_a_prefix_or_all_inside_it(ground: Ground) -> None:
    for table in TABLES:
        assert {row.prefix for row in rows(ground, table, "10.48.0.0/26")} <= {"10.48.0.0/26"}
        inside = {row.prefix for row in rows(ground, table, "10.48.0.0/24", longer=True)}
        assert inside and inside <= {"10.48.0.0/26", "10.48.0.64/26", "10.48.0.128/26", "10.48.0.5/32"}
        assert rows(ground, table, "10.48.0.0/24") == []
        everything = [row for row in rows(ground, table) if row.family == "ipv4"]
        assert rows(ground, table, "0.0.0.0/0", longer=True) == everything
        assert rows(ground, table, "::/0", longer=True) == []
    assert brief(rows(ground, "rib", "10.48.0.0/26")) == [
        "10.48.0.0/26 Mesh_10_0_1_31 best multipath",
        "10.48.0.0/26 Mesh_10_0_1_32 multipath",
    ]


def test_what_was_chosen_has_our_own_in_front(ground: Ground) -> None:
    own, borrowed, *learned = rows(ground, "rib")
    assert (own.prefix, own.kind, own.detail) == ("10.48.0.64/26", "block", "BlockAffinity 10.48.0.64/26")
    assert (borrowed.prefix, borrowed.kind, borrowed.detail) == (
        "10.48.0.5/32",
        "borrowed",
        "cali 10.48.0.5/32",
    )
    assert own.best and borrowed.best and not own.peer
    assert brief(learned) == [
        "10.48.0.0/26 Mesh_10_0_1_31 best multipath",
        "10.48.0.0/26 Mesh_10_0_1_32 multipath",
        "10.48.0.128/26 Mesh_10_0_1_32 best",
        "0.0.0.0/0 Global_10_0_2_1 best",
    ]


def test_a_blackhole_is_a_row_until_another_has_the_prefix() -> None:
    ground = Ground(A)
    ground.core.originate(origination(yielding=["10.48.0.64/26"]))
    ground.install()
    [hole] = rows(ground, "rib")
    assert (hole.prefix, hole.kind, hole.best) == ("10.48.0.64/26", "blackhole", True)
    ground.core.hear(A, announce(path(A), "10.48.0.64/26"))
    ground.install()
    assert brief(rows(ground, "rib")) == ["10.48.0.64/26 Mesh_10_0_1_31 best"]


def test_what_peers_are_sent(ground: Ground) -> None:
    to_tor = rows(ground, "out", peer="10.0.2.1")
    assert sorted(row.prefix for row in to_tor) == ["10.48.0.5/32", "10.48.0.64/26"]
    assert {(row.kind, row.next_hop, row.as_path, row.local_pref, row.best) for row in to_tor} == {
        ("block", "10.0.1.20", "64512", None, True),
        ("borrowed", "10.0.1.20", "64512", None, True),
    }
    to_node = rows(ground, "out", peer="10.0.1.31")
    assert {row.prefix for row in to_node} == {"10.48.0.64/26", "10.48.0.5/32"}
    assert all(row.local_pref == 100 for row in to_node)
    assert len(rows(ground, "out")) == len(to_tor) + 2 * len(to_node)


def test_what_a_peer_has_not_read_yet_waits(ground: Ground) -> None:
    def originate(*blocks: str) -> None:
        ground.core.originate(origination(blocks=["10.48.0.64/26", *blocks], borrowed=["10.48.0.5/32"]))
        for group, pairs in ground.core.out_changes.items():
            ground.outbound.group_changed(group, pairs)

    ground.full = {B.id}
    originate("10.48.1.0/26")
    originate("10.48.1.0/26", "10.48.2.0/26")
    waiting = [(row.peer, row.prefix, row.detail) for row in rows(ground, "out") if not row.best]
    assert waiting == [(B.id, "10.48.2.0/26", "waiting for the peer to read")]
    ground.full = set()
    ground.outbound.resume_sending(B)
    ground.install()
    assert all(row.best and not row.detail for row in rows(ground, "out"))


def test_a_session_that_is_down_is_sent_nothing(ground: Ground) -> None:
    ground.statuses[2] = replace(ground.statuses[2], state=SessionState.CONNECT)
    assert {row.peer for row in rows(ground, "out")} == {A.id, B.id}
    assert rows(ground, "out", peer="10.0.2.1") == []


def test_stale_routes_are_marked(ground: Ground) -> None:
    ground.core.down(B, V4)
    assert brief(rows(ground, "in", "10.48.0.128/26")) == ["10.48.0.128/26 Mesh_10_0_1_32 best stale"]
    assert brief(rows(ground, "rib", "10.48.0.128/26")) == ["10.48.0.128/26 Mesh_10_0_1_32 best stale"]


def test_a_route_that_is_not_used_says_why() -> None:
    ground = Ground(A, TOR)
    ground.core.resolver.set("10.0.9.9", Unresolved.NO_ROUTE)
    ground.core.hear(A, announce(path(A, next_hop="10.0.9.9"), "10.48.0.0/26"))
    ground.core.hear(A, announce(path(A), "10.0.1.0/24", "10.48.2.0/26"))
    ground.core.router.local_prefixes(V4, local_words([], {pfx("10.0.1.0/24"): "ens5"}))
    ground.core.settle()
    ground.install()
    unresolved, hidden, used = rows(ground, "in")
    assert not unresolved.best and unresolved.detail == Reason.UNRESOLVED.value
    assert not hidden.best and hidden.detail == "hidden: it is the connected subnet of ens5"
    assert used.best and not used.detail
    assert brief(rows(ground, "rib")) == ["10.48.2.0/26 Mesh_10_0_1_31 best"]


def test_the_kernels_side(ground: Ground) -> None:
    found = {row.prefix: row for row in rows(ground, "fib")}
    assert found["10.48.0.64/26"].kind == "blackhole" and found["10.48.0.64/26"].detail == "blackhole"
    assert found["10.48.0.64/26"].next_hop == ""
    shared = found["10.48.0.0/26"]
    assert (shared.kind, shared.next_hop) == ("unicast", "10.0.1.31, 10.0.1.32")
    assert shared.detail == "via 10.0.1.31 dev ens5 and via 10.0.1.32 dev ens5"
    assert all(row.best and row.peer == "" for row in found.values())
    assert "192.0.2.0/24" not in found and "10.48.0.5/32" not in found


def test_a_route_that_the_kernel_does_not_have(ground: Ground) -> None:
    delta = ground.fibs[V4].delta
    key = (pfx("10.99.0.0/16"), 0)
    delta.want({key: Via((Hop(addr("10.0.1.31"), 2),))})
    [row] = rows(ground, "fib", "10.99.0.0/16")
    assert (row.best, row.detail) == (False, "not in the kernel: not yet written")
    ground.conflicts[key] = "proto static via 10.0.1.1 dev ens5"
    [row] = rows(ground, "fib", "10.99.0.0/16")
    assert row.detail == "not in the kernel: proto static via 10.0.1.1 dev ens5"


def test_a_route_that_is_to_change_or_stands_behind_anothers(ground: Ground) -> None:
    delta, key = ground.fibs[V4].delta, (pfx("10.48.0.128/26"), 0)
    ground.conflicts[key] = "proto static via 10.0.1.1 dev ens5"
    [row] = rows(ground, "fib", "10.48.0.128/26")
    assert row.best and row.detail == (
        "via 10.0.1.32 dev ens5 (in front of it is proto static via 10.0.1.1 dev ens5)"
    )
    delta.want({key: Via((Hop(addr("10.0.1.31"), 2),))})
    [row] = rows(ground, "fib", "10.48.0.128/26")
    assert row.detail == "via 10.0.1.32 dev ens5 (to become via 10.0.1.31 dev ens5)"


def test_names_of_peers(ground: Ground) -> None:
    ground.snapshot = Snapshot(nodes={"worker2": Node("worker2", ipv4=addr("10.0.1.31"))})
    assert rows(ground, "in", peer="worker2") == rows(ground, "in", peer="10.0.1.31") != []
    with pytest.raises(NotFound, match="'nobody'"):
        rows(ground, "in", peer="nobody")
    with pytest.raises(ValueError, match="is not a prefix"):
        rows(ground, "in", "ten")
    again = replace(ground.statuses[0], id="Node_10_0_1_31")
    ground.statuses.append(again)
    with pytest.raises(Ambiguous, match="Mesh_10_0_1_31, Node_10_0_1_31"):
        rows(ground, "in", peer="worker2")


@pytest.mark.parametrize("table", TABLES)
def test_a_table_may_change_while_its_rows_are_taken(ground: Ground, table: RouteTable) -> None:
    taken = iter(Tables(ground.parts).routes(table, None, None, False))
    first = next(taken)
    ground.core.hear(A, withdraw("10.48.0.0/26"), announce(path(A), "10.48.7.0/26", "10.48.8.0/26"))
    ground.core.hear(TOR, withdraw("0.0.0.0/0"))
    ground.core.originate(origination(blocks=["10.48.9.0/26"]))
    ground.install()
    rest = list(taken)
    assert first.prefix and all(row.prefix for row in rest)


def test_both_families_ipv4_first() -> None:
    dual = peer("10.0.1.31", families=(V4, V6))
    ground = Ground(dual)
    ground.statuses = [replace(ground.statuses[0], families=("ipv4", "ipv6"))]
    ground.core.hear(dual, announce(path(dual, next_hop=addr("fd00::31")), "fd48::/122", family=V6))
    ground.core.hear(dual, announce(path(dual), "10.48.0.0/26"))
    ground.core.originate(
        replace(origination(), announce={pfx("fd48::80/122"): Originated(OriginKind.BLOCK, "x")}), V6
    )
    ground.install()
    assert [(row.family, row.prefix) for row in rows(ground, "in")] == [
        ("ipv4", "10.48.0.0/26"),
        ("ipv6", "fd48::/122"),
    ]
    assert [row.prefix for row in rows(ground, "rib")] == ["10.48.0.0/26", "fd48::80/122", "fd48::/122"]
    assert [(row.prefix, row.next_hop) for row in rows(ground, "out")] == [("fd48::80/122", "fd00::20")]
    [learned] = rows(ground, "fib", "fd48::/122")
    assert learned.detail == "via fd00::31 dev ens5"
