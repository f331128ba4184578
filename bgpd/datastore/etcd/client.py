"""etcd v3 over its JSON gateway: reads at one revision, watches, guarded writes. The door of this room to the network.

The gateway, not gRPC: etcd serves it on the client port of every release since 3.4. One connection carries any number
of watches, and it needs only aiohttp, which the daemon has for its own API (measured: 4 MiB more; aetcd over grpcio
25). Keys and values are octets; the gateway has them in base64, and its 64-bit numbers as text.

A read that one server does not answer is asked of the next; a write is not repeated once it may have arrived. A user's
token is renewed when the servers no longer know it. Errors are ``Trouble``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import socket
import ssl
from base64 import b64decode, b64encode
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from bgpd.config.named_files import SMALL, read_named
from bgpd.datastore.trouble import Kind, Trouble

CONNECT_TIMEOUT = 3.0
ANSWER_TIMEOUT = 10.0
"""Seconds for an answer; a page of a read is one answer."""
SILENCE_SECONDS = 10.0
"""Seconds of a quiet watch after which the server is asked whether it still is one of a quorum: one that is cut off
from the others keeps its watches open, and silent, for ever."""
CREATED_SECONDS = 1.0
"""Seconds after one watch of a request is there in which the next one must be."""
QUEUED = 4
"""Lines of watches that wait for their reader."""
PAGE = 500
"""Keys that one read asks for."""
LONGEST_LINE = 64 << 20
"""Octets. etcd takes requests of 1.5 MiB; a watch that catches up sends many events in one line."""


class KeyValue(NamedTuple):
    """One key as it is at a revision."""

    key: bytes
    value: bytes
    created: int
    """Revision at which it was made."""
    modified: int
    """Revision of its last change: the guard of a compare-and-swap."""


class Range(NamedTuple):
    """Keys from ``key`` up to, not including, ``end``; without an ``end`` one key."""

    key: bytes
    end: bytes | None = None

    @classmethod
    def prefix(cls, prefix: bytes) -> Range:
        """All keys that begin so. The last octet is never 255 in Calico's keys."""
        return cls(prefix, prefix[:-1] + bytes((prefix[-1] + 1,)))


class Compare(NamedTuple):
    """A guard: the key was last changed at exactly this revision; 0 is "does not exist"."""

    key: bytes
    modified: int


class PutOp(NamedTuple):
    key: bytes
    value: bytes


class DeleteOp(NamedTuple):
    key: bytes


class Committed(NamedTuple):
    """What became of a transaction."""

    succeeded: bool
    """Whether all guards held and everything was written; otherwise nothing was."""
    revision: int


class WatchEvents(NamedTuple):
    """One line of a watch."""

    number: int
    """Which of the ranges it is about."""
    revision: int
    """All that happened in that range up to this revision was reported with this."""
    puts_and_deletes: tuple[KeyValue | bytes, ...]
    """In the order in which they happened; octets are a key that was deleted."""
    created: bool = False
    """The watch of this range is there now."""


@dataclass(frozen=True, slots=True)
class Access:
    """How the servers are reached; files are read again when a connection is made anew."""

    endpoints: tuple[str, ...]
    """``https://10.0.0.1:2379``: the scheme says whether TLS is spoken."""
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    username: str | None = None
    password_file: Path | None = None


