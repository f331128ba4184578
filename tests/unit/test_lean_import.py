"""What a start imports: corners of large packages, and the packages themselves stay whole for others."""

import subprocess
import sys
from importlib.metadata import version

HEAVY = (
    "aiohttp",
    "exabgp.bgp.message.update",
    "exabgp.bgp.message.update.nlri",
    "http.client",
    "http.server",
    "importlib.metadata",
    "prometheus_client.exposition",
    "pydantic",
    "rich",
)
"""Modules that no start may import: each takes 10 to 200 ms, and a daemon needs it later or never."""

SCRIPT = f"""
import sys
import bgpd.daemon.daemon
print(sorted(name for name in {HEAVY!r} if name in sys.modules))
import bgpd.observe.api
print("importlib.metadata" in sys.modules, sys.modules["aiohttp.http"].SERVER_SOFTWARE.split("/")[-1])
print(sorted(name for name in ("aiohttp.client", "pyroute2.ndb", "pyroute2.iproute") if name in sys.modules))
import aiohttp, exabgp.bgp.message, pyroute2
from exabgp.bgp.message.update.attribute import PMSI
print(aiohttp.ClientSession.__name__, pyroute2.IPRoute.__name__)
"""


def test_the_daemon_imports_no_client_and_no_tools() -> None:
    printed = subprocess.run(
        [sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True
    ).stdout
    assert printed.splitlines() == [
        "[]",
        f"False {version('aiohttp')}",
        "[]",
        "ClientSession IPRoute",
    ]
