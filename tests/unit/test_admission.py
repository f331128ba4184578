"""Whose connection it is that comes in, and which TCP MD5 keys that needs: the tables, without sockets."""

from __future__ import annotations

import errno
import struct
from dataclasses import replace

import pytest

from bgpd.bgp.admission import Admission
from bgpd.bgp.protection import Keyring, Net, admit
from bgpd.model.peer import DynamicRange, PeerConfig, PeerId, PeerKind
from bgpd.model.prefix import Family, parse_address, parse_prefix
from tests.unit.test_session import CONFIG

V4, V6 = Family.IPV4, Family.IPV6


def named(name: str, address: str, password: str | None = None, **changes: object) -> PeerConfig:
    base = replace(CONFIG, id=PeerId(name), address=parse_address(address), password=password)
    return replace(base, **changes)  # type: ignore[arg-type]


def listen(
    prefix: str, password: str | None = None, interface: str | None = None, refused: tuple[str, ...] = ()
) -> DynamicRange:
    family, octets = parse_prefix(prefix)
    template = named("template", "0.0.0.0", password, interface=interface, asns=frozenset({65000}))
    return DynamicRange(family, octets, template, 10, refused=frozenset(map(parse_address, refused)))


def admission(*wanted: PeerConfig | DynamicRange) -> Admission:
    made = Admission()
    made.want_peers(
        [each for each in wanted if isinstance(each, PeerConfig)],
        [each for each in wanted if isinstance(each, DynamicRange)],
    )
    return made


def net(text: str) -> Net:
    return parse_prefix(text)


def whose(made: Admission, address: str, zone: str | None = None) -> list[str]:
    return list(made.whose(parse_address(address), zone))


def neighbour(made: Admission, address: str, zone: str | None = None) -> PeerConfig | None:
    found = made.neighbour(parse_address(address), zone)
    return None if found is None else found.config


def test_a_peer_is_known_by_its_address() -> None:
    made = admission(named("a", "10.0.0.2"), named("b", "10.0.0.2", port=1179), named("c", "10.0.0.3"))
    assert whose(made, "10.0.0.2") == ["a", "b"]
    assert whose(made, "10.0.0.3") == ["c"]
    assert whose(made, "10.0.0.4") == [] and made.keys == {} and neighbour(made, "10.0.0.4") is None


def test_one_key_an_address() -> None:
    """The first peer by name that has a password has it; another can be dialled only, and why is reported."""
    a, b, c = (named("a", "10.0.0.2"), named("b", "10.0.0.2", "one"), named("c", "10.0.0.2", "two"))
    made = admission(c, b, a, named("d", "fd00::2", "six"))
    assert made.keys == {net("10.0.0.2/32"): "one", net("fd00::2/128"): "six"}
    assert whose(made, "10.0.0.2") == ["b"]
    assert made.hindrance(b) == ""
    words = "connections from it are not taken: another peer of this address has another TCP MD5 password"
    assert made.hindrance(a) == made.hindrance(c) == words


def test_the_key_of_a_range_is_asked_of_all_inside() -> None:
    inside = named("a", "10.0.0.2")
    made = admission(inside, named("b", "10.0.0.3", "own"), listen("10.0.0.0/24", "range"))
    assert whose(made, "10.0.0.2") == [] and neighbour(made, "10.0.0.2") is None
    assert made.hindrance(inside).endswith("a listen range has another TCP MD5 password")
    assert whose(made, "10.0.0.3") == ["b"] and made.net(parse_address("10.0.0.3")) == net("10.0.0.3/32")
    assert made.net(parse_address("10.0.0.4")) == net("10.0.0.0/24")
    assert made.net(parse_address("10.0.1.4")) is None


def test_a_neighbour_is_made_of_the_longest_range() -> None:
    made = admission(
        listen("10.0.0.0/8", "wide"),
        listen("10.1.0.0/16", "narrow", refused=("10.1.0.9",)),
        listen("fd00::/64"),
    )
    found = neighbour(made, "10.1.2.3")
    assert found is not None
    assert (found.id, found.kind, found.password) == ("Dynamic_10_1_2_3", PeerKind.DYNAMIC, "narrow")
    assert found.passive and found.address == parse_address("10.1.2.3")
    assert (neighbour(made, "10.2.0.1") or found).password == "wide"
    assert (neighbour(made, "fd00::7") or found).id == "Dynamic_fd00__7"
    assert neighbour(made, "10.1.0.9") is None and neighbour(made, "11.0.0.1") is None


