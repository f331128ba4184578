"""``bgpctl ipam``, ``get``, ``apply`` and ``delete``: what is in the store, read and written there without the daemon.

Its words and tables are those of ``calicoctl ipam`` (docs/ipam.md). Imported by ``ctl`` only for these commands: the
libraries of addresses and YAML cost more than a probe may.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bgpd.cli.streams import read_input
from bgpd.datastore.allocator import store_of
from bgpd.datastore.calico import allocation
from bgpd.datastore.calico.decode import Verdict, decode
from bgpd.datastore.files_store import FilesStore
from bgpd.datastore.store import Executor, Store
from bgpd.model.ipam import (
    Block,
    Conflict,
    IPAMConfig,
    Kind,
    Pool,
    Ref,
    Stored,
    StoreFailed,
)
from bgpd.model.networks import AddrFormatError, IPAddress, IPNetwork
from bgpd.rules.ipam import blocks as block_rules
from bgpd.rules.ipam import edit
from bgpd.rules.ipam import pools as pool_rules
from bgpd.rules.ipam.garbage import inspect, sweep
from bgpd.rules.ipam.release import Address, release_address, release_handle, release_node, release_pool
from bgpd.rules.ipam.steps import Contended, Invalid, NotAllocated, Refused, get_config

Lines = Iterable[str]
Found = tuple[Lines, Any, bool]
"""What a command answers: lines for people, an object for programs, and whether all is well."""


class Failed(Exception):
    """The command could not do it; says why."""


def run(command: Callable[[Session, argparse.Namespace], Found], arguments: argparse.Namespace) -> Found:
    """A command on the store that the arguments name. Raises ``Failed``."""
    try:
        store = _store(arguments)
        try:
            lines, found, well = command(Session(store), arguments)
            return tuple(lines), found, well
        finally:
            store.close()
    except (Refused, StoreFailed) as error:
        raise Failed(str(error)) from None


def _store(arguments: argparse.Namespace) -> Store:
    """Where the daemon of this node has its resources; nothing configured is its default."""
    if arguments.resources:
        return FilesStore(Path(arguments.resources))
    from bgpd.config.config import Config
    from bgpd.config.reading import ConfigError, load

    path = Path(arguments.config)
    try:
        return store_of(load(path) if path.exists() else Config())
    except ConfigError as error:
        raise Failed(str(error)) from None


class Session:
    """A store, for one command."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.executor = Executor(store)

    def values(self, kind: Kind) -> list[Any]:
        return [stored.value for stored in self.store.list(kind)]

    def blocks(self) -> list[Block]:
        """In the order of their addresses, what has cooled down free."""
        cooldown = self.executor.run(get_config()).cooldown_seconds
        found = (block_rules.thawed(block, time.time_ns(), cooldown) for block in self.values(Kind.BLOCK))
        return sorted(found, key=lambda block: (block.cidr.version, block.cidr.first))


# -- ipam --------------------------------------------------------------------------------------------------------------


def show(session: Session, arguments: argparse.Namespace) -> Found:
    if arguments.ip:
        return _show_address(session, _address(arguments.ip))
    if arguments.show_borrowed:
        return _show_borrowed(session)
    if arguments.show_configuration:
        return _show_configuration(session)
    blocks, pools = session.blocks(), session.values(Kind.POOL)
    reserved = pool_rules.merged(session.values(Kind.RESERVATION))
    rows = []
    for pool in sorted(pools, key=lambda pool: pool.name):
        mine = [block for block in blocks if block.cidr in pool.cidr]
        rows.append(_usage("IP Pool", pool.cidr, mine, reserved))
        rows += [_usage("Block", block.cidr, [block], reserved) for block in mine if arguments.show_blocks]
    stray = [block for block in blocks if not any(block.cidr in pool.cidr for pool in pools)]
    rows += [_usage("Block", block.cidr, [block], reserved) for block in stray if arguments.show_blocks]
    head = ("GROUPING", "CIDR", "IPS TOTAL", "IPS IN USE", "IPS RESERVED", "IPS FREE")
    cells = [
        (
            row["grouping"],
            row["cidr"],
            f"{row['total']:.5g}",
            *(
                f"{row[key]:.5g} ({100 * row[key] / row['total']:.0f}%)"
                for key in ("in_use", "reserved", "free")
            ),
        )
        for row in rows
    ]
    return box(head, cells, right={2, 3, 4, 5}), {"rows": rows}, True


