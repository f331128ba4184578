"""docs/calico.md: every test that it names is there, all features are, and none is claimed without a test."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "calico.md").read_text()
TEST = re.compile(r"`([a-z]+/test_[a-z0-9_]+\.py)::([A-Za-z0-9_:]+)`")
NAMED = sorted(set(TEST.findall(PAGE)))
NOT_OURS = {24, 57}
"""Features that bgpd does not have."""


def rows(title: str) -> list[list[str]]:
    """The rows of the tables of a section, without their heads, as cells."""
    section = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    heads = {place - 1 for place, line in enumerate(lines) if line.startswith("|---")}
    kept = [line for place, line in enumerate(lines) if place not in heads and not line.startswith("|---")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in kept]


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_a_named_test_is_there(file: str, name: str) -> None:
    assert (ROOT / "tests" / file).is_file()
    found: object = importlib.import_module(f"tests.{file.removesuffix('.py').replace('/', '.')}")
    for part in name.split("::"):
        found = getattr(found, part)  # a class has those of its bases too
    assert callable(found)
    assert name.rpartition("::")[2].startswith("test_")


def test_all_that_looks_like_a_test_is_one() -> None:
    assert len(re.findall(r"::test_", PAGE)) == len(TEST.findall(PAGE))
    assert len(NAMED) > 50


def test_every_feature_has_a_row_and_its_test() -> None:
    found = {int(number): (ours, tests) for number, _, ours, tests in rows("Features")}
    assert list(found) == list(range(1, 58))
    for number, (ours, tests) in found.items():
        assert (number in NOT_OURS) is ours.startswith("no"), number
        assert bool(TEST.search(tests)) is (number not in NOT_OURS), number
        assert not TEST.sub("", tests).strip(), number


def test_a_test_that_names_a_feature_is_in_its_row() -> None:
    """Numbers in the names of tests are those of the table; a row names one of them at least."""
    tests = {int(number): cell for number, _, _, cell in rows("Features")}
    policy = importlib.import_module("tests.unit.test_route_policy")
    numbered: dict[int, set[str]] = {}
    for name in vars(policy):
        if match := re.match(r"test_((?:\d+_)+)", name):
            for number in match[1].strip("_").split("_"):
                numbered.setdefault(int(number), set()).add(name)
    assert len(numbered) > 15
    for number, names in numbered.items():
        assert any(f"::{name}`" in tests[number] for name in names), number


def test_every_difference_is_whole() -> None:
    found = rows("Differences")
    assert len(found) > 30
    for cells in found:
        subject, calico, ours, _, tests = cells
        assert subject and calico and ours
        assert TEST.search(tests), subject


def test_links_lead_somewhere() -> None:
    headings = {line.lstrip("# ").lower() for line in PAGE.splitlines() if line.startswith("#")}
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        if target.startswith("#"):
            assert target[1:] in headings
        else:
            assert (ROOT / "docs" / target).exists(), target
