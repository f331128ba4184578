"""``bgpctl``: what a running daemon knows, and the few orders it takes.

A thin client: it asks the daemon over its unix socket (``client``), makes screens of the answers (``screens``,
``peers``) and prints them (``tables``). It starts in a fraction of the time that the daemon's libraries take to
import, because probes run it; keep pydantic, aiohttp, ExaBGP and ``bgpd.model`` out of here.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from itertools import chain, islice
from typing import Any, NamedTuple, NoReturn

from bgpd import __version__
from bgpd.cli import exposition, peers, plans, screens, stored
from bgpd.cli.client import Client, Denied, Refused, Unreachable
from bgpd.cli.streams import Parser, complain, ended_well, say, sent
from bgpd.cli.tables import ASCII_MARKS, MARKS, Look, Screen, can_mark, cell, lines, on_terminal, stamp

DEFAULT_SOCKET = "/run/bgpd/api.sock"
OUTPUTS = ("table", "json")
TABLES = ("in", "out", "rib", "fib")
RELOAD_TIMEOUT = PLAN_TIMEOUT = 60.0
RESOURCES = (".yaml", ".yml", ".json")
"""How the names of resource files end."""


class Exit(IntEnum):
    """Exit codes: what a script can distinguish."""

    OK = 0
    DEGRADED = 1
    USAGE = CHANGES = 2
    UNREACHABLE = 3
    NOT_FOUND = 4
    PERMISSION = 5


class Unreadable(Exception):
    """A file or directory that the operator named cannot be read; says which and why."""


class Answer(NamedTuple):
    """What a command found: as a screen, as pieces of JSON text, and what the exit code says of it.

    What is neither (``raw``) has its text in ``json`` and no screen.
    """

    screen: Callable[[Look], Screen]
    json: Callable[[], Iterable[str]]
    code: Exit = Exit.OK


Command = Callable[[Client, argparse.Namespace], Answer]


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    given = sys.argv[1:] if argv is None else argv
    return ended_well("bgpctl", lambda: _run(given), Exit.DEGRADED)


def _run(argv: Sequence[str]) -> int:
    arguments, strange = _parser().parse_known_args(argv)
    if strange:
        arguments.fail(f"unrecognized arguments: {' '.join(strange)}")
    client = Client(arguments.socket)
    problems: tuple[str, ...] = ()
    printed = False
    try:
        if getattr(arguments, "watch", None) is not None:
            return _watch(client, arguments, argv)
        answer: Answer = arguments.ask(client, arguments)
        if arguments.output == "json" or arguments.raw:
            for piece in answer.json():
                printed = True
                say(piece)
        else:
            terminal = on_terminal(sys.stdout)
            for line in lines(answer.screen(_look(terminal)), terminal=terminal):
                say(line + "\n")
        return answer.code
    except Refused as error:
        words, problems = str(error), error.problems
        code = {400: Exit.USAGE, 404: Exit.NOT_FOUND}.get(error.status, Exit.DEGRADED)
    except Unreadable as error:
        words, code = str(error), Exit.DEGRADED
    except Unreachable as error:
        words, code = str(error), Exit.UNREACHABLE
    except Denied as error:
        words, code = str(error), Exit.PERMISSION
    if arguments.ask is _plan:  # its codes are those of a comparison, as diff has them: any failure is one
        code = Exit.DEGRADED
    _complain(words, problems)
    if arguments.output == "json" and not printed:
        say(_json(_failure(words, problems, code)))
    return code


def _complain(message: str, problems: Sequence[str] = ()) -> None:
    complain(f"bgpctl: {cell(message).text}\n" + "".join(f"  {cell(each).text}\n" for each in problems))


def _failure(words: str, problems: Sequence[str], code: Exit) -> dict[str, Any]:
    """What ``-o json`` prints in place of an answer."""
    return {"schema_version": 1, "error": words, "problems": list(problems), "exit_code": int(code)}


def _json(found: Mapping[str, Any]) -> str:
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def _look(terminal: bool) -> Look:
    return Look(time.time(), MARKS if can_mark(sys.stdout) else ASCII_MARKS, terminal)


def _watch(client: Client, arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    """Shows it again and again until Ctrl-C: over itself on a terminal, one after another into a pipe.

    A daemon that is away meanwhile is waited for.
    """
    terminal = on_terminal(sys.stdout) and arguments.output == "table"
    if terminal:
        import signal

        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        say(
            "\x1b[?1049h\x1b[?25l\x1b[?7l"
        )  # the other screen, no cursor, no line breaks of the terminal's own
    try:
        while True:
            try:
                answer: Answer = arguments.ask(client, arguments)
                if arguments.output == "json":
                    text = ["".join(answer.json())]
                    text = [json.dumps(json.loads(text[0]), ensure_ascii=False)]  # a document a line
                else:
                    text = _head(lines(answer.screen(_look(terminal)), terminal=terminal), terminal)
            except (Unreachable, Denied, Refused) as error:
                text = []
                if arguments.output == "json":
                    code = Exit.PERMISSION if isinstance(error, Denied) else Exit.UNREACHABLE
                    text = [json.dumps(_failure(str(error), (), code), ensure_ascii=False)]
                    _complain(str(error))
                elif terminal:
                    text = [f"bgpctl: {cell(error).text}"]
                else:
                    _complain(str(error))
            if terminal:
                title = f"Every {arguments.watch:g}s: bgpctl {' '.join(argv)}   {stamp(time.time())}"
                text = [title, "", *text]
                say("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in text[:-1]) + text[-1] + "\x1b[J")
            else:
                say("".join(line + "\n" for line in text))
                if arguments.output == "table" and text:
                    say("\n")
            sent()
            time.sleep(arguments.watch)
    except KeyboardInterrupt:
        return Exit.OK
    finally:
        if terminal:
            say("\x1b[?7h\x1b[?25h\x1b[?1049l")
            sent()


def _head(text: Iterator[str], terminal: bool) -> list[str]:
    """All of it, or what the terminal has room for under the title."""
    return list(
        islice(text, max(1, os.get_terminal_size(sys.stdout.fileno()).lines - 2)) if terminal else text
    )


# The commands.


def _answer(found: Mapping[str, Any], show: Callable[[Any, Look], Screen], code: Exit = Exit.OK) -> Answer:
    def text() -> Iterator[str]:
        yield _json(found)

    return Answer(lambda look: show(found, look), text, code)


def _status(client: Client, arguments: argparse.Namespace) -> Answer:
    found = client.get("/v1/status")
    well = found["ready"] and not found.get("degraded")
    return _answer(found, screens.status, Exit.OK if well else Exit.DEGRADED)


def _peers(client: Client, arguments: argparse.Namespace) -> Answer:
    found = client.get("/v1/peers", {"name": arguments.name} if arguments.name else None)
    return _answer(found, peers.details if arguments.detail else peers.table)


def _routes(client: Client, arguments: argparse.Namespace) -> Answer:
    words = list(arguments.words)
    table = words.pop(0) if words and words[0] in TABLES else "rib"
    prefix = words.pop(0) if words else ""
    if words:
        arguments.fail(f"{words[0]!r} is one word too many")
    if arguments.longer and "/" not in prefix:
        arguments.fail("--longer wants a prefix, such as 10.48.0.0/16")
    query = {"table": table, "prefix": prefix, "peer": arguments.peer or ""}
    if arguments.longer:
        query["longer"] = "1"
    text = client.lines("/v1/routes", query)
    try:
        head = next(text, b"")
    except Refused as error:
        if error.status == 400 and table not in arguments.words:
            raise Refused(400, f"{error}, nor one of the tables {', '.join(TABLES)}") from None
        raise
    # Rows are one a line, between the head and "]}": a million of them pass through without being held.
    first = next(text, b"").strip()
    if not first:
        first = next(text, b"").strip()
    empty = first == b"]}"
    if empty and prefix:
        _complain(f"table {table} has no route for {prefix}; bgpctl why {prefix} may say more")
    rest = chain([first + b"\n"], text)

    def rows() -> Iterator[Any]:
        for line in rest:
            line = line.strip()
            if line == b"]}":
                return
            if line:
                yield json.loads(line.removesuffix(b","))
        raise Unreachable("bgpd broke off its answer: what is shown is not all")

    def pieces() -> Iterator[str]:
        last = b""
        for last in chain([head], rest):
            yield last.decode()
        if last.strip() != b"]}":
            raise Unreachable("bgpd broke off its answer: what is shown is not all")

    code = Exit.NOT_FOUND if empty and prefix else Exit.OK
    return Answer(lambda look: screens.routes(table, rows(), look), pieces, code)


def _blocks(client: Client, arguments: argparse.Namespace) -> Answer:
    return _answer(client.get("/v1/blocks"), screens.blocks)


def _bfd(client: Client, arguments: argparse.Namespace) -> Answer:
    return _answer(client.get("/v1/bfd"), screens.bfd)


def _why(client: Client, arguments: argparse.Namespace) -> Answer:
    found = client.get("/v1/why", {"target": arguments.target})
    if not found["explanations"]:
        _complain(
            f"nothing is known of {arguments.target}: no peer announced it, "
            "and no resource and no route of this node is a reason for it"
        )
        return _answer(found, screens.why, Exit.NOT_FOUND)
    return _answer(found, screens.why)


def _health(client: Client, arguments: argparse.Namespace) -> Answer:
    found = client.get("/v1/health", {"check": arguments.check}, failing=True)
    return _answer(found, screens.health, Exit.OK if found["ok"] else Exit.DEGRADED)


def _plan(client: Client, arguments: argparse.Namespace) -> Answer:
    """The files go to the daemon, which is not allowed to look into people's directories, and knows the rest: the
    kernel, the passwords, which sessions are up."""
    found = client.post_lines("/v1/plan", _resources(arguments.directory), timeout=PLAN_TIMEOUT)
    return _answer(found, plans.changes, Exit.CHANGES if found["changes"] else Exit.OK)


def _resources(directory: str) -> list[dict[str, str]]:
    """The files of a directory that the datastore reads too; ``Unreadable``."""
    files, path = [], directory
    try:
        for name in sorted(os.listdir(directory)):
            path = os.path.join(directory, name)
            if name.endswith(RESOURCES) and name[0] != "." and os.path.isfile(path):
                with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
                    files.append({"name": name, "text": file.read()})
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror}") from None
    return files


def _message(found: Any, look: Look) -> Screen:
    yield (cell(found["message"]),)


def _reload(client: Client, arguments: argparse.Namespace) -> Answer:
    return _answer(client.post("/v1/reload", timeout=RELOAD_TIMEOUT), _message)


def _peer(client: Client, arguments: argparse.Namespace) -> Answer:
    if arguments.message and arguments.action not in ("shutdown", "reset"):
        arguments.fail("only a shutdown and a reset carry a message to the peer")
    body = {"action": arguments.action, "name": arguments.name, "message": arguments.message}
    return _answer(client.post("/v1/peer-action", body), _message)


def _on_store(name: str) -> Command:
    """A command that works on the store itself, whether a daemon runs or not."""

    def ask(client: Client, arguments: argparse.Namespace) -> Answer:
        from bgpd.cli import resources

        try:
            shown, found, well = resources.run(getattr(resources, name), arguments)
        except resources.Failed as error:
            raise Unreadable(str(error)) from None
        text = tuple(shown)
        return _answer(
            found, lambda _, look: ((cell(line),) for line in text), Exit.OK if well else Exit.DEGRADED
        )

    return ask


def _version(client: Client, arguments: argparse.Namespace) -> Answer:
    found: dict[str, Any] = {"schema_version": 1, "bgpctl": __version__, "bgpd": None, "node": None}
    code = Exit.OK
    try:
        running = client.get("/v1/status")
        found |= {"bgpd": running["version"], "node": running["node"]}
    except (Unreachable, Denied, Refused) as error:
        _complain(str(error))
        code = Exit.PERMISSION if isinstance(error, Denied) else Exit.UNREACHABLE

    def show(found: Any, look: Look) -> Screen:
        yield (cell(f"bgpctl {found['bgpctl']}"),)
        if found["bgpd"]:
            yield (cell(f"bgpd   {found['bgpd']} on {found['node']}"),)

    return _answer(found, show, code)


def _metrics(client: Client, arguments: argparse.Namespace) -> Answer:
    text = client.lines("/metrics")
    first = next(text, b"")

    def pieces() -> Iterator[str]:
        if arguments.output == "json":
            yield _json({"schema_version": 1, "families": list(exposition.families(text_lines()))})
        else:
            yield from text_lines()

    def text_lines() -> Iterator[str]:
        for line in chain([first], text):
            yield line.decode()

    return Answer(lambda look: (), pieces)


# The words.

_EXAMPLES = """\
examples:
  bgpctl status                     one screen: ready or not, peers, routes, the kernel, what is wrong
  bgpctl peers --watch              sessions, redrawn every 2 s
  bgpctl peers 10.0.1.30 --detail   timers, capabilities, counters and the last error of one
  bgpctl routes in --peer 10.0.1.30   what a peer announces to us
  bgpctl routes fib 10.48.0.0/16 --longer
  bgpctl why 10.48.0.40             why this address is, or is not, routed as it is
  bgpctl plan -f resources/         what these files would change here; 2 if anything
  bgpctl peer shutdown 10.0.1.30 -m "rack move, back at 14:00"

