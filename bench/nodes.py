"""The cases about a node among others: the latency of one change on a pair of nodes, and a mesh of a thousand.

Called by ``__main__``, as ``tables`` is.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import random
import socket
import struct
import time

import yaml

from bench.floors import NLM_F_CREATE
from bench.ground import LIMIT, at_rest, lags, until
from bench.injector import ASN, BLOCKS_PER_NODE, Speaker, dial, end_of_rib, nlri, update
from bench.kernel import (
    NLM_F_ACK,
    RTA_OIF,
    RTM_DELROUTE,
    RTM_NEWROUTE,
    Counter,
    Watch,
    acknowledged,
    netlink,
    route_message,
    socket_maker,
)
from bench.subjects import SUBJECTS, Bgpd, Bird, Neighbour, Node, Subject
from bench.work import Failed, Figures, Work
from testing import namespaces, resources

LATENCY_SAMPLES = 500
FILE_SAMPLES = 100
IDLE_SECONDS = 60


# Change latency.

WORKLOAD_POOL = "10.48.0.0/16"


async def latency(work: Work, name: str) -> Figures:
    """On an idle pair of nodes: a workload's host route appears on A, and vanishes, until B's kernel says so.

    For bgpd also: a block is claimed in A's resource files.
    """
    with namespaces.Net() as net:
        a, b, pod = net.namespace("a"), net.namespace("b"), net.namespace("pod")
        net.link(a, "ens5", b, "ens5")
        net.link(a, "cali0", pod, "eth0")
        a.address("ens5", "10.0.0.1/24")
        b.address("ens5", "10.0.0.2/24")
        pair = [
            SUBJECTS[name](
                namespace,
                Node({"ipv4": own}, (Neighbour(other, passive),), mesh=True, pool=WORKLOAD_POOL),
                label,
            )
            for namespace, label, own, other, passive in (
                (a, "node-a", "10.0.0.1/24", "10.0.0.2", True),
                (b, "node-b", "10.0.0.2/24", "10.0.0.1", False),
            )
        ]
        if isinstance(pair[0], Bgpd):
            _name_nodes(pair)
        for subject in pair:
            subject.start()
        cali = int(a.ip_json("link", "show", "cali0")[0]["ifindex"])
        with netlink(a.name) as workloads, contextlib.closing(Watch(b.name, "ipv4")) as watch:
            figures = await asyncio.to_thread(_host_routes, workloads, watch, cali)
            if isinstance(pair[0], Bgpd):
                figures |= await asyncio.to_thread(_files, pair[0], watch)
        return figures


def _name_nodes(pair: list[Subject]) -> None:
    """In a mesh of two every node must know the other by its own name, and its subnet."""
    nodes = [resources.node("node-a", "10.0.0.1/24"), resources.node("node-b", "10.0.0.2/24")]
    for subject in pair:
        assert isinstance(subject, Bgpd)
        subject.daemon.write(
            "resources", resources.bgp_configuration(ASN), resources.pool("pool", WORKLOAD_POOL), *nodes
        )


def _host_route(kind: int, address: bytes, cali: int) -> bytes:
    """What `ip route add ADDRESS dev cali0 scope link` sends, or the same with `del`."""
    tail = struct.pack("=HHI", 8, RTA_OIF, cali)
    flags = NLM_F_ACK | (NLM_F_CREATE if kind == RTM_NEWROUTE else 0)
    return route_message(kind, flags, 1, "ipv4", address, 32, tail, protocol=3, scope=253)


def _host_routes(workloads: socket.socket, watch: Watch, cali: int) -> Figures:
    appeared: list[float] = []
    vanished: list[float] = []
    chance = random.Random(1)
    for sample in range(-1, LATENCY_SAMPLES):
        address = bytes((10, 48, 1 + sample // 250 % 200, sample % 250 + 1))
        for kind, times in ((RTM_NEWROUTE, appeared), (RTM_DELROUTE, vanished)):
            before = time.monotonic()
            acknowledged(workloads, _host_route(kind, address, cali))
            # The first one also waits for the session.
            seen = watch.wait(kind, (address, 32), 30.0 if sample < 0 else 5.0)
            if seen is None:
                raise Failed(
                    f"the route of {ipaddress.ip_address(address)} did not {'come' if kind == RTM_NEWROUTE else 'go'}"
                )
            if sample >= 0:
                times.append((seen - before) * 1000)
            time.sleep(chance.uniform(0.004, 0.012))
    return {
        "appear_p50_ms": quantile(appeared, 0.5),
        "appear_p99_ms": quantile(appeared, 0.99),
        "vanish_p50_ms": quantile(vanished, 0.5),
        "vanish_p99_ms": quantile(vanished, 0.99),
    }


def _files(subject: Bgpd, watch: Watch) -> Figures:
    times: list[float] = []
    for sample in range(FILE_SAMPLES):
        network = ipaddress.ip_network((0x0A300000 + (200 << 8) + (sample << 6), 26))
        text = yaml.safe_dump(resources.affinity("node-a", str(network)))
        fresh = subject.daemon.resources / ".fresh"
        fresh.write_text(text)
        before = time.monotonic()
        os.rename(fresh, subject.daemon.resources / f"block{sample}.yaml")
        seen = watch.wait(RTM_NEWROUTE, (network.network_address.packed, 26))
        if seen is None:
            raise Failed(f"the block {network} did not come")
        times.append((seen - before) * 1000)
        time.sleep(0.03)
    return {"file_p50_ms": quantile(times, 0.5), "file_p99_ms": quantile(times, 0.99)}


def quantile(values: list[float], fraction: float) -> float:
    """The value under which a fraction of them lies (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]


