"""The cases about one daemon and a whole table: cold convergence with withdrawal, failover, restart, churn, and none.

Called by ``__main__``: each lays its ground, gives one daemon one piece of work and returns what it measured, or raises
``Failed``. A case trusts no daemon's own word where the kernel has one. Times are wall-clock seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time

from bench import floors
from bench.ground import LIMIT, at_rest, ground, holds, lags, until
from bench.injector import BLOCKS_PER_NODE, Shape, nlri, table, update
from bench.kernel import Watch, uses_device
from bench.subjects import SUBJECTS, Bgpd, Bird
from bench.work import FLOORS, Failed, Figures, Work

CHURN_SECONDS, CHURN_RATE = 30, 100


# Cold convergence and withdrawal.


async def cold(work: Work, name: str) -> Figures:
    """First UPDATE octet to N routes in the kernel; peak memory; then the session is reset: to none of them."""
    shape: Shape = work.shape  # type: ignore[assignment]
    async with ground(work.family) as laid:
        if name in FLOORS:
            puts, deletes = floors.messages(
                name == FLOORS[1], shape, work.family, work.size, laid.next_hop(), laid.ifindex(0)
            )
            figures = {}
            for metric, packed, goal in (("converge_s", puts, work.size), ("withdraw_s", deletes, 0)):
                sends = floors.batches(packed)
                figures[metric] = await asyncio.to_thread(floors.write, laid.receiver.name, sends)
                if laid.counter() != goal:
                    raise Failed(f"{laid.counter()} routes instead of {goal}")
            return figures
        subject = SUBJECTS[name](laid.receiver, laid.node()).start()
        octets = table(shape, work.family, work.size, laid.next_hop())
        speaker = await laid.session()
        await asyncio.sleep(0.5)  # the daemon's own first words are out
        converged = await until(laid.counter, work.size, subject, speaker.send(octets))
        peak = subject.memory()
        await asyncio.sleep(0.5)
        gone = await until(laid.counter, 0, subject, speaker.reset())
        return {"converge_s": converged, "withdraw_s": gone, "peak_mib": peak, **lags(subject)}


async def failover(work: Work, name: str) -> Figures:
    """Two peers with the same routes, the first preferred; it is reset: until all routes lead over the other's link."""
    shape: Shape = work.shape  # type: ignore[assignment]
    async with ground(work.family) as laid:
        subject = SUBJECTS[name](laid.receiver, laid.node(links=2)).start()
        speakers = [await laid.session(link) for link in (0, 1)]
        await asyncio.sleep(0.5)
        for link, speaker in enumerate(speakers):
            octets = table(shape, work.family, work.size, laid.next_hop(link), local_pref=200 - link)
            await until(laid.counter, work.size, subject, speaker.send(octets))
        first = laid.ifindex(0)

        def left() -> bool:
            return uses_device(laid.receiver.name, work.family, subject.proto, first)

        await at_rest(subject, speakers)
        start = speakers[0].reset()
        while left():
            if time.monotonic() - start > LIMIT:
                raise Failed(f"over {LIMIT:.0f} s: routes still lead to the dead peer")
            await asyncio.sleep(0.005)
        moved = time.monotonic() - start
        await until(laid.counter, work.size, subject, start)
        return {"moved_s": max(moved, time.monotonic() - start), **lags(subject)}


# Restart.


async def start(work: Work, name: str) -> Figures:
    """Process start on an empty node: until its OPEN comes to a peer that dials every 10 ms, and until it is ready."""
    async with ground(work.family) as laid:
        subject = SUBJECTS[name](laid.receiver, laid.node())
        assert isinstance(subject, Bgpd | Bird)
        began = time.monotonic()
        subject.launch()
        speaker = await laid.session()
        return {
            "open_s": speaker.opened - began,
            "ready_s": await holds(subject.ready, "ready", 0.01) - began,
        }


