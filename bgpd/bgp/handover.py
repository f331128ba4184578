"""Sessions from one process to the next, with their sockets: the document that goes along, and who waits to be taken.

``speaker`` freezes what it has into a ``Document`` and, in the next process, takes from ``Inherited`` what its
configuration wants. How document and sockets get from here to there is ``daemon.upgrade``'s. A socket is found again by
its two ends, which the kernel knows; a listening one by its address and port.

The document is a line, ``bgpd-handover <version> <digest>``, and JSON (docs/restart.md, "Upgrade"). A line that is not
as it should be is the end of it: all sessions fall back to graceful restart. Inside, failure stays with its session.

While sessions wait to be taken, for the resources to be whole, ``Inherited.keep_alive`` sends their KEEPALIVEs; what
peers send meanwhile waits in the kernel.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import pathlib
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from bgpd import __version__
from bgpd.bgp.frozen import (
    Ends,
    FrozenRib,
    FrozenSession,
    Reader,
    Unfit,
    decode_digests,
    decode_session,
    encode_digests,
    encode_session,
    end_of,
    ends_of,
    family_labelled,
)
from bgpd.bgp.member import UNKNOWN, Earlier
from bgpd.bgp.outbound import Outbound
from bgpd.bgp.protection import Net
from bgpd.bgp.wire.exa.messages import KEEPALIVE_MESSAGE, Cease, Notification, encode_notification
from bgpd.bgp.wire.update import encode_announcements, end_of_rib
from bgpd.events import event
from bgpd.model.peer import Peer, PeerId
from bgpd.model.prefix import Address, Family, Prefix, is_address, parse_address, parse_prefix, with_path_id
from bgpd.model.route import Path
from bgpd.rib.groups import LAST_PATH_ID, UpdateGroup

log = logging.getLogger(__name__)

VERSION = 1
MAGIC = b"bgpd-handover"
MOST_OCTETS = 1 << 30
"""The most that a document may have."""
WAIT_SECONDS = 45.0
"""Seconds for the resources to be whole, in which sessions wait to be taken."""
_BOOT = pathlib.Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Advertised:
    """What one update group was sent: the same for all its sessions, but for what their ``FrozenRib`` says."""

    family: Family
    add_path: bool
    """Whether its NLRI have path identifiers."""
    digests: Mapping[Prefix, bytes]


@dataclass(frozen=True, slots=True)
class Document:
    """All that goes along with the sockets."""

    at: float
    """On the clock of all processes of a boot (CLOCK_MONOTONIC)."""
    boot: str
    salt: bytes
    """The salt of the checks of passwords."""
    sessions: Sequence[FrozenSession] = ()
    groups: Sequence[Advertised] = ()
    keys: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Listening sockets, ``address port``, each with the prefixes that it has TCP MD5 keys of."""
    encoded: bool = False
    path_ids: Mapping[Family, Mapping[tuple[PeerId | None, int], int]] = field(default_factory=dict)
    """The path identifiers given to sources; like ``encoded``, what ``rib.router.FrozenRouter`` says."""
    bfd: Sequence[Mapping[str, object]] = ()
    """Sessions of BFD that are up, as ``bfd.speaker`` writes and reads them."""
    bgpd: str = __version__
    unfit: Mapping[str, str] = field(default_factory=dict)
    """Sessions that could not be read: peer -> why."""


def boot_id() -> str:
    """Of this boot of the machine: what ``Document.at`` means something in."""
    return _BOOT.read_text().strip()


def encode(document: Document) -> bytes:
    """The whole document."""
    content = {
        "bgpd": document.bgpd,
        "at": document.at,
        "boot": document.boot,
        "salt": document.salt.hex(),
        "sessions": [encode_session(session) for session in document.sessions],
        "groups": [
            {
                "family": group.family.label,
                "add_path": group.add_path,
                "digests": encode_digests(group.digests),
            }
            for group in document.groups
        ],
        "keys": {place: list(nets) for place, nets in document.keys.items()},
        "encoded": document.encoded,
        "path_ids": {
            family.label: [[*source, path_id] for source, path_id in path_ids.items()]
            for family, path_ids in document.path_ids.items()
        },
        "bfd": list(document.bfd),
    }
    body = json.dumps(content, separators=(",", ":")).encode()
    return b"%s %d %s\n" % (MAGIC, VERSION, hashlib.blake2b(body, digest_size=16).hexdigest().encode()) + body


