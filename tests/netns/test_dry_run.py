"""Dry runs beside a running daemon: what a plan says is what the node does; what a change says is what comes of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from testing.daemons import Bgpd
from testing.namespaces import Net, wait_until
from testing.resources import affinity, bgp_configuration, resource
from tests.netns.cluster import BASE, BLOCK, BLOCK6, BLOCKS, Cluster

PEER = "Node_10_0_1_31"
MOVED = "10.48.0.64/26"
HIDES = {"cidr": BLOCK["worker1"], "matchOperator": "Equal", "action": "Reject"}


def direct(**spec: Any) -> dict[str, Any]:
    """worker1's session with worker2, in place of the mesh's (whose other end stays as it is)."""
    return resource(
        "BGPPeer", "direct", {"node": "worker1", "peerIP": "10.0.1.31", "reversePeering": "Manual", **spec}
    )


class Trial:
    """Another directory of resources for a daemon."""

    def __init__(self, bgpd: Bgpd, directory: Path) -> None:
        self.bgpd, self.directory = bgpd, directory
        shutil.copytree(bgpd.resources, directory)

    def write(self, file: str, *objects: Mapping[str, Any]) -> None:
        (self.directory / f"{file}.yaml").write_text(yaml.safe_dump_all([dict(item) for item in objects]))

    def plan(self, expected: int) -> dict[str, Any]:
        done = self.bgpd.bgpctl("plan", "-f", self.directory, "-o", "json")
        assert done.returncode == expected, done
        found: dict[str, Any] = json.loads(done.stdout)
        assert found["changes"] == (expected == 2)
        return found

    def apply(self) -> None:
        for path in self.directory.iterdir():
            self.bgpd.write_text(path.stem, path.read_text())
        wait_until(
            lambda: self.bgpd.bgpctl("plan", "-f", self.directory).returncode == 0, 10, "all is applied"
        )


def printed(found: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of the answer that are not empty."""
    parts = {
        f"{key}.{name}": part
        for key, value in found.items()
        if isinstance(value, dict)
        for name, part in value.items()
    }
    parts |= {key: found[key] for key in ("settings", "filters")}
    return {key: part for key, part in parts.items() if part}


def test_what_a_change_would_do_and_what_it_does(net: Net, tmp_path: Path) -> None:
    cluster = Cluster(net, "worker1", "worker2")
    cluster.bgpds["worker1"].write("peers", direct())
    worker1 = cluster.start().bgpds["worker1"]
    trial = Trial(worker1, tmp_path / "trial")

    assert printed(trial.plan(0)) == {}
    done = worker1.bgpctl("plan", "-f", trial.directory)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Nothing would change on worker1.\n", "")

    # A filter: the session stays, and worker2 is sent less.
    trial.write("peers", direct(filters=["out"]), resource("BGPFilter", "out", {"exportV4": [HIDES]}))
    found = trial.plan(2)
    field = {"field": "filters", "before": [], "after": ["out"], "resets": False}
    session = {"name": PEER, "address": "10.0.1.31", "established": True, "fields": [field]}
    assert printed(found) == {
        "sessions.changed": [session],
        "filters": [{"name": "out", "change": "added", "lists": ["exportV4"], "peers": [PEER]}],
    }
    before = worker1.peers()[PEER]
    assert BLOCK["worker1"] in cluster.shapes("worker2"), "nothing has changed yet"
    trial.apply()
    wait_until(lambda: BLOCK["worker1"] not in cluster.shapes("worker2"), 10, "the filter's work")
    after = worker1.peers()[PEER]
    assert after["state"] == "established" and after["since"] == before["since"]

    # An import filter: what is installed by it goes, and the plan says so before.
    takes = {"cidr": BLOCK["worker2"], "matchOperator": "Equal", "action": "Reject"}
    trial.write("peers", direct(filters=["in"]), resource("BGPFilter", "in", {"importV4": [takes]}))
    lost = {"prefix": BLOCK["worker2"], "peers": [PEER], "rule": "in importV4[0]", "installed": True}
    assert trial.plan(2)["imports"] == {"removed": [lost], "added": [], "changed": [], "unlisted": 0}
    assert BLOCK["worker2"] in cluster.shapes("worker1")
    trial.apply()
    wait_until(lambda: BLOCK["worker2"] not in cluster.shapes("worker1"), 10, "the import filter's work")

    # A timer resets the session; a block goes, another comes; the switch is another peer.
    trial.write(
        "peers", direct(keepaliveTime="7s"), resource("BGPPeer", "tor", {"peerIP": "10.0.1.1", "asNumber": 1})
    )
    kept = [
        item
        for item in BLOCKS
        if item["spec"]["cidr"] not in (BLOCK["worker1"], BLOCK["control"], BLOCK6["control"])
    ]
    trial.write("blocks", *kept, affinity("worker1", MOVED))
    found = trial.plan(2)
    fields = {entry["field"]: entry["resets"] for entry in found["sessions"]["reset"][0]["fields"]}
    assert [entry["name"] for entry in found["sessions"]["reset"]] == [PEER]
    assert fields == {"keepalive_s": True, "filters": False}
    assert [entry["prefix"] for entry in found["imports"]["added"]] == [BLOCK["worker2"]]
    assert [entry["name"] for entry in found["sessions"]["added"]] == ["Global_10_0_1_1"]
    assert [entry["prefix"] for entry in found["announce"]["added"]] == [MOVED]
    assert [entry["prefix"] for entry in found["announce"]["removed"]] == [BLOCK["worker1"]]
    assert found["blackholes"] == {"added": [MOVED], "removed": [BLOCK["worker1"]]}
    assert set(printed(found)) == {
        *("sessions.added", "sessions.reset", "announce.added", "announce.removed"),
        *("blackholes.added", "blackholes.removed", "filters", "imports.added"),
    }
    table = worker1.bgpctl("plan", "-f", trial.directory)
    assert table.returncode == 2 and f"! {PEER} is reset: keepalive_s none -> 7" in table.stdout, table.stdout
    trial.apply()
    assert worker1.peers()[PEER]["flaps"]["config"] == 1
    worker1.wait_established(PEER)
    assert "Global_10_0_1_1" in worker1.peers()
    wait_until(lambda: MOVED in cluster.shapes("worker2"), 10, "the new block's route")
    assert BLOCK["worker1"] not in cluster.shapes("worker1")

    # What is no good there: the last good version stands, as it would; only the problem is news.
    trial.write(
        "peers",
        direct(keepaliveTime="soon"),
        resource("BGPPeer", "tor", {"peerIP": "10.0.1.1", "asNumber": 1}),
    )
    assert list(printed(trial.plan(2))) == ["problems.added"]

    # No Node of this name: nothing would change, and that is an error of whoever asks.
    trial.write("cluster", bgp_configuration())
    done = worker1.bgpctl("plan", "-f", trial.directory)
    assert done.returncode == 1 and "there is no Node 'worker1'" in done.stderr, done
    assert worker1.established(PEER) and "resource_problem" not in worker1.log, "a trial is no event"


