"""Small builders of the values that the core works with, so that a test says only what it is about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bgpd.bgp.member import Earlier
from bgpd.bgp.outbound import Outbound
from bgpd.bgp.wire.update import Decoder, Framer
from bgpd.model.peer import Down, DownReason, Peer, PeerConfig, PeerId, PeerKind
from bgpd.model.prefix import Address, Family, Prefix, parse_address, parse_prefix, prefix_text
from bgpd.model.route import (
    Announce,
    AsPath,
    Attributes,
    EndOfRib,
    FibKey,
    Forwarding,
    Hop,
    LocalBlackhole,
    Origin,
    Originated,
    Origination,
    OriginKind,
    Out,
    Path,
    Resolution,
    RibEvent,
    SegmentType,
    Unresolved,
    Via,
    Withdraw,
)
from bgpd.rib.groups import OutChanges, UpdateGroup
from bgpd.rib.router import Changes, Router
from bgpd.rules.exports import ExportRefusal, GroupKey

V4, V6 = Family.IPV4, Family.IPV6
BOTH = frozenset(Family)
OWN_AS = 64512
ME, ME6 = parse_address("10.0.1.20"), parse_address("fd00::20")


def addr(text: str) -> Address:
    """An address from its text."""
    return parse_address(text)


def pfx(text: str) -> Prefix:
    """A prefix from its text."""
    return parse_prefix(text)[1]


def peer_config(
    address: str = "10.0.1.30",
    asn: int = OWN_AS,
    *,
    name: str | None = None,
    families: Iterable[Family] = (V4,),
    max_prefixes: int | None = None,
    port: int = 179,
) -> PeerConfig:
    """A mesh peer of this node, named after its address."""
    return PeerConfig(
        id=PeerId(name or "Mesh_" + address.replace(".", "_").replace(":", "_")),
        kind=PeerKind.MESH,
        source="Node of a test",
        address=addr(address),
        port=port,
        asn=asn,
        local_asn=OWN_AS,
        router_id=ME,
        local_address=None,
        next_hops={V4: ME, V6: ME6},
        families=frozenset(families),
        passive=False,
        max_prefixes=max_prefixes,
    )


def peer(
    address: str = "10.0.1.30",
    asn: int = OWN_AS,
    *,
    name: str | None = None,
    router_id: str | None = None,
    families: Iterable[Family] = (V4,),
    restart: Iterable[Family] = (),
    preserved: Iterable[Family] = (),
    max_prefixes: int | None = None,
    asn4: bool = True,
) -> Peer:
    """A new established session; ``restart`` and ``preserved`` are its graceful restart families and their F bits."""
    config = peer_config(address, asn, name=name, families=families, max_prefixes=max_prefixes)
    return Peer(
        config=config,
        router_id=addr(router_id or (address if ":" not in address else "10.9.9.9")),
        local_address=ME if len(config.address) == 4 else ME6,
        families=config.families,
        asn4=asn4,
        restart_families=frozenset(restart),
        restart_time=120.0,
        forwarding_preserved=frozenset(preserved),
        sends_end_of_rib=bool(frozenset(restart)),
    )


def again(before: Peer, *, preserved: Iterable[Family] = ()) -> Peer:
    """The next session of the same peer."""
    return Peer(
        config=before.config,
        router_id=before.router_id,
        local_address=before.local_address,
        families=before.families,
        asn4=before.asn4,
        restart_families=before.restart_families,
        restart_time=before.restart_time,
        forwarding_preserved=frozenset(preserved),
        sends_end_of_rib=before.sends_end_of_rib,
    )


def sequence(*asns: int) -> AsPath:
    """An AS path of one AS_SEQUENCE; none for no numbers."""
    return AsPath.of((SegmentType.AS_SEQUENCE, asns))


def attributes(
    *asns: int,
    origin: Origin = Origin.IGP,
    med: int | None = None,
    local_pref: int | None = None,
    communities: tuple[int, ...] = (),
    originator_id: str | None = None,
    cluster_list: tuple[str, ...] = (),
) -> Attributes:
    """Attributes with an AS_SEQUENCE of these numbers."""
    return Attributes(
        origin=origin,
        as_path=sequence(*asns),
        med=med,
        local_pref=local_pref,
        communities=communities,
        originator_id=addr(originator_id) if originator_id else None,
        cluster_list=tuple(addr(cluster) for cluster in cluster_list),
    )


def path(
    by: Peer, attrs: Attributes | None = None, *, next_hop: str | Address | None = None, path_id: int = 0
) -> Path:
    """A path of a session; the next hop is the peer itself unless given, the AS path its AS where external."""
    if attrs is None:
        attrs = attributes(local_pref=100) if by.ibgp else attributes(by.config.asn)
    hop = addr(next_hop) if isinstance(next_hop, str) else next_hop or by.config.address
    return Path(by, attrs, hop, path_id)


def announce(what: Path, *prefixes: str, family: Family = V4) -> Announce:
    """A session announces prefixes."""
    return Announce(family, what, [pfx(text) for text in prefixes])


def withdraw(*prefixes: str, family: Family = V4, path_id: int = 0) -> Withdraw:
    """A session withdraws prefixes."""
    return Withdraw(family, [pfx(text) for text in prefixes], path_id)


def lost(*keep: Family, reason: DownReason = DownReason.TCP) -> Down:
    """The end of a session, with the families that are kept as stale, for 120 s."""
    return Down(reason, "a test ended it", frozenset(keep), 120.0 if keep else 0.0)


def via(*gateways: str, ifindex: int = 2) -> Via:
    """A forwarding through gateways on one link."""
    return Via(tuple(Hop(addr(gateway), ifindex) for gateway in gateways))


class Resolver:
    """Next-hop resolution of a test: an address resolves to itself on link 2 unless the table says otherwise."""

    def __init__(self, table: Mapping[str, Resolution | Unresolved] | None = None) -> None:
        self.table = {addr(text): result for text, result in (table or {}).items()}
        self.calls = 0

    def __call__(self, address: Address) -> Resolution | Unresolved:
        self.calls += 1
        return self.table.get(address) or Resolution(Via((Hop(address, 2),)), 0)

    def set(self, address: str, result: Resolution | Unresolved | None) -> frozenset[Address]:
        """Change one; returns what to hand to the router."""
        if result is None:
            self.table.pop(addr(address), None)
        else:
            self.table[addr(address)] = result
        return frozenset({addr(address)})


def origination(
    *,
    blocks: Iterable[str] = (),
    borrowed: Iterable[str] = (),
    hidden_blocks: Iterable[str] = (),
    yielding: Iterable[str] = (),
    pools: Iterable[str] = (),
    hidden_pools: Iterable[str] = (),
) -> Origination:
    """What this node says and keeps: ``blocks`` announced and blackholed, ``borrowed`` announced, ``hidden_blocks``
    blackholed only, ``yielding`` blackholed until another announces them."""
    blocks, borrowed = list(blocks), list(borrowed)
    return Origination(
        announce={
            **{pfx(text): Originated(OriginKind.BLOCK, f"BlockAffinity {text}") for text in blocks},
            **{pfx(text): Originated(OriginKind.BORROWED, f"cali {text}") for text in borrowed},
        },
        blackholes={
            **{pfx(text): LocalBlackhole(f"BlockAffinity {text}") for text in (*blocks, *hidden_blocks)},
            **{pfx(text): LocalBlackhole(f"BlockAffinity {text}", yields=True) for text in yielding},
        },
        exported_pools=tuple(pfx(text) for text in pools),
        hidden_pools=tuple(pfx(text) for text in hidden_pools),
    )


class Core:
    """A router whose changes are applied at once: ``fib`` and ``advertised`` are what the kernel and the groups would
    have.

    ``fib_changes`` are those of the last ``settle`` that were really one.
    """

    def __init__(self, resolver: Resolver | None = None, max_paths: int = 16) -> None:
        self.resolver = resolver or Resolver()
        self.router = Router(self.resolver, max_paths)
        self.fib: dict[tuple[Family, str, int], Forwarding] = {}
        self.advertised: dict[UpdateGroup, dict[Prefix, Out]] = {}
        self.fib_changes: dict[str, Forwarding | None] = {}
        self.out_changes: dict[UpdateGroup, OutChanges] = {}
        self.left: set[FibKey] = set()
        self.now = 1000.0

    def settle(self, limit: int = 128) -> Core:
        """Decide all that is due and apply it; checks that what a group "was sent before" is true."""
        while self.router.work(limit):
            pass
        self.apply()
        return self

    def apply(self) -> Changes:
        """Apply what was decided; returns it."""
        changes = self.router.take_changes()
        self.left = {key for keys in changes.left.values() for key in keys}
        self.fib_changes, self.out_changes = {}, changes.adj_rib_out
        for family, entries in changes.fib.items():
            for (prefix, metric), value in entries.items():
                text = prefix_text(family, prefix)
                if self.fib.get((family, text, metric)) == value:
                    continue
                self.fib_changes[text] = value
                if value is None:
                    del self.fib[family, text, metric]
                else:
                    self.fib[family, text, metric] = value
        for group, pairs in changes.adj_rib_out.items():
            advertised = self.advertised.setdefault(group, {})
            for prefix, (before, now) in pairs.items():
                assert advertised.get(prefix) == before
                if now is None:
                    del advertised[prefix]
                else:
                    advertised[prefix] = now
            assert advertised == group.table
        return changes

    def up(self, *peers: Peer) -> Core:
        for each in peers:
            self.router.session_up(each, self.now)
        return self.settle()

    def down(self, by: Peer, *keep: Family) -> Core:
        self.router.session_down(by, lost(*keep), self.now)
        return self.settle()

    def hear(self, by: Peer, *events: RibEvent) -> Core:
        self.router.learn_routes(by, events)
        return self.settle()

    def originate(self, what: Origination, family: Family = V4) -> Core:
        self.router.originated({family: what})
        return self.settle()

    def routes(self, family: Family = V4) -> dict[str, Forwarding]:
        """The kernel's routes by prefix."""
        return {text: value for (of, text, _), value in self.fib.items() if of is family}

    def to(self, by: Peer, family: Family = V4) -> dict[str, Out]:
        """What the group of a session has been sent."""
        group = self.router.groups_of(by).get(family)
        return {prefix_text(family, prefix): out for prefix, out in group.table.items()} if group else {}

    def table(self, key: GroupKey) -> Mapping[Prefix, Out]:
        """The table of an update group; empty where nobody is in it."""
        groups = self.router._ribs[key.family].adj_ribs_out.groups
        return next((group.table for group in groups if group.key == key), {})

    @property
    def prioritised(self) -> bool:
        """Whether LOCAL_PREF carries the kernel's metric."""
        return self.router._ribs[V4].adj_ribs_out.prioritised

    def exported(self, by: Peer, prefix: str) -> Out | ExportRefusal | None:
        """What the group of a session is sent of the best path of a prefix, or why not."""
        group = self.router.groups_of(by).get(V4)
        found = self.router.explain.export_verdicts(V4, pfx(prefix), group) if group else []
        return found[0].out if found else None


