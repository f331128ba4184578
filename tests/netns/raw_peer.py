"""A BGP speaker by hand, for what no real one would send. Run in a namespace; prints each message type it hears.

Usage: ``raw_peer.py LOCAL NODE ASN HEX...``: dials, opens (unless the first HEX is ``-``), and sends the octets of each
HEX as soon as the session is up; then reads until the other end closes.
"""

from __future__ import annotations

import socket
import struct
import sys
import time

NAMES = {1: "OPEN", 2: "UPDATE", 3: "NOTIFICATION", 4: "KEEPALIVE", 5: "ROUTE-REFRESH"}
MARKER = b"\xff" * 16


def message(kind: int, body: bytes = b"") -> bytes:
    """A message with its header (RFC 4271 §4.1)."""
    return MARKER + struct.pack("!HB", 19 + len(body), kind) + body


def open_message(asn: int, router_id: str, hold: int = 90) -> bytes:
    """An OPEN with IPv4 unicast and four-octet AS numbers."""
    capabilities = bytes.fromhex("010400010001") + b"\x41\x04" + struct.pack("!I", asn)
    parameters = b"\x02" + bytes([len(capabilities)]) + capabilities
    body = (
        struct.pack("!BHH", 4, asn, hold)
        + socket.inet_aton(router_id)
        + bytes([len(parameters)])
        + parameters
    )
    return message(1, body)


def main() -> None:
    local, node, asn, *payloads = sys.argv[1:]
    connection = dial(local, node)
    raw = payloads[0] == "-"
    if raw:
        payloads.pop(0)
        send(connection, payloads)
    else:
        connection.sendall(open_message(int(asn), local))
    while header := read(connection, 19):
        length, kind = struct.unpack("!HB", header[16:])
        body = read(connection, length - 19)
        print(NAMES.get(kind, kind), body.hex(), flush=True)
        if kind == 1:
            connection.sendall(message(4))
        if kind == 4 and not raw:
            send(connection, payloads)
            payloads = []
    print("closed", flush=True)


def dial(local: str, node: str) -> socket.socket:
    """A connection; the node may not listen yet."""
    for _ in range(100):
        try:
            return socket.create_connection((node, 179), 10, (local, 0))
        except ConnectionRefusedError:
            time.sleep(0.1)
    raise SystemExit("nobody listens")


def send(connection: socket.socket, payloads: list[str]) -> None:
    for payload in payloads:
        connection.sendall(bytes.fromhex(payload))


def read(connection: socket.socket, count: int) -> bytes:
    """So many octets, or none at the end."""
    found = b""
    while len(found) < count:
        try:
            part = connection.recv(count - len(found))
        except (ConnectionError, TimeoutError):
            return b""
        if not part:
            return b""
        found += part
    return found


if __name__ == "__main__":
    main()
