"""The playground in a real browser, against the service: what it shows is what the API answers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from playwright.sync_api import Browser, FilePayload, Locator, Page, Request, ViewportSize, expect

from tests.browser.visit import Visit, block, blocks, complaints, drawn, opened, turned
from tests.support import SAMPLES, decoded, encoded, explained, photograph, present

DESK, PHONE = ViewportSize(width=1280, height=800), ViewportSize(width=390, height=844)
TABS = ("Answer", "Network", "Attention", "Features", "Trust", "What if", "Export")
PRESSED = "a, button, input:not([type=checkbox], [type=file]), label:has(input), select, summary, [role=slider]"


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
    opened(visit, "/?sample=coffee")
    visit.page.locator("[data-choose]").first.set_input_files(SAMPLES / "cat.jpg")
    answer = explained(client, "/v1/explain", cat, include="predictions,grad_cam", view="whole")
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
    page = opened(visit, "/?sample=cat&view=centre")
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
    page = opened(visit, "/?sample=cat&view=centre&tab=attention")
    attention = explained(client, "/v1/attention", cat, effects="false").attention
    assert attention
    weigh = {gate.layer: gate.weights for gate in attention.gates}
    most = sorted(weigh, key=lambda name: -np.abs(np.subtract(weigh[name], 1)).mean())
    expect(page.locator(".gate h3")).to_have_text([*most, "head"])
    expect(page.locator(".gate[open] h3")).to_have_text(most[:1])
    furthest = max(range(len(weigh[most[0]])), key=lambda channel: abs(weigh[most[0]][channel] - 1))
    expect(page.locator(".gate[open] .named button").first).to_have_text(
        f"channel {furthest} × {shown(weigh[most[0]][furthest])}"
    )
    weights = weigh["blocks.4.gate"]
    gate = page.locator(".gate").filter(has=page.get_by_role("heading", name="blocks.4.gate"))
    gate.locator("summary").click()
    strip = page.get_by_role("slider", name="Channels of blocks.4.gate")
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


def test_a_layer_is_chosen_on_the_map_by_keyboard_and_back_undoes_it(visit: Visit, client: httpx.Client) -> None:
    page = opened(visit, "/?sample=rocket&tab=network")
    expect(blocks(page)).to_have_count(1 + 18)  # the input, the stem, 16 blocks, the head
    inside = sum(each["name"].startswith("blocks.10") for each in client.get("/v1/models/lite0").json()["layers"])
    block(page, "head").focus()
    for _ in range(6):
        page.keyboard.press("ArrowLeft")
    expect(page.locator("#network-map .told-layer")).to_contain_text("blocks.10 InvertedResidual · 112 channels of 14")
    page.keyboard.press("Enter")
    expect(caption(page)).to_contain_text("at layer blocks.10")
    expect(page).to_have_url(re.compile(r"\?sample=rocket&layer=blocks\.10&tab=network$"))
    expect(block(page, "blocks.10")).to_be_focused()
    expect(block(page, "blocks.10")).to_have_attribute("aria-selected", "true")
    page.get_by_text(f"Layers inside blocks.10 ({inside})").click()
    page.get_by_role("option", name=re.compile(r"^blocks\.10\.gate ChannelAttention")).click()
    expect(caption(page)).to_contain_text("at layer blocks.10.gate")
    page.go_back()
    page.go_back()
    expect(caption(page)).to_contain_text("at layer head")


def test_feature_maps_of_more_layers_stand_from_shallow_to_deep(
    visit: Visit, client: httpx.Client, coffee: bytes
) -> None:
    page = opened(visit, "/?sample=coffee&layers=stem,head&tab=features")
    layers = page.get_by_role("listbox", name="Layers shown")
    expect(layers.get_by_role("option", selected=True)).to_have_count(2)
    layers.get_by_role("option", name=re.compile(r"^blocks\.7 ")).click()
    names = ["stem", "blocks.7", "head"]
    expect(page.locator(".grid h3")).to_have_text(names)
    maps = explained(client, "/v1/feature-maps", coffee, layers=",".join(names), view="whole").feature_maps
    assert maps
    for grid, layer in zip(page.locator(".grid").all(), maps, strict=True):
        expect(grid.locator(".channel strong")).to_have_text([str(channel) for channel in layer.channels])
        size = grid.locator(".picture").first.bounding_box()
        assert size
        assert size["width"] >= 96
    tile = page.get_by_role("button", name=f"Show over the photograph: head, channel {maps[2].channels[3]}")
    assert page.locator("[data-channel], .opens").count() == 0, "no atlas, no cards"
    expect(page.get_by_role("tab", name="Channel")).to_have_count(0)
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
    cams = explained(client, "/v1/grad-cam", cat, target=["tabby", "Egyptian cat"], view="whole").grad_cam
    assert cams
    one, other = ([value for row in cam.raw.values for value in row] for cam in cams)
    differences = [left - right for left, right in zip(one, other, strict=True)]
    for figure, values in zip(panel.locator("figcaption").all(), (one, other, differences), strict=True):
        expect(figure).to_contain_text(f"{shown(min(values))} to {shown(max(values))}")
    reach = shown(max(map(abs, one + other + differences)))
    expect(panel.locator(".ends")).to_have_text(f"against −{reach}for +{reach}")
    panel.get_by_role("button", name="Swap").click()
    expect(caption(page)).to_contain_text("“Egyptian cat”")
    difference = panel.locator("figcaption").last
    expect(difference).to_contain_text(f"Egyptian cat − tabby{shown(-max(differences))}")
    expect(difference).to_contain_text("On a scale of its own.")


def test_a_map_with_nothing_for_the_class_says_so(visit: Visit, client: httpx.Client, cat: bytes) -> None:
    targets = [list(range(n, n + 20)) for n in (400, 500)]
    cams = [explained(client, "/v1/grad-cam", cat, target=each).grad_cam for each in targets]
    negative = next(cam.target for group in cams for cam in group or () if cam.raw.all_negative)
    page = opened(visit, f"/?sample=cat&view=centre&target={negative.index}")
    expect(page.locator("#all-negative")).to_contain_text(f"No position speaks for “{negative.label}”")
    expect(classes(page).last).to_have_attribute("aria-pressed", "true")
    turned(page, "Network").get_by_label("Evidence against, too").check()
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
    page.get_by_label("Explain another class").fill("tabbyy")
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
        "&layers=stem,head&sort=weight&tab=network&lang=zh",
    )
    assert page.locator("html").get_attribute("lang") == "zh-Hans"
    chosen = {"网络": "lite0-plain", "方法": "grad-cam", "配色": "magma", "类别数": "3"}
    for label, value in chosen.items():
        expect(setting(page, label)).to_have_value(value)
    expect(block(page, "blocks.10")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_label("也显示反面证据")).to_be_checked()
    expect(caption(page)).to_contain_text("coffee mug")
    turned(page, "特征图")
    expect(page.locator(".grid h3")).to_have_text(["stem", "head"])
    turned(page, "注意力")
    expect(page.get_by_role("button", name="权重", exact=True)).to_have_attribute("aria-pressed", "true")
    turned(page, "答案")
    expect(page.get_by_role("region", name="为什么是这个而不是那个")).to_contain_text("espresso")
    page.get_by_role("button", name="English").click()
    expect(page.get_by_role("heading", name="What it recognises")).to_be_visible()
    expect(page).to_have_url(re.compile("lang=en"))
    page.reload()
    expect(caption(page)).to_contain_text("Where the network sees “coffee mug”, at layer blocks.10")


def test_the_recipe_runs_as_pasted(visit: Visit, cat: bytes, tmp_path: Path) -> None:
    name = """my "cat"; it's, a\\b.jpg"""
    (tmp_path / name).write_bytes(cat)
    page = opened(visit, "/?sample=coffee&top_k=2&colormap=magma&sort=effect&tab=export")
    page.locator("[data-choose]").first.set_input_files(FilePayload(name=name, mimeType="image/jpeg", buffer=cat))
    expect(page.locator(".code pre").last).to_contain_text("cat")
    check_recipe(page, tmp_path)
    opened(visit, "/?sample=cat&target=285&versus=281&layers=stem,head&tab=export")
    (empty := tmp_path / "empty").mkdir()
    check_recipe(page, empty)


