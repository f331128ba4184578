"""The steps that a decision about addresses yields, what it is sent back, and the refusals that it may end with.

Every write is guarded: a create by the object's absence, an update and a delete by the revision last read. A write that
was not done answers with a ``Conflict`` and is decided anew from what is there then; a store that does not answer
raises ``StoreFailed`` inside the decision, which undoes what it can and lets it pass.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple, TypeVar, cast

from bgpd.model.ipam import (
    Affinity,
    Block,
    Conflict,
    Handle,
    IPAMConfig,
    IPAMNode,
    Kind,
    Pool,
    Ref,
    Reservation,
    Stored,
    Value,
)
from bgpd.model.networks import IPNetwork

TRIES = 100
"""Conflicts in one place before a decision gives up."""


class Get(NamedTuple):
    """Answered with ``Stored`` or ``None``."""

    ref: Ref


class List(NamedTuple):
    """Answered with a tuple of ``Stored``, in the order of their names."""

    kind: Kind
    owner: str = ""
    """Affinities of this owner only."""


class Create(NamedTuple):
    """Answered with ``Stored`` or ``Conflict.EXISTS``."""

    value: Value


class Update(NamedTuple):
    """Answered with ``Stored``, ``Conflict.CHANGED`` or ``Conflict.GONE``."""

    known: Stored[Any]
    value: Value


class Delete(NamedTuple):
    """Answered with ``None``, ``Conflict.CHANGED`` or ``Conflict.GONE``."""

    known: Stored[Any]


class Pause(NamedTuple):
    """Somebody else wrote: wait a moment, longer with each of the tries."""

    tries: int


Step = Get | List | Create | Update | Delete | Pause
T = TypeVar("T")
V = TypeVar("V", bound=Value)
Steps = Generator[Step, Any, T]


class Refused(Exception):
    """The request cannot be met; the message says why, and what would help. Nothing of it is left behind."""

    code = "refused"


class NoSuchPool(Refused):
    code = "no-such-pool"


class NoPool(Refused):
    """No pool is for this node, namespace or use."""

    code = "no-pool"


class NoSuchNode(Refused):
    code = "no-such-node"


class OutsideEveryPool(Refused):
    code = "outside-every-pool"


class Exhausted(Refused):
    """All addresses of the pools that may be used are taken."""

    code = "exhausted"


class BlockLimit(Refused):
    """This node may have no more blocks."""

    code = "block-limit"


class NoNewBlocks(Refused):
    """``autoAllocateBlocks`` is off."""

    code = "no-new-blocks"


class AddressTaken(Refused):
    code = "address-taken"


class StrictAffinity(Refused):
    """The address is in a block of another node, and ``strictAffinity`` is on."""

    code = "strict-affinity"


class NotReady(Refused):
    """ClusterInformation says that the datastore is locked: an upgrade or a migration is under way."""

    code = "not-ready"


class Contended(Refused):
    """Too many writers at once."""

    code = "contended"


class NotAllocated(Refused):
    code = "not-allocated"


class NotEmpty(Refused):
    """The block has addresses in use."""

    code = "not-empty"


class NotOwned(Refused):
    """The block is another's, or is not there."""

    code = "not-owned"


class Invalid(Refused):
    """The object breaks a rule of the API."""

    code = "invalid"


# Reads, with their types.


def get_block(cidr: IPNetwork) -> Steps[Stored[Block] | None]:
    return cast("Stored[Block] | None", (yield Get(Ref(Kind.BLOCK, str(cidr)))))


def get_affinity(owner: str, cidr: IPNetwork) -> Steps[Stored[Affinity] | None]:
    return cast("Stored[Affinity] | None", (yield Get(Ref(Kind.AFFINITY, str(cidr), owner))))


def get_handle(handle: str) -> Steps[Stored[Handle] | None]:
    return cast("Stored[Handle] | None", (yield Get(Ref(Kind.HANDLE, handle))))


def get_node(name: str) -> Steps[IPAMNode | None]:
    found = yield Get(Ref(Kind.NODE, name))
    return None if found is None else cast("IPAMNode", found.value)


def get_config() -> Steps[IPAMConfig]:
    found = yield Get(Ref(Kind.CONFIG, "default"))
    return IPAMConfig() if found is None else cast("IPAMConfig", found.value)


def list_blocks() -> Steps[tuple[Stored[Block], ...]]:
    return cast("tuple[Stored[Block], ...]", (yield List(Kind.BLOCK)))


def list_affinities(owner: str = "") -> Steps[tuple[Stored[Affinity], ...]]:
    return cast("tuple[Stored[Affinity], ...]", (yield List(Kind.AFFINITY, owner)))


def list_handles() -> Steps[tuple[Stored[Handle], ...]]:
    return cast("tuple[Stored[Handle], ...]", (yield List(Kind.HANDLE)))


def list_pools() -> Steps[tuple[Pool, ...]]:
    """In the order of their names."""
    found = yield List(Kind.POOL)
    return tuple(sorted((stored.value for stored in found), key=lambda pool: pool.name))


def list_reservations() -> Steps[tuple[Reservation, ...]]:
    found = yield List(Kind.RESERVATION)
    return tuple(stored.value for stored in found)


# Writes, with their types.


def create(value: V) -> Steps[Stored[V] | Conflict]:
    return cast("Stored[V] | Conflict", (yield Create(value)))


def update(known: Stored[V], value: V) -> Steps[Stored[V] | Conflict]:
    return cast("Stored[V] | Conflict", (yield Update(known, value)))


def delete(known: Stored[Any]) -> Steps[Conflict | None]:
    return cast("Conflict | None", (yield Delete(known)))


def contended(what: object) -> Contended:
    return Contended(f"{what}: others wrote it each of {TRIES} times that we tried")
