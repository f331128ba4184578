"""Reading the keys of one object from YAML or JSON, each mistake noted with its path. ``datastore.decode`` uses it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, TypeVar

from bgpd.model.prefix import Family, Prefix, network_address, parse_address, parse_prefix, prefix_text

E = TypeVar("E", bound=Enum)


class Bad(Exception):
    """The object cannot be used; the problem is noted."""


class Fields:
    """The keys of one mapping, read one by one; what is wrong is noted with its path. Empty text counts as unset."""

    def __init__(self, data: object, path: str, notes: list[tuple[str, str]]) -> None:
        self.path, self.notes = path, notes
        if not isinstance(data, dict):
            self.data: dict[str, Any] = {}
            if data is not None:
                self.bad("", "expected keys and values")
        else:
            self.data = data

    def at(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path and key else self.path or key

    def note(self, key: str, message: str) -> None:
        self.notes.append((self.at(key), message))

    def bad(self, key: str, message: str) -> None:
        self.note(key, message)
        raise Bad

    def get(self, key: str) -> Any:
        value = self.data.get(key)
        return None if value == "" else value

    def section(self, key: str) -> Fields:
        return Fields(self.data.get(key), self.at(key), self.notes)

    def text(self, key: str) -> str | None:
        value = self.get(key)
        if value is not None and not isinstance(value, str):
            self.bad(key, f"expected text, not {value!r}: put it in quotes")
        return value  # type: ignore[no-any-return]  # str or None here

    def required(self, key: str) -> str:
        value = self.text(key)
        if value is None:
            self.bad(key, "expected, but not there")
        return str(value)

    def flag(self, key: str, default: bool | None = None) -> Any:
        """A boolean; crd v1 writes some of them as text."""
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, bool) and value not in ("true", "false"):
            self.bad(key, f"expected true or false, not {value!r}")
        return value in (True, "true")

    def integer(self, key: str, low: int, high: int) -> int | None:
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            self.bad(key, f"expected a whole number from {low} to {high}, not {value!r}")
        return int(value)

    def choice(self, key: str, kind: type[E], default: E) -> E:
        value = self.get(key)
        if value is None:
            return default
        try:
            return kind(value)
        except ValueError:
            names = ", ".join(str(member.value) for member in kind)
            self.bad(key, f"expected one of {names}, not {value!r}")
            raise

    def parsed(self, key: str, parse: Callable[[str], Any]) -> Any:
        """``parse`` of the text there, its ``ValueError`` noted; ``None`` when unset."""
        value = self.text(key)
        try:
            return None if value is None else parse(value)
        except ValueError as error:
            self.bad(key, str(error))

    def asn(self, key: str, zero_is_unset: bool = False) -> int | None:
        """An AS number as 65000, "65000" or "1.10" (RFC 5396 asdot)."""
        value = self.get(key)
        if value is None or (zero_is_unset and value == 0 and not isinstance(value, bool)):
            return None
        try:
            return parse_asn(value)
        except ValueError as error:
            self.bad(key, str(error))
            raise

    def block(self, key: str = "cidr") -> tuple[Family, Prefix]:
        """A CIDR without host bits."""
        text = self.required(key)
        family, prefix = self.parsed(key, parse_prefix)
        if "/" not in text:
            self.bad(key, f"{text!r} has no length: expected {prefix_text(family, prefix)}?")
        if parse_address(text.partition("/")[0]) != network_address(family, prefix):
            self.bad(key, f"{text!r} has host bits: expected {prefix_text(family, prefix)}?")
        return family, prefix

    def unsupported(self, known: str, ignored: Mapping[str, tuple[object, ...]]) -> None:
        """Notes the keys that are set to more than their defaults but not acted on, and those that nobody knows."""
        names = known.split()
        for key, value in self.data.items():
            if key in ignored:
                if value not in (None, "", [], {}) and value not in ignored[key]:
                    self.note(key, "not supported yet: ignored")
            elif key not in names:
                self.note(str(key), "unknown: ignored")


def parse_asn(value: object) -> int:
    """An AS number in any of its spellings; ``ValueError`` says what was expected."""
    if isinstance(value, str):
        high, dot, low = value.rpartition(".")
        if re.fullmatch(r"[0-9]{1,10}", low) and (re.fullmatch(r"[0-9]{1,5}", high) if dot else not high):
            parts = (int(high or 0), int(low))
            value = parts[0] * 65536 + parts[1] if not dot or max(parts) < 65536 else value
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 4294967295:
        hint = ": put it in quotes" if isinstance(value, float) else ""
        raise ValueError(f'expected an AS number such as 64512 or "1.10", not {value!r}{hint}')
    return value