def check_recipe(page: Page, folder: Path) -> None:
    curl, python = page.locator(".code pre").all_inner_texts()
    checked = curl.replace("curl -F", "curl --silent --show-error --fail-with-body -F")
    for command in (["bash", "-euo", "pipefail", "-c", checked], [sys.executable, "-c", python]):
        ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200, check=False)
        assert ran.returncode == 0, ran.stderr + ran.stdout
        assert "Egyptian cat" in ran.stdout


def test_a_superseded_request_is_given_up(visit: Visit) -> None:
    page = opened(visit, "/?sample=cat&tab=network")
    given_up: list[Request] = []
    page.on("requestfailed", lambda request: given_up.append(request))
    page.route("**/v1/explain?*layer=blocks.2*", lambda route: None)  # never answered
    block(page, "blocks.2").click()
    expect(page.locator("#status")).to_have_text("Computing …")
    block(page, "blocks.15").click()
    expect(caption(page)).to_contain_text("at layer blocks.15")
    expect(page.locator("#main")).to_have_attribute("aria-busy", "false")
    assert ["layer=blocks.2" in request.url for request in given_up] == [True]


def test_light_and_dark_can_be_chosen_and_stay_so(visit: Visit) -> None:
    page = visit.page
    page.emulate_media(color_scheme="light")
    opened(visit, "/")
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.get_by_role("button", name="Light or dark").click()
    dark = page.evaluate(background)
    assert dark != light
    page.reload()
    assert page.evaluate(background) == dark


