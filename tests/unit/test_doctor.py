"""``bgpctl doctor``: each check on a machine made of files, and the archive without secrets."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from bgpd import __version__
from bgpd.cli import doctor
from bgpd.cli.client import Client, Unreachable
from bgpd.cli.doctor import Finding, Machine

WELL = {"version": __version__, "ready": True, "degraded": []}
BGPD = 4242
LISTENS = "   0: 00000000:00B3 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 777 1\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine on which all is well."""
    files = {
        f"proc/{BGPD}/status": "Name:\tbgpd\nPPid:\t1\nCapEff:\t0000000000001400\n",
        f"proc/{BGPD}/limits": "Limit  Soft  Hard  Units\nMax open files            65536       65536   files\n",
        f"proc/{BGPD}/comm": "bgpd\n",
        "proc/99/comm": "chronyd\n",
        "proc/net/tcp": "  sl  local_address rem_address\n" + LISTENS,
        "proc/sys/net/ipv4/ip_forward": "1\n",
        "proc/sys/net/ipv6/conf/all/forwarding": "1\n",
        "proc/sys/net/ipv4/fib_multipath_hash_policy": "1\n",
        "proc/sys/net/ipv4/conf/all/ignore_routes_with_linkdown": "1\n",
        "proc/sys/net/ipv4/conf/all/rp_filter": "2\n",
        "sys/class/net/eth0/mtu": "1500\n",
        "sys/class/net/cali12345678901/mtu": "1500\n",
        "sys/class/net/lo/mtu": "65536\n",
    }
    for path, text in files.items():
        write(tmp_path, path, text)
    (tmp_path / "var/lib/bgpd").mkdir(parents=True)
    folder = tmp_path / f"proc/{BGPD}/fd"
    folder.mkdir()
    (folder / "7").symlink_to("socket:[777]")
    return tmp_path


def write(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def examine(root: Path, **changes: Any) -> dict[str, Finding]:
    known = {"status": WELL, "peers": (), "pid": BGPD} | changes
    found = doctor.examine(Machine(root, **cast(Any, known)))
    return {each.name: each for each in found}


def test_all_is_well(root: Path) -> None:
    found = examine(root)
    found.pop("TCP MD5")  # of the real kernel
    found.pop("disk")  # of the real disk
    assert {name: each.state for name, each in found.items() if each.state != "good"} == {}
    assert not any(each.advice for each in found.values())


@pytest.mark.parametrize(
    ("files", "name", "state", "words"),
    [
        (
            {f"proc/{BGPD}/status": "CapEff:\t0000000000000400\n"},
            "capabilities",
            "bad",
            "lacks CAP_NET_ADMIN",
        ),
        ({f"proc/{BGPD}/status": "Name:\tbgpd\n"}, "capabilities", "warn", "cannot be seen"),
        ({f"proc/{BGPD}/limits": "Max open files   1   1   files"}, "descriptors", "warn", "1 of 1"),
        ({"proc/net/tcp": "head\n"}, "port 179", "bad", "nobody listens"),
        ({"proc/50/comm": "bird"}, "other writers", "warn", "bird (process 50)"),
        ({"proc/sys/net/ipv4/ip_forward": "0"}, "forwarding", "bad", "net.ipv4.ip_forward is 0"),
        ({"proc/sys/net/ipv4/conf/all/rp_filter": "1"}, "reverse path", "warn", "strict on eth0"),
        ({"proc/sys/net/ipv4/fib_multipath_hash_policy": "0"}, "ECMP", "warn", "fib_multipath_hash_policy"),
        ({"sys/class/net/eth0/mtu": "1450"}, "MTU", "warn", "eth0 only 1450"),
        ({"sys/class/net/vxlan.calico/mtu": "1450"}, "MTU", "warn", "vxlan.calico less"),
        ({"proc/99/comm": "cron"}, "clock", "warn", "nothing on this machine"),
    ],
)
def test_what_is_not(root: Path, files: Mapping[str, str], name: str, state: str, words: str) -> None:
    for path, text in files.items():
        write(root, path, text)
    found = {
        each.name: each for each in doctor.examine(Machine(root, WELL, (), BGPD)) if each.state != "good"
    }[name]
    assert found.state == state and words in found.text and found.advice


def test_ipv6_forwarding_counts_where_a_session_carries_it(root: Path) -> None:
    write(root, "proc/sys/net/ipv6/conf/all/forwarding", "0")
    assert examine(root)["forwarding"].text == "IPv4 is forwarded"
    found = [each.text for each in doctor.examine(Machine(root, WELL, ({"families": ["ipv6"]},), BGPD))]
    assert any("net.ipv6.conf.all.forwarding is 0" in text for text in found)


def test_another_has_the_port(root: Path) -> None:
    os.unlink(root / f"proc/{BGPD}/fd/7")
    write(root, "proc/60/comm", "bird")
    (root / "proc/60/fd").mkdir()
    (root / "proc/60/fd/3").symlink_to("socket:[777]")
    assert examine(root)["port 179"].text == "TCP port 179 is held by bird (process 60)"


def test_processes_that_only_have_the_name_are_none(root: Path) -> None:
    write(root, "proc/50/comm", "bird")
    write(root, "proc/50/status", f"Name:\tbird\nPPid:\t{BGPD}\n")
    assert examine(root)["other writers"].state == "good"


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (WELL | {"version": "0.0.1"}, "bgpd is 0.0.1"),
        (WELL | {"ready": False}, "not ready"),
    ],
)
def test_the_daemon(root: Path, status: Mapping[str, Any], words: str) -> None:
    assert words in examine(root, status=status)["daemon"].text


