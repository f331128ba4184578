"""What reads what others wrote, each as a function of octets, with examples to begin from.

A mutation of an example goes in, and nothing may come out but the error that the reader is said to raise.
``test_inputs`` runs a bounded number of them, and ``make fuzz`` goes on.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from unittest import mock

from bgpd.bfd.packet import Refused, decode
from bgpd.bfd.session import Session as BfdSession
from bgpd.bgp.wire.exa.messages import KEEPALIVE_MESSAGE, ProtocolError
from bgpd.bgp.wire.exa.open import encode_open
from bgpd.bgp.wire.update import HEADER, MAX_MESSAGE, Decoder, encode_announcements
from bgpd.cni import request, spec
from bgpd.config.config import Config
from bgpd.config.reading import ConfigError, parse, parse_bfd
from bgpd.config.yaml import load_documents
from bgpd.datastore import documents
from bgpd.datastore.calico.decode import decode as decode_resource
from bgpd.datastore.etcd import client as etcd
from bgpd.datastore.etcd.feeds import EtcdFeed
from bgpd.datastore.etcd.layout import Keys
from bgpd.datastore.kubernetes import feeds, kinds
from bgpd.datastore.kubernetes.client import Access, KubernetesClient
from bgpd.datastore.kubernetes.pieces import ListPieces
from bgpd.datastore.objects import Objects
from bgpd.datastore.trouble import Trouble
from bgpd.model.bfd import BfdTiming
from bgpd.model.route import Announce, RibEvent
from bgpd.rules.originate import originate
from bgpd.rules.peering import peers
from bgpd.rules.policy import route_policy
from bgpd.rules.services import services
from tests.hostile.test_mutations import update, valid, watch
from tests.unit.test_session import OPEN, accept, make
from tests.unit.test_wire import make_peer

OWN = "worker1"
CORPUS = Path(__file__).with_name("corpus")
"""By reader: what broke one once."""


class Reader(NamedTuple):
    """One way in."""

    read: Callable[[bytes], None]
    examples: tuple[bytes, ...]
    text: bool = True
    """Whether it is JSON or YAML: then examples are changed by their structure too."""


# What peers send.

INSIDE, OUTSIDE = make_peer(), make_peer(asn=65001)
UPDATES = tuple(update(Random(seed))[19:] for seed in range(40))


def read_update(data: bytes) -> None:
    """The body of an UPDATE, from inside and from outside, twice: the second time the attributes are known."""
    if not 4 <= len(data) <= MAX_MESSAGE - HEADER:
        return  # the framer has its word before
    for peer in (INSIDE, OUTSIDE):
        decoder = Decoder(peer)
        for _ in range(2):
            events: list[RibEvent] = []
            try:
                decoder.decode(data, events)
            except ProtocolError as error:
                assert error.notification.code == 3
            for said in events:
                if isinstance(said, Announce):
                    passed_on(said)
        assert (decoder.cache.held.octets > 0) == bool(decoder.cache.young or decoder.cache._old)


def passed_on(said: Announce) -> None:
    """What we would pass on of it to an internal peer is well formed, where there is room for it."""
    attributes = replace(said.path.attributes, local_pref=1)
    try:
        messages = encode_announcements(said.family, attributes, said.path.next_hop, said.prefixes, asn4=True)
    except ValueError:
        return
    events: list[RibEvent] = []
    for octets in messages:
        Decoder(INSIDE).decode(octets[19:], events)
    assert all(isinstance(each, Announce) for each in events)


def read_stream(data: bytes) -> None:
    """A session, from its OPEN on, with whatever comes then."""
    session = make()
    connection = accept(session)
    session.receive(connection, encode_open(OPEN) + KEEPALIVE_MESSAGE, 0.0)
    for start in range(0, len(data), 37):
        session.receive(connection, data[start : start + 37], 1.0)
        while session.work_due:
            session.work(1.0)
        watch(session)
    session.tick(1.5)
    session.tcp_lost(connection, "the end", 2.0)
    watch(session)
    assert connection.closure is not None


STREAMS = tuple(valid(Random(seed)) + valid(Random(seed + 1)) for seed in range(40))


# Resource files, and all that is decided by them.

RESOURCES: tuple[dict[str, Any], ...] = (
    {
        "apiVersion": "projectcalico.org/v3",
        "kind": "Node",
        "metadata": {"name": OWN, "labels": {"rack": "r1"}, "annotations": {"a": "b"}},
        "spec": {
            "bgp": {
                "ipv4Address": "10.0.1.30/24",
                "ipv6Address": "fd00::30/64",
                "asNumber": 64512,
                "routeReflectorClusterID": "224.0.0.1",
            },
            "ipv4VXLANTunnelAddr": "10.48.0.1",
            "wireguard": {"interfaceIPv4Address": "10.48.0.2"},
        },
    },
    {
        "apiVersion": "projectcalico.org/v3",
        "kind": "IPPool",
        "metadata": {"name": "default"},
        "spec": {
            "cidr": "10.48.0.0/16",
            "blockSize": 26,
            "ipipMode": "CrossSubnet",
            "natOutgoing": True,
            "nodeSelector": "all()",
            "disableBGPExport": False,
            "allowedUses": ["Workload"],
        },
    },
    {
        "apiVersion": "projectcalico.org/v3",
        "kind": "BGPPeer",
        "metadata": {"name": "tor", "annotations": {"bgpd/bfd": "{min_tx: 300ms}"}},
        "spec": {
            "peerIP": "192.0.2.1:1179",
            "asNumber": "64512.1",
            "nodeSelector": "rack == 'r1'",
            "password": {"secretKeyRef": {"name": "bgp", "key": "tor"}},
            "maxRestartTime": "60s",
            "filters": ["one"],
            "ttlSecurity": 1,
            "reachableBy": "10.0.1.1",
            "keepaliveTime": "10s",
        },
    },
    {
        "apiVersion": "projectcalico.org/v3",
        "kind": "BGPFilter",
        "metadata": {"name": "one"},
        "spec": {
            "exportV4": [
                {
                    "action": "Accept",
                    "matchOperator": "In",
                    "cidr": "10.48.0.0/16",
                    "prefixLength": {"min": 24, "max": 28},
                    "source": "RemotePeers",
                    "interface": "eth*",
                }
            ],
            "importV6": [
                {
                    "action": "Accept",
                    "communities": {"values": ["65000:1"]},
                    "asPathPrefix": [65001],
                    "operations": [{"addCommunity": {"value": "65000:1:2"}}, {"setPriority": {"value": 5}}],
                }
            ],
        },
    },
    {
        "apiVersion": "projectcalico.org/v3",
        "kind": "BGPConfiguration",
        "metadata": {"name": "default"},
        "spec": {
            "asNumber": 64512,
            "nodeToNodeMeshEnabled": True,
            "listenPort": 179,
            "serviceClusterIPs": [{"cidr": "10.96.0.0/12"}],
            "communities": [{"name": "c", "value": "65000:7"}],
            "prefixAdvertisements": [{"cidr": "10.48.0.0/16", "communities": ["c"]}],
            "ignoredInterfaces": ["docker*"],
            "bindMode": "NodeIP",
            "logSeverityScreen": "Info",
            "ipv4NormalRoutePriority": 1024,
            "programClusterRoutes": "Enabled",
        },
    },
    {
        "apiVersion": "crd.projectcalico.org/v1",
        "kind": "BlockAffinity",
        "metadata": {"name": "worker1-10-48-0-0-26"},
        "spec": {"cidr": "10.48.0.0/26", "node": OWN, "state": "confirmed", "deleted": "false"},
    },
    {
        "apiVersion": "crd.projectcalico.org/v1",
        "kind": "IPAMBlock",
        "metadata": {"name": "10-48-0-0-26"},
        "spec": {
            "cidr": "10.48.0.0/26",
            "affinity": "host:worker1",
            "allocations": [0, None, 0],
            "unallocated": [1, 3],
            "attributes": [
                {"handle_id": "h", "secondary": {"node": "worker2", "pod": "p", "namespace": "n"}}
            ],
            "sequenceNumber": 7,
            "sequenceNumberForAllocation": {"0": 7},
            "strictAffinity": False,
        },
    },
    {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "bgp", "namespace": "kube-system"},
        "data": {"tor": "c2VjcmV0"},
    },
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "default", "annotations": {}},
        "spec": {
            "type": "LoadBalancer",
            "clusterIP": "10.96.0.9",
            "clusterIPs": ["10.96.0.9", "fd00:96::9"],
            "externalIPs": ["192.0.2.9"],
            "externalTrafficPolicy": "Local",
            "loadBalancerIP": "192.0.2.7",
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.8"}]}},
    },
    {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "web-1",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "web"},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.48.0.3"], "conditions": {"ready": True}, "nodeName": OWN}],
    },
)
GOOD = b"\n---\n".join(json.dumps(each).encode() for each in RESOURCES)


def read_resources(data: bytes) -> None:
    """A file of resources is decided by, beside a good one; and what was good stays when it cannot be read."""
    objects = Objects(OWN)
    for name, octets in (("good.yaml", GOOD), ("other.yaml", data)):
        parsed = documents.parse(name, octets, {})
        objects.put(name, parsed.objects, parsed.failures, parsed.whole)
    objects.settle(1.0, True)
    decided(objects)
    bad = documents.parse("good.yaml", data, {})
    objects.put("good.yaml", bad.objects, bad.failures, bad.whole)
    objects.settle(2.0, True)
    if not bad.whole and bad.objects == ():
        snapshot = objects.snapshot()
        assert OWN in snapshot.nodes and "default" in snapshot.pools, "what was good is lost"
    decided(objects)


def decided(objects: Objects) -> None:
    snapshot, config = objects.snapshot(), Config(node=OWN)
    peering = peers(snapshot, OWN, config)
    of_services = services(snapshot, OWN)
    policy = route_policy(snapshot, OWN, config, peering, of_services)
    originate(snapshot, {}, OWN, False, policy, None, of_services)
    str(objects.status("files", 0))


# This node's configuration.

CONFIG = b"""
node: worker1
router_id: hash
datastore: {type: files, path: /etc/bgpd/resources}
bgp:
  listen: [0.0.0.0, "::"]
  memory_limit: 512MiB
  defaults: {hold_time: 9, bfd: {min_tx: 300ms}}
  peers: {192.0.2.1: {families: [ipv4, ipv6], max_prefixes: 5}}
  listen_ranges: [{prefix: 192.0.2.0/24, asns: [65010], hold_time: 9}]
