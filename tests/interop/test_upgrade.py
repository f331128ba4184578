"""Upgrades that no peer notices: sessions with real BIRD and FRR go from process to process."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from testing.daemons import Bird, Frr
from testing.namespaces import Net, wait_until
from testing.resources import bgp_peer
from tests.interop.far import Far, FarBird, FarFrr
from tests.interop.suite import ASN, BLOCKS, OWN, THEIRS, Ground
from tests.interop.test_protection import BIRDS, TIMERS, V4, V6, secret

SHARED = "10.48.9.0/26"


class Witness:
    """What a far end itself says of its sessions with the node."""

    def __init__(self, far: Far) -> None:
        self.far = far

    def sessions(self) -> dict[str, tuple[float, int]]:
        """By address: since when it is up, on a clock of its own, and how many UPDATEs it got."""
        if isinstance(self.far.daemon, Frr):
            found = json.loads(self.far.daemon.vtysh("show bgp neighbors json"))
            return {
                name: (float(of["bgpTimerUpEstablishedEpoch"]), of["messageStats"]["updatesRecv"])
                for name, of in found.items()
            }
        bird = self.far.daemon
        found = {}
        for family in ("ipv4", "ipv6"):
            text = bird.birdc(f"show protocols all node_{family}")
            counts = re.findall(r"Import (?:updates|withdraws): +(\d+) +(\d+|---)", text)
            assert counts and "Established" in text, text
            found[family] = (bird.since(f"node_{family}"), sum(int(count) for count, _ in counts))
        return found


def ground_of(net: Net, **options: Any) -> tuple[Ground, list[Far]]:
    """A node with two peers, which share a prefix."""
    fars: list[Far] = [
        FarBird(net, 2, asn=ASN, node_asn=ASN, announced=[*THEIRS, SHARED], **options),
        FarFrr(net, 3, asn=65001, node_asn=ASN, announced=["192.168.8.0/24", "fd08::/64", SHARED]),
    ]
    return Ground(net, fars), fars


def settle(ground: Ground, fars: list[Far]) -> None:
    ground.start()
    ground.bgpd.wait_in_sync()
    ground.wait_kernel(*THEIRS, SHARED, "192.168.8.0/24", "fd08::/64", *BLOCKS.values())
    for far in fars:
        ground.bgpd.wait(lambda far=far: far.heard().keys() >= OWN, f"{far.kind} heard all")


@pytest.mark.parametrize("times", [2, pytest.param(10, marks=pytest.mark.long)])
def test_no_peer_notices(net: Net, times: int) -> None:
    ground, fars = ground_of(net)
    settle(ground, fars)
    bgpd = ground.bgpd
    witnesses = [Witness(far) for far in fars]
    before = [witness.sessions() for witness in witnesses]
    peers = bgpd.peers()
    kernel = ground.kernel()
    monitor = ground.node.monitor()
    for _ in range(times):
        bgpd.upgrade()
        bgpd.wait_in_sync()
    assert bgpd.log.count("event=session_taken_over") == 4
    assert "event=session_not_taken_over" not in bgpd.log
    for witness, sessions in zip(witnesses, before, strict=True):
        now = witness.sessions()
        for name, (since, updates) in sessions.items():
            assert now[name][0] == pytest.approx(since, abs=1.1), name
            assert now[name][1] == updates, name
    assert monitor.stop() == []
    assert ground.kernel() == kernel
    for name, peer in bgpd.peers().items():
        assert peer["messages_sent"]["UPDATE"] == peers[name]["messages_sent"]["UPDATE"], name
        assert not any(peer["flaps"].values()) and peer["since"] == pytest.approx(
            peers[name]["since"], abs=0.1
        )


class Bystander:
    """A far end's ping of a workload's address on the node, a thousand a second."""

    def __init__(self, far: Far, address: str) -> None:
        self._process = far.namespace.popen("ping", "-n", "-q", "-i", "0.001", address, name="ping")

    def lost(self) -> int:
        """How many were lost in all."""
        self._process.signal(signal.SIGINT)
        self._process.wait(5)
        sent, received = re.findall(r"(\d+) packets transmitted, (\d+) received", self._process.log)[-1]
        assert int(sent) > 100
        return int(sent) - int(received)


def test_bgpctl_starts_the_next_process_or_leaves_all_as_it_is(net: Net) -> None:
    ground, fars = ground_of(net)
    ground.node.ip("addr", "add", "10.48.0.1/32", "dev", "lo")  # inside the block, so that there is an answer
    settle(ground, fars)
    bgpd = ground.bgpd
    witnesses = [Witness(far) for far in fars]
    before = [witness.sessions() for witness in witnesses]
    fars[0].namespace.ip("route", "replace", "10.48.0.0/26", "via", "10.9.0.1")
    probe = Bystander(fars[0], "10.48.0.1")
    good = bgpd.config_path.read_text()

    # One that fails changes nothing.
    bgpd.config_path.write_text("bgp: {prot: 1}\n")
    failed = bgpd.bgpctl("upgrade", timeout=60)
    assert failed.returncode == 1 and "exit code 78" in failed.stderr and "this one goes on" in failed.stderr
    assert bgpd.running and bgpd.established()
    bgpd.config_path.write_text(good)

    done = bgpd.bgpctl("upgrade", timeout=60)
    assert done.returncode == 0, done.stderr + bgpd.log
    match = re.fullmatch(r"process (\d+) has the sessions, and is ready\n", done.stdout)
    assert match, done.stdout
    pid = int(match[1])
    try:
        assert bgpd.process is not None and bgpd.process.wait(10) == 0
        assert probe.lost() == 0
        for witness, sessions in zip(witnesses, before, strict=True):
            now = witness.sessions()
            for name, (since, updates) in sessions.items():
                assert now[name] == (pytest.approx(since, abs=1.1), updates), name
    finally:
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), 10, "it ends")


@pytest.mark.long
def test_a_peer_that_cannot_be_asked_again(net: Net) -> None:
    """Without route refresh what it had sent comes along: nothing is missing, and nothing stays that it takes back."""
    far = FarBird(net, 2, asn=ASN, node_asn=ASN, announced=THEIRS, extra="enable route refresh off;")
    ground = Ground(net, [far])
    ground.start()
    ground.wait_kernel(*THEIRS)
    ground.wait_heard(far, OWN)
    bgpd = ground.bgpd
    bgpd.wait_in_sync()
    monitor = ground.node.monitor()
    for _ in range(2):
        bgpd.upgrade()
        bgpd.wait_in_sync()
    assert "event=session_not_taken_over" not in bgpd.log
    assert monitor.stop() == []
    received = {route["prefix"] for route in bgpd.ctl("routes", table="in")["routes"]}
    assert received == set(THEIRS)
    far.withdraw(THEIRS[0])
    ground.wait_kernel(*THEIRS[1:], without=THEIRS[:1])


@pytest.mark.long
def test_what_needs_another_session_falls_back_alone(net: Net) -> None:
    """The next process has another hold time for one peer: that session goes by graceful restart, the others stay."""
    ground, fars = ground_of(net)
    settle(ground, fars)
    bgpd, (bird, frr) = ground.bgpd, map(Witness, fars)
    before, peers = bird.sessions(), bgpd.peers()
    kernel, monitor = ground.kernel(), ground.node.monitor()
    bgpd.configure(bgp={"peers": {"10.9.0.3": {"hold_time": 30}}})
    bgpd.upgrade()
    bgpd.wait_established(*peers)
    bgpd.wait_in_sync()
    fallen = re.findall(r"event=session_not_taken_over peer=(\S+) cause=(.*)", bgpd.log)
    assert fallen == [("Global_10_9_0_3", "'configured otherwise: hold_time'")]
    assert bgpd.peers()["Global_10_9_0_3"]["hold_time"] == 30
    assert bird.sessions() == {
        name: (pytest.approx(since, abs=1.1), updates) for name, (since, updates) in before.items()
    }
    assert frr.sessions().keys() == {"10.9.0.1", "fd09::1"}
    assert ground.kernel() == kernel and monitor.stop() == []


@pytest.mark.long
def test_passwords_and_ttl_security_go_along(net: Net) -> None:
    """The sessions go on in their sockets; and the listening socket has its keys, so that a peer can come again."""
    words = f'password "hush-one"; ttl security on; {TIMERS}'
    configured = "protocol device {}" + "".join(
        f"protocol bgp {name} {{ local as 65001; neighbor {node} as {ASN}; {words} {channel} }}"
        for name, node, channel in (("v4", "10.9.0.1", V4), ("v6", "fd09::1", V6))
    )
    ground = Ground(net, [])
    namespace = net.namespace("bird")
    net.join(ground.switch, namespace, "port2", ["10.9.0.2/24", "fd09::2/64"])
    bird = Bird(namespace, configured, "10.9.0.2").start()
    ground.bgpd.write(
        "peers",
        *(
            bgp_peer(
                f"bird{number}",
                address,
                65001,
                password={"secretKeyRef": {"name": "bgp", "key": "bird"}},
                ttlSecurity=1,
            )
            for number, address in enumerate(("10.9.0.2", "fd09::2"))
        ),
    )
    ground.bgpd.write("secrets", secret(bird="hush-one"))
    ground.bgpd.start()
    ground.bgpd.wait_established(*BIRDS)
    since = {name: bird.since(name) for name in ("v4", "v6")}
    for _ in range(2):
        ground.bgpd.upgrade()
    ground.bgpd.wait_established(*BIRDS)
    assert {name: bird.since(name) for name in since} == pytest.approx(since, abs=0.1)
    assert "event=session_not_taken_over" not in ground.bgpd.log

    bird.birdc("restart v4")
    wait_until(lambda: bird.established("v4"), 15, "it comes again", report=net.report)
