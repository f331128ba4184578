"""The commands of ``bgpctl``: each asks the daemon something and makes an ``Answer`` of what it said.

``ctl`` runs them; ``ctl_words`` says with which words they are called.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from bgpd import __version__
from bgpd.cli import exposition, plans, screens
from bgpd.cli import peers as peer_screens
from bgpd.cli.client import Client, Denied, Refused, Unreachable
from bgpd.cli.exits import Exit
from bgpd.cli.streams import complain as write_complaint
from bgpd.cli.streams import json_text, sent
from bgpd.cli.tables import Look, Screen, cell
from bgpd.config.named_files import read_named
from bgpd.config.places import is_resource

TABLES = ("in", "out", "rib", "fib")
FOLLOW_EVERY_SECONDS = 1.0
"""Seconds between two questions about what is new."""
RELOAD_TIMEOUT = PLAN_TIMEOUT = 60.0
UPGRADE_TIMEOUT, READY_TIMEOUT = 90.0, 60.0
"""Seconds for the next process to take over, and for it to be ready then."""
DRAIN_STEP_SECONDS, LATE_SECONDS = 1.0, 5.0
"""Seconds that the daemon takes between services and the rest of a drain, and that it may be late."""


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


def complain(message: str, problems: Sequence[str] = ()) -> None:
    """On standard error, as ``bgpctl``."""
    write_complaint(
        f"bgpctl: {cell(message).text}\n" + "".join(f"  {cell(each).text}\n" for each in problems)
    )


def _answer(found: Mapping[str, Any], show: Callable[[Any, Look], Screen], code: Exit = Exit.OK) -> Answer:
    def text() -> Iterator[str]:
        yield json_text(found)

    return Answer(lambda look: show(found, look), text, code)


def status(client: Client, arguments: argparse.Namespace) -> Answer:
    """One screen."""
    found = client.get("/v1/status")
    well = found["ready"] and not found.get("degraded")
    return _answer(found, screens.status, Exit.OK if well else Exit.DEGRADED)


def peers(client: Client, arguments: argparse.Namespace) -> Answer:
    """Sessions."""
    found = client.get("/v1/peers", {"name": arguments.name} if arguments.name else None)
    return _answer(found, peer_screens.details if arguments.detail else peer_screens.table)


def routes(client: Client, arguments: argparse.Namespace) -> Answer:
    """A table, or a part of it."""
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
        complain(f"table {table} has no route for {prefix}; bgpctl why {prefix} may say more")
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


def blocks(client: Client, arguments: argparse.Namespace) -> Answer:
    """IPAM blocks."""
    return _answer(client.get("/v1/blocks"), screens.blocks)


def diff(client: Client, arguments: argparse.Namespace) -> Answer:
    """Where wanted, sent and installed differ."""
    found = client.get("/v1/diff")
    return _answer(found, screens.diff, Exit.DEGRADED if found["differences"] else Exit.OK)


def config_show(client: Client, arguments: argparse.Namespace) -> Answer:
    """The configuration in force, and what of the file waits."""
    found = client.get("/v1/config")
    if arguments.changed:
        keys = [row for row in found["keys"] if not row["default"] or "after" in row]
        found = {**found, "keys": keys}
    return _answer(found, screens.config, Exit.DEGRADED if found["error"] else Exit.OK)


def bfd(client: Client, arguments: argparse.Namespace) -> Answer:
    """BFD's sessions."""
    return _answer(client.get("/v1/bfd"), screens.bfd)


def why(client: Client, arguments: argparse.Namespace) -> Answer:
    """Why a prefix or an address is where it is, or, by the history, where it was."""
    if arguments.at:
        return _why_at(client, arguments.target, arguments.at)
    found = client.get("/v1/why", {"target": arguments.target})
    if not found["explanations"]:
        complain(
            f"nothing is known of {arguments.target}: no peer announced it, "
            "and no resource and no route of this node is a reason for it"
        )
        return _answer(found, screens.why, Exit.NOT_FOUND)
    return _answer(found, screens.why)


