"""What outlives a hung process: RFC 8538 between two of ours, under traffic."""

from __future__ import annotations

import signal
import time

from testing.namespaces import Net
from tests.netns.cluster import Cluster, Ping

HOLD, HUNG = 3, 8.0
"""Seconds: of the hold time, and of a process that does nothing."""


def test_a_hung_process_costs_nothing(net: Net) -> None:
    """It is silent for longer than the hold time, its kernel forwards on: with the N bit on both ends its peers keep
    its routes over their Cease, and it keeps theirs."""
    cluster = Cluster(net, "worker1", "worker2", config={"bgp": {"defaults": {"hold_time": HOLD}}}).start()
    pods = cluster.pod("worker1", "10.48.0.200"), cluster.pod("worker2", "10.48.0.5")
    pings = [Ping(pods[0], "10.48.0.5"), Ping(pods[1], "10.48.0.200")]
    monitors = [namespace.monitor() for namespace in cluster.nodes.values()]
    near, hung = cluster.bgpds["worker1"], cluster.bgpds["worker2"]
    assert hung.process is not None
    hung.process.signal(signal.SIGSTOP)
    try:
        near.wait(lambda: _flaps(near, "hold_timer"), "the hold timer is over", 2 * HOLD + 5)
        near.wait(
            lambda: all(p["graceful_restart_active"] for p in near.peers().values()), "both families are kept"
        )
        time.sleep(HUNG - HOLD)  # what the machine may do meanwhile is the test
    finally:
        hung.process.signal(signal.SIGCONT)
    hung.wait(lambda: _flaps(hung, "notification_rx") + _flaps(hung, "tcp"), "it has read why")
    for bgpd in (near, hung):
        bgpd.wait(lambda bgpd=bgpd: bgpd.established(*bgpd.peers()), "up again", 20)
        bgpd.wait(
            lambda bgpd=bgpd: not any(p["graceful_restart_active"] for p in bgpd.peers().values()),
            "all announced",
        )
    for ping in pings:
        sent, lost = ping.lost()
        assert sent > 100 and lost == 0
    for monitor in monitors:
        assert monitor.stop() == []


def test_a_peer_that_is_removed_is_gone_at_once(net: Net) -> None:
    """A Hard Reset: the N bit must not keep what nobody wants."""
    cluster = Cluster(net, "worker1", "worker2").start()
    for name in list(cluster.bgpds["worker1"].peers()):
        cluster.bgpds["worker1"].act("shutdown", name, "for good")
    other = cluster.bgpds["worker2"]
    cluster.wait_routes("worker1", [line for line in cluster.expected("worker1") if "blackhole" in line], 2)
    cluster.wait_routes("worker2", [line for line in cluster.expected("worker2") if "blackhole" in line], 2)
    assert {"direction": "received", "code": 6, "subcode": 9, "count": 1} in other.peers()["Mesh_10_0_1_30"][
        "notifications"
    ]
    assert "6/9 Hard Reset: 6/2 Administrative Shutdown: for good" in str(other.peers()["Mesh_10_0_1_30"])


def _flaps(bgpd: object, reason: str) -> int:
    return sum(int(peer["flaps"].get(reason, 0)) for peer in bgpd.peers().values())  # type: ignore[attr-defined]
