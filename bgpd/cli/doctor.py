"""``bgpctl doctor``: what of this machine hinders bgpd, and what an archive for support holds.

The checks read ``/proc``, ``/sys`` and the daemon's answers, change nothing, and need no daemon: what only it can say
is then left out. Each finding has one sentence, and where it is not good another with what to do.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import socket
import struct
import subprocess
import tarfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bgpd import __version__
from bgpd.cli.client import Client, Denied, Refused, Unreachable
from bgpd.config.named_files import SMALL, read_named
from bgpd.config.places import DEFAULT_CONFIG

GOOD, WARN, BAD = "good", "warn", "bad"
BGP_PORT = 179
CAPABILITIES = {10: "CAP_NET_BIND_SERVICE", 12: "CAP_NET_ADMIN"}
OTHERS = ("bird", "bird6", "gobgpd", "zebra", "kube-router", "calico-node")
"""Processes that write routes, by the name of their program."""
TUNNELS = ("tunl", "vxlan", "wireguard", "wg-")
TCP_MD5SIG = 14
LEAST_FREE = 64 << 20
"""Octets that the state directory's disk should have free."""
_SECRET = re.compile(r"(?im)^(\s*[\w.-]*(?:password|secret|token|key)[\w.-]*\s*:\s*)(?!\s*(?:/|null\b|$)).+$")
JOURNAL_LINES, TABLE_LINES = 5000, 20000


class Finding(NamedTuple):
    """What one check found: ``state`` is ``good``, ``warn`` or ``bad``."""

    name: str
    state: str
    text: str
    advice: str = ""


class Machine(NamedTuple):
    """Where the checks look: the root of a file system, and the daemon's answers (empty without one)."""

    root: Path
    status: Mapping[str, Any]
    peers: tuple[Mapping[str, Any], ...]
    pid: int | None
    """The daemon's process, if it answers."""
    no_daemon: str = ""
    """Why there are no answers."""
    config: Path = Path(DEFAULT_CONFIG)
    state: str = "/var/lib/bgpd"
    """Where the daemon keeps what outlasts it."""

    def read(self, path: str) -> str | None:
        """A file's text without white space around it; ``None`` where it cannot be read."""
        try:
            return (self.root / path.lstrip("/")).read_text(errors="replace").strip()
        except OSError:
            return None

    def sysctl(self, name: str) -> str | None:
        """A setting of the kernel, by its name with dots."""
        return self.read("proc/sys/" + name.replace(".", "/"))

    def interfaces(self) -> list[str]:
        """The names of all interfaces."""
        try:
            return sorted(os.listdir(self.root / "sys/class/net"))
        except OSError:
            return []


def ask(client: Client, path: str, config: str = "", root: Path = Path("/")) -> Machine:
    """The machine with the answers of the daemon behind a socket, or with the reason why there are none. ``config``:
    the daemon's configuration, where another is meant than it says."""
    try:
        status, peers = client.get("/v1/status"), client.get("/v1/peers")["peers"]
    except (Unreachable, Denied, Refused) as error:
        file = Path(config or DEFAULT_CONFIG)
        return Machine(root, {}, (), None, str(error), file, _state_directory(file))
    process = _process_behind(path)
    file = Path(config) if config else Path(f"/proc/{process or 'self'}/cwd", status["config_file"])
    return Machine(root, status, tuple(peers), process, "", file, _state_directory(file))


def _state_directory(config: Path) -> str:
    """By the configuration, if it can be read."""
    from bgpd.config.config import Config
    from bgpd.config.reading import ConfigError, load

    try:
        return str(load(config).state_directory)
    except ConfigError:
        return str(Config.keys["state_directory"].default_value)


