"""Adj-RIB-Out to the wire: one encoding for all, slow readers, End-of-RIB; decoded with the real codec."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from bgpd.bgp import encoding as module
from bgpd.bgp.outbound import CHUNK, Outbound
from bgpd.bgp.wire.update import Decoder, Framer, message, message_types
from bgpd.model.peer import Peer
from bgpd.model.prefix import Family, Prefix, prefix_text
from bgpd.model.route import Announce, Attributes, Out, RibEvent
from bgpd.rib.groups import UpdateGroup
from tests.unit.builders import (
    BOTH,
    ME,
    ME6,
    V4,
    V6,
    Line,
    addr,
    again,
    attributes,
    peer,
    pfx,
    update_group,
)

HERE = Out(attributes(local_pref=100), ME, None)
BLOCK, OTHER, THIRD = pfx("10.48.0.0/26"), pfx("10.48.0.64/26"), pfx("10.48.0.128/26")


def out(number: int) -> Out:
    return Out(attributes(number, local_pref=100), ME, None)


def texts(prefixes: Iterable[Prefix], sign: str = "+") -> list[str]:
    return [sign + prefix_text(V4, prefix) for prefix in prefixes]


def many(count: int, start: int = 0) -> list[Prefix]:
    return [pfx(f"10.{n >> 8}.{n & 255}.0/24") for n in range(start, start + count)]


@pytest.fixture
def encodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each call of the encoder: how many prefixes."""
    calls: list[int] = []
    real = module.encode_announcements

    def counted(
        family: Family, what: Attributes, next_hop: bytes, prefixes: list[Prefix], *rest: Any, **more: Any
    ) -> list[bytes]:
        calls.append(len(prefixes))
        return real(family, what, next_hop, prefixes, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "encode_announcements", counted)
    return calls


def test_a_thousand_peers_cost_one_encoding(encodings: list[int]) -> None:
    line = Line()
    crowd = [peer(f"10.1.{n >> 8}.{n & 255}") for n in range(1000)]
    line.join(*crowd)
    line.settle()
    line.change({BLOCK: HERE, OTHER: HERE})
    assert encodings == [2]
    assert len({line.sent[each][-1] for each in crowd}) == 1
    assert line.heard(crowd[0]) == texts([BLOCK, OTHER])
    assert line.it.advertised(crowd[7].id, V4) == 2


def test_a_thousand_peers_that_join_share_encodings_and_come_in_slices(encodings: list[int]) -> None:
    line = Line()
    line.change({BLOCK: HERE, OTHER: HERE})
    line.it.release_end_of_rib()
    crowd = [peer(f"10.1.{n >> 8}.{n & 255}") for n in range(1000)]
    line.join(*crowd)
    slices = 1
    while line.it.work(settled=True):
        slices += 1
    assert slices > 4, "a thousand sessions are not served in one go"
    assert len(encodings) <= slices
    for each in (crowd[0], crowd[500], crowd[-1]):
        assert line.heard(each) == [*texts([BLOCK, OTHER]), "end of ipv4"]


def test_changes_are_grouped_by_their_attributes(encodings: list[int]) -> None:
    line, a = Line(), peer()
    line.join(a)
    other = Out(attributes(7, local_pref=100), ME, None)
    line.change({BLOCK: HERE, OTHER: other, THIRD: HERE})
    assert sorted(encodings) == [1, 2]
    assert sorted(line.heard(a)) == sorted(texts([BLOCK, OTHER, THIRD]))


def test_announcements_go_before_withdrawals() -> None:
    line, a = Line(), peer()
    line.join(a)
    line.change({BLOCK: HERE})
    line.heard(a)
    line.change({BLOCK: None, OTHER: HERE})
    assert line.heard(a) == [*texts([OTHER]), *texts([BLOCK], "-")]


def test_a_session_that_joins_is_sent_the_whole_table_in_pieces() -> None:
    line, early, late = Line(), peer("10.0.1.1"), peer("10.0.1.2")
    line.join(early)
    table = many(CHUNK + 10)
    line.change(dict.fromkeys(table, HERE))
    line.heard(early)
    line.join(late)
    assert line.it.queue_length(late.id) == CHUNK + 10
    assert line.it.advertised(late.id, V4) == 0
    assert line.it.work(settled=True)
    assert line.it.queue_length(late.id) == 10
    assert line.it.has_advertised(late.id, V4, table[0])
    assert not line.it.has_advertised(late.id, V4, table[-1])
    line.settle()
    assert line.heard(late) == texts(table)
    assert line.heard(early) == []
    assert line.it.advertised(late.id, V4) == CHUNK + 10


