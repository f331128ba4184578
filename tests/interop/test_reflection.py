"""A pair of route reflectors (RFC 4456) with clients of three kinds: BIRD, FRR and bgpd; no mesh.

The reflectors are bgpd nodes with a RouteReflectorClusterID; one BGPPeer makes the clients peer with them, another the
two with each other. Every node has a block of each family; the bgpd client has borrowed an address of the first
reflector's block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from testing.daemons import Bgpd, Bird, Daemon, Frr
from testing.namespaces import Net, steady, wait_until
from testing.resources import affinity, bgp_configuration, node, pool, resource
from tests.interop.suite import unmoved
from tests.netns.cluster import Ping, pod

ASN = 64512
NUMBERS = {"rr1": 1, "rr2": 2, "bird1": 3, "bird2": 4, "worker": 5, "frr": 6}
REFLECTORS, CLIENTS = ("rr1", "rr2"), ("bird1", "bird2", "worker", "frr")
ID, OTHER_ID = "10.9.255.1", "10.9.255.2"
BORROWED = "10.48.1.7"
"""Of rr1's block; the bgpd client has it."""
BORROWER = "10.9.0.5"


def ipv4(name: str) -> str:
    return f"10.9.0.{NUMBERS[name]}"


def ipv6(name: str) -> str:
    return f"fd09::{NUMBERS[name]}"


def block(name: str) -> str:
    return f"10.48.{NUMBERS[name]}.0/26"


def block6(name: str) -> str:
    return f"fd48:0:0:{NUMBERS[name]}::/122"


def cluster(second_id: str = ID) -> list[dict[str, Any]]:
    """The resources; the second reflector is of the first one's cluster, or of one of its own."""
    ids = {"rr1": ID, "rr2": second_id}
    nodes = [
        node(
            name,
            f"{ipv4(name)}/24",
            f"{ipv6(name)}/64",
            labels={"reflector": "yes"} if name in ids else {},
            cluster_id=ids.get(name),
        )
        for name in NUMBERS
    ]
    peers = {"clients": "!has(reflector)", "pair": "has(reflector)"}
    return [
        bgp_configuration(ASN, mesh=False),
        pool("ipv4", "10.48.0.0/16"),
        pool("ipv6", "fd48::/48"),
        *nodes,
        *(
            resource("BGPPeer", name, {"nodeSelector": selector, "peerSelector": "has(reflector)"})
            for name, selector in peers.items()
        ),
    ]


def bird_config(name: str, options: str = "") -> str:
    """A client; its routes go into its kernel. Timers as short as BIRD has them."""
    parts = ["protocol device {}", "protocol direct { ipv4; ipv6; }"]
    for family, of, own in (("ipv4", ipv4, block(name)), ("ipv6", ipv6, block6(name))):
        parts += [
            f"protocol kernel k{family} {{ {family} {{ export where source = RTS_BGP; }}; }}",
            f"protocol static s{family} {{ {family}; route {own} blackhole; }}",
        ]
        parts += [
            f"protocol bgp {reflector}_{family} {{ local {of(name)} as {ASN}; neighbor {of(reflector)} as {ASN};"
            " connect delay time 1; connect retry time 1; error wait time 1, 2; graceful restart on;"
            f" {family} {{ import all; export where source = RTS_STATIC; next hop self; {options} }}; }}"
            for reflector in REFLECTORS
        ]
    return "\n".join(parts)


def frr_config() -> str:
    lines = [f"router bgp {ASN}", f" bgp router-id {ipv4('frr')}", " no bgp network import-check"]
    for reflector in REFLECTORS:
        for neighbor in (ipv4(reflector), ipv6(reflector)):
            lines += [f" neighbor {neighbor} remote-as {ASN}", f" neighbor {neighbor} timers connect 1"]
    lines += [" address-family ipv4 unicast", f"  network {block('frr')}", " exit-address-family"]
    lines += [" address-family ipv6 unicast", f"  network {block6('frr')}"]
    lines += [f"  neighbor {ipv6(reflector)} activate" for reflector in REFLECTORS]
    return "\n".join([*lines, " exit-address-family"])


