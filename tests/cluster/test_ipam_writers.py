"""20 writers at once, allocations most of which are released, with kills, over files: ``ALLOCATIONS=10000``.

The bounded form is ``unit/test_stores``. ``test_etcd_store`` and ``test_kubernetes_store`` have both for the others.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bgpd.datastore.files_store import FilesStore
from tests import ipam_writers

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(1300),
    pytest.mark.skipif(ipam_writers.WHOLE is None, reason="make cluster-test with ALLOCATIONS=10000"),
]


def test_over_files(tmp_path: Path) -> None:
    directory = tmp_path / "resources"
    directory.mkdir()
    (directory / "all.json").write_text(json.dumps({"kind": "List", "items": ipam_writers.resources()}))
    configuration = f"datastore: {{path: {directory}}}"
    assert ipam_writers.WHOLE is not None
    outcome = ipam_writers.work_and_check(FilesStore(directory), configuration, tmp_path, ipam_writers.WHOLE)
    print(f"files: {outcome}")
