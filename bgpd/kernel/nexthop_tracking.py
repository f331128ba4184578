"""What surrounds this node: links, addresses, the way to a BGP next hop, and the workloads behind host routes.

A next hop resolves by longest match in table main over routes that are not ours, the default route included (RFC 4271
§9.1.2.1 and §5.1.3; ours are left out so that no route resolves through itself). A next hop inside a subnet that is
configured here is on that link or nowhere. A link-local one comes with its link, ``fe80::1%eth0``. Answers are
remembered: what was asked once is looked up again when a route, link or address changes, and ``recheck`` says whose
answer differs. Used by ``kernel``, which brings the events.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from bgpd.kernel import rtnetlink as rt
from bgpd.kernel.foreign import Others
from bgpd.kernel.interfaces import InterfaceAddress, Link, read_address, read_link
from bgpd.kernel.nexthop_objects import NextHops
from bgpd.kernel.rtnetlink import Body
from bgpd.kernel.sockets import dump_each
from bgpd.model.interface import matches
from bgpd.model.prefix import Address, Family, Prefix, covers, family_of, host_prefix, make_prefix
from bgpd.model.route import (
    ForeignRoute,
    ForeignRoutes,
    Hop,
    Resolution,
    RouteSource,
    Unresolved,
    Via,
    WorkloadRoute,
    Workloads,
)
from bgpd.rules.workloads import connected_route, is_learned, is_workload, tunnel_route

_LINK_LOCAL = Prefix(b"\x0a\xfe\x80")
_LOCAL_TYPES = (2, 3, 4, 5)
_UNREACHABLE_TYPES = (6, 7, 8)
"""The kernel's numbers for blackhole, unreachable and prohibit."""