class Ground:
    """The reflectors, their clients, and a pod behind two of these."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.nodes, _ = net.hosts({name: [f"{ipv4(name)}/24", f"{ipv6(name)}/64"] for name in NUMBERS})
        blocks = [affinity(name, of(name)) for name in NUMBERS for of in (block, block6)]
        self.bgpds = {
            name: Bgpd(
                self.nodes[name],
                name,
                {"cluster": cluster(), "blocks": blocks},
                config={"bgp": {"defaults": {"strict_cluster_list": True}}},
            )
            for name in (*REFLECTORS, "worker")
        }
        self.bird1 = Bird(self.nodes["bird1"], bird_config("bird1"), ipv4("bird1"))
        self.bird2 = Bird(self.nodes["bird2"], bird_config("bird2", "add paths on;"), ipv4("bird2"))
        self.frr = Frr(self.nodes["frr"], frr_config())
        for name in ("bird1", "worker"):
            self.nodes[name].ip("route", "add", "default", "via", "10.9.0.254", "dev", "ens5")
        self.near = pod(self.nodes["bird1"], "10.48.3.5")
        self.far = pod(self.nodes["worker"], BORROWED)

    def start(self) -> None:
        """Starts all; until every client has heard all that there is."""
        everyone: list[Daemon] = [self.bird1, self.bird2, self.frr, *self.bgpds.values()]
        for daemon in everyone:
            if isinstance(daemon, Bgpd):
                daemon.start(wait=False)
            else:
                daemon.start()  # type: ignore[attr-defined]
        for bgpd in self.bgpds.values():
            bgpd.wait_in_sync()
            bgpd.wait_established()
        self.until(self.whole, "all blocks reach all nodes", 10)

    def until(self, predicate: Callable[[], object], what: str, timeout: float = 5) -> None:
        wait_until(predicate, timeout, what, report=self.net.report)

    def write(self, *objects: dict[str, Any]) -> None:
        for bgpd in self.bgpds.values():
            bgpd.write("cluster", *objects)

    def gateways(self, name: str) -> dict[str, str]:
        """Where a node's kernel leads each prefix that was learned by BGP, of both families."""
        proto = "bgp" if name == "frr" else "bird"
        routes = {**self.nodes[name].routes(4, proto), **self.nodes[name].routes(6, proto)}
        return {prefix: route["gateway"] for prefix, route in routes.items() if "gateway" in route}

    def expected(self, name: str) -> dict[str, str]:
        """``gateways``, as they must be: straight to the node that has a block or borrowed an address."""
        others = [other for other in NUMBERS if other != name]
        found = {block(other): ipv4(other) for other in others}
        found |= {block6(other): ipv6(other) for other in others}
        return found | ({} if name == "worker" else {BORROWED: BORROWER})

    def whole(self, names: Iterable[str] = NUMBERS) -> bool:
        for name in names:
            found, wanted = self.gateways(name), self.expected(name)
            assert found == wanted, f"{name}: {sorted(found.items() ^ wanted.items())}"
        return True

    def since(self) -> dict[str, object]:
        """When each session came up, by everybody's account; FRR counts them."""
        found: dict[str, object] = {
            f"{name} {peer}": status["since"]
            for name, bgpd in self.bgpds.items()
            for peer, status in bgpd.peers().items()
        }
        for bird in (self.bird1, self.bird2):
            found |= {f"{bird.name} {rr}": bird.since(f"{rr}_ipv4") for rr in REFLECTORS}
        return found | {f"frr {rr}": self.frr.sessions(ipv4(rr)) for rr in REFLECTORS}

    def heard_in(self, name: str, prefix: str) -> dict[str, list[str]]:
        """What a bgpd node received of a prefix: the peer -> why each path of it is not best, empty for the best."""
        rows = self.bgpds[name].ctl("routes", table="in", prefix=prefix)["routes"]
        found: dict[str, list[str]] = {}
        for row in rows:
            found.setdefault(row["peer"], []).append(row["detail"])
        return found


def seen(paths: Iterable[dict[str, str]]) -> dict[str, tuple[str, str, str]]:
    """What BIRD says of the paths of a prefix: the reflector -> next hop, originator and clusters."""
    return {
        path["protocol"].partition("_")[0]: (path["next_hop"], path["originator_id"], path["cluster_list"])
        for path in paths
    }


