"""Links and addresses of netlink messages as values, by pyroute2: they are few, and its parsers know them all.

Used by ``nexthop_tracking`` and ``kernel``, which bring the octets; routes, of which there are many, are
``rtnetlink``'s.
"""

from __future__ import annotations

from typing import NamedTuple

from bgpd.kernel.rtnetlink import Message
from bgpd.lean_import import lean_import
from bgpd.model.prefix import Address, Family, Prefix, make_prefix, parse_address

with lean_import("pyroute2"):
    from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

IFF_UP, IFF_LOOPBACK, IFF_LOWER_UP = 0x1, 0x8, 0x10000
IFA_F_NOPREFIXROUTE = 0x200
NOT_CARRYING = frozenset(("NOTPRESENT", "LOWERLAYERDOWN", "TESTING", "DORMANT"))
"""RFC 2863 states in which carrier alone does not mean traffic; ``DOWN`` is reported by the flags."""
_HEADER = 16
_FAMILIES = {family.af: family for family in Family}


class Link(NamedTuple):
    """A network interface."""

    ifindex: int
    name: str
    admin_up: bool
    up: bool
    """Set up and carrying traffic."""
    loopback: bool


class InterfaceAddress(NamedTuple):
    """An address on an interface."""

    ifindex: int
    family: Family
    address: Address
    subnet: Prefix
    """The connected subnet; on a point-to-point link the peer's."""
    prefix_route: bool
    """Whether the kernel makes the subnet's route."""


def read_link(data: bytes, message: Message) -> Link | None:
    """An interface; ``None`` for a message of another family (a bridge's view of its port)."""
    if data[message.start]:
        return None
    parsed = ifinfmsg(data[message.start - _HEADER : message.end])
    parsed.decode()
    flags = parsed["flags"]
    up = (
        bool(flags & IFF_UP and flags & IFF_LOWER_UP)
        and parsed.get_attr("IFLA_OPERSTATE") not in NOT_CARRYING
    )
    name = parsed.get_attr("IFLA_IFNAME") or ""
    return Link(parsed["index"], name, bool(flags & IFF_UP), up, bool(flags & IFF_LOOPBACK))


def read_address(data: bytes, message: Message) -> InterfaceAddress | None:
    """An address on an interface; ``None`` for other families."""
    family = _FAMILIES.get(data[message.start])
    if family is None:
        return None
    parsed = ifaddrmsg(data[message.start - _HEADER : message.end])
    parsed.decode()
    peer = parsed.get_attr("IFA_ADDRESS")
    local = parsed.get_attr("IFA_LOCAL") or peer
    if local is None:
        return None
    flags = parsed.get_attr("IFA_FLAGS") or parsed["flags"]
    subnet = make_prefix(parse_address(peer or local), parsed["prefixlen"])
    own = parse_address(local)
    return InterfaceAddress(parsed["index"], family, own, subnet, not flags & IFA_F_NOPREFIXROUTE)
