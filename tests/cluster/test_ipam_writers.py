"""20 writers at once, allocations most of which are released, with kills, over each store: ``ALLOCATIONS=10000``.

The bounded form is in ``make test`` (``unit/test_stores``, ``test_etcd_store``); this takes tens of minutes.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bgpd.datastore.etcd.client import Access
from bgpd.datastore.etcd.store import EtcdStore
from bgpd.datastore.files_store import FilesStore
from tests import ipam_writers
from tests.cluster.servers import EtcdServer, missing

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(1300),
    pytest.mark.skipif("ALLOCATIONS" not in os.environ, reason="make cluster-test with ALLOCATIONS=10000"),
]
WHOLE = {
    "writers": 20,
    "allocations": int(os.environ.get("ALLOCATIONS", "1000")),
    "kills": 40,
    "seconds": 1200.0,
}
RESOURCES = "/calico/resources/v3/projectcalico.org"


def test_over_files(tmp_path: Path) -> None:
    directory = tmp_path / "resources"
    directory.mkdir()
    (directory / "all.json").write_text(json.dumps({"kind": "List", "items": ipam_writers.resources(26)}))
    configuration = f"datastore: {{path: {directory}}}"
    outcome = ipam_writers.work_and_check(FilesStore(directory), configuration, tmp_path, **WHOLE)  # type: ignore[arg-type]
    print(f"files: {outcome}")


@pytest.mark.skipif(bool(missing("etcd", "etcdctl")), reason="etcd-server and etcd-client are missing")
def test_over_etcd(tmp_path: Path) -> None:
    etcd = EtcdServer(tmp_path)
    etcd.start()
    store = EtcdStore(Access((etcd.url,)))
    try:
        for document in ipam_writers.resources(26):
            plural = {"IPPool": "ippools", "Node": "nodes"}[document["kind"]]
            etcd.ctl("put", f"{RESOURCES}/{plural}/{document['metadata']['name']}", json.dumps(document))
        configuration = f"datastore: {{type: etcd, endpoints: ['{etcd.url}']}}"
        outcome = ipam_writers.work_and_check(store, configuration, tmp_path, **WHOLE)  # type: ignore[arg-type]
        print(f"etcd: {outcome}")
    finally:
        store.close()
        etcd.stop()
