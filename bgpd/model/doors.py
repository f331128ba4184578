"""The protocols of the doors: what ``daemon`` may ask of a datastore, and what the operator's doors may ask of it.

``datastore`` fulfils the first. ``daemon`` fulfils the others and hands them to ``observe``, which turns the values
(``model.status``) into JSON, tables and samples.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping
from typing import Protocol

from bgpd.model.bfd import BfdReport
from bgpd.model.prefix import Address
from bgpd.model.resources import Snapshot
from bgpd.model.status import (
    BlockMap,
    BlockView,
    Check,
    DatastoreStatus,
    Difference,
    Explanation,
    PeerAction,
    PeerStatus,
    RouteTable,
    RouteView,
    Status,
)


class Datastore(Protocol):
    """Where resources come from. Reconnects by itself; yields only whole snapshots, newest wins."""

    def watch(self) -> AsyncIterator[Snapshot]: ...

    def status(self) -> DatastoreStatus: ...

    async def foresee(self, files: Mapping[str, bytes]) -> Snapshot:
        """What the snapshot would be with these resource files (name -> octets); ``ValueError`` where it would not be
        whole."""
        ...


class NotFound(LookupError):
    """The operator named something that is not there."""


class Ambiguous(ValueError):
    """The operator used a name that several things have; says which."""


class Impossible(Exception):
    """What the operator asked for cannot be done, or was done in part only; says why."""


class Views(Protocol):
    """What the operator may see of the daemon. Everything here is called in the event loop's thread."""

    def status(self) -> Status: ...

    def peers(self, name: str | None = None) -> list[PeerStatus]:
        """All of them, or those that a name is for: a session's name or address, or the name of the BGPPeer, node or
        pod behind it. ``NotFound`` where there is none."""
        ...

    def addresses(self, name: str) -> list[Address]:
        """What has this name: a pod's addresses, a node's, a peer's. ``ValueError`` where nothing has it."""
        ...

    def routes(
        self, table: RouteTable, prefix: str | None, peer: str | None, longer: bool = False
    ) -> Iterable[RouteView]:
        """Rows of a table, in the table's order; ``ValueError`` for a bad prefix or an ambiguous name of a peer,
        ``NotFound`` for an unknown one.

        ``prefix`` alone is exactly that prefix, with ``longer`` also all inside it. The rows are taken over many
        turns of the event loop, so the iterable must bear changes of the tables meanwhile (walk a list of the keys).
        """
        ...

    def bfd(self) -> BfdReport: ...

    def blocks(self) -> list[BlockView]: ...

    def block_maps(self) -> list[BlockMap]:
        """The same blocks, address by address."""
        ...

    def why(self, target: str) -> list[Explanation]:
        """Of a prefix: it alone. Of an address, or of each address of a pod, a node or a peer: every prefix known that
        covers it, the longest first. Nothing of what is unknown; ``ValueError`` for a text that is none of these."""
        ...

    def history(self, since: float, until: float, peer: str, target: str, most: int) -> Awaitable[list[str]]:
        """Entries of the history as lines of JSON, oldest first, the newest ``most`` of them; Unix seconds.

        ``peer`` and ``target`` are empty or names, as elsewhere. ``ValueError``, ``NotFound``: nothing has this name.
        """
        ...

    def diff(self) -> Iterable[Difference | None]:
        """Where what is wanted, sent and in the kernel differ; as ``routes``, and ``None`` is no row but a
        chance to look elsewhere."""
        ...

    def configuration(self) -> Awaitable[Mapping[str, object]]:
        """``keys``: the configuration in force (``views.configuration``); ``file`` and ``error``: where it is from,
        and why that cannot be taken now."""
        ...

    def live(self) -> list[Check]: ...

    def ready(self) -> list[Check]: ...

    async def plan(self, files: Mapping[str, bytes]) -> Mapping[str, object]:
        """What these resource files (name -> octets) would change in place of those that are there; docs/plan.md says
        what is in it. ``Impossible`` where nothing can be foreseen."""
        ...


class Actions(Protocol):
    """What the operator may order of the daemon. Called in the event loop's thread."""

    async def reload(self) -> str:
        """Re-reads the configuration; returns what changed in words, raises ``ConfigError`` (nothing changed)."""
        ...

    async def upgrade(self) -> Mapping[str, str]:
        """Starts the next process of this daemon and returns once it has the sessions, or names the ``unit`` to restart
        for that; ``message`` in any case. ``Impossible``: it failed, and this process goes on."""
        ...

    def hand_over(self, descriptor: int) -> bool:
        """The sessions, and the control socket, to the process at the other end of a connection to that. Whether it has
        them: then this process ends."""
        ...

    async def ipam(self, order: Mapping[str, object]) -> Mapping[str, object]:
        """Gives out or takes back addresses of this node (``datastore.allocator``); errors are part of the answer."""
        ...

    async def drain(self, *, withdraw: bool, wait: float, keep: bool) -> str:
        """Takes this node out of service, with ``keep`` also over restarts: services first, then all else becomes the
        last resort, and with ``withdraw`` goes ``wait`` seconds later. Returns what was done; ``Impossible``."""
        ...

    async def undrain(self) -> str:
        """Brings it back; as ``drain``."""
        ...

    async def peer_action(self, action: PeerAction, name: str, message: str) -> str:
        """``name`` is one peer's, as in ``peers``; returns what was done, raises ``NotFound``, ``Ambiguous`` or
        ``Impossible``."""
        ...
