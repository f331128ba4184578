"""``bgpctl diff`` and ``bgpctl config show``: what differs, over a real router, and what of the file waits."""

from bgpd.config.reading import parse
from bgpd.daemon.operator import AT_START
from bgpd.model.route import BLACKHOLE, Hop, Via
from bgpd.model.status import Difference
from bgpd.views.configuration import configuration, fingerprint
from bgpd.views.diff import differences
from tests.unit.builders import V4, addr, announce, origination, path, peer, pfx
from tests.unit.ground import Ground

A = peer("10.0.1.31")


def found(ground: Ground) -> list[Difference]:
    return [row for row in differences(ground.parts) if row is not None]


def test_a_node_at_rest_has_none() -> None:
    ground = Ground(A)
    ground.core.originate(origination(blocks=["10.48.0.64/26"]))
    ground.core.hear(A, announce(path(A), "10.48.0.0/26"))
    ground.install()
    assert found(ground) == []


def test_what_is_not_sent_and_not_written_yet() -> None:
    ground = Ground(A)
    ground.core.originate(origination(blocks=["10.48.0.64/26"]))
    ground.core.hear(A, announce(path(A), "10.48.0.0/26"))
    delta = ground.fibs[V4].delta
    delta.want({(pfx(text), metric): value for (_, text, metric), value in ground.core.fib.items()})
    ground.outbound.add_session(A, ground.core.router.groups_of(A))
    rows = {(row.where, row.prefix): row for row in found(ground)}
    assert rows["kernel", "10.48.0.64/26"] == Difference(
        "10.48.0.64/26", "ipv4", "kernel", "blackhole", "", "not yet written"
    )
    assert rows["kernel", "10.48.0.0/26"].wanted == "via 10.0.1.31 dev ens5"
    told = rows[A.id, "10.48.0.64/26"]
    assert (told.wanted.split()[:2], told.found) == (["next", "hop"], "")
    assert told.reason == "waiting for the peer to read"
    assert (A.id, "10.48.0.0/26") not in rows  # A's own route: it is not sent that, and need not be


def test_a_withdrawal_that_waits() -> None:
    ground = Ground(A)
    ground.core.originate(origination(blocks=["10.48.0.64/26"]))
    ground.install()
    ground.outbound.add_session(A, ground.core.router.groups_of(A))  # it has not read the table yet
    ground.core.originate(origination())
    for group, changes in ground.core.out_changes.items():
        ground.outbound.group_changed(group, changes)
    (row,) = (row for row in found(ground) if row.where == A.id)
    assert (row.prefix, row.wanted) == ("10.48.0.64/26", "")


def test_what_is_in_the_way_and_what_is_left() -> None:
    ground = Ground()
    delta, target = ground.fibs[V4].delta, ground.fibs[V4].target
    old, lost = (pfx("10.48.9.0/26"), 0), (pfx("10.48.2.0/29"), 7)
    target.apply_now({old: BLACKHOLE}, ())  # type: ignore[attr-defined]
    delta.adopt([old])
    delta.want({lost: Via((Hop(addr("10.0.1.1"), 2),))})
    ground.conflicts[lost] = "in the way is proto static"
    rows = {row.prefix: row for row in found(ground)}
    assert rows["10.48.9.0/26"] == Difference(
        "10.48.9.0/26", "ipv4", "kernel", "", "blackhole", "left from before; goes when all peers were heard"
    )
    assert rows["10.48.2.0/29"].wanted == "via 10.0.1.1 dev ens5 metric 7"
    assert rows["10.48.2.0/29"].reason == "in the way is proto static"


def test_every_key_of_the_configuration_and_what_waits() -> None:
    running = parse(
        "node: worker1\nbgp: {defaults: {hold_time: 30}, peers: {10.0.1.30: {max_prefixes: 5}}}", "f"
    )
    file = parse("node: worker1\nmetrics: {listen: null}\nbgp: {peers: {10.0.1.31: {hold_time: 9}}}", "f")
    rows = {row["key"]: row for row in configuration(running, file, AT_START)}
    assert rows["router_id"] == {"key": "router_id", "value": "auto", "default": True}
    by_address = configuration(parse("router_id: 10.0.0.1", "f"), None, AT_START)
    assert {"key": "router_id", "value": "10.0.0.1", "default": False} in by_address
    assert rows["bgp.defaults.hold_time"] == {
        "key": "bgp.defaults.hold_time",
        "value": 30,
        "default": False,
        "file": 90,
        "after": "reload",
    }
    assert rows["metrics.listen"]["file"] is None and rows["metrics.listen"]["after"] == "restart"
    assert rows["bgp.peers.10.0.1.30.max_prefixes"]["after"] == "reload"
    assert rows["bgp.peers.10.0.1.31.hold_time"]["value"] is None
    assert rows["history.size"]["value"] == "64MiB"
    assert not any("after" in row for row in configuration(running, running, AT_START))
    other = parse(
        "node: worker2\nbgp: {peers: {10.0.1.30: {max_prefixes: 5}}, defaults: {hold_time: 30}}", "f"
    )
    assert fingerprint(running) == fingerprint(other) != fingerprint(file)
    assert fingerprint(running) < 2**48
    assert not any("after" in row for row in configuration(running, None, AT_START))
