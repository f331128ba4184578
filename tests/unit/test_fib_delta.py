"""``Delta``: what it does next, and what it must never do, on a Target in memory and with a clock of our own."""

import pytest

from bgpd.fib.delta import HOLD_BACK_SECONDS, Batch, Delta, Differences
from bgpd.fib.retry import FIRST_SECONDS, MOST_SECONDS
from tests.unit.target_contract import MemoryTarget

Key = tuple[str, int]
"""A prefix and a metric, as of a route: the keys of one prefix are a group."""
A, B, C, D = (("a", 0), ("b", 0), ("c", 0), ("d", 0))
A32 = ("a", 32)


class Rig:
    """A ``Delta`` and its target, which holds ``state`` from before. ``step`` is one round of the programmer's loop."""

    def __init__(self, limit: int = 4096, state: dict[Key, str] | None = None) -> None:
        self.now = 0.0
        self.target = MemoryTarget[Key, str](state)
        self.it: Delta[Key, str] = Delta(self.target.installed, group=lambda key: key[0], limit=limit)
        self.it.adopt(self.target.installed)
        self.batches: list[Batch[Key, str]] = []

    def hear(self, changes: dict[Key, str | None]) -> None:
        self.it.recheck(self.target.hear(changes))

    def resync(self) -> Differences[Key]:
        found = self.target.resync_now()
        self.it.recheck(found.keys)
        return found

    def step(self) -> bool:
        batch = self.it.due(self.now)
        if batch is None:
            return False
        self.batches.append(batch)
        self.it.batch_done(batch, self.target.apply_now(batch.puts, batch.deletes), self.now)
        return True

    def settle(self) -> list[tuple[str, Key]]:
        """All that is due now; what was done, in order."""
        self.target.log.clear()
        while self.step():
            pass
        return list(self.target.log)

    def equal(self) -> bool:
        return self.it.wanted == self.target.installed == self.target.state


def started(*, adopted: dict[Key, str] | None = None, limit: int = 4096) -> Rig:
    """After the first reading, and released."""
    rig = Rig(limit, adopted)
    rig.it.release()
    rig.settle()
    return rig


# Wanting.


def test_puts_replaces_and_deletes() -> None:
    rig = started()
    rig.it.want({A: "1", B: "2"})
    assert rig.settle() == [("put", A), ("put", B)]
    rig.it.want({A: "3", B: None})
    assert rig.settle() == [("put", A), ("delete", B)]
    assert rig.equal()
    assert rig.it.pending == 0


def test_what_is_as_wanted_costs_nothing() -> None:
    rig = started()
    rig.it.want({A: "1"})
    rig.settle()
    rig.it.want({A: "1", B: None})
    assert rig.it.due(0.0) is None
    assert rig.it.pending == 0


def test_ten_changes_of_a_key_are_one() -> None:
    rig = started()
    for value in "123456789":
        rig.it.want({A: value})
    rig.it.want({B: "1"})
    rig.it.want({B: None})
    assert rig.settle() == [("put", A)]
    assert rig.target.state == {A: "9"}


def test_there_and_back_is_nothing() -> None:
    rig = started()
    rig.it.want({A: "1"})
    rig.settle()
    rig.it.want({A: None})
    rig.it.want({A: "1"})
    assert rig.settle() == []
    rig.it.want({A: "2"})
    rig.it.want({A: "1"})
    assert rig.settle() == []


def test_every_put_goes_before_any_delete_over_the_whole_queue() -> None:
    rig = started(limit=3)
    old = {(f"old{n}", 0): "x" for n in range(10)}
    rig.it.want(old)
    rig.settle()
    rig.it.want(dict.fromkeys(old))
    rig.it.want({(f"new{n}", 0): "y" for n in range(10)})
    log = rig.settle()
    kinds = [kind for kind, _ in log]
    assert kinds == ["put"] * 10 + ["delete"] * 10
    assert all(len(batch.puts) <= 3 and len(batch.deletes) <= 3 for batch in rig.batches)
    assert rig.equal()


