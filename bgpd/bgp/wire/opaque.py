"""Attributes that mean nothing to us and have a form that is known: what a malformed one comes to (RFC 7606 §8).

``attributes`` asks for each attribute that it does not decode itself. Passed on unread, a malformed one would do at our
internal peers what it should have done here. Many of them end the session for it. So the form is looked at, as far as
the attribute's RFC calls a wrong one malformed; what is inside a TLV is its readers' business. Attributes that nobody
knows are kept with the partial bit when transitive, and dropped when not (RFC 4271 §5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from typing import NamedTuple

OPTIONAL, OPTIONAL_TRANSITIVE = 0x80, 0xC0
MP_REACH, MP_UNREACH = 14, 15


Form = Callable[[int, int, bytes], bool]
"""Whether an attribute, by code, flags and value, is well formed; true of those that it does not know."""


class Handling(Enum):
    """What becomes of an attribute."""

    KEEP = "keep"
    DROP = "drop"
    """It is not transitive, and nothing for us."""
    DISCARD = "discard"
    """RFC 7606 §2: the route stays, without it."""
    WITHDRAW = "treat as withdraw"


class Kind(NamedTuple):
    """One attribute whose form is known."""

    name: str
    flags: int
    malformed: Callable[[bytes], bool]
    handling: Handling
    """What is done with a malformed one, or one with wrong flags."""
    external: bool = True
    """Whether it is taken from an external peer."""


def _tlvs(value: bytes, type_octets: int, length_octets: Callable[[int], int]) -> Iterator[tuple[int, bytes]]:
    """(type, value) of each TLV. ``IndexError`` where they do not fill the octets."""
    position, end = 0, len(value)
    while position < end:
        kind = int.from_bytes(value[position : position + type_octets], "big")
        octets = length_octets(kind)
        start = position + type_octets + octets
        length = int.from_bytes(value[start - octets : start], "big")
        position = start + length
        if position > end:
            raise IndexError
        yield kind, value[start:position]


def _cut_off(value: bytes, type_octets: int, length_octets: Callable[[int], int]) -> bool:
    try:
        for _ in _tlvs(value, type_octets, length_octets):
            pass
    except IndexError:
        return True
    return False


def _tunnels(value: bytes) -> bool:
    """RFC 9012 §2, §13: tunnels of two octets of type and length, in each sub-TLVs; from type 128 on their length has
    two octets."""
    try:
        return any(
            _cut_off(tunnel, 1, lambda kind: 2 if kind > 127 else 1)
            for _, tunnel in _tlvs(value, 2, lambda _: 2)
        )
    except IndexError:
        return True


def _prefix_sid(value: bytes) -> bool:
    """RFC 8669 §3: TLVs; the Label-Index has 7 octets, the Originator SRGB 2 and ranges of 6."""
    try:
        return not value or any(
            (kind == 1 and len(tlv) != 7) or (kind == 3 and (len(tlv) < 8 or (len(tlv) - 2) % 6))
            for kind, tlv in _tlvs(value, 1, lambda _: 2)
        )
    except IndexError:
        return True


def _bfd_discriminator(value: bytes) -> bool:
    """RFC 9026 §3.1.6: mode, discriminator, TLVs."""
    return len(value) < 5 or _cut_off(value[5:], 1, lambda _: 1)


def _attribute_set(value: bytes, decoded: Form) -> bool:
    """RFC 6368 §5: the origin's AS, and attributes: whole, each with the flags and form of its code, no MP_*."""
    position, end = 4, len(value)
    if end < 4:
        return True
    while position < end:
        head = value[position : position + 4]
        extended = bool(head[0] & 0x10)
        if len(head) < 3 + extended:
            return True
        code, start = head[1], position + 3 + extended
        position = start + (head[2] << 8 | head[3] if extended else head[2])
        if position > end or code in (MP_REACH, MP_UNREACH):
            return True
        kind, inner = KINDS.get(code), value[start:position]
        if not decoded(code, head[0], inner) or (kind is not None and kind.malformed(inner)):
            return True
    return False


def _never(value: bytes) -> bool:
    return False


ATTR_SET = 128
KINDS = {
    22: Kind(
        "PMSI_TUNNEL", OPTIONAL_TRANSITIVE, lambda value: len(value) < 5, Handling.WITHDRAW
    ),  # RFC 6514 §5
    23: Kind("TUNNEL_ENCAPSULATION", OPTIONAL_TRANSITIVE, _tunnels, Handling.WITHDRAW),  # RFC 9012 §13
    24: Kind("TRAFFIC_ENGINEERING", OPTIONAL, _never, Handling.DISCARD),  # RFC 7606 §7.13
    25: Kind(  # RFC 7606 §7.15
        "IPV6_EXTENDED_COMMUNITIES",
        OPTIONAL_TRANSITIVE,
        lambda value: not value or len(value) % 20 != 0,
        Handling.WITHDRAW,
    ),
    26: Kind("AIGP", OPTIONAL, _never, Handling.DISCARD),  # RFC 7311 §3: for sessions where it is wanted
    29: Kind("BGP_LS", OPTIONAL, _never, Handling.DISCARD),  # RFC 9552 §8.2.2
    33: Kind("BGPSEC_PATH", OPTIONAL, _never, Handling.DISCARD),  # RFC 8205 §2.2: it was not negotiated
    35: Kind(  # RFC 9234 §5
        "ONLY_TO_CUSTOMER", OPTIONAL_TRANSITIVE, lambda value: len(value) != 4, Handling.WITHDRAW
    ),
    38: Kind(
        "BFD_DISCRIMINATOR", OPTIONAL_TRANSITIVE, _bfd_discriminator, Handling.DISCARD
    ),  # RFC 9026 §3.1.6
    40: Kind(  # RFC 8669 §6; from outside of the domain it is not taken (§5)
        "PREFIX_SID", OPTIONAL_TRANSITIVE, _prefix_sid, Handling.DISCARD, external=False
    ),
    ATTR_SET: Kind("ATTR_SET", OPTIONAL_TRANSITIVE, _never, Handling.WITHDRAW),  # RFC 7606 §7.16
}
"""What is known of each attribute, by its code."""


def judge(code: int, flags: int, value: bytes, *, internal: bool, decoded: Form) -> tuple[Handling, str]:
    """What becomes of an attribute that we do not decode, and why where it is malformed.

    ``decoded`` looks at those that we do: an ATTR_SET has some inside.
    """
    if code == 0:
        return Handling.DISCARD, "attribute 0 is reserved"
    kind = KINDS.get(code)
    if kind is None:
        return (Handling.KEEP if flags & 0xC0 == OPTIONAL_TRANSITIVE else Handling.DROP), ""
    if flags & 0xC0 != kind.flags:
        return kind.handling, f"flags of {kind.name}"
    if not internal and not kind.external:
        return Handling.DISCARD, f"{kind.name} from an external peer"
    if kind.malformed(value) or (code == ATTR_SET and _attribute_set(value, decoded)):
        return kind.handling, f"malformed {kind.name}"
    return (Handling.KEEP if kind.flags == OPTIONAL_TRANSITIVE else Handling.DROP), ""
