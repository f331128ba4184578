"""Checks of a topology: what a file of them may say, how they are held, and what is said of what does not hold."""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from testing.lab import TopologyError, checks
from testing.lab.checks import Outcome, check, load_checks, routes
from testing.lab.containers import deployed, missing

SHIPPED = Path(__file__).parents[2] / "containerlab" / "checks"
TOPOLOGY = """
name: two
topology:
  defaults: {kind: linux, image: "one:lab", network-mode: none}
  nodes:
    a: {binds: ["__clabDir__/shared:/etc/shared"]}
    b: {image: "other:lab", env: {SIDE: "${SIDE}"}}
"""
CHECKS = """
topology: two.clab.yml
env: {SIDE: left}
pods: {web: {node: a, pool: internal}}
stages:
  - title: all is well
    do: [{node: b, run: [start, it]}]
    sessions: {a: 2}
    tables: {a: ["10.48.0.64/26 via 10.0.0.1 dev eth1 and via 10.0.0.2 dev eth2", "blackhole 10.48.0.0/26"]}
    pings: {web: [b-address.is.10.0.0.9], b: [web]}
    silent: {b: [192.0.2.1]}
"""
ROUTES = [
    {
        "dst": "10.48.0.64/26",
        "nexthops": [{"gateway": "10.0.0.2", "dev": "eth2"}, {"gateway": "10.0.0.1", "dev": "eth1"}],
    },
    {"type": "blackhole", "dst": "10.48.0.0/26"},
]


class Told:
    """A ``Ground`` that answers as it was told; ``asked`` is what was run."""

    def __init__(self, answers: Mapping[tuple[str, str], str | int]) -> None:
        self._answers = answers
        self.asked: list[tuple[str, str]] = []

    def run(self, node: str, command: Sequence[str]) -> CompletedProcess[str]:
        question = (node, " ".join(command))
        self.asked.append(question)
        answer = self._answers.get(question, 0)
        if isinstance(answer, int):
            return CompletedProcess(command, answer, "", "it failed" if answer else "")
        return CompletedProcess(command, 0, answer, "")


POD = 'pod add --annotation cni.projectcalico.org/ipv4pools=["internal"] web'
ANSWERS: dict[tuple[str, str], str | int] = {
    ("a", "pod list"): "default/web   10.48.0.5/32   cali123\n",
    ("a", "bgpctl -o json peers"): json.dumps(
        {"peers": [{"state": "established"}, {"state": "established"}]}
    ),
    ("a", "ip -json route show proto bird"): json.dumps(ROUTES),
    ("b", "ping -c 1 -W 1 192.0.2.1"): 1,
}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(checks, "PATIENCE", 0.0)
    (tmp_path / "two.clab.yml").write_text(TOPOLOGY)
    path = tmp_path / "checks.yaml"
    path.write_text(CHECKS.replace("b-address.is.", ""))
    return path


def test_all_of_it_is_held(file: Path) -> None:
    ground = Told(ANSWERS)
    made, stage = check(load_checks(file), ground)
    assert made == Outcome("pod web on a: 10.48.0.5")
    assert stage.what.startswith("all is well (5 checks, ") and not stage.wrong
    assert ground.asked[:3] == [("a", POD), ("a", "pod list"), ("b", "start it")]
    assert {("a", "pod exec web ping -c 1 -W 1 10.0.0.9"), ("b", "ping -c 1 -W 1 10.48.0.5")} <= {
        *ground.asked
    }


@pytest.mark.parametrize(
    ("question", "answer", "wrong"),
    [
        (("a", POD), 1, ("it failed",)),
        (("b", "start it"), 1, ("it failed",)),
        (
            ("a", "bgpctl -o json peers"),
            json.dumps({"peers": [{"state": "established"}, {"state": "active"}]}),
            ("a: 1 sessions established of 2: established, active",),
        ),
        (("a", "bgpctl -o json peers"), 3, ("a: bgpctl: it failed",)),
        (
            ("a", "ip -json route show proto bird"),
            json.dumps([*ROUTES[1:], {"dst": "10.48.0.9", "gateway": "10.0.0.3", "dev": "eth1"}]),
            (
                "a: expected, not found: 10.48.0.64/26 via 10.0.0.1 dev eth1 and via 10.0.0.2 dev eth2",
                "a: found, not expected: 10.48.0.9/32 via 10.0.0.3 dev eth1",
            ),
        ),
        (("a", "pod exec web ping -c 1 -W 1 10.0.0.9"), 1, ("web: 10.0.0.9 (10.0.0.9) does not answer",)),
        (("b", "ping -c 1 -W 1 192.0.2.1"), 0, ("b: 192.0.2.1 (192.0.2.1) answers",)),
    ],
)
def test_what_does_not_hold_is_said(
    file: Path, question: tuple[str, str], answer: str | int, wrong: tuple[str, ...]
) -> None:
    *_, last = check(load_checks(file), Told({**ANSWERS, question: answer}))
    assert last.wrong == wrong


