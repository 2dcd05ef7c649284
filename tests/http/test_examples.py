"""The OpenAPI document's examples are what the service answers."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from pellucid.schemas import Reply
from service.http.openapi import examples
from tests.support import REPOSITORY, ROUTES, difference, photograph


@pytest.mark.parametrize("route", ROUTES)
def test_a_recorded_example_is_what_the_service_answers(route: str, client: httpx.Client) -> None:
    recorded = examples()[route]
    Reply.model_validate(recorded["reply"])
    name = recorded["image"]
    answered = client.post(
        route, params=recorded["query"], files={"images": (name, photograph(name.removesuffix(".jpg")))}
    ).json()
    assert difference(recorded["reply"]["results"], answered["results"]) is None


@pytest.mark.parametrize("route", ROUTES)
def test_the_openapi_document_shows_the_recorded_example(route: str, client: httpx.Client) -> None:
    operation = client.get("/openapi.json").json()["paths"][route]["post"]
    shown = operation["responses"]["200"]["content"]["application/json"]["example"]
    assert shown == without_nulls(examples()[route]["reply"])
    for content_type in ("multipart/form-data", "application/json"):
        assert content_type in operation["requestBody"]["content"]


def without_nulls(value: Any) -> Any:
    """FastAPI leaves out of its document what is null."""
    if isinstance(value, dict):
        return {key: without_nulls(entry) for key, entry in value.items() if entry is not None}
    return [without_nulls(entry) for entry in value] if isinstance(value, list) else value


def test_the_readme_shows_the_recorded_reply() -> None:
    readme = (REPOSITORY / "README.md").read_text("utf-8")
    shown = json.loads(readme.partition("```json\n")[2].partition("```")[0])
    assert shown == examples()["/v1/predict"]["reply"]
