"""The BFD control packet: its octets, and each reason of RFC 5880 §6.8.6 to discard one."""

from __future__ import annotations

import pytest

from bgpd.bfd.packet import Discard, Packet, Refused, decode, encode
from bgpd.model.bfd import BfdState, Diagnostic, diagnostic_words

PACKET = Packet(
    state=BfdState.UP,
    my_discriminator=0x01020304,
    your_discriminator=0xA1A2A3A4,
    desired_min_tx=300_000,
    required_min_rx=100_000,
    multiplier=3,
    diagnostic=Diagnostic.NEIGHBOR_SIGNALED_DOWN,
    poll=True,
    control_plane_independent=True,
)
OCTETS = bytes.fromhex("23 e8 03 18 01020304 a1a2a3a4 000493e0 000186a0 00000000")


def changed(**at: int) -> bytes:
    """The octets with some of them replaced: ``o2=0`` is a third octet of zero."""
    octets = bytearray(OCTETS)
    for name, value in at.items():
        octets[int(name[1:])] = value
    return bytes(octets)


def test_octets() -> None:
    assert encode(PACKET) == OCTETS
    assert decode(OCTETS) == PACKET


@pytest.mark.parametrize(
    ("flag", "octets"),
    [("final", changed(o1=0xD8)), ("demand", changed(o1=0xCA)), ("poll", changed(o1=0xE8))],
)
def test_flags(flag: str, octets: bytes) -> None:
    packet = PACKET._replace(poll=False)._replace(**{flag: True})
    assert encode(packet) == octets
    assert decode(octets) == packet


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (b"", Discard.SHORT),
        (OCTETS[:23], Discard.SHORT),
        (changed(o3=25), Discard.SHORT),
        (changed(o3=255), Discard.SHORT),
        (changed(o0=0x03), Discard.VERSION),
        (changed(o0=0x43), Discard.VERSION),
        (changed(o3=23), Discard.LENGTH),
        (changed(o3=0), Discard.LENGTH),
        (changed(o1=0xEC), Discard.LENGTH),  # authentication, in 24 octets
        (changed(o2=0), Discard.MULTIPLIER),
        (changed(o1=0xE9), Discard.MULTIPOINT),
        (changed(o4=0, o5=0, o6=0, o7=0), Discard.DISCRIMINATOR),
        (changed(o8=0, o9=0, o10=0, o11=0), Discard.DISCRIMINATOR),
        (changed(o8=0, o9=0, o10=0, o11=0, o1=0x80), Discard.DISCRIMINATOR),
        (changed(o1=0xEC, o3=26) + b"\x01\x02", Discard.AUTHENTICATED),
    ],
)
def test_what_is_discarded(octets: bytes, reason: Discard) -> None:
    with pytest.raises(Refused) as refused:
        decode(octets)
    assert refused.value.reason is reason


@pytest.mark.parametrize("flags", [0x00, 0x40])
def test_a_peer_that_knows_nobody_yet(flags: int) -> None:
    packet = decode(changed(o8=0, o9=0, o10=0, o11=0, o1=flags))
    assert packet.your_discriminator == 0
    assert packet.state is BfdState(flags >> 6)


def test_what_follows_the_packet_does_not_count() -> None:
    assert decode(OCTETS + b"trailing") == PACKET


def test_words_of_diagnostics() -> None:
    assert diagnostic_words(1) == "detection time expired"
    assert diagnostic_words(31) == "code 31"
