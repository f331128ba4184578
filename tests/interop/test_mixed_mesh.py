"""BIRD as Calico configures it and bgpd in one mesh: bgpd takes BIRD's place node by node, and no route differs.

The yardstick is the mesh in which every node runs BIRD with what confd renders (``confd``): each node's main table, as
``ip route`` prints it. What it must hold is written down too (``Mesh.expected``), so that the yardstick itself is
measured. Both ways of ranking routes are tried, Calico's before 3.32 and since; nobody announces bgpd which one it is.

What bgpd does otherwise on purpose is listed in ``DIFFERENCES``, and nothing else is left out of the comparison.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import pytest

from testing.daemons import Bgpd, Bird, Ended
from testing.namespaces import Monitor, Net, wait_until
from testing.resources import affinity, bgp_configuration, node, pool, resource
from tests.interop.confd import Style, Timers, bird_conf

ADDRESS = {"a": "10.0.1.9", "b": "10.0.1.10", "c": "10.0.1.20", "d": "10.0.1.100"}
"""Their order as texts is b, d, c, a, and of two nodes the later one dials; their order as numbers is another."""
ADDRESS6 = {name: f"fd00:1::{address.rpartition('.')[2]}" for name, address in ADDRESS.items()}
FIRST, SECOND = ("b", "c"), ("a", "d")
"""Who gets bgpd in the mixed mesh: b is dialled by all, c by one BIRD and dials the other. And who gets it then."""
HURRY = Timers(connect_delay=1, connect_retry=1, error_wait=(1, 2))

BLOCKS = {
    "10.48.0.0/26": "a",
    "10.48.0.64/26": "b",
    "10.48.0.128/26": "c",
    "10.48.0.192/26": "d",
    "10.48.1.0/26": "b",
    "fd48::/122": "a",
    "fd48::40/122": "b",
    "fd48::80/122": "c",
    "fd48::c0/122": "d",
}
SECRET = {"10.49.0.0/26": "b", "10.49.0.64/26": "d", "fd49::/122": "c"}
"""Of pools with disableBGPExport: kept as blackholes, announced to nobody."""
FELIX = {"10.51.0.0/26": "c", "10.51.0.64/26": "a"}
"""Of a VXLAN pool: announced, and in no kernel, since Felix writes its routes."""
SINGLE = {"10.50.0.1/32": "b", "10.50.0.2/32": "d"}
"""Blocks of one address, in use. Those that are not in use are advertised to nobody."""
UNUSED = {"10.50.0.3/32": "a", "10.50.0.4/32": "c"}
BORROWED = {
    "10.48.0.5": "b",
    "10.48.0.70": "c",
    "10.48.0.71": "a",
    "10.48.0.199": "a",
    "10.48.200.1": "d",
    "fd48::7": "c",
    "fd48::c7": "b",
    "fd48::f001": "d",
}
"""Addresses in use outside their node's blocks: in those of another, in nobody's."""
SHARED = {"10.48.200.9": ("b", "c"), "fd48::f009": ("b", "c")}
"""Addresses in use on two nodes: the others share traffic between them."""
TUNNEL = {"10.48.200.40": "d", "10.48.200.41": "c"}
"""Addresses of tunl0 outside their node's blocks. Since Felix writes IPIP's routes, they are not announced to internal
peers."""
OWN = {
    "10.48.0.1": "a",
    "10.48.0.65": "b",
    "10.48.0.130": "c",
    "10.48.0.194": "d",
    "10.48.3.5": "d",
    "10.49.0.1": "b",
    "10.49.0.65": "d",
    "10.50.0.1": "b",
    "10.50.0.2": "d",
    "10.51.0.1": "c",
    "fd48::1": "a",
    "fd48::c1": "d",
    "fd49::1": "c",
}
"""All other workloads."""
LEAVING, TWICE, VIA_GATEWAY, ON_LOOPBACK = "10.48.3.0/26", "10.48.4.0/26", "10.48.200.20", "10.48.200.30"
DIFFERENCES = {
    LEAVING: "a block that is being released: BIRD announces it, and the addresses in use as well; bgpd only these",
    TWICE: "two nodes have an affinity for one block: with BIRD both announce it and drop what is for the other; with "
    "bgpd the one that the IPAMBlock names",
    VIA_GATEWAY: "another's route inside a pool, over a gateway (Felix's own for no-encap pools): BIRD announces it to "
    "the mesh with that gateway as next hop; bgpd only where a BGPFilter accepts it",
    ON_LOOPBACK: "an address inside a pool on an interface that is neither a workload's nor a tunnel's: BIRD announces "
    "it; bgpd only with that interface in kernel.tunnel_interfaces, or where a BGPFilter accepts it",
}
"""What an all-bgpd mesh leaves out of the tables of an all-BIRD one, or writes otherwise, by prefix."""
CLUSTER = (
    resource(
        "BGPConfiguration",
        "default",
        {**bgp_configuration()["spec"], "serviceClusterIPs": [{"cidr": "10.96.0.0/16"}]},
    ),
    *(node(name, f"{ADDRESS[name]}/24", f"{ADDRESS6[name]}/64") for name in ADDRESS),
    pool("usual", "10.48.0.0/16"),
    pool("usual6", "fd48::/112"),
    pool("secret", "10.49.0.0/24", disableBGPExport=True),
    pool("secret6", "fd49::/112", disableBGPExport=True),
    pool("single", "10.50.0.0/28", 32),
    pool("felix", "10.51.0.0/24", vxlanMode="Always"),
    *(affinity(owner, cidr) for cidr, owner in {**BLOCKS, **SECRET, **FELIX, **SINGLE, **UNUSED}.items()),
    affinity("a", "10.48.2.0/26", "pending"),
    affinity("d", LEAVING, "pendingDeletion"),
    affinity("c", TWICE),
    affinity("d", TWICE),
    resource(
        "IPAMBlock",
        "10-48-4-0-26",
        {"cidr": TWICE, "affinity": "host:c", "allocations": [], "unallocated": [], "attributes": []},
    ),
)


def _blackhole(cidr: str) -> str:
    tail = " dev lo proto bird metric 1024 pref medium" if ":" in cidr else " proto bird"
    return f"blackhole {cidr}{tail}"


class Mesh:
    """Four nodes on one Ethernet with their workloads, and BIRD or bgpd on each. Felix's part is played here."""

    def __init__(self, net: Net, style: Style) -> None:
        self.net, self.style = net, style
        self.birds: dict[str, Bird] = {}
        self.bgpds: dict[str, Bgpd] = {}
        self.nodes, _ = net.hosts({name: [f"{ADDRESS[name]}/24", f"{ADDRESS6[name]}/64"] for name in ADDRESS})
        for made in self.nodes.values():
            for device in ("cali0", "tunl0"):  # veth, where the kernel may have no IPIP
                made.ip("link", "add", device, "type", "veth", "peer", "name", f"{device}-far")
                made.up(device)
                made.up(f"{device}-far")
            made.ip("route", "add", "default", "via", "10.0.1.1", "dev", "ens5")
        for address, where in {**BORROWED, **SHARED, **OWN}.items():
            for name in where:
                self.workload(name, address)
        for address, name in TUNNEL.items():
            self.nodes[name].address("tunl0", f"{address}/32")
        self.nodes["d"].address("lo", f"{ON_LOOPBACK}/32")
        self.nodes["d"].ip("route", "add", VIA_GATEWAY, "via", ADDRESS["a"], "dev", "ens5", "proto", "80")

    def workload(self, name: str, address: str, metric: int | None = None) -> None:
        """Felix's route to a workload, at the usual metric unless one is given."""
        if metric is None:
            metric = 1024 if self.style is Style.SINCE else 0
        self.nodes[name].ip(
            "route", "replace", address, "dev", "cali0", "scope", "link", "proto", "boot", "metric", metric
        )

    def no_workload(self, name: str, address: str, metric: int = 1024) -> None:
        """Felix's route goes."""
        self.nodes[name].ip("route", "delete", address, "dev", "cali0", "metric", metric)

    def start(self, birds: Iterable[str] = (), bgpds: Iterable[str] = ()) -> None:
        """A daemon on each of these nodes: BIRD as Calico starts it, bgpd with no word on the style."""
        for name in birds:
            text = bird_conf(CLUSTER, name, self.style, HURRY)
            self.birds[name] = Bird(self.nodes[name], text, ADDRESS[name]).start(recover=True)
        owner = {Style.BEFORE: "Enabled", Style.SINCE: "EnabledNoEncapOnly"}[self.style]  # Calico's defaults
        for name in bgpds:
            config = {"kernel": {"program_cluster_routes": owner}}
            self.bgpds[name] = Bgpd(self.nodes[name], name, {"cluster": CLUSTER}, config).start(wait=False)

    def take_over(self, *names: str) -> None:
        """bgpd in BIRD's place: BIRD ends without a word to its peers (docs/migrate.md), its routes stay."""
        for name in names:
            self.birds.pop(name).kill()
        self.start(bgpds=names)

    def tables(self) -> dict[str, list[str]]:
        """Every node's main table."""
        return {name: made.main_text() for name, made in self.nodes.items()}

    def announced(self) -> dict[str, tuple[str, ...]]:
        """Who announces what, as far as it comes into kernels."""
        known: dict[str, tuple[str, ...]] = {**SHARED, "10.48.3.5": ("d",), TWICE: ("c",)}
        tunnel = TUNNEL if self.style is Style.BEFORE else {}
        for prefix, owner in {**BLOCKS, **BORROWED, **tunnel}.items():
            known[prefix] = (owner,)
        for cidr, owner in SINGLE.items():
            known[cidr.removesuffix("/32")] = (owner,)
        if "d" in self.birds:
            known |= {TWICE: ("c", "d"), LEAVING: ("d",), ON_LOOPBACK: ("d",)}
        return known

    def expected(self, name: str) -> list[str]:
        """The routes of ours, BIRD's or bgpd's, that a node has, as ``ip route`` prints them."""
        owners = {**BLOCKS, **SECRET, LEAVING: "d"}
        holes = {cidr for cidr, owner in owners.items() if owner == name}
        holes |= {TWICE} if name == "c" or (name == "d" and "d" in self.birds) else set()
        found = [_blackhole(cidr) for cidr in holes]
        for prefix, by in self.announced().items():
            if name not in by and prefix not in holes:
                found.append(self.route(prefix, *by))
        if "d" in self.birds and name not in ("a", "d"):
            found.append(self.route(VIA_GATEWAY, "a"))
        return sorted(found)

    def route(self, prefix: str, *owners: str, metric: int = 1024) -> str:
        """A route to other nodes, as ``ip route`` prints it."""
        of = ADDRESS6 if ":" in prefix else ADDRESS
        ranked = f" metric {metric}" if self.style is Style.SINCE or ":" in prefix else ""
        tail = f"proto bird{ranked}{' pref medium' if ':' in prefix else ''}"
        if len(owners) == 1:
            return f"{prefix} via {of[owners[0]]} dev ens5 {tail}"
        return f"{prefix} {tail} " + " ".join(f"nexthop via {of[o]} dev ens5 weight 1" for o in owners)

    def settle(self, timeout: float = 30.0) -> dict[str, list[str]]:
        """Until every session is up, every start is over, and every node has the routes that it should; the tables."""
        self.wait(self.sessions_up, "all sessions", timeout)
        for name in self.nodes:
            self.wait(lambda name=name: self.has_expected(name), f"the routes of {name}")
        return self.tables()

    def wait(self, predicate: Callable[[], object], what: str, timeout: float = 15.0) -> None:
        wait_until(predicate, timeout, what, interval=0.05, report=self.net.report)

    def sessions_up(self) -> bool:
        """All sessions of all nodes, from both ends; every start is over, and nothing of before is waited for."""
        for daemon in (*self.bgpds.values(), *self.birds.values()):
            if not daemon.running:
                raise Ended(f"{daemon.name} ended:\n{daemon.log}")
        for bird in self.birds.values():
            assert bird.birdc("show protocols").count("Established") == 6, bird.birdc("show protocols")
            assert "recovery in progress" not in bird.birdc("show status"), bird.name
            assert "graceful restart active" not in bird.birdc("show protocols all"), bird.name
        for bgpd in self.bgpds.values():
            peers = bgpd.peers().values()
            assert len(peers) == 6 and bgpd.established(), bgpd.name
            assert not any(peer["graceful_restart_active"] for peer in peers), bgpd.name
            assert bgpd.status()["in_sync"], bgpd.name
        return True

    def has_expected(self, name: str) -> bool:
        found, wanted = self.ours(name), self.expected(name)
        missing, extra = [x for x in wanted if x not in found], [x for x in found if x not in wanted]
        assert found == wanted, f"missing {missing}, too many {extra}"
        return True

    def ours(self, name: str) -> list[str]:
        """The routes of proto bird that a node has."""
        return [line for line in self.nodes[name].main_text() if "proto bird" in line]