def test_a_slow_reader_lags_and_is_sent_the_newest_only() -> None:
    line, slow, quick = Line(), peer("10.0.1.1"), peer("10.0.1.2")
    line.join(slow, quick)
    line.settle()
    line.full.add(slow)
    line.change({BLOCK: HERE})
    assert line.heard(slow) == texts([BLOCK]), "what was put on the socket is there"
    for number in range(5):
        line.change({OTHER: Out(attributes(number, local_pref=100), ME, None), BLOCK: HERE})
    line.change({THIRD: HERE})
    line.change({THIRD: None, BLOCK: None})
    line.settle()
    assert line.heard(slow) == []
    assert line.it.queue_length(slow.id) == 3
    assert len(line.heard(quick)) == 1 + 5 * 2 + 1 + 2
    line.full.clear()
    line.it.resume_sending(slow)
    line.settle()
    assert line.heard(slow) == [*texts([OTHER]), *texts([BLOCK, THIRD], "-")]
    assert line.it.queue_length(slow.id) == 0
    line.change({BLOCK: HERE})
    assert line.heard(slow) == texts([BLOCK]), "it is on the common road again"


def test_a_slow_reader_hears_every_announcement_before_a_withdrawal() -> None:
    line, slow = Line(), peer()
    line.join(slow)
    old, new = many(CHUNK + 5), many(CHUNK + 5, 20_000)
    line.change(dict.fromkeys(old, HERE))
    line.heard(slow)
    line.full.add(slow)
    line.change({BLOCK: HERE})
    line.change(dict.fromkeys(old, None))
    line.change(dict.fromkeys(new, HERE))
    line.full.clear()
    line.it.resume_sending(slow)
    line.settle()
    signs = "".join(word[0] for word in line.heard(slow))
    assert signs == "+" * (1 + len(new)) + "-" * len(old)


def test_a_prefix_that_comes_back_while_its_withdrawal_waits() -> None:
    line, slow = Line(), peer()
    line.join(slow)
    old = many(2 * CHUNK)
    line.change(dict.fromkeys(old, HERE))
    line.full.add(slow)
    line.change({BLOCK: HERE})
    line.heard(slow)
    line.change(dict.fromkeys(old, None))
    line.full.clear()
    line.it.resume_sending(slow)
    assert line.it.work(settled=True)
    line.change(dict.fromkeys(old[:3], HERE))
    line.settle()
    words = line.heard(slow)
    assert set(words) == {*texts(old[:3]), *texts(old[3:], "-")}
    assert line.it.advertised(slow.id, V4) == 4


def test_a_session_that_leaves_behind_is_served_no_more() -> None:
    line, a, b = Line(), peer("10.0.1.1"), peer("10.0.1.2")
    line.change({BLOCK: HERE})
    line.join(a, b)
    line.leave(a)
    line.settle()
    line.it.resume_sending(a)
    line.change({OTHER: HERE})
    assert line.heard(a) == []
    assert line.heard(b) == texts([BLOCK, OTHER])
    assert line.it.advertised(a.id, V4) == 0
    line.leave(b)
    line.change({THIRD: HERE})
    line.leave(b)
    assert line.heard(b) == []


def test_the_next_session_of_a_peer_is_sent_all_and_the_end_of_the_old_one_is_late() -> None:
    line, first = Line(), peer()
    line.change({BLOCK: HERE})
    line.join(first)
    line.settle()
    second = again(first)
    line.join(second)
    line.it.remove_session(first)
    line.it.resume_sending(first)
    line.settle()
    line.change({OTHER: HERE})
    assert line.heard(second) == texts([BLOCK, OTHER])
    assert line.heard(first) == texts([BLOCK])


# End-of-RIB.


def test_end_of_rib_once_after_the_announcements_when_settled_and_released() -> None:
    line, a = Line(), peer(families=BOTH)
    line.change({BLOCK: HERE})
    line.join(a)
    line.settle()
    assert line.heard(a) == texts([BLOCK]), "the resources are not whole yet"
    line.it.release_end_of_rib()
    line.settle(settled=False)
    line.change({OTHER: HERE})
    assert line.heard(a) == texts([OTHER]), "the router is still deciding"
    line.settle()
    assert line.heard(a) == ["end of ipv4", "end of ipv6"]
    line.it.release_end_of_rib()
    line.it.resume_sending(a)
    line.it.refresh(a, V4)
    line.settle()
    assert sorted(line.heard(a)) == texts([BLOCK, OTHER])


