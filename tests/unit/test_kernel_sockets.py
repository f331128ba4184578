"""Which orders the event loop gives to the kernel itself."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from bgpd.kernel import sockets
from bgpd.kernel.sockets import Commands


async def test_an_order_that_waited_sends_the_next_ones_through_the_worker_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, takes = [100.0], [0.001]
    monkeypatch.setattr(sockets, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    commands = Commands()

    def exchange(orders: list[sockets._Order]) -> sockets._Outcome:
        clock[0] += takes[0]
        return {order.base: [] for order in orders}, None

    monkeypatch.setattr(commands, "_exchange", exchange)

    async def is_direct() -> bool:
        answers = commands.submit(commands.base(), [b"message"])
        at_once = answers.done()
        await answers
        while commands._working:  # noqa: ASYNC110 - the worker looks for more before it rests
            await asyncio.sleep(0.001)
        return at_once

    try:
        assert await is_direct() and await is_direct()
        takes[0] = 0.010
        assert await is_direct()
        takes[0] = 0.001
        assert not await is_direct()
        clock[0] += 0.15
        assert not await is_direct(), "waiting may take a twentieth of the time"
        clock[0] += 0.05
        assert await is_direct() and await is_direct()
        assert not commands.submit(commands.base(), [b"message"] * 33).done()
    finally:
        commands.close()
