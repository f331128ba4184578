"""Fixtures of all tests: a net of namespaces, and what it looked like when a test in it failed."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator

import pytest
from hypothesis import settings

from testing.namespaces import Net

pytest.register_assert_rewrite("tests.interop.suite")

# A busy machine makes no property false.
settings.register_profile("bgpd", deadline=None, max_examples=60)
settings.load_profile("bgpd")

signal.signal(signal.SIGTERM, signal.default_int_handler)
"""A run that is terminated takes its namespaces and processes down, as one that is interrupted does."""
signal.signal(signal.SIGINT, signal.default_int_handler)
"""Where a run's parent ignores SIGINT, as a shell has it in the background, those that tests interrupt would too."""

NET = pytest.StashKey[Net]()


@pytest.fixture
def net(request: pytest.FixtureRequest) -> Iterator[Net]:
    """Namespaces and daemons of one test, gone after it."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    with Net() as made:
        request.node.stash[NET] = made
        yield made


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test's report shows what its net looked like."""
    report = yield
    made = item.stash.get(NET, None)
    if made is not None and call.when == "call" and report.failed:
        report.sections.append(("the net", made.report()))
    return report
