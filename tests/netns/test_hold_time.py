"""Hold time 3 s stands through a full table from one neighbour and to another, in both directions at once.

Not part of ``make test`` (``make long``): a million routes take a minute on two cores, and the kernel has them too.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from testing.daemons import Bgpd
from testing.namespaces import Net, Process, wait_until
from testing.resources import bgp_configuration, bgp_peer, node, pool

FAST = Path(__file__).with_name("fast_peer.py")
COUNT = int(os.environ.get("ROUTES", "1000000"))
NODE, SENDER, HEARER = "10.0.1.30", "10.0.1.98", "10.0.1.99"


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_full_table_at_hold_time_3(net: Net) -> None:
    """bgpd reflects what it learns: what comes in from one goes out to the other while it still comes."""
    here = net.namespace("worker1")
    spaces = {address: net.namespace(name) for address, name in ((SENDER, "sender"), (HEARER, "hearer"))}
    net.lan({here: [f"{NODE}/24"], **{space: [f"{address}/24"] for address, space in spaces.items()}})
    resources = [
        bgp_configuration(mesh=False),
        node("worker1", f"{NODE}/24", cluster_id="10.0.1.30"),
        pool("all", "64.0.0.0/6"),
        *(bgp_peer(f"peer-{address[-2:]}", address, 64512) for address in spaces),
    ]
    bgpd = Bgpd(here, "worker1", {"cluster": resources}, {"bgp": {"defaults": {"hold_time": 3}}}).start()

    def peer(address: str, count: int) -> Process:
        words = ("-S", FAST, address, NODE, 64512, 3, count)
        return spaces[address].popen(sys.executable, *words, name=f"peer-{address}")

    hearer, sender = peer(HEARER, 0), peer(SENDER, COUNT)

    def words(of: Process) -> list[str]:
        return [line for line in of.log.splitlines() if line.startswith("heard")][-1:]

    def all_there() -> bool:
        assert "closed" not in hearer.log and "closed" not in sender.log, (
            hearer.log[-200:],
            sender.log[-200:],
        )
        return words(hearer)[0].startswith(f"heard {COUNT} ")

    wait_until(lambda: hearer.log and sender.log, 20, "both dial", report=net.report)
    wait_until(all_there, 400, f"{COUNT} routes on the other side", report=net.report)
    bgpd.wait(
        lambda: sum(f["pending"] for f in bgpd.status()["fib"].values()) == 0, "the kernel has them", 300
    )
    assert "closed" not in hearer.log + sender.log
    for name, session in bgpd.peers().items():
        assert session["state"] == "established" and not any(session["flaps"].values()), name
    for of in (hearer, sender):
        [last] = words(of)
        print((of is sender and "sender") or "hearer", last)
        assert float(last.split()[3]) < 3.0
