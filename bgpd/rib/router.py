"""The single writer: what happened comes in, what must change goes out. Owns every RIB and does no I/O.

``daemon`` calls the event methods as the doors report, then ``work`` until nothing is due (a slice at a time, so that
the event loop is never held), and passes ``take_changes`` on: forwarding to the programmers, Adj-RIB-Out to the update
groups. Decisions depend on present state alone (house rule 4): an event may come twice or late.

A prefix of this node's own (announced, a blackhole, or a static route) is not up for decision: what peers say of it is
kept and hidden; but a workload that has moved takes its address with it (calico.md §3.5). The same holds for the node's
own addresses and connected subnets. Everything else is decided by ``rules.decision``.

Adj-RIB-In holds what was received, so another policy (``set_policy``) touches no session. The hot road is that of peers
without import filters and of families whose routes all go into the kernel as they resolve: a decision is found by its
candidates' identities. The other roads pay for what they ask, prefix by prefix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bgpd.model.peer import Down, DownReason, Peer, PeerId
from bgpd.model.prefix import Address, Family, Prefix, is_host
from bgpd.model.route import (
    Announce,
    BeginRefresh,
    EndRefresh,
    FibKey,
    Origination,
    Path,
    Resolution,
    RibEvent,
    Unresolved,
    Withdraw,
)
from bgpd.rib.explain import Explain
from bgpd.rib.family import FamilyRib, FibChanges, Resolve
from bgpd.rib.groups import OutChanges, UpdateGroup
from bgpd.rib.remembered import Remembered
from bgpd.rib.stale import StaleTimes
from bgpd.rib.tables import AdjRibIn, LocRib
from bgpd.rules.communities import GRACEFUL_SHUTDOWN
from bgpd.rules.exports import GroupKey, group_keys
from bgpd.rules.imports import (
    as_taken,
    import_refusal,
    import_rules,
    long_lived,
    may_be_martians,
)
from bgpd.rules.policy import RoutePolicy
from bgpd.rules.priority import carries_metric, may_elevate


@dataclass(slots=True)
class Changes:
    """What one turn of work decided. ``None`` is "gone"."""

    fib: dict[Family, FibChanges] = field(default_factory=dict)
    left: dict[Family, set[FibKey]] = field(default_factory=dict)
    """Keys of them whose routes another writes (Felix), where they end."""
    adj_rib_out: dict[UpdateGroup, OutChanges] = field(default_factory=dict)


class FrozenRouter(NamedTuple):
    """What a router knows and another process cannot find out in time."""

    encoded: bool
    """Whether LOCAL_PREF was seen to carry the kernel's metric (``Router.encoded``)."""
    path_ids: Mapping[Family, Mapping[tuple[PeerId | None, int], int]]
    """Source of routes, ``None`` for this node, and its own path identifier -> the identifier that sessions know."""