def is_different(line: str) -> bool:
    """Whether a line of ``ip route`` or ``ip monitor`` is about a prefix of ``DIFFERENCES``."""
    return not DIFFERENCES.keys().isdisjoint(line.split())


def compared(tables: dict[str, list[str]]) -> dict[str, list[str]]:
    """Tables without what is different on purpose."""
    return {name: [line for line in lines if not is_different(line)] for name, lines in tables.items()}


def assert_untouched(monitors: dict[str, Monitor], bgpds: Iterable[str]) -> None:
    """No node lost a route, and on nodes with bgpd none was as much as written again."""
    for name, monitor in monitors.items():
        seen = [line for line in monitor.stop() if not is_different(line)]
        # BIRD writes an IPv6 route again when it hears it again under another path identifier.
        assert not [line for line in seen if "Deleted" in line or name in bgpds], (name, seen)


def assert_dialled_rightly(mesh: Mesh, name: str) -> None:
    """Who is greater as text dials: the sessions to greater ones end at our port, all others at theirs."""
    own = ADDRESS[name], ADDRESS6[name]
    for family, address, of in zip((4, 6), own, (ADDRESS, ADDRESS6), strict=True):
        accepted = mesh.nodes[name].run("ss", f"-{family}Htn", "state", "established", "sport = :179").stdout
        assert {other for other in of.values() if other > address} == {
            other
            for other in of.values()
            if re.search(rf"[\s\[]{re.escape(other)}[\]:]+\d+\s*$", accepted, re.M)
        }


