"""Real kernels to test the kernel door against: a fresh network namespace, entered by the test's own thread."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from bgpd.kernel.kernel import Kernel
from bgpd.model.prefix import Address, Family, parse_address, parse_prefix, prefix_text
from bgpd.model.route import FibKey, Forwarding, Hop, Via

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
IDS = range(0x62670000, 0x62680000)


def setns(descriptor: int) -> None:
    """Moves the calling thread into a network namespace."""
    if _LIBC.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


class Netns:
    """A namespace with ``v0`` (10.0.1.1/24, fd00:1::1/64), ``v1`` (10.0.2.1/24, fd00:2::1/64), both up, and ``lo``."""

    def __init__(self, name: str) -> None:
        self.name = name

    def ip(self, *words: str, check: bool = True) -> str:
        """Runs ``ip`` inside, in a process of its own."""
        command = ["ip", "-n", self.name, *" ".join(words).split()]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout

    def json(self, *words: str) -> list[dict[str, Any]]:
        text = self.ip("-j", *words)
        return json.loads(text) if text.strip() else []

    def routes(self, prefix: str = "", family: int = 4) -> list[str]:
        """Lines of ``ip route``, spaces collapsed, without what varies."""
        lines = self.ip(f"-{family} -o route show {prefix}").replace("\\", " ").splitlines()
        return [" ".join(line.split()).removesuffix(" pref medium") for line in lines]

    def ifindex(self, name: str) -> int:
        return int(self.json(f"link show dev {name}")[0]["ifindex"])

    def keep_addresses(self, link: str) -> None:
        """IPv6 addresses of a link stay when it goes down, as IPv4 ones do."""
        Path(f"/proc/sys/net/ipv6/conf/{link}/keep_addr_on_down").write_text("1")

    def via(self, *gateways: str, dev: str = "v0") -> Via:
        index = self.ifindex(dev)
        return Via(tuple(Hop(parse_address(gateway), index) for gateway in gateways))


@contextlib.contextmanager
def fresh_netns() -> Iterator[Netns]:
    """Makes a namespace, enters it, and in the end leaves and removes it."""
    name = f"bgpdtest-{uuid.uuid4().hex[:12]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        inside = os.open(f"/run/netns/{name}", os.O_RDONLY)
        setns(inside)
        os.close(inside)
        netns = Netns(name)
        netns.ip("link set lo up")
        for number, link in ((1, "v0"), (2, "v1")):
            netns.ip(f"link add {link} type veth peer name {link}p")
            netns.ip(f"link set {link} up")
            netns.ip(f"link set {link}p up")
            netns.ip(f"addr add 10.0.{number}.1/24 dev {link}")
            netns.ip(f"-6 addr add fd00:{number}::1/64 dev {link} nodad")
        yield netns
    finally:
        setns(before)
        os.close(before)
        subprocess.run(["ip", "netns", "del", name], check=True)


class Recorder:
    """A KernelHandler that notes what is reported to it, with the time."""

    def __init__(self) -> None:
        self.kernel: Kernel
        self.changed: list[tuple[Family, Mapping[FibKey, Forwarding | None]]] = []
        self.suspects: list[tuple[Family | None, str]] = []
        self.next_hops: list[frozenset[Address]] = []
        self.rivals: list[str | None] = []
        self.workloads = self.local = 0

    def fib_changed(self, family: Family, keys: Collection[FibKey]) -> None:
        installed = self.kernel.fibs[family].installed
        self.changed.append((family, {key: installed.get(key) for key in keys}))

    def fib_suspect(self, family: Family | None, cause: str) -> None:
        self.suspects.append((family, cause))

    def next_hops_changed(self, addresses: frozenset[Address]) -> None:
        self.next_hops.append(addresses)

    def workloads_changed(self) -> None:
        self.workloads += 1

    def local_changed(self) -> None:
        self.local += 1

    def rival_changed(self, who: str | None) -> None:
        self.rivals.append(who)

    def clear(self) -> None:
        self.__init__()  # type: ignore[misc]


class Door:
    """A running Kernel and what it reported."""

    def __init__(self, kernel: Kernel, reported: Recorder) -> None:
        self.kernel, self.reported = kernel, reported
        self.ipv4, self.ipv6 = kernel.fibs[Family.IPV4], kernel.fibs[Family.IPV6]

    async def until(self, condition: Callable[[], object], seconds: float = 3.0) -> float:
        """Waits for a condition; returns how long it took."""
        started = time.monotonic()
        while not condition():
            assert time.monotonic() - started < seconds, "it did not happen in time"
            await asyncio.sleep(0.002)
        return time.monotonic() - started

    async def settle(self) -> None:
        """Gives events that are under way the time to be reported."""
        await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def running_door(**options: Any) -> AsyncIterator[Door]:
    """A Kernel in the present namespace, started and running."""
    reported = Recorder()
    settings: dict[str, Any] = {
        "workload_interfaces": ("cali*",),
        "tunnel_interfaces": ("tunl0",),
        "nexthop_objects": "auto",
        "nexthop_ids": IDS,
        "nexthop_groups": True,
    }
    kernel = Kernel(reported, **(settings | options))
    reported.kernel = kernel
    await kernel.start()
    task = asyncio.create_task(kernel.run())
    await asyncio.sleep(0)
    try:
        yield Door(kernel, reported)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def key(text: str, metric: int | None = None) -> FibKey:
    """``10.48.0.0/26`` with the family's default metric, or another."""
    family, prefix = parse_prefix(text)
    return prefix, (0 if family is Family.IPV4 else 1024) if metric is None else metric


def texts(family: Family, table: Mapping[FibKey, Forwarding]) -> dict[str, Forwarding]:
    """A table with readable prefixes."""
    return {prefix_text(family, prefix): value for (prefix, _), value in table.items()}