def test_the_plan_of_a_node_is_what_it_does(net: Net, tmp_path: Path) -> None:
    cluster = Cluster(net, "worker1", "worker2", config={"bgp": {"defaults": {"hold_time": 30}}})
    services = bgp_configuration()
    services["spec"]["serviceClusterIPs"] = [{"cidr": "10.96.0.0/16"}]
    others = [item for item in BASE if item["kind"] not in ("BGPConfiguration", "Node")]
    nodes = [item for item in BASE if item["metadata"]["name"] in ("worker1", "worker2")]
    cluster.write("cluster", services, *others, *nodes)
    worker1 = cluster.start().bgpds["worker1"]
    cluster.pod("worker1", "10.48.0.9")
    wait_until(lambda: "10.48.0.9" in cluster.shapes("worker2"), 10, "the borrowed address")

    kernel = tmp_path / "kernel.json"
    commands = (("route",), ("-6", "route"), ("address",))
    kernel.write_text("\n".join(cluster.nodes["worker1"].ip("-j", *words) for words in commands))
    done = worker1.command(
        *("plan", "--resources", worker1.resources, "--node", "worker1", "--config", worker1.config_path),
        *("--kernel", kernel, "-o", "json"),
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    found = json.loads(done.stdout)

    own = {row["prefix"]: row["kind"] for row in worker1.ctl("routes")["routes"] if not row["peer"]}
    assert {entry["prefix"]: entry["kind"] for entry in found["announce"]} == own
    assert own == {
        "10.48.0.9/32": "borrowed",
        "10.96.0.0/16": "service",
        BLOCK["worker1"]: "block",
        BLOCK6["worker1"]: "block",
    }
    holes = {prefix for prefix, shape in cluster.shapes("worker1").items() if shape.startswith("blackhole")}
    assert set(found["blackholes"]) == holes
    peers = {peer["name"]: peer for peer in found["peers"]}
    running = worker1.peers()
    assert peers.keys() == running.keys() and len(peers) == 2
    for name, peer in peers.items():
        assert peer["hold_s"] == running[name]["hold_time"] == 30
        assert peer["keepalive_s"] == running[name]["keepalive_time"] == 10
        assert (peer["passive"], peer["families"]) == (running[name]["passive"], running[name]["families"])
        assert peer["source_address"] == running[name]["local_address"]
    assert found["router_id"] == worker1.status()["router_id"]