def _process_behind(path: str) -> int | None:
    """Whoever listens on a unix socket (SO_PEERCRED)."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
            one.settimeout(2)
            one.connect(path)
            pid, _, _ = struct.unpack("3i", one.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            return int(pid) or None
    except OSError:
        return None


def examine(machine: Machine) -> Iterator[Finding]:
    """All checks, in the order of what has to work first."""
    yield from _daemon(machine)
    yield _capabilities(machine)
    yield _descriptors(machine)
    yield _port(machine)
    yield _writers(machine)
    yield from _forwarding(machine)
    yield _reverse_path(machine)
    yield _multipath(machine)
    yield _mtu(machine)
    yield _md5(machine)
    yield _clock(machine)
    yield _disk(machine)


def _daemon(machine: Machine) -> Iterator[Finding]:
    if machine.no_daemon:
        advice = "systemctl status bgpd; journalctl -u bgpd -n 50"
        yield Finding("daemon", BAD, f"bgpd does not answer: {machine.no_daemon}", advice)
        return
    status = machine.status
    if status["version"] != __version__:
        text = f"bgpd is {status['version']}, bgpctl {__version__}"
        yield Finding(
            "daemon", WARN, text, "the package was upgraded and bgpd not restarted: systemctl restart bgpd"
        )
    elif not status["ready"]:
        yield Finding(
            "daemon", BAD, "bgpd answers and is not ready", "bgpctl health names the check that fails"
        )
    else:
        yield Finding("daemon", GOOD, f"bgpd {status['version']} answers and is ready")
    for reason in status.get("degraded", ()):
        yield Finding("status", WARN, str(reason), "bgpctl status has more")


def _capabilities(machine: Machine) -> Finding:
    text = machine.read(f"proc/{machine.pid}/status") if machine.pid else None
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", text or "", re.MULTILINE)
    if found is None:
        return Finding(
            "capabilities", WARN, "which capabilities bgpd has cannot be seen", "run it as root, with bgpd up"
        )
    held = int(found[1], 16)
    missing = [name for bit, name in CAPABILITIES.items() if not held >> bit & 1]
    if missing:
        advice = "the unit gives them by AmbientCapabilities, a DaemonSet by securityContext.capabilities"
        return Finding("capabilities", BAD, f"bgpd lacks {' and '.join(missing)}", advice)
    return Finding("capabilities", GOOD, f"bgpd has {' and '.join(CAPABILITIES.values())}")


def _descriptors(machine: Machine) -> Finding:
    limits = machine.read(f"proc/{machine.pid}/limits") if machine.pid else None
    found = re.search(r"^Max open files\s+(\d+)", limits or "", re.MULTILINE)
    try:
        used = len(os.listdir(machine.root / f"proc/{machine.pid}/fd"))
    except OSError:
        used = 0
    if found is None or not used:
        return Finding(
            "descriptors", WARN, "bgpd's open files cannot be counted", "run it as root, with bgpd up"
        )
    most = int(found[1])
    text = f"bgpd has {used} of {most} files open"
    if used > most * 0.8:
        return Finding("descriptors", WARN, text, "raise LimitNOFILE of the unit")
    return Finding("descriptors", GOOD, text)


def _port(machine: Machine) -> Finding:
    port = BGP_PORT
    listening = set(_listeners(machine, port))
    if not listening:
        state = BAD if machine.pid else WARN
        return Finding(
            "port 179",
            state,
            f"nobody listens on TCP port {port}",
            "bgpctl status says why; bgp.listen in bgpd.yaml",
        )
    others = {owner for inode in listening if (owner := _owner(machine, inode)) and owner[0] != machine.pid}
    if others:
        names = ", ".join(f"{name} (process {pid})" for pid, name in sorted(others))
        return Finding(
            "port 179", BAD, f"TCP port {port} is held by {names}", "stop it: one BGP daemon a node"
        )
    return Finding("port 179", GOOD, f"bgpd listens on TCP port {port}")


def _listeners(machine: Machine, port: int) -> Iterator[str]:
    """The inodes of the sockets that listen on a port."""
    for table in ("tcp", "tcp6"):
        for line in (machine.read(f"proc/net/{table}") or "").splitlines()[1:]:
            words = line.split()
            if len(words) > 9 and words[3] == "0A" and int(words[1].rsplit(":", 1)[1], 16) == port:
                yield words[9]


def _processes(machine: Machine) -> Iterator[tuple[int, str]]:
    try:
        names = os.listdir(machine.root / "proc")
    except OSError:
        return
    for name in names:
        if name.isdigit() and (command := machine.read(f"proc/{name}/comm")):
            yield int(name), command


def _owner(machine: Machine, inode: str) -> tuple[int, str] | None:
    for pid, name in _processes(machine):
        folder = machine.root / f"proc/{pid}/fd"
        try:
            links = [os.readlink(folder / each) for each in os.listdir(folder)]
        except OSError:
            continue
        if f"socket:[{inode}]" in links:
            return pid, name
    return None


def _writers(machine: Machine) -> Finding:
    try:
        here = os.readlink(machine.root / f"proc/{machine.pid or 'self'}/ns/net")
    except OSError:
        here = ""
    found = []
    for pid, name in _processes(machine):
        if name in OTHERS and pid != machine.pid:
            try:
                there = os.readlink(machine.root / f"proc/{pid}/ns/net")
            except OSError:
                there = here
            if there == here and not _is_our_decoy(machine, pid):
                found.append(f"{name} (process {pid})")
    if found:
        advice = "two daemons that write routes of protocol bird undo each other's work: docs/migrate.md"
        return Finding("other writers", WARN, f"also at work here: {', '.join(sorted(found))}", advice)
    return Finding("other writers", GOOD, "no other routing daemon runs in this network namespace")


def _is_our_decoy(machine: Machine, pid: int) -> bool:
    """A child of bgpd that only has the name, for tools that look for it."""
    text = machine.read(f"proc/{pid}/status") or ""
    return machine.pid is not None and re.search(rf"^PPid:\s*{machine.pid}$", text, re.MULTILINE) is not None


def _forwarding(machine: Machine) -> Iterator[Finding]:
    for name, family in (("net.ipv4.ip_forward", "IPv4"), ("net.ipv6.conf.all.forwarding", "IPv6")):
        value = machine.sysctl(name)
        if value is None:
            continue
        used = family == "IPv4" or any("ipv6" in peer.get("families", ()) for peer in machine.peers)
        if value == "0" and used:
            yield Finding(
                "forwarding", BAD, f"{name} is 0: no packet of a pod leaves this node", f"sysctl -w {name}=1"
            )
        elif value != "0":
            yield Finding("forwarding", GOOD, f"{family} is forwarded")


def _reverse_path(machine: Machine) -> Finding:
    everywhere = machine.sysctl("net.ipv4.conf.all.rp_filter") or "0"
    strict = [
        name
        for name in machine.interfaces()
        if name != "lo"
        and not name.startswith("cali")
        and max(everywhere, machine.sysctl(f"net.ipv4.conf.{name}.rp_filter") or "0") == "1"
    ]
    if strict:
        advice = "what comes in on another link than the answer leaves by is dropped: 2 where there is ECMP"
        return Finding("reverse path", WARN, f"rp_filter is strict on {', '.join(strict)}", advice)
    return Finding("reverse path", GOOD, "rp_filter is strict on no uplink")


def _multipath(machine: Machine) -> Finding:
    wanted = {"net.ipv4.fib_multipath_hash_policy": "1", "net.ipv4.conf.all.ignore_routes_with_linkdown": "1"}
    differ = [name for name, value in wanted.items() if machine.sysctl(name) not in (value, None)]
    if differ:
        advice = "systemd/sysctl.d/60-bgpd.conf sets them: flows spread by ports, a dead link is left at once"
        return Finding("ECMP", WARN, f"{' and '.join(differ)} not set to 1", advice)
    return Finding("ECMP", GOOD, "flows spread by addresses and ports, dead links are left out")


def _mtu(machine: Machine) -> Finding:
    sizes = {name: int(machine.read(f"sys/class/net/{name}/mtu") or 0) for name in machine.interfaces()}
    pods = {name: size for name, size in sizes.items() if name.startswith("cali")}
    uplinks = {
        name: size
        for name, size in sizes.items()
        if name != "lo"
        and not name.startswith("cali")
        and (machine.root / f"sys/class/net/{name}/device").exists()
    } or {name: size for name, size in sizes.items() if name.startswith(("eth", "en"))}
    if not pods or not uplinks:
        return Finding("MTU", GOOD, "no pod's interface is larger than an uplink")
    largest, least = max(pods.values()), min(uplinks.values())
    if largest > least:
        names = ", ".join(name for name, size in uplinks.items() if size < largest)
        advice = "large packets of pods are lost where fragmentation is not allowed: lower the pods' MTU"
        return Finding("MTU", WARN, f"pods have an MTU of {largest}, {names} only {least}", advice)
    tunnels = [name for name, size in sizes.items() if name.startswith(TUNNELS) and size < largest]
    if tunnels:
        advice = "what goes through the tunnel needs a smaller MTU in the pods"
        return Finding("MTU", WARN, f"pods have an MTU of {largest}, {', '.join(tunnels)} less", advice)
    return Finding("MTU", GOOD, f"pods {largest}, uplinks {least}")


def _md5(machine: Machine) -> Finding:
    key = struct.pack("=H6x120xBBHI80s", socket.AF_INET, 0, 0, 1, 0, b"x")
    address = struct.pack("=HH4s", socket.AF_INET, 0, socket.inet_aton("192.0.2.1"))
    key = address + bytes(120) + key[len(address) + 120 :]
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as one:
            one.setsockopt(socket.IPPROTO_TCP, TCP_MD5SIG, key)
    except OSError as error:
        if error.errno == errno.EPERM:
            return Finding("TCP MD5", WARN, "cannot be tried without CAP_NET_ADMIN", "run it as root")
        advice = "peers with a password cannot come up: a kernel with CONFIG_TCP_MD5SIG, and no FIPS mode"
        return Finding(
            "TCP MD5", WARN, f"this kernel refuses TCP MD5: {os.strerror(error.errno or 0)}", advice
        )
    return Finding("TCP MD5", GOOD, "this kernel has TCP MD5")


def _clock(machine: Machine) -> Finding:
    if (machine.root / "run/systemd/timesync/synchronized").exists():
        return Finding("clock", GOOD, "the clock is synchronised")
    running = {name for _, name in _processes(machine)} & {
        "chronyd",
        "ntpd",
        "ntpd-rs",
        "systemd-timesyn",
        "ptp4l",
    }
    if running:
        return Finding("clock", GOOD, f"{', '.join(sorted(running))} looks after the clock")
    advice = "certificates and the logs of several nodes need one: systemd-timesyncd or chrony"
    return Finding("clock", WARN, "nothing on this machine looks after the clock", advice)


def _disk(machine: Machine) -> Finding:
    state = machine.state
    try:
        found = os.statvfs(machine.root / state.lstrip("/"))
    except OSError:
        return Finding("disk", WARN, f"{state} is not there", "what must outlast a restart is kept in it")
    free = found.f_bavail * found.f_frsize
    if free < LEAST_FREE:
        return Finding(
            "disk",
            BAD,
            f"{state} has {free >> 20} MiB free",
            "free some: state is not kept on a full disk",
        )
    return Finding("disk", GOOD, f"{state} has {free >> 20} MiB free")


# The archive.


def redacted(text: str) -> str:
    """A text without the values of keys that look like secrets; names of files stay."""
    return _SECRET.sub(r"\1(left out)", text)


def bundle(path: Path, client: Client, findings: list[Finding], config: Path) -> list[str]:
    """Writes an archive for support, readable for its owner only; the names of what is in it.

    ``OSError`` where it cannot be written. What cannot be had is in it as its reason.
    """
    parts = {"doctor.json": json.dumps([each._asdict() for each in findings], indent=2)}
    for name, question in (
        ("status.json", "/v1/status"),
        ("peers.json", "/v1/peers"),
        ("blocks.json", "/v1/blocks"),
        ("bfd.json", "/v1/bfd"),
        ("routes-rib.json", "/v1/routes?table=rib"),
        ("routes-fib.json", "/v1/routes?table=fib"),
        ("metrics.txt", "/metrics"),
    ):
        parts[name] = _answer(client, question)
    try:
        parts["bgpd.yaml"] = read_named(config, SMALL).decode(errors="replace")
    except OSError as error:
        parts["bgpd.yaml"] = f"# {error}\n"
    for name, words in {
        "ip-route.txt": ("ip", "-d", "route", "show", "table", "all"),
        "ip-route6.txt": ("ip", "-6", "-d", "route", "show", "table", "all"),
        "ip-rule.txt": ("ip", "rule"),
        "ip-link.txt": ("ip", "-d", "-s", "link"),
        "ip-address.txt": ("ip", "address"),
        "sockets.txt": ("ss", "-tnpi", "sport = :179 or dport = :179"),
        "journal.txt": ("journalctl", "--no-pager", f"--lines={JOURNAL_LINES}", "--unit=bgpd"),
        "uname.txt": ("uname", "-a"),
    }.items():
        parts[name] = _output(words)
    with (
        os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file,
        tarfile.open(fileobj=file, mode="w:gz") as archive,
    ):
        for name, text in parts.items():
            data = redacted(text).encode()
            entry = tarfile.TarInfo(f"bgpd-support/{name}")
            entry.size, entry.mtime, entry.mode = len(data), int(time.time()), 0o600
            archive.addfile(entry, io.BytesIO(data))
    return list(parts)


def _answer(client: Client, question: str) -> str:
    path, _, query = question.partition("?")
    try:
        found: list[str] = []
        for line in client.lines(path, dict([query.split("=")]) if query else None):
            if len(found) == TABLE_LINES:
                found.append("(and more)\n")
                break
            found.append(line.decode(errors="replace"))
        return "".join(found)
    except (Unreachable, Denied, Refused) as error:
        return f"{error}\n"


def _output(words: tuple[str, ...]) -> str:
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, errors="replace", timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{error}\n"
    rows = (done.stdout + done.stderr).splitlines(keepends=True)
    return "".join(rows[-TABLE_LINES:])
