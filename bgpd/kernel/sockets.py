"""Netlink sockets: one that asks and orders, one that listens, and a short-lived one for every dump.

Orders go through one socket, in the order they were given. The system call does the kernel's work. So batches are sent
from one worker thread, which releases the interpreter lock meanwhile and lets the event loop go on; a message or two
are sent at once, unless the kernel has lately been seen to make them wait. The listening socket never hears the echo of
those orders: a filter in the kernel drops what our own port asked for. A dump is answered while it is read, so it needs
no thread; it gives up the loop every few milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from bgpd.kernel import rtnetlink as rt

GROUPS = (1, 5, 7, 9, 11, 32)
"""RTNLGRP_LINK, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE, NEXTHOP."""
DUMP_ATTEMPTS = 5
"""Readings of a table that changes meanwhile; the last is believed."""
TURN_SECONDS = 0.004
"""Seconds of work after which the event loop gets a turn."""

_SOL_NETLINK = 270
_ADD_MEMBERSHIP, _CAP_ACK, _EXT_ACK, _STRICT_CHECK = 1, 10, 11, 12
_SO_RCVBUFFORCE, _SO_SNDBUFFORCE, _SO_ATTACH_FILTER = 33, 32, 26
_REPLY_TIMEOUT = 30
_DATAGRAM = 1 << 16
_DIRECT = 32
"""Messages that are sent from the event loop itself: 30 us, where the way to the worker and back takes 150."""
_DIRECT_SHARE = 20
"""Once the kernel's lock, or another process, has made one wait, even those go through the worker for so many times as
long: waiting takes a twentieth of the event loop's time at most."""


class Interrupted(Exception):
    """The table changed under a dump: what was read may be neither the old nor the new."""


def _open(receive: int, send: int = 0) -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    try:
        for option, forced, size in (
            (socket.SO_RCVBUF, _SO_RCVBUFFORCE, receive),
            (socket.SO_SNDBUF, _SO_SNDBUFFORCE, send),
        ):
            if size:
                try:
                    opened.setsockopt(socket.SOL_SOCKET, forced, size)
                except PermissionError:
                    opened.setsockopt(socket.SOL_SOCKET, option, size)
        for option in (_CAP_ACK, _EXT_ACK, _STRICT_CHECK):
            opened.setsockopt(_SOL_NETLINK, option, 1)
        opened.bind((0, 0))
    except BaseException:
        opened.close()
        raise
    return opened


def open_listener(except_port: int) -> socket.socket:
    """A non-blocking socket that hears of links, addresses, routes and nexthop objects, but not of our own orders."""
    listener = _open(receive=32 << 20)
    listener.setblocking(False)
    # load nlmsg_pid (the filter reads big-endian); drop on a match, else take the whole
    port = int.from_bytes(struct.pack("=I", except_port), "big")
    code = b"".join(
        struct.pack("=HBBI", *step)
        for step in ((0x20, 0, 0, 12), (0x15, 0, 1, port), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))
    )
    buffer = ctypes.create_string_buffer(code)
    listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", 4, ctypes.addressof(buffer)))
    for group in GROUPS:
        listener.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
    return listener


async def dump(message_type: int, family: int, parse: Callable[[bytes], rt.Message | None]) -> None:
    """Asks for a dump and hands each datagram to ``parse``, which returns the message that ends it where it meets it.

    Raises ``Interrupted`` at the end, and ``OSError`` for a refusal.
    """
    loop = asyncio.get_running_loop()
    with contextlib.closing(_open(receive=1 << 20)) as asking:
        asking.setblocking(False)
        asking.send(rt.request(message_type, family))
        interrupted = False
        turn_ends = time.monotonic() + TURN_SECONDS
        while True:
            data = await loop.sock_recv(asking, _DATAGRAM)
            flags = int.from_bytes(data[6:8], sys.byteorder)
            interrupted = interrupted or bool(flags & rt.F_DUMP_INTR)  # flagged by the first after a change
            end = parse(data)
            if end is not None:
                refusal = rt.refusal(data, end)
                if refusal and refusal.errno not in (
                    errno.ENOENT,
                    errno.EOPNOTSUPP,
                ):  # no such table yet: empty
                    raise refusal
                if interrupted or end.flags & rt.F_DUMP_INTR:
                    raise Interrupted
                return
            if time.monotonic() >= turn_ends:
                await asyncio.sleep(0)
                turn_ends = time.monotonic() + TURN_SECONDS


async def dump_each(
    message_type: int, clear: Callable[[], None], take: Callable[[bytes, rt.Message], None]
) -> None:
    """Dumps what is not many, a message at a time; again from ``clear`` on while it changes meanwhile."""

    def parse(data: bytes) -> rt.Message | None:
        for message in rt.messages(data):
            if message.type in (rt.NLMSG_DONE, rt.NLMSG_ERROR):
                return message
            take(data, message)
        return None

    for _ in range(DUMP_ATTEMPTS):
        clear()
        try:
            await dump(message_type, 0, parse)
            return
        except Interrupted:
            continue


