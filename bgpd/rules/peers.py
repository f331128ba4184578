"""Whom this node is to peer with: the mesh, BGPPeers from both of their sides, pods of its own (calico.md §2.6, §4.3).

``rules.peering`` takes what is wanted here, in the order in which it counts, and makes sessions of it. The near side of
a BGPPeer are the nodes that ``node`` or ``nodeSelector`` names, all without either; the far side is whom they peer
with. Where a node of the cluster is on the far side it peers back (the reverse), with the same settings. The
differences from Calico are deliberate. Fields that do not fit together are a named problem of that one peer.
``localASNumber`` and ``numAllowedLocalASNumbers`` count with ``peerSelector`` too, and the far side of a BGPPeer with
``localASNumber`` expects that AS number. A node without an ASNumber has the cluster's, not that of whoever looks at it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from bgpd.config.config import Config
from bgpd.model.peer import PeerId, PeerKind, peer_id
from bgpd.model.prefix import Address, Family, address_text, family_of, is_link_local, is_loopback
from bgpd.model.resources import BGPPeer, Node, Problem, Snapshot
from bgpd.rules.selector import parse

DEFAULT_ASN = 64512
DEFAULT_PORT = 179


class Wanted(NamedTuple):
    """A session that a resource asks for, before this node's own options are laid over it."""

    kind: PeerKind
    source: str
    """The resource behind it, as ``PeerConfig.source`` names it."""
    address: Address
    port: int
    asn: int
    passive: bool
    local_address: Address | None
    settings: BGPPeer
    """What it says of the session; the fields that say with whom are empty."""
    cluster_id: Address | None = None
    """The peer's, where it is a route reflector of the cluster."""
    interface: str | None = None
    named_port: int | None = None
    """Part of the name: a port that a BGPPeer has, or that the resources say the node listens on."""
    node: str | None = None
    """The Node that the peer is, where a selector or the mesh means that."""
    reverse: bool = False
    """Nobody named the peer for this node: it peers back."""

    @property
    def name(self) -> PeerId:
        zone = f"%{self.interface}" if self.interface else ""
        port = f"_port_{self.named_port}" if self.named_port else ""
        return peer_id(self.kind, address_text(self.address), f"{zone}{port}")

    @property
    def place(self) -> tuple[Address, str | None, int]:
        """What no two sessions share."""
        return self.address, self.interface, self.port


