"""Last good versions, duplicates and removals, with simulated time."""

from __future__ import annotations

import pytest

from bgpd.datastore.calico.decode import Decoded, Key, Verdict
from bgpd.datastore.objects import GRACE_SECONDS, SHOWN_SECONDS, Failure, Objects
from bgpd.model.prefix import parse_address, parse_prefix
from bgpd.model.resources import BGPFilter, BGPPeer, IPPool, LocalWorkload, Node, Problem, Secret


def own(name: str = "me") -> Decoded:
    return Decoded(Verdict.GOOD, Key("Node", name), Node(name))


def pool(name: str = "p", cidr: str = "10.48.0.0/24") -> Decoded:
    return Decoded(Verdict.GOOD, Key("IPPool", name), IPPool(name, *parse_prefix(cidr), 26))


def bad(name: str = "p") -> Decoded:
    return Decoded(
        Verdict.BAD, Key("IPPool", name), None, (Problem(f"f: IPPool {name}", "spec.cidr", "bad"),)
    )


def gone(name: str = "p") -> Decoded:
    return Decoded(Verdict.GONE, Key("IPPool", name))


YAML = Failure("yaml", Problem("b:1:1", "", "broken"))


def started(*places: tuple[str, list[Decoded]]) -> Objects:
    objects = Objects("me")
    for name, decoded in (("a", [own()]), *places):
        objects.put(name, decoded)
    assert objects.settle(0.0, True)
    return objects


def test_nothing_is_whole_without_our_own_node() -> None:
    objects = Objects("me")
    assert not objects.settle(0.0, True)
    assert "no Node 'me'" in objects.detail()
    objects.put("a", [pool(), own("other")])
    assert not objects.settle(1.0, True)
    assert objects.detail() == "there is no Node 'me', among the 2 resources there"
    objects.put("b", [own()])
    assert objects.settle(2.0, True)
    assert objects.status("files", 0).in_sync
    assert set(objects.snapshot().nodes) == {"me", "other"}


def test_only_news_is_yielded_and_what_is_unchanged_stays_identical() -> None:
    objects = started(("b", [pool()]))
    first = objects.snapshot()
    objects.put("b", [pool()])
    assert not objects.settle(1.0, True)
    objects.put("b", [pool(cidr="10.49.0.0/24")])
    assert objects.settle(1.0, True)
    second = objects.snapshot()
    assert second.nodes is first.nodes
    assert second.pools != first.pools
    objects.begin()
    assert objects.settle(2.0, True)


def test_an_absent_object_goes_after_the_grace() -> None:
    objects = started(("b", [pool()]))
    objects.drop("b")
    assert not objects.settle(10.0, True)
    assert objects.deadline() == 10.0 + GRACE_SECONDS
    assert not objects.settle(10.0 + GRACE_SECONDS - 0.01, True)
    assert objects.settle(10.0 + GRACE_SECONDS, True)
    assert objects.snapshot().pools == {}
    assert objects.deadline() is None
    assert objects.status("files", 0).events["IPPool", "delete"] == 1


def test_an_object_that_comes_back_or_moves_within_the_grace_never_left() -> None:
    objects = started(("b", [pool()]))
    objects.drop("b")
    assert not objects.settle(10.0, True)
    objects.put("c", [pool()])
    assert not objects.settle(10.2, True)
    assert objects.deadline() is None


def test_while_the_whole_is_away_no_clock_runs() -> None:
    objects = started(("b", [pool()]))
    objects.drop("b")
    objects.settle(10.0, True)
    assert not objects.settle(10.1, False)
    assert not objects.settle(99.0, False)
    assert not objects.status("files", 0).in_sync
    assert not objects.settle(100.0, True)
    assert objects.deadline() == 100.0 + GRACE_SECONDS
    objects.put("b", [pool()])
    assert not objects.settle(100.1, True)
    assert set(objects.snapshot().pools) == {"p"}


def test_an_empty_directory_takes_nothing_away() -> None:
    objects = started(("b", [pool()]))
    objects.drop("a")
    objects.drop("b")
    for now in (10.0, 10.1, 99.0):
        assert not objects.settle(now, True)
    assert not objects.status("files", 0).in_sync
    assert objects.detail() == "there is no Node 'me', and no other resource either"
    objects.put("a", [own()])
    assert not objects.settle(100.0, True)  # the rest may be on its way
    assert set(objects.snapshot().pools) == {"p"}
    assert objects.settle(100.0 + GRACE_SECONDS, True)
    assert objects.snapshot().pools == {}


