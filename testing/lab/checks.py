"""What must be true of a topology once it is up, read from a file and held against the laid one.

A file of checks says of a topology which pods there are, and then, stage by stage, what is done to it and what every
node must have after that: sessions, the whole of the routes that bgpd or BIRD wrote (``ip route show proto bird``), who
reaches whom and who does not. The same file is checked in namespaces (``bgpd lab check``, ``make test``) and in the
containers of the real containerlab (``make containerlab``): a ``Ground`` is either.

A stage is over as soon as all of it holds; what does not hold after ``PATIENCE`` is said as expected and found.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess
from typing import Annotated, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from testing.lab.lab import Lab
from testing.lab.topology import Topology, TopologyError, load_topology, read_yaml

PATIENCE = 30.0
"""Seconds for a stage to become true."""
EVERY = 0.2


class Ground(Protocol):
    """Where a topology is laid: runs a command, as words, in a node."""

    def run(self, node: str, command: Sequence[str]) -> CompletedProcess[str]: ...


class LabGround:
    """The namespaces of ``bgpd lab``."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def run(self, node: str, command: Sequence[str]) -> CompletedProcess[str]:
        """See ``Ground``."""
        return self._lab.node(node).run(command)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Pod(_Strict):
    """A pod that is made before the first stage. ``pool``: where its address comes from."""

    node: str
    pool: str | None = None


class Order(_Strict):
    """A command that is run in a node, without a shell."""

    node: str
    run: Annotated[list[str], Field(min_length=1)]


class Stage(_Strict):
    """What is done, and what holds afterwards."""

    title: str
    do: list[Order] = []
    sessions: dict[str, int] = {}
    """Node -> sessions of its bgpd that are established."""
    tables: dict[str, list[str]] = {}
    """Node -> all its routes of bgpd's or BIRD's, a line each as ``routes`` writes it, in any order."""
    pings: dict[str, list[str]] = {}
    """Pod or node -> pods or addresses that answer it."""
    silent: dict[str, list[str]] = {}
    """The same, of which none answers."""


class Checks(_Strict):
    """A file of them. ``topology`` is relative to the file."""

    topology: Path
    env: dict[str, str] = {}
    """What ``$VAR`` in the topology stands for."""
    pods: dict[str, Pod] = {}
    stages: Annotated[list[Stage], Field(min_length=1)]

    def load(self, name: str | None = None) -> Topology:
        """The topology that they are of."""
        return load_topology(self.topology, name, self.env)


