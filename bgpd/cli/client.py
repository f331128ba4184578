"""A running daemon, as ``bgpctl`` asks it: HTTP on its unix socket, by the standard library alone."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import urlencode

TIMEOUT = 10.0
"""Seconds between two octets of an answer before the daemon counts as stuck."""


class Unreachable(Exception):
    """No daemon answers, or it stopped in the middle."""


class Denied(Exception):
    """The socket is there, and is not ours to open."""


class Refused(Exception):
    """The daemon answered that it cannot: HTTP ``status``, and in words why."""

    def __init__(self, status: int, message: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.status, self.problems = status, problems


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("bgpd", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


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
    ) -> Iterator[http.client.HTTPResponse]:
        target = f"{path}?{urlencode(query)}" if query else path
        timeout = timeout or self._timeout
        connection = _UnixConnection(self._path, timeout)
        with closing(connection):
            try:
                connection.request(method, target, body)
                yield connection.getresponse()
            except PermissionError:
                raise Denied(
                    f"no permission to talk to bgpd on {self._path}; be root or of its group"
                ) from None
            except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
                raise Unreachable(f"bgpd does not run here: nobody answers on {self._path}") from None
            except TimeoutError:
                raise Unreachable(f"bgpd on {self._path} does not answer within {timeout:g} s") from None
            except (http.client.HTTPException, ConnectionError) as error:
                raise Unreachable(
                    f"bgpd on {self._path} broke off its answer ({type(error).__name__})"
                ) from None
            except OSError as error:
                raise Unreachable(f"cannot talk to bgpd on {self._path}: {error.strerror or error}") from None


def _refusal(response: http.client.HTTPResponse) -> Refused:
    try:
        found = json.loads(response.read())
        return Refused(response.status, found["error"], tuple(found.get("problems", ())))
    except (ValueError, LookupError, TypeError):
        return Refused(response.status, f"HTTP {response.status} {response.reason}")
