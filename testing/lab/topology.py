"""Reads a containerlab topology file and checks all of it before anything is made.

Called by ``lab`` and, for the files that are shipped, by the tests. The format is containerlab's (its manual: "Topology
definition file"): ``name`` and ``topology`` with ``defaults``, ``kinds``, ``groups``, ``nodes`` and ``links``. Of it
the lab takes nodes of kind ``linux`` and ``bridge`` with ``exec``, ``cmd``, ``env``, ``binds``, ``sysctls``, and veth
links in the brief and the extended form. Keys that speak to a container engine only are let pass without effect; any
other key is an error, since a topology that comes up other than it was written is worse than none.

As in containerlab, ``$VAR``, ``${VAR}`` and ``${VAR:-default}`` are replaced from the environment (what is unset and
has no default stays as it is written, ``$$`` is a dollar sign), a link without ``mtu`` has 9500, and ``eth0`` is the
engine's but with ``network-mode: none``; unlike there, a ``group`` that is not defined is an error. Relative bind
sources start at the file's directory, ``__clabNodeName__`` in a bind is the node's name and ``__clabDir__`` at its
start the lab's own directory, which is empty at first and goes with the lab. Settings are laid over each other:
defaults, kind, group, node; maps are merged, binds by their target, ``exec`` lists joined.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from bgpd.config.yaml import YamlError, load_documents

ENGINE_KEYS = frozenset(
    (
        "cap-add",
        "cpu",
        "cpu-set",
        "image",
        "image-pull-policy",
        "labels",
        "memory",
        "privileged",
        "restart-policy",
    )
)
"""Keys of a node that are for the container engine and change nothing in the lab."""


LAB_DIRECTORY = Path("__clabDir__")
"""The first part of a bind's source that is inside the lab's own directory, wherever that will be."""


class TopologyError(Exception):
    """The file cannot be laid as it is. One line a mistake: file, key, what was expected."""


def _scalar_text(value: object) -> object:
    """``FORWARDING: 1`` means the text ``1``, ``true`` the text ``true``."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


