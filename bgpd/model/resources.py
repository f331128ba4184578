"""Calico's resources as frozen values, whichever store and API group they came from; the Snapshot of all of them.

Text from the outside is parsed by ``datastore.decode``; here is only what bgpd acts on. Field names are Calico's in
snake_case (calico.md §4). IPAM arithmetic is netaddr's, where tables are small.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, NamedTuple

from bgpd.model.bfd import BfdOptions
from bgpd.model.networks import IPNetwork
from bgpd.model.prefix import Address, Family, Prefix


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with one piece of input; the rest goes on."""

    source: str
    """The file or key, and the object: ``pools.yaml: IPPool default-ipv4``."""
    path: str
    """The field inside it, ``spec.cidr``; empty for the whole."""
    message: str
    """What is wrong and what was expected."""
    harmless: bool = False
    """Worth knowing, and nothing to do about it: the node is as it should be."""

    def __str__(self) -> str:
        return (
            f"{self.source}: {self.path}: {self.message}" if self.path else f"{self.source}: {self.message}"
        )


class EncapMode(Enum):
    """``ipipMode`` and ``vxlanMode`` of a pool."""

    NEVER = "Never"
    CROSS_SUBNET = "CrossSubnet"
    ALWAYS = "Always"


class ClusterRoutes(Enum):
    """``programClusterRoutes``: which routes to other nodes' pods BGP writes into the kernel (calico.md §8)."""

    ENABLED = "Enabled"
    DISABLED = "Disabled"
    IPIP_ONLY = "EnabledIPIPOnly"
    NO_ENCAP_ONLY = "EnabledNoEncapOnly"


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
    wireguard: frozenset[Family] = frozenset()
    """Families in which it has WireGuard (a public key): nodes that both have it reach each other by Felix's routes."""
    unschedulable: bool = False
    """It takes no more pods: ``kubectl cordon``. Of Kubernetes' own Node only."""

    def address(self, family: Family) -> Address | None:
        """The BGP address of a family; without one the node is no peer in it."""
        return self.ipv4 if family is Family.IPV4 else self.ipv6


Community = int | tuple[int, int, int]
"""Standard, its 32 bits (RFC 1997), or large (RFC 8092)."""


class SecretKey(NamedTuple):
    """``secretKeyRef``: where a password is."""

    name: str
    key: str


@dataclass(frozen=True, slots=True)
class Secret:
    """A core/v1 Secret, decoded. Its values are never printed."""

    name: str
    namespace: str
    data: Mapping[str, bytes] = field(repr=False, default_factory=dict)


class PrefixAdvertisement(NamedTuple):
    """Communities that every announced route inside a CIDR gets; names are resolved."""

    family: Family
    cidr: Prefix
    communities: tuple[Community, ...]


class ServiceRange(NamedTuple):
    """A CIDR of ``serviceClusterIPs`` and the like."""

    family: Family
    cidr: Prefix


@dataclass(frozen=True, slots=True)
class BGPConfiguration:
    """``default``, or ``node.<name>``. ``None`` is "not stated", so that the two can be laid over each other."""

    name: str = "default"
    as_number: int | None = None
    node_to_node_mesh_enabled: bool | None = None
    listen_port: int | None = None
    bind_mode_node_ip: bool | None = None
    """``bindMode: NodeIP``: listen on the node's addresses only."""
    log_severity_screen: str | None = None
    node_mesh_password: SecretKey | None = None
    node_mesh_max_restart_time: float | None = None
    """Seconds."""
    prefix_advertisements: tuple[PrefixAdvertisement, ...] | None = None
    ignored_interfaces: tuple[str, ...] | None = None
    """Patterns of interfaces' names, with ``*``."""
    local_workload_peering_ipv4: Address | None = None
    local_workload_peering_ipv6: Address | None = None
    program_cluster_routes: ClusterRoutes | None = None
    ipv4_normal_route_priority: int | None = None
    ipv6_normal_route_priority: int | None = None
    service_cluster_ips: tuple[ServiceRange, ...] = ()
    service_external_ips: tuple[ServiceRange, ...] = ()
    service_load_balancer_ips: tuple[ServiceRange, ...] = ()
    service_load_balancer_aggregation: bool = True


class NextHopMode(Enum):
    """``nextHopMode``, and what ``keepOriginalNextHop`` means: keep on external sessions only."""

    AUTO = "auto"
    SELF = "self"
    KEEP = "keep"
    KEEP_EBGP = "keep-ebgp"


