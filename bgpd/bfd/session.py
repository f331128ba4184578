"""One BFD session: sans-IO (RFC 5880 §6), in the active role, asynchronous mode.

``speaker`` makes one for each pair of ends, hands it what comes (packets, time, other options) and takes what is to
be sent and what happened. Time is a float of seconds from any origin, given with every call; intervals are whole
microseconds, as on the wire.

What the RFC leaves open, or where we do more: demand mode is answered and never asked for. There is no echo function
(our packets say so). A packet whose content is new, but for the Poll and Final bits, goes at once (§6.8.7 allows it):
the three-way handshake takes as long as the path does. After a detection time without a packet, what the peer sent of
its intervals is forgotten with its discriminator (§6.8.1 has the latter only): a peer that had asked for no packets
at all, and died, would never hear of us again.
"""

from __future__ import annotations

from collections import Counter
from math import ceil
from random import Random
from typing import NamedTuple

from bgpd.bfd.packet import Discard, Packet, Refused
from bgpd.model.bfd import BfdState, BfdTiming, Diagnostic, FrozenBfd

SLOW = 1_000_000
"""The least interval of sending while a session is not up (§6.8.3)."""
_MICRO = 1e-6


class Change(NamedTuple):
    """The session came up, or left Up."""

    up: bool
    diagnostic: Diagnostic
    ordered: bool
    """It left Up because the operator of either end has taken it down: nothing has failed (RFC 5882 §3.2)."""


