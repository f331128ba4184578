"""The configuration: defaults, every mistake named at once, peers laid over defaults, the schema."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from bgpd.config.config import Config, ListenRange, PeerOptions
from bgpd.config.environment import unread
from bgpd.config.reading import ConfigError, load, parse, read_passwords
from bgpd.config.schema import schema
from bgpd.config.section import Section
from bgpd.config.values import Endpoint
from bgpd.model.peer import PeerId
from bgpd.model.prefix import Family, parse_address
from bgpd.model.resources import ClusterRoutes

EXAMPLE = Path(__file__).parents[2] / "config" / "bgpd.yaml"


def problems(text: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "bgpd.yaml")
    assert str(caught.value).splitlines() == [str(problem) for problem in caught.value.problems]
    assert all(problem.source.startswith("bgpd.yaml") for problem in caught.value.problems)
    return {problem.path: problem.message for problem in caught.value.problems}


def test_variables_of_calico_node_are_named_with_what_says_it_here() -> None:
    found = unread({"IP": "autodetect", "AS": "", "PATH": "/bin", "CALICO_ROUTER_ID": "hash"})
    assert [problem.path for problem in found] == ["CALICO_ROUTER_ID", "IP"]
    assert all(problem.harmless and "in its place" in problem.message for problem in found)


def test_reports_want_the_kubernetes_api() -> None:
    with pytest.raises(ConfigError, match=r"compat\.node_status: written into the Kubernetes API"):
        parse("compat: {node_status: true}", "bgpd.yaml")
    found = parse("{datastore: {type: kubernetes}, compat: {session_events: true}}", "bgpd.yaml")
    assert found.compat.reports == ["session_events"]


def test_an_empty_file_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "Worker1.Example")
    config = parse("# nothing yet\n", "bgpd.yaml")
    assert config == Config()
    assert config.node == "worker1.example"
    assert config.bgp.port == 179
    assert config.metrics.listen == Endpoint("127.0.0.1", 9179)
    assert (config.kernel.nexthop_ids.first, config.kernel.nexthop_ids.last) == (0x62600000, 0x626FFFFF)


def test_sections_whose_keys_are_commented_out() -> None:
    assert parse("node: a\nbgp:\n  peers:\nmetrics:\napi:\n", "x") == parse("node: a", "x")


def test_all_mistakes_at_once() -> None:
    found = problems(
        """
        node: Worker1
        nodes: x
        router_id: 1.2.3
        datastore: {type: file, path: resources}
        bgp:
          port: 70000
          listen: [10.0.0.1, foo]
          defaults: {hold_time: 2, hold_tme: 4}
          peers:
            10.0.0.1: {hold_time: x, families: [ipv5], max_prefixes: 0}
            tor: 3
            tor2: {add_path: 1, extended_next_hop: no, password_file: secret}
          route_priority: yes
        originate: {ipam_early: yes}
        kernel: {nexthop_ids: {first: 5, last: 3}, workload_interfaces: cali*, program_cluster_routes: enabled}
        metrics: {listen: 9179}
        api: []
        log: {level: loud}
        """
    )
    assert found == {
        "node": "'Worker1': names of Nodes are lower case, without spaces",
        "nodes": "unknown key: did you mean node?",
        "router_id": "'1.2.3' is not auto, hash or an IPv4 address",
        "datastore.type": "expected files, etcd or kubernetes, not 'file'",
        "datastore.path": "'resources' is not an absolute path",
        "bgp.port": "expected less than or equal to 65535, not 70000",
        "bgp.listen.1": "'foo' is not an IPv4 or IPv6 address",
        "bgp.defaults.hold_time": "2 is not 0 (never expire) or at least 3 seconds (RFC 4271 §4.2)",
        "bgp.defaults.hold_tme": "unknown key: did you mean hold_time?",
        "bgp.peers.10.0.0.1.hold_time": "expected a whole number, not 'x'",
        "bgp.peers.10.0.0.1.families": "['ipv5'] is not a list of ipv4 and ipv6",
        "bgp.peers.10.0.0.1.max_prefixes": "expected greater than or equal to 1, not 0",
        "bgp.peers.tor": "expected keys and values, not 3",
        "bgp.peers.tor2.add_path": "expected true or false, not 1",
        "bgp.peers.tor2.extended_next_hop": "expected true or false, not 'no'",
        "bgp.peers.tor2.password_file": "'secret' is not an absolute path",
        "bgp.route_priority": "expected auto, on or off, not 'yes'",
        "originate.ipam_early": "expected true or false, not 'yes'",
        "kernel.nexthop_ids": "last is less than first",
        "kernel.workload_interfaces": "expected a list, not 'cali*'",
        "kernel.program_cluster_routes": "expected Enabled, Disabled, EnabledIPIPOnly, EnabledNoEncapOnly, "
        "not 'enabled'",
        "metrics.listen": "9179 is not ADDRESS:PORT, such as 127.0.0.1:9179 or [::1]:9179",
        "api": "expected keys and values, not a list",
        "log.level": "expected auto, debug, info, warning or error, not 'loud'",
    }


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        (
            "kernel: {workload_interfaces: ['']}",
            "kernel.workload_interfaces.0",
            "expected text that is not empty, not ''",
        ),
        (
            "kernel: {workload_interfaces: [a, abcdefghijklmnop]}",
            "kernel.workload_interfaces.1",
            "expected at most 15 characters, not 16",
        ),
        ("kernel: {workload_interfaces: [5]}", "kernel.workload_interfaces.0", "expected text, not 5"),
        (
            f"datastore: {{type: etcd, endpoints: [{', '.join(['http://a:1'] * 17)}]}}",
            "datastore.endpoints",
            "expected a list of at most 16, not 17",
        ),
        (
            "datastore: {type: etcd, endpoints: ['http://a:1'], prefix: calico/}",
            "datastore.prefix",
            "expected text such as (/[^/]+)+, not 'calico/'",
        ),
        ("bgp: {port: true}", "bgp.port", "expected a whole number, not true"),
        ("bgp: {port: 1.0}", "bgp.port", "expected a whole number, not 1.0"),
        ("bgp: {port: null}", "bgp.port", "expected a whole number, not null"),
        ("bgp: {route_priority: [on]}", "bgp.route_priority", "expected auto, on or off, not a list"),
        ("bgp: {peers: {7: {}}}", "bgp.peers.7", "expected a name that is text, not 7"),
        ("bgp: {peers: [a]}", "bgp.peers", "expected keys and values, not a list"),
        ("bgp: {defaults: {bfd: {min_tx: 1s, min_rx: 1}}}", "bgp.defaults.bfd.min_rx", "expected a time"),
        ("bgp: {defaults: {bfd: 300ms}}", "bgp.defaults.bfd", "expected keys and values such as"),
        ("{5: a}", "5", "unknown key: expected one of node, router_id, datastore"),
        ("history: {size: auto}", "history.size", "expected off or a size such as 64MiB"),
        ("history: {size: 1000000}", "history.size", "expected auto, off or a size such as 512MiB"),
    ],
)
def test_values_of_the_wrong_kind(text: str, path: str, message: str) -> None:
    found = problems(text)
    assert list(found) == [path] and found[path].startswith(message)


def test_a_section_is_frozen_and_knows_what_was_given() -> None:
    options = parse("bgp: {defaults: {hold_time: 90}}", "x").bgp.defaults
    assert (options.given, options) == ({"hold_time"}, PeerOptions())
    other = options.replace({"add_path": False})
    assert (other.given, other.hold_time, other.add_path) == ({"hold_time", "add_path"}, 90, False)
    assert options != other and options.add_path
    with pytest.raises(AttributeError, match="frozen"):
        options.hold_time = 3
    with pytest.raises(TypeError, match="PeerOptions has no hold_tme"):
        PeerOptions(hold_tme=3)
    with pytest.raises(TypeError, match="ListenRange needs prefix"):
        ListenRange(asns=(1,))


@pytest.mark.parametrize("listen", ["::1:9179", "[127.0.0.1]:9179", "127.0.0.1", "127.0.0.1:99999", "host:1"])
def test_bad_endpoints(listen: str) -> None:
    assert "metrics.listen" in problems(f"metrics: {{listen: '{listen}'}}")


def test_endpoints() -> None:
    config = parse("metrics: {listen: '[::1]:9179'}", "x")
    assert config.metrics.listen == Endpoint("::1", 9179)
    assert str(config.metrics.listen) == "[::1]:9179"
    assert parse("metrics: {listen: null}", "x").metrics.listen is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "bgpd.yaml:2:1: "),
        ("node: a\nnode: b", "bgpd.yaml:2:1: the key 'node' is given twice"),
        ("node: a\n---\nnode: b", "bgpd.yaml:2: expected one document, not several"),
        ("- node", "bgpd.yaml: expected keys and values"),
        ("bgp: {peers: {FD00::1: {}, 'fd00:0::1': {}}}", "fd00::1 is given twice"),
    ],
)
def test_files_that_are_no_configuration(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "bgpd.yaml")
    assert words in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load(tmp_path / "none.yaml")


def test_peers_over_defaults() -> None:
    bgp = parse(
        """
        bgp:
          defaults: {hold_time: 30, max_prefixes: 1000, families: [ipv4, ipv6]}
          peers:
            FD00::1: {max_prefixes: null, hold_time: 9}
            Mesh_fd00__1: {hold_time: 3}
        """,
        "x",
    ).bgp
    own = bgp.for_peer(PeerId("Mesh_fd00__1"), parse_address("fd00::1"))
    assert (own.hold_time, own.max_prefixes, own.families) == (3, None, frozenset(Family))
    by_address = bgp.for_peer(PeerId("Global_fd00__1"), parse_address("fd00::1"))
    assert (by_address.hold_time, by_address.max_prefixes) == (9, None)
    other = bgp.for_peer(PeerId("Global_fd00__2"), parse_address("fd00::2"))
    assert (other.hold_time, other.max_prefixes) == (30, 1000)


def test_listen_ranges() -> None:
    bgp = parse(
        """
        bgp:
          defaults: {hold_time: 30, add_path: false}
          listen_ranges:
          - {prefix: 192.0.2.7/24, asns: [65010, 65011, 65010], filters: [a, b], ttl_security: 1, hold_time: 9}
          - {prefix: "fd00::/64", asns: [1], max_sessions: 5, password_file: /etc/range.password}
        """,
        "x",
    ).bgp
    four, six = bgp.listen_ranges
    assert (str(four.prefix), four.asns, four.max_sessions) == ("192.0.2.0/24", (65010, 65011, 65010), 100)
    assert (four.filters, four.ttl_security, six.ttl_security, six.max_sessions) == (("a", "b"), 1, None, 5)
    of_four, of_six = bgp.for_range(four), bgp.for_range(six)
    assert (of_four.hold_time, of_four.add_path, of_four.password_file) == (9, False, None)
    assert (of_six.hold_time, of_six.password_file) == (30, Path("/etc/range.password"))


@pytest.mark.parametrize(
    ("entry", "path", "message"),
    [
        ("{asns: [1]}", "0.prefix", "expected, but not there"),
        ("{prefix: 192.0.2.0/24}", "0.asns", "expected, but not there"),
        (
            "{prefix: 192.0.2.0/24, asns: []}",
            "0.asns",
            "expected a list of at least one AS number",
        ),
        (
            "{prefix: 192.0.2.0/24, asns: [0]}",
            "0.asns.0",
            "expected greater than or equal to 1, not 0",
        ),
        (
            "{prefix: 192.0.2.1, asns: [1]}",
            "0.prefix",
            "'192.0.2.1' is not a prefix such as 192.0.2.0/24 or 2001:db8::/64",
        ),
        (
            "{prefix: 'fe80::/64', asns: [1]}",
            "0.prefix",
            "'fe80::/64' is link-local: such a neighbour needs a BGPPeer that names the interface",
        ),
        (
            "{prefix: 192.0.2.0/24, asns: [1], ttl_security: 256}",
            "0.ttl_security",
            "expected less than or equal to 255, not 256",
        ),
        (
            "{prefix: 192.0.2.0/24, asns: [1], max_sesions: 2}",
            "0.max_sesions",
            "unknown key: did you mean max_sessions?",
        ),
        (
            "{prefix: 10.0.0.0/8, asns: [1]}, {prefix: '::/0', asns: [1]}, {prefix: 10.1.0.0/16, asns: [2]}",
            "",
            "10.1.0.0/16 overlaps 10.0.0.0/8",
        ),
    ],
)
def test_wrong_listen_ranges(entry: str, path: str, message: str) -> None:
    found = problems(f"bgp: {{listen_ranges: [{entry}]}}")
    assert found == {f"bgp.listen_ranges.{path}".rstrip("."): message}


def test_what_kernel_routes_are_ours_and_how_they_weigh() -> None:
    config = parse("{}", "x")
    assert (config.kernel.program_cluster_routes, config.bgp.route_priority) == (
        ClusterRoutes.NO_ENCAP_ONLY,
        "auto",
    )
    config = parse("{kernel: {program_cluster_routes: Enabled}, bgp: {route_priority: on}}", "x")
    assert (config.kernel.program_cluster_routes, config.bgp.route_priority) == (ClusterRoutes.ENABLED, "on")


def test_passwords_are_read_and_never_shown(tmp_path: Path) -> None:
    for name in ("defaults", "peer", "range"):
        (tmp_path / name).write_text(f"secret of {name}\n")
    os.mkfifo(tmp_path / "fifo")
    config = parse(
        f"""
        bgp:
          defaults: {{password_file: {tmp_path}/defaults}}
          peers: {{a: {{password_file: {tmp_path}/peer}}, b: {{password_file: {tmp_path}/none}}, c: {{}},
                   d: {{password_file: {tmp_path}/fifo}}}}
          listen_ranges: [{{prefix: 10.0.0.0/8, asns: [1], password_file: {tmp_path}/range}}]
        """,
        "x",
    )
    found = read_passwords(config)
    assert {path.name: text if isinstance(text, str) else text.octets for path, text in found.items()} == {
        "defaults": b"secret of defaults\n",
        "peer": b"secret of peer\n",
        "range": b"secret of range\n",
        "none": "cannot be read: No such file or directory",
        "fifo": "cannot be read: it is no file",
    }
    assert "secret of" not in f"{found!r} {config!r}"


def test_which_key_decides() -> None:
    bgp = parse("bgp: {peers: {10.0.0.1: {hold_time: 9}, Mesh_10_0_0_1: {add_path: false}}}", "x").bgp
    name, address = PeerId("Mesh_10_0_0_1"), parse_address("10.0.0.1")
    assert bgp.place("hold_time", name, address) == "bgp.peers.10.0.0.1.hold_time"
    assert bgp.place("add_path", name, address) == "bgp.peers.Mesh_10_0_0_1.add_path"
    assert bgp.place("families", name, address) == "bgp.defaults.families"


def test_the_schema_documents_every_key() -> None:
    document = schema()
    json.dumps(document)
    sections = [document, *document["$defs"].values()]
    keys = [(name, key) for section in sections for name, key in section["properties"].items()]
    assert all(key.get("description") or "$ref" in key or name in ("first", "last") for name, key in keys)
    assert all(section["additionalProperties"] is False for section in sections)
    assert document["$defs"]["ListenRange"]["required"] == ["prefix", "asns"]
    defaults = {
        name: key["default"]
        for name, key in document["$defs"]["BgpOptions"]["properties"].items()
        if "default" in key
    }
    assert defaults == {
        "listen": ["0.0.0.0", "::"],
        "port": 179,
        "memory_limit": "auto",
        "listen_ranges": [],
        "route_priority": "auto",
    }


def keys_of(section: Section, path: str = "") -> set[str]:
    keys: set[str] = set()
    for name in section.keys:
        value = getattr(section, name)
        keys |= keys_of(value, f"{path}{name}.") if isinstance(value, Section) else {f"{path}{name}"}
    return keys


def test_the_example_says_every_default() -> None:
    """config/bgpd.yaml holds every key with its default, as comments; uncommented it is the default configuration."""
    text = EXAMPLE.read_text()
    assert load(EXAMPLE) == Config()
    lines = [re.sub(r"^( *)#(?! )", r"\1", line) for line in text.splitlines()]
    config = parse("\n".join(lines), "uncommented")
    assert config == Config(node="worker1")
    missing = {
        key
        for key in keys_of(config)
        if not re.search(rf"^[^#]*\b{key.rpartition('.')[2]}:", "\n".join(lines), re.MULTILINE)
    }
    assert missing == set()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{type: etcd}", "endpoints expected, such as [https://10.0.0.1:2379]"),
        (
            "{type: etcd, endpoints: [10.0.0.1:2379]}",
            "'10.0.0.1:2379' is not http://HOST:PORT or https://HOST:PORT",
        ),
        ("{type: etcd, endpoints: ['https://a:1'], cert: /c}", "cert and key: expected both or neither"),
        (
            "{type: etcd, endpoints: ['https://a:1'], username: u}",
            "username and password_file: expected both or neither",
        ),
        ("{type: kubernetes, prefix: /other}", "prefix is of type etcd, not kubernetes"),
        ("{kubeconfig: /etc/kubeconfig}", "kubeconfig is of type kubernetes, not files"),
    ],
)
def test_what_a_datastore_needs_and_does_not_have(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f"datastore: {text}", "bgpd.yaml")
    assert words in str(caught.value)


def test_the_servers_of_a_datastore() -> None:
    options = parse(
        "datastore: {type: etcd, endpoints: ['https://[fd00::1]:2379/', 'http://b:1']}", "x"
    ).datastore
    assert options.endpoints == ("https://[fd00::1]:2379", "http://b:1")
    assert parse("datastore: {type: kubernetes, context: prod}", "x").datastore.context == "prod"


def test_the_nodes_name_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODENAME", "Worker7")
    assert Config().node == "worker7"
    assert parse("node: worker1", "x").node == "worker1"
