"""Whose connection is it that comes in: a configured peer's, or a new neighbour's from inside a listen range.

``speaker`` says what is wanted and asks by a connection's address, and by the zone of a link-local one (RFC 4007).
Also which TCP MD5 keys the listening sockets need for that, since the kernel looks at those before anybody is asked.
Nothing here touches a socket.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from bgpd.bgp.protection import Net
from bgpd.model.peer import DynamicRange, PeerConfig, PeerId, PeerKind, peer_id
from bgpd.model.prefix import Address, address_text, covers, family_of, host_prefix, is_link_local


class Neighbour(NamedTuple):
    """Somebody inside a listen range, and how to speak with them."""

    range: Net
    limit: int
    """Sessions that the range may have."""
    config: PeerConfig


class Admission:
    """The peers and ranges that are wanted now."""

    def __init__(self) -> None:
        self._by_address: dict[Address, list[PeerConfig]] = {}
        self._ranges: tuple[DynamicRange, ...] = ()
        self.keys: dict[Net, str] = {}
        """TCP MD5 keys of the listening sockets."""

    def want_peers(self, peers: Iterable[PeerConfig], ranges: Sequence[DynamicRange]) -> None:
        """All that may connect. Of several peers of one address the first with a password, by name, says which key
        the address has: there can be one only."""
        self._by_address = {}
        for config in sorted(peers, key=lambda config: config.id):
            self._by_address.setdefault(config.address, []).append(config)
        # The longest first: it is the one that counts, here as in the kernel's lookup of keys.
        self._ranges = tuple(sorted(ranges, key=lambda each: -each.prefix[0]))
        self.keys = {}
        for each in self._ranges:
            if each.template.password is not None:
                self.keys.setdefault((each.family, each.prefix), each.template.password)
        for address, configs in self._by_address.items():
            password = next((c.password for c in configs if c.password is not None), None)
            if password is not None:
                self.keys[family_of(address), host_prefix(address)] = password

    def net(self, address: Address) -> Net | None:
        """What the key is for that connections from an address must have; ``None`` where they need none."""
        net = family_of(address), host_prefix(address)
        if net in self.keys:
            return net
        return next((found for found in map(_net, self._covering(address)) if found in self.keys), None)

    def whose(self, address: Address, zone: str | None) -> list[PeerId]:
        """Configured peers that a connection may be of."""
        net = self.net(address)
        password = None if net is None else self.keys[net]
        return [
            config.id
            for config in self._by_address.get(address, ())
            if config.password == password and (zone is None or config.interface in (None, zone))
        ]

    def hindrance(self, config: PeerConfig) -> str:
        """Why a peer's own connections cannot be taken; empty when they can."""
        net = self.net(config.address)
        if config.password == (None if net is None else self.keys[net]):
            return ""
        other = (
            "another peer of this address"
            if net and net[1] == host_prefix(config.address)
            else "a listen range"
        )
        return f"connections from it are not taken: {other} has another TCP MD5 password"

    def neighbour(self, address: Address, zone: str | None) -> Neighbour | None:
        """The neighbour that an address is, where a listen range lets it in and no peer has it."""
        if any(
            zone is None or config.interface in (None, zone) for config in self._by_address.get(address, ())
        ):
            return None
        for each in self._covering(address):
            if address in each.refused:
                return None
            if zone is None or each.template.interface in (None, zone):
                config = replace(
                    each.template,
                    id=peer_id(PeerKind.DYNAMIC, address_text(address), f"_{zone}" if zone else ""),
                    kind=PeerKind.DYNAMIC,
                    address=address,
                    passive=True,
                    interface=zone if is_link_local(address) else each.template.interface,
                )
                return Neighbour(_net(each), each.limit, config)
        return None

    def _covering(self, address: Address) -> list[DynamicRange]:
        """Ranges that hold an address, the longest first."""
        family, prefix = family_of(address), host_prefix(address)
        return [each for each in self._ranges if each.family is family and covers(each.prefix, prefix)]


def _net(each: DynamicRange) -> Net:
    return each.family, each.prefix
