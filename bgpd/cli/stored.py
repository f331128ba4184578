"""The words of ``bgpctl``'s commands on the store: ``ipam``, ``get``, ``apply``, ``delete``. ``ctl`` asks for them;
what they do is in ``resources``, which is imported when one of them is run."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from bgpd.config.places import DEFAULT_CONFIG

Add = Callable[..., Any]


def register(add: Add, ask: Callable[[str], Any]) -> None:
    """Adds the commands. ``add(name, ask, text, to=..., outputs=...)`` makes one, ``ask`` what carries one out."""
    ipam = add("ipam", ask("show"), "addresses given out: show, check, release, configure")
    actions = ipam.add_subparsers(metavar="ACTION", required=True)

    command = add("show", ask("show"), "how much of the pools is used", to=actions)
    what = command.add_mutually_exclusive_group()
    what.add_argument("--show-blocks", action="store_true", help="each block too")
    what.add_argument(
        "--show-borrowed", action="store_true", help="addresses that nodes have of others' blocks"
    )
    what.add_argument("--show-configuration", action="store_true", help="the settings")
    what.add_argument("--ip", metavar="ADDRESS", help="who has this address")
    _where(command)

    command = add("check", ask("check"), "what contradicts itself; exit code 1 if anything", to=actions)
    command.add_argument("--release", action="store_true", help="remove what looks so for ten seconds")
    _where(command)

    command = add(
        "release", ask("release"), "take back an address, a handle's, or a node's blocks", to=actions
    )
    whose = command.add_mutually_exclusive_group(required=True)
    whose.add_argument("--ip", metavar="ADDRESS", help="one address")
    whose.add_argument("--handle", metavar="ID", help="all addresses of a handle")
    whose.add_argument("--node", metavar="NAME", help="a node that is no more")
    command.add_argument("--force", action="store_true", help="though there is a Node of that name")
    _where(command)

    command = add("configure", ask("configure"), "set how addresses are given out", to=actions)
    command.add_argument("--strictaffinity", type=_flag, metavar="true|false", help="no borrowing")
    command.add_argument(
        "--auto-allocate-blocks",
        type=_flag,
        metavar="true|false",
        help="whether nodes claim blocks on demand",
    )
    command.add_argument("--max-blocks-per-host", type=_number, metavar="N", help="0 is 20")
    command.add_argument("--ip-cooldown-seconds", type=_number, metavar="N", help="at most 1200")
    _where(command)

    command = add("get", ask("get"), "pools as they are stored", outputs=("table", "wide", "yaml", "json"))
    _of_pools(command)
    command.add_argument("name", nargs="?", metavar="NAME", help="only this one")
    _where(command)

    command = add("apply", ask("apply"), "write resources, checked as the API checks them")
    command.add_argument(
        "-f", "--filename", action="append", required=True, metavar="FILE", help="YAML, or - for stdin"
    )
    _where(command)

    command = add("delete", ask("delete"), "delete a pool: its blocks lose their nodes, then it goes")
    _of_pools(command)
    command.add_argument("name", metavar="NAME", help="the pool")
    command.add_argument("--force", action="store_true", help="though it has addresses in use")
    _where(command)


def _of_pools(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "kind",
        type=str.lower,
        choices=("ippools", "ippool", "pools", "pool"),
        metavar="ippools",
        help="the kind; ippool, pools and pool do too",
    )


def _where(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--config",
        default=DEFAULT_CONFIG,
        metavar="FILE",
        help=f"the daemon's configuration, which says where resources are: {DEFAULT_CONFIG}",
    )
    command.add_argument(
        "--resources", metavar="DIR", help="a directory of resources, in place of the configured one"
    )


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, not {text!r}")
    return text == "true"


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"expected a number, not {text!r}")
    return int(text)
