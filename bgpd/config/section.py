"""Sections of the configuration: classes of typed keys with defaults, all of whose mistakes are found at once.

``config`` declares them, ``values`` has the kinds of values, ``reading`` reads a file by them, ``schema`` describes
them. A library of models costs a start 0.2 s and a node 10 MiB: this is what a file of a hundred keys needs of one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Generic, NamedTuple, NoReturn, Self, TypeVar, cast

T = TypeVar("T")
S = TypeVar("S", bound="Section")


class Mistake(NamedTuple):
    """What is wrong at one place of the file, below where it was looked for."""

    path: tuple[str | int, ...]
    message: str


class Mistakes(ValueError):
    """All that is wrong with a value that holds others."""

    def __init__(self, found: Iterable[Mistake]) -> None:
        self.found = tuple(found)
        super().__init__("; ".join(mistake.message for mistake in self.found))


def mistakes_of(error: ValueError, *path: str | int) -> Iterable[Mistake]:
    """What a kind's refusal says, as seen from ``path`` above it."""
    found = error.found if isinstance(error, Mistakes) else [Mistake((), str(error))]
    return [Mistake((*path, *mistake.path), mistake.message) for mistake in found]


def _as_it_is(value: Any) -> Any:
    return value


class Kind(NamedTuple, Generic[T]):
    """What a key may hold."""

    parse: Callable[[object], T]
    """From a value of YAML. A ``ValueError`` says what was expected, ``Mistakes`` what is wrong inside."""
    schema: Mapping[str, Any]
    text: Callable[[T], object] = _as_it_is
    """The value's text, as the file has it."""
    section: type[Section] | None = None
    """The one that is somewhere inside."""


_REQUIRED: Any = object()


class Key(NamedTuple):
    """One key of a section."""

    kind: Kind[Any]
    default_value: Any
    """The same for every file; ``_REQUIRED`` where there is none."""
    made_by: Callable[[], Any] | None
    """Makes the default, where it is not the same everywhere, or may hold others."""

    @property
    def required(self) -> bool:
        """Whether the file must have it."""
        return self.default_value is _REQUIRED and self.made_by is None

    @property
    def constant(self) -> bool:
        """Whether the default is the same everywhere."""
        return self.default_value is not _REQUIRED


def setting(kind: Kind[T], default: T = _REQUIRED, *, made_by: Callable[[], T] | None = None) -> T:
    """Declares a key in the body of a ``Section``, for which it is its value: ``port: int = setting(PORT, 179)``."""
    return cast(T, Key(kind, default, made_by))


class Section:
    """Frozen values by key. Those of one class are equal where all their values are."""

    keys: ClassVar[Mapping[str, Key]] = {}
    given: frozenset[str]
    """The keys that were set, where the others have their default."""

    def __init_subclass__(cls) -> None:
        own = {name: value for name, value in vars(cls).items() if isinstance(value, Key)}
        for name in own:
            delattr(cls, name)
        cls.keys = {**cls.keys, **own}

    def __init__(self, **values: Any) -> None:
        """``values`` are as they are inside, not as the file has them, and nothing is checked."""
        if strange := values.keys() - self.keys.keys():
            raise TypeError(f"{type(self).__name__} has no {', '.join(sorted(strange))}")
        for name, key in self.keys.items():
            if name in values:
                vars(self)[name] = values[name]
            elif key.required:
                raise TypeError(f"{type(self).__name__} needs {name}")
            else:
                vars(self)[name] = key.default_value if key.made_by is None else key.made_by()
        vars(self)["given"] = frozenset(values)

    @classmethod
    def parse(cls, value: object) -> Self:
        """From keys and values of YAML; one all of whose keys are commented out is empty, not an error. Raises
        ``Mistakes``."""
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise ValueError(f"expected keys and values, not {short(value)}")
        values: dict[str, Any] = {}
        mistakes: list[Mistake] = []
        for name, key in cls.keys.items():
            if name in value:
                try:
                    values[name] = key.kind.parse(value[name])
                except ValueError as error:
                    mistakes += mistakes_of(error, name)
            elif key.required:
                mistakes.append(Mistake((name,), "expected, but not there"))
        mistakes += [Mistake((str(name),), cls._unknown(str(name))) for name in value if name not in cls.keys]
        if mistakes:
            raise Mistakes(mistakes)
        section = cls(**values)
        section.check()
        return section

    @classmethod
    def _unknown(cls, name: str) -> str:
        import difflib  # only who has made a mistake waits for it

        close = difflib.get_close_matches(name, cls.keys, 1)
        known = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(cls.keys)}"
        return f"unknown key: {known}"

    def check(self) -> None:
        """What concerns several keys at once: ``ValueError`` says what is wrong."""

    def replace(self, values: Mapping[str, Any]) -> Self:
        """The same with other values, which count as given; nothing is checked."""
        changed = type(self)(**{**{name: getattr(self, name) for name in self.keys}, **values})
        vars(changed)["given"] = self.given | values.keys()
        return changed

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.keys)

    __hash__ = None  # type: ignore[assignment]  # it may hold mappings

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self.keys)})"


