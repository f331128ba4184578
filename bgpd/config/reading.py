"""Reads this node's configuration: YAML text to a ``Config``, or a ``ConfigError`` that names every key at fault.

Called by the commands and by the daemon's start and reload. The files that hold passwords are read here too, apart from
the configuration, since what is in them may change without it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from bgpd.config.config import Config, Passwords, PeerOptions
from bgpd.config.named_files import SMALL, NoFile, open_named, read_named
from bgpd.config.section import Mistake, mistakes_of
from bgpd.config.values import Password
from bgpd.config.yaml import YamlError, load_documents
from bgpd.model.bfd import BfdOptions
from bgpd.model.resources import Problem

_PASSWORD_READ = 1024
"""More than a password may have, so that a longer one is noticed."""


class ConfigError(Exception):
    """A configuration that cannot be taken. ``str()`` is one line a problem: file, key path, what was expected."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def load(path: Path) -> Config:
    """The configuration in a file; raises ``ConfigError``, also for a file that cannot be read."""
    try:
        text = read_named(path, SMALL)
    except OSError as error:
        raise ConfigError([Problem(str(path), "", f"cannot be read: {error.strerror}")]) from None
    return parse(text, str(path))


def parse(text: str | bytes, source: str) -> Config:
    """The configuration in a text; ``source`` names it in the ``ConfigError`` that holds all of its mistakes."""
    try:
        documents = load_documents(text, source)
    except YamlError as error:
        where = f"{error.source}:{error.line}:{error.column}"
        raise ConfigError([Problem(where, "", error.message)]) from None
    if len(documents) > 1:
        raise ConfigError(
            [Problem(f"{source}:{documents[1].line}", "", "expected one document, not several")]
        )
    value = documents[0].value if documents else None
    if value is not None and not isinstance(value, dict):
        raise ConfigError([Problem(source, "", "expected keys and values, such as node: worker1")])
    try:
        return Config.parse(value or {})
    except ValueError as error:
        raise ConfigError([_problem(source, mistake) for mistake in mistakes_of(error)]) from None


def parse_bfd(text: str) -> BfdOptions | None:
    """BFD as the annotation of a BGPPeer asks for it: the same words as in the file, ``{min_tx: 300ms}``; ``null`` is
    without BFD. ``ValueError`` says what was expected."""
    try:
        documents = load_documents(text, "")
    except YamlError as error:
        raise ValueError(f"expected keys and values such as {{min_tx: 300ms}}: {error.message}") from None
    if len(documents) != 1:
        raise ValueError("expected keys and values such as {min_tx: 300ms}, {} or null")
    try:
        settings = PeerOptions.parse({"bfd": documents[0].value}).bfd
    except ValueError as error:
        problem = _problem("", next(iter(mistakes_of(error))))
        raise ValueError(f"{problem.path.removeprefix('bfd.')}: {problem.message}") from None
    return None if settings is None else settings.options


def absent(config: Config, source: str) -> list[Problem]:
    """What the configuration names and this machine does not have: no mistake, since it may still come, or be there on
    the node alone."""
    found = []
    store = config.datastore
    for key in ("ca", "cert", "key", "password_file", "kubeconfig"):
        file: Path | None = getattr(store, key)
        if file is not None and not file.is_file():
            found.append(Problem(source, f"datastore.{key}", f"there is no file {file}"))
    path = store.path
    if store.type == "files" and not path.is_dir():
        words = "is no directory" if path.exists() else "is not there"
        message = f"{path} {words}: a bgpd here would wait for it, and do nothing meanwhile"
        found.append(Problem(source, "datastore.path", message))
    for name, password in read_passwords(config).items():
        if isinstance(password, str):
            found.append(Problem(source, f"password_file {name}", password))
    return found


def read_passwords(config: Config) -> Passwords:
    """The files that a configuration names as ``password_file``, for ``rules.peering``; never raises."""
    options = (config.bgp.defaults, *config.bgp.peers.values(), *config.bgp.listen_ranges)
    found: dict[Path, Password | str] = {}
    for path in {each.password_file for each in options if each.password_file is not None}:
        try:
            with open_named(path) as descriptor:
                found[path] = Password(os.read(descriptor, _PASSWORD_READ))
        except NoFile:
            found[path] = "cannot be read: it is no file"
        except OSError as error:
            found[path] = f"cannot be read: {error.strerror}"
    return found


def _problem(source: str, mistake: Mistake) -> Problem:
    return Problem(source, ".".join(str(part) for part in mistake.path), mistake.message)
