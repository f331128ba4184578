"""The CNI plugins as a runtime meets them: environment and stdin in, JSON out (CNI specification 1.1.0)."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import UnixStreamServer
from typing import Any

import pytest

from bgpd.cni import ipam, links, network, spec
from bgpd.datastore.allocator import Allocator
from bgpd.datastore.files_store import FilesStore
from bgpd.datastore.store import Executor
from bgpd.model.ipam import Kind
from bgpd.rules.ipam.steps import Refused

RESOURCES = """\
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: default-ipv4-ippool}
spec: {cidr: 10.48.0.0/24, blockSize: 28}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: other}
spec: {cidr: 10.48.128.0/29, blockSize: 30, nodeSelector: "!all()"}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: six}
spec: {cidr: "fd00:48::/112"}
---
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: node-a}
spec: {}
"""
Run = Callable[..., tuple[int, Any]]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "all.yaml").write_text(RESOURCES)
    return tmp_path / "r"


@pytest.fixture
def run(directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a plugin in this process: exit code, and what it wrote to stdout as JSON (``None``: nothing)."""
    monkeypatch.setattr("bgpd.datastore.allocator.HOST_LOCK", directory.parent / "host.lock")

    def call(
        verb: str,
        *,
        verbs: spec.Verbs = ipam.VERBS,
        environment: Mapping[str, str] | None = None,
        stdin: str | None = None,
        options: Mapping[str, Any] | None = None,
        **config: Any,
    ) -> tuple[int, Any]:
        whole = {
            "cniVersion": "1.1.0",
            "name": "net",
            "type": "x",
            "ipam": {
                "type": "bgpd-ipam",
                "nodename": "node-a",
                "resources": str(directory),
                "socket": str(directory / "none.sock"),
                **(options or {}),
            },
            **config,
        }
        variables = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": "c1",
            "CNI_NETNS": "/proc/self/ns/net",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": "/nowhere",
            "CNI_ARGS": "",
            **(environment or {}),
        }
        for key, value in variables.items():
            monkeypatch.setenv(key, value)
        monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(whole) if stdin is None else stdin))
        capsys.readouterr()
        code = spec.main(verbs)
        out = capsys.readouterr().out
        return code, json.loads(out) if out else None

    return call


def used(directory: Path) -> dict[str, str]:
    from tests.unit.ipam_ground import Memory, in_use

    store = FilesStore(directory)
    return in_use(Memory(stored.value for stored in store.list(Kind.BLOCK)))


def test_an_address_comes_and_goes(run: Run, directory: Path) -> None:
    code, result = run(
        "ADD", environment={"CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web"}
    )
    assert code == 0
    (ip,) = result["ips"]
    assert result["cniVersion"] == "1.1.0" and ip["address"].endswith("/28") and "version" not in ip
    assert list(used(directory).values()) == ["net.c1"]
    (block,) = FilesStore(directory).list(Kind.BLOCK)
    secondary = dict(block.value.attributes[0].secondary)
    assert secondary.pop("timestamp").endswith(" +0000 UTC")
    assert secondary == {"node": "node-a", "namespace": "shop", "pod": "web", "interface": "eth0"}
    assert run("ADD")[1]["ips"] == result["ips"], "an ADD whose answer was lost comes again"
    assert run("CHECK", prevResult=result) == (0, None)
    assert run("DEL") == (0, None)
    assert run("DEL") == (0, None)
    assert used(directory) == {}
    code, error = run("CHECK", prevResult=result)
    assert (code, error["code"], error["details"]) == (1, 110, "not-allocated")


def test_two_interfaces_of_one_container_have_their_own(run: Run, directory: Path) -> None:
    first = run("ADD")[1]["ips"]
    second = run("ADD", environment={"CNI_IFNAME": "eth1"})[1]["ips"]
    assert first != second
    run("DEL", environment={"CNI_IFNAME": "eth1"})
    assert [f"{text}/28" for text in used(directory)] == [first[0]["address"]]


