"""The pod's link, as Calico lays it (ipam.md §4.6): a veth pair. The pod's end has its addresses as /32 and /128, and a
default route by 169.254.1.1 or the host end's link-local address; the host's end answers for all by proxy ARP.

All of it is done in this process, by ``netlink`` on both sides. What a link is for is kept as its alias: by that it is
found again though its container's namespace is gone, and distinguished from the link of a newer sandbox of the pod.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

from bgpd.cni.netlink import Inside, Link, Netlink
from bgpd.cni.spec import KERNEL, Failed

HOST_MAC = "ee:ee:ee:ee:ee:ee"
HOST_LINK_LOCAL = "fe80::ecee:eeff:feee:eeee"
GATEWAY = "169.254.1.1"
_IP_TIMEOUT = 20.0


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
    routes: Sequence[str],
) -> Link:
    """Makes the pair and all on it; the pod's end. Raises ``Failed`` and leaves no link."""
    with _kernel() as here, _namespace(netns) as there:
        with _doing(f"link {host}"):
            here.delete(host)  # of an ADD that came before, or of the pod's last sandbox
        with _doing(f"links {host} and {interface}"):
            here.make_pair(host, HOST_MAC, interface, there, mtu)
        try:
            index = _host_side(here, host, mark, addresses)
            with _doing(f"network namespace {netns}"), Inside(there), _kernel() as pod:
                made = _pod_side(pod, interface, addresses, routes)
            _host_routes(here, index, host, addresses)
        except BaseException:
            with suppress(OSError):
                here.delete(host)
            raise
    return made


def _host_side(here: Netlink, host: str, mark: str, addresses: Iterable[str]) -> int:
    """The host's end, up; its index."""
    versions = {":" in address for address in addresses}
    if False in versions:
        _sysctl(f"ipv4/conf/{host}/route_localnet", 1)
        _sysctl(f"ipv4/neigh/{host}/proxy_delay", 0)
        _sysctl(f"ipv4/conf/{host}/proxy_arp", 1)
        _sysctl(f"ipv4/conf/{host}/forwarding", 1)
        _sysctl("ipv4/ip_forward", 1)
    if True in versions:
        _sysctl(f"ipv6/conf/{host}/accept_dad", 0)
        _sysctl(f"ipv6/conf/{host}/disable_ipv6", 0)
        _sysctl(f"ipv6/conf/{host}/proxy_ndp", 1)
        _sysctl(f"ipv6/conf/{host}/forwarding", 1)
    if os.path.isdir("/proc/sys/net/ipv6"):
        _sysctl(f"ipv6/conf/{host}/accept_ra", 0)
    with _doing(f"link {host}"):
        index = here.link(host).ifindex
        here.set_up(index, mark)
    return index


def _pod_side(pod: Netlink, interface: str, addresses: Sequence[str], routes: Iterable[str]) -> Link:
    """Seen from inside the namespace. Addresses come last: nobody answers before there is a way back."""
    versions = {":" in address for address in addresses}
    if True in versions:
        for name in ("all", "default", "lo"):
            _sysctl(f"ipv6/conf/{name}/disable_ipv6", 0)
        _sysctl(f"ipv6/conf/{interface}/accept_dad", 0)
        _sysctl("ipv6/conf/all/forwarding", 0)
    if False in versions:
        _sysctl("ipv4/ip_forward", 0)
    with _doing(f"link {interface}"):
        pod.set_up(pod.link("lo").ifindex)
        index = pod.link(interface).ifindex
        pod.set_up(index)
    if False in versions:
        with _doing(f"route to {GATEWAY}"):
            pod.add_route(index, GATEWAY)
            # A host without a default route answers no ARP for the gateway; who has the address is known anyway.
            pod.add_neighbour(index, GATEWAY, HOST_MAC)
    for destination in routes:
        with _doing(f"route to {destination}"):
            pod.add_route(index, destination, HOST_LINK_LOCAL if ":" in destination else GATEWAY)
    for address in addresses:
        with _doing(f"address {address} on {interface}"):
            pod.add_address(index, address)
    with _doing(f"link {interface}"):
        return pod.link(interface)


def _host_routes(here: Netlink, index: int, host: str, addresses: Iterable[str]) -> None:
    """A route an address. One that is there already on this link is somebody faster (Felix); on another link it is a
    pod whose address IPAM does not know, and that one's traffic is not taken from it."""
    for address in addresses:
        try:
            here.add_route(index, address)
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise Failed(KERNEL, f"route to {address} by {host}: {error.strerror or error}") from None
            with _doing(f"route to {address}"):
                if here.has_route(index, address):
                    continue
            owner = _ip(["-6" if ":" in address else "-4", "route", "show", address]).strip()
            words = f"the host has a route to {address} already: {owner or error.strerror}"
            raise Failed(KERNEL, words) from None


def remove(netns: str, interface: str, host: str, mark: str) -> None:
    """Takes the pair away. What is not there is gone already; a host end of another container is left."""
    # A namespace may be on its way out, or be none: the host's end is looked at next.
    with suppress(Failed), _namespace(netns) as there, _doing(netns), Inside(there), _kernel() as pod:
        pod.delete(interface)
    for name in {host, *(n for text, n in ours(mark.split(" ")[1]).items() if text == mark)}:
        if alias_of(name) == mark:
            delete(name)


def delete(name: str) -> None:
    """A link of the host; none is as good."""
    with _doing(f"link {name}"), _kernel() as here:
        here.delete(name)


def problems(netns: str, interface: str, host: str, addresses: Iterable[str]) -> list[str]:
    """What of a laid network is not as it was laid."""
    found = []
    if not os.path.exists(f"/sys/class/net/{host}"):
        found.append(f"the host has no link {host}")
    shown = _enter(netns, f"ip -o address show dev {interface}; ip route show; ip -6 route show")
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


# -- asking ip ---------------------------------------------------------------------------------------------------------


def _run(words: Sequence[str]) -> str:
    """What a command shows: for CHECK and for people, never on the way of an ADD or a DEL that goes well."""
    import subprocess  # 8 ms

    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=_IP_TIMEOUT)
    except subprocess.TimeoutExpired:
        raise Failed(KERNEL, f"{words[0]} did not end within {_IP_TIMEOUT:g} s", " ".join(words)) from None
    except OSError as error:
        raise Failed(KERNEL, f"{words[0]}: {error.strerror}") from None
    if done.returncode != 0:
        raise Failed(KERNEL, done.stderr.strip() or f"{words[0]}: exit {done.returncode}", " ".join(words))
    return done.stdout


def _ip(words: Sequence[str]) -> str:
    return _run(["ip", *words])


def _enter(netns: str, script: str) -> str:
    return _run(["nsenter", f"--net={netns}", "--", "sh", "-c", script])


# -- the kernel's doors ------------------------------------------------------------------------------------------------


@contextmanager
def _doing(what: str) -> Iterator[None]:
    """What the kernel refuses inside is a ``Failed`` that names it."""
    try:
        yield
    except OSError as error:
        raise Failed(KERNEL, f"{what}: {error.strerror or error}") from None


@contextmanager
def _kernel() -> Iterator[Netlink]:
    """Of the namespace that the process is in now."""
    with _doing("route netlink"):
        kernel = Netlink()
    try:
        yield kernel
    finally:
        kernel.close()


@contextmanager
def _namespace(path: str) -> Iterator[int]:
    """A descriptor of a network namespace."""
    with _doing(f"network namespace {path}"):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _sysctl(path: str, value: int) -> None:
    name = f"/proc/sys/net/{path}"
    with _doing(name), open(name, "w", encoding="ascii") as file:
        file.write(str(value))