def test_our_own_node_may_be_away_for_a_moment() -> None:
    objects = started()
    objects.drop("a")
    objects.settle(10.0, True)
    assert objects.status("files", 0).in_sync
    assert objects.deadline() == 10.0 + GRACE_SECONDS
    objects.settle(10.0 + GRACE_SECONDS, True)
    assert not objects.status("files", 0).in_sync


def test_a_bad_object_keeps_its_last_good_version_beside_good_ones() -> None:
    objects = started(("b", [pool(), pool("q")]))
    objects.put("b", [bad(), pool("q", "10.50.0.0/24")])
    assert objects.settle(1.0, True)
    snapshot = objects.snapshot()
    assert snapshot.pools["p"] == pool().resource
    assert snapshot.pools["q"].cidr == parse_prefix("10.50.0.0/24")[1]
    assert snapshot.problems == bad().problems
    assert not objects.settle(99.0, True)
    assert objects.status("files", 0).errors["invalid"] == 1
    objects.put("b", [pool(), pool("q")])
    assert objects.settle(100.0, True)
    assert objects.snapshot().problems == ()


def test_what_a_half_written_file_does_not_say_stands() -> None:
    objects = started(("b", [pool(), pool("q")]))
    objects.put("b", [pool("q", "10.50.0.0/24")], [YAML], whole=False)
    assert objects.settle(1.0, True)
    assert set(objects.snapshot().pools) == {"p", "q"}
    objects.settle(99.0, True)
    assert set(objects.snapshot().pools) == {"p", "q"}
    objects.put("b", [pool("q")])  # whole again, and p is really no more
    objects.settle(100.0, True)
    assert objects.settle(100.0 + GRACE_SECONDS, True)
    assert set(objects.snapshot().pools) == {"q"}


def test_a_broken_file_that_is_deleted() -> None:
    objects = started(("b", [pool()]))
    objects.put("b", [], [YAML], whole=False)
    objects.settle(1.0, True)
    objects.drop("b")
    objects.settle(2.0, True)
    assert objects.settle(2.0 + GRACE_SECONDS, True)
    assert objects.snapshot().pools == {}


def test_one_object_in_two_files() -> None:
    objects = started(("b", [pool()]))
    objects.put("c", [pool(cidr="10.50.0.0/24")])
    assert objects.settle(1.0, True)
    snapshot = objects.snapshot()
    assert snapshot.pools["p"] == pool().resource
    problem = Problem("b and c: IPPool p", "", "is in more than one file: the last good version stands")
    assert snapshot.problems == (problem,)
    assert objects.status("files", 0).errors["duplicate"] == 1
    objects.drop("b")
    assert objects.settle(2.0, True)
    assert objects.snapshot().pools["p"].cidr == parse_prefix("10.50.0.0/24")[1]
    assert objects.snapshot().problems == ()


def test_one_object_twice_in_one_file_from_the_start() -> None:
    objects = started(("b", [pool(), pool()]))
    assert objects.snapshot().pools == {}
    problem = Problem("b: IPPool p", "", "is there more than once: neither is used")
    assert objects.snapshot().problems == (problem,)


def test_a_tombstone_acts_at_once_and_hides_no_living_one() -> None:
    objects = started(("b", [pool()]))
    objects.put("b", [gone()])
    assert objects.settle(1.0, True)
    assert objects.snapshot().pools == {}
    objects.put("c", [pool()])
    assert objects.settle(2.0, True)
    assert set(objects.snapshot().pools) == {"p"}
    assert objects.snapshot().problems == ()


def test_our_own_node_that_is_bad_from_the_start_says_so() -> None:
    objects = Objects("me")
    problem = Problem("f: Node me", "spec.bgp", "bad")
    objects.put("a", [Decoded(Verdict.BAD, Key("Node", "me"), None, (problem,))])
    assert not objects.settle(0.0, True)
    assert objects.detail() == "this node's own resource is of no use: f: Node me: spec.bgp: bad"


def test_what_is_counted_and_reported_follows_each_place() -> None:
    """Also through a trial: a place that is put again, in part, or dropped leaves nothing behind."""
    ignored, objects = Decoded(Verdict.IGNORED), started()

    def holds(of: Objects, other: int, problems: int) -> None:
        of.settle(1.0, True)
        status = of.status("files", 0)
        assert (status.resources["other"], len(status.problems)) == (other, problems)

    objects.put("b", [ignored, ignored], [YAML])
    objects.put("c", [ignored, pool()])
    holds(objects, 3, 1)
    trial = objects.fork()
    trial.drop("b")
    trial.put("d", [ignored], [Failure("io", Problem("d", "", "gone"))])
    holds(trial, 2, 1)
    holds(objects, 3, 1)
    objects.put("b", [ignored])
    holds(objects, 2, 0)
    objects.put("b", [ignored], [YAML])
    objects.drop("c")
    holds(objects, 1, 1)
    objects.drop("b")
    objects.drop("b")
    holds(objects, 0, 0)


