"""What is measured: bgpd, BIRD and FRR, each as a node with its neighbours, and what the kernel says of its processes.

Used by ``cases``. The processes and namespaces are those of the interop tests (``tests.netlab``); the configurations of
BIRD and FRR are in ``bench/peers``, to read. GoBGP is not among them: it writes no kernel routes of its own, it needs
FRR's zebra for that.
"""

from __future__ import annotations

import os
import string
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from bench.injector import ASN, Family
from bench.probe import Lags
from testing import daemons, namespaces, resources

PEERS = Path(__file__).parent / "peers"
PROTO_BIRD, PROTO_BGP = 12, 186
TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Neighbour:
    """One session of a node. ``passive`` waits to be dialled, as every node of a mesh does on one side."""

    address: str
    passive: bool = False


@dataclass(frozen=True)
class Node:
    """What a subject is to be. ``addresses`` have prefix lengths; ``mesh``: the neighbours are nodes, by IPv4."""

    addresses: dict[Family, str]
    neighbours: tuple[Neighbour, ...]
    family: Family = "ipv4"
    mesh: bool = False
    pool: str = ""
    """Workloads and blocks inside it are announced; without one nothing is."""

    def address(self, family: Family) -> str:
        return self.addresses[family].split("/")[0]

    @property
    def router_id(self) -> str:
        return self.address("ipv4")


def template(name: str, **values: object) -> str:
    return string.Template((PEERS / name).read_text()).substitute({k: str(v) for k, v in values.items()})


class Subject:
    """A node that runs one of the daemons in a namespace."""

    name = ""
    proto = PROTO_BIRD
    """Of its kernel routes."""

    def __init__(self, namespace: namespaces.Namespace, node: Node, label: str = "this") -> None:
        raise NotImplementedError

    def start(self) -> Self:
        """Starts it; returns when it answers."""
        raise NotImplementedError

    def launch(self) -> Self:
        """Starts it and does not wait, for cases whose clock starts here."""
        raise NotImplementedError

    @property
    def pids(self) -> list[int]:
        """Its processes."""
        raise NotImplementedError

    def alive(self) -> bool:
        return all(Path(f"/proc/{pid}/stat").exists() for pid in self.pids)

    def memory(self, field_name: str = "VmHWM") -> float:
        """MiB of all its processes: ``VmHWM`` at their peak, ``VmRSS`` now."""
        return sum(status_kib(pid, field_name) for pid in self.pids) / 1024

    def cpu(self) -> float:
        """Seconds of processor time that its processes have used so far, user and system."""
        return sum(_cpu_ticks(pid) for pid in self.pids) / TICK

    def unprobe(self) -> None:
        """From now on nothing of the benchmark's takes processor time inside its processes."""


