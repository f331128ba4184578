"""What keeps strangers off a session, with BIRD and FRR: TCP MD5 passwords (RFC 2385) and TTL security (RFC 5082)."""

from __future__ import annotations

from collections.abc import Iterable

from testing.daemons import Bird, Frr
from testing.namespaces import Net, steady, wait_until
from testing.resources import bgp_peer
from tests.interop.suite import ASN, Ground

TIMERS = "connect delay time 1; connect retry time 1; error wait time 1, 1;"
V4, V6 = (f"{family} {{ import all; export none; }};" for family in ("ipv4", "ipv6"))
BIRDS = ("Global_10_9_0_2", "Global_fd09__2")
FRRS = ("Global_10_9_0_3", "Global_fd09__3")


def secret(**passwords: str) -> dict[str, object]:
    """The Secret that the peers' passwords are in."""
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bgp"}, "stringData": passwords}


def bird_config(password: str) -> str:
    return "protocol device {}" + "".join(
        f'protocol bgp {name} {{ local as 65001; neighbor {node} as {ASN}; password "{password}"; {TIMERS}'
        f" {channel} }}"
        for name, node, channel in (("v4", "10.9.0.1", V4), ("v6", "fd09::1", V6))
    )


def frr_config(neighbors: Iterable[str], *options: str) -> str:
    """Sessions with all neighbours, each with these options and its own family."""
    lines = ["router bgp 65001", " no bgp ebgp-requires-policy", " bgp router-id 10.9.0.3"]
    for neighbor in neighbors:
        lines += [
            f" neighbor {neighbor} {option}" for option in (f"remote-as {ASN}", "timers connect 1", *options)
        ]
    for neighbor in neighbors:
        if ":" in neighbor:
            lines += [
                " address-family ipv6 unicast",
                f"  neighbor {neighbor} activate",
                " exit-address-family",
            ]
    return "\n".join(lines)


def states(ground: Ground, names: Iterable[str]) -> dict[str, tuple[str, float]]:
    """Of each session its state, and since when it is in or out of Established."""
    peers = ground.bgpd.peers()
    return {name: (peers[name]["state"], peers[name]["since"]) for name in names}


def test_passwords(net: Net) -> None:
    """The right ones: up. Another for one peer: its sessions end, no others; they come back with the right one."""
    ground = Ground(net, [])
    namespaces = {kind: net.namespace(kind) for kind in ("bird", "frr")}
    for number, namespace in enumerate(namespaces.values(), 2):
        net.join(ground.switch, namespace, f"port{number}", [f"10.9.0.{number}/24", f"fd09::{number}/64"])
    bird = Bird(namespaces["bird"], bird_config("hush-one"), "10.9.0.2").start()
    nodes = ("10.9.0.1", "fd09::1")
    frr = Frr(namespaces["frr"], frr_config(nodes, "password hush-two")).start()
    ground.bgpd.write(
        "peers",
        *(
            bgp_peer(
                f"{kind}{number}",
                address,
                65001,
                password={"secretKeyRef": {"name": "bgp", "key": kind}},
            )
            for kind, last in (("bird", 2), ("frr", 3))
            for number, address in enumerate((f"10.9.0.{last}", f"fd09::{last}"))
        ),
    )
    ground.bgpd.write("secrets", secret(bird="hush-one", frr="hush-two"))
    ground.bgpd.start()
    ground.bgpd.wait_established(*BIRDS, *FRRS)
    kept = states(ground, FRRS)

    ground.bgpd.write("secrets", secret(bird="hush-other", frr="hush-two"))
    wait_until(lambda: not bird.established("v4") and not bird.established("v6"), report=net.report)
    assert "Other configuration change" in bird.log or "Received: Other" in bird.birdc("show protocols all")
    wait_until(
        lambda: all("TCP MD5" in ground.bgpd.peers()[name]["last_error"] for name in BIRDS),
        15,
        "what may be wrong is reported",
        report=net.report,
    )
    assert not any(ground.bgpd.established(name) for name in BIRDS)
    assert states(ground, FRRS) == kept
    bird.configure(bird_config("hush-other"))
    ground.bgpd.wait_established(*BIRDS)

    ground.bgpd.write("secrets", secret(bird="hush-other", frr="hush-third"))
    for node in nodes:
        frr.configure("router bgp 65001", f"neighbor {node} password hush-third")
    wait_until(
        lambda: all(since > kept[name][1] for name, (_, since) in states(ground, FRRS).items()),
        report=net.report,
    )
    ground.bgpd.wait_established(*FRRS)
    assert "hush" not in ground.bgpd.log + repr(ground.bgpd.peers())


