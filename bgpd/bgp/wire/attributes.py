"""Path attributes as received: what is cut out, what is checked, what is kept (RFC 4271 §4.3, §6.3, RFC 7606).

``update`` gives attribute blocks; ``exa`` decodes what passed the checks. A table of 100,000 prefixes has few attribute
sets, so decoded ones are kept by their octets *without* NEXT_HOP, MP_REACH and MP_UNREACH. Those differ from node to
node, and with them in the key every UPDATE would be decoded anew, 27 times slower. One ``Path`` is shared by all
prefixes of equal attributes, next hop and path identifier. The cache is bounded and dies with its session.

Errors, by RFC 7606 unless another is named:

- Session reset (``ProtocolError``): MP_REACH or MP_UNREACH twice or with wrong flags (§3 g, §5.3), and a well-known
  attribute that we do not know (RFC 4271 §6.3, which RFC 7606 leaves as it is).
- Treat as withdraw: all other errors; the missing of ORIGIN and AS_PATH, of NEXT_HOP for IPv4 NLRI, and of LOCAL_PREF
  on an internal session (RFC 4271 §5 has it required there); a next hop that is no host's address (RFC 4271 §6.3);
  an external AS_PATH that holds confederation segments (RFC 5065 §5); AS 0 (RFC 7607). One that does not start with
  the peer's AS is for ``rules.imports`` to judge (RFC 4271 §6.3).
- Attribute discard: ATOMIC_AGGREGATE and AGGREGATOR (§3 f), AS4_PATH and AS4_AGGREGATOR when malformed or not called
  for (RFC 6793 §4.1, §6), LOCAL_PREF, ORIGINATOR_ID and CLUSTER_LIST from outside (§7.5, §7.9, §7.10), and every
  repetition of an attribute but the first (§3 g).
- Optional attributes that we do not decode are kept with the partial bit when transitive, dropped when not; those whose
  form is known are looked at before (``opaque``).
"""

from __future__ import annotations

from typing import NamedTuple

from bgpd.bgp.wire.exa.attributes import LISTS, Codec
from bgpd.bgp.wire.exa.messages import ProtocolError
from bgpd.bgp.wire.held import COST_OF_PATH, COST_OF_SET, Charge, Held
from bgpd.bgp.wire.opaque import KINDS, Handling, judge
from bgpd.model.peer import Peer
from bgpd.model.prefix import Address, is_link_local
from bgpd.model.route import Attributes, Path, SegmentType

GENERATION = 1 << 15
"""Attribute sets and paths of one generation of the cache, at most."""
OCTETS = 1 << 20
"""And the octets of those sets: a few long ones make a generation too."""
_TIME_OF_SET, _TIME_OF_OCTET = 60.0, 0.15
"""Microseconds of decoding one, and what comes after it in the RIB."""

ORIGIN, AS_PATH, NEXT_HOP, LOCAL_PREF = 1, 2, 3, 5
ATOMIC_AGGREGATE, AGGREGATOR, ORIGINATOR_ID, CLUSTER_LIST = 6, 7, 9, 10
MP_REACH, MP_UNREACH, AS4_PATH, AS4_AGGREGATOR = 14, 15, 17, 18
WELL_KNOWN, OPTIONAL, OPTIONAL_TRANSITIVE = 0x40, 0x80, 0xC0
_FLAGS = {
    ORIGIN: WELL_KNOWN,
    AS_PATH: WELL_KNOWN,
    4: OPTIONAL,
    LOCAL_PREF: WELL_KNOWN,
    ATOMIC_AGGREGATE: WELL_KNOWN,
    AGGREGATOR: OPTIONAL_TRANSITIVE,
    8: OPTIONAL_TRANSITIVE,
    ORIGINATOR_ID: OPTIONAL,
    CLUSTER_LIST: OPTIONAL,
    16: OPTIONAL_TRANSITIVE,
    AS4_PATH: OPTIONAL_TRANSITIVE,
    AS4_AGGREGATOR: OPTIONAL_TRANSITIVE,
    32: OPTIONAL_TRANSITIVE,
}
_NAMES = {
    ORIGIN: "ORIGIN",
    AS_PATH: "AS_PATH",
    NEXT_HOP: "NEXT_HOP",
    4: "MULTI_EXIT_DISC",
    LOCAL_PREF: "LOCAL_PREF",
    8: "COMMUNITIES",
    ORIGINATOR_ID: "ORIGINATOR_ID",
    CLUSTER_LIST: "CLUSTER_LIST",
    16: "EXTENDED_COMMUNITIES",
    32: "LARGE_COMMUNITIES",
}
_DISCARDED = frozenset((ATOMIC_AGGREGATE, AGGREGATOR, AS4_PATH, AS4_AGGREGATOR))
_INTERNAL_ONLY = frozenset((LOCAL_PREF, ORIGINATOR_ID, CLUSTER_LIST))
_AS4_ONLY = frozenset((AS4_PATH, AS4_AGGREGATOR))
_FIXED_LENGTH = {
    ORIGIN: 1,
    NEXT_HOP: 4,
    4: 4,
    LOCAL_PREF: 4,
    ATOMIC_AGGREGATE: 0,
    ORIGINATOR_ID: 4,
    AS4_AGGREGATOR: 8,
}
_ARRAY_OF = {8: 4, CLUSTER_LIST: 4, 16: 8, 32: 12}


