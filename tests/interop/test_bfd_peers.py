"""BFD with BIRD 2 and FRR's bfdd: a path that is cut without loss of carrier is left in less than a second."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from testing.daemons import Bgpd, Bird, Frr
from testing.namespaces import Namespace, Net, steady, wait_until
from testing.resources import bgp_configuration, bgp_peer, node

ASN = 64512
SHARED = "192.168.7.0/24"
BFD = {"min_tx": "100ms", "min_rx": "100ms", "multiplier": 3}
DETECTION = 0.3


class Router:
    """A neighbour of the node on a link of its own, which says the shared prefix."""

    kind = ""

    def __init__(self, net: Net, place: int) -> None:
        self.namespace = net.namespace(f"r{place}")
        self.ours, self.theirs = f"10.9.{place}.1", f"10.9.{place}.2"
        self.name = f"Global_10_9_{place}_2"
        self.place = place
        self.switch: Namespace

    def bfd_up(self) -> bool:
        raise NotImplementedError

    def since(self) -> float:
        """When its session of BGP came up, on a clock of its own."""
        raise NotImplementedError


class BirdRouter(Router):
    kind = "bird"

    def __init__(self, net: Net, place: int, peer: str = "bfd on;", extra: str = "") -> None:
        super().__init__(net, place)
        self.bird = Bird(
            self.namespace,
            f"""
            protocol device {{ }}
            protocol bfd {{ interface "*" {{ interval 100 ms; multiplier 3; }};
                            multihop {{ interval 100 ms; multiplier 3; }}; }}
            protocol static {{ ipv4; route {SHARED} blackhole; }}
            protocol bgp node {{
              local {self.theirs} as 65001; neighbor {self.ours} as {ASN}; connect delay time 1; error wait time 1, 2;
              {peer} {extra}
              ipv4 {{ import all; export all; }};
            }}
            """,
            self.theirs,
        )

    def start(self) -> None:
        self.bird.start()

    def bfd_up(self) -> bool:
        return any(
            self.ours in line and " Up " in line for line in self.bird.birdc("show bfd sessions").splitlines()
        )

    def since(self) -> float:
        return self.bird.since("node")


class FrrRouter(Router):
    kind = "frr"

    def __init__(self, net: Net, place: int) -> None:
        super().__init__(net, place)
        self.frr = Frr(
            self.namespace,
            f"""
            router bgp 65001
             bgp router-id {self.theirs}
             no bgp ebgp-requires-policy
             no bgp network import-check
             neighbor {self.ours} remote-as {ASN}
             neighbor {self.ours} bfd 3 100 100
             address-family ipv4 unicast
              network {SHARED}
            """,
            bfd=True,
        )

    def start(self) -> None:
        self.frr.start()

    def bfd_up(self) -> bool:
        return any(peer["status"] == "up" for peer in self.frr.bfd_peers())

    def since(self) -> float:
        found = json.loads(self.frr.vtysh("show bgp neighbors json"))[self.ours]
        return float(found["bgpTimerUpEstablishedEpoch"])


class Ground:
    """A node with two neighbours, each behind a switch of its own: a port of it goes down and no carrier is lost."""

    def __init__(self, net: Net, *routers: Router, **config: Any) -> None:
        self.net, self.routers = net, routers
        self.node = net.namespace("node")
        for router in routers:
            members = {self.node: [f"{router.ours}/24"], router.namespace: [f"{router.theirs}/24"]}
            router.switch = net.lan(members, device=f"ens{router.place}")
        peers = [
            bgp_peer(f"r{router.place}", router.theirs, 65001, sourceAddress="None", maxRestartTime="120s")
            for router in routers
        ]
        self.bgpd = Bgpd(
            self.node,
            "worker1",
            {
                "nodes": [node("worker1", f"{routers[0].ours}/24")],
                "settings": [bgp_configuration(ASN, mesh=False)],
                "peers": peers,
            },
            {"bgp": {"defaults": {"bfd": BFD}}, **config},
        )

    def start(self) -> None:
        for router in self.routers:
            router.start()  # type: ignore[attr-defined]
        self.bgpd.start()
        self.bgpd.wait_established()
        self.wait(lambda: all(each["state"] == "up" for each in self.sessions().values()), "BFD is up here")
        self.wait(lambda: all(router.bfd_up() for router in self.routers), "BFD is up there")
        self.wait(lambda: len(self.gateways()) == len(self.routers), "the prefix goes by all of them")

    def sessions(self) -> dict[str, dict[str, Any]]:
        found = {each["address"]: each for each in self.bgpd.ctl("bfd")["sessions"]}
        assert len(found) == len(self.routers), found
        return found

    def gateways(self) -> set[str]:
        route = self.node.routes().get(SHARED, {})
        hops = route.get("nexthops") or [route]
        return {hop["gateway"] for hop in hops if "gateway" in hop}

    def cut(self, router: Router) -> None:
        router.switch.down("port1")

    def mend(self, router: Router) -> None:
        router.switch.up("port1")

    def wait(self, what: Callable[[], object], words: str, timeout: float = 20.0) -> None:
        wait_until(what, timeout, words, report=self.net.report)


ROUTERS: list[type[Router]] = [BirdRouter, FrrRouter]


@pytest.mark.parametrize("kind", ROUTERS, ids=lambda kind: kind.kind)
def test_a_cut_path_is_left_for_the_other(net: Net, kind: type[Router]) -> None:
    """No carrier is lost and nobody says a word: the route moves to the other ECMP member within the detection time
    and a little, the session ends as BFD's, and all comes back by itself."""
    routers = [kind(net, 1), (FrrRouter if kind is BirdRouter else BirdRouter)(net, 2)]
    ground = Ground(net, *routers)
    ground.start()
    first, second = routers
    assert ground.gateways() == {first.theirs, second.theirs}
    # Before: where both dial, FRR makes its session of BFD anew, and signals down once.
    flaps = {router: Counter(ground.bgpd.peers()[router.name]["flaps"]) for router in routers}
    downs = Counter(ground.sessions()[first.theirs]["downs"])
    began = time.monotonic()
    ground.cut(first)
    ground.wait(lambda: ground.gateways() == {second.theirs}, "the route moved", 5)
    assert time.monotonic() - began < 1.5, "a detection time of 0.3 s, and a machine that has much to do"
    peer = ground.bgpd.peers()[first.name]
    assert Counter(peer["flaps"]) == flaps[first] + Counter(bfd=1)
    assert peer["last_error"].startswith("NOTIFICATION sent 6/") and "6/10 BFD Down" in peer["last_error"]
    session = ground.sessions()[first.theirs]
    assert Counter(session["downs"]) == downs + Counter({"detection time expired": 1})
    assert Counter(ground.bgpd.peers()[second.name]["flaps"]) == flaps[second]
    text = ground.bgpd.bgpctl("bfd").stdout
    assert "detection time expired" in text and first.theirs in text
    ground.mend(first)
    ground.bgpd.wait_established()
    ground.wait(lambda: ground.gateways() == {first.theirs, second.theirs}, "both ways are back", 30)
    ground.wait(lambda: ground.sessions()[first.theirs]["state"] == "up", "BFD is back")
    metrics = ground.bgpd.scrape()
    assert f'bgpd_bfd_session_up{{interface="",peer="{first.theirs}"}} 1.0' in metrics


