"""The words of ``bgpctl``: its commands, their options, and what ``--help`` says of them.

What the commands do is in ``ctl_commands``.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from typing import Any

from bgpd import __version__
from bgpd.cli import ctl_commands as commands_of
from bgpd.cli import screens, stored
from bgpd.cli.ctl_commands import Command
from bgpd.cli.exits import Exit
from bgpd.cli.streams import Parser
from bgpd.config.places import DEFAULT_CONFIG

DEFAULT_SOCKET = "/run/bgpd/api.sock"
OUTPUTS = ("table", "json")
"""The formats of output that every command has."""
ANY_OUTPUT = (*OUTPUTS, "jsonl", "wide", "yaml")
"""What may stand in front of a command: all that any of them has."""


_EXAMPLES = """\
examples:
  bgpctl status                     one screen: ready or not, peers, routes, the kernel, what is wrong
  bgpctl peers --watch              sessions, redrawn every 2 s
  bgpctl peers 10.0.1.30 --detail   timers, capabilities, counters and the last error of one
  bgpctl routes in --peer 10.0.1.30   what a peer announces to us
  bgpctl routes fib 10.48.0.0/16 --longer
  bgpctl why 10.48.0.40             why this address is, or is not, routed as it is
  bgpctl plan -f resources/         what these files would change here; 2 if anything
  bgpctl drain --wait 30s           traffic goes elsewhere; bgpctl undrain brings it back
  bgpctl peer shutdown 10.0.1.30 -m "rack move, back at 14:00"