def test_link_local_addresses_mean_something_with_their_zone() -> None:
    made = admission(
        named("one", "fe80::1", interface="eth1"),
        named("two", "fe80::1", interface="eth2"),
        listen("fe80::/10", interface="eth3"),
        listen("fe80::/64"),
    )
    assert whose(made, "fe80::1", "eth1") == ["one"] and whose(made, "fe80::1", "eth2") == ["two"]
    assert whose(made, "fe80::1", "eth3") == []
    for zone in ("eth3", "eth4"):
        found = neighbour(made, "fe80::1", zone)
        assert found is not None and (found.id, found.interface) == (f"Dynamic_fe80__1_{zone}", zone)
    assert neighbour(made, "fe80::1", "eth1") is None
    assert neighbour(admission(listen("fe80::/10", interface="eth3")), "fe80::1", "eth4") is None


class FakeSocket:
    """Keys as the kernel keeps them; ``room`` is how many it takes."""

    def __init__(self, room: int = 1000, first: bytes = b"") -> None:
        self.keys: dict[tuple[bytes, int], bytes] = {}
        self.room, self.first = room, first
        self.calls = 0

    def setsockopt(self, level: int, optname: int, value: int | bytes, /) -> None:
        if not isinstance(value, bytes):
            return
        self.calls += 1
        assert len(value) == 216
        af, rest, flags, bits, length, _, key = struct.unpack("=H126sBBHi80s", value)
        assert (optname, flags) in ((14, 0), (32, 1))
        place = rest[2:6] if af == 2 else rest[6:22]
        if not length:
            del self.keys[place, bits]
        elif (place, bits) not in self.keys and len(self.keys) >= self.room:
            raise OSError(errno.ENOMEM, "no")
        else:
            self.keys[place, bits] = key[:length]

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes:
        return self.first


def test_a_keyring_follows() -> None:
    sock = FakeSocket()
    ring = Keyring(sock, V4)
    ring.follow({net("10.0.0.2/32"): "a", net("10.1.0.0/16"): "b", net("fd00::2/128"): "six"})
    assert sock.keys == {(b"\x0a\0\0\2", 32): b"a", (b"\x0a\1\0\0", 16): b"b"}
    ring.follow({net("10.0.0.2/32"): "a", net("10.1.0.0/16"): "c", net("10.0.0.3/32"): "d"})
    assert sock.calls == 4, "what is equal is left alone"
    ring.follow({net("10.0.0.3/32"): "d"})
    assert sock.keys == {(b"\x0a\0\0\3", 32): b"d"} and not ring.errors
    six = FakeSocket()
    Keyring(six, V6).follow({net("fd00::2/128"): "six", net("10.0.0.2/32"): "a"})
    assert six.keys == {(parse_address("fd00::2"), 128): b"six"}


def test_a_full_keyring(caplog: pytest.LogCaptureFixture) -> None:
    """What the kernel has no room for is named, once, and tried again at the next change."""
    sock = FakeSocket(room=1)
    ring = Keyring(sock, V4)
    keys = {net("10.0.0.2/32"): "secret", net("10.0.0.3/32"): "secret"}
    for _ in range(2):
        ring.follow(keys)
        assert list(ring.errors) == [net("10.0.0.3/32")]
        assert "net.core.optmem_max" in ring.errors[net("10.0.0.3/32")]
    assert caplog.text.count("key_not_set") == 1 and "secret" not in caplog.text
    sock.room = 2
    ring.follow(keys)
    assert not ring.errors
    ring.follow({net("10.0.0.2/32"): "x" * 81})
    assert "1 to 80 octets" in ring.errors[net("10.0.0.2/32")]


@pytest.mark.parametrize(
    ("address", "hops", "first", "refused"),
    [
        ("10.0.0.2", None, b"", ""),
        ("10.0.0.2", 1, bytes(8) + b"\xff" + bytes(50), ""),
        ("10.0.0.2", 1, bytes(8) + b"\xfe" + bytes(50), "TTL 254"),
        ("10.0.0.2", 2, bytes(8) + b"\xfe" + bytes(50), ""),
        ("10.0.0.2", 255, bytes(8) + b"\x01" + bytes(50), ""),
        ("fd00::2", 1, bytes(7) + b"\xff" + bytes(60), ""),
        ("fd00::2", 1, bytes(7) + b"\xfe\xff" + bytes(60), "TTL 254"),
        ("10.0.0.2", 1, b"", "not known"),
        ("10.0.0.2", 0, b"", "cannot be protected"),
        ("10.0.0.2", 256, b"", "cannot be protected"),
    ],
)
def test_the_ttl_of_a_connection(address: str, hops: int | None, first: bytes, refused: str) -> None:
    why = admit(FakeSocket(first=first), named("a", address, ttl_security=hops))
    assert refused in why and bool(why) == bool(refused)
