"""Files that somebody names: what is there instead of one is an error with words, for each program that reads them."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from bgpd.cli import daemon
from bgpd.cli.ctl import main as bgpctl
from bgpd.config.named_files import MOST, NoFile, TooLarge, read_named
from bgpd.config.reading import ConfigError, load
from bgpd.datastore.files_store import FilesStore
from bgpd.model.ipam import Kind


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 200 << 30)


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


INSTEAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "fifo": (os.mkfifo, "a FIFO, not a file"),
    "directory": (os.mkdir, "a directory, not a file"),
    "socket": (a_socket, "a socket, not a file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "a device, not a file"),
    "sparse": (sparse, "214748364800 octets, more than"),
}


@pytest.fixture(params=INSTEAD)
def instead(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """What stands in the place of a file, and the words for it."""
    make, words = INSTEAD[request.param]
    (tmp_path / "d").mkdir()
    make(tmp_path / "d" / "x.yaml")
    return tmp_path / "d" / "x.yaml", words


def test_what_is_no_file_or_too_large(instead: tuple[Path, str]) -> None:
    path, words = instead
    with pytest.raises((NoFile, TooLarge)) as caught:
        read_named(path)
    assert words in str(caught.value.strerror)


def test_a_file_may_grow_while_it_is_read_and_a_shells_stream_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_named(tmp_path / "a", 5) == b"12345"
    with pytest.raises(TooLarge):
        read_named(tmp_path / "a", 4)
    with pytest.raises(FileNotFoundError):
        read_named(tmp_path / "b")
    with pytest.raises(TooLarge):
        read_named("/dev/zero", 1 << 20, streams=True)
    os.mkfifo(tmp_path / "fifo")
    writer = threading.Thread(target=(tmp_path / "fifo").write_bytes, args=(b"[]",))
    writer.start()
    assert read_named(tmp_path / "fifo", streams=True) == b"[]"
    writer.join()
    assert MOST > 20 << 20


def test_the_configuration(instead: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    path, words = instead
    with pytest.raises(ConfigError, match="cannot be read"):
        load(path)
    assert daemon.main(["config", "check", str(path)]) == 78
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["directory", "sparse"])
def test_commands(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where a person names a stream it is read; what is no stream either is named."""
    INSTEAD[kind][0](tmp_path / "x.yaml")
    path, resources = str(tmp_path / "x.yaml"), tmp_path / "resources"
    resources.mkdir()
    (resources / "node.yaml").write_text(
        "{apiVersion: projectcalico.org/v3, kind: Node, metadata: {name: a}, spec: {}}"
    )
    here = ["--resources", str(resources), "--node", "a"]
    for argv in (
        ["plan", *here, "--kernel", path],
        ["policy", "test", *here, "--peer", "b", "--direction", "import", path],
    ):
        assert daemon.main(argv) == 2
        assert path in capsys.readouterr().err
    assert bgpctl(["apply", "-f", path, "--resources", str(resources)]) == 1
    assert path in capsys.readouterr().err


def test_a_store_of_resources_passes_over_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / "directory.yaml").mkdir()
    assert list(FilesStore(tmp_path).list(Kind.POOL)) == []
