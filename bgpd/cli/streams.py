"""Standard output and error of the commands: what is printed, and what becomes of it where nobody can take it.

Every command says its answer with ``say`` and its complaints with ``complain``; both programs run their commands by
``ended_well``. A reader that has seen enough, as head does, ends a command with 141, as the signal would. Where the
output cannot be written otherwise, a full disk say, the command has failed, with one line that says why. A complaint
that nobody can hear changes nothing: the exit code is the answer then. Who asked for JSON gets an error as an object
too, a wrong usage included.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TextIO

from bgpd.config.named_files import read_named

SIGPIPE_CODE = 128 + 13
INTERRUPTED = 130


class Misuse(SystemExit):
    """The command line is wrong; says how. The complaint is written already."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(code)
        self.words = words


class Unwritten(Exception):
    """Standard output takes no more; says why, in words."""


def say(text: str) -> None:
    """Writes to standard output; ``Unwritten``, or ``BrokenPipeError`` where the reader is gone."""
    try:
        sys.stdout.write(text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Unwritten(error.strerror) from None


def sent() -> None:
    """What was printed is with the reader now; raises as ``say`` does."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Unwritten(error.strerror) from None


def complain(text: str) -> None:
    """Writes lines to standard error, if it takes them."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        _discard(sys.stderr)


def error_object(words: str, code: int, problems: Sequence[str] = ()) -> dict[str, Any]:
    """What ``-o json`` prints in place of an answer."""
    return {"schema_version": 1, "error": words, "problems": list(problems), "exit_code": int(code)}


def json_text(found: object) -> str:
    """An answer as ``-o json`` prints it."""
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def say_json(found: object) -> None:
    """The same on standard output."""
    say(json_text(found))


def read_input(name: str) -> str:
    """The text of a file that an argument names, or of standard input for ``-``. Raises ``OSError`` and
    ``UnicodeDecodeError``."""
    return sys.stdin.read() if name == "-" else read_named(name, streams=True).decode()


def wants_json(argv: Sequence[str]) -> bool:
    """Whether a command line that may be wrong asks for JSON."""
    texts = " ".join(argv).replace("--output", "-o").replace("-o=", "-o ").replace("-ojson", "-o json")
    return " -o json " in f" {texts} "


def ended_well(program: str, argv: Sequence[str], command: Callable[[], int], failed: int = 1) -> int:
    """Runs a command, which was called by the words ``argv``, and sees its output out; returns its exit code, or
    ``failed`` where that could not be written."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us: what is written goes nowhere
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        if reconfigure := getattr(getattr(sys, name), "reconfigure", None):
            reconfigure(errors="replace")  # a name that the terminal cannot show is no reason to fail
    try:
        try:
            code = command()
        except SystemExit as stopped:  # of argparse: its help or its complaint is written
            code = stopped.code if isinstance(stopped.code, int) else 1 if stopped.code else 0
            if isinstance(stopped, Misuse) and wants_json(argv):
                say_json(error_object(stopped.words, code))
            sent()
            raise
        sent()
    except BrokenPipeError:
        _discard(sys.stdout)
        return SIGPIPE_CODE
    except Unwritten as error:
        _discard(sys.stdout)
        complain(f"{program}: the output cannot be written: {error}\n")
        return failed
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


class Parser(argparse.ArgumentParser):
    """What both programs read their words with. Options are given in full, so that a new one never changes what an old
    script says; who leaves a word out reads what may stand there."""

    misused = 2
    """What a wrong usage exits with."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        if "arguments are required" in message:
            required = message.rpartition(": ")[2].split(", ")
            for action in self._actions:  # argparse has no other door to what it takes
                if action.metavar in required and action.choices:
                    message += f"; {action.metavar} is one of {', '.join(map(str, action.choices))}"
        self.print_usage(sys.stderr)
        complain(f"{self.prog}: error: {message}\n")
        raise Misuse(self.misused, message)

    def _print_message(self, message: str, file: Any = None) -> None:
        """Argparse's own passes over a help that could not be written."""
        (say if file is sys.stdout else complain)(message)


def _discard(stream: TextIO) -> None:
    """What a stream still holds goes nowhere: else the interpreter tries once more at its end, and says so."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: no file behind it
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
