"""From runs to a table: medians, ratios, targets; as Markdown, JSON and a plot.

Used by ``__main__``. Pure but for ``environment``. A ratio under 1 says that bgpd is better, since every figure is one
of which less is better.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import NamedTuple

from bench.work import FLOORS, HOST_LOCAL, Figures, Work

METRICS = {
    "converge_s": "to all routes in the kernel",
    "withdraw_s": "from the session's death to none",
    "moved_s": "from the peer's death to all routes moved",
    "peak_mib": "peak memory (VmHWM)",
    "hold_ms": "longest hold of the event loop",
    "appear_p50_ms": "a workload appears, p50",
    "appear_p99_ms": "a workload appears, p99",
    "vanish_p50_ms": "a workload vanishes, p50",
    "vanish_p99_ms": "a workload vanishes, p99",
    "file_p50_ms": "a block in the resource files, p50",
    "file_p99_ms": "a block in the resource files, p99",
    "open_s": "from start to its first OPEN at a peer",
    "ready_s": "from start to ready",
    "in_sync_s": "from start to in sync",
    "writes_count": "route changes in the kernel",
    "announce_s": "a new block until the last peer heard",
    "idle_cpu_percent": "processor when idle",
    "idle_mib": "resident when idle",
    "upgrade_s": "an upgrade, from its start to in sync",
    "upgrade_lost_count": "sessions that the upgrade ended",
    "upgrade_updates_count": "UPDATEs that the upgrade sent",
    "resident_mib": "resident, no peers",
    "cpu_percent": "processor under churn",
    "lag_p999_ms": "event loop late, p99.9",
    "cut_p50_ms": "from the cut until the kernel left the path, p50",
    "cut_p99_ms": "from the cut until the kernel left the path, p99",
    "address_p50_ms": "ADD of an address alone, p50",
    "address_p99_ms": "ADD of an address alone, p99",
    "away_p50_ms": "the same while the daemon is away, p50",
    "pod_p50_ms": "ADD of a pod with its link, p50",
    "pod_p99_ms": "ADD of a pod with its link, p99",
    "reached_p50_ms": "from ADD until another node reaches the pod, p50",
    "reached_first_p50_ms": "the same, the first pod of its block, p50",
    "bare_p50_ms": "a block written to a server until a bare watch client has it, p50",
    "bare_p99_ms": "a block written to a server until a bare watch client has it, p99",
    "written_p50_ms": "a block written to a server until another node's kernel has it, p50",
    "written_p99_ms": "a block written to a server until another node's kernel has it, p99",
    "added_p50_ms": "of that on top of the bare client, p50",
    "added_p99_ms": "of that on top of the bare client, p99",
    "known_s": "from start to the first own route, all objects read",
    "large_mib": "resident with all that is known",
    "sent_mib": "what the server holds, as JSON",
    "fleet_s": "from the start of all until each knows all",
    "watches_count": "watches a node",
    "lists_count": "lists of etcd a node",
    "start_kib": "sent to a node at its start",
    "block_kib": "sent to a node for a block of another",
    "server_kib": "memory of the API server a node",
    "change_p50_ms": "one more block of our own until the kernel has it, p50",
}
UNITS = {"kib": "KiB", "s": "s", "ms": "ms", "mib": "MiB", "percent": "%", "count": ""}
COLOURS = {"bgpd": "#1f6feb", "bird": "#8b949e", "frr": "#bf8700", "floor": "#2da44e"}


@dataclass(frozen=True)
class Run:
    """One subject's turn at one work: its figures, or why there are none."""

    work: Work
    subject: str
    round: int
    figures: Figures = field(default_factory=dict)
    error: str = ""


