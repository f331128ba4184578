"""Links, addresses, routes and neighbours by route netlink, in any network namespace: what ``links`` orders.

``ip`` and ``nsenter`` cost a process each, a dozen an ADD; pyroute2, and this package's own ``kernel.rtnetlink``, cost
more to import than a plugin may take as a whole. So this has the few messages that are needed, in the layouts of the
kernel's ``rtnetlink.h``. Addresses are text, lengths behind a slash.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from typing import NamedTuple

TIMEOUT = 20.0
"""Seconds for the kernel's answer, which comes with the order."""

_NEWLINK, _DELLINK, _GETLINK, _NEWADDR, _NEWROUTE, _GETROUTE, _NEWNEIGH = 16, 17, 18, 20, 24, 26, 28
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP, _NEW = 0x1, 0x4, 0x300, 0x600  # new: create, and there is none yet
_ACK_WORDS, _CAPPED = 0x200, 0x100
_UP = 1
_MAIN, _BOOT, _UNIVERSE, _LINK, _UNICAST = 254, 3, 0, 253, 1
_PERMANENT = 0x80
_SOL_NETLINK, _CAP_ACK, _EXT_ACK, _STRICT_CHECK = 270, 10, 11, 12


class Refusal(OSError):
    """The kernel's no, in its own words where it has some."""

    def __init__(self, number: int, words: str = "") -> None:
        super().__init__(number, f"{os.strerror(number)}: {words}" if words else os.strerror(number))


class Link(NamedTuple):
    """What is read of a link."""

    ifindex: int
    mac: str
    mtu: int


class Netlink:
    """A socket of the network namespace that the process is in when it is opened, and of that one ever after."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.settimeout(TIMEOUT)
        for option in (_CAP_ACK, _EXT_ACK, _STRICT_CHECK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._seq = 0

    def close(self) -> None:
        self._socket.close()

    def make_pair(self, name: str, mac: str, peer: str, netns: int, mtu: int) -> None:
        """A veth pair: ``name`` here, ``peer`` in the namespace of a descriptor. ``mtu`` 0 is the kernel's."""
        size = _attribute(4, struct.pack("=I", mtu)) if mtu else b""
        there = _link(0) + _name(peer) + size + _attribute(28, struct.pack("=i", netns))
        kind = _attribute(1, b"veth\0") + _attribute(2, _attribute(1, there))
        self._order(
            _NEWLINK, _NEW, _link(0) + _name(name) + _attribute(1, _octets(mac)) + size + _attribute(18, kind)
        )

    def set_up(self, index: int, alias: str = "") -> None:
        words = _attribute(20, alias.encode()) if alias else b""
        self._order(_NEWLINK, 0, _link(index, _UP) + words)

    def delete(self, name: str) -> bool:
        """Whether there was one."""
        try:
            self._order(_DELLINK, 0, _link(0) + _name(name))
        except Refusal as refusal:
            if refusal.errno == errno.ENODEV:
                return False
            raise
        return True

    def link(self, name: str) -> Link:
        """Raises ``Refusal`` where there is none."""
        (body,) = self._ask(_GETLINK, 0, _link(0) + _name(name))
        (index,) = struct.unpack_from("=i", body, 4)
        attributes = _attributes(body, 16)
        return Link(index, attributes[1].hex(":"), struct.unpack("=I", attributes[4])[0])

    def add_address(self, index: int, address: str) -> None:
        family, octets, length = _parsed(address)
        self._order(
            _NEWADDR,
            _NEW,
            struct.pack("=BBBBI", family, length, 0, 0, index)
            + _attribute(2, octets)
            + _attribute(1, octets),
        )

    def add_route(self, index: int, destination: str, gateway: str = "") -> None:
        """As ``ip route add`` makes one: ``proto boot``, in the main table; without a gateway its scope is the link."""
        family, octets, length = _parsed(destination)
        scope = _LINK if not gateway and family == socket.AF_INET else _UNIVERSE
        body = _route(family, length, scope) + (_attribute(1, octets) if length else b"")
        if gateway:
            body += _attribute(5, _parsed(gateway)[1])
        self._order(_NEWROUTE, _NEW, body + _attribute(4, struct.pack("=i", index)))

    def has_route(self, index: int, destination: str) -> bool:
        """Whether a route to just that, in the main table, leads to a link."""
        family, octets, length = _parsed(destination)
        device = struct.pack("=i", index)
        asked = struct.pack("=BBBBBBBBI", family, 0, 0, 0, _MAIN, 0, 0, 0, 0) + _attribute(4, device)
        for body in self._ask(_GETROUTE, _DUMP, asked):  # older kernels do not filter
            if body[1] == length and body[4] == _MAIN:
                found = _attributes(body, 12)
                if (found.get(1), found.get(4)) == (octets, device):
                    return True
        return False

    def add_neighbour(self, index: int, address: str, mac: str) -> None:
        """One that need not be asked."""
        family, octets, _ = _parsed(address)
        head = struct.pack("=BxxxiHBB", family, index, _PERMANENT, 0, 0)
        self._order(_NEWNEIGH, _NEW, head + _attribute(1, octets) + _attribute(2, _octets(mac)))

    # Inside.

    def _order(self, kind: int, flags: int, body: bytes) -> None:
        self._ask(kind, flags | _ACK, body)

    def _ask(self, kind: int, flags: int, body: bytes) -> list[bytes]:
        """The bodies of the answer. Raises ``Refusal``, and ``OSError`` for what is wrong with the socket."""
        self._seq += 1
        self._socket.send(struct.pack("=IHHII", 16 + len(body), kind, _REQUEST | flags, self._seq, 0) + body)
        found: list[bytes] = []
        while True:
            data = self._socket.recv(1 << 16)
            at = 0
            while at + 16 <= len(data):
                length, what, said, seq, _ = struct.unpack_from("=IHHII", data, at)
                message, at = data[at + 16 : at + length], at + _padded(length)
                if seq != self._seq:
                    continue
                if what in (_ERROR, _DONE):
                    _raise(message, said if what == _ERROR else 0)
                    return found
                found.append(message)
                if flags & (_DUMP | _ACK) == 0:
                    return found


