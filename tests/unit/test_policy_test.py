"""``bgpd policy test``: routes against a directory of resources, and each mistake in its input named."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bgpd.cli import daemon
from bgpd.rules.exports import ExportRefusal

RESOURCES = """\
kind: Node
apiVersion: projectcalico.org/v3
metadata: {name: worker2, labels: {rack: r1}}
spec: {bgp: {ipv4Address: 10.0.1.31/24, ipv6Address: "fd00::31/64"}}
---
kind: Node
apiVersion: projectcalico.org/v3
metadata: {name: worker1}
spec: {bgp: {ipv4Address: 10.0.1.30/24}}
---
kind: IPPool
apiVersion: projectcalico.org/v3
metadata: {name: default-ipv4}
spec: {cidr: 10.48.0.0/16, blockSize: 26}
---
kind: IPPool
apiVersion: projectcalico.org/v3
metadata: {name: inside}
spec: {cidr: 10.49.0.0/16, blockSize: 26, disableBGPExport: true}
---
kind: BlockAffinity
apiVersion: crd.projectcalico.org/v1
metadata: {name: worker2-10-48-0-0-26}
spec: {cidr: 10.48.0.0/26, node: worker2, state: confirmed, deleted: "false"}
---
kind: BGPConfiguration
apiVersion: projectcalico.org/v3
metadata: {name: default}
spec:
  asNumber: 64512
  serviceClusterIPs: [{cidr: 10.96.0.0/12}]
  communities: [{name: pods, value: "64512:100"}]
  prefixAdvertisements: [{cidr: 10.48.0.0/16, communities: [pods, "64512:1:2"]}]
---
kind: BGPPeer
apiVersion: projectcalico.org/v3
metadata: {name: tor}
spec:
  peerIP: 192.0.2.1
  asNumber: 65001
  filters: [gone, to-tor]
  password: {secretKeyRef: {name: not-in-git, key: tor}}
---
kind: BGPPeer
apiVersion: projectcalico.org/v3
metadata: {name: plain}
spec: {peerIP: 192.0.2.2, asNumber: 65002}
---
kind: BGPPeer
apiVersion: projectcalico.org/v3
metadata: {name: six}
spec: {peerIP: "fd00::99", asNumber: 65001, filters: [to-tor]}
---
kind: BGPFilter
apiVersion: projectcalico.org/v3
metadata: {name: to-tor}
spec:
  importV4:
    - {cidr: 0.0.0.0/0, matchOperator: Equal, action: Accept, operations: [{setPriority: {value: 512}}]}
    - {asPathPrefix: [65001, 65009], action: Accept}
    - {action: Reject, cidr: 10.0.0.0/8, matchOperator: In}
  importV6: [{communities: {values: ["65001:1"]}, action: Reject}]
  exportV4:
    - {cidr: 10.48.0.0/16, matchOperator: In, prefixLength: {min: 32}, source: RemotePeers, action: Reject}
    - {cidr: 0.0.0.0/0, matchOperator: Equal, interface: "eth*", action: Accept, operations: [
        {addCommunity: {value: "64512:7"}}, {prependASPath: {prefix: [64512, 64513]}}]}
"""

TOR, PLAIN, SIX, MESH = "Global_192_0_2_1", "Global_192_0_2_2", "Global_fd00__99", "Mesh_10_0_1_30"
PODS = {"communities": ["64512:100"], "large_communities": ["64512:1:2"]}
OWN = {"as_path": [64512], "local_pref": None}
NOTHING: dict[str, Any] = {"communities": [], "large_communities": []}

Run = Callable[..., tuple[int, list[dict[str, Any]], str]]


@pytest.fixture
def resources(tmp_path: Path) -> Path:
    directory = tmp_path / "resources"
    directory.mkdir()
    (directory / "all.yaml").write_text(RESOURCES)
    return directory


@pytest.fixture
def run(resources: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs it on a document (or text, or none for the files named); returns the code, the answers and stderr."""

    def go(
        document: Any,
        peer: str = TOR,
        direction: str = "export",
        node: str = "worker2",
        files: tuple[str, ...] = (),
    ) -> tuple[int, list[dict[str, Any]], str]:
        path = tmp_path / "route.json"
        if document is not None:
            path.write_text(document if isinstance(document, str) else json.dumps(document))
            files = (str(path),)
        code = daemon.main(
            [
                *("policy", "test", "--resources", str(resources), "--node", node),
                *("--peer", peer, "--direction", direction, *files),
            ]
        )
        out, err = capsys.readouterr()
        return code, [json.loads(line) for line in out.splitlines()], err

    return go


