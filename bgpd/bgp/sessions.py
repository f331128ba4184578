"""The sessions that there are, by peer: what may be asked of them, and ordered.

``speaker`` makes one of these and says which peers are wanted; ``daemon`` and ``views`` ask and order here. A shutdown
by the operator belongs to the peer, not to its session: it outlives a restart of the daemon and another name.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from random import Random

from bgpd.bgp.protection import Net
from bgpd.bgp.report import status
from bgpd.bgp.runner import Runner, World, now
from bgpd.bgp.session import Session
from bgpd.events import event
from bgpd.model.peer import Peer, PeerConfig, PeerId
from bgpd.model.prefix import Address, Family
from bgpd.model.status import PeerStatus

log = logging.getLogger(__name__)


class Sessions:
    """See the module. Everything is called in the event loop's thread."""

    def __init__(
        self,
        world: World,
        hindrance: Callable[[PeerConfig], str],
        shutdowns: Mapping[PeerId, str],
        *,
        restarted: bool,
        random: Random,
    ) -> None:
        """``hindrance``: why a peer's own connections cannot be taken, empty when they can. ``shutdowns`` and
        ``restarted`` as ``Speaker`` has them."""
        self.restarted = restarted
        self.runners: dict[PeerId, Runner] = {}
        self._world, self._hindrance, self._random = world, hindrance, random
        self._shutdowns = dict(shutdowns)
        self._started = now()

    # Which there are: ``speaker`` says it.

    def add(self, config: PeerConfig, listen_range: Net | None = None) -> Runner:
        """A peer that is new; ``listen_range``: where a dynamic neighbour came from."""
        at = now()
        restarted = self.restarted and at - self._started < config.restart_time
        session = Session(config, restarted=restarted, random=self._random, now=at)
        if (words := self._shutdowns.get(config.id)) is not None:
            session.shutdown(words, at)
        runner = self.runners[config.id] = Runner(self._world, session, listen_range)
        return runner

    def remove(self, runner: Runner) -> None:
        """A peer that is no longer wanted, or a neighbour that is gone."""
        peer = runner.session.config.id
        if self.runners.get(peer) is runner:
            del self.runners[peer]
        runner.stop()
        event(log, "peer_removed", peer=peer)

    def rename(self, before: Runner, after: Runner) -> None:
        """A peer that goes and one that comes are one neighbour: its history and a shutdown go on."""
        old, new = before.session.config.id, after.session.config.id
        after.session.inherit(before.session)
        if (words := self._shutdowns.pop(old, None)) is not None:
            self._shutdowns[new] = words
            after.session.shutdown(words, now())
        event(log, "peer_renamed", peer=new, before=old)

    # Orders.

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

    def addresses_came(self, addresses: Collection[Address]) -> None:
        """These lie on the machine now: who dials from one need not wait its turn."""
        for runner in list(self.runners.values()):
            if runner.session.config.local_address in addresses:
                runner.session.address_came(now())
                runner.pump()

    def request_refresh(self, peer_id: PeerId) -> bool:
        """Asks for all routes again; False when there is no session or the peer cannot. ``KeyError``: unknown peer."""
        runner = self.runners[peer_id]
        connection = runner.session.established
        asked = connection is not None and connection.request_refresh()
        runner.pump()
        return asked

    def path_down(self, peer_id: PeerId, reason: str, independent: bool) -> bool:
        """BFD found a peer dead (``Session.path_down``). True: stale routes of it must go."""
        runner = self.runners.get(peer_id)
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

    def out_of_memory(self, peer_id: PeerId, text: str) -> float:
        """Ends a peer for the memory that it holds (Cease 6/8). For how many seconds it stays out.

        ``KeyError``: unknown peer."""
        runner = self.runners[peer_id]
        idle = runner.session.out_of_memory(text, now())
        runner.pump()
        return idle

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

    # Questions.

    @property
    def ids(self) -> list[PeerId]:
        """All peers that are wanted."""
        return list(self.runners)

    @property
    def shutdowns(self) -> Mapping[PeerId, str]:
        """Peers that the operator has shut down, each with the words."""
        return self._shutdowns

    def peer(self, peer_id: PeerId) -> Peer | None:
        """The established session of a peer."""
        runner = self.runners.get(peer_id)
        return None if runner is None else runner.session.peer

    def count(self) -> tuple[int, int]:
        """(established, wanted) peers: what is asked every second."""
        established = sum(runner.session.established is not None for runner in self.runners.values())
        return established, len(self.runners)

    def wanted(self) -> list[PeerConfig]:
        """All peers that are to be up: not those that the operator has shut down."""
        return [runner.session.config for runner in self.runners.values() if runner.session.admin_up]

    def statuses(self) -> list[PeerStatus]:
        """All peers. Prefix counts and the output queue are others' to fill in."""
        at, unix = now(), time.time()
        return [
            status(runner.session, runner.since, self._hindrance(runner.session.config), at, unix)
            for runner in self.runners.values()
        ]

    def memory(self, peer_id: PeerId, stale: bool) -> int:
        """Octets that a peer holds outside the tables: attribute sets, paths, what waits to be read and sent.

        ``stale``: whether routes of its session before are kept. 0 for an unknown peer."""
        runner = self.runners.get(peer_id)
        if runner is None:
            return 0
        return runner.session.memory(stale) + sum(link.unsent for link in runner.links.values())

    # Inside.

    def _order(self, peer_id: PeerId, order: Callable[[Session], None]) -> None:
        runner = self.runners[peer_id]
        order(runner.session)
        runner.pump()

    def _runner_of(self, peer: Peer) -> Runner | None:
        runner = self.runners.get(peer.id)
        return runner if runner is not None and runner.session.peer is peer else None
