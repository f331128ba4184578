"""What the log says to operators: events with a name and fields. ``docs/log.md`` lists them.

Every room calls ``event``; ``observe.log`` makes a line of it. In text that is ``event=peer_down message='...'``:
phrases are quoted, lists joined by commas, an empty list is ``none``. In JSON each field is a key with its own type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging

INFO = 20
"""``logging.INFO``: bgpctl, which shows the fields of events, starts without what logs them."""

PHRASES = frozenset(("cause", "detail", "error", "last", "message", "removed", "source", "what", "words"))
"""Fields whose text is for people: it may have spaces and quotes, and is quoted always."""


class Seconds(float):
    """A time that has passed: in text with its unit and some decimals (``0.25s``), in JSON a number."""

    def __new__(cls, value: float, decimals: int) -> Seconds:
        made = super().__new__(cls, round(value, decimals))
        made.decimals = decimals
        return made

    decimals: int

    def __str__(self) -> str:
        return f"{float(self):.{self.decimals}f}s"


class Event:
    """A record's message: a name, and fields of text, numbers, truths and lists of text."""

    __slots__ = ("fields", "name")

    def __init__(self, name: str, fields: Mapping[str, object]) -> None:
        self.name, self.fields = name, fields

    def __str__(self) -> str:
        return " ".join(
            (f"event={self.name}", *(f"{key}={field_text(key, of)}" for key, of in self.fields.items()))
        )


def event(log: logging.Logger, name: str, level: int = INFO, /, **fields: object) -> None:
    """Logs an event."""
    if log.isEnabledFor(level):
        log.log(level, Event(name, fields))


def failure(log: logging.Logger, name: str, /, **fields: object) -> None:
    """Logs a bug of ours, as an error, with the traceback of the exception that is being handled."""
    log.error(Event(name, fields), exc_info=True)


def field_text(key: str, value: object) -> str:
    """The value of a field as a line of text has it."""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) or "none"
    text = f"{value:g}" if type(value) is float else str(value)
    misleading = not text.isprintable() or any(mark in text for mark in " '\"=")
    return repr(text) if key in PHRASES or misleading else text
