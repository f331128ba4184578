"""BFD from configuration and resources to the end of a BGP session, and what the operator sees of it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from bgpd.bfd.speaker import Speaker as Bfd
from bgpd.cli import screens
from bgpd.cli.tables import Look
from bgpd.config.config import Config
from bgpd.config.reading import ConfigError, parse, parse_bfd
from bgpd.daemon.liveness import Liveness
from bgpd.datastore.calico.decode import Decoded, decode
from bgpd.model.bfd import BfdChange, BfdOptions, BfdPlace, BfdState, BfdTiming, BfdWanted, FrozenBfd
from bgpd.model.peer import DownReason, PeerId
from bgpd.model.prefix import parse_address
from bgpd.model.resources import BGPPeer, Node, Snapshot
from bgpd.observe.as_json import document
from bgpd.observe.metrics import Metrics, Scrape
from bgpd.rules.peering import peers
from tests.unit.fake_views import BFD, FakeViews
from tests.unit.test_session import dial, ended, make, notification, up

FAST = BfdOptions(BfdTiming(100_000, 100_000, 5))


# Configuration.


def test_the_file() -> None:
    config = parse(
        "bgp: {defaults: {bfd: {}}, peers: {192.0.2.2: {bfd: null}, 192.0.2.1: {bfd: "
        "{min_tx: 100ms, min_rx: 1s, multiplier: 5, multihop: true}}}}",
        "x",
    )
    assert config.bgp.defaults.bfd is not None
    assert config.bgp.defaults.bfd.options == BfdOptions()
    near = config.bgp.for_peer(PeerId("a"), parse_address("192.0.2.1")).bfd
    assert near is not None and near.options == BfdOptions(BfdTiming(100_000, 1_000_000, 5), True)
    assert config.bgp.for_peer(PeerId("b"), parse_address("192.0.2.2")).bfd is None
    assert Config().bgp.defaults.bfd is None


@pytest.mark.parametrize(
    ("bfd", "words"),
    [
        ("{min_tx: 300}", "bgp.defaults.bfd.min_tx: expected a time such as 300ms, not 300"),
        ("{min_tx: 1us}", "bgp.defaults.bfd.min_tx: expected 10ms to 60s, not 1us"),
        ("{min_rx: 61s}", "bgp.defaults.bfd.min_rx: expected 10ms to 60s, not 61s"),
        ("{multiplier: 0}", "bgp.defaults.bfd.multiplier"),
        ("{min_txx: 300ms}", "bgp.defaults.bfd.min_txx: unknown key: did you mean min_tx?"),
        ("on", "expected keys and values such as {min_tx: 300ms}, or null"),
        ("{multihop: 1}", "bgp.defaults.bfd.multihop"),
    ],
)
def test_mistakes_in_the_file(bfd: str, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(f"bgp: {{defaults: {{bfd: {bfd}}}}}", "x")
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("{}", BfdOptions()),
        ("{min_tx: 100ms, min_rx: 100ms, multiplier: 5}", FAST),
        ('{"min_tx": "100ms", "min_rx": "100ms", "multiplier": 5}', FAST),
        ("min_tx: 100ms\nmin_rx: 100ms\nmultiplier: 5\n", FAST),
        ("null", None),
    ],
)
def test_the_annotation_has_the_words_of_the_file(text: str, options: BfdOptions | None) -> None:
    assert parse_bfd(text) == options


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("true", "expected keys and values"),
        ("", "expected keys and values"),
        ("{min_tx: 5ms}", "min_tx: expected 10ms to 60s, not 5ms"),
        ("{", "expected keys and values"),
        ("{}\n---\n{}", "expected keys and values"),
        ("[" * 5000, "expected"),
    ],
)
def test_what_the_annotation_is_not(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        parse_bfd(text)


def peer_with(annotation: Any) -> Decoded:
    document = {
        "apiVersion": "projectcalico.org/v3",
        "kind": "BGPPeer",
        "metadata": {"name": "tor", "annotations": {"bgpd/bfd": annotation}},
        "spec": {"peerIP": "192.0.2.1", "asNumber": 65010},
    }
    (found,) = decode(document, "x")
    return found


def test_the_annotation_of_a_bgppeer() -> None:
    found = peer_with("{min_tx: 100ms, min_rx: 100ms, multiplier: 5}")
    assert isinstance(found.resource, BGPPeer)
    assert found.resource.bfd == FAST and found.problems == ()
    off = peer_with("null").resource
    assert isinstance(off, BGPPeer) and off.bfd is False


@pytest.mark.parametrize("value", ["{min_tx: 1ms}", "yes", 5, ["x"], {"min_tx": "100ms"}])
def test_a_bad_annotation_costs_bfd_and_not_the_peer(value: Any) -> None:
    found = peer_with(value)
    assert isinstance(found.resource, BGPPeer)
    assert found.resource.bfd is None
    (problem,) = found.problems
    assert problem.path == "metadata.annotations.bgpd/bfd" and "ignored" in problem.message


@pytest.mark.parametrize(
    ("config", "annotation", "wanted"),
    [
        ("", None, None),
        ("bgp: {defaults: {bfd: {}}}", None, BfdOptions()),
        ("", FAST, FAST),
        ("bgp: {defaults: {bfd: {}}}", FAST, FAST),
        ("bgp: {defaults: {bfd: {}}}", False, None),
        ("bgp: {peers: {192.0.2.1: {bfd: {}}}}", FAST, BfdOptions()),
        ("bgp: {peers: {192.0.2.1: {bfd: null}}}", FAST, None),
    ],
)
def test_whose_word_counts(config: str, annotation: Any, wanted: BfdOptions | None) -> None:
    """The node's on this peer, else the resource's, else the node's on all peers."""
    tor = BGPPeer("tor", peer_ip=parse_address("192.0.2.1"), as_number=65010, bfd=annotation)
    node = Node("worker1", ipv4=parse_address("10.0.1.30"))
    snap = Snapshot(nodes={"worker1": node}, peers={"tor": tor})
    (peer,) = peers(snap, "worker1", parse(f"node: worker1\n{config}", "test")).peers.values()
    assert peer.bfd == wanted