def test_a_pair(net: Net) -> None:
    """All blocks reach all, next hops as they were; who announced it first and the clusters on the way are in the
    attributes; nothing goes in circles, as one cluster or as two, and no session is touched between these."""
    ground = Ground(net)
    ground.start()
    sessions = unmoved(ground.since())
    assert not any(
        any(peer["flaps"].values()) for bgpd in ground.bgpds.values() for peer in bgpd.peers().values()
    )

    # A client's block at another client: both reflectors say the same of it. Their own blocks each says itself.
    hop, originator = ipv4("bird2"), ipv4("bird2")
    assert seen(ground.bird1.paths(block("bird2"))) == dict.fromkeys(REFLECTORS, (hop, originator, ID))
    v6 = seen(ground.bird1.paths(block6("bird2")))
    assert v6 == dict.fromkeys(REFLECTORS, (ipv6("bird2"), originator, ID))
    ground.until(lambda: len(ground.frr.paths(block("bird2"))) == 2, "both ways at FRR")
    for path in ground.frr.paths(block("bird2")):
        assert path["originatorId"] == originator and path["clusterList"]["list"] == [ID]
        assert path["nexthops"][0]["ip"] == hop
    # One cluster: each reflector refuses what the other reflected, and passes on what the other says of itself.
    loops = ground.heard_in("rr1", block("bird2"))
    assert loops.keys() == {"Node_10_9_0_2", "Node_10_9_0_4"} and loops["Node_10_9_0_4"] == [""]
    assert all("cluster" in why for why in loops["Node_10_9_0_2"]), loops
    of_rr2 = {path["protocol"]: path for path in ground.bird1.paths(block("rr2"))}
    assert "originator_id" not in of_rr2["rr2_ipv4"] and "cluster_list" not in of_rr2["rr2_ipv4"]
    assert seen([of_rr2["rr1_ipv4"]]) == {"rr1": (ipv4("rr2"), ipv4("rr2"), ID)}

    answer = ground.bgpds["rr1"].bgpctl("why", block("bird2")).stdout
    assert "reflected to our client" in answer and "reflected from our client Node_10_9_0_4" in answer
    # The borrowed address: the owner of its block passes it on as well, so that nobody goes through the owner.
    assert seen(ground.bird1.paths(f"{BORROWED}/32")) == dict.fromkeys(REFLECTORS, (BORROWER, BORROWER, ID))
    ground.near.run("ping", "-c1", "-W5", BORROWED)

    # Two clusters: the pair are each other's clients, and what comes round is refused by the clusters on it.
    ground.write(*cluster(OTHER_ID))
    clusters = {"rr1": ID, "rr2": OTHER_ID}
    expected = {rr: (hop, originator, clusters[rr]) for rr in REFLECTORS}
    ground.until(lambda: seen(ground.bird1.paths(block("bird2"))) == expected, "each names its cluster", 3)

    def second_best() -> bool:
        reasons = ground.heard_in("rr1", block("bird2"))["Node_10_9_0_2"]
        return bool(reasons) and all(why and "cluster" not in why for why in reasons)

    ground.until(second_best, "what the other reflected is taken, and not best", 3)

    # With several paths a reflector passes on what the other reflected: longer by a cluster, and never to its next hop.
    def lengths() -> set[int]:
        answer = ground.bird2.paths(block("worker"))
        return {len(path["cluster_list"].split()) for path in answer}

    ground.until(lambda: lengths() == {1, 2}, "both ways, and both over the other reflector", 3)
    assert ground.heard_in("worker", block("worker")) == {}
    ground.whole()

    # What is withdrawn is gone everywhere at once: no reflector has it from the other.
    ground.bird2.birdc("disable sipv4")
    gone = block("bird2")
    ground.until(lambda: not any(gone in ground.gateways(name) for name in NUMBERS), "it is gone", 3)
    steady(lambda: not any(ground.heard_in(rr, gone) for rr in REFLECTORS), 0.3, "and stays so")
    ground.bird2.birdc("enable sipv4")
    ground.write(*cluster())
    ground.until(
        lambda: seen(ground.bird1.paths(gone)) == dict.fromkeys(REFLECTORS, (hop, originator, ID)), "one"
    )
    ground.until(ground.whole, "all as before", 3)
    assert ground.since() == sessions


@pytest.mark.long
def test_a_reflector_is_killed(net: Net) -> None:
    """kill -9: no client loses a route or a packet; also not when it comes back, and not when the other goes then."""
    ground = Ground(net)
    ground.start()
    ping = Ping(ground.near, BORROWED, 0.01)
    monitors = {name: ground.nodes[name].monitor() for name in ("bird1", "worker")}
    ground.bgpds["rr1"].kill()
    steady(lambda: ground.whole(CLIENTS), 1, "all routes of the clients stay")
    ground.bgpds["rr1"].start().wait_established()
    ground.bgpds["rr1"].wait_in_sync()
    ground.until(ground.whole, "all as before")
    ground.bgpds["rr2"].kill()
    steady(lambda: ground.whole(CLIENTS), 0.5, "all routes of the clients stay")
    sent, lost = ping.lost()
    assert sent > 100 and lost == 0
    for name, monitor in monitors.items():
        monitor.stop()
        assert not monitor.deleted, (name, monitor.deleted)
