"""The shipped unit and the files around it, as systemd's own tools see them."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bgpd.config.config import Config

SHIPPED = Path(__file__).parents[2] / "systemd"
INSTALLED = "/opt/bgpd/bin"


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with commands that are there on this machine: systemd-analyze looks for them."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    text = (SHIPPED / "bgpd.service").read_text()
    for command in set(re.findall(rf"{INSTALLED}/(\w+)", text)):
        (tmp_path / command).write_text("#!/bin/sh\n")
        (tmp_path / command).chmod(0o755)
    path = tmp_path / "bgpd.service"
    path.write_text(text.replace(INSTALLED, str(tmp_path)))
    return path


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *words], capture_output=True, text=True, check=False
    )


def test_the_unit_verifies(unit: Path) -> None:
    outcome = analyze("verify", str(unit))
    complaints = [line for line in outcome.stderr.splitlines() if unit.name in line]
    assert (outcome.returncode, complaints) == (0, []), outcome.stderr


def test_the_drain_at_shutdown_verifies_and_comes_before_what_runs_the_pods(
    unit: Path, tmp_path: Path
) -> None:
    text = (SHIPPED / "bgpd-drain.service").read_text()
    hook = tmp_path / "bgpd-drain.service"
    hook.write_text(text.replace(INSTALLED, str(tmp_path)))
    outcome = analyze("verify", str(unit), str(hook))
    complaints = [line for line in outcome.stderr.splitlines() if hook.name in line]
    assert (outcome.returncode, complaints) == (0, []), outcome.stderr
    found = settings(SHIPPED / "bgpd-drain.service")
    assert {"bgpd.service", "kubelet.service"} <= set(found["Unit"]["After"][0].split())
    assert found["Service"]["ExecStop"][0].startswith(f"-{INSTALLED}/bgpctl drain --until-restart")


def test_verify_would_see_a_mistake(unit: Path) -> None:
    unit.write_text(unit.read_text().replace("Type=notify", "Type=notfy"))
    assert any(unit.name in line for line in analyze("verify", str(unit)).stderr.splitlines())


def test_exposure_is_low(unit: Path) -> None:
    outcome = analyze("security", "--offline=yes", "--threshold=25", str(unit))
    assert outcome.returncode == 0, outcome.stdout


def settings(path: Path) -> dict[str, dict[str, list[str]]]:
    """Section -> key -> values, as systemd reads a unit: a key may come again."""
    sections: dict[str, dict[str, list[str]]] = {}
    section: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            section.setdefault(key, []).append(value)
    return sections


def test_what_the_daemon_relies_on() -> None:
    service = settings(SHIPPED / "bgpd.service")["Service"]
    assert service["Type"] == ["notify"]
    assert service["RestartPreventExitStatus"] == ["78"]  # a wrong configuration is not tried again
    assert service["ExecReload"] == [f"{INSTALLED}/bgpctl reload"]
    assert "WatchdogSec" in service
    assert set(service["AmbientCapabilities"][0].split()) == {"CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE"}
    assert service["CapabilityBoundingSet"] == service["AmbientCapabilities"]
    assert "AF_NETLINK" in service["RestrictAddressFamilies"][0].split()


def test_the_unit_makes_the_directories_that_the_configuration_names() -> None:
    service = settings(SHIPPED / "bgpd.service")["Service"]
    config = Config(node="any")
    assert config.api.socket.parent == Path("/run", service["RuntimeDirectory"][0])
    assert config.state_directory == Path("/var/lib", service["StateDirectory"][0])
    made = [
        Path(line.split()[1])
        for line in (SHIPPED / "tmpfiles.d/bgpd.conf").read_text().splitlines()
        if line.startswith("d ")
    ]
    assert config.datastore.path in made


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a user in a root directory of its own")
def test_user_and_directories_are_made(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    for tool, words, conf in (
        ("systemd-sysusers", [], "sysusers.d"),
        ("systemd-tmpfiles", ["--create"], "tmpfiles.d"),
    ):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
        subprocess.run(
            [tool, *words, f"--root={tmp_path}", str(SHIPPED / conf / "bgpd.conf")],
            check=True,
            capture_output=True,
        )
    name, _, _, group = (tmp_path / "etc/passwd").read_text().split(":")[:4]
    assert name == "bgpd"
    for directory in ("etc/bgpd", "etc/bgpd/resources"):
        found = (tmp_path / directory).stat()
        assert (found.st_mode & 0o777, found.st_uid, found.st_gid) == (0o750, 0, int(group))


def test_sysctls_are_those_of_a_kernel() -> None:
    keys = [
        line.lstrip("#").split(" = ")[0]
        for line in (SHIPPED / "sysctl.d/60-bgpd.conf").read_text().splitlines()
        if re.match(r"#?[a-z0-9_.]+ = ", line)
    ]
    assert "net.ipv4.ip_forward" in keys
    for key in keys:
        assert Path("/proc/sys", *key.split(".")).is_file(), key


def test_networkd_leaves_our_routes() -> None:
    parser = configparser.ConfigParser()
    parser.read(SHIPPED / "networkd.conf.d/60-bgpd.conf")
    assert dict(parser["Network"]) == {"manageforeignroutes": "no", "manageforeignroutingpolicyrules": "no"}