def test_a_put_that_comes_while_deletes_wait_goes_first() -> None:
    rig = started(limit=1)
    rig.it.want({A: "1", B: "1", C: "1"})
    rig.settle()
    rig.it.want({A: None, B: None})
    rig.step()
    rig.it.want({D: "1"})
    assert [kind for kind, _ in rig.settle()] == ["put", "delete"]


def test_deletes_wait_for_what_is_still_being_decided() -> None:
    rig = started()
    rig.it.want({A: "1", B: "1"})
    rig.settle()
    rig.it.unsettled = True
    rig.it.want({A: None})
    assert rig.settle() == []
    assert rig.it.next_deadline() == HOLD_BACK_SECONDS
    rig.it.want({C: "1"})
    assert rig.settle() == [("put", C)]
    rig.it.unsettled = False
    assert rig.settle() == [("delete", A)]
    assert rig.it.next_deadline() is None
    assert rig.equal()


def test_deletes_do_not_wait_for_ever() -> None:
    rig = started()
    rig.it.want({A: "1"})
    rig.settle()
    rig.it.unsettled = True
    rig.it.want({A: None})
    assert rig.settle() == []
    rig.now = HOLD_BACK_SECONDS
    assert rig.settle() == [("delete", A)]
    assert rig.it.next_deadline() is None, "nothing waits any more: who asks at once again would ask for ever"
    rig.it.want({A: "1"})
    rig.settle()
    rig.it.want({A: None})
    assert rig.settle() == [], "the next delete waits its own time"
    assert rig.it.next_deadline() == 2 * HOLD_BACK_SECONDS


def test_what_is_wanted_again_while_its_delete_waits_is_left_alone() -> None:
    rig = started()
    rig.it.want({A: "1"})
    rig.settle()
    rig.it.unsettled = True
    rig.it.want({A: None})
    rig.settle()
    rig.it.want({A: "1"})
    assert rig.settle() == []
    assert rig.it.next_deadline() is None
    rig.it.unsettled = False
    assert rig.settle() == []
    assert rig.it.next_deadline() is None
    assert rig.equal()


def test_adopting_in_parts() -> None:
    rig = Rig()
    for part in ({A: "1", B: "2"}, {A32: "1", C: "3"}):
        rig.it.adopt(rig.target.hear(part))
    assert rig.it.adopted == 4
    rig.it.want({A: "1"})
    assert rig.settle() == [("delete", A32)]
    assert rig.it.adopted == 2
    assert rig.it.release() == 2
    assert sorted(rig.settle()) == [("delete", B), ("delete", C)]


def test_changes_during_a_flight() -> None:
    rig = started()
    rig.it.want({A: "1", B: "1"})
    batch = rig.it.due(0.0)
    assert batch is not None
    assert rig.it.due(0.0) is None, "one at a time"
    rig.it.want({A: "2", B: None, C: "1"})
    rig.it.batch_done(batch, rig.target.apply_now(batch.puts, batch.deletes), 0.0)
    assert rig.settle() == [("put", A), ("put", C), ("delete", B)]
    assert rig.equal()


def test_back_to_the_old_value_during_a_flight() -> None:
    rig = started()
    rig.it.want({A: "1", B: "1"})
    rig.settle()
    rig.it.want({A: "2", B: None})
    batch = rig.it.due(0.0)
    assert batch is not None
    rig.it.want({A: "1", B: "1"})
    rig.it.batch_done(batch, rig.target.apply_now(batch.puts, batch.deletes), 0.0)
    rig.settle()
    assert rig.target.state == {A: "1", B: "1"}
    assert rig.equal()


# Adopting: what was there before us.


def test_what_was_there_is_kept_until_released() -> None:
    rig = Rig(state={A: "1", B: "1", C: "1"})
    rig.it.want({A: "1", B: "2"})
    assert rig.settle() == [("put", B)], "what is there as wanted is not written again"
    assert rig.it.adopted == 1
    assert rig.it.release() == 1
    assert rig.settle() == [("delete", C)]
    assert rig.equal()
    assert rig.it.adopted == 0


def test_what_was_confirmed_and_then_withdrawn_goes_before_the_release() -> None:
    rig = Rig(state={A: "1", B: "1"})
    rig.it.want({A: "1"})
    rig.it.want({A: None})
    assert rig.settle() == [("delete", A)]


