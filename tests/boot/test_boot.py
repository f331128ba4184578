"""The shipped unit in a machine that systemd really booted, installed by the README's own lines.

One machine, ``worker2``, for all tests here, each of which starts from a running daemon (``running``); and one peer,
a bgpd in a namespace of its own. ``make boot`` makes what it needs and runs it; it is no part of the default suite.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from testing.daemons import Bgpd
from testing.namespaces import PROJECT, Monitor, Net, steady, wait_until
from testing.resources import affinity, bgp_configuration, node, pool
from tests.boot.machine import WHEELS, Machine, absent, shell_example

pytestmark = [pytest.mark.boot, pytest.mark.timeout(300)]

PREPARED = Path(os.environ.get("BGPD_BOOT", PROJECT / ".stamps/boot"))
HERE, PEER = "10.0.1.31", "10.0.1.30"
HERE6, PEER6 = "fd00:1::31", "fd00:1::30"
MESH = "Mesh_10_0_1_30"
CLUSTER = (
    bgp_configuration(),
    node("worker2", f"{HERE}/24", f"{HERE6}/64"),
    node("worker1", f"{PEER}/24", f"{PEER6}/64"),
    pool("default", "10.48.0.0/24"),
    pool("default6", "fd48::/120"),
    affinity("worker2", "10.48.0.0/26"),
    affinity("worker1", "10.48.0.192/26"),
    affinity("worker2", "fd48::/122"),
    affinity("worker1", "fd48::c0/122"),
)
OURS = [
    "10.48.0.192/26 via 10.0.1.30 dev ens5 proto bird",
    "blackhole 10.48.0.0/26 proto bird",
    "blackhole fd48::/122 dev lo proto bird metric 1024 pref medium",
    "fd48::c0/122 via fd00:1::30 dev ens5 proto bird metric 1024 pref medium",
]
WELL = "2/2 peers up, 4 routes in the kernel"
CAP_NET_BIND_SERVICE, CAP_NET_ADMIN = 1 << 10, 1 << 12
INSTALL = "python3 -m venv /opt/bgpd"
CONFIG = "/etc/bgpd/bgpd.yaml"
DROP_IN = "/etc/systemd/networkd.conf.d/60-bgpd.conf"
QUICK = "/etc/systemd/system/bgpd.service.d"
RESTORE = f"""
: > {CONFIG}
[ ! -d /etc/bgpd/away ] || mv /etc/bgpd/away /etc/bgpd/resources
[ ! -f {DROP_IN}.away ] || mv {DROP_IN}.away {DROP_IN}
rm -rf {QUICK}
systemctl daemon-reload
systemctl restart systemd-networkd
! systemctl --quiet is-active rival || systemctl stop rival
if systemctl --quiet is-active bgpd
then systemctl reload bgpd
else systemctl reset-failed bgpd; systemctl start --no-block bgpd
fi
"""
"""Whatever a test before did."""


@pytest.fixture(scope="module")
def peer() -> Iterator[Bgpd]:
    """worker1: a bgpd beside the machine; its namespace's net has the switch."""
    if os.geteuid() != 0:
        pytest.skip("booting a machine needs root")
    if missing := absent():
        pytest.skip(f"booting a machine needs {missing}")
    if not (PREPARED / "root").is_dir():
        pytest.skip("there is no root to boot: make boot makes one")
    with (PREPARED / "lock").open("w") as lock, Net() as net:
        # systemd-nspawn puts all machines of one caller into one control group: one at a time.
        fcntl.flock(lock, fcntl.LOCK_EX)
        worker1 = net.namespace("worker1")
        net.lan({worker1: [f"{PEER}/24", f"{PEER6}/64"]})
        yield Bgpd(worker1, "worker1", {"cluster": CLUSTER}, {"bgp": {"defaults": {"bfd": {}}}}).start()


@pytest.fixture(scope="module")
def machine(peer: Bgpd) -> Iterator[Machine]:
    """worker2: booted, bgpd installed as the README says, systemd-networkd set to leave our routes."""
    switch = next(namespace for namespace in peer.namespace.net.namespaces if namespace.label == "switch")
    made = Machine(switch, "worker2", PREPARED, f"{HERE}/24", f"{HERE6}/64")
    try:
        made.boot()
        install(made)
        yield made
        made.shut_down()
    finally:
        made.close()


