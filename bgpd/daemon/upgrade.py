"""An upgrade that no peer notices: the sessions go from one process to the next, sockets and all (docs/restart.md).

``daemon`` has one of these. It hands over (``store`` to the service manager at a stop, ``hand_over`` to a process that
asked on the control socket), and starts such a process (``succeed``). It takes over at a start (``receive_stored``,
``take_over``), and says how far what was taken over is heard again. What is handed over is ``bgp.handover``'s document,
in a memory file, and the sockets.

The hand-over is one turn of the event loop, in which nothing else happens here: until the other side has said that it
has all, nothing has changed, and this process goes on as if it had never been asked. From then on it touches no
session any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from bgpd.bfd.speaker import Speaker as Bfd
from bgpd.bgp.frozen import FrozenSession, Unfit
from bgpd.bgp.handover import (
    MOST_OCTETS,
    Document,
    Inherited,
    boot_id,
    decode,
    earlier,
    encode,
    freeze_routes,
)
from bgpd.bgp.outbound import Outbound
from bgpd.bgp.speaker import Speaker
from bgpd.events import Seconds, event
from bgpd.model.doors import Impossible
from bgpd.model.peer import Peer, PeerId
from bgpd.model.prefix import Family
from bgpd.observe.control_socket import Claim
from bgpd.observe.sdnotify import Notifier, stored
from bgpd.rib.router import FrozenRouter, Router

log = logging.getLogger(__name__)

HEARING = "the sessions that were taken over are being heard again"
BEAT_SECONDS = 0.2
"""Seconds between looks at who needs a KEEPALIVE, while sessions wait to be taken."""
HEARING_SECONDS = 10.0
"""For all that was taken over to be heard again, before the kernel's routes are written for what was."""
ANSWER_SECONDS = 2.0
"""For the other process to take what it asked for."""
SUCCESSION_SECONDS = 60.0
"""For a process that we start to ask for the sessions."""
GONE_SECONDS = 5.0
"""For a process that has handed over to end."""
BFD_SECONDS = 10.0
"""For the next process to go on with the sessions of BFD, once their peers were asked to wait."""
AT_ONCE = 200
"""Descriptors in one message (SCM_MAX_FD is 253)."""
REQUEST = b"POST /v1/takeover HTTP/1.1\r\nHost: bgpd\r\nContent-Length: 0\r\n\r\n"
ANSWER = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: bgpd-handover\r\n\r\n"
SOME, ALL, TAKEN = b"+", b".", b"T"
"""Octets of the hand-over: some descriptors, no more of them, they are taken."""


class Received(NamedTuple):
    """What came from another process."""

    inherited: Inherited | None
    control: socket.socket | None = None
    """The listening control socket."""
    other: socket.socket | None = None
    """The connection to the process that handed over: its end shows that it is gone."""


