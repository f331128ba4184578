"""Plans as screens: all that a node would do (``bgpd plan``), and what would change for it (``bgpctl plan``).

Each function takes the JSON that ``-o json`` prints (docs/plan.md says what is in it) and returns what ``tables``
writes. ``ctl`` imports this, so it needs nothing heavy.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from bgpd.cli.tables import BLANK, Cell, Document, Line, Look, Screen, Table, cell, plural


def plan(found: Document, look: Look) -> Screen:
    """The whole intent of a node."""
    listen = ", ".join(_endpoint(each) for each in found["listen"])
    yield (cell(f"{found['node']}: AS {found['asn']}, router id {found['router_id']}, listens on {listen}"),)
    yield BLANK
    yield (cell(plural(len(found["peers"]), "session"), "bold"),)
    if found["peers"]:
        yield Table(
            ("NAME", "ADDRESS", "AS", "TYPE", "FAMILIES", "MORE"), map(_peer_row, found["peers"]), indent=2
        )
    yield BLANK
    yield (cell(plural(len(found["announce"]), "route") + " announced", "bold"),)
    if found["announce"]:
        rows = map(_announce_row, found["announce"])
        yield Table(("PREFIX", "KIND", "COMMUNITIES", "SOURCE"), rows, indent=2)
    yield BLANK
    yield (cell(plural(len(found["blackholes"]), "blackhole"), "bold"),)
    for prefix in found["blackholes"]:
        yield Cell("  "), cell(prefix)
    yield BLANK
    yield (cell(plural(len(found["kernel_rules"]), "kernel rule"), "bold"),)
    if found["kernel_rules"]:
        rows = map(_rule_row, found["kernel_rules"])
        yield Table(("CIDR", "ACTION", "TUNNEL", "WHEN", "REASON"), rows, indent=2)
    if found["problems"]:
        yield BLANK
        yield (cell(plural(len(found["problems"]), "problem"), "bold"),)
        for problem in found["problems"]:
            yield Cell("  "), cell(_problem(problem), "warn")


def _peer_row(peer: Document) -> Line:
    return (
        cell(peer["name"]),
        cell(peer["address"]),
        cell(peer["asn"]),
        cell(peer["type"]),
        cell(",".join(peer["families"])),
        cell(", ".join(_options(peer))),
    )


def _options(peer: Document) -> Iterator[str]:
    """What is not as usual, in words."""
    if peer["port"] != 179:
        yield f"port {peer['port']}"
    if peer["passive"]:
        yield "waits for the peer"
    if peer["password"]:
        yield "password"
    if peer["ttl_security"] is not None:
        yield f"at most {plural(peer['ttl_security'], 'hop')} away"
    if peer["route_reflector_client"]:
        yield f"client of {peer['cluster_id']}"
    if peer["next_hop"] != "auto":
        yield f"next hop {peer['next_hop']}"
    if peer["allow_own_as"]:
        yield f"own AS allowed {peer['allow_own_as']} times"
    if peer["filters"]:
        yield f"filters {' '.join(peer['filters'])}"
    if bfd := peer.get("bfd"):
        yield f"BFD {bfd['min_tx_ms']:g}/{bfd['min_rx_ms']:g} ms x {bfd['multiplier']}"
    if peer["reachable_by"]:
        yield f"reachable by {peer['reachable_by']}"


def _announce_row(route: Document) -> Line:
    return (
        cell(route["prefix"]),
        cell(route["kind"]),
        cell(",".join(route["communities"])),
        cell(route["source"]),
    )


def _rule_row(rule: Document) -> Line:
    return (
        cell(rule["cidr"]),
        cell(rule["action"]),
        cell(rule["tunnel"]),
        cell(rule["when"]),
        cell(rule["reason"]),
    )


def _endpoint(listen: Document) -> str:
    address = f"[{listen['address']}]" if ":" in listen["address"] else listen["address"]
    return f"{address}:{listen['port']}"


def _problem(problem: Document) -> str:
    return ": ".join(part for part in (problem["source"], problem["path"], problem["message"]) if part)


# What would change.


def changes(found: Document, look: Look) -> Screen:
    """A line a change: ``+`` comes, ``-`` goes, ``~`` differs, ``!`` resets a session."""
    if not found["changes"]:
        yield (cell(f"Nothing would change on {found['node']}."),)
        return
    sessions, announce, rules = found["sessions"], found["announce"], found["kernel_rules"]
    yield (cell(f"On {found['node']} would change:"),)
    yield from _section("The node", [("~", _difference(one["setting"], one)) for one in found["settings"]])
    yield from _section(
        "Sessions",
        [
            *(("!", f"{_session(one)} is reset: {_fields(one, resets=True)}") for one in sessions["reset"]),
            *(("-", f"{_session(one)} ends: {one['why']}") for one in sessions["removed"]),
            *(("+", f"{one['name']} {one['address']} AS {one['asn']}") for one in sessions["added"]),
            *(("~", f"{_session(one)} stays: {_fields(one)}") for one in sessions["changed"]),
        ],
    )
    yield from _section("Filters", [_filter(one) for one in found["filters"]])
    imports = found.get("imports") or {}
    yield from _section(
        "Learned routes",
        [
            *(("-", _import(one)) for one in imports.get("removed", ())),
            *(("+", _import(one)) for one in imports.get("added", ())),
            *(("~", _import(one)) for one in imports.get("changed", ())),
            *((("~", f"{imports['unlisted']} more"),) if imports.get("unlisted") else ()),
        ],
    )
    yield from _section(
        "Announced routes",
        [
            *(("+", f"{one['prefix']} {one['kind']} ({one['source']})") for one in announce["added"]),
            *(("-", f"{one['prefix']} {one['kind']} ({one['source']})") for one in announce["removed"]),
            *(("~", _route_change(one)) for one in announce["changed"]),
        ],
    )
    yield from _section(
        "Blackholes",
        [
            *(("+", prefix) for prefix in found["blackholes"]["added"]),
            *(("-", prefix) for prefix in found["blackholes"]["removed"]),
        ],
    )
    yield from _section(
        "Kernel rules",
        [
            *(("+", f"{one['cidr']} {_rule(one)}") for one in rules["added"]),
            *(("-", f"{one['cidr']} {_rule(one)}") for one in rules["removed"]),
            *(
                ("~", f"{one['cidr']} {_rule(one['before'])} -> {_rule(one['after'])}")
                for one in rules["changed"]
            ),
        ],
    )
    yield from _section(
        "Problems",
        [
            *(("+", _problem(problem)) for problem in found["problems"]["added"]),
            *(("-", _problem(problem)) for problem in found["problems"]["gone"]),
        ],
    )


_STYLES = {"+": "good", "-": "bad", "!": "bad", "~": "warn"}


def _section(title: str, entries: list[tuple[str, str]]) -> Iterator[Line]:
    if entries:
        yield BLANK
        yield (cell(title, "bold"),)
        for sign, text in entries:
            yield Cell(f"  {sign} ", _STYLES[sign]), cell(text)


def _session(session: Document) -> str:
    return f"{session['name']}{'' if session['established'] else ' (not established)'}"


def _fields(session: Document, resets: bool = False) -> str:
    """The fields that differ; those that reset the session first."""
    ordered = sorted(session["fields"], key=lambda field: not field["resets"])
    texts = [_difference(field["field"], field) for field in ordered if field["resets"]]
    others = [_difference(field["field"], field) for field in ordered if not field["resets"]]
    if resets and others:
        return f"{'; '.join(texts)}; and without that: {'; '.join(others)}"
    return "; ".join(texts + others)


def _difference(name: str, change: Document) -> str:
    if change["before"] == change["after"]:
        return f"another {name}"
    return f"{name} {_text(change['before'])} -> {_text(change['after'])}"


def _text(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_text, value)) + "]"
    if isinstance(value, dict):
        return " ".join(map(_text, value.values()))
    if isinstance(value, str):
        return value
    return "none" if value is None else json.dumps(value)


def _filter(change: Document) -> tuple[str, str]:
    sign = {"added": "+", "removed": "-"}.get(change["change"], "~")
    return sign, f"{change['name']} {' '.join(change['lists'])}, of {', '.join(change['peers'])}"


def _import(change: Document) -> str:
    where = ", installed now" if change["installed"] else ""
    return f"{change['prefix']} of {', '.join(change['peers'])}: {change['rule']}{where}"


def _route_change(change: Document) -> str:
    before, after = change["before"], change["after"]
    parts = [
        _difference(key, {"before": before[key], "after": after[key]})
        for key in ("kind", "communities")
        if before[key] != after[key]
    ]
    return f"{change['prefix']} {'; '.join(parts)}"


def _rule(rule: Document) -> str:
    tunnel = f" over {rule['tunnel']}" if rule["tunnel"] else ""
    when = " across subnets" if rule["when"] == "cross-subnet" else ""
    return f"{rule['action']}{tunnel}{when} ({rule['reason']})"
