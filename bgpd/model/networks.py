"""netaddr's addresses and networks, without what else that package imports at once: a CNI plugin starts once a pod, and
MAC addresses and their registry cost it 40 ms."""

from __future__ import annotations

from bgpd.lean_import import lean_import

with lean_import("netaddr"):
    from netaddr.core import AddrFormatError
    from netaddr.ip import IPAddress, IPNetwork, cidr_merge

__all__ = ["AddrFormatError", "IPAddress", "IPNetwork", "cidr_merge"]
