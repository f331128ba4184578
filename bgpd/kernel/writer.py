"""Writes routes of ours in batches: packs while the kernel works, and says of each key what became of it.

Used by ``fib``, which owns the lock under which this runs and knows why each kind of request is as it is.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any, Literal, NamedTuple, cast

from bgpd.kernel import rtnetlink as rt
from bgpd.kernel.conflicts import Conflicts
from bgpd.kernel.foreign import Others
from bgpd.kernel.installed import UNRECOGNISED, InstalledRoutes, Object, Spelling, meaning
from bgpd.kernel.nexthop_objects import NextHops
from bgpd.kernel.sockets import TURN_SECONDS, Commands, Replies
from bgpd.model.prefix import Family
from bgpd.model.route import BLACKHOLE, Blackhole, FibKey, Forwarding, Via

ObjectsMode = Literal["auto", "always", "never"]
OBJECTS_FROM = 64
"""``auto`` writes over objects once there are more distinct next hops than this."""
BATCH = 500
"""Messages a send: about 30 KiB, 1.5 ms of the kernel's time."""
ALOFT = 16
"""Batches under way at once: enough that the kernel has work while the event loop does other things."""
MOST_LEGS = 256
"""Next hops of a group, at most; the kernel's own limit is one attribute's length."""


class Conflict(rt.Refusal):
    """Another's route has our key."""

    def __init__(self, words: str) -> None:
        super().__init__(errno.EEXIST)
        self.strerror = f"in our way is {words}"


class _Clear(NamedTuple):
    """A delete ahead of a put of the same key, or one of several that delete it."""

    key: FibKey


_Step = FibKey | _Clear | Object
"""What one message of a batch is for: a route is put, or deleted in a batch of deletes; an ``Object`` is made."""


class _Batch:
    """Either of puts, which are in ``puts`` too, or of deletes."""

    __slots__ = ("base", "made", "messages", "plain", "puts", "steps")

    def __init__(self, base: int) -> None:
        self.base = base
        self.messages: list[bytes] = []
        self.steps: list[_Step] = []
        self.puts: dict[FibKey, Spelling] = {}
        self.made: list[Object] = []
        self.plain = True
        """No step is a ``_Clear``."""


