"""A conflict lasts as long as the wish and the other's route do, and its ends are logged."""

import logging

import pytest

from bgpd.fib.programmer import Programming
from bgpd.kernel.conflicts import Conflicts
from bgpd.model.route import BLACKHOLE, FibKey
from tests.unit.builders import V4, pfx
from tests.unit.target_contract import MemoryTarget

KEY: FibKey = (pfx("10.48.0.0/26"), 0)
OTHER: FibKey = (pfx("10.48.0.64/26"), 0)


def programming() -> tuple[Programming, list[FibKey]]:
    resigned: list[FibKey] = []
    made = Programming(V4, MemoryTarget(), None, resigned=resigned.extend)  # type: ignore[arg-type]
    return made, resigned


def test_what_is_wanted_no_longer_is_resigned() -> None:
    """The rack switch withdraws what another's route stood in the way of: nothing of ours is there to delete."""
    made, resigned = programming()
    made.want_routes({KEY: BLACKHOLE, OTHER: BLACKHOLE})
    assert resigned == []
    made.want_routes({KEY: None, OTHER: BLACKHOLE})
    assert resigned == [KEY]


def test_what_another_took_over_and_nobody_wants_is_resigned() -> None:
    made, resigned = programming()
    made.kernel_changed([KEY])
    assert resigned == [KEY]


def test_conflicts_are_logged_when_they_begin_and_when_they_are_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    conflicts = Conflicts(V4)
    conflicts.begin(KEY, "proto static")
    conflicts.begin(KEY, "proto dhcp")
    conflicts.begin(OTHER, "proto static")
    conflicts.report()
    conflicts.end(KEY)
    conflicts.end(KEY)
    conflicts.report()
    conflicts.report()
    assert caplog.messages == [
        "event=conflicts family=ipv4 count=2 first=10.48.0.0/26",
        "event=conflicts_over family=ipv4 count=1 first=10.48.0.0/26",
    ]
    assert dict(conflicts) == {OTHER: "proto static"}


def test_repairs_are_logged_once_a_report(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    made, _ = programming()
    made.want_routes({KEY: BLACKHOLE, OTHER: BLACKHOLE})
    made.kernel_changed([KEY])
    made.kernel_changed([OTHER])
    made.report()
    made.report()
    assert caplog.messages == ["event=repairs family=ipv4 missing=2"]
