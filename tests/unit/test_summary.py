"""The status and the checks: what an operator must not have to look for."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bgpd.kernel.settings import forwarding_setting, read, reverse_path_settings
from bgpd.model.resources import Node, Snapshot
from bgpd.model.status import DatastoreStatus, SessionState
from bgpd.rules.policy import FamilyPolicy, KernelRule, RoutePolicy
from bgpd.views.summary import FAILING_SHOWN, Facts, ready, status
from tests.unit.builders import V4, V6, addr, announce, origination, path, peer, pfx
from tests.unit.fake_views import mesh_peer
from tests.unit.ground import Ground

A = peer("10.0.1.31")
RESOURCES = Snapshot(nodes={"worker1": Node("worker1", ipv4=addr("10.0.1.30"), ipv6=addr("fd00:1::30"))})


def facts(detail: str = "", **changes: Any) -> Facts:
    store: Any = SimpleNamespace(status=lambda: DatastoreStatus("files", not detail, not detail, detail))
    return Facts(Path("bgpd.yaml"), 0.0, store, **changes)


def kernel_check(ground: Ground) -> tuple[bool, str]:
    check = next(check for check in ready(ground.parts, facts()) if check.name == "kernel")
    return check.ok, check.detail


def problems(ground: Ground) -> list[str]:
    return [str(problem) for problem in status(ground.parts, facts()).problems]


def holding(*prefixes: str) -> Ground:
    """All of these are wanted and held."""
    ground = Ground(A, snapshot=RESOURCES)
    ground.addresses = {addr("10.0.1.30"), addr("fd00:1::30")}
    ground.core.hear(A, announce(path(A), *prefixes))
    ground.install()
    return ground


def test_all_is_well() -> None:
    ground = holding("10.48.0.0/26")
    assert kernel_check(ground) == (True, "")
    assert problems(ground) == []


def test_one_route_that_the_kernel_refuses_is_a_problem_and_no_more() -> None:
    ground = holding("10.48.0.0/26", "10.48.0.64/26")
    ground.fibs[V4].delta.errors[pfx("10.48.0.64/26"), 0] = "Invalid argument"
    assert kernel_check(ground) == (True, "")
    assert problems(ground) == ["the kernel: 10.48.0.64/26 cannot be written: Invalid argument"]


def test_a_kernel_that_refuses_all_is_not_ready() -> None:
    """A daemon without CAP_NET_ADMIN draws traffic to a node that does not forward it."""
    ground = holding(*(f"10.48.{n}.0/24" for n in range(FAILING_SHOWN + 3)))
    errors = ground.fibs[V4].delta.errors
    errors |= dict.fromkeys(ground.fibs[V4].delta.wanted, "Operation not permitted")
    assert kernel_check(ground) == (False, "none of 8 ipv4 routes can be written: Operation not permitted")
    found = problems(ground)
    assert len(found) == FAILING_SHOWN + 1 and found[-1] == "the kernel: 3 more ipv4 routes cannot be written"


def test_a_conflict_is_reported_once() -> None:
    ground = holding("10.48.0.0/26", "10.48.0.64/26")
    key = (pfx("10.48.0.64/26"), 0)
    ground.fibs[V4].delta.errors[key] = ground.conflicts[key] = "proto static via 10.0.1.1 dev ens5"
    assert problems(ground)[0].startswith("the kernel: 10.48.0.64/26 is not ours to write: proto static")
    assert not any("cannot be written" in problem for problem in problems(ground))


def test_while_paused_the_kernel_is_not_in_step() -> None:
    ground = holding("10.48.0.0/26")
    ground.fibs[V4].delta.paused = True
    assert kernel_check(ground) == (False, "nothing is written meanwhile")


def test_addresses_that_the_machine_lacks() -> None:
    ground = holding("10.48.0.0/26")
    ground.addresses.discard(addr("fd00:1::30"))
    assert problems(ground) == [
        "Node worker1: spec.bgp.ipv6Address: "
        "fd00:1::30 is on no interface of this machine: no session can start from it"
    ]


def test_resources_that_went_are_reported_and_what_was_read_stands() -> None:
    check = ready(holding("10.48.0.0/26").parts, facts("there is no Node 'worker1'"))[1]
    assert (check.ok, check.detail) == (True, "there is no Node 'worker1'; what was read last stands")


def test_since_when_what_stands_is_not_confirmed() -> None:
    store = DatastoreStatus("etcd", False, False, "etcd is away", as_of=0.0)
    known = facts()
    known.datastore = SimpleNamespace(status=lambda: store)  # type: ignore[assignment]
    check = ready(holding("10.48.0.0/26").parts, known)[1]
    assert check.detail == "etcd is away; what was read last stands, as of 1970-01-01T00:00:00Z"


def test_resources_that_are_not_there_yet_are_waited_for_where_it_says() -> None:
    for lost, words in (
        ("there is no Node 'worker1'", "there is no Node 'worker1'; waited for in /etc/bgpd/resources"),
        ("/etc/bgpd/resources cannot be read", "/etc/bgpd/resources cannot be read"),
    ):
        ground = holding("10.48.0.0/26")
        ground.snapshot = None
        check = ready(ground.parts, facts(lost))[1]
        assert (check.ok, check.detail) == (False, words)


def test_a_refused_configuration_is_one_line() -> None:
    wrong = facts(config_error="bgpd.yaml: a: unknown key\nbgpd.yaml: b: unknown key")
    check = ready(holding("10.48.0.0/26").parts, wrong)[0]
    assert (check.ok, check.detail) == (True, "bgpd.yaml: a: unknown key; bgpd.yaml: b: unknown key")


def test_routes_of_our_own_that_all_were_sent() -> None:
    ground = holding("10.48.0.0/26")
    ground.core.originate(origination(blocks=["10.48.0.64/26"]))
    ground.install()
    ground.originations = {V4: ground.core.router.explain.origination(V4)}
    found = status(ground.parts, facts())
    assert found.routes_desired["block", "ipv4"] == found.routes_advertised["block", "ipv4"] == 1


def degraded(ground: Ground, **changes: Any) -> list[str]:
    return list(status(ground.parts, facts(**changes)).degraded)


DOWN = {"state": SessionState.ACTIVE, "last_error": "connect: Connection refused"}
EXPLICIT = {"id": "Global_10_0_9_1", "kind": "global", "source": "BGPPeer tor-1"}


def test_nothing_is_degraded_where_all_is_well() -> None:
    assert degraded(holding("10.48.0.0/26")) == []


@pytest.mark.parametrize(
    ("changes", "sentences"),
    [
        ([DOWN, DOWN], ["No session is established, of 2 that are wanted."]),
        ([DOWN, {}], []),  # a node of the mesh restarts: it is not missed while others are there
        (
            [DOWN | EXPLICIT, {}],
            ["Global_10_0_9_1 (BGPPeer tor-1) is not established: connect: Connection refused."],
        ),
        ([DOWN | EXPLICIT | {"admin_up": False}, {}], []),  # the operator's will
        ([DOWN | {"kind": "local_workload"}, DOWN | {"kind": "dynamic"}, {}], []),
    ],
)
def test_sessions_that_are_down_degrade(changes: list[dict[str, Any]], sentences: list[str]) -> None:
    ground = holding("10.48.0.0/26")
    ground.statuses = [replace(mesh_peer("worker2", "10.0.1.31"), **each) for each in changes]
    assert degraded(ground) == sentences
    assert status(ground.parts, facts()).ready  # readiness does not ask for sessions


def test_many_explicit_peers_down_are_counted() -> None:
    ground = holding("10.48.0.0/26")
    ground.statuses = [
        mesh_peer("worker2", "10.0.1.31"),
        *(replace(mesh_peer("w", "10.0.9.1"), **(DOWN | EXPLICIT)) for _ in range(FAILING_SHOWN + 2)),
    ]
    assert degraded(ground)[-1] == "2 more peers of BGPPeers are not established."


def test_each_other_cause_has_its_sentence() -> None:
    ground = holding("10.48.0.0/26", "10.48.0.64/26", "10.48.0.128/26")
    ground.conflicts[pfx("10.48.0.64/26"), 0] = "proto static via 10.0.1.1 dev ens5"
    ground.fibs[V4].delta.errors[pfx("10.48.0.128/26"), 0] = "Invalid argument"
    assert degraded(
        ground, detail="there is no Node 'worker1'", config_error="x.yaml: a: b\nc", waiting=("node", "api")
    ) == [
        "The resources are not whole, there is no Node 'worker1': what was read last stands.",
        "The configuration file was refused, the one before is in force: x.yaml: a: b.",
        "The configuration waits for a restart of bgpd: node, api.",
        "Another's route stands in the place of 1 of ours.",
        "There is 1 problem, reported below.",
    ]


def test_an_own_node_that_is_missing_degrades() -> None:
    ground = holding("10.48.0.0/26")
    others = Snapshot(nodes={"worker2": Node("worker2", ipv4=addr("10.0.1.31"))})
    ground.snapshot = others
    found = status(ground.parts, facts())
    assert found.degraded == ("There is no Node 'worker1' in the resources.",)


def test_an_ipip_pool_without_its_tunnel_is_a_problem() -> None:
    rule = KernelRule(pfx("10.50.0.0/16"), True, "IPPool ipip", "tunl0")
    ground = holding("10.48.0.0/26")
    policy = RoutePolicy(families={V4: FamilyPolicy(kernel_rules=(rule,)), V6: FamilyPolicy()})
    ground.core.router.set_policy(policy)
    found = status(ground.parts, facts())
    assert [str(problem) for problem in found.problems] == [
        "IPPool ipip: tunl0 is not there or is down: its routes through it are not written"
    ]
    assert found.degraded == ("There is 1 problem, reported below.",)
    ground.tunnels = {"tunl0": 9}
    assert status(ground.parts, facts()).degraded == ()


def test_the_nodes_own_default_route_is_in_nobodys_way() -> None:
    """A rack switch announces a default route beside the node's own, on every node of the cluster."""
    ground = holding("0.0.0.0/0")
    ground.conflicts[pfx("0.0.0.0/0"), 0] = "proto static via 10.0.1.1 dev ens5"
    found = status(ground.parts, facts())
    assert not found.degraded and not found.problems and not found.fib["ipv4"].conflicts


