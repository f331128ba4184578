"""A directory of resources, read once and not followed: for tools that need no daemon. The same files are read in the
same way as ``datastore.files`` does; there is no good version from before to fall back to.
"""

from __future__ import annotations

import os
from pathlib import Path

from bgpd.config.places import is_resource
from bgpd.datastore.directories import read_file
from bgpd.datastore.documents import parse
from bgpd.datastore.objects import Failure, Objects
from bgpd.model.resources import Problem, Snapshot


class Unreadable(Exception):
    """There is nothing to go on: no directory, or not the node in question. The text says which."""


def read(directory: Path, node: str) -> Snapshot:
    """All that the directory says; what is wrong with single objects is in ``problems``. Raises ``Unreadable``."""
    objects = Objects(node)
    try:
        names = sorted(name for name in os.listdir(directory) if is_resource(name))
    except OSError as error:
        raise Unreadable(f"{directory}: {error.strerror}") from None
    for name in names:
        path = directory / name
        try:
            _, data = read_file(path, None)
            parsed = parse(name, data or b"", {})
            objects.put(name, parsed.objects, parsed.failures, parsed.whole)
        except FileNotFoundError:
            continue  # a link to nowhere
        except OSError as error:
            problem = Problem(name, "", f"cannot be read: {error.strerror}")
            objects.put(name, (), [Failure("io", problem)], whole=False)
    if not objects.settle(0.0, True):
        raise Unreadable(f"{directory}: {objects.detail()}")
    return objects.snapshot()
