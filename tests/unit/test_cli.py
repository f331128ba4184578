"""The command ``bgpd``: its words, its exit codes, and what it says of a wrong configuration."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from unwritable import check_unwritable_output

from bgpd import __version__
from bgpd.cli import daemon
from bgpd.config.reading import load

BAD = """\
router_id: 10.0.0.300
bgp:
  prot: 179
metrics:
  listen: 9179
"""


class Daemon(ModuleType):
    """In place of ``bgpd.daemon.daemon`` and ``bgpd.daemon.cleanup``: records what it is asked, and fails as it is set
    to."""

    def __init__(self) -> None:
        super().__init__("bgpd.daemon.daemon")
        self.asked: list[tuple[str, Any]] = []
        self.error: Exception | None = None

    class Rival(Exception):
        pass

    def run(self, path: Path, *, take_over: bool = False) -> None:
        self.asked.append(("run", path))
        load(path)
        if self.error:
            raise self.error

    def cleanup(self, config: Any) -> dict[str, int]:
        self.asked.append(("cleanup", config.api.socket))
        if self.error:
            raise self.error
        return {"ipv4": 3, "ipv6": 0}


@pytest.fixture
def wired(monkeypatch: pytest.MonkeyPatch) -> Daemon:
    stand_in = Daemon()
    monkeypatch.setitem(sys.modules, "bgpd.daemon.daemon", stand_in)
    monkeypatch.setitem(sys.modules, "bgpd.daemon.cleanup", stand_in)
    return stand_in


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory with a short name, for sockets."""
    with tempfile.TemporaryDirectory(prefix="bgpd") as made:
        yield Path(made)


def config(directory: Path, text: str = "") -> Path:
    path = directory / "bgpd.yaml"
    path.write_text(text or f"node: worker2\napi:\n  socket: {directory}/api.sock\n")
    return path


