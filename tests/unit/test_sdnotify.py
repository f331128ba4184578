"""sd_notify: every message as the service manager reads it, over a socket of our own."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bgpd.observe.sdnotify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """The service manager's end, and what NOTIFY_SOCKET says of it."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@bgpd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(address.replace("@", "\0", 1))
        end.settimeout(5)
        yield end, address


def test_messages(manager: tuple[socket.socket, str]) -> None:
    end, address = manager
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": address})

    def heard() -> str:
        return end.recv(4096).decode()

    notifier.starting("not ready: datastore")
    assert heard() == "STATUS=not ready: datastore\nEXTEND_TIMEOUT_USEC=60000000"
    notifier.ready("2/2 peers up")
    assert heard() == "READY=1\nSTATUS=2/2 peers up"
    notifier.status("1/2 peers up")
    assert heard() == "STATUS=1/2 peers up"
    notifier.watchdog()
    assert heard() == "WATCHDOG=1"
    notifier.stopping()
    assert heard() == "STOPPING=1"
    before = time.clock_gettime(time.CLOCK_MONOTONIC)
    notifier.reloading()
    word, usec = heard().split("\nMONOTONIC_USEC=")
    assert word == "RELOADING=1"
    assert before <= int(usec) / 1e6 + 1e-6 <= time.clock_gettime(time.CLOCK_MONOTONIC) + 1e-6


def test_a_status_is_one_line(manager: tuple[socket.socket, str]) -> None:
    end, address = manager
    Notifier(address).status("broken\nREADY=1\n\tmore ")
    assert end.recv(4096) == b"STATUS=broken READY=1 more"


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"WATCHDOG_USEC": "1000000"}])
def test_without_a_manager_nothing_happens(environ: dict[str, str]) -> None:
    notifier = Notifier.from_environment(environ)
    assert notifier.watchdog_interval is None
    for call in (notifier.reloading, notifier.stopping, notifier.watchdog):
        call()
    notifier.ready("x")
    notifier.status("x")


@pytest.mark.parametrize(
    ("environ", "interval"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_watchdog_interval_is_half_and_only_for_us(environ: dict[str, str], interval: float | None) -> None:
    assert Notifier.from_environment({"NOTIFY_SOCKET": "@x", **environ}).watchdog_interval == interval


def test_a_manager_that_is_gone_is_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier(str(tmp_path / "gone"))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            notifier.watchdog()
    assert len(caplog.records) == 1


def test_an_address_of_another_kind_is_ignored(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Notifier.from_environment({"NOTIFY_SOCKET": "vsock:2:1234"}).ready("x")
    assert "vsock:2:1234" in caplog.text