class Writer:
    """One family's. ``unsure`` is set when the kernel's answers show that ``installed`` is not what is there."""

    def __init__(
        self,
        family: Family,
        commands: Commands,
        nexthops: NextHops,
        installed: InstalledRoutes,
        others: Others,
        conflicts: Conflicts,
        describe: Callable[[rt.Body], str],
        mode: ObjectsMode,
        groups: bool,
    ) -> None:
        self.unsure = False
        self.operations: Counter[tuple[str, str]] = Counter(
            {(operation, result): 0 for operation in ("put", "delete") for result in ("ok", "error")}
        )
        self.errors: Counter[tuple[str, str]] = Counter()
        self._family, self._commands, self._nexthops = family, commands, nexthops
        self._installed, self._others, self._conflicts = installed, others, conflicts
        self._describe, self._mode, self._groups = describe, mode, groups
        self._attempt = 0
        self._removals: dict[tuple[int, int], rt.Tail] = {}
        self._fill = rt.route_filler(family)
        self._broken = False
        """The kernel refused to make an object of the put under way."""

    async def put_routes(
        self, puts: Mapping[FibKey, Forwarding], errors: dict[FibKey, Exception]
    ) -> dict[FibKey, Forwarding]:
        """Puts routes. ``errors`` gains and loses keys; what is returned is worth another try, after a reading."""
        self._attempt += 1
        self._broken = False
        again: dict[FibKey, Forwarding] = {}
        flight = _Flight(self, errors, again)
        installed, others, conflicts, family = (
            self._installed.entries,
            self._others,
            self._conflicts,
            self._family,
        )
        duplicates, fill = self._installed.duplicates, self._fill
        spelled: dict[tuple[Forwarding, int], tuple[Spelling, rt.Tail, rt.Form]] = {}
        distinct, new = len(self._installed.uses), set[Via]()
        batch = _Batch(self._commands.base())
        last: Forwarding | None = None
        last_metric = -1
        spelling: Spelling = BLACKHOLE
        tail = rt.route_tail(family, 0, None)
        exclusive = rt.F_REQUEST | rt.F_CREATE | rt.F_EXCL
        head, middle, rest, attributes = rt.route_form(family, rt.NEWROUTE, exclusive, tail)
        for key, forwarding in puts.items():
            prefix, metric = key
            if forwarding is not last or metric != last_metric:
                last, last_metric = forwarding, metric
                known = spelled.get((forwarding, metric))
                if known is None:
                    if not isinstance(forwarding, Blackhole) and forwarding not in self._installed.uses:
                        new.add(forwarding)
                    many = distinct + len(new) > OBJECTS_FROM
                    spelling, tail = self._spell(forwarding, metric, many, batch)
                    form = rt.route_form(family, rt.NEWROUTE, exclusive, tail)
                    known = spelled[forwarding, metric] = spelling, tail, form
                spelling, tail, (head, middle, rest, attributes) = known
            old = installed.get(key)
            seq = batch.base + len(batch.messages)
            if old is None:
                message = fill(head, seq, middle, prefix[0], rest, prefix[1:]) + attributes
            else:
                flags = rt.F_REQUEST | rt.F_CREATE | rt.F_REPLACE
                shared = prefix in others.table and others.at(key) is not None
                if shared or key in duplicates:
                    self._clear(batch, key, old, shared)
                    append = shared and family is Family.IPV4
                    flags = rt.F_REQUEST | rt.F_CREATE | rt.F_APPEND if append else exclusive
                    seq = batch.base + len(batch.messages)
                message = rt.pack_route(family, rt.NEWROUTE, flags, seq, prefix, tail)
            batch.messages.append(message)
            batch.steps.append(key)
            batch.puts[key] = spelling
            if len(batch.messages) >= BATCH:
                await flight.launch(batch)
                batch = _Batch(self._commands.base())
        await flight.launch(batch)
        await flight.land()
        if conflicts:
            for key in puts:
                if key not in errors and others.at(key) is None:
                    conflicts.end(key)
        return again

    async def delete(self, keys: Iterable[FibKey], errors: dict[FibKey, Exception]) -> None:
        """Deletes routes that we hold; one that we do not hold, or that is gone, is deleted."""
        back: dict[FibKey, Forwarding] = {}
        flight = _Flight(self, errors, back)
        batch = _Batch(self._commands.base())
        installed, others, fill, family = self._installed, self._others, self._fill, self._family
        routes, duplicates, theirs = installed.entries, installed.duplicates, self._others.table
        unsettled = family is Family.IPV4 and len(+installed.metrics) > 1
        last: tuple[int, bool] | None = None
        head = middle = rest = attributes = b""
        for key in keys:
            prefix, metric = key
            old = routes.get(key)
            if old is None:
                self._conflicts.end(key)
                self.operations["delete", "ok"] += 1
                continue
            shared = prefix in theirs and others.at(key) is not None
            if shared or old is UNRECOGNISED or (duplicates and key in duplicates):
                self._clear(batch, key, old, shared)
                batch.steps[-1] = key
            elif unsettled and not metric and self._has_another_metric(key):
                self._remove(batch, key, key, self._removal(key, old, exact=True), rt.F_ECHO)
            else:
                if last is None or last[0] != metric or last[1] is not (old is BLACKHOLE):
                    last = metric, old is BLACKHOLE
                    tail = self._removal(key, old, exact=False)
                    form = rt.route_form(family, rt.DELROUTE, rt.F_REQUEST, tail)
                    head, middle, rest, attributes = form
                seq = batch.base + len(batch.messages)
                batch.messages.append(fill(head, seq, middle, prefix[0], rest, prefix[1:]) + attributes)
                batch.steps.append(key)
            if len(batch.messages) >= BATCH:
                await flight.launch(batch)
                batch = _Batch(self._commands.base())
        await flight.launch(batch)
        await flight.land()
        if back:  # the kernel took a route with another metric for one that was gone already
            await self.put_routes(back, errors)

    # Packing.

    def _spell(
        self, forwarding: Forwarding, metric: int, many: bool, batch: _Batch
    ) -> tuple[Spelling, rt.Tail]:
        if isinstance(forwarding, Blackhole):
            return BLACKHOLE, rt.route_tail(self._family, metric, None)
        via = self._installed.canonical(forwarding)
        if self._mode == "always" or (self._mode == "auto" and many):
            made = self._object(via, batch)
            if made is not None:
                return made, rt.route_tail(self._family, metric, made.id)
        return via, rt.route_tail(self._family, metric, via)

    def _object(self, via: Via, batch: _Batch) -> Object | None:
        """The object of a forwarding, made with this batch if need be; ``None`` where it must be written without."""
        installed = self._installed
        known = installed.objects.get(via)
        if known is not None:
            installed.used_ids.add(known.id)
            return known
        hops = via.hops
        if hops[0].gateway is None or (len(hops) > 1 and not (self._groups and len(hops) <= MOST_LEGS)):
            return None  # (a leg without a gateway sorts first)
        parts: list[Object] = []
        if len(hops) > 1:
            for hop in hops:
                part = self._object(installed.canonical(Via((hop,))), batch)
                if part is None:
                    return None
                parts.append(part)
        number = self._nexthops.reserve()
        if number is None:
            return None
        made = installed.register(Object(number, via, tuple(parts), self._attempt))
        installed.used_ids.add(number)
        content = tuple(part.id for part in parts) or hops[0]
        flags = rt.F_REQUEST | rt.F_CREATE | rt.F_EXCL
        seq = batch.base + len(batch.messages)
        batch.messages.append(rt.pack_nexthop(flags, seq, number, self._family, content))
        batch.steps.append(made)
        batch.made.append(made)
        return made

    def _clear(self, batch: _Batch, key: FibKey, old: Spelling, shared: bool) -> None:
        """Deletes all routes of ours at a key, and nothing of another's."""
        batch.plain = False
        if shared and self._family is Family.IPV6 and isinstance(old, Via) and old is not UNRECOGNISED:
            # Legs may have merged with another's route: without a gateway all of them would go.
            for hop in old.hops:
                self._remove(batch, key, _Clear(key), self._removal(key, Via((hop,)), exact=True), 0)
            return
        for _ in range(1 + self._installed.duplicates.get(key, 0)):
            self._remove(batch, key, _Clear(key), self._removal(key, old, exact=shared), 0)

    def _removal(self, key: FibKey, old: Spelling, exact: bool) -> rt.Tail:
        """What a delete names beside prefix, metric and protocol: the type, and when ``exact`` the next hop."""
        kind = rt.BLACKHOLE_TYPE if old is BLACKHOLE else rt.ANY_TYPE if old is UNRECOGNISED else rt.UNICAST
        tail = self._removals.get((key[1], kind))
        if tail is None:
            tail = rt.route_tail(self._family, key[1], None)._replace(scope=rt.SCOPE_NOWHERE, type=kind)
            self._removals[key[1], kind] = tail
        if exact and not isinstance(old, Blackhole) and old is not UNRECOGNISED:
            named = rt.route_tail(self._family, key[1], old.id if isinstance(old, Object) else old)
            tail = tail._replace(attributes=named.attributes)
        return tail

    def _remove(self, batch: _Batch, key: FibKey, step: _Step, tail: rt.Tail, flags: int) -> None:
        seq = batch.base + len(batch.messages)
        message = rt.pack_route(self._family, rt.DELROUTE, rt.F_REQUEST | flags, seq, key[0], tail)
        batch.messages.append(message)
        batch.steps.append(step)

    def _has_another_metric(self, key: FibKey) -> bool:
        return any(
            metric != key[1] and (key[0], metric) in self._installed.entries
            for metric in +self._installed.metrics
        )

    # What became of it.

    def settle(
        self,
        batch: _Batch,
        replies: Replies,
        errors: dict[FibKey, Exception],
        again: dict[FibKey, Forwarding],
    ) -> None:
        """Takes over what the kernel did with a batch."""
        installed, refusals = self._installed, replies.refusals
        if batch.plain and not self._broken and not refusals and not replies.echoes:
            self._all_done(batch, errors)  # nearly always
            return
        puts = deletes = 0
        for place, step in enumerate(batch.steps):
            refusal = refusals.get(place) if refusals else None
            if isinstance(step, Object):
                self._made(step, refusal)
                continue
            clearing = isinstance(step, _Clear)
            key = step.key if isinstance(step, _Clear) else step
            if batch.puts and not clearing:
                spelling = batch.puts[key]
                if refusal is not None:
                    self._refused(key, spelling, refusal, errors, again)
                    continue
                puts += 1
                if (
                    isinstance(spelling, Object) and spelling.failure is not None
                ):  # it went over another's object
                    again[key], spelling = spelling.via, UNRECOGNISED
                installed.put(key, spelling)
                if errors:
                    errors.pop(key, None)
                if installed.duplicates:
                    installed.duplicates.pop(key, None)
            elif refusal is not None and refusal.errno not in (errno.ESRCH, errno.ENOENT):
                if not clearing:
                    self._failed("delete", key, refusal, errors)
            elif replies.echoes and self._took_another(key, replies, place, again):
                deletes += 1
            else:
                installed.remove(key)
                installed.duplicates.pop(key, None)
                if not clearing:
                    deletes += 1
                    self._conflicts.end(key)
        self.operations["put", "ok"] += puts
        self.operations["delete", "ok"] += deletes

    def _all_done(self, batch: _Batch, errors: dict[FibKey, Exception]) -> None:
        """Every step of a plain batch succeeded."""
        installed = self._installed
        for made in batch.made:
            self._made(made, None)
        settled: tuple[MutableMapping[FibKey, Any], ...] = (errors, installed.duplicates)
        if batch.puts:
            keys: Iterable[FibKey] = batch.puts
            installed.put_all(batch.puts)
            self.operations["put", "ok"] += len(batch.puts)
        else:
            steps = cast(list[FibKey], batch.steps)
            keys = steps
            installed.remove_all(steps)
            self.operations["delete", "ok"] += len(batch.steps)
            if self._conflicts:
                for key in keys:
                    self._conflicts.end(key)
        for old in settled:
            if old:
                for key in keys:
                    old.pop(key, None)

    def lost(self, batch: _Batch, error: OSError, errors: dict[FibKey, Exception]) -> None:
        """The kernel's answer to a batch did not come: nothing is known of its keys until the next reading."""
        self.unsure = True
        for step in batch.steps:
            if isinstance(step, Object):
                self._installed.forget(step)
            elif not isinstance(step, _Clear):
                operation = "put" if batch.puts else "delete"
                self._failed(operation, step, rt.Refusal(error.errno or errno.EIO), errors)

    def _made(self, made: Object, refusal: rt.Refusal | None) -> None:
        if refusal is None:
            hop = None if made.parts else made.via.hops[0]
            members = tuple(part.id for part in made.parts)
            self._nexthops.put_nexthop(rt.NextHop(made.id, rt.PROTO_BIRD, hop, members, False, True))
            return
        made.failure = refusal
        self._broken = True
        self._installed.forget(made)
        if refusal.errno == errno.EEXIST:  # somebody took an id of our range: try another, keep off this one
            made.stale = True
            self._nexthops.put_nexthop(rt.NextHop(made.id, 0, None, (), False, False))
            return
        self._nexthops.drop(made.id)
        broken = next((part for part in made.parts if part.failure is not None), None)
        if broken is not None:
            made.failure, made.stale = broken.failure, broken.stale
            return
        for part in made.parts:
            if part.attempt != self._attempt:  # it may have gone without notice
                self._installed.forget(part)
                self._nexthops.drop(part.id)
                made.stale = True

    def _refused(
        self,
        key: FibKey,
        spelling: Spelling,
        refusal: rt.Refusal,
        errors: dict[FibKey, Exception],
        again: dict[FibKey, Forwarding],
    ) -> None:
        if refusal.errno == errno.EEXIST:
            other = self._others.at(key)
            if other is not None:
                words = self._describe(other)
                self._conflicts.begin(key, words)
                refusal = Conflict(words)
            else:  # ours and not known, or another's and not yet heard of
                self.unsure = True
                again[key] = meaning(spelling)
                refusal = Conflict("another route")
        elif isinstance(spelling, Object):
            if spelling.failure is not None:
                refusal = spelling.failure
                if spelling.stale:
                    again[key] = spelling.via
            elif spelling.attempt != self._attempt:  # gone without notice: a link went down
                self._installed.forget(spelling)
                self._nexthops.drop(spelling.id)
                again[key] = spelling.via
        self._failed("put", key, refusal, errors)

    def _failed(
        self, operation: str, key: FibKey, refusal: rt.Refusal, errors: dict[FibKey, Exception]
    ) -> None:
        errors[key] = refusal
        self.operations[operation, "error"] += 1
        self.errors[operation, errno.errorcode.get(refusal.errno or 0, str(refusal.errno))] += 1

    def _took_another(
        self, key: FibKey, replies: Replies, place: int, again: dict[FibKey, Forwarding]
    ) -> bool:
        """Whether the delete of a route that was gone took the one with another metric, which must come back."""
        for data, message in replies.echoes.get(place, ()):
            parsed = rt.RouteReader().read(data, message)
            if message.type == rt.DELROUTE and parsed is not None and parsed[2].metric != key[1]:
                taken = (parsed[1], parsed[2].metric)
                forwarding = self._installed.get(taken)
                self._installed.remove(taken)
                self._installed.remove(key)
                if forwarding is not None:
                    again[taken] = forwarding
                return True
        return False


