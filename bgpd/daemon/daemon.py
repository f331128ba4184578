"""The wiring: one process, one event loop, one TaskGroup (house rule 14).

Doors report here; the router decides; this module carries what it decided to the programmers and the update groups,
and keeps time. It also owns the rules of a start and an end: nothing is written while another routing daemon is at
work here, nothing old is swept before the start is over (house rule 5), and a stop leaves the routes in the kernel and
closes sessions without a NOTIFICATION, so that peers keep them too (RFC 4724).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import importlib
import logging
import signal
import sys
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bgpd import __version__
from bgpd.bgp.outbound import Outbound
from bgpd.bgp.speaker import Speaker
from bgpd.config.config import Config, ConfigError, load
from bgpd.daemon.admin import Orders
from bgpd.daemon.intent import Intent, resource_changes
from bgpd.daemon.liveness import Liveness
from bgpd.daemon.shutdowns import Shutdowns
from bgpd.daemon.startup import DEADLINE, Convergence, Unready
from bgpd.datastore.chosen import make_datastore
from bgpd.descriptors import raise_limit
from bgpd.fib.programmer import Programming
from bgpd.kernel.kernel import Kernel, KernelHandler
from bgpd.model.bfd import BfdReport
from bgpd.model.peer import DialAnswer, Down, Peer, PeerId
from bgpd.model.prefix import Address, Family
from bgpd.model.resources import Problem
from bgpd.model.route import Announce, EndOfRib, FibKey, RibEvent, Withdraw
from bgpd.model.status import (
    BlockView,
    Check,
    Explanation,
    Impossible,
    PeerAction,
    PeerStatus,
    RouteTable,
    RouteView,
    SessionState,
    Status,
)
from bgpd.observe.control_socket import AlreadyRunning, Claim, answers
from bgpd.observe.log import configure as configure_log
from bgpd.observe.metrics import Metrics
from bgpd.observe.sdnotify import Notifier
from bgpd.rib.router import Router
from bgpd.views import summary
from bgpd.views.live import Parts, local_words
from bgpd.views.recent import Recently
from bgpd.views.summary import Facts
from bgpd.views.tables import Tables
from bgpd.views.why import Why

if TYPE_CHECKING:
    from bgpd.datastore.allocator import Allocator
    from bgpd.observe.api import Api

log = logging.getLogger(__name__)

SLICE_SECONDS = 0.004
"""Seconds of deciding before the event loop gets a turn."""
COMPARE_EVERY = 60.0
"""Seconds between whole compares of the kernel's routes with ours."""
HOUSEKEEPING, HOUSEKEEPING_AT_START = 1.0, 0.05
REPORT_SECONDS = 10.0
"""Seconds between two words to the service manager that say the same."""
NOT_YET_LISTENING = "the BGP port is not yet ours"
GC_THRESHOLDS = (10_000, 5, 1000)
"""Tables are large and free of cycles: a full collection walks them all for nothing, and holds the loop meanwhile; one
of the middle generation walks 50,000 objects, which takes 12 ms."""
SWITCH_INTERVAL = 0.001
"""Seconds after which the thread that writes to the kernel gets the interpreter lock from a busy event loop: it needs
it for microseconds, between two system calls."""
EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
AT_START = ("node", "datastore", "kernel", "metrics", "api", "state_directory")
"""Keys of the configuration that are read at the start only."""
MOST_BEHIND = 16384
"""Prefixes that are read and not yet in the kernel, about, beyond which sessions are not read."""
MOST_THROTTLED = 1.0
"""Seconds without reading, at most: hold timers run on."""
SESSIONS_FIRST = 0.75
"""Seconds for the sessions to begin in, before the doors to the operator open."""
LAG_WINDOW = 15
"""Housekeeping turns over which the worst event-loop lag is remembered."""


