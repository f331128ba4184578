"""What happened on this node: transitions with their time, in memory and on disk, for ``bgpctl history``.

``History`` is a handler of ``logging``: every event of bgpd (``bgpd.events``) of level info and above is an entry,
whatever ``log.level`` is. ``routes`` adds what the daemon decided about routes: an entry a route, or one with counts
where many change in the same second. ``run`` writes what came, once a second, in a thread: nobody waits for a disk, and
a kill loses one second at most.

On disk there are two files in the state directory, ``history.jsonl`` and ``history.1.jsonl``, each of half the size
that is configured. A full one takes the place of the older. An entry is a line of JSON that begins with its time, so
that a question by time need not decode the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from bgpd.events import Event, event
from bgpd.model.prefix import Family, Prefix, covers, parse_prefix, prefix_text
from bgpd.model.route import FibKey, Forwarding

log = logging.getLogger(__name__)

EVERY_SECONDS = 1.0
"""Seconds between two writes."""
ROUTES_ONE_BY_ONE = 100
"""Routes that change in one interval and are entries of their own; of more there are counts."""
LONGEST = 4096
"""Octets of an entry, at most."""
MOST_WAITING = 10_000
"""Entries that wait to be written; beyond that the oldest are dropped, and a later entry says how many."""
MOST_ANSWERED = 10_000
"""Entries of one answer, the newest."""
_BEGINS = '{"time": '


class History(logging.Handler):
    """The history of one daemon. ``size``: octets on disk, 0 keeps the newest in memory only.

    ``describe`` puts where a route leads into words, in the event loop's thread.
    """

    def __init__(self, directory: Path, size: int, describe: Callable[[Forwarding], str]) -> None:
        super().__init__(logging.INFO)
        self._files = (directory / "history.1.jsonl", directory / "history.jsonl")
        self._size, self._describe = size, describe
        self._waiting: deque[str] = deque()
        self._recent: deque[str] = deque(maxlen=MOST_ANSWERED if size == 0 else 0)
        self._dropped = 0
        self._routes: dict[tuple[Family, FibKey], tuple[float, str]] = {}
        self._counted: Counter[tuple[Family, bool]] = Counter()
        self._cannot = ""
        """Why the last write failed; logged once."""

    # What happens.

    def emit(self, record: logging.LogRecord) -> None:
        """An event of bgpd's; what libraries log is none."""
        if isinstance(record.msg, Event):
            self._add(record.created, record.msg.name, record.msg.fields, record.levelname.lower())

    def routes(
        self,
        family: Family,
        changes: Mapping[FibKey, Forwarding | None],
        before: Mapping[FibKey, Forwarding],
    ) -> None:
        """What the kernel is to have from now on, and what it was to have ``before``; ``None``: no route any more.
        What was decided again and is as it was did not happen."""
        if len(self._routes) + len(changes) <= ROUTES_ONE_BY_ONE:
            now = time.time()
            for key, forwarding in changes.items():
                if before.get(key) != forwarding:
                    self._routes[family, key] = now, "" if forwarding is None else self._describe(forwarding)
            return
        gone = sum(forwarding is None and key in before for key, forwarding in changes.items())
        self._counted[family, False] += gone
        self._counted[family, True] += sum(forwarding is not None for forwarding in changes.values())

    def _add(self, at: float, name: str, fields: Mapping[str, object], level: str) -> None:
        entry = {"event": name, "level": level} | {key: _plain(value) for key, value in fields.items()}
        line = f"{_BEGINS}{at:.3f}, {json.dumps(entry, ensure_ascii=False, default=str)[1:]}"
        if len(line) > LONGEST:
            entry = {"event": name, "level": level, "cut": line[: LONGEST // 2]}
            line = f"{_BEGINS}{at:.3f}, {json.dumps(entry)[1:]}"
        if len(self._waiting) >= MOST_WAITING:
            self._waiting.popleft()
            self._dropped += 1
        self._waiting.append(line)

    # To the disk.

    async def run(self) -> None:
        """Until cancelled; then what waits is written at once."""
        try:
            while True:
                await asyncio.sleep(EVERY_SECONDS)
                if lines := self._take():
                    await asyncio.to_thread(self._write, lines)
        finally:
            self._write(self._take())

    def _take(self) -> list[str]:
        now = time.time()
        for (family, (prefix, metric)), (at, words) in self._routes.items():
            fields: dict[str, object] = {"family": family.label, "prefix": prefix_text(family, prefix)}
            if metric:
                fields["metric"] = metric
            self._add(
                at, "route" if words else "route_gone", fields | ({"to": words} if words else {}), "info"
            )
        for family in Family:
            put, gone = self._counted[family, True], self._counted[family, False]
            if put or gone:
                self._add(now, "routes", {"family": family.label, "changed": put, "gone": gone}, "info")
        self._routes.clear()
        self._counted.clear()
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._add(now, "history_dropped", {"count": dropped}, "warning")
        lines = sorted(self._waiting, key=lambda line: _time_of(line) or 0.0)
        self._waiting.clear()
        self._recent.extend(lines)
        return lines

    def _write(self, lines: list[str]) -> None:
        if not self._size or not lines:
            return
        older, newer = self._files
        try:
            with contextlib.suppress(FileNotFoundError):
                if newer.stat().st_size > self._size // 2:
                    newer.replace(older)
            newer.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            cut = self._cut(newer)
            descriptor = os.open(newer, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(cut + "".join(line + "\n" for line in lines))
            self._cannot = ""
        except OSError as error:
            # They go on waiting, as many as there is room for.
            self._waiting.extendleft(reversed(lines[: max(0, MOST_WAITING - len(self._waiting))]))
            if self._cannot != str(error):
                self._cannot = str(error)
                event(log, "history_not_kept", logging.WARNING, cause=str(error))

    def _cut(self, path: Path) -> str:
        """What ends the last line of a file that a kill or a full disk cut."""
        with contextlib.suppress(OSError), path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return "" if file.read() == b"\n" else "\n"
        return ""

    # Questions.

    def find(
        self,
        since: float,
        until: float,
        peers: Collection[str],
        targets: Collection[tuple[Family, Prefix]],
        most: int = MOST_ANSWERED,
    ) -> list[str]:
        """The newest entries within a time, oldest first: of some peers, about some prefixes, where these are given.
        Reads the files; in any thread.

        About a prefix are the routes that cover it, and the counts of many routes, since it may be among them.
        """
        found: deque[str] = deque(maxlen=min(most, MOST_ANSWERED))
        names = tuple(json.dumps(peer, ensure_ascii=False) for peer in peers)
        for line in self._lines():
            at = _time_of(line)
            if at is None or not since <= at <= until:
                continue
            if names and not any(name in line for name in names):
                continue
            if not targets or _about(line, targets):
                found.append(line)
        return list(found)

    def _lines(self) -> Iterator[str]:
        if not self._size:
            yield from list(self._recent)
        else:
            for path in self._files:
                with contextlib.suppress(OSError), path.open(encoding="utf-8", errors="replace") as file:
                    for line in file:
                        if line.endswith("}\n"):  # a kill or a full disk may have cut one
                            yield line[:-1]
        yield from list(self._waiting)


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple | set | frozenset) else value


def _time_of(line: str) -> float | None:
    if not line.startswith(_BEGINS):
        return None
    try:
        return float(line[len(_BEGINS) : line.index(",")])
    except ValueError:
        return None


def _about(line: str, targets: Collection[tuple[Family, Prefix]]) -> bool:
    if '"prefix": ' not in line and '"event": "routes"' not in line:
        return False
    try:
        entry: dict[str, Any] = json.loads(line)
    except ValueError:
        return False
    if entry.get("event") == "routes":
        return any(entry.get("family") == family.label for family, _ in targets)
    try:
        of, covering = parse_prefix(str(entry["prefix"]))
    except (KeyError, ValueError):
        return False
    return any(of is family and covers(covering, prefix) for family, prefix in targets)
