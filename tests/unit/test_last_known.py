"""What is kept of a server: written where it differs, and no more than a disk bears."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bgpd.datastore import last_known
from bgpd.datastore.last_known import LastKnown
from bgpd.datastore.reflector import Put


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(last_known.time, "monotonic", lambda: now[0])
    return now


def test_a_large_file_is_written_at_the_pace_of_a_disk(tmp_path: Path, clock: list[float]) -> None:
    kept = LastKnown(tmp_path)
    for number in range(64):
        kept.put("services", Put(str(number), "", {"spec": "x" * (10 << 10)}))
    lines = kept.take()
    assert lines is not None and len(lines) == 64  # of 640 KiB: ten seconds
    kept.write("s", lines)
    os.utime(kept.path, (1, 1))
    kept._stamped = 0.0
    kept.put("services", Put("1", "", {}))
    for later in (5.0, 4.9):
        clock[0] += later
        assert kept.take() is None
        kept.write("s", None)
    assert kept.path.stat().st_mtime == 1  # what is there is not said to be true
    clock[0] += 0.5
    kept.write("s", kept.take())
    found = kept.read("s")
    assert found is not None and found.as_of > 1
    assert {each.key: each.document for each in found.objects["services"]}["1"] == {}
    assert kept.take() is None


def test_a_small_file_is_written_at_once(tmp_path: Path, clock: list[float]) -> None:
    kept = LastKnown(tmp_path)
    for number in range(3):
        kept.put("nodes", Put(str(number), "", {"metadata": {"name": "n"}}))
        clock[0] += 5.0
        lines = kept.take()
        assert lines is not None and len(lines) == number + 1
        kept.write("s", lines)
    kept._stamped = 0.0
    os.utime(kept.path, (1, 1))
    kept.write("s", kept.take())
    assert kept.path.stat().st_mtime > 1