@pytest.mark.parametrize(
    ("peer", "route", "expected"),
    [
        (
            TOR,
            {"prefix": "10.48.0.0/26", "source": "static"},
            {"action": "accept", "rule": "built-in: BlockAffinity worker2-10-48-0-0-26", **OWN, **PODS},
        ),
        (
            MESH,
            {"prefix": "10.48.0.0/26", "source": "static"},
            {"action": "accept", "as_path": [], "local_pref": 2147483647 - 1024, **PODS},
        ),
        (
            TOR,
            {"prefix": "10.48.0.7/32", "source": "kernel", "interface": "cali12ab"},
            {
                "action": "reject",
                "rule": "built-in: inside 10.48.0.0/26, a block of this node",
                "as_path": [],
            },
        ),
        (
            TOR,
            {"prefix": "10.48.1.7/32", "source": "kernel", "interface": "cali12ab", "metric": 1024},
            {"action": "accept", "rule": "built-in: pool default-ipv4", **OWN, **PODS},
        ),
        (
            TOR,
            {"prefix": "10.48.1.9/32", "source": "direct", "interface": "tunl0"},
            {"action": "accept", "rule": "built-in: pool default-ipv4", **OWN},
        ),
        (
            MESH,
            {"prefix": "10.48.1.9/32", "source": "direct", "interface": "tunl0"},
            {
                "action": "reject",
                "rule": "built-in: it leads over an interface that Felix brings to the other nodes by itself",
            },
        ),
        (
            TOR,
            {"prefix": "10.49.0.7/32", "source": "kernel", "interface": "cali12ab"},
            {"action": "reject", "rule": "built-in: IPPool inside has disableBGPExport"},
        ),
        (
            TOR,
            {"prefix": "10.96.0.0/12", "source": "static"},
            {
                "action": "accept",
                "rule": "built-in: BGPConfiguration default serviceClusterIPs",
                **OWN,
                **NOTHING,
            },
        ),
        (
            TOR,
            {"prefix": "203.0.113.0/24", "source": "static"},
            {"action": "reject", "rule": "built-in: no filter accepts it, and by itself it is not announced"},
        ),
        (
            TOR,
            {
                "prefix": "0.0.0.0/0",
                "source": "kernel",
                "interface": "eth0",
                "next_hop": "10.0.1.1",
                "local_pref": None,
            },
            {
                "action": "accept",
                "rule": "to-tor exportV4[1]",
                "as_path": [64512, 64512, 64513],
                "local_pref": None,
                "communities": ["64512:7"],
                "large_communities": [],
            },
        ),
        (
            PLAIN,
            {"prefix": "0.0.0.0/0", "source": "kernel", "interface": "eth0", "next_hop": "10.0.1.1"},
            {"action": "reject", "rule": "built-in: no filter accepts it, and by itself it is not announced"},
        ),
        (
            TOR,
            {"prefix": "172.17.0.1/32", "source": "direct", "interface": "kube-ipvs0"},
            {"action": "reject", "rule": "built-in: addresses of kube-ipvs0 are not even offered to filters"},
        ),
        (
            TOR,
            {"prefix": "10.48.2.0/26", "source": "bgp", "next_hop": "10.0.1.30", "communities": ["65000:1"]},
            {
                "action": "accept",
                "rule": "built-in: pool default-ipv4",
                "as_path": [64512],
                "communities": ["65000:1", "64512:100"],
                "large_communities": ["64512:1:2"],
            },
        ),
        (
            TOR,
            {"prefix": "10.48.2.7/32", "source": "bgp", "next_hop": "10.0.1.30", "local_pref": 300},
            {"action": "reject", "rule": "to-tor exportV4[0]", "as_path": [], "local_pref": 300},
        ),
        (
            MESH,
            {"prefix": "10.48.2.0/26", "source": "bgp"},
            {
                "action": "reject",
                "rule": f"built-in: {ExportRefusal.INTERNAL.value}",
            },
        ),
        (
            MESH,
            {
                "prefix": "10.48.9.0/26",
                "source": "bgp",
                "as_path": [65002, [65003, 65004]],
                "next_hop": "192.0.2.2",
            },
            {"action": "accept", "as_path": [65002, [65003, 65004]], "local_pref": 100},
        ),
        (
            MESH,
            {"prefix": "198.51.100.0/24", "source": "bgp", "as_path": [65077]},
            {"action": "reject", "rule": "built-in: it is a learned route outside every pool"},
        ),
        (
            PLAIN,
            {"prefix": "10.49.9.0/26", "source": "bgp", "as_path": [65001]},
            {"action": "reject", "rule": "built-in: pool inside has disableBGPExport"},
        ),
        (
            PLAIN,
            {"prefix": "10.48.9.0/26", "source": "bgp", "as_path": [65001], "communities": ["65535:65281"]},
            {
                "action": "reject",
                "rule": "built-in: it carries the community no-export, and the peer is external",
            },
        ),
        (
            PLAIN,
            {"prefix": "10.48.9.0/26", "source": "bgp", "as_path": [65003], "next_hop": "192.0.2.2"},
            {"action": "reject", "rule": "built-in: it was learned from that peer"},
        ),
        (
            PLAIN,
            {"prefix": "fd00:48::/122", "source": "static"},
            {"action": "reject", "rule": "built-in: the session carries no ipv6"},
        ),
    ],
)
def test_export(run: Run, peer: str, route: dict[str, Any], expected: dict[str, Any]) -> None:
    code, [answer], _ = run(route, peer)
    assert code == 0
    assert {key: answer[key] for key in expected} == expected
    assert answer["prefix"] == route["prefix"]
    assert list(answer) == [
        "prefix",
        "action",
        "rule",
        "local_pref",
        "as_path",
        "communities",
        "large_communities",
    ]


