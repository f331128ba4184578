"""The Kubernetes API over HTTP: lists that arrive in pieces, watches, single objects. This room's door to the network.

Whom to ask and who we are is lightkube's part: kubeconfig with contexts and exec plugins, the account of a pod with its
token renewed on disk, client certificates, proxies. Its list and watch are not used: they keep a page as a whole, make
a typed object of each item, know neither bookmarks nor streaming lists nor ``Retry-After``. They forget at a 410 what
was known, so that nothing could be compared. Imported only when this datastore is chosen (4 MiB in the daemon).

Files named by the configuration (certificates, tokens, the kubeconfig itself) are read again when the server no longer
knows or trusts us. Errors are ``Trouble``.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx

from bgpd.datastore.kubernetes.pieces import ListPieces
from bgpd.datastore.trouble import Kind, Trouble
from bgpd.lean_import import lean_import

with lean_import("lightkube"):
    from lightkube.config.client_adapter import AsyncClient, ConnectionParams
    from lightkube.config.kubeconfig import SERVICE_ACCOUNT, KubeConfig, SingleConfig
    from lightkube.config.models import NameValue, User, UserExec
    from lightkube.core.exceptions import ConfigError as LightkubeError

CONNECT_TIMEOUT = 5.0
ANSWER_TIMEOUT = 30.0
"""Seconds between two pieces of an answer."""
LONGEST_LINE = 16 << 20
"""Octets of one event of a watch; etcd's limit of an object is 1.5 MiB."""

LONGEST_ANSWER = 16 << 20
"""Octets of one object, as they are when they are unpacked."""
LONGEST_REFUSAL = 64 << 10
"""Octets that are read of an answer that says no."""

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Access:
    """How the API server is reached. Without a ``kubeconfig``: as the account of the pod that we run in."""

    kubeconfig: Path | None = None
    context: str | None = None
    """The name of a context of the kubeconfig; the current one without it."""
    service_account: Path = Path(SERVICE_ACCOUNT)


