"""The protocol between a runtime and a plugin: verb and names in the environment, configuration on stdin, the result or
an error as JSON on stdout (CNI specification 1.1.0, sections 2 and 5). Both plugins are run by ``main``."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
SINCE = {"CHECK": (0, 4, 0), "GC": (1, 1, 0), "STATUS": (1, 1, 0)}
NEEDED = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "GC": ("CNI_PATH",),
    "STATUS": ("CNI_PATH",),
}

INCOMPATIBLE, UNSUPPORTED, UNKNOWN_CONTAINER, ENVIRONMENT, IO, DECODE, CONFIG = 1, 2, 3, 4, 5, 6, 7
TRY_LATER, UNAVAILABLE = 11, 50
OWN = {
    "exhausted": 101,
    "block-limit": 102,
    "no-new-blocks": 103,
    "address-taken": 104,
    "strict-affinity": 105,
    "outside-every-pool": 106,
    "no-pool": 107,
    "no-such-pool": 108,
    "no-such-node": 109,
    "not-allocated": 110,
    "store": TRY_LATER,
    "unwritable": TRY_LATER,
    "not-ready": TRY_LATER,
    "contended": TRY_LATER,
    "invalid": CONFIG,
}
"""Codes of errors by the names that IPAM gives them; from 100 on they are ours (docs/cni.md)."""
KERNEL = 120
"""The network of the pod could not be laid."""
BUG = 100
"""A mistake in the plugin itself, with its traceback on stderr."""


class Failed(Exception):
    """What a plugin ends with instead of a result."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.details = code, message, details


class Call(NamedTuple):
    """One run of a plugin."""

    verb: str
    config: Mapping[str, Any]
    version: str
    environment: Mapping[str, str]
    text: str
    """The configuration as it came, for a plugin that this one runs."""

    @property
    def network(self) -> str:
        return str(self.config["name"])

    @property
    def container(self) -> str:
        return self.environment["CNI_CONTAINERID"]

    @property
    def interface(self) -> str:
        return self.environment["CNI_IFNAME"]

    @property
    def netns(self) -> str:
        return self.environment.get("CNI_NETNS", "")

    def arguments(self) -> dict[str, str]:
        """CNI_ARGS, ``KEY=value;KEY=value``."""
        found = {}
        for word in filter(None, self.environment.get("CNI_ARGS", "").split(";")):
            key, equals, value = word.partition("=")
            if equals:
                found[key] = value
            elif self.verb != "DEL":  # which takes away what is there, whatever else it is given
                raise Failed(ENVIRONMENT, f"CNI_ARGS: expected KEY=value, not {word!r}")
        return found


Verbs = Mapping[str, Callable[[Call], "dict[str, Any] | None"]]


def main(verbs: Verbs) -> int:
    """Runs a plugin; its exit code."""
    version = "1.0.0"
    try:
        try:
            text = sys.stdin.read()
        except UnicodeDecodeError as error:
            raise Failed(DECODE, f"the configuration on stdin is no UTF-8: {error}") from None
        verb = os.environ.get("CNI_COMMAND", "")
        config = _decoded(text)
        version = str(config.get("cniVersion") or "0.2.0")
        if verb == "VERSION":
            _print({"cniVersion": version, "supportedVersions": list(VERSIONS)})
            return 0
        if verb not in verbs:
            raise Failed(
                ENVIRONMENT, f"CNI_COMMAND: expected one of {', '.join((*verbs, 'VERSION'))}, not {verb!r}"
            )
        call = _call(verb, config, version, text)
        result = verbs[verb](call)
        if result is not None:
            _print({"cniVersion": version, **result})
        return 0
    except Failed as failed:
        answer = {"cniVersion": version, "code": failed.code, "msg": failed.message}
        _print({**answer, "details": failed.details} if failed.details else answer)
        return 1
    except Exception as error:
        import traceback

        traceback.print_exc()
        _print(
            {"cniVersion": version, "code": BUG, "msg": f"{type(error).__name__}: {error}", "details": "bug"}
        )
        return 1


def _decoded(text: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
        odd = next((one for one in _texts(config) if not _writable(one)), None)
    except (ValueError, RecursionError) as error:
        raise Failed(DECODE, f"the configuration on stdin is no JSON: {error}") from None
    if not isinstance(config, dict):
        raise Failed(DECODE, "the configuration on stdin is no object")
    if odd is not None:
        raise Failed(DECODE, f"the configuration on stdin has a text that no file can be called by: {odd!r}")
    return config


def _texts(value: object) -> Iterator[str]:
    """Every key and text inside."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, one in value.items():
            yield key
            yield from _texts(one)
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)


def _writable(text: str) -> bool:
    """Whether a text is whole Unicode without a NUL: JSON can have halves of pairs, an environment any octets."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _call(verb: str, config: dict[str, Any], version: str, text: str) -> Call:
    if version not in VERSIONS:
        raise Failed(INCOMPATIBLE, f"cniVersion {version!r} is not one of {', '.join(VERSIONS)}")
    if tuple(map(int, version.split("."))) < SINCE.get(verb, (0, 0, 0)):
        raise Failed(INCOMPATIBLE, f"{verb} is not part of cniVersion {version}")
    name = config.get("name")
    if not isinstance(name, str) or not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*", name):
        raise Failed(CONFIG, f"name: expected letters, digits, _ . and -, not {name!r}")
    environment = {key: value for key, value in os.environ.items() if key.startswith("CNI_")}
    for key, value in environment.items():
        if not _writable(value):
            raise Failed(ENVIRONMENT, f"{key}: expected UTF-8, not {value!r}")
    missing = [key for key in NEEDED[verb] if not environment.get(key)]
    if missing:
        raise Failed(ENVIRONMENT, f"missing in the environment: {', '.join(missing)}")
    container, interface = environment.get("CNI_CONTAINERID", ""), environment.get("CNI_IFNAME", "")
    if "CNI_CONTAINERID" in NEEDED[verb]:
        if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*", container):
            raise Failed(
                ENVIRONMENT, f"CNI_CONTAINERID: expected letters, digits, _ . and -, not {container!r}"
            )
        if (
            not re.fullmatch(r"[^/:\s]+", interface)
            or len(interface.encode()) > 15
            or interface in (".", "..")
            or not interface.isprintable()
        ):
            raise Failed(ENVIRONMENT, f"CNI_IFNAME: not the name of an interface: {interface!r}")
    if verb == "CHECK" and not isinstance(config.get("prevResult"), dict):
        raise Failed(CONFIG, "prevResult: expected the result of ADD")
    return Call(verb, config, version, environment, text)


def _print(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
