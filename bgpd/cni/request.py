"""What a configuration, its runtime and the pod's annotations ask for, as an order to the allocator; and who gets it.

Where several say something of the same, the pod wins over the runtime and the runtime over the configuration. Calico's
annotations ``cni.projectcalico.org/ipv4pools``, ``ipv6pools``, ``ipFamilies`` and ``ipAddrs`` come with the runtime
(containerd's ``io.kubernetes.cri.pod-annotations`` in ``runtimeConfig``, ``args.cni.annotations``), the runtime's own
wishes as ``runtimeConfig.ips``, ``args.cni.ips`` and ``IP`` of CNI_ARGS.
"""

from __future__ import annotations

import json
import os
import socket
from typing import Any

from bgpd.cni.spec import CONFIG, OWN, TRY_LATER, Call, Failed
from bgpd.config.places import DEFAULT_CONFIG

SOCKET = "/run/bgpd/api.sock"
NODENAME = "/var/lib/calico/nodename"
TIMEOUT = 90.0
"""Seconds for the daemon to answer."""
_PREFIX = "cni.projectcalico.org/"


def order(call: Call) -> dict[str, Any]:
    """What the verb asks of the allocator."""
    options = ipam_options(call)
    found: dict[str, Any] = {"verb": call.verb.lower(), "node": node_name(call)}
    if call.verb in ("ADD", "STATUS"):
        notes = pod_annotations(call) if call.verb == "ADD" else {}
        families = _annotation(notes, "ipFamilies")
        for key, family, default in (("ipv4", "IPv4", True), ("ipv6", "IPv6", False)):
            wanted = _flag(options, f"assign_{key}", default) if families is None else family in families
            found[key] = int(wanted)
            pools = _annotation(notes, f"{key}pools")
            found[f"{key}_pools"] = pools if pools is not None else _texts(options, f"{key}_pools")
    if call.verb == "GC":
        found |= {"valid": valid_attachments(call), "network": call.network}
    if call.verb in ("ADD", "DEL", "CHECK"):
        arguments = call.arguments()
        found |= {"handle": f"{call.network}.{call.container}", "interface": call.interface}
        pod, namespace = arguments.get("K8S_POD_NAME"), arguments.get("K8S_POD_NAMESPACE")
        if pod and namespace:
            found |= {"pod": pod, "namespace": namespace}
        if call.verb == "ADD":
            found["addresses"] = _addresses(call, arguments, notes)
        elif call.verb == "CHECK":
            found["addresses"] = [ip.partition("/")[0] for ip in previous_addresses(call)]
    return found


def ipam_options(call: Call) -> dict[str, Any]:
    options = call.config.get("ipam", {})
    if not isinstance(options, dict):
        raise Failed(CONFIG, "ipam: expected keys and values")
    return options


def valid_attachments(call: Call) -> list[tuple[str, str]]:
    """Container and interface of what the runtime has. What it has not is removed, so a list that is not there, or says
    something else, is refused: only an empty one (``null`` in Go) says that there is nothing."""
    key = "cni.dev/valid-attachments"
    listed = call.config.get(key, 0)
    if listed is None:
        return []
    try:
        found = [(entry["containerID"], entry["ifname"]) for entry in listed]
    except (TypeError, KeyError):
        found = [("", "")]
    if isinstance(listed, list) and all(isinstance(text, str) and text for entry in found for text in entry):
        return found
    raise Failed(CONFIG, f"{key}: expected a list with containerID and ifname of each")


def previous_addresses(call: Call) -> list[str]:
    """``prevResult.ips``, with their lengths."""
    try:
        return [str(ip["address"]) for ip in (call.config.get("prevResult") or {}).get("ips") or ()]
    except (TypeError, KeyError, AttributeError):
        raise Failed(CONFIG, "prevResult.ips: expected a list of addresses") from None


def node_name(call: Call) -> str | None:
    """The node that this is: as configured, from Calico's file, else what the daemon says, else the host's name."""
    for source in (ipam_options(call), call.config):
        if isinstance(name := source.get("nodename"), str) and name:
            return name
    path = call.config.get("nodename_file") or NODENAME
    try:
        with open(str(path), encoding="utf-8") as file:
            return file.read().strip() or None
    except (OSError, ValueError):  # a path with a null, a file that is no text
        return None


def pod_annotations(call: Call) -> dict[str, str]:
    """The pod's, as far as the runtime reports them."""
    runtime, args = call.config.get("runtimeConfig") or {}, call.config.get("args") or {}
    try:
        annotated = runtime.get("io.kubernetes.cri.pod-annotations") or {}
        found = {**((args.get("cni") or {}).get("annotations") or {}), **annotated}
    except (AttributeError, TypeError):
        raise Failed(CONFIG, "runtimeConfig and args: expected keys and values") from None
    return {str(key): str(value) for key, value in found.items()}