def test_a_photograph_can_be_dropped_or_pasted(visit: Visit) -> None:
    page = opened(visit, "/?sample=rocket")
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
    buttons = opened(visit, "/").locator(".source .samples button")
    names = [button.get_attribute("data-key") for button in buttons.all()]
    assert sorted(map(str, names)) == sorted(path.stem for path in SAMPLES.glob("*.jpg"))
    assert all(photograph(str(name)) for name in names)


@pytest.mark.parametrize("size", [DESK, PHONE])
def test_a_cat_is_explained_on_the_first_screen(visit: Visit, size: ViewportSize) -> None:
    visit.page.set_viewport_size(size)
    page = opened(visit, "/")
    expect(caption(page)).to_contain_text("Egyptian cat")
    expect(page).to_have_url(re.compile(r"\?sample=cat$"))
    expect(page.locator("#says")).to_contain_text("not whether it is right")
    for part in (page.locator("#stage canvas"), caption(page), page.locator("#says"), classes(page).nth(2)):
        box = part.bounding_box()
        assert box
        assert box["y"] + box["height"] <= size["height"], part
    picture = page.locator("#stage canvas").bounding_box()
    assert picture
    assert picture["width"] > 0.45 * size["width"]


def test_a_tab_is_in_the_address_and_one_that_is_not_open_asks_for_nothing(visit: Visit) -> None:
    asked: list[str] = []
    visit.page.on("request", lambda request: asked.append(request.url) if request.method == "POST" else None)
    page = opened(visit, "/?sample=cat&trust=true&several=true&beside=coffee&scale=3:0")
    assert ["/v1/explain" in url for url in asked] == [True]
    page.get_by_role("tab", name="Answer").press("End")
    drawn(page)
    expect(page.get_by_role("tab", name="Export")).to_be_focused()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    drawn(page)
    assert [url for url in asked if "/v1/explain" not in url], "an open one asks"
    expect(page).to_have_url(re.compile("tab=attention"))
    page.reload()
    expect(page.get_by_role("tab", selected=True)).to_have_text("Attention")
    expect(drawn(page).locator(".sides canvas").first).to_be_visible()


