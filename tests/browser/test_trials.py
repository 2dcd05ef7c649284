"""What the playground tries out: methods, trust in a map, other weights of channels, another picture or network."""

from __future__ import annotations

import re
from typing import Any, cast

import httpx
import pytest
from playwright.sync_api import Locator, Page, Response, expect

from tests.browser.visit import Visit, block, opened, turned
from tests.support import SAMPLES, explained, present


def shown(value: float) -> str:
    """A number as the page writes it."""
    if value == 0:
        return "0"
    if abs(value) < 0.001:
        return re.sub("e-0*", "e-", f"{value:.1e}").replace("-", "−")
    return f"{value:.{4 if abs(value) < 0.1 else 3 if abs(value) < 10 else 1}f}".replace("-", "−")


def signed(value: float) -> str:
    return f"+{shown(value)}" if value > 0 else shown(value)


def setting(page: Page, label: str) -> Locator:
    return page.locator("#controls").get_by_role("combobox", name=label, exact=True)


def options(select: Locator) -> list[str]:
    return [str(option.get_attribute("value")) for option in select.locator("option").all()]


def hasten(page: Page) -> None:
    """Let the service try maps in fewer steps than the page leaves it to: its answer is as real, and sooner there."""
    few = "trust_steps=3&trust_maps=4"
    page.route("**/v1/grad-cam?*trust=true*", lambda route: route.continue_(url=f"{route.request.url}&{few}"))


def result(response: Response) -> dict[str, Any]:
    """What the service answered for the one image."""
    (found,) = response.json()["results"]
    return cast(dict[str, Any], found)


def test_the_methods_of_a_place_are_offered_with_what_they_need(visit: Visit, client: httpx.Client) -> None:
    details = client.get("/v1/models/lite0").json()["method_details"]
    page = opened(visit, "/?sample=cat&layer=blocks.10&tab=network")
    method = setting(page, "Method")
    assert options(method) == [each["name"] for each in details if "layers" in each["at"] or not each["at"]]
    method.select_option("best")
    expect(page.locator("#caption")).to_contain_text("at layer head + blocks.10 + blocks.4")
    block(page, "blocks.10").click()
    expect(page.locator("#caption")).to_contain_text("at layer blocks.10")
    expect(method).to_have_value("grad-cam")
    method.select_option("layercam")
    detail = next(each for each in details if each["name"] == "layercam")
    about = page.locator("#about-method")
    expect(about).to_contain_text(f"{detail['title']} – {detail['formula']} ({detail['paper']})")
    expect(about).to_contain_text("Needs one gradient, from the class back to the layer.")
    page.route("**/v1/explain?*", lambda route: route.continue_(url=f"{route.request.url}&samples=2"))  # to be quick
    with page.expect_response(re.compile("/v1/explain")) as answer:
        block(page, "pixels").click()
    pixels = [each["name"] for each in details if "pixels" in each["at"]]
    assert f"method={pixels[0]}" in answer.value.url, "a method that is not offered there gives way to one that is"
    expect(page.locator("#caption")).to_contain_text("at layer pixels")
    assert options(setting(page, "Method")) == [*pixels, "best"]
    expect(page).to_have_url(re.compile(rf"layer=pixels&method={pixels[0]}&tab=network$"))


def test_all_methods_of_one_gradient_stand_side_by_side(visit: Visit, client: httpx.Client) -> None:
    details = client.get("/v1/models/lite0").json()["method_details"]
    page = opened(visit, "/?sample=cat&layer=blocks.10&tab=trust")
    panel = page.get_by_role("region", name="The same by other methods")
    panel.get_by_role("button", name="Show all methods").click()
    cheap = [each["name"] for each in details if each["needs"] in ("activation", "gradient") and each["at"]]
    expect(panel.locator(".name")).to_have_text(cheap)
    expect(panel.get_by_role("button", pressed=True)).to_contain_text("grad-cam")
    panel.get_by_role("button", name="hirescam").click()
    expect(page).to_have_url(re.compile(r"layer=blocks\.10&method=hirescam&tab=trust&several=true$"))
    expect(panel.get_by_role("button", pressed=True)).to_contain_text("hirescam")
    expect(setting(turned(page, "Network"), "Method")).to_have_value("hirescam")


