"""The Kubernetes API as a source of ``datastore.cluster``: a collection a kind, as much of it as this node needs.

A kind is read by a streaming list where the server has them (``sendInitialEvents``), since then neither side ever has
the list as a whole; otherwise by a LIST out of the server's watch cache (``resourceVersion=0``: all nodes of a cluster
that start together are no load for its etcd) and a WATCH from there. Own BlockAffinities are selected by field where
their definition allows that, never by labels, which old ones do not have. IPAMBlocks are only read whole with
``ipam_early``; else those that own affinities name, one by one. Services and EndpointSlices are followed while a
BGPConfiguration has ranges of services, Secrets while a peer names them.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Iterable, Mapping

from bgpd.datastore.kubernetes import kinds
from bgpd.datastore.kubernetes.client import Access, Document, KubernetesClient
from bgpd.datastore.reflector import Event, Gone, Progress, Put, Whole
from bgpd.datastore.trouble import Kind, Trouble
from bgpd.model.prefix import prefix_text
from bgpd.model.resources import Snapshot

SILENCE_SECONDS = 120.0
"""Seconds; the server sends a bookmark every minute. A watch that is silent for longer is begun again where it was."""
LONGEST_WATCH = (300, 600)
"""Seconds after which the server is to end a watch, by chance in between, as client-go has it: connections spread over
the servers again."""
REREAD_SECONDS = 300.0
"""Seconds between two looks at the blocks of this node: only somebody else's mistake changes their owner."""
INITIAL_END = "k8s.io/initial-events-end"
GROUPS = ("crd.projectcalico.org", "projectcalico.org")


class Kubernetes:
    """The source that ``cluster.Cluster`` follows."""

    backend = "kubernetes"

    def __init__(self, access: Access, node: str, all_blocks: bool, namespace: str | None = None) -> None:
        self.client = KubernetesClient(access)
        self.node = node
        self.streaming = True
        """Whether the server is asked for streaming lists: until it says that it has none."""
        self.identity = f"kubernetes {access.kubeconfig or 'in-cluster'} {access.context or ''} {node}"
        self._namespace = namespace
        self._all_blocks = all_blocks
        self._calico: str | None = None
        self._feeds: dict[str, KindFeed] = {}
        """By collection, those that are followed."""
        self._blocks = BlocksFeed(self)

    @property
    def server(self) -> str:
        return self.client.server or "the API server"

    async def close(self) -> None:
        await self.client.close()

    async def calico(self) -> str:
        """Calico's group and version, found as Calico finds it: its own v3 only where the older one is not served."""
        if self._calico is None:
            groups = (await self.client.get("/apis")).get("groups") or ()
            names = {group.get("name") for group in groups if isinstance(group, dict)}
            v3 = GROUPS[0] not in names and GROUPS[1] in names
            self._calico = "projectcalico.org/v3" if v3 else "crd.projectcalico.org/v1"
        return self._calico

    def undiscovered(self) -> None:
        """A kind was missing: the groups are looked at again the next time."""
        self._calico = None

    def feeds(self, snapshot: Snapshot) -> Mapping[str, KindFeed | BlocksFeed]:
        """Collection -> what is to be followed, given what is known."""
        wanted: dict[str, tuple[kinds.Kind, str]] = {
            kind.plural: (kind, "")
            for kind in (
                kinds.NODES,
                kinds.CONFIGURATIONS,
                kinds.POOLS,
                kinds.PEERS,
                kinds.FILTERS,
                kinds.AFFINITIES,
            )
        }
        settings = snapshot.settings()
        if (
            settings.service_cluster_ips
            or settings.service_external_ips
            or settings.service_load_balancer_ips
        ):
            wanted |= {kind.plural: (kind, "") for kind in (kinds.SERVICES, kinds.SLICES)}
        passwords = {peer.password for peer in snapshot.peers.values()} | {settings.node_mesh_password}
        for name in {each.name for each in passwords if each is not None}:
            wanted[f"secrets/{name}"] = (kinds.SECRETS, name)
        if self._all_blocks:
            wanted[kinds.BLOCKS.plural] = (kinds.BLOCKS, "")
        self._feeds = {
            collection: self._feeds.get(collection) or KindFeed(self, kind, name)
            for collection, (kind, name) in wanted.items()
        }
        found: dict[str, KindFeed | BlocksFeed] = {**self._feeds}
        if not self._all_blocks and snapshot.affinities:
            self._blocks.want(prefix_text(each.family, each.cidr) for each in snapshot.affinities.values())
            found[kinds.BLOCKS.plural] = self._blocks
        return found

    async def namespace(self) -> str:
        """Where Secrets are."""
        if self._namespace is None:
            await self.calico()  # connects
            return self.client.namespace
        return self._namespace


