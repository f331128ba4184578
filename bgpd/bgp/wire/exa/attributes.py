"""Path attributes (RFC 4271 §4.3) in and out, with AS numbers of two octets or four (RFC 6793)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from bgpd.bgp.wire.exa import lean_exabgp
from bgpd.bgp.wire.exa.messages import notify_text
from bgpd.model.prefix import Address, address_text
from bgpd.model.route import AsPath, Attributes, Origin, Segment, SegmentType

with lean_exabgp():
    from exabgp.bgp.message.direction import Direction
    from exabgp.bgp.message.notification import Notify
    from exabgp.bgp.message.open.asn import ASN
    from exabgp.bgp.message.open.capability import Negotiated
    from exabgp.bgp.message.update.attribute.aggregator import Aggregator
    from exabgp.bgp.message.update.attribute.atomicaggregate import AtomicAggregate
    from exabgp.bgp.message.update.attribute.attribute import Attribute
    from exabgp.bgp.message.update.attribute.attributes import Attributes as ExaAttributes
    from exabgp.bgp.message.update.attribute.clusterlist import ClusterList
    from exabgp.bgp.message.update.attribute.generic import GenericAttribute
    from exabgp.bgp.message.update.attribute.localpref import LocalPreference
    from exabgp.bgp.message.update.attribute.med import MED as Med
    from exabgp.bgp.message.update.attribute.origin import Origin as ExaOrigin
    from exabgp.bgp.message.update.attribute.originatorid import OriginatorID
    from exabgp.protocol.ip import IPv4

AS_TRANS = 23456
"""Stands for an AS number that does not fit two octets (RFC 6793 §9)."""
_AS_PATH, _AS4_PATH, _AS4_AGGREGATOR = 2, 17, 18
_COMMUNITIES, _EXTENDED_COMMUNITIES, _LARGE_COMMUNITIES = 8, 16, 32
_OPTIONAL_TRANSITIVE = Attribute.Flag.OPTIONAL | Attribute.Flag.TRANSITIVE
LISTS = frozenset((_AS_PATH, _AS4_PATH, _COMMUNITIES, _EXTENDED_COMMUNITIES, _LARGE_COMMUNITIES))
"""Codes of the attributes that ``decode_attributes`` is given by value."""


class Codec:
    """Attributes in and out, as one session has agreed to write AS numbers (RFC 6793)."""

    def __init__(self, *, asn4: bool) -> None:
        self._negotiated = Negotiated({"capability": {"aigp": False}})
        self._negotiated.asn4 = asn4

    def decode(
        self, octets: bytes, lists: Mapping[int, bytes], unknown: tuple[tuple[int, int, bytes], ...]
    ) -> Attributes:
        """Attributes from octets that ``attributes`` has checked: known attributes only, each once, with right flags
        and lengths, without NEXT_HOP, MP_* and the ``LISTS``. AS4_PATH and AS4_AGGREGATOR are merged (RFC 6793 §4.2.3).
        ``ValueError`` for what ExaBGP finds wrong all the same (then treat as withdraw)."""
        code = Attribute.CODE
        try:
            found = ExaAttributes.unpack(octets, Direction.IN, self._negotiated)
        except Notify as error:
            raise ValueError(notify_text(error)) from error
        if code.INTERNAL_TREAT_AS_WITHDRAW in found:
            raise ValueError("malformed attributes")
        aggregator = found.get(code.AGGREGATOR, found.get(code.AS4_AGGREGATOR))
        med, local_pref = found.get(code.MED), found.get(code.LOCAL_PREF)
        originator, clusters = found.get(code.ORIGINATOR_ID), found.get(code.CLUSTER_LIST)
        # Beside an AGGREGATOR that is not AS_TRANS, both AS4 attributes are older than what they would stand for.
        outdated = _AS4_AGGREGATOR in lists and code.AGGREGATOR in found
        real = b"" if outdated else lists.get(_AS4_PATH, b"")
        communities = lists.get(_COMMUNITIES, b"")
        extended = lists.get(_EXTENDED_COMMUNITIES, b"")
        return Attributes(
            origin=Origin(found[code.ORIGIN].origin) if code.ORIGIN in found else Origin.INCOMPLETE,
            as_path=self._path(lists.get(_AS_PATH, b""), real),
            med=None if med is None else int(med.med),
            local_pref=None if local_pref is None else int(local_pref.localpref),
            atomic_aggregate=code.ATOMIC_AGGREGATE in found,
            aggregator=None
            if aggregator is None
            else (int(aggregator.asn), Address(bytes(aggregator.speaker.ton()))),
            communities=struct.unpack(f"!{len(communities) // 4}I", communities),
            extended_communities=tuple(extended[i : i + 8] for i in range(0, len(extended), 8)),
            large_communities=tuple(struct.iter_unpack("!III", lists.get(_LARGE_COMMUNITIES, b""))),
            originator_id=None if originator is None else Address(bytes(originator.ton())),
            cluster_list=()
            if clusters is None
            else tuple(Address(bytes(c.ton())) for c in clusters.clusters),
            unknown=unknown,
        )

    def _path(self, octets: bytes, real: bytes) -> AsPath:
        """AS_PATH, and AS4_PATH in its place as far as that goes (RFC 6793 §4.2.3)."""
        if self._negotiated.asn4:
            return AsPath(octets)
        path = _widened(octets)
        if not real:
            return path
        merged = AsPath.of(*(each for each in AsPath(real).segments() if each[0] <= SegmentType.AS_SEQUENCE))
        surplus = _length(path) - _length(merged)
        if surplus < 0:
            return path
        front: list[Segment] = []
        for kind, asns in path.segments():
            if kind == SegmentType.AS_SEQUENCE:
                asns = asns[:surplus]
            if surplus <= 0 and kind <= SegmentType.AS_SEQUENCE:
                break
            front.append((kind, asns))
            surplus -= _LENGTH_OF.get(kind, len(asns))
        for kind, asns in reversed(front):
            in_sequence = kind == SegmentType.AS_SEQUENCE
            merged = merged.prepended(*asns) if in_sequence else AsPath(AsPath.of((kind, asns)) + merged)
        return merged

    def encode(self, attributes: Attributes) -> list[tuple[int, bytes]]:
        """(code, whole attribute) in the order of the codes; AS_TRANS, AS4_PATH and AS4_AGGREGATOR where the session
        has two-octet AS numbers. NEXT_HOP and MP_* are the caller's."""
        found: list[tuple[int, Any]] = [(1, ExaOrigin(attributes.origin))]
        path = attributes.as_path
        if self._negotiated.asn4:
            found.append((_AS_PATH, GenericAttribute(_AS_PATH, Attribute.Flag.TRANSITIVE, path)))
        else:
            narrow, fits = _narrowed(path)
            found.append((_AS_PATH, GenericAttribute(_AS_PATH, Attribute.Flag.TRANSITIVE, narrow)))
            if not fits:
                outside = (each for each in path.segments() if each[0] <= SegmentType.AS_SEQUENCE)
                if real := AsPath.of(*outside):
                    found.append((_AS4_PATH, GenericAttribute(_AS4_PATH, _OPTIONAL_TRANSITIVE, real)))
        if attributes.med is not None:
            found.append((4, Med(attributes.med)))
        if attributes.local_pref is not None:
            found.append((5, LocalPreference(attributes.local_pref)))
        if attributes.atomic_aggregate:
            found.append((6, AtomicAggregate()))
        if attributes.aggregator is not None:
            asn, speaker = attributes.aggregator
            found.append((7, Aggregator(ASN(asn), IPv4(address_text(speaker)))))
        if attributes.originator_id is not None:
            found.append((9, OriginatorID(address_text(attributes.originator_id))))
        if attributes.cluster_list:
            clusters = [IPv4(address_text(cluster)) for cluster in attributes.cluster_list]
            found.append((10, ClusterList(clusters)))
        for code, value in (
            (_COMMUNITIES, struct.pack(f"!{len(attributes.communities)}I", *attributes.communities)),
            (_EXTENDED_COMMUNITIES, b"".join(attributes.extended_communities)),
            (_LARGE_COMMUNITIES, b"".join(struct.pack("!III", *c) for c in attributes.large_communities)),
        ):
            if value:
                found.append((code, GenericAttribute(code, _OPTIONAL_TRANSITIVE, value)))
        found += [(code, GenericAttribute(code, flag, value)) for flag, code, value in attributes.unknown]
        found.sort(key=lambda pair: pair[0])
        return [(code, bytes(attribute.pack(self._negotiated))) for code, attribute in found]