def _why_at(client: Client, target: str, at: float) -> Answer:
    """Each route that covered a target then, the longest first: which one was followed, and since when."""
    entries = client.get("/v1/history", {"prefix": target, "until": f"{at:.3f}", "most": "10000"})["entries"]
    last: dict[tuple[str, int], Any] = {}
    unsure = 0.0
    for entry in entries:
        if entry["event"] == "routes":
            unsure = entry["time"]
        else:
            last[entry["prefix"], entry.get("metric", 0)] = entry
    rows = sorted(last.values(), key=lambda entry: -int(entry["prefix"].rpartition("/")[2]))
    found = {
        "schema_version": 1,
        "target": target,
        "at": at,
        "routes": rows,
        "many_changed_at": unsure or None,
    }
    if not rows:
        complain(f"the history has no route of its own for {target} until then")
    return _answer(found, screens.why_at, Exit.OK if rows else Exit.NOT_FOUND)


def health(client: Client, arguments: argparse.Namespace) -> Answer:
    """The checks of a probe."""
    if arguments.calico and arguments.check == "ready":
        from bgpd.cli import calico  # seldom asked for

        checks = calico.ready(client.get("/v1/status"), time.time())
        found: Any = {"check": "ready", "ok": all(each["ok"] for each in checks), "checks": checks}
    else:
        found = client.get("/v1/health", {"check": arguments.check}, failing=True)
    return _answer(found, screens.health, Exit.OK if found["ok"] else Exit.DEGRADED)


def node_status(client: Client, arguments: argparse.Namespace) -> Answer:
    """The sessions as ``calicoctl node status`` prints them."""
    from bgpd.cli import calico  # seldom asked for

    found = client.get("/v1/peers")

    def pieces() -> Iterator[str]:
        if arguments.output == "json":
            yield json_text(found)
        else:
            yield from (line + "\n" for line in calico.node_status(found["peers"], time.time()))

    return Answer(lambda look: (), pieces)


def plan(client: Client, arguments: argparse.Namespace) -> Answer:
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
            if is_resource(name) and os.path.isfile(path):
                files.append({"name": name, "text": read_named(path).decode("utf-8", "surrogateescape")})
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror}") from None
    return files


def _message(found: Any, look: Look) -> Screen:
    yield (cell(found["message"]),)


def reload(client: Client, arguments: argparse.Namespace) -> Answer:
    """The configuration, read again."""
    return _answer(client.post("/v1/reload", timeout=RELOAD_TIMEOUT), _message)


def upgrade(client: Client, arguments: argparse.Namespace) -> Answer:
    """The next process of the daemon; under systemd that is a restart of its unit."""
    found = client.post("/v1/upgrade", timeout=UPGRADE_TIMEOUT)
    if unit := found.get("unit"):
        import subprocess  # one command needs it

        done = subprocess.run(["systemctl", "restart", unit], check=False)
        found["message"] = (
            f"{unit} was restarted" if not done.returncode else f"{unit} could not be restarted"
        )
        return _answer(found, _message, Exit.DEGRADED if done.returncode else Exit.OK)
    end = time.monotonic() + READY_TIMEOUT
    while True:
        try:
            ready = client.get("/v1/health", {"check": "ready"}, failing=True)["ok"]
        except Unreachable:
            ready = False
        if ready:
            found["message"] += ", and is ready"
            return _answer(found, _message)
        if time.monotonic() >= end:
            found["message"] += f", and is not ready after {READY_TIMEOUT:g} s"
            return _answer(found, _message, Exit.DEGRADED)
        time.sleep(0.1)


def drain(client: Client, arguments: argparse.Namespace) -> Answer:
    """Takes the node out of service. Returns when the last step is done and its wait is over: what follows may stop the
    node."""
    wait, keep = arguments.wait, not arguments.until_restart
    found = client.post("/v1/drain", {"withdraw": arguments.withdraw, "wait": wait, "keep": keep})
    end, target = time.monotonic() + wait + DRAIN_STEP_SECONDS, 3 if arguments.withdraw else 2
    late = end + LATE_SECONDS
    while time.monotonic() < end or (time.monotonic() < late and client.get("/v1/status")["drain"] < target):
        time.sleep(0.2)
    return _answer(found, _message)


