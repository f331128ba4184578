"""What a node reports into the Kubernetes API: the status in Calico's shape, Events and their limit, and refusals."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

import pytest

from bgpd.datastore.kubernetes import reports
from bgpd.datastore.kubernetes.reports import BURST, NodeStatuses, Refusals, SessionEvents
from bgpd.datastore.trouble import Kind, Trouble
from bgpd.model.prefix import Family
from bgpd.model.status import RouteView
from bgpd.views.bird import Ground
from bgpd.views.node_status import MOST_ROUTES, node_status
from tests.unit.fake_views import NOW, FakeViews

GROUND = Ground(
    way=lambda next_hop: (next_hop, "ens5"),
    workload=lambda prefix: "cali0d77" if prefix == "10.48.0.41/32" else "",
    connected=lambda family: [("10.0.1.0/24", "ens5")] if family is Family.IPV4 else [],
    patience=45.0,
)


def test_the_three_classes() -> None:
    views = FakeViews()
    views.routes_now["rib"] = (
        RouteView("10.48.0.0/26", "ipv4", best=True, kind="block"),
        RouteView("10.48.0.41/32", "ipv4", best=True, kind="borrowed"),
        RouteView("10.48.1.0/26", "ipv4", "Mesh_10_0_1_20", "10.0.1.20", "", "igp", best=True, kind="bgp"),
        RouteView("10.48.2.0/26", "ipv4", "Local_Workload_x", "10.0.1.77", best=True, kind="bgp"),
    )
    found = node_status(views, GROUND, ["Agent", "BGP", "Routes"], NOW)
    agent = {
        "state": "Ready",
        "version": "v1.6.8+bgpd0.1.0",
        "routerID": "10.0.1.31",
        "lastBootTime": "2025-11-23T12:00:31Z",
        "lastReconfigurationTime": "2025-11-23T12:00:31Z",
    }
    assert found["lastUpdated"] == "2025-11-23T14:02:11Z"
    assert found["agent"] == {"birdV4": agent, "birdV6": agent}
    bgp = found["bgp"]
    assert [bgp[f"number{word}V4"] for word in ("Established", "NotEstablished")] == [2, 1]
    assert [bgp[f"number{word}V6"] for word in ("Established", "NotEstablished")] == [0, 1]
    assert bgp["peersV4"][0] == {
        "peerIP": "10.0.1.20",
        "type": "NodeMesh",
        "state": "Established",
        "since": "2025-11-23T13:00:06Z",
    }
    assert (bgp["peersV6"][0]["type"], bgp["peersV6"][0]["state"]) == ("GlobalPeer", "Idle")
    assert [
        (each["destination"], each["type"], each["learnedFrom"]) for each in found["routes"]["routesV4"]
    ] == [
        ("10.0.1.0/24", "FIB", {"sourceType": "Direct"}),
        ("10.48.0.0/26", "FIB", {"sourceType": "Static"}),
        ("10.48.0.41/32", "FIB", {"sourceType": "Kernel"}),
        ("10.48.1.0/26", "FIB", {"sourceType": "NodeMesh", "peerIP": "10.0.1.20"}),
    ]
    assert found["routes"]["routesV6"] == []


def test_only_what_is_asked_for() -> None:
    assert node_status(FakeViews(), GROUND, [], NOW) == {"lastUpdated": "2025-11-23T14:02:11Z"}
    assert set(node_status(FakeViews(), GROUND, ["BGP", "Other"], NOW)) == {"lastUpdated", "bgp"}


def test_a_large_table_is_cut() -> None:
    views = FakeViews()
    views.routes_now["rib"] = tuple(
        RouteView(f"10.{n >> 8}.{n & 255}.0/24", "ipv4", "Mesh_10_0_1_20", "10.0.1.20") for n in range(5000)
    )
    assert len(node_status(views, GROUND, ["Routes"], NOW)["routes"]["routesV4"]) == MOST_ROUTES


class FakeClient:
    """An API server that answers from a script."""

    def __init__(self, *answers: Trouble | None, subresource: bool = True) -> None:
        self.answers = list(answers)
        self.subresource = subresource
        self.sent: list[tuple[str, str, Any]] = []

    async def get(self, path: str, params: object = None) -> dict[str, Any]:
        if path.endswith("/v1"):
            return {"resources": [{"name": "caliconodestatuses/status"}] if self.subresource else []}
        return {"metadata": {"resourceVersion": str(len(self.sent))}, "spec": {"node": "a"}}

    async def send(self, method: str, path: str, body: object = None, **more: object) -> dict[str, Any]:
        self.sent.append((method, path, body))
        answer = self.answers.pop(0) if self.answers else None
        if answer is not None:
            raise answer
        return {}


class FakeSource:
    def __init__(self, client: FakeClient) -> None:
        self.client = client

    async def calico(self) -> str:
        return "crd.projectcalico.org/v1"


def statuses(client: FakeClient, refusals: Refusals) -> NodeStatuses:
    source: Any = FakeSource(client)
    return NodeStatuses(source, lambda classes: {"classes": list(classes)}, lambda: None, refusals)


PATH = "/apis/crd.projectcalico.org/v1/caliconodestatuses/x"


@pytest.mark.parametrize("subresource", [True, False])
async def test_conflicts_are_tried_again_with_the_newest_object(subresource: bool) -> None:
    conflict = Trouble(Kind.CONFLICT, "somebody was first")
    client = FakeClient(conflict, conflict, subresource=subresource)
    assert await statuses(client, Refusals())._write("x", {"classes": ["BGP", 7]})
    assert [path for _, path, _ in client.sent] == [PATH + ("/status" if subresource else "")] * 3
    method, _, body = client.sent[-1]
    assert method == "PUT"
    assert body["status"] == {"classes": ["BGP"]}
    assert body["metadata"]["resourceVersion"] == "2"


async def test_a_refusal_is_logged_once_and_the_next_write_that_is_taken_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    refused = Trouble(Kind.FORBIDDEN, "bgpd may not update caliconodestatuses/status")
    writer = statuses(FakeClient(refused, refused, refused), Refusals())
    assert [await writer._write("x", {}) for _ in range(4)] == [False, False, False, True]
    assert [record.getMessage().split()[0] for record in caplog.records] == [
        "event=not_reported",
        "event=reported_again",
    ]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(10, 10.0), (0, 0.0), (-1, 0.0), (None, 0.0), ("10", 0.0), (True, 0.0), (1e9, 86400.0)],
)
def test_the_period(value: object, seconds: float) -> None:
    assert reports._period(value) == seconds


def session_events(now: list[float]) -> SessionEvents:
    client: Any = FakeClient()
    return SessionEvents(client, "worker1", Refusals(), lambda: now[0])


def test_sessions_down_and_up() -> None:
    events = session_events([0.0])
    assert events.news({"a": (True, 1.0, ""), "b": (False, 1.0, "")}) == []  # so it was when we began
    assert events.news({"a": (True, 1.0, ""), "b": (False, 3.0, ": refused")}) == []  # still down
    (down,) = events.news({"a": (False, 4.0, ": hold timer"), "b": (False, 3.0, "")})
    assert (down["reason"], down["message"]) == ("BGPSessionDown", "BGP session a went down: hold timer")
    assert down["metadata"] == {"generateName": "worker1.bgpd-", "namespace": "default"}
    up, new = events.news({"a": (True, 5.0, ""), "b": (False, 3.0, ""), "c": (True, 5.0, "")})
    assert (up["type"], up["message"]) == ("Normal", "BGP session a is established")
    assert new["message"] == "BGP session c is established"
    (again,) = events.news({"a": (True, 6.0, ""), "c": (True, 5.0, "")})
    assert again["message"] == "BGP session a went down and was established again"


def test_events_are_limited_and_what_was_left_out_is_counted() -> None:
    now = [0.0]
    events = session_events(now)
    events.news({})
    assert len(events.news({f"p{n}": (True, 1.0, "") for n in range(100)})) == BURST
    assert events.left_out == 100 - BURST
    now[0] = reports.REFILL_SECONDS
    (one,) = events.news({f"p{n}": (n > 0, 2.0 if n == 0 else 1.0, "") for n in range(100)})
    assert one["message"].endswith(f"; {100 - BURST} more changes of sessions were not reported")


async def test_events_that_may_not_be_written_do_not_pile_up() -> None:
    refused = Trouble(Kind.FORBIDDEN, "bgpd may not create events")
    client: Any = FakeClient(refused)
    events = SessionEvents(client, "worker1", Refusals())
    told = [{}, {f"p{n}": (True, 1.0, "") for n in range(5)}]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1.5):
            await events.run(lambda: told.pop(0) if len(told) > 1 else told[0])
    assert len(client.sent) == 1
