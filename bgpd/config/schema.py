"""The JSON Schema of the configuration file: for editors, and the reference of all keys."""

from __future__ import annotations

import ast
import inspect
from itertools import pairwise
from typing import Any

from pydantic import BaseModel

from bgpd.config import config
from bgpd.config.config import Config


def schema() -> dict[str, Any]:
    """The JSON Schema of the file, with the texts of the configuration's fields."""
    _describe()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema()}


def _describe() -> None:
    """Makes the texts under the fields their descriptions: only here, since reading the source costs a start 15 ms."""
    module = config
    for section in ast.parse(inspect.getsource(module)).body:
        model = getattr(module, section.name, None) if isinstance(section, ast.ClassDef) else None
        if not (
            isinstance(section, ast.ClassDef) and isinstance(model, type) and issubclass(model, BaseModel)
        ):
            continue
        for field, text in pairwise(section.body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                assert isinstance(field.target, ast.Name) and isinstance(text.value, ast.Constant)
                description = inspect.cleandoc(str(text.value.value))
                for each in (model, *model.__subclasses__()):
                    if field.target.id in each.model_fields:
                        each.model_fields[field.target.id].description = description
        model.model_rebuild(force=True)