class Target(NamedTuple):
    """At most ``limit``, of the figure itself or of its ratio to what ``against`` names."""

    case: str
    metric: str
    limit: float
    against: str = ""
    shape: str = ""
    size: int = 0

    def covers(self, work: Work) -> bool:
        return (
            work.case == self.case
            and work.family == "ipv4"
            and self.shape in ("", work.shape)
            and self.size in (0, work.size)
        )

    def __str__(self) -> str:
        name = str(Work(self.case, "ipv4", self.shape, self.size)) if self.case else "any case"
        goal = f"{self.limit:g} × {self.against}" if self.against else quantity(self.metric, self.limit)
        return f"{name}: {METRICS[self.metric]} | at most {goal}"


LARGE = 100_000
NEXTHOP_FLOOR = FLOORS[1]
TARGETS = (
    Target("cold", "converge_s", 0.9, "bird", "shared", LARGE),
    Target("cold", "converge_s", 2.2, NEXTHOP_FLOOR, "shared", LARGE),
    Target("cold", "converge_s", 0.2, "bird", "nodes", LARGE),
    Target("cold", "converge_s", 0.2, "frr", "nodes", LARGE),
    Target("cold", "converge_s", 0.4, "bird", "distinct", 10_000),
    Target("cold", "converge_s", 1.2, "bird", "shared", 1_000_000),
    Target("cold", "withdraw_s", 1.0, "bird", "shared", LARGE),
    Target("failover", "moved_s", 1.0, "bird", "shared", LARGE),
    Target("latency", "appear_p50_ms", 2.0),
    Target("latency", "appear_p99_ms", 10.0),
    Target("latency", "file_p50_ms", 10.0),
    Target("start", "open_s", 0.35),
    Target("restart", "ready_s", 1.0),
    Target("restart", "writes_count", 0),
    Target("mesh", "converge_s", 1.0, "bird"),
    Target("mesh", "idle_cpu_percent", 2.0),
    Target("mesh", "upgrade_lost_count", 0),
    Target("mesh", "upgrade_updates_count", 0),
    Target("cold", "peak_mib", 115, "", "shared", LARGE),
    Target("cold", "peak_mib", 0.7, "frr", "shared", LARGE),
    Target("idle", "resident_mib", 75),
    Target("cni", "address_p50_ms", 100),
    Target("cni", "pod_p50_ms", 150),
    Target("large", "large_mib", 120),
    Target("large", "change_p50_ms", 50),
    Target("watch", "added_p50_ms", 15, "", "etcd"),
    Target("watch", "added_p50_ms", 15, "", "kubernetes"),
)
HOLD_LIMIT = 50.0
"""Milliseconds; of every run of bgpd in every case, not of a median."""

Medians = Mapping[tuple[Work, str, str], float]
"""(work, subject, metric) -> median over the rounds."""


def medians(runs: Iterable[Run]) -> Medians:
    """The median of each figure over the rounds that gave one."""
    found: dict[tuple[Work, str, str], list[float]] = {}
    for run in runs:
        for metric, value in run.figures.items():
            found.setdefault((run.work, run.subject, metric), []).append(value)
    return {key: statistics.median(values) for key, values in found.items()}


def number(value: float) -> str:
    """Three significant digits, and no fewer than the whole part has."""
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def quantity(metric: str, value: float) -> str:
    """A value with the unit that its metric's name ends in."""
    return f"{number(value)} {UNITS[metric.rpartition('_')[2]]}".strip()


class Verdict(NamedTuple):
    target: str
    """Two cells of a table row."""
    measured: str
    met: bool | None
    """``None``: not measured."""


