"""Four nodes in namespaces that read one real server, etcd or the Kubernetes API: what is written there is in every
kernel, and while it is away, and every node is restarted meanwhile, no packet is lost.

``OUTAGE`` in the environment is for how many seconds the server is away; 30 without it.
"""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

import pytest

from testing.daemons import Bgpd
from testing.namespaces import Namespace, Net, wait_until
from tests.cluster.servers import ApiServer, apiserver_binary, missing
from tests.cluster.stores import STORE, InEtcd, InKubernetes, Store, inside
from tests.netns.cluster import Ping, pod

OUTAGE = float(os.environ.get("OUTAGE", "30"))
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(180 + OUTAGE),
    pytest.mark.skipif(bool(missing("etcd", "etcdctl", "openssl")), reason="etcd or openssl is missing"),
]
NODES = {f"n{number}": f"10.0.1.1{number}" for number in range(1, 5)}
BLOCKS = {f"n{number}": f"10.48.{number}.0/26" for number in range(1, 5)}


def routes(namespace: Namespace) -> dict[str, str]:
    """Prefix -> the gateway, of our routes in a kernel; empty for a blackhole."""
    return {prefix: str(route.get("gateway", "")) for prefix, route in namespace.routes(4).items()}


@pytest.mark.parametrize(
    "make",
    [
        InEtcd,
        pytest.param(
            InKubernetes,
            marks=pytest.mark.skipif(apiserver_binary() is None, reason="no kube-apiserver: needs Go"),
        ),
    ],
)
def test_four_nodes_and_a_server_that_goes_away(net: Net, tmp_path: Path, make: type[Store]) -> None:
    nodes = {name: net.namespace(name) for name in NODES}
    place = net.namespace("store")
    net.lan({place: [f"{STORE}/24"], **{nodes[name]: [f"{at}/24"] for name, at in NODES.items()}})
    for namespace in nodes.values():  # proxy ARP answers its pods for what it has a route to
        namespace.ip("route", "add", "default", "via", "10.0.1.1", "dev", "ens5")
    with inside(place):
        store = make(tmp_path)
        try:
            story(net, nodes, store)
        finally:
            store.server.stop()
            if isinstance(store.server, ApiServer):
                store.server.etcd.stop()


def story(net: Net, nodes: dict[str, Namespace], store: Store) -> None:
    """What happens to the four, whichever server it is."""
    blocks = {cidr: name for name, cidr in BLOCKS.items()}
    bgpds = {}
    for name, namespace in nodes.items():
        store.node(name, NODES[name])
        store.claim(name, BLOCKS[name])
        bgpds[name] = Bgpd(namespace, name)
        bgpds[name].configure(datastore=store.datastore(bgpds[name].directory))
        bgpds[name].start(wait=False)

    def everywhere(seconds: float = 20) -> None:
        def holds() -> bool:
            for name in nodes:
                expected = {cidr: NODES[owner] if owner != name else "" for cidr, owner in blocks.items()}
                found = routes(nodes[name])
                assert found == expected, f"{name}: {found}, expected {expected}"
            return True

        wait_until(holds, seconds, "the blocks in every kernel", report=net.report)

    everywhere(30)
    store.claim("n3", "10.48.9.0/26")
    blocks["10.48.9.0/26"] = "n3"
    everywhere()
    pods = {name: pod(nodes[name], f"10.48.{number}.5") for number, name in enumerate(nodes, 1)}
    probes = [Ping(pods["n1"], "10.48.2.5", 0.001), Ping(pods["n3"], "10.48.4.5", 0.001)]
    for bgpd in bgpds.values():
        kept = bgpd.directory / "state" / "datastore.jsonl"
        owned = [cidr for cidr, owner in blocks.items() if owner == bgpd.node]
        wait_until(
            lambda kept=kept, owned=owned: kept.exists() and all(each in kept.read_text() for each in owned),
            20,
            f"what {bgpd.node} keeps",
        )

    store.server.stop()
    gone = time.monotonic()
    for name, bgpd in bgpds.items():  # one after another, without the server
        assert bgpd.stop() == 0
        bgpd.start()
        bgpd.wait_established(*(f"Mesh_{at.replace('.', '_')}" for of, at in NODES.items() if of != name))
        bgpd.wait_in_sync(60)
        assert bgpd.status()["datastore"]["as_of"] is not None
        everywhere()
    time.sleep(max(0.0, gone + OUTAGE - time.monotonic()))
    everywhere()
    store.server.start()
    store.claim("n4", "10.48.10.0/26")
    store.release("n3", "10.48.9.0/26")
    blocks["10.48.10.0/26"] = "n4"
    del blocks["10.48.9.0/26"]
    everywhere(60)
    for bgpd in bgpds.values():
        bgpd.wait(partial(confirmed, bgpd), "that it is live again", 60)
    for probe in probes:
        sent, lost = probe.lost()
        print(f"{type(store).__name__}: {sent} probes, {lost} lost, the server away for {OUTAGE:g} s")
        assert sent > OUTAGE * 200, sent
        assert lost == 0, (sent, lost)


def confirmed(bgpd: Bgpd) -> bool:
    """Whether what holds is what the server says now."""
    store = bgpd.status()["datastore"]
    return bool(store["up"] and store["in_sync"] and store["as_of"] is None)
