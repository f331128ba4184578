"""Resources that people write: whether the API takes them, and what goes before a pool can (ipam.md §3, §1.4)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bgpd.model.ipam import Block, IPAMConfig, Pool
from bgpd.model.networks import IPNetwork
from bgpd.rules import selector
from bgpd.rules.ipam import blocks as block_rules
from bgpd.rules.ipam.pools import shared
from bgpd.rules.ipam.steps import Invalid, NotEmpty

_USES = frozenset({"Workload", "Tunnel", "LoadBalancer"})
_LINK_LOCAL = (IPNetwork("169.254.0.0/16"), IPNetwork("fe80::/10"))


def check_pool(new: Pool, old: Pool | None, pools: Iterable[Pool], blocks: Iterable[Block]) -> None:
    """Raises ``Invalid`` where Calico's API would refuse to create a pool, or to put it in the place of ``old``."""
    if new.cidr.prefixlen > new.block_size and not new.disabled:
        raise Invalid(f"spec.blockSize: blocks of /{new.block_size} do not fit into {new.cidr}")
    if old is not None:
        if old.cidr != new.cidr:
            raise Invalid(
                f"spec.cidr cannot be changed, from {old.cidr} to {new.cidr}: delete the pool first"
            )
        if old.block_size != new.block_size:
            raise Invalid(f"spec.blockSize cannot be changed, from {old.block_size} to {new.block_size}")
        if "LoadBalancer" in old.allowed_uses and "LoadBalancer" not in new.allowed_uses:
            raise Invalid("spec.allowedUses: a pool of LoadBalancer cannot become one of others")
        return
    for network in _LINK_LOCAL:
        if shared(new.cidr, network):
            raise Invalid(f"spec.cidr: {new.cidr} overlaps the link-local {network}")
    for pool in pools:
        if pool.name != new.name and shared(pool.cidr, new.cidr):
            raise Invalid(f"spec.cidr: {new.cidr} overlaps {pool.cidr} of pool {pool.name}")
    for block in blocks:
        if shared(block.cidr, new.cidr) and block.cidr.prefixlen != new.block_size:
            raise Invalid(
                f"spec.blockSize: block {block.cidr} is there already, of an earlier pool: expected "
                f"{block.cidr.prefixlen}, not {new.block_size}"
            )


def check_pool_fields(spec: Mapping[str, Any]) -> None:
    """Raises ``Invalid`` for fields of a pool of which each can be read, and that Calico's API refuses together."""
    modes = {key: spec.get(key) or "Never" for key in ("ipipMode", "vxlanMode")}
    encapsulated = [key for key, mode in modes.items() if mode != "Never"]
    if len(encapsulated) == 2:
        raise Invalid("spec.ipipMode and spec.vxlanMode cannot both be on: set one of them to Never")
    if modes["ipipMode"] != "Never" and ":" in str(spec.get("cidr")):
        raise Invalid("spec.ipipMode: IPIP carries IPv4 only, expected Never")
    for key in ("nodeSelector", "namespaceSelector"):
        text = str(spec.get(key) or "")
        try:
            selector.parse(text)
        except ValueError as error:
            raise Invalid(f"spec.{key}: {error}") from None
        if "global(" in text.replace(" ", ""):
            raise Invalid(f"spec.{key}: global() is not for pools, expected all() or a selector of labels")
    uses = spec.get("allowedUses") or ()
    if not isinstance(uses, list | tuple) or not set(map(str, uses)) <= _USES:
        raise Invalid(f"spec.allowedUses: expected a list of {', '.join(sorted(_USES))}, not {uses!r}")
    if spec.get("assignmentMode") not in (None, "", "Automatic", "Manual"):
        raise Invalid(f"spec.assignmentMode: expected Automatic or Manual, not {spec['assignmentMode']!r}")
    if "Tunnel" in uses and spec.get("namespaceSelector"):
        raise Invalid(
            "spec.namespaceSelector: a pool with the use Tunnel cannot have one, tunnels have no namespace"
        )
    if "LoadBalancer" in uses:
        if len(uses) > 1:
            raise Invalid("spec.allowedUses: LoadBalancer goes with no other use")
        if encapsulated:
            raise Invalid(f"spec.{encapsulated[0]}: expected Never in a pool of LoadBalancer")
        if spec.get("disableBGPExport"):
            raise Invalid("spec.disableBGPExport: expected false in a pool of LoadBalancer")
        if (spec.get("nodeSelector") or "all()") != "all()":
            raise Invalid("spec.nodeSelector: expected all() in a pool of LoadBalancer")


def check_pool_unused(pool: Pool, blocks: Iterable[Block]) -> None:
    """Raises ``NotEmpty`` where somebody has an address of the pool."""
    used = sum(len(list(block_rules.users(block))) for block in blocks if shared(block.cidr, pool.cidr))
    if used:
        raise NotEmpty(
            f"pool {pool.name} has {used} addresses in use: they stay with their users, in blocks of no node, "
            "if it is deleted by force"
        )


def check_config(config: IPAMConfig) -> None:
    """Raises ``Invalid`` for settings that contradict each other."""
    if not config.strict_affinity and not config.auto_allocate_blocks:
        raise Invalid(
            "strictAffinity and autoAllocateBlocks cannot both be off: no address could be given out"
        )
    if config.max_blocks_per_host and not config.strict_affinity:
        raise Invalid("maxBlocksPerHost needs strictAffinity: else what is full is borrowed around the limit")


def check_cooldown(seconds: int) -> None:
    if seconds > 1200:
        raise Invalid(f"ipCooldownSeconds: expected at most 1200, not {seconds}")
