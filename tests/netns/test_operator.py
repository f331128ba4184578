"""The first hour with a node: slips in resources and configuration, and what is reported to the operator of them."""

import os
import resource
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from testing.namespaces import Net, wait_until
from testing.resources import affinity, bgp_configuration, bgp_peer, node, pool
from tests.netns.cluster import BASE, BLOCK, IPV4, IPV6, Cluster


def nodes(worker1: dict[str, Any]) -> list[dict[str, Any]]:
    """The cluster's resources with another worker1."""
    others = [item for item in BASE if item["kind"] != "Node"]
    return [*others, worker1, node("worker2", f"{IPV4['worker2']}/24", f"{IPV6['worker2']}/64")]


def test_addresses_of_the_node(net: Net) -> None:
    """The node gets another address: its routes follow. It gets one that it does not have, or none: reported."""
    cluster = Cluster(net, "worker1", "worker2").start()
    worker1 = cluster.bgpds["worker1"]

    def problems() -> str:
        return worker1.bgpctl("status").stdout.partition("Problems")[2]

    assert problems() == ""
    cluster.nodes["worker1"].address("ens5", "10.0.1.99/24")
    cluster.write("cluster", *nodes(node("worker1", "10.0.1.99/24", f"{IPV6['worker1']}/64")))
    route = f"{BLOCK['worker1']} via 10.0.1.99 dev ens5 proto bird"
    wait_until(lambda: route in cluster.routes("worker2"), what="the new next hop", report=net.report)

    cluster.write("cluster", *nodes(node("worker1", "10.0.1.98/24", f"{IPV6['worker1']}/64")))
    words = "Node worker1: spec.bgp.ipv4Address: 10.0.1.98 is on no interface"
    wait_until(lambda: words in problems(), what="the address that is not there", report=net.report)

    cluster.write("cluster", *nodes(node("worker1")))
    words = "Node worker1: spec.bgp: no BGP address"
    wait_until(lambda: words in problems(), what="no address at all", report=net.report)
    assert f"blackhole {BLOCK['worker1']} proto bird" in cluster.routes("worker1")


def test_both_families_on_a_session_of_nodes_that_have_one(net: Net) -> None:
    """Each waits for the other's End-of-RIB of IPv6 too, of which neither has a next hop to announce."""
    cluster = Cluster(net, "worker1", "worker2", config={"bgp": {"defaults": {"families": ["ipv4", "ipv6"]}}})
    for bgpd in cluster.bgpds.values():
        bgpd.write("cluster", *nodes(node("worker1", f"{IPV4['worker1']}/24")))
        bgpd.start(wait=False)
    worker1 = cluster.bgpds["worker1"]
    worker1.wait_established("Mesh_10_0_1_31")
    assert "ipv4" in worker1.peers()["Mesh_10_0_1_31"]["counts"]
    worker1.wait_in_sync(10)
    printed = worker1.bgpctl("why", "fd48::c0/122").stdout
    assert "no address of the family to announce as the next hop" in printed, printed


def test_orders_that_cannot_be_carried_out(net: Net) -> None:
    cluster = Cluster(net, "worker1", "worker2")
    (cluster.bgpds["worker1"].directory / "file").write_text("")
    cluster.bgpds["worker1"].configure(
        state_directory=str(cluster.bgpds["worker1"].directory / "file" / "state")
    )
    worker1 = cluster.start().bgpds["worker1"]
    name = "Mesh_10_0_1_31"

    for order, code, words in (
        ("shutdown", 1, "is shut down, but only until bgpd restarts"),
        ("reset", 1, "is shut down"),
        ("soft-in", 1, "is shut down"),
        ("soft-out", 1, "is shut down"),
    ):
        done = worker1.bgpctl("peer", order, name)
        assert done.returncode == code and words in done.stderr, (order, done)
    printed = worker1.bgpctl("why", BLOCK["worker2"])
    assert f"{name} is shut down by the operator" in printed.stdout, printed.stdout
    assert "1 shut down" in worker1.bgpctl("status").stdout
    assert f"{name}: withdrawn " in printed.stdout and " ago with its session (" in printed.stdout, (
        printed.stdout
    )
    outside = worker1.bgpctl("why", "192.0.2.1").stdout
    assert "0.0.0.0/0: a route that is not ours: proto boot via 10.0.1.1 dev ens5" in outside, outside
    unknown = worker1.bgpctl("why", "192.0.2.0/24")
    assert unknown.returncode == 4 and "nothing is known of 192.0.2.0/24" in unknown.stderr, unknown


