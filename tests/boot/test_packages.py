"""The Debian package in a machine that systemd really booted: installed, upgraded, removed, purged."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from testing.daemons import Bgpd
from testing.namespaces import steady, wait_until
from tests.boot.machine import Machine
from tests.boot.test_boot import (
    CLUSTER,
    CONFIG,
    HERE,
    HERE6,
    OURS,
    PREPARED,
    forward_ipv6,
    peer,
    routes,
    sessions,
    settled,
    state,
)

pytestmark = [pytest.mark.boot, pytest.mark.timeout(300)]

__all__ = ["peer"]
"""A fixture of the other module."""


@pytest.fixture(scope="module")
def machine(peer: Bgpd) -> Iterator[Machine]:
    """worker2: booted, with the package installed, and its service enabled as its message says."""
    switch = next(namespace for namespace in peer.namespace.net.namespaces if namespace.label == "switch")
    made = Machine(switch, "worker2", PREPARED, f"{HERE}/24", f"{HERE6}/64")
    try:
        made.boot()
        made.write_resources("cluster", *CLUSTER)
        forward_ipv6(made)
        said = install(made, "1").splitlines()
        (line,) = (line for line in said if "systemctl enable" in line)
        made.script("sysctl --load /usr/lib/sysctl.d/60-bgpd.conf; systemctl restart systemd-networkd")
        made.script(line.partition("then: ")[2])
        settled(made, peer)
        yield made
        made.shut_down()
    finally:
        made.close()


def install(machine: Machine, which: str) -> str:
    """The package of this number that ``prepare`` made; what dpkg and its scripts say."""
    (package,) = (PREPARED / "packages" / which).glob("*.deb")
    target = machine.root / "root" / package.name
    target.write_bytes(package.read_bytes())
    return machine.run("dpkg", "--install", f"/root/{package.name}", timeout=120).stdout


def test_what_it_installs(machine: Machine) -> None:
    found = machine.run("stat", "--format=%n %a %U:%G", "/etc/bgpd", CONFIG).stdout.splitlines()
    assert found == ["/etc/bgpd 750 root:bgpd", f"{CONFIG} 640 root:bgpd"]
    compiled = machine.run("find", "/opt/bgpd/lib", "-path", "*/bgpd/daemon/__pycache__/daemon.*.pyc").stdout
    assert compiled, "no start compiles what it may not write"
    machine.run("systemd-analyze", "verify", "/usr/lib/systemd/system/bgpd.service")
    assert machine.run("bgpctl", "status").returncode == 0
    assert machine.run("dpkg", "--verify", "bgpd").stdout.split() in ([], ["??5??????", "c", CONFIG])
    completion = "/usr/share/bash-completion/completions/bgpctl"
    words = f"source {completion}; complete -p bgpctl"
    assert "bgpctl" in machine.run("bash", "-c", words).stdout
    page = machine.run("zcat", "/usr/share/man/man1/bgpctl.1.gz").stdout
    assert page.startswith(".TH BGPCTL 1")


def test_an_upgrade_keeps_the_configuration_and_every_route(machine: Machine, peer: Bgpd) -> None:
    machine.write(CONFIG, "log: {level: debug}\n")
    before, heard = state(machine), sessions(peer)
    watches = [where.monitor("route") for where in (machine.inside, peer.namespace)]
    install(machine, "2")
    settled(machine, peer)
    steady(lambda: routes(machine) == OURS, 2, "its routes")
    for watch in watches:
        watch.stop()
        assert [line for line in watch.deleted if "proto bird" in line] == []
    assert state(machine)[2] != before[2], "the new version runs"
    assert sessions(peer) == heard, machine.journal()
    assert machine.run("dpkg-query", "--show", "--showformat=${Version}", "bgpd").stdout == "0.1.1"
    assert (machine.root / CONFIG.lstrip("/")).read_text() == "log: {level: debug}\n"


def test_a_removal_and_a_purge(machine: Machine) -> None:
    machine.run("dpkg", "--remove", "bgpd", timeout=15)  # no time for a drain: nobody said so
    assert not machine.run("find", "/etc/systemd/system", "-name", "bgpd*").stdout
    assert not (machine.root / "opt/bgpd").exists()
    assert (machine.root / CONFIG.lstrip("/")).exists()
    assert machine.run("systemctl", "is-active", "bgpd", check=False).stdout.strip() == "inactive"
    assert routes(machine) == OURS, "the routes stay until bgpd cleanup takes them"
    machine.run("dpkg", "--purge", "bgpd", timeout=120)
    for path in ("etc/bgpd", "var/lib/bgpd", "opt/bgpd", "usr/lib/systemd/system/bgpd.service"):
        assert not (machine.root / path).exists(), path
    wait_until(
        lambda: "bgpd" not in machine.run("systemctl", "list-units", "--all").stdout, 5, "no unit is left"
    )
    assert machine.run("dpkg", "--audit").stdout == ""


def test_lintian_finds_no_error() -> None:
    (package,) = (PREPARED / "packages/1").glob("*.deb")
    found = subprocess.run(
        ["lintian", "--allow-root", "--fail-on", "error", package],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout
