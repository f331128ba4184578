"""What a peer may announce and is sent, changed while routes flow: no session knows of it, and no packet is lost.

One node with three peers: an external BIRD and an external FRR, and an internal BIRD. Every story begins with the same
resources, and writes others; at its end the sessions must be those that there were, and the traffic of two routes that
nothing bears on must have gone on (one learned from BIRD, one that FRR learned of the node).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from testing.daemons import Bird
from testing.namespaces import Net, wait_until
from testing.resources import bgp_configuration, bgp_filter, bgp_peer, node, pool
from tests.interop.far import FarFrr
from tests.interop.suite import ASN, BLOCKS, BORROWED, OWN, Ground, hops, same, unmoved
from tests.netns.cluster import Ping, pod

SOON = 2.0
"""Seconds within which a change is everywhere."""
OUTER, INNER, FRR = "10.9.0.2", "10.9.0.4", "10.9.0.3"
OUTER_ASN, FRR_ASN = 65001, 65003
BLOCK, LONE = BLOCKS["ipv4"], BORROWED["ipv4"]
POD = "10.48.0.9"
INSIDE, OUTSIDE, KEPT = "10.48.2.0/26", "172.16.0.0/24", "192.168.7.0/24"
"""What the external BIRD announces: inside the pool, outside every pool, and what traffic goes to."""
SHARED = "192.168.8.0/24"
"""What BIRD and FRR both announce."""
Routes = Mapping[str, str]
"""Prefix -> attributes, as BIRD sets them."""
ROUTES: Routes = {
    KEPT: "",
    INSIDE: "bgp_community.add((65001, 7));",
    OUTSIDE: "bgp_large_community.add((65001, 7, 8));",
    SHARED: "",
    "fd48:0:0:2::/122": "",
    "fd07::/64": "",
}
PEERS: dict[str, tuple[str, int]] = {
    "outer4": (OUTER, OUTER_ASN),
    "outer6": ("fd09::2", OUTER_ASN),
    "frr4": (FRR, FRR_ASN),
    "frr6": ("fd09::3", FRR_ASN),
    "inner4": (INNER, ASN),
}


def bird_config(own: tuple[str, ...], asn: int, routes: Routes) -> str:
    parts = ["protocol device {}", "protocol direct { ipv4; ipv6; }"]
    for address in own:
        version = 6 if ":" in address else 4
        statics = (
            f"route {prefix} blackhole {{ {attributes} }};"
            for prefix, attributes in routes.items()
            if (":" in prefix) == (version == 6)
        )
        parts.append(f"protocol static s{version} {{ ipv{version}; {' '.join(statics)} }}")
        parts.append(
            f"protocol bgp v{version} {{ local {address} as {asn};"
            f" neighbor {'fd09::1' if version == 6 else '10.9.0.1'} as {ASN};"
            " connect delay time 1; connect retry time 1; error wait time 1, 2;"
            f" ipv{version} {{ import all; export where source = RTS_STATIC; next hop self; }}; }}"
        )
    return "\n".join(parts)


class World:
    """The node and its peers."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.far = FarFrr(net, 3, asn=FRR_ASN, node_asn=ASN, announced=[SHARED])
        self.ground = Ground(net, [self.far])
        self.node, self.bgpd = self.ground.node, self.ground.bgpd
        spaces = {name: net.namespace(name) for name in ("outer", "inner")}
        net.join(self.ground.switch, spaces["outer"], "port2", [f"{OUTER}/24", "fd09::2/64"])
        net.join(self.ground.switch, spaces["inner"], "port4", [f"{INNER}/24"])
        self.outer = Bird(spaces["outer"], bird_config((OUTER, "fd09::2"), OUTER_ASN, ROUTES), OUTER)
        self.inner = Bird(spaces["inner"], bird_config((INNER,), ASN, {}), INNER)
        self.node.ip("route", "add", "default", "via", "10.9.0.254", "dev", "ens5")
        self.pod = pod(self.node, POD)
        spaces["outer"].address("lo", "192.168.7.1/32")
        spaces["outer"].ip("route", "add", BLOCK, "via", "10.9.0.1")

    def start(self) -> None:
        self.outer.start()
        self.inner.start()
        self.base()
        self.ground.start()
        self.bgpd.wait_established()

    def base(self) -> None:
        """The resources that every story begins with, and the routes that BIRD announces then."""
        self.cluster()
        self.peers()
        self.filters()
        if self.outer.running:
            self.announce({})

    def announce(self, changes: Routes) -> None:
        self.outer.configure(bird_config((OUTER, "fd09::2"), OUTER_ASN, {**ROUTES, **changes}))

    def cluster(self, **spec: Any) -> None:
        self.bgpd.write(
            "cluster",
            bgp_configuration(ASN, **spec),
            node("worker1", "10.9.0.1/24", "fd09::1/64"),
            pool("ipv4", "10.48.0.0/16"),
            pool("ipv6", "fd48::/48"),
        )

    def peers(self, **specs: Mapping[str, Any]) -> None:
        """The BGPPeers, with more fields for some."""
        self.bgpd.write("peers", *(bgp_peer(name, *to, **specs.get(name, {})) for name, to in PEERS.items()))

    def filters(self, *filters: Mapping[str, Any]) -> None:
        self.bgpd.write("filters", *filters)

    def soon(self, predicate: Callable[[], object], what: str) -> None:
        wait_until(predicate, SOON, what, report=self.net.report)

    def sessions(self) -> dict[str, object]:
        """When each session came up and how often it went down, by everybody's account."""
        found: dict[str, object] = {
            name: (peer["state"], peer["since"], peer["flaps"], peer["notifications"])
            for name, peer in self.bgpd.peers().items()
        }
        found |= {f"outer {name}": self.outer.since(name) for name in ("v4", "v6")}
        found |= {f"frr {address}": self.far.daemon.sessions(address) for address in ("10.9.0.1", "fd09::1")}
        return found | {"inner": self.inner.since("v4")}

    def heard_by_outer(self) -> set[str]:
        return {*self.outer.heard("v4"), *self.outer.heard("v6")}

    def heard_by_frr(self) -> set[str]:
        """Without what it was sent of the routes of others."""
        return {*self.far.heard()}

    def at_outer(self, prefix: str, attribute: str) -> str:
        """An attribute of a route as BIRD has it; empty without."""
        (path,) = (path for path in self.outer.paths(prefix) if path["protocol"] in ("v4", "v6"))
        return path.get(attribute, "")

    def at_inner(self, prefix: str, attribute: str) -> str:
        (path,) = (path for path in self.inner.paths(prefix) if path["protocol"] == "v4")
        return path.get(attribute, "")

    def at_frr(self, prefix: str) -> dict[str, Any]:
        """A route as FRR has it of the node."""
        (path,) = (path for path in self.far.daemon.paths(prefix) if path["peer"]["peerId"] in PEER_IDS)
        return dict(path)

    def kernel(self) -> set[str]:
        return set(self.ground.kernel())

    def why(self, target: str) -> str:
        done = self.bgpd.bgpctl("why", target)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """What every story begins and ends with; see the module."""
        self.base()
        expected = OWN | {INSIDE, "fd48:0:0:2::/122"}
        self.soon(lambda: self.heard_by_frr() == expected and self.heard_by_outer() == OWN, "all is sent")
        self.soon(lambda: set(map(same, ROUTES)) <= self.kernel(), "all is in the kernel")
        sessions = unmoved(self.sessions())
        pings = [Ping(self.pod, "192.168.7.1", 0.01), Ping(self.far.namespace, POD, 0.01)]
        yield
        for ping in pings:
            sent, lost = ping.lost()
            assert sent and not lost
        assert self.sessions() == sessions


