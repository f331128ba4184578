"""One TCP connection to a peer, from our OPEN to its end: sans-IO (RFC 4271 §8, the states from OpenSent on).

``session`` makes one for each connection, feeds it octets and time, takes ``next_event`` until it gives ``None``, and
sends what ``data_to_send`` holds. A connection is over when ``closure`` is set; it never raises for what a peer sent.

Where we differ from the RFC: a peer has 60 s to send its OPEN, not four minutes; NOTIFICATION is also sent before our
peer's OPEN came. What the OPENs say and make is ``negotiation``'s.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from bgpd.bgp.frozen import FrozenConnection
from bgpd.bgp.negotiation import negotiate, our_open
from bgpd.bgp.wire.exa.messages import (
    KEEPALIVE,
    KEEPALIVE_MESSAGE,
    MESSAGE_NAMES,
    NOTIFICATION,
    OPEN,
    ROUTE_REFRESH,
    UPDATE,
    Notification,
    ProtocolError,
    RefreshKind,
    decode_notification,
    decode_refresh,
    encode_notification,
    encode_refresh,
    hard_reset,
)
from bgpd.bgp.wire.exa.open import OpenMessage, decode_open, encode_open
from bgpd.bgp.wire.held import Held
from bgpd.bgp.wire.update import HEADER, Decoder, Framer, message_types
from bgpd.bgp.wire.update import message as whole_message
from bgpd.events import event, failure
from bgpd.model.peer import DownReason, Peer, PeerConfig
from bgpd.model.prefix import Address, Family
from bgpd.model.route import BeginRefresh, EndRefresh, RibEvent
from bgpd.model.status import SessionState

log = logging.getLogger(__name__)

OPEN_SECONDS = 60.0
"""Seconds a peer has for its OPEN."""
LOOK_AGAIN_SECONDS = 1.0
"""Seconds until a peer whose hold time is over, while octets of it wait to be read, is looked at again."""
LOG_EVERY_SECONDS = 10.0
"""Seconds between two lines about malformed UPDATEs of one session."""
BUDGET_MICROSECONDS = 3000.0
"""Work of the calls of ``next_event`` in one turn, in estimated microseconds, the RIB's part included; then
``work_due``."""
_COST_OF_UPDATE, _COST_OF_PREFIX, _COST_OF_KEEPALIVE, _COST_OF_MESSAGE = 2.5, 1.0, 1.0, 30.0


@dataclass(slots=True)
class Counters:
    """What a peer's connections count, over all of them."""

    received: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)
    notifications: Counter[tuple[str, int, int]] = field(default_factory=Counter)
    update_errors: int = 0
    elsewhere: int = 0
    """Attribute sets of an external peer whose AS path does not start with its AS."""


class Closure(NamedTuple):
    """Why a connection is over."""

    reason: DownReason
    message: str
    notification: Notification | None = None
    """The NOTIFICATION that was sent or received; ``None`` where there was none."""


class Opened(NamedTuple):
    """The peer's OPEN is good; the session resolves collisions, then calls ``confirm``."""


class Up(NamedTuple):
    peer: Peer


class Resumed(NamedTuple):
    """The session goes on that another process had (``Session.thaw``)."""

    peer: Peer


class Routes(NamedTuple):
    peer: Peer
    events: list[RibEvent]


class Refresh(NamedTuple):
    peer: Peer
    family: Family


Event = Opened | Up | Routes | Refresh


