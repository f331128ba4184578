"""Which routes and addresses in the kernel are what: workloads', tunnels', or others' that a filter may want.

Asked by the kernel door (``kernel.nexthop_tracking``), by the reader of what ``ip -j`` prints (``cli.kernelfacts``) and
by ``policy test``. So a plan of another machine says what the daemon there would do. calico.md §3.1 and §3.2.
"""

from __future__ import annotations

from bgpd.model.interface import matches
from bgpd.model.prefix import (
    Address,
    Family,
    Prefix,
    covers,
    host_prefix,
    is_host,
    is_link_local,
    parse_prefix,
)
from bgpd.model.route import ForeignRoute, RouteSource, WorkloadRoute

UNSPECIFIED, REDIRECT, KERNEL, BIRD = 0, 1, 2, 12
"""Protocols of rtnetlink whose routes are nobody's to pass on: without one, redirects, the kernel's own (subnets are
known by their addresses), and ours."""
_NOT_LEARNED = (UNSPECIFIED, REDIRECT, KERNEL, BIRD)
_LOOPBACK = {
    family: parse_prefix(text)[1] for family, text in ((Family.IPV4, "127.0.0.0/8"), (Family.IPV6, "::1/128"))
}
_LINK_LOCAL = parse_prefix("fe80::/10")[1]


def is_workload(
    family: Family,
    prefix: Prefix,
    interface: str,
    gateway: Address | None,
    legs: int,
    patterns: tuple[str, ...],
) -> bool:
    """Whether a route of another is a workload's: a host route straight over one of its interfaces. ``legs``: next hops
    of the route, of which ``gateway`` is the first's."""
    return legs == 1 and gateway is None and is_host(family, prefix) and matches(interface, patterns)


def tunnel_route(address: Address, interface: str, patterns: tuple[str, ...]) -> WorkloadRoute | None:
    """The address of a tunnel interface counts as a workload's; ``None`` of any other address."""
    if not matches(interface, patterns) or is_link_local(address):
        return None
    return WorkloadRoute(host_prefix(address), interface, direct=True)


def is_learned(protocol: int) -> bool:
    """Whether routes of a protocol are others' that may be passed on."""
    return protocol not in _NOT_LEARNED


def connected_route(family: Family, subnet: Prefix, interface: str) -> ForeignRoute | None:
    """The subnet of an address of this node; ``None`` of one that means nothing elsewhere."""
    if covers(_LOOPBACK[family], subnet) or (family is Family.IPV6 and covers(_LINK_LOCAL, subnet)):
        return None
    return ForeignRoute(subnet, RouteSource.DIRECT, interface)
