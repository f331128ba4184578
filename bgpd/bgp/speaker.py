"""The door to the peers: which sessions there are, who may connect, where we listen, what the operator wants of them.

``daemon`` runs one speaker, configures it with what ``rules.peering`` wants, and hands it a handler. All happens in
the event loop's thread: a callback for each wake-up, no task a session, one timer a session (``runner``). What a peer
sends faster than we take it waits in the kernel (TCP's back-pressure, of that session only).

Dynamic neighbours: a connection from inside a listen range makes a session, passive, from the range's template. It is
gone when it has ended and the peer's time to come back is over (RFC 4724), or when the range is.

When the task of ``run`` is cancelled, TCP connections close without NOTIFICATION: the peers keep our routes (RFC 4724).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any, NamedTuple

from bgpd.bgp.admission import Admission, Neighbour
from bgpd.bgp.frozen import FrozenRib, FrozenSession
from bgpd.bgp.handler import Handler
from bgpd.bgp.handover import Inherited, place_of
from bgpd.bgp.listeners import Listeners
from bgpd.bgp.protection import Net, admit
from bgpd.bgp.report import status
from bgpd.bgp.runner import Runner, now
from bgpd.bgp.session import Session
from bgpd.bgp.transport import Link
from bgpd.bgp.wire.exa.messages import Cease, Notification, encode_notification
from bgpd.events import event
from bgpd.model.peer import DynamicRange, Peer, PeerConfig, PeerId
from bgpd.model.prefix import (
    Address,
    Family,
    address_text,
    is_link_local,
    parse_address,
    parse_prefix,
    prefix_text,
)
from bgpd.model.status import PeerStatus

log = logging.getLogger(__name__)

AT_ONCE, PACE = 50, 0.01
"""Sessions that begin in one turn of the event loop, and seconds until the next so many do."""
TURN_SECONDS = 0.005
"""Seconds of taking what peers sent in one turn of the event loop."""
REJECT_LOG = 10.0
"""Seconds between two lines about connections that nobody wanted."""


class Frozen(NamedTuple):
    """What ``Speaker.freeze`` found."""

    sessions: list[FrozenSession]
    sockets: list[int]
    """Descriptors, of sessions and of listening sockets."""
    keys: dict[str, list[str]]
    """``handover.Document.keys``."""


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
        """``restarted``: the first session with each peer says that we have restarted (RFC 4724 §4.1); it
        must be known before ``configure``.

        ``shutdowns``: peers that the operator had shut down before, each with the words; they stay so.
        """
        self.handler = handler
        self.restarted = restarted
        self._shutdowns = dict(shutdowns or {})
        self._started = now()
        self._random = random or Random()  # jitter, not secrets
        self._runners: dict[PeerId, Runner] = {}
        self._admission = Admission()
        self._links: dict[Link, Runner | None] = {}
        self.tasks: asyncio.TaskGroup | None = None
        self.throttled = False
        self._failure: asyncio.Future[None] | None = None
        self._inherited: Inherited | None = None
        self._listeners = Listeners(lambda: Link(self, outgoing=False), handler.listening_changed)
        self._rejected, self._reject_logged = 0, 0.0
        self._behind: deque[tuple[Link, bytes]] = deque()
        """Octets that came after a turn of the event loop had had its share of them."""
        self._turn_ends: float | None = None

    async def run(self) -> None:
        """Until cancelled. A bug of ours raises here."""
        loop = asyncio.get_running_loop()
        self._failure = loop.create_future()
        try:
            async with asyncio.TaskGroup() as tasks:
                self.tasks = tasks
                try:
                    self._listeners.follow(tasks)
                    for runner in list(self._runners.values()):
                        runner.pump()
                    await self._failure
                finally:
                    self.tasks = None  # what ends from here on starts no dial
        finally:
            for runner in self._runners.values():
                runner.stop()
            for link in list(self._links):
                link.abort()
            if self._inherited is not None:
                self._inherited.close()
            await asyncio.sleep(0)  # asyncio closes aborted sockets in its next round

    # Orders.

    def configure(
        self,
        peers: Mapping[PeerId, PeerConfig],
        addresses: Sequence[Address],
        port: int,
        dynamic: Sequence[DynamicRange] = (),
    ) -> frozenset[PeerId]:
        """The sessions to have, and where to listen; ``dynamic``: where neighbours may come from that nobody named.

        Idempotent: what is equal is left alone. A peer that goes and one that comes in the same call, at the same
        address, interface and port, are one neighbour under another name: its history and a shutdown of the operator's
        go on. Returns the dynamic neighbours that are no longer wanted.
        """
        at = now()
        inherited, self._inherited = self._inherited, None
        self._admission.want_peers(peers.values(), dynamic)
        self._listeners.want_places(frozenset((address, port) for address in addresses), self._admission.keys)
        if inherited is not None:
            for frozen, address in inherited.neighbours():
                self._meet_again(frozen, address)
        neighbours = self._neighbours()
        wanted = {**peers, **{peer_id: neighbour.config for peer_id, neighbour in neighbours.items()}}
        gone = [self._runners.pop(peer_id) for peer_id in list(self._runners) if peer_id not in wanted]
        changed: list[Runner] = []
        came: dict[tuple[object, ...], Runner] = {}
        for peer_id, config in wanted.items():
            runner = self._runners.get(peer_id)
            if runner is None:
                runner = came[_endpoint(config)] = self._add(config)
                changed.append(runner)
                continue
            if peer_id in neighbours:
                runner.range = neighbours[peer_id].range
            if runner.session.config != config:
                runner.session.configure(config, at)
                changed.append(runner)
        for runner in gone:
            runner.session.remove(at)
            runner.pump()
            self._removed(runner)
            if (successor := came.get(_endpoint(runner.session.config))) is not None:
                self._renamed(runner, successor)
        if inherited is not None:
            taken = [runner for runner in self._runners.values() if self._take_over(runner, inherited, at)]
            changed = [*taken, *(runner for runner in changed if runner.taken is None)]
            inherited.dismiss()
        loop = asyncio.get_running_loop()
        for place, runner in enumerate(changed):
            if place < AT_ONCE or runner.taken is not None:  # a KEEPALIVE is due
                runner.pump()
            else:  # a thousand dials in one turn of the loop would hold it for a fifth of a second
                loop.call_later(place // AT_ONCE * PACE, self.guarded, self._begin, runner)
        if self.tasks is not None:
            self._listeners.follow(self.tasks)
        return frozenset(runner.session.config.id for runner in gone if runner.range is not None)

    def inherit(self, inherited: Inherited) -> None:
        """Sessions and listening sockets of another process: the first ``configure`` takes those that are wanted."""
        self._inherited = inherited
        sockets: dict[tuple[Address, int], tuple[socket.socket, tuple[Net, ...]]] = {}
        for place, sock in inherited.listening.items():
            address, _, port = place.partition(" ")
            nets = []
            for net in inherited.document.keys.get(place, ()):
                with contextlib.suppress(ValueError):
                    nets.append(parse_prefix(net))
            sockets[parse_address(address), int(port)] = sock, tuple(nets)
        inherited.listening.clear()
        self._listeners.inherit(sockets)

    def prepare_to_freeze(self) -> list[tuple[Peer, frozenset[Family]]]:
        """Carries on with all that was read, and says which sessions are established, each with the families whose
        End-of-RIB has come. ``freeze`` follows in the same turn of the event loop."""
        while self._behind:
            link, data = self._behind.popleft()
            link.waiting -= 1
            self._take(link, data)
        found = []
        for runner in self._runners.values():
            connection = runner.session.established
            if connection is not None and connection.peer is not None:
                connection.send_keepalive(now())
                runner.pump()
                found.append((connection.peer, connection.ended))
        return found

    def freeze(self, ribs: Mapping[PeerId, Mapping[Family, FrozenRib]], salt: bytes) -> Frozen:
        """All that another process needs to go on with the sessions, and their sockets. Changes nothing: whoever has
        handed them over calls ``let_go``, in the same turn of the event loop."""
        at = now()
        frozen = Frozen([], [], {})
        for runner in self._runners.values():
            session = runner.session
            connection = session.established
            link = None if connection is None else runner.links.get(connection)
            if link is None:
                continue
            try:
                ends = link.ends
            except OSError:
                continue  # it dies just now
            found = session.freeze(
                ends, salt, runner.since, link.unsent_data, ribs.get(session.config.id, {}), at
            )
            if found is not None:
                frozen.sessions.append(found)
                frozen.sockets.append(link.socket.fileno())
        for sock, nets in self._listeners.sockets():
            frozen.keys[place_of(sock)] = [prefix_text(*net) for net in nets]
            frozen.sockets.append(sock.fileno())
        return frozen

    def let_go(self) -> None:
        """Another process has the sessions: nothing is read, sent or reported any more, and no connection ends."""
        self.tasks = None
        for runner in self._runners.values():
            runner.stop()
        for link in list(self._links):
            link.abort()

    def shutdown(self, peer_id: PeerId, message: str) -> None:
        """Cease 6/2 with the operator's words, and down until ``enable``. ``KeyError`` for an unknown peer."""
        self._order(peer_id, lambda session: session.shutdown(message, now()))
        self._shutdowns[peer_id] = message

    def enable(self, peer_id: PeerId) -> None:
        """Undoes ``shutdown``. ``KeyError`` for an unknown peer."""
        self._order(peer_id, lambda session: session.enable(now()))
        self._shutdowns.pop(peer_id, None)

    def reset(self, peer_id: PeerId, message: str = "") -> None:
        """Cease 6/4 with the operator's words, and up again. ``KeyError`` for an unknown peer."""
        self._order(peer_id, lambda session: session.reset(message, now()))

    def request_refresh(self, peer_id: PeerId) -> bool:
        """Asks for all routes again; False when there is no session or the peer cannot. ``KeyError``: unknown peer."""
        runner = self._runners[peer_id]
        connection = runner.session.established
        asked = connection is not None and connection.request_refresh()
        runner.pump()
        return asked

    def path_down(self, peer_id: PeerId, reason: str, independent: bool) -> bool:
        """BFD found a peer dead (``Session.path_down``). True: stale routes of it must go."""
        runner = self._runners.get(peer_id)
        if runner is None:
            return False
        abandoned = runner.session.path_down(reason, independent, now())
        runner.pump()
        return abandoned

    def check_limit(self, peer: Peer, family: Family, count: int) -> bool:
        """Whether a session may have so many prefixes, by the newest configuration; if not it ends (Cease 6/1)."""
        runner = self._runner_of(peer)
        limit = None if runner is None else runner.session.config.max_prefixes
        if runner is None or limit is None or count <= limit:
            return True
        runner.session.limit_exceeded(family, limit, now())
        runner.pump()
        return False

    def memory(self, peer_id: PeerId, stale: bool) -> int:
        """Octets that a peer holds outside the tables: attribute sets, paths, what waits to be read and sent.

        ``stale``: whether routes of its session before are kept. 0 for an unknown peer."""
        runner = self._runners.get(peer_id)
        if runner is None:
            return 0
        return runner.session.memory(stale) + sum(link.unsent for link in runner.links.values())

    def out_of_memory(self, peer_id: PeerId, text: str) -> float:
        """Ends a peer for the memory that it holds (Cease 6/8). For how many seconds it stays out.

        ``KeyError``: unknown peer."""
        runner = self._runners[peer_id]
        idle = runner.session.out_of_memory(text, now())
        runner.pump()
        return idle

    @property
    def ids(self) -> list[PeerId]:
        """All configured peers."""
        return list(self._runners)

    def send(self, peer: Peer, data: bytes) -> bool:
        """Whole messages for an established session. False: send no more until ``Handler.session_writable`` (the data
        was taken), or that session is over."""
        runner = self._runner_of(peer)
        connection = None if runner is None else runner.session.established
        if runner is None or connection is None:
            return False
        link = runner.links[connection]
        link.write(data)
        connection.sent(data, now())
        return not link.full

    def throttle(self, throttled: bool) -> None:
        """What was read is more than we can carry on with: read no established session until the next call. What peers
        send meanwhile waits in the kernel, theirs and ours."""
        self.throttled = throttled
        if not throttled:
            for runner in list(self._runners.values()):
                runner.pump()

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
        runner = self._runners.get(peer_id)
        return None if runner is None else runner.session.peer

    def count(self) -> tuple[int, int]:
        """(established, configured) peers: what is asked every second."""
        return sum(runner.session.established is not None for runner in self._runners.values()), len(
            self._runners
        )

    def wanted(self) -> list[PeerConfig]:
        """All peers that are to be up: not those that the operator has shut down."""
        return [runner.session.config for runner in self._runners.values() if runner.session.admin_up]

    def statuses(self) -> list[PeerStatus]:
        """All configured peers. Prefix counts and the output queue are others' to fill in."""
        at, unix = now(), time.time()
        return [
            status(runner.session, runner.since, self._hindrance(runner.session.config), at, unix)
            for runner in self._runners.values()
        ]

    # What links report.

    def link_made(self, link: Link) -> None:
        """TCP is connected."""
        if self.tasks is None:  # accepted while we stop
            self._links.setdefault(link, None)
            link.abort()
        elif not link.outgoing:
            self._accepted(link)
        elif runner := self._links[link]:
            runner.link_dialled(link)

    def link_received(self, link: Link, data: bytes) -> None:
        """Octets came. A thousand sockets may have some in one turn of the event loop: what is beyond its share waits
        for the next."""
        if self._turn_ends is None:
            self._turn_ends = now() + TURN_SECONDS
            asyncio.get_running_loop().call_soon(self.guarded, self._next_turn)
        if self._behind or now() >= self._turn_ends:
            link.pause(True)
            link.waiting += 1
            self._behind.append((link, data))
        else:
            self._take(link, data)

    def _next_turn(self) -> None:
        self._turn_ends = end = now() + TURN_SECONDS
        while self._behind:
            if now() >= end:
                asyncio.get_running_loop().call_soon(self.guarded, self._next_turn)
                return
            link, data = self._behind.popleft()
            link.waiting -= 1
            self._take(link, data)
        self._turn_ends = None

    def _take(self, link: Link, data: bytes) -> None:
        runner, connection = self._links.get(link), link.connection
        if runner is not None and connection is not None:
            runner.octets_received(connection, data)

    def link_writable(self, link: Link) -> None:
        """Output drained."""
        runner, connection = self._links[link], link.connection
        if runner is not None and connection is not None:
            runner.output_drained(connection)

    def link_lost(self, link: Link, message: str) -> None:
        """TCP is gone. What came before still counts: a NOTIFICATION may be the last of it."""
        for waiting in [each for each in self._behind if each[0] is link]:
            self._behind.remove(waiting)
            self._take(*waiting)
        runner, connection = self._links.pop(link, None), link.connection
        if self.tasks is not None and runner is not None and connection is not None:
            runner.lose(connection, message)

    def failed(self, error: Exception) -> None:
        """A bug of ours: ``run`` raises it."""
        if self._failure is not None and not self._failure.done():
            self._failure.set_exception(error)

    # What runners share.

    async def may_dial(self) -> None:
        """Returns when we listen: before, another daemon here may have the sessions."""
        await self._listeners.ready.wait()

    def dialling(self, runner: Runner, epoch: int) -> Link:
        """A link of a runner's own making."""
        link = Link(self, outgoing=True)
        link.epoch = epoch
        self._links[link] = runner
        return link

    def neighbour_gone(self, runner: Runner) -> None:
        """A dynamic neighbour is gone for good."""
        if self._runners.get(runner.session.config.id) is runner:
            del self._runners[runner.session.config.id]
            self._removed(runner)

    def guarded(self, call: Callable[..., Any], *args: Any) -> None:
        """Calls what the loop calls: asyncio would only log a bug."""
        try:
            call(*args)
        except Exception as error:
            self.failed(error)

    # Inside.

    def _accepted(self, link: Link) -> None:
        """Whose connection it is, and what becomes of it. Of several peers of one address it is taken for the one that
        takes connections, lacks a session, and waits for it."""
        address, zone = link.remote_address, link.zone
        runner = min(
            (self._runners[peer_id] for peer_id in self._admission.whose(address, zone)),
            key=lambda runner: (
                runner.session.refusal() is not None,
                runner.session.established is not None,
                not runner.session.config.passive,
            ),
            default=None,
        )
        refusal, cause = None, "no peer has this address"
        if runner is None and (neighbour := self._admission.neighbour(address, zone)):
            runner, cause = self._welcome(neighbour)
        self._links[link] = runner
        if runner is not None:
            session = runner.session
            refusal, cause = session.refusal(), self._key_error(address) or admit(link.socket, session.config)
            if cause:
                session.not_admitted(f"its connection is refused: {cause}", now())
            elif connection := session.accepted(link.local_address, now()):
                runner.carry(connection, link)
            else:
                cause = str(refusal)
        if link.connection is None:
            self._reject(link, refusal, cause)
        if runner is not None:
            runner.pump()

    def _welcome(self, neighbour: Neighbour) -> tuple[Runner | None, str]:
        """The session of a dynamic neighbour, new or waiting for it; or why there is none."""
        config = neighbour.config
        runner = self._runners.get(config.id)
        if runner is None:
            if sum(runner.range == neighbour.range for runner in self._runners.values()) >= neighbour.limit:
                return (
                    None,
                    f"the listen range {prefix_text(*neighbour.range)} has {neighbour.limit} sessions already",
                )
            runner = self._add(config, neighbour.range)
            event(log, "neighbour_came", peer=config.id, range=prefix_text(*neighbour.range))
        return runner, ""

    def _meet_again(self, frozen: FrozenSession, address: Address) -> None:
        """A session of another process with a neighbour: it has a place where a listen range lets the neighbour in."""
        interface = frozen.config.get("interface")
        zone = interface if isinstance(interface, str) and is_link_local(address) else None
        neighbour = self._admission.neighbour(address, zone)
        if neighbour is not None and neighbour.config.id == frozen.peer:
            asn = frozen.config.get("asn")
            if isinstance(asn, int) and asn in neighbour.config.asns:
                neighbour = neighbour._replace(config=replace(neighbour.config, asn=asn))
            self._welcome(neighbour)

    def _take_over(self, runner: Runner, inherited: Inherited, at: float) -> bool:
        """Whether the peer's session of another process is to go on."""
        peer_id = runner.session.config.id
        if refusal := runner.session.refusal():
            inherited.refuse(peer_id, str(refusal))
        runner.taken = inherited.take(peer_id, at)
        return runner.taken is not None

    def _neighbours(self) -> dict[PeerId, Neighbour]:
        """The dynamic neighbours that are here and that listen ranges still want, as these have them now."""
        found = {}
        for peer_id, runner in self._runners.items():
            config = runner.session.config
            if runner.range is not None:
                zone = config.interface if is_link_local(config.address) else None
                neighbour = self._admission.neighbour(config.address, zone)
                if neighbour is not None:
                    if config.asn in neighbour.config.asns:  # known since its OPEN
                        neighbour = neighbour._replace(config=replace(neighbour.config, asn=config.asn))
                    found[peer_id] = neighbour
        return found

    def _add(self, config: PeerConfig, listen_range: Net | None = None) -> Runner:
        at = now()
        restarted = self.restarted and at - self._started < config.restart_time
        session = Session(config, restarted=restarted, random=self._random, now=at)
        if (words := self._shutdowns.get(config.id)) is not None:
            session.shutdown(words, at)
        runner = self._runners[config.id] = Runner(self, session, listen_range)
        return runner

    def _renamed(self, before: Runner, after: Runner) -> None:
        old, new = before.session.config.id, after.session.config.id
        after.session.inherit(before.session)
        if (words := self._shutdowns.pop(old, None)) is not None:
            self._shutdowns[new] = words
            after.session.shutdown(words, now())
        event(log, "peer_renamed", peer=new, before=old)

    def _removed(self, runner: Runner) -> None:
        runner.stop()
        event(log, "peer_removed", peer=runner.session.config.id)

    def _key_error(self, address: Address) -> str:
        net = self._admission.net(address)
        error = "" if net is None else self._listeners.key_error(net)
        return error and f"our socket cannot have its TCP MD5 key: {error}"

    def _hindrance(self, config: PeerConfig) -> str:
        """Why a peer's own connections cannot be taken; empty when they can."""
        return self._admission.hindrance(config) or self._key_error(config.address)

    def link_refused(self, cause: str) -> None:
        """A connection was closed before anything was asked of it."""
        self._log_rejected("?", cause)

    def _log_rejected(self, address: str, cause: str) -> None:
        self._rejected += 1
        at = now()
        if at - self._reject_logged >= REJECT_LOG:
            count = self._rejected
            event(log, "connection_rejected", logging.WARNING, address=address, count=count, cause=cause)
            self._rejected, self._reject_logged = 0, at

    def _reject(self, link: Link, refusal: Notification | None, cause: str) -> None:
        remote = link.remote_address
        self._log_rejected(address_text(remote) if remote else "?", cause)
        link.write(encode_notification(refusal or Notification(6, Cease.REJECTED)))
        link.finish()

    def _begin(self, runner: Runner) -> None:
        if self._runners.get(runner.session.config.id) is runner:
            runner.pump()

    def _order(self, peer_id: PeerId, order: Callable[[Session], None]) -> None:
        runner = self._runners[peer_id]
        order(runner.session)
        runner.pump()

    def _runner_of(self, peer: Peer) -> Runner | None:
        runner = self._runners.get(peer.id)
        return runner if runner is not None and runner.session.peer is peer else None


def _endpoint(config: PeerConfig) -> tuple[object, ...]:
    """What makes two configurations those of one neighbour, whatever its session is called."""
    return config.address, config.interface, config.port
