"""Others at work on the node: what they break of ours is put right, what is theirs is left alone and reported."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from testing.daemons import Bird
from testing.namespaces import Net, steady, wait_until
from tests.netns.cluster import BLOCK, BLOCK6, IPV4, IPV6, Cluster

SECOND = 1.0


@contextmanager
def right_again_within(cluster: Cluster, name: str, seconds: float = SECOND) -> Iterator[None]:
    """What happens inside is put right: the routes are again what they were, so many seconds after it at most."""
    before = cluster.routes(name)
    yield
    started = time.monotonic()
    cluster.wait_routes(name, before, 5)
    took = time.monotonic() - started
    assert took < seconds, f"it took {took:.2f} s"


def conflicts(cluster: Cluster, name: str) -> str:
    """What ``bgpctl status`` says of others' routes in our way."""
    fib = cluster.bgpds[name].status()["fib"]
    return str(
        {prefix: words for family in fib.values() for prefix, words in family["conflicts"].items()} or ""
    )


def test_repairs(net: Net) -> None:
    """Routes that somebody deletes, or changes in our name, are back in under a second: unicast and blackholes."""
    cluster = Cluster(net).start()
    node = cluster.nodes["worker2"]
    changed = f"{BLOCK['worker1']} via {IPV4['control']} dev ens5 proto bird"
    changed6 = f"{BLOCK6['worker1']} via {IPV6['control']} dev ens5 proto bird metric 1024"
    with right_again_within(cluster, "worker2"):
        node.ip("route", "delete", BLOCK["worker1"])
        node.ip("route", "delete", "blackhole", BLOCK["worker2"])
        node.ip("-6", "route", "delete", BLOCK6["worker1"])
        node.ip("-6", "route", "delete", "blackhole", BLOCK6["worker2"])
    with right_again_within(cluster, "worker2"):
        node.ip("route", "replace", *changed.split())
    with right_again_within(cluster, "worker2"):
        node.ip("-6", "route", "replace", *changed6.split())
    with right_again_within(cluster, "worker2"):
        node.ip("route", "replace", "blackhole", BLOCK["control"], "proto", "bird")
    with right_again_within(cluster, "worker2"):
        node.ip("route", "add", "10.99.0.0/24", "via", IPV4["control"], "proto", "bird")
    with right_again_within(cluster, "worker2"):
        node.ip("route", "flush", "proto", "bird")
    assert not any(any(peer["flaps"].values()) for peer in cluster.bgpds["worker2"].peers().values())
    repairs = cluster.bgpds["worker2"].status()["fib"]["ipv4"]["repairs"]
    assert repairs["missing"] >= 4 and repairs["changed"] >= 2 and repairs["extra"] >= 1


def test_takeovers_are_left_and_reported(net: Net) -> None:
    """Another's route in place of ours, and before ours: left alone, shown by bgpctl; ours is back when they go."""
    cluster = Cluster(net).start()
    node, bgpd = cluster.nodes["worker2"], cluster.bgpds["worker2"]
    target = BLOCK["worker1"]

    node.ip("route", "replace", target, "via", IPV4["control"])
    ours = [route for route in cluster.expected("worker2") if not route.startswith(target)]
    wait_until(
        lambda: target in conflicts(cluster, "worker2"), 2, "the conflict is reported", report=net.report
    )
    printed = bgpd.bgpctl("why", target).stdout
    assert "boot" in conflicts(cluster, "worker2") and "boot" in printed, printed
    assert any(target in problem["message"] for problem in bgpd.status()["problems"])
    steady(lambda: cluster.routes("worker2") == ours, 0.5, "it is left alone")
    assert "via 10.0.1.20" in node.ip("route", "show", target)
    node.ip("route", "delete", target, "via", IPV4["control"])
    cluster.wait_routes("worker2", cluster.expected("worker2"), SECOND)
    wait_until(lambda: conflicts(cluster, "worker2") == "", 2, "the report goes")

    node.ip("route", "prepend", target, "via", IPV4["control"], "proto", "static")
    wait_until(
        lambda: "static" in conflicts(cluster, "worker2"), 2, "the conflict is reported", report=net.report
    )
    assert "static" in bgpd.bgpctl("why", target).stdout
    steady(lambda: len(node.ip("route", "show", target).splitlines()) == 2, 0.5, "it is left alone")
    assert "proto static" in node.ip("route", "show", target).splitlines()[0]
    node.ip("route", "delete", target, "proto", "static")
    cluster.wait_routes("worker2", cluster.expected("worker2"), SECOND)
    wait_until(lambda: conflicts(cluster, "worker2") == "", 2, "the report goes")


