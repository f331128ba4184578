"""Adj-RIB-Out of one family: the update groups, what each is sent of a prefix, and what of that changed.

Part of ``router``, which decides and calls this; apart from it because what is chosen and what is sent of it are two
subjects. A group's ``table`` is keyed by NLRI, the octets that go on the wire: the prefix, or path identifier and
prefix where the peer takes several paths (RFC 7911). ``UpdateGroup.state`` says by prefix what was sent of it; without
path identifiers the two are one dictionary.

The fast road: what the protocol lets a group know depends on the path alone and is worked out once a decision; where
no group has filters and nothing adds communities, the prefix only has to be inside a pool.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple

from bgpd.model.peer import Peer, PeerId
from bgpd.model.prefix import Address, Family, Prefix, path_id_of, with_path_id
from bgpd.model.route import (
    UNUSABLE,
    Attributes,
    Originated,
    Origination,
    Out,
    Path,
    RouteSource,
    Selection,
)
from bgpd.rib.remembered import Remembered
from bgpd.rib.tables import AdjRibOut
from bgpd.rules.exports import (
    ExportRefusal,
    GroupKey,
    Ruling,
    drain_refusal,
    interface_refusal,
    learned_out,
    local_out,
    prefix_refusal,
    protocol_refusal,
    ruling,
)
from bgpd.rules.filters import Chain, Subject
from bgpd.rules.imports import with_local_pref
from bgpd.rules.policy import FamilyPolicy, RoutePolicy
from bgpd.rules.priority import own_local_pref

Advertised = Out | tuple[Out, ...] | None
"""What a group is sent of a prefix; a tuple, never an empty one, where it takes several paths."""
LAST_PATH_ID = 0xFFFFFFFF
OutChanges = dict[Prefix, tuple[Out | None, Out | None]]
"""NLRI -> (what the group was sent before this batch, what it is sent now)."""
MOST_PATH_IDS = 16384
"""Identifiers given to sources of routes before those that nobody is sent any more are looked for."""


@dataclass(slots=True, eq=False)
class UpdateGroup:
    """Sessions that are sent the same octets, and what that is."""

    key: GroupKey
    """What they have in common."""
    chain: Chain | None = None
    """The export filters of its sessions."""
    members: dict[PeerId, None] = field(default_factory=dict)
    """Peers whose present session belongs here."""
    table: AdjRibOut = field(default_factory=dict)
    """What the group is sent, by NLRI; live for ``bgp.outbound``."""
    state: dict[Prefix, Out | tuple[Out, ...]] = field(default_factory=dict)
    changes: OutChanges = field(default_factory=dict)
    """What changed in the table since changes were last taken."""
    made: Remembered[object, Out | ExportRefusal] = field(default_factory=Remembered)
    """Outs that filters or communities made, by path and operations: equal ones are one object."""
    _kept_back: (
        tuple[Counter[PeerId | None], Counter[Address], Counter[tuple[PeerId | None, Address]]] | None
    ) = None
    _listed: Sequence[Prefix] | None = None

    def __post_init__(self) -> None:
        if not self.key.add_path:
            self.state = self.table  # type: ignore[assignment]  # narrower values

    def take_changes(self) -> OutChanges:
        """What differs since the last call. Between two calls the table is not read by others."""
        changes, self.changes = self.changes, {}
        self._kept_back = self._listed = None
        return changes

    def kept_back(self, peer: Peer) -> int:
        """How many NLRI of the table one session of the group is not sent (``peer_refusal``)."""
        if self._kept_back is None:
            both = Counter((out.source, out.next_hop) for out in self.table.values())
            sources, next_hops = Counter[PeerId | None](), Counter[Address]()
            for (source, next_hop), count in both.items():
                sources[source] += count
                next_hops[next_hop] += count
            self._kept_back = sources, next_hops, both
        sources, next_hops, both = self._kept_back
        address = peer.config.address
        return sources[peer.id] + next_hops[address] - both[peer.id, address]

    def walk(self) -> Sequence[Prefix]:
        """The NLRI of the table as it is now: one list for all sessions that begin before it changes."""
        if self._listed is None:
            self._listed = tuple(self.table)
        return self._listed


class ExportVerdict(NamedTuple):
    """What one group is sent of one route, and which rule decided; for ``bgpctl why``."""

    path: Path | None
    """The learned path; ``None`` for this node's own route."""
    out: Out | ExportRefusal
    rule: str
    """The filter's rule that decided; empty for the built-in ones."""


