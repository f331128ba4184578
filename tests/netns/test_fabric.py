"""The shipped topologies in namespaces, held against their checks: the fabric of FRR and BIRD, the cluster."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from testing.lab import Lab
from testing.lab import lab as lab_module
from testing.lab.checks import LabGround, check, load_checks

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

CHECKS = Path(__file__).parents[2] / "containerlab" / "checks"


def hold(file: str) -> None:
    checks = load_checks(CHECKS / f"{file}.yaml")
    name = f"test-{os.getpid()}-{file}"
    with Lab(checks.load(name)) as lab:
        outcomes = list(check(checks, LabGround(lab)))
        logs = {node.name: node.log.read_text()[-2000:] for node in lab.nodes.values() if node.log.exists()}
    assert not outcomes[-1].wrong, (outcomes[-1], logs)
    assert len(outcomes) == len(checks.pods) + len(checks.stages)
    assert not (lab_module.LABS / name).exists()


def test_a_fabric_of_two_racks() -> None:
    """eBGP, an AS a node: two ways to everywhere, straight inside a rack; the external pool alone leaves; a leaf
    without uplinks is gone around, and used again."""
    hold("fabric-as-per-node")


@pytest.mark.long
@pytest.mark.parametrize("file", ["fabric-one-as", "fabric-reflectors", "workers"])
def test_its_variants(file: str) -> None:
    """One AS for all racks; a pair of reflectors a rack; and the cluster on one subnet."""
    hold(file)
