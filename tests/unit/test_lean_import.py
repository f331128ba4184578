"""What a start imports: corners of large packages, and the packages themselves stay whole for others."""

import subprocess
import sys

SCRIPT = """
import sys
import bgpd.daemon.daemon
print("aiohttp.web" in sys.modules)
import bgpd.observe.api
print(sorted(name for name in ("aiohttp.client", "pyroute2.ndb", "pyroute2.iproute") if name in sys.modules))
import aiohttp, pyroute2
print(aiohttp.ClientSession.__name__, pyroute2.IPRoute.__name__)
"""


def test_the_daemon_imports_no_client_and_no_tools() -> None:
    printed = subprocess.run(
        [sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True
    ).stdout
    assert printed.splitlines() == ["False", "[]", "ClientSession IPRoute"]