def test_a_decision_for_nothing_does_not_delete_what_was_adopted() -> None:
    rig = Rig(state={A: "1"})
    rig.it.want({A: None})
    assert rig.settle() == []
    assert rig.it.release() == 1
    assert rig.settle() == [("delete", A)]


def test_an_old_route_with_another_metric_goes_once_the_new_one_is_there() -> None:
    rig = Rig(state={A32: "old", B: "1"})
    rig.target.refuse[A] = OSError("not now")
    rig.it.want({A: "new"})
    assert rig.settle() == [("put", A)], "the old one carries on while the new one fails"
    del rig.target.refuse[A]
    rig.now = 1.0
    assert rig.settle() == [("put", A), ("delete", A32)]
    assert rig.target.state == {A: "new", B: "1"}


def test_an_old_route_beside_one_that_is_there_already_goes_at_once() -> None:
    rig = Rig(state={A: "1", A32: "old"})
    rig.it.want({A: "1"})
    assert rig.settle() == [("delete", A32)]


def test_one_of_the_group_that_was_wanted_in_vain_leaves_the_old_one() -> None:
    rig = Rig(state={A32: "old"})
    rig.it.want({A: "new"})
    rig.it.want({A: None})
    assert rig.settle() == []
    assert rig.target.state == {A32: "old"}


def test_what_turns_up_before_the_release_is_kept_too() -> None:
    """Another daemon was still writing when we first read: its routes are not swept when it stops."""
    rig = Rig()
    rig.it.paused = True
    rig.target.state = {A: "1", B: "1"}
    rig.hear({A: "1"})
    rig.resync()
    rig.it.paused = False
    assert rig.settle() == []
    rig.it.want({A: "1"})
    assert rig.it.release() == 1
    assert rig.settle() == [("delete", B)]


def test_what_was_adopted_and_is_gone_is_no_longer_kept() -> None:
    rig = Rig(state={A: "1"})
    del rig.target.state[A]
    rig.hear({A: None})
    assert rig.it.adopted == 0
    assert rig.it.release() == 0
    assert rig.settle() == []


# Failing.


def test_a_failed_key_alone_is_tried_again_with_backoff() -> None:
    rig = started()
    rig.target.refuse[A] = OSError("no route to host")
    rig.it.want({A: "1", B: "1"})
    assert rig.settle() == [("put", A), ("put", B)]
    assert rig.it.errors == {A: "no route to host"}
    waits = []
    for _ in range(12):
        deadline = rig.it.next_deadline()
        assert deadline is not None
        assert rig.it.pending == 1
        waits.append(deadline - rig.now)
        rig.now = deadline - 0.001
        assert rig.settle() == []
        rig.now = deadline
        assert rig.settle() == [("put", A)]
    assert waits[:4] == pytest.approx([FIRST_SECONDS, 0.2, 0.4, 0.8])
    assert waits[-1] == pytest.approx(MOST_SECONDS)
    rig.target.refuse.clear()
    rig.now += MOST_SECONDS
    rig.settle()
    assert rig.equal()
    assert (rig.it.errors, rig.it.next_deadline(), rig.it.pending) == ({}, None, 0)


def test_a_new_value_is_tried_at_once_and_begins_anew() -> None:
    rig = started()
    rig.target.refuse[A] = OSError("no")
    rig.it.want({A: "1"})
    for _ in range(5):
        rig.settle()
        rig.now = rig.it.next_deadline() or 0.0
    rig.it.want({A: "2"})
    assert rig.settle() == [("put", A)]
    assert rig.it.next_deadline() == pytest.approx(rig.now + FIRST_SECONDS)


def test_a_failed_delete_is_tried_again() -> None:
    rig = started()
    rig.it.want({A: "1"})
    rig.settle()
    rig.target.refuse[A] = OSError("busy")
    rig.it.want({A: None})
    assert rig.settle() == [("delete", A)]
    assert rig.it.errors == {A: "busy"}
    rig.target.refuse.clear()
    rig.now = FIRST_SECONDS
    assert rig.settle() == [("delete", A)]
    assert rig.equal()
    assert rig.it.errors == {}