class Block(NamedTuple):
    """An attribute block, cut: each value is ``None`` where the attribute is not there."""

    rest: bytes
    """All other attributes, as they came: the key of the cache."""
    next_hop_at: int
    """The position at which NEXT_HOP was."""
    next_hop: bytes | None
    originator_id: bytes | None
    """Cut out too: a reflector gives each node's routes another, and all else of them is the same."""
    reach: bytes | None
    unreach: bytes | None


def cut(block: bytes) -> Block:
    """Takes NEXT_HOP, ORIGINATOR_ID and MP_* out of an attribute block. ``ProtocolError`` 3/x.

    A block whose last attribute overruns it keeps that attribute, and NEXT_HOP or ORIGINATOR_ID in a wrong form stays:
    ``Cache`` finds these.
    """
    parts: list[bytes] = []
    next_hop_at = kept = position = 0
    next_hop = originator_id = reach = unreach = None
    end = len(block)
    while position + 3 <= end:
        flags, code = block[position], block[position + 1]
        if flags & 0x10:
            value = position + 4
            after = value + (block[position + 2] << 8 | block[position + 3]) if value <= end else end + 1
        else:
            value = position + 3
            after = value + block[position + 2]
        if after > end:
            break
        if code == NEXT_HOP:
            if flags & 0xC0 == WELL_KNOWN:
                if next_hop is None:
                    next_hop_at, next_hop = position, block[value:after]
                parts.append(block[kept:position])
                kept = after
        elif (
            code == ORIGINATOR_ID
            and flags & 0xC0 == OPTIONAL
            and after - value == 4
            and originator_id is None
        ):
            originator_id = block[value:after]
            parts.append(block[kept:position])
            kept = after
        elif code in (MP_REACH, MP_UNREACH):
            if (reach if code == MP_REACH else unreach) is not None:
                raise ProtocolError(3, 1, "MP_REACH_NLRI or MP_UNREACH_NLRI twice")
            if flags & 0xC0 != OPTIONAL:
                raise ProtocolError(3, 4, "flags of MP_REACH_NLRI or MP_UNREACH_NLRI", block[position:after])
            if code == MP_REACH:
                reach = block[value:after]
            else:
                unreach = block[value:after]
            parts.append(block[kept:position])
            kept = after
        position = after
    if not kept:
        return Block(block, -1, None, None, None, None)
    parts.append(block[kept:])
    return Block(b"".join(parts), next_hop_at, next_hop, originator_id, reach, unreach)


class AttributeSet:
    """One attribute set as decoded: what it holds, or why it cannot be used."""

    __slots__ = ("attributes", "charge", "malformed", "missing", "next_hop_at", "paths")

    def __init__(self, attributes: Attributes | None, malformed: str, missing: str, charge: Charge) -> None:
        self.attributes = attributes
        self.charge = charge
        self.malformed = malformed
        """Why the UPDATE is treated as withdraw; empty where it is not."""
        self.missing = missing
        """The attribute that an announcement must have and this lacks."""
        self.next_hop_at = -1
        """Where NEXT_HOP was cut out the last time, when nothing else was."""
        self.paths: dict[object, Path] = {}
        """By the octets of the next hop, or by them, a path identifier and an ORIGINATOR_ID."""


