"""The door to the peers: listens, dials, carries octets and time to the sessions, and what they say to the handler.

``daemon`` runs one speaker, configures it with what ``rules.peering`` wants, and hands it a handler. All happens in
the event loop's thread: a callback for each wake-up, no task a session, one timer a session. What a peer sends faster
than we take it waits in the kernel (TCP's back-pressure, of that session only).

When the task of ``run`` is cancelled, TCP connections close without NOTIFICATION: the peers keep our routes (RFC 4724).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, Protocol

from bgpd.bgp.connection import Connection, Refresh, Routes, Up
from bgpd.bgp.exa import Cease, Notification, encode_notification
from bgpd.bgp.listeners import Listeners
from bgpd.bgp.session import Session
from bgpd.bgp.transport import Link, dialling_socket
from bgpd.model.peer import Down, DownReason, Peer, PeerConfig, PeerId
from bgpd.model.prefix import Address, Family, address_text
from bgpd.model.route import RibEvent
from bgpd.model.status import PeerStatus, SessionState

log = logging.getLogger(__name__)

DIAL_TIME = 8.0
"""Seconds for TCP to connect."""
AT_ONCE, PACE = 50, 0.01
"""Sessions that begin in one turn of the event loop, and seconds until the next so many do."""
REJECT_LOG = 10.0
"""Seconds between two lines about connections that nobody wanted."""
_UNREACHABLE = frozenset((errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN))


class Handler(Protocol):
    """What the speaker tells. Called in the loop: must not block. For one peer the order is ``established``, any of the
    others, ``down``; then nothing more of that ``Peer``."""

    def established(self, peer: Peer) -> None: ...

    def down(self, peer: Peer, down: Down) -> None: ...

    def received(self, peer: Peer, events: Sequence[RibEvent]) -> None:
        """In order, batched a wake-up."""

    def refresh_requested(self, peer: Peer, family: Family) -> None:
        """The peer wants all of a family again (RFC 2918)."""

    def writable(self, peer: Peer) -> None:
        """What ``send`` refused to take more of has drained."""

    def listening_changed(self) -> None:
        """``listen_error`` or ``listening`` may differ now."""

    def attempted(self, peer_id: PeerId, refused: bool) -> None:
        """A dial ended; ``refused`` when the peer's host said no or cannot be reached."""


class _Run:
    """A session and what drives it."""

    __slots__ = ("armed_at", "links", "pumping", "session", "since", "timer", "work")

    def __init__(self, session: Session) -> None:
        self.session = session
        self.links: dict[Connection, Link] = {}
        self.since = time.time()
        self.timer: asyncio.TimerHandle | None = None
        self.armed_at = 0.0
        self.work: asyncio.Handle | None = None
        self.pumping = False

    def stop(self) -> None:
        for handle in (self.timer, self.work):
            if handle is not None:
                handle.cancel()
        self.timer = self.work = None


