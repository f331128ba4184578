"""``bgpd``: the daemon, and the tools that need no running one.

Each command imports what it needs when it runs, so that ``--help`` and the tools are quick. Exit codes: 0, 1 when it
failed, 2 for wrong usage, 78 (EX_CONFIG) when the configuration is wrong. So the service manager does not try again
with the same file.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bgpd import __version__
from bgpd.cli.exits import Exit
from bgpd.cli.streams import Parser, complain, ended_well, say, say_json
from bgpd.config.places import DEFAULT_CONFIG

if TYPE_CHECKING:
    from bgpd.config.reading import ConfigError


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    given = sys.argv[1:] if argv is None else argv

    def command() -> int:
        arguments = _parser(given[0] if given else "").parse_args(given)
        code: int = arguments.run(arguments)
        return code

    return ended_well("bgpd", given, command)


def _parser(word: str) -> argparse.ArgumentParser:
    """The parser of all commands; of the one named ``word`` it knows the options too."""
    parser = Parser(
        prog="bgpd",
        description="A BGP route distributor for container nodes. bgpctl talks to a running one.",
    )
    parser.add_argument("--version", action="version", version=f"bgpd {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    command = commands.add_parser("run", help="the daemon, in the foreground")
    _add_config_option(command)
    command.add_argument(
        "--takeover",
        action="store_true",
        help="take over the sessions of the bgpd that runs here, once all is ready for them, so that no peer notices; "
        "that one ends then",
    )
    command.set_defaults(run=_run)

    config = commands.add_parser("config", help="check a configuration file, or show what it may hold")
    actions = config.add_subparsers(metavar="ACTION", required=True)
    command = actions.add_parser(
        "check", help="say all that is wrong with a file; exit code 78 if anything is"
    )
    command.add_argument(
        "file", nargs="?", type=Path, default=Path(DEFAULT_CONFIG), metavar="FILE", help=DEFAULT_CONFIG
    )
    command.set_defaults(run=_config_check)
    command = actions.add_parser(
        "schema", help="the file's JSON Schema: every key, for editors and for people"
    )
    command.set_defaults(run=_config_schema)

    command = commands.add_parser(
        "cleanup",
        help="remove every route of ours from the kernel",
        description="Remove every route and nexthop object of ours from the kernel. Refuses while a bgpd runs here: "
        "stopping it leaves the routes on purpose, this takes them away.",
    )
    _add_config_option(command)
    command.set_defaults(run=_cleanup)

    # These bring much with them: only who asks for one waits for its imports.
    if word == "plan":
        from bgpd.cli.plan import add_parser as add_plan

        add_plan(commands)
    else:
        commands.add_parser(
            "plan", help="all that a node would do by a directory of resources", add_help=False
        )
    if word == "policy":
        from bgpd.cli.policy import add_parser as add_policy

        add_policy(commands)
    else:
        commands.add_parser("policy", help="try filters and the built-in rules on routes", add_help=False)
    if word == "sync":
        from bgpd.cli.sync import add_parser as add_sync

        add_sync(commands)
    else:
        commands.add_parser(
            "sync", help="keep a directory of resources equal to the API server's", add_help=False
        )
    if word == "lab":
        try:
            from testing.lab.commands import add_parser as add_lab
        except ModuleNotFoundError:
            parser.error("the lab is no part of a node's install: run it from the source tree")
        add_lab(commands)
    else:
        commands.add_parser(
            "lab", help="lay a containerlab topology in network namespaces (source tree only)", add_help=False
        )
    return parser


def _add_config_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--config",
        type=Path,
        default=Path(DEFAULT_CONFIG),
        metavar="FILE",
        help=f"the configuration; {DEFAULT_CONFIG} by default",
    )


def _run(arguments: argparse.Namespace) -> int:
    # What is imported stays: collecting garbage meanwhile looks through all of it for nothing.
    gc.disable()
    from bgpd.config.reading import ConfigError
    from bgpd.daemon.daemon import run
    from bgpd.model.doors import Impossible
    from bgpd.observe.control_socket import AlreadyRunning

    try:
        run(arguments.config, take_over=arguments.takeover)
    except ConfigError as error:
        return _refuse(error)
    except (AlreadyRunning, Impossible) as error:
        return _fail(str(error))
    except OSError as error:
        # What a start needs of the machine: a socket, a port, netlink. A bug arrives as a group of a task's errors.
        return _fail(error.strerror or str(error))
    return Exit.OK


def _config_check(arguments: argparse.Namespace) -> int:
    from bgpd.config.reading import ConfigError, absent, load

    try:
        config = load(arguments.file)
    except ConfigError as error:
        return _refuse(error)
    missing = absent(config, str(arguments.file))
    for problem in missing:
        complain(f"bgpd: warning: {problem}\n")
    say(f"{arguments.file}: nothing wrong{' in itself' if missing else ''}\n")
    return Exit.OK


def _config_schema(arguments: argparse.Namespace) -> int:
    from bgpd.config.schema import schema

    say_json(schema())
    return Exit.OK


def _cleanup(arguments: argparse.Namespace) -> int:
    from bgpd.config.reading import ConfigError, load
    from bgpd.daemon.cleanup import Rival, cleanup
    from bgpd.observe.control_socket import answers

    try:
        config = load(arguments.config)
        if answers(config.api.socket):
            return _fail(f"a bgpd answers on {config.api.socket}: stop it first")
        removed = cleanup(config)
    except ConfigError as error:
        return _refuse(error)
    except Rival as error:
        return _fail(f"another daemon writes `proto bird` routes here: {error}: stop it first")
    except OSError as error:
        return _fail(error.strerror or str(error))
    for family, count in removed.items():
        say(f"{family}: {count} routes removed\n")
    return Exit.OK


def _refuse(error: ConfigError) -> int:
    count = len(error.problems)
    complain(f"bgpd: the configuration has {count} mistake{'' if count == 1 else 's'}:\n")
    for problem in error.problems:
        complain(f"  {problem}\n")
    return Exit.CONFIG


def _fail(words: str) -> int:
    complain(f"bgpd: {words}\n")
    return Exit.FAILED


if __name__ == "__main__":
    sys.exit(main())
