"""Importing a module out of a large package without all else that the package's ``__init__`` imports.

aiohttp brings its client, pyroute2 its databases and tools, and a node's daemon uses neither: 0.2 s of each start and
10 MiB of each node's memory. Used by the doors that need one corner of such a package.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def lean_import(package: str) -> Iterator[None]:
    """Inside, ``from package.part import name`` runs ``part`` and what it needs, but not ``package``'s own
    ``__init__``; that runs when somebody imports the package afterwards. Nothing is special where it has run already.
    """
    spec = None if package in sys.modules else importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        yield
        return
    hollow = ModuleType(package)
    hollow.__path__ = list(spec.submodule_search_locations)
    vars(hollow)["__getattr__"] = _version_of(package)
    sys.modules[package] = hollow
    try:
        yield
    finally:
        if sys.modules.get(package) is hollow:
            del sys.modules[package]


def _version_of(package: str) -> Callable[[str], str]:
    """What a part may ask of the package that is not there (PEP 562). The metadata cost 50 ms to read, so only then."""

    def attribute(name: str) -> str:
        if name != "__version__":
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        from importlib.metadata import version

        return version(package)

    return attribute
