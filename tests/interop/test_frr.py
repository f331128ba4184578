"""FRR and bgpd, both ways."""

from __future__ import annotations

from tests.interop.far import FarFrr, FarGobgp
from tests.interop.suite import Interop


class TestFrr(Interop):
    far = FarFrr
    other = FarGobgp