# A session of BGP.


def test_bfd_down_ends_the_session_with_its_own_reason() -> None:
    session = make()
    connection = dial(session)
    up(session, connection)
    session.events()
    assert session.path_down("BFD: detection time expired", False, 20.0) is False
    down = ended(session.events()).down
    assert down.reason is DownReason.BFD
    assert down.message == "NOTIFICATION sent 6/10 BFD Down: BFD: detection time expired"
    assert down.keep == frozenset(), "BGP cannot say beforehand that it restarts (RFC 5882 §4.3.2.2)"
    printed = notification(connection)
    assert (printed.code, printed.subcode) == (6, 10)
    assert session.flaps == {"bfd": 1}
    assert session.take_dial(21.0), "it tries again: the path may be back"


@pytest.mark.parametrize("independent", [False, True])
def test_a_restart_under_way_goes_on_unless_the_forwarding_plane_is_dead(independent: bool) -> None:
    """RFC 5882 §4.3: the C bit decides."""
    session = make()
    connection = dial(session)
    up(session, connection)
    session.tcp_lost(connection, "gone", 20.0)
    assert ended(session.events()).down.keep
    assert session.path_down("BFD: x", independent, 21.0) is independent
    assert (session.stale_until == 0.0) is independent
    assert session.path_down("BFD: x", independent, 22.0) is False or not independent


def test_a_session_that_is_not_up_has_nothing_to_lose() -> None:
    session = make()
    assert session.path_down("BFD: x", True, 1.0) is False
    assert session.events() == [] and not session.flaps


# The wiring.


class FakeSpeaker:
    def __init__(self, abandons: bool = False) -> None:
        self.reported: list[tuple[str, str, bool]] = []
        self.abandons, self.sessions = abandons, self

    def path_down(self, peer: PeerId, reason: str, independent: bool) -> bool:
        self.reported.append((peer, reason, independent))
        return self.abandons


class FakeRouter:
    def __init__(self) -> None:
        self.forgotten: list[str] = []

    def forget_peer(self, peer: PeerId) -> None:
        self.forgotten.append(peer)


def change(**what: Any) -> BfdChange:
    place = BfdPlace(parse_address("192.0.2.1"))
    plain = {
        "up": False,
        "failed": True,
        "reason": "detection time expired",
        "control_plane_independent": False,
    }
    return BfdChange(place=place, peers=(PeerId("a"), PeerId("b")), **(plain | what))