def test_end_of_rib_of_a_slow_reader_waits_until_it_caught_up() -> None:
    line, slow = Line(), peer()
    table = many(CHUNK + 1)
    line.it.release_end_of_rib()
    line.change(dict.fromkeys(table, HERE))
    line.join(slow)
    line.full.add(slow)
    line.settle()
    assert "end of ipv4" not in line.heard(slow)
    line.full.clear()
    line.it.resume_sending(slow)
    line.settle()
    assert line.heard(slow) == [*texts(table[CHUNK:]), "end of ipv4"]


def test_an_empty_table_ends_too() -> None:
    line, a = Line(), peer(families=[V6])
    line.it.release_end_of_rib()
    line.join(a)
    line.settle()
    assert line.heard(a) == ["end of ipv6"]


def test_a_family_that_we_have_no_next_hop_for_ends_at_once() -> None:
    """The peer waits for it: its start would not be over for 45 seconds."""
    line, a = Line(), peer(families=BOTH)
    line.it.release_end_of_rib()
    line.join_groups(a, {V4: update_group(table={BLOCK: HERE})})
    line.settle()
    assert sorted(line.heard(a)) == [*texts([BLOCK]), "end of ipv4", "end of ipv6"]
    assert line.it.advertised(a.id, V6) == 0
    line.leave(a)


def test_sessions_that_come_together_share_distinct_attribute_sets_too(encodings: list[int]) -> None:
    """A turn has time to encode for one of them only; the others are sent the same octets in the next."""
    line, crowd = Line(), [peer(f"10.1.0.{n}") for n in range(8)]
    table = {prefix: out(number) for number, prefix in enumerate(many(1000), 1)}
    line.join(peer("10.0.1.1"))
    line.change(table)
    line.settle()
    encodings.clear()
    line.join(*crowd)
    line.settle()
    assert len(encodings) == len(table)
    assert all(sorted(line.heard(each)) == sorted(texts(table)) for each in crowd)
    assert not line.it._encoded, "nothing is kept for nobody"


def test_what_is_kept_for_others_is_not_what_was_before_a_change() -> None:
    line, a, b = Line(), peer("10.0.1.1"), peer("10.0.1.2")
    table = {prefix: out(number) for number, prefix in enumerate(many(1000), 1)}
    first = next(iter(table))
    line.join(a)
    line.change(table)
    while not line.it._encoded:  # the first part of it
        line.it.work(True)
    assert line.it.queue_length(a.id) > 0 and line.it._encoded
    line.change({first: out(5000)})
    line.join(b)
    line.settle()
    for each in (a, b):
        events: list[RibEvent] = []
        framer, decoder = Framer(), Decoder(each)
        framer.feed(b"".join(line.sent[each]))
        while (taken := framer.take()) is not None:
            decoder.decode(taken[1], events)
        newest = [event for event in events if isinstance(event, Announce) and first in event.prefixes][-1]
        assert newest.path.attributes.as_path == out(5000).attributes.as_path, each.id


# Whom we send what.


def test_nothing_is_sent_to_its_source() -> None:
    line, a, b = Line(), peer("10.0.1.1"), peer("10.0.1.2")
    of_a, of_b = Out(HERE.attributes, ME, a.id), Out(HERE.attributes, ME, b.id)
    line.join(a, b)
    line.change({BLOCK: of_a, OTHER: HERE})
    assert line.heard(a) == texts([OTHER])
    assert line.heard(b) == texts([BLOCK, OTHER])
    assert (line.it.advertised(a.id, V4), line.it.advertised(b.id, V4)) == (1, 2)
    line.change({BLOCK: of_b})
    assert line.heard(a) == texts([BLOCK])
    assert line.heard(b) == texts([BLOCK], "-"), "it was sent, and is the source now"
    assert (line.it.advertised(a.id, V4), line.it.advertised(b.id, V4)) == (2, 1)
    line.change({BLOCK: None})
    assert line.heard(a) == texts([BLOCK], "-")
    assert line.heard(b) == []
    line.change({BLOCK: of_a})
    late = again(a)
    line.join(late)
    line.settle()
    assert line.heard(late) == texts([OTHER]), "nor is its next session"


