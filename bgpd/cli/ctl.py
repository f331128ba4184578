"""``bgpctl``: what a running daemon knows, and the few orders it takes.

A thin client: it reads its words (``ctl_words``), asks the daemon over its unix socket (``ctl_commands``, ``client``),
makes screens of the answers (``screens``, ``peers``) and prints them (``tables``). It starts in a fraction of the time
that the daemon's libraries take to import, because probes run it; keep pydantic, aiohttp, ExaBGP and ``bgpd.model`` out
of here.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NoReturn

from bgpd.cli.client import Client, Denied, Refused, Unreachable
from bgpd.cli.ctl_commands import Answer, Unreadable, complain, plan
from bgpd.cli.ctl_words import parser
from bgpd.cli.exits import Exit
from bgpd.cli.streams import ended_well, error_object, say, say_json, sent
from bgpd.cli.tables import ASCII_MARKS, MARKS, Look, can_mark, cell, lines, on_terminal, stamp


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    given = sys.argv[1:] if argv is None else argv
    return ended_well("bgpctl", given, lambda: _run(given), Exit.DEGRADED)


def _run(argv: Sequence[str]) -> int:
    arguments, strange = parser().parse_known_args(argv)
    if strange:
        arguments.fail(f"unrecognized arguments: {' '.join(strange)}")
    if arguments.output not in arguments.outputs:
        arguments.fail(
            f"argument -o/--output: {arguments.output!r} is none of {', '.join(arguments.outputs)}"
        )
    client = Client(arguments.socket)
    problems: tuple[str, ...] = ()
    printed = False
    try:
        if getattr(arguments, "watch", None) is not None:
            return _watch(client, arguments, argv)
        answer: Answer = arguments.ask(client, arguments)
        if arguments.output in ("json", "jsonl") or arguments.raw:
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
    if arguments.ask is plan:  # its codes are those of a comparison, as diff has them: any failure is one
        code = Exit.DEGRADED
    complain(words, problems)
    if arguments.output == "json" and not printed:
        say_json(error_object(words, code, problems))
    return code


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
                    text = [json.dumps(error_object(str(error), code), ensure_ascii=False)]
                    complain(str(error))
                elif terminal:
                    text = [f"bgpctl: {cell(error).text}"]
                else:
                    complain(str(error))
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


def _main() -> NoReturn:
    sys.exit(main())


if __name__ == "__main__":
    _main()