def test_without_a_daemon_the_machine_is_looked_at(root: Path) -> None:
    found = examine(root, status={}, pid=None, no_daemon="/run/bgpd/api.sock: no such file")
    assert found["daemon"].state == "bad" and "no such file" in found["daemon"].text
    assert found["ECMP"].state == "good"


class Away:
    def lines(self, *_: object) -> object:
        raise Unreachable("nobody is there")


def test_the_archive_has_no_secret(tmp_path: Path) -> None:
    config = tmp_path / "bgpd.yaml"
    config.write_text(
        "node: a\nbgp: {port: 179}\n  password: hunter2\ntoken: abc\npassword_file: /etc/bgpd/tor.password\n"
    )
    path = tmp_path / "support.tar.gz"
    names = doctor.bundle(path, cast(Client, Away()), [Finding("a", "good", "b")], config)
    assert path.stat().st_mode & 0o777 == 0o600
    with tarfile.open(path) as archive:
        texts = {
            each.name: cast(Any, archive.extractfile(each)).read().decode() for each in archive.getmembers()
        }
    assert set(texts) == {f"bgpd-support/{name}" for name in names}
    assert "hunter2" not in "".join(texts.values()) and "abc" not in texts["bgpd-support/bgpd.yaml"]
    assert "password_file: /etc/bgpd/tor.password" in texts["bgpd-support/bgpd.yaml"]
    assert texts["bgpd-support/status.json"] == "nobody is there\n"
    assert json.loads(texts["bgpd-support/doctor.json"])[0]["name"] == "a"
    with pytest.raises(FileExistsError):
        doctor.bundle(path, cast(Client, Away()), [], config)


@pytest.mark.parametrize("named", [True, False])
def test_the_state_is_looked_for_where_the_daemon_keeps_it(tmp_path: Path, named: bool) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(f"state_directory: {tmp_path}/state\n")

    class Answers:
        def get(self, path: str) -> Any:
            return {"peers": [], "config_file": "/nowhere" if named else str(config)}

    machine = doctor.ask(cast(Client, Answers()), "/nowhere", str(config) if named else "")
    assert (machine.config, machine.state) == (config, f"{tmp_path}/state")
    found = [each for each in doctor.examine(machine._replace(no_daemon="x")) if each.name == "disk"]
    assert [each.text for each in found] == [f"{tmp_path}/state is not there"]
