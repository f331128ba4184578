"""``bgpd-cni``: the pod's network, as Calico's main plugin lays it; addresses from the plugin that ``ipam.type`` names.

Our own IPAM is asked without another process; any other is run as the specification says (section 4).
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping
from typing import Any

from bgpd.cni import ipam, links
from bgpd.cni.request import ipam_options, previous_addresses, valid_attachments
from bgpd.cni.spec import CONFIG, DECODE, ENVIRONMENT, IO, KERNEL, UNSUPPORTED, Call, Failed
from bgpd.cni.spec import main as run

MTU_FILE = "/var/lib/calico/mtu"
DEFAULTS = {False: "0.0.0.0/0", True: "::/0"}


def add(call: Call) -> dict[str, Any]:
    if not os.path.exists(call.netns):
        raise Failed(ENVIRONMENT, f"CNI_NETNS: there is no {call.netns}")
    mtu = _mtu(call)
    try:
        result = _ipam(call, "ADD")
        assert result is not None
        addresses, wanted = _given(ipam_options(call).get("type"), result)
        versions = {":" in address for address in addresses}
        routes = wanted or [DEFAULTS[version] for version in sorted(versions)]
        mark = links.alias(call.network, call.container, call.interface)
        host = _host_link(call)
        made = links.lay(call.netns, call.interface, host, mark, mtu, addresses, routes)
    except Exception:
        _release(call)
        raise
    ips: list[dict[str, Any]] = [{"address": address, "interface": 1} for address in addresses]
    pod: dict[str, Any] = {"name": call.interface, "mac": made.mac, "sandbox": call.netns}
    if call.version.startswith("0."):
        ips = [{**ip, "version": "6" if ":" in ip["address"] else "4"} for ip in ips]
    elif call.version != "1.0.0":
        pod["mtu"] = made.mtu
    return {
        "interfaces": [{"name": host, "mac": links.HOST_MAC}, pod],
        "ips": ips,
        "routes": [{"dst": dst} for dst in routes],
        "dns": result.get("dns") or {},
    }


def delete(call: Call) -> None:
    """Takes all away, as far as it gets: the address is given back also where the link could not be removed."""
    mark = links.alias(call.network, call.container, call.interface)
    failed: Failed | None = None
    try:
        links.remove(call.netns, call.interface, _host_link(call), mark)
    except Failed as error:
        failed = error
    _ipam(call, "DEL")
    if failed is not None:
        raise failed


def check(call: Call) -> None:
    found = links.problems(call.netns, call.interface, _host_link(call), previous_addresses(call))
    if found:
        raise Failed(KERNEL, "; ".join(found))
    _ipam(call, "CHECK")


def collect(call: Call) -> None:
    """Links of containers that the runtime does not list, then their addresses."""
    valid = {links.alias(call.network, *attachment) for attachment in valid_attachments(call)}
    failures = []
    for mark, name in links.ours(call.network).items():
        if mark not in valid:
            try:
                links.delete(name)
            except Failed as failed:
                failures.append(failed.message)
    _ipam(call, "GC")
    if failures:
        raise Failed(KERNEL, "; ".join(failures))


def status(call: Call) -> None:
    _ipam(call, "STATUS")


def _host(address: str) -> str:
    """An address alone. Raises ``OSError`` for text that is none."""
    text = address.partition("/")[0]
    socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    return f"{text}/{128 if ':' in text else 32}"


def _network(text: str) -> str:
    length = int(text.partition("/")[2])
    most = _host(text).partition("/")[2]
    if not 0 <= length <= int(most):
        raise ValueError(f"{text!r} is no network")
    return text


def _host_link(call: Call) -> str:
    arguments = call.arguments()
    return links.host_name(
        call.container,
        call.interface,
        arguments.get("K8S_POD_NAME", ""),
        arguments.get("K8S_POD_NAMESPACE", ""),
    )


def _mtu(call: Call) -> int:
    """As configured, else as Calico's file says, else 0: the kernel's."""
    mtu = call.config.get("mtu") or 0
    if not mtu:
        try:
            with open(MTU_FILE, encoding="ascii") as file:
                mtu = int(file.read())
        except (OSError, ValueError):
            mtu = 0
    if not isinstance(mtu, int) or isinstance(mtu, bool) or (mtu and not 68 <= mtu <= 65535):
        raise Failed(UNSUPPORTED, f"mtu: expected a number from 68 to 65535, not {mtu!r}")
    return mtu


def _release(call: Call) -> None:
    """After an ADD that failed. What goes wrong here too is the runtime's DEL to mend, and not the error to report."""
    try:
        _ipam(call, "DEL")
    except Failed as failed:
        print(f"after the ADD that failed, giving back: {failed.message}", file=sys.stderr)


def _ipam(call: Call, verb: str) -> dict[str, Any] | None:
    kind = ipam_options(call).get("type")
    if not isinstance(kind, str) or not kind or "/" in kind:
        raise Failed(CONFIG, f"ipam.type: expected the name of a plugin, not {kind!r}")
    if kind == "bgpd-ipam":
        there = Call(verb, call.config, call.version, call.environment, call.text)
        return ipam.VERBS[verb](there)
    for directory in call.environment.get("CNI_PATH", "").split(":"):
        path = os.path.join(directory, kind)
        if directory and os.access(path, os.X_OK):
            break
    else:
        raise Failed(CONFIG, f"ipam.type: no plugin {kind!r} in CNI_PATH")
    import subprocess  # 8 ms, for an IPAM that is not ours

    environment = {**os.environ, "CNI_COMMAND": verb}
    try:
        done = subprocess.run(
            [path],
            input=call.text,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env=environment,
            check=False,
        )
    except OSError as error:
        raise Failed(IO, f"{path}: {error.strerror}") from None
    try:
        answer = json.loads(done.stdout) if done.stdout.strip() else {}
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise Failed(DECODE, f"{kind} answered no JSON object", done.stdout[:500])
    if done.returncode != 0:
        code = answer.get("code")
        raise Failed(
            code if isinstance(code, int) and code > 0 else IO,
            str(answer.get("msg") or done.stderr.strip() or f"{kind} ended with {done.returncode}"),
            str(answer.get("details") or ""),
        )
    return answer if verb == "ADD" else None


def _given(kind: object, result: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Of the result of an IPAM plugin the addresses, as /32 and /128, and the destinations of its routes."""
    try:
        addresses = [_host(ip["address"]) for ip in result.get("ips") or ()]
        routes = [_network(route["dst"]) for route in result.get("routes") or ()]
    except (TypeError, KeyError, ValueError, AttributeError, OSError) as error:
        raise Failed(
            DECODE, f"the result of {kind} cannot be read: {error!r}", json.dumps(result)[:500]
        ) from None
    if not addresses:
        raise Failed(CONFIG, f"{kind} gave no address")
    return addresses, routes


VERBS = {"ADD": add, "DEL": delete, "CHECK": check, "GC": collect, "STATUS": status}


def main() -> None:
    sys.exit(run(VERBS))


if __name__ == "__main__":
    main()
