"""Names of pods, nodes and BGPPeers, wherever a peer or an address is asked for."""

from dataclasses import replace

import pytest

from bgpd.model.doors import Ambiguous, NotFound
from bgpd.model.resources import Allocation, IPAMBlock, Node, Snapshot
from tests.unit.builders import V4, addr, announce, path, peer, pfx
from tests.unit.fake_views import mesh_peer
from tests.unit.ground import Ground

A = peer("10.0.1.31")
SNAPSHOT = Snapshot(
    blocks={
        "b": IPAMBlock(
            "b",
            V4,
            pfx("10.48.0.0/26"),
            "worker2",
            (
                Allocation(addr("10.48.0.4"), "worker2", "default/web-9"),
                Allocation(addr("10.48.0.5"), "worker2", "default/db"),
                Allocation(addr("10.48.0.6"), "worker2", "prod/db"),
            ),
        )
    },
    nodes={"worker2": Node("worker2", ipv4=addr("10.0.1.31"))},
)


def ground() -> Ground:
    made = Ground(A, snapshot=SNAPSHOT)
    made.statuses = [
        replace(mesh_peer("worker2", "10.0.1.31"), id=A.id),
        replace(mesh_peer("w", "10.0.9.1"), id="Global_10_0_9_1", source="BGPPeer tor"),
        replace(mesh_peer("w", "10.0.9.2"), id="Global_10_0_9_2", source="BGPPeer tor"),
        replace(mesh_peer("w", "10.48.0.4"), id="Local_10_48_0_4", source="BGPPeer pods"),
    ]
    return made


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        (A.id, [A.id]),
        ("10.0.9.2", ["Global_10_0_9_2"]),
        ("worker2", [A.id]),
        ("Node worker2", [A.id]),
        ("tor", ["Global_10_0_9_1", "Global_10_0_9_2"]),
        ("BGPPeer tor", ["Global_10_0_9_1", "Global_10_0_9_2"]),
        ("default/web-9", ["Local_10_48_0_4"]),
        ("web-9", ["Local_10_48_0_4"]),
    ],
)
def test_peers_by_name(name: str, ids: list[str]) -> None:
    assert [found.id for found in ground().parts.peers(name)] == ids


def test_a_node_that_a_bgppeer_made_the_session_with() -> None:
    made = ground()
    made.statuses = [replace(mesh_peer("w", "10.0.1.31"), id="Node_10_0_1_31", source="BGPPeer rr")]
    assert made.parts.find_peer("worker2").id == made.parts.find_peer("rr").id == "Node_10_0_1_31"


def test_what_is_ambiguous_is_refused_with_the_choices() -> None:
    with pytest.raises(Ambiguous, match="'tor' may be any of Global_10_0_9_1, Global_10_0_9_2"):
        ground().parts.find_peer("tor")
    for ask in (ground().parts.addresses, ground().all, ground().parts.find_peer):
        with pytest.raises(Ambiguous, match="'db' may be any of default/db, prod/db"):
            ask("db")


@pytest.mark.parametrize("name", ["", "nobody", "Global", "/", "default/"])
def test_the_unknown(name: str) -> None:
    with pytest.raises(NotFound, match="no peer is named"):
        ground().parts.find_peers(name)
    with pytest.raises(ValueError, match="is not a prefix such as"):
        ground().parts.addresses(name)


def test_why_takes_names() -> None:
    made = ground()
    made.core.hear(A, announce(path(A), "10.48.0.0/26", "10.0.9.2/32"))
    made.install()
    for name in ("web-9", "default/web-9", "prod/db"):
        assert made.all(name)[-1].startswith("10.48.0.0/26: learned from"), name
    assert made.why("Global_10_0_9_2").startswith("10.0.9.2/32: learned from")
