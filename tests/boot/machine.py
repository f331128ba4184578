"""A machine to install bgpd on: a minimal Debian with systemd, really booted, in a container of systemd-nspawn.

It has a copy of the root that ``prepare`` made, a network namespace of its own with ``ens5`` on a ``netlab`` switch,
and no way out to any other network. It is steered from outside: ``run`` enters its namespaces. ``close`` ends it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from testing.daemons import Ended
from testing.namespaces import PROJECT, UNREADY, Namespace, Net, Process, wait_until

SOURCE, WHEELS = "/src", "/wheels"
"""Where the machine finds the source tree and what pip installs from."""


class Inside(Namespace):
    """The network namespace of a running machine, seen from outside: there already, and named here."""

    def __init__(self, net: Net, label: str, leader: int) -> None:
        self.net, self.label, self.name = net, label, f"{net.namespaces[0].name}-{label}"
        subprocess.run(["ip", "netns", "attach", self.name, str(leader)], check=True)
        net.namespaces.append(self)


class Machine:
    """One machine; ``boot`` starts it, as often as it was shut down. Its disk stays."""

    def __init__(self, switch: Namespace, name: str, prepared: Path, *addresses: str) -> None:
        self._net, self._switch, self._wheels = switch.net, switch, prepared / "wheels"
        self.name = name
        self.root = switch.net.directory / f"{name}-root"
        self.inside: Inside
        self._process: Process | None = None
        self._leader = 0
        self._unique = f"{switch.name}-{name}"
        self._port = f"port-{name}"
        subprocess.run(["cp", "-a", "--reflink=auto", prepared / "root", self.root], check=True)
        self.write("/etc/hostname", f"{name}\n")
        words = ["Name=ens5", "[Network]", "LinkLocalAddressing=ipv6", "IPv6AcceptRA=no"]
        words += [f"Address={address}" for address in addresses]
        self.write("/etc/systemd/network/ens5.network", "\n".join(["[Match]", *words, ""]))
        subprocess.run(
            ["systemctl", f"--root={self.root}", "--quiet", "enable", "systemd-networkd"], check=True
        )

    # Its disk, from outside.

    def write(self, path: str, text: str) -> None:
        """A file, at once and whole."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh = file.with_name(f".{file.name}.new")
        fresh.write_text(text)
        fresh.chmod(0o644)
        fresh.rename(file)

    def write_resources(self, file: str, *objects: Mapping[str, Any]) -> None:
        """A file in the resources' directory."""
        self.write(f"/etc/bgpd/resources/{file}.yaml", yaml.safe_dump_all([dict(item) for item in objects]))

    # Life.

    def boot(self) -> None:
        """Returns when systemd has started all that it was to start."""
        self._leader = 0
        self._process = process = self._switch.popen(
            *("systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "--settings=no"),
            *(f"--directory={self.root}", f"--machine={self._unique}", "--console=pipe"),
            *("--link-journal=no", "--resolv-conf=off", "--timezone=off"),
            *(f"--bind-ro={PROJECT}:{SOURCE}", f"--bind-ro={self._wheels}:{WHEELS}"),
            *("--private-network", "--capability=CAP_NET_ADMIN", f"--network-veth-extra={self._port}:ens5"),
            name=f"{self.name}-console",
        )
        self._leader = wait_until(self._find_leader, 10, "systemd runs in the machine")
        wait_until(self._plug_in, 10, "the machine has a link")
        self.inside = Inside(self._net, self.name, self._leader)
        wait_until(self._booted, 60, "the machine has booted", interval=0.2, report=lambda: process.log)

    def _find_leader(self) -> int:
        """The machine's process 1; its children before that are systemd-nspawn's own."""
        assert self._process is not None
        if not self._process.running:
            raise Ended(f"{self.name} ended:\n{self._process.log}")
        pid = self._process.pid
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                return int(child)
        return 0

    def _plug_in(self) -> bool:
        self._switch.ip("link", "set", self._port, "master", "br0", "up")
        return True

    def _booted(self) -> bool:
        state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
        return state in ("running", "degraded")

    def shut_down(self) -> None:
        """As an operator does."""
        self.run("systemctl", "poweroff", "--no-block", check=False)  # it may cut us off
        assert self._process is not None
        self._process.wait(60)
        self._net.remove(self.inside)
        self._tidy()

    def close(self) -> None:
        """Whatever it does, it ends: a machine survives its systemd-nspawn, so that the net's own end is not enough."""
        if self._process is None or not self._process.running:
            return
        with contextlib.suppress(*UNREADY):
            os.kill(self._leader or wait_until(self._find_leader, 5), signal.SIGKILL)
            self._process.wait(10)
        self._tidy()

    def _tidy(self) -> None:
        with contextlib.suppress(OSError):  # systemd-nspawn leaves it where /run is no tmpfs
            Path("/run/systemd/nspawn/propagate", self._unique).rmdir()

    def run(
        self,
        *words: object,
        user: str = "",
        check: bool = True,
        timeout: float = 30.0,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """A command in the machine, as root or somebody else, output as text."""
        as_user = ["runuser", "-u", user, "--"] if user else []
        settings = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
            "LANG": "C.UTF-8",
            **(env or {}),
        }
        command = [
            *("nsenter", f"--target={self._leader}", "--all", "--", "env", "-i"),
            *(f"{key}={value}" for key, value in settings.items()),
            *as_user,
            *map(str, words),
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL
        )
        if check and done.returncode:
            raise AssertionError(f"{words}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def script(self, text: str, **options: Any) -> str:
        """Some lines of shell at the top of the source tree; the first that fails ends them."""
        return self.run("bash", "-euxo", "pipefail", "-c", f"cd {SOURCE}\n{text}", **options).stdout

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """``systemctl show``."""
        words = [f"--property={','.join(properties)}"] if properties else []
        lines = self.run("systemctl", "show", unit, *words).stdout.splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def journal(self, *words: object) -> str:
        """The messages of bgpd's unit, and systemd's about it."""
        return self.run("journalctl", "--no-pager", "--quiet", "--output=cat", "-u", "bgpd", *words).stdout


def shell_example(page: Path, words: str) -> str:
    """The first ``sh`` example of a page that has these words."""
    examples = [part.split("```", 1)[0] for part in page.read_text().split("```sh\n")[1:]]
    return next(example for example in examples if words in example)


def absent() -> str:
    """The commands that a boot needs and this machine has not; empty when it has all."""
    needed = ("systemd-nspawn", "systemctl", "nsenter", "ip")
    return ", ".join(command for command in needed if shutil.which(command) is None)