class KubernetesClient:
    """A connection to one API server; made at the first request."""

    def __init__(self, access: Access, agent: str = "bgpd") -> None:
        self._access = access
        self._agent = agent
        self._client: httpx.AsyncClient | None = None
        self._connecting = asyncio.Lock()
        self._users: Counter[httpx.AsyncClient] = Counter()
        """How many requests are under way on each: one that is to go is closed when the last of them ends."""
        self.server = ""
        """The server's address, once it was connected to."""
        self.namespace = "default"
        """That of the account or of the context."""

    async def close(self) -> None:
        """When the requests under way end so does the connection; the next one connects again, with what the files
        hold then."""
        client, self._client = self._client, None
        if client is not None and not self._users[client]:
            await client.aclose()

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> Document:
        """One object, or whatever a path answers as JSON."""
        return await self.send("GET", path, params=params)

    async def send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        params: Mapping[str, str] | None = None,
        content: str = "application/json",
    ) -> Document:
        """One request with one answer. ``Trouble`` CONFLICT: somebody else wrote first; AWAY of anything but a GET
        leaves open whether it happened. ``content``: of a PATCH its media type."""
        data = None if body is None else json.dumps(body).encode()
        async with self._answer(method, path, params or {}, data, content, ANSWER_TIMEOUT) as answer:
            body = await _body(answer, LONGEST_ANSWER)
            if len(body) > LONGEST_ANSWER:
                raise Trouble(
                    Kind.NONSENSE, f"{self.server}{path}: an answer of over {LONGEST_ANSWER} octets"
                )
            return self._loads(body)

    async def items(self, path: str, params: Mapping[str, str]) -> AsyncGenerator[tuple[list[Document], str]]:
        """The items of a LIST as they arrive, page by page where ``params`` has a ``limit``; with the version of the
        list once it is known, and at last with no item: the version from which to watch."""
        more: dict[str, str] = {}
        version = ""
        while True:
            pieces = ListPieces()
            async with self._answer("GET", path, {**params, **more}, None, "", ANSWER_TIMEOUT) as answer:
                try:
                    async for data in answer.aiter_bytes():
                        if found := pieces.feed(data):
                            yield found, ""
                        if pieces.held > LONGEST_ANSWER:
                            raise ValueError(f"a value of over {LONGEST_ANSWER} octets")
                    if found := pieces.feed(b"", last=True):
                        yield found, ""
                except (ValueError, RecursionError) as error:
                    raise Trouble(Kind.NONSENSE, f"{self.server}{path}: no list: {error}") from None
            metadata = pieces.rest.get("metadata")
            if not pieces.done or not isinstance(metadata, dict) or pieces.rest.get("items") is not None:
                raise Trouble(Kind.AWAY, f"{self.server}{path}: the list broke off")
            version = str(metadata.get("resourceVersion") or version)
            token = metadata.get("continue")
            if not token:
                yield [], version
                return
            # The rest of a list says of itself of which version it is, and takes no other.
            params = {key: value for key, value in params.items() if not key.startswith("resourceVersion")}
            more = {"continue": str(token)}

    async def watch(
        self, path: str, params: Mapping[str, str], silence: float
    ) -> AsyncGenerator[list[tuple[str, Document]]]:
        """(type, object) of the events of a WATCH, those that came together in one list. It ends when the server ends
        it, or with ``silence`` seconds in which nothing came. A line of type ERROR is raised as ``Trouble``."""
        rest = bytearray()
        async with self._answer("GET", path, {**params, "watch": "true"}, None, "", silence) as answer:
            chunks = answer.aiter_bytes()
            yield []  # it is there
            while True:
                try:
                    data = await anext(chunks)
                except (StopAsyncIteration, httpx.ReadTimeout):
                    return
                first = len(rest)
                rest += data
                end = rest.rfind(b"\n", first)
                if end < 0:
                    if len(rest) > LONGEST_LINE:
                        raise Trouble(
                            Kind.NONSENSE, f"{self.server}{path}: a line of over {LONGEST_LINE} octets"
                        )
                    continue
                lines, rest = bytes(rest[:end]), rest[end + 1 :]
                yield [self._event(line) for line in lines.split(b"\n") if line]

    def _event(self, line: bytes) -> tuple[str, Document]:
        event = self._loads(line)
        kind, found = event.get("type"), event.get("object")
        if not isinstance(kind, str) or not isinstance(found, dict):
            raise Trouble(Kind.NONSENSE, f"{self.server}: an event of a watch without type or object")
        if kind == "ERROR":
            code = found.get("code")
            raise _trouble(code if isinstance(code, int) else 0, found, None)
        return kind, found

    def _loads(self, data: bytes) -> Document:
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise Trouble(Kind.NONSENSE, f"{self.server}: an answer that is no JSON object: no API server?")
        return found

    # -- asking --------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _answer(
        self,
        method: str,
        path: str,
        params: Mapping[str, str],
        data: bytes | None,
        content: str,
        silence: float,
    ) -> AsyncIterator[httpx.Response]:
        """An answer that says yes; its body is yet to be read."""
        async with self._connecting:  # many ask at once
            client = self._client
            if client is None:
                client = self._client = await asyncio.to_thread(self._connect)
        headers = {"Accept": "application/json", **({"Content-Type": content} if data is not None else {})}
        self._users[client] += 1
        timeout = httpx.Timeout(silence, connect=CONNECT_TIMEOUT, write=ANSWER_TIMEOUT, pool=None)
        try:
            async with client.stream(
                method,
                path,
                params=params,
                content=data,
                headers=headers,
                timeout=timeout,
                extensions={"trace": _close_unfinished()},
            ) as answer:
                if answer.status_code >= 300:
                    raise _answered(answer, await _body(answer, LONGEST_REFUSAL))
                yield answer
        except Trouble as trouble:
            if trouble.kind is Kind.UNKNOWN:
                await self._again(client)
            raise
        except LightkubeError as error:  # a token's file or an exec plugin
            await self._again(client)
            raise Trouble(Kind.UNKNOWN, str(error)) from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            broken = _broken(error, self.server)
            if broken.kind is Kind.TLS:
                await self._again(client)
            raise broken from None
        finally:
            self._users[client] -= 1
            if not self._users[client]:
                del self._users[client]
                if client is not self._client:
                    await client.aclose()

    async def _again(self, client: httpx.AsyncClient) -> None:
        """The next request makes a new connection, unless one was made since."""
        if self._client is client:
            await self.close()

    def _connect(self) -> httpx.AsyncClient:
        """Reads all that says where the server is and who we are."""
        access = self._access
        try:
            if access.kubeconfig is not None:
                found = KubeConfig.from_file(access.kubeconfig).get(access.context)
            else:
                found = KubeConfig.from_service_account(access.service_account).get()
            assert found is not None
            config = _with_user(found)
            client = AsyncClient(config, ConnectionParams(timeout=httpx.Timeout(ANSWER_TIMEOUT)))
        except (ssl.SSLError, ValueError) as error:
            raise Trouble(Kind.TLS, f"{self._source()}: {error}") from None
        except (LightkubeError, OSError, LookupError, TypeError, AttributeError) as error:
            words = f"no key {error}" if isinstance(error, KeyError) else str(error)
            raise Trouble(Kind.UNKNOWN, f"{self._source()}: {words}") from None
        except Exception as error:  # YAML that is none, values of a wrong type: of several libraries
            raise Trouble(Kind.UNKNOWN, f"{self._source()}: {type(error).__name__}") from None
        client.headers["User-Agent"] = self._agent
        self.server = str(config.cluster.server)
        self.namespace = config.namespace
        return client

    def _source(self) -> str:
        return str(self._access.kubeconfig or self._access.service_account)


