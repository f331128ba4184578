"""A real Prometheus scrapes a node and takes every expression of the alerts and the boards."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

UNIT = Path(__file__).parent.parent / "unit"
ROOT = UNIT.parent.parent

pytestmark = pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not installed")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def node() -> Iterator[int]:
    """What a node serves at /metrics."""
    sys.path.insert(0, str(UNIT))
    from fake_views import FakeViews

    from bgpd.observe.metrics import Metrics, Scrape

    metrics, views = Metrics(), FakeViews()
    metrics.observe_fib_programming(0.004)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body, content_type = metrics.render(self.headers.get("Accept", ""), Scrape.of(views))
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Not of interest."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def prometheus(node: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prometheus that has scraped the node."""
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
        f"rule_files: ['{ROOT}/prometheus/alerts.yml']\n"
        f"scrape_configs: [{{job_name: bgpd, static_configs: [{{targets: ['127.0.0.1:{node}']}}]}}]\n"
    )
    address = f"127.0.0.1:{free_port()}"
    options = [f"--web.listen-address={address}", f"--storage.tsdb.path={folder}/data"]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            ["prometheus", f"--config.file={folder}/prometheus.yml", *options], stdout=log, stderr=log
        ) as process,
    ):
        try:
            deadline = time.monotonic() + 30
            while not _is_up(address):
                assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.2)
            yield address
        finally:
            process.terminate()
            process.wait(10)


def _ask(address: str, path: str, **query: str) -> dict[str, object]:
    url = f"http://{address}/api/v1/{path}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        found: dict[str, object] = json.load(answer)["data"]
        return found


def _is_up(address: str) -> bool:
    try:
        return bool(_ask(address, "query", query='up{job="bgpd"} == 1')["result"])
    except OSError:
        return False


def test_every_expression_is_taken(prometheus: str) -> None:
    boards = [json.loads(path.read_text()) for path in sorted((ROOT / "grafana").glob("*.json"))]
    panels = [panel for board in boards for panel in board["panels"]]
    assert len(panels) > 30
    empty = []
    for panel in panels:
        for target in panel["targets"]:
            expression = target["expr"].replace("$instance", ".*").replace("$__rate_interval", "1m")
            found = _ask(prometheus, "query", query=expression)
            if not found["result"] and "rate(" not in expression and "increase(" not in expression:
                empty.append((panel["title"], expression))
    assert not empty, "these ask for something that a node does not have"


def test_the_alerts_are_loaded_and_well(prometheus: str) -> None:
    groups = _ask(prometheus, "rules")["groups"]
    assert isinstance(groups, list)
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) > 15
    assert {rule["name"]: rule.get("lastError") for rule in rules if rule.get("lastError")} == {}