# The mesh.


async def mesh(work: Work, name: str) -> Figures:
    """One daemon with N mesh peers of five blocks each: process start to all routes in the kernel; memory; idle cost;
    a new block until the last peer has heard of it.

    Half of the peers dial, half are dialled, as by the addresses of a real mesh. The new block is a BlockAffinity file
    for bgpd; for BIRD a blackhole in its kernel, which it learns: the shortest way that it has.
    """
    own = "10.0.100.1"
    half = work.size // 2
    below = [str(ipaddress.ip_address("10.0.0.10") + number) for number in range(half)]
    above = [str(ipaddress.ip_address("10.0.200.10") + number) for number in range(work.size - half)]
    assert max(below) < own < min(above), "as text, which is what decides who dials"
    addresses = below + above
    with namespaces.Net() as net:
        receiver, sender = net.namespace("rx"), net.namespace("tx")
        net.link(receiver, "ens5", sender, "ens5")
        receiver.address("ens5", f"{own}/16")
        mac = sender.ip_json("link", "show", "ens5")[0]["address"]
        batch = "".join(f"address add {address}/16 dev ens5\n" for address in addresses)
        sender.run("ip", "-batch", "-", input=batch)
        # The neighbour table of the machine is small (gc_thresh3): permanent entries do not count against it.
        batch = "".join(
            f"neighbour add {address} lladdr {mac} dev ens5 nud permanent\n" for address in addresses
        )
        receiver.run("ip", "-batch", "-", input=batch)
        neighbours = tuple(Neighbour(address, address in above) for address in addresses)
        node = Node({"ipv4": f"{own}/16"}, neighbours, mesh=True, pool=WORKLOAD_POOL)
        subject = SUBJECTS[name](receiver, node)
        assert isinstance(subject, Bgpd | Bird)
        make_socket = socket_maker(sender.name)
        heard: dict[str, float] = {}
        block = ipaddress.ip_network("10.48.7.64/26")
        wanted = b"\x1a" + block.network_address.packed

        def established(speaker: Speaker) -> None:
            number = addresses.index(speaker.address)
            blocks = nlri("ipv4", number * BLOCKS_PER_NODE, BLOCKS_PER_NODE)
            next_hop = ipaddress.ip_address(speaker.address).packed
            speaker.send(update(next_hop, blocks) + end_of_rib("ipv4"))

        def updated(speaker: Speaker, body: bytes) -> None:
            if wanted in body:
                heard[speaker.address] = time.monotonic()

        made: list[Speaker] = []

        def make_speaker() -> Speaker:
            made.append(Speaker("ipv4", on_established=established, on_update=updated))
            return made[-1]

        listening = make_socket(2, 1)
        listening.bind(("0.0.0.0", 179))
        server = await asyncio.get_running_loop().create_server(make_speaker, sock=listening, backlog=1024)
        counter = Counter(receiver.name, "ipv4")
        speakers: list[Speaker] = []
        try:
            start = time.monotonic()
            subject.launch()

            async def dial_all() -> None:
                # One tries until the daemon listens; then all come, but no more at once than BIRD's backlog takes: a
                # SYN that is dropped costs a second.
                speakers.append(await dial(make_socket, above[0], own, make_speaker))
                gate = asyncio.Semaphore(8)

                async def one(address: str) -> None:
                    async with gate:
                        speakers.append(await dial(make_socket, address, own, make_speaker))

                async with asyncio.TaskGroup() as group:
                    for address in above[1:]:
                        group.create_task(one(address))

            dialling = asyncio.create_task(dial_all())
            try:
                converged = await until(counter, work.size * BLOCKS_PER_NODE, subject, start)
                await dialling
            finally:
                dialling.cancel()
            await at_rest(subject, [])
            figures = {"converge_s": converged, "peak_mib": subject.memory(), **lags(subject)}

            if isinstance(subject, Bgpd):
                fresh = subject.daemon.resources / ".fresh"
                fresh.write_text(yaml.safe_dump(resources.affinity("this", str(block))))
                before = time.monotonic()
                os.rename(fresh, subject.daemon.resources / "block.yaml")
            else:
                before = time.monotonic()
                receiver.ip("route", "add", "blackhole", block, "proto", "static")
            while len(heard) < work.size:
                if time.monotonic() - before > LIMIT:
                    raise Failed(f"{len(heard)} of {work.size} peers heard of the new block")
                await asyncio.sleep(0.005)
            figures["announce_s"] = max(heard.values()) - before

            figures |= await _idle(subject)
            if isinstance(subject, Bgpd):
                figures |= await _upgrade(subject, made)
            return figures
        finally:
            counter.close()
            server.close()
            if name == "bgpd":
                subject.unprobe()
            for process in net.processes:
                if process.running:
                    process.kill()
            await asyncio.sleep(0.1)


async def _upgrade(subject: Bgpd, made: list[Speaker]) -> Figures:
    """From the start of the next process until it has heard all again; sessions that ended, UPDATEs that were sent."""
    alive = [one for one in made if one.established.done() and not one.closed.done()]
    updates = sum(one.updates for one in alive)
    start = time.monotonic()
    await asyncio.to_thread(subject.daemon.upgrade)
    await asyncio.to_thread(subject.daemon.wait_in_sync, LIMIT)
    return {
        "upgrade_s": time.monotonic() - start,
        "upgrade_lost_count": sum(one.closed.done() for one in alive),
        "upgrade_updates_count": sum(one.updates for one in alive) - updates,
    }


async def _idle(subject: Subject) -> Figures:
    """Processor time of ``IDLE_SECONDS`` in which nothing happens, and what is resident then."""
    await at_rest(subject, [])
    subject.unprobe()
    await asyncio.sleep(2.0)
    before, start = subject.cpu(), time.monotonic()
    await asyncio.sleep(IDLE_SECONDS)
    used = 100 * (subject.cpu() - before) / (time.monotonic() - start)
    return {"idle_cpu_percent": used, "idle_mib": subject.memory("VmRSS")}
