"""What is to be measured: the pieces of work, in order, and who is given which.

Used by everything else here. A ``Work`` is given to each of its subjects in turn; what comes back are ``Figures``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from bench.injector import SHAPES, Family
from tests.cluster.servers import apiserver_binary, missing

FLOORS = ("floor gateway", "floor nexthop-objects")
"""The kernel alone, in both of its ways (``floors``)."""
HOST_LOCAL = "host-local"
"""Debian's CNI plugins (``pods``)."""
CASES = {
    "cold": ("bgpd", "bird", "frr", *FLOORS),
    "failover": ("bgpd", "bird", "frr"),
    "latency": ("bgpd", "bird"),
    "start": ("bgpd", "bird"),
    "restart": ("bgpd", "bird"),
    "mesh": ("bgpd", "bird"),
    "churn": ("bgpd", "bird", "frr"),
    "idle": ("bgpd", "bird", "frr"),
    "cut": ("bgpd", "bird", "frr"),
    "cni": ("bgpd", HOST_LOCAL),
    "watch": ("bgpd",),
    "large": ("bgpd",),
    "fleet": ("bgpd",),
}
"""The cases and who can do their work. The withdrawal is the second half of ``cold``."""
SIZES = (1_000, 10_000, 100_000, 1_000_000)
LARGE = 100_000
"""The size of the cases that have only one, and the largest of all shapes but *shared*."""
MESH_PEERS = 1_000
SERVERS = ("etcd", "kubernetes")
"""Where a block is written to in *watch*."""
CUTS = 12
"""Of a path, in both directions."""
FLEET = 100
"""Readers of one API server in *fleet*."""
NODES = 5_000
"""Of the cluster in *large*."""
ADDS = 1_000
"""Addresses that the pods of one node have."""
ONCE = {"mesh": MESH_PEERS, "cut": CUTS, "cni": ADDS, "fleet": FLEET, "large": NODES}
"""Cases of one size, in the first round only."""

Figures = dict[str, float]
"""Metric -> value; the last word of a metric is its unit (``report.UNITS``)."""


class Failed(Exception):
    """A run that has no figures: why."""


class Work(NamedTuple):
    """One piece of work. ``once`` is in the first round only: too long, and too steady, to be repeated."""

    case: str
    family: Family = "ipv4"
    shape: str = ""
    size: int = 0
    once: bool = False

    def __str__(self) -> str:
        size = str(self.size or "")
        for zeros, unit in (("000000", "M"), ("000", "k")):
            if size.endswith(zeros):
                size = size.removesuffix(zeros) + unit
        words = [self.case, self.shape, size, "IPv6" if self.family == "ipv6" else ""]
        return " ".join(word for word in words if word)


def plan(only: list[str], sizes: list[int]) -> Iterator[Work]:
    """The works of some cases, in order. ``sizes`` are those of ``cold``."""
    for case in only:
        if case == "cold":
            for size in sizes:
                # The rounds are for the sizes that are judged; the others show how things grow.
                once = size not in (10_000, LARGE)
                for shape in SHAPES if size <= LARGE else SHAPES[:1]:
                    yield Work(case, "ipv4", shape, size, once)
                    if shape != "distinct" and size <= LARGE:
                        yield Work(case, "ipv6", shape, size, once=True)
        elif case in ("failover", "restart"):
            yield Work(case, "ipv4", "shared", LARGE)
        elif case == "churn":
            yield Work(case, "ipv4", "nodes", LARGE, once=True)
        elif case in ONCE:
            yield Work(case, size=ONCE[case], once=True)
        elif case == "watch":
            for server in SERVERS:
                yield Work(case, shape=server, once=True)
        else:
            yield Work(case)


def subjects(work: Work, peers: list[str]) -> list[str]:
    """Who is given a work: bgpd, those of ``peers`` that can do it, and what is no peer."""
    able = [name for name in CASES[work.case] if name in ("bgpd", *peers, *FLOORS, HOST_LOCAL)]
    return [name for name in able if not hopeless(work, name)]


def hopeless(work: Work, subject: str) -> str:
    """Why a subject is not given a work that it could do, or nothing. What many prefixes would show, 10,000 do too."""
    if work.case in ("watch", "fleet"):
        if lacking := missing("etcd", "etcdctl", "openssl"):
            return f"{lacking} is not installed"
        if work.shape != "etcd" and apiserver_binary() is None:
            return "no kube-apiserver: tests/cluster/build-apiserver makes one"
    if work[:3] == ("cold", "ipv4", "distinct") and work.size >= LARGE:
        if subject in ("bird", "floor gateway"):
            # At each new one the kernel walks the list of all gateways of the device, whoever asks.
            return "minutes of the kernel, with 100,000 distinct gateways in routes"
        if subject == "frr":
            return "minutes too, however it spends them"
    return ""