class Speaker:
    """All sessions of this node. Everything is called in the event loop's thread; before ``run`` nothing moves."""

    def __init__(
        self,
        handler: Handler,
        *,
        restarted: bool,
        shutdowns: Mapping[PeerId, str] | None = None,
        random: Random | None = None,
    ) -> None:
        """``restarted``: the first session with each peer says that we have restarted (RFC 4724 §4.1).

        ``shutdowns``: peers that the operator had shut down before, each with the words; they stay so.
        """
        self._handler = handler
        self._restarted = restarted
        self._shutdowns = dict(shutdowns or {})
        self._started = self._now()
        self._random = random or Random()  # jitter, not secrets
        self._runs: dict[PeerId, _Run] = {}
        self._by_address: dict[Address, list[_Run]] = {}
        self._links: dict[Link, _Run | None] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._failure: asyncio.Future[None] | None = None
        self._listeners = Listeners(lambda: Link(self, outgoing=False), handler.listening_changed)
        self._rejected, self._reject_logged = 0, 0.0

    async def run(self) -> None:
        """Until cancelled. A bug of ours raises here."""
        loop = asyncio.get_running_loop()
        self._failure = loop.create_future()
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                try:
                    self._listeners.follow(tasks)
                    for run in list(self._runs.values()):
                        self._pump(run)
                    await self._failure
                finally:
                    self._tasks = None  # what ends from here on starts no dial
        finally:
            for run in self._runs.values():
                run.stop()
            for link in list(self._links):
                link.abort()
            await asyncio.sleep(0)  # asyncio closes aborted sockets in its next round

    # Orders.

    def configure(self, peers: Mapping[PeerId, PeerConfig], addresses: Sequence[Address], port: int) -> None:
        """The sessions to have, and where to listen. Idempotent: what is equal is left alone."""
        now = self._now()
        self._listeners.want(frozenset((address, port) for address in addresses))
        gone = [self._runs.pop(peer_id) for peer_id in list(self._runs) if peer_id not in peers]
        changed: list[_Run] = []
        for peer_id, config in peers.items():
            run = self._runs.get(peer_id)
            if run is None:
                restarted = self._restarted and now - self._started < config.restart_time
                session = Session(config, restarted=restarted, random=self._random, now=now)
                if (words := self._shutdowns.get(peer_id)) is not None:
                    session.shutdown(words, now)
                self._runs[peer_id] = run = _Run(session)
                changed.append(run)
            elif run.session.config != config:
                run.session.configure(config, now)
                changed.append(run)
        self._by_address = {}
        for run in self._runs.values():
            self._by_address.setdefault(run.session.config.address, []).append(run)
        for run in gone:
            run.session.remove(now)
            self._pump(run)
            run.stop()
            log.info("event=peer_removed peer=%s", run.session.config.id)
        loop = asyncio.get_running_loop()
        for place, run in enumerate(changed):
            if place < AT_ONCE:
                self._pump(run)
            else:  # a thousand dials in one turn of the loop would hold it for a fifth of a second
                loop.call_later(place // AT_ONCE * PACE, self._guarded, self._begin, run)
        if self._tasks is not None:
            self._listeners.follow(self._tasks)

    def shutdown(self, peer_id: PeerId, message: str) -> None:
        """Cease 6/2 with the operator's words, and down until ``enable``. ``KeyError`` for an unknown peer."""
        self._order(peer_id, lambda session, now: session.shutdown(message, now))
        self._shutdowns[peer_id] = message

    def enable(self, peer_id: PeerId) -> None:
        """Undoes ``shutdown``. ``KeyError`` for an unknown peer."""
        self._order(peer_id, lambda session, now: session.enable(now))
        self._shutdowns.pop(peer_id, None)

    def reset(self, peer_id: PeerId, message: str = "") -> None:
        """Cease 6/4 with the operator's words, and up again. ``KeyError`` for an unknown peer."""
        self._order(peer_id, lambda session, now: session.reset(message, now))

    def request_refresh(self, peer_id: PeerId) -> bool:
        """Asks for all routes again; False when there is no session or the peer cannot. ``KeyError``: unknown peer."""
        run = self._runs[peer_id]
        connection = run.session.established
        asked = connection is not None and connection.request_refresh()
        self._pump(run)
        return asked

    def check_limit(self, peer: Peer, family: Family, count: int) -> bool:
        """Whether a session may have so many prefixes, by the newest configuration; if not it ends (Cease 6/1)."""
        run = self._run_of(peer)
        limit = None if run is None else run.session.config.max_prefixes
        if run is None or limit is None or count <= limit:
            return True
        run.session.limit_exceeded(family, limit, self._now())
        self._pump(run)
        return False

    def send(self, peer: Peer, data: bytes) -> bool:
        """Whole messages for an established session. False: send no more until ``Handler.writable`` (the data was
        taken), or that session is over."""
        run = self._run_of(peer)
        connection = None if run is None else run.session.established
        if run is None or connection is None:
            return False
        link = run.links[connection]
        link.write(data)
        connection.sent(data, self._now())
        return not link.full

    # Questions.

    @property
    def listen_error(self) -> str | None:
        """Why we do not listen everywhere we should; tried again every second."""
        return self._listeners.error

    @property
    def port_taken(self) -> bool:
        """Whether ``listen_error`` is that another daemon has our port."""
        return self._listeners.taken

    @property
    def listening(self) -> bool:
        """Whether we listen everywhere we should."""
        return self._listeners.complete

    @property
    def shutdowns(self) -> Mapping[PeerId, str]:
        """Peers that the operator has shut down, each with the words."""
        return self._shutdowns

    def peer(self, peer_id: PeerId) -> Peer | None:
        """The established session of a peer."""
        run = self._runs.get(peer_id)
        return None if run is None else run.session.peer

    def count(self) -> tuple[int, int]:
        """(established, configured) peers: what is asked every second."""
        return sum(run.session.established is not None for run in self._runs.values()), len(self._runs)

    def statuses(self) -> list[PeerStatus]:
        """All configured peers. Prefix counts and the output queue are others' to fill in."""
        now = self._now()
        return [_status(run, now) for run in self._runs.values()]

    # What links tell.

    def link_made(self, link: Link) -> None:
        """TCP is connected."""
        if self._tasks is None:  # accepted while we stop
            self._links[link] = None
            link.abort()
            return
        run = self._links[link] if link.outgoing else self._match(link.remote_address)
        self._links[link] = run
        connection = None
        if run is not None and link.local_address:
            connect = run.session.dialled if link.outgoing else run.session.accepted
            connection = connect(link.local_address, self._now())
        if run is None or connection is None:
            if link.outgoing:
                link.abort()
            else:
                self._reject(link, run)
        else:
            link.connection = connection
            run.links[connection] = link
        if run is not None:
            self._pump(run)

    def link_received(self, link: Link, data: bytes) -> None:
        """Octets came."""
        run, connection = self._links[link], link.connection
        if run is not None and connection is not None:
            run.session.receive(connection, data, self._now())
            self._pump(run)

    def link_writable(self, link: Link) -> None:
        """Output drained."""
        run, connection = self._links[link], link.connection
        peer = None if connection is None else connection.peer
        if run is not None and peer is not None and run.session.peer is peer:
            self._handler.writable(peer)
            self._pump(run)

    def link_lost(self, link: Link, message: str) -> None:
        """TCP is gone."""
        run, connection = self._links.pop(link, None), link.connection
        if self._tasks is None:
            return
        if run is not None and connection is not None:
            run.session.lost(connection, message, self._now())
            run.links.pop(connection, None)
            self._pump(run)

    def failed(self, error: Exception) -> None:
        """A bug of ours: ``run`` raises it."""
        if self._failure is not None and not self._failure.done():
            self._failure.set_exception(error)

    # Inside.

    def _pump(self, run: _Run) -> None:
        """Does what a session wants after something happened to it. May be called from inside itself (a handler that
        ends the session it hears of): then the outer one goes on."""
        if self._tasks is None or run.pumping:
            return
        run.pumping = True
        session = run.session
        try:
            while True:
                self._flush(run)
                events = session.events()
                if not events:
                    break
                for event in events:
                    if isinstance(event, Routes):
                        self._handler.received(event.peer, event.events)
                    elif isinstance(event, Up):
                        run.since = time.time()
                        self._handler.established(event.peer)
                    elif isinstance(event, Refresh):
                        self._handler.refresh_requested(event.peer, event.family)
                    else:
                        run.since = time.time()
                        self._handler.down(event.peer, event.down)
        finally:
            run.pumping = False
        if session.work_due and run.work is None:
            run.work = asyncio.get_running_loop().call_soon(self._guarded, self._work, run)
        if session.take_dial(self._now()):
            self._tasks.create_task(self._dial(run), name=f"dial {session.config.id}")
        self._arm(run)

    def _flush(self, run: _Run) -> None:
        for connection, link in list(run.links.items()):
            data = connection.data_to_send()
            if data:
                link.write(data)
            closure = connection.closure
            if closure is None:
                link.pause(connection.work_due)
                continue
            del run.links[connection]
            if closure.notification is not None and closure.reason is not DownReason.NOTIFICATION_RX:
                link.finish()
            else:
                link.abort()

    def _work(self, run: _Run) -> None:
        run.work = None
        run.session.work(self._now())
        self._pump(run)

    def _arm(self, run: _Run) -> None:
        """A timer that fires early is cheaper than one moved at every message."""
        deadline = run.session.next_deadline()
        if deadline is None or (run.timer is not None and run.armed_at <= deadline):
            return
        if run.timer is not None:
            run.timer.cancel()
        run.armed_at = deadline
        run.timer = asyncio.get_running_loop().call_at(deadline, self._guarded, self._tick, run)

    def _tick(self, run: _Run) -> None:
        run.timer = None
        run.session.tick(self._now())
        self._pump(run)

    async def _dial(self, run: _Run) -> None:
        config = run.session.config
        loop = asyncio.get_running_loop()
        message, refused = "", False
        sock = None
        await self._listeners.ready.wait()
        try:
            sock = dialling_socket(config.address, config.local_address)
            async with asyncio.timeout(DIAL_TIME):
                await loop.sock_connect(sock, (address_text(config.address), config.port))
            link = Link(self, outgoing=True)
            self._links[link] = run
            await loop.create_connection(lambda: link, sock=sock)
            sock = None
        except TimeoutError:
            message = "timed out"
        except OSError as error:
            message = os.strerror(error.errno) if error.errno else str(error)
            refused = error.errno in _UNREACHABLE
        finally:
            if sock is not None:
                sock.close()
        if message:
            run.session.dial_failed(
                f"{address_text(config.address)} port {config.port}: {message}", self._now()
            )
        self._handler.attempted(config.id, refused)
        self._pump(run)

    def _match(self, address: Address) -> _Run | None:
        """Whose connection it is that comes from an address. Of several peers of one address the one that takes
        connections, lacks a session, and waits for it."""
        return min(
            self._by_address.get(address, ()),
            key=lambda run: (
                run.session.refusal() is not None,
                run.session.established is not None,
                not run.session.config.passive,
            ),
            default=None,
        )

    def _reject(self, link: Link, run: _Run | None) -> None:
        refusal = None if run is None else run.session.refusal()
        self._rejected += 1
        now = self._now()
        if now - self._reject_logged >= REJECT_LOG:
            remote = link.remote_address
            log.warning(
                "event=connection_rejected address=%s count=%d cause=%r",
                address_text(remote) if remote else "?",
                self._rejected,
                "no peer has this address" if run is None else str(refusal or "it has a session"),
            )
            self._rejected, self._reject_logged = 0, now
        link.write(encode_notification(refusal or Notification(6, Cease.REJECTED)))
        link.finish()

    def _begin(self, run: _Run) -> None:
        if self._runs.get(run.session.config.id) is run:
            self._pump(run)

    def _order(self, peer_id: PeerId, order: Callable[[Session, float], None]) -> None:
        run = self._runs[peer_id]
        order(run.session, self._now())
        self._pump(run)

    def _run_of(self, peer: Peer) -> _Run | None:
        run = self._runs.get(peer.id)
        return run if run is not None and run.session.peer is peer else None

    def _guarded(self, call: Callable[..., Any], *args: Any) -> None:
        try:
            call(*args)
        except Exception as error:
            self.failed(error)

    @staticmethod
    def _now() -> float:
        return time.monotonic()  # the clock of asyncio's loops


def _status(run: _Run, now: float) -> PeerStatus:
    session, config = run.session, run.session.config
    peer = session.peer
    connection = session.established or next(iter(session.connections), None)
    received = None if connection is None else connection.received_open
    counters = session.counters
    return PeerStatus(
        id=config.id,
        kind=config.kind.value,
        source=config.source,
        address=address_text(config.address),
        port=config.port,
        asn=config.asn,
        local_asn=config.local_asn,
        state=session.state,
        admin_up=session.admin_up,
        passive=config.passive,
        since=run.since,
        families=tuple(f.label for f in sorted(peer.families if peer is not None else config.families)),
        local_address=address_text(peer.local_address) if peer is not None else "",
        router_id=address_text(peer.router_id) if peer is not None else "",
        hold_time=peer.hold_time if peer is not None else config.hold_time,
        keepalive_time=peer.keepalive_time if peer is not None else config.hold_time / 3,
        capabilities_sent=() if connection is None else connection.sent_open.capabilities.words(),
        capabilities_received=() if received is None else received.capabilities.words(),
        graceful_restart_active=session.state is not SessionState.ESTABLISHED and now < session.stale_until,
        max_prefixes=config.max_prefixes,
        last_error=session.last_error,
        flaps=dict(session.flaps),
        messages_received=dict(counters.received),
        messages_sent=dict(counters.sent),
        notifications=dict(counters.notifications),
        update_errors=counters.update_errors,
    )
