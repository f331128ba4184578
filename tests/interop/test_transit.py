"""What we pass on from one peer to another, and what never: three real ones around a node."""

from __future__ import annotations

from testing.namespaces import Net, steady
from testing.resources import pool
from tests.interop.far import FarBird, FarFrr, FarGobgp
from tests.interop.suite import ASN, OWN, Ground, hops

SIX = "fd48:0:0:5::/122"


def test_inside_pools_only(net: Net) -> None:
    """Routes inside a pool go on, to external peers from all, to internal ones from external ones. All are on one
    LAN, so next hops stay (RFC 4271 §5.1.3), as FRR keeps them; to nobody as its own. Nothing else does, a default
    route least of all; but all of it is installed."""
    bird = FarBird(
        net,
        2,
        asn=65001,
        node_asn=ASN,
        announced=["10.48.1.0/26", "172.16.1.0/24", "0.0.0.0/0", "fd48:1::/122", SIX],
    )
    frr = FarFrr(net, 3, asn=65003, node_asn=ASN, announced=["10.48.3.0/26", "fd07::/64"])
    gobgp = FarGobgp(net, 4, asn=ASN, node_asn=ASN, announced=["10.48.2.0/26", "172.16.2.0/24", "::/0"])
    ground = Ground(net, [bird, frr, gobgp])
    ground.bgpd.write("more-pools", pool("closed", "10.49.0.0/16", disableBGPExport=True))
    bird.announced["10.49.1.0/26"] = None
    ground.start()
    ground.wait_kernel(
        *("10.48.1.0/26", "172.16.1.0/24", "default", "fd48:1::/122", "10.49.1.0/26"),
        *("10.48.3.0/26", "fd07::/64", "10.48.2.0/26", "172.16.2.0/24"),
    )
    assert hops(ground.bgpd.routes(4)["default"]) == {bird.ipv4}
    assert hops(ground.bgpd.routes(6)["default"]) == {gobgp.ipv6}

    ground.wait_heard(bird, {*OWN, "10.48.3.0/26", "10.48.2.0/26"})
    ground.wait_heard(gobgp, {*OWN, "10.48.1.0/26", "10.48.3.0/26", SIX})
    # FRR is sent all that the others are: its own come back to nobody.
    heard = ground.wait_heard(frr, {*OWN, "10.48.1.0/26", "10.48.2.0/26", SIX})
    assert (heard["10.48.1.0/26"].as_path, heard["10.48.1.0/26"].next_hop) == ("64512 65001", "10.9.0.2")
    assert (heard["10.48.2.0/26"].as_path, heard["10.48.2.0/26"].next_hop) == ("64512", "10.9.0.4")
    assert (heard[SIX].as_path, heard[SIX].next_hop) == ("64512 65001", "fd09::2")
    assert {heard[prefix].next_hop for prefix in OWN} == {"10.9.0.1", "fd09::1"}
    inside = gobgp.heard()["10.48.3.0/26"]
    assert (inside.as_path, inside.next_hop, inside.local_pref) == ("65003", "10.9.0.3", 100)

    # A pool is closed while running: taken back. Opened: advertised.
    ground.bgpd.write("more-pools", pool("closed", "10.49.0.0/16"))
    ground.wait_heard(gobgp, {*OWN, "10.48.1.0/26", "10.48.3.0/26", SIX, "10.49.1.0/26"})
    ground.bgpd.write("more-pools", pool("closed", "10.49.0.0/16", disableBGPExport=True))
    ground.wait_heard(gobgp, {*OWN, "10.48.1.0/26", "10.48.3.0/26", SIX})
    bird.kill()
    steady(lambda: "10.48.1.0/26" in gobgp.heard(), 0.5, "a restarting peer's routes are still advertised")