class AdjRibsOut:
    """See the module. ``is_client`` says whether a path's peer is a client of ours (RFC 4456)."""

    def __init__(self, family: Family, is_client: Callable[[Path], bool]) -> None:
        self.family = family
        self.groups: tuple[UpdateGroup, ...] = ()
        """Another object whenever the groups are others: decisions remember for which they were made."""
        self.origination = Origination()
        self.policy, self.kept_inside = FamilyPolicy(), RoutePolicy().kept_inside
        self.prioritised = False
        self.filtered = False
        """Whether the slow road is needed: a group has filters, or communities are added."""
        self._is_client = is_client
        self._group_of: dict[PeerId, UpdateGroup] = {}
        self._path_ids: dict[tuple[PeerId | None, int], int] = {}
        self._path_ids_given: set[int] = set()
        self._last_path_id, self._most_path_ids = 0, MOST_PATH_IDS

    # Groups.

    def of(self, peer: PeerId) -> UpdateGroup | None:
        """The update group of a peer's session; without one it is sent nothing."""
        return self._group_of.get(peer)

    def join(self, peer: PeerId, key: GroupKey, chain: Chain | None) -> bool:
        """A session is sent what the group of this key is sent, and leaves the one that it was in. Whether the group is
        new, so that its table must be filled."""
        group = next((group for group in self.groups if group.key == key), None)
        new = group is None
        if group is None:
            group = UpdateGroup(key, chain)
            self.groups = (*self.groups, group)
        before = self._group_of.get(peer)
        if before is not group:
            group.members[peer] = None
            self.leave(peer)
            self._group_of[peer] = group
        self._review()
        return new

    def leave(self, peer: PeerId) -> None:
        """A session is sent nothing more."""
        group = self._group_of.pop(peer, None)
        if group is None:
            return
        del group.members[peer]
        if not group.members:
            self.groups = tuple(other for other in self.groups if other is not group)
            self._review()

    def configure(self, policy: RoutePolicy) -> None:
        """Another policy: what each group is sent of any route may differ."""
        self.policy, self.kept_inside = policy.families[self.family], policy.kept_inside
        for group in self.groups:
            group.chain = policy.chain(group.key.filters, "export", self.family)
        self.forget_results()

    def forget_results(self) -> None:
        """What was worked out for paths no longer holds."""
        for group in self.groups:
            group.made.clear()
        self._review()

    def _review(self) -> None:
        self.filtered = bool(self.policy.advertisements) or any(group.chain for group in self.groups)

    # Learned routes.

    def bases(self, selection: Selection) -> tuple[Advertised, ...]:
        """What each group may be sent, as far as the paths alone say; empty when that is nothing at all."""
        found = tuple(self._base(group, selection) for group in self.groups)
        return found if any(found) else ()

    def _base(self, group: UpdateGroup, selection: Selection) -> Advertised:
        key = group.key
        if not key.add_path:
            out = self._learned(selection.best, key)
            return out if isinstance(out, Out) else None
        outs = [
            out._replace(path_id=self._path_id(path))
            for path in usable(selection)
            if isinstance(out := self._learned(path, key), Out)
        ]
        return tuple(sorted(outs, key=attrgetter("path_id"))) or None

    def _learned(self, path: Path, key: GroupKey) -> Out | ExportRefusal:
        return learned_out(path, key, key.ibgp and self._is_client(path))

    def learned(
        self, prefix: Prefix, selection: Selection, bases: Sequence[Advertised]
    ) -> Sequence[Advertised]:
        """The slow road: what each group is sent of a learned prefix, where filters or communities bear on it."""
        builtin = prefix_refusal(prefix, self.origination)
        found: list[Advertised] = []
        for group, base in zip(self.groups, bases, strict=True):
            if not base or (builtin and group.chain is None):
                found.append(None)
            elif isinstance(base, Out):
                found.append(self._filtered(group, prefix, selection.best, base, builtin))
            else:
                by_id = {self._path_id(path): path for path in usable(selection)}
                outs = (self._filtered(group, prefix, by_id[out.path_id], out, builtin) for out in base)
                found.append(tuple(out for out in outs if out is not None) or None)
        return found

    def _filtered(
        self, group: UpdateGroup, prefix: Prefix, path: Path, base: Out, builtin: ExportRefusal | None
    ) -> Out | None:
        ruled = self._rule_learned(group, prefix, path, builtin)
        if ruled.refusal:
            return None
        if not ruled.operations:
            return base
        made = group.made.get((path, ruled.operations))
        if made is None:
            made = learned_out(path, group.key, self._is_client(path), ruled.operations)
            if isinstance(made, Out):
                made = made._replace(path_id=base.path_id)
            group.made.keep((path, ruled.operations), made, path)
        return made if isinstance(made, Out) else None

    def _rule_learned(
        self, group: UpdateGroup, prefix: Prefix, path: Path, builtin: ExportRefusal | None
    ) -> Ruling:
        attributes = with_local_pref(path.attributes)
        subject = Subject(self.family, prefix, RouteSource.BGP, "", attributes)
        return ruling(subject, group.key, group.chain, builtin, self.policy)

    def _path_id(self, path: Path | None) -> int:
        """Of a source of routes: the same for all prefixes, and from session to session, while a peer is sent one."""
        key = (None, 0) if path is None else (path.peer.id, path.path_id)
        found = self._path_ids.get(key)
        if found is None:
            found = self._last_path_id
            while found in self._path_ids_given or not found:
                found = found % LAST_PATH_ID + 1
            self._path_ids[key] = self._last_path_id = found
            self._path_ids_given.add(found)
        return found

    @property
    def path_ids(self) -> Mapping[tuple[PeerId | None, int], int]:
        """Source of routes -> its identifier."""
        return self._path_ids

    def take_path_ids(self, given: Mapping[tuple[PeerId | None, int], int]) -> None:
        """Identifiers that sessions know from another process; before any is given here."""
        self._path_ids = dict(given)
        self._path_ids_given = set(given.values())

    def forget_path_ids(self) -> None:
        """Those that no group is sent any more, once they may be many; what decisions hold of them is worked out anew.

        Not in the midst of a decision: what has been given and is not sent yet would go.
        """
        if len(self._path_ids) <= self._most_path_ids:
            return
        in_use = {path_id_of(nlri) for group in self.groups if group.key.add_path for nlri in group.table}
        self._path_ids = {key: path_id for key, path_id in self._path_ids.items() if path_id in in_use}
        self._path_ids_given = set(self._path_ids.values())
        self._most_path_ids = MOST_PATH_IDS + 2 * len(self._path_ids)
        self.groups = (*self.groups,)  # another object
        for group in self.groups:
            group.made.clear()

    # This node's own.

    def own(self, prefix: Prefix, originated: Originated, announced: bool) -> Sequence[Advertised]:
        """What each group is sent of a route of this node. ``announced``: by the built-in rules too."""
        if not announced and not self.filtered:
            return ()
        return [self._own(group, prefix, originated, announced) for group in self.groups]

    def _own(self, group: UpdateGroup, prefix: Prefix, originated: Originated, announced: bool) -> Advertised:
        ruled = self._rule_own(group, prefix, originated, announced)
        if ruled.refusal:
            return None
        local_pref = self._own_local_pref(originated)
        key = (local_pref, ruled.operations, originated.gateway)
        made = group.made.get(key)
        if made is None:
            own = local_out(group.key, local_pref, ruled.operations, originated.gateway)
            made = group.made.keep(key, own, None)
        assert isinstance(made, Out)
        return (made._replace(path_id=self._path_id(None)),) if group.key.add_path else made

    def _own_local_pref(self, originated: Originated) -> int:
        return own_local_pref(originated.metric, self.policy.normal_priority, self.prioritised)

    def _rule_own(
        self, group: UpdateGroup, prefix: Prefix, originated: Originated, announced: bool
    ) -> Ruling:
        if refusal := drain_refusal(originated, group.key.drain):
            return Ruling(refusal)
        builtin = (
            interface_refusal(originated, group.key, self.kept_inside)
            if announced
            else ExportRefusal.NOT_OURS
        )
        attributes = Attributes(local_pref=self._own_local_pref(originated))
        subject = Subject(self.family, prefix, originated.route_source, originated.interface, attributes)
        return ruling(subject, group.key, group.chain, builtin, self.policy)

    # Advertising.

    def advertise(self, group: UpdateGroup, prefix: Prefix, out: Advertised) -> None:
        """A group is sent something else of a prefix than before."""
        changes = group.changes
        if group.state is group.table:
            _put(group.table, changes, prefix, out)  # type: ignore[arg-type]  # not a tuple of several
            return
        now = {each.path_id: each for each in out or () if isinstance(each, Out)}
        before = group.state.pop(prefix, ())
        for path_id in {each.path_id for each in before if isinstance(each, Out)} - now.keys():
            _put(group.table, changes, with_path_id(path_id, prefix), None)
        for path_id, each in now.items():
            if group.table.get(nlri := with_path_id(path_id, prefix)) != each:
                _put(group.table, changes, nlri, each)
        if out:
            group.state[prefix] = out

    def take_changes(self) -> dict[UpdateGroup, OutChanges]:
        """What the groups are sent otherwise since the last call."""
        found = {}
        for group in self.groups:
            if group.changes:
                found[group] = group.take_changes()
        return found

    # For the operator.

    def export_verdicts(
        self,
        prefix: Prefix,
        group: UpdateGroup,
        own: Originated | None,
        announced: bool,
        paths: Iterable[Path],
    ) -> list[ExportVerdict]:
        """What a group is sent of a prefix, and why: of our own route, or else of each of ``paths``."""
        if own is not None:
            ruled = self._rule_own(group, prefix, own, announced)
            out = self._own(group, prefix, own, announced)
            return [ExportVerdict(None, ruled.refusal or _one(out), ruled.rule)]
        found = []
        builtin = prefix_refusal(prefix, self.origination)
        for path in paths:
            if refusal := protocol_refusal(path, group.key, self._is_client(path)):
                found.append(ExportVerdict(path, refusal, ""))
                continue
            ruled = self._rule_learned(group, prefix, path, builtin)
            base = learned_out(path, group.key, self._is_client(path), ruled.operations)
            found.append(ExportVerdict(path, ruled.refusal or base, ruled.rule))
        return found


def usable(selection: Selection) -> list[Path]:
    """The paths of a decision that could forward, the best first."""
    lost = (path for path, reason in selection.rejected.items() if reason not in UNUSABLE)
    return list(dict.fromkeys((*selection.multipath, *lost)))


def _one(out: Advertised) -> Out | ExportRefusal:
    if isinstance(out, Out):
        return out
    return out[0] if out else ExportRefusal.NOT_OURS


def _put(table: AdjRibOut, changes: OutChanges, nlri: Prefix, out: Out | None) -> None:
    pair = changes.get(nlri)
    before = pair[0] if pair else table.get(nlri)
    if pair and before == out:
        del changes[nlri]
    else:
        changes[nlri] = (before, out)
    if out is None:
        del table[nlri]
    else:
        table[nlri] = out
