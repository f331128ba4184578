"""Alert rules and boards: whole, explained, and about metrics that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from testing.reference import metric_families

ROOT = Path(__file__).parent.parent.parent
RULES: list[dict[str, Any]] = yaml.safe_load((ROOT / "prometheus/alerts.yml").read_text())["groups"]
ALERTS = [rule for group in RULES for rule in group["rules"]]
BOARDS = sorted((ROOT / "grafana").glob("*.json"))


def series() -> dict[str, set[str]]:
    """Name -> labels of every series that a node or Prometheus itself has."""
    found: dict[str, set[str]] = {"up": set()}
    for family in metric_families():
        labels = set(getattr(family, "_labelnames", ()))
        labels.update(label for sample in family.samples for label in sample.labels)
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(
            family.type, ("",)
        )
        for suffix in suffixes:
            found[family.name + suffix] = labels | {"instance", "job"}
    return found


SERIES = series()


def board_expressions() -> Iterator[tuple[str, str]]:
    for path in BOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", ()):
                yield f"{path.name}: {panel['title']}", target["expr"]


EXPRESSIONS = [(alert["alert"], alert["expr"]) for alert in ALERTS] + list(board_expressions())


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS, ids=[where for where, _ in EXPRESSIONS])
def test_an_expression_asks_for_metrics_and_labels_that_there_are(where: str, expression: str) -> None:
    names = set(re.findall(r"\b(?:bgpd_|process_)\w+", expression))
    assert names or "up{" in expression
    assert names <= set(SERIES), f"{where}: {names - set(SERIES)}"
    labels = {
        label
        for selector in re.findall(r"\{([^}]*)\}", expression)
        for label in re.findall(r"(\w+)[!=]", selector)
    }
    labels |= {
        label.strip()
        for clause in re.findall(r"\b(?:by|on|ignoring)\s*\(([^)]*)\)", expression)
        for label in clause.split(",")
    }
    known = {"instance", "job", "le"}.union(*(SERIES[name] for name in names))
    assert labels <= known, f"{where}: {labels - known}"


@pytest.mark.parametrize("alert", ALERTS, ids=[alert["alert"] for alert in ALERTS])
def test_an_alert_has_words_and_a_runbook(alert: dict[str, Any]) -> None:
    notes = alert["annotations"]
    assert notes["summary"] and "{{ $labels.instance }}" in notes["summary"] and notes["description"]
    assert alert["labels"]["severity"] in ("warning", "critical")
    page, anchor = notes["runbook_url"].split("#")
    headings = re.findall(r"^## (\w+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert anchor == alert["alert"].lower() and alert["alert"] in headings


def test_there_is_no_runbook_without_its_alert() -> None:
    headings = re.findall(r"^## (\w+)$", (ROOT / "docs/runbooks.md").read_text(), re.MULTILINE)
    assert headings == [alert["alert"] for alert in ALERTS]


def test_the_operators_rules_are_the_same() -> None:
    rule, monitor = yaml.safe_load_all((ROOT / "prometheus/operator.yaml").read_text())
    assert rule["spec"]["groups"] == RULES
    daemons = yaml.safe_load((ROOT / "config/kubernetes/base/daemonset.yaml").read_text())
    pod = daemons["spec"]["template"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    ports = {port["name"] for each in pod["spec"]["containers"] for port in each.get("ports", ())}
    assert {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]} <= ports


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
@pytest.mark.parametrize("command", [["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]])
def test_promtool_agrees(command: list[str]) -> None:
    found = subprocess.run(
        ["promtool", *command],
        cwd=ROOT / "prometheus",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