class EtcdClient:
    """A connection to the servers of one etcd; made at the first request."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._endpoints = list(access.endpoints)
        random.shuffle(self._endpoints)  # a cluster's nodes spread over the servers
        self._session: aiohttp.ClientSession | None = None
        self._token: str | None = None

    @property
    def endpoint(self) -> str:
        """The server that is asked next."""
        return self._endpoints[0]

    async def close(self) -> None:
        """Ends all requests; the next one connects again."""
        session, self._session, self._token = self._session, None, None
        if session is not None:
            await session.close()

    # -- reads ---------------------------------------------------------------------------------------------------------

    async def get(self, key: bytes) -> KeyValue | None:
        """One key, by the quorum."""
        _, found, _ = await self._range(Range(key), 0, 0)
        return found[0] if found else None

    async def read(
        self, ranges: Sequence[Range], revision: int = 0
    ) -> AsyncGenerator[tuple[int, list[KeyValue]]]:
        """The keys of some ranges as they all were at one revision (0: now), by portions, each with that revision.

        ``Trouble`` EXPIRED: the servers compacted that revision away meanwhile.
        """
        for wanted in ranges:
            rest: Range | None = wanted
            while rest is not None:
                now, found, more = await self._range(rest, revision, PAGE if wanted.end else 0)
                revision = revision or now
                yield revision, found
                rest = Range(found[-1].key + b"\0", wanted.end) if more and found else None

    async def _range(self, wanted: Range, revision: int, limit: int) -> tuple[int, list[KeyValue], bool]:
        body: dict[str, Any] = {"key": _text(wanted.key)}
        if wanted.end is not None:
            body["range_end"] = _text(wanted.end)
        if revision:
            body["revision"] = str(revision)
        if limit:
            body["limit"] = str(limit)
        answer = await self._ask("/v3/kv/range", body, repeat=True)
        return range_of(answer)

    # -- writes --------------------------------------------------------------------------------------------------------

    async def commit(self, guards: Iterable[Compare], writes: Iterable[PutOp | DeleteOp]) -> Committed:
        """Writes all or nothing: everything when each guard holds. ``Trouble`` AWAY leaves open whether it happened."""
        compare = [
            {"key": _text(key), "target": "MOD", "result": "EQUAL", "mod_revision": str(modified)}
            for key, modified in guards
        ]
        success = [
            {"requestPut": {"key": _text(op.key), "value": _text(op.value)}}
            if isinstance(op, PutOp)
            else {"requestDeleteRange": {"key": _text(op.key)}}
            for op in writes
        ]
        answer = await self._ask("/v3/kv/txn", {"compare": compare, "success": success}, repeat=False)
        return Committed(bool(answer.get("succeeded")), _revision(answer))

    # -- watches -------------------------------------------------------------------------------------------------------

    async def watch(self, ranges: Sequence[tuple[Range, int]]) -> AsyncGenerator[WatchEvents]:
        """What happens in some ranges, in each from a revision on, for ever, over as few connections as it takes.

        Of one range it comes in order; a range may be behind another. ``Trouble`` EXPIRED: a revision was compacted.

        All ranges are asked for in one request. But the gateway drops what of a request it had not read when its
        answer began (as Go's HTTP/1 server does); and a watch that was never made looks like a quiet one. So each
        range is waited for until the server says that its watch is there; those of which it does not are asked for
        over another connection. The first of a request is always made: this comes to an end.
        """
        missing = dict(enumerate(ranges, 1))
        lines: asyncio.Queue[WatchEvents | Trouble | None] = asyncio.Queue(QUEUED)
        connections: list[asyncio.Task[None]] = []
        answered = True
        """Whether one of the last request is there."""
        deadline: float | None = 0.0
        clock = asyncio.get_running_loop().time
        try:
            while True:
                if deadline is not None and clock() >= deadline:
                    if not answered:
                        raise Trouble(Kind.AWAY, f"{self.endpoint}: no watch within {ANSWER_TIMEOUT:g} s")
                    connections.append(asyncio.create_task(self._watch_into(lines, dict(missing))))
                    answered, deadline = False, clock() + ANSWER_TIMEOUT
                try:
                    async with asyncio.timeout_at(deadline):
                        said = await lines.get()
                except TimeoutError:
                    continue
                if said is None:
                    return
                if isinstance(said, Trouble):
                    raise said
                if said.created:
                    missing.pop(said.number + 1, None)
                    answered = True
                    deadline = clock() + CREATED_SECONDS if missing else None
                yield said
        finally:
            for connection in connections:
                connection.cancel()
            await asyncio.gather(*connections, return_exceptions=True)

    async def _watch_into(
        self, lines: asyncio.Queue[WatchEvents | Trouble | None], ranges: Mapping[int, tuple[Range, int]]
    ) -> None:
        """One connection of ``watch``: what it says goes into ``lines``, at last why it ended."""
        end: Trouble | None = None
        try:
            async with contextlib.aclosing(self._watch_once(ranges)) as events:
                async for said in events:
                    await lines.put(said)
        except Trouble as trouble:
            end = trouble
        except Exception as error:  # whoever waits must not wait for ever
            await lines.put(Trouble(Kind.NONSENSE, repr(error)))
            raise
        await lines.put(end)

    async def _watch_once(self, ranges: Mapping[int, tuple[Range, int]]) -> AsyncGenerator[WatchEvents]:
        requests = "\n".join(
            json.dumps(
                {
                    "create_request": {
                        "key": _text(each.key),
                        **({"range_end": _text(each.end)} if each.end is not None else {}),
                        "start_revision": str(revision),
                        "watch_id": str(number),
                        "progress_notify": True,
                    }
                }
            )
            for number, (each, revision) in ranges.items()
        )
        session, headers = await self._prepared()
        timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_TIMEOUT)
        try:
            async with session.post(
                self.endpoint + "/v3/watch",
                data=requests,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
            ) as answer:
                if answer.status != 200:
                    raise _trouble(answer.status, await _json(answer))
                async with contextlib.aclosing(self._lines(answer)) as lines:
                    async for line in lines:
                        yield _events(line)
        except Trouble as trouble:
            await self._after(trouble)
            raise
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            broken = _broken(error, self.endpoint)
            await self._after(broken)
            raise broken from None

    async def _lines(self, answer: aiohttp.ClientResponse) -> AsyncGenerator[Any]:
        """The JSON values of an answer that does not end. In silence the server is asked whether it is still there."""
        rest = bytearray()
        reading: asyncio.Task[bytes] | None = None
        try:
            while True:
                reading = reading or asyncio.create_task(answer.content.readany())
                done, _ = await asyncio.wait((reading,), timeout=SILENCE_SECONDS)
                if not done:
                    await self._range(Range(b"\0"), 0, 0)  # by the quorum: it raises where there is none
                    continue
                data, reading = reading.result(), None
                if not data:
                    return
                first = len(rest)
                rest += data
                if b"\n" not in data:
                    if len(rest) > LONGEST_LINE:
                        raise Trouble(
                            Kind.NONSENSE, f"{self.endpoint}: a line of more than {LONGEST_LINE} octets"
                        )
                    continue
                end = rest.rfind(b"\n", first)
                lines, rest = bytes(rest[:end]), rest[end + 1 :]
                for line in lines.split(b"\n"):
                    if line:
                        yield _loads(line, self.endpoint)
        finally:
            if reading is not None:
                reading.cancel()
                with contextlib.suppress(asyncio.CancelledError, aiohttp.ClientError, OSError):
                    await reading

    # -- asking --------------------------------------------------------------------------------------------------------

    async def _ask(self, path: str, body: Mapping[str, Any], repeat: bool) -> dict[str, Any]:
        """One request with one answer. ``repeat``: it may be asked of several servers, as often as there are."""
        trouble = Trouble(Kind.AWAY, "no endpoint")
        renewed = False
        tries = len(self._endpoints) + 1
        while tries:
            tries -= 1
            try:
                session, headers = await self._prepared()
                return await self._post(session, path, body, headers)
            except Trouble as error:
                trouble = error
            sent = not isinstance(trouble, NotSent)
            renew = trouble.kind is Kind.UNKNOWN and self._token is not None and not renewed
            await self._after(trouble)
            renewed |= renew
            if renew:
                tries += 1
            elif trouble.kind not in (Kind.AWAY, Kind.TLS, Kind.NONSENSE) or (sent and not repeat):
                break
        raise trouble

    async def _post(
        self, session: aiohttp.ClientSession, path: str, body: Mapping[str, Any], headers: Mapping[str, str]
    ) -> dict[str, Any]:
        try:
            async with session.post(
                self.endpoint + path, json=body, headers=headers, allow_redirects=False
            ) as answer:
                found = await _json(answer)
                if answer.status != 200:
                    raise _trouble(answer.status, found)
                if not isinstance(found, dict):
                    raise Trouble(Kind.NONSENSE, f"{self.endpoint}: not the answer of an etcd to {path}")
                return found
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _broken(error, self.endpoint) from None

    async def _after(self, trouble: Trouble) -> None:
        """What trouble means for the next request: another server, another token, files read again."""
        if trouble.kind is Kind.UNKNOWN:
            self._token = None
        if trouble.kind in (Kind.AWAY, Kind.TLS, Kind.NONSENSE):
            self._endpoints.append(self._endpoints.pop(0))
        if trouble.kind is Kind.TLS:
            await self.close()

    async def _prepared(self) -> tuple[aiohttp.ClientSession, dict[str, str]]:
        if self._session is None:
            self._session = self._connect()
        session = self._session
        if self._access.username is not None and self._token is None:
            credentials = {"name": self._access.username, "password": self._password()}
            answer = await self._post(session, "/v3/auth/authenticate", credentials, {})
            token = answer.get("token")
            self._token = token if isinstance(token, str) else ""
        return session, {"Authorization": self._token} if self._token else {}

    def _password(self) -> str:
        path = self._access.password_file
        if path is None:
            return ""
        try:
            return read_named(path, SMALL).decode().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise Trouble(Kind.UNKNOWN, f"datastore.password_file {path} cannot be read: {error}") from None

    def _connect(self) -> aiohttp.ClientSession:
        context: ssl.SSLContext | bool = True
        if any(endpoint.startswith("https:") for endpoint in self._endpoints):
            access = self._access
            try:
                context = ssl.create_default_context(cafile=access.ca)
                if access.cert is not None:
                    context.load_cert_chain(access.cert, access.key)
            except (OSError, ssl.SSLError) as error:
                names = ", ".join(os.fspath(path) for path in (access.ca, access.cert, access.key) if path)
                raise Trouble(Kind.TLS, f"certificates ({names}) cannot be used: {error}") from None
        connector = aiohttp.TCPConnector(ssl=context, limit=0, keepalive_timeout=60, socket_factory=_socket)
        timeout = aiohttp.ClientTimeout(total=ANSWER_TIMEOUT, sock_connect=CONNECT_TIMEOUT)
        return aiohttp.ClientSession(
            connector=connector, timeout=timeout, trust_env=False, cookie_jar=aiohttp.DummyCookieJar()
        )


class NotSent(Trouble):
    """The request cannot have arrived anywhere."""


def _socket(info: Any) -> socket.socket:
    """A socket that notices within half a minute that the other host is gone."""
    family, kind, protocol, *_ = info
    made = socket.socket(family, kind, protocol)
    for option, value in ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3)):
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000)
    return made


def _text(octets: bytes) -> str:
    return b64encode(octets).decode()


UNREADABLE = (KeyError, TypeError, ValueError, AttributeError, OverflowError)
"""What an answer of another shape than etcd's trips."""


def _revision(answer: Any) -> int:
    try:
        return int(answer["header"]["revision"])
    except UNREADABLE:
        raise Trouble(Kind.NONSENSE, "an answer without a revision: not an etcd") from None


def range_of(answer: Any) -> tuple[int, list[KeyValue], bool]:
    """(revision, keys and values, whether there are more) of an answer to a read."""
    revision = _revision(answer)
    found = answer.get("kvs") or ()
    if not isinstance(found, list | tuple):
        raise Trouble(Kind.NONSENSE, "an answer with keys that are no list: not an etcd")
    return revision, [_key_value(kv) for kv in found], bool(answer.get("more"))


def _key_value(kv: Any) -> KeyValue:
    try:
        value = b64decode(kv.get("value") or "")
        created, modified = (int(kv.get(key) or 0) for key in ("create_revision", "mod_revision"))
        return KeyValue(b64decode(kv["key"]), value, created, modified)
    except UNREADABLE:
        raise Trouble(Kind.NONSENSE, "an answer with a key that cannot be read: not an etcd") from None


def _events(line: Any) -> WatchEvents:
    """One line of a watch."""
    found = line.get("result") if isinstance(line, dict) else None
    if not isinstance(found, dict):
        error = line.get("error") if isinstance(line, dict) else None
        raise _trouble(200, error if isinstance(error, dict) else {"message": str(line)[:200]})
    if found.get("canceled"):
        if found.get("compact_revision") not in (None, 0, "0"):
            raise Trouble(Kind.EXPIRED, f"compacted: the oldest revision is {found['compact_revision']}")
        raise _trouble(200, {"message": found.get("cancel_reason") or "the watch was cancelled"})
    # That a watch is there is reported with the store's revision, and says nothing of what happened before.
    created = bool(found.get("created"))
    revision = 0 if created else _revision(found)
    try:
        number = int(found.get("watch_id", 0)) - 1
        events = tuple(
            b64decode(event["kv"]["key"]) if event.get("type") == "DELETE" else _key_value(event["kv"])
            for event in found.get("events") or ()
        )
    except UNREADABLE:
        raise Trouble(Kind.NONSENSE, "a line of a watch that cannot be read: not an etcd") from None
    return WatchEvents(number, revision, events, created)


_CODES = {7: Kind.FORBIDDEN, 16: Kind.UNKNOWN, 8: Kind.BUSY, 14: Kind.AWAY, 4: Kind.AWAY, 11: Kind.EXPIRED}
"""What gRPC's status codes mean."""
_WORDS = (
    ("invalid auth token", Kind.UNKNOWN),
    ("auth revision", Kind.UNKNOWN),  # the users changed: the token is of the time before
    ("user name is empty", Kind.UNKNOWN),
    ("authentication failed", Kind.UNKNOWN),
    ("permission denied", Kind.FORBIDDEN),
    ("has been compacted", Kind.EXPIRED),
)


def _trouble(status: int, answer: object) -> Trouble:
    """What an answer that is none says (gRPC's status as JSON)."""
    reply = answer if isinstance(answer, dict) else {}
    words = str(reply.get("message") or reply.get("error") or f"HTTP status {status}")
    lower = words.lower()
    kind = next((kind for text, kind in _WORDS if text in lower), None)
    if kind is None and isinstance(code := reply.get("code"), int):
        kind = _CODES.get(code)
    if kind is None:
        kind = {401: Kind.UNKNOWN, 403: Kind.FORBIDDEN, 404: Kind.NONSENSE, 429: Kind.BUSY}.get(
            status, Kind.AWAY
        )
    return Trouble(kind, words)


def _broken(error: BaseException, endpoint: str) -> Trouble:
    """A connection that did not come to be, or broke."""
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError | aiohttp.ServerFingerprintMismatch):
        cause = getattr(error, "os_error", None) or getattr(error, "certificate_error", None) or error
        return NotSent(Kind.TLS, f"{endpoint}: {cause}")
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        cause = getattr(error, "os_error", None)
        words = (cause.strerror if isinstance(cause, OSError) else None) or "no connection within seconds"
        return NotSent(Kind.AWAY, f"{endpoint}: {words}")
    if isinstance(error, TimeoutError):
        return Trouble(Kind.AWAY, f"{endpoint}: no answer within {ANSWER_TIMEOUT:g} s")
    return Trouble(Kind.AWAY, f"{endpoint}: {error or type(error).__name__}")


async def _json(answer: aiohttp.ClientResponse) -> Any:
    body = bytearray()
    async for data in answer.content.iter_any():
        body += data
        if len(body) > LONGEST_LINE:
            raise Trouble(Kind.NONSENSE, f"{answer.url}: an answer of more than {LONGEST_LINE} octets")
    return _loads(bytes(body), str(answer.url)) if answer.status == 200 else _or_text(bytes(body))


def _or_text(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return {"message": data[:200].decode(errors="replace").strip()}


def _loads(data: bytes, source: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise Trouble(Kind.NONSENSE, f"{source}: an answer that is not JSON: not an etcd?") from None
