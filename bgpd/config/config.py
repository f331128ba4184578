"""This node's configuration, as a frozen ``Config``: its sections, their keys, defaults and limits.

``reading`` makes it of a file. What the cluster shares is not here but in resources (``datastore``). Every key has a
default, so an empty file is a valid one; an unknown key is an error. The texts under the fields are the reference:
``schema`` carries them.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from bgpd.config.section import (
    FLAG,
    Section,
    checked,
    list_of,
    mapping_of,
    one_of,
    optional,
    section,
    setting,
    short,
    text,
    whole,
)
from bgpd.config.values import (
    ADDRESS,
    ASNS,
    CLUSTER_ROUTES,
    DISK_SIZE,
    ENDPOINT,
    FAMILIES,
    HOLD_TIME,
    INTERFACE_PATTERN,
    INTERVAL,
    MEMORY_SIZE,
    NETWORK,
    NODE_NAME,
    PATH,
    PORT,
    ROUTER_ID,
    URL,
    Endpoint,
    Network,
    Password,
)
from bgpd.model.bfd import BfdOptions, BfdTiming
from bgpd.model.drain import OnCordon
from bgpd.model.peer import LONGEST_LIFE, MOST_PATHS, PeerId
from bgpd.model.prefix import Address, Family, address_text, covers, parse_address
from bgpd.model.resources import ClusterRoutes


def _hostname() -> str:
    """What calico-node takes too; a DaemonSet knows its Node's name, and not always the host's."""
    return (os.environ.get("NODENAME") or socket.gethostname()).lower()


class DatastoreOptions(Section):
    """Where the cluster's resources come from. A key that is not of the type is an error."""

    type: Literal["files", "etcd", "kubernetes"] = setting(one_of("files", "etcd", "kubernetes"), "files")
    """``files``: a directory of YAML documents, watched. ``etcd``: Calico's etcd v3. ``kubernetes``: the API server."""
    path: Path = setting(PATH, Path("/etc/bgpd/resources"))
    """``files``: the directory; its files named ``*.yaml``, ``*.yml`` and ``*.json`` are read, its subdirectories are
    not."""
    endpoint_status: Path = setting(PATH, Path("/var/run/calico/endpoint-status"))
    """The directory in which Felix reports this node's pods that peer with it; without it there are none."""
    endpoints: tuple[str, ...] = setting(list_of(URL, 16), ())
    """``etcd``: its servers, such as ``https://10.0.0.1:2379``; when one does not answer the next is asked."""
    ca: Path | None = setting(optional(PATH), None)
    """``etcd``: the certificates to trust, as PEM; null is the system's."""
    cert: Path | None = setting(optional(PATH), None)
    """``etcd``: our certificate, with ``key``."""
    key: Path | None = setting(optional(PATH), None)
    """``etcd``: the private key of ``cert``."""
    username: str | None = setting(optional(text()), None)
    """``etcd``: the user to be, where etcd has users."""
    password_file: Path | None = setting(optional(PATH), None)
    """``etcd``: a file with the user's password, an end of line not counted; read at each log in."""
    prefix: str = setting(text(pattern="(/[^/]+)+"), "/calico")
    """``etcd``: what Calico's keys begin with."""
    kubeconfig: Path | None = setting(optional(PATH), None)
    """``kubernetes``: the file that says where the API server is and who we are; null is the account of our pod."""
    context: str | None = setting(optional(text()), None)
    """``kubernetes``: the context of the kubeconfig; null is its current one."""
    namespace: str | None = setting(optional(text()), None)
    """``kubernetes``: where the Secrets with the peers' passwords are; null is that of our pod or context."""
    last_known: bool = setting(FLAG, True)
    """``etcd`` and ``kubernetes``: keep what was last known in ``state_directory``, Secrets of peers too, for a start
    while the server is away."""

    def check(self) -> None:
        keys = {
            "files": ("path",),
            "etcd": ("endpoints", "ca", "cert", "key", "username", "password_file", "prefix", "last_known"),
            "kubernetes": ("kubeconfig", "context", "namespace", "last_known"),
        }
        allowed = {"type", "endpoint_status", *keys[self.type]}
        for key in sorted(self.keys.keys() - allowed):
            if getattr(self, key) == self.keys[key].default_value:
                continue
            types = " or ".join(name for name, of in keys.items() if key in of)
            raise ValueError(f"{key} is of type {types}, not {self.type}")
        if self.type == "etcd" and not self.endpoints:
            raise ValueError("endpoints expected, such as [https://10.0.0.1:2379]")
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key: expected both or neither")
        if (self.username is None) != (self.password_file is None):
            raise ValueError("username and password_file: expected both or neither")