def test_a_cost_is_that_of_this_server_or_says_whose_it_is(visit: Visit) -> None:
    engine = "another engine, bf16"
    cost = {"default_layer": 1.25, "middle_layer": None, "engine": engine, "machine": "a desk", "date": "2026-11-24"}

    def costly(route: Any) -> None:
        body = route.fetch().json()
        for each, here in zip(body["method_details"], [{"times": 1.13, "ms": 7.2}, None, None], strict=False):
            each["cost_here"] = here
            each["cost"] = cost
        body["method_details"][2]["cost"] = None
        route.fulfill(json=body)

    visit.page.route("**/v1/models/lite0", costly)
    page = opened(visit, "/?sample=cat&tab=network")
    method, about = setting(page, "Method"), page.locator("#about-method")
    names = method.locator("option")
    expect(names.first).to_have_text("grad-cam – 1.13 × a prediction")
    expect(about).to_contain_text("Takes 1.13 times as long as a prediction: 7.2 ms, measured on this server.")
    expect(names.nth(1)).to_have_text("hirescam")  # in the list it would look like this server's own
    method.select_option("hirescam")
    expect(about).to_contain_text(f"Not measured on this server yet. On another (a desk; {engine}; 2026-11-24) it took")
    method.select_option("grad-cam-plus-plus")
    expect(about).to_contain_text("Its time was not measured yet for this network.")


def test_a_class_is_explained_against_another(visit: Visit, client: httpx.Client, cat: bytes) -> None:
    page = opened(visit, "/?sample=cat&target=281&versus=285")
    page.get_by_role("button", name="As one map").click()
    expect(page.locator("#caption")).to_have_text("Where “tabby” is seen and not “Egyptian cat”, at layer head")
    cams = explained(client, "/v1/grad-cam", cat, target="tabby", against="Egyptian cat", view="whole").grad_cam
    assert cams
    raw = cams[0].raw
    expect(page.locator("#legend")).to_contain_text(f"from {shown(raw.min)} to {shown(raw.max)}")
    expect(page).to_have_url(re.compile(r"target=281&against=285$"))
    field = page.get_by_role("combobox", name="Explain the difference from")
    expect(field).to_have_value("Egyptian cat")
    field.fill("lynx")
    field.press("Enter")
    expect(page.locator("#caption")).to_contain_text("“lynx”")
    page.locator("#predictions .class").filter(has_text="lynx").click()
    expect(page.locator("#caption")).to_have_text("Where the network sees “lynx”, at layer head")


def test_a_map_is_tried_when_asked_for_and_the_cost_is_said_before(visit: Visit, client: httpx.Client) -> None:
    passes = client.get("/v1/models/lite0").json()["trust"]["passes"]
    page = opened(visit, "/?sample=cat&tab=trust")
    hasten(page)
    panel = page.get_by_role("region", name="How far to trust the map")
    expect(panel).to_contain_text(f"{passes} runs of the network")
    with page.expect_response(re.compile("trust=true")) as answer:
        panel.get_by_role("button", name="Test the map").click()
        expect(panel).to_contain_text("Testing:")
    trust = result(answer.value)["grad_cam"][0]["trust"]
    expect(panel.locator(".advantage")).to_have_text(signed(trust["advantage"]))
    expect(panel).to_contain_text(f"It beats {trust['beaten']} of {trust['random_maps']}.")
    for row, curve in zip(panel.locator("tbody tr").all(), trust["curves"], strict=True):
        auc = curve["auc"]
        random = sum(auc["random"]) / len(auc["random"])
        expect(row.locator("td")).to_have_text([shown(value) for value in (auc["map"], auc["gaussian"], random)])
    for chart, curve in zip(panel.locator(".chart").all(), trust["curves"], strict=True):
        for line in ("map", "gaussian", "random"):
            path = chart.locator(f"path.{line}").get_attribute("d")
            assert path
            assert len(re.findall("[ML]", path)) == len(curve["fractions"])
    expect(page).to_have_url(re.compile(r"\?sample=cat&tab=trust&trust=true$"))
    setting(turned(page, "Network"), "Classes").select_option("3")
    turned(page, "Answer")
    expect(page.locator("#predictions .class")).to_have_count(3)
    turned(page, "Trust")
    expect(panel.locator(".advantage")).to_have_text(signed(trust["advantage"]))  # the same map: nothing is asked again
    turned(page, "Answer").locator("#predictions .class").nth(1).click()
    expect(page).not_to_have_url(re.compile("trust=true"))
    turned(page, "Trust")
    expect(panel.get_by_role("button", name="Test the map")).to_be_visible()


