"""The kinds of messages, NOTIFICATION (RFC 4271 §4.5, RFC 9003) and ROUTE-REFRESH (RFC 2918, RFC 7313)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from bgpd.bgp.wire.exa import lean_exabgp
from bgpd.model.prefix import Family

with lean_exabgp():
    from exabgp.bgp.message.notification import Notification as ExaNotification
    from exabgp.bgp.message.notification import Notify
    from exabgp.bgp.message.refresh import RouteRefresh
    from exabgp.protocol.family import AFI, SAFI

OPEN, UPDATE, NOTIFICATION, KEEPALIVE, ROUTE_REFRESH = 1, 2, 3, 4, 5
MESSAGE_NAMES: Mapping[int, str] = {
    OPEN: "OPEN",
    UPDATE: "UPDATE",
    NOTIFICATION: "NOTIFICATION",
    KEEPALIVE: "KEEPALIVE",
    ROUTE_REFRESH: "ROUTE-REFRESH",
}
KEEPALIVE_MESSAGE = b"\xff" * 16 + b"\x00\x13\x04"
FAMILIES = {Family.IPV4: (AFI.ipv4, SAFI.unicast), Family.IPV6: (AFI.ipv6, SAFI.unicast)}
"""How ExaBGP names our families."""
FAMILY = {pair: family for family, pair in FAMILIES.items()}
"""Our family by ExaBGP's name."""


class Cease:
    """Subcodes of NOTIFICATION 6 (RFC 4486, RFC 8538, RFC 9384)."""

    MAX_PREFIXES = 1
    SHUTDOWN = 2
    DECONFIGURED = 3
    RESET = 4
    REJECTED = 5
    CONFIG_CHANGE = 6
    COLLISION = 7
    OUT_OF_RESOURCES = 8
    HARD_RESET = 9
    BFD_DOWN = 10


@dataclass(frozen=True, slots=True)
class Notification:
    """A NOTIFICATION message (RFC 4271 §4.5)."""

    code: int
    subcode: int
    data: bytes = b""

    @property
    def is_hard_reset(self) -> bool:
        """Whether it ends what graceful restart would keep (RFC 8538 §3)."""
        return (self.code, self.subcode) == (6, Cease.HARD_RESET)

    @property
    def meant(self) -> Notification:
        """What a Hard Reset encapsulates (RFC 8538 §3.1); any other is itself."""
        if self.is_hard_reset and len(self.data) >= 2:
            return Notification(self.data[0], self.data[1], self.data[2:])
        return self

    @property
    def shutdown_text(self) -> str:
        """The words of the peer's operator (RFC 9003 §2); empty when there are none or they are not UTF-8."""
        if (self.code, self.subcode) not in ((6, Cease.SHUTDOWN), (6, Cease.RESET)) or not self.data:
            return ""
        text = self.data[1 : 1 + self.data[0]]
        try:
            # Control characters would forge log lines.
            return "".join(c if c.isprintable() else " " for c in text.decode()).strip()
        except UnicodeDecodeError:
            return ""

    def __str__(self) -> str:
        code = ExaNotification._str_code.get(self.code) or _MORE_CODES.get(self.code, "unknown error")
        key = (self.code, self.subcode)
        subcode = ExaNotification._str_subcode.get(key) or _MORE_SUBCODES.get(key, "")
        words = f"{self.code}/{self.subcode} {subcode if self.subcode and subcode else code}"
        if (meant := self.meant) is not self:
            return f"{words}: {meant}"
        return f"{words}: {self.shutdown_text}" if self.shutdown_text else words


_MORE_CODES = {7: "ROUTE-REFRESH message error"}
_MORE_SUBCODES = {(6, 9): "Hard Reset", (6, 10): "BFD Down"}


def hard_reset(meant: Notification) -> Notification:
    """A Cease that ends what graceful restart would keep, with what it is for (RFC 8538 §3.1)."""
    return Notification(6, Cease.HARD_RESET, bytes((meant.code, meant.subcode)) + meant.data)


def shutdown(subcode: int, text: str) -> Notification:
    """A Cease with the operator's words, cut to 255 octets at a character (RFC 9003 §2)."""
    octets = text.encode()[:255].decode(errors="ignore").encode()
    return Notification(6, subcode, bytes((len(octets),)) + octets if octets else b"")


class ProtocolError(Exception):
    """The peer broke the protocol: the session ends with ``notification``; the message says what was wrong."""

    def __init__(self, code: int, subcode: int, message: str, data: bytes = b"") -> None:
        super().__init__(message)
        self.notification = Notification(code, subcode, data)


def encode_notification(notification: Notification) -> bytes:
    """The whole message; data that does not fit is cut (RFC 4271 §6.1 asks for no more)."""
    return bytes(Notify(notification.code, notification.subcode, notification.data[:4075]).message())


def decode_notification(body: bytes) -> Notification:
    """Never fails: an error in a NOTIFICATION is not answered (RFC 4271 §6.4)."""
    message = ExaNotification(body[0], body[1], body[2:], parse_data=False)
    return Notification(int(message.code), int(message.subcode), bytes(message.data))


class RefreshKind(IntEnum):
    """What a ROUTE-REFRESH says (RFC 7313 §3.2)."""

    REQUEST = 0
    BEGIN = 1
    END = 2


def encode_refresh(family: Family, kind: RefreshKind = RefreshKind.REQUEST) -> bytes:
    """A ROUTE-REFRESH: it asks for all of a family again, or stands before or after the answer."""
    return bytes(RouteRefresh(*FAMILIES[family], kind).message())


def decode_refresh(body: bytes) -> tuple[Family, RefreshKind] | None:
    """What a ROUTE-REFRESH says, and of which family; ``None`` for what is passed over: a family that we do not know, a
    kind that nobody defined (RFC 7313 §5). ``ProtocolError`` for a wrong length."""
    if len(body) != 4:
        whole = b"\xff" * 16 + struct.pack("!HB", 19 + len(body), ROUTE_REFRESH) + body
        if body[2] in (RefreshKind.BEGIN, RefreshKind.END):
            raise ProtocolError(7, 1, f"ROUTE-REFRESH of {len(whole)} octets", whole)
        raise ProtocolError(1, 2, f"ROUTE-REFRESH of {len(whole)} octets", whole[16:18])
    try:
        message = RouteRefresh.unpack_message(body)
    except Notify:
        return None
    family = FAMILY.get((message.afi, message.safi))
    return None if family is None else (family, RefreshKind(message.reserved))


def notify_text(error: Any) -> str:
    """What ExaBGP found wrong, in its words."""
    data = error.data
    return data.decode("ascii", "replace") if data and data.isascii() else str(error)
