"""A session as it is carried to the next process: its values, and their JSON (docs/restart.md, "Upgrade").

``Connection`` and ``Session`` freeze to these and thaw from them, ``handover`` collects them with the sockets. What is
read here was written by another process, perhaps of another version: every value is checked, and whatever is not as it
should be is ``Unfit``, in words that name the key. No password is in it: of a TCP MD5 password there is a check of four
octets, keyed with a salt of its own. It distinguishes another password from the same one and helps nobody to guess it.

What was negotiated is not here: it follows from the two OPENs, and is worked out from them again.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, NamedTuple

from bgpd.bgp.protection import Socket
from bgpd.bgp.wire.update import parse_nlri, parse_nlri_with_ids
from bgpd.model.peer import PeerConfig, PeerId, PeerKind
from bgpd.model.prefix import Family, Prefix, address_text, with_path_id

MOST_OCTETS = 4 << 20
"""Octets that were read and not decoded, or not yet sent, at most: more is no session of ours."""
SOFT = ("kind", "source", "node", "passive", "port", "max_prefixes", "reachable_by", "bfd")
"""What a configuration may change without a new session."""


class Unfit(Exception):
    """Why something cannot be taken over; the message names it."""


class Ends(NamedTuple):
    """The two ends of a TCP connection, by which its socket is found again: address, port and zone."""

    local: tuple[str, int, int]
    remote: tuple[str, int, int]


def end_of(name: tuple[Any, ...]) -> tuple[str, int, int]:
    """Address, port and zone in what the kernel calls the end of a connection."""
    return str(name[0]).partition("%")[0], int(name[1]), int(name[3]) if len(name) > 3 else 0


def ends_of(sock: Socket) -> Ends:
    """The two ends of a connected socket; ``OSError`` where it is connected no longer."""
    return Ends(end_of(sock.getsockname()), end_of(sock.getpeername()))


@dataclass(frozen=True, slots=True)
class FrozenConnection:
    """An established connection."""

    outgoing: bool
    sent_open: bytes
    """The body of our OPEN message."""
    received_open: bytes
    """The body of the peer's OPEN message."""
    unread: bytes = b""
    """What was read and not decoded; it may end inside a message."""
    unsent: bytes = b""
    """What TCP has not taken yet; it may begin inside a message."""
    ended: frozenset[Family] = frozenset()
    """Families whose End-of-RIB has come."""
    up_seconds: float = 0.0
    silent_seconds: float = 0.0
    """Seconds since the last message of the peer."""


@dataclass(frozen=True, slots=True)
class FrozenRib:
    """One family of a session, both ways."""

    group: int | None = None
    """Index of the update group in the document; ``None`` where nothing is advertised in this family."""
    unsure: frozenset[Prefix] = frozenset()
    """NLRI of which it was not sent the state that the group's table had."""
    never: frozenset[Prefix] = frozenset()
    """NLRI of the group's table that it was not sent: its own."""
    other: Mapping[Prefix, bytes] = field(default_factory=dict)
    """NLRI -> digest of what it was sent, where that is not the state of the group's table."""
    end_of_rib_due: bool = False
    refresh_due: bool = False
    """It waits for the rest of an answer to its ROUTE-REFRESH."""
    received: bytes = b""
    """Its Adj-RIB-In as UPDATEs, where it cannot be asked to send all again with a begin and an end (RFC 7313)."""


@dataclass(frozen=True, slots=True)
class FrozenSession:
    """One session."""

    peer: PeerId
    config: Mapping[str, object]
    """The configuration as ``config_words`` has it."""
    ends: Ends
    connection: FrozenConnection
    hold_seconds: float
    keepalive_seconds: float
    since: float = 0.0
    """Unix time at which it came up."""
    last_down: str = ""
    last_down_seconds: float = 0.0
    """Seconds since then."""
    flaps: Mapping[str, int] = field(default_factory=dict)
    received: Mapping[str, int] = field(default_factory=dict)
    """Messages by type, over all connections of the peer; so is what follows."""
    sent: Mapping[str, int] = field(default_factory=dict)
    notifications: Mapping[tuple[str, int, int], int] = field(default_factory=dict)
    update_errors: int = 0
    elsewhere: int = 0
    ribs: Mapping[Family, FrozenRib] = field(default_factory=dict)

    @property
    def dynamic(self) -> bool:
        """Whether it is of a neighbour inside a listen range."""
        return self.config.get("kind") == PeerKind.DYNAMIC.value


# What a session was configured with, in words that two processes can compare.