class Upgrade:
    """See the module."""

    def __init__(
        self,
        speaker: Speaker,
        outbound: Outbound,
        router: Router,
        bfd: Bfd,
        notifier: Notifier,
        stop: Callable[[], None],
    ) -> None:
        """``stop`` is called once another process has the sessions."""
        self._speaker, self._outbound, self._router = speaker, outbound, router
        self._bfd, self._notifier, self._stop = bfd, notifier, stop
        self._inherited: Inherited | None = None
        self._document: Document | None = None
        self._frozen: dict[PeerId, FrozenSession] = {}
        self._hearing: dict[PeerId, set[Family]] = {}
        """Sessions that were taken over, with the families that are not whole again."""
        self._hearing_until = 0.0
        self._expected: int | None = None
        """Sessions that the other process had, and how many of them go on here."""
        self._resumed = 0
        self.claim: Claim | None = None
        """The control socket, once it is ours."""
        self._other: socket.socket | None = None
        self.handed_over = asyncio.Event()
        """Another process has the sessions: this one ends."""

    # The next process.

    def receive_stored(self) -> Received | None:
        """What the service manager kept for us; ``None`` where that is nothing."""
        descriptors = stored(os.environ)
        if not descriptors:
            return None
        self._notifier.forget_stored()
        return self._received(descriptors)

    async def take_over(self, path: Path) -> Received:
        """The sessions of the process that answers on a control socket. ``Impossible``: it does not give them."""
        descriptors, other = await asyncio.to_thread(_ask, path)
        received = self._received(descriptors)
        return received._replace(other=other)

    def _received(self, descriptors: Iterable[int]) -> Received:
        octets: bytes | None = None
        control: socket.socket | None = None
        sockets: list[socket.socket] = []
        for descriptor in descriptors:
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                sock = socket.socket(fileno=descriptor)
                if sock.family == socket.AF_UNIX:
                    control = sock
                else:
                    sockets.append(sock)
            else:
                octets = _read(descriptor)
        try:
            if octets is None:
                raise Unfit("no state came with the sockets")
            document = decode(octets)
        except Unfit as error:
            event(log, "not_taken_over", logging.WARNING, sockets=len(sockets), cause=str(error))
            for sock in sockets:
                sock.close()
            return Received(None, control)
        inherited = Inherited(document, sockets, time.monotonic())
        self._inherit(inherited)
        return Received(inherited, control)

    def _inherit(self, inherited: Inherited) -> None:
        """The speaker and the router go on with what came; before anything is decided."""
        self._inherited, self._document = inherited, inherited.document
        self._expected = inherited.expected
        self._frozen = {peer: waits.frozen for peer, waits in inherited.waiting.items()}
        event(
            log,
            "taking_over",
            sessions=len(inherited.waiting),
            of=inherited.expected,
            version=inherited.document.bgpd,
            after=Seconds(time.monotonic() - inherited.document.at, 2),
        )
        self._hearing_until = time.monotonic() + HEARING_SECONDS
        self._router.thaw(FrozenRouter(inherited.document.encoded, inherited.document.path_ids))
        self._speaker.inherit(inherited)
        self._bfd.inherit(inherited.document.bfd)
        self._on_beat()

    def _on_beat(self) -> None:
        if self._inherited is not None and self._inherited.waiting:
            self._inherited.keep_alive(time.monotonic())
            asyncio.get_running_loop().call_later(BEAT_SECONDS, self._on_beat)

    def resume_session(self, peer: Peer) -> None:
        """A session that is up in the router goes on: it joins its update groups, and is asked for all that it has. One
        that cannot be asked (RFC 7313) brought along what it had sent."""
        frozen = self._frozen.pop(peer.id)
        assert self._document is not None
        self._outbound.resume(peer, self._router.groups_of(peer), earlier(self._document, frozen))
        self._resumed += 1
        self._hearing[peer.id] = set(peer.families)
        if peer.enhanced_refresh:
            self._speaker.sessions.request_refresh(peer.id)
        if not self._frozen:
            self._document = None

    def heard_again(self, peer: PeerId, family: Family) -> None:
        """A peer has sent all it has."""
        if (missing := self._hearing.get(peer)) is not None:
            missing.discard(family)
            if not missing:
                del self._hearing[peer]

    def forget_session(self, peer: PeerId) -> None:
        """A session is over."""
        self._hearing.pop(peer, None)

    def hearing(self, now: float) -> str | None:
        """Why the kernel's routes are not written yet, if they are not: what was taken over is not heard whole."""
        if self._hearing and now >= self._hearing_until:
            event(log, "not_heard_again", logging.WARNING, peers=sorted(self._hearing))
            self._hearing.clear()
        return HEARING if self._hearing else None

    @property
    def whole(self) -> bool:
        """Whether all sessions of the other process go on here, and are heard."""
        return self._expected is not None and self._resumed == self._expected and not self._hearing

    # This process, at its end.

    def _freeze(self) -> tuple[int, int, Sequence[int], int]:
        """The document as a file in memory and its size, the descriptors of the sockets, and how many sessions there
        are. Changes nothing but BFD, which waits: ``bfd.go_on`` ends that."""
        speaker, router = self._speaker, self._router
        peers = speaker.prepare_to_freeze()
        ribs, groups = freeze_routes(
            self._outbound, peers, lambda peer, family: router.adj_rib_in(family).peer_paths(peer.id)
        )
        salt = secrets.token_bytes(16)
        frozen = speaker.freeze(ribs, salt)
        known = router.freeze()
        document = Document(
            at=time.monotonic(),
            boot=boot_id(),
            salt=salt,
            sessions=frozen.sessions,
            groups=groups,
            keys=frozen.keys,
            encoded=known.encoded,
            path_ids=known.path_ids,
        )
        try:
            waiting = [session._asdict() for session in self._bfd.freeze(BFD_SECONDS)]
            octets = encode(replace(document, bfd=waiting))
            return _memory(octets), len(octets), frozen.sockets, len(frozen.sessions)
        except BaseException:
            self._bfd.go_on()
            raise

    def store(self) -> None:
        """At a stop: the sessions into the service manager's store. It closes them unless this is a restart."""
        if not self._notifier.manages or self.handed_over.is_set():
            return
        started = time.monotonic()
        memory, size, sockets, count = self._freeze()
        try:
            if self._notifier.store([memory, *sockets]):
                self._speaker.let_go()
                took = time.monotonic() - started
                event(log, "sessions_stored", sessions=count, octets=size, took=Seconds(took, 3))
            else:
                self._bfd.go_on()
        finally:
            os.close(memory)

    def hand_over(self, descriptor: int) -> bool:
        """To the process at the other end of a connection to the control socket: the sessions, and the control socket.
        Whether it has them. Holds the event loop meanwhile, ``ANSWER_SECONDS`` at most a step."""
        assert self.claim is not None
        started, control = time.monotonic(), self.claim.socket.fileno()
        memory, size, sockets, count = self._freeze()
        other = socket.socket(fileno=os.dup(descriptor))
        other.settimeout(ANSWER_SECONDS)
        try:
            other.sendall(ANSWER)
            descriptors = [memory, control, *sockets]
            for place in range(0, len(descriptors), AT_ONCE):
                socket.send_fds(other, [SOME], descriptors[place : place + AT_ONCE])
            other.sendall(ALL)
            if other.recv(1) != TAKEN:
                raise ConnectionError("it ended before it had them")
        except OSError as error:
            other.close()
            self._bfd.go_on()
            event(log, "not_handed_over", logging.ERROR, cause=str(error))
            return False
        finally:
            os.close(memory)
        self._speaker.let_go()
        self.claim.give_away()
        asyncio.get_running_loop().remove_reader(
            control
        )  # who connects from now on speaks to the other process
        self._other = other  # open until this process ends: that is how the other one knows
        took = time.monotonic() - started
        event(log, "handed_over", sessions=count, octets=size, took=Seconds(took, 3))
        self.handed_over.set()
        self._stop()
        return True

    async def succeed(self) -> Mapping[str, str]:
        """Starts the next process, with this one's own words, and returns once it has taken over; or names the unit to
        restart for that. ``Impossible``: it did not, and this process goes on."""
        if self._notifier.manages:
            unit = unit_of(await asyncio.to_thread(Path("/proc/self/cgroup").read_text))
            if unit is None:
                raise Impossible("a service manager runs this process: restart it there")
            return {"message": f"restart {unit}", "unit": unit}
        if os.getpid() == 1:
            raise Impossible(
                "this is process 1, with which its container ends: start the next one beside it, "
                "with bgpd run --takeover"
            )
        words = [sys.executable, *sys.orig_argv[1:]]
        if "--takeover" not in words:
            words.append("--takeover")
        # Not asyncio's, which would end the child with this process.
        child = await asyncio.to_thread(subprocess.Popen, words, stdin=subprocess.DEVNULL)
        event(log, "upgrade", pid=child.pid)
        end = time.monotonic() + SUCCESSION_SECONDS
        while time.monotonic() < end and child.poll() is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await self.handed_over.wait()
                return {"message": f"process {child.pid} has the sessions"}
        if child.poll() is None:
            child.kill()
            await asyncio.to_thread(child.wait)
            why = f"had not taken over within {SUCCESSION_SECONDS:.0f} s"
        else:
            why = f"ended with exit code {child.returncode} before it took over; see the log"
        event(log, "upgrade_failed", logging.ERROR, pid=child.pid, cause=why)
        raise Impossible(f"the new process {why}; this one goes on")


