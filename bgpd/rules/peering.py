"""Resources -> the sessions this node must have: the node-to-node mesh and BGPPeers (calico.md §2.5, §2.6).

Called by the daemon at every snapshot and reload. The differences from Calico are deliberate: what would give BIRD a
broken configuration is a named problem of that one peer; a mesh session to an address that a BGPPeer names too is not
made twice; a node without an ASNumber has the cluster's AS, not that of whoever looks at it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from bgpd.config import Config
from bgpd.model.peer import PeerConfig, PeerId, PeerKind
from bgpd.model.prefix import Address, Family, address_text, family_of
from bgpd.model.resources import BGPConfiguration, BGPPeer, Node, Problem, Snapshot
from bgpd.rules.selector import parse

DEFAULT_ASN = 64512
DEFAULT_PORT = 179


class Listen(NamedTuple):
    """Where this node listens for peers."""

    addresses: tuple[Address, ...]
    port: int


class Peering(NamedTuple):
    """All sessions of this node, whole."""

    peers: Mapping[PeerId, PeerConfig]
    listen: Listen
    asn: int
    router_id: Address
    problems: tuple[Problem, ...]


def peers(snapshot: Snapshot, node: str, config: Config) -> Peering:
    """The sessions that ``node`` must have; independent of the order of the snapshot's mappings."""
    return _Peering(snapshot, node, config).result()


def hashed_router_id(node: str) -> Address:
    """A router id made of a node's name, as Calico's ``CALICO_ROUTER_ID=hash``: never of class D or E."""
    octets = hashlib.sha256(node.encode()).digest()[:4]
    return Address(bytes([octets[0] - 32 if octets[0] > 223 else octets[0]]) + octets[1:])


class _Wanted(NamedTuple):
    """A session before its options are laid over it."""

    kind: PeerKind
    source: str
    address: Address
    port: int
    asn: int
    passive: bool
    suffix: str = ""