class Cache:
    """The attribute sets and paths of one session."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._codec = Codec(asn4=peer.asn4)
        self.young: dict[bytes, AttributeSet] = {}
        self._old: dict[bytes, AttributeSet] = {}
        self._grown = self._octets = 0
        self.held = Held()
        """The memory of what was made here."""
        self.decoded = 0
        """Attribute sets that were not there."""
        self.spent = 0.0
        """What they cost, in estimated microseconds."""
        self.discarded = 0
        """How many attributes were discarded (RFC 7606)."""
        self.last_error = ""
        self.elsewhere = 0
        """Attribute sets of an external peer whose AS path does not start with its AS."""

    def lookup(self, rest: bytes) -> AttributeSet:
        """The set that these octets (``Block.rest``) are; decoded if they are new. ``ProtocolError`` 3/2."""
        known = self.young.get(rest)
        if known is None:
            known = self._old.get(rest)
            if known is None:
                self.decoded += 1
                self.spent += _TIME_OF_SET + _TIME_OF_OCTET * len(rest)
                known = self._decode(rest)
            self.young[rest] = known
            self._grow(len(rest))
        return known

    def path(
        self, known: AttributeSet, next_hop: bytes | None, path_id: int, originator_id: bytes | None = None
    ) -> Path | None:
        """The Path of an attribute set and what was cut out of it; ``None`` (and why, in ``last_error``) for one that
        must be treated as withdrawn."""
        key = (next_hop, path_id, originator_id) if path_id or originator_id else next_hop
        path = known.paths.get(key)
        if path is not None:
            return path
        if known.malformed or known.missing or known.attributes is None:
            self.last_error = known.malformed or known.missing
            return None
        if next_hop is None:
            self.last_error = "NEXT_HOP is missing"
            return None
        address, link_local = read_next_hop(next_hop)
        if address is None:
            hop = next_hop.hex(":")
            self.last_error = f"next hop {hop} is no host's address" if hop else "malformed NEXT_HOP"
            return None
        attributes = known.attributes
        if originator_id is not None and self._peer.ibgp:
            attributes = attributes.with_originator(Address(originator_id))
        elif originator_id is not None:
            self.discarded += 1  # RFC 7606 §7.9
        charge = Charge(self.held, COST_OF_PATH, known.charge)
        path = known.paths[key] = Path(self._peer, attributes, address, path_id, link_local, charge)
        self._grow(0)
        return path

    def _grow(self, octets: int) -> None:
        """Two generations make a cheap LRU: what nobody asked for during a whole generation is dropped."""
        self._grown += 1
        self._octets += octets
        if self._grown > GENERATION or self._octets > OCTETS:
            self._old, self.young, self._grown, self._octets = self.young, {}, 0, 0
            for known in self._old.values():
                known.paths = {}

    def _decode(self, block: bytes) -> AttributeSet:
        """Checks each attribute, has ``exa`` decode them, checks what they say together."""
        internal, asn4 = self._peer.ibgp, self._peer.asn4
        discarded = (frozenset() if internal else _INTERNAL_ONLY) | (_AS4_ONLY if asn4 else frozenset())
        seen: set[int] = set()
        clean: list[bytes] = []
        lists: dict[int, bytes] = {}
        unknown: list[tuple[int, int, bytes]] = []
        malformed = ""
        position, end = 0, len(block)
        while position < end:
            head = block[position : position + 4]
            extended = bool(head[0] & 0x10)
            if len(head) < 3 + extended:
                malformed = malformed or "an attribute is cut off"
                break
            flags, code = head[0], head[1]
            start = position + 3 + extended
            after = start + (head[2] << 8 | head[3] if extended else head[2])
            if after > end:
                malformed = malformed or "an attribute is longer than the attributes' total length"
                break
            value, whole = block[start:after], block[position:after]
            position = after
            if code in seen:
                self.discarded += 1
                continue
            seen.add(code)
            wanted = _FLAGS.get(code)
            if wanted is None:
                if code == NEXT_HOP:
                    malformed = malformed or "flags of NEXT_HOP"  # with good flags it was cut out
                    continue
                if not flags & OPTIONAL and code not in KINDS:
                    raise ProtocolError(3, 2, f"unknown well-known attribute {code}", whole)
                handling, why = judge(code, flags, value, internal=internal, decoded=_has_form)
                if handling is Handling.KEEP:
                    unknown.append((flags & 0xC0 | 0x20, code, value))
                elif handling is Handling.WITHDRAW:
                    malformed = malformed or why
                else:
                    self.discarded += handling is Handling.DISCARD
            elif code in discarded:
                self.discarded += 1
            elif flags & 0xC0 != wanted or not _well_formed(code, value, asn4):
                if code in _DISCARDED:
                    self.discarded += 1
                else:
                    name = _NAMES[code]
                    malformed = malformed or (
                        f"flags of {name}" if flags & 0xC0 != wanted else f"malformed {name}"
                    )
            elif code in LISTS:
                lists[code] = value
            else:
                if code == AS4_AGGREGATOR:
                    lists[code] = value  # that it came bears on AS4_PATH
                clean.append(bytes((flags & 0xD0, code)) + whole[2:])
        attributes = None
        if not malformed:
            try:
                attributes = self._codec.decode(b"".join(clean), lists, tuple(unknown))
                malformed = self._wrong_path(attributes) if AS_PATH in seen else ""
            except ValueError as error:
                malformed = str(error)
        needed = (ORIGIN, AS_PATH, LOCAL_PREF) if internal else (ORIGIN, AS_PATH)
        missing = next((f"{_NAMES[code]} is missing" for code in needed if code not in seen), "")
        size = len(block) if attributes is None else attributes.size
        return AttributeSet(attributes, malformed, missing, Charge(self.held, COST_OF_SET + size))

    def _wrong_path(self, attributes: Attributes) -> str:
        path = attributes.as_path
        if path.occurrences(0):
            return "AS 0 in AS_PATH"
        if not self._peer.ibgp:
            if any(kind > SegmentType.AS_SEQUENCE for kind, _, _ in path.heads()):
                return "confederation segments from an external peer"
            self.elsewhere += not path.starts_with(self._peer.config.asn)
        return ""


def _has_form(code: int, flags: int, value: bytes) -> bool:
    """Of an attribute inside another: whether one that is decoded here has its code's flags and form."""
    wanted = WELL_KNOWN if code == NEXT_HOP else _FLAGS.get(code)
    return wanted is None or (flags & 0xC0 == wanted and _well_formed(code, value, True))