def unit_of(cgroups: str) -> str | None:
    """The service that a process is part of, by its control groups."""
    names = [part for line in cgroups.splitlines() for part in line.split("/") if part.endswith(".service")]
    return names[-1] if names else None


async def gone(other: socket.socket) -> None:
    """Returns when the process that handed over has ended, or should have."""
    with contextlib.suppress(TimeoutError, OSError), contextlib.closing(other):
        other.setblocking(False)
        async with asyncio.timeout(GONE_SECONDS):
            while await asyncio.get_running_loop().sock_recv(other, 1):
                pass


def _memory(octets: bytes) -> int:
    """A file in memory that has these octets."""
    memory = os.memfd_create("bgpd-handover", os.MFD_CLOEXEC)
    try:
        view = memoryview(octets)
        while view:
            view = view[os.write(memory, view) :]
    except BaseException:
        os.close(memory)
        raise
    return memory


def _read(descriptor: int) -> bytes:
    """All of a file in memory, which is then closed. Its position is shared with whoever wrote it."""
    try:
        size = min(os.fstat(descriptor).st_size, MOST_OCTETS)
        parts, at = [], 0
        while at < size and (part := os.pread(descriptor, size - at, at)):
            parts.append(part)
            at += len(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def _ask(path: Path) -> tuple[list[int], socket.socket]:
    """Asks the process on a control socket for its sessions: descriptors, and the connection to it."""
    other = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    descriptors: list[int] = []
    try:
        other.settimeout(ANSWER_SECONDS + 3)
        other.connect(str(path))
        other.sendall(REQUEST)
        head = b""
        while not head.endswith(b"\r\n\r\n") and len(head) < 4096:
            octet = other.recv(1)
            if not octet:
                break
            head += octet
        if not head.startswith(b"HTTP/1.1 101 "):
            words = head.split(b"\r\n", 1)[0].decode(errors="replace")
            raise Impossible(f"the bgpd on {path} does not hand over: {words or 'it closed the connection'}")
        while True:
            octet, some, _, _ = socket.recv_fds(other, 1, AT_ONCE)
            descriptors += some
            if octet == ALL:
                break
            if octet != SOME:
                raise Impossible(f"the bgpd on {path} ended while it handed over")
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        other.sendall(TAKEN)
    except OSError as error:
        _close(other, descriptors)
        raise Impossible(f"the bgpd on {path} does not hand over: {error.strerror or error}") from error
    except BaseException:
        _close(other, descriptors)
        raise
    return descriptors, other


def _close(other: socket.socket, descriptors: Iterable[int]) -> None:
    other.close()
    for descriptor in descriptors:
        os.close(descriptor)
