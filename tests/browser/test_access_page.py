"""The playground of a service that asks for a key."""

from __future__ import annotations

from playwright.sync_api import Browser, expect

from service.http.access import new_key
from tests.browser.visit import Visit, drawn
from tests.support import LIGHT, serving

KEY, ENTRY = new_key()


def test_the_playground_asks_for_the_key_and_keeps_it_for_the_tab_alone(chromium: Browser) -> None:
    with (
        serving(**LIGHT, PELLUCID_API_KEYS=ENTRY, PELLUCID_TIMEOUT_MS="200000") as server,
        chromium.new_page(base_url=server.url, locale="en-GB") as page,
    ):
        visit = Visit(page)
        page.goto("/?sample=cat&tab=export")
        problem = page.locator("#problem")
        expect(problem).to_contain_text("A key is needed")
        field = problem.get_by_label("API key")
        field.fill("not-" + KEY)
        field.press("Enter")
        expect(problem).to_contain_text("The key is wrong")
        field.fill(KEY)
        problem.get_by_role("button", name="Use this key").click()
        expect(page.locator("#caption")).to_contain_text("Egyptian cat")
        expect(problem).to_be_empty()
        page.reload()
        expect(page.locator("#caption")).to_contain_text("Egyptian cat")
        curl, python = drawn(page).locator(".code pre").all_inner_texts()
        assert "-H 'X-API-Key: YOUR_KEY'" in curl
        assert 'headers={"X-API-Key": "YOUR_KEY"}' in python
        assert KEY not in page.content()
        assert KEY not in page.url
        assert page.evaluate("localStorage.length") == 0
        assert visit.refused == []
        # Nothing but the refusals themselves, which the browser notes: the page's policy stopped nothing.
        assert visit.errors
        assert all("401" in error for error in visit.errors)