def _usage(
    grouping: str, cidr: IPNetwork, blocks: Sequence[Block], reserved: Sequence[IPNetwork]
) -> dict[str, Any]:
    total = int(cidr.size)
    held = [
        network
        for network in reserved
        if network.version == cidr.version and (network in cidr or cidr in network)
    ]
    number = min(total, sum(int(min(network.size, total)) for network in held))
    used = both = 0
    for block in blocks:
        free = set(block_rules.free(block))
        taken = set(range(block.cidr.size)) - free
        used += len(taken)
        both += len(taken & pool_rules.reserved_in(block.cidr, held))
    return {
        "grouping": grouping,
        "cidr": str(cidr),
        "total": total,
        "in_use": used,
        "reserved": number,
        "free": total - used - number + both,
    }


def _show_address(session: Session, address: IPAddress) -> Found:
    for block in session.blocks():
        if address in block.cidr and not block.broken:
            user = block_rules.user(block, block_rules.ordinal_of(block, address))
            if user is not None:
                handle = block_rules.handle_of(user)
                lines = [f"IP {address} is in use", f"Handle ID: {handle or '<none>'}"]
                if user.secondary:
                    lines.append("Active Owner Attributes:")
                    lines += [f"  {key}: {value}" for key, value in sorted(user.secondary.items())]
                else:
                    lines.append("No Active Owner attributes defined")
                found = {"ip": str(address), "handle": handle, "attributes": dict(user.secondary)}
                return lines, found, True
    return [f"{address} is not assigned"], {"ip": str(address), "handle": None}, True


def _show_borrowed(session: Session) -> Found:
    rows = []
    unknown = 0
    for block in session.blocks():
        owner = (block.owner or "").removeprefix("host:")
        for ordinal, user in block_rules.users(block):
            node = user.secondary.get("node")
            if node is None:
                unknown += 1
            elif node != owner:
                pod = user.secondary.get("pod")
                kind = user.secondary.get("type") or (
                    "vmi" if "vmi-name" in user.secondary else "pod" if pod else ""
                )
                whom = (
                    f"{user.secondary.get('namespace', '')}/{pod}"
                    if pod
                    else block_rules.handle_of(user) or ""
                )
                rows.append((str(block.address(ordinal)), node, str(block.cidr), owner, kind, whom))
    head = ("IP", "BORROWING-NODE", "BLOCK", "BLOCK OWNER", "TYPE", "ALLOCATED-TO")
    lines = list(box(head, rows))
    if unknown:
        lines.append(f"{unknown} allocations do not say their node")
    keys = ("ip", "node", "block", "owner", "type", "to")
    return lines, {"rows": [dict(zip(keys, row, strict=True)) for row in rows]}, True


def _show_configuration(session: Session) -> Found:
    config = session.executor.run(get_config())
    rows = [
        ("StrictAffinity", str(config.strict_affinity).lower()),
        ("AutoAllocateBlocks", str(config.auto_allocate_blocks).lower()),
        ("MaxBlocksPerHost", str(config.max_blocks_per_host)),
        ("IPCooldownSeconds", str(config.cooldown_seconds)),
    ]
    return box(("PROPERTY", "VALUE"), rows), dict(rows), True


def check(session: Session, arguments: argparse.Namespace) -> Found:
    """What contradicts itself. ``--release`` removes what has looked so for ten seconds."""
    findings = inspect(
        session.blocks(),
        session.values(Kind.AFFINITY),
        session.values(Kind.HANDLE),
        [pool.cidr for pool in session.values(Kind.POOL)],
        [node.name for node in session.values(Kind.NODE)],
    )
    lines = [f"{finding.kind} {finding.subject}: {finding.message}" for finding in findings]
    done: list[str] = []
    if findings and arguments.release:
        swept = session.executor.run(sweep({}, time.time_ns(), 10))
        time.sleep(10)
        swept = session.executor.run(sweep(swept.suspects, time.time_ns(), 10))
        done = list(swept.done)
        lines += [f"removed: {text}" for text in done]
    lines.append(f"Check complete; found {len(findings)} problems.")
    problems = [{"kind": f.kind, "subject": f.subject, "message": f.message} for f in findings]
    report = {"problems": problems, "removed": done}
    return lines, report, not findings


