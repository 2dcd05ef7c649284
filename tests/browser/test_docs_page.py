"""The docs in a real browser, with the network cut: nothing but the server itself may be asked for."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Route, expect, sync_playwright

from tests.support import ROUTES, SAMPLES

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: the docs are not looked at")


@dataclass
class Visit:
    """A page, what it asked of other machines in vain, and what its console complains of."""

    page: Page
    refused: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(60_000)
        self.page.route("**/*", self._cut)
        self.page.on("console", self._listen)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _cut(self, route: Route) -> None:
        target = urlsplit(route.request.url)
        if target.scheme in ("data", "blob") or target.hostname == "127.0.0.1":
            route.continue_()
        else:
            self.refused.append(route.request.url)
            route.abort()

    def _listen(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Browser, server: str) -> Iterator[Visit]:
    with chromium.new_page(base_url=server) as page:
        visit = Visit(page)
        yield visit
        assert visit.refused == []
        assert visit.errors == []


def _operation(route: str) -> str:
    """The selector of a route's block in Swagger UI."""
    name = route.rpartition("/")[2].replace("-", "_")
    tag = "predict" if name == "predict" else "explain"
    return f"#operations-{tag}-{name}_v1_{name}_post"


def test_swagger_ui_shows_every_route(visit: Visit) -> None:
    visit.page.goto("/docs")
    expect(visit.page.get_by_role("heading", name="Pellucid")).to_be_visible(timeout=60_000)
    for route in ROUTES:
        block = visit.page.locator(_operation(route))
        expect(block).to_be_visible()
        expect(block).to_contain_text(re.compile(route))


def test_redoc_shows_every_route(visit: Visit) -> None:
    visit.page.goto("/redoc")
    for title in ("The most probable classes", "Where the evidence for a class lies"):
        expect(visit.page.get_by_role("heading", name=title)).to_be_visible(timeout=60_000)
    for route in ROUTES:
        expect(visit.page.get_by_text(route, exact=True).locator("visible=true").first).to_be_visible()


@pytest.mark.parametrize("route", ROUTES)
def test_a_photograph_can_be_tried_out_on_the_page(visit: Visit, route: str) -> None:
    visit.page.goto("/docs")
    block = visit.page.locator(_operation(route))
    block.locator(".opblock-summary-control").click()
    block.get_by_role("button", name="Try it out").click()
    block.locator("input[type=file]").set_input_files(SAMPLES / "cat.jpg")
    block.get_by_role("button", name="Execute").click()
    answer = block.locator(".live-responses-table")
    expect(answer.locator(".response-col_status").last).to_contain_text("200", timeout=60_000)
    expect(answer).to_contain_text('"filename": "cat.jpg"')
    if route != "/v1/feature-maps":
        expect(answer).to_contain_text("Egyptian cat")


def test_the_json_example_can_be_tried_out_as_it_stands(visit: Visit) -> None:
    visit.page.goto("/docs")
    block = visit.page.locator(_operation("/v1/predict"))
    block.locator(".opblock-summary-control").click()
    block.get_by_role("button", name="Try it out").click()
    block.get_by_label("Request content type").select_option("application/json")
    block.get_by_role("button", name="Execute").click()
    answer = block.locator(".live-responses-table")
    expect(answer.locator(".response-col_status").last).to_contain_text("200", timeout=60_000)
    expect(answer).to_contain_text('"filename": "dot.png"')
