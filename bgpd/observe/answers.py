"""How the doors to the operator answer: JSON in one piece, long lists in slices, errors as JSON.

An error is ``{"error": ...}`` with 400, 404, 405, 408, 409, 413, 422 or 500. A long list is made and sent in slices of
a few milliseconds, so that the event loop is not held.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from itertools import islice
from time import perf_counter
from typing import Any

from bgpd.config.reading import ConfigError
from bgpd.events import failure
from bgpd.lean_import import lean_import
from bgpd.model.doors import Ambiguous, Impossible, NotFound
from bgpd.observe.as_json import SCHEMA_VERSION

with lean_import("aiohttp"):
    from aiohttp import web

log = logging.getLogger(__name__)

SLICE_SECONDS = 0.002
"""Seconds of work between two turns of the event loop while a long answer is made."""
BODY_SECONDS = 30.0
"""Seconds for the body of a request to come in."""
READER_SECONDS = 300.0
"""Seconds that a reader of a long answer may pause: whoever pages through it reads on before that."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def answer(content: dict[str, Any], status: int = 200) -> web.Response:
    """An object, with the version of the schema."""
    text = json.dumps(
        {"schema_version": SCHEMA_VERSION, **content}, ensure_ascii=False, separators=(",", ":")
    )
    return json_text(text, status)


def json_text(text: str, status: int = 200) -> web.Response:
    """An answer. A question may have had half a surrogate pair in it, which no octets of UTF-8 can say."""
    body = (text + "\n").encode(errors="backslashreplace")
    return web.Response(body=body, status=status, content_type="application/json", charset="utf-8")


def _slices(rows: Iterable[str | None]) -> Iterator[list[str]]:
    """The rows in lists that took ``SLICE_SECONDS`` to make at most; ``None`` is no row, only a chance to look."""
    part: list[str] = []
    deadline = perf_counter() + SLICE_SECONDS
    for row in rows:
        if row is not None:
            part.append(row)
        if perf_counter() > deadline:
            yield part
            part = []
            deadline = perf_counter() + SLICE_SECONDS
    yield part


async def stream(
    request: web.Request, head: dict[str, Any], key: str, rows: Iterable[str | None]
) -> web.StreamResponse:
    """An answer with a list of encoded rows, however long: ``{head..., key: [rows]}``, each row a line of its own.

    What is wrong with the question shows in the first slice, when there is still a status to choose.
    """
    slices = _slices(rows)
    try:
        parts = list(islice(slices, 1))
    except ValueError as error:
        raise web.HTTPBadRequest(text=str(error)) from None
    response = web.StreamResponse(headers={"Content-Type": "application/json; charset=utf-8"})
    opening = json.dumps({"schema_version": SCHEMA_VERSION, **head}, separators=(",", ":"))
    await response.prepare(request)
    await response.write(f'{opening[:-1]},"{key}":[\n'.encode())
    try:
        separator = ""
        while parts:
            if part := parts.pop():
                octets = (separator + ",\n".join(part)).encode(errors="backslashreplace")
                async with asyncio.timeout(READER_SECONDS):
                    await response.write(octets)
                separator = ",\n"
            await asyncio.sleep(0)
            parts.extend(islice(slices, 1))
    except ConnectionError:
        return response  # the reader has seen enough
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        return response
    except Exception:
        # Too late for a status: an answer cut short is what the reader sees.
        failure(log, "answer_broken", path=request.path_qs)
        if request.transport is not None:
            request.transport.abort()
        return response
    await response.write(b"\n]}\n")
    await response.write_eof()
    return response


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except NotFound as error:
        return answer({"error": str(error)}, 404)
    except Ambiguous as error:
        return answer({"error": str(error)}, 400)
    except Impossible as error:
        return answer({"error": str(error)}, 409)
    except ConfigError as error:
        problems = [str(problem) for problem in error.problems]
        return answer({"error": "the configuration was not taken", "problems": problems}, 422)
    except web.HTTPException as error:
        return answer({"error": error.text or error.reason}, error.status)
    except web.RequestPayloadError:
        return answer({"error": "the body of the request is not what its head says"}, 400)
    except ConnectionError:
        raise
    except TimeoutError:
        return answer({"error": f"the body of the request did not come within {BODY_SECONDS:.0f} s"}, 408)
    except Exception as error:
        failure(log, "request_failed", method=request.method, path=request.path_qs)
        return answer({"error": f"internal error, see the daemon's log: {type(error).__name__}"}, 500)
