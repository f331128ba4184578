"""What the operator may see: rows, statuses and explanations, made from the live parts on demand.

The text side of the daemon: it reads the router, the reconcilers and the doors and changes nothing. ``why`` walks the
same rules that decided and says what each of them said. Called by ``daemon``, which hands itself to ``observe``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from bgpd.bgp.outbound import Outbound
from bgpd.bgp.speaker import Speaker
from bgpd.kernel.door import Kernel
from bgpd.model.peer import Peer
from bgpd.model.prefix import (
    Address,
    Family,
    Prefix,
    address_text,
    covers,
    host_prefix,
    parse_address,
    parse_prefix,
    prefix_text,
)
from bgpd.model.route import (
    BLACKHOLE,
    Attributes,
    FibKey,
    Forwarding,
    Origin,
    Out,
    Path,
    Resolution,
    SegmentType,
    Unresolved,
    default_metric,
)
from bgpd.model.status import (
    Explanation,
    FamilyCounts,
    FibStatus,
    NotFound,
    PeerStatus,
    RouteTable,
    RouteView,
    SessionState,
    Step,
)
from bgpd.reconcile import Drift, Reconciler
from bgpd.rib import longest_match
from bgpd.router import Router
from bgpd.rules.policy import ExportRefusal, groups_of

WELL_KNOWN = {0xFFFFFF01: "no-export", 0xFFFFFF02: "no-advertise", 0xFFFF0000: "graceful-shutdown"}


def as_path_text(attributes: Attributes) -> str:
    """The AS path as people write it: ``65001 65002 {65003,65004}``."""
    parts = []
    for kind, asns in attributes.as_path:
        if kind == SegmentType.AS_SEQUENCE:
            parts.append(" ".join(map(str, asns)))
        elif kind == SegmentType.AS_SET:
            parts.append("{" + ",".join(map(str, asns)) + "}")
        else:
            parts.append("(" + " ".join(map(str, asns)) + ")")
    return " ".join(parts)


def community_texts(attributes: Attributes) -> tuple[str, ...]:
    """Standard and large communities: ``65000:100``, ``65000:1:2``, well-known ones by name."""
    standard = (WELL_KNOWN.get(c, f"{c >> 16}:{c & 0xFFFF}") for c in attributes.communities)
    return (*standard, *(":".join(map(str, large)) for large in attributes.large_communities))


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which prefixes of a table are asked for."""

    prefix: Prefix | None
    longer: bool

    def of(self, table: Mapping[Prefix, object]) -> list[Prefix]:
        """Those of a table; a list, since the table may change while rows are taken."""
        if self.prefix is None:
            return list(table)
        if not self.longer:
            return [self.prefix] if self.prefix in table else []
        return [prefix for prefix in table if covers(self.prefix, prefix)]


NO_DRIFT = Drift(0, 0, 0)


@dataclass(slots=True)
class FibState:
    """One family's way into the kernel, as the daemon drives it."""

    reconciler: Reconciler[FibKey, Forwarding]
    drift: Drift = NO_DRIFT
    repairs: Counter[str] = field(default_factory=Counter)
    last_sync: float | None = None


