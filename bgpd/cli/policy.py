"""``bgpd policy test``: what this node would make of routes, by its resources alone; no daemon, no root, no kernel.

``cli.daemon`` adds it; ``views.policy_test`` decides by the daemon's rules.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

from bgpd.cli.exits import Exit
from bgpd.cli.routes import PlacedRoute, RouteError, read_routes, written
from bgpd.cli.streams import complain, say
from bgpd.datastore.offline import Unreadable, read
from bgpd.model.peer import Peer
from bgpd.views.policy_test import (
    BadRoute,
    Direction,
    NodeView,
    NoSession,
    find_session,
    node_view,
    outcome,
    session_of,
)


def add_parser(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds ``policy`` and its action."""
    policy = commands.add_parser("policy", help="try filters and the built-in rules on routes")
    actions = policy.add_subparsers(metavar="ACTION", required=True)
    command = actions.add_parser(
        "test",
        help="what a peer would be sent, or may announce: a line of JSON for each route",
        description="What a peer of a node would be sent of routes, or what the node would make of routes that "
        "the peer announces, by the resources in a directory. Prints one JSON object a route, in their order.",
    )
    command.add_argument("--resources", type=Path, required=True, metavar="DIR", help="YAML and JSON files")
    command.add_argument("--node", required=True, metavar="NAME", help="whose policy it is")
    command.add_argument(
        "--peer", required=True, metavar="NAME", help="a session's name or address, or a BGPPeer's name"
    )
    command.add_argument(
        "--direction", required=True, choices=("import", "export"), help="from the peer, or to it"
    )
    command.add_argument(
        "routes", nargs="+", metavar="ROUTE.json", help="one route or a list of them; - is standard input"
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The command; returns 0, or 2 when the input is bad."""
    logging.getLogger("bgpd").addHandler(logging.NullHandler())  # what is wrong is reported below, not logged
    try:
        routes = [route for name in arguments.routes for route in read_routes(name)]
        snapshot = read(arguments.resources, arguments.node)
        node = node_view(snapshot, arguments.node)
        for problem in dict.fromkeys((*snapshot.problems, *node.peering.problems)):
            complain(f"bgpd: warning: {problem}\n")
        peer = session_of(node, find_session(node.peering, arguments.peer))
        answers = [_answer(node, peer, arguments.direction, route) for route in routes]
    except (RouteError, Unreadable, NoSession) as error:
        complain(f"bgpd: {error}\n")
        return Exit.USAGE
    for answer in answers:
        say(json.dumps(answer) + "\n")
    return Exit.OK


def _answer(node: NodeView, peer: Peer, direction: Direction, placed: PlacedRoute) -> dict[str, Any]:
    route = placed.route
    try:
        found = outcome(node, peer, direction, route)
    except BadRoute as error:
        placed.bad(error.key, error.message)
    shown = written(route.family, route.prefix, found.attributes)
    return {
        "prefix": shown.pop("prefix"),
        "action": "accept" if found.accepted else "reject",
        "rule": found.rule,
        **shown,
    }
