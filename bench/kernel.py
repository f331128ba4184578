"""The kernel's own word: counts of routes, moves and notifications in a namespace, without the daemons' help.

Used by ``cases`` and ``floors``. Sockets and /proc files belong to the namespace of the thread that opens them and keep
it, so each is opened by a short-lived thread that has entered the namespace; the benchmark itself stays outside.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from bench.injector import Family

T = TypeVar("T")

RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 1, 4, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
RTA_DST, RTA_OIF = 1, 4
RT_TABLE_MAIN = 254
GROUPS = {"ipv4": 0x40, "ipv6": 0x400}
AF = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}

SOL_NETLINK, NETLINK_GET_STRICT_CHK = 270, 12
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33
CLONE_NEWNET = 0x40000000

_HEADER = struct.Struct("=IHHII")
_RTMSG = struct.Struct("=8BI")


def in_namespace(name: str, work: Callable[[], T]) -> T:
    """What ``work`` gives, called in a thread of its own inside a named namespace; its exceptions come out here."""
    result: list[T] = []
    failure: list[BaseException] = []

    def enter() -> None:
        try:
            fd = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(fd, CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), f"cannot enter namespace {name}")
            finally:
                os.close(fd)
            result.append(work())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=enter, name=f"in {name}")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


def socket_maker(name: str) -> Callable[[int, int], socket.socket]:
    """A function that makes sockets (family, type) inside a namespace."""
    return lambda family, kind: in_namespace(name, lambda: socket.socket(family, kind))


def netlink(name: str, groups: int = 0) -> socket.socket:
    """A rtnetlink socket inside a namespace, with large buffers, bound to multicast groups."""
    sock = in_namespace(name, lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE))
    sock.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 4 << 20)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 512 << 20 if groups else 4 << 20)
    sock.bind((0, groups))
    return sock


class Counter:
    """How many routes one family has, all tables together: what a case waits for is the difference to ``baseline``.

    IPv4: the first Prefixes line of ``fib_triestat``, which walks the trie (milliseconds for 100,000). IPv6: the fourth
    number of ``rt6_stats``, which the kernel keeps.
    """

    def __init__(self, name: str, family: Family) -> None:
        self._family = family
        path = f"/proc/thread-self/net/{'fib_triestat' if family == 'ipv4' else 'rt6_stats'}"
        self._fd = in_namespace(name, lambda: os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        self.baseline = self._read()

    def __call__(self) -> int:
        """Routes more than there were at first."""
        return self._read() - self.baseline

    def _read(self) -> int:
        return parse_count(self._family, os.pread(self._fd, 8192, 0))

    def close(self) -> None:
        os.close(self._fd)


def parse_count(family: Family, text: bytes) -> int:
    """The number of routes in the text of ``fib_triestat`` or ``rt6_stats``."""
    if family == "ipv6":
        return int(text.split()[3], 16)
    for line in text.splitlines():
        if line.strip().startswith(b"Prefixes:"):
            return int(line.split(b":")[1])
    return 0  # before the first route there is no trie


class RouteEvent(NamedTuple):
    """One notification of a route: ``kind`` is RTM_NEWROUTE or RTM_DELROUTE, ``prefix`` (octets, length)."""

    kind: int
    protocol: int
    table: int
    prefix: tuple[bytes, int]


def events(data: bytes) -> list[RouteEvent]:
    """The route notifications in what one read of a netlink socket gave."""
    found = []
    position = 0
    while position + 16 <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, position)
        if length < 16:
            break
        if kind in (RTM_NEWROUTE, RTM_DELROUTE):
            family, bits, _, _, table, protocol, _, _, _ = _RTMSG.unpack_from(data, position + 16)
            octets = bytes(4 if family == socket.AF_INET else 16)
            cursor, end = position + 28, position + length
            while cursor + 4 <= end:
                size, code = struct.unpack_from("=HH", data, cursor)
                if size < 4:
                    break
                if code == RTA_DST:
                    octets = data[cursor + 4 : cursor + size]
                cursor += size + 3 & ~3
            found.append(RouteEvent(kind, protocol, table, (octets, bits)))
        position += length + 3 & ~3
    return found


class Watch:
    """Route notifications of one family in a namespace."""

    def __init__(self, name: str, family: Family) -> None:
        self._socket = netlink(name, GROUPS[family])

    def wait(self, kind: int, prefix: tuple[bytes, int], timeout: float = 5.0) -> float | None:
        """When the notification of a route of proto bird came; ``None`` after ``timeout`` seconds. Blocks."""
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(1 << 16)
            except TimeoutError:
                break
            now = time.monotonic()
            for event in events(data):
                if event.kind == kind and event.prefix == prefix and event.protocol == 12:
                    return now
        return None

    def drain(self) -> list[RouteEvent]:
        """All that came until now. ``OSError`` (ENOBUFS) when there was more than the buffer holds."""
        self._socket.setblocking(False)
        found = []
        while True:
            try:
                found += events(self._socket.recv(1 << 18))
            except BlockingIOError:
                return found

    def close(self) -> None:
        self._socket.close()


def uses_device(name: str, family: Family, protocol: int, ifindex: int) -> bool:
    """Whether any route of a proto leads over a device. The kernel filters; the first answer is enough."""
    with netlink(name) as sock:
        sock.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
        body = _RTMSG.pack(AF[family], 0, 0, 0, RT_TABLE_MAIN, protocol, 0, 0, 0) + struct.pack(
            "=HHI", 8, RTA_OIF, ifindex
        )
        sock.send(_HEADER.pack(16 + len(body), RTM_GETROUTE, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + body)
        sock.settimeout(30)
        data = sock.recv(1 << 16)
    (kind,) = struct.unpack_from("=H", data, 4)
    if kind == NLMSG_ERROR:
        code = -struct.unpack_from("=i", data, 16)[0]
        raise OSError(code, f"cannot read the routes over a device: {os.strerror(code)}")
    return bool(kind == RTM_NEWROUTE)


def route_message(
    kind: int,
    flags: int,
    sequence: int,
    family: Family,
    destination: bytes,
    bits: int,
    tail: bytes,
    *,
    protocol: int = 12,
    scope: int = 0,
) -> bytes:
    """One RTM_NEWROUTE or RTM_DELROUTE of a unicast route in the main table; ``tail`` is its further attributes."""
    body = _RTMSG.pack(AF[family], bits, 0, 0, RT_TABLE_MAIN, protocol, scope, 1, 0)
    body += struct.pack("=HH", 4 + len(destination), RTA_DST) + destination + tail
    return _HEADER.pack(16 + len(body), kind, NLM_F_REQUEST | flags, sequence, 0) + body


def acknowledged(sock: socket.socket, request: bytes) -> None:
    """Sends a request whose last message asks for an acknowledgement, and waits for it; ``OSError`` if refused."""
    sock.send(request)
    sock.settimeout(120)
    while True:
        data = sock.recv(1 << 16)
        position = 0
        while position + 16 <= len(data):
            length, kind = struct.unpack_from("=IH", data, position)
            if kind == NLMSG_ERROR:
                code = -struct.unpack_from("=i", data, position + 16)[0]
                if code:
                    raise OSError(code, f"netlink: {os.strerror(code)}")
                return
            position += length + 3 & ~3