def test_every_tab_is_accessible_and_the_keyboard_reaches_all_of_it(visit: Visit) -> None:
    page = opened(visit, "/?sample=cat&target=285&versus=281")
    missed = """(which) => {
        const visible = (each) => each.checkVisibility({visibilityProperty: true}) && !each.disabled;
        return [...document.querySelectorAll(which)].filter((each) => visible(each) && each.tabIndex >= 0
            && !window.reached.has(each)).map((each) => each.outerHTML);
    }"""
    page.evaluate("document.addEventListener('focusin', (event) => window.reached?.add(event.target))")
    for tab in TABS:
        turned(page, tab)
        for scheme in ("light", "dark"):
            assert complaints(page, scheme) == []
        page.evaluate("window.reached = new Set()")
        page.locator(".skip").focus()
        for _ in range(page.locator(PRESSED).count() + 10):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement === document.body"):
                break
        assert page.evaluate(missed, "a, button, input, select, summary, [tabindex]") == [], tab


def test_a_finger_finds_everything_on_a_phone(chromium: Browser, server: str) -> None:
    with chromium.new_context(
        base_url=server, locale="en-GB", viewport=PHONE, has_touch=True, is_mobile=True
    ) as context:
        page = opened(Visit(context.new_page()), "/?sample=cat&target=285&versus=281")
        small = """(which) => [...document.querySelectorAll(which)].filter((each) => each.checkVisibility()
            && !each.matches(".unseen, .skip, label:has(select, input:not([type=checkbox], [type=file]))")).filter(
            (each) => { const {width, height} = each.getBoundingClientRect(); return Math.min(width, height) < 43.9; }
        ).map((each) => each.outerHTML)"""
        for tab in TABS:
            turned(page, tab)
            assert page.evaluate(small, PRESSED) == [], tab
            assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"], tab


def test_the_whole_picture_is_seen_unless_another_view_is_chosen(visit: Visit) -> None:
    with visit.page.expect_request(re.compile("/v1/explain")) as asked:
        page = opened(visit, "/?sample=cat&tab=network")
    assert "view=whole" in asked.value.url
    expect(page.locator("#says")).to_contain_text("It saw the whole photograph.")
    expect(page.locator("#network-map")).to_contain_text("Here the heat map has 8 × 12 positions.")
    seen = page.get_by_role("group", name="What the network sees")
    with page.expect_request(re.compile("detail=320")):
        seen.get_by_label("Short side, pixels").select_option("320")
    expect(page).to_have_url(re.compile(r"\?sample=cat&detail=320&tab=network$"))
    with page.expect_request(re.compile("/v1/explain")) as asked:
        seen.get_by_role("button", name="Centre").click()
    assert "view" not in asked.value.url.partition("?")[2], "the API's own default"
    expect(page.locator("#legend")).to_contain_text("The white frame is what the network saw.")
    expect(page.locator("#says")).to_contain_text("It saw only the square in the middle.")
    expect(page).to_have_url(re.compile(r"\?sample=cat&view=centre&tab=network$"))
    expect(seen.get_by_role("button", name="Centre")).to_be_focused()


def test_a_picture_of_any_shape_is_seen_whole(visit: Visit) -> None:
    page = opened(visit, "/?sample=cat&tab=network")
    long = FilePayload(name="long.png", mimeType="image/png", buffer=encoded(np.full((40, 400, 3), 90, np.uint8)))
    page.locator("[data-choose]").set_input_files(long)
    expect(page.locator("#source-name")).to_contain_text("long.png")
    expect(page.get_by_role("button", name="Whole picture")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#problem")).to_be_empty()
    expect(page.locator("#says")).to_contain_text(re.compile(r"in \d+ parts; the numbers are means over them"))


def test_the_focus_stays_where_it_was_after_an_answer(visit: Visit) -> None:
    page = opened(visit, "/?sample=cat")
    classes(page).nth(1).press("Enter")
    expect(caption(page)).to_contain_text("“tiger cat”")
    expect(classes(page).nth(1)).to_be_focused()
    page.get_by_role("button", name="Compare with Egyptian cat").press("Enter")
    page.get_by_role("button", name="As one map").press("Enter")
    expect(caption(page)).to_contain_text("and not")
    assert page.evaluate("document.activeElement !== document.body"), "also where what was pressed is gone"
    method = setting(turned(page, "Network"), "Method")
    method.focus()
    method.select_option("hirescam")
    expect(page.locator("#about-method")).to_contain_text("HiResCAM")
    expect(method).to_be_focused()
