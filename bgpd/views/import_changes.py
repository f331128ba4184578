"""What other import filters would do to the routes that peers have announced: the ``imports`` of ``bgpctl plan``.

``daemon.operator`` asks. Adj-RIB-In holds what was received, so that each path can be judged by another policy. A table
may have a million prefixes: they are judged in slices, in the event loop's thread, which alone may look at the tables.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from bgpd.model.peer import Peer, PeerId
from bgpd.model.prefix import Family, Prefix, prefix_text
from bgpd.model.route import Path
from bgpd.rules.imports import (
    ImportRules,
    altered,
    import_rules,
    import_verdict,
    prefix_import_refusal,
    rejected,
)
from bgpd.rules.policy import RoutePolicy
from bgpd.views.live import Parts

Json = dict[str, Any]
Rules = dict[PeerId, tuple[ImportRules, ImportRules | None]]
"""By peer, before and after; ``None`` after for one whose session would end."""

SLICE_SECONDS = 0.004
"""Seconds of judging before the event loop has a turn."""
MOST_LISTED = 100
"""Prefixes that each list of the answer names; the others are counted."""


async def import_changes(parts: Parts, before: RoutePolicy, after: RoutePolicy) -> Json:
    """``removed``, ``added``, ``changed``: the prefixes that would be left without a path that may be used, get a first
    one, or others than before; and ``unlisted``, how many more there are than are listed."""
    found: Json = {"removed": [], "added": [], "changed": []}
    unlisted = 0
    for family in Family:
        table = parts.router.adj_rib_in(family)
        rules = _rules(table.peers(), before, after, family)
        differing = [peer for peer, (one, other) in rules.items() if other is not None and one != other]
        prefixes = list({prefix: None for peer in differing for prefix in table.prefixes_of(peer)})
        end = time.monotonic() + SLICE_SECONDS
        for prefix in prefixes:
            if time.monotonic() >= end:
                await asyncio.sleep(0)
                end = time.monotonic() + SLICE_SECONDS
            change = _judge(family, prefix, table.paths(prefix), rules)
            if change is None:
                continue
            kind, entry = change
            if len(found[kind]) < MOST_LISTED:
                installed = bool(parts.held_keys(family, prefix))
                found[kind].append({"prefix": prefix_text(family, prefix), **entry, "installed": installed})
            else:
                unlisted += 1
    return {**found, "unlisted": unlisted}


def _rules(peers: dict[PeerId, Peer], before: RoutePolicy, after: RoutePolicy, family: Family) -> Rules:
    return {
        peer.id: (
            import_rules(before, peer, family),
            None if after.known(peer) is None else import_rules(after, peer, family),
        )
        for peer in peers.values()
    }


def _judge(family: Family, prefix: Prefix, paths: tuple[Path, ...], rules: Rules) -> tuple[str, Json] | None:
    """What becomes of a prefix: which list, and its entry; ``None`` where nothing does."""
    was: list[Path] = []
    will: list[Path] = []
    words = ""
    peers: dict[str, None] = {}
    for path in paths:
        one, other = rules.get(path.peer.id, (None, None))
        if one is None:
            continue  # it came since
        old, old_words = _imported(family, prefix, path, one)
        new, new_words = (None, "") if other is None else _imported(family, prefix, path, other)
        if old is not None:
            was.append(old)
        if new is not None:
            will.append(new)
        if old != new and other is not None:
            peers[path.peer.id] = None
            words = words or new_words or f"no longer {old_words}"
    if not peers:
        return None
    kind = "removed" if not will else "changed" if was else "added"
    return kind, {"peers": list(peers), "rule": words}


def _imported(family: Family, prefix: Prefix, path: Path, rules: ImportRules) -> tuple[Path | None, str]:
    """A path as import leaves it, ``None`` where it does not; and by which rule."""
    if refusal := prefix_import_refusal(family, prefix, path, rules):
        return None, refusal.value
    verdict = import_verdict(family, prefix, path, rules)
    if verdict is None:
        return path, ""
    return None if rejected(verdict) else altered(path, verdict.operations), verdict.rule