def undrain(client: Client, arguments: argparse.Namespace) -> Answer:
    """Brings the node back into service."""
    return _answer(client.post("/v1/undrain"), _message)


def peer(client: Client, arguments: argparse.Namespace) -> Answer:
    """An order of one session."""
    if arguments.message and arguments.action not in ("shutdown", "reset"):
        arguments.fail("only a shutdown and a reset carry a message to the peer")
    body = {"action": arguments.action, "name": arguments.name, "message": arguments.message}
    return _answer(client.post("/v1/peer-action", body), _message)


def on_store(name: str) -> Command:
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


def version(client: Client, arguments: argparse.Namespace) -> Answer:
    """The versions here and of the daemon."""
    found: dict[str, Any] = {"schema_version": 1, "bgpctl": __version__, "bgpd": None, "node": None}
    code = Exit.OK
    try:
        running = client.get("/v1/status")
        found |= {"bgpd": running["version"], "node": running["node"]}
    except (Unreachable, Denied, Refused) as error:
        complain(str(error))
        code = Exit.PERMISSION if isinstance(error, Denied) else Exit.UNREACHABLE

    def show(found: Any, look: Look) -> Screen:
        yield (cell(f"bgpctl {found['bgpctl']}"),)
        if found["bgpd"]:
            yield (cell(f"bgpd   {found['bgpd']} on {found['node']}"),)

    return _answer(found, show, code)


def history(client: Client, arguments: argparse.Namespace) -> Answer:
    """What happened; with ``--follow`` without an end."""
    query = {
        "prefix": arguments.target or "",
        "peer": arguments.peer or "",
        "most": str(arguments.most),
    }
    query |= {"since": f"{arguments.since:.3f}"} if arguments.since else {}
    query |= {"until": f"{arguments.until:.3f}"} if arguments.until else {}
    first = client.get("/v1/history", query)["entries"]

    def entries() -> Iterator[Any]:
        yield from first
        last = first[-1]["time"] if first else time.time()
        while arguments.follow:
            sent()
            time.sleep(FOLLOW_EVERY_SECONDS)
            # Times have milliseconds, and what is read at one time was all there.
            found = client.get("/v1/history", query | {"since": f"{last + 0.0005:.4f}"})["entries"]
            last = found[-1]["time"] if found else last
            yield from found

    def pieces() -> Iterator[str]:
        if arguments.output == "jsonl" or arguments.follow:
            for entry in entries():
                yield json.dumps(entry, ensure_ascii=False) + "\n"
        else:
            yield json_text({"schema_version": 1, "entries": first})

    return Answer(lambda look: screens.history(entries()), pieces)


def doctor(client: Client, arguments: argparse.Namespace) -> Answer:
    """What of this machine hinders the daemon; the archive for support. ``Unreadable``: it cannot be written."""
    from pathlib import Path

    from bgpd.cli import doctor as checks

    machine = checks.ask(client, arguments.socket, arguments.config)
    findings = list(checks.examine(machine))
    found: dict[str, Any] = {"schema_version": 1, "findings": [each._asdict() for each in findings]}
    if arguments.bundle:
        try:
            found["bundle"] = checks.bundle(Path(arguments.bundle), client, findings, machine.config)
        except OSError as error:
            raise Unreadable(f"{arguments.bundle}: {error.strerror}") from None
    hindered = any(each.state == checks.BAD for each in findings)
    return _answer(found, screens.doctor, Exit.DEGRADED if hindered else Exit.OK)


def metrics(client: Client, arguments: argparse.Namespace) -> Answer:
    """What Prometheus would read."""
    text = client.lines("/metrics")
    first = next(text, b"")

    def pieces() -> Iterator[str]:
        if arguments.output == "json":
            yield json_text({"schema_version": 1, "families": list(exposition.families(text_lines()))})
        else:
            yield from text_lines()

    def text_lines() -> Iterator[str]:
        for line in chain([first], text):
            yield line.decode()

    return Answer(lambda look: (), pieces)
