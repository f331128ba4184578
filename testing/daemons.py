"""Routing daemons in the namespaces of a ``Net``: bgpd, BIRD, FRR and GoBGP, started, asked and ended alike."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import urlencode

import yaml

from testing.namespaces import PROJECT, Namespace, Process, T, run_command, wait_until


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


class Heard(NamedTuple):
    """One route as a peer heard it from us."""

    next_hop: str
    as_path: str
    """AS numbers with blanks between them."""
    local_pref: int | None
    stale: bool = False


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
        """Puts a resource file in place of the former one, in one go; without objects it goes."""
        if objects:
            self.write_text(file, yaml.safe_dump_all(map(dict, objects)))
        else:
            self.remove(file)

    def write_text(self, file: str, text: str) -> None:
        fresh = self.resources / f".{file}.new"
        fresh.write_text(text)
        fresh.rename(self.resources / f"{file}.yaml")

    def remove(self, file: str) -> None:
        (self.resources / f"{file}.yaml").unlink(missing_ok=True)

    def start(self, wait: bool = True, *words: str) -> Self:
        """Starts it; with ``wait`` until its API answers. ``words``: more for its command line."""
        self.launch(
            *(sys.executable, "-m", "bgpd", "run", "--config", self.config_path, *words),
            cwd=PROJECT,
            env={**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONWARNINGS": "default"},
        )
        if wait:
            self.wait(lambda: self.ctl("status"), "the API answers", 15)
        return self

    def upgrade(self) -> Self:
        """A new one takes over from the one that runs, which ends well."""
        before, self.process = self.process, None
        assert before is not None
        self.start(False, "--takeover")
        assert before.wait(20) == 0, before.log
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
        return run_command(["birdc", "-s", str(self._socket), *command.split()]).stdout

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


class Frr(Daemon):
    """FRR's zebra and bgpd, and bfdd where asked for. ``config`` is bgpd's part of frr.conf."""

    kind = "frr"
    lib = Path("/usr/lib/frr")

    def __init__(self, namespace: Namespace, config: str, name: str = "", bfd: bool = False) -> None:
        super().__init__(namespace, name)
        self.zebra: Process | None = None
        self.bfdd: Process | None = None
        self._bfd = bfd
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
        if self._bfd and (self.bfdd is None or not self.bfdd.running):
            (self.directory / "bfdd.conf").write_text(f"hostname {self.name}\n")
            control = self.directory / "bfdd.sock"
            self.bfdd = self.namespace.popen(
                *self._words("bfdd"), "--bfdctl", control, name=f"{self.name}-bfdd"
            )
            wait_until(control.exists, 10, "bfdd's socket")
        self.launch(*self._words("bgpd"))
        self.wait(lambda: self.vtysh("show bgp vrfs"), "bgpd answers vtysh")
        return self

    def stop(self) -> int:
        assert self.zebra is not None
        code = super().stop()
        if self.bfdd is not None:
            self.bfdd.stop()
        self.zebra.stop()
        return code

    def vtysh(self, *commands: str, daemon: str = "bgpd") -> str:
        """The answer of bgpd, or another of the daemons, to some commands, typed one after the other."""
        words = [word for command in commands for word in ("-c", command)]
        return run_command(
            [
                *("vtysh", "--vty_socket", str(self.directory), "--config_dir", str(self.directory)),
                *("-d", daemon, *words),
            ],
            env={**os.environ, "HOME": str(self.directory)},
        ).stdout

    def json(self, command: str) -> Any:
        return json.loads(self.vtysh(f"{command} json"))

    def bfd_peers(self) -> list[dict[str, Any]]:
        """bfdd's sessions."""
        return list(json.loads(self.vtysh("show bfd peers json", daemon="bfdd")))

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
