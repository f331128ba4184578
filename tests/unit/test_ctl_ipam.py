"""``bgpctl ipam``, ``get``, ``apply`` and ``delete`` on a directory of resources."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bgpd.cli import ctl
from bgpd.datastore.files_store import FilesStore
from bgpd.datastore.store import Executor
from bgpd.model.ipam import Kind
from bgpd.rules.ipam.assign import assign
from tests.unit.ipam_ground import NOW, ask

POOL = """\
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: %s}
spec: {cidr: %s, blockSize: %d, natOutgoing: true}
"""


def with_field(field: str, cidr: str = "10.49.0.0/24", size: int = 26) -> str:
    """A pool that is right but for a field."""
    return (POOL % ("q", f'"{cidr}"', size)).replace("natOutgoing: true", field)


NODES = "".join(
    f"---\napiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {{name: {name}}}\nspec: {{}}\n"
    for name in ("node-a", "node-b")
)
Bgpctl = Callable[..., tuple[int, str, str]]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "resources"
    made.mkdir()
    (made / "all.yaml").write_text(POOL % ("p", "10.48.0.0/29", 30) + NODES)
    return made


@pytest.fixture
def bgpctl(directory: Path, capsys: pytest.CaptureFixture[str]) -> Bgpctl:
    def run(*words: str) -> tuple[int, str, str]:
        code = ctl.main([*words, "--resources", str(directory)])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def add(directory: Path, container: str, node: str = "node-a", **more: Any) -> str:
    request = ask(container, node, **more)
    return str(Executor(FilesStore(directory)).run(assign(request, NOW))[0].address)


def fill(directory: Path) -> list[str]:
    pod = {"namespace": "shop", "pod": "db-0"}
    addresses = [add(directory, f"a{number}", "node-a") for number in range(7)]
    return [*addresses, add(directory, "b", "node-b", secondary=pod)]


def test_use_is_shown_as_calicoctl_shows_it(directory: Path, bgpctl: Bgpctl) -> None:
    fill(directory)
    code, out, _ = bgpctl("ipam", "show", "--show-blocks")
    assert code == 0
    assert out.splitlines()[1:4] == [
        "| GROUPING |     CIDR     | IPS TOTAL | IPS IN USE | IPS RESERVED | IPS FREE |",
        "+----------+--------------+-----------+------------+--------------+----------+",
        "| IP Pool  | 10.48.0.0/29 |         8 |   8 (100%) |       0 (0%) |   0 (0%) |",
    ]
    assert "| Block    | 10.48.0.4/30 |         4 |   4 (100%) |" in out
    assert json.loads(bgpctl("ipam", "show", "-o", "json")[1])["rows"][0]["in_use"] == 8


def test_borrowed_addresses_and_who_has_one(directory: Path, bgpctl: Bgpctl) -> None:
    address = fill(directory)[-1]
    code, out, _ = bgpctl("ipam", "show", "--show-borrowed")
    assert code == 0 and f"| {address} | node-b         | 10.48.0." in out and "| shop/db-0" in out
    code, out, _ = bgpctl("ipam", "show", "--ip", address)
    assert out.splitlines()[:2] == [f"IP {address} is in use", "Handle ID: net.b"] and "  pod: db-0" in out
    assert bgpctl("ipam", "show", "--ip", "192.0.2.1")[:2] == (0, "192.0.2.1 is not assigned\n")


def test_release_by_address_handle_and_node(directory: Path, bgpctl: Bgpctl) -> None:
    addresses = fill(directory)
    assert bgpctl("ipam", "release", "--ip", addresses[0])[0] == 0
    code, _, err = bgpctl("ipam", "release", "--ip", addresses[0])
    assert code == 1 and f"IP address {addresses[0]} is not assigned" in err
    assert addresses[-1] in bgpctl("ipam", "release", "--handle", "net.b")[1]
    code, _, err = bgpctl("ipam", "release", "--node", "node-a")
    assert code == 1 and "--force" in err
    assert "10.48.0.0/30" in bgpctl("ipam", "release", "--node", "node-a", "--force")[1]
    assert FilesStore(directory).list(Kind.AFFINITY, "host:node-a") == ()


def test_check_finds_what_contradicts_itself(directory: Path, bgpctl: Bgpctl) -> None:
    fill(directory)
    assert bgpctl("ipam", "check") == (0, "Check complete; found 0 problems.\n", "")
    shutil.rmtree(directory / "ipamhandles")
    next(directory.glob("blockaffinity.*")).unlink()
    code, out, _ = bgpctl("ipam", "check")
    assert code == 1 and "without an affinity" in out and "missing-handle net.b" in out
    assert out.endswith("found 9 problems.\n")


def test_settings_that_contradict_each_other_are_refused(directory: Path, bgpctl: Bgpctl) -> None:
    code, _, err = bgpctl("ipam", "configure", "--max-blocks-per-host", "2")
    assert code == 1 and "strictAffinity" in err
    code, out, _ = bgpctl("ipam", "configure", "--strictaffinity", "true", "--max-blocks-per-host", "2")
    assert code == 0 and "Successfully set StrictAffinity to: true" in out
    assert "| MaxBlocksPerHost   | 2     |" in bgpctl("ipam", "show", "--show-configuration")[1]
    code, _, err = bgpctl("ipam", "configure")
    assert code == 1 and "nothing to set" in err


def test_a_pool_comes_and_goes(directory: Path, bgpctl: Bgpctl, tmp_path: Path) -> None:
    file = tmp_path / "pool.yaml"
    file.write_text(POOL % ("external-pool", "10.48.2.0/24", 29))
    assert bgpctl("apply", "-f", str(file))[1] == "IPPool external-pool: created\n"
    assert bgpctl("apply", "-f", str(file))[1] == "IPPool external-pool: configured\n"
    out = bgpctl("get", "ippools")[1]
    assert out.splitlines()[1].split() == ["external-pool", "10.48.2.0/24", "all()"]
    wide = bgpctl("get", "ippools", "-o", "wide")[1].splitlines()
    assert wide[1].split() == [
        "external-pool",
        "10.48.2.0/24",
        "true",
        "Never",
        "Never",
        "false",
        "false",
        "all()",
    ]
    assert "cidr: 10.48.2.0/24" in bgpctl("get", "ippools", "external-pool", "-o", "yaml")[1]
    address = add(directory, "c", ipv4_pools=("external-pool",))
    code, _, err = bgpctl("delete", "ippool", "external-pool")
    assert code == 1 and "1 addresses in use" in err
    assert bgpctl("delete", "ippool", "external-pool", "--force")[0] == 0
    assert "external-pool" not in bgpctl("get", "ippools")[1]
    (block,) = FilesStore(directory).list(Kind.BLOCK)
    assert block.value.owner is None and bgpctl("ipam", "show", "--ip", address)[1].startswith(
        f"IP {address} is in"
    )
    assert bgpctl("ipam", "release", "--ip", address)[0] == 0
    assert FilesStore(directory).list(Kind.BLOCK) == (), "nobody's block goes with its last address"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (POOL % ("q", "10.48.0.0/24", 26), "overlaps 10.48.0.0/29 of pool p"),
        (POOL % ("p", "10.48.0.0/28", 30), "spec.cidr cannot be changed"),
        (POOL % ("p", "10.48.0.0/29", 31), "spec.blockSize cannot be changed"),
        (POOL % ("q", "10.49.0.0/29", 26), "do not fit"),
        (POOL % ("q", "169.254.0.0/24", 26), "link-local"),
        (POOL % ("q", "10.49.0.1/24", 26), "host bits"),
        (POOL % ("q", "10.49.0.0/24", 19), "20 to 32"),
        (with_field("ipipMode: Always, vxlanMode: CrossSubnet"), "cannot both be on"),
        (with_field("ipipMode: Sometimes"), "ipipMode"),
        (with_field("nodeSelector: global()"), "global()"),
        (with_field("nodeSelector: 'has(x) && global ( )'"), "global()"),
        (with_field("nodeSelector: 'a =='"), "spec.nodeSelector"),
        (with_field("namespaceSelector: '('"), "spec.namespaceSelector"),
        (with_field("allowedUses: [Pods]"), "spec.allowedUses"),
        (with_field("assignmentMode: Never"), "spec.assignmentMode"),
        (with_field("allowedUses: [Tunnel], namespaceSelector: all()"), "spec.namespaceSelector"),
        (with_field("allowedUses: [LoadBalancer, Workload]"), "no other use"),
        (with_field("allowedUses: [LoadBalancer], vxlanMode: Always"), "spec.vxlanMode"),
        (with_field("allowedUses: [LoadBalancer], nodeSelector: has(x)"), "spec.nodeSelector"),
        (with_field("allowedUses: [LoadBalancer], disableBGPExport: true"), "spec.disableBGPExport"),
        (with_field("ipipMode: Always", "fd00:49::/112", 122), "IPIP carries IPv4 only"),
        ("kind: Pod\napiVersion: v1\nmetadata: {name: x}\n", "'Pod'"),
        ("kind: IPPool\napiVersion: v2\nmetadata: {name: x}\n", "apiVersion"),
        ("a: [", "line"),
        ("just text", "just text"),
    ],
)
def test_what_the_api_would_refuse_is_refused_and_nothing_is_written(
    directory: Path, bgpctl: Bgpctl, tmp_path: Path, text: str, words: str
) -> None:
    file = tmp_path / "new.yaml"
    file.write_text(text)
    before = {path: path.read_text() for path in directory.glob("*.*") if path.is_file()}
    code, out, err = bgpctl("apply", "-f", str(file))
    assert code == 1 and out == "" and (words in err or str(file) in err)
    assert {
        p: p.read_text() for p in directory.glob("*.*") if p.is_file() and p.name != ".ipam.lock"
    } == before


def test_a_directory_that_is_not_there_is_named(bgpctl: Bgpctl, directory: Path) -> None:
    shutil.rmtree(directory)
    for words in (("ipam", "show"), ("ipam", "check"), ("get", "ippools")):
        code, _, err = bgpctl(*words)
        assert code == 1 and str(directory) in err