class _Flight:
    """A few batches are on their way into the kernel while the next is packed."""

    def __init__(
        self, writer: Writer, errors: dict[FibKey, Exception], again: dict[FibKey, Forwarding]
    ) -> None:
        self._writer, self._errors, self._again = writer, errors, again
        self._aloft: deque[tuple[_Batch, asyncio.Future[list[bytes]]]] = deque()
        self._turn_ends = time.monotonic() + TURN_SECONDS

    async def launch(self, batch: _Batch) -> None:
        """Sends a batch, then settles those that are done; waits where too many are under way."""
        if batch.messages:
            self._aloft.append((batch, self._writer._commands.submit(batch.base, batch.messages)))
        while self._aloft and (len(self._aloft) > ALOFT or self._aloft[0][1].done()):
            await self._land_first()
        if time.monotonic() >= self._turn_ends:
            await asyncio.sleep(0)
            self._turn_ends = time.monotonic() + TURN_SECONDS

    async def land(self) -> None:
        """Waits for all batches under way."""
        while self._aloft:
            await self._land_first()

    async def _land_first(self) -> None:
        batch, pending = self._aloft.popleft()
        try:
            replies = Replies(batch.base, await pending)
        except OSError as error:
            self._writer.lost(batch, error, self._errors)
        else:
            self._writer.settle(batch, replies, self._errors, self._again)
