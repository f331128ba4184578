"""Sessions from one process to the next: frozen anywhere, thawed the same; whatever is wrong costs what it concerns."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bgpd.bgp.connection import Connection, Resumed, Routes
from bgpd.bgp.frozen import Ends, FrozenRib, FrozenSession, Unfit, differences
from bgpd.bgp.handover import Document, Inherited, boot_id, decode, earlier, encode, encode_received
from bgpd.bgp.member import UNKNOWN
from bgpd.bgp.session import Ended, Session
from bgpd.bgp.wire.exa.messages import KEEPALIVE_MESSAGE
from bgpd.bgp.wire.update import encode_announcements, encode_withdrawals, end_of_rib
from bgpd.daemon.upgrade import unit_of
from bgpd.model.peer import PeerConfig, PeerId
from bgpd.model.prefix import Prefix, prefix_text
from bgpd.model.route import Announce, EndOfRib, Out, Withdraw
from bgpd.model.route import Path as Route
from bgpd.model.status import SessionState
from bgpd.observe.sdnotify import Notifier, stored
from tests.unit.builders import ME, V4, Line, again, attributes, peer, pfx
from tests.unit.test_session import CONFIG, THEM, US, dial, make, up

SALT = b"salt" * 4
ENDS = Ends(("10.0.1.31", 40000, 0), ("10.0.1.30", 179, 0))
BLOCK, OTHER, THIRD = pfx("10.48.0.0/26"), pfx("10.48.0.64/26"), pfx("10.48.0.128/26")
STREAM = b"".join(
    (
        *encode_announcements(V4, attributes(local_pref=100), THEM, [BLOCK, OTHER], True),
        KEEPALIVE_MESSAGE,
        *encode_withdrawals(V4, [OTHER]),
        *encode_announcements(V4, attributes(7, local_pref=100), THEM, [THIRD], True),
        end_of_rib(V4),
        KEEPALIVE_MESSAGE,
    )
)


def established(config: PeerConfig = CONFIG, now: float = 0.0) -> tuple[Session, Connection]:
    session = make(config)
    connection = dial(session, now)
    up(session, connection, now)
    session.events()
    connection.data_to_send()
    return session, connection


def freeze(
    session: Session, now: float = 0.0, unsent: bytes = b"", rib: FrozenRib | None = None
) -> FrozenSession:
    found = session.freeze(ENDS, SALT, 1e9, unsent, {} if rib is None else {V4: rib}, now)
    assert found is not None
    return found


def carried(frozen: FrozenSession) -> FrozenSession:
    """As another process reads it."""
    document = decode(encode(Document(1.0, "boot", SALT, [frozen])))
    assert not document.unfit
    return document.sessions[0]


def thaw(
    frozen: FrozenSession, config: PeerConfig = CONFIG, now: float = 100.0
) -> tuple[Session, Connection]:
    session = make(config, restarted=True, now=now)
    session.take_thaw()
    return session, session.thaw(frozen, SALT, US, now)


def learned(session: Session, now: float) -> dict[str, int | None]:
    """What the events of a session leave: prefix -> its MED, which here says which attributes; and End-of-RIB."""
    found: dict[str, int | None] = {}
    for event in session.events():
        assert not isinstance(event, Ended)
        if isinstance(event, Routes):
            for each in event.events:
                if isinstance(each, Announce):
                    found.update(dict.fromkeys((prefix_text(V4, p) for p in each.prefixes), 1))
                elif isinstance(each, Withdraw):
                    for prefix in each.prefixes:
                        found.pop(prefix_text(V4, prefix), None)
                elif isinstance(each, EndOfRib):
                    found["end"] = None
    return found


@pytest.mark.parametrize("cut", range(len(STREAM) + 1))
def test_a_session_frozen_at_any_octet_hears_what_it_would_have_heard(cut: int) -> None:
    whole, connection = established()
    whole.receive(connection, STREAM, 1.0)
    before, connection = established()
    before.receive(connection, STREAM[:cut], 1.0)
    heard = learned(before, 1.0)
    after, thawed = thaw(carried(freeze(before, 1.0)), now=1.5)
    after.receive(thawed, STREAM[cut:], 1.5)
    events = after.events()
    assert isinstance(events[0], Resumed)
    after._events = events
    later = learned(after, 1.5)
    if prefix_text(V4, OTHER) not in later and cut:
        heard.pop(prefix_text(V4, OTHER), None)
    assert {**heard, **later} == learned(whole, 1.0)
    assert after.counters.received == whole.counters.received
    assert thawed.ended == {V4}


@given(st.integers(0, len(STREAM)), st.integers(0, len(STREAM)), st.binary(max_size=40), st.booleans())
@settings(max_examples=60)
def test_octets_survive_one_upgrade_after_another(
    first: int, second: int, unsent: bytes, restarted: bool
) -> None:
    first, second = sorted((first, second))
    session, connection = established()
    session.receive(connection, STREAM[:first], 1.0)
    for now, part in ((2.0, STREAM[first:second]), (3.0, STREAM[second:])):
        frozen = carried(freeze(session, now, unsent))
        assert frozen.connection.unsent == unsent
        session, connection = thaw(frozen, now=now)
        octets = connection.data_to_send()
        assert octets == unsent + KEEPALIVE_MESSAGE, "what TCP had not taken goes first"
        session.receive(connection, part, now)
        unsent = b""
    assert session.counters.received["UPDATE"] == 4
    assert connection.closure is None and session.state is SessionState.ESTABLISHED


def test_what_was_negotiated_follows_from_the_opens() -> None:
    session, connection = established()
    after, thawed = thaw(carried(freeze(session, 5.0)))
    was, now = connection.peer, thawed.peer
    assert was is not None and now is not None and was is not now
    for name in type(was).__slots__:
        assert getattr(now, name) == getattr(was, name), name
    assert thawed.sent_open == connection.sent_open and thawed.received_open == connection.received_open
    assert thawed.established_at == 95.0 and thawed.outgoing
    assert not after.take_dial(1000.0)


def test_a_silent_peer_is_not_given_more_time() -> None:
    session, _ = established()
    _, thawed = thaw(carried(freeze(session, 60.0)))
    deadline = 100.0 - 60.0 + 90.0
    thawed._keepalive_at = None
    assert thawed.next_deadline() == deadline
    _, thawed = thaw(carried(freeze(session, 89.9)), now=100.0)
    thawed._keepalive_at = None
    assert thawed.next_deadline() == 101.0, "what it sent meanwhile waits to be read"


def test_history_goes_along() -> None:
    session, connection = established()
    session.tcp_lost(connection, "the peer closed the connection", 5.0)
    session.events()
    connection = dial(session, 10.0)
    up(session, connection, 10.0)
    after, _ = thaw(carried(freeze(session, 20.0)))
    assert after.flaps == {"tcp": 1} and after.fall.text == session.fall.text
    assert after.fall.at == 100.0 - (20.0 - session.fall.at)
    assert after.counters.sent["OPEN"] == 2 and after.counters.received == session.counters.received


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hold_time": 30.0}, "hold_time"),
        ({"asn": 65001}, "asn"),
        ({"password": "another"}, "password"),
        ({"password": None}, "password"),
        ({"add_path": False, "ttl_security": 1}, "ttl_security, add_path"),
    ],
)
def test_a_configuration_that_needs_a_new_session(changes: dict[str, Any], words: str) -> None:
    config = replace(CONFIG, password="secret")
    session, _ = established(config)
    frozen = carried(freeze(session))
    with pytest.raises(Unfit, match=f"configured otherwise: {words}"):
        thaw(frozen, replace(config, **changes))
    thaw(frozen, replace(config, passive=True, max_prefixes=7, source="Node other"))
    assert differences(frozen.config, replace(config, password="secret"), b"another salt") == ("password",)


def test_no_secret_is_in_it() -> None:
    session, _ = established(replace(CONFIG, password="hunter2-hunter2"))
    assert b"hunter2" not in encode(Document(1.0, "boot", SALT, [freeze(session)]))


def test_adj_rib_in_comes_along_where_it_cannot_be_asked_for() -> None:
    session, connection = established()
    session.receive(connection, STREAM, 1.0)
    assert connection.peer is not None
    path = Route(connection.peer, attributes(local_pref=100), THEM)
    stale = path._replace(attributes=attributes(9, local_pref=100))
    octets = encode_received(
        connection.peer, V4, [(BLOCK, path, False), (THIRD, path, False), (OTHER, stale, True)], True
    )
    after, thawed = thaw(carried(freeze(session, 1.0, rib=FrozenRib(received=octets))))
    assert not thawed.ended, "it is read as if the peer sent it"
    after.work(100.0)
    assert learned(after, 100.0).keys() == {prefix_text(V4, BLOCK), prefix_text(V4, THIRD), "end"}
    assert after.counters.received == session.counters.received, "and counted once"
    for broken in (octets[:-1], b"\0" * 40):
        with pytest.raises(Unfit, match="received: "):
            thaw(carried(freeze(session, 1.0, rib=FrozenRib(received=broken))))


# The document.


def document() -> dict[str, Any]:
    session, _ = established()
    octets = encode(Document(1.0, "boot", SALT, [freeze(session, rib=FrozenRib())]))
    found: dict[str, Any] = json.loads(octets.partition(b"\n")[2])
    return found


def written(content: Any) -> bytes:
    """A document with another content, and its digest."""
    import hashlib

    body = json.dumps(content).encode()
    return b"bgpd-handover 1 %s\n" % hashlib.blake2b(body, digest_size=16).hexdigest().encode() + body


def test_a_broken_session_costs_itself_only() -> None:
    content = document()
    good = content["sessions"][0]
    broken: list[Any] = [{**good, "peer": f"p{number}"} for number in range(8)]
    broken[0]["sent_open"] = "not base64"
    broken[1]["local"] = ["10.0.0.1"]
    broken[2]["up_seconds"] = float("inf")
    broken[3]["families"] = {"ipv4": {**good["families"]["ipv4"], "group": 3}}
    broken[4]["notifications"] = [["sent", 1]]
    broken[5]["families"] = {"ipx": {}}
    broken[6]["ended"] = [[]]
    del broken[7]["config"]
    content["sessions"] = [*broken, 5, good]
    found = decode(written(content))
    assert [session.peer for session in found.sessions] == [CONFIG.id]
    assert found.unfit.keys() == {*(f"p{number}" for number in range(8)), "session 8"}


@pytest.mark.parametrize(
    ("octets", "words"),
    [
        (b"", "no state"),
        (b"bgpd-handover 2 00\n{}", "version 2, expected 1"),
        (b"bgpd-handover 1 00\n{}", "digest differs"),
        (written([]), "expected an object"),
        (written({}), "groups: expected a list"),
        (written({**document(), "salt": "zz"}), "salt"),
        (written({**document(), "salt": "00" * 65}), "salt"),
        (written({**document(), "path_ids": {"ipv4": [["a", 0, 0]]}}), "path_ids"),
        (written({**document(), "path_ids": {"ipv4": [["a", 0, 1], ["b", 0, 1]]}}), "path_ids"),
        (written({**document(), "keys": {"a": [1]}}), "keys"),
        (
            written(
                {**document(), "groups": [{"family": "ipv4", "add_path": False, "digests": {"00": "/w=="}}]}
            ),
            "NLRI",
        ),
    ],
)
def test_a_document_that_cannot_be_used(octets: bytes, words: str) -> None:
    with pytest.raises(Unfit, match=words):
        decode(octets)


leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8))
trees = st.recursive(
    leaves,
    lambda of: st.lists(of, max_size=3) | st.dictionaries(st.text(max_size=4), of, max_size=3),
    max_leaves=5,
)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_hostile_values_are_unfit_or_close_one_session(data: st.DataObject) -> None:
    """Any value anywhere: nothing but ``Unfit`` comes out, and a session that was taken goes on or ends by itself."""
    content = document()
    where: Any = content
    for _ in range(data.draw(st.integers(0, 4))):
        keys = (
            list(where)
            if isinstance(where, dict)
            else list(range(len(where)))
            if isinstance(where, list)
            else []
        )
        inner = [key for key in keys if isinstance(where[key], dict | list) and where[key]]
        if not inner:
            break
        where = where[data.draw(st.sampled_from(inner))]
    keys = list(where) if isinstance(where, dict) else list(range(len(where)))
    where[data.draw(st.sampled_from(keys))] = data.draw(trees)
    try:
        found = decode(written(content))
        for frozen in found.sessions:
            session, connection = thaw(frozen)
            session.receive(connection, STREAM, 100.0)
            session.tick(101.0)
            connection.data_to_send()
            earlier(found, frozen)
    except Unfit:
        pass


# Sockets that wait.


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Ours, and the peer's."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        ours = socket.create_connection(listening.getsockname())
        theirs, _ = listening.accept()
    theirs.settimeout(5)
    with ours, theirs:
        yield ours, theirs


def inherited(
    ours: socket.socket, now: float = 100.0, at: float = 99.0, unsent: bytes = b"", **changes: Any
) -> Inherited:
    from bgpd.bgp.frozen import ends_of

    session, _ = established()
    frozen = replace(freeze(session, unsent=unsent), ends=ends_of(ours), **changes)
    return Inherited(Document(at, boot_id(), SALT, [frozen]), [ours.dup()], now)


def test_sessions_that_wait_are_kept_alive(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    waits = inherited(ours, unsent=b"the rest of it")
    assert theirs.recv(100) == b"the rest of it" + KEEPALIVE_MESSAGE
    waits.keep_alive(110.0)
    waits.keep_alive(130.0)
    assert theirs.recv(100) == KEEPALIVE_MESSAGE, "each keepalive time"
    taken = waits.take(CONFIG.id, 131.0)
    assert taken is not None and taken.frozen.connection.unsent == b""
    assert taken.frozen.connection.up_seconds == 32.0 and taken.frozen.connection.silent_seconds == 32.0
    assert waits.take(CONFIG.id, 131.0) is None
    taken.socket.close()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"at": 50.0}, "50.0 s went by, more than half of its hold time of 90 s"),
        ({"at": 101.0}, "another boot"),
        ({"ends": ENDS}, "its socket died, or did not come along"),
    ],
)
def test_sessions_that_cannot_be_taken_fall_back_by_name(
    pair: tuple[socket.socket, socket.socket],
    arguments: dict[str, Any],
    words: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ours, theirs = pair
    changes = dict(arguments)
    ends = changes.pop("ends", None)
    from bgpd.bgp.frozen import ends_of

    session, _ = established()
    frozen = replace(freeze(session), ends=ends or ends_of(ours))
    waits = Inherited(Document(changes.get("at", 99.0), boot_id(), SALT, [frozen]), [ours.dup()], 100.0)
    assert not waits.waiting and waits.expected == 1
    assert f"peer={CONFIG.id}" in caplog.text and words in caplog.text
    ours.close()
    assert theirs.recv(10) == b"", "closed without a NOTIFICATION"


def test_a_peer_that_is_gone_falls_back(
    pair: tuple[socket.socket, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = pair
    waits = inherited(ours)
    theirs.close()
    for now in (140.0, 170.0, 200.0):
        waits.keep_alive(now)
    assert not waits.waiting and "event=session_not_taken_over" in caplog.text


def test_what_nobody_wants_is_dismissed(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    waits = inherited(ours)
    waits.dismiss()
    ours.close()
    octets = b""
    while part := theirs.recv(100):
        octets += part
    assert octets.startswith(KEEPALIVE_MESSAGE) and octets[-3:] == bytes((3, 6, 3)), "Cease: deconfigured"


# What was advertised.


def out(number: int, source: PeerId | None = None) -> Out:
    return Out(attributes(number, local_pref=100), ME, source)


class Upgraded:
    """A line before and one after, with one session."""

    def __init__(self, before: dict[Prefix, Out | None]) -> None:
        self.peer, self.before = peer(), Line()
        self.before.join(self.peer)
        self.before.it.release_end_of_rib()
        self.before.change(before)
        self.before.settle()
        self.before.heard(self.peer)

    def go(self, table: dict[Prefix, Out | None]) -> list[str]:
        """What the session hears of the next process at once, whose table comes to be as here."""
        left = self.before.it.freeze(self.peer)[V4]
        assert left.group is not None
        digests = dict(self.before.it.digests(self.peer, left.group))
        digests.update(dict.fromkeys(left.unsure, UNKNOWN))
        digests.update(left.other)
        for nlri in left.never:
            digests.pop(nlri, None)
        from bgpd.bgp.member import Earlier

        self.after, self.session = Line(), again(self.peer)
        self.after.resume(self.session, {V4: Earlier(digests, left.end_of_rib_due, left.refresh_due)})
        self.after.it.release_end_of_rib()
        self.after.change(table)
        self.after.settle()
        return self.heard()

    def heard(self) -> list[str]:
        return self.after.heard(self.session)

    def over(self) -> list[str]:
        """What it hears once all is heard again."""
        self.after.it.release_resumed()
        self.after.settle()
        return self.heard()


THEIRS = PeerId("Mesh_10_0_1_99")


def test_what_was_advertised_is_not_advertised_again() -> None:
    upgraded = Upgraded({BLOCK: out(1), OTHER: out(2, THEIRS)})
    assert upgraded.go({BLOCK: out(1), OTHER: out(2, THEIRS)}) == []
    assert upgraded.over() == []
    upgraded.after.change({BLOCK: out(3)})
    assert upgraded.heard() == ["+10.48.0.0/26"], "and from then on it hears what changes"


def test_own_routes_that_differ_are_advertised_at_once_and_nothing_is_withdrawn_too_early() -> None:
    upgraded = Upgraded({BLOCK: out(1), OTHER: out(2), THIRD: out(3, THEIRS)})
    assert upgraded.go({BLOCK: out(9)}) == ["+10.48.0.0/26"]
    assert upgraded.over() == ["-10.48.0.64/26", "-10.48.0.128/26"]


def test_learned_routes_wait_until_all_is_heard_again() -> None:
    upgraded = Upgraded({BLOCK: out(1, THEIRS)})
    assert upgraded.go({BLOCK: out(2, THEIRS), OTHER: out(2, THEIRS)}) == []
    upgraded.after.change({BLOCK: out(1, THEIRS), OTHER: None})
    upgraded.after.settle()
    assert upgraded.over() == [], "it was only heard in another order"

    upgraded = Upgraded({BLOCK: out(1, THEIRS)})
    assert upgraded.go({BLOCK: out(2, THEIRS), OTHER: out(2, THEIRS)}) == []
    assert sorted(upgraded.over()) == ["+10.48.0.0/26", "+10.48.0.64/26"]


def test_what_is_heard_again_and_then_withdrawn_is_withdrawn_at_once() -> None:
    upgraded = Upgraded({BLOCK: out(1, THEIRS), OTHER: out(1)})
    assert upgraded.go({BLOCK: out(1, THEIRS), OTHER: out(1)}) == []
    upgraded.after.change({BLOCK: None, OTHER: None})
    upgraded.after.settle()
    assert sorted(upgraded.heard()) == ["-10.48.0.0/26", "-10.48.0.64/26"]


def test_its_own_routes_are_never_sent_to_it() -> None:
    upgraded = Upgraded({BLOCK: out(1, peer().id), OTHER: out(1)})
    assert upgraded.go({BLOCK: out(1, peer().id), OTHER: out(1)}) == []
    assert upgraded.over() == []
    upgraded = Upgraded({BLOCK: out(1, peer().id)})
    assert upgraded.go({}) == [] and upgraded.over() == []


def test_one_upgrade_upon_another() -> None:
    """Frozen again before all was heard: what was sent two processes ago still counts."""
    first = Upgraded({BLOCK: out(1, THEIRS), OTHER: out(2)})
    assert first.go({OTHER: out(2)}) == []
    second = Upgraded({})
    second.before, second.peer = first.after, first.session
    assert second.go({BLOCK: out(1, THEIRS), OTHER: out(2)}) == []
    assert second.over() == []


def test_a_session_that_was_behind_is_sent_what_it_missed() -> None:
    upgraded = Upgraded({BLOCK: out(1)})
    upgraded.before.full.add(upgraded.peer)
    upgraded.before.change({OTHER: out(1)})
    upgraded.before.change({THIRD: out(1), BLOCK: None})
    heard = upgraded.go({OTHER: out(1), THIRD: out(1)})
    assert "+10.48.0.128/26" in heard
    assert upgraded.over() == ["-10.48.0.0/26"]


# The service manager's store.


def test_descriptors_go_into_the_store(tmp_path: Path) -> None:
    here, there = os.pipe()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        end.settimeout(5)
        import threading

        got: list[tuple[bytes, int]] = []

        def manager() -> None:
            while True:
                message, descriptors, _, _ = socket.recv_fds(end, 4096, 253)
                got.append((message, len(descriptors)))
                for descriptor in descriptors:
                    os.close(descriptor)
                if message == b"BARRIER=1":
                    return

        thread = threading.Thread(target=manager)
        thread.start()
        notifier = Notifier(str(tmp_path / "notify"))
        assert notifier.store([here] * 250)
        thread.join()
        assert got == [(b"FDSTORE=1\nFDNAME=bgpd", 200), (b"FDSTORE=1\nFDNAME=bgpd", 50), (b"BARRIER=1", 1)]
        notifier.forget_stored()
        assert end.recv(100) == b"FDSTOREREMOVE=1\nFDNAME=bgpd"
    assert not Notifier(str(tmp_path / "nobody")).store([here])
    assert not Notifier().store([here])
    os.close(here)
    os.close(there)


@pytest.mark.parametrize("environ", [{}, {"LISTEN_PID": "1", "LISTEN_FDS": "2"}, {"LISTEN_FDS": "x"}])
def test_no_descriptors_of_others_are_taken(environ: dict[str, str]) -> None:
    environ = {"LISTEN_PID": str(os.getpid()), **environ} if "x" in environ.values() else environ
    assert stored(environ) == [] and not environ


def test_the_unit_of_a_process() -> None:
    assert unit_of("0::/system.slice/bgpd.service\n") == "bgpd.service"
    assert unit_of("12:pids:/user.slice/session-1.scope\n0::/\n") is None
