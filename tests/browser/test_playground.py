"""The playground in a real browser, against the service: what it shows is what the API answers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import cast

import httpx
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import FilePayload, Locator, Page, Request, expect

from tests.browser.visit import Visit
from tests.support import SAMPLES, decoded, explained, photograph, present


def opened(visit: Visit, address: str) -> Page:
    """The page at an address with a photograph, all its panels drawn."""
    visit.page.goto(address)
    expect(visit.page.locator(".sides canvas").first).to_be_visible(timeout=60_000)
    return visit.page


def welcomed(visit: Visit, address: str = "/") -> Page:
    """The page without a photograph, once its modules have run: before that it hears nothing."""
    visit.page.goto(address)
    expect(visit.page.locator(".start .samples button").first).to_be_visible()
    return visit.page


def classes(page: Page) -> Locator:
    return page.locator("#predictions .class")


def caption(page: Page) -> Locator:
    return page.locator("#caption")


def setting(page: Page, label: str) -> Locator:
    return page.locator("#controls").get_by_role("combobox", name=label, exact=True)


def pixel(page: Page, x: int, y: int) -> tuple[int, ...]:
    """The colour on the stage at a pixel of the photograph (of those no larger than the canvas)."""
    script = "([x, y]) => [...document.querySelector('#stage canvas').getContext('2d').getImageData(x, y, 1, 1).data]"
    return tuple(page.evaluate(script, [x, y])[:3])


def shown(value: float) -> str:
    """A number as the page writes it."""
    text = f"{value:.{4 if abs(value) < 0.1 else 3 if abs(value) < 10 else 1}f}"
    return text.replace("-", "−")


def close(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return all(abs(left - right) <= 3 for left, right in zip(one, other, strict=True))


def test_a_photograph_is_recognised_and_explained(visit: Visit, client: httpx.Client, cat: bytes) -> None:
    welcomed(visit)
    visit.page.locator("[data-choose]").first.set_input_files(SAMPLES / "cat.jpg")
    answer = explained(client, "/v1/explain", cat, include="predictions,grad_cam")
    assert answer.predictions
    assert answer.grad_cam
    expect(classes(visit.page)).to_have_count(5)
    for row, prediction in zip(classes(visit.page).all(), answer.predictions, strict=True):
        expect(row).to_have_text(re.compile(f"^{prediction.label} {100 * present(prediction.probability):.1f} %"))
    expect(classes(visit.page).first).to_have_attribute("aria-pressed", "true")
    expect(caption(visit.page)).to_have_text("Where the network sees “Egyptian cat”, at layer head")
    raw = answer.grad_cam[0].raw
    expect(visit.page.locator("#legend")).to_contain_text(f"from {shown(raw.min)} to {shown(raw.max)}")
    expect(visit.page.locator("#source-name")).to_contain_text("cat.jpg")
    assert "cat" not in visit.page.url, "one's own photograph can't be in an address"


def test_overlay_mask_and_original_are_the_services_own(visit: Visit, client: httpx.Client, cat: bytes) -> None:
    page = opened(visit, "/?sample=cat")
    cam = explained(client, "/v1/grad-cam", cat, overlay="true", alpha="1").grad_cam
    assert cam
    assert cam[0].overlay
    x0, y0, x1, y1 = cam[0].box
    overlay = decoded(cam[0].overlay)
    mask = decoded(cam[0].mask)
    y, x = (int(at) for at in np.unravel_index(np.argmax(mask), mask.shape))
    x, y = x + x0, y + y0
    # The page's canvas enlarges the map once more, so a single pixel can differ by some levels.
    points = [(x0 + (x1 - x0) * n // 8, y0 + (y1 - y0) * m // 8) for n in range(1, 8) for m in range(1, 8)]
    level = int(mask[y - y0, x - x0])
    colour = tuple(map(int, overlay[y, x]))
    page.get_by_role("button", name="Original").click()
    original = pixel(page, x, y)
    page.get_by_role("button", name="Mask").click()
    assert close(pixel(page, x, y), (level,) * 3)
    page.get_by_role("button", name="Overlay").click()
    slider = page.get_by_role("slider", name="Opacity")
    slider.fill("100")
    assert close(pixel(page, x, y), colour)
    differences = np.abs([np.subtract(pixel(page, *point), overlay[point[::-1]].astype(int)) for point in points])
    assert differences.mean() < 3
    assert differences.max() < 20
    slider.fill("0")
    assert close(pixel(page, x, y), original)
    assert sum(pixel(page, 2, 2)) < sum(original), "what the network did not see is dimmed"


def test_a_channel_of_a_gate_is_shown_before_and_after_it(visit: Visit, client: httpx.Client, cat: bytes) -> None:
    page = opened(visit, "/?sample=cat")
    strip = page.get_by_role("slider", name="Channels of blocks.4.gate")
    gate = page.locator(".gate").filter(has=strip)
    attention = explained(client, "/v1/attention", cat, effects="false").attention
    assert attention
    weights = next(gate.weights for gate in attention.gates if gate.layer == "blocks.4.gate")
    box = strip.bounding_box()
    assert box
    with page.expect_request(re.compile(r"gates=blocks\.4\.gate")) as asked:
        strip.click(position={"x": box["width"] * 12.5 / 40, "y": 20})
    assert "channels=12" in asked.value.url
    expect(gate.locator(".readout")).to_have_text(f"channel 12 · weight {shown(weights[12])}")
    expect(gate.locator(".sides figcaption")).to_have_text(["before", "after", "difference"])
    strip.press("ArrowRight")
    expect(strip).to_have_attribute("aria-valuetext", f"channel 13 · weight {shown(weights[13])}")
    page.get_by_role("button", name="Show over the photograph: blocks.4.gate, channel 13, after").click()
    expect(caption(page)).to_have_text("blocks.4.gate, channel 13, after")
    page.keyboard.press("Escape")
    expect(caption(page)).to_contain_text("Egyptian cat")
    expect(page.locator(":focus")).to_have_attribute("aria-label", re.compile("channel 13, after"))
    by_weight = page.get_by_role("button", name="Weight", exact=True)
    by_weight.click()
    expect(by_weight).to_have_attribute("aria-pressed", "true")
    strongest = max(range(40), key=weights.__getitem__)
    strip.press("Home")
    expect(strip).to_have_attribute("aria-valuetext", f"channel {strongest} · weight {shown(weights[strongest])}")


def test_layers_are_switched_and_back_undoes_it(visit: Visit) -> None:
    page = opened(visit, "/?sample=rocket")
    setting(page, "Layer").select_option("blocks.10")
    expect(caption(page)).to_contain_text("at layer blocks.10")
    expect(page).to_have_url(re.compile(r"\?sample=rocket&layer=blocks\.10$"))
    page.go_back()
    expect(caption(page)).to_contain_text("at layer head")


def test_feature_maps_of_more_layers_stand_from_shallow_to_deep(
    visit: Visit, client: httpx.Client, coffee: bytes
) -> None:
    page = opened(visit, "/?sample=coffee&layers=stem,head")
    page.get_by_label("Add a layer …").select_option("blocks.7")
    names = ["stem", "blocks.7", "head"]
    expect(page.locator(".grid h3")).to_have_text(names)
    maps = explained(client, "/v1/feature-maps", coffee, layers=",".join(names)).feature_maps
    assert maps
    for grid, layer in zip(page.locator(".grid").all(), maps, strict=True):
        expect(grid.locator(".channel")).to_have_text([str(channel) for channel in layer.channels])
    tile = page.get_by_role("button", name=f"Show over the photograph: head, channel {maps[2].channels[3]}")
    tile.click()
    expect(caption(page)).to_have_text(f"head, channel {maps[2].channels[3]}")
    expect(page.locator("#legend")).to_contain_text(f"largest value {shown(maps[2].stats.max[3])}")
    page.get_by_role("button", name="Back to the heat map").click()
    expect(tile).to_be_focused()


def test_a_second_class_shows_why_one_and_not_the_other(visit: Visit, client: httpx.Client, cat: bytes) -> None:
    page = opened(visit, "/?sample=cat")
    panel = page.get_by_role("region", name="Why one and not the other")
    expect(panel).to_be_hidden()
    classes(page).filter(has_text="tabby").click()
    expect(caption(page)).to_contain_text("“tabby”")
    page.get_by_role("button", name="Compare with Egyptian cat").click()
    expect(panel.locator("figcaption")).to_have_count(3)
    cams = explained(client, "/v1/grad-cam", cat, target=["tabby", "Egyptian cat"]).grad_cam
    assert cams
    one, other = ([value for row in cam.raw.values for value in row] for cam in cams)
    differences = [left - right for left, right in zip(one, other, strict=True)]
    for figure, values in zip(panel.locator("figcaption").all(), (one, other, differences), strict=True):
        expect(figure).to_contain_text(f"{shown(min(values))} to {shown(max(values))}")
    reach = shown(max(map(abs, one + other + differences)))
    expect(panel.locator(".ends")).to_have_text(f"against −{reach}for +{reach}")
    panel.get_by_role("button", name="Swap").click()
    expect(caption(page)).to_contain_text("“Egyptian cat”")
    expect(panel.locator("figcaption").last).to_contain_text(f"Egyptian cat − tabby{shown(-max(differences))}")


def test_a_map_with_nothing_for_the_class_says_so(visit: Visit, client: httpx.Client, cat: bytes) -> None:
    cams = [explained(client, "/v1/grad-cam", cat, target=list(range(n, n + 20))).grad_cam for n in (400, 500)]
    negative = next(cam.target for group in cams for cam in group or () if cam.raw.all_negative)
    page = opened(visit, f"/?sample=cat&target={negative.index}")
    expect(page.locator("#all-negative")).to_contain_text(f"No position speaks for “{negative.label}”")
    expect(classes(page).last).to_have_attribute("aria-pressed", "true")
    page.get_by_label("Evidence against, too").check()
    expect(page.locator("#legend .ends")).to_contain_text("+")


def test_an_error_is_shown_in_the_services_words_and_the_view_stays(visit: Visit, client: httpx.Client) -> None:
    page = opened(visit, "/?sample=cat")
    text = b"This is not a photograph.\n"
    page.locator("[data-choose]").last.set_input_files(FilePayload(name="a.txt", mimeType="text/plain", buffer=text))
    said = client.post("/v1/predict", files={"images": ("a.txt", text)}).json()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text(f"a.txt: {said['title']}")
    expect(alert).to_contain_text(said["detail"])
    expect(classes(page).first).to_contain_text("Egyptian cat")
    assert [error for error in visit.errors if "415" not in error] == []
    visit.errors.clear()  # the browser itself logs every status above 399
    page.get_by_label("Another class").fill("tabbyy")
    page.keyboard.press("Enter")
    expect(alert).to_contain_text("Did you mean 'tabby'")
    classes(page).filter(has_text="lynx").click()
    expect(caption(page)).to_contain_text("“lynx”")
    expect(page.locator("#problem")).to_be_empty()
    assert [error for error in visit.errors if "422" not in error] == []
    visit.errors.clear()


def test_a_shared_address_restores_the_view_and_its_language(visit: Visit) -> None:
    page = opened(
        visit,
        "/?sample=coffee&model=lite0-plain&target=504&versus=967&layer=blocks.10&signed=true&colormap=magma&top_k=3"
        "&layers=stem,head&sort=weight&lang=zh",
    )
    assert page.locator("html").get_attribute("lang") == "zh-Hans"
    chosen = {"网络": "lite0-plain", "层": "blocks.10", "方法": "grad-cam", "配色": "magma", "类别数": "3"}
    for label, value in chosen.items():
        expect(setting(page, label)).to_have_value(value)
    expect(page.get_by_label("也显示反面证据")).to_be_checked()
    expect(caption(page)).to_contain_text("coffee mug")
    expect(page.get_by_role("region", name="为什么是这个而不是那个")).to_contain_text("espresso")
    expect(page.locator(".grid h3")).to_have_text(["stem", "head"])
    expect(page.get_by_role("button", name="权重", exact=True)).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="English").click()
    expect(page.get_by_role("heading", name="What it recognises")).to_be_visible()
    expect(page).to_have_url(re.compile("lang=en"))
    page.reload()
    expect(caption(page)).to_contain_text("Where the network sees “coffee mug”, at layer blocks.10")


def test_the_recipe_runs_as_pasted(visit: Visit, cat: bytes, tmp_path: Path) -> None:
    name = """my "cat"; it's, a\\b.jpg"""
    (tmp_path / name).write_bytes(cat)
    page = visit.page
    welcomed(visit, "/?top_k=2&colormap=magma&sort=effect")
    page.locator("[data-choose]").first.set_input_files(FilePayload(name=name, mimeType="image/jpeg", buffer=cat))
    check_recipe(page, tmp_path)
    opened(visit, "/?sample=cat&target=285&versus=281&layers=stem,head")
    (empty := tmp_path / "empty").mkdir()
    check_recipe(page, empty)


