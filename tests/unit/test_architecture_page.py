"""``docs/architecture.md`` names only what there is: modules by their paths, classes, functions and attributes."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TOP = Path(__file__).parents[2]
PAGE = (TOP / "docs" / "architecture.md").read_text()
PROSE = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
SPANS = set(re.findall(r"`([^`\n]+)`", PROSE))
DRAWINGS = "\n".join(re.findall(r"```(.*?)```", PAGE, flags=re.DOTALL))


def defined() -> dict[str, set[str]]:
    """Class, or "" for modules -> the names that are defined in it."""
    found: dict[str, set[str]] = {"": set()}
    for path in (TOP / "bgpd").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                names = found.setdefault(node.name, set())
                for part in ast.walk(node):
                    if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
                        names.add(part.name)
                    elif isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store):
                        names.add(part.attr)
                    elif isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                        names.add(part.target.id)
    return found


def test_every_module_that_is_named_is_there() -> None:
    rooms = {path.name for path in (TOP / "bgpd").iterdir() if path.is_dir()}
    paths = {span for span in SPANS if span.split("/")[0] in rooms and "." not in span}
    assert len(paths) > 40
    missing = [
        path for path in paths if not any((TOP / "bgpd" / f"{path}{end}").exists() for end in (".py", ""))
    ]
    assert missing == []


def test_every_class_and_what_it_has_is_there() -> None:
    names = defined()
    dotted = {span for span in SPANS if re.fullmatch(r"_?[A-Z]\w+\.\w+", span)}
    classes = {span for span in SPANS if re.fullmatch(r"_?[A-Z][a-z]\w+", span)}
    assert len(dotted) > 15 and len(classes) > 8
    assert [one for one in classes if one not in names] == []
    assert [one for one in dotted if one.split(".")[1] not in names.get(one.split(".")[0], ())] == []


def test_the_stops_of_the_drawings_are_there() -> None:
    """``room.module`` and ``Class`` in a drawing; a bare word in lower case is a stop that the text names."""
    names = defined()
    modules = re.findall(r"\b([a-z]+)\.([a-z_]+)\b", DRAWINGS)
    known = {path.stem for path in (TOP / "bgpd").rglob("*.py")} | set().union(*names.values())
    assert [f"{room}.{name}" for room, name in modules if name not in known] == []
    classes = re.findall(r"\b([A-Z][a-z]+[A-Z]\w*)\b", DRAWINGS)
    assert classes and [name for name in classes if name not in names] == []