class Router:
    """See the module. ``resolve`` says where a next hop leads; the kernel door's, or a table in tests."""

    def __init__(self, resolve: Resolve, max_paths: int = 16) -> None:
        self._kernel_resolve, self._max_paths = resolve, max_paths
        self._gateways: dict[Address, Address] = {}
        """Next hops that a host route of ours leads to -> over what: the kernel knows the ways of others only."""
        self._policy = RoutePolicy()
        self._ribs = {
            family: FamilyRib(family, self.resolve, max_paths, self._is_client) for family in Family
        }
        self.explain = Explain(self._ribs, self.resolve, max_paths)
        self._peers: dict[PeerId, Peer] = {}
        self._altered: Remembered[Path, Path] = Remembered()
        """Paths that are taken in otherwise than they were received."""
        self._prioritised = self._encoded = False
        self._stale = StaleTimes()
        self._over_limit: dict[PeerId, tuple[Peer, Family, int]] = {}

    # What happened.

    def session_up(self, peer: Peer, now: float) -> None:
        """A session is established: its routes will follow, and it joins its update groups.

        Stale routes wait for its End-of-RIB, ``STALE_SECONDS`` at most; those of a family whose forwarding the peer did
        not preserve, or that this session does not carry, go at once (RFC 4724 §4.2).
        """
        before = self._peers.get(peer.id)
        if before is peer:
            return
        if before is not None:  # its end comes late, or never
            replaced = Down(DownReason.REPLACED, "", before.restart_families, before.restart_time)
            self.session_down(before, replaced, now)
        self._peers[peer.id] = peer
        kept = peer.families & peer.forwarding_preserved
        for family, rib in self._ribs.items():
            key = peer.id, family
            long_lived_lost = self._stale.is_long_lived(key) and family not in peer.long_lived_preserved
            if family not in kept or long_lived_lost:
                self._stale.keep_no_more(key)
                rib.drop_paths_of(peer.id)
            else:
                self._stale.peer_back(key, now)
            rib.set_rules(peer, import_rules(self._policy, peer, family))
        for family, group in group_keys(peer, self._policy).items():
            self._join(self._ribs[family], peer.id, group)

    def session_down(self, peer: Peer, down: Down, now: float) -> None:
        """A session ended. Routes of the families in ``down.keep`` stay as stale for ``down.keep_seconds``.

        Word of a session that another has replaced comes too late to mean anything.
        """
        if self._peers.get(peer.id) is not peer:
            return
        del self._peers[peer.id]
        self._over_limit.pop(peer.id, None)
        for family, rib in self._ribs.items():
            key = peer.id, family
            self._stale.refresh_over(key)
            if family in down.keep:
                rib.adj_rib_in.mark_stale(peer.id, keep=self._stale.is_long_lived(key))
                life = peer.long_lived.get(family, 0.0)
                self._stale.keep_for(key, now + down.keep_seconds, life)
            else:
                self._stale.keep_no_more(key)
                rib.drop_paths_of(peer.id)
        for rib in self._ribs.values():
            self._leave(rib, peer.id)

    def forget_peer(self, peer: PeerId) -> None:
        """The peer is no longer wanted: its session, if its end was not reported, and whatever it left go."""
        if session := self._peers.get(peer):
            self.session_down(session, Down(DownReason.CONFIG, ""), 0.0)
        for family, rib in self._ribs.items():
            self._stale.keep_no_more((peer, family))
            rib.drop_paths_of(peer)

    def hand_on(self, before: PeerId, after: PeerId, now: float) -> None:
        """A peer is no longer wanted, and another comes in its place that is the same neighbour: what is kept of it
        waits for what that one announces, ``stale.HANDED_ON_SECONDS`` at most."""
        if session := self._peers.get(before):
            self.session_down(session, Down(DownReason.CONFIG, ""), now)
        for family, rib in self._ribs.items():
            if self._stale.hand_on((before, family), (after, family), now):
                rib.hand_on(before, after)
            else:
                rib.drop_paths_of(before)

    def learn_routes(self, peer: Peer, events: Sequence[RibEvent], now: float = 0.0) -> None:
        """What a session announced, in order."""
        if self._peers.get(peer.id) is not peer:
            return
        limit, zoned, internal = peer.config.max_prefixes, peer.config.interface is not None, peer.ibgp
        peer_id = peer.id
        for event in events:
            rib = self._ribs[event.family]
            if isinstance(event, Announce):
                path = event.path
                attributes = path.attributes
                if zoned or (attributes.communities and GRACEFUL_SHUTDOWN in attributes.communities):
                    path = self._as_taken(path)
                rules = rib.rules[peer_id]
                if may_be_martians(event.family, event.prefixes):
                    rib.importing[peer_id] = rules
                refused = import_refusal(path, rules) is not None
                rib.adj_rib_in.announce(path, event.prefixes, rib.dirty, refused, rules.max_paths_per_prefix)
                if internal and carries_metric(attributes.local_pref):
                    self._encodes()
                if limit is not None:
                    received_, _, stale = rib.adj_rib_in.counts(peer.id)
                    if received_ - stale > limit:
                        self._over_limit[peer.id] = (peer, event.family, received_ - stale)
            elif isinstance(event, Withdraw):
                rib.adj_rib_in.withdraw(peer, event.prefixes, event.path_id, rib.dirty)
            else:
                self._marker(peer, rib, event, now)

    def _marker(self, peer: Peer, rib: FamilyRib, event: RibEvent, now: float) -> None:
        """End-of-RIB (RFC 4724), or the begin or end of a refresh (RFC 7313 §4)."""
        key = peer.id, rib.family
        if isinstance(event, BeginRefresh):
            if self._stale.refresh_begins(key, now):
                rib.adj_rib_in.mark_stale(peer.id)
        elif self._stale.all_announced(key, refresh=isinstance(event, EndRefresh)):
            rib.adj_rib_in.sweep_stale(peer.id)

    def originated(self, originations: Mapping[Family, Origination]) -> None:
        """What this node announces and keeps, whole; only what differs from before is decided again."""
        for family, new in originations.items():
            rib, old = self._ribs[family], self._ribs[family].origination
            rib.origination = rib.adj_ribs_out.origination = new
            rib.specials()
            pairs: tuple[tuple[Mapping[Prefix, object], Mapping[Prefix, object]], ...] = (
                (old.announce, new.announce),
                (old.blackholes, new.blackholes),
                (old.statics, new.statics),
                (old.assigned, new.assigned),
                (old.offered, new.offered) if rib.adj_ribs_out.filtered else ({}, {}),
            )
            for before, after in pairs:
                for prefix in before.keys() | after.keys():
                    if before.get(prefix) != after.get(prefix):
                        rib.dirty[prefix] = None
            if _passed_on(new) != _passed_on(old):
                rib.decide_all()
        self._review_gateways()

    def workloads_ranked(self, ranked: bool) -> None:
        """Whether this node's own workloads say that LOCAL_PREF carries the kernel's metric (``are_ranked``): known
        before a peer has announced anything, so that no peer hears another LOCAL_PREF first."""
        if ranked:
            self._encodes()

    def local_prefixes(self, family: Family, local: Mapping[Prefix, str]) -> None:
        """This node's own addresses and connected subnets, each with a word for it: never taken from a peer."""
        rib = self._ribs[family]
        rib.dirty.update(dict.fromkeys(rib.local.keys() ^ local.keys()))
        rib.local = dict(local)
        rib.specials()

    def review_next_hops(self, addresses: frozenset[Address]) -> None:
        """These resolve otherwise than before: every prefix with a path through one is decided again."""
        if self._gateways:
            addresses |= {hop for hop, gateway in self._gateways.items() if gateway in addresses}
        for rib in self._ribs.values():
            rib.epoch = object()
            if rib.adj_rib_in.candidates:
                rib.moved |= addresses
            for prefix, static in rib.origination.statics.items():
                if static.gateway in addresses:
                    rib.dirty[prefix] = None

    def tunnels_changed(self, devices: Mapping[str, int]) -> None:
        """The tunnel devices that are up, name -> index, are others than before."""
        for rib in self._ribs.values():
            before, rib.tunnels = rib.tunnels, dict(devices)
            if devices != before and any(rule.tunnel for rule in rib.policy.kernel_rules):
                rib.revalue()

    def freeze(self) -> FrozenRouter:
        """What is known here that what the peers send again does not say."""
        return FrozenRouter(
            self._encoded, {family: dict(rib.adj_ribs_out.path_ids) for family, rib in self._ribs.items()}
        )

    def thaw(self, frozen: FrozenRouter) -> None:
        """What another process knew; before anything is decided."""
        if frozen.encoded:
            self._encodes()
        for family, path_ids in frozen.path_ids.items():
            self._ribs[family].adj_ribs_out.take_path_ids(path_ids)

    def set_policy(self, new: RoutePolicy) -> dict[Peer, dict[Family, UpdateGroup]]:
        """Another policy: what differs by it is decided again, no session is touched. One that the policy does not know
        is about to end, and stays as it is.

        Returns the sessions that belong to other groups now, with these (``Outbound.move_sessions``). Changes decided
        before must have been taken.
        """
        old, self._policy = self._policy, new
        if new == old:
            return {}
        for family, rib in self._ribs.items():
            for peer in {**rib.adj_rib_in.peers(), **self._peers}.values():
                if new.known(peer) is not None:
                    rib.set_rules(peer, import_rules(new, peer, family))
            chains = [(group, group.chain) for group in rib.adj_ribs_out.groups]
            rib.adj_ribs_out.configure(new)
            rib.policy = new.families[family]
            rib.plain, rib.elevating = rib.policy.plain, may_elevate(new.priorities)
            if (
                rib.policy != old.families[family]
                or (new.kept_inside, new.cluster_id) != (old.kept_inside, old.cluster_id)
                or new.clients != old.clients
                or new.priorities != old.priorities
                or any(group.chain != before for group, before in chains)
            ):
                rib.revalue()
        moved = {}
        for peer in self._peers.values():
            before = {family: group.key for family, group in self.groups_of(peer).items()}
            after = group_keys(peer, new)
            if before != after and new.known(peer) is not None:
                for family, rib in self._ribs.items():
                    if (key := after.get(family)) is None:
                        self._leave(rib, peer.id)
                    elif key != before.get(family):
                        self._join(rib, peer.id, key)
                moved[peer] = self.groups_of(peer)
        self._review_priorities()
        return moved

    def tick(self, now: float) -> None:
        """Stale routes whose time is up go (RFC 4724 §4.2), or live on as the last resort (RFC 9494 §4.2)."""
        for (peer, family), lives_on in self._stale.due(now):
            adj_rib_in = self._ribs[family].adj_rib_in
            if lives_on:
                adj_rib_in.age(peer, long_lived)
            else:
                adj_rib_in.sweep_stale(peer)

    def next_deadline(self) -> float | None:
        """When ``tick`` is next needed."""
        return self._stale.next_deadline()

    # The work, and what comes of it.

    def work(self, limit: int = 256) -> bool:
        """Decide up to ``limit`` prefixes of each family. Whether more is due.

        A prefix costs half a microsecond where others have its paths, twenty where it has two paths of its own.
        """
        for rib in self._ribs.values():
            if rib.moved or rib.scan:
                rib.look_for_moved(limit * 8)  # looking costs far less than deciding
            rib.adj_rib_in.sweep(limit, rib.dirty)
            queue = rib.queue
            if not queue and rib.dirty:
                queue.extend(rib.dirty)
                rib.dirty = {}
            if queue:
                rib.decide([queue.popleft() for _ in range(min(limit, len(queue)))])
                rib.forget_decisions(limit)
        return self.busy

    @property
    def busy(self) -> bool:
        """Whether ``work`` has something to do."""
        return any(rib.busy for rib in self._ribs.values())

    @property
    def backlog(self) -> int:
        """Prefixes that wait for their decision."""
        return sum(len(rib.dirty) + len(rib.queue) for rib in self._ribs.values())

    def take_changes(self) -> Changes:
        """What was decided since the last call."""
        changes = Changes()
        for family, rib in self._ribs.items():
            if rib.fib:
                changes.fib[family], rib.fib = rib.fib, {}
                changes.left[family], rib.left = rib.left, set()
            changes.adj_rib_out.update(rib.adj_ribs_out.take_changes())
        return changes

    def take_over_limit(self) -> list[tuple[Peer, Family, int]]:
        """Sessions that announced more than their ``max_prefixes``, with the family and the count."""
        found, self._over_limit = list(self._over_limit.values()), {}
        return found

    def groups_of(self, peer: Peer) -> dict[Family, UpdateGroup]:
        """The update groups of an established session; none of a family that we have no next hop for. Their tables are
        live, to be read only."""
        found = ((family, rib.adj_ribs_out.of(peer.id)) for family, rib in self._ribs.items())
        return {family: group for family, group in found if group is not None}

    @property
    def groups(self) -> int:
        """How many update groups there are."""
        return sum(len(rib.adj_ribs_out.groups) for rib in self._ribs.values())

    # What is there; ``explain`` has what only the operator asks for.

    @property
    def encoded(self) -> bool:
        """Whether LOCAL_PREF was seen to carry the kernel's metric: in what an internal peer sent, by a workload's
        route or in the resources. What was true of the cluster once stays so until the daemon ends: the last pod that
        goes changes no LOCAL_PREF, and no filter that matches it."""
        return self._encoded

    def resolve(self, address: Address) -> Resolution | Unresolved:
        """Where a next hop leads: as the kernel has it, or over the ``reachableBy`` of the peer that it is."""
        return self._kernel_resolve(self._gateways.get(address, address))

    def counts(self, peer: PeerId, family: Family) -> tuple[int, int, int]:
        """(received, accepted, stale) paths of a peer."""
        return self._ribs[family].adj_rib_in.counts(peer)

    def rib(self, family: Family) -> LocRib:
        """The Loc-RIB: prefix -> Selection of what was learned; live, to be read only."""
        return self._ribs[family].loc_rib

    def adj_rib_in(self, family: Family) -> AdjRibIn:
        """The Adj-RIB-In; live, to be read only."""
        return self._ribs[family].adj_rib_in

    # Inside.

    def _review_gateways(self) -> None:
        before = self._gateways
        self._gateways = {
            Address(prefix[1:]): static.gateway
            for family, rib in self._ribs.items()
            for prefix, static in rib.origination.statics.items()
            if is_host(family, prefix)
        }
        if before != self._gateways:
            differ = before.items() ^ self._gateways.items()
            self.review_next_hops(frozenset(hop for hop, _ in differ))

    def _is_client(self, path: Path) -> bool:
        return path.peer.ibgp and self._policy.of(path.peer).client

    def _join(self, rib: FamilyRib, peer: PeerId, key: GroupKey) -> None:
        chain = self._policy.chain(key.filters, "export", rib.family)
        new = rib.adj_ribs_out.join(peer, key, chain)
        rib.specials()
        if new:
            rib.decide_all()

    def _leave(self, rib: FamilyRib, peer: PeerId) -> None:
        rib.adj_ribs_out.leave(peer)
        rib.specials()

    def _as_taken(self, path: Path) -> Path:
        made = self._altered.get(path)
        if made is None:
            made = self._altered.keep(path, as_taken(path), path)
        return made

    def _encodes(self) -> None:
        if not self._encoded:
            self._encoded = True
            self._review_priorities()

    def _review_priorities(self) -> None:
        self._encoded = self._encoded or self._policy.priorities_set
        now = self._policy.prioritised(self._encoded)
        if now != self._prioritised:
            self._prioritised = now
            for rib in self._ribs.values():
                rib.adj_ribs_out.prioritised = now
                rib.revalue()


def _passed_on(origination: Origination) -> tuple[tuple[Prefix, ...], ...]:
    """What decides on the learned routes that are passed on."""
    return (
        origination.exported_pools,
        origination.hidden_pools,
        origination.exported_services,
        origination.kept_services,
    )