@pytest.mark.parametrize(
    ("peer", "route", "expected"),
    [
        (
            TOR,
            {"prefix": "0.0.0.0/0", "as_path": [65001]},
            {
                "action": "accept",
                "rule": "to-tor importV4[0]",
                "local_pref": 2147483647 - 512,
                "as_path": [65001],
            },
        ),
        (
            TOR,
            {"prefix": "10.1.0.0/16", "as_path": [65001, 65009, 1]},
            {"action": "accept", "rule": "to-tor importV4[1]", "local_pref": 100},
        ),
        (
            TOR,
            {"prefix": "10.1.0.0/16", "as_path": [65001]},
            {"action": "reject", "rule": "to-tor importV4[2]"},
        ),
        (
            TOR,
            {"prefix": "192.0.2.0/24", "as_path": [65001], "large_communities": ["1:2:3"]},
            {"action": "accept", "rule": "built-in: import accepts", "large_communities": ["1:2:3"]},
        ),
        (
            TOR,
            {"prefix": "0.0.0.0/0", "as_path": [65001, 64512]},
            {"action": "reject", "rule": "built-in: our own AS is on its AS path"},
        ),
        (
            PLAIN,
            {"prefix": "192.0.2.0/24", "as_path": [65002], "communities": ["65535:0"], "source": "bgp"},
            {"action": "accept", "local_pref": 0, "communities": ["65535:0"]},
        ),
        (
            SIX,
            {"prefix": "2001:db8::/32", "as_path": ["1.0"], "communities": ["65001:1"]},
            {"action": "reject", "rule": "to-tor importV6[0]", "as_path": [65536]},
        ),
        (MESH, {"prefix": "0.0.0.0/0"}, {"action": "accept", "rule": "built-in: import accepts"}),
    ],
)
def test_import(run: Run, peer: str, route: dict[str, Any], expected: dict[str, Any]) -> None:
    code, [answer], _ = run(route, peer, "import")
    assert code == 0
    assert {key: answer[key] for key in expected} == expected


