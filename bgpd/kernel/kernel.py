"""The door to Linux: one ``Kernel`` a daemon. It owns the netlink sockets and hands each event to the part it concerns.

``fibs`` are our routes, a ``Target`` a family; ``resolve``, ``workloads``, ``addresses`` and ``connected`` are what
surrounds this node. ``start`` makes all of that valid, ``run`` keeps it so. What changes is reported to a
``KernelHandler`` within the same turn of the event loop as the kernel's notification, once a turn.

The kernel does not notify everything: when a link goes down or an address is removed it drops IPv4 routes and nexthop
objects in silence. When its queue to us overflows, it drops notifications. Then ``fib_suspect`` asks for a whole
reading, which brings others' routes up to date too.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Protocol

from bgpd.events import event
from bgpd.kernel import rtnetlink as rt
from bgpd.kernel import settings
from bgpd.kernel.fib import Fib, is_ours
from bgpd.kernel.foreign import Others
from bgpd.kernel.interfaces import Link, read_address, read_link
from bgpd.kernel.nexthop_objects import NextHops
from bgpd.kernel.nexthop_tracking import Neighbours
from bgpd.kernel.rivals import Rivals
from bgpd.kernel.sockets import TURN_SECONDS, Commands, open_listener
from bgpd.kernel.writer import ObjectsMode
from bgpd.model.prefix import Address, Family, Prefix
from bgpd.model.route import FibKey, ForeignRoutes, Resolution, Unresolved, Workloads

log = logging.getLogger(__name__)

NETWORKD_LINKS = Path("/run/systemd/netif/links")
_DATAGRAM = 1 << 16


class KernelHandler(Protocol):
    """Who gets the reports. Called in the event loop; must not block."""

    def fib_changed(self, family: Family, keys: Collection[FibKey]) -> None:
        """Somebody else changed what of ours is installed at these keys, or a conflict there went away."""
        ...

    def fib_suspect(self, family: Family | None, cause: str) -> None:
        """Routes may be gone without notice (``None``: of both families): ``resync`` at once."""
        ...

    def next_hops_changed(self, addresses: frozenset[Address]) -> None:
        """These resolve otherwise now, of those asked before."""
        ...

    def workloads_changed(self) -> None:
        """``workloads()`` differs, or ``foreign()`` where that is followed."""
        ...

    def local_changed(self) -> None:
        """``addresses()``, ``connected()`` or ``tunnels()`` differ."""
        ...

    def rival_changed(self, who: str | None) -> None:
        """Another live daemon writes routes of our protocol; ``None``: none does any more."""
        ...


class Kernel:
    """Made inside a running event loop or before it; ``handler`` may be ``None`` where ``run`` is never called."""

    def __init__(
        self,
        handler: KernelHandler | None,
        *,
        workload_interfaces: Iterable[str],
        tunnel_interfaces: Iterable[str],
        nexthop_objects: ObjectsMode,
        nexthop_ids: range,
        nexthop_groups: bool | None = None,
    ) -> None:
        """``nexthop_groups``: whether ECMP may use groups of objects; ``None`` asks whether networkd is at work."""
        self.overruns = 0
        """Times the kernel dropped notifications, because we did not read them fast enough."""
        self.follow_foreign = False
        """Whether changes of ``foreign()`` are reported: only where a filter may want others' routes."""
        self._handler = handler
        self._commands = Commands()
        self._nexthops = NextHops(self._commands, nexthop_ids)
        self._others = {family: Others(family) for family in Family}
        self._neighbours = Neighbours(self._nexthops, self._others, workload_interfaces, tunnel_interfaces)
        groups = not networkd_manages_links() if nexthop_groups is None else nexthop_groups
        self._fibs = {
            family: Fib(
                family, self._commands, self._nexthops, self._others[family], self, nexthop_objects, groups
            )
            for family in Family
        }
        self.fibs: Mapping[Family, Fib] = self._fibs
        self._rivals = Rivals(self.ours_changed, self._rival)
        self._listener = open_listener(self._commands.port)
        self._reader = rt.RouteReader()
        self._changed: dict[Family, set[FibKey]] = {family: set() for family in Family}
        self._suspects: dict[Family | None, str] = {}
        self._workloads: tuple[Workloads, ForeignRoutes] = {}, {}
        self._local: object = None
        self._workloads_dirty = self._local_dirty = False
        self._overrun = asyncio.Event()
        self._flush_scheduled = False
        self._failed: asyncio.Future[None] | None = None

    # Life.

    async def start(self) -> None:
        """Reads everything. Raises ``OSError`` where the kernel refuses."""
        await self._neighbours.sync()
        for fib in self._fibs.values():
            await fib.resync()
        await self.collect()
        self._workloads, self._local = self._workloads_now(), self._local_now()

    async def run(self) -> None:
        """Events, until cancelled; then closes."""
        loop = asyncio.get_running_loop()
        self._failed = loop.create_future()
        self._listen()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._rivals.run(), name="rivals")
                group.create_task(self._recover(), name="overruns")
                await self._failed
        finally:
            loop.remove_reader(self._listener.fileno())
            await self.close()

    async def close(self) -> None:
        """Closes the sockets; the routes stay."""
        self._listener.close()
        self._commands.close()

    def _listen(self) -> None:
        asyncio.get_running_loop().add_reader(self._listener.fileno(), self._readable)

    async def _recover(self) -> None:
        """After lost notifications: read all again, while those that come now wait."""
        loop = asyncio.get_running_loop()
        while True:
            await self._overrun.wait()
            loop.remove_reader(self._listener.fileno())
            self._overrun.clear()
            await self._neighbours.sync()
            self._workloads_dirty = self._local_dirty = True
            self.suspect(None, "the kernel dropped notifications")
            self._listen()

    # What the daemon asks.

    def resolve(self, address: Address) -> Resolution | Unresolved:
        """Where a BGP next hop leads, now; from then on ``next_hops_changed`` says when that differs."""
        return self._neighbours.resolve(address)

    def workloads(self) -> Workloads:
        """Host routes of workloads, and addresses of tunnels, of this node."""
        reported = self._failed is not None and not self._workloads_dirty
        return self._workloads[0] if reported else self._neighbours.workloads()

    def foreign(self) -> ForeignRoutes:
        """Others' routes in the kernel, and the subnets of this node's addresses."""
        return self._neighbours.foreign()

    def tunnels(self) -> Mapping[str, int]:
        """The tunnel interfaces that are up, name -> index."""
        return self._neighbours.tunnels()

    def addresses(self, family: Family) -> frozenset[Address]:
        """This node's own addresses."""
        return self._neighbours.addresses(family)

    def connected(self, family: Family) -> Mapping[Prefix, str]:
        """Subnets on this node's links, each with the interface's name."""
        return self._neighbours.connected(family)

    def others(self, family: Family) -> Mapping[Prefix, object]:
        """Prefixes that have a route in table main that is not ours; live, to be read only."""
        return self._others[family].table

    def others_words(self, family: Family, prefix: Prefix) -> list[str]:
        """Others' routes of exactly a prefix, in the kernel's order:
        ``proto dhcp via 10.0.1.1 dev ens5 metric 100 (the DHCP client's)``."""
        return [
            f"{self.describe(body)}{f' metric {body.metric}' if body.metric else ''} ({rt.owner_words(body.protocol)})"
            for body in self._others[family].routes(prefix)
        ]

    def interface_name(self, ifindex: int) -> str:
        """The name of a link, also of one that is gone; ``if7`` where it was never known."""
        return self._neighbours.names.get(ifindex) or f"if{ifindex}"

    def uplinks(self) -> list[str]:
        """The links that routes of ours to other machines lead over, tunnels not, by name."""
        tunnels = set(self.tunnels())
        links = {
            hop.ifindex
            for fib in self._fibs.values()
            for via in fib.installed.uses
            for hop in via.hops
            if hop.gateway
        }
        return sorted({self.interface_name(each) for each in links} - tunnels)

    def setting(self, name: str) -> int | None:
        """A setting of this network namespace, ``net.ipv4.ip_forward``; ``None`` where it cannot be read."""
        return settings.read(name)

    # What the Fibs report and ask (``fib.Surroundings``).

    def describe(self, body: rt.Body) -> str:
        hops = self._nexthops.hops(body.nexthop) if body.nexthop else body.hops
        return rt.route_words(body, hops or body.hops, self._neighbours.names)

    def ours_changed(self, family: Family, keys: Iterable[FibKey]) -> None:
        self._changed[family].update(keys)
        self._schedule_flush()

    def others_changed(self, family: Family, prefixes: set[Prefix]) -> None:
        self._neighbours.review(family, prefixes)
        self._workloads_dirty = self._local_dirty = True
        self._schedule_flush()

    def suspect(self, family: Family | None, cause: str) -> None:
        self._suspects.setdefault(family, cause)
        self._schedule_flush()

    async def collect(self) -> None:
        """Removes nexthop objects of ours that nothing uses, once both families were read."""
        if not all(fib.synced for fib in self._fibs.values()):
            return
        while True:
            used = set[int]().union(*(fib.installed.used_ids for fib in self._fibs.values()))
            for others in self._others.values():
                used.update(body.nexthop for _, bodies in others for body in bodies if body.nexthop)
            unused = self._nexthops.unused(used)
            if not unused:
                return
            for fib in self._fibs.values():
                fib.installed.forget_ids(unused)
            await self._nexthops.remove(unused)

    # Events.

    def _readable(self) -> None:
        try:
            self._drain()
            self._flush()
        except Exception as error:
            self._fail(error)

    def _drain(self) -> None:
        """Hands out what the kernel reported, for at most a turn; the loop calls again where there is more."""
        end = time.monotonic() + TURN_SECONDS
        while time.monotonic() < end:
            try:
                data = self._listener.recv(_DATAGRAM)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.overruns += 1
                event(log, "netlink_overrun", logging.WARNING, count=self.overruns)
                self._overrun.set()
                continue
            for message in rt.messages(data):
                handle = _HANDLERS.get(message.type)
                if handle is not None:
                    handle(self, data, message)

    def _fail(self, error: Exception) -> None:
        """A bug, here or in the handler, must not be lost in a callback: ``run`` raises it."""
        asyncio.get_running_loop().remove_reader(self._listener.fileno())
        if self._failed is None or self._failed.done():
            raise error
        self._failed.set_exception(error)

    def _route(self, data: bytes, message: rt.Message) -> None:
        parsed = self._reader.read(data, message)
        if parsed is None or parsed[2].table != rt.TABLE_MAIN:
            return
        family, prefix, body = parsed
        fib = self._fibs[family]
        if is_ours(body):
            key = fib.ours_event(message.type, message.flags, prefix, body)
            if key is None:
                return
            if message.port:
                asked = self._rivals.wrote if message.type == rt.NEWROUTE else self._rivals.holds
                if asked(message.port, family, key):
                    return
        else:
            key = fib.others_event(message.type, message.flags, prefix, body)
            self._neighbours.review(family, (prefix,))
            self._workloads_dirty = True
        if key is not None:
            self._changed[family].add(key)

    def _nexthop(self, data: bytes, message: rt.Message) -> None:
        nexthop = rt.read_nexthop(data, message)
        if nexthop is None:
            return
        if message.type == rt.NEWNEXTHOP:
            self._nexthops.put_nexthop(nexthop)
        else:
            self._nexthops.drop(nexthop.id)
        for family, fib in self._fibs.items():
            if nexthop.id in fib.installed.by_id:
                fib.installed.forget_ids((nexthop.id,))
                self.suspect(family, f"nexthop object {nexthop.id} was changed or removed")
        self._neighbours.review_all()

    def _link(self, data: bytes, message: rt.Message) -> None:
        link = read_link(data, message)
        if link is None:
            return
        gone = message.type == rt.DELLINK
        if gone:
            self._neighbours.drop_link(link.ifindex)
            self._local_dirty = True
        before = None if gone else self._neighbours.put_link(link)
        if before is None or (before.name, before.up) != (link.name, link.up):
            self._local_dirty = True  # a tunnel may have come
        if before is not None and before.name != link.name:
            self._workloads_dirty = True
        if gone or (not link.admin_up and (before is None or before.admin_up)):
            self._went_down(link)

    def _went_down(self, link: Link) -> None:
        lost = self._others[Family.IPV4].drop_link(link.ifindex)
        if lost:
            self._neighbours.review(Family.IPV4, lost)
        self._workloads_dirty = True
        for family, fib in self._fibs.items():
            if fib.installed.over(link.ifindex):
                self.suspect(family, f"link {link.name} went down or away")

    def _address(self, data: bytes, message: rt.Message) -> None:
        address = read_address(data, message)
        if address is None:
            return
        removed = message.type == rt.DELADDR
        self._neighbours.put_address(address, not removed)
        self._local_dirty = self._workloads_dirty = True
        if (
            removed and address.family is Family.IPV4
        ):  # what had it as source, or the link's all, went in silence
            self.suspect(Family.IPV4, f"an address of {self.interface_name(address.ifindex)} was removed")

    # Reporting.

    def _schedule_flush(self) -> None:
        if not self._flush_scheduled:
            self._flush_scheduled = True
            asyncio.get_running_loop().call_soon(self._flush_soon)

    def _flush_soon(self) -> None:
        self._flush_scheduled = False
        try:
            self._flush()
        except Exception as error:
            self._fail(error)

    def _flush(self) -> None:
        """Reports what differs from what was reported before."""
        handler = self._handler
        if handler is None or self._failed is None:  # not started: what is asked first is the newest anyway
            return
        if self._local_dirty:
            self._local_dirty = False
            local = self._local_now()
            if local != self._local:
                self._local = local
                handler.local_changed()
        if self._workloads_dirty:
            self._workloads_dirty = False
            workloads = self._workloads_now()
            if workloads != self._workloads:
                self._workloads = workloads
                handler.workloads_changed()
        if changed := self._neighbours.recheck(TURN_SECONDS):
            handler.next_hops_changed(changed)
        if self._neighbours.unfinished:
            self._schedule_flush()
        for family, keys in self._changed.items():
            if keys:
                self._changed[family] = set()
                handler.fib_changed(family, keys)
        if self._suspects:
            suspects, self._suspects = self._suspects, {}
            for which, cause in suspects.items():
                handler.fib_suspect(which, cause)

    def _workloads_now(self) -> tuple[Workloads, ForeignRoutes]:
        return self._neighbours.workloads(), self._neighbours.foreign() if self.follow_foreign else {}

    def _local_now(self) -> object:
        neighbours = self._neighbours
        local = [(neighbours.addresses(family), neighbours.connected(family)) for family in Family]
        return local, neighbours.tunnels()

    def _rival(self, who: str | None) -> None:
        if self._handler is not None:
            self._handler.rival_changed(who)
        if who is None:
            self.suspect(None, "the other daemon is gone")


_HANDLERS: dict[int, Callable[[Kernel, bytes, rt.Message], None]] = {
    rt.NEWROUTE: Kernel._route,
    rt.DELROUTE: Kernel._route,
    rt.NEWNEXTHOP: Kernel._nexthop,
    rt.DELNEXTHOP: Kernel._nexthop,
    rt.NEWLINK: Kernel._link,
    rt.DELLINK: Kernel._link,
    rt.NEWADDR: Kernel._address,
    rt.DELADDR: Kernel._address,
}


def networkd_manages_links() -> bool:
    """Whether systemd-networkd manages a link here: it removes groups of nexthop objects that it did not make."""
    try:
        states = [entry.path for entry in os.scandir(NETWORKD_LINKS)]
    except OSError:
        return False
    for path in states:
        try:
            lines = Path(path).read_text().splitlines()
        except OSError:
            continue
        if any(line.startswith("ADMIN_STATE=") and line != "ADMIN_STATE=unmanaged" for line in lines):
            return True
    return False
