"""Reading the keys of one object from YAML or JSON, each mistake noted with its path. Every decoder uses it.

A field of text takes any scalar, as calicoctl does, since Go prints some text that YAML takes for a number without
quotes (``12e4567``): what counts is the text that stands there. Booleans and numbers are spelled as Go's YAML takes
them, which is that of 1.1 there: ``yes``, ``0b11010``, ``1_000``, and ``010`` is eight.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Any, NoReturn, TypeVar

from bgpd.config.yaml import Scalar
from bgpd.model.prefix import (
    Address,
    Family,
    Prefix,
    address_text,
    family_of,
    network_address,
    parse_address,
    parse_prefix,
    prefix_text,
)

E = TypeVar("E", bound=Enum)
T = TypeVar("T")

_MAPPED = bytes(10) + b"\xff\xff"
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}
_TERM = r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ms|us|µs|μs|ns|h|m|s)"


_TRUE = ("true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON", "y", "Y")
_FALSE = ("false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF", "n", "N")
_BOOL = {**dict.fromkeys(_TRUE, True), **dict.fromkeys(_FALSE, False)}
_NUMBER = re.compile(r"[-+]?(?:0[xX][0-9a-fA-F]+|0[oO]?[0-7]+|0[bB][01]+|[1-9][0-9]*|0)")


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

    def bad(self, key: str, message: str) -> NoReturn:
        self.note(key, message)
        raise Bad

    def get(self, key: str) -> Any:
        """What YAML takes the value for; ``None`` when unset."""
        value = self.data.get(key)
        return value.value if isinstance(value, Scalar) else None if value == "" else value

    # -- sections and lists --------------------------------------------------------------------------------------------

    def section(self, key: str) -> Fields:
        return Fields(self.data.get(key), self.at(key), self.notes)

    def mapping(self, key: str) -> Fields:
        """A section that is no reason to lose the object: something else there is noted, and as if unset."""
        value = self.data.get(key)
        if value is not None and not isinstance(value, dict):
            self.note(key, "expected keys and values: ignored")
            value = None
        return Fields(value, self.at(key), self.notes)

    def entries(self, key: str) -> list[tuple[str, Any]]:
        """The entries of a list, each with its key (``communities.0``)."""
        value = self.get(key)
        if value is not None and not isinstance(value, list):
            self.bad(key, "expected a list")
        return [(f"{key}.{index}", entry) for index, entry in enumerate(value or ())]

    def words(self, key: str) -> str:
        """Text that nothing depends on: empty where something else stands there."""
        return as_text(self.data.get(key)) or ""

    def scalars(self) -> dict[str, str]:
        """All keys, as labels have them. Null is the empty text; what is no scalar is noted and left out."""
        found = {}
        for key, value in self.data.items():
            text = "" if value is None else as_text(value)
            if text is None:
                self.note(as_text(key) or str(key), f"expected text, not {value!r}; left out")
            else:
                found[as_text(key) or ""] = text
        return found

    def sections(self, key: str) -> Iterator[Fields]:
        """The entries of a list of mappings."""
        for at, entry in self.entries(key):
            yield Fields({} if entry is None else entry, self.at(at), self.notes)

    def each_good(self, key: str, read: Callable[[Fields], T]) -> tuple[T, ...] | None:
        """What ``read`` makes of each entry of a list of mappings. A wrong one costs itself only: it is noted and left
        out. ``None`` when unset."""
        found = []
        for at, entry in self.entries(key):
            try:
                found.append(read(Fields({} if entry is None else entry, self.at(at), self.notes)))
            except Bad:
                path, message = self.notes.pop()
                self.notes.append((path, f"{message}; left out"))
        return None if self.get(key) is None else tuple(found)

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts."""
        found = []
        for at, entry in self.entries(key):
            text = as_text(entry)
            if not text:
                self.bad(at, f"expected text, not {entry!r}")
            found.append(text)
        return tuple(found)

    # -- values --------------------------------------------------------------------------------------------------------

    def text(self, key: str) -> str | None:
        value = self.data.get(key)
        text = as_text(value)
        if text is None and value is not None:
            self.bad(key, f"expected text, not {value!r}")
        return text or None

    def required(self, key: str) -> str:
        value = self.text(key)
        if value is None:
            self.bad(key, "expected, but not there")
        return value

    def flag(self, key: str, default: bool | None = None) -> Any:
        """A boolean; crd v1 writes some of them as text."""
        value = self.get(key)
        if value is None:
            return default
        found = _BOOL.get(value) if isinstance(value, str) else value
        if not isinstance(found, bool):
            self.bad(key, f"expected true or false, not {value!r}")
        return found

    def number(self, key: str) -> Any:
        """What stands there, a text as the number that it means, if any; nothing and an empty text are ``None``."""
        value = as_number(self.data.get(key))
        return None if value == "" else value

    def integer(self, key: str, low: int, high: int) -> int | None:
        value = self.number(key)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            self.bad(key, f"expected a whole number from {low} to {high}, not {value!r}")
        return int(value)

    def option(self, key: str, options: Mapping[str, T]) -> T | None:
        """What one of a few words stands for."""
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, str) or value not in options:
            expected = f"one of {', '.join(options)}" if len(options) > 1 else next(iter(options))
            self.bad(key, f"expected {expected}, not {value!r}")
        return options[value]

    def member(self, key: str, kind: type[E]) -> E | None:
        """A member of an enum, by its value."""
        return self.option(key, {str(member.value): member for member in kind})

    def parsed(self, key: str, parse: Callable[[str], T]) -> T | None:
        """``parse`` of the text there, its ``ValueError`` noted; ``None`` when unset."""
        value = self.text(key)
        try:
            return None if value is None else parse(value)
        except ValueError as error:
            self.bad(key, str(error))

    def lenient(self, key: str, parse: Callable[[str], T]) -> T | None:
        """As ``parsed``, for what is no reason to lose the object: a wrong value is noted, and as if unset."""
        try:
            return self.parsed(key, parse)
        except Bad:
            path, message = self.notes.pop()
            self.notes.append((path, f"{message}: ignored"))
            return None

    def asn(self, key: str, zero_is_unset: bool = False) -> int | None:
        """An AS number as 65000, "65000" or "1.10" (RFC 5396 asdot)."""
        value = self.get(key) and as_number(self.data[key])
        if value is None or (zero_is_unset and value in (0, "0") and not isinstance(value, bool)):
            return None
        try:
            return parse_asn(value)
        except ValueError as error:
            self.bad(key, str(error))

    def asns(self, key: str) -> tuple[int, ...]:
        """A list of AS numbers."""
        found = []
        for at, entry in self.entries(key):
            try:
                found.append(parse_asn(as_number(entry)))
            except ValueError as error:
                self.bad(at, str(error))
        return tuple(found)

    def duration(self, key: str, most: int) -> float | None:
        """Seconds, from Go's spelling: ``120s``, ``2m0s``."""
        value = self.get(key)
        if value is None:
            return None
        try:
            seconds = parse_duration(value)
        except ValueError as error:
            self.bad(key, str(error))
        if seconds > most:
            self.bad(key, f"expected at most {most}s, not {value!r}")
        return seconds

    def address(self, key: str, family: Family | None = None) -> Address | None:
        """An address, of a family where one is given."""
        address = self.parsed(key, plain_address)
        if address is not None and family is not None and family_of(address) is not family:
            self.bad(key, f"{self.get(key)!r} is not of {family.label}")
        return address

    def block(self, key: str = "cidr", wanted: Family | None = None) -> tuple[Family, Prefix]:
        """A CIDR without host bits, of a family where one is given."""
        text = self.required(key)
        try:
            family, prefix = parse_prefix(text)
        except ValueError as error:
            self.bad(key, str(error))
        first = network_address(family, prefix)
        if family is Family.IPV6 and prefix[0] >= 96 and first.startswith(_MAPPED):
            meant = f"{address_text(Address(first[12:]))}/{prefix[0] - 96}"
            self.bad(key, f"{text!r} is IPv4 inside IPv6: expected {meant}?")
        if wanted is not None and family is not wanted:
            self.bad(key, f"{text!r} is not of {wanted.label}")
        if "/" not in text:
            self.bad(key, f"{text!r} has no length: expected {prefix_text(family, prefix)}?")
        if parse_address(text.partition("/")[0]) != first:
            self.bad(key, f"{text!r} has host bits: expected {prefix_text(family, prefix)}?")
        return family, prefix

    # -- keys that nobody reads ----------------------------------------------------------------------------------------

    def known(self, names: str) -> None:
        """Notes keys other than these."""
        for key in self._others(names):
            self.note(key, "unknown: ignored")

    def only(self, names: str) -> None:
        """Refuses keys other than these: where one that is not heeded would change what the others mean."""
        for key in self._others(names):
            self.bad(key, f"unknown: expected {', '.join(names.split())}")

    def _others(self, names: str) -> list[str]:
        known = names.split()
        return [str(key) for key in self.data if key not in known]