@pytest.mark.parametrize("style", [pytest.param(Style.BEFORE, marks=pytest.mark.long), Style.SINCE])
def test_bgpd_takes_the_place_of_bird(net: Net, style: Style) -> None:
    """All nodes with BIRD, then half of them with bgpd, then all: the same routes, and nobody touches one meanwhile."""
    mesh = Mesh(net, style)
    mesh.start(birds=ADDRESS)
    yardstick = mesh.settle()

    monitors = {name: made.monitor("route") for name, made in mesh.nodes.items()}
    mesh.take_over(*FIRST)
    assert mesh.settle() == yardstick
    assert_untouched(monitors, FIRST)
    for name in FIRST:
        assert_dialled_rightly(mesh, name)

    monitors = {name: made.monitor("route") for name, made in mesh.nodes.items()}
    mesh.take_over(*SECOND)
    tables = mesh.settle()
    assert compared(tables) == compared(yardstick)
    assert_untouched(monitors, ADDRESS)

    for made in mesh.nodes.values():  # until now they are BIRD's own writing
        for family in (4, 6):
            made.ip(f"-{family}", "route", "flush", "proto", "bird")
    assert mesh.settle() == tables


def test_half_and_half_from_nothing(net: Net) -> None:
    """No route is there when the daemons start; in the style since 3.32 the story below begins so."""
    mesh = Mesh(net, Style.BEFORE)
    mesh.start(bgpds=FIRST, birds=SECOND)
    mesh.settle()