@pytest.mark.long
def test_takeover_of_ipv6(net: Net) -> None:
    cluster = Cluster(net).start()
    node, target = cluster.nodes["worker2"], BLOCK6["worker1"]
    node.ip("-6", "route", "replace", target, "via", IPV6["control"], "metric", "1024", "proto", "static")
    wait_until(
        lambda: "static" in conflicts(cluster, "worker2"), 2, "the conflict is reported", report=net.report
    )
    steady(lambda: "proto static" in node.ip("-6", "route", "show", target), 0.5, "it is left alone")
    node.ip("-6", "route", "delete", target, "proto", "static")
    cluster.wait_routes("worker2", cluster.expected("worker2"), SECOND)


def test_link_goes_and_comes(net: Net) -> None:
    cluster = Cluster(net).start()
    node = cluster.nodes["worker2"]
    with right_again_within(cluster, "worker2"):
        node.down("ens5")
        wait_until(
            lambda: not any("via" in route for route in cluster.routes("worker2")),
            2,
            "no route over a dead link",
        )
        node.up("ens5")
        wait_until(lambda: "LOWER_UP" in node.ip("link", "show", "ens5"), 2, "the link is up")
    assert not any(any(peer["flaps"].values()) for peer in cluster.bgpds["worker2"].peers().values())


def test_carrier_goes_and_comes(net: Net) -> None:
    """The other end of the cable: the kernel keeps the routes and marks them; nothing needs to be written."""
    cluster = Cluster(net).start()
    with right_again_within(cluster, "worker2"):
        cluster.switch.down("port2")
        wait_until(
            lambda: "NO-CARRIER" in cluster.nodes["worker2"].ip("link", "show", "ens5"), 2, "no carrier"
        )
        cluster.switch.up("port2")
        wait_until(
            lambda: "LOWER_UP" in cluster.nodes["worker2"].ip("link", "show", "ens5"), 2, "the link is up"
        )


def test_address_goes_and_returns(net: Net) -> None:
    cluster = Cluster(net).start()
    node = cluster.nodes["worker2"]
    with right_again_within(cluster, "worker2"):
        node.ip("address", "delete", f"{IPV4['worker2']}/24", "dev", "ens5")
        wait_until(
            lambda: not any("via 10." in route for route in cluster.routes("worker2")),
            2,
            "no way to the next hops",
        )
        node.address("ens5", f"{IPV4['worker2']}/24")


def test_nexthop_object_deleted(net: Net) -> None:
    """``ip nexthop del`` takes the routes over it along, without a word from the kernel for IPv4."""
    cluster = Cluster(net, config={"kernel": {"nexthop_objects": "always"}})
    cluster.start_any()
    node = cluster.nodes["worker2"]
    before = cluster.shapes("worker2")
    objects = [item["id"] for item in node.ip_json("nexthop", "show")]
    assert len(objects) >= 4
    for number in objects:
        node.ip("nexthop", "delete", "id", number)
        started = time.monotonic()
        wait_until(
            lambda: cluster.shapes("worker2") == before, 5, "right again", interval=0.01, report=net.report
        )
        assert time.monotonic() - started < SECOND
    node.ip("nexthop", "flush", "proto", 12)
    started = time.monotonic()
    wait_until(
        lambda: cluster.shapes("worker2") == before, 5, "right again", interval=0.01, report=net.report
    )
    assert time.monotonic() - started < SECOND


@pytest.mark.long
def test_nexthop_object_replaced(net: Net) -> None:
    """Anybody's ``ip nexthop replace`` of an object of ours rewires every route over it: they move to another id."""
    cluster = Cluster(net, config={"kernel": {"nexthop_objects": "always"}})
    cluster.start_any()
    node = cluster.nodes["worker2"]
    route = node.routes()[BLOCK["worker1"]]
    node.ip(
        "nexthop", "replace", "id", route["nhid"], "via", IPV4["control"], "dev", "ens5", "proto", "static"
    )
    wait_until(
        lambda: node.routes()[BLOCK["worker1"]].get("gateway") == IPV4["worker1"],
        SECOND,
        "right",
        report=net.report,
    )
    assert node.routes()[BLOCK["worker1"]]["nhid"] != route["nhid"]


BIRD_ON_THE_PORT = """
protocol device {{ scan time 1; }}
protocol kernel {{ persist; scan time 1; ipv4 {{ export all; }}; }}
protocol static blocks {{ ipv4; route 10.48.0.0/26 blackhole; {more} }}
protocol bgp dummy {{ local {own} as 64512; neighbor 10.0.1.99 as 64512; passive on; ipv4 {{ import all; }}; }}
"""
BIRD_THAT_WRITES = """
protocol device {{ scan time 1; }}
protocol kernel {{ persist; scan time 1; ipv4 {{ export all; }}; }}
protocol static blocks {{ ipv4; route 172.20.0.0/16 blackhole; {more} }}
"""


