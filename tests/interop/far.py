"""The far end of a session, as BIRD, FRR or GoBGP: one set of verbs over three ways of saying them."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

from testing.daemons import Bird, Frr, Gobgp, Heard
from testing.namespaces import Namespace, Net

FAMILIES = ("ipv4", "ipv6")


def family_of(prefix: str) -> str:
    return "ipv6" if ":" in prefix else "ipv4"


class Far:
    """A peer with an address of each family on the LAN, and one session a family to the node: or, with ``dual``, one
    session over IPv4 that carries both. ``announced`` is what it announces, from the first moment of its life on;
    ``extra`` are more words for its sessions, in its own language (BIRD only)."""

    kind = "far"
    asks_refresh = True
    """Whether it can be asked to send a ROUTE-REFRESH."""

    def __init__(
        self,
        net: Net,
        number: int,
        *,
        asn: int,
        node_asn: int,
        announced: Iterable[str] = (),
        dual: bool = False,
        extra: str = "",
        node: tuple[str, str] = ("10.9.0.1", "fd09::1"),
    ) -> None:
        self.namespace: Namespace = net.namespace(f"{self.kind}{number}")
        self.asn, self.node_asn, self.dual = asn, node_asn, dual
        self.ipv4, self.ipv6 = f"10.9.0.{number}", f"fd09::{number}"
        self.node_ipv4, self.node_ipv6 = node
        self.extra = extra
        self.announced = dict.fromkeys(announced)
        self.daemon: Any = None

    @property
    def lan(self) -> tuple[str, str]:
        """Its addresses with their lengths."""
        return f"{self.ipv4}/24", f"{self.ipv6}/64"

    @property
    def peers(self) -> tuple[str, ...]:
        """The names that bgpd gives the sessions to it."""
        return tuple(self.peer(family) for family in (FAMILIES[:1] if self.dual else FAMILIES))

    def peer(self, family: str) -> str:
        """The name that bgpd gives the session that carries a family."""
        return "Global_" + self.address(family).replace(".", "_").replace(":", "_")

    def address(self, family: str) -> str:
        """Its end of the session that carries a family."""
        return self.ipv4 if family == "ipv4" or self.dual else self.ipv6

    def node_address(self, family: str) -> str:
        """The node's end of the session that carries a family."""
        return self.node_ipv4 if family == "ipv4" or self.dual else self.node_ipv6

    def own(self, family: str) -> str:
        """Its next hop in a family."""
        return self.ipv4 if family == "ipv4" else self.ipv6

    def start(self, recover: bool = False) -> None:
        """Starts it, after a crash with ``recover``."""
        raise NotImplementedError

    def kill(self) -> None:
        """A crash: the kernel closes its connections."""
        self.daemon.kill()

    def announce(self, prefix: str) -> None:
        raise NotImplementedError

    def withdraw(self, prefix: str) -> None:
        raise NotImplementedError

    def established(self, family: str = "ipv4") -> bool:
        raise NotImplementedError

    def heard(self, family: str | None = None) -> dict[str, Heard]:
        """What the node announced to it, of one family or both."""
        sessions = [family] if family else FAMILIES[:1] if self.dual else FAMILIES
        found: dict[str, Heard] = {}
        for session in sessions:
            found.update(self._heard(session))
        return {prefix: route for prefix, route in found.items() if family in (None, family_of(prefix))}

    def _heard(self, family: str) -> dict[str, Heard]:
        raise NotImplementedError

    def ask_refresh(self) -> None:
        """Asks the node for all its IPv4 routes again (RFC 2918)."""
        raise NotImplementedError

    def saw_restart(self) -> bool:
        """Whether the node's OPEN of the IPv4 session had the restart bit (RFC 4724 §3)."""
        raise NotImplementedError

    def last_words(self) -> str:
        """What it says of the end of its IPv4 session."""
        raise NotImplementedError


class FarBird(Far):
    kind = "bird"

    def _config(self) -> str:
        parts = ["protocol device {}", "protocol direct { ipv4; ipv6; }"]
        for family in FAMILIES:
            routes = [f"route {p} blackhole;" for p in self.announced if family_of(p) == family]
            parts.append(f"protocol static s{family} {{ {family}; {' '.join(routes)} }}")
        channel = "{} {{ import all; export where source = RTS_STATIC; next hop self; }};"
        for family in FAMILIES[:1] if self.dual else FAMILIES:
            carried = FAMILIES if self.dual else (family,)
            parts.append(
                f"protocol bgp node_{family} {{ local {self.address(family)} as {self.asn};"
                f" neighbor {self.node_address(family)} as {self.node_asn};"
                " connect delay time 1; connect retry time 1; error wait time 1, 2; graceful restart on;"
                f" {self.extra}"
                f" {' '.join(channel.format(name) for name in carried)} }}"
            )
        return "\n".join(parts)

    def _protocol(self, family: str) -> str:
        return f"node_{'ipv4' if self.dual else family}"

    def start(self, recover: bool = False) -> None:
        if self.daemon is None:
            self.daemon = Bird(self.namespace, self._config(), self.ipv4)
        self.daemon.write(self._config())
        self.daemon.start(recover)

    def announce(self, prefix: str) -> None:
        self.announced[prefix] = None
        self._changed()

    def withdraw(self, prefix: str) -> None:
        self.announced.pop(prefix)
        self._changed()

    def _changed(self) -> None:
        if self.daemon.running:
            self.daemon.configure(self._config())

    def established(self, family: str = "ipv4") -> bool:
        return bool(self.daemon.established(self._protocol(family)))

    def _heard(self, family: str) -> dict[str, Heard]:
        return dict(self.daemon.heard(self._protocol(family)))

    def ask_refresh(self) -> None:
        self.daemon.birdc("reload in node_ipv4")

    def saw_restart(self) -> bool:
        shown = str(self.daemon.birdc("show protocols all node_ipv4"))
        return "Restart recovery" in shown.partition("Neighbor capabilities")[2]

    def last_words(self) -> str:
        return str(self.daemon.birdc("show protocols all node_ipv4")) + str(self.daemon.log)