def update_group(family: Family = V4, table: dict[Prefix, Out] | None = None) -> UpdateGroup:
    """An update group as the router has them."""
    return UpdateGroup(GroupKey(family, True, OWN_AS, ME if family is V4 else ME6, True), table=table or {})


class Line:
    """Update groups, one a family, and the sockets of their sessions: what each was sent, and which take no more."""

    def __init__(self) -> None:
        self.it = Outbound(self.send, clock=lambda: 0.0)
        self.sent: dict[Peer, list[bytes]] = {}
        self.full: set[Peer] = set()
        self.groups = {V4: update_group(V4), V6: update_group(V6)}
        self.tables = {family: group.table for family, group in self.groups.items()}

    def send(self, to: Peer, octets: bytes) -> bool:
        self.sent.setdefault(to, []).append(octets)
        return to not in self.full

    def join(self, *peers: Peer) -> None:
        for each in peers:
            self.join_groups(each, {family: self.groups[family] for family in each.families})

    def join_groups(self, each: Peer, groups: Mapping[Family, UpdateGroup]) -> None:
        for group in groups.values():
            group.members[each.id] = None
        self.it.add_session(each, groups)

    def resume(self, each: Peer, earlier: Mapping[Family, Earlier]) -> None:
        """A session that another line had."""
        groups = {family: self.groups[family] for family in each.families}
        for group in groups.values():
            group.members[each.id] = None
        self.it.resume(each, groups, earlier)

    def leave(self, each: Peer) -> None:
        for group in self.groups.values():
            group.members.pop(each.id, None)
        self.it.remove_session(each)

    def move(self, each: Peer, groups: Mapping[Family, UpdateGroup]) -> None:
        """What the router does: the session has other groups."""
        for family, group in groups.items():
            self.groups[family].members.pop(each.id, None)
            group.members[each.id] = None
        self.it.move_sessions({each: groups})

    def change(
        self, changes: Mapping[Prefix, Out | None], family: Family = V4, group: UpdateGroup | None = None
    ) -> None:
        """What the router does: change the table, then announce."""
        group = group or self.groups[family]
        table = group.table
        group.changes.update({prefix: (table.get(prefix), out) for prefix, out in changes.items()})
        for prefix, out in changes.items():
            if out is None:
                table.pop(prefix, None)
            else:
                table[prefix] = out
        self.it.group_changed(group, group.take_changes())

    def settle(self, settled: bool = True) -> None:
        while self.it.work(settled):
            pass

    def heard(self, by: Peer) -> list[str]:
        """What a peer understood since the last call, in words."""
        words: list[str] = []
        framer, decoder = Framer(), Decoder(by)
        framer.feed(b"".join(self.sent.pop(by, [])))
        while message := framer.take():
            events: list[RibEvent] = []
            decoder.decode(message[1], events)
            for event in events:
                if isinstance(event, EndOfRib):
                    words.append(f"end of {event.family.label}")
                    continue
                sign = "+" if isinstance(event, Announce) else "-"
                assert isinstance(event, Announce | Withdraw)
                words += [sign + prefix_text(event.family, prefix) for prefix in event.prefixes]
        return words