def config_words(config: PeerConfig, salt: bytes) -> dict[str, object]:
    """A peer's configuration as JSON has it, the password as a check."""
    words = {
        each.name: _word(getattr(config, each.name)) for each in fields(PeerConfig) if each.name != "bfd"
    }
    password = config.password
    words["password"] = (
        None if password is None else hashlib.blake2b(password.encode(), key=salt, digest_size=4).hexdigest()
    )
    return words


def differences(before: Mapping[str, object], config: PeerConfig, salt: bytes) -> tuple[str, ...]:
    """What differs between the configuration of a frozen session and the present one and needs a new session; as
    ``endings.reset_by``, for an established session."""
    now = config_words(config, salt)
    soft = (*SOFT, "asns")
    return tuple(name for name in now if name not in soft and now[name] != before.get(name))


def _word(value: object) -> object:
    if isinstance(value, Family):
        return value.label
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bytes):
        return address_text(value)  # type: ignore[arg-type]  # the octets of a configuration are addresses
    if isinstance(value, Mapping):
        return {str(_word(key)): _word(each) for key, each in sorted(value.items())}
    if isinstance(value, frozenset):
        return [_word(each) for each in sorted(value)]
    return value


# JSON, out and in.


def encode_session(session: FrozenSession) -> dict[str, object]:
    """JSON of a session; octets are in base64."""
    connection = session.connection
    return {
        "peer": session.peer,
        "config": dict(session.config),
        "local": list(session.ends.local),
        "remote": list(session.ends.remote),
        "outgoing": connection.outgoing,
        "sent_open": pack(connection.sent_open),
        "received_open": pack(connection.received_open),
        "unread": pack(connection.unread),
        "unsent": pack(connection.unsent),
        "ended": [family.label for family in sorted(connection.ended)],
        "up_seconds": connection.up_seconds,
        "silent_seconds": connection.silent_seconds,
        "hold_seconds": session.hold_seconds,
        "keepalive_seconds": session.keepalive_seconds,
        "since": session.since,
        "last_down": session.last_down,
        "last_down_seconds": session.last_down_seconds,
        "flaps": dict(session.flaps),
        "messages_received": dict(session.received),
        "messages_sent": dict(session.sent),
        "notifications": [[*key, count] for key, count in sorted(session.notifications.items())],
        "update_errors": session.update_errors,
        "elsewhere": session.elsewhere,
        "families": {
            family.label: {
                "group": rib.group,
                "unsure": pack(b"".join(sorted(rib.unsure))),
                "never": pack(b"".join(sorted(rib.never))),
                "other": encode_digests(rib.other),
                "end_of_rib_due": rib.end_of_rib_due,
                "refresh_due": rib.refresh_due,
                "received": pack(rib.received),
            }
            for family, rib in sorted(session.ribs.items())
        },
    }


def decode_session(given: object, several: Callable[[int], bool]) -> FrozenSession:
    """A session from its JSON; ``Unfit`` says which key is wrong. ``several``: whether the NLRI of an update group
    have path identifiers; ``IndexError`` where there is no such group."""
    has = Reader(given, "session")
    ribs: dict[Family, FrozenRib] = {}
    for label, each in has.mapping("families").items():
        family, of = family_labelled(label), Reader(each, f"families.{label}")
        group = of.optional_integer("group")
        try:
            with_ids = group is not None and several(group)
        except IndexError:
            raise Unfit(f"families.{label}.group: there is no group {group}") from None
        ribs[family] = FrozenRib(
            group=group,
            unsure=frozenset(of.nlri("unsure", family, with_ids)),
            never=frozenset(of.nlri("never", family, with_ids)),
            other=decode_digests(of.mapping("other"), family, with_ids),
            end_of_rib_due=of.boolean("end_of_rib_due"),
            refresh_due=of.boolean("refresh_due"),
            received=of.octets("received", None),
        )
    notifications: dict[tuple[str, int, int], int] = {}
    for entry in has.entries("notifications"):
        match entry:
            case [("sent" | "received") as way, int(code), int(subcode), int(count)]:
                notifications[way, code, subcode] = count
            case _:
                raise Unfit("notifications: expected lists of a direction, a code, a subcode and a count")
    return FrozenSession(
        peer=PeerId(has.text("peer")),
        config=has.mapping("config"),
        ends=Ends(_end(has.entries("local"), "local"), _end(has.entries("remote"), "remote")),
        connection=FrozenConnection(
            outgoing=has.boolean("outgoing"),
            sent_open=has.octets("sent_open"),
            received_open=has.octets("received_open"),
            unread=has.octets("unread"),
            unsent=has.octets("unsent"),
            ended=frozenset(family_labelled(label) for label in has.entries("ended")),
            up_seconds=has.seconds("up_seconds"),
            silent_seconds=has.seconds("silent_seconds"),
        ),
        hold_seconds=has.seconds("hold_seconds"),
        keepalive_seconds=has.seconds("keepalive_seconds"),
        since=has.seconds("since"),
        last_down=has.text("last_down"),
        last_down_seconds=has.seconds("last_down_seconds"),
        flaps=has.counts("flaps"),
        received=has.counts("messages_received"),
        sent=has.counts("messages_sent"),
        notifications=notifications,
        update_errors=has.integer("update_errors"),
        elsewhere=has.integer("elsewhere"),
        ribs=ribs,
    )


