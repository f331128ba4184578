"""The shipped topologies under the real containerlab, held against the same checks as in namespaces."""

from __future__ import annotations

from pathlib import Path

import pytest

from testing.lab.checks import check, load_checks
from testing.lab.containers import deployed, missing

pytestmark = [pytest.mark.containerlab, pytest.mark.timeout(400)]

FILES = sorted((Path(__file__).parents[2] / "containerlab" / "checks").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_must_be_true_of_it(file: Path) -> None:
    checks = load_checks(file)
    if why := missing(checks):
        pytest.skip(why)
    with deployed(checks) as ground:
        for outcome in check(checks, ground):
            assert not outcome.wrong, outcome.what