@pytest.mark.parametrize("kind", ROUTERS, ids=lambda kind: kind.kind)
def test_who_stops_says_so_and_keeps_its_routes(net: Net, kind: type[Router]) -> None:
    """A planned stop of ours is no failure of the path: AdminDown, and the peer keeps what graceful restart keeps. The
    operator's shutdown of a peer takes its BFD session along."""
    router = kind(net, 1)
    ground = Ground(net, router)
    ground.start()
    session = ground.sessions()[router.theirs]
    assert not session["multihop"] and session["detection_time"] == pytest.approx(DETECTION)
    assert session["transmit_interval"] == pytest.approx(0.1)
    ground.bgpd.act("shutdown", router.name, "work")
    wait_until(lambda: ground.bgpd.ctl("bfd")["sessions"] == [], 5)
    ground.wait(lambda: not router.bfd_up(), "taken down there too")
    ground.bgpd.act("enable", router.name)
    ground.wait(lambda: ground.sessions()[router.theirs]["state"] == "up", "up again")
    steady(lambda: ground.sessions()[router.theirs]["state"] == "up", 1.0, "and stays")
    assert ground.bgpd.stop() == 0
    assert SHARED in ground.node.routes()


@pytest.mark.long
def test_no_peer_ends_its_session_over_ten_upgrades(net: Net) -> None:
    """The next process goes on with the sessions of BFD, whose peers wait meanwhile: no session of BGP ends, no route
    moves, and a path that is cut then is left as before."""
    routers: list[Router] = [BirdRouter(net, 1), FrrRouter(net, 2)]
    usual = {
        "defaults": {"bfd": {}}
    }  # 300 ms: other processes start meanwhile, on a machine that has much to do
    ground = Ground(net, *routers, bgp=usual)
    ground.start()
    since = [router.since() for router in routers]
    peers, bfd = ground.bgpd.peers(), ground.sessions()
    monitor = ground.node.monitor()
    for _ in range(10):
        ground.bgpd.upgrade()
        ground.wait(lambda: all(each["state"] == "up" for each in ground.sessions().values()), "BFD is up")
        ground.wait(lambda: all(router.bfd_up() for router in routers), "BFD is up there")
    assert monitor.stop() == [], ground.bgpd.log
    assert [router.since() for router in routers] == pytest.approx(since, abs=1.1)
    for name, peer in ground.bgpd.peers().items():
        assert peer["flaps"] == peers[name]["flaps"] and peer["since"] == pytest.approx(
            peers[name]["since"], abs=0.1
        )
    assert "event=session_not_taken_over" not in ground.bgpd.log and "event=bfd_down" not in ground.bgpd.log
    for address, session in ground.sessions().items():
        for key in ("local_discriminator", "remote_discriminator", "ups", "downs", "since"):
            assert session[key] == bfd[address][key], key
    ground.cut(routers[0])
    ground.wait(lambda: ground.gateways() == {routers[1].theirs}, "the route moved", 5)


