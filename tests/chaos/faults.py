"""What may happen to a node, each fault with what it may cost: packets lost, and seconds until all is as it should be.

A fault is done to one node of a running cluster, and undone in the end; who runs it watches packets and kernels.
``plan`` draws them from a seed, so that a run can be had again.

Not here, since no namespace has them: a step of the wall clock (one for the whole machine; a time namespace shifts only
the clocks that bgpd measures with, CLOCK_MONOTONIC and CLOCK_BOOTTIME, and only at its start).
"""

from __future__ import annotations

import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from random import Random
from typing import NamedTuple

from testing.daemons import Bgpd
from testing.namespaces import UNREADY
from tests.netns.cluster import BLOCK, Cluster

HOLD = 3
"""Seconds of the hold time in this cluster."""


class Fault(NamedTuple):
    """One thing that happens."""

    name: str
    do: Callable[[Cluster, str, Random], None]
    """To a node. On return the cause is gone; what it did need not be mended yet."""
    cut_off: float = 0.0
    """Seconds for which packets of this node may be lost."""
    settled: float = 20.0
    """Seconds until every kernel holds what it should."""


def _killed(cluster: Cluster, node: str, random: Random) -> None:
    bgpd = cluster.bgpds[node]
    bgpd.kill()
    time.sleep(random.uniform(0, 3))
    bgpd.start(wait=False)


def _restarted(cluster: Cluster, node: str, random: Random) -> None:
    assert cluster.bgpds[node].stop() == 0
    cluster.bgpds[node].start(wait=False)


def _upgraded(cluster: Cluster, node: str, random: Random) -> None:
    cluster.bgpds[node].upgrade()


def _all_killed(cluster: Cluster, node: str, random: Random) -> None:
    for bgpd in cluster.bgpds.values():
        bgpd.kill()
    for bgpd in cluster.bgpds.values():
        bgpd.start(wait=False)


def _hung(cluster: Cluster, node: str, random: Random) -> None:
    process = cluster.bgpds[node].process
    assert process is not None
    process.signal(signal.SIGSTOP)
    try:
        time.sleep(random.uniform(1, 2.5 * HOLD))
    finally:
        process.signal(signal.SIGCONT)


LINK_DOWN = 2.0


def _link_down(cluster: Cluster, node: str, random: Random) -> None:
    port = f"port{cluster.names.index(node)}"
    cluster.switch.down(port)
    time.sleep(random.uniform(0.2, LINK_DOWN))
    cluster.switch.up(port)


def _renumbered(cluster: Cluster, node: str, random: Random) -> None:
    """Its address becomes another, as its Node says at the same time; the old one goes at once or some time after."""
    namespace = cluster.nodes[node]
    namespace.run("sysctl", "-qw", "net.ipv4.conf.ens5.promote_secondaries=1")
    free = {f"10.0.1.{last}" for last in range(100, 120)} - set(cluster.addresses.values())
    before = cluster.renumber(node, random.choice(sorted(free)))
    time.sleep(random.choice((0.0, random.uniform(0, 2 * HOLD))))
    namespace.ip("address", "del", f"{before}/24", "dev", "ens5")


def _session_reset(cluster: Cluster, node: str, random: Random) -> None:
    bgpd = cluster.bgpds[node]
    bgpd.act("reset", random.choice(sorted(bgpd.peers())))


def _route_deleted(cluster: Cluster, node: str, random: Random) -> None:
    route = random.choice([BLOCK[other] for other in cluster.names if other != node])
    cluster.nodes[node].ip("route", "del", route, "proto", "bird")


def _datastore_gone(cluster: Cluster, node: str, random: Random) -> None:
    resources = cluster.bgpds[node].resources
    away = resources.with_name("away")
    resources.rename(away)
    time.sleep(random.uniform(0.5, 4))
    away.rename(resources)


@contextmanager
def _limited(bgpd: Bgpd, kind: int, soft: int) -> Iterator[None]:
    """A running process with another limit of a resource."""
    assert bgpd.process is not None
    pid = bgpd.process.pid  # nsenter has become what it runs
    before = resource.prlimit(pid, kind)
    resource.prlimit(pid, kind, (soft, before[1]))
    try:
        yield
    finally:
        if bgpd.running:
            resource.prlimit(pid, kind, before)


def _no_descriptors(cluster: Cluster, node: str, random: Random) -> None:
    """All that it opens fails; a session that is reset meanwhile cannot come back before the end."""
    bgpd = cluster.bgpds[node]
    with _limited(bgpd, resource.RLIMIT_NOFILE, 8):
        time.sleep(random.uniform(0.5, 3))


def _no_memory(cluster: Cluster, node: str, random: Random) -> None:
    """It may live or die by it; who dies is started again, as by systemd."""
    bgpd = cluster.bgpds[node]
    assert bgpd.process is not None
    with open(f"/proc/{bgpd.process.pid}/statm") as statm:
        size = int(statm.read().split()[0]) * resource.getpagesize()
    with _limited(bgpd, resource.RLIMIT_AS, size + (1 << 20)):
        for name in bgpd.resources.glob("*.yaml"):
            name.touch()
        time.sleep(random.uniform(0.5, 2))
    end = time.monotonic() + 10.0
    while bgpd.running and time.monotonic() < end and not _lives(bgpd):
        time.sleep(0.1)  # on its way out
    if not bgpd.running:
        bgpd.start(wait=False)


def _lives(bgpd: Bgpd) -> bool:
    """Whether it answers, and so has not begun to end."""
    with suppress(*UNREADY):
        return bool(bgpd.ctl("status"))
    return False


def _disk_full(cluster: Cluster, node: str, random: Random) -> None:
    """Nothing can be kept in its state directory; orders are carried out all the same, and it starts as ever."""
    bgpd = cluster.bgpds[node]
    state = bgpd.directory / "state"
    state.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", state], check=True)
    try:
        (state / "full").write_bytes(bytes(4096))
        bgpd.kill()
        bgpd.start(wait=False)
        bgpd.wait(lambda: bgpd.ctl("status"), "it starts without room for its state", 30)
    finally:
        subprocess.run(["umount", "-l", state], check=True)


FAULTS = (
    Fault("killed", _killed),
    Fault("restarted", _restarted),
    Fault("upgraded", _upgraded),
    Fault("all killed", _all_killed, settled=30.0),
    Fault("hung", _hung, settled=30.0),
    Fault("link down", _link_down, cut_off=LINK_DOWN + 3.0, settled=30.0),
    Fault("renumbered", _renumbered, cut_off=HOLD + 3.0, settled=30.0),
    Fault("session reset", _session_reset),
    Fault("route deleted", _route_deleted, cut_off=0.5),
    Fault("datastore gone", _datastore_gone),
    Fault("no descriptors", _no_descriptors, settled=30.0),
    Fault("no memory", _no_memory, settled=30.0),
    Fault("disk full", _disk_full),
)


def plan(seed: int, nodes: tuple[str, ...]) -> Iterator[tuple[Fault, str, Random]]:
    """What happens, to whom, and the chance that it takes: the same for the same seed, without end. Every fault comes
    once before any comes again."""
    random = Random(seed)
    while True:
        for fault in random.sample(FAULTS, len(FAULTS)):
            yield fault, random.choice(nodes), Random(random.getrandbits(32))
