"""A file of the state directory: a few values that outlive a restart of the daemon, as JSON, replaced as a whole.

``admin`` keeps its shutdowns so, ``drain`` its order. What goes wrong with such a file is logged, and ends nothing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from bgpd.config.named_files import SMALL, read_named
from bgpd.datastore.replacing import replacing
from bgpd.events import event
from bgpd.model.doors import Impossible

log = logging.getLogger(__name__)

T = TypeVar("T")


class StateFile:
    """One file, by its name in the directory. The directory is made when it is first written."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory, self._path = directory, directory / name

    def read(self, decode: Callable[[Any], T], *, absent: T, unreadable: T, counts_as: str) -> T:
        """What ``decode`` makes of the value; ``absent`` where there is no file, ``unreadable`` where it is not what
        was written. The latter is logged: ``counts_as`` says what it means."""
        try:
            return decode(json.loads(read_named(self._path, SMALL)))
        except FileNotFoundError:
            return absent
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            words = str(error)
            event(log, "state_unreadable", logging.WARNING, file=self._path, error=words, counts_as=counts_as)
            return unreadable

    def write(self, value: object, otherwise: str) -> None:
        """Keeps a value, ``None`` for none at all. ``Impossible`` where it cannot be kept, which is logged: its words
        are ``otherwise``, what is true without the file, and why."""
        try:
            if value is None:
                self._path.unlink(missing_ok=True)
                return
            self._directory.mkdir(parents=True, exist_ok=True)
            with replacing(self._path) as file:
                file.write(json.dumps(value).encode())
        except OSError as error:
            why = f"{error.filename or self._directory}: {error.strerror}"
            event(log, "state_not_kept", logging.WARNING, cause=why)
            raise Impossible(f"{otherwise}: {why}") from None