class Cluster:
    """The cluster as one of its nodes sees it."""

    def __init__(
        self, snapshot: Snapshot, node: str, config: Config, here: frozenset[Address] = frozenset()
    ) -> None:
        self.snapshot, self.config = snapshot, config
        self.own = snapshot.nodes.get(node) or Node(node)
        self.settings = snapshot.settings()
        self.owners = {
            address: other
            for _, other in sorted(snapshot.nodes.items(), reverse=True)
            for address in (other.ipv4, other.ipv6)
            if address is not None
        }
        """Which node has an address; the first by name where several have it."""
        self.here = here | {address for address in (self.own.ipv4, self.own.ipv6) if address is not None}
        """Addresses of this machine: those that lie on it today, and those that its Node gives it."""
        self.problems: list[Problem] = []
        self.refused: set[Address] = set()
        """Addresses that are named as peers and not peered with."""

    def asn_of(self, node: Node) -> int:
        return node.asn or self.settings.as_number or DEFAULT_ASN

    def listen_port_of(self, node: Node) -> int | None:
        """The ``listenPort`` that the resources give a node."""
        return self.snapshot.settings(node.name).listen_port or self.settings.listen_port

    def port_of(self, node: Node) -> int:
        return self.listen_port_of(node) or self.config.bgp.port

    def waits(self, address: Address) -> bool:
        """Whether we leave the dialling to the other end: BIRD nodes compare the texts of the two addresses too."""
        own = self.own.address(family_of(address))
        return own is not None and address_text(address) > address_text(own)

    def refuse(self, spec: BGPPeer, path: str, message: str, *, harmless: bool = False) -> None:
        """A BGPPeer that is not peered with, for what is wrong at a path of it."""
        self.problems.append(Problem(f"BGPPeer {spec.name}", path, f"{message}: not peered with", harmless))
        if spec.peer_ip is not None:
            self.refused.add(spec.peer_ip)

    def wanted(self) -> Iterator[Wanted]:
        """All sessions of the node: where two have one ``place`` or one name, the first counts.

        Global BGPPeers, node-specific ones, the reverse of both, the mesh.
        """
        if ("BGPConfiguration", "default") in self.snapshot.unusable:
            # Without it we know neither our AS nor the mesh's password, nor whether there is a mesh.
            message = "cannot be used: no session is made"
            self.problems.append(Problem("BGPConfiguration default", "", message))
            return
        usable = []
        for _, spec in sorted(self.snapshot.peers.items()):
            if (flaw := _flaw(spec)) is None:
                usable.append(spec)
            else:
                self.refuse(spec, *flaw)
        usable.sort(key=lambda spec: _kind(spec) is PeerKind.NODE)
        for session in self._asked_for(usable):
            here = session.address in self.here or is_loopback(session.address)
            if here and not is_link_local(session.address):
                self._refuse_itself(session)
            else:
                yield session

    def _asked_for(self, usable: list[BGPPeer]) -> Iterator[Wanted]:
        for spec in usable:
            if _is_near(spec, self.own):
                yield from self._forward(spec)
        for spec in usable:
            if spec.reverse and _is_far(spec, self.own):
                yield from self._backward(spec)
        yield from self._mesh()

    def _refuse_itself(self, session: Wanted) -> None:
        """Whoever has an address of this machine is this machine: nobody is dialled, whatever the port."""
        text = address_text(session.address)
        whose = "this node's own address"
        if session.address not in (self.own.ipv4, self.own.ipv6):
            whose = "an address of this machine"
        # The pods that a selector matches may use the node's network.
        harmless = session.kind is PeerKind.LOCAL_WORKLOAD
        self.problems.append(Problem(session.source, "", f"{text} is {whose}: not peered with", harmless))
        self.refused.add(session.address)

    def _mesh(self) -> Iterator[Wanted]:
        if (
            self.settings.node_to_node_mesh_enabled is False
            or self.own.route_reflector_cluster_id is not None
        ):
            return
        settings = BGPPeer(
            "",
            password=self.settings.node_mesh_password,
            max_restart_time=self.settings.node_mesh_max_restart_time,
        )
        for name, other in sorted(self.snapshot.nodes.items()):
            if other.route_reflector_cluster_id is None:
                for session in self._to_node(other, PeerKind.MESH, f"Node {name}", settings):
                    yield session._replace(passive=self.waits(session.address))

    def _to_node(
        self, other: Node, kind: PeerKind, source: str, settings: BGPPeer, asn: int | None = None
    ) -> Iterator[Wanted]:
        """Sessions to a node of the cluster, one a family that both have an address of."""
        for family in Family:
            address, own = other.address(family), self.own.address(family)
            if other.name != self.own.name and own is not None and address is not None:
                yield Wanted(
                    kind=kind,
                    source=source,
                    address=address,
                    port=self.port_of(other),
                    asn=asn or self.asn_of(other),
                    passive=False,
                    local_address=own if settings.use_node_ip else None,
                    settings=settings,
                    cluster_id=other.route_reflector_cluster_id,
                    named_port=None if kind is PeerKind.MESH else self.listen_port_of(other),
                    node=other.name,
                )

    def _forward(self, spec: BGPPeer) -> Iterator[Wanted]:
        """Sessions of a BGPPeer that this node is on the near side of."""
        if spec.local_workload_selector is not None:
            yield from self._to_workloads(spec)
        elif spec.peer_selector is not None:
            settings = _settings(spec)
            for _, other in sorted(self.snapshot.nodes.items()):
                if _is_far(spec, other):
                    asn = self._expected(spec, other)
                    yield from self._to_node(other, _kind(spec), f"BGPPeer {spec.name}", settings, asn)
        elif spec.peer_ip in (self.own.ipv4, self.own.ipv6):
            # A BGPPeer of all nodes that names a route reflector means the others where that reads it.
            meant = spec.node is None and self.own.route_reflector_cluster_id is not None
            self.refuse(spec, "spec.peerIP", "it is this node's own address", harmless=meant)
        else:
            yield from self._to_address(spec)

    def _to_address(self, spec: BGPPeer) -> Iterator[Wanted]:
        address, kind = spec.peer_ip, _kind(spec)
        assert address is not None
        family, near = family_of(address), is_link_local(address)
        own = None if near else self.own.address(family)
        if own is None and not near:
            self.refuse(spec, "spec.peerIP", f"this node has no {family.label} address")
            return
        owner = self.owners.get(address)
        asn = spec.as_number or (self._expected(spec, owner) if owner else None)
        if asn is None:
            self.refuse(spec, "spec.asNumber", "expected, since peerIP is not a node of the cluster")
            return
        node = owner if owner and asn == self._expected(spec, owner) else None
        yield Wanted(
            kind=kind,
            source=f"BGPPeer {spec.name}",
            address=address,
            port=spec.peer_port or (self.port_of(node) if node else DEFAULT_PORT),
            asn=asn,
            passive=kind is PeerKind.GLOBAL and owner is not None and self.waits(address),
            local_address=own if spec.use_node_ip else None,
            settings=_settings(spec),
            cluster_id=owner.route_reflector_cluster_id if owner else None,
            interface=spec.peer_interface,
            named_port=spec.peer_port or (self.listen_port_of(node) if node else None),
        )

    def _to_workloads(self, spec: BGPPeer) -> Iterator[Wanted]:
        """Felix evaluates the selector: its files name the pods of this node, and the BGPPeer of each. Pods dial."""
        for field, value in (("password", spec.password), ("ttlSecurity", spec.ttl_security)):
            if value is not None:
                message = "has no effect on local workloads: ignored"
                self.problems.append(Problem(f"BGPPeer {spec.name}", f"spec.{field}", message))
        settings = BGPPeer("", local_as_number=spec.local_as_number, filters=spec.filters)
        ours = self.settings.local_workload_peering_ipv4, self.settings.local_workload_peering_ipv6
        asn = spec.as_number
        assert asn is not None
        addresses = sorted(
            (address, local)
            for workload in self.snapshot.local_workloads
            if workload.peer_name == spec.name
            for address, local in zip((workload.ipv4, workload.ipv6), ours, strict=True)
            if address is not None
        )
        for address, local in addresses:
            source = f"BGPPeer {spec.name}"
            kind = PeerKind.LOCAL_WORKLOAD
            yield Wanted(kind, source, address, DEFAULT_PORT, asn, True, local, settings)

    def _backward(self, spec: BGPPeer) -> Iterator[Wanted]:
        """Sessions back to the near side of a BGPPeer that this node is on the far side of: in Calico they are peers of
        the one node, so that is how they are named, also where the BGPPeer is global."""
        settings = replace(_settings(spec), local_as_number=None, reachable_by=None)
        families = [f for f in Family if spec.peer_ip in (None, self.own.address(f))]
        for _, other in sorted(self.snapshot.nodes.items()):
            if _is_near(spec, other):
                asn = self._expected(spec, other)
                for session in self._to_node(other, PeerKind.NODE, f"BGPPeer {spec.name}", settings, asn):
                    if family_of(session.address) in families:
                        yield session._replace(reverse=True)

    def _expected(self, spec: BGPPeer, other: Node) -> int:
        """The AS number that another node has on a session of a BGPPeer: ``localASNumber`` where it is on the near side
        of it, and we are on the far side."""
        if spec.local_as_number and _is_near(spec, other) and _is_far(spec, self.own):
            return spec.local_as_number
        return self.asn_of(other)