def check_recipe(page: Page, folder: Path) -> None:
    expect(classes(page).first).to_contain_text("Egyptian cat")
    curl, python = page.locator(".code pre").all_inner_texts()
    checked = curl.replace("curl -F", "curl --silent --show-error --fail-with-body -F")
    for command in (["bash", "-euo", "pipefail", "-c", checked], [sys.executable, "-c", python]):
        ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
        assert ran.returncode == 0, ran.stderr + ran.stdout
        assert "Egyptian cat" in ran.stdout


def test_a_superseded_request_is_given_up(visit: Visit) -> None:
    page = opened(visit, "/?sample=cat")
    given_up: list[Request] = []
    page.on("requestfailed", lambda request: given_up.append(request))
    page.route("**/v1/explain?*layer=blocks.2*", lambda route: None)  # never answered
    setting(page, "Layer").select_option("blocks.2")
    expect(page.locator("#status")).to_have_text("Looking …")
    setting(page, "Layer").select_option("blocks.15")
    expect(caption(page)).to_contain_text("at layer blocks.15")
    expect(page.locator("#main")).to_have_attribute("aria-busy", "false")
    assert ["layer=blocks.2" in request.url for request in given_up] == [True]


@pytest.mark.parametrize("address", ["/", "/?sample=cat&target=285&versus=281"])
def test_it_is_accessible_and_fits_a_phone(visit: Visit, address: str) -> None:
    page = welcomed(visit) if address == "/" else opened(visit, address)
    expect(page.get_by_role("button", name="Cat", exact=True).first).to_be_visible()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        violations = cast(list[dict[str, object]], Axe().run(page).response["violations"])
        assert [(found["id"], found["nodes"]) for found in violations] == []
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_light_and_dark_can_be_chosen_and_stay_so(visit: Visit) -> None:
    page = visit.page
    page.emulate_media(color_scheme="light")
    welcomed(visit)
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.get_by_role("button", name="Light or dark").click()
    dark = page.evaluate(background)
    assert dark != light
    page.reload()
    assert page.evaluate(background) == dark


def test_a_photograph_can_be_dropped_or_pasted(visit: Visit) -> None:
    page = welcomed(visit)
    give = """async ([kind, field, name]) => {
        const blob = await (await fetch(`assets/samples/${name}`)).blob();
        const data = new DataTransfer();
        data.items.add(new File([blob], name, {type: "image/jpeg"}));
        document.body.dispatchEvent(new (kind === "drop" ? DragEvent : ClipboardEvent)(
            kind, {[field]: data, bubbles: true, cancelable: true}));
    }"""
    page.evaluate(give, ["drop", "dataTransfer", "coffee.jpg"])
    expect(classes(page).first).to_contain_text("espresso")
    page.evaluate(give, ["paste", "clipboardData", "cat.jpg"])
    expect(classes(page).first).to_contain_text("Egyptian cat")


def test_the_samples_are_photographs_of_the_repository(visit: Visit) -> None:
    buttons = welcomed(visit).locator(".start .samples button")
    names = [button.get_attribute("data-key") for button in buttons.all()]
    assert sorted(map(str, names)) == sorted(path.stem for path in SAMPLES.glob("*.jpg"))
    assert all(photograph(str(name)) for name in names)
