"""What keeps strangers off a session below BGP: TCP MD5 (RFC 2385) and GTSM (RFC 5082), as Linux has them.

``transport`` guards each socket with ``guard`` before it connects, ``listeners`` keeps a ``Keyring`` for each listening
socket, ``speaker`` lets ``admit`` look at each accepted connection. Where the kernel cannot do what a peer's
configuration asks for, there is no session: each function says so instead of going on without.

TCP MD5: the kernel drops, without an answer, each segment that is not signed with the key of its sender's address; so a
wrong password looks like a peer that does not answer. A listening socket has one key an address: two peers of one
address can both be dialled, but only those of the first one's password can connect. It takes some 900 keys, fewer on
older kernels (``net.core.optmem_max``).

GTSM: what is sent has TTL 255, and what comes with less than 256 minus the hops allowed is dropped. A listening socket
serves peers near and far. So the TTL of a connection's first segment is looked at when it is accepted (TCP_SAVED_SYN),
and the kernel looks at all others.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
from collections.abc import Mapping
from typing import Any, Protocol

from bgpd.events import event
from bgpd.model.peer import PeerConfig
from bgpd.model.prefix import Family, Prefix, family_of, host_prefix, is_host, network_address, prefix_text

log = logging.getLogger(__name__)

TTL = 64
"""The TTL of a session without GTSM: some systems send 1 or 255 for BGP, which routed peers or GTSM would refuse."""
MAX_TTL = 255
MAX_PASSWORD = 80
"""Octets of a password, at most (TCP_MD5SIG_MAXKEYLEN)."""
_TCP_MD5SIG, _TCP_MD5SIG_EXT, _FLAG_PREFIX = 14, 32, 1
_TCP_SAVE_SYN, _TCP_SAVED_SYN = 27, 28
_IP_MINTTL, _IPV6_MINHOPCOUNT = 21, 73

Net = tuple[Family, Prefix]
"""What a key is for: one address, or all of a listen range."""


class Socket(Protocol):
    """A socket, or the one that asyncio shows of a transport."""

    def fileno(self) -> int: ...

    def setsockopt(self, level: int, optname: int, value: int | bytes, /) -> None: ...

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes: ...

    def getsockname(self) -> Any: ...

    def getpeername(self) -> Any: ...


def set_key(sock: Socket, net: Net, password: str | None) -> None:
    """Gives a socket the TCP MD5 key of an address or a range, or takes it away. ``OSError`` says why not."""
    family, prefix = net
    key = b"" if password is None else password.encode()
    if password is not None and not 0 < len(key) <= MAX_PASSWORD:
        raise OSError(errno.EINVAL, f"a TCP MD5 password has 1 to {MAX_PASSWORD} octets")
    address = network_address(family, prefix)
    place = b"\0\0" + address if family is Family.IPV4 else bytes(6) + address
    alone = is_host(family, prefix)
    sock.setsockopt(
        socket.IPPROTO_TCP,
        _TCP_MD5SIG if alone else _TCP_MD5SIG_EXT,
        struct.pack(
            "=H126sBBHi80s", family.af, place, 0 if alone else _FLAG_PREFIX, prefix[0], len(key), 0, key
        ),
    )


def set_ttl(sock: Socket, family: Family, hops: int | None) -> None:
    """TTL of what is sent and, with GTSM, the least of what is taken. ``OSError`` says why not."""
    ttl = TTL if hops is None else MAX_TTL
    if family is Family.IPV4:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
        if hops is not None:
            sock.setsockopt(socket.IPPROTO_IP, _IP_MINTTL, _least(hops))
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl)
        if hops is not None:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MINHOPCOUNT, _least(hops))


def guard(sock: Socket, config: PeerConfig) -> None:
    """Protects a socket that belongs to one peer as its configuration asks. ``OSError`` says why not."""
    family = family_of(config.address)
    set_ttl(sock, family, config.ttl_security)
    if config.password is not None:
        set_key(sock, (family, host_prefix(config.address)), config.password)


def prepare_listening(sock: Socket, family: Family) -> None:
    """The handshake of a peer with GTSM takes nothing but TTL 255; what comes after is ``admit``'s. And the first
    segment of each connection is kept for it."""
    if family is Family.IPV4:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, MAX_TTL)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, MAX_TTL)
    sock.setsockopt(socket.IPPROTO_TCP, _TCP_SAVE_SYN, 1)


def admit(sock: Socket, config: PeerConfig) -> str:
    """Protects an accepted connection, whose key the listening socket had. Why it is refused; empty when it is not."""
    try:
        # Once more the key: a connection may have waited to be accepted since before there was one.
        guard(sock, config)
        if config.ttl_security is None:
            return ""
        first = sock.getsockopt(socket.IPPROTO_TCP, _TCP_SAVED_SYN, 512)
    except OSError as error:
        return f"it cannot be protected: {error.strerror}"
    least = _least(config.ttl_security)
    if len(first) < 20:  # a flood of connections makes the kernel forget them (SYN cookies)
        return "its TTL is not known, and ttl security asks for it"
    ttl = first[8] if family_of(config.address) is Family.IPV4 else first[7]
    if ttl < least:
        return f"it came with TTL {ttl}, and ttl security asks for at least {least}"
    return ""


def _least(hops: int) -> int:
    """The least TTL that a peer so many hops away can have (Calico's ``ttlSecurity``; 1 is the same link)."""
    if not 1 <= hops <= MAX_TTL:
        raise OSError(errno.EINVAL, f"ttl security is 1 to {MAX_TTL} hops")
    return MAX_TTL + 1 - hops


class Keyring:
    """The TCP MD5 keys of one listening socket."""

    def __init__(self, sock: socket.socket, family: Family, nets: tuple[Net, ...] = ()) -> None:
        """``nets``: what the socket has keys of already; nobody knows which, so they are set again."""
        self.socket, self._family = sock, family
        self._held: dict[Net, str] = dict.fromkeys(nets, "")
        self.errors: dict[Net, str] = {}
        """Keys that are wanted and that the socket does not have."""

    @property
    def nets(self) -> tuple[Net, ...]:
        """What the socket has keys of."""
        return tuple(self._held)

    def follow(self, keys: Mapping[Net, str]) -> None:
        """Sets what is new or another, takes away what is gone; sessions that are up keep the key they began with."""
        wanted = {net: password for net, password in keys.items() if net[0] is self._family}
        for net in self._held.keys() - wanted.keys():
            del self._held[net]
            try:
                set_key(self.socket, net, None)
            except OSError as error:
                event(log, "key_not_removed", logging.ERROR, peers=prefix_text(*net), cause=_words(error))
        self.errors = {net: why for net, why in self.errors.items() if net in wanted}
        for net, password in wanted.items():
            if self._held.get(net) == password:
                continue
            try:
                set_key(self.socket, net, password)
            except OSError as error:
                self._held.pop(net, None)
                if self.errors.get(net) != _words(error):
                    self.errors[net] = _words(error)
                    event(log, "key_not_set", logging.ERROR, peers=prefix_text(*net), cause=_words(error))
            else:
                self._held[net] = password
                self.errors.pop(net, None)


def _words(error: OSError) -> str:
    text = error.strerror or str(error)
    full = error.errno == errno.ENOMEM
    return f"{os.strerror(errno.ENOMEM)}: the sysctl net.core.optmem_max limits the keys" if full else text
