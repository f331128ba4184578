"""``bgpd plan``: all that a node would do by a directory of resources; no daemon, no root, no network.

``cli.daemon`` adds it; ``views.plan`` makes it by the daemon's rules. Exit codes: 0, also where resources are wrong
(the problems say so); 2 when there is nothing to go on; 78 for a configuration that bgpd would refuse.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bgpd.cli import plans
from bgpd.cli.exits import Exit
from bgpd.cli.kernelfacts import KernelFactsError, read_kernel
from bgpd.cli.streams import complain, error_object, say, say_json
from bgpd.cli.tables import Look, lines, on_terminal
from bgpd.config.config import Config, Passwords
from bgpd.config.reading import ConfigError, load, read_passwords
from bgpd.config.values import Password
from bgpd.datastore.offline import Unreadable, read
from bgpd.model.resources import Problem
from bgpd.views.plan import KernelFacts, Plan, document, plan


def add_parser(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds ``plan``."""
    command = commands.add_parser(
        "plan",
        help="all that a node would do by a directory of resources",
        description="All that a node would do by the resources in a directory: sessions, announcements, blackholes, "
        "rules for the kernel, and what is wrong. Needs no daemon, and changes nothing.",
    )
    command.add_argument("--resources", type=Path, required=True, metavar="DIR", help="YAML and JSON files")
    command.add_argument("--node", required=True, metavar="NAME", help="whose plan it is")
    command.add_argument(
        "--config", type=Path, metavar="FILE", help="the node's configuration; all defaults without"
    )
    command.add_argument(
        "--kernel",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="what ip -j route, ip -j -6 route or ip -j address printed on the node; may be given several times. "
        "Without routes, borrowed addresses come from IPAM alone",
    )
    command.add_argument(
        "-o", "--output", choices=("table", "json"), default="table", help="table (default) or json"
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The command; returns its exit code."""
    logging.getLogger("bgpd").addHandler(logging.NullHandler())  # what is wrong is reported below, not logged
    try:
        made = _plan(arguments)
    except ConfigError as error:
        return _failed(arguments, "the configuration was not taken", Exit.CONFIG, error.problems)
    except (Unreadable, KernelFactsError) as error:
        return _failed(arguments, str(error), Exit.USAGE)
    found = document(made)
    if arguments.output == "json":
        say_json(found)
        return Exit.OK
    terminal = on_terminal(sys.stdout)
    for line in lines(plans.plan(found, Look(time.time(), terminal=terminal)), terminal=terminal):
        say(line + "\n")
    return Exit.OK


def _failed(arguments: argparse.Namespace, words: str, code: Exit, problems: Iterable[Problem] = ()) -> Exit:
    lines = [str(problem) for problem in problems]
    complain("".join(f"bgpd: {line}\n" for line in lines or [words]))
    if arguments.output == "json":
        say_json(error_object(words, code, lines))
    return code


def _plan(arguments: argparse.Namespace) -> Plan:
    given = load(arguments.config) if arguments.config is not None else Config(node=arguments.node)
    config = given.replace({"node": arguments.node})
    kernel = read_kernel(arguments.kernel, config.kernel) if arguments.kernel else KernelFacts()
    passwords, absent = _passwords(config)
    made = plan(read(arguments.resources, config.node), config, passwords, kernel)
    return made._replace(problems=tuple(sorted({*made.problems, *absent}, key=str)))


def _passwords(config: Config) -> tuple[Passwords, list[Problem]]:
    """What the password files hold. One that cannot be read here may well be there on the node: it counts as good."""
    passwords: dict[Path, Password | str] = {}
    problems = []
    for path, found in read_passwords(config).items():
        if isinstance(found, str):
            message = f"{found} here: the plan takes it that the node has a password there"
            problems.append(Problem("configuration", f"password_file {path}", message))
            found = Password(b"unknown")
        passwords[path] = found
    return passwords, problems
