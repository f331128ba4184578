"""The operator's view of the daemon: all that the doors to the operator may ask of it or order of it.

What is asked is answered by ``views`` from the live parts; what is ordered goes to ``admin``, to the configuration or
to the allocator of addresses. Called in the event loop's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from bgpd.config.reading import ConfigError, load
from bgpd.daemon.admin import Orders
from bgpd.daemon.intent import Intent
from bgpd.daemon.liveness import Liveness
from bgpd.daemon.service_manager import ServiceManager
from bgpd.daemon.upgrade import Upgrade
from bgpd.events import event
from bgpd.model.bfd import BfdReport
from bgpd.model.doors import Impossible, NotFound
from bgpd.model.prefix import Address, Family, Prefix, family_of, make_prefix, parse_prefix
from bgpd.model.status import (
    BlockMap,
    BlockView,
    Check,
    Difference,
    Explanation,
    PeerAction,
    PeerStatus,
    RouteTable,
    RouteView,
    SessionState,
    Status,
)
from bgpd.observe.history import History
from bgpd.rules.policy import RoutePolicy
from bgpd.views import summary
from bgpd.views.blocks import block_maps
from bgpd.views.configuration import configuration
from bgpd.views.diff import differences
from bgpd.views.live import Parts
from bgpd.views.summary import Facts
from bgpd.views.tables import Tables
from bgpd.views.why import Why

if TYPE_CHECKING:
    from bgpd.datastore.allocator import Allocator

log = logging.getLogger(__name__)

AT_START = ("node", "datastore", "kernel", "metrics", "api", "web", "state_directory", "compat", "ipam")
"""Keys of the configuration that are read at the start only."""


class OperatorViews:
    """What the operator sees. Fulfils ``model.doors.Views``."""

    def __init__(
        self, parts: Parts, facts: Facts, intent: Intent, liveness: Liveness, history: History
    ) -> None:
        self._parts, self._facts, self._intent, self._liveness = parts, facts, intent, liveness
        self._history = history
        self._reading_history = asyncio.Lock()
        """Readers wait for each other, so that sessions need not: there may be 64 MiB to look through."""

    def status(self) -> Status:
        """One screen."""
        return summary.status(self._parts, self._facts)

    def peers(self, name: str | None = None) -> list[PeerStatus]:
        """Every wanted session, or those of a name."""
        return self._parts.peers(name)

    def addresses(self, name: str) -> list[Address]:
        """A pod's, a node's or a peer's."""
        return self._parts.addresses(name)

    def routes(
        self, table: RouteTable, prefix: str | None, peer: str | None, longer: bool = False
    ) -> Iterable[RouteView]:
        """Rows of a table."""
        return Tables(self._parts).routes(table, prefix, peer, longer)

    def bfd(self) -> BfdReport:
        """BFD's sessions."""
        return self._liveness.report()

    def blocks(self) -> list[BlockView]:
        """Blocks that are ours, that we lend from or borrow of."""
        return summary.block_rows(self._parts)

    def block_maps(self) -> list[BlockMap]:
        """The same, address by address."""
        snapshot = self._intent.snapshot
        return block_maps(snapshot, self._intent.config.node) if snapshot else []

    def why(self, target: str) -> list[Explanation]:
        """Explanations of a prefix or an address."""
        return Why(self._parts, time.monotonic()).why(target)

    async def history(self, since: float, until: float, peer: str, target: str, most: int) -> list[str]:
        """What happened. Read in a thread: there may be much of it."""
        names = frozenset((peer,) if peer else ())
        if peer:
            with contextlib.suppress(NotFound):  # one that is gone has a history too
                names |= {each.id for each in self._parts.peers(peer)}
        targets = self._targets(target) if target else []
        async with self._reading_history:
            return await asyncio.to_thread(self._history.find, since, until, names, targets, most)

    def _targets(self, name: str) -> list[tuple[Family, Prefix]]:
        try:
            return [parse_prefix(name)]
        except ValueError:
            found = self._parts.addresses(name)
            return [(family_of(each), make_prefix(each, 8 * len(each))) for each in found]

    def diff(self) -> Iterable[Difference | None]:
        """Where wanted, sent and installed differ."""
        return differences(self._parts)

    async def configuration(self) -> Mapping[str, object]:
        """What is in force, beside what the file says now."""
        path, file, error = self._facts.config_file, None, ""
        try:
            file = await asyncio.to_thread(load, path)
        except ConfigError as problem:
            error = str(problem)
        keys = configuration(self._intent.config, file, AT_START)
        return {"file": str(path), "error": error, "keys": keys}

    def live(self) -> list[Check]:
        """Liveness."""
        return summary.live(self._facts)

    def ready(self) -> list[Check]:
        """Readiness."""
        return summary.ready(self._parts, self._facts)

    async def plan(self, files: Mapping[str, bytes]) -> Mapping[str, object]:
        """What other resource files would change. Reading and deciding take a thread, so that sessions do not wait."""
        try:
            snapshot = await self._facts.datastore.foresee(files)
        except ValueError as error:
            raise Impossible(f"nothing would change: {error}; what was read last would stand") from None
        now = self._intent.snapshot
        if now is None:
            raise Impossible("no resources were whole yet: there is nothing to compare with")
        kernel, foreign = self._parts.kernel.workloads(), self._parts.kernel.foreign()
        addresses = frozenset(
            address for family in Family for address in self._parts.kernel.addresses(family)
        )
        up = {
            status.id
            for status in self._parts.speaker.sessions.statuses()
            if status.state is SessionState.ESTABLISHED
        }
        config, passwords, encoded = self._intent.config, self._intent.passwords, self._parts.router.encoded

        def compare() -> tuple[dict[str, object], RoutePolicy, RoutePolicy]:
            from bgpd.views.changes import changes  # no start waits for what is seldom asked
            from bgpd.views.plan import KernelFacts, plan

            known = KernelFacts(kernel, foreign, frozenset(Family), addresses=addresses)
            before, after = (plan(each, config, passwords, known, encoded) for each in (now, snapshot))
            return changes(before, after, up), before.policy, after.policy

        from bgpd.views.import_changes import import_changes

        found, before, after = await asyncio.to_thread(compare)
        imports = await import_changes(self._parts, before, after)
        return {**found, "changes": found["changes"] or any(imports.values()), "imports": imports}


