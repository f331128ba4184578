"""The table of nexthop objects: what is not plain, what happens while all are read, and ids that are free again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bgpd.kernel import nexthop_objects
from bgpd.kernel import rtnetlink as rt
from bgpd.kernel.nexthop_objects import NextHops
from bgpd.model.prefix import Address
from bgpd.model.route import Hop
from tests.unit.test_rtnetlink import attribute, header, single, u32

IDS = range(1000, 1004)
HOP = Hop(Address(bytes((10, 0, 0, 1))), 7)
PLAIN = rt.NextHop(1000, rt.PROTO_BIRD, HOP, (), False, True)


def octets(number: int, extra: bytes = b"") -> bytes:
    """A message of the kernel about an object over ``HOP``, with another attribute behind."""
    body = bytes((2, 0, rt.PROTO_BIRD, 0)) + bytes(4) + u32(rt.NHA_ID, number) + u32(rt.NHA_OIF, 7)
    return header(rt.NEWNEXTHOP, body + attribute(rt.NHA_GATEWAY, bytes((10, 0, 0, 1))) + extra)


@pytest.mark.parametrize(
    ("extra", "plain"),
    [
        (b"", True),
        (attribute(rt.NHA_ENCAP, u32(1, 5)), False),
        (attribute(rt.NHA_FDB, b""), False),
    ],
    ids=["plain", "with an encapsulation", "of the fdb"],
)
def test_what_does_more_than_forward_is_not_plain(extra: bytes, plain: bool) -> None:
    """A route over such an object is none that we would write: it is never taken for ours as it is."""
    data = octets(1000, extra)
    read = rt.read_nexthop(data, single(data))
    assert read is not None and (read.hop, read.plain) == (HOP, plain)
    table = NextHops(None, IDS)  # type: ignore[arg-type]  # nothing is written here
    table.put_nexthop(read)
    assert (table.forwarding(1000) is not None) == plain


async def test_what_happens_during_a_reading_wins_over_it(monkeypatch: pytest.MonkeyPatch) -> None:
    table = NextHops(None, IDS)  # type: ignore[arg-type]
    table.put_nexthop(PLAIN)
    changed = PLAIN._replace(hop=HOP._replace(ifindex=9))

    async def dump(kind: int, begin: Callable[[], None], take: Callable[[bytes, Any], None]) -> None:
        begin()
        for number in (1000, 1001, 1002):
            data = octets(number)
            take(data, single(data))
        table.put_nexthop(changed)  # it was read, and is another by now
        table.put_nexthop(PLAIN._replace(id=1003))  # it came behind where the reading was
        table.drop(1001)  # it was read, and is gone

    monkeypatch.setattr(nexthop_objects, "dump_each", dump)
    await table.sync()
    assert table.known.keys() == {1000, 1002, 1003} and table.known[1000] is changed
    assert table.reserve() == 1001 and table.reserve() is None, "no id is given twice"
    table.drop(1001)
    assert table.reserve() == 1001


def test_an_object_of_another_in_our_range_is_not_ours() -> None:
    table = NextHops(None, IDS)  # type: ignore[arg-type]
    table.put_nexthop(PLAIN._replace(protocol=4))
    assert not table.is_ours(1000) and table.unused(set()) == []
    table.put_nexthop(PLAIN._replace(id=5))
    assert not table.is_ours(5), "outside of our range"
    assert table.hops(77) is None