def test_both_versions_and_the_pools_of_the_pod(run: Run, directory: Path) -> None:
    notes = {"cni.projectcalico.org/ipv4pools": '["other"]'}
    for more in (
        {"runtimeConfig": {"io.kubernetes.cri.pod-annotations": notes}},
        {"args": {"cni": {"annotations": notes}}},
    ):
        code, result = run("ADD", options={"assign_ipv6": "true", "ipv4_pools": ["10.48.0.0/24"]}, **more)
        assert code == 0
        four, six = (ip["address"] for ip in result["ips"])
        assert four.startswith("10.48.128.") and six.startswith("fd00:48:") and six.endswith("/122")
        run("DEL")
    assert used(directory) == {}


@pytest.mark.parametrize(
    "more",
    [
        {"environment": {"CNI_ARGS": "IP=10.48.0.77"}},
        {"runtimeConfig": {"ips": ["10.48.0.77/24"]}},
        {"args": {"cni": {"ips": ["10.48.0.77"]}}},
        {"args": {"cni": {"annotations": {"cni.projectcalico.org/ipAddrs": '["10.48.0.77"]'}}}},
    ],
)
def test_an_address_by_name(run: Run, directory: Path, more: dict[str, Any]) -> None:
    code, result = run("ADD", **more)
    assert code == 0 and result["ips"][0]["address"] == "10.48.0.77/28"
    environment = {**more.get("environment", {}), "CNI_CONTAINERID": "c2"}
    code, error = run("ADD", **{**more, "environment": environment})
    assert (code, error["code"]) == (1, spec.OWN["address-taken"]) and "net.c1" in error["msg"]
    assert used(directory) == {"10.48.0.77": "net.c1"}


def test_old_versions_of_the_result(run: Run) -> None:
    code, result = run("ADD", cniVersion="0.4.0")
    assert code == 0 and result["cniVersion"] == "0.4.0" and result["ips"][0]["version"] == "4"


def test_versions_are_reported(run: Run) -> None:
    code, result = run("VERSION", stdin='{"cniVersion": "1.1.0"}')
    assert code == 0 and result == {"cniVersion": "1.1.0", "supportedVersions": list(spec.VERSIONS)}