@pytest.mark.parametrize(
    ("what", "abandons", "reported", "forgotten"),
    [
        ({}, False, ["a", "b"], []),
        ({"failed": False, "reason": "administratively down"}, False, [], []),
        ({"up": True, "failed": False}, False, [], []),
        ({"control_plane_independent": True}, True, ["a", "b"], ["a", "b"]),
    ],
)
async def test_what_bfd_says_reaches_the_sessions(
    what: dict[str, Any], abandons: bool, reported: list[str], forgotten: list[str]
) -> None:
    speaker, router, kicks = FakeSpeaker(abandons), FakeRouter(), []
    liveness = Liveness(speaker, None, router, lambda: kicks.append(1))  # type: ignore[arg-type]
    liveness._changed(change(**what))
    assert [peer for peer, _, _ in speaker.reported] == reported
    assert router.forgotten == forgotten
    assert bool(kicks) == bool(reported)


# What the operator sees.


FROZEN = FrozenBfd(
    address="127.0.0.9", min_tx=100_000, min_rx=100_000, multiplier=3, local_discriminator=7, remote_discriminator=9,
    remote_min_tx=100_000, remote_min_rx=100_000, remote_multiplier=3, tx_in_use=100_000, rx_in_use=100_000, ups=4,
    since=1.5,
)._asdict()  # fmt: skip


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"address": "nowhere"},
        {"address": 7},
        {"local_address": "10.0.0.0/8"},
        {"min_tx": 0},
        {"min_rx": -1},
        {"multiplier": 256},
        {"multiplier": True},
        {"remote_min_rx": 1 << 32},
        {"remote_discriminator": 0},
        {"local_discriminator": 1.0},
        {"since": None},
        {"of_a_later_version": 1},
    ],
)
def test_what_another_process_had_goes_on_or_begins_anew(broken: dict[str, Any]) -> None:
    """As JSON brings it; what cannot be read costs its own session only."""
    place = BfdPlace(parse_address("127.0.0.9"))
    wanted = BfdWanted(BfdTiming(200_000, 100_000, 5), False, None, 255, (PeerId("p"),))
    speaker = Bfd(lambda change: None)
    try:
        speaker.inherit(json.loads(json.dumps([FROZEN | broken])))
        speaker.configure({place: wanted})
        (session,) = speaker.report().sessions
    finally:
        speaker.close()
    assert (session.peers, session.address) == (("p",), "127.0.0.9")
    assert session.multiplier == 5, "as it is configured now"
    if broken:
        assert (session.state, session.ups) == (BfdState.DOWN, 0)
    else:
        assert (session.state, session.ups, session.since) == (BfdState.UP, 4, 1.5)
        assert (session.local_discriminator, session.remote_discriminator) == (7, 9)
        assert session.polling, "the peer is informed of what is configured otherwise"


def test_the_screen() -> None:
    (table,) = screens.bfd(document(BFD), Look(now=BFD.sessions[0].since + 60))
    (row,) = table.rows
    words = [cell.text for cell in row]
    assert words[:5] == ["192.0.2.1", "Global_192_0_2_1", "single-hop", "up", "1m00s"]
    assert words[5:] == ["300 ms", "300 ms", "900 ms", "2", "1", ""]


def test_the_screen_without_bfd_says_how_to_have_it() -> None:
    ((words,),) = screens.bfd(document(replace(BFD, sessions=(), worst_delay=0.0)), Look(now=0.0))
    assert "annotation bgpd/bfd" in words.text


def test_the_screen_of_what_is_wrong() -> None:
    down = replace(
        BFD.sessions[0], state=BfdState.DOWN, diagnostic="detection time expired", last_error="why"
    )
    report = replace(BFD, sessions=(down,), worst_delay=0.2, listen_errors=("UDP port 3784 (ipv4): taken",))
    table, error, late = screens.bfd(document(report), Look(now=0.0))
    (row,) = table.rows
    assert row[-1].text == "detection time expired; why"
    assert error[0].text == "Cannot hear at UDP port 3784 (ipv4): taken."
    assert "200 ms late" in late[0].text


def test_the_metrics() -> None:
    text = Metrics().render("", Scrape.of(FakeViews()))[0].decode()
    for line in (
        'bgpd_bfd_session_state{interface="",peer="192.0.2.1"} 3.0',
        'bgpd_bfd_session_up{interface="",peer="192.0.2.1"} 1.0',
        'bgpd_bfd_session_detection_time_seconds{interface="",peer="192.0.2.1"} 0.9',
        'bgpd_bfd_session_downs_total{diagnostic="detection time expired",interface="",peer="192.0.2.1"} 1.0',
        'bgpd_bfd_packets_discarded_total{reason="ttl"} 2.0',
        "bgpd_bfd_worst_delay_seconds 0.012",
    ):
        assert line in text