def verdicts(runs: Sequence[Run]) -> list[Verdict]:
    """Each target beside what was measured."""
    middle = medians(runs)
    found = []
    for target in TARGETS:
        # The work of the case, whether or not it gave a figure.
        work = next((run.work for run in runs if target.covers(run.work)), None)
        mine = middle.get((work, "bgpd", target.metric)) if work else None
        theirs = middle.get((work, target.against, target.metric)) if work and target.against else None
        if mine is None or (target.against and theirs is None):
            failed = any(run.error and run.work == work and run.subject == "bgpd" for run in runs)
            found.append(
                Verdict(str(target), "failed" if failed else "not measured", False if failed else None)
            )
        elif theirs is None:
            found.append(Verdict(str(target), quantity(target.metric, mine), mine <= target.limit))
        else:
            ratio = mine / theirs if theirs else float("inf")
            shown = f"{ratio:.2f} × ({quantity(target.metric, mine)} to {quantity(target.metric, theirs)})"
            found.append(Verdict(str(target), shown, ratio <= target.limit))
    holds = [(run.figures["hold_ms"], run.work) for run in runs if "hold_ms" in run.figures]
    if holds:
        longest, work = max(holds, key=lambda hold: hold[0])
        words = f"{quantity('hold_ms', longest)} ({work})"
        found.append(Verdict(f"any case: {METRICS['hold_ms']} | at most 50 ms", words, longest <= HOLD_LIMIT))
    return found


def tables(runs: Sequence[Run]) -> str:
    """A section a case: a table a metric where the case has several works, else one table of all metrics."""
    middle = medians(runs)
    sections = []
    for case in dict.fromkeys(run.work.case for run in runs):
        mine = [run for run in runs if run.work.case == case]
        works = list(dict.fromkeys(run.work for run in mine))
        names = list(dict.fromkeys(run.subject for run in sorted(mine, key=lambda run: _rank(run.subject))))
        metrics = [metric for metric in METRICS if any(metric in run.figures for run in mine)]
        if not metrics:
            continue  # the reasons are listed
        lines = [f"## {case}", ""]
        if len(works) > 1:
            for metric in metrics:
                rows = [(str(work), work, metric) for work in works]
                lines += [f"### {METRICS[metric]}", "", *_table(rows, names, middle), ""]
        else:
            rows = [(METRICS[metric], work, metric) for work in works for metric in metrics]
            lines += [*_table(rows, names, middle), ""]
        sections.append("\n".join(lines))
    return "\n".join(sections)


def _rank(subject: str) -> int:
    order = ("bgpd", "bird", "frr", HOST_LOCAL, *FLOORS)
    return order.index(subject) if subject in order else len(order)


def _table(rows: Iterable[tuple[str, Work, str]], names: Sequence[str], middle: Medians) -> list[str]:
    rows = list(rows)
    used = [name for name in names if any((work, name, metric) in middle for _, work, metric in rows)]
    ratios = [name for name in used if name != "bgpd" and "floor" not in name] if "bgpd" in used else []
    floor = "bgpd" in used and any("floor" in name for name in used)
    head = ["", *used, *(f"bgpd / {name}" for name in ratios), *(["bgpd / best floor"] if floor else [])]
    lines = [_row(head), _row(["---", *["---:"] * (len(head) - 1)])]
    for title, work, metric in rows:
        values = {name: middle.get((work, name, metric)) for name in used}
        if all(value is None for value in values.values()):
            continue
        cells = [title, *("" if value is None else quantity(metric, value) for value in values.values())]
        best = min(
            (value for name, value in values.items() if "floor" in name and value is not None), default=None
        )
        mine = values.get("bgpd")
        for other in [*(values[name] for name in ratios), *([best] if floor else [])]:
            cells.append(f"{mine / other:.2f}" if mine is not None and other else "")
        lines.append(_row(cells))
    return lines


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def markdown(runs: Sequence[Run], about: Mapping[str, str], skipped: Iterable[str], plot: str = "") -> str:
    """The whole report. ``plot`` is the file name of the picture beside it."""
    judged = verdicts(runs)
    marks = {True: "yes", False: "**no**", None: "–"}
    lines = [
        "# Benchmarks",
        "",
        "Made by `make bench`, which measures all sides in the same run on the same machine.",
        "",
    ]
    lines += [f"- {key}: {value}" for key, value in about.items()]
    lines += [
        "",
        "Medians over the rounds; less is better everywhere; a ratio under 1 says that bgpd is better.",
    ]
    if plot:
        lines += ["", f"![The main figures as bars]({plot})"]
    lines += ["", "## Targets", "", "| case | target | measured | met |", "|---|---|---|---|"]
    lines += [f"| {verdict.target} | {verdict.measured} | {marks[verdict.met]} |" for verdict in judged]
    lines += ["", tables(runs).rstrip(), "", NOTES.strip(), ""]
    failures = dict.fromkeys(f"{run.work}, {run.subject}: {run.error}" for run in runs if run.error)
    for title, items in (("Without a figure", failures), ("Not run", dict.fromkeys(skipped))):
        if items:
            lines += [f"## {title}", "", *(f"- {item}" for item in items), ""]
    return "\n".join(lines)


