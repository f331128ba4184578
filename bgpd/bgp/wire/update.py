"""The fast road of UPDATE: framing (RFC 4271 §4.1), the splitter, NLRI, and what RFC 7606 asks of a receiver.

``connection`` feeds what TCP brought to ``Framer`` and each UPDATE body to ``Decoder``, one of each a connection;
``outbound`` packs what we announce with ``encode_*``. The attributes are ``attributes``' business. What it costs:
0.15 us a prefix packed, 2 us an UPDATE of one prefix with known attributes, 20 to 60 us more when they are new.

An UPDATE whose NLRI cannot be found or read ends the session (``ProtocolError``): lengths that exceed it (RFC 7606 §3
a), NLRI longer than its family or cut off (§5.3), MP_REACH_NLRI with a next hop of a wrong length (§7.11). So does an
error that asks for withdrawal in an UPDATE that has nothing to withdraw (§5.2). Everything else goes on. NLRI of a
family that was not negotiated is passed over (RFC 4760 §7 lets us). Host bits are masked.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from bgpd.bgp.wire.attributes import MP_REACH, MP_UNREACH, NEXT_HOP, OPTIONAL, AttributeSet, Cache, cut
from bgpd.bgp.wire.exa.attributes import Codec
from bgpd.bgp.wire.exa.messages import (
    KEEPALIVE,
    MESSAGE_NAMES,
    NOTIFICATION,
    OPEN,
    ROUTE_REFRESH,
    UPDATE,
    ProtocolError,
)
from bgpd.model.peer import Peer
from bgpd.model.prefix import Address, Family, Prefix
from bgpd.model.route import Announce, Attributes, EndOfRib, RibEvent, Withdraw

MARKER = b"\xff" * 16
HEADER = 19
MAX_MESSAGE = 4096
_LENGTHS = {
    OPEN: (29, MAX_MESSAGE),
    UPDATE: (23, MAX_MESSAGE),
    NOTIFICATION: (21, MAX_MESSAGE),
    KEEPALIVE: (19, 19),
    ROUTE_REFRESH: (23, MAX_MESSAGE),  # a wrong length has an error of its own (RFC 7313 §5)
}


class Framer:
    """Cuts a stream into messages. ``feed`` octets, then ``take`` until it gives ``None``."""

    def __init__(self) -> None:
        self._buffer = b""
        self._position = 0

    def feed(self, data: bytes) -> None:
        """Adds what TCP brought."""
        if self._position:
            self._buffer = self._buffer[self._position :] + data
            self._position = 0
        else:
            self._buffer = self._buffer + data if self._buffer else data

    @property
    def waiting(self) -> int:
        """Octets that were not taken."""
        return len(self._buffer) - self._position

    @property
    def rest(self) -> bytes:
        """The octets that no message was taken from yet."""
        return self._buffer[self._position :]

    def take(self) -> tuple[int, bytes] | None:
        """The next message as (type, body); ``None`` until more octets come; ``ProtocolError`` 1/x."""
        buffer, start = self._buffer, self._position
        body = start + HEADER
        if len(buffer) < body:
            # A stream that is no BGP gets its NOTIFICATION before a whole header of it has come.
            if buffer[start : start + 16] != MARKER[: len(buffer) - start]:
                raise ProtocolError(1, 1, "no marker: this is not a BGP message")
            return None
        if not buffer.startswith(MARKER, start):
            raise ProtocolError(1, 1, "no marker: this is not a BGP message")
        length = buffer[body - 3] << 8 | buffer[body - 2]
        kind = buffer[body - 1]
        limits = _LENGTHS.get(kind)
        if limits is None:
            raise ProtocolError(1, 3, f"message type {kind}", bytes((kind,)))
        if not limits[0] <= length <= limits[1]:
            name = MESSAGE_NAMES[kind]
            raise ProtocolError(1, 2, f"{name} of {length} octets", length.to_bytes(2, "big"))
        end = start + length
        if len(buffer) < end:
            return None
        self._position = end
        return kind, buffer[body:end]


def message_types(data: bytes) -> Iterator[int]:
    """The type of each message in octets that we made ourselves."""
    position = 0
    while position < len(data):
        yield data[position + 18]
        position += data[position + 16] << 8 | data[position + 17]


def message(kind: int, body: bytes) -> bytes:
    """A message with its header."""
    return MARKER + struct.pack("!HB", HEADER + len(body), kind) + body


# Of each length octet: how many octets the NLRI has, its length octet included, and which bits of the last are the
# host's. No entry for lengths a family does not have: the IndexError is the check.
_SIZE = tuple(tuple(1 + ((bits + 7) >> 3) for bits in range(top + 1)) for top in (0, 32, 128))  # by family
_HOST_BITS = tuple(0xFF >> (bits & 7) if bits & 7 else 0 for bits in range(129))
_MASKED = tuple(0xFF ^ bits for bits in _HOST_BITS)


def parse_nlri(family: Family, octets: bytes) -> list[Prefix]:
    """The prefixes of an NLRI field, host bits masked; ``IndexError`` when it is malformed."""
    size = _SIZE[family]
    found: list[Prefix] = []
    append = found.append
    position, end = 0, len(octets)
    while position < end:
        bits = octets[position]
        after = position + size[bits]
        if octets[after - 1] & _HOST_BITS[bits]:
            last = octets[after - 1] & _MASKED[bits]
            append(Prefix(octets[position : after - 1] + bytes((last,))))
        else:
            append(octets[position:after])  # type: ignore[arg-type]  # a call to Prefix costs a third of the loop
        position = after
    return found


def parse_nlri_with_ids(family: Family, octets: bytes) -> dict[int, list[Prefix]]:
    """The prefixes of an NLRI field with path identifiers (RFC 7911 §3), by identifier."""
    size = _SIZE[family]
    found: dict[bytes, list[Prefix]] = {}
    before, append = b"", list[Prefix]().append
    position, end = 0, len(octets)
    while position < end:
        start = position + 4
        bits = octets[start]
        path_id = octets[position:start]
        if path_id != before:  # most often one has many prefixes
            before, append = path_id, found.setdefault(path_id, []).append
        position = start + size[bits]
        if octets[position - 1] & _HOST_BITS[bits]:
            last = octets[position - 1] & _MASKED[bits]
            append(Prefix(octets[start : position - 1] + bytes((last,))))
        else:
            append(octets[start:position])  # type: ignore[arg-type]
    return {int.from_bytes(path_id, "big"): prefixes for path_id, prefixes in found.items()}


_IPV4, _IPV6 = Family.IPV4, Family.IPV6  # looking a member up costs as much as reading a prefix
_MP_IPV6 = (b"\x00\x02\x01\x10", b"\x00\x02\x01\x20")
"""How MP_REACH_NLRI of IPv6 unicast begins: AFI, SAFI, and a next hop of 16 or 32 octets."""


class Decoder:
    """UPDATE bodies of one session to events of the RIB."""

    def __init__(self, peer: Peer) -> None:
        self._families = peer.families
        self._add_path = peer.add_path_receive
        self._extended = peer.extended_next_hop
        self._plain_ipv4 = _IPV4 in peer.families and _IPV4 not in peer.add_path_receive
        self._plain_ipv6 = _IPV6 in peer.families and _IPV6 not in peer.add_path_receive
        self.cache = Cache(peer)
        self.withdrawn_by_error = 0
        """UPDATEs treated as withdraw (RFC 7606)."""
        self.ended: set[Family] = set()
        """Families whose End-of-RIB has come."""

    def decode(self, body: bytes, events: list[RibEvent]) -> int:
        """Appends what an UPDATE says, withdrawals first; returns how many prefixes it names. ``ProtocolError`` 3/x."""
        # The two shapes that tables come in: IPv4 NLRI with NEXT_HOP where this attribute set had it the last time,
        # and IPv6 with MP_REACH_NLRI first. In both, the other octets being a key of the cache proves that they are
        # whole attributes without NEXT_HOP and MP_*, so nothing needs to be walked.
        if body[:2] == b"\0\0":
            end = len(body)
            nlri_at = 4 + (body[2] << 8 | body[3])
            if nlri_at < end:
                at = body.find(b"\x40\x03\x04", 4, nlri_at)
                if self._plain_ipv4 and 0 < at <= nlri_at - 7:
                    known = self.cache.young.get(body[4:at] + body[at + 7 : nlri_at])
                    if known is not None and known.next_hop_at == at - 4:
                        next_hop = body[at + 3 : at + 7]
                        path = known.paths.get(next_hop) or self.cache.path(known, next_hop, 0)
                        if path is not None:
                            try:
                                prefixes = parse_nlri(_IPV4, body[nlri_at:])
                            except IndexError:
                                raise ProtocolError(3, 10, "malformed NLRI") from None
                            events.append(Announce(_IPV4, path, prefixes))
                            return len(prefixes)
            elif end > 32 and body[5] == MP_REACH and body[4] & 0xC0 == OPTIONAL and self._plain_ipv6:
                value = 8 if body[4] & 0x10 else 7
                after = value + (body[6] << 8 | body[7] if value == 8 else body[6])
                if after <= end == nlri_at and body[value : value + 4] in _MP_IPV6:
                    known = self.cache.young.get(body[after:])
                    if known is not None:
                        reach = value + 5 + body[value + 3]
                        next_hop = body[value + 4 : reach - 1]
                        path = known.paths.get(next_hop) or self.cache.path(known, next_hop, 0)
                        if path is not None and reach < after:
                            try:
                                prefixes = parse_nlri(_IPV6, body[reach:after])
                            except IndexError:
                                raise ProtocolError(3, 9, "malformed NLRI in MP_REACH_NLRI") from None
                            events.append(Announce(_IPV6, path, prefixes))
                            return len(prefixes)
        return self._decode(body, events)

    def _decode(self, body: bytes, events: list[RibEvent]) -> int:
        """Any UPDATE."""
        end = len(body)
        withdrawn_end = 2 + int.from_bytes(body[:2], "big")
        block_at = withdrawn_end + 2
        nlri_at = block_at + int.from_bytes(body[withdrawn_end:block_at], "big")
        if block_at > end or nlri_at > end:
            raise ProtocolError(3, 1, "lengths inside the UPDATE exceed it")
        block = cut(body[block_at:nlri_at])
        if not block.rest and block.next_hop is None and block.reach is None:
            if end == 4:
                return self._end_of_rib(_IPV4, events)
            if (
                block.unreach is not None
                and len(block.unreach) == 3
                and withdrawn_end == 2
                and nlri_at == end
            ):
                return self._end_of_rib(self._family(block.unreach), events)
        # All NLRI must be found before any of it is believed (RFC 7606 §3 j).
        try:
            gone = self._read(_IPV4, body[2:withdrawn_end])
            announced = self._read(_IPV4, body[nlri_at:])
        except IndexError:
            raise ProtocolError(3, 10, "malformed NLRI") from None
        try:
            mp_gone_family, mp_gone = self._unreached(block.unreach)
            mp_family, mp_next_hop, mp_announced = self._reached(block.reach)
        except IndexError:
            raise ProtocolError(3, 9, "malformed MP_REACH_NLRI or MP_UNREACH_NLRI") from None
        count = 0
        for family, found in ((_IPV4, gone), (mp_gone_family, mp_gone)):
            for path_id, prefixes in found.items():
                count += len(prefixes)
                events.append(Withdraw(family, prefixes, path_id))
        reaches = nlri_at < end or block.reach is not None
        if not reaches and not block.rest:
            return count
        known = self.cache.lookup(block.rest)
        if not reaches:
            if known.malformed:
                raise ProtocolError(3, 1, f"{known.malformed}, in an UPDATE that reaches nothing")
            return count
        next_hop = block.next_hop
        if next_hop is not None:
            if len(next_hop) != 4:
                next_hop = b""
            alone = block.reach is None and block.unreach is None and block.originator_id is None
            if alone and not known.malformed:
                known.next_hop_at = block.next_hop_at
        originator_id = block.originator_id
        usable = self._announce(known, _IPV4, next_hop, originator_id, announced, events)
        usable &= self._announce(known, mp_family, mp_next_hop, originator_id, mp_announced, events)
        self.withdrawn_by_error += not usable
        return count + sum(map(len, announced.values())) + sum(map(len, mp_announced.values()))

    def _end_of_rib(self, family: Family | None, events: list[RibEvent]) -> int:
        if family is not None:
            self.ended.add(family)
            events.append(EndOfRib(family))
        return 0

    def _announce(
        self,
        known: AttributeSet,
        family: Family,
        next_hop: bytes | None,
        originator_id: bytes | None,
        announced: dict[int, list[Prefix]],
        events: list[RibEvent],
    ) -> bool:
        """Announces, or withdraws what has no usable path: then False."""
        usable = True
        for path_id, prefixes in announced.items():
            path = self.cache.path(known, next_hop, path_id, originator_id)
            if path is None:
                usable = False
                events.append(Withdraw(family, prefixes, path_id))
            else:
                events.append(Announce(family, path, prefixes))
        return usable

    def _family(self, octets: bytes) -> Family | None:
        """The negotiated family that MP_REACH or MP_UNREACH begins with; ``None`` for any other."""
        if len(octets) < 3:
            raise IndexError
        if octets[0] == 0 and octets[2] == 1 and octets[1] in (1, 2):
            family = Family(octets[1])
            if family in self._families:
                return family
        return None

    def _read(self, family: Family, octets: bytes) -> dict[int, list[Prefix]]:
        """An NLRI field: prefixes by path identifier. Of a family that was not negotiated, nothing."""
        if not octets:
            return {}
        if family in self._add_path:
            return parse_nlri_with_ids(family, octets)
        prefixes = parse_nlri(family, octets)
        return {0: prefixes} if family in self._families else {}

    def _unreached(self, unreach: bytes | None) -> tuple[Family, dict[int, list[Prefix]]]:
        """MP_UNREACH_NLRI (RFC 4760 §4)."""
        family = None if unreach is None else self._family(unreach)
        if unreach is None or family is None:
            return _IPV6, {}
        return family, self._read(family, unreach[3:])

    def _reached(self, reach: bytes | None) -> tuple[Family, bytes, dict[int, list[Prefix]]]:
        """MP_REACH_NLRI (RFC 4760 §3): family, next hop field, prefixes."""
        family = None if reach is None else self._family(reach)
        if reach is None or family is None:
            return _IPV6, b"", {}
        nlri_at = 5 + reach[3]
        lengths = (16, 32) if family is _IPV6 else (4, 16, 32) if family in self._extended else (4,)
        if nlri_at > len(reach) or reach[3] not in lengths:
            # Where the NLRI begins is a guess then (RFC 7606 §7.11).
            raise ProtocolError(3, 9, f"next hop of {reach[3]} octets in MP_REACH_NLRI of {family.label}")
        return family, reach[4 : nlri_at - 1], self._read(family, reach[nlri_at:])


def encode_announcements(
    family: Family,
    attributes: Attributes,
    next_hop: Address,
    prefixes: Iterable[Prefix],
    asn4: bool,
    *,
    link_local: Address | None = None,
) -> list[bytes]:
    """Whole messages of at most 4096 octets that announce prefixes. IPv4 goes as plain NLRI, IPv6 in MP_REACH_NLRI,
    which comes first (RFC 7606 §5.1). ``ValueError`` when the attributes leave no room for a prefix (RFC 4271 §9.2:
    then it is not announced).

    ``prefixes`` are NLRI: on a session with ``add_path_send`` of the family, each is a path identifier of four octets
    and a prefix (RFC 7911 §3). ``next_hop`` is an IPv6 address for IPv4 too where the session takes that (RFC 8950):
    then in MP_REACH_NLRI. With ``link_local`` beside it the next hop has 32 octets (RFC 2545 §3), unless both are one.
    """
    if len(next_hop) != family.octets and len(next_hop) != 16:
        raise ValueError(f"a next hop of {len(next_hop)} octets for {family.label}")
    encoded = Codec(asn4=asn4).encode(attributes)
    if len(next_hop) == 4:
        before = b"".join(octets for code, octets in encoded if code < NEXT_HOP)
        after = b"".join(octets for code, octets in encoded if code > NEXT_HOP)
        block = before + b"\x40\x03\x04" + next_hop + after
        head = struct.pack("!HH", 0, len(block)) + block
        room = MAX_MESSAGE - HEADER - len(head)
        return [message(UPDATE, head + nlri) for nlri in _chunks(prefixes, room)]
    block = b"".join(octets for _, octets in encoded)
    hop = next_hop if link_local in (None, next_hop) else next_hop + (link_local or b"")
    reach = struct.pack("!HBB", family, 1, len(hop)) + hop + b"\0"
    room = MAX_MESSAGE - HEADER - 4 - 4 - len(reach) - len(block)
    messages = []
    for nlri in _chunks(prefixes, room):
        value = reach + nlri
        mp = struct.pack("!BBH", OPTIONAL | 0x10, MP_REACH, len(value)) + value
        messages.append(message(UPDATE, struct.pack("!HH", 0, len(mp) + len(block)) + mp + block))
    return messages


def encode_withdrawals(family: Family, prefixes: Iterable[Prefix]) -> list[bytes]:
    """Whole messages that withdraw prefixes, NLRI as in ``encode_announcements``. IPv4 is withdrawn as plain NLRI
    whatever its next hop was."""
    if family is Family.IPV4:
        return [
            message(UPDATE, struct.pack("!H", len(nlri)) + nlri + b"\0\0")
            for nlri in _chunks(prefixes, MAX_MESSAGE - HEADER - 4)
        ]
    return [_unreach(family, nlri) for nlri in _chunks(prefixes, MAX_MESSAGE - HEADER - 4 - 4 - 3)]


def end_of_rib(family: Family) -> bytes:
    """The End-of-RIB marker of a family (RFC 4724 §2)."""
    return message(UPDATE, bytes(4)) if family is Family.IPV4 else _unreach(family, b"")


def _unreach(family: Family, nlri: bytes) -> bytes:
    value = struct.pack("!HB", family, 1) + nlri
    attribute = struct.pack("!BBH", OPTIONAL | 0x10, MP_UNREACH, len(value)) + value
    return message(UPDATE, struct.pack("!HH", 0, len(attribute)) + attribute)


def _chunks(prefixes: Iterable[Prefix], room: int) -> Iterator[bytes]:
    """NLRI fields of at most ``room`` octets."""
    chunk: list[Prefix] = []
    left = room
    for prefix in prefixes:
        left -= len(prefix)
        if left < 0:
            if len(prefix) > room:
                raise ValueError("the attributes leave no room for a prefix")
            yield b"".join(chunk)
            chunk = []
            left = room - len(prefix)
        chunk.append(prefix)
    if chunk:
        yield b"".join(chunk)
