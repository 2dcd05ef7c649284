"""The page of a report in a real browser, from disk: filters, links to pictures, no complaint."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.commands.invoke import pellucid
from tests.support import SAMPLES


@pytest.fixture(scope="module")
def file(server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page about a folder of the samples."""
    folder = tmp_path_factory.mktemp("report") / "pictures"
    (folder / "tabby").mkdir(parents=True)
    for place in ("tabby/cat.jpg", "coffee.jpg", "rocket.jpg"):
        shutil.copy(SAMPLES / Path(place).name, folder / place)
    made = pellucid("report", folder, "--out", folder.parent / "report.html", "--timeout", "200", url=server)
    assert made.exit_code == 0, made.stderr
    return folder.parent / "report.html"


@pytest.fixture
def page(file: Path, chromium: Browser) -> Iterator[Page]:
    with chromium.new_page(locale="en-GB", offline=True) as page:
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(file.as_uri())
        yield page
        assert complaints == []


def test_filters_and_links_show_the_pictures_that_they_name(page: Page) -> None:
    shown = page.locator(".sheet > details:visible")
    expect(shown).to_have_count(3)
    page.get_by_label("File or label").fill("ROCKET")
    expect(shown).to_have_count(1)
    expect(page.get_by_role("status")).to_have_text("1 of 3 pictures")
    page.get_by_role("link", name="tabby/cat.jpg").first.click()  # of another class than its folder's
    expect(page.locator("details[open]", has_text="tabby/cat.jpg")).to_be_visible()
    expect(shown).to_have_count(3)
    page.locator("select[name=kind]").select_option("wrong")
    expect(shown).to_have_count(1)
    page.locator("select[name=label]").select_option(label="espresso")
    expect(shown).to_have_count(0)
    assert page.evaluate("document.images.length") >= 7
    assert page.evaluate("[...document.images].every((image) => image.naturalWidth > 0)")


def test_it_is_accessible_in_both_themes_and_fits_a_phone(page: Page) -> None:
    page.locator(".sheet > details").first.evaluate("(tile) => { tile.open = true; }")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert Axe().run(page).response["violations"] == []
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") == 360