NOTES = """
## How it is measured

Each run has fresh network namespaces; in each round the daemons take turns at the same piece of work (IPv6, 1k, 1M,
mesh and churn are in the first round only). A wait ends after a minute, the run then has no figure. The table is
encoded before the clock starts and sent by a simulated peer as fast as TCP takes it, over iBGP; it ends when the
kernel's own count (`/proc/net/fib_triestat`, `/proc/net/rt6_stats`) says so. Tables are of /26 prefixes, or /122:

- *shared*: one next hop, 700 prefixes an UPDATE (fewer in IPv6);
- *nodes*: five blocks a next hop, one UPDATE a node, with ORIGINATOR_ID and CLUSTER_LIST: what a reflector
  sends a node of a large cluster;
- *distinct*: one prefix an UPDATE, its own next hop and communities.

The *floors* are the kernel alone: batched netlink from messages packed beforehand, with a gateway in each route, and
with nexthop objects. The session's death is a TCP reset without graceful restart. In *failover* the first peer is
preferred. A change's latency ends with the kernel's notification on the other node; changes are 4 to 12 ms apart. In
*start* and *restart* the peer dials every 10 ms, so BIRD's connect delay is not in the OPEN's time. The writes of a
restart are the kernel's notifications. In the mesh half of the peers dial and half are dialled; the figure of BIRD
has its connect delay of one second in it, the least that it takes. The hold of bgpd's event loop is seen by a timer
of 5 ms in it (`bench/probe.py`); idle figures are taken without that timer. The configurations of BIRD and FRR are in
`bench/peers`. GoBGP writes no kernel routes by itself, so it is not here.

In *cut* a node has BFD of 100 ms × 3 with two BIRD routers and one prefix by both; a switch's port goes down and no
carrier is lost. So 200 to 300 ms of each figure are the detection itself.

Of *cni* a figure is the life of the plugin's process. *host-local* is Debian's plugin, with *ptp* for a pod's link: no
other node hears of its addresses, and it syncs nothing to the disk, where bgpd-ipam syncs the block and the handle. The
1,000 addresses stay, in 16 blocks of the node; the pods come after them.

In *watch* two nodes read one real etcd, or one real kube-apiserver, and a block of one is written there; the bare
client does nothing but read the server's watch, in the same run.

In *large* one node reads a cluster of 5,000 nodes, 20,000 blocks, 10,000 services and 50,000 addresses of endpoints
from a stand-in of the Kubernetes API, in objects as large as real ones are. In *fleet* the readers of 100 nodes ask one
real kube-apiserver that knows 300.
"""


def as_json(runs: Iterable[Run], about: Mapping[str, str]) -> str:
    """All runs, each round by itself."""
    rows = [
        {
            **run.work._asdict(),
            "subject": run.subject,
            "round": run.round,
            "figures": run.figures,
            "error": run.error,
        }
        for run in runs
    ]
    return json.dumps({"about": dict(about), "runs": rows}, indent=1) + "\n"


