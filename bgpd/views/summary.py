"""The status screen, and the checks behind ``/readyz`` and ``/livez``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from bgpd import __version__
from bgpd.config.config import Config
from bgpd.model.prefix import Family, address_text, prefix_text
from bgpd.model.resources import Problem, Snapshot
from bgpd.model.route import Origination, OriginKind, default_metric
from bgpd.model.status import BlockView, Check, Datastore, FibStatus, SessionState, Status
from bgpd.rules.originate import blocks
from bgpd.rules.peering import Peering
from bgpd.views.live import Parts

FAILING_SHOWN = 5
"""Routes that cannot be written that the status names, of each family."""
STUCK = 10.0
"""Seconds of a held event loop after which the daemon counts as dead."""


@dataclass(slots=True)
class Facts:
    """What the daemon knows of itself; it writes them, the views read."""

    config: Config
    config_file: str
    started: float
    """Unix seconds, as all times here."""
    datastore: Datastore
    config_loaded: float = 0.0
    config_error: str = ""
    reloads: Counter[str] = field(default_factory=lambda: Counter(success=0, failure=0))
    snapshot: Snapshot | None = None
    """The newest whole one; ``None`` until the first."""
    peering: Peering | None = None
    originations: Mapping[Family, Origination] = field(default_factory=dict)
    in_the_way: str | None = None
    """Why nothing may be written; ``None`` when all is ours."""
    in_sync: bool = False
    lags: list[float] = field(default_factory=list)
    """How long the event loop was held lately, in seconds."""
    last_routes_change: float | None = None
    problems: list[Problem] = field(default_factory=list)
    """Of the daemon's own start."""


def block_rows(facts: Facts) -> list[BlockView]:
    """Blocks that are ours, that we lend from or borrow of."""
    return blocks(facts.snapshot, facts.originations, facts.config.node) if facts.snapshot else []


def live(facts: Facts) -> list[Check]:
    """Liveness: the loop answers, else nobody would read this."""
    lag = max(facts.lags, default=0.0)
    return [Check("event loop", lag < STUCK, f"held for at most {lag:.3f} s lately")]


def ready(parts: Parts, facts: Facts) -> list[Check]:
    """Readiness: resources whole, the kernel ours to write and written once. Not: that any peer is up, or that each
    single route can be written (a problem says which cannot)."""
    whole = facts.snapshot is not None  # what was whole once stands, though the directory may have gone since
    deltas = [state.delta for state in parts.fibs.values()]
    written = all(state.last_sync is not None or not state.delta.pending for state in parts.fibs.values())
    lost = facts.datastore.status().detail
    paused = any(delta.paused for delta in deltas)
    kernel = "" if whole and written else "the first routes are not yet written"
    for family, state in parts.fibs.items():
        errors, wanted = state.delta.errors, state.delta.wanted
        if errors and len(errors) == len(wanted):
            kernel = (
                f"none of {len(wanted)} {family.label} routes can be written: {next(iter(errors.values()))}"
            )
    return [
        Check("config", True, facts.config_error.replace("\n", "; ")),  # a refused file changed nothing
        Check("datastore", whole, f"{lost}; what was read last stands" if whole and lost else lost),
        Check("alone", facts.in_the_way is None, facts.in_the_way or ""),
        Check("kernel", not (kernel or paused), kernel or ("nothing is written meanwhile" if paused else "")),
    ]


def fib_status(parts: Parts, family: Family) -> FibStatus:
    """The kernel's side of one family."""
    state, fib = parts.fibs[family], parts.kernel.fibs[family]
    held, metric = state.delta.installed.entries, default_metric(family)
    blackholes = sum((prefix, metric) in held for prefix in parts.router.origination(family).blackholes)
    return FibStatus(
        routes={"unicast": len(held) - blackholes, "blackhole": blackholes},
        wanted=len(state.delta.wanted),
        pending=state.delta.pending,
        drift=state.drift._asdict(),
        operations=dict(fib.operations),
        errors=dict(fib.errors),
        repairs=dict(state.repairs),
        conflicts={prefix_text(family, key[0]): words for key, words in fib.conflicts.items()},
        nexthop_objects=fib.nexthop_objects,
        last_sync=state.last_sync,
    )