def test_a_refused_configuration_and_one_that_names_nobody(net: Net) -> None:
    cluster = Cluster(net, "worker1", "worker2").start()
    worker1 = cluster.bgpds["worker1"]
    worker1.configure(bgp={"peers": {"10.0.1.31": {"hold_tim": 9}, "10.0.1.32": {"max_prefixes": -1}}})
    refused = worker1.bgpctl("reload")
    assert refused.returncode == 1 and "did you mean hold_time?" in refused.stderr, refused
    lines = [line for line in worker1.bgpctl("health").stdout.splitlines() if "config" in line]
    assert len(lines) == 1 and "hold_tim: unknown key" in lines[0] and "; " in lines[0], lines
    assert worker1.established(), "nothing changed"

    words = "bgp.peers.10.0.1.32: no session of this node has this name or address"
    worker1.configure(bgp={"peers": {"10.0.1.32": {"hold_time": 9}}})
    worker1.process.signal(signal.SIGHUP)
    wait_until(lambda: words in worker1.bgpctl("status").stdout, what="SIGHUP is a reload", report=net.report)
    assert worker1.log.count(words) == 1, worker1.log
    worker1.process.signal(signal.SIGHUP)
    worker1.wait(lambda: worker1.log.count("event=reload result=success") == 2, "another reload")
    assert worker1.log.count(words) == 1, "reported once"
    assert worker1.established() and not any(worker1.peers()["Mesh_10_0_1_31"]["flaps"].values())


def test_a_password_file_is_read_anew_by_a_reload(net: Net) -> None:
    """Though not a word of the configuration is another; and nobody is shown what it holds."""
    cluster = Cluster(net, "worker1", "worker2")
    secret = net.directory / "password"
    secret.write_text("first-secret\n")
    for bgpd in cluster.bgpds.values():
        bgpd.configure(bgp={"defaults": {"password_file": str(secret)}})
    cluster.start()
    assert cluster.bgpds["worker1"].bgpctl("reload").stdout == "nothing changed\n"
    secret.write_text("second-secret\n")
    for bgpd in cluster.bgpds.values():
        assert bgpd.bgpctl("reload").stdout == "changed: password files\n"
    for bgpd in cluster.bgpds.values():
        bgpd.wait(lambda bgpd=bgpd: any(p["flaps"].values() for p in bgpd.peers().values()), "a reset")  # type: ignore[misc]
        bgpd.wait_established()
        output = bgpd.log + bgpd.describe() + bgpd.bgpctl("peers").stdout
        assert "-secret" not in output, output


