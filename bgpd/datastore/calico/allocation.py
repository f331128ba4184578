"""IPAM's objects as Calico stores them <-> ``model.ipam``. Stores share it: files and Kubernetes keep whole objects,
etcd for blocks, affinities and handles only what is here ``spec`` (ipam.md §1).

Reading survives what people and other versions write: defaults are applied, a block that contradicts itself is kept as
``broken`` so that it stands in the way of others. An object that cannot be read at all is ``None``. Writing puts our
fields over what was read, so that fields of newer writers stay.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from bgpd.model.ipam import (
    SECOND,
    Affinity,
    Attribute,
    Block,
    Cluster,
    Handle,
    IPAMConfig,
    IPAMNode,
    Kind,
    Lease,
    Pool,
    Ref,
    Reservation,
    State,
    Value,
)
from bgpd.model.networks import AddrFormatError, IPNetwork

CRD = "crd.projectcalico.org/v1"
V3 = "projectcalico.org/v3"
Document = Mapping[str, Any]
KIND_OF: Mapping[str, Kind] = {**{str(kind): kind for kind in Kind}, "IPAMConfiguration": Kind.CONFIG}

_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")
_ATTRIBUTE = frozenset({"handle_id", "secondary", "releasedAt"})


# -- names -------------------------------------------------------------------------------------------------------------


def cidr_name(cidr: str) -> str:
    """The name of a block (ipam.md §1.2)."""
    return cidr.replace(".", "-").replace(":", "-").replace("/", "-")


def affinity_name(node: str, cidr: str) -> str:
    """The name of an affinity; a long one is cut and distinguished by a digest."""
    name = f"{node}-{cidr_name(cidr)}"
    if len(name) < 253:
        return name
    digest = hashlib.sha256(f"{node}+{cidr_name(cidr)}".encode()).hexdigest()[:11]
    return f"{node[: 252 - len(cidr_name(cidr)) - 13]}-{cidr_name(cidr)}-{digest}"


def name_of(ref: Ref) -> str:
    """``metadata.name`` of an object."""
    if ref.kind is Kind.BLOCK:
        return cidr_name(ref.name)
    if ref.kind is Kind.AFFINITY:
        return affinity_name(ref.owner.partition(":")[2], ref.name)
    return ref.name.lower() if ref.kind is Kind.HANDLE else ref.name


def affinity_labels(owner: str, version: int) -> dict[str, str]:
    """By these Calico finds a node's affinities, and without them it does not."""
    kind, _, node = owner.partition(":")
    digest = base64.b32encode(hashlib.sha3_256(node.encode()).digest()).decode().rstrip("=")
    return {
        "projectcalico.org/hostname-hash": digest,
        "projectcalico.org/affinity-type": kind,
        "projectcalico.org/ip-version": str(version),
    }


# -- times -------------------------------------------------------------------------------------------------------------


def parse_time(text: object) -> int | None:
    """Nanoseconds from RFC 3339; ``None`` for anything else."""
    match = _RFC3339.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return None
    try:
        seconds = int(datetime.fromisoformat(match[1] + match[3].replace("Z", "+00:00")).timestamp())
    except ValueError:
        return None
    return seconds * SECOND + int((match[2] or "").ljust(9, "0"))