Text = Annotated[str, BeforeValidator(_scalar_text)]
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"
INTERFACE = r"^[^\s/:]{1,15}$"
MAC = r"^([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}$"
_IN_WORDS = {
    NAME: "a name of letters, digits, '_', '.' and '-'",
    INTERFACE: "an interface's name, at most 15 characters",
    MAC: "a MAC address, 02:00:00:00:00:01",
}
_VARIABLE = re.compile(
    r"\$(?:\$|(?P<plain>[A-Za-z_]\w*)|\{(?P<name>[A-Za-z_]\w*)(?:(?P<operator>:?[-=+])(?P<word>[^}\n]*))?\}|\{[^}\n]*\}?)",
    re.ASCII,
)
NodeName = Annotated[str, StringConstraints(pattern=NAME)]
InterfaceName = Annotated[str, StringConstraints(pattern=INTERFACE)]
Kind = Literal["linux", "bridge"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Bind(_Strict):
    """A file or directory of the machine that a node sees at another place."""

    source: Path
    """Absolute, or below ``LAB_DIRECTORY``."""
    target: str
    read_only: bool = False


class Endpoint(_Strict):
    """One end of a link; ``node:interface`` in the brief form."""

    node: str
    interface: InterfaceName
    mac: Annotated[str, StringConstraints(pattern=MAC)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _brief(cls, value: object) -> object:
        if isinstance(value, str):
            node, colon, interface = value.partition(":")
            if not (node and colon and interface):
                raise ValueError(f"{value!r} is not of the form node:interface")
            return {"node": node, "interface": interface}
        return value

    def __str__(self) -> str:
        return f"{self.node}:{self.interface}"


class Link(_Strict):
    """A cable: a pair of veth interfaces."""

    type: Literal["veth"] = "veth"
    endpoints: tuple[Endpoint, Endpoint]
    mtu: Annotated[int, Field(ge=68, le=65535)] = 9500


class NodeSpec(_Strict):
    """A node with all its settings laid together. Commands are words, not shell lines."""

    kind: Kind
    cmd: tuple[str, ...] = ()
    commands: tuple[tuple[str, ...], ...] = ()
    binds: tuple[Bind, ...] = ()
    env: dict[str, str] = {}
    sysctls: dict[str, str] = {}


class Topology(_Strict):
    """A checked topology: what ``Lab`` lays."""

    name: NodeName
    source: Path
    nodes: dict[str, NodeSpec]
    links: tuple[Link, ...] = ()


class _Settings(_Strict):
    """What may be stated of a node, of a group, of a kind or by default."""

    kind: Kind | None = None
    group: str | None = None
    cmd: str | None = None
    exec_: list[str] = Field(default=[], alias="exec")
    binds: list[str] = []
    env: dict[str, Text] = {}
    sysctls: dict[str, Text] = {}
    network_mode: Literal["none"] | None = Field(default=None, alias="network-mode")

    @model_validator(mode="before")
    @classmethod
    def _drop_engine_keys(cls, value: object) -> object:
        if value is None:  # "worker1:" with nothing below it
            return {}
        if isinstance(value, dict):
            return {key: item for key, item in value.items() if key not in ENGINE_KEYS}
        return value


class _Sections(_Strict):
    defaults: _Settings = _Settings()
    kinds: dict[Kind, _Settings] = {}
    groups: dict[str, _Settings] = {}
    nodes: Annotated[dict[NodeName, _Settings], Field(min_length=1)]
    links: list[Link] = []


class _File(_Strict):
    name: NodeName
    prefix: Any = None  # of containers' names and of the network for their management: the lab has neither
    mgmt: Any = None
    topology: _Sections


def load_topology(
    path: Path, name: str | None = None, environment: Mapping[str, str] | None = None
) -> Topology:
    """Reads and checks a file; ``name`` replaces the one it gives, ``environment`` is laid over this process's.
    ``TopologyError`` names every mistake."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TopologyError(f"{path}: cannot be read: {getattr(error, 'strerror', error)}") from None
    document = read_yaml(_expand(text, path, {**os.environ, **(environment or {})}), path)
    if name is not None and isinstance(document, dict):
        document = {**document, "name": name}
    try:
        file = _File.model_validate(document)
    except ValidationError as error:
        raise TopologyError("\n".join(f"{path}: {line}" for line in _explain(error))) from None
    nodes: dict[str, NodeSpec] = {}
    mistakes: list[str] = []
    for node_name, settings in file.topology.nodes.items():
        key = f"topology.nodes.{node_name}"
        try:
            nodes[node_name] = _resolve(node_name, settings, file.topology, path.parent.absolute())
        except ValueError as error:
            mistakes += [f"{key}.{line}" for line in str(error).splitlines()]
    mistakes += _check_links(file.topology)
    if mistakes:
        raise TopologyError("\n".join(f"{path}: {mistake}" for mistake in mistakes))
    return Topology(name=file.name, source=path.absolute(), nodes=nodes, links=tuple(file.topology.links))


def _expand(text: str, path: Path, environment: Mapping[str, str]) -> str:
    """Replaces environment variables, as containerlab does before it reads the YAML."""

    def value(found: re.Match[str]) -> str:
        name = found["plain"] or found["name"]
        if name is None:
            if found[0] == "$$":
                return "$"
            line = text.count("\n", 0, found.start()) + 1
            raise TopologyError(
                f"{path}:{line}: {found[0]!r}: expected ${{VAR}} or ${{VAR:-default}}, and $$ for a dollar sign"
            )
        set_to, operator, word = environment.get(name), found["operator"] or "", found["word"] or ""
        there = bool(set_to) if operator.startswith(":") else set_to is not None
        if operator.endswith("+"):
            return word if there else ""
        if operator:
            return (set_to or "") if there else word
        return found[0] if set_to is None else set_to

    return _VARIABLE.sub(value, text)


def read_yaml(text: str | bytes, path: Path) -> object:
    """The one document of a file; ``TopologyError`` where there is another number of them, or what is no YAML."""
    try:
        documents = load_documents(text, str(path))
    except YamlError as error:
        raise TopologyError(str(error)) from None
    if len(documents) != 1:
        raise TopologyError(f"{path}: {len(documents)} documents, expected one")
    return documents[0].value


def _resolve(name: str, own: _Settings, sections: _Sections, directory: Path) -> NodeSpec:
    """Lays defaults, kind, group and node over each other; ``ValueError`` has one line a mistake."""
    group_name = own.group or sections.defaults.group
    if group_name is not None and group_name not in sections.groups:
        raise ValueError(f"group: no group {group_name!r}, expected {_one_of(sections.groups)}")
    group = sections.groups.get(group_name or "", _Settings())
    kind = own.kind or group.kind or sections.defaults.kind
    if kind is None:
        raise ValueError("kind: missing, expected linux or bridge")
    if kind == "bridge":
        if own.cmd or own.exec_ or own.binds:
            raise ValueError("kind: a bridge runs nothing, expected no cmd, exec or binds")
        if len(name) > 15:
            raise ValueError("kind: a bridge is called as its node, expected a name of at most 15 characters")
        return NodeSpec(kind=kind)
    layers = [sections.defaults, sections.kinds.get(kind, _Settings()), group, own]
    mistakes: list[str] = []

    def words(key: str, command: str) -> tuple[str, ...]:
        try:
            parts = tuple(shlex.split(command))
        except ValueError as error:
            mistakes.append(f"{key}: {command!r}: {error}")
            return ()
        if not parts:
            mistakes.append(f"{key}: empty, expected a command")
        return parts

    binds: dict[str, Bind] = {}
    for text in (text for layer in layers for text in layer.binds):
        try:
            bind = _bind(text.replace("__clabNodeName__", name), directory)
            binds[bind.target] = bind
        except ValueError as error:
            mistakes.append(f"binds: {error}")
    cmd = next((layer.cmd for layer in reversed(layers) if layer.cmd is not None), None)
    sysctls = {key: value for layer in layers for key, value in layer.sysctls.items()}
    for key in sysctls:
        if not Path("/proc/sys", *key.split(".")).is_file():
            mistakes.append(f"sysctls: no {key!r} in this kernel")
    spec = NodeSpec(
        kind=kind,
        cmd=words("cmd", cmd) if cmd is not None else (),
        commands=tuple(words("exec", command) for layer in layers for command in layer.exec_),
        binds=tuple(binds.values()),
        env={key: value for layer in layers for key, value in layer.env.items()},
        sysctls=sysctls,
    )
    if mistakes:
        raise ValueError("\n".join(mistakes))
    return spec


def _bind(text: str, directory: Path) -> Bind:
    parts = text.split(":")
    if (
        len(parts) not in (2, 3)
        or not parts[0]
        or not parts[1].startswith("/")
        or parts[2:] not in ([], ["ro"], ["rw"])
    ):
        raise ValueError(f"{text!r}: expected source:/target, :ro or :rw after it")
    source = Path(os.path.normpath(parts[0]))
    if LAB_DIRECTORY not in source.parents:
        source = directory / source.expanduser()
    if source.is_absolute() and not source.exists():
        raise ValueError(f"{text!r}: source {source} is not there")
    target = PurePosixPath(os.path.normpath(parts[1]))
    if len(target.parts) < 3 and not Path(target).exists():
        raise ValueError(f"{text!r}: expected a target inside a directory, since the lab adds nothing to /")
    return Bind(source=source, target=str(target), read_only=parts[2:] == ["ro"])


def _check_links(sections: _Sections) -> list[str]:
    """Each end at a node that is there, each interface used once."""
    mistakes = []
    used: dict[str, int] = {}
    for number, link in enumerate(sections.links):
        key = f"topology.links.{number}.endpoints"
        for endpoint in link.endpoints:
            if endpoint.node not in sections.nodes:
                mistakes.append(
                    f"{key}: no node {endpoint.node!r} ({endpoint}), expected {_one_of(sections.nodes)}"
                )
            elif str(endpoint) in used:
                mistakes.append(
                    f"{key}: {endpoint} is used already by links.{used[str(endpoint)]}, expected a free one"
                )
            elif endpoint.interface == "eth0" and _of_engine(sections.nodes[endpoint.node], sections):
                mistakes.append(
                    f"{key}: {endpoint}: a container engine makes eth0, expected another name or the node's "
                    "network-mode: none"
                )
            elif endpoint.interface == "lo":
                mistakes.append(f"{key}: {endpoint}: the node has a lo of its own, expected another name")
            used.setdefault(str(endpoint), number)
    return mistakes


def _of_engine(own: _Settings, sections: _Sections) -> bool:
    """Whether a container engine would give the node its network for management, as ``eth0``."""
    group = sections.groups.get(own.group or sections.defaults.group or "", _Settings())
    kind = own.kind or group.kind or sections.defaults.kind
    layers = (own, group, sections.kinds.get(kind, _Settings()) if kind else own, sections.defaults)
    return kind != "bridge" and all(layer.network_mode is None for layer in layers)


def _explain(error: ValidationError) -> Iterator[str]:
    """Pydantic's errors as ``key.path: what was expected``."""
    for detail in error.errors(include_url=False):
        location = tuple(str(part) for part in detail["loc"] if part != "[key]")
        key = ".".join(location) or "the whole file"
        if detail["type"] == "extra_forbidden":
            yield f"{key}: unknown key, expected one of: {', '.join(_known_keys(location))}"
        elif "endpoints" in location[-2:] and detail["type"] in ("missing", "too_long"):
            yield f"{key}: expected two ends, node:interface each"
        elif detail["type"] == "missing":
            yield f"{key}: missing"
        elif detail["type"] == "string_pattern_mismatch":
            yield f"{key}: {detail['input']!r}: expected {_IN_WORDS[detail['ctx']['pattern']]}"
        elif detail["type"] in ("model_type", "dict_type"):
            yield f"{key}: expected keys and values"
        elif detail["type"] == "value_error":
            yield f"{key}: {detail['ctx']['error']}"
        else:
            yield f"{key}: {detail['input']!r}: {_sentence(detail['msg'])}"


def _known_keys(location: tuple[str, ...]) -> list[str]:
    """The keys that may stand where an unknown one was found."""
    model: type[BaseModel] = _Settings
    if len(location) == 1:
        model = _File
    elif len(location) == 2:
        model = _Sections
    elif location[1] == "links":
        model = Link if len(location) == 4 else Endpoint
    return [field.alias or name for name, field in model.model_fields.items()]


def _sentence(message: str) -> str:
    """``Input should be 'linux' or 'bridge'`` -> ``expected 'linux' or 'bridge'``."""
    return re.sub(r"^Input should be( a valid)? ", "expected ", message)


def _one_of(names: dict[str, Any]) -> str:
    return "one of: " + ", ".join(names) if names else "none, since none are defined"
