"""What the attribute sets and paths of one session hold of memory, as long as anybody refers to them.

``attributes.Cache`` charges a session's account with what it makes; a path carries its charge (``Path.charge``), also
into what import policy makes of it. So the account is exact without a look at any table: a charge is given back when
the last prefix that has the path is gone, whoever held it.
"""

from __future__ import annotations

COST_OF_PATH, COST_OF_SET = 1500, 300
"""Octets of a path with all that is worked out of it (decision, way into the kernel, caches), and of an attribute set
beside its own ``size``: measured, see ``tests/unit/test_memory.py``."""


class Held:
    """One session's account."""

    __slots__ = ("octets",)

    def __init__(self) -> None:
        self.octets = 0


class Charge:
    """Octets of an account, given back when nobody refers to this. ``of``: another charge that this one needs.

    Equal to whatever stands in its place: two paths are equal by what they say.
    """

    __slots__ = ("_held", "_octets", "_of")

    def __init__(self, held: Held, octets: int, of: Charge | None = None) -> None:
        self._held, self._octets, self._of = held, octets, of
        held.octets += octets

    def __del__(self) -> None:
        self._held.octets -= self._octets

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return hash(None)
