"""One browser for all tests of pages that a process runs."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, ViewportSize, expect, sync_playwright

from tests.browser.visit import Visit

DESK = ViewportSize(width=1440, height=900)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="session")
def launched() -> Iterator[tuple[Browser, asyncio.AbstractEventLoop]]:
    """The browser, and the event loop that Playwright leaves running in this thread, set aside."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine: the pages are not looked at")
    expect.set_options(timeout=60_000)  # a busy machine fails no test
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                *("--no-sandbox", "--disable-gpu", "--disable-background-networking"),
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # no page reaches another machine
                # The address bar's pages take half a second a window. The other names are of Playwright's own list.
                "--disable-features=WebUIOmniboxPopup,WebUIOmniboxAimPopup,HttpsUpgrades,MediaRouter,OptimizationHints",
            ],
        )
        loop = asyncio.get_running_loop()
        asyncio._set_running_loop(None)
        yield browser, loop
        asyncio._set_running_loop(loop)
        browser.close()


@pytest.fixture(scope="module")
def chromium(launched: tuple[Browser, asyncio.AbstractEventLoop]) -> Iterator[Browser]:
    """The browser. Its loop runs for the tests of one file, so that tests of other files can run loops of their own."""
    browser, loop = launched
    asyncio._set_running_loop(loop)
    yield browser
    asyncio._set_running_loop(None)


@pytest.fixture(scope="module")
def window(chromium: Browser, server: str) -> Iterator[Page]:
    """A window for the tests of one file: opening one takes longer than a visit."""
    with chromium.new_page(base_url=server, locale="en-GB", viewport=DESK) as page:
        yield page


@pytest.fixture
def visit(window: Page, server: str) -> Iterator[Visit]:
    """A page of the running service that asked nobody else for anything and had nothing to complain of."""
    visit = Visit(window)
    yield visit
    visit.end()
    try:
        window.unroute_all(behavior="ignoreErrors")
        window.evaluate("() => { try { sessionStorage.clear() } catch {} }")
        window.goto("about:blank")
        window.set_viewport_size(DESK)
        window.emulate_media(color_scheme="null", reduced_motion="null")
        forget = window.context.new_cdp_session(window)
        forget.send("Storage.clearDataForOrigin", {"origin": server, "storageTypes": "local_storage,indexeddb,cookies"})
        forget.send("Page.resetNavigationHistory")
        forget.detach()
    finally:
        assert visit.refused == []
        assert visit.errors == []