def _well_formed(code: int, value: bytes, asn4: bool) -> bool:
    """Whether an attribute's value has the form of its code (RFC 7606 §7)."""
    length = len(value)
    fixed = _FIXED_LENGTH.get(code)
    if fixed is not None:
        return length == fixed and (code != ORIGIN or value[0] <= 2)
    unit = _ARRAY_OF.get(code)
    if unit is not None:
        return length > 0 and length % unit == 0
    if code == AGGREGATOR:
        return length == (8 if asn4 else 6)
    size = 4 if asn4 or code == AS4_PATH else 2  # AS_PATH, AS4_PATH
    position = 0
    while position + 2 <= length:
        if not 1 <= value[position] <= 4 or not value[position + 1]:
            return False
        position += 2 + value[position + 1] * size
    return position == length and (length > 0 or code == AS_PATH)


def read_next_hop(octets: bytes) -> tuple[Address | None, Address | None]:
    """A next hop field as (next hop, link-local next hop); (None, None) when it is no address of a host."""
    if len(octets) == 4:
        usable = octets[0] not in (0, 127) and octets[0] < 224
        return (Address(octets), None) if usable else (None, None)
    if len(octets) not in (16, 32):
        return None, None
    first, second = Address(octets[:16]), Address(octets[16:])
    if len(second) == 16 and not any(first):
        first = second  # no global address: some speakers leave it zero
    if first[0] == 0xFF or first[:12] in (bytes(12), bytes(10) + b"\xff\xff"):
        return None, None
    return first, next((address for address in (second, first) if is_link_local(address)), None)
