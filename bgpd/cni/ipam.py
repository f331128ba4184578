"""``bgpd-ipam``: addresses for any main plugin that has it as ``ipam.type`` (CNI specification 1.1.0, section 4)."""

from __future__ import annotations

import sys
from typing import Any

from bgpd.cni.request import ask, order
from bgpd.cni.spec import UNAVAILABLE, Call, Failed
from bgpd.cni.spec import main as run


def add(call: Call) -> dict[str, Any]:
    answer = ask(call, order(call))
    return {"ips": [_ip(call, one) for one in answer["ips"]], "routes": [], "dns": {}}


def _ip(call: Call, one: dict[str, str]) -> dict[str, Any]:
    """With the block's length where it came from one, as Calico's plugin answers; up to 0.4 with its version."""
    found: dict[str, Any] = {"address": f"{one['address']}/{one['block'].partition('/')[2]}"}
    if call.version.startswith("0."):
        found["version"] = "6" if ":" in one["address"] else "4"
    return found


def delete(call: Call) -> None:
    wanted = order(call)
    if "pod" in wanted:
        wanted["old_handles"] = [f"{wanted['namespace']}.{wanted['pod']}"]  # of Calico 2
    ask(call, wanted)


def check(call: Call) -> None:
    ask(call, order(call))


def collect(call: Call) -> None:
    ask(call, order(call))


def status(call: Call) -> None:
    try:
        ask(call, order(call))
    except Failed as failed:
        raise Failed(UNAVAILABLE, failed.message, failed.details) from None


VERBS = {"ADD": add, "DEL": delete, "CHECK": check, "GC": collect, "STATUS": status}


def main() -> None:
    sys.exit(run(VERBS))


if __name__ == "__main__":
    main()
