"""The playground by what a network puts out: no percentage where there is no probability, and a map of each."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.test_trials import hasten, result, shown
from tests.browser.visit import Visit, complaints, drawn, opened, turned
from tests.kinds import KINDS, compiled
from tests.support import SAMPLES, decoded, explained, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service of a network of each kind, named by it."""
    folder = tmp_path_factory.mktemp("kinds")
    first, *others = (str(compiled(kind, folder)) for kind in KINDS)
    with serving(PELLUCID_MODEL=first, PELLUCID_MODELS=",".join(others), PELLUCID_PRECISION="fp32") as process:
        yield process.url


@pytest.fixture(scope="module")
def client(server: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server, timeout=200) as client:
        yield client


def words(page: Page, panel: str) -> Locator:
    return page.locator(f"#{panel} .body")


def test_labels_that_apply_are_marked_and_the_threshold_with_them(
    visit: Visit, client: httpx.Client, cat: bytes
) -> None:
    page = opened(visit, "/?sample=cat&model=sigmoid&view=centre")
    expect(page.get_by_role("heading", name="Which labels apply")).to_be_visible()
    found = explained(client, "/v1/predict", cat, model="sigmoid").predictions
    assert found
    assert {each.applies for each in found} == {True, False}, "a test of both"
    for row, each in zip(page.locator("#predictions .class").all(), found, strict=True):
        assert each.probability is not None
        applies = "applies · " if each.applies else ""
        expect(row).to_have_text(f"{each.label} {applies}{100 * each.probability:.1f} %")
    expect(words(page, "predictions")).to_contain_text("A label applies from 45.0 %.")
    mark = page.locator("#predictions .threshold").first
    assert mark.evaluate("(mark) => mark.style.insetInlineStart") == "45%"


def test_quantities_have_units_and_no_percentage_anywhere(visit: Visit, client: httpx.Client, cat: bytes) -> None:
    hasten(visit.page)
    page = opened(visit, "/?sample=cat&model=linear&view=centre&trust=true&scale=3:0&beside=coffee&several=true")
    found = explained(client, "/v1/predict", cat, model="linear").predictions
    assert found
    for row, each in zip(page.locator("#predictions .class").all(), found, strict=True):
        assert each.value is not None
        expect(row).to_have_text(f"{each.label} {shown(each.value)} {each.unit}")
    expect(words(page, "predictions")).not_to_contain_text("%")
    expect(page.locator("#says")).to_contain_text(re.compile(rf"“age” at {shown(cast(float, found[0].value))}.years"))
    turned(page, "What if")
    expect(page.locator("#beside figure, #what-if figure")).to_have_count(6)
    for panel in ("what-if", "beside"):
        expect(words(page, panel)).not_to_contain_text("%")
        expect(words(page, panel)).to_contain_text(f"{shown(cast(float, found[0].value))} years")
    turned(page, "Trust")
    expect(words(page, "trust")).to_contain_text("Advantage over random places, in years")
    expect(words(page, "trust")).not_to_contain_text("Confidence")
    expect(page.locator("#caption")).to_have_text(re.compile("^What raises “age”, at layer"))
    turned(page, "Answer")
    with page.expect_response(re.compile("/v1/explain")) as answer:
        page.get_by_role("button", name="Lowers it").click()
    assert result(answer.value)["grad_cam"][0]["direction"] == "down"
    expect(page.locator("#caption")).to_have_text(re.compile("^What lowers “age”, at layer"))
    expect(page).to_have_url(re.compile(r"model=linear&direction=down&view=centre&.*beside=coffee"))
    page.locator("#predictions .class").last.click()
    expect(page.locator("#caption")).to_have_text(re.compile("^What lowers “height”, at layer"))


def test_a_segmentation_is_drawn_and_a_region_of_it_explained(visit: Visit, client: httpx.Client, cat: bytes) -> None:
    page = opened(visit, "/?sample=cat&model=dense&view=centre")
    found = explained(client, "/v1/predict", cat, model="dense")
    assert found.predictions
    assert found.segmentation
    for row, each in zip(page.locator("#predictions .class").all(), found.predictions, strict=True):
        assert each.share is not None
        expect(row).to_have_text(f"{each.label} {100 * each.share:.1f} %")
    levels = decoded(found.segmentation.mask)
    assert len({each.index for each in found.segmentation.classes}) > 1, "a test of several"
    page.locator("#predictions [data-key=segmentation]").click()
    page.get_by_role("slider", name="Opacity").fill("100")
    palette = ["", "#56b4e9", "#009e73", "#f0e442"]  # none for the background
    script = "([x, y]) => [...document.querySelector('#stage canvas').getContext('2d').getImageData(x, y, 1, 1).data]"
    x0, y0, *_ = found.segmentation.box
    for index in {each.index for each in found.segmentation.classes} - {0}:
        # the middle of a position, whose square is some pixels wide
        y, x = next((y, x) for y in range(8, 250, 16) for x in range(8, 250, 16) if levels[y, x] == index)
        colour = page.evaluate(script, [x + x0, y + y0])
        assert "#" + "".join(f"{value:02x}" for value in colour[:3]) == palette[index]
    page.keyboard.press("Escape")
    page.get_by_role("slider", name="Opacity").fill("60")
    canvas = page.locator("#stage canvas").bounding_box()
    assert canvas
    middle = (canvas["x"] + canvas["width"] / 2, canvas["y"] + canvas["height"] / 2)
    with page.expect_response(re.compile("/v1/explain")) as answer:
        page.mouse.click(*middle)
    assert result(answer.value)["grad_cam"][0]["region"] == {"kind": "point", "positions": 1}
    expect(page.locator("#caption")).to_contain_text("at the marked point")
    told = re.search(r"region=(\d+),(\d+)&view=centre$", page.url)
    assert told
    assert [int(each) for each in told.groups()] == pytest.approx([225, 150], abs=2)
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + 60, middle[1] + 40, steps=3)
    with page.expect_response(re.compile("/v1/explain")) as answer:
        page.mouse.up()
    assert result(answer.value)["grad_cam"][0]["region"]["kind"] == "box"
    expect(page.locator("#caption")).to_contain_text("in the marked box")
    with page.expect_response(re.compile("/v1/explain")) as answer:
        page.get_by_role("button", name="In the whole picture").click()
    assert result(answer.value)["grad_cam"][0]["region"]["kind"] == "picture"
    field = page.get_by_label("At a point, or in a box")
    field.fill("200, 120")
    with page.expect_response(re.compile("/v1/explain")) as answer:
        field.press("Enter")
    assert result(answer.value)["grad_cam"][0]["region"]["kind"] == "point"
    expect(page).to_have_url(re.compile(r"region=200,120&"))
    field.fill("1,1")
    field.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("outside of what the network sees")
    expect(field).to_have_value("200,120")
    assert [error for error in visit.errors if "422" not in error] == []
    visit.errors.clear()  # the browser itself logs every status above 399
    page.locator(".source").get_by_role("button", name="Coffee").click()
    expect(page.locator("#caption")).to_contain_text("where it finds it")
    expect(page).not_to_have_url(re.compile("region"))


