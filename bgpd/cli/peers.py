"""What ``bgpctl peers`` shows: a line a session and family, or a paragraph a session."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from bgpd.cli.tables import (
    BLANK,
    Cell,
    Document,
    Line,
    Look,
    Screen,
    Table,
    ago,
    cell,
    plural,
    short_stamp,
    stamp,
)

_STATES = {"open_sent": "OpenSent", "open_confirm": "OpenConfirm"}

_PEER_HEAD = (
    *("PEER", "ADDRESS", "AS", "TYPE", "STATE", "FOR", "SINCE"),
    *("FAMILY", "RX", "ACC", "TX", "FLAPS", "LAST-ERROR"),
)


NO_PEERS = "no peers: no resource asks for a session of this node"


def table(found: Document, look: Look) -> Screen:
    """A line a session and family."""
    right = frozenset({"AS", "RX", "ACC", "TX", "FLAPS"})
    yield Table(_PEER_HEAD, _peer_rows(found["peers"], look), right, empty=NO_PEERS)


def _state(peer: Document) -> Cell:
    name = peer["state"]
    text = _STATES.get(name, name.capitalize())
    if not peer["admin_up"]:
        return Cell("Shutdown", "dim")
    if name == "established":
        return Cell(text, "good")
    return Cell(f"{text},stale-kept" if peer["graceful_restart_active"] else text, "bad")


def _endpoint(peer: Document) -> str:
    if peer["port"] == 179:
        return str(peer["address"])
    address = f"[{peer['address']}]" if ":" in peer["address"] else peer["address"]
    return f"{address}:{peer['port']}"


def _peer_rows(found: Iterable[Document], look: Look) -> Iterator[Line]:
    for peer in found:
        for family in peer["families"] or [""]:
            counts = peer["counts"].get(family) or {}
            yield (
                cell(peer["id"]),
                cell(_endpoint(peer)),
                cell(peer["asn"]),
                cell(peer["kind"]),
                _state(peer),
                cell(ago(look.now - peer["since"])),
                cell(short_stamp(peer["since"], look.now)),
                cell(family),
                cell(counts.get("received")),
                cell(counts.get("accepted")),
                cell(counts.get("advertised")),
                cell(sum(peer["flaps"].values())),
                cell(peer["last_error"], "dim" if peer["state"] == "established" else "warn"),
            )


def details(found: Document, look: Look) -> Screen:
    """A paragraph a session."""
    if not found["peers"]:
        yield (cell(NO_PEERS),)
    for number, peer in enumerate(found["peers"]):
        if number:
            yield BLANK
        state = _state(peer)
        since = f" for {ago(look.now - peer['since'])}, since {stamp(peer['since'])}"
        yield cell(f"{peer['id']}  ", "bold"), state, cell(since)
        yield Table(
            (), [(cell(name), cell(text)) for name, text in _peer_facts(peer, look) if text], indent=2
        )


def _peer_facts(peer: Document, look: Look) -> Iterator[tuple[str, str]]:
    yield "From", f"{peer['source']} ({peer['kind']})"
    internal = "internal" if peer["asn"] == peer["local_asn"] else "external"
    yield (
        "Peer",
        f"{_endpoint(peer)} AS {peer['asn']}, {internal}"
        + (f", router id {peer['router_id']}" if peer["router_id"] else ""),
    )
    dials = "waits for the peer to dial" if peer["passive"] else "dials"
    yield "Local", f"{peer['local_address'] or 'any address'} AS {peer['local_asn']}, {dials}"
    known = peer["hold_time"] or peer["state"] == "established"
    yield "Timers", f"hold {peer['hold_time']:g} s, keepalive {peer['keepalive_time']:g} s" if known else ""
    yield "Capabilities", ", ".join(peer["capabilities_sent"])
    yield "  of the peer", ", ".join(peer["capabilities_received"])
    yield "Restart", "stale routes are kept until the peer is back" if peer["graceful_restart_active"] else ""
    for family in peer["families"]:
        counts = peer["counts"].get(family) or dict.fromkeys(
            ("received", "accepted", "advertised", "stale"), 0
        )
        limit = f", at most {peer['max_prefixes']}" if peer["max_prefixes"] else ""
        stale = f", {counts['stale']} stale" if counts["stale"] else ""
        yield (
            f"Prefixes {family}",
            f"{counts['received']} received{limit}, {counts['accepted']} accepted, "
            f"{counts['advertised']} advertised{stale}",
        )
    yield (
        "Queue",
        f"{peer['output_queue']} prefixes wait for the peer to read" if peer["output_queue"] else "",
    )
    yield "Memory", f"{peer['memory'] / (1 << 20):.1f} MiB" if peer["memory"] else ""
    yield "Received", _counts(peer["messages_received"])
    yield "Sent", _counts(peer["messages_sent"])
    errors = peer["update_errors"]
    yield "Malformed", f"{plural(errors, 'UPDATE')} taken as withdraw or cut (RFC 7606)" if errors else ""
    for reason, count in peer["refused"].items():
        yield "Refused", f"{plural(count, 'route')}: {reason}"
    if peer["first_as"]:
        routes = plural(peer["first_as"], "route")
        yield "First AS", f"{routes} whose AS path does not start with AS {peer['asn']}, as of a route server"
    yield "Flaps", _counts(peer["flaps"])
    yield (
        "Notifications",
        "; ".join(
            f"{n['direction']} {notification_words(n['code'], n['subcode'])} x{n['count']}"
            for n in peer["notifications"]
        ),
    )
    yield "Last down", _when(peer["last_down"], peer["last_down_at"], look)
    if peer["last_error"] != peer["last_down"]:
        yield "Last error", _when(peer["last_error"], peer["last_error_at"], look)


def _when(what: str, at: float | None, look: Look) -> str:
    return what if at is None else f"{what}, {ago(look.now - at)} ago, at {stamp(at)}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


_NOTIFICATIONS: Mapping[int, tuple[str, tuple[str, ...]]] = {
    1: ("Message Header Error", ("not synchronized", "bad length", "bad type")),
    2: (
        "OPEN Message Error",
        (
            "unsupported version",
            "bad peer AS",
            "bad BGP identifier",
            "unsupported optional parameter",
            "",
            "unacceptable hold time",
            "unsupported capability",
        ),
    ),
    3: (
        "UPDATE Message Error",
        (
            "malformed attribute list",
            "unrecognized well-known attribute",
            "missing well-known attribute",
            "attribute flags error",
            "attribute length error",
            "invalid ORIGIN",
            "",
            "invalid NEXT_HOP",
            "optional attribute error",
            "invalid network field",
            "malformed AS_PATH",
        ),
    ),
    4: ("Hold Timer Expired", ()),
    5: ("Finite State Machine Error", ("in OpenSent", "in OpenConfirm", "in Established")),
    6: (
        "Cease",
        (
            "maximum number of prefixes reached",
            "administrative shutdown",
            "peer de-configured",
            "administrative reset",
            "connection rejected",
            "other configuration change",
            "connection collision resolution",
            "out of resources",
            "hard reset",
        ),
    ),
    7: ("ROUTE-REFRESH Message Error", ("invalid message length",)),
}
"""Codes and, in order from 1, their subcodes: RFC 4271 §4.5, 4486, 5492, 6608, 7313, 8538."""


def notification_words(code: int, subcode: int) -> str:
    """``6/2 Cease: administrative shutdown``."""
    name, subcodes = _NOTIFICATIONS.get(code, ("unknown", ()))
    detail = subcodes[subcode - 1] if 0 < subcode <= len(subcodes) else ""
    return f"{code}/{subcode} {name}" + (f": {detail}" if detail else "")
