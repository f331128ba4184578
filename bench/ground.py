"""The ground of the cases that have tables, and the waits of all cases.

Used by ``tables`` and ``nodes``. A wait asks the kernel or the daemon, and has a limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import time
from collections.abc import AsyncIterator, Callable, Mapping

from bench.injector import Family, Speaker, dial
from bench.kernel import Counter, socket_maker
from bench.subjects import Bgpd, Neighbour, Node, Subject
from bench.work import Failed, Figures
from testing import namespaces

LIMIT = 60.0
"""Seconds after which a wait is given up, and the run has failed."""


class Ground:
    """A receiver with two links to where the peers are simulated. Next hops are on the subnet of a link."""

    DEVICES = ("peer0", "peer1")
    RECEIVER: Mapping[Family, tuple[str, str]] = {
        "ipv4": ("10.0.0.1/9", "10.128.0.1/9"),
        "ipv6": ("fd0a::1/64", "fd0b::1/64"),
    }
    SENDER: Mapping[Family, tuple[str, str]] = {
        "ipv4": ("10.0.0.2", "10.128.0.2"),
        "ipv6": ("fd0a::2", "fd0b::2"),
    }
    NEXT_HOPS: Mapping[Family, tuple[str, str]] = {
        "ipv4": ("10.1.0.0", "10.129.0.0"),
        "ipv6": ("fd0a::1:0:0", "fd0b::1:0:0"),
    }

    def __init__(self, net: namespaces.Net, family: Family) -> None:
        self.family: Family = family
        self.receiver, self.sender = net.namespace("rx"), net.namespace("tx")
        for number, device in enumerate(self.DEVICES):
            net.link(self.receiver, device, self.sender, device)
            for each in ("ipv4", "ipv6"):
                length = "/9" if each == "ipv4" else "/64"
                self.receiver.address(device, self.RECEIVER[each][number])
                self.sender.address(device, self.SENDER[each][number] + length)
        self.counter = Counter(self.receiver.name, family)

    def node(self, links: int = 1, pool: str = "") -> Node:
        """The receiver, with a neighbour on each of its first links."""
        return Node(
            {each: self.RECEIVER[each][0] for each in ("ipv4", "ipv6")},
            tuple(Neighbour(address) for address in self.SENDER[self.family][:links]),
            self.family,
            pool=pool,
        )

    def next_hop(self, link: int = 0) -> bytes:
        """The first next hop on a link."""
        return ipaddress.ip_address(self.NEXT_HOPS[self.family][link]).packed

    def ifindex(self, link: int) -> int:
        return int(self.receiver.ip_json("link", "show", self.DEVICES[link])[0]["ifindex"])

    async def session(self, link: int = 0, graceful_restart: bool = False) -> Speaker:
        """A simulated peer on a link, its session established."""
        receiver = self.RECEIVER[self.family][link].split("/")[0]
        router_id = ipaddress.ip_address(self.SENDER["ipv4"][link]).packed
        return await dial(
            socket_maker(self.sender.name),
            self.SENDER[self.family][link],
            receiver,
            lambda: Speaker(self.family, router_id=router_id, graceful_restart=graceful_restart),
        )


@contextlib.asynccontextmanager
async def ground(family: Family) -> AsyncIterator[Ground]:
    """A fresh ``Ground``; in the end its processes are killed, its routes gone, its namespaces deleted.

    The links go down first: the kernel then drops the routes while we wait, and not behind the back of the next run.
    """
    with namespaces.Net() as net:
        laid = Ground(net, family)
        try:
            yield laid
        finally:
            laid.counter.close()
            for process in net.processes:
                if process.running:
                    process.kill()
            for device in Ground.DEVICES:
                laid.receiver.run("ip", "link", "set", device, "down", check=False, timeout=300)


async def until(
    ready: Callable[[], int], goal: int, subject: Subject, start: float, limit: float = LIMIT
) -> float:
    """Seconds from ``start`` until a count reached ``goal`` from below or above.

    Looks rarely while the goal is far, by the rate so far, and often when it is near, since looking takes a processor
    too: a tenth of one, until half of the time left would go by. Near the goal the result is off by 5 % at most, or by
    what looking costs.
    """
    first = ready()
    while True:
        now = time.monotonic()
        count = ready()
        if count == goal or (count > goal) != (first > goal):
            return time.monotonic() - start
        if now - start > limit:
            raise Failed(f"over {limit:.0f} s: {count} of {goal} routes")
        if not subject.alive():
            raise Failed("the daemon ended")
        looking = time.monotonic() - now
        rate = abs(count - first) / max(now - start, 1e-6)
        left = abs(goal - count) / rate if rate else 0.0
        soon = max(2 * looking, min(left / 3, 0.05 * (now - start)))
        await asyncio.sleep(max(0.002, soon, min(8 * looking, left / 2)))


async def holds(predicate: Callable[[], bool], what: str, every: float, limit: float = LIMIT) -> float:
    """When a predicate that blocks first held; what a daemon raises that does not answer yet counts as no."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        with contextlib.suppress(*namespaces.UNREADY):
            if await asyncio.to_thread(predicate):
                return time.monotonic()
        await asyncio.sleep(every)
    raise Failed(f"over {limit:.0f} s: not {what}")


def lags(subject: Subject) -> Figures:
    """The longest that the event loop was held since the probe was cleared, for bgpd."""
    if isinstance(subject, Bgpd) and (longest := subject.lags.quantile(1.0)) is not None:
        return {"hold_ms": longest}
    return {}


async def at_rest(subject: Subject, speakers: list[Speaker]) -> None:
    """Waits until the daemon has taken all that was sent and does nothing: under 2 % of a core for half a second."""
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        before = subject.cpu()
        await asyncio.sleep(0.5)
        if subject.cpu() - before <= 0.01 and not any(
            s.transport and s.transport.get_write_buffer_size() for s in speakers
        ):
            return
    raise Failed("the daemon does not come to rest")