@dataclass(frozen=True, slots=True)
class BGPPeer:
    name: str
    node: str | None = None
    node_selector: str | None = None
    peer_ip: Address | None = None
    peer_interface: str | None = None
    """The zone of a link-local ``peerIP``: ``fe80::1%eth0``."""
    peer_port: int | None = None
    peer_selector: str | None = None
    local_workload_selector: str | None = None
    as_number: int | None = None
    reverse: bool = True
    """Cluster nodes on the remote side peer back by themselves (``reversePeering`` is not ``Manual``)."""
    local_as_number: int | None = None
    next_hop_mode: NextHopMode = NextHopMode.AUTO
    password: SecretKey | None = None
    use_node_ip: bool = True
    """``sourceAddress: UseNodeIP``: dial from the node's address; otherwise the kernel chooses."""
    max_restart_time: float | None = None
    """Seconds."""
    keepalive_time: float | None = None
    """Seconds."""
    num_allowed_local_as_numbers: int = 0
    ttl_security: int | None = None
    """GTSM (RFC 5082): the most hops to the peer."""
    reachable_by: Address | None = None
    filters: tuple[str, ...] = ()
    bfd: BfdOptions | Literal[False] | None = None
    """By our annotation ``bgpd/bfd``; False is none, whatever the node's defaults are. ``None``: nothing is stated."""


class MatchOperator(Enum):
    """How a rule's CIDR is compared."""

    EQUAL = "Equal"
    NOT_EQUAL = "NotEqual"
    IN = "In"
    NOT_IN = "NotIn"


class Action(Enum):
    """What a rule that matches does."""

    ACCEPT = "Accept"
    REJECT = "Reject"


class AddCommunity(NamedTuple):
    value: Community


class PrependAsPath(NamedTuple):
    asns: tuple[int, ...]
    """In the order in which they then stand in front."""


class SetPriority(NamedTuple):
    value: int
    """The kernel's metric; LOCAL_PREF is INT_MAX minus it."""


Operation = AddCommunity | PrependAsPath | SetPriority


@dataclass(frozen=True, slots=True)
class FilterRule:
    """One rule of a BGPFilter (calico.md §2.10). All conditions that are set must hold; none is "every route"."""

    action: Action
    cidr: Prefix | None = None
    operator: MatchOperator | None = None
    """Set exactly when ``cidr`` is."""
    lengths: tuple[int, int] | None = None
    """``prefixLength`` (least, most), cut to the CIDR's own length and the family's."""
    remote_peers: bool = False
    """``source: RemotePeers``: learned from BGP."""
    interface: str | None = None
    """A glob of the outgoing interface's name."""
    ibgp: bool | None = None
    """Whether only internal peers are meant, or only external ones (``peerType``)."""
    community: Community | None = None
    as_path_prefix: tuple[int, ...] = ()
    priority: int | None = None
    operations: tuple[Operation, ...] = ()


@dataclass(frozen=True, slots=True)
class BGPFilter:
    name: str
    imports: Mapping[Family, tuple[FilterRule, ...]] = field(default_factory=dict)
    exports: Mapping[Family, tuple[FilterRule, ...]] = field(default_factory=dict)
    """A family without rules is not in it."""


@dataclass(frozen=True, slots=True)
class Service:
    """A core/v1 Service: to whom its addresses may be announced (calico.md §5)."""

    name: str
    """``namespace/name``."""
    type: str = "ClusterIP"
    cluster_ips: tuple[Address, ...] = ()
    """None of a headless one."""
    external_ips: tuple[Address, ...] = ()
    load_balancer_ips: tuple[Address, ...] = ()
    """``status.loadBalancer.ingress``; host names are left out."""
    local: bool = False
    """``externalTrafficPolicy: Local``."""
    cluster: bool = False
    """``externalTrafficPolicy: Cluster`` in so many words."""
    asked_ip: Address | None = None
    """``spec.loadBalancerIP``: what its owner would have as the load balancer's address."""


class Endpoint(NamedTuple):
    """Where an endpoint of a service is; those that are alike are one."""

    node: str | None
    ready: bool
    """Kubernetes does not say: it is."""


@dataclass(frozen=True, slots=True)
class EndpointSlice:
    """Some of the endpoints of a service, of one family."""

    name: str
    """``namespace/name``; another's than the service's."""
    service: str
    """``namespace/name``."""
    family: Family
    endpoints: frozenset[Endpoint] = frozenset()


@dataclass(frozen=True, slots=True)
class LocalWorkload:
    """A pod of this node that speaks BGP to it: one of Felix's endpoint-status files."""

    interface: str
    peer_name: str
    """The BGPPeer that it belongs to."""
    ipv4: Address | None = None
    ipv6: Address | None = None
    """The first address of each family."""


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
    filters: Mapping[str, BGPFilter] = field(default_factory=dict)
    secrets: Mapping[str, Secret] = field(default_factory=dict)
    services: Mapping[str, Service] = field(default_factory=dict)
    endpoint_slices: Mapping[str, EndpointSlice] = field(default_factory=dict)
    """By ``namespace/name``, as ``services`` is."""
    local_workloads: tuple[LocalWorkload, ...] = ()
    problems: tuple[Problem, ...] = ()
    """Objects that could not be read or that hold something unsupported; the last good version of each stands."""
    unusable: frozenset[tuple[str, str]] = frozenset()
    """(kind, name) of objects that are there but never were good: who relies on one, a peer on its filter, must not go
    on as if it did not exist."""

    def settings(self, node: str | None = None) -> BGPConfiguration:
        """The cluster's BGPConfiguration, or that of one node (``node.<name>``); one that says nothing where there is
        none."""
        name = "default" if node is None else f"node.{node}"
        return self.bgp_configurations.get(name) or BGPConfiguration(name)