def test_what_forwarding_needs() -> None:
    ground = holding("10.48.0.0/26")
    ground.settings = {"net.ipv4.ip_forward": 0, "net.ipv4.conf.ens5.rp_filter": 1}
    found = status(ground.parts, facts())
    assert [(problem.path, problem.harmless) for problem in found.problems] == [
        ("net.ipv4.ip_forward", False),
        ("net.ipv4.conf.ens5.rp_filter", True),  # one uplink: the answer goes where the question came from
    ]
    assert found.degraded == ("There is 1 problem, reported below.",)
    ground.uplinks = ["ens5", "ens6"]
    assert not any(problem.harmless for problem in status(ground.parts, facts()).problems)
    ground.settings["net.ipv4.conf.all.rp_filter"] = 2  # the larger of the two holds
    ground.settings["net.ipv4.ip_forward"] = 1
    assert problems(ground) == []


def test_a_setting_is_read_whatever_the_name_of_the_interface() -> None:
    assert read("net.ipv4.conf.lo.rp_filter") in (0, 1, 2)
    assert read("net.ipv4.conf.no.such.rp_filter") is None
    assert forwarding_setting(V6) == "net.ipv6.conf.all.forwarding"
    assert reverse_path_settings("eth0.5")[0] == "net.ipv4.conf.eth0.5.rp_filter"