def short(value: object) -> str:
    """A value of YAML as an error text names it, cut to 60 characters."""
    if isinstance(value, dict | list):
        return "a list" if isinstance(value, list) else "keys and values"
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else repr(value)[:60]


# Kinds that are made of what they hold, and the plain ones.


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, not {short(value)}")
    return value


FLAG: Kind[bool] = Kind(_flag, {"type": "boolean"})


def whole(least: int, most: int | None = None) -> Kind[int]:
    """A whole number between the two."""

    def parse(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"expected a whole number, not {short(value)}")
        if value < least:
            raise ValueError(f"expected greater than or equal to {least}, not {short(value)}")
        if most is not None and value > most:
            raise ValueError(f"expected less than or equal to {most}, not {short(value)}")
        return value

    limits = {"minimum": least} if most is None else {"minimum": least, "maximum": most}
    return Kind(parse, {"type": "integer", **limits})


def text(most: int | None = None, pattern: str = "") -> Kind[str]:
    """Text that is not empty, of ``most`` characters, all of it as ``pattern`` says (which JSON Schema has too)."""

    def parse(value: object) -> str:
        if not isinstance(value, str):
            raise ValueError(f"expected text, not {short(value)}")
        if not value:
            raise ValueError(f"expected text that is not empty, not {value!r}")
        if most is not None and len(value) > most:
            raise ValueError(f"expected at most {most} characters, not {len(value)}")
        if pattern and not re.fullmatch(pattern, value):
            raise ValueError(f"expected text such as {pattern}, not {short(value)}")
        return value

    limits = {"minLength": 1} if most is None else {"minLength": 1, "maxLength": most}
    return Kind(parse, {"type": "string", **({"pattern": f"^{pattern}$"} if pattern else limits)})


def one_of(*words: str) -> Kind[Any]:
    """One of some words; typed loosely, since a key's own type names them."""

    def parse(value: object) -> object:
        if not isinstance(value, str) or value not in words:
            raise ValueError(f"expected {', '.join(words[:-1])} or {words[-1]}, not {short(value)}")
        return value

    return Kind(parse, {"enum": list(words), "type": "string"})


def optional(kind: Kind[T]) -> Kind[T | None]:
    """The same, or null."""
    return Kind(
        lambda value: None if value is None else kind.parse(value),
        {"anyOf": [kind.schema, {"type": "null"}]},
        lambda value: None if value is None else kind.text(value),
        kind.section,
    )


def list_of(kind: Kind[T], most: int | None = None) -> Kind[tuple[T, ...]]:
    """A list of the same, of ``most`` items."""

    def parse(value: object) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise ValueError(f"expected a list, not {short(value)}")
        if most is not None and len(value) > most:
            raise ValueError(f"expected a list of at most {most}, not {len(value)}")
        found, mistakes = list[T](), list[Mistake]()
        for place, item in enumerate(value):
            try:
                found.append(kind.parse(item))
            except ValueError as error:
                mistakes += mistakes_of(error, place)
        if mistakes:
            raise Mistakes(mistakes)
        return tuple(found)

    limit = {} if most is None else {"maxItems": most}
    schema = {"type": "array", "items": kind.schema, **limit}
    return Kind(parse, schema, lambda values: [kind.text(value) for value in values], kind.section)


def mapping_of(kind: Kind[T]) -> Kind[Mapping[str, T]]:
    """Names, of the reader's choice, of the same; null is none."""

    def parse(value: object) -> Mapping[str, T]:
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise ValueError(f"expected keys and values, not {short(value)}")
        found, mistakes = dict[str, T](), list[Mistake]()
        for name, item in value.items():
            try:
                if not isinstance(name, str):
                    raise ValueError(f"expected a name that is text, not {short(name)}")
                found[name] = kind.parse(item)
            except ValueError as error:
                mistakes += mistakes_of(error, str(name))
        if mistakes:
            raise Mistakes(mistakes)
        return found

    schema = {"type": "object", "additionalProperties": kind.schema}
    return Kind(parse, schema, lambda values: {k: kind.text(v) for k, v in values.items()}, kind.section)


def section(of: type[S]) -> Kind[S]:
    """A section inside another."""
    return Kind(of.parse, {"$ref": f"#/$defs/{of.__name__}"}, section=of)


def checked(kind: Kind[T], check: Callable[[T], T]) -> Kind[T]:
    """A kind whose values are looked at once more: ``check`` returns the value, or raises ``ValueError``."""
    return kind._replace(parse=lambda value: check(kind.parse(value)))
