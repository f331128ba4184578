"""IPPool, BlockAffinity and IPAMBlock (calico.md §4.4, §4.6): where workloads have their addresses. For ``decode``."""

from __future__ import annotations

from collections.abc import Iterator

from bgpd.config.yaml import Scalar
from bgpd.datastore.calico.fields import Fields
from bgpd.model.prefix import Address, Family, Prefix, network_address, prefix_text
from bgpd.model.resources import AffinityState, Allocation, BlockAffinity, EncapMode, IPAMBlock, IPPool


def pool(name: str, fields: Fields) -> IPPool:
    spec = fields.section("spec")
    family, cidr = spec.block()
    low, high, default = (20, 32, 26) if family is Family.IPV4 else (116, 128, 122)
    size = spec.integer("blockSize", low, high) or default
    if size < cidr[0]:
        spec.bad("blockSize", f"blocks of /{size} do not fit into {prefix_text(family, cidr)}")
    spec.known(
        "cidr blockSize disabled disableBGPExport ipipMode vxlanMode natOutgoing nat-outgoing nodeSelector "
        "namespaceSelector allowedUses assignmentMode ipip"
    )
    if spec.get("ipip") not in (None, {}):
        spec.note("ipip", "of the API before v3, ignored: expected ipipMode")
    return IPPool(
        name,
        family,
        cidr,
        size,
        disable_bgp_export=spec.flag("disableBGPExport", False),
        disabled=spec.flag("disabled", False),
        ipip_mode=spec.member("ipipMode", EncapMode) or EncapMode.NEVER,
        vxlan_mode=spec.member("vxlanMode", EncapMode) or EncapMode.NEVER,
    )


def affinity(name: str, fields: Fields) -> BlockAffinity | None:
    spec = fields.section("spec")
    spec.known("cidr state node type deleted")
    if spec.flag("deleted", False) or spec.text("type") == "virtual":
        return None
    if spec.text("type") not in (None, "host"):
        spec.bad("type", f"expected host or virtual, not {spec.get('type')!r}")
    family, cidr = spec.block()
    state = spec.member("state", AffinityState) or AffinityState.CONFIRMED
    return BlockAffinity(name, spec.required("node"), family, cidr, state)


def block(name: str, fields: Fields) -> IPAMBlock | None:
    spec = fields.section("spec")
    if spec.flag("deleted", False):
        return None
    family, cidr = spec.block()
    affinity = spec.text("affinity")
    kind, colon, owner = (affinity or "").partition(":")
    if affinity is None:
        owner = spec.text("hostAffinity") or ""  # the oldest spelling
    elif not colon or kind not in ("host", "virtual") or not owner:
        spec.bad("affinity", f"expected host:NODE or virtual:NAME, not {affinity!r}")
    if kind == "virtual":
        return IPAMBlock(name, family, cidr, None)
    return IPAMBlock(name, family, cidr, owner or None, tuple(_allocations(spec, family, cidr)))


def _allocations(spec: Fields, family: Family, cidr: Prefix) -> Iterator[Allocation]:
    """The addresses in use whose node is known (calico.md §4.6). On octets, not netaddr's objects: a cluster may have
    a hundred thousand of them, and each start reads all."""
    ordinals, attributes = spec.get("allocations") or [], spec.get("attributes") or []
    if not isinstance(ordinals, list) or len(ordinals) > 1 << (family.bits - cidr[0]):
        spec.bad("allocations", "expected a list of at most one entry an address")
    if not isinstance(attributes, list):
        spec.bad("attributes", "expected a list")
    users = [
        _user(Fields(entry, spec.at(f"attributes.{i}"), spec.notes)) for i, entry in enumerate(attributes)
    ]
    base = int.from_bytes(network_address(family, cidr))
    for ordinal, index in enumerate(ordinals):
        if index is None:
            continue
        if isinstance(index, Scalar):
            index = index.value
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(users):
            spec.bad(f"allocations.{ordinal}", f"expected null or an index into attributes, not {index!r}")
        user = users[index]
        if user is not None:
            yield Allocation(Address((base + ordinal).to_bytes(family.octets)), *user)


def _user(attribute: Fields) -> tuple[str, str] | None:
    """(node, owner) of an attribute; ``None`` when nobody is behind the address."""
    handle, secondary = attribute.words("handle_id"), attribute.mapping("secondary")
    node = secondary.words("node")
    released = attribute.get("releasedAt") or attribute.get("released_at")
    if released or handle == "windows-reserved-ipam-handle" or not node:
        return None
    namespace, pod, kind = (secondary.words(key) for key in ("namespace", "pod", "type"))
    if pod:
        return node, f"{namespace}/{pod}" if namespace else pod
    return node, kind or handle
