"""The JSON Schema of the configuration file: for editors, and the reference of all keys."""

from __future__ import annotations

import ast
import inspect
import sys
from functools import cache
from itertools import pairwise
from typing import Any

from bgpd.config.config import Config
from bgpd.config.section import Section


def schema() -> dict[str, Any]:
    """The JSON Schema of the file, with the texts under the configuration's fields."""
    definitions: dict[str, Any] = {}
    root = _section(Config, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": {name: definitions[name] for name in sorted(definitions)},
        **root,
    }


def _section(section: type[Section], definitions: dict[str, Any]) -> dict[str, Any]:
    """One section; those inside it go to ``definitions``."""
    texts = _texts(section)
    properties: dict[str, Any] = {}
    for name, key in section.keys.items():
        properties[name] = described = dict(key.kind.schema)
        if key.constant:
            described["default"] = None if key.default_value is None else key.kind.text(key.default_value)
        if name in texts:
            described["description"] = texts[name]
        inner = key.kind.section
        if inner is not None and inner.__name__ not in definitions:
            definitions[inner.__name__] = _section(inner, definitions)
    required = [name for name, key in section.keys.items() if key.required]
    return {
        "title": section.__name__,
        "description": inspect.cleandoc(section.__doc__ or ""),
        "type": "object",
        "properties": properties,
        **({"required": required} if required else {}),
        "additionalProperties": False,
    }


def _texts(section: type[Section]) -> dict[str, str]:
    """The texts under the fields of a section, and of those that it has from others."""
    found: dict[str, str] = {}
    for each in reversed(section.__mro__):
        if each not in (object, Section):
            for field, text in pairwise(_bodies(each.__module__)[each.__name__]):
                if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                    assert isinstance(field.target, ast.Name) and isinstance(text.value, ast.Constant)
                    found[field.target.id] = inspect.cleandoc(str(text.value.value))
    return found


@cache
def _bodies(module: str) -> dict[str, list[ast.stmt]]:
    """What the classes of a module say, by name."""
    parsed = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: node.body for node in parsed.body if isinstance(node, ast.ClassDef)}