def test_local_preference_stands_for_a_metric(run: Run, resources: Path) -> None:
    rules = "exportV4: [{priority: 512, action: Reject}, {priority: 1024, action: Accept}]"
    rule = "kind: BGPFilter\napiVersion: projectcalico.org/v3\nmetadata: {name: more}\nspec: {%s}\n" % rules  # noqa: UP031
    (resources / "more.yaml").write_text(rule)
    text = RESOURCES.replace("{peerIP: 192.0.2.2,", "{filters: [more], peerIP: 192.0.2.2,")
    (resources / "all.yaml").write_text(text)
    route = {"prefix": "10.48.1.7/32", "source": "kernel", "interface": "cali1"}
    rules = []
    for extra in (
        {},
        {"local_pref": 2147483647 - 512},
        {"local_pref": 2147483647 - 1024},
        {"local_pref": 100},
    ):
        _, [answer], _ = run({**route, **extra}, PLAIN)
        rules.append(answer["rule"])
    assert rules == [
        "more exportV4[1]",
        "more exportV4[0]",
        "more exportV4[1]",
        "built-in: pool default-ipv4",
    ]
    (resources / "all.yaml").write_text(
        text.replace("asNumber: 64512", "asNumber: 64512\n  ipv4NormalRoutePriority: 1024")
    )
    for metric, expected in ((0, "more exportV4[1]"), (1024, "more exportV4[1]"), (512, "more exportV4[0]")):
        _, [answer], _ = run({**route, "metric": metric}, PLAIN)
        assert answer["rule"] == expected


@pytest.mark.parametrize("name", [TOR, "192.0.2.1", "tor"])
def test_a_peer_is_found_by_name_address_or_resource(run: Run, name: str) -> None:
    code, answers, _ = run({"prefix": "0.0.0.0/0", "as_path": [65001]}, name, "import")
    assert code == 0
    assert answers[0]["rule"] == "to-tor importV4[0]"


def test_lists_files_and_standard_input_in_order(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, many = tmp_path / "one.json", tmp_path / "many.json"
    one.write_text('{"prefix": "10.1.0.0/16"}')
    many.write_text('[{"prefix": "10.2.0.0/16"}, {"prefix": "10.3.0.0/16"}]')
    monkeypatch.setattr(sys, "stdin", io.StringIO('[{"prefix": "10.4.0.1"}]'))
    code, answers, _ = run(None, PLAIN, "import", files=(str(many), "-", str(one)))
    assert code == 0
    assert [answer["prefix"] for answer in answers] == [
        "10.2.0.0/16",
        "10.3.0.0/16",
        "10.4.0.1/32",
        "10.1.0.0/16",
    ]
    assert run([], PLAIN, "import")[:2] == (0, [])


def test_what_is_wrong_with_the_resources_is_reported(run: Run, resources: Path) -> None:
    (resources / "bad.yaml").write_text(
        "kind: IPPool\napiVersion: projectcalico.org/v3\nmetadata: {name: x}\nspec: {cidr: 1}\n"
    )
    code, answers, err = run({"prefix": "0.0.0.0/0", "as_path": [65001]}, TOR, "import")
    assert (code, len(answers)) == (0, 1)
    assert "bgpd: warning: bad.yaml: IPPool x: spec.cidr" in err
    assert "BGPPeer tor: spec.filters: there is no BGPFilter gone: skipped" in err
    assert "not-in-git" not in err, "no password is needed to try a policy"
    assert "event=" not in err


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "route.json:1:2: not JSON"),
        ("nope", "route.json:1:1: not JSON"),
        ("3", "route.json: expected a route, an object with prefix, source"),
        ("[{}]", "route.json: [0].prefix: expected, but not there"),
        ('{"prefix": "10.0.0.0/33"}', "route.json: prefix: '10.0.0.0/33' is not a prefix"),
        ('{"prefix": 3}', "route.json: prefix: expected a text, not 3"),
        ('{"prefix": "::/0", "prefix": "::/0"}', "route.json: prefix: is there more than once"),
        (
            '[{"prefix": "::/0"}, {"prefix": "::/0", "aspath": []}]',
            "route.json: [1].aspath: unknown; expected prefix",
        ),
        (
            '{"prefix": "::/0", "source": "BGP"}',
            "source: expected one of bgp, kernel, static, direct, not 'BGP'",
        ),
        ('{"prefix": "::/0", "as_path": 65001}', "as_path: expected a list, not 65001"),
        ('{"prefix": "::/0", "as_path": [65001, "x"]}', "as_path[1]: expected an AS number"),
        ('{"prefix": "::/0", "as_path": [[0]]}', "as_path[0]: expected an AS number"),
        ('{"prefix": "::/0", "communities": ["70000:1"]}', "communities[0]: '70000:1' is no community"),
        (
            '{"prefix": "::/0", "large_communities": ["1:1"]}',
            "large_communities[0]: '1:1' is no large community",
        ),
        (
            '{"prefix": "::/0", "local_pref": -1}',
            "local_pref: expected a number from 0 to 4294967295, not -1",
        ),
        ('{"prefix": "::/0", "metric": true}', "metric: expected a number from 0 to 4294967295, not true"),
        ('{"prefix": "::/0", "metric": NaN}', "NaN is not JSON"),
        ('{"prefix": "::/0", "next_hop": "x"}', "next_hop: 'x' is not an IPv4 or IPv6 address"),
        ('{"prefix": "::/0", "next_hop": "10.0.0.1"}', "next_hop: expected an IPv6 address"),
        ('{"prefix": "10.0.0.0/8"}', "route.json: source: expected with export: bgp, kernel, static, direct"),
        (
            '{"prefix": "10.0.0.0/8", "source": "kernel", "as_path": [1]}',
            "as_path: only a route learned by BGP has one",
        ),
        (
            '{"prefix": "10.0.0.0/8", "source": "static", "local_pref": 0}',
            "local_pref: expected a number from 1 to",
        ),
    ],
)
def test_bad_routes_are_named_by_file_and_key(run: Run, document: str, message: str) -> None:
    code, answers, err = run(document)
    assert (code, answers) == (2, [])
    assert message in err


