"""BGPConfiguration, BGPPeer and the Secret that holds their passwords (calico.md §4.2, §4.3, §5). For ``decode``.

A wrong field makes the object bad, and its last good version stands. In the lists of BGPConfiguration a wrong entry
costs itself only: a mistyped community must not take the cluster's AS away. Which fields go together is judged in
``rules.peering``.
"""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from typing import Literal

from bgpd.config.reading import parse_bfd
from bgpd.datastore.calico.fields import Fields, as_text, plain_address
from bgpd.model.bfd import BfdOptions
from bgpd.model.prefix import Address, Family, family_of, parse_address
from bgpd.model.resources import (
    BGPConfiguration,
    BGPPeer,
    ClusterRoutes,
    Community,
    NextHopMode,
    PrefixAdvertisement,
    Secret,
    SecretKey,
    ServiceRange,
)
from bgpd.rules.communities import parse_community

_RESTART_TIME = 4095
"""The most seconds that the twelve bits of RFC 4724 §3 hold."""
_HOLD_TIME = 65535
_INTERFACE_NAME = 15
"""Characters of an interface's name, at most (Linux)."""

# -- BGPConfiguration --------------------------------------------------------------------------------------------------

_OF_A_NODE = ("listenPort", "bindMode", "logSeverityScreen", "prefixAdvertisements", "communities")
_OF_THE_CLUSTER = (
    "asNumber nodeToNodeMeshEnabled nodeMeshPassword nodeMeshMaxRestartTime ignoredInterfaces "
    "localWorkloadPeeringIPV4 localWorkloadPeeringIPV6 programClusterRoutes ipv4NormalRoutePriority "
    "ipv6NormalRoutePriority serviceClusterIPs serviceExternalIPs serviceLoadBalancerIPs "
    "serviceLoadBalancerAggregation"
)


def configuration(name: str, fields: Fields) -> BGPConfiguration:
    spec = fields.section("spec")
    spec.known(f"{' '.join(_OF_A_NODE)} {_OF_THE_CLUSTER}")
    of_a_node = BGPConfiguration(
        name,
        listen_port=spec.integer("listenPort", 1, 65535),
        bind_mode_node_ip=spec.option("bindMode", {"None": False, "NodeIP": True}),
        log_severity_screen=spec.words("logSeverityScreen") or None,
        prefix_advertisements=_advertisements(spec),
    )
    if name.startswith("node."):
        for key in _OF_THE_CLUSTER.split():
            if spec.get(key) not in (None, [], {}):
                spec.note(key, "has effect in BGPConfiguration default only: ignored")
        return of_a_node
    if name != "default":
        fields.note("metadata.name", "only default and node.NAME have effect: ignored")
    aggregation = spec.option("serviceLoadBalancerAggregation", {"Enabled": True, "Disabled": False})
    return replace(
        of_a_node,
        as_number=spec.asn("asNumber"),
        node_to_node_mesh_enabled=spec.flag("nodeToNodeMeshEnabled"),
        node_mesh_password=_secret_key(spec, "nodeMeshPassword"),
        node_mesh_max_restart_time=spec.duration("nodeMeshMaxRestartTime", _RESTART_TIME),
        ignored_interfaces=_interfaces(spec),
        local_workload_peering_ipv4=spec.address("localWorkloadPeeringIPV4", Family.IPV4),
        local_workload_peering_ipv6=spec.address("localWorkloadPeeringIPV6", Family.IPV6),
        program_cluster_routes=_cluster_routes(spec),
        ipv4_normal_route_priority=spec.integer("ipv4NormalRoutePriority", 1, 2147483646),
        ipv6_normal_route_priority=spec.integer("ipv6NormalRoutePriority", 1, 2147483646),
        service_cluster_ips=_ranges(spec, "serviceClusterIPs"),
        service_external_ips=_ranges(spec, "serviceExternalIPs"),
        service_load_balancer_ips=_ranges(spec, "serviceLoadBalancerIPs"),
        service_load_balancer_aggregation=aggregation is not False,
    )