class BfdSettings(Section):
    """Bidirectional Forwarding Detection (RFC 5880) with a peer."""

    min_tx: int = setting(INTERVAL, 300_000)
    """Between two packets to the peer, at least: 10ms to 60s."""
    min_rx: int = setting(INTERVAL, 300_000)
    """Between two packets of the peer's, at least: 10ms to 60s."""
    multiplier: int = setting(whole(1, 255), 3)
    """Packets that may be missing in a row before a session is down."""
    multihop: bool | None = setting(optional(FLAG), None)
    """UDP port 4784 (RFC 5883) rather than 3784 (RFC 5881); null is where the peer is not on a link of this node."""

    @property
    def options(self) -> BfdOptions:
        return BfdOptions(BfdTiming(self.min_tx, self.min_rx, self.multiplier), self.multihop)


def _bfd(value: object) -> BfdSettings | None:
    if value is None:
        return None
    if isinstance(value, dict):
        return BfdSettings.parse(value)
    raise ValueError(f"expected keys and values such as {{min_tx: 300ms}}, or null, not {short(value)}")


_BFD = optional(section(BfdSettings))._replace(parse=_bfd)


class PeerOptions(Section):
    """What may be set for one session."""

    hold_time: int = setting(HOLD_TIME, 90)
    """Seconds without a message after which the session is down, 0 (never) or 3 to 65535; the lower of both sides'."""
    long_lived_stale_time: int = setting(whole(0, LONGEST_LIFE), 0)
    """Seconds for which stale routes live on after the restart time, as a last resort (RFC 9494): the peer's here, as
    far as it asks for that, and ours there; 0 is not at all, as Calico has it."""
    max_prefixes: int | None = setting(optional(whole(1)), None)
    """Prefixes of one family after which the session is closed; null is no limit."""
    families: frozenset[Family] | None = setting(optional(FAMILIES), None)
    """Address families of the session, of ``ipv4`` and ``ipv6``; null is the one that its addresses are of."""
    password_file: Path | None = setting(optional(PATH), None)
    """A file with the TCP MD5 password (RFC 2385), 1 to 80 octets, an end of line not counted; it comes before any
    Secret that a resource names. Read at start and by a reload. null is none."""
    add_path: bool = setting(FLAG, True)
    """Announce ADD-PATH (RFC 7911): several routes of one prefix, both ways."""
    extended_next_hop: bool = setting(FLAG, False)
    """Announce IPv4 routes with IPv6 next hops (RFC 8950), where ``families`` has ipv4 and the session runs on IPv6."""
    enforce_first_as: bool = setting(FLAG, False)
    """Refuse routes of an external peer whose AS path does not start with its AS. Those of a route server (RFC 7947)
    do not, so they are taken; ``bgpctl peers NAME --detail`` counts them either way."""
    strict_cluster_list: bool = setting(FLAG, False)
    """Refuse routes with our own cluster on the CLUSTER_LIST from every internal peer (RFC 4456 §8), not only from
    clients, as BIRD does: two reflectors of one cluster then do not take each other's clients' routes."""
    max_paths_per_prefix: int = setting(whole(1), MOST_PATHS)
    """Paths of one prefix that a peer may have with ADD-PATH: those with the lowest identifiers are used, the others
    counted and named."""
    bfd: BfdSettings | None = setting(_BFD, None)
    """End the session as soon as BFD finds the peer dead; ``{}`` is with the defaults, null is without BFD. The
    annotation ``bgpd/bfd`` of a BGPPeer comes before ``bgp.defaults``, and ``bgp.peers`` before both."""


