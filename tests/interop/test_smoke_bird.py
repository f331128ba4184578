"""The BGP door alone against BIRD 2: both ways, IPv4 and IPv6 on one session, iBGP and eBGP, a restart with the routes
kept. The whole daemon meets BIRD in ``test_bird``; when only that fails, the fault is not in the door."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from testing.daemons import Bird
from testing.namespaces import Net, Process, wait_until

HERE, THERE = "10.0.1.31", "10.0.1.30"
HERE6, THERE6 = "fd00:1::31", "fd00:1::30"
SPEAKER = """
import asyncio, json, sys
from bgpd.bgp.speaker import Speaker
from bgpd.bgp.wire.update import encode_announcements, encode_withdrawals, end_of_rib
from bgpd.model.peer import PeerConfig, PeerId, PeerKind
from bgpd.model.prefix import Family, address_text, parse_address, parse_prefix, prefix_text
from bgpd.model.route import Announce, AsPath, Attributes, EndOfRib, Withdraw, SegmentType

here, here6, there, asn = sys.argv[1:5]
hops = {Family.IPV4: parse_address(here), Family.IPV6: parse_address(here6)}
config = PeerConfig(
    PeerId("bird"), PeerKind.GLOBAL, "BGPPeer bird", parse_address(there), 179, int(asn), 65000, parse_address(here),
    hops[Family.IPV4], hops, frozenset(Family), False, hold_time=30.0,
)
OURS = {Family.IPV4: "10.48.0.128/26", Family.IPV6: "fd00:48::/122"}
path = AsPath() if config.ibgp else AsPath.of((SegmentType.AS_SEQUENCE, (65000,)))
attributes = Attributes(as_path=path, local_pref=100 if config.ibgp else None, communities=(65000 << 16 | 7,))


def report(**words):
    print(json.dumps(words), flush=True)


class Handler:
    def session_established(self, peer):
        report(up=sorted(family.label for family in peer.families), restarted=peer.restarted)
        for family, prefix in OURS.items():
            prefixes = [parse_prefix(prefix)[1]]
            for octets in encode_announcements(family, attributes, peer.next_hop(family), prefixes, peer.asn4):
                speaker.sessions.send(peer, octets)
            speaker.sessions.send(peer, end_of_rib(family))

    def session_ended(self, peer, down):
        report(down=down.reason.value, keep=sorted(family.label for family in down.keep))

    def routes_received(self, peer, events):
        for event in events:
            if isinstance(event, EndOfRib):
                report(end_of_rib=event.family.label)
            elif isinstance(event, Announce):
                for prefix in event.prefixes:
                    report(heard=prefix_text(event.family, prefix), hop=address_text(event.path.next_hop),
                         path=event.path.attributes.as_path.asns(), pref=event.path.attributes.local_pref)
            elif isinstance(event, Withdraw):
                for prefix in event.prefixes:
                    report(gone=prefix_text(event.family, prefix))

    def refresh_requested(self, peer, family):
        report(refresh=family.label)

    def session_writable(self, peer):
        pass

    def listening_changed(self):
        pass

    def dial_ended(self, peer_id, answer):
        pass


async def main():
    global speaker
    speaker = Speaker(Handler(), restarted=False)
    speaker.configure({config.id: config}, [hops[Family.IPV4]], 179)
    running = asyncio.create_task(speaker.run())
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    async for line in orders:
        peer = speaker.sessions.peer(config.id)
        match line.split():
            case [b"withdraw"]:
                for family, prefix in OURS.items():
                    for octets in encode_withdrawals(family, [parse_prefix(prefix)[1]]):
                        speaker.sessions.send(peer, octets)
            case [b"refresh"]:
                report(asked=speaker.sessions.request_refresh(config.id))
            case [b"shutdown"]:
                speaker.sessions.shutdown(config.id, "night")
            case [b"enable"]:
                speaker.sessions.enable(config.id)
    running.cancel()


asyncio.run(main())
"""


def bird_config(asn: int, theirs4: str, theirs6: str) -> str:
    return f"""
