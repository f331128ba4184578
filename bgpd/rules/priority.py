"""LOCAL_PREF and the kernel's metric: whether the one carries the other, and the arithmetic both ways (calico.md §3.5).

Since Calico 3.32 a node announces the metric of a workload's route as a LOCAL_PREF: INT_MAX less the metric, so that a
workload that moves (a low metric) is preferred everywhere. Earlier versions do not; a cluster may have both. Whether it
holds is asked here by all: the rib, exports, filters, originate, the plan and ``policy test``.
"""

from __future__ import annotations

from typing import Literal

from bgpd.model.prefix import Family
from bgpd.model.resources import BGPFilter, SetPriority
from bgpd.model.route import Selection, Workloads

Mode = Literal["auto", "on", "off"]

DEFAULT_LOCAL_PREF = 100
"""Where a path has none, and of our own routes where LOCAL_PREF carries nothing."""
NORMAL_PRIORITY = 1024
"""The metric of a workload's route unless a BGPConfiguration says otherwise."""
INT_MAX = 2_147_483_647
_LEAST_CARRIER = 1 << 30
"""A LOCAL_PREF above it is INT_MAX less a metric: nobody sets such a one by hand."""


def local_pref_of(metric: int) -> int:
    """The LOCAL_PREF that carries a metric."""
    return INT_MAX - metric


def metric_of(local_pref: int) -> int:
    """The metric that a LOCAL_PREF stands for, where it carries one."""
    return INT_MAX - local_pref


def carries_metric(local_pref: int | None) -> bool:
    """Whether a LOCAL_PREF is one that carries a metric."""
    return local_pref is not None and local_pref > _LEAST_CARRIER


def in_use(mode: Mode, named: bool, evidence: bool) -> bool:
    """Whether LOCAL_PREF carries the metric here. ``named``: the resources speak of priorities (all of them of Calico
    3.32). ``evidence``: an internal peer, this node's own workloads or an earlier policy showed that the cluster does
    so."""
    return mode == "on" or (mode == "auto" and (named or evidence))


def names_priority(bgp_filter: BGPFilter) -> bool:
    """Whether a filter looks at a priority or sets one."""
    lists = (*bgp_filter.imports.values(), *bgp_filter.exports.values())
    return any(
        rule.priority is not None or any(isinstance(each, SetPriority) for each in rule.operations)
        for rules in lists
        for rule in rules
    )


def are_ranked(workloads: Workloads) -> bool:
    """Whether the routes of this node's workloads are those of Calico 3.32 or later: Felix then gives those of IPv4 a
    metric, which none had before (one of IPv6 always has)."""
    return any(route.metric for route in workloads.get(Family.IPV4, ()))


def own_local_pref(metric: int, normal: int, prioritised: bool) -> int:
    """The LOCAL_PREF of a route of this node; a ``metric`` of 0 is the ``normal`` one."""
    return local_pref_of(metric or normal) if prioritised else DEFAULT_LOCAL_PREF


def selected_metric(selection: Selection) -> int:
    """The kernel's metric that the best path carries; the normal one where it carries none (an external peer, or a node
    of the time before)."""
    local_pref = selection.best.attributes.local_pref
    if local_pref is None or not carries_metric(local_pref):
        return NORMAL_PRIORITY
    return max(1, metric_of(local_pref))


def may_elevate(mode: Mode) -> bool:
    """Whether a metric below the normal one means that a workload has moved."""
    return mode != "off"


def is_elevated(metric: int, normal: int) -> bool:
    """Whether a metric says that a workload has moved to where its route leads, or is about to."""
    return 0 < metric < normal
