"""Long-lived graceful restart (RFC 9494) and the N bit (RFC 8538) with peers of other makes."""

from __future__ import annotations

import signal
import time

import pytest

from testing.namespaces import Net, steady, wait_until
from tests.interop.far import FarBird, FarFrr
from tests.interop.suite import ASN, OWN, THEIRS, Ground

LIFE = 6
"""Seconds of a long life here."""
IN_POOL = {"10.48.1.0/26", "fd48:0:0:1::/122"}


@pytest.mark.long
def test_bird_that_dies_lives_on_for_long(net: Net) -> None:
    """It asks for a long life: its routes stay after its restart time, marked, are advertised to a peer that knows what
    that is, withdrawn from one that does not, and go in the end."""
    words = "long lived graceful restart {}; {}"
    dies = FarBird(
        net, 2, asn=65001, node_asn=ASN, announced=THEIRS,
        extra=words.format("on", f"long lived stale time {LIFE}; graceful restart time 1;"),
    )  # fmt: skip
    knows = FarBird(net, 3, asn=65003, node_asn=ASN, extra=words.format("aware", ""))
    plain = FarBird(net, 4, asn=65004, node_asn=ASN, extra=words.format("off", ""))
    ground = Ground(
        net, [dies, knows, plain], config={"bgp": {"peers": {dies.ipv4: _LONG, dies.ipv6: _LONG}}}
    )
    ground.start()
    ground.wait_kernel(*THEIRS)
    for far in (knows, plain):
        ground.wait_heard(far, OWN | IN_POOL)
    monitor = ground.node.monitor()
    dies.kill()
    ground.wait_heard(plain, OWN)
    assert monitor.lines == []
    ground.wait_kernel(*THEIRS)
    assert knows.heard().keys() == OWN | IN_POOL
    said = knows.daemon.birdc("show route all 10.48.1.0/26")
    assert "(65535,6)" in said, said
    rows = ground.bgpd.ctl("routes", table="in")["routes"]
    assert {row["prefix"] for row in rows if "llgr-stale" in str(row)} == set(THEIRS)
    ground.wait_kernel(without=THEIRS, timeout=LIFE + 5)
    ground.wait_heard(knows, OWN)

    # And back, as if nothing had been.
    dies.start(recover=True)
    ground.wait_kernel(*THEIRS, timeout=20)
    ground.wait_heard(plain, OWN | IN_POOL)
    # What it keeps of ours when we are gone for longer than our restart time is as long as we ask.
    assert "Long-lived graceful restart" in dies.daemon.birdc("show protocols all node_ipv4")


_LONG = {"long_lived_stale_time": 60}


@pytest.mark.long
def test_frr_that_hangs_and_we_that_hang(net: Net) -> None:
    """Each is silent for longer than the hold time; with the N bit on both ends nothing is withdrawn."""
    far = FarFrr(net, 2, asn=65001, node_asn=ASN, announced=THEIRS)
    ground = Ground(net, [far], config={"bgp": {"defaults": {"hold_time": 3}}})
    ground.start()
    ground.wait_kernel(*THEIRS)
    ground.wait_heard(far, OWN)
    ground.bgpd.wait_in_sync()
    (peer, *_) = far.peers
    assert "also after a NOTIFICATION" in str(ground.bgpd.peers()[peer]["capabilities_received"])
    monitor = ground.node.monitor()

    def flaps(reason: str) -> int:
        return int(ground.bgpd.peers()[peer]["flaps"].get(reason, 0))

    process = far.daemon.process
    process.signal(signal.SIGSTOP)
    ground.bgpd.wait(lambda: flaps("hold_timer"), "the hold timer is over", 10)
    time.sleep(1.0)
    process.signal(signal.SIGCONT)
    ground.bgpd.wait_established(*far.peers, timeout=30)
    ground.wait_heard(far, OWN)

    assert ground.bgpd.process is not None
    ground.bgpd.process.signal(signal.SIGSTOP)
    wait_until(lambda: not far.established(), 15, "its hold timer is over", report=net.report)
    steady(lambda: far.heard().keys() == OWN, 0.5, "it keeps what we announced")
    ground.bgpd.process.signal(signal.SIGCONT)
    ground.bgpd.wait_established(*far.peers, timeout=30)
    ground.wait_heard(far, OWN)
    ground.wait_kernel(*THEIRS)
    assert [line for line in monitor.stop() if line.startswith("Deleted")] == []
