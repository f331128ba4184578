"""The wiring: one process, one event loop, one TaskGroup (house rule 14).

Doors report here; the router decides; this module carries what it decided to the reconcilers and the update groups,
and keeps time. It also owns the rules of a start and an end: nothing is written while another routing daemon is at
work here, nothing old is swept before the start is over (house rule 5), and a stop leaves the routes in the kernel and
closes sessions without a NOTIFICATION, so that peers keep them too (RFC 4724).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from bgpd import __version__
from bgpd.bgp.outbound import Outbound
from bgpd.bgp.speaker import Speaker
from bgpd.config import Config, ConfigError, load
from bgpd.convergence import Convergence
from bgpd.datastore.files import Files
from bgpd.kernel.door import Kernel
from bgpd.model.peer import Down, Peer, PeerId
from bgpd.model.prefix import Address, Family, address_text, prefix_text
from bgpd.model.resources import Problem, Snapshot
from bgpd.model.route import EndOfRib, FibKey, Forwarding, Origination, OriginKind, RibEvent
from bgpd.model.status import (
    BlockView,
    Check,
    Datastore,
    Explanation,
    PeerAction,
    PeerStatus,
    RouteTable,
    RouteView,
    SessionState,
    Status,
)
from bgpd.observe.api import AlreadyRunning, Api
from bgpd.observe.log import configure as configure_log
from bgpd.observe.metrics import Metrics
from bgpd.observe.sdnotify import Notifier
from bgpd.reconcile import Reconciler
from bgpd.router import Router
from bgpd.rules.originate import blocks, originate
from bgpd.rules.peering import Peering, peers
from bgpd.rules.policy import groups_of
from bgpd.views import FibState, Viewer, local_words

log = logging.getLogger(__name__)

SLICE = 0.004
"""Seconds of deciding before the event loop gets a turn."""
COMPARE_EVERY = 60.0
"""Seconds between whole compares of the kernel's routes with ours."""
HOUSEKEEPING = 1.0
NOT_YET_LISTENING = "the BGP port is not yet ours"
LAG_WINDOW = 15
"""Housekeeping turns over which the worst event-loop lag is remembered."""