def release(session: Session, arguments: argparse.Namespace) -> Found:
    now = time.time_ns()
    if arguments.ip:
        address = _address(arguments.ip)
        session.executor.run(release_address(Address(address), now))
        return [f"Successfully released IP address {address}"], {"released": [str(address)]}, True
    if arguments.handle:
        found = session.executor.run(release_handle(arguments.handle, "", now))
        if not found:
            raise NotAllocated(f"handle {arguments.handle} has no address")
        return (
            [f"Successfully released {', '.join(map(str, found))}"],
            {"released": list(map(str, found))},
            True,
        )
    if session.store.get(Ref(Kind.NODE, arguments.node)) is not None and not arguments.force:
        raise Invalid(f"Node {arguments.node} is there: delete it first, or say --force")
    blocks = session.executor.run(release_node(arguments.node, now))
    words = ", ".join(map(str, blocks)) or "no block"
    return (
        [f"Successfully released {words} of node {arguments.node}"],
        {"released": list(map(str, blocks))},
        True,
    )


def configure(session: Session, arguments: argparse.Namespace) -> Found:
    changes = {
        key: value
        for key, value in (
            ("strict_affinity", arguments.strictaffinity),
            ("auto_allocate_blocks", arguments.auto_allocate_blocks),
            ("max_blocks_per_host", arguments.max_blocks_per_host),
            ("cooldown_seconds", arguments.ip_cooldown_seconds),
        )
        if value is not None
    }
    if not changes:
        raise Invalid("nothing to set: --strictaffinity, --auto-allocate-blocks, --max-blocks-per-host, ...")
    known = session.store.get(Ref(Kind.CONFIG, "default"))
    config = replace(known.value if known else IPAMConfig(), **changes)
    edit.check_config(config)
    edit.check_cooldown(config.cooldown_seconds)
    outcome = session.store.update(known, config) if known else session.store.create(config)
    if isinstance(outcome, Conflict):
        raise Contended("somebody else wrote IPAMConfig default meanwhile")
    names = {
        "strict_affinity": "StrictAffinity",
        "auto_allocate_blocks": "AutoAllocateBlocks",
        "max_blocks_per_host": "MaxBlocksPerHost",
        "cooldown_seconds": "IPCooldownSeconds",
    }
    lines = [f"Successfully set {names[key]} to: {str(value).lower()}" for key, value in changes.items()]
    return lines, changes, True


# -- resources ---------------------------------------------------------------------------------------------------------


