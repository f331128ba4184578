"""Upgrades that no peer notices: sessions with real BIRD and FRR go from process to process."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from testing.daemons import Frr
from testing.namespaces import Net
from tests.interop.far import Far, FarBird, FarFrr
from tests.interop.suite import ASN, BLOCKS, OWN, THEIRS, Ground

SHARED = "10.48.9.0/26"


class Witness:
    """What a far end itself says of its sessions with the node."""

    def __init__(self, far: Far) -> None:
        self.far = far

    def sessions(self) -> dict[str, tuple[float, int]]:
        """By address: since when it is up, on a clock of its own, and how many UPDATEs it got."""
        if isinstance(self.far.daemon, Frr):
            found = json.loads(self.far.daemon.vtysh("show bgp neighbors json"))
            return {
                name: (float(of["bgpTimerUpEstablishedEpoch"]), of["messageStats"]["updatesRecv"])
                for name, of in found.items()
            }
        bird = self.far.daemon
        found = {}
        for family in ("ipv4", "ipv6"):
            text = bird.birdc(f"show protocols all node_{family}")
            counts = re.findall(r"Import (?:updates|withdraws): +(\d+) +(\d+|---)", text)
            assert counts and "Established" in text, text
            found[family] = (bird.since(f"node_{family}"), sum(int(count) for count, _ in counts))
        return found


def ground_of(net: Net, **options: Any) -> tuple[Ground, list[Far]]:
    """A node with two peers, which share a prefix."""
    fars: list[Far] = [
        FarBird(net, 2, asn=ASN, node_asn=ASN, announced=[*THEIRS, SHARED], **options),
        FarFrr(net, 3, asn=65001, node_asn=ASN, announced=["192.168.8.0/24", "fd08::/64", SHARED]),
    ]
    return Ground(net, fars), fars


def settle(ground: Ground, fars: list[Far]) -> None:
    ground.start()
    ground.bgpd.wait_in_sync()
    ground.wait_kernel(*THEIRS, SHARED, "192.168.8.0/24", "fd08::/64", *BLOCKS.values())
    for far in fars:
        ground.bgpd.wait(lambda far=far: far.heard().keys() >= OWN, f"{far.kind} heard all")


@pytest.mark.parametrize("times", [2, pytest.param(10, marks=pytest.mark.long)])
def test_no_peer_notices(net: Net, times: int) -> None:
    ground, fars = ground_of(net)
    settle(ground, fars)
    bgpd = ground.bgpd
    witnesses = [Witness(far) for far in fars]
    before = [witness.sessions() for witness in witnesses]
    peers = bgpd.peers()
    kernel = ground.kernel()
    monitor = ground.node.monitor()
    for _ in range(times):
        bgpd.upgrade()
        bgpd.wait_in_sync()
    assert bgpd.log.count("event=session_taken_over") == 4
    assert "event=session_not_taken_over" not in bgpd.log
    for witness, sessions in zip(witnesses, before, strict=True):
        now = witness.sessions()
        for name, (since, updates) in sessions.items():
            assert now[name][0] == pytest.approx(since, abs=1.1), name
            assert now[name][1] == updates, name
    assert monitor.stop() == []
    assert ground.kernel() == kernel
    for name, peer in bgpd.peers().items():
        assert peer["messages_sent"]["UPDATE"] == peers[name]["messages_sent"]["UPDATE"], name
        assert not any(peer["flaps"].values()) and peer["since"] == pytest.approx(
            peers[name]["since"], abs=0.1
        )