def decode(octets: bytes) -> Document:
    """A document again. ``Unfit`` where nothing of it can be used; a session that cannot be read is in ``unfit``."""
    head, _, body = octets.partition(b"\n")
    words = head.split(b" ")
    if len(words) != 3 or words[0] != MAGIC:
        raise Unfit("this is no state of a bgpd")
    if words[1] != b"%d" % VERSION:
        raise Unfit(f"state of version {words[1].decode(errors='replace')[:20]}, expected {VERSION}")
    if hashlib.blake2b(body, digest_size=16).hexdigest().encode() != words[2]:
        raise Unfit("the state is not as it was written: its digest differs")
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Unfit(f"the state is no JSON: {error}") from None
    has = Reader(given, "state")
    groups = []
    for each in has.entries("groups"):
        of = Reader(each, "groups")
        family, add_path = family_labelled(of.text("family")), of.boolean("add_path")
        groups.append(Advertised(family, add_path, decode_digests(of.mapping("digests"), family, add_path)))
    sessions: list[FrozenSession] = []
    unfit: dict[str, str] = {}
    for place, each in enumerate(has.entries("sessions")):
        try:
            sessions.append(decode_session(each, lambda index: groups[index].add_path))
        except Unfit as error:
            name = each.get("peer") if isinstance(each, dict) else None
            unfit[str(name or f"session {place}")] = str(error)
    try:
        salt = bytes.fromhex(has.text("salt"))
    except ValueError:
        raise Unfit("salt: expected octets in hexadecimal") from None
    if len(salt) > hashlib.blake2b.MAX_KEY_SIZE:
        raise Unfit("salt: too long")
    keys = {}
    for where, nets in has.mapping("keys").items():
        if not isinstance(nets, list) or not all(isinstance(net, str) for net in nets):
            raise Unfit("keys: expected lists of prefixes")
        keys[where] = nets
    bfd = given.get("bfd")  # a process from before BFD went along says nothing of it
    return Document(
        at=has.seconds("at"),
        boot=has.text("boot"),
        salt=salt,
        sessions=sessions,
        groups=groups,
        keys=keys,
        encoded=has.boolean("encoded"),
        path_ids={
            family_labelled(label): _decode_path_ids(each) for label, each in has.mapping("path_ids").items()
        },
        bfd=bfd if isinstance(bfd, list) else [],
        bgpd=has.text("bgpd"),
        unfit=unfit,
    )


def _decode_path_ids(given: object) -> dict[tuple[PeerId | None, int], int]:
    found: dict[tuple[PeerId | None, int], int] = {}
    for each in given if isinstance(given, list) else (None,):
        match each:
            case [str() | None as peer, int(theirs), int(ours)] if 0 < ours <= LAST_PATH_ID:
                found[None if peer is None else PeerId(peer), theirs] = ours
            case _:
                raise Unfit("path_ids: expected lists of a peer, its identifier and ours")
    if len(set(found.values())) < len(found):
        raise Unfit("path_ids: one identifier for two sources")
    return found


def place_of(sock: socket.socket) -> str:
    """Where a listening socket listens."""
    address, port, _ = end_of(sock.getsockname())
    return f"{address} {port}"


Received = Iterable[tuple[Prefix, Path, bool]]
"""What a peer announced: prefix, path, and whether it is stale (``AdjRibIn.peer_paths``)."""


def freeze_routes(
    outbound: Outbound,
    peers: Iterable[tuple[Peer, frozenset[Family]]],
    received: Callable[[Peer, Family], Received],
) -> tuple[dict[PeerId, dict[Family, FrozenRib]], list[Advertised]]:
    """What is to be known of the routes of sessions, of each its own and of all their update groups.

    ``peers``: sessions, each with the families whose End-of-RIB has come. ``received`` is asked for the Adj-RIB-In
    of two kinds of them: those that cannot be asked to send all again with a begin and an end (RFC 7313), and those
    that have not sent all yet.
    """
    groups: list[Advertised] = []
    known: dict[UpdateGroup, int] = {}
    found: dict[PeerId, dict[Family, FrozenRib]] = {}
    for peer, ended in peers:
        ribs = found[peer.id] = {}
        for family, left in outbound.freeze(peer).items():
            if left.group is not None and left.group not in known:
                known[left.group] = len(groups)
                digests = outbound.digests(peer, left.group)
                groups.append(Advertised(family, left.group.key.add_path, digests))
            again = peer.enhanced_refresh and family in ended
            ribs[family] = FrozenRib(
                group=None if left.group is None else known[left.group],
                unsure=left.unsure,
                never=left.never,
                other=left.other,
                end_of_rib_due=left.end_of_rib_due,
                refresh_due=left.refresh_due,
                received=b""
                if again
                else encode_received(peer, family, received(peer, family), family in ended),
            )
    return found, groups


