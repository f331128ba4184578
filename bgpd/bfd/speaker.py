"""All BFD sessions of this node, and the thread in which they live.

``daemon`` makes one speaker, hands it which sessions are wanted (``rules.liveness``) and hears of those that came up or
left Up. Its timers are the shortest of all. So it does not live in the event loop, which a large table may hold for
tens of milliseconds: the thread waits for sockets and timers by itself, and needs the interpreter lock for some 50 µs a
packet. What may delay it is the lock, in one long call of another thread, and the machine; ``report`` has the worst of
it (docs/bfd.md: which intervals can be held).

One lock guards all: the thread holds it while it works, the event loop while it asks or orders. A port is opened when
a session needs it: bgpd without BFD leaves BFD to others. What waits unread in the sockets is read before a session is
found dead: a thread that was held up does not take its own delay for the peer's.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import heapq
import itertools
import os
import secrets
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from random import Random

from bgpd.bfd.packet import Discard, Packet, Refused, decode, encode
from bgpd.bfd.session import Change, Session
from bgpd.bfd.sockets import Datagram, Ear, listening_socket, receive, sending_socket
from bgpd.model.bfd import (
    BfdChange,
    BfdPlace,
    BfdReport,
    BfdState,
    BfdStatus,
    BfdWanted,
    FrozenBfd,
    diagnostic_words,
)
from bgpd.model.prefix import address_text, family_of, parse_address

READ_AT_ONCE = 512
"""Datagrams of one socket between two looks at the timers."""
LISTEN_AGAIN_SECONDS = 1.0
"""Seconds until a port that is another's is tried again."""
DELAY_WINDOW_SECONDS = 30.0
"""Seconds; the worst delay is that of this window and the one before."""
NICE = -20
SOCKET_LASTS_SECONDS = 10.0
"""Seconds for which a peer that says nothing is sent packets from the same socket."""
_PASSING = frozenset((errno.EPERM, errno.ENOBUFS, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN))
"""A filter, a full queue, a route that is missing: the socket is as good as another."""
COPIES = 2
"""How often a packet is sent that ends what we say to a peer: there is no time to say it again later."""


