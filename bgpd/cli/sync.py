"""``bgpd sync``: a directory of resources kept equal to the API server's, for a bgpd without credentials."""

from __future__ import annotations

import argparse
import asyncio
import signal
import socket
from pathlib import Path
from typing import Any

from bgpd.cli.exits import Exit
from bgpd.cli.streams import complain


def add_parser(commands: Any) -> None:
    """Adds the command."""
    command = commands.add_parser(
        "sync",
        help="keep a directory of resources equal to the API server's",
        description="Keep a directory of resources equal to what a node needs of the API server's, for a bgpd with "
        "datastore.type files and without credentials. Files are replaced as a whole; .synced there has the time "
        "at which they were last known to be true.",
    )
    command.add_argument(
        "--from",
        dest="kubeconfig",
        type=Path,
        required=True,
        metavar="KUBECONFIG",
        help="where the API server is, and who reads it",
    )
    command.add_argument(
        "--to", dest="directory", type=Path, required=True, metavar="DIR", help="a directory that exists"
    )
    command.add_argument("--context", metavar="NAME", help="of the kubeconfig; its current one by default")
    command.add_argument(
        "--namespace", metavar="NAME", help="of the Secrets with passwords; the context's by default"
    )
    command.add_argument(
        "--node",
        default=socket.gethostname().lower(),
        metavar="NAME",
        help="whose; this host's name by default",
    )
    command.add_argument(
        "--all-blocks", action="store_true", help="for originate.ipam_early and bgpctl blocks"
    )
    command.add_argument("--once", action="store_true", help="end when all is written")
    command.set_defaults(run=_sync)


def _sync(arguments: argparse.Namespace) -> int:
    from bgpd.datastore.kubernetes.client import Access
    from bgpd.datastore.kubernetes.feeds import Kubernetes
    from bgpd.datastore.mirror import mirror
    from bgpd.observe.log import configure

    directory: Path = arguments.directory.absolute()
    if not directory.is_dir():
        complain(f"bgpd: --to {directory}: there is no such directory\n")
        return Exit.FAILED
    configure("info", "auto")
    access = Access(arguments.kubeconfig.absolute(), arguments.context)

    async def run() -> None:
        task = asyncio.current_task()
        assert task is not None
        for signum in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signum, task.cancel)
        source = Kubernetes(access, arguments.node, arguments.all_blocks, arguments.namespace)
        await mirror(source, arguments.node, directory, arguments.once)

    try:
        asyncio.run(run())
    except asyncio.CancelledError:
        return Exit.OK
    except OSError as error:
        complain(f"bgpd: {error.filename or directory}: {error.strerror}\n")
        return Exit.FAILED
    return Exit.OK
