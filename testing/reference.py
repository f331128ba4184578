"""The reference, made from the code: what the commands take, what bgpd.yaml may hold, what Prometheus reads.

One page is one ``Page``. It is written twice: as Markdown for ``docs/reference`` and as a manual page.
``make reference`` writes the Markdown; a test holds it equal to the code. The manual pages are
written where a package is made.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client.metrics_core import Metric

from bgpd import __version__
from bgpd.cli import ctl_words, daemon
from bgpd.config.schema import schema
from bgpd.model.bfd import BfdReport
from bgpd.model.status import DatastoreStatus, Status
from bgpd.observe.metrics import Metrics, Scrape

FOLDER = Path(__file__).parent.parent / "docs" / "reference"


@dataclass(frozen=True)
class Section:
    """Text, then names with what each means; either may be empty."""

    title: str
    text: str = ""
    verbatim: str = ""
    """Shown as it is, in a fixed width."""
    terms: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Page:
    """A page of the reference: ``name`` and ``section`` are those of its manual page."""

    name: str
    section: int
    summary: str
    parts: list[Section] = field(default_factory=list)

    def markdown(self) -> str:
        """The page as Markdown, which is also where its terms are linked to by their headings."""
        lines = [f"# {self.name}", "", _sentence(self.summary), ""]
        lines += ["Made from the code by `make reference`.", ""]
        for part in self.parts:
            lines += [f"## {part.title}", ""]
            if part.text:
                lines += [part.text, ""]
            if part.verbatim:
                lines += ["```", part.verbatim.rstrip(), "```", ""]
            if part.terms:
                lines += ["| | |", "|---|---|"]
                lines += [f"| `{_cell(name)}` | {_cell(text)} |" for name, text in part.terms]
                lines.append("")
        return "\n".join(lines).rstrip() + "\n"

    def man(self) -> str:
        """The page as roff, in the macros of man(7)."""
        title = f'.TH {self.name.upper()} {self.section} "" "bgpd {__version__}" "bgpd"'
        lines = [title, ".SH NAME", f"{_roff(self.name)} \\- {_roff(self.summary)}"]
        for part in self.parts:
            lines.append(f'.SH "{_roff(part.title.upper())}"')
            if part.text:
                lines += [_roff(line) for line in part.text.split("\n")]
            if part.verbatim:
                lines += [".PP", ".nf", _roff(part.verbatim.rstrip()), ".fi"]
            for name, text in part.terms:
                lines += [".TP", f".B {_roff(name)}", _roff(text)]
        return "\n".join(lines) + "\n"


def pages() -> Iterator[Page]:
    """All pages, in the order of a table of contents."""
    yield from (_command("bgpd", 8), _command("bgpctl", 1), _configuration(), _metrics())


# The commands.


def _command(name: str, section: int) -> Page:
    parser = ctl_words.parser() if name == "bgpctl" else daemon._parser("")
    summary = (parser.description or "").split(". ")[0].rstrip(".")
    page = Page(name, section, summary[0].lower() + summary[1:])
    page.parts.append(Section("Synopsis", verbatim=_synopsis(parser)))
    for word, command in _commands(parser):
        full = command if name == "bgpctl" else dict(_commands(daemon._parser(word)))[word]
        page.parts.extend(_command_sections(full, dict(_terms(parser))))
    if parser.epilog:
        page.parts.append(Section("Examples and exit codes", verbatim=parser.epilog))
    page.parts.append(Section("Options of all commands", terms=tuple(_terms(parser))))
    return page


def _command_sections(parser: argparse.ArgumentParser, common: Mapping[str, str]) -> Iterator[Section]:
    """The commands below; ``common`` are the options of all, described once."""
    inner = _commands(parser)
    if not inner:
        text = parser.description or ""
        verbatim = _synopsis(parser, common) + (f"\n\n{parser.epilog}" if parser.epilog else "")
        terms = tuple(term for term in _terms(parser) if term[0] not in common)
        yield Section(parser.prog, text, verbatim, terms)
    for _, command in inner:
        yield from _command_sections(command, common)


def _commands(parser: argparse.ArgumentParser) -> list[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return list(action.choices.items())
    return []


def _synopsis(parser: argparse.ArgumentParser, common: Iterable[str] = ()) -> str:
    words = [parser.prog]
    for action in _shown(parser):
        if _spellings(action) in common:
            continue
        spelled = _spelled(action)
        needed = action.required or (not action.option_strings and action.nargs not in ("?", "*"))
        words.append(spelled if needed else f"[{spelled}]")
    return " ".join(words)


def _terms(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    for action in _shown(parser):
        if isinstance(action, argparse._SubParsersAction):
            continue
        text = action.help or ""
        if "%(" in text:
            text = text % vars(action)
        yield _spellings(action), text


def _shown(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if action.help != argparse.SUPPRESS and not isinstance(action, argparse._HelpAction):
            yield action


def _spellings(action: argparse.Action) -> str:
    return ", ".join(_spelled(action, word) for word in action.option_strings or [""])


def _spelled(action: argparse.Action, word: str | None = None) -> str:
    """An option with its value, as its longest spelling or as ``word``; or what stands in an argument's place."""
    if word is None:
        word = max(action.option_strings, key=len, default="")
    value = ""
    if action.nargs != 0:
        choices = "{" + ",".join(map(str, action.choices)) + "}" if action.choices else ""
        metavar = action.metavar if isinstance(action.metavar, str) else choices or action.dest.upper()
        value = {"?": f"[{metavar}]", "*": f"[{metavar} ...]", "+": f"{metavar} ..."}.get(
            str(action.nargs), metavar
        )
        if not word and action.nargs == "?":
            value = metavar
    return f"{word} {value}".strip()


