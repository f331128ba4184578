"""Secrets are never printed: a daemon with every kind of them, at debug, and all that it and its commands put out."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from testing.daemons import Bgpd
from testing.namespaces import Net
from testing.resources import bgp_configuration, bgp_peer, node, resource

OF_FILE, OF_SECRET, OF_DATA, UNUSED = "hush-file-8d1f", "hush-text-77c2", "hush-data-a90e", "hush-none-31bb"
TOO_LONG = "hush-long-" * 9
BROKEN, TOKEN, ETCD = "hush-broken-55fa", "hush-token-9e21", "hush-etcd-c0de"
ALL = (OF_FILE, OF_SECRET, OF_DATA, UNUSED, TOO_LONG, BROKEN, TOKEN, ETCD)
QUESTIONS: tuple[tuple[str, ...], ...] = (
    *((word,) for word in ("status", "peers", "blocks", "bfd", "health", "metrics", "version", "reload")),
    ("peers", "--detail"),
    *(("routes", table) for table in ("in", "out", "rib", "fib")),
    ("why", "10.0.1.99"),
    ("why", "192.0.2.1"),
    ("peer", "reset", "Global_10_0_1_91", "-m", "words"),
    ("peer", "shutdown", "Global_10_0_1_91"),
    ("ipam", "show"),
)
TABLES = (("status",), ("peers", "--detail"))


def forms(secret: str) -> tuple[str, ...]:
    """How it may be spelled: as it is, and in base64 wherever it begins."""
    octets = secret.encode()
    return (
        secret,
        *(base64.b64encode(b"x" * shift + octets)[4:-4].decode() for shift in range(3)),
        octets.hex(),
    )


def secret(name: str, **fields: object) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, **fields}


def keyed(name: str, address: str, key: str) -> dict[str, object]:
    ref = {"secretKeyRef": {"name": name, "key": key}}
    return bgp_peer(f"peer-{address[-2:]}", address, 65001, password=ref)


@pytest.mark.parametrize("form", ["text", pytest.param("json", marks=pytest.mark.long)])
def test_no_output_has_a_secret(net: Net, form: str) -> None:
    space = net.namespace("worker1")
    net.lan({space: ["10.0.1.30/24"], net.namespace("other"): ["10.0.1.91/24"]})
    password = net.directory / "password"
    password.write_text(OF_FILE + "\n")
    other = net.directory / "other"
    other.mkdir()
    resources = [
        bgp_configuration(),
        node("worker1", "10.0.1.30/24"),
        keyed("text", "10.0.1.91", "key"),
        keyed("data", "10.0.1.92", "key"),
        keyed("data", "10.0.1.93", "long"),
        keyed("data", "10.0.1.94", "bad"),
        keyed("data", "10.0.1.95", "nowhere"),
        bgp_peer("of-file", "10.0.1.96", 65001),
        secret("text", stringData={"key": OF_SECRET, "unused": UNUSED}),
        secret("data", data={
            "key": base64.b64encode(OF_DATA.encode()).decode(),
            "long": base64.b64encode(TOO_LONG.encode()).decode(),
            "bad": BROKEN + "!",
        }),
        secret("odd", data=[BROKEN], stringData=BROKEN),
        resource("secret", "kind", {"password": BROKEN}),
    ]  # fmt: skip
    settings = {
        "log": {"level": "debug", "format": form},
        "bgp": {"peers": {"10.0.1.96": {"password_file": str(password)}}},
    }
    bgpd = Bgpd(space, "worker1", {"cluster": resources}, settings).start()
    bgpd.write_text("broken", f"kind: Secret\nmetadata: {{name: broken}}\nstringData: {{key: '{BROKEN}'\n")
    bgpd.wait(
        lambda: any("broken" in problem["source"] for problem in bgpd.status()["problems"]), "a problem"
    )
    said = {}
    for words in QUESTIONS if form == "text" else ():
        output = "table" if words in TABLES else "json"
        done = bgpd.bgpctl("-o", output, *words)
        assert "Traceback" not in done.stderr, (words, done.stderr)
        said[words] = done.stdout + done.stderr
    password.write_text(f"{OF_FILE}-{UNUSED}\n")
    bgpd.write(
        "cluster", *[each for each in resources if each["kind"] != "Node"], node("worker1", "10.0.1.30/24")
    )
    said["reload again"] = bgpd.bgpctl("reload").stdout
    files = other / "new.yaml"
    files.write_text(json.dumps(secret("text", stringData={"key": UNUSED})))
    for words in (("plan", "-f", str(other)), ("-o", "json", "plan", "-f", str(other))):
        done = bgpd.bgpctl(*words)
        said[words] = done.stdout + done.stderr
    kubeconfig, of_etcd = net.directory / "kubeconfig", net.directory / "etcd.password"
    kubeconfig.write_text(
        f"{{apiVersion: v1, users: [{{name: x, user: {{token: {TOKEN}}}}}], clusters: {TOKEN}"
    )
    of_etcd.write_text(ETCD)
    stores = {
        "kubernetes": {"type": "kubernetes", "kubeconfig": str(kubeconfig)},
        "etcd": {
            "type": "etcd",
            "endpoints": ["http://10.0.1.30:1"],
            "username": "u",
            "password_file": str(of_etcd),
        },
    }
    bgpd.kill()
    for name, store in stores.items() if form == "text" else ():
        away = Bgpd(space, "worker1", {}, {**settings, "datastore": store}, name=name).start()
        away.wait(lambda away=away: away.status()["datastore"]["detail"], "it is away")  # type: ignore[misc]
        said[name] = json.dumps(away.status()) + away.bgpctl("status").stdout
        away.kill()
        done = away.command("config", "check", away.config_path)
        said[name, "check"] = done.stdout + done.stderr + away.log
    done = bgpd.command("plan", "--node", "worker1", bgpd.resources)
    said["offline plan"] = done.stdout + done.stderr
    said["log"] = bgpd.log
    for state in Path(bgpd.directory / "state").rglob("*"):
        if state.is_file():
            said[str(state)] = state.read_text(errors="replace")
    assert "event=" in said["log"] or '"event"' in said["log"]
    for where, text in said.items():
        for each in ALL:
            for spelled in forms(each):
                assert spelled not in text, f"{where} has a secret: {each}"