def test_no_longer_wanted_is_no_longer_an_error() -> None:
    rig = started()
    rig.target.refuse[A] = OSError("no")
    rig.it.want({A: "1"})
    rig.settle()
    rig.it.want({A: None})
    assert (rig.settle(), rig.it.errors, rig.it.pending) == ([], {}, 0)
    rig.now = FIRST_SECONDS
    assert (rig.settle(), rig.it.next_deadline()) == ([], None)


def test_the_failure_of_what_is_no_longer_wanted_is_forgotten() -> None:
    rig = started()
    rig.it.want({A: "1"})
    batch = rig.it.due(0.0)
    assert batch is not None
    rig.it.want({A: None})
    rig.it.batch_done(batch, {A: OSError("no")}, 0.0)
    assert (rig.settle(), rig.it.errors, rig.it.pending) == ([], {}, 0)


@pytest.mark.parametrize("learned", ["observed", "read"])
def test_a_failure_that_healed_by_itself_is_over(learned: str) -> None:
    """Otherwise its deadline would lie in the past for good, and the daemon would spin."""
    rig = started()
    rig.target.refuse[A] = OSError("exists")
    rig.it.want({A: "1"})
    rig.settle()
    rig.target.state[A] = "1"
    if learned == "observed":
        rig.hear({A: "1"})
    else:
        rig.resync()
    assert rig.settle() == []
    assert (rig.it.errors, rig.it.pending) == ({}, 0)
    rig.now = FIRST_SECONDS
    assert rig.settle() == []
    assert rig.it.next_deadline() is None


def test_a_pause_has_no_deadline() -> None:
    rig = started()
    rig.target.refuse[A] = OSError("no")
    rig.it.want({A: "1"})
    rig.settle()
    rig.it.paused = True
    rig.now = 100.0
    assert rig.it.due(rig.now) is None
    assert rig.it.next_deadline() is None
    rig.it.paused = False
    assert rig.it.next_deadline() is not None
    assert rig.settle() == [("put", A)]


# Others' changes.


def test_what_somebody_changed_is_put_right() -> None:
    rig = started()
    rig.it.want({A: "1", B: "1"})
    rig.settle()
    rig.target.state = {A: "evil", C: "extra"}
    rig.hear({A: "evil", B: None, C: "extra"})
    assert rig.settle() == [("put", A), ("put", B), ("delete", C)]
    assert rig.equal()


def test_an_observation_during_a_flight_is_newer_than_its_outcome() -> None:
    rig = started()
    rig.it.want({A: "1", B: "1"})
    rig.settle()
    rig.it.want({A: "2", B: None})
    batch = rig.it.due(0.0)
    assert batch is not None
    errors = rig.target.apply_now(batch.puts, batch.deletes)
    del rig.target.state[A]
    rig.target.state[B] = "evil"
    rig.hear({A: None, B: "evil"})
    rig.it.batch_done(batch, errors, 0.0)
    assert rig.settle() == [("put", A), ("delete", B)]
    assert rig.equal()


def test_a_whole_compare_counts_and_puts_right() -> None:
    rig = started()
    rig.it.want({A: "1", B: "1", C: "1"})
    rig.settle()
    rig.target.state = {A: "1", B: "evil", D: "extra"}
    assert rig.resync() == Differences(missing=(C,), extra=(D,), changed=(B,))
    assert rig.settle() == [("put", C), ("put", B), ("delete", D)]
    assert rig.equal()
    assert rig.resync() == Differences()
    assert rig.settle() == []


def test_equal_values_are_compared_by_value() -> None:
    rig = started()
    rig.it.want({A: "".join(("val", "ue"))})
    rig.settle()
    rig.target.state[A] = "".join(("va", "lue"))
    assert rig.resync() == Differences()
    rig.it.want({A: "value"})
    assert rig.settle() == []


def test_paused_observes_and_writes_nothing() -> None:
    rig = started(adopted={A: "1"})
    rig.it.want({A: "1"})
    rig.settle()
    rig.it.paused = True
    rig.it.want({B: "1"})
    rig.target.state.clear()
    rig.hear({A: None})
    assert rig.settle() == []
    rig.it.paused = False
    assert set(rig.settle()) == {("put", A), ("put", B)}