class Inside:
    """``with Inside(descriptor)``: the process, of one thread, is in that network namespace meanwhile."""

    def __init__(self, netns: int) -> None:
        self._netns = netns

    def __enter__(self) -> None:
        self._before = os.open("/proc/self/ns/net", os.O_RDONLY)
        try:
            _enter(self._netns)
        except BaseException:
            os.close(self._before)
            raise

    def __exit__(self, *_: object) -> None:
        try:
            _enter(self._before)
        except OSError as error:  # no refusal of the kernel: what followed would be done to the pod
            raise RuntimeError(f"the way back from a pod's namespace: {error}") from error
        finally:
            os.close(self._before)


def _enter(netns: int) -> None:
    """``setns``. Raises ``OSError``."""
    newnet = 0x40000000
    if sys.version_info >= (3, 12):
        os.setns(netns, newnet)
        return
    import ctypes

    if ctypes.CDLL(None, use_errno=True).setns(netns, newnet) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _raise(message: bytes, flags: int) -> None:
    (code,) = struct.unpack_from("=i", message)
    if not code:
        return
    words = ""
    if flags & _ACK_WORDS:
        asked = 16 if flags & _CAPPED else struct.unpack_from("=I", message, 4)[0]
        words = _attributes(message, 4 + _padded(asked)).get(1, b"").rstrip(b"\0").decode(errors="replace")
    raise Refusal(-code, words)


def _padded(length: int) -> int:
    return (length + 3) & ~3


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def _attributes(body: bytes, at: int) -> dict[int, bytes]:
    found = {}
    while at + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, at)
        if length < 4:
            break
        found[kind & 0x3FFF] = body[at + 4 : at + length]
        at += _padded(length)
    return found


def _link(index: int, flags: int = 0) -> bytes:
    return struct.pack("=BxHiII", 0, 0, index, flags, flags)


def _route(family: int, length: int, scope: int) -> bytes:
    return struct.pack("=BBBBBBBBI", family, length, 0, 0, _MAIN, _BOOT, scope, _UNICAST, 0)


def _name(name: str) -> bytes:
    return _attribute(3, name.encode() + b"\0")


def _octets(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _parsed(text: str) -> tuple[int, bytes, int]:
    """Family, octets and length of an address, or of a network."""
    address, _, length = text.partition("/")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    octets = socket.inet_pton(family, address)
    return family, octets, int(length or 8 * len(octets))