class Speaker:
    """The sessions. ``changed`` is called in the event loop's thread, for each session that came up or left Up."""

    def __init__(self, changed: Callable[[BfdChange], None], random: Random | None = None) -> None:
        self._changed = changed
        self._random = random or Random()  # jitter and ports, not secrets
        self._lock = threading.Lock()
        self._sessions: dict[BfdPlace, _Entry] = {}
        self._by_discriminator: dict[int, _Entry] = {}
        self._leaving: set[_Entry] = set()
        """Taken down; their peers are being informed."""
        self._ears: dict[Ear, socket.socket | OSError] = {}
        self._listen_at: float | None = None
        self._timers: list[tuple[float, int, _Entry]] = []
        self._order = itertools.count()
        self._selector = selectors.DefaultSelector()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._discarded: Counter[str] = Counter()
        self._delays = [0.0, 0.0]
        """The worst of the window before and of this one."""
        self._window_ends = 0.0
        self._stopping = False
        self._inherited: list[FrozenBfd] = []
        self._held = False
        """Nothing is heard or sent: the next process goes on with the sessions, or is asked to."""
        self._wanted = asyncio.Event()
        self._report: Callable[[BfdChange], None] = lambda change: None

    # The event loop's side.

    async def run(self) -> None:
        """Until cancelled; a bug, of the thread too, raises here. Peers are informed that it is we who stop."""
        loop = asyncio.get_running_loop()
        failure: asyncio.Future[None] = loop.create_future()

        def fail(error: BaseException) -> None:
            if not failure.done():
                failure.set_exception(error)

        def deliver(change: BfdChange) -> None:
            try:
                self._changed(change)
            except Exception as error:  # asyncio would only log it
                fail(error)

        def live() -> None:
            try:
                self._live()
            except BaseException as error:
                with contextlib.suppress(RuntimeError):  # the loop may be closed
                    loop.call_soon_threadsafe(fail, error)

        self._report = lambda change: _call(loop, deliver, change)
        thread = threading.Thread(target=live, name="bfd", daemon=True)
        try:
            await self._wanted.wait()
            thread.start()
            await failure
        finally:
            self._stopping = True
            self._ring()
            if thread.ident is not None:
                thread.join()
            self.close()

    def configure(self, wanted: Mapping[BfdPlace, BfdWanted]) -> None:
        """The sessions to have. Idempotent: what is equal is left alone."""
        with self._lock:
            now = time.monotonic()
            thawed, self._inherited = self._inherited, []
            for frozen in thawed:
                self._thaw(frozen, now)
            for place in [place for place in self._sessions if place not in wanted]:
                entry = self._sessions.pop(place)
                entry.session.take_down(now)
                self._leaving.add(entry)
                self._settle(entry, now)
            for place, want in wanted.items():
                found = self._sessions.get(place)
                if found is not None and found.fits(want):
                    found.wanted = want
                    found.session.configure(want.timing, now)
                    self._settle(found, now)
                    continue
                for old in [found, *(each for each in self._leaving if each.place == place)]:
                    if old is not None:  # the peer hears of the new one next: two at a time would confuse it
                        old.session.take_down(now)
                        self._settle(old, now)
                        self._drop(old)
                self._add(place, want, now)
            self._listen(now)
        if wanted or thawed:
            self._wanted.set()
        self._ring()

    # From one process to the next.

    def freeze(self, seconds: float) -> list[FrozenBfd]:
        """The sessions that are up. Their peers are asked to wait so long; from now on nothing is heard or sent, and
        the ports are free, until ``go_on``."""
        with self._lock:
            self._held = True
            found = []
            for entry in self._sessions.values():
                frozen = entry.freeze()
                if frozen is not None:
                    found.append(frozen)
                    for _ in range(COPIES):
                        entry.send(entry.session.patience(seconds), self._random)
            for ear in list(self._ears):
                self._deafen(ear)
            return found

    def go_on(self) -> None:
        """Nobody took what was frozen."""
        with self._lock:
            self._held = False
            now = time.monotonic()
            for entry in self._sessions.values():
                entry.session.remind()
                self._settle(entry, now)
            self._listen(now)
        self._ring()

    def inherit(self, sessions: Iterable[Mapping[str, object]]) -> None:
        """What another process has frozen, as ``FrozenBfd._asdict``; ``configure`` says what becomes of it. One that
        cannot be read begins anew."""
        self._inherited = [frozen for each in sessions if (frozen := _read(each)) is not None]

    def report(self) -> BfdReport:
        """All sessions, and how the thread fares."""
        with self._lock:
            return BfdReport(
                sessions=tuple(entry.status() for entry in self._sessions.values()),
                discarded=dict(self._discarded),
                worst_delay=max(self._delays),
                listen_errors=tuple(
                    f"{ear}: {error.strerror or error}"
                    for ear, error in self._ears.items()
                    if isinstance(error, OSError)
                ),
            )

    # The thread's side.

    def _live(self) -> None:
        with contextlib.suppress(OSError):  # not root: the machine's share must do
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        while not self._stopping:
            with self._lock:
                timeout = self._work()
            self._selector.select(timeout)
        with self._lock:
            if not self._held:
                self._farewell()

    def _work(self) -> float | None:
        """All that is due; returns after how many seconds something will be."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        if self._held:
            return None
        for ear, sock in list(self._ears.items()):
            if not isinstance(sock, OSError):
                self._hear(ear, sock)
        now = time.monotonic()
        if self._listen_at is not None and now >= self._listen_at:
            self._listen(now)
        while self._timers and self._timers[0][0] <= now:
            deadline, _, entry = heapq.heappop(self._timers)
            if entry.armed_at != deadline or entry.dropped:
                continue  # it was configured anew, or is gone
            entry.armed_at = None
            due = entry.session.next_deadline()
            if due is not None and due <= now:
                self._measure(now - due, now)
                entry.session.tick(now)
            self._settle(entry, now)
        times = [
            at for at in (self._listen_at, self._timers[0][0] if self._timers else None) if at is not None
        ]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _hear(self, ear: Ear, sock: socket.socket) -> None:
        for _ in range(READ_AT_ONCE):
            try:
                datagram = receive(sock)
            except OSError:  # an error of the queue, of a packet sent long ago: it says nothing of what comes
                continue
            if datagram is None:
                return
            try:
                self._take(ear, datagram)
            except Refused as refused:
                self._discarded[refused.reason.value] += 1

    def _take(self, ear: Ear, datagram: Datagram) -> None:
        by_address = self._sessions.get(datagram.place)
        if by_address is not None:
            self._admit(ear, datagram, by_address)
        packet = decode(datagram.data)
        if packet.your_discriminator:
            entry = self._by_discriminator.get(packet.your_discriminator)
            if entry is None or entry.place != datagram.place:
                raise Refused(Discard.UNKNOWN)
            if entry is not by_address:
                self._admit(ear, datagram, entry)
        elif by_address is None:
            raise Refused(Discard.UNKNOWN)
        else:
            entry = by_address
        now = time.monotonic()
        try:
            entry.session.receive(packet, now)
        finally:
            entry.refused = ""
            self._settle(entry, now)

    def _admit(self, ear: Ear, datagram: Datagram, entry: _Entry) -> None:
        """The checks that come before a packet's own (RFC 5881 §5)."""
        if ear.multihop != entry.wanted.multihop:
            kinds = ("single-hop", "multihop")
            entry.refused = (
                f"the peer sends {kinds[ear.multihop]} packets (UDP port {ear.port}), this session is "
                f"{kinds[entry.wanted.multihop]}"
            )
            raise Refused(Discard.OTHER_PORT)
        if datagram.ttl < entry.wanted.min_ttl:
            entry.refused = f"a packet came with TTL {datagram.ttl}, less than {entry.wanted.min_ttl}"
            raise Refused(Discard.TTL)

    def _settle(self, entry: _Entry, now: float) -> None:
        """Carries out what a session wants."""
        session = entry.session
        for packet in session.packets_to_send():
            entry.send(packet, self._random)
        for change in session.changes():
            entry.since = time.time()
            self._report(entry.reported(change))
        if session.over(now) or (entry in self._leaving and not session.remote_discr):
            self._drop(entry)
            return
        deadline = session.next_deadline()
        if deadline is not None and (entry.armed_at is None or deadline < entry.armed_at):
            entry.armed_at = deadline
            heapq.heappush(self._timers, (deadline, next(self._order), entry))

    def _measure(self, delay: float, now: float) -> None:
        if now >= self._window_ends:
            fresh = now < self._window_ends + DELAY_WINDOW_SECONDS
            self._delays = [self._delays[1] if fresh else 0.0, 0.0]
            self._window_ends = now + DELAY_WINDOW_SECONDS
        self._delays[1] = max(self._delays[1], delay)

    # Inside; under the lock.

    def _add(self, place: BfdPlace, wanted: BfdWanted, now: float) -> None:
        discriminator = 0
        while not discriminator or discriminator in self._by_discriminator:
            discriminator = secrets.randbits(32)
        session = Session(wanted.timing, discriminator, self._random, now)
        entry = self._sessions[place] = self._by_discriminator[discriminator] = _Entry(place, wanted, session)
        self._settle(entry, now)

    def _thaw(self, frozen: FrozenBfd, now: float) -> None:
        session = Session.thaw(frozen, self._random, now)
        place = BfdPlace(parse_address(frozen.address), frozen.interface or None)
        if place in self._sessions or session.local_discr in self._by_discriminator:
            return
        local = parse_address(frozen.local_address) if frozen.local_address else None
        wanted = BfdWanted(session.timing, frozen.multihop, local, frozen.min_ttl, ())
        entry = _Entry(place, wanted, session)
        entry.since = frozen.since
        self._sessions[place] = self._by_discriminator[session.local_discr] = entry
        self._settle(entry, now)

    def _drop(self, entry: _Entry) -> None:
        self._leaving.discard(entry)
        self._by_discriminator.pop(entry.session.local_discr, None)
        if self._sessions.get(entry.place) is entry:
            del self._sessions[entry.place]
        entry.dropped = True
        entry.close()
        self._listen_at = 0.0  # a port may be of no more use

    def _listen(self, now: float) -> None:
        """Opens the ports that are needed and not open, closes those that are not."""
        needed = {
            Ear(family_of(entry.place.address), entry.wanted.multihop)
            for entry in (*self._sessions.values(), *self._leaving)
        }
        for ear in self._ears.keys() - needed:
            self._deafen(ear)
        for ear in needed:
            if isinstance(self._ears.get(ear), socket.socket):
                continue
            try:
                sock = listening_socket(ear)
            except OSError as error:
                self._ears[ear] = error
            else:
                self._ears[ear] = sock
                self._selector.register(sock, selectors.EVENT_READ)
        failed = any(isinstance(sock, OSError) for sock in self._ears.values())
        self._listen_at = now + LISTEN_AGAIN_SECONDS if failed else None

    def _deafen(self, ear: Ear) -> None:
        sock = self._ears.pop(ear)
        if isinstance(sock, socket.socket):
            self._selector.unregister(sock)
            sock.close()

    def _farewell(self) -> None:
        now = time.monotonic()
        for entry in (*self._sessions.values(), *self._leaving):
            entry.session.take_down(now)
            for packet in entry.session.packets_to_send():
                for _ in range(COPIES):
                    entry.send(packet, self._random)

    def close(self) -> None:
        """Ends what is open; the thread has ended, or never began."""
        for entry in (*self._sessions.values(), *self._leaving):
            entry.close()
        self._sessions.clear()
        for ear in list(self._ears):
            self._deafen(ear)
        self._selector.close()
        os.close(self._bell)

    def _ring(self) -> None:
        with contextlib.suppress(OSError):  # closed, or rung already
            os.eventfd_write(self._bell, 1)


