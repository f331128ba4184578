"""BIRD's control sockets, for the tools that look there: ``bird.ctl`` (IPv4) and ``bird6.ctl`` in one directory.

The protocol is that of BIRD 1.6 (``doc/reply_codes``): a greeting, then a command a line. Each line of an answer is a
code and a hyphen, or a space where the code is that of the line before; the last one has a space behind its code.
Nothing follows it until the next command: readers drop what they did not ask for. ``views.bird`` has the words; here is
who may ask, and how much. ``daemon`` runs it where the configuration wants it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from bgpd.events import event
from bgpd.model.prefix import Family
from bgpd.model.resources import Problem
from bgpd.observe.control_socket import AlreadyRunning, Claim

FILES = {Family.IPV4: "bird.ctl", Family.IPV6: "bird6.ctl"}
MOST_CLIENTS = 64
"""Connections of one socket; the one that was quiet for longest goes when another comes."""
LONGEST_COMMAND = 4096
"""Octets of a line, as in BIRD."""
PATIENCE_SECONDS = 30.0
"""Seconds for a client to read what is written to it; one that does not is let go."""
SLICE_SECONDS = 0.004
"""Seconds of making an answer before the event loop gets a turn."""
CHUNK = 64 << 10
"""Octets that are written at a time."""
RETRY_SECONDS = 5.0
"""Seconds between two looks at whether the sockets are there and ours."""

log = logging.getLogger(__name__)


class Words(Protocol):
    """What is said on the sockets (``views.bird.Bird``)."""

    def greeting(self) -> str:
        """The first line, with its code."""

    def answer(self, family: Family, command: str) -> Iterator[str]:
        """The lines of an answer, with their codes; the last one ends it. Lines are taken over many turns of the event
        loop. Never raises for what a client says."""


class BirdSockets:
    """Both sockets. Whoever may write to ``bgpctl``'s socket by its mode may read here: 0660."""

    def __init__(self, directory: Path, words: Words) -> None:
        self._directory, self._words = directory, words
        self._clients: dict[Family, dict[asyncio.Task[None], float]] = {family: {} for family in FILES}
        """Who is connected, and when he last asked."""
        self.errors: dict[Family, str] = {}
        """Why a socket is not ours."""

    async def run(self) -> None:
        """Serves until it is cancelled. A directory that is removed and made again gets its sockets again; where
        another daemon answers, BIRD itself, that one is left alone, and looked at again."""
        claims: dict[Family, Claim] = {}
        servers: dict[Family, asyncio.Server] = {}
        try:
            while True:
                for family, name in FILES.items():
                    try:
                        if family not in claims:
                            claims[family] = Claim(self._directory / name)
                        elif not claims[family].renew():
                            continue
                        old, servers[family] = servers.get(family), await self._serve(family, claims[family])
                        if old is not None:
                            old.close()
                        self._report(family, "")
                    except AlreadyRunning:
                        self._report(family, "another daemon answers there")
                    except OSError as error:
                        self._report(family, str(error))
                await asyncio.sleep(RETRY_SECONDS)
        finally:
            for server in servers.values():
                server.close()
            for claim in claims.values():
                claim.release()
            tasks = [task for clients in self._clients.values() for task in clients]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def problems(self) -> Iterator[Problem]:
        """Sockets that are not ours, for the operator: who looks there asks another daemon, or nobody."""
        for family, error in self.errors.items():
            path = self._directory / FILES[family]
            yield Problem(str(path), "compat.bird_sockets", f"is not served: {error}")

    def _report(self, family: Family, error: str) -> None:
        if error and self.errors.get(family) != error:
            event(
                log,
                "bird_socket_not_ours",
                logging.WARNING,
                path=self._directory / FILES[family],
                cause=error,
            )
        self.errors[family] = error
        if not error:
            del self.errors[family]

    async def _serve(self, family: Family, claim: Claim) -> asyncio.Server:
        def came(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            clients = self._clients[family]
            if len(clients) >= MOST_CLIENTS:
                min(clients, key=lambda task: clients[task]).cancel()
            task = asyncio.create_task(self._client(family, reader, writer), name=FILES[family])
            clients[task] = time.monotonic()
            task.add_done_callback(lambda task: clients.pop(task, None))

        return await asyncio.start_unix_server(came, sock=claim.socket, limit=LONGEST_COMMAND)

    async def _client(
        self, family: Family, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        clients, task = self._clients[family], asyncio.current_task()
        assert task is not None
        try:
            await self._write(writer, iter((self._words.greeting(),)))
            while (line := await _line(reader)) is not None:
                clients[task] = time.monotonic()
                if len(line) > LONGEST_COMMAND:
                    await self._write(writer, iter(("9000 Command too long",)))
                elif line.strip():
                    text = line.decode("ascii", "replace").strip()
                    await self._write(writer, self._words.answer(family, text))
        except (OSError, TimeoutError):
            pass
        finally:
            writer.close()
            if writer.transport.get_write_buffer_size():
                writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _write(self, writer: asyncio.StreamWriter, lines: Iterator[str]) -> None:
        held: list[str] = []
        size, began = 0, time.monotonic()
        for line in lines:
            held.append(line)
            size += len(line)
            if size >= CHUNK or time.monotonic() - began >= SLICE_SECONDS:
                await self._flush(writer, held)
                held, size = [], 0
                await asyncio.sleep(0)
                began = time.monotonic()
        await self._flush(writer, held)

    async def _flush(self, writer: asyncio.StreamWriter, lines: list[str]) -> None:
        if not lines:
            return
        writer.write("".join(f"{line}\n" for line in lines).encode("ascii", "replace"))
        async with asyncio.timeout(PATIENCE_SECONDS):
            await writer.drain()


async def _line(reader: asyncio.StreamReader) -> bytes | None:
    """The next line; of one that is too long more than may be, the rest of it dropped; ``None`` at the end."""
    long = False
    while True:
        try:
            line = await reader.readuntil(b"\n")
        except asyncio.IncompleteReadError:
            return None
        except asyncio.LimitOverrunError as error:
            long = True
            await reader.readexactly(max(1, error.consumed))
            continue
        return bytes(LONGEST_COMMAND + 1) if long else line
