"""A visit to a page with the network cut: nothing but the server itself may be asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import ConsoleMessage, Error, Locator, Page, Request, expect


@dataclass
class Visit:
    """A page, what it asked of other machines in vain, and what its console complains of."""

    page: Page
    refused: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(60_000)
        self.page.on("request", self._note)
        self.page.on("console", self._listen)
        self.page.on("pageerror", self._catch)

    def end(self) -> None:
        """Listen no more."""
        self.page.remove_listener("request", self._note)
        self.page.remove_listener("console", self._listen)
        self.page.remove_listener("pageerror", self._catch)

    def _catch(self, error: Error) -> None:
        self.errors.append(str(error))

    def _note(self, request: Request) -> None:
        target = urlsplit(request.url)
        if target.scheme not in ("data", "blob") and target.hostname != "127.0.0.1":
            self.refused.append(request.url)

    def _listen(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)


def opened(visit: Visit, address: str) -> Page:
    """The page at an address, the answer in its open tab drawn."""
    visit.page.goto(address)
    return drawn(visit.page)


def turned(page: Page, tab: str) -> Page:
    """The page with another tab opened and drawn."""
    page.get_by_role("tab", name=tab, exact=True).click()
    return drawn(page)


def drawn(page: Page) -> Page:
    expect(page.locator("[role=tabpanel]:not([hidden])")).to_have_attribute("aria-busy", "false")
    expect(page.locator("#main")).not_to_have_attribute("aria-busy", "true")
    return page


def blocks(page: Page) -> Locator:
    """The blocks on the map on which the heat map's layer is chosen."""
    return page.locator("#network-map .block[role=option]")


def block(page: Page, layer: str) -> Locator:
    """The one that stands for a layer."""
    return page.locator(f"#network-map .block[data-name='{layer}']")


def complaints(page: Page, scheme: str) -> list[tuple[object, object]]:
    """What axe finds wrong with the page in a colour scheme."""
    page.emulate_media(color_scheme=cast(Any, scheme), reduced_motion="reduce")
    found = cast(list[dict[str, object]], Axe().run(page).response["violations"])
    return [(each["id"], each["nodes"]) for each in found]