PEER_IDS = ("10.9.0.1", "fd09::1")


def export_filters(world: World) -> None:
    """A peer gets one, it is edited, another joins it, all go: this peer alone is sent something else, and at once."""
    hosts = {
        "cidr": "10.48.0.0/16",
        "matchOperator": "In",
        "prefixLength": {"min": 32, "max": 32},
        "action": "Reject",
    }
    world.peers(outer4={"filters": ["to-outer"]}, outer6={"filters": ["to-outer"]})
    world.filters(bgp_filter("to-outer", exportV4=[hosts]))
    world.soon(lambda: world.heard_by_outer() == OWN - {LONE}, "no host routes of IPv4")
    assert LONE in world.heard_by_frr()
    assert "to-outer exportV4[0]" in world.why(LONE)

    # More rules: a route that the built-in rules never let out, and one that is changed on its way.
    marks: list[dict[str, Any]] = [
        {"addCommunity": {"value": "65000:5"}},
        {"addCommunity": {"value": "64512:1:2"}},
        {"prependASPath": {"prefix": [64900, 64901]}},
    ]
    rules = [
        hosts,
        {"cidr": BLOCK, "matchOperator": "Equal", "action": "Accept", "operations": marks},
        {"cidr": "10.9.0.0/24", "matchOperator": "Equal", "interface": "ens*", "action": "Accept"},
    ]
    world.filters(
        bgp_filter(
            "to-outer",
            exportV4=rules,
            exportV6=[{"cidr": "fd48::/48", "matchOperator": "NotEqual", "action": "Reject"}],
        )
    )
    world.soon(lambda: world.heard_by_outer() == {BLOCK, "10.9.0.0/24"}, "the subnet, and no IPv6")
    world.soon(lambda: world.at_outer(BLOCK, "as_path") == "64512 64900 64901", "prepended")
    assert world.at_outer(BLOCK, "community") == "(65000,5)"
    assert world.at_outer(BLOCK, "large_community") == "(64512, 1, 2)"
    assert world.at_outer("10.9.0.0/24", "next_hop") == "10.9.0.1"
    assert world.at_frr(BLOCK)["aspath"]["string"] == "64512" and "community" not in world.at_frr(BLOCK)
    assert "to-outer exportV4[1]" in world.why(BLOCK)

    # Two filters, one of which does not exist yet: skipped, and reported.
    world.peers(outer4={"filters": ["absent", "to-outer"]})
    world.soon(lambda: world.heard_by_outer() == {*OWN, "10.9.0.0/24"} - {LONE}, "IPv6 again")

    def reported_missing() -> bool:
        return any("absent" in problem["message"] for problem in world.bgpd.status()["problems"])

    world.soon(reported_missing, "it is missing")
    first = bgp_filter("absent", exportV4=[{"cidr": LONE, "matchOperator": "Equal", "action": "Accept"}])
    world.filters(first, bgp_filter("to-outer", exportV4=rules))
    world.soon(lambda: LONE in world.heard_by_outer(), "the first filter that matches has the word")
    world.soon(lambda: not reported_missing(), "and is no problem any more")
    world.peers()
    world.soon(lambda: world.heard_by_outer() == OWN, "all, and nothing more")
    world.soon(lambda: world.at_outer(BLOCK, "as_path") == "64512", "as it is")
    assert world.at_outer(BLOCK, "community") == world.at_outer(BLOCK, "large_community") == ""