def test_bird_on_our_port(net: Net) -> None:
    """BIRD still has port 179: nothing is written or swept, bgpd is unready and says why. BIRD ends: taken over."""
    cluster = Cluster(net, "worker1", "worker2")
    node, bgpd = cluster.nodes["worker2"], cluster.bgpds["worker2"]
    cluster.bgpds["worker1"].start()
    config = BIRD_ON_THE_PORT.format(own=IPV4["worker2"], more="route 10.99.0.0/24 blackhole;")
    bird = Bird(node, config, IPV4["worker2"]).start()
    wait_until(lambda: len(node.routes()) == 2, what="BIRD wrote its routes")
    before = node.route_text()
    monitor = node.monitor()
    bgpd.start()
    bgpd.wait(lambda: not bgpd.check("alone")["ok"], "it sees that it is not alone")
    assert "179" in bgpd.check("alone")["detail"]
    steady(lambda: not bgpd.status()["ready"] and not bgpd.status()["in_sync"], 1.5, "not ready")
    assert "[-]alone failed" in bgpd.scrape("/readyz?verbose")
    assert node.route_text() == before and monitor.stop() == []
    bird.kill()
    bgpd.wait(lambda: bgpd.status()["ready"], "it takes over", 15)
    cluster.wait_routes("worker2", cluster.expected("worker2"), 20)


def test_bird_that_writes(net: Net) -> None:
    """A BIRD without BGP writes ``proto bird`` routes: from then on we write nothing, and name it, until it is gone."""
    cluster = Cluster(net, "worker1", "worker2").start()
    node, bgpd = cluster.nodes["worker2"], cluster.bgpds["worker2"]
    bird = Bird(node, BIRD_THAT_WRITES.format(more=""), IPV4["worker2"]).start()
    bgpd.wait(lambda: not bgpd.check("alone")["ok"], "it sees that it is not alone")
    assert "bird (pid" in bgpd.check("alone")["detail"]
    assert not bgpd.status()["ready"]
    bird.configure(BIRD_THAT_WRITES.format(more="route 172.21.0.0/16 blackhole;"))
    wait_until(lambda: "172.21.0.0/16" in node.routes(), what="BIRD wrote another")
    cluster.bgpds["worker1"].remove("blocks")
    theirs = f"{BLOCK['worker1']} via {IPV4['worker1']} dev ens5 proto bird"
    steady(
        lambda: {"172.20.0.0/16", "172.21.0.0/16"} <= node.routes().keys() and theirs in node.route_text(),
        1.0,
        "nothing is written or swept",
    )
    bird.kill()
    bgpd.wait(lambda: bgpd.status()["ready"], "it takes over", 15)
    left = [route for route in cluster.expected("worker2") if "via" not in route]
    cluster.wait_routes("worker2", left, 10)


def test_old_routes_of_bird_are_adopted(net: Net) -> None:
    """What BIRD left, of another metric too, is taken over without a gap: new first, then the old goes."""
    cluster = Cluster(net, "worker1", "worker2")
    node = cluster.nodes["worker2"]
    node.ip("route", "add", BLOCK["worker1"], "via", IPV4["worker1"], "proto", "bird", "metric", "1024")
    node.ip("route", "add", "blackhole", BLOCK["worker2"], "proto", "bird")
    node.ip("route", "add", "10.77.0.0/16", "via", IPV4["worker1"], "proto", "bird")
    monitor = node.monitor("route", family=4)
    cluster.start()
    lines = [line for line in monitor.stop() if "dev lo" not in line]
    assert lines[0].startswith(f"{BLOCK['worker1']} via {IPV4['worker1']}") and "metric" not in lines[0]
    assert sorted(lines[1:]) == [
        f"Deleted {BLOCK['worker1']} via {IPV4['worker1']} dev ens5 proto bird metric 1024",
        f"Deleted 10.77.0.0/16 via {IPV4['worker1']} dev ens5 proto bird",
    ]


@pytest.mark.parametrize("what", ["connected", "own address", "own block"])
def test_routes_that_are_heard_and_hidden(net: Net, what: str) -> None:
    """A peer announces what is this node's own: heard, not installed, with the reason."""
    cluster = Cluster(net, "worker1", "worker2")
    prefix = {
        "connected": "10.0.1.0/24",
        "own address": f"{IPV4['worker2']}/32",
        "own block": BLOCK["worker2"],
    }[what]
    bird = Bird(
        cluster.nodes["worker1"],
        f"""
        protocol device {{}}
        protocol static blocks {{ ipv4; route {prefix} blackhole; route 10.66.0.0/16 blackhole; }}
        protocol bgp node {{ local {IPV4["worker1"]} as 64512; neighbor {IPV4["worker2"]} as 64512;
          connect delay time 1; connect retry time 1; ipv4 {{ export all; next hop self; }}; }}
        """,
        IPV4["worker1"],
    )
    bird.start()
    bgpd = cluster.bgpds["worker2"].start()
    wait_until(
        lambda: "10.66.0.0/16" in cluster.nodes["worker2"].routes(), what="its other route", report=net.report
    )
    assert f"{prefix.removesuffix('/32')} via" not in "\n".join(cluster.routes("worker2"))
    printed = bgpd.bgpctl("why", prefix)
    assert printed.returncode == 0 and "hidden" in printed.stdout, printed.stdout
