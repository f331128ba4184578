"""The configuration: defaults, every mistake named at once, peers laid over defaults, the schema."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from bgpd.config import Config, ConfigError, Endpoint, load, parse, schema
from bgpd.model.peer import PeerId
from bgpd.model.prefix import Family, parse_address

EXAMPLE = Path(__file__).parents[2] / "config" / "bgpd.yaml"


def problems(text: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "bgpd.yaml")
    assert str(caught.value).splitlines() == [str(problem) for problem in caught.value.problems]
    assert all(problem.source.startswith("bgpd.yaml") for problem in caught.value.problems)
    return {problem.path: problem.message for problem in caught.value.problems}


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
        originate: {ipam_early: yes}
        kernel: {nexthop_ids: {first: 5, last: 3}, workload_interfaces: cali*}
        metrics: {listen: 9179}
        api: []
        log: {level: loud}
        """
    )
    assert found == {
        "node": "'Worker1': names of Nodes are lower case, without spaces",
        "nodes": "unknown key: did you mean node?",
        "router_id": "'1.2.3' is not auto, hash or an IPv4 address",
        "datastore.type": "expected files, not 'file'",
        "datastore.path": "'resources' is not an absolute path",
        "bgp.port": "expected less than or equal to 65535, not 70000",
        "bgp.listen.1": "'foo' is not an IPv4 or IPv6 address",
        "bgp.defaults.hold_time": "2 is not 0 (never expire) or at least 3 seconds (RFC 4271 §4.2)",
        "bgp.defaults.hold_tme": "unknown key: did you mean hold_time?",
        "bgp.peers.10.0.0.1.hold_time": "expected a whole number, not 'x'",
        "bgp.peers.10.0.0.1.families": "['ipv5'] is not a list of ipv4 and ipv6",
        "bgp.peers.10.0.0.1.max_prefixes": "expected greater than or equal to 1, not 0",
        "bgp.peers.tor": "expected keys and values, not 3",
        "originate.ipam_early": "expected true or false, not 'yes'",
        "kernel.nexthop_ids": "last is less than first",
        "kernel.workload_interfaces": "expected a list, not 'cali*'",
        "metrics.listen": "9179 is not ADDRESS:PORT, such as 127.0.0.1:9179 or [::1]:9179",
        "api": "expected keys and values, not a list",
        "log.level": "expected debug, info, warning or error, not 'loud'",
    }


def test_an_empty_pattern() -> None:
    found = problems("kernel: {workload_interfaces: ['']}")
    assert found == {"kernel.workload_interfaces.0": "expected text that is not empty, not ''"}


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


def test_the_schema_documents_every_key() -> None:
    document = schema()
    json.dumps(document)
    sections = [document, *document["$defs"].values()]
    keys = [(name, key) for section in sections for name, key in section["properties"].items()]
    assert all(key.get("description") or "$ref" in key or name in ("first", "last") for name, key in keys)
    assert all(section["additionalProperties"] is False for section in sections)


def keys_of(section: BaseModel, path: str = "") -> set[str]:
    keys: set[str] = set()
    for name in type(section).model_fields:
        value = getattr(section, name)
        keys |= keys_of(value, f"{path}{name}.") if isinstance(value, BaseModel) else {f"{path}{name}"}
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
