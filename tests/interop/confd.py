"""What Calico's confd renders for BIRD on a node, in the words of BIRD 2: the other half of a mixed mesh.

``bird_conf`` makes a node's configuration from the objects that bgpd reads, without any code of bgpd's, so that the two
can disagree. It knows the mesh, pools, block affinities and the ranges of services; BGPPeers and BGPFilters it does not
know, and IPIP pools only where Felix writes their routes (``krt_tunnel`` is of Calico's own BIRD 1.6).

Calico runs one BIRD a family; BIRD 2 has both in one process, so what the two call alike has the family's digit here.
Else BIRD 2 does otherwise than BIRD 1.6 in one thing that a node's routes show: a route whose metric changes is not
deleted first, and so the one at the old metric stays in the kernel; likewise it writes over another's IPv4 route.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from ipaddress import ip_interface, ip_network
from typing import Any, NamedTuple

Objects = Iterable[Mapping[str, Any]]
INT_MAX = 2147483647
NORMAL = 1024
"""The metric of a workload's route since 3.32."""


class Style(Enum):
    """How routes are ranked: by nothing, or by LOCAL_PREF that carries the kernel's metric."""

    BEFORE = "before 3.32"
    SINCE = "since 3.32"


class Timers(NamedTuple):
    """Seconds. Calico's, unless a test is in a hurry."""

    connect_delay: int = 2
    connect_retry: int = 5
    error_wait: tuple[int, int] = (5, 30)


class _Cluster:
    """The objects, as one of the nodes looks at one family of them."""

    def __init__(self, objects: Objects, node: str, version: int, style: Style) -> None:
        self.objects, self.node, self.version, self.style = list(objects), node, version, style
        default = [each for each in self.of("BGPConfiguration") if each["metadata"]["name"] == "default"]
        self.settings: Mapping[str, Any] = default[0]["spec"] if default else {}
        written = {Style.BEFORE: "Enabled", Style.SINCE: "EnabledNoEncapOnly"}[style]
        self.written = self.settings.get("programClusterRoutes", written)

    def of(self, kind: str) -> list[Mapping[str, Any]]:
        return [each for each in self.objects if each["kind"] == kind]

    def mine(self, cidr: str) -> bool:
        return ip_network(cidr).version == self.version

    def address(self, node: Mapping[str, Any]) -> str | None:
        """The BGP address of a Node, as Go writes it."""
        text = node["spec"].get("bgp", {}).get(f"ipv{self.version}Address")
        return str(ip_interface(text).ip) if text else None

    @property
    def own(self) -> Mapping[str, Any]:
        return next(each for each in self.of("Node") if each["metadata"]["name"] == self.node)

    def asn(self, node: Mapping[str, Any]) -> int:
        return int(node["spec"].get("bgp", {}).get("asNumber") or self.settings.get("asNumber", 64512))

    def blocks(self, *unless: str) -> list[str]:
        """Blocks that this node has an affinity for, but those in some states."""
        return [
            each["spec"]["cidr"]
            for each in self.of("BlockAffinity")
            if each["spec"]["node"] == self.node
            and each["spec"]["state"] not in unless
            and self.mine(each["spec"]["cidr"])
        ]

    def pools(self) -> list[Mapping[str, Any]]:
        return [each["spec"] for each in self.of("IPPool") if self.mine(each["spec"]["cidr"])]

    def services(self) -> list[str]:
        """The ranges of services that are announced whole."""
        ranges = [each["cidr"] for each in self.settings.get("serviceClusterIPs", ())]
        for field in ("serviceExternalIPs", "serviceLoadBalancerIPs"):
            cidrs = [each["cidr"] for each in self.settings.get(field, ())]
            ranges += [cidr for cidr in cidrs if not _is_host(cidr)]
        return [cidr for cidr in ranges if self.mine(cidr)]


def _is_host(cidr: str) -> bool:
    network = ip_network(cidr)
    return network.prefixlen == network.max_prefixlen


def bird_conf(objects: Objects, node: str, style: Style, timers: Timers | None = None) -> str:
    """The configuration of a node's BIRD, but the router id, which is the node's IPv4 address."""
    objects, timers = list(objects), timers or Timers()
    parts = [
        "protocol device { scan time 2; }",
        'protocol direct { ipv4; ipv6; interface -"cali*", -"kube-ipvs*", "*"; }',
    ]
    for version in (4, 6):
        cluster = _Cluster(objects, node, version, style)
        if cluster.address(cluster.own):
            parts += [_aggr(cluster), _ipam(cluster), _kernel(cluster), *_mesh(cluster, timers)]
    return "\n".join(parts)


def _aggr(cluster: _Cluster) -> str:
    """``bird_aggr.cfg``."""
    version, statics, rules = cluster.version, [], []
    for cidr in cluster.blocks("pending"):
        if not _is_host(cidr):  # it would stand where the workload's own route is
            statics.append(f"  route {cidr} blackhole;")
    statics += [f"  route {cidr} blackhole;" for cidr in cluster.services()]
    for cidr in cluster.blocks("pending", "pendingDeletion"):
        rules.append(f"  if net = {cidr} then accept;")
        if cluster.style is Style.SINCE:
            rules.append(f"  if net ~ {cidr} && rank < {NORMAL} then accept;")
        rules.append(f"  if net ~ {cidr} then reject;")
    return "\n".join(
        (
            f"protocol static static{version} {{",
            f"  ipv{version};",
            *statics,
            "}",
            f"function calico_aggr{version}(int rank) {{",
            *rules,
            "}",
        )
    )