# The configuration.


def _configuration() -> Page:
    page = Page("bgpd.yaml", 5, "configuration of bgpd on one node")
    root = schema()
    page.parts.append(
        Section(
            "Description",
            "YAML; every key is optional. `bgpd config check FILE` says all that is wrong with a file. It is read "
            "at the start and by `bgpctl reload`. What the whole cluster shares is in the resources, not here.",
        )
    )
    definitions: Mapping[str, Any] = root.get("$defs", {})
    page.parts.extend(_keys("", root, definitions, "Keys"))
    return page


def _keys(
    path: str, node: Mapping[str, Any], definitions: Mapping[str, Any], title: str
) -> Iterator[Section]:
    """The keys of a mapping, then those of the mappings in it, each as a section named by its path."""
    terms: list[tuple[str, str]] = []
    below: list[tuple[str, Mapping[str, Any]]] = []
    for key, described in node.get("properties", {}).items():
        inner = _mapping_of(described, definitions)
        text = described.get("description", "")
        if inner is not None and inner.get("properties"):
            below.append((key if not path else f"{path}.{key}", inner))
            text = text or inner.get("description", "")
            terms.append((f"{key}", f"{_sentence(text)} See below.".strip()))
            continue
        default = f" Default: `{json.dumps(described['default'])}`." if "default" in described else ""
        terms.append((key, f"{_sentence(text)} {_kind(described)}.{default}".strip()))
    yield Section(title, _sentence(node.get("description", "")) if path else "", terms=tuple(terms))
    for inner_path, inner in below:
        yield from _keys(inner_path, inner, definitions, inner_path)