class Session:
    """One session with one peer. State variables have the RFC's names (§6.8.1)."""

    def __init__(self, timing: BfdTiming, discriminator: int, random: Random, now: float) -> None:
        self.timing = timing
        self.state = BfdState.DOWN
        self.local_diag = Diagnostic.NONE
        self.local_discr = discriminator
        self.remote_state = BfdState.DOWN
        self.remote_diag = 0
        self.remote_discr = 0
        self.remote_min_rx = 1
        self.remote_min_tx = 0
        self.remote_multiplier = 0
        self.remote_demand = False
        self.remote_independent = False
        self.polling = False
        """A Poll Sequence is under way (§6.5)."""
        self.sent = self.received = self.ups = 0
        self.downs: Counter[Diagnostic] = Counter()
        self._random = random
        self._poll_again = False
        """What the sequence under way asked is not what we want now."""
        self._tx_in_use = self.desired_min_tx
        self._rx_in_use = timing.min_rx
        """While a Poll Sequence has not announced a change to the peer, the values that are safe (§6.8.3)."""
        self._heard_at: float | None = None
        """When the last packet came; ``None`` once it is so long ago that the peer is forgotten."""
        self._sent_at = now
        self._spread = 1.0
        """What jitter has left of the interval that runs (§6.8.7)."""
        self._due = True
        """A packet whose content is new."""
        self._final = False
        self._until: float | None = None
        """When the peer knows of a session that was taken down, or has noticed."""
        self._out: list[Packet] = []
        self._changes: list[Change] = []

    # From one process to the next.

    def freeze(self) -> FrozenBfd | None:
        """What is to be known to go on; of a session that is not up there is nothing to go on with."""
        if self.state is not BfdState.UP:
            return None
        return FrozenBfd(
            min_tx=self.timing.min_tx,
            min_rx=self.timing.min_rx,
            multiplier=self.timing.multiplier,
            local_discriminator=self.local_discr,
            remote_discriminator=self.remote_discr,
            remote_min_tx=self.remote_min_tx,
            remote_min_rx=self.remote_min_rx,
            remote_multiplier=self.remote_multiplier,
            remote_demand=self.remote_demand,
            control_plane_independent=self.remote_independent,
            tx_in_use=self._tx_in_use,
            rx_in_use=self._rx_in_use,
            polling=self.polling,
            ups=self.ups,
        )

    @classmethod
    def thaw(cls, frozen: FrozenBfd, random: Random, now: float) -> Session:
        """The same session, as if the peer's last packet came now. What it sends first takes back a ``patience``."""
        timing = BfdTiming(frozen.min_tx, frozen.min_rx, frozen.multiplier)
        session = cls(timing, frozen.local_discriminator, random, now)
        session.state = session.remote_state = BfdState.UP
        session.remote_discr = frozen.remote_discriminator
        session.remote_min_tx, session.remote_min_rx = frozen.remote_min_tx, frozen.remote_min_rx
        session.remote_multiplier = frozen.remote_multiplier
        session.remote_demand = frozen.remote_demand
        session.remote_independent = frozen.control_plane_independent
        session._tx_in_use, session._rx_in_use = frozen.tx_in_use, frozen.rx_in_use
        session.polling, session.ups = frozen.polling, frozen.ups
        session._heard_at = now
        return session

    def patience(self, seconds: float) -> Packet:
        """A packet that lets the peer wait so long for the next, as far as 255 intervals reach: the Detect Mult of the
        newest packet is what counts (§6.8.4)."""
        interval = max(self.desired_min_tx, self.remote_min_rx) * _MICRO
        most = min(255, max(self.timing.multiplier, ceil(seconds / interval)))
        return self._packet(final=False)._replace(multiplier=most)

    # State.

    @property
    def desired_min_tx(self) -> int:
        """bfd.DesiredMinTxInterval, as our packets say it."""
        return self.timing.min_tx if self.state is BfdState.UP else max(self.timing.min_tx, SLOW)

    @property
    def transmit_interval(self) -> int:
        """Microseconds between two packets of ours, before jitter."""
        return max(self._tx_in_use, self.remote_min_rx)

    @property
    def detection_time(self) -> int:
        """Microseconds without a packet after which the peer is dead (§6.8.4); 0 while nothing was heard."""
        return self.remote_multiplier * max(self._rx_in_use, self.remote_min_tx)

    def over(self, now: float) -> bool:
        """Whether it was taken down, and the peer knows, or had its time to notice."""
        return self._until is not None and now >= self._until

    def next_deadline(self) -> float | None:
        """When ``tick`` is due; ``None`` for never."""
        times = [self._next_sending(), self._expiry(), self._until]
        return min((at for at in times if at is not None), default=None)

    def packets_to_send(self) -> list[Packet]:
        """What is to be sent since the last call, in order."""
        packets, self._out = self._out, []
        return packets

    def changes(self) -> list[Change]:
        """What happened since the last call, in order."""
        changes, self._changes = self._changes, []
        return changes

    # Input.

    def receive(self, packet: Packet, now: float) -> None:
        """A packet that was found to be this session's. ``Refused`` while we are taken down (§6.8.6)."""
        self.received += 1
        self.remote_diag = packet.diagnostic
        self.remote_discr = packet.my_discriminator
        self.remote_state = packet.state
        self.remote_demand = packet.demand
        self.remote_independent = packet.control_plane_independent
        self.remote_min_rx = packet.required_min_rx
        self.remote_min_tx = packet.desired_min_tx
        self.remote_multiplier = packet.multiplier
        if self.polling and packet.final:
            self._poll_ends()
        if self.state is BfdState.ADMIN_DOWN:
            if packet.state is not BfdState.UP:
                self._until = now  # the peer knows
            raise Refused(Discard.ADMIN_DOWN)
        self._heard_at = now
        self._follow(packet.state)
        self._final = self._final or packet.poll
        self._emit(now)

    def tick(self, now: float) -> None:
        """Time has come to ``next_deadline``. What waits unread in a socket is to be given first: it counts as life."""
        expiry = self._expiry()
        if expiry is not None and now >= expiry:
            self._heard_at = None
            self.remote_discr, self.remote_min_rx, self.remote_min_tx = 0, 1, 0
            self.remote_multiplier, self.remote_demand = 0, False
            self.remote_state = BfdState.DOWN
            if self.state > BfdState.DOWN:
                self._move(BfdState.DOWN, Diagnostic.DETECTION_TIME_EXPIRED)
        self._emit(now)

    # Orders.

    def remind(self) -> None:
        """The peer is to hear what we say once more, at once."""
        self._due = True

    def configure(self, timing: BfdTiming, now: float) -> None:
        """Other options of the same session: the peer learns them by a Poll Sequence (§6.8.3)."""
        before, self.timing = self.timing, timing
        if timing == before:
            return
        self._due = True
        if self.state is BfdState.UP and timing[:2] != before[:2]:
            self._tx_in_use = min(self._tx_in_use, timing.min_tx)
            self._rx_in_use = max(self._rx_in_use, timing.min_rx)
            self._poll()
        elif self.state is not BfdState.UP:
            self._tx_in_use, self._rx_in_use = self.desired_min_tx, timing.min_rx
        self._emit(now)

    def take_down(self, now: float) -> None:
        """AdminDown (§6.8.16): nothing has failed, the session is not wanted. It goes on saying so to the peer until it
        is ``over``."""
        if self.state is BfdState.ADMIN_DOWN:
            return
        known = self.remote_multiplier > 0
        wait = self.timing.multiplier * max(self.transmit_interval, SLOW) * _MICRO if known else 0.0
        self._until = now + wait
        self._move(BfdState.ADMIN_DOWN, Diagnostic.ADMINISTRATIVELY_DOWN)
        self._emit(now)

    # Inside.

    def _follow(self, theirs: BfdState) -> None:
        """The state machine (§6.2, §6.8.6)."""
        if theirs is BfdState.ADMIN_DOWN:
            if self.state is not BfdState.DOWN:
                self._move(BfdState.DOWN, Diagnostic.NEIGHBOR_SIGNALED_DOWN)
        elif self.state is BfdState.DOWN:
            if theirs is BfdState.DOWN:
                self._move(BfdState.INIT, self.local_diag)
            elif theirs is BfdState.INIT:
                self._move(BfdState.UP, Diagnostic.NONE)
        elif self.state is BfdState.INIT:
            if theirs >= BfdState.INIT:
                self._move(BfdState.UP, Diagnostic.NONE)
        elif theirs is BfdState.DOWN:
            self._move(BfdState.DOWN, Diagnostic.NEIGHBOR_SIGNALED_DOWN)

    def _move(self, state: BfdState, diagnostic: Diagnostic) -> None:
        before, self.state, self.local_diag = self.state, state, diagnostic
        self._due = True
        if state is BfdState.UP:
            self.ups += 1
            self._changes.append(Change(True, diagnostic, False))
            # Until the peer has confirmed that we send faster now, or slower, both hold.
            self._tx_in_use = min(self._tx_in_use, self.desired_min_tx)
            self._poll()
        elif before is BfdState.UP:
            ordered = BfdState.ADMIN_DOWN in (state, self.remote_state)
            self.downs[diagnostic] += 1
            self._changes.append(Change(False, diagnostic, ordered))
            self.polling = self._poll_again = False
            self._rx_in_use = self.timing.min_rx
            self._tx_in_use = self.desired_min_tx

    def _poll(self) -> None:
        self._poll_again = self.polling
        self.polling = True
        self._due = True

    def _poll_ends(self) -> None:
        if self._poll_again:  # what the peer has confirmed may be what we asked before
            self._poll_again = False
            return
        self.polling = False
        self._tx_in_use, self._rx_in_use = self.desired_min_tx, self.timing.min_rx

    def _silent(self) -> bool:
        """Whether nothing is to be sent by the clock: the peer asks for none, or is in demand mode (§6.6)."""
        if self.remote_min_rx == 0:
            return True
        up = self.state is BfdState.UP and self.remote_state is BfdState.UP
        return self.remote_demand and up and not self.polling

    def _next_sending(self) -> float | None:
        if self._silent():
            return None
        if self._due:
            return self._sent_at
        return self._sent_at + self.transmit_interval * _MICRO * self._spread

    def _expiry(self) -> float | None:
        if self._heard_at is None or self.state is BfdState.ADMIN_DOWN:
            return None
        return self._heard_at + self.detection_time * _MICRO

    def _emit(self, now: float) -> None:
        """What is to be sent now."""
        if self._final:
            self._final = False
            self._out.append(self._packet(final=True))
            self.sent += 1
        due = self._next_sending()
        if due is None:
            self._due = False
        elif now >= due:
            self._due = False
            self._sent_at = now
            # No more than 90 percent where one lost packet is the end (§6.8.7).
            self._spread = self._random.uniform(0.75, 1.0 if self.timing.multiplier > 1 else 0.9)
            self._out.append(self._packet(final=False))
            self.sent += 1

    def _packet(self, *, final: bool) -> Packet:
        return Packet(
            state=self.state,
            my_discriminator=self.local_discr,
            your_discriminator=self.remote_discr,
            desired_min_tx=self.desired_min_tx,
            required_min_rx=self.timing.min_rx,
            multiplier=self.timing.multiplier,
            diagnostic=self.local_diag,
            poll=self.polling and not final,
            final=final,
        )
