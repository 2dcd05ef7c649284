"""One browser for the tests of a page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.browser.visit import Visit

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")  # no longer: while it is open, no test can run an event loop of its own
def chromium() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine: the pages are not looked at")
    expect.set_options(timeout=60_000)  # a busy machine fails no test
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                *("--no-sandbox", "--disable-gpu", "--disable-background-networking"),
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # no page reaches another machine
            ],
        )
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Browser, server: str) -> Iterator[Visit]:
    """A page of the running service that asked nobody else for anything and had nothing to complain of."""
    with chromium.new_page(base_url=server, locale="en-GB", viewport={"width": 1440, "height": 900}) as page:
        visit = Visit(page)
        yield visit
        assert visit.refused == []
        assert visit.errors == []