@pytest.mark.parametrize(
    ("verb", "more", "code", "words"),
    [
        ("ADD", {"stdin": "{"}, 6, "no JSON"),
        ("ADD", {"stdin": "[]"}, 6, "no object"),
        ("ADD", {"stdin": ""}, 6, "no JSON"),
        ("ADD", {"cniVersion": "2.0.0"}, 1, "2.0.0"),
        ("ADD", {"cniVersion": None}, 1, "0.2.0"),
        ("ADD", {"name": "../x"}, 7, "name"),
        ("ADD", {"name": None}, 7, "name"),
        ("ADD", {"environment": {"CNI_CONTAINERID": ""}}, 4, "CNI_CONTAINERID"),
        ("ADD", {"environment": {"CNI_CONTAINERID": "../../x"}}, 4, "CNI_CONTAINERID"),
        ("ADD", {"environment": {"CNI_IFNAME": "a/b"}}, 4, "CNI_IFNAME"),
        ("ADD", {"environment": {"CNI_IFNAME": "x" * 16}}, 4, "CNI_IFNAME"),
        ("ADD", {"environment": {"CNI_ARGS": "nonsense"}}, 4, "CNI_ARGS"),
        ("ADD", {"environment": {"CNI_NETNS": "", "CNI_IFNAME": ""}}, 4, "CNI_NETNS, CNI_IFNAME"),
        ("ADD", {"environment": {"CNI_IFNAME": "é" * 8}}, 4, "CNI_IFNAME"),
        ("ADD", {"environment": {"CNI_IFNAME": "eth0\x1b"}}, 4, "CNI_IFNAME"),
        ("ADD", {"environment": {"CNI_IFNAME": "\udcff"}}, 4, "CNI_IFNAME"),
        ("ADD", {"environment": {"CNI_ARGS": "IgnoreUnknown"}}, 4, "CNI_ARGS"),
        ("ADD", {"options": {"resources": "a\x00b"}}, 6, "no file can be called by"),
        ("ADD", {"prevResult": {"\ud800": 1}}, 6, "no file can be called by"),
        ("CHECK", {"prevResult": []}, 7, "prevResult"),
        ("CHECK", {"prevResult": {"ips": 5}}, 7, "prevResult.ips"),
        ("CHECK", {"prevResult": {"ips": [{"address": "x"}]}}, 7, "no address"),
        ("NONE", {}, 4, "CNI_COMMAND"),
        ("", {}, 4, "CNI_COMMAND"),
        ("CHECK", {}, 7, "prevResult"),
        ("CHECK", {"cniVersion": "0.3.1", "prevResult": {}}, 1, "CHECK is not part"),
        ("GC", {"cniVersion": "1.0.0"}, 1, "GC is not part"),
        ("GC", {"cni.dev/valid-attachments": [1]}, 7, "valid-attachments"),
        ("ADD", {"ipam": []}, 7, "ipam"),
        ("ADD", {"ipam": 5}, 7, "ipam"),
        ("ADD", {"options": {"assign_ipv4": "maybe"}}, 7, "assign_ipv4"),
        ("ADD", {"options": {"assign_ipv4": "false"}}, 7, "neither IPv4 nor IPv6"),
        ("ADD", {"options": {"ipv4_pools": "p"}}, 7, "ipv4_pools"),
        ("ADD", {"options": {"ipv4_pools": ["no-such"]}}, 108, "no-such"),
        ("ADD", {"options": {"nodename": "node-x"}}, 109, "node-x"),
        ("ADD", {"environment": {"CNI_ARGS": "IP=192.0.2.1"}}, 106, "192.0.2.1"),
        ("ADD", {"environment": {"CNI_ARGS": "IP=none"}}, 7, "no address"),
        ("ADD", {"runtimeConfig": {"ips": ["10.48.0.1", "10.48.0.2"]}}, 7, "at most one"),
        ("ADD", {"runtimeConfig": {"ips": "10.48.0.1"}}, 7, "ips"),
        ("ADD", {"runtimeConfig": 5}, 7, "runtimeConfig"),
        ("ADD", {"args": {"cni": {"annotations": {"cni.projectcalico.org/ipv4pools": "p"}}}}, 7, "ipv4pools"),
        ("ADD", {"options": {"resources": "/nowhere"}}, 11, "/nowhere"),
        ("STATUS", {"options": {"resources": "/nowhere"}}, 50, "/nowhere"),
        ("STATUS", {"options": {"ipv4_pools": ["no-such"]}}, 50, "no-such"),
    ],
)
def test_each_refusal_has_its_code_and_leaves_nothing(
    run: Run, directory: Path, verb: str, more: dict[str, Any], code: int, words: str
) -> None:
    exit_code, error = run(verb, **more)
    assert exit_code == 1 and error["code"] == code and words in error["msg"], error
    assert used(directory) == {}


def test_exhaustion_is_reported_and_what_was_got_is_given_back(run: Run, directory: Path) -> None:
    """calico cni-plugin#908: no IPv4 stays where the IPv6 has run out."""
    for number in range(8):
        assert (
            run("ADD", options={"ipv4_pools": ["other"]}, environment={"CNI_CONTAINERID": f"f{number}"})[0]
            == 0
        )
    before = used(directory)
    code, error = run("ADD", options={"ipv4_pools": ["other"], "assign_ipv6": "true"})
    assert (code, error["code"], error["details"]) == (
        1,
        101,
        "exhausted",
    ) and "other (10.48.128.0/29)" in error["msg"]
    assert used(directory) == before
    code, error = run("ADD", options={"assign_ipv6": "true", "ipv6_pools": ["other"]})
    assert code == 1 and used(directory) == before