def install(machine: Machine) -> None:
    """By the README's own lines; pip finds what it needs in the machine."""
    machine.write_resources("cluster", *CLUSTER)
    # Its sessions carry IPv6 too, which an operator has to allow: systemd/sysctl.d leaves that to him.
    forward_ipv6(machine)
    lines = shell_example(PROJECT / "README.md", INSTALL)
    machine.script(lines, timeout=240, env={"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": WHEELS})
    more = shell_example(PROJECT / "systemd/README.md", INSTALL).splitlines()
    machine.script("\n".join(line for line in more if "networkd" in line or "bgpd-drain" in line))
    machine.script("useradd alice; usermod -aG bgpd alice; useradd bob")


def forward_ipv6(machine: Machine) -> None:
    """As an operator does: over a boot, too."""
    machine.write("/etc/sysctl.d/99-forward-ipv6.conf", "net.ipv6.conf.all.forwarding = 1\n")
    machine.script("sysctl --load /etc/sysctl.d/99-forward-ipv6.conf")


@pytest.fixture
def running(machine: Machine, peer: Bgpd) -> Machine:
    """The machine as it was installed, its unit active with its sessions up and its start over."""
    machine.script(RESTORE)
    settled(machine, peer)
    return machine


def settled(machine: Machine, peer: Bgpd) -> None:
    """Waits until all is as it should be on both sides."""
    wait_until(lambda: in_sync(machine), 30, "the start is over", interval=0.2)
    wait_until(lambda: routes(machine) == OURS, 20, "our routes", report=machine.journal)
    wait_until(lambda: peer.routes(4)["10.48.0.0/26"]["gateway"] == HERE, 20, "the peer has our block")
    wait_until(lambda: peer.routes(6)["fd48::/122"]["gateway"] == HERE6, 20, "the peer has our block")
    wait_until(lambda: machine.show("bgpd", "StatusText")["StatusText"] == WELL, 5, "the status reports")


def bgpctl(machine: Machine, *words: str) -> str:
    return machine.run("bgpctl", *words, check=False).stdout


def in_sync(machine: Machine) -> bool:
    return bool(yaml.safe_load(machine.run("bgpctl", "status", "-o", "json").stdout)["in_sync"])


def routes(machine: Machine) -> list[str]:
    """The routes of ours, as ``ip route`` prints them."""
    return sorted(machine.inside.route_text(4) + machine.inside.route_text(6))


def state(machine: Machine) -> tuple[str, str, int, int]:
    """The unit's state, result, main process and restarts since it was started."""
    found = machine.show("bgpd", "ActiveState", "Result", "MainPID", "NRestarts")
    return found["ActiveState"], found["Result"], int(found["MainPID"]), int(found["NRestarts"])


def process(machine: Machine) -> dict[str, str]:
    """``/proc/PID/status`` of the daemon."""
    pid = machine.show("bgpd", "MainPID")["MainPID"]
    lines = machine.run("cat", f"/proc/{pid}/status").stdout.splitlines()
    return dict(line.split(":\t", 1) for line in lines)


def config(machine: Machine, text: str) -> None:
    """The configuration, as an editor saves it: the same file, the same owner."""
    (machine.root / CONFIG.lstrip("/")).write_text(text)


def test_it_is_active_once_it_is_ready(running: Machine) -> None:
    found = running.show(
        "bgpd", "Type", "ActiveState", "SubState", "StatusText", "Result", "NRestarts", "UnitFileState"
    )
    assert found == {
        "Type": "notify",
        "ActiveState": "active",
        "SubState": "running",
        "StatusText": WELL,
        "Result": "success",
        "NRestarts": "0",
        "UnitFileState": "enabled",
    }
    assert running.run("systemctl", "is-system-running").stdout.strip() == "running"
    assert running.run("systemctl", "status", "bgpd").returncode == 0


