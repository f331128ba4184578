"""The pod's link, as Calico lays it (ipam.md §4.6): a veth pair, the pod's end with its addresses as /32 and /128 and a
default route by 169.254.1.1 or the host end's link-local address, the host's end answering for all by proxy ARP.

Work in the pod's namespace is one run of ``nsenter`` and ``ip``, work on the host another: each costs milliseconds, and
no Python library that speaks netlink starts in less. What a link is for is kept as its alias: by that it is found again
though its container's namespace is gone. So it is distinguished from the link of a newer sandbox of the same pod.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Sequence
from typing import Any

from bgpd.cni.spec import KERNEL, Failed

HOST_MAC = "ee:ee:ee:ee:ee:ee"
HOST_LINK_LOCAL = "fe80::ecee:eeff:feee:eeee"
GATEWAY = "169.254.1.1"
_TIMEOUT = 20.0


def host_name(container: str, interface: str, pod: str = "", namespace: str = "") -> str:
    """The host end's name: of the pod where there is one, so that its next sandbox has the same (ipam.md §4.5). A
    second interface of a container has a name of its own."""
    prefix = (os.environ.get("FELIX_INTERFACEPREFIX") or "cali").split(",")[0]
    if pod and namespace:
        text = f"{namespace}.{pod}"
    elif interface == "eth0":
        return f"{prefix}{container[:11]}"[:15]
    else:
        text = container
    if interface != "eth0":
        text += f".{interface}"
    import hashlib  # 5 ms, for those who need it

    return f"{prefix}{hashlib.sha1(text.encode()).hexdigest()[:11]}"[:15]


def alias(network: str, container: str, interface: str) -> str:
    """What is written on a link; the kernel takes 255 octets."""
    return f"bgpd {network} {container} {interface}"[:255]


def ours(network: str) -> dict[str, str]:
    """The host's links of a network: alias to name."""
    found = {}
    for name in os.listdir("/sys/class/net"):
        text = alias_of(name)
        if text.startswith(f"bgpd {network} "):
            found[text] = name
    return found


