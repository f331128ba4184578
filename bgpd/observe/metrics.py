"""Prometheus metrics: one snapshot of ``Views`` in, exposition text out.

Owns the histograms that the daemon feeds and the text that ``api`` serves; ``samples`` has the families of a snapshot.
A scrape has two halves: ``Scrape.of`` reads the views in the event loop, ``render`` makes the text of that
snapshot and may run in any thread. Nothing is kept between scrapes but the histograms, so that the series of a removed
peer are gone with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from bgpd.lean_import import lean_import
from bgpd.model.bfd import BfdReport
from bgpd.model.doors import Views
from bgpd.model.status import PeerStatus, Status
from bgpd.observe.samples import bfd_families, counter, families

with lean_import("prometheus_client"):
    from prometheus_client.metrics import Histogram, disable_created_metrics
    from prometheus_client.metrics_core import Metric
    from prometheus_client.process_collector import ProcessCollector
    from prometheus_client.registry import CollectorRegistry

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

STAGES = ("apply", "compare")
"""What ``fib.programmer`` times, shown from the start."""


class Scrape(NamedTuple):
    """What one scrape shows."""

    status: Status
    peers: list[PeerStatus]
    bfd: BfdReport

    @classmethod
    def of(cls, views: Views) -> Scrape:
        """Reads the views; in the event loop's thread."""
        return cls(views.status(), views.peers(), views.bfd())


class Metrics:
    """All metrics of one daemon, in a registry of its own."""

    def __init__(self) -> None:
        # The _created series double what a scrape of counters costs, and nobody reads them.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus-client left it unannotated
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._propagation = Histogram(
            "bgpd_propagation_duration_seconds",
            "From a change in the datastore or the kernel to the UPDATE handed to the last peer.",
            ["kind"],
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._propagation.labels("origination")
        self._fib_programming = Histogram(
            "bgpd_fib_programming_duration_seconds",
            "From an UPDATE read to its routes in the kernel.",
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._reconcile = Histogram(
            "bgpd_reconcile_duration_seconds",
            "Duration of one round of a stage.",
            ["stage"],
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._reconcile_errors = dict.fromkeys(STAGES, 0)
        for stage in STAGES:
            self._reconcile.labels(stage)

    def observe_propagation(self, kind: str, seconds: float) -> None:
        """A change went out to the peers this long after its cause; ``origination`` is that of our own routes."""
        self._propagation.labels(kind).observe(seconds)

    def observe_fib_programming(self, seconds: float) -> None:
        """Routes of an UPDATE are in the kernel this long after it was read."""
        self._fib_programming.observe(seconds)

    def observe_reconcile(self, stage: str, seconds: float) -> None:
        """One round of a stage took this long; stages are a small fixed set of words, each shown from its first use."""
        self._reconcile.labels(stage).observe(seconds)
        self._reconcile_errors.setdefault(stage, 0)

    def count_reconcile_error(self, stage: str) -> None:
        """One round of a stage failed."""
        self._reconcile_errors[stage] = self._reconcile_errors.get(stage, 0) + 1

    def render(self, accept: str, scrape: Scrape) -> tuple[bytes, str]:
        """The exposition and its content type, text or OpenMetrics by the Accept header; in any thread."""
        from prometheus_client.exposition import (
            choose_encoder,  # brings HTTP servers: no start waits for them
        )

        encode, content_type = choose_encoder(accept)
        return encode(_Exposition(self, scrape)), content_type

    def collect(self, scrape: Scrape) -> Iterator[Metric]:
        """Every family of a scrape: the snapshot's, the histograms, and those of the process."""
        yield from families(scrape.status, scrape.peers, _versions())
        yield from bfd_families(scrape.bfd)
        errors = dict(self._reconcile_errors)
        yield counter("bgpd_reconcile_errors", "Rounds of a stage that failed.", ("stage",), errors)
        yield from self._registry.collect()


@cache
def _versions() -> tuple[str, str]:
    """Python's and ExaBGP's. What packages say of themselves takes 20 ms to read: at the first scrape."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    try:
        return platform.python_version(), version("exabgp")
    except PackageNotFoundError:
        return platform.python_version(), ""


class _Exposition:
    """What prometheus-client's encoders take for a registry: one scrape."""

    def __init__(self, metrics: Metrics, scrape: Scrape) -> None:
        self._metrics, self._scrape = metrics, scrape

    def collect(self) -> Iterator[Metric]:
        return self._metrics.collect(self._scrape)