def as_text(value: object) -> str | None:
    """A scalar as text: as it stands there, or as Go writes what JSON has. ``None`` for null and for collections."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else None


def as_number(value: Any) -> Any:
    """A scalar that YAML or Go takes for a whole number as that number, in Go's reading; anything else as YAML has it.
    Text of digits alone stays text: it stood in quotes."""
    if not isinstance(value, str) or (not isinstance(value, Scalar) and value.isdecimal()):
        return value
    digits = value.replace("_", "")
    if len(digits) > 80 or not _NUMBER.fullmatch(digits):
        return value.value if isinstance(value, Scalar) else value
    sign, magnitude = ("-", digits[1:]) if digits[0] == "-" else ("", digits.lstrip("+"))
    octal = magnitude[0] == "0" and magnitude[1:].isdecimal()
    return int(f"{sign}{magnitude}", 8 if octal else 0)


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


def parse_duration(value: object) -> float:
    """Seconds from a duration as Go writes it, ``1h2m3.5s``; ``ValueError`` says what was expected."""
    if value == "0":
        return 0.0
    if not isinstance(value, str) or not re.fullmatch(f"(?:{_TERM})+", value):
        raise ValueError(f"expected a duration such as 120s or 2m0s, not {value!r}")
    return sum(float(number) * _UNITS[unit] for number, unit in re.findall(_TERM, value))


def plain_address(text: str) -> Address:
    """An address; one of IPv4 inside IPv6 is refused, since it would be of neither family."""
    address = parse_address(text)
    if address.startswith(_MAPPED) and len(address) == 16:
        raise ValueError(f"{text!r} is IPv4 inside IPv6: expected {address_text(Address(address[12:]))}?")
    return address