def alias_of(name: str) -> str:
    try:
        with open(f"/sys/class/net/{name}/ifalias", encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return ""


def lay(
    netns: str,
    interface: str,
    host: str,
    mark: str,
    mtu: int,
    addresses: Sequence[str],
    routes: Iterable[str],
) -> dict[str, Any]:
    """Makes the pair and all on it; MAC and MTU of the pod's end. Raises ``Failed`` and leaves no link."""
    v4 = [address for address in addresses if ":" not in address]
    v6 = [address for address in addresses if ":" in address]
    if os.path.exists(f"/sys/class/net/{host}"):
        _ip(["link", "del", host])  # of an ADD that came before, or of the pod's last sandbox
    size = f"mtu {mtu}" if mtu else ""
    try:
        _in(netns, f"link add {interface} {size} type veth peer name {host} {size} netns {os.getpid()}")
        _batch([f"link set {host} address {HOST_MAC} alias '{mark}'"])
        if v4:
            _sysctl(f"ipv4/conf/{host}/route_localnet", 1)
            _sysctl(f"ipv4/neigh/{host}/proxy_delay", 0)
            _sysctl(f"ipv4/conf/{host}/proxy_arp", 1)
            _sysctl(f"ipv4/conf/{host}/forwarding", 1)
            _sysctl("ipv4/ip_forward", 1)
        if v6:
            _sysctl(f"ipv6/conf/{host}/accept_dad", 0)
            _sysctl(f"ipv6/conf/{host}/disable_ipv6", 0)
            _sysctl(f"ipv6/conf/{host}/proxy_ndp", 1)
            _sysctl(f"ipv6/conf/{host}/forwarding", 1)
        _sysctl(f"ipv6/conf/{host}/accept_ra", 0)
        _batch([f"link set {host} up"])
        shown = _pod_side(netns, interface, v4, v6, routes)
        _host_routes(host, addresses)
    except Failed:
        if os.path.exists(f"/sys/class/net/{host}"):
            subprocess.run(["ip", "link", "del", host], capture_output=True, check=False, timeout=_TIMEOUT)
        raise
    return shown


def _pod_side(
    netns: str, interface: str, v4: Sequence[str], v6: Sequence[str], routes: Iterable[str]
) -> dict[str, Any]:
    wanted = list(routes)
    settings = ""
    if v6:
        settings += "".join(
            f"echo 0 > /proc/sys/net/ipv6/conf/{n}/disable_ipv6;" for n in ("all", "default", "lo")
        )
        settings += f"echo 0 > /proc/sys/net/ipv6/conf/{interface}/accept_dad;"
        settings += "echo 0 > /proc/sys/net/ipv6/conf/all/forwarding;"
    if v4:
        settings += "echo 0 > /proc/sys/net/ipv4/ip_forward;"
    lines = [f"link set lo up\nlink set {interface} up"]
    if v4:
        lines.append(f"route add {GATEWAY} dev {interface} scope link")
        # A host without a default route answers no ARP for the gateway; who has the address is known anyway.
        lines.append(f"neighbour add {GATEWAY} lladdr {HOST_MAC} dev {interface} nud permanent")
        lines += (f"route add {dst} via {GATEWAY} dev {interface}" for dst in wanted if ":" not in dst)
    if v6:
        lines += (f"route add {dst} via {HOST_LINK_LOCAL} dev {interface}" for dst in wanted if ":" in dst)
    lines += (f"address add {address} dev {interface}" for address in (*v4, *v6))
    _enter(netns, f"{settings} ip -batch -", "\n".join(lines))
    out = _enter(netns, f"ip -o link show dev {interface}", "").split()
    return {"mac": out[out.index("link/ether") + 1], "mtu": int(out[out.index("mtu") + 1])}


def _host_routes(host: str, addresses: Iterable[str]) -> None:
    """A route an address. One that is there already on this link is somebody faster (Felix); on another link it is a
    pod whose address IPAM does not know, and that one's traffic is not taken from it."""
    for address in addresses:
        done = subprocess.run(
            ["ip", "route", "add", address, "dev", host, *(() if ":" in address else ("scope", "link"))],
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT,
        )
        if done.returncode == 0:
            continue
        shown = (
            _ip(["route", "show", address]) if ":" not in address else _ip(["-6", "route", "show", address])
        )
        if f" dev {host} " in f"{shown} ":
            continue
        owner = shown.strip() or done.stderr.strip()
        raise Failed(KERNEL, f"the host has a route to {address} already: {owner}")


def remove(netns: str, interface: str, host: str, mark: str) -> None:
    """Takes the pair away. What is not there is gone already; a host end of another container is left."""
    if netns and os.path.exists(netns):
        try:
            _enter(netns, f"ip link del {interface} 2>/dev/null || true", "")
        except Failed:
            pass  # the namespace is on its way out; the host's end is looked at next
    for name in {host, *(n for text, n in ours(mark.split(" ")[1]).items() if text == mark)}:
        if alias_of(name) == mark:
            subprocess.run(["ip", "link", "del", name], capture_output=True, check=False, timeout=_TIMEOUT)


def delete(name: str) -> None:
    _ip(["link", "del", name])


def problems(netns: str, interface: str, host: str, addresses: Iterable[str]) -> list[str]:
    """What of a laid network is not as it was laid."""
    found = []
    if not os.path.exists(f"/sys/class/net/{host}"):
        found.append(f"the host has no link {host}")
    shown = _enter(netns, f"ip -o address show dev {interface}; ip route show; ip -6 route show", "")
    words = shown.split()
    for address in addresses:
        if address not in words:
            found.append(f"{interface} has no address {address}")
        route = _ip(["-6" if ":" in address else "-4", "route", "show", address])
        if f" dev {host} " not in f"{route} ":
            found.append(f"the host has no route to {address} by {host}")
    gateways = {":" in address: HOST_LINK_LOCAL if ":" in address else GATEWAY for address in addresses}
    found += (f"the pod has no route by {gateway}" for gateway in gateways.values() if gateway not in words)
    return found


# -- running ip --------------------------------------------------------------------------------------------------------


def _run(words: Sequence[str], text: str) -> str:
    try:
        done = subprocess.run(
            words, input=text, capture_output=True, text=True, check=False, timeout=_TIMEOUT
        )
    except subprocess.TimeoutExpired:
        raise Failed(KERNEL, f"{words[0]} did not end within {_TIMEOUT:g} s", " ".join(words)) from None
    except OSError as error:
        raise Failed(KERNEL, f"{words[0]}: {error.strerror}") from None
    if done.returncode != 0:
        raise Failed(KERNEL, done.stderr.strip() or f"{words[0]}: exit {done.returncode}", " ".join(words))
    return done.stdout


def _ip(words: Sequence[str]) -> str:
    return _run(["ip", *words], "")


def _batch(lines: Sequence[str]) -> None:
    _run(["ip", "-batch", "-"], "\n".join(lines))


def _in(netns: str, line: str) -> None:
    _enter(netns, "ip -batch -", line)


def _enter(netns: str, script: str, text: str) -> str:
    return _run(["nsenter", f"--net={netns}", "--", "sh", "-c", script], text)


def _sysctl(path: str, value: int) -> None:
    try:
        with open(f"/proc/sys/net/{path}", "w", encoding="ascii") as file:
            file.write(str(value))
    except OSError as error:
        raise Failed(KERNEL, f"/proc/sys/net/{path}: {error.strerror}") from None
