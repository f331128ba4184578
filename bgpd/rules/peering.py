"""Resources and this node's options -> the sessions it must have, and what each peer may announce and is sent.

Called by the daemon at every snapshot and reload. ``rules.peers`` says who is wanted (calico.md §2.6); here each gets
its timers, password, families and policy (§2.5), or a named problem. A peer that asks for a protection which this node
cannot give (a password that is missing) is not peered with at all, and keeps its place: no mesh session, no second
BGPPeer and no listen range lets the same address in without it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from bgpd.config.config import Config, ListenRange, Passwords, PeerOptions
from bgpd.model.bfd import BfdOptions
from bgpd.model.peer import DynamicRange, PeerConfig, PeerId, PeerKind, PeerPolicy, is_dynamic, peer_id
from bgpd.model.prefix import (
    Address,
    Family,
    address_text,
    covers,
    family_of,
    host_prefix,
    is_link_local,
    network_address,
)
from bgpd.model.resources import Problem, SecretKey, Snapshot
from bgpd.rules.peers import DEFAULT_PORT, Cluster, Wanted

RESTART_TIME = 120
"""Seconds."""
LONGEST_PASSWORD = 80
"""Octets that Linux takes as a TCP MD5 key."""
NO_PASSWORDS: Passwords = MappingProxyType({})


class Listen(NamedTuple):
    """Where this node listens for peers."""

    addresses: tuple[Address, ...]
    port: int


LOG_LEVELS = {"debug": "debug", "warning": "warning", "error": "error", "fatal": "error", "none": "error"}
"""``logSeverityScreen`` in lower case -> our level; anything else is ``info``, as in Calico."""


class Peering(NamedTuple):
    """All sessions of this node, whole."""

    peers: Mapping[PeerId, PeerConfig]
    policies: Mapping[PeerId, PeerPolicy]
    """The policies of the same peers; those of dynamic neighbours are in ``dynamic``."""
    dynamic: tuple[DynamicRange, ...]
    listen: Listen
    asn: int
    router_id: Address
    log_level: str
    """``debug info warning error``, by ``logSeverityScreen``."""
    problems: tuple[Problem, ...]


def peers(
    snapshot: Snapshot,
    node: str,
    config: Config,
    passwords: Passwords = NO_PASSWORDS,
    here: frozenset[Address] = frozenset(),
) -> Peering:
    """The sessions that ``node`` must have; independent of the order of the snapshot's mappings.

    ``passwords`` is what the configuration's files hold, ``config.read_passwords(config)``; ``here`` the addresses that
    lie on the machine: none of them is peered with.
    """
    return _Peering(snapshot, node, config, passwords, here).result()


def heirs(before: Mapping[PeerId, PeerConfig], after: Mapping[PeerId, PeerConfig]) -> dict[PeerId, PeerId]:
    """Peers that go -> those that come in their place: the same neighbour under another name, or a Node that has
    another address. Its routes may stay until it has announced them anew; never those of a session that is with
    somebody else, or trusted otherwise."""
    gone = {key: name for name, config in before.items() if name not in after for key in _neighbours(config)}
    found: dict[PeerId, PeerId] = {}
    for name, config in after.items() if gone else ():
        if name not in before:
            old = next((gone[key] for key in _neighbours(config) if key in gone), None)
            if old is not None:
                found.setdefault(old, name)
    return found


def _neighbours(config: PeerConfig) -> Iterator[tuple[object, ...]]:
    """What makes another session one with the same neighbour: its place, or its Node."""
    trust = config.asn, config.local_asn, config.password, config.ttl_security, config.interface
    yield config.address, config.port, config.families, trust
    if config.node is not None:
        yield config.node, family_of(config.address), config.families, trust


def hashed_router_id(node: str) -> Address:
    """A router id made of a node's name, as Calico's ``CALICO_ROUTER_ID=hash``: never of class D or E."""
    octets = hashlib.sha256(node.encode()).digest()[:4]
    return Address(bytes([octets[0] - 32 if octets[0] > 223 else octets[0]]) + octets[1:])


class _Refused(Exception):
    """A session that cannot be had as it was asked for."""

    def __init__(self, source: str, path: str, message: str) -> None:
        super().__init__(message)
        self.problem = Problem(source, path, message)


class _Peering:
    def __init__(
        self, snapshot: Snapshot, node: str, config: Config, passwords: Passwords, here: frozenset[Address]
    ) -> None:
        self.snapshot, self.config, self.passwords = snapshot, config, passwords
        self.cluster = Cluster(snapshot, node, config, here)
        self.own = self.cluster.own
        self.asn = self.cluster.asn_of(self.own)
        self.router_id = self.chosen_router_id()
        self.addresses = {f: address for f in Family if (address := self.own.address(f)) is not None}
        self.problems, self.refused = self.cluster.problems, self.cluster.refused

    def result(self) -> Peering:
        found: dict[PeerId, PeerConfig] = {}
        policies: dict[PeerId, PeerPolicy] = {}
        names: dict[PeerId, Wanted] = {}
        places: dict[tuple[Address, str | None, int], Wanted] = {}
        for wanted in self.cluster.wanted():
            name = wanted.name
            first = names.get(name) or places.get(wanted.place)
            if first is not None:
                self.compare(first, wanted)
                continue
            names[name] = places[wanted.place] = wanted
            try:
                found[name], policies[name] = self.session(name, wanted), self.policy(name, wanted)
            except _Refused as refused:
                self.problems.append(refused.problem)
                self.refused.add(wanted.address)
        dynamic = tuple(self.dynamic())
        self.unused_options(names)
        self.odd_nodes()
        problems = tuple(dict.fromkeys(self.problems))
        return Peering(
            found, policies, dynamic, self.listen(found), self.asn, self.router_id, self.log_level(), problems
        )

    # What concerns the whole node.

    def chosen_router_id(self) -> Address:
        chosen = self.config.router_id
        if isinstance(chosen, bytes):
            return Address(chosen)
        if chosen == "auto" and self.own.ipv4 is not None:
            return self.own.ipv4
        return hashed_router_id(self.own.name)

    def log_level(self) -> str:
        if self.config.log.level != "auto":
            return self.config.log.level
        mine = self.snapshot.settings(self.own.name)
        severity = mine.log_severity_screen or self.cluster.settings.log_severity_screen or ""
        return LOG_LEVELS.get(severity.lower(), "info")

    def listen(self, found: Mapping[PeerId, PeerConfig]) -> Listen:
        mine = self.snapshot.settings(self.own.name)
        by_node = mine.bind_mode_node_ip
        if by_node is None:
            by_node = self.cluster.settings.bind_mode_node_ip
        addresses = tuple(self.config.bgp.listen)
        if by_node:
            workloads = {
                peer.local_address
                for peer in found.values()
                if peer.kind is PeerKind.LOCAL_WORKLOAD
                and peer.local_address is not None
                and not is_link_local(peer.local_address)
            }
            addresses = (*self.addresses.values(), *sorted(workloads - set(self.addresses.values())))
        return Listen(addresses, self.cluster.port_of(self.own))

    def compare(self, first: Wanted, other: Wanted) -> None:
        """Two resources that name one peer for this node, and differ. (What is not named gives way as a matter of
        course: the mesh, and who only peers back.)"""
        if other.kind is PeerKind.MESH or other.reverse:
            return
        if first.asn != other.asn:
            message = f"{first.source} has the same peer in AS {first.asn} and comes first: ignored"
        elif first.settings != other.settings:
            message = f"{first.source} has the same peer with other settings and comes first: ignored"
        else:
            return
        self.problems.append(Problem(other.source, "spec.peerIP", message))

    def unused_options(self, names: Mapping[PeerId, Wanted]) -> None:
        """A name in the configuration that no session has is a slip more often than a plan."""
        known = {*names, *(address_text(wanted.address) for wanted in names.values())}
        for name in sorted(self.config.bgp.peers.keys() - known):
            message = "no session of this node has this name or address"
            if is_dynamic(name):
                message = "a dynamic neighbour has what its listen range says: set it there"
            self.problems.append(Problem("configuration", f"bgp.peers.{name}", message))

    def odd_nodes(self) -> None:
        """Two Nodes with one address: a session can be with one of them only. And our own, where it has none."""
        for _, node in sorted(self.snapshot.nodes.items()):
            for address in (node.ipv4, node.ipv6):
                if address is not None and (first := self.cluster.owners[address]) is not node:
                    message = f"Node {first.name} has the same address, {address_text(address)}"
                    self.problems.append(Problem(f"Node {node.name}", "spec.bgp", message))
        if self.own.name in self.snapshot.nodes and not self.addresses:
            message = "no BGP address, neither IPv4 nor IPv6: no session with another node is possible"
            self.problems.append(Problem(f"Node {self.own.name}", "spec.bgp", message))

    # One session.

    def session(self, name: PeerId, wanted: Wanted) -> PeerConfig:
        settings, wish = wanted.settings, wanted.settings.max_restart_time
        options = self.config.bgp.for_peer(name, wanted.address)
        transport = family_of(wanted.address)
        return PeerConfig(
            id=name,
            kind=wanted.kind,
            source=wanted.source,
            address=wanted.address,
            port=wanted.port,
            asn=wanted.asn,
            local_asn=self.local_asn(wanted),
            router_id=self.router_id,
            local_address=wanted.local_address,
            next_hops=self.next_hops(options, transport, is_link_local(wanted.address)),
            families=options.families or frozenset({transport}),
            passive=wanted.passive,
            interface=wanted.interface,
            hold_time=float(options.hold_time),
            keepalive_time=self.keepalive_time(wanted, options.hold_time),
            password=self.password(name, wanted, options),
            ttl_security=settings.ttl_security or None,
            add_path=options.add_path,
            extended_next_hop=options.extended_next_hop,
            reachable_by=settings.reachable_by,
            restart_time=RESTART_TIME if wish is None else int(wish + 0.5),
            long_lived_stale_time=options.long_lived_stale_time,
            max_prefixes=options.max_prefixes,
            node=wanted.node,
            bfd=self.bfd(name, wanted, options),
        )

    def bfd(self, name: PeerId, wanted: Wanted, options: PeerOptions) -> BfdOptions | None:
        """The node's word on this peer, else the resource's, else the node's on all peers."""
        named = self.config.bgp.place("bfd", name, wanted.address).startswith("bgp.peers.")
        if wanted.settings.bfd is not None and not named:
            return wanted.settings.bfd or None
        return None if options.bfd is None else options.bfd.options

    def policy(self, name: PeerId, wanted: Wanted) -> PeerPolicy:
        options = self.config.bgp.for_peer(name, wanted.address)
        settings, cluster_id = wanted.settings, self.own.route_reflector_cluster_id
        self.check_filters(settings.filters, wanted.source, "spec.filters", "not peered with")
        internal = wanted.asn == self.local_asn(wanted)
        return PeerPolicy(
            filters=settings.filters,
            next_hop=settings.next_hop_mode,
            cluster_id=cluster_id if internal else None,
            client=internal and cluster_id is not None and wanted.cluster_id != cluster_id,
            allow_own_as=settings.num_allowed_local_as_numbers,
            enforce_first_as=options.enforce_first_as,
            strict_cluster_list=options.strict_cluster_list,
            max_paths_per_prefix=options.max_paths_per_prefix,
        )

    def local_asn(self, wanted: Wanted) -> int:
        return wanted.settings.local_as_number or self.asn

    def next_hops(self, options: PeerOptions, transport: Family, on_link: bool) -> dict[Family, Address]:
        """Our addresses in the families that the session's own end has none of (a link-local end is no next hop beyond
        its link, RFC 2545 §3)."""
        families = (options.families or frozenset({transport})) - (frozenset() if on_link else {transport})
        return {
            family: self.addresses[family] for family in Family if family in families & self.addresses.keys()
        }

    def keepalive_time(self, wanted: Wanted, hold_time: int) -> float | None:
        wish = wanted.settings.keepalive_time
        if wish is None or 0 < wish < hold_time:
            return wish
        message = f"expected less than the hold time of {hold_time} s, not {wish:g} s: ignored"
        self.problems.append(Problem(wanted.source, "spec.keepaliveTime", message))
        return None

    def check_filters(self, names: tuple[str, ...], source: str, path: str, consequence: str) -> None:
        """A BGPFilter that is missing is skipped, as Calico does; one that nobody could read may have held anything
        back, so the session is refused."""
        for name in names:
            if ("BGPFilter", name) in self.snapshot.unusable:
                raise _Refused(source, path, f"BGPFilter {name} cannot be used: {consequence}")
        if absent := [name for name in names if name not in self.snapshot.filters]:
            self.problems.append(Problem(source, path, f"there is no BGPFilter {', '.join(absent)}: skipped"))

    # Passwords. None of the messages may hold one.

    def password(self, name: PeerId, wanted: Wanted, options: PeerOptions) -> str | None:
        if options.password_file is not None:
            try:
                return self.password_in(options.password_file)
            except ValueError as error:
                path = self.config.bgp.place("password_file", name, wanted.address)
                raise _Refused("configuration", path, f"{error}: {name} is not peered with") from None
        if wanted.settings.password is None:
            return None
        try:
            return self.password_of(wanted.settings.password)
        except ValueError as error:
            source, path = wanted.source, "spec.password"
            if wanted.kind is PeerKind.MESH:
                source, path = "BGPConfiguration default", "spec.nodeMeshPassword"
            raise _Refused(source, path, f"{error}: not peered with") from None

    def password_in(self, path: Path) -> str:
        found = self.passwords.get(path, "was not read")
        if isinstance(found, str):
            raise ValueError(f"{path} {found}")
        return _password(found.octets, str(path))

    def password_of(self, reference: SecretKey) -> str:
        secret = self.snapshot.secrets.get(reference.name)
        if secret is None:
            unusable = ("Secret", reference.name) in self.snapshot.unusable
            raise ValueError(f"Secret {reference.name} {'cannot be used' if unusable else 'is missing'}")
        if reference.key not in secret.data:
            raise ValueError(f"Secret {reference.name} has no key {reference.key}")
        return _password(secret.data[reference.key], f"Secret {reference.name}, key {reference.key}")

    # Dynamic neighbours.

    def dynamic(self) -> Iterator[DynamicRange]:
        """The listen ranges of the configuration. Named peers come first; those that were refused stay out."""
        if ("BGPConfiguration", "default") in self.snapshot.unusable:
            return
        for place, each in enumerate(self.config.bgp.listen_ranges):
            try:
                yield self.listen_range(each, f"bgp.listen_ranges.{place}")
            except _Refused as refused:
                self.problems.append(refused.problem)

    def listen_range(self, of: ListenRange, path: str) -> DynamicRange:
        options, (family, prefix) = self.config.bgp.for_range(of), of.prefix
        consequence = f"nobody may come in from {of.prefix}"
        self.check_filters(of.filters, "configuration", f"{path}.filters", consequence)
        try:
            password = self.password_in(options.password_file) if options.password_file else None
        except ValueError as error:
            where = path if "password_file" in of.given else "bgp.defaults"
            raise _Refused("configuration", f"{where}.password_file", f"{error}: {consequence}") from None
        template = PeerConfig(
            id=peer_id(PeerKind.DYNAMIC, str(of.prefix)),
            kind=PeerKind.DYNAMIC,
            source=f"listen range {of.prefix}",
            address=network_address(family, prefix),
            port=DEFAULT_PORT,
            asn=0,
            local_asn=self.asn,
            router_id=self.router_id,
            local_address=None,
            next_hops=self.next_hops(options, family, on_link=False),
            families=options.families or frozenset({family}),
            passive=True,
            hold_time=float(options.hold_time),
            password=password,
            ttl_security=of.ttl_security,
            add_path=options.add_path,
            extended_next_hop=options.extended_next_hop,
            asns=frozenset(of.asns),
            long_lived_stale_time=options.long_lived_stale_time,
            max_prefixes=options.max_prefixes,
            bfd=None if options.bfd is None else options.bfd.options,
        )
        cluster_id = self.own.route_reflector_cluster_id if self.asn in of.asns else None
        policy = PeerPolicy(
            of.filters,
            cluster_id=cluster_id,
            client=cluster_id is not None,
            enforce_first_as=options.enforce_first_as,
            strict_cluster_list=options.strict_cluster_list,
            max_paths_per_prefix=options.max_paths_per_prefix,
        )
        refused = frozenset(
            address
            for address in self.refused
            if family_of(address) is family and covers(prefix, host_prefix(address))
        )
        return DynamicRange(family, prefix, template, of.max_sessions, policy, refused)


def _password(octets: bytes, source: str) -> str:
    """The text of a TCP MD5 password (RFC 2385), less the end of line that editors leave; ``ValueError`` says no more
    than what is wrong with it."""
    octets = octets.removesuffix(b"\n").removesuffix(b"\r")
    if not 0 < len(octets) <= LONGEST_PASSWORD:
        raise ValueError(f"{source}: expected a password of 1 to {LONGEST_PASSWORD} octets")
    try:
        return octets.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{source}: expected a password in UTF-8") from None