async def restart(work: Work, name: str) -> Figures:
    """kill -9 and start, our routes in the kernel, the peer sends all again: time to ready and in sync, kernel writes.

    The writes are the kernel's own notifications of routes, from the kill to a second after in sync.
    """
    shape: Shape = work.shape  # type: ignore[assignment]
    async with ground(work.family) as laid:
        subject = SUBJECTS[name](laid.receiver, laid.node())
        assert isinstance(subject, Bgpd | Bird)
        subject.start()
        octets = table(shape, work.family, work.size, laid.next_hop())
        speaker = await laid.session(graceful_restart=True)
        await until(laid.counter, work.size, subject, speaker.send(octets))
        await at_rest(subject, [speaker])
        with contextlib.closing(Watch(laid.receiver.name, work.family)) as watch:
            subject.kill()
            await speaker.closed
            start = time.monotonic()
            if isinstance(subject, Bird):
                subject.launch(recover=True)
            else:
                subject.launch()

            async def resend() -> float:
                again = await laid.session(graceful_restart=True)
                again.send(octets)
                return again.opened

            async with asyncio.TaskGroup() as group:
                opened = group.create_task(resend())
                ready = group.create_task(holds(subject.ready, "ready", 0.01))
                in_sync = group.create_task(holds(subject.in_sync, "in sync", 0.05))
            await asyncio.sleep(1.0)
            writes = sum(event.table == 254 for event in watch.drain())
            if (count := laid.counter()) != work.size:
                raise Failed(f"{count} of {work.size} routes after the restart")
        return {
            "open_s": opened.result() - start,
            "ready_s": ready.result() - start,
            "in_sync_s": in_sync.result() - start,
            "writes_count": float(writes),
            "peak_mib": subject.memory(),
            **lags(subject),
        }


async def idle(work: Work, name: str) -> Figures:
    """A node without peers: resident memory five seconds after it is ready."""
    async with ground(work.family) as laid:
        subject = SUBJECTS[name](laid.receiver, laid.node(links=0)).start()
        subject.unprobe()
        await asyncio.sleep(5.0)
        return {"resident_mib": subject.memory("VmRSS")}


# Churn.


async def churn(work: Work, name: str) -> Figures:
    """100 UPDATEs a second over a full table, each of a node's five blocks: half change the next hop, half only an
    attribute; processor time, and how late the event loop was."""
    async with ground(work.family) as laid:
        subject = SUBJECTS[name](laid.receiver, laid.node()).start()
        first = laid.next_hop()
        octets = table("nodes", work.family, work.size, first)
        chance = random.Random(2)
        nodes = work.size // BLOCKS_PER_NODE
        base = int.from_bytes(first, "big")
        changes = []
        for turn in range(CHURN_SECONDS * CHURN_RATE):
            number = chance.randrange(nodes)
            moved = chance.randrange(nodes) if turn % 2 else number
            next_hop = (base + moved).to_bytes(len(first), "big")
            blocks = nlri(work.family, number * BLOCKS_PER_NODE, BLOCKS_PER_NODE)
            changes.append(update(next_hop, blocks, med=turn, originator=next_hop))
        speaker = await laid.session()
        await asyncio.sleep(0.5)
        await until(laid.counter, work.size, subject, speaker.send(octets))
        await at_rest(subject, [speaker])
        if isinstance(subject, Bgpd):
            subject.lags.clear(on=True)
        before, start = subject.cpu(), time.monotonic()
        for turn, change in enumerate(changes):
            await asyncio.sleep(max(0.0, start + turn / CHURN_RATE - time.monotonic()))
            speaker.send(change)
        figures = {"cpu_percent": 100 * (subject.cpu() - before) / (time.monotonic() - start)}
        if isinstance(subject, Bgpd) and (late := subject.lags.quantile(0.999)) is not None:
            figures |= {"lag_p999_ms": late, **lags(subject)}
        return figures
