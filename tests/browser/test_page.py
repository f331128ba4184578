"""The looking glass in headless Chromium: what it shows, that it follows, and that everybody can use it."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bgpd.config.config import WebOptions
from bgpd.config.values import Endpoint
from bgpd.model.status import Explanation, SessionState, Step
from bgpd.observe import web
from bgpd.observe.api import Api
from bgpd.observe.control_socket import Claim
from bgpd.observe.metrics import Metrics
from tests.unit.fake_views import PEERS, WHY, FakeViews

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DOCS = Path(__file__).parents[2] / "docs"


class Node(FakeViews):
    """A node of the pair; each is the other's peer."""

    def __init__(self, name: str, other: str) -> None:
        super().__init__()
        self.name = name
        address = {"worker1": "10.0.1.20", "worker2": "10.0.1.21"}[other]
        self.peers_now[0] = replace(PEERS[0], source=f"Node {other}", address=address)
        self.whys = {each.prefix: each for each in WHY}

    def status(self) -> Any:
        return replace(super().status(), node=self.name)

    def why(self, target: str) -> list[Explanation]:
        if target == "<b>bold</b>":
            raise ValueError("'<b>bold</b>' is not a prefix")
        if target == "10.48.0.130" and self.name == "worker1":
            step = Step("origin", "ours to announce, as a block of this node: BlockAffinity worker1-b")
            return [Explanation("10.48.0.128/26", "ipv4", "a block of this node, announced", (step,))]
        return list(WHY) if target.startswith("10.48.0.1") else []

    def routes(self, table: Any, prefix: Any, peer: Any, longer: bool = False) -> Any:
        if self.name == "worker1" and prefix == "10.48.0.128/26":
            (row,) = super().routes(table, prefix, peer)
            return iter([replace(row, kind="blackhole", next_hop="", detail="blackhole")])
        return super().routes(table, prefix, peer, longer)


class Served:
    """Two nodes in a thread with a loop of its own."""

    def __init__(self, directory: Path) -> None:
        self.views, self.urls = {}, {}
        self._directory, self._ready = directory, threading.Event()
        self._loop, self._end = asyncio.new_event_loop(), asyncio.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()))
        self._thread.start()
        assert self._ready.wait(10)

    async def _serve(self) -> None:
        doors = []
        for name, other in (("worker1", "worker2"), ("worker2", "worker1")):
            views = self.views[name] = Node(name, other)
            listen = Endpoint("127.0.0.1", 0)
            claim = Claim(self._directory / f"{name}.sock")
            door = Api(views, views, Metrics(), claim, None, WebOptions(listen=listen, nodes=dict(self.urls)))
            await door.start()
            assert door.web_address is not None
            self.urls[name] = f"http://127.0.0.1:{door.web_address[1]}"
            doors.append(door)
        self._ready.set()
        await self._end.wait()
        for door in doors:
            await door.stop()
        await asyncio.sleep(2 * web.PULSE)  # who followed has gone: that is seen with the next pulse

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)
        self._loop.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="no Playwright here: make browser")
    if CHROMIUM is None:
        pytest.skip("no Chromium here: make browser")
    with api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr(web, "PULSE", 0.2)
    made = Served(tmp_path)
    yield made
    made.end()


@pytest.fixture
def page(browser: Any, served: Served) -> Iterator[Any]:
    """Of worker2, in a window of usual size. Nothing that the browser complains of is let pass, nor a question to
    another host."""
    yield from opened(browser, served, viewport={"width": 1280, "height": 900})


def opened(browser: Any, served: Served, path: str = "/", **options: Any) -> Iterator[Any]:
    context = browser.new_context(**options)
    made = context.new_page()
    complaints: list[str] = []
    made.on(
        "console", lambda line: complaints.append(line.text) if line.type in ("error", "warning") else None
    )
    made.on("pageerror", lambda error: complaints.append(str(error)))
    made.on(
        "request",
        lambda asked: (
            complaints.append(asked.url) if not asked.url.startswith(served.urls["worker2"]) else None
        ),
    )
    made.goto(served.urls["worker2"] + path)
    made.locator("#verdict", has_text="established").wait_for()
    yield made
    assert [each for each in complaints if "status of 400" not in each] == []
    context.close()


def test_all_is_shown(page: Any) -> None:
    assert page.title() == "bgpd on worker2"
    assert page.inner_text("#verdict") == "✓ ready, 2 of 3 peers established"
    assert page.locator("#peers-body tbody tr").count() == 4
    assert "maintenance" in page.inner_text("#peers-body")
    block = page.locator("#blocks-body svg")
    assert block.get_attribute("aria-label") == "10.48.0.0/26: 2 of 64 addresses used"
    assert block.locator("rect.own").count() == 1 and block.locator("rect.lent").count() == 1
    assert block.locator("rect.free").count() == 62
    assert "peer_up" in page.inner_text("#history-body")