def status(parts: Parts, facts: Facts) -> Status:
    """One screen."""
    peering, sessions = facts.peering, parts.speaker.statuses()
    desired: Counter[tuple[str, str]] = Counter(
        {(kind.value, f.label): 0 for kind in OriginKind for f in Family}
    )
    for family, origination in facts.originations.items():
        for own in origination.announce.values():
            desired[own.kind.value, family.label] += 1
    fibs = {family.label: fib_status(parts, family) for family in Family}
    conflicts = [
        Problem("the kernel", "", f"{prefix} is not ours to write: {words}")
        for fib in fibs.values()
        for prefix, words in fib.conflicts.items()
    ]
    failing = [problem for family in Family for problem in _failing(parts, family)]
    node = facts.config.node
    strange = list(_strange_addresses(parts, facts))
    store = facts.datastore.status()
    checks = ready(parts, facts)
    unheard = []
    if parts.speaker.listen_error and facts.in_the_way is None:
        unheard = [Problem("BGP", "bgp.listen", parts.speaker.listen_error)]
    return Status(
        node=node,
        version=__version__,
        asn=peering.asn if peering else None,
        router_id=address_text(peering.router_id) if peering else "",
        started=facts.started,
        ready=all(check.ok for check in checks),
        in_sync=facts.in_sync,
        checks=tuple(checks),
        datastore=store,
        config_file=facts.config_file,
        config_loaded=facts.config_loaded,
        config_error=facts.config_error,
        reloads=dict(facts.reloads),
        peers_up=sum(session.state is SessionState.ESTABLISHED for session in sessions),
        peers_wanted=sum(session.admin_up for session in sessions),
        routes_desired=dict(desired),
        routes_advertised=_advertised(parts, facts, desired),
        rib_routes={
            **{(family.label, "bgp"): len(parts.router.rib(family)) for family in Family},
            **{(family.label, "local"): len(parts.router.origination(family).announce) for family in Family},
        },
        rib_paths={
            (f.label, "bgp"): sum(parts.router.adj_rib_in(f).counts(session.id)[0] for session in sessions)
            for f in Family
        },
        fib=fibs,
        netlink_overruns=parts.kernel.overruns,
        update_groups=parts.router.groups,
        ipam_blocks=dict(Counter((b.pool, b.family) for b in block_rows(facts) if b.affinity == node)),
        ipam_borrowed={family.label: desired[OriginKind.BORROWED.value, family.label] for family in Family},
        event_loop_lag=max(facts.lags, default=0.0),
        last_routes_change=facts.last_routes_change,
        peers_shut_down=sum(not session.admin_up for session in sessions),
        problems=(
            *facts.problems,
            *unheard,
            *store.problems,
            *(peering.problems if peering else ()),
            *strange,
            *conflicts,
            *failing,
        ),
    )


def _failing(parts: Parts, family: Family) -> Iterator[Problem]:
    """Routes that the kernel refuses, other than for somebody's route in their place: the first few, and how many."""
    conflicts = parts.kernel.fibs[family].conflicts
    errors = {key: why for key, why in parts.fibs[family].delta.errors.items() if key not in conflicts}
    for (prefix, _), why in islice(errors.items(), FAILING_SHOWN):
        yield Problem("the kernel", "", f"{prefix_text(family, prefix)} cannot be written: {why}")
    if len(errors) > FAILING_SHOWN:
        more = len(errors) - FAILING_SHOWN
        yield Problem("the kernel", "", f"{more} more {family.label} routes cannot be written")


def _strange_addresses(parts: Parts, facts: Facts) -> Iterator[Problem]:
    """Addresses that the Node resource gives this machine and that it does not have."""
    node = facts.snapshot.nodes.get(facts.config.node) if facts.snapshot else None
    for family in Family:
        address = node.address(family) if node else None
        if node and address is not None and address not in parts.kernel.addresses(family):
            message = (
                f"{address_text(address)} is on no interface of this machine: no session can start from it"
            )
            yield Problem(f"Node {node.name}", f"spec.bgp.{family.label}Address", message)


def _advertised(
    parts: Parts, facts: Facts, desired: Mapping[tuple[str, str], int]
) -> dict[tuple[str, str], int]:
    """Of the routes wanted, those that every established session of the family has been told."""
    told: Counter[tuple[str, str]] = Counter()
    for family, origination in facts.originations.items():
        sessions = parts.established(family)
        if not all(family in parts.router.groups_of(peer) for peer in sessions):
            continue  # to some there is no next hop to tell
        for prefix, own in origination.announce.items():
            if all(parts.outbound.has_told(peer.id, family, prefix) for peer in sessions):
                told[own.kind.value, family.label] += 1
    return {key: told[key] for key in desired}
