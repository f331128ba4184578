"""The status screen, and the checks behind ``/readyz`` and ``/livez``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from bgpd import __version__
from bgpd.kernel.settings import forwarding_setting, reverse_path_settings
from bgpd.model.doors import Datastore
from bgpd.model.peer import PeerKind
from bgpd.model.prefix import Family, address_text, is_default, prefix_text
from bgpd.model.resources import Problem
from bgpd.model.route import OriginKind, default_metric
from bgpd.model.status import BlockView, Check, FibStatus, PeerStatus, SessionState, Status
from bgpd.views.blocks import blocks
from bgpd.views.configuration import fingerprint
from bgpd.views.live import Parts

FAILING_SHOWN = 5
"""Routes that cannot be written that the status names, of each family."""
EXPLICIT = frozenset((PeerKind.GLOBAL.value, PeerKind.NODE.value))
"""Kinds of sessions that a BGPPeer names: each is missed when it is down. Nodes of a mesh, pods and neighbours of a
listen range come and go."""
STUCK_SECONDS = 10.0
"""Seconds of a held event loop after which the daemon counts as dead."""


@dataclass(slots=True)
class Facts:
    """What the daemon knows of itself; it writes them, the views read."""

    config_file: Path
    started: float
    """Unix seconds, as all times here."""
    datastore: Datastore
    config_loaded: float = 0.0
    config_error: str = ""
    reloads: Counter[str] = field(default_factory=lambda: Counter(success=0, failure=0))
    in_the_way: str | None = None
    """Why nothing may be written; ``None`` when all is ours."""
    in_sync: bool = False
    lags: list[float] = field(default_factory=list)
    """How long the event loop was held lately, in seconds."""
    last_routes_change: float | None = None
    problems: list[Problem] = field(default_factory=list)
    """Problems of the daemon's own start."""
    memory_limit: int = 0
    """Octets that all peers together may hold; 0 is no limit."""
    out_of_memory: Callable[[], Iterable[Problem]] = tuple
    """Peers that had to go for what they held."""
    not_served: Callable[[], Iterable[Problem]] = tuple
    """What others look for here and does not stand there as it should."""
    waiting: tuple[str, ...] = ()
    """Keys of the configuration that differ from what the daemon was started with."""


def block_rows(parts: Parts) -> list[BlockView]:
    """Blocks that are ours, that we lend from or borrow of."""
    intent = parts.intent
    return blocks(intent.snapshot, intent.originations, intent.config.node) if intent.snapshot else []


def live(facts: Facts) -> list[Check]:
    """Liveness: the loop answers, else nobody would read this."""
    lag = max(facts.lags, default=0.0)
    return [Check("event loop", lag < STUCK_SECONDS, f"held for at most {lag:.3f} s lately")]


def ready(parts: Parts, facts: Facts) -> list[Check]:
    """Readiness: resources whole, the kernel ours to write and written once. Not: that any peer is up, or that each
    single route can be written (a problem says which cannot)."""
    whole = (
        parts.intent.snapshot is not None
    )  # what was whole once stands, though the directory may have gone since
    deltas = [state.delta for state in parts.fibs.values()]
    written = all(state.last_sync is not None or not state.delta.pending for state in parts.fibs.values())
    store = facts.datastore.status()
    lost = store.detail
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
        Check(
            "datastore",
            whole,
            f"{lost}; what was read last stands{_as_of(store.as_of)}"
            if whole and lost
            else _waited(parts, lost),
        ),
        Check("alone", facts.in_the_way is None, facts.in_the_way or ""),
        Check("kernel", not (kernel or paused), kernel or ("nothing is written meanwhile" if paused else "")),
    ]


def _as_of(moment: float | None) -> str:
    """Since when what stands is no longer confirmed, where the store is a server."""
    return f", as of {datetime.fromtimestamp(moment, UTC):%Y-%m-%dT%H:%M:%SZ}" if moment is not None else ""


def _waited(parts: Parts, lost: str) -> str:
    """What the datastore lacks, and where it is waited for."""
    store = parts.intent.config.datastore
    place = {"files": str(store.path), "etcd": " ".join(store.endpoints)}.get(store.type, "the API server")
    return lost if not lost or place in lost else f"{lost}; waited for in {place}"


