"""BIRD 2 and bgpd, both ways."""

from __future__ import annotations

from tests.interop.far import FarBird, FarFrr
from tests.interop.suite import Interop


class TestBird(Interop):
    far = FarBird
    other = FarFrr
