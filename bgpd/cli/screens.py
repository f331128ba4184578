"""What ``bgpctl`` shows: the daemon's JSON as screens of lines and tables.

Each function takes an answer of the API (``observe.document`` says what is in it) and a ``Look``, and returns what
``tables`` writes. Nothing here asks the daemon or prints.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

from bgpd.cli.tables import BLANK, Cell, Document, Line, Look, Screen, Table, ago, cell, plural, stamp
from bgpd.events import field_text

# history


def history(entries: Iterable[Document]) -> Screen:
    """A line an entry, as it comes."""
    none = True
    for entry in entries:
        none = False
        fields = " ".join(
            f"{key}={field_text(key, value)}"
            for key, value in entry.items()
            if key not in ("time", "event", "level")
        )
        style = {"warning": "warn", "error": "bad"}.get(entry.get("level", ""), "")
        yield cell(f"{stamp(entry['time'])}  "), cell(f"{entry['event']:<20} ", style), cell(fields)
    if none:
        yield (cell("no entries: nothing of this kind is in the history"),)


def why_at(found: Document, look: Look) -> Screen:
    """The routes that covered a target at some time, the one that was followed in bold."""
    followed = False
    yield (cell(f"{found['target']} at {stamp(found['at'])}", "bold"),)
    for entry in found["routes"]:
        there = entry["event"] == "route"
        text = f"{entry['prefix']} {entry['to']}" if there else f"{entry['prefix']}: no route of bgpd's"
        style = "bold" if there and not followed else "dim"
        followed = followed or there
        yield Cell("  "), cell(text, style), cell(f"  since {stamp(entry['time'])}", "dim")
    changed = found["many_changed_at"]
    if changed and any(entry["time"] <= changed for entry in found["routes"]):
        yield (cell(f"  Many routes changed together at {stamp(changed)}: this may be among them.", "warn"),)


# doctor


def doctor(found: Document, look: Look) -> Screen:
    """A line a finding, and under those that are not good what to do."""
    marks = {"good": look.marks[0], "warn": "!", "bad": look.marks[1]}
    for each in found["findings"]:
        state = each["state"]
        yield (
            Cell(f"{marks[state]} ", state),
            cell(f"{each['name']:<14}"),
            cell(each["text"], state if state != "good" else ""),
        )
        if each["advice"]:
            yield Cell(" " * 16), cell(each["advice"], "dim")
    if "bundle" in found:
        yield BLANK
        yield (cell(f"The archive has {', '.join(found['bundle'])}."),)


# status


def status(found: Document, look: Look) -> Screen:
    """One screen: is it ready, and if not, why; whom it talks to; what it holds; what is wrong."""
    ready, in_sync, degraded = found["ready"], found["in_sync"], found.get("degraded", ())
    yield (
        cell(f"bgpd {found['version']} on {found['node']}: ", "bold"),
        _verdict(ready, degraded),
        Cell(", in sync") if in_sync else Cell(", not yet in sync: old routes are kept", "warn"),
    )
    yield (
        cell(f"AS {found['asn'] or 'unknown'}, router id {found['router_id'] or 'unknown'}, "),
        cell(f"up {ago(look.now - found['started'])} since {stamp(found['started'])}"),
    )
    if found.get("drain_words"):
        yield Cell("Drained: ", "warn"), cell(found["drain_words"], "warn")
    for sentence in degraded:
        yield Cell("! ", "warn"), cell(sentence, "warn")
    yield BLANK
    yield Table((), _status_checks(found, look))
    yield BLANK
    up, wanted = found["peers_up"], found["peers_wanted"]
    yield (
        Cell("Peers   "),
        cell(f"{up} of {wanted} established", "good" if up == wanted else "warn"),
        cell(f", {plural(found['update_groups'], 'update group')}"),
        cell(f", {found['peers_shut_down']} shut down" if found["peers_shut_down"] else "", "warn"),
    )
    yield Cell("Routes  "), cell(_own_routes(found))
    if found["last_routes_change"]:
        yield (cell(f"        last change {ago(look.now - found['last_routes_change'])} ago"),)
    if found["fib"]:
        yield BLANK
        yield Table(_FAMILY_HEAD, _family_rows(found, look), right=frozenset(_FAMILY_HEAD[1:-1]))
    if found["netlink_overruns"]:
        yield (cell(f"The kernel dropped notifications {found['netlink_overruns']} times.", "warn"),)
    if found["event_loop_lag"] > 1.0:
        yield (cell(f"The event loop was held for {found['event_loop_lag']:.1f} s lately.", "bad"),)
    if found["problems"]:
        yield BLANK
        harmless = [problem for problem in found["problems"] if problem.get("harmless")]
        wrong = [problem for problem in found["problems"] if not problem.get("harmless")]
        for title, problems, style in (("Problems", wrong, "warn"), ("Good to know", harmless, "")):
            if problems:
                yield (cell(f"{title} ({len(problems)})", "bold"),)
                for problem in problems:
                    yield Cell("  "), cell(_problem(problem), style)


def _verdict(ready: bool, degraded: Sequence[str]) -> Cell:
    if not ready:
        return Cell("not ready", "bad")
    return Cell("ready, degraded", "warn") if degraded else Cell("ready", "good")


def _status_checks(found: Document, look: Look) -> Iterator[Line]:
    facts = {
        "config": f"{found['config_file']}, loaded {ago(look.now - found['config_loaded'])} ago",
        "datastore": _datastore(found["datastore"], look),
    }
    for check in found["checks"]:
        text = check["detail"] or facts.get(check["name"], "")
        if not check["ok"] and check["detail"] and check["name"] in facts:
            text = f"{check['detail']} ({facts[check['name']]})"
        doubtful = (
            check["ok"] and check["detail"]
        )  # what was read last stands, a refused file changed nothing
        mark = Cell("!", "warn") if doubtful else look.mark(check["ok"])
        yield mark, cell(check["name"]), cell(text, "warn" if doubtful else "" if check["ok"] else "bad")


def _datastore(store: Document, look: Look) -> str:
    resources = ", ".join(f"{count} {kind}" for kind, count in sorted(store["resources"].items()) if count)
    text = f"{store['backend']}: {resources or 'no resources'}"
    if store.get("as_of"):
        text += f"; as it was {ago(look.now - store['as_of'])} ago"
    if store["last_event"]:
        text += f"; last event {ago(look.now - store['last_event'])} ago"
    return text


def _own_routes(found: Document) -> str:
    """``2 announced (ipv4 1 block, 1 borrowed)``, or how many of them are not advertised yet."""
    desired = [entry for entry in found["routes_desired"] if entry["count"]]
    total = sum(entry["count"] for entry in desired)
    advertised = sum(entry["count"] for entry in found["routes_advertised"])
    if not total:
        return "nothing of our own to announce"
    words = ", ".join(f"{e['count']} {e['family']} {e['kind']}" for e in desired)
    if not found["peers_up"]:
        return f"{total} to announce ({words}), and nobody to announce them to"
    if advertised < total:
        return f"{advertised} of {total} advertised to every peer ({words})"
    return f"{total} announced ({words})"


_FAMILY_HEAD = (
    *("FAMILY", "OWN", "LEARNED", "PATHS", "KERNEL", "WANTED", "PENDING"),
    *("DRIFT", "REPAIRED", "CONFLICTS", "COMPARED"),
)


def _family_rows(found: Document, look: Look) -> Iterator[Line]:
    def learned(key: str, family: str, source: str) -> int:
        return sum(e["count"] for e in found[key] if (e["family"], e["source"]) == (family, source))

    for family, fib in sorted(found["fib"].items()):
        drift, conflicts = sum(fib["drift"].values()), len(fib["conflicts"])
        yield (
            cell(family),
            cell(learned("rib_routes", family, "local")),
            cell(learned("rib_routes", family, "bgp")),
            cell(learned("rib_paths", family, "bgp")),
            cell(sum(fib["routes"].values())),
            cell(fib["wanted"]),
            cell(fib["pending"], "warn" if fib["pending"] else ""),
            cell(drift, "bad" if drift else ""),
            cell(sum(fib["repairs"].values())),
            cell(conflicts, "bad" if conflicts else ""),
            cell(f"{ago(look.now - fib['last_sync'])} ago" if fib["last_sync"] else "never"),
        )


def _problem(problem: Document) -> str:
    return ": ".join(part for part in (problem["source"], problem["path"], problem["message"]) if part)


# routes

NO_ROUTES = {
    "in": "no routes: no peer announces any of these",
    "out": "no routes: no established peer is sent any of these",
    "rib": "no routes: none was chosen, and none is our own",
    "fib": "no routes: the kernel has none of ours, and should have none",
}
ROUTES_LEGEND = "> best   = shares the traffic   s stale"


def routes(table: str, rows: Iterable[Document], look: Look) -> Screen:
    """One table; rows may be many and are taken as they come."""
    if table == "fib":
        shown = (_fib_row(row, look) for row in rows)
        yield Table(("", "PREFIX", "TYPE", "ROUTE"), shown, empty=NO_ROUTES[table])
        return
    head = (
        "",
        "PREFIX",
        "NEXT-HOP",
        "PEER",
        "KIND",
        "AS-PATH",
        "ORIGIN",
        "LP",
        "MED",
        "ID",
        "COMMUNITIES",
        "DETAIL",
    )
    right = frozenset({"LP", "MED", "ID"})
    yield Table(head, map(_route_row, rows), right, compact=True, empty=NO_ROUTES[table])
    if look.terminal:
        yield (Cell(ROUTES_LEGEND, "dim"),)


def _route_row(row: Document) -> Line:
    flags = (">" if row["best"] else "=" if row["multipath"] else "") + ("s" if row["stale"] else "")
    used = row["best"] or row["multipath"]
    return (
        Cell(flags, "good" if used else "warn"),
        cell(row["prefix"], "bold" if row["best"] else ""),
        cell(row["next_hop"]),
        cell(row["peer"]),
        cell(row["kind"]),
        cell(row["as_path"].replace(" ", ",")),
        cell(row["origin"]),
        cell(row["local_pref"]),
        cell(row["med"]),
        cell(row["path_id"] or None),
        cell(",".join(row["communities"])),
        cell(row["detail"], "" if used else "warn"),
    )


def _fib_row(row: Document, look: Look) -> Line:
    return (
        look.mark(row["best"]),
        cell(row["prefix"]),
        cell(row["kind"]),
        cell("" if row["detail"] == row["kind"] else row["detail"], "" if row["best"] else "warn"),
    )


# blocks


def blocks(found: Document, look: Look) -> Screen:
    """A line a block."""
    empty = "no blocks: none is ours, lent or borrowed of"
    head = ("CIDR", "POOL", "AFFINITY", "STATE", "USED", "ADVERTISED", "BLACKHOLE", "BORROWED", "REASON")
    yield Table(head, map(_block_row, found["blocks"]), right=frozenset({"USED"}), empty=empty)


def _block_row(block: Document) -> Line:
    from bgpd.model.networks import IPNetwork  # most commands do without

    size = IPNetwork(block["cidr"]).size
    return (
        cell(block["cidr"]),
        cell(block["pool"]),
        cell(block["affinity"]),
        cell(block["state"], "" if block["state"] == "confirmed" else "warn"),
        cell(f"{block['used']}/{size}"),
        cell("yes" if block["advertised"] else "no", "good" if block["advertised"] else "dim"),
        cell("yes" if block["blackhole"] else "no", "good" if block["blackhole"] else "dim"),
        cell("; ".join(block["borrowed"])),
        cell(block["reason"], "warn"),
    )


# diff


def diff(found: Document, look: Look) -> Screen:
    """A line a route that is not as it is wanted."""
    empty = "no differences: peers and the kernel have what is wanted"
    rows = (
        (
            cell(row["prefix"]),
            cell(row["where"]),
            cell(row["wanted"] or "gone", "" if row["wanted"] else "dim"),
            cell(row["found"] or ("nothing" if row["where"] == "kernel" else "as before"), "warn"),
            cell(row["reason"]),
        )
        for row in found["differences"]
    )
    yield Table(("PREFIX", "WHERE", "WANTED", "FOUND", "REASON"), rows, empty=empty)


# config


def config(found: Document, look: Look) -> Screen:
    """A line a key; those that are not the default in bold."""
    yield (cell(f"In force, read from {found['file']}.", "dim"),)
    for line in found["error"].splitlines():
        yield (cell(f"The file cannot be taken now: {line}", "bad"),)
    rows = (
        (
            cell(row["key"], "" if row["default"] else "bold"),
            cell(_yaml(row["value"]), "" if row["default"] else "bold"),
            cell(f"{_yaml(row['file'])}, after a {row['after']}" if "after" in row else "", "warn"),
        )
        for row in found["keys"]
    )
    yield Table(("KEY", "VALUE", "IN THE FILE"), rows, empty="nothing is set: all is the default")


def _yaml(value: object) -> str:
    """A value as the file would have it, on one line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# bfd