def fib_status(parts: Parts, family: Family) -> FibStatus:
    """The kernel's side of one family."""
    state, fib = parts.fibs[family], parts.kernel.fibs[family]
    held, metric = state.delta.installed.entries, default_metric(family)
    blackholes = sum(
        (prefix, metric) in held for prefix in parts.router.explain.origination(family).blackholes
    )
    return FibStatus(
        routes={"unicast": len(held) - blackholes, "blackhole": blackholes},
        wanted=len(state.delta.wanted),
        pending=state.delta.pending,
        drift=state.drift._asdict(),
        operations=dict(fib.operations),
        errors=dict(fib.errors),
        repairs=dict(state.repairs),
        conflicts={
            prefix_text(family, key[0]): words
            for key, words in fib.conflicts.items()
            if not is_default(key[0])
        },
        nexthop_objects=fib.nexthop_objects,
        last_sync=state.last_sync,
    )


def status(parts: Parts, facts: Facts) -> Status:
    """One screen."""
    peering, sessions = parts.intent.peering, parts.speaker.sessions.statuses()
    desired: Counter[tuple[str, str]] = Counter(
        {(kind.value, f.label): 0 for kind in OriginKind for f in Family}
    )
    for family, origination in parts.intent.originations.items():
        for own in origination.announce.values():
            desired[own.kind.value, family.label] += 1
    fibs = {family.label: fib_status(parts, family) for family in Family}
    conflicts = [
        Problem("the kernel", "", f"{prefix} is not ours to write: {words}")
        for fib in fibs.values()
        for prefix, words in fib.conflicts.items()
    ]
    failing = [problem for family in Family for problem in _failing(parts, family)]
    node = parts.intent.config.node
    store = facts.datastore.status()
    checks = ready(parts, facts)
    unheard = []
    if parts.speaker.listen_error and facts.in_the_way is None:
        unheard = [Problem("BGP", "bgp.listen", parts.speaker.listen_error)]
    problems = (
        *facts.problems,
        *unheard,
        *store.problems,
        *(peering.problems if peering else ()),
        *_strange_addresses(parts),
        *lacks(parts),
        *facts.out_of_memory(),
        *facts.not_served(),
        *conflicts,
        *failing,
    )
    return Status(
        node=node,
        version=__version__,
        asn=peering.asn if peering else None,
        router_id=address_text(peering.router_id) if peering else "",
        started=facts.started,
        ready=all(check.ok for check in checks),
        in_sync=facts.in_sync,
        drain=int(parts.intent.drain),
        drain_words=parts.intent.drain.words,
        checks=tuple(checks),
        datastore=store,
        config_file=str(facts.config_file),
        config_loaded=facts.config_loaded,
        config_hash=fingerprint(parts.intent.config),
        config_error=facts.config_error,
        reloads=dict(facts.reloads),
        peers_up=sum(session.state is SessionState.ESTABLISHED for session in sessions),
        peers_wanted=sum(session.admin_up for session in sessions),
        routes_desired=dict(desired),
        routes_advertised=_advertised(parts, desired),
        rib_routes={
            **{(family.label, "bgp"): len(parts.router.rib(family)) for family in Family},
            **{
                (family.label, "local"): len(parts.router.explain.origination(family).announce)
                for family in Family
            },
        },
        rib_paths={
            (f.label, "bgp"): sum(parts.router.adj_rib_in(f).counts(session.id)[0] for session in sessions)
            for f in Family
        },
        fib=fibs,
        netlink_overruns=parts.kernel.overruns,
        update_groups=parts.router.groups,
        ipam_blocks=dict(Counter((b.pool, b.family) for b in block_rows(parts) if b.affinity == node)),
        ipam_borrowed={family.label: desired[OriginKind.BORROWED.value, family.label] for family in Family},
        memory_limit=facts.memory_limit,
        event_loop_lag=max(facts.lags, default=0.0),
        last_routes_change=facts.last_routes_change,
        peers_shut_down=sum(not session.admin_up for session in sessions),
        problems=problems,
        degraded=tuple(_degraded(parts, facts, sessions, problems, len(conflicts))),
    )


