"""The store of a node without Kubernetes and etcd: a directory of resources, the same that ``datastore.files`` follows.

Each object that is created has a JSON file of its own; one that stands among others in somebody's YAML is rewritten
there, and its neighbours keep their text. A file is written beside its place and renamed over it under a lock of the
directory (``flock``, which the kernel takes from the dead). So a reader or a ``kill -9`` at any point finds the old
file or the new. Handles are in a directory of their own, ``ipamhandles``: the daemon does not read them. Several nodes
may share the directory where their file system has locks.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bgpd.config.named_files import NoFile, read_named
from bgpd.config.places import is_resource
from bgpd.datastore.calico import allocation
from bgpd.datastore.replacing import replacing
from bgpd.model.ipam import Conflict, Kind, Ref, Stored, StoreFailed, StoreUnwritten, Value

LOCK_TIMEOUT = 10.0
"""Seconds to wait for another writer, whose writes take milliseconds."""
HANDLES = "ipamhandles"
_OWN = tuple(f"{kind.lower()}." for kind in Kind)


class _Entry(NamedTuple):
    """An object in a file."""

    value: Value
    document: dict[str, Any]
    part: int
    """Which document of the file it is in."""
    item: int | None
    """Which item of that document, if that is a list."""


class _Origin(NamedTuple):
    path: Path
    entry: _Entry


class _File(NamedTuple):
    stamp: tuple[int, ...]
    objects: tuple[Stored[Any], ...]


class FilesStore:
    """A ``Store`` over a directory."""

    def __init__(self, directory: Path, lock_timeout: float = LOCK_TIMEOUT) -> None:
        self.directory = directory
        self._lock_timeout = lock_timeout
        self._cache: dict[Path, _File] = {}
        self._caching = threading.Lock()

    def close(self) -> None:
        """Nothing is open between two calls."""

    def describe(self) -> str:
        return f"files in {self.directory}"

    # -- reading -------------------------------------------------------------------------------------------------------

    def get(self, ref: Ref) -> Stored[Any] | None:
        for stored in self._read(self._path(ref)):
            if stored.value.ref == ref:
                return stored
        for name in _listed(self.directory):
            if not _is_own(name):
                for stored in self._read(self.directory / name):
                    if stored.value.ref == ref:
                        return stored
        return None

    def list(self, kind: Kind, owner: str = "") -> tuple[Stored[Any], ...]:
        found: dict[Ref, Stored[Any]] = {}
        for path in self._paths(kind):
            for stored in self._read(path):
                ref = stored.value.ref
                if ref.kind is kind and (not owner or ref.owner == owner):
                    found.setdefault(ref, stored)
        return tuple(found[ref] for ref in sorted(found))

    def _path(self, ref: Ref) -> Path:
        name = allocation.name_of(ref) if ref.kind is not Kind.HANDLE else ref.name
        if ref.owner and not ref.owner.startswith(
            "host:"
        ):  # Calico's names do not distinguish these from nodes of that name
            name = f"{ref.owner.partition(':')[0]}.{name}"
        safe = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else f"%{ord(c):x}" for c in name)
        if len(safe) > 200:
            safe = f"{safe[:150]}.{hashlib.sha256(name.encode()).hexdigest()[:32]}"
        directory = self.directory / HANDLES if ref.kind is Kind.HANDLE else self.directory
        return directory / f"{ref.kind.lower()}.{safe}.json"

    def _paths(self, kind: Kind) -> Iterator[Path]:
        """The files that may say something of a kind: those of other kinds by their name do not."""
        prefix = f"{kind.lower()}."
        for name in _listed(self.directory):
            if name.startswith(prefix) or not _is_own(name):
                yield self.directory / name
        if kind is Kind.HANDLE:
            yield from (self.directory / HANDLES / name for name in _listed(self.directory / HANDLES))

    def _read(self, path: Path) -> tuple[Stored[Any], ...]:
        """What IPAM reads of a file. One that is not there, or no YAML, has nothing."""
        try:
            seen = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return ()
        except OSError as error:
            raise _failed(path, error) from None
        stamp = (seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
        with self._caching:
            known = self._cache.get(path)
        if known is not None and known.stamp == stamp:
            return known.objects
        try:
            text = read_named(path).decode()
        except (FileNotFoundError, NoFile, UnicodeDecodeError):
            return ()
        except OSError as error:
            raise _failed(path, error) from None
        objects = tuple(_stored(path, entry) for entry in _entries(path, text))
        with self._caching:
            if len(self._cache) > 10_000:
                self._cache.clear()
            self._cache[path] = _File(stamp, objects)
        return objects

    # -- writing -------------------------------------------------------------------------------------------------------

    def create(self, value: Value) -> Stored[Any] | Conflict:
        with self._locked():
            if self.get(value.ref) is not None:
                return Conflict.EXISTS
            path = self._path(value.ref)
            _free(path)
            document = allocation.write(value)
            _stamp(document)
            self._replace(path, _json(document))
            return _stored(path, _Entry(value, document, 0, None))

    def update(self, known: Stored[Any], value: Value) -> Stored[Any] | Conflict:
        with self._locked():
            found = self._current(known)
            if isinstance(found, Conflict):
                return found
            path, entry = found.origin
            document = allocation.write(value, entry.document)
            _stamp(document)
            self._rewrite(path, entry, document)
            return _stored(path, entry._replace(value=value, document=document))

    def delete(self, known: Stored[Any]) -> Conflict | None:
        with self._locked():
            found = self._current(known)
            if isinstance(found, Conflict):
                return found
            path, entry = found.origin
            self._rewrite(path, entry, None)
            return None

    def _current(self, known: Stored[Any]) -> Stored[Any] | Conflict:
        found = self.get(known.value.ref)
        if found is None:
            return Conflict.GONE
        return found if found.revision == known.revision else Conflict.CHANGED

    def apply(self, document: dict[str, Any], guard: Stored[Any] | None) -> Stored[Any] | Conflict:
        """Creates a resource that somebody wrote, or puts it in the place of the one that was read."""
        value = allocation.read(document)
        assert value is not None
        with self._locked():
            found = self.get(value.ref)
            if (found.revision if found else None) != (guard.revision if guard else None):
                return Conflict.CHANGED
            document = json.loads(json.dumps(document))
            _stamp(document)
            if found is None:
                path = self._path(value.ref)
                _free(path)
                self._replace(path, _json(document))
                return _stored(path, _Entry(value, document, 0, None))
            path, entry = found.origin
            self._rewrite(path, entry, document)
            return _stored(path, entry._replace(value=value, document=document))

    def document(self, stored: Stored[Any]) -> dict[str, Any]:
        found: dict[str, Any] = stored.origin.entry.document
        return found

    def _rewrite(self, path: Path, entry: _Entry, document: dict[str, Any] | None) -> None:
        """The file with one object changed or gone; an empty file goes too."""
        if _is_own(path.name):
            parts = [read_named(path).decode()]
        else:
            parts = [part for part, _ in _split(read_named(path).decode())]
        if entry.item is not None:
            whole = _parsed(path, parts[entry.part])
            items = whole["items"]
            items[entry.item : entry.item + 1] = [] if document is None else [document]
            document = whole if items else None
        text = parts[entry.part]
        if document is None:
            parts[entry.part] = ""
        elif path.suffix == ".json":
            parts[entry.part] = _json(document)
        else:
            parts[entry.part] = ("---\n" if text.lstrip().startswith("---") else "") + _yaml(document)
        whole_text = "".join(parts)
        if whole_text.replace("---", "").strip():
            self._replace(path, whole_text)
            return
        try:
            path.unlink()
        except OSError as error:
            raise _unwritten(path, error) from None

    def _replace(self, path: Path, text: str) -> None:
        try:
            path.parent.mkdir(exist_ok=True)
            with replacing(path) as file:
                file.write(text.encode())
                os.fchmod(file.fileno(), _mode(path))
        except OSError as error:
            raise _unwritten(path, error) from None

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        path = self.directory / ".ipam.lock"
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise _unwritten(path, error) from None
        try:
            deadline = time.monotonic() + self._lock_timeout
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError as error:
                    if error.errno not in (errno.EAGAIN, errno.EACCES, errno.EINTR):
                        raise _unwritten(path, error) from None
                if time.monotonic() > deadline:
                    raise StoreUnwritten(
                        f"{path}: another process has held this lock for {self._lock_timeout:g} s (lslocks)"
                    )
                time.sleep(0.0005)
            yield
        finally:
            os.close(file)


def _is_own(name: str) -> bool:
    """Whether the store made a file: its name then says the kind."""
    return name.endswith(".json") and name.startswith(_OWN)


def _mode(path: Path) -> int:
    """Whoever could read it can read it on, and the daemon a new one, whatever the runtime's umask."""
    try:
        return path.stat().st_mode & 0o777
    except OSError:
        return 0o644