class Viewer:
    """Reads the parts it is given; see the module."""

    def __init__(
        self,
        router: Router,
        speaker: Speaker,
        outbound: Outbound,
        kernel: Kernel,
        fibs: Mapping[Family, FibState],
    ) -> None:
        self._router, self._speaker, self._outbound = router, speaker, outbound
        self._kernel, self._fibs = kernel, fibs

    # Peers.

    def peers(self) -> list[PeerStatus]:
        """Every wanted session, its counts filled in."""
        return [self._with_counts(status) for status in self._speaker.statuses()]

    def _with_counts(self, status: PeerStatus) -> PeerStatus:
        counts = {}
        for family in Family:
            if family.label in status.families:
                received, accepted, stale = self._router.counts(status.id, family)
                told = self._outbound.advertised(status.id, family)
                counts[family.label] = FamilyCounts(received, accepted, told, stale)
        queue = self._outbound.queue_length(status.id)
        stale_kept = any(count.stale for count in counts.values())
        return replace(status, counts=counts, output_queue=queue, graceful_restart_active=stale_kept)

    def find_peer(self, name: str) -> PeerStatus:
        """A peer by its name or address; ``NotFound``."""
        for status in self._speaker.statuses():
            if name in (status.id, status.address):
                return status
        raise NotFound(f"no peer is named {name!r} and none has that address; bgpctl peers lists them")

    # Routes.

    def routes(
        self, table: RouteTable, prefix: str | None, peer: str | None, longer: bool
    ) -> Iterator[RouteView]:
        """Rows of a table. See ``model.status.Views.routes``."""
        only = parse_prefix(prefix) if prefix else None
        status = self.find_peer(peer) if peer else None
        families = (only[0],) if only else tuple(Family)
        return self._rows(table, families, _Wanted(only[1] if only else None, longer), status)

    def _rows(
        self, table: RouteTable, families: Iterable[Family], wanted: _Wanted, peer: PeerStatus | None
    ) -> Iterator[RouteView]:
        for family in families:
            if table == "rib":
                yield from self._rib_rows(family, wanted, peer)
            elif table == "fib":
                yield from self._fib_rows(family, wanted)
            elif table == "in":
                yield from self._in_rows(family, wanted, peer)
            else:
                yield from self._out_rows(family, wanted, peer)

    def _path_row(self, family: Family, prefix: Prefix, path: Path) -> RouteView:
        attributes = path.attributes
        return RouteView(
            prefix=prefix_text(family, prefix),
            family=family.label,
            peer=path.peer.id,
            next_hop=address_text(path.next_hop),
            as_path=as_path_text(attributes),
            origin=Origin(attributes.origin).name.lower(),
            local_pref=attributes.local_pref,
            med=attributes.med,
            communities=community_texts(attributes),
            path_id=path.path_id,
            kind="bgp",
        )

    def _in_rows(self, family: Family, wanted: _Wanted, peer: PeerStatus | None) -> Iterator[RouteView]:
        table = self._router.adj_rib_in(family)
        for prefix in wanted.of(table.candidates):
            paths = table.paths(prefix)
            best, multipath, rejected = self._router.judged(family, prefix) if paths else (None, (), {})
            chosen = prefix in self._router.rib(family)
            for path in paths:
                if peer and path.peer.id != peer.id:
                    continue
                reason = rejected.get(path)
                yield replace(
                    self._path_row(family, prefix, path),
                    best=chosen and path is best,
                    multipath=chosen and any(path is other for other in multipath),
                    stale=table.is_stale(prefix, path),
                    detail=reason.value if reason else "" if chosen else self._hidden(family, prefix) or "",
                )

    def _rib_rows(self, family: Family, wanted: _Wanted, peer: PeerStatus | None) -> Iterator[RouteView]:
        origination, table = self._router.origination(family), self._router.adj_rib_in(family)
        if peer is None:
            for prefix in wanted.of(dict.fromkeys((*origination.announce, *origination.blackholes))):
                own, hole = origination.announce.get(prefix), origination.blackholes.get(prefix)
                if own or (hole and prefix not in self._router.rib(family)):
                    yield RouteView(
                        prefix=prefix_text(family, prefix),
                        family=family.label,
                        best=True,
                        kind=own.kind.value if own else "blackhole",
                        detail=own.source if own else hole.source if hole else "",
                    )
        loc_rib = self._router.rib(family)
        for prefix in wanted.of(loc_rib):
            selection = loc_rib.get(prefix)
            for path in selection.multipath if selection else ():
                if selection and (peer is None or path.peer.id == peer.id):
                    yield replace(
                        self._path_row(family, prefix, path),
                        best=path is selection.best,
                        multipath=len(selection.multipath) > 1,
                        stale=table.is_stale(prefix, path),
                    )

    def _fib_rows(self, family: Family, wanted: _Wanted) -> Iterator[RouteView]:
        reconciler = self._fibs[family].reconciler
        keys: dict[Prefix, list[FibKey]] = {}
        for key in dict.fromkeys((*reconciler.held, *reconciler.wanted)):
            keys.setdefault(key[0], []).append(key)
        conflicts = self._kernel.fibs[family].conflicts
        for key in (key for prefix in wanted.of(keys) for key in keys[prefix]):
            held, target = reconciler.held.get(key), reconciler.wanted.get(key)
            value = held or target
            if value is None:
                continue
            detail = self.forwarding_text(value)
            if key[1] != default_metric(family):
                detail += f" metric {key[1]}"
            if held is None:
                detail = f"not in the kernel: {conflicts.get(key) or reconciler.errors.get(key) or 'not yet written'}"
            elif target is None:
                detail += " (left from before; goes when in sync)"
            elif held != target:
                detail += f" (to become {self.forwarding_text(target)})"
            yield RouteView(
                prefix=prefix_text(family, key[0]),
                family=family.label,
                next_hop="" if value is BLACKHOLE else self._hops_text(value),
                best=held is not None,
                kind="blackhole" if value is BLACKHOLE else "unicast",
                detail=detail,
            )

    def _out_rows(self, family: Family, wanted: _Wanted, peer: PeerStatus | None) -> Iterator[RouteView]:
        for member in self.established(family):
            if peer and member.id != peer.id:
                continue
            group = groups_of(member).get(family)
            table: Mapping[Prefix, Out] = self._router.adj_rib_out(group) if group else {}
            for prefix in wanted.of(table):
                out = table.get(prefix)
                if out is None or out.source is member:
                    continue
                own = self._router.origination(family).announce.get(prefix)
                told = self._outbound.has_told(member.id, family, prefix)
                yield RouteView(
                    prefix=prefix_text(family, prefix),
                    family=family.label,
                    peer=member.id,
                    next_hop=address_text(out.next_hop),
                    as_path=as_path_text(out.attributes),
                    origin=Origin(out.attributes.origin).name.lower(),
                    local_pref=out.attributes.local_pref,
                    med=out.attributes.med,
                    communities=community_texts(out.attributes),
                    best=told,
                    kind=own.kind.value if own else "bgp",
                    detail="" if told else "waiting for the peer to read",
                )

    # The kernel.

    def fib_status(self, family: Family) -> FibStatus:
        """The kernel's side of one family."""
        state, fib = self._fibs[family], self._kernel.fibs[family]
        held = state.reconciler.held.values()
        blackholes = sum(value is BLACKHOLE for value in held)
        return FibStatus(
            routes={"unicast": len(held) - blackholes, "blackhole": blackholes},
            wanted=len(state.reconciler.wanted),
            pending=state.reconciler.pending,
            drift=state.drift._asdict(),
            operations=dict(fib.operations),
            errors=dict(fib.errors),
            repairs=dict(state.repairs),
            conflicts={prefix_text(family, key[0]): words for key, words in fib.conflicts.items()},
            nexthop_objects=fib.nexthop_objects,
            last_sync=state.last_sync,
        )

    def _hops_text(self, value: Forwarding) -> str:
        if value is BLACKHOLE or not hasattr(value, "hops"):
            return ""
        return ", ".join(address_text(hop.gateway) if hop.gateway else "on-link" for hop in value.hops)

    def forwarding_text(self, value: Forwarding) -> str:
        """As ``ip route`` says it: ``via 10.0.1.30 dev ens5``, ``blackhole``."""
        if value is BLACKHOLE or not hasattr(value, "hops"):
            return "blackhole"
        legs = []
        for hop in value.hops:
            gateway = f"via {address_text(hop.gateway)} " if hop.gateway else ""
            onlink = " onlink" if hop.onlink else ""
            legs.append(f"{gateway}dev {self._kernel.interface_name(hop.ifindex)}{onlink}")
        return " and ".join(legs)

    # Why.

    def why(self, target: str) -> list[Explanation]:
        """Of a prefix: it alone. Of an address: every prefix known that covers it, the longest first."""
        if "/" in target:
            family, prefix = parse_prefix(target)
            return [self._explain(family, prefix)]
        address = parse_address(target)
        family = Family.IPV4 if len(address) == 4 else Family.IPV6
        host = host_prefix(address)
        found = longest_match(self._known(family), host) or [host]
        return [self._explain(family, prefix) for prefix in found]

    def _known(self, family: Family) -> Mapping[Prefix, object]:
        origination = self._router.origination(family)
        held = self._fibs[family].reconciler.held
        known: dict[Prefix, object] = dict.fromkeys(prefix for prefix, _ in held)
        for table in (
            self._router.adj_rib_in(family).candidates,
            origination.announce,
            origination.blackholes,
            origination.hidden,
            self._router.local(family),
        ):
            known.update(dict.fromkeys(table))
        return known

    def _hidden(self, family: Family, prefix: Prefix) -> str | None:
        """Why what peers say of a prefix is not used here at all."""
        origination = self._router.origination(family)
        if own := origination.announce.get(prefix):
            return f"hidden: it is our own {own.kind.value} ({own.source})"
        hole = origination.blackholes.get(prefix)
        if hole and not hole.yields:
            return f"hidden: it is our own block ({hole.source})"
        if word := self._router.local(family).get(prefix):
            return f"hidden: it is {word}"
        return None

    def _explain(self, family: Family, prefix: Prefix) -> Explanation:
        origination = self._router.origination(family)
        steps: list[Step] = []
        own, hole = origination.announce.get(prefix), origination.blackholes.get(prefix)
        if own:
            steps.append(Step("origin", f"ours to announce, as {own.kind.value}: {own.source}"))
        if hole:
            released = " (until another node announces it)" if hole.yields else ""
            steps.append(Step("origin", f"ours to keep as a blackhole{released}: {hole.source}"))
        if reason := origination.hidden.get(prefix):
            steps.append(Step("origin", f"not announced: {reason}", False))

        paths = self._router.adj_rib_in(family).paths(prefix)
        best, multipath, rejected = self._router.judged(family, prefix)
        for path in paths:
            steps.append(self._heard(family, prefix, path))
            refusal = rejected.get(path)
            if best is None and refusal:
                steps.append(Step("import", f"not used: {refusal.value}", False))
        hidden = self._hidden(family, prefix)
        if paths and hidden:
            steps.append(Step("import", hidden, False))
        if best is not None:
            steps.extend(self._decided(best, multipath, rejected))
        for next_hop in dict.fromkeys(path.next_hop for path in (multipath or paths)):
            steps.append(self._resolved(next_hop))
        kernel_step = self._in_kernel(family, prefix)
        steps.append(kernel_step)
        chosen = self._router.rib(family).get(prefix)
        if own or chosen or hidden:
            steps.extend(self._told(family, prefix))

        if own:
            verdict = f"this node's own {own.kind.value}, announced"
        elif hole and not chosen:
            verdict = "this node's own block, kept as a blackhole and not announced"
        elif chosen:
            verdict = f"learned from {chosen.best.peer.id}" + (
                f" and {len(chosen.multipath) - 1} more" if len(chosen.multipath) > 1 else ""
            )
            if not kernel_step.ok:
                verdict += ", but not in the kernel as wanted"
        elif paths:
            verdict = f"heard from {', '.join(dict.fromkeys(p.peer.id for p in paths))}, but not used"
        elif reason:
            verdict = "known here, but not announced"
        elif kernel_step.ok and self._held(family, prefix):
            verdict = "left in the kernel from before; it goes when in sync unless a peer announces it"
        else:
            verdict = "unknown: no peer announced it and no resource or workload route of this node is a reason for it"
        return Explanation(prefix_text(family, prefix), family.label, verdict, tuple(steps))

    def _heard(self, family: Family, prefix: Prefix, path: Path) -> Step:
        attributes = path.attributes
        words = [f"{path.peer.id}: next hop {address_text(path.next_hop)}"]
        words.append(f"AS path {as_path_text(attributes) or '(empty)'}")
        if attributes.local_pref is not None:
            words.append(f"local preference {attributes.local_pref}")
        if attributes.med is not None:
            words.append(f"MED {attributes.med}")
        if communities := community_texts(attributes):
            words.append(f"communities {' '.join(communities)}")
        if self._router.adj_rib_in(family).is_stale(prefix, path):
            words.append("stale: its session is down and in graceful restart")
        return Step("heard", ", ".join(words))

    @staticmethod
    def _decided(best: Path, multipath: tuple[Path, ...], rejected: Mapping[Path, object]) -> Iterator[Step]:
        if len(multipath) > 1:
            yield Step(
                "decision",
                f"{len(multipath)} paths share the traffic, tied through the metric to the next hop",
            )
        others = len(rejected)
        yield Step("decision", f"best: {best.peer.id}" + ("" if others else ", the only path"))
        for path, reason in rejected.items():
            yield Step(
                "decision",
                f"{path.peer.id} is not best: {getattr(reason, 'value', reason)}",
                path in multipath,
            )

    def _resolved(self, next_hop: Address) -> Step:
        resolution: Resolution | Unresolved = self._kernel.resolve(next_hop)
        text = address_text(next_hop)
        if isinstance(resolution, Unresolved):
            return Step("next hop", f"{text}: {resolution.value}", False)
        cost = f", metric {resolution.cost}" if resolution.cost else ""
        return Step("next hop", f"{text}: {self.forwarding_text(resolution.via)}{cost}")

    def _held(self, family: Family, prefix: Prefix) -> Forwarding | None:
        held = self._fibs[family].reconciler.held
        return next((value for key, value in held.items() if key[0] == prefix), None)

    def _in_kernel(self, family: Family, prefix: Prefix) -> Step:
        reconciler = self._fibs[family].reconciler
        key = (prefix, default_metric(family))
        wanted, held = reconciler.wanted.get(key), reconciler.held.get(key) or self._held(family, prefix)
        conflict = self._kernel.fibs[family].conflicts.get(key)
        if held is not None:
            text = f"{prefix_text(family, prefix)} {self.forwarding_text(held)} proto bird"
            if held is BLACKHOLE:
                text = f"blackhole {prefix_text(family, prefix)} proto bird"
            if wanted is None:
                return Step("kernel", f"{text}: left from before, kept until in sync")
            if wanted == held:
                shadow = f"; in front of it is {conflict}" if conflict else ""
                return Step("kernel", f"{text}: installed{shadow}", not conflict)
            why = conflict or reconciler.errors.get(key) or "a write is under way"
            return Step("kernel", f"{text}, but {self.forwarding_text(wanted)} is wanted: {why}", False)
        if wanted is not None:
            why = conflict or reconciler.errors.get(key) or "a write is under way"
            if reconciler.paused:
                why = "another routing daemon is at work here, so bgpd writes nothing"
            return Step("kernel", f"not there, though {self.forwarding_text(wanted)} is wanted: {why}", False)
        return Step("kernel", "no route of ours, and none is wanted", True)

    def established(self, family: Family) -> list[Peer]:
        """The sessions that carry a family now."""
        found = []
        for status in self._speaker.statuses():
            if status.state is SessionState.ESTABLISHED:
                peer = self._speaker.peer(status.id)
                if peer and family in peer.families:
                    found.append(peer)
        return found

    def _told(self, family: Family, prefix: Prefix) -> Iterator[Step]:
        told: list[str] = []
        waiting: list[str] = []
        refused: dict[str, list[str]] = {}
        for peer in self.established(family):
            group = groups_of(peer).get(family)
            out = self._router.exported(family, prefix, group) if group else ExportRefusal.NO_NEXT_HOP
            if out is None:
                continue
            if isinstance(out, Out) and out.source is peer:
                out = ExportRefusal.SOURCE
            if isinstance(out, ExportRefusal):
                refused.setdefault(out.value, []).append(peer.id)
            elif self._outbound.has_told(peer.id, family, prefix):
                told.append(peer.id)
            else:
                waiting.append(peer.id)
        if told:
            yield Step("told", _names(told))
        if waiting:
            yield Step("told", f"not yet, they read slowly: {_names(waiting)}", False)
        for reason, names in refused.items():
            yield Step("export", f"not told to {_names(names)}: {reason}", False)
        if not told and not waiting and not refused:
            yield Step("told", "nobody: no session of this family is established", False)


def _names(names: Iterable[str]) -> str:
    listed = sorted(names)
    shown = ", ".join(listed[:12])
    return shown if len(listed) <= 12 else f"{shown} and {len(listed) - 12} more"


def local_words(addresses: Iterable[Address], connected: Mapping[Prefix, str]) -> dict[Prefix, str]:
    """The node's own addresses and connected subnets as the router keeps them: prefix -> what it is, in words."""
    words = {prefix: f"the connected subnet of {interface}" for prefix, interface in connected.items()}
    for address in addresses:
        words[host_prefix(address)] = f"an address of this node ({address_text(address)})"
    return words