def encode_received(peer: Peer, family: Family, paths: Received, ended: bool) -> bytes:
    """A session's Adj-RIB-In as UPDATEs, as if the peer sent it now, with End-of-RIB if that had come. What has no room
    in an UPDATE of ours is left out."""
    with_ids = family in peer.add_path_receive
    by_path: dict[Path, list[Prefix]] = {}
    for prefix, path, stale in paths:
        if not stale:
            nlri = with_path_id(path.path_id, prefix) if with_ids else prefix
            by_path.setdefault(path._replace(path_id=0), []).append(nlri)
    octets: list[bytes] = []
    for path, prefixes in by_path.items():
        hop = Address(path.next_hop[:16])  # without the zone of a link-local one
        with contextlib.suppress(ValueError):
            octets += encode_announcements(
                family, path.attributes, hop, prefixes, peer.asn4, link_local=path.link_local
            )
    return b"".join((*octets, end_of_rib(family) if ended or not peer.sends_end_of_rib else b""))


class Waiting:
    """One session that waits to be taken, with its socket."""

    def __init__(self, frozen: FrozenSession, sock: socket.socket, at: float) -> None:
        self.frozen, self.socket = frozen, sock
        self.keepalive_at = at
        self._unsent = bytearray(frozen.connection.unsent)
        self._kept = 0

    def keep_alive(self, now: float) -> None:
        """Sends a KEEPALIVE, after what was to be sent before. ``OSError``: the socket is dead."""
        self.keepalive_at = now + self.frozen.keepalive_seconds
        self._unsent += KEEPALIVE_MESSAGE
        self._kept += 1
        with contextlib.suppress(BlockingIOError):
            del self._unsent[: self.socket.send(self._unsent)]

    def take(self, waited: float) -> FrozenSession:
        """The session as it is now, ``waited`` seconds after it was frozen."""
        frozen = self.frozen
        connection = replace(
            frozen.connection,
            unsent=bytes(self._unsent),
            up_seconds=frozen.connection.up_seconds + waited,
            silent_seconds=frozen.connection.silent_seconds + waited,
        )
        sent = {**frozen.sent, "KEEPALIVE": frozen.sent.get("KEEPALIVE", 0) + self._kept}
        return replace(
            frozen, connection=connection, sent=sent, last_down_seconds=frozen.last_down_seconds + waited
        )

    def dismiss(self) -> None:
        """Nobody wants the peer any more: Cease 6/3, where it can still be said in whole messages."""
        with contextlib.suppress(OSError):
            if not self._unsent:
                self.socket.send(encode_notification(Notification(6, Cease.DECONFIGURED)))
        self.socket.close()


class Taken(NamedTuple):
    """A session that is taken over."""

    frozen: FrozenSession
    socket: socket.socket
    salt: bytes


