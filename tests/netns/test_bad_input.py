"""Bad input of every kind: a clear error each, and nothing lost of what was good."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from testing.daemons import Bgpd
from testing.namespaces import PROJECT, Net, steady, wait_until
from testing.resources import affinity, bgp_peer, node, pool
from tests.netns.cluster import BASE, BLOCK, BLOCKS, IPV4, Cluster
from tests.netns.raw_peer import message

RAW = Path(__file__).with_name("raw_peer.py")
WITH_THREE_MISTAKES = """
node: worker2
datastor:
  path: /nowhere
bgp:
  defaults: {hold_time: soon}
  peers:
    10.0.1.30: {families: [ipv4, ipx]}
"""


def test_config_with_three_mistakes(net: Net) -> None:
    """Each is named, with file and key; the exit code is 78; a running daemon goes on with what it has."""
    cluster = Cluster(net, "worker1", "worker2")
    bgpd = cluster.bgpds["worker2"]
    good = bgpd.config_path.read_text()
    bgpd.config_path.write_text(WITH_THREE_MISTAKES)
    for words in (("config", "check", bgpd.config_path), ("run", "--config", bgpd.config_path)):
        refused = bgpd.command(*words)
        assert refused.returncode == 78
        lines = [line for line in refused.stderr.splitlines() if str(bgpd.config_path) in line]
        assert len(lines) == 3, refused.stderr
        for key in ("datastor:", "bgp.defaults.hold_time:", "bgp.peers.10.0.1.30.families:"):
            assert any(key in line for line in lines), (key, lines)
        assert "did you mean datastore?" in refused.stderr
    bgpd.config_path.write_text(good)
    assert bgpd.command("config", "check", bgpd.config_path).returncode == 0

    cluster.start()
    before = {peer["id"]: peer["since"] for peer in bgpd.peers().values()}
    bgpd.config_path.write_text(WITH_THREE_MISTAKES)
    refused = bgpd.bgpctl("reload")
    assert refused.returncode == 1 and "hold_time" in refused.stderr and "datastor" in refused.stderr
    assert "hold_time" in bgpd.status()["config_error"]
    assert cluster.routes("worker2") == cluster.expected("worker2")
    assert {peer["id"]: peer["since"] for peer in bgpd.peers().values()} == before
    bgpd.config_path.write_text(good)
    assert bgpd.bgpctl("reload").returncode == 0
    assert bgpd.status()["config_error"] == ""
    assert {peer["id"]: peer["since"] for peer in bgpd.peers().values()} == before


def test_bad_resources_beside_good_ones(net: Net) -> None:
    """A bad CIDR, a half-written file, one object twice: named and shown; the good and the last good ones stand."""
    cluster = Cluster(net, "worker1", "worker2").start()
    bgpd = cluster.bgpds["worker2"]
    blackhole = "blackhole 10.48.128.0/26 proto bird"
    bgpd.write("more", pool("second", "10.48.128.0/24"), affinity("worker2", "10.48.128.0/26"))
    cluster.wait_routes("worker2", [*cluster.expected("worker2"), blackhole])

    def problems() -> str:
        return "\n".join(
            f"{problem['source']}: {problem['path']}: {problem['message']}"
            for problem in bgpd.status()["problems"]
        )

    def stands() -> bool:
        return cluster.routes("worker2") == sorted([*cluster.expected("worker2"), blackhole])

    bgpd.write(
        "more",
        pool("second", "10.48.128.0/33"),
        affinity("worker2", "10.48.128.0/26"),
        pool("third", "10.48.3.0/24"),
    )
    bgpd.wait(lambda: "10.48.128.0/33" in problems(), "the bad CIDR is shown")
    assert "more.yaml" in problems() and "spec.cidr" in problems() and "second" in problems()
    bgpd.write("third", affinity("worker2", "10.48.3.0/26"))
    cluster.wait_routes(
        "worker2", [*cluster.expected("worker2"), blackhole, "blackhole 10.48.3.0/26 proto bird"]
    )
    bgpd.remove("third")
    cluster.wait_routes("worker2", [*cluster.expected("worker2"), blackhole])

    bgpd.write_text("more", "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: sec")
    bgpd.wait(lambda: "more.yaml" in problems() and "/33" not in problems(), "the half-written file is shown")
    steady(stands, 0.7, "the last good ones stand")
    bgpd.write("more", pool("second", "10.48.128.0/24"), affinity("worker2", "10.48.128.0/26"))
    bgpd.wait(lambda: problems() == "", "all is well again")
    assert stands()

    bgpd.write("again", affinity("worker2", "10.48.128.0/26", "pending"))
    bgpd.wait(lambda: "again.yaml" in problems() and "more.yaml" in problems(), "both files are named")
    steady(stands, 0.5, "the last good one stands")
    bgpd.remove("again")
    bgpd.wait(lambda: problems() == "", "all is well again")
    assert not any(any(peer["flaps"].values()) for peer in bgpd.peers().values())


def test_directory_vanishes(net: Net) -> None:
    """Without the directory, and without our own Node in it: nothing is withdrawn, and it says what is wrong."""
    cluster = Cluster(net, "worker1", "worker2").start()
    bgpd = cluster.bgpds["worker2"]
    away = bgpd.resources.with_name("away")
    monitors = [namespace.monitor() for namespace in cluster.nodes.values()]

    bgpd.resources.rename(away)
    bgpd.wait(lambda: not bgpd.status()["datastore"]["in_sync"], "not in sync")
    assert str(bgpd.resources) in bgpd.status()["datastore"]["detail"]
    steady(lambda: cluster.routes("worker2") == cluster.expected("worker2"), 0.7, "nothing is withdrawn")
    bgpd.resources.mkdir()
    bgpd.write("others", *(item for item in BASE if item["metadata"]["name"] != "worker2"))
    bgpd.wait(lambda: "worker2" in bgpd.status()["datastore"]["detail"], "our own Node is missed")
    steady(lambda: cluster.routes("worker2") == cluster.expected("worker2"), 0.7, "nothing is withdrawn")
    for file in bgpd.resources.iterdir():
        file.unlink()
    bgpd.resources.rmdir()
    away.rename(bgpd.resources)
    bgpd.wait(lambda: bgpd.status()["datastore"]["in_sync"], "in sync again")
    assert [line for monitor in monitors for line in monitor.stop()] == []
    assert not any(any(peer["flaps"].values()) for peer in bgpd.peers().values())

    bgpd.write("blocks", *(item for item in BLOCKS if item["spec"]["cidr"] != BLOCK["worker2"]))
    gone = f"blackhole {BLOCK['worker2']} proto bird"
    cluster.wait_routes("worker2", [route for route in cluster.expected("worker2") if route != gone], 2)


def test_without_resources_nothing_is_swept(net: Net) -> None:
    """A start with an empty directory keeps every old route of ours, and is not ready."""
    cluster = Cluster(net, "worker1")
    bgpd, namespace = cluster.bgpds["worker1"], cluster.nodes["worker1"]
    namespace.ip("route", "add", "blackhole", "10.48.77.0/26", "proto", "bird")
    for file in bgpd.resources.iterdir():
        file.unlink()
    bgpd.start()
    steady(lambda: cluster.routes("worker1") == ["blackhole 10.48.77.0/26 proto bird"], 1.0, "kept")
    assert not bgpd.status()["ready"] and not bgpd.status()["in_sync"]
    bgpd.write("cluster", node("worker1", f"{IPV4['worker1']}/24"), pool("a", "10.48.0.0/24"))
    bgpd.wait_in_sync()
    cluster.wait_routes("worker1", [])


def _with_raw_peer(net: Net) -> tuple[Cluster, str, Bgpd]:
    """worker1 and worker2 as always; worker2 waits for an eBGP peer at 10.0.1.99, whose namespace is the newest."""
    cluster = Cluster(net, "worker1", "worker2")
    bgpd = cluster.bgpds["worker2"]
    bgpd.write("peers", bgp_peer("raw", "10.0.1.99", 65001))
    net.join(cluster.switch, net.namespace("raw"), "port9", ["10.0.1.99/24"])
    for each in cluster.bgpds.values():
        each.start(wait=False)
    bgpd.wait_established("Mesh_10_0_1_30", "Mesh_fd00_1__30")
    cluster.wait_routes("worker2", cluster.expected("worker2"))
    return cluster, "10.0.1.99", bgpd


GOOD_ATTRIBUTES = bytes.fromhex("40010100" + "40020602010000fde9" + "4003040a000163")
PREFIX = bytes.fromhex("18ac1501")  # 172.21.1.0/24


def update(attributes: bytes, nlri: bytes) -> str:
    """An UPDATE without withdrawn routes, in hex."""
    return message(2, b"\0\0" + len(attributes).to_bytes(2, "big") + attributes + nlri).hex()


@pytest.mark.parametrize(
    ("payload", "notification"),
    [
        ("-" + "00" * 40, (1, 1)),
        ("-" + b"GET / HTTP/1.1\r\nHost: example\r\n\r\n".hex(), (1, 1)),
        ("-" + ("ff" * 16 + "fffe01"), (1, 2)),
        (message(9).hex(), (1, 3)),
        (message(2, b"\0\xff\0\0").hex(), (3, 1)),
        (update(GOOD_ATTRIBUTES, b"\x21\x0a\x00\x00\x00\x00"), (3, 10)),
    ],
    ids=["zeros", "http", "length", "type", "update lengths", "prefix length"],
)
def test_peer_that_sends_garbage(net: Net, payload: str, notification: tuple[int, int]) -> None:
    """It gets its NOTIFICATION and is cut off; the daemon and every other session go on."""
    cluster, raw_address, bgpd = _with_raw_peer(net)
    words = ["-", payload[1:]] if payload.startswith("-") else [payload]
    peer = net.namespaces[-1].popen(
        sys.executable, "-S", RAW, raw_address, IPV4["worker2"], 65001, *words, name="raw"
    )
    expected = f"NOTIFICATION {bytes(notification).hex()}"
    wait_until(
        lambda: expected in peer.log and "closed" in peer.log, 10, f"{expected}, closed", report=net.report
    )
    assert "notification" in bgpd.peers()["Global_10_0_1_99"]["last_error"].lower()
    assert cluster.routes("worker2") == cluster.expected("worker2")
    assert not any(bgpd.peers()["Mesh_10_0_1_30"]["flaps"].values())


def test_malformed_update_is_a_withdraw(net: Net) -> None:
    """RFC 7606: a bad ORIGIN takes that prefix back, not the session; what else was announced stands."""
    cluster, raw_address, bgpd = _with_raw_peer(net)
    other = bytes.fromhex("18ac1502")
    bad = GOOD_ATTRIBUTES.replace(bytes.fromhex("40010100"), bytes.fromhex("40010109"))
    peer = net.namespaces[-1].popen(
        *(sys.executable, "-S", RAW, raw_address, IPV4["worker2"], 65001),
        *(update(GOOD_ATTRIBUTES, PREFIX + other), update(bad, PREFIX)),
        name="raw",
    )
    via = f"172.21.2.0/24 via {raw_address} dev ens5 proto bird"
    bgpd.wait(lambda: bgpd.peers()["Global_10_0_1_99"]["update_errors"] == 1, "it is counted")
    cluster.wait_routes("worker2", [*cluster.expected("worker2"), via])
    assert bgpd.established("Global_10_0_1_99") and "NOTIFICATION" not in peer.log


def test_second_bgpd_on_the_node(net: Net) -> None:
    """On the same socket it does not start; with another one it sees who has the port, writes nothing, is unready."""
    cluster = Cluster(net, "worker1", "worker2").start()
    bgpd = cluster.bgpds["worker2"]
    refused = bgpd.command("run", "--config", bgpd.config_path)
    assert refused.returncode == 1 and str(bgpd.socket) in refused.stderr, refused.stderr
    monitor = cluster.nodes["worker2"].monitor()
    second = Bgpd(bgpd.namespace, "worker2", config={"metrics": {"listen": None}}, name="second")
    for file in bgpd.resources.iterdir():
        (second.resources / file.name).write_text(file.read_text())
    second.start()
    second.wait(lambda: not second.check("alone")["ok"], "it sees that it is not alone")
    steady(lambda: not second.status()["ready"], 0.5, "not ready")
    assert monitor.stop() == []
    assert cluster.routes("worker2") == cluster.expected("worker2")
    assert bgpd.status()["ready"]
    assert not any(any(peer["flaps"].values()) for peer in bgpd.peers().values())


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (
            'name: t\ntopology:\n  nodes: {a: {kind: linux}}\n  links: [{endpoints: ["a:eth1", "b:eth1"]}]\n',
            "b",
        ),
        ("name: t\ntopology:\n  nodes: {a: {kind: linus}}\n", "linus"),
    ],
    ids=["a node that is not there", "a kind that is none"],
)
def test_topology(net: Net, text: str, named: str) -> None:
    """A topology that names what is not: reported where and what, nothing is laid."""
    namespace = net.namespace("lab")
    file = net.directory / "t.clab.yml"
    file.write_text(text)
    refused = namespace.run(
        *(sys.executable, "-m", "bgpd", "lab", "up", file),
        check=False,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )
    assert refused.returncode == 78 and str(file) in refused.stderr and named in refused.stderr, (
        refused.stderr
    )


def test_peer_that_fills_the_memory(net: Net) -> None:
    """Beyond bgp.memory_limit the one that holds most goes, by name; the others stay and lose nothing."""
    cluster, raw_address, bgpd = _with_raw_peer(net)
    bgpd.configure(bgp={"memory_limit": "1MiB"})
    assert "bgp" in bgpd.bgpctl("reload").stdout
    nlri = [b"\x18" + (0xAC1600 + number).to_bytes(3, "big") for number in range(4000)]
    parts = [b"".join(nlri[start : start + 800]) for start in range(0, 4000, 800)]
    peer = net.namespaces[-1].popen(
        *(sys.executable, "-S", RAW, raw_address, IPV4["worker2"], 65001),
        *(update(GOOD_ATTRIBUTES, part) for part in parts),
        name="raw",
    )
    wait_until(lambda: "NOTIFICATION 0608" in peer.log, 10, "out of resources", report=net.report)
    cluster.wait_routes("worker2", cluster.expected("worker2"))
    status = bgpd.status()
    [problem] = [each for each in status["problems"] if each["path"] == "bgp.memory_limit"]
    assert problem["source"] == "Global_10_0_1_99" and "1.0 MiB" in problem["message"]
    assert status["memory_limit"] == 1 << 20
    peers = bgpd.peers()
    assert peers["Global_10_0_1_99"]["state"] == "idle" and peers["Global_10_0_1_99"]["memory"] == 0
    assert 0 < peers["Mesh_10_0_1_30"]["memory"] < 1 << 16
    assert not any(peers["Mesh_10_0_1_30"]["flaps"].values())