def test_without_borrowing_a_full_cluster_is_exhausted(run: Run, directory: Path) -> None:
    """Two nodes have the two blocks of a pool, with free addresses: with strictAffinity they are not for a third."""
    for name in ("node-b", "node-c"):
        node = {"apiVersion": "projectcalico.org/v3", "kind": "Node", "metadata": {"name": name}, "spec": {}}
        (directory / f"{name}.json").write_text(json.dumps(node))
    options = {"ipv4_pools": ["other"]}
    for name in ("node-b", "node-c"):
        environment = {"CNI_CONTAINERID": name}
        assert run("ADD", options={**options, "nodename": name}, environment=environment)[0] == 0
    before = used(directory)
    strict = {
        "apiVersion": "crd.projectcalico.org/v1",
        "kind": "IPAMConfig",
        "metadata": {"name": "default"},
        "spec": {"strictAffinity": True, "autoAllocateBlocks": True},
    }
    (directory / "config.json").write_text(json.dumps(strict))
    code, error = run("ADD", options=options)
    assert (code, error["code"], error["details"]) == (1, 101, "exhausted"), error
    assert "strictAffinity" in error["msg"]
    code, error = run("ADD", options=options, environment={"CNI_ARGS": f"IP={next(iter(before))[:-1]}9"})
    assert code == 1 and error["details"] in ("strict-affinity", "outside-every-pool")
    assert used(directory) == before
    (directory / "config.json").unlink()
    assert run("ADD", options=options)[0] == 0, "borrowed"


def test_a_delete_takes_away_whatever_else_it_is_told(run: Run, directory: Path) -> None:
    for number, more in enumerate(
        (
            {"environment": {"CNI_ARGS": "nonsense"}},
            {"environment": {"CNI_NETNS": ""}},
            {"environment": {"CNI_NETNS": "/gone"}},
            {"prevResult": {"ips": [{"address": 5}]}},
            {"runtimeConfig": 5, "args": 5},
            {"options": {"assign_ipv4": "maybe", "ipv4_pools": 5}},
            {"cniVersion": "0.3.1"},
        )
    ):
        container = f"c{number}"
        for verbs in (ipam.VERBS, network.VERBS):
            assert run("ADD", environment={"CNI_CONTAINERID": container})[0] == 0
            environment = {"CNI_CONTAINERID": container, "CNI_NETNS": "", **more.get("environment", {})}
            outcome = run("DEL", verbs=verbs, **{**more, "environment": environment})
            assert outcome == (0, None), (more, outcome)
            assert used(directory) == {}, more


ODD = (None, 5, "", "x", [], {}, [None], [{}], {"a": 1}, True, 1e300, "\x00", "\ud800", "y" * 300, {"cni": 5})
ODD += (
    {"cni": {"ips": [5]}},
    {"ips": [{"address": 5}]},
    {"type": "../x"},
    {"io.kubernetes.cri.pod-annotations": 5},
)


@pytest.mark.parametrize("verbs", [ipam.VERBS, network.VERBS], ids=["bgpd-ipam", "bgpd-cni"])
@pytest.mark.parametrize(
    "key", ["cniVersion", "name", "ipam", "mtu", "runtimeConfig", "args", "prevResult", "nodename", "dns"]
)
def test_no_configuration_is_a_bug(run: Run, directory: Path, verbs: spec.Verbs, key: str) -> None:
    """Whatever stands at a key: a result, or an error with a code that is not ``BUG``."""
    for value in ODD:
        for verb in ("ADD", "CHECK", "DEL"):
            code, answer = run(verb, verbs=verbs, environment={"CNI_NETNS": "/nowhere"}, **{key: value})
            assert code == 0 or (answer["code"] != spec.BUG and answer["msg"]), (verb, value, answer)
    assert set(used(directory).values()) <= {"net.c1", "x.c1", f"{'y' * 300}.c1"}


def test_a_bug_is_an_error_too(run: Run) -> None:
    def broken(_: spec.Call) -> None:
        raise ZeroDivisionError("somewhere")

    code, error = run("ADD", verbs={"ADD": broken})
    assert (code, error["code"], error["details"]) == (1, spec.BUG, "bug")
    assert error["msg"] == "ZeroDivisionError: somewhere"


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        ("5", 6, "no JSON object"),
        ("[", 6, "no JSON object"),
        ("{}", 7, "gave no address"),
        ('{"ips": [{}]}', 6, "cannot be read"),
        ('{"ips": [{"address": "10.0.0.300"}]}', 6, "cannot be read"),
        ('{"ips": [{"address": "10.0.0.3"}], "routes": [{"dst": "0.0.0.0/0 dev x"}]}', 6, "cannot be read"),
    ],
)
def test_an_odd_result_of_another_ipam_plugin(
    run: Run, tmp_path: Path, answer: str, code: int, words: str
) -> None:
    plugin = tmp_path / "odd-ipam"
    plugin.write_text(f"#!/bin/sh\ncat >/dev/null\necho $CNI_COMMAND >>{tmp_path}/calls\necho '{answer}'\n")
    plugin.chmod(0o755)
    environment = {"CNI_PATH": str(tmp_path)}
    outcome, error = run("ADD", verbs=network.VERBS, options={"type": "odd-ipam"}, environment=environment)
    assert (outcome, error["code"]) == (1, code) and words in error["msg"], error
    assert (tmp_path / "calls").read_text().split() == ["ADD", "DEL"], "what it gave is given back"