class Daemon:
    """One node's bgpd. Fulfils ``speaker.Handler``, ``kernel.door.KernelHandler`` and ``model.status.Views``."""

    def __init__(self, config_path: Path, config: Config) -> None:
        self.config = config
        self._config_path = config_path
        self._config_loaded, self._config_error = time.time(), ""
        self._reloads: Counter[str] = Counter(success=0, failure=0)
        self._started, self._started_at = time.monotonic(), time.time()
        kernel = config.kernel
        self._kernel = Kernel(
            handler=self,
            workload_interfaces=kernel.workload_interfaces,
            tunnel_interfaces=kernel.tunnel_interfaces,
            nexthop_objects=kernel.nexthop_objects,
            nexthop_ids=range(kernel.nexthop_ids.first, kernel.nexthop_ids.last + 1),
        )
        self._router = Router(self._kernel.resolve)
        self._outbound = Outbound(self._send)
        self._fibs = {
            family: FibState(Reconciler[FibKey, Forwarding](kin=lambda key: key[0])) for family in Family
        }
        self._fib_wake = {family: asyncio.Event() for family in Family}
        self._compare_due: dict[Family, str] = {}
        self._adopted: set[Family] = set()
        self._convergence = Convergence()
        self._speaker: Speaker
        self._viewer: Viewer
        self._datastore: Datastore = Files(Path(config.datastore.path), config.node)
        self._snapshot: Snapshot | None = None
        self._peering: Peering | None = None
        self._originations: Mapping[Family, Origination] = {}
        self._workloads_dirty = False
        self._rival: str | None = None
        self._in_the_way: str | None = NOT_YET_LISTENING
        self._in_sync = False
        self._ready_told = False
        self._turn_scheduled = False
        self._stopping = asyncio.Event()
        self._lags: list[float] = []
        self._last_routes_change: float | None = None
        self._heard_at: dict[Family, float] = {}
        self._intent_at: float | None = None
        self._shutdowns_file = Path(config.state_directory) / "shutdowns.json"
        self._metrics = Metrics(self)
        self._api = Api(self, self._metrics, Path(config.api.socket), config.metrics.listen)
        self._notifier = Notifier.from_environment()
        self._follow_task: asyncio.Task[None] | None = None

    # Life.

    async def run(self) -> None:
        """Lives until SIGTERM or SIGINT. A bug raises out of here; the kernel's routes stay."""
        loop = asyncio.get_running_loop()
        await self._api.start()  # first of all: it refuses where another bgpd answers
        try:
            for signum in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(signum, self._stopping.set)
            await self._kernel.start()
            await self._live()
        finally:
            self._notifier.stopping()
            await self._api.stop()

    async def _live(self) -> None:
        for family, state in self._fibs.items():
            state.reconciler.paused = True  # until the BGP port is ours
            state.reconciler.adopt(await self._kernel.fibs[family].read())
            self._adopted.add(family)
        restarted = any(state.reconciler.held for state in self._fibs.values())
        self._speaker = Speaker(self, restarted=restarted, shutdowns=self._read_shutdowns())
        self._viewer = Viewer(self._router, self._speaker, self._outbound, self._kernel, self._fibs)
        self.local_changed()
        log.info(
            "event=started version=%s node=%s adopted=%d",
            __version__,
            self.config.node,
            sum(len(state.reconciler.held) for state in self._fibs.values()),
        )
        gc.collect()
        gc.freeze()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._kernel.run(), name="kernel"),
                group.create_task(self._speaker.run(), name="speaker"),
                group.create_task(self._keep_house(), name="housekeeping"),
                *(group.create_task(self._program(family), name=f"fib-{family.label}") for family in Family),
            ]
            self._follow_task = group.create_task(self._follow(), name="datastore")
            tasks.append(group.create_task(self._watch_reloads(), name="reload"))
            await self._stopping.wait()
            log.info("event=stopping routes=kept")
            for task in (*tasks, self._follow_task):
                task.cancel()

    async def _follow(self) -> None:
        """The newest whole truth of the datastore, as it comes."""
        while True:
            datastore = self._datastore
            async for snapshot in datastore.watch():
                self._snapshot = snapshot
                self._intent_changed()
                if self._datastore is not datastore:
                    break

    def _intent_changed(self) -> None:
        """The resources or the configuration differ: sessions and originations anew."""
        snapshot = self._snapshot
        if snapshot is None:
            return
        self._intent_at = time.monotonic()
        before = self._peering.peers if self._peering else {}
        self._peering = peering = peers(snapshot, self.config.node, self.config)
        self._originate()
        self._turn()  # what we announce is known before a session can come up
        self._speaker.configure(peering.peers, peering.listen.addresses, peering.listen.port)
        self._convergence.configured(peering.peers, time.monotonic())
        for peer in before.keys() - peering.peers.keys():
            self._router.forget(peer)
        self._outbound.release_end_of_rib()
        self._check_rival()
        self._check_in_sync()
        self._kick()

    def _originate(self) -> None:
        self._workloads_dirty = False
        if self._snapshot is None:
            return
        self._originations = originate(
            self._snapshot, self._kernel.workloads(), self.config.node, self.config.originate.ipam_early
        )
        self._router.originated(self._originations)

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
        end = time.monotonic() + SLICE
        more = self._router.work()
        while more and time.monotonic() < end:
            more = self._router.work()
        changes = self._router.take_changes()
        for family, fib in changes.fib.items():
            if fib:
                self._fibs[family].reconciler.want(fib)
                self._fib_wake[family].set()
        for group, told in changes.adj_rib_out.items():
            self._outbound.changed(group, told)
        if changes.fib or changes.adj_rib_out:
            self._last_routes_change = time.time()
        if changes.adj_rib_out and self._intent_at is not None:
            self._metrics.observe_propagation("origination", time.monotonic() - self._intent_at)
            self._intent_at = None
        behind = self._outbound.work(settled=not more)
        for peer, family, count in self._router.take_over_limit():
            self._speaker.check_limit(peer, family, count)
        if more or behind:
            self._kick()

    async def _program(self, family: Family) -> None:
        """Keep the kernel's routes of one family equal to what is wanted."""
        state, fib, wake = self._fibs[family], self._kernel.fibs[family], self._fib_wake[family]
        reconciler = state.reconciler
        while True:
            deadline = reconciler.next_deadline()
            timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await wake.wait()
            wake.clear()
            if cause := self._compare_due.pop(family, None):
                await self._compare(family, cause)
            while batch := reconciler.due(time.monotonic()):
                started = time.monotonic()
                errors = await fib.apply(batch.puts, batch.deletes)
                now = time.monotonic()
                reconciler.done(batch, errors, now)
                self._metrics.observe_reconcile("apply", now - started)
                state.last_sync = time.time()
                for key, error in errors.items():
                    log.debug("event=route_failed family=%s key=%r error=%s", family.label, key, error)
            if not reconciler.pending and (heard := self._heard_at.pop(family, None)):
                self._metrics.observe_fib_programming(time.monotonic() - heard)

    async def _compare(self, family: Family, cause: str) -> None:
        state = self._fibs[family]
        started = time.monotonic()
        state.reconciler.begin_reading()
        actual = await self._kernel.fibs[family].read()
        state.drift = drift = state.reconciler.compare(actual)
        self._metrics.observe_reconcile("compare", time.monotonic() - started)
        self._count_repairs(family, drift._asdict())
        if any(drift):
            log.info(
                "event=compared family=%s cause=%r missing=%d extra=%d changed=%d",
                family.label,
                cause,
                *drift,
            )

    def _count_repairs(self, family: Family, counts: Mapping[str, int]) -> None:
        state = self._fibs[family]
        if not state.reconciler.paused:
            state.repairs.update({kind: count for kind, count in counts.items() if count})

    async def _keep_house(self) -> None:
        """What time alone brings: stale routes' end, the end of the start, whole compares, the watchdog."""
        next_compare = time.monotonic() + COMPARE_EVERY
        watchdog_due = 0.0
        while True:
            before = time.monotonic()
            await asyncio.sleep(HOUSEKEEPING)
            now = time.monotonic()
            self._lags = [*self._lags[-LAG_WINDOW:], max(0.0, now - before - HOUSEKEEPING)]
            deadline = self._router.next_deadline()
            if deadline is not None and deadline <= now:
                self._router.tick(now)
                self._kick()
            self._check_rival()
            self._check_in_sync()
            if now >= next_compare:
                next_compare = now + COMPARE_EVERY
                self.fib_suspect(None, "every minute")
            if self._notifier.watchdog_interval is not None and now >= watchdog_due:
                watchdog_due = now + self._notifier.watchdog_interval / 2
                self._notifier.watchdog()
            self._tell_systemd()

    def _tell_systemd(self) -> None:
        ready = all(check.ok for check in self.ready())
        status = self.status()
        text = (
            f"{status.peers_up}/{status.peers_wanted} peers up, "
            f"{sum(status.routes_desired.values())} routes announced, "
            f"{sum(sum(fib.routes.values()) for fib in status.fib.values())} in the kernel"
        )
        if not ready:
            text = "not ready: " + "; ".join(f"{c.name}: {c.detail}" for c in status.checks if not c.ok)
        if ready and not self._ready_told:
            self._ready_told = True
            log.info("event=ready after=%.2fs", time.monotonic() - self._started)
            self._notifier.ready(text)
        else:
            self._notifier.status(text)

    def _check_rival(self) -> None:
        """While another routing daemon is at work here, nothing is written or swept."""
        rival, before = self._rival_words(), self._in_the_way
        if rival == before:
            return
        self._in_the_way = rival
        for family, state in self._fibs.items():
            state.reconciler.paused = rival is not None
            if rival is None and before != NOT_YET_LISTENING:
                self.fib_suspect(family, "another daemon was at work here")
            self._fib_wake[family].set()
        if rival is None:
            log.info("event=writing cause=%r", "nobody else writes here")
        elif rival != NOT_YET_LISTENING:
            log.warning("event=not_writing cause=%r", rival)

    def _rival_words(self) -> str | None:
        if self._rival is not None:
            return self._rival
        if self._speaker.listen_error:
            return f"another daemon has our BGP port: {self._speaker.listen_error}"
        if self._peering is None or not self._speaker.listening:
            return NOT_YET_LISTENING
        return None

    def _check_in_sync(self) -> None:
        if self._in_sync or self._router.busy or self._rival_words() is not None:
            return
        if self._convergence.over(time.monotonic()):
            self._in_sync = True
            swept = 0
            for family, state in self._fibs.items():
                swept += state.reconciler.release()
                self._fib_wake[family].set()
            log.info("event=in_sync after=%.1fs swept=%d", time.monotonic() - self._started, swept)

    # What the sessions say (speaker.Handler).

    def established(self, peer: Peer) -> None:
        """A session came up."""
        self._router.session_up(peer, time.monotonic())
        groups = groups_of(peer)
        tables = {family: self._router.adj_rib_out(group) for family, group in groups.items()}
        self._outbound.join(peer, groups, tables)
        self._convergence.established(peer.id, peer.families)
        self._kick()

    def down(self, peer: Peer, down: Down) -> None:
        """A session ended."""
        self._outbound.leave(peer)
        self._router.session_down(peer, down, time.monotonic())
        self._kick()

    def received(self, peer: Peer, events: Sequence[RibEvent]) -> None:
        """A session said something."""
        self._router.received(peer, events)
        now = time.monotonic()
        for event in events:
            if isinstance(event, EndOfRib):
                self._convergence.heard(peer.id, event.family)
            else:
                self._heard_at.setdefault(event.family, now)
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
        self._check_rival()

    def attempted(self, peer_id: PeerId, refused: bool) -> None:
        """A dial ended."""
        self._convergence.attempted(peer_id, refused)

    # What the kernel says (kernel.door.KernelHandler).

    def fib_changed(self, family: Family, changes: Mapping[FibKey, Forwarding | None]) -> None:
        """Somebody else changed what is ours."""
        reconciler = self._fibs[family].reconciler
        kinds: Counter[str] = Counter()
        for key, value in changes.items():
            wanted = reconciler.wanted.get(key)
            if wanted != value and not (wanted is None and value is None):
                kinds["missing" if value is None else "extra" if wanted is None else "changed"] += 1
        self._count_repairs(family, kinds)
        reconciler.observe(changes)
        self._fib_wake[family].set()

    def fib_suspect(self, family: Family | None, cause: str) -> None:
        """Routes may have gone without notice."""
        for each in Family if family is None else (family,):
            self._compare_due[each] = cause
            self._fib_wake[each].set()

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
        """Own addresses or connected subnets differ."""
        for family in Family:
            words = local_words(self._kernel.addresses(family), self._kernel.connected(family))
            self._router.local_prefixes(family, words)
        self._kick()

    def rival(self, who: str | None) -> None:
        """Another daemon writes routes of our protocol; ``None``: it is gone."""
        self._rival = f"another daemon writes `proto bird` routes: {who}" if who else None
        self._check_rival()

    # What the operator sees and asks (model.status.Views).

    def status(self) -> Status:
        """One screen."""
        peering, snapshot = self._peering, self._snapshot
        statuses = self._speaker.statuses() if hasattr(self, "_speaker") else []
        desired: Counter[tuple[str, str]] = Counter(
            {(k.value, f.label): 0 for k in OriginKind for f in Family}
        )
        for family, origination in self._originations.items():
            for own in origination.announce.values():
                desired[own.kind.value, family.label] += 1
        conflicts = [
            Problem(f"kernel {family.label}", "", f"{prefix_text(family, key[0])}: in our way is {words}")
            for family in Family
            for key, words in self._kernel.fibs[family].conflicts.items()
        ]
        ipam_blocks: Counter[tuple[str, str]] = Counter()
        if snapshot is not None:
            ipam_blocks.update(
                (view.pool, view.family) for view in self.blocks() if view.affinity == self.config.node
            )
        return Status(
            node=self.config.node,
            version=__version__,
            asn=peering.asn if peering else None,
            router_id=address_text(peering.router_id) if peering else "",
            started=self._started_at,
            ready=all(check.ok for check in self.ready()),
            in_sync=self._in_sync,
            checks=tuple(self.ready()),
            datastore=self._datastore.status(),
            config_file=str(self._config_path),
            config_loaded=self._config_loaded,
            config_error=self._config_error,
            reloads=dict(self._reloads),
            peers_up=sum(status.state is SessionState.ESTABLISHED for status in statuses),
            peers_wanted=sum(status.admin_up for status in statuses),
            routes_desired=dict(desired),
            routes_advertised=self._advertised(desired),
            rib_routes={
                (family.label, kind): count
                for family in Family
                for kind, count in (
                    ("bgp", len(self._router.rib(family))),
                    ("local", len(self._router.origination(family).announce)),
                )
            },
            rib_paths={
                (family.label, "bgp"): sum(
                    self._router.adj_rib_in(family).counts(peer.id)[0] for peer in statuses
                )
                for family in Family
            },
            fib={family.label: self._viewer.fib_status(family) for family in Family} if self._adopted else {},
            netlink_overruns=self._kernel.overruns,
            update_groups=self._router.groups,
            ipam_blocks=dict(ipam_blocks),
            ipam_borrowed={family.label: desired["borrowed", family.label] for family in Family},
            event_loop_lag=max(self._lags, default=0.0),
            last_routes_change=self._last_routes_change,
            problems=(*self._datastore.status().problems, *(peering.problems if peering else ()), *conflicts),
        )

    def _advertised(self, desired: Mapping[tuple[str, str], int]) -> dict[tuple[str, str], int]:
        """Of the routes wanted, those that every established session of the family has been told."""
        told: Counter[tuple[str, str]] = Counter()
        for family, origination in self._originations.items():
            sessions = self._viewer.established(family)
            for prefix, own in origination.announce.items():
                if all(self._outbound.has_told(peer.id, family, prefix) for peer in sessions):
                    told[own.kind.value, family.label] += 1
        return {key: told[key] for key in desired}

    def peers(self) -> list[PeerStatus]:
        """Every wanted session."""
        return self._viewer.peers()

    def routes(
        self, table: RouteTable, prefix: str | None, peer: str | None, longer: bool = False
    ) -> Iterable[RouteView]:
        """Rows of a table."""
        return self._viewer.routes(table, prefix, peer, longer)

    def blocks(self) -> list[BlockView]:
        """Blocks that are ours, that we lend from or borrow of."""
        return blocks(self._snapshot, self._originations, self.config.node) if self._snapshot else []

    def why(self, target: str) -> list[Explanation]:
        """Explanations of a prefix or an address."""
        return self._viewer.why(target)

    def live(self) -> list[Check]:
        """Liveness: the loop answers, else nobody would read this; the worst it was held lately."""
        lag = max(self._lags, default=0.0)
        return [Check("event loop", lag < 10.0, f"held for at most {lag:.3f} s lately")]

    def ready(self) -> list[Check]:
        """Readiness: configured, resources whole, kernel read and ours to write, BGP port ours. Not: a peer is up."""
        datastore = self._datastore.status()
        rival = self._rival_words() if hasattr(self, "_speaker") else None
        written = all(
            not (s.reconciler.wanted and s.last_sync is None and s.reconciler.pending)
            for s in self._fibs.values()
        )
        return [
            Check("config", not self._config_error, self._config_error),
            Check(
                "datastore", self._snapshot is not None, datastore.detail if self._snapshot is None else ""
            ),
            Check(
                "kernel", len(self._adopted) == len(Family), "" if self._adopted else "routes not yet read"
            ),
            Check("speaker", self._peering is not None, "" if self._peering else "waits for the resources"),
            Check("alone", rival is None, rival or ""),
            Check(
                "reconciler",
                written and self._snapshot is not None,
                "" if written else "first routes not yet written",
            ),
        ]

    async def reload(self) -> str:
        """Re-read the configuration file. ``ConfigError``: nothing changed."""
        self._notifier.reloading()
        try:
            new = load(self._config_path)
        except ConfigError as error:
            self._reloads["failure"] += 1
            self._config_error = str(error)
            log.error("event=reload result=failure error=%s", str(error).replace("\n", "; "))
            raise
        finally:
            if self._ready_told:
                self._notifier.ready("reloaded")
        self._reloads["success"] += 1
        self._config_error, self._config_loaded = "", time.time()
        old, self.config = self.config, new
        changed = [name for name in type(new).model_fields if getattr(new, name) != getattr(old, name)]
        fixed = [
            name
            for name in changed
            if name in ("node", "datastore", "kernel", "metrics", "api", "state_directory")
        ]
        if fixed:
            keep = {name: getattr(old, name) for name in fixed}
            self.config = new.model_copy(update=keep)
        if "log" in changed:
            configure_log(new.log.level, new.log.format)
        self._intent_changed()
        words = (
            f"changed: {', '.join(n for n in changed if n not in fixed)}"
            if set(changed) - set(fixed)
            else "no change"
        )
        if fixed:
            words += f"; takes effect at the next restart: {', '.join(fixed)}"
        log.info("event=reload result=success %s", words)
        return words

    async def _watch_reloads(self) -> None:
        """SIGHUP is a reload whose outcome only the log tells."""
        asked = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, asked.set)
        while True:
            await asked.wait()
            asked.clear()
            with contextlib.suppress(ConfigError):
                await self.reload()

    async def peer_action(self, action: PeerAction, name: str, message: str) -> str:
        """Shut down, enable, reset or refresh one session."""
        peer = self._viewer.find_peer(name).id
        if action == "shutdown":
            self._speaker.shutdown(peer, message)
            self._write_shutdowns()
            return f"{peer} is shut down, also over restarts, until bgpctl peer enable {peer}"
        if action == "enable":
            self._speaker.enable(peer)
            self._write_shutdowns()
            return f"{peer} is enabled"
        if action == "reset":
            self._speaker.reset(peer)
            return f"{peer} was reset"
        if action == "soft-in":
            asked = self._speaker.request_refresh(peer)
            return (
                f"{peer} was asked for its routes again"
                if asked
                else f"{peer} cannot refresh, or is not established"
            )
        session = self._speaker.peer(peer)
        if session is None:
            return f"{peer} is not established"
        for family in session.families:
            self._outbound.refresh(session, family)
        self._kick()
        return f"{peer} is told all routes again"

    def _read_shutdowns(self) -> dict[PeerId, str]:
        try:
            found = json.loads(self._shutdowns_file.read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            log.warning("event=state_unreadable file=%s error=%s", self._shutdowns_file, error)
            return {}
        return {PeerId(name): str(words) for name, words in found.items()} if isinstance(found, dict) else {}

    def _write_shutdowns(self) -> None:
        try:
            self._shutdowns_file.parent.mkdir(parents=True, exist_ok=True)
            fresh = self._shutdowns_file.with_suffix(".new")
            fresh.write_text(json.dumps(dict(self._speaker.shutdowns)))
            fresh.replace(self._shutdowns_file)
        except OSError as error:
            log.error("event=state_unwritable file=%s error=%s", self._shutdowns_file, error)


def run(config_path: Path) -> int:
    """The daemon, until it is told to stop. Raises ``ConfigError`` for a bad configuration; returns an exit code."""
    config = load(config_path)
    configure_log(config.log.level, config.log.format)
    return _main(lambda: Daemon(config_path, config).run())


def cleanup(config: Config) -> int:
    """Remove all that is ours from the kernel; the daemon must not be running. Returns an exit code."""

    async def remove() -> None:
        kernel = config.kernel
        door = Kernel(
            handler=None,
            workload_interfaces=kernel.workload_interfaces,
            tunnel_interfaces=kernel.tunnel_interfaces,
            nexthop_objects=kernel.nexthop_objects,
            nexthop_ids=range(kernel.nexthop_ids.first, kernel.nexthop_ids.last + 1),
        )
        await door.start()
        try:
            for family in Family:
                count = await door.fibs[family].remove_all()
                print(f"{family.label}: {count} routes removed")
        finally:
            await door.close()

    return _main(remove)


def _main(work: Callable[[], object]) -> int:
    try:
        asyncio.run(work())  # type: ignore[arg-type]
    except AlreadyRunning as error:
        print(f"bgpd: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
