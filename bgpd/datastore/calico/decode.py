"""Calico's objects as read from YAML or JSON -> ``model.resources``, each problem named. Shared by the datastores.

Accepted are the shapes of ``projectcalico.org/v3``, of ``crd.projectcalico.org/v1`` and, of Kubernetes, Nodes with
Calico's annotations, Secrets, Services and EndpointSlices (calico.md §4, §5), alone or in a ``List``. ``decode`` takes
one document and returns one
``Decoded`` an object: good, gone (a tombstone, or nothing of ours) or bad. What a good object says without effect (a
key that nobody knows, an entry that is left out) is a problem of it. The kinds are read in ``ipam``, ``nodes``,
``bgpresources``, ``bgpfilters`` and ``services``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

from bgpd.datastore.calico import bgpfilters, bgpresources, ipam, nodes, services
from bgpd.datastore.calico.fields import Bad, Fields, as_text
from bgpd.model.resources import (
    BGPConfiguration,
    BGPFilter,
    BGPPeer,
    BlockAffinity,
    EndpointSlice,
    IPAMBlock,
    IPPool,
    Node,
    Problem,
    Secret,
    Service,
)

Resource = (
    IPPool
    | BlockAffinity
    | IPAMBlock
    | Node
    | BGPConfiguration
    | BGPPeer
    | BGPFilter
    | Secret
    | Service
    | EndpointSlice
)
KINDS = (
    "IPPool",
    "BlockAffinity",
    "IPAMBlock",
    "Node",
    "BGPConfiguration",
    "BGPPeer",
    "BGPFilter",
    "Secret",
    "Service",
    "EndpointSlice",
)
V3 = "projectcalico.org/v3"
CALICO_GROUPS = (V3, "crd.projectcalico.org/v1")
DISCOVERY = "discovery.k8s.io/v1"
NAMESPACED = ("Service", "EndpointSlice")
"""Kinds of which two namespaces may each have one of a name."""


HEAD = frozenset(("apiVersion", "kind", "metadata"))
"""Keys of a List besides its items."""
STATUS = ("Status", "v1")
"""What the API server answers instead of what was asked for."""


class Key(NamedTuple):
    """What an object is called: unique across API groups."""

    kind: str
    name: str
    """``namespace/name`` of the ``NAMESPACED`` kinds."""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


class Verdict(Enum):
    """What became of an object."""

    GOOD = "good"
    GONE = "gone"
    """It says itself that it counts no more (``deleted``), or it is no node's."""
    BAD = "bad"
    IGNORED = "ignored"
    """The object is of a kind that does not concern us."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """One object. ``key`` is ``None`` when not even kind and name could be read."""

    verdict: Verdict
    key: Key | None = None
    resource: Resource | None = None
    problems: tuple[Problem, ...] = ()


def decode(document: object, source: str) -> Iterator[Decoded]:
    """The objects of one document, those of a ``List`` one by one. ``source`` names its file in problems."""
    if not isinstance(document, dict):
        yield _nameless(source, "", "expected a resource: apiVersion, kind, metadata and spec")
        return
    kind, group = document.get("kind"), document.get("apiVersion")
    if isinstance(kind, str) and kind.endswith("List") and ("items" in document or document.keys() <= HEAD):
        items = document.get("items")
        if items is None:  # what Go prints of a list without items, or leaves out
            items = []
        if not isinstance(items, list):
            yield _nameless(source, "items", "expected a list")
            return
        implied = {"kind": kind.removesuffix("List"), "apiVersion": group} if kind != "List" else {}
        for index, item in enumerate(items):
            if isinstance(item, dict):
                yield _object({**implied, **item}, source, f"items.{index}.")
            else:
                yield _nameless(source, f"items.{index}", "expected a resource")
        return
    yield _object(document, source, "")


def _nameless(source: str, path: str, message: str) -> Decoded:
    return Decoded(Verdict.BAD, None, None, (Problem(source, path, message),))


def _object(document: dict[str, Any], source: str, where: str) -> Decoded:
    kind, group = document.get("kind"), document.get("apiVersion")
    metadata = document.get("metadata")
    name = as_text(metadata.get("name")) if isinstance(metadata, dict) else None
    for path, value in (("kind", kind), ("apiVersion", group)):
        if not isinstance(value, str) or not value:
            return _nameless(
                source, where + path, "expected, but not there" if value is None else "expected text"
            )
    if (kind, group) == STATUS:
        said = as_text(document.get("message")) or "without words"
        message = (
            f"is an answer of the API server ({said[:200]}) and no resource: what was stated last stands"
        )
        return _nameless(source, where.rstrip("."), message)
    decoder = _DECODERS.get((str(kind), V3 if group in CALICO_GROUPS else str(group)))
    if decoder is None:
        return _other(str(kind), str(group), name, source)
    if not name:
        given = metadata.get("name") if isinstance(metadata, dict) else None
        message = f"expected text, not {given!r}" if given else "expected, but not there"
        return _nameless(f"{source}: {kind}", f"{where}metadata.name", message)
    if kind in NAMESPACED:
        assert isinstance(metadata, dict)
        given = metadata.get("namespace") or "default"
        namespace = as_text(given)
        if namespace is None:
            message = f"expected text, not {given!r}"
            return _nameless(f"{source}: {kind} {name}", f"{where}metadata.namespace", message)
        name = f"{namespace}/{name}"
    key = Key(str(kind), name)
    notes: list[tuple[str, str]] = []
    resource: Resource | None = None
    try:
        resource = decoder(name, Fields(document, "", notes))
        verdict = Verdict.GONE if resource is None else Verdict.GOOD
    except Bad:
        verdict = Verdict.BAD
    problems = tuple(Problem(f"{source}: {key}", path, message) for path, message in notes)
    return Decoded(verdict, key, resource, problems)


def _other(kind: str, group: str, name: object, source: str) -> Decoded:
    """An object we do not read: silent, except where somebody may rely on it."""
    if not _mistaken(kind, group):
        return Decoded(Verdict.IGNORED)
    expected = {"Secret": "v1", "Service": "v1", "EndpointSlice": DISCOVERY}.get(
        kind, " or ".join(CALICO_GROUPS)
    )
    return _nameless(f"{source}: {kind} {name}", "apiVersion", f"expected {expected}, not {group!r}")


def _mistaken(kind: str, group: str) -> bool:
    """Whether an object that we do not read was probably meant for us: a version that we do not know."""
    given = group.partition("/")[0]
    calico = given in ("projectcalico.org", "crd.projectcalico.org") and kind in KINDS
    return calico or (given == "discovery.k8s.io" and kind == "EndpointSlice")


def passed_over(kind: str, group: str) -> bool:
    """Whether nothing of an object of this kind and ``apiVersion`` is read: then it need not be parsed."""
    decoder = _DECODERS.get((kind, V3 if group in CALICO_GROUPS else group))
    known = decoder is not None or kind.endswith("List") or (kind, group) == STATUS
    return not known and not _mistaken(kind, group)


_DECODERS: Mapping[tuple[str, str], Callable[[str, Fields], Resource | None]] = {
    ("IPPool", V3): ipam.pool,
    ("BlockAffinity", V3): ipam.affinity,
    ("IPAMBlock", V3): ipam.block,
    ("BGPConfiguration", V3): bgpresources.configuration,
    ("BGPPeer", V3): bgpresources.peer,
    ("BGPFilter", V3): bgpfilters.bgp_filter,
    ("Node", V3): nodes.calico_node,
    ("Node", "v1"): nodes.kubernetes_node,
    ("Secret", "v1"): bgpresources.secret,
    ("Service", "v1"): services.service,
    ("EndpointSlice", DISCOVERY): services.endpoint_slice,
}
