"""What becomes of a connection that comes in: taken for a peer or a new neighbour, or refused with a NOTIFICATION.

``speaker`` hands over each one. Whose it may be is ``admission``'s to say, and how it must be protected
``protection``'s. A neighbour inside a listen range gets its session here.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from bgpd.bgp.admission import Admission, Neighbour
from bgpd.bgp.frozen import FrozenSession
from bgpd.bgp.listeners import Listeners
from bgpd.bgp.protection import admit
from bgpd.bgp.runner import Runner, now
from bgpd.bgp.sessions import Sessions
from bgpd.bgp.transport import Link
from bgpd.bgp.wire.exa.messages import Cease, Notification, encode_notification
from bgpd.events import event
from bgpd.model.peer import PeerConfig, PeerId
from bgpd.model.prefix import Address, address_text, is_link_local, prefix_text

log = logging.getLogger(__name__)

REJECT_LOG_SECONDS = 10.0
"""Seconds between two lines about connections that nobody wanted."""


class Incoming:
    """See the module. ``sessions`` is the speaker's, and is set by it before anything comes."""

    sessions: Sessions

    def __init__(self, admission: Admission, listeners: Listeners) -> None:
        self._admission, self._listeners = admission, listeners
        self._rejected, self._reject_logged = 0, 0.0

    def accept(self, link: Link) -> Runner | None:
        """Whose connection it is; it is that session's from now on, or refused. Of several peers of one address it is
        taken for the one that takes connections, lacks a session, and waits for it."""
        address, zone = link.remote_address, link.zone
        runner = min(
            (self.sessions.runners[peer_id] for peer_id in self._admission.whose(address, zone)),
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
        return runner

    def meet_again(self, frozen: FrozenSession, address: Address) -> None:
        """A session of another process with a neighbour: it has a place where a listen range lets the neighbour in."""
        interface, asn = frozen.config.get("interface"), frozen.config.get("asn")
        neighbour = self._neighbour(
            address, interface if isinstance(interface, str) else None, asn if isinstance(asn, int) else 0
        )
        if neighbour is not None and neighbour.config.id == frozen.peer:
            self._welcome(neighbour)

    def neighbours(self) -> dict[PeerId, Neighbour]:
        """The dynamic neighbours that are here and that listen ranges still want, as these have them now."""
        found = {}
        for peer_id, runner in self.sessions.runners.items():
            config = runner.session.config
            if runner.range is not None:
                neighbour = self._neighbour(config.address, config.interface, config.asn)
                if neighbour is not None:
                    found[peer_id] = neighbour
        return found

    def hindrance(self, config: PeerConfig) -> str:
        """Why a peer's own connections cannot be taken; empty when they can."""
        return self._admission.hindrance(config) or self._key_error(config.address)

    def log_rejected(self, address: str, cause: str) -> None:
        """A connection was refused: a line now and then, with how many there were."""
        self._rejected += 1
        at = now()
        if at - self._reject_logged >= REJECT_LOG_SECONDS:
            count = self._rejected
            event(log, "connection_rejected", logging.WARNING, address=address, count=count, cause=cause)
            self._rejected, self._reject_logged = 0, at

    def _neighbour(self, address: Address, interface: str | None, asn: int) -> Neighbour | None:
        """A dynamic neighbour whose AS number its OPEN has said."""
        neighbour = self._admission.neighbour(address, interface if is_link_local(address) else None)
        if neighbour is not None and asn in neighbour.config.asns:
            neighbour = neighbour._replace(config=replace(neighbour.config, asn=asn))
        return neighbour

    def _welcome(self, neighbour: Neighbour) -> tuple[Runner | None, str]:
        """The session of a dynamic neighbour, new or waiting for it; or why there is none."""
        config, runners = neighbour.config, self.sessions.runners
        runner = runners.get(config.id)
        if runner is None:
            text = prefix_text(*neighbour.range)
            if sum(each.range == neighbour.range for each in runners.values()) >= neighbour.limit:
                return None, f"the listen range {text} has {neighbour.limit} sessions already"
            runner = self.sessions.add(config, neighbour.range)
            event(log, "neighbour_came", peer=config.id, range=text)
        return runner, ""

    def _key_error(self, address: Address) -> str:
        net = self._admission.net(address)
        error = "" if net is None else self._listeners.key_error(net)
        return error and f"our socket cannot have its TCP MD5 key: {error}"

    def _reject(self, link: Link, refusal: Notification | None, cause: str) -> None:
        remote = link.remote_address
        self.log_rejected(address_text(remote) if remote else "?", cause)
        link.write(encode_notification(refusal or Notification(6, Cease.REJECTED)))
        link.finish()
