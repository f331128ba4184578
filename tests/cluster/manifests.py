"""``config/kubernetes`` read as kustomize reads it, and a kube-apiserver that has taken it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.definitions import CALICO, CRDS, serves
from tests.cluster.servers import ApiServer, until

MANIFESTS = Path(__file__).parents[2] / "config" / "kubernetes"
PATHS = {
    "ServiceAccount": "/api/v1/namespaces/kube-system/serviceaccounts",
    "ConfigMap": "/api/v1/namespaces/kube-system/configmaps",
    "DaemonSet": "/apis/apps/v1/namespaces/kube-system/daemonsets",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings",
    "CustomResourceDefinition": CRDS,
}


def documents(overlay: str) -> Iterator[dict[str, Any]]:
    """What a kustomization names, its bases first."""
    directory = MANIFESTS / overlay
    for name in yaml.safe_load((directory / "kustomization.yaml").read_text())["resources"]:
        if (directory / name).is_dir():
            yield from documents(str((directory / name).resolve().relative_to(MANIFESTS)))
        else:
            yield from yaml.safe_load_all((directory / name).read_text())


@contextlib.contextmanager
def server_without_calico(directory: Path, binary: Path, plurals: Iterable[str]) -> Iterator[ApiServer]:
    """An API server that has taken the overlay ``without-calico``, once it serves these kinds."""
    server = ApiServer(directory, binary)
    try:
        server.start()
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-system"}}
        server.apply(namespace, "/api/v1/namespaces/kube-system")
        for document in documents("without-calico"):
            metadata = document["metadata"]
            path = PATHS[document["kind"]].format(namespace=metadata.get("namespace"))
            server.apply(document, f"{path}/{metadata['name']}")
        for plural in plurals:
            until(functools.partial(serves, server, plural), plural)
        # A definition is served a moment before its fields can be selected by.
        until(functools.partial(_selects, server), "affinities by their node")
        yield server
    finally:
        server.stop()
        server.etcd.stop()


def _selects(server: ApiServer) -> bool:
    path = f"{CALICO}/blockaffinities?fieldSelector=spec.node%3Da"
    return '"items"' in server.request("GET", path, text=True, accept=(400, 404, 429, 503))
