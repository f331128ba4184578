"""The lab in the real kernel: what it lays, how its nodes are apart, and that it leaves nothing."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testing.lab import Lab, LabError, Node
from testing.lab import lab as lab_module

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

SHIPPED = Path(__file__).parents[2] / "containerlab"
numbers = itertools.count()

PAIR = """
name: pair
topology:
  defaults:
    kind: linux
    env: {COLOUR: red}
  nodes:
    left:
      cmd: sh -c "echo begun as $$$$; exec sleep 1000"
      env: {SIDE: left}
      sysctls: {net.ipv4.ip_forward: 1}
      binds:
        - left.conf:/etc/bgpd-lab-test/left.conf:ro
        - shared:/etc/bgpd-lab-test/deep/shared
        - left.conf:/usr/local/bin/bgpd-lab-test
      exec:
        - ip address add 10.0.0.1/24 dev eth1
        - sh -c 'ip address add fd00::1/64 dev eth1 nodad'
    right:
      exec:
        - ip address add 10.0.0.2/24 dev eth1
        - ip address add fd00::2/64 dev eth1 nodad
  links:
    - type: veth
      mtu: 1400
      endpoints:
        - {node: left, interface: eth1, mac: "02:00:00:00:00:01"}
        - {node: right, interface: eth1}
"""


@pytest.fixture
def name() -> Iterator[str]:
    """A lab's name that is nobody else's; nothing of it may be left when the test is over."""
    name = f"test-{os.getpid()}-{next(numbers)}"
    yield name
    assert not (lab_module.LABS / name).exists()


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    (tmp_path / "left.conf").write_text("of the left\n")
    (tmp_path / "shared").mkdir()
    path = tmp_path / "pair.clab.yml"
    path.write_text(PAIR)
    return path


def wait_for(holds: Callable[[], bool], seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def addresses(node: Node, interface: str) -> set[str]:
    (link,) = json.loads(node.run(["ip", "-j", "address", "show", "dev", interface], check=True).stdout)
    return {f"{info['local']}/{info['prefixlen']}" for info in link["addr_info"] if info["scope"] == "global"}


def namespaces(pid: int) -> dict[str, str]:
    return {kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("net", "mnt", "uts", "ipc", "pid")}


def living_in(namespace: str) -> list[int]:
    """Processes of the machine in a network namespace; zombies have left theirs."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if os.readlink(entry / "ns/net") == namespace:
                    found.append(int(entry.name))
            except OSError:
                pass
    return found


def test_a_pair_is_laid_as_it_is_written(pair: Path, name: str) -> None:
    with Lab.load(pair, name) as lab:
        left, right = lab.node("left"), lab.node("right")
        assert addresses(left, "eth1") == {"10.0.0.1/24", "fd00::1/64"}
        assert addresses(right, "eth1") == {"10.0.0.2/24", "fd00::2/64"}
        (link,) = json.loads(left.run("ip -j link show dev eth1").stdout)
        assert (link["address"], link["mtu"]) == ("02:00:00:00:00:01", 1400)
        assert left.run("ping -c 1 -W 2 10.0.0.2").returncode == 0
        assert right.run("ping -c 1 -W 2 fd00::1").returncode == 0
        assert left.run("cat /proc/sys/net/ipv4/ip_forward").stdout == "1\n"
        assert right.run("cat /proc/sys/net/ipv4/ip_forward").stdout == "0\n"
        assert left.run("hostname").stdout == "left\n"
        assert left.run("sh -c 'echo $COLOUR $SIDE'").stdout == "red left\n"
        assert sorted(left.run("ls /sys/class/net").stdout.split()) == ["eth1", "lo"]


def test_nodes_are_apart(pair: Path, name: str) -> None:
    with Lab.load(pair, name) as lab:
        left, right = lab.node("left"), lab.node("right")
        ours, of_left, of_right = namespaces(os.getpid()), namespaces(left.pid), namespaces(right.pid)
        for kind in ours:
            assert len({ours[kind], of_left[kind], of_right[kind]}) == 3, kind
        left.run("sh -c 'mkdir /run/x; echo left >/run/x/y; echo left >/var/lib/bgpd/y'", check=True)
        assert left.path("/run/x/y").read_text() == "left\n"
        assert not right.path("/run/x").exists()
        assert not right.path("/var/lib/bgpd/y").exists()
        assert not Path("/run/x/y").exists()
        # Process 1 is the init, and no process of the other node or of the machine shows.
        seen = left.run("ps -e -o pid=,comm=").stdout.split("\n")
        assert len([line for line in seen if line.strip()]) == 3  # init, the cmd, ps
        # A pod's namespace is made inside the node.
        left.run("ip netns add pod", check=True)
        assert left.run("ip netns list").stdout.split() == ["pod"]
        assert right.run("ip netns list").stdout == ""
        assert not Path("/run/netns/pod").exists()


