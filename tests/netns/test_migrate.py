"""``docs/migrate.md``: from BIRD to bgpd on a node, and back, while pods talk over it."""

from testing.daemons import Bird
from testing.namespaces import Net, wait_until
from tests.netns.cluster import BLOCK, IPV4, Cluster, Ping

CALICO = f"""
protocol device {{ scan time 1; }}
protocol kernel {{ learn; persist; metric 0; scan time 1; graceful restart;
  ipv4 {{ import none; export where source != RTS_DEVICE; }}; }}
protocol direct {{ ipv4; interface "ens5"; }}
protocol static blocks {{ ipv4; route {BLOCK["worker2"]} blackhole; }}
protocol bgp Mesh_10_0_1_30 {{ local {IPV4["worker2"]} as 64512; neighbor {IPV4["worker1"]} as 64512; multihop;
  connect delay time 1; connect retry time 1; error wait time 1, 2; graceful restart on;
  ipv4 {{ import all; export where source = RTS_STATIC; next hop self; gateway recursive; }}; }}
"""
OURS = f"{BLOCK['worker2']} via {IPV4['worker2']} dev ens5 proto bird"
THEIRS = f"{BLOCK['worker1']} via {IPV4['worker1']} dev ens5 proto bird"


def test_over_and_back_without_losing_a_packet(net: Net) -> None:
    cluster = Cluster(net, "worker1", "worker2")
    node, bgpd = cluster.nodes["worker2"], cluster.bgpds["worker2"]
    cluster.bgpds["worker1"].start()
    bird = Bird(node, CALICO, IPV4["worker2"]).start()
    near, far = cluster.pod("worker1", "10.48.0.200"), cluster.pod("worker2", "10.48.0.5")
    wait_until(lambda: THEIRS in node.route_text() and OURS in cluster.routes("worker1"), 20, "BIRD's mesh")
    pings = [Ping(near, "10.48.0.5"), Ping(far, "10.48.0.200")]
    monitors = [namespace.monitor("route", family=4) for namespace in cluster.nodes.values()]

    bgpd.start()
    bgpd.wait(lambda: not bgpd.check("alone")["ok"], "it sees BIRD")
    bird.kill()
    bgpd.wait_established("Mesh_10_0_1_30", timeout=30)
    bgpd.wait_in_sync(60)
    cluster.bgpds["worker1"].wait_in_sync(60)
    assert {OURS} <= set(cluster.routes("worker1")) and {THEIRS} <= set(node.route_text())

    bgpd.stop()
    back = Bird(node, CALICO, IPV4["worker2"], name="back").start(recover=True)
    wait_until(lambda: back.established("Mesh_10_0_1_30"), 30, "BIRD is back", report=net.report)
    worker1 = cluster.bgpds["worker1"]
    worker1.wait(lambda: worker1.peers()["Mesh_10_0_1_31"]["counts"]["ipv4"]["stale"] == 0, "heard again", 30)

    for ping in pings:
        sent, lost = ping.lost()
        assert sent > 50 and lost == 0
    for monitor in monitors:
        lines = monitor.stop()
        assert not any("Deleted" in line and "dev cali" not in line for line in lines), lines
