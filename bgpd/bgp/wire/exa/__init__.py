"""ExaBGP as the wire codec: the one package that imports it.

``messages`` has NOTIFICATION (RFC 4271 §4.5, RFC 9003) and ROUTE-REFRESH (RFC 2918, RFC 7313), ``open`` has OPEN with
its capabilities (§4.2, RFC 5492), ``attributes`` the path attributes (§4.3). They go in and out as frozen values of
ours. Nothing of ExaBGP passes this package, and an error of its parsers leaves it as ``ProtocolError``. ``update``
calls it for attributes that it has checked already, ``session`` for everything else. What ExaBGP costs (45 µs an
attribute set) is paid once an attribute set.

Where we do not use it: the three lists of communities are arrays of integers, and ExaBGP sorts them at each insertion
(28 ms for a thousand communities, which is one UPDATE of a hostile peer); of AS paths it makes an object a number
(10 ms for 765); shutdown texts, which it reads up to 128 octets only and writes as ASCII.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

# Read once, at the first import of exabgp: without it, files and variables of an installed ExaBGP would reach us.
os.environ.setdefault("EXABGP_ENVFILE", "/nonexistent")

import exabgp.util.dns

# The capability for host names, which we do not send, asks DNS for ours at its import: seconds where DNS is not there.
vars(exabgp.util.dns).update(__host_name="localhost", __domain_name="localhost")

from exabgp.logger import log as exa_log

from bgpd.lean_import import lean_import

exa_log.disable()  # every decoder logs, and fails where the log was not set up


@contextmanager
def lean_exabgp() -> Iterator[None]:
    """Inside, ExaBGP's modules are imported without those that we never call: flow specifications, EVPN, BGP-LS and
    thirty others, half of what it is."""
    messages, update = "exabgp.bgp.message", "exabgp.bgp.message.update"
    with ExitStack() as stack:
        stack.enter_context(lean_import(messages))
        stack.enter_context(lean_import(update))
        stack.enter_context(lean_import(f"{update}.attribute", Attribute="attribute"))
        stack.enter_context(lean_import(f"{update}.attribute.community", Communities="initial.communities"))
        yield