def test_ttl_security(net: Net) -> None:
    """One hop: up. Over a router: refused, and reported how far away it is; allowed two hops, up."""
    ground = Ground(net, [])
    router = net.namespace("router")
    net.join(ground.switch, router, "port8", ["10.9.0.254/24"])
    near = net.namespace("near")
    net.join(ground.switch, near, "port2", ["10.9.0.2/24", "fd09::2/64"])
    far = {kind: net.namespace(f"far-{kind}") for kind in ("bird", "frr")}
    for number, namespace in enumerate(far.values()):
        net.link(router, f"to{number}", namespace, "ens5")
        router.address(f"to{number}", f"10.9.{7 + number}.1/24")
        namespace.address("ens5", f"10.9.{7 + number}.2/24")
        namespace.ip("route", "add", "10.9.0.0/24", "via", f"10.9.{7 + number}.1")
        ground.node.ip("route", "add", f"10.9.{7 + number}.0/24", "via", "10.9.0.254")

    one = Bird(
        near,
        "protocol device {}"
        f"protocol bgp v4 {{ local as 65001; neighbor 10.9.0.1 as {ASN}; ttl security on; {TIMERS} {V4} }}"
        f"protocol bgp v6 {{ local as 65001; neighbor fd09::1 as {ASN}; ttl security on; {TIMERS} {V6} }}",
        "10.9.0.2",
    ).start()
    two = Bird(
        far["bird"],
        f"protocol device {{}} protocol bgp v4 {{ local 10.9.7.2 as 65001; neighbor 10.9.0.1 as {ASN};"
        f" multihop 2; ttl security on; {TIMERS} {V4} }}",
        "10.9.7.2",
    ).start()
    Frr(far["frr"], frr_config(["10.9.0.1"], "ttl-security hops 2")).start()
    fars = {"far-bird": "10.9.7.2", "far-frr": "10.9.8.2"}

    def configure(hops: int) -> None:
        ground.bgpd.write(
            "peers",
            bgp_peer("near4", "10.9.0.2", 65001, ttlSecurity=1),
            bgp_peer("near6", "fd09::2", 65001, ttlSecurity=1),
            *(bgp_peer(name, address, 65001, ttlSecurity=hops) for name, address in fars.items()),
        )

    configure(1)
    ground.bgpd.start()
    ground.bgpd.wait_established(*BIRDS)
    names = [f"Global_{address.replace('.', '_')}" for address in fars.values()]
    wait_until(
        lambda: all("it came with TTL 254" in ground.bgpd.peers()[name]["last_error"] for name in names),
        what="they are too far away",
        report=net.report,
    )
    steady(lambda: not any(ground.bgpd.established(name) for name in names), 0.5, "kept out")
    configure(2)
    ground.bgpd.wait_established(*names)
    assert one.established("v4") and one.established("v6") and two.established("v4")


def test_ttl_security_of_one_side_only(net: Net) -> None:
    """BIRD without it answers a handshake with TTL 255, and sends TTL 1: nothing of that comes in."""
    ground = Ground(net, [])
    near = net.namespace("near")
    net.join(ground.switch, near, "port2", ["10.9.0.2/24", "fd09::2/64"])
    config = f"protocol device {{}} protocol bgp v4 {{ local as 65001; neighbor 10.9.0.1 as {ASN}; {TIMERS} %s {V4} }}"
    bird = Bird(near, config % "", "10.9.0.2").start()
    ground.bgpd.write("peers", bgp_peer("near", "10.9.0.2", 65001, ttlSecurity=1))
    ground.bgpd.start()
    ground.bgpd.wait(lambda: ground.bgpd.peers()[BIRDS[0]]["state"] == "open_sent", "TCP is connected")
    steady(lambda: not ground.bgpd.established(), 1, "BIRD's OPEN does not come in")
    bird.configure(config % "ttl security on;")
    ground.bgpd.wait_established()
