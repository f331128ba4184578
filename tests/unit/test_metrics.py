"""Metrics: what Prometheus reads of a node."""

from __future__ import annotations

import shutil
import subprocess
import threading
from dataclasses import replace
from itertools import product

import pytest
from fake_views import NOW, FakeViews, mesh_peer
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from bgpd.model.status import SessionState
from bgpd.observe.metrics import Metrics, Scrape
from bgpd.observe.samples import MESH_DETAIL_LIMIT

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

MESH_30 = {"peer": "10.0.1.30", "peer_asn": "64512", "peer_name": "Mesh_10_0_1_30"}
TOR = {"peer": "fd00:1::1", "peer_asn": "65001", "peer_name": "Global_fd00_1__1_port_1179"}


class Shown:
    """A node's metrics, and the views that they show."""

    def __init__(self, views: FakeViews) -> None:
        self.views, self.metrics = views, Metrics()

    def render(self, accept: str = "") -> tuple[bytes, str]:
        return self.metrics.render(accept, Scrape.of(self.views))


def scrape(node: Shown) -> Samples:
    body, _ = node.render()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse_text(body.decode())
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


@pytest.fixture
def views() -> FakeViews:
    return FakeViews()


@pytest.fixture
def node(views: FakeViews) -> Shown:
    return Shown(views)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_has_nothing_to_say(node: Shown) -> None:
    node.metrics.observe_reconcile("compare", 0.1)
    node.metrics.count_reconcile_error("compare")
    body, _ = node.render()
    check = subprocess.run(["promtool", "check", "metrics"], input=body, capture_output=True, check=False)
    assert (check.returncode, check.stdout, check.stderr) == (0, b"", b"")


def test_no_sample_twice_and_every_family_has_help(node: Shown) -> None:
    body, content_type = node.render()
    assert content_type.startswith("text/plain")
    lines = [line.rsplit(" ", 1)[0] for line in body.decode().splitlines() if not line.startswith("#")]
    assert len(lines) == len(set(lines))
    for family in parse_text(body.decode()):
        assert family.documentation and family.documentation.endswith("."), family.name
    assert "_created" not in body.decode()


def test_openmetrics_when_asked_for(node: Shown) -> None:
    body, content_type = node.render("application/openmetrics-text;version=1.0.0,text/plain;q=0.1")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")
    assert {"bgpd_peer_flaps", "bgpd_ready"} <= {family.name for family in parse_openmetrics(body.decode())}


def test_the_node(views: FakeViews, node: Shown) -> None:
    samples = scrape(node)
    build = next(dict(labels) for name, labels in samples if name == "bgpd_build_info")
    assert build["version"] == "0.1.0" and build["exabgp_version"] and build["python_version"]
    assert value(samples, "bgpd_ready") == 1
    assert value(samples, "bgpd_component_up", component="kernel") == 1
    assert value(samples, "bgpd_config_last_reload_successful") == 1
    assert value(samples, "bgpd_config_hash") == 2**48 - 1
    assert value(samples, "bgpd_config_reloads_total", result="failure") == 0
    assert value(samples, "bgpd_datastore_up", backend="files") == 1
    assert value(samples, "bgpd_datastore_last_event_timestamp_seconds", backend="files") == NOW - 12
    assert value(samples, "bgpd_datastore_events_total", backend="files", kind="IPPool", action="add") == 2
    assert value(samples, "bgpd_datastore_events_total", backend="files", kind="Node", action="delete") == 0
    assert value(samples, "bgpd_datastore_errors_total", backend="files", reason="invalid") == 1
    assert value(samples, "bgpd_datastore_errors_total", backend="files", reason="yaml") == 0
    assert value(samples, "bgpd_datastore_problems", backend="files") == 1
    assert value(samples, "bgpd_routes_desired", kind="block", afi="ipv4") == 1
    assert value(samples, "bgpd_routes_desired", kind="block", afi="ipv6") == 0
    assert value(samples, "bgpd_routes_advertised", kind="borrowed", afi="ipv4") == 1
    assert value(samples, "bgpd_rib_routes", afi="ipv4", source="bgp") == 3
    assert value(samples, "bgpd_ipam_blocks", pool="default", afi="ipv4") == 1
    assert value(samples, "bgpd_ipam_borrowed_addresses", afi="ipv6") == 0
    assert value(samples, "bgpd_update_groups") == 2
    assert value(samples, "bgpd_last_routes_change_timestamp_seconds") == NOW - 300
    assert value(samples, "process_resident_memory_bytes") > 0


