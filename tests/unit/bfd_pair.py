"""Two BFD sessions and the path between them, in simulated time."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from random import Random

from bgpd.bfd.packet import Packet, Refused, decode, encode
from bgpd.bfd.session import Change, Session
from bgpd.model.bfd import BfdTiming


class Pair:
    """``a`` and ``b``, which hear each other after ``delay`` seconds. ``lossy`` says which packets do not come."""

    def __init__(self, a: BfdTiming, b: BfdTiming, *, seed: int = 0, delay: float = 0.001) -> None:
        random = Random(seed)
        self.now = 0.0
        self.delay = delay
        self.sessions = {"a": Session(a, 17, random, 0.0), "b": Session(b, 23, random, 0.0)}
        self.lossy: Callable[[str, Packet], bool] = lambda sender, packet: False
        self.sent: list[tuple[float, str, Packet]] = []
        self.changes: list[tuple[float, str, Change]] = []
        self.dead: set[str] = set()
        self._order = itertools.count()
        self._flying: list[tuple[float, int, str, bytes]] = []

    @property
    def a(self) -> Session:
        return self.sessions["a"]

    @property
    def b(self) -> Session:
        return self.sessions["b"]

    def step(self) -> float:
        """When something happens next."""
        times = [s.next_deadline() for name, s in self.sessions.items() if name not in self.dead]
        times += [self._flying[0][0]] if self._flying else []
        return min((at for at in times if at is not None), default=float("inf"))

    def run(self, seconds: float) -> None:
        """Lets time pass."""
        end = self.now + seconds
        for _ in range(100_000):
            at = max(self.now, self.step())
            if at > end:
                self.now = end
                return
            self.now = at
            while self._flying and self._flying[0][0] <= at:
                _, _, sender, octets = heapq.heappop(self._flying)
                other = "b" if sender == "a" else "a"
                if other not in self.dead:
                    try:
                        self.sessions[other].receive(decode(octets), at)
                    except Refused:
                        pass
                    self.collect(other)
            for name, session in self.sessions.items():
                deadline = session.next_deadline()
                if name not in self.dead and deadline is not None and deadline <= at:
                    session.tick(at)
                    self.collect(name)
                if session.over(at):
                    self.dead.add(name)
        raise AssertionError("the two never come to rest")

    def collect(self, name: str) -> None:
        """Takes what a session has to say."""
        session = self.sessions[name]
        self.changes += [(self.now, name, change) for change in session.changes()]
        for packet in session.packets_to_send():
            self.sent.append((self.now, name, packet))
            if not self.lossy(name, packet):
                flight = (self.now + self.delay, next(self._order), name, encode(packet))
                heapq.heappush(self._flying, flight)
