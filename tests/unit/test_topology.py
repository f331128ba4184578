"""Reading topology files: what is merged how, what is refused with which words, and that the shipped one is right."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest

from bgpd.config.yaml import load_documents
from testing.lab import TopologyError, load_topology
from testing.lab.demo import ADDRESSES, LATER, POOLS, ROUTER

SHIPPED = Path(__file__).parents[2] / "containerlab"


def write(directory: Path, text: str) -> Path:
    path = directory / "net.clab.yml"
    path.write_text(text)
    return path


def refusal(directory: Path, text: str) -> list[str]:
    """The lines of the error a text is refused with, without the file's name."""
    path = write(directory, text)
    with pytest.raises(TopologyError) as caught:
        load_topology(path)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{path}:") for line in lines)
    return [line.removeprefix(f"{path}:").lstrip() for line in lines]


def test_settings_are_laid_over_each_other(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / name).touch()
    topology = load_topology(
        write(
            tmp_path,
            """
name: net
prefix: ""
mgmt: {network: custom}
topology:
  defaults: {kind: linux, cmd: from defaults, exec: [first], env: {A: defaults, B: 1}, image: ignored}
  kinds:
    linux: {exec: [second], env: {B: kind}, binds: ["one:/etc/x", "two:/etc/y:ro"]}
  groups:
    g: {cmd: from "the group", env: {C: true}, sysctls: {net.ipv4.ip_forward: 1}, binds: ["three:/etc/x:rw"]}
  nodes:
    a:
    b: {group: g, exec: ["third 'with one word'"], env: {A: node}, labels: {x: y}, network-mode: none}
    br: {kind: bridge}
""",
        )
    )
    a, b, br = (topology.nodes[name] for name in ("a", "b", "br"))
    assert a.cmd == ("from", "defaults")
    assert a.commands == (("first",), ("second",))
    assert a.env == {"A": "defaults", "B": "kind"}
    assert b.cmd == ("from", "the group")
    assert b.commands == (("first",), ("second",), ("third", "with one word"))
    assert b.env == {"A": "node", "B": "kind", "C": "true"}
    assert b.sysctls == {"net.ipv4.ip_forward": "1"}
    assert [(bind.source, bind.target, bind.read_only) for bind in b.binds] == [
        (tmp_path / "three", "/etc/x", False),
        (tmp_path / "two", "/etc/y", True),
    ]
    assert (br.kind, br.cmd, br.commands) == ("bridge", (), ())


def test_links_in_both_forms(tmp_path: Path) -> None:
    topology = load_topology(
        write(
            tmp_path,
            """
name: net
topology:
  defaults: {kind: linux}
  nodes: {a: , b: }
  links:
    - endpoints: ["a:eth1", "b:eth1"]
      mtu: 9000
    - type: veth
      endpoints:
        - {node: a, interface: eth2}
        - {node: b, interface: eth2, mac: "02:00:00:00:00:0b"}
""",
        )
    )
    brief, extended = topology.links
    assert (str(brief.endpoints[0]), str(brief.endpoints[1]), brief.mtu) == ("a:eth1", "b:eth1", 9000)
    assert (extended.endpoints[1].mac, extended.mtu) == ("02:00:00:00:00:0b", 9500)


def test_variables_names_and_magic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_CMD", "sleep 5")
    monkeypatch.setenv("LAB_EMPTY", "")
    (tmp_path / "a.conf").touch()
    path = write(
        tmp_path,
        """
name: net${LAB_UNSET:-work}${LAB_EMPTY}${LAB_EMPTY:-2}${LAB_EMPTY-3}${LAB_CMD:+4}${LAB_UNSET:+5}
topology:
  nodes:
    a:
      kind: linux
      cmd: $LAB_CMD
      exec: [sh -c 'echo $$HOME', 'echo $LAB_UNSET ${LAB_UNSET} $? $(id)']
      binds: ["__clabNodeName__.conf:/etc/conf/../a.conf", "__clabDir__/x/../shared:/etc/b"]
""",
    )
    topology = load_topology(path)
    assert topology.name == "network24"
    assert topology.nodes["a"].cmd == ("sleep", "5")
    assert topology.nodes["a"].commands == (
        ("sh", "-c", "echo $HOME"),
        ("echo", "$LAB_UNSET", "${LAB_UNSET}", "$?", "$(id)"),  # as it is written
    )
    assert [(bind.source, bind.target) for bind in topology.nodes["a"].binds] == [
        (tmp_path / "a.conf", "/etc/a.conf"),
        (Path("__clabDir__/shared"), "/etc/b"),
    ]
    assert load_topology(path, "other").name == "other"