def _end(given: list[Any], key: str) -> tuple[str, int, int]:
    match given:
        case [str(address), int(port), int(zone)]:
            return address, port, zone
    raise Unfit(f"{key}: expected an address, a port and a zone")


def family_labelled(label: object) -> Family:
    """``Unfit`` for anything but the word for a family."""
    for family in Family:
        if family.label == label:
            return family
    raise Unfit(f"{label!r} is no family")


def pack(octets: bytes) -> str:
    """Octets as JSON has them."""
    return base64.b64encode(octets).decode()


def unpack(text: object, key: str) -> bytes:
    """The octets again; ``Unfit``."""
    try:
        return base64.b64decode(text, validate=True)  # type: ignore[arg-type]
    except (TypeError, ValueError, binascii.Error):
        raise Unfit(f"{key}: expected octets in base64") from None


def split_nlri(family: Family, octets: bytes, with_ids: bool, key: str) -> list[Prefix]:
    """NLRI one by one, path identifiers in front where they have some; ``Unfit``."""
    try:
        if not with_ids:
            return parse_nlri(family, octets)
        return [
            with_path_id(path_id, prefix)
            for path_id, prefixes in parse_nlri_with_ids(family, octets).items()
            for prefix in prefixes
        ]
    except IndexError:
        raise Unfit(f"{key}: malformed NLRI of {family.label}") from None


def encode_digests(digests: Mapping[Prefix, bytes]) -> dict[str, str]:
    """NLRI -> digest, as JSON has it: digest in hexadecimal -> NLRI, one after the other."""
    found: dict[bytes, list[Prefix]] = {}
    for nlri, digest in digests.items():
        found.setdefault(digest, []).append(nlri)
    return {digest.hex(): pack(b"".join(each)) for digest, each in found.items()}


def decode_digests(given: Mapping[str, Any], family: Family, with_ids: bool) -> dict[Prefix, bytes]:
    """The same, again; ``Unfit``."""
    found: dict[Prefix, bytes] = {}
    for digest, text in given.items():
        try:
            octets = bytes.fromhex(digest)
        except ValueError:
            raise Unfit(f"{digest!r} is no digest") from None
        found.update(dict.fromkeys(split_nlri(family, unpack(text, digest), with_ids, digest), octets))
    return found


class Reader:
    """Values of a JSON object by key; ``Unfit`` where one is missing or of another kind."""

    def __init__(self, given: object, what: str) -> None:
        if not isinstance(given, dict):
            raise Unfit(f"{what}: expected an object")
        self._given: dict[str, Any] = given

    def _value(self, key: str, kind: type | tuple[type, ...], words: str) -> Any:
        value = self._given.get(key)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise Unfit(f"{key}: expected {words}")
        return value

    def text(self, key: str) -> str:
        value: str = self._value(key, str, "text")
        return value

    def boolean(self, key: str) -> bool:
        value: bool = self._value(key, bool, "true or false")
        return value

    def integer(self, key: str) -> int:
        value: int = self._value(key, int, "a whole number")
        if value < 0:
            raise Unfit(f"{key}: expected 0 or more")
        return value

    def optional_integer(self, key: str) -> int | None:
        return None if self._given.get(key) is None else self.integer(key)

    def seconds(self, key: str) -> float:
        value = float(self._value(key, (int, float), "a number of seconds"))
        if not 0 <= value < float("inf"):
            raise Unfit(f"{key}: expected a number of seconds")
        return value

    def mapping(self, key: str) -> dict[str, Any]:
        value: dict[str, Any] = self._value(key, dict, "an object")
        return value

    def entries(self, key: str) -> list[Any]:
        value: list[Any] = self._value(key, list, "a list")
        return value

    def counts(self, key: str) -> Counter[str]:
        of = Reader(self.mapping(key), key)
        return Counter({name: of.integer(name) for name in self._given[key]})

    def octets(self, key: str, most: int | None = MOST_OCTETS) -> bytes:
        value = unpack(self._given.get(key), key)
        if most is not None and len(value) > most:
            raise Unfit(f"{key}: more than {most} octets")
        return value

    def nlri(self, key: str, family: Family, with_ids: bool) -> list[Prefix]:
        return split_nlri(family, self.octets(key, None), with_ids, key)