def import_filters(world: World) -> None:
    """The same of what a peer announces: in the kernel, and for those that are sent it."""
    world.filters(
        bgp_filter(
            "from-outer",
            importV4=[
                {"communities": {"values": ["65001:7"]}, "action": "Reject"},
                {"communities": {"values": ["65001:7:8"]}, "peerType": "eBGP", "action": "Reject"},
            ],
            importV6=[{"cidr": "::/0", "matchOperator": "In", "action": "Reject"}],
        )
    )
    world.peers(outer4={"filters": ["from-outer"]}, outer6={"filters": ["from-outer"]})
    gone = {INSIDE, OUTSIDE, "fd48:0:0:2::/122", "fd07::/64"}
    world.soon(lambda: not gone & world.kernel() and {KEPT, SHARED} <= world.kernel(), "four are refused")
    world.soon(lambda: world.heard_by_frr() == OWN, "and not passed on")
    assert "from-outer importV4[0]" in world.why(INSIDE) and "from-outer importV4[1]" in world.why(OUTSIDE)
    counts = world.bgpd.peers()["Global_10_9_0_2"]["counts"]["ipv4"]
    assert (counts["received"], counts["accepted"]) == (4, 2)
    # What is refused is kept: another word of the peer is weighed as it comes.
    world.announce({OUTSIDE: ""})
    world.soon(lambda: OUTSIDE in world.kernel(), "without the community it is taken")
    world.announce({OUTSIDE: "bgp_community.add((65001, 7));"})
    world.soon(lambda: OUTSIDE not in world.kernel(), "with it, not")

    # Accepted, and altered: whoever is sent it hears it so. The ways to one prefix are ranked by it.
    marks = [{"addCommunity": {"value": "64512:77"}}, {"setPriority": {"value": 2147483447}}]
    operations = [*marks, {"prependASPath": {"prefix": [65001, 65001]}}]
    rule = {
        "source": "RemotePeers",
        "asPathPrefix": [OUTER_ASN],
        "action": "Accept",
        "operations": operations,
    }
    world.filters(bgp_filter("from-outer", importV4=[rule]))
    world.soon(lambda: {OUTSIDE, "fd07::/64"} <= world.kernel(), "all are accepted")
    world.soon(lambda: world.heard_by_frr() == OWN | {INSIDE, "fd48:0:0:2::/122"}, "and passed on")
    world.soon(lambda: world.at_frr(INSIDE)["aspath"]["string"] == "64512 65001 65001 65001", "prepended")
    assert world.at_frr(INSIDE)["community"]["string"] == "64512:77 65001:7"
    world.soon(lambda: world.at_inner(INSIDE, "local_pref") == "200", "its priority as LOCAL_PREF")
    world.soon(lambda: hops(world.ground.kernel()[SHARED]) == {OUTER}, "above FRR's")
    world.filters()
    world.soon(lambda: hops(world.ground.kernel()[SHARED]) == {OUTER, FRR}, "as good as FRR's")
    world.soon(lambda: world.at_frr(INSIDE)["aspath"]["string"] == "64512 65001", "as it came")


