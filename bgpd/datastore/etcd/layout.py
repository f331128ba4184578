"""Calico's keys in etcd v3 -> objects as ``datastore.calico.decode`` reads them (calico.md §4.7).

In etcd stands what Calico's library writes and no server completes: false is left out, nothing is ``null``, the oldest
affinities have no value at all. Names that only the key says are put into the object.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from bgpd.datastore.calico.decode import V3, Decoded, Key, Verdict
from bgpd.datastore.etcd.client import Range
from bgpd.model.resources import Problem

PLURALS = {
    "bgpconfigurations": "BGPConfiguration",
    "bgppeers": "BGPPeer",
    "bgpfilters": "BGPFilter",
    "ippools": "IPPool",
    "nodes": "Node",
}


class Keys:
    """Where things are, under one prefix (``/calico``)."""

    def __init__(self, prefix: str) -> None:
        self._resources = f"{prefix}/resources/v3/projectcalico.org/"
        self._host = f"{prefix}/ipam/v2/host/"
        self._assignment = f"{prefix}/ipam/v2/assignment/"

    def resources(self) -> list[Range]:
        """What every node reads whole."""
        return [Range.prefix(f"{self._resources}{plural}/".encode()) for plural in PLURALS]

    def affinities(self, node: str) -> Range:
        """The blocks of one node."""
        return Range.prefix(f"{self._host}{node}/".encode())

    def blocks(self) -> Range:
        """All blocks."""
        return Range.prefix(self._assignment.encode())

    def block(self, cidr: str) -> bytes:
        """The key of one block, ``10.65.0.0/26``."""
        version = "ipv6" if ":" in cidr else "ipv4"
        return f"{self._assignment}{version}/block/{cidr.replace('/', '-')}".encode()

    def affinity(self, node: str, cidr: str) -> bytes:
        """The key of a node's affinity to a block."""
        version = "ipv6" if ":" in cidr else "ipv4"
        return f"{self._host}{node}/{version}/block/{cidr.replace('/', '-')}".encode()

    def resource(self, plural: str, name: str) -> bytes:
        """The key of an object of the API."""
        return f"{self._resources}{plural}/{name}".encode()

    def named(self, key: bytes) -> Named | None:
        """What a key is about; ``None``: nothing of ours."""
        try:
            text = key.decode()
        except UnicodeDecodeError:
            return None
        if text.startswith(self._resources):
            plural, _, name = text[len(self._resources) :].partition("/")
            return Named(PLURALS[plural], name) if plural in PLURALS and name else None
        if text.startswith(self._host):
            node, *rest = text[len(self._host) :].split("/")
            cidr = _cidr(rest)
            return Named("BlockAffinity", f"{node}-{_dashed(cidr)}", cidr, node) if cidr and node else None
        if text.startswith(self._assignment):
            cidr = _cidr(text[len(self._assignment) :].split("/"))
            return Named("IPAMBlock", _dashed(cidr), cidr) if cidr else None
        return None


class Named(NamedTuple):
    """What a key says of its object."""

    kind: str
    name: str
    cidr: str | None = None
    node: str | None = None


def document(named: Named, value: bytes, source: str) -> dict[str, Any] | Decoded:
    """The object of a key and its value, or why there is none."""
    try:
        found = json.loads(value) if value.strip() else {}
    except (ValueError, RecursionError):
        return _bad(named, source, "expected JSON")
    if not isinstance(found, dict):
        return _bad(named, source, "expected a JSON object")
    if named.cidr is None:
        metadata = found.get("metadata")
        if not isinstance(metadata, dict):
            metadata = {}
        return {"apiVersion": V3, **found, "kind": named.kind, "metadata": {**metadata, "name": named.name}}
    spec = {key: given for key, given in found.items() if given is not None}
    spec.setdefault("cidr", named.cidr)
    if named.node is not None:
        spec["node"] = named.node
    return {"apiVersion": V3, "kind": named.kind, "metadata": {"name": named.name}, "spec": spec}


def _bad(named: Named, source: str, message: str) -> Decoded:
    key = Key(named.kind, named.name)
    return Decoded(Verdict.BAD, key, None, (Problem(f"{source}: {key}", "", message),))


def _cidr(parts: list[str]) -> str | None:
    """``ipv4/block/10.65.0.0-26`` is a block; other keys stand beside them."""
    if len(parts) != 3 or parts[1] != "block":
        return None
    network, dash, length = parts[2].rpartition("-")
    return f"{network}/{length}" if dash else None


def _dashed(cidr: str) -> str:
    """Of a CIDR the name that Kubernetes' objects have."""
    return cidr.replace(".", "-").replace(":", "-").replace("/", "-")