ATTACHMENT = {"containerID": "c2", "ifname": "eth0"}


@pytest.mark.parametrize(
    "listed",
    [
        {},
        {"cni.dev/valid-attachments": False},
        {"cni.dev/valid-attachments": "c2"},
        {"cni.dev/valid-attachments": ATTACHMENT},
        {"cni.dev/valid-attachments": [{**ATTACHMENT, "containerID": 2}]},
        {"cni.dev/valid-attachments": [ATTACHMENT, {**ATTACHMENT, "ifname": None}]},
        {"cni.dev/valid-attachments": [["c2", "eth0"]]},
    ],
)
def test_a_list_that_is_none_is_no_empty_list(run: Run, directory: Path, listed: dict[str, Any]) -> None:
    """All that it does not name would be removed: of pods that live."""
    run("ADD", environment={"CNI_CONTAINERID": "c2"})
    code, error = run("GC", **listed)
    assert (code, error["code"]) == (1, 7) and "valid-attachments" in error["msg"]
    assert list(used(directory).values()) == ["net.c2"]
    assert run("GC", **{"cni.dev/valid-attachments": None}) == (0, None), "an empty list of a program in Go"
    assert not used(directory)


def test_garbage_is_of_this_network_and_node(run: Run, directory: Path) -> None:
    for container in ("c1", "c2", "c3"):
        run("ADD", environment={"CNI_CONTAINERID": container})
    run("ADD", name="net2", environment={"CNI_CONTAINERID": "c9"})
    assert run("STATUS") == (0, None)
    assert run("GC", **{"cni.dev/valid-attachments": [{"containerID": "c2", "ifname": "eth0"}]}) == (0, None)
    assert sorted(used(directory).values()) == ["net.c2", "net2.c9"]


# -- the daemon's socket -----------------------------------------------------------------------------------------------


