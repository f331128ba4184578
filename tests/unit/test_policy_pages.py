"""docs/filters.md and docs/communities.md: each example does what the page says that it prints."""

from __future__ import annotations

import io
import re
import shlex
import sys
from pathlib import Path

import pytest

from bgpd.cli import daemon

DOCS = Path(__file__).parents[2] / "docs"
CLUSTER = """\
kind: Node
apiVersion: projectcalico.org/v3
metadata: {name: worker1}
spec: {bgp: {ipv4Address: 10.0.1.31/24}}
---
kind: Node
apiVersion: projectcalico.org/v3
metadata: {name: worker2}
spec: {bgp: {ipv4Address: 10.0.1.32/24}}
---
kind: IPPool
apiVersion: projectcalico.org/v3
metadata: {name: default-ipv4}
spec: {cidr: 10.48.0.0/16, blockSize: 26}
---
kind: BlockAffinity
apiVersion: crd.projectcalico.org/v1
metadata: {name: worker1-10-48-0-0-26}
spec: {cidr: 10.48.0.0/26, node: worker1, state: confirmed, deleted: "false"}
"""
TOR = """\
kind: BGPPeer
apiVersion: projectcalico.org/v3
metadata: {name: tor}
spec: {peerIP: 192.0.2.1, asNumber: 65001}
"""


def examples() -> list[tuple[str, str, str, str]]:
    """(page, the resources before it, command, output); resources hold until the next ones."""
    found = []
    for page in ("filters.md", "communities.md"):
        resources = ""
        for kind, text in re.findall(
            r"^```(yaml|console)\n(.*?)^```$", (DOCS / page).read_text(), re.M | re.S
        ):
            if kind == "yaml":
                resources = text
                continue
            lines = text.splitlines()
            for command, output in zip(lines[::2], lines[1::2], strict=True):
                found.append((page, resources, command, output))
    return found


@pytest.mark.parametrize(("page", "resources", "command", "output"), examples())
def test_example(
    page: str,
    resources: str,
    command: str,
    output: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    directory = tmp_path / "resources"
    directory.mkdir()
    (directory / "cluster.yaml").write_text(CLUSTER)
    (directory / "page.yaml").write_text(resources)
    if "kind: BGPPeer" not in resources:
        (directory / "tor.yaml").write_text(TOR)
    monkeypatch.chdir(tmp_path)
    prompt, echo, route, pipe, program, *arguments = shlex.split(command)
    assert (prompt, echo, pipe, program) == ("$", "echo", "|", "bgpd")
    monkeypatch.setattr(sys, "stdin", io.StringIO(route))
    assert daemon.main(arguments) == 0
    assert capsys.readouterr() == (f"{output}\n", ""), page


def test_the_pages_have_examples() -> None:
    assert {page for page, *_ in examples()} == {"filters.md", "communities.md"}
