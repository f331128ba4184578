"""The fake Target of the tests of ``fib`` fulfils the contract of the real one."""

from bgpd.fib.delta import Target
from tests.unit.target_contract import MemoryTarget, TargetContract


class TestMemoryTarget(TargetContract[str, int]):
    async def make_target(self) -> Target[str, int]:
        return MemoryTarget[str, int]()

    def entries(self) -> dict[str, int]:
        return {"a": 1, "b": 2, "c": 3, "d": 4}

    def other_value(self) -> int:
        return 5

    async def break_key(self, target: Target[str, int], key: str) -> None:
        assert isinstance(target, MemoryTarget)
        target.refuse[key] = OSError("refused")

    async def remove_behind(self, target: Target[str, int], key: str) -> None:
        assert isinstance(target, MemoryTarget)
        del target.state[key]
