"""``config/kubernetes`` on a real kube-apiserver: every manifest is taken strictly, and bgpd lives with exactly the
account that they make."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from bgpd.config.reading import parse
from bgpd.datastore.cluster import Cluster
from bgpd.datastore.kubernetes.client import Access, KubernetesClient
from bgpd.datastore.kubernetes.feeds import Kubernetes
from bgpd.datastore.kubernetes.reports import (
    NodeStatuses,
    Refusals,
    SessionEvents,
    clear_network_unavailable,
)
from bgpd.datastore.trouble import Kind, Trouble
from testing.namespaces import PROJECT
from tests.cluster.definitions import CALICO
from tests.cluster.manifests import PATHS, documents, server_without_calico
from tests.cluster.servers import ApiServer, apiserver_binary, missing
from tests.datastore_contract import OWN, Watching

BINARY = apiserver_binary()
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(BINARY is None, reason="no kube-apiserver: tests/cluster/build-apiserver needs Go"),
    pytest.mark.skipif(bool(missing("etcd", "openssl")), reason="etcd-server or openssl is missing"),
]
PLURALS = (
    "bgpconfigurations",
    "bgppeers",
    "bgpfilters",
    "ippools",
    "blockaffinities",
    "ipamblocks",
    "caliconodestatuses",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    assert BINARY is not None
    with server_without_calico(tmp_path_factory.mktemp("apiserver"), BINARY, PLURALS) as made:
        yield made


def put(server: ApiServer, kind: str, plural: str, name: str, spec: dict[str, Any]) -> None:
    document = {
        "apiVersion": "crd.projectcalico.org/v1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec,
    }
    server.apply(document, f"{CALICO}/{plural}/{name}")


async def test_the_account_is_enough_and_may_no_more(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = {"projectcalico.org/IPv4Address": "10.0.1.30/24"}
    own = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": OWN, "annotations": address}}
    server.apply(own, f"/api/v1/nodes/{OWN}")
    secret = {"metadata": {"name": "bgp-passwords"}, "stringData": {"tor": "word"}}
    server.request("POST", "/api/v1/namespaces/kube-system/secrets", secret)
    service = {"metadata": {"name": "web"}, "spec": {"clusterIP": "10.96.1.1", "ports": [{"port": 80}]}}
    server.request("POST", "/api/v1/namespaces/default/services", service)
    put(server, "IPPool", "ippools", "default", {"cidr": "10.48.0.0/16"})
    put(
        server,
        "BGPConfiguration",
        "bgpconfigurations",
        "default",
        {"serviceClusterIPs": [{"cidr": "10.96.0.0/16"}]},
    )
    password = {"secretKeyRef": {"name": "bgp-passwords", "key": "tor"}}
    put(
        server, "BGPPeer", "bgppeers", "tor", {"peerIP": "192.0.2.1", "asNumber": 65001, "password": password}
    )
    for node, cidr in ((OWN, "10.48.0.0/26"), ("other", "10.48.0.64/26")):
        spec = {"node": node, "cidr": cidr, "state": "confirmed", "deleted": "false"}
        put(server, "BlockAffinity", "blockaffinities", f"of-{node}", spec)
    put(
        server, "IPAMBlock", "ipamblocks", "10-48-0-0-26", {"cidr": "10.48.0.0/26", "affinity": f"host:{OWN}"}
    )

    token = server.request(
        "POST",
        "/api/v1/namespaces/kube-system/serviceaccounts/bgpd/token",
        {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": 600},
        },
    )["status"]["token"]
    for name, text in (("token", token), ("namespace", "kube-system"), ("ca.crt", server.ca.read_text())):
        (tmp_path / name).write_text(text)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
    access = Access(service_account=tmp_path)
    for all_blocks in (False, True):
        source = Kubernetes(access, OWN, all_blocks)
        watch = Watching(Cluster(source, OWN))
        stories = watch.datastore.watch()
        async for snapshot in stories:
            if snapshot.services and snapshot.secrets and snapshot.blocks and not snapshot.problems:
                break
        await stories.aclose()  # type: ignore[attr-defined]  # an async generator
        assert set(snapshot.affinities) == {f"of-{OWN}"}
        assert source._feeds["blockaffinities"]._select  # by our definition's field
    client = KubernetesClient(access)
    for method, path, body in (
        ("GET", "/api/v1/namespaces/kube-system/secrets", None),
        ("GET", "/api/v1/pods", None),
        ("DELETE", f"/api/v1/nodes/{OWN}", None),
        ("PUT", f"{CALICO}/ippools/default", {}),
        ("PATCH", f"/api/v1/nodes/{OWN}", {}),
        ("GET", "/api/v1/namespaces/default/events", None),
        ("POST", "/api/v1/namespaces/kube-system/events", {}),
        ("POST", f"{CALICO}/caliconodestatuses", {}),
    ):
        with pytest.raises(Trouble) as caught:
            await client.send(method, path, body)
        assert caught.value.kind is Kind.FORBIDDEN, path
    await client.close()
    await reports(server, access)


async def reports(server: ApiServer, access: Access) -> None:
    """The same account writes what it is asked to report."""
    spec = {"node": OWN, "classes": ["Agent", "BGP", "Routes"], "updatePeriodSeconds": 10}
    put(server, "CalicoNodeStatus", "caliconodestatuses", "worker1", spec)
    put(server, "CalicoNodeStatus", "caliconodestatuses", "other", {**spec, "node": "other"})
    node = server.request("GET", f"/api/v1/nodes/{OWN}")
    there = {"type": "NetworkUnavailable", "status": "True", "reason": "NoRouteCreated"}
    node["status"]["conditions"] = [there, {"type": "Ready", "status": "True"}]
    server.request("PUT", f"/api/v1/nodes/{OWN}/status", node)
    source, refusals = Kubernetes(access, OWN, False), Refusals()
    made: list[list[str]] = []

    def make(classes: Collection[str]) -> dict[str, Any]:
        made.append(sorted(classes))
        return {"lastUpdated": "2026-11-27T08:00:00Z", "agent": {"birdV4": {"state": "Ready"}}}

    statuses = asyncio.create_task(NodeStatuses(source, make, lambda: None, refusals).run())
    await clear_network_unavailable(source.client, OWN, refusals)
    conditions = {
        each["type"]: each["status"]
        for each in server.request("GET", f"/api/v1/nodes/{OWN}")["status"]["conditions"]
    }
    assert conditions == {"NetworkUnavailable": "False", "Ready": "True"}
    events = SessionEvents(source.client, OWN, refusals)
    told = iter([{"Mesh_1": (True, 1.0, "")}, {"Mesh_1": (False, 2.0, ": hold timer")}])
    last: dict[str, tuple[bool, float, str]] = {}

    def sessions() -> dict[str, tuple[bool, float, str]]:
        nonlocal last
        last = next(told, last)
        return last

    events_task = asyncio.create_task(events.run(sessions))
    path = f"{CALICO}/caliconodestatuses"
    async with asyncio.timeout(20):
        while "status" not in await asyncio.to_thread(server.request, "GET", f"{path}/worker1"):  # noqa: ASYNC110 - a server announces nothing here
            await asyncio.sleep(0.1)
        while not (found := (await asyncio.to_thread(server.request, "GET", EVENTS))["items"]):  # noqa: ASYNC110 - a server announces nothing here
            await asyncio.sleep(0.1)
    assert made[0] == ["Agent", "BGP", "Routes"]
    assert "status" not in server.request("GET", f"{path}/other")
    assert found[0]["message"] == "BGP session Mesh_1 went down: hold timer"
    assert (found[0]["type"], found[0]["involvedObject"]["name"]) == ("Warning", OWN)
    await asyncio.sleep(2.5)
    assert len(made) == 1  # our own write is no change, and the period is longer
    # Before Calico 3.33 the status is part of the object.
    name = "caliconodestatuses.crd.projectcalico.org"
    definition = server.request("GET", f"{PATHS['CustomResourceDefinition']}/{name}")
    del definition["spec"]["versions"][0]["subresources"]
    server.request("PUT", f"{PATHS['CustomResourceDefinition']}/{name}", definition)
    group = CALICO
    async with asyncio.timeout(20):
        while "caliconodestatuses/status" in str(await asyncio.to_thread(server.request, "GET", group)):  # noqa: ASYNC110 - a server announces nothing here
            await asyncio.sleep(0.1)
        current = server.request("GET", f"{path}/worker1")
        current["spec"]["classes"] = ["Agent"]
        current["status"] = {}
        server.request("PUT", f"{path}/worker1", current)
        while not (await asyncio.to_thread(server.request, "GET", f"{path}/worker1")).get("status"):  # noqa: ASYNC110 - a server announces nothing here
            await asyncio.sleep(0.1)
    assert made[-1] == ["Agent"]
    assert not refusals._said
    for task in (statuses, events_task):
        task.cancel()
    await asyncio.gather(statuses, events_task, return_exceptions=True)
    await source.close()


@pytest.mark.skipif(bool(missing("kubectl")), reason="kubectl is not installed")
def test_the_commands_of_the_page(server: ApiServer, tmp_path: Path) -> None:
    page = (PROJECT / "docs" / "kubernetes.md").read_text()
    commands = re.findall(r"^kubectl [^`\n]+|(?<=`)kubectl [^`]+(?=`)", page, re.MULTILINE)
    environment = {**os.environ, "KUBECONFIG": str(server.kubeconfig(tmp_path / "kubeconfig"))}
    there = "/apis/apps/v1/namespaces/kube-system/daemonsets"
    found = []
    for command in commands:
        done = subprocess.run(
            command.split(), check=False, cwd=PROJECT, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        found.append([each["metadata"]["name"] for each in server.request("GET", there)["items"]])
    assert [command.split()[1] for command in commands] == ["apply", "-n"]
    assert found == [["bgpd"], []]


EVENTS = "/api/v1/namespaces/default/events"


def test_the_configuration_in_the_manifest_is_good() -> None:
    (found,) = (each for each in documents("beside-calico") if each["kind"] == "ConfigMap")
    assert parse(found["data"]["bgpd.yaml"], "ConfigMap").datastore.type == "kubernetes"
    assert "Secret" not in json.dumps([each["kind"] for each in documents("without-calico")])
