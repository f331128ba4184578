"""One peer, wanted for as long as it is configured: sans-IO (RFC 4271 §8, the states up to Established).

``speaker`` makes one for each configured peer, reports to it what happens (a dial ended, a connection came, octets,
time) and then looks at what it wants: ``take_dial``, ``events``, ``next_deadline``, a connection's octets and closure.
Time is a float of seconds from any origin, given with every call; nothing here reads a clock or touches a socket.

Connections of a peer compete (§6.8): the one that the side with the greater identifier dialled stays (RFC 6286 §2.3 for
equal ones). This is decided as soon as an OPEN has come on either, since then the peer's identifier is known. Waiting
for both, as the RFC's minimum, lets one side be Established on the connection that the other is about to close. An
established session stays against a new connection. The exception is where the peer speaks graceful restart and the
connection began ``RACE_SECONDS`` after the session was up or later. Then the peer has died without a word: the new
connection replaces the old, whose routes stay as stale (RFC 4724 §4.2, §5).

Where both sides have the N bit (RFC 8538) routes stay as stale over any NOTIFICATION and the hold timer, the other
way as well: what must really go goes by a Hard Reset, Cease 6/9 around the real code.

When it is dialled, and when it is left alone, is ``attempts``'.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from random import Random
from typing import NamedTuple

from bgpd.bgp.attempts import AFTER_HARD_RESET_SECONDS, Attempts
from bgpd.bgp.connection import Connection, Counters, Opened, Refresh, Resumed, Routes, Up
from bgpd.bgp.endings import (
    CAME_BACK,
    DECONFIGURED,
    Ending,
    config_changed,
    needs_hard_reset,
    out_of_resources,
    path_down,
    replaced,
    reset,
    reset_by,
    shut_down,
    too_many_prefixes,
)
from bgpd.bgp.frozen import Ends, FrozenRib, FrozenSession, config_words
from bgpd.bgp.thawed import thawed_connection
from bgpd.bgp.wire.exa.messages import Cease, Notification
from bgpd.bgp.wire.held import Held
from bgpd.events import Seconds, event
from bgpd.model.peer import Down, DownReason, Peer, PeerConfig, PeerKind
from bgpd.model.prefix import Address, Family, address_text
from bgpd.model.status import SessionState

log = logging.getLogger(__name__)

RACE_SECONDS = 5.0
"""A connection that begins sooner after the session was up was dialled while it came up: a collision."""
CONNECT = "connect: "
"""How an error before TCP is connected starts."""


class Ended(NamedTuple):
    """An established session is over."""

    peer: Peer
    down: Down


class Trouble(NamedTuple):
    """What went wrong last."""

    text: str = ""
    at: float = 0.0
    """The moment, in seconds of the clock that callers give."""


SessionEvent = Up | Resumed | Ended | Routes | Refresh


class Session:
    """One configured peer."""

    def __init__(self, config: PeerConfig, *, restarted: bool, random: Random, now: float) -> None:
        self.config = config
        self.connections: list[Connection] = []
        self.admin_up = True
        self.fall = Trouble()
        """Why the last established session ended."""
        self.trouble = Trouble()
        """Why it last ended, or could not come up since."""
        self.counters = Counters()
        self.flaps: Counter[str] = Counter()
        self.epoch = 0
        """Counts the changes of ``config`` that need a new session; a dial that began before one is of no use."""
        self._held = self._held_before = Held()
        """The memory of what was announced in the present or last session, and in the one before that."""
        self.stale_until = 0.0
        """Until when routes of the session before are kept (graceful restart helper)."""
        self._restarted = restarted
        self._random = random
        self._events: list[SessionEvent] = []
        self._attempts = Attempts(now, random)
        self._shutdown_text = ""

    def inherit(self, before: Session) -> None:
        """The same neighbour under another name, now removed: what happened to it is not forgotten."""
        self.fall, self.trouble = before.fall, before.trouble
        self.counters, self.flaps = before.counters, before.flaps

    # State.

    @property
    def last_error(self) -> str:
        """The words of ``trouble``."""
        return self.trouble.text

    @property
    def established(self) -> Connection | None:
        for connection in self.connections:
            if connection.state is SessionState.ESTABLISHED:
                return connection
        return None

    @property
    def peer(self) -> Peer | None:
        """The established session."""
        connection = self.established
        return None if connection is None else connection.peer

    @property
    def state(self) -> SessionState:
        if self.connections:
            return max(connection.state for connection in self.connections)
        if not self.admin_up:
            return SessionState.DOWN
        if self._attempts.idle:
            return SessionState.IDLE
        return SessionState.CONNECT if self._attempts.dialling else SessionState.ACTIVE

    @property
    def work_due(self) -> bool:
        """Whether ``work`` should be called soon."""
        return any(connection.work_due for connection in self.connections)

    def refusal(self) -> Notification | None:
        """What a connection of the peer is sent when it is not welcome; ``None`` when it is."""
        if not self.admin_up:
            return shut_down(self._shutdown_text).notification
        return Notification(6, Cease.REJECTED) if self._attempts.idle else None

    def expired(self, now: float) -> bool:
        """Whether a dynamic neighbour is gone for good: not here, not expected back, not kept out."""
        idle = self._attempts.idle or not self.admin_up
        return (
            self.config.kind is PeerKind.DYNAMIC
            and not self.connections
            and not idle
            and now >= self.stale_until
        )

    def next_deadline(self) -> float | None:
        """When ``tick`` is due; ``None`` for never."""
        times = [connection.next_deadline() for connection in self.connections]
        if self.admin_up:
            times += [self._attempts.dial_at if self._may_dial() else None, self._attempts.idle_until]
            if self.config.kind is PeerKind.DYNAMIC and not self.connections and not self._attempts.idle:
                times.append(self.stale_until)
        return min((at for at in times if at is not None), default=None)

    def events(self) -> list[SessionEvent]:
        """What happened since the last call, in order."""
        events, self._events = self._events, []
        return events

    # Input.

    def tick(self, now: float, unread: Callable[[Connection], bool] = lambda _: False) -> None:
        """Time has come to ``next_deadline``. ``unread``: whether octets of a connection wait that we did not get."""
        self._attempts.tick(now)
        for connection in list(self.connections):
            connection.tick(now, partial(unread, connection))
            self._settle(connection, now)

    def take_dial(self, now: float) -> bool:
        """Whether to dial now; the speaker then reports ``dialled`` or ``dial_failed``, once."""
        return self._may_dial() and self._attempts.take(now)

    def dialled(self, local_address: Address, now: float) -> Connection | None:
        """TCP is connected; ``None`` when that is no longer wanted."""
        self._attempts.dial_over()
        opened = next((c for c in self.connections if c.received_open is not None), None)
        if self.refusal() or self.established or (opened is not None and not self._dominates(opened)):
            self._attempts.later(now)
            return None
        return self._connect(local_address, outgoing=True, now=now)

    def address_came(self, now: float) -> None:
        """The address that is dialled from lies on the machine now."""
        if not self.connections:
            self._attempts.hasten(now)

    def dial_failed(self, message: str, now: float) -> None:
        """TCP did not connect."""
        self._attempts.dial_over()
        self._error(CONNECT + message, now)
        self._attempts.later(now)

    def dial_outdated(self, now: float) -> None:
        """TCP did not connect, or did, for another configuration than the present one: dial again at once."""
        self._attempts.dial_over()
        self._attempts.at_once(now)

    def not_admitted(self, message: str, now: float) -> None:
        """The peer has connected, in a way that its configuration forbids."""
        self._error(CONNECT + message, now)

    def accepted(self, local_address: Address, now: float) -> Connection | None:
        """The peer has connected; ``None`` when it is not welcome."""
        if self.refusal():
            return None
        for connection in list(self.connections):
            if not connection.outgoing and connection.state is not SessionState.ESTABLISHED:
                # It would not come twice if the first were alive.
                self._close(connection, replaced("connected anew"), now)
        return self._connect(local_address, outgoing=False, now=now)

    def receive(self, connection: Connection, data: bytes, now: float) -> None:
        """Octets of a connection."""
        connection.feed(data)
        self._read(connection, now)

    def work(self, now: float) -> None:
        """Goes on with octets that were left for the budget's sake."""
        for connection in list(self.connections):
            if connection.work_due:
                self._read(connection, now)

    def tcp_lost(self, connection: Connection, message: str, now: float) -> None:
        """TCP is gone without a word of BGP."""
        while (
            connection.work_due
        ):  # what came before the end still counts: a NOTIFICATION may be the last of it
            self._read(connection, now)
        connection.close(None, DownReason.TCP, message)
        self._settle(connection, now)

    # To another process, and from it.

    def freeze(
        self,
        ends: Ends,
        salt: bytes,
        since: float,
        unsent: bytes,
        ribs: Mapping[Family, FrozenRib],
        now: float,
    ) -> FrozenSession | None:
        """The established session as another process goes on with it; ``None`` without one. Changes nothing. ``since``:
        Unix time at which it came up; ``unsent``: what TCP has not taken; ``ribs``: what others know of its routes."""
        connection = self.established
        if connection is None or connection.closure is not None or connection.peer is None:
            return None
        return FrozenSession(
            peer=self.config.id,
            config=config_words(self.config, salt),
            ends=ends,
            connection=connection.freeze(now, unsent),
            hold_seconds=connection.peer.hold_time,
            keepalive_seconds=connection.peer.keepalive_time,
            since=since,
            last_down=self.fall.text,
            last_down_seconds=max(0.0, now - self.fall.at) if self.fall.text else 0.0,
            flaps=dict(self.flaps),
            received=dict(self.counters.received),
            sent=dict(self.counters.sent),
            notifications=dict(self.counters.notifications),
            update_errors=self.counters.update_errors,
            elsewhere=self.counters.elsewhere,
            ribs=ribs,
        )

    def take_thaw(self) -> None:
        """A session of another process is about to be taken over: not dialled meanwhile. ``thaw`` or ``dial_outdated``
        must follow."""
        self._attempts.begin()

    def thaw(self, frozen: FrozenSession, salt: bytes, local_address: Address, now: float) -> Connection:
        """Goes on with a session of another process; ``Unfit`` where it cannot. Its Adj-RIB-In, where it came along, is
        read as if the peer had just sent it."""
        connection, counters = thawed_connection(
            frozen, self.config, salt, local_address, random=self._random, now=now
        )
        assert connection.peer is not None
        self._attempts.dial_over()
        self._restarted = False
        self.config, self.counters = connection.config, counters
        self.flaps = Counter(frozen.flaps)
        if frozen.last_down:
            self.fall = Trouble(frozen.last_down, now - frozen.last_down_seconds)
        self.connections.append(connection)
        self._events.append(Resumed(connection.peer))
        event(
            log,
            "session_taken_over",
            peer=self.config.id,
            address=address_text(self.config.address),
            up=Seconds(frozen.connection.up_seconds, 0),
        )
        return connection

    # Orders.

    def configure(self, config: PeerConfig, now: float) -> None:
        """Another configuration of the same peer: the session is reset when it must be, with Cease 6/6 where that
        takes no routes along that may stay (``endings.needs_hard_reset``)."""
        before, self.config, was_up = self.config, config, self.established is not None
        if changed := reset_by(before, config, established=was_up):
            self.epoch += 1
            self._reconfigured(now, needs_hard_reset(changed))
            wait = AFTER_HARD_RESET_SECONDS if was_up and "local_asn" in changed else 0.0
            self._attempts.restart(now + wait)

    def remove(self, now: float, *, has_heir: bool = False) -> None:
        """No longer configured: Cease 6/3; the session is dead, and nothing of it is kept. ``has_heir``: another
        session takes its place with the same neighbour, so the routes may stay until that one announces them: Cease
        6/6."""
        self.admin_up = False
        self.epoch += 1
        if has_heir:
            self._reconfigured(now)
            return
        self._close_all(DECONFIGURED, now)

    def shutdown(self, text: str, now: float) -> None:
        """By the operator: Cease 6/2 with their words, and down until ``enable``; nothing of it is kept."""
        self.admin_up = False
        self._shutdown_text = text
        self._close_all(shut_down(text), now)

    def enable(self, now: float) -> None:
        """Undoes ``shutdown``."""
        if not self.admin_up:
            self.admin_up = True
            self._attempts.restart(now)

    def reset(self, text: str, now: float) -> None:
        """By the operator: Cease 6/4 with their words (RFC 9003), and up again at once; the routes stay where both
        sides keep them over a NOTIFICATION (RFC 8538 §5 leaves it to us)."""
        self._close_all(reset(text), now)
        self._attempts.restart(now)

    def limit_exceeded(self, family: Family, limit: int, now: float) -> None:
        """More prefixes than the peer may send: Cease 6/1 (RFC 4486 §4), and idle for a while."""
        connection = self.established
        if connection is not None:
            self._close(connection, too_many_prefixes(family, limit), now)

    def out_of_memory(self, text: str, now: float) -> float:
        """The peer holds more memory than may be: Cease 6/8 (RFC 4486 §4), nothing of it is kept, and it stays out.
        For how many seconds."""
        self._close_all(out_of_resources(text), now)
        self.stale_until = 0.0
        return self._attempts.out_of_memory(now)

    def memory(self, stale: bool) -> int:
        """Octets of what the peer has announced, but for the tables' own, and of what waits to be read. ``stale``:
        whether routes of the session before are kept."""
        connection = self.established
        if connection is None:
            return self._held.octets if stale else 0
        before = self._held_before.octets if stale and self._held_before is not self._held else 0
        return self._held.octets + before + connection.unread

    def path_down(self, reason: str, independent: bool, now: float) -> bool:
        """BFD found the peer dead: the session ends with Cease 6/10 (RFC 9384), and nothing of the peer is kept, since
        BGP cannot say beforehand that it will restart (RFC 5882 §4.3.2.2). The NOTIFICATION will hardly arrive.

        A restart under way goes on, unless BFD lives in the peer's forwarding plane (``independent``, the C bit):
        then it is not the restart that BFD has noticed (§4.3.1). Returns whether what the peer left must go for that.
        """
        self._close_all(path_down(reason), now)
        waits, self.stale_until = now < self.stale_until, 0.0 if independent else self.stale_until
        return independent and waits

    # Inside.

    def _may_dial(self) -> bool:
        return not (
            self.config.passive
            or self._attempts.dialling
            or self.connections
            or not self.admin_up
            or self._attempts.idle
        )

    def _connect(self, local_address: Address, *, outgoing: bool, now: float) -> Connection:
        connection = Connection(
            self.config,
            local_address,
            outgoing=outgoing,
            restarted=self._restarted,
            counters=self.counters,
            random=self._random,
            now=now,
        )
        self.connections.append(connection)
        return connection

    def _read(self, connection: Connection, now: float) -> None:
        while (event := connection.next_event(now)) is not None:
            if isinstance(event, Opened):
                self._opened(connection, now)
                continue
            if isinstance(event, Up):
                self._up(connection, event.peer, now)
            self._events.append(event)
            if connection.work_due:
                break
        self._settle(connection, now)

    def _opened(self, connection: Connection, now: float) -> None:
        """The peer's OPEN has come on a connection: does it stay, and what of the others?"""
        for other in list(self.connections):
            if other is connection:
                continue
            if other.state is SessionState.ESTABLISHED:
                peer = other.peer
                dead = connection.started - other.established_at >= RACE_SECONDS
                if peer is not None and peer.sends_end_of_rib and dead and not connection.outgoing:
                    self._close(other, CAME_BACK, now)
                    continue
                keep = other
            elif other.outgoing == connection.outgoing:
                keep = connection
            else:
                keep = connection if connection.outgoing == self._dominates(connection) else other
            loser = connection if keep is other else other
            self._close(loser, replaced("lost a connection collision"), now)
            if loser is connection:
                return
        if connection.config.asns:
            self.config = replace(self.config, asn=connection.config.asn)
        connection.confirm(now)

    def _dominates(self, connection: Connection) -> bool:
        """Whether, of two connections, the one that we dialled stays; known by the OPEN that came on either."""
        theirs = connection.received_open
        assert theirs is not None
        return (self.config.router_id, self.config.local_asn) > (theirs.router_id, theirs.asn)

    def _up(self, connection: Connection, peer: Peer, now: float) -> None:
        connection.established_at = now
        self._held_before, self._held = self._held, connection.held
        for other in list(self.connections):
            if other is not connection:
                self._close(other, replaced("another is up"), now)
        self._restarted = False
        if self.last_error.startswith(CONNECT):
            self.trouble = Trouble()  # it was only not there yet
        event(
            log,
            "peer_up",
            peer=self.config.id,
            address=address_text(self.config.address),
            asn=self.config.asn,
            families=[family.label for family in sorted(peer.families)],
            hold_time=peer.hold_time,
            direction="out" if connection.outgoing else "in",
        )

    def _close(self, connection: Connection, ending: Ending, now: float) -> None:
        connection.close(ending.notification, ending.reason, ending.message, hard=ending.hard)
        self._settle(connection, now)

    def _close_all(self, ending: Ending, now: float) -> None:
        for connection in list(self.connections):
            self._close(connection, ending, now)

    def _reconfigured(self, now: float, hard: bool = False) -> None:
        """Ends the connections with Cease 6/6."""
        for connection in list(self.connections):
            self._close(connection, config_changed(connection.peer, hard=hard), now)

    def _settle(self, connection: Connection, now: float) -> None:
        """Draws the consequences when a connection is over; nothing otherwise."""
        closure = connection.closure
        if closure is None or connection not in self.connections:
            return
        self.connections.remove(connection)
        notification = closure.notification
        message = closure.message
        if closure.reason is DownReason.NOTIFICATION_RX:
            message = f"NOTIFICATION received {notification}"
        elif notification is not None:
            message = f"NOTIFICATION sent {notification}" + (
                f": {closure.message}" if closure.message else ""
            )
        peer = connection.peer
        if connection.state is SessionState.ESTABLISHED and peer is not None:
            # Without a NOTIFICATION TCP broke, or the peer is back on a new connection.
            kept = notification is None or (peer.keeps_on_notification and not notification.is_hard_reset)
            kept = kept and (peer.restart_time > 0 or bool(peer.long_lived))
            down = Down(
                closure.reason,
                message,
                keep=peer.restart_families if kept else frozenset(),
                keep_seconds=peer.restart_time if kept else 0.0,
            )
            self._events.append(Ended(peer, down))
            self.flaps[closure.reason.value] += 1
            self.fall = Trouble(message, now)
            longest = max(peer.long_lived.values(), default=0.0)
            self.stale_until = now + down.keep_seconds + longest if down.keep else 0.0
            event(
                log,
                "peer_down",
                logging.WARNING,
                peer=self.config.id,
                reason=closure.reason.value,
                message=message,
                kept=[family.label for family in sorted(down.keep)],
            )
            self._attempts.session_over(now - connection.established_at)
        # A peer that we sent an error, or that sent us one, may hang up on the next attempts without a word.
        mute = notification is None and connection.received_open is None and self._attempts.had_errors
        if closure.reason is not DownReason.REPLACED and self.established is None and not mute:
            self._error(message, now, quiet=connection.state is SessionState.ESTABLISHED)
        if self.connections or not self.admin_up:
            return
        self._attempts.after(closure, now)

    def _error(self, message: str, now: float, *, quiet: bool = False) -> None:
        before, self.trouble = self.trouble, Trouble(message, now)
        if message != before.text and not quiet:
            event(log, "peer_not_up", peer=self.config.id, cause=message)
