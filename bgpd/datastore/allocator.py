"""IPAM as the CNI plugins and the daemon's socket ask for it: an order in plain words, an answer in plain words.

An order is the same object whether it goes over the socket or is carried out in the plugin itself, where the daemon is
away. Errors are part of the answer: ``{"error": {"code": ..., "message": ...}}`` with the code of the refusal
(``rules.ipam.steps``), ``store``, or ``unwritable`` where nothing was written for sure.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bgpd.config.named_files import SMALL, read_named
from bgpd.datastore.files_store import FilesStore
from bgpd.datastore.store import Executor, Store
from bgpd.model.ipam import SECOND, Kind, Ref, StoreFailed, StoreUnwritten
from bgpd.model.networks import AddrFormatError, IPAddress
from bgpd.rules.ipam import pools as pool_rules
from bgpd.rules.ipam.assign import Request, addresses_of, assign, assign_address
from bgpd.rules.ipam.release import release_handle
from bgpd.rules.ipam.steps import Invalid, NoPool, NoSuchNode, NotAllocated, Refused, list_pools
from bgpd.rules.ipam.writes import Assigned, give_back

if TYPE_CHECKING:
    from bgpd.config.config import Config

HOST_LOCK = Path("/var/run/calico/ipam.lock")
"""Calico's plugins on the same node take it too."""
LOCK_TIMEOUT = 30.0
"""Seconds. Its holder may hang; a burst of pods is through by then."""

RESOURCES = "/etc/bgpd/resources"
"""The directory of resources unless the configuration says otherwise."""

Order = Mapping[str, Any]
Answer = dict[str, Any]


class Allocator:
    """Carries orders out for one node. Called from any thread."""

    def __init__(
        self,
        executor: Executor,
        node: str,
        *,
        clock: Callable[[], int] = time.time_ns,
        lock: Path | None = None,
    ) -> None:
        self._executor, self.node = executor, node
        self._clock, self._lock = clock, lock or HOST_LOCK

    def close(self) -> None:
        """Ends what its store holds open."""
        self._executor.store.close()

    def perform(self, order: Order) -> Answer:
        """The answer to an order. Raises nothing but bugs."""
        try:
            node = order.get("node")
            if node is not None and node != self.node:
                raise NoSuchNode(f"this is node {self.node!r}, and the request is for node {node!r}")
            verb = _VERBS.get(str(order.get("verb")))
            if verb is None:
                raise Invalid(f"verb: expected one of {', '.join(_VERBS)}, not {order.get('verb')!r}")
            return verb(self, order)
        except Refused as error:
            return {"error": {"code": error.code, "message": str(error)}}
        except StoreFailed as error:
            code = "unwritable" if isinstance(error, StoreUnwritten) else "store"
            return {"error": {"code": code, "message": f"{self._executor.store.describe()}: {error}"}}

    def _add(self, order: Order) -> Answer:
        handle, interface = _text(order, "handle"), _text(order, "interface")
        secondary = {"node": self.node, "timestamp": _go_time(self._clock()), "interface": interface}
        for key in ("pod", "namespace"):
            if order.get(key):
                secondary[key] = _text(order, key)
        request = Request(
            self.node,
            handle,
            _number(order, "ipv4"),
            _number(order, "ipv6"),
            _texts(order, "ipv4_pools"),
            _texts(order, "ipv6_pools"),
            secondary,
        )
        named = [_address(text) for text in _texts(order, "addresses")]
        if not named and not request.ipv4 and not request.ipv6:
            raise Invalid("no address is asked for: neither IPv4 nor IPv6")
        with _host_lock(self._lock):
            self._executor.ready()
            if not named:
                return _assigned(self._executor.run(assign(request, self._clock())))
            found: list[Assigned] = []
            try:
                for address in named:
                    found.append(self._executor.run(assign_address(request, address, self._clock())))
            except (Refused, StoreFailed):
                self._executor.run(give_back(found, handle, self._clock()))
                raise
            return _assigned(tuple(found))

    def _del(self, order: Order) -> Answer:
        """Never refused for want of anything: what is not there is given back already."""
        with _host_lock(self._lock):
            self._executor.ready()
            found: tuple[IPAddress, ...] = ()
            for handle in (_text(order, "handle"), *_texts(order, "old_handles")):
                interface = _text(order, "interface") if handle == order["handle"] else None
                found += self._executor.run(
                    release_handle(handle, self.node, self._clock(), interface=interface)
                )
        return {"released": [str(address) for address in found]}

    def _check(self, order: Order) -> Answer:
        wanted = {_address(text) for text in _texts(order, "addresses")}
        found = self._executor.run(addresses_of(_text(order, "handle"), _text(order, "interface")))
        missing = wanted - {one.address for one in found}
        if missing or not found:
            which = ", ".join(map(str, sorted(missing))) or "no address"
            raise NotAllocated(f"{which}: not on record for this attachment ({order['handle']})")
        return _assigned(found)

    def _gc(self, order: Order) -> Answer:
        from bgpd.rules.ipam.garbage import release_unlisted  # no ADD waits for it

        valid = _attachments(order)
        with _host_lock(self._lock):
            self._executor.ready()
            gone = self._executor.run(
                release_unlisted(_text(order, "network"), self.node, valid, self._clock())
            )
        return {"released": [str(address) for address in gone]}

    def _status(self, order: Order) -> Answer:
        """Whether an ADD can be met, as far as one sees without trying."""
        self._executor.ready()
        node = self._executor.store.get(Ref(Kind.NODE, self.node))
        if node is None:
            raise NoSuchNode(f"there is no Node {self.node!r}")
        pools = self._executor.run(list_pools())
        for version, key in ((4, "ipv4"), (6, "ipv6")):
            if _number(order, key):
                names = _texts(order, f"{key}_pools")
                pool_rules.eligible(
                    pools, pool_rules.Wanted(version, names, node=self.node, node_labels=node.value.labels)
                )
        if not pools:
            raise NoPool("there is no pool")
        return {}


