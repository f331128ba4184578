"""A topology under the real containerlab: what is missing for it, deployed, and destroyed without a trace.

``make containerlab`` holds the files of ``containerlab/checks`` against it, as ``lab`` does in namespaces. containerlab
writes ``clab-NAME/`` beside the topology: what the nodes share is made in it before, and it goes with the rest.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from subprocess import CompletedProcess

from bgpd.config.yaml import load_documents
from testing.lab.checks import Checks
from testing.lab.lab import LabError
from testing.lab.topology import LAB_DIRECTORY, Topology

DEPLOY_TIME = 120.0


def missing(checks: Checks) -> str:
    """Why these topologies cannot be deployed here; empty where they can."""
    if os.geteuid() != 0:
        return "containers with links need root"
    for command in ("containerlab", "docker"):
        if shutil.which(command) is None:
            return f"no {command} here (https://containerlab.dev/install)"
    if _call(["docker", "info"], 20).returncode:
        return "no Docker engine answers"
    for image in sorted(_images(checks.topology)):
        if _call(["docker", "image", "inspect", image], 20).returncode:
            return f"no image {image}: containerlab/README.md says how it is built"
    return ""


def _images(topology: Path) -> set[str]:
    sections = load_documents(topology.read_bytes(), str(topology))[0].value["topology"]
    settings = [
        sections.get("defaults", {}),
        *sections.get("groups", {}).values(),
        *sections["nodes"].values(),
    ]
    return {each["image"] for each in settings if each and "image" in each}


class Containers:
    """The nodes of a deployed lab. Fulfils ``checks.Ground``."""

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, node: str, command: Sequence[str]) -> CompletedProcess[str]:
        """See ``Ground``."""
        return _call(["docker", "exec", f"clab-{self.name}-{node}", *command], 60)


@contextmanager
def deployed(checks: Checks) -> Iterator[Containers]:
    """The topology, laid by containerlab; ``LabError`` where it could not be, or left something."""
    topology = checks.load()
    directory = topology.source.parent / f"clab-{topology.name}"
    for bind in _shared(topology):
        (directory / bind).mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **checks.env, "CLAB_VERSION_CHECK": "disable"}
    words = ["--topo", str(topology.source)]
    try:
        done = _call(["containerlab", "deploy", *words], DEPLOY_TIME, environment)
        if done.returncode or "ERRO" in done.stderr:  # a failed exec is a line of its log, and exit code 0
            raise LabError(f"containerlab deploy: exit {done.returncode}: {done.stderr.strip()}")
        yield Containers(topology.name)
    finally:
        _call(["containerlab", "destroy", *words, "--cleanup"], DEPLOY_TIME, environment)
    left = _call(
        ["docker", "ps", "--all", "--quiet", "--filter", f"label=containerlab={topology.name}"], 20
    ).stdout
    if left.strip() or directory.exists():
        raise LabError(f"containerlab destroy left {left.strip() or directory}")


def _shared(topology: Topology) -> set[Path]:
    binds = (bind.source for node in topology.nodes.values() for bind in node.binds)
    return {source.relative_to(LAB_DIRECTORY) for source in binds if LAB_DIRECTORY in source.parents}


def _call(
    command: Sequence[str], seconds: float, environment: dict[str, str] | None = None
) -> CompletedProcess[str]:
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        env=environment,
        stdin=subprocess.DEVNULL,
    )
