"""A LIST of the Kubernetes API as it arrives: its items one by one, so that a list of any length is never held whole.

The items stand at the top of the object under ``items``; ``metadata``, with the version and the mark for the next
page, comes before or after them (core kinds, custom resources).
"""

from __future__ import annotations

import codecs
import json
import re
from typing import Any

_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


class ListPieces:
    """Sans-IO: ``feed`` takes the octets of an answer and returns items that are complete, with the ``last``
    octets all of them; ``rest`` has the other keys once ``done``. ``ValueError``: it is not such an object."""

    def __init__(self) -> None:
        self.rest: dict[str, Any] = {}
        self.done = False
        self._text = ""
        self._at = 0
        self._short = 0
        """Length of the text at which a value was not complete; it is looked at again when there is half as much
        more, so that a long one is not read over and over."""
        self._decode = codecs.getincrementaldecoder("utf-8")()
        self._state = self._open

    @property
    def held(self) -> int:
        """Characters of what is not complete yet."""
        return len(self._text) - self._at

    def feed(self, data: bytes, last: bool = False) -> list[dict[str, Any]]:
        self._text = self._text[self._at :] + self._decode.decode(data)
        self._at = 0
        items: list[dict[str, Any]] = []
        if last or len(self._text) >= self._short:
            self._short = 0
            while not self.done and self._state(items):
                pass
        return items

    # Each state reads one thing and returns whether there was enough text for it.

    def _next(self) -> str:
        blank = _SPACE.match(self._text, self._at)
        self._at = at = blank.end() if blank else self._at
        return self._text[at : at + 1]

    def _expect(self, characters: str) -> str:
        found = self._next()
        if found and found not in characters:
            raise ValueError(f"expected {' or '.join(characters)}, not {found!r}")
        self._at += bool(found)
        return found

    def _value(self) -> tuple[bool, Any]:
        """(complete, the value). A number may go on in the next octets: something must follow."""
        if not self._next():
            return False, None
        try:
            value, end = _DECODER.raw_decode(self._text, self._at)
        except ValueError:
            if self._text[self._at] not in '{["-0123456789tfn':
                raise
            self._short = (len(self._text) - self._at) * 3 // 2
            return False, None
        if end == len(self._text):
            return False, None
        self._at = end
        return True, value

    def _open(self, items: list[dict[str, Any]]) -> bool:
        if self._expect("{"):
            self._state = self._key
            return True
        return False

    def _key(self, items: list[dict[str, Any]]) -> bool:
        if self._next() == "}":
            self.done = True
            return True
        start = self._at
        complete, key = self._value()
        if not complete:
            return False
        if not isinstance(key, str):
            raise ValueError(f"expected a key, not {key!r}")
        colon = self._expect(":")
        opening = self._next() if colon else ""
        if not opening:
            self._at = start
            return False
        if key == "items" and opening == "[":
            self._at += 1
            self._state = self._item
            return True
        complete, value = self._value()
        if not complete:
            self._at = start
            return False
        self.rest[key] = value
        self._state = self._comma
        return True

    def _item(self, items: list[dict[str, Any]]) -> bool:
        found = self._next()
        if found in ("]", ","):
            self._at += 1
            self._state = self._comma if found == "]" else self._item
            return True
        complete, value = self._value()
        if complete and not isinstance(value, dict):
            raise ValueError(f"expected an object, not {value!r}"[:200])
        if complete:
            items.append(value)
        return complete

    def _comma(self, items: list[dict[str, Any]]) -> bool:
        found = self._expect(",}")
        if found:
            self.done = found == "}"
            self._state = self._key
        return bool(found)
