"""``bgpctl why``: every kind of route and of non-route has its reason, over a real router."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from bgpd.model.resources import AffinityState, BlockAffinity, Node, Snapshot
from bgpd.model.route import BLACKHOLE, Hop, Resolution, Unresolved, Via
from bgpd.model.status import PeerStatus, SessionState
from bgpd.views.live import local_words
from bgpd.views.tables import Tables
from tests.unit.builders import (
    V4,
    addr,
    announce,
    attributes,
    lost,
    origination,
    path,
    peer,
    pfx,
)
from tests.unit.fake_views import mesh_peer
from tests.unit.ground import Ground

WORKER2 = Snapshot(
    affinities={"worker2-a": BlockAffinity("worker2-a", "worker2", V4, pfx("10.48.0.0/26"))},
    nodes={"worker2": Node("worker2", ipv4=addr("10.0.1.31"))},
)


def holds(text: str, *words: str) -> None:
    missing = [each for each in words if each not in text]
    assert not missing, f"{missing} not in:\n{text}"


A, B = peer("10.0.1.31"), peer("10.0.1.32")
VIA = Via((Hop(addr("10.0.1.1"), 2),))


def test_a_learned_route() -> None:
    ground = Ground(A)
    ground.core.hear(A, announce(path(A), "10.48.0.0/26"))
    ground.install()
    holds(
        ground.why("10.48.0.7"),
        "10.48.0.0/26: learned from Mesh_10_0_1_31",
        "+ heard: Mesh_10_0_1_31: next hop 10.0.1.31",
        "+ decision: best: Mesh_10_0_1_31, the only path",
        "+ next hop: 10.0.1.31: via 10.0.1.31 dev ens5",
        "+ kernel: 10.48.0.0/26 via 10.0.1.31 dev ens5 proto bird: installed",
        "- export: not advertised to Mesh_10_0_1_31: learned from an internal peer",
    )


def test_an_own_block() -> None:
    ground = Ground(A)
    ground.core.originate(origination(blocks=["10.48.0.64/26"]))
    ground.install()
    text = ground.why("10.48.0.64/26")
    holds(
        text,
        "10.48.0.64/26: a block of this node, announced",
        "+ origin: ours to announce, as a block: BlockAffinity 10.48.0.64/26",
        "+ kernel: blackhole 10.48.0.64/26 proto bird: installed",
        "+ advertised: Mesh_10_0_1_31",
    )


def test_a_borrowed_address() -> None:
    ground = Ground(A)
    ground.core.originate(origination(borrowed=["10.48.0.40/32"]))
    ground.install()
    holds(
        ground.why("10.48.0.40"),
        "10.48.0.40/32: a borrowed address of this node, announced",
        "+ origin: ours to announce, as a borrowed address: cali 10.48.0.40/32",
        "+ advertised: Mesh_10_0_1_31",
    )


def test_a_block_that_is_hidden_says_why_and_not_that_there_is_no_session() -> None:
    ground = Ground(A)
    hidden = replace(
        origination(hidden_blocks=["10.49.0.0/26"]),
        hidden={pfx("10.49.0.0/26"): "IPPool x has disableBGPExport"},
    )
    ground.core.originate(hidden)
    ground.install()
    text = ground.why("10.49.0.0/26")
    holds(
        text,
        "kept as a blackhole and not announced",
        "- origin: not announced: IPPool x has disableBGPExport",
    )
    assert "session" not in text


def test_without_a_session_nobody_is_sent_anything() -> None:
    ground = Ground()
    ground.core.originate(origination(blocks=["10.48.0.64/26"]))
    ground.install()
    holds(ground.why("10.48.0.64/26"), "- advertised: nobody: no session of this family is established")


@pytest.mark.parametrize(
    "reason", ["BlockAffinity b is pending", "IPAMBlock b says that worker1 owns it", "inside no IPPool"]
)
def test_a_block_that_is_not_ours_yet_or_any_more(reason: str) -> None:
    ground = Ground(A)
    ground.core.originate(replace(origination(), hidden={pfx("10.48.0.64/26"): reason}))
    holds(
        ground.why("10.48.0.70"),
        "10.48.0.64/26: known here, but not announced",
        f"- origin: not announced: {reason}",
    )


def test_a_block_that_is_being_released() -> None:
    ground = Ground(A)
    ground.core.originate(origination(yielding=["10.48.0.64/26"]))
    ground.install()
    holds(
        ground.why("10.48.0.64/26"), "+ origin: ours to keep as a blackhole (until another node announces it)"
    )
    ground.core.hear(A, announce(path(A), "10.48.0.64/26"))
    ground.install()
    holds(
        ground.why("10.48.0.64/26"),
        "learned from Mesh_10_0_1_31",
        "via 10.0.1.31 dev ens5 proto bird: installed",
    )


def test_a_loop() -> None:
    outside = peer("10.0.9.1", 65001)
    ground = Ground(outside)
    ground.core.hear(outside, announce(path(outside, attributes(65001, 64512)), "10.48.0.0/26"))
    ground.install()
    holds(
        ground.why("10.48.0.0/26"),
        "heard from Mesh_10_0_9_1, but not used",
        "- import: not used: our own AS is on its AS path",
        "+ kernel: no route of ours, and none is wanted",
    )


@pytest.mark.parametrize("reason", Unresolved)
def test_a_next_hop_that_leads_nowhere(reason: Unresolved) -> None:
    ground = Ground(A)
    ground.core.resolver.set("10.0.1.31", reason)
    ground.core.hear(A, announce(path(A), "10.48.0.0/26"))
    holds(ground.why("10.48.0.0/26"), "but not used", f"- next hop: 10.0.1.31: {reason.value}")


def test_the_step_that_decided() -> None:
    ground = Ground(A, B)
    ground.core.hear(A, announce(path(A, attributes(local_pref=200)), "10.48.0.0/26"))
    ground.core.hear(B, announce(path(B), "10.48.0.0/26"))
    ground.install()
    holds(
        ground.why("10.48.0.0/26"),
        "+ decision: best: Mesh_10_0_1_31",
        "- decision: Mesh_10_0_1_32 is not best: lower local preference",
    )


def test_multipath() -> None:
    ground = Ground(A, B)
    for each in (A, B):
        ground.core.hear(each, announce(path(each), "10.48.0.0/26"))
    ground.install()
    holds(
        ground.why("10.48.0.0/26"),
        "learned from Mesh_10_0_1_31 and 1 more",
        "2 paths share the traffic",
        "via 10.0.1.31 dev ens5 and via 10.0.1.32 dev ens5 proto bird: installed",
    )


def test_an_own_address_and_a_connected_subnet() -> None:
    ground = Ground(A)
    words = local_words([addr("10.0.1.20")], {pfx("10.0.1.0/24"): "ens5"})
    ground.core.router.local_prefixes(V4, words)
    host, subnet = ground.all("10.0.1.20")
    holds(host, "10.0.1.20/32: an address of this node", "never taken from a peer")
    holds(subnet, "10.0.1.0/24: the connected subnet of ens5")
    assert "session" not in host + subnet
    ground.core.hear(A, announce(path(A), "10.0.1.0/24"))
    holds(ground.why("10.0.1.0/24"), "but not used", "- import: hidden: it is the connected subnet of ens5")


def test_a_conflict_with_another_owner() -> None:
    ground = Ground(A)
    ground.core.hear(A, announce(path(A), "10.48.0.0/26"))
    ground.install()
    prefix = pfx("10.48.0.0/26")
    del ground.fibs[V4].target.installed[prefix, 0]
    ground.conflicts[prefix, 0] = "proto static via 10.0.1.1 dev ens5"
    holds(
        ground.why("10.48.0.0/26"),
        "but not in the kernel as wanted",
        "- kernel: not there, though via 10.0.1.31 dev ens5 is wanted: in its place is proto static via 10.0.1.1",
    )


def test_while_another_daemon_writes() -> None:
    ground = Ground(A)
    ground.core.hear(A, announce(path(A), "10.48.0.0/26"))
    ground.install()
    ground.fibs[V4].target.installed.clear()
    ground.fibs[V4].delta.paused = True
    holds(ground.why("10.48.0.0/26"), "another routing daemon is at work here, so bgpd writes nothing")


def test_a_route_left_from_before() -> None:
    ground = Ground(A)
    left = {(pfx("10.9.0.0/16"), 0): BLACKHOLE, (pfx("10.8.0.0/16"), 50): VIA}
    ground.fibs[V4].target.hear(left)
    ground.fibs[V4].delta.adopt(left)
    holds(ground.why("10.9.0.0/16"), "left in the kernel from before", "kept until in sync")
    holds(ground.why("10.8.0.0/16"), "left in the kernel from before", "via 10.0.1.1 dev ens5 proto bird")


def test_a_stale_route() -> None:
    a = peer("10.0.1.31", restart=[V4])
    ground = Ground(a)
    ground.core.hear(a, announce(path(a), "10.48.0.0/26"))
    ground.core.router.session_down(a, lost(V4), 0.0)
    ground.core.settle()
    holds(ground.why("10.48.0.0/26"), "stale: its session is down and in graceful restart")


def test_the_cost_of_the_way_is_shown() -> None:
    ground = Ground(A)
    ground.core.resolver.set("10.0.1.31", Resolution(VIA, 100))
    ground.core.hear(A, announce(path(A), "10.48.0.0/26"))
    holds(ground.why("10.48.0.0/26"), "10.0.1.31: via 10.0.1.1 dev ens5, metric 100")


def sessions(*changes: dict[str, Any]) -> list[PeerStatus]:
    return [replace(mesh_peer("worker2", "10.0.1.31"), **each) for each in changes]


@pytest.mark.parametrize(
    ("statuses", "words"),
    [
        (sessions(), "there is no session with worker2 itself"),
        (sessions({"admin_up": False, "state": SessionState.DOWN}), "is shut down by the operator"),
        (
            sessions({"state": SessionState.IDLE, "last_error": "sent 6/1 Maximum Number of Prefixes"}),
            "is idle, sent 6/1 Maximum Number of Prefixes",
        ),
        (sessions({}), "is established, for ipv4"),
    ],
)
def test_a_block_that_its_owner_does_not_announce(statuses: Iterable[PeerStatus], words: str) -> None:
    """The peer is down, shut, over its limit: what the resources say is shown, and how the session is."""
    ground = Ground(snapshot=WORKER2)
    ground.statuses = list(statuses)
    for target in ("10.48.0.40", "10.48.0.0/26", "10.48.0.40/32"):
        text = ground.why(target)
        holds(
            text,
            "no peer announced it, though worker2 has",
            "BlockAffinity worker2-a gives it to worker2",
            words,
        )


def test_a_block_of_a_node_that_is_not_there() -> None:
    pending = replace(WORKER2.affinities["worker2-a"], state=AffinityState.PENDING)
    ground = Ground(snapshot=Snapshot(affinities={"worker2-a": pending}))
    holds(ground.why("10.48.0.0/26"), "to worker2 (pending)", "there is no Node 'worker2'")


def test_the_unknown() -> None:
    ground = Ground(A, snapshot=WORKER2)
    assert ground.all("192.0.2.1") == ground.all("192.0.2.0/24") == []
    for bad in ("nonsense", "10.0.0.0/33"):
        with pytest.raises(ValueError, match="is not"):
            ground.why(bad)


def test_paths_that_are_too_many_are_counted_by_why_and_rows_of_routes_in() -> None:
    server = peer("10.0.2.1", 65001, name="Global_10_0_2_1")
    ground = Ground(server)
    advertised = [announce(path(server, path_id=number), "10.48.0.0/26") for number in range(1, 68)]
    ground.core.hear(server, *advertised)
    ground.install()
    holds(ground.why("10.48.0.7"), "3 more from Global_10_0_2_1 not used", "max_paths_per_prefix")
    rows = list(Tables(ground.parts).routes("in", None, None, False))
    refused = [row.path_id for row in rows if "max_paths_per_prefix" in row.detail]
    assert (len(rows), refused) == (67, [65, 66, 67])


def test_a_route_servers_route_is_named_as_such() -> None:
    server = peer("10.0.2.1", 65001, name="Global_10_0_2_1")
    ground = Ground(server)
    ground.core.hear(server, announce(path(server, attributes(65009)), "10.48.0.0/26"))
    ground.install()
    words = "its AS path does not start with the peer's AS 65001"
    holds(ground.why("10.48.0.7"), f"AS path 65009, {words}", "learned from Global_10_0_2_1")
    [row] = Tables(ground.parts).routes("in", None, None, False)
    assert row.best and row.detail.startswith(words)
    status = replace(ground.statuses[0], id=server.id, first_as=1)
    ground.statuses = [status]
    [found] = ground.parts.peers()
    assert (found.first_as, found.refused) == (1, {})