_LENGTH_OF = {SegmentType.AS_SET: 1, SegmentType.CONFED_SEQUENCE: 0, SegmentType.CONFED_SET: 0}
"""What a segment counts that is no sequence (RFC 4271 §9.1.2.2 a, RFC 5065 §5.3)."""


def _length(path: AsPath) -> int:
    return sum(_LENGTH_OF.get(SegmentType(kind), count) for kind, count, _ in path.heads())


def _widened(octets: bytes) -> AsPath:
    """AS_PATH with two-octet numbers, as one with four."""
    parts: list[bytes] = []
    position = 0
    while position < len(octets):
        count = octets[position + 1]
        asns = struct.unpack_from(f"!{count}H", octets, position + 2)
        parts.append(octets[position : position + 2] + struct.pack(f"!{count}I", *asns))
        position += 2 + 2 * count
    return AsPath(b"".join(parts))


def _narrowed(path: AsPath) -> tuple[bytes, bool]:
    """AS_PATH with two-octet numbers, AS_TRANS for what does not fit; whether all did."""
    parts: list[bytes] = []
    fits = True
    for kind, asns in path.segments():
        small = tuple(asn if asn < 1 << 16 else AS_TRANS for asn in asns)
        fits = fits and small == asns
        parts.append(struct.pack(f"!BB{len(small)}H", kind, len(small), *small))
    return b"".join(parts), fits
