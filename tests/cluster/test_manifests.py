"""``config/kubernetes`` on a real kube-apiserver: every manifest is taken strictly, and bgpd lives with exactly the
account that they make."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bgpd.config.reading import parse
from bgpd.datastore.cluster import Cluster
from bgpd.datastore.kubernetes.client import Access, KubernetesClient
from bgpd.datastore.kubernetes.feeds import Kubernetes
from bgpd.datastore.trouble import Kind, Trouble
from tests.cluster.servers import ApiServer, apiserver_binary, missing, until
from tests.datastore_contract import OWN, Watching

MANIFESTS = Path(__file__).parents[2] / "config" / "kubernetes"
BINARY = apiserver_binary()
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(BINARY is None, reason="no kube-apiserver: tests/cluster/build-apiserver needs Go"),
    pytest.mark.skipif(bool(missing("etcd", "openssl")), reason="etcd-server or openssl is missing"),
]
CALICO = "/apis/crd.projectcalico.org/v1"
PATHS = {
    "ServiceAccount": "/api/v1/namespaces/kube-system/serviceaccounts",
    "ConfigMap": "/api/v1/namespaces/kube-system/configmaps",
    "DaemonSet": "/apis/apps/v1/namespaces/kube-system/daemonsets",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-system/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-system/rolebindings",
    "CustomResourceDefinition": "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
}


def documents(overlay: str) -> Iterator[dict[str, Any]]:
    """What a kustomization names, its bases first."""
    directory = MANIFESTS / overlay
    for name in yaml.safe_load((directory / "kustomization.yaml").read_text())["resources"]:
        if (directory / name).is_dir():
            yield from documents(str((directory / name).resolve().relative_to(MANIFESTS)))
        else:
            yield from yaml.safe_load_all((directory / name).read_text())


def served(server: ApiServer, path: str) -> bool:
    return '"items"' in server.request("GET", path, text=True, accept=(404, 429, 503))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    assert BINARY is not None
    server = ApiServer(tmp_path_factory.mktemp("apiserver"), BINARY)
    try:
        server.start()
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-system"}}
        server.apply(namespace, "/api/v1/namespaces/kube-system")
        for document in documents("without-calico"):
            server.apply(document, f"{PATHS[document['kind']]}/{document['metadata']['name']}")
        for plural in (
            "bgpconfigurations",
            "bgppeers",
            "bgpfilters",
            "ippools",
            "blockaffinities",
            "ipamblocks",
        ):
            until(functools.partial(served, server, f"{CALICO}/{plural}"), plural)
        yield server
    finally:
        server.stop()
        server.etcd.stop()


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
        assert source._feeds["blockaffinities", ""]._select  # type: ignore[union-attr]  # by our definition's field
    client = KubernetesClient(access)
    for method, path, body in (
        ("GET", "/api/v1/namespaces/kube-system/secrets", None),
        ("GET", "/api/v1/pods", None),
        ("DELETE", f"/api/v1/nodes/{OWN}", None),
        ("PUT", f"{CALICO}/ippools/default", {}),
    ):
        with pytest.raises(Trouble) as caught:
            await client.send(method, path, body)
        assert caught.value.kind is Kind.FORBIDDEN, path
    await client.close()


def test_the_configuration_in_the_manifest_is_good() -> None:
    (found,) = (each for each in documents("beside-calico") if each["kind"] == "ConfigMap")
    assert parse(found["data"]["bgpd.yaml"], "ConfigMap").datastore.type == "kubernetes"
    assert "Secret" not in json.dumps([each["kind"] for each in documents("without-calico")])