def test_a_trial_can_be_stopped_and_one_that_costs_too_much_says_so(visit: Visit) -> None:
    page = opened(visit, "/?sample=cat&tab=trust")
    panel = page.get_by_role("region", name="How far to trust the map")
    page.route("**/v1/grad-cam?*trust=true*", lambda route: None, times=1)  # never answered
    panel.get_by_role("button", name="Test the map").click()
    panel.get_by_role("button", name="Stop").click()
    expect(panel.get_by_role("button", name="Test the map")).to_be_visible()
    problem = '{"type": "urn:pellucid:problem:too-costly", "title": "Too much for the deadline", "status": 422}'
    page.route(
        "**/v1/grad-cam?*trust=true*",
        lambda route: route.fulfill(status=422, content_type="application/problem+json", body=problem),
        times=1,
    )
    panel.get_by_role("button", name="Test the map").click()
    expect(page.get_by_role("alert")).to_contain_text("Too much for the deadline")
    expect(panel.get_by_role("button", name="Test the map")).to_be_visible()
    expect(page).to_have_url(re.compile(r"\?sample=cat&tab=trust$"))
    assert [error for error in visit.errors if "422" not in error] == []
    visit.errors.clear()  # the browser itself logs every status above 399


def test_a_channel_is_muted_and_the_answer_follows_and_is_in_the_address(visit: Visit) -> None:
    page = opened(visit, "/?sample=cat&gate=blocks.15.gate&tab=what-if")
    panel = page.get_by_role("region", name="What if")
    rows = panel.locator(".channels li")
    with page.expect_response(re.compile("rank=true")) as answer:
        panel.get_by_role("button", name="Which channels mattered?").click()
    ranking = result(answer.value)["what_if"]["ranking"]
    for row, each in zip(rows.all(), ranking["most"], strict=False):
        expect(row).to_contain_text(f"channel {each['channel']}")
        expect(row).to_contain_text(f"muted alone {signed(each['muted'])}")
    expect(panel).to_contain_text(f"gradient × activation {signed(ranking['agreement']['gradient_activation'])}")
    strongest = ranking["most"][0]["channel"]
    with page.expect_response(re.compile("scale=")) as answer:
        panel.get_by_role("button", name=f"Mute channel {strongest}", exact=True).click()
    found = result(answer.value)["what_if"]
    assert found["edit"]["channels"] == [{"channel": strongest, "factor": 0.0}]
    (change,) = found["targets"]
    assert change["change"] == pytest.approx(ranking["most"][0]["muted"], rel=1e-3), "alone, as it was measured"
    expect(panel.locator(".results")).to_contain_text(f"({signed(change['change'])})")
    expect(panel.locator("figcaption")).to_have_count(3)
    expect(page).to_have_url(
        re.compile(rf"\?sample=cat&tab=what-if&gate=blocks\.15\.gate&scale={strongest}:0&rank=true$")
    )
    page.reload()
    slider = panel.get_by_role("slider", name=f"Factor of channel {strongest}", exact=True)
    expect(slider).to_have_value("0")
    expect(panel.locator(".results")).to_contain_text(f"({signed(change['change'])})")
    expect(panel).to_contain_text("muted alone")
    slider.press("ArrowRight")
    slider.press("ArrowRight")
    expect(page).to_have_url(re.compile(rf"scale={strongest}:0\.1&"))
    expect(slider).to_be_focused()
    expect(slider).to_have_attribute("aria-valuetext", "× 0.10")
    panel.get_by_role("button", name="Reset").click()
    expect(panel.locator(".results")).to_be_empty()
    expect(slider).to_have_value("1")
    expect(page).not_to_have_url(re.compile("scale"))


