"""What channels answer to, on the page: of the planted network, whose channels have a known meaning."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import FilePayload, Page, ViewportSize, expect

from pellucid.network.file import CompiledNetwork, save
from tests.atlas import conftest as planted
from tests.browser.visit import Visit, complaints, drawn, opened, turned
from tests.support import serving

network, engine, files, path = planted.network, planted.engine, planted.files, planted.path
PRESSED = "a, button, input:not([type=checkbox], [type=file]), label:has(input), select, summary"


@pytest.fixture(scope="module")
def server(network: CompiledNetwork, path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service of the planted network with its atlas."""
    found = tmp_path_factory.mktemp("planted") / "planted.pellucid"
    save(found, network.manifest, network.graph, network.weights)
    with serving(PELLUCID_MODEL=str(found), PELLUCID_ATLASES=str(path), PELLUCID_PRECISION="fp32") as process:
        yield process.url


def choose(page: Page, picture: Image.Image) -> None:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    file = FilePayload(name="own.png", mimeType="image/png", buffer=buffer.getvalue())
    page.locator("[data-choose]").first.set_input_files(file)
    expect(page.locator("#source-name")).to_contain_text("own.png")
    drawn(page)


def blue_and_red() -> Image.Image:
    """Gray, with a blue square in the upper left and a red one in the lower right."""
    picture = Image.new("RGB", (160, 160), (128, 128, 128))
    picture.paste(planted.COLOURS["blue"], (10, 10, 60, 60))
    picture.paste(planted.COLOURS["red"], (100, 100, 150, 150))
    return picture


def test_a_card_says_what_a_channel_answers_to_and_gives_the_focus_back(visit: Visit) -> None:
    page = opened(visit, "/?view=centre&layers=act&tab=features")
    card = page.get_by_role("dialog")
    tile = page.get_by_role("button", name="channel 2: what it responds to")
    tile.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="act channel 2")).to_be_visible()
    expect(card.get_by_role("button", name="Close")).to_be_focused()
    expect(card.get_by_role("img")).to_have_count(7)  # six crops and the curve
    expect(card.locator(".lines")).to_contain_text("Activated by c")
    expect(card.locator(".said")).to_contain_text("This photograph: ")
    page.keyboard.press("Escape")
    expect(card).to_be_hidden()
    expect(tile).to_be_focused()
    named = turned(page, "Attention").locator(".gate[open] .named button").first
    named.hover()
    expect(card).to_be_visible()
    expect(card).to_contain_text("Crops of act")
    card.hover()
    card.get_by_role("link", name="All about this channel").click()
    expect(card).to_be_hidden()
    expect(page).to_have_url(re.compile(r"tab=channel&channel=gate/\d$"))


def test_a_channel_has_a_page_of_its_own(visit: Visit) -> None:
    page = opened(visit, "/?view=centre&tab=channel&channel=act/1")
    panel = page.get_by_role("region", name="Channel 1 of act")
    expect(panel.locator(".crops img")).to_have_count(18)
    panel.get_by_role("link", name="channel 2").click()
    expect(page.get_by_role("heading", name="Channel 2 of act")).to_be_visible()
    expect(page).to_have_url(re.compile("channel=act/2$"))
    expect(page.get_by_role("link", name="channel 3")).to_have_count(0)
    page.go_back()
    expect(page.get_by_role("heading", name="Channel 1 of act")).to_be_visible()
    page.get_by_label("This class").fill("c")
    page.get_by_label("and not that one").fill("a")
    page.get_by_role("button", name="List channels").click()
    expect(page.locator("#apart .answers a")).to_have_text(["channel 2", "channel 1", "channel 0"])
    drawn(page).get_by_label("Layer or gate").select_option("gate")
    expect(page.get_by_role("heading", name="Channel 0 of gate")).to_be_visible()
    expect(page.locator(".spread-keys")).to_contain_text("undamaged")


def test_a_box_on_the_photograph_finds_its_channels(visit: Visit) -> None:
    page = opened(visit, "/?view=squash&tab=channel&channel=act/1")
    choose(page, blue_and_red())
    canvas = page.locator("#stage canvas").bounding_box()
    assert canvas
    left = canvas["x"] + (canvas["width"] - canvas["height"]) / 2  # the square photograph is in the middle
    across = canvas["height"] / 160
    page.mouse.move(left + 10 * across, canvas["y"] + 10 * across)
    page.mouse.down()
    page.mouse.move(left + 60 * across, canvas["y"] + 60 * across, steps=3)
    page.mouse.up()
    first = page.locator("#box .answers a").first
    expect(first).to_have_text("channel 2")
    expect(first).to_be_in_viewport()
    expect(page).to_have_url(re.compile(r"box=\d+,\d+,\d+,\d+$"))
    for edge, value in {"Left": 100, "Top": 100, "Right": 150, "Bottom": 150}.items():
        page.get_by_label(edge, exact=True).fill(str(value))
    page.keyboard.press("Enter")
    expect(first).to_have_text("channel 0")
    expect(page).to_have_url(re.compile("box=100,100,150,150$"))


def test_a_gate_unlike_the_atlas_is_flagged(visit: Visit) -> None:
    page = opened(visit, "/?tab=attention")
    choose(page, Image.new("RGB", (64, 64), planted.COLOURS["blue"]))
    expect(page.locator(".gate .notice")).to_contain_text("weights lie outside the range of all 46 pictures")
    expect(page.locator(".gate summary .unusual")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_in_the_way_of_anybody(visit: Visit, scheme: str) -> None:
    page = visit.page
    page.set_viewport_size(ViewportSize(width=390, height=844))
    opened(visit, "/?view=centre&layers=act&tab=channel&channel=gate/1&box=20,20,200,200")
    expect(page.locator("#box .answers > li")).to_have_count(3)
    assert complaints(page, scheme) == []
    turned(page, "Features").get_by_role("button", name="channel 2: what it responds to").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert complaints(page, scheme) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for found in page.locator(f".card :is({PRESSED}), .opens").all():
        box = found.bounding_box()
        assert box is None or min(box["width"], box["height"]) >= 44, found.evaluate("(node) => node.outerHTML")