kernel: {nexthop_ids: {first: 0x62600000, last: 0x626fffff}}
metrics: {listen: "127.0.0.1:9179"}
log: {level: info}
"""


_EXAMPLE = Path(__file__).parents[2] / "config" / "bgpd.yaml"
WHOLE_CONFIG: dict[str, Any] = load_documents(
    re.sub(r"^( *)#(?! )", r"\1", _EXAMPLE.read_text(), flags=re.MULTILINE), "bgpd.yaml"
)[0].value
"""Every key, with its default; and what has none."""
WHOLE_CONFIG["bgp"] |= {
    "defaults": {**WHOLE_CONFIG["bgp"]["defaults"], "families": ["ipv4"], "password_file": "/etc/a"},
    "peers": {"tor": {"bfd": {"min_tx": "300ms", "multiplier": 3}, "max_prefixes": 5}},
    "listen_ranges": [{"prefix": "192.0.2.0/24", "asns": [65010], "hold_time": 9}],
}


def read_config(data: bytes) -> None:
    try:
        found = parse(data, "bgpd.yaml")
    except ConfigError as error:
        assert error.problems and "bgpd.yaml" in str(error)
    else:
        assert parse(data, "bgpd.yaml") == found


def read_bfd_words(data: bytes) -> None:
    try:
        parse_bfd(data.decode("utf-8", "surrogateescape"))
    except ValueError as error:
        assert str(error)


# BFD.

PACKETS = (
    bytes.fromhex("20c80318 00000001 00000000 000f4240 000f4240 00000000"),
    bytes.fromhex("20480318 00000009 00000001 000493e0 000493e0 00000000"),
    bytes.fromhex("20e80318 00000009 00000001 000493e0 000493e0 00000000"),
    bytes.fromhex("20000318 00000009 00000001 000493e0 000493e0 00000000"),
)


def read_bfd(data: bytes) -> None:
    """Packets one after the other, of 24 octets each and what is left, at a session that lives."""
    session = BfdSession(BfdTiming(300_000, 300_000, 3), 1, Random(1), 0.0)
    now = 0.0
    for start in range(0, len(data) + 1, 24):
        now += 0.1
        try:
            packet = decode(data[start : start + 24])
        except Refused as refused:
            assert str(refused)
        else:
            session.receive(packet, now)
        session.tick(now)
        for sent in session.packets_to_send():
            assert sent.my_discriminator
        session.changes()
        deadline = session.next_deadline()
        assert deadline is None or deadline > now - 1.0


# etcd's JSON gateway.

ETCD = (
    b'{"header":{"revision":"9"},"kvs":[{"key":"L2NhbGljbw==","value":"e30=","mod_revision":"5"}],"more":true}',
    b'{"result":{"header":{"revision":"9"},"watch_id":"1","created":true}}',
    b'{"result":{"header":{"revision":"9"},"watch_id":"1","events":[{"kv":{"key":"L2NhbGljby9yZXNvdXJjZXMvdjMvcHJvamVjdGNhbGljby5vcmcvaXBwb29scy9h","value":"eyJzcGVjIjp7fX0=","mod_revision":"8"}},{"type":"DELETE","kv":{"key":"YQ=="}}]}}',
    b'{"result":{"header":{"revision":"9"},"canceled":true,"compact_revision":"7"}}',
    b'{"error":{"grpc_code":8,"code":8,"message":"etcdserver: too many requests"}}',
)


def read_etcd(data: bytes) -> None:
    """One answer, as an answer to a read and as a line of a watch."""
    feed = EtcdFeed(None, Keys("/calico"), [])  # type: ignore[arg-type]  # what it reads is given to it
    for made in (
        lambda: etcd.range_of(etcd._loads(data, "etcd"))[1],
        lambda: etcd._events(etcd._loads(data, "etcd")).puts_and_deletes,
    ):
        try:
            for each in made():
                event = feed._event(each)
                value = getattr(event, "document", None)
                if isinstance(value, dict):
                    list(decode_resource(value, "etcd"))
        except Trouble as trouble:
            assert str(trouble)
    etcd._trouble(200, etcd._or_text(data))


# The Kubernetes API.

KUBERNETES = tuple(json.dumps(each).encode() for each in RESOURCES)


def watch_lines() -> tuple[bytes, ...]:
    lines = [{"type": "ADDED", "object": each} for each in RESOURCES]
    lines.append(
        {
            "type": "BOOKMARK",
            "object": {
                "metadata": {"resourceVersion": "9", "annotations": {"k8s.io/initial-events-end": "true"}}
            },
        }
    )
    lines.append(
        {"type": "ERROR", "object": {"code": 410, "message": "too old", "details": {"retryAfterSeconds": 1}}}
    )
    lines.append(
        {"type": "DELETED", "object": {"metadata": {"name": "a", "namespace": "b", "resourceVersion": "9"}}}
    )
    return tuple(json.dumps(line).encode() for line in lines)


ALL_KINDS = [value for value in vars(kinds).values() if isinstance(value, kinds.Kind)]


def read_watch(data: bytes) -> None:
    client = KubernetesClient(Access())
    source: Any = mock.Mock(node=OWN)
    try:
        line = client._event(data)
    except Trouble as trouble:
        assert str(trouble)
        return
    for kind in ALL_KINDS:
        feed = feeds.KindFeed(source, kind, "")
        for event in feed._events([line], "projectcalico.org/v3"):
            document = getattr(event, "document", None)
            if isinstance(document, dict):
                list(decode_resource(document, "kubernetes"))


def read_list(data: bytes) -> None:
    for size in (7, 1 << 20):
        pieces = ListPieces()
        try:
            for start in range(0, len(data), size):
                assert all(isinstance(item, dict) for item in pieces.feed(data[start : start + size]))
            pieces.feed(b"", last=True)
        except (ValueError, RecursionError):
            pass


LIST = json.dumps({"kind": "List", "items": RESOURCES, "metadata": {"resourceVersion": "9"}}).encode()


# CNI.

CNI = json.dumps(
    {
        "cniVersion": "1.0.0",
        "name": "k8s-pod-network",
        "type": "bgpd",
        "ipam": {"type": "bgpd-ipam", "assign_ipv4": "true", "ipv4_pools": ["10.48.0.0/16"]},
        "nodename": OWN,
        "runtimeConfig": {
            "ips": ["10.48.0.9"],
            "io.kubernetes.cri.pod-annotations": {"cni.projectcalico.org/ipv4pools": '["a"]'},
        },
        "args": {"cni": {"ips": ["10.48.0.9"], "annotations": {}}},
        "prevResult": {"ips": [{"address": "10.48.0.9/32"}]},
        "cni.dev/valid-attachments": [{"containerID": "c", "ifname": "eth0"}],
    }
).encode()
ENVIRONMENT: Mapping[str, str] = {
    "CNI_CONTAINERID": "abc",
    "CNI_IFNAME": "eth0",
    "CNI_NETNS": "/run/netns/x",
    "CNI_PATH": "/opt/cni/bin",
    "CNI_ARGS": "K8S_POD_NAME=p;K8S_POD_NAMESPACE=n",
}


def read_cni(data: bytes) -> None:
    with mock.patch.dict(os.environ, ENVIRONMENT):
        for verb in spec.NEEDED:
            try:
                text = data.decode("utf-8", "replace")
                config = spec._decoded(text)
                version = str(config.get("cniVersion") or "0.2.0")
                request.order(spec._call(verb, config, version, text))
            except spec.Failed as failed:
                assert failed.code and failed.message


READERS: Mapping[str, Reader] = {
    "update": Reader(read_update, UPDATES, text=False),
    "session": Reader(read_stream, STREAMS, text=False),
    "resources": Reader(read_resources, (*KUBERNETES, LIST)),
    "config": Reader(read_config, (CONFIG, json.dumps(WHOLE_CONFIG).encode())),
    "bfd words": Reader(read_bfd_words, (b"{min_tx: 300ms, min_rx: 1s, multiplier: 3, multihop: true}",)),
    "bfd": Reader(read_bfd, (b"".join(PACKETS), *PACKETS), text=False),
    "etcd": Reader(read_etcd, ETCD),
    "kubernetes watch": Reader(read_watch, watch_lines()),
    "kubernetes list": Reader(read_list, (LIST,)),
    "cni": Reader(read_cni, (CNI,)),
}

# What a hostile writer makes of an example.

NASTY: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    2**70,
    1.5,
    -0.0,
    1e300,
    "",
    " ",
    "\x00",
    "\ud800",
    "a" * 300,
    "all(",
    "10.0.0.0/33",
    "::/0",
    "0.0.0.0/0",
    "255.255.255.255/32",
    "fe80::1%eth0",
    "1.2.3.4:99999",
    "-1s",
    "9" * 30,
    "[]",
    "{}",
    "~",
    "%",
    "/",
    "/\x00",
    ":",
    "[]:1",
    "1:2:3",
    "a in (",
    "1.2.3.4%",
    "\u0661",
    [],
    {},
    [[]],
    [None],
    [{}],
    {"": None},
    {"a": {"b": {}}},
    ["a", "a"],
    [0] * 70,
)


def places_of(value: Any) -> list[tuple[Any, Any]]:
    """Each place of a JSON value: what it is in, and its key or index there."""
    places: list[tuple[Any, Any]] = []

    def walk(each: Any) -> None:
        if isinstance(each, dict):
            places.extend((each, key) for key in each)
            for below in each.values():
                walk(below)
        elif isinstance(each, list):
            places.extend((each, place) for place in range(len(each)))
            for below in each:
                walk(below)

    walk(value)
    return places


def anything_at_each_place(value: Any) -> Iterator[Any]:
    """The value with each of its places replaced by each nasty one in turn."""
    copy = deepcopy(value)
    for container, key in places_of(copy):
        good = container[key]
        for nasty in NASTY:
            container[key] = deepcopy(nasty)
            yield copy
        container[key] = good


def changed(value: Any, random: Random) -> Any:
    """A JSON value with one place of it replaced, removed, doubled or moved."""
    places = places_of(value)
    if not places:
        return deepcopy(random.choice(NASTY))
    container, key = random.choice(places)
    what = random.randrange(6)
    if what < 3:
        container[key] = deepcopy(random.choice(NASTY))
    elif what == 3:
        del container[key]
    elif what == 4 and isinstance(container, dict):
        container[random.choice([key + "x", "", "metadata", "spec", "kind", "__proto__"])] = deepcopy(
            container[key]
        )
    else:
        other, there = random.choice(places)
        container[key] = deepcopy(other[there])
    return value


def mutated(reader: Reader, random: Random) -> bytes:
    """An example, changed by its structure or by its octets."""
    data = random.choice(reader.examples)
    if reader.text and random.random() < 0.7:
        try:
            value = json.loads(data)
        except ValueError:
            value = None
        if value is not None:
            for _ in range(random.choice([1, 1, 2, 4])):
                try:
                    value = changed(value, random)
                except (KeyError, IndexError, ValueError):
                    continue
            return json.dumps(value, ensure_ascii=random.random() < 0.8).encode("utf-8", "surrogatepass")
    octets = bytearray(data)
    for _ in range(random.choice([1, 1, 2, 8])):
        place = random.randrange(len(octets) + 1)
        what = random.randrange(6)
        if what == 0:
            octets[place : place + 1] = bytes((random.randrange(256),))
        elif what == 1:
            del octets[place : place + random.randint(1, 9)]
        elif what == 2:
            octets[place:place] = random.choice(
                [
                    b"[",
                    b"{",
                    b"]",
                    b"}",
                    b":",
                    b",",
                    b'"',
                    b"\n",
                    b"&a ",
                    b"*a ",
                    b"- ",
                    b"!!",
                    b"\0",
                    b"\xff",
                    b"\t",
                    b"%",
                    b"|",
                ]
            )
        elif what == 3:
            octets[place:place] = octets[place : place + random.randint(1, 64)]
        elif what == 4:
            del octets[place:]
        else:
            octets[place:place] = random.choice(
                [b"[" * 2000, b"9" * 5000, b"a" * 5000, b"\n---\n", b"\xed\xa0\x80", b"\\ud800"]
            )
        if not octets:
            break
    return bytes(octets)