def _mapping_of(described: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The mapping that a key holds, or whose values it holds, by whatever way the schema refers to it."""
    for way in (described, *described.get("anyOf", ()), *described.get("allOf", ())):
        for one in (way, way.get("items"), way.get("additionalProperties")):
            if isinstance(one, Mapping) and "$ref" in one:
                found: Mapping[str, Any] = definitions[one["$ref"].rsplit("/", 1)[1]]
                return found
    return None


def _kind(described: Mapping[str, Any]) -> str:
    """What a value may be, in words."""
    if "enum" in described:
        return "One of " + ", ".join(f"`{each}`" for each in described["enum"])
    if "const" in described:
        return f"`{described['const']}`"
    if "anyOf" in described:
        kinds = [_kind(each) for each in described["anyOf"]]
        return kinds[0] + "".join(f" or {each[0].lower()}{each[1:]}" for each in kinds[1:])
    kind = described.get("type", "any value")
    if kind == "array":
        items = _kind(described.get("items", {}))
        return f"A list, each: {items[0].lower()}{items[1:]}"
    low, high = described.get("minimum"), described.get("maximum")
    words = {
        "string": "Text",
        "integer": "A whole number",
        "number": "A number",
        "boolean": "`true` or `false`",
        "null": "`null`",
        "object": "A mapping",
        "any value": "Any value",
    }[kind]
    if low is not None and high is not None:
        words += f", {low} to {high}"
    elif low is not None:
        words += f", at least {low}"
    return words


# The metrics.


def _metrics() -> Page:
    page = Page("bgpd-metrics", 7, "what Prometheus reads of a node")
    page.parts.append(
        Section(
            "Description",
            "`/metrics` of `metrics.listen` in bgpd.yaml, or `bgpctl metrics`. Label `peer` is the address, without a "
            "port, `peer_name` the session's name; together they are unique. `afi` is `ipv4` or `ipv6`. A timestamp "
            "that has not come yet is 0. The series of a removed peer go with it.",
        )
    )
    groups: dict[str, list[tuple[str, str]]] = {}
    for family in metric_families():
        labels: tuple[str, ...] = getattr(family, "_labelnames", ()) or tuple(
            sorted({label for sample in family.samples for label in sample.labels} - {"le"})
        )
        name = family.name + ("_total" if family.type == "counter" else "")
        shown = name + ("{" + ", ".join(labels) + "}" if labels else "")
        groups.setdefault(_group(name), []).append((shown, f"{family.type}: {family.documentation}"))
    page.parts.extend([Section(title, terms=tuple(terms)) for title, terms in groups.items()])
    return page


def metric_families() -> list[Metric]:
    """Every family that a node has, those that have no samples yet too."""
    nothing = Scrape(_NOTHING, [], BfdReport(sessions=(), discarded={}, worst_delay=0.0))

    return list(Metrics().collect(nothing))


_NOTHING = Status(
    node="",
    version=__version__,
    asn=None,
    router_id="",
    started=0.0,
    ready=False,
    in_sync=False,
    checks=(),
    datastore=DatastoreStatus(backend="files", up=False, in_sync=False, detail=""),
    config_file="",
    config_loaded=0.0,
    config_error="",
    reloads={},
    peers_up=0,
    peers_wanted=0,
    routes_desired={},
    routes_advertised={},
    rib_routes={},
    rib_paths={},
    fib={},
    netlink_overruns=0,
    update_groups=0,
    ipam_blocks={},
    ipam_borrowed={},
    event_loop_lag=0.0,
    last_routes_change=None,
)


def _group(name: str) -> str:
    if name.startswith(("process_", "python_")):
        return "The process"
    second = name.removeprefix("bgpd_").split("_")[0]
    titles = {
        "peer": "Peers",
        "mesh": "Peers",
        "adj": "Peers",
        "bfd": "BFD",
        "fib": "The kernel",
        "netlink": "The kernel",
        "datastore": "The datastore",
        "config": "The configuration",
        "routes": "Routes",
        "rib": "Routes",
        "update": "Routes",
        "ipam": "Addresses",
        "propagation": "How long things take",
        "reconcile": "How long things take",
    }
    return titles.get(second, "The daemon")


# Words.


def _sentence(text: str) -> str:
    text = " ".join(text.replace("``", "`").split())
    if not text:
        return ""
    return text[0].upper() + text[1:] + ("" if text.endswith((".", ":", ")")) else ".")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _roff(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)


def write(folder: Path, pages: Iterable[Page], *, man: bool = False) -> None:
    """Writes each page into a folder, as Markdown or as manual pages."""
    folder.mkdir(parents=True, exist_ok=True)
    for page in pages:
        name = f"{page.name}.{page.section}" if man else f"{page.name}.md"
        (folder / name).write_text(page.man() if man else page.markdown())


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "--man":
        write(Path(sys.argv[2]), pages(), man=True)
    elif len(sys.argv) == 1:
        write(FOLDER, pages())
    else:
        sys.exit("usage: python -m testing.reference [--man FOLDER]")