def test_a_start_that_waits_for_resources_goes_on(
    net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service manager hears that it lives, so that it is not ended and begun anew; and then READY."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        cluster = Cluster(net, "worker1", running=["worker1"])
        bgpd = cluster.bgpds["worker1"]
        bgpd.remove("cluster")
        bgpd.start()
        first = manager.recv(4096).decode()
        assert first.startswith("STATUS=not ready: datastore: ") and "\nEXTEND_TIMEOUT_USEC=" in first, first
        bgpd.write("cluster", *nodes(node("worker1", f"{IPV4['worker1']}/24")))
        heard = [first]
        while not heard[-1].startswith("READY=1"):
            heard.append(manager.recv(4096).decode())
        assert len(heard) < 8, "what is the same is not reported again and again"


def test_few_descriptors_and_many_connections(net: Net) -> None:
    """A hundred connections meet a limit of 64 descriptors: the daemon stays at rest, reads changes, puts routes right
    and takes a neighbour's session."""
    cluster = Cluster(net, "worker1", "worker2").start()
    bgpd = cluster.bgpds["worker1"]
    assert bgpd.process is not None
    resource.prlimit(bgpd.process.pid, resource.RLIMIT_NOFILE, (64, 64))
    script = (
        "import socket, time\n"
        "made = []\n"
        "for port in (9179, 179) * 100:\n"
        "    one = socket.socket(); one.setblocking(False); made.append(one)\n"
        "    try: one.connect(('127.0.0.1', port))\n"
        "    except BlockingIOError: pass\n"
        "print('made', flush=True); time.sleep(60)\n"
    )
    flood = cluster.nodes["worker1"].popen(sys.executable, "-c", script, name="flood")
    wait_until(lambda: "made" in flood.log, what="the connections", report=net.report)

    def spent() -> float:
        fields = Path(f"/proc/{bgpd.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    assert bgpd.bgpctl("peers").returncode == 0, "the operator gets what strangers at the metrics have taken"
    before = spent()
    bgpd.write("more", affinity("worker1", "10.48.0.64/26"))
    cluster.wait_routes(
        "worker2", [*cluster.expected("worker2"), "10.48.0.64/26 via 10.0.1.30 dev ens5 proto bird"]
    )
    cluster.nodes["worker1"].ip("route", "del", f"{BLOCK['worker2']}", "proto", "bird")
    cluster.wait_routes("worker1", [*cluster.expected("worker1"), "blackhole 10.48.0.64/26 proto bird"])
    cluster.bgpds["worker2"].bgpctl("peer", "reset", "Mesh_10_0_1_30")
    wait_until(lambda: bgpd.established("Mesh_10_0_1_31"), what="the session again", report=net.report)
    time.sleep(1.0)
    assert spent() - before < 3.0, "no busy loop over connections that cannot be taken"
    assert len(bgpd.log) < 100_000


def test_status_is_degraded_for_each_cause_and_for_no_longer(net: Net) -> None:
    """The exit code is what a script looks at; the sentence what a person does."""
    cluster = Cluster(net, "worker1", "worker2")
    worker1, here = cluster.bgpds["worker1"], cluster.nodes["worker1"]
    resources = list(yaml.safe_load_all((worker1.resources / "cluster.yaml").read_text()))
    worker1.start()

    def degraded(words: str) -> None:
        worker1.wait(lambda: any(words in sentence for sentence in worker1.status()["degraded"]), words)
        done = worker1.bgpctl("status")
        assert done.returncode == 1 and words in done.stdout, done

    def well() -> None:
        worker1.wait(lambda: not worker1.status()["degraded"], "all is well again")

    degraded("No session is established, of 2 that are wanted.")
    assert worker1.status()["ready"], "which does not depend on sessions"
    cluster.bgpds["worker2"].start()
    well()
    assert worker1.bgpctl("status").returncode == 0

    block = BLOCK["worker2"]
    worker1.wait(lambda: worker1.routes().get(block), "the route of worker2's block")
    here.ip("route", "replace", block, "via", "10.0.1.1", "dev", "ens5", "proto", "static")
    degraded("Another's route stands in the place of 1 of ours.")
    here.ip("route", "del", block, "proto", "static")
    well()

    others = [item for item in resources if item["kind"] != "BGPConfiguration"]
    ipip = pool("ipip", "10.50.0.0/16", ipipMode="Always")
    worker1.write("cluster", *others, bgp_configuration(programClusterRoutes="Enabled"), ipip)
    degraded("There is 1 problem, reported below.")
    assert "tunl0 is not there or is down" in worker1.bgpctl("status").stdout
    worker1.write("cluster", *resources)
    well()

    without = [item for item in resources if item["metadata"]["name"] != "worker1"]
    worker1.write("cluster", *without)
    degraded("The resources are not whole, there is no Node 'worker1'")
    worker1.write("cluster", *resources)
    well()

    worker1.configure(metrics={"listen": "127.0.0.1:9999"})
    assert "from the next start on: metrics" in worker1.bgpctl("reload").stdout
    degraded("The configuration waits for a restart of bgpd: metrics.")
    worker1.configure(metrics={"listen": "127.0.0.1:9179"})
    worker1.bgpctl("reload")
    well()
    worker1.configure(node="")
    assert worker1.bgpctl("reload").returncode == 1
    degraded("The configuration file was refused, the one before is in force")

    worker1.write("tor", bgp_peer("tor", "10.0.1.9", 65001))
    degraded("Global_10_0_1_9 (BGPPeer tor) is not established")