def test_the_kernel(node: Shown) -> None:
    samples = scrape(node)
    assert value(samples, "bgpd_fib_routes", afi="ipv4", type="unicast", table="main") == 3
    assert value(samples, "bgpd_fib_routes", afi="ipv6", type="blackhole", table="main") == 0
    assert value(samples, "bgpd_fib_drift_routes", afi="ipv6", kind="extra") == 0
    assert value(samples, "bgpd_fib_operations_total", afi="ipv4", operation="put", result="ok") == 9
    assert value(samples, "bgpd_fib_operations_total", afi="ipv6", operation="delete", result="error") == 0
    assert value(samples, "bgpd_fib_errors_total", afi="ipv4", operation="put", errno="EEXIST") == 1
    assert value(samples, "bgpd_fib_errors_total", afi="ipv6", operation="delete", errno="EINVAL") == 0
    assert value(samples, "bgpd_fib_repairs_total", afi="ipv4", kind="missing") == 2
    assert value(samples, "bgpd_fib_conflicts", afi="ipv4") == 1
    assert value(samples, "bgpd_fib_last_sync_timestamp_seconds") == NOW - 22
    assert value(samples, "bgpd_netlink_overruns_total") == 0


def test_peers(node: Shown) -> None:
    samples = scrape(node)
    assert value(samples, "bgpd_peer_up", **MESH_30) == 1
    assert value(samples, "bgpd_peer_state", **MESH_30) == 6
    assert value(samples, "bgpd_peer_graceful_restart_active", **MESH_30) == 1
    assert value(samples, "bgpd_adj_rib_out_queue_length", **MESH_30) == 7
    assert value(samples, "bgpd_peer_flaps_total", **MESH_30, reason="hold_timer") == 1
    assert value(samples, "bgpd_peer_flaps_total", **MESH_30, reason="tcp") == 0
    assert value(samples, "bgpd_peer_messages_received_total", **MESH_30, type="KEEPALIVE") == 125
    assert value(samples, "bgpd_peer_messages_sent_total", **MESH_30, type="ROUTE-REFRESH") == 0
    ipv4 = {"afi": "ipv4", "safi": "unicast"}
    assert value(samples, "bgpd_peer_prefixes_received", **MESH_30, **ipv4) == 3
    assert value(samples, "bgpd_peer_prefixes_accepted", **MESH_30, **ipv4) == 2
    assert value(samples, "bgpd_peer_prefixes_refused", **MESH_30, reason="filtered") == 1
    assert value(samples, "bgpd_peer_prefixes_refused", **MESH_30, reason="as_loop") == 2
    assert value(samples, "bgpd_peer_prefixes_refused", **TOR, reason="filtered") == 0
    assert value(samples, "bgpd_peer_max_prefixes", **MESH_30, **ipv4) == 0
    assert value(samples, "bgpd_peer_max_prefixes", **TOR, **ipv4) == 1000
    assert value(samples, "bgpd_peer_prefixes_advertised", **TOR, afi="ipv6", safi="unicast") == 0
    assert value(samples, "bgpd_peer_admin_up", **TOR) == 0
    assert value(samples, "bgpd_peer_state", **TOR) == 0
    down = {"peer": "10.0.1.33", "peer_asn": "64512", "peer_name": "Mesh_10_0_1_33"}
    notified = value(
        samples, "bgpd_peer_notifications_total", **down, direction="received", code="6", subcode="2"
    )
    assert notified == 1
    assert value(samples, "bgpd_mesh_peers", state="established") == 2
    assert value(samples, "bgpd_mesh_peers", state="idle") == 0


def test_a_peer_that_is_gone_leaves_no_series(views: FakeViews, node: Shown) -> None:
    assert any(("peer", "10.0.1.33") in labels for _, labels in scrape(node))
    views.peers_now = [peer for peer in views.peers_now if peer.address != "10.0.1.33"]
    assert not any(("peer", "10.0.1.33") in labels for _, labels in scrape(node))


def test_two_sessions_with_one_address_are_two_series(views: FakeViews, node: Shown) -> None:
    second = replace(views.peers_now[0], id="Global_10_0_1_20_port_1179", port=1179, kind="global")
    views.peers_now.append(second)
    test_no_sample_twice_and_every_family_has_help(node)
    assert value(scrape(node), "bgpd_peer_up", peer="10.0.1.20", peer_asn="64512", peer_name=second.id) == 1