MOVES = {
    "10.48.0.1": ("a", "b"),
    "fd48::1": ("a", "b"),
    "10.48.0.65": ("b", "d"),
    "10.50.0.1": ("b", "a"),
    "10.50.0.2": ("d", "b"),
    "10.48.200.1": ("d", "c"),
    "fd48::f001": ("d", "c"),
    "10.48.0.70": ("c", "a"),
    "fd48::7": ("c", "d"),
}
"""Workloads that move from home to another node, between BIRD and bgpd: addresses of the home's block, blocks of one
address, and borrowed ones."""


@pytest.mark.long
def test_workloads_take_their_addresses_with_them(net: Net) -> None:
    """Live migration and back: the metric that Felix gives the workload's new route, 512, decides on all nodes."""
    mesh = Mesh(net, Style.SINCE)
    mesh.start(bgpds=FIRST, birds=SECOND)
    before = mesh.settle()
    homes = {address: home for address, (home, _) in MOVES.items()}
    guests = {address: guest for address, (_, guest) in MOVES.items()}

    for old, new in ((homes, guests), (guests, homes)):
        for address, name in new.items():
            mesh.workload(name, address, 512)
        assert_all_lead(mesh, new, 512)
        for address, name in old.items():
            mesh.no_workload(name, address)
        assert_all_lead(mesh, new, 512)
        for address, name in new.items():
            mesh.workload(name, address)
            mesh.no_workload(name, address, 512)
        if new is guests:
            assert_all_lead(mesh, new, 1024)
    forget_old_metrics(mesh, "512")
    assert mesh.settle() == before


def assert_all_lead(mesh: Mesh, owners: dict[str, str], metric: int) -> None:
    """On all nodes the addresses lead to their owners; nodes with bgpd have no other route of ours to them."""
    for name in mesh.nodes:
        for address, owner in owners.items():
            if name != owner:
                wanted = mesh.route(address, owner, metric=metric)
                mesh.wait(lambda: wanted in mesh.ours(name), f"{name} has {wanted}")  # noqa: B023 (called at once)
    forget_old_metrics(mesh, "512" if metric == 1024 else "1024", owners)
    for name in mesh.nodes:
        for address, owner in owners.items():
            if name != owner:
                wanted = mesh.route(address, owner, metric=metric)
                assert [line for line in mesh.ours(name) if line.split()[0] == address] == [wanted]


def forget_old_metrics(mesh: Mesh, metric: str, owners: Iterable[str] = MOVES) -> None:
    """BIRD 2 leaves a route whose metric has changed; Calico's deletes it (``confd``)."""
    for name in mesh.birds:
        for line in mesh.ours(name):
            words = line.split()
            if words[0] in owners and f"metric {metric}" in line:
                family = "-6" if ":" in words[0] else "-4"
                mesh.nodes[name].ip(family, "route", "delete", words[0], "proto", "bird", "metric", metric)