def next_hops(world: World) -> None:
    """``nextHopMode`` of an external and of an internal peer, and ``keepOriginalNextHop``."""

    def both(frr: str, inner: str) -> None:
        world.soon(lambda: world.at_frr(INSIDE)["nexthops"][0]["ip"] == frr, f"FRR's is {frr}")
        world.soon(lambda: world.at_inner(INSIDE, "next_hop") == inner, f"the internal one's is {inner}")
        assert world.at_frr(BLOCK)["nexthops"][0]["ip"] == world.at_inner(BLOCK, "next_hop") == "10.9.0.1"

    here = "10.9.0.1"
    both(OUTER, OUTER)  # all on one LAN
    world.peers(frr4={"nextHopMode": "Self"})
    both(here, OUTER)
    world.peers(frr4={"nextHopMode": "Keep"}, inner4={"nextHopMode": "Self"})
    both(OUTER, here)
    world.peers(frr4={"nextHopMode": "Self"}, inner4={"nextHopMode": "Keep"})
    both(here, OUTER)
    world.peers(frr4={"keepOriginalNextHop": True}, inner4={"keepOriginalNextHop": True})
    both(OUTER, OUTER)


def prefix_advertisements(world: World) -> None:
    """Communities of a CIDR, standard and large, by name and not; the node's own list replaces the cluster's."""

    def texts(prefix: str) -> tuple[str, str, str, str]:
        path = world.at_frr(prefix)
        return (
            world.at_outer(prefix, "community"),
            world.at_outer(prefix, "large_community"),
            path.get("community", {}).get("string", ""),
            path.get("largeCommunity", {}).get("string", ""),
        )

    named = {"communities": [{"name": "blue", "value": "64512:300"}]}
    both = [{"cidr": "10.48.0.0/24", "communities": ["blue", "64512:1:4294967295"]}]
    world.cluster(**named, prefixAdvertisements=both)
    marked = ("(64512,300)", "(64512, 1, 4294967295)", "64512:300", "64512:1:4294967295")
    for prefix in (BLOCK, LONE):
        world.soon(lambda prefix=prefix: texts(prefix) == marked, f"{prefix} has both")  # type: ignore[misc]
    assert texts(BLOCKS["ipv6"]) == ("", "", "", "")
    assert world.at_frr(INSIDE)["community"]["string"] == "65001:7", "outside the CIDR: as it came"
    assert world.at_inner(BLOCK, "community") == "(64512,300)"

    world.cluster(**named, prefixAdvertisements=[{"cidr": LONE, "communities": ["64512:4"]}])
    world.soon(lambda: texts(LONE) == ("(64512,4)", "", "64512:4", ""), "another one")
    world.soon(lambda: texts(BLOCK) == ("", "", "", ""), "none")
    own = {"cidr": "fd48::/48", "communities": ["64512:6:6"]}
    world.bgpd.write(
        "own",
        {
            "apiVersion": "projectcalico.org/v3",
            "kind": "BGPConfiguration",
            "metadata": {"name": "node.worker1"},
            "spec": {"prefixAdvertisements": [own]},
        },
    )
    six = BLOCKS["ipv6"]
    world.soon(lambda: texts(six) == ("", "(64512, 6, 6)", "", "64512:6:6"), "the node's own")
    world.soon(lambda: texts(LONE) == ("", "", "", ""), "instead of the cluster's")
    world.bgpd.remove("own")
    world.soon(lambda: texts(LONE) == ("(64512,4)", "", "64512:4", ""), "the cluster's again")


