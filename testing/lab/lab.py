"""Lays a topology in namespaces, runs things in its nodes, and ends it without a trace.

Called by ``lab.commands``, ``lab.demo`` and the tests; needs root, iproute2 and util-linux. A node is an init process
(``init.py``) with network, mount, UTS, IPC and process-id namespaces of its own; to end it is to end that process. What
is on record of a running lab lies in ``/run/bgpd-lab/<name>/``: the topology, and of each node the ids of its init and
of its ``cmd`` with their start times, so that an id the kernel gave to somebody else meanwhile is never signalled.

The order of ``up``: nodes, links, ``exec`` of every node in the file's order, then every ``cmd``. A container engine
starts ``cmd`` first; what runs there must not mind that its links come later.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from testing.lab.topology import LAB_DIRECTORY, Bind, NodeSpec, Topology, load_topology

LABS = Path("/run/bgpd-lab")
INIT = Path(__file__).with_name("init.py")
TOOLS = ("ip", "nsenter", "setsid", "unshare")
PATIENCE = 10.0
"""Seconds that a process may take to appear or to end before the lab gives up on it."""


class LabError(Exception):
    """The lab could not do what was asked; the message says what, where and what it expected."""


@dataclass(frozen=True, slots=True)
class _Process:
    """A process by id and start time (clock ticks since boot, proc(5)): an id alone may come to be another's."""

    pid: int
    start: int

    @classmethod
    def of(cls, pid: int, proc: Path = Path("/proc")) -> _Process | None:
        """The living process with an id, as a mounted ``proc`` shows it; ``None`` without one, or for a zombie."""
        try:
            text = (proc / str(pid) / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return None
        fields = text[text.rindex(")") + 2 :].split()
        return None if fields[0] in "ZX" else cls(pid, int(fields[19]))

    @classmethod
    def load(cls, path: Path) -> _Process | None:
        try:
            return cls(*map(int, path.read_text().split()))
        except FileNotFoundError:
            return None

    def save(self, path: Path) -> None:
        path.write_text(f"{self.pid} {self.start}\n")

    def alive(self, proc: Path = Path("/proc")) -> bool:
        return _Process.of(self.pid, proc) == self


class Entered(subprocess.Popen[Any]):
    """A command inside a node. Signals reach the command itself, not the nsenter in front of it: that one would die
    alone, and leave the command to run on."""

    def send_signal(self, sig: int) -> None:
        while self.poll() is None:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
            if command := children.read_text().split():
                with suppress(ProcessLookupError):
                    os.kill(int(command[0]), sig)
                return
            time.sleep(0.001)  # nsenter has not got as far as to start it


class Node:
    """A node of a lab. Commands are a list of words, or one string that is split as a shell would, without a shell."""

    def __init__(self, lab: Lab, name: str, spec: NodeSpec) -> None:
        self.lab = lab
        self.name = name
        self.spec = spec
        self.log = lab.directory / f"{name}.log"
        """Where ``cmd`` writes; goes with the lab."""
        self._init_file = lab.directory / f"{name}.init"
        self._cmd_file = lab.directory / f"{name}.cmd"

    @property
    def init(self) -> _Process | None:
        """The init process as the machine sees it, while the node is up."""
        process = _Process.load(self._init_file)
        return process if process is not None and process.alive() else None

    @property
    def pid(self) -> int:
        """The init's process id; ``LabError`` when the node is not up."""
        init = self.init
        if init is None:
            raise LabError(f"node {self.name} of lab {self.lab.name} is not up")
        return init.pid

    def path(self, path: str | Path) -> Path:
        """Where the machine sees a file of the node, in its ``/run`` say. No absolute symbolic link on the way."""
        return Path(f"/proc/{self.pid}/root") / str(path).lstrip("/")

    @property
    def environment(self) -> dict[str, str]:
        """What a command in the node gets: ours, first in PATH the running Python's ``bgpd``, the node's ``env``."""
        usual = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        places = [os.path.dirname(sys.executable), *filter(None, [os.environ.get("PATH")]), usual]
        return {**os.environ, "PATH": ":".join(places), "HOSTNAME": self.name, **self.spec.env}

    def entry(self, command: Sequence[str] | str) -> list[str]:
        """The command line that runs a command inside the node, at its ``/``."""
        words = shlex.split(command) if isinstance(command, str) else list(command)
        return [
            "nsenter",
            f"--target={self.pid}",
            "--net",
            "--mount",
            "--uts",
            "--ipc",
            "--pid",
            "--",
            *words,
        ]

    def popen(self, command: Sequence[str] | str, **options: Any) -> Entered:
        """Starts a command inside the node; ``options`` are those of ``subprocess.Popen``."""
        options.setdefault("env", self.environment)
        options.setdefault("stdin", subprocess.DEVNULL)
        return Entered(self.entry(command), **options)

    def run(
        self,
        command: Sequence[str] | str,
        *,
        check: bool = False,
        timeout: float | None = 60.0,
        input: str | None = None,  # noqa: A002 (as in subprocess.run)
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command inside the node; its outcome, output as text. ``check``: a failure is a ``LabError``."""
        with self.popen(
            command,
            stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                out, err = process.communicate(input, timeout=timeout)
            except BaseException:
                process.kill()
                raise
        if check and process.returncode != 0:
            shown = command if isinstance(command, str) else shlex.join(command)
            raise LabError(f"{self.name}: {shown}: exit {process.returncode}: {(err or out).strip()}")
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def start(self) -> None:
        """Starts the node's ``cmd``, detached, its output appended to ``log``. Nothing to do where it runs already."""
        if not self.spec.cmd:
            raise LabError(f"node {self.name} has no cmd")
        if self.running:
            return
        # Standard output is our pipe until the exec hands over to the log: end of file means it is done.
        script = 'command -v "$1" >/dev/null && echo $$ && exec "$@" >&2'
        with (
            self.log.open("ab") as log,
            self.popen(
                ["setsid", "--fork", "sh", "-c", script, "sh", *self.spec.cmd],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            ) as process,
        ):
            out, _ = process.communicate(timeout=PATIENCE)
        if not out:
            raise LabError(f"{self.name}: cmd: {self.spec.cmd[0]!r} is not a command there")
        cmd = _Process.of(int(out), self.path("/proc"))
        if cmd is not None:  # else it has ended already: ``running`` and the log say so
            cmd.save(self._cmd_file)

    @property
    def cmd_pid(self) -> int | None:
        """The id of the running ``cmd`` inside the node; ``None`` while it does not run."""
        cmd = _Process.load(self._cmd_file)
        return cmd.pid if cmd is not None and cmd.alive(self.path("/proc")) else None

    @property
    def running(self) -> bool:
        """Whether ``cmd`` runs."""
        return self.cmd_pid is not None

    def kill(self, signal_number: int = signal.SIGKILL) -> None:
        """Signals ``cmd``, and after SIGKILL and SIGTERM waits until it is gone. The node itself stays."""
        pid = self.cmd_pid
        if pid is None:
            raise LabError(f"{self.name}: cmd does not run, see {self.log}")
        self.run(["sh", "-c", f"kill -{int(signal_number)} {pid}"], check=True)
        if signal_number in (signal.SIGKILL, signal.SIGTERM):
            _wait(
                lambda: self.cmd_pid != pid, f"{self.name}: cmd did not end after signal {int(signal_number)}"
            )

    def __repr__(self) -> str:
        return f"<node {self.name} of lab {self.lab.name}>"


class Lab:
    """A topology and, between ``up`` and ``down``, what is laid of it. As a context manager it is up inside."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.name = topology.name
        self.directory = LABS / topology.name
        self.nodes = {name: Node(self, name, spec) for name, spec in topology.nodes.items()}
        self._waiters: list[subprocess.Popen[str]] = []
        """The unshare of each node, when this object laid it: kept to be waited for."""

    @classmethod
    def load(cls, path: Path | str, name: str | None = None) -> Lab:
        """From a file, nothing made yet. ``name`` replaces the file's: labs of other names do not touch each other.
        ``TopologyError`` names every mistake."""
        return cls(load_topology(Path(path), name))

    @classmethod
    def running(cls, name: str) -> Lab:
        """The lab that was laid by this name, as it was laid; ``LabError`` without one."""
        try:
            text = (LABS / name / "topology.json").read_text()
        except (FileNotFoundError, NotADirectoryError):
            up = ", ".join(cls.names()) or "none"
            raise LabError(f"no lab {name!r} is up; those that are: {up}") from None
        return cls(Topology.model_validate_json(text))

    @classmethod
    def names(cls) -> list[str]:
        """The labs that are on record here."""
        return sorted(path.parent.name for path in LABS.glob("*/topology.json"))

    def node(self, name: str) -> Node:
        try:
            return self.nodes[name]
        except KeyError:
            raise LabError(
                f"lab {self.name} has no node {name!r}, expected one of: {', '.join(self.nodes)}"
            ) from None

    def up(self) -> None:
        """Lays all of it, or nothing: what fails midway is taken away again. ``LabError`` says what failed."""
        if os.geteuid() != 0:
            raise LabError("a lab is made of namespaces: run it as root")
        if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
            raise LabError(
                f"not found: {', '.join(missing)}; expected iproute2 and util-linux to be installed"
            )
        with self._locked():
            if any(node.init for node in self.nodes.values()):
                raise LabError(f"lab {self.name} is up already; end it first: bgpd lab down {self.name}")
            try:
                self._lay()
            except BaseException:
                self._end()
                raise

    def down(self) -> None:
        """Ends every node, and with it all that ran or was made in it. Nothing to do where nothing is up."""
        if self.directory.exists():
            with self._locked():
                self._end()

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def _lay(self) -> None:
        for old in self.directory.iterdir():  # of a lab that the machine's last shutdown ended
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        (self.directory / "topology.json").write_text(self.topology.model_dump_json(indent=1))
        for _ in self.nodes:
            self._spawn()
        for node, waiter in zip(self.nodes.values(), self._waiters, strict=True):
            self._hand_shake(node, waiter)
        self._link()
        for node in self.nodes.values():
            for command in node.spec.commands:
                node.run(command, check=True)
        for node in self.nodes.values():
            if node.spec.cmd:
                node.start()

    def _spawn(self) -> None:
        namespaces = ["--net", "--mount", "--uts", "--ipc", "--pid"]
        self._waiters.append(
            subprocess.Popen(
                ["unshare", *namespaces, "--fork", "--kill-child", "--", sys.executable, "-IS", str(INIT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                cwd="/",
                start_new_session=True,  # the terminal's Ctrl-C is for us, who then end the lab in order
            )
        )

    def _hand_shake(self, node: Node, waiter: subprocess.Popen[str]) -> None:
        assert waiter.stdin is not None and waiter.stdout is not None
        with waiter.stdin, waiter.stdout:
            line = waiter.stdout.readline().strip()
            init = _Process.of(int(line)) if line.isdecimal() else None
            if init is None:
                raise LabError(
                    f"{node.name}: its namespaces could not be made: {line or 'no word of its init'}"
                )
            init.save(node._init_file)
            binds = [(str(self._source(bind)), bind.target, bind.read_only) for bind in node.spec.binds]
            specification = {"hostname": node.name, "sysctls": node.spec.sysctls, "binds": binds}
            waiter.stdin.write(json.dumps(specification) + "\n")
            waiter.stdin.flush()
            answer = waiter.stdout.readline().strip()
        if answer != "ok":
            raise LabError(f"{node.name}: {answer or 'its init ended'}")

    def _source(self, bind: Bind) -> Path:
        """Where a bind's source is; inside the lab's own directory it is made."""
        if bind.source.is_absolute():
            return bind.source
        source = self.directory / "files" / bind.source.relative_to(LAB_DIRECTORY)
        source.mkdir(parents=True, exist_ok=True)
        return source

    def _link(self) -> None:
        """All cables at once, made where their ends belong, so that no name shows on the machine itself."""
        cables = []
        inside: dict[str, list[str]] = {name: ["link set lo up"] for name in self.nodes}
        for name, node in self.nodes.items():
            if node.spec.kind == "bridge":
                inside[name].append(f"link add name {name} up type bridge")
        for link in self.topology.links:
            ends = []
            for end in link.endpoints:
                mac = f" address {end.mac}" if end.mac else ""
                ends.append(f"{end.interface} mtu {link.mtu}{mac} netns {self.nodes[end.node].pid}")
                master = f" master {end.node}" if self.nodes[end.node].spec.kind == "bridge" else ""
                inside[end.node].append(f"link set dev {end.interface} up{master}")
            cables.append(f"link add name {ends[0]} type veth peer name {ends[1]}")
        made = subprocess.run(
            ["ip", "-batch", "-"], input="\n".join(cables), text=True, capture_output=True, check=False
        )
        if made.returncode != 0:
            raise LabError(f"links: {made.stderr.strip()}")
        for name, lines in inside.items():
            self.nodes[name].run(["ip", "-batch", "-"], input="\n".join(lines), check=True)

    def _end(self) -> None:
        inits = [_Process.load(node._init_file) for node in self.nodes.values()]
        _end_processes([init for init in inits if init is not None], f"lab {self.name}")
        for waiter in self._waiters:
            for pipe in (waiter.stdin, waiter.stdout):
                if pipe is not None:
                    pipe.close()  # an init that was not on record yet ends by this
            waiter.wait(PATIENCE)
        self._waiters.clear()
        shutil.rmtree(self.directory)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One at a time lays or ends a lab of this name."""
        self.directory.mkdir(parents=True, exist_ok=True)
        fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # It may have been taken away between opening and locking.
                if os.fstat(fd).st_nlink == 0:
                    raise BlockingIOError
            except BlockingIOError:
                raise LabError(f"lab {self.name} is being laid or ended by another process") from None
            yield
        finally:
            os.close(fd)


def _end_processes(processes: Sequence[_Process], what: str) -> None:
    """Kills inits by id and start time and waits for their end, which is that of all in their namespaces."""
    with ExitStack() as stack:
        descriptors = []
        for process in processes:
            try:
                fd = os.pidfd_open(process.pid)
            except ProcessLookupError:
                continue
            stack.callback(os.close, fd)
            if (
                process.alive()
            ):  # checked with the descriptor open: from here on the id cannot become another's
                signal.pidfd_send_signal(fd, signal.SIGKILL)
                descriptors.append(fd)
        for fd in descriptors:
            if not select.select([fd], [], [], PATIENCE)[0]:
                raise LabError(f"{what}: a node did not end in {PATIENCE:.0f} s")


def _wait(done: Callable[[], bool], failure: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not done():
        if time.monotonic() > deadline:
            raise LabError(failure)
        time.sleep(0.01)
