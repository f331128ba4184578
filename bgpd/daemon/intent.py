"""From the intent to the live parts: resources and configuration become sessions, a route policy, and originations.

``daemon`` calls this when the datastore has another snapshot, the configuration was read again, or the workloads of
this node differ. What follows from it is the rules' (``rules.peering``, ``rules.policy``, ``rules.originate``); this
hands it to the speaker, the router and the update groups, in the order that sends no peer anything false: what is
announced is known before a session can come up.
"""

from __future__ import annotations

import logging
import operator
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from bgpd.bgp.outbound import Outbound
from bgpd.bgp.speaker import Speaker
from bgpd.config.config import Config, Passwords
from bgpd.config.reading import read_passwords
from bgpd.daemon.drain import Draining
from bgpd.daemon.startup import Convergence
from bgpd.events import event
from bgpd.kernel.kernel import Kernel
from bgpd.model.drain import Drain
from bgpd.model.peer import PeerId
from bgpd.model.prefix import Address, Family, Prefix
from bgpd.model.resources import Snapshot
from bgpd.model.route import Origination
from bgpd.rib.router import Router
from bgpd.rules.originate import originate
from bgpd.rules.peering import Peering, heirs, peers
from bgpd.rules.policy import FormerServices, RoutePolicy, route_policy
from bgpd.rules.priority import are_ranked
from bgpd.rules.services import Services, services

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Intent:
    """What this node must do, as the newest resources and configuration say it."""

    config: Config
    kernel: Kernel
    router: Router
    outbound: Outbound
    speaker: Speaker
    convergence: Convergence
    draining: Draining
    snapshot: Snapshot | None = None
    peering: Peering | None = None
    policy: RoutePolicy = field(default_factory=RoutePolicy)
    services: Services | None = None
    originations: Mapping[Family, Origination] = field(default_factory=dict)
    passwords: Passwords = field(default_factory=dict, repr=False)
    """The passwords that the configuration's files had when it was read."""
    drain: Drain = Drain.NONE
    """How far this node is taken out of service."""
    _former_services: FormerServices = field(default_factory=FormerServices)
    _causes: tuple[object, ...] = ()
    """What the peering was made of."""
    _policy_causes: tuple[object, ...] = ()
    """What the policy was made of."""
    _here: frozenset[Address] = frozenset()
    _came: frozenset[Address] = frozenset()
    """Addresses that came to this machine since the peers were found before."""
    _engaged: Peering | None = None
    """What the speaker was given."""

    def reconfigured(self, config: Config) -> None:
        """The configuration was read, at the start or again: its password files too."""
        self.config, self.passwords = config, read_passwords(config)
        self._causes = ()

    def follow(self, snapshot: Snapshot, announce: Callable[[], None]) -> None:
        """The resources or the configuration differ: decides anew what to announce and to keep, and which sessions
        there are. ``announce`` must put the first where sessions find it (a turn); only then the second is done: what
        we announce is known before a session can come up."""
        self._decide(snapshot)
        announce()
        self._engage()

    def _decide(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        # A kind that did not change is the same object from snapshot to snapshot.
        causes = (
            snapshot.nodes,
            snapshot.peers,
            snapshot.bgp_configurations,
            snapshot.secrets,
            snapshot.filters,
            snapshot.local_workloads,
            snapshot.unusable,
        )
        here = self._addresses()
        if _differ(causes, self._causes) or here != self._here:
            self._came, self._causes, self._here = here - self._here, causes, here
            self._find_peers(snapshot)
        assert self.peering is not None
        self.services = services(snapshot, self.config.node, self.services)
        now = time.monotonic()
        if self._drain_due(now):
            self.drain = self.draining.level(now)
            event(log, "drained", step=self.drain.name.lower())
        self._find_policy(snapshot, self.peering, self.services, now)
        self.originate()

    def _find_policy(self, snapshot: Snapshot, peering: Peering, of_services: Services, now: float) -> None:
        """The policy, where anything that it follows from differs: a new block changes none of it, and with thousands
        of peers to compare it is the larger part of what a block costs."""
        causes = (
            snapshot.nodes,
            snapshot.pools,
            snapshot.bgp_configurations,
            snapshot.filters,
            peering,
            of_services,
            self.config,
            self.drain,
        )
        subnets = self._subnets()
        differs = _differ(causes, self._policy_causes) or subnets != self.policy.subnets
        if not (differs or self._former_services.due(now)):
            return
        self._policy_causes = causes
        policy = route_policy(snapshot, self.config.node, self.config, peering, of_services)
        policy = replace(policy, drain=self.drain, subnets=subnets)
        self.policy = self._former_services.keep(policy, now)
        self.kernel.follow_foreign = any(self.policy.filters_exports(family) for family in Family)
        self.outbound.move_sessions(self.router.set_policy(self.policy))

    def due(self, now: float) -> bool:
        """Whether ``follow`` would find something else though no resource changed."""
        return self._drain_due(now) or self._former_services.due(now)

    def _drain_due(self, now: float) -> bool:
        """Whether this node is to be drained further, or less, than ``follow`` had it."""
        if self.snapshot is None:
            return False
        own = self.snapshot.nodes.get(self.config.node)
        cordoned = own is not None and own.unschedulable
        self.draining.cordoned(self.config.drain.on_cordon if cordoned else "none", now)
        return self.draining.level(now) is not self.drain

    def moved(self) -> bool:
        """Whether other addresses lie on this machine than when its peers were found (none of them may be one), or its
        links are in other subnets (next hops in one that a peer shares stay)."""
        differs = self._addresses() != self._here or self._subnets() != self.policy.subnets
        return bool(self._causes) and differs

    def _addresses(self) -> frozenset[Address]:
        return frozenset().union(*(self.kernel.addresses(family) for family in Family))

    def _subnets(self) -> dict[Family, tuple[Prefix, ...]]:
        return {family: tuple(sorted(self.kernel.connected(family))) for family in Family}

    def _find_peers(self, snapshot: Snapshot) -> None:
        before = self.peering
        self.peering = peering = peers(snapshot, self.config.node, self.config, self.passwords, self._here)
        for problem in peering.problems:
            if not before or problem not in before.problems:
                event(log, "peering_problem", logging.WARNING, source=problem.source, cause=str(problem))

    def _engage(self) -> None:
        """The sessions that are wanted: dialled, waited for, or ended."""
        before, found = self._engaged, self.peering
        if found is None or found is before:
            return
        self._engaged = found
        known = before.peers if before else {}
        successors = heirs(known, found.peers)
        listen = found.listen
        gone = self.speaker.configure(found.peers, listen.addresses, listen.port, found.dynamic, successors)
        self.speaker.sessions.addresses_came(self._came)
        self.await_peers()
        for peer in {*gone, *(known.keys() - found.peers.keys())}:
            if peer in successors:
                self.router.hand_on(peer, successors[peer], time.monotonic())
            else:
                self.router.forget_peer(peer)

    def await_peers(self) -> None:
        """The start waits for every peer that is wanted, but for those that the operator has shut down."""
        if self.peering is not None:
            down: Mapping[PeerId, str] = self.speaker.sessions.shutdowns
            wanted = {peer: config for peer, config in self.peering.peers.items() if peer not in down}
            self.convergence.configured(wanted, time.monotonic())

    def originate(self) -> None:
        """What this node announces and keeps, anew."""
        if self.snapshot is not None:
            foreign = self.kernel.foreign() if self.kernel.follow_foreign else None
            workloads = self.kernel.workloads()
            self.router.workloads_ranked(are_ranked(workloads))
            self.originations = originate(
                self.snapshot,
                workloads,
                self.config.node,
                self.config.originate.ipam_early,
                self.policy,
                foreign,
                self.services,
            )
            self.router.originated(self.originations)


def resource_changes(before: Mapping[tuple[str, str], int], after: Mapping[tuple[str, str], int]) -> str:
    """What came and went between two counts of (kind, action), in words: ``BGPPeer 1 delete, Node 2 add``."""
    fresh = {key: count - before.get(key, 0) for key, count in after.items()}
    return ", ".join(f"{kind} {count} {action}" for (kind, action), count in sorted(fresh.items()) if count)


def _differ(causes: tuple[object, ...], before: tuple[object, ...]) -> bool:
    """Whether one of them is not the object that it was; with none before, yes."""
    return not before or any(map(operator.is_not, causes, before))
