"""``python -m bench``: bgpd, BIRD and FRR at the same work in the same run. ``make bench`` is this.

A whole run takes half an hour on two cores and writes ``docs/benchmarks.md`` with its plot and its JSON; a part
of it (``--only``, ``--sizes``, ``--peers``) only prints, unless ``--out`` or ``--json`` says where. Needs root; all it
makes is in network namespaces of its own, which go when it ends, also on Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from bench import cuts, fleet, large, nodes, pods, report, tables, watch
from bench.injector import SessionLost
from bench.work import CASES, SIZES, Failed, Figures, Work, hopeless, plan, subjects
from testing import daemons, namespaces

OUT = namespaces.PROJECT / "docs" / "benchmarks.md"
PEERS = ("bird", "frr")
RUNNERS: dict[str, Callable[[Work, str], Awaitable[Figures]]] = {
    "cold": tables.cold,
    "failover": tables.failover,
    "latency": nodes.latency,
    "start": tables.start,
    "restart": tables.restart,
    "mesh": nodes.mesh,
    "churn": tables.churn,
    "idle": tables.idle,
    "cut": cuts.cut,
    "cni": pods.cni,
    "watch": watch.watch,
    "large": large.large,
    "fleet": fleet.fleet,
}


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--only", nargs="+", metavar="CASE", choices=CASES, default=list(CASES), help=f"of {', '.join(CASES)}; cold "
        "is the withdrawal too")  # fmt: skip
    add("--sizes", nargs="+", metavar="N", type=int, default=list(SIZES), help="prefixes of cold convergence")
    add(
        "--rounds",
        metavar="N",
        type=int,
        default=3,
        help="how often each does its work; medians count (default 3)",
    )
    add(
        "--peers",
        nargs="*",
        metavar="PEER",
        choices=PEERS,
        default=list(PEERS),
        help="beside bgpd: bird, frr",
    )
    add(
        "--out",
        metavar="FILE",
        type=Path,
        help="where the report goes; a whole run without it: docs/benchmarks.md",
    )
    add("--json", metavar="FILE", type=Path, help="where all runs go as JSON; beside the report unless given")
    chosen = parser.parse_args(words)
    if chosen.rounds < 1 or any(not 1 <= size <= 1_000_000 for size in chosen.sizes):
        parser.error("rounds are at least 1, sizes from 1 to 1000000")
    whole = chosen.only == list(CASES) and chosen.sizes == list(SIZES) and chosen.peers == list(PEERS)
    if whole and chosen.out is None:
        chosen.out = OUT
    if chosen.json is None and chosen.out is not None:
        chosen.json = chosen.out.with_suffix(".json")
    return chosen


async def measure(works: list[Work], peers: list[str], rounds: int) -> list[report.Run]:
    """All runs. A run that fails is kept with its reason; the others go on."""
    turns = [
        (turn, work, subject)
        for turn in range(rounds)
        for work in works
        if turn == 0 or not work.once
        for subject in _rotated(subjects(work, peers), turn)
    ]
    runs = []
    for count, (turn, work, subject) in enumerate(turns, 1):
        title = f"[{count}/{len(turns)}] round {turn + 1}: {work}, {subject}"
        print(title, end="", file=sys.stderr, flush=True)
        started = time.monotonic()
        try:
            run = report.Run(work, subject, turn, await RUNNERS[work.case](work, subject))
        except (Failed, SessionLost, daemons.Ended, *namespaces.UNREADY) as error:
            words = str(error).splitlines() or [type(error).__name__]
            run = report.Run(
                work, subject, turn, error=words[-1] if isinstance(error, daemons.Ended) else words[0]
            )
        runs.append(run)
        shown = ", ".join(
            f"{metric.rpartition('_')[0]} {report.quantity(metric, value)}"
            for metric, value in run.figures.items()
        )
        print(f": {shown or run.error} [{time.monotonic() - started:.1f} s]", file=sys.stderr, flush=True)
    return runs


def _rotated(names: list[str], turn: int) -> list[str]:
    """Another one begins in each round."""
    start = turn % len(names)
    return names[start:] + names[:start]


def main() -> int:
    """0; 1 when a target that was measured is not met or a run of bgpd failed."""
    chosen = arguments()
    if os.geteuid() != 0:
        print("bench: needs root, for network namespaces", file=sys.stderr)
        return 1
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    works = list(plan(chosen.only, chosen.sizes))
    try:
        runs = asyncio.run(measure(works, chosen.peers, chosen.rounds))
    except KeyboardInterrupt:
        print("\nbench: interrupted; nothing was written", file=sys.stderr)
        return 130
    about = report.environment(chosen.rounds)
    skipped = [
        f"{work}, {name}: {why}"
        for work in works
        for name in CASES[work.case]
        if (why := hopeless(work, name)) and name not in set(PEERS) - set(chosen.peers)
    ]
    if chosen.json is not None:
        chosen.json.write_text(report.as_json(runs, about))
    if chosen.out is not None:
        plot = chosen.out.with_suffix(".svg")
        plot.write_text(report.svg(runs))
        chosen.out.write_text(report.markdown(runs, about, skipped, plot.name))
        print(f"bench: written to {chosen.out}", file=sys.stderr)
    else:
        print(report.tables(runs))
    print(report.summary(runs))
    failed = any(verdict.met is False for verdict in report.verdicts(runs))
    return int(failed or any(run.error and run.subject == "bgpd" for run in runs))


if __name__ == "__main__":
    sys.exit(main())