def test_check_of_a_good_file(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config(directory)
    path.write_text(f"node: worker2\ndatastore:\n  path: {directory}\n")
    assert daemon.main(["config", "check", str(path)]) == 0
    assert capsys.readouterr() == (f"{path}: nothing wrong\n", "")


def test_check_names_what_is_not_there(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A daemon would wait for these and say so; who checks a file must not have to start one to learn it."""
    path = config(directory, f"node: a\ndatastore: {{path: {directory}/none}}\n")
    assert daemon.main(["config", "check", str(path)]) == 0
    out, err = capsys.readouterr()
    assert out == f"{path}: nothing wrong in itself\n"
    words = "is not there: a bgpd here would wait for it, and do nothing meanwhile"
    assert err == f"bgpd: warning: {path}: datastore.path: {directory}/none {words}\n"
    (directory / "none").write_text("")
    secret = f"bgp: {{defaults: {{password_file: {directory}/secret}}}}\n"
    path.write_text(path.read_text() + secret)
    assert daemon.main(["config", "check", str(path)]) == 0
    err = capsys.readouterr().err
    assert f"{directory}/none is no directory" in err and f"{directory}/secret" in err
    path.write_text(f"node: a\ndatastore: {{type: kubernetes, kubeconfig: {directory}/admin.conf}}\n")
    assert daemon.main(["config", "check", str(path)]) == 0
    assert capsys.readouterr().err == (
        f"bgpd: warning: {path}: datastore.kubeconfig: there is no file {directory}/admin.conf\n"
    )


def test_check_names_every_mistake(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config(directory, BAD)
    assert daemon.main(["config", "check", str(path)]) == 78
    out, err = capsys.readouterr()
    head, *problems = err.splitlines()
    assert out == "" and head == "bgpd: the configuration has 3 mistakes:"
    assert len(problems) == 3
    for key in ("router_id", "bgp.prot", "metrics.listen"):
        assert any(str(path) in line and key in line for line in problems), key


def test_check_of_no_file(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert daemon.main(["config", "check", str(directory / "none.yaml")]) == 78
    assert "the configuration has 1 mistake:" in capsys.readouterr().err


def test_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert daemon.main(["config", "schema"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"node", "bgp", "datastore", "kernel"} <= found["properties"].keys()


def test_run(directory: Path, wired: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    path = config(directory)
    assert daemon.main(["run", "--config", str(path)]) == 0
    assert wired.asked == [("run", path)]
    wired.error = OSError(98, "cannot serve metrics on 127.0.0.1 port 9179: Address already in use")
    assert daemon.main(["run", "--config", str(path)]) == 1
    assert (
        capsys.readouterr().err
        == "bgpd: cannot serve metrics on 127.0.0.1 port 9179: Address already in use\n"
    )
    path.write_text(BAD)
    assert daemon.main(["run", "--config", str(path)]) == 78
    assert "router_id" in capsys.readouterr().err


def test_a_bug_is_not_hidden(directory: Path, wired: Daemon) -> None:
    wired.error = ExceptionGroup("unhandled errors", [OSError("a bug in a task")])
    with pytest.raises(ExceptionGroup):
        daemon.main(["run", "--config", str(config(directory))])


def test_cleanup(directory: Path, wired: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    path = config(directory)
    assert daemon.main(["cleanup", "--config", str(path)]) == 0
    assert wired.asked == [("cleanup", directory / "api.sock")]
    assert capsys.readouterr().out == "ipv4: 3 routes removed\nipv6: 0 routes removed\n"
    wired.error = wired.Rival("bird (pid 812)")
    assert daemon.main(["cleanup", "--config", str(path)]) == 1
    rival = "bgpd: another daemon writes `proto bird` routes here: bird (pid 812): stop it first\n"
    assert capsys.readouterr() == ("", rival)
    wired.error = PermissionError(1, "Operation not permitted")
    assert daemon.main(["cleanup", "--config", str(path)]) == 1
    assert capsys.readouterr().err == "bgpd: Operation not permitted\n"
    path.write_text(BAD)
    assert daemon.main(["cleanup", "--config", str(path)]) == 78


def test_cleanup_refuses_while_a_daemon_answers(
    directory: Path, wired: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config(directory)
    with socket.socket(socket.AF_UNIX) as running:
        running.bind(str(directory / "api.sock"))
        running.listen()
        assert daemon.main(["cleanup", "--config", str(path)]) == 1
        assert wired.asked == []
        assert "stop it first" in capsys.readouterr().err
    # What a dead daemon left there refuses nothing.
    assert daemon.main(["cleanup", "--config", str(path)]) == 0


@pytest.mark.parametrize(
    "argv", [[], ["config"], ["sing"], ["config", "check", "a", "b"], ["run", "--conf", "x"]]
)
def test_wrong_usage(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        daemon.main(argv)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("usage: bgpd")


def test_lab_has_its_own_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        daemon.main(["lab", "--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert "usage: bgpd lab" in out and "up" in out and "down" in out


def test_as_a_module_and_quick() -> None:
    """``--help`` and ``--version`` import none of the daemon's libraries."""
    code = (
        "import sys, runpy\n"
        "sys.argv = ['bgpd', '--version']\n"
        "try:\n runpy.run_module('bgpd', run_name='__main__')\n"
        "except SystemExit as stopped:\n print(stopped.code)\n"
        "print([m for m in ('aiohttp', 'exabgp', 'pydantic', 'pyroute2', 'asyncio') if m in sys.modules])\n"
    )
    root = str(Path(daemon.__file__).parents[2])
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert run.stdout == f"bgpd {__version__}\n0\n[]\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("argv", [["config", "schema"], ["--help"], ["--version"], ["plan", "--help"]])
def test_output_that_cannot_be_written(argv: list[str], unbuffered: str) -> None:
    """A full disk or a reader that has gone, at the first write or at the last: no traceback, and a code that shows
    it."""
    root = str(Path(daemon.__file__).parents[2])
    known = {**os.environ, "PYTHONUNBUFFERED": unbuffered, "PYTHONPATH": root}
    command = [sys.executable, "-m", "bgpd", *argv]
    check_unwritable_output("bgpd", command, known)


def test_all_that_is_printed_goes_through_one_door() -> None:
    """``say`` and ``complain`` know what to do where nobody takes it; ``print`` does not."""
    direct = re.compile(r"\bprint\(|sys\.std(out|err)\.write|json\.dump\(")
    for module in Path(daemon.__file__).parent.glob("*.py"):
        if module.name != "streams.py":
            text = module.read_text().replace("_console.print(", "")
            assert not direct.search(text), module.name