class Inherited:
    """What came from the process before: sessions that wait, listening sockets, and what the router knew."""

    def __init__(self, document: Document, sockets: Iterable[socket.socket], now: float) -> None:
        """Takes what can go on of it, and names in the log what cannot. Owns ``sockets``."""
        self.document = document
        self.listening: dict[str, socket.socket] = {}
        self.waiting: dict[PeerId, Waiting] = {}
        self.expected = len(document.sessions) + len(document.unfit)
        self._until = now + WAIT_SECONDS
        waited = now - document.at
        for peer, why in document.unfit.items():
            not_taken(peer, why)
        connected: dict[Ends, socket.socket] = {}
        for sock in sockets:
            sock.setblocking(False)
            try:
                if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    self.listening[place_of(sock)] = sock
                else:
                    connected[ends_of(sock)] = sock
            except OSError:
                sock.close()  # its session is named below
        for frozen in document.sessions:
            found = connected.pop(frozen.ends, None)
            if document.boot != boot_id() or waited < 0:
                why = "it is of another boot of this machine"
            elif found is None:
                why = "its socket died, or did not come along"
            elif frozen.hold_seconds and waited > frozen.hold_seconds / 2:
                why = f"{waited:.1f} s went by, more than half of its hold time of {frozen.hold_seconds:g} s"
            elif frozen.peer in self.waiting:
                why = "it is there twice"
            else:
                waits = self.waiting[frozen.peer] = Waiting(frozen, found, now)
                self._keep(waits, now)
                continue
            not_taken(frozen.peer, why)
            if found is not None:
                found.close()
        for sock in connected.values():
            sock.close()

    def keep_alive(self, now: float) -> None:
        """Call it often. Those that have waited too long fall back to graceful restart."""
        for peer, waits in list(self.waiting.items()):
            if now >= self._until:
                self.refuse(peer, f"the resources were not whole within {WAIT_SECONDS:.0f} s")
            elif waits.frozen.keepalive_seconds and now >= waits.keepalive_at:
                self._keep(waits, now)

    def _keep(self, waits: Waiting, now: float) -> None:
        if waits.frozen.keepalive_seconds:
            try:
                waits.keep_alive(now)
            except OSError as error:
                self.refuse(waits.frozen.peer, f"its socket died: {error.strerror or error}")

    def take_listening(self) -> dict[tuple[Address, int], tuple[socket.socket, tuple[Net, ...]]]:
        """The sockets that listen, by place, each with what it has TCP MD5 keys of; they are the caller's from now
        on."""
        found = {}
        for place, sock in self.listening.items():
            address, _, port = place.partition(" ")
            nets = []
            for net in self.document.keys.get(place, ()):
                with contextlib.suppress(ValueError):
                    nets.append(parse_prefix(net))
            found[parse_address(address), int(port)] = sock, tuple(nets)
        self.listening.clear()
        return found

    def take(self, peer: PeerId, now: float) -> Taken | None:
        """The session of a peer, if one waits; the socket is the caller's from now on."""
        waits = self.waiting.pop(peer, None)
        if waits is None:
            return None
        return Taken(waits.take(now - self.document.at), waits.socket, self.document.salt)

    def refuse(self, peer: PeerId, why: str) -> None:
        """A session falls back to graceful restart: its connection closes without a NOTIFICATION."""
        waits = self.waiting.pop(peer, None)
        if waits is not None:
            not_taken(peer, why)
            waits.socket.close()

    def neighbours(self) -> list[tuple[FrozenSession, Address]]:
        """Sessions of neighbours inside listen ranges that wait, with their addresses."""
        return [
            (waits.frozen, parse_address(waits.frozen.ends.remote[0]))
            for waits in self.waiting.values()
            if waits.frozen.dynamic and is_address(waits.frozen.ends.remote[0])
        ]

    def dismiss(self) -> None:
        """The peers are known: sessions that still wait are of none of them."""
        for peer in list(self.waiting):
            not_taken(peer, "no longer configured")
            self.waiting.pop(peer).dismiss()

    def close(self) -> None:
        """Closes whatever was not taken."""
        for sock in (*self.listening.values(), *(waits.socket for waits in self.waiting.values())):
            sock.close()
        self.listening.clear()
        self.waiting.clear()


def earlier(document: Document, frozen: FrozenSession) -> dict[Family, Earlier]:
    """What a session was sent, by family."""
    found = {}
    for family, rib in frozen.ribs.items():
        group = None if rib.group is None else document.groups[rib.group]
        digests = {} if group is None or group.family is not family else dict(group.digests)
        digests.update(dict.fromkeys(rib.unsure, UNKNOWN))
        digests.update(rib.other)
        for nlri in rib.never:
            digests.pop(nlri, None)
        found[family] = Earlier(digests, rib.end_of_rib_due, rib.refresh_due)
    return found


def not_taken(peer: str, why: str) -> None:
    """A session falls back to graceful restart, by name."""
    event(log, "session_not_taken_over", logging.WARNING, peer=peer, cause=why)
