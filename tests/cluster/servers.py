"""Servers for tests, on loopback: etcd of Debian and a kube-apiserver built from Go's module proxy. Each is a process
of its own that its owner ends."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

MODULE = Path(__file__).with_name("kube-apiserver")


def free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        port: int = made.getsockname()[1]
        return port


def until(holds: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.05)


class Process:
    """A server with its log beside its data."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory
        self.log = directory / f"{name}.log"
        self.name = name
        self.running: subprocess.Popen[bytes] | None = None

    def command(self) -> Sequence[str]:
        raise NotImplementedError

    def answers(self) -> bool:
        raise NotImplementedError

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.running = subprocess.Popen(self.command(), stdout=log, stderr=log, cwd=self.directory)
        until(self._ready, f"{self.name} (log: {self.log})")

    def _ready(self) -> bool:
        assert self.running is not None
        assert self.running.poll() is None, self.log.read_text()[-3000:]
        return self.answers()

    def stop(self, signum: int = signal.SIGKILL) -> None:
        if self.running is not None:
            self.running.send_signal(signum)
            self.running.wait()
            self.running = None


class EtcdServer(Process):
    """One etcd. ``options`` are flags of its own, ``scheme`` what clients speak, ``listen`` where it waits for them."""

    def __init__(
        self, directory: Path, options: Sequence[str] = (), scheme: str = "http", listen: str = "127.0.0.1"
    ) -> None:
        super().__init__(directory, "etcd")
        self.listen = listen
        self.port, self._peer = free_port(), free_port()
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self.options = options

    def command(self) -> Sequence[str]:
        peer = f"http://127.0.0.1:{self._peer}"
        return [
            "etcd",
            "--data-dir",
            str(self.directory / "etcd"),
            f"--listen-client-urls={self.url.replace('127.0.0.1', self.listen)}",
            f"--advertise-client-urls={self.url}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--logger=zap",
            *self.options,
        ]

    def answers(self) -> bool:
        with socket.socket() as made:
            return made.connect_ex(("127.0.0.1", self.port)) == 0

    def ctl(self, *arguments: str, data: bytes | None = None) -> str:
        command = ["etcdctl", "--endpoints", self.url, *arguments]
        environment = {**os.environ, "ETCDCTL_API": "3"}
        return subprocess.run(
            command, input=data, env=environment, check=True, capture_output=True
        ).stdout.decode()


def apiserver_binary() -> Path | None:
    """The kube-apiserver that ``make cluster-test`` built."""
    key = hashlib.sha256((MODULE / "go.sum").read_bytes()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = cache / "bgpd-cluster-test" / key / "kube-apiserver"
    return path if path.exists() else None


def make_ca(directory: Path, address: str = "127.0.0.1") -> tuple[Path, Path, Path]:
    """(CA, certificate of 127.0.0.1 and of one more address, key), as PEM."""
    ca, ca_key, cert, key = (directory / name for name in ("ca.crt", "ca.key", "server.crt", "server.key"))
    request, extension = directory / "server.csr", directory / "server.ext"
    extension.write_text("subjectAltName=IP:127.0.0.1,IP:" + address + ",DNS:localhost\n")
    for command in (
        f"req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout {ca_key} -out {ca}",
        f"req -newkey rsa:2048 -nodes -subj /CN=server -keyout {key} -out {request}",
        f"x509 -req -in {request} -CA {ca} -CAkey {ca_key} -CAcreateserial -days 2 -extfile {extension} -out {cert}",
    ):
        subprocess.run(["openssl", *command.split()], check=True, capture_output=True)
    return ca, cert, key


class ApiServer(Process):
    """A kube-apiserver over an etcd of its own. ``admin`` may everything; other tokens are in ``tokens``."""

    TOKENS = "admin-token,admin,1,system:masters\nnobody-token,nobody,2\n"

    def __init__(self, directory: Path, binary: Path, address: str = "127.0.0.1") -> None:
        """``address``: where others than this process reach it."""
        super().__init__(directory, "kube-apiserver")
        self.address = address
        self._binary = binary
        self.etcd = EtcdServer(directory)
        self.ca, self._cert, self._key = make_ca(directory, address)
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        (directory / "tokens.csv").write_text(self.TOKENS)
        subprocess.run(
            ["openssl", "genrsa", "-out", str(directory / "sa.key"), "2048"], check=True, capture_output=True
        )
        public = [
            "openssl",
            "rsa",
            "-in",
            str(directory / "sa.key"),
            "-pubout",
            "-out",
            str(directory / "sa.pub"),
        ]
        subprocess.run(public, check=True, capture_output=True)

    def command(self) -> Sequence[str]:
        return [
            str(self._binary),
            f"--etcd-servers={self.etcd.url}",
            f"--bind-address={'127.0.0.1' if self.address == '127.0.0.1' else '0.0.0.0'}",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self.port}",
            "--endpoint-reconciler-type=none",
            f"--tls-cert-file={self._cert}",
            f"--tls-private-key-file={self._key}",
            f"--client-ca-file={self.ca}",
            "--token-auth-file=tokens.csv",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-account-key-file=sa.pub",
            "--service-account-signing-key-file=sa.key",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--disable-admission-plugins=ServiceAccount,NamespaceLifecycle",
            "--enable-priority-and-fairness=false",
            "--profiling=false",
        ]

    def start(self) -> None:
        if self.etcd.running is None:
            self.etcd.start()
        super().start()

    def stop(self, signum: int = signal.SIGKILL) -> None:
        super().stop(signum)

    def answers(self) -> bool:
        try:
            return bool(self.request("GET", "/readyz", text=True) == "ok")
        except (OSError, AssertionError):
            return False

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        content: str = "application/json",
        token: str = "admin-token",
        text: bool = False,
        accept: Sequence[int] = (),
    ) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": content}
        request = urllib.request.Request(self.url + path, data=data, headers=headers, method=method)
        context = ssl.create_default_context(cafile=self.ca)
        try:
            with urllib.request.urlopen(request, context=context, timeout=10) as answer:
                found = answer.read()
        except urllib.error.HTTPError as error:
            found = error.read()
            assert error.code in accept, f"{method} {path}: {error.code} {found[:500]!r}"
        return found.decode() if text else json.loads(found)

    def apply(self, document: dict[str, Any], path: str) -> None:
        """Server-side apply, as kubectl does it; strict."""
        query = "?fieldManager=test&force=true&fieldValidation=Strict"
        self.request("PATCH", path + query, document, "application/apply-patch+yaml")

    def kubeconfig(self, path: Path, token: str = "admin-token", ca: Path | None = None) -> Path:
        """A file for a user of this server."""
        url = f"https://{self.address}:{self.port}"
        cluster = {"server": url, "certificate-authority": str(ca or self.ca)}
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "test",
                    "clusters": [{"name": "test", "cluster": cluster}],
                    "users": [{"name": "test", "user": {"token": token}}],
                    "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
                }
            )
        )
        return path


def missing(*programs: str) -> str:
    """Which programs are not there; empty when all are."""
    return ", ".join(program for program in programs if shutil.which(program) is None)
