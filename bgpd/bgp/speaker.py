"""The door to the peers: which sessions there are, and where we listen.

``daemon`` runs one speaker, configures it with what ``rules.peering`` wants, and hands it a handler. All happens in
the event loop's thread: a callback for each wake-up, no task a session, one timer a session (``runner``). What a peer
sends faster than we take it waits in the kernel (TCP's back-pressure, of that session only).

What may be asked and ordered of the sessions is in ``sessions``; connections that come in are ``incoming``'s.

Dynamic neighbours: a connection from inside a listen range makes a session, passive, from the range's template. It is
gone when it has ended and the peer's time to come back is over (RFC 4724), or when the range is.

When the task of ``run`` is cancelled, TCP connections close without NOTIFICATION: the peers keep our routes (RFC 4724).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from random import Random
from types import MappingProxyType
from typing import Any, NamedTuple

from bgpd.bgp.admission import Admission
from bgpd.bgp.frozen import FrozenRib, FrozenSession
from bgpd.bgp.handler import Handler
from bgpd.bgp.handover import Inherited, place_of
from bgpd.bgp.incoming import Incoming
from bgpd.bgp.listeners import Listeners
from bgpd.bgp.read_turns import ReadTurns
from bgpd.bgp.runner import Runner, now
from bgpd.bgp.sessions import Sessions
from bgpd.bgp.transport import Link
from bgpd.model.peer import DynamicRange, Peer, PeerConfig, PeerId
from bgpd.model.prefix import Address, Family, prefix_text

AT_ONCE, PACE_SECONDS = 50, 0.01
"""Sessions that begin in one turn of the event loop, and seconds until the next so many do."""


class Frozen(NamedTuple):
    """What ``Speaker.freeze`` found."""

    sessions: list[FrozenSession]
    sockets: list[int]
    """Descriptors, of sessions and of listening sockets."""
    keys: dict[str, list[str]]
    """What each listening socket has keys of (``handover.Document.keys``)."""


class Speaker:
    """All sessions of this node. Everything is called in the event loop's thread; before ``run`` nothing moves.

    It is the world of its runners (``runner.World``) and the owner of their links (``transport.Owner``).
    """

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
        self.tasks: asyncio.TaskGroup | None = None
        self.throttled = False
        self._failure: asyncio.Future[None] | None = None
        self._inherited: Inherited | None = None
        self._links: dict[Link, Runner | None] = {}
        self._admission = Admission()
        self._listeners = Listeners(lambda: Link(self, outgoing=False), handler.listening_changed)
        self._incoming = Incoming(self._admission, self._listeners)
        self._read_turns = ReadTurns(self._take, self.guarded)
        self.sessions = self._incoming.sessions = Sessions(
            self,
            self._incoming.hindrance,
            shutdowns or {},
            restarted=restarted,
            random=random or Random(),  # jitter, not secrets
        )

    async def run(self) -> None:
        """Until cancelled. A bug of ours raises here."""
        loop = asyncio.get_running_loop()
        self._failure = loop.create_future()
        try:
            async with asyncio.TaskGroup() as tasks:
                self.tasks = tasks
                try:
                    self._listeners.follow(tasks)
                    self._pump_all()
                    await self._failure
                finally:
                    self.tasks = None  # what ends from here on starts no dial
        finally:
            self._stop()
            if self._inherited is not None:
                self._inherited.close()
            await asyncio.sleep(0)  # asyncio closes aborted sockets in its next round

    # What is wanted.

    def configure(
        self,
        peers: Mapping[PeerId, PeerConfig],
        addresses: Sequence[Address],
        port: int,
        dynamic: Sequence[DynamicRange] = (),
        heirs: Mapping[PeerId, PeerId] = MappingProxyType({}),
    ) -> frozenset[PeerId]:
        """The sessions to have, and where to listen; ``dynamic``: where neighbours may come from that nobody named.

        Idempotent: what is equal is left alone. A peer that goes and one that comes in the same call, at the same
        address, interface and port, are one neighbour under another name: its history and a shutdown of the operator's
        go on. ``heirs``: peers that go -> those that come in their place and may find their routes kept
        (``peering.heirs``); so do these. Returns the dynamic neighbours that are no longer wanted.
        """
        at, runners = now(), self.sessions.runners
        inherited, self._inherited = self._inherited, None
        self._admission.want_peers(peers.values(), dynamic)
        self._listeners.want_places(frozenset((address, port) for address in addresses), self._admission.keys)
        if inherited is not None:
            for frozen, address in inherited.neighbours():
                self._incoming.meet_again(frozen, address)
        neighbours = self._incoming.neighbours()
        wanted = {**peers, **{peer_id: neighbour.config for peer_id, neighbour in neighbours.items()}}
        gone = [runners.pop(peer_id) for peer_id in list(runners) if peer_id not in wanted]
        changed: list[Runner] = []
        came: dict[tuple[object, ...], Runner] = {}
        for peer_id, config in wanted.items():
            runner = runners.get(peer_id)
            if runner is None:
                runner = came[_endpoint(config)] = self.sessions.add(config)
                changed.append(runner)
                continue
            if peer_id in neighbours:
                runner.range = neighbours[peer_id].range
            if runner.session.config != config:
                runner.session.configure(config, at)
                changed.append(runner)
        for runner in gone:
            config = runner.session.config
            runner.session.remove(at, has_heir=config.id in heirs)
            runner.pump()
            self.sessions.remove(runner)
            successor = runners[heirs[config.id]] if config.id in heirs else came.get(_endpoint(config))
            if successor is not None:
                self.sessions.rename(runner, successor)
        if inherited is not None:
            taken = [runner for runner in runners.values() if runner.take_over(inherited, at)]
            changed = [*taken, *(runner for runner in changed if runner.taken is None)]
            inherited.dismiss()
        self._begin_in_turns(changed)
        if self.tasks is not None:
            self._listeners.follow(self.tasks)
        return frozenset(runner.session.config.id for runner in gone if runner.range is not None)

    def _begin_in_turns(self, runners: Sequence[Runner]) -> None:
        """A thousand dials in one turn of the loop would hold it for a fifth of a second."""
        loop = asyncio.get_running_loop()
        for place, runner in enumerate(runners):
            if place < AT_ONCE or runner.taken is not None:  # a KEEPALIVE is due
                runner.pump()
            else:
                loop.call_later(place // AT_ONCE * PACE_SECONDS, self.guarded, self._begin, runner)

    def _begin(self, runner: Runner) -> None:
        if self.sessions.runners.get(runner.session.config.id) is runner:
            runner.pump()

    def throttle(self, throttled: bool) -> None:
        """What was read is more than we can carry on with: read no established session until the next call. What peers
        send meanwhile waits in the kernel, theirs and ours."""
        self.throttled = throttled
        if not throttled:
            self._pump_all()

    # To another process, and from it.

    def inherit(self, inherited: Inherited) -> None:
        """Sessions and listening sockets of another process: the first ``configure`` takes those that are wanted."""
        self._inherited = inherited
        self._listeners.inherit(inherited.take_listening())

    def prepare_to_freeze(self) -> list[tuple[Peer, frozenset[Family]]]:
        """Carries on with all that was read, and says which sessions are established, each with the families whose
        End-of-RIB has come. ``freeze`` follows in the same turn of the event loop."""
        self._read_turns.take_all()
        return [found for runner in self.sessions.runners.values() if (found := runner.prepare_to_freeze())]

    def freeze(self, ribs: Mapping[PeerId, Mapping[Family, FrozenRib]], salt: bytes) -> Frozen:
        """All that another process needs to go on with the sessions, and their sockets. Changes nothing: whoever has
        handed them over calls ``let_go``, in the same turn of the event loop."""
        frozen = Frozen([], [], {})
        for peer_id, runner in self.sessions.runners.items():
            if (found := runner.freeze(salt, ribs.get(peer_id, {}))) is not None:
                frozen.sessions.append(found[0])
                frozen.sockets.append(found[1])
        for sock, nets in self._listeners.sockets():
            frozen.keys[place_of(sock)] = [prefix_text(*net) for net in nets]
            frozen.sockets.append(sock.fileno())
        return frozen

    def let_go(self) -> None:
        """Another process has the sessions: nothing is read, sent or reported any more, and no connection ends."""
        self.tasks = None
        self._stop()

    # Where we listen.

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

    # What links report (``transport.Owner``).

    def link_made(self, link: Link) -> None:
        """TCP is connected."""
        if self.tasks is None:  # accepted while we stop
            self._links.setdefault(link, None)
            link.abort()
        elif not link.outgoing:
            runner = self._links[link] = self._incoming.accept(link)
            if runner is not None:
                runner.pump()
        elif runner := self._links[link]:
            runner.link_dialled(link)

    def link_refused(self, cause: str) -> None:
        """A connection was closed before anything was asked of it."""
        self._incoming.log_rejected("?", cause)

    def link_received(self, link: Link, data: bytes) -> None:
        """Octets came."""
        self._read_turns.octets_came(link, data)

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
        """TCP is gone. What came before still counts."""
        self._read_turns.take_last_of(link)
        runner, connection = self._links.pop(link, None), link.connection
        if self.tasks is not None and runner is not None and connection is not None:
            runner.lose(connection, message)

    def failed(self, error: Exception) -> None:
        """A bug of ours: ``run`` raises it."""
        if self._failure is not None and not self._failure.done():
            self._failure.set_exception(error)

    # What runners share (``runner.World``).

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
        if self.sessions.runners.get(runner.session.config.id) is runner:
            self.sessions.remove(runner)

    def guarded(self, call: Callable[..., Any], *args: Any) -> None:
        """Calls what the loop calls: asyncio would only log a bug."""
        try:
            call(*args)
        except Exception as error:
            self.failed(error)

    # Inside.

    def _pump_all(self) -> None:
        for runner in list(self.sessions.runners.values()):
            runner.pump()

    def _stop(self) -> None:
        for runner in self.sessions.runners.values():
            runner.stop()
        for link in list(self._links):
            link.abort()


def _endpoint(config: PeerConfig) -> tuple[object, ...]:
    """What makes two configurations those of one neighbour, whatever its session is called."""
    return config.address, config.interface, config.port