class Daemon:
    """One node's bgpd. Fulfils ``speaker.Handler``, ``kernel.kernel.KernelHandler`` and ``model.status.Views``."""

    def __init__(self, config_path: Path, config: Config) -> None:
        self._config_path, self._config = config_path, config
        self._started = time.monotonic()
        self._datastore = make_datastore(config)
        self._allocator: Allocator | None = None
        self._facts = Facts(config, str(config_path), time.time(), self._datastore, config_loaded=time.time())
        self._facts.in_the_way = NOT_YET_LISTENING
        self._metrics = Metrics(self)
        self._api: Api | None = None
        self._claim: Claim | None = None
        self._control_error = ""
        """Why the control socket could not be made again; logged once."""
        self._notifier = Notifier.from_environment()
        self._kernel = make_kernel(config, self)
        self._programming = {
            f: Programming(f, fib, self._metrics, progressed=self._review_backlog, resigned=fib.resign)
            for f, fib in self._kernel.fibs.items()
        }
        self._router = Router(self._kernel.resolve)
        self._outbound = Outbound(self._send)
        self._convergence = Convergence()
        self._swept = False
        """What was left over from before the start is gone."""
        self._speaker: Speaker
        self._intent: Intent
        self._parts: Parts
        self._recently = Recently()
        self._shutdowns = Shutdowns(config.state_directory)
        self._orders: Orders
        self._liveness: Liveness
        self._workloads_dirty = False
        self._rival: str | None = None
        self._ready_reported = False
        self._reported = ("", 0.0)
        """What the service manager was sent last, and when."""
        self._unready = Unready()
        self._throttled_at = 0.0
        self._log_level: str = config.log.level
        self._turn_scheduled = False
        self._intent_at: float | None = None
        self._started_whole = asyncio.Event()
        """In sync."""
        self._stopping = asyncio.Event()
        self._reload_asked = asyncio.Event()

    # Life.

    async def run(self) -> None:
        """Lives until SIGTERM or SIGINT. ``AlreadyRunning`` where another bgpd answers; a bug raises out of here.

        In any case the kernel's routes stay.
        """
        if answers(self._config.api.socket):
            raise AlreadyRunning(f"another bgpd answers on {self._config.api.socket}")
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(OutOfResources())
        raise_limit()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload_asked.set)
        await self._kernel.start()
        for programming in self._programming.values():
            await programming.adopt()
        adopted = sum(len(programming.target.installed.entries) for programming in self._programming.values())
        self._speaker = Speaker(self, restarted=adopted > 0, shutdowns=self._shutdowns.read())
        self._intent = Intent(
            self._config, self._kernel, self._router, self._outbound, self._speaker, self._convergence
        )
        self._intent.reconfigured(self._config)
        self._liveness = Liveness(self._speaker, self._kernel, self._router, self._kick)
        self._orders = Orders(self._speaker, self._outbound, self._intent, self._shutdowns)
        self._parts = Parts(
            self._router,
            self._speaker,
            self._outbound,
            self._kernel,
            self._programming,
            lambda: self._facts.snapshot,
            self._config.node,
            self._recently,
        )
        self._claim = claim = Claim(self._config.api.socket)
        try:
            self.local_changed()
            node = self._config.node
            log.info("event=started version=%s node=%s adopted=%d", __version__, node, adopted)
            gc.freeze()
            gc.set_threshold(*GC_THRESHOLDS)
            gc.enable()
            sys.setswitchinterval(SWITCH_INTERVAL)
            await self._live(claim)
        finally:
            self._notifier.stopping()
            if self._api is not None:
                await self._api.stop()
            if self._allocator is not None:
                await asyncio.to_thread(self._allocator.close)
            claim.release()

    async def _live(self, claim: Claim) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._kernel.run(), name="kernel"),
                group.create_task(self._speaker.run(), name="speaker"),
                group.create_task(self._liveness.run(), name="bfd"),
                group.create_task(self._keep_house(), name="housekeeping"),
                group.create_task(self._watch_reloads(), name="reloads"),
                group.create_task(self._follow(), name="datastore"),
                group.create_task(self._serve(claim), name="api"),
                *(group.create_task(p.run(), name=f"fib-{f.label}") for f, p in self._programming.items()),
            ]
            await self._stopping.wait()
            log.info("event=stopping routes=kept")
            for task in tasks:
                task.cancel()

    async def _serve(self, claim: Claim) -> None:
        """Opens the doors to the operator once the sessions have had time to begin: what serves them takes a tenth of a
        second to import. Who connects before waits."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SESSIONS_FIRST):
                await self._started_whole.wait()
        module = await asyncio.to_thread(importlib.import_module, "bgpd.observe.api")
        self._api = api = module.Api(self, self._metrics, claim, self._config.metrics.listen)
        await api.start()
        gc.freeze()
        if api.metrics_error:
            self._facts.problems.append(Problem(str(self._config_path), "metrics.listen", api.metrics_error))

    async def _follow(self) -> None:
        """The newest whole truth of the datastore, as it comes."""
        counted: Mapping[tuple[str, str], int] = {}
        async for snapshot in self._datastore.watch():
            before, counted = counted, dict(self._datastore.status().events)
            if words := resource_changes(before, counted):
                log.info("event=resources_changed what=%r", words)
            self._facts.snapshot = snapshot
            self._intent_changed()

    def _intent_changed(self) -> None:
        """The resources or the configuration differ: sessions, policy and originations anew."""
        facts, intent = self._facts, self._intent
        if facts.snapshot is None:
            return
        self._intent_at = time.monotonic()
        intent.decide(facts.snapshot)
        facts.peering, facts.originations = intent.peering, intent.originations
        if intent.peering is not None and intent.peering.log_level != self._log_level:
            self._log_level = intent.peering.log_level
            configure_log(self._log_level, self._config.log.format)
        self._workloads_dirty = False
        self._turn()  # what we announce is known before a session can come up
        intent.engage()
        self._orders.follow_names()
        self._liveness.review()
        self._outbound.release_end_of_rib()
        self._check_alone()
        self._kick()

    def _originate(self) -> None:
        self._workloads_dirty = False
        self._intent.originate()
        self._facts.originations = self._intent.originations

    def _send(self, peer: Peer, octets: bytes) -> bool:
        return self._speaker.send(peer, octets)

    # One turn: decide a slice, carry on what was decided.

    def _kick(self) -> None:
        if not self._turn_scheduled:
            self._turn_scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._turn_scheduled = False
        if self._workloads_dirty:
            self._originate()
        end = time.monotonic() + SLICE_SECONDS
        more = self._router.work()
        while more and time.monotonic() < end:
            more = self._router.work()
        changes = self._router.take_changes()
        for family, fib in changes.fib.items():
            if fib:
                self._programming[family].want(fib)
        for programming in self._programming.values():
            programming.settled(not more)
        for group, advertised in changes.adj_rib_out.items():
            self._outbound.changed(group, advertised)
        if changes.fib or changes.adj_rib_out:
            self._facts.last_routes_change = time.time()
        if changes.adj_rib_out and self._intent_at is not None:
            self._metrics.observe_propagation("origination", time.monotonic() - self._intent_at)
        if not more:
            self._intent_at = None
        behind = self._outbound.work(settled=not more)
        for peer, family, count in self._router.take_over_limit():
            self._speaker.check_limit(peer, family, count)
        self._review_backlog()
        if more or behind:
            self._kick()

    def _review_backlog(self) -> None:
        """Reads no further than what was read is decided and written, or memory would hold a large table twice."""
        backlog = self._router.backlog
        backlog += sum(programming.delta.queued for programming in self._programming.values())
        now = time.monotonic()
        if not self._speaker.throttled:
            if backlog > MOST_BEHIND:
                self._throttled_at = now
                self._speaker.throttle(True)
        elif backlog < MOST_BEHIND // 2 or now >= self._throttled_at + MOST_THROTTLED:
            self._speaker.throttle(False)

    async def _keep_house(self) -> None:
        """What time alone brings: stale routes' end, the end of the start, whole compares, the watchdog."""
        next_compare = self._started + COMPARE_EVERY
        watchdog_due = report_due = 0.0
        while True:
            starting = not self._facts.in_sync and time.monotonic() < self._started + DEADLINE
            interval = HOUSEKEEPING_AT_START if starting else HOUSEKEEPING
            due = time.monotonic() + interval
            await asyncio.sleep(interval)
            now = time.monotonic()
            self._facts.lags = [*self._facts.lags[-LAG_WINDOW:], max(0.0, now - due)]
            deadline = self._router.next_deadline()
            if deadline is not None and deadline <= now:
                self._router.tick(now)
                self._kick()
            self._review_backlog()
            self._liveness.review()
            self._check_alone()
            self._check_in_sync()
            await self._check_control_socket()
            if now >= report_due:
                report_due = now + HOUSEKEEPING
                for family, programming in self._programming.items():
                    programming.report()
                    self._kernel.fibs[family].conflicts.report()
            if now >= next_compare:
                next_compare = now + COMPARE_EVERY
                self.fib_suspect(None, "every minute")
            self._notify_systemd(now)
            if self._notifier.watchdog_interval is not None and now >= watchdog_due:
                watchdog_due = now + self._notifier.watchdog_interval
                self._notifier.watchdog()

    async def _check_control_socket(self) -> None:
        """Its directory may have been removed, and made anew: an operator must not be locked out until a restart."""
        if self._claim is None or self._api is None:
            return
        try:
            if self._claim.renew():
                await self._api.reopen()
                log.warning("event=control_socket_renewed path=%s", self._config.api.socket)
                self._control_error = ""
        except (AlreadyRunning, OSError) as error:
            if self._control_error != str(error):
                self._control_error = str(error)
                log.error("event=control_socket_lost cause=%r", str(error))

    def _notify_systemd(self, now: float) -> None:
        wrong = [check for check in self.ready() if not check.ok]
        up, sessions = self._speaker.count()
        held = sum(len(programming.target.installed.entries) for programming in self._programming.values())
        text = f"{up}/{sessions} peers up, {held} routes in the kernel"
        if wrong:
            text = "not ready: " + "; ".join(f"{check.name}: {check.detail}" for check in wrong)
        if refused := self._facts.config_error:
            text += f"; configuration refused: {refused.splitlines()[0]}"
        if self._unready.due(text if wrong else "", now):
            log.warning("event=not_ready cause=%r", text)
        if not wrong and not self._ready_reported:
            self._ready_reported = True
            log.info("event=ready after=%.2fs", time.monotonic() - self._started)
            self._notifier.ready(text)
        elif text != self._reported[0] or now >= self._reported[1] + REPORT_SECONDS:
            (self._notifier.status if self._ready_reported else self._notifier.starting)(text)
        else:
            return
        self._reported = (text, now)

    def _check_alone(self) -> None:
        """While another routing daemon is at work here, nothing is written or swept."""
        before, now = self._facts.in_the_way, self._in_the_way()
        if now == before:
            return
        self._facts.in_the_way = now
        for programming in self._programming.values():
            programming.pause(now is not None)
            if now is None and before != NOT_YET_LISTENING:
                programming.suspect("another daemon was at work here")
        if now is None:
            log.info("event=writing cause=%r", "nobody else writes here")
        elif now != NOT_YET_LISTENING:
            log.warning("event=not_writing cause=%r", now)

    def _in_the_way(self) -> str | None:
        if self._rival is not None:
            return self._rival
        if self._speaker.port_taken:
            return self._speaker.listen_error
        if self._facts.peering is None or not self._speaker.listening:
            return NOT_YET_LISTENING
        return None

    def _check_in_sync(self) -> None:
        facts, now = self._facts, time.monotonic()
        if self._swept or self._router.busy or facts.in_the_way is not None:
            return
        if not facts.in_sync and self._convergence.over(now):
            facts.in_sync = True
            self._started_whole.set()
            kept_for = ",".join(self._convergence.keeping(now)) or "nobody"
            log.info("event=in_sync after=%.1fs routes_kept_for=%s", now - self._started, kept_for)
        if facts.in_sync and not self._convergence.keeping(now):
            self._swept = True
            swept = sum(programming.release() for programming in self._programming.values())
            log.info("event=swept after=%.1fs count=%d", now - self._started, swept)

    # What the sessions say (speaker.Handler).

    def established(self, peer: Peer) -> None:
        """A session came up."""
        self._router.session_up(peer, time.monotonic())
        groups = self._router.groups_of(peer)
        tables = {family: self._router.adj_rib_out(group) for family, group in groups.items()}
        self._outbound.join(peer, groups, tables)
        self._convergence.established(peer.id, peer.families)
        self._kick()

    def down(self, peer: Peer, down: Down) -> None:
        """A session ended."""
        self._outbound.leave(peer)
        now = time.monotonic()
        paths = {family: self._router.adj_rib_in(family).peer_paths(peer.id) for family in peer.families}
        announced = {family: (prefix for prefix, _, _ in found) for family, found in paths.items()}
        self._recently.ended(peer, down, announced, now)
        self._router.session_down(peer, down, now)
        self._kick()

    def received(self, peer: Peer, events: Sequence[RibEvent]) -> None:
        """A session reported something."""
        now = time.monotonic()
        self._router.received(peer, events, now)
        for event in events:
            if isinstance(event, EndOfRib):
                self._convergence.heard(peer.id, event.family)
            elif isinstance(event, Announce | Withdraw):
                self._programming[event.family].heard(now)
                if isinstance(event, Withdraw):
                    self._recently.withdrew(peer, event, now)
        self._kick()

    def refresh_requested(self, peer: Peer, family: Family) -> None:
        """A session wants to hear all again (RFC 2918)."""
        self._outbound.refresh(peer, family)
        self._kick()

    def writable(self, peer: Peer) -> None:
        """A session's socket has drained."""
        self._outbound.writable(peer)
        self._kick()

    def listening_changed(self) -> None:
        """The BGP port became ours, or is another's."""
        self._check_alone()

    def attempted(self, peer_id: PeerId, answer: DialAnswer) -> None:
        """A dial ended."""
        self._convergence.attempted(peer_id, answer)

    # What the kernel says (kernel.kernel.KernelHandler).

    def fib_changed(self, family: Family, keys: Collection[FibKey]) -> None:
        """Somebody else changed what is ours."""
        self._programming[family].changed(keys)

    def fib_suspect(self, family: Family | None, cause: str) -> None:
        """Routes may have gone without notice."""
        for each in Family if family is None else (family,):
            self._programming[each].suspect(cause)

    def next_hops_changed(self, addresses: frozenset[Address]) -> None:
        """Next hops lead elsewhere than before."""
        self._router.next_hops_changed(addresses)
        self._kick()

    def workloads_changed(self) -> None:
        """A workload came or went."""
        self._workloads_dirty = True
        self._intent_at = self._intent_at or time.monotonic()
        self._kick()

    def local_changed(self) -> None:
        """Own addresses, connected subnets or tunnels differ."""
        self._router.tunnels_changed(self._kernel.tunnels())
        for family in Family:
            words = local_words(self._kernel.addresses(family), self._kernel.connected(family))
            self._router.local_prefixes(family, words)
        if self._facts.snapshot is not None and self._intent.moved():
            self._intent_changed()
        self._kick()

    def rival(self, who: str | None) -> None:
        """Another daemon writes routes of our protocol; ``None``: it is gone."""
        self._rival = f"another daemon writes `proto bird` routes: {who}" if who else None
        self._check_alone()

    # What the operator sees and asks (model.status.Views).

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
        return summary.block_rows(self._facts)

    def why(self, target: str) -> list[Explanation]:
        """Explanations of a prefix or an address."""
        return Why(self._parts, time.monotonic()).why(target)

    def live(self) -> list[Check]:
        """Liveness."""
        return summary.live(self._facts)

    def ready(self) -> list[Check]:
        """Readiness."""
        return summary.ready(self._parts, self._facts)

    async def plan(self, files: Mapping[str, bytes]) -> Mapping[str, object]:
        """What other resource files would change. Reading and deciding take a thread, so that sessions do not wait."""
        try:
            snapshot = await self._datastore.foresee(files)
        except ValueError as error:
            raise Impossible(f"nothing would change: {error}; what was read last would stand") from None
        now = self._intent.snapshot
        if now is None:
            raise Impossible("no resources were whole yet: there is nothing to compare with")
        kernel, foreign = self._kernel.workloads(), self._kernel.foreign()
        addresses = frozenset(address for family in Family for address in self._kernel.addresses(family))
        up = {status.id for status in self._speaker.statuses() if status.state is SessionState.ESTABLISHED}
        config, passwords, encoded = self._config, self._intent.passwords, self._router.encoded

        def compare() -> Mapping[str, object]:
            from bgpd.views.changes import changes  # no start waits for what is seldom asked
            from bgpd.views.plan import KernelFacts, plan

            known = KernelFacts(kernel, foreign, frozenset(Family), addresses=addresses)
            before, after = (plan(each, config, passwords, known, encoded) for each in (now, snapshot))
            return changes(before, after, up)

        return await asyncio.to_thread(compare)

    async def reload(self) -> str:
        """Re-read the configuration file. ``ConfigError``: nothing changed."""
        facts = self._facts
        self._notifier.reloading()
        try:
            new = load(self._config_path)
        except ConfigError as error:
            facts.reloads["failure"] += 1
            facts.config_error = str(error)
            log.error("event=reload result=failure error=%r", str(error))
            raise
        finally:
            if self._ready_reported:
                self._notifier.ready(self._reported[0])
        facts.reloads["success"] += 1
        facts.config_error, facts.config_loaded = "", time.time()
        facts.waiting = tuple(key for key in AT_START if getattr(new, key) != getattr(self._config, key))
        changed = [key for key in type(new).model_fields if getattr(new, key) != getattr(self._config, key)]
        fixed = [key for key in changed if key in AT_START]
        self._config = facts.config = new.model_copy(
            update={key: getattr(self._config, key) for key in fixed}
        )
        self._log_level = new.log.level
        configure_log(self._log_level, new.log.format)
        passwords = self._intent.passwords
        self._intent.reconfigured(self._config)
        if self._intent.passwords != passwords:
            changed.append("password files")
        self._intent_changed()
        words = ", ".join(key for key in changed if key not in fixed)
        outcome = f"changed: {words}" if words else "nothing changed"
        if fixed:
            outcome += f"; from the next start on: {', '.join(fixed)}"
        log.info("event=reload result=success words=%r", outcome)
        return outcome

    async def _watch_reloads(self) -> None:
        """SIGHUP is a reload whose outcome only the log has."""
        while True:
            await self._reload_asked.wait()
            self._reload_asked.clear()
            with contextlib.suppress(ConfigError):
                await self.reload()

    async def ipam(self, order: Mapping[str, object]) -> Mapping[str, object]:
        """Addresses for this node's pods, in a thread: files and locks are waited for there."""
        if self._allocator is None:
            from bgpd.datastore.allocator import (  # no start waits for what many nodes never ask
                Allocator,
                store_of,
            )
            from bgpd.datastore.store import Executor
            from bgpd.model.ipam import StoreUnwritten

            try:
                self._allocator = Allocator(Executor(store_of(self._config)), self._config.node)
            except StoreUnwritten as error:
                return {"error": {"code": "store", "message": str(error)}}
        return await asyncio.to_thread(self._allocator.perform, order)

    async def peer_action(self, action: PeerAction, name: str, message: str) -> str:
        """Shut down, enable, reset or refresh one session."""
        outcome = self._orders.carry_out(action, self._parts.find_peer(name).id, message)
        self._liveness.review()
        self._kick()
        return outcome


