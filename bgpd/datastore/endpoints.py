"""Felix's endpoint-status files: the workloads of this node that speak BGP to it (calico.md §2.6).

Felix writes one file a workload, ``{"ifaceName", "mac", "ipv4Nets": [], "ipv6Nets": [], "bgpPeerName"}`` as JSON;
those without a ``bgpPeerName`` do not concern us. A directory that is not there has none. ``datastore.files`` reads
again when something happened; a file that is being written, or is no good, leaves its last good version and a named
problem.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from bgpd.datastore.calico.fields import Bad, Fields, plain_address
from bgpd.datastore.directories import Names, read_file
from bgpd.datastore.objects import Failure
from bgpd.model.prefix import Address, Family, family_of, parse_prefix
from bgpd.model.resources import LocalWorkload, Problem

_AT_A_TIME = 64
"""Files between two turns of the event loop."""


class _Status(NamedTuple):
    """What was read of a file, and by what to know that it is still the same."""

    stamp: tuple[int, ...]
    workload: LocalWorkload | None
    failures: tuple[Failure, ...] = ()


class Endpoints:
    """The files of one directory."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._files: dict[str, _Status] = {}
        self._failures: tuple[Failure, ...] = ()
        """What is wrong with the directory itself."""

    def workloads(self) -> tuple[LocalWorkload, ...]:
        """In the order of the files' names."""
        found = (status.workload for _, status in sorted(self._files.items()))
        return tuple(workload for workload in found if workload is not None)

    def failures(self) -> tuple[Failure, ...]:
        return (*self._failures, *(failure for status in self._files.values() for failure in status.failures))

    async def read(self, names: Names, force: bool = False) -> None:
        """Reads the files named, or all whose stat differs (with ``force``, all), and forgets those that are gone."""
        wanted = self._list() if names is None else {name for name in names if not name.startswith(".")}
        if wanted is None:
            return
        if names is None:
            self._files = {name: status for name, status in self._files.items() if name in wanted}
        for number, name in enumerate(sorted(wanted), 1):
            self._read_file(name, force or names is not None)
            if number % _AT_A_TIME == 0:
                await asyncio.sleep(0)

    def _list(self) -> set[str] | None:
        """Names of the files; ``None`` when the directory cannot be read, and what was read of it stands."""
        self._failures = ()
        try:
            return {name for name in os.listdir(self.path) if not name.startswith(".")}
        except FileNotFoundError:
            return set()
        except OSError as error:
            self._failures = (self._failure("", f"cannot be read: {error.strerror}", "io"),)
            return None

    def _read_file(self, name: str, force: bool) -> None:
        path, known = self.path / name, self._files.get(name)
        last_good = known.workload if known is not None else None
        try:
            stamp, data = read_file(path, known.stamp if known is not None and not force else None)
        except FileNotFoundError:
            self._files.pop(name, None)
            return
        except OSError as error:
            failure = self._failure(name, f"cannot be read: {error.strerror}", "io")
            self._files[name] = _Status((), last_good, (failure,))
            return
        if data is None:
            return
        try:
            self._files[name] = _Status(stamp, decode(_json(data)))
        except _Wrong as error:
            failures = tuple(self._failure(name, message, "invalid", path) for path, message in error.notes)
            self._files[name] = _Status(stamp, last_good, failures)

    def _failure(self, name: str, message: str, reason: str, path: str = "") -> Failure:
        return Failure(reason, Problem(str(self.path / name), path, message))


class _Wrong(Exception):
    """A file that is no good: paths and messages."""

    def __init__(self, notes: list[tuple[str, str]]) -> None:
        self.notes = notes


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        where = f"line {error.lineno} column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise _Wrong([("", f"is no JSON{where and ', from ' + where}")]) from None


def decode(status: object) -> LocalWorkload | None:
    """The workload of one file; ``None`` when it is no BGP peer, or has no address to speak from."""
    notes: list[tuple[str, str]] = []
    try:
        fields = Fields(status, "", notes)
        peer = fields.text("bgpPeerName")
        if peer is None:
            return None
        interface = fields.required("ifaceName")
        ipv4 = _first(fields, "ipv4Nets", Family.IPV4)
        ipv6 = _first(fields, "ipv6Nets", Family.IPV6)
    except Bad:
        raise _Wrong(notes) from None
    return LocalWorkload(interface, peer, ipv4, ipv6) if ipv4 or ipv6 else None


def _first(fields: Fields, key: str, family: Family) -> Address | None:
    """The first address of a list of ``address/length``."""
    for at, net in fields.entries(key):
        try:
            parse_prefix(net if isinstance(net, str) else "")
            address = plain_address(net.partition("/")[0])
        except ValueError:
            fields.bad(at, f"expected an address, not {net!r}")
        if family_of(address) is not family:
            fields.bad(at, f"{net!r} is not of {family.label}")
        return address
    return None