def store_of(config: Config) -> Store:
    """The store that a configuration names. It is asked only when somebody wants an address, so that in a cluster where
    Calico's IPAM gives them out nothing is written."""
    options = config.datastore
    if options.type == "files":
        return FilesStore(options.path)
    if options.type == "etcd":
        from bgpd.datastore.etcd.client import Access
        from bgpd.datastore.etcd.store import EtcdStore

        access = Access(
            options.endpoints, options.ca, options.cert, options.key, options.username, options.password_file
        )
        return EtcdStore(access, options.prefix)
    from bgpd.datastore.kubernetes.client import Access as Server
    from bgpd.datastore.kubernetes.store import KubernetesStore

    return KubernetesStore(Server(options.kubeconfig, options.context), options.namespace)


def configured_store(path: Path) -> tuple[Store, str]:
    """The store that the daemon's configuration names, and the node, for a process that starts once a pod; a file that
    is not there says nothing, as for the daemon. Raises ``Invalid``.

    Of a configuration that keeps resources in a directory no more is read than that: to check the rest is the daemon's
    work, and costs 0.2 s.
    """
    from bgpd.config.yaml import YamlError, load_documents

    try:
        documents = load_documents(read_named(path, SMALL).decode(), str(path))
        found = documents[0].value if len(documents) == 1 else {}
    except FileNotFoundError:
        found = {}
    except (OSError, UnicodeDecodeError, YamlError):
        found = None  # what is wrong is said below
    if isinstance(found, dict):
        options = found.get("datastore")
        options = {} if options is None else options
        node = found.get("node", os.environ.get("NODENAME") or os.uname().nodename.lower())
        if isinstance(node, str) and isinstance(options, dict) and options.get("type", "files") == "files":
            directory = options.get("path", RESOURCES)
            if isinstance(directory, str) and directory.startswith("/"):
                return FilesStore(Path(directory)), node
    from bgpd.config.reading import ConfigError, load

    try:
        config = load(path)
    except ConfigError as error:
        raise Invalid(str(error)) from None
    return store_of(config), config.node


_VERBS: Mapping[str, Callable[[Allocator, Order], Answer]] = {
    "add": Allocator._add,
    "del": Allocator._del,
    "check": Allocator._check,
    "gc": Allocator._gc,
    "status": Allocator._status,
}


def _assigned(found: tuple[Assigned, ...]) -> Answer:
    return {"ips": [{"address": str(one.address), "block": str(one.block)} for one in found]}


def _text(order: Order, key: str) -> str:
    value = order.get(key)
    if not isinstance(value, str) or not value:
        raise Invalid(f"{key}: expected text, not {value!r}")
    return value


def _texts(order: Order, key: str) -> tuple[str, ...]:
    value = order.get(key) or ()
    if not isinstance(value, list | tuple) or not all(isinstance(entry, str) for entry in value):
        raise Invalid(f"{key}: expected a list of texts, not {value!r}")
    return tuple(value)


def _attachments(order: Order) -> set[tuple[str, str]]:
    """What is left alone: containers and interfaces. All else is removed, so nothing is taken for an empty list."""
    found = set()
    match order.get("valid"):
        case list(entries):
            for entry in entries:
                match entry:
                    case [str(container), str(interface)]:
                        found.add((container, interface))
                    case _:
                        raise Invalid(f"valid: expected container and interface, not {entry!r}")
        case value:
            raise Invalid(f"valid: expected a list of containers and interfaces, not {value!r}")
    return found


def _number(order: Order, key: str) -> int:
    value = order.get(key) or 0
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 256:
        raise Invalid(f"{key}: expected a number of addresses, not {value!r}")
    return value


def _address(text: str) -> IPAddress:
    try:
        return IPAddress(text)
    except (AddrFormatError, ValueError):
        raise Invalid(f"{text!r} is no address") from None


def _go_time(now: int) -> str:
    """As Go prints a time, which is what Calico's tools show as it is."""
    moment = datetime.fromtimestamp(now // SECOND, UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S}.{now % SECOND:09d} +0000 UTC"


@contextlib.contextmanager
def _host_lock(path: Path) -> Iterator[None]:
    """One allocation at a time on this node, so that a burst does not claim a block each. Only order, not safety: where
    it cannot be had, or somebody keeps it for ``LOCK_TIMEOUT``, it goes without (ipam.md §4.4)."""
    file = None
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        deadline = time.monotonic() + LOCK_TIMEOUT
        while time.monotonic() < deadline:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.002)
    try:
        yield
    finally:
        if file is not None:
            os.close(file)
