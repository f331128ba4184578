"""How log lines look: text with key=value, or JSON, and the journal's priority in front where the journal reads.

The daemon calls ``configure`` once its configuration is read, and after a reload. All of it goes to standard error.
What we log is events (``bgpd.events``): ``event(log, "peer_removed", peer="a")`` is
``2026-11-23T14:02:11.250+00:00 INFO bgpd.bgp.speaker: event=peer_removed peer=a``, or an object with the keys ``event``
and ``peer``. What libraries log has its text in ``msg``. Under the service manager (JOURNAL_STREAM names our standard
error) a text line has no time of its own. There every line starts with ``<N>`` as sd-daemon(3) says, so that
``journalctl -p warning`` works. No line is longer than ``LONGEST`` octets: peers write some of what is logged.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, TextIO

from bgpd.events import Event

Format = Literal["auto", "text", "json"]

LONGEST = 4096
"""Octets of a line, at most."""
_CUT = " ... (cut)"
_FIELDS = (1024, 256, 64, 16)
"""Characters that a field of a JSON line keeps, where the line would be too long: as many as do."""
_PRIORITY = len("<7>")
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (0, 7))


def configure(level: str = "info", style: Format = "auto", stream: TextIO | None = None) -> None:
    """Sends all logging to ``stream`` (standard error); a second call takes the place of the first.

    ``level`` is ``debug info warning error``, or ``auto``: ``info`` until the resources say otherwise. A style ``auto``
    is text.
    """
    level = "info" if level == "auto" else level
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Formatter(style, journal=to_journal(stream)))
    handler.setLevel(level.upper())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # The history has the events of level info too where the log has not.
    logging.getLogger("bgpd").setLevel(min(logging.INFO, root.level))
    # Nobody reads where in the source a line was written, or by which thread; a thousand sessions come up in a second.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    vars(logging)["_srcfile"] = None  # the way that logging's documentation names to do without the caller
    # What libraries say in passing is not the operator's business.
    for name in ("asyncio", "aiohttp", "pyroute2"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def to_journal(stream: TextIO, environ: Mapping[str, str] | None = None) -> bool:
    """Whether the journal reads this stream: JOURNAL_STREAM has its device and inode.

    The variable alone does not decide: children inherit it and may have their standard error elsewhere.
    """
    named = (os.environ if environ is None else environ).get("JOURNAL_STREAM", "")
    try:
        stat = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return named == f"{stat.st_dev}:{stat.st_ino}"


class Formatter(logging.Formatter):
    """One record to one line; a traceback follows on lines of its own in text, and inside the object in JSON."""

    def __init__(self, style: Format, *, journal: bool) -> None:
        super().__init__()
        self._json, self._journal = style == "json", journal

    def format(self, record: logging.LogRecord) -> str:
        now = datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")
        trace = self.formatException(record.exc_info) if record.exc_info and record.exc_info[0] else ""
        if self._json:
            fields: dict[str, object] = {
                "time": now,
                "level": record.levelname.lower(),
                "logger": record.name,
            }
            if isinstance(record.msg, Event):
                fields |= {"event": record.msg.name, **record.msg.fields}
            else:
                fields["msg"] = record.getMessage()
            if trace:
                fields["traceback"] = trace
            text = json.dumps(fields, ensure_ascii=False, default=str)
            for most in _FIELDS:
                if len(text.encode(errors="replace")) <= LONGEST - _PRIORITY:
                    break
                text = json.dumps({key: _shortened(value, most) for key, value in fields.items()})
        else:
            text = f"{record.name}: {_one_line(record.getMessage())}"
            if not self._journal:
                text = f"{now} {record.levelname} {text}"
            if trace:
                text += "\n" + trace
        if self._journal:
            # Each line is a journal entry of its own, so each says its priority.
            priority = next(number for level, number in _PRIORITIES if record.levelno >= level)
            return "\n".join(f"<{priority}>{_cut(line)}" for line in text.split("\n"))
        return "\n".join(map(_cut, text.split("\n")))


def _cut(line: str) -> str:
    """A line of text that is not too long. One of JSON never is, or it would be JSON no more."""
    octets = line.encode(errors="backslashreplace")
    if len(octets) <= LONGEST - _PRIORITY:
        return octets.decode()
    return octets[: LONGEST - _PRIORITY - len(_CUT)].decode(errors="ignore") + _CUT


def _shortened(value: Any, most: int) -> Any:
    """The beginning and the end of a field: the end of a traceback says most."""
    if isinstance(value, int | float | bool) or value is None:
        return value
    text = str(value)
    return text if len(text) <= most else text[: most // 4] + _CUT + text[-most // 2 :]


def _one_line(text: str) -> str:
    """Peers write some of what is logged (shutdown messages): line breaks and escapes never come out raw."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