def _ipam(cluster: _Cluster) -> str:
    """``bird_ipam.cfg``: what peers are sent, what is taken from them, and what the kernel gets."""
    version, since = cluster.version, cluster.style is Style.SINCE
    pools, services = cluster.pools(), cluster.services()
    export = [
        f"filter calico_export_to_bgp_peers{version}",
        "int rank;",
        "{",
        f"  rank = {NORMAL};",
    ]
    if since:
        export += [
            f"  if source = RTS_BGP then rank = {INT_MAX} - bgp_local_pref;",
            "  else {",
            "    if defined(krt_metric) then if krt_metric > 0 then rank = krt_metric;",
            f"    bgp_local_pref = {INT_MAX} - rank;",
            "  }",
        ]
    export += [f"  if net ~ {pool['cidr']} then reject;" for pool in pools if pool.get("disableBGPExport")]
    inside = ["*.cali", "*.calico"]
    if since and cluster.written not in ("Enabled", "EnabledIPIPOnly"):
        inside.append("tunl0")
    export += [f'  if ifname ~ "{pattern}" then reject;' for pattern in (*inside, "bpf*.cali")]
    export.append(f"  calico_aggr{version}(rank);")
    export += [f"  if net ~ {cidr} then accept;" for cidr in services]
    export += [
        f"  if net ~ {pool['cidr']} then accept;" for pool in pools if not pool.get("disableBGPExport")
    ]
    export += ["  reject;", "}"]

    taken = [f"filter calico_import{version} {{"]
    if since:
        elevated = f"bgp_local_pref > {INT_MAX - NORMAL}"
        taken.append(f"  if defined(bgp_local_pref) then if {elevated} then preference = 200;")
    taken += ["  accept;", "}"]

    kernel = [f"filter calico_kernel_programming{version} {{"]
    # Of addresses on interfaces: BIRD 1.6 leaves them to the kernel by itself.
    kernel.append("  if source = RTS_DEVICE then reject;")
    kernel += [f"  if net ~ {cidr} then reject;" for cidr in services]
    if since:
        kernel += [
            "  if source = RTS_BGP then {",
            f"    krt_metric = {NORMAL};",
            f"    if defined(bgp_local_pref) then krt_metric = {INT_MAX} - bgp_local_pref;",
            "  }",
        ]
    kernel += sorted(_placed(cluster, pool) for pool in pools)
    kernel += ["  accept;", "}"]
    return "\n".join((*export, *taken, *kernel))


def _placed(cluster: _Cluster, pool: Mapping[str, Any]) -> str:
    """Whose routes inside a pool are: BIRD's, or Felix's."""
    cidr, ipip, vxlan = pool["cidr"], pool.get("ipipMode", "Never"), pool.get("vxlanMode", "Never")
    if vxlan != "Never":
        return f"  if net ~ {cidr} then reject;"
    ours = "EnabledIPIPOnly" if ipip != "Never" else "EnabledNoEncapOnly"
    if cluster.written not in ("Enabled", ours):
        return f"  if net ~ {cidr} then reject;"
    if ipip != "Never":
        raise ValueError(f"{cidr}: BIRD 2 writes no routes over IPIP")
    return f"  if net ~ {cidr} then accept;"


def _kernel(cluster: _Cluster) -> str:
    # ``metric 0`` is BIRD 1.6's default; BIRD 2 would write 32 everywhere.
    version = cluster.version
    return (
        f"protocol kernel kernel{version} {{ learn; persist; scan time 2; metric 0; merge paths on; graceful restart;\n"
        f"  ipv{version} {{ import all; export filter calico_kernel_programming{version}; }}; }}"
    )


def _mesh(cluster: _Cluster, timers: Timers) -> Iterator[str]:
    """``bird.cfg``'s node-to-node mesh; of two nodes the one whose address is the greater *text* dials."""
    version, own = cluster.version, cluster.address(cluster.own)
    if own is None or "routeReflectorClusterID" in cluster.own["spec"].get("bgp", {}):
        return
    if cluster.settings.get("nodeToNodeMeshEnabled") is False:
        return
    port = cluster.settings.get("listenPort", 179)
    for other in cluster.of("Node"):
        address = cluster.address(other)
        if address in (None, own) or "routeReflectorClusterID" in other["spec"].get("bgp", {}):
            continue
        assert address is not None
        yield f"""protocol bgp {session(address)} {{
  local {own} port {port} as {cluster.asn(cluster.own)};
  neighbor {address} port {port} as {cluster.asn(other)};
  multihop; hold time 240; graceful restart on; graceful restart time 120; {"passive on;" if address > own else ""}
  connect delay time {timers.connect_delay}; connect retry time {timers.connect_retry};
  error wait time {timers.error_wait[0]}, {timers.error_wait[1]};
  ipv{version} {{ gateway recursive; add paths on;
    import filter calico_import{version}; export filter calico_export_to_bgp_peers{version}; }};
}}"""


def session(address: str) -> str:
    """The name of the mesh session with a node."""
    return f"Mesh_{address.replace('.', '_').replace(':', '_')}"
