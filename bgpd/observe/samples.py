"""The metric families of one snapshot: names, help, labels and values, nothing else.

``metrics`` calls ``families`` at each scrape. Conventions: label ``peer`` is the bare address, never with a port;
``peer_name`` is the session's name, and together they are unique. ``afi`` is ``ipv4`` or ``ipv6``. Label sets that are
known beforehand start at zero, so that ``increase()`` sees the first event. A timestamp that has not come yet is 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import product
from typing import TypeVar

from bgpd.lean_import import lean_import
from bgpd.model.bfd import BfdReport, BfdState, BfdStatus
from bgpd.model.peer import DownReason
from bgpd.model.route import UNUSABLE, OriginKind, Reason
from bgpd.model.status import FamilyCounts, FibStatus, PeerStatus, SessionState, Status

with lean_import("prometheus_client"):
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

MESH_DETAIL_LIMIT = 100
"""With more mesh peers than this, a node shows them as ``bgpd_mesh_peers`` only: per-peer series in a full mesh grow
with the square of the cluster. Peers that a BGPPeer names keep theirs."""

AFIS = ("ipv4", "ipv6")
ORIGIN_KINDS = tuple(kind.value for kind in OriginKind)
MESSAGES = ("OPEN", "UPDATE", "NOTIFICATION", "KEEPALIVE", "ROUTE-REFRESH")
DRIFTS = ("missing", "extra", "changed")
ERRNOS = ("EEXIST", "EINVAL", "ENETUNREACH", "ENOBUFS", "EPERM")
"""What the kernel refuses a route for, in most cases; what is not among them is shown from its first time on."""
NO_NOTIFICATIONS = dict.fromkeys(
    (
        *product(("received", "sent"), (4,), (0,)),
        *product(("received", "sent"), (6,), range(1, 11)),
    ),
    0,
)
"""Those that end a session in most cases: Hold Timer Expired, and Cease with the subcodes of RFC 4486, 8538, 9384."""

_PEER = ("peer", "peer_asn", "peer_name")
FILTERED = "filtered"
REFUSALS = {reason.name.lower(): reason.value for reason in Reason if reason in UNUSABLE}
"""Why a route is not accepted: the label, and the words of ``PeerStatus.refused``."""

Key = TypeVar("Key", bound=str | tuple[str, ...])


def families(status: Status, peers: list[PeerStatus], versions: tuple[str, str]) -> Iterator[Metric]:
    """Every family that comes from the views; ``versions`` are Python's and ExaBGP's."""
    yield from _daemon(status, versions)
    yield from _datastore(status)
    yield from _routes(status)
    yield from _kernel(status)
    yield from _peers(peers)


def _daemon(status: Status, versions: tuple[str, str]) -> Iterator[Metric]:
    python, exabgp = versions
    yield _gauge(
        "bgpd_build_info",
        "Always 1; the versions are in the labels.",
        ("version", "python_version", "exabgp_version"),
        {(status.version, python, exabgp): 1},
    )
    yield _gauge("bgpd_ready", "Whether the daemon is ready: its readiness probe passes.", (), status.ready)
    yield _gauge(
        "bgpd_degraded",
        "Whether the node is not as it should be: the status says why. Readiness does not depend on it.",
        (),
        bool(status.degraded),
    )
    yield _gauge(
        "bgpd_draining",
        "How far the node is taken out of service: 0 not at all, 1 services, 2 all as the last resort, 3 withdrawn.",
        (),
        status.drain,
    )
    yield _gauge(
        "bgpd_in_sync",
        "Whether resources are whole and every peer was heard or waited for.",
        (),
        status.in_sync,
    )
    yield _gauge(
        "bgpd_component_up",
        "Whether a component passes its readiness check.",
        ("component",),
        {check.name: float(check.ok) for check in status.checks},
    )
    yield _gauge(
        "bgpd_config_last_reload_successful",
        "Whether the last reload of the configuration was taken.",
        (),
        not status.config_error,
    )
    yield _gauge(
        "bgpd_config_last_reload_success_timestamp_seconds",
        "When the configuration in force was loaded.",
        (),
        status.config_loaded,
    )
    yield _gauge(
        "bgpd_config_hash",
        "The configuration in force, without the node's name, as a number: nodes that run the same have the same.",
        (),
        status.config_hash,
    )
    yield counter(
        "bgpd_config_reloads",
        "Reloads of the configuration.",
        ("result",),
        _filled(status.reloads, ("success", "failure")),
    )
    yield _gauge(
        "bgpd_event_loop_lag_seconds", "How late the event loop last woke up.", (), status.event_loop_lag
    )
    yield _gauge(
        "bgpd_peer_memory_limit_bytes",
        "Memory that all peers together may hold; 0 is no limit.",
        (),
        status.memory_limit,
    )
    yield _gauge(
        "bgpd_last_routes_change_timestamp_seconds",
        "When routes that this node announces or installs last changed.",
        (),
        status.last_routes_change or 0,
    )


def _datastore(status: Status) -> Iterator[Metric]:
    store = status.datastore
    backend = store.backend
    yield _gauge("bgpd_datastore_up", "Whether the datastore answers.", ("backend",), {backend: store.up})
    yield _gauge(
        "bgpd_datastore_in_sync",
        "Whether the resources were read whole, this node's own Node among them.",
        ("backend",),
        {backend: store.in_sync},
    )
    yield _gauge(
        "bgpd_datastore_last_event_timestamp_seconds",
        "When the datastore last reported something.",
        ("backend",),
        {backend: store.last_event or 0},
    )
    yield _gauge(
        "bgpd_datastore_as_of_timestamp_seconds",
        "When what is in force was last known to be true, while the datastore is away; 0 while it is there.",
        ("backend",),
        {backend: store.as_of or 0},
    )
    yield _gauge(
        "bgpd_datastore_resources",
        "Resources in force.",
        ("backend", "kind"),
        {(backend, kind): float(count) for kind, count in store.resources.items()},
    )
    yield _gauge(
        "bgpd_datastore_problems",
        "Resources refused at present: each one's last good version stands.",
        ("backend",),
        {backend: len(store.problems)},
    )
    kinds = sorted({*store.resources, *(kind for kind, _ in store.events)})
    events = _filled(store.events, kinds, ("add", "change", "delete"))
    yield counter(
        "bgpd_datastore_events",
        "Changes of resources.",
        ("backend", "kind", "action"),
        {(backend, *key): count for key, count in events.items()},
    )
    errors = _filled(store.errors, ("yaml", "invalid", "duplicate", "io", "empty", "vanished"))
    yield counter(
        "bgpd_datastore_errors",
        "What was wrong with what the datastore holds, or with reaching it.",
        ("backend", "reason"),
        {(backend, *key): count for key, count in errors.items()},
    )
    yield counter(
        "bgpd_datastore_resyncs",
        "Times that all resources were read anew after a watch broke.",
        ("backend",),
        {backend: store.resyncs},
    )


def _routes(status: Status) -> Iterator[Metric]:
    yield _gauge(
        "bgpd_routes_desired",
        "Routes that this node must announce as its own.",
        ("kind", "afi"),
        _filled(status.routes_desired, ORIGIN_KINDS, AFIS),
    )
    yield _gauge(
        "bgpd_routes_advertised",
        "Routes of this node that every established session of their family was sent.",
        ("kind", "afi"),
        _filled(status.routes_advertised, ORIGIN_KINDS, AFIS),
    )
    sources = ("bgp", "local")
    yield _gauge(
        "bgpd_rib_routes",
        "Prefixes in the Loc-RIB.",
        ("afi", "source"),
        _filled(status.rib_routes, AFIS, sources),
    )
    yield _gauge(
        "bgpd_rib_paths",
        "Paths known for those prefixes.",
        ("afi", "source"),
        _filled(status.rib_paths, AFIS, sources),
    )
    yield _gauge("bgpd_update_groups", "Groups of sessions that are sent the same.", (), status.update_groups)
    yield _gauge(
        "bgpd_ipam_blocks", "Blocks with an affinity to this node.", ("pool", "afi"), status.ipam_blocks
    )
    yield _gauge(
        "bgpd_ipam_borrowed_addresses",
        "Addresses in use on this node that lie in blocks of others.",
        ("afi",),
        _filled(status.ipam_borrowed, AFIS),
    )


def _kernel(status: Status) -> Iterator[Metric]:
    fib = status.fib
    # A family that the kernel door does not serve has no samples: zeros would say that it is in order.
    tables = _filled(_by_afi(fib, "routes"), fib, ("unicast", "blackhole"))
    yield _gauge(
        "bgpd_fib_routes",
        "Routes of ours in the kernel.",
        ("afi", "type", "table"),
        {(*key, "main"): count for key, count in tables.items()},
    )
    yield _gauge(
        "bgpd_fib_wanted_routes",
        "Routes that the kernel should have of us.",
        ("afi",),
        {afi: one.wanted for afi, one in fib.items()},
    )
    yield _gauge(
        "bgpd_fib_pending_routes",
        "Routes waiting to be written to the kernel or retried.",
        ("afi",),
        {afi: one.pending for afi, one in fib.items()},
    )
    yield _gauge(
        "bgpd_fib_drift_routes",
        "Differences from the kernel at the last full compare.",
        ("afi", "kind"),
        _filled(_by_afi(fib, "drift"), fib, DRIFTS),
    )
    yield _gauge(
        "bgpd_fib_conflicts",
        "Prefixes where another owner's route stands in our way.",
        ("afi",),
        {afi: len(one.conflicts) for afi, one in fib.items()},
    )
    yield _gauge(
        "bgpd_fib_nexthop_objects",
        "Nexthop objects of ours in the kernel.",
        ("afi",),
        {afi: one.nexthop_objects for afi, one in fib.items()},
    )
    yield counter(
        "bgpd_fib_operations",
        "Writes to the kernel's table.",
        ("afi", "operation", "result"),
        _filled(_by_afi(fib, "operations"), fib, ("put", "delete"), ("ok", "error")),
    )
    yield counter(
        "bgpd_fib_errors",
        "Writes that the kernel refused, by errno.",
        ("afi", "operation", "errno"),
        _filled(_by_afi(fib, "errors"), fib, ("put", "delete"), ERRNOS),
    )
    yield counter(
        "bgpd_fib_repairs",
        "Routes put right after somebody else's change.",
        ("afi", "kind"),
        _filled(_by_afi(fib, "repairs"), fib, DRIFTS),
    )
    yield _gauge(
        "bgpd_fib_last_sync_timestamp_seconds",
        "When every family was last compared whole: the older of the two.",
        (),
        min((one.last_sync or 0 for one in fib.values()), default=0),
    )
    yield counter(
        "bgpd_netlink_overruns",
        "Times the kernel dropped notifications, each followed by a full compare.",
        (),
        status.netlink_overruns,
    )


_PEER_GAUGES: tuple[tuple[str, str, Callable[[PeerStatus], float]], ...] = (
    (
        "bgpd_peer_up",
        "Whether the session is Established.",
        lambda peer: peer.state is SessionState.ESTABLISHED,
    ),
    (
        "bgpd_peer_admin_up",
        "Whether the session is wanted: 0 after a shutdown by the operator.",
        lambda peer: peer.admin_up,
    ),
    (
        "bgpd_peer_state",
        "0 when shut down by the operator, else as bgpPeerState: 1 Idle to 6 Established.",
        lambda peer: peer.state,
    ),
    (
        "bgpd_peer_state_change_timestamp_seconds",
        "When the session last became or ceased to be Established.",
        lambda peer: peer.since,
    ),
    (
        "bgpd_peer_hold_time_seconds",
        "Hold time, the negotiated one when Established.",
        lambda peer: peer.hold_time,
    ),
    (
        "bgpd_peer_graceful_restart_active",
        "Whether stale routes of the peer are being kept.",
        lambda peer: peer.graceful_restart_active,
    ),
    (
        "bgpd_adj_rib_out_queue_length",
        "Prefixes waiting for the peer to read.",
        lambda peer: peer.output_queue,
    ),
    (
        "bgpd_peer_memory_bytes",
        "Memory that the peer holds, reckoned: prefixes, attribute sets, what waits to be read and sent.",
        lambda peer: peer.memory,
    ),
)


def _peers(peers: list[PeerStatus]) -> Iterator[Metric]:
    mesh = [peer for peer in peers if peer.kind == "mesh"]
    states = Counter(peer.state.name.lower() for peer in mesh)
    yield _gauge(
        "bgpd_mesh_peers",
        "Sessions of the node-to-node mesh, by state.",
        ("state",),
        _filled(states, tuple(state.name.lower() for state in SessionState)),
    )
    if len(mesh) > MESH_DETAIL_LIMIT:
        peers = [peer for peer in peers if peer.kind != "mesh"]

    labelled = [((peer.address, str(peer.asn), peer.id), peer) for peer in peers]
    for name, text, value in _PEER_GAUGES:
        yield _gauge(name, text, _PEER, {key: value(peer) for key, peer in labelled})

    counts = [
        ((*key, afi, "unicast"), peer, peer.counts.get(afi, FamilyCounts()))
        for key, peer in labelled
        for afi in sorted({*peer.families, *peer.counts})
    ]
    for field, text in (
        ("received", "Prefixes that the peer announces."),
        ("accepted", "Prefixes of those that import policy let in."),
        ("advertised", "Prefixes that the peer was sent."),
        ("stale", "Prefixes kept from before the peer's restart."),
    ):
        yield _gauge(
            f"bgpd_peer_prefixes_{field}",
            text,
            (*_PEER, "afi", "safi"),
            {key: getattr(count, field) for key, _, count in counts},
        )
    yield _gauge(
        "bgpd_peer_prefixes_refused",
        "Prefixes that import policy did not let in, by reason.",
        (*_PEER, "reason"),
        {
            (*key, reason): peer.refused.get(words, 0)
            for key, peer in labelled
            for reason, words in REFUSALS.items()
            if reason == FILTERED or words in peer.refused
        },
    )
    yield _gauge(
        "bgpd_peer_max_prefixes",
        "Prefixes that the peer may announce; 0 is no limit.",
        (*_PEER, "afi", "safi"),
        {key: peer.max_prefixes or 0 for key, peer, _ in counts},
    )

    reasons = tuple(reason.value for reason in DownReason)
    yield counter(
        "bgpd_peer_flaps",
        "Times the session left Established, by reason.",
        (*_PEER, "reason"),
        {(*key, *k): n for key, peer in labelled for k, n in _filled(peer.flaps, reasons).items()},
    )
    for direction in ("received", "sent"):
        yield counter(
            f"bgpd_peer_messages_{direction}",
            f"BGP messages {direction}.",
            (*_PEER, "type"),
            {
                (*key, *k): n
                for key, peer in labelled
                for k, n in _filled(getattr(peer, f"messages_{direction}"), MESSAGES).items()
            },
        )
    yield counter(
        "bgpd_peer_notifications",
        "NOTIFICATIONs by the codes of RFC 4271 and RFC 4486.",
        (*_PEER, "direction", "code", "subcode"),
        {
            (*key, direction, str(code), str(subcode)): n
            for key, peer in labelled
            for (direction, code, subcode), n in {**NO_NOTIFICATIONS, **peer.notifications}.items()
        },
    )
    yield counter(
        "bgpd_peer_update_errors",
        "UPDATEs treated as withdraw or with an attribute discarded (RFC 7606).",
        _PEER,
        {key: peer.update_errors for key, peer in labelled},
    )


def bfd_families(bfd: BfdReport) -> Iterator[Metric]:
    """BFD's sessions, by the peer's address."""
    labels = ("peer", "interface")
    sessions = {(each.address, each.interface): each for each in bfd.sessions}

    def of(value: Callable[[BfdStatus], float]) -> dict[tuple[str, str], float]:
        return {key: value(each) for key, each in sessions.items()}

    yield _gauge(
        "bgpd_bfd_session_state",
        "0 AdminDown, 1 Down, 2 Init, 3 Up (RFC 5880).",
        labels,
        of(lambda each: float(each.state)),
    )
    yield _gauge(
        "bgpd_bfd_session_up",
        "Whether the session is Up.",
        labels,
        of(lambda each: float(each.state is BfdState.UP)),
    )
    yield _gauge(
        "bgpd_bfd_session_since_timestamp_seconds",
        "When the session came up, or left Up, or began.",
        labels,
        of(lambda each: each.since),
    )
    yield _gauge(
        "bgpd_bfd_session_transmit_interval_seconds",
        "Between two packets to the peer, before jitter.",
        labels,
        of(lambda each: each.transmit_interval),
    )
    yield _gauge(
        "bgpd_bfd_session_detection_time_seconds",
        "Without a packet of the peer's until it is found dead; 0 where nothing was heard.",
        labels,
        of(lambda each: each.detection_time),
    )
    yield counter("bgpd_bfd_session_ups", "Times the session came up.", labels, of(lambda each: each.ups))
    yield counter(
        "bgpd_bfd_session_downs",
        "Times the session left Up, by diagnostic.",
        (*labels, "diagnostic"),
        {(*key, words): n for key, each in sessions.items() for words, n in each.downs.items()},
    )
    yield counter(
        "bgpd_bfd_packets_received",
        "Packets of the peer's that were not discarded.",
        labels,
        of(lambda each: each.packets_received),
    )
    yield counter("bgpd_bfd_packets_sent", "Packets sent.", labels, of(lambda each: each.packets_sent))
    yield counter(
        "bgpd_bfd_packets_discarded", "Packets that were discarded, by reason.", ("reason",), bfd.discarded
    )
    yield _gauge(
        "bgpd_bfd_worst_delay_seconds",
        "How late the thread of BFD came for what was due, at worst, within the last minute.",
        (),
        bfd.worst_delay,
    )


def _by_afi(fib: Mapping[str, FibStatus], field: str) -> dict[tuple[str, ...], float]:
    """A mapping that each family has, as one: the family goes before its keys."""
    return {(afi, *key): n for afi, one in fib.items() for key, n in _keyed(getattr(one, field)).items()}


def _gauge(name: str, text: str, labels: tuple[str, ...], values: Mapping[Key, float] | float) -> Metric:
    return _family(GaugeMetricFamily(name, text, labels=labels), values)


def counter(name: str, text: str, labels: tuple[str, ...], values: Mapping[Key, float] | float) -> Metric:
    """A counter family; ``name`` is without ``_total``, which the exposition adds."""
    return _family(CounterMetricFamily(name, text, labels=labels), values)


def _family(
    family: GaugeMetricFamily | CounterMetricFamily, values: Mapping[Key, float] | float
) -> GaugeMetricFamily | CounterMetricFamily:
    if isinstance(values, Mapping):
        for key, value in _keyed(values).items():
            family.add_metric(key, float(value))
    else:
        family.add_metric((), float(values))
    return family


def _keyed(values: Mapping[Key, float]) -> dict[tuple[str, ...], float]:
    """The same with a tuple for each key; of a copy, since a view may hold a counter that the loop goes on counting."""
    return {(key,) if isinstance(key, str) else key: value for key, value in dict(values).items()}


def _filled(values: Mapping[Key, float], *axes: Iterable[str]) -> dict[tuple[str, ...], float]:
    """The values, and a zero for each combination of the axes that is not among them."""
    return dict.fromkeys(product(*axes), 0.0) | _keyed(values)