def get(session: Session, arguments: argparse.Namespace) -> Found:
    found = [
        stored for stored in session.store.list(Kind.POOL) if arguments.name in (None, stored.value.name)
    ]
    if arguments.name and not found:
        raise NotAllocated(f"there is no IPPool {arguments.name}")
    documents = [session.store.document(stored) for stored in found]
    if arguments.output == "yaml":
        return _yaml(documents), documents, True
    if arguments.output == "wide":
        head: Sequence[str] = (
            "NAME",
            "CIDR",
            "NAT",
            "IPIPMODE",
            "VXLANMODE",
            "DISABLED",
            "DISABLEBGPEXPORT",
            "SELECTOR",
        )
        rows = [_wide(stored.value, session.store.document(stored).get("spec") or {}) for stored in found]
    else:
        head = ("NAME", "CIDR", "SELECTOR")
        rows = [(p.name, str(p.cidr), p.node_selector) for p in (stored.value for stored in found)]
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = [
        "   ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]
    return lines, {"items": documents}, True


def _wide(pool: Pool, spec: Mapping[str, Any]) -> Sequence[str]:
    def flag(key: str) -> str:
        return str(bool(spec.get(key))).lower()

    modes = (str(spec.get("ipipMode") or "Never"), str(spec.get("vxlanMode") or "Never"))
    return (
        pool.name,
        str(pool.cidr),
        flag("natOutgoing"),
        *modes,
        flag("disabled"),
        flag("disableBGPExport"),
        pool.node_selector,
    )


def apply(session: Session, arguments: argparse.Namespace) -> Found:
    """All objects of the files are looked at before the first is written."""
    documents = [document for name in arguments.filename for document in _documents(name)]
    wanted = [(document, _checked(document)) for document in documents]
    lines, done = [], []
    for document, kind in wanted:
        ref = Ref(kind, document["metadata"]["name"])
        old = session.store.get(ref)
        value = allocation.read(document)
        if isinstance(value, Pool):
            edit.check_pool_fields(document["spec"])
            pools = session.values(Kind.POOL)
            edit.check_pool(value, old.value if old else None, pools, session.values(Kind.BLOCK))
        if isinstance(session.store.apply(document, old), Conflict):
            raise Contended(f"somebody else wrote {ref} meanwhile: look at it and apply again")
        lines.append(f"{kind} {ref.name}: {'configured' if old else 'created'}")
        done.append({"kind": str(kind), "name": ref.name})
    return lines, {"applied": done}, True


_APPLIED = (Kind.POOL, Kind.RESERVATION, Kind.NODE, Kind.CLUSTER)


def _checked(document: Any) -> Kind:
    """The kind of an object that may be applied: as the daemon reads it, without a complaint."""
    kind = allocation.KIND_OF.get(str(document.get("kind"))) if isinstance(document, dict) else None
    if kind not in _APPLIED:
        names = ", ".join(_APPLIED)
        found = document.get("kind") if isinstance(document, dict) else document
        raise Invalid(f"kind: expected one of {names}, not {found!r} (IPAMConfig: bgpctl ipam configure)")
    if document.get("apiVersion") not in (allocation.V3, allocation.CRD, "v1"):
        raise Invalid(f"apiVersion: expected {allocation.V3}, not {document.get('apiVersion')!r}")
    for decoded in decode(document, "apply"):
        if decoded.problems or decoded.verdict is Verdict.BAD:
            raise Invalid("; ".join(str(problem) for problem in decoded.problems))
    if allocation.read(document) is None:
        raise Invalid(f"{kind}: cannot be read: metadata.name, and in spec what its kind needs")
    return kind


def _documents(name: str) -> Iterator[dict[str, Any]]:
    from bgpd.config.yaml import YamlError, load_documents

    try:
        text = read_input(name)
        for document in load_documents(text, name):
            value = document.value
            if isinstance(value, dict) and isinstance(value.get("items"), list):
                yield from value["items"]
            elif value is not None:
                yield value
    except OSError as error:
        raise Failed(f"{name}: {error.strerror}") from None
    except (UnicodeDecodeError, YamlError) as error:
        raise Failed(str(error)) from None


def delete(session: Session, arguments: argparse.Namespace) -> Found:
    """A pool: no new addresses, then its blocks lose their owners, then it goes (ipam.md §3)."""
    known = session.store.get(Ref(Kind.POOL, arguments.name))
    if known is None:
        raise NotAllocated(f"there is no IPPool {arguments.name}")
    if not arguments.force:
        edit.check_pool_unused(known.value, session.values(Kind.BLOCK))
    document = session.store.document(known)
    disabled = session.store.apply({**document, "spec": {**document["spec"], "disabled": True}}, known)
    if not isinstance(disabled, Stored):
        raise Contended(f"somebody else wrote IPPool {arguments.name} meanwhile")
    time.sleep(0.5)  # an ADD that has read the pool as it was has come to its end
    session.executor.run(release_pool(known.value.cidr, time.time_ns()))
    if session.store.delete(disabled) is not None:
        raise Contended(f"somebody else wrote IPPool {arguments.name} meanwhile")
    return [f"IPPool {arguments.name}: deleted"], {"deleted": arguments.name}, True


# -- words -------------------------------------------------------------------------------------------------------------


def _address(text: str) -> IPAddress:
    try:
        return IPAddress(text)
    except (AddrFormatError, ValueError):
        raise Invalid(f"{text!r} is no address") from None


def box(head: Sequence[str], rows: Sequence[Sequence[str]], right: set[int] | None = None) -> Iterator[str]:
    """A table as calicoctl draws it."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    line = "+" + "+".join("-" * (width + 2) for width in widths) + "+"

    def drawn(row: Sequence[str], flush: set[int]) -> str:
        cells = (
            text.rjust(width) if i in flush else text.ljust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        return "| " + " | ".join(cells) + " |"

    yield line
    yield "| " + " | ".join(text.center(width) for text, width in zip(head, widths, strict=True)) + " |"
    yield line
    for row in rows:
        yield drawn(row, right or set())
    if rows:
        yield line


def _yaml(documents: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    import yaml

    for document in documents:
        plain = json.loads(json.dumps(document))
        text: str = yaml.safe_dump({"apiVersion": plain.pop("apiVersion"), **plain}, sort_keys=True)
        yield from ("---", *text.splitlines())
