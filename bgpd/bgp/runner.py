"""One session of the speaker in the event loop: its links, its timer, its dials.

A ``Session`` says what it wants, a ``Runner`` does it: it carries octets between links and connections, reports to the
handler what happened, arms one timer, dials. ``speaker`` has one for each peer, hands it what the links report, and
lends it what belongs to all of them (``World``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from bgpd.bgp.connection import Connection, Refresh, Resumed, Routes, Up
from bgpd.bgp.frozen import FrozenRib, FrozenSession, Unfit
from bgpd.bgp.handler import Handler
from bgpd.bgp.handover import Inherited, Taken, not_taken
from bgpd.bgp.protection import Net
from bgpd.bgp.session import Session
from bgpd.bgp.transport import Dial, DialFailed, Link
from bgpd.model.peer import DialAnswer, DownReason, Peer
from bgpd.model.prefix import Family
from bgpd.model.status import SessionState


class World(Protocol):
    """What all runners share."""

    handler: Handler
    tasks: asyncio.TaskGroup | None
    """``None`` while nothing moves: before the start and after the end."""
    throttled: bool
    """While set, no established session is read."""

    async def may_dial(self) -> None:
        """Returns when peers may be dialled."""

    def dialling(self, runner: Runner, epoch: int) -> Link:
        """A link for a connection of our own making, of a session's present ``epoch``."""

    def neighbour_gone(self, runner: Runner) -> None:
        """A dynamic neighbour is gone for good."""

    def guarded(self, call: Callable[[], None]) -> None:
        """Calls what the loop calls: a bug must end the speaker."""


def now() -> float:
    """The clock of asyncio's loops, and of all sessions."""
    return time.monotonic()