class OutOfResources:
    """asyncio's exception handler. Where descriptors or memory have run out it logs one line now and then, and no
    traceback: it is called for each connection that could not be taken, and a log must not need what has run out."""

    def __init__(self) -> None:
        self._logged, self._count = 0.0, 0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """See the class."""
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in EXHAUSTED:
            loop.default_exception_handler(context)
            return
        self._count += 1
        if time.monotonic() >= self._logged + REPORT_SECONDS:
            log.error("event=out_of_resources count=%d cause=%r", self._count, error.strerror)
            self._logged, self._count = time.monotonic(), 0


def make_kernel(config: Config, handler: KernelHandler | None) -> Kernel:
    """The kernel door as the configuration wants it."""
    kernel = config.kernel
    return Kernel(
        handler,
        workload_interfaces=kernel.workload_interfaces,
        tunnel_interfaces=kernel.tunnel_interfaces,
        nexthop_objects=kernel.nexthop_objects,
        nexthop_ids=range(kernel.nexthop_ids.first, kernel.nexthop_ids.last + 1),
    )


def run(config_path: Path) -> None:
    """The daemon, until it is asked to stop. Raises ``ConfigError`` for a bad configuration, ``AlreadyRunning``."""
    config = load(config_path)
    configure_log(config.log.level, config.log.format)

    async def live() -> None:
        await Daemon(config_path, config).run()

    asyncio.run(live())
