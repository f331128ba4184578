"""Calico's resources as frozen values, whichever store and API group they came from; the Snapshot of all of them.

Text from the outside is parsed by ``datastore.decode``; here is only what bgpd acts on. Field names are Calico's in
snake_case (calico.md §4). IPAM arithmetic is netaddr's, where tables are small.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from netaddr import IPNetwork

from bgpd.model.prefix import Address, Family, Prefix


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with one piece of input; the rest goes on."""

    source: str
    """The file or key, and the object: ``pools.yaml: IPPool default-ipv4``."""
    path: str
    """Where inside it, ``spec.cidr``; empty for the whole."""
    message: str
    """What is wrong and what was expected."""

    def __str__(self) -> str:
        return (
            f"{self.source}: {self.path}: {self.message}" if self.path else f"{self.source}: {self.message}"
        )


class EncapMode(Enum):
    """``ipipMode`` and ``vxlanMode`` of a pool."""

    NEVER = "Never"
    CROSS_SUBNET = "CrossSubnet"
    ALWAYS = "Always"


class AffinityState(Enum):
    """State of a BlockAffinity; an empty one is confirmed (old data)."""

    PENDING = "pending"
    CONFIRMED = "confirmed"
    PENDING_DELETION = "pendingDeletion"


@dataclass(frozen=True, slots=True)
class IPPool:
    name: str
    family: Family
    cidr: Prefix
    block_size: int
    disable_bgp_export: bool = False
    disabled: bool = False
    ipip_mode: EncapMode = EncapMode.NEVER
    vxlan_mode: EncapMode = EncapMode.NEVER


@dataclass(frozen=True, slots=True)
class BlockAffinity:
    name: str
    node: str
    family: Family
    cidr: Prefix
    state: AffinityState = AffinityState.CONFIRMED


@dataclass(frozen=True, slots=True)
class Allocation:
    """One address of a block that is in use: released, virtual and owner-less ones are left out by the decoder."""

    address: Address
    node: str
    """The node whose workload or tunnel has it: another than the block's owner has *borrowed* it."""
    owner: str
    """For people: ``namespace/pod``, the tunnel's type, or the IPAM handle."""


@dataclass(frozen=True, slots=True)
class IPAMBlock:
    name: str
    family: Family
    cidr: Prefix
    affinity: str | None
    """The owning node; ``None`` without one, and for ``virtual:`` affinities."""
    allocations: tuple[Allocation, ...] = ()
    borrowers: frozenset[str] = field(init=False, repr=False, compare=False)
    """Nodes other than the owner that hold an address of it."""

    def __post_init__(self) -> None:
        nodes = frozenset(allocation.node for allocation in self.allocations)
        object.__setattr__(self, "borrowers", nodes - {self.affinity})


@dataclass(frozen=True, slots=True)
class Node:
    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    ipv4: Address | None = None
    ipv6: Address | None = None
    ipv4_network: IPNetwork | None = None
    ipv6_network: IPNetwork | None = None
    """The subnet of the address, when its annotation had a length."""
    asn: int | None = None
    route_reflector_cluster_id: Address | None = None
    tunnel_addresses: tuple[Address, ...] = ()

    def address(self, family: Family) -> Address | None:
        """The BGP address of a family; without one the node is no peer in it."""
        return self.ipv4 if family is Family.IPV4 else self.ipv6


@dataclass(frozen=True, slots=True)
class BGPConfiguration:
    """``default``, or ``node.<name>``. ``None`` is "not said", so that the two can be laid over each other."""

    name: str = "default"
    as_number: int | None = None
    node_to_node_mesh_enabled: bool | None = None
    listen_port: int | None = None
    bind_mode_node_ip: bool | None = None
    """``bindMode: NodeIP``: listen on the node's addresses only."""
    mesh_unsupported: tuple[str, ...] = ()
    """Fields set that we do not honour and that protect the mesh: with them there is no mesh."""


@dataclass(frozen=True, slots=True)
class BGPPeer:
    name: str
    node: str | None = None
    node_selector: str | None = None
    peer_ip: Address | None = None
    peer_port: int | None = None
    peer_selector: str | None = None
    as_number: int | None = None
    reverse: bool = True
    """Cluster nodes on the remote side peer back by themselves (``reversePeering`` is not ``Manual``)."""
    unsupported: tuple[str, ...] = ()
    """Fields set that we do not honour and that protect something: with such a peer there is no session."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All resources at one moment. A datastore yields one only when it is whole: directory or watch in sync, and this
    node's own Node in it (house rule 5). Keys are resource names."""

    pools: Mapping[str, IPPool] = field(default_factory=dict)
    affinities: Mapping[str, BlockAffinity] = field(default_factory=dict)
    blocks: Mapping[str, IPAMBlock] = field(default_factory=dict)
    nodes: Mapping[str, Node] = field(default_factory=dict)
    bgp_configurations: Mapping[str, BGPConfiguration] = field(default_factory=dict)
    peers: Mapping[str, BGPPeer] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    """Objects that could not be read or that hold something unsupported; the last good version of each stands."""