def test_its_own_user_and_two_capabilities(running: Machine) -> None:
    found = process(running)
    user = running.run("id", "-u", "bgpd").stdout.strip()
    group = running.run("id", "-g", "bgpd").stdout.strip()
    assert (found["Uid"].split(), found["Gid"].split()) == ([user] * 4, [group] * 4)
    assert user != "0"
    for kind in ("CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(found[kind], 16) == CAP_NET_ADMIN | CAP_NET_BIND_SERVICE, kind
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")


def test_its_directories(running: Machine) -> None:
    paths = ("/run/bgpd", "/run/bgpd/api.sock", "/var/lib/bgpd", "/etc/bgpd", CONFIG)
    found = running.run("stat", "--format=%n %a %U:%G", *paths).stdout.splitlines()
    assert found == [
        "/run/bgpd 750 bgpd:bgpd",
        "/run/bgpd/api.sock 660 bgpd:bgpd",
        "/var/lib/bgpd 750 bgpd:bgpd",
        "/etc/bgpd 750 root:bgpd",
        f"{CONFIG} 640 root:bgpd",
    ]


def test_the_sandbox_hinders_nothing(running: Machine) -> None:
    """What it was refused would be a warning at least, and the journal knows the lines' priorities."""
    assert "event=ready" in running.journal("--priority=info")
    assert "event=ready" not in running.journal("--priority=notice")
    assert running.script("sysctl -n net.ipv4.ip_forward net.ipv4.conf.all.rp_filter").split() == ["1", "2"]
    for words in ("Operation not permitted", "Permission denied", "Traceback"):
        assert words not in running.journal()


def test_who_may_use_bgpctl(running: Machine) -> None:
    member = running.run("bgpctl", "status", user="alice", check=False)
    assert (member.returncode, member.stderr) == (0, "")
    assert "worker2" in member.stdout
    other = running.run("bgpctl", "status", user="bob", check=False)
    assert (other.returncode, other.stdout) == (5, "")
    assert "no permission" in other.stderr


def test_reload_of_a_good_file(running: Machine, peer: Bgpd) -> None:
    before = state(running)
    config(running, "originate: {ipam_early: true}\n")
    with quiet(running, peer):
        running.run("systemctl", "reload", "bgpd")
    assert state(running) == before
    assert "changed: originate" in running.journal()


def test_reload_of_a_bad_file(running: Machine, peer: Bgpd) -> None:
    before = state(running)
    config(running, "bgp: {prot: 1179}\n")
    with quiet(running, peer):
        assert running.run("systemctl", "reload", "bgpd", check=False).returncode != 0
    assert state(running) == before
    assert "bgp.prot" in running.journal()
    wait_until(
        lambda: "bgp.prot" in running.show("bgpd", "StatusText")["StatusText"], 5, "the status reports"
    )
    config(running, "")
    running.run("systemctl", "reload", "bgpd")
    wait_until(lambda: running.show("bgpd", "StatusText")["StatusText"] == WELL, 5, "the status is well")


def test_kill_9(running: Machine, peer: Bgpd) -> None:
    _, _, pid, restarts = state(running)
    with quiet(running, peer):
        running.run("kill", "-KILL", pid)
        wait_until(lambda: restarted(running, pid, restarts), 20, "a new one", report=running.journal)
        settled(running, peer)


def test_the_watchdog_ends_one_that_hangs(running: Machine, peer: Bgpd) -> None:
    _, _, pid, restarts = state(running)
    with quiet(running, peer):
        running.run("kill", "-STOP", pid)
        wait_until(lambda: restarted(running, pid, restarts), 90, "a new one", report=running.journal)
        settled(running, peer)
    assert "Watchdog timeout" in running.journal()


def test_a_stop_leaves_the_routes(running: Machine, peer: Bgpd) -> None:
    with quiet(running, peer):
        running.run("systemctl", "stop", "bgpd")
        assert state(running)[:2] == ("inactive", "success")
        assert running.run("bgpctl", "status", check=False).returncode == 3
        steady(lambda: routes(running) == OURS, 2, "the routes stay")
        running.run("systemctl", "start", "bgpd")
        settled(running, peer)
        running.run("systemctl", "restart", "bgpd")
        settled(running, peer)


def test_no_peer_notices_an_upgrade(running: Machine, peer: Bgpd) -> None:
    """Both ways under systemd 252, with BFD; then a stop, at which systemd discards what it kept."""
    config(running, "bgp: {defaults: {bfd: {}}}\n")
    running.run("systemctl", "reload", "bgpd")
    wait_until(lambda: [each["state"] for each in bfd(peer)] == ["up", "up"], 10, "BFD is up")
    paths = bfd(peer)
    before, since = sessions(peer), cursor(running)
    monitors = [Monitor(running.inside, ("route",), None), Monitor(peer.namespace, ("route",), None)]
    for words in (("systemctl", "restart", "bgpd"), ("bgpctl", "upgrade")):
        pid = state(running)[2]
        running.run(*words)
        assert state(running)[2] != pid
        settled(running, peer)
        assert sessions(peer) == before, running.journal()
    for was, now in zip(paths, bfd(peer), strict=True):
        assert all(was[key] == now[key] for key in ("remote_discriminator", "ups", "downs")), now
    assert [monitor.stop() for monitor in monitors] == [[], []]
    journal = running.journal(f"--after-cursor={since}")
    assert journal.count("event=session_taken_over") == 4 and "event=session_not_taken_over" not in journal
    assert running.show("bgpd", "NFileDescriptorStore") == {"NFileDescriptorStore": "0"}, (
        "none is left behind"
    )
    running.run("systemctl", "stop", "bgpd")
    wait_until(lambda: not peer.established(), 5, "the peer sees a stop at once")
    assert all(each["graceful_restart_active"] for each in peer.peers().values())
    running.run("systemctl", "start", "bgpd")
    settled(running, peer)


def bfd(peer: Bgpd) -> list[dict[str, Any]]:
    """What the peer says of its sessions of BFD."""
    return sorted(peer.ctl("bfd")["sessions"], key=lambda each: str(each["address"]))


def sessions(peer: Bgpd) -> dict[str, Any]:
    """What the peer says of its sessions: since when each is up, how often it was not, how many UPDATEs it got."""
    return {
        name: (
            pytest.approx(of["since"], abs=0.2),
            of["state"],
            of["flaps"],
            of["messages_received"]["UPDATE"],
        )
        for name, of in peer.peers().items()
    }


def cursor(machine: Machine) -> str:
    """Where the journal ends now."""
    shown = machine.run("journalctl", "--no-pager", "--quiet", "-n", "0", "--show-cursor").stdout
    return shown.strip().removeprefix("-- cursor: ")


def test_cleanup_takes_them_away(running: Machine, peer: Bgpd) -> None:
    assert "stop it first" in running.run("bgpd", "cleanup", check=False).stderr
    assert routes(running) == OURS
    running.run("systemctl", "stop", "bgpd")
    running.run("bgpd", "cleanup")
    assert routes(running) == []


def test_a_wrong_configuration_is_not_tried_again(running: Machine, peer: Bgpd) -> None:
    config(running, "bgp: {prot: 1179}\n")
    with quiet(running, peer):
        assert running.run("systemctl", "restart", "bgpd", check=False).returncode != 0
        steady(lambda: state(running)[::3] == ("failed", 0), 4, "it failed once, and stays so")
        assert running.show("bgpd", "ExecMainStatus")["ExecMainStatus"] == "78"
        assert "bgp.prot" in running.run("systemctl", "status", "bgpd", check=False).stdout
        config(running, "")
        running.run("systemctl", "start", "bgpd")
        settled(running, peer)


def test_a_shutdown_lasts(running: Machine, peer: Bgpd) -> None:
    running.run("bgpctl", "peer", "shutdown", MESH, "-m", "rack move", user="alice")
    wait_until(lambda: routes(running) == OURS[1:], 10, "what it announced is gone")
    running.run("systemctl", "restart", "bgpd")
    wait_until(lambda: in_sync(running), 30, "the start is over", interval=0.2)
    try:
        steady(lambda: "1/2" in running.show("bgpd", "StatusText")["StatusText"], 3, "it stays down")
    finally:
        running.run("bgpctl", "peer", "enable", MESH)
    settled(running, peer)


def test_networkd_leaves_our_routes(running: Machine, peer: Bgpd) -> None:
    assert running.show("systemd-networkd", "ActiveState")["ActiveState"] == "active"
    with quiet(running, peer):
        running.run("systemctl", "restart", "systemd-networkd")
        steady(lambda: routes(running) == OURS, 2, "the routes stay")
    assert not blackholes_go(running, peer)
    running.run("mv", DROP_IN, f"{DROP_IN}.away")
    running.run("systemctl", "restart", "systemd-networkd")
    assert blackholes_go(running, peer), "then what is the drop-in for?"


def blackholes_go(machine: Machine, peer: Bgpd) -> bool:
    """Whether networkd deletes ours when it configures a link anew, before they are put right.

    It takes the link's addresses away for a moment, and the kernel takes what lies over them: learned routes go anyhow.
    """
    monitor = Monitor(machine.inside, ("route",), None)
    machine.run("networkctl", "reconfigure", "ens5")
    wait_until(lambda: any("dev ens5 proto kernel" in line for line in monitor.deleted), 10, "it does")
    settled(machine, peer)
    monitor.stop()
    return any("blackhole" in line for line in monitor.deleted)


def test_without_resources_it_waits(running: Machine, peer: Bgpd) -> None:
    """It says for what, leaves the kernel alone, and is not ended for it; what comes then makes it ready."""
    running.write(f"{QUICK}/quick.conf", "[Service]\nTimeoutStartSec=3\n")
    running.run("systemctl", "daemon-reload")
    running.run("mv", "/etc/bgpd/resources", "/etc/bgpd/away")
    with quiet(running, peer):
        running.run("systemctl", "restart", "--no-block", "bgpd")
        wait_until(lambda: "resources does not exist" in running.show("bgpd", "StatusText")["StatusText"], 20)
        steady(lambda: state(running)[::3] == ("activating", 0), 6, "it waits")
        running.run("mv", "/etc/bgpd/away", "/etc/bgpd/resources")
        wait_until(lambda: state(running)[0] == "active", 20, "ready")
        settled(running, peer)


def test_beside_another_daemon_it_waits(running: Machine, peer: Bgpd) -> None:
    hold = "import socket, time; listening = socket.create_server(('0.0.0.0', 179)); time.sleep(300)"
    running.run("systemctl", "stop", "bgpd")
    with quiet(running, peer):
        running.run("systemd-run", "--unit=rival", "python3", "-c", hold)
        wait_until(lambda: ":179" in running.run("ss", "-ltnH").stdout, 10, "it listens")
        running.run("systemctl", "start", "--no-block", "bgpd")
        wait_until(
            lambda: "another daemon has our BGP port" in running.show("bgpd", "StatusText")["StatusText"],
            *(20, "it says so"),
        )
        assert state(running)[0] == "activating"
        running.run("systemctl", "stop", "rival")
        wait_until(lambda: state(running)[0] == "active", 10, "ready")
        settled(running, peer)


def test_it_comes_up_with_the_machine(running: Machine, peer: Bgpd) -> None:
    """And before it goes down, ``bgpd-drain`` takes the traffic away while bgpd and the pods are still there; that is
    forgotten after the boot."""
    assert {route["local_pref"] for route in theirs(peer)} != {0}
    running.run("systemctl", "poweroff", "--no-block")
    wait_until(lambda: {route["local_pref"] for route in theirs(peer)} == {0}, 15, "the last resort")
    assert len(theirs(peer)) == 2 and peer.established(), (
        "and no more than that: who has no other way keeps this"
    )
    running.shut_down()
    running.boot()
    assert state(running)[0::3] == ("active", 0)
    settled(running, peer)
    assert running.show("bgpd-drain", "ActiveState")["ActiveState"] == "active"
    wait_until(lambda: {route["local_pref"] for route in theirs(peer)} == {100}, 10, "back in service")
    assert "Traceback" not in running.journal()


def theirs(peer: Bgpd) -> list[dict[str, Any]]:
    """What the peer has of the machine."""
    found = peer.ctl("routes", table="in")["routes"]
    return [route for route in found if route["prefix"] in ("10.48.0.0/26", "fd48::/122")]


def restarted(machine: Machine, pid: int, restarts: int) -> bool:
    """Whether systemd has started another one, once."""
    active, _, now, count = state(machine)
    return active == "active" and now not in (0, pid) and count == restarts + 1


@contextlib.contextmanager
def quiet(machine: Machine, peer: Bgpd) -> Iterator[None]:
    """Meanwhile no route of ours goes away, neither here nor at the peer."""
    monitors = [Monitor(machine.inside, ("route",), None), Monitor(peer.namespace, ("route",), None)]
    yield
    for monitor in monitors:
        monitor.stop()
        assert [line for line in monitor.deleted if "proto bird" in line] == []
