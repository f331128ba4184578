"""Importing a module out of a large package without all else that the package's ``__init__`` imports.

aiohttp brings its client, pyroute2 its databases and tools, and a node's daemon uses neither: 0.2 s of each start and
10 MiB of each node's memory; ExaBGP brings thirty address families. Used by the doors that need one corner of such a
package.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any


@contextmanager
def lean_import(package: str, **parts: str) -> Iterator[None]:
    """Inside, ``from package.part import name`` runs ``part`` and what it needs, but not ``package``'s own
    ``__init__``; that runs when somebody imports the package afterwards. Nothing is special where it has run already.

    ``parts`` are names that a part takes from the package, each with the part that has it.
    """
    spec = None if package in sys.modules else importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        yield
        return
    hollow = ModuleType(package)
    hollow.__path__ = list(spec.submodule_search_locations)
    vars(hollow)["__getattr__"] = _attributes_of(package, Path(hollow.__path__[0]), parts)
    sys.modules[package] = hollow
    try:
        yield
    finally:
        if sys.modules.get(package) is hollow:
            del sys.modules[package]


def _attributes_of(package: str, directory: Path, parts: Mapping[str, str]) -> Callable[[str], Any]:
    """What a part may ask of the package that is not there (PEP 562). Its version is what the directory beside it is
    named by, or nothing: ``importlib.metadata`` takes 40 ms to say it."""

    def attribute(name: str) -> Any:
        if name in parts:
            return getattr(importlib.import_module(f"{package}.{parts[name]}"), name)
        if name != "__version__":
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        beside = directory.parent.glob(f"{package}-*.dist-info")
        return next((each.name.removesuffix(".dist-info").partition("-")[2] for each in beside), "")

    return attribute