def _advertisements(spec: Fields) -> tuple[PrefixAdvertisement, ...] | None:
    """``prefixAdvertisements`` with the names of ``communities`` resolved; ``None`` when unset."""
    named: dict[str, Community | None] = {}
    """``None``: wrong, and reported once."""

    def name(entry: Fields) -> None:
        text = entry.required("name")
        if text in named:
            entry.bad("name", f"{text!r} is there more than once")
        named[text] = None
        entry.required("value")
        named[text] = entry.parsed("value", parse_community)

    def community(entry: Fields, at: str, value: object) -> Community | None:
        try:
            text = as_text(value)
            return named[text] if text in named else parse_community(text if text is not None else value)
        except ValueError as error:
            entry.note(at, f"{error}, nor a name in communities; left out")
            return None

    def advertisement(entry: Fields) -> PrefixAdvertisement:
        family, cidr = entry.block()
        found = (community(entry, at, value) for at, value in entry.entries("communities"))
        return PrefixAdvertisement(family, cidr, tuple(dict.fromkeys(c for c in found if c is not None)))

    spec.each_good("communities", name)
    advertisements = spec.each_good("prefixAdvertisements", advertisement)
    if named and not advertisements:
        spec.note("communities", "has no effect without prefixAdvertisements")
    return advertisements


def _interfaces(spec: Fields) -> tuple[str, ...] | None:
    if spec.get("ignoredInterfaces") is None:
        return None
    found = []
    for at, entry in spec.entries("ignoredInterfaces"):
        if text := as_text(entry):
            found.append(text)
        else:
            spec.note(at, f"expected a pattern such as eth*, not {entry!r}; left out")
    return tuple(found)


def _cluster_routes(spec: Fields) -> ClusterRoutes | None:
    """A value that a later Calico may know is no reason to lose the rest: it counts as unset there, and here."""
    value = spec.get("programClusterRoutes")
    known = {mode.value: mode for mode in ClusterRoutes}
    if value is None or (isinstance(value, str) and value in known):
        return known[value] if value else None
    spec.note(
        "programClusterRoutes", f"expected one of {', '.join(known)}, not {value!r}; as if it was unset"
    )
    return None


def _ranges(spec: Fields, key: str) -> tuple[ServiceRange, ...]:
    return spec.each_good(key, lambda entry: ServiceRange(*entry.block())) or ()


# -- BGPPeer -----------------------------------------------------------------------------------------------------------


def peer(name: str, fields: Fields) -> BGPPeer:
    spec = fields.section("spec")
    spec.known(
        "node nodeSelector peerIP peerSelector asNumber localASNumber keepOriginalNextHop nextHopMode password "
        "sourceAddress maxRestartTime keepaliveTime numAllowedLocalASNumbers ttlSecurity reachableBy filters "
        "localWorkloadSelector reversePeering"
    )
    address, zone, port = spec.parsed("peerIP", _peer_address) or (None, None, None)
    reachable_by = spec.address("reachableBy")
    if reachable_by is not None and address is not None and len(reachable_by) != len(address):
        spec.bad("reachableBy", f"expected a gateway of {family_of(address).label}, as peerIP is")
    return BGPPeer(
        name,
        node=spec.text("node"),
        node_selector=spec.text("nodeSelector"),
        peer_ip=address,
        peer_interface=zone,
        peer_port=port,
        peer_selector=spec.text("peerSelector"),
        local_workload_selector=spec.text("localWorkloadSelector"),
        as_number=spec.asn("asNumber", zero_is_unset=True),
        reverse=spec.option("reversePeering", {"Auto": True, "Manual": False}) is not False,
        local_as_number=spec.asn("localASNumber", zero_is_unset=True),
        next_hop_mode=_next_hop_mode(spec),
        password=_secret_key(spec, "password"),
        use_node_ip=spec.option("sourceAddress", {"UseNodeIP": True, "None": False}) is not False,
        max_restart_time=spec.duration("maxRestartTime", _RESTART_TIME),
        keepalive_time=spec.duration("keepaliveTime", _HOLD_TIME) or None,
        num_allowed_local_as_numbers=spec.integer("numAllowedLocalASNumbers", 0, 2147483647) or 0,
        ttl_security=spec.integer("ttlSecurity", 0, 255) or None,
        reachable_by=reachable_by,
        filters=spec.texts("filters"),
        bfd=_bfd(fields.mapping("metadata").mapping("annotations")),
    )