class Runner:
    """Drives one session. Everything is called in the event loop's thread."""

    def __init__(self, world: World, session: Session, listen_range: Net | None) -> None:
        self.session = session
        self.range = listen_range
        """The listen range that a dynamic neighbour came from."""
        self.taken: Taken | None = None
        """A session of another process that is to go on."""
        self.links: dict[Connection, Link] = {}
        self.since = time.time()
        """When the session last entered or left Established."""
        self._world = world
        self._dial: Dial | None = None
        self._dial_epoch = 0
        self._timer: asyncio.TimerHandle | None = None
        self._armed_at = 0.0
        self._work: asyncio.Handle | None = None
        self._pumping = False
        self._taking = False

    def stop(self) -> None:
        """Nothing happens by itself any more."""
        for handle in (self._timer, self._work):
            if handle is not None:
                handle.cancel()
        self._timer = self._work = None

    # To another process, and from it.

    def take_over(self, inherited: Inherited, at: float) -> bool:
        """Whether the peer's session of another process is to go on."""
        peer_id = self.session.config.id
        if refusal := self.session.refusal():
            inherited.refuse(peer_id, str(refusal))
        self.taken = inherited.take(peer_id, at)
        return self.taken is not None

    def prepare_to_freeze(self) -> tuple[Peer, frozenset[Family]] | None:
        """The established session, with the families whose End-of-RIB has come; its peer is sent a KEEPALIVE."""
        connection = self.session.established
        if connection is None or connection.peer is None:
            return None
        connection.send_keepalive(now())
        self.pump()
        return connection.peer, connection.ended

    def freeze(self, salt: bytes, ribs: Mapping[Family, FrozenRib]) -> tuple[FrozenSession, int] | None:
        """The established session for another process, and its socket's descriptor; ``None`` without one."""
        connection = self.session.established
        link = None if connection is None else self.links.get(connection)
        if link is None:
            return None
        try:
            ends = link.ends
        except OSError:
            return None  # it dies just now
        frozen = self.session.freeze(ends, salt, self.since, link.unsent_data, ribs, now())
        return None if frozen is None else (frozen, link.socket.fileno())

    # What links report.

    def link_dialled(self, link: Link) -> None:
        """A connection of our own making is there."""
        session, connection = self.session, None
        if self.taken is not None:
            connection = self._thawed(self.taken, link)
        elif link.epoch != session.epoch:
            session.dial_outdated(now())
        elif local := link.local_address:
            connection = session.dialled(local, now())
        else:
            session.dial_failed("lost as soon as it was there", now())
        if connection is None:
            link.abort()
        else:
            self.carry(connection, link)
        self.pump()

    def _thawed(self, taken: Taken, link: Link) -> Connection | None:
        """The socket of another process's session is ours: it goes on, or falls back to graceful restart."""
        self.taken, session = None, self.session
        try:
            if link.epoch != session.epoch:
                raise Unfit("configured otherwise meanwhile")
            connection = session.thaw(taken.frozen, taken.salt, link.local_address, now())
        except Unfit as error:
            not_taken(session.config.id, str(error))
            session.dial_outdated(now())
            return None
        self.since = taken.frozen.since
        return connection

    def carry(self, connection: Connection, link: Link) -> None:
        """From now on a link is a connection's."""
        link.connection = connection
        self.links[connection] = link

    def octets_received(self, connection: Connection, data: bytes) -> None:
        """Octets came."""
        self.session.receive(connection, data, now())
        self.pump()

    def output_drained(self, connection: Connection) -> None:
        """Output drained."""
        peer = connection.peer
        if peer is not None and self.session.peer is peer:
            self._world.handler.session_writable(peer)
            self.pump()

    def lose(self, connection: Connection, message: str) -> None:
        """TCP is gone."""
        self.session.tcp_lost(connection, message, now())
        self.links.pop(connection, None)
        self.pump()

    # The work.

    def pump(self) -> None:
        """Does what the session wants after something happened to it. May be called from inside itself (a handler that
        ends the session it hears of): then the outer one goes on."""
        tasks = self._world.tasks
        if tasks is None or self._pumping:
            return
        self._pumping = True
        session, handler = self.session, self._world.handler
        try:
            while True:
                self._flush()
                events = session.events()
                if not events:
                    break
                for event in events:
                    if isinstance(event, Routes):
                        handler.routes_received(event.peer, event.events)
                    elif isinstance(event, Up):
                        self.since = time.time()
                        handler.session_established(event.peer)
                    elif isinstance(event, Resumed):
                        handler.session_resumed(event.peer)
                    elif isinstance(event, Refresh):
                        handler.refresh_requested(event.peer, event.family)
                    else:
                        self.since = time.time()
                        handler.session_ended(event.peer, event.down)
        finally:
            self._pumping = False
        if session.expired(now()):
            self._world.neighbour_gone(self)
            return
        if session.work_due and self._work is None and not self._world.throttled:
            self._work = asyncio.get_running_loop().call_soon(self._world.guarded, self._go_on)
        if self._dial is not None and self._dial_epoch != session.epoch:
            self._dial.give_up()
        if self.taken is not None and not self._taking:
            self._taking = True
            session.take_thaw()
            tasks.create_task(self._take(self.taken), name=f"take {session.config.id}")
        elif session.take_dial(now()):
            tasks.create_task(self._connect(), name=f"dial {session.config.id}")
        self._arm()

    def _flush(self) -> None:
        for connection, link in list(self.links.items()):
            data = connection.data_to_send()
            if data:
                link.write(data)
            closure = connection.closure
            if closure is None:
                established = connection.state is SessionState.ESTABLISHED
                link.pause(connection.work_due or (established and self._world.throttled))
                continue
            del self.links[connection]
            if closure.notification is not None and closure.reason is not DownReason.NOTIFICATION_RX:
                link.finish()
            else:
                link.abort()

    def _go_on(self) -> None:
        self._work = None
        self.session.work(now())
        self.pump()

    def _arm(self) -> None:
        """A timer that fires early is cheaper than one moved at every message."""
        deadline = self.session.next_deadline()
        if deadline is None or (self._timer is not None and self._armed_at <= deadline):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._armed_at = deadline
        self._timer = asyncio.get_running_loop().call_at(deadline, self._world.guarded, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.session.tick(now(), self._unread)
        self.pump()

    def _unread(self, connection: Connection) -> bool:
        link = self.links.get(connection)
        return link is not None and link.unread

    async def _take(self, taken: Taken) -> None:
        """Makes a link of a socket that is connected already."""
        link = self._world.dialling(self, self.session.epoch)
        try:
            await asyncio.get_running_loop().create_connection(lambda: link, sock=taken.socket)
        except OSError as error:
            self.taken = None
            not_taken(self.session.config.id, f"its socket died: {error.strerror or error}")
            self.session.dial_outdated(now())
        self.pump()

    async def _connect(self) -> None:
        await self._world.may_dial()
        session = self.session
        self._dial_epoch = session.epoch
        self._dial = Dial(session.config)
        answer = DialAnswer.CONNECTED
        try:
            sock = await self._dial.connect()
            link = self._world.dialling(self, self._dial_epoch)
            await asyncio.get_running_loop().create_connection(lambda: link, sock=sock)
        except (DialFailed, OSError) as error:
            answer = error.answer if isinstance(error, DialFailed) else DialAnswer.NONE
            if self._dial_epoch == session.epoch:
                session.dial_failed(str(error), now())
            else:
                session.dial_outdated(now())
        finally:
            self._dial = None
        self._world.handler.dial_ended(session.config.id, answer)
        self.pump()
