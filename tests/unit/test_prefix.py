"""Prefixes and addresses: text at the edges, octets inside."""

import ipaddress

import pytest

from bgpd.model.prefix import (
    Address,
    Family,
    Prefix,
    address_text,
    covers,
    family_of,
    host_prefix,
    is_host,
    make_prefix,
    network_address,
    parse_address,
    parse_prefix,
    prefix_text,
)
from bgpd.rib.tables import longest_match

V4, V6 = Family.IPV4, Family.IPV6


@pytest.mark.parametrize(
    ("text", "octets", "canonical"),
    [
        ("10.48.0.128/26", b"\x1a\x0a\x30\x00\x80", "10.48.0.128/26"),
        ("10.48.0.191/26", b"\x1a\x0a\x30\x00\x80", "10.48.0.128/26"),
        ("0.0.0.0/0", b"\x00", "0.0.0.0/0"),
        ("255.255.255.255/0", b"\x00", "0.0.0.0/0"),
        ("10.0.0.0/8", b"\x08\x0a", "10.0.0.0/8"),
        ("10.255.0.0/9", b"\x09\x0a\x80", "10.128.0.0/9"),
        ("10.48.0.40", b"\x20\x0a\x30\x00\x28", "10.48.0.40/32"),
        ("fd00:48::40/122", b"\x7a\xfd\x00\x00\x48" + bytes(11) + b"\x40", "fd00:48::40/122"),
        ("fd00:48::1", b"\x80\xfd\x00\x00\x48" + bytes(11) + b"\x01", "fd00:48::1/128"),
        ("::/0", b"\x00", "::/0"),
        ("FD00::/8", b"\x08\xfd", "fd00::/8"),
    ],
)
def test_text_to_octets_and_back(text: str, octets: bytes, canonical: str) -> None:
    family, prefix = parse_prefix(text)
    assert family is (V6 if ":" in text else V4)
    assert prefix == octets
    assert prefix_text(family, prefix) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "10.0.0.0/33",
        "10.0.0/8",
        "10.0.0.0/",
        "10.0.0.0/-1",
        "10.0.0.0/+8",
        "10.0.0.0/8/8",
        "::/129",
        "x/8",
    ],
)
def test_what_is_no_prefix_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="is not a prefix"):
        parse_prefix(text)


def test_addresses() -> None:
    assert address_text(parse_address("FD00:0::1")) == "fd00::1"
    assert parse_address("10.0.1.20") == bytes((10, 0, 1, 20))
    assert family_of(parse_address("::1")) is V6
    with pytest.raises(ValueError, match="is not an IPv4 or IPv6 address"):
        parse_address("10.0.0.256")


def test_hosts() -> None:
    host = host_prefix(parse_address("10.48.0.40"))
    assert prefix_text(V4, host) == "10.48.0.40/32"
    assert is_host(V4, host)
    assert not is_host(V6, host)
    assert network_address(V4, Prefix(b"\x09\x0a\x80")) == parse_address("10.128.0.0")


@pytest.mark.parametrize("family", Family)
def test_masking_and_covering_agree_with_the_standard_library(family: Family) -> None:
    number = 0x0A30_C5A7 if family is V4 else 0xFD00_0048_1234_5678_9ABC_DEF0_0F1E_2D3C
    octets = number.to_bytes(family.octets, "big")
    networks = {}
    for length in range(family.bits + 1):
        prefix = make_prefix(octets, length)
        network = ipaddress.ip_network((octets, length), strict=False)
        assert prefix_text(family, prefix) == str(network)
        assert len(prefix) == 1 + (length + 7) // 8
        networks[prefix] = network
    flipped = make_prefix(bytes((octets[0], octets[1] ^ 1, *octets[2:])), family.bits)
    networks[flipped] = ipaddress.ip_network((network_address(family, flipped), family.bits))
    for outer, outer_network in networks.items():
        for inner, inner_network in networks.items():
            expected = inner_network.subnet_of(outer_network)  # type: ignore[arg-type]
            assert covers(outer, inner) is expected, (outer_network, inner_network)


def test_longest_match_gives_all_that_cover_the_longest_first() -> None:
    texts = ["0.0.0.0/0", "10.0.0.0/8", "10.48.0.0/26", "10.48.0.64/26", "10.48.0.40/32", "10.48.0.41/32"]
    table = dict.fromkeys(parse_prefix(text)[1] for text in texts)
    found = longest_match(table, host_prefix(parse_address("10.48.0.40")))
    assert [prefix_text(V4, prefix) for prefix in found] == [
        "10.48.0.40/32",
        "10.48.0.0/26",
        "10.0.0.0/8",
        "0.0.0.0/0",
    ]
    assert longest_match({}, host_prefix(Address(bytes(4)))) == []
