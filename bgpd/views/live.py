"""The live parts that every view reads, and how their values are written as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from bgpd.bgp.outbound import Outbound
from bgpd.bgp.speaker import Speaker
from bgpd.config.config import Config
from bgpd.fib.programmer import Programming
from bgpd.kernel.kernel import Kernel
from bgpd.model.doors import Ambiguous, NotFound
from bgpd.model.drain import Drain
from bgpd.model.peer import Peer, PeerId
from bgpd.model.prefix import Address, Family, Prefix, address_text, host_prefix
from bgpd.model.resources import Snapshot
from bgpd.model.route import Attributes, FibKey, Forwarding, Origination, Path, SegmentType, Via
from bgpd.model.status import FamilyCounts, PeerStatus, SessionState
from bgpd.rib.router import Router
from bgpd.rules.imports import starts_elsewhere
from bgpd.rules.own import hiding_text
from bgpd.rules.peering import Peering
from bgpd.views.names import addresses_of, choices, peers_of
from bgpd.views.recent import Recently


class Intent(Protocol):
    """What this node is meant to do, as the views read it; ``daemon.intent`` holds it."""

    @property
    def config(self) -> Config: ...

    @property
    def snapshot(self) -> Snapshot | None:
        """The newest whole resources; ``None`` until the first."""
        ...

    @property
    def peering(self) -> Peering | None:
        """The sessions that are wanted; ``None`` until the first resources."""
        ...

    @property
    def originations(self) -> Mapping[Family, Origination]:
        """What this node announces and keeps; empty until the first resources."""
        ...

    @property
    def drain(self) -> Drain:
        """How far this node is taken out of service."""
        ...

    def due(self, now: float) -> bool:
        """Whether what it is meant to do is another by the time alone."""
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What the daemon is made of, as far as it is shown."""

    router: Router
    speaker: Speaker
    outbound: Outbound
    kernel: Kernel
    fibs: Mapping[Family, Programming]
    intent: Intent
    recently: Recently
    memory: Callable[[PeerId], int] = lambda _: 0
    """Octets that a peer holds."""

    def peers(self, name: str | None = None) -> list[PeerStatus]:
        """Every wanted session, or those of a name (``NotFound``), the counts filled in."""
        statuses = self.speaker.sessions.statuses() if name is None else self.find_peers(name)
        return [self._with_counts(status) for status in statuses]

    def _with_counts(self, status: PeerStatus) -> PeerStatus:
        counts, refused, first_as = {}, Counter[str](), 0
        for family in Family:
            if family.label in status.families:
                received, accepted, stale = self.router.counts(status.id, family)
                advertised = self.outbound.advertised(status.id, family)
                counts[family.label] = FamilyCounts(received, accepted, advertised, stale)
                if received != accepted:
                    for reason, count in self.router.explain.refusals(status.id, family).items():
                        refused[reason.value] += count
                if status.first_as:  # most peers never announced such a route: nothing to count
                    first_as += self.router.explain.starting_elsewhere(status.id, family)
        queue = self.outbound.queue_length(status.id)
        stale_kept = any(count.stale for count in counts.values())
        return replace(
            status,
            counts=counts,
            output_queue=queue,
            graceful_restart_active=stale_kept,
            refused=dict(refused),
            first_as=first_as,
            memory=self.memory(status.id),
        )

    def find_peers(self, name: str) -> list[PeerStatus]:
        """The peers of a name (``views.names``), one at least; ``NotFound``."""
        found = peers_of(name, self.intent.snapshot, self.speaker.sessions.statuses())
        if not found:
            raise NotFound(
                f"no peer is named {name!r}, none has that address, and no BGPPeer, node or pod of that name is one; "
                "bgpctl peers lists them"
            )
        return found

    def find_peer(self, name: str) -> PeerStatus:
        """The one peer of a name; ``NotFound`` or ``Ambiguous``."""
        found = self.find_peers(name)
        if len(found) > 1:
            raise Ambiguous(f"{name!r} may be any of {choices(peer.id for peer in found)}")
        return found[0]

    def addresses(self, name: str) -> list[Address]:
        """The addresses of a pod, a node or a peer; ``ValueError``."""
        found = addresses_of(name, self.intent.snapshot, self.speaker.sessions.statuses())
        if not found:
            raise ValueError(
                f"{name!r} is not a prefix such as 10.48.0.0/26, nor an address, nor a pod, node or peer known here"
            )
        return found

    def established(self, family: Family) -> list[Peer]:
        """The sessions that carry a family now."""
        found = []
        for status in self.speaker.sessions.statuses():
            if status.state is SessionState.ESTABLISHED:
                peer = self.speaker.sessions.peer(status.id)
                if peer and family in peer.families:
                    found.append(peer)
        return found

    def hidden(self, family: Family, prefix: Prefix) -> str | None:
        """Why what peers say of a prefix is not used here at all."""
        found = self.router.explain.hiding(family, prefix)
        return None if found is None else f"hidden: {hiding_text(found)}"

    def held_keys(self, family: Family, prefix: Prefix) -> list[FibKey]:
        """The kernel's keys of ours for a prefix: the usual metric's, and what an earlier daemon left."""
        delta = self.fibs[family].delta
        installed = delta.installed.entries
        usual = self.router.explain.fib_key(family, prefix)
        found = [usual] if usual in installed else []
        if delta.adopted:
            found += [key for key in installed if key[0] == prefix and key != usual]
        return found

    @staticmethod
    def gateways_text(value: Forwarding) -> str:
        """The gateways of a route, as the next hop column shows them."""
        if not isinstance(value, Via):
            return ""
        return ", ".join(address_text(hop.gateway) if hop.gateway else "on-link" for hop in value.hops)

    def forwarding_text(self, value: Forwarding) -> str:
        """As ``ip route`` says it: ``via 10.0.1.30 dev ens5``, ``blackhole``."""
        if not isinstance(value, Via):
            return "blackhole"
        legs = []
        for hop in value.hops:
            gateway = f"via {address_text(hop.gateway)} " if hop.gateway else ""
            onlink = " onlink" if hop.onlink else ""
            legs.append(f"{gateway}dev {self.kernel.interface_name(hop.ifindex)}{onlink}")
        return " and ".join(legs)


def as_path_text(attributes: Attributes) -> str:
    """The AS path as people write it: ``65001 65002 {65003,65004}``."""
    parts = []
    for kind, asns in attributes.as_path.segments():
        if kind == SegmentType.AS_SEQUENCE:
            parts.append(" ".join(map(str, asns)))
        elif kind == SegmentType.AS_SET:
            parts.append("{" + ",".join(map(str, asns)) + "}")
        else:
            parts.append("(" + " ".join(map(str, asns)) + ")")
    return " ".join(parts)


def local_words(addresses: Iterable[Address], connected: Mapping[Prefix, str]) -> dict[Prefix, str]:
    """The node's own addresses and connected subnets as the router keeps them: prefix -> what it is, in words."""
    words = {prefix: f"the connected subnet of {interface}" for prefix, interface in connected.items()}
    for address in addresses:
        words[host_prefix(address)] = f"an address of this node ({address_text(address)})"
    return words


def first_as_word(path: Path) -> str:
    """Of a path that does not start with its external peer's AS: that it does not."""
    if not starts_elsewhere(path):
        return ""
    return f"its AS path does not start with the peer's AS {path.peer.config.asn}: a route server's"
