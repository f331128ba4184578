"""What the dead left in IPAM goes, by one of the daemons that live on one store; dies that one, another does it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bgpd.datastore.allocator import Allocator
from bgpd.datastore.files_store import FilesStore
from bgpd.datastore.store import Executor
from testing.daemons import Bgpd
from testing.namespaces import Net, wait_until
from testing.resources import bgp_configuration, node, pool

HOLDS = "event=ipam_garbage_lease node={} holds=True"
AFTER = 60
"""Seconds, the least that the configuration takes."""


def add(directory: Path, name: str, container: str) -> str:
    """An address for a pod of a node, without its daemon."""
    executor = Executor(FilesStore(directory))
    allocator = Allocator(executor, name, lock=directory.with_name(f"{name}.lock"))
    order = {"verb": "add", "handle": f"net.{container}", "interface": "eth0", "ipv4": 1}
    return str(allocator.perform(order)["ips"][0]["address"])


@pytest.mark.long
@pytest.mark.timeout(330)
def test_the_lease_goes_to_who_lives_and_the_dead_nodes_addresses_go(net: Net) -> None:
    names = {"node-a": "10.0.1.1", "node-b": "10.0.1.2"}
    hosts = {name: net.namespace(name) for name in names}
    net.lan({host: [f"{names[name]}/24"] for name, host in hosts.items()})
    resources = [bgp_configuration(), pool("pods", "10.48.0.0/24")]
    resources += [node(name, f"{address}/24") for name, address in names.items()]
    ipam = {"garbage": True, "garbage_after_seconds": AFTER}
    first = Bgpd(hosts["node-a"], "node-a", {"cluster": resources}, {"ipam": ipam})
    directory = first.resources
    second = Bgpd(hosts["node-b"], "node-b", config={"datastore": {"path": str(directory)}, "ipam": ipam})
    first.write("dead", node("node-c", "10.0.1.3/24"))
    kept = {add(directory, "node-a", "a"), add(directory, "node-b", "b")}
    lost = add(directory, "node-c", "c")
    (directory / "dead.yaml").unlink()
    assert len(list(directory.glob("ipamblock.*"))) == 3

    first.start()
    wait_until(lambda: HOLDS.format("node-a") in first.log, 10, "the first has the lease")
    second.start()
    second.wait_in_sync()
    first.kill()
    wait_until(lambda: HOLDS.format("node-b") in second.log, 95, "the second has it", interval=1)
    wait_until(lambda: "event=ipam_garbage " in second.log, 120, "it removes something", interval=1)

    def allocated() -> set[str]:
        text = "".join(path.read_text() for path in directory.glob("ipamblock.*"))
        handles = {path.name for path in (directory / "ipamhandles").glob("*")}
        return {one for one in ("net.a", "net.b", "net.c") if f'"{one}"' in text or one in "".join(handles)}

    wait_until(lambda: allocated() == {"net.a", "net.b"}, 30, f"{lost} is free, {kept} are not")
    assert len(list(directory.glob("ipamblock.*"))) == 2