def status_kib(pid: int | str, field_name: str) -> int:
    """A field of a process's ``status``, in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field_name}:"):
            return int(line.split()[1])
    raise LookupError(f"process {pid} has no {field_name}")


def _cpu_ticks(pid: int) -> int:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(words[11]) + int(words[12])


class Bgpd(Subject):
    """bgpd with the probe of its event loop in it."""

    name = "bgpd"

    def __init__(self, namespace: namespaces.Namespace, node: Node, label: str = "this") -> None:
        self.label, self.node = label, node
        objects: list[dict[str, Any]] = [
            resources.bgp_configuration(ASN, mesh=node.mesh),
            resources.node(label, node.addresses.get("ipv4"), node.addresses.get("ipv6")),
        ]
        if node.pool:
            objects.append(resources.pool("pool", node.pool))
        for number, neighbour in enumerate(node.neighbours):
            if node.mesh:
                objects.append(resources.node(f"node{number}", f"{neighbour.address}/32"))
            else:
                objects.append(resources.bgp_peer(f"peer{number}", neighbour.address, ASN))
        self.daemon = _ProbedBgpd(namespace, label, {"resources": objects})
        self.lags = Lags(self.daemon.probe_path)

    def start(self) -> Self:
        self.lags.clear(on=True)
        self.daemon.start()
        return self

    def launch(self) -> Self:
        self.lags.clear(on=True)
        self.daemon.start(wait=False)
        return self

    def kill(self) -> None:
        self.daemon.kill()

    @property
    def pids(self) -> list[int]:
        assert self.daemon.process is not None
        return [self.daemon.process.pid]

    def ready(self) -> bool:
        """Whether it says that it is ready."""
        return bool(self.daemon.ctl("health", check="ready")["ok"])

    def in_sync(self) -> bool:
        """Whether its start is over."""
        return bool(self.daemon.status()["in_sync"])

    def unprobe(self) -> None:
        self.lags.clear(on=False)


class _ProbedBgpd(daemons.Bgpd):
    @property
    def probe_path(self) -> Path:
        return self.directory / "lags"

    def start(self, wait: bool = True, *words: str) -> Self:
        run = (sys.executable, "-m", "bench.probe", self.probe_path, "run", "--config", self.config_path)
        self.launch(
            *run,
            *words,
            cwd=namespaces.PROJECT,
            env={**os.environ, "PYTHONPATH": str(namespaces.PROJECT)},
        )
        if wait:
            self.wait(lambda: self.ctl("status"), "the API answers", 30)
        return self


class Bird(Subject):
    """BIRD 2."""

    name = "bird"

    def __init__(self, namespace: namespaces.Namespace, node: Node, label: str = "this") -> None:
        neighbours = "\n".join(
            f"protocol bgp n{number} from neighbour {{ neighbor {neighbour.address} as {ASN};"
            f"{' passive on;' if neighbour.passive else ''} }}"
            for number, neighbour in enumerate(node.neighbours)
        )
        config = template(
            "bird.conf",
            asn=ASN,
            channel=node.family,
            learn="learn;" if node.pool else "# learn;",
            neighbours=neighbours,
        )
        self.daemon = daemons.Bird(namespace, config, node.router_id, f"bird-{label}")

    def start(self) -> Self:
        self.daemon.start()
        return self

    def launch(self, recover: bool = False) -> Self:
        self.daemon.launch(
            *(
                "bird",
                "-f",
                "-c",
                self.daemon.directory / "bird.conf",
                "-s",
                self.daemon.directory / "bird.ctl",
            ),
            *("-P", self.daemon.directory / "bird.pid", *(["-R"] if recover else [])),
        )
        return self

    def kill(self) -> None:
        self.daemon.kill()

    def ready(self) -> bool:
        """Whether it answers."""
        return "BIRD" in self.daemon.birdc("show status")

    def in_sync(self) -> bool:
        """Whether its graceful restart is over."""
        status = self.daemon.birdc("show status")
        return "Daemon is up" in status and "recovery" not in status

    @property
    def pids(self) -> list[int]:
        assert self.daemon.process is not None
        return [self.daemon.process.pid]


class Frr(Subject):
    """FRR's zebra and bgpd together."""

    name = "frr"
    proto = PROTO_BGP

    def __init__(self, namespace: namespaces.Namespace, node: Node, label: str = "this") -> None:
        config = template(
            "frr.conf",
            asn=ASN,
            router_id=node.router_id,
            family=node.family,
            neighbours="\n".join(
                f" neighbor {neighbour.address} peer-group nodes" for neighbour in node.neighbours
            ),
        )
        self.daemon = daemons.Frr(namespace, config, f"frr-{label}")

    def start(self) -> Self:
        self.daemon.start()
        return self

    @property
    def pids(self) -> list[int]:
        assert self.daemon.process is not None and self.daemon.zebra is not None
        return [self.daemon.process.pid, self.daemon.zebra.pid]


SUBJECTS: dict[str, type[Subject]] = {"bgpd": Bgpd, "bird": Bird, "frr": Frr}