@pytest.fixture
def daemon(directory: Path) -> Iterator[list[dict[str, Any]]]:
    """Answers orders as the daemon does, over the same store."""
    orders: list[dict[str, Any]] = []
    allocator = Allocator(Executor(FilesStore(directory)), "node-a", lock=directory.parent / "l")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            orders.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            body = json.dumps(allocator.perform(orders[-1])).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None: ...

        def address_string(self) -> str:
            return "plugin"

    with UnixStreamServer(str(directory.parent / "api.sock"), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield orders
        server.shutdown()
        thread.join()


def test_the_daemon_is_asked_where_it_runs(run: Run, directory: Path, daemon: list[dict[str, Any]]) -> None:
    options = {"socket": str(directory.parent / "api.sock"), "resources": "/nowhere"}
    code, _ = run("ADD", options=options)
    assert code == 0 and daemon[0]["verb"] == "add" and len(used(directory)) == 1
    code, error = run("ADD", options={**options, "nodename": "node-b"})
    assert (code, error["code"]) == (1, 109), "the daemon of another node gives nothing"
    assert run("DEL", options=options) == (0, None)
    assert used(directory) == {}


def test_without_a_daemon_its_datastore_is_used(
    run: Run, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the configuration that names it; the node is the configuration's too where nothing else says it."""
    configuration = directory.parent / "bgpd.yaml"
    configuration.write_text(f"node: node-a\ndatastore: {{path: {directory}}}\nnot-yet: known\n")
    configured = {"resources": None, "config": str(configuration), "nodename": None}
    code, result = run("ADD", options=configured, nodename_file="/nowhere")
    assert code == 0, result
    assert list(used(directory).values()) == ["net.c1"]

    assert Executor.__init__.__kwdefaults__ is not None
    monkeypatch.setitem(Executor.__init__.__kwdefaults__, "patience", 0.1)
    configuration.write_text("datastore: {type: etcd, endpoints: ['http://127.0.0.1:9']}\n")
    code, error = run("STATUS", options=configured)
    assert (code, error["code"], error["details"]) == (1, 50, "store")
    assert "http://127.0.0.1:9" in error["msg"]

    for text, message in (
        ("datastore: {type: etcd}\n", "endpoints"),
        ("datastore: {path: relative}\n", "datastore.path"),
        ("datastore: [", "bgpd.yaml:"),
        ("datastore: 1\n", "datastore"),
    ):
        configuration.write_text(text)
        code, error = run("ADD", options=configured)
        assert (code, error["code"], error["details"]) == (1, 7, "invalid")
        assert message in error["msg"]


def test_a_plugin_starts_with_the_standard_library_alone(tmp_path: Path) -> None:
    """What costs time at start: no YAML, no netaddr, no event loop, no HTTP library before an order is carried out."""
    script = "import sys, bgpd.cni.network; print(*sorted(sys.modules))"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    heavy = {
        "yaml",
        "netaddr",
        "asyncio",
        "aiohttp",
        "http.client",
        "pyroute2",
        "pydantic",
        "ssl",
        "logging",
        "subprocess",
    }
    assert not heavy & set(out.split())


def test_names_of_links_are_calicos() -> None:
    """ipam.md §4.5, from Calico's code."""
    assert links.host_name("0123456789abcdef", "eth0", "web-0", "default") == "cali0d7763386da"
    assert links.host_name("0123456789abcdef", "eth0") == "cali0123456789a"
    assert links.host_name("0123456789abcdef", "eth1") != links.host_name("0123456789abcdef", "eth0")
    assert len(links.host_name("c" * 64, "net1", "web-0", "default")) <= 15


def test_another_ipam_plugin_is_run_as_the_specification_says(run: Run, tmp_path: Path) -> None:
    plugin = tmp_path / "odd-ipam"
    plugin.write_text('#!/bin/sh\ncat >/dev/null\necho \'{"code": 99, "msg": "not today"}\'\nexit 1\n')
    plugin.chmod(0o755)
    code, error = run(
        "ADD",
        verbs=network.VERBS,
        options={"type": "odd-ipam"},
        environment={"CNI_PATH": f"/none:{tmp_path}"},
    )
    assert (code, error["code"], error["msg"]) == (1, 99, "not today")
    code, error = run("ADD", verbs=network.VERBS, options={"type": "missing"})
    assert code == 1 and error["code"] == 7 and "missing" in error["msg"]
    code, error = run("ADD", verbs=network.VERBS, environment={"CNI_NETNS": "/nowhere"})
    assert code == 1 and error["code"] == 4


@pytest.mark.parametrize(
    "order",
    [
        {},
        {"verb": 5},
        {"verb": "add"},
        {"verb": "add", "handle": 1, "interface": "eth0"},
        {"verb": "add", "handle": "h", "interface": "eth0", "ipv4": True},
        {"verb": "add", "handle": "h", "interface": "eth0", "ipv4": 10**9},
        {"verb": "add", "handle": "h", "interface": "eth0", "ipv4": 1, "ipv4_pools": "p"},
        {"verb": "add", "handle": "h", "interface": "eth0", "addresses": ["x"]},
        {"verb": "del", "handle": ["h"], "interface": "eth0"},
        {"verb": "gc", "network": "", "valid": []},
        {"verb": "gc", "network": "n"},
        {"verb": "gc", "network": "n", "valid": "ab"},
        {"verb": "gc", "network": "n", "valid": ["ab"]},
        {"verb": "gc", "network": "n", "valid": [["c", "eth0"], ["c", None]]},
    ],
)
def test_an_order_that_is_none_is_answered_so(directory: Path, order: dict[str, Any]) -> None:
    answer = Allocator(Executor(FilesStore(directory)), "node-a", lock=directory / "l").perform(order)
    assert answer["error"]["code"] == "invalid" and answer["error"]["message"]
    assert issubclass(Refused, Exception)