def test_counts() -> None:
    objects = started(("b", [pool(), Decoded(Verdict.IGNORED)]))
    status = objects.status("files", 3)
    assert (status.resources["IPPool"], status.resources["Node"], status.resources["other"]) == (1, 1, 1)
    assert (status.up, status.detail, status.resyncs, status.backend) == (True, "", 3, "files")
    assert status.events == {("Node", "add"): 1, ("IPPool", "add"): 1}


def peer_filter(name: str = "tor", bad: bool = False) -> Decoded:
    key = Key("BGPFilter", name)
    if bad:
        return Decoded(Verdict.BAD, key, None, (Problem(f"f: {key}", "spec.exportV4.0.cidr", "bad"),))
    return Decoded(Verdict.GOOD, key, BGPFilter(name))


def secret(value: bytes = b"hunter2") -> Decoded:
    return Decoded(Verdict.GOOD, Key("Secret", "bgp"), Secret("bgp", "kube-system", {"tor": value}))


WORKLOAD = LocalWorkload("cali1", "pods", parse_address("10.48.0.5"))


def test_every_kind_stays_identical_while_others_change() -> None:
    objects = started(("b", [pool(), peer_filter(), secret()]))
    objects.workloads((WORKLOAD,), ())
    assert objects.settle(1.0, True)
    first = objects.snapshot()
    assert (set(first.filters), set(first.secrets), first.local_workloads) == ({"tor"}, {"bgp"}, (WORKLOAD,))
    objects.put("b", [pool(cidr="10.50.0.0/24"), peer_filter(), secret()])
    objects.workloads((LocalWorkload("cali1", "pods", parse_address("10.48.0.5")),), ())
    assert objects.settle(2.0, True)
    second = objects.snapshot()
    assert second.pools is not first.pools
    for field in ("nodes", "filters", "secrets", "local_workloads", "unusable", "problems"):
        assert getattr(second, field) is getattr(first, field), field
    objects.put("b", [pool(cidr="10.50.0.0/24"), peer_filter(), secret(b"other")])
    assert objects.settle(3.0, True)
    third = objects.snapshot()
    assert third.secrets["bgp"].data == {"tor": b"other"}
    assert (third.filters is second.filters, third.pools is second.pools) == (True, True)


def test_workloads_are_news_and_the_whole_never_waits_for_them() -> None:
    objects = Objects("me")
    objects.workloads((WORKLOAD,), ())
    assert not objects.settle(0.0, True)
    objects.put("a", [own()])
    assert objects.settle(1.0, True)
    failure = Failure("invalid", Problem("/run/status/x", "", "is no JSON"))
    objects.workloads((WORKLOAD,), (failure,))
    assert objects.settle(2.0, True)
    assert objects.snapshot().problems == (failure.problem,)
    assert objects.snapshot().local_workloads == (WORKLOAD,)
    objects.workloads((WORKLOAD,), (failure,))
    assert not objects.settle(3.0, True)
    objects.workloads((), ())
    assert objects.settle(4.0, True)
    assert (objects.snapshot().local_workloads, objects.snapshot().problems) == ((), ())
    status = objects.status("files", 0)
    assert (status.errors["invalid"], status.resources["LocalWorkload"]) == (1, 0)


def test_what_never_was_good_is_named_as_unusable() -> None:
    """A peer whose filter cannot be read must not go on as if it had none."""
    objects = started(("b", [pool(), peer_filter(bad=True)]))
    assert objects.snapshot().unusable == {("BGPFilter", "tor")}
    objects.put("b", [pool(), peer_filter()])
    assert objects.settle(1.0, True)
    assert objects.snapshot().unusable == frozenset()
    objects.put("b", [pool(), peer_filter(bad=True)])  # the last good one stands
    objects.settle(2.0, True)
    assert (objects.snapshot().unusable, set(objects.snapshot().filters)) == (frozenset(), {"tor"})
    objects.put("b", [pool()])
    objects.settle(3.0, True)
    objects.settle(3.0 + GRACE_SECONDS, True)
    assert objects.snapshot().filters == {}
    objects.put("b", [pool(), peer_filter(), peer_filter()])  # twice, and neither was good before
    assert objects.settle(4.0, True)
    assert objects.snapshot().unusable == {("BGPFilter", "tor")}
    objects.put("b", [pool()])
    assert objects.settle(5.0, True)
    assert objects.snapshot().unusable == frozenset()


