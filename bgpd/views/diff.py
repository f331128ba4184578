"""``bgpctl diff``: where what is wanted, what peers were sent and what the kernel has are not one and the same.

On a node at rest there is nothing. What a rule keeps from a peer is no difference: ``why`` says that.
"""

from __future__ import annotations

from collections.abc import Iterator

from bgpd.model.prefix import Family, address_text, prefix_of, prefix_text
from bgpd.model.route import default_metric
from bgpd.model.status import KERNEL, Difference
from bgpd.views.live import Parts

LOOK_EVERY = 256
"""Rows that are equal between two chances for the event loop."""


def differences(parts: Parts) -> Iterator[Difference | None]:
    """Of every family; ``None`` is none, only a chance to look. Taken over many turns of the event loop: each row is as
    things are at its turn."""
    for family in Family:
        yield from _kernel(parts, family)
        yield from _advertised(parts, family)


def _kernel(parts: Parts, family: Family) -> Iterator[Difference | None]:
    delta, conflicts = parts.fibs[family].delta, parts.kernel.fibs[family].conflicts
    for number, key in enumerate(dict.fromkeys((*delta.installed.entries, *delta.wanted))):
        if not number % LOOK_EVERY:
            yield None
        held, target = delta.installed.get(key), delta.wanted.get(key)
        if held == target:
            continue
        metric = "" if key[1] == default_metric(family) else f" metric {key[1]}"
        if target is None:
            reason = (
                "left from before; goes when all peers were heard" if delta.adopted else "not yet removed"
            )
        else:
            reason = conflicts.get(key) or delta.errors.get(key) or "not yet written"
        yield Difference(
            prefix=prefix_text(family, key[0]),
            family=family.label,
            where=KERNEL,
            wanted="" if target is None else parts.forwarding_text(target) + metric,
            found="" if held is None else parts.forwarding_text(held) + metric,
            reason=reason,
        )


def _advertised(parts: Parts, family: Family) -> Iterator[Difference]:
    for member in parts.established(family):
        group = parts.router.groups_of(member).get(family)
        several = group is not None and group.key.add_path
        for nlri, out in parts.outbound.waiting(member.id, family):
            yield Difference(
                prefix=prefix_text(family, prefix_of(nlri, several)),
                family=family.label,
                where=member.id,
                wanted="" if out is None else f"next hop {address_text(out.next_hop)}",
                found="",
                reason="waiting for the peer to read",
            )