class Connection:
    """One TCP connection, either way. Sends its OPEN at once."""

    def __init__(
        self,
        config: PeerConfig,
        local_address: Address,
        *,
        outgoing: bool,
        restarted: bool,
        counters: Counters,
        random: Random,
        now: float,
        frozen: FrozenConnection | None = None,
    ) -> None:
        """``frozen``: it goes on where another process stopped, established (``freeze``); ``ProtocolError`` where the
        two OPENs make no session with this configuration."""
        self.config = config
        self.outgoing = outgoing
        self.state = SessionState.OPEN_SENT
        self.started = now
        self.established_at = 0.0
        self.closure: Closure | None = None
        self.peer: Peer | None = None
        self.work_due = False
        """Octets wait that were not looked at, to keep the event loop free: call ``next_event`` soon."""
        self._local_address = local_address
        self._counters = counters
        self._random = random
        self._framer = Framer()
        self.held = Held()
        """The memory of what the peer has announced here."""
        self._decoder: Decoder | None = None
        self._kept: tuple[int, bytes] | None = None
        self._updates = 0
        self._quiet_until = 0.0
        self._refreshing: set[Family] = set()
        self._budget = BUDGET_MICROSECONDS
        self._out = bytearray()
        self._hold_time = OPEN_SECONDS
        self._hold_at: float | None = now + OPEN_SECONDS
        self._keepalive_at: float | None = None
        self.sent_open = our_open(config, restarted=restarted)
        self.received_open: OpenMessage | None = None
        self._received_body = b""
        if frozen is None:
            self._send(OPEN, encode_open(self.sent_open))
        else:
            self._thaw(frozen, now)

    # Input.

    def feed(self, data: bytes) -> None:
        """Octets from TCP; ``next_event`` then looks at them."""
        if self.closure is None:
            self._framer.feed(data)

    def next_event(self, now: float) -> Event | None:
        """What the octets say, one thing at a time; ``None`` when more are needed, or when ``work_due``."""
        events: list[RibEvent] = []
        kind, heard = 0, False
        if self.work_due:
            self._budget = BUDGET_MICROSECONDS
        errors = self._update_errors()
        self.work_due = False
        try:
            while self.closure is None:
                message = self._kept or self._framer.take()
                self._kept = None
                if message is None:
                    self._budget = BUDGET_MICROSECONDS
                    break
                kind, body = message
                heard = True
                if kind == UPDATE and self._decoder is not None and self.state is SessionState.ESTABLISHED:
                    spent = self._decoder.cache.spent
                    self._budget -= _COST_OF_UPDATE + _COST_OF_PREFIX * self._decoder.decode(body, events)
                    self._budget -= self._decoder.cache.spent - spent
                    self._updates += 1
                elif events and kind != KEEPALIVE:
                    self._kept = message  # routes first, in the order in which they came
                    break
                else:
                    self._budget -= _COST_OF_KEEPALIVE if kind == KEEPALIVE else _COST_OF_MESSAGE
                    outcome = self._handle(kind, body)
                    if outcome is not None:
                        self.work_due = self._budget <= 0 and self.closure is None
                        return outcome
                if self._budget <= 0:
                    self.work_due = self.closure is None
                    break
        except ProtocolError as error:
            self.close(error.notification, DownReason.NOTIFICATION_TX, str(error))
        except Exception as error:
            # Whatever a peer manages to trip must not end more than its own session.
            failure(
                log,
                "decoding_failed",
                peer=self.config.id,
                kind=MESSAGE_NAMES.get(kind, str(kind)),
            )
            code = {OPEN: (2, 0), UPDATE: (3, 1)}.get(kind, (1, 0))
            self.close(Notification(*code), DownReason.NOTIFICATION_TX, f"internal error: {error!r}")
        finally:
            if heard and self._hold_at is not None:
                self._hold_at = now + self._hold_time
            self._counters.received["UPDATE"] += self._updates
            self._updates = 0
            self._note_errors(errors, now)
        return Routes(self.peer, events) if events and self.peer is not None else None

    def confirm(self, now: float) -> None:
        """The peer's OPEN is taken: KEEPALIVE, and OpenConfirm."""
        self.state = SessionState.OPEN_CONFIRM
        assert self.peer is not None
        self._hold_time = self.peer.hold_time
        self._hold_at = now + self._hold_time if self._hold_time else None
        self._send(KEEPALIVE, KEEPALIVE_MESSAGE)
        self._schedule_keepalive(now)

    def tick(self, now: float, unread: Callable[[], bool] = lambda: False) -> None:
        """Time has come to ``next_deadline``. ``unread``: whether octets of the peer wait that were not fed yet: then
        it lives, however busy we are, and its silence counts only once they are read."""
        if self.closure is not None:
            return
        expired = self._hold_at is not None and now >= self._hold_at
        if expired and (self.work_due or unread()):
            self._hold_at, expired = now + LOOK_AGAIN_SECONDS, False
        if expired:
            waited = "OPEN" if self.state is SessionState.OPEN_SENT else "message"
            text = f"no {waited} for {self._hold_time:g} s"
            if self.state is SessionState.OPEN_SENT and self.config.ttl_security is not None:
                text += "; perhaps it has no ttl security"  # TCP connects with many that have not
            self.close(Notification(4, 0), DownReason.HOLD_TIMER, text)
        elif self._keepalive_at is not None and now >= self._keepalive_at:
            self._send(KEEPALIVE, KEEPALIVE_MESSAGE)
            self._schedule_keepalive(now)

    def next_deadline(self) -> float | None:
        """When ``tick`` is due; ``None`` for never."""
        if self.closure is not None:
            return None
        return min((at for at in (self._hold_at, self._keepalive_at) if at is not None), default=None)

    @property
    def unread(self) -> int:
        """Octets that came and were not looked at."""
        return self._framer.waiting

    def close(
        self, notification: Notification | None, reason: DownReason, message: str, *, hard: bool = False
    ) -> None:
        """Ends the connection, with a NOTIFICATION unless there is none to send. The first reason stands.

        ``hard``: nobody is to keep anything, so where a NOTIFICATION would, it goes as a Hard Reset (RFC 8538 §3).
        """
        if self.closure is not None:
            return
        up = self.peer if self.state is SessionState.ESTABLISHED else None
        if hard and notification is not None and up is not None and up.keeps_on_notification:
            notification = hard_reset(notification)
        self.closure = Closure(reason, message, notification)
        self.work_due = False
        if notification is not None:
            self._counters.notifications["sent", notification.code, notification.subcode] += 1
            self._send(NOTIFICATION, encode_notification(notification))

    # To another process, and from it.

    @property
    def ended(self) -> frozenset[Family]:
        """Families whose End-of-RIB has come."""
        return frozenset() if self._decoder is None else frozenset(self._decoder.ended)

    def freeze(self, now: float, unsent: bytes = b"") -> FrozenConnection:
        """All that another process needs to go on with this connection, which must be established, once what
        ``data_to_send`` had is with TCP or in ``unsent``. Changes nothing."""
        assert self.peer is not None and self._decoder is not None
        kept = b"" if self._kept is None else whole_message(*self._kept)
        silent = 0.0 if self._hold_at is None else max(0.0, now - (self._hold_at - self._hold_time))
        return FrozenConnection(
            outgoing=self.outgoing,
            sent_open=encode_open(self.sent_open)[HEADER:],
            received_open=self._received_body,
            unread=kept + self._framer.rest,
            unsent=unsent + bytes(self._out),
            ended=self.ended,
            up_seconds=max(0.0, now - self.established_at),
            silent_seconds=silent,
        )

    def _thaw(self, frozen: FrozenConnection, now: float) -> None:
        """Goes on as established. A refresh that was under way counts for nothing: all is asked for again."""
        self.sent_open = decode_open(frozen.sent_open)
        self.received_open, self._received_body = decode_open(frozen.received_open), frozen.received_open
        peer = self._take_up(self.received_open)
        self.state = SessionState.ESTABLISHED
        self.started = self.established_at = now - frozen.up_seconds
        self._decoder = Decoder(peer)
        self._decoder.ended = set(frozen.ended & peer.families)
        self._framer.feed(frozen.unread)
        self.work_due = bool(frozen.unread)
        self._out += frozen.unsent
        self._hold_time = peer.hold_time
        heard_at = now - frozen.silent_seconds
        self._hold_at = max(now + LOOK_AGAIN_SECONDS, heard_at + self._hold_time) if self._hold_time else None
        self.send_keepalive(now)

    def send_keepalive(self, now: float) -> None:
        """Before its time: nothing may be sent for a while."""
        if self.peer is not None and self.peer.keepalive_time:
            self._send(KEEPALIVE, KEEPALIVE_MESSAGE)
            self._schedule_keepalive(now)

    # Output.

    def data_to_send(self) -> bytes:
        """Octets for TCP, once."""
        data = bytes(self._out)
        self._out.clear()
        return data

    def sent(self, data: bytes, now: float) -> None:
        """Messages of somebody else's making (UPDATEs) went out on this connection."""
        for kind in message_types(data):
            self._counters.sent[MESSAGE_NAMES[kind]] += 1
        self._schedule_keepalive(now)

    def request_refresh(self) -> bool:
        """Asks for all routes again; False when the peer cannot."""
        opened = self.received_open
        if self.peer is None or opened is None or not opened.capabilities.route_refresh:
            return False
        for family in sorted(self.peer.families):
            self._send(ROUTE_REFRESH, encode_refresh(family))
        return True

    def _send(self, kind: int, data: bytes) -> None:
        self._counters.sent[MESSAGE_NAMES[kind]] += 1
        self._out += data

    def _schedule_keepalive(self, now: float) -> None:
        if self.peer is not None and self.peer.keepalive_time:
            # Jitter of RFC 4271 §10, so that a thousand sessions do not speak at once.
            self._keepalive_at = now + self.peer.keepalive_time * self._random.uniform(0.75, 1.0)

    # Messages.

    def _handle(self, kind: int, body: bytes) -> Event | None:
        """Any message but an UPDATE of an established session."""
        self._counters.received[MESSAGE_NAMES[kind]] += 1
        if kind == NOTIFICATION:
            notification = decode_notification(body)
            self._counters.notifications["received", notification.code, notification.subcode] += 1
            self.closure = Closure(DownReason.NOTIFICATION_RX, str(notification), notification)
        elif kind == OPEN and self.state is SessionState.OPEN_SENT:
            self.received_open, self._received_body = decode_open(body), body
            self._take_up(self.received_open)
            return Opened()
        elif kind == KEEPALIVE and self.state is SessionState.OPEN_CONFIRM and self.peer is not None:
            self.state = SessionState.ESTABLISHED
            self._decoder = Decoder(self.peer)
            self.held = self._decoder.cache.held
            return Up(self.peer)
        elif kind == ROUTE_REFRESH and self.state is SessionState.ESTABLISHED and self.peer is not None:
            return self._refreshed(self.peer, decode_refresh(body))
        elif kind != KEEPALIVE or self.state is not SessionState.ESTABLISHED:
            # RFC 6608
            subcode = self.state - SessionState.OPEN_SENT + 1
            text = f"{MESSAGE_NAMES[kind]} in state {self.state.name}"
            raise ProtocolError(5, subcode, text, bytes((kind,)))
        return None

    def _refreshed(self, peer: Peer, refresh: tuple[Family, RefreshKind] | None) -> Event | None:
        """A ROUTE-REFRESH (RFC 2918, RFC 7313 §4)."""
        if refresh is None or refresh[0] not in peer.families:
            return None
        family, kind = refresh
        if kind is RefreshKind.REQUEST:
            return Refresh(peer, family)
        if not peer.enhanced_refresh or self._decoder is None:
            return None
        if kind is RefreshKind.BEGIN:
            if peer.sends_end_of_rib and family not in self._decoder.ended:
                return None  # what is stale then is so from the session before
            self._refreshing.add(family)
            return Routes(peer, [BeginRefresh(family)])
        if family not in self._refreshing:
            return None
        self._refreshing.discard(family)
        return Routes(peer, [EndRefresh(family)])

    def _take_up(self, theirs: OpenMessage) -> Peer:
        """The session that the two OPENs make. Of a dynamic neighbour the AS number is known from now on."""
        self.peer = negotiate(self.config, self.sent_open, theirs, self._local_address)
        self.config = self.peer.config
        return self.peer

    def _update_errors(self) -> int:
        decoder = self._decoder
        return 0 if decoder is None else decoder.withdrawn_by_error + decoder.cache.discarded

    def _note_errors(self, before: int, now: float) -> None:
        if self._decoder is not None:
            self._counters.elsewhere += self._decoder.cache.elsewhere
            self._decoder.cache.elsewhere = 0
        new = self._update_errors() - before
        if new > 0 and self._decoder is not None:
            self._counters.update_errors += new
            if now >= self._quiet_until:
                self._quiet_until = now + LOG_EVERY_SECONDS
                cause = self._decoder.cache.last_error or "attributes discarded"
                event(log, "malformed_updates", logging.WARNING, peer=self.config.id, count=new, last=cause)