def _close_unfinished() -> Callable[[str, Mapping[str, Any]], Awaitable[None]]:
    """For the ``trace`` extension of one request. The library leaves a socket open when whoever waits for its TLS
    handshake is cancelled; it says all the same what it is about, and so the socket is closed here."""
    stream: Any = None

    async def trace(step: str, about: Mapping[str, Any]) -> None:
        nonlocal stream
        if step.endswith(".connect_tcp.complete"):
            stream = about["return_value"]
        elif step.endswith(".start_tls.failed") and stream is not None:
            await stream.aclose()

    return trace


def _with_user(config: SingleConfig) -> SingleConfig:
    """The context as it can be used: a user without anything is somebody too, and a plugin learns what is asked of it
    (``KUBERNETES_EXEC_INFO``), which those of version ``v1`` want; their answer is that of ``v1beta1``."""
    user = config.user
    if user is None:
        return config._replace(user=User())
    plugin = user.exec
    if isinstance(plugin, UserExec):
        info = {"apiVersion": plugin.apiVersion, "kind": "ExecCredential", "spec": {"interactive": False}}
        passed = NameValue(name="KUBERNETES_EXEC_INFO", value=json.dumps(info))
        plugin.env = [*(plugin.env or ()), passed]
        if plugin.apiVersion == "client.authentication.k8s.io/v1":
            plugin.apiVersion = "client.authentication.k8s.io/v1beta1"
    return config


_BY_STATUS = {
    400: Kind.UNSUPPORTED,
    401: Kind.UNKNOWN,
    403: Kind.FORBIDDEN,
    404: Kind.MISSING,
    405: Kind.UNSUPPORTED,
    406: Kind.UNSUPPORTED,
    409: Kind.CONFLICT,
    410: Kind.EXPIRED,
    415: Kind.UNSUPPORTED,
    422: Kind.UNSUPPORTED,
    429: Kind.BUSY,
}


async def _body(answer: httpx.Response, most: int) -> bytes:
    """The octets of an answer; of a longer one some more than ``most``."""
    body = bytearray()
    async for data in answer.aiter_bytes(64 << 10):
        body += data
        if len(body) > most:
            break
    return bytes(body)


def _answered(answer: httpx.Response, body: bytes) -> Trouble:
    """What an answer that says no means."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    reply = found if isinstance(found, dict) else {"message": body[:200].decode(errors="replace").strip()}
    try:
        retry_after = float(answer.headers["Retry-After"])
    except (KeyError, ValueError):
        retry_after = None
    return _trouble(answer.status_code, reply, retry_after)


def _trouble(status: int, reply: Mapping[str, Any], retry_after: float | None) -> Trouble:
    """Of a Status object, in an answer or in a watch."""
    details = reply.get("details")
    if retry_after is None and isinstance(details, dict):
        seconds = details.get("retryAfterSeconds")
        retry_after = float(seconds) if isinstance(seconds, int | float) and seconds else None
    words = str(reply.get("message") or f"HTTP status {status}")
    kind = _BY_STATUS.get(status)
    if kind is None and "RequestWatchProgress is disabled" in words:
        kind = Kind.UNSUPPORTED  # streaming lists over an etcd before 3.4.25
    return Trouble(kind or Kind.AWAY, words, retry_after)


def _broken(error: BaseException, server: str) -> Trouble:
    """A connection that did not come to be, or broke."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if cause is not None or "CERTIFICATE" in str(error) or "certificate" in str(error):
        return Trouble(Kind.TLS, f"{server}: {cause or error}")
    if isinstance(error, httpx.ReadTimeout):
        return Trouble(Kind.AWAY, f"{server}: no answer")
    return Trouble(Kind.AWAY, f"{server}: {str(error) or type(error).__name__}")
