"""What every store of IPAM's objects must do: subclass ``StoreContract`` and say how to open and plant."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

from netaddr import IPNetwork

from bgpd.datastore.store import Executor, Store
from bgpd.model.ipam import Affinity, Attribute, Conflict, Handle, IPAMConfig, Kind, Lease, Ref, State, Stored
from bgpd.rules.ipam import blocks as block_rules
from bgpd.rules.ipam.assign import assign
from bgpd.rules.ipam.release import release_handle
from bgpd.rules.ipam.steps import Refused
from tests.unit.ipam_ground import NOW, Memory, ask, in_use, node, pool, sound

CIDR = IPNetwork("10.48.0.0/26")
ROW = Affinity("host:node-a", CIDR, State.PENDING)


def made(outcome: Stored[Any] | Conflict) -> Stored[Any]:
    assert isinstance(outcome, Stored), outcome
    return outcome


class StoreContract(ABC):
    @abstractmethod
    def open(self) -> Store:
        """The store under test, as another process would open it."""

    @abstractmethod
    def plant(self, document: dict[str, Any]) -> None:
        """Puts an object into it as somebody else would."""

    def test_what_is_created_is_read_back_by_all(self) -> None:
        store = self.open()
        block = replace(
            block_rules.taken(
                block_rules.new_block(CIDR, "host:node-a", NOW), [3, 1], "net.c1", {"node": "node-a"}
            ),
            claimed=NOW,
        )
        cooled = block_rules.released(block, [3], NOW + 1, 30)
        v6 = IPNetwork("fd00:48::40/122")
        for value in (
            cooled,
            ROW,
            Affinity("host:node-a", v6, State.CONFIRMED),
            Affinity("virtual:load-balancer", CIDR, State.PENDING_DELETION),
            Handle("net.C1", {"10.48.0.0/26": 2, "fd00:48::40/122": 1}),
            IPAMConfig(True, False, 3, 60),
            Lease("bgpd-ipam", "node-a", NOW, 60),
        ):
            assert made(store.create(value)).value == value
            other = self.open()
            found = other.get(value.ref)
            assert found is not None and found.value == value
            assert store.create(value) is Conflict.EXISTS
            assert [stored.value for stored in other.list(value.ref.kind) if stored.value == value] == [value]

    def test_a_write_is_guarded_by_what_was_read(self) -> None:
        store, other = self.open(), self.open()
        first = made(store.create(ROW))
        seen = other.get(ROW.ref)
        assert seen is not None and seen.revision == first.revision
        second = made(store.update(first, replace(ROW, state=State.CONFIRMED)))
        assert other.update(seen, replace(ROW, state=State.PENDING_DELETION)) is Conflict.CHANGED
        assert other.delete(seen) is Conflict.CHANGED
        assert made(store.get(ROW.ref) or Conflict.GONE).value.state is State.CONFIRMED
        third = made(store.update(second, ROW))
        assert third.value == first.value and third.revision != first.revision, "no revision comes back"
        assert store.delete(third) is None
        assert store.get(ROW.ref) is None
        assert store.update(third, ROW) is Conflict.GONE
        assert store.delete(third) is Conflict.GONE
        again = made(store.create(ROW))
        assert again.revision not in (first.revision, second.revision, third.revision)
        assert store.delete(third) is Conflict.CHANGED, "the object is another one of the same name"

    def test_lists_are_of_a_kind_and_of_an_owner(self) -> None:
        store = self.open()
        for owner in ("host:node-a", "host:node-a1", "virtual:load-balancer"):
            made(store.create(replace(ROW, owner=owner)))
        made(store.create(Handle("h", {})))
        found = store.list(Kind.AFFINITY, "host:node-a")
        assert [stored.value.owner for stored in found] == ["host:node-a"]
        assert len(store.list(Kind.AFFINITY)) == 3
        assert [stored.value.ref for stored in store.list(Kind.HANDLE)] == [Ref(Kind.HANDLE, "h")]
        assert store.list(Kind.BLOCK) == ()

    def test_pools_and_nodes_of_others_are_read_with_their_defaults(self) -> None:
        self.plant(
            {
                "apiVersion": "projectcalico.org/v3",
                "kind": "IPPool",
                "metadata": {"name": "p"},
                "spec": {"cidr": "10.48.0.0/16"},
            }
        )
        self.plant(
            {
                "apiVersion": "projectcalico.org/v3",
                "kind": "Node",
                "metadata": {"name": "n", "labels": {"rack": "r1"}},
                "spec": {},
            }
        )
        store = self.open()
        found = store.get(Ref(Kind.POOL, "p"))
        assert found is not None and found.value == pool("p", "10.48.0.0/16")
        seen = store.get(Ref(Kind.NODE, "n"))
        assert seen is not None and seen.value == node("n", rack="r1")

    def test_what_we_do_not_know_outlives_our_writing(self) -> None:
        store = self.open()
        entry = Attribute("vm", {"node": "node-a"}, None, {"alternateOwnerAttrs": {"pod": "old"}, "new": [1]})
        block = block_rules.new_block(CIDR, "host:node-a", NOW)
        block = replace(
            block,
            attributes=(entry,),
            allocations=(0, *block.allocations[1:]),
            unallocated=block.unallocated[1:],
        )
        first = made(store.create(block))
        made(store.update(first, block_rules.taken(block, [5], "net.c1", {})))
        found = self.open().get(block.ref)
        assert found is not None and found.value.attributes[0] == entry

    def test_many_writers_at_once(self) -> None:
        """Threads that each have a store of their own, as processes have."""
        self.plant(
            {
                "apiVersion": "projectcalico.org/v3",
                "kind": "IPPool",
                "metadata": {"name": "p"},
                "spec": {"cidr": "10.48.0.0/26", "blockSize": 28},
            }
        )
        for name in ("node-a", "node-b"):
            self.plant(
                {"apiVersion": "projectcalico.org/v3", "kind": "Node", "metadata": {"name": name}, "spec": {}}
            )
        failures: list[Exception] = []

        def work(number: int) -> None:
            try:
                run = Executor(self.open()).run
                for turn in range(4):
                    request = ask(f"c{number}-{turn}", ("node-a", "node-b")[number % 2])
                    run(assign(request, NOW))
                    if turn % 2:
                        run(release_handle(request.handle, request.node, NOW))
            except (Refused, AssertionError, OSError) as error:
                failures.append(error)

        workers = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert not failures
        store = self.open()
        whole = Memory(
            stored.value for kind in (Kind.BLOCK, Kind.AFFINITY, Kind.HANDLE) for stored in store.list(kind)
        )
        sound(whole, settled=True)
        assert len(in_use(whole)) == 12