class _Peering:
    def __init__(self, snapshot: Snapshot, node: str, config: Config) -> None:
        self.snapshot, self.config = snapshot, config
        self.own = snapshot.nodes.get(node) or Node(node)
        self.cluster = snapshot.bgp_configurations.get("default") or BGPConfiguration()
        self.asn = self.asn_of(self.own)
        self.problems: list[Problem] = []
        self.owners = {
            address: other
            for _, other in sorted(snapshot.nodes.items(), reverse=True)
            for address in (other.ipv4, other.ipv6)
            if address is not None
        }

    def result(self) -> Peering:
        router_id = self.router_id()
        found: dict[PeerId, PeerConfig] = {}
        taken: dict[tuple[Address, int], PeerConfig] = {}
        for wanted in (*self.bgp_peers(), *self.mesh()):
            peer = self.peer(wanted, router_id)
            first = found.get(peer.id) or taken.get((peer.address, peer.port))
            if first is None:
                found[peer.id] = taken[peer.address, peer.port] = peer
            elif first.asn != peer.asn and peer.kind is not PeerKind.MESH:
                message = f"{first.source} has the same peer in AS {first.asn} and comes first: ignored"
                self.problems.append(Problem(peer.source, "spec.peerIP", message))
        self.unused_options(found)
        self.shared_addresses()
        if self.own.name in self.snapshot.nodes and self.own.ipv4 is None and self.own.ipv6 is None:
            message = "no BGP address, neither IPv4 nor IPv6: no session is possible"
            self.problems.append(Problem(f"Node {self.own.name}", "spec.bgp", message))
        return Peering(found, self.listen(), self.asn, router_id, tuple(self.problems))

    def unused_options(self, found: Mapping[PeerId, PeerConfig]) -> None:
        """A name in the configuration that no session has is a slip more often than a plan."""
        known = {*found, *(address_text(peer.address) for peer in found.values())}
        for name in sorted(self.config.bgp.peers.keys() - known):
            message = "no session of this node has this name or address"
            self.problems.append(Problem("configuration", f"bgp.peers.{name}", message))

    def shared_addresses(self) -> None:
        """Two Nodes with one address: a session can be with one of them only."""
        for _, node in sorted(self.snapshot.nodes.items()):
            for address in (node.ipv4, node.ipv6):
                if address is not None and (first := self.owners[address]) is not node:
                    message = f"Node {first.name} has the same address, {address_text(address)}"
                    self.problems.append(Problem(f"Node {node.name}", "spec.bgp", message))

    def router_id(self) -> Address:
        chosen = self.config.router_id
        if isinstance(chosen, bytes):
            return Address(chosen)
        if chosen == "auto" and self.own.ipv4 is not None:
            return self.own.ipv4
        return hashed_router_id(self.own.name)

    def listen(self) -> Listen:
        mine = self.snapshot.bgp_configurations.get(f"node.{self.own.name}") or BGPConfiguration()
        by_node = mine.bind_mode_node_ip
        if by_node is None:
            by_node = self.cluster.bind_mode_node_ip
        addresses = tuple(self.config.bgp.listen)
        if by_node:
            addresses = tuple(a for a in (self.own.ipv4, self.own.ipv6) if a is not None)
        return Listen(addresses, self.port_of(self.own))

    def asn_of(self, node: Node) -> int:
        return node.asn or self.cluster.as_number or DEFAULT_ASN

    def port_of(self, node: Node) -> int:
        mine = self.snapshot.bgp_configurations.get(f"node.{node.name}")
        return (mine and mine.listen_port) or self.cluster.listen_port or self.config.bgp.port

    def waits(self, address: Address) -> bool:
        """Whether we leave the dialling to the other end: BIRD nodes compare the texts of the two addresses too."""
        own = self.own.address(family_of(address))
        return own is not None and address_text(address) > address_text(own)

    def mesh(self) -> Iterator[_Wanted]:
        if self.cluster.node_to_node_mesh_enabled is False or self.own.route_reflector_cluster_id is not None:
            return
        for name, other in sorted(self.snapshot.nodes.items()):
            if other.route_reflector_cluster_id is None:
                yield from self.to_node(other, PeerKind.MESH, f"Node {name}", mesh=True)

    def to_node(
        self,
        other: Node,
        kind: PeerKind,
        source: str,
        families: tuple[Family, ...] = tuple(Family),
        mesh: bool = False,
    ) -> Iterator[_Wanted]:
        """Sessions to a node of the cluster, one a family that both have an address of."""
        for family in families:
            address, own = other.address(family), self.own.address(family)
            if other.name != self.own.name and address not in (None, own) and own is not None:
                assert address is not None
                passive = mesh and self.waits(address)
                yield _Wanted(kind, source, address, self.port_of(other), self.asn_of(other), passive)

    def bgp_peers(self) -> Iterator[_Wanted]:
        """Global ones first: with the same address and port, the first wins. Then what others' peers ask of us."""
        resources = [peer for _, peer in sorted(self.snapshot.peers.items())]
        usable = [peer for peer in resources if self.consistent(peer)]
        usable.sort(key=lambda peer: _kind(peer) is PeerKind.NODE)
        for peer in usable:
            if self.is_local(peer, self.own):
                yield from self.forward(peer)
        for peer in usable:
            if peer.reverse:
                yield from self.backward(peer)

    def consistent(self, peer: BGPPeer) -> bool:
        """Whether the fields of a BGPPeer fit together; a problem says which do not."""
        wrong = ""
        if peer.node is not None and peer.node_selector is not None:
            wrong, path = "node and nodeSelector exclude each other", "spec.nodeSelector"
        elif (peer.peer_ip is None) == (peer.peer_selector is None):
            wrong, path = "expected one of peerIP and peerSelector", "spec.peerIP"
        elif peer.peer_selector is not None and peer.as_number is not None:
            wrong, path = (
                "with peerSelector the AS is that of each node selected: leave it out",
                "spec.asNumber",
            )
        for name, selector in (("nodeSelector", peer.node_selector), ("peerSelector", peer.peer_selector)):
            try:
                parse(selector or "")
            except ValueError as error:
                wrong, path = str(error), f"spec.{name}"
        if wrong:
            self.problem(peer, path, wrong)
        return not wrong

    def problem(self, peer: BGPPeer, path: str, message: str) -> None:
        self.problems.append(Problem(f"BGPPeer {peer.name}", path, f"{message}: not peered with"))

    def is_local(self, peer: BGPPeer, node: Node) -> bool:
        """Whether a node is on the near side of a BGPPeer."""
        if peer.node is not None:
            return peer.node == node.name
        return peer.node_selector is None or parse(peer.node_selector).matches(node.labels)

    def forward(self, peer: BGPPeer) -> Iterator[_Wanted]:
        """Sessions of a BGPPeer that this node is on the near side of."""
        kind, source = _kind(peer), f"BGPPeer {peer.name}"
        if peer.peer_selector is not None:
            selector = parse(peer.peer_selector)
            for _, other in sorted(self.snapshot.nodes.items()):
                if selector.matches(other.labels):
                    yield from self.to_node(other, kind, source)
            return
        address = peer.peer_ip
        if address is None or address in (self.own.ipv4, self.own.ipv6):
            return
        family = family_of(address)
        if self.own.address(family) is None:
            self.problem(peer, "spec.peerIP", f"this node has no {family.label} address")
            return
        owner = self.owners.get(address)
        asn = peer.as_number or (self.asn_of(owner) if owner else None)
        if asn is None:
            self.problem(peer, "spec.asNumber", "expected, since peerIP is not a node of the cluster")
            return
        port = self.port_of(owner) if owner is not None and asn == self.asn_of(owner) else DEFAULT_PORT
        passive = kind is PeerKind.GLOBAL and owner is not None and self.waits(address)
        suffix = f"_port_{peer.peer_port}" if peer.peer_port else ""
        yield _Wanted(kind, source, address, peer.peer_port or port, asn, passive, suffix)

    def backward(self, peer: BGPPeer) -> Iterator[_Wanted]:
        """Sessions back to the near side of a BGPPeer that this node is on the far side of."""
        families: tuple[Family, ...] = tuple(Family)
        if peer.peer_selector is not None:
            if not parse(peer.peer_selector).matches(self.own.labels):
                return
        else:
            families = tuple(f for f in Family if self.own.address(f) == peer.peer_ip)
            if not families:
                return
        for _, other in sorted(self.snapshot.nodes.items()):
            if self.is_local(peer, other):
                yield from self.to_node(other, _kind(peer), f"BGPPeer {peer.name}", families)

    def peer(self, wanted: _Wanted, router_id: Address) -> PeerConfig:
        prefix = {PeerKind.MESH: "Mesh", PeerKind.GLOBAL: "Global", PeerKind.NODE: "Node"}[wanted.kind]
        text = address_text(wanted.address).replace(".", "_").replace(":", "_")
        name = PeerId(f"{prefix}_{text}{wanted.suffix}")
        options = self.config.bgp.for_peer(name, wanted.address)
        transport = family_of(wanted.address)
        families = options.families or frozenset({transport})
        next_hops = {f: self.own.address(f) for f in families if f is not transport}
        return PeerConfig(
            id=name,
            kind=wanted.kind,
            source=wanted.source,
            address=wanted.address,
            port=wanted.port,
            asn=wanted.asn,
            local_asn=self.asn,
            router_id=router_id,
            local_address=self.own.address(transport),
            next_hops={family: address for family, address in next_hops.items() if address is not None},
            families=families,
            passive=wanted.passive,
            hold_time=float(options.hold_time),
            max_prefixes=options.max_prefixes,
        )


def _kind(peer: BGPPeer) -> PeerKind:
    return PeerKind.GLOBAL if peer.node is None and peer.node_selector is None else PeerKind.NODE