def test_binds_show_in_the_node_only(pair: Path, name: str) -> None:
    shared = pair.parent / "shared"
    with Lab.load(pair, name) as lab:
        left, right = lab.node("left"), lab.node("right")
        assert left.run("cat /etc/bgpd-lab-test/left.conf /usr/local/bin/bgpd-lab-test").stdout == (
            "of the left\nof the left\n"
        )
        assert left.run("sh -c 'echo x >/etc/bgpd-lab-test/left.conf'").returncode != 0
        # A directory is shared both ways while the lab is up.
        left.run("sh -c 'echo left >/etc/bgpd-lab-test/deep/shared/left'", check=True)
        assert (shared / "left").read_text() == "left\n"
        (shared / "back").write_text("heard\n")
        assert left.run("cat /etc/bgpd-lab-test/deep/shared/back").stdout == "heard\n"
        # What lay beside a target is still there, and what is written beside it stays private.
        assert left.run("cat /etc/passwd").stdout == Path("/etc/passwd").read_text()
        left.run("touch /etc/bgpd-lab-test-beside", check=True)
        assert right.run("ls -d /etc/bgpd-lab-test").returncode != 0
        for path in ("/etc/bgpd-lab-test", "/etc/bgpd-lab-test-beside", "/usr/local/bin/bgpd-lab-test"):
            assert not Path(path).exists()


def test_a_bridge_is_a_namespace_of_its_own(tmp_path: Path, name: str) -> None:
    path = tmp_path / "three.clab.yml"
    path.write_text("""
name: three
topology:
  kinds: {linux: {exec: [ip link show lo]}}
  nodes:
    a: {kind: linux, exec: [ip address add 10.0.0.1/24 dev eth1]}
    b: {kind: linux, exec: [ip address add 10.0.0.2/24 dev eth1]}
    c: {kind: linux, exec: [ip address add 10.0.0.3/24 dev eth1]}
    hub: {kind: bridge}
  links:
    - endpoints: ["a:eth1", "hub:p1"]
    - endpoints: ["b:eth1", "hub:p2"]
    - endpoints: ["hub:p3", "c:eth1"]
""")
    with Lab.load(path, name) as lab:
        ports = json.loads(lab.node("hub").run("bridge -j link").stdout)
        assert {(port["ifname"], port["master"]) for port in ports} == {(f"p{n}", "hub") for n in (1, 2, 3)}
        for address in ("10.0.0.2", "10.0.0.3"):
            assert lab.node("a").run(f"ping -c 1 -W 3 {address}").returncode == 0


def test_run_and_popen(pair: Path, name: str) -> None:
    with Lab.load(pair, name) as lab:
        left = lab.node("left")
        assert left.run(["cat"], input="a line").stdout == "a line"
        outcome = left.run(["sh", "-c", "echo out; echo err >&2; exit 3"])
        assert (outcome.returncode, outcome.stdout, outcome.stderr) == (3, "out\n", "err\n")
        with pytest.raises(LabError, match=r"left: sh -c 'echo why >&2; exit 3': exit 3: why"):
            left.run(["sh", "-c", "echo why >&2; exit 3"], check=True)
        with pytest.raises(subprocess.TimeoutExpired):
            left.run("sleep 77", timeout=0.2)
        with left.popen("sleep 78", stdout=subprocess.PIPE) as process:
            assert wait_for(lambda: "sleep 78" in left.run("ps -e -o args=").stdout)
            process.kill()
        assert process.returncode == -signal.SIGKILL
        with left.popen("ping -q -i 0.1 10.0.0.1", stdout=subprocess.PIPE, text=True) as ping:
            time.sleep(0.2)
            ping.send_signal(signal.SIGINT)
            assert "0% packet loss" in ping.communicate(timeout=5)[0]
        assert ping.returncode == 0
        # To kill what popen or run gave is to kill what runs in the node.
        assert wait_for(lambda: not re.search(r"sleep 7[78]", left.run("ps -e -o args=").stdout))
        # The running Python's own directory comes first, so that "bgpd" is this one.
        python_first = left.run("sh -c 'command -v python'").stdout.strip()
        assert os.path.dirname(python_first) == os.path.dirname(sys.executable)
        with pytest.raises(LabError, match="no node 'middle', expected one of: left, right"):
            lab.node("middle")