def test_the_default_route_is_called_so() -> None:
    answer = json.dumps([{"dst": "default", "gateway": "10.0.0.1", "dev": "eth1"}])
    assert routes(Told({("a", "ip -json route show proto bird"): answer}), "a") == [
        "default via 10.0.0.1 dev eth1"
    ]
    assert routes(Told({}), "a") == []


@pytest.mark.parametrize(
    ("before", "after", "mistake"),
    [
        ("{node: a, pool", "{node: c, pool", "pods.web.node: no node 'c'"),
        ("{web: {node: a", "{a: {node: a", "pods.a: a node is called so"),
        ("sessions: {a: 2}", "sessions: {c: 2}", "stages.0.sessions: no node 'c'"),
        ("b: [web]", "b: [wob]", "stages.0.pings: no node and no pod 'wob'"),
        ("[{node: b", "[{node: d", "stages.0.do: no node 'd'"),
        ("silent:", "quiet:", "stages.0.quiet: Extra inputs are not permitted"),
        ("two.clab.yml", "none.clab.yml", "none.clab.yml: cannot be read: No such file or directory"),
        ("title: all is well", "title: [", "while parsing"),
    ],
)
def test_mistakes_are_named(file: Path, before: str, after: str, mistake: str) -> None:
    assert before in file.read_text()
    file.write_text(file.read_text().replace(before, after))
    with pytest.raises(TopologyError) as caught:
        load_checks(file)
    assert mistake in str(caught.value)


def test_the_shipped_ones_say_all_of_every_node() -> None:
    """Each node that runs bgpd has its sessions and its whole table checked in the first stage."""
    files = sorted(SHIPPED.glob("*.yaml"))
    assert [file.stem for file in files] == [
        "fabric-as-per-node",
        "fabric-one-as",
        "fabric-reflectors",
        "workers",
    ]
    for file in files:
        loaded = load_checks(file)
        nodes = {name for name, node in loaded.load().nodes.items() if node.cmd[:1] == ("bgpd",)}
        first = loaded.stages[0]
        assert nodes == first.sessions.keys() and nodes <= first.tables.keys()
        assert {pod.node for pod in loaded.pods.values()} <= nodes
        named = {name for asked in first.pings.values() for name in asked} | first.pings.keys()
        assert loaded.pods.keys() <= named


FAKE = """#!/bin/sh
echo "$(basename $0) $* SIDE=$SIDE" >>{log}
case "$(basename $0) $1" in
"docker ps") ;;
"containerlab destroy") rm -r {clab} ;;
"containerlab deploy") [ -d {clab}/shared ] || exit 9 ;;
"docker image") [ "$3" != other:lab ] || exit {other} ;;
esac
"""


def test_the_real_containerlab_is_called_so(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With commands that only record: no machine of ours has an engine."""
    log, clab = file.parent / "log", file.parent / "clab-two"
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setenv("PATH", "/nowhere")
    loaded = load_checks(file)
    assert missing(loaded).startswith("no containerlab here")
    directory = file.parent / "bin"
    directory.mkdir()
    for command in ("containerlab", "docker"):
        program = directory / command
        program.write_text(FAKE.format(log=log, clab=clab, other=1))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")
    assert missing(loaded) == "no image other:lab: containerlab/README.md says how it is built"
    (directory / "docker").write_text(FAKE.format(log=log, clab=clab, other=0))
    assert missing(loaded) == ""
    log.unlink()
    with deployed(loaded) as ground:
        assert ground.run("a", ["ip", "route"]).returncode == 0
    assert not clab.exists()
    topology = file.parent / "two.clab.yml"
    assert log.read_text().splitlines() == [
        f"containerlab deploy --topo {topology} SIDE=left",
        "docker exec clab-two-a ip route SIDE=",
        f"containerlab destroy --topo {topology} --cleanup SIDE=left",
        "docker ps --all --quiet --filter label=containerlab=two SIDE=",
    ]