def test_a_secret_of_another_namespace_is_a_duplicate() -> None:
    objects = started(("b", [secret()]))
    other = Decoded(Verdict.GOOD, Key("Secret", "bgp"), Secret("bgp", "default", {"tor": b"new"}))
    objects.put("c", [other])
    assert objects.settle(1.0, True)
    snapshot = objects.snapshot()
    assert snapshot.secrets["bgp"].data == {"tor": b"hunter2"}
    assert (
        str(snapshot.problems[0])
        == "b and c: Secret bgp: is in more than one file: the last good version stands"
    )


def test_only_what_a_place_says_otherwise_is_judged_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    many = [pool(f"p{number}", f"10.{number}.0.0/16") for number in range(1, 200)]
    objects = started(("b", many))
    judged: list[Key] = []
    judge = Objects._judge
    monkeypatch.setattr(Objects, "_judge", lambda self, key: (judged.append(key), judge(self, key))[1])
    objects.put("b", [*many[1:-1], pool("p199", "10.250.0.0/16"), pool("new", "10.251.0.0/16")])
    assert sorted(key.name for key in judged) == ["new", "p1", "p199"]
    assert objects.settle(1.0, True)
    pools = objects.snapshot().pools
    assert set(pools) == {decoded.key.name for decoded in many if decoded.key} | {"new"}  # p1 has its grace
    assert pools["p199"].cidr == parse_prefix("10.250.0.0/16")[1]


def test_a_kind_that_vanishes_at_once_is_reported_for_an_hour(caplog: pytest.LogCaptureFixture) -> None:
    objects = started(("b", [pool("p1"), pool("p2", "10.49.0.0/24")]))
    objects.drop("b")
    objects.settle(10.0, True)
    assert not objects.status("files", 0).problems  # its grace
    gone_at = 10.0 + GRACE_SECONDS
    assert objects.settle(gone_at, True)
    status = objects.status("files", 0)
    assert [problem.source for problem in status.problems] == ["IPPool"]
    assert "all gone at once (2)" in str(status.problems[0])
    assert not status.problems[0].harmless
    assert status.errors["vanished"] == 1
    assert [record.levelname for record in caplog.records if "all gone" in record.message] == ["WARNING"]
    objects.settle(gone_at + SHOWN_SECONDS - 1, True)
    assert objects.status("files", 0).problems
    assert objects.deadline() == gone_at + SHOWN_SECONDS
    objects.settle(gone_at + SHOWN_SECONDS, True)
    assert not objects.status("files", 0).problems


def test_a_kind_that_is_back_did_not_vanish() -> None:
    objects = started(("b", [pool("p1"), pool("p2", "10.49.0.0/24")]))
    objects.put("b", [gone("p1"), gone("p2")])  # as a server says it: no grace
    objects.settle(1.0, True)
    assert objects.status("files", 0).problems
    objects.put("b", [pool("p1")])
    objects.settle(2.0, True)
    assert not objects.status("files", 0).problems


def test_one_object_goes_by_itself_every_day_but_not_the_only_peer() -> None:
    peer = Decoded(Verdict.GOOD, Key("BGPPeer", "tor"), BGPPeer("tor"))
    objects = started(("b", [pool()]), ("c", [peer]))
    objects.drop("b")
    for now in (1.0, 2.0):
        objects.settle(now, True)
    assert not objects.status("files", 0).problems
    objects.drop("c")
    for now in (3.0, 4.0):
        objects.settle(now, True)
    assert [problem.source for problem in objects.status("files", 0).problems] == ["BGPPeer"]


def test_what_is_gone_is_forgotten() -> None:
    objects = started()
    for number in range(50):
        name, place = f"p{number}", f"f{number}"
        objects.put(place, [pool(name)])
        objects.settle(number, True)
        objects.put(place, [bad(name)])
        if number % 2:
            objects.put(place, [gone(name)])
        objects.drop(place)
        for later in (0.1, 0.5):
            objects.settle(number + later, True)
    held = [len(found) for found in vars(objects).values() if isinstance(found, dict | set | frozenset)]
    assert objects.snapshot().pools == {}
    assert max(held) < 15, "of 50 objects that came and went"