class Replies:
    """What the kernel answered to one batch, by the place of the message in it."""

    __slots__ = ("echoes", "refusals")

    def __init__(self, base: int, answers: list[bytes]) -> None:
        self.refusals: dict[int, rt.Refusal] = {}
        self.echoes: dict[int, list[tuple[bytes, rt.Message]]] = {}
        for data in answers:
            for message in rt.messages(data):
                if message.type != rt.NLMSG_ERROR:
                    self.echoes.setdefault(message.seq - base, []).append((data, message))
                elif (refusal := rt.refusal(data, message)) is not None:
                    self.refusals[message.seq - base] = refusal


class _Order(NamedTuple):
    """A batch on its way."""

    base: int
    messages: list[bytes]
    answers: asyncio.Future[list[bytes]]


_Outcome = tuple[dict[int, list[bytes]], Exception | None]
"""The answers by the batch that they are for, and why not all of them came."""


class Commands:
    """The socket that orders are given through."""

    def __init__(self) -> None:
        self._socket = _open(receive=8 << 20, send=8 << 20)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", _REPLY_TIMEOUT, 0))
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="netlink")
        self._lock = threading.Lock()
        self._waiting: list[_Order] = []
        """Orders that the worker has not taken yet."""
        self._working = False
        self._direct_from = 0.0
        self._batches = 0

    @property
    def port(self) -> int:
        """The port id, by which the kernel says who asked."""
        return int(self._socket.getsockname()[0])

    def base(self) -> int:
        """The sequence number of the next batch's first message; the others count on from it (at most 65,536)."""
        self._batches = (self._batches + 1) & 0x7FFF
        return self._batches << 16

    def submit(self, base: int, batch: list[bytes]) -> asyncio.Future[list[bytes]]:
        """Carries out a batch; a message that fails does not stop the others. The answers are for ``Replies``.

        An ``OSError`` means that the answers did not come, and what was done is unknown.
        """
        loop = asyncio.get_running_loop()
        order = _Order(base, batch, loop.create_future())
        with self._lock:
            idle = not self._working
            direct = idle and len(batch) <= _DIRECT and time.monotonic() >= self._direct_from
            if not direct:
                self._waiting.append(order)
                self._working = True
        if direct:
            self._exchange_now(order)
        elif idle:
            self._worker.submit(self._work, loop)
        return order.answers

    def _exchange_now(self, order: _Order) -> None:
        started = time.monotonic()
        _deliver([order], *self._exchange([order]))
        ended = time.monotonic()
        if ended - started > TURN_SECONDS:
            self._direct_from = ended + _DIRECT_SHARE * (ended - started)

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        """In the worker: all that waits goes in one send, until nothing waits. (Between two system calls the worker
        must wait for the interpreter lock, which the event loop gives up every few milliseconds only.)"""
        while True:
            with self._lock:
                orders, self._waiting = self._waiting, []
                if not orders:
                    self._working = False
                    return
            outcome: _Outcome
            try:
                outcome = self._exchange(orders)
            except Exception as bug:  # otherwise the worker ends unseen, and its answers never come
                outcome = {}, bug
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(_deliver, orders, *outcome)

    def _exchange(self, orders: list[_Order]) -> _Outcome:
        """One send, then the answers up to that of the last message, by the batch that they are for."""
        answers: dict[int, list[bytes]] = {order.base: [] for order in orders}
        final = orders[-1].messages
        last = final[-1]
        final[-1] = last[:6] + struct.pack("=H", struct.unpack_from("=H", last, 6)[0] | rt.F_ACK) + last[8:]
        end = orders[-1].base + len(final) - 1
        try:
            self._socket.send(b"".join([message for order in orders for message in order.messages]))
            while True:
                data = self._socket.recv(_DATAGRAM)
                done = False
                for message in rt.messages(data):  # all of one datagram answer one message
                    if not (taken := answers.setdefault(message.seq & ~0xFFFF, [])) or taken[-1] is not data:
                        taken.append(data)
                    done = done or (message.type == rt.NLMSG_ERROR and message.seq == end)
                if done:
                    return answers, None
        except OSError as error:
            return answers, error

    def close(self) -> None:
        """Waits for the orders under way, then closes."""
        self._worker.shutdown()
        self._socket.close()


def _deliver(orders: list[_Order], answers: dict[int, list[bytes]], error: Exception | None) -> None:
    for order in orders:
        if order.answers.done():  # nobody waits any more
            continue
        if error is not None:
            order.answers.set_exception(error)
        else:
            order.answers.set_result(answers[order.base])
