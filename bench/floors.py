"""The floor: what the kernel alone needs for the same table, by batched netlink from messages packed beforehand.

Used by ``cases``. Once with a gateway in each route, which makes the kernel walk a list of all gateways of a device for
each route, and once with nexthop objects, which it hashes (``RTM_NEWNEXTHOP``, Linux 5.3). Nothing decodes, decides or
remembers, so no daemon can be faster than the better one of both with the same kernel calls.
"""

from __future__ import annotations

import struct
import time

from bench.injector import BITS, BLOCKS_PER_NODE, LENGTH, Family, Shape, network, next_hops
from bench.kernel import (
    AF,
    NLM_F_ACK,
    NLM_F_REQUEST,
    RTA_OIF,
    RTM_DELROUTE,
    RTM_NEWROUTE,
    acknowledged,
    netlink,
    route_message,
)

BATCH = 256
"""Messages a send; more gains nothing."""
FIRST_ID = 0x1000

RTM_NEWNEXTHOP = 104
NLM_F_CREATE, NLM_F_REPLACE = 0x400, 0x100
RTA_GATEWAY, RTA_NH_ID = 5, 30
NHA_ID, NHA_OIF, NHA_GATEWAY = 1, 5, 6


def messages(
    objects: bool, shape: Shape, family: Family, count: int, first_next_hop: bytes, ifindex: int
) -> tuple[list[bytes], list[bytes]]:
    """The messages that install a table and those that remove its routes; ``objects`` puts nexthop objects first."""
    width = len(first_next_hop)
    base = int.from_bytes(first_next_hop, "big")
    step = {"shared": count, "nodes": BLOCKS_PER_NODE, "distinct": 1}[shape]
    flags = NLM_F_CREATE | NLM_F_REPLACE
    puts, deletes = [], []
    if objects:
        for number in range(next_hops(shape, count)):
            gateway = (base + number).to_bytes(width, "big")
            body = struct.pack("=4BI", AF[family], 0, 12, 0, 0)
            body += struct.pack("=HHI", 8, NHA_ID, FIRST_ID + number) + struct.pack(
                "=HHI", 8, NHA_OIF, ifindex
            )
            body += struct.pack("=HH", 4 + width, NHA_GATEWAY) + gateway
            puts.append(
                struct.pack("=IHHII", 16 + len(body), RTM_NEWNEXTHOP, NLM_F_REQUEST | flags, 1, 0) + body
            )
    for index in range(count):
        destination = network(family, index).to_bytes(BITS[family] // 8, "big")
        if objects:
            tail = struct.pack("=HHI", 8, RTA_NH_ID, FIRST_ID + index // step)
        else:
            gateway = (base + index // step).to_bytes(width, "big")
            tail = (
                struct.pack("=HH", 4 + width, RTA_GATEWAY)
                + gateway
                + struct.pack("=HHI", 8, RTA_OIF, ifindex)
            )
        puts.append(route_message(RTM_NEWROUTE, flags, 1, family, destination, LENGTH[family], tail))
        deletes.append(route_message(RTM_DELROUTE, 0, 1, family, destination, LENGTH[family], b""))
    return puts, deletes


def batches(packed: list[bytes]) -> list[bytes]:
    """Messages joined ``BATCH`` a send, the last of each asking for an acknowledgement. Errors come unasked."""
    joined = []
    for first in range(0, len(packed), BATCH):
        part = packed[first : first + BATCH]
        flags = struct.unpack_from("=H", part[-1], 6)[0] | NLM_F_ACK
        part[-1] = part[-1][:6] + struct.pack("=H", flags) + part[-1][8:]
        joined.append(b"".join(part))
    return joined


def write(namespace: str, sends: list[bytes]) -> float:
    """Seconds that the kernel takes for packed batches. Blocks; ``OSError`` at the first message it refuses."""
    with netlink(namespace) as sock:
        before = time.monotonic()
        for send in sends:
            acknowledged(sock, send)
        return time.monotonic() - before
