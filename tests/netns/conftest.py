"""Fixtures of the kernel door's tests."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.netns.kernel import Door, Netns, fresh_netns, running_door


@pytest.fixture
def netns() -> Iterator[Netns]:
    """A namespace of the test's own, which the test runs in."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    with fresh_netns() as made:
        yield made


@pytest.fixture
async def door(netns: Netns) -> AsyncIterator[Door]:
    """The kernel door, running in it."""
    async with running_door() as made:
        yield made