class ListenRange(PeerOptions):
    """Neighbours that may come from inside a prefix without being named. What a peer may have set may be set here."""

    prefix: Network = setting(NETWORK)
    """Where they come from; ranges do not overlap. A peer that is named has its own settings, inside it too."""
    asns: tuple[int, ...] = setting(ASNS)
    """The AS numbers that they may have."""
    max_sessions: int = setting(whole(1), 100)
    """Sessions that the range may have at a time."""
    filters: tuple[str, ...] = setting(list_of(text()), ())
    """Names of BGPFilters, in order."""
    ttl_security: int | None = setting(optional(whole(1, 255)), None)
    """GTSM (RFC 5082): the most hops to a neighbour, 1 is directly connected; null is off."""


def _disjoint(ranges: tuple[ListenRange, ...]) -> tuple[ListenRange, ...]:
    for place, one in enumerate(ranges):
        for other in ranges[:place]:
            shorter, longer = sorted((one.prefix, other.prefix), key=lambda network: network.prefix[0])
            if shorter.family is longer.family and covers(shorter.prefix, longer.prefix):
                raise ValueError(f"{one.prefix} overlaps {other.prefix}")
    return ranges


def _canonical_names(peers: Mapping[str, PeerOptions]) -> Mapping[str, PeerOptions]:
    names: dict[str, PeerOptions] = {}
    for name, options in peers.items():
        try:
            canonical = address_text(parse_address(name))
        except ValueError:
            canonical = name
        if canonical in names:
            raise ValueError(f"{canonical} is given twice")
        names[canonical] = options
    return names


class BgpOptions(Section):
    """Sessions: how we listen, and what differs from peer to peer."""

    listen: tuple[Address, ...] = setting(list_of(ADDRESS), (Address(bytes(4)), Address(bytes(16))))
    """Addresses to listen on; BGPConfiguration ``bindMode: NodeIP`` replaces them with the node's own."""
    port: int = setting(PORT, 179)
    """TCP port, used where no BGPConfiguration sets ``listenPort``: ours, and that of the cluster's other nodes."""
    memory_limit: Literal["auto"] | int = setting(MEMORY_SIZE, "auto")
    """What all peers together may hold of this machine's memory, as ``512MiB``; beyond it the one that holds most is
    ended (Cease 6/8) and stays out for a minute or more. ``auto`` is a quarter of the machine's memory or of what its
    cgroup may have, whichever is less; ``off`` (or 0) is no limit."""
    defaults: PeerOptions = setting(section(PeerOptions), made_by=PeerOptions)
    """Options for every peer that does not say otherwise."""
    peers: Mapping[str, PeerOptions] = setting(
        checked(mapping_of(section(PeerOptions)), _canonical_names), made_by=dict
    )
    """By peer name (``Mesh_10_0_1_30``) or address: the same keys; those that are set override the defaults."""
    listen_ranges: tuple[ListenRange, ...] = setting(checked(list_of(section(ListenRange)), _disjoint), ())
    """Neighbours that are not named one by one, by the prefix they come from."""
    route_priority: Literal["auto", "on", "off"] = setting(one_of("auto", "on", "off"), "auto")
    """LOCAL_PREF is 2147483647 less the kernel's metric, as Calico 3.32 and later does it. ``auto``: where a
    BGPConfiguration sets ipv4NormalRoutePriority or ipv6NormalRoutePriority, an internal peer does the same, or the
    routes of this node's own workloads have a metric (IPv4; Felix gives them one since then)."""

    def for_peer(self, name: PeerId, address: Address) -> PeerOptions:
        """The options of one session: the peer's by name over the peer's by address over the defaults."""
        if not self.peers:
            return self.defaults
        laid = [self.peers.get(address_text(address)), self.peers.get(name)]
        update = {key: getattr(layer, key) for layer in laid if layer is not None for key in layer.given}
        return self.defaults.replace(update) if update else self.defaults

    def for_range(self, of: ListenRange) -> PeerOptions:
        """The options of a range's sessions: its own over the defaults."""
        keys = of.given & PeerOptions.keys.keys()
        return self.defaults.replace({key: getattr(of, key) for key in keys})

    def place(self, key: str, name: PeerId, address: Address) -> str:
        """The path of the key that decides an option of one session: ``bgp.defaults.password_file``."""
        for layer in (name, address_text(address)):
            if layer in self.peers and key in self.peers[layer].given:
                return f"bgp.peers.{layer}.{key}"
        return f"bgp.defaults.{key}"