def test_cmd_is_killed_and_started_again(pair: Path, name: str) -> None:
    with Lab.load(pair, name) as lab:
        left, right = lab.node("left"), lab.node("right")
        assert left.running
        first = left.cmd_pid
        left.start()  # it runs already
        assert left.cmd_pid == first
        left.kill()
        assert not left.running
        assert left.init is not None  # the node stays, with its links
        assert addresses(left, "eth1") == {"10.0.0.1/24", "fd00::1/64"}
        with pytest.raises(LabError, match="cmd does not run"):
            left.kill()
        left.start()
        second = left.cmd_pid
        assert second not in (None, first)
        # Process 1 reaped the first, and what cmd says is kept, of both.
        assert not left.path(f"/proc/{first}").exists()
        assert wait_for(lambda: left.log.read_text() == f"begun as {first}\nbegun as {second}\n")
        left.kill(signal.SIGTERM)
        assert not left.running
        with pytest.raises(LabError, match="right has no cmd"):
            right.start()


def test_down_leaves_nothing(pair: Path, name: str) -> None:
    had_eth1 = Path("/sys/class/net/eth1").exists()
    lab = Lab.load(pair, name)
    lab.up()
    left = lab.node("left")
    spaces = [namespaces(node.pid)["net"] for node in lab.nodes.values()]
    left.run("ip netns add pod", check=True)
    left.run("sh -c 'setsid --fork sleep 1000 >/dev/null 2>&1'", check=True)
    with left.popen("sleep 1000") as process:
        assert all(map(living_in, spaces))
        assert Path("/sys/class/net/eth1").exists() == had_eth1
        lab.down()
        assert process.wait(5) != 0
    assert not any(map(living_in, spaces))
    mounts = Path("/proc/self/mountinfo").read_text()
    for trace in (*spaces, str(pair.parent), name, "bgpd-lab-test"):
        assert trace not in mounts
    assert not lab.directory.exists()
    assert left.init is None
    with pytest.raises(LabError, match=r"left of lab \S+ is not up"):
        left.run("true")
    lab.down()  # nothing to do
    lab.up()  # and the same once more
    assert left.run("true").returncode == 0
    lab.down()


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("ip address add 10.0.0.2/24 dev eth1", "ip address add 10.0.0.2/24 dev eth9", 'right: .*"eth9"'),
        (
            'sh -c "echo begun as $$$$; exec sleep 1000"',
            "no-such-daemon",
            "left: cmd: 'no-such-daemon' is not",
        ),
        (
            "net.ipv4.ip_forward: 1",
            "net.ipv4.ip_forward: x",
            "left: sysctl net.ipv4.ip_forward: 'x': Invalid",
        ),
    ],
)
def test_what_fails_midway_is_taken_away(
    pair: Path, name: str, before: str, after: str, message: str
) -> None:
    inits = init_count()
    text = pair.read_text()
    assert before in text
    pair.write_text(text.replace(before, after))
    lab = Lab.load(pair, name)
    with pytest.raises(LabError, match=message):
        lab.up()
    assert not lab.directory.exists()
    assert all(node.init is None for node in lab.nodes.values())
    assert wait_for(lambda: init_count() <= inits)


