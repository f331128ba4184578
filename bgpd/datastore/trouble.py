"""What can go wrong between us and a server that keeps the resources, sorted by what to do about it.

Raised by the clients of etcd and of the Kubernetes API, whichever words their server used; ``reflector`` decides when
to try again, ``cluster`` reports to the operator.
"""

from __future__ import annotations

from enum import Enum


class Kind(Enum):
    """The values are the reasons of ``bgpd_datastore_errors_total``."""

    AWAY = "unreachable"
    """No answer, a broken connection, an error of the server itself."""
    BUSY = "busy"
    """It asks us to come again later (429)."""
    EXPIRED = "expired"
    """The history that we asked for is compacted (410): all must be read anew."""
    FORBIDDEN = "permission"
    """We are known, and may not do this (403)."""
    UNKNOWN = "credentials"
    """We are not known: a wrong or expired token, certificate or password (401)."""
    TLS = "tls"
    """The two do not trust each other's certificates."""
    MISSING = "missing"
    """What was asked for does not exist (404): an object, or a kind that the server does not have."""
    UNSUPPORTED = "unsupported"
    """The server does not do what was asked; there is another way to ask."""
    CONFLICT = "conflict"
    """Somebody else wrote first (409)."""
    NONSENSE = "protocol"
    """An answer that cannot be understood."""


OUTAGE = frozenset((Kind.AWAY, Kind.BUSY, Kind.UNKNOWN, Kind.TLS, Kind.NONSENSE))
"""The server as a whole is of no use to us, whatever was asked."""


class Trouble(Exception):
    """``str()`` says it in words for an operator, the server's own among them."""

    def __init__(self, kind: Kind, words: str, retry_after: float | None = None) -> None:
        self.kind = kind
        self.retry_after = retry_after
        """Seconds that the server asked us to wait."""
        super().__init__(words)