BFD = "bgpd/bfd"
"""Our annotation: Calico's API has no field for BFD."""


def _bfd(annotations: Fields) -> BfdOptions | Literal[False] | None:
    """What is wrong with it costs the peer its BFD, not its session."""
    if annotations.data.get(BFD) is None:
        return None
    try:
        return parse_bfd(annotations.words(BFD)) or False
    except ValueError as error:
        annotations.note(BFD, f"{error}: ignored")
        return None


def _next_hop_mode(spec: Fields) -> NextHopMode:
    modes = {"Auto": NextHopMode.AUTO, "Self": NextHopMode.SELF, "Keep": NextHopMode.KEEP}
    mode = spec.option("nextHopMode", modes)
    keep = spec.flag("keepOriginalNextHop", False)
    if mode is None:
        return NextHopMode.KEEP_EBGP if keep else NextHopMode.AUTO
    if keep:
        spec.note("keepOriginalNextHop", "nextHopMode is set: ignored")
    return mode


def _peer_address(text: str) -> tuple[Address, str | None, int | None]:
    """Address, zone and port of ``ip``, ``ip:port``, ``[v6]:port``; a link-local one is ``fe80::1%eth0`` (RFC 4007)."""
    match = re.fullmatch(r"\[([^]]*)\](?::([0-9]{1,5}))?|([0-9.]+):([0-9]{1,5})", text)
    host, port = (text, None) if match is None else (match[1] or match[3] or "", match[2] or match[4])
    host, percent, zone = host.partition("%")
    try:
        parse_address(host)
        if port is not None and not 1 <= int(port) <= 65535:
            raise ValueError
    except ValueError:
        examples = "192.0.2.1, 192.0.2.1:179 or [2001:db8::1]:179"
        raise ValueError(f"{text!r} is not an address such as {examples}") from None
    address = plain_address(host)
    if not any(address) or address[0] == 0xFF or (len(address) == 4 and address[0] >= 224):
        raise ValueError(f"{text!r} is nobody's address")
    if (len(address) == 16 and address[0] == 0xFE and address[1] & 0xC0 == 0x80) != bool(percent):
        link_local = "only a link-local address has an" if percent else "a link-local address needs its"
        raise ValueError(f"{text!r}: {link_local} interface, as in fe80::1%eth0")
    if percent and not re.fullmatch(rf"[^\s/:%]{{1,{_INTERFACE_NAME}}}", zone):
        raise ValueError(f"{text!r}: {zone!r} is no interface's name")
    return address, zone or None, None if port is None else int(port)


# -- Secret ------------------------------------------------------------------------------------------------------------


def _secret_key(spec: Fields, key: str) -> SecretKey | None:
    """``secretKeyRef`` of a password."""
    password = spec.section(key)
    if not password.data:
        return None
    reference = password.section("secretKeyRef")
    return SecretKey(reference.required("name"), reference.required("key"))


def secret(name: str, fields: Fields) -> Secret:
    """Its values are shown to nobody: no problem says what stands there."""
    namespace = fields.section("metadata").text("namespace") or "default"
    data: dict[str, bytes] = {}
    encoded, plain = fields.section("data"), fields.section("stringData")
    for key, value in encoded.data.items():
        try:
            data[str(key)] = base64.b64decode(re.sub(r"\s", "", value or ""), validate=True)
        except (ValueError, TypeError):
            encoded.bad(str(key), "expected base64")
    for key, value in plain.data.items():
        text = "" if value is None else as_text(value)
        if text is None:
            plain.bad(str(key), "expected text")
        data[str(key)] = text.encode()
    return Secret(name, namespace, data)
