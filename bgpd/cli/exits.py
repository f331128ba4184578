"""Exit codes: what a script can distinguish."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Of ``bgpctl``; ``bgpd`` has the first three and ``CONFIG``."""

    OK = 0
    DEGRADED = FAILED = 1
    USAGE = CHANGES = 2
    UNREACHABLE = 3
    NOT_FOUND = 4
    PERMISSION = 5
    CONFIG = 78
    """EX_CONFIG: the configuration is wrong, so that the service manager does not try again."""