class FarFrr(Far):
    kind = "frr"

    def _config(self) -> str:
        lines = [
            f"router bgp {self.asn}",
            f" bgp router-id {self.ipv4}",
            " no bgp ebgp-requires-policy",
            " no bgp network import-check",
            " no bgp default ipv4-unicast",
            " bgp log-neighbor-changes",
            " bgp graceful-restart",
            " bgp graceful-restart preserve-fw-state",
        ]
        for family in FAMILIES[:1] if self.dual else FAMILIES:
            neighbor = f" neighbor {self.node_address(family)}"
            lines += [
                f"{neighbor} remote-as {self.node_asn}",
                f"{neighbor} update-source {self.address(family)}",
            ]
        for family in FAMILIES:
            lines.append(f" address-family {family} unicast")
            lines += [f"  network {prefix}" for prefix in self.announced if family_of(prefix) == family]
            lines.append(f"  neighbor {self.node_address(family)} activate")
            lines.append(" exit-address-family")
        return "\n".join(lines)

    def start(self, recover: bool = False) -> None:
        if self.daemon is None:
            self.daemon = Frr(self.namespace, self._config())
        self.daemon.write(self._config())
        self.daemon.start()

    def announce(self, prefix: str) -> None:
        self.announced[prefix] = None
        self._network(prefix, "network")

    def withdraw(self, prefix: str) -> None:
        self.announced.pop(prefix)
        self._network(prefix, "no network")

    def _network(self, prefix: str, verb: str) -> None:
        if self.daemon.running:
            place = (f"router bgp {self.asn}", f"address-family {family_of(prefix)} unicast")
            self.daemon.configure(*place, f"{verb} {prefix}")

    def established(self, family: str = "ipv4") -> bool:
        return bool(self.daemon.established(self.node_address(family)))

    def _heard(self, family: str) -> dict[str, Heard]:
        return dict(self.daemon.heard(self.node_address(family)))

    def ask_refresh(self) -> None:
        self.daemon.vtysh(f"clear bgp ipv4 unicast {self.node_ipv4} soft in")

    def saw_restart(self) -> bool:
        return bool(self.daemon.neighbor(self.node_ipv4)["gracefulRestartInfo"]["rBit"])

    def last_words(self) -> str:
        return str(self.daemon.vtysh(f"show bgp neighbors {self.node_ipv4}")) + str(self.daemon.log)


class FarGobgp(Far):
    kind = "gobgp"
    asks_refresh = False  # its "softresetin" applies the import policy anew to what it has kept

    def _config(self) -> str:
        lines = ["[global.config]", f"as = {self.asn}", f'router-id = "{self.ipv4}"']
        for family in FAMILIES[:1] if self.dual else FAMILIES:
            lines += [
                "[[neighbors]]",
                "[neighbors.config]",
                f'neighbor-address = "{self.node_address(family)}"',
                f"peer-as = {self.node_asn}",
                "[neighbors.transport.config]",
                f'local-address = "{self.address(family)}"',
                "[neighbors.timers.config]",
                "connect-retry = 1",
                "idle-hold-time-after-reset = 1",
                "[neighbors.graceful-restart.config]",
                "enabled = true",
                "restart-time = 120",
            ]
            for carried in FAMILIES if self.dual else (family,):
                lines += [
                    "[[neighbors.afi-safis]]",
                    "[neighbors.afi-safis.config]",
                    f'afi-safi-name = "{carried}-unicast"',
                    "[neighbors.afi-safis.mp-graceful-restart.config]",
                    "enabled = true",
                ]
        return "\n".join(lines)

    def start(self, recover: bool = False) -> None:
        if self.daemon is None:
            self.daemon = Gobgp(self.namespace, self._config())
        # Its routes come by command only: nobody may reach it before it has them, else its End-of-RIB is too early.
        self.namespace.down("ens5")
        self.daemon.start(recover)
        for prefix in self.announced:
            self._add(prefix)
        self.namespace.up("ens5")

    def _add(self, prefix: str) -> None:
        self.daemon.announce(prefix, self.own(family_of(prefix)))

    def announce(self, prefix: str) -> None:
        self.announced[prefix] = None
        if self.daemon.running:
            self._add(prefix)

    def withdraw(self, prefix: str) -> None:
        self.announced.pop(prefix)
        if self.daemon.running:
            self.daemon.withdraw(prefix)

    def established(self, family: str = "ipv4") -> bool:
        return bool(self.daemon.established(self.node_address(family)))

    def _heard(self, family: str) -> dict[str, Heard]:
        return dict(self.daemon.heard(self.node_address(family)))

    def saw_restart(self) -> bool:
        # The capability comes as its protobuf octets: field 1 of the message is the flags: 8 is R, 4 is N.
        for capability in self.daemon.neighbor(self.node_ipv4)["state"]["remote_cap"]:
            if capability["type_url"].endswith(".GracefulRestartCapability"):
                flags = base64.b64decode(capability["value"])[:2]
                return flags[:1] == b"\x08" and bool(flags[1] & 8)
        return False

    def last_words(self) -> str:
        return str(self.daemon.gobgp(f"neighbor {self.node_ipv4}")) + str(self.daemon.log)