def test_an_embedding_asks_for_another_picture_and_says_how_alike_they_are(
    visit: Visit, client: httpx.Client, cat: bytes, coffee: bytes, tmp_path: Path
) -> None:
    page = visit.page
    opened(visit, "/?sample=cat&model=embedding&view=centre")
    expect(words(page, "predictions")).to_contain_text("Choose a second picture")
    turned(page, "Features")
    expect(words(page, "maps").locator("canvas").first).to_be_visible()
    for tab, panels in {
        "Trust": ("trust", "methods"),
        "What if": ("what-if", "beside"),
        "Answer": ("compare",),
    }.items():
        turned(page, tab)
        for panel in panels:
            expect(page.locator(f"#{panel}")).to_be_hidden()
    check_recipe(turned(page, "Export"), tmp_path, "[")
    turned(page, "Answer")
    page.get_by_role("button", name="Compare with: Coffee").click()
    files = {"images": ("cat.jpg", cat), "reference": ("coffee.jpg", coffee)}
    reply = client.post("/v1/grad-cam?model=embedding", files=files).json()
    similarity = reply["results"][0]["grad_cam"][0]["target"]["similarity"]
    expect(page.locator(".alike .advantage")).to_have_text(shown(similarity))
    expect(page.locator("#caption")).to_contain_text("What makes it like the other picture")
    expect(page.locator("#compare figure")).to_have_count(3)
    expect(page).to_have_url(re.compile(r"model=embedding&reference=coffee&view=centre$"))
    check_recipe(turned(page, "Export"), tmp_path, f"{similarity:.4f}"[:5])
    turned(page, "What if")
    with page.expect_response(re.compile("scale=")) as answer:
        page.get_by_role("button", name=re.compile("^Mute channel")).first.click()
    assert result(answer.value)["what_if"]["targets"][0]["before"]["similarity"] == pytest.approx(similarity, abs=1e-4)
    expect(words(page, "what-if")).to_contain_text(f"Similarity to the other picture: {shown(similarity)} →")
    page.reload()
    turned(drawn(page), "Answer")  # a tab that is opened while the address is read would be closed
    expect(page.locator(".alike .advantage")).to_have_text(shown(similarity))
    page.locator("[data-key=reference-file]").set_input_files(SAMPLES / "cat.jpg")
    expect(page.locator(".alike .advantage")).to_have_text("1.000")
    expect(page).not_to_have_url(re.compile("reference"))
    page.get_by_role("button", name="Take away cat.jpg").click()
    expect(words(page, "predictions")).to_contain_text("Choose a second picture")


def check_recipe(page: Page, folder: Path, said: str) -> None:
    curl, python = page.locator(".code pre").all_inner_texts()
    checked = curl.replace("curl -F", "curl --silent --show-error --fail-with-body -F")
    for command in (["bash", "-euo", "pipefail", "-c", checked], [sys.executable, "-c", python]):
        ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200, check=False)
        assert ran.returncode == 0, ran.stderr + ran.stdout
        assert said in ran.stdout


def test_another_kind_of_network_drops_what_it_has_no_use_for(visit: Visit) -> None:
    page = opened(visit, "/?sample=cat&model=dense&region=picture&target=2&tab=network")
    page.locator("#controls").get_by_role("combobox", name="Network").select_option("linear")
    expect(page.locator("#caption")).to_contain_text("What raises “age”")
    expect(page).to_have_url(re.compile(r"\?sample=cat&model=linear&tab=network$"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_accessible_fits_a_phone_and_has_all_its_words(visit: Visit, kind: str) -> None:
    hasten(visit.page)
    more = "&reference=rocket" if kind == "embedding" else ""
    page = opened(visit, f"/?sample=cat&model={kind}&trust=true&scale=3:0.5&beside=coffee&several=true{more}")
    keys = re.compile(r"\b(predictions|says|stage|trust|what_if|compare|reference|region|legend|beside)\.[a-z]")
    for tab, scheme, figures in (("Answer", "light", 0), ("Trust", "dark", 3), ("What if", "light", 6)):
        turned(page, tab)
        expect(page.locator("#trust figure:visible, #what-if figure:visible, #beside figure:visible")).to_have_count(
            figures
        )
        page.set_viewport_size({"width": 1440, "height": 900})
        assert complaints(page, scheme) == []
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert not keys.search(page.locator("main").inner_text())
