"""The OpenAPI document is valid and leaves nothing undescribed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from service.config import Settings
from tests.support import ROUTES


@pytest.fixture(scope="module")
def document(client: httpx.Client) -> dict[str, Any]:
    response = client.get("/openapi.json")
    assert response.status_code == 200
    return dict(response.json())


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield f"{method.upper()} {path}", operation


def _properties(node: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field of every schema, wherever it stands."""
    if isinstance(node, list):
        for index, entry in enumerate(node):
            yield from _properties(entry, f"{where}[{index}]")
    if isinstance(node, dict):
        fields = node.get("properties")
        if isinstance(fields, dict):
            yield from ((f"{where}.{name}", field) for name, field in fields.items())
        for key, entry in node.items():
            yield from _properties(entry, f"{where}/{key}")


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    OpenAPIV31SpecValidator(document).validate()


def test_every_route_is_documented(document: dict[str, Any]) -> None:
    assert {name for name, _ in _operations(document)} == {
        *(f"POST {route}" for route in ROUTES),
        "POST /v1/compare",
        "GET /v1/models",
        "GET /v1/models/{name}",
        "GET /v1/models/{name}/layers/{layer}/channels",
        "GET /v1/models/{name}/layers/{layer}/channels/{channel}",
        "POST /v1/models/{name}:predict",
        "POST /v1/models/{name}:explain",
        "GET /v2",
        "GET /v2/health/live",
        "GET /v2/health/ready",
        "GET /v2/models/{name}",
        "GET /v2/models/{name}/ready",
        "POST /v2/models/{name}/infer",
        "POST /predictions/{name}",
        "POST /explanations/{name}",
        "GET /livez",
        "GET /readyz",
        "GET /metrics",
    }


def test_every_operation_is_described(document: dict[str, Any]) -> None:
    for name, operation in _operations(document):
        assert operation.get("summary"), name
        assert operation.get("description"), name
        assert operation.get("tags"), name


def test_every_parameter_is_described(document: dict[str, Any]) -> None:
    for name, operation in _operations(document):
        for parameter in operation.get("parameters", []):
            assert parameter.get("description"), f"{name} {parameter['name']}"


def test_every_response_and_its_headers_are_described(document: dict[str, Any]) -> None:
    for name, operation in _operations(document):
        for status, response in operation["responses"].items():
            assert response.get("description"), f"{name} {status}"
            for header, stated in response.get("headers", {}).items():
                assert stated.get("description"), f"{name} {status} {header}"


def test_every_schema_and_each_of_its_fields_is_described(document: dict[str, Any]) -> None:
    for name, schema in document["components"]["schemas"].items():
        assert schema.get("description"), name
    fields = list(_properties(document, ""))
    assert len(fields) > 100
    for name, field in fields:
        assert field.get("description"), name


@pytest.mark.parametrize("route", ROUTES)
def test_a_post_route_states_its_three_kinds_of_body_with_their_options(document: dict[str, Any], route: str) -> None:
    operation = document["paths"][route]["post"]
    content = operation["requestBody"]["content"]
    assert set(content) == {"multipart/form-data", "image/*", "application/octet-stream", "application/json"}
    in_query = {parameter["name"] for parameter in operation["parameters"]}
    in_json = set(content["application/json"]["schema"]["properties"])
    assert in_json == in_query | {"images"}


@pytest.mark.parametrize("route", ROUTES)
def test_every_error_is_stated_as_a_problem_with_an_example(document: dict[str, Any], route: str) -> None:
    responses = document["paths"][route]["post"]["responses"]
    errors = {int(status): response for status, response in responses.items() if status != "200"}
    assert set(errors) == {400, 401, 406, 413, 415, 422, 429, 500, 503, 504}
    for status, response in errors.items():
        content = response["content"]["application/problem+json"]
        assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
        assert content["examples"]
        for example in content["examples"].values():
            assert example["value"]["status"] == status
    for status in (429, 503):
        assert "Retry-After" in errors[status]["headers"]


def test_no_error_is_stated_that_is_never_sent(document: dict[str, Any]) -> None:
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_a_route_with_pictures_states_their_types(document: dict[str, Any]) -> None:
    for route in ROUTES:
        stated = set(document["paths"][route]["post"]["responses"]["200"]["content"])
        pictures = set() if route in ("/v1/predict", "/v1/channels") else {"image/png", "image/webp"}
        pictures |= {"image/svg+xml"} if route in ("/v1/explain", "/v1/what-if") else set()
        numbers = {"application/x-npz"} if route == "/v1/grad-cam" else set()
        assert stated == {"application/json"} | pictures | numbers


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_described(name: str) -> None:
    assert Settings.model_fields[name].description
