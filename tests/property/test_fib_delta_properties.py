"""``Delta`` drives a Target to equality through failures, foreign changes and late word of them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from bgpd.fib.delta import Batch, Delta
from tests.unit.target_contract import MemoryTarget

Key = tuple[str, int]
KEYS: list[Key] = [(name, metric) for name in "abcd" for metric in (0, 32)]
VALUES = ["1", "2", "3"]


class World:
    """A ``Delta``, its target, and somebody else who changes the target; word of that comes in order, but late."""

    def __init__(self, adopted: dict[Key, str], limit: int) -> None:
        self.now = 0.0
        self.target = MemoryTarget[Key, str](adopted)
        self.it: Delta[Key, str] = Delta(self.target.installed, group=lambda key: key[0], limit=limit)
        self.it.adopt(self.target.installed)
        self.ever_wanted: set[str] = set()
        self.released = False
        self.words: list[tuple[Key, str | None]] = []
        self.batch: Batch[Key, str] | None = None

    def want(self, key: Key, value: str | None) -> None:
        self.want_many({key: value})

    def want_many(self, changes: dict[Key, str | None]) -> None:
        self.ever_wanted |= {key[0] for key, value in changes.items() if value is not None}
        self.it.want(changes)

    def unsettle(self, unsettled: bool) -> None:
        self.it.unsettled = unsettled

    def take(self) -> None:
        """A batch leaves; it is carried out at once, and its outcome reported by ``land``."""
        if self.batch is not None:
            return
        self.batch = self.it.due(self.now)
        if self.batch is None:
            return
        assert not self.it.paused
        for key, value in self.batch.puts.items():
            assert self.it.wanted[key] == value
        for key in self.batch.deletes:
            assert key not in self.it.wanted
            assert self.released or key[0] in self.ever_wanted, "nothing else is swept before the release"
        self.errors = self.target.apply_now(self.batch.puts, self.batch.deletes)

    def land(self) -> None:
        if self.batch is not None:
            batch, self.batch = self.batch, None
            self.it.batch_done(batch, self.errors, self.now)

    def meddle(self, key: Key, value: str | None) -> None:
        if value is None:
            if key not in self.target.state:
                return
            del self.target.state[key]
        else:
            self.target.state[key] = value
        self.words.append((key, value))

    def hear(self, count: int) -> None:
        for key, value in self.words[:count]:
            self.it.recheck(self.target.hear({key: value}))
        del self.words[:count]

    def lose_word(self) -> None:
        self.words.clear()

    def resync(self) -> None:
        if self.batch is None:
            self.it.recheck(self.target.resync_now().keys)

    def refuse(self, key: Key) -> None:
        self.target.refuse[key] = OSError("refused")

    def allow(self, key: Key) -> None:
        self.target.refuse.pop(key, None)

    def pause(self, paused: bool) -> None:
        self.it.paused = paused

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def release(self) -> None:
        self.released = True
        self.it.release()

    def finish(self) -> None:
        """Everything calms down; a whole compare; then only what is due."""
        self.land()
        self.target.refuse.clear()
        self.it.paused = False
        self.release()
        self.it.unsettled = self.now % 2 > 1  # some never hear that all is decided
        self.hear(len(self.words))
        self.resync()
        for _ in range(1000):
            self.take()
            if self.batch is None:
                deadline = self.it.next_deadline()
                if deadline is None:
                    return
                assert deadline > self.now, "a deadline that has passed would make the daemon spin"
                self.now = deadline
            else:
                self.land()
        raise AssertionError("it never comes to rest")


keys = st.sampled_from(KEYS)
maybe = st.one_of(st.none(), st.sampled_from(VALUES))
actions = st.one_of(
    st.tuples(st.just("want"), keys, maybe),
    st.tuples(st.just("want_many"), st.dictionaries(keys, maybe)),
    st.tuples(st.just("want_many"), st.dictionaries(keys, st.none())),
    st.tuples(st.just("want_many"), st.dictionaries(keys, st.sampled_from(VALUES))),
    st.tuples(st.just("unsettle"), st.booleans()),
    st.tuples(st.just("take")),
    st.tuples(st.just("land")),
    st.tuples(st.just("meddle"), keys, maybe),
    st.tuples(st.just("hear"), st.integers(1, 3)),
    st.tuples(st.just("lose_word")),
    st.tuples(st.just("resync")),
    st.tuples(st.just("refuse"), keys),
    st.tuples(st.just("allow"), keys),
    st.tuples(st.just("pause"), st.booleans()),
    st.tuples(st.just("wait"), st.sampled_from([0.05, 0.2, 1.5, 40.0])),
    st.tuples(st.just("release")),
)


@given(
    st.dictionaries(keys, st.sampled_from(VALUES), max_size=5),
    st.integers(1, 3),
    st.lists(actions, max_size=40),
)
@settings(max_examples=400)
def test_it_comes_to_equality(adopted: dict[Key, str], limit: int, history: list[tuple[object, ...]]) -> None:
    world = World(adopted, limit)
    for name, *arguments in history:
        getattr(world, str(name))(*arguments)
    world.finish()
    assert world.target.state == world.it.wanted == world.target.installed
    assert world.it.pending == 0
    assert world.it.errors == {}
    assert world.it.adopted == 0


@given(
    st.dictionaries(keys, st.sampled_from(VALUES), max_size=6),
    st.lists(st.dictionaries(keys, maybe, max_size=6), min_size=1, max_size=5),
    st.integers(1, 3),
)
@settings(max_examples=200)
def test_puts_go_before_deletes(
    before: dict[Key, str], changes: list[dict[Key, str | None]], limit: int
) -> None:
    """All that is reported before the first batch is one queue: no delete of it goes before a put of it."""
    world = World({}, limit)
    world.release()
    world.it.want(before)
    world.finish()
    world.target.log.clear()
    for change in changes:
        world.it.want(change)
    world.finish()
    kinds = [kind for kind, _ in world.target.log]
    assert kinds == sorted(kinds, reverse=True)
    assert len(set(world.target.log)) == len(world.target.log), "each key is written once"
    assert world.target.state == world.it.wanted
