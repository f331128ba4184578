"""A file of the state directory: what was written is read, what goes wrong is logged and named."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from bgpd.daemon.state_file import StateFile
from bgpd.model.doors import Impossible


def test_what_was_written_is_read_in_a_directory_that_was_not_there(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "a" / "b", "x.json")
    assert file.read(dict, absent={"no": 1}, unreadable={}, counts_as="none") == {"no": 1}
    file.write({"peer": "words"}, "")
    assert file.read(dict, absent={}, unreadable={}, counts_as="none") == {"peer": "words"}
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["x.json"]
    file.write(None, "")
    file.write(None, "")  # nothing to remove
    assert file.read(dict, absent={"no": 1}, unreadable={}, counts_as="none") == {"no": 1}


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b"3", b"null", b'"x"'])
def test_what_cannot_be_read_is_logged(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "x.json").write_bytes(content)
    found = StateFile(tmp_path, "x.json").read(
        lambda value: value["withdraw"], absent=0, unreadable=7, counts_as="seven"
    )
    assert found == 7
    (record,) = caplog.records
    assert "state_unreadable" in record.getMessage() and "counts_as=seven" in record.getMessage()


def test_what_cannot_be_kept_is_refused_in_words(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(Impossible, match=r"^it is so: .*/file.*: Not a dir"),
    ):
        StateFile(tmp_path / "file" / "below", "x.json").write({}, "it is so")
    assert "state_not_kept" in caplog.text
