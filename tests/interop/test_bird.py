"""BIRD 2 and bgpd, both ways; and what only BIRD can be made to do."""

from __future__ import annotations

import time

from bgpd.bgp.session import RACE_SECONDS
from testing.daemons import Bird
from testing.namespaces import Namespace, Net, steady, wait_until
from testing.resources import bgp_peer
from tests.interop.far import FarBird, FarFrr
from tests.interop.suite import ASN, OWN, THEIRS, Ground, Interop, hops


class TestBird(Interop):
    far = FarBird
    other = FarFrr

    def test_restart_time_ends(self, net: Net) -> None:
        """It crashes and does not return: its routes go when the time it asked for has passed, not before."""
        ground, far = self.one(net, 65001, announced=THEIRS, extra="graceful restart time 3;")
        ground.start()
        ground.wait_kernel(*THEIRS)
        far.kill()
        steady(lambda: "192.168.7.0/24" in ground.bgpd.routes(), 1.5, "kept meanwhile")
        ground.wait_kernel(without=THEIRS, timeout=5)

    def test_silence(self, net: Net) -> None:
        """The cable is cut: the hold timer ends the session and its routes go. It is mended: all is back."""
        ground, far = self.one(
            net, 65001, announced=THEIRS, config={"bgp": {"defaults": {"hold_time": 3}}}, extra="hold time 3;"
        )
        ground.start()
        ground.wait_kernel(*THEIRS)
        ground.switch.down("port1")
        ground.wait_kernel(without=THEIRS, timeout=8)
        peer = ground.bgpd.peers()[far.peers[0]]
        assert peer["flaps"]["hold_timer"] == 1
        ground.switch.up("port1")
        ground.bgpd.wait_established(*far.peers)
        ground.wait_kernel(*THEIRS)
        ground.wait_heard(far, OWN)

    def test_new_connection_replaces_a_dead_one(self, net: Net) -> None:
        """It crashes where nobody hears, and returns: its new connection is taken at once, its routes never go."""
        ground, far = self.one(net, 65001, announced=THEIRS)
        ground.start()
        ground.wait_kernel(*THEIRS)
        monitor = ground.node.monitor()
        ground.switch.down("port1")
        far.kill()
        net.remove(far.namespace)
        reborn = FarBird(net, 2, asn=65001, node_asn=ASN, announced=THEIRS)
        net.join(ground.switch, reborn.namespace, "port9", reborn.lan)
        assert ground.bgpd.established()
        ground.bgpd.wait(
            lambda: all(time.time() - peer["since"] > RACE_SECONDS for peer in ground.bgpd.peers().values()),
            "old enough that a new connection is no collision with it",
            20,
        )
        reborn.start(recover=True)
        wait_until(lambda: reborn.established("ipv4") and reborn.established("ipv6"), 15, report=net.report)
        ground.wait_heard(reborn, OWN)
        ground.bgpd.wait(
            lambda: not any(peer["graceful_restart_active"] for peer in ground.bgpd.peers().values()),
            "it announced all again",
            20,
        )
        assert not monitor.stop()
        assert all(peer["flaps"]["replaced"] == 1 for peer in ground.bgpd.peers().values())

    def test_additional_paths(self, net: Net) -> None:
        """RFC 7911: it announces two ways to one prefix on one session; both are used, and one goes alone."""
        ground, bird = self._custom(
            net,
            """
            protocol static one { ipv4; route 192.168.7.0/24 blackhole; }
            protocol static two { ipv4; route 192.168.7.0/24 blackhole; }
            protocol bgp node {
              local 10.9.0.2 as 64512; neighbor 10.9.0.1 as 64512; connect delay time 1;
              ipv4 { add paths tx; import all; export filter {
                if proto = "one" then bgp_next_hop = 10.9.0.2; else bgp_next_hop = 10.9.0.3; accept;
              }; };
            }
            """,
        )
        ground.bgpd.write("peers", bgp_peer("far", "10.9.0.2", ASN))
        ground.bgpd.start()
        wait_until(
            lambda: hops(ground.bgpd.routes()["192.168.7.0/24"]) == {"10.9.0.2", "10.9.0.3"},
            what="both paths",
            report=net.report,
        )
        rows = ground.bgpd.ctl("routes", table="in", prefix="192.168.7.0/24")["routes"]
        assert len({row["path_id"] for row in rows}) == 2 and all(row["multipath"] for row in rows)
        bird.birdc("disable two")
        wait_until(lambda: hops(ground.bgpd.routes()["192.168.7.0/24"]) == {"10.9.0.2"}, what="one of them")

    def test_other_port(self, net: Net) -> None:
        """``peerIP`` with a port: dialled there."""
        ground, _ = self._custom(
            net,
            """
            protocol static one { ipv4; route 192.168.7.0/24 blackhole; }
            protocol bgp node {
              local 10.9.0.2 port 1179 as 65001; neighbor 10.9.0.1 as 64512; passive on;
              ipv4 { import all; export all; };
            }
            """,
        )
        ground.bgpd.write("peers", bgp_peer("far", "10.9.0.2:1179", 65001))
        ground.bgpd.start()
        ground.bgpd.wait_established("Global_10_9_0_2_port_1179")
        ground.wait_kernel("192.168.7.0/24")

    def _custom(self, net: Net, config: str) -> tuple[Ground, Bird]:
        """A node, and a BIRD of some other making at 10.9.0.2."""
        ground = Ground(net, [])
        namespace: Namespace = net.namespace("bird")
        net.join(ground.switch, namespace, "port9", ["10.9.0.2/24", "fd09::2/64"])
        return ground, Bird(namespace, "protocol device {}" + config, "10.9.0.2").start()
