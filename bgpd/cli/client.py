"""A running daemon, as ``bgpctl`` asks it: HTTP/1.1 (RFC 9112) on its unix socket.

The standard library's client brings all of mail and TLS, which is most of what a command would take to start.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, BinaryIO
from urllib.parse import urlencode

TIMEOUT = 10.0
"""Seconds between two octets of an answer before the daemon counts as stuck."""
_LONGEST_LINE, _MOST_HEADERS = 1 << 16, 100


class Unreachable(Exception):
    """No daemon answers, or it stopped in the middle."""


class Denied(Exception):
    """The socket is there, and is not ours to open."""


class Refused(Exception):
    """The daemon answered that it cannot: HTTP ``status``, and in words why."""

    def __init__(self, status: int, message: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.status, self.problems = status, problems


class _BrokenOff(Exception):
    """What came is not a whole answer."""


class _Answer:
    """One answer, its body read as it comes: in chunks, of the length that is announced, or until the end."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        version, _, rest = self._line().partition(b" ")
        if not version.startswith(b"HTTP/1.") or not rest[:3].isdigit():
            raise _BrokenOff("it speaks no HTTP")
        self.status, self.reason = int(rest[:3]), rest[4:].decode("latin-1")
        self._headers: dict[bytes, bytes] = {}
        while line := self._line():
            name, _, value = line.partition(b":")
            self._headers[name.lower()] = value.strip().lower()
            if len(self._headers) > _MOST_HEADERS:
                raise _BrokenOff("it has no end of headers")

    def read(self) -> bytes:
        """All of the body."""
        return b"".join(self._pieces())

    def __iter__(self) -> Iterator[bytes]:
        """The body's lines."""
        rest = b""
        for piece in self._pieces():
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                yield line + b"\n"
        if rest:
            yield rest

    def _pieces(self) -> Iterator[bytes]:
        if self._headers.get(b"transfer-encoding") == b"chunked":
            while size := self._number(self._line().partition(b";")[0], 16):
                yield self._octets(size)
                self._octets(2)
        elif (length := self._headers.get(b"content-length")) is not None:
            yield self._octets(self._number(length, 10))
        else:
            yield from iter(lambda: self._stream.read(1 << 16), b"")

    def _line(self) -> bytes:
        line = self._stream.readline(_LONGEST_LINE)
        if not line.endswith(b"\n"):
            raise _BrokenOff("in the middle")
        return line.rstrip(b"\r\n")

    def _octets(self, count: int) -> bytes:
        octets = self._stream.read(count)
        if len(octets) < count:
            raise _BrokenOff("in the middle")
        return octets

    def _number(self, text: bytes, base: int) -> int:
        try:
            number = int(text, base)
        except ValueError:
            number = -1
        if number < 0:
            raise _BrokenOff("it speaks no HTTP")
        return number


class Client:
    """Asks the daemon behind one socket; a connection a question."""

    def __init__(self, path: str, timeout: float = TIMEOUT) -> None:
        self._path, self._timeout = path, timeout

    def get(self, path: str, query: Mapping[str, str] | None = None, *, failing: bool = False) -> Any:
        """The answer's JSON. ``failing`` takes 503 for an answer too: that of a check that fails."""
        with self._ask("GET", path, query) as response:
            if response.status != 200 and not (failing and response.status == 503):
                raise _refusal(response)
            return json.loads(response.read())

    def post(
        self, path: str, body: Mapping[str, object] | None = None, *, timeout: float | None = None
    ) -> Any:
        """The answer's JSON."""
        return self.post_lines(path, [body or {}], timeout=timeout)

    def post_lines(
        self, path: str, lines: Iterable[Mapping[str, object]], *, timeout: float | None = None
    ) -> Any:
        """The answer's JSON to a body of several objects, one a line."""
        body = "\n".join(json.dumps(line) for line in lines)
        with self._ask("POST", path, None, body, timeout) as response:
            if response.status != 200:
                raise _refusal(response)
            return json.loads(response.read())

    def lines(self, path: str, query: Mapping[str, str] | None = None) -> Iterator[bytes]:
        """The answer as it comes, line by line: a list of rows has one a line."""
        with self._ask("GET", path, query) as response:
            if response.status != 200:
                raise _refusal(response)
            yield from response

    @contextmanager
    def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: str | None = None,
        timeout: float | None = None,
    ) -> Iterator[_Answer]:
        target = f"{path}?{urlencode(query)}" if query else path
        timeout = timeout or self._timeout
        octets = (body or "").encode()
        length = "" if body is None else f"Content-Length: {len(octets)}\r\n"
        head = f"{method} {target} HTTP/1.1\r\nHost: bgpd\r\nConnection: close\r\n{length}\r\n"
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout)
        with closing(connection):
            try:
                connection.connect(self._path)
                connection.sendall(head.encode() + octets)
                with connection.makefile("rb") as stream:
                    yield _Answer(stream)
            except PermissionError:
                raise Denied(
                    f"no permission to talk to bgpd on {self._path}; be root or of its group"
                ) from None
            except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
                raise Unreachable(f"bgpd does not run here: nobody answers on {self._path}") from None
            except TimeoutError:
                raise Unreachable(f"bgpd on {self._path} does not answer within {timeout:g} s") from None
            except (_BrokenOff, ConnectionError) as error:
                words = str(error) if isinstance(error, _BrokenOff) else type(error).__name__
                raise Unreachable(f"bgpd on {self._path} broke off its answer ({words})") from None
            except OSError as error:
                raise Unreachable(f"cannot talk to bgpd on {self._path}: {error.strerror or error}") from None


def _refusal(response: _Answer) -> Refused:
    try:
        found = json.loads(response.read())
        return Refused(response.status, found["error"], tuple(found.get("problems", ())))
    except (ValueError, LookupError, TypeError):
        return Refused(response.status, f"HTTP {response.status} {response.reason}")
