"""The visitor's own photographs in a real browser: several at once, kept over a reload, and files of what was found."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, Route, expect

from tests.browser.visit import Visit, drawn, turned
from tests.support import decoded_bytes, explained

TEXT = b"This is not a photograph.\n"


@pytest.fixture
def page(visit: Visit) -> Iterator[Page]:
    """The page with its first photograph explained. What the browser logs of refusals is forgiven."""
    visit.page.goto("/")
    expect(visit.page.locator("#predictions .class").first).to_be_visible()
    yield visit.page
    visit.errors[:] = [error for error in visit.errors if "415" not in error and "504" not in error]


def drop(page: Page, *files: tuple[str, bytes]) -> None:
    """Drop files on the page at once."""
    script = """(files) => {
        const transfer = new DataTransfer();
        for (const [name, bytes] of files) {
            transfer.items.add(new File([Uint8Array.from(atob(bytes), (one) => one.charCodeAt(0))], name));
        }
        document.body.dispatchEvent(new DragEvent("drop", {bubbles: true, cancelable: true, dataTransfer: transfer}));
    }"""
    page.evaluate(script, [[name, base64.b64encode(content).decode()] for name, content in files])


def strip(page: Page) -> Locator:
    return page.get_by_role("listbox", name="Your photographs").get_by_role("option")


def test_several_photographs_are_a_strip_that_the_arrow_keys_go_along(
    page: Page, client: httpx.Client, cat: bytes, coffee: bytes, rocket: bytes
) -> None:
    drop(page, ("notes.txt", TEXT), ("one.jpg", cat), ("two.jpg", coffee), ("three.jpg", rocket))
    expect(page.get_by_role("alert")).to_contain_text("notes.txt: Unsupported media type")  # nothing vanishes unsaid
    expect(strip(page)).to_have_count(4)
    expect(strip(page).first).to_contain_text("Unsupported media type")
    for option, image in zip(strip(page).all()[1:], (cat, coffee, rocket), strict=True):
        (top,) = explained(client, "/v1/predict", image, top_k=1, view="whole").predictions or []
        expect(option).to_contain_text(top.label)
        expect(option).to_contain_text(f"{100 * (top.probability or 0):.1f} %")
    expect(page.locator("#source-name")).to_contain_text("one.jpg")
    expect(strip(page).and_(page.locator("[aria-selected=true]"))).to_contain_text("one.jpg")
    assert Axe().run(page).response["violations"] == []
    strip(page).nth(1).focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#caption")).to_contain_text("“espresso”")
    expect(page.locator(":focus")).to_contain_text("two.jpg")
    page.keyboard.press("End")
    expect(page.locator("#caption")).to_contain_text(re.compile("sees “(?!espresso)"))
    expect(page.locator("#source-name")).to_contain_text("three.jpg")
    page.go_back()
    expect(page.locator("#source-name")).to_contain_text("two.jpg")
    expect(strip(page).nth(2)).to_have_attribute("aria-selected", "true")


def test_what_is_left_out_of_many_files_is_said(page: Page, cat: bytes, tmp_path: Path) -> None:
    drop(page, *[(f"{n}.jpg", cat) for n in range(34)])
    expect(strip(page)).to_have_count(32)
    expect(page.locator("#gallery")).to_contain_text("2 files were left out: the page shows up to 32 at a time.")
    folder = page.locator("[data-choose]").first
    assert folder.get_attribute("multiple") is not None
    drop(page, ("single.jpg", cat))
    expect(page.locator("#source-name")).to_contain_text("single.jpg")
    expect(page.locator("#gallery")).to_be_hidden()


def test_own_photographs_survive_a_reload_until_they_are_forgotten(page: Page, cat: bytes, coffee: bytes) -> None:
    drop(page, ("one.jpg", cat), ("two.jpg", coffee))
    strip(page).nth(1).click()
    expect(page.locator("#caption")).to_contain_text("“espresso”")
    page.get_by_role("tab", name="Export").click()
    expect(page.locator("#source-name")).to_contain_text("Kept in this browser for a day")
    assert "two" not in page.url
    page.reload()
    expect(page.locator("#caption")).to_contain_text("“espresso”")
    expect(page.locator("#source-name")).to_contain_text("two.jpg")
    expect(strip(page)).to_have_count(2)
    expect(page.get_by_role("tab", name="Export")).to_have_attribute("aria-selected", "true")
    page.get_by_role("button", name="Forget it").click()
    expect(page.locator("#source-name")).to_have_text("Cat")
    page.go_back()
    expect(page.locator("#source-name")).to_have_text("Cat")
    kept = """() => new Promise((resolve) => {
        const asked = indexedDB.open("pellucid");
        asked.onsuccess = () => {
            const rows = asked.result.transaction("photographs").objectStore("photographs").count();
            rows.onsuccess = () => resolve(rows.result);
        };
    })"""
    assert page.evaluate(kept) == 0


def test_files_of_a_view_arrive_under_names_that_say_what_they_are(
    page: Page, client: httpx.Client, cat: bytes, coffee: bytes
) -> None:
    drop(page, ("my cup.jpg", coffee))
    expect(page.locator("#caption")).to_contain_text("“espresso”")
    page.get_by_role("tab", name="Export").click()
    # The figure is drawn by the service, which has tests of its own: here it matters what is asked for.
    asked: list[str] = []

    def answer_figures(route: Route) -> None:
        asked.append(route.request.url)
        kind = route.request.headers["accept"]
        if kind.startswith("image/"):
            route.fulfill(body=cat, content_type=kind)
        else:
            route.continue_()

    page.route("**/v1/explain?*", answer_figures)
    found = {}
    for name in ("Figure", "SVG on dark", "Overlay", "Mask", "Numbers", "Answer"):
        with page.expect_download() as download:
            page.get_by_role("region", name="Download").get_by_role("button", name=name, exact=True).click()
        found[name] = (download.value.suggested_filename, Path(download.value.path()).read_bytes())
    assert [name for name, _ in found.values()] == [
        f"my_cup-lite0-head-grad-cam-{end}"
        for end in ("figure.png", "figure-dark.svg", "overlay.png", "mask.png", "map.npz", "answer.json")
    ]
    answer = json.loads(found["Answer"][1])["results"][0]
    heat = answer["grad_cam"][0]
    same = f"view=whole&layer={heat['layer']}&method={heat['method']}"
    for url, theme in zip(asked, ("", "&theme=dark", ""), strict=True):
        assert f"{same}&target={heat['target']['index']}" in url.replace(theme, ""), "what is on the screen"
    size = (answer["image"]["height"], answer["image"]["width"])
    assert decoded_bytes(found["Overlay"][1], "image/png").shape[:2] == size
    assert decoded_bytes(found["Mask"][1], "image/png").shape[:2] == size
    numbers = np.load(io.BytesIO(found["Numbers"][1]))
    np.testing.assert_allclose(numbers["heat"][0], heat["raw"]["values"], rtol=1e-4, atol=1e-6)
    assert found["Figure"][1] == cat


LATE: Any = {
    "status": 504,
    "content_type": "application/problem+json",
    "body": '{"type": "urn:pellucid:problem:deadline-exceeded", "title": "Deadline exceeded", "status": 504}',
}


def test_a_photograph_in_work_has_its_name_at_once_no_files_of_the_last_and_a_second_try(
    page: Page, coffee: bytes
) -> None:
    turned(page, "Export")
    held: list[Route] = []
    page.route("**/v1/explain?*", lambda route: held.append(route), times=1)
    drop(page, ("cup.jpg", coffee))
    expect(page.locator(".sheet > .busy")).to_be_visible()
    expect(page.locator("#source-name")).to_contain_text("cup.jpg")
    expect(page.locator(".source .samples [aria-pressed=true]")).to_have_count(0)
    expect(page.locator("#download")).to_be_hidden()
    expect(page.locator("#tab-export")).to_have_attribute("inert", "")
    held[0].fulfill(**LATE)
    expect(page.locator("#caption")).to_contain_text("“espresso”")
    expect(page.get_by_role("button", name="Figure", exact=True)).to_be_visible()
    expect(page.locator("#tab-export")).not_to_have_attribute("inert", "")


def test_a_photograph_that_is_late_twice_is_named_and_stays(page: Page, coffee: bytes) -> None:
    page.route("**/v1/explain?*", lambda route: route.fulfill(**LATE), times=2)
    drop(page, ("cup.jpg", coffee))
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("cup.jpg: Deadline exceeded")
    expect(page.locator("#source-name")).to_contain_text("cup.jpg")
    expect(page.locator("#predictions")).to_be_hidden()
    alert.get_by_role("button", name="Try again").click()
    expect(page.locator("#caption")).to_contain_text("“espresso”")
    expect(page.locator("#problem")).to_be_empty()


def test_a_tab_says_that_it_computes(page: Page) -> None:
    held: list[Route] = []
    page.route("**/v1/feature-maps?*", lambda route: held.append(route), times=1)
    page.get_by_role("tab", name="Attention").click()
    expect(page.locator("#tab-attention")).to_have_attribute("aria-busy", "true")
    expect(page.locator("#attention .body")).to_have_text("Computing …")
    held[0].continue_()
    expect(drawn(page).locator("#attention .body")).not_to_contain_text("Computing")
    expect(page.locator(".gate[open]")).to_contain_text("Activation of 320 × 8 × 12")  # what was computed


def test_errors_are_in_chinese_with_the_services_words_below(visit: Visit) -> None:
    visit.page.goto("/?sample=cat&lang=zh&target=tabbyy")
    alert = visit.page.get_by_role("alert")
    expect(alert.locator("strong")).to_have_text("网络里没有这个名称")
    expect(alert).to_contain_text("给出的值：tabbyy。你要的可能是：'tabby'")
    expect(alert.locator("details [lang=en]")).to_contain_text("Unknown class 'tabbyy'")
    expect(alert).not_to_contain_text(re.compile("undefined|detail\\."))
    visit.errors[:] = [error for error in visit.errors if "422" not in error]


def test_a_folder_is_taken_in_and_what_is_no_picture_is_counted(chromium: Browser, server: str) -> None:
    """A drop with a folder can't be made by a script, so its entries are."""
    entries = """async () => {
        const blob = async (name) => (await fetch(`assets/samples/${name}.jpg`)).blob();
        const file = (name, made) => ({isFile: true, file: (done) => done(made)});
        const files = [
            file("a", new File([await blob("rocket")], "b.jpg", {type: "image/jpeg"})),
            file("b", new File([await blob("cat")], "a.jpg", {type: "image/jpeg"})),
            file("c", new File(["text"], "notes.txt", {type: "text/plain"})),
            file("d", new File(["hidden"], ".DS_Store")),
        ];
        const folder = {isDirectory: true, createReader: () => ({readEntries: (done) => done(files.splice(0, 3))})};
        const event = new Event("drop", {bubbles: true, cancelable: true});
        event.dataTransfer = {files: [], types: ["Files"], items: [{webkitGetAsEntry: () => folder}]};
        document.body.dispatchEvent(event);
    }"""
    with chromium.new_page(base_url=server, locale="en-GB") as page:
        page.goto("/")
        expect(page.locator("#predictions .class").first).to_be_visible()
        page.evaluate(entries)
        expect(strip(page)).to_have_count(2)
        expect(strip(page).first).to_contain_text("a.jpg")
        expect(page.locator("#gallery")).to_contain_text("1 files of the folder were left out: they are not pictures.")