class OriginateOptions(Section):
    """What this node announces."""

    ipam_early: bool = setting(FLAG, False)
    """Announce a borrowed address as soon as IPAM gives it to this node, before the kernel has the workload's route.
    Until that route is there, a packet to it goes round between this node and the block's owner until its TTL ends."""


class IpamOptions(Section):
    """Addresses for pods, where bgpd gives them out (docs/ipam.md)."""

    garbage: bool = setting(FLAG, False)
    """Remove what gone nodes and broken off writes left: blocks, addresses, affinities, handles. One node at a time
    does it, by a lease. Not where Calico's kube-controllers run: they do it there."""
    garbage_after_seconds: int = setting(whole(60, 86400), 900)
    """How long something must look abandoned, unchanged, before it is removed."""


class DrainOptions(Section):
    """Taking this node out of service."""

    on_cordon: OnCordon = setting(one_of(*get_args(OnCordon)), "none")
    """What a Node with ``spec.unschedulable`` (kubectl cordon) means: ``services`` withdraws this node's addresses of
    services, ``all`` is as ``bgpctl drain``, ``none`` is nothing. Of Kubernetes' own Node only."""


_ID = whole(1, 0xFFFFFFFF)


class NexthopIds(Section):
    """The range of kernel nexthop object ids that are ours; nobody else on the node may use it."""

    first: int = setting(_ID, 0x62600000)
    last: int = setting(_ID, 0x626FFFFF)

    def check(self) -> None:
        if self.last < self.first:
            raise ValueError("last is less than first")


class KernelOptions(Section):
    """The kernel's routes."""

    workload_interfaces: tuple[str, ...] = setting(list_of(INTERFACE_PATTERN), ("cali*",))
    """Interfaces whose host routes are workloads of this node; ``*`` stands for any characters."""
    tunnel_interfaces: tuple[str, ...] = setting(
        list_of(INTERFACE_PATTERN),
        ("tunl0", "vxlan.calico", "vxlan-v6.calico", "wireguard.cali", "wg-v6.cali"),
    )
    """Interfaces whose own addresses count as this node's workloads."""
    nexthop_objects: Literal["auto", "always", "never"] = setting(one_of("auto", "always", "never"), "auto")
    """Write routes over kernel nexthop objects: ``auto`` does once a family has more than 64 distinct next hops."""
    nexthop_ids: NexthopIds = setting(section(NexthopIds), made_by=NexthopIds)
    program_cluster_routes: ClusterRoutes = setting(CLUSTER_ROUTES, ClusterRoutes.NO_ENCAP_ONLY)
    """Which routes to other nodes' pods are ours to write, where BGPConfiguration does not set programClusterRoutes:
    ``EnabledNoEncapOnly`` (Calico 3.33 and later; Felix writes those over IPIP) or ``Enabled`` (before: both)."""


_METRICS: Endpoint | None = Endpoint("127.0.0.1", 9179)
_NOWHERE: Endpoint | None = None


class MetricsOptions(Section):
    """Prometheus metrics and health checks, over HTTP."""

    listen: Endpoint | None = setting(optional(ENDPOINT), _METRICS)
    """``ADDRESS:PORT`` for ``/metrics``, ``/livez`` and ``/readyz``; null is off."""


class ApiOptions(Section):
    """What bgpctl talks to."""

    socket: Path = setting(PATH, Path("/run/bgpd/api.sock"))
    """The unix socket; who may write to it may command the daemon."""


class WebOptions(Section):
    """The looking glass (docs/glass.md): a page for browsers, read only."""

    listen: Endpoint | None = setting(optional(ENDPOINT), _NOWHERE)
    """``ADDRESS:PORT`` of the page; null is off. Whoever reaches it sees peers, routes, pods' addresses and history."""
    names: tuple[str, ...] = setting(list_of(text(253), 64), ())
    """Names of hosts by which browsers may ask for it, beside addresses, ``localhost`` and the node's name."""
    nodes: Mapping[str, str] = setting(mapping_of(URL), made_by=dict)
    """Other nodes whose page this one shows too: the node's name, and where its ``web.listen`` is, such as
    ``{worker1: "http://10.0.1.30:9180"}``. They are asked by this daemon, not by the browser."""


