"""What bgpd must do with any peer, over both families, internal and external: the tests that each peer inherits.

The node is AS 64512 at 10.9.0.1 and fd09::1 with one block of its own in each family, a workload inside it, and a
borrowed address of each family. The far ends (``far.py``) are at .2 and .3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import pytest

from testing.daemons import Bgpd, Heard
from testing.namespaces import Namespace, Net, steady, wait_until
from testing.resources import affinity, bgp_configuration, bgp_peer, node, pool
from tests.interop.far import FAMILIES, Far, family_of

ASN = 64512
BLOCKS = {"ipv4": "10.48.0.0/26", "ipv6": "fd48::/122"}
BORROWED = {"ipv4": "10.48.0.70/32", "ipv6": "fd48::70/128"}
OWN = {*BLOCKS.values(), *BORROWED.values()}
THEIRS = ("192.168.7.0/24", "10.48.1.0/26", "fd07::/64", "fd48:0:0:1::/122")
KINDS = pytest.mark.parametrize("asn", [ASN, 4200000001], ids=["ibgp", "ebgp"])


def same(prefix: str) -> str:
    """A prefix as ``ip route`` names it: a host route without its length."""
    return prefix.removesuffix("/32").removesuffix("/128")


class Ground:
    """A node and the LAN it shares with the far ends."""

    def __init__(
        self, net: Net, fars: Iterable[Far], *, config: dict[str, Any] | None = None, **asn_of: int
    ) -> None:
        self.net = net
        self.fars = list(fars)
        self.node: Namespace = net.namespace("node")
        self.switch = net.lan(
            {self.node: ["10.9.0.1/24", "fd09::1/64"], **{far.namespace: far.lan for far in self.fars}}
        )
        self.workload("cali1", "10.48.0.5", "fd48::5")
        self.workload("cali2", *(same(prefix) for prefix in BORROWED.values()))
        peers = [
            bgp_peer(
                f"far-{family}-{far.own(family).rsplit('.')[-1].replace(':', '')}",
                far.address(family),
                far.asn,
            )
            for far in self.fars
            for family in (FAMILIES[:1] if far.dual else FAMILIES)
        ]
        self.bgpd = Bgpd(
            self.node,
            "worker1",
            {
                "cluster": [
                    bgp_configuration(ASN),
                    node("worker1", "10.9.0.1/24", "fd09::1/64"),
                    pool("ipv4", "10.48.0.0/16"),
                    pool("ipv6", "fd48::/48"),
                ],
                "blocks": [affinity("worker1", block) for block in BLOCKS.values()],
                "peers": peers,
            },
            config,
        )

    def workload(self, device: str, *addresses: str) -> None:
        """A workload's end on the node, with host routes to it."""
        self.node.ip("link", "add", device, "type", "veth", "peer", "name", f"p{device}")
        self.node.up(device)
        self.node.up(f"p{device}")
        for address in addresses:
            family = "-6" if ":" in address else "-4"
            self.node.ip(family, "route", "add", address, "dev", device, "scope", "link", "proto", "boot")

    def start(self) -> None:
        """Starts all, the far ends first; until every session is up."""
        for far in self.fars:
            far.start()
        self.bgpd.start()
        self.bgpd.wait_established(*(peer for far in self.fars for peer in far.peers))

    def kernel(self) -> dict[str, dict[str, Any]]:
        """Our routes in the kernel, of both families."""
        return {**self.bgpd.routes(4), **self.bgpd.routes(6)}

    def wait_kernel(self, *prefixes: str, without: Iterable[str] = (), timeout: float = 10.0) -> None:
        """Until the kernel has these routes of ours, and not those."""
        gone = set(map(same, without))

        def there() -> bool:
            found = self.kernel().keys()
            assert set(map(same, prefixes)) <= found and not gone & found, sorted(found)
            return True

        wait_until(there, timeout, f"kernel with {prefixes}, without {sorted(gone)}", report=self.net.report)

    def wait_heard(self, far: Far, prefixes: Iterable[str], timeout: float = 10.0) -> dict[str, Heard]:
        """Until a far end has heard exactly these."""
        wanted = set(prefixes)

        def exactly() -> dict[str, Heard]:
            heard = far.heard()
            assert heard.keys() == wanted, sorted(heard)
            return heard

        return wait_until(exactly, timeout, f"{far.kind} heard {sorted(wanted)}", report=self.net.report)


