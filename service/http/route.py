"""A route that takes images and options: FastAPI documents it, and its options are read once for each query."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import lru_cache
from typing import Any, Final
from urllib.parse import parse_qsl

from fastapi.routing import APIRoute
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from pellucid.parts.option_types import Options, invalid

# Callers repeat a few queries; a long one is likely to be the only one of its kind, and not worth its memory.
_KEPT: Final = 1024
_LONGEST_KEPT: Final = 256


class OptionsRoute(APIRoute):
    """A route with an endpoint ``(request, options) -> Response``, where ``options`` is a model of query parameters.

    What its path names comes after them, as text.

    Does what FastAPI does for such a signature, without resolving dependencies anew for each request.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        (parameter,) = self.dependant.query_params
        kind = parameter.field_info.annotation
        assert isinstance(kind, type)
        assert issubclass(kind, Options)
        endpoint = self.endpoint

        async def handle(request: Request) -> Response:
            query: bytes = request.scope["query_string"]
            read = _cached if len(query) <= _LONGEST_KEPT else parse
            response: Response = await endpoint(request, read(kind, query), **request.path_params)
            return response

        return handle


def parse(kind: type[Options], query: bytes) -> Options:
    """The options in a query string. Raises InvalidOption."""
    given = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    kind.take_one(given)
    values: dict[str, Any] = {}
    for name, value in given:
        field = kind.model_fields.get(name)
        if field is not None and field.default_factory is not None:
            values.setdefault(name, []).append(value)
        else:
            values[name] = value
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise invalid(error.errors(include_url=False, include_context=False)) from error


_cached = lru_cache(_KEPT)(parse)