protocol device {{}}
protocol static s4 {{ ipv4; {theirs4} }}
protocol static s6 {{ ipv6; {theirs6} }}
protocol bgp door {{
  local {THERE} as {asn};
  neighbor {HERE} as 65000;
  hold time 30;
  graceful restart on;
  connect retry time 1;
  connect delay time 1;
  error wait time 1, 2;
  ipv4 {{ import all; export where source = RTS_STATIC; next hop self; }};
  ipv6 {{ import all; export where source = RTS_STATIC; next hop address {THERE6}; }};
}}
"""


class Door:
    """The speaker in its namespace: what it reported, line by line."""

    def __init__(self, process: Process) -> None:
        self.process = process

    def reported(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.process.log.splitlines() if line.startswith("{")]

    def wait(self, **words: object) -> dict[str, object]:
        """The last thing reported with these words."""

        def find() -> dict[str, object] | None:
            return next(
                (reported for reported in reversed(self.reported()) if words.items() <= reported.items()),
                None,
            )

        return wait_until(find, 20, f"the door reports {words}", report=lambda: self.process.log)


@pytest.mark.parametrize("asn", [65000, 4200000001], ids=["ibgp", "ebgp"])
def test_both_ways(net: Net, asn: int, tmp_path: Path) -> None:
    hosts, _ = net.hosts({"door": [f"{HERE}/24", f"{HERE6}/64"], "bird": [f"{THERE}/24", f"{THERE6}/64"]})
    here, there = hosts["door"], hosts["bird"]
    table = (
        "route 10.48.0.0/26 blackhole; route 10.48.0.192/26 blackhole;",
        "route fd00:48:1::/122 blackhole;",
    )
    bird = Bird(there, bird_config(asn, *table), THERE).start()
    orders = tmp_path / "orders"
    process = here.popen(
        "sh",
        "-c",
        f"mkfifo {orders}; exec {sys.executable} -c '{_quoted(SPEAKER)}' {HERE} {HERE6} {THERE} {asn} 0<>{orders}",
    )
    door = Door(process)

    def order(word: str) -> None:
        with orders.open("w") as pipe:
            pipe.write(f"{word}\n")

    assert door.wait(restarted=False)["up"] == ["ipv4", "ipv6"]
    path = [] if asn == 65000 else [asn]
    for prefix, hop in (
        ("10.48.0.0/26", THERE),
        ("10.48.0.192/26", THERE),
        ("fd00:48:1::/122", THERE6),
    ):
        heard = door.wait(heard=prefix)
        assert (heard["hop"], heard["path"]) == (hop, path)
        assert heard["pref"] == (100 if asn == 65000 else None)
    door.wait(end_of_rib="ipv4")
    door.wait(end_of_rib="ipv6")
    got = wait_until(
        lambda: len(found := bird.heard("door")) == 2 and found, 10, "both of our prefixes are in BIRD"
    )
    assert got["10.48.0.128/26"].next_hop == HERE
    assert got["fd00:48::/122"].next_hop == HERE6
    assert got["10.48.0.128/26"].as_path == ("" if asn == 65000 else "65000")

    bird.configure(bird_config(asn, "route 10.48.0.0/26 blackhole;", table[1]))
    door.wait(gone="10.48.0.192/26")
    bird.birdc("reload in door")
    door.wait(refresh="ipv4")
    before = len(door.reported())
    order("refresh")
    door.wait(asked=True)
    wait_until(
        lambda: any(reported.get("heard") == "10.48.0.0/26" for reported in door.reported()[before:]),
        10,
        "all again",
    )
    order("withdraw")
    wait_until(lambda: not bird.heard("door"), 10, "our withdrawals reach BIRD")

    order("shutdown")
    wait_until(lambda: "night" in bird.birdc("show protocols all door"), 10, "our words reach BIRD")
    order("enable")
    wait_until(lambda: len(bird.heard("door")) == 2, 20, "up again")

    bird.kill()
    down = door.wait(down="tcp")
    assert down["keep"] == ["ipv4", "ipv6"]
    bird.start(recover=True)
    assert door.wait(restarted=True)["up"] == ["ipv4", "ipv6"]
    wait_until(lambda: len(bird.heard("door")) == 2, 20, "both routes are BIRD's again")
    process.kill()
    wait_until(
        lambda: "Neighbor graceful restart active" in bird.birdc("show protocols all door"),
        10,
        "kept by BIRD",
    )
    assert len(bird.heard("door")) == 2


def _quoted(script: str) -> str:
    return script.replace("'", "'\\''")
