"""``bgpd plan``: the documented example, each key by what makes it, the kernel's facts, and bad input named."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bgpd.cli import daemon
from testing.resources import affinity, bgp_configuration, bgp_peer, node, pool, resource

PAGE = (Path(__file__).parents[2] / "docs" / "plan.md").read_text()
PEER_KEYS = (
    *(
        "name",
        "address",
        "port",
        "asn",
        "local_asn",
        "type",
        "families",
        "passive",
        "source_address",
        "password",
    ),
    *("ttl_security", "multihop", "route_reflector_client", "cluster_id", "next_hop", "graceful_restart_s"),
    *("keepalive_s", "hold_s", "allow_own_as", "filters", "reachable_by"),
)
KEYS = (
    *(
        "schema_version",
        "node",
        "asn",
        "router_id",
        "listen",
        "peers",
        "announce",
        "blackholes",
        "kernel_rules",
    ),
    "problems",
)

Plan = Callable[..., dict[str, Any]]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes resources, or a file's text; returns the path."""

    def go(name: str, content: str | Iterable[dict[str, Any]]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content if isinstance(content, str) else yaml.safe_dump_all(list(content)))
        return path

    return go


@pytest.fixture
def plan(write: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> Plan:
    """The JSON for resources; with a configuration's text, and kernel lists or texts."""

    def go(
        *objects: dict[str, Any], own: str = "worker1", config: str = "", kernel: Iterable[Any] = ()
    ) -> Any:
        directory = write("resources/all.yaml", objects).parent
        words = ["plan", "--resources", str(directory), "--node", own, "-o", "json"]
        if config:
            words += ["--config", str(write("bgpd.yaml", config))]
        for number, facts in enumerate(kernel):
            text = facts if isinstance(facts, str) else json.dumps(facts)
            words += ["--kernel", str(write(f"kernel{number}.json", text))]
        assert daemon.main(words) == 0
        printed = capsys.readouterr()
        assert printed.err == ""
        return json.loads(printed.out)

    return go


WORKER1 = node("worker1", "10.0.1.30/24", "fd00:1::30/64", labels={"rack": "r1"})
WORKER2 = node("worker2", "10.0.1.31/24")
POOL = pool("default-ipv4", "10.48.0.0/16")
BLOCK = affinity("worker1", "10.48.0.192/26")
LENT = resource(
    "IPAMBlock",
    "10-48-0-0-26",
    {
        "cidr": "10.48.0.0/26",
        "affinity": "host:worker2",
        "allocations": [None, 0],
        "attributes": [{"secondary": {"namespace": "default", "pod": "web-9", "node": "worker1"}}],
    },
)
LENT["apiVersion"] = "crd.projectcalico.org/v1"
TOR = bgp_peer("tor", "10.0.1.1", 65001)


def peer(found: dict[str, Any], name: str) -> dict[str, Any]:
    return next(entry for entry in found["peers"] if entry["name"] == name)


def test_the_example_of_the_page(write: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    section = PAGE.partition("### Example\n")[2].partition("\n## ")[0]
    resources, expected = re.findall(r"```(?:yaml|json)\n(.*?)\n```", section, re.DOTALL)
    directory = write("resources/all.yaml", resources).parent
    assert daemon.main(["plan", "--resources", str(directory), "--node", "worker1", "-o", "json"]) == 0
    assert capsys.readouterr() == (expected + "\n", "")


def test_the_keys_and_their_order_are_those_of_the_page(plan: Plan) -> None:
    found = plan(WORKER1, WORKER2, POOL, BLOCK, TOR, resource("IPPool", "broken", {"cidr": "10.48"}))
    assert tuple(found) == KEYS
    assert all(tuple(entry) == PEER_KEYS for entry in found["peers"])
    assert tuple(found["listen"][0]) == ("address", "port")
    assert tuple(found["announce"][0]) == ("prefix", "kind", "communities", "source")
    assert tuple(found["kernel_rules"][0]) == ("cidr", "action", "tunnel", "when", "reason")
    assert tuple(found["problems"][0]) == ("source", "path", "message")
    for key in (*KEYS, *PEER_KEYS):
        assert f"`{key}`" in PAGE, key
    assert found["schema_version"] == 1 and found["problems"][0]["path"] == "spec.cidr"


def test_a_mesh(plan: Plan) -> None:
    found = plan(WORKER1, WORKER2, node("worker0", "10.0.1.29/24", "fd00:1::29/64"), bgp_configuration(64999))
    assert (found["node"], found["asn"], found["router_id"]) == ("worker1", 64999, "10.0.1.30")
    assert found["listen"] == [{"address": "0.0.0.0", "port": 179}, {"address": "::", "port": 179}]
    assert [entry["name"] for entry in found["peers"]] == [
        "Mesh_10_0_1_29",
        "Mesh_10_0_1_31",
        "Mesh_fd00_1__29",
    ]
    assert [entry["passive"] for entry in found["peers"]] == [False, True, False]
    assert peer(found, "Mesh_10_0_1_31") == {
        "name": "Mesh_10_0_1_31",
        "address": "10.0.1.31",
        "port": 179,
        "asn": 64999,
        "local_asn": 64999,
        "type": "ibgp",
        "families": ["ipv4"],
        "passive": True,
        "source_address": "10.0.1.30",
        "password": False,
        "ttl_security": None,
        "multihop": True,
        "route_reflector_client": False,
        "cluster_id": None,
        "next_hop": "auto",
        "graceful_restart_s": 120,
        "keepalive_s": 30,
        "hold_s": 90,
        "allow_own_as": 0,
        "filters": [],
        "reachable_by": None,
    }


@pytest.mark.parametrize(
    ("spec", "key", "value"),
    [
        ({"localASNumber": 64600}, "local_asn", 64600),
        ({"asNumber": 64512}, "type", "ibgp"),
        ({}, "type", "ebgp"),
        ({"sourceAddress": "None"}, "source_address", None),
        ({"ttlSecurity": 1}, "ttl_security", 1),
        ({"ttlSecurity": 1}, "multihop", False),
        ({"ttlSecurity": 2}, "multihop", True),
        ({"nextHopMode": "Self"}, "next_hop", "self"),
        ({"nextHopMode": "Keep"}, "next_hop", "keep"),
        ({"keepOriginalNextHop": True}, "next_hop", "keep-ebgp"),
        ({"maxRestartTime": "60s"}, "graceful_restart_s", 60),
        ({"keepaliveTime": "7s"}, "keepalive_s", 7),
        ({"numAllowedLocalASNumbers": 2}, "allow_own_as", 2),
        ({"filters": ["b", "a"]}, "filters", ["b", "a"]),
        ({"reachableBy": "10.0.1.254"}, "reachable_by", "10.0.1.254"),
        ({"password": {"secretKeyRef": {"name": "bgp", "key": "tor"}}}, "password", True),
    ],
)
def test_each_key_of_a_peer(plan: Plan, spec: dict[str, Any], key: str, value: object) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bgp", "namespace": "x"}}
    tor = bgp_peer("tor", "10.0.1.1", spec.pop("asNumber", 65001), **spec)
    found = plan(WORKER1, tor, {**secret, "stringData": {"tor": "pass-word"}})
    assert peer(found, "Global_10_0_1_1")[key] == value
    assert "pass-word" not in json.dumps(found)


def test_the_configuration(plan: Plan) -> None:
    config = """\
node: another
router_id: 192.0.2.9
bgp:
  listen: ["::", 10.0.1.30]
  port: 1179
  defaults: {hold_time: 10}
  peers: {10.0.1.1: {hold_time: 0, families: [ipv4, ipv6], password_file: /nowhere/tor}, 10.0.1.77: {add_path: no}}
  listen_ranges: [{prefix: 192.0.2.0/24, asns: [65011, 64512], filters: [f]}]
""".replace("add_path: no", "add_path: false")
    found = plan(WORKER1, WORKER2, TOR, config=config)
    assert (found["node"], found["router_id"]) == ("worker1", "192.0.2.9")
    assert found["listen"] == [{"address": "10.0.1.30", "port": 1179}, {"address": "::", "port": 1179}]
    tor = peer(found, "Global_10_0_1_1")
    assert (tor["hold_s"], tor["keepalive_s"], tor["families"]) == (0, 0, ["ipv4", "ipv6"])
    assert tor["password"], "the file may be there on the node"
    mesh = peer(found, "Mesh_10_0_1_31")
    assert (mesh["port"], mesh["hold_s"], mesh["keepalive_s"]) == (1179, 10, 3.333)
    ranges = [entry for entry in found["peers"] if entry["name"] == "Dynamic_192_0_2_0_24"]
    assert [(e["address"], e["asn"], e["type"], e["passive"], e["filters"]) for e in ranges] == [
        ("192.0.2.0/24", 64512, "ibgp", True, ["f"]),
        ("192.0.2.0/24", 65011, "ebgp", True, ["f"]),
    ]
    problems = {(problem["source"], problem["path"]) for problem in found["problems"]}
    assert problems == {
        ("configuration", "password_file /nowhere/tor"),
        ("configuration", "bgp.peers.10.0.1.77"),
        ("configuration", "bgp.listen_ranges.0.filters"),
    }


def test_a_reflector(plan: Plan) -> None:
    own = node("worker1", "10.0.1.30/24", labels={"rr": ""})
    own["spec"]["bgp"]["routeReflectorClusterID"] = "244.0.0.1"
    selectors = {"nodeSelector": "!has(rr)", "peerSelector": "has(rr)"}
    found = plan(own, WORKER2, resource("BGPPeer", "to-rr", selectors), TOR)
    client, tor = peer(found, "Node_10_0_1_31"), peer(found, "Global_10_0_1_1")
    assert (client["route_reflector_client"], client["cluster_id"]) == (True, "244.0.0.1")
    assert (tor["route_reflector_client"], tor["cluster_id"]) == (False, None)


def test_a_link_local_peer(plan: Plan) -> None:
    found = plan(WORKER1, bgp_peer("spine", "fe80::1%eth0", 65001))
    spine = peer(found, "Global_fe80__1%eth0")
    assert (spine["address"], spine["multihop"], spine["source_address"]) == ("fe80::1%eth0", False, None)


def test_routes_and_rules(plan: Plan) -> None:
    settings = bgp_configuration()
    settings["spec"] |= {
        "programClusterRoutes": "EnabledIPIPOnly",
        "serviceClusterIPs": [{"cidr": "10.96.0.0/12"}],
        "communities": [{"name": "pods", "value": "64512:1:2"}],
        "prefixAdvertisements": [{"cidr": "10.48.0.0/16", "communities": ["pods", "64512:100", "pods"]}],
    }
    found = plan(
        *(WORKER1, WORKER2, settings, BLOCK, LENT, affinity("worker1", "10.50.0.0/26")),
        pool("default-ipv4", "10.48.0.0/16", ipipMode="CrossSubnet"),
        pool("always", "10.49.0.0/16", ipipMode="Always"),
        pool("plain", "10.50.0.0/16"),
        pool("vx", "10.51.0.0/24", vxlanMode="Always"),
        pool("six", "fd48::/64", disableBGPExport=True),
        affinity("worker1", "fd48::/122"),
    )
    pods = ["64512:100", "64512:1:2"]
    assert [tuple(entry.values()) for entry in found["announce"]] == [
        ("10.48.0.1/32", "borrowed", pods, "IPAMBlock 10-48-0-0-26 of default/web-9, borrowed from worker2"),
        ("10.48.0.192/26", "block", pods, "BlockAffinity worker1-10-48-0-192-26"),
        ("10.50.0.0/26", "block", [], "BlockAffinity worker1-10-50-0-0-26"),
        ("10.96.0.0/12", "service", [], "BGPConfiguration default serviceClusterIPs"),
    ]
    assert found["blackholes"] == ["10.48.0.192/26"], "Felix writes those of the other pools"
    assert [list(entry.values())[:4] for entry in found["kernel_rules"]] == [
        ["10.96.0.0/12", "reject", None, "always"],
        ["10.51.0.0/24", "reject", None, "always"],
        ["10.48.0.0/16", "program", "tunl0", "cross-subnet"],
        ["10.49.0.0/16", "program", "tunl0", "always"],
        ["10.50.0.0/16", "reject", None, "always"],
        ["fd48::/64", "reject", None, "always"],
    ]
    assert found["kernel_rules"][1]["reason"] == "IPPool vx has vxlanMode Always: Felix writes its routes"


# The kernel.

ROUTES4 = [
    {"dst": "default", "gateway": "10.0.1.1", "dev": "ens5", "protocol": "static", "flags": []},
    {"dst": "10.0.1.0/24", "dev": "ens5", "protocol": "kernel", "scope": "link", "prefsrc": "10.0.1.30", "flags": []},
    {"dst": "10.48.0.7", "dev": "cali1", "scope": "link", "flags": []},
    {"dst": "10.48.0.8", "dev": "veth8", "scope": "link", "flags": []},
    {"dst": "10.48.0.9", "gateway": "10.0.1.9", "dev": "cali9", "flags": []},
    {"dst": "10.48.0.10", "dev": "cali2", "protocol": "bird", "flags": []},
    {"type": "blackhole", "dst": "10.48.0.11", "dev": "cali3", "flags": []},
    {"dst": "192.0.2.0/24", "protocol": "static", "flags": [], "nexthops": [
        {"gateway": "10.0.1.7", "dev": "ens5", "weight": 1}, {"gateway": "10.0.1.8", "dev": "ens5", "weight": 1}]},
    {"dst": "198.51.100.0/24", "via": {"family": "inet6", "host": "fe80::9"}, "dev": "ens5", "protocol": "static"},
    {"dst": "10.48.0.12", "dev": "cali4", "table": "100", "flags": []},
]  # fmt: skip
ADDRESSES = [
    {},
    {"ifname": "lo", "flags": ["LOOPBACK", "UP", "LOWER_UP"], "addr_info": [
        {"family": "inet", "local": "127.0.0.1", "prefixlen": 8}]},
    {"ifname": "ens5", "flags": ["UP", "LOWER_UP"], "addr_info": [
        {"family": "inet", "local": "10.0.1.30", "prefixlen": 24}]},
    {"ifname": "tunl0", "flags": ["NOARP", "UP", "LOWER_UP"], "addr_info": [
        {"family": "inet", "local": "10.48.3.1", "prefixlen": 32}]},
    {"ifname": "wg-v6.cali", "flags": ["UP", "LOWER_UP"], "addr_info": [
        {"family": "inet6", "local": "fe80::7", "prefixlen": 64},
        {"family": "inet6", "local": "fd48::5", "prefixlen": 128}]},
]  # fmt: skip


def announced(found: dict[str, Any]) -> dict[str, str]:
    return {entry["prefix"]: f"{entry['kind']} {entry['source']}" for entry in found["announce"]}


def test_the_kernel_says_what_is_borrowed(plan: Plan) -> None:
    cluster = (WORKER1, WORKER2, POOL, pool("six", "fd48::/64"), BLOCK, LENT)
    block = {"10.48.0.192/26": "block BlockAffinity worker1-10-48-0-192-26"}
    by_ipam = {"10.48.0.1/32": "borrowed IPAMBlock 10-48-0-0-26 of default/web-9, borrowed from worker2"}
    by_routes = {"10.48.0.7/32": "borrowed route on cali1"}
    tunnels = {"10.48.3.1/32": "borrowed route on tunl0", "fd48::5/128": "borrowed route on wg-v6.cali"}
    assert announced(plan(*cluster)) == block | by_ipam
    assert announced(plan(*cluster, kernel=[ROUTES4])) == block | by_routes
    assert announced(plan(*cluster, kernel=[ADDRESSES])) == block | by_ipam | tunnels
    assert announced(plan(*cluster, kernel=[ADDRESSES, ROUTES4])) == block | by_routes | tunnels
    both = f"{json.dumps(ROUTES4)}\n{json.dumps(ADDRESSES)}\n"
    assert announced(plan(*cluster, kernel=[both])) == block | by_routes | tunnels
    six = [
        {"dst": "fe80::/64", "dev": "ens5", "protocol": "kernel"},
        {"dst": "fd48::9", "dev": "cali1", "metric": 1024},
    ]
    assert announced(plan(*cluster, kernel=[six])) == block | by_ipam | {
        "fd48::9/128": "borrowed route on cali1"
    }


def test_a_peer_that_is_this_machine_by_the_kernel(plan: Plan) -> None:
    """An address that no Node has, but that lies here."""
    spare = json.loads(json.dumps(ADDRESSES).replace("10.48.3.1", "10.0.9.9"))
    cluster = (WORKER1, POOL, bgp_peer("self", "10.0.9.9", 65009))
    assert [peer["name"] for peer in plan(*cluster)["peers"]] == ["Global_10_0_9_9"]
    found = plan(*cluster, kernel=[spare])
    assert not found["peers"]
    assert [problem["source"] for problem in found["problems"]] == ["BGPPeer self"], found["problems"]


def test_ipam_early_holds_with_the_kernel_too(plan: Plan) -> None:
    config = "originate: {ipam_early: true}\n"
    found = plan(WORKER1, WORKER2, POOL, LENT, config=config, kernel=[ROUTES4])
    assert sorted(announced(found)) == ["10.48.0.1/32", "10.48.0.7/32"]


def test_what_a_filter_lets_out_is_announced(plan: Plan) -> None:
    rules = [
        {"cidr": "192.0.2.0/24", "matchOperator": "Equal", "interface": "ens*", "action": "Accept"},
        {"cidr": "198.51.100.0/24", "matchOperator": "Equal", "peerType": "iBGP", "action": "Accept"},
        {"cidr": "10.0.1.0/24", "matchOperator": "Equal", "interface": "ens5", "action": "Accept"},
        {"cidr": "10.0.9.9/32", "matchOperator": "Equal", "action": "Accept"},
        {"cidr": "10.48.0.7/32", "matchOperator": "Equal", "action": "Reject"},
    ]
    out = resource("BGPFilter", "out", {"exportV4": rules})
    far = bgp_peer("far", "10.0.9.9", 65009, reachableBy="10.0.1.1")
    tor = bgp_peer("tor", "10.0.1.1", 65001, filters=["out"])
    found = plan(WORKER1, POOL, out, tor, far, kernel=[ROUTES4, ADDRESSES])
    assert announced(found) == {
        "10.0.1.0/24": "static subnet on ens5",
        "10.0.9.9/32": "static BGPPeer far reachableBy",
        "10.48.0.7/32": "borrowed route on cali1",  # the filter is one peer's
        "10.48.3.1/32": "borrowed route on tunl0",
        "192.0.2.0/24": "static route on ens5",
    }
    assert announced(plan(WORKER1, POOL, out, TOR, far, kernel=[ROUTES4, ADDRESSES])).keys() == {
        "10.48.0.7/32",
        "10.48.3.1/32",
    }


def test_a_tunnel_that_is_not_there_is_a_problem(plan: Plan) -> None:
    settings = bgp_configuration()
    settings["spec"]["programClusterRoutes"] = "Enabled"
    cluster = (WORKER1, settings, pool("ipip", "10.48.0.0/16", ipipMode="Always"))

    def problems(*kernel: Any) -> list[str]:
        return [problem["message"] for problem in plan(*cluster, kernel=kernel)["problems"]]

    assert problems() == problems(ROUTES4) == problems(ADDRESSES) == []
    assert problems(ADDRESSES[:3]) == ["tunl0 is not there: its routes through it are not written"]
    down = [{**link, "flags": ["NOARP"]} if link.get("ifname") == "tunl0" else link for link in ADDRESSES]
    assert problems(down) == ["tunl0 is down: its routes through it are not written"]


def test_ip_itself(plan: Plan) -> None:
    """What the machine's own ip prints is taken."""
    kernel = [
        subprocess.run(["ip", "-j", *words], capture_output=True, text=True, check=True).stdout
        for words in (
            ("route",),
            ("-6", "route"),
            ("address",),
            ("-4", "address"),
            ("-d", "route"),
            ("link",),
        )
    ]
    assert plan(WORKER1, kernel=[text for text in kernel if text.strip()])["node"] == "worker1"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "kernel.json: is empty; expected the output of ip -j route"),
        ("10.0.0.0/8 dev x", "kernel.json: expected a list, as ip -j prints it, not 10.0"),
        ("default via", "kernel.json:1:1: not JSON"),
        ("[]\n[{]", "kernel.json:2:3: not JSON"),
        ("[" * 100_000, "kernel.json: not JSON of ip: nested too deep"),
        ("{}", "kernel.json: expected a list, as ip -j prints it, not {}"),
        ("[[]]", "kernel.json: [0]: expected an object"),
        ('[{"prefix": "10.0.0.0/8"}]', "kernel.json: [0]: expected a route (dst) or an interface (ifname)"),
        ('[{"dst": "ten", "dev": "x"}]', "kernel.json: [0].dst: 'ten' is not a prefix"),
        ('[{"dst": 10}]', "kernel.json: [0].dst: expected a text, not 10"),
        ('[{"dst": "10.0.0.1", "dev": "x", "metric": -1}]', "[0].metric: expected a number, not -1"),
        (
            '[{"dst": "10.0.0.1", "dev": "x", "gateway": "y"}]',
            "[0].gateway: 'y' is not an IPv4 or IPv6 address",
        ),
        ('[{"dst": "10.0.0.1", "nexthops": [{"dev": 1}]}]', "[0].nexthops[0].dev: expected a text"),
        (
            '[{"ifname": "x", "addr_info": [{"family": "inet"}]}]',
            "[0].addr_info[0].local: expected an address",
        ),
        ('[{"ifname": "x", "addr_info": {}}]', "[0].addr_info: expected a list, not {}"),
        ('[]\n[{"dst": "ten"}]', "kernel.json: list 2, [0].dst: 'ten'"),
        (
            '[{"ifname": "x", "addr_info": [{"family": "inet", "local": "10.0.0.1", "prefixlen": 33}]}]',
            "prefixlen: expected at most 32, not 33",
        ),
    ],
)
def test_a_kernel_file_that_is_none(
    write: Callable[..., Path], capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    directory, kernel = write("resources/all.yaml", [WORKER1]).parent, write("kernel.json", text)
    code = daemon.main(["plan", "--resources", str(directory), "--node", "worker1", "--kernel", str(kernel)])
    printed = capsys.readouterr()
    assert (code, printed.out) == (2, "") and words in printed.err, printed.err
    assert str(kernel) in printed.err


def test_nothing_to_go_on(write: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    path = write("resources/all.yaml", [WORKER1])

    def run(*words: object) -> tuple[int, str]:
        try:
            code = daemon.main(["plan", *map(str, words)])
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        printed = capsys.readouterr()
        assert printed.out == ""
        return code, printed.err

    resources = ("--resources", path.parent)
    code, words = run("--resources", "/nowhere", "--node", "worker1")
    assert code == 2 and "/nowhere: No such file" in words
    code, words = run("--resources", path, "--node", "worker1")
    assert code == 2 and "Not a directory" in words
    code, words = run(*resources, "--node", "worker7")
    assert code == 2 and "there is no Node 'worker7'" in words
    code, words = run(*resources, "--node", "worker1", "--kernel", "/nowhere")
    assert code == 2 and "/nowhere: No such file" in words
    config = write("bgpd.yaml", "bgp: {prt: 1}\n")
    code, words = run(*resources, "--node", "worker1", "--config", config)
    assert code == 78 and "bgp.prt: unknown key" in words
    code, words = run(*resources)
    assert code == 2 and "--node" in words


def test_the_table(write: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    tor = bgp_peer("tor", "10.0.1.1", 65001, filters=["gone"], ttlSecurity=2)
    directory = write("resources/all.yaml", [WORKER1, WORKER2, POOL, BLOCK, tor]).parent
    assert daemon.main(["plan", "--resources", str(directory), "--node", "worker1"]) == 0
    assert capsys.readouterr().out == (
        "worker1: AS 64512, router id 10.0.1.30, listens on 0.0.0.0:179, [::]:179\n"
        "\n"
        "2 sessions\n"
        "  NAME             ADDRESS    AS     TYPE  FAMILIES  MORE\n"
        "  Global_10_0_1_1  10.0.1.1   65001  ebgp  ipv4      at most 2 hops away, filters gone\n"
        "  Mesh_10_0_1_31   10.0.1.31  64512  ibgp  ipv4      waits for the peer\n"
        "\n"
        "1 route announced\n"
        "  PREFIX          KIND   COMMUNITIES  SOURCE\n"
        "  10.48.0.192/26  block  -            BlockAffinity worker1-10-48-0-192-26\n"
        "\n"
        "1 blackhole\n"
        "  10.48.0.192/26\n"
        "\n"
        "1 kernel rule\n"
        "  CIDR          ACTION   TUNNEL  WHEN    REASON\n"
        "  10.48.0.0/16  program  -       always  IPPool default-ipv4 has no encapsulation\n"
        "\n"
        "1 problem\n"
        "  BGPPeer tor: spec.filters: there is no BGPFilter gone: skipped\n"
    )


def test_no_daemon_no_doors() -> None:
    """Quick, and without what it does not need."""
    heavy = ("exabgp", "pyroute2", "aiohttp")
    code = f"import sys; from bgpd.cli import plan; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_what_cannot_be_planned_is_an_object_for_programs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "bgpd.yaml"
    config.write_text("nod: a\nbgp: {defaults: {hold_time: soon}}\n")
    (tmp_path / "r").mkdir()
    directory = ["plan", "--resources", str(tmp_path / "r"), "--node", "a", "-o", "json"]
    for argv, code, count in (
        (["plan", "--resources", "/nowhere", "--node", "a", "-o", "json"], 2, 0),
        (directory, 2, 0),
        ([*directory, "--config", str(config)], 78, 2),
        ([*directory, "--kernel", str(tmp_path / "r")], 2, 0),
    ):
        assert daemon.main(argv) == code
        found = json.loads(capsys.readouterr().out)
        assert found["error"] and found["exit_code"] == code and len(found["problems"]) == count
    with pytest.raises(SystemExit):
        daemon.main(["plan", "-o", "json"])
    assert "--resources" in json.loads(capsys.readouterr().out)["error"]
