"""``bgpd lab up | status | exec | down | check | demo``: the lab from a terminal.

``cli.daemon`` calls ``add_parser`` with its sub-parsers; each command sets ``run`` to a function that takes the parsed
arguments and returns the exit code: 0, 1 when the lab failed, 78 when the topology is wrong, 130 on Ctrl-C; ``exec``
returns the command's own.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from bgpd.cli.exits import Exit
from bgpd.cli.streams import complain, say
from testing.lab.lab import Lab, LabError
from testing.lab.topology import TopologyError


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Adds ``lab`` and its commands."""
    lab = subparsers.add_parser(
        "lab",
        help="lay a containerlab topology in network namespaces",
        description="Lays a containerlab topology file in namespaces of its own a node; no container engine is needed.",
    )
    commands = lab.add_subparsers(dest="lab_command", required=True, metavar="COMMAND")

    def add(name: str, function: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:  # noqa: A002
        parser: argparse.ArgumentParser = commands.add_parser(
            name, help=help, description=help[0].upper() + help[1:] + "."
        )
        parser.set_defaults(run=lambda arguments: _guarded(function, arguments))
        return parser

    up = add("up", _up, "lay a topology: nodes, links, exec, cmd")
    down = add("down", _down, "end a lab and all that runs in it")
    status = add("status", _status, "show the nodes of a lab, or of all labs")
    execute = add("exec", _exec, "run a command in a node of a lab")
    demo = add("demo", _demo, "lay the cluster of containerlab/workers.clab.yml, run its story, end it")
    checking = add("check", _check, "lay the topology of a file of checks, hold it against them, end it")
    checking.add_argument("checks", metavar="CHECKS", type=Path, help="a file of containerlab/checks")
    checking.add_argument("--name", help="call the lab so, instead of what the topology says")
    for parser in (up, demo):
        parser.add_argument("topology", metavar="TOPOLOGY", type=Path, help="a *.clab.yml file")
        parser.add_argument("--name", help="call the lab so, instead of what the file says")
    for parser in (down, execute):
        parser.add_argument("lab", metavar="LAB", help="its topology file, or its name")
    status.add_argument("lab", metavar="LAB", nargs="?", help="its topology file, or its name; all without")
    execute.add_argument("node", metavar="NODE", help="a node of the lab")
    execute.add_argument("command", metavar="COMMAND", nargs=argparse.REMAINDER, help="a shell without")


def _guarded(function: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    def end(number: int, _frame: object) -> NoReturn:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, end)  # as Ctrl-C: what was begun is taken away again
    signal.signal(signal.SIGHUP, end)
    try:
        return function(arguments)
    except TopologyError as error:
        complain(f"{error}\n")
        return Exit.CONFIG
    except LabError as error:
        complain(f"bgpd lab: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130


def _find(reference: str) -> Lab:
    """A lab that is up, by its topology file or its name."""
    if reference not in Lab.names() and Path(reference).is_file():
        return Lab.running(Lab.load(reference).name)
    return Lab.running(reference)


def _up(arguments: argparse.Namespace) -> int:
    lab = Lab.load(arguments.topology, arguments.name)
    lab.up()
    say(f"lab {lab.name} is up: {', '.join(lab.nodes)}\n")
    say(f"a shell in a node: bgpd lab exec {lab.name} {next(iter(lab.nodes))}\n")
    say(f"its end:           bgpd lab down {lab.name}\n")
    return 0


def _down(arguments: argparse.Namespace) -> int:
    lab = _find(arguments.lab)
    lab.down()
    say(f"lab {lab.name} is down\n")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    """1 when a node is not up or a cmd ended."""
    labs = [_find(arguments.lab)] if arguments.lab else [Lab.running(name) for name in Lab.names()]
    if not labs:
        say("no lab is up\n")
        return 0
    well = True
    rows = [("LAB", "NODE", "KIND", "STATE", "PID", "CMD", "LOG")]
    for lab in labs:
        for node in lab.nodes.values():
            init = node.init
            cmd = log = ""
            if node.spec.cmd:
                running = init is not None and node.running
                well &= running
                cmd = f"{'running' if running else 'ended'}: {shlex.join(node.spec.cmd)}"
                log = str(node.log)
            well &= init is not None
            state, pid = ("up", str(init.pid)) if init is not None else ("down", "")
            rows.append((lab.name, node.name, node.spec.kind, state, pid, cmd, log))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
        say(line.rstrip() + "\n")
    return 0 if well else 1


def _exec(arguments: argparse.Namespace) -> int:
    node = _find(arguments.lab).node(arguments.node)
    command = [word for number, word in enumerate(arguments.command) if number or word != "--"]
    words = node.entry(command or [os.environ.get("SHELL", "/bin/sh")])
    sys.stdout.flush()
    os.execvpe(words[0], words, node.environment)


def _check(arguments: argparse.Namespace) -> int:
    """1 when something does not hold."""
    from testing.lab.checks import LabGround, check, load_checks

    checks = load_checks(arguments.checks)
    with Lab(checks.load(arguments.name)) as lab:
        for outcome in check(checks, LabGround(lab)):
            say(f"{'NOT ' if outcome.wrong else ''}ok: {outcome.what}\n")
            for line in outcome.wrong:
                say(f"    {line}\n")
            if outcome.wrong:
                return 1
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from testing.lab.demo import run_story

    return run_story(arguments.topology, arguments.name)