def _degraded(
    parts: Parts, facts: Facts, sessions: Sequence[PeerStatus], problems: Iterable[Problem], conflicts: int
) -> Iterator[str]:
    """Why the node is not as it should be, a sentence each."""
    store = facts.datastore.status()
    if store.detail:
        kept = ": what was read last stands" if parts.intent.snapshot is not None else ""
        yield f"The resources are not whole, {store.detail}{kept}."
    elif parts.intent.snapshot is not None and parts.intent.config.node not in parts.intent.snapshot.nodes:
        yield f"There is no Node {parts.intent.config.node!r} in the resources."
    if facts.config_error:
        yield f"The configuration file was refused, the one before is in force: {facts.config_error.splitlines()[0]}."
    if facts.waiting:
        yield f"The configuration waits for a restart of bgpd: {', '.join(facts.waiting)}."
    wanted = [session for session in sessions if session.admin_up]
    down = [session for session in wanted if session.state is not SessionState.ESTABLISHED]
    if down and len(down) == len(wanted):
        yield f"No session is established, of {len(wanted)} that are wanted."
    for session in [each for each in down if each.kind in EXPLICIT][:FAILING_SHOWN]:
        error = f": {session.last_error}" if session.last_error else ""
        yield f"{session.id} ({session.source}) is not established{error}."
    more = sum(session.kind in EXPLICIT for session in down) - FAILING_SHOWN
    if more > 0:
        yield f"{more} more peers of BGPPeers are not established."
    if conflicts:
        yield f"Another's route stands in the place of {conflicts} of ours."
    count = sum(not problem.harmless for problem in problems) - conflicts
    if count:
        yield f"There {'is 1 problem' if count == 1 else f'are {count} problems'}, reported below."


def lacks(parts: Parts) -> Iterator[Problem]:
    """What this machine needs to forward what it announces, and lacks."""
    node = parts.intent.snapshot.nodes.get(parts.intent.config.node) if parts.intent.snapshot else None
    for family in Family:
        if node is not None and node.address(family) is not None:
            setting = forwarding_setting(family)
            if parts.kernel.setting(setting) == 0:
                yield Problem(
                    "the kernel", setting, f"is 0: this machine forwards no {family.label} packet; expected 1"
                )
    uplinks = parts.kernel.uplinks()
    for name in uplinks if Family.IPV4 in parts.intent.originations or node else ():
        strict = [s for s in reverse_path_settings(name) if parts.kernel.setting(s) == 1]
        loose = any(parts.kernel.setting(s) == 2 for s in reverse_path_settings(name))
        if strict and not loose:
            several = len(uplinks) > 1
            words = (
                "is 1 (strict): packets that come over another uplink than the answer goes are dropped"
                if several
                else "is 1 (strict): with a second uplink packets would be dropped"
            )
            yield Problem("the kernel", strict[0], f"{words}; expected 2 or 0", harmless=not several)
    for rule in parts.router.explain.family_policy(Family.IPV4).kernel_rules:
        if rule.tunnel is not None and rule.tunnel not in parts.kernel.tunnels():
            message = f"{rule.tunnel} is not there or is down: its routes through it are not written"
            yield Problem(rule.reason, "", message)


def _failing(parts: Parts, family: Family) -> Iterator[Problem]:
    """Routes that the kernel refuses, other than for somebody's route in their place: the first few, and how many."""
    conflicts = parts.kernel.fibs[family].conflicts
    errors = {key: why for key, why in parts.fibs[family].delta.errors.items() if key not in conflicts}
    for (prefix, _), why in islice(errors.items(), FAILING_SHOWN):
        yield Problem("the kernel", "", f"{prefix_text(family, prefix)} cannot be written: {why}")
    if len(errors) > FAILING_SHOWN:
        more = len(errors) - FAILING_SHOWN
        yield Problem("the kernel", "", f"{more} more {family.label} routes cannot be written")


def _strange_addresses(parts: Parts) -> Iterator[Problem]:
    """Addresses that the Node resource gives this machine and that it does not have."""
    node = parts.intent.snapshot.nodes.get(parts.intent.config.node) if parts.intent.snapshot else None
    for family in Family:
        address = node.address(family) if node else None
        if node and address is not None and address not in parts.kernel.addresses(family):
            message = (
                f"{address_text(address)} is on no interface of this machine: no session can start from it"
            )
            yield Problem(f"Node {node.name}", f"spec.bgp.{family.label}Address", message)


def _advertised(parts: Parts, desired: Mapping[tuple[str, str], int]) -> dict[tuple[str, str], int]:
    """Of the routes wanted, those that every established session of the family has been sent."""
    advertised: Counter[tuple[str, str]] = Counter()
    for family, origination in parts.intent.originations.items():
        sessions = parts.established(family)
        if not all(family in parts.router.groups_of(peer) for peer in sessions):
            continue  # to some there is no next hop to announce
        for prefix, own in origination.announce.items():
            if all(parts.outbound.has_advertised(peer.id, family, prefix) for peer in sessions):
                advertised[own.kind.value, family.label] += 1
    return {key: advertised[key] for key in desired}
