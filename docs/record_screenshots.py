"""Records the pages' pictures of the playground, as a browser shows it. Run by ``make screenshots``.

It needs Chromium, and a font with Chinese characters: the page names its other language.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from playwright.sync_api import Browser, FloatRect, Page, expect, sync_playwright

from service.app import create_app
from service.config import Settings

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"


@dataclass(frozen=True)
class Shot:
    """A view of the page: its address, and the window in pixels."""

    file: str
    address: str
    width: int
    height: int
    panels: tuple[str, ...] = ()  # these alone are in the picture, one below the other


SHOTS = (
    Shot("playground.jpg", "/?sample=cat&target=Egyptian+cat&versus=tabby", 1280, 1010),
    Shot(
        "playground-trials.jpg",
        "/?sample=coffee&tab=trust&trust=true",
        1280,
        900,
        ("trust",),
    ),
    Shot(
        "playground-what-if.jpg",
        "/?sample=coffee&tab=what-if&rank=true&scale=1213:0,1143:0&beside=cat",
        1280,
        900,
        ("what-if", "beside"),
    ),
)


@contextmanager
def serving() -> Iterator[str]:
    """The service on a free port, in a thread of this process."""
    app = create_app(Settings(precision="fp32", timeout_ms=300_000))  # as exact on every machine, and patient
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    with socket.create_server(("127.0.0.1", 0)) as address:
        thread = threading.Thread(target=server.run, args=([address],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{address.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def around(page: Page, panels: Sequence[str]) -> FloatRect | None:
    """The part of the page that these panels take, with a margin; None where none is named."""
    boxes = [box for panel in panels if (box := page.locator(f"#{panel}").bounding_box())]
    if not boxes:
        return None
    margin = 16
    x, y = min(box["x"] for box in boxes) - margin, min(box["y"] for box in boxes) - margin
    right = max(box["x"] + box["width"] for box in boxes) + margin
    bottom = max(box["y"] + box["height"] for box in boxes) + margin
    return {"x": x, "y": y, "width": right - x, "height": bottom - y}


def take(browser: Browser, url: str, shot: Shot) -> Path:
    """One picture, once every panel is drawn."""
    context = browser.new_context(
        base_url=url,
        viewport={"width": shot.width, "height": shot.height},
        color_scheme="light",
        locale="en-GB",
        reduced_motion="reduce",
    )
    with context:
        page = context.new_page()
        page.goto(shot.address)
        expect(page.locator("[role=tabpanel]:not([hidden])")).to_have_attribute("aria-busy", "false", timeout=60_000)
        for panel in shot.panels:
            expect(page.locator(f"#{panel} figure")).to_have_count(3, timeout=60_000)
        page.wait_for_load_state("networkidle")
        expect(page.locator("#stage .busy")).to_have_css("opacity", "0")
        path = IMAGES / shot.file
        page.screenshot(path=path, type="jpeg", quality=85, full_page=bool(shot.panels), clip=around(page, shot.panels))
    return path


def main() -> None:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise SystemExit("there is no chromium here to take pictures with")
    if not subprocess.run(["fc-list", ":lang=zh"], capture_output=True, check=True).stdout:
        raise SystemExit("no font here has Chinese characters; Debian's fonts-wqy-microhei does")
    with serving() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for shot in SHOTS:
            print("wrote", take(browser, url, shot).relative_to(ROOT))
        browser.close()


if __name__ == "__main__":
    main()
