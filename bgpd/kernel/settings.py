"""Settings of the kernel (sysctl) that forwarding depends on: read when the operator asks, never written.

``kernel`` reads them, ``views`` says what is missing.
"""

from __future__ import annotations

from pathlib import Path

from bgpd.model.prefix import Family

_ROOT = Path("/proc/sys")


def forwarding_setting(family: Family) -> str:
    """The setting that lets a machine forward packets of a family."""
    return "net.ipv4.ip_forward" if family is Family.IPV4 else "net.ipv6.conf.all.forwarding"


def reverse_path_settings(interface: str) -> tuple[str, ...]:
    """The settings of which the largest is the interface's reverse path filter (RFC 3704): 0 off, 1 strict, 2 loose."""
    return f"net.ipv4.conf.{interface}.rp_filter", "net.ipv4.conf.all.rp_filter"


def read(setting: str) -> int | None:
    """A setting's value in this network namespace; ``None`` where it cannot be read."""
    # The name of an interface may hold dots: /proc has it as it is, between "conf" and the last part.
    head, conf, rest = setting.partition(".conf.")
    interface, dot, last = rest.rpartition(".")
    parts = [*head.split("."), "conf", interface, last] if conf and dot else setting.split(".")
    try:
        return int(_ROOT.joinpath(*parts).read_text())
    except (OSError, ValueError):
        return None