def bfd(found: Document, look: Look) -> Screen:
    """A line a session."""
    if not found["sessions"]:
        yield (
            cell(
                "No peer has BFD: it is asked for by bgp.defaults.bfd, bgp.peers or the annotation bgpd/bfd."
            ),
        )
    else:
        head = ("PEER", "BGP", "KIND", "STATE", "SINCE", "TX", "RX", "DETECT", "UPS", "DOWNS", "WHY")
        rows = (_bfd_row(session, look) for session in found["sessions"])
        yield Table(head, rows, right=frozenset({"SINCE", "TX", "RX", "DETECT", "UPS", "DOWNS"}))
    for error in found["listen_errors"]:
        yield (cell(f"Cannot hear at {error}.", "bad"),)
    if found["worst_delay"] >= 0.05:
        yield (
            cell(f"A packet left {found['worst_delay'] * 1000:.0f} ms late within the last minute.", "warn"),
        )


def _bfd_row(session: Document, look: Look) -> Line:
    up = session["state"] == "up"
    why = [session["diagnostic"], session["last_error"]]
    if session["remote_state"] == "admin_down":
        why.append("taken down by the peer's operator")
    return (
        cell(session["address"] + (f"%{session['interface']}" if session["interface"] else "")),
        cell(",".join(session["peers"])),
        cell("multihop" if session["multihop"] else "single-hop"),
        cell(session["state"].replace("_", " "), "good" if up else "bad"),
        cell(ago(look.now - session["since"])),
        cell(_milliseconds(session["transmit_interval"])),
        cell(_milliseconds(max(session["receive_interval"], session["remote_min_tx"]))),
        cell(_milliseconds(session["detection_time"])),
        cell(session["ups"]),
        cell(sum(session["downs"].values())),
        cell("; ".join(word for word in why if word), "" if up else "warn"),
    )


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:g} ms" if seconds else ""


# why


def why(found: Document, look: Look) -> Screen:
    """A paragraph a prefix: the verdict, then each step that led to it."""
    for number, one in enumerate(found["explanations"]):
        if number:
            yield BLANK
        yield cell(one["prefix"], "bold"), cell(f": {one['verdict']}")
        stages = _stages(one["steps"])
        yield Table(
            (), [(look.mark(step["ok"]), cell(stage), cell(step["text"])) for stage, step in stages], indent=2
        )


def _stages(steps: Iterable[Document]) -> Iterator[tuple[str, Document]]:
    """Each step with its stage, which is printed once where several follow each other."""
    before = ""
    for step in steps:
        yield ("" if step["stage"] == before else step["stage"]), step
        before = step["stage"]


# health


def health(found: Document, look: Look) -> Screen:
    """A line a check, the verdict last."""
    for check in found["checks"]:
        yield (
            look.mark(check["ok"]),
            cell(
                f" {check['name']}" + (f": {check['detail']}" if check["detail"] else ""),
                "" if check["ok"] else "bad",
            ),
        )
    name = "live" if found["check"] == "live" else "ready"
    yield (Cell(name, "good") if found["ok"] else Cell(f"not {name}", "bad"),)