def _free(path: Path) -> None:
    """Whether a new object may have this file: what stands there must be a tombstone, not something unreadable."""
    try:
        document = json.loads(read_named(path).decode())
        if document["spec"]["deleted"] in (True, "true"):
            return
    except FileNotFoundError:
        return
    except (OSError, ValueError, LookupError, TypeError):
        pass
    raise StoreUnwritten(f"{path}: is there and cannot be read as what its name says: mend it or remove it")


def _listed(directory: Path) -> list[str]:
    """The names of its files that are read, in order."""
    try:
        return sorted(name for name in os.listdir(directory) if is_resource(name))
    except FileNotFoundError:
        if directory.name == HANDLES:
            return []
        raise StoreUnwritten(f"{directory}: there is no such directory") from None
    except OSError as error:
        raise _failed(directory, error) from None


def _split(text: str) -> list[tuple[str, int]]:
    from bgpd.config.yaml import split_documents

    return split_documents(text)


def _parsed(path: Path, text: str) -> Any:
    """One document; ``None`` where it is not to be read."""
    if path.suffix == ".json":
        with contextlib.suppress(ValueError):
            return json.loads(text)
    from bgpd.config.yaml import YamlError, load_documents

    try:
        documents = load_documents(text, path.name)
    except YamlError:
        return None
    return documents[0].value if len(documents) == 1 else None