def test_nothing_is_sent_to_the_peer_that_is_its_next_hop() -> None:
    """RFC 4271 §5.1.3: of this node's own routes and of those of others."""
    line, a, b, c = Line(), peer("10.0.1.1"), peer("10.0.1.2"), peer("10.0.1.3")
    over_a = Out(HERE.attributes, a.config.address, None)
    line.join(a, b)
    line.settle()
    line.change({BLOCK: over_a, OTHER: over_a._replace(source=b.id), THIRD: over_a._replace(source=a.id)})
    assert line.heard(a) == []
    assert line.heard(b) == texts([BLOCK, THIRD])
    assert (line.it.advertised(a.id, V4), line.it.advertised(b.id, V4)) == (0, 2)
    late = again(a)
    line.join(late, c)
    line.settle()
    assert line.heard(late) == []
    assert line.heard(c) == texts([BLOCK, OTHER, THIRD])
    line.change({BLOCK: HERE})
    assert line.heard(late) == texts([BLOCK])
    line.change({BLOCK: over_a})
    assert line.heard(late) == texts([BLOCK], "-"), "it was sent, and is the next hop now"
    (left,) = line.it.freeze(late).values()
    assert left.never == {BLOCK, OTHER, THIRD}


def test_refresh_sends_all_again_to_one() -> None:
    line, a, b = Line(), peer("10.0.1.1"), peer("10.0.1.2")
    line.join(a, b)
    line.change({BLOCK: HERE, OTHER: HERE})
    line.heard(a)
    line.heard(b)
    assert line.it.refresh(a, V4)
    assert not line.it.refresh(a, V6)
    line.settle()
    assert line.heard(a) == texts([BLOCK, OTHER])
    assert line.heard(b) == []


def test_two_families_of_one_session() -> None:
    line, a = Line(), peer(families=BOTH)
    line.join(a)
    line.change({pfx("fd00:48::/122"): Out(HERE.attributes, ME6, None)}, V6)
    line.change({BLOCK: HERE})
    assert line.heard(a) == ["+fd00:48::/122", "+10.48.0.0/26"]
    line.change({pfx("fd00:48::/122"): None}, V6)
    assert line.heard(a) == ["-fd00:48::/122"]
    assert (line.it.advertised(a.id, V4), line.it.advertised(a.id, V6)) == (1, 0)


def test_attributes_too_large_for_a_message_are_a_withdrawal() -> None:
    line, a = Line(), peer()
    line.join(a)
    line.change({BLOCK: HERE})
    line.heard(a)
    huge = Attributes(local_pref=100, large_communities=tuple((n, n, n) for n in range(340)))
    line.change({BLOCK: Out(huge, addr("10.0.1.20"), None), OTHER: HERE})
    assert line.heard(a) == [*texts([OTHER]), *texts([BLOCK], "-")]


# Another policy.


def moved(line: Line, by: Peer, table: dict[Prefix, Out]) -> UpdateGroup:
    """A session is put into another group, which has this table."""
    group = update_group(table=table)
    line.move(by, {V4: group})
    return group


def test_a_moved_session_is_sent_the_difference_once_the_tables_are_whole() -> None:
    line, one, other = Line(), peer("10.0.1.30"), peer("10.0.1.31")
    same, gone, changed, new = (pfx(f"10.48.{n}.0/26") for n in range(4))
    line.join(one, other)
    line.change({same: out(1), gone: out(1), changed: out(1)})
    line.settle()
    line.heard(one), line.heard(other)
    other_group = moved(line, one, {})
    line.settle(settled=False)
    assert line.heard(one) == [], "the new table is not whole: nothing is withdrawn meanwhile"
    line.change({same: out(1), changed: out(2)}, group=other_group)
    line.change({new: out(1)}, group=other_group)
    line.settle()
    assert sorted(line.heard(one)) == ["+10.48.2.0/26", "+10.48.3.0/26", "-10.48.1.0/26"]
    line.change({gone: None})
    line.settle()
    assert (line.heard(one), line.heard(other)) == ([], ["-10.48.1.0/26"])
    assert line.it.advertised(one.id, V4) == 3