class Neighbours:
    """``foreign`` and ``nexthops`` are filled elsewhere; the rest is filled here."""

    def __init__(
        self,
        nexthops: NextHops,
        others: Mapping[Family, Others],
        workload_interfaces: Iterable[str],
        tunnel_interfaces: Iterable[str],
    ) -> None:
        self.links: dict[int, Link] = {}
        self.names: dict[int, str] = {}
        """By index, those of links that are gone too."""
        self._nexthops, self._others = nexthops, others
        self._workload_patterns, self._tunnel_patterns = tuple(workload_interfaces), tuple(tunnel_interfaces)
        self._addresses: dict[tuple[int, Address, Prefix], InterfaceAddress] = {}
        self._own: dict[Family, frozenset[Address]] = {}
        self._subnets: dict[Prefix, list[InterfaceAddress]] = {}
        self._subnet_lengths: dict[Family, list[int]] = {}
        self._answers: dict[Address, Resolution | Unresolved] = {}
        self._stale: dict[Address, None] = {}
        self._index_addresses()

    async def sync(self) -> None:
        """Reads all links and addresses. Events must wait meanwhile: they come after what is read here."""
        links: dict[int, Link] = {}
        addresses: dict[tuple[int, Address, Prefix], InterfaceAddress] = {}

        def link(data: bytes, message: rt.Message) -> None:
            if message.type == rt.NEWLINK and (found := read_link(data, message)):
                links[found.ifindex] = found

        def address(data: bytes, message: rt.Message) -> None:
            if message.type == rt.NEWADDR and (found := read_address(data, message)):
                addresses[found.ifindex, found.address, found.subnet] = found

        await dump_each(rt.GETLINK, links.clear, link)
        await dump_each(rt.GETADDR, addresses.clear, address)
        self.links, self._addresses = links, addresses
        self.names.update((found.ifindex, found.name) for found in links.values())
        self._index_addresses()
        self.review_all()

    # Events.

    def put_link(self, link: Link) -> Link | None:
        """A link came or changed. Returns what it was before."""
        before = self.links.get(link.ifindex)
        self.links[link.ifindex] = link
        self.names[link.ifindex] = link.name
        if before is None or (before.up, before.name) != (link.up, link.name):
            self.review_all()
        return before

    def drop_link(self, ifindex: int) -> None:
        """A link is gone, or in another namespace."""
        self.links.pop(ifindex, None)
        for key in [key for key in self._addresses if key[0] == ifindex]:
            del self._addresses[key]
        self._index_addresses()
        self.review_all()

    def put_address(self, address: InterfaceAddress, present: bool) -> None:
        """An address came or went."""
        key = (address.ifindex, address.address, address.subnet)
        if present:
            if self._addresses.get(key) == address:
                return
            self._addresses[key] = address
        elif self._addresses.pop(key, None) is None:
            return
        self._index_addresses()
        self.review(address.family, [address.subnet, host_prefix(address.address)])

    def _index_addresses(self) -> None:
        self._subnets = {}
        for address in self._addresses.values():
            if address.subnet[0] < address.family.bits and not (
                address.family is Family.IPV6 and covers(_LINK_LOCAL, address.subnet)
            ):
                self._subnets.setdefault(self._subnet_key(address), []).append(address)
        for family in Family:
            of_family = [address for address in self._addresses.values() if address.family is family]
            self._own[family] = frozenset(address.address for address in of_family)
            self._subnet_lengths[family] = sorted({address.subnet[0] for address in of_family}, reverse=True)

    @staticmethod
    def _subnet_key(address: InterfaceAddress) -> Prefix:
        return Prefix(bytes((address.family,)) + address.subnet)

    # What the node has.

    def addresses(self, family: Family) -> frozenset[Address]:
        """Its own addresses."""
        return self._own[family]

    def connected(self, family: Family) -> dict[Prefix, str]:
        """Subnets on its links (not link-local ones), each with the interface's name."""
        return {
            address.subnet: self.names.get(address.ifindex, "")
            for found in self._subnets.values()
            for address in found
            if address.family is family and self._is_configured(address)
        }

    def workloads(self) -> Workloads:
        """Host routes over workload interfaces, and the addresses of tunnel interfaces."""
        return {family: self._workloads(family) for family in Family}

    def _workloads(self, family: Family) -> frozenset[WorkloadRoute]:
        others = self._others[family]
        found = set()
        for prefix in others.hosts:
            for body in others.routes(prefix):
                if body.type != rt.UNICAST or body.tos or len(body.hops) != 1:
                    continue
                hop = body.hops[0]
                link = self.links.get(hop.ifindex)
                if link and is_workload(family, prefix, link.name, hop.gateway, 1, self._workload_patterns):
                    found.add(WorkloadRoute(prefix, link.name, body.metric))
        for address in self._addresses.values():
            link = self.links.get(address.ifindex)
            if address.family is family and link is not None:
                route = tunnel_route(address.address, link.name, self._tunnel_patterns)
                if route is not None:
                    found.add(route)
        return frozenset(found)

    def foreign(self) -> ForeignRoutes:
        """Others' routes that lead somewhere, and the subnets of addresses, for filters that may want them."""
        return {family: self._foreign(family) for family in Family}

    def _foreign(self, family: Family) -> frozenset[ForeignRoute]:
        found = set()
        for prefix, bodies in self._others[family]:
            for body in bodies:
                if body.type != rt.UNICAST or body.tos or not is_learned(body.protocol):
                    continue
                for hop in (self._hops(body) or ())[:1]:
                    name = self.names.get(hop.ifindex, "")
                    found.add(ForeignRoute(prefix, RouteSource.KERNEL, name, hop.gateway, body.metric))
        for address in self._addresses.values():
            if address.family is family:
                route = connected_route(family, address.subnet, self.names.get(address.ifindex, ""))
                if route is not None:
                    found.add(route)
        return frozenset(found)

    def tunnels(self) -> dict[str, int]:
        """The tunnel interfaces that are up, name -> index."""
        return {
            link.name: link.ifindex
            for link in self.links.values()
            if link.up and matches(link.name, self._tunnel_patterns)
        }

    # Resolution.

    def resolve(self, address: Address) -> Resolution | Unresolved:
        """The way to a next hop, now. What was asked once is followed: see ``recheck``."""
        answer = self._answers.get(address)
        if answer is None:
            answer = self._answers[address] = self._resolve(address)
            return answer
        return self._resolve(address) if address in self._stale else answer

    def review(self, family: Family, prefixes: Iterable[Prefix]) -> None:
        """Routes of these prefixes, or what they lead over, changed: answers inside them must be looked up again."""
        for prefix in prefixes:
            if prefix[0] == family.bits:
                if (address := Address(prefix[1:])) in self._answers:
                    self._stale[address] = None
            else:  # by whole octets: some that are not inside are looked up for nothing
                head = prefix[1 : 1 + (prefix[0] >> 3)]
                size = family.octets
                self._stale.update(
                    (address, None)
                    for address in self._answers
                    if address.startswith(head) and len(address) == size
                )

    def review_all(self) -> None:
        """Anything may have changed."""
        self._stale.update(dict.fromkeys(self._answers))

    def recheck(self, seconds: float) -> frozenset[Address]:
        """Looks stale answers up again, for at most some time: those that differ. See ``unfinished``."""
        changed = set()
        end = time.monotonic() + seconds
        while self._stale:
            for _ in range(min(64, len(self._stale))):
                address, _ = self._stale.popitem()
                answer = self._resolve(address)
                if self._answers.get(address) != answer:
                    self._answers[address] = answer
                    changed.add(address)
            if time.monotonic() >= end:
                break
        return frozenset(changed)

    @property
    def unfinished(self) -> bool:
        """Whether answers are left to look up again."""
        return bool(self._stale)

    def _resolve(self, address: Address) -> Resolution | Unresolved:
        if len(address) > 16:
            return self._resolve_zoned(Address(address[:16]), address[16:].decode(errors="replace"))
        family = family_of(address)
        if address in self._own[family]:
            return Unresolved.OWN_ADDRESS
        for length in self._subnet_lengths[family]:
            subnet = make_prefix(address, length)
            on_link = self._subnets.get(Prefix(bytes((family,)) + subnet))
            found = [configured for configured in on_link or () if self._is_configured(configured)]
            if found:
                return self._resolve_on_link(address, subnet, found)
        match = self._others[family].match(address)
        if match is None:
            return Unresolved.NO_ROUTE
        body = match
        if body.type in _UNREACHABLE_TYPES:
            return Unresolved.BLACKHOLE
        if body.type in _LOCAL_TYPES:
            return Unresolved.OWN_ADDRESS
        hops = self._hops(body)
        if body.type != rt.UNICAST or hops is None:
            return Unresolved.NO_ROUTE
        if not hops:
            return Unresolved.BLACKHOLE  # over a blackhole object
        alive = [hop for hop in hops if (link := self.links.get(hop.ifindex)) is not None and link.up]
        if not alive:
            return Unresolved.LINK_DOWN
        if any(self.links[hop.ifindex].loopback for hop in alive):
            return Unresolved.OWN_ADDRESS
        ways = tuple(hop if hop.gateway is not None else hop._replace(gateway=address) for hop in alive)
        return Resolution(Via(ways), body.metric)

    def _resolve_zoned(self, address: Address, interface: str) -> Resolution | Unresolved:
        link = next((link for link in self.links.values() if link.name == interface), None)
        if link is None:
            return Unresolved.NO_ROUTE
        if any(key[0] == link.ifindex and key[1] == address for key in self._addresses):
            return Unresolved.OWN_ADDRESS
        return Resolution(Via((Hop(address, link.ifindex),)), 0) if link.up else Unresolved.LINK_DOWN

    def _resolve_on_link(
        self, address: Address, subnet: Prefix, on_link: list[InterfaceAddress]
    ) -> Resolution | Unresolved:
        family = family_of(address)
        links = [self.links[found.ifindex] for found in on_link if found.ifindex in self.links]
        if any(link.loopback for link in links):
            return Unresolved.OWN_ADDRESS
        up = {link.ifindex for link in links if link.up}
        if not up:
            return Unresolved.NOT_ON_LINK
        for body in self._others[family].routes(
            subnet
        ):  # the kernel's own choice where two links have the subnet
            for hop in body.hops:
                if hop.gateway is None and hop.ifindex in up and not body.tos:
                    return Resolution(Via((Hop(address, hop.ifindex),)), body.metric)
        return Resolution(Via((Hop(address, min(up)),)), 0)

    def _is_configured(self, address: InterfaceAddress) -> bool:
        """Whether an address makes its subnet on-link: one without a route of the kernel's does if someone made it."""
        return address.prefix_route or any(
            hop.gateway is None and hop.ifindex == address.ifindex
            for body in self._others[address.family].routes(address.subnet)
            for hop in body.hops
        )

    def _hops(self, body: Body) -> tuple[Hop, ...] | None:
        if not body.nexthop:
            return body.hops
        hops = self._nexthops.hops(body.nexthop)
        return body.hops or None if hops is None else hops