def _annotation(notes: dict[str, str], name: str) -> list[str] | None:
    text = notes.get(_PREFIX + name)
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, list) or not value or not all(isinstance(entry, str) for entry in value):
        raise Failed(CONFIG, f"annotation {_PREFIX}{name}: expected a JSON list of texts, not {text!r}")
    return value


def _addresses(call: Call, arguments: dict[str, str], notes: dict[str, str]) -> list[str]:
    """The addresses that were asked for by name: one of a version at most."""
    named = _annotation(notes, "ipAddrs")
    if named is None:
        runtime, args = call.config.get("runtimeConfig") or {}, call.config.get("args") or {}
        named = runtime.get("ips") or (args.get("cni") or {}).get("ips")
    if not named and arguments.get("IP"):
        named = [arguments["IP"]]
    if not named:
        return []
    if not isinstance(named, list) or not all(isinstance(text, str) for text in named):
        raise Failed(CONFIG, f"ips: expected a list of addresses, not {named!r}")
    found = [text.partition("/")[0] for text in named]
    for wanted in (True, False):
        if sum((":" in text) is wanted for text in found) > 1:
            raise Failed(CONFIG, f"at most one address of a version may be asked for, not {', '.join(found)}")
    return found


def _flag(options: dict[str, Any], key: str, default: bool) -> bool:
    value = options.get(key, default)
    if value not in (True, False, "true", "false"):
        raise Failed(CONFIG, f"ipam.{key}: expected true or false, not {value!r}")
    return value in (True, "true")


def _texts(options: dict[str, Any], key: str) -> list[str]:
    value = options.get(key) or []
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise Failed(CONFIG, f"ipam.{key}: expected a list of names or CIDRs, not {value!r}")
    return value


# -- who answers -------------------------------------------------------------------------------------------------------


def ask(call: Call, wanted: dict[str, Any]) -> dict[str, Any]:
    """The answer to an order: the daemon's, or where it is away our own. Raises ``Failed`` for a refusal."""
    path = str(ipam_options(call).get("socket") or SOCKET)
    answer = _daemon(path, wanted)
    if answer is None or (answer.get("error") or {}).get("code") == "unwritable":
        # The daemon may be kept from writing (ProtectSystem); the runtime runs us as root.
        answer = _ourselves(call, wanted)
    error = answer.get("error")
    if error is not None:
        raise Failed(OWN.get(error["code"], CONFIG), error["message"], error["code"])
    return answer


def _daemon(path: str, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """``None`` where no daemon listens, or it is one that gives no addresses. One that took the order and then broke
    off may have carried it out: that is an error, and the runtime's DEL clears it up."""
    body = json.dumps(wanted).encode()
    head = f"POST /v1/ipam HTTP/1.0\r\nHost: bgpd\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT)
        try:
            connection.connect(path)
        except OSError:
            return None
        try:
            connection.sendall(head.encode() + body)
            received = b""
            while piece := connection.recv(65536):
                received += piece
        except OSError as error:
            raise Failed(TRY_LATER, f"bgpd on {path} did not answer: {error.strerror or error}") from None
    status, _, content = received.partition(b"\r\n\r\n")
    code = status.split(b" ", 2)[1:2]
    if code in ([b"404"], [b"405"], [b"501"]):
        return None
    try:
        answer = json.loads(content)
        if code == [b"200"] and isinstance(answer, dict):
            return answer
    except ValueError:
        answer = {}
    raise Failed(TRY_LATER, f"bgpd on {path} broke off its answer", str(answer.get("error") or "")[:500])


def _ourselves(call: Call, wanted: dict[str, Any]) -> dict[str, Any]:
    """On the store, without the daemon: the directory that ``ipam.resources`` names, else the daemon's datastore."""
    from pathlib import Path

    from bgpd.datastore.allocator import Allocator, configured_store
    from bgpd.datastore.files_store import FilesStore
    from bgpd.datastore.store import Executor, Store
    from bgpd.model.ipam import StoreUnwritten
    from bgpd.rules.ipam.steps import Invalid

    options = ipam_options(call)
    store: Store
    if options.get("resources"):
        store, node = FilesStore(Path(str(options["resources"]))), os.uname().nodename.lower()
    else:
        path = Path(str(options.get("config") or DEFAULT_CONFIG))
        try:
            store, node = configured_store(path)
        except StoreUnwritten as error:
            raise Failed(TRY_LATER, str(error), "store") from None
        except Invalid as error:
            raise Failed(CONFIG, str(error), error.code) from None
    allocator = Allocator(Executor(store), wanted["node"] or node)
    try:
        return allocator.perform(wanted)
    finally:
        allocator.close()
