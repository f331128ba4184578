"""A fast BGP speaker by hand, at a short hold time. Run in a namespace.

Usage: ``fast_peer.py LOCAL NODE ASN HOLD COUNT``: dials, opens, announces COUNT /26 from 64.0.0.0 on as fast as TCP
takes them and End-of-RIB after them, then goes on keeping time. Prints each second what it has received, ``heard
PREFIXES gap SECONDS``: the gap is the longest time without a message so far; ``sent`` when all is written; at the end
``closed`` with the NOTIFICATION, if any.
"""

from __future__ import annotations

import select
import socket
import struct
import sys
import time
from collections.abc import Iterator

from raw_peer import dial, message, open_message

BASE, STEP, AT_ONCE = 0x40000000, 64, 700


def table(count: int, next_hop: str) -> Iterator[bytes]:
    """UPDATEs of a table, and End-of-RIB."""
    attributes = bytes.fromhex("400101004002004003 04".replace(" ", "")) + socket.inet_aton(next_hop)
    attributes += bytes.fromhex("40050400000064")
    head = struct.pack("!HH", 0, len(attributes)) + attributes
    for first in range(0, count, AT_ONCE):
        numbers = range(first, min(count, first + AT_ONCE))
        yield message(2, head + b"".join(b"\x1a" + struct.pack("!I", BASE + STEP * n) for n in numbers))
    yield message(2, bytes(4))


class Heard:
    """What came."""

    def __init__(self) -> None:
        self.buffer = b""
        self.prefixes = 0
        self.gap, self.last = 0.0, time.monotonic()
        self.up = False
        self.end = ""

    def take(self, data: bytes) -> Iterator[bytes]:
        """Octets that came; what to answer."""
        now = time.monotonic()
        self.buffer += data
        position = 0
        while len(self.buffer) - position >= 19:
            length, kind = struct.unpack_from("!HB", self.buffer, position + 16)
            if len(self.buffer) - position < length:
                break
            body = self.buffer[position + 19 : position + length]
            position += length
            if self.up:
                self.gap = max(self.gap, now - self.last)
            self.last = now
            if kind == 1:
                yield message(4)
            elif kind == 4:
                self.up = True
            elif kind == 3:
                self.end = body.hex()
            elif kind == 2:
                withdrawn = int.from_bytes(body[:2], "big")
                nlri = 4 + withdrawn + int.from_bytes(body[2 + withdrawn : 4 + withdrawn], "big")
                self.prefixes += (len(body) - nlri) // 5
        self.buffer = self.buffer[position:]


def main() -> None:
    local, node, asn, hold, count = sys.argv[1:]
    connection = dial(local, node)
    connection.setblocking(False)
    out = bytearray(open_message(int(asn), local, int(hold)))
    heard, updates = Heard(), table(int(count), local)
    more, keepalive_at, told_at = int(count) > 0, 0.0, 0.0
    while True:
        now = time.monotonic()
        if heard.up and now >= keepalive_at:
            out += message(4)
            keepalive_at = now + int(hold) / 3
        while heard.up and more and len(out) < 1 << 16:
            octets = next(updates, None)
            more = octets is not None
            out += octets or b""
            if not more:
                print("sent", flush=True)
        if now >= told_at:
            print(f"heard {heard.prefixes} gap {heard.gap:.2f}", flush=True)
            told_at = now + 1.0
        readable, writable, _ = select.select([connection], [connection] if out else [], [], 0.2)
        if writable:
            del out[: connection.send(out)]
        if readable:
            try:
                data = connection.recv(1 << 18)
            except ConnectionError:
                data = b""
            if not data:
                break
            for answer in heard.take(data):
                out += answer
    print(f"closed {heard.end}", flush=True)


if __name__ == "__main__":
    main()