def init_count() -> int:
    """Processes of this test's labs' inits: children of the unshares that this process started."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return len(children)


def test_a_bad_topology_makes_nothing(pair: Path, name: str) -> None:
    pair.write_text(pair.read_text().replace("node: right,", "node: wrong,"))
    outcome = run_cli("up", str(pair), "--name", name)
    assert outcome.returncode == 78
    assert outcome.stderr == (
        f"{pair}: topology.links.0.endpoints: no node 'wrong' (wrong:eth1), expected one of: left, right\n"
    )


def test_labs_of_one_file_do_not_touch(pair: Path, name: str) -> None:
    with Lab.load(pair, name) as one, Lab.load(pair, f"{name}-b") as other:
        assert namespaces(one.node("left").pid)["net"] != namespaces(other.node("left").pid)["net"]
        one.node("left").run("ip link set dev eth1 down", check=True)
        assert other.node("left").run("ping -c 1 -W 2 10.0.0.2").returncode == 0
        with pytest.raises(LabError, match=f"lab {name} is up already"):
            Lab.load(pair, name).up()
        assert one.node("right").init is not None
        assert {name, f"{name}-b"} <= set(Lab.names())
    assert not {name, f"{name}-b"} & set(Lab.names())


def test_a_process_id_that_became_anothers_is_not_killed(pair: Path, name: str) -> None:
    lab = Lab.load(pair, name)
    lab.up()
    real = (lab.directory / "left.init").read_text()
    with subprocess.Popen(["sleep", "1000"]) as stranger:
        try:
            start = int(real.split()[1])
            (lab.directory / "left.init").write_text(f"{stranger.pid} {start}\n")
            assert lab.node("left").init is None
            saved, lab._waiters = lab._waiters, []
            lab.down()
            assert stranger.poll() is None
        finally:
            stranger.kill()
    # End the one whose record was overwritten.
    os.kill(int(real.split()[0]), signal.SIGKILL)
    for waiter in saved:
        waiter.wait(5)


def test_an_init_that_nobody_waits_for_ends() -> None:
    """The lab died between making a node and recording it."""
    command = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", sys.executable, "-IS"]
    outcome = subprocess.run(
        [*command, str(lab_module.INIT)], input="", capture_output=True, text=True, timeout=10, check=True
    )
    assert outcome.stdout.strip().isdecimal()


CLI = (
    "import argparse, sys; from testing.lab.commands import add_parser; "
    "parser = argparse.ArgumentParser(prog='bgpd'); add_parser(parser.add_subparsers()); "
    "arguments = parser.parse_args(); sys.exit(arguments.run(arguments))"
)


def run_cli(*words: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
    """``bgpd lab ...`` as a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", CLI, "lab", *words],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        cwd=Path(__file__).parents[2],
    )


def test_the_commands(pair: Path, name: str) -> None:
    """Each is a process of its own: the lab lives on between them."""
    assert run_cli("up", str(pair), "--name", name).returncode == 0
    try:
        assert run_cli("up", str(pair), "--name", name).returncode == 1
        status = run_cli("status", name)
        assert status.returncode == 0
        assert [line.split()[:4] for line in status.stdout.splitlines()[1:]] == [
            [name, "left", "linux", "up"],
            [name, "right", "linux", "up"],
        ]
        assert "running: sh -c" in status.stdout
        outcome = run_cli("exec", name, "left", "--", "ping", "-c", "1", "-W", "2", "10.0.0.2")
        assert (outcome.returncode, "1 received" in outcome.stdout) == (0, True)
        assert run_cli("exec", name, "left", "sh", "-c", "exit 7").returncode == 7
        assert run_cli("exec", name, "middle", "true").returncode == 1
        Lab.running(name).node("left").kill()
        status = run_cli("status", name)
        assert (status.returncode, "ended: sh -c" in status.stdout) == (1, True)
    finally:
        assert run_cli("down", name).returncode == 0
    again = run_cli("down", name)
    assert again.returncode == 1
    assert f"no lab '{name}' is up" in again.stderr


@pytest.fixture
def workers(tmp_path: Path) -> Path:
    """The shipped cluster without its daemons."""
    for entry in SHIPPED.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    path = tmp_path / "workers.clab.yml"
    text = path.read_text()
    path.unlink()
    path.write_text(text.replace("cmd: bgpd run", "cmd: sleep 1000"))
    return path