def test_why_is_a_picture(page: Any) -> None:
    page.fill("#target", "10.48.0.130")
    page.press("#target", "Enter")
    picture = page.locator("#why-body svg")
    picture.wait_for()
    assert picture.locator("rect.box").count() == 5 and picture.locator("rect.box.bad").count() == 1
    assert "learned from Mesh_10_0_1_20" in page.inner_text("#why-body h3")
    assert page.url.endswith("?why=10.48.0.130#why")
    page.locator("#why-body summary").click()
    assert page.locator("#why-body li.bad").count() == 1
    page.fill("#target", "192.0.2.1")
    page.press("#target", "Enter")
    page.get_by_text("Nothing is known of 192.0.2.1.").wait_for()
    page.fill("#target", "<b>bold</b>")
    page.press("#target", "Enter")
    page.get_by_text("'<b>bold</b>' is not a prefix").wait_for()
    assert page.locator("#why-body b").count() == 0


def test_a_link_to_an_answer(browser: Any, served: Served) -> None:
    for page in opened(browser, served, "/?why=10.48.0.130"):
        page.locator("#why-body svg").wait_for()


def test_it_follows_what_happens(page: Any, served: Served) -> None:
    views = served.views["worker2"]
    views.peers_now[2] = replace(views.peers_now[2], state=SessionState.ESTABLISHED)
    page.get_by_text("3 of 3 peers established").wait_for(timeout=10_000)


def test_another_node_and_a_trace(page: Any) -> None:
    page.select_option("#nodes", "worker1")
    page.locator("#node", has_text="on worker1").wait_for()
    assert "node=worker1" in page.url
    page.select_option("#from", "worker2")
    page.fill("#to", "10.48.0.130")
    page.press("#to", "Enter")
    page.get_by_text("10.48.0.130 is reached on worker1").first.wait_for()
    steps = page.locator("#trace-body ol li").all_inner_texts()
    assert [step.split(":")[0] for step in steps] == ["worker2", "worker1"]
    assert page.locator("#trace-body rect.bad").count() == 0


def test_by_keyboard_alone(page: Any) -> None:
    """The skip link comes first; everything that can be used is reached, and where one is can be seen."""
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    reached = []
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert {"nodes", "target", "BUTTON", "peers-body", "SUMMARY", "to"} <= set(reached)
    page.focus("#target")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_for_who_does_not_see_it(page: Any) -> None:
    """One h1, headings in order, every field and picture has a name, colours are not the only sign."""
    page.fill("#target", "10.48.0.130")
    page.press("#target", "Enter")
    page.locator("#why-body svg").wait_for()
    found = page.evaluate(
        """() => ({
            lang: document.documentElement.lang, h1: document.querySelectorAll("h1").length,
            levels: [...document.querySelectorAll("h1,h2,h3")].map((each) => Number(each.tagName[1])),
            fields: [...document.querySelectorAll("input,select")].filter((each) => !each.labels.length).length,
            pictures: document.querySelectorAll("svg:not([role=img][aria-label])").length,
            heads: [...document.querySelectorAll("th")].filter((each) => !each.scope).length,
            ids: [...document.querySelectorAll("[id]")].map((each) => each.id),
        })"""
    )
    assert (found["lang"], found["h1"], found["fields"], found["pictures"], found["heads"]) == (
        "en",
        1,
        0,
        0,
        0,
    )
    assert all(b - a <= 1 for a, b in zip(found["levels"], found["levels"][1:], strict=False))
    assert len(set(found["ids"])) == len(found["ids"])
    assert all(
        text.startswith(("✓", "✗")) for text in page.locator("#peers-body td:nth-child(2)").all_inner_texts()
    )


CONTRAST = """() => {
    const number = (text) => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
    const linear = (v) => v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    const back = light(number(getComputedStyle(document.body).backgroundColor));
    return [...document.querySelectorAll("h1,h2,p,td,th,a,li,dt,dd,.good,.warn,.bad,.dim")].map((each) => {
        const front = light(number(getComputedStyle(each).color));
        return (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
    });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_both_colours(browser: Any, served: Served, scheme: str) -> None:
    """WCAG 2.2 1.4.3: text has a contrast of 4.5 at least."""
    for page in opened(browser, served, color_scheme=scheme, viewport={"width": 1280, "height": 900}):
        assert min(page.evaluate(CONTRAST)) >= 4.5
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
        assert dark == (scheme == "dark")


def test_on_a_narrow_screen(browser: Any, served: Served) -> None:
    """Nothing but the table of peers, which scrolls by itself, is wider than a telephone."""
    for page in opened(browser, served, "/?why=10.48.0.130", viewport={"width": 360, "height": 740}):
        page.locator("#why-body svg").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_pictures_for_the_documentation(browser: Any, served: Served, tmp_path: Path) -> None:
    directory = DOCS if os.environ.get("PICTURES") else tmp_path
    for page in opened(browser, served, "/?why=10.48.0.130", viewport={"width": 1100, "height": 900}):
        page.locator("#why-body svg").wait_for()
        page.evaluate("window.scrollTo(0, 0)")
        page.screenshot(path=directory / "glass-light.png")
        page.locator("section[aria-labelledby=why]").screenshot(path=directory / "glass-why.png")
    for name in ("glass-light.png", "glass-why.png"):
        assert (directory / name).stat().st_size > 10_000
        assert (DOCS / name).is_file()