def from_json(text: str) -> tuple[list[Run], dict[str, str]]:
    """What ``as_json`` wrote."""
    content = json.loads(text)
    runs = []
    for row in content["runs"]:
        work = Work(**{name: row[name] for name in Work._fields})
        runs.append(Run(work, row["subject"], row["round"], row["figures"], row["error"]))
    return runs, content["about"]


# The plot.

PANELS = (
    ("cold, shared 100k", "cold", "converge_s", "shared", LARGE),
    ("cold, nodes 100k", "cold", "converge_s", "nodes", LARGE),
    ("cold, distinct 10k", "cold", "converge_s", "distinct", 10_000),
    ("cold, shared 1M", "cold", "converge_s", "shared", 1_000_000),
    ("withdrawal of 100k", "cold", "withdraw_s", "shared", LARGE),
    ("failover of 100k", "failover", "moved_s", "shared", LARGE),
    ("one workload appears, p50", "latency", "appear_p50_ms", "", 0),
    ("peak memory, shared 100k", "cold", "peak_mib", "shared", LARGE),
)
_BAR, _GAP, _LEFT, _WIDTH, _COLUMN = 18, 4, 130, 190, 420


def svg(runs: Sequence[Run]) -> str:
    """A panel of bars a main figure, each with a scale of its own; empty panels are left out."""
    middle = medians(runs)
    panels = []
    for title, case, metric, shape, size in PANELS:
        target = Target(case, metric, 0, "", shape, size)
        bars = [
            (subject, value)
            for (work, subject, name), value in middle.items()
            if name == metric and target.covers(work)
        ]
        if bars:
            panels.append((title, metric, sorted(bars, key=lambda bar: _rank(bar[0]))))
    parts: list[str] = []
    heights = [0, 0]
    for title, metric, bars in panels:
        column = heights.index(min(heights))
        x, y = column * _COLUMN + 10, heights[column] + 24
        parts.append(f'<text x="{x}" y="{y}" font-weight="bold">{escape(title)}</text>')
        most = max(value for _, value in bars) or 1.0
        for subject, value in bars:
            y += _BAR + _GAP
            colour = COLOURS[subject.split()[0]]
            parts.append(f'<text x="{x}" y="{y}">{escape(subject)}</text>')
            parts.append(
                f'<rect x="{x + _LEFT}" y="{y - 13}" width="{max(1.0, _WIDTH * value / most):.1f}" '
                f'height="{_BAR - 2}" fill="{colour}"/>'
            )
            end = x + _LEFT + _WIDTH * value / most + 6
            parts.append(f'<text x="{end:.1f}" y="{y}">{escape(quantity(metric, value))}</text>')
        heights[column] = y + 12
    height = max(heights) + 8
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * _COLUMN}" height="{height}" font-family="sans-serif" '
        f'font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


# Where it was measured.


def environment(rounds: int) -> dict[str, str]:
    """What a reader must know of the machine and the sides."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return {
        "when": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB, Linux {platform.release()}",
        "bgpd": f"{_project_version()}, Python {platform.python_version()}",
        "BIRD": _version("bird", "--version"),
        "FRR": _version("/usr/lib/frr/zebra", "--version"),
        "rounds": str(rounds),
    }


def _project_version() -> str:
    from bgpd import __version__

    return __version__


def _version(*words: str) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return "not installed"
    line = next(iter((done.stdout + done.stderr).splitlines()), "")
    return line.split()[-1] if line else "?"


def summary(runs: Sequence[Run]) -> str:
    """The targets in plain lines, for the terminal."""
    marks: dict[bool | None, str] = {True: "met", False: "NOT MET", None: "-"}
    lines: list[tuple[str, str, str]] = [
        (marks[verdict.met], verdict.target.replace(" | ", ", "), verdict.measured)
        for verdict in verdicts(runs)
    ]
    return "\n".join(f"{mark:8} {target}: {measured}" for mark, target, measured in lines)
