"""``bgpctl node-status`` and ``bgpctl health --calico``, held to what Calico's own commands printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bgpd.cli import calico

OK = (Path(__file__).parents[1] / "data" / "calico-3.28" / "node-status-ok.txt").read_text()


def peer(address: str, kind: str, state: str, since: float = 0.0, **more: Any) -> dict[str, Any]:
    found = {
        "id": address,
        "address": address,
        "kind": kind,
        "state": state,
        "since": since,
        "last_error": "",
    }
    return found | more


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Any:
    import time

    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_the_table_is_calicoctls_to_the_letter() -> None:
    """Calico's answer to a socket that said the same of the same peers, but for one row whose time was two words."""
    table = [line for line in OK.splitlines() if line.startswith(("+", "|"))]
    expected = [line for line in table if "10.0.0.14" not in line]
    since = 1_764_231_846.0  # 2025-11-27 08:24:06
    peers = [
        peer("10.0.0.12", "mesh", "established", since + 200, last_error="of the session before"),
        peer("10.0.0.13", "mesh", "active", since + 194, last_error="Socket: Connection refused"),
        peer("192.0.2.1", "node", "connect", since + 194, id="Node_192_0_2_1_port_1790"),
        peer("192.0.2.9", "global", "idle", since - 86400, last_error="Received: Administrative shutdown"),
        peer("10.65.0.9", "local-workload", "established", since),
    ]
    lines = list(calico.node_status(peers, since + 600))
    found = [line for line in lines if line.startswith(("+", "|"))]
    assert found == [line.replace("2026-11-26", "2025-11-26") for line in expected]
    assert lines[-3:] == ["IPv6 BGP status", "No IPv6 peers found.", ""]


def test_words_of_others_stay_in_their_cell() -> None:
    row = peer("fd00::1", "mesh", "active", last_error="a\nb\x1b[31m" + "c" * 200)
    lines = list(calico.node_status([row], 10.0))
    assert all(line.isprintable() for line in lines)
    assert len({len(line) for line in lines if line.startswith(("+", "|"))}) == 1


def status(age: float, up: int, wanted: int, **more: Any) -> dict[str, Any]:
    checks = [{"name": "config", "ok": True, "detail": ""}]
    found = {
        "started": 1000.0 - age,
        "peers_up": up,
        "peers_wanted": wanted,
        "in_sync": True,
        "checks": checks,
    }
    return found | more


@pytest.mark.parametrize(
    ("found", "ok"),
    [
        (status(5, 3, 3), True),
        (status(5, 2, 3), False),
        (status(5, 3, 3, in_sync=False), False),
        (status(5, 0, 0), True),
        (status(60, 1, 3), True),
        (status(60, 1, 3, in_sync=False), True),
        (status(60, 0, 3), False),
        (status(60, 0, 0), True),
        (status(60, 3, 3, checks=[{"name": "kernel", "ok": False, "detail": "paused"}]), False),
    ],
)
def test_ready_as_calico_node_means_it(found: dict[str, Any], ok: bool) -> None:
    checks = calico.ready(found, 1000.0)
    assert all(check["ok"] for check in checks) is ok
    assert checks
