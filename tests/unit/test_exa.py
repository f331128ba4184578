"""The ExaBGP adapter: OPEN, NOTIFICATION, ROUTE-REFRESH and attributes, there and back, and what it refuses."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bgpd.bgp.wire.exa.attributes import LISTS, Codec
from bgpd.bgp.wire.exa.messages import (
    Cease,
    Notification,
    ProtocolError,
    RefreshKind,
    decode_notification,
    decode_refresh,
    encode_notification,
    encode_refresh,
    hard_reset,
    shutdown,
)
from bgpd.bgp.wire.exa.open import (
    Capabilities,
    GracefulRestart,
    LongLived,
    OpenMessage,
    decode_open,
    encode_open,
)
from bgpd.model.prefix import Family, parse_address
from bgpd.model.route import AsPath, Attributes, Origin, SegmentType

BOTH = frozenset(Family)
FULL = OpenMessage(
    asn=4200000001,
    hold_time=90,
    router_id=parse_address("10.0.1.31"),
    capabilities=Capabilities(
        families=BOTH,
        asn4=4200000001,
        route_refresh=True,
        graceful_restart=GracefulRestart(
            True, 120, {Family.IPV4: True, Family.IPV6: False}, notification=True
        ),
        enhanced_refresh=True,
        long_lived={Family.IPV4: LongLived(True, 3600), Family.IPV6: LongLived(False, 0xFFFFFE)},
        add_path={Family.IPV4: 1, Family.IPV6: 3},
        extended_next_hop=frozenset({Family.IPV4}),
    ),
)
BARE = OpenMessage(65001, 0, parse_address("10.0.1.30"), Capabilities(multiprotocol=False))


@pytest.mark.parametrize("message", [FULL, BARE], ids=["full", "bare"])
def test_open_there_and_back(message: OpenMessage) -> None:
    assert decode_open(encode_open(message)[19:]) == message


def test_open_writes_as_trans_for_a_large_as() -> None:
    assert encode_open(FULL)[20:22] == (23456).to_bytes(2, "big")


def test_capabilities_in_words() -> None:
    assert FULL.capabilities.words() == (
        "multiprotocol ipv4",
        "multiprotocol ipv6",
        "4-octet AS 4200000001",
        "route refresh",
        "enhanced route refresh",
        "graceful restart 120 s ipv4,ipv6 (not kept), restarted, also after a NOTIFICATION",
        "long-lived graceful restart ipv4 3600 s, ipv6 16777214 s",
        "add-path receive ipv4",
        "add-path send and receive ipv6",
        "IPv6 next hops for ipv4",
    )


@pytest.mark.parametrize(
    ("value", "families"),
    [
        (b"", {}),
        (b"\0\1\1\x80\0\x0e\x10", {Family.IPV4: LongLived(True, 3600)}),
        (b"\0\x19\x41\x80\0\0\1" + b"\0\2\1\x7f\1\0\0", {Family.IPV6: LongLived(False, 65536)}),
        (b"\0\1\1\x80\0\x0e", {}),  # cut off: as if it named no family
    ],
)
def test_long_lived_graceful_restart_as_it_comes(value: bytes, families: dict[Family, LongLived]) -> None:
    """RFC 9494 §3.1."""
    capabilities = decode_open(_open_with(bytes((71, len(value))) + value)).capabilities
    assert capabilities.long_lived == families
    assert capabilities.others == ()


def test_a_hard_reset_says_what_it_is_for() -> None:
    """RFC 8538 §3.1."""
    sent = hard_reset(shutdown(Cease.SHUTDOWN, "night"))
    assert (sent.code, sent.subcode, sent.data) == (6, 9, b"\x06\x02\x05night")
    assert str(sent) == "6/9 Hard Reset: 6/2 Administrative Shutdown: night"
    heard = decode_notification(encode_notification(sent)[19:])
    assert heard.is_hard_reset and heard.meant == shutdown(Cease.SHUTDOWN, "night")
    for bare in (Notification(6, 9), Notification(6, 9, b"\x06"), Notification(4, 0)):
        assert bare.meant is bare
    assert str(Notification(6, 9)) == "6/9 Hard Reset"
    assert "6/9 Hard Reset" in str(hard_reset(hard_reset(Notification(6, 3))))


def _open_with(*capabilities: bytes) -> bytes:
    value = b"".join(bytes((2, len(c))) + c for c in capabilities)
    return b"\x04" + (65001).to_bytes(2, "big") + b"\0\x5a" + b"\x0a\0\0\1" + bytes((len(value),)) + value


def test_families_and_capabilities_of_others_are_words() -> None:
    body = _open_with(b"\x01\x04\0\1\0\x80", b"\x49\x04\x02h1\x00", b"\xc8\x00")
    capabilities = decode_open(body).capabilities
    assert capabilities.families == frozenset() and capabilities.multiprotocol
    assert capabilities.others[0] == "ipv4 mpls-vpn"
    assert len(capabilities.others) == 3


@pytest.mark.parametrize(
    ("body", "code", "data"),
    [
        (b"\x03" + _open_with()[1:], (2, 1), b"\x00\x04"),
        (_open_with()[:-1] + b"\x02\x01\x00", (2, 4), None),  # authentication, deprecated
        (_open_with()[:-1] + b"\x04\xff\x00\x00\x00", (2, 0), None),  # extended, and longer than it says
        (_open_with()[:-1] + b"\xff\xff\x00\x04\x02\x00\x02\x41", (2, 0), None),  # extended, and cut off
        (_open_with()[:-1] + b"\xff\xff\x00\x03\x01\x00\x00", (2, 4), None),  # extended, authentication
        (_open_with() + b"\x02\x00", (2, 0), None),  # more than the length says
        (_open_with(b"\x01\x03\0\1\0"), (2, 0), None),  # a family of three octets
        (_open_with(b"\x02\x01\0"), (2, 0), None),  # route refresh with a value
        (_open_with(b"\x45\x03\0\1\1"), (2, 0), None),  # ADD-PATH cut off
        (_open_with(b"\x05\x05\0\1\0\1\0"), (2, 0), None),  # IPv6 next hops cut off
        (_open_with(b"\x41\x04\0"), (2, 0), None),  # a capability we use, longer than its parameter
        (_open_with()[:-1] + b"\x02\x09\x00", (2, 4), None),  # unknown parameter
        (_open_with()[:-1] + b"\x04\x02\x09", (2, 0), None),  # cut off
        (_open_with(b"\x41\x02\x00\x01"), (2, 0), None),  # four-octet AS of two octets
        (_open_with(b"\x40\x03\x00\x78\x00"), (2, 0), None),  # graceful restart cut off
    ],
)
def test_bad_open(body: bytes, code: tuple[int, int], data: bytes | None) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode_open(body)
    notification = caught.value.notification
    assert (notification.code, notification.subcode) == code
    if data is not None:
        assert notification.data == data


@pytest.mark.parametrize(
    "capability",
    [
        b"\x49\x06\x02\xff\xfe\x02\xc3\x28",  # host name, not UTF-8
        b"\x49\x02\x20h",  # host name, cut short inside
        b"\x49\x20\x02h1",  # host name, longer than its parameter
        b"\x49\x00",
        b"\x49",  # its length is missing
        b"\x4b\x03\xff\xff\xff",  # software version
        b"\x4b\x02\x7fx",
        b"\x06\x01\x00",  # extended messages, with a value
        b"\x09\x02\xff\xff",  # role
        b"\x40" + b"\x02\x00\x78" + b"\x47\x03\0\1\1",  # long-lived graceful restart, cut off
        b"\xff\x05\xde\xad\xbe\xef\x00",
        *(
            bytes((code, 1, 0xFF))
            for code in (0, 3, 4, 7, 8, 66, 67, 68, 72, 74, 76, 77, 128, 129, 130, 131, 185, 254)
        ),
    ],
    ids=lambda octets: octets.hex(),
)
def test_a_capability_that_we_do_not_use_refuses_no_session(capability: bytes) -> None:
    """RFC 5492 §3; what comes after it in the same OPEN counts."""
    for body in (
        _open_with(b"\x01\x04\0\1\0\1", capability, b"\x41\x04\0\0\xfd\xe9"),
        _open_with(b"\x01\x04\0\1\0\1\x41\x04\0\0\xfd\xe9" + capability),
    ):
        capabilities = decode_open(body).capabilities
        assert (capabilities.families, capabilities.asn4) == (frozenset({Family.IPV4}), 65001)


def test_optional_parameters_of_rfc_9072() -> None:
    """Lengths of two octets, from more than 255 octets of parameters on and before."""
    value = b"\x01\x04\0\1\0\1"
    for more in (b"", b"\xc9\xf0" + bytes(240) + b"\xca\xf0" + bytes(240)):
        parameter = b"\x02" + (len(value) + len(more)).to_bytes(2, "big") + value + more
        for stated in (b"\xff", b"\x07"):  # what stands there is not looked at
            body = _open_with()[:-1] + stated + b"\xff" + len(parameter).to_bytes(2, "big") + parameter
            capabilities = decode_open(body).capabilities
            assert capabilities.families == frozenset({Family.IPV4})
            assert len(capabilities.others) == (2 if more else 0)


def test_add_path_in_an_unknown_direction_is_passed_over() -> None:
    assert decode_open(_open_with(b"\x45\x08\0\1\1\x07\0\2\1\3")).capabilities.add_path == {Family.IPV6: 3}


def test_notification_there_and_back() -> None:
    notification = Notification(2, 2, b"\x01\x02")
    assert decode_notification(encode_notification(notification)[19:]) == notification
    assert str(notification) == "2/2 Bad Peer AS"
    assert str(Notification(4, 0)) == "4/0 Hold timer expired"
    assert str(Notification(9, 9)) == "9/9 unknown error"


@pytest.mark.parametrize(
    "text", ["", "maintenance until 10:00", "Wartung bis zehn – überall", "x" * 200, "ä" * 200]
)
def test_shutdown_text(text: str) -> None:
    read = decode_notification(encode_notification(shutdown(2, text))[19:])
    octets = text.encode()
    assert len(read.data) <= 256
    assert read.shutdown_text == octets[:255].decode(errors="ignore")


def test_shutdown_text_cannot_forge_a_log_line() -> None:
    assert Notification(6, 2, b"\x05a\nb\x1bc").shutdown_text == "a b c"
    assert Notification(6, 2, b"\x02\xff\xff").shutdown_text == ""
    assert Notification(6, 2, b"\x09abc").shutdown_text == "abc"


def test_capabilities_as_octets() -> None:
    """RFC 7313 §3.1, RFC 9494 §3.1, RFC 8950 §4 (AFI 1, SAFI 1 in two octets, next hop AFI 2)."""
    octets = encode_open(FULL)
    for capability in (
        b"\x46\0",
        b"\x47\x0e\0\1\1\x80\0\x0e\x10\0\2\1\0\xff\xff\xfe",
        b"\x05\x06\0\1\0\1\0\2",
    ):
        assert bytes((2, len(capability))) + capability in octets


@pytest.mark.parametrize("family", list(Family))
@pytest.mark.parametrize("kind", list(RefreshKind))
def test_refresh(family: Family, kind: RefreshKind) -> None:
    octets = encode_refresh(family, kind)
    assert octets[19:] == bytes((0, family, kind, 1))
    assert decode_refresh(octets[19:]) == (family, kind)


@pytest.mark.parametrize("body", [b"\0\1\7\1", b"\0\1\0\2", b"\0\x19\0\x46"])
def test_refresh_without_an_answer(body: bytes) -> None:
    assert decode_refresh(body) is None


@pytest.mark.parametrize(
    ("body", "code", "data"),
    [
        (b"\0\1\0\1\0", (1, 2), b"\0\x18"),
        (b"\0\1\1\1\0", (7, 1), b"\xff" * 16 + b"\0\x18\5\0\1\1\1\0"),
        (b"\0\1\2\1\0\0", (7, 1), b"\xff" * 16 + b"\0\x19\5\0\1\2\1\0\0"),
    ],
)
def test_refresh_of_a_wrong_length(body: bytes, code: tuple[int, int], data: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode_refresh(body)
    assert caught.value.notification == Notification(*code, data)


EVERYTHING = Attributes(
    origin=Origin.EGP,
    as_path=AsPath.of((SegmentType.AS_SEQUENCE, (65001, 4200000001, 3)), (SegmentType.AS_SET, (7, 8))),
    med=0,
    local_pref=4294967295,
    atomic_aggregate=True,
    aggregator=(4200000001, parse_address("10.0.0.9")),
    communities=(0xFFFFFF01, 65001 << 16 | 1),
    extended_communities=(b"\x00\x02\xfd\xe8\x00\x00\x00\x64",),
    large_communities=((4200000001, 2, 3), (1, 2, 3)),
    originator_id=parse_address("10.0.0.8"),
    cluster_list=(parse_address("1.1.1.1"), parse_address("2.2.2.2")),
    unknown=((0xE0, 99, b"abc"),),
)


def _decode(codec: Codec, encoded: list[tuple[int, bytes]]) -> Attributes:
    lists = {code: octets[4 if octets[0] & 0x10 else 3 :] for code, octets in encoded if code in LISTS}
    unknown = tuple((octets[0], code, octets[3:]) for code, octets in encoded if code == 99)
    known = b"".join(octets for code, octets in encoded if code not in LISTS and code != 99)
    return codec.decode(known, lists, unknown)


@pytest.mark.parametrize("asn4", [True, False])
@pytest.mark.parametrize("attributes", [EVERYTHING, Attributes()], ids=["everything", "nothing"])
def test_attributes_there_and_back(attributes: Attributes, asn4: bool) -> None:
    codec = Codec(asn4=asn4)
    encoded = codec.encode(attributes)
    assert [code for code, _ in encoded] == sorted(code for code, _ in encoded)
    assert _decode(codec, encoded) == attributes


def test_two_octet_session_writes_as_trans_and_as4() -> None:
    octets = dict(Codec(asn4=False).encode(EVERYTHING))
    assert octets[2].startswith(b"\x40\x02\x0e\x02\x03" + b"\xfd\xe9\x5b\xa0\x00\x03")
    assert octets[17].startswith(b"\xc0\x11")
    assert b"\xc0\x12" in octets[7]


def test_a_long_path_is_split_into_segments() -> None:
    path = AsPath.of((SegmentType.AS_SEQUENCE, range(1, 301)))
    codec = Codec(asn4=True)
    decoded = _decode(codec, codec.encode(Attributes(as_path=path)))
    assert [len(asns) for _, asns in decoded.as_path.segments()] == [255, 45]
    assert decoded.as_path_length == 300


def test_nothing_of_exabgp_but_its_codecs_is_imported() -> None:
    code = (
        "import sys, bgpd.bgp.wire.exa.open;"
        " print([m for m in sys.modules if m.startswith(('exabgp.rea', 'exabgp.conf'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