exit codes: 0 all is well, 1 degraded or refused, 2 wrong usage, 3 the daemon does not answer, 4 not found,
5 no permission; of plan: 0 nothing would change, 2 something would, 1 any error"""


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=110)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="bgpctl",
        description="Show what the bgpd of this node does, and steer it.",
        epilog=_EXAMPLES,
        formatter_class=_Help,
    )
    parser.add_argument("--version", action="version", version=f"bgpctl {__version__}")
    _common(parser, os.environ.get("BGPCTL_SOCKET") or DEFAULT_SOCKET, "table")
    parser.set_defaults(raw=False)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

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
        command.set_defaults(ask=ask, fail=command.error)
        return command

    add("status", _status, "one screen of everything; exit code 1 when degraded or not ready", watch=True)

    command = add("peers", _peers, "sessions: state, prefixes, flaps, the last error", watch=True)
    command.add_argument(
        "name", nargs="?", metavar="NAME|IP", help="only this one, or those of a BGPPeer, a node or a pod"
    )
    command.add_argument(
        "--detail", action="store_true", help="timers, capabilities, counters, errors in words"
    )

    command = add(
        "routes",
        _routes,
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
        "words", nargs="*", metavar="[in|out|rib|fib] [PREFIX|IP|NAME]", help=argparse.SUPPRESS
    )
    command.add_argument("--peer", metavar="NAME|IP", help="only routes from, or to, this one")
    command.add_argument("--longer", action="store_true", help="all prefixes inside PREFIX too")

    add("blocks", _blocks, "IPAM blocks that are ours, that we lend from or borrow of", watch=True)

    add("bfd", _bfd, "BFD sessions: state, intervals, detection time, why one is down", watch=True)

    command = add(
        "why", _why, "why a prefix, an address or a pod is routed as it is, step by step", watch=True
    )
    command.add_argument(
        "target", metavar="PREFIX|IP|NAME", help="NAME: of a pod (namespace/name), a node or a peer"
    )

    command = add(
        "plan",
        _plan,
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

    add("reload", _reload, "read the configuration again, wait, and say what changed")

    command = add("health", _health, "the probe's checks; exit code 1 when one fails", watch=True)
    command.add_argument(
        "check", nargs="?", choices=("live", "ready"), default="ready", help="ready by default"
    )

    command = add(
        "peer",
        _peer,
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
    command.add_argument("name", metavar="NAME|IP", help="a session, by its name or the peer's address")
    command.add_argument(
        "-m", "--message", default="", metavar="TEXT", help="what the peer's operator is sent"
    )

    add("metrics", _metrics, "what Prometheus would read, as its text or as json").set_defaults(raw=True)
    add("version", _version, "the versions of bgpctl and of the daemon")
    stored.register(add, _on_store)
    return parser


def _common(
    parser: argparse.ArgumentParser, socket: str, output: str, outputs: Sequence[str] = OUTPUTS
) -> None:
    """Options that stand before the command or after it; after it they have no default of their own."""
    words = f"{', '.join((f'{outputs[0]} (default)', *outputs[1:-1]))} or {outputs[-1]}"
    parser.add_argument("-o", "--output", choices=outputs, default=output, help=words)
    parser.add_argument(
        "--socket",
        default=socket,
        metavar="PATH",
        help=f"the daemon's socket; $BGPCTL_SOCKET, or {DEFAULT_SOCKET}",
    )


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


def _main() -> NoReturn:
    sys.exit(main())


if __name__ == "__main__":
    _main()
