"""Networks of namespaces, and the processes in them: the ground of the tests, the lab and the benchmarks.

A ``Net`` owns all it makes, namespaces and processes, and ends it by name and process id when it is closed, also when
the work in it failed. Names of namespaces are unique to the machine, addresses are the caller's: two nets may use the
same ones. Nothing here knows pytest. Needs root, iproute2 and util-linux.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    from testing.daemons import Daemon

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


_RARELY_SECONDS = 0.15


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
    and ``report()``. It is asked every ``interval`` seconds, and less often the longer it takes, since most questions
    start a process or two: every tenth of the time that has passed, ``_RARELY_SECONDS`` at most.
    """
    began = time.monotonic()
    deadline = began + timeout
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
        time.sleep(max(interval, min((time.monotonic() - began) / 10, _RARELY_SECONDS)))


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
        return run_command(self.entry(*words), check=check, timeout=timeout, input=input, env=env)

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
        """``ip monitor`` of some objects (``route`` unless given), already watching on return."""
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

    def hosts(
        self, addresses: Mapping[str, Iterable[str]], device: str = "ens5"
    ) -> tuple[dict[str, Namespace], Namespace]:
        """A namespace for each label, all on one ``lan`` with these addresses; and the switch."""
        made = {label: self.namespace(label) for label in addresses}
        return made, self.lan({made[label]: each for label, each in addresses.items()}, device)

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


class CommandError(subprocess.CalledProcessError):
    """A command that failed, with its output in the message."""

    def __str__(self) -> str:
        return f"{super().__str__()}\n{self.stdout or ''}{self.stderr or ''}".rstrip()


def run_command(
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
    return run_command(["ip", *map(str, words)], check=check, timeout=90).stdout