def _kind(spec: BGPPeer) -> PeerKind:
    return PeerKind.GLOBAL if spec.node is None and spec.node_selector is None else PeerKind.NODE


def _is_near(spec: BGPPeer, node: Node) -> bool:
    if spec.node is not None:
        return spec.node == node.name
    return spec.node_selector is None or parse(spec.node_selector).matches(node.labels)


def _is_far(spec: BGPPeer, node: Node) -> bool:
    if spec.peer_selector is not None:
        return parse(spec.peer_selector).matches(node.labels)
    return spec.peer_ip is not None and spec.peer_ip in (node.ipv4, node.ipv6)


def _settings(spec: BGPPeer) -> BGPPeer:
    """A BGPPeer without what says who peers with whom."""
    return replace(
        spec,
        name="",
        node=None,
        node_selector=None,
        peer_ip=None,
        peer_interface=None,
        peer_port=None,
        peer_selector=None,
        as_number=None,
        reverse=True,
    )


def _flaw(spec: BGPPeer) -> tuple[str, str] | None:
    """Why the fields of a BGPPeer do not fit together: the path, and what was expected (calico.md §4.3)."""
    address, selector = spec.peer_ip, spec.peer_selector
    if spec.node is not None and spec.node_selector is not None:
        return "spec.nodeSelector", "node and nodeSelector exclude each other"
    if spec.local_workload_selector is not None:
        if address is not None or selector is not None:
            return "spec.localWorkloadSelector", "excludes peerIP and peerSelector"
        if spec.as_number is None:
            return "spec.asNumber", "expected with localWorkloadSelector"
    elif (address is None) == (selector is None):
        return "spec.peerIP", "expected one of peerIP and peerSelector"
    if selector is not None and spec.as_number is not None:
        return "spec.asNumber", "with peerSelector the AS is that of each node selected: leave it out"
    if address is not None and is_link_local(address) != (spec.peer_interface is not None):
        if spec.peer_interface is not None:
            return "spec.peerIP", "only a link-local address has an interface"
        text = address_text(address)
        return "spec.peerIP", f"{text} is link-local: expected its interface too, such as {text}%eth0"
    if spec.reachable_by is not None:
        if address is None:
            return "spec.reachableBy", "expected with peerIP only"
        if is_link_local(address):
            return "spec.reachableBy", "a link-local peer is reached over its interface: leave it out"
        if (family := family_of(address)) is not family_of(spec.reachable_by):
            return "spec.reachableBy", f"expected an address of {family.label}, as peerIP is"
    for name, written in (("nodeSelector", spec.node_selector), ("peerSelector", selector)):
        try:
            parse(written or "")
        except ValueError as error:
            return f"spec.{name}", str(error)
    return None
