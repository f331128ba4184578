"""The status and the checks: what an operator must not have to look for."""

from types import SimpleNamespace
from typing import Any

from bgpd.config.config import parse
from bgpd.model.resources import Node, Snapshot
from bgpd.model.status import DatastoreStatus
from bgpd.views.summary import FAILING_SHOWN, Facts, ready, status
from tests.unit.builders import V4, addr, announce, origination, path, peer, pfx
from tests.unit.ground import Ground

A = peer("10.0.1.31")
RESOURCES = Snapshot(nodes={"worker1": Node("worker1", ipv4=addr("10.0.1.30"), ipv6=addr("fd00:1::30"))})


def facts(detail: str = "", **changes: Any) -> Facts:
    store: Any = SimpleNamespace(status=lambda: DatastoreStatus("files", not detail, not detail, detail))
    return Facts(parse("node: worker1", "test"), "bgpd.yaml", 0.0, store, snapshot=RESOURCES, **changes)


def kernel_check(ground: Ground) -> tuple[bool, str]:
    check = next(check for check in ready(ground.parts, facts()) if check.name == "kernel")
    return check.ok, check.detail


def problems(ground: Ground) -> list[str]:
    return [str(problem) for problem in status(ground.parts, facts()).problems]


def holding(*prefixes: str) -> Ground:
    """All of these are wanted and held."""
    ground = Ground(A)
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


def test_a_conflict_is_told_once() -> None:
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


def test_resources_that_went_are_told_and_what_was_read_stands() -> None:
    check = ready(holding("10.48.0.0/26").parts, facts("there is no Node 'worker1'"))[1]
    assert (check.ok, check.detail) == (True, "there is no Node 'worker1'; what was read last stands")


def test_a_refused_configuration_is_one_line() -> None:
    wrong = facts(config_error="bgpd.yaml: a: unknown key\nbgpd.yaml: b: unknown key")
    check = ready(holding("10.48.0.0/26").parts, wrong)[0]
    assert (check.ok, check.detail) == (True, "bgpd.yaml: a: unknown key; bgpd.yaml: b: unknown key")


def test_routes_of_our_own_that_all_were_told() -> None:
    ground = holding("10.48.0.0/26")
    ground.core.originate(origination(blocks=["10.48.0.64/26"]))
    ground.install()
    known = facts(originations={V4: ground.core.router.origination(V4)})
    found = status(ground.parts, known)
    assert found.routes_desired["block", "ipv4"] == found.routes_advertised["block", "ipv4"] == 1
