"""A run of faults can be had again, and leaves none out."""

from itertools import islice

from tests.chaos.faults import FAULTS, plan

NODES = ("control", "worker1", "worker2")


def drawn(seed: int, count: int) -> list[tuple[str, str, float]]:
    return [(fault.name, node, random.random()) for fault, node, random in islice(plan(seed, NODES), count)]


def test_the_same_seed_is_the_same_run() -> None:
    assert drawn(7, 50) == drawn(7, 50) != drawn(8, 50)


def test_every_fault_comes_before_any_comes_again() -> None:
    names = [name for name, _, _ in drawn(3, 2 * len(FAULTS))]
    assert (
        sorted(names[: len(FAULTS)]) == sorted(names[len(FAULTS) :]) == sorted(fault.name for fault in FAULTS)
    )