def _entries(path: Path, text: str) -> Iterator[_Entry]:
    parts = [text] if _is_own(path.name) else [part for part, _ in _split(text)]
    for index, part in enumerate(parts):
        document = _parsed(path, part)
        if not isinstance(document, dict):
            continue
        kind = document.get("kind")
        if isinstance(kind, str) and kind.endswith("List") and isinstance(document.get("items"), list):
            implied = {} if kind == "List" else {"kind": kind[:-4], "apiVersion": document.get("apiVersion")}
            for place, item in enumerate(document["items"]):
                if isinstance(item, dict) and (value := allocation.read({**implied, **item})) is not None:
                    yield _Entry(value, {**implied, **item}, index, place)
        elif (value := allocation.read(document)) is not None:
            yield _Entry(value, document, index, None)


def _stored(path: Path, entry: _Entry) -> Stored[Any]:
    canonical = json.dumps(entry.document, sort_keys=True, separators=(",", ":"), default=str)
    revision = hashlib.blake2b(canonical.encode(), digest_size=12).hexdigest()
    return Stored(entry.value, revision, _Origin(path, entry))


def _stamp(document: dict[str, Any]) -> None:
    """A number that no version of the object had before, so that no revision comes back."""
    metadata = document["metadata"] = dict(document["metadata"])
    before = metadata.get("resourceVersion")
    last = int(before) if isinstance(before, str) and before.isascii() and before.isdigit() else 0
    metadata["resourceVersion"] = str(max(time.time_ns(), last + 1))


def _json(document: dict[str, Any]) -> str:
    """A line a field: to be read by people too."""
    head = {key: value for key, value in document.items() if key != "spec"}
    lines = [f"  {json.dumps(key)}: {_compact(value)}" for key, value in head.items()]
    spec = document.get("spec")
    if isinstance(spec, dict) and spec:
        fields = ",\n".join(f"    {json.dumps(key)}: {_compact(value)}" for key, value in spec.items())
        lines.append(f'  "spec": {{\n{fields}\n  }}')
    elif "spec" in document:
        lines.append(f'  "spec": {_compact(spec)}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _yaml(document: dict[str, Any]) -> str:
    lines = []
    for key, value in document.items():
        if key == "spec" and isinstance(value, dict) and value:
            lines.append("spec:")
            lines += [f"  {_compact(name)}: {_compact(field)}" for name, field in value.items()]
        else:
            lines.append(f"{_compact(key)}: {_compact(value)}")
    return "\n".join(lines) + "\n"


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _failed(path: Path, error: OSError) -> StoreFailed:
    return StoreFailed(f"{path}: {error.strerror or error}")


def _unwritten(path: Path, error: OSError) -> StoreUnwritten:
    return StoreUnwritten(f"{path}: {error.strerror or error}")