exit codes: 0 all is well, 1 degraded or refused, 2 wrong usage, 3 the daemon does not answer, 4 not found,
5 no permission; of plan: 0 nothing would change, 2 something would, 1 any error"""


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=110)


def parser() -> Parser:
    """Of the whole command line; ``ask`` of what it finds is the command, ``fail`` complains of its use."""
    top = Parser(
        prog="bgpctl",
        description="Show what the bgpd of this node does, and steer it.",
        epilog=_EXAMPLES,
        formatter_class=_Help,
    )
    top.add_argument("--version", action="version", version=f"bgpctl {__version__}")
    _common(top, os.environ.get("BGPCTL_SOCKET") or DEFAULT_SOCKET, "table", ANY_OUTPUT)
    top.set_defaults(raw=False)
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    def add(
        name: str,
        ask: Command,
        text: str,
        *,
        watch: bool = False,
        to: Any = commands,
        outputs: Sequence[str] = OUTPUTS,
        **options: Any,
    ) -> Parser:
        command: Parser = to.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", formatter_class=_Help, **options
        )
        _common(command, argparse.SUPPRESS, argparse.SUPPRESS, outputs)
        if watch:
            command.add_argument(
                "--watch",
                nargs="?",
                type=_seconds,
                const=2.0,
                metavar="SECONDS",
                help="show it again every 2 s, or as often as given",
            )
        command.set_defaults(ask=ask, fail=command.error, outputs=outputs)
        return command

    add(
        "status",
        commands_of.status,
        "one screen of everything; exit code 1 when degraded or not ready",
        watch=True,
    )

    command = add("peers", commands_of.peers, "sessions: state, prefixes, flaps, the last error", watch=True)
    command.add_argument(
        "name",
        nargs="?",
        type=_word,
        metavar="NAME|IP",
        help="only this one, or those of a BGPPeer, a node or a pod",
    )
    command.add_argument(
        "--detail", action="store_true", help="timers, capabilities, counters, errors in words"
    )

    command = add(
        "routes",
        commands_of.routes,
        "the routing tables",
        watch=True,
        usage="bgpctl routes [in|out|rib|fib] [PREFIX|IP|NAME] [--peer NAME|IP] [--longer] [-o FORMAT]",
        epilog=(
            "in: what peers announce; out: what they are sent; rib (the default): what was chosen of it and of our\n"
            "own; fib: what the kernel has, or should have. An address, or the name of a pod, a node or a peer, shows\n"
            "every prefix that covers it.\n"
            f"marks: {screens.ROUTES_LEGEND}"
        ),
    )
    command.add_argument(
        "words",
        nargs="*",
        type=_word,
        metavar="[in|out|rib|fib] [PREFIX|IP|NAME]",
        help=argparse.SUPPRESS,
    )
    command.add_argument("--peer", type=_word, metavar="NAME|IP", help="only routes from, or to, this one")
    command.add_argument("--longer", action="store_true", help="all prefixes inside PREFIX too")

    add("blocks", commands_of.blocks, "IPAM blocks that are ours, that we lend from or borrow of", watch=True)

    add(
        "diff",
        commands_of.diff,
        "where what is wanted, what peers were sent and what the kernel has differ; exit code 1 when anything does",
        watch=True,
    )

    group: Parser = commands.add_parser(
        "config",
        help="the configuration in force",
        description="The configuration in force.",
        formatter_class=_Help,
    )
    command = add(
        "show",
        commands_of.config_show,
        "every key, and what of the file waits for a reload or a restart; exit code 1 when the file cannot be taken",
        to=group.add_subparsers(metavar="COMMAND", required=True),
    )
    command.add_argument("--changed", action="store_true", help="only what is not the default")

    add("bfd", commands_of.bfd, "BFD sessions: state, intervals, detection time, why one is down", watch=True)

    command = add(
        "why",
        commands_of.why,
        "why a prefix, an address or a pod is routed as it is, step by step",
        watch=True,
    )
    command.add_argument(
        "target",
        type=_word,
        metavar="PREFIX|IP|NAME",
        help="NAME: of a pod (namespace/name), a node or a peer",
    )
    command.add_argument(
        "--at",
        type=moment,
        default=0.0,
        metavar="TIME",
        help="where it was routed then, by the history: 10m, 14:02",
    )

    command = add(
        "plan",
        commands_of.plan,
        "what other resources would change: sessions, routes, rules; changes nothing",
        epilog="exit codes: 0 nothing would change, 2 something would, 1 an error",
    )
    command.misused = Exit.DEGRADED
    command.add_argument(
        "-f",
        "--filename",
        dest="directory",
        required=True,
        metavar="DIR",
        help="YAML and JSON files, in place of the daemon's own",
    )

    add("reload", commands_of.reload, "read the configuration again, wait, and say what changed")

    add(
        "upgrade",
        commands_of.upgrade,
        "start the next process of the daemon, from what is installed now, so that no peer notices",
        epilog=(
            "Sessions, sockets and all go to the new process. Where it fails before it has them, the old one goes\n"
            "on. Under systemd this is systemctl restart, which hands the sessions over too (docs/restart.md)."
        ),
    )

    command = add("health", commands_of.health, "the probe's checks; exit code 1 when one fails", watch=True)
    command.add_argument(
        "check", nargs="?", choices=("live", "ready"), default="ready", help="ready by default"
    )
    command.add_argument(
        "--calico",
        action="store_true",
        help="ready as calico-node means it: every session in the first 30 s, one afterwards",
    )
    add(
        "node-status", commands_of.node_status, "the sessions as calicoctl node status prints them"
    ).set_defaults(raw=True)

    command = add(
        "peer",
        commands_of.peer,
        "shut down, enable, reset or refresh a session",
        epilog=(
            "shutdown: end it and keep it down, also over restarts of bgpd; enable: the opposite\n"
            "reset:    end it and let it come back\n"
            "soft-in:  ask the peer for all of its routes again; soft-out: send it all of ours again"
        ),
    )
    command.add_argument(
        "action",
        choices=("shutdown", "enable", "reset", "soft-in", "soft-out"),
        metavar="ACTION",
        help="shutdown, enable, reset, soft-in or soft-out",
    )
    command.add_argument(
        "name", type=_word, metavar="NAME|IP", help="a session, by its name or the peer's address"
    )
    command.add_argument(
        "-m", "--message", default="", metavar="TEXT", help="what the peer's operator is sent"
    )

    command = add(
        "history",
        commands_of.history,
        "what happened here: sessions, resources, routes, repairs",
        outputs=("table", "json", "jsonl"),
        epilog="TIME: 30s, 15m, 1h or 2d ago; 14:02 or 14:02:11 of today; or 2026-11-23T14:02:11.",
    )
    command.add_argument(
        "target", nargs="?", type=_word, metavar="PREFIX|IP|NAME", help="only routes that cover it"
    )
    command.add_argument(
        "--since", type=moment, default=0.0, metavar="TIME", help="all that is kept, if not given"
    )
    command.add_argument("--until", type=moment, default=0.0, metavar="TIME", help="until now, if not given")
    command.add_argument("--peer", type=_word, metavar="NAME|IP", help="only what names this peer")
    command.add_argument("-n", "--most", type=_count, default=1000, metavar="N", help="the newest N; 1000")
    command.add_argument("--follow", action="store_true", help="go on with what happens, until Ctrl-C")

    command = add(
        "doctor",
        commands_of.doctor,
        "what of this machine hinders bgpd; exit code 1 when anything does",
        epilog="The archive is for support: status, peers, routes, kernel, journal, configuration; no secrets.",
    )
    command.add_argument("--bundle", metavar="FILE", help="write an archive too, as FILE.tar.gz, mode 0600")
    command.add_argument(
        "--config", metavar="FILE", default="", help=f"the daemon's, if it does not answer: {DEFAULT_CONFIG}"
    )

    command = add(
        "drain",
        commands_of.drain,
        "take this node out of service, also over restarts; services first, then all else is the last resort",
        epilog=(
            "services of this node are withdrawn; a second later all else is advertised with GRACEFUL_SHUTDOWN to\n"
            "external peers and with LOCAL_PREF 0 to internal ones (RFC 8326), so that peers take any other way"
        ),
    )
    command.add_argument(
        "--wait",
        type=_wait,
        default=0.0,
        metavar="TIME",
        help="return so much later, such as 30s; 0s by default",
    )
    command.add_argument(
        "--withdraw", action="store_true", help="after the wait withdraw all, the only ways too"
    )
    command.add_argument(
        "--until-restart",
        action="store_true",
        help="forget it when bgpd restarts: for the shutdown of a machine",
    )
    add("undrain", commands_of.undrain, "bring this node back into service")

    add("metrics", commands_of.metrics, "what Prometheus would read, as its text or as json").set_defaults(
        raw=True
    )
    add("version", commands_of.version, "the versions of bgpctl and of the daemon")
    stored.register(add, commands_of.on_store)
    return top


def moment(text: str) -> float:
    """Unix seconds of an age, or of a time of the local clock. ``ArgumentTypeError``."""
    from datetime import datetime

    given = text
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(text[-1:])
    try:
        if unit and text[:-1].isascii() and text[:-1].isdigit():
            return max(0.0, time.time() - int(text[:-1]) * unit)
        if "-" not in text:
            text = f"{datetime.now().astimezone():%Y-%m-%d}T{text}"
        return datetime.fromisoformat(text).astimezone().timestamp()
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"expected 15m, 14:02 or 2026-11-23T14:02:11, not {given!r}"
        ) from None


def _word(text: str) -> str:
    """What names something: a variable of a script that is not set names nothing, and least of all everything."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"expected a name, an address or a prefix, not {text!r}")
    return text


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"expected a number from 1, not {text!r}")
    return int(text)


def _common(
    parser: argparse.ArgumentParser, socket: str, output: str, outputs: Sequence[str] = OUTPUTS
) -> None:
    """Options that stand before the command or after it; after it they have no default of their own."""
    shown = OUTPUTS if outputs is ANY_OUTPUT else outputs
    words = f"{', '.join((f'{shown[0]} (default)', *shown[1:-1]))} or {shown[-1]}"
    metavar = f"{{{','.join(shown)}}}"
    parser.add_argument("-o", "--output", choices=outputs, default=output, metavar=metavar, help=words)
    parser.add_argument(
        "--socket",
        default=socket,
        metavar="PATH",
        help=f"the daemon's socket; $BGPCTL_SOCKET, or {DEFAULT_SOCKET}",
    )


def _wait(text: str) -> float:
    try:
        number = text[:-1] if text.endswith(("s", "m")) else text
        seconds = float(number) * (60 if text.endswith("m") else 1)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 30s or 5m, up to 60m")
    return seconds


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of seconds; write --watch=5, or put --watch last"
        )
    return seconds
