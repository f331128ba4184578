"""A node's live parts for tests of what the operator sees: router and update groups for real, the doors by hand."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from bgpd.bgp.outbound import Outbound
from bgpd.config.reading import parse
from bgpd.fib.programmer import Programming
from bgpd.model.drain import Drain
from bgpd.model.peer import Peer
from bgpd.model.prefix import Address, Family
from bgpd.model.resources import Snapshot
from bgpd.model.route import FibKey, Forwarding, Origination, WorkloadRoute
from bgpd.model.status import PeerStatus
from bgpd.views.live import Parts
from bgpd.views.recent import Recently
from bgpd.views.why import Why
from tests.unit.builders import Core, pfx
from tests.unit.fake_views import mesh_peer
from tests.unit.target_contract import MemoryTarget


class Ground:
    """``statuses`` are the sessions, ``full`` those whose sockets take no more, ``conflicts`` what stands in our way,
    ``addresses`` the node's own, ``uplinks`` and ``settings`` (sysctl) what it forwards with, ``others`` and
    ``workloads`` the routes of others in the kernel. The node is worker1."""

    def __init__(self, *peers: Peer, snapshot: Snapshot | None = None) -> None:
        self.core = Core()
        self.config = parse("node: worker1", "test")
        self.snapshot, self.peering = snapshot, None
        self.originations: dict[Family, Origination] = {}
        self.drain = Drain.NONE
        self.statuses: list[PeerStatus] = [self.status(each) for each in peers]
        self.sessions = {each.id: each for each in peers}
        self.conflicts: dict[tuple[bytes, int], str] = {}
        self.addresses: set[Address] = set()
        self.uplinks: list[str] = ["ens5"]
        self.tunnels: dict[str, int] = {}
        self.settings: dict[str, int] = {}
        self.others: dict[bytes, list[str]] = {}
        self.workloads: set[WorkloadRoute] = set()
        self.recently, self.now = Recently(), 1000.0
        self.fibs = {family: Programming(family, MemoryTarget(), None) for family in Family}  # type: ignore[arg-type]
        self.full: set[str] = set()
        self.outbound = Outbound(lambda peer, octets: peer.id not in self.full)
        self.core.up(*peers)
        for each in peers:
            self.outbound.add_session(each, self.core.router.groups_of(each))

    @staticmethod
    def status(of: Peer) -> PeerStatus:
        address = ".".join(map(str, of.config.address))
        return replace(mesh_peer("other", address), id=of.id, families=("ipv4",))

    def install(self) -> None:
        """What is decided is in the kernel, and advertised."""
        wanted: dict[Family, dict[FibKey, Forwarding | None]] = {
            family: dict.fromkeys(programming.delta.wanted) for family, programming in self.fibs.items()
        }
        for (family, text, metric), value in self.core.fib.items():
            wanted[family][pfx(text), metric] = value
        for family, changes in wanted.items():
            delta, target = self.fibs[family].delta, self.fibs[family].target
            delta.want(changes)
            while batch := delta.due(0.0):
                delta.batch_done(batch, target.apply_now(batch.puts, batch.deletes), 0.0)
        while self.outbound.work(settled=True):
            pass

    def why(self, target: str) -> str:
        """The first explanation: the verdict, then a line a step."""
        return self.all(target)[0]

    def all(self, target: str) -> list[str]:
        """Every explanation of an address or a prefix."""
        found = Why(self.parts, self.now).why(target)
        return ["\n".join([f"{one.prefix}: {one.verdict}", *map(line, one.steps)]) for one in found]

    @property
    def parts(self) -> Parts:
        sessions = SimpleNamespace(statuses=lambda: self.statuses, peer=self.sessions.get)
        speaker: Any = SimpleNamespace(sessions=sessions, listen_error=None)
        kernel: Any = SimpleNamespace(
            resolve=self.core.resolver,
            interface_name={1: "lo", 2: "ens5"}.__getitem__,
            addresses=lambda family: {a for a in self.addresses if len(a) == family.octets},
            others=lambda family: self.others if family is Family.IPV4 else {},
            others_words=lambda family, prefix: self.others.get(prefix, []),
            workloads=lambda: {Family.IPV4: frozenset(self.workloads), Family.IPV6: frozenset()},
            overruns=0,
            tunnels=lambda: self.tunnels,
            uplinks=lambda: self.uplinks,
            setting=lambda name: self.settings.get(name, 1 if "forward" in name else 0),
            fibs={
                family: SimpleNamespace(
                    conflicts=self.conflicts if family is Family.IPV4 else {},
                    operations={},
                    errors={},
                    nexthop_objects=0,
                )
                for family in Family
            },
        )
        return Parts(
            self.core.router,
            speaker,
            self.outbound,
            kernel,
            self.fibs,
            self,
            self.recently,
        )


def line(step: Any) -> str:
    return f"{'+' if step.ok else '-'} {step.stage}: {step.text}"
