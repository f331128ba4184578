"""How many descriptors there are, and for whom the last are kept."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from bgpd.descriptors import ENOUGH, raise_limit, scarce


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """The limits of this process, as ``descriptors`` sees and sets them: the last one counts."""
    found = [(1024, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda which: found[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda which, new: found.append(new))
    yield found


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((1024, 4096), 4096),
        ((1024, 1 << 30), ENOUGH),
        ((1024, resource.RLIM_INFINITY), ENOUGH),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), ENOUGH),
        ((100_000, 200_000), 100_000),
        ((64, 64), 64),
    ],
)
def test_the_limit_is_raised_as_far_as_it_may_be(
    limits: list[tuple[int, int]], before: tuple[int, int], after: int
) -> None:
    limits[:] = [before]
    assert raise_limit() == after
    assert all(hard == before[1] for _, hard in limits)


@pytest.mark.parametrize("limit", [64, 256, 1024, 65_536])
def test_operators_stop_first_then_sessions(limits: list[tuple[int, int]], limit: int) -> None:
    limits[:] = [(limit, limit)]
    first = {
        session: next(number for number in range(limit) if scarce(number, session=session))
        for session in (False, True)
    }
    assert limit // 2 <= first[False] < first[True] < limit - 8