def time_text(nanoseconds: int) -> str:
    """As Go writes it: UTC, the fraction without zeros at its end."""
    whole = datetime.fromtimestamp(nanoseconds // SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f".{nanoseconds % SECOND:09d}".rstrip("0").rstrip(".")
    return f"{whole}{fraction}Z"


# -- reading -----------------------------------------------------------------------------------------------------------


def network(text: object) -> IPNetwork | None:
    """A CIDR with its host bits cut; ``None`` for anything else."""
    if not isinstance(text, str) or "/" not in text:
        return None
    try:
        return IPNetwork(text.strip()).cidr
    except (AddrFormatError, ValueError):
        return None


def read(document: object) -> Value | None:
    """The value of a whole object; ``None`` for one of other kinds, that says itself that it is gone, or that cannot be
    read."""
    if not isinstance(document, Mapping):
        return None
    kind = KIND_OF.get(str(document.get("kind")))
    name = _mapping(document.get("metadata")).get("name")
    if kind is None or not isinstance(name, str):
        return None
    group = str(document.get("apiVersion"))
    spec = _mapping(document.get("spec"))
    if kind is Kind.NODE:
        return read_node(name, document)
    if group not in (CRD, V3) and kind is not Kind.LEASE:
        return None
    if kind is Kind.BLOCK:
        return read_block(spec)
    if kind is Kind.AFFINITY:
        return read_affinity(spec)
    if kind is Kind.HANDLE:
        return None if _true(spec.get("deleted")) else read_handle(str(spec.get("handleID") or name), spec)
    if kind is Kind.CONFIG:
        return read_config(spec, absent=group == V3) if name == "default" else None
    if kind is Kind.POOL:
        return read_pool(name, document)
    if kind is Kind.RESERVATION:
        listed = spec.get("reservedCIDRs")
        texts = listed if isinstance(listed, list) else []
        cidrs = (network(t.strip() if "/" in t else _host(t)) for t in texts if isinstance(t, str))
        return Reservation(name, tuple(cidr for cidr in cidrs if cidr is not None))
    if kind is Kind.CLUSTER:
        return Cluster(spec.get("datastoreReady") is not False) if name == "default" else None
    return Lease(
        name,
        str(spec.get("holderIdentity") or ""),
        parse_time(spec.get("renewTime")) or 0,
        _whole(spec.get("leaseDurationSeconds")),
    )


def _host(text: str) -> str:
    return f"{text.strip()}/{128 if ':' in text else 32}"


def read_block(spec: Document) -> Block | None:
    """A block from its fields, as etcd has them or as ``spec``."""
    cidr = network(spec.get("cidr"))
    if cidr is None or _true(spec.get("deleted")) or cidr.size > 1 << 16:
        return None
    owner = spec.get("affinity")
    if owner is None and spec.get("hostAffinity"):
        owner = f"host:{spec['hostAffinity']}"  # the oldest spelling
    claimed = parse_time(spec.get("affinityClaimTime") or spec.get("affinity_claim_time"))
    sequence = _whole(spec.get("sequenceNumber"))
    try:
        attributes = tuple(_attribute(entry) for entry in _listed(spec, "attributes"))
        allocations = tuple(
            None if i is None else _ordinal(i, len(attributes), "allocations")
            for i in _listed(spec, "allocations")
        )
        if len(allocations) != cidr.size:
            raise ValueError(f"allocations has {len(allocations)} entries for {cidr.size} addresses")
        unallocated = tuple(_ordinal(o, cidr.size, "unallocated") for o in _listed(spec, "unallocated"))
        sequences = {
            _ordinal(int(o), cidr.size, "sequenceNumberForAllocation"): _whole(number)
            for o, number in _mapping(spec.get("sequenceNumberForAllocation")).items()
        }
    except (ValueError, TypeError) as error:
        return Block(cidr, owner or None, claimed, (), (), (), sequence, {}, broken=str(error))
    return Block(cidr, owner or None, claimed, allocations, unallocated, attributes, sequence, sequences)


def _listed(spec: Document, key: str) -> list[Any]:
    value = spec.get(key)
    if value is not None and not isinstance(value, list):
        raise ValueError(f"{key} is no list")
    return value or []


def _ordinal(value: object, size: int, key: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < size:
        raise ValueError(f"{key}: {value!r} is not one of 0 to {size - 1}")
    return value


def _attribute(entry: object) -> Attribute:
    if not isinstance(entry, Mapping):
        raise ValueError("attributes: expected keys and values")
    secondary = {str(key): str(value) for key, value in _mapping(entry.get("secondary")).items()}
    rest = {key: value for key, value in entry.items() if key not in _ATTRIBUTE}
    handle = entry.get("handle_id")
    if (at := entry.get("releasedAt")) is not None and parse_time(at) is None:
        raise ValueError(f"attributes: releasedAt {at!r} is no time")
    return Attribute(None if handle is None else str(handle), secondary, parse_time(at), rest)


def read_affinity(spec: Document, node: str = "", kind: str = "") -> Affinity | None:
    """An affinity; etcd has node, type and CIDR in the key."""
    cidr = network(spec.get("cidr"))
    node = node or str(spec.get("node") or "")
    if cidr is None or not node or _true(spec.get("deleted")):
        return None
    try:
        state = State(spec.get("state") or State.CONFIRMED)
    except ValueError:
        return None
    return Affinity(f"{kind or spec.get('type') or 'host'}:{node}", cidr, state)


def read_handle(name: str, spec: Document) -> Handle | None:
    counted = {
        str(cidr.cidr): _whole(number)
        for text, number in _mapping(spec.get("block")).items()
        if (cidr := network(text)) is not None
    }
    return Handle(name, counted)


def read_config(spec: Document, *, absent: bool) -> IPAMConfig:
    """``absent``: what ``autoAllocateBlocks`` is where it is not stated."""
    auto = spec.get("autoAllocateBlocks", spec.get("auto_allocate_blocks"))
    return IPAMConfig(
        strict_affinity=_true(spec.get("strictAffinity", spec.get("strict_affinity"))),
        auto_allocate_blocks=absent if auto is None else _true(auto),
        max_blocks_per_host=_whole(spec.get("maxBlocksPerHost")),
        cooldown_seconds=_whole(spec.get("ipCooldownSeconds")),
    )


def read_pool(name: str, document: Document) -> Pool | None:
    """A pool, Calico's defaults applied."""
    metadata, spec = _mapping(document.get("metadata")), _mapping(document.get("spec"))
    cidr = network(spec.get("cidr"))
    if cidr is None:
        return None
    default = 26 if cidr.version == 4 else 122
    low, high = (20, 32) if cidr.version == 4 else (116, 128)
    size = spec.get("blockSize") or default
    if not isinstance(size, int) or isinstance(size, bool) or not low <= size <= high:
        return None
    conditions = _mapping(document.get("status")).get("conditions")
    refused = any(
        _mapping(one).get("type") == "Allocatable" and _mapping(one).get("status") == "False"
        for one in (conditions if isinstance(conditions, list) else ())
    )
    uses = spec.get("allowedUses")
    return Pool(
        name,
        cidr,
        size,
        disabled=_true(spec.get("disabled")),
        allocatable=not refused and not metadata.get("deletionTimestamp") and size >= cidr.prefixlen,
        node_selector=str(spec.get("nodeSelector") or "all()"),
        namespace_selector=str(spec.get("namespaceSelector") or ""),
        allowed_uses=frozenset(map(str, uses) if isinstance(uses, list) and uses else ("Workload", "Tunnel")),
        automatic=(spec.get("assignmentMode") or "Automatic") == "Automatic",
    )


def read_node(name: str, document: Document) -> IPAMNode:
    labels = _mapping(_mapping(document.get("metadata")).get("labels"))
    return IPAMNode(name, {str(key): str(value) for key, value in labels.items()})


def _mapping(value: object) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}


def _true(value: object) -> bool:
    return value is True or value == "true"


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


# -- writing -----------------------------------------------------------------------------------------------------------


def write(value: Value, before: Document | None = None) -> dict[str, Any]:
    """The whole object of a value, over what was read of it; ``metadata.resourceVersion`` is the store's to set."""
    document = dict(before or {})
    document.setdefault("apiVersion", CRD if value.ref.kind is not Kind.LEASE else "coordination.k8s.io/v1")
    document.setdefault("kind", str(value.ref.kind))
    metadata = {"name": name_of(value.ref), **_mapping(document.get("metadata"))}
    if isinstance(value, Affinity):
        labels = affinity_labels(value.owner, value.cidr.version)
        metadata["labels"] = {**_mapping(metadata.get("labels")), **labels}
    document["metadata"] = metadata
    fields = spec_of(value)
    if isinstance(value, Block) and _mapping(document.get("spec")).get("attributes") is None:
        fields["attributes"] = fields["attributes"] or []
    document["spec"] = {**_mapping(document.get("spec")), **fields}
    for key in [key for key, value in document["spec"].items() if value is _NOT]:
        del document["spec"][key]
    return document


_NOT: Any = object()
"""A field that must not be there."""


def spec_of(value: Value) -> dict[str, Any]:
    """What we know of a value, by Calico's names."""
    match value:
        case Block():
            return {
                **block_fields(value),
                "affinityClaimTime": _NOT if value.claimed is None else _seconds(value.claimed),
                "strictAffinity": False,
            }
        case Affinity(owner, cidr, state):
            kind, _, node = owner.partition(":")
            return {"cidr": str(cidr), "deleted": "false", "node": node, "state": str(state), "type": kind}
        case Handle(name, blocks):
            return {"block": dict(blocks), "deleted": False, "handleID": name}
        case IPAMConfig(strict, auto, most, cooldown):
            return {
                "strictAffinity": strict,
                "autoAllocateBlocks": auto,
                "maxBlocksPerHost": most,
                "ipCooldownSeconds": cooldown if cooldown else _NOT,
            }
        case Lease(_, holder, renewed, seconds):
            return {
                "holderIdentity": holder,
                "leaseDurationSeconds": seconds,
                "renewTime": _micro_time(renewed),
            }
        case _:
            raise TypeError(f"{value.ref} is not IPAM's to write")


def block_fields(block: Block) -> dict[str, Any]:
    """The fields that etcd and Kubernetes spell alike."""
    return {
        "cidr": str(block.cidr),
        "affinity": block.owner,
        "allocations": list(block.allocations),
        "unallocated": list(block.unallocated),
        "attributes": [_written(attribute) for attribute in block.attributes],
        "sequenceNumber": block.sequence,
        "sequenceNumberForAllocation": {
            str(o): number for o, number in sorted(block.sequences.items(), key=_as_text)
        },
        "deleted": False,
    }


def _as_text(item: tuple[int, int]) -> str:
    """Go writes the keys of a map in the order of their texts: 10 before 8."""
    return str(item[0])


def _micro_time(nanoseconds: int) -> str:
    """Kubernetes' MicroTime: six digits, also where they are zeros."""
    whole = datetime.fromtimestamp(nanoseconds // SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{whole}.{nanoseconds % SECOND // 1000:06d}Z"


def _seconds(nanoseconds: int) -> str:
    return time_text(nanoseconds - nanoseconds % SECOND)


def _written(attribute: Attribute) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if attribute.handle is not None:
        found["handle_id"] = attribute.handle
    if attribute.secondary:
        found["secondary"] = dict(attribute.secondary)
    if attribute.released_at is not None:
        found["releasedAt"] = time_text(attribute.released_at)
    return {**found, **attribute.rest}