def load_checks(path: Path) -> Checks:
    """Reads a file and its topology; ``TopologyError`` names every mistake, a node that is not there too."""
    try:
        checks = Checks.model_validate(read_yaml(path.read_bytes(), path))
    except OSError as error:
        raise TopologyError(f"{path}: cannot be read: {error.strerror}") from None
    except ValidationError as error:
        lines = (f"{path}: {'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise TopologyError("\n".join(lines)) from None
    checks = checks.model_copy(update={"topology": path.parent / checks.topology})
    if mistakes := [f"{path}: {mistake}" for mistake in _mistakes(checks)]:
        raise TopologyError("\n".join(mistakes))
    return checks


def _mistakes(checks: Checks) -> Iterator[str]:
    nodes = checks.load().nodes
    for name, pod in checks.pods.items():
        if name in nodes:
            yield f"pods.{name}: a node is called so"
        if pod.node not in nodes:
            yield f"pods.{name}.node: no node {pod.node!r}"
    for number, stage in enumerate(checks.stages):
        orders = [order.node for order in stage.do]
        for key, names in (("do", orders), ("sessions", stage.sessions), ("tables", stage.tables)):
            for name in names:
                if name not in nodes:
                    yield f"stages.{number}.{key}: no node {name!r}"
        for key, asked in (("pings", stage.pings), ("silent", stage.silent)):
            for source, targets in asked.items():
                for name in (source, *(target for target in targets if not _is_address(target))):
                    if name not in nodes and name not in checks.pods:
                        yield f"stages.{number}.{key}: no node and no pod {name!r}"


def _is_address(text: str) -> bool:
    return "." in text or ":" in text


class Outcome(NamedTuple):
    """One thing that was checked: what, and what was wrong with it, a line each."""

    what: str
    wrong: tuple[str, ...] = ()


def check(checks: Checks, ground: Ground) -> Iterator[Outcome]:
    """Makes the pods and goes through the stages; after one that does not hold there is none."""
    addresses: dict[str, str] = {}
    for name, pod in checks.pods.items():
        annotation = (
            ["--annotation", f"cni.projectcalico.org/ipv4pools={json.dumps([pod.pool])}"] if pod.pool else []
        )
        words = ["pod", "add", *annotation, name]
        made = _until(partial(_run, ground, pod.node, words))
        if not made:
            addresses[name] = _address_of(ground, pod.node, name)
        yield Outcome(f"pod {name} on {pod.node}: {addresses.get(name, 'not made')}", tuple(made))
        if made:
            return
    for stage in checks.stages:
        for order in stage.do:
            done = tuple(_run(ground, order.node, order.run))
            if done:
                yield Outcome(f"{stage.title}: {order.node}: {' '.join(order.run)}", done)
                return
        before = time.monotonic()
        with ThreadPoolExecutor(16) as threads:
            wrong = _until(partial(_hold, stage, checks, ground, addresses, threads))
        yield Outcome(
            f"{stage.title} ({_count(stage)} checks, {time.monotonic() - before:.1f} s)", tuple(wrong)
        )
        if wrong:
            return


def _count(stage: Stage) -> int:
    asked = (*stage.pings.values(), *stage.silent.values())
    return len(stage.sessions) + len(stage.tables) + sum(map(len, asked))


def _until(wrong: Callable[[], list[str]]) -> list[str]:
    """What is still wrong when all is well or patience is at its end."""
    end = time.monotonic() + PATIENCE
    while (found := wrong()) and time.monotonic() < end:
        time.sleep(EVERY)
    return found


def _run(ground: Ground, node: str, command: Sequence[str]) -> list[str]:
    """What it said if it failed."""
    done = ground.run(node, command)
    return [(done.stderr or done.stdout).strip() or f"exit {done.returncode}"] if done.returncode else []


def _address_of(ground: Ground, node: str, pod: str) -> str:
    """The IPv4 address of a pod, by ``pod list``: ``default/web  10.48.0.1/32  cali...``."""
    for line in ground.run(node, ["pod", "list"]).stdout.splitlines():
        name, *rest = line.split()
        if name.rpartition("/")[2] == pod and rest:
            return rest[0].partition("/")[0]
    return ""


def _hold(
    stage: Stage,
    checks: Checks,
    ground: Ground,
    addresses: Mapping[str, str],
    threads: ThreadPoolExecutor,
) -> list[str]:
    """What does not hold now. Pings are tried only once sessions and tables are right."""
    wrong = list(threads.map(lambda each: _sessions(ground, *each), stage.sessions.items()))
    wrong += threads.map(lambda each: _table(ground, *each), stage.tables.items())
    if not any(wrong):
        tried = [
            (source, target, answers)
            for asked, answers in ((stage.pings, True), (stage.silent, False))
            for source, targets in asked.items()
            for target in targets
        ]
        wrong += threads.map(lambda each: _ping(checks, ground, addresses, *each), tried)
    return [line for lines in wrong for line in lines]


def _sessions(ground: Ground, node: str, wanted: int) -> list[str]:
    asked = ground.run(node, ["bgpctl", "-o", "json", "peers"])
    if asked.returncode:
        return [f"{node}: bgpctl: {asked.stderr.strip()}"]
    states = [peer["state"] for peer in json.loads(asked.stdout)["peers"]]
    up = states.count("established")
    return [] if up == wanted else [f"{node}: {up} sessions established of {wanted}: {', '.join(states)}"]


def _table(ground: Ground, node: str, wanted: Iterable[str]) -> list[str]:
    found = set(routes(ground, node))
    missing = [f"{node}: expected, not found: {line}" for line in sorted({*wanted} - found)]
    return missing + [f"{node}: found, not expected: {line}" for line in sorted(found - {*wanted})]


def routes(ground: Ground, node: str) -> list[str]:
    """The IPv4 routes of ``proto bird``: ``10.48.0.64/26 via 10.1.1.1 dev ens5 and via 10.1.2.1 dev ens6``, the legs
    in order, or ``blackhole 10.48.0.0/26``."""
    asked = ground.run(node, ["ip", "-json", "route", "show", "proto", "bird"])
    lines = []
    for route in json.loads(asked.stdout or "[]"):
        destination = (
            route["dst"] if "/" in route["dst"] or route["dst"] == "default" else f"{route['dst']}/32"
        )
        if "type" in route:
            lines.append(f"{route['type']} {destination}")
            continue
        legs = sorted(f"via {hop['gateway']} dev {hop['dev']}" for hop in route.get("nexthops", (route,)))
        lines.append(f"{destination} {' and '.join(legs)}")
    return lines


def _ping(
    checks: Checks, ground: Ground, addresses: Mapping[str, str], source: str, target: str, answers: bool
) -> list[str]:
    ping = ["ping", "-c", "1", "-W", "1", addresses.get(target, target)]
    pod = checks.pods.get(source)
    node, command = (source, ping) if pod is None else (pod.node, ["pod", "exec", source, *ping])
    if (ground.run(node, command).returncode == 0) is answers:
        return []
    return [
        f"{source}: {target} ({addresses.get(target, target)}) {'does not answer' if answers else 'answers'}"
    ]