def test_a_policy_that_changes_one_family_leaves_the_other_of_the_session() -> None:
    line, a = Line(), peer(families=BOTH)
    six, other_six = pfx("fd00:48::/122"), pfx("fd00:48::40/122")
    line.it.release_end_of_rib()
    line.join(a)
    line.change({BLOCK: HERE, OTHER: HERE})
    line.change({six: Out(HERE.attributes, ME6, None)}, V6)
    line.settle()
    line.heard(a)
    line.move(a, {V4: update_group(table={BLOCK: HERE, THIRD: HERE}), V6: line.groups[V6]})
    line.settle(settled=False)
    line.change({other_six: Out(HERE.attributes, ME6, None)}, V6)
    assert line.heard(a) == ["+fd00:48::40/122"], "the other family does not wait for the tables"
    line.settle()
    assert line.heard(a) == [*texts([THIRD]), *texts([OTHER], "-")], "and is not sent again"
    line.change({OTHER: HERE})
    line.change({six: None}, V6)
    assert line.heard(a) == ["-fd00:48::/122"], "of the old group nothing, of the other family all"
    assert (line.it.advertised(a.id, V4), line.it.advertised(a.id, V6)) == (2, 1)


def test_a_policy_that_changes_the_second_family_only() -> None:
    line, a = Line(), peer(families=BOTH)
    six, other_six = pfx("fd00:48::/122"), pfx("fd00:48::40/122")
    line.join(a)
    line.change({BLOCK: HERE})
    line.change({six: Out(HERE.attributes, ME6, None)}, V6)
    line.settle()
    line.heard(a)
    six_only = update_group(V6, {other_six: Out(HERE.attributes, ME6, None)})
    line.move(a, {V4: line.groups[V4], V6: six_only})
    line.settle()
    assert line.heard(a) == ["+fd00:48::40/122", "-fd00:48::/122"]


@pytest.mark.parametrize("moved_first", [False, True])
def test_a_refresh_and_a_move_in_either_order_end_with_the_new_table(moved_first: bool) -> None:
    line, a = Line(), replace(peer(), enhanced_refresh=True)
    old = many(2 * CHUNK)
    line.it.release_end_of_rib()
    line.join(a)
    line.change(dict.fromkeys(old, HERE))
    line.settle()
    line.heard(a)
    new = dict.fromkeys([*old[:5], BLOCK], HERE)
    if moved_first:
        moved(line, a, new)
        line.it.refresh(a, V4)
    else:
        line.it.refresh(a, V4)
        line.it.work(settled=True)
        moved(line, a, new)
    line.settle()
    octets = b"".join(line.sent[a])
    assert list(message_types(octets)).count(5) == 2, "a begin and an end"
    advertised: set[str] = set(texts(old, ""))
    updates = Framer()
    updates.feed(octets)
    line.sent[a] = [message(kind, body) for kind, body in iter(updates.take, None) if kind == 2]  # type: ignore[misc]
    for word in line.heard(a):
        (advertised.add if word[0] == "+" else advertised.discard)(word[1:])
    assert advertised == set(texts(new, ""))
    assert line.it.queue_length(a.id) == 0


def test_a_session_moved_while_it_was_behind_ends_with_the_new_table() -> None:
    line, one = Line(), peer("10.0.1.30")
    a, b, c = (pfx(f"10.48.{n}.0/26") for n in range(3))
    line.join(one)
    line.change({a: out(1)})
    line.settle()
    line.full.add(one)
    line.change({c: out(1)})
    line.change({b: out(1)})
    line.heard(one)
    first: dict[Prefix, Out] = {a: out(2), b: out(1)}
    moved(line, one, first)
    second: dict[Prefix, Out] = {b: out(1), a: out(1)}
    moved(line, one, second)
    line.full.clear()
    line.it.resume_sending(one)
    line.settle()
    assert set(line.heard(one)) >= {"+10.48.1.0/26", "-10.48.2.0/26"}
    assert line.it.queue_length(one.id) == 0


def test_what_changed_and_changed_back_while_a_moved_session_catches_up() -> None:
    """The table that it was sent before must not be believed for what it was sent since."""
    line, one = Line(), peer("10.0.1.30")
    all_of_it = many(3 * CHUNK)
    first = all_of_it[0]
    line.join(one)
    line.change({prefix: out(1) for prefix in all_of_it})
    line.settle()
    line.heard(one)
    group = moved(line, one, {prefix: out(2) for prefix in all_of_it})
    assert line.it.work(settled=True)
    assert texts([first])[0] in line.heard(one)
    line.change({first: out(1)}, group=group)
    line.settle()
    assert texts([first])[0] in line.heard(one)