def test_the_shipped_cluster_and_its_pods(workers: Path, commands: None, name: str) -> None:
    """The nodes' daemons do not run, so each plugin works on the shared store itself."""
    with Lab.load(workers, name) as lab:
        worker2 = lab.node("worker2")
        assert wait_for(lambda: worker2.run("ping -c 1 -W 1 10.0.1.1").returncode == 0)
        for pod in ("web-1", "web-2"):
            made = worker2.run(["pod", "add", pod])
            assert made.returncode == 0, made.stderr
        routes = {" ".join(line.split()) for line in worker2.run("ip route").stdout.splitlines()}
        pods = sorted(line for line in routes if " dev cali" in line)
        assert routes - set(pods) == {
            "default via 10.0.1.1 dev ens5",
            "10.0.1.0/24 dev ens5 proto kernel scope link src 10.0.1.31",
        }
        assert all(re.fullmatch(r"\S+ dev cali[0-9a-f]{11} scope link", line) for line in pods)
        first, second = (line.split()[0] for line in pods)
        assert first in worker2.run("pod list").stdout and second in worker2.run("pod list").stdout

        # A pod sees a /32 and a gateway that is nobody's; it reaches its node, its neighbours and beyond.
        inside = worker2.run("pod exec web-1 ip route").stdout.splitlines()
        assert [line.strip() for line in inside] == [
            "default via 169.254.1.1 dev eth0",
            "169.254.1.1 dev eth0 scope link",
        ]
        for address in ("10.0.1.31", second):
            assert worker2.run(f"pod exec web-1 ping -c 1 -W 2 {address}").returncode == 0
        lab.node("gw").run(f"ip route add {first} via 10.0.1.31", check=True)
        assert worker2.run("pod exec web-1 ping -c 1 -W 2 10.0.1.1").returncode == 0

        # A second pod of that name is refused, and the first is left whole.
        assert worker2.run("pod add web-1").returncode != 0
        assert worker2.run(f"pod exec web-1 ping -c 1 -W 2 {second}").returncode == 0
        # One that cannot have what its annotation asks for leaves nothing half done.
        broken = worker2.run(
            ["pod", "add", "--annotation", 'cni.projectcalico.org/ipv4pools=["x"]', "broken"]
        )
        assert broken.returncode == 1 and "no-such-pool" in broken.stderr
        assert "broken" not in worker2.run("ip netns list").stdout + worker2.run("pod list").stdout
        assert worker2.run("pod del web-2").returncode == 0
        assert second not in worker2.run("ip route").stdout
        shown = worker2.run(f"bgpctl ipam show --ip {second}").stdout
        assert shown.strip() == f"{second} is not assigned"
        assert worker2.run("pod frobnicate").returncode == 2
        # What the nodes share lies in the lab's own directory, which goes with it (see the fixture ``name``).
        assert list((lab.directory / "files" / "resources").glob("ipamblock.*.json"))
    assert not list((SHIPPED / "resources").glob("*.json"))


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``bgpd`` and ``bgpctl`` of this source tree, where they are not installed beside the running Python."""
    root = Path(__file__).parents[2]
    directory = tmp_path / "commands"
    directory.mkdir()
    for command, module in (("bgpd", "cli.daemon"), ("bgpctl", "cli.ctl"), ("bgpd-cni", "cni.network")):
        path = directory / command
        program = f"import sys; from bgpd.{module} import main; sys.exit(main())"
        path.write_text(f'#!/bin/sh\nexport PYTHONPATH={root}\nexec {sys.executable} -c "{program}" "$@"\n')
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")


@pytest.mark.long
def test_the_demo_holds(commands: None, name: str) -> None:
    """Every fact of the story, with the real daemons; and it ends clean."""
    outcome = run_cli("demo", str(SHIPPED / "workers.clab.yml"), "--name", name, timeout=90)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert re.search(r"\d+ facts held in \d+ s; the lab is gone", outcome.stdout)


def test_the_demo_ends_clean_when_it_is_broken_off(workers: Path, commands: None, name: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CLI, "lab", "demo", str(workers), "--name", name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        start_new_session=True,
    ) as demo:
        assert demo.stdout is not None
        assert any("7 machines" in line for line in demo.stdout)
        lab = Lab.running(name)
        demo.send_signal(signal.SIGINT)
        demo.communicate(timeout=20)
    assert demo.returncode == 130
    assert all(node.init is None for node in lab.nodes.values())


def test_a_demo_that_fails_says_what_and_ends_clean(workers: Path, commands: None, name: str) -> None:
    workers.write_text(workers.read_text().replace("cmd: sleep 1000", 'cmd: sh -c "echo cannot; exit 1"'))
    outcome = run_cli("demo", str(workers), "--name", name)
    assert outcome.returncode == 1
    assert "bgpd runs on control: the demo failed" in outcome.stderr
    assert "cannot" in outcome.stderr
