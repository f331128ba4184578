"""``dataclass`` of the standard library, made in a third of the time: a daemon waits for eighty of them at its start.

Before Python 3.13 the library compiles each method by itself; here all of a class are one compilation, and those that
need no text of their own are shared. It has the options that are used here, and no more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(*, frozen: bool = False, slots: bool = False, eq: bool = True) -> Callable[[type], type]:
        """As ``dataclasses.dataclass``; ``fields``, ``field``, ``replace`` and ``asdict`` are that module's."""

        def decorate(plain: type) -> type:
            own = set(vars(plain))
            hashed = "__hash__" in own and not (plain.__hash__ is None and "__eq__" in own)
            cls = dataclasses.dataclass(init=False, repr=False, eq=False, slots=slots)(plain)
            methods = _compiled(cls, frozen, slots, eq)
            if eq:
                methods.setdefault("__hash__", None)
                if hashed:
                    del methods["__hash__"]
            methods["__repr__"] = _repr
            if frozen:
                methods |= _FROZEN
            for name, method in methods.items():
                if name not in own or name == "__hash__":
                    setattr(cls, name, method)
            return cls

        return decorate


def _compiled(cls: Any, frozen: bool, slots: bool, eq: bool) -> dict[str, Any]:
    """The methods that are written for a class: its fields by name cost a third of what a loop over them does."""
    parameters, body, known = ["self"], list[str](), dict[str, Any]()
    known |= {"_set": object.__setattr__, "_made": _MADE}
    fields = dataclasses.fields(cls)
    for field in fields:
        name, value = field.name, field.name
        if field.kw_only:
            raise TypeError(f"{cls.__qualname__}.{name}: keyword-only fields are not made here")
        if field.default_factory is not dataclasses.MISSING:
            known[f"_new_{name}"] = field.default_factory
            parameters += [f"{name}=_made"] if field.init else []
            value = f"_new_{name}() if {name} is _made else {name}" if field.init else f"_new_{name}()"
        elif field.default is not dataclasses.MISSING:
            known[f"_default_{name}"] = field.default
            parameters += [f"{name}=_default_{name}"] if field.init else []
            value = name if field.init else f"_default_{name}"
        elif field.init:
            parameters.append(name)
        else:
            continue  # ``__post_init__`` sets it
        body.append(f" _set(self, {name!r}, {value})" if frozen else f" self.{name} = {value}")
    if hasattr(cls, "__post_init__"):
        body.append(" self.__post_init__()")
    text = [f"def __init__({', '.join(parameters)}):", *(body or [" pass"])]
    if eq:
        compared = [field.name for field in fields if field.compare]
        mine, other = ("".join(f"{who}.{name}, " for name in compared) for who in ("self", "other"))
        text += ["def __eq__(self, other):", " if other.__class__ is self.__class__:"]
        text += [f"  return ({mine}) == ({other})", " return NotImplemented"]
        if frozen:
            hashed = (f.name for f in fields if (f.compare if f.hash is None else f.hash))
            text += ["def __hash__(self):", f" return hash(({''.join(f'self.{name}, ' for name in hashed)}))"]
    made: dict[str, Any] = {}
    exec("\n".join(text), known, made)
    for name, method in made.items():
        method.__qualname__ = f"{cls.__qualname__}.{name}"
        method.__module__ = cls.__module__
    return made


_MADE = object()
"""In place of a value that the field makes."""


@recursive_repr()
def _repr(self: Any) -> str:
    shown = (f"{f.name}={getattr(self, f.name)!r}" for f in dataclasses.fields(self) if f.repr)
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _set(self: Any, name: str, value: object) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _delete(self: Any, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


def _state(self: Any) -> list[object]:
    return [getattr(self, field.name) for field in dataclasses.fields(self)]


def _restore(self: Any, state: list[object]) -> None:
    for field, value in zip(dataclasses.fields(self), state, strict=True):
        object.__setattr__(self, field.name, value)


_FROZEN = {"__setattr__": _set, "__delattr__": _delete, "__getstate__": _state, "__setstate__": _restore}
