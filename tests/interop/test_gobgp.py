"""GoBGP and bgpd, both ways."""

from __future__ import annotations

from tests.interop.far import FarBird, FarGobgp
from tests.interop.suite import Interop


class TestGobgp(Interop):
    far = FarGobgp
    other = FarBird