class KindFeed:
    """The objects of a kind, or (``scope``) the one of that name."""

    def __init__(self, source: Kubernetes, kind: kinds.Kind, scope: str) -> None:
        self._source = source
        self._kind = kind
        self.scope = scope
        self.essential = kind.essential
        self._select = kind is kinds.AFFINITIES
        """Whether the server is asked for this node's only: until it says that it cannot."""

    async def follow(self, position: str | None) -> AsyncGenerator[list[Event]]:
        source, client = self._source, self._source.client
        try:
            api = self._kind.api or await source.calico()
            namespace = await source.namespace() if self._kind is kinds.SECRETS else None
            path = self._kind.path(api, namespace)
            selector = f"metadata.name={self.scope}" if self.scope else ""
            # A streaming list was refused: a plain LIST shows whether for the streaming or for the selecting.
            doubted = False
            while True:
                params = {"fieldSelector": selector} if selector else {}
                if self._select:
                    params["fieldSelector"] = f"spec.node={source.node}"
                streaming = source.streaming and not doubted
                try:
                    if position is not None or streaming:
                        async with contextlib.aclosing(self._watch(path, params, api, position)) as watch:
                            async for events in watch:
                                yield events
                        return
                    listing = client.items(path, {**params, "resourceVersion": "0"})
                    async with contextlib.aclosing(listing) as items:
                        async for found, version in items:
                            if doubted:
                                doubted = source.streaming = False
                            yield [*self._puts(found, api), *([Whole(version)] if version else ())]
                            position = version or None
                except Trouble as trouble:
                    if trouble.kind is not Kind.UNSUPPORTED or position is not None:
                        raise
                    if streaming:
                        doubted = True
                    elif self._select:  # no field of that name: all are read, and dropped here
                        doubted = self._select = False
                    else:
                        raise
        except Trouble as trouble:
            if trouble.kind is Kind.MISSING:
                source.undiscovered()
            raise

    async def _watch(
        self, path: str, params: Mapping[str, str], api: str, position: str | None
    ) -> AsyncGenerator[list[Event]]:
        asked = {
            **params,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(random.randint(*LONGEST_WATCH)),
        }
        if position is None:
            asked |= {
                "sendInitialEvents": "true",
                "resourceVersionMatch": "NotOlderThan",
                "resourceVersion": "0",
            }
        else:
            asked["resourceVersion"] = position
        async with contextlib.aclosing(self._source.client.watch(path, asked, SILENCE_SECONDS)) as watch:
            async for lines in watch:
                yield self._events(lines, api)

    def _events(self, lines: Iterable[tuple[str, Document]], api: str) -> list[Event]:
        events: list[Event] = []
        for kind, found in lines:
            version, metadata = _version(found), kinds.mapping(found.get("metadata"))
            if kind == "BOOKMARK":
                ended = kinds.mapping(metadata.get("annotations")).get(INITIAL_END) == "true"
                events.append(Whole(version) if ended else Progress(version))
            elif kind == "DELETED":
                events += [Gone(_key(found)), Progress(version)]
            elif kind in ("ADDED", "MODIFIED"):
                events += [*self._puts([found], api), Progress(version)]
        return events

    def _puts(self, found: list[Document], api: str) -> list[Event]:
        events: list[Event] = []
        for each in found:
            document = reduced = kinds.reduced(self._kind, each, self._source.node, api)
            if reduced is None:
                events.append(Gone(_key(each)))
            else:
                events.append(Put(_key(each), _version(each), document))
        return events


class BlocksFeed:
    """The blocks that this node's affinities name, each by its name."""

    essential = False

    def __init__(self, source: Kubernetes) -> None:
        self._source = source
        self._read: set[str] = set()
        """Names that were asked for with success."""
        self._due = 0.0
        """When all are to be read again."""
        self.want(())

    def want(self, cidrs: Iterable[str]) -> None:
        """The blocks of these CIDRs from now on: what was read before is not read again for it."""
        self._wanted = {cidr.replace(".", "-").replace(":", "-").replace("/", "-") for cidr in cidrs}
        self.scope = ",".join(sorted(self._wanted))

    async def follow(self, position: str | None) -> AsyncGenerator[list[Event]]:
        """A ``position`` only says that there was a whole list: the blocks are read anew from time to time."""
        wanted, clock = self._wanted, asyncio.get_running_loop().time
        if position is None:
            self._read, self._due = set(), 0.0
        while True:
            for name in sorted(self._read - wanted):
                self._read.discard(name)
                yield [Gone(name)]
            again = clock() >= self._due
            for name in sorted(wanted if again else wanted - self._read):
                found = await self._block(name)
                self._read.add(name)
                yield [found]
            if again:
                self._due = clock() + REREAD_SECONDS * random.uniform(0.75, 1.25)
            yield [Whole("read") if position is None else Progress("read")]
            position = "read"
            await asyncio.sleep(max(0.0, self._due - clock()))

    async def _block(self, name: str) -> Event:
        api = await self._source.calico()
        try:
            found = await self._source.client.get(f"{kinds.BLOCKS.path(api)}/{name}")
        except Trouble as trouble:
            if trouble.kind is not Kind.MISSING:
                raise
            return Gone(name)
        return Put(name, _version(found), kinds.reduced(kinds.BLOCKS, found, self._source.node, api))


def _version(found: Document) -> str:
    return str(kinds.mapping(found.get("metadata")).get("resourceVersion") or "")


def _key(found: Document) -> str:
    metadata = kinds.mapping(found.get("metadata"))
    namespace, name = metadata.get("namespace"), metadata.get("name")
    return f"{namespace}/{name}" if namespace else str(name)
