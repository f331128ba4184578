"""The small container runtime of the shipped topology: what a restart of its container leaves is no pod."""

from __future__ import annotations

import argparse
import json
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "containerlab" / "configs" / "pod"


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    loader = SourceFileLoader("lab_pod", str(SCRIPT))
    module: Any = module_from_spec(spec_from_loader("lab_pod", loader) or pytest.fail("no script"))
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    loader.exec_module(module)
    module.PODS, module.NAMESPACES = tmp_path / "pods", tmp_path / "netns"
    module.NAMESPACES.mkdir()
    module.calls = []

    def network(verb: str, of: dict[str, Any], capabilities: dict[str, Any]) -> dict[str, Any]:
        module.calls.append((verb, of["id"]))
        return {"ips": [{"address": "10.48.0.1/32"}]}

    def run(words: list[str], check: bool) -> None:
        if words[:3] == ["ip", "netns", "add"]:
            (module.NAMESPACES / words[3]).touch(exist_ok=False)  # as iproute2 does before it mounts there

    module.network = network
    monkeypatch.setattr(module.subprocess, "run", run)
    return module


def add(pod: Any, name: str) -> dict[str, Any]:
    pod.add_pod(argparse.Namespace(name=name, namespace="default", annotation=[]))
    return dict(json.loads((pod.PODS / f"{name}.json").read_text()))


def test_what_a_restart_left_is_taken_away_and_its_address_given_back(pod: Any) -> None:
    """The files outlast the container's namespaces: an empty file in /run/netns, and the pod on record."""
    before = add(pod, "web")
    after = add(pod, "web")
    assert pod.calls == [("ADD", before["id"]), ("DEL", before["id"]), ("ADD", after["id"])]
    (pod.PODS / "web.json").unlink()
    assert add(pod, "web")["id"] not in (before["id"], after["id"])


def test_a_pod_that_lives_is_not_made_again(pod: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    add(pod, "web")
    monkeypatch.setattr(pod.os.path, "ismount", lambda path: path == pod.NAMESPACES / "web")
    with pytest.raises(FileExistsError):
        add(pod, "web")