def _call(loop: asyncio.AbstractEventLoop, call: Callable[[BfdChange], None], change: BfdChange) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to hear it
        loop.call_soon_threadsafe(call, change)


def _read(given: Mapping[str, object]) -> FrozenBfd | None:
    """Whether it is one, with values of its kinds: of a discriminator, an interval or an address nothing else goes."""
    try:
        found, kinds = FrozenBfd(**given), FrozenBfd()  # type: ignore[arg-type]
        if any(type(value) is not type(kind) for value, kind in zip(found, kinds, strict=True)):
            return None
        parse_address(found.address)
        parse_address(found.local_address or found.address)
        numbers = [value for value in found if type(value) is int]
        intervals = (found.min_tx, found.min_rx, found.multiplier, found.tx_in_use, found.rx_in_use)
        sound = max(numbers) < 1 << 32 and min(numbers) >= 0 and min(intervals) > 0
        sound = sound and max(found.multiplier, found.remote_multiplier) <= 255
    except (TypeError, ValueError):
        return None
    return found if sound and found.local_discriminator and found.remote_discriminator else None


class _Entry:
    """A session, the socket it sends from, and whom it concerns."""

    def __init__(self, place: BfdPlace, wanted: BfdWanted, session: Session) -> None:
        self.place = place
        self.wanted = wanted
        self.session = session
        self.since = time.time()
        self.refused = ""
        """Why the newest packet of this peer was discarded; empty when it was not."""
        self.unsent = ""
        """Why nothing can be sent."""
        self.armed_at: float | None = None
        self.dropped = False
        self._socket: socket.socket | None = None
        self._opened = 0.0

    def fits(self, wanted: BfdWanted) -> bool:
        """Whether the session can take on what is wanted now."""
        was = self.wanted
        return (was.multihop, was.local_address) == (wanted.multihop, wanted.local_address)

    def freeze(self) -> FrozenBfd | None:
        """The session, with its ends."""
        frozen, local = self.session.freeze(), self.wanted.local_address
        if frozen is None:
            return None
        return frozen._replace(
            address=address_text(self.place.address),
            interface=self.place.interface or "",
            local_address="" if local is None else address_text(local),
            multihop=self.wanted.multihop,
            min_ttl=self.wanted.min_ttl,
            since=self.since,
        )

    def close(self) -> None:
        """The next packet goes from a new socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def send(self, packet: Packet, random: Random) -> None:
        """A packet that cannot be sent is lost, as any other may be. Nobody there: the kernel may by now choose another
        address of ours."""
        if not self.session.remote_discr and time.monotonic() >= self._opened + SOCKET_LASTS_SECONDS:
            self.close()
        data = encode(packet)
        try:
            if self._socket is None:
                self._opened = time.monotonic()
                self._socket = sending_socket(
                    self.place,
                    multihop=self.wanted.multihop,
                    local_address=self.wanted.local_address,
                    random=random,
                )
            try:
                self._socket.send(data)
                self.unsent = ""
            except ConnectionRefusedError:  # of the packet before; this one was not sent
                self.unsent = "the peer's host says that nobody listens for BFD there"
                self._socket.send(data)
        except (BlockingIOError, ConnectionRefusedError):
            pass
        except OSError as error:
            self.unsent = error.strerror or str(error)
            if error.errno not in _PASSING:
                self.close()

    def reported(self, change: Change) -> BfdChange:
        session = self.session
        reason = "" if change.up else change.diagnostic.words
        if session.remote_diag and not change.up and session.remote_state is not BfdState.UP:
            reason += f" (its diagnostic: {diagnostic_words(session.remote_diag)})"
        return BfdChange(
            place=self.place,
            peers=self.wanted.peers,
            up=change.up,
            failed=not change.up and not change.ordered,
            reason=reason,
            control_plane_independent=session.remote_independent,
        )

    def status(self) -> BfdStatus:
        session, micro = self.session, 1e-6
        local = self.wanted.local_address
        return BfdStatus(
            peers=self.wanted.peers,
            address=address_text(self.place.address),
            interface=self.place.interface or "",
            local_address=self._own_address() if local is None else address_text(local),
            multihop=self.wanted.multihop,
            state=session.state,
            remote_state=session.remote_state,
            since=self.since,
            diagnostic=session.local_diag.words if session.local_diag else "",
            remote_diagnostic=diagnostic_words(session.remote_diag) if session.remote_diag else "",
            local_discriminator=session.local_discr,
            remote_discriminator=session.remote_discr,
            transmit_interval=session.transmit_interval * micro,
            receive_interval=session.timing.min_rx * micro,
            detection_time=session.detection_time * micro,
            multiplier=session.timing.multiplier,
            remote_multiplier=session.remote_multiplier,
            remote_min_tx=session.remote_min_tx * micro,
            remote_min_rx=session.remote_min_rx * micro,
            remote_demand=session.remote_demand,
            control_plane_independent=session.remote_independent,
            polling=session.polling,
            last_error=self.unsent or self.refused,
            packets_sent=session.sent,
            packets_received=session.received,
            ups=session.ups,
            downs={diagnostic.words: count for diagnostic, count in session.downs.items()},
        )

    def _own_address(self) -> str:
        """As the kernel has chosen it; empty while nothing could be sent."""
        if self._socket is None:
            return ""
        with contextlib.suppress(OSError):
            return str(self._socket.getsockname()[0]).partition("%")[0]
        return ""
