"""Networks of namespaces with bgpd, BIRD, FRR and GoBGP in them: the ground of the interop tests and the benchmarks.

A ``Net`` owns all it makes, namespaces and processes, and ends it by name and process id when it is closed, also when
the work in it failed. Names of namespaces are unique to the machine, addresses are the caller's: two nets may use the
same ones. Nothing here knows pytest. Needs root, iproute2, util-linux and the daemons that are asked for.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from http.client import HTTPConnection
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import urlencode

import yaml

T = TypeVar("T")

PROJECT = Path(__file__).parents[1]
UNREADY = (AssertionError, LookupError, OSError, ValueError, subprocess.SubprocessError)
"""What a predicate of ``wait_until`` may raise while what it asks is not there yet."""
SYSCTLS = {
    "net.ipv4.ip_forward": 1,
    "net.ipv4.conf.all.rp_filter": 0,
    "net.ipv4.conf.default.rp_filter": 0,
    "net.ipv4.icmp_ratelimit": 0,
    "net.ipv6.conf.all.forwarding": 1,
    "net.ipv6.conf.default.forwarding": 1,
    "net.ipv6.conf.default.accept_dad": 0,
    "net.ipv6.conf.default.accept_ra": 0,
    "net.ipv6.conf.all.keep_addr_on_down": 1,
    "net.ipv6.conf.default.keep_addr_on_down": 1,
}


def wait_until(
    predicate: Callable[[], T],
    timeout: float = 10.0,
    what: str = "",
    *,
    interval: float = 0.02,
    report: Callable[[], str] | None = None,
) -> T:
    """The first true value of ``predicate``; ``AssertionError`` after ``timeout`` seconds.

    The error says ``what`` was waited for, what the predicate last gave or raised (any of ``UNREADY`` is "not yet"),
    and ``report()``.
    """
    deadline = time.monotonic() + timeout
    while True:
        late = (
            time.monotonic() >= deadline
        )  # asked once more after the deadline: the machine may have been slow
        try:
            value = predicate()
            if value:
                return value
            last = f"it is {value!r}"
        except UNREADY as error:
            last = f"{type(error).__name__}: {error}"
            if isinstance(error, subprocess.CalledProcessError):
                last += f"\n{error.stdout or ''}{error.stderr or ''}"
        if late:
            more = f"\n{report()}" if report else ""
            raise AssertionError(f"after {timeout:g} s still not: {what or predicate}; {last}{more}")
        time.sleep(interval)


def steady(predicate: Callable[[], object], seconds: float, what: str) -> None:
    """Asserts that something holds, and goes on to hold for a while."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = predicate()
        assert value, f"no longer: {what}; it is {value!r}"
        time.sleep(0.05)


class Process:
    """A process that a net started, with its output in a file."""

    def __init__(self, name: str, words: list[str], log: Path, **options: Any) -> None:
        self.name = name
        self.command = " ".join(words)
        self.log_path = log
        with log.open("ab") as output:
            self.popen = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, **options
            )

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def running(self) -> bool:
        return self.popen.poll() is None

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def signal(self, signum: int) -> None:
        """Sends a signal, if it still runs."""
        self.popen.send_signal(signum)

    def wait(self, timeout: float = 10.0) -> int:
        """Its exit code, negative for a signal."""
        return self.popen.wait(timeout)

    def kill(self) -> None:
        """SIGKILL, and gone on return."""
        self.popen.kill()
        self.popen.wait(10)

    def stop(self, timeout: float = 10.0) -> int:
        """SIGTERM, then SIGKILL; its exit code."""
        self.popen.terminate()
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise


class Namespace:
    """One network namespace: a node, a switch or a pod."""

    def __init__(self, net: Net, label: str) -> None:
        self.net = net
        self.label = label
        self.name = f"nl{secrets.token_hex(3)}-{label}"
        _ip("netns", "add", self.name)
        try:
            self.run("sysctl", "-qw", *(f"{key}={value}" for key, value in SYSCTLS.items()))
            self.ip("link", "set", "lo", "up")
        except BaseException:
            self.delete()
            raise

    def delete(self) -> None:
        """Ends the namespace; what still runs in it keeps a nameless one."""
        _ip("netns", "delete", self.name)

    def entry(self, *words: object) -> list[str]:
        """The command line that runs a command in here; the process it makes is the command's own."""
        return ["nsenter", f"--net=/run/netns/{self.name}", "--", *map(str, words)]

    def run(
        self,
        *words: object,
        check: bool = True,
        timeout: float = 30.0,
        input: str | None = None,  # noqa: A002 (as in subprocess.run)
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end, output as text. A failure raises ``CommandError`` unless ``check`` is false."""
        return _run(self.entry(*words), check=check, timeout=timeout, input=input, env=env)

    def popen(self, *words: object, name: str = "", **options: Any) -> Process:
        """Starts a command in here; the net ends it."""
        return self.net.process(
            f"{self.label}-{name or Path(str(words[0])).name}", self.entry(*words), **options
        )

    def ip(self, *words: object, check: bool = True) -> str:
        """``ip`` with some words, its output."""
        return _ip("-n", self.name, *words, check=check)

    def ip_json(self, *words: object) -> list[dict[str, Any]]:
        """``ip -j`` with some words, parsed."""
        return [item for item in json.loads(_ip("-n", self.name, "-j", "-d", *words) or "[]") if item]

    def routes(self, family: int = 4, proto: str | None = "bird") -> dict[str, dict[str, Any]]:
        """The main table by destination (a host route as ``a.b.c.d``, as ``ip`` says it); of one proto unless None."""
        words = ("proto", proto) if proto else ()
        found = self.ip_json(f"-{family}", "route", "show", "table", "main", *words)
        return {route["dst"]: route for route in found if route.get("type") != "multicast"}

    def route_text(self, family: int = 4, proto: str = "bird") -> list[str]:
        """The routes of a proto in the main table, as ``ip route`` prints them: each in one line, single blanks."""
        lines = _joined(self.ip(f"-{family}", "route", "show"))
        return [line for line in lines if f"proto {proto}" in line]

    def main_text(self) -> list[str]:
        """The main table of both families as ``ip route`` prints it, sorted, without what the kernel made by itself."""
        lines = [line for family in (4, 6) for line in _joined(self.ip(f"-{family}", "route", "show"))]
        return sorted(line for line in lines if "proto kernel" not in line)

    def address(self, device: str, *addresses: str) -> None:
        """Adds addresses to a device."""
        for address in addresses:
            extra = ["nodad"] if ":" in address else []
            self.ip("address", "add", address, "dev", device, *extra)

    def up(self, device: str) -> None:
        self.ip("link", "set", device, "up")

    def down(self, device: str) -> None:
        self.ip("link", "set", device, "down")

    def monitor(self, *objects: str, family: int | None = None) -> Monitor:
        """``ip monitor`` of some objects (``route`` unless said), already watching on return."""
        return Monitor(self, objects or ("route",), family)


class Monitor:
    """What ``ip monitor`` saw, line by line."""

    def __init__(self, namespace: Namespace, objects: Iterable[str], family: int | None) -> None:
        words = [f"-{family}"] if family else []
        self._namespace = namespace
        self._process = namespace.popen("ip", *words, "monitor", *objects, name="monitor")
        self._mark = itertools.count(1)
        self.flush()

    def flush(self) -> int:
        """Waits until all that happened before is in ``lines``; the number of lines then."""
        mark = f"203.0.113.{next(self._mark)}"
        route = ("blackhole", mark, "table", "4242", "proto", "static")

        def seen() -> bool:
            # Anew each time: the first ones may come before it watches.
            self._namespace.ip("route", "add", *route)
            self._namespace.ip("route", "delete", *route)
            return f"blackhole {mark}" in self._process.log

        wait_until(seen, 5, "ip monitor watches")
        return len(self._process.log.splitlines())

    @property
    def lines(self) -> list[str]:
        """All but our own marks and the local table (addresses that come and go).

        ``ip`` sometimes fails to look up the other end of a veth whose namespace just went, and says so in between.
        """
        return [
            line
            for line in _joined(self._process.log)
            if not any(
                part in line for part in ("table 4242", "table local", "203.0.113.", "Error: Peer netns")
            )
        ]

    @property
    def deleted(self) -> list[str]:
        return [line for line in self.lines if "Deleted" in line]

    def stop(self) -> list[str]:
        """Ends it; all it saw until now."""
        self.flush()
        self._process.stop()
        return self.lines


class Net:
    """Namespaces and processes with one end: ``with Net() as net``."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="netlab-"))
        """For sockets, configurations and logs; short, since a unix socket's path is. Goes with the net."""
        self.namespaces: list[Namespace] = []
        self.processes: list[Process] = []
        self.daemons: list[Daemon] = []
        self._names: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends all processes and namespaces."""
        for process in reversed(self.processes):
            if process.running:
                process.kill()
        for namespace in reversed(self.namespaces):
            with contextlib.suppress(CommandError):
                namespace.delete()
        self.namespaces.clear()
        shutil.rmtree(self.directory, ignore_errors=True)

    def namespace(self, label: str) -> Namespace:
        """A new namespace."""
        namespace = Namespace(self, label)
        self.namespaces.append(namespace)
        return namespace

    def remove(self, namespace: Namespace) -> None:
        """Ends one namespace before the others; nothing may run in it any more."""
        namespace.delete()
        self.namespaces.remove(namespace)

    def unique(self, name: str) -> str:
        """The name, with a number where the net used it before."""
        count = self._names[name] = self._names.get(name, 0) + 1
        return name if count == 1 else f"{name}.{count}"

    def process(self, name: str, words: Iterable[object], **options: Any) -> Process:
        """Starts a process, which the net ends. Its output goes to a file of its name."""
        unique = self.unique(name)
        process = Process(unique, list(map(str, words)), self.directory / f"{unique}.log", **options)
        self.processes.append(process)
        return process

    def link(self, a: Namespace, a_device: str, b: Namespace, b_device: str) -> None:
        """A veth pair between two namespaces, both ends up."""
        _ip(
            *("link", "add", "name", a_device, "netns", a.name, "type", "veth"),
            *("peer", "name", b_device, "netns", b.name),
        )
        a.up(a_device)
        b.up(b_device)

    def lan(self, members: Mapping[Namespace, Iterable[str]], device: str = "ens5") -> Namespace:
        """One Ethernet segment: a switch, and in each member a device on it with these addresses. Gives the switch."""
        switch = self.namespace("switch")
        switch.ip("link", "add", "br0", "type", "bridge")
        switch.up("br0")
        for number, (member, addresses) in enumerate(members.items()):
            self.join(switch, member, f"port{number}", addresses, device)
        return switch

    def join(
        self, switch: Namespace, member: Namespace, port: str, addresses: Iterable[str], device: str = "ens5"
    ) -> None:
        """Puts one more member on a ``lan``."""
        self.link(member, device, switch, port)
        switch.ip("link", "set", port, "master", "br0")
        member.address(device, *addresses)

    def report(self) -> str:
        """What a person wants to see after a failure: each daemon's view, kernel routes, the ends of the logs."""
        parts = []
        for namespace in self.namespaces:
            if namespace.label != "switch":
                for family in (4, 6):
                    text = namespace.ip(f"-{family}", "route", "show", check=False)
                    parts.append(f"--- {namespace.label}: ip -{family} route\n{text}")
        for daemon in self.daemons:
            with contextlib.suppress(*UNREADY):
                parts.append(f"--- {daemon.name}\n{daemon.describe()}")
        for process in self.processes:
            end = "runs" if process.running else f"exit code {process.popen.returncode}"
            parts.append(f"--- {process.name} ({end}): {process.command}\n{process.log[-4000:]}")
        return "\n".join(parts)


class Daemon:
    """A routing daemon in a namespace, with a directory of its own."""

    kind = "daemon"

    def __init__(self, namespace: Namespace, name: str = "") -> None:
        self.namespace = namespace
        self.name = namespace.net.unique(name or f"{self.kind}-{namespace.label}")
        self.directory = namespace.net.directory / self.name
        self.directory.mkdir(parents=True)
        self.process: Process | None = None
        namespace.net.daemons.append(self)

    def launch(self, *words: object, **options: Any) -> Process:
        """Starts the main process."""
        assert self.process is None or not self.process.running, f"{self.name} runs already"
        self.process = self.namespace.popen(*words, name=self.name, **options)
        return self.process

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.running

    @property
    def log(self) -> str:
        """Its output since it was last started."""
        return self.process.log if self.process else ""

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        assert self.process is not None
        self.process.kill()

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        assert self.process is not None
        return self.process.stop()

    def describe(self) -> str:
        """Its own words about its sessions and routes."""
        return ""

    def wait(self, predicate: Callable[[], T], what: str, timeout: float = 10.0) -> T:
        """``wait_until``, at once over when the daemon ends."""

        def ask() -> T:
            if not self.running:
                raise Ended(f"{self.name} ended:\n{self.log[-4000:]}")
            return predicate()

        return wait_until(ask, timeout, f"{self.name}: {what}")


class Ended(Exception):
    """A daemon that should run does not."""


class CommandError(subprocess.CalledProcessError):
    """A command that failed, with its output in the message."""

    def __str__(self) -> str:
        return f"{super().__str__()}\n{self.stdout or ''}{self.stderr or ''}".rstrip()


class Heard(NamedTuple):
    """One route as a peer heard it from us."""

    next_hop: str
    as_path: str
    """AS numbers with blanks between them."""
    local_pref: int | None
    stale: bool = False


# bgpd.


class Bgpd(Daemon):
    """Our own daemon: resources and configuration in its directory, API and metrics of its own.

    ``config`` is laid over what is set here, section by section.
    """

    kind = "bgpd"

    def __init__(
        self,
        namespace: Namespace,
        node: str,
        resources: Mapping[str, Iterable[dict[str, Any]]] | None = None,
        config: Mapping[str, Any] | None = None,
        name: str = "",
    ) -> None:
        super().__init__(namespace, name)
        self.node = node
        self.resources = self.directory / "resources"
        self.resources.mkdir()
        self.config_path = self.directory / "bgpd.yaml"
        self.socket = self.directory / "api.sock"
        self.settings: dict[str, Any] = {
            "node": node,
            "datastore": {"path": str(self.resources)},
            "api": {"socket": str(self.socket)},
            "state_directory": str(self.directory / "state"),
            **(config or {}),
        }
        self.configure()
        for file, objects in (resources or {}).items():
            self.write(file, *objects)

    def configure(self, **changes: Any) -> None:
        """Writes the configuration file anew, with some top-level keys changed."""
        self.settings.update(changes)
        self.config_path.write_text(yaml.safe_dump(self.settings))

    def write(self, file: str, *objects: Mapping[str, Any]) -> None:
        """A resource file ``<file>.yaml``, at once and whole."""
        self.write_text(file, yaml.safe_dump_all([dict(item) for item in objects]))

    def write_text(self, file: str, text: str) -> None:
        fresh = self.resources / f".{file}.new"
        fresh.write_text(text)
        fresh.rename(self.resources / f"{file}.yaml")

    def remove(self, file: str) -> None:
        (self.resources / f"{file}.yaml").unlink()

    def start(self, wait: bool = True) -> Self:
        """Starts it; with ``wait`` until its API answers."""
        self.launch(
            *(sys.executable, "-m", "bgpd", "run", "--config", self.config_path),
            cwd=PROJECT,
            env={**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONWARNINGS": "default"},
        )
        if wait:
            self.wait(lambda: self.ctl("status"), "the API answers", 15)
        return self

    def restart(self) -> Self:
        """kill -9, and a new one."""
        self.kill()
        return self.start()

    def command(self, *words: object, timeout: float = 30.0) -> subprocess.CompletedProcess[str]:
        """A ``bgpd`` command in its namespace; never raises for its exit code."""
        return self.namespace.run(
            *(sys.executable, "-m", "bgpd", *words),
            check=False,
            timeout=timeout,
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
        )

    def bgpctl(self, *words: object, timeout: float = 30.0) -> subprocess.CompletedProcess[str]:
        """``bgpctl`` with some words, as a person calls it; never raises for its exit code."""
        code = "import sys; from bgpd.cli.ctl import main; sys.exit(main())"
        return self.namespace.run(
            *(sys.executable, "-c", code, "--socket", self.socket, *words),
            check=False,
            timeout=timeout,
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
        )

    def ctl(self, path: str, **query: str) -> Any:
        """The JSON that ``bgpctl`` gets for ``/v1/<path>``, asked for without starting Python anew."""
        with contextlib.closing(_UnixHTTP(str(self.socket))) as connection:
            suffix = f"?{urlencode(query)}" if query else ""
            connection.request("GET", f"/v1/{path}{suffix}")
            answer = json.loads(connection.getresponse().read())
        if "error" in answer:
            raise ValueError(f"{path}: {answer['error']}")
        return answer

    def act(self, action: str, peer: str, message: str = "") -> str:
        """``bgpctl peer <action>``; the daemon's words."""
        with contextlib.closing(_UnixHTTP(str(self.socket))) as connection:
            connection.request(
                "POST", "/v1/peer-action", json.dumps({"action": action, "name": peer, "message": message})
            )
            answer = json.loads(connection.getresponse().read())
        if "error" in answer:
            raise ValueError(f"{action} {peer}: {answer['error']}")
        return str(answer["message"])

    def scrape(self, path: str = "/metrics", port: int = 9179) -> str:
        """What the metrics' port answers."""
        code = (
            "import sys, urllib.request, urllib.error\n"
            "try: print(urllib.request.urlopen(sys.argv[1]).read().decode())\n"
            "except urllib.error.HTTPError as e: print(e.code, e.read().decode())"
        )
        return self.namespace.run(sys.executable, "-S", "-c", code, f"http://127.0.0.1:{port}{path}").stdout

    def status(self) -> dict[str, Any]:
        return dict(self.ctl("status"))

    def peers(self) -> dict[str, dict[str, Any]]:
        """Its sessions by name."""
        return {peer["id"]: peer for peer in self.ctl("peers")["peers"]}

    def established(self, *names: str) -> bool:
        """Whether sessions are up: those named, or all, of which there is at least one."""
        peers = self.peers()
        wanted = names or tuple(peers)
        return bool(wanted) and all(peers[name]["state"] == "established" for name in wanted)

    def wait_established(self, *names: str, timeout: float = 20.0) -> None:
        self.wait(
            lambda: self.established(*names), f"{', '.join(names) or 'all sessions'} established", timeout
        )

    def wait_in_sync(self, timeout: float = 20.0) -> None:
        """Until its start is over: old routes swept."""
        self.wait(lambda: self.status()["in_sync"], "in sync", timeout)

    def check(self, name: str) -> dict[str, Any]:
        """One line of ``/readyz?verbose``."""
        return next(check for check in self.status()["checks"] if check["name"] == name)

    def routes(self, family: int = 4) -> dict[str, dict[str, Any]]:
        """The kernel's routes of proto bird, by destination."""
        return self.namespace.routes(family)

    def describe(self) -> str:
        parts = [json.dumps(self.ctl(path), indent=1) for path in ("status", "peers", "blocks")]
        return "\n".join(parts)


# Resources, in the shape that `calicoctl get -o yaml` gives.


def resource(kind: str, name: str, spec: Mapping[str, Any], **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "projectcalico.org/v3",
        "kind": kind,
        "metadata": {"name": name, **metadata},
        "spec": dict(spec),
    }


def node(
    name: str,
    ipv4: str | None = None,
    ipv6: str | None = None,
    asn: int | None = None,
    labels: Mapping[str, str] | None = None,
    cluster_id: str | None = None,
) -> dict[str, Any]:
    """A Node; addresses with their prefix length. A route reflector with ``cluster_id``."""
    bgp: dict[str, Any] = {}
    if ipv4:
        bgp["ipv4Address"] = ipv4
    if ipv6:
        bgp["ipv6Address"] = ipv6
    if asn:
        bgp["asNumber"] = asn
    if cluster_id:
        bgp["routeReflectorClusterID"] = cluster_id
    return resource("Node", name, {"bgp": bgp}, labels=dict(labels or {}))


def pool(name: str, cidr: str, block_size: int | None = None, **spec: Any) -> dict[str, Any]:
    size = block_size or (122 if ":" in cidr else 26)
    modes = {"ipipMode": "Never", "vxlanMode": "Never"}
    return resource(
        "IPPool", name, {"cidr": cidr, "blockSize": size, **modes, "nodeSelector": "all()", **spec}
    )


def affinity(owner: str, cidr: str, state: str = "confirmed") -> dict[str, Any]:
    name = f"{owner}-{cidr.translate(str.maketrans('.:/', '---'))}"
    return resource("BlockAffinity", name, {"cidr": cidr, "node": owner, "state": state, "deleted": "false"})


def bgp_configuration(
    asn: int = 64512, mesh: bool = True, port: int | None = None, **more: Any
) -> dict[str, Any]:
    spec: dict[str, Any] = {"asNumber": asn, "nodeToNodeMeshEnabled": mesh, **more}
    if port:
        spec["listenPort"] = port
    return resource("BGPConfiguration", "default", spec)


def bgp_peer(name: str, peer_ip: str, asn: int, **spec: Any) -> dict[str, Any]:
    return resource("BGPPeer", name, {"peerIP": peer_ip, "asNumber": asn, **spec})


def bgp_filter(name: str, **lists: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """A BGPFilter of lists of rules: ``exportV4=[...]``."""
    return resource("BGPFilter", name, {key: [dict(rule) for rule in rules] for key, rules in lists.items()})


# BIRD.


class Bird(Daemon):
    """BIRD 2. ``config`` is the whole of bird.conf but the router id and the log."""

    kind = "bird"

    def __init__(self, namespace: Namespace, config: str, router_id: str, name: str = "") -> None:
        super().__init__(namespace, name)
        self.router_id = router_id
        self._config = self.directory / "bird.conf"
        self._socket = self.directory / "bird.ctl"
        self.write(config)

    def write(self, config: str) -> None:
        self._config.write_text(f"router id {self.router_id};\nlog stderr all;\n{config}\n")

    def start(self, recover: bool = False) -> Self:
        """Starts it; with ``recover`` after a crash (its ``-R``: the restart and forwarding bits of RFC 4724)."""
        self._socket.unlink(missing_ok=True)
        self.launch(
            *("bird", "-f", "-c", self._config, "-s", self._socket),
            *("-P", self.directory / "bird.pid"),
            *(["-R"] if recover else []),
        )
        self.wait(lambda: self.birdc("show status"), "answers birdc")
        return self

    def configure(self, config: str) -> None:
        """Takes a new configuration, live."""
        self.write(config)
        answer = self.birdc("configure")
        assert "Reconfigured" in answer or "in progress" in answer, answer

    def birdc(self, command: str) -> str:
        """The answer to one command."""
        return _run(["birdc", "-s", str(self._socket), *command.split()]).stdout

    def state(self, protocol: str) -> str:
        """The state and info of a protocol: ``up Established``, ``start Idle Received: Administrative shutdown``."""
        for line in self.birdc(f"show protocols {protocol}").splitlines():
            words = line.split()
            if words and words[0] == protocol:
                return " ".join([words[3], *words[5:]])
        raise LookupError(f"no protocol {protocol}")

    def established(self, protocol: str) -> bool:
        return "Established" in self.state(protocol)

    def heard(self, protocol: str) -> dict[str, Heard]:
        """What a session brought, of all families: prefix -> route."""
        found: dict[str, Heard] = {}
        current: dict[str, str] = {}

        def finish() -> None:
            if current:
                pref = current.get("bgp_local_pref")
                found[current["prefix"]] = Heard(
                    current.get("bgp_next_hop", "").split(" ")[0],
                    current.get("bgp_as_path", ""),
                    int(pref) if pref else None,
                )

        for line in self.birdc(f"show route all protocol {protocol}").splitlines():
            if line and not line[0].isspace() and f"[{protocol} " in line:
                finish()
                current = {"prefix": line.split()[0]}
            elif line.strip().startswith("BGP.") and current:
                key, _, value = line.strip().partition(":")
                current[key.lower().replace("bgp.", "bgp_")] = value.strip()
        finish()
        return found

    def since(self, protocol: str) -> float:
        """When a protocol last changed its state, in seconds of the day; a millisecond more or less each time."""
        hours, minutes, seconds = (
            self.birdc(f"show protocols {protocol}").splitlines()[-1].split()[4].split(":")
        )
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)

    def paths(self, prefix: str) -> list[dict[str, str]]:
        """All that it knows of one prefix, the best first: the attributes as birdc prints them, by their names in lower
        case (``cluster_list``), and ``protocol``."""
        found: list[dict[str, str]] = []
        for line in self.birdc(f"show route all for {prefix}").splitlines():
            if match := re.match(rf"(?:{re.escape(prefix)}|)\s+\w+ \[(\S+) ", line):
                found.append({"protocol": match[1]})
            elif line.strip().startswith("BGP.") and found:
                key, _, value = line.strip().removeprefix("BGP.").partition(":")
                found[-1][key.lower()] = value.strip()
        return found

    def describe(self) -> str:
        return self.birdc("show protocols all") + self.birdc("show route all")


# FRR.


class Frr(Daemon):
    """FRR's zebra and bgpd. ``config`` is bgpd's part of frr.conf."""

    kind = "frr"
    lib = Path("/usr/lib/frr")

    def __init__(self, namespace: Namespace, config: str, name: str = "") -> None:
        super().__init__(namespace, name)
        self.zebra: Process | None = None
        (self.directory / "vtysh.conf").write_text("no service integrated-vtysh-config\n")
        (self.directory / "zebra.conf").write_text(f"hostname {self.name}\n")
        self.write(config)

    def write(self, config: str) -> None:
        """What bgpd reads at its next start."""
        (self.directory / "bgpd.conf").write_text(f"hostname {self.name}\n{config}\n")

    def _words(self, daemon: str) -> list[object]:
        # The vty's TCP port stays closed; root may stay root, but of frrvty.
        words = ["-u", "root", "-g", "frrvty", "-P", "0", "--log", "stdout", "--log-level", "info"]
        files = {"-f": f"{daemon}.conf", "-i": f"{daemon}.pid", "-z": "zserv.api", "--vty_socket": "."}
        for option, file in files.items():
            words += [option, str(self.directory / file)]
        return [self.lib / daemon, *words]

    def start(self) -> Self:
        """Starts bgpd, and zebra where it does not run yet."""
        if self.zebra is None or not self.zebra.running:
            self.zebra = self.namespace.popen(*self._words("zebra"), name=f"{self.name}-zebra")
            ready = self.directory / "zserv.api"
            wait_until(
                ready.exists, 10, "zebra's socket", report=lambda: self.zebra.log if self.zebra else ""
            )
        self.launch(*self._words("bgpd"))
        self.wait(lambda: self.vtysh("show bgp vrfs"), "bgpd answers vtysh")
        return self

    def stop(self) -> int:
        assert self.zebra is not None
        code = super().stop()
        self.zebra.stop()
        return code

    def vtysh(self, *commands: str) -> str:
        """The answer of bgpd to some commands, typed one after the other."""
        words = [word for command in commands for word in ("-c", command)]
        return _run(
            [
                *("vtysh", "--vty_socket", str(self.directory), "--config_dir", str(self.directory)),
                *("-d", "bgpd", *words),
            ],
            env={**os.environ, "HOME": str(self.directory)},
        ).stdout

    def json(self, command: str) -> Any:
        return json.loads(self.vtysh(f"{command} json"))

    def configure(self, *commands: str) -> None:
        """Commands in configuration mode."""
        self.vtysh("configure terminal", *commands)

    def neighbor(self, address: str) -> dict[str, Any]:
        """One neighbour, in FRR's words."""
        return dict(self.json(f"show bgp neighbors {address}")[address])

    def established(self, address: str) -> bool:
        return bool(self.neighbor(address).get("bgpState") == "Established")

    def sessions(self, address: str) -> int:
        """How many sessions it has had with a neighbour."""
        return int(self.neighbor(address)["connectionsEstablished"])

    def paths(self, prefix: str) -> list[dict[str, Any]]:
        """All that it knows of one prefix, in its own words."""
        family = "ipv6" if ":" in prefix else "ipv4"
        return list(self.json(f"show bgp {family} unicast {prefix}").get("paths", []))

    def heard(self, address: str) -> dict[str, Heard]:
        """What a neighbour's session brought, of both families."""
        found: dict[str, Heard] = {}
        for family in ("ipv4", "ipv6"):
            for prefix, paths in (self.json(f"show bgp {family} unicast").get("routes") or {}).items():
                for path in paths:
                    if path.get("peerId") == address:
                        hops = [
                            hop["ip"] for hop in path["nexthops"] if hop.get("scope", "global") == "global"
                        ]
                        found[prefix] = Heard(
                            hops[0], path.get("path", ""), path.get("locPrf"), bool(path.get("stale"))
                        )
        return found

    def describe(self) -> str:
        shown = ("show bgp summary", "show bgp ipv4 unicast", "show bgp ipv6 unicast")
        return "\n".join(self.vtysh(command) for command in shown)


# GoBGP.


class Gobgp(Daemon):
    """GoBGP. ``config`` is its TOML."""

    kind = "gobgp"

    def __init__(self, namespace: Namespace, config: str, name: str = "") -> None:
        super().__init__(namespace, name)
        self._config = self.directory / "gobgpd.toml"
        self._config.write_text(config)

    def start(self, recover: bool = False) -> Self:
        """Starts it; with ``recover`` after a crash (its ``-r``: the restart bit of RFC 4724)."""
        self.launch(
            *("gobgpd", "-f", self._config, "-t", "toml", "-p", "-l", "info"),
            *("--api-hosts", "127.0.0.1:50051", "--pprof-disable", *(["-r"] if recover else [])),
            env={**os.environ, "GOMAXPROCS": "2"},
        )
        self.wait(lambda: self.gobgp("global"), "answers gobgp")
        return self

    def gobgp(self, command: str) -> str:
        """The answer to one command."""
        return self.namespace.run("gobgp", *command.split()).stdout

    def json(self, command: str) -> Any:
        return json.loads(self.gobgp(f"-j {command}") or "null")

    def announce(self, prefix: str, next_hop: str) -> None:
        family = "ipv6" if ":" in prefix else "ipv4"
        self.gobgp(f"global rib add {prefix} origin igp nexthop {next_hop} -a {family}")

    def withdraw(self, prefix: str) -> None:
        self.gobgp(f"global rib del {prefix} -a {'ipv6' if ':' in prefix else 'ipv4'}")

    def neighbor(self, address: str) -> dict[str, Any]:
        return dict(self.json(f"neighbor {address}"))

    def established(self, address: str) -> bool:
        return bool(self.neighbor(address)["state"].get("session_state") == 6)

    def heard(self, address: str) -> dict[str, Heard]:
        """What a neighbour's session brought, of both families."""
        found: dict[str, Heard] = {}
        for family in ("ipv4", "ipv6"):
            shown = self.namespace.run(
                *("gobgp", "-j", "neighbor", address, "adj-in", "-a", family), check=False
            ).stdout
            answer = json.loads(shown or "{}")
            if "error" in answer:
                continue  # that family is not of this session
            for prefix, paths in answer.items():
                for path in paths:
                    found[prefix] = _gobgp_route(path)
        return found

    def describe(self) -> str:
        return self.gobgp("neighbor") + self.gobgp("global rib") + self.gobgp("global rib -a ipv6")


def _gobgp_route(path: Mapping[str, Any]) -> Heard:
    next_hop, as_path, local_pref = "", "", None
    for attribute in path["attrs"]:
        kind = attribute["type"]
        if kind in (3, 14) and attribute.get("nexthop"):
            next_hop = attribute["nexthop"]
        elif kind == 2:
            asns = [asn for segment in attribute["as_paths"] for asn in segment["asns"]]
            as_path = " ".join(map(str, asns))
        elif kind == 5:
            local_pref = attribute["value"]
    return Heard(next_hop, as_path, local_pref, bool(path.get("stale")))


# Commands.


class _UnixHTTP(HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(self._path)
        except OSError:
            self.sock.close()
            raise


def _run(
    words: list[str],
    *,
    check: bool = True,
    timeout: float = 30.0,
    input: str | None = None,  # noqa: A002 (as in subprocess.run)
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    source: dict[str, Any] = {"stdin": subprocess.DEVNULL} if input is None else {"input": input}
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=timeout, env=env, check=False, **source
    )
    if check and done.returncode:
        raise CommandError(done.returncode, words, done.stdout, done.stderr)
    return done


def _joined(text: str) -> list[str]:
    """Lines of ``ip route``: the legs of a multipath route behind it, single blanks."""
    found: list[str] = []
    for line in text.splitlines():
        if line[:1].isspace() and found:
            found[-1] += f" {line}"
        else:
            found.append(line)
    return [" ".join(line.split()) for line in found]


def _ip(*words: object, check: bool = True) -> str:
    # The kernel takes its time where somebody ends a namespace with a full table, and all others wait.
    return _run(["ip", *map(str, words)], check=check, timeout=90).stdout