def test_only_the_last_position_of_a_slider_is_answered(visit: Visit) -> None:
    page = opened(visit, "/?sample=cat&tab=what-if")
    panel = page.get_by_role("region", name="What if")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "what-if" in request.url else None)
    slider = panel.get_by_role("slider").first
    for _ in range(12):
        slider.press("ArrowLeft")
    expect(panel.locator("figcaption")).to_have_count(3)
    assert len(asked) < 12, "a slider that moves asks nothing"
    expect(page).to_have_url(re.compile(r"scale=\d+:0\.4$"))


def test_another_photograph_and_another_network_stand_beside_the_view(
    visit: Visit, client: httpx.Client, cat: bytes, coffee: bytes
) -> None:
    page = opened(visit, "/?sample=cat&target=285&tab=what-if")
    panel = page.get_by_role("region", name="Side by side")
    panel.get_by_role("button", name="Beside: Coffee").click()
    expect(panel.locator("figcaption")).to_have_count(3)
    cams = [explained(client, "/v1/grad-cam", image, target="285", view="whole").grad_cam for image in (cat, coffee)]
    expect(panel.locator(".pair")).to_contain_text("espresso")
    one, other = ([value for found in each or () for row in found.raw.values for value in row] for each in cams)
    change = [right - left for left, right in zip(one, other, strict=True)]
    for figure, values in zip(panel.locator("figcaption").all(), (one, other, change), strict=True):
        expect(figure).to_contain_text(f"{shown(min(values))} to {shown(max(values))}")
    expect(page).to_have_url(re.compile(r"target=285&tab=what-if&beside=coffee$"))
    page.reload()
    expect(panel.locator("figcaption").last).to_contain_text("Coffee − Cat")
    panel.get_by_role("button", name="Beside: Coffee").click()
    expect(panel.locator("figcaption")).to_have_count(0)
    panel.get_by_label("By network").select_option("lite0-plain")
    expect(panel.locator("figcaption").last).to_contain_text("lite0-plain − lite0")
    plain = explained(client, "/v1/predict", cat, model="lite0-plain", view="whole").predictions
    assert plain
    expect(panel.locator(".pair > div").last.locator("li span").first).to_have_text(
        f"{100 * present(plain[0].probability):.1f} %"
    )
    panel.locator("input[type=file]").set_input_files(SAMPLES / "rocket.jpg")
    expect(panel.locator("figcaption").last).to_contain_text("rocket.jpg, lite0-plain − Cat")
    expect(page).to_have_url(re.compile(r"target=285&tab=what-if&beside_model=lite0-plain$"))


def test_maps_that_are_stretched_have_no_common_scale(visit: Visit) -> None:
    page = opened(visit, "/?sample=cat&target=281&versus=285&method=best&tab=what-if&beside=coffee")
    expect(page.locator("#beside .results")).to_contain_text("its maps have no common scale")
    expect(page.locator("#beside .pair")).to_contain_text("espresso")
    turned(page, "Answer")
    expect(page.locator("#compare")).to_contain_text("its maps have no common scale")
    expect(page.locator(".trio")).to_have_count(0)
