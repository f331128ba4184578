"""Where Calico's tools look for BIRD, on a node that runs bgpd."""

from __future__ import annotations

import signal
from pathlib import Path

from testing.namespaces import Net, wait_until
from tests.netns.cluster import BLOCK, Cluster


def children(name: str, parent: int) -> list[int]:
    """Processes that calicoctl takes for ``name``: by argv[0]."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            command = (status.parent / "cmdline").read_bytes().split(b"\0")
            if command[0] == name.encode() and f"PPid:\t{parent}\n" in status.read_text():
                found.append(int(status.parent.name))
        except OSError:
            continue
    return found


def test_birdc_shows_a_node_and_the_names_end_with_it(net: Net, tmp_path: Path) -> None:
    """birdc of Debian on our sockets; a daemon that is killed leaves no process behind."""
    compat = {"bird_sockets": str(tmp_path), "process_names": True}
    cluster = Cluster(net, "worker1", "worker2", config={"compat": compat})
    worker1 = cluster.bgpds["worker1"]
    cluster.bgpds["worker2"].configure(compat={})
    cluster.start()

    def birdc(words: str, socket: str = "bird.ctl") -> str:
        return cluster.nodes["worker1"].run("birdc", "-s", tmp_path / socket, *words.split()).stdout

    wait_until((tmp_path / "bird6.ctl").exists, what="the sockets", report=net.report)
    assert "Mesh_10_0_1_31 BGP      master   up" in birdc("show protocols")
    assert "Mesh_fd00_1__31 BGP      master   up" in birdc("show protocols", "bird6.ctl")
    assert "Daemon is up and running" in birdc("show status")
    routes = birdc("show route")
    assert f"{BLOCK['worker2']:<18} via 10.0.1.31 on ens5 [Mesh_10_0_1_31 " in routes, routes
    assert f"{BLOCK['worker1']:<18} blackhole [static1 " in routes, routes
    assert "10.0.1.0/24        dev ens5 [direct1 " in routes, routes
    assert "10.48.0.0/26" in birdc("show route for 10.48.0.7").split("\n")[1]

    assert worker1.process is not None
    pid = worker1.process.pid
    wait_until(lambda: children("bird", pid) and children("bird6", pid), what="the names", report=net.report)
    names = children("bird", pid) + children("bird6", pid)
    worker1.process.signal(signal.SIGKILL)
    worker1.process.wait()
    wait_until(lambda: not any(alive(each) for each in names), what="their end", report=net.report)


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
