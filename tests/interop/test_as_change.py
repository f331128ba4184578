"""The cluster's AS number changes: a peer that still expects the old one must not keep what we announced before."""

from __future__ import annotations

from testing.daemons import Bgpd, Frr
from testing.namespaces import Net, wait_until
from testing.resources import affinity, bgp_configuration, bgp_peer, node, pool

BLOCK = "10.48.0.192/26"
CONFIG = """\
router bgp 65001
 no bgp ebgp-requires-policy
 neighbor 10.0.1.30 remote-as 64512
"""


def test_frr_keeps_no_path_of_the_old_as(net: Net) -> None:
    """It keeps the paths of a session that ended for as long as a restart may take, but for a hard reset (RFC 8538)
    that it reads before it sees the next connection."""
    worker, switch = net.namespace("worker"), net.namespace("switch")
    net.lan({worker: ["10.0.1.30/24"], switch: ["10.0.1.1/24"]})
    cluster = (
        node("worker1", "10.0.1.30/24"),
        pool("default", "10.48.0.0/24"),
        affinity("worker1", BLOCK),
        bgp_peer("tor", "10.0.1.1", 65001),
    )
    frr = Frr(switch, CONFIG).start()
    bgpd = Bgpd(worker, "worker1", {"cluster": [*cluster, bgp_configuration()]}).start()

    def known() -> bool:
        return "not in table" not in frr.vtysh(f"show bgp ipv4 unicast {BLOCK}")

    wait_until(known, 15, "FRR has the block")
    bgpd.write("cluster", *cluster, bgp_configuration(64777))
    bgpd.wait(
        lambda: "Bad Peer AS" in bgpd.peers()["Global_10_0_1_1"]["last_error"], "FRR refuses the new AS"
    )
    assert bgpd.peers()["Global_10_0_1_1"]["last_down"].startswith("NOTIFICATION sent 6/9 Hard Reset")
    wait_until(lambda: not known(), 3, "the paths of the old AS are gone")
