"""Our ``dataclass`` makes what the standard library's makes."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import re
from collections.abc import Callable
from dataclasses import field, fields, replace
from pathlib import Path
from typing import Any

import pytest

from bgpd.model.dataclass import dataclass

BGPD = Path(__file__).parents[2] / "bgpd"


def plain(decorate: Callable[..., Any]) -> Any:
    @decorate(frozen=True, slots=True)
    class Plain:
        first: int
        second: str = "b"
        third: tuple[int, ...] = field(default_factory=tuple)
        hidden: str = field(default="h", repr=False, compare=False)
        made: int = field(init=False, compare=False)
        constant: int = field(init=False, default=7)

        def __post_init__(self) -> None:
            object.__setattr__(self, "made", self.first * 2)

    return Plain


def inherited(decorate: Callable[..., Any]) -> Any:
    @decorate(frozen=True, slots=True)
    class More(plain(decorate)):  # type: ignore[misc]
        fourth: int = 4

    return More


def mutable(decorate: Callable[..., Any]) -> Any:
    @decorate(slots=True)
    class Mutable:
        first: int
        second: dict[str, int] = field(default_factory=dict)

        def __repr__(self) -> str:
            return "its own"

    return Mutable


def identity(decorate: Callable[..., Any]) -> Any:
    @decorate(frozen=True, slots=True, eq=False)
    class Identity:
        first: int

    return Identity


def own_hash(decorate: Callable[..., Any]) -> Any:
    @decorate(frozen=True, slots=True)
    class OwnHash:
        first: int
        second: str = ""

        def __hash__(self) -> int:
            return self.first

    return OwnHash


@pytest.mark.parametrize("make", [plain, inherited, mutable, identity, own_hash])
def test_as_the_standard_librarys(make: Callable[[Callable[..., Any]], Any]) -> None:
    ours, theirs = make(dataclass), make(dataclasses.dataclass)

    def told(cls: Any) -> list[object]:
        one, same, other = cls(1), cls(1), cls(2)
        found: list[object] = [repr(one), one == same, one == other, one == 1, cls.__match_args__]
        found += [[(f.name, f.init, f.repr, f.compare) for f in fields(cls)], hasattr(one, "__dict__")]
        found += [
            cls.__hash__ is None,
            cls.__hash__ is not None and (hash(one) == hash(same), hash(one) == 1),
        ]
        found += [repr(replace(one, first=3)), dataclasses.asdict(one), repr(copy.copy(one))]
        found += [copy.deepcopy(one) == one, dataclasses.astuple(copy.deepcopy(one))]
        found += [cls.__init__.__qualname__, cls.__init__.__module__, cls.__eq__ is object.__eq__]
        for change in (lambda: setattr(one, "first", 5), lambda: delattr(one, "first")):
            try:
                change()
            except AttributeError as error:
                found += [type(error), str(error)]
        for words in ((), (1, 2, 3, 4, 5, 6, 7)):
            with pytest.raises(TypeError) as refused:
                cls(*words)
            found.append(str(refused.value))
        return found

    assert told(ours) == told(theirs)


@dataclass(frozen=True, slots=True)
class Kept:
    """One that is known by its name, as pickle wants it."""

    first: int
    second: tuple[int, ...] = ()


def test_what_is_written_and_read_is_equal() -> None:
    kept = Kept(1, (2, 3))
    assert pickle.loads(pickle.dumps(kept)) == kept
    assert isinstance({kept: 1}, dict) and {kept: 1}[Kept(1, (2, 3))] == 1


def test_what_is_not_made_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Words\.first: keyword-only fields are not made here"):

        @dataclass(slots=True)
        class Words:
            first: int = field(kw_only=True)


def test_a_list_as_a_default_is_refused() -> None:
    with pytest.raises(ValueError, match="mutable default"):

        @dataclass(slots=True)
        class Shared:
            first: list[int] = []  # noqa: RUF012


def test_all_of_the_daemon_are_made_by_it() -> None:
    others = [
        str(path.relative_to(BGPD))
        for path in BGPD.rglob("*.py")
        if path.name != "dataclass.py"
        and re.search(
            r"^\s*(from dataclasses import.*\bdataclass\b|@dataclasses\.dataclass)", path.read_text(), re.M
        )
    ]
    assert others == []