def test_a_route_of_a_peer_is_bgp(run: Run) -> None:
    code, _, err = run({"prefix": "10.0.0.0/8", "source": "kernel"}, TOR, "import")
    assert code == 2
    assert "route.json: source: expected bgp" in err


def test_other_bad_input(run: Run, resources: Path, tmp_path: Path) -> None:
    route = {"prefix": "10.48.0.0/26", "source": "static"}
    code, _, err = run(route, "Global_1_2_3_4")
    assert code == 2
    assert f"no session of this node has the name or address 'Global_1_2_3_4'; there are: {TOR}" in err
    code, _, err = run(route, node="elsewhere")
    assert code == 2
    assert "there is no Node 'elsewhere'" in err
    code, _, err = run(None, files=(str(tmp_path / "gone.json"),))
    assert code == 2
    assert "gone.json: No such file or directory" in err
    (resources / "all.yaml").unlink()
    resources.rmdir()
    code, _, err = run(route)
    assert code == 2
    assert "resources: No such file or directory" in err


def test_a_name_of_several_sessions_lists_them(run: Run, resources: Path) -> None:
    more = "kind: BGPPeer\napiVersion: projectcalico.org/v3\nmetadata: {name: all}\nspec: {peerSelector: all()}\n"
    node = "kind: Node\napiVersion: projectcalico.org/v3\nmetadata: {name: w3}\n"
    node += "spec: {bgp: {ipv4Address: 10.0.1.3/24}}\n"
    (resources / "more.yaml").write_text(f"{more}---\n{node}")
    code, _, err = run({"prefix": "10.0.0.0/8"}, "all", "import")
    assert code == 2
    assert "all is several sessions: Global_10_0_1_3, Global_10_0_1_30" in err


def test_the_command_is_there_and_its_modules_are_not_loaded_for_others() -> None:
    script = (
        "import sys; from bgpd.cli import daemon; daemon._parser('run');"
        "assert not {'bgpd.cli.policy', 'bgpd.rib.groups', 'netaddr'} & sys.modules.keys();"
        "daemon.main(['policy', 'test', '--help'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "--direction {import,export}" in done.stdout
