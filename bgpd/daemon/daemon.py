"""The daemon's life: one process, one event loop, one TaskGroup (house rule 14).

It makes the live parts, starts and ends them, and carries what the doors report to those who decide: the sessions' and
the kernel's word to the router, the datastore's to ``intent``. ``turn`` carries what was decided on, ``writing`` says
when the kernel may be written, ``housekeeping`` keeps time, ``operator`` answers the operator. A stop leaves the routes
in the kernel and closes sessions without a NOTIFICATION, so that peers keep them too (RFC 4724).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import importlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bgpd import __version__
from bgpd.bgp.outbound import Outbound
from bgpd.bgp.speaker import Speaker
from bgpd.config.config import Config
from bgpd.config.environment import unread
from bgpd.config.reading import ConfigError, load
from bgpd.daemon.admin import Orders, Shutdowns
from bgpd.daemon.compat import serve_compat
from bgpd.daemon.drain import Draining
from bgpd.daemon.housekeeping import Housekeeping
from bgpd.daemon.intent import Intent, resource_changes
from bgpd.daemon.liveness import Liveness
from bgpd.daemon.memory import Memory, memory_limit
from bgpd.daemon.operator import OperatorActions, OperatorViews
from bgpd.daemon.service_manager import ServiceManager
from bgpd.daemon.startup import Convergence
from bgpd.daemon.turn import Turn
from bgpd.daemon.upgrade import Upgrade, gone
from bgpd.daemon.writing import Writing
from bgpd.datastore.chosen import make_datastore
from bgpd.descriptors import raise_limit
from bgpd.events import event
from bgpd.fib.programmer import Programming
from bgpd.kernel.kernel import Kernel, KernelHandler
from bgpd.model.doors import Impossible
from bgpd.model.peer import DialAnswer, Down, Peer, PeerId
from bgpd.model.prefix import Address, Family
from bgpd.model.resources import Problem
from bgpd.model.route import Announce, EndOfRib, EndRefresh, FibKey, RibEvent, Withdraw
from bgpd.observe.control_socket import AlreadyRunning, Claim, answers
from bgpd.observe.history import History
from bgpd.observe.log import configure as configure_log
from bgpd.observe.metrics import Metrics
from bgpd.rib.router import Router
from bgpd.views.live import Parts, local_words
from bgpd.views.recent import Recently
from bgpd.views.summary import Facts

if TYPE_CHECKING:
    from bgpd.observe.api import Api

log = logging.getLogger(__name__)

GC_THRESHOLDS = (10_000, 5, 1000)
"""Tables are large and free of cycles: a full collection walks them all for nothing, and holds the loop meanwhile; one
of the middle generation walks 50,000 objects, which takes 12 ms."""
SWITCH_INTERVAL_SECONDS = 0.001
"""Seconds after which the thread that writes to the kernel gets the interpreter lock from a busy event loop: it needs
it for microseconds, between two system calls."""
EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
EXHAUSTED_AGAIN_SECONDS = 10.0
"""Seconds between two lines about what has run out."""
SESSIONS_FIRST_SECONDS, SESSION_FIRST_SECONDS = 0.75, 0.001
"""Seconds for the sessions to begin in, before the doors to the operator open: all of them at most, and each."""


class Daemon:
    """One node's bgpd. Fulfils ``speaker.Handler`` and ``kernel.kernel.KernelHandler``."""

    def __init__(self, config_path: Path, config: Config, *, take_over: bool = False) -> None:
        """``take_over``: the sessions of a bgpd that runs here are taken over, once all is ready for them."""
        datastore, metrics, shutdowns = make_datastore(config), Metrics(), Shutdowns(config.state_directory)
        self._facts = facts = Facts(config_path, time.time(), datastore, config_loaded=time.time())
        facts.problems.extend(unread(os.environ))
        self._kernel = kernel = make_kernel(config, self)
        self._fibs = fibs = {
            family: Programming(family, fib, metrics, resigned=fib.resign, stands=fib.is_anothers)
            for family, fib in kernel.fibs.items()
        }
        self._router = router = Router(kernel.resolve)
        self._speaker = speaker = Speaker(self, restarted=False, shutdowns=shutdowns.read())
        self._outbound = outbound = Outbound(speaker.sessions.send)
        self._convergence = Convergence()
        draining = Draining(config.state_directory)
        self._intent = intent = Intent(config, kernel, router, outbound, speaker, self._convergence, draining)
        self._recently = Recently()
        self._memory = memory = Memory(
            speaker, router, memory_limit(config.bgp.memory_limit), outbound.missed
        )
        parts = Parts(router, speaker, outbound, kernel, fibs, intent, self._recently, memory.of)
        facts.memory_limit, facts.out_of_memory = memory.limit, memory.problems
        self._history = history = History(config.state_directory, config.history.size, parts.forwarding_text)
        self._turn = Turn(parts, facts, intent, metrics, memory, history)
        self._manager = ServiceManager(parts, facts)
        self._liveness = Liveness(speaker, kernel, router, self._turn.kick)
        self._upgrade = Upgrade(
            speaker, outbound, router, self._liveness.bfd, self._manager.notifier, self._stop
        )
        self._writing = Writing(parts, facts, self._convergence, self._upgrade)
        self._housekeeping = Housekeeping(
            parts, facts, self._turn, self._writing, self._liveness, self._manager, self._intent_changed
        )
        self._parts = parts
        self._orders = orders = Orders(speaker, outbound, intent, shutdowns)
        self._views = OperatorViews(parts, facts, intent, self._liveness, history)
        self._actions = OperatorActions(
            parts,
            facts,
            intent,
            orders,
            self._liveness,
            self._manager,
            self._upgrade,
            self._intent_changed,
            self._turn.kick,
        )
        self._api: Api | None = None
        self._metrics = metrics
        self._log: tuple[str, str] = (config.log.level, config.log.format)
        """Level and format as the log has them now."""
        self._take_over_wanted = take_over
        self._claim: Claim | None = None
        self._claimed = asyncio.Event()
        """The control socket is ours."""
        self._engaged = asyncio.Event()
        """The resources were whole once, and the sessions that they want are wanted."""
        self._other: socket.socket | None = None
        """The connection to the process that has handed over, until that is gone."""
        self._refused: Impossible | None = None
        """Why the sessions could not be taken over, where they had to be."""
        self._stopping = asyncio.Event()
        self._reload_asked = asyncio.Event()

    # Life.

    async def run(self) -> None:
        """Lives until SIGTERM or SIGINT, or until another process has taken over. ``AlreadyRunning`` where another bgpd
        answers, ``Impossible`` where it was to be taken over and could not; a bug raises out of here.

        In any case the kernel's routes stay.
        """
        config = self._intent.config
        runs = answers(config.api.socket)
        if runs and not self._take_over_wanted:
            raise AlreadyRunning(f"another bgpd answers on {config.api.socket}")
        self._take_over_wanted = runs
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(OutOfResources())
        raise_limit()
        self._upgrade.receive_stored()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload_asked.set)
        await self._kernel.start()
        for programming in self._fibs.values():
            await programming.adopt()
        adopted = sum(len(programming.target.installed.entries) for programming in self._fibs.values())
        self._speaker.sessions.restarted = adopted > 0
        self._intent.reconfigured(config)
        if not runs:
            self._take_control(Claim(config.api.socket))
        logging.getLogger("bgpd").addHandler(self._history)
        try:
            self.local_changed()
            event(log, "started", version=__version__, node=config.node, adopted=adopted)
            gc.freeze()
            gc.set_threshold(*GC_THRESHOLDS)
            gc.enable()
            sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
            await self._live()
        finally:
            self._manager.stopping()
            if self._api is not None:
                await self._api.stop()
            await self._actions.close()
            if self._claim is not None:
                self._claim.release()
            logging.getLogger("bgpd").removeHandler(self._history)
        if self._refused is not None:
            raise self._refused

    def _stop(self) -> None:
        self._stopping.set()

    async def _live(self) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._kernel.run(), name="kernel"),
                group.create_task(self._speaker.run(), name="speaker"),
                group.create_task(self._liveness.run(), name="bfd"),
                group.create_task(self._housekeeping.run(), name="housekeeping"),
                group.create_task(self._history.run(), name="history"),
                group.create_task(self._watch_reloads(), name="reloads"),
                group.create_task(self._follow(), name="datastore"),
                group.create_task(self._serve(), name="api"),
                *(group.create_task(p.run(), name=f"fib-{f.label}") for f, p in self._fibs.items()),
            ]
            if self._intent.config.ipam.garbage:
                from bgpd.daemon.garbage import Collector  # no start waits for what few nodes do

                collector = Collector.of(self._intent.config)
                tasks.append(group.create_task(collector.run(), name="ipam-garbage"))
            await self._stopping.wait()
            self._upgrade.store()
            event(log, "stopping", routes="kept")
            for task in tasks:
                task.cancel()

    def _take_control(self, claim: Claim) -> None:
        self._claim = self._upgrade.claim = claim
        self._claimed.set()

    async def _take_over(self) -> bool:
        """All is ready to go on with the sessions of the process that runs here: takes them, and its control socket.
        Whether that went well; otherwise this process ends, and the other one goes on."""
        self._take_over_wanted, path = False, self._intent.config.api.socket
        try:
            received = await self._upgrade.take_over(path)
        except Impossible as error:
            self._refused = error
            self._stopping.set()
            return False
        self._other = received.other
        self._take_control(Claim(path, received.control))
        return True

    async def _serve(self) -> None:
        """Opens the doors to the operator once the sessions have had time to begin: what serves them takes a tenth of a
        second to import. Who connects before waits."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SESSIONS_FIRST_SECONDS) as limit:
                await self._engaged.wait()
                loop, peering = asyncio.get_running_loop(), self._intent.peering
                sessions = len(peering.peers) if peering is not None else 0
                limit.reschedule(min(limit.when() or 0.0, loop.time() + sessions * SESSION_FIRST_SECONDS))
                await self._writing.in_sync.wait()
        module = await asyncio.to_thread(importlib.import_module, "bgpd.observe.api")
        await self._claimed.wait()
        assert self._claim is not None
        claim = self._claim
        if self._other is not None:
            await gone(self._other)  # it has the metrics' port
        config = self._intent.config
        doors = config.metrics.listen, config.web
        self._api = api = module.Api(self._views, self._actions, self._metrics, claim, *doors)
        await api.start()
        self._housekeeping.watch_control_socket(claim, api)
        gc.freeze()
        for key, error in (("metrics.listen", api.metrics_error), ("web.listen", api.web_error)):
            if error:
                self._facts.problems.append(Problem(str(self._facts.config_file), key, error))
        await serve_compat(config, self._views, self._parts, self._facts, self._writing.in_sync)

    async def _watch_reloads(self) -> None:
        """SIGHUP is a reload whose outcome only the log has."""
        while True:
            await self._reload_asked.wait()
            self._reload_asked.clear()
            with contextlib.suppress(ConfigError):
                await self._actions.reload()

    async def _follow(self) -> None:
        """The newest whole truth of the datastore, as it comes."""
        datastore = self._facts.datastore
        counted: Mapping[tuple[str, str], int] = {}
        async for snapshot in datastore.watch():
            before, counted = counted, dict(datastore.status().events)
            if words := resource_changes(before, counted):
                event(log, "resources_changed", what=words)
            if self._take_over_wanted and not await self._take_over():
                return
            self._intent.snapshot = snapshot
            self._intent_changed()

    def _intent_changed(self) -> None:
        """The resources or the configuration differ: sessions, policy and originations anew."""
        began, intent = time.monotonic(), self._intent
        self._memory.limit = self._facts.memory_limit = memory_limit(intent.config.bgp.memory_limit)
        if intent.snapshot is None:
            self._configure_log()
            return

        def announce() -> None:
            self._configure_log()
            self._turn.intent_decided(began)

        intent.follow(intent.snapshot, announce)
        self._orders.follow_names()
        self._liveness.review()
        self._outbound.release_end_of_rib()
        self._writing.check_alone()
        self._turn.kick()
        self._engaged.set()

    def _configure_log(self) -> None:
        """The resources may set the level too (``rules.peering``)."""
        config, peering = self._intent.config.log, self._intent.peering
        wanted = (peering.log_level if peering is not None else config.level, config.format)
        if wanted != self._log:
            self._log = wanted
            configure_log(*wanted)

    # What the sessions say (speaker.Handler).

    def session_established(self, peer: Peer) -> None:
        """A session came up."""
        now = time.monotonic()
        self._router.session_up(peer, now)
        self._outbound.add_session(peer, self._router.groups_of(peer))
        self._convergence.peer_established(peer.id, peer.families, now, end_of_rib=peer.sends_end_of_rib)
        self._turn.kick()

    def session_resumed(self, peer: Peer) -> None:
        """A session of another process goes on here."""
        now = time.monotonic()
        self._router.session_up(peer, now)
        self._upgrade.resume_session(peer)
        self._convergence.peer_established(peer.id, peer.families, now, end_of_rib=peer.sends_end_of_rib)
        self._turn.kick()

    def session_ended(self, peer: Peer, down: Down) -> None:
        """A session ended."""
        self._upgrade.forget_session(peer.id)
        self._outbound.remove_session(peer)
        now = time.monotonic()
        paths = {family: self._router.adj_rib_in(family).peer_paths(peer.id) for family in peer.families}
        announced = {family: (prefix for prefix, _, _ in found) for family, found in paths.items()}
        self._recently.keep_ended(peer, down, announced, now)
        self._router.session_down(peer, down, now)
        self._turn.kick()

    def routes_received(self, peer: Peer, events: Sequence[RibEvent]) -> None:
        """A session reported something."""
        now = time.monotonic()
        self._router.learn_routes(peer, events, now)
        self._convergence.routes_came(peer.id, now)
        for each in events:
            if isinstance(each, EndOfRib | EndRefresh):
                self._convergence.family_whole(peer.id, each.family)
                self._upgrade.heard_again(peer.id, each.family)
            elif isinstance(each, Announce | Withdraw):
                self._fibs[each.family].measure_from(now)
                if isinstance(each, Withdraw):
                    self._recently.keep_withdrawn(peer, each, now)
        self._turn.kick()

    def refresh_requested(self, peer: Peer, family: Family) -> None:
        """A session wants to hear all again (RFC 2918)."""
        self._outbound.refresh(peer, family)
        self._turn.kick()

    def session_writable(self, peer: Peer) -> None:
        """A session's socket has drained."""
        self._outbound.resume_sending(peer)
        self._turn.kick()

    def listening_changed(self) -> None:
        """The BGP port became ours, or is another's."""
        self._writing.check_alone()

    def dial_ended(self, peer_id: PeerId, answer: DialAnswer) -> None:
        """A dial ended."""
        self._convergence.dial_answered(peer_id, answer)

    # What the kernel says (kernel.kernel.KernelHandler).

    def fib_changed(self, family: Family, keys: Collection[FibKey]) -> None:
        """Somebody else changed what is ours."""
        self._fibs[family].kernel_changed(keys)

    def fib_suspect(self, family: Family | None, cause: str) -> None:
        """Routes may have gone without notice."""
        for each in Family if family is None else (family,):
            self._fibs[each].suspect(cause)

    def next_hops_changed(self, addresses: frozenset[Address]) -> None:
        """Next hops lead elsewhere than before."""
        self._router.review_next_hops(addresses)
        self._turn.kick()

    def workloads_changed(self) -> None:
        """A workload came or went."""
        self._turn.originate_soon()

    def local_changed(self) -> None:
        """Own addresses, connected subnets or tunnels differ."""
        self._router.tunnels_changed(self._kernel.tunnels())
        for family in Family:
            words = local_words(self._kernel.addresses(family), self._kernel.connected(family))
            self._router.local_prefixes(family, words)
        if self._intent.moved():
            self._intent_changed()
        self._turn.kick()

    def rival_changed(self, who: str | None) -> None:
        """Another daemon writes routes of our protocol; ``None``: it is gone."""
        self._writing.follow_rival(who)


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
        if time.monotonic() >= self._logged + EXHAUSTED_AGAIN_SECONDS:
            event(log, "out_of_resources", logging.ERROR, count=self._count, cause=error.strerror)
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


def run(config_path: Path, *, take_over: bool = False) -> None:
    """The daemon, until it is asked to stop. Raises ``ConfigError`` for a bad configuration, ``AlreadyRunning``, or
    ``Impossible`` where another bgpd was to be taken over (``take_over``) and could not."""
    config = load(config_path)
    configure_log(config.log.level, config.log.format)

    async def live() -> None:
        await Daemon(config_path, config, take_over=take_over).run()

    asyncio.run(live())