def test_a_large_mesh_is_counted_not_listed(views: FakeViews, node: Shown) -> None:
    tor = views.peers_now[-1]
    mesh = [mesh_peer(f"n{i}", f"10.1.{i // 250}.{i % 250}") for i in range(MESH_DETAIL_LIMIT + 1)]
    mesh[0] = replace(mesh[0], state=SessionState.CONNECT)
    views.peers_now = [*mesh, tor]
    samples = scrape(node)
    assert {dict(labels)["peer"] for name, labels in samples if name == "bgpd_peer_up"} == {tor.address}
    assert value(samples, "bgpd_mesh_peers", state="established") == MESH_DETAIL_LIMIT
    assert value(samples, "bgpd_mesh_peers", state="connect") == 1
    views.peers_now = [*mesh[1:], tor]
    assert (
        value(scrape(node), "bgpd_peer_up", peer="10.1.0.1", peer_asn="64512", peer_name="Mesh_10_1_0_1") == 1
    )


def test_histograms(node: Shown) -> None:
    samples = scrape(node)
    assert value(samples, "bgpd_propagation_duration_seconds_count", kind="origination") == 0
    assert value(samples, "bgpd_fib_programming_duration_seconds_count") == 0
    node.metrics.observe_propagation("origination", 0.003)
    node.metrics.observe_fib_programming(0.02)
    node.metrics.observe_reconcile("apply", 0.2)
    samples = scrape(node)
    assert value(samples, "bgpd_propagation_duration_seconds_bucket", kind="origination", le="0.005") == 1
    assert value(samples, "bgpd_propagation_duration_seconds_bucket", kind="origination", le="0.0025") == 0
    assert value(samples, "bgpd_fib_programming_duration_seconds_sum") == pytest.approx(0.02)
    assert value(samples, "bgpd_reconcile_duration_seconds_count", stage="apply") == 1
    assert value(samples, "bgpd_reconcile_errors_total", stage="apply") == 0
    node.metrics.count_reconcile_error("apply")
    assert value(scrape(node), "bgpd_reconcile_errors_total", stage="apply") == 1


def test_a_snapshot_is_rendered_elsewhere_and_later(views: FakeViews, node: Shown) -> None:
    scrape_then = Scrape.of(views)
    views.peers_now = []
    bodies: list[bytes] = []
    thread = threading.Thread(target=lambda: bodies.append(node.metrics.render("", scrape_then)[0]))
    thread.start()
    thread.join()
    assert b'bgpd_peer_up{peer="10.0.1.30"' in bodies[0]
    assert b"bgpd_peer_up{" not in node.render()[0]


def test_before_anything_is_known(views: FakeViews, node: Shown) -> None:
    """A daemon that has just started is scraped too."""
    early = replace(
        views.status(),
        asn=None,
        ready=False,
        in_sync=False,
        fib={},
        last_routes_change=None,
        config_error="bad",
    )
    views.peers_now = []
    body, _ = node.metrics.render("", Scrape.of(views)._replace(status=early))
    samples = {s.name: s.value for family in parse_text(body.decode()) for s in family.samples}
    assert samples["bgpd_ready"] == 0 and samples["bgpd_config_last_reload_successful"] == 0
    assert samples["bgpd_last_routes_change_timestamp_seconds"] == 0
    assert samples["bgpd_fib_last_sync_timestamp_seconds"] == 0
    assert "bgpd_fib_routes" not in samples


def test_what_may_happen_stands_at_zero_before_it_does(views: FakeViews) -> None:
    """``increase()`` of a series that begins with 1 is 0: the first event would be missed."""
    samples = scrape(Shown(views))
    for stage in ("apply", "compare"):
        assert value(samples, "bgpd_reconcile_duration_seconds_count", stage=stage) == 0
        assert value(samples, "bgpd_reconcile_errors_total", stage=stage) == 0
    peer = views.peers_now[0]
    for direction, code, subcode in product(("received", "sent"), ("6",), map(str, range(1, 11))):
        labels = {"peer_name": peer.id, "direction": direction, "code": code, "subcode": subcode}
        found = [n for (name, pairs), n in samples.items() if {*labels.items()} <= {*pairs}]
        assert found, labels