def test_several_hops(net: Net) -> None:
    """RFC 5883: UDP port 4784, where both are configured for it; one hop there and several here is named."""
    router = BirdRouter(net, 1, extra="multihop 3;")
    ground = Ground(net, router)
    router.start()
    ground.bgpd.start()
    ground.bgpd.wait_established()
    steady(lambda: ground.sessions()[router.theirs]["state"] != "up", 1.5, "one hop here, several there")
    ground.bgpd.configure(bgp={"defaults": {"bfd": {**BFD, "multihop": True}}})
    assert ground.bgpd.bgpctl("reload").returncode == 0
    ground.wait(lambda: ground.sessions()[router.theirs]["state"] == "up", "up over several hops")
    assert ground.sessions()[router.theirs]["multihop"]
    assert ground.bgpd.established(), "the session of BGP was left alone"


def test_link_local_and_ipv6(net: Net) -> None:
    """IPv6, and a link-local address with its interface."""
    hosts, _ = net.hosts({"node": ["fd00:9::1/64"], "far": ["fd00:9::2/64", "fe80::2/64"]}, device="ens1")
    node_ns, far = hosts["node"], hosts["far"]
    bird = Bird(
        far,
        f"""
        protocol device {{ }}
        protocol bfd {{ interface "*" {{ interval 100 ms; multiplier 3; }}; }}
        protocol bgp one {{ local fd00:9::2 as 65001; neighbor fd00:9::1 as {ASN}; direct; bfd on; connect delay time 1;
          ipv6 {{ import all; export all; }}; }}
        protocol bgp two {{ local fe80::2 as 65002; neighbor fe80::1 % 'ens1' as {ASN}; direct; bfd on;
          connect delay time 1; ipv6 {{ import all; export all; }}; }}
        """,
        "10.9.0.2",
    )
    node_ns.address("ens1", "fe80::1/64")
    bgpd = Bgpd(
        node_ns,
        "worker1",
        {
            "nodes": [node("worker1", None, "fd00:9::1/64")],
            "settings": [bgp_configuration(ASN, mesh=False)],
            "peers": [
                bgp_peer("one", "fd00:9::2", 65001, sourceAddress="None"),
                bgp_peer("two", "fe80::2%ens1", 65002, sourceAddress="None"),
            ],
        },
        {"bgp": {"defaults": {"bfd": BFD}}},
    )
    bird.start()
    bgpd.start()
    bgpd.wait_established()

    def up() -> bool:
        sessions = bgpd.ctl("bfd")["sessions"]
        return len(sessions) == 2 and all(each["state"] == "up" for each in sessions)

    wait_until(up, 15, "both are up", report=net.report)
    assert {each["interface"] for each in bgpd.ctl("bfd")["sessions"]} == {"", "ens1"}
    assert bird.birdc("show bfd sessions").count(" Up ") == 2
