"""Whose error a refusal of the kernel is: of one message among the batches of one send, and of one route of a batch."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable
from typing import Any

import pytest

from bgpd.kernel import rtnetlink as rt
from bgpd.kernel.conflicts import Conflicts
from bgpd.kernel.foreign import Others
from bgpd.kernel.installed import InstalledRoutes
from bgpd.kernel.nexthop_objects import NextHops
from bgpd.kernel.sockets import Commands, Replies, _Order
from bgpd.kernel.writer import Writer
from bgpd.model.prefix import Family
from bgpd.model.route import FibKey, Forwarding
from tests.unit.builders import pfx, via
from tests.unit.test_rtnetlink import header

V4 = Family.IPV4
KEYS: list[FibKey] = [(pfx(f"10.48.{n}.0/24"), 0) for n in range(6)]


def answer(seq: int, code: int) -> bytes:
    """NLMSG_ERROR, as one datagram; ``code`` 0 is an acknowledgement."""
    return header(
        rt.NLMSG_ERROR, struct.pack("=i", -code) + struct.pack("=IHHII", 60, 24, 5, seq, 0), 0x100, seq
    )


class FakeKernel:
    """Stands where the netlink socket does: refuses messages by their place in all that was sent, and acknowledges
    those that ask for it."""

    def __init__(self, refused: dict[int, int]) -> None:
        self.refused, self.sent, self.answers = refused, 0, list[bytes]()

    def send(self, octets: bytes) -> None:
        for message in rt.messages(octets):
            code = self.refused.get(self.sent, 0)
            if code or message.flags & rt.F_ACK:
                self.answers.append(answer(message.seq, code))
            self.sent += 1

    def recv(self, size: int) -> bytes:
        return self.answers.pop(0)

    def close(self) -> None: ...


@pytest.fixture
def commands() -> Iterable[Commands]:
    made = Commands()
    yield made
    made.close()


def with_kernel(commands: Commands, refused: dict[int, int]) -> None:
    kernel: Any = FakeKernel(refused)
    commands._socket.close()
    commands._socket = kernel


async def test_a_refusal_is_of_its_batch_and_place(commands: Commands) -> None:
    """Several batches go in one send, and only the last message of all asks for an answer."""
    with_kernel(commands, {1: errno.EEXIST, 3: errno.ENETUNREACH, 4: errno.ESRCH, 7: errno.EINVAL})
    orders = []
    for count in (3, 2, 3):
        base = commands.base()
        tail = rt.route_tail(V4, 0, via("10.0.1.1"))
        messages = [
            rt.pack_route(V4, rt.NEWROUTE, rt.F_REQUEST, base + n, KEYS[n][0], tail) for n in range(count)
        ]
        orders.append((base, messages))
    answers, error = commands._exchange([_Order(base, batch, None) for base, batch in orders])  # type: ignore[arg-type]
    assert error is None
    found = [Replies(base, answers[base]).refusals for base, _ in orders]
    assert [{place: refusal.errno for place, refusal in each.items()} for each in found] == [
        {1: errno.EEXIST},
        {0: errno.ENETUNREACH, 1: errno.ESRCH},
        {2: errno.EINVAL},
    ]


@pytest.mark.parametrize("mode", ["never", "always"])
async def test_a_refused_route_of_a_batch_is_charged_to_itself(commands: Commands, mode: Any) -> None:
    """Also where a nexthop object is made ahead of the routes, and where the message before a put clears its place."""
    ahead = 1 if mode == "always" else 0
    with_kernel(commands, {ahead + 2: errno.ENETUNREACH, ahead + 5: errno.EINVAL})
    nexthops = NextHops(commands, range(1000, 1100))
    installed = InstalledRoutes(nexthops)
    writer = Writer(
        V4, commands, nexthops, installed, Others(V4), Conflicts(V4), lambda body: "", mode, groups=True
    )
    errors: dict[FibKey, Exception] = {}
    puts: dict[FibKey, Forwarding] = dict.fromkeys(KEYS, via("10.0.1.1"))
    assert await writer.put_routes(puts, errors) == {}
    assert {key: error.errno for key, error in errors.items() if isinstance(error, rt.Refusal)} == {
        KEYS[2]: errno.ENETUNREACH,
        KEYS[5]: errno.EINVAL,
    }
    assert installed.entries.keys() == {*KEYS} - errors.keys()

    with_kernel(commands, {1: errno.EPERM, 2: errno.ESRCH})
    errors.clear()
    await writer.delete([KEYS[0], KEYS[1], KEYS[3]], errors)
    assert {key: error.errno for key, error in errors.items() if isinstance(error, rt.Refusal)} == {
        KEYS[1]: errno.EPERM
    }
    assert installed.entries.keys() == {KEYS[1], KEYS[4]}, "what is gone already is no error"