class CompatOptions(Section):
    """Where Calico's tools and Kubernetes look for BIRD and calico-node. All of it is off unless asked for."""

    bird_sockets: Path | None = setting(optional(PATH), None)
    """The directory for ``bird.ctl`` and ``bird6.ctl``, BIRD's control sockets (Calico's tools look in
    ``/var/run/calico``); null is none."""
    process_names: bool = setting(FLAG, False)
    """Two idle processes that are called ``bird`` and ``bird6``: calicoctl asks no socket without them."""
    node_status: bool = setting(FLAG, False)
    """With the datastore ``kubernetes``: fill in the CalicoNodeStatus objects of this node, as calico-node does."""
    network_available: bool = setting(FLAG, False)
    """With the datastore ``kubernetes``: once in sync, clear the condition NetworkUnavailable of this node."""
    session_events: bool = setting(FLAG, False)
    """With the datastore ``kubernetes``: Events on the Node when sessions go down and up, ten at once and then two a
    minute at most."""

    @property
    def reports(self) -> list[str]:
        """The keys that write into the Kubernetes API."""
        return [key for key in ("node_status", "network_available", "session_events") if getattr(self, key)]


class LogOptions(Section):
    """The log, on standard error."""

    level: Literal["auto", "debug", "info", "warning", "error"] = setting(
        one_of("auto", "debug", "info", "warning", "error"), "auto"
    )
    """``auto``: as BGPConfiguration's ``logSeverityScreen`` says, ``info`` without it. ``debug`` has a line a route."""
    format: Literal["auto", "text", "json"] = setting(one_of("auto", "text", "json"), "auto")
    """``auto``: text, with journal priorities under systemd."""


class HistoryOptions(Section):
    """What happened on this node, for ``bgpctl history``."""

    size: int = setting(DISK_SIZE, 64 << 20)
    """What is kept of it in the state directory, as ``64MiB``; ``off`` (or 0) keeps the newest in memory only."""


class Config(Section):
    """Configuration of bgpd on one node."""

    node: str = setting(NODE_NAME, made_by=_hostname)
    """Name of this machine's Node resource; unless set the environment's NODENAME, or the host name in lower case."""
    router_id: Literal["auto", "hash"] | Address = setting(ROUTER_ID, "auto")
    """BGP identifier: ``auto`` (the node's IPv4 address, ``hash`` without one), ``hash`` (made of the node's name) or
    an IPv4 address."""
    datastore: DatastoreOptions = setting(section(DatastoreOptions), made_by=DatastoreOptions)
    bgp: BgpOptions = setting(section(BgpOptions), made_by=BgpOptions)
    originate: OriginateOptions = setting(section(OriginateOptions), made_by=OriginateOptions)
    ipam: IpamOptions = setting(section(IpamOptions), made_by=IpamOptions)
    drain: DrainOptions = setting(section(DrainOptions), made_by=DrainOptions)
    kernel: KernelOptions = setting(section(KernelOptions), made_by=KernelOptions)
    metrics: MetricsOptions = setting(section(MetricsOptions), made_by=MetricsOptions)
    api: ApiOptions = setting(section(ApiOptions), made_by=ApiOptions)
    web: WebOptions = setting(section(WebOptions), made_by=WebOptions)
    state_directory: Path = setting(PATH, Path("/var/lib/bgpd"))
    """Where the operator's orders (a peer's shutdown, a drain) are remembered over restarts."""
    compat: CompatOptions = setting(section(CompatOptions), made_by=CompatOptions)
    log: LogOptions = setting(section(LogOptions), made_by=LogOptions)
    history: HistoryOptions = setting(section(HistoryOptions), made_by=HistoryOptions)

    def check(self) -> None:
        if self.compat.reports and self.datastore.type != "kubernetes":
            keys = ", ".join(f"compat.{key}" for key in self.compat.reports)
            raise ValueError(f"{keys}: written into the Kubernetes API: expected datastore.type kubernetes")


Passwords = Mapping[Path, Password | str]
"""What each password file holds; a text says why it cannot be read."""