class OperatorActions:
    """What the operator orders. Fulfils ``model.doors.Actions``. ``intent_changed`` is called when a reload has changed
    the configuration, ``kick`` when an order left the router something to do."""

    def __init__(
        self,
        parts: Parts,
        facts: Facts,
        intent: Intent,
        orders: Orders,
        liveness: Liveness,
        manager: ServiceManager,
        upgrade: Upgrade,
        intent_changed: Callable[[], None],
        kick: Callable[[], None],
    ) -> None:
        self._parts, self._facts, self._intent, self._orders = parts, facts, intent, orders
        self._liveness, self._manager, self._upgrade = liveness, manager, upgrade
        self._intent_changed, self._kick = intent_changed, kick
        self._allocator: Allocator | None = None
        self._making_allocator = threading.Lock()
        self._ipam_threads = ThreadPoolExecutor(4, thread_name_prefix="ipam")

    async def close(self) -> None:
        """Gives up what giving out addresses holds."""
        self._ipam_threads.shutdown(wait=False, cancel_futures=True)
        if self._allocator is not None:
            await asyncio.to_thread(self._allocator.close)

    async def reload(self) -> str:
        """Re-read the configuration file. ``ConfigError``: nothing changed."""
        facts, before = self._facts, self._intent.config
        self._manager.reloading()
        try:
            new = load(facts.config_file)
        except ConfigError as error:
            facts.reloads["failure"] += 1
            facts.config_error = str(error)
            event(log, "reload", logging.ERROR, result="failure", error=str(error))
            raise
        finally:
            self._manager.reloaded()
        facts.reloads["success"] += 1
        facts.config_error, facts.config_loaded = "", time.time()
        changed = [key for key in new.keys if getattr(new, key) != getattr(before, key)]
        facts.waiting = tuple(key for key in AT_START if key in changed)
        words = [key for key in changed if key not in facts.waiting]
        passwords = self._intent.passwords
        self._intent.reconfigured(new.replace({key: getattr(before, key) for key in facts.waiting}))
        if self._intent.passwords != passwords:
            words.append("password files")
        self._intent_changed()
        outcome = f"changed: {', '.join(words)}" if words else "nothing changed"
        if facts.waiting:
            outcome += f"; from the next start on: {', '.join(facts.waiting)}"
        event(log, "reload", result="success", words=outcome)
        return outcome

    async def ipam(self, order: Mapping[str, object]) -> Mapping[str, object]:
        """Addresses for this node's pods, in threads of their own: files, servers and locks are waited for there."""
        return await asyncio.get_running_loop().run_in_executor(self._ipam_threads, self._allocate, order)

    def _allocate(self, order: Mapping[str, object]) -> Mapping[str, object]:
        with self._making_allocator:
            if self._allocator is None:
                from bgpd.datastore.allocator import Allocator, store_of  # what many nodes never ask
                from bgpd.datastore.store import Executor

                config = self._intent.config
                self._allocator = Allocator(Executor(store_of(config)), config.node)
        return self._allocator.perform(order)

    async def upgrade(self) -> Mapping[str, str]:
        """The next process of this daemon."""
        return await self._upgrade.succeed()

    def hand_over(self, descriptor: int) -> bool:
        """The sessions to another process."""
        return self._upgrade.hand_over(descriptor)

    async def drain(self, *, withdraw: bool, wait: float, keep: bool) -> str:
        """Take this node out of service."""
        try:
            return self._intent.draining.drain(withdraw=withdraw, wait=wait, keep=keep, now=time.monotonic())
        finally:
            self._intent_changed()

    async def undrain(self) -> str:
        """Bring it back."""
        try:
            return self._intent.draining.undrain()
        finally:
            self._intent_changed()

    async def peer_action(self, action: PeerAction, name: str, message: str) -> str:
        """Shut down, enable, reset or refresh one session."""
        outcome = self._orders.carry_out(action, self._parts.find_peer(name).id, message)
        self._liveness.review()
        self._kick()
        return outcome
