"""One map: the docstring of ``bgpd``, README's "How it works", the linter contract and the folders agree."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import bgpd

TOP = Path(__file__).parents[2]
PACKAGE = TOP / "bgpd"
ROOM = re.compile(r"``([a-z_]+)``")


def floors_of_the_map() -> list[set[str]]:
    """The rooms of each floor, top down, as the docstring has them: the word that a clause begins with is a room."""
    assert bgpd.__doc__
    floors: list[set[str]] = []
    for line in bgpd.__doc__.splitlines():
        if re.match(r"\d  ", line):
            floors.append(set())
        if floors and line.startswith("="):
            break
        for match in ROOM.finditer(line) if floors else ():
            before = line[1 : match.start()].rstrip()
            if (not before or before.endswith((";", ":", ","))) and known(match[1]):
                floors[-1].add(match[1])
    return floors


def known(name: str) -> bool:
    return (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()


def floors_of_the_contract() -> list[set[str]]:
    contracts = tomllib.loads((TOP / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [{name.strip().removeprefix("bgpd.") for name in re.split(r"[|:]", layer)} for layer in layers]


def rooms() -> set[str]:
    """What lies in the package."""
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    return packages | modules


def test_the_map_has_the_floors_of_the_linter_contract() -> None:
    assert floors_of_the_map() == floors_of_the_contract()


def test_every_room_is_on_the_map() -> None:
    assert set().union(*floors_of_the_contract()) == rooms()


def test_readme_has_every_room() -> None:
    text = (TOP / "README.md").read_text()
    section = text[text.index("## How it works") :]
    rows = [line for line in section.splitlines() if line.startswith("| `bgpd/")]
    named = {
        name.removeprefix("bgpd/") for row in rows for name in re.findall(r"`([a-z_/]+)`", row.split("|")[1])
    }
    assert named == rooms()


def test_every_module_says_what_it_owns() -> None:
    silent = [
        str(path.relative_to(TOP))
        for path in sorted(PACKAGE.rglob("*.py"))
        if not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []


def test_the_source_package_has_all_that_is_kept() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=TOP, capture_output=True, text=True, check=False).stdout
    if not listed:
        pytest.skip("git does not say what is kept")
    project = tomllib.loads((TOP / "pyproject.toml").read_text())
    included = set(project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"])
    kept = {line.split("/")[0] for line in listed.splitlines()}
    assert kept == included | {"pyproject.toml", ".gitignore"}, "what hatch adds by itself, and the list"
