"""The docs in a real browser."""

from __future__ import annotations

import re

from playwright.sync_api import Locator, Page, expect

from tests.browser.visit import Visit
from tests.support import ROUTES, SAMPLES


def _operation(route: str) -> str:
    """The selector of a route's block in Swagger UI."""
    name = route.rpartition("/")[2].replace("-", "_")
    tag = "predict" if name == "predict" else "explain"
    return f"#operations-{tag}-{name}"


def _tried(page: Page, route: str) -> tuple[Locator, Locator]:
    """The open form of a route, and the table for its answer."""
    block = page.locator(_operation(route))
    block.locator(".opblock-summary-control").click()
    block.get_by_role("button", name="Try it out").click()
    return block, block.locator(".live-responses-table")


def test_swagger_ui_shows_every_route_and_tries_out_a_photograph_and_the_json_example(visit: Visit) -> None:
    """By the route with all options; that the document describes the others is tests/http/test_openapi.py's."""
    visit.page.goto("/docs")
    expect(visit.page.get_by_role("heading", name="Pellucid")).to_be_visible()
    for route in ROUTES:
        block = visit.page.locator(_operation(route))
        expect(block).to_be_visible()
        expect(block).to_contain_text(re.compile(route))
    block, answer = _tried(visit.page, "/v1/explain")
    block.locator("input[type=file]").first.set_input_files(SAMPLES / "cat.jpg")
    block.get_by_role("button", name="Execute").click()
    expect(answer.locator(".response-col_status").last).to_contain_text("200")
    expect(answer).to_contain_text('"filename": "cat.jpg"')
    expect(answer).to_contain_text("Egyptian cat")
    block, answer = _tried(visit.page, "/v1/predict")
    block.get_by_label("Request content type").select_option("application/json")
    block.get_by_role("button", name="Execute").click()
    expect(answer.locator(".response-col_status").last).to_contain_text("200")
    expect(answer).to_contain_text('"filename": "dot.png"')


def test_redoc_shows_every_route(visit: Visit) -> None:
    visit.page.goto("/redoc")
    for title in ("The most probable classes", "Where the evidence for a class lies"):
        expect(visit.page.get_by_role("heading", name=title).first).to_be_visible()  # protocols have headings like it
    for route in ROUTES:
        expect(visit.page.get_by_text(route, exact=True).locator("visible=true").first).to_be_visible()
