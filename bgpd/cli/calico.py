"""What Calico's own commands say of a node, printed from a running bgpd: ``calicoctl node status``, the readiness of
``calico-node -bird-ready``. ``ctl_commands`` asks the daemon; here are the rules and the tables, to the letter.
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

HEADINGS = ("PEER ADDRESS", "PEER TYPE", "STATE", "SINCE", "INFO")
KINDS = {"mesh": "node-to-node mesh", "global": "global", "node": "node specific"}
"""Sessions of other kinds are not in calicoctl's table either."""
STATES = {
    "down": ("down", "Idle"),
    "idle": ("start", "Idle"),
    "connect": ("start", "Connect"),
    "active": ("start", "Active"),
    "open_sent": ("start", "OpenSent"),
    "open_confirm": ("start", "OpenConfirm"),
    "established": ("up", "Established"),
}
"""A session's state -> the state of BIRD's protocol, and BGP's."""
WIDTH = 30
"""Letters of a cell, from which on calicoctl breaks the line."""
A_TIME = 20 * 3600.0
"""Seconds after which BIRD prints a date in place of a time."""
AT_START_SECONDS = 30.0
"""Seconds from the start in which a node is only ready with all sessions; afterwards one is enough."""


def node_status(peers: Iterable[Mapping[str, Any]], now: float) -> Iterator[str]:
    """The lines of ``calicoctl node status`` of the peers of ``/v1/peers``."""
    rows: dict[int, list[tuple[str, ...]]] = {4: [], 6: []}
    for peer in peers:
        if peer["kind"] in KINDS:
            state, bgp = STATES[peer["state"]]
            up = peer["state"] == "established"
            info = bgp if up or not peer["last_error"] else f"{bgp} {_plain(peer['last_error'])}"
            row = (_address(peer), KINDS[peer["kind"]], state, _since(peer["since"], now), info)
            rows[6 if ":" in peer["address"] else 4].append(row)
    yield "bgpd is running."
    for version, found in rows.items():
        yield ""
        yield f"IPv{version} BGP status"
        yield from table(HEADINGS, found) if found else (f"No IPv{version} peers found.",)
    yield ""


def _address(peer: Mapping[str, Any]) -> str:
    """As calicoctl makes it of the session's name: with ``.port.1790`` where the name has a port."""
    name = str(peer["id"]).partition("_port_")
    return f"{peer['address']}.port.{name[2]}" if name[2] else str(peer["address"])


def _since(moment: float, now: float) -> str:
    return time.strftime("%H:%M:%S" if now - moment < A_TIME else "%Y-%m-%d", time.localtime(moment))


def _plain(text: str) -> str:
    return " ".join("".join(each if each.isprintable() else "?" for each in text).split())


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Calico's tables: headings in the middle, cells on the left, long ones over several lines."""
    cells = [[textwrap.wrap(cell, WIDTH, break_long_words=False) or [""] for cell in row] for row in rows]
    widths = [
        max(
            len(heading),
            *(min(WIDTH, len(row[column])) for row in rows),
            *(len(line) for row in cells for line in row[column]),
        )
        for column, heading in enumerate(headings)
    ]
    rule = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
    yield rule
    yield "|" + "|".join(_middle(head, width + 2) for head, width in zip(headings, widths, strict=True)) + "|"
    yield rule
    for row in cells:
        for number in range(max(len(cell) for cell in row)):
            pieces = [cell[number] if number < len(cell) else "" for cell in row]
            padded = (f" {piece:<{width}} " for piece, width in zip(pieces, widths, strict=True))
            yield "|" + "|".join(padded) + "|"
    yield rule


def _middle(text: str, width: int) -> str:
    """What does not come out even is on the right."""
    room = width - len(text)
    return " " * (room // 2) + text + " " * (room - room // 2)


def ready(status: Mapping[str, Any], now: float) -> list[dict[str, Any]]:
    """The checks behind calico-node's readiness, of ``/v1/status``. With a start not long ago every session is up
    and no restart goes on. Later one session is enough, so that the loss of a rack's switch takes no pod out of
    service. A node without sessions is ready (calico.md §7.2). Like those of ``/v1/health``."""
    up, wanted, age = status["peers_up"], status["peers_wanted"], now - status["started"]
    checks = [check for check in status["checks"] if not check["ok"]]
    if not wanted:
        checks.append({"name": "sessions", "ok": True, "detail": "none is wanted"})
    elif age < AT_START_SECONDS:
        words = f"{up} of {wanted} are established, {age:.0f} s after the start"
        checks.append({"name": "sessions", "ok": up >= wanted, "detail": words})
        words = "" if status["in_sync"] else "a restart goes on: not all peers announced their routes"
        checks.append({"name": "graceful restart", "ok": status["in_sync"], "detail": words})
    else:
        checks.append({"name": "sessions", "ok": up > 0, "detail": f"{up} of {wanted} are established"})
    return checks