def hops(route: dict[str, Any]) -> set[str]:
    """The gateways of a kernel route."""
    legs = route.get("nexthops", [route])
    return {leg.get("gateway") or leg.get("via", {}).get("host", "") for leg in legs}


def unmoved(sessions: Mapping[str, object]) -> dict[str, object]:
    """When sessions came up, to compare with: who says that may be a little off, a new session is not so fast."""
    return {
        name: pytest.approx(since, abs=0.1) if isinstance(since, float) else since
        for name, since in sessions.items()
    }


class Interop:
    """The tests; a subclass names its peer and another to share traffic with."""

    far: ClassVar[type[Far]]
    other: ClassVar[type[Far]]

    def one(self, net: Net, asn: int, **options: Any) -> tuple[Ground, Far]:
        """A ground with one far end."""
        config = options.pop("config", None)
        far = self.far(net, 2, asn=asn, node_asn=ASN, **options)
        return Ground(net, [far], config=config), far

    @KINDS
    def test_routes_both_ways(self, net: Net, asn: int) -> None:
        ground, far = self.one(net, asn, announced=THEIRS)
        ground.start()
        heard = ground.wait_heard(far, OWN)
        for prefix, route in heard.items():
            expected = "" if asn == ASN else str(ASN)
            assert route.next_hop == {"ipv4": "10.9.0.1", "ipv6": "fd09::1"}[family_of(prefix)], prefix
            assert route.as_path == expected, prefix
            if asn == ASN:
                assert route.local_pref == 100, prefix
        ground.wait_kernel(*THEIRS, *BLOCKS.values(), without=BORROWED.values())
        for prefix in THEIRS:
            assert hops(ground.kernel()[prefix]) == {far.own(family_of(prefix))}
        ground.bgpd.wait_in_sync()

        # Theirs go, ours go and come.
        for prefix in THEIRS[1::2]:
            far.withdraw(prefix)
        ground.wait_kernel(*THEIRS[::2], without=THEIRS[1::2])
        for prefix in BORROWED.values():
            ground.node.ip(f"-{6 if ':' in prefix else 4}", "route", "delete", prefix)
        ground.wait_heard(far, BLOCKS.values())
        ground.bgpd.write("blocks", affinity("worker1", BLOCKS["ipv4"]))
        ground.wait_heard(far, [BLOCKS["ipv4"], "fd48::5/128"])  # its workload is inside no own block now
        ground.wait_kernel(BLOCKS["ipv4"], without=[BLOCKS["ipv6"]])
        ground.bgpd.write("blocks", *(affinity("worker1", block) for block in BLOCKS.values()))
        ground.wait_heard(far, BLOCKS.values())
        assert not any(
            peer["flaps"].get(reason) for peer in ground.bgpd.peers().values() for reason in peer["flaps"]
        )

    @KINDS
    def test_both_families_on_one_session(self, net: Net, asn: int) -> None:
        config = {"bgp": {"peers": {"10.9.0.2": {"families": ["ipv4", "ipv6"]}}}}
        ground, far = self.one(net, asn, announced=THEIRS, dual=True, config=config)
        ground.start()
        heard = ground.wait_heard(far, OWN)
        assert heard[BLOCKS["ipv6"]].next_hop == "fd09::1"
        ground.wait_kernel(*THEIRS)
        assert hops(ground.kernel()["fd07::/64"]) == {"fd09::2"}
        assert len(ground.bgpd.peers()) == 1

    @KINDS
    def test_ecmp_over_two_peers_is_one_route(self, net: Net, asn: int) -> None:
        shared = ("192.168.7.0/24", "fd07::/64")
        fars = [
            kind(net, n, asn=asn, node_asn=ASN, announced=shared)
            for n, kind in ((2, self.far), (3, self.other))
        ]
        ground = Ground(net, fars)
        ground.start()
        wait_until(
            lambda: all(
                hops(ground.kernel()[prefix]) == {far.own(family_of(prefix)) for far in fars}
                for prefix in shared
            ),
            what="one multipath route over both",
            report=net.report,
        )
        assert [line.split()[0] for line in ground.node.route_text(4)].count(shared[0]) == 1
        for far, prefix in zip(fars, shared, strict=True):
            far.withdraw(prefix)
        wait_until(
            lambda: (
                hops(ground.kernel()[shared[0]]) == {fars[1].ipv4}
                and hops(ground.kernel()[shared[1]]) == {fars[0].ipv6}
            ),
            what="one hop each left",
            report=net.report,
        )

    @KINDS
    def test_peer_restarts(self, net: Net, asn: int) -> None:
        """It crashes: its routes stay in our kernel. It returns with some of them: at its End-of-RIB the rest go."""
        ground, far = self.one(net, asn, announced=THEIRS)
        ground.start()
        ground.wait_kernel(*THEIRS)
        ground.wait_heard(far, OWN)
        monitor = ground.node.monitor()
        far.kill()
        ground.bgpd.wait(lambda: not ground.bgpd.established(far.peers[0]), "the session is down")
        assert all(peer["graceful_restart_active"] for peer in ground.bgpd.peers().values())
        ground.wait_kernel(*THEIRS)
        stale = [row["prefix"] for row in ground.bgpd.ctl("routes", table="in")["routes"] if row["stale"]]
        assert set(THEIRS) <= set(
            stale
        )  # FRR announces our own routes to us too, which we heard and did not use
        gone = THEIRS[::3]
        for prefix in gone:
            far.withdraw(prefix)
        far.start(recover=True)
        ground.bgpd.wait_established(*far.peers)
        ground.wait_kernel(*(set(THEIRS) - set(gone)), without=gone, timeout=20)
        ground.wait_heard(far, OWN)
        deleted = {line.split()[1] for line in monitor.stop() if line.startswith("Deleted")}
        assert deleted == set(gone)

    @KINDS
    def test_we_restart(self, net: Net, asn: int) -> None:
        """We crash: what we announced stays there. We return without one block: at our End-of-RIB it goes, nothing
        else."""
        ground, far = self.one(net, asn, announced=THEIRS)
        ground.start()
        ground.wait_kernel(*THEIRS)
        ground.wait_heard(far, OWN)
        ground.bgpd.wait_in_sync()
        monitor = ground.node.monitor()
        assert not far.saw_restart()
        ground.bgpd.kill()
        wait_until(lambda: not far.established(), what="the peer sees it", report=net.report)
        steady(lambda: far.heard().keys() == OWN, 0.5, "it keeps what we announced")
        ground.bgpd.write("blocks", affinity("worker1", BLOCKS["ipv6"]))
        ground.bgpd.start()
        ground.wait_heard(far, {*OWN, "10.48.0.5/32"} - {BLOCKS["ipv4"]}, timeout=20)
        assert far.saw_restart()
        ground.bgpd.wait_in_sync()
        ground.wait_kernel(BLOCKS["ipv6"], *THEIRS, without=[BLOCKS["ipv4"]])
        assert [line for line in monitor.stop() if line.startswith("Deleted")] == [
            f"Deleted blackhole {BLOCKS['ipv4']} proto bird"
        ]

    def test_sigterm_is_no_goodbye(self, net: Net) -> None:
        """A stop leaves our routes in the kernel and, since no NOTIFICATION is sent, with the peer."""
        ground, far = self.one(net, 65001, announced=THEIRS)
        ground.start()
        ground.wait_kernel(*THEIRS)
        ground.wait_heard(far, OWN)
        before = ground.kernel()
        assert ground.bgpd.stop() == 0
        wait_until(lambda: not far.established(), what="the peer sees it", report=net.report)
        steady(lambda: far.heard().keys() == OWN, 0.5, "it keeps what we announced")
        assert ground.kernel() == before

    def test_shutdown_enable_reset(self, net: Net) -> None:
        ground, far = self.one(net, 65001, announced=THEIRS)
        ground.start()
        ground.wait_kernel(*THEIRS)
        peer, other = far.peers
        done = ground.bgpd.bgpctl("peer", "shutdown", peer, "-m", "new cables in rack 7")
        assert done.returncode == 0, done.stderr
        wait_until(lambda: "new cables in rack 7" in far.last_words(), what="it reads why", report=net.report)
        ground.wait_kernel("fd07::/64", without=["192.168.7.0/24"])
        assert far.heard("ipv4") == {}
        assert ground.bgpd.established(other)

        # Over a restart too.
        ground.bgpd.restart()
        ground.bgpd.wait_established(other)
        status = ground.bgpd.peers()[peer]
        assert (status["state"], status["admin_up"]) == ("down", False)

        ground.bgpd.act("enable", peer)
        ground.bgpd.wait_established(peer)
        ground.wait_kernel(*THEIRS)
        ground.wait_heard(far, OWN)
        ground.bgpd.act("reset", peer)
        ground.bgpd.wait(lambda: ground.bgpd.peers()[peer]["flaps"]["admin"] == 1, "the session was reset")
        ground.bgpd.wait_established(peer)
        ground.wait_kernel(*THEIRS)
        assert not any(ground.bgpd.peers()[other]["flaps"].values())

    def test_route_refresh(self, net: Net) -> None:
        ground, far = self.one(net, 65001, announced=THEIRS)
        ground.start()
        ground.wait_kernel(*THEIRS)
        ground.wait_heard(far, OWN)
        peer = far.peers[0]
        before = ground.bgpd.peers()[peer]
        monitor = ground.node.monitor()

        ground.bgpd.act("soft-in", peer)
        ground.bgpd.wait(
            lambda: (
                ground.bgpd.peers()[peer]["messages_received"]["UPDATE"]
                > before["messages_received"]["UPDATE"]
            ),
            "sent again by the peer",
        )
        assert ground.bgpd.peers()[peer]["messages_sent"]["ROUTE-REFRESH"] >= 1

        sent = ground.bgpd.peers()[peer]["messages_sent"]["UPDATE"]
        ground.bgpd.act("soft-out", peer)
        ground.bgpd.wait(
            lambda: ground.bgpd.peers()[peer]["messages_sent"]["UPDATE"] > sent, "sent again by us"
        )

        if self.far.asks_refresh:
            sent = ground.bgpd.peers()[peer]["messages_sent"]["UPDATE"]
            far.ask_refresh()
            ground.bgpd.wait(
                lambda: ground.bgpd.peers()[peer]["messages_sent"]["UPDATE"] > sent, "sent as asked"
            )
            assert ground.bgpd.peers()[peer]["messages_received"]["ROUTE-REFRESH"] >= 1
        ground.wait_heard(far, OWN)
        assert monitor.stop() == []
        assert ground.bgpd.peers()[peer]["since"] == before["since"]

    def test_max_prefixes(self, net: Net) -> None:
        config = {"bgp": {"peers": {"10.9.0.2": {"max_prefixes": 8}}}}
        ground, far = self.one(net, 65001, announced=THEIRS, config=config)
        ground.start()
        ground.wait_kernel(*THEIRS)
        for number in range(100, 110):
            far.announce(f"192.168.{number}.0/24")
        peer, other = far.peers
        ground.bgpd.wait(
            # With the N bit (RFC 8538) as a Hard Reset.
            lambda: any(
                {"direction": "sent", "code": 6, "subcode": subcode, "count": 1}
                in ground.bgpd.peers()[peer]["notifications"]
                for subcode in (1, 9)
            ),
            "Cease, maximum number of prefixes reached",
        )
        assert "6/1" in ground.bgpd.peers()[peer]["last_error"]
        assert "prefixes" in ground.bgpd.peers()[peer]["last_error"]
        ground.wait_kernel("fd07::/64", without=["192.168.7.0/24", "192.168.100.0/24", "192.168.109.0/24"])
        assert not any(ground.bgpd.peers()[other]["flaps"].values())

    def test_wrong_as(self, net: Net) -> None:
        ground, far = self.one(net, 65001, announced=THEIRS)
        ground.bgpd.write("peers", bgp_peer("four", far.ipv4, 65099), bgp_peer("six", far.ipv6, 65001))
        far.start()
        ground.bgpd.start()
        peer, other = far.peers
        ground.bgpd.wait_established(other)
        ground.wait_kernel("fd07::/64")
        error = ground.bgpd.wait(lambda: ground.bgpd.peers()[peer]["last_error"], "an error is shown")
        assert "65099" in error and "65001" in error
        assert ground.bgpd.peers()[peer]["state"] != "established"