def well_known_communities(world: World) -> None:
    """no-export, no-advertise and no-peer are honoured; GRACEFUL_SHUTDOWN makes a way the last one, and stays."""
    assert world.at_inner(INSIDE, "community") == "(65001,7)"
    for value, inside in (("65535, 65281", True), ("65535, 65284", True), ("65535, 65282", False)):
        world.announce({INSIDE: f"bgp_community.add(({value}));"})
        world.soon(
            lambda: INSIDE not in world.heard_by_frr(), f"with {value} it is not advertised to external peers"
        )
        world.soon(lambda inside=inside: (INSIDE in world.inner.heard("v4")) is inside, value)  # type: ignore[misc]
        assert INSIDE in world.kernel()
    assert "no-advertise" in world.why(INSIDE)

    world.announce({})
    world.soon(lambda: hops(world.ground.kernel()[SHARED]) == {OUTER, FRR}, "two ways")
    world.announce(dict.fromkeys((SHARED, INSIDE, KEPT), "bgp_community.add((65535, 0));"))
    world.soon(lambda: hops(world.ground.kernel()[SHARED]) == {FRR}, "the other way")
    world.soon(lambda: world.at_inner(INSIDE, "local_pref") == "0", "internal peers hear it")
    assert world.at_inner(INSIDE, "community") == "(65535,0)"
    world.soon(lambda: "community" in world.at_frr(INSIDE), "external ones too")
    assert "gracefulShutdown" in world.at_frr(INSIDE)["community"]["list"]
    assert hops(world.ground.kernel()[KEPT]) == {OUTER}, "the only way stays one"


def own_as_on_the_path(world: World) -> None:
    """``numAllowedLocalASNumbers``: as often as it says, our AS may be on the path."""
    world.announce({OUTSIDE: f"bgp_path.prepend({ASN});"})
    world.soon(lambda: OUTSIDE not in world.kernel(), "a loop")
    assert "our own AS" in world.why(OUTSIDE)
    world.peers(outer4={"numAllowedLocalASNumbers": 1})
    world.soon(lambda: OUTSIDE in world.kernel(), "once is allowed")
    world.announce({OUTSIDE: f"bgp_path.prepend({ASN}); bgp_path.prepend({ASN});"})
    world.soon(lambda: OUTSIDE not in world.kernel(), "twice is not")
    world.peers(outer4={"numAllowedLocalASNumbers": 2})
    world.soon(lambda: OUTSIDE in world.kernel(), "twice is allowed")


@pytest.mark.long
def test_changes_while_routes_flow(net: Net) -> None:
    world = World(net)
    world.start()
    for story in (
        export_filters,
        import_filters,
        next_hops,
        prefix_advertisements,
        well_known_communities,
        own_as_on_the_path,
    ):
        with world.undisturbed():
            story(world)