def test_the_answer_to_a_refresh_is_framed_where_the_peer_knows_that() -> None:
    line = Line()
    knows, plain = replace(peer("10.0.1.30"), enhanced_refresh=True), peer("10.0.1.31")
    line.join(knows, plain)
    line.it.release_end_of_rib()
    line.change({pfx("10.48.0.0/26"): out(1)})
    line.settle()
    for each in (knows, plain):
        line.sent.pop(each)
        line.it.refresh(each, V4)
    line.settle()
    kinds = {each: list(message_types(b"".join(line.sent[each]))) for each in (knows, plain)}
    assert kinds == {knows: [5, 2, 5], plain: [2]}
    octets = b"".join(line.sent[knows])
    assert (octets[21], octets[-2]) == (1, 2), "begin, end"


def test_an_empty_refresh_ends_too_once_the_socket_takes_more() -> None:
    """The other family of the session may have filled it."""
    line, knows = Line(), replace(peer(), enhanced_refresh=True)
    line.join(knows)
    line.it.release_end_of_rib()
    line.settle()
    line.sent.pop(knows)
    line.full.add(knows)
    line.it.refresh(knows, V4)
    line.settle()
    line.full.discard(knows)
    line.it.resume_sending(knows)
    line.settle()
    assert list(message_types(b"".join(line.sent[knows]))) == [5, 5]


def test_a_link_local_address_of_ours_goes_beside_our_own_next_hop_only() -> None:
    line = Line()
    on_link = peer("fe80::30", families=[V6])
    on_link = replace(on_link, local_address=addr("fe80::20"))
    ours, theirs = pfx("fd00:48::/122"), pfx("fd00:49::/122")
    line.join(on_link)
    own = on_link.next_hop(V6)
    assert own is not None
    attrs = attributes(local_pref=100)
    line.change({ours: Out(attrs, own, None), theirs: Out(attrs, addr("fd00::99"), None)}, V6)
    line.settle()
    octets = b"".join(line.sent[on_link])
    assert bytes((32,)) + own + addr("fe80::20") in octets
    assert bytes((16,)) + addr("fd00::99") + b"\0" in octets


def test_identifiers_of_paths_are_part_of_what_is_sent() -> None:
    line = Line()
    several = replace(peer("10.0.1.30"), add_path_send=frozenset({V4}))
    line.join(several)
    first, second = (Prefix(number.to_bytes(4, "big") + pfx("10.48.0.0/26")) for number in (1, 2))
    line.change({first: out(1), second: out(2)})
    line.settle()
    assert b"".join(line.sent[several]).count(first) == 1
    assert line.it.has_advertised(several.id, V4, pfx("10.48.0.0/26"))
    line.full.add(several)
    line.change({first: out(3)})
    line.change({second: None})
    assert not line.it.has_advertised(several.id, V4, pfx("10.48.0.0/26"))


# What one session may cost the others.


def counted_refreshes(line: Line, by: Peer, count: int, between: int) -> None:
    """Refreshes, and a turn of work after each ``between`` of them."""
    for number in range(count):
        line.it.refresh(by, V4)
        if number % between == between - 1:
            line.it.work(settled=True)


@pytest.mark.parametrize("enhanced", [False, True])
@pytest.mark.parametrize("between", [1500, 250])
def test_a_burst_of_refreshes_is_at_most_one_walk_and_one_more(
    encodings: list[int], between: int, enhanced: bool
) -> None:
    line, a = Line(), replace(peer(), enhanced_refresh=enhanced)
    line.change(dict.fromkeys(many(50_000), HERE))
    line.it.release_end_of_rib()
    line.join(a)
    line.settle()
    encodings.clear()
    line.sent.clear()
    counted_refreshes(line, a, 1500, between)
    line.settle()
    walks = sum(encodings) / 50_000
    assert walks == (1 if between == 1500 else 2)
    kinds = list(message_types(b"".join(line.sent[a])))
    assert kinds.count(5) == (2 * walks if enhanced else 0), "each begins and ends"


