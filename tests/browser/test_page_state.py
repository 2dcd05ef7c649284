"""What the playground's address, controls and alert say, also after a refusal, and where a finger can reach."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, FilePayload, ViewportSize, expect

from tests.browser.visit import Visit, opened, turned

DESK = ViewportSize(width=1280, height=900)
PHONE = ViewportSize(width=390, height=844)


def forgive(visit: Visit, status: int) -> None:
    """The browser itself logs every status above 399: nothing else was logged."""
    assert visit.errors
    assert [error for error in visit.errors if str(status) not in error] == []
    visit.errors.clear()


@pytest.mark.parametrize("size", [DESK, PHONE])
def test_an_error_is_in_view_however_far_one_has_scrolled_until_it_is_closed(visit: Visit, size: ViewportSize) -> None:
    visit.page.set_viewport_size(size)
    page = opened(visit, "/?sample=cat&tab=what-if&beside=coffee")
    expect(page.locator("#beside figure")).to_have_count(3)
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    text = FilePayload(name="notes.txt", mimeType="text/plain", buffer=b"no photograph")
    page.locator("[data-choose]").last.set_input_files(text)
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("notes.txt: Unsupported media type")
    assert page.evaluate("scrollY") > 200
    box = alert.bounding_box()
    assert box
    assert box["y"] >= 0
    assert box["y"] + box["height"] < size["height"] / 2, "it leaves most of the page to be seen"
    page.get_by_role("button", name="Close this message").click()
    expect(page.locator("#problem")).to_be_empty()
    forgive(visit, 415)


def test_what_is_refused_is_in_neither_the_address_nor_the_next_question(visit: Visit) -> None:
    page = opened(visit, "/?sample=cat&target=282")
    page.get_by_label("Explain another class").fill("tabbyy")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("Unknown class 'tabbyy'")
    expect(page).to_have_url(re.compile(r"\?sample=cat&target=282$"))
    expect(page.get_by_label("Explain another class")).to_have_value("")
    forgive(visit, 422)
    turned(page, "Network").get_by_label("Evidence against, too").check()
    expect(page).to_have_url(re.compile(r"\?sample=cat&target=282&signed=true&tab=network$"))
    expect(page.locator("#problem")).to_be_empty()
    page.go_back()
    expect(page.get_by_label("Evidence against, too")).not_to_be_checked()
    expect(page).to_have_url(re.compile(r"\?sample=cat&target=282&tab=network$"))


def test_a_refused_photograph_gives_the_last_one_back(visit: Visit) -> None:
    page = opened(visit, "/?sample=cat")
    page.route(
        "**/v1/explain?*",
        lambda route: route.fulfill(
            status=413,
            content_type="application/problem+json",
            body='{"title": "Too large", "status": 413}',
        ),
        times=1,
    )
    page.get_by_role("button", name="Coffee").last.click()
    expect(page.get_by_role("alert")).to_contain_text("Too large")
    expect(page.locator("#source-name")).to_have_text("Cat")
    expect(page.locator("#caption")).to_contain_text("Egyptian cat")
    expect(page).to_have_url(re.compile(r"\?sample=cat$"))
    forgive(visit, 413)
    turned(page, "Network").get_by_label("Classes").select_option("3")
    turned(page, "Answer")
    expect(page.locator("#predictions .class")).to_have_count(3)
    expect(page.locator("#predictions .class").first).to_contain_text("Egyptian cat")


def test_an_address_with_a_refused_option_is_shown_without_it(visit: Visit) -> None:
    page = opened(visit, "/?sample=cat&target=tabbyy&layer=nowhere&colormap=magma")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text(re.compile("Unknown (class 'tabbyy'|layer 'nowhere')"))
    expect(alert).to_contain_text("The default is shown instead.")
    expect(page).to_have_url(re.compile(r"\?sample=cat&colormap=magma$"))
    expect(page.locator("#caption")).to_have_text("Where the network sees “Egyptian cat”, at layer head")
    forgive(visit, 422)
    page.locator("#predictions .class").filter(has_text="tabby").click()
    expect(page.locator("#caption")).to_contain_text("“tabby”")
    expect(page.locator("#problem")).to_be_empty()


def test_errors_are_in_the_visitors_language_and_name_what_is_allowed(visit: Visit) -> None:
    page = opened(visit, "/?sample=cat&lang=zh&colormap=turboo&tab=network")
    alert = page.get_by_role("alert")
    expect(alert.locator("strong")).to_have_text("选项无效")
    expect(alert.locator("[lang=en]")).to_contain_text("viridis")  # a detail that names what is allowed stays
    forgive(visit, 422)
    page.route(
        "**/v1/explain?*",
        lambda route: route.fulfill(
            status=429,
            content_type="application/problem+json",
            body='{"type": "urn:pellucid:problem:queue-full", "title": "Too much", "detail": "Wait.", "status": 429}',
        ),
        times=1,
    )
    page.get_by_label("类别数").select_option("3")
    expect(alert.locator("strong")).to_have_text("正在处理的请求太多")
    expect(alert).not_to_contain_text("Wait.")
    forgive(visit, 429)


def test_the_view_the_opacity_and_the_channels_are_in_the_address(visit: Visit) -> None:
    page = opened(visit, "/?sample=cat&tab=attention")
    page.get_by_role("slider", name="Opacity").fill("80")
    page.get_by_role("button", name="Mask").click()
    before = page.evaluate("history.length")
    gate = page.locator(".gate").filter(has=page.get_by_role("heading", name="blocks.4.gate"))
    gate.locator("summary").click()
    page.get_by_role("slider", name="Channels of blocks.4.gate").press("Home")
    expect(page).to_have_url(re.compile(r"\?sample=cat&tab=attention&show=mask&opacity=80&channels=blocks\.4\.gate:0$"))
    assert page.evaluate("history.length") == before, "one step back is another question, not another channel"
    page.reload()
    expect(gate.locator(".readout")).to_contain_text("channel 0 ·")
    expect(page.get_by_role("button", name="Mask")).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("slider", name="Opacity")).to_have_value("80")
    page.get_by_role("button", name="Overlay").click()
    expect(page).to_have_url(re.compile(r"\?sample=cat&tab=attention&opacity=80&channels=blocks\.4\.gate:0$"))
    turned(page, "Network").get_by_label("Classes").select_option("3")
    turned(page, "Attention")
    expect(gate.locator(".readout")).to_contain_text("channel 0 ·")


def test_a_finger_reaches_every_channel_and_is_not_told_to_drop(chromium: Browser, server: str) -> None:
    with chromium.new_context(
        base_url=server, locale="zh-CN", viewport=PHONE, has_touch=True, is_mobile=True
    ) as context:
        visit = Visit(context.new_page())
        page = visit.page
        opened(visit, "/?sample=cat&tab=attention&channels=blocks.4.gate:12")
        expect(page.get_by_text("拖到页面任意处")).to_be_hidden()
        gate = page.locator(".gate").filter(has=page.get_by_role("slider", name="blocks.4.gate 的通道"))
        after = page.get_by_role("button", name="blocks.4.gate 的通道：下一个")
        box = after.bounding_box()
        assert box
        assert min(box["width"], box["height"]) >= 44
        after.tap()
        expect(gate.locator(".readout")).to_contain_text("通道 13 ·")
        page.get_by_role("button", name="blocks.4.gate 的通道：上一个").tap()
        page.get_by_role("button", name="blocks.4.gate 的通道：上一个").tap()
        expect(page).to_have_url(re.compile("channels=blocks.4.gate:11$"))
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
        assert visit.errors == []


def test_numbers_have_one_minus_sign(visit: Visit) -> None:
    page = opened(visit, "/?sample=cat")
    module = f"{visit.page.url.split('?')[0]}assets/playground/i18n.js"
    script = "async (module) => { const {signed} = await import(module); return [-9.1e-4, 9.1e-4].map(signed); }"
    assert page.evaluate(script, module) == ["−9.1e−4", "+9.1e−4"]
