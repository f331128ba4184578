"""How far this node is taken out of service: what of its routes peers still have, and as what."""

from __future__ import annotations

from enum import IntEnum
from typing import Literal

OnCordon = Literal["none", "services", "all"]
"""What a Node that takes no more pods means here."""


class Drain(IntEnum):
    """Each step includes those before."""

    NONE = 0
    SERVICES = 1
    """This node's addresses of services are withdrawn: other nodes have them too."""
    ALL = 2
    """All else is advertised as the last resort: LOCAL_PREF 0 to internal peers, GRACEFUL_SHUTDOWN to external ones
    (RFC 8326 §4.1). What has no other way still comes here."""
    WITHDRAWN = 3
    """Nothing is advertised."""

    @property
    def words(self) -> str:
        """For ``bgpctl status``."""
        return _WORDS[self]


_WORDS = {
    Drain.NONE: "",
    Drain.SERVICES: "services are withdrawn",
    Drain.ALL: "services are withdrawn, all else is the last resort (GRACEFUL_SHUTDOWN, LOCAL_PREF 0)",
    Drain.WITHDRAWN: "nothing is advertised",
}