def test_eth0_is_the_engines_but_without_a_network(tmp_path: Path) -> None:
    link = '  links: [{endpoints: ["a:eth0", "b:eth0"]}]\n'
    nodes = "name: net\ntopology:\n  defaults: {kind: linux}\n  nodes: {a: , b: {network-mode: none}}\n"
    assert refusal(tmp_path, nodes + link) == [
        "topology.links.0.endpoints: a:eth0: a container engine makes eth0, expected another name or the node's "
        "network-mode: none"
    ]
    for where in ("defaults: {", "kinds: {linux: {network-mode: none}}\n  defaults: {"):
        fine = nodes.replace("defaults: {", where).replace("kind: linux}", "kind: linux, network-mode: none}")
        assert len(load_topology(write(tmp_path, fine + link)).links) == 1
    bridge = nodes.replace("a: ", "a: {kind: bridge}")
    assert len(load_topology(write(tmp_path, bridge + link)).links) == 1


NODES = "name: net\ntopology:\n  defaults: {kind: linux}\n  nodes: {a: , b: }\n  links:\n"
NODE = "name: net\ntopology:\n  nodes:\n    a:\n      kind: linux\n"

REFUSED = {
    "not YAML": ("name: [", ["2:1: while parsing a flow node"]),
    "key twice": ("name: a\nname: b\n", ["2:1: the key 'name' is given twice"]),
    "empty": ("", ["0 documents, expected one"]),
    "a list": ("[]", ["the whole file: expected keys and values"]),
    "no nodes": ("name: net\ntopology: {}\n", ["topology.nodes: missing"]),
    "no name": ("topology: {nodes: {a: {kind: linux}}}", ["name: missing"]),
    "bad name": (
        "name: my lab\ntopology: {nodes: {a: {kind: linux}}}",
        ["name: 'my lab': expected a name of letters, digits, '_', '.' and '-'"],
    ),
    "bad variable": (
        "\nname: ${A B}\n",
        ["2: '${A B}': expected ${VAR} or ${VAR:-default}, and $$ for a dollar sign"],
    ),
    "unknown key of the file": ("name: net\ntopolgy: {}\n", ["topology: missing", "topolgy: unknown key"]),
    "unknown key of a node": (
        NODE + "      bind: []\n",
        ["topology.nodes.a.bind: unknown key, expected one of: kind, group, cmd, exec, binds, env"],
    ),
    "unknown kind": (
        NODE.replace("linux", "srl"),
        ["topology.nodes.a.kind: 'srl': expected 'linux' or 'bridge'"],
    ),
    "unknown kind of settings": (
        NODE + "  kinds: {srl: {}}\n",
        ["topology.kinds.srl: 'srl': expected 'linux' or 'bridge'"],
    ),
    "no kind": (
        NODE.replace("kind: linux", "env: {}"),
        ["topology.nodes.a.kind: missing, expected linux or bridge"],
    ),
    "network of the engine": (
        NODE + "      network-mode: host\n",
        ["topology.nodes.a.network-mode: 'host': expected 'none'"],
    ),
    "unknown group": (
        NODE + "      group: x\n  groups: {y: {}, z: {}}\n",
        ["topology.nodes.a.group: no group 'x', expected one of: y, z"],
    ),
    "a bridge with a command": (
        NODE.replace("linux", "bridge") + "      cmd: sleep 5\n",
        ["topology.nodes.a.kind: a bridge runs nothing"],
    ),
    "exec is not a list": (NODE + "      exec: ls\n", ["topology.nodes.a.exec: 'ls': expected list"]),
    "exec with an open quote": (
        NODE + "      exec: ['echo \"a']\n",
        ["topology.nodes.a.exec: 'echo \"a': No closing quotation"],
    ),
    "bind source not there": (
        NODE + "      binds: [nothing:/etc/x]\n",
        ["topology.nodes.a.binds: 'nothing:/etc/x': source "],
    ),
    "bind of no form": (
        NODE + "      binds: [/etc]\n",
        ["topology.nodes.a.binds: '/etc': expected source:/target"],
    ),
    "bind to the root": (
        NODE + "      binds: [/etc:/not-there]\n",
        ["topology.nodes.a.binds: '/etc:/not-there': expected a target inside a directory"],
    ),
    "unknown sysctl": (
        NODE + "      sysctls: {net.ipv4.ip_forwarding: 1}\n",
        ["topology.nodes.a.sysctls: no 'net.ipv4.ip_forwarding' in this kernel"],
    ),
    "link to nowhere": (
        NODES + '    - endpoints: ["a:eth1", "c:eth1"]\n',
        ["topology.links.0.endpoints: no node 'c' (c:eth1), expected one of: a, b"],
    ),
    "end used twice": (
        NODES + '    - endpoints: ["a:eth1", "b:eth1"]\n    - endpoints: ["b:eth2", "a:eth1"]\n',
        ["topology.links.1.endpoints: a:eth1 is used already by links.0, expected a free one"],
    ),
    "end without interface": (
        NODES + '    - endpoints: ["a:eth1", "b"]\n',
        ["topology.links.0.endpoints.1: 'b' is not of the form node:interface"],
    ),
    "one end": (
        NODES + '    - endpoints: ["a:eth1"]\n',
        ["topology.links.0.endpoints.1: expected two ends, node:interface each"],
    ),
    "three ends": (
        NODES + '    - endpoints: ["a:eth1", "b:eth1", "b:eth2"]\n',
        ["topology.links.0.endpoints: expected two ends, node:interface each"],
    ),
    "long interface": (
        NODES + '    - endpoints: ["a:eth1", "b:sixteen-letters-"]\n',
        ["topology.links.0.endpoints.1.interface: 'sixteen-letters-': expected an interface's name"],
    ),
    "loopback": (
        NODES + '    - endpoints: ["a:lo", "b:eth1"]\n',
        ["topology.links.0.endpoints: a:lo: the node has a lo of its own"],
    ),
    "other link": (
        NODES + '    - {type: vxlan, endpoints: ["a:eth1", "b:eth1"]}\n',
        ["topology.links.0.type: 'vxlan': expected 'veth'"],
    ),
    "unknown key of an end": (
        NODES + "    - endpoints: [{node: a, interface: eth1, ipv4: 10.0.0.1/24}, 'b:eth1']\n",
        ["topology.links.0.endpoints.0.ipv4: unknown key, expected one of: node, interface, mac"],
    ),
    "bad mac": (
        NODES + "    - endpoints: [{node: a, interface: eth1, mac: '02:00'}, 'b:eth1']\n",
        ["topology.links.0.endpoints.0.mac: '02:00': expected a MAC address"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_name_file_key_and_expectation(case: str, tmp_path: Path) -> None:
    text, expected = REFUSED[case]
    lines = refusal(tmp_path, text)
    assert len(lines) == len(expected)
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(start)


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    lines = refusal(
        tmp_path,
        """
name: net
topology:
  nodes:
    a: {kind: linux, binds: [nothing:/etc/x], exec: [""]}
    b: {}
  links:
    - endpoints: ["a:eth1", "c:eth1"]
""",
    )
    assert [line.split(":")[0] for line in lines] == [
        "topology.nodes.a.binds",
        "topology.nodes.a.exec",
        "topology.nodes.b.kind",
        "topology.links.0.endpoints",
    ]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match=r"no\.clab\.yml: cannot be read: No such file"):
        load_topology(tmp_path / "no.clab.yml")


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.clab.yml")), ids=lambda path: path.name)
def test_every_shipped_topology_loads(path: Path) -> None:
    topology = load_topology(path)
    assert topology.name == path.name.removesuffix(".clab.yml")
    for node in topology.nodes:
        assert any(end.node == node for link in topology.links for end in link.endpoints)


def test_the_shipped_resources_are_what_the_story_says() -> None:
    """Nodes and their addresses, the pools at the start and those for later; and nothing of IPAM is written by hand."""
    topology = load_topology(SHIPPED / "workers.clab.yml")
    at_start, later, of_router = (
        [
            document.value
            for path in sorted((SHIPPED / directory).glob("*.yaml"))
            for document in load_documents(path.read_text(), str(path))
        ]
        for directory in ("resources", "pools", "gw")
    )
    addresses = {
        node["metadata"]["name"]: node["metadata"]["annotations"]["projectcalico.org/IPv4Address"]
        for node in at_start + of_router
        if node["kind"] == "Node"
    }
    assert addresses == {ROUTER: "10.0.1.1/24"} | {
        name: f"{address}/24" for name, address in ADDRESSES.items()
    }
    for name, address in addresses.items():
        interface = "eth1" if name == ROUTER else "ens5"
        assert ("ip", "address", "add", address, "dev", interface) in topology.nodes[name].commands
    pools = {
        pool["metadata"]["name"]: (pool["spec"]["cidr"], pool["spec"].get("blockSize", 26))
        for pool in at_start + later
        if pool["kind"] == "IPPool"
    }
    assert pools == POOLS
    assert {pool["metadata"]["name"] for pool in later} == set(LATER)
    assert {path.stem for path in (SHIPPED / "pools").iterdir()} == set(LATER)
    default, size = ip_network(POOLS["default-ipv4-ippool"][0]), POOLS["default-ipv4-ippool"][1]
    assert 2 ** (size - default.prefixlen) == len(ADDRESSES) - 1  # so that the last node must borrow
    kinds = {resource["kind"] for resource in at_start}
    assert kinds == {"Node", "BGPConfiguration", "BGPPeer", "BGPFilter", "IPPool"}
