"""Mutated messages against sessions: octets that were a message of BGP once, changed, cut, doubled and in pieces.

A bounded number of them in ``make test``, always the same; ``make fuzz MINUTES=n`` goes on with new ones. What must
hold: nothing raises, whatever comes; a session that ends says why (a NOTIFICATION or the end of TCP); one that lives
goes on keeping time; a route that is reported has a whole set of attributes.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from random import Random

import pytest

from bgpd.bgp.connection import Refresh, Routes, Up
from bgpd.bgp.session import Ended, Session
from bgpd.bgp.wire.exa.messages import KEEPALIVE_MESSAGE, encode_refresh
from bgpd.bgp.wire.exa.open import encode_open
from bgpd.bgp.wire.update import end_of_rib, message
from bgpd.model.prefix import Family, address_text
from bgpd.model.route import Announce
from tests.unit.test_session import CONFIG, OPEN, V4, accept, make

V6 = Family.IPV6
SESSIONS = 4000
MINUTES = float(os.environ.get("FUZZ_MINUTES", "0"))
ATTRIBUTES = [
    bytes.fromhex(octets)
    for octets in (
        "40 01 01 00",  # ORIGIN
        "40 02 06 02 01 00 00 fd e9",  # AS_PATH 65001
        "40 02 00",  # AS_PATH, empty
        "40 03 04 0a 00 01 1e",  # NEXT_HOP
        "80 04 04 00 00 00 64",  # MULTI_EXIT_DISC
        "40 05 04 00 00 00 64",  # LOCAL_PREF
        "40 06 00",  # ATOMIC_AGGREGATE
        "c0 07 08 00 00 fd e9 0a 00 01 1e",  # AGGREGATOR
        "c0 08 08 ff ff 00 00 fd e9 00 01",  # COMMUNITIES
        "80 09 04 0a 00 01 1e",  # ORIGINATOR_ID
        "80 0a 04 0a 00 00 01",  # CLUSTER_LIST
        "80 0e 1a 00 02 01 10 fd000000000000000000000000000001 00 20 20 01 0d b8",  # MP_REACH_NLRI
        "80 0f 08 00 02 01 20 20 01 0d b8",  # MP_UNREACH_NLRI
        "c0 10 08 00 02 fd e9 00 00 00 01",  # EXTENDED COMMUNITIES
        "c0 20 0c 00 00 fd e9 00 00 00 01 00 00 00 02",  # LARGE COMMUNITIES
        "c0 23 04 00 00 fd e9",  # ONLY_TO_CUSTOMER
        "c0 17 04 00 00 00 00",  # TUNNEL_ENCAPSULATION
        "c0 28 04 00 00 00 00",  # PREFIX_SID
        "e0 63 03 01 02 03",  # unknown, partial
    )
]
NLRI = bytes.fromhex("1a 0a 30 00 80 20 0a 30 01 05")


def update(random: Random) -> bytes:
    """An UPDATE that is nearly right."""
    attributes = b"".join(random.sample(ATTRIBUTES, random.randint(0, len(ATTRIBUTES))))
    if random.random() < 0.5:
        attributes = b"".join(ATTRIBUTES[:2] + ATTRIBUTES[3:4]) + attributes
    withdrawn = NLRI if random.random() < 0.3 else b""
    body = len(withdrawn).to_bytes(2, "big") + withdrawn + len(attributes).to_bytes(2, "big") + attributes
    return message(2, body + (NLRI if random.random() < 0.7 else b""))


def valid(random: Random) -> bytes:
    """A message as a peer may send it."""
    kind = random.randrange(6)
    if kind == 0:
        return KEEPALIVE_MESSAGE
    if kind == 1:
        return end_of_rib(random.choice([V4, V6]))
    if kind == 2:
        return encode_refresh(random.choice([V4, V6]))
    return update(random)


def mutated(octets: bytes, random: Random) -> bytes:
    """The same, with what a broken or hostile peer makes of it."""
    changed = bytearray(octets)
    for _ in range(random.choice([0, 1, 1, 2, 8])):
        if not changed:
            break
        place = random.randrange(len(changed))
        what = random.randrange(6)
        if what == 0:
            changed[place] = random.randrange(256)
        elif what == 1:
            changed[place] ^= 1 << random.randrange(8)
        elif what == 2:
            del changed[place : place + random.randint(1, 4)]
        elif what == 3:
            changed[place:place] = random.randbytes(random.randint(1, 4))
        elif what == 4:
            changed[place] = random.choice([0, 1, 0x7F, 0x80, 0xFF])
        else:
            changed[place:place] = changed[place : place + random.randint(1, 32)]
    if len(changed) >= 19 and random.random() < 0.8:  # a length that fits lets the fault get deeper
        changed[16:18] = min(len(changed), 4096).to_bytes(2, "big")
    return bytes(changed)


def story(seed: int) -> None:
    """One session, from its connection to its end or the end of the octets."""
    random = Random(seed)
    config = replace(CONFIG, families=frozenset({V4, V6})) if random.random() < 0.5 else CONFIG
    session = make(config)
    connection = accept(session)
    octets = encode_open(OPEN) if random.random() < 0.8 else mutated(encode_open(OPEN), random)
    octets += KEEPALIVE_MESSAGE
    for _ in range(random.randint(1, 20)):
        octets += mutated(valid(random), random) if random.random() < 0.5 else valid(random)
    now = 0.0
    while octets and connection in session.connections:
        size = random.choice([1, 2, 19, 23, 4096, 1 << 16])
        now += random.choice([0.0, 0.001, 1.0])
        session.receive(connection, octets[:size], now)
        octets = octets[size:]
        while session.work_due:
            session.work(now)
        watch(session)
        session.tick(now)
    if connection in session.connections:
        deadline, peer = connection.next_deadline(), connection.peer
        timeless = peer is not None and peer.hold_time == 0  # its OPEN was mutated to that
        assert timeless or (deadline is not None and deadline > now), "it keeps time"
        session.tcp_lost(connection, "the end", now)
    assert connection.closure is not None and str(
        connection.closure.message or connection.closure.notification
    )
    watch(session)


def watch(session: Session) -> None:
    for event in session.events():
        assert isinstance(event, Up | Ended | Routes | Refresh)
        if isinstance(event, Routes):
            for events_of in event.events:
                if isinstance(events_of, Announce):
                    assert address_text(events_of.path.next_hop) and events_of.path.attributes is not None


@pytest.mark.parametrize("part", range(4))
def test_mutated_messages(part: int) -> None:
    for seed in range(part * SESSIONS // 4, (part + 1) * SESSIONS // 4):
        try:
            story(seed)
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error


@pytest.mark.skipif(not MINUTES, reason="make fuzz MINUTES=n")
@pytest.mark.timeout(0)
def test_mutated_messages_for_a_while() -> None:
    end, seed = time.monotonic() + MINUTES * 30, int(time.time()) << 20
    while time.monotonic() < end:
        seed += 1
        try:
            story(seed)
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error
