"""The rows of ``bgpctl routes``: Adj-RIB-In, Adj-RIB-Out, Loc-RIB and the kernel's routes of ours.

Rows are taken over many turns of the event loop, so each table is walked by a list of its keys.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from bgpd.model.prefix import Family, Prefix, address_text, covers, parse_prefix, prefix_of, prefix_text
from bgpd.model.route import BLACKHOLE, FibKey, Origin, Out, Path, Reason, default_metric
from bgpd.model.status import PeerStatus, RouteTable, RouteView
from bgpd.rules.communities import community_texts
from bgpd.rules.exports import peer_refusal
from bgpd.views.live import Parts, as_path_text, first_as_word


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which prefixes of a table are asked for."""

    prefix: Prefix | None
    longer: bool

    def of(self, table: Mapping[Prefix, object], skip: int = 0) -> list[Prefix]:
        """Those of a table; a list, since the table may change while rows are taken. Keys of a table of NLRI with path
        identifiers have ``skip`` octets in front of the prefix."""
        if self.prefix is None:
            return list(table)
        if skip:
            inside = covers if self.longer else operator.eq
            return [nlri for nlri in table if inside(self.prefix, Prefix(nlri[skip:]))]
        if not self.longer:
            return [self.prefix] if self.prefix in table else []
        return [prefix for prefix in table if covers(self.prefix, prefix)]


class Tables:
    """Makes rows of the parts it is given."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def routes(
        self, table: RouteTable, prefix: str | None, peer: str | None, longer: bool
    ) -> Iterator[RouteView]:
        """Rows of a table. See ``model.doors.Views.routes``."""
        only = parse_prefix(prefix) if prefix else None
        status = self._parts.find_peer(peer) if peer else None
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
        table = self._parts.router.adj_rib_in(family)
        advertised = (
            dict.fromkeys(prefix for prefix, _, _ in table.peer_paths(peer.id)) if peer else table.candidates
        )
        for prefix in wanted.of(advertised):
            paths = (*table.paths(prefix), *table.surplus(prefix))
            best, multipath, rejected = (
                self._parts.router.explain.judged(family, prefix) if paths else (None, (), {})
            )
            chosen = prefix in self._parts.router.rib(family)
            for path in paths:
                if peer and path.peer.id != peer.id:
                    continue
                reason = rejected.get(path)
                yield replace(
                    self._path_row(family, prefix, path),
                    best=chosen and path is best,
                    multipath=chosen and len(multipath) > 1 and any(path is other for other in multipath),
                    stale=table.is_stale(prefix, path),
                    detail="; ".join(
                        filter(
                            None,
                            (
                                reason.value if reason else "",
                                "" if reason or chosen else self._parts.hidden(family, prefix),
                                first_as_word(path) if reason is not Reason.FIRST_AS else "",
                            ),
                        )
                    ),
                )

    def _rib_rows(self, family: Family, wanted: _Wanted, peer: PeerStatus | None) -> Iterator[RouteView]:
        origination, table = (
            self._parts.router.explain.origination(family),
            self._parts.router.adj_rib_in(family),
        )
        if peer is None:
            for prefix in wanted.of(dict.fromkeys((*origination.announce, *origination.blackholes))):
                own, hole = origination.announce.get(prefix), origination.blackholes.get(prefix)
                if own or (hole and prefix not in self._parts.router.rib(family)):
                    yield RouteView(
                        prefix=prefix_text(family, prefix),
                        family=family.label,
                        best=True,
                        kind=own.kind.value if own else "blackhole",
                        detail=own.source if own else hole.source if hole else "",
                    )
        loc_rib = self._parts.router.rib(family)
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
        delta = self._parts.fibs[family].delta
        keys: Iterable[FibKey]
        if wanted.prefix is not None and not wanted.longer:
            usual = self._parts.router.explain.fib_key(family, wanted.prefix)
            keys = dict.fromkeys((*self._parts.held_keys(family, wanted.prefix), usual))
        else:
            keys = [
                key
                for key in dict.fromkeys((*delta.installed.entries, *delta.wanted))
                if wanted.prefix is None or covers(wanted.prefix, key[0])
            ]
        conflicts = self._parts.kernel.fibs[family].conflicts
        for key in keys:
            held, target = delta.installed.get(key), delta.wanted.get(key)
            value = held or target
            if value is None:
                continue
            detail = self._parts.forwarding_text(value)
            if key[1] != default_metric(family):
                detail += f" metric {key[1]}"
            if held is None:
                detail = (
                    f"not in the kernel: {conflicts.get(key) or delta.errors.get(key) or 'not yet written'}"
                )
            elif target is None:
                detail += " (left from before; goes when all peers were heard)"
            elif held != target:
                detail += f" (to become {self._parts.forwarding_text(target)})"
            elif key in conflicts:
                detail += f" (in front of it is {conflicts[key]})"
            yield RouteView(
                prefix=prefix_text(family, key[0]),
                family=family.label,
                next_hop="" if value is BLACKHOLE else self._parts.gateways_text(value),
                best=held is not None,
                kind="blackhole" if value is BLACKHOLE else "unicast",
                detail=detail,
            )

    def _out_rows(self, family: Family, wanted: _Wanted, peer: PeerStatus | None) -> Iterator[RouteView]:
        for member in self._parts.established(family):
            if peer and member.id != peer.id:
                continue
            group = self._parts.router.groups_of(member).get(family)
            table: Mapping[Prefix, Out] = group.table if group else {}
            several = group is not None and group.key.add_path
            for nlri in wanted.of(table, 4 if several else 0):
                out = table.get(nlri)
                prefix = prefix_of(nlri, several)
                if out is None or peer_refusal(out, member):
                    continue
                own = self._parts.router.explain.origination(family).announce.get(prefix)
                advertised = self._parts.outbound.has_advertised(member.id, family, nlri)
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
                    path_id=out.path_id,
                    best=advertised,
                    kind=own.kind.value if own else "bgp",
                    detail="" if advertised else "waiting for the peer to read",
                )
