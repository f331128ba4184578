"""A node out of service, step by step: what peers are sent at each, and what outlasts a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from bgpd.daemon.drain import STEP_SECONDS, Draining
from bgpd.model.doors import Impossible
from bgpd.model.drain import Drain
from bgpd.model.peer import Peer, PeerPolicy
from bgpd.model.route import BLACKHOLE, Originated, Origination, OriginKind
from bgpd.rules.communities import GRACEFUL_SHUTDOWN
from bgpd.rules.exports import ExportRefusal
from bgpd.rules.policy import RoutePolicy
from tests.unit.builders import V4, Core, announce, attributes, origination, path, peer, pfx

POOL, BLOCK, SERVICE, LEARNED = "10.48.0.0/16", "10.48.0.0/26", "10.96.0.7/32", "10.48.7.0/26"
INTERNAL, EXTERNAL = peer("10.0.1.30"), peer("192.0.2.1", 65001)
SOURCE = peer("192.0.2.9", 65009)


@pytest.fixture
def core() -> Core:
    made = Core().up(INTERNAL, EXTERNAL, SOURCE)
    own = origination(pools=[POOL], blocks=[BLOCK])
    announced = {**own.announce, pfx(SERVICE): Originated(OriginKind.SERVICE, "Service default/web")}
    made.originate(Origination(announced, own.blackholes, own.exported_pools))
    return made.hear(SOURCE, announce(path(SOURCE), LEARNED))


def drained(core: Core, level: Drain) -> None:
    peers = {each.id: PeerPolicy() for each in (INTERNAL, EXTERNAL, SOURCE)}
    core.router.set_policy(RoutePolicy(peers, drain=level))
    core.settle()


def sent(core: Core, to: Peer) -> dict[str, tuple[int | None, bool]]:
    """Prefix -> (LOCAL_PREF, whether it is being shut down)."""
    return {
        prefix: (out.attributes.local_pref, GRACEFUL_SHUTDOWN in out.attributes.communities)
        for prefix, out in core.to(to).items()
    }


IN_SERVICE = {BLOCK: (100, False), SERVICE: (100, False), LEARNED: (100, False)}


def test_each_step_is_what_peers_are_sent_and_no_route_of_the_kernel(core: Core) -> None:
    kernel = core.routes()
    assert sent(core, INTERNAL) == IN_SERVICE
    assert sent(core, EXTERNAL) == dict.fromkeys(IN_SERVICE, (None, False))
    drained(core, Drain.SERVICES)
    assert sent(core, INTERNAL) == {BLOCK: (100, False), LEARNED: (100, False)}
    assert sent(core, EXTERNAL).keys() == {BLOCK, LEARNED}
    drained(core, Drain.ALL)
    assert sent(core, INTERNAL) == {BLOCK: (0, False), LEARNED: (0, False)}, "LOCAL_PREF alone, inside"
    assert sent(core, EXTERNAL) == {BLOCK: (None, True), LEARNED: (None, True)}
    drained(core, Drain.WITHDRAWN)
    assert sent(core, INTERNAL) == sent(core, EXTERNAL) == {}
    for each in (BLOCK, SERVICE, LEARNED):
        (said,) = core.router.explain.export_verdicts(V4, pfx(each), core.router.groups_of(EXTERNAL)[V4])
        assert said.out is ExportRefusal.DRAINED
    assert core.routes() == kernel and kernel[BLOCK] is BLACKHOLE, "it forwards on"
    drained(core, Drain.NONE)
    assert sent(core, INTERNAL) == IN_SERVICE
    assert core.routes() == kernel


def test_a_community_that_is_there_already_is_not_sent_twice(core: Core) -> None:
    core.hear(SOURCE, announce(path(SOURCE, attributes(65009, communities=(GRACEFUL_SHUTDOWN,))), LEARNED))
    drained(core, Drain.ALL)
    assert core.to(EXTERNAL)[LEARNED].attributes.communities == (GRACEFUL_SHUTDOWN,)


# The order.


def levels(draining: Draining, *times: float) -> list[Drain]:
    return [draining.level(at) for at in times]


def test_services_first_then_the_rest_then_nothing(tmp_path: Path) -> None:
    draining = Draining(tmp_path)
    assert draining.level(100.0) is Drain.NONE
    draining.drain(withdraw=False, wait=30.0, keep=True, now=100.0)
    assert levels(draining, 100.0, 100.0 + STEP_SECONDS, 1e6) == [Drain.SERVICES, Drain.ALL, Drain.ALL]
    draining.drain(withdraw=True, wait=30.0, keep=True, now=200.0)
    assert levels(draining, 200.0, 229.0, 231.0) == [Drain.ALL, Drain.ALL, Drain.WITHDRAWN]
    draining.undrain()
    assert draining.level(300.0) is Drain.NONE


def test_an_order_that_comes_twice_brings_nothing_back(tmp_path: Path) -> None:
    draining = Draining(tmp_path)
    draining.drain(withdraw=True, wait=5.0, keep=True, now=100.0)
    assert draining.level(107.0) is Drain.WITHDRAWN
    draining.drain(withdraw=True, wait=5.0, keep=True, now=200.0)
    assert draining.level(200.0) is Drain.WITHDRAWN
    draining.drain(withdraw=False, wait=0.0, keep=True, now=300.0)
    assert draining.level(300.0) is Drain.ALL, "the order without is less"


def test_a_restart_goes_on_where_it_was(tmp_path: Path) -> None:
    """At once: nothing is announced in between as if the node were in service."""
    Draining(tmp_path).drain(withdraw=False, wait=0.0, keep=True, now=100.0)
    assert Draining(tmp_path).level(0.0) is Drain.ALL
    Draining(tmp_path).drain(withdraw=True, wait=600.0, keep=True, now=100.0)
    assert Draining(tmp_path).level(0.0) is Drain.WITHDRAWN
    Draining(tmp_path).undrain()
    assert Draining(tmp_path).level(0.0) is Drain.NONE
    assert list(tmp_path.iterdir()) == []


def test_a_shutdown_of_the_machine_leaves_what_was_ordered(tmp_path: Path) -> None:
    draining = Draining(tmp_path)
    draining.drain(withdraw=True, wait=0.0, keep=False, now=100.0)
    assert draining.level(110.0) is Drain.WITHDRAWN
    assert Draining(tmp_path).level(0.0) is Drain.NONE
    Draining(tmp_path).drain(withdraw=False, wait=0.0, keep=True, now=100.0)
    Draining(tmp_path).drain(withdraw=True, wait=0.0, keep=False, now=100.0)
    assert Draining(tmp_path).level(0.0) is Drain.ALL


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "{", "\udc80"])
def test_a_file_that_cannot_be_read_keeps_the_node_out(tmp_path: Path, text: str) -> None:
    (tmp_path / "drain.json").write_text(text, errors="surrogateescape")
    assert Draining(tmp_path).level(0.0) is Drain.ALL


def test_an_order_that_cannot_be_kept_is_carried_out_and_said(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    draining = Draining(tmp_path / "state")
    with pytest.raises(Impossible, match="only until bgpd restarts"):
        draining.drain(withdraw=False, wait=0.0, keep=True, now=0.0)
    assert draining.level(STEP_SECONDS) is Drain.ALL


# The cordon.


def test_a_cordon_is_followed_as_configured(tmp_path: Path) -> None:
    draining = Draining(tmp_path)
    draining.cordoned("none", 1.0)
    draining.cordoned("all", 100.0)
    assert levels(draining, 100.0, 100.0 + STEP_SECONDS) == [Drain.SERVICES, Drain.ALL]
    draining.cordoned("services", 110.0)
    assert draining.level(110.0) is Drain.SERVICES
    draining.cordoned("none", 120.0)
    assert draining.level(120.0) is Drain.NONE
    assert list(tmp_path.iterdir()) == [], "the Node remembers it"


def test_a_node_that_is_cordoned_when_we_start_is_drained_at_once(tmp_path: Path) -> None:
    draining = Draining(tmp_path)
    draining.cordoned("all", 5.0)
    assert draining.level(5.0) is Drain.ALL


def test_the_greater_of_order_and_cordon_holds(tmp_path: Path) -> None:
    draining = Draining(tmp_path)
    draining.cordoned("services", 0.0)
    draining.drain(withdraw=False, wait=0.0, keep=True, now=10.0)
    assert draining.level(20.0) is Drain.ALL
    assert "still cordoned" in draining.undrain()
    assert draining.level(20.0) is Drain.SERVICES