def test_a_refresh_that_begins_costs_nothing_before_its_turn() -> None:
    """Not the table's size: all that ``refresh`` does is to note it."""

    class Table(dict[Prefix, Out]):
        walks = 0

        def __iter__(self) -> Any:
            self.walks += 1
            return super().__iter__()

    line, a, b = Line(), peer("10.0.1.1"), peer("10.0.1.2")
    table = Table(dict.fromkeys(many(100), HERE))
    line.groups[V4] = update_group(table=table)
    line.join(a, b)
    line.settle()
    assert table.walks == 1, "one list for both"
    for _ in range(100):
        line.it.refresh(a, V4)
        line.it.refresh(b, V4)
    assert table.walks == 1
    line.settle()
    assert table.walks == 1, "nothing changed since"
    assert line.it.advertised(a.id, V4) == 100


def test_a_refresh_takes_turns_with_the_others() -> None:
    line, noisy, quiet = Line(), peer("10.0.1.1"), peer("10.0.1.2")
    line.change(dict.fromkeys(many(10 * CHUNK), HERE))
    line.it.release_end_of_rib()
    line.join(noisy)
    line.settle()
    line.it.refresh(noisy, V4)
    line.it.work(settled=True)
    line.join(quiet)
    turns = 0
    while line.it.queue_length(quiet.id):
        line.it.refresh(noisy, V4)
        line.it.work(settled=True)
        turns += 1
    assert turns <= 11


def test_a_withdrawal_during_a_walk_is_advertised_after_it() -> None:
    line, a = Line(), peer()
    table = many(2 * CHUNK)
    line.change(dict.fromkeys(table, HERE))
    line.join(a)
    line.it.work(settled=True)
    line.change({table[0]: None, table[-1]: None, BLOCK: HERE})
    line.settle()
    words = line.heard(a)
    assert words[-1] == texts(table[:1], "-")[0] or words[-2] == texts(table[:1], "-")[0]
    assert "+" not in "".join(words[-2:])
    advertised = {word[1:] for word in words if word[0] == "+"} - {
        word[1:] for word in words if word[0] == "-"
    }
    assert advertised == {prefix_text(V4, prefix) for prefix in [*table[1:-1], BLOCK]}
    assert line.it.advertised(a.id, V4) == len(advertised)


def test_many_attribute_sets_make_small_chunks(encodings: list[int]) -> None:
    """An attribute set costs as much as a hundred prefixes: 4,096 of them would hold the loop a quarter of a second."""
    line, a = Line(), peer()
    table = many(2000)
    line.tables[V4].update({prefix: out(number + 1) for number, prefix in enumerate(table)})
    line.join(a)
    line.it.work(settled=True)
    assert 100 <= len(encodings) <= 200
    line.settle()
    assert sorted(line.heard(a)) == sorted(texts(table))


def test_sets_that_take_turns_in_a_table_are_encoded_once_a_chunk(encodings: list[int]) -> None:
    line, a = Line(), peer()
    line.tables[V4].update({prefix: out(number % 50 + 1) for number, prefix in enumerate(many(2 * CHUNK))})
    line.join(a)
    line.settle()
    assert len(encodings) == 100


def test_a_change_of_many_attribute_sets_is_sliced(encodings: list[int]) -> None:
    line, crowd = Line(), [peer(f"10.0.1.{n}") for n in range(1, 4)]
    line.join(*crowd)
    line.settle()
    table = many(2000)
    line.change({prefix: out(number + 1) for number, prefix in enumerate(table)})
    assert encodings == []
    slices = [len(encodings)]
    while line.it.work(settled=True):
        slices.append(len(encodings))
    assert max(after - before for before, after in pairwise(slices)) <= 400
    for each in crowd:
        assert sorted(line.heard(each)) == sorted(texts(table))
    line.change({BLOCK: HERE})
    assert line.heard(crowd[0]) == texts([BLOCK]), "on the common road again"


def test_a_turn_ends_by_the_clock_and_the_next_begins_with_the_others() -> None:
    now = [0.0]
    line = Line()

    def clock() -> float:
        now[0] += 0.003
        return now[0]

    line.it = Outbound(line.send, clock=clock)
    crowd = [peer(f"10.0.1.{n}") for n in range(1, 11)]
    line.change({BLOCK: HERE})
    line.join(*crowd)
    line.it.release_end_of_rib()
    turns = 1
    while line.it.work(settled=True):
        turns += 1
        assert turns < 100
    assert turns >= 5
    assert all(line.heard(each) == [*texts([BLOCK]), "end of ipv4"] for each in crowd)
